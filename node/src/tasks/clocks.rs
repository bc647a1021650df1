//! Compares this node's wall clock with those of the other members.

use std::collections::BTreeSet;
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
use crate::dynamo::skew::Reading;
use crate::telemetry::Metrics;
use crate::transport::{Peers, Reply, Request};

/// How often each member is asked. This node's own clock is watched without asking; this is for the
/// others', and for those that drift.
const EVERY: Duration = Duration::from_secs(1);

/// How often it is looked whether a member is connected of which nothing is known, or this node's
/// clock was set: `lww` writes wait for the answers.
const SOON: Duration = Duration::from_millis(50);

/// How long an answer may take; a later one would prove little.
const TIMEOUT: Duration = Duration::from_secs(1);

/// By how much the wall clock may seem to have been set without anybody being asked at once, in
/// milliseconds: what NTP does a little at a time is less.
const SET_MS: u64 = 50;

/// Asks the connected members for their clocks.
pub struct CompareClocks {
    clocks: Arc<Clocks>,
    cluster: Arc<Cluster>,
    peers: Arc<dyn Peers>,
    metrics: Arc<Metrics>,
    /// How long ago all were asked.
    since: Duration,
    /// This node's clocks when they were last looked at.
    last: Reading,
    /// The members whose offsets the metrics tell.
    told: BTreeSet<String>,
}

impl CompareClocks {
    /// Tells `clocks` what the members of `cluster` answer, and `metrics` how far they are off.
    pub fn new(
        clocks: Arc<Clocks>,
        cluster: Arc<Cluster>,
        peers: Arc<dyn Peers>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (last, told) = (clocks.read(), BTreeSet::new());
        Self { clocks, cluster, peers, metrics, since: EVERY, last, told }
    }

    /// Whether all are to be asked: every so often, and when this node's own clock was set, since
    /// nobody knows whether it is right now.
    fn is_time_for_all(&mut self) -> bool {
        let now = self.clocks.read();
        let set_ms = now.set_since(std::mem::replace(&mut self.last, now));
        let all = self.since >= EVERY || set_ms.unsigned_abs() > SET_MS;
        if all {
            self.since = Duration::ZERO;
        }
        all
    }

    /// Whom to ask: all that are connected, or only those of which nothing is known.
    fn due(&self, view: &View, all: bool) -> Vec<NodeId> {
        let skew = self.clocks.skew();
        let members = view.document().members.iter().map(|member| member.node);
        let connected = members.filter(|&node| self.peers.connected(node));
        connected.filter(|&node| all || !skew.knows(node, self.last)).collect()
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

    fn report(&mut self, view: &View) {
        let seconds = |ms: i64| ms as f64 / 1000.0;
        let offsets = self.clocks.offsets();
        let mut told = BTreeSet::new();
        for (node, offset) in &offsets {
            let name = view.name_of(*node);
            self.metrics.clock_offset(&name, seconds(offset.ms));
            told.insert(name);
        }
        for name in self.told.difference(&told) {
            self.metrics.clock_offset_unknown(name);
        }
        self.told = told;
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
            let all = self.is_time_for_all();
            if all {
                self.clocks.learn(|skew| skew.retain(|node| view.member(node).is_some()));
            }
            let due = self.due(&view, all);
            if all || !due.is_empty() {
                self.ask(due).await;
                self.report(&view);
            }
            Step::Done
        }
        .boxed()
    }
}
