//! A partition's objects as a tree of hashes, by which two owners find the keys whose values differ.
//!
//! Frontiers tell which writes an owner has not seen; they cannot tell that bytes changed by themselves, or
//! that a frontier vouches for what is not there. A tree is made of the values alone: where two owners' trees
//! are equal, so are their values, whatever either of them believes to have seen.
//!
//! ```text
//!   level 0   the root           1 sum     of all objects
//!   level 1   branches          16
//!   level 2   branches         256
//!   level 3   leaves          4096         of the objects whose place begins with these twelve bits
//!
//!   place of an object: 64 bits of a hash of namespace and key
//! ```
//!
//! A *sum* is that of the [values' hashes](super::object::Object::values_hash) of its objects modulo 2^128: so a
//! write changes it by the difference of two hashes, in any order with others; and a branch is the sum of its
//! children, so that only leaves need to be stored. Hashes are keyed, so that nobody outside the cluster can
//! choose values whose hashes cancel each other.
//!
//! Contexts and tombstones are not hashed, nor is a value left out since it expired: trees of owners that
//! hold the same must be equal, and what one of them cleans up, or sees a clock say, is no difference.
//! What a difference *means* the version vectors decide: the objects are merged.
//!
//! A write on its way makes trees differ, too. So a difference counts only if it is the same a moment
//! later: see [`Descent`].
//!
//! Source: Merkle (CRYPTO 1987) by way of DeCandia et al., "Dynamo" (SOSP 2007), section 4.7; sums for
//! hashes of concatenations after Bellare and Micciancio (EUROCRYPT 1997). Left out: who asks whom, and
//! where leaves lie.

use std::collections::{BTreeMap, BTreeSet};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::key::{Key, NamespaceId};

/// Children of a branch.
pub const FANOUT: usize = 16;

/// Leaves of a tree: with 256 partitions and a million keys there are as many leaves as keys, and an empty
/// leaf occupies nothing.
pub const LEAVES: u16 = 4096;

/// The level of the leaves.
pub const DEPTH: u8 = 3;

/// The sum of the hashes of some objects' values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Sum(pub u128);

impl Sum {
    /// The same, after the hash of an object that it counts has become another one.
    #[must_use]
    pub fn with(self, Change { before, after }: Change) -> Self {
        Self(self.0.wrapping_sub(before).wrapping_add(after))
    }

    /// Of all that these are of.
    pub fn of(sums: impl IntoIterator<Item = Self>) -> Self {
        sums.into_iter().fold(Self::default(), |all, one| Self(all.0.wrapping_add(one.0)))
    }
}

/// The hash of an object's values, which becomes another one; 0 if there are none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Change {
    /// As it was.
    pub before: u128,
    /// As it is.
    pub after: u128,
}

/// Where an object is in its tree.
///
/// Unlike the hash that chooses a key's partition it takes the whole key: keys that share a tag lie in
/// one partition, and in many leaves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place(pub u64);

impl Place {
    /// Of a key's object.
    pub fn of(namespace: NamespaceId, key: &Key) -> Self {
        // Beside the partition's hash this one must look drawn anew.
        const TREE: u64 = 0x7472_6565;
        Self(xxh3_64_with_seed(key.as_bytes(), namespace.0 ^ TREE.rotate_left(32)))
    }

    /// Its leaf.
    pub fn leaf(self) -> Leaf {
        Leaf((self.0 >> 52) as u16)
    }
}

/// A leaf, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Leaf(pub u16);

impl Leaf {
    /// The branch above it at a level.
    pub fn above(self, level: u8) -> Node {
        assert!(level <= DEPTH, "a tree has no level {level}");
        Node { level, index: self.0 >> (4 * (DEPTH - level)) }
    }
}

/// A node of a tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Node {
    /// 0 for the root, [`DEPTH`] for leaves.
    pub level: u8,
    /// Its number within the level, from 0.
    pub index: u16,
}

impl Node {
    /// The root.
    pub const ROOT: Self = Self { level: 0, index: 0 };

