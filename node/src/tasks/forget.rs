//! Forgets operations past the hour for which retries are recognised.
//!
//! Their age is told by wall clocks, and a clock that is set may be wrong: if one that jumps ahead by
//! hours had the index forgotten and was then set right, an id minutes old would be new, and a client
//! that asks for its outcome would have the write applied again, over what was written since. So age
//! is measured from the *earliest* time that this node's clock showed within the last hour: an id
//! younger than an hour was issued, by this node, no earlier than that. Of ids that other nodes
//! issued that says nothing: a node whose clock is known to be ahead keeps them for so much longer.
//! No node keeps all, however wrong its clock, or its index would grow without end.
//!
//! An id whose time lies further in the future than that would be kept until then, and anybody can
//! send such. It is forgotten, since it is refused for its time, unless it is one that a node made up
//! and sends once. But what was *done* in this opening under an id that names it stays: only this
//! node's own clock can have issued that, and when its time comes it would be new.
//!
//! ```text
//!   the clock shows      9:00   9:10   12:20 (set)   12:30 ... 13:10   13:20
//!   forgets all before   7:00   7:00    7:00          7:00      7:10   10:20
//! ```

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::sleep;

use super::{Step, Worker};
use crate::clocks::Clocks;
use crate::dynamo::operation::OPERATION_KEPT_MS;
use crate::dynamo::skew::Reading;
use crate::shard::Shards;

/// How often: a few times within the hour for which they are kept.
const EVERY: Duration = Duration::from_secs(600);

/// Deletes old rows of the operation index.
pub struct ForgetOperations {
    shards: Shards,
    ages: Ages,
}

impl ForgetOperations {
    /// Of these shards, by these clocks.
    pub fn new(shards: Shards, clocks: Arc<Clocks>) -> Self {
        Self { shards, ages: Ages::new(clocks) }
    }
}

/// How old operations are, by clocks that may be wrong.
struct Ages {
    clocks: Arc<Clocks>,
    shown: Shown,
}

impl Ages {
    fn new(clocks: Arc<Clocks>) -> Self {
        let mut shown = Shown::default();
        shown.span_ms(clocks.read());
        Self { clocks, shown }
    }

    /// Whatever was issued before these times is certainly over an hour old; whatever was issued
    /// after them, was so by a clock that is wrong, or by none.
    fn kept_ms(&mut self) -> Range<u64> {
        let (earliest_ms, latest_ms) = self.shown.span_ms(self.clocks.read());
        let ahead_ms = self.clocks.ahead_ms().unwrap_or_default();
        let (ahead_ms, behind_ms) =
            (ahead_ms.max(0).unsigned_abs(), ahead_ms.min(0).unsigned_abs());
        let start = earliest_ms.saturating_sub(2 * OPERATION_KEPT_MS).saturating_sub(ahead_ms);
        let end = latest_ms.saturating_add(2 * OPERATION_KEPT_MS).saturating_add(behind_ms);
        start..end
    }
}

/// What this node's clocks showed within the last hour by the steady one, oldest first, and just
/// before that.
#[derive(Default)]
struct Shown(VecDeque<Reading>);

impl Shown {
    /// The earliest and the latest wall time shown, `now` included.
    fn span_ms(&mut self, now: Reading) -> (u64, u64) {
        let age_ms = |reading: &Reading| now.steady_ms.saturating_sub(reading.steady_ms);
        while self.0.get(1).is_some_and(|next| age_ms(next) >= OPERATION_KEPT_MS) {
            self.0.pop_front();
        }
        self.0.push_back(now);
        let wall_ms = self.0.iter().map(|reading| reading.wall_ms);
        wall_ms.fold((now.wall_ms, now.wall_ms), |(earliest_ms, latest_ms), wall_ms| {
            (earliest_ms.min(wall_ms), latest_ms.max(wall_ms))
        })
    }
}

impl Worker for ForgetOperations {
    fn name(&self) -> &'static str {
        "forget_operations"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        sleep(EVERY).boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            match self.shards.forget_operations(self.ages.kept_ms()).await {
                Ok(_) => Step::Done,
                Err(error) => Step::Failed(error),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamo::key::NodeId;
    use crate::env::{Clock, Env};

    struct Noon;

    impl Clock for Noon {
        fn now_ms(&self) -> u64 {
            NOON_MS
        }
    }

    const NOON_MS: u64 = 1_782_000_000_000;

    /// Two nodes whose clocks differ are both off, for as long as nobody sets one.
    #[tokio::test(start_paused = true)]
    async fn a_wrong_clock_forgets_all_the_same_and_never_what_is_an_hour_old_by_the_others() {
        const HOUR_MS: i64 = 3_600_000;
        const TWO_MS: i64 = 2 * HOUR_MS;
        for (ahead_ms, past_ms, future_ms) in [
            (0, TWO_MS, TWO_MS),
            (501, TWO_MS, TWO_MS),
            (-501, TWO_MS, TWO_MS),
            (12 * HOUR_MS, 14 * HOUR_MS, TWO_MS),
            (-12 * HOUR_MS, TWO_MS, 14 * HOUR_MS),
        ] {
            let clocks = Arc::new(Clocks::new(Env::simulated(Arc::new(Noon), 1), 500));
            let mut ages = Ages::new(clocks.clone());
            for node in [2, 3] {
                let (now, theirs) = (clocks.read(), NOON_MS.saturating_add_signed(-ahead_ms));
                clocks.learn(|skew| skew.on_answer(NodeId(node), now, now, theirs));
            }
            let kept = ages.kept_ms();
            let ends = [(NOON_MS - kept.start, past_ms), (kept.end - NOON_MS, future_ms)];
            // What answers leave uncertain is some milliseconds.
            let is_near = |(ms, expected): (u64, i64)| (ms as i64 - expected).abs() <= 510;
            assert!(ends.into_iter().all(is_near), "{ahead_ms}: {ends:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_ages_no_operation_within_the_hour() {
        const MINUTE_MS: u64 = 60_000;
        let (mut shown, mut latest) = (Shown::default(), 0);
        let mut after = |steady: u64, wall: u64| {
            let (steady_ms, wall_ms) = (steady * MINUTE_MS, wall * MINUTE_MS);
            let (earliest_ms, latest_ms) = shown.span_ms(Reading { wall_ms, steady_ms });
            latest = latest_ms / MINUTE_MS;
            earliest_ms / MINUTE_MS
        };
        assert_eq!((after(0, 500), after(10, 510)), (500, 500));
        assert_eq!(after(20, 700), 500, "set ahead by three hours");
        assert_eq!((after(60, 740), after(70, 750)), (500, 510));
        assert_eq!(after(80, 760), 700, "whatever is younger was issued since");
        assert_eq!(after(90, 590), 590, "set back");
        assert_eq!(after(91, 591), 590);
        assert_eq!(after(92, 80), 80, "now counts, whenever the last reading was");
        assert_eq!(latest, 760, "before it was set back");
    }
}
