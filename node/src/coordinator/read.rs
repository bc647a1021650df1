//! Coordinating gets; many at once in [`batch`].

mod alarms;
mod batch;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use futures::{FutureExt as _, future};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::alarms::{Alarm, Alarms};
pub use self::batch::GetBatch;
use super::{
    Coordinator, SLOW_AFTER, Target, cause_of, cause_of_error, not_reached, remaining, resolve,
};
use crate::dynamo::arrival::Way;
use crate::dynamo::context::Context;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{Key, NodeId};
use crate::dynamo::metadata::document::Conflict;
use crate::dynamo::object::{Digest, Object};
use crate::dynamo::preference::PreferenceList;
use crate::dynamo::quorum::{Cause, Level, Verdict};
use crate::dynamo::read::{Digester, Effect, ReadOp, ReadOutcome, ReadPlan, Repair, Sloppy};
use crate::dynamo::standing::Standing;
use crate::error::RequestError;
use crate::limits::budget::{Budget, Kind};
use crate::trace::Trace;
use crate::transport::{ForwardGet, GetResult, Held, PeerError, Read, Replicate, Reply, Request};
use crate::vnode::{Address, Merge};

/// A client's get.
#[derive(Clone, Debug)]
pub struct Get {
    /// The namespace's name.
    pub namespace: String,
    /// The key.
    pub key: Key,
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

/// What a read found.
#[derive(Clone, Debug)]
pub struct ReadAnswer {
    /// The merge of the answers.
    pub object: Object,
    /// How many replicas answered.
    pub replicas: u32,
    /// How many fallbacks counted for owners that did not.
    pub fallbacks: u32,
    /// The context token of the object; none if nothing was ever written.
    pub context: Option<bytes::Bytes>,
}

/// What a read found, and who counted.
#[derive(Clone, Debug)]
pub struct Found {
    /// The merge of the answers.
    pub object: Object,
    /// How many owners answered.
    pub replicas: u32,
    /// How many fallbacks counted for owners that did not.
    pub fallbacks: u32,
}

/// How keys are read.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// How many must answer.
    pub(super) r: u8,
    /// Whether what fallbacks keep counts.
    pub(super) sloppy: bool,
    /// When stale owners are repaired.
    pub(super) repair: Repair,
    /// By when.
    pub(super) deadline: Instant,
}

/// An object to be merged by an owner.
#[derive(Clone, Debug)]
pub(super) struct Repairing {
    pub(super) object: EncodedObject,
    /// Whether it holds what every other owner held, and so may replace a damaged record.
    pub(super) mend: bool,
}

/// What came back from an owner.
pub(super) enum Heard {
    Object(Object, Standing),
    Digest(Digest, Standing),
    /// From a fallback: what it keeps, if anything.
    Hint(Object),
    /// It cannot say.
    NoHint,
    Repaired,
    Failed(Cause),
}

impl Coordinator {
    /// Reads a key here, or by way of an owner.
    pub async fn get(&self, get: Get) -> Result<ReadAnswer, RequestError> {
        let deadline = Instant::now() + get.timeout;
        let target = self.target(&get.namespace, get.key, deadline).await?;
        let found = match get.replica {
            Some(node) => Found::alone(self.get_from(&target, node, deadline).await?),
            None => {
                let r = resolve(get.r, target.namespace.r, target.namespace.n)?;
                let sloppy = get.sloppy.unwrap_or(target.namespace.sloppy);
                let rules = Rules { r, sloppy, repair: get.repair, deadline };
                self.get_by_quorum(&target, rules).await?
            }
        };
        Ok(answer(&target, found))
    }

    /// Runs a read that another node sent on.
    pub async fn get_forwarded(
        &self,
        forward: ForwardGet,
        timeout: Duration,
    ) -> Result<Found, RequestError> {
        let rules = Rules::of(&forward, Instant::now() + timeout);
        let target = self.owned_target(forward.namespace, forward.key)?;
        self.read_owners(&target, rules).await
    }

