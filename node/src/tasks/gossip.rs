//! Takes part in the gossip about who is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Step, Worker};
use crate::cluster::Cluster;
use crate::cluster::view::View;
use crate::dynamo::key::NodeId;
use crate::env::Env;
use crate::liveness::{Datagram, Effects, GossipError, Health, Liveness, Swim, Timer};
use crate::telemetry::Metrics;
use crate::transport::{Peers, Request};

/// How often it is looked who is not there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Who is late by more stood still, or had no processor.
const STOOD_STILL: Duration = Duration::from_millis(250);

/// How long a message may wait to be sent: a later one would be no news.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What the task works with.
pub struct GossipParts {
    /// This node.
    pub node: NodeId,
    /// Who is a member.
    pub cluster: Arc<Cluster>,
    /// The way to them.
    pub peers: Arc<dyn Peers>,
    /// What they sent.
    pub inbox: mpsc::Receiver<Datagram>,
    /// Who hears of it.
    pub liveness: Arc<Liveness>,
    /// The world.
    pub env: Env,
    /// Where it is measured.
    pub metrics: Arc<Metrics>,
}

/// Says that this node is there, and tells [`Liveness`] who else is.
pub struct Gossip {
    parts: GossipParts,
    swim: Swim,
    /// What is to be told to `swim` and when; those of one time in their order.
    timers: BTreeMap<(Instant, u64), Timer>,
    /// How many timers there were.
    count: u64,
    looks: Instant,
    arrived: Option<Datagram>,
}

impl Gossip {
    /// Of a node that begins now.
    pub fn new(parts: GossipParts) -> Self {
        let swim = Swim::new(parts.node, parts.env.now_ms(), parts.env.rng());
        let (timers, looks) = (BTreeMap::new(), Instant::now());
        Self { parts, swim, timers, count: 0, looks, arrived: None }
    }

    fn next_due(&self) -> Instant {
        self.timers.first_key_value().map_or(self.looks, |((due, _), _)| self.looks.min(*due))
    }

    /// Hears whatever has arrived: it may be what keeps a suspect from being down. What comes meanwhile
    /// waits for the next turn, or a flood would be a turn without an end.
    fn hear(&mut self, members: &BTreeSet<NodeId>) {
        let waiting = self.parts.inbox.len();
        let mut arrived: Vec<Datagram> = self.arrived.take().into_iter().collect();
        arrived.extend((0..waiting).map_while(|_| self.parts.inbox.try_recv().ok()));
        for (from, datagram) in arrived {
            self.bring(|swim, effects| swim.on_datagram(from, &datagram, members, effects));
        }
    }

    /// Does what is due by now, and no more: what that brings about comes later. Where this node stood
    /// still, that time does not count: others would be down that have answered meanwhile.
    fn on_time(&mut self, now: Instant) {
        let first = self.timers.first_key_value().map_or(now, |((due, _), _)| *due);
        let late = now.saturating_duration_since(first);
        if late > STOOD_STILL {
            let timers = std::mem::take(&mut self.timers).into_iter();
            self.timers = timers.map(|((due, n), timer)| ((due + late, n), timer)).collect();
            return;
        }
        let later = self.timers.split_off(&(now, u64::MAX));
        for timer in std::mem::replace(&mut self.timers, later).into_values() {
            self.bring(|swim, effects| swim.on_timer(timer, effects));
        }
    }

    fn look(&mut self, members: &BTreeSet<NodeId>, now: Instant) {
        if now >= self.looks {
            self.looks = now + LOOK_EVERY;
            self.bring(|swim, effects| swim.look(members, effects));
        }
    }

    /// Tells `swim` something, and does what it wants done, also if it made nothing of what it was
    /// told. Whether what is sent arrives, the answers tell.
    fn bring(&mut self, tell: impl FnOnce(&mut Swim, &mut Effects) -> Result<(), GossipError>) {
        let mut effects = Effects::default();
        if let Err(error) = tell(&mut self.swim, &mut effects) {
            tracing::debug!(%error, "gossip came to nothing");
        }
        let Effects { sends, timers, .. } = effects;
        for (to, datagram) in sends {
            drop(self.parts.peers.request(to, Request::Gossip(datagram), TIMEOUT));
        }
        let now = Instant::now();
        for (after, timer) in timers {
            self.count += 1;
            self.timers.insert((now + after, self.count), timer);
        }
    }

    /// Tells what is known now.
    fn publish(&self, view: &View, members: &BTreeSet<NodeId>) {
        let GossipParts { node, liveness, metrics, .. } = &self.parts;
        let mut health = self.swim.health();
        health.insert(*node, Health::Alive);
        for (node, health) in liveness.update(members.iter().copied(), &health) {
            let (name, health) = (view.name_of(node), health.name());
            tracing::info!(member = name, health, "a member is seen otherwise than before");
        }
        Health::ALL.into_iter().for_each(|of| metrics.members(of.name(), liveness.count(of)));
    }
}

impl Worker for Gossip {
    fn name(&self) -> &'static str {
        "gossip"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        async {
            let due = self.next_due();
            tokio::select! {
                biased;
                Some(arrived) = self.parts.inbox.recv() => self.arrived = Some(arrived),
                () = sleep_until(due) => {}
            }
        }
        .boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            self.parts.env.pause().over().await;
            let now = Instant::now();
            let Some(view) = self.parts.cluster.view() else {
                // Nobody is a member: there is nothing to hear, and no timer yet.
                (self.arrived, self.looks) = (None, now + LOOK_EVERY);
                return Step::Done;
            };
            let members = view.document().members.iter().map(|member| member.node).collect();
            self.hear(&members);
            self.on_time(now);
            self.look(&members, now);
            self.publish(&view, &members);
            Step::Done
        }
        .boxed()
    }
}
