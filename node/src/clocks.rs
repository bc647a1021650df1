//! What this node knows of its own wall clock: read by every `lww` write, kept by a background task.
//!
//! The reckoning is [`dynamo::skew`](crate::dynamo::skew)'s; here are the clocks, and a place where
//! the task leaves what it learnt, to be read without a lock.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use crate::dynamo::key::NodeId;
use crate::dynamo::skew::{Offset, Reading, Skew};
use crate::env::Env;

/// This node's clocks, beside what the others told of theirs.
pub struct Clocks {
    env: Env,
    started: Instant,
    max_ms: u64,
    skew: ArcSwap<Skew>,
}

/// What the wall clock is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// It is within the bound, or there is nobody to compare it with.
    Right,
    /// It has not been compared with another one lately, and soon will be.
    Unknown,
    /// It is off by more than the bound.
    Off {
        /// How far it is certainly ahead of the median clock, in milliseconds; negative: behind.
        ahead_ms: i64,
    },
}

/// With whom the wall clock could be compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Others {
    /// The cluster has no other member.
    None,
    /// None of them is connected.
    Away,
    /// Some are connected.
    Connected,
}

/// How long after its start a node expects to be connected to others.
const SETTLED_AFTER_MS: u64 = 2_000;

/// How often both clocks are read before it is accepted that they were not read together.
const READ_TRIES: usize = 4;

impl Clocks {
    /// Clocks that were not compared with others yet, of which the wall clock may be off by
    /// `max_ms`. Called within a runtime.
    pub fn new(env: Env, max_ms: u64) -> Self {
        let skew = ArcSwap::from_pointee(Skew::default());
        Self { env, started: Instant::now(), max_ms, skew }
    }

    /// By how much the wall clock may be off, in milliseconds.
    pub fn max_ms(&self) -> u64 {
        self.max_ms
    }

    /// Both clocks now. A thread that is held up between the two reads them again, or the wall clock
    /// would seem to have been set.
    pub fn read(&self) -> Reading {
        let mut tries = 0;
        loop {
            let steady_ms = self.steady_ms();
            let reading = Reading { wall_ms: self.env.now_ms(), steady_ms };
            tries += 1;
            if self.steady_ms() <= steady_ms + 1 || tries == READ_TRIES {
                return reading;
            }
        }
    }

    fn steady_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What is known of the others.
    pub fn skew(&self) -> Arc<Skew> {
        self.skew.load_full()
    }

    /// Changes what is known of the others. One task does; of two at once one change would be lost.
    pub fn learn(&self, change: impl FnOnce(&mut Skew)) {
        let mut skew = Skew::clone(&self.skew.load());
        change(&mut skew);
        self.skew.store(Arc::new(skew));
    }

    /// How far the wall clock is ahead of the median clock, in milliseconds; negative: behind. None
    /// if no other clock is known.
    pub fn ahead_ms(&self) -> Option<i64> {
        self.skew.load().ahead_ms(self.read())
    }

    /// How far the others' clocks are ahead of this one.
    pub fn offsets(&self) -> Vec<(NodeId, Offset)> {
        self.skew.load().offsets(self.read()).collect()
    }

    /// Whether the wall clock may order writes. What the others told lately decides; `others`, which
    /// is asked for only then, if nobody told anything.
    ///
    /// With nobody to ask the clock is trusted: a node whose peers are all away, and of which one ack
    /// is asked, is to take writes, and is no more likely to be wrong than if it were alone in its
    /// cluster. That a member is connected or has just had no time to connect is another matter.
    pub fn trust(&self, others: impl FnOnce() -> Others) -> Trust {
        self.trust_at(self.read(), others)
    }

