//! A cluster of the real node code on one thread, from one seed.
//!
//! ```text
//!   Scenario: seed, workload, faults ─► run ─► History ─► checkers
//! ```
//!
//! Coordinators, shards, vnodes and background tasks are those of production; the network, the
//! engine, the clock and the randomness are the test's. Time is tokio's, paused: it jumps to the
//! next timer whenever nothing is left to do. So a seed is a run, to the byte.
//!
//! [`SimCluster`] is the cluster, for tests that tell a [`story`]; [`run::Scenario`] is a whole run,
//! with clients and faults from the seed, whose history checkers read.

mod administrator;
mod client;
pub mod faults;
mod inflict;
mod injure;
pub mod mutants;
mod observe;
mod panics;
pub mod profile;
pub mod run;
pub mod seeds;
pub mod shrink;
pub mod stories;
pub mod story;
mod wire;
pub mod workload;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use quorate_node::dynamo::key::{Key, NodeId, PartitionCount};
use quorate_node::dynamo::metadata::Document;
use quorate_node::dynamo::metadata::document::{
    ClusterId, ClusterKey, FirstDocument, Member, NewNamespace, StoreId, Voter,
};
use quorate_node::dynamo::operation::Opening;
use quorate_node::env::{Clock, Env, Pause};
use quorate_node::limits::Capacity;
use quorate_node::limits::budget::Budget;
use quorate_node::limits::concurrency::Concurrency;
use quorate_node::replica::{Replica, ReplicaParts, ReplicaSize};
use quorate_node::service::deadline::Timeouts;
use quorate_node::service::kv::{KvService, NodeParts};
use quorate_node::standing::{self, CatchingUp, Progress};
use quorate_node::storage::memory::MemoryEngine;
use quorate_node::storage::{Batch, Engine as _, Space, record};
use quorate_node::tasks::EXCHANGE_EVERY;
use quorate_node::telemetry::Metrics;
use quorate_node::transport::memory::{Delivery, Faults, MemoryNetwork, MemoryPeers};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::story::Door;

/// How often a node syncs what it has.
const SYNC_EVERY: Duration = Duration::from_millis(100);

/// Half a year into 2026, in milliseconds since the Unix epoch: when every simulation begins.
const EPOCH_MS: u64 = 1_782_000_000_000;

/// A node's wall clock: it follows the runtime's paused time, and is right unless a test sets it.
struct SimClock {
    started: Instant,
    wrong: Mutex<Wrong>,
}

/// How wrong a clock is.
#[derive(Clone, Copy)]
struct Wrong {
    ahead_ms: i64,
    gains_ms_per_s: i64,
    since: Instant,
}

impl Wrong {
    fn ahead_ms(self) -> i64 {
        self.ahead_ms + self.gains_ms_per_s * self.since.elapsed().as_millis() as i64 / 1000
    }
}

impl SimClock {
    fn right(started: Instant) -> Self {
        let wrong = Wrong { ahead_ms: 0, gains_ms_per_s: 0, since: Instant::now() };
        Self { started, wrong: Mutex::new(wrong) }
    }

    fn set(&self, wrong: impl FnOnce(Wrong) -> Wrong) {
        let mut now = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        *now = Wrong { since: Instant::now(), ..wrong(*now) };
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        let wrong = *self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        right_ms(self.started).saturating_add_signed(wrong.ahead_ms())
    }
}

fn right_ms(started: Instant) -> u64 {
    EPOCH_MS + started.elapsed().as_millis() as u64
}

/// What each node of a simulation can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimSize {
    /// How long a request takes a shard.
    pub request_cost: Duration,
    /// The default deadline of requests.
    pub timeout: Duration,
    /// Memory for requests, in bytes.
    pub memory: u64,
    /// What each node keeps at most for the others, in bytes.
    pub hints: u64,
    /// How often owners look what they missed.
    pub exchange_every: Duration,
    /// How often they compare their trees of hashes.
    pub trees_every: Duration,
    /// How often they read all again.
    pub scrub_every: Duration,
    /// The first so many nodes vote on metadata.
    pub voters: usize,
    /// How many partitions there are.
    pub partitions: u64,
    /// How long nodes do not notice that others are silent.
    pub notice: Duration,
    /// Whether deliveries and notes are kept to be read.
    pub traced: bool,
}

