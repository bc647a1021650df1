//! Many reads of one namespace: each as if it came alone, at a fraction of the cost.
//!
//! Each key keeps its own [`ReadOp`]. What these want done at a time is grouped: one job for each
//! of this node's shards, one message to each other owner.
//!
//! Invariants: an answer depends on its own key's owners alone; the batch waits for every key's
//! verdict, or the deadline. What is held at once is bounded: keys are read [`WINDOW`] at a time,
//! and none any more once the answers have [`ANSWER_BYTES`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    Alarm, Alarms, Found, Heard, ReadAnswer, Rules, answer, as_hint, heard, held, hint, tell,
};
use crate::cluster::view::View;
use crate::coordinator::{
    Coordinator, SLOW_AFTER, Target, cause_of, cause_of_error, remaining, resolve,
};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{Key, NodeId};
use crate::dynamo::metadata::document::{ClusterKey, Conflict, Namespace};
use crate::dynamo::object::Object;
use crate::dynamo::quorum::{Cause, Level, Verdict};
use crate::dynamo::read::{Effect, ReadOp, Repair};
use crate::dynamo::standing::Standing;
use crate::error::RequestError;
use crate::limits::budget::Budget;
use crate::shard::Shards;
use crate::transport::{
    ForwardGet, GetResult, Held, PeerError, Peers, Read, Reply, Request, first_fitting,
};
use crate::vnode::Address;

/// How many keys are read at the same time: enough to share costs, few enough to hold in memory,
/// though each value may have a MiB or so.
const WINDOW: usize = 128;

/// Once the answers have so many bytes, the keys that are left are not read: they are for another
/// request.
const ANSWER_BYTES: usize = 16 << 20;

/// A client's gets in one namespace.
#[derive(Clone, Debug)]
pub struct GetBatch {
    /// The namespace's name.
    pub namespace: String,
    /// The keys; or why one is none.
    pub keys: Vec<Result<Key, RequestError>>,
    /// How many owners must answer; none: the namespace's default.
    pub r: Option<Level>,
    /// Whether what fallbacks keep counts; none: the namespace's default.
    pub sloppy: Option<bool>,
    /// When stale owners are repaired.
    pub repair: Repair,
    /// What this node alone holds, and no other.
    pub replica: Option<NodeId>,
    /// How long it may take.
    pub timeout: Duration,
}

/// A key and its place in the batch.
struct Placed {
    place: usize,
    target: Target,
}

/// A read under way.
struct Reading {
    place: usize,
    target: Target,
    op: ReadOp,
}

/// What is asked of a node about a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Object,
    Digest,
    Hint,
}

/// What a read comes to.
type Outcome = Result<Found, RequestError>;

/// What an owner told of some of the readings.
type Told = BoxFuture<'static, Vec<(usize, NodeId, Heard)>>;

impl Coordinator {
    /// Reads keys, here or by way of their owners; an answer for each, in their order.
    pub async fn get_batch(
        &self,
        batch: GetBatch,
    ) -> Result<Vec<Result<ReadAnswer, RequestError>>, RequestError> {
        let deadline = Instant::now() + batch.timeout;
        let (view, namespace) = self.namespace(&batch.namespace, deadline).await?;
        let r = resolve(batch.r, namespace.r, namespace.n)?;
        let sloppy = batch.sloppy.unwrap_or(namespace.sloppy);
        let rules = Rules { r, sloppy, repair: batch.repair, deadline };
        let (mut answers, mut bytes) = (Vec::with_capacity(batch.keys.len()), 0);
        for window in batch.keys.chunks(WINDOW) {
            if bytes >= ANSWER_BYTES {
                answers.extend(window.iter().map(|_| Err(full())));
                continue;
            }
            let read = self.get_window(window, (&view, &namespace), rules, batch.replica).await;
            bytes += read.iter().flatten().map(|answer| size(&answer.object)).sum::<usize>();
            answers.extend(read);
        }
        Ok(answers)
    }

