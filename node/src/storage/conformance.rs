//! What every engine must do, as one suite.
//!
//! A new engine joins with a [`Subject`] of its own and one line:
//! `conformance::suite!(MySubject);`. The suite asks only for what the trait promises; that a power
//! cut keeps a prefix is tested where a power cut can be had.

use std::collections::BTreeMap;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Batch, CLEAR_BATCH_KEYS, Engine, EngineError, KeyRange, Scan, Space};

/// An engine with the means to open it again.
pub(super) trait Subject: Sized {
    /// A new, empty store.
    fn create() -> Self;
    /// The present opening.
    fn engine(&self) -> &dyn Engine;
    /// Closes it in good order, and opens it again.
    fn reopen(self) -> Self;
    /// Kills the process without a warning, and opens what it left.
    fn kill(self) -> Self;
    /// Opens a checkpoint.
    fn open_checkpoint(path: &Path) -> Arc<dyn Engine>;
}

/// Makes a test of every function of the suite.
macro_rules! suite {
    ($subject:ty) => {
        $crate::storage::conformance::suite! { $subject:
            writes_are_read_back, a_batch_spans_spaces_and_outlives_a_kill,
            the_last_write_of_a_batch_wins, scans_are_ordered_and_bounded,
            prefixes_end_where_they_should, clear_removes_a_prefix_and_nothing_else,
            clear_takes_more_than_one_batch, a_scan_is_a_snapshot, readers_never_see_half_a_batch,
            sizes_at_both_ends, a_checkpoint_is_equal_and_apart, sync_and_stats_answer,
            agrees_with_its_naive_twin
        }
    };
    ($subject:ty: $($test:ident),*) => {
        $(#[test] fn $test() { $crate::storage::conformance::$test::<$subject>(); })*
    };
}
pub(super) use suite;

type Entries = Vec<(Bytes, Bytes)>;

fn collect(scan: Scan<'_>) -> Entries {
    scan.collect::<Result<_, _>>().unwrap()
}

fn put(engine: &dyn Engine, space: Space, key: &'static [u8], value: &'static [u8]) {
    let mut batch = Batch::new();
    batch.put(space, key, value);
    engine.apply(batch).unwrap();
}

fn get(engine: &dyn Engine, space: Space, key: &[u8]) -> Option<Bytes> {
    engine.get(space, key).unwrap()
}

fn keys(engine: &dyn Engine, range: KeyRange) -> Vec<Bytes> {
    collect(engine.scan(Space::Objects, range)).into_iter().map(|(key, _)| key).collect()
}

pub(super) fn writes_are_read_back<S: Subject>() {
    let subject = S::create();
    let engine = subject.engine();
    put(engine, Space::Objects, b"k", b"1");
    put(engine, Space::Meta, b"k", b"2");
    assert_eq!(get(engine, Space::Objects, b"k").unwrap(), "1");
    assert_eq!(get(engine, Space::Meta, b"k").unwrap(), "2");
    assert_eq!(get(engine, Space::Frontiers, b"k"), None);
    let mut batch = Batch::new();
    batch.delete(Space::Objects, "k");
    batch.delete(Space::Objects, "never there");
    engine.apply(batch).unwrap();
    assert_eq!(get(engine, Space::Objects, b"k"), None);
    put(engine, Space::Objects, b"k", b"3");
    assert_eq!(get(engine, Space::Objects, b"k").unwrap(), "3");
    engine.apply(Batch::new()).unwrap();
}

pub(super) fn a_batch_spans_spaces_and_outlives_a_kill<S: Subject>() {
    let subject = S::create();
    put(subject.engine(), Space::Operations, b"old", b"1");
    let mut batch = Batch::new();
    for space in Space::ALL {
        batch.put(space, "k", space.name());
    }
    batch.delete(Space::Operations, "old");
    subject.engine().apply(batch).unwrap();
    let check = |subject: &S| {
        for space in Space::ALL {
            assert_eq!(get(subject.engine(), space, b"k").unwrap(), space.name());
        }
        assert_eq!(get(subject.engine(), Space::Operations, b"old"), None);
    };
    check(&subject);
    let subject = subject.kill();
    check(&subject);
    check(&subject.reopen());
}

pub(super) fn the_last_write_of_a_batch_wins<S: Subject>() {
    let subject = S::create();
    let mut batch = Batch::new();
    batch.put(Space::Objects, "a", "1");
    batch.put(Space::Objects, "a", "2");
    batch.put(Space::Objects, "b", "1");
    batch.delete(Space::Objects, "b");
    batch.delete(Space::Objects, "c");
    batch.put(Space::Objects, "c", "3");
    subject.engine().apply(batch).unwrap();
    let expected: Entries = vec![("a".into(), "2".into()), ("c".into(), "3".into())];
    assert_eq!(collect(subject.engine().scan(Space::Objects, KeyRange::all())), expected);
    let reopened = subject.reopen();
    assert_eq!(collect(reopened.engine().scan(Space::Objects, KeyRange::all())), expected);
}

pub(super) fn scans_are_ordered_and_bounded<S: Subject>() {
    let subject = S::create();
    let engine = subject.engine();
    for key in [b"d", b"a", b"c", b"e", b"b"] {
        put(engine, Space::Objects, key, b"");
    }
    put(engine, Space::Meta, b"bb", b"another space");
    let key = |key: &'static str| Bytes::from(key);
    assert_eq!(keys(engine, KeyRange::all()), ["a", "b", "c", "d", "e"]);
    assert_eq!(keys(engine, KeyRange::new(key("b")..key("d"))), ["b", "c"]);
    assert_eq!(keys(engine, KeyRange::new(key("b")..=key("d"))), ["b", "c", "d"]);
    assert_eq!(keys(engine, KeyRange::new(key("d")..)), ["d", "e"]);
    assert_eq!(keys(engine, KeyRange::new(..key("b"))), ["a"]);
    assert_eq!(keys(engine, KeyRange::all().after("c")), ["d", "e"]);
    assert_eq!(keys(engine, KeyRange::new(key("d")..key("b"))), [] as [Bytes; 0]);
    assert_eq!(keys(engine, KeyRange::prefix(b"a").after("b")), [] as [Bytes; 0]);
}

pub(super) fn prefixes_end_where_they_should<S: Subject>() {
    let subject = S::create();
    let engine = subject.engine();
    let all: [&'static [u8]; 7] =
        [b"a", b"a\0", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff\x01"];
    for key in all {
        put(engine, Space::Objects, key, b"");
    }
    assert_eq!(keys(engine, KeyRange::prefix(b"a")), all[..4]);
    assert_eq!(keys(engine, KeyRange::prefix(b"a\xff")), all[2..4]);
    assert_eq!(keys(engine, KeyRange::prefix(b"\xff")), all[5..]);
    assert_eq!(keys(engine, KeyRange::prefix(b"\xff\xff")), all[6..]);
    assert_eq!(keys(engine, KeyRange::prefix(b"")), all);
}

pub(super) fn clear_removes_a_prefix_and_nothing_else<S: Subject>() {
    let subject = S::create();
    let engine = subject.engine();
    for key in [&b"a"[..], b"a1", b"a\xff", b"b"] {
        put(engine, Space::Objects, key, b"v");
        put(engine, Space::Frontiers, key, b"v");
    }
    engine.clear(Space::Objects, b"a").unwrap();
    assert_eq!(keys(engine, KeyRange::all()), ["b"]);
    assert_eq!(collect(engine.scan(Space::Frontiers, KeyRange::all())).len(), 4);
    engine.clear(Space::Frontiers, b"").unwrap();
    let subject = subject.reopen();
    assert_eq!(collect(subject.engine().scan(Space::Frontiers, KeyRange::all())), []);
    assert_eq!(keys(subject.engine(), KeyRange::all()), ["b"]);
}

pub(super) fn clear_takes_more_than_one_batch<S: Subject>() {
    let subject = S::create();
    let engine = subject.engine();
    let mut batch = Batch::new();
    for n in 0..2 * CLEAR_BATCH_KEYS + 1 {
        batch.put(Space::Objects, format!("a{n:05}"), "v");
    }
    batch.put(Space::Objects, "b", "v");
    engine.apply(batch).unwrap();
    engine.clear(Space::Objects, b"a").unwrap();
    assert_eq!(keys(engine, KeyRange::all()), ["b"]);
}

pub(super) fn a_scan_is_a_snapshot<S: Subject>() {
    let subject = S::create();
    let engine = subject.engine();
    put(engine, Space::Objects, b"a", b"1");
    put(engine, Space::Objects, b"c", b"1");
    let mut scan = engine.scan(Space::Objects, KeyRange::all());
    let first = scan.next().unwrap().unwrap();
    put(engine, Space::Objects, b"b", b"2");
    put(engine, Space::Objects, b"c", b"2");
    let later: Vec<_> = std::iter::once(first).chain(collect(scan)).collect();
    assert_eq!(later, [("a".into(), "1".into()), ("c".into(), "1".into())]);
    assert_eq!(keys(engine, KeyRange::all()), ["a", "b", "c"]);
}

/// One thread writes the same number under every key, over and over; scans must see one number.
pub(super) fn readers_never_see_half_a_batch<S: Subject>() {
    let subject = S::create();
    let engine = subject.engine();
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| {
            for round in 0..500u32 {
                let mut batch = Batch::new();
                for key in 0..8u8 {
                    batch.put(Space::Objects, vec![key + 1], round.to_le_bytes().to_vec());
                }
                engine.apply(batch).unwrap();
            }
        });
        while !writer.is_finished() {
            let seen = collect(engine.scan(Space::Objects, KeyRange::all()));
            assert!(seen.is_empty() || seen.len() == 8, "{seen:?}");
            assert!(seen.windows(2).all(|pair| pair[0].1 == pair[1].1), "{seen:?}");
        }
    });
}

