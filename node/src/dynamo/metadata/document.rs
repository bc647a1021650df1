//! What the cluster is: voters, members, namespaces, and who owns which partition.
//!
//! A document is a value: whole, immutable, validated whenever it is made or decoded. A change
//! makes a successor (`version + 1`, and the hash of its predecessor), which then has to be chosen
//! by the [register](super::register). Collections are sorted and free of duplicates, so that equal
//! documents have equal bytes and equal hashes.
//!
//! ```text
//!   version 1   members a b c   no namespaces             layout 1: no groups
//!   version 2   members a b c   1 "carts" n=3             layout 1: group 3 -> table of Q * 3
//!   version 3   members a b c   1 "carts", 2 "users" n=3  the same group serves both
//!   version 4   members a b c   2 "users"                 id 1 is never used again
//!   version 5   members a b c   2 "users" w=all           other defaults, the same owners
//! ```

mod change;
mod codec;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use thiserror::Error;

pub use self::change::{FirstDocument, NamespaceUpdate, NewNamespace};
use crate::dynamo::encoding::DecodeError;
use crate::dynamo::key::{NamespaceId, NodeId, PartitionCount};
use crate::dynamo::quorum::{Level, LevelError};
use crate::dynamo::ttl::TtlMs;

/// The most voters: seven survive the loss of three, and more would only vote more slowly.
pub const VOTERS_MAX: usize = 7;

/// The longest name of a namespace, in bytes.
pub const NAMESPACE_NAME_MAX_BYTES: usize = 64;

/// The longest name, zone or address of a member, in bytes: that of a DNS name.
pub const MEMBER_TEXT_MAX_BYTES: usize = 255;

/// Above any version or namespace id that a cluster will reach, and far from overflowing.
const COUNT_MAX: u64 = 1 << 53;

/// Names a cluster for ever: random, made by its first node, carried by every peer message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The secret under which the cluster's nodes hash objects and seal context tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterKey(pub [u8; 32]);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(redacted)")
    }
}

/// Names a store for as long as it lives: random, made with it, gone when it is wiped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u64);

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The blake3 hash of a document's encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentHash(pub [u8; 32]);

impl DocumentHash {
    /// What the first document has in place of a predecessor's hash.
    pub const NONE: Self = Self([0; 32]);
}

impl fmt::Debug for DocumentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A node that votes on the next document, with the store that remembers its votes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Voter {
    /// The node.
    pub node: NodeId,
    /// Its store: the same node with another one has forgotten its votes, and is no voter.
    pub store: StoreId,
}

/// A node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its id: that of its name.
    pub node: NodeId,
    /// Its name, unique in the cluster.
    pub name: String,
    /// What fails together with it; members without zones share the empty one.
    pub zone: String,
    /// Its share of the partitions relative to others; at least 1.
    pub weight: u32,
    /// Where other nodes reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
}

/// How concurrent values of a namespace's keys are treated. A namespace has one rule for ever: its
/// objects are of that kind, and no change of a document alters it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Conflict {
    /// All are kept until a write replaces them.
    #[default]
    Siblings,
    /// The last write stands alone, by the clocks of its coordinators.
    Lww,
}

/// When a write counts as stored by a replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Durability {
    /// Handed to the operating system: survives the process's death, not the machine's.
    #[default]
    Buffered,
    /// On disk.
    Synced,
}

/// A set of keys with their own replication and conflict rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// Its id, never used again for another one.
    pub id: NamespaceId,
    /// Its name, unique among live namespaces.
    pub name: String,
    /// How many owners each key has.
    pub n: u8,
    /// How many owners a read waits for, unless it says otherwise.
    pub r: Level,
    /// How many owners a write waits for, unless it says otherwise.
    pub w: Level,
    /// What becomes of concurrent values.
    pub conflict: Conflict,
    /// When a replica acknowledges, unless the request says otherwise.
    pub durability: Durability,
    /// The largest value, in bytes.
    pub value_max_bytes: u32,
    /// Whether what fallbacks do counts, unless the request says otherwise.
    pub sloppy: bool,
    /// How long values live, unless the request says otherwise; none: until they are replaced.
    pub default_ttl: Option<TtlMs>,
}