    /// Runs reads that another node sent on: of the first keys, at least of one, as many as one
    /// message should hold.
    pub async fn get_batch_forwarded(
        &self,
        forwards: Vec<ForwardGet>,
        timeout: Duration,
    ) -> Vec<Result<GetResult, RequestError>> {
        let deadline = Instant::now() + timeout;
        // Whoever sends a batch on asks for all of it alike.
        let Some(first) = forwards.first() else { return Vec::new() };
        let rules = Rules::of(first, deadline);
        let (mut group, mut found) = (Vec::new(), Vec::new());
        for (place, forward) in forwards.into_iter().take(WINDOW).enumerate() {
            match self.owned_target(forward.namespace, forward.key) {
                Ok(target) => group.push(Placed { place, target }),
                Err(error) => found.push((place, Err(error))),
            }
        }
        found.extend(self.read_group(group, rules).await);
        let encode = |found: Outcome| found.map(|found| found.encode());
        let results = in_order(found).into_iter().map(encode);
        first_fitting(results, |result| result.object.0.len())
    }

    async fn get_window(
        &self,
        keys: &[Result<Key, RequestError>],
        (view, namespace): (&Arc<View>, &Namespace),
        rules: Rules,
        replica: Option<NodeId>,
    ) -> Vec<Result<ReadAnswer, RequestError>> {
        let (mut own, mut others, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for (place, key) in keys.iter().enumerate() {
            let targeted = key.clone().and_then(|key| {
                let target = Target::new(view.clone(), namespace.clone(), key);
                let here = target.preference()?.is_owner(self.node);
                Ok((Placed { place, target }, here))
            });
            match targeted {
                Ok((placed, true)) => own.push(placed),
                Ok((placed, false)) => others.push(placed),
                Err(error) => found.push((place, Err(error))),
            }
        }
        if let Some(node) = replica {
            own.append(&mut others);
            found.extend(self.read_replica(own, node, rules.deadline).await);
        } else {
            let (here, elsewhere) =
                futures::join!(self.read_group(own, rules), self.forward_gets(others, rules));
            found.extend(here.into_iter().chain(elsewhere));
        }
        let answered = |(key, found): (&Result<Key, RequestError>, Outcome)| {
            let (found, key) = (found?, key.clone()?);
            let target = Target::new(view.clone(), namespace.clone(), key);
            Ok(answer(&target, found))
        };
        keys.iter().zip(in_order(found)).map(answered).collect()
    }

    /// What one node alone holds.
    async fn read_replica(
        &self,
        group: Vec<Placed>,
        node: NodeId,
        deadline: Instant,
    ) -> Vec<(usize, Outcome)> {
        let read = group.iter().map(|placed| async move {
            let object = self.get_from(&placed.target, node, deadline).await;
            (placed.place, object.map(Found::alone))
        });
        join_all(read).await
    }

    /// Drives the read machines of all keys.
    async fn read_group(&self, group: Vec<Placed>, rules: Rules) -> Vec<(usize, Outcome)> {
        let deadline = rules.deadline;
        let mut readings = Vec::with_capacity(group.len());
        let mut found = Vec::new();
        for Placed { place, target } in group {
            match self.plan(&target, rules) {
                Ok(plan) => readings.push(Reading { place, target, op: ReadOp::new(plan) }),
                Err(error) => found.push((place, Err(error))),
            }
        }
        let mut under_way = FuturesUnordered::new();
        let mut alarms = Alarms::new(deadline);
        let alarm = sleep_until(alarms.next());
        tokio::pin!(alarm);
        let mut next = effects(&mut readings, ReadOp::start);
        loop {
            if rules.watches_each() {
                next.iter().for_each(|&request| alarms.asked(request));
            }
            under_way.extend(self.execute_batch(&readings, std::mem::take(&mut next), deadline));
            if !readings.iter().any(|reading| reading.op.verdict() == Verdict::Pending) {
                break;
            }
            if alarm.deadline() != alarms.next() {
                alarm.as_mut().reset(alarms.next());
            }
            tokio::select! {
                biased;
                Some(told) = under_way.next() => next = hear(&mut readings, told),
                () = &mut alarm => {
                    let now = Instant::now();
                    if now >= deadline {
                        break;
                    }
                    next = due(&mut readings, &mut alarms, now);
                }
            }
        }
        if readings.iter().any(|reading| reading.op.verdict() != Verdict::Reached) {
            hear_out(&mut readings, under_way, deadline).await;
        }
        let finish = |Reading { place, target, op }| (place, self.finish(&target, op));
        found.extend(readings.into_iter().map(finish));
        found
    }

    /// Does what the readings want: one request for all that a node is asked.
    fn execute_batch(
        &self,
        readings: &[Reading],
        effects: Vec<(usize, Effect)>,
        deadline: Instant,
    ) -> Vec<Told> {
        let mut asks: BTreeMap<NodeId, Vec<(usize, Ask)>> = BTreeMap::new();
        let mut told = Vec::new();
        for (at, effect) in effects {
            match effect {
                Effect::AskObject(node) => asks.entry(node).or_default().push((at, Ask::Object)),
                Effect::AskDigest(node) => asks.entry(node).or_default().push((at, Ask::Digest)),
                Effect::AskFallback(node) => asks.entry(node).or_default().push((at, Ask::Hint)),
                Effect::Repair(_) => {
                    let Reading { target, op, .. } = &readings[at];
                    let repaired = self.execute(target, op, effect, deadline);
                    told.push(repaired.map(move |(node, heard)| vec![(at, node, heard)]).boxed());
                }
            }
        }
        for (node, asked) in asks {
            told.push(self.ask_batch(readings, node, asked, deadline));
        }
        told
    }

    /// Asks one node; `asked`: of which readings, and for what.
    fn ask_batch(
        &self,
        readings: &[Reading],
        node: NodeId,
        asked: Vec<(usize, Ask)>,
        deadline: Instant,
    ) -> Told {
        if node != self.node {
            let read = |&(at, ask): &(usize, Ask)| {
                let Address { namespace, key, conflict, .. } = readings[at].target.address.clone();
                let (digest, hint) = (ask == Ask::Digest, ask == Ask::Hint);
                (at, conflict, Read { namespace, key, digest, hint })
            };
            let (peers, budget) = (self.peers.clone(), self.shards.budget().clone());
            return ask_peer(peers, budget, node, asked.iter().map(read).collect(), deadline);
        }
        let Some(&(first, _)) = asked.first() else { return async { Vec::new() }.boxed() };
        let cluster_key = readings[first].target.view.document().cluster_key;
        let (hints, asked): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|(_, ask)| *ask == Ask::Hint);
        let hint = |(at, _): (usize, Ask)| (at, readings[at].target.address.clone());
        let hints: Vec<_> = hints.into_iter().map(hint).collect();
        // Before the objects are read: what becomes complete meanwhile may not be in them.
        let of = |(at, ask): (usize, Ask)| {
            let address = readings[at].target.address.clone();
            (at, (ask == Ask::Digest, self.standings.of(address.vnode)), address)
        };
        let asked: Vec<_> = asked.into_iter().map(of).collect();
        let held = ask_shards(self.shards.clone(), node, asked, cluster_key, deadline);
        let kept = ask_shards_for_hints(self.shards.clone(), node, hints, deadline);
        async move {
            let (mut told, kept) = futures::join!(held, kept);
            told.extend(kept);
            told
        }
        .boxed()
    }

