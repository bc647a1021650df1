//! Standing: may a replica's silence be believed?
//!
//! A read counts R owners so that one of them saw every acknowledged write (R + W > N). An owner
//! that lost what it had acknowledged breaks that sum, since *not found* from it means nothing:
//!
//! ```text
//!   write x, W=2     acknowledged by A and B
//!   A's disk dies    A starts again, empty
//!   read, R=2        A: nothing   C: nothing (it missed x)    → "not found", and x is on B
//! ```
//!
//! So an owner without standing gives values, which are merged like any other, and does not count
//! toward R. What a store says of its last opening tells whether it may have lost something:
//!
//! ```text
//!   found at the opening                            it counts
//!   none: it is new                                 at once: nothing was acknowledged from it
//!   closed, or open in this same run of the machine once another owner answers, and remembers no more
//!                                                   of it than it holds (else it is an older copy)
//!   else: the last moments may be missing           once it has seen what *every* other owner has
//!   it is an older copy                             the same
//!   it was made in the place of a lost one          once every other owner told all that it holds
//!   a vnode lost something without a trace          that vnode, once it has seen what *every* other owner
//!                                                   has, since
//! ```
//!
//! *Has seen*: what the other one told after this opening is in F here. F is kept over all of this, but
//! for the last two lines: it matches the objects, since both are lost together. What is found out is of
//! the store, not of one vnode, but for the last line: all that is in it is of one time.
//!
//! Why *every* other owner, be they in standing or not: what W owners acknowledged and this one lost is
//! on one of the others, if it is anywhere, and the one that is left out may be it. Of R owners one would
//! have it as well, but R is a request's to choose:
//!
//! ```text
//!   N=5, W=2     A and B acknowledge x; A's power is cut, and x gone from it
//!   A has seen what C, D, E have, as many as a quorum    a read with R=4 of A, C, D, E misses x
//! ```
//!
//! With fewer than all only the operator may be content. Owners that lack standing count among them: or
//! after a power cut of all, all would wait for each other.
//!
//! Source: none; Riak counts whoever answers. Left out: how two owners come to have seen the same (see
//! [`exchange`](super::exchange)), and what they remember of each other (see [`recall`](super::recall)).

use std::collections::BTreeSet;

use super::key::NodeId;
use super::quorum::Cause;

/// Whether an owner's silence about a key may be believed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Standing {
    /// It holds whatever it acknowledged: it counts toward R.
    #[default]
    Good,
    /// Its store is new, and does not hold yet what the one before acknowledged.
    Rebuilding,
    /// Its store was opened again, and may lack some of what it had acknowledged before.
    CatchingUp,
    /// It is no owner, and tells what it keeps as a hint: others' hints may be elsewhere.
    Fallback,
}

impl Standing {
    /// Whether it counts toward R.
    pub fn is_good(self) -> bool {
        self == Self::Good
    }

    /// Why it does not count toward R; none, if it does.
    pub fn doubt(self) -> Option<Cause> {
        match self {
            Self::Good => None,
            Self::Rebuilding | Self::Fallback => Some(Cause::Rebuilding),
            Self::CatchingUp => Some(Cause::CatchingUp),
        }
    }
}

/// One run of a machine, from its start to its end, however it ends: a power cut ends it, the end of a
/// process does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Boot(pub u64);

/// Why the silence of a store that was open before may not be believed. The greater one counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Doubt {
    /// It holds all that it acknowledged, or is an older copy that did.
    Unasked,
    /// Its machine began another run, and it was not closed before: what it acknowledged last may be
    /// missing.
    LostTail,
    /// Another owner remembers more of it than it holds.
    RolledBack,
    /// Of one vnode: something that it held is gone without a trace, or was replaced by what was there
    /// before. What else may be, nobody knows.
    Lost,
}

impl Doubt {
    /// Those of stores, in the order of their numbers on disk.
    pub const OF_STORES: [Self; 3] = [Self::Unasked, Self::LostTail, Self::RolledBack];

    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unasked, Self::LostTail, Self::RolledBack, Self::Lost];

    /// A word for it, for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::LostTail => "lost_tail",
            Self::RolledBack => "rolled_back",
            Self::Lost => "lost",
        }
    }

    /// What follows from what a store says of its last opening, in this run of the machine. None: it is
    /// new.
    pub fn at_opening(last: Option<&LastOpening>, now: Boot) -> Option<Self> {
        let last = last?;
        let tail = last.closed || last.boot == now;
        let tail = tail || planted!("standing_from_opening_after_a_power_cut");
        let doubt = if tail { Self::Unasked } else { Self::LostTail };
        // What was not made good before is not made good by another opening.
        Some(last.doubt.map_or(doubt, |before| before.max(doubt)))
    }
}

