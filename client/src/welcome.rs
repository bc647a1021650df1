//! Holding back from a node that refuses most of what it is asked.
//!
//! To refuse is cheap for a node, but not free: with three times what it can do offered, it spends on
//! refusals what answers would have needed. A client knows as much as the node does, since it was
//! refused, so it refuses some of its calls itself, before they cost anybody anything. It sends half as
//! many again as are taken on, so that it soon learns when the node can do more, and at least a quarter:
//! others may be why the node refuses, and to be ever more modest beside them would help nobody.
//!
//! ```text
//!   lately   taken on 100, refused  50     sent: all
//!            taken on 100, refused 200     sent: 150 of the next 300, by the dice
//!            taken on 100, refused 900     sent: 250 of the next 1000
//! ```
//!
//! Lately is the last second or two. Only what the node refuses for overload counts: to hold back
//! because keys without a quorum time out would take the others from who asks for them. So of the calls
//! that were held back those count that would have been answered, if they are like those sent: else a
//! client of many such keys would not see that the node can do more. After
//! "Site Reliability Engineering" (Beyer et al. 2016), chapter 21, "Client-side throttling".

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use quorate_proto::v1::error_detail::Kind;

use crate::error::{Error, ErrorKind};

/// How many calls are sent for two that are taken on.
const SENT_PER_TWO: u32 = 3;

/// Which part of the calls is sent at least: a quarter.
const SENT_PART: u32 = 4;

/// So many refusals prove nothing.
const FREE: u32 = 10;

/// After so long what was counted has half of its weight.
const HALF_LIFE_MS: u64 = 1000;

/// How a node took this client's calls lately.
#[derive(Debug, Default)]
pub(crate) struct Welcome {
    taken: AtomicU32,
    refused: AtomicU32,
    /// Calls that were not answered in time.
    silent: AtomicU32,
    held: AtomicU32,
    halved_ms: AtomicU64,
}

impl Welcome {
    /// Whether to hold back the next call, with `dice` in 0..1; counts it if so.
    pub(crate) fn holds_back(&self, now_ms: u64, dice: impl FnOnce() -> f64) -> bool {
        let excess = self.excess(now_ms);
        let wanted = self.wanted();
        let over = excess.min(wanted - wanted / SENT_PART);
        let held = over > 0 && dice() * f64::from(wanted) < f64::from(over);
        self.held.fetch_add(held.into(), Relaxed);
        held
    }

    /// How many calls there were lately over what is to be sent.
    pub(crate) fn excess(&self, now_ms: u64) -> u32 {
        self.age(now_ms);
        let taken = self.taken.load(Relaxed);
        let welcome = (taken.saturating_mul(SENT_PER_TWO) / 2).saturating_add(FREE);
        self.wanted().saturating_sub(welcome)
    }

    /// How many calls the node took on or refused lately, or would have.
    fn wanted(&self) -> u32 {
        let [taken, refused, silent, held] =
            self.counts().map(|count| u64::from(count.load(Relaxed)));
        let answered = taken + refused;
        let sent = (answered + silent).max(1);
        u32::try_from(answered + held * answered / sent).unwrap_or(u32::MAX)
    }

    fn counts(&self) -> [&AtomicU32; 4] {
        [&self.taken, &self.refused, &self.silent, &self.held]
    }

    /// The node took on a call.
    pub(crate) fn took(&self) {
        self.taken.fetch_add(1, Relaxed);
    }

    /// The node refused a call.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// The node did not answer a call in time, which may mean anything.
    pub(crate) fn was_silent(&self) {
        self.silent.fetch_add(1, Relaxed);
    }

    fn age(&self, now_ms: u64) {
        let halved = self.halved_ms.load(Relaxed);
        let periods = now_ms.saturating_sub(halved) / HALF_LIFE_MS;
        if periods == 0 {
            return;
        }
        let next = halved + periods * HALF_LIFE_MS;
        if self.halved_ms.compare_exchange(halved, next, Relaxed, Relaxed).is_ok() {
            let shift = periods.min(31) as u32;
            // A count that another thread adds meanwhile may be lost, which does not matter.
            self.counts()
                .iter()
                .for_each(|count| count.store(count.load(Relaxed) >> shift, Relaxed));
        }
    }
}

