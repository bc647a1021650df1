//! Coordinating puts and deletes; many at once in [`batch`].

mod apply;
mod batch;
mod copies;
mod elsewhere;
mod expire;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::apply::Begun;
pub use self::batch::PutBatch;
use self::copies::Copies;
pub(super) use self::copies::{FOLLOWED_MAX, LateBudget};
use super::{Coordinator, Others, Target, Trust, not_held, not_reached, remaining, resolve};
use crate::cluster::view::View;
use crate::dynamo::context::Context;
use crate::dynamo::key::{Key, NodeId};
use crate::dynamo::metadata::document::{Conflict, Durability};
use crate::dynamo::operation::{Change, Opening, OperationId};
use crate::dynamo::quorum::{Cause, Failure, Level, Verdict};
use crate::dynamo::ttl::TtlMs;
use crate::dynamo::write::{WriteOp, WritePlan};
use crate::error::{Outcome, RequestError, WriteError};
use crate::transport::{ForwardWrite, PeerError, Replicate, Reply, Request, WriteResult};
use crate::vnode::{Write, Written};

/// A client's put or delete.
#[derive(Clone, Debug)]
pub struct Put {
    /// The namespace's name.
    pub namespace: String,
    /// The key.
    pub key: Key,
    /// What the write does.
    pub change: Change,
    /// The context token; empty: none.
    pub context: Bytes,
    /// How many owners must acknowledge; none: the namespace's default.
    pub w: Option<Level>,
    /// When they may; none: the namespace's default.
    pub durability: Option<Durability>,
    /// Whether the acks of fallbacks count; none: the namespace's default.
    pub sloppy: Option<bool>,
    /// The client's id of the write; none: the coordinator chooses one.
    pub operation: Option<OperationId>,
    /// Coordinate it even if the id names another node or opening.
    pub at_least_once: bool,
    /// No earlier request carried the id.
    pub fresh: bool,
    /// How long it may take.
    pub timeout: Duration,
}

impl Put {
    fn split(self) -> (PutEntry, PutRules) {
        let Put { key, change, context, operation, fresh, .. } = self;
        let Put { w, durability, sloppy, at_least_once, .. } = self;
        let entry = PutEntry { key, change, context, operation, fresh };
        (entry, PutRules { w, durability, sloppy, at_least_once })
    }
}

/// What is written under one key.
#[derive(Clone, Debug)]
pub struct PutEntry {
    /// The key.
    pub key: Key,
    /// What the write does.
    pub change: Change,
    /// The context token; empty: none.
    pub context: Bytes,
    /// The client's id of the write; none: the coordinator chooses one.
    pub operation: Option<OperationId>,
    /// No earlier request carried the id.
    pub fresh: bool,
}

impl PutEntry {
    /// The id, if an earlier request may have carried it.
    pub fn doubtful(&self) -> Option<OperationId> {
        self.operation.filter(|_| !self.fresh)
    }
}

/// How it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PutRules {
    /// How many owners must acknowledge; none: the namespace's default.
    pub w: Option<Level>,
    /// When they may; none: the namespace's default.
    pub durability: Option<Durability>,
    /// Whether the acks of fallbacks count; none: the namespace's default.
    pub sloppy: Option<bool>,
    /// Coordinate it even if the id names another node or opening.
    pub at_least_once: bool,
}

impl Coordinator {
    /// Runs a client's write here, or sends it to the node that its id names.
    pub async fn put(&self, put: Put) -> Result<WriteResult, WriteError> {
        let deadline = Instant::now() + put.timeout;
        let target = self.target(&put.namespace, put.key.clone(), deadline).await;
        let (entry, rules) = put.split();
        let doubtful = entry.doubtful();
        let refused = |error| WriteError::at_the_door(doubtful, error);
        let target = target.map_err(refused)?;
        let forward = self.admit(entry, rules, &target).map_err(refused)?;
        let to = self.coordinator_of(&target, &forward).map_err(refused)?;
        if to == self.node {
            self.run_or_finish(&target, forward, deadline).await
        } else {
            self.run_at(to, &target, forward, deadline).await
        }
    }

