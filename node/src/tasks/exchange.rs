//! Exchanges between owners: this node looks what each other owner of its partitions has seen and it has
//! not, and fetches that.
//!
//! ```text
//!   each few seconds:
//!   recount   what doubts its frontier goes through its own objects, some at a time
//!   compare   one message for many partitions to each other owner: who has seen something else?
//!   wait      a second: what was on its way arrives
//!   fetch     of each that still has more: keys of what is missing ► those objects that are not here
//!             the log there knows no key of it: the whole partition, page by page
//!   forget    the dots that all owners have on disk leave the log
//! ```
//!
//! A step is one message with what follows from it, and the pause after it is as long as it took: on a
//! busy node steps take longer, and so do pauses. What fails is left for the next round.
//!
//! A comparison also tells which partitions of a store that was opened again may be
//! [believed](crate::dynamo::standing). While some are not, there are rounds of these alone in between.
//!
//! See [`exchange`](crate::dynamo::exchange) for why this is right. Left out: trees of hashes, which
//! notice what frontiers cannot, bytes that changed by themselves.

mod believe;
mod fetch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng as _;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::believe::Waiting;
use self::fetch::{Fetch, Fetched};
use super::pull::{PAGE_TIMEOUT, Reach, is_there};
use super::rounds::jittered;
use super::{Step, Worker};
use crate::cluster::view::View;
use crate::coordinator::Coordinator;
use crate::dynamo::arrival::Way;
use crate::dynamo::exchange::{Answer, Compared, Told, common_bases};
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{NodeId, VnodeId};
use crate::env::Env;
use crate::error::RequestError;
use crate::shard::Forgettable;
use crate::telemetry::Metrics;

/// How long a round begins after the last one began, at least: soon beside what a node is away for, and
/// seldom beside requests. Half as much again is left to chance, since rounds of nodes that started
/// together must not stay together.
pub const EXCHANGE_EVERY: Duration = Duration::from_secs(4);

/// How long what was found missing is waited for.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// The same, where reads wait for it.
const CONFIRM_EARLY_AFTER: Duration = Duration::from_millis(100);

/// Partitions of one message.
const COMPARED_MAX: usize = 256;

/// The pause after a step.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

/// Steps of recounting in one round: the rest is for the next.
const RECOUNTS_MAX: u32 = 256;

/// How often a step of a fetch is tried, one after the other, before the next round begins it anew.
const TRIES: u32 = 5;

/// Rounds in which a partition is not fetched as a whole again from the same owner: what could not be
/// read then cannot be now, and it costs as much as the partition.
const WHOLE_ROUNDS: u64 = 8;

/// In which part of its rounds a node looks whether a log is too long, which reads all of it.
const EXCESS_ROUNDS: u64 = 16;

/// What the task works with.
pub struct ExchangeParts {
    /// This node's partitions, and its way to the other owners.
    pub coordinator: Arc<Coordinator>,
    /// Where it runs.
    pub env: Env,
    /// Where it is measured.
    pub metrics: Arc<Metrics>,
    /// How long a round begins after the last one, at least.
    pub every: Duration,
    /// Members that are not waited for, by the operator's word.
    pub excused: BTreeSet<NodeId>,
    /// Ends a step that waits.
    pub stop: CancellationToken,
}

/// Compares this node with the other owners of its partitions, and catches up.
pub struct Exchange {
    parts: ExchangeParts,
    rng: ChaCha8Rng,
    round: Round,
    rounds: u64,
    /// When the next round of all partitions is due.
    due: Instant,
    waiting: Waiting,
    /// Since when something has been missing that an owner of a partition has seen.
    missing: BTreeMap<(VnodeId, NodeId), Instant>,
    /// In which round partitions were last fetched as a whole, and from whom.
    whole: BTreeMap<(VnodeId, NodeId), u64>,
    wakes: Instant,
}

