//! Checkers: whether what clients were told and what nodes held can be true of a store that keeps
//! its promises. They know histories and the protocol's rules, and nothing of the code that they
//! judge: a mistake in the store is not repeated here.
//!
//! | | what a violation says | module |
//! |---|---|---|
//! | form | the history contradicts itself, so that nothing follows from it | `form` |
//! | I1 | an acknowledged write is lost | `lost` |
//! | I2 | a value shows that nobody wrote, or whose write was refused | `invented` |
//! | I3 | what a delete had seen is back | `resurrected` |
//! | I4 | one dot names two writes, or one write has two dots | `dots` |
//! | I5 | a node claims to have seen what its object does not reflect | `frontiers` |
//! | I6 | too many siblings, or a context that covers what was not shown | `siblings` |
//! | I7 | owners differ after all was repaired, or metadata forked | `agreement` |
//! | I7 | a tree of hashes is not that of its objects, at any time | `trees` |
//! | I8 | merging is not commutative, associative or idempotent | `merging` |
//! | I10 | a read misses what was acknowledged before it began | `stale` |
//! | I15 | a copy of a value expires at another time | `expiry` |
//! | I17 | a receipt names a node that does not have the write | `receipts` |
//! | I19 | a hint is forgotten that its owner has not on disk | `hints` |
//! | not found | a quorum denies what was acknowledged, though one node failed at a time | `denied` |
//!
//! Each is a pure function over an [`Index`], and reports all it finds; [`check`] runs them all but
//! [`merging`], which wants objects and the code. What
//! a write may be excused from, since all who had it lost it, is in `losses`; how writes supersede
//! each other in `causality`, and in namespaces where the last one wins in `last`.
//!
//! Left out: sessions (I9), typed values (I12, I13) and reaping (I21), which are not there yet. Reaping will change I1 and I3, which take for granted that owners keep
//! tombstones.

use std::fmt;

use crate::history::{Action, History};

mod agreement;
mod causality;
mod denied;
mod dots;
mod expiry;
mod form;
mod frontiers;
mod hints;
mod index;
mod invented;
mod last;
mod losses;
mod lost;
pub mod merging;
mod receipts;
mod resurrected;
mod settled;
mod siblings;
mod stale;
#[cfg(test)]
mod testing;
mod trees;

pub(crate) use self::causality::join;
pub use self::index::Index;
use self::index::OfKey;
pub use self::losses::reads_are_believed_until;

/// A promise that was broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which one: "I1" for example, or "form" if the history contradicts itself.
    pub invariant: &'static str,
    /// Which write, who was told what, and when.
    pub text: String,
    /// The operations concerned, by id.
    pub operations: Vec<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (operations {:?})", self.invariant, self.text, self.operations)
    }
}

/// What the checkers say of a history, and how much they had to go by: of a history in which
/// nothing happened there is nothing to object to.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Verdict {
    /// What is wrong, by invariant.
    pub violations: Vec<Violation>,
    /// How many writes were acknowledged.
    pub acknowledged: usize,
    /// How many of these are excused, since every node of their receipts lost them.
    pub excused: usize,
    /// How many writes have an unknown outcome, or none yet.
    pub unknown: usize,
    /// How many reads were answered.
    pub reads: usize,
    /// How many of them had to show what was acknowledged before them, or that there is something, if
    /// nothing had been lost before.
    pub promised: usize,
    /// How many of these had to: see [`reads_are_believed_until`].
    pub believed: usize,
    /// How many nodes tell the final state. If none does, I7, I1, and the part of I3 that is about
    /// the final state were not checked.
    pub settled: usize,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { violations, acknowledged, excused, unknown, reads, settled, .. } = self;
        let Self { promised, believed, .. } = self;
        for violation in violations {
            writeln!(f, "{violation}")?;
        }
        write!(f, "{} violations; {acknowledged} writes acknowledged, ", violations.len())?;
        write!(f, "{excused} of them excused, {unknown} unknown; ")?;
        write!(f, "{reads} reads, {believed} of {promised} believed; {settled} nodes settled")
    }
}

/// A checker: all that it finds.
type Checker = fn(&Index<'_>) -> Vec<Violation>;

/// In the order in which their findings help most: what makes other findings doubtful comes first.
const CHECKERS: [Checker; 14] = [
    form::check,
    dots::check,
    invented::check,
    lost::check,
    resurrected::check,
    frontiers::check,
    siblings::check,
    agreement::check,
    trees::check,
    stale::check,
    expiry::check,
    receipts::check,
    hints::check,
    denied::check,
];

/// Checks a history for everything.
pub fn check(history: &History) -> Verdict {
    let index = Index::new(history);
    let writes = || index.keys.values().flat_map(|of| &of.writes);
    let writes_of = |action: &Action| matches!(action, Action::Write { .. });
    let asked = history.operations.iter().filter(|op| writes_of(&op.action)).count();
    let acknowledged = writes().filter(|write| write.receipt.is_some()).count();
    let refused = asked - writes().count();
    let reads = || index.keys.values().flat_map(|of| &of.reads);
    let promised = || index.keys.values().flat_map(OfKey::promised);
    let until = reads_are_believed_until(history);
    Verdict {
        violations: CHECKERS.iter().flat_map(|checker| checker(&index)).collect(),
        acknowledged,
        excused: writes().filter(|write| write.lost_from.is_some()).count(),
        unknown: asked - refused - acknowledged,
        reads: reads().count(),
        promised: promised().count(),
        believed: promised().filter(|read| read.returned <= until).count(),
        settled: index.settled.len(),
    }
}

#[cfg(test)]
mod tests;
