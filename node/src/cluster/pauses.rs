//! Random pauses between attempts, so that two who got in each other's way do not do it again.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// About what one attempt takes between two machines of one data centre.
const FIRST: Duration = Duration::from_millis(20);
/// What a person who waits for a change does not mind.
const LONGEST: Duration = Duration::from_secs(1);

/// Pauses that double, up to [`LONGEST`], each cut by up to half.
pub(super) struct Pauses {
    next: Duration,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    pub(super) fn next(&mut self, rng: &mut ChaCha8Rng) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        rng.random_range(pause / 2..=pause)
    }
}
