//! The changes: each takes a document and returns its successor.

use std::collections::BTreeMap;

use super::{
    ClusterId, ClusterKey, Conflict, Document, DocumentError, DocumentHash, Durability, Layout,
    Member, Namespace, Voter,
};
use crate::dynamo::key::{NamespaceId, NodeId, PartitionCount};
use crate::dynamo::object::siblings_max_bytes;
use crate::dynamo::quorum::Level;
use crate::dynamo::ttl::{Ttl, TtlMs};

/// What a cluster is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FirstDocument {
    /// A fresh random id.
    pub cluster: ClusterId,
    /// A fresh random secret.
    pub cluster_key: ClusterKey,
    /// Q, for ever.
    pub partitions: PartitionCount,
    /// The first members, in any order.
    pub members: Vec<Member>,
    /// Which of them vote, in any order.
    pub voters: Vec<Voter>,
}

/// What a new namespace is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewNamespace {
    /// Its name: 1 to 64 of `a-z 0-9 _ - .`, beginning with a letter or a digit.
    pub name: String,
    /// How many owners each key has; at most the number of members.
    pub n: u8,
    /// How many owners a read waits for by default.
    pub r: Level,
    /// How many owners a write waits for by default.
    pub w: Level,
    /// What becomes of concurrent values.
    pub conflict: Conflict,
    /// When a replica acknowledges by default.
    pub durability: Durability,
    /// The largest value, in bytes.
    pub value_max_bytes: u32,
    /// Whether fallbacks count by default.
    pub sloppy: bool,
    /// How long values live by default; none: until they are replaced.
    pub default_ttl: Option<TtlMs>,
}

impl NewNamespace {
    /// The defaults under this name: three owners, sloppy quorums, siblings, buffered, values to
    /// 1 MiB.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            n: 3,
            r: Level::Quorum,
            w: Level::Quorum,
            conflict: Conflict::Siblings,
            durability: Durability::Buffered,
            value_max_bytes: 1 << 20,
            sloppy: true,
            default_ttl: None,
        }
    }
}

/// What is to change of a namespace; what is none stays. Neither n nor the conflict rule can
/// change: the one says where objects are, the other of which kind they are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NamespaceUpdate {
    /// Which one.
    pub name: String,
    /// How many owners a read waits for by default.
    pub r: Option<Level>,
    /// How many owners a write waits for by default.
    pub w: Option<Level>,
    /// When a replica acknowledges by default.
    pub durability: Option<Durability>,
    /// The largest value, in bytes. Larger ones that are there already stay.
    pub value_max_bytes: Option<u32>,
    /// Whether fallbacks count by default.
    pub sloppy: Option<bool>,
    /// How long values live by default, those that are written from then on. That it is its default
    /// says nothing.
    pub default_ttl: Ttl,
}

impl NamespaceUpdate {
    /// Nothing of the namespace of this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

impl Document {
    /// The first document of a new cluster: no namespaces, an empty layout 1.
    pub fn first(first: FirstDocument) -> Result<Self, DocumentError> {
        let FirstDocument { cluster, cluster_key, partitions, mut members, mut voters } = first;
        members.sort_by(|a, b| (a.node, &a.name).cmp(&(b.node, &b.name)));
        voters.sort();
        let document = Self {
            version: 1,
            cluster,
            predecessor: DocumentHash::NONE,
            cluster_key,
            voters,
            members,
            partitions,
            namespaces: Vec::new(),
            next_namespace: 1,
            layouts: vec![Layout { version: 1, groups: BTreeMap::new() }],
            plan: None,
        };
        document.validate()?;
        Ok(document)
    }

    /// The successor with one more namespace.
    ///
    /// `place(n)` computes the table of primaries for n, Q * n of them; it is asked only if no
    /// namespace has had this n in the newest layout.
    pub fn with_namespace(
        &self,
        new: NewNamespace,
        place: impl FnOnce(u8) -> Vec<NodeId>,
    ) -> Result<Self, DocumentError> {
        if self.namespace_named(&new.name).is_some() {
            return Err(DocumentError::NamespaceExists { name: new.name });
        }
        let (n, members) = (new.n, self.members.len());
        if n == 0 || usize::from(n) > members {
            return Err(DocumentError::TooFewMembers { n, members });
        }
        let namespace = Namespace {
            id: NamespaceId(self.next_namespace),
            name: new.name,
            n,
            r: new.r,
            w: new.w,
            conflict: new.conflict,
            durability: new.durability,
            value_max_bytes: new.value_max_bytes,
            sloppy: new.sloppy,
            default_ttl: new.default_ttl,
        };
        namespace.validate()?;
        values_fit(&namespace)?;
        let mut successor = self.successor();
        successor.namespaces.push(namespace);
        successor.next_namespace += 1;
        if !successor.layout().groups.contains_key(&n) {
            successor.add_group(n, place(n))?;
        }
        successor.validate()?;
        Ok(successor)
    }

    /// The successor in which a namespace has other defaults; none if it has those already.
    pub fn with_updated_namespace(
        &self,
        update: &NamespaceUpdate,
    ) -> Result<Option<Self>, DocumentError> {
        let Some(at) = self.namespaces.iter().position(|one| one.name == update.name) else {
            return Err(DocumentError::NamespaceUnknown { name: update.name.clone() });
        };
        let present = &self.namespaces[at];
        let updated = Namespace {
            r: update.r.unwrap_or(present.r),
            w: update.w.unwrap_or(present.w),
            durability: update.durability.unwrap_or(present.durability),
            value_max_bytes: update.value_max_bytes.unwrap_or(present.value_max_bytes),
            sloppy: update.sloppy.unwrap_or(present.sloppy),
            default_ttl: update.default_ttl.or(present.default_ttl),
            ..present.clone()
        };
        if updated == *present {
            return Ok(None);
        }
        updated.validate()?;
        values_fit(&updated)?;
        let mut successor = self.successor();
        successor.namespaces[at] = updated;
        Ok(Some(successor))
    }

    /// The successor without the namespace of this name; its id is not used again.
    pub fn without_namespace(&self, name: &str) -> Result<Self, DocumentError> {
        let Some(dropped) = self.namespace_named(name) else {
            return Err(DocumentError::NamespaceUnknown { name: name.to_owned() });
        };
        let mut successor = self.successor();
        successor.namespaces.retain(|namespace| namespace.id != dropped.id);
        Ok(successor)
    }

    /// Adds the table of a placement group that had none, so no owner changes.
    fn add_group(&mut self, n: u8, table: Vec<NodeId>) -> Result<(), DocumentError> {
        self.validate_table(n, &table)?;
        if let Some(at) = table.iter().position(|&node| self.member(node).is_none()) {
            let (node, partition) = (table[at], at / usize::from(n));
            return Err(DocumentError::TableNode { n, node, partition });
        }
        let layout = self.layouts.last_mut().expect("a valid document has a layout");
        layout.groups.insert(n, table);
        Ok(())
    }

    fn successor(&self) -> Self {
        Self { version: self.version + 1, predecessor: self.hash(), ..self.clone() }
    }
}

/// Refuses values of which two would not fit in an object. Not asked of a document that was chosen
/// under another limit.
fn values_fit(namespace: &Namespace) -> Result<(), DocumentError> {
    let (n, asked) = (namespace.n, namespace.value_max_bytes);
    let most = siblings_max_bytes(n);
    if asked as usize > most {
        let name = namespace.name.clone();
        return Err(DocumentError::ValueTooLarge { name, n, asked, most });
    }
    Ok(())
}
