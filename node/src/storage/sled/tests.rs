mod forged;

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::*;
use crate::storage::conformance::{self, Subject};

struct SledSubject {
    engine: SledEngine,
    directory: TempDir,
}

fn small() -> EngineOptions {
    EngineOptions { cache_bytes: 1 << 20 }
}

impl SledSubject {
    fn open_in(directory: TempDir) -> Self {
        let engine = SledEngine::open(&directory.path().join("sled"), small()).unwrap();
        Self { engine, directory }
    }
}

impl Subject for SledSubject {
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
        Arc::new(SledEngine::open(path, small()).unwrap())
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

conformance::suite!(SledSubject);

/// A value of so many bytes, which no other key or round has.
fn value(key: u32, round: u32, bytes: usize) -> Bytes {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(key) << 32 | u64::from(round));
    let mut value = vec![0; bytes];
    rng.fill_bytes(&mut value);
    value.into()
}

fn put(batch: &mut Batch, key: u32, round: u32, bytes: usize) {
    batch.put(Space::Objects, key.to_be_bytes().to_vec(), value(key, round, bytes));
}

fn rows(engine: &SledEngine) -> Result<Vec<(Space, Bytes, Bytes)>, EngineError> {
    let mut rows = Vec::new();
    for space in Space::ALL {
        for row in engine.scan(space, KeyRange::all()) {
            let (key, value) = row?;
            rows.push((space, key, value));
        }
    }
    Ok(rows)
}

#[test]
fn a_scan_keeps_long_values_that_are_overwritten() {
    let subject = SledSubject::create();
    let sizes = [2048, 2049, 4096, 100_000, 1 << 20];
    let round = |round| {
        let mut batch = Batch::new();
        (0..).zip(sizes).for_each(|(key, bytes)| put(&mut batch, key, round, bytes));
        subject.engine.apply(batch).unwrap();
    };
    round(1);
    let before = rows(&subject.engine).unwrap();
    let mut scan = subject.engine.scan(Space::Objects, KeyRange::all());
    round(2);
    subject.engine.clear(Space::Objects, &[0, 0, 0, 1]).unwrap();
    round(3);
    for (_, key, value) in &before {
        let found = scan.next().unwrap().unwrap();
        assert!(found == (key.clone(), value.clone()), "key {key:?}");
    }
    assert!(scan.next().is_none());
    drop(scan);
    for (key, bytes) in (0..).zip(sizes) {
        let found = subject.engine.get(Space::Objects, &u32::to_be_bytes(key)).unwrap();
        assert!(found == Some(value(key, 3, bytes)), "key {key}");
    }
    assert_eq!(subject.engine.stats().unwrap().keys_approx, sizes.len() as u64);
    let after = rows(&subject.engine).unwrap();
    let subject = subject.reopen();
    assert!(rows(&subject.engine).unwrap() == after);
}

#[test]
fn a_scan_that_has_passed_a_row_keeps_nothing_of_it() {
    let subject = SledSubject::create();
    let mut batch = Batch::new();
    (0..1000).for_each(|key| put(&mut batch, key, 1, 10));
    subject.engine.apply(batch).unwrap();
    let mut scan = subject.engine.scan_rows(rows::range(Space::Objects, KeyRange::all()));
    scan.by_ref().take(500).for_each(drop);
    subject.engine.clear(Space::Objects, b"").unwrap();
    let kept = subject.engine.snapshots.write().unwrap().kept();
    assert!((1..=500).contains(&kept), "{kept} rows are kept");
    assert_eq!(scan.count(), 500);
    assert_eq!(subject.engine.snapshots.write().unwrap().kept(), 0);
}

