//! Recall: what an owner remembers of what the others said that they have seen.
//!
//! A store that is put back from an older copy knows nothing of what it acknowledged since. It looks like
//! one that was closed in order; but others may have heard more of it:
//!
//! ```text
//!   A tells B, in an exchange         F_A = {a: 1..=9}     B remembers that
//!   A's disk is put back              F_A = {a: 1..=5}
//!   A starts, and asks B                                   B: {a: 1..=9}, so A was rolled back
//! ```
//!
//! What is remembered only grows until its owner *settled* it: heard of it, since its store was opened, and
//! drew its conclusions. From then on what it tells takes the place of what it told before: or a write
//! that is nowhere any more would be held against it for ever.
//!
//! It is kept in memory, and bounded: what is forgotten is a copy that is not noticed.

use std::collections::BTreeMap;

use super::frontier::Frontier;
use super::key::{NodeId, VnodeId};

/// What was told by each other owner of each partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recall {
    told: BTreeMap<(VnodeId, NodeId), Frontier>,
    size: usize,
    size_max: usize,
}

impl Recall {
    /// Nothing; of at most so many actors and ranges of numbers together.
    pub fn new(size_max: usize) -> Self {
        Self { told: BTreeMap::new(), size: 0, size_max }
    }

    /// An owner told what it has seen, and whether it settled what it told before.
    pub fn on_told(&mut self, vnode: VnodeId, owner: NodeId, seen: &Frontier, settled: bool) {
        let before = self.told.remove(&(vnode, owner));
        self.size -= before.as_ref().map_or(0, size);
        let now = match before.filter(|_| !settled) {
            Some(mut before) => {
                before.join(seen);
                before
            }
            None => seen.clone(),
        };
        if self.size + size(&now) <= self.size_max {
            self.size += size(&now);
            self.told.insert((vnode, owner), now);
        }
    }

    /// What an owner told; none, if that is not known any more.
    pub fn of(&self, vnode: VnodeId, owner: NodeId) -> Option<&Frontier> {
        self.told.get(&(vnode, owner))
    }
}

/// How much memory it takes, in actors and ranges.
fn size(seen: &Frontier) -> usize {
    seen.iter().map(|(_, seen)| 1 + seen.ranges().len()).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::clock::{Actor, Dot};
    use super::super::key::PartitionId;
    use super::*;

    const VNODE: VnodeId = VnodeId { n: 3, partition: PartitionId(1) };

    fn seen(dots: &BTreeSet<u64>) -> Frontier {
        dots.iter().map(|&n| Dot { actor: Actor(1), n }).collect()
    }

    proptest! {
        /// The naive twin is the set of dots of each owner, which settles or adds.
        #[test]
        fn what_an_owner_told_is_remembered_until_it_settled_it(
            told in prop::collection::vec(
                (0..3u64, prop::collection::btree_set(1..20u64, 0..8), any::<bool>()), 0..20)
        ) {
            let (mut recall, mut twin) = (Recall::new(1 << 10), BTreeMap::new());
            for (owner, dots, settled) in told {
                recall.on_told(VNODE, NodeId(owner), &seen(&dots), settled);
                let of: &mut BTreeSet<u64> = twin.entry(owner).or_default();
                if settled {
                    of.clear();
                }
                of.extend(dots);
            }
            for owner in 0..3 {
                let expected = twin.get(&owner).map(seen);
                prop_assert_eq!(recall.of(VNODE, NodeId(owner)), expected.as_ref());
            }
            prop_assert_eq!(recall.size, recall.told.values().map(size).sum::<usize>());
        }
    }

    #[test]
    fn what_is_too_much_is_not_remembered() {
        let mut recall = Recall::new(3);
        let other = VnodeId { n: 3, partition: PartitionId(2) };
        recall.on_told(VNODE, NodeId(1), &seen(&[1, 2].into()), true);
        recall.on_told(other, NodeId(1), &seen(&[1].into()), true);
        assert_eq!((recall.of(other, NodeId(1)), recall.size), (None, 2));
        recall.on_told(VNODE, NodeId(1), &seen(&[4].into()), false);
        assert_eq!(recall.of(VNODE, NodeId(1)), Some(&seen(&[1, 2, 4].into())));
        recall.on_told(VNODE, NodeId(1), &seen(&[6].into()), false);
        assert_eq!((recall.of(VNODE, NodeId(1)), recall.size), (None, 0));
    }
}
