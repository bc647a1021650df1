//! Asks the members for whom they keep hints, so that reads know whom writes may have missed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until};

use super::{Step, Worker};
use crate::cluster::Cluster;
use crate::cluster::view::View;
use crate::dynamo::key::NodeId;
use crate::dynamo::outstanding::{Look, Outstanding};
use crate::liveness::{Doubts, Health, Liveness};
use crate::shard::Shards;
use crate::transport::{PeerError, Peers, Reply, Request};

/// How often each member is asked.
const EVERY: Duration = Duration::from_secs(1);

/// How often it is looked who is there: who is seen to be back is asked at once, and an absence that is
/// shorter is not seen.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What came of a question, and when it was asked.
type Answered = (NodeId, u64, Result<Reply, PeerError>);

/// What the task works with.
pub struct AskHintsParts {
    /// This node.
    pub node: NodeId,
    /// Who is a member.
    pub cluster: Arc<Cluster>,
    /// What this node keeps itself.
    pub shards: Shards,
    /// The way to the others.
    pub peers: Arc<dyn Peers>,
    /// Who is there.
    pub liveness: Arc<Liveness>,
    /// Who hears of it.
    pub doubts: Arc<Doubts>,
}

/// Tells [`Doubts`] who may have missed writes.
pub struct AskHints {
    parts: AskHintsParts,
    outstanding: Outstanding,
    started: Instant,
    looks: Instant,
    /// When all are asked.
    rounds: Instant,
    asking: BTreeSet<NodeId>,
    answers: FuturesUnordered<BoxFuture<'static, Answered>>,
    arrived: Option<Answered>,
}

impl AskHints {
    /// Of a node that begins now, and knows nothing.
    pub fn new(parts: AskHintsParts) -> Self {
        let now = Instant::now();
        Self {
            parts,
            outstanding: Outstanding::default(),
            started: now,
            looks: now,
            rounds: now,
            asking: BTreeSet::new(),
            answers: FuturesUnordered::new(),
            arrived: None,
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn hear(&mut self, (node, asked_ms, reply): Answered) {
        self.asking.remove(&node);
        if let Ok(Reply::Hints(hints)) = reply {
            let targets = hints.queues.into_iter().map(|queue| queue.target).collect();
            self.outstanding.on_answer(node, asked_ms, targets);
        }
    }

    /// What is seen of a member: trouble is to be without a connection, or not known to be alive. It
    /// was until it was.
    fn look_at(&self, node: NodeId, now: Instant) -> Look {
        let seen = self.parts.liveness.of(node);
        let health = seen.and_then(|sighting| sighting.health);
        let away = node != self.parts.node && !self.parts.peers.connected(node);
        let trouble = match seen {
            _ if away => Some(now),
            Some(seen) if health == Some(Health::Alive) => Some(seen.since),
            Some(_) if health.is_some() => Some(now),
            _ => None,
        };
        let trouble_ms = trouble.map(|at| self.millis(at));
        Look { trouble_ms, down: health == Some(Health::Down) }
    }

    fn look(&mut self, view: &View, now: Instant) {
        let members = view.document().members.iter().map(|member| member.node);
        let members: BTreeMap<NodeId, Look> =
            members.map(|node| (node, self.look_at(node, now))).collect();
        self.outstanding.look(&members);
        // Its own queues are looked at after the trouble that they may be of.
        let (me, now_ms) = (self.parts.node, self.millis(now));
        if let Ok(own) = self.parts.shards.all_hints() {
            let targets = own.queues.into_iter().map(|queue| queue.target).collect();
            self.outstanding.on_answer(me, now_ms, targets);
        }
        let everybody = now >= self.rounds;
        if everybody {
            self.rounds = now + EVERY;
        }
        let unheard = self.outstanding.unheard(now_ms);
        for node in members.into_keys().filter(|node| everybody || unheard.contains(node)) {
            self.ask(node, now_ms);
        }
    }

    fn ask(&mut self, node: NodeId, asked_ms: u64) {
        let peers = &self.parts.peers;
        if node == self.parts.node || !peers.connected(node) || !self.asking.insert(node) {
            return;
        }
        let reply = peers.request(node, Request::Hints, TIMEOUT);
        self.answers.push(reply.map(move |reply| (node, asked_ms, reply)).boxed());
    }
}

impl Worker for AskHints {
    fn name(&self) -> &'static str {
        "ask_hints"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        async {
            tokio::select! {
                biased;
                Some(answered) = self.answers.next() => self.arrived = Some(answered),
                () = sleep_until(self.looks) => {}
            }
        }
        .boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            let now = Instant::now();
            if let Some(answered) = self.arrived.take() {
                self.hear(answered);
            }
            let Some(view) = self.parts.cluster.view() else {
                self.looks = now + LOOK_EVERY;
                return Step::Done;
            };
            if now >= self.looks {
                self.looks = now + LOOK_EVERY;
                self.look(&view, now);
                let doubted = self.outstanding.doubted(self.millis(now));
                self.parts.doubts.update(doubted, self.outstanding.holders());
            }
            Step::Done
        }
        .boxed()
    }
}