    /// Sends each key on to the first of its owners that takes it. In a sloppy read this node reads
    /// those that none takes itself.
    async fn forward_gets(&self, group: Vec<Placed>, rules: Rules) -> Vec<(usize, Outcome)> {
        let (mut left, mut found, mut untaken) = (Vec::new(), Vec::new(), Vec::new());
        for placed in group {
            match placed.target.preference() {
                Ok(preference) => {
                    let mut owners = self.owners_to_forward_to(preference, rules);
                    owners.reverse();
                    let last =
                        RequestError::not_ready_elsewhere("no owner of the key can be reached");
                    left.push(Forwarding { placed, owners, last });
                }
                Err(error) => found.push((placed.place, Err(error))),
            }
        }
        while !left.is_empty() {
            let mut by_owner: BTreeMap<NodeId, Vec<Forwarding>> = BTreeMap::new();
            for forwarding in left.drain(..) {
                match forwarding.owners.last() {
                    Some(&owner) => by_owner.entry(owner).or_default().push(forwarding),
                    None => untaken.push(forwarding),
                }
            }
            let sent = by_owner.into_iter().map(|(to, group)| self.forward_to(to, group, rules));
            for (done, again) in join_all(sent).await {
                found.extend(done);
                left.extend(again);
            }
        }
        if rules.sloppy && remaining(rules.deadline) > Duration::ZERO {
            let untaken = untaken.into_iter().map(|forwarding| forwarding.placed).collect();
            found.extend(self.read_group(untaken, rules).await);
        } else {
            let failed = |Forwarding { placed, last, .. }| (placed.place, Err(last));
            found.extend(untaken.into_iter().map(failed));
        }
        found
    }