    /// Whether the wall clock as it was read just `now` may order writes.
    pub fn trust_at(&self, now: Reading, others: impl FnOnce() -> Others) -> Trust {
        let skew = self.skew.load();
        match skew.is_off(self.max_ms, now) {
            Some(false) => Trust::Right,
            Some(true) => Trust::Off { ahead_ms: skew.ahead_ms(now).unwrap_or_default() },
            None => match others() {
                Others::Connected => Trust::Unknown,
                Others::Away if now.steady_ms < SETTLED_AFTER_MS => Trust::Unknown,
                Others::Away | Others::None => Trust::Right,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::env::Clock;

    /// A wall clock that a test sets; it stands still in between.
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    const NOON_MS: u64 = 1_782_000_000_000;

    fn clocks() -> (Arc<Hand>, Clocks) {
        let hand = Arc::new(Hand(AtomicU64::new(NOON_MS)));
        (hand.clone(), Clocks::new(Env::simulated(hand, 1), 500))
    }

    /// Members that are so far ahead of the right time answer at once.
    fn hear(clocks: &Clocks, ahead_ms: &[i64]) {
        for (node, ahead_ms) in ahead_ms.iter().enumerate() {
            let (now, theirs) = (clocks.read(), NOON_MS.saturating_add_signed(*ahead_ms));
            clocks.learn(|skew| skew.on_answer(NodeId(node as u64), now, now, theirs));
        }
    }

    /// What others told, set against how far this clock is off, and whether it may order writes: if
    /// more than half of the known clocks agree with it, its own counted.
    #[tokio::test(start_paused = true)]
    async fn what_the_others_told_decides_whoever_is_connected() {
        let off = |ahead_ms| Trust::Off { ahead_ms };
        let cases: [(&[i64], i64, Trust); 9] = [
            (&[0, 0], 0, Trust::Right),
            (&[0, 0], 600_000, off(599_997)),
            (&[0, 0], -600_000, off(-599_997)),
            (&[0, 600_000], 0, Trust::Right),
            (&[600_000, 600_000], 0, off(-599_997)),
            // A minority was heard: agreement is enough, and disagreement too much.
            (&[0], 0, Trust::Right),
            (&[600_000], 0, off(-599_997)),
            (&[600_000], 600_000, Trust::Right),
            (&[200, -200], 100, Trust::Right),
        ];
        for (others, own_ms, expected) in cases {
            let (hand, clocks) = clocks();
            hear(&clocks, others);
            hand.0.store(NOON_MS.saturating_add_signed(own_ms), Ordering::Relaxed);
            let nobody_asks = || panic!("what is known decides");
            assert_eq!(clocks.trust(nobody_asks), expected, "{others:?}, {own_ms}");
        }
    }

    /// Nothing is known: just after the start, and later.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_nobody_can_be_asked_about_is_trusted() {
        let (_, clocks) = clocks();
        let trust = |others| clocks.trust(|| others);
        assert_eq!(trust(Others::None), Trust::Right, "a cluster of one waits for nobody");
        assert_eq!(trust(Others::Connected), Trust::Unknown);
        assert_eq!(trust(Others::Away), Trust::Unknown, "they had no time to connect");
        tokio::time::sleep(Duration::from_millis(SETTLED_AFTER_MS)).await;
        assert_eq!(trust(Others::Connected), Trust::Unknown);
        assert_eq!(trust(Others::Away), Trust::Right);
    }

    /// What was told is remembered when those who told it go away, but not for ever.
    #[tokio::test(start_paused = true)]
    async fn a_clock_known_to_be_off_stays_so_for_a_while_or_until_it_is_set() {
        let (hand, clocks) = clocks();
        hear(&clocks, &[-600_000, -600_000]);
        let away = || clocks.trust(|| Others::Away);
        assert!(matches!(away(), Trust::Off { .. }));
        hand.0.store(NOON_MS - 600_000, Ordering::Relaxed);
        assert_eq!(away(), Trust::Right, "set right, at once");
        hand.0.store(NOON_MS, Ordering::Relaxed);
        assert!(matches!(away(), Trust::Off { .. }), "and wrong again");
        tokio::time::sleep(Duration::from_secs(601)).await;
        assert_eq!(away(), Trust::Right, "whoever said so may have been set since");
    }
}
