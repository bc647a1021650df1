//! What is written: batches over all spaces, each a pure function of seed, lane and number, so that
//! the state after any number of them can be computed, and compared to the byte.
//!
//! Two *lanes* write at once, as a node's shards do. Each has keys of its own, and in every space a
//! row with the number of its last batch; so a state is a prefix of a lane if the four numbers are
//! equal and every other row is what the model says. Across lanes, each batch also records how
//! far its writer had seen the other lane get: what it saw must not be gone while it is there.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_node::storage::{Batch, Space, record};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Writers at a time.
pub(crate) const LANES: usize = 2;

/// Rows of a lane in a space: few, so that they are overwritten and deleted again and again.
const ROWS: u8 = 40;

/// How far each lane got.
pub(crate) type Counts = [u64; LANES];

/// The rows of one lane, by space and key.
pub(crate) type Rows = BTreeMap<(Space, Bytes), Bytes>;

/// The row with the number of the last batch, in every space.
pub(crate) fn count_key(lane: usize) -> Bytes {
    Bytes::from(vec![lane as u8, b'n'])
}

/// The row with what the last batch's writer had seen of all lanes.
pub(crate) fn seen_key(lane: usize) -> Bytes {
    Bytes::from(vec![lane as u8, b's'])
}

/// How large the values are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// One in so many values is large.
    pub(crate) large_one_in: u32,
    /// And has up to so many bytes.
    pub(crate) large_max: usize,
}

/// The writes of batch `n` of a lane, without what its writer saw; `None` deletes.
fn writes(seed: u64, lane: usize, n: u64, sizes: Sizes) -> Vec<(Space, Bytes, Option<Bytes>)> {
    let mix = (n + ((lane as u64) << 56)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ mix);
    let mut writes = Vec::new();
    for _ in 0..rng.random_range(1..6) {
        let space = Space::ALL[rng.random_range(0..Space::ALL.len())];
        let key = Bytes::from(vec![lane as u8, b'k', rng.random_range(0..ROWS)]);
        let value = (!rng.random_ratio(1, 5)).then(|| {
            let large = rng.random_ratio(1, sizes.large_one_in);
            let length = rng.random_range(0..if large { sizes.large_max } else { 400 });
            let mut body = vec![0; length];
            rng.fill(&mut body[..]);
            record::seal(&key, &body)
        });
        writes.push((space, key, value));
    }
    for space in Space::ALL {
        let key = count_key(lane);
        let value = record::seal(&key, &n.to_le_bytes());
        writes.push((space, key, Some(value)));
    }
    writes
}

/// Batch `n` of a lane, by a writer that saw the lanes get as far as `seen`.
pub(crate) fn batch(seed: u64, lane: usize, n: u64, sizes: Sizes, seen: Counts) -> Batch {
    let mut batch = Batch::new();
    for (space, key, value) in writes(seed, lane, n, sizes) {
        match value {
            Some(value) => batch.put(space, key, value),
            None => batch.delete(space, key),
        }
    }
    let key = seen_key(lane);
    let body: Vec<u8> = seen.iter().flat_map(|count| count.to_le_bytes()).collect();
    batch.put(Space::Meta, key.clone(), record::seal(&key, &body));
    batch
}

/// The naive twin of one lane.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    seed: u64,
    lane: usize,
    sizes: Sizes,
    count: u64,
    rows: Rows,
}

impl Model {
    /// Every lane, before its first batch.
    pub(crate) fn lanes(seed: u64, sizes: Sizes) -> [Self; LANES] {
        std::array::from_fn(|lane| Self { seed, lane, sizes, count: 0, rows: Rows::new() })
    }

    /// The rows after `count` batches, which are no fewer than the last time.
    pub(crate) fn after(&mut self, count: u64) -> &Rows {
        assert!(count >= self.count, "lane {} went back to {count}", self.lane);
        while self.count < count {
            self.count += 1;
            for (space, key, value) in writes(self.seed, self.lane, self.count, self.sizes) {
                match value {
                    Some(value) => drop(self.rows.insert((space, key), value)),
                    None => drop(self.rows.remove(&(space, key))),
                }
            }
        }
        &self.rows
    }
}
