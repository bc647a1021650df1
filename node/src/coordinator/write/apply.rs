//! Has this node's own storage apply a write, which gives it its dot.
//!
//! Storage that is slow may apply a write after its client heard that nobody knows. From then on there
//! is a dot, as with any other write: the other owners are to have the object, or somebody owes it to
//! them, or it would stay with this node alone until somebody reads the key.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::copies::{Copies, KEEP_TIMEOUT};
use crate::coordinator::mend::IfAbsent;
use crate::coordinator::{Coordinator, Target, remaining};
use crate::dynamo::operation::OperationId;
use crate::dynamo::quorum::Failure;
use crate::dynamo::write::WriteOp;
use crate::error::{RequestError, WriteError};
use crate::trace::Trace;
use crate::vnode::{Write, Written};

/// What storage answers.
type Writing<T> = BoxFuture<'static, T>;

/// A write on its way to this node's storage, and all that it takes to send it on then.
#[derive(Clone, Copy)]
pub(super) struct Begun<'a> {
    pub(super) target: &'a Target,
    pub(super) id: OperationId,
    pub(super) op: &'a WriteOp,
    /// The owners that are not waited for.
    pub(super) away: &'a [Failure],
    pub(super) synced: bool,
    pub(super) deadline: Instant,
}

impl Coordinator {
    /// Gives the write its dot as an owner.
    pub(super) async fn write_here(
        &self,
        begun: Begun<'_>,
        write: Write,
    ) -> Result<Written, WriteError> {
        let (shards, Begun { synced, deadline, .. }) = (self.shards.clone(), begun);
        let writing = async move { shards.write(write, synced, deadline).await };
        self.by_deadline(begun, writing.boxed()).await
    }

    /// The same as a fallback, which owes it to all owners.
    pub(super) async fn write_hint(
        &self,
        begun: Begun<'_>,
        write: Write,
    ) -> Result<Written, WriteError> {
        let (shards, Begun { synced, deadline, .. }) = (self.shards.clone(), begun);
        let owners = begun.op.owners().collect();
        let writing = async move { shards.write_hint(write, owners, synced, deadline).await };
        self.by_deadline(begun, writing.boxed()).await
    }

    /// The record of the key is damaged here: mends it first. Where it cannot be, the write is
    /// refused, and the refusal recorded, so that no late copy of the request is applied after all.
    pub(super) async fn write_mended(
        &self,
        begun: Begun<'_>,
        mut write: Write,
    ) -> Result<Written, WriteError> {
        // Time must be left to record the refusal.
        let mend_by = Instant::now() + remaining(begun.deadline) / 2;
        write.refusal = self.mend(begun.target, self.node, IfAbsent::GiveUp, mend_by).await.err();
        self.write_here(begun, write).await
    }

    /// What storage answers, or that it does not in time.
    async fn by_deadline(
        &self,
        begun: Begun<'_>,
        mut writing: Writing<Result<Written, WriteError>>,
    ) -> Result<Written, WriteError> {
        match timeout_at(begun.deadline, &mut writing).await {
            Ok(written) => written,
            Err(_) => {
                self.follow_up_late(begun, writing);
                Err(WriteError::unknown(begun.id, late()))
            }
        }
    }

    /// Once storage applies the write after all: as after an answer.
    fn follow_up_late(&self, begun: Begun<'_>, writing: Writing<Result<Written, WriteError>>) {
        let Begun { target, id, synced, .. } = begun;
        let (coordinator, target) = (self.clone(), target.clone());
        let (mut op, away) = (begun.op.clone(), begun.away.to_vec());
        tokio::spawn(Trace::current().run(async move {
            let Ok(written) = writing.await else { return };
            let replicate = coordinator.replicate(&target, &written, id, synced);
            let deadline = Instant::now() + KEEP_TIMEOUT;
            let mut copies = Copies::new(target.address.clone(), replicate, deadline);
            coordinator.collect(&mut op, &mut copies, &away).await;
            coordinator.follow_up(op, copies);
        }));
    }
}

/// Why a write is answered before it is known what became of it.
pub(super) fn late() -> RequestError {
    RequestError::Timeout { waiting_for: "waiting for the node's own storage".to_owned() }
}