    /// What one owner answers, and what is to be sent again: to the same owner if it had no room
    /// for it, else to the next.
    async fn forward_to(
        &self,
        to: NodeId,
        group: Vec<Forwarding>,
        rules: Rules,
    ) -> (Vec<(usize, Outcome)>, Vec<Forwarding>) {
        let forward = |forwarding: &Forwarding| rules.forward(&forwarding.placed.target);
        let request = Request::ForwardGetBatch(group.iter().map(forward).collect());
        let others_left = group.iter().any(|forwarding| forwarding.owners.len() > 1);
        let reply = self.peers.request(to, request, rules.time_for_one(others_left)).await;
        let (mut done, mut again) = (Vec::new(), Vec::new());
        let mut results = match reply {
            Ok(Reply::GetBatch(results)) if !results.is_empty() => results.into_iter(),
            other => {
                for mut forwarding in group {
                    match failed(&forwarding, to, &other) {
                        (error, true) => done.push((forwarding.placed.place, Err(error))),
                        (error, false) => {
                            forwarding.next(error);
                            again.push(forwarding);
                        }
                    }
                }
                return (done, again);
            }
        };
        for mut forwarding in group {
            match results.next() {
                None => again.push(forwarding),
                Some(Err(error @ RequestError::NotReady { .. })) => {
                    forwarding.next(error.elsewhere());
                    again.push(forwarding);
                }
                Some(result) => {
                    let Placed { place, target } = forwarding.placed;
                    let result = result.map_err(RequestError::elsewhere);
                    done.push((place, result.and_then(|result| self.found(&target, result))));
                }
            }
        }
        (done, again)
    }
}

/// A key that another node is to read.
struct Forwarding {
    placed: Placed,
    /// Those left to ask, the next one last.
    owners: Vec<NodeId>,
    /// Why the one before did not answer.
    last: RequestError,
}

impl Forwarding {
    fn next(&mut self, error: RequestError) {
        self.owners.pop();
        self.last = error;
    }
}

/// Why an owner gave no answers, and whether that is final.
fn failed(
    forwarding: &Forwarding,
    to: NodeId,
    reply: &Result<Reply, PeerError>,
) -> (RequestError, bool) {
    let name = || forwarding.placed.target.view.name_of(to);
    match reply {
        Ok(Reply::Failed(error)) => {
            (error.clone().elsewhere(), !matches!(error, RequestError::NotReady { .. }))
        }
        Ok(_) => (RequestError::internal("unexpected answer"), false),
        Err(PeerError::TimedOut) => {
            let waiting_for = format!("waiting for {}", name());
            (RequestError::TimeoutElsewhere { waiting_for }, false)
        }
        Err(error) => (RequestError::not_ready_elsewhere(format!("{}: {error}", name())), false),
    }
}

/// What all readings want done next.
fn effects(
    readings: &mut [Reading],
    mut step: impl FnMut(&mut ReadOp) -> Vec<Effect>,
) -> Vec<(usize, Effect)> {
    let wanted = readings.iter_mut().enumerate();
    wanted
        .flat_map(|(at, reading)| step(&mut reading.op).into_iter().map(move |e| (at, e)))
        .collect()
}

/// What the readings want done about what is due.
fn due(
    readings: &mut [Reading],
    alarms: &mut Alarms<(usize, Effect)>,
    now: Instant,
) -> Vec<(usize, Effect)> {
    let mut next = Vec::new();
    while let Some(due) = alarms.due(now) {
        match due {
            Alarm::Slow => next.extend(effects(readings, ReadOp::on_slow)),
            Alarm::Late((at, request)) => {
                let effects = readings[at].op.on_late(request);
                next.extend(effects.into_iter().map(|effect| (at, effect)));
            }
        }
    }
    next
}

fn hear(readings: &mut [Reading], told: Vec<(usize, NodeId, Heard)>) -> Vec<(usize, Effect)> {
    let told = told.into_iter();
    told.flat_map(|(at, node, heard)| {
        let effects = tell(&mut readings[at].op, node, heard);
        effects.into_iter().map(move |effect| (at, effect))
    })
    .collect()
}

/// As of one read: what is on its way is heard all the same, for as long as a healthy owner takes.
async fn hear_out(
    readings: &mut [Reading],
    mut under_way: FuturesUnordered<Told>,
    deadline: Instant,
) {
    let until = deadline.min(Instant::now() + SLOW_AFTER);
    while let Ok(Some(told)) = timeout_at(until, under_way.next()).await {
        // Nothing more is asked, since nothing can come of it.
        hear(readings, told);
    }
}