    /// A branch that exists; none if there is no such node, or it is a leaf.
    pub fn branch(level: u8, index: u16) -> Option<Self> {
        let count = 1_u32 << (4 * u32::from(level.min(DEPTH)));
        (level < DEPTH && u32::from(index) < count).then_some(Self { level, index })
    }

    /// The nodes below it, in their order.
    pub fn children(self) -> impl Iterator<Item = Self> {
        assert!(self.level < DEPTH, "a leaf has no children");
        let first = self.index * FANOUT as u16;
        (first..first + FANOUT as u16).map(move |index| Self { level: self.level + 1, index })
    }

    /// The leaves below it: the first, and how many.
    pub fn leaves(self) -> (Leaf, u16) {
        let shift = 4 * (DEPTH - self.level);
        (Leaf(self.index << shift), 1 << shift)
    }
}

/// The sums of the nodes below a branch.
pub type Children = [Sum; FANOUT];

/// What an owner says of all that it has seen and holds of a partition, in a few bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Of its frontier.
    pub fingerprint: u64,
    /// The root of its tree.
    pub root: Sum,
}

/// The leaves in which two trees differ, from the root down.
///
/// The same is done twice, a moment apart, the second time on the way to what differed the first time:
/// what is the same difference then is none that writes on their way make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descent {
    /// Whose children are to be compared, all of one level.
    branches: Vec<Node>,
    /// Our and their sums of leaves that differ.
    leaves: BTreeMap<Leaf, (Sum, Sum)>,
    /// What differed the first time.
    suspects: Option<BTreeMap<Leaf, (Sum, Sum)>>,
}

impl Default for Descent {
    fn default() -> Self {
        Self { branches: vec![Node::ROOT], leaves: BTreeMap::new(), suspects: None }
    }
}

impl Descent {
    /// The branches whose children are to be compared next; none: the leaves are known.
    pub fn branches(&self) -> &[Node] {
        &self.branches
    }

    /// Our and their children of these branches, in their order.
    pub fn on_children(&mut self, ours: &[Children], theirs: &[Children]) {
        assert_eq!((ours.len(), theirs.len()), (self.branches.len(), self.branches.len()));
        let mut below = Vec::new();
        for ((branch, ours), theirs) in self.branches.iter().zip(ours).zip(theirs) {
            for (child, (&ours, &theirs)) in branch.children().zip(ours.iter().zip(theirs)) {
                match child.level {
                    _ if ours == theirs || !self.is_on_the_way(child) => {}
                    DEPTH => drop(self.leaves.insert(Leaf(child.index), (ours, theirs))),
                    _ => below.push(child),
                }
            }
        }
        self.branches = below;
    }

    fn is_on_the_way(&self, node: Node) -> bool {
        let Some(suspects) = &self.suspects else { return true };
        let (Leaf(first), count) = node.leaves();
        suspects.range(Leaf(first)..=Leaf(first + (count - 1))).next().is_some()
    }

    /// Begins anew, at what was found to differ.
    pub fn again(self) -> Self {
        Self { suspects: Some(self.leaves), ..Self::default() }
    }

    /// The leaves that differ; the second time, those that differ as before.
    pub fn differing(&self) -> Vec<Leaf> {
        let as_before = |(leaf, sums): &(&Leaf, &(Sum, Sum))| {
            self.suspects.as_ref().is_none_or(|suspects| suspects.get(leaf) == Some(sums))
        };
        self.leaves.iter().filter(as_before).map(|(leaf, _)| *leaf).collect()
    }
}

/// What an owner holds in a leaf: each object's place, and the hash of its values, ascending.
pub type Listing = Vec<(Place, u128)>;

/// The places at which two owners hold different values, ours or theirs or both; ascending.
pub fn differing(ours: &Listing, theirs: &Listing) -> Vec<Place> {
    let [ours, theirs] = [ours, theirs].map(|list| list.iter().collect::<BTreeSet<_>>());
    let mut places: Vec<Place> =
        ours.symmetric_difference(&theirs).map(|(place, _)| *place).collect();
    places.dedup();
    places
}

#[cfg(test)]
mod tests;
