use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::storage::conformance::{self, Subject};

struct FjallSubject {
    engine: FjallEngine,
    directory: TempDir,
}

fn small() -> EngineOptions {
    EngineOptions { cache_bytes: 1 << 20 }
}

impl FjallSubject {
    fn open_in(directory: TempDir) -> Self {
        let engine = FjallEngine::open(&directory.path().join("fjall"), small()).unwrap();
        Self { engine, directory }
    }
}

impl Subject for FjallSubject {
    fn create() -> Self {
        Self::open_in(tempfile::tempdir().unwrap())
    }

    fn engine(&self) -> &dyn Engine {
        &self.engine
    }

    fn reopen(self) -> Self {
        drop(self.engine);
        Self::open_in(self.directory)
    }

    /// What another process finds after a kill: the files as they are while this one is open.
    fn kill(self) -> Self {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.directory.path(), copy.path());
        Self::open_in(copy)
    }

    fn open_checkpoint(path: &Path) -> Arc<dyn Engine> {
        Arc::new(FjallEngine::open(path, small()).unwrap())
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_files(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

conformance::suite!(FjallSubject);

#[test]
fn what_a_power_cut_left_of_a_store_in_the_making_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fjall");
    let nursery = directory.path().join("fjall.creating");
    fs::create_dir(&nursery).unwrap();
    fs::write(nursery.join("0.jnl"), b"half").unwrap();
    FjallEngine::open(&path, small()).unwrap();
    assert!(path.is_dir() && !nursery.exists());
}

#[test]
fn what_went_through_tables_is_read_back() {
    let subject = FjallSubject::create();
    let value = |n: u8| Bytes::from(vec![n; 1 << 20]);
    for n in 0..3 * (OTHER_MEMTABLE_BYTES >> 20) as u8 {
        let mut batch = Batch::new();
        batch.put(Space::Frontiers, vec![n % 16], value(n));
        batch.put(Space::Meta, "last", vec![n]);
        subject.engine.apply(batch).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while subject.engine.keyspace(Space::Frontiers).disk_space() == 0 {
        assert!(Instant::now() < deadline, "nothing was flushed");
        std::thread::sleep(Duration::from_millis(10));
    }
    subject.engine.clear(Space::Frontiers, &[15]).unwrap();
    let subject = subject.reopen();
    for n in (8..24).filter(|n| n % 16 != 15) {
        let found = subject.engine.get(Space::Frontiers, &[n % 16]).unwrap();
        assert!(found == Some(value(n)), "key {}", n % 16);
    }
    assert_eq!(subject.engine.get(Space::Frontiers, &[15]).unwrap(), None);
    assert_eq!(subject.engine.get(Space::Meta, b"last").unwrap().unwrap(), [23][..]);
}

#[test]
fn files_that_are_open_are_locked() {
    let subject = FjallSubject::create();
    let second = FjallEngine::open(&subject.directory.path().join("fjall"), small());
    assert!(matches!(second, Err(EngineError::Locked { .. })));
}

#[test]
fn an_unfinished_journal_record_is_cut_off() {
    let subject = FjallSubject::create();
    let mut batch = Batch::new();
    batch.put(Space::Objects, "kept", "1");
    subject.engine.apply(batch).unwrap();
    let written = written_bytes(&subject);
    let mut batch = Batch::new();
    batch.put(Space::Objects, "cut", "2");
    batch.put(Space::Meta, "cut", "2");
    subject.engine.apply(batch).unwrap();

    for length in [written, written + 1, written_bytes(&subject) - 1] {
        let copy = tempfile::tempdir().unwrap();
        copy_files(subject.directory.path(), copy.path());
        let journal = fs::OpenOptions::new().write(true).open(journal_of(copy.path())).unwrap();
        journal.set_len(length).unwrap();
        let opened = FjallSubject::open_in(copy);
        assert_eq!(opened.engine.get(Space::Objects, b"kept").unwrap().unwrap(), "1");
        for space in [Space::Objects, Space::Meta] {
            assert_eq!(opened.engine.get(space, b"cut").unwrap(), None, "cut at {length}");
        }
    }
}

#[test]
fn a_flipped_bit_in_the_journal_is_corruption() {
    let subject = FjallSubject::create();
    let mut batch = Batch::new();
    batch.put(Space::Objects, "key", vec![b'v'; 100]);
    subject.engine.apply(batch).unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_files(subject.directory.path(), copy.path());
    let journal = journal_of(copy.path());
    let mut content = fs::read(&journal).unwrap();
    let at = content.windows(3).position(|bytes| bytes == b"vvv").unwrap();
    content[at + 50] ^= 1;
    fs::write(&journal, content).unwrap();
    let opened = FjallEngine::open(&copy.path().join("fjall"), small());
    assert!(matches!(opened, Err(EngineError::Corrupt { .. })));
}

fn journal_of(directory: &Path) -> PathBuf {
    let files = fs::read_dir(directory.join("fjall")).unwrap();
    let mut paths = files.map(|entry| entry.unwrap().path());
    paths.find(|path| path.extension().is_some_and(|e| e == "jnl")).unwrap()
}

/// How far the journal is written; fjall allocates it ahead, filled with zeros.
fn written_bytes(subject: &FjallSubject) -> u64 {
    let content = fs::read(journal_of(subject.directory.path())).unwrap();
    content.iter().rposition(|&byte| byte != 0).unwrap() as u64 + 1
}

#[test]
fn a_synced_tail_that_is_cut_off_is_missed() {
    let subject = FjallSubject::create();
    let put = |key: &'static str| {
        let mut batch = Batch::new();
        batch.put(Space::Objects, key, "value");
        subject.engine.apply(batch).unwrap();
        written_bytes(&subject)
    };
    let unsynced = put("a");
    subject.engine.sync().unwrap();
    put("b");
    let opened = |length| {
        let copy = tempfile::tempdir().unwrap();
        copy_files(subject.directory.path(), copy.path());
        let journal = fs::OpenOptions::new().write(true).open(journal_of(copy.path())).unwrap();
        journal.set_len(length).unwrap();
        let path = copy.path().join("fjall");
        // An opening that cuts something off must leave it as noticeable for the next one.
        drop(FjallEngine::open(&path, small()));
        (FjallEngine::open(&path, small()).map(|engine| engine.cut_bytes()), copy)
    };
    let (kept, _copy) = opened(written_bytes(&subject));
    assert_eq!(kept.unwrap(), 0);
    let (torn, _copy) = opened(written_bytes(&subject) - 1);
    assert_eq!(torn.unwrap(), 0, "it was cut off by the opening before");
    for length in [0, unsynced - 1, unsynced] {
        let (missed, _copy) = opened(length);
        let error = missed.unwrap_err();
        assert!(matches!(&error, EngineError::Corrupt { .. }), "{error}");
    }
}

#[test]
fn damage_before_a_later_journal_is_never_forgotten() {
    let subject = FjallSubject::create();
    let mut batch = Batch::new();
    batch.put(Space::Objects, "key", vec![b'v'; 100]);
    subject.engine.apply(batch).unwrap();
    let directory = subject.directory;
    drop(subject.engine);
    let path = directory.path().join("fjall");
    // As after a rotation: the journal is sealed, and an empty one follows it.
    fs::write(path.join("1.jnl"), []).unwrap();
    let sealed = path.join("0.jnl");
    let mut content = fs::read(&sealed).unwrap();
    content[0] = 0xff;
    fs::write(&sealed, content).unwrap();
    for _ in 0..2 {
        let refused = FjallEngine::open(&path, small()).map(drop);
        assert!(matches!(refused, Err(EngineError::Corrupt { .. })), "{refused:?}");
    }
}

#[test]
fn after_a_failure_the_journals_are_written_again() {
    let subject = FjallSubject::create();
    let mut batch = Batch::new();
    batch.put(Space::Objects, "key", "value");
    subject.engine.apply(batch).unwrap();
    let journal = journal_of(subject.directory.path());
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&journal);
    let failure = subject.engine.noting(EngineError::Poisoned);
    assert!(matches!(failure, EngineError::Poisoned));
    let subject = subject.reopen();
    assert_ne!(inode(&journal), before);
    assert_eq!(subject.engine.get(Space::Objects, b"key").unwrap().unwrap(), "value");
    let again = inode(&journal);
    let _subject = subject.reopen();
    assert_eq!(inode(&journal), again, "once is enough");
}
