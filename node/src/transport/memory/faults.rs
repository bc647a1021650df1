//! What happens to messages on their way.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// By how much a slow message takes longer than it would have: from what a queue on the way adds
/// to what a segment lost several times over costs.
const SLOWER: RangeInclusive<u32> = 10..=50;

/// The longest that a slow message takes: by then a real connection has resent it, or is dead.
const SLOW_MAX: Duration = Duration::from_secs(5);

/// What the network does to messages.
#[derive(Clone, PartialEq, Debug)]
pub struct Faults {
    /// How long a message takes, in milliseconds.
    pub latency_ms: RangeInclusive<u64>,
    /// The probability that one takes 10 to 50 times as long, though at most 5 seconds.
    pub slow: f64,
    /// The probability that one is lost.
    pub loss: f64,
    /// The probability that one arrives twice.
    pub duplication: f64,
    /// How long a cut, or a process that stands still, goes unnoticed.
    pub notice: Duration,
}

impl Default for Faults {
    /// A good network: 1 to 5 ms, nothing lost.
    fn default() -> Self {
        let notice = Duration::from_secs(7);
        Self { latency_ms: 1..=5, slow: 0.0, loss: 0.0, duplication: 0.0, notice }
    }
}

impl Faults {
    /// One for each time that a message arrives.
    pub(super) fn latencies(&self, rng: &mut ChaCha8Rng) -> [Option<Duration>; 2] {
        if rng.random_bool(self.loss) {
            return [None, None];
        }
        let doubled = rng.random_bool(self.duplication);
        [Some(self.latency(rng)), doubled.then(|| self.latency(rng))]
    }

    fn latency(&self, rng: &mut ChaCha8Rng) -> Duration {
        let latency = Duration::from_millis(rng.random_range(self.latency_ms.clone()));
        // Networks without a tail draw nothing for it: it changes no run of theirs.
        if self.slow == 0.0 || !rng.random_bool(self.slow) {
            return latency;
        }
        let slow = latency * rng.random_range(SLOWER);
        slow.min(SLOW_MAX).max(latency)
    }
}