/// Who owns which partition, per placement group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Counted from 1, by its own count: most documents change no owner.
    pub version: u64,
    /// For each n in use the table of primaries: those of partition p at `p * n .. (p + 1) * n`.
    pub groups: BTreeMap<u8, Vec<NodeId>>,
}

/// One version of what the cluster is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// Counted from 1.
    pub version: u64,
    /// The cluster that this document is of.
    pub cluster: ClusterId,
    /// The hash of version - 1, or [`DocumentHash::NONE`].
    pub predecessor: DocumentHash,
    /// The cluster's secret.
    pub cluster_key: ClusterKey,
    /// Who votes on version + 1, by node; at most [`VOTERS_MAX`].
    pub voters: Vec<Voter>,
    /// The cluster's nodes, by id.
    pub members: Vec<Member>,
    /// Q.
    pub partitions: PartitionCount,
    /// The namespaces, by id.
    pub namespaces: Vec<Namespace>,
    /// The id that the next namespace gets; above all that were ever used.
    pub next_namespace: u64,
    /// The live layouts, by version; the last one is where ownership is going.
    pub layouts: Vec<Layout>,
    /// The change of owners that is under way, if any.
    pub plan: Option<u64>,
}

/// Why something is no valid document, or a change is impossible. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum DocumentError {
    /// Not the encoding of a document.
    #[error("not an encoded document: {0}")]
    Encoding(#[from] DecodeError),
    /// A first document with a predecessor, or a later one without.
    #[error("version {version} and its predecessor's hash do not go together")]
    Predecessor { version: u64 },
    /// Too few or too many voters.
    #[error("{voters} voters: a cluster has 1 to {VOTERS_MAX}")]
    Voters { voters: usize },
    /// A voter that is not a member.
    #[error("voter {node} is not a member")]
    VoterNotMember { node: NodeId },
    /// A voter, member, namespace or layout that is listed twice, or out of order.
    #[error("{what} {id} is listed twice or out of order")]
    Repeated { what: &'static str, id: String },
    /// Two names with one node id: rename one of the nodes.
    #[error("members {first:?} and {second:?} have the same node id: rename one of them")]
    NodeCollision { first: String, second: String },
    /// A member that does not have the id of its name.
    #[error("member {name:?} has the id {node}, which is not that of its name")]
    ForeignNodeId { name: String, node: NodeId },
    /// A member's name, zone or address that is empty, too long, or has control characters.
    #[error("member {name:?}: its {field} must have 1 to {MEMBER_TEXT_MAX_BYTES} printable bytes")]
    MemberText { name: String, field: &'static str },
    /// A member that would own nothing.
    #[error("member {name:?} has weight 0; the least is 1")]
    Weightless { name: String },
    /// A namespace name out of bounds.
    #[error(
        "{name:?} is no namespace name: 1 to {NAMESPACE_NAME_MAX_BYTES} of a-z 0-9 _ - . \
         beginning with a letter or a digit"
    )]
    NamespaceName { name: String },
    /// The name is taken.
    #[error("namespace {name:?} exists already")]
    NamespaceExists { name: String },
    /// No namespace has the name.
    #[error("there is no namespace {name:?}")]
    NamespaceUnknown { name: String },
    /// More owners than members, or none.
    #[error("n = {n}, but the cluster has {members} members")]
    TooFewMembers { n: u8, members: usize },
    /// A default level that n owners cannot give.
    #[error("namespace {name:?}: {field} is {source}")]
    NamespaceLevel { name: String, field: &'static str, source: LevelError },
    /// Values of no bytes at all.
    #[error("namespace {name:?}: value_max_bytes is 0; the least is 1")]
    ValueMaxBytes { name: String },
    /// Values of which two would not fit in an object.
    #[error(
        "namespace {name:?}: value_max_bytes is {asked}; with n = {n} the most is {most}, so that an \
         object with its siblings fits in a message between nodes"
    )]
    ValueTooLarge { name: String, n: u8, asked: u32, most: usize },
    /// A namespace id that is 0, or was not given out yet.
    #[error("namespace id {id} is not in 1..{next}")]
    NamespaceId { id: u64, next: u64 },
    /// No live layout.
    #[error("there is no live layout")]
    NoLayout,
    /// A namespace whose placement group the newest layout lacks.
    #[error("layout {layout} has no table for n = {n}")]
    NoTable { layout: u64, n: u8 },
    /// A table of primaries that does not have n for each partition.
    #[error("the table for n = {n} has {got} entries instead of {expected}")]
    TableSize { n: u8, got: usize, expected: usize },
    /// A table that names a stranger, or one node twice for one partition.
    #[error("the table for n = {n} names {node} wrongly for partition {partition}")]
    TableNode { n: u8, node: NodeId, partition: usize },
}

