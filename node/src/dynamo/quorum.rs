//! How many replicas a request waits for.
//!
//! A caller asks for a *level*; with the namespace's N it becomes a number (Dynamo, SOSP 2007,
//! section 4.5). Reads see the latest acknowledged write when R + W > N:
//!
//! ```text
//!   level     n=1  n=2  n=3  n=5
//!   one         1    1    1    1
//!   quorum      1    2    2    3     more than half
//!   all         1    2    3    5
//!   2       error    2    2    2     a plain number stands for itself
//! ```

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::key::NodeId;

/// How many of a key's N owners a read or write waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Level {
    /// The fastest owner.
    One,
    /// More than half of the owners.
    #[default]
    Quorum,
    /// Every owner.
    All,
    /// This many owners.
    Count(u8),
}

/// A level asks for fewer than one or more than N owners. Nothing was read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("level {k} with n = {n}: a level is one, quorum, all or a number from 1 to n")]
pub struct LevelError {
    /// How many owners were asked for.
    pub k: u8,
    /// How many owners there are.
    pub n: u8,
}

/// Text that names no level.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0:?} is no level: use one, quorum, all or a number from 1 to 255")]
pub struct LevelParseError(pub String);

impl Level {
    /// How many of `n` owners this is.
    pub fn resolve(self, n: u8) -> Result<u8, LevelError> {
        let k = match self {
            Self::One => 1,
            Self::Quorum => n / 2 + 1,
            Self::All => n,
            Self::Count(k) => k,
        };
        if (1..=n).contains(&k) { Ok(k) } else { Err(LevelError { k, n }) }
    }
}

impl FromStr for Level {
    type Err = LevelParseError;

    fn from_str(text: &str) -> Result<Self, LevelParseError> {
        match (text, text.parse()) {
            ("one", _) => Ok(Self::One),
            ("quorum", _) => Ok(Self::Quorum),
            ("all", _) => Ok(Self::All),
            (_, Ok(k)) if k > 0 => Ok(Self::Count(k)),
            _ => Err(LevelParseError(text.to_owned())),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => f.write_str("one"),
            Self::Quorum => f.write_str("quorum"),
            Self::All => f.write_str("all"),
            Self::Count(k) => k.fmt(f),
        }
    }
}

/// Where a request stands. Once it is reached or unreachable it stays so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Too early to tell.
    Pending,
    /// Enough owners answered.
    Reached,
    /// Even if all that are left answer, it is not enough.
    Unreachable,
}

/// Counts answers of owners against the number needed:
///
/// ```text
///   needed 2 of 3    acks 0   acks 1        acks 2    acks 3
///   failures 0       pending  pending       reached   reached
///   failures 1       pending  pending       reached   -
///   failures 2       unreachable            -         -
/// ```
///
/// Each owner is counted once, as an ack or as a failure: who counts sees to that. More may be
/// needed than there are owners (a cluster smaller than N): then nothing is ever enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tally {
    needed: u32,
    total: u32,
    acks: u32,
    failures: u32,
}

impl Tally {
    /// Nobody of `total` owners has answered; `needed`, from 1, must.
    pub fn new(needed: u8, total: usize) -> Self {
        assert!(needed > 0, "a level resolves to at least one owner");
        let total = u32::try_from(total).expect("N fits a byte");
        Self { needed: needed.into(), total, acks: 0, failures: 0 }
    }

    /// One more owner answered.
    pub fn ack(&mut self) {
        self.acks += 1;
        assert!(self.acks + self.failures <= self.total, "an owner was counted twice: {self:?}");
    }

    /// One more owner will not answer.
    pub fn fail(&mut self) {
        self.failures += 1;
        assert!(self.acks + self.failures <= self.total, "an owner was counted twice: {self:?}");
    }

    /// How many answers are needed.
    pub fn needed(&self) -> u32 {
        self.needed
    }

    /// How many owners answered.
    pub fn acks(&self) -> u32 {
        self.acks
    }

    /// Whether that is enough, or can be.
    pub fn verdict(&self) -> Verdict {
        if self.acks >= self.needed {
            Verdict::Reached
        } else if self.total - self.failures < self.needed {
            Verdict::Unreachable
        } else {
            Verdict::Pending
        }
    }
}

/// Why an owner, or its stand-in, did not answer. Only [`Cause::Refused`], [`Cause::Overloaded`],
/// [`Cause::HintsFull`] and [`Cause::Damaged`] say that it did nothing; after any other a write may have
/// been applied there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Cause {
    /// No answer in time.
    #[error("timed out")]
    Timeout,
    /// There was no connection, or it broke.
    #[error("was not connected")]
    Disconnected,
    /// Its queues are full.
    #[error("was overloaded")]
    Overloaded,
    /// It was to stand in for an owner, and has no room for that.
    #[error("keeps no more hints (hints_max_bytes is reached)")]
    HintsFull,
    /// It would not serve the request, as when it knows another layout.
    #[error("refused")]
    Refused,
    /// Its storage failed.
    #[error("could not read or write its storage")]
    Storage,
    /// Its record of the key is damaged: it knows nothing of the key, and took nothing for it.
    #[error("has a damaged record of the key")]
    Damaged,
    /// It holds a later write of the key, by a clock that is ahead of its own: see
    /// [`last`](super::object::last).
    #[error("holds a write that lies in the future; read the key and write with its context")]
    Future,
    /// It holds a later write of the key, and its clock or the coordinator's may be wrong.
    #[error("holds a write that may only seem later, by clocks that differ; read the key")]
    Clocks,
    /// The same, and the write is too old for that ever to be told: no retry will be acknowledged.
    #[error("holds a write that may only seem later, by clocks that differ or as this one is old")]
    Late,
    /// It is known not to answer, and was not asked.
    #[error("is not there")]
    Away,
    /// Its silence is not believed, since its store is being rebuilt; what it told was merged.
    #[error("does not count while it is being rebuilt")]
    Rebuilding,
    /// The same, since its store was opened again and may lack what it acknowledged before.
    #[error("does not count until it has caught up: it may lack what it had acknowledged")]
    CatchingUp,
}

