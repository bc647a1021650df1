//! Many writes of one namespace: each as if it came alone, at a fraction of the cost.
//!
//! What costs per request is paid once for many keys: one job for each shard, one message to each
//! other owner. Each write keeps its own [`WriteOp`], so that what is told of one key depends on
//! that key's owners alone.
//!
//! ```text
//!   entries 1 2 3 4 ─► coordinators   here: 1 3 4        node 2: 2 (forwarded)
//!                      shards         0: 1 4   1: 3      dots, batches applied
//!                      owners         node 2: 1 3 4      node 3: 1 4
//! ```
//!
//! Invariants: entries of one key that are coordinated here are applied in the order of the batch;
//! the answer waits for every entry's verdict, or the deadline.

mod copies;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join, join_all};
use tokio::time::{Instant, timeout_at};

use self::copies::CopiesOfMany;
use super::apply::{Begun, late};
use super::copies::KEEP_TIMEOUT;
use super::elsewhere::{is_not_known_here, is_unheard};
use super::{PutEntry, PutRules, conclude, forward_failed};
use crate::coordinator::{Coordinator, Target, remaining, resolve};
use crate::dynamo::key::NodeId;
use crate::dynamo::operation::{Change, OperationId};
use crate::dynamo::quorum::Failure;
use crate::dynamo::write::WriteOp;
use crate::error::{RequestError, WriteError};
use crate::trace::Trace;
use crate::transport::{ForwardWrite, Reply, Request, WriteResult};
use crate::vnode::{Address, Write, Written};

/// A client's puts and deletes in one namespace.
#[derive(Clone, Debug)]
pub struct PutBatch {
    /// The namespace's name.
    pub namespace: String,
    /// What is written; or why that is refused.
    pub entries: Vec<Result<PutEntry, WriteError>>,
    /// How all of it is written.
    pub rules: PutRules,
    /// How long it may take.
    pub timeout: Duration,
}

/// A write and its place in the batch.
#[derive(Clone)]
struct Placed {
    place: usize,
    target: Target,
    forward: ForwardWrite,
}

/// The outcome of the write at a place.
type Outcome = (usize, Result<WriteResult, WriteError>);

/// A write on its way to this node's shard.
struct Prepared {
    running: Running,
    write: Write,
}

/// A write that may have its dot.
#[derive(Clone)]
struct Running {
    place: usize,
    target: Target,
    id: OperationId,
    op: WriteOp,
    /// The owners that are not waited for.
    away: Vec<Failure>,
}

/// What became of a write at this node's shard.
enum Applied {
    Ended(Result<Written, WriteError>),
    /// The record of its key is damaged, and nothing was written.
    Damaged(Write),
}

