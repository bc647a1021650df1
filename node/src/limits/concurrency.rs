//! How many client requests run at once: as many as end in good time.
//!
//! A fixed number is either too low for a fast disk or too high for a slow one: where a hundred
//! requests end each second, a thousand under way end after ten seconds, when nobody waits for them
//! any more. So the limit follows from how long requests take, as TCP's window follows from lost
//! packets (Chiu and Jain, "Analysis of the increase and decrease algorithms", 1989): it is halved when
//! more than a few end late, and each round of those in time adds one, of those that took less than half
//! of it an eighth: else a disk that paused for a second would be felt for ten.
//!
//! ```text
//!   limit  128 ─  all early, and so many were under way: 144, 162, ... 1024
//!   limit 1024 ─ 1024 start ─ 64 of them end late: 512 ─ the others of that round: no more
//!   limit  512 ─  all in time, and so many were under way: 513, 514, ... if early: 576, 648, ...
//! ```
//!
//! It starts low: where 1024 at once are far too many, the first second of an overload would else leave
//! a thousand writes *unknown*. Until it falls for the first time, each round in time adds a
//! thirty-second, early or not: where the other replicas are far away nothing is early ("slow start",
//! Jacobson, "Congestion avoidance and control", 1988).
//!
//! A few, one of sixteen in a round, are late for reasons of their own: a slow one after the other would
//! else hold the limit down for all. Requests that wait for other nodes in vain are late like others,
//! since where all nodes have too much to do, most of what is late is late so; but they lower the limit
//! no further than to an eighth of its bound: a few that hang on a node that does not answer would else
//! take all the places that are left. It falls further when of the others alone more than a few are
//! late, not by one of them that comes on top of those that hang.
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

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::retry_after_ms;
use crate::error::RequestError;

/// The limit never falls below it, unless its bound does: so few requests wait for each other on no
/// machine.
const LIMIT_MIN: u32 = 16;

/// Where the limit starts, unless its bound is lower.
const LIMIT_START: u32 = 128;

/// How far down the limit falls with the help of requests that waited for others in vain: an eighth of
/// its bound.
const OTHERS_PART: u32 = 8;

/// Which part of a round may be late; two of it in any case.
const LATE_PART: u32 = 16;
const LATE_MIN: u32 = 2;

/// Which part of the limit a round of early requests adds, and one in time before the limit ever fell.
const EARLY_PART: u32 = 8;
const UNTRIED_PART: u32 = 32;

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
    /// How many of the present round ended, and how many of them late.
    ended: AtomicU32,
    late: AtomicU32,
    /// How many of the late ones did not wait for others in vain.
    late_alone: AtomicU32,
    made: Instant,
    /// When the limit last fell, in microseconds since it was made.
    fell_us: AtomicU64,
}

/// Leave to run one request, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    of: Arc<Concurrency>,
    weight: usize,
    started: Instant,
    early_before: Duration,
    late_after: Duration,
    /// Whether it waited for others in vain, as far as is known: a client that goes away, so that its
    /// request is dropped, as a rule does so after having waited for long.
    in_vain: bool,
}

