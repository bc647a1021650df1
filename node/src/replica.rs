//! A node without its sockets: shards, coordinator, metadata, background tasks.
//!
//! The same assembly runs in production, under gRPC, and in simulation, under a network, a clock and
//! an engine that a test controls.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clocks::Clocks;
use crate::cluster::{Cluster, OpenError};
use crate::coordinator::{Coordinator, CoordinatorParts};
use crate::dynamo::arrival::{Arrival, Way};
use crate::dynamo::key::{NamespaceId, NodeId};
use crate::dynamo::metadata::document::{StoreId, Voter};
use crate::dynamo::operation::Opening;
use crate::dynamo::standing::Boot;
use crate::env::Env;
use crate::limits::Capacity;
use crate::liveness::{Datagram, Inbox};
use crate::service::peer::PeerHandler;
use crate::shard::{ShardContext, ShardObserver, Shards, ShardsEnd};
use crate::standing::Standings;
use crate::storage::disk::{Disk, DiskProbe};
use crate::storage::watched::Watched;
use crate::storage::{Engine, Space};
pub use crate::tasks::EXCHANGE_EVERY;
use crate::tasks::{
    self, AskHints, AskHintsParts, CompareClocks, CompareTrees, CompareTreesParts, Exchange,
    ExchangeParts, Flush, ForgetOperations, Gossip, GossipParts, Handoff, HandoffParts, Observe,
    Observed, Purge, PurgeParts, Refill, RefillParts, Scrub, ScrubParts, Sweep, WatchDisk, Worker,
};
use crate::telemetry::{Ages, Metrics, ShardMetrics};
use crate::transport::{Handler, Peers};
use crate::vnode::{HintQueues, Mended};

/// What a replica is made of.
pub struct ReplicaParts {
    /// The node.
    pub node: NodeId,
    /// Its store.
    pub store: StoreId,
    /// The store's engine.
    pub engine: Arc<dyn Engine>,
    /// The way to the other nodes.
    pub peers: Arc<dyn Peers>,
    /// The world.
    pub env: Env,
    /// Where it is measured.
    pub metrics: Arc<Metrics>,
    /// What it can take.
    pub capacity: Capacity,
    /// How its disk is looked at; none if it has none.
    pub probe: Option<DiskProbe>,
    /// Members that standing does not wait for, by the operator's word.
    pub excused: BTreeSet<NodeId>,
}

/// How a replica is sized.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicaSize {
    /// How many shards.
    pub shards: usize,
    /// Requests that may wait for each.
    pub queue: usize,
    /// How long a buffered write may wait for the disk.
    pub sync_every: Duration,
    /// By how much a clock that orders writes may be off.
    pub clock_skew_max: Duration,
    /// What is kept at most for owners that are away, in bytes of keys and objects.
    pub hints_max_bytes: u64,
    /// How long a round of exchanges with other owners begins after the last one, at least.
    pub exchange_every: Duration,
    /// How long a round of comparing trees begins after the last one, at least.
    pub trees_every: Duration,
    /// How long a round of reading all again begins after the last one ended, at least.
    pub scrub_every: Duration,
}

/// A running replica.
pub struct Replica {
    coordinator: Arc<Coordinator>,
    handler: Arc<dyn Handler>,
    cluster: Arc<Cluster>,
    engine: Arc<dyn Engine>,
    env: Env,
    stop: CancellationToken,
    tasks: TaskTracker,
    shards_end: Option<ShardsEnd>,
    disk: Arc<Disk>,
    failure: Failure,
}

/// Why a replica ended by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It cannot serve on.
    Failed(String),
    /// Its store is to be opened again.
    Reopen(String),
}

/// Why the replica cannot serve on; the first reason counts, and stops it.
#[derive(Clone)]
struct Failure {
    reason: Arc<OnceLock<Ended>>,
    stop: CancellationToken,
}

impl Failure {
    fn tell(&self, reason: String) {
        self.end(Ended::Failed(reason));
    }

    fn end(&self, ended: Ended) {
        let _ = self.reason.set(ended);
        self.stop.cancel();
    }
}

