//! Forgets operations past the hour for which retries are recognised.
//!
//! Their age is told by wall clocks, and a clock that is set may be wrong: if one that jumps ahead by
//! hours had the index forgotten and was then set right, an id minutes old would be new, and a client
//! that asks for its outcome would have the write applied again, over what was written since. So age
//! is measured from the *earliest* time that this node's clock showed within the last hour: an id
//! younger than an hour was issued, by this node, no earlier than that. Of ids that other nodes
//! issued that says nothing; a node whose clock is known to be off forgets none.
//!
//! ```text
//!   the clock shows      9:00   9:10   12:20 (set)   12:30 ... 13:10   13:20
//!   forgets all before   7:00   7:00    7:00          7:00      7:10   10:20
//! ```

use std::collections::VecDeque;
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

/// The pause between two batches of one round, so that requests pass between them.
const BETWEEN: Duration = Duration::from_millis(100);

/// Deletes old rows of the operation index.
pub struct ForgetOperations {
    shards: Shards,
    clocks: Arc<Clocks>,
    shown: Shown,
    more: bool,
}

impl ForgetOperations {
    /// Of these shards, by these clocks.
    pub fn new(shards: Shards, clocks: Arc<Clocks>) -> Self {
        let mut shown = Shown::default();
        shown.earliest_ms(clocks.read());
        Self { shards, clocks, shown, more: false }
    }
}

/// What this node's clocks showed within the last hour by the steady one, oldest first, and just
/// before that.
#[derive(Default)]
struct Shown(VecDeque<Reading>);

impl Shown {
    /// The earliest wall time shown, `now` included.
    fn earliest_ms(&mut self, now: Reading) -> u64 {
        let age_ms = |reading: &Reading| now.steady_ms.saturating_sub(reading.steady_ms);
        while self.0.get(1).is_some_and(|next| age_ms(next) >= OPERATION_KEPT_MS) {
            self.0.pop_front();
        }
        // Rounds that follow each other closely need no reading each.
        if self.0.back().is_none_or(|last| Duration::from_millis(age_ms(last)) >= EVERY / 2) {
            self.0.push_back(now);
        }
        self.0.iter().map(|reading| reading.wall_ms).chain([now.wall_ms]).min().unwrap_or_default()
    }
}

impl Worker for ForgetOperations {
    fn name(&self) -> &'static str {
        "forget_operations"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        sleep(if self.more { BETWEEN } else { EVERY }).boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            let earliest_ms = self.shown.earliest_ms(self.clocks.read());
            if self.clocks.is_off() {
                self.more = false;
                return Step::Done;
            }
            let before_ms = earliest_ms.saturating_sub(2 * OPERATION_KEPT_MS);
            match self.shards.forget_operations(before_ms).await {
                Ok(forgotten) => {
                    self.more = forgotten > 0;
                    Step::Done
                }
                Err(error) => {
                    self.more = false;
                    Step::Failed(error)
                }
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_ages_no_operation_within_the_hour() {
        const MINUTE_MS: u64 = 60_000;
        let mut shown = Shown::default();
        let mut after = |steady: u64, wall: u64| {
            let (steady_ms, wall_ms) = (steady * MINUTE_MS, wall * MINUTE_MS);
            shown.earliest_ms(Reading { wall_ms, steady_ms }) / MINUTE_MS
        };
        assert_eq!((after(0, 500), after(10, 510)), (500, 500));
        assert_eq!(after(20, 700), 500, "set ahead by three hours");
        assert_eq!((after(60, 740), after(70, 750)), (500, 510));
        assert_eq!(after(80, 760), 700, "whatever is younger was issued since");
        assert_eq!(after(90, 590), 590, "set back");
        assert_eq!(after(91, 591), 590);
        assert_eq!(after(92, 80), 80, "now counts, whenever the last reading was");
    }
}
