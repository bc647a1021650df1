//! What owners ask each other about their trees of hashes.

use crate::dynamo::key::{Key, NamespaceId, VnodeId};
use crate::dynamo::merkle::{Children, Leaf, Listing, Node, Place, Summary};

/// Branches of one question: all of the lowest level, whose children have 64 KiB.
pub const BRANCHES_MAX: usize = 256;

/// Leaves of one question; the answer may be about the first of them alone.
pub const LEAVES_MAX: usize = 64;

/// Places of one question: each is looked up.
pub const PLACES_MAX: usize = 256;

/// A question about trees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeRequest {
    /// Of all that you have seen and hold of these partitions.
    Summaries(Vec<VnodeId>),
    /// The sums below these branches, at most [`BRANCHES_MAX`].
    Branches(VnodeId, Vec<Node>),
    /// What you hold in these leaves, at most [`LEAVES_MAX`].
    Leaves(VnodeId, Vec<Leaf>),
    /// Which keys you hold at these places, at most [`PLACES_MAX`].
    Names(VnodeId, Vec<Place>),
}

/// The answer to the [`TreeRequest`] of the same name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeReply {
    /// For each partition in its order; none if it cannot be told for now.
    Summaries(Vec<Option<Summary>>),
    /// For each branch in its order; none if the tree cannot be told for now.
    Branches(Option<Vec<Children>>),
    /// For the first leaves in their order, at least one: all that is held there, read from its records;
    /// none if some of it cannot be read.
    Leaves(Vec<Option<Listing>>),
    /// The keys, in the order of their places.
    Names(Vec<(NamespaceId, Key)>),
}
