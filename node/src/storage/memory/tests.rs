use std::collections::BTreeSet;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::storage::conformance::{self, Subject};

struct MemorySubject(MemoryEngine);

impl Subject for MemorySubject {
    fn create() -> Self {
        Self(MemoryEngine::new())
    }

    fn engine(&self) -> &dyn Engine {
        &self.0
    }

    fn reopen(self) -> Self {
        Self(self.0.kill())
    }

    fn kill(self) -> Self {
        Self(self.0.kill())
    }

    fn open_checkpoint(path: &Path) -> Arc<dyn Engine> {
        Arc::new(MemoryEngine::open_checkpoint(path).unwrap())
    }
}

conformance::suite!(MemorySubject);

/// Batch number `n` puts one key in two spaces.
fn apply(engine: &MemoryEngine, n: u8) {
    let mut batch = Batch::new();
    batch.put(Space::Objects, vec![n], "object");
    batch.put(Space::Frontiers, vec![n], "frontier");
    engine.apply(batch).unwrap();
}

fn numbers(engine: &MemoryEngine, space: Space) -> Vec<u8> {
    engine.scan(space, KeyRange::all()).map(|entry| entry.unwrap().0[0]).collect()
}

#[test]
fn a_power_cut_keeps_a_prefix_with_all_that_was_synced() {
    let mut lengths = BTreeSet::new();
    for seed in 0..64 {
        let engine = MemoryEngine::new();
        (1..=3).for_each(|n| apply(&engine, n));
        engine.sync().unwrap();
        (4..=7).for_each(|n| apply(&engine, n));
        let found = engine.crash(&mut ChaCha8Rng::seed_from_u64(seed));
        let kept = numbers(&found, Space::Objects);
        assert!(kept.iter().copied().eq(1..=kept.len() as u8), "{kept:?}");
        assert_eq!(kept, numbers(&found, Space::Frontiers));
        lengths.insert(kept.len());
        // What one power cut left is on disk: another one takes nothing.
        let again = found.crash(&mut ChaCha8Rng::seed_from_u64(seed + 1));
        assert_eq!(numbers(&again, Space::Objects), kept);
    }
    assert_eq!(lengths, BTreeSet::from([3, 4, 5, 6, 7]));
}

#[test]
fn a_kill_keeps_everything_but_syncs_nothing() {
    let engine = MemoryEngine::new();
    (1..=4).for_each(|n| apply(&engine, n));
    let next = engine.kill();
    assert_eq!(numbers(&next, Space::Objects), [1, 2, 3, 4]);
    let shortest = (0..64).map(|seed| {
        let next = MemoryEngine::new();
        (1..=4).for_each(|n| apply(&next, n));
        let crashed = next.kill().crash(&mut ChaCha8Rng::seed_from_u64(seed));
        numbers(&crashed, Space::Objects).len()
    });
    assert_eq!(shortest.min(), Some(0));
}

#[test]
fn the_handle_of_a_dead_process_is_closed() {
    let engine = MemoryEngine::new();
    apply(&engine, 1);
    let next = engine.kill();
    assert!(matches!(engine.get(Space::Meta, b"k"), Err(EngineError::Closed)));
    assert!(matches!(engine.apply(Batch::new()), Err(EngineError::Closed)));
    assert!(matches!(engine.sync(), Err(EngineError::Closed)));
    let mut scan = engine.scan(Space::Objects, KeyRange::all());
    assert!(matches!(scan.next(), Some(Err(EngineError::Closed))));
    assert_eq!(numbers(&next, Space::Objects), [1]);
}

#[test]
fn a_failed_sync_poisons_writes_but_not_reads() {
    let engine = MemoryEngine::new();
    apply(&engine, 1);
    engine.fail_next_sync();
    assert!(matches!(engine.sync(), Err(EngineError::Io { .. })));
    assert!(matches!(engine.sync(), Err(EngineError::Poisoned)));
    assert!(matches!(engine.apply(Batch::new()), Err(EngineError::Poisoned)));
    assert_eq!(numbers(&engine, Space::Objects), [1]);
    apply(&engine.kill(), 2);
}

#[test]
fn a_copy_has_what_was_applied_and_goes_its_own_way() {
    let engine = MemoryEngine::new();
    (1..=3).for_each(|n| apply(&engine, n));
    let copy = engine.copy().unwrap();
    apply(&engine, 4);
    apply(&copy, 5);
    assert_eq!(numbers(&engine, Space::Objects), [1, 2, 3, 4]);
    let shortest = (0..64).map(|seed| {
        let copy = copy.copy().unwrap();
        apply(&copy, 6);
        numbers(&copy.crash(&mut ChaCha8Rng::seed_from_u64(seed)), Space::Frontiers)
    });
    assert_eq!(shortest.min(), Some(vec![1, 2, 3, 5]));
    drop(copy.kill());
    assert!(matches!(copy.copy(), Err(EngineError::Closed)));
}

#[test]
fn a_full_disk_takes_nothing_of_a_batch_and_is_read_all_the_same() {
    let engine = MemoryEngine::new();
    apply(&engine, 1);
    engine.set_full(true);
    let mut batch = Batch::new();
    batch.put(Space::Objects, vec![2], "object");
    batch.delete(Space::Objects, vec![1]);
    let refused = engine.apply(batch).unwrap_err();
    assert!(refused.is_out_of_space(), "{refused}");
    assert!(matches!(engine.sync(), Err(EngineError::Poisoned)));
    assert_eq!(numbers(&engine, Space::Objects), [1]);
    // There is no more room for the next process, until somebody makes some.
    let next = engine.kill();
    assert!(next.sync().unwrap_err().is_out_of_space());
    next.set_full(false);
    assert!(matches!(next.apply(Batch::new()), Err(EngineError::Poisoned)));
    let last = next.kill();
    apply(&last, 3);
    last.sync().unwrap();
    assert_eq!(numbers(&last, Space::Objects), [1, 3]);
    last.set_full(true);
    let cut = last.crash(&mut ChaCha8Rng::seed_from_u64(1));
    assert!(cut.apply(Batch::new()).unwrap_err().is_out_of_space());
}

#[test]
fn rot_is_found_by_every_later_process() {
    let value = |engine: &MemoryEngine| engine.get(Space::Objects, &[1]).unwrap().unwrap();
    let put = |engine: &MemoryEngine, value: &'static str| {
        let mut batch = Batch::new();
        batch.put(Space::Objects, vec![1], value);
        batch.put(Space::Objects, vec![2], "");
        engine.apply(batch).unwrap();
    };
    let engine = MemoryEngine::new();
    put(&engine, "sound");
    engine.sync().unwrap();
    assert!(engine.rot(Space::Objects, &[1]).unwrap());
    assert_eq!(value(&engine), "sotnd");
    let engine = engine.crash(&mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(value(&engine), "sotnd");
    // What is not synced yet does not heal by a sync.
    put(&engine, "whole");
    assert!(engine.rot(Space::Objects, &[1]).unwrap());
    engine.sync().unwrap();
    let engine = engine.crash(&mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(value(&engine), "whnle");
    put(&engine, "sound");
    assert_eq!(value(&engine), "sound");
    for nothing in [2, 3] {
        assert!(!engine.rot(Space::Objects, &[nothing]).unwrap());
    }
}
