//! What a node knows of the cluster: members, namespaces, and who holds which partition.
//!
//! ```text
//!   namespace id + key -> hash -> top log2(Q) bits: partition -> its n owners, primary first
//! ```

use std::{collections::HashMap, fmt, time::Duration};

use quorate_proto::v1;

use crate::{
    level::{Durability, Level, Quorum},
    route::key_hash,
};

/// A member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Derived from the name.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its zone: replicas of a key are spread over zones.
    pub zone: String,
    /// Its relative share of the data.
    pub weight: u32,
    /// HOST:PORT for clients.
    pub client_address: String,
    /// HOST:PORT for other nodes.
    pub peer_address: String,
    /// Whether the answering node is connected to it.
    pub connected: bool,
    /// Whether it votes on changes of the cluster.
    pub voter: bool,
    /// What the answering node has heard of it; none in that one's first seconds.
    pub state: Option<MemberState>,
    /// For how long the answering node has known that.
    pub since: Duration,
}

/// Whether a member is there, as far as another one has heard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer, nor when others asked it, and has some seconds to say that it is there.
    Suspect,
    /// It did not. It is a member still.
    Down,
}

impl MemberState {
    fn from_wire(wire: v1::MemberState) -> Option<Self> {
        match wire {
            v1::MemberState::Unknown => None,
            v1::MemberState::Alive => Some(Self::Alive),
            v1::MemberState::Suspect => Some(Self::Suspect),
            v1::MemberState::Down => Some(Self::Down),
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
        })
    }
}

/// What happens to concurrent writes of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConflictRule {
    /// All are kept until a client resolves them.
    #[default]
    Siblings,
    /// The last write wins, by the clocks of the nodes that coordinate; the others are dropped.
    Lww,
}

impl ConflictRule {
    pub(crate) fn to_wire(self) -> i32 {
        match self {
            Self::Siblings => v1::ConflictRule::Siblings,
            Self::Lww => v1::ConflictRule::Lww,
        }
        .into()
    }
}

impl fmt::Display for ConflictRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Siblings => f.pad("siblings"),
            Self::Lww => f.pad("lww"),
        }
    }
}

/// A namespace and the defaults of its requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceDescription {
    /// Never used again, also after a drop.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Replicas of each key.
    pub n: u32,
    /// The default level of reads.
    pub r: Level,
    /// The default level of writes.
    pub w: Level,
    /// Whether fallbacks stand in for owners by default.
    pub quorum: Quorum,
    /// What happens to concurrent writes; fixed when the namespace is made.
    pub conflict: ConflictRule,
    /// The default durability.
    pub durability: Durability,
    /// The largest value, in bytes.
    pub value_max_bytes: u32,
    /// How long values live whose writes do not say; `None`: until they are replaced.
    pub default_ttl: Option<Duration>,
}

impl From<v1::Namespace> for NamespaceDescription {
    fn from(wire: v1::Namespace) -> Self {
        let (durability, conflict) = (wire.durability(), wire.conflict());
        let quorum = Quorum::from_wire(wire.quorum());
        Self {
            id: wire.id,
            name: wire.name,
            n: wire.n,
            r: Level::from_wire(wire.r),
            w: Level::from_wire(wire.w),
            quorum,
            conflict: match conflict {
                v1::ConflictRule::Siblings => ConflictRule::Siblings,
                v1::ConflictRule::Lww => ConflictRule::Lww,
            },
            durability: Durability::from_wire(durability),
            value_max_bytes: wire.value_max_bytes,
            default_ttl: Some(wire.default_ttl_ms).filter(|&ms| ms > 0).map(Duration::from_millis),
        }
    }
}

/// Whether a node votes on changes of the cluster, which are the making and dropping of namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vote {
    /// It is no voter.
    No,
    /// It votes.
    Yes,
    /// It was started, and has not heard enough other voters to vote again.
    Waits,
    /// It lost the store with which it voted, and votes no more.
    Lost,
    /// It saw the cluster's metadata fork, and refuses everything about its changes.
    Forked,
}

impl Vote {
    fn from_wire(wire: v1::Vote) -> Option<Self> {
        match wire {
            v1::Vote::Unknown => None,
            v1::Vote::No => Some(Self::No),
            v1::Vote::Yes => Some(Self::Yes),
            v1::Vote::Waits => Some(Self::Waits),
            v1::Vote::Lost => Some(Self::Lost),
            v1::Vote::Forked => Some(Self::Forked),
        }
    }
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Waits => "waits",
            Self::Lost => "lost",
            Self::Forked => "forked",
        })
    }
}

/// How far the rebuilding of a node's store has got. Until a partition is complete, the node's answers
/// do not count in quorums there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebuild {
    /// How many partitions the node holds; 0 before it knows.
    pub vnodes: u32,
    /// How many of them are complete.
    pub complete: u32,
    /// How many objects it received since it was started.
    pub objects: u64,
    /// What it waits for; empty while it works.
    pub waiting_for: String,
}

