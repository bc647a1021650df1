//! The ring: for each partition, every node, in the order in which the partition would ask them.
//!
//! The order must never depend on a machine, a compiler or the order of a configuration file,
//! since every member computes it for itself. So ids are hashed as fixed little-endian bytes under
//! a prefix of their kind, by xxh3, and golden vectors pin the outcome:
//!
//! ```text
//!   "node" + id       -> first virtual node -> its hash -> second virtual node -> ...
//!   "part" + number   -> first place asked  -> its hash -> second place asked  -> ...
//! ```
//!
//! A place on the ring belongs to the next virtual node clockwise; places whose node was met
//! before go on to the next new one. Each node has virtual nodes in proportion to its weight, 256
//! on average (Dynamo, SOSP 2007, section 4.2), which spreads a leaver's partitions over everyone.
//!
//! Left out: zones and load, which [`placement`](super::placement) adds. The walk itself is the
//! crate `consistent_hash_ring`, whose `replicas` never ends once it holds a node of weight 0;
//! such nodes are kept from it here.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

use consistent_hash_ring::RingBuilder;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::key::{NodeId, PartitionId};

/// Virtual nodes of a node of average weight: loads then vary by about 1 / sqrt(256), or 6 %.
const VIRTUAL_NODES: u128 = 256;

/// The nodes that may own data, on their hash ring.
#[derive(Clone)]
pub struct Ring(consistent_hash_ring::Ring<RingNode, RingHash>);

impl Ring {
    /// The ring of the nodes whose weight is not 0. Only the proportions of weights matter.
    pub fn new(weights: impl IntoIterator<Item = (NodeId, u32)>) -> Self {
        let weights: BTreeMap<NodeId, u32> =
            weights.into_iter().filter(|&(_, weight)| weight > 0).collect();
        let total = weights.values().map(|&weight| u128::from(weight)).sum();
        let count = weights.len() as u128;
        let nodes = weights
            .into_iter()
            .map(|(node, weight)| (RingNode(node), virtual_nodes(weight, count, total)));
        Self(RingBuilder::new(RingHash).weighted_nodes_iter(nodes).build())
    }

    /// Every node once, nearest first.
    pub fn order(&self, partition: PartitionId) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        self.0.replicas(RingPartition(partition)).map(|node| node.0)
    }

    /// How many nodes it holds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds no node.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("nodes", &self.len()).finish_non_exhaustive()
    }
}

/// In proportion to the weight, so that all together stay at about 256 times the nodes; at least 1.
fn virtual_nodes(weight: u32, count: u128, total: u128) -> usize {
    let share = (VIRTUAL_NODES * u128::from(weight) * count + total / 2) / total;
    usize::try_from(share.max(1)).expect("at most 256 for each node of the ring")
}

/// Reorders `order` so that zones take turns: first the nodes whose zone is used least, and among
/// those the nearest. `used` holds the zones of the nodes that were chosen already.
pub(super) fn zones_in_turn<T: Copy, Z: Ord>(
    order: impl IntoIterator<Item = T>,
    used: impl IntoIterator<Item = Z>,
    zone_of: impl Fn(T) -> Z,
) -> Vec<T> {
    let mut uses: BTreeMap<Z, u32> = BTreeMap::new();
    used.into_iter().for_each(|zone| *uses.entry(zone).or_default() += 1);
    let mut turns: Vec<(u32, T)> = Vec::new();
    for node in order {
        let turn = uses.entry(zone_of(node)).or_default();
        turns.push((*turn, node));
        *turn += 1;
    }
    turns.sort_by_key(|&(turn, _)| turn);
    turns.into_iter().map(|(_, node)| node).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct RingNode(NodeId);

impl Hash for RingNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&prefixed(*b"node", self.0.0));
    }
}

struct RingPartition(PartitionId);

impl Hash for RingPartition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&prefixed(*b"part", u64::from(self.0.0)));
    }
}

fn prefixed(kind: [u8; 4], id: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&kind);
    bytes[4..].copy_from_slice(&id.to_le_bytes());
    bytes
}

/// Builds [`RingHasher`]s.
#[derive(Clone, Copy)]
struct RingHash;

impl BuildHasher for RingHash {
    type Hasher = RingHasher;

