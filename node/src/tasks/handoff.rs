//! Hinted handoff: the hints that this node keeps go home, as soon as those that they are for are
//! there again.
//!
//! ```text
//!   each half second, each target with a queue:     connected, and not known to be down?
//!   one message at a time for each such target:     ask for credit ► the oldest hints ► on disk there
//!                                                   ► deleted here ► the next
//! ```
//!
//! How much is sent and when is the target's word ([`credit`](crate::dynamo::credit)): it alone knows
//! what it can take, and from how many. Hints of one who is no member any more go to the owners that
//! its partitions have now (this node may be one), and are deleted when all of them have them.
//!
//! Invariant: a hint is deleted only after its target said that it is on disk there, and only as it
//! was sent: what it became meanwhile is still owed.
//!
//! Left out: how hints come to be (the coordinator) and how they are kept (the shards).

mod course;
mod errand;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until};

use self::course::{Course, Outcome};
use super::{Step, Worker};
use crate::cluster::Cluster;
use crate::cluster::view::View;
use crate::dynamo::key::NodeId;
use crate::env::Env;
use crate::liveness::{Health, Liveness};
use crate::shard::Shards;
use crate::telemetry::Metrics;
use crate::transport::{HintQueue, Peers};

/// How often it is looked who is back: well within a second of that.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Targets served side by side: each message holds up to a mebibyte here.
const TARGETS_MAX: usize = 4;

/// What the task works with.
pub struct HandoffParts {
    /// This node.
    pub node: NodeId,
    /// Who owns what.
    pub cluster: Arc<Cluster>,
    /// Where hints are kept.
    pub shards: Shards,
    /// The way to the others.
    pub peers: Arc<dyn Peers>,
    /// Who of them is there.
    pub liveness: Arc<Liveness>,
    /// Where it runs.
    pub env: Env,
    /// Where it is measured.
    pub metrics: Arc<Metrics>,
}

/// Sends hints home.
pub struct Handoff {
    parts: Arc<HandoffParts>,
    courses: BTreeMap<NodeId, Course>,
    /// For whom an errand is under way.
    served: BTreeSet<NodeId>,
    under_way: FuturesUnordered<BoxFuture<'static, (NodeId, Outcome)>>,
    ended: Option<(NodeId, Outcome)>,
    wakes: Instant,
}

impl Handoff {
    /// Of a node that begins now.
    pub fn new(parts: HandoffParts) -> Self {
        Self {
            parts: Arc::new(parts),
            courses: BTreeMap::new(),
            served: BTreeSet::new(),
            under_way: FuturesUnordered::new(),
            ended: None,
            wakes: Instant::now(),
        }
    }

    /// Whether there is a way to the target; to the owners of one that is no member, there may be.
    fn is_there(&self, view: &View, target: NodeId) -> bool {
        let HandoffParts { peers, liveness, .. } = &*self.parts;
        let down = || liveness.of(target).and_then(|seen| seen.health) == Some(Health::Down);
        view.member(target).is_none() || peers.connected(target) && !down()
    }

    /// Begins a course for who is back, and ends that of who is away or is owed nothing.
    fn look(&mut self, view: &View, queues: &BTreeMap<NodeId, HintQueue>, now: Instant) {
        let there: BTreeSet<NodeId> =
            queues.keys().copied().filter(|&target| self.is_there(view, target)).collect();
        self.courses.retain(|target, _| there.contains(target));
        for target in there {
            self.courses.entry(target).or_insert_with(|| Course::new(now));
        }
    }

    /// Starts what is due, who has waited longest first; then it is known when to come back.
    fn start(&mut self, view: &Arc<View>, queues: &BTreeMap<NodeId, HintQueue>, now: Instant) {
        self.wakes = now + LOOK_EVERY;
        let waiting = self.courses.iter().filter(|(target, _)| !self.served.contains(target));
        let mut waiting: Vec<(Instant, NodeId)> =
            waiting.map(|(&target, course)| (course.due, target)).collect();
        waiting.sort_unstable();
        for (due, target) in waiting {
            if due > now {
                self.wakes = self.wakes.min(due);
                return;
            }
            if !self.has_place_for(view, target) {
                return;
            }
            self.send_out(view, target, queues[&target].last, now);
        }
    }

    /// What strays goes to many, of whom each takes one message at a time: it goes alone.
    fn has_place_for(&self, view: &View, target: NodeId) -> bool {
        let strays = |node: &NodeId| view.member(*node).is_none();
        let alone = strays(&target) || self.served.iter().any(strays);
        self.served.len() < if alone { 1 } else { TARGETS_MAX }
    }

    fn send_out(&mut self, view: &Arc<View>, target: NodeId, last: u64, now: Instant) {
        let course = self.courses.get_mut(&target).expect("it is one of them");
        let (parts, view, errand) = (self.parts.clone(), view.clone(), course.next(last, now));
        self.served.insert(target);
        let run = async move {
            let outcome = parts.run(&view, target, errand).await;
            (target, outcome)
        };
        self.under_way.push(run.boxed());
    }

    fn on_end(&mut self, now: Instant) {
        let Some((target, outcome)) = self.ended.take() else { return };
        self.served.remove(&target);
        if let Some(course) = self.courses.get_mut(&target) {
            course.on_outcome(outcome, now);
        }
    }
}

impl Worker for Handoff {
    fn name(&self) -> &'static str {
        "handoff"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        async {
            tokio::select! {
                biased;
                Some(ended) = self.under_way.next() => self.ended = Some(ended),
                () = sleep_until(self.wakes) => {}
            }
        }
        .boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            self.parts.env.pause().over().await;
            let now = Instant::now();
            self.on_end(now);
            let Some(view) = self.parts.cluster.view() else {
                self.wakes = now + LOOK_EVERY;
                return Step::Done;
            };
            let queues = self.parts.shards.hint_queues().into_iter();
            let queues = queues.map(|queue| (queue.target, queue)).collect();
            self.look(&view, &queues, now);
            self.start(&view, &queues, now);
            Step::Done
        }
        .boxed()
    }
}
