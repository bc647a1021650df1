//! Samples what is not counted as it happens.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::sleep;

use super::{Step, Worker};
use crate::cluster::Vote;
use crate::coordinator::Coordinator;
use crate::dynamo::standing::Doubt;
use crate::error::RequestError;
use crate::limits::Capacity;
use crate::limits::budget::Kind;
use crate::storage::Engine;
use crate::telemetry::{Metrics, QueueSize, ShardMetrics};

/// How often: finer than any scraper looks.
const EVERY: Duration = Duration::from_secs(1);

/// Keeps the gauges: queues, connections, the engine's size, the metadata's version.
pub struct Observe {
    coordinator: Arc<Coordinator>,
    engine: Arc<dyn Engine>,
    capacity: Capacity,
    metrics: Arc<Metrics>,
    queues: Vec<ShardMetrics>,
    /// For whom hints were kept when it looked last.
    hinted: BTreeSet<String>,
    /// How many writes had been given up then.
    unfollowed: u64,
}

/// What is observed.
pub struct Observed {
    /// What runs requests, and all that it works with.
    pub coordinator: Arc<Coordinator>,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// What the node can take.
    pub capacity: Capacity,
}

impl Observe {
    /// Tells `metrics` of what is observed.
    pub fn new(observed: Observed, metrics: Arc<Metrics>) -> Self {
        let Observed { coordinator, engine, capacity } = observed;
        let queued = coordinator.shards().queued();
        let queues = (0..).zip(queued).map(|(shard, _)| metrics.shard(shard)).collect();
        let (hinted, unfollowed) = (BTreeSet::new(), 0);
        Self { coordinator, engine, capacity, metrics, queues, hinted, unfollowed }
    }

    fn tell_limits(&self) {
        let Capacity { concurrency, budget, engine_bytes } = &self.capacity;
        let limits = self.metrics.limits();
        limits.requests(concurrency.running(), concurrency.limit());
        Kind::ALL.iter().for_each(|&kind| limits.memory(kind.name(), budget.used_for(kind)));
        limits.memory("engine", *engine_bytes);
        limits.memory_bounds(budget.max() + engine_bytes, budget.refused());
    }

    fn tell_hints(&mut self) {
        let view = self.coordinator.cluster().view();
        let name = |node| match view.as_ref().and_then(|view| view.document().member(node)) {
            Some(member) => member.name.clone(),
            None => node.to_string(),
        };
        let before = std::mem::take(&mut self.hinted);
        for queue in self.coordinator.shards().hint_queues() {
            let (target, oldest) = (name(queue.target), Duration::from_millis(queue.oldest_ms));
            let size = QueueSize { count: queue.count, bytes: queue.bytes, oldest };
            self.metrics.hints().queue(&target, size);
            self.hinted.insert(target);
        }
        before.difference(&self.hinted).for_each(|target| self.metrics.hints().empty(target));
        let unfollowed = self.coordinator.writes_unfollowed();
        self.metrics.hints().unfollowed(unfollowed - self.unfollowed);
        self.unfollowed = unfollowed;
    }

    fn tell_standing(&self) {
        let standings = self.coordinator.standings();
        let progress = standings.progress().borrow().clone().unwrap_or_default();
        let left = progress.vnodes.saturating_sub(progress.complete);
        self.metrics.lacking_standing("rebuilding", left);
        let told = standings.catching_up().borrow().clone();
        for doubt in Doubt::ALL {
            let left = told.as_ref().filter(|told| told.doubt == doubt).map_or(0, |told| told.left);
            self.metrics.lacking_standing(doubt.name(), left);
        }
    }

    fn others_connected(&self) -> usize {
        let Some(view) = self.coordinator.cluster().view() else { return 0 };
        let connected = |node| self.coordinator.peers().connected(node);
        view.document().members.iter().filter(|member| connected(member.node)).count()
    }
}

impl Worker for Observe {
    fn name(&self) -> &'static str {
        "observe"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        sleep(EVERY).boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            for (queue, depth) in self.queues.iter().zip(self.coordinator.shards().queued()) {
                queue.queue_depth(depth);
            }
            self.tell_limits();
            self.tell_hints();
            self.tell_standing();
            self.metrics.peers_connected(self.others_connected());
            let cluster = self.coordinator.cluster();
            self.metrics.metadata_version(cluster.version());
            let vote = cluster.vote();
            self.metrics.voter(vote == Vote::Waits, vote == Vote::Lost);
            self.metrics.metadata_forked(cluster.alarm().is_some());
            let engine = self.engine.clone();
            match self.coordinator.env().block(move || engine.stats()).await {
                Ok(stats) => {
                    self.metrics.engine_disk_bytes(stats.disk_bytes);
                    self.metrics.engine_keys(stats.keys_approx);
                    Step::Done
                }
                Err(error) => Step::Failed(RequestError::from(error)),
            }
        }
        .boxed()
    }
}
