//! How many client requests run at once: as many as end in good time.
//!
//! A fixed number is either too low for a fast disk or too high for a slow one: where a hundred
//! requests end each second, a thousand under way end after ten seconds, when nobody waits for them
//! any more. So the limit follows from how long requests take, as TCP's window follows from lost
//! packets (Chiu and Jain, "Analysis of the increase and decrease algorithms", 1989): one that took
//! longer than the target halves it, those in time add one for each round of it. Those that took less
//! than half of it add an eighth: else a disk that paused for a second would be felt for ten.
//!
//! ```text
//!   limit 1024 ─ 1024 start ─ the first of them ends late: 512 ─ the others of that round: no more
//!   limit  512 ─  all in time, and so many were under way: 513, 514, ... if early: 576, 648, ...
//! ```
//!
//! Requests that started before the last decrease say nothing new, and are not heard. What is late
//! depends on who asks: after half of the time that a client grants, so that the way, a queue and a
//! retry have the other half; but one that grants a millisecond must not shrink the limit for all, nor
//! one that grants an hour fill the node for those who do not:
//!
//! ```text
//!   granted            0 ── 500 ms ─────── 5 s ──────
//!   late after        250 ms   half of it    2.5 s        with request_timeout_ms = 5000
//! ```

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::retry_after_ms;
use crate::error::RequestError;

/// The limit never falls below it: so few requests wait for each other on no machine.
const LIMIT_MIN: u32 = 16;

/// Which part of the limit a round of early requests adds.
const EARLY_PART: u32 = 8;

/// Which part of the target is never late, whatever a client grants.
const NEVER_LATE_PART: u32 = 10;

/// Which weight a request has in the average of how long they take.
const AVERAGE_OF: u64 = 16;

/// The requests under way, and how many may be.
#[derive(Debug)]
pub struct Concurrency {
    max: u32,
    target: Duration,
    limit: AtomicU32,
    /// What those in time add to the limit, in parts of one: as many as the limit.
    credit: AtomicU32,
    running: AtomicUsize,
    /// How long requests take, in microseconds, averaged.
    average_us: AtomicU64,
    /// When the limit last fell. Touched only by late requests.
    fell: Mutex<Option<Instant>>,
}

/// Leave to run one request, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    of: Arc<Concurrency>,
    weight: usize,
    started: Instant,
    late_after: Duration,
}

impl Concurrency {
    /// At most `max` at once, and fewer while they take longer than `target`, or than half of what
    /// their clients grant.
    pub fn new(max: u32, target: Duration) -> Arc<Self> {
        Arc::new(Self {
            max,
            target,
            limit: AtomicU32::new(max),
            credit: AtomicU32::new(0),
            running: AtomicUsize::new(0),
            average_us: AtomicU64::new(0),
            fell: Mutex::new(None),
        })
    }

    /// Leave to run one request whose client grants it so long, or how long to wait before asking
    /// again: as long as one takes now.
    pub fn enter(self: &Arc<Self>, granted: Duration) -> Result<Permit, RequestError> {
        self.enter_for(1, granted)
    }

    /// Leave to run what weighs as much as so many requests. It is let in when there is a place for
    /// one: else a heavy one might never be, where the limit is low or others are many.
    pub fn enter_for(
        self: &Arc<Self>,
        weight: usize,
        granted: Duration,
    ) -> Result<Permit, RequestError> {
        let limit = self.limit() as usize;
        let entered = self.running.fetch_add(weight, Relaxed) < limit;
        if entered {
            let late_after = (granted / 2).clamp(self.target / NEVER_LATE_PART, self.target);
            return Ok(Permit { of: self.clone(), weight, started: Instant::now(), late_after });
        }
        self.running.fetch_sub(weight, Relaxed);
        let what = "the node's limit of requests under way".to_owned();
        let average = Duration::from_micros(self.average_us.load(Relaxed));
        Err(RequestError::Overloaded { what, retry_after_ms: retry_after_ms(average) })
    }

    /// How many may run now.
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// How many run now.
    pub fn running(&self) -> usize {
        self.running.load(Relaxed)
    }

    fn ended(&self, permit: &Permit) {
        let &Permit { weight, started, late_after, .. } = permit;
        let running = self.running.fetch_sub(weight, Relaxed);
        let took = started.elapsed();
        let average = self.average_us.load(Relaxed);
        // An update lost to another thread does not matter.
        let next = average - average / AVERAGE_OF + took.as_micros() as u64 / AVERAGE_OF;
        self.average_us.store(next, Relaxed);
        if took > late_after {
            self.fall(started);
        } else if self.limit() < self.max {
            self.rise(running, took * 2 < late_after);
        }
    }