/// What is said of a call that was held back.
pub(crate) fn held_back() -> Error {
    let message = "it refused most of this client's calls lately, so this one was held back";
    Error::new(ErrorKind::Overloaded, message).because(Kind::Overloaded)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    /// Offers `rate` calls in each of `seconds` to a node that takes on `capacity` a second; how
    /// many were sent and taken on in the last of them.
    fn offer(welcome: &Welcome, from: u64, seconds: u64, rate: u32, capacity: u32) -> (u32, u32) {
        let mut rng = StdRng::seed_from_u64(1);
        let mut last = (0, 0);
        for second in from..from + seconds {
            let (mut sent, mut taken) = (0, 0);
            for n in 0..rate {
                let now_ms = second * 1000 + u64::from(n) * 1000 / u64::from(rate);
                if welcome.holds_back(now_ms, || rng.random()) {
                    continue;
                }
                sent += 1;
                // The node takes on evenly what it can.
                let takes = taken < capacity * (n + 1) / rate + 1;
                taken += u32::from(takes);
                match takes {
                    true => welcome.took(),
                    false => welcome.refused(),
                }
            }
            last = (sent, taken);
        }
        last
    }

    #[test]
    fn who_is_refused_seldom_holds_nothing_back() {
        let welcome = Welcome::default();
        assert_eq!(offer(&welcome, 0, 10, 1000, 1000), (1000, 1000));
        let (sent, _) = offer(&welcome, 10, 10, 1000, 700);
        assert_eq!(sent, 1000);
    }

    #[test]
    fn of_three_times_what_a_node_takes_on_half_as_many_again_are_sent_and_all_when_it_can_do_more()
    {
        let welcome = Welcome::default();
        let (sent, taken) = offer(&welcome, 0, 10, 3000, 1000);
        assert!((1350..1700).contains(&sent) && taken >= 999, "{sent} {taken}");
        let (sent, taken) = offer(&welcome, 10, 8, 3000, 3000);
        assert!(sent >= 2990 && taken >= 2990, "{sent} {taken}");
    }

    #[test]
    fn at_least_a_quarter_is_sent_and_a_node_that_takes_on_again_is_soon_trusted() {
        let welcome = Welcome::default();
        let (sent, _) = offer(&welcome, 0, 10, 1000, 0);
        assert!((220..290).contains(&sent), "{sent}");
        let (sent, _) = offer(&welcome, 10, 8, 1000, 1000);
        assert!(sent >= 990, "{sent}");
    }

    #[test]
    fn calls_that_nobody_answers_hold_nothing_back_and_do_not_hide_that_a_node_can_do_more() {
        let mut rng = StdRng::seed_from_u64(1);
        let (welcome, mut sent) = (Welcome::default(), 0);
        (0..1000).for_each(|_| welcome.was_silent());
        assert!(!welcome.holds_back(0, || 0.0));
        offer(&welcome, 0, 10, 1000, 0);
        for n in 0..10_000 {
            if welcome.holds_back(10_000 + n, || rng.random()) {
                continue;
            }
            sent += u32::from(n >= 9_000);
            match n % 5 {
                0 | 1 => welcome.was_silent(),
                _ => welcome.took(),
            }
        }
        assert!(sent >= 950, "{sent}");
    }

    #[test]
    fn a_few_refusals_hold_nothing_back_and_a_pause_forgets() {
        let welcome = Welcome::default();
        (0..FREE).for_each(|_| welcome.refused());
        assert!(!welcome.holds_back(0, || 0.0));
        (0..1000).for_each(|_| welcome.refused());
        assert!(welcome.holds_back(0, || 0.7) && !welcome.holds_back(0, || 0.8));
        assert!(!welcome.holds_back(60_000, || 0.0));
    }
}
