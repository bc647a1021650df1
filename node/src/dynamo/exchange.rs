//! Exchange: an owner fetches what another one has seen and it has not, at the cost of just that.
//!
//! Each owner of a partition knows by its [frontier](super::frontier) which writes it has seen, so that
//! two of them differ by the difference of two sets. A *dot log* says which key each dot is of; the key's
//! object is what is sent, since replicas merge whole objects.
//!
//! ```text
//!   B, which lags                              A
//!   hash of F_B              ──────────►       the same? then nothing else is said
//!                            ◄──────────       F_A, on disk there           A snapshots it *first*
//!   a moment later: left = F_A - F_B           (what was on its way has come meanwhile)
//!   of which keys are left?  ──────────►
//!                            ◄──────────       k: a:3 a:7   l: a:4          from A's log
//!   k is here, and covers a:3 a:7: seen
//!   l is not: read l         ──────────►
//!   merge, covers a:4: seen  ◄──────────       the object of l
//! ```
//!
//! Invariant: a dot enters F_B in the batch after which B's object of its key holds or covers it, which
//! is looked at and not believed. So by its log A cannot make F_B lie, whatever it lost meanwhile; and an
//! exchange that ends half-way has done half of the work. What cannot be seen, since a record is damaged
//! say, is set aside and holds up nothing. The dots of writes that were replaced
//! on A before B heard of them close in the same way: the log keeps them, and what replaced them covers
//! them.
//!
//! The log is bounded. Where it lacks dots that are left, B goes through the whole partition of A: every
//! object is merged, and then F_A, as it was before the first of them, joins F_B, if A still stands by it
//! and B knew its objects all the while: the *generation* of either is drawn anew whenever its vnode is
//! opened, and whenever it comes to doubt its frontier. Dots are forgotten by the log once every owner has them on disk.
//!
//! An owner that forgot its frontier *recounts*: it goes through its own objects and sees what they show.
//! Else nobody would ever ask it for a write that it alone has.
//!
//! Source: Gonçalves et al., "DottedDB" (SRDS 2017), with proof in the place of trust. Left out: trees of
//! hashes, by which a partition is compared without any log.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::clock::{Actor, Dot};
use super::format::encode_frontier;
use super::frontier::Frontier;
use super::key::{Key, NamespaceId};

/// Ranges of dots that are asked about at once: each is a look into the log.
const RANGES_MAX: usize = 512;

/// The most dots of one answer.
pub const DOTS_MAX: usize = 1024;

/// What an owner says of what it has seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// Names the time through which it stands by its frontier.
    pub generation: u64,
    /// What it has seen, and has on disk.
    pub frontier: Frontier,
    /// Whether it forgot some of that, and goes through its objects to see it again.
    pub recounting: bool,
}

/// What an owner says when another one tells it what that one has seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Compared {
    /// It has seen just the same, has it on disk, and forgot nothing.
    Same,
    /// It has seen this.
    Differs(Told),
    /// Nothing, for now.
    Unsaid,
}

/// What an owner answers about one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What it has seen.
    pub compared: Compared,
    /// What it [remembers](super::recall) of the one that asks, if that was asked for and is something
    /// else than that one has seen.
    pub remembered: Option<Frontier>,
}

/// A hash of a frontier: who has the same has seen the same.
pub fn fingerprint(frontier: &Frontier) -> u64 {
    xxh3_64(&encode_frontier(frontier))
}

/// A key, and writes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyDots {
    /// The key's namespace.
    pub namespace: NamespaceId,
    /// The key.
    pub key: Key,
    /// The writes, at least one, ascending.
    pub dots: Vec<Dot>,
}

/// What an owner is to do next to catch up with another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// Ask of which keys these dots are.
    Ask(Frontier),
    /// Go through the whole partition: nobody knows of which keys they are.
    Whole,
    /// Nothing.
    Nothing,
}

/// An owner that catches up with another one, by the other's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatchUp {
    left: Frontier,
    unlogged: bool,
    /// Whether some of what was last asked about was set aside: the log knows that, too.
    aside: bool,
}

impl CatchUp {
    /// With one that had seen `theirs`, by one that has seen `ours`.
    pub fn new(theirs: &Frontier, ours: &Frontier) -> Self {
        Self { left: theirs.minus(ours), unlogged: false, aside: false }
    }

    /// What comes next.
    pub fn next(&self) -> Next {
        match () {
            () if self.left.is_empty() => Next::Nothing,
            () if self.unlogged => Next::Whole,
            () => Next::Ask(self.left.first_ranges(RANGES_MAX)),
        }
    }

    /// The dots that were asked about are seen here as far as they are among these; none of them are
    /// logged there if these are none.
    pub fn on_seen<'a>(&mut self, seen: impl IntoIterator<Item = &'a Dot>) {
        let before = self.left.count();
        self.left = self.left.minus(&seen.into_iter().copied().collect());
        self.unlogged = self.left.count() == before && !std::mem::take(&mut self.aside);
    }

    /// These cannot be seen for now: they are left out.
    pub fn set_aside<'a>(&mut self, dots: impl IntoIterator<Item = &'a Dot>) {
        let before = self.left.count();
        self.left = self.left.minus(&dots.into_iter().copied().collect());
        self.aside |= self.left.count() < before;
    }

    /// How many dots are left.
    pub fn left(&self) -> u64 {
        self.left.count()
    }
}

/// Per actor, up to which number all of these have seen every dot: what no owner will ask a log for.
pub fn common_bases<'a>(frontiers: impl IntoIterator<Item = &'a Frontier>) -> BTreeMap<Actor, u64> {
    let mut frontiers = frontiers.into_iter();
    let Some(first) = frontiers.next() else { return BTreeMap::new() };
    let mut bases: BTreeMap<Actor, u64> =
        first.iter().map(|(actor, _)| (actor, first.base(actor))).collect();
    for frontier in frontiers {
        bases.iter_mut().for_each(|(actor, base)| *base = frontier.base(*actor).min(*base));
    }
    bases.retain(|_, base| *base > 0);
    bases
}

#[cfg(test)]
mod tests;