    fn build_hasher(&self) -> RingHasher {
        RingHasher(0)
    }
}

/// xxh3 of what is written, seeded with the hash of what was written before.
struct RingHasher(u64);

impl Hasher for RingHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// The crate hashes hashes; the standard library would write them in the machine's byte order.
    fn write_u64(&mut self, number: u64) {
        self.write(&number.to_le_bytes());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(count: usize) -> Vec<(NodeId, u32)> {
        (1..=count).map(|i| (NodeId::of_name(&format!("node-{i}")), 1)).collect()
    }

    /// The order of a partition, each node by the number in its name.
    fn numbers(ring: &Ring, members: &[(NodeId, u32)], partition: u16) -> Vec<usize> {
        let number = |node| members.iter().position(|m| m.0 == node).unwrap() + 1;
        ring.order(PartitionId(partition)).map(number).collect()
    }

    /// Computed by a second implementation, in Python, of the walk that the module describes.
    #[test]
    fn orders_match_their_golden_vectors() {
        let equal = named(5);
        let ring = Ring::new(equal.iter().copied());
        let golden = [
            (0, [3, 5, 2, 4, 1]),
            (1, [2, 1, 5, 4, 3]),
            (255, [1, 2, 5, 4, 3]),
            (16383, [1, 3, 2, 5, 4]),
        ];
        for (partition, order) in golden {
            assert_eq!(numbers(&ring, &equal, partition), order, "partition {partition}");
        }
        let mut weighted = named(5);
        weighted.iter_mut().enumerate().for_each(|(i, member)| member.1 = 10 * i as u32);
        let ring = Ring::new(weighted.iter().copied());
        for (partition, order) in [(0, [5, 2, 3, 4]), (7, [5, 4, 2, 3]), (16383, [4, 2, 5, 3])] {
            assert_eq!(numbers(&ring, &weighted, partition), order, "weighted, {partition}");
        }
    }

    #[test]
    fn hashes_match_their_golden_vectors() {
        let node = RingHash.hash_one(RingNode(NodeId(1)));
        let partition = RingHash.hash_one(RingPartition(PartitionId(1)));
        assert_eq!((node, partition), (1804487331926852752, 6623863034268859361));
        assert_eq!(RingHash.hash_one(1_u64), 3439722301264460078);
    }

    #[test]
    fn weight_decides_how_often_a_node_comes_first() {
        let mut members = named(4);
        members[3].1 = 3;
        let ring = Ring::new(members.iter().copied());
        let firsts =
            |node| (0..6000).filter(|&p| ring.order(PartitionId(p)).next() == Some(node)).count();
        for (node, weight) in members {
            let expected = 1000 * weight as usize;
            assert!(firsts(node).abs_diff(expected) < expected / 4, "{node}: {}", firsts(node));
        }
    }

    #[test]
    fn weights_scale_without_bound_on_the_weight_but_with_one_on_the_ring() {
        assert_eq!(virtual_nodes(1, 3, 3), 256);
        assert_eq!(virtual_nodes(u32::MAX, 2, 2 * u128::from(u32::MAX)), 256);
        assert_eq!(virtual_nodes(1, 2, 1_000_001), 1);
        assert_eq!(virtual_nodes(1_000_000, 2, 1_000_001), 512);
    }

    #[test]
    fn a_node_of_weight_0_is_left_out_and_an_empty_ring_has_no_order() {
        let mut members = named(3);
        members[1].1 = 0;
        let ring = Ring::new(members.iter().copied());
        assert_eq!((ring.len(), ring.order(PartitionId(3)).count()), (2, 2));
        let empty = Ring::new([]);
        assert!(empty.is_empty());
        assert_eq!(empty.order(PartitionId(0)).count(), 0);
    }

    #[test]
    fn zones_take_turns_and_used_ones_wait() {
        let zone_of = |node: &str| node.as_bytes()[0];
        let order = ["a1", "a2", "b1", "a3", "c1", "b2"];
        assert_eq!(zones_in_turn(order, [], zone_of), ["a1", "b1", "c1", "a2", "b2", "a3"]);
        assert_eq!(zones_in_turn(order, [b'a'], zone_of), ["b1", "c1", "a1", "b2", "a2", "a3"]);
    }
}