impl Coordinator {
    /// Runs a client's writes; an outcome for each, in their order. An error: none was applied.
    pub async fn put_batch(
        &self,
        batch: PutBatch,
    ) -> Result<Vec<Result<WriteResult, WriteError>>, RequestError> {
        let deadline = Instant::now() + batch.timeout;
        let (view, namespace) = self.namespace(&batch.namespace, deadline).await?;
        resolve(batch.rules.w, namespace.w, namespace.n)?;
        let count = batch.entries.len();
        let (mut groups, mut outcomes) = (BTreeMap::<_, Vec<Placed>>::new(), Vec::new());
        for (place, entry) in batch.entries.into_iter().enumerate() {
            let routed = entry.and_then(|entry| {
                let doubtful = entry.doubtful();
                let refused = |error| WriteError::at_the_door(doubtful, error);
                let target = Target::new(view.clone(), namespace.clone(), entry.key.clone());
                let forward = self.admit(entry, batch.rules, &target).map_err(refused)?;
                let to = self.coordinator_of(&target, &forward).map_err(refused)?;
                Ok((to, Placed { place, target, forward }))
            });
            match routed {
                Ok((to, placed)) => groups.entry(to).or_default().push(placed),
                Err(error) => outcomes.push((place, Err(error))),
            }
        }
        let run = |(to, group)| self.run_group(to, group, deadline);
        outcomes.extend(join_all(groups.into_iter().map(run)).await.into_iter().flatten());
        assert_eq!(outcomes.len(), count, "every entry has one outcome");
        outcomes.sort_by_key(|(place, _)| *place);
        Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    /// Runs writes that another node sent on.
    pub async fn put_batch_forwarded(
        &self,
        forwards: Vec<ForwardWrite>,
        timeout: Duration,
    ) -> Vec<Result<WriteResult, WriteError>> {
        let deadline = Instant::now() + timeout;
        let (mut group, mut outcomes) = (Vec::new(), Vec::new());
        for (place, forward) in forwards.into_iter().enumerate() {
            let doubtful = forward.doubtful();
            match self.coordinated_target(&forward) {
                Ok(target) => group.push(Placed { place, target, forward }),
                Err(error) => {
                    outcomes.push((place, Err(WriteError::at_the_door(doubtful, error))));
                }
            }
        }
        outcomes.extend(self.run_batch_or_finish(group, deadline).await);
        outcomes.sort_by_key(|(place, _)| *place);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    async fn run_group(&self, to: NodeId, group: Vec<Placed>, deadline: Instant) -> Vec<Outcome> {
        if to == self.node {
            return self.run_batch_or_finish(group, deadline).await;
        }
        let request = Request::ForwardWriteBatch(group.iter().map(|p| p.forward.clone()).collect());
        let by = group.iter().map(|p| self.named_by(&p.forward, deadline)).min();
        match self.peers.request(to, request, remaining(by.unwrap_or(deadline))).await {
            Ok(Reply::WriteBatch(outcomes)) if outcomes.len() == group.len() => {
                let outcomes = outcomes.into_iter().map(|o| o.map_err(WriteError::elsewhere));
                group.into_iter().map(|placed| placed.place).zip(outcomes).collect()
            }
            other => {
                let failed = group.into_iter().map(|Placed { place, target, forward }| {
                    let (id, doubtful) = (forward.operation, forward.doubtful());
                    let why = forward_failed(to, id, doubtful, &other);
                    async move {
                        if !is_unheard(&forward, &why) {
                            return (place, Err(why));
                        }
                        (place, self.elsewhere(&target, forward, why, deadline).await)
                    }
                });
                join_all(failed).await
            }
        }
    }

    /// Runs writes here; of those whose id names another node or opening, and of which nothing is known
    /// here, the other owners are asked.
    async fn run_batch_or_finish(&self, group: Vec<Placed>, deadline: Instant) -> Vec<Outcome> {
        // What others own is asked about where it is run alone.
        let owned = |placed: &&Placed| {
            placed.target.preference().is_ok_and(|list| list.is_owner(self.node))
        };
        let elsewheres = group.iter().filter(|placed| self.is_elsewheres(&placed.forward));
        let elsewheres = elsewheres.filter(owned);
        let mut asked: BTreeMap<usize, Placed> =
            elsewheres.map(|placed| (placed.place, placed.clone())).collect();
        let outcomes = self.run_batch(group, deadline).await;
        let finished = outcomes.into_iter().map(|(place, outcome)| {
            let placed = asked.remove(&place);
            async move {
                match (outcome, placed) {
                    (Err(why), Some(Placed { target, forward, .. })) if is_not_known_here(&why) => {
                        (place, self.finish_begun(&target, forward, why, deadline).await)
                    }
                    (outcome, _) => (place, outcome),
                }
            }
        });
        join_all(finished).await
    }

    /// Gives each write its dot here, then sends the objects to their other owners. Keys that others
    /// own are written one by one: a node stands in for all of their owners at once only if none of
    /// these can be reached. So are values that are to be looked for first.
    async fn run_batch(&self, group: Vec<Placed>, deadline: Instant) -> Vec<Outcome> {
        let owned = |placed: &Placed| {
            let looks = matches!(placed.forward.change, Change::Expire(_));
            !looks && placed.target.preference().is_ok_and(|list| list.is_owner(self.node))
        };
        let (own, others): (Vec<_>, Vec<_>) = group.into_iter().partition(owned);
        let alone = others.into_iter().map(|Placed { place, target, forward }| async move {
            (place, self.run_or_finish(&target, forward, deadline).await)
        });
        let (mut outcomes, alone) = join(self.run_own(own, deadline), join_all(alone)).await;
        outcomes.extend(alone);
        outcomes
    }

    async fn run_own(&self, group: Vec<Placed>, deadline: Instant) -> Vec<Outcome> {
        let synced = group.iter().any(|placed| placed.forward.synced);
        let (mut prepared, mut outcomes) = (Vec::with_capacity(group.len()), Vec::new());
        for placed in group {
            let (place, doubtful) = (placed.place, placed.forward.doubtful());
            match self.prepare_placed(placed) {
                Ok(ready) => prepared.push(ready),
                Err(error) => {
                    outcomes.push((place, Err(WriteError::at_the_door(doubtful, error))));
                }
            }
        }
        let parts = self.shards.split(prepared, |prepared| &prepared.write.address);
        let apply = parts.into_iter().map(|part| self.apply(part.items, synced, deadline));
        let mut copies = CopiesOfMany::new(synced, deadline);
        let applied = join_all(apply).await.into_iter().flatten().collect();
        for (running, applied) in self.mend_damaged(applied, synced, deadline).await {
            match applied {
                Ok(written) => copies.add(running, written),
                Err(error) => outcomes.push((running.place, Err(error))),
            }
        }
        self.collect_many(&mut copies).await;
        for (Running { place, target, id, op, .. }, written) in copies.writes() {
            self.mend_later(target, op.failures());
            outcomes.push((*place, conclude(target, op, written, *id)));
        }
        self.follow_up_many(copies);
        outcomes
    }

    fn prepare_placed(&self, placed: Placed) -> Result<Prepared, RequestError> {
        let Placed { place, target, forward } = placed;
        let (id, reach) = (forward.operation, self.reach(&target, &forward)?);
        let mut write = self.prepare(&target, forward)?;
        write.refusal = self.refused(&target, &write, &reach);
        let (op, away) = (WriteOp::new(reach.plan), reach.away);
        Ok(Prepared { running: Running { place, target, id, op, away }, write })
    }

    /// Has one shard apply its part. With a write whose record is damaged comes the write itself.
    async fn apply(
        &self,
        part: Vec<Prepared>,
        synced: bool,
        deadline: Instant,
    ) -> Vec<(Running, Applied)> {
        let split = |prepared: Prepared| (prepared.write, prepared.running);
        let (writes, running): (Vec<_>, Vec<_>) = part.into_iter().map(split).unzip();
        let (shards, again) = (self.shards.clone(), writes.clone());
        let mut writing = async move { shards.write_batch(writes, synced, deadline).await }.boxed();
        match timeout_at(deadline, &mut writing).await {
            Ok(written) => {
                let applied =
                    written.into_iter().zip(again).map(|(written, write)| match written {
                        Err(WriteError { error: RequestError::Damaged { .. }, .. }) => {
                            Applied::Damaged(write)
                        }
                        written => Applied::Ended(written),
                    });
                running.into_iter().zip(applied).collect()
            }
            Err(_) => {
                self.follow_up_late_many(running.clone(), synced, writing);
                let unknown = |id| Applied::Ended(Err(WriteError::unknown(id, late())));
                running
                    .into_iter()
                    .map(|write| (unknown(write.id), write))
                    .map(|(ended, write)| (write, ended))
                    .collect()
            }
        }
    }

    /// Once storage applies writes after all: as after an answer.
    fn follow_up_late_many(
        &self,
        running: Vec<Running>,
        synced: bool,
        writing: BoxFuture<'static, Vec<Result<Written, WriteError>>>,
    ) {
        let coordinator = self.clone();
        tokio::spawn(Trace::current().run(async move {
            let written = writing.await;
            let mut copies = CopiesOfMany::new(synced, Instant::now() + KEEP_TIMEOUT);
            for (running, written) in running.into_iter().zip(written) {
                if let Ok(written) = written {
                    copies.add(running, written);
                }
            }
            coordinator.collect_many(&mut copies).await;
            coordinator.follow_up_many(copies);
        }));
    }

    /// Writes again what met a damaged record, once this is mended: keys at the same time, writes
    /// of one key in their order.
    async fn mend_damaged(
        &self,
        applied: Vec<(Running, Applied)>,
        synced: bool,
        deadline: Instant,
    ) -> Vec<(Running, Result<Written, WriteError>)> {
        let mut ended = Vec::with_capacity(applied.len());
        let mut damaged: BTreeMap<Address, Vec<(Running, Write)>> = BTreeMap::new();
        for (running, applied) in applied {
            match applied {
                Applied::Ended(written) => ended.push((running, written)),
                Applied::Damaged(write) => {
                    damaged.entry(write.address.clone()).or_default().push((running, write));
                }
            }
        }
        let again = damaged.into_values().map(|writes| async move {
            let mut ended = Vec::with_capacity(writes.len());
            for (running, write) in writes {
                let Running { target, id, op, away, .. } = &running;
                let begun = Begun { target, id: *id, op, away, synced, deadline };
                let written = self.write_mended(begun, write).await;
                ended.push((running, written));
            }
            ended
        });
        ended.extend(join_all(again).await.into_iter().flatten());
        ended
    }
}
