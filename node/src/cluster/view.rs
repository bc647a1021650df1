//! A document made ready for requests: who holds what, by lookup and without allocation.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::dynamo::key::{Key, KeyHash, NamespaceId, NodeId, PartitionId, VnodeId};
use crate::dynamo::metadata::Document;
use crate::dynamo::metadata::document::{Member, Namespace};
use crate::dynamo::placement::{Placement, PlacementError, PlacementMember};
use crate::dynamo::preference::PreferenceList;

/// One version of the cluster's metadata, with its preference lists.
#[derive(Debug)]
pub struct View {
    document: Arc<Document>,
    /// By placement group, then by partition.
    preferences: BTreeMap<u8, Vec<PreferenceList>>,
}

impl View {
    /// Computes the preference lists of every placement group; fails if the document's tables do
    /// not fit its members.
    pub fn new(document: Arc<Document>) -> Result<Self, PlacementError> {
        let members = placement_members(&document);
        let mut preferences = BTreeMap::new();
        for (&n, table) in &document.layout().groups {
            let placement = Placement::from_table(n, document.partitions, table.clone())?;
            preferences.insert(n, PreferenceList::all(&placement, &members));
        }
        Ok(Self { document, preferences })
    }

    /// The document.
    pub fn document(&self) -> &Arc<Document> {
        &self.document
    }

    /// The namespace of this id.
    pub fn namespace(&self, id: NamespaceId) -> Option<&Namespace> {
        self.document.namespace(id)
    }

    /// The namespace of this name.
    pub fn namespace_named(&self, name: &str) -> Option<&Namespace> {
        self.document.namespace_named(name)
    }

    /// The vnode that holds a key of a namespace.
    pub fn vnode(&self, namespace: &Namespace, key: &Key) -> VnodeId {
        self.vnode_of(namespace, key.hash(namespace.id))
    }

    /// The vnode that holds the keys of this hash in a namespace.
    pub fn vnode_of(&self, namespace: &Namespace, hash: KeyHash) -> VnodeId {
        VnodeId { n: namespace.n, partition: hash.partition(self.document.partitions) }
    }

    /// Who holds a vnode, and who stands in; none if no namespace has such an N.
    pub fn preference(&self, vnode: VnodeId) -> Option<&PreferenceList> {
        self.preferences.get(&vnode.n)?.get(usize::from(vnode.partition.0))
    }

    /// A member by its id.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.document.member(node)
    }

    /// A member's name, or its id if it is none.
    pub fn name_of(&self, node: NodeId) -> String {
        self.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
    }

    /// Every partition of every placement group.
    pub fn vnodes(&self) -> impl Iterator<Item = VnodeId> + '_ {
        let groups = self.preferences.keys();
        groups.flat_map(|&n| self.partitions().map(move |partition| VnodeId { n, partition }))
    }

    /// Every partition, ascending.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        self.document.partitions.iter()
    }
}

/// The members as placement sees them.
pub fn placement_members(document: &Document) -> Vec<PlacementMember> {
    let member =
        |m: &Member| PlacementMember { node: m.node, zone: m.zone.clone(), weight: m.weight };
    document.members.iter().map(member).collect()
}
