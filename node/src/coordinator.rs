//! Runs one client request: who is asked, how long is waited, what is answered.
//!
//! The decisions are the pure machines' ([`dynamo::write`](crate::dynamo::write),
//! [`dynamo::read`](crate::dynamo::read)); here are the waiting and the sending. A node that owns no
//! replica of a key forwards the request to one that does.
//!
//! ```text
//!   put, W=2    own shard: dot, batch applied ──► object to the other owners ──► 2 acks: answer
//!   get, R=2    own shard: object   another owner: digest ──► equal: answer
//!                                                         └─► differs: its object, merge, repair
//!   scan        each partition in turn, from R owners, merged up to what all of them have listed
//! ```
//!
//! Invariants: other owners hear of a write only after its own batch was applied, so that its dot
//! cannot be issued again; *not applied* is said only before a dot exists.

mod mend;
mod read;
mod resolve;
mod scan;
mod write;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::read::{Found, Get, GetBatch, ReadAnswer};
pub use self::resolve::Resolve;
pub use self::scan::{ScanCursor, ScanPart, ScanRequest};
pub use self::write::{Put, PutBatch, PutEntry, PutRules};
use crate::clocks::{Clocks, Others, Trust};
use crate::cluster::Cluster;
use crate::cluster::view::View;
use crate::dynamo::context::ContextBinding;
use crate::dynamo::key::{Key, NamespaceId, NodeId, VnodeId};
use crate::dynamo::metadata::document::{NAMESPACE_NAME_MAX_BYTES, Namespace};
use crate::dynamo::operation::Opening;
use crate::dynamo::preference::PreferenceList;
use crate::dynamo::quorum::{Cause, Failure, Level, Tally};
use crate::env::Env;
use crate::error::RequestError;
use crate::liveness::{Doubts, Health, Liveness};
use crate::shard::Shards;
use crate::standing::Standings;
use crate::transport::{PeerError, Peers, Reply, Request};
use crate::vnode::Address;

/// How long a repair after the answer may take: nobody waits for it.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(5);

/// When a read asks the owners that it spared at first: well past what a healthy one takes, so that
/// only a sick one costs the others work.
const SLOW_AFTER: Duration = Duration::from_millis(100);

/// Repairs under way at once. More are left to the next read: they are a favour, and must not
/// crowd out requests.
const REPAIRS_MAX: usize = 256;

/// Coordinates requests on this node.
#[derive(Clone)]
pub struct Coordinator {
    node: NodeId,
    opening: Opening,
    cluster: Arc<Cluster>,
    shards: Shards,
    standings: Arc<Standings>,
    peers: Arc<dyn Peers>,
    env: Env,
    clocks: Arc<Clocks>,
    liveness: Arc<Liveness>,
    stop: CancellationToken,
    doubts: Arc<Doubts>,
    repairs: Arc<Semaphore>,
    /// Writes that were answered, and go on for the sake of those that have not acknowledged them.
    followed: Arc<Semaphore>,
    /// How many of them were given up, so that an owner may lack a write that nobody owes it.
    unfollowed: Arc<AtomicU64>,
    /// For how many writes others may stand in because owners are late.
    late: Arc<write::LateBudget>,
    /// Damaged records that are being mended, or left alone for a while, each with its owner.
    mending: Arc<Mutex<BTreeSet<(Address, NodeId)>>>,
}

/// What a coordinator works with.
pub struct CoordinatorParts {
    /// This node.
    pub node: NodeId,
    /// The opening of its store.
    pub opening: Opening,
    /// What it knows of the cluster.
    pub cluster: Arc<Cluster>,
    /// Its partitions.
    pub shards: Shards,
    /// Whether their silence counts.
    pub standings: Arc<Standings>,
    /// The other nodes.
    pub peers: Arc<dyn Peers>,
    /// Its world.
    pub env: Env,
    /// Whether its clock may order writes.
    pub clocks: Arc<Clocks>,
    /// Who is there.
    pub liveness: Arc<Liveness>,
    /// Cancelled when the node is to stop: then nothing that nobody waits for is waited for.
    pub stop: CancellationToken,
}

/// One key in one namespace, with all that a request needs to know of it.
#[derive(Clone)]
struct Target {
    view: Arc<View>,
    namespace: Namespace,
    address: Address,
}

