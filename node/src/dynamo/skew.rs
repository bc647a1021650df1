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
//! nobody is certainly right. An answer stays good while its peer is away: clocks drift by
//! milliseconds a minute. When the node's own wall clock is set, every difference changes by as
//! much; its steady clock tells, and the differences are corrected at once.
//!
//! Left out: setting clocks, which is NTP's; filtering of samples, since the error of each is known.

use std::collections::BTreeMap;

use super::key::NodeId;

/// What is lost where three clocks are read in whole milliseconds, here or there, then or now.
const ROUNDING_MS: i64 = 3;

/// Both clocks of a node at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// Its wall clock: milliseconds since the Unix epoch. It may be set, also backwards.
    pub wall_ms: u64,
    /// Its steady clock: milliseconds since some moment. It only moves forward.
    pub steady_ms: u64,
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
        self.ms.signum() * (self.ms.saturating_abs() - self.error_ms).max(0)
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
}

impl Skew {
    /// `peer` answered `theirs_ms` by its wall clock.
    pub fn on_answer(&mut self, peer: NodeId, asked: Reading, answered: Reading, theirs_ms: u64) {
        let took_ms = answered.steady_ms.saturating_sub(asked.steady_ms);
        let middle_ms = asked.wall_ms.saturating_add(took_ms / 2);
        let error_ms = signed(took_ms.div_ceil(2)).saturating_add(ROUNDING_MS);
        let offset = Offset { ms: difference(theirs_ms, middle_ms), error_ms };
        self.peers.insert(peer, Sample { offset, at: asked });
    }

    /// Forgets the nodes that are no members any more.
    pub fn retain(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.peers.retain(|&peer, _| is_member(peer));
    }

    /// Whether no other clock is known.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Whether `peer` ever answered.
    pub fn knows(&self, peer: NodeId) -> bool {
        self.peers.contains_key(&peer)
    }

    /// How far each of the others is ahead of this node, `now`.
    pub fn offsets(&self, now: Reading) -> impl Iterator<Item = (NodeId, Offset)> + '_ {
        self.peers.iter().map(move |(&peer, sample)| (peer, sample.offset_at(now)))
    }

    /// How far this node is certainly ahead of the median clock, in milliseconds; negative: behind.
    /// None if no other clock is known.
    pub fn ahead_ms(&self, now: Reading) -> Option<i64> {
        let mut ahead: Vec<i64> =
            self.offsets(now).map(|(_, offset)| -offset.certain_ms()).chain([0]).collect();
        ahead.sort_unstable();
        let (lower, upper) = (ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]);
        let further = if upper.abs() >= lower.abs() { upper } else { lower };
        (!self.is_empty()).then_some(further)
    }

    /// Whether [`Self::ahead_ms`] is more than `max_ms` either way; asked for each write, so without
    /// sorting: half of the clocks lie beyond, on one side.
    pub fn is_off(&self, max_ms: u64, now: Reading) -> bool {
        let max_ms = signed(max_ms);
        let (mut above, mut below) = (0, 0);
        for (_, offset) in self.offsets(now) {
            above += usize::from(offset.certain_ms() > max_ms);
            below += usize::from(offset.certain_ms() < -max_ms);
        }
        2 * above.max(below) > self.peers.len()
    }
}

impl Sample {
    fn offset_at(&self, now: Reading) -> Offset {
        let wall = difference(now.wall_ms, self.at.wall_ms);
        let set_ms = wall.saturating_sub(difference(now.steady_ms, self.at.steady_ms));
        Offset { ms: self.offset.ms.saturating_sub(set_ms), ..self.offset }
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Reading = Reading { wall_ms: 1_000_000, steady_ms: 500 };

    fn later(wall_ms: u64, steady_ms: u64) -> Reading {
        let Reading { wall_ms: wall, steady_ms: steady } = NOW;
        Reading { wall_ms: wall + wall_ms, steady_ms: steady + steady_ms }
    }

    /// A node to whom the others answered at once, so many milliseconds ahead of it.
    fn skew(offsets: &[i64]) -> Skew {
        let mut skew = Skew::default();
        for (at, offset) in offsets.iter().enumerate() {
            let theirs_ms = NOW.wall_ms.saturating_add_signed(*offset);
            skew.on_answer(NodeId(at as u64), NOW, NOW, theirs_ms);
        }
        skew
    }

    #[test]
    fn the_middle_of_the_round_trip_counts() {
        let mut skew = Skew::default();
        skew.on_answer(NodeId(1), NOW, later(20, 20), NOW.wall_ms + 5030);
        let offset = Offset { ms: 5020, error_ms: 13 };
        assert_eq!(skew.offsets(later(20, 20)).next(), Some((NodeId(1), offset)));
        assert_eq!(skew.ahead_ms(NOW), Some(-5007), "only what is certain counts");
    }

    #[test]
    fn the_majority_is_right() {
        let cases: [(&[i64], i64); 8] = [
            (&[0, 0], 0),
            (&[0, 600_003], 0),
            (&[-600_003, -600_003], 600_000),
            (&[600_003, 600_003, 0], -600_000),
            (&[0, 0, 600_003], 0),
            (&[-600_003], 600_000),
            (&[-600_003, 600_003], 0),
            (&[-103, -103, -203, 50], 100),
        ];
        for (offsets, expected) in cases {
            assert_eq!(skew(offsets).ahead_ms(NOW), Some(expected), "{offsets:?}");
        }
        assert_eq!(Skew::default().ahead_ms(NOW), None);
        assert!(!Skew::default().is_off(0, NOW));
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_before_anybody_is_asked_again() {
        let skew = skew(&[0, 0]);
        assert!(!skew.is_off(500, later(3_600_000, 3_600_000)), "time just passed");
        assert!(skew.is_off(500, later(601_000, 1_000)));
        assert_eq!(skew.ahead_ms(later(601_000, 1_000)), Some(599_997));
        assert!(skew.is_off(500, Reading { wall_ms: 5, steady_ms: 1_500 }), "set backwards");
    }

    #[test]
    fn a_slow_answer_proves_little() {
        let mut skew = Skew::default();
        skew.on_answer(NodeId(1), NOW, later(3_000, 3_000), NOW.wall_ms + 3_000);
        assert!(!skew.is_off(500, NOW), "it took all of the difference to come back");
        skew.on_answer(NodeId(1), NOW, later(3_000, 3_000), NOW.wall_ms + 3_600);
        assert!(skew.is_off(500, NOW));
    }

    proptest! {
        #[test]
        fn the_fast_check_agrees_with_the_median(
            offsets in prop::collection::vec(-20..20i64, 0..7), max_ms in 0..12u64
        ) {
            let skew = skew(&offsets);
            let off = skew.ahead_ms(NOW).is_some_and(|ahead| ahead.unsigned_abs() > max_ms);
            prop_assert_eq!(skew.is_off(max_ms, NOW), off);
        }

        #[test]
        fn no_clock_makes_it_panic(
            theirs in any::<u64>(), wall in any::<u64>(), steady in any::<u64>(), max_ms in any::<u64>()
        ) {
            let mut skew = Skew::default();
            let now = Reading { wall_ms: wall, steady_ms: steady };
            skew.on_answer(NodeId(1), NOW, now, theirs);
            let _ = (skew.ahead_ms(now), skew.is_off(max_ms, now));
        }
    }
}