pub(super) fn sizes_at_both_ends<S: Subject>() {
    let subject = S::create();
    let long_key = vec![0x61; super::ENGINE_KEY_MAX_BYTES];
    let big: Vec<u8> = (0..1 << 20).map(|n: u32| ((n * 31) >> 3) as u8).collect();
    let mut batch = Batch::new();
    batch.put(Space::Objects, "big", big.clone());
    batch.put(Space::Objects, "empty", "");
    batch.put(Space::Objects, long_key.clone(), "long");
    subject.engine().apply(batch).unwrap();
    let subject = subject.kill();
    assert!(get(subject.engine(), Space::Objects, b"big").unwrap() == big);
    assert_eq!(get(subject.engine(), Space::Objects, b"empty").unwrap(), "");
    assert_eq!(get(subject.engine(), Space::Objects, &long_key).unwrap(), "long");
}

pub(super) fn a_checkpoint_is_equal_and_apart<S: Subject>() {
    let subject = S::create();
    let engine = subject.engine();
    for space in Space::ALL {
        put(engine, space, b"kept", b"1");
        put(engine, space, b"\xff", b"");
    }
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("checkpoint");
    engine.checkpoint(&target).unwrap();
    let again = engine.checkpoint(&target);
    assert!(matches!(again, Err(EngineError::TargetExists { .. })), "{again:?}");
    put(engine, Space::Meta, b"later", b"2");

    let copy = S::open_checkpoint(&target);
    for space in Space::ALL {
        let expected: Entries =
            vec![("kept".into(), "1".into()), (Bytes::from(&b"\xff"[..]), "".into())];
        assert_eq!(collect(copy.scan(space, KeyRange::all())), expected);
    }
    put(&*copy, Space::Objects, b"kept", b"only in the copy");
    assert_eq!(get(engine, Space::Objects, b"kept").unwrap(), "1");
    let names = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(names, 1, "something was left beside the checkpoint");
}