    /// Runs a write that another node sent on.
    pub async fn put_forwarded(
        &self,
        forward: ForwardWrite,
        timeout: Duration,
    ) -> Result<WriteResult, WriteError> {
        let deadline = Instant::now() + timeout;
        let target = self.coordinated_target(&forward);
        let target = target.map_err(|error| WriteError::at_the_door(forward.doubtful(), error))?;
        self.run_or_finish(&target, forward, deadline).await
    }

    /// The target of a write that another node sent on: this node must own it, or may stand in.
    fn coordinated_target(&self, forward: &ForwardWrite) -> Result<Target, RequestError> {
        let target = self.forwarded_target(forward.namespace, forward.key.clone())?;
        let preference = target.preference()?;
        let listed = preference.position(self.node).is_some();
        match preference.is_owner(self.node) || may_stand_in(forward) && listed {
            true => Ok(target),
            false => Err(not_held()),
        }
    }

    /// Checks a client's write, and fills in what it left to the namespace.
    fn admit(
        &self,
        put: PutEntry,
        rules: PutRules,
        target: &Target,
    ) -> Result<ForwardWrite, RequestError> {
        let namespace = &target.namespace;
        let length = put.change.value().map_or(0, Bytes::len);
        if length > namespace.value_max_bytes as usize {
            return Err(RequestError::invalid(format!(
                "the value has {length} bytes; namespace {} takes up to {}",
                namespace.name, namespace.value_max_bytes
            )));
        }
        // Nobody's opening: an id that a node made up, of which no time is asked. A client may ask for
        // the outcome of one that it was told.
        if put.fresh && put.operation.is_some_and(|id| id.opening == Opening(0)) {
            return Err(RequestError::invalid(
                "a new operation id names the opening of its coordinator's store (Describe); \
                 0 is none",
            ));
        }
        let durability = rules.durability.unwrap_or(namespace.durability);
        let sloppy = rules.sloppy.unwrap_or(namespace.sloppy);
        Ok(ForwardWrite {
            namespace: namespace.id,
            key: put.key,
            change: put.change,
            context: put.context,
            w: resolve(rules.w, namespace.w, namespace.n)?,
            synced: durability == Durability::Synced,
            at_least_once: rules.at_least_once || put.operation.is_none(),
            fresh: put.fresh || put.operation.is_none(),
            sloppy,
            operation: match put.operation {
                Some(id) => id,
                None => self.new_operation(target, sloppy)?,
            },
        })
    }

    /// An id for a client that gave none. It runs once since it is sent once; if it goes to another
    /// node, whose opening is not known here, it names none.
    fn new_operation(&self, target: &Target, sloppy: bool) -> Result<OperationId, RequestError> {
        let coordinator = self.reachable(target, sloppy)?;
        let opening = if coordinator == self.node { self.opening } else { Opening(0) };
        let (client, sequence) = (self.env.random(), 1);
        Ok(OperationId { issued_ms: self.env.now_ms(), coordinator, opening, client, sequence })
    }

    /// Who is to run a write that no id forbids to: an owner; if none is there and others may stand in,
    /// this node, or else the next that would.
    fn reachable(&self, target: &Target, sloppy: bool) -> Result<NodeId, RequestError> {
        let preference = target.preference()?;
        let owners = self.owners_by_reach(preference);
        let first = *owners.first().expect("a partition has an owner");
        if !sloppy || self.away(first).is_none() {
            return Ok(first);
        }
        let fallbacks = preference.fallbacks();
        let here = fallbacks.contains(&self.node).then_some(self.node);
        let there = || fallbacks.iter().copied().find(|&node| self.away(node).is_none());
        Ok(here.or_else(there).unwrap_or(first))
    }

