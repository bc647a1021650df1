//! The copies of one write: sent to owners, kept by stand-ins, and followed up after the answer.
//!
//! Whom to send what, the pure machine decides ([`WriteOp`]); here it is sent, and the answers are
//! told. What is under way when the client hears its answer goes on: an owner that does not
//! acknowledge by the deadline is owed the object by somebody, or it would miss the write until
//! a read or an exchange between owners notices.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::coordinator::{Coordinator, cause_of, cause_of_error};
use crate::dynamo::arrival::Way;
use crate::dynamo::key::NodeId;
use crate::dynamo::quorum::{Cause, Failure, Verdict};
use crate::dynamo::write::{Effect, StandIn, WriteOp};
use crate::trace::Trace;
use crate::transport::{PeerError, Replicate, Reply, Request};
use crate::vnode::{Address, Merge};

/// When others stand in for owners that have not answered, if the client waits for them: well past
/// what a healthy one takes, and short beside what a client notices.
pub(super) const LATE_AFTER: Duration = Duration::from_millis(150);

/// How long after a write's deadline somebody may take to keep what an owner missed.
pub(super) const KEEP_TIMEOUT: Duration = Duration::from_secs(2);

/// Writes that wait at once for those that have not acknowledged them; each holds its object. Beyond
/// that nobody is waited for: what they may lack is kept for them at once.
pub(in crate::coordinator) const FOLLOWED_MAX: usize = 8192;

/// Bounds how often others stand in since an owner is late: where all are slow, more copies would
/// make them slower. One write in ten earns one, and some are kept for when a node begins to fail.
#[derive(Debug)]
pub(in crate::coordinator) struct LateBudget(AtomicU32);

impl LateBudget {
    const PRICE: u32 = 10;
    const MOST: u32 = 100 * Self::PRICE;

    /// So many writes began.
    pub(super) fn earn(&self, writes: u32) {
        let earned = |saved: u32| Some(saved.saturating_add(writes).min(Self::MOST));
        // It always succeeds.
        let _before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }

    /// Whether others may stand in for one write, which is then spent.
    pub(super) fn allows(&self) -> bool {
        let spent = |saved: u32| saved.checked_sub(Self::PRICE);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).is_ok()
    }
}

impl Default for LateBudget {
    fn default() -> Self {
        Self(AtomicU32::new(Self::MOST))
    }
}

/// What became of something that the machine wanted done: whether the copy is on disk, or why there
/// is none.
pub(super) type Said = Result<bool, Cause>;

/// A copy on its way.
type UnderWay = FuturesUnordered<BoxFuture<'static, (Effect, Said)>>;

/// A write whose copies are on their way.
pub(super) struct Copies {
    address: Address,
    /// As it is sent to an owner.
    replicate: Replicate,
    under_way: UnderWay,
    deadline: Instant,
}

impl Copies {
    /// Of a write that is applied here; it must be answered by `deadline`.
    pub(super) fn new(address: Address, replicate: Replicate, deadline: Instant) -> Self {
        Self { address, replicate, under_way: FuturesUnordered::new(), deadline }
    }
}

impl Coordinator {
    /// Sends the object to whom it is due, all at once, and listens until the verdict or the deadline.
    pub(super) async fn collect(&self, op: &mut WriteOp, copies: &mut Copies, away: &[Failure]) {
        self.late.earn(1);
        let effects = op.start(copies.replicate.synced, |node| cause_in(away, node));
        effects.into_iter().for_each(|effect| self.send(copies, effect));
        let late = sleep_until(copies.deadline.min(Instant::now() + LATE_AFTER));
        tokio::pin!(late);
        while op.verdict() == Verdict::Pending {
            tokio::select! {
                biased;
                Some((effect, said)) = copies.under_way.next() => {
                    if let Some(next) = tell(op, effect, said) {
                        self.send(copies, next);
                    }
                }
                () = &mut late => {
                    if late.deadline() >= copies.deadline {
                        return;
                    }
                    late.as_mut().reset(copies.deadline);
                    if op.is_late() && self.late.allows() {
                        op.on_late().into_iter().for_each(|effect| self.send(copies, effect));
                    }
                }
            }
        }
    }