/// What is to be done in a round, in this order.
#[derive(Default)]
struct Round {
    began: Option<Instant>,
    /// Whether it is only of what is not believed.
    early: bool,
    recount: VecDeque<VnodeId>,
    /// How many steps of that were made.
    recounted: u32,
    compare: VecDeque<(NodeId, Vec<VnodeId>)>,
    /// When what was found missing is still missing.
    confirmed: Option<Instant>,
    behind: VecDeque<(VnodeId, NodeId, Told)>,
    /// What was missing of all that, once it was confirmed.
    missing: u64,
    fetch: Option<Fetch>,
    /// What others have on disk.
    on_disk: BTreeMap<VnodeId, BTreeMap<NodeId, Frontier>>,
    /// All that this node owns, until it is known what of its logs can go.
    owned: Option<Vec<VnodeId>>,
    forget: VecDeque<(VnodeId, Forgettable)>,
}

impl Round {
    fn confirm_after(&self) -> Duration {
        if self.early { CONFIRM_EARLY_AFTER } else { CONFIRM_AFTER }
    }
}

impl Exchange {
    /// Of a node that begins now.
    pub fn new(parts: ExchangeParts) -> Self {
        let rng = parts.env.rng();
        let (round, whole, now) = (Round::default(), BTreeMap::new(), Instant::now());
        let (waiting, missing) = (Waiting::default(), BTreeMap::new());
        let mut exchange =
            Self { parts, rng, round, rounds: 0, due: now, waiting, missing, whole, wakes: now };
        // Its peers are to be there first.
        exchange.due = now + exchange.jittered();
        exchange.wakes = exchange.next_look();
        exchange
    }

    fn jittered(&mut self) -> Duration {
        jittered(self.parts.every, &mut self.rng)
    }

    /// One step; when the next one is due.
    async fn step(&mut self) -> Result<Instant, RequestError> {
        let Some(view) = self.parts.coordinator.cluster().view() else {
            return Ok(self.next_look());
        };
        let now = Instant::now();
        let deadline = now + PAGE_TIMEOUT;
        if self.round.began.is_none() && now >= self.due {
            self.begin(&view, now).await?;
        } else if self.round.began.is_none() {
            if !self.begin_early(&view, now).await? {
                return Ok(self.next_look());
            }
        } else if let Some(vnode) = self.round.recount.pop_front() {
            let more = self.parts.coordinator.shards().recount(vnode, deadline).await?;
            self.round.recounted += 1;
            if more && self.round.recounted < RECOUNTS_MAX {
                self.round.recount.push_front(vnode);
            }
        } else if let Some((owner, vnodes)) = self.round.compare.pop_front() {
            self.compare(&view, owner, &vnodes).await?;
            self.round.confirmed = Some(Instant::now() + self.round.confirm_after());
        } else if let Some(confirmed) = self.round.confirmed.take_if(|at| *at > now) {
            return Ok(confirmed);
        } else if let Some(fetch) = self.round.fetch.take() {
            self.fetch(&view, fetch).await?;
        } else if let Some((vnode, owner, told)) = self.round.behind.pop_front() {
            let fetch = self.confirm(vnode, owner, told).await?;
            self.note_missing(&fetch, now);
            self.round.missing = self.round.missing.saturating_add(fetch.left());
            self.round.fetch = Some(fetch);
        } else if let Some(owned) = self.round.owned.take() {
            self.tell_missing(&owned, now);
            self.look_what_to_forget(&view, &owned).await?;
        } else if let Some((vnode, which)) = self.round.forget.pop_front() {
            let left = self.parts.coordinator.shards().forget_dots(vnode, which, deadline).await?;
            self.round.forget.extend(left.map(|left| (vnode, left)));
        } else {
            return Ok(self.next_round());
        }
        Ok(Instant::now() + now.elapsed().clamp(PAUSE.0, PAUSE.1))
    }

    fn next_round(&mut self) -> Instant {
        let round = std::mem::take(&mut self.round);
        if !round.early {
            self.due = round.began.unwrap_or_else(Instant::now) + self.jittered();
        }
        self.next_look()
    }