impl Replica {
    /// Starts shards and background tasks; they end with `stop`. Called within a runtime.
    pub fn start(
        parts: ReplicaParts,
        size: ReplicaSize,
        stop: CancellationToken,
    ) -> Result<Self, OpenError> {
        let ReplicaParts { node, store, peers, env, metrics, .. } = parts;
        let (capacity, excused, probe) = (parts.capacity, parts.excused, parts.probe);
        let disk = Arc::new(Disk::default());
        let engine: Arc<dyn Engine> = Arc::new(Watched::new(parts.engine, disk.clone()));
        let standings = Arc::new(Standings::open(engine.clone(), Boot(env.boot()))?);
        let hints = Arc::new(HintQueues::open(&*engine, size.hints_max_bytes)?);
        let cluster = Cluster::open(Voter { node, store }, engine.clone(), env.clone())?;
        cluster.connect(peers.clone());
        let opening = Opening(env.random());
        // What an earlier process handed to the operating system need not be on disk yet.
        let dirty = Arc::new(AtomicBool::new(true));
        metrics.disk().cut_off_bytes(engine.cut_bytes());
        let failure = Failure { reason: Arc::default(), stop: stop.clone() };
        let sees = (metrics.clone(), cluster.clone());
        let observer = Observer::new(sees, size.shards, dirty.clone(), failure.clone());
        let observer = Arc::new(observer);
        let skew_max_ms = u64::try_from(size.clock_skew_max.as_millis()).unwrap_or(u64::MAX);
        let clocks = Arc::new(Clocks::new(env.clone(), skew_max_ms));
        let context = ShardContext {
            node,
            opening,
            engine: engine.clone(),
            disk: disk.clone(),
            env: env.clone(),
            budget: capacity.budget.clone(),
            clocks: clocks.clone(),
            hints,
            hash_key: cluster.key(),
            standings: standings.clone(),
            observer,
        };
        let (shards, shards_end) = Shards::start(context, size.shards, size.queue);
        let coordinator = Arc::new(Coordinator::new(CoordinatorParts {
            node,
            opening,
            cluster: cluster.clone(),
            shards: shards.clone(),
            standings: standings.clone(),
            peers: peers.clone(),
            env: env.clone(),
            clocks,
            liveness: Arc::default(),
            stop: stop.clone(),
        }));
        let (gossip, inbox) = Inbox::new();
        let handler = Arc::new(PeerHandler::new(coordinator.clone(), gossip, metrics.clone()));
        let replica = Self {
            coordinator,
            handler,
            cluster: cluster.clone(),
            engine: engine.clone(),
            env: env.clone(),
            stop: stop.clone(),
            tasks: TaskTracker::new(),
            shards_end: Some(shards_end),
            disk,
            failure,
        };
        replica.spawn_disk_tasks(probe, dirty, size.sync_every, &metrics);
        replica.spawn(ForgetOperations::new(shards.clone(), replica.coordinator.clocks().clone()));
        replica.spawn(Sweep::new(cluster.clone(), shards.clone()));
        replica.spawn_listeners(inbox, &metrics);
        replica.spawn_handoff(&metrics);
        replica.spawn_exchange(size.exchange_every, excused.clone(), &metrics);
        replica.spawn_trees((size.trees_every, size.scrub_every), &metrics);
        replica.spawn_purge(&metrics);
        replica.spawn_refill(excused, &metrics);
        let observed = Observed { coordinator: replica.coordinator.clone(), engine, capacity };
        replica.spawn(Observe::new(observed, metrics));
        replica.spawn_recovery();
        Ok(replica)
    }

    /// What keeps the disk in step with what was applied, and an eye on its room.
    fn spawn_disk_tasks(
        &self,
        probe: Option<DiskProbe>,
        dirty: Arc<AtomicBool>,
        every: Duration,
        metrics: &Arc<Metrics>,
    ) {
        if let Some(probe) = probe {
            let (disk, env) = (self.disk.clone(), self.env.clone());
            self.spawn(WatchDisk::new(disk, probe, env, metrics.clone()));
        }
        self.spawn(Flush {
            engine: self.engine.clone(),
            dirty,
            every,
            env: self.env.clone(),
            metrics: metrics.clone(),
        });
    }