    async fn get_by_quorum(&self, target: &Target, rules: Rules) -> Result<Found, RequestError> {
        let preference = target.preference()?;
        if preference.is_owner(self.node) {
            return self.read_owners(target, rules).await;
        }
        let mut last = RequestError::not_ready_elsewhere("no owner of the key can be reached");
        let owners = self.owners_to_forward_to(preference, rules);
        for (&node, left) in owners.iter().zip((0..owners.len()).rev()) {
            let request = Request::ForwardGet(rules.forward(target));
            match self.peers.request(node, request, rules.time_for_one(left > 0)).await {
                Ok(Reply::GetResult(result)) => return self.found(target, result),
                Ok(Reply::Failed(error @ RequestError::NotReady { .. })) => {
                    last = error.elsewhere()
                }
                Ok(Reply::Failed(error)) => return Err(error.elsewhere()),
                Ok(_) => last = RequestError::internal("unexpected answer"),
                Err(PeerError::TimedOut) => {
                    let waiting_for = format!("waiting for {}", target.view.name_of(node));
                    last = RequestError::TimeoutElsewhere { waiting_for };
                }
                Err(error) => {
                    let node = target.view.name_of(node);
                    last = RequestError::not_ready_elsewhere(format!("{node}: {error}"));
                }
            }
        }
        match rules.sloppy && remaining(rules.deadline) > Duration::ZERO {
            true => self.read_owners(target, rules).await,
            false => Err(last),
        }
    }

    /// The owners to which this node, which is none, sends a read on. With a sloppy one it does not
    /// wait for owners that are away: it runs the read itself then.
    fn owners_to_forward_to(&self, preference: &PreferenceList, rules: Rules) -> Vec<NodeId> {
        let mut owners = self.owners_by_reach(preference);
        owners.retain(|&node| !rules.sloppy || !self.is_away(node));
        owners
    }

    /// What an owner found.
    fn found(&self, target: &Target, result: GetResult) -> Result<Found, RequestError> {
        let GetResult { object, replicas, fallbacks } = result;
        let bytes = self.shards.budget().hold(Kind::Reads, object.0)?;
        let object = EncodedObject(bytes).decode(target.namespace.conflict);
        Ok(Found { object: object.map_err(RequestError::internal)?, replicas, fallbacks })
    }

    /// What one node alone holds.
    async fn get_from(
        &self,
        target: &Target,
        node: NodeId,
        deadline: Instant,
    ) -> Result<Object, RequestError> {
        let name = || target.view.name_of(node);
        if target.view.member(node).is_none() {
            return Err(RequestError::invalid(format!("{} is no member of the cluster", name())));
        }
        let (_, heard) = self.ask(target, node, false, deadline).await;
        match heard {
            Heard::Object(object, _) => Ok(object),
            Heard::Failed(cause) => Err(RequestError::not_ready_elsewhere(format!(
                "{} {cause}; it was asked alone",
                name()
            ))),
            Heard::Digest(..) | Heard::Hint(_) | Heard::NoHint | Heard::Repaired => {
                Err(RequestError::internal("unexpected answer"))
            }
        }
    }

    /// Drives the read machine, which asks owners and, in a sloppy read, fallbacks.
    pub(super) async fn read_owners(
        &self,
        target: &Target,
        rules: Rules,
    ) -> Result<Found, RequestError> {
        let deadline = rules.deadline;
        let mut op = ReadOp::new(self.plan(target, rules)?);
        let mut under_way = FuturesUnordered::new();
        let mut alarms = Alarms::new(deadline);
        let alarm = sleep_until(alarms.next());
        tokio::pin!(alarm);
        let mut effects = op.start();
        loop {
            for effect in effects.drain(..) {
                under_way.push(self.execute(target, &op, effect, deadline));
                if rules.watches_each() {
                    alarms.asked(effect);
                }
            }
            if op.verdict() != Verdict::Pending {
                break;
            }
            if alarm.deadline() != alarms.next() {
                alarm.as_mut().reset(alarms.next());
            }
            tokio::select! {
                biased;
                Some((node, heard)) = under_way.next() => effects = tell(&mut op, node, heard),
                () = &mut alarm => {
                    let now = Instant::now();
                    if now >= deadline {
                        break;
                    }
                    while let Some(due) = alarms.due(now) {
                        effects.extend(match due {
                            Alarm::Slow => op.on_slow(),
                            Alarm::Late(request) => op.on_late(request),
                        });
                    }
                }
            };
        }
        if op.verdict() != Verdict::Reached {
            hear_out(&mut op, under_way, deadline).await;
        }
        self.finish(target, op)
    }