/// What a store says of its last opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastOpening {
    /// In which run of the machine it was.
    pub boot: Boot,
    /// Whether it ended in order: all that was acknowledged is on disk.
    pub closed: bool,
    /// What was still in doubt then.
    pub doubt: Option<Doubt>,
}

/// What the other owners of a vnode told it since its store was opened.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Answers {
    /// Those that said what they remember of this vnode.
    remembered: BTreeSet<NodeId>,
    /// Those that told what they have seen, all of which is seen here.
    met: BTreeSet<NodeId>,
}

impl Answers {
    /// An owner said what it remembers, and that was looked into.
    pub fn on_remembered(&mut self, owner: NodeId) {
        self.remembered.insert(owner);
    }

    /// Whether it did.
    pub fn is_remembered(&self, owner: NodeId) -> bool {
        self.remembered.contains(&owner)
    }

    /// All that an owner had seen, at a moment after the opening, is seen here.
    pub fn on_met(&mut self, owner: NodeId) {
        self.met.insert(owner);
    }

    /// The vnode lost something: what it has met before does not matter any more.
    pub fn on_lost(&mut self) {
        planted!("met_before_the_loss", { return });
        self.met.clear();
    }

    /// Whom of the `others`, who are the other owners that are waited for, a vnode is to hear before it
    /// counts; nobody: it does. Where it is enough that one answers, all are named.
    pub fn due(&self, doubt: Option<Doubt>, others: &[NodeId]) -> Vec<NodeId> {
        let any = |heard: &BTreeSet<NodeId>| others.iter().any(|owner| heard.contains(owner));
        match doubt {
            None => Vec::new(),
            Some(Doubt::Unasked) if any(&self.remembered) => Vec::new(),
            Some(Doubt::Unasked) => others.to_vec(),
            Some(_) if planted!("standing_after_one_exchange_of_two") && any(&self.met) => {
                Vec::new()
            }
            Some(_) => others.iter().copied().filter(|owner| !self.met.contains(owner)).collect(),
        }
    }
}