impl Default for SimSize {
    /// Machines without limits that matter.
    fn default() -> Self {
        let (request_cost, timeout) = (Duration::ZERO, Duration::from_secs(5));
        Self {
            request_cost,
            timeout,
            memory: 1 << 30,
            hints: 1 << 30,
            exchange_every: EXCHANGE_EVERY,
            // They would mend what other ways of repair are to be seen to mend: who wants them says so.
            trees_every: Duration::from_secs(86_400),
            scrub_every: Duration::from_secs(86_400),
            voters: usize::MAX,
            partitions: 16,
            notice: Faults::default().notice,
            traced: true,
        }
    }
}

/// A node that runs.
struct Running {
    replica: Replica,
    capacity: Capacity,
    engine: Arc<MemoryEngine>,
    peers: Arc<MemoryPeers>,
    stop: CancellationToken,
    service: KvService,
    metrics: Arc<Metrics>,
}

/// A process, as a client meets it.
#[derive(Clone)]
pub struct Serving {
    /// Its handlers.
    pub service: KvService,
    /// Cancelled when it ends.
    pub gone: CancellationToken,
    /// Whether it stands still.
    pub pause: Pause,
    /// Its opening.
    pub opening: Opening,
}

/// A simulated cluster.
pub struct SimCluster {
    network: MemoryNetwork,
    started: Instant,
    /// They outlive their nodes' processes.
    clocks: BTreeMap<usize, Arc<SimClock>>,
    seed: u64,
    size: SimSize,
    running: BTreeMap<usize, Running>,
    /// The stores of nodes that were killed.
    stores: BTreeMap<usize, Arc<MemoryEngine>>,
    openings: u64,
    /// Of nodes that lost their first store.
    store_ids: BTreeMap<usize, StoreId>,
    /// Copies of data directories, with the ids of their stores.
    copies: BTreeMap<usize, (Arc<MemoryEngine>, StoreId)>,
    /// Second processes, started over such copies.
    twins: BTreeMap<usize, Running>,
    pauses: BTreeMap<usize, Pause>,
    /// How often each machine was started anew.
    boots: BTreeMap<usize, u64>,
    trace: Arc<Mutex<Trace>>,
}

#[derive(Default)]
struct Trace {
    /// None unless somebody wants to read them.
    events: Option<Vec<Event>>,
    fingerprint: DefaultHasher,
}

impl Trace {
    fn on_delivery(&mut self, delivery: &Delivery) {
        let Delivery { at_ms, from, to, kind: _, length, hash } = delivery;
        (at_ms, from.0, to.0, length, hash).hash(&mut self.fingerprint);
        if let Some(events) = &mut self.events {
            events.push(Event::Delivered(delivery.clone()));
        }
    }
}

/// What happened. It becomes text only for those who read it: most runs deliver for nobody's eyes.
enum Event {
    Delivered(Delivery),
    Noted(String),
}

/// The name of the `index`-th node.
pub fn name(index: usize) -> String {
    format!("node-{index}")
}

/// The id of the `index`-th node.
pub fn node(index: usize) -> NodeId {
    NodeId::of_name(&name(index))
}

/// A namespace with the defaults but for strict quorums: what a test says of reads that see every
/// acknowledged write is true of those alone.
pub fn strict(name: &str) -> NewNamespace {
    NewNamespace { sloppy: false, ..NewNamespace::named(name) }
}

impl SimCluster {
    /// A cluster of `nodes`, all of which know its first document. Called on a paused runtime.
    pub async fn start(nodes: usize, seed: u64) -> Result<Self> {
        Self::sized(nodes, seed, SimSize::default()).await
    }

