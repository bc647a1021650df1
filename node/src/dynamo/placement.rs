//! Placement: which N members own each partition, as one table.
//!
//! The table is a pure function of members, Q, N and the table before it, so that whoever proposes
//! a layout proposes the same one. It keeps four promises:
//!
//! - a partition's owners are spread over zones as evenly as the zones' sizes permit: with N zones
//!   or more they are N distinct ones;
//! - every member owns its share, rounded down or up: what its weight and the zones allow, which
//!   `shares` defines;
//! - within these two, as few (partition, owner) pairs as possible differ from the table before:
//!   not just few, but the fewest;
//! - owners are listed in ring order, and a first table follows the ring where it can.
//!
//! Bounded loads on a ring (Mirrokni et al., "Consistent hashing with bounded loads", 2018) walk on
//! from full nodes, which the zones can lead into a dead end. A flow of least cost cannot end
//! there, and moves least: what is kept costs nothing, what moves costs 1.
//!
//! ```text
//!   source -> partition -> its zones -> members -> sink     N per partition, a turn per zone,
//!                                                           1 per pair, the share per member
//!   Q = 256, N = 2     owners of 0, 1, 2, 3, ...     loads of a, b, c, d
//!   members a b c      ab  bc  ca  ab                171 171 170
//!   d joins            ad  bc  ca  db                128 128 128 128: 128 pairs moved
//! ```
//!
//! A weight of 0 drains a member: it owns nothing in the next table. With unequal weights or few
//! members even the fewest moves can exceed what a leaver held, since nobody takes over a partition
//! that it owns already.
//!
//! Left out: how data follows the table. Member names and zones come from the cluster's metadata.

mod flow;
mod shares;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::flow::{EdgeId, Network, SINK, SOURCE};
use self::shares::{Quota, ZoneTurn, quotas, zone_turns};
use super::key::{NodeId, PartitionCount, PartitionId};
use super::ring::{Ring, zones_in_turn};

/// A member of the cluster, as far as placement cares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacementMember {
    /// Who it is.
    pub node: NodeId,
    /// What it may lose together with others: a rack, a room, a data centre.
    pub zone: String,
    /// How much it should own, relative to others; 0: nothing.
    pub weight: u32,
}

/// The N owners of each partition, in ring order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    n: u8,
    partitions: PartitionCount,
    /// Q rows of N owners.
    table: Vec<NodeId>,
}

/// Why there is no placement. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PlacementError {
    /// N is 0.
    #[error("a partition needs at least one owner, and n is 0")]
    NoOwners,
    /// N owners need N members: add some, or give more of them a weight.
    #[error("{needed} owners need as many members of weight above 0, and there are {got}")]
    TooFewMembers {
        /// N.
        needed: usize,
        /// How many members have a weight above 0.
        got: usize,
    },
    /// Two members have one id.
    #[error("node {node} is listed twice")]
    MemberTwice {
        /// The id.
        node: NodeId,
    },
    /// A stored table does not have Q rows of N owners.
    #[error("the table needs {needed} owners and has {got}")]
    TableSize {
        /// Q * N.
        needed: usize,
        /// The length of the table.
        got: usize,
    },
    /// A stored table gives a partition the same owner twice.
    #[error("partition {} lists owner {node} twice", partition.0)]
    OwnerTwice {
        /// The partition.
        partition: PartitionId,
        /// The owner.
        node: NodeId,
    },
}