/// Asks a peer until it has answered for every key. The first request is queued at once.
fn ask_peer(
    peers: Arc<dyn Peers>,
    budget: Arc<Budget>,
    node: NodeId,
    mut asked: Vec<(usize, Conflict, Read)>,
    deadline: Instant,
) -> Told {
    let send = move |asked: &[(usize, Conflict, Read)]| {
        let reads = asked.iter().map(|(.., read)| read.clone()).collect();
        peers.request(node, Request::ReadBatch(reads), remaining(deadline))
    };
    let mut sent = send(&asked);
    async move {
        let mut told = Vec::with_capacity(asked.len());
        loop {
            match sent.await {
                Ok(Reply::HeldBatch(items)) if (1..=asked.len()).contains(&items.len()) => {
                    let answered = asked.drain(..items.len()).zip(items);
                    let heard = |((at, rule, read), item): ((_, _, Read), _)| {
                        let heard = heard_item(&budget, rule, item);
                        (at, node, if read.hint { as_hint(heard) } else { heard })
                    };
                    told.extend(answered.map(heard));
                }
                other => {
                    let cause = cause_of(&other);
                    let failed = |read: Read| match read.hint {
                        true => Heard::NoHint,
                        false => Heard::Failed(cause),
                    };
                    let failed = |(at, _, read)| (at, node, failed(read));
                    told.extend(asked.drain(..).map(failed));
                }
            }
            if asked.is_empty() {
                return told;
            }
            sent = send(&asked);
        }
    }
    .boxed()
}

fn heard_item(
    budget: &Arc<Budget>,
    rule: Conflict,
    item: Result<(Held, Standing), RequestError>,
) -> Heard {
    match item {
        Ok((object, standing)) => heard(held(budget, Reply::Held { held: object, standing }), rule),
        Err(error) => Heard::Failed(cause_of_error(&error)),
    }
}

/// Asks this node's own shards.
async fn ask_shards(
    shards: Shards,
    node: NodeId,
    asked: Vec<(usize, (bool, Standing), Address)>,
    cluster_key: ClusterKey,
    deadline: Instant,
) -> Vec<(usize, NodeId, Heard)> {
    let read = shards.split(asked, |(_, _, address)| address).into_iter().map(|part| {
        let shards = &shards;
        async move {
            let addresses = part.items.iter().map(|(_, _, address)| address.clone()).collect();
            let held = shards.read_batch(addresses, deadline).await;
            part.items.into_iter().zip(held)
        }
    });
    let heard = |((at, (digest, standing), address), held): ((_, _, Address), Result<_, _>)| {
        let held = held.map(|held: EncodedObject| held.decode(address.conflict));
        let heard = match held {
            Ok(Ok(object)) if digest => {
                let (namespace, key) = (address.namespace, &address.key);
                Heard::Digest(object.digest(&cluster_key, namespace, key), standing)
            }
            Ok(Ok(object)) => Heard::Object(object, standing),
            Ok(Err(_)) => Heard::Failed(Cause::Storage),
            Err(error) => Heard::Failed(cause_of_error(&error)),
        };
        (at, node, heard)
    };
    join_all(read).await.into_iter().flatten().map(heard).collect()
}

/// Asks this node's own shards for what they keep as hints.
async fn ask_shards_for_hints(
    shards: Shards,
    node: NodeId,
    asked: Vec<(usize, Address)>,
    deadline: Instant,
) -> Vec<(usize, NodeId, Heard)> {
    let read = shards.split(asked, |(_, address)| address).into_iter().map(|part| {
        let shards = &shards;
        async move {
            let addresses = part.items.iter().map(|(_, address)| address.clone()).collect();
            let kept = shards.read_hint_batch(addresses, deadline).await;
            part.items.into_iter().zip(kept)
        }
    });
    let heard = |((at, address), kept): ((_, Address), _)| (at, node, hint(kept, address.conflict));
    join_all(read).await.into_iter().flatten().map(heard).collect()
}

fn in_order(mut found: Vec<(usize, Outcome)>) -> Vec<Outcome> {
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, found)| found).collect()
}

/// About what an object takes in an answer.
fn size(object: &Object) -> usize {
    object.siblings().iter().map(|entry| entry.payload.len()).sum()
}

fn full() -> RequestError {
    let what = "the answer to the batch".to_owned();
    RequestError::Overloaded { what, retry_after_ms: 0 }
}
