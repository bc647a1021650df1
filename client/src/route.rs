//! Where a request goes: key -> hash -> partition -> owners -> the first that can be reached.
//!
//! Owners are tried in the order of the preference list, not at random. Primaries are spread evenly
//! over the nodes, so the load is too; and as long as nothing fails, all writes of one key have one
//! coordinator, which keeps version vectors short and a key's writes in one order.
//!
//! A write's operation id names who coordinates it: an owner, or, with a sloppy quorum and if no
//! owner took it, another member. A read that no owner took goes to another member too, which
//! forwards it: that helps a client that is cut off from the owners while other nodes are not. These
//! are asked in the order of the preference list, as far as the topology tells it, then in one that
//! the key decides: so all writes of a key go to one of them, those of many keys to all.
//!
//! Members that others take for suspect or down come last, until they answer this client. That is
//! hearsay, and old: it decides who is asked first, never who is asked at all. What this client met
//! itself a [`Connection`] knows, and that goes on top.
//!
//! ```text
//!   owners a b c, others d e; it is said that a is down
//!     strict write   b c a            sloppy write, read   b c d e a
//! ```

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::join_all;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    connection::{Calling, Connection},
    error::{Error, ErrorKind, Reach},
    retry::Deadline,
    topology::{Member, MemberState, Topology},
};

/// Within a data centre a node has answered by then; one that has not is not waited for.
pub(crate) const SLOW: Duration = Duration::from_millis(100);

/// The hash that chooses a key's partition; nodes and clients of every version agree on it.
pub(crate) fn key_hash(namespace_id: u64, key: &[u8]) -> u64 {
    xxh3_64_with_seed(hashed_part(key), namespace_id)
}

/// The tag between the first `{` and the next `}`, if it is not empty; else the whole key.
fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else { return key };
    let tail = &key[open + 1..];
    match tail.iter().position(|&b| b == b'}') {
        None | Some(0) => key,
        Some(close) => &tail[..close],
    }
}

/// A topology and the ways to its members.
#[derive(Debug)]
pub(crate) struct Routes {
    pub(crate) topology: Arc<Topology>,
    /// In the order of the members.
    pub(crate) nodes: Vec<Arc<Connection>>,
    pub(crate) learnt: Instant,
    /// Which members were said to be suspect or down.
    doubted: Vec<bool>,
}

impl Routes {
    /// Takes over `connections` to addresses that are still in use.
    pub(crate) fn new(
        topology: Arc<Topology>,
        connections: &[Arc<Connection>],
        calling: &Calling,
    ) -> Result<Self, Error> {
        let present: HashMap<&str, &Arc<Connection>> =
            connections.iter().map(|node| (node.address.as_str(), node)).collect();
        let connection = |member: &Member| match present.get(&*member.client_address) {
            Some(node) if node.name == member.name => Ok(Arc::clone(node)),
            Some(node) => Ok(node.renamed(&member.name)),
            None => Connection::new(&member.name, &member.client_address, calling),
        };
        let nodes = topology.members.iter().map(connection).collect::<Result<_, _>>()?;
        let doubted = topology.members.iter().map(is_said_to_be_away).collect();
        Ok(Self { topology, nodes, learnt: Instant::now(), doubted })
    }

    /// Whether some member was said to be away, and did not answer this client since.
    pub(crate) fn has_doubts(&self) -> bool {
        (0..self.nodes.len()).any(|at| self.is_doubted(at))
    }

    /// Who says of half of all members that they are away may be cut off itself: then this client asks
    /// them, and does not doubt those that answer.
    pub(crate) async fn look(&self, deadline: Deadline) {
        let doubted = self.nodes.iter().zip(&self.doubted).filter(|&(_, &doubted)| doubted);
        let doubted: Vec<_> = doubted.map(|(node, _)| node).collect();
        if doubted.len() * 2 < self.nodes.len() {
            return;
        }
        // Who answers says so to its connection. Of silence for so short a time nothing follows.
        let answer = |node: &Arc<Connection>| {
            let node = Arc::clone(node);
            async move { node.describe(2 * SLOW).await.is_ok() }
        };
        let look = join_all(doubted.into_iter().map(answer));
        let _ = tokio::time::timeout(SLOW.min(deadline.remaining()), look).await;
    }

    fn is_doubted(&self, at: usize) -> bool {
        self.doubted[at] && !self.nodes[at].has_answered_since(self.learnt)
    }