impl Placement {
    /// Places `partitions` on the members of weight above 0, `n` owners each, moving as little as
    /// possible from `previous`, whose N may differ; one of another Q tells nothing and is ignored.
    pub fn compute(
        members: &[PlacementMember],
        partitions: PartitionCount,
        n: u8,
        previous: Option<&Self>,
    ) -> Result<Self, PlacementError> {
        let members = eligible(members, n)?;
        let previous = previous.filter(|placement| placement.partitions == partitions);
        let ring = Ring::new(members.iter().map(|member| (member.node, member.weight)));
        let mut plan = Plan::new(&members, partitions, n);
        for (partition, order) in plan.shuffled(&ring, partitions) {
            match previous {
                Some(placement) => {
                    let owners = placement.owners(partition);
                    plan.add(partition, &order, |at| owners.contains(&members[at].node));
                }
                None => {
                    let zone_of = |at: usize| members[at].zone.as_str();
                    let wished = zones_in_turn(order.iter().copied(), [], zone_of);
                    plan.add(partition, &order, |at| wished[..n.into()].contains(&at));
                }
            }
        }
        Ok(Self { n, partitions, table: plan.solve() })
    }

    /// Takes a stored table: N owners of partition 0, then those of partition 1, and so on.
    pub fn from_table(
        n: u8,
        partitions: PartitionCount,
        table: Vec<NodeId>,
    ) -> Result<Self, PlacementError> {
        if n == 0 {
            return Err(PlacementError::NoOwners);
        }
        let needed = usize::from(partitions.get()) * usize::from(n);
        if table.len() != needed {
            return Err(PlacementError::TableSize { needed, got: table.len() });
        }
        for (partition, owners) in partitions.iter().zip(table.chunks(n.into())) {
            if let Some(node) = repeated(owners.iter().copied()) {
                return Err(PlacementError::OwnerTwice { partition, node });
            }
        }
        Ok(Self { n, partitions, table })
    }

    /// The N owners, in order of preference. Panics if `partition` is not below Q.
    pub fn owners(&self, partition: PartitionId) -> &[NodeId] {
        assert!(partition.0 < self.partitions.get(), "{partition:?} is not below Q");
        let n = usize::from(self.n);
        &self.table[usize::from(partition.0) * n..][..n]
    }

    /// The partitions that `node` owns, ascending.
    pub fn partitions_of(&self, node: NodeId) -> impl Iterator<Item = PartitionId> + '_ {
        self.partitions.iter().filter(move |&partition| self.owners(partition).contains(&node))
    }

    /// N, how many owners a partition has.
    pub fn n(&self) -> u8 {
        self.n
    }

    /// Q, how many partitions there are.
    pub fn partitions(&self) -> PartitionCount {
        self.partitions
    }

    /// The table as [`from_table`](Self::from_table) takes it.
    pub fn table(&self) -> &[NodeId] {
        &self.table
    }
}

/// The members that may own something, by id, so that the order they came in has no say.
fn eligible(members: &[PlacementMember], n: u8) -> Result<Vec<&PlacementMember>, PlacementError> {
    if n == 0 {
        return Err(PlacementError::NoOwners);
    }
    if let Some(node) = repeated(members.iter().map(|member| member.node)) {
        return Err(PlacementError::MemberTwice { node });
    }
    let mut eligible: Vec<_> = members.iter().filter(|member| member.weight > 0).collect();
    eligible.sort_by_key(|member| member.node);
    if eligible.len() < n.into() {
        return Err(PlacementError::TooFewMembers { needed: n.into(), got: eligible.len() });
    }
    Ok(eligible)
}

fn repeated(nodes: impl Iterator<Item = NodeId>) -> Option<NodeId> {
    let mut nodes: Vec<NodeId> = nodes.collect();
    nodes.sort_unstable();
    nodes.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// The network whose fullest flow is the table.
///
/// It has no lower bounds; capacities from the source imply them. What must flow (`least`) has a
/// way of its own, what may (`most` - `least`) shares one, and both are full in the end since
/// together they take just Q * N.
struct Plan<'a> {
    members: &'a [&'a PlacementMember],
    turns: BTreeMap<&'a str, ZoneTurn>,
    n: u32,
    network: Network,
    /// The vertex of the first member; the others follow.
    first: u32,
    /// An edge for each pair of partition and member, each partition's in ring order.
    pairs: Vec<(PartitionId, NodeId, EdgeId)>,
    /// Q * N.
    wanted: u32,
}