impl From<v1::Rebuild> for Rebuild {
    fn from(wire: v1::Rebuild) -> Self {
        let v1::Rebuild { vnodes, complete, objects, waiting_for } = wire;
        Self { vnodes, complete, objects, waiting_for }
    }
}

/// Why a node may lack what it had acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// No other owner has said yet that it knows of no more than the node holds.
    Unasked,
    /// It lost its power, and may lack what it acknowledged last.
    LostTail,
    /// Its store is older than what others remember of it.
    RolledBack,
    /// Something that it held in some partitions is gone without a trace.
    Lost,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unasked => "unasked",
            Self::LostTail => "lost tail",
            Self::RolledBack => "rolled back",
            Self::Lost => "lost",
        })
    }
}

/// How far a node that was started again is from being believed. Until a partition is, the node's answers
/// do not count in quorums there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatchingUp {
    /// How many partitions the node holds; 0 before it knows.
    pub vnodes: u32,
    /// For how many of them its answers do not count.
    pub left: u32,
    /// Why; `None` if it does not say.
    pub doubt: Option<Doubt>,
    /// The members that it waits for and cannot reach; empty if it reaches all.
    pub waiting_for: String,
}

impl From<v1::CatchingUp> for CatchingUp {
    fn from(wire: v1::CatchingUp) -> Self {
        let doubt = match wire.doubt() {
            v1::Doubt::Unknown => None,
            v1::Doubt::Unasked => Some(Doubt::Unasked),
            v1::Doubt::LostTail => Some(Doubt::LostTail),
            v1::Doubt::RolledBack => Some(Doubt::RolledBack),
            v1::Doubt::Lost => Some(Doubt::Lost),
        };
        let v1::CatchingUp { vnodes, left, waiting_for, .. } = wire;
        Self { vnodes, left, doubt, waiting_for }
    }
}

/// The cluster, as one node knew it when it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    /// 32 hexadecimal digits.
    pub cluster_id: String,
    /// The version of the cluster's metadata; it only grows.
    pub version: u64,
    /// Every member.
    pub members: Vec<Member>,
    /// Q, a power of two.
    pub partitions: u32,
    /// Every namespace.
    pub namespaces: Vec<NamespaceDescription>,
    /// The id of the node that answered.
    pub node: u64,
    /// The opening of that node's store.
    pub opening: u64,
    /// That node's clock: milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// How far it is ahead of the median of the members' clocks, in milliseconds; negative: behind.
    /// `None` as long as that node knows no other clock.
    pub clock_ahead_ms: Option<i64>,
    /// Set while that node's store is being rebuilt.
    pub rebuild: Option<Rebuild>,
    /// Set while that node, which was started again, is not believed.
    pub catching_up: Option<CatchingUp>,
    /// What becomes of that node's vote on changes of the cluster; `None` if it does not say.
    pub vote: Option<Vote>,
    groups: Vec<v1::PlacementGroup>,
    by_id: HashMap<u64, usize>,
    by_namespace: HashMap<String, usize>,
}

impl Topology {
    /// The member called `name`.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// The namespace called `name`.
    pub fn namespace(&self, name: &str) -> Option<&NamespaceDescription> {
        self.by_namespace.get(name).map(|&at| &self.namespaces[at])
    }

    /// The hash that places a key, as nodes show it in their lines about requests.
    pub fn key_hash(&self, namespace_id: u64, key: &[u8]) -> u64 {
        key_hash(namespace_id, key)
    }

    /// The partition of a key, 0..Q.
    pub fn partition_of(&self, namespace_id: u64, key: &[u8]) -> u32 {
        self.partition_of_hash(key_hash(namespace_id, key))
    }

    pub(crate) fn partition_of_hash(&self, hash: u64) -> u32 {
        (hash >> (64 - self.partitions.trailing_zeros())) as u32
    }

    /// The owners of a partition among the namespaces of one n, primary first; none for an n that
    /// no namespace has, or a partition beyond Q.
    pub fn owners(&self, n: u32, partition: u32) -> impl Iterator<Item = &Member> {
        self.owner_indexes(n, partition).iter().map(|&at| &self.members[at as usize])
    }

    /// The name of the node with this id; its id in hexadecimal if it is no member.
    pub fn name_of(&self, node: u64) -> String {
        match self.index_of(node) {
            Some(at) => self.members[at].name.clone(),
            None => format!("{node:016x}"),
        }
    }

    pub(crate) fn index_of(&self, node: u64) -> Option<usize> {
        self.by_id.get(&node).copied()
    }

    /// As indexes into the members.
    pub(crate) fn owner_indexes(&self, n: u32, partition: u32) -> &[u32] {
        let group = self.groups.iter().find(|group| group.n == n);
        let from = partition as usize * n as usize;
        group.and_then(|group| group.owners.get(from..from + n as usize)).unwrap_or_default()
    }

    /// Who stands in for a partition's owners first, in their order, as indexes into the members.
    pub(crate) fn fallback_indexes(&self, n: u32, partition: u32) -> &[u32] {
        let Some(group) = self.groups.iter().find(|group| group.n == n) else { return &[] };
        let each = group.fallbacks_each as usize;
        let from = partition as usize * each;
        group.fallbacks.get(from..from + each).unwrap_or_default()
    }

