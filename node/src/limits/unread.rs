//! Answers that a client asked for and does not read.
//!
//! They hold the node's memory until they are sent, and a client that reads nothing, by mistake or to
//! do harm, would hold it for ever. Nobody waits for an answer longer than a request may take. So a
//! connection on which one has been waiting for longer is closed. Pages of scans are left out: who reads
//! a scan may pause, and a scan holds a page at most.
//!
//! There may be thousands, so their ages are kept by the period in which they began, each as long as
//! a request may take:
//!
//! ```text
//!   period      0        1        2
//!   answers     a b      c            when 2 begins, a and b have waited for a whole period
//! ```
//!
//! Invariant: an answer that waited for less than a period closes nothing, and one that has waited
//! for two has closed its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

/// The present period, the one before, and those before that.
const PERIODS: usize = 3;

/// The large answers of one connection that wait to be sent.
#[derive(Debug)]
pub struct Unread {
    made: Instant,
    period: Duration,
    /// How many, by the period that they began in.
    answers: [AtomicUsize; PERIODS],
}

/// An answer that waits, until it is dropped.
#[derive(Debug)]
pub struct Waiting {
    of: Arc<Unread>,
    slot: usize,
}

impl Unread {
    /// None yet; each may wait for `period`.
    pub fn new(period: Duration) -> Arc<Self> {
        Arc::new(Self { made: Instant::now(), period, answers: Default::default() })
    }

    /// One begins to wait.
    pub fn begin(self: &Arc<Self>) -> Waiting {
        let slot = self.period_now() % PERIODS;
        self.answers[slot].fetch_add(1, Relaxed);
        Waiting { of: self.clone(), slot }
    }

    /// Whether any waits.
    pub fn any(&self) -> bool {
        self.answers.iter().any(|answers| answers.load(Relaxed) > 0)
    }

    /// Whether one has waited for too long.
    pub fn is_overdue(&self) -> bool {
        // The slot after the present one is the next period's, and held the one before the last.
        self.answers[(self.period_now() + 1) % PERIODS].load(Relaxed) > 0
    }

    /// When the next period begins: the time to look again.
    pub fn next_period(&self) -> Instant {
        self.made + self.period * (self.period_now() as u32).saturating_add(1)
    }

    fn period_now(&self) -> usize {
        (self.made.elapsed().as_nanos() / self.period.as_nanos().max(1)) as usize
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.of.answers[self.slot].fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    /// What waits is checked against its true age, in steps of a tenth of a period.
    fn check(steps: &[(u8, bool)]) -> Result<(), TestCaseError> {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let unread = Unread::new(PERIOD);
            let mut waiting: Vec<(Instant, Waiting)> = Vec::new();
            for &(tenths, ends) in steps {
                advance(PERIOD / 10 * u32::from(tenths)).await;
                let oldest = waiting.iter().map(|(since, _)| since.elapsed()).max();
                if unread.is_overdue() {
                    prop_assert!(oldest >= Some(PERIOD), "{oldest:?}");
                    return Ok(());
                }
                prop_assert!(oldest < Some(2 * PERIOD) || oldest >= Some(3 * PERIOD), "{oldest:?}");
                if ends && !waiting.is_empty() {
                    waiting.remove(0);
                } else {
                    waiting.push((Instant::now(), unread.begin()));
                }
                prop_assert_eq!(unread.any(), !waiting.is_empty());
            }
            Ok(())
        })
    }

    proptest! {
        #[test]
        fn only_an_answer_that_waited_for_a_period_is_overdue(
            steps in prop::collection::vec((0..10u8, any::<bool>()), 0..60)
        ) {
            check(&steps)?;
        }
    }
}
