//! What is done to which key, and when: everything from fixed seeds, so that two runs differ in
//! the cluster alone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

/// Zipf's exponent, the customary one (YCSB, Cooper et al., SoCC 2010): of a million keys the most
/// popular takes some 7 % of the operations.
const ZIPF_EXPONENT: f64 = 0.99;

/// How late a timer may wake a worker by itself: tokio's turn once a millisecond.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// Which keys are used, and how often.
pub(super) struct Keys {
    count: u64,
    zipf: Option<Zipf>,
}

impl Keys {
    pub(super) fn new(count: u64, zipf: bool) -> Self {
        Self { count, zipf: zipf.then(|| Zipf::new(count)) }
    }

    /// The key of an index in 0..count.
    pub(super) fn name(index: u64) -> Bytes {
        format!("bench-{index:012}").into()
    }

    /// Different keys, as many as `wanted`; fewer when popular ones keep coming up.
    pub(super) fn pick_batch(&self, wanted: usize, rng: &mut impl Rng) -> Vec<u64> {
        let mut picked = BTreeSet::new();
        for _ in 0..wanted * 4 {
            picked.insert(self.pick(rng));
            if picked.len() == wanted {
                break;
            }
        }
        picked.into_iter().collect()
    }

    pub(super) fn pick(&self, rng: &mut impl Rng) -> u64 {
        match &self.zipf {
            Some(zipf) => zipf.pick(rng),
            None => rng.random_range(0..self.count),
        }
    }
}

/// The generator of Gray et al., "Quickly generating billion-record synthetic databases" (1994).
struct Zipf {
    count: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    fn new(count: u64) -> Self {
        let zeta = |n: u64| (1..=n).map(|i| (i as f64).powf(-ZIPF_EXPONENT)).sum::<f64>();
        let (all, two) = (zeta(count), zeta(2));
        let count = count as f64;
        let eta = (1.0 - (2.0 / count).powf(1.0 - ZIPF_EXPONENT)) / (1.0 - two / all);
        Self { count, zeta: all, alpha: 1.0 / (1.0 - ZIPF_EXPONENT), eta }
    }

    fn pick(&self, rng: &mut impl Rng) -> u64 {
        let u: f64 = rng.random();
        let share = u * self.zeta;
        let index = if share < 1.0 {
            0.0
        } else if share < 1.0 + 0.5_f64.powf(ZIPF_EXPONENT) {
            1.0
        } else {
            self.count * (self.eta * u - self.eta + 1.0).powf(self.alpha)
        };
        index.min(self.count - 1.0) as u64
    }
}

/// Values that differ and do not compress: windows onto one block of random bytes, so that making
/// one costs nothing.
pub(super) struct Values {
    block: Bytes,
    size: usize,
}

impl Values {
    /// How many different windows there are.
    const WINDOWS: usize = 64 << 10;

    pub(super) fn new(size: usize) -> Self {
        let mut block = vec![0; size + Self::WINDOWS];
        ChaCha8Rng::seed_from_u64(0).fill_bytes(&mut block);
        Self { block: block.into(), size }
    }

    pub(super) fn slice(&self, seed: u64) -> Bytes {
        let at = (seed % Self::WINDOWS as u64) as usize;
        self.block.slice(at..at + self.size)
    }
}

/// When operations start.
pub(super) struct Schedule {
    started: Instant,
    ends: Instant,
    /// Operations per second; without one, each worker goes as fast as it can.
    rate: Option<u64>,
    tickets: AtomicU64,
}

/// What a worker does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Plan {
    /// Nothing more.
    Over,
    /// An operation at once, whose latency counts from then.
    Start(Instant),
    /// An operation that is due then.
    Wait(Instant),
}