impl Cause {
    /// Whether an owner that does not acknowledge a write for it has the write all the same.
    pub fn has_the_write(self) -> bool {
        matches!(self, Self::Future | Self::Clocks | Self::Late)
    }
}

/// An owner that did not answer, for the error message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The owner.
    pub node: NodeId,
    /// Why.
    pub cause: Cause,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.node, self.cause)
    }
}

/// Whether each of `nodes` is named once, without which owners cannot be counted.
pub(super) fn is_distinct(nodes: &[NodeId]) -> bool {
    nodes.iter().enumerate().all(|(at, node)| !nodes[..at].contains(node))
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn levels_resolve_as_in_the_table() {
        let error = |k, n| Err(LevelError { k, n });
        let cases = [
            (Level::One, [Ok(1), Ok(1), Ok(1), Ok(1)]),
            (Level::Quorum, [Ok(1), Ok(2), Ok(2), Ok(3)]),
            (Level::All, [Ok(1), Ok(2), Ok(3), Ok(5)]),
            (Level::Count(2), [error(2, 1), Ok(2), Ok(2), Ok(2)]),
            (Level::Count(0), [error(0, 1), error(0, 2), error(0, 3), error(0, 5)]),
        ];
        for (level, expected) in cases {
            assert_eq!([1, 2, 3, 5].map(|n| level.resolve(n)), expected, "{level}");
        }
    }

    #[test]
    fn two_quorums_of_one_n_always_meet() {
        for n in 1..=u8::MAX {
            let quorum = u16::from(Level::Quorum.resolve(n).unwrap());
            assert!(2 * quorum > n.into() && 2 * (quorum - 1) <= n.into(), "n = {n}");
        }
    }

    #[test]
    fn levels_parse_as_they_print() {
        for level in [Level::One, Level::Quorum, Level::All, Level::Count(1), Level::Count(255)] {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        for bad in ["", "0", "256", "-1", "Quorum", "two", "1 "] {
            assert_eq!(bad.parse::<Level>(), Err(LevelParseError(bad.to_owned())));
        }
    }

    #[test]
    fn the_error_names_both_numbers() {
        let error = Level::Count(4).resolve(3).unwrap_err();
        assert!(error.to_string().starts_with("level 4 with n = 3"), "{error}");
    }

    /// A tally of 3 owners.
    fn tally(needed: u8, acks: u32, failures: u32) -> Tally {
        let mut tally = Tally::new(needed, 3);
        (0..acks).for_each(|_| tally.ack());
        (0..failures).for_each(|_| tally.fail());
        tally
    }

    #[test]
    fn verdicts_are_as_in_the_table() {
        use Verdict::{Pending, Reached, Unreachable};
        // Per number needed: for each number of failures, the verdicts by number of acks.
        let cases: [(u8, [&[Verdict]; 4]); 4] = [
            (
                1,
                [
                    &[Pending, Reached, Reached, Reached],
                    &[Pending, Reached, Reached],
                    &[Pending, Reached],
                    &[Unreachable],
                ],
            ),
            (
                2,
                [
                    &[Pending, Pending, Reached, Reached],
                    &[Pending, Pending, Reached],
                    &[Unreachable, Unreachable],
                    &[Unreachable],
                ],
            ),
            (
                3,
                [
                    &[Pending, Pending, Pending, Reached],
                    &[Unreachable, Unreachable, Unreachable],
                    &[Unreachable, Unreachable],
                    &[Unreachable],
                ],
            ),
            (4, [&[Unreachable; 4], &[Unreachable; 3], &[Unreachable; 2], &[Unreachable]]),
        ];
        for (needed, by_failures) in cases {
            for (failures, by_acks) in (0..).zip(by_failures) {
                for (acks, verdict) in (0..).zip(by_acks) {
                    let tally = tally(needed, acks, failures);
                    assert_eq!(tally.verdict(), *verdict, "{tally:?}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "counted twice")]
    fn an_owner_is_counted_once() {
        tally(2, 2, 2);
    }

    #[test]
    fn a_failure_names_the_node_and_the_cause() {
        let failure = Failure { node: NodeId(10), cause: Cause::Timeout };
        assert_eq!(failure.to_string(), "000000000000000a timed out");
    }

    proptest! {
        /// The naive twin tries every way in which the owners that are left may answer.
        #[test]
        fn a_verdict_foresees_every_end(
            needed in 1..6u8,
            replies in prop::collection::vec(any::<bool>(), 0..6),
            left in 0..5usize,
        ) {
            let mut tally = Tally::new(needed, replies.len() + left);
            replies.iter().for_each(|&ack| if ack { tally.ack() } else { tally.fail() });
            let acks = replies.iter().filter(|&&ack| ack).count() as u32;
            let ends: Vec<bool> = (0..1u32 << left)
                .map(|end| acks + end.count_ones() >= needed.into())
                .collect();
            let expected = match (ends.iter().all(|&e| e), ends.iter().any(|&e| e)) {
                (true, _) => Verdict::Reached,
                (false, true) => Verdict::Pending,
                (false, false) => Verdict::Unreachable,
            };
            prop_assert_eq!(tally.verdict(), expected);
            prop_assert_eq!((tally.needed(), tally.acks()), (needed.into(), acks));
        }
    }
}