    /// What fills a store that was made in the place of a lost one.
    fn spawn_refill(&self, excused: BTreeSet<NodeId>, metrics: &Arc<Metrics>) {
        self.spawn(Refill::new(RefillParts {
            coordinator: self.coordinator.clone(),
            env: self.env.clone(),
            metrics: metrics.clone(),
            excused,
            stop: self.stop.clone(),
        }));
    }

    /// What hears the other nodes without being asked to by a client.
    fn spawn_listeners(&self, inbox: Receiver<Datagram>, metrics: &Arc<Metrics>) {
        let (coordinator, cluster) = (&self.coordinator, self.cluster.clone());
        let (clocks, peers) = (coordinator.clocks().clone(), coordinator.peers().clone());
        self.spawn(CompareClocks::new(clocks, cluster.clone(), peers.clone(), metrics.clone()));
        self.spawn(AskHints::new(AskHintsParts {
            node: coordinator.node(),
            cluster: cluster.clone(),
            shards: coordinator.shards().clone(),
            peers: peers.clone(),
            liveness: coordinator.liveness().clone(),
            doubts: coordinator.doubts().clone(),
        }));
        self.spawn(Gossip::new(GossipParts {
            node: coordinator.node(),
            cluster,
            peers,
            inbox,
            liveness: coordinator.liveness().clone(),
            env: self.env.clone(),
            metrics: metrics.clone(),
        }));
    }

    /// What sends hints home.
    fn spawn_handoff(&self, metrics: &Arc<Metrics>) {
        let coordinator = &self.coordinator;
        self.spawn(Handoff::new(HandoffParts {
            node: coordinator.node(),
            cluster: self.cluster.clone(),
            shards: coordinator.shards().clone(),
            peers: coordinator.peers().clone(),
            liveness: coordinator.liveness().clone(),
            env: self.env.clone(),
            metrics: metrics.clone(),
        }));
    }

    /// What fetches writes that this node missed.
    fn spawn_exchange(&self, every: Duration, excused: BTreeSet<NodeId>, metrics: &Arc<Metrics>) {
        self.spawn(Exchange::new(ExchangeParts {
            coordinator: self.coordinator.clone(),
            env: self.env.clone(),
            metrics: metrics.clone(),
            every,
            excused,
            stop: self.stop.clone(),
        }));
    }

    /// What fetches values that differ from those of other owners, and what finds that some rotted here.
    fn spawn_trees(&self, (every, scrub_every): (Duration, Duration), metrics: &Arc<Metrics>) {
        self.spawn(Scrub::new(ScrubParts {
            coordinator: self.coordinator.clone(),
            env: self.env.clone(),
            metrics: metrics.clone(),
            every: scrub_every,
            stop: self.stop.clone(),
        }));
        self.spawn(CompareTrees::new(CompareTreesParts {
            coordinator: self.coordinator.clone(),
            env: self.env.clone(),
            metrics: metrics.clone(),
            every,
            stop: self.stop.clone(),
        }));
    }

    /// What removes values that expired.
    fn spawn_purge(&self, metrics: &Arc<Metrics>) {
        self.spawn(Purge::new(PurgeParts {
            coordinator: self.coordinator.clone(),
            env: self.env.clone(),
            metrics: metrics.clone(),
            stop: self.stop.clone(),
        }));
    }

    /// Runs client requests.
    pub fn coordinator(&self) -> &Arc<Coordinator> {
        &self.coordinator
    }

    /// Answers other nodes. They hold it weakly: it lives as long as the replica.
    pub fn handler(&self) -> &Arc<dyn Handler> {
        &self.handler
    }

    /// What it knows of the cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// What is known of its disk.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Why it stopped by itself, if it did.
    pub fn ended(&self) -> Option<Ended> {
        self.failure.reason.get().cloned()
    }