    /// After the answer: waits for those that have not answered, and sees to it that somebody owes
    /// them the object if they do not.
    pub(super) fn follow_up(&self, mut op: WriteOp, mut copies: Copies) {
        if op.is_settled() {
            return;
        }
        let permit = self.followed.clone().try_acquire_owned().ok();
        let coordinator = self.clone();
        tokio::spawn(Trace::current().run(async move {
            let until = if permit.is_some() { copies.deadline } else { Instant::now() };
            tokio::select! {
                biased;
                () = coordinator.stop.cancelled() => {}
                () = coordinator.settle(&mut op, &mut copies, until) => {}
            }
            for owner in op.silent() {
                if let Some(effect) = op.on_failure(owner, Cause::Timeout) {
                    coordinator.send(&mut copies, effect);
                }
            }
            coordinator.settle(&mut op, &mut copies, Instant::now() + KEEP_TIMEOUT).await;
            coordinator.unfollowed(usize::from(!op.is_settled()));
            drop(permit);
        }));
    }

    /// So many writes are given up before every owner has them, or is owed them.
    pub(super) fn unfollowed(&self, writes: usize) {
        self.unfollowed.fetch_add(writes as u64, Ordering::Relaxed);
    }

    async fn settle(&self, op: &mut WriteOp, copies: &mut Copies, until: Instant) {
        while !op.is_settled() {
            let Ok(Some((effect, said))) = timeout_at(until, copies.under_way.next()).await else {
                return;
            };
            if let Some(next) = tell(op, effect, said) {
                self.send(copies, next);
            }
        }
    }

    /// Has the effect under way.
    fn send(&self, copies: &mut Copies, effect: Effect) {
        let (to, replicate) = effect.addressed(copies.replicate.clone());
        let until = match replicate.hint_for {
            Some(_) => copies.deadline.max(Instant::now() + KEEP_TIMEOUT),
            None => copies.deadline,
        };
        let copy = match to == self.node {
            true => self.keep_here(&copies.address, replicate, until),
            false => {
                let sent = self.request(to, Request::Replicate(replicate), until);
                sent.map(|(_, reply)| said(reply)).boxed()
            }
        };
        copies.under_way.push(copy.map(move |said| (effect, said)).boxed());
    }

    fn keep_here(
        &self,
        address: &Address,
        replicate: Replicate,
        until: Instant,
    ) -> BoxFuture<'static, Said> {
        let (shards, synced) = (self.shards.clone(), replicate.synced);
        let (merge, owner) = hint_of(address, replicate);
        async move {
            let kept = shards.hint(merge, owner, synced, until).await;
            kept.map(|()| synced).map_err(|error| cause_of_error(&error))
        }
        .boxed()
    }
}

impl Effect {
    /// To whom the object goes for it, and as what.
    pub(super) fn addressed(self, replicate: Replicate) -> (NodeId, Replicate) {
        match self {
            Self::Send(owner) => (owner, replicate),
            Self::Keep(StandIn { node, owner }) => {
                (node, Replicate { hint_for: Some(owner), ..replicate })
            }
        }
    }
}

/// A hint as this node's shards take it: what to merge, and for whom.
pub(super) fn hint_of(address: &Address, replicate: Replicate) -> (Merge, NodeId) {
    let Replicate { object, operation, clock_ms, hint_for, .. } = replicate;
    let (address, wait_ms, mend) = (address.clone(), 0, false);
    let owner = hint_for.expect("a hint is for an owner");
    (Merge { address, object, operation, clock_ms, wait_ms, mend, way: Way::Write }, owner)
}

/// Why the node is among those that are away, if it is.
pub(super) fn cause_in(away: &[Failure], node: NodeId) -> Option<Cause> {
    away.iter().find(|failure| failure.node == node).map(|failure| failure.cause)
}

fn said(reply: Result<Reply, PeerError>) -> Said {
    match reply {
        Ok(Reply::Replicated { synced }) => Ok(synced),
        other => Err(cause_of(&other)),
    }
}

/// Tells the machine what became of an effect. What it wants done about it.
pub(super) fn tell(op: &mut WriteOp, effect: Effect, said: Said) -> Option<Effect> {
    match (effect, said) {
        (Effect::Send(owner), Ok(synced)) => op.on_ack(owner, synced),
        (Effect::Send(owner), Err(cause)) => return op.on_failure(owner, cause),
        (Effect::Keep(by), Ok(synced)) => op.on_kept(by, synced),
        (Effect::Keep(by), Err(cause)) => return op.on_not_kept(by, cause),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_stand_in_for_late_owners_of_one_write_in_ten_once_what_was_saved_is_spent() {
        let budget = LateBudget::default();
        assert_eq!((0..1000).filter(|_| budget.allows()).count(), 100);
        let allowed = (0..1000).filter(|_| {
            budget.earn(1);
            budget.allows()
        });
        assert_eq!(allowed.count(), 100);
        budget.earn(u32::MAX);
        assert_eq!((0..1000).filter(|_| budget.allows()).count(), 100, "no more is saved");
    }
}