#[test]
fn pages_that_become_files_are_synced() {
    let subject = SledSubject::create();
    let key = |n: u8| [&[n][..], &vec![n; 60_000]].concat();
    for round in 0..3 {
        for n in 0..12 {
            let mut batch = Batch::new();
            batch.put(Space::Objects, key(n), vec![round; 10]);
            subject.engine.apply(batch).unwrap();
        }
    }
    let names = || -> BTreeSet<_> {
        let files = fs::read_dir(subject.directory.path().join("sled/blobs")).unwrap();
        files.map(|file| file.unwrap().file_name()).collect()
    };
    let before = names();
    assert!(!before.is_empty(), "keys that long make large pages");
    subject.engine.sync().unwrap();
    // Its own thread may remove some at any time.
    let (after, synced) = (names(), subject.engine.synced_blobs.lock().unwrap().clone());
    assert!(before.intersection(&after).all(|name| synced.contains(name)));
    let subject = subject.kill();
    for n in 0..12 {
        let found = subject.engine.get(Space::Objects, &key(n)).unwrap();
        assert_eq!(found.unwrap(), vec![2; 10]);
    }
}

#[test]
fn batches_of_many_threads_are_all_there() {
    let subject = SledSubject::create();
    std::thread::scope(|threads| {
        for thread in 0..8 {
            let engine = &subject.engine;
            threads.spawn(move || {
                for n in 0..25 {
                    let mut batch = Batch::new();
                    put(&mut batch, thread * 100 + n, 1, 100);
                    engine.apply(batch).unwrap();
                    engine.sync().unwrap();
                }
            });
        }
    });
    let found = rows(&subject.kill().engine).unwrap();
    assert_eq!(found.len(), 200);
}

#[test]
fn files_that_are_open_are_locked() {
    let subject = SledSubject::create();
    let second = SledEngine::open(&subject.directory.path().join("sled"), small());
    assert!(matches!(second, Err(EngineError::Locked { .. })));
}

#[test]
fn what_is_left_of_the_last_opening_is_waited_for() {
    let SledSubject { engine, directory } = SledSubject::create();
    drop(engine);
    let left = File::open(directory.path().join("sled/db")).unwrap();
    left.lock().unwrap();
    let locked = SledEngine::open(&directory.path().join("sled"), small()).map(drop);
    assert!(matches!(locked, Err(EngineError::Locked { .. })), "{locked:?}");
    let soon = std::thread::spawn(move || {
        std::thread::sleep(4 * CLOSED_AGAIN);
        drop(left);
    });
    SledSubject::open_in(directory);
    soon.join().unwrap();
}

#[test]
fn a_panic_of_sled_poisons_writes_but_not_reads() {
    let subject = SledSubject::create();
    let mut batch = Batch::new();
    put(&mut batch, 1, 1, 10);
    subject.engine.apply(batch.clone()).unwrap();
    let panicked = subject.engine.contained::<()>("read a key", || panic!("a damaged page"));
    assert!(matches!(panicked, Err(EngineError::Panicked { .. })));
    assert!(matches!(subject.engine.apply(batch), Err(EngineError::Poisoned)));
    assert!(matches!(subject.engine.sync(), Err(EngineError::Poisoned)));
    assert_eq!(rows(&subject.engine).unwrap().len(), 1);
    assert_eq!(rows(&subject.kill().engine).unwrap().len(), 1);
}

#[test]
fn what_a_failed_sync_left_is_written_again_before_anything_rests_on_it() {
    let subject = SledSubject::create();
    let mut batch = Batch::new();
    put(&mut batch, 1, 1, 100);
    subject.engine.apply(batch).unwrap();
    let held = rows(&subject.engine).unwrap();
    // A file that sled leaves alone, to see that all of them are.
    let bystander = subject.directory.path().join("sled/bystander");
    fs::write(&bystander, "content").unwrap();
    let mut subject = subject;
    for failed in [false, true, false] {
        if failed {
            mark::note_failure(&subject.engine.mark);
        }
        let old = std::time::SystemTime::UNIX_EPOCH;
        File::open(&bystander).unwrap().set_modified(old).unwrap();
        subject = subject.reopen();
        assert_eq!(fs::metadata(&bystander).unwrap().modified().unwrap() != old, failed);
        assert_eq!(fs::read(&bystander).unwrap(), b"content");
        assert_eq!(rows(&subject.engine).unwrap(), held);
    }
}