    /// What a read came to; what is left to do is done after the answer.
    pub(super) fn finish(&self, target: &Target, op: ReadOp) -> Result<Found, RequestError> {
        self.mend_later(target, op.failures());
        match op.verdict() {
            Verdict::Reached => {
                let ReadOutcome { object, replicas, fallbacks, repairs } = op.finish();
                self.repair_later(target, &object, &repairs);
                Ok(Found { object, replicas, fallbacks })
            }
            Verdict::Pending if op.finds_nothing() => {
                let waiting_for = "asking whether an owner or a fallback has a value".to_owned();
                Err(RequestError::TimeoutElsewhere { waiting_for })
            }
            Verdict::Pending | Verdict::Unreachable => {
                Err(not_reached(&target.view, op.tally(), op.failures(), &[]))
            }
        }
    }

    /// How a key is read: this node first, if it is an owner.
    pub(super) fn plan(&self, target: &Target, rules: Rules) -> Result<ReadPlan, RequestError> {
        let preference = target.preference()?;
        let mut owners = preference.owners().to_vec();
        owners.sort_by_key(|&node| node != self.node);
        let away = owners.iter().copied().filter(|&node| self.is_away(node)).collect();
        let digester = Digester {
            cluster: target.view.document().cluster_key,
            namespace: target.namespace.id,
            key: target.address.key.clone(),
        };
        let sloppy = rules.sloppy.then(|| Sloppy {
            fallbacks: self.fallbacks_to_ask(preference),
            doubt: self.doubts.any_of(&owners),
        });
        let Rules { r: needed, repair, .. } = rules;
        Ok(ReadPlan { needed, owners, away, sloppy, repair, digester })
    }

    /// The fallbacks that can be asked: this node, if it is one or keeps hints though it is an owner;
    /// others, as many as there are owners at most; those that may keep hints for an owner that is back,
    /// until they told that they do not; and of those that say that they keep some for one that is away
    /// as many as there are owners at most, since any member may have coordinated a write.
    fn fallbacks_to_ask(&self, preference: &PreferenceList) -> Vec<NodeId> {
        let may_keep = !preference.is_owner(self.node) || self.shards.hints_bytes() > 0;
        let here = may_keep.then_some(self.node);
        let others = preference.fallbacks().iter().copied();
        let mut others = others.filter(|&node| node != self.node && self.may_answer(node));
        let n = preference.owners().len();
        let first: Vec<NodeId> = others.by_ref().take(n).collect();
        let mut back = preference.owners().to_vec();
        back.retain(|&owner| !self.is_away(owner));
        let may_keep = |node: &NodeId| self.doubts.may_keep(*node, &back);
        let (untold, told): (Vec<NodeId>, Vec<NodeId>) = others.partition(may_keep);
        let holders = self.doubts.holders_for(preference.owners());
        let named = told.into_iter().filter(|node| holders.contains(node)).take(n);
        here.into_iter().chain(first).chain(untold).chain(named).collect()
    }