    /// Returns once everything has ended and what was applied is on disk; `stop` must have been
    /// cancelled, and nobody may hold the coordinator any more.
    pub async fn stopped(mut self) -> Option<Ended> {
        self.stop.cancelled().await;
        self.tasks.close();
        self.tasks.wait().await;
        let standings = self.coordinator.standings().clone();
        let (env, failure) = (self.env.clone(), self.failure.clone());
        let end = self.shards_end.take();
        drop(self);
        if let Some(end) = end {
            end.wait().await;
        }
        if let Err(error) = env.block(move || standings.close()).await {
            failure.tell(error.to_string());
        }
        failure.reason.get().cloned()
    }

    fn spawn(&self, worker: impl Worker) {
        let (name, failure) = (worker.name(), self.failure.clone());
        let reopen = move |reason| failure.end(Ended::Reopen(reason));
        self.watch(name, tasks::run(worker, self.stop.clone(), reopen));
    }

    /// The voter hears the other voters before it votes again.
    fn spawn_recovery(&self) {
        let (cluster, stop) = (self.cluster.clone(), self.stop.clone());
        self.watch("recovery", async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = cluster.recover() => {}
            }
        });
    }

    /// Runs a task whose panic would go unnoticed: without it, say, nothing is synced any more.
    fn watch(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let failure = self.failure.clone();
        self.tasks.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                failure.tell(format!("the background task {name} panicked"));
            }
        });
    }
}

/// Turns what shards tell into metrics.
struct Observer {
    metrics: Arc<Metrics>,
    /// What names namespaces.
    cluster: Arc<Cluster>,
    ages: Mutex<BTreeMap<(NamespaceId, Way), Ages>>,
    shards: Vec<ShardMetrics>,
    dirty: Arc<AtomicBool>,
    failure: Failure,
}

impl Observer {
    fn new(
        (metrics, cluster): (Arc<Metrics>, Arc<Cluster>),
        shards: usize,
        dirty: Arc<AtomicBool>,
        failure: Failure,
    ) -> Self {
        let shards = (0..shards as u32).map(|shard| metrics.shard(shard)).collect();
        Self { metrics, cluster, ages: Mutex::default(), shards, dirty, failure }
    }
}

impl ShardObserver for Observer {
    fn turn(&self, shard: usize, requests: usize) {
        if let Some(shard) = self.shards.get(shard) {
            shard.committed(requests);
        }
    }

    fn applied(&self) {
        self.dirty.store(true, Ordering::Release);
    }

    fn corrupt(&self, space: Space, records: u64) {
        self.metrics.corrupt_records(space.name(), records);
    }

    fn lied(&self, frontiers: u64) {
        self.metrics.trees().lied(frontiers);
    }

    fn mismatched(&self) {
        self.metrics.trees().mismatched();
    }

    fn arrived(&self, arrivals: &[Arrival]) {
        if arrivals.is_empty() {
            return;
        }
        let mut ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner);
        for Arrival { namespace, way, age_ms } in arrivals {
            let counted = match ages.entry((*namespace, *way)) {
                Entry::Occupied(counted) => counted.into_mut(),
                Entry::Vacant(new) => {
                    let view = self.cluster.view();
                    let found = view.as_ref().and_then(|view| view.namespace(*namespace));
                    // One that was dropped meanwhile has no name.
                    let Some(named) = found else { continue };
                    new.insert(self.metrics.staleness().ages(&named.name, *way))
                }
            };
            counted.observe(*age_ms);
        }
    }

    fn mended(&self, Mended { mended, lost }: Mended) {
        self.metrics.mended_records(mended);
        self.metrics.lost_records(lost);
    }

    fn recorded(&self, operations: u64) {
        self.metrics.operations_recorded(operations);
    }

    fn forgotten(&self, operations: u64) {
        self.metrics.operations_forgotten(operations);
    }

    fn future(&self, writes: u64) {
        self.metrics.lww_from_the_future(writes);
    }

    fn crowded(&self) {
        self.metrics.sibling_refused();
    }

    fn hinted(&self, accepted: u64, refused: u64) {
        self.metrics.hints().taken(accepted, refused);
    }

    fn expired(&self, requests: u64) {
        self.metrics.limits().expired(requests);
    }

    fn panicked(&self, shard: usize) {
        tracing::error!(shard, "a shard panicked; the node cannot serve on");
        self.failure.tell(format!("shard {shard} panicked"));
    }
}