#[test]
fn a_batch_needs_some_room() {
    assert!(enough_space(FREE_BYTES_MIN + 4000, 1000).is_ok());
    let error = enough_space(FREE_BYTES_MIN + 3999, 1000).unwrap_err();
    assert!(matches!(error, EngineError::Full { .. }), "{error}");
}

/// How a process ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    Killed,
}

/// A store of several segments that nobody has open, and what is in it.
fn store_after(end: End) -> (TempDir, Vec<(Space, Bytes, Bytes)>) {
    let subject = SledSubject::create();
    for round in 0..60 {
        let mut batch = Batch::new();
        (0..20).for_each(|n| put(&mut batch, (round * 7 + n * 13) % 300, round, 600));
        put(&mut batch, 1000, round, 5000);
        batch.put(Space::Operations, round.to_be_bytes().to_vec(), "an operation");
        batch.delete(Space::Objects, (round % 300).to_be_bytes().to_vec());
        subject.engine.apply(batch).unwrap();
    }
    subject.engine.sync().unwrap();
    let held = rows(&subject.engine).unwrap();
    let directory = match end {
        End::Closed => subject.reopen().directory,
        End::Killed => {
            let copy = tempfile::tempdir().unwrap();
            copy_files(subject.directory.path(), copy.path());
            copy
        }
    };
    (directory, held)
}

/// Opens a copy of a store that `damage` has changed: it holds everything, or is refused.
fn survives(store: &TempDir, held: &[(Space, Bytes, Bytes)], damage: impl FnOnce(&Path)) -> bool {
    let copy = tempfile::tempdir().unwrap();
    copy_files(store.path(), copy.path());
    damage(&copy.path().join("sled"));
    match SledEngine::open(&copy.path().join("sled"), small()) {
        Ok(engine) => {
            assert!(rows(&engine).unwrap() == held, "an opened store holds what was written");
            true
        }
        Err(EngineError::Corrupt { .. }) => false,
        Err(other) => panic!("not said to be corrupt: {other}"),
    }
}

fn files_of(store: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.path().join("sled")).unwrap();
    let files = entries.map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file());
    let mut names: Vec<PathBuf> = files.map(|entry| entry.file_name().into()).collect();
    names.sort();
    names
}

#[test]
fn a_flipped_bit_is_noticed_or_harmless() {
    flip(End::Closed);
    flip(End::Killed);
}

fn flip(end: End) {
    let (store, held) = store_after(end);
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for name in files_of(&store) {
        let flips = if name.as_os_str() == "db" { 100 } else { 20 };
        let mut refused = 0;
        for _ in 0..flips {
            let opened = survives(&store, &held, |path| {
                let mut content = fs::read(path.join(&name)).unwrap();
                let at = rng.random_range(0..content.len());
                content[at] ^= 1 << rng.random_range(0..8);
                fs::write(path.join(&name), content).unwrap();
            });
            refused += u32::from(!opened);
        }
        eprintln!("{end:?}, {}: {refused} of {flips} flips refused", name.display());
    }
}

#[test]
fn a_truncated_file_is_noticed_or_harmless() {
    truncate(End::Closed);
    truncate(End::Killed);
}

fn truncate(end: End) {
    let (store, held) = store_after(end);
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    for name in files_of(&store) {
        let length = fs::metadata(store.path().join("sled").join(&name)).unwrap().len();
        let lengths = [0, 1, length / 2, length - 1].into_iter();
        for to in lengths.chain((0..10).map(|_| rng.random_range(0..length))) {
            survives(&store, &held, |path| {
                let file = fs::OpenOptions::new().write(true).open(path.join(&name)).unwrap();
                file.set_len(to).unwrap();
            });
        }
        survives(&store, &held, |path| fs::remove_file(path.join(&name)).unwrap());
    }
}