/// Which owners of a partition a store that is being rebuilt still has to hear: those among `owners`,
/// but for itself, that have neither told all they hold nor been excused by the operator.
pub fn unheard<'a>(
    owners: &'a [NodeId],
    me: NodeId,
    told: &'a BTreeSet<NodeId>,
    excused: &'a BTreeSet<NodeId>,
) -> impl Iterator<Item = NodeId> + 'a {
    let due = move |node: &NodeId| *node != me && !told.contains(node) && !excused.contains(node);
    owners.iter().copied().filter(due)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn every_other_owner_is_to_be_heard() {
        let owners = [1, 2, 3].map(NodeId);
        let left = |told: &[u64], excused: &[u64]| -> Vec<u64> {
            unheard(&owners, NodeId(1), &set(told), &set(excused)).map(|node| node.0).collect()
        };
        assert_eq!(left(&[], &[]), [2, 3]);
        assert_eq!(left(&[2], &[]), [3], "one of two is not enough: the other may have the write");
        assert_eq!(left(&[2], &[3]), [0; 0], "the operator's word");
        assert_eq!(left(&[2, 3, 4], &[]), [0; 0]);
    }

    #[test]
    fn a_store_is_doubted_for_what_may_have_become_of_it() {
        use Doubt::{LostTail, RolledBack, Unasked};
        let last = |boot, closed, doubt| LastOpening { boot: Boot(boot), closed, doubt };
        let cases = [
            (None, None),
            (Some(last(1, true, None)), Some(Unasked)),
            (Some(last(2, false, None)), Some(Unasked)),
            (Some(last(1, false, None)), Some(LostTail)),
            (Some(last(2, false, Some(Unasked))), Some(Unasked)),
            (Some(last(2, false, Some(LostTail))), Some(LostTail)),
            (Some(last(1, true, Some(LostTail))), Some(LostTail)),
            (Some(last(2, true, Some(RolledBack))), Some(RolledBack)),
            (Some(last(1, false, Some(RolledBack))), Some(RolledBack)),
        ];
        for (last, expected) in cases {
            assert_eq!(Doubt::at_opening(last.as_ref(), Boot(2)), expected, "{last:?}");
        }
    }

    #[test]
    fn who_is_to_be_heard_depends_on_the_doubt() {
        let others = [2, 3].map(NodeId);
        let due = |doubt, answers: &Answers| -> Vec<u64> {
            answers.due(doubt, &others).iter().map(|node| node.0).collect()
        };
        let mut answers = Answers::default();
        assert_eq!(due(None, &answers), [0; 0], "nothing was acknowledged from a new store");
        assert_eq!(due(Some(Doubt::Unasked), &answers), [2, 3]);
        assert_eq!(answers.due(Some(Doubt::Unasked), &[]), [], "with n = 1 nobody can be asked");
        assert_eq!(answers.due(Some(Doubt::LostTail), &[]), [], "and nobody has what it lost");
        answers.on_remembered(NodeId(3));
        assert_eq!(due(Some(Doubt::Unasked), &answers), [0; 0], "one of them is enough");
        assert_eq!(due(Some(Doubt::LostTail), &answers), [2, 3]);
        answers.on_met(NodeId(2));
        assert_eq!(due(Some(Doubt::RolledBack), &answers), [3]);
        answers.on_met(NodeId(3));
        assert_eq!(due(Some(Doubt::RolledBack), &answers), [0; 0]);
        answers.on_lost();
        assert_eq!(due(Some(Doubt::Lost), &answers), [2, 3], "what was met before is gone, too");
        answers.on_met(NodeId(2));
        answers.on_met(NodeId(3));
        assert_eq!(due(Some(Doubt::Lost), &answers), [0; 0]);
    }

    /// With as many as a quorum, the one that was left out may have what was lost: see above.
    #[test]
    fn a_quorum_of_the_others_is_not_enough_for_a_level_that_reads_choose() {
        let has = BTreeSet::from([2]);
        let [heard, read] = [[3, 4, 5].as_slice(), &[1, 3, 4, 5]];
        let me_has = heard.iter().any(|owner| has.contains(owner));
        let seen = read.iter().any(|owner| has.contains(owner) || (*owner == 1 && me_has));
        let (r, w, n) = (read.len(), 2, 5);
        assert!(r + w > n && !seen, "the read should see the write, and does not");
        let mut answers = Answers::default();
        heard.iter().for_each(|&owner| answers.on_met(NodeId(owner)));
        let others = [2, 3, 4, 5].map(NodeId);
        assert_eq!(answers.due(Some(Doubt::LostTail), &others), [NodeId(2)]);
    }

    proptest! {
        /// However many owners lose their power, at once or one after the other, and in whatever order
        /// they hear each other: as long as one owner has a write, each R of those that count have one
        /// that has it, if R + W > N.
        #[test]
        fn each_read_quorum_of_those_that_count_has_what_is_left(
            n in 2..7u64,
            holders in prop::collection::btree_set(0..7u64, 1..7),
            cut in prop::collection::btree_set(0..7u64, 0..7),
            heard in prop::collection::vec((0..7u64, 0..7u64), 0..60),
        ) {
            let mut has: BTreeSet<u64> = holders.into_iter().filter(|node| *node < n).collect();
            let w = has.len() as u64;
            let cut: BTreeSet<u64> = cut.into_iter().filter(|node| *node < n).collect();
            has.retain(|node| !cut.contains(node));
            prop_assume!(!has.is_empty());
            let mut answers: Vec<Answers> = vec![Answers::default(); n as usize];
            for (one, other) in heard.into_iter().filter(|(one, other)| one != other) {
                if one < n && other < n {
                    answers[one as usize].on_met(NodeId(other));
                    if has.contains(&other) {
                        has.insert(one);
                    }
                }
            }
            let counts = |node: &u64| {
                let others: Vec<_> = (0..n).filter(|other| other != node).map(NodeId).collect();
                let doubt = cut.contains(node).then_some(Doubt::LostTail);
                answers[*node as usize].due(doubt, &others).is_empty()
            };
            let without = (0..n).filter(counts).filter(|node| !has.contains(node)).count() as u64;
            // The smallest R that meets W.
            prop_assert!(without < n + 1 - w, "{without} of {n} count and have it not, w = {w}");
        }
    }

    proptest! {
        /// Why *every* other owner: whatever W owners acknowledged a write, one that was heard has it,
        /// unless this owner alone had.
        #[test]
        fn who_heard_all_others_has_every_write_that_another_owner_has(
            n in 1..6u64, acknowledged in prop::collection::btree_set(1..6u64, 1..6)
        ) {
            let owners: Vec<NodeId> = (1..=n).map(NodeId).collect();
            let me = NodeId(1);
            let acknowledged: BTreeSet<_> =
                acknowledged.into_iter().filter(|node| *node <= n).map(NodeId).collect();
            let elsewhere = acknowledged.iter().any(|node| *node != me);
            let nobody = BTreeSet::new();
            let heard: Vec<_> = unheard(&owners, me, &nobody, &nobody).collect();
            prop_assert_eq!(heard.iter().any(|node| acknowledged.contains(node)), elsewhere);
        }
    }
}
