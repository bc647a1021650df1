use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::storage::{Batch, Space};

const ID: u64 = 0x0123_4567_89ab_cdef;

const ON_DISK: [EngineKind; 2] = [EngineKind::Fjall, EngineKind::Sled];

fn open(path: &Path) -> Result<DataDir, DataDirError> {
    open_with(EngineKind::Fjall, path)
}

fn open_with(kind: EngineKind, path: &Path) -> Result<DataDir, DataDirError> {
    DataDir::open(path, "node-1", kind, || ID)
}

fn reopen(kind: EngineKind, path: &Path) -> Result<DataDir, DataDirError> {
    DataDir::open(path, "node-1", kind, || unreachable!("the store has an id"))
}

/// A directory whose `store.toml` says `text`.
fn with_store_file(text: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(STORE_FILE), text).unwrap();
    directory
}

#[test]
fn a_store_keeps_its_id_and_its_data() {
    ON_DISK.into_iter().for_each(keeps_its_id_and_its_data);
}

fn keeps_its_id_and_its_data(kind: EngineKind) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    let mut data = open_with(kind, &path).unwrap();
    assert_eq!(data.store_id(), ID);
    let mut batch = Batch::new();
    batch.put(Space::Meta, "k", "v");
    data.engine(EngineOptions::default()).unwrap().apply(batch).unwrap();
    drop(data);

    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let mut data = reopen(kind, &path).unwrap();
    assert_eq!(data.store_id(), ID);
    let engine = data.engine(EngineOptions::default()).unwrap();
    assert_eq!(engine.get(Space::Meta, b"k").unwrap().unwrap(), "v");
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    fs::write(directory.path().join("node.toml"), "").unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("holds no store, but \"node.toml\""), "{error}");
    assert!(!directory.path().join(STORE_FILE).exists());

    fs::remove_file(directory.path().join("node.toml")).unwrap();
    open(directory.path()).unwrap();
}

#[test]
fn a_second_process_is_told_who_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let _data = open(directory.path()).unwrap();
    let error = open(directory.path()).unwrap_err();
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    assert!(matches!(error, DataDirError::InUse { .. }));
}

#[test]
fn every_power_cut_while_a_store_is_made_is_recovered_from() {
    ON_DISK.into_iter().for_each(power_cuts_are_recovered_from);
}

fn power_cuts_are_recovered_from(kind: EngineKind) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    // The directory and the lock are there, and a draft of store.toml.
    fs::write(path.join(LOCK_FILE), "1\n").unwrap();
    fs::write(path.join("store.toml.tmp"), "form").unwrap();
    drop(open_with(kind, path).unwrap());
    // store.toml is there, and half of an engine.
    let half = path.join(format!("{kind}.creating"));
    fs::create_dir(&half).unwrap();
    fs::write(half.join("0.jnl"), "").unwrap();
    fs::write(half.join("mark"), "").unwrap();
    drop(reopen(kind, path).unwrap().engine(EngineOptions::default()).unwrap());
    // The engine is there, but store.toml does not know it yet.
    let mut data = reopen(kind, path).unwrap();
    data.store.state = StoreState::Creating;
    data.store.write(path).unwrap();
    drop(data);
    reopen(kind, path).unwrap().engine(EngineOptions::default()).unwrap();
    assert_eq!(reopen(kind, path).unwrap().store.state, StoreState::Ready);
}

#[test]
fn half_a_store_is_refused() {
    ON_DISK.into_iter().for_each(half_of_it_is_refused);
}

fn half_of_it_is_refused(kind: EngineKind) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    drop(open_with(kind, path).unwrap().engine(EngineOptions::default()).unwrap());
    fs::rename(path.join(STORE_FILE), path.join("aside")).unwrap();
    assert!(matches!(open_with(kind, path), Err(DataDirError::Missing { .. })));
    fs::rename(path.join("aside"), path.join(STORE_FILE)).unwrap();
    fs::remove_dir_all(path.join(kind.name())).unwrap();
    let refused = reopen(kind, path).unwrap().engine(EngineOptions::default());
    assert!(matches!(refused.map(drop), Err(DataDirError::Missing { .. })));
}

#[test]
fn a_directory_of_another_node_or_engine_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let other = DataDir::open(directory.path(), "node-2", EngineKind::Fjall, || ID);
    assert!(matches!(other, Err(DataDirError::OtherNode { found, .. }) if found == "node-1"));
    for wanted in [EngineKind::Memory, EngineKind::Sled] {
        let other = DataDir::open(directory.path(), "node-1", wanted, || ID);
        assert!(matches!(other, Err(DataDirError::OtherEngine { found, .. }) if found == "fjall"));
    }
}