    fn execute(
        &self,
        target: &Target,
        op: &ReadOp,
        effect: Effect,
        deadline: Instant,
    ) -> BoxFuture<'static, (NodeId, Heard)> {
        match effect {
            Effect::AskObject(node) => self.ask(target, node, false, deadline),
            Effect::AskDigest(node) => self.ask(target, node, true, deadline),
            Effect::AskFallback(node) => self.ask_fallback(target, node, deadline),
            Effect::Repair(node) => match op.answer() {
                Some(answer) => {
                    let repair = Repairing { object: EncodedObject::new(answer), mend: false };
                    self.send_object(target, repair, node, deadline)
                }
                None => future::ready((node, Heard::Failed(Cause::Refused))).boxed(),
            },
        }
    }

    pub(super) fn ask(
        &self,
        target: &Target,
        node: NodeId,
        digest: bool,
        deadline: Instant,
    ) -> BoxFuture<'static, (NodeId, Heard)> {
        if node == self.node {
            let (shards, address) = (self.shards.clone(), target.address.clone());
            // Before the object is read: what becomes complete meanwhile may not be in it.
            let standing = self.standings.of(address.vnode);
            let cluster_key = target.view.document().cluster_key;
            return async move {
                let held = shards.read(address.clone(), deadline).await;
                let heard = match held.map(|held| held.decode(address.conflict)) {
                    Ok(Ok(object)) if digest => {
                        let (namespace, key) = (address.namespace, &address.key);
                        Heard::Digest(object.digest(&cluster_key, namespace, key), standing)
                    }
                    Ok(Ok(object)) => Heard::Object(object, standing),
                    Ok(Err(_)) => Heard::Failed(Cause::Storage),
                    Err(error) => Heard::Failed(cause_of_error(&error)),
                };
                (node, heard)
            }
            .boxed();
        }
        let Address { namespace, key, conflict, .. } = target.address.clone();
        let request = Request::Read(Read { namespace, key, digest, hint: false });
        let budget = self.shards.budget().clone();
        let reply = self.request(node, request, deadline);
        let heard = move |reply: Result<Reply, PeerError>| {
            heard(reply.and_then(|reply| held(&budget, reply)), conflict)
        };
        reply.map(move |(node, reply)| (node, heard(reply))).boxed()
    }

    /// Asks for what a fallback keeps of a key.
    fn ask_fallback(
        &self,
        target: &Target,
        node: NodeId,
        deadline: Instant,
    ) -> BoxFuture<'static, (NodeId, Heard)> {
        let address = target.address.clone();
        let conflict = address.conflict;
        if node == self.node {
            let shards = self.shards.clone();
            return async move {
                let kept = shards.read_hint(address, deadline).await;
                (node, hint(kept, conflict))
            }
            .boxed();
        }
        let Address { namespace, key, .. } = address;
        let request = Request::Read(Read { namespace, key, digest: false, hint: true });
        let budget = self.shards.budget().clone();
        let reply = self.request(node, request, deadline);
        let heard = move |(node, reply): (_, Result<Reply, PeerError>)| {
            let heard = heard(reply.and_then(|reply| held(&budget, reply)), conflict);
            (node, as_hint(heard))
        };
        reply.map(heard).boxed()
    }

    /// Has an owner merge an object.
    pub(super) fn send_object(
        &self,
        target: &Target,
        repair: Repairing,
        node: NodeId,
        deadline: Instant,
    ) -> BoxFuture<'static, (NodeId, Heard)> {
        let Repairing { object, mend } = repair;
        if node == self.node {
            let (shards, address) = (self.shards.clone(), target.address.clone());
            return async move {
                let merge = Merge {
                    address,
                    object,
                    operation: None,
                    clock_ms: 0,
                    wait_ms: 0,
                    mend,
                    way: Way::ReadRepair,
                };
                let heard = match shards.merge(merge, false, deadline).await {
                    Ok(()) => Heard::Repaired,
                    Err(error) => Heard::Failed(cause_of_error(&error)),
                };
                (node, heard)
            }
            .boxed();
        }
        let Address { namespace, key, conflict, .. } = target.address.clone();
        let replicate = Replicate {
            namespace,
            key,
            object,
            synced: false,
            operation: None,
            clock_ms: 0,
            mend,
            hint_for: None,
        };
        let sent = self.request(node, Request::Replicate(replicate), deadline);
        sent.map(move |(node, reply)| (node, heard(reply, conflict))).boxed()
    }

    /// Sends the answer to owners that hold something else, after it was given.
    fn repair_later(&self, target: &Target, answer: &Object, stale: &[NodeId]) {
        if stale.is_empty() {
            return;
        }
        let repair = Repairing { object: EncodedObject::new(answer), mend: false };
        for &node in stale {
            let Ok(permit) = self.repairs.clone().try_acquire_owned() else { return };
            let deadline = Instant::now() + super::REPAIR_TIMEOUT;
            let repair = self.send_object(target, repair.clone(), node, deadline);
            tokio::spawn(Trace::current().run(async move {
                if let (node, Heard::Failed(cause)) = repair.await {
                    tracing::debug!(%node, %cause, "a read repair failed");
                }
                drop(permit);
            }));
        }
    }
}

/// Too few are left. Owners that are not connected fail before one that is there can answer; it is
/// heard all the same, so that the error counts it, but for no longer than a healthy one takes.
async fn hear_out(
    op: &mut ReadOp,
    mut under_way: FuturesUnordered<BoxFuture<'static, (NodeId, Heard)>>,
    deadline: Instant,
) {
    let until = deadline.min(Instant::now() + SLOW_AFTER);
    while let Ok(Some((node, heard))) = timeout_at(until, under_way.next()).await {
        // Nothing more is asked, since nothing can come of it.
        tell(op, node, heard);
    }
}