    /// Whom to ask about what.
    async fn begin(&mut self, view: &View, now: Instant) -> Result<(), RequestError> {
        let (owned, shared) = (self.reach(view).owned(), self.reach(view).shared());
        // What an answer has no room for must not be the same each time.
        let turn = self.rng.next_u64() as usize;
        let chunks = |(owner, mut vnodes): (NodeId, Vec<VnodeId>)| {
            let first = turn % vnodes.len().max(1);
            vnodes.rotate_left(first);
            let chunks: Vec<_> =
                vnodes.chunks(COMPARED_MAX).map(|chunk| (owner, chunk.to_vec())).collect();
            chunks
        };
        let deadline = now + PAGE_TIMEOUT;
        self.round = Round {
            began: Some(now),
            recount: self.parts.coordinator.shards().doubting(&owned, deadline).await?.into(),
            compare: shared.into_iter().flat_map(chunks).collect(),
            owned: Some(owned),
            ..Round::default()
        };
        self.rounds += 1;
        Ok(())
    }

    fn is_there(&self, node: NodeId) -> bool {
        is_there(&self.parts.coordinator, node)
    }

    fn reach<'a>(&'a self, view: &'a View) -> Reach<'a> {
        Reach { coordinator: &self.parts.coordinator, view, way: Way::Exchange }
    }

    async fn compare(
        &mut self,
        view: &View,
        owner: NodeId,
        vnodes: &[VnodeId],
    ) -> Result<(), RequestError> {
        self.learn_of_namespaces(owner).await?;
        let told = self.parts.coordinator.shards().told(vnodes, Instant::now() + PAGE_TIMEOUT);
        let told = vnodes.iter().copied().zip(told.await?);
        // What cannot be read here is no reason to leave the rest.
        let ours = told.filter_map(|(vnode, told)| Some((vnode, told.ok()?)));
        let ours: Vec<(VnodeId, Told)> = ours.collect();
        let seen: Vec<_> = ours.iter().map(|(vnode, told)| (*vnode, &told.frontier)).collect();
        let recall = self.is_to_recall(owner, &seen);
        let (answers, settled) = self.reach(view).compare(owner, &seen, recall).await?;
        self.believe(owner, recall, &ours, &answers).await?;
        for ((vnode, ours), Answer { compared, .. }) in ours.into_iter().zip(answers) {
            let theirs = match compared {
                Compared::Unsaid => continue,
                Compared::Same => {
                    self.missing.remove(&(vnode, owner));
                    ours.frontier
                }
                Compared::Differs(told) => {
                    let theirs = told.frontier.clone();
                    // What is believed can wait for the rest.
                    let early = self.round.early;
                    let waits = early && self.parts.coordinator.standings().believes(vnode);
                    let behind = !theirs.minus(&ours.frontier).is_empty();
                    if !behind {
                        self.missing.remove(&(vnode, owner));
                    } else if !waits {
                        self.round.behind.push_back((vnode, owner, told));
                    }
                    theirs
                }
            };
            self.parts.coordinator.standings().remember(vnode, owner, &theirs, settled);
            self.round.on_disk.entry(vnode).or_default().insert(owner, theirs);
        }
        Ok(())
    }

    /// What is still missing.
    async fn confirm(
        &self,
        vnode: VnodeId,
        owner: NodeId,
        told: Told,
    ) -> Result<Fetch, RequestError> {
        let deadline = Instant::now() + PAGE_TIMEOUT;
        let ours = self.parts.coordinator.shards().told_of(vnode, deadline).await?;
        Ok(Fetch::new((vnode, owner), told, &ours))
    }

    /// Something is missing, or nothing is any more.
    fn note_missing(&mut self, fetch: &Fetch, now: Instant) {
        let pair = (fetch.vnode, fetch.owner);
        match fetch.left() {
            0 => drop(self.missing.remove(&pair)),
            _ => drop(self.missing.entry(pair).or_insert(now)),
        }
        self.tell_oldest(now);
    }

    /// Tells for how long something has been missing.
    fn tell_oldest(&self, now: Instant) {
        let oldest = self.missing.values().min().map_or(Duration::ZERO, |since| now - *since);
        self.parts.metrics.staleness().missing_for(oldest);
    }