    /// Who holds the target's key, and who stands in; nobody if it has no key, or its namespace is not
    /// known here.
    fn place(&self, target: &Target<'_>) -> Place<'_> {
        let Target::Key { namespace, key, .. } = target else { return Place::default() };
        let Some(namespace) = self.topology.namespace(namespace) else { return Place::default() };
        let hash = key_hash(namespace.id, key);
        let partition = self.topology.partition_of_hash(hash);
        Place {
            owners: self.topology.owner_indexes(namespace.n, partition),
            fallbacks: self.topology.fallback_indexes(namespace.n, partition),
            hash,
        }
    }
}

/// Where a key lives; members as indexes.
#[derive(Default)]
struct Place<'a> {
    owners: &'a [u32],
    /// The first of them.
    fallbacks: &'a [u32],
    hash: u64,
}

fn is_said_to_be_away(member: &Member) -> bool {
    matches!(member.state, Some(MemberState::Suspect | MemberState::Down))
}

/// Who may take a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// The owners of this key; any member, if `forwarded` and no owner answers.
    Key { namespace: &'a str, key: &'a Bytes, forwarded: bool },
    /// This node.
    Node(u64),
    /// Any member, beginning with the one whose turn it is.
    Any { turn: usize },
}

/// Which nodes one request went to since it last paused.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    tried: Vec<Arc<Connection>>,
    /// Whether an owner answered, or has too much to do.
    answered: bool,
    /// The last error with which a node answered, in any round.
    telling: Option<Error>,
}

impl Tries {
    /// The next node: one that is not known to fail, else any that was not tried.
    pub(crate) fn pick(&self, routes: &Routes, target: &Target<'_>) -> Option<Arc<Connection>> {
        let node = self.untried(routes, target).find(|node| node.claim());
        node.or_else(|| self.untried(routes, target).next()).cloned()
    }

    /// Whether every node that may take the request was tried.
    pub(crate) fn are_exhausted(&self, routes: &Routes, target: &Target<'_>) -> bool {
        self.untried(routes, target).next().is_none()
    }

    /// Whether there is another node that may take the request, and was not tried.
    pub(crate) fn has_other(
        &self,
        routes: &Routes,
        target: &Target<'_>,
        node: &Arc<Connection>,
    ) -> bool {
        self.untried(routes, target).any(|other| other.address != node.address)
    }

    /// Whether the next try goes to a second node, after the first one failed, which takes on most of
    /// what it is asked.
    pub(crate) fn move_on(&self, routes: &Routes, target: &Target<'_>) -> bool {
        let well = || self.untried(routes, target).find(|node| node.is_well());
        let next = well().or_else(|| self.untried(routes, target).next());
        self.tried.len() == 1 && next.is_some_and(|node| node.welcomes())
    }

    /// Notes that the request failed there.
    pub(crate) fn failed(&mut self, node: &Arc<Connection>, error: &Error) {
        if matches!(error.reach(), Reach::Answered(_)) {
            // One that cannot serve says nothing of the key.
            self.answered |= !error.is_not_ready();
            self.telling = Some(error.clone());
        }
        // Who does not own the key would pass it on to owners that have too much to do.
        self.answered |= error.kind() == ErrorKind::Overloaded;
        self.tried.push(Arc::clone(node));
    }

    /// Why the request failed, when there is no time for another try: what a node said of it says
    /// more than that another could not be reached.
    pub(crate) fn reason(&mut self, last: Error, deadline: Deadline) -> Error {
        match last.reach() {
            Reach::Answered(_) => last,
            Reach::NotSent | Reach::Lost => {
                self.telling.take().unwrap_or_else(|| last.after(deadline.elapsed()))
            }
        }
    }

    /// Begins another round.
    pub(crate) fn clear(&mut self) {
        self.tried.clear();
        self.answered = false;
    }