impl Coordinator {
    /// A coordinator with nothing under way.
    pub fn new(parts: CoordinatorParts) -> Self {
        Self {
            node: parts.node,
            opening: parts.opening,
            cluster: parts.cluster,
            shards: parts.shards,
            standings: parts.standings,
            peers: parts.peers,
            env: parts.env,
            clocks: parts.clocks,
            liveness: parts.liveness,
            stop: parts.stop,
            doubts: Arc::default(),
            repairs: Arc::new(Semaphore::new(REPAIRS_MAX)),
            followed: Arc::new(Semaphore::new(write::FOLLOWED_MAX)),
            late: Arc::default(),
            unfollowed: Arc::default(),
            mending: Arc::default(),
        }
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The opening of this node's store.
    pub fn opening(&self) -> Opening {
        self.opening
    }

    /// What this node knows of the cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// This node's partitions.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Whether this node's silence counts.
    pub fn standings(&self) -> &Arc<Standings> {
        &self.standings
    }

    /// The other nodes.
    pub fn peers(&self) -> &Arc<dyn Peers> {
        &self.peers
    }

    /// This node's world.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// This node's clocks, as the others see them.
    pub fn clocks(&self) -> &Arc<Clocks> {
        &self.clocks
    }

    /// Who is there, as far as this node has heard.
    pub fn liveness(&self) -> &Arc<Liveness> {
        &self.liveness
    }

    /// How many answered writes were given up before each owner had them, or was owed them.
    pub fn writes_unfollowed(&self) -> u64 {
        self.unfollowed.load(Ordering::Relaxed)
    }

    /// Who may have missed writes that others keep.
    pub fn doubts(&self) -> &Arc<Doubts> {
        &self.doubts
    }

    /// The namespace called `name`, by the newest metadata that can be had.
    pub async fn namespace(
        &self,
        name: &str,
        deadline: Instant,
    ) -> Result<(Arc<View>, Namespace), RequestError> {
        let view = self.view()?;
        if let Some(namespace) = view.namespace_named(name).cloned() {
            return Ok((view, namespace));
        }
        if let Some((cut, _)) = name.char_indices().nth(NAMESPACE_NAME_MAX_BYTES) {
            // No namespace can have it: nobody need be asked, and nothing so long be answered.
            return Err(RequestError::UnknownNamespace { name: format!("{}...", &name[..cut]) });
        }
        let refreshed = self.cluster.refresh(remaining(deadline)).await;
        let view = self.view()?;
        if let Some(namespace) = view.namespace_named(name).cloned() {
            return Ok((view, namespace));
        }
        refreshed?;
        Err(RequestError::UnknownNamespace { name: name.to_owned() })
    }

    fn view(&self) -> Result<Arc<View>, RequestError> {
        self.cluster.view().ok_or_else(|| {
            RequestError::not_ready("this node belongs to no cluster yet; `quorate init` makes one")
        })
    }

    async fn target(
        &self,
        name: &str,
        key: Key,
        deadline: Instant,
    ) -> Result<Target, RequestError> {
        let (view, namespace) = self.namespace(name, deadline).await?;
        Ok(Target::new(view, namespace, key))
    }

    /// The target of a request that another node sent on.
    fn forwarded_target(&self, id: NamespaceId, key: Key) -> Result<Target, RequestError> {
        let view = self.view()?;
        let namespace = view.namespace(id).cloned();
        let unknown = || RequestError::UnknownNamespace { name: format!("of id {}", id.0) };
        let namespace = namespace.ok_or_else(unknown)?;
        let target = Target::new(view, namespace, key);
        Ok(target)
    }

    /// The same, if this node must own it.
    fn owned_target(&self, id: NamespaceId, key: Key) -> Result<Target, RequestError> {
        let target = self.forwarded_target(id, key)?;
        match target.preference()?.is_owner(self.node) {
            true => Ok(target),
            false => Err(not_held()),
        }
    }

    /// Why a node is not to be waited for, as far as is known; none: it is there.
    fn away(&self, node: NodeId) -> Option<Cause> {
        if node == self.node {
            return None;
        }
        if !self.peers.connected(node) {
            return Some(Cause::Disconnected);
        }
        match self.health(node) {
            Some(Health::Suspect | Health::Down) => Some(Cause::Away),
            Some(Health::Alive) | None => None,
        }
    }

    /// The owners in the order in which to ask them: this node, those that are there, those that do
    /// not seem to be, and those that are not connected.
    fn owners_by_reach(&self, preference: &PreferenceList) -> Vec<NodeId> {
        let mut owners = preference.owners().to_vec();
        owners.sort_by_key(|&node| match node == self.node {
            true => 0,
            false if !self.is_away(node) => 1,
            false if self.peers.connected(node) => 2,
            false => 3,
        });
        owners
    }

    /// Whether a node is known not to answer now.
    fn is_away(&self, node: NodeId) -> bool {
        self.away(node).is_some()
    }

    /// Whether another node may answer: it is connected, and not known to be down.
    fn may_answer(&self, node: NodeId) -> bool {
        self.peers.connected(node) && self.health(node) != Some(Health::Down)
    }

    fn health(&self, node: NodeId) -> Option<Health> {
        self.liveness.of(node).and_then(|sighting| sighting.health)
    }

    fn request(
        &self,
        to: NodeId,
        request: Request,
        deadline: Instant,
    ) -> BoxFuture<'static, (NodeId, Result<Reply, PeerError>)> {
        self.peers.request(to, request, remaining(deadline)).map(move |reply| (to, reply)).boxed()
    }
}