    fn fall(&self, started: Instant) {
        let mut fell = self.fell.lock().unwrap_or_else(PoisonError::into_inner);
        if fell.is_some_and(|fell| started < fell) {
            return;
        }
        *fell = Some(Instant::now());
        let limit = self.limit();
        self.limit.store((limit / 2).max(LIMIT_MIN.min(self.max)), Relaxed);
        self.credit.store(0, Relaxed);
    }

    /// Only while the limit is what holds requests back: else it would rise without a reason.
    fn rise(&self, running: usize, early: bool) {
        let limit = self.limit();
        if running * 2 < limit as usize {
            return;
        }
        let adds = if early { (limit / EARLY_PART).max(1) } else { 1 };
        let credit = self.credit.fetch_add(adds, Relaxed) + adds;
        if credit >= limit {
            self.credit.store(credit % limit, Relaxed);
            self.limit.store((limit + credit / limit).min(self.max), Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.of.ended(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_millis(100);

    async fn round(concurrency: &Arc<Concurrency>, requests: usize, takes: Duration) -> usize {
        let permits: Vec<_> =
            (0..requests).map_while(|_| concurrency.enter(TARGET * 2).ok()).collect();
        tokio::time::sleep(takes).await;
        permits.len()
    }

    #[tokio::test(start_paused = true)]
    async fn over_the_limit_requests_are_refused_for_as_long_as_one_takes() {
        let concurrency = Concurrency::new(2, TARGET);
        for _ in 0..100 {
            round(&concurrency, 2, Duration::from_millis(40)).await;
        }
        let _held =
            [concurrency.enter(TARGET * 2).unwrap(), concurrency.enter(TARGET * 2).unwrap()];
        let refused = concurrency.enter(TARGET * 2).unwrap_err();
        let RequestError::Overloaded { retry_after_ms, .. } = refused else { panic!("{refused}") };
        assert!((35..=40).contains(&retry_after_ms), "{retry_after_ms}");
        assert_eq!(concurrency.running(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_round_halves_the_limit_once_and_rounds_in_time_raise_it_by_one() {
        let concurrency = Concurrency::new(64, TARGET);
        assert_eq!(round(&concurrency, 100, Duration::from_millis(101)).await, 64);
        assert_eq!(concurrency.limit(), 32);
        assert_eq!(round(&concurrency, 100, Duration::from_millis(99)).await, 32);
        // The last ones of a round end when few are left, which says nothing of the limit.
        round(&concurrency, 100, Duration::from_millis(99)).await;
        assert_eq!(concurrency.limit(), 33);
        for _ in 0..10 {
            round(&concurrency, 100, Duration::from_millis(500)).await;
        }
        assert_eq!(concurrency.limit(), LIMIT_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn late_is_after_half_of_what_the_client_grants_within_bounds() {
        let cases = [
            // granted, late after
            (Duration::from_millis(1), TARGET / 10),
            (TARGET, TARGET / 2),
            (TARGET * 2, TARGET),
            (TARGET * 100, TARGET),
        ];
        for (granted, late_after) in cases {
            for (took, limit) in [(late_after, 64), (late_after + Duration::from_millis(1), 32)] {
                let concurrency = Concurrency::new(64, TARGET);
                let permit = concurrency.enter(granted).unwrap();
                tokio::time::sleep(took).await;
                drop(permit);
                assert_eq!(concurrency.limit(), limit, "granted {granted:?}, took {took:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_of_the_disk_early_requests_soon_have_their_limit_again() {
        let concurrency = Concurrency::new(256, TARGET);
        for _ in 0..3 {
            round(&concurrency, 256, TARGET * 2).await;
        }
        assert_eq!(concurrency.limit(), 32);
        let mut rounds = 0;
        while concurrency.limit() < 256 {
            round(&concurrency, 256, TARGET / 4).await;
            rounds += 1;
        }
        // Half of a round counts: when the others end, few are under way.
        assert!((16..=60).contains(&rounds), "{rounds}");
    }

    #[tokio::test(start_paused = true)]
    async fn few_requests_do_not_raise_it_and_it_never_passes_its_bound() {
        let concurrency = Concurrency::new(32, TARGET);
        round(&concurrency, 32, TARGET * 2).await;
        for _ in 0..100 {
            round(&concurrency, 3, TARGET / 2).await;
        }
        assert_eq!(concurrency.limit(), 16);
        for _ in 0..200 {
            round(&concurrency, 100, TARGET / 2).await;
        }
        assert_eq!(concurrency.limit(), 32);
    }
}