impl Document {
    /// The member with this id.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&node, |member| member.node).ok()?;
        Some(&self.members[at])
    }

    /// The namespace with this id.
    pub fn namespace(&self, id: NamespaceId) -> Option<&Namespace> {
        let at = self.namespaces.binary_search_by_key(&id, |namespace| namespace.id).ok()?;
        Some(&self.namespaces[at])
    }

    /// The namespace with this name.
    pub fn namespace_named(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.name == name)
    }

    /// The newest live layout.
    pub fn layout(&self) -> &Layout {
        self.layouts.last().expect("a valid document has a layout")
    }

    /// How many voters are a majority.
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// How many others a voter whose store was opened anew must hear: n - q + 1, enough to meet each
    /// majority that it was part of. 1 of 2 voters, 2 of 3 and of 4, 3 of 5 and of 6, 4 of 7. A lone
    /// voter has no others.
    pub fn others_to_hear(&self) -> usize {
        let n = self.voters.len();
        (n - self.majority() + 1).min(n - 1)
    }

    /// Checks everything that one document can be checked for.
    pub fn validate(&self) -> Result<(), DocumentError> {
        let first = self.version == 1;
        if !(1..=COUNT_MAX).contains(&self.version)
            || first != (self.predecessor == DocumentHash::NONE)
        {
            return Err(DocumentError::Predecessor { version: self.version });
        }
        self.validate_members()?;
        self.validate_voters()?;
        self.validate_layouts()?;
        self.validate_namespaces()
    }

    fn validate_members(&self) -> Result<(), DocumentError> {
        for pair in self.members.windows(2) {
            if pair[0].node == pair[1].node && pair[0].name != pair[1].name {
                let (first, second) = (pair[0].name.clone(), pair[1].name.clone());
                return Err(DocumentError::NodeCollision { first, second });
            }
        }
        // Ids are those of names, so distinct ids are distinct names.
        ascending("member", self.members.iter().map(|member| member.node))?;
        self.members.iter().try_for_each(Member::validate)
    }

    fn validate_voters(&self) -> Result<(), DocumentError> {
        if !(1..=VOTERS_MAX).contains(&self.voters.len()) {
            return Err(DocumentError::Voters { voters: self.voters.len() });
        }
        ascending("voter", self.voters.iter().map(|voter| voter.node))?;
        match self.voters.iter().find(|voter| self.member(voter.node).is_none()) {
            Some(voter) => Err(DocumentError::VoterNotMember { node: voter.node }),
            None => Ok(()),
        }
    }

    fn validate_layouts(&self) -> Result<(), DocumentError> {
        ascending("layout", self.layouts.iter().map(|layout| layout.version))?;
        if self.layouts.is_empty() {
            return Err(DocumentError::NoLayout);
        }
        let mut groups = self.layouts.iter().flat_map(|layout| &layout.groups);
        groups.try_for_each(|(&n, table)| self.validate_table(n, table))
    }

    /// Nodes that left may still own partitions of an older layout, so owners need not be members.
    fn validate_table(&self, n: u8, table: &[NodeId]) -> Result<(), DocumentError> {
        let expected = usize::from(n) * usize::from(self.partitions.get());
        if table.len() != expected || n == 0 {
            return Err(DocumentError::TableSize { n, got: table.len(), expected });
        }
        for (partition, owners) in table.chunks_exact(n.into()).enumerate() {
            for (at, &node) in owners.iter().enumerate() {
                if owners[..at].contains(&node) {
                    return Err(DocumentError::TableNode { n, node, partition });
                }
            }
        }
        Ok(())
    }

    fn validate_namespaces(&self) -> Result<(), DocumentError> {
        ascending("namespace", self.namespaces.iter().map(|namespace| namespace.id.0))?;
        if !(1..=COUNT_MAX).contains(&self.next_namespace) {
            let (id, next) = (self.next_namespace, COUNT_MAX);
            return Err(DocumentError::NamespaceId { id, next });
        }
        let mut names = BTreeSet::new();
        for namespace in &self.namespaces {
            let (NamespaceId(id), n) = (namespace.id, namespace.n);
            if !(1..self.next_namespace).contains(&id) {
                return Err(DocumentError::NamespaceId { id, next: self.next_namespace });
            }
            if !names.insert(&namespace.name) {
                return Err(DocumentError::NamespaceExists { name: namespace.name.clone() });
            }
            namespace.validate()?;
            if !self.layout().groups.contains_key(&n) {
                return Err(DocumentError::NoTable { layout: self.layout().version, n });
            }
        }
        Ok(())
    }
}