impl<'a> Plan<'a> {
    fn new(members: &'a [&'a PlacementMember], partitions: PartitionCount, n: u8) -> Self {
        let turns = zone_turns(members, n);
        let quotas = quotas(members, &turns, (partitions.get(), n));
        let wanted = u32::from(partitions.get()) * u32::from(n);
        let mut network = Network::new();
        let rounding = network.vertex();
        let first = rounding + 1;
        for Quota { least, most } in &quotas {
            let member = network.vertex();
            network.edge(member, SINK, *least, 0);
            network.edge(member, rounding, most - least, 0);
        }
        let rounded_down: u32 = quotas.iter().map(|quota| quota.least).sum();
        network.edge(rounding, SINK, wanted - rounded_down, 0);
        Self { members, turns, n: n.into(), network, first, pairs: Vec::new(), wanted }
    }

    fn index(&self, node: NodeId) -> usize {
        let found = self.members.binary_search_by_key(&node, |member| member.node);
        found.expect("the ring holds the eligible members")
    }

    /// The partitions with their ring orders, in an order that every change of members changes.
    ///
    /// Partitions that come first keep their owners and the last ones give theirs up. Were they the
    /// same ones each time, those who joined lately would own the same partitions, and when one of
    /// them left, the others could not take over from it.
    fn shuffled(
        &self,
        ring: &Ring,
        partitions: PartitionCount,
    ) -> impl Iterator<Item = (PartitionId, Vec<usize>)> + use<> {
        let row = |partition| {
            let nodes: Vec<NodeId> = ring.order(partition).collect();
            let bytes: Vec<u8> = nodes.iter().flat_map(|node| node.0.to_le_bytes()).collect();
            let order = nodes.iter().map(|&node| self.index(node)).collect();
            (xxh3_64_with_seed(&bytes, partition.0.into()), partition, order)
        };
        let mut rows: Vec<(u64, PartitionId, Vec<usize>)> = partitions.iter().map(row).collect();
        rows.sort();
        rows.into_iter().map(|(_, partition, order)| (partition, order))
    }

    /// Adds a partition, whose ring order is `order`; what it keeps of that costs nothing.
    fn add(&mut self, id: PartitionId, order: &[usize], kept: impl Fn(usize) -> bool) {
        let fixed: u32 = self.turns.values().map(|turn| turn.least).sum();
        let partition = self.network.vertex();
        self.network.edge(SOURCE, partition, self.n - fixed, 0);
        let mut zones: BTreeMap<&str, u32> = BTreeMap::new();
        for &index in order {
            let member = self.members[index];
            let zone = *zones.entry(&member.zone).or_insert_with(|| {
                add_zone(&mut self.network, partition, self.turns[&*member.zone])
            });
            let cost = u8::from(!kept(index));
            let pair = self.network.edge(zone, self.first + index as u32, 1, cost);
            self.pairs.push((id, member.node, pair));
        }
    }

    /// The table, flat.
    fn solve(mut self) -> Vec<NodeId> {
        let placed = self.network.fill();
        assert_eq!(placed, self.wanted, "a table within the quotas always exists");
        let mut used = self.pairs;
        used.retain(|&(_, _, pair)| self.network.flow(pair) > 0);
        used.sort_by_key(|&(partition, _, _)| partition);
        used.into_iter().map(|(_, node, _)| node).collect()
    }
}

/// A zone of one partition; the partition itself when the turn cannot bind.
fn add_zone(network: &mut Network, partition: u32, turn: ZoneTurn) -> u32 {
    if turn.least == 0 && turn.most == turn.size {
        return partition;
    }
    let zone = network.vertex();
    network.edge(SOURCE, zone, turn.least, 0);
    network.edge(partition, zone, turn.most - turn.least, 0);
    zone
}
