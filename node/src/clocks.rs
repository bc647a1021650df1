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
    /// It has not been compared with another one yet.
    Unknown,
    /// It is off by more than the bound.
    Off {
        /// How far it is certainly ahead of the median clock, in milliseconds; negative: behind.
        ahead_ms: i64,
    },
}

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

    /// Both clocks now.
    pub fn read(&self) -> Reading {
        let steady_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Reading { wall_ms: self.env.now_ms(), steady_ms }
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

    /// Whether the wall clock may order writes. `in_touch`: whether another member is connected, so
    /// that it will soon be compared if it was not yet.
    pub fn trust(&self, in_touch: bool) -> Trust {
        let (skew, now) = (self.skew.load(), self.read());
        if skew.is_empty() {
            return if in_touch { Trust::Unknown } else { Trust::Right };
        }
        match skew.is_off(self.max_ms, now) {
            false => Trust::Right,
            true => Trust::Off { ahead_ms: skew.ahead_ms(now).unwrap_or_default() },
        }
    }
}