    /// The same, with choices.
    pub async fn sized(nodes: usize, seed: u64, size: SimSize) -> Result<Self> {
        let network = MemoryNetwork::seeded(seed);
        let events = size.traced.then(Vec::new);
        let trace = Arc::new(Mutex::new(Trace { events, ..Trace::default() }));
        let recorded = trace.clone();
        network.record(move |delivery| {
            recorded.lock().unwrap_or_else(PoisonError::into_inner).on_delivery(delivery);
        });
        let mut cluster = Self {
            network,
            started: Instant::now(),
            clocks: BTreeMap::new(),
            seed,
            size,
            running: BTreeMap::new(),
            stores: BTreeMap::new(),
            openings: 0,
            store_ids: BTreeMap::new(),
            copies: BTreeMap::new(),
            twins: BTreeMap::new(),
            pauses: BTreeMap::new(),
            boots: BTreeMap::new(),
            trace,
        };
        cluster.network.set_faults(cluster.calm());
        for index in 0..nodes {
            cluster.run(index, Arc::new(MemoryEngine::new()))?;
        }
        let document = first_document(nodes, size)?.encode();
        for running in cluster.running.values() {
            running.replica.cluster().bootstrap(document.clone()).await?;
        }
        Ok(cluster)
    }

    /// Creates a namespace by way of the first node.
    pub async fn create_namespace(&self, new: NewNamespace) -> Result<()> {
        let cluster = self.running[&0].replica.cluster();
        cluster.create_namespace(new, Duration::from_secs(60)).await?;
        Ok(())
    }

    /// Runs requests on the `index`-th node.
    pub fn coordinator(&self, index: usize) -> Option<Door> {
        self.running.get(&index).map(|running| Door(running.replica.coordinator().clone()))
    }

    /// The handlers of the `index`-th node, as its clients meet them.
    pub fn service(&self, index: usize) -> Option<KvService> {
        self.running.get(&index).map(|running| running.service.clone())
    }

    /// What a client reaches at the address of the `index`-th node: of two processes under one
    /// name, the second if it looks there.
    pub fn serving(&self, index: usize, second: bool) -> Option<Serving> {
        let twin = self.twins.get(&index).filter(|_| second);
        let Running { service, stop, replica, .. } = twin.or_else(|| self.running.get(&index))?;
        let pause = self.pauses.get(&index).cloned().unwrap_or_default();
        let opening = replica.coordinator().opening();
        Some(Serving { service: service.clone(), gone: stop.clone(), pause, opening })
    }

    /// The page of metrics of the `index`-th node.
    pub fn metrics(&self, index: usize) -> Option<String> {
        Some(self.running.get(&index)?.metrics.encode())
    }

    /// How many requests the `index`-th node runs at once.
    pub fn concurrency(&self, index: usize) -> Option<Arc<Concurrency>> {
        Some(self.running.get(&index)?.capacity.concurrency.clone())
    }

    /// What they hold in memory there.
    pub fn budget(&self, index: usize) -> Option<Arc<Budget>> {
        Some(self.running.get(&index)?.capacity.budget.clone())
    }

    /// The right time, which every wall clock shows that no test has set.
    pub fn now_ms(&self) -> u64 {
        right_ms(self.started)
    }

    /// Changes what the network does to messages.
    pub fn set_faults(&self, faults: Faults) {
        self.network.set_faults(faults);
    }

    /// Sets a node's wall clock to so much ahead of the right time, or behind it.
    pub fn set_clock(&mut self, index: usize, ahead_ms: i64) {
        self.clock(index).set(|wrong| Wrong { ahead_ms, ..wrong });
    }

    fn clock(&mut self, index: usize) -> Arc<SimClock> {
        let (started, clock) = (self.started, self.clocks.entry(index));
        clock.or_insert_with(|| Arc::new(SimClock::right(started))).clone()
    }

    /// Swallows all that two nodes send each other, without their noticing.
    pub fn cut(&self, one: usize, other: usize) {
        self.network.cut(node(one), node(other));
        self.network.cut(node(other), node(one));
    }