    /// Who is to run the write: the node its id names; of those asked to run it at least once, this
    /// node or an owner.
    fn coordinator_of(
        &self,
        target: &Target,
        forward: &ForwardWrite,
    ) -> Result<NodeId, RequestError> {
        let (preference, named) = (target.preference()?, forward.operation.coordinator);
        if forward.at_least_once {
            return self.reachable(target, forward.sloppy);
        }
        let listed = preference.position(named).is_some();
        if preference.is_owner(named) || may_stand_in(forward) && listed {
            return Ok(named);
        }
        Err(RequestError::not_ready_elsewhere(format!(
            "the operation id names {}, which does not hold the key; learn the topology again",
            target.view.name_of(named)
        )))
    }

    async fn forward(
        &self,
        to: NodeId,
        forward: ForwardWrite,
        deadline: Instant,
    ) -> Result<WriteResult, WriteError> {
        let (id, doubtful) = (forward.operation, forward.doubtful());
        let request = Request::ForwardWrite(forward);
        match self.peers.request(to, request, remaining(deadline)).await {
            Ok(Reply::WriteResult(result)) => Ok(result),
            other => Err(forward_failed(to, id, doubtful, &other)),
        }
    }

    /// Gives the write its dot here, then sends the object to the other owners: once its batch is
    /// applied, and not before. Others would keep what a failed batch did not, and the index here knows
    /// nothing of the id, so that a retry of the client would be a second write.
    async fn run(
        &self,
        target: &Target,
        forward: ForwardWrite,
        deadline: Instant,
    ) -> Result<WriteResult, WriteError> {
        let doubtful = forward.doubtful();
        let refused = |error| WriteError::at_the_door(doubtful, error);
        let (id, synced) = (forward.operation, forward.synced);
        let reach = self.reach(target, &forward).map_err(refused)?;
        let sloppy = forward.sloppy;
        let mut write = self.prepare(target, forward).map_err(refused)?;
        write.refusal = self.refused(target, &write, &reach);
        self.look(target, &mut write, sloppy, deadline).await;
        let owns = reach.plan.owners.contains(&self.node);
        let (mut op, away) = (WriteOp::new(reach.plan), reach.away);
        let begun = Begun { target, id, op: &op, away: &away, synced, deadline };
        let written = match owns {
            false => {
                let kept = self.write_hint(begun, write).await;
                kept.map_err(|why| self.not_kept_here(begun, why))?
            }
            true => match self.write_here(begun, write.clone()).await {
                Err(WriteError { error: RequestError::Damaged { .. }, .. }) => {
                    self.write_mended(begun, write).await?
                }
                written => written?,
            },
        };
        let replicate = self.replicate(target, &written, id, synced);
        let mut copies = Copies::new(target.address.clone(), replicate, deadline);
        self.collect(&mut op, &mut copies, &away).await;
        self.mend_later(target, op.failures());
        let concluded = conclude(target, &op, &written, id);
        self.follow_up(op, copies);
        concluded
    }

    /// Whom a write can count on. Who is suspect or down is passed over by a sloppy write, unless too
    /// few are left without them: what is known of others may be wrong.
    fn reach(&self, target: &Target, forward: &ForwardWrite) -> Result<Reach, RequestError> {
        let preference = target.preference()?;
        let (owners, sloppy) = (preference.owners(), forward.sloppy);
        let reach = |away: &dyn Fn(NodeId) -> Option<Cause>| {
            let failure = |&node: &NodeId| away(node).map(|cause| Failure { node, cause });
            let fallback = |node: &NodeId| sloppy && *node != self.node && away(*node).is_none();
            let (needed, late) = (forward.w, usize::from(forward.w) < owners.len());
            let plan = WritePlan {
                needed: needed + u8::from(late && planted!("replicated_before_the_batch")),
                coordinator: self.node,
                owners: owners.to_vec(),
                fallbacks: preference.fallbacks().iter().copied().filter(fallback).collect(),
                sloppy,
            };
            Reach { plan, away: owners.iter().filter_map(failure).collect() }
        };
        let known = sloppy.then(|| reach(&|node| self.away(node)));
        let suffices = |reach: &Reach| reach.count() >= usize::from(forward.w);
        let disconnected = |node| self.away(node).filter(|cause| *cause == Cause::Disconnected);
        Ok(known.filter(suffices).unwrap_or_else(|| reach(&disconnected)))
    }