impl Schedule {
    pub(super) fn new(started: Instant, duration: Duration, rate: Option<u64>) -> Self {
        Self { started, ends: started + duration, rate, tickets: AtomicU64::new(0) }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Waits until the worker's next operation is due, and says from when its latency counts;
    /// none when the time is over.
    pub(super) async fn next(&self) -> Option<Instant> {
        match self.plan(Instant::now()) {
            Plan::Over => None,
            Plan::Start(since) => Some(since),
            Plan::Wait(due) => {
                tokio::time::sleep_until(due).await;
                let woken = Instant::now();
                Some(if woken - due <= TIMER_SLACK { woken } else { due })
            }
        }
    }

    /// What a worker that is free at `now` does next.
    ///
    /// If it is free too late, latency counts from when the operation was due: else the answers
    /// that held it up would hide those that they delayed ("coordinated omission").
    fn plan(&self, now: Instant) -> Plan {
        if now >= self.ends {
            return Plan::Over;
        }
        let Some(rate) = self.rate else { return Plan::Start(now) };
        match self.due(self.tickets.fetch_add(1, Ordering::Relaxed), rate) {
            due if due >= self.ends => Plan::Over,
            due if due <= now => Plan::Start(due),
            due => Plan::Wait(due),
        }
    }

    /// How many operations were due and found no worker free before the end.
    pub(super) fn missed(&self) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let due = (self.ends - self.started).as_secs_f64() * rate as f64;
        (due as u64).saturating_sub(self.tickets.load(Ordering::Relaxed))
    }

    fn due(&self, ticket: u64, rate: u64) -> Instant {
        self.started + Duration::from_secs_f64(ticket as f64 / rate as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_the_same_in_every_run() {
        assert_eq!(Keys::name(42), "bench-000000000042");
        let (one, two) = (Values::new(100), Values::new(100));
        assert_eq!(one.slice(7), two.slice(7));
        assert_ne!(one.slice(7), one.slice(8));
        assert_eq!(one.slice(u64::MAX).len(), 100);
        assert!(Values::new(0).slice(3).is_empty());
    }

    #[test]
    fn every_key_is_in_range_and_equal_ones_are_equal() {
        let (keys, mut rng) = (Keys::new(10, false), ChaCha8Rng::seed_from_u64(1));
        let mut counts = [0; 10];
        for _ in 0..10_000 {
            counts[keys.pick(&mut rng) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_agrees_with_its_definition() {
        const COUNT: u64 = 1000;
        const PICKS: u32 = 100_000;
        let (keys, mut rng) = (Keys::new(COUNT, true), ChaCha8Rng::seed_from_u64(1));
        let mut counts = [0_u32; COUNT as usize];
        for _ in 0..PICKS {
            counts[keys.pick(&mut rng) as usize] += 1;
        }
        // The naive twin: the share of the first ten keys, and of the first hundred.
        let weight = |n: usize| (1..=n).map(|i| (i as f64).powf(-0.99)).sum::<f64>();
        for first in [1, 10, 100] {
            let share = f64::from(counts[..first].iter().sum::<u32>()) / f64::from(PICKS);
            let expected = weight(first) / weight(COUNT as usize);
            assert!((share - expected).abs() < 0.02, "{first}: {share} {expected}");
        }
    }

    #[test]
    fn keys_of_a_batch_differ() {
        let (keys, mut rng) = (Keys::new(100, false), ChaCha8Rng::seed_from_u64(1));
        let mut batch = keys.pick_batch(64, &mut rng);
        batch.dedup();
        assert_eq!(batch.len(), 64);
        assert_eq!(Keys::new(3, true).pick_batch(64, &mut rng), [0, 1, 2]);
    }

    #[test]
    fn zipf_of_few_keys_stays_in_range() {
        for count in 1..4 {
            let (keys, mut rng) = (Keys::new(count, true), ChaCha8Rng::seed_from_u64(1));
            assert!((0..1000).all(|_| keys.pick(&mut rng) < count), "{count}");
        }
    }

    #[test]
    fn a_late_operation_counts_from_when_it_was_due() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let schedule = Schedule::new(start, Duration::from_secs(1), Some(10));
        assert_eq!(schedule.plan(start), Plan::Start(start));
        for due_ms in [100, 200, 300] {
            assert_eq!(schedule.plan(at(350)), Plan::Start(at(due_ms)));
        }
        assert_eq!(schedule.plan(at(350)), Plan::Wait(at(400)));
        assert_eq!(schedule.plan(at(1000)), Plan::Over);
        assert_eq!(schedule.missed(), 5);
    }

    #[test]
    fn without_a_rate_there_is_always_more_until_the_end() {
        let start = Instant::now();
        let schedule = Schedule::new(start, Duration::from_secs(1), None);
        assert_eq!(schedule.plan(start), Plan::Start(start));
        assert_eq!(schedule.plan(start + Duration::from_secs(1)), Plan::Over);
        assert_eq!(schedule.missed(), 0);
    }
}