fn answer(target: &Target, found: Found) -> ReadAnswer {
    let Found { object, replicas, fallbacks } = found;
    let read = Context::of_read(&object);
    let context = (!object.is_absent()).then(|| read.seal(target.binding()));
    ReadAnswer { object, replicas, fallbacks, context }
}

impl Found {
    /// What one node told that was asked alone.
    fn alone(object: Object) -> Self {
        Self { object, replicas: 1, fallbacks: 0 }
    }

    /// As it is told to the node that sent the read on.
    pub fn encode(&self) -> GetResult {
        let Self { object, replicas, fallbacks } = self;
        let object = EncodedObject::new(object);
        GetResult { object, replicas: *replicas, fallbacks: *fallbacks }
    }
}

impl Rules {
    /// Whether the machine wants to know of single requests that they are late.
    fn watches_each(self) -> bool {
        self.sloppy || self.repair == Repair::Blocking
    }

    /// Of a read that another node sent on.
    fn of(forward: &ForwardGet, deadline: Instant) -> Self {
        let repair = if forward.blocking_repair { Repair::Blocking } else { Repair::Async };
        Self { r: forward.r, sloppy: forward.sloppy, repair, deadline }
    }

    /// How long one owner may take to which this node sends the read on. As long as others are left,
    /// half of what remains: one that stands still and is not known to must not use up their time. In
    /// a sloppy read this node itself is left.
    fn time_for_one(self, others_left: bool) -> Duration {
        let remaining = remaining(self.deadline);
        if others_left || self.sloppy { remaining / 2 } else { remaining }
    }

    /// The read as it is sent on.
    fn forward(self, target: &Target) -> ForwardGet {
        ForwardGet {
            namespace: target.namespace.id,
            key: target.address.key.clone(),
            r: self.r,
            blocking_repair: self.repair == Repair::Blocking,
            sloppy: self.sloppy,
        }
    }
}

/// What this node keeps as a hint.
fn hint(kept: Result<EncodedObject, RequestError>, rule: Conflict) -> Heard {
    match kept.map(|kept| kept.decode(rule)) {
        Ok(Ok(object)) => Heard::Hint(object),
        Ok(Err(_)) | Err(_) => Heard::NoHint,
    }
}

/// What a fallback told. One that answers as an owner knows another layout: what it holds counts as
/// an owner's alone.
fn as_hint(heard: Heard) -> Heard {
    match heard {
        Heard::Object(object, Standing::Fallback) => Heard::Hint(object),
        _ => Heard::NoHint,
    }
}

fn tell(op: &mut ReadOp, node: NodeId, heard: Heard) -> Vec<Effect> {
    match heard {
        Heard::Object(_, Standing::Fallback) | Heard::Digest(_, Standing::Fallback) => {}
        Heard::Object(_, standing) | Heard::Digest(_, standing) => {
            if let Some(cause) = standing.doubt() {
                op.on_doubt(node, cause);
            }
        }
        _ => {}
    }
    match heard {
        Heard::Object(object, _) => op.on_object(node, object),
        Heard::Digest(digest, _) => op.on_digest(node, digest),
        Heard::Hint(object) => op.on_hint(node, object),
        Heard::NoHint => op.on_no_hint(node),
        Heard::Repaired => op.on_repaired(node),
        Heard::Failed(cause) => op.on_failure(node, cause),
    }
}

/// The reply, its object counted as long as it is kept.
fn held(budget: &Arc<Budget>, reply: Reply) -> Result<Reply, PeerError> {
    let Reply::Held { held: Held::Object(object), standing } = reply else { return Ok(reply) };
    match budget.hold(Kind::Reads, object.0) {
        Ok(bytes) => Ok(Reply::Held { held: Held::Object(EncodedObject(bytes)), standing }),
        Err(full) => Ok(Reply::Failed(full)),
    }
}

fn heard(reply: Result<Reply, PeerError>, rule: Conflict) -> Heard {
    match &reply {
        Ok(Reply::Held { held: Held::Digest(digest), standing }) => {
            Heard::Digest(*digest, *standing)
        }
        Ok(Reply::Held { held: Held::Object(object), standing }) => match object.decode(rule) {
            Ok(object) => Heard::Object(object, *standing),
            Err(_) => Heard::Failed(Cause::Storage),
        },
        Ok(Reply::Replicated { .. }) => Heard::Repaired,
        other => Heard::Failed(cause_of(other)),
    }
}