    /// Takes a node's answer, or says what is wrong with it.
    pub(crate) fn from_wire(reply: v1::DescribeReply) -> Result<Self, &'static str> {
        if !reply.partitions.is_power_of_two() || reply.partitions < 2 {
            return Err("its number of partitions is no power of two");
        }
        for group in &reply.groups {
            if group.owners.len() != reply.partitions as usize * group.n as usize {
                return Err("a placement group has too many or too few owners");
            }
            let each = reply.partitions as usize * group.fallbacks_each as usize;
            if group.fallbacks.len() != each {
                return Err("a placement group has too many or too few fallbacks");
            }
            let mut named = group.owners.iter().chain(&group.fallbacks);
            if named.any(|&at| at as usize >= reply.members.len()) {
                return Err("a placement group names an owner or fallback that is no member");
            }
        }
        let vote = Vote::from_wire(reply.vote());
        let members: Vec<Member> = reply.members.into_iter().map(Member::from).collect();
        let namespaces: Vec<_> =
            reply.namespaces.into_iter().map(NamespaceDescription::from).collect();
        Ok(Self {
            by_id: members.iter().enumerate().map(|(at, m)| (m.id, at)).collect(),
            by_namespace: namespaces
                .iter()
                .enumerate()
                .map(|(at, n)| (n.name.clone(), at))
                .collect(),
            cluster_id: reply.cluster_id,
            version: reply.version,
            members,
            partitions: reply.partitions,
            namespaces,
            node: reply.node,
            opening: reply.opening,
            now_ms: reply.now_ms,
            clock_ahead_ms: reply.clock_ahead_ms,
            vote,
            rebuild: reply.rebuild.map(Rebuild::from),
            catching_up: reply.catching_up.map(CatchingUp::from),
            groups: reply.groups,
        })
    }
}

impl From<v1::Member> for Member {
    fn from(wire: v1::Member) -> Self {
        Self {
            state: MemberState::from_wire(wire.state()),
            since: Duration::from_millis(wire.since_ms),
            id: wire.id,
            name: wire.name,
            zone: wire.zone,
            weight: wire.weight,
            client_address: wire.client_address,
            peer_address: wire.peer_address,
            connected: wire.connected,
            voter: wire.voter,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn reply() -> v1::DescribeReply {
        let member = |id| v1::Member { id, name: format!("n{id}"), ..v1::Member::default() };
        v1::DescribeReply {
            members: (0..3).map(member).collect(),
            partitions: 8,
            groups: vec![v1::PlacementGroup {
                n: 2,
                owners: (0..16).map(|at| at % 3).collect(),
                fallbacks: (0..8).map(|at| (at * 2 + 2) % 3).collect(),
                fallbacks_each: 1,
            }],
            ..v1::DescribeReply::default()
        }
    }

    #[test]
    fn owners_come_in_order_and_unknown_ones_not_at_all() {
        let topology = Topology::from_wire(reply()).unwrap();
        let names = |n, partition| -> Vec<_> {
            topology.owners(n, partition).map(|member| &*member.name).collect()
        };
        assert_eq!(names(2, 0), ["n0", "n1"]);
        assert_eq!(names(2, 7), ["n2", "n0"]);
        assert!(names(2, 8).is_empty() && names(3, 0).is_empty());
        assert_eq!(topology.fallback_indexes(2, 1), [1]);
        assert_eq!([topology.fallback_indexes(2, 8), topology.fallback_indexes(3, 0)], [[0; 0]; 2]);
        assert_eq!((&*topology.name_of(1), &*topology.name_of(255)), ("n1", "00000000000000ff"));
        let hash = key_hash(1, b"k");
        assert_eq!(u64::from(topology.partition_of(1, b"k")), hash >> 61);
    }

    #[test]
    fn malformed_answers_are_refused() {
        let spoilt = |spoil: fn(&mut v1::DescribeReply)| {
            let mut reply = reply();
            spoil(&mut reply);
            Topology::from_wire(reply)
        };
        assert!(spoilt(|reply| reply.partitions = 0).is_err());
        assert!(spoilt(|reply| reply.partitions = 12).is_err());
        assert!(spoilt(|reply| reply.groups[0].owners.truncate(15)).is_err());
        assert!(spoilt(|reply| reply.groups[0].owners[3] = 3).is_err());
        assert!(spoilt(|reply| reply.groups[0].fallbacks[3] = 3).is_err());
        assert!(spoilt(|reply| reply.groups[0].fallbacks_each = 2).is_err());
    }

    proptest! {
        #[test]
        fn damaged_answers_are_refused_or_can_be_asked(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            at in any::<u32>(), key in prop::collection::vec(any::<u8>(), 1..9)
        ) {
            let mut bytes = reply().encode_to_vec();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(Ok(topology)) = v1::DescribeReply::decode(&bytes[..]).map(Topology::from_wire) {
                prop_assert!(topology.partition_of(1, &key) < topology.partitions);
                for n in 0..4 {
                    prop_assert!(topology.owners(n, at).count() <= n as usize);
                }
            }
        }
    }
}