    fn untried<'a>(
        &'a self,
        routes: &'a Routes,
        target: &'a Target<'_>,
    ) -> impl Iterator<Item = &'a Arc<Connection>> {
        let members = routes.nodes.len();
        let place = routes.place(target);
        let (fallbacks, start, others) = match *target {
            // Owners that answered, if with an error, say as much as a forwarder could.
            Target::Key { forwarded, .. } if forwarded && !self.answered => {
                let start = place.hash % members.max(1) as u64;
                (place.fallbacks, start as usize, 0..members)
            }
            Target::Key { .. } => (Default::default(), 0, 0..0),
            Target::Node(id) => match routes.topology.index_of(id) {
                Some(at) => (Default::default(), at, 0..1),
                None => (Default::default(), 0, 0..0),
            },
            Target::Any { turn } => (Default::default(), turn, 0..members),
        };
        let first = place.owners.iter().chain(fallbacks).map(|&at| at as usize);
        let all = first.chain(others.map(move |at| (start + at) % members));
        let sure = all.clone().filter(|&at| !routes.is_doubted(at));
        sure.chain(all.filter(|&at| routes.is_doubted(at)))
            .map(|at| &routes.nodes[at])
            .filter(|node| !self.tried.iter().any(|tried| tried.address == node.address))
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::v1::{self, error_detail::Kind};
    use tonic::Code;

    use super::*;
    use crate::error::tests::status;

    const GOLDEN: &str = include_str!("../../proto/golden/key_hash.txt");

    #[test]
    fn hashes_match_the_golden_vectors() {
        let mut vectors = 0;
        for line in GOLDEN.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            let mut fields = line.split(' ');
            let namespace = fields.next().unwrap().parse().unwrap();
            let hash = u64::from_str_radix(fields.next().unwrap(), 16).unwrap();
            let key = fields.next().unwrap().as_bytes();
            assert_eq!(key_hash(namespace, key), hash, "{line}");
            vectors += 1;
        }
        assert!(vectors >= 8);
    }

    /// Of a cluster of seven, of which the first three own everything.
    fn routes(fallbacks: &[u32]) -> Routes {
        let member = |id| v1::Member {
            id,
            name: format!("n{id}"),
            client_address: format!("127.0.0.1:{}", id + 1),
            ..v1::Member::default()
        };
        let group = v1::PlacementGroup {
            n: 3,
            owners: [0, 1, 2].repeat(2),
            fallbacks: fallbacks.repeat(2),
            fallbacks_each: fallbacks.len() as u32,
        };
        let namespace = v1::Namespace { name: "carts".into(), id: 1, n: 3, ..Default::default() };
        let reply = v1::DescribeReply {
            members: (0..7).map(member).collect(),
            partitions: 2,
            groups: vec![group],
            namespaces: vec![namespace],
            ..v1::DescribeReply::default()
        };
        let topology = Arc::new(Topology::from_wire(reply).unwrap());
        Routes::new(topology, &[], &Calling::new(None, None, 8).unwrap()).unwrap()
    }

    /// The order in which a key's nodes are asked.
    fn order(routes: &Routes, key: &Bytes, forwarded: bool) -> Vec<String> {
        let target = Target::Key { namespace: "carts", key, forwarded };
        let mut tries = Tries::default();
        while let Some(node) = tries.pick(routes, &target) {
            tries.tried.push(node);
        }
        tries.tried.iter().map(|node| node.name.clone()).collect()
    }

    #[tokio::test]
    async fn who_stands_in_for_owners_is_asked_in_the_order_that_the_topology_tells() {
        let routes = routes(&[5, 3]);
        let order = |forwarded| order(&routes, &Bytes::from_static(b"k"), forwarded);
        assert_eq!(order(true)[..5], ["n0", "n1", "n2", "n5", "n3"]);
        assert_eq!(order(true).len(), 7, "the others come last");
        assert_eq!(order(false), ["n0", "n1", "n2"]);
    }

    #[tokio::test]
    async fn owners_that_cannot_serve_do_not_keep_others_from_it() {
        let (routes, key) = (routes(&[]), Bytes::from_static(b"k"));
        let target = Target::Key { namespace: "carts", key: &key, forwarded: true };
        for (kind, others) in [(Kind::NotReady, true), (Kind::Quorum, false)] {
            let mut tries = Tries::default();
            let detail = v1::ErrorDetail { kind: kind.into(), ..v1::ErrorDetail::default() };
            let error = Error::from_status(&status(Code::Unavailable, "said", detail), "n");
            routes.nodes[..3].iter().for_each(|node| tries.failed(node, &error));
            assert_eq!(!tries.are_exhausted(&routes, &target), others, "{kind:?}");
        }
    }

    #[tokio::test]
    async fn other_members_share_the_keys_whose_owners_are_away_and_each_key_stays_with_one() {
        let routes = routes(&[]);
        let mut first = HashMap::new();
        for number in 0..700 {
            let key = Bytes::from(format!("key {number}"));
            let asked = order(&routes, &key, true);
            assert_eq!(asked, order(&routes, &key, true));
            *first.entry(asked[3].clone()).or_insert(0) += 1;
        }
        assert!(first.len() == 4 && first.values().all(|&keys| keys > 50), "{first:?}");
    }

    #[test]
    fn only_a_nonempty_tag_is_hashed_alone() {
        let cases = [("a{b}c", "b"), ("a{}c", "a{}c"), ("a{b", "a{b"), ("}{x}", "x")];
        for (key, part) in cases {
            assert_eq!(hashed_part(key.as_bytes()), part.as_bytes(), "{key}");
        }
    }
}