#[test]
fn another_format_is_told_from_a_damaged_file() {
    let newer = with_store_file(&format!("format = {}\nanything = [1]\n", FORMAT_VERSION + 1));
    let error = open(newer.path()).unwrap_err();
    let found_newer = |found| found == FORMAT_VERSION + 1;
    assert!(
        matches!(error, DataDirError::NewerFormat { found, .. } if found_newer(found)),
        "{error}"
    );
    let older = with_store_file(&format!("format = {}\nanything = [1]\n", FORMAT_VERSION - 1));
    let error = open(older.path()).unwrap_err();
    let found_older = |found| found == FORMAT_VERSION - 1;
    assert!(
        matches!(error, DataDirError::OlderFormat { found, .. } if found_older(found)),
        "{error}"
    );
    assert!(!error.is_damage(), "no rebuild may set it aside");
    let whole = format!(
        "format = {FORMAT_VERSION}\nnode = \"node-1\"\nstore_id = \"0123456789abcdef\"\n\
         engine = \"fjall\"\nstate = \"ready\"\n"
    );
    assert!(open(with_store_file(&whole).path()).is_ok());
    let damaged = [
        String::new(),
        "format".to_owned(),
        format!("format = {FORMAT_VERSION}"),
        whole.replace(&format!("= {FORMAT_VERSION}"), "= 0"),
        whole.replace("0123456789abcdef", "+123456789abcdef"),
        whole.replace("ready", "half"),
        format!("{whole}more = 1\n"),
    ];
    for text in damaged {
        let error = open(with_store_file(&text).path()).unwrap_err();
        assert!(matches!(error, DataDirError::Malformed { .. }), "{text}: {error}");
    }
}

#[test]
fn a_file_is_no_directory() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path(), &file.path().join("below")] {
        let error = open(path).unwrap_err();
        assert!(matches!(error, DataDirError::NotADirectory { .. }), "{error}");
    }
}

#[test]
fn a_refusal_of_permission_has_its_own_error() {
    let error = refused(Path::new("data"))(io::ErrorKind::PermissionDenied.into());
    assert!(matches!(error, DataDirError::PermissionDenied { .. }));
}

#[test]
fn a_memory_store_is_new_at_each_opening() {
    let directory = tempfile::tempdir().unwrap();
    for id in [1, 2] {
        let mut data =
            DataDir::open(directory.path(), "node-1", EngineKind::Memory, || id).unwrap();
        assert_eq!(data.store_id(), id);
        assert_eq!(data.engine(EngineOptions::default()).unwrap().stats().unwrap().keys_approx, 0);
    }
}

#[test]
fn engine_kinds_are_written_by_their_names() {
    for kind in EngineKind::ALL {
        assert_eq!(serde_name(kind), kind.name());
    }
}

fn serde_name(kind: EngineKind) -> String {
    match toml::Value::try_from(kind).unwrap() {
        toml::Value::String(name) => name,
        value => panic!("{value}"),
    }
}

/// Everything that a power cut while a store is set aside can leave: what moved, moved in order.
#[test]
fn a_store_set_aside_by_half_is_never_taken_for_a_new_one() {
    for moved in 0..=2 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        open(path).unwrap().engine(EngineOptions::default()).unwrap();
        let aside = path.join("damaged-1");
        fs::create_dir(&aside).unwrap();
        for name in ["fjall", STORE_FILE].iter().take(moved) {
            fs::rename(path.join(name), aside.join(name)).unwrap();
        }
        let opened =
            open(path).and_then(|mut data| data.engine(EngineOptions::default()).map(drop));
        match moved {
            0 => opened.unwrap(),
            _ => assert!(opened.unwrap_err().is_damage(), "{moved} were moved"),
        }
    }
}

#[test]
fn a_new_store_in_the_place_of_another_says_so_until_its_engine_does() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    open(path).unwrap().engine(EngineOptions::default()).unwrap();
    let old = fs::read_to_string(path.join(STORE_FILE)).unwrap();
    let known = KnownCluster { cluster: "c".to_owned(), peers: vec!["a:1".to_owned()] };
    known.write(path).unwrap();
    let aside = DataDir::set_aside(path).unwrap();
    assert_eq!(fs::read_to_string(aside.join(STORE_FILE)).unwrap(), old, "nothing is deleted");
    assert!(aside.join("fjall").is_dir());
    assert_eq!(KnownCluster::read(path), Some(known), "the way to the cluster stays");
    assert!(open(path).unwrap_err().is_damage(), "no empty store without the operator's word");

    let made = DataDir::open_to_rebuild(path, "node-1", EngineKind::Fjall, || ID + 1);
    assert_eq!((made.as_ref().unwrap().store_id(), made.unwrap().is_rebuilding()), (ID + 1, true));
    // Killed before the engine knew: the next opening, of whatever kind, finds that out.
    let mut again = reopen(EngineKind::Fjall, path).unwrap();
    again.engine(EngineOptions::default()).unwrap();
    assert!(again.is_rebuilding());
    again.rebuild_marked().unwrap();
    drop(again);
    assert!(!reopen(EngineKind::Fjall, path).unwrap().is_rebuilding());
}

#[test]
fn what_an_operator_can_set_right_is_no_damage() {
    let failed = |kind: io::ErrorKind| DataDirError::Engine {
        path: PathBuf::new(),
        source: EngineError::io("open its files")(kind.into()),
    };
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied] {
        assert!(!failed(kind).is_damage(), "{kind}");
    }
    assert!(failed(io::ErrorKind::UnexpectedEof).is_damage());
    let panicked = EngineError::Panicked { action: "open", detail: "out of bounds".to_owned() };
    assert!(DataDirError::Engine { path: PathBuf::new(), source: panicked }.is_damage());
    let in_use = EngineError::Locked { path: PathBuf::new() };
    assert!(!DataDirError::Engine { path: PathBuf::new(), source: in_use }.is_damage());
}
