//! A data directory of the workload: opened as a node opens it, read back, compared with the model.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quorate_node::storage::data_dir::{DataDir, DataDirError, EngineKind};
use quorate_node::storage::{Engine, EngineError, EngineOptions, KeyRange, Space, record};

use crate::workload::{Counts, LANES, Model, Rows, count_key, seen_key};

/// Whose directory it is.
const NODE: &str = "crash";

/// An open store. The engine closes before its directory is unlocked.
pub(crate) struct Store {
    pub(crate) engine: Arc<dyn Engine>,
    _directory: DataDir,
}

impl Store {
    /// Opens the store, or makes it.
    pub(crate) fn open(path: &Path, kind: EngineKind) -> Result<Self, DataDirError> {
        let mut directory = DataDir::open(path, NODE, kind, || 1)?;
        let engine = directory.engine(EngineOptions { cache_bytes: 1 << 20 })?;
        Ok(Self { engine, _directory: directory })
    }

    /// How far each lane got, by its rows in the space of metadata.
    pub(crate) fn counts(&self) -> Counts {
        std::array::from_fn(|lane| {
            let key = count_key(lane);
            let stored = self.engine.get(Space::Meta, &key).expect("the store reads");
            stored.map_or(0, |sealed| numbers(&key, &sealed)[0])
        })
    }
}

/// What one lane holds.
pub(crate) struct Lane {
    pub(crate) count: u64,
    /// How far its last writer saw each lane get.
    pub(crate) seen: Counts,
    pub(crate) rows: Rows,
}

/// Reads everything that a lane holds.
pub(crate) fn read_lane(engine: &dyn Engine, lane: usize) -> Result<Lane, EngineError> {
    let mut rows = Rows::new();
    for space in Space::ALL {
        for row in engine.scan(space, KeyRange::prefix(&[lane as u8])) {
            let (key, value) = row?;
            rows.insert((space, key), value);
        }
    }
    let seen = rows.remove(&(Space::Meta, seen_key(lane)));
    let seen = seen.map_or([0; LANES], |sealed| {
        let numbers = numbers(&seen_key(lane), &sealed);
        std::array::from_fn(|other| numbers[other])
    });
    let counts = Space::ALL.map(|space| {
        let key = count_key(lane);
        rows.get(&(space, key.clone())).map_or(0, |sealed| numbers(&key, sealed)[0])
    });
    let count = counts[0];
    assert_eq!(counts, [count; Space::ALL.len()], "lane {lane}: a batch shows by half");
    Ok(Lane { count, seen, rows })
}

/// The state is a prefix of what was applied, across lanes and spaces, and holds at least what was
/// acknowledged. How far each lane got.
#[track_caller]
pub(crate) fn check(engine: &dyn Engine, models: &mut [Model; LANES], acked: Counts) -> Counts {
    let lanes: [Lane; LANES] =
        std::array::from_fn(|lane| read_lane(engine, lane).expect("the store reads"));
    for (at, (lane, model)) in lanes.iter().zip(models).enumerate() {
        assert!(
            lane.count >= acked[at],
            "lane {at} was acknowledged up to {}, and holds {}",
            acked[at],
            lane.count
        );
        assert!(model.after(lane.count) == &lane.rows, "lane {at} is not its first {}", lane.count);
        for (other, seen) in lanes.iter().zip(lane.seen) {
            assert!(other.count >= seen, "lane {at} saw {seen} batches where {} are", other.count);
        }
    }
    lanes.map(|lane| lane.count)
}

fn numbers(key: &[u8], sealed: &Bytes) -> Vec<u64> {
    let body = record::open(key, sealed).expect("the record is whole");
    let chunks = body.as_ref().chunks_exact(size_of::<u64>());
    chunks.map(|chunk| u64::from_le_bytes(chunk.try_into().expect("eight bytes"))).collect()
}
