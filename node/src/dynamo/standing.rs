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
//! toward R. It has standing again once it merged what every other owner holds: each write that it
//! had acknowledged by quorum is on one of them at least. With fewer than all, the one that was left
//! out may be the one that has it; only the operator may say so and accept that.
//!
//! Left out: doubts of other kinds (a store that was rolled back, or lost a tail), which exchanges with
//! the other owners could end, and which would be told by the same word.

use std::collections::BTreeSet;

use super::key::NodeId;

/// Whether an owner's silence about a key may be believed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Standing {
    /// It holds whatever it acknowledged: it counts toward R.
    #[default]
    Good,
    /// Its store is new, and does not hold yet what the one before acknowledged.
    Rebuilding,
    /// It is no owner, and tells what it keeps as a hint: others' hints may be elsewhere.
    Fallback,
}

impl Standing {
    /// Whether it counts toward R.
    pub fn is_good(self) -> bool {
        self == Self::Good
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
