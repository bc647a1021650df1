//! How much a node takes on at a time: what is over it is refused at once, with a delay.
//!
//! ```text
//!   client ─► connections ─► streams ─► concurrency ─► shard queue ─► engine
//!             (listener)     (HTTP/2)   requests_max   shard_queue
//!                       every large message on the way: budget, memory_max_bytes
//! ```
//!
//! A queue that is too long helps nobody: what waits in it ends after its client has gone, and the
//! work is thrown away. So every queue is short, requests whose time is over leave it undone, and the
//! number of requests under way follows from how long they take ([`concurrency`]). What they hold in
//! memory is counted where it is held ([`budget`]).
//!
//! Left out: fairness between clients; there are no identities to be fair to.

pub mod budget;
pub mod concurrency;
pub mod unread;

use std::sync::Arc;
use std::time::Duration;

use self::budget::Budget;
use self::concurrency::Concurrency;

/// The shortest and the longest delay that a refused client is asked for: below, it would be back
/// before anything has changed; above, a short overload would become a long one.
const RETRY_AFTER_MS: (u32, u32) = (10, 2000);

/// The delay, in milliseconds, of a client that is to come back when `wait` has passed.
pub fn retry_after_ms(wait: Duration) -> u32 {
    let (least, most) = RETRY_AFTER_MS;
    u32::try_from(wait.as_millis()).unwrap_or(most).clamp(least, most)
}

/// What a node can take.
#[derive(Clone, Debug)]
pub struct Capacity {
    /// How many requests of clients run at once.
    pub concurrency: Arc<Concurrency>,
    /// What they hold in memory.
    pub budget: Arc<Budget>,
    /// What the engine takes beside that, in bytes.
    pub engine_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_bounded() {
        assert_eq!(retry_after_ms(Duration::ZERO), 10);
        assert_eq!(retry_after_ms(Duration::from_millis(120)), 120);
        assert_eq!(retry_after_ms(Duration::MAX), 2000);
    }
}