    /// Lets two nodes hear each other again.
    pub fn reconnect(&self, one: usize, other: usize) {
        self.network.mend(node(one), node(other));
        self.network.mend(node(other), node(one));
    }

    /// Ends a node as `kill -9` does: what its engine applied stays.
    pub fn kill(&mut self, index: usize) {
        if let Some(killed) = self.running.remove(&index) {
            self.network.detach(&killed.peers);
            killed.stop.cancel();
            self.stores.insert(index, Arc::new(killed.engine.kill()));
        }
    }

    /// Starts a killed node over its store.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        let store = self.stores.remove(&index).context("the node is not down")?;
        self.run(index, store)
    }

    /// Flips a bit of what the `index`-th node holds of a key; false if it holds nothing.
    pub fn damage(&self, index: usize, namespace: &str, key: &Key) -> Result<bool> {
        let (engine, stored) = self.record(index, namespace, key)?;
        let Some(sealed) = engine.get(Space::Objects, &stored)? else { return Ok(false) };
        let mut flipped = sealed.to_vec();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        let mut batch = Batch::new();
        batch.put(Space::Objects, stored, flipped);
        engine.apply(batch)?;
        Ok(true)
    }

    /// What the `index`-th node has on record of a key, sealed; none if nothing.
    pub fn sealed(&self, index: usize, namespace: &str, key: &Key) -> Result<Option<Bytes>> {
        let (engine, stored) = self.record(index, namespace, key)?;
        Ok(engine.get(Space::Objects, &stored)?)
    }

    /// Puts another record in the place of a node's record of a key, or none, behind its back: no checksum
    /// tells.
    pub fn replace(
        &self,
        index: usize,
        namespace: &str,
        key: &Key,
        sealed: Option<Bytes>,
    ) -> Result<()> {
        let (engine, stored) = self.record(index, namespace, key)?;
        let mut batch = Batch::new();
        match sealed {
            Some(sealed) => batch.put(Space::Objects, stored, sealed),
            None => batch.delete(Space::Objects, stored),
        }
        Ok(engine.apply(batch)?)
    }

    /// Whoever is started from now on compares trees, and reads all of its records again, every few seconds.
    pub fn reread(&mut self) {
        let (trees_every, scrub_every) = (Duration::from_secs(2), Duration::from_secs(4));
        self.size = SimSize { trees_every, scrub_every, ..self.size };
    }

    /// Whether what the `index`-th node holds of a key is not what was written.
    pub fn is_damaged(&self, index: usize, namespace: &str, key: &Key) -> Result<bool> {
        let (engine, stored) = self.record(index, namespace, key)?;
        let sealed = engine.get(Space::Objects, &stored)?;
        Ok(sealed.is_some_and(|sealed| record::open(&stored, &sealed).is_err()))
    }

    /// The engine of a node, running or not, and where a key lies in it.
    fn record(&self, index: usize, namespace: &str, key: &Key) -> Result<(&MemoryEngine, Bytes)> {
        let (engine, view) = (self.engine(index)?, self.view()?);
        let namespace = view.namespace_named(namespace).context("there is no such namespace")?;
        let vnode = view.vnode(namespace, key);
        Ok((engine, record::object_key(vnode, namespace.id, key.as_bytes())))
    }

    /// Adds a line to the trace.
    pub fn note(&self, line: String) {
        self.note_with(|| line);
    }

    /// The same, of a line that is only made for those who read it.
    pub fn note_with(&self, line: impl FnOnce() -> String) {
        let mut trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(events) = &mut trace.events {
            let at = self.started.elapsed().as_millis();
            events.push(Event::Noted(format!("{at} ms  {}", line())));
        }
    }

    /// Everything that happened: deliveries and notes, in order.
    pub fn trace(&self) -> Vec<String> {
        let names: Vec<_> =
            self.clocks.keys().map(|&index| (node(index).to_string(), name(index))).collect();
        let named = |line: String| {
            names.iter().fold(line, |line, (id, name)| line.replace(id.as_str(), name))
        };
        let text = |event: &Event| match event {
            Event::Delivered(delivery) => named(delivery.to_string()),
            Event::Noted(line) => named(line.clone()),
        };
        let trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        trace.events.iter().flatten().map(text).collect()
    }

    /// A hash of all deliveries.
    pub fn fingerprint(&self) -> u64 {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).fingerprint.finish()
    }

    /// The metadata document that a running node has.
    pub fn document(&self, index: usize) -> Result<Bytes> {
        let running = self.running.get(&index).context("the node does not run")?;
        let view = running.replica.cluster().view().context("there is no cluster")?;
        Ok(view.document().encode())
    }

    /// Loses a node's store, and starts it over a new one, as `quorate serve --rebuild` does: with
    /// the document that another node has.
    pub async fn rebuild(&mut self, index: usize) -> Result<()> {
        let other = self.running.keys().copied().find(|&other| other != index);
        let document = self.document(other.context("no other node runs")?)?;
        self.rebuild_with(index, document).await
    }

    /// The same, with a document that may be an old one.
    pub async fn rebuild_with(&mut self, index: usize, document: Bytes) -> Result<()> {
        self.kill(index);
        self.stores.remove(&index);
        let engine = Arc::new(MemoryEngine::new());
        standing::mark(&*engine)?;
        self.store_ids.insert(index, StoreId(1_000 + self.openings));
        self.run(index, engine)?;
        self.running[&index].replica.cluster().learn(document).await?;
        Ok(())
    }

    /// Lets a running node's disk be almost full, or have room again.
    pub fn set_almost_full(&self, index: usize, full: bool) -> Result<()> {
        const RESERVE_BYTES: u64 = 1 << 20;
        let running = self.running.get(&index).context("the node is down")?;
        let free_bytes = if full { 0 } else { 1 << 40 };
        running.replica.disk().on_free(free_bytes, RESERVE_BYTES);
        Ok(())
    }

    /// The nodes that own a key, as the first running one knows.
    pub fn owners(&self, namespace: &str, key: &Key) -> Result<Vec<NodeId>> {
        let running = self.running.values().next().context("no node runs")?;
        let view = running.replica.cluster().view().context("no cluster")?;
        let namespace = view.namespace_named(namespace).context("no such namespace")?;
        let list = view.preference(view.vnode(namespace, key)).context("no placement")?;
        Ok(list.owners().to_vec())
    }

    /// How far the rebuilding of a running node's store has got; none if it is whole.
    pub fn rebuilding(&self, index: usize) -> Option<Progress> {
        let running = self.running.get(&index)?;
        running.replica.coordinator().standings().progress().borrow().clone()
    }

    /// How far a running node, which was started again, is from being believed; none if it is.
    pub fn catching_up(&self, index: usize) -> Option<CatchingUp> {
        let running = self.running.get(&index)?;
        running.replica.coordinator().standings().catching_up().borrow().clone()
    }

    /// How much a running node remembers that another one said it had seen of the partition of a key: how many
    /// writes.
    pub fn remembers(&self, index: usize, of: usize, namespace: &str, key: &Key) -> Result<u64> {
        let view = self.view()?;
        let namespace = view.namespace_named(namespace).context("there is no such namespace")?;
        let running = self.running.get(&index).context("the node does not run")?;
        let standings = running.replica.coordinator().standings();
        let told = standings.remembered(view.vnode(namespace, key), node(of));
        Ok(told.map_or(0, |told| told.count()))
    }

    /// Waits until a running node, which was started again, is believed: a few seconds at most.
    pub async fn until_believed(&self, index: usize) -> Result<()> {
        for _ in 0..100 {
            if self.catching_up(index).is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("node {index} is not believed: {:?}", self.catching_up(index))
    }

    /// Ends a node in order, as SIGTERM does: all that it holds is on disk, and it says so there. Nobody
    /// may be a client of it any more.
    pub async fn close(&mut self, index: usize) -> Result<()> {
        let Running { replica, engine, peers, stop, service, .. } =
            self.running.remove(&index).context("the node does not run")?;
        self.network.detach(&peers);
        drop(service);
        stop.cancel();
        if let Some(ended) = replica.stopped().await {
            anyhow::bail!("node {index} did not end in order: {ended:?}");
        }
        self.stores.insert(index, Arc::new(engine.kill()));
        Ok(())
    }

    fn run(&mut self, index: usize, engine: Arc<MemoryEngine>) -> Result<()> {
        let store = self.store_id(index);
        let running = self.begin(index, engine, store)?;
        self.network.attach(&running.peers, running.replica.handler());
        self.running.insert(index, running);
        Ok(())
    }

    fn store_id(&self, index: usize) -> StoreId {
        self.store_ids.get(&index).copied().unwrap_or(StoreId(index as u64 + 1))
    }

    /// Begins a process, which nobody can reach yet.
    fn begin(
        &mut self,
        index: usize,
        engine: Arc<MemoryEngine>,
        store: StoreId,
    ) -> Result<Running> {
        self.openings += 1;
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(self.openings);
        let (peers, metrics) = (self.network.peers(node(index)), Arc::new(Metrics::new()));
        let capacity = Capacity {
            concurrency: Concurrency::new(1024, self.size.timeout / 2),
            budget: Budget::new(self.size.memory),
            engine_bytes: 0,
        };
        let pause = self.pauses.entry(index).or_default().clone();
        let boot = self.boots.get(&index).copied().unwrap_or_default();
        let env = Env::simulated(self.clock(index), seed).with_boot(boot);
        let parts = ReplicaParts {
            node: node(index),
            store,
            engine: engine.clone(),
            peers: peers.clone(),
            env: env.with_request_cost(self.size.request_cost).with_pause(pause),
            metrics: metrics.clone(),
            excused: BTreeSet::new(),
            capacity: capacity.clone(),
            probe: None,
        };
        let clock_skew_max = Duration::from_millis(500);
        let size = ReplicaSize {
            shards: 2,
            queue: 1024,
            sync_every: SYNC_EVERY,
            clock_skew_max,
            hints_max_bytes: self.size.hints,
            exchange_every: self.size.exchange_every,
            trees_every: self.size.trees_every,
            scrub_every: self.size.scrub_every,
        };
        let stop = CancellationToken::new();
        let replica = Replica::start(parts, size, stop.clone())?;
        let (default, longest) = (self.size.timeout, Duration::from_secs(60));
        let service = KvService::new(Arc::new(NodeParts {
            name: name(index),
            coordinator: replica.coordinator().clone(),
            metrics: metrics.clone(),
            capacity: capacity.clone(),
            timeouts: Timeouts { default, longest },
            message_max_bytes: 16 << 20,
            requests: Default::default(),
        }));
        Ok(Running { replica, capacity, engine, peers, stop, service, metrics })
    }
}

fn first_document(nodes: usize, size: SimSize) -> Result<Document> {
    let member = |index| Member {
        node: node(index),
        name: name(index),
        zone: format!("zone-{index}"),
        weight: 10,
        peer_address: format!("10.0.0.{index}:7501"),
        client_address: format!("10.0.0.{index}:7401"),
    };
    let voter = |index| Voter { node: node(index), store: StoreId(index as u64 + 1) };
    Ok(Document::first(FirstDocument {
        cluster: ClusterId([1; 16]),
        cluster_key: ClusterKey([2; 32]),
        partitions: PartitionCount::new(size.partitions)?,
        members: (0..nodes).map(member).collect(),
        voters: (0..size.voters.min(nodes)).map(voter).collect(),
    })?)
}

/// Runs `work` on one thread with paused time.
pub fn simulate<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build()?.block_on(work)
}

/// The generator of a run's workload.
pub fn workload_rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed ^ 0x5eed)
}