impl Target {
    fn new(view: Arc<View>, namespace: Namespace, key: Key) -> Self {
        let vnode = view.vnode(&namespace, &key);
        let conflict = namespace.conflict;
        let address = Address { vnode, namespace: namespace.id, key, conflict };
        Self { view, namespace, address }
    }

    fn preference(&self) -> Result<&PreferenceList, RequestError> {
        preference(&self.view, self.address.vnode)
    }

    fn binding(&self) -> ContextBinding<'_> {
        binding(&self.view, &self.namespace, &self.address.key)
    }
}

/// What binds the context tokens of a key.
pub fn binding<'a>(view: &'a View, namespace: &Namespace, key: &Key) -> ContextBinding<'a> {
    ContextBinding {
        key: &view.document().cluster_key,
        namespace: namespace.id,
        hash: key.hash(namespace.id),
    }
}

fn not_held() -> RequestError {
    RequestError::not_ready(
        "this node does not hold the key by what it knows of the cluster; try again",
    )
}

fn preference(view: &View, vnode: VnodeId) -> Result<&PreferenceList, RequestError> {
    let missing = || RequestError::internal(format!("no placement for n = {}", vnode.n));
    view.preference(vnode).ok_or_else(missing)
}

fn resolve(level: Option<Level>, default: Level, n: u8) -> Result<u8, RequestError> {
    level.unwrap_or(default).resolve(n).map_err(RequestError::invalid)
}

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Why a peer that gave no useful answer does not count.
fn cause_of(reply: &Result<Reply, PeerError>) -> Cause {
    match reply {
        Err(PeerError::Disconnected { .. } | PeerError::Broken) => Cause::Disconnected,
        Err(PeerError::QueueFull) => Cause::Overloaded,
        Err(PeerError::TimedOut) => Cause::Timeout,
        Ok(Reply::Failed(error)) => cause_of_error(error),
        Err(PeerError::Malformed { .. }) | Ok(_) => Cause::Refused,
    }
}

fn cause_of_error(error: &RequestError) -> Cause {
    match error {
        RequestError::Overloaded { .. } => Cause::Overloaded,
        RequestError::HintsFull { .. } => Cause::HintsFull,
        RequestError::Data { .. }
        | RequestError::DiskFull { .. }
        | RequestError::DiskFailed { .. } => Cause::Storage,
        RequestError::Damaged { .. } => Cause::Damaged,
        RequestError::Timeout { .. } | RequestError::TimeoutElsewhere { .. } => Cause::Timeout,
        RequestError::ClockSkew { .. } => Cause::Future,
        RequestError::ClockUncertain { lasts: true, .. } => Cause::Late,
        RequestError::ClockUncertain { lasts: false, .. } => Cause::Clocks,
        _ => Cause::Refused,
    }
}

/// Too few answered: how many, and why the others did not, by name.
fn not_reached(view: &View, tally: Tally, failures: &[Failure], silent: &[NodeId]) -> RequestError {
    let failed = failures.iter().map(|f| format!("{} {}", view.name_of(f.node), f.cause));
    let silent = silent.iter().map(|&node| format!("{} {}", view.name_of(node), Cause::Timeout));
    let mut reasons: Vec<String> = failed.chain(silent).collect();
    // Not in the order of their arrival: the same failure is the same message.
    reasons.sort();
    let detail =
        if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
    RequestError::QuorumNotReached { needed: tally.needed(), got: tally.acks(), detail }
}