impl Member {
    fn validate(&self) -> Result<(), DocumentError> {
        let name = self.name.clone();
        let (node, text) = (self.node, |value: &str| {
            value.len() <= MEMBER_TEXT_MAX_BYTES && !value.contains(char::is_control)
        });
        let fields = [
            ("name", text(&name) && !name.is_empty()),
            ("zone", text(&self.zone)),
            ("peer address", text(&self.peer_address) && !self.peer_address.is_empty()),
            ("client address", text(&self.client_address) && !self.client_address.is_empty()),
        ];
        match fields.into_iter().find(|&(_, valid)| !valid) {
            Some((field, _)) => Err(DocumentError::MemberText { name, field }),
            None if self.weight == 0 => Err(DocumentError::Weightless { name }),
            None if node != NodeId::of_name(&name) => {
                Err(DocumentError::ForeignNodeId { name, node })
            }
            None => Ok(()),
        }
    }
}

impl Namespace {
    fn validate(&self) -> Result<(), DocumentError> {
        let name = self.name.clone();
        if !is_namespace_name(&name) {
            return Err(DocumentError::NamespaceName { name });
        }
        if self.value_max_bytes == 0 {
            return Err(DocumentError::ValueMaxBytes { name });
        }
        for (field, level) in [("r", self.r), ("w", self.w)] {
            if let Err(source) = level.resolve(self.n) {
                return Err(DocumentError::NamespaceLevel { name, field, source });
            }
        }
        Ok(())
    }
}

/// Whether `name` can name a namespace.
fn is_namespace_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=NAMESPACE_NAME_MAX_BYTES).contains(&name.len())
        && name.bytes().all(|byte| plain(byte) || b"_-.".contains(&byte))
        && name.bytes().next().is_some_and(plain)
}

fn ascending<T: Ord + fmt::Debug>(
    what: &'static str,
    ids: impl Iterator<Item = T>,
) -> Result<(), DocumentError> {
    let mut last = None;
    for id in ids {
        if last.as_ref().is_some_and(|last| *last >= id) {
            return Err(DocumentError::Repeated { what, id: format!("{id:?}") });
        }
        last = Some(id);
    }
    Ok(())
}