    /// Tells how much was missing in this round, and for how long something still is.
    fn tell_missing(&mut self, owned: &[VnodeId], now: Instant) {
        self.missing.retain(|(vnode, _), _| owned.contains(vnode));
        self.tell_oldest(now);
        self.parts.metrics.exchange().ended(self.round.missing);
    }

    async fn fetch(&mut self, view: &View, mut fetch: Fetch) -> Result<(), RequestError> {
        let metrics = self.parts.metrics.clone();
        match fetch.step(&self.reach(view)).await {
            Ok(Fetched::All) => {
                self.missing.remove(&(fetch.vnode, fetch.owner));
                return self.fetched(&fetch).await;
            }
            Ok(Fetched::Some { objects, bytes }) => {
                metrics.exchange().fetched(objects, bytes);
                fetch.failures = 0;
            }
            Ok(Fetched::Unlogged) => {
                let pair = (fetch.vnode, fetch.owner);
                let rounds = self.rounds;
                let lately = |last: &u64| rounds - last < WHOLE_ROUNDS;
                if self.whole.get(&pair).is_some_and(lately) {
                    return Ok(());
                }
                self.whole.retain(|_, last| lately(last));
                self.whole.insert(pair, rounds);
                metrics.exchange().whole();
                fetch.go_through();
            }
            Err(error) => {
                metrics.exchange().failed();
                fetch.failures += 1;
                if !self.is_there(fetch.owner) {
                    // Or each partition that it shares would be tried in vain, and others wait for it.
                    self.round.behind.retain(|(_, owner, _)| *owner != fetch.owner);
                } else if fetch.failures < TRIES {
                    self.round.fetch = Some(fetch);
                }
                return Err(error);
            }
        }
        self.round.fetch = Some(fetch);
        Ok(())
    }

    /// The dots that all owners of a partition have on disk; and, now and then, what is too much.
    async fn look_what_to_forget(
        &mut self,
        view: &View,
        owned: &[VnodeId],
    ) -> Result<(), RequestError> {
        let mut on_disk = std::mem::take(&mut self.round.on_disk);
        let deadline = Instant::now() + PAGE_TIMEOUT;
        let ours = self.parts.coordinator.shards().told_on_disk(owned, deadline).await?;
        let me = self.parts.coordinator.node();
        for (&vnode, ours) in owned.iter().zip(ours) {
            let Ok(ours) = ours else { continue };
            let mut seen = on_disk.remove(&vnode).unwrap_or_default();
            seen.insert(me, ours.frontier);
            let owners = view.preference(vnode).map(|list| list.owners()).unwrap_or_default();
            if owners.iter().all(|owner| seen.contains_key(owner)) {
                let bases = common_bases(seen.values());
                self.round.forget.push_back((vnode, Forgettable::Common(bases)));
            }
            if (u64::from(vnode.partition.0) + self.rounds).is_multiple_of(EXCESS_ROUNDS) {
                self.round.forget.push_back((vnode, Forgettable::Excess(None)));
            }
        }
        Ok(())
    }
}

impl Worker for Exchange {
    fn name(&self) -> &'static str {
        "exchange"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        let mut changes = self.parts.coordinator.cluster().changes();
        let looked = self.waiting.looked();
        let between = self.round.began.is_none();
        async move {
            // A namespace may bring partitions of which nothing was asked yet.
            let newer = async {
                while !between || changes.see() == looked {
                    changes.changed().await;
                }
            };
            tokio::select! {
                biased;
                () = sleep_until(self.wakes) => {}
                () = newer => {}
            }
        }
        .boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            self.parts.env.pause().over().await;
            let stop = self.parts.stop.clone();
            match stop.run_until_cancelled(self.step()).await {
                None => Step::Done,
                Some(Ok(wakes)) => {
                    self.wakes = wakes;
                    Step::Done
                }
                Some(Err(error)) => {
                    self.wakes = Instant::now() + PAUSE.1;
                    Step::Failed(error)
                }
            }
        }
        .boxed()
    }
}
