//! How many calls to one node run at once, and how long the others wait for their turn.
//!
//! HTTP/2 holds back what is more than a node allows on a connection, in a line that nobody sees. A
//! call that leaves it carries a deadline from before it waited, and the node does it for a caller
//! that is about to give up: with more offered than the node can do, *every* call leaves the line so,
//! and nothing is in time. So calls wait here instead, first come, first served:
//!
//! ```text
//!   no place free     wait, for a quarter of the call's time at most
//!   got one           the call has what is left of its time, and tells the node so
//!   got none          Overloaded, at once known not to be sent: try another owner, or later
//! ```
//!
//! A quarter, so that most of the time is left for the node, whose own line comes after.

use std::time::Duration;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use crate::error::{Error, ErrorKind};

/// Which part of a call's time may be spent waiting.
const WAIT_PART: u32 = 4;

/// The places for calls to one node.
#[derive(Debug)]
pub(crate) struct Turns {
    places: Semaphore,
    max: usize,
}

/// One call's place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _place: SemaphorePermit<'a>,
    /// What is left of the call's time.
    pub(crate) left: Duration,
}

impl Turns {
    /// So many calls at once.
    pub(crate) fn new(max: usize) -> Self {
        Self { places: Semaphore::new(max), max }
    }

    /// Waits for a place for a call that may take `limit` in all.
    pub(crate) async fn take(&self, limit: Duration) -> Result<Turn<'_>, Error> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(Turn { _place: place, left: limit });
        }
        let began = Instant::now();
        match timeout(limit / WAIT_PART, self.places.acquire()).await {
            Ok(place) => {
                let _place = place.expect("places are never taken away");
                Ok(Turn { _place, left: limit.saturating_sub(began.elapsed()) })
            }
            Err(_) => Err(self.none_free(limit / WAIT_PART)),
        }
    }

    fn none_free(&self, waited: Duration) -> Error {
        let (max, waited) = (self.max, waited.as_millis());
        let message =
            format!("this client has {max} calls to it under way; no turn in {waited} ms");
        Error::new(ErrorKind::Overloaded, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reach;

    const LIMIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn who_waited_has_less_time_left_and_who_waited_too_long_was_not_sent() {
        let turns = Turns::new(1);
        let first = turns.take(LIMIT).await.unwrap();
        assert_eq!(first.left, LIMIT);
        let hold = async {
            tokio::time::sleep(LIMIT / 5).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(turns.take(LIMIT), hold);
        let second = second.unwrap();
        assert_eq!(second.left, LIMIT * 4 / 5);
        let began = Instant::now();
        let refused = turns.take(LIMIT).await.unwrap_err();
        assert_eq!((refused.kind(), refused.reach()), (ErrorKind::Overloaded, Reach::NotSent));
        assert!(!refused.is_node_failure(), "the node has done nothing");
        assert_eq!(began.elapsed(), LIMIT / 4);
        drop(second);
        assert_eq!(turns.take(LIMIT).await.unwrap().left, LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn with_three_times_what_a_node_can_do_calls_are_sent_with_most_of_their_time() {
        // The node does one call each 10 ms; one comes each 3.3 ms.
        let turns = std::sync::Arc::new(Turns::new(4));
        let node = std::sync::Arc::new(tokio::sync::Mutex::new(()));
        let mut calls = tokio::task::JoinSet::new();
        for n in 0..3000_u64 {
            tokio::time::sleep_until(Instant::now() + Duration::from_micros(3333)).await;
            let (turns, node) = (turns.clone(), node.clone());
            calls.spawn(async move {
                let turn = turns.take(LIMIT).await.ok()?;
                assert!(turn.left >= LIMIT * 3 / 4, "{n}: {:?}", turn.left);
                let done = async {
                    let _busy = node.lock().await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                };
                timeout(turn.left, done).await.ok()
            });
        }
        let ended = calls.join_all().await;
        let in_time = ended.iter().flatten().count();
        assert!(in_time > 900, "{in_time} of the 1000 that the node can do");
    }
}
