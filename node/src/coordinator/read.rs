//! Coordinating gets; many at once in [`batch`].

mod batch;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use futures::{FutureExt as _, future};
use tokio::time::{Instant, sleep_until, timeout_at};

pub use self::batch::GetBatch;
use super::{
    Coordinator, SLOW_AFTER, Target, cause_of, cause_of_error, not_reached, remaining, resolve,
};
use crate::dynamo::context::Context;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{Key, NodeId};
use crate::dynamo::metadata::document::Conflict;
use crate::dynamo::object::{Digest, Object};
use crate::dynamo::quorum::{Cause, Level, Verdict};
use crate::dynamo::read::{Digester, Effect, ReadOp, ReadPlan, Repair};
use crate::dynamo::standing::Standing;
use crate::error::RequestError;
use crate::limits::budget::{Budget, Kind};
use crate::trace::Trace;
use crate::transport::{ForwardGet, Held, PeerError, Read, Replicate, Reply, Request};
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
    /// The context token of the object; none if nothing was ever written.
    pub context: Option<bytes::Bytes>,
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
    Repaired,
    Failed(Cause),
}

impl Coordinator {
    /// Reads a key here, or by way of an owner.
    pub async fn get(&self, get: Get) -> Result<ReadAnswer, RequestError> {
        let deadline = Instant::now() + get.timeout;
        let target = self.target(&get.namespace, get.key, deadline).await?;
        let (object, replicas) = match get.replica {
            Some(node) => (self.get_from(&target, node, deadline).await?, 1),
            None => {
                let r = resolve(get.r, target.namespace.r, target.namespace.n)?;
                self.get_by_quorum(&target, r, get.repair, deadline).await?
            }
        };
        Ok(answer(&target, object, replicas))
    }

    /// Runs a read that another node sent on.
    pub async fn get_forwarded(
        &self,
        forward: ForwardGet,
        timeout: Duration,
    ) -> Result<(Object, u32), RequestError> {
        let deadline = Instant::now() + timeout;
        let target = self.owned_target(forward.namespace, forward.key)?;
        let repair = if forward.blocking_repair { Repair::Blocking } else { Repair::Async };
        self.read_owners(&target, forward.r, repair, deadline).await
    }

    async fn get_by_quorum(
        &self,
        target: &Target,
        r: u8,
        repair: Repair,
        deadline: Instant,
    ) -> Result<(Object, u32), RequestError> {
        let preference = target.preference()?;
        if preference.is_owner(self.node) {
            return self.read_owners(target, r, repair, deadline).await;
        }
        let forward = ForwardGet {
            namespace: target.namespace.id,
            key: target.address.key.clone(),
            r,
            blocking_repair: repair == Repair::Blocking,
            sloppy: false,
        };
        let mut last = RequestError::not_ready("no owner of the key can be reached");
        for node in self.owners_by_reach(preference) {
            let request = Request::ForwardGet(forward.clone());
            match self.peers.request(node, request, remaining(deadline)).await {
                Ok(Reply::GetResult(result)) => {
                    let bytes = self.shards.budget().hold(Kind::Reads, result.object.0)?;
                    let object = EncodedObject(bytes).decode(target.namespace.conflict);
                    let object = object.map_err(RequestError::internal)?;
                    return Ok((object, result.replicas));
                }
                Ok(Reply::Failed(error @ RequestError::NotReady { .. })) => last = error,
                Ok(Reply::Failed(error)) => return Err(error.elsewhere()),
                Ok(_) => last = RequestError::internal("unexpected answer"),
                Err(PeerError::TimedOut) => {
                    let waiting_for = format!("waiting for {}", target.view.name_of(node));
                    last = RequestError::TimeoutElsewhere { waiting_for };
                }
                Err(error) => {
                    let node = target.view.name_of(node);
                    last = RequestError::not_ready(format!("{node}: {error}"));
                }
            }
        }
        Err(last)
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
            Heard::Failed(cause) => {
                Err(RequestError::not_ready(format!("{} {cause}; it was asked alone", name())))
            }
            Heard::Digest(..) | Heard::Repaired => Err(RequestError::internal("unexpected answer")),
        }
    }

    /// Drives the read machine over the owners.
    pub(super) async fn read_owners(
        &self,
        target: &Target,
        r: u8,
        repair: Repair,
        deadline: Instant,
    ) -> Result<(Object, u32), RequestError> {
        let mut op = ReadOp::new(self.plan(target, r, repair)?);
        let mut under_way = FuturesUnordered::new();
        for effect in op.start() {
            under_way.push(self.execute(target, &op, effect, deadline));
        }
        let slow = sleep_until(deadline.min(Instant::now() + SLOW_AFTER));
        tokio::pin!(slow);
        while op.verdict() == Verdict::Pending {
            let effects = tokio::select! {
                biased;
                Some((node, heard)) = under_way.next() => tell(&mut op, node, heard),
                () = &mut slow => {
                    if slow.deadline() >= deadline {
                        break;
                    }
                    slow.as_mut().reset(deadline);
                    op.on_slow()
                }
            };
            for effect in effects {
                under_way.push(self.execute(target, &op, effect, deadline));
            }
        }
        if op.verdict() != Verdict::Reached {
            hear_out(&mut op, under_way, deadline).await;
            self.mend_later(target, op.failures());
            return Err(not_reached(&target.view, op.tally(), op.failures(), &[]));
        }
        self.mend_later(target, op.failures());
        let outcome = op.finish();
        self.repair_later(target, &outcome.object, &outcome.repairs);
        Ok((outcome.object, outcome.replicas))
    }

    /// How a key is read: this node first, if it is an owner.
    pub(super) fn plan(
        &self,
        target: &Target,
        r: u8,
        repair: Repair,
    ) -> Result<ReadPlan, RequestError> {
        let mut owners = target.preference()?.owners().to_vec();
        owners.sort_by_key(|&node| node != self.node);
        let away = owners.iter().copied().filter(|&node| self.is_away(node)).collect();
        let digester = Digester {
            cluster: target.view.document().cluster_key,
            namespace: target.namespace.id,
            key: target.address.key.clone(),
        };
        Ok(ReadPlan { needed: r, owners, away, sloppy: None, repair, digester })
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
            Effect::AskFallback(node) => {
                future::ready((node, Heard::Failed(Cause::Refused))).boxed()
            }
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
                let merge =
                    Merge { address, object, operation: None, clock_ms: 0, wait_ms: 0, mend };
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

fn answer(target: &Target, object: Object, replicas: u32) -> ReadAnswer {
    let read = Context::of_read(&object);
    let context = (!object.is_absent()).then(|| read.seal(target.binding()));
    ReadAnswer { object, replicas, context }
}

fn tell(op: &mut ReadOp, node: NodeId, heard: Heard) -> Vec<Effect> {
    match heard {
        Heard::Object(_, Standing::Rebuilding) | Heard::Digest(_, Standing::Rebuilding) => {
            op.on_doubt(node);
        }
        _ => {}
    }
    match heard {
        Heard::Object(object, _) => op.on_object(node, object),
        Heard::Digest(digest, _) => op.on_digest(node, digest),
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