    /// Says of a fallback without room for hints what its client has to know: too few are there, and it
    /// does not stand in for them.
    fn not_kept_here(&self, begun: Begun<'_>, why: WriteError) -> WriteError {
        let RequestError::HintsFull { .. } = why.error else { return why };
        let here = Failure { node: self.node, cause: Cause::HintsFull };
        let failures = [begun.away, &[here]].concat();
        WriteError {
            error: not_reached(&begun.target.view, begun.op.tally(), &failures, &[]),
            ..why
        }
    }

    fn prepare(&self, target: &Target, forward: ForwardWrite) -> Result<Write, RequestError> {
        let context = match forward.context.is_empty() {
            true => Context::default(),
            false => Context::open(&forward.context, target.binding())?,
        };
        let doubtful = forward.doubtful();
        Ok(Write {
            address: target.address.clone(),
            ttl: ttl_of(target, &forward.change),
            seen: None,
            change: forward.change,
            context,
            doubtful,
            operation: forward.operation,
            at_least_once: forward.at_least_once,
            refusal: None,
        })
    }

    /// Why a new write, alone or of a batch, is refused before it has a dot.
    fn refused(&self, target: &Target, write: &Write, reach: &Reach) -> Option<RequestError> {
        self.too_few_reachable(target, reach).or_else(|| self.wrong_clock(target, write))
    }

    /// Too few could acknowledge it.
    fn too_few_reachable(&self, target: &Target, reach: &Reach) -> Option<RequestError> {
        let (needed, got) = (reach.plan.needed, reach.count());
        if got >= usize::from(needed) {
            return None;
        }
        let away: Vec<String> =
            reach.away.iter().map(|failure| target.view.name_of(failure.node)).collect();
        let no_more = if reach.plan.sloppy { ", and too few others stand in" } else { "" };
        let detail = format!("; not connected: {}{no_more}", away.join(", "));
        Some(RequestError::QuorumNotReached { needed: needed.into(), got: got as u32, detail })
    }

    /// Why this node may not order writes of an `lww` namespace: a clock that is ahead would hide
    /// what others write later, one that is behind would lose what it acknowledges. Nor may it say when
    /// values expire.
    fn wrong_clock(&self, target: &Target, write: &Write) -> Option<RequestError> {
        if target.namespace.conflict != Conflict::Lww && !write.is_timed() {
            return None;
        }
        match self.clocks.trust(|| self.others(&target.view)) {
            Trust::Right => None,
            // No refusal at the door: the write is looked up, and the refusal of a new one recorded.
            Trust::Unknown => Some(RequestError::clock_uncertain(
                "this node has not compared its clock with another one lately; try again",
            )),
            Trust::Off { ahead_ms } => Some(RequestError::ClockSkew {
                what: format!("the clock of {}", target.view.name_of(self.node)),
                ahead_ms,
                max_ms: self.clocks.max_ms(),
            }),
        }
    }

    /// Every member's clock counts, not the owners' alone.
    fn others(&self, view: &View) -> Others {
        let is_other = |node: &NodeId| *node != self.node;
        let others = || view.document().members.iter().map(|member| member.node).filter(is_other);
        match others().next() {
            None => Others::None,
            Some(_) if others().any(|node| self.peers.connected(node)) => Others::Connected,
            Some(_) => Others::Away,
        }
    }

    fn replicate(
        &self,
        target: &Target,
        written: &Written,
        id: OperationId,
        synced: bool,
    ) -> Replicate {
        Replicate {
            namespace: target.namespace.id,
            key: target.address.key.clone(),
            object: written.object.clone(),
            synced,
            operation: Some((id, written.dot, written.payload)),
            // 0 is that of a repair.
            clock_ms: written.clock_ms.max(1),
            mend: false,
            hint_for: None,
        }
    }
}

