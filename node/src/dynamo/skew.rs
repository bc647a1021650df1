//! How far a node's wall clock is off from those of the other members.
//!
//! A node asks each of the others for its clock. The answer is taken to be true of the middle of the
//! round trip, and can be wrong by half of it (Cristian, "Probabilistic clock synchronization",
//! 1989). Of a difference only what exceeds that error is certain, and only that counts: a busy
//! machine must not look like a wrong clock.
//!
//! ```text
//!   asked at 100, answered at 120: "5130"     the other is 5020 ahead, give or take 13
//!   the certain differences to the others     0  0  5007   with its own, 0: median 0, it is right
//!   those that the other one sees             -5007 -5007 -5007, and 0: it is 5007 ahead
//! ```
//!
//! Which clock is right nobody knows, so the *median* of all that are known, the node's own
//! included, stands for the time; of two in the middle the further one, since without a majority
//! nobody is certainly right. An answer counts for ten minutes while its peer is away, less certain
//! by the second, since clocks drift. When the node's own wall clock is set, every difference changes
//! by as much; its steady clock tells, and the differences are corrected at once. (A machine that
//! slept looks as if it had been set, until the others answer again.)
//!
//! Invariant: while clocks are set at home alone, and drift by less than 1 ms a second, every
//! difference is true within its error; so a node that is said to be off is off from at least half of
//! the others that it knows.
//!
//! Left out: setting clocks, which is NTP's.

use std::collections::BTreeMap;

use super::key::NodeId;

/// What is lost where three clocks are read in whole milliseconds, here or there, then or now.
const ROUNDING_MS: i64 = 3;

/// In how many milliseconds two clocks may drift apart by one: NTP slews each by up to 500 ppm, and
/// what else they do is less.
const DRIFT_EVERY_MS: i64 = 1000;

/// How long an answer counts: its peer may be away for a while, and a node that was told that it is
/// off is not right for being left alone. But what was wrong may have been set right over there, and
/// this node must not wait for ever to hear so.
const KEPT_MS: u64 = 600_000;

/// Both clocks of a node at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// Its wall clock: milliseconds since the Unix epoch. It may be set, also backwards.
    pub wall_ms: u64,
    /// Its steady clock: milliseconds since some moment. It only moves forward.
    pub steady_ms: u64,
}

impl Reading {
    /// By how much the wall clock was set forward between `earlier` and this reading, in
    /// milliseconds; negative: back.
    pub fn set_since(self, earlier: Self) -> i64 {
        let wall_ms = difference(self.wall_ms, earlier.wall_ms);
        wall_ms.saturating_sub(difference(self.steady_ms, earlier.steady_ms))
    }
}

/// How far another node's clock is ahead of this one's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offset {
    /// Milliseconds; negative: it is behind.
    pub ms: i64,
    /// By how much that may be wrong.
    pub error_ms: i64,
}

impl Offset {
    /// What is certain of it: the value nearest to 0 that it may have.
    fn certain_ms(self) -> i64 {
        self.ms.signum() * self.ms.saturating_abs().saturating_sub(self.error_ms).max(0)
    }

    /// Whether both may be right.
    fn agrees(self, other: Self) -> bool {
        let apart_ms = self.ms.saturating_sub(other.ms).saturating_abs();
        apart_ms <= self.error_ms.saturating_add(other.error_ms)
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    offset: Offset,
    /// When it was taken.
    at: Reading,
}

/// What a node knows of the others' clocks.
#[derive(Clone, Default, Debug)]
pub struct Skew {
    peers: BTreeMap<NodeId, Sample>,
    /// What each showed when it was heard last, however long ago.
    told_ms: BTreeMap<NodeId, u64>,
}

impl Skew {
    /// `peer` answered `theirs_ms` by its wall clock. A slow answer that says nothing else than the
    /// one before does not take its place, since it is less certain.
    pub fn on_answer(&mut self, peer: NodeId, asked: Reading, answered: Reading, theirs_ms: u64) {
        self.told_ms.insert(peer, theirs_ms);
        let took_ms = answered.steady_ms.saturating_sub(asked.steady_ms);
        let middle_ms = asked.wall_ms.saturating_add(took_ms / 2);
        let error_ms = signed(took_ms.div_ceil(2)).saturating_add(ROUNDING_MS);
        let offset = Offset { ms: difference(theirs_ms, middle_ms), error_ms };
        let before = self.peers.get(&peer).and_then(|before| before.offset_at(asked));
        if before.is_some_and(|before| before.error_ms < error_ms && before.agrees(offset)) {
            return;
        }
        self.peers.insert(peer, Sample { offset, at: asked });
    }

    /// Forgets the nodes that are no members any more.
    pub fn retain(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.peers.retain(|&peer, _| is_member(peer));
        self.told_ms.retain(|&peer, _| is_member(peer));
    }

    /// Whether an answer of `peer` still counts `now`.
    pub fn knows(&self, peer: NodeId, now: Reading) -> bool {
        self.peers.get(&peer).is_some_and(|sample| sample.offset_at(now).is_some())
    }

    /// What the clock of `peer` showed when it was heard last: it shows more by now, unless it was set.
    pub fn told_ms(&self, peer: NodeId) -> Option<u64> {
        self.told_ms.get(&peer).copied()
    }

    /// How far each of the others is ahead of this node, `now`.
    pub fn offsets(&self, now: Reading) -> impl Iterator<Item = (NodeId, Offset)> + '_ {
        self.peers.iter().filter_map(move |(&peer, sample)| Some((peer, sample.offset_at(now)?)))
    }

    /// How far this node is certainly ahead of the median clock, in milliseconds; negative: behind.
    /// None if no other clock is known.
    pub fn ahead_ms(&self, now: Reading) -> Option<i64> {
        let mut ahead: Vec<i64> =
            self.offsets(now).map(|(_, offset)| -offset.certain_ms()).chain([0]).collect();
        ahead.sort_unstable();
        let (lower, upper) = (ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]);
        let further = if upper.abs() >= lower.abs() { upper } else { lower };
        (ahead.len() > 1).then_some(further)
    }

    /// Whether [`Self::ahead_ms`] is more than `max_ms` either way, or none; asked for each write, so
    /// without sorting: half of the clocks lie beyond, on one side.
    pub fn is_off(&self, max_ms: u64, now: Reading) -> Option<bool> {
        let max_ms = signed(max_ms);
        let (mut known, mut above, mut below) = (0, 0, 0);
        for (_, offset) in self.offsets(now) {
            known += 1;
            above += usize::from(offset.certain_ms() > max_ms);
            below += usize::from(offset.certain_ms() < -max_ms);
        }
        (known > 0).then_some(2 * above.max(below) > known)
    }
}

impl Sample {
    /// What it says `now`, less certain the older it is; none if it does not count any more.
    fn offset_at(&self, now: Reading) -> Option<Offset> {
        let age_ms = now.steady_ms.saturating_sub(self.at.steady_ms);
        let drift_ms = signed(age_ms) / DRIFT_EVERY_MS;
        let ms = self.offset.ms.saturating_sub(now.set_since(self.at));
        let error_ms = self.offset.error_ms.saturating_add(drift_ms);
        (age_ms <= KEPT_MS).then_some(Offset { ms, error_ms })
    }
}

/// `x - y`; clocks beyond the end of time count as being there.
fn difference(x: u64, y: u64) -> i64 {
    signed(x).saturating_sub(signed(y))
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
