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
    /// How many owners a key has. With one owner every write is a weak one.
    #[serde(default = "three")]
    pub n: usize,
    /// So many writes of a hundred are acknowledged from disk.
    pub synced_of_100: u32,
    /// How long one waits for an answer, in milliseconds.
    pub timeout_ms: u64,
    /// How often one asks again for the outcome of a write.
    pub retries: u32,
    /// Whether some writes wait for one owner alone. What that one loses is lost.
    pub weak_writes: bool,
    /// How many administrators make, use and drop namespaces meanwhile, each its own.
    pub administrators: u64,
    /// How many owners keys of those namespaces have: so many at least, and so many at most.
    #[serde(default = "three_always")]
    pub extra_n: [usize; 2],
    /// Whether fallbacks count in their namespace, unless a request says otherwise; some do.
    #[serde(default)]
    pub sloppy: bool,
    /// Whether one asks other nodes until one answers: some always can, since one fails at a time.
    #[serde(default)]
    pub steady: bool,
}

/// What every namespace had in scenarios that do not say it.
fn three() -> usize {
    3
}

fn three_always() -> [usize; 2] {
    [3, 3]
}

/// How many of a key's owners a quorum is.
pub(super) fn quorum(n: usize) -> usize {
    n / 2 + 1
}

/// How often each kind of operation comes, in comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mix {
    /// Reads.
    pub read: u32,
    /// Reads, and writes that replace what they showed.
    pub replace: u32,
    /// Writes without a context, or with one that the client remembers: of a moment ago, or old.
    pub blind: u32,
    /// Writes without a context, whatever the client remembers.
    #[serde(default)]
    pub heedless: u32,
    /// Deletes of what a read just showed, or of what the client remembers.
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
    pub const ALL: Self = Self {
        read: 30,
        replace: 30,
        blind: 15,
        heedless: 0,
        delete: 10,
        batch: 5,
        batch_read: 5,
        scan: 3,
    };

    /// More and more siblings, until owners admit no more of them, and now and then one in their place.
    pub const CROWD: Self = Self { replace: 1, blind: 2, heedless: 200, delete: 1, ..Self::ALL };

    /// What comes next.
    pub(super) fn draw(&self, rng: &mut ChaCha8Rng) -> Choice {
        let kinds = [
            (self.read, Choice::Read),
            (self.replace, Choice::Replace),
            (self.blind, Choice::Blind),
            (self.heedless, Choice::Heedless),
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
    Heedless,
    Delete,
    Batch,
    BatchRead,
    Scan,
}

#[cfg(test)]
mod tests {
    use crate::sim::profile::Profile;
    use crate::sim::run::Scenario;

    #[test]
    fn a_scenario_that_was_kept_before_keys_had_other_numbers_of_owners_has_three() {
        let scenario = Profile::SIBLINGS.scenario(1);
        let mut kept = serde_json::to_value(&scenario).unwrap();
        let workload = kept["workload"].as_object_mut().unwrap();
        assert!(workload.remove("n").is_some() && workload.remove("extra_n").is_some());
        let read: Scenario = serde_json::from_value(kept).unwrap();
        assert_eq!((read.workload.n, read.workload.extra_n), (3, [3, 3]));
        let text = serde_json::to_string(&scenario).unwrap();
        assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
    }
}