impl Concurrency {
    /// At most `max` at once, and fewer while they take longer than `target`, or than half of what
    /// their clients grant.
    pub fn new(max: u32, target: Duration) -> Arc<Self> {
        Arc::new(Self {
            max,
            target,
            limit: AtomicU32::new(max.min(LIMIT_START)),
            credit: AtomicU32::new(0),
            running: AtomicUsize::new(0),
            average_us: AtomicU64::new(0),
            ended: AtomicU32::new(0),
            late: AtomicU32::new(0),
            late_alone: AtomicU32::new(0),
            made: Instant::now(),
            fell_us: AtomicU64::new(0),
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
            return Ok(Permit {
                of: self.clone(),
                weight,
                started: Instant::now(),
                early_before: late_after.min(granted) / 2,
                late_after,
                in_vain: true,
            });
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
        let running = self.running.fetch_sub(permit.weight, Relaxed);
        let took = permit.started.elapsed();
        let average = self.average_us.load(Relaxed);
        // An update lost to another thread does not matter, here and below.
        let next = average - average / AVERAGE_OF + took.as_micros() as u64 / AVERAGE_OF;
        self.average_us.store(next, Relaxed);
        if self.micros(permit.started) < self.fell_us.load(Relaxed) {
            return;
        }
        let limit = self.limit();
        if self.ended.fetch_add(1, Relaxed) >= limit {
            for counter in [&self.ended, &self.late, &self.late_alone] {
                counter.store(0, Relaxed);
            }
        }
        if took > permit.late_after {
            self.on_late(limit, permit.in_vain);
        } else if limit < self.max && running * 2 >= limit as usize {
            // Only while the limit is what holds requests back: else it would rise without a reason.
            let untried = self.fell_us.load(Relaxed) == 0;
            let part = match took < permit.early_before {
                true => limit / EARLY_PART,
                false if untried => limit / UNTRIED_PART,
                false => 1,
            };
            self.rise(limit, part.max(1));
        }
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.made).as_micros() as u64
    }

    fn on_late(&self, limit: u32, in_vain: bool) {
        let few = (limit / LATE_PART).max(LATE_MIN);
        let alone = u32::from(!in_vain);
        let late = self.late.fetch_add(1, Relaxed) + 1;
        let late_alone = self.late_alone.fetch_add(alone, Relaxed) + alone;
        if late < few {
            return;
        }
        let part = if late_alone < few { self.max / OTHERS_PART } else { 0 };
        let half = (limit / 2).max(part.max(LIMIT_MIN).min(self.max));
        if half < limit && self.limit.compare_exchange(limit, half, Relaxed, Relaxed).is_ok() {
            self.fell_us.store(self.micros(Instant::now()), Relaxed);
            for counter in [&self.credit, &self.ended, &self.late, &self.late_alone] {
                counter.store(0, Relaxed);
            }
        }
    }

    fn rise(&self, limit: u32, adds: u32) {
        let credit = self.credit.fetch_add(adds, Relaxed) + adds;
        if credit >= limit {
            self.credit.store(credit % limit, Relaxed);
            let more = (limit + credit / limit).min(self.max);
            // Whoever lowered it meanwhile knew more.
            let _ = self.limit.compare_exchange(limit, more, Relaxed, Relaxed);
        }
    }
}

impl Permit {
    /// Ends the request, with these errors or without one. One that is dropped before its end counts
    /// as one that waited for others in vain.
    pub fn end<'e>(mut self, failures: impl IntoIterator<Item = &'e RequestError>) {
        self.in_vain = failures.into_iter().any(RequestError::is_for_others);
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

    /// One whose limit is as high as it may be.
    fn risen(max: u32, target: Duration) -> Arc<Concurrency> {
        let concurrency = Concurrency::new(max, target);
        concurrency.limit.store(max, Relaxed);
        concurrency
    }

    async fn round(concurrency: &Arc<Concurrency>, requests: usize, takes: Duration) -> usize {
        let permits: Vec<_> =
            (0..requests).map_while(|_| concurrency.enter(TARGET * 2).ok()).collect();
        tokio::time::sleep(takes).await;
        permits.into_iter().map(|permit| permit.end(None)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn over_the_limit_requests_are_refused_for_as_long_as_one_takes() {
        let concurrency = risen(2, TARGET);
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
        let concurrency = risen(64, TARGET);
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
                let concurrency = risen(64, TARGET);
                let permits: Vec<_> = (0..4).map(|_| concurrency.enter(granted).unwrap()).collect();
                tokio::time::sleep(took).await;
                permits.into_iter().for_each(|permit| permit.end(None));
                assert_eq!(concurrency.limit(), limit, "granted {granted:?}, took {took:?}");
            }
        }
    }

    /// Runs for ten seconds `rate` requests a second that take so long and end with `failed`; answers
    /// how many were let in.
    async fn run(
        concurrency: Arc<Concurrency>,
        rate: u32,
        takes: Duration,
        granted: Duration,
        failed: Option<RequestError>,
    ) -> usize {
        let mut under_way = tokio::task::JoinSet::new();
        let started = Instant::now();
        for n in 0..rate * 10 {
            tokio::time::sleep_until(started + Duration::from_secs(1) * n / rate).await;
            if let Ok(permit) = concurrency.enter(granted) {
                let failed = failed.clone();
                under_way.spawn(async move {
                    tokio::time::sleep(takes).await;
                    permit.end(failed.as_ref());
                });
            }
        }
        under_way.join_all().await.len()
    }

    #[tokio::test(start_paused = true)]
    async fn one_slow_request_after_the_other_does_not_hold_the_limit_down_for_all() {
        let concurrency = risen(1024, TARGET * 10);
        let others = run(concurrency.clone(), 1000, TARGET * 3, TARGET * 9, None);
        let slow = async {
            for _ in 0..30 {
                let permit = concurrency.enter(TARGET * 5).expect("there is a place");
                tokio::time::sleep(TARGET * 3).await;
                permit.end(None);
            }
        };
        let (let_in, ()) = tokio::join!(others, slow);
        assert_eq!((let_in, concurrency.limit()), (10_000, 1024));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_wait_for_other_nodes_in_vain_leave_places_for_others() {
        let concurrency = risen(1024, TARGET * 10);
        let lost = RequestError::QuorumNotReached { needed: 2, got: 1, detail: String::new() };
        // As many as 160 places can take: others need few.
        let hung = run(concurrency.clone(), 40, TARGET * 20, TARGET * 20, Some(lost));
        let good = run(concurrency.clone(), 500, TARGET / 50, TARGET * 20, None);
        let (_, good) = tokio::join!(hung, good);
        assert!(concurrency.limit() >= 128 && good > 4900, "{good} of 5000");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_for_others_in_vain_and_what_was_given_up_leave_an_eighth() {
        let timeout = RequestError::Timeout { waiting_for: String::new() };
        let lost = RequestError::QuorumNotReached { needed: 2, got: 1, detail: String::new() };
        let data = RequestError::Data { reason: String::new() };
        let cases = [
            // Of a batch, one that waited for others says what held it up.
            (Some(vec![data.clone(), lost.clone()]), 32),
            (Some(vec![lost, data.clone()]), 32),
            (Some(vec![timeout.clone().elsewhere()]), 32),
            (None, 32),
            (Some(vec![timeout, data]), LIMIT_MIN),
            (Some(Vec::new()), LIMIT_MIN),
        ];
        for (ended, limit) in cases {
            let concurrency = risen(256, TARGET);
            for _ in 0..8 {
                let permits: Vec<_> =
                    (0..256).map_while(|_| concurrency.enter(TARGET * 2).ok()).collect();
                tokio::time::sleep(TARGET * 2).await;
                for permit in permits {
                    match &ended {
                        Some(failures) => permit.end(failures),
                        None => drop(permit),
                    }
                }
            }
            assert_eq!(concurrency.limit(), limit, "{ended:?}");
        }
    }

    /// Of those that hang, most are late whenever they end: with one more the limit must not fall as
    /// low as they need it themselves.
    #[tokio::test(start_paused = true)]
    async fn a_slow_request_beside_those_that_wait_in_vain_does_not_take_the_places_they_leave() {
        let lost = RequestError::QuorumNotReached { needed: 2, got: 1, detail: String::new() };
        for (hung, slow_every_ms) in [(10, 2000), (15, 2000), (15, 1000), (18, 1000), (0, 1000)] {
            let concurrency = risen(1024, TARGET * 25);
            let for_a_minute = |rate, takes, failed: Option<RequestError>| {
                let one_of_six = |n| {
                    let run = run(concurrency.clone(), rate, takes, TARGET * 50, failed.clone());
                    async move {
                        tokio::time::sleep(Duration::from_secs(10) * n).await;
                        run.await
                    }
                };
                futures::future::join_all((0..6).map(one_of_six))
            };
            let slow = async {
                for _ in 0..60_000 / slow_every_ms {
                    let permit = concurrency.enter(TARGET * 10).expect("there is a place");
                    tokio::time::sleep(TARGET * 6).await;
                    permit.end(None);
                    assert!(concurrency.limit() >= 128, "{}", concurrency.limit());
                    tokio::time::sleep(Duration::from_millis(slow_every_ms) - TARGET * 6).await;
                }
            };
            // As many hang as 90 places can take.
            let hung = for_a_minute(hung, TARGET * 50, Some(lost.clone()));
            let good = for_a_minute(100, TARGET / 10, None);
            let (good, _, ()) = tokio::join!(good, hung, slow);
            assert_eq!(good.into_iter().sum::<usize>(), 6000);
        }
    }

    /// But those that end late alone say that this node has too much to do, whatever hangs beside.
    #[tokio::test(start_paused = true)]
    async fn late_requests_alone_take_the_limit_to_its_least_beside_those_that_wait_in_vain() {
        let concurrency = risen(1024, TARGET);
        let lost = RequestError::QuorumNotReached { needed: 2, got: 1, detail: String::new() };
        let hung = run(concurrency.clone(), 10, TARGET * 2, TARGET * 2, Some(lost));
        let late = run(concurrency.clone(), 1000, TARGET * 2, TARGET * 2, None);
        tokio::join!(hung, late);
        assert_eq!(concurrency.limit(), LIMIT_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ended_within_the_bound_but_late_for_its_client_does_not_raise_it_by_an_eighth() {
        let concurrency = risen(1024, TARGET);
        round(&concurrency, 1024, TARGET * 2).await;
        let granted = TARGET / 25;
        let permits: Vec<_> = (0..512).map(|_| concurrency.enter(granted).unwrap()).collect();
        tokio::time::sleep(granted).await;
        permits.into_iter().for_each(|permit| permit.end(None));
        assert_eq!(concurrency.limit(), 512);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_of_the_disk_early_requests_soon_have_their_limit_again() {
        let concurrency = risen(256, TARGET);
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
        let concurrency = risen(32, TARGET);
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

    #[tokio::test(start_paused = true)]
    async fn it_starts_low_and_is_soon_where_it_can_be() {
        // Of each round half counts.
        for (takes, at_least, at_most) in [(TARGET / 4, 18, 45), (TARGET, 67, 160)] {
            let concurrency = Concurrency::new(1024, TARGET);
            assert_eq!(round(&concurrency, 1024, takes).await, 128);
            let mut rounds = 1;
            while concurrency.limit() < 1024 {
                round(&concurrency, 1024, takes).await;
                rounds += 1;
            }
            assert!((at_least..=at_most).contains(&rounds), "{takes:?}: {rounds}");
        }
        assert_eq!(Concurrency::new(8, TARGET).limit(), 8);
    }
}