pub(super) fn sync_and_stats_answer<S: Subject>() {
    let subject = S::create();
    let engine = subject.engine();
    engine.sync().unwrap();
    put(engine, Space::Objects, b"a", b"1");
    engine.sync().unwrap();
    let stats = engine.stats().unwrap();
    assert!(stats.keys_approx >= 1 && stats.disk_bytes >= 2, "{stats:?}");
    assert_eq!(get(subject.reopen().engine(), Space::Objects, b"a").unwrap(), "1");
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(usize, Vec<u8>, Option<u8>)>),
    Clear(usize, Vec<u8>),
    Scan(usize, Vec<u8>, Vec<u8>),
    Sync,
    Reopen,
    Kill,
}

fn short_key(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, b'a', 0xfe, 0xff]), length)
}

fn step() -> impl Strategy<Value = Step> {
    let space = || 0..Space::ALL.len();
    let write = (space(), short_key(1..4), prop::option::weighted(0.7, any::<u8>()));
    prop_oneof![
        12 => prop::collection::vec(write, 0..6).prop_map(Step::Apply),
        2 => (space(), short_key(0..3)).prop_map(|(space, prefix)| Step::Clear(space, prefix)),
        4 => (space(), short_key(0..3), short_key(1..4))
            .prop_map(|(space, prefix, cursor)| Step::Scan(space, prefix, cursor)),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

/// The naive twin: a B-tree per space that is never closed.
type Twin = [BTreeMap<Bytes, Bytes>; Space::ALL.len()];

/// Random steps, taken by the engine and by its twin; at the end all spaces are compared.
pub(super) fn agrees_with_its_naive_twin<S: Subject>() {
    let mut runner = TestRunner::new(Config { cases: 24, ..Config::default() });
    let steps = prop::collection::vec(step(), 1..40);
    let result = runner.run(&steps, |steps| {
        let mut subject = S::create();
        let mut twin = Twin::default();
        for step in steps {
            subject = take(subject, &mut twin, step)?;
        }
        for space in Space::ALL {
            compare(&subject, &twin, space, KeyRange::all())?;
        }
        Ok(())
    });
    result.unwrap();
}

fn take<S: Subject>(subject: S, twin: &mut Twin, step: Step) -> Result<S, TestCaseError> {
    let engine = subject.engine();
    match step {
        Step::Apply(writes) => {
            let mut batch = Batch::new();
            for (space, key, value) in writes {
                let key = Bytes::from(key);
                match value {
                    Some(byte) => {
                        let value = Bytes::from(vec![byte; usize::from(byte)]);
                        batch.put(Space::ALL[space], key.clone(), value.clone());
                        twin[space].insert(key, value);
                    }
                    None => {
                        batch.delete(Space::ALL[space], key.clone());
                        twin[space].remove(&key);
                    }
                }
            }
            engine.apply(batch).unwrap();
        }
        Step::Clear(space, prefix) => {
            engine.clear(Space::ALL[space], &prefix).unwrap();
            twin[space].retain(|key, _| !key.starts_with(&prefix));
        }
        Step::Scan(space, prefix, cursor) => {
            let space = Space::ALL[space];
            compare(&subject, twin, space, KeyRange::prefix(&prefix))?;
            compare(&subject, twin, space, KeyRange::prefix(&prefix).after(cursor))?;
        }
        Step::Sync => engine.sync().unwrap(),
        Step::Reopen => return Ok(subject.reopen()),
        Step::Kill => return Ok(subject.kill()),
    }
    Ok(subject)
}

fn compare<S: Subject>(
    subject: &S,
    twin: &Twin,
    space: Space,
    range: KeyRange,
) -> Result<(), TestCaseError> {
    let engine = subject.engine();
    let entries = twin[space as usize].iter().filter(|(key, _)| range.contains(*key));
    let expected: Entries = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
    for (key, value) in &expected {
        let found = engine.get(space, key).unwrap();
        prop_assert_eq!(found.as_ref(), Some(value));
    }
    prop_assert_eq!(collect(engine.scan(space, range)), expected);
    Ok(())
}
