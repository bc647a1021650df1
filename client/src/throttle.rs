//! How many retries a client may add to the load of a cluster that is overloaded.
//!
//! Requests that are refused or time out come again, and a cluster that could take what is offered
//! once cannot take it three times: retries alone keep an overload going that has passed. So they are
//! paid for from a budget that successes fill:
//!
//! ```text
//!   at first       1000 retries: a batch that is refused is a few hundred of them
//!   each success   a tenth of one, up to 1000
//!   each second    one, so that a client that only meets failures still looks now and then
//!   overloaded, timed out: one     unreachable, its disk full: nothing, it is not busy
//!   the first move to another owner that takes on most of what it is asked: nothing, since one busy
//!   node is no busy cluster
//! ```
//!
//! Without a budget left, the request fails with what the node said. After gRPC's retry throttling
//! (proposal A6), and the retry budgets of Finagle.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use quorate_proto::v1::error_detail::Kind;

use crate::error::{Error, ErrorKind, Reach};

/// In thousandths of a retry.
const RETRY: i64 = 1000;
const FULL: i64 = 1000 * RETRY;
const SUCCESS: i64 = RETRY / 10;
const PER_SECOND: u64 = RETRY as u64;

/// The retries that a client has left.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    left: AtomicI64,
    made: Instant,
    /// Up to when seconds were credited, in milliseconds since it was made.
    credited_ms: AtomicU64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { left: AtomicI64::new(FULL), made: Instant::now(), credited_ms: AtomicU64::new(0) }
    }
}

impl RetryBudget {
    /// A request succeeded.
    pub(crate) fn on_success(&self) {
        // The common case costs one load.
        if self.left.load(Relaxed) < FULL {
            self.add(SUCCESS);
        }
    }

    /// Whether a request that failed so may be sent again, and counts it if it may. `moves`: to a
    /// second node that is not busy, after the first.
    pub(crate) fn allows(&self, error: &Error, moves: bool) -> bool {
        moves || !costs(error) || self.spend_at(self.made.elapsed().as_millis() as u64)
    }

    fn spend_at(&self, now_ms: u64) -> bool {
        let credited = self.credited_ms.fetch_max(now_ms, Relaxed);
        let earned = now_ms.saturating_sub(credited).saturating_mul(PER_SECOND) / 1000;
        self.add(i64::try_from(earned).unwrap_or(FULL).min(FULL));
        let spent = |left: i64| (left >= RETRY).then_some(left - RETRY);
        self.left.fetch_update(Relaxed, Relaxed, spent).is_ok()
    }

    fn add(&self, credit: i64) {
        let added = |left: i64| Some((left + credit).min(FULL));
        // The update always gives a value.
        let _ = self.left.fetch_update(Relaxed, Relaxed, added);
    }
}

/// Whether the failed request was a load for a node that has too much of it, or would have been.
fn costs(error: &Error) -> bool {
    let slow = matches!(error.kind(), ErrorKind::Overloaded | ErrorKind::Timeout);
    let was_load = error.reach() != Reach::NotSent && error.detail() != Kind::DiskFull;
    // What was held back comes again as load.
    slow && (was_load || error.detail() == Kind::Overloaded)
}

#[cfg(test)]
mod tests {
    use quorate_proto::v1::ErrorDetail;
    use tonic::Code;

    use super::*;
    use crate::error::tests::status;

    #[test]
    fn a_client_that_meets_only_failures_is_left_with_one_retry_a_second() {
        let budget = RetryBudget::default();
        assert_eq!((0..2000).filter(|_| budget.spend_at(0)).count(), 1000);
        assert!(!budget.spend_at(999) || budget.left.load(Relaxed) < RETRY);
        let later = (0..500).filter(|_| budget.spend_at(10_000)).count();
        assert!((9..=10).contains(&later), "{later}");
    }

    #[test]
    fn ten_successes_pay_for_a_retry() {
        let budget = RetryBudget::default();
        (0..1000).for_each(|_| assert!(budget.spend_at(0)));
        (0..30).for_each(|_| budget.on_success());
        assert_eq!((0..500).filter(|_| budget.spend_at(0)).count(), 3);
        (0..20_000).for_each(|_| budget.on_success());
        assert_eq!((0..2000).filter(|_| budget.spend_at(0)).count(), 1000);
    }

    #[test]
    fn only_retries_of_what_a_node_bore_cost() {
        let refused = Error::new(ErrorKind::Overloaded, "full").reaching(Reach::Lost);
        assert!(costs(&refused) && costs(&Error::silent("n1", Default::default())));
        assert!(!costs(&Error::new(ErrorKind::Unavailable, "gone")));
        assert!(!costs(&Error::new(ErrorKind::Timeout, "never sent")));
        assert!(costs(&crate::welcome::held_back()));
        assert!(!costs(&Error::new(ErrorKind::Overloaded, "no turn")), "its wait was no load");
        let full = ErrorDetail { kind: Kind::DiskFull.into(), ..ErrorDetail::default() };
        assert!(!costs(&Error::from_status(&status(Code::ResourceExhausted, "full", full), "n1")));
    }

    #[test]
    fn to_go_to_a_second_node_is_free() {
        let (budget, refused) = (RetryBudget::default(), Error::silent("n1", Default::default()));
        while budget.allows(&refused, false) {}
        assert!(budget.allows(&refused, true));
    }
}
