//! One round of work for everybody who asked before it began.
//!
//! ```text
//!   asks      a   b c     d
//!   rounds    [ 1  ][ 2    ][ 3 ]     1 serves a; 2 serves b and c; 3 serves d
//! ```
//!
//! Nobody is served by a round that was under way when they asked: it may have looked too early.
//! So each waits for two rounds at most, and however many ask, one round runs at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Rounds of one kind of work.
pub(super) struct Rounds<T> {
    begun: AtomicU64,
    /// An async mutex, since it is the queue of those who wait; it guards no data of others.
    last: Mutex<Last<T>>,
}

struct Last<T> {
    began: Option<Instant>,
    /// The last round that ended, and what came of it; one that was given up has not ended.
    ended: Option<(u64, T)>,
}

impl<T> Default for Rounds<T> {
    fn default() -> Self {
        Self { begun: AtomicU64::new(0), last: Mutex::new(Last { began: None, ended: None }) }
    }
}

impl<T: Clone> Rounds<T> {
    /// The outcome of a round that begins after this call, at least `pause` after the one before:
    /// somebody else's, or `work`.
    pub(super) async fn join(&self, pause: Duration, work: impl Future<Output = T>) -> T {
        let asked = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some((round, outcome)) = &last.ended
            && *round > asked
        {
            return outcome.clone();
        }
        if let Some(began) = last.began {
            tokio::time::sleep_until(began + pause).await;
        }
        last.began = Some(Instant::now());
        let round = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let outcome = work.await;
        last.ended = Some((round, outcome.clone()));
        outcome
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_shares_a_round_and_a_loop_is_slowed_down() {
        let (rounds, ran) = (Rounds::default(), AtomicU64::new(0));
        let work = || async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            ran.fetch_add(1, Ordering::SeqCst)
        };
        let pause = Duration::from_millis(100);
        join_all((0..50).map(|_| rounds.join(pause, work()))).await;
        assert_eq!(ran.load(Ordering::SeqCst), 2, "one for the first, one for all others");

        let began = Instant::now();
        for _ in 0..5 {
            rounds.join(pause, work()).await;
        }
        assert_eq!(ran.load(Ordering::SeqCst), 7);
        assert!(began.elapsed() >= 4 * pause);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_under_way_or_given_up_serves_nobody_else() {
        let rounds = Rounds::default();
        let slow = |value| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            value
        };
        let first = rounds.join(Duration::ZERO, slow(1));
        let second = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            rounds.join(Duration::ZERO, slow(2)).await
        };
        assert_eq!(tokio::join!(first, second), (1, 2));

        let given_up = rounds.join(Duration::ZERO, std::future::pending());
        let given_up = tokio::time::timeout(Duration::from_millis(5), given_up);
        let (given_up, after) = tokio::join!(given_up, rounds.join(Duration::ZERO, slow(3)));
        assert!(given_up.is_err());
        assert_eq!(after, 3);
    }
}
