//! What clients do in a run, as data.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// How many clients there are.
    pub clients: usize,
    /// How many keys they share.
    pub keys: u64,
    /// How long one pauses between two operations, in milliseconds, on average.
    pub pause_ms: u64,
    /// What they do.
    pub mix: Mix,
    /// Whether the last write wins in their namespace; else siblings stand beside each other.
    pub lww: bool,
    /// So many writes of a hundred are acknowledged from disk.
    pub synced_of_100: u32,
    /// How long one waits for an answer, in milliseconds.
    pub timeout_ms: u64,
    /// How often one asks again for the outcome of a write.
    pub retries: u32,
    /// Whether some writes wait for one owner alone. What that one loses is lost.
    pub weak_writes: bool,
    /// Whether somebody makes, uses and drops namespaces meanwhile.
    pub administrator: bool,
}

/// How often each kind of operation comes, in comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mix {
    /// Reads.
    pub read: u32,
    /// Reads, and writes that replace what they showed.
    pub replace: u32,
    /// Writes without a context, or with one that the client remembers.
    pub blind: u32,
    /// Reads, and deletes of what they showed.
    pub delete: u32,
    /// Writes of many keys.
    pub batch: u32,
    /// Reads of many keys.
    pub batch_read: u32,
    /// Scans of all keys.
    pub scan: u32,
}

impl Mix {
    /// Some of everything.
    pub const ALL: Self =
        Self { read: 30, replace: 30, blind: 15, delete: 10, batch: 5, batch_read: 5, scan: 3 };

    /// What comes next.
    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> Choice {
        let kinds = [
            (self.read, Choice::Read),
            (self.replace, Choice::Replace),
            (self.blind, Choice::Blind),
            (self.delete, Choice::Delete),
            (self.batch, Choice::Batch),
            (self.batch_read, Choice::BatchRead),
            (self.scan, Choice::Scan),
        ];
        let mut left = rng.random_range(0..kinds.iter().map(|(weight, _)| weight).sum());
        for (weight, kind) in kinds {
            match left.checked_sub(weight) {
                None => return kind,
                Some(rest) => left = rest,
            }
        }
        unreachable!("less than all weights together was drawn")
    }
}

/// What a client does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Choice {
    Read,
    Replace,
    Blind,
    Delete,
    Batch,
    BatchRead,
    Scan,
}
