//! The preference list: whom a partition's requests go to, and who stands in.
//!
//! First the N owners, then every other member as a fallback (Dynamo, SOSP 2007, sections 4.3 and
//! 4.6). Fallbacks follow the ring, but zones that hold fewer of the list's nodes so far come
//! first, so that what one zone's failure takes from the owners comes to stand elsewhere:
//!
//! ```text
//!   ring order     a1  a2  b1  a3  c1        owners (n = 2)   a1  b1
//!   zones          a   a   b   a   c         fallbacks        c1  a2  a3
//! ```
//!
//! Left out: who is up. A list names candidates; the coordinator skips the dead ones.

use std::collections::BTreeMap;

use super::key::{NodeId, PartitionId};
use super::placement::{Placement, PlacementMember};
use super::ring::{Ring, zones_in_turn};

/// The nodes of one partition in order of preference: owners, then fallbacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreferenceList {
    nodes: Vec<NodeId>,
    owners: usize,
}

impl PreferenceList {
    /// The lists of all partitions, indexed by partition. Members of weight 0 are no fallbacks; an
    /// owner in the table stays one, whatever its weight is by now.
    pub fn all(placement: &Placement, members: &[PlacementMember]) -> Vec<Self> {
        let ring = Ring::new(members.iter().map(|member| (member.node, member.weight)));
        let zones = members.iter().map(|member| (member.node, member.zone.as_str())).collect();
        let partitions = placement.partitions().iter();
        partitions.map(|partition| Self::of(placement, partition, &ring, &zones)).collect()
    }

    fn of(
        placement: &Placement,
        partition: PartitionId,
        ring: &Ring,
        zones: &BTreeMap<NodeId, &str>,
    ) -> Self {
        let owners = placement.owners(partition);
        let others = ring.order(partition).filter(|node| !owners.contains(node));
        let used = owners.iter().filter_map(|node| zones.get(node).copied());
        let fallbacks = zones_in_turn(others, used, |node| zones[&node]);
        Self { nodes: [owners, &fallbacks].concat(), owners: owners.len() }
    }

    /// A list of given nodes, none of them twice.
    pub fn from_nodes(owners: &[NodeId], fallbacks: &[NodeId]) -> Self {
        let nodes = [owners, fallbacks].concat();
        let repeated = (1..nodes.len()).any(|at| nodes[..at].contains(&nodes[at]));
        assert!(!repeated, "a node stands in a preference list once: {nodes:?}");
        Self { nodes, owners: owners.len() }
    }

    /// The N owners, the most preferred first.
    pub fn owners(&self) -> &[NodeId] {
        &self.nodes[..self.owners]
    }

    /// Who stands in for owners, the most preferred first.
    pub fn fallbacks(&self) -> &[NodeId] {
        &self.nodes[self.owners..]
    }

    /// Owners, then fallbacks.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// Where `node` stands, from 0; owners come before N.
    pub fn position(&self, node: NodeId) -> Option<usize> {
        self.nodes.iter().position(|&listed| listed == node)
    }

    /// Whether `node` is an owner.
    pub fn is_owner(&self, node: NodeId) -> bool {
        self.owners().contains(&node)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dynamo::key::PartitionCount;

    fn members(zones: &[(&str, u32)]) -> Vec<PlacementMember> {
        let member = |(i, &(zone, weight)): (usize, &(&str, u32))| PlacementMember {
            node: NodeId::of_name(&format!("node-{i}")),
            zone: zone.to_owned(),
            weight,
        };
        zones.iter().enumerate().map(member).collect()
    }

    fn lists(members: &[PlacementMember], n: u8) -> Vec<PreferenceList> {
        let placement = Placement::compute(members, PartitionCount::default(), n, None).unwrap();
        PreferenceList::all(&placement, members)
    }

    #[test]
    fn fallbacks_come_from_unused_zones_first() {
        let members = members(&[("a", 1), ("a", 1), ("a", 1), ("b", 1), ("b", 1), ("c", 1)]);
        let zone_of = |node| &members.iter().find(|member| member.node == node).unwrap().zone;
        for list in lists(&members, 2) {
            let mut first: Vec<&String> = list.nodes()[..3].iter().map(|&n| zone_of(n)).collect();
            first.sort();
            assert_eq!(first, ["a", "b", "c"]);
        }
    }

    #[test]
    fn a_member_of_weight_0_is_no_fallback_but_an_owner_remains_one() {
        let mut members = members(&[("a", 1), ("a", 1), ("a", 1)]);
        let placement = Placement::compute(&members, PartitionCount::default(), 1, None).unwrap();
        let drained = members[0].node;
        members[0].weight = 0;
        for (partition, list) in PreferenceList::all(&placement, &members).iter().enumerate() {
            let owners = placement.owners(PartitionId(partition as u16));
            assert_eq!(list.owners(), owners);
            assert!(!list.fallbacks().contains(&drained));
            assert_eq!(list.nodes().len(), if owners[0] == drained { 3 } else { 2 });
        }
    }

    #[test]
    fn a_node_is_found_where_it_stands() {
        let [a, b, c] = [1, 2, 3].map(NodeId);
        let list = PreferenceList::from_nodes(&[b, a], &[c]);
        assert_eq!([a, b, c].map(|node| list.position(node)), [Some(1), Some(0), Some(2)]);
        assert_eq!([a, b, c].map(|node| list.is_owner(node)), [true, true, false]);
        assert_eq!(list.position(NodeId(4)), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_member_is_listed_once(
            zones in prop::collection::vec(("[a-d]", 1..4_u32), 3..10), n in 1..4_u8,
        ) {
            let zones: Vec<(&str, u32)> = zones.iter().map(|(zone, w)| (&**zone, *w)).collect();
            let members = members(&zones);
            let mut expected: Vec<NodeId> = members.iter().map(|member| member.node).collect();
            expected.sort();
            for list in lists(&members, n) {
                prop_assert_eq!(list.owners().len(), usize::from(n));
                let mut nodes = list.nodes().to_vec();
                nodes.sort();
                prop_assert_eq!(&nodes, &expected);
            }
        }
    }
}