/// How long what a write leaves is to live.
fn ttl_of(target: &Target, change: &Change) -> Option<TtlMs> {
    match change {
        Change::Put { ttl, .. } | Change::Expire(ttl) => ttl.or(target.namespace.default_ttl),
        Change::Delete => None,
    }
}

/// Whether a node that owns no replica may coordinate the write; one that was sent before may have been
/// coordinated so, whatever its namespace says by now.
fn may_stand_in(forward: &ForwardWrite) -> bool {
    forward.sloppy || forward.doubtful().is_some()
}

/// Whom a write can count on.
struct Reach {
    plan: WritePlan,
    /// The owners that are not waited for.
    away: Vec<Failure>,
}

impl Reach {
    /// How many could acknowledge: owners, and others in place of those that are away.
    fn count(&self) -> usize {
        let (owners, away) = (self.plan.owners.len(), self.away.len());
        let coordinates = !self.plan.owners.contains(&self.plan.coordinator);
        owners - away + away.min(self.plan.fallbacks.len() + usize::from(coordinates))
    }
}

/// The answer to a write, once it was listened to the owners.
fn conclude(
    target: &Target,
    op: &WriteOp,
    written: &Written,
    id: OperationId,
) -> Result<WriteResult, WriteError> {
    if op.verdict() != Verdict::Reached {
        let failures = [op.failures(), op.not_kept()].concat();
        let error = not_reached(&target.view, op.tally(), &failures, &op.silent());
        // Else the client would ask again until its time is over.
        let error = if op.is_in_vain() { RequestError::too_late(error) } else { error };
        return Err(WriteError::unknown(id, error));
    }
    let acks = op.receipt();
    Ok(WriteResult {
        context: written.context.as_ref().map(|context| context.seal(target.binding())),
        siblings: written.siblings,
        dot: written.dot,
        acked: acks.owners,
        fallbacks: acks.fallbacks,
        synced: acks.synced,
    })
}

/// What is known of a write that another node was to coordinate, and gave no result of; `doubtful`
/// is its id if an earlier request may have carried it.
fn forward_failed(
    to: NodeId,
    id: OperationId,
    doubtful: Option<OperationId>,
    reply: &Result<Reply, PeerError>,
) -> WriteError {
    match reply {
        Ok(Reply::WriteFailed(error)) => match error.outcome {
            Outcome::NotApplied => error.clone().elsewhere(),
            Outcome::Unknown(_) => WriteError::unknown(id, error.error.clone().elsewhere()),
        },
        Ok(Reply::Failed(error)) => WriteError::unknown(id, error.clone().elsewhere()),
        Ok(_) => WriteError::unknown(id, RequestError::internal("unexpected answer")),
        Err(PeerError::TimedOut) => {
            let waiting_for = "waiting for the node that coordinates the write".to_owned();
            WriteError::unknown(id, RequestError::TimeoutElsewhere { waiting_for })
        }
        Err(error) => {
            let (nothing_sent, reason) = (error.nothing_sent(), error.to_string());
            let error = RequestError::CoordinatorUnreachable { node: to, reason };
            match nothing_sent {
                true => WriteError::at_the_door(doubtful, error),
                false => WriteError::unknown(id, error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Or the node's limit of requests would fall as if it had too much to do itself.
    #[test]
    fn a_write_that_another_node_has_for_too_long_waited_for_others() {
        let operation = OperationId {
            issued_ms: 1,
            coordinator: NodeId(2),
            opening: Opening(3),
            client: 4,
            sequence: 5,
        };
        let late = RequestError::Timeout { waiting_for: "its storage".to_owned() };
        assert!(!late.is_for_others());
        let replies = [
            Err(PeerError::TimedOut),
            Ok(Reply::Failed(late.clone())),
            Ok(Reply::WriteFailed(WriteError::not_applied(late.clone()))),
            Ok(Reply::WriteFailed(WriteError::unknown(operation, late))),
        ];
        for reply in replies {
            let failed = forward_failed(NodeId(2), operation, None, &reply);
            assert!(failed.error.is_for_others(), "{reply:?}");
            assert_eq!(failed.error.kind(), "timeout");
        }
    }
}
