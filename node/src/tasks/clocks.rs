//! Compares this node's wall clock with those of the other members.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::sleep;

use super::{Step, Worker};
use crate::clocks::Clocks;
use crate::cluster::Cluster;
use crate::cluster::view::View;
use crate::dynamo::key::NodeId;
use crate::telemetry::Metrics;
use crate::transport::{Peers, Reply, Request};

/// How often each member is asked. A clock that is set is noticed without asking; this is for those
/// that drift.
const EVERY: Duration = Duration::from_secs(1);

/// How often it is looked whether a member is connected of which nothing is known yet: `lww` writes
/// wait for the first answer.
const SOON: Duration = Duration::from_millis(50);

/// How long an answer may take; a later one would prove little.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Asks the connected members for their clocks.
pub struct CompareClocks {
    clocks: Arc<Clocks>,
    cluster: Arc<Cluster>,
    peers: Arc<dyn Peers>,
    metrics: Arc<Metrics>,
    /// How long ago all were asked.
    since: Duration,
}

impl CompareClocks {
    /// Tells `clocks` what the members of `cluster` answer, and `metrics` how far they are off.
    pub fn new(
        clocks: Arc<Clocks>,
        cluster: Arc<Cluster>,
        peers: Arc<dyn Peers>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { clocks, cluster, peers, metrics, since: EVERY }
    }

    /// Whom to ask now: every so often all that are connected, in between those never heard.
    fn due(&mut self, view: &View) -> Vec<NodeId> {
        let everybody = self.since >= EVERY;
        if everybody {
            self.since = Duration::ZERO;
        }
        let skew = self.clocks.skew();
        let members = view.document().members.iter().map(|member| member.node);
        let connected = members.filter(|&node| self.peers.connected(node));
        connected.filter(|&node| everybody || !skew.knows(node)).collect()
    }

    async fn ask(&self, due: Vec<NodeId>) {
        let asked = |node| {
            let (asked, reply) =
                (self.clocks.read(), self.peers.request(node, Request::Clock, TIMEOUT));
            reply.map(move |reply| (node, asked, reply))
        };
        let mut replies: FuturesUnordered<_> = due.into_iter().map(asked).collect();
        while let Some((node, asked, reply)) = replies.next().await {
            // Who does not answer keeps the offset that it had.
            if let Ok(Reply::Clock { now_ms }) = reply {
                let answered = self.clocks.read();
                self.clocks.learn(|skew| skew.on_answer(node, asked, answered, now_ms));
            }
        }
    }

    fn report(&self, view: &View) {
        let seconds = |ms: i64| ms as f64 / 1000.0;
        let offsets = self.clocks.offsets();
        for (node, offset) in &offsets {
            self.metrics.clock_offset(&view.name_of(*node), seconds(offset.ms));
        }
        let furthest = offsets.iter().map(|(_, offset)| offset.ms.saturating_abs()).max();
        self.metrics.clock_offset_max(seconds(furthest.unwrap_or_default()));
        self.metrics.clock_ahead(seconds(self.clocks.ahead_ms().unwrap_or_default()));
    }
}

impl Worker for CompareClocks {
    fn name(&self) -> &'static str {
        "compare_clocks"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        self.since += SOON;
        sleep(SOON).boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            let Some(view) = self.cluster.view() else { return Step::Done };
            let due = self.due(&view);
            if !due.is_empty() {
                self.clocks.learn(|skew| skew.retain(|node| view.member(node).is_some()));
                self.ask(due).await;
                self.report(&view);
            }
            Step::Done
        }
        .boxed()
    }
}
