//! Jobs for hints: taken in and written as an owner's objects are, delivered queue by queue.
//!
//! ```text
//!   hint, write_hint, read_hint    the shard of the key's partition, staged with all others
//!   hints_delivered                the same, then the first place of the queue is looked for
//!   hint_page                      the shard that reads the target's queue, whoever wrote it
//! ```
//!
//! A queue is read by one shard and written by all: what it finds there may be gone or changed when
//! it is delivered, which is why a delivery names what was delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::sweep::{SWEEP_BATCH, SWEEP_BYTES, Swept, past};
use super::{Answer, Job, LiveNamespaces, Shard, Shards, Staging, batch, gone, shard_of};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::hint::{HintQueue, Hints};
use crate::dynamo::key::{NodeId, PartitionId, VnodeId};
use crate::error::{RequestError, WriteError};
use crate::limits::budget::Kind;
use crate::storage::hints::{self, Place};
use crate::storage::record;
use crate::storage::{Batch, EngineError, Space};
use crate::vnode::{Address, HintVnode, Hinted, KeptHint, Merge, Write, Written};

/// The most hints of one page.
const PAGE_MAX: usize = 1024;

/// Damaged rows of queues that are kept in mind. More are searched for anew each time.
const DAMAGED_MAX: usize = 1024;

/// Work on hints.
pub(super) enum HintJob {
    Take {
        hints: Vec<(Merge, NodeId)>,
        synced: bool,
        answer: oneshot::Sender<Vec<Result<(), RequestError>>>,
    },
    Write {
        write: Box<Write>,
        targets: Vec<NodeId>,
        synced: bool,
        answer: oneshot::Sender<Result<Written, WriteError>>,
    },
    Read {
        addresses: Vec<Address>,
        answer: oneshot::Sender<Vec<Result<EncodedObject, RequestError>>>,
    },
    Delivered {
        target: NodeId,
        hints: Vec<KeptHint>,
        answer: oneshot::Sender<Vec<Result<(), RequestError>>>,
    },
    Page {
        target: NodeId,
        after: u64,
        max_bytes: usize,
        answer: oneshot::Sender<Result<Vec<KeptHint>, RequestError>>,
    },
    First {
        target: NodeId,
        answer: oneshot::Sender<Result<(), RequestError>>,
    },
}

impl HintJob {
    /// How many requests it is.
    pub(super) fn requests(&self) -> usize {
        match self {
            Self::Take { hints, .. } => hints.len(),
            Self::Read { addresses, .. } => addresses.len(),
            Self::Delivered { hints, .. } => hints.len(),
            Self::Write { .. } | Self::Page { .. } | Self::First { .. } => 1,
        }
    }

    /// Answers that it was not done.
    pub(super) fn refuse(self, error: RequestError) {
        let requests = self.requests();
        match self {
            Self::Take { answer, .. } | Self::Delivered { answer, .. } => {
                drop(answer.send(vec![Err(error); requests]));
            }
            Self::Write { write, answer, .. } => {
                drop(answer.send(Err(WriteError::at_the_door(write.doubtful, error))));
            }
            Self::Read { answer, .. } => drop(answer.send(vec![Err(error); requests])),
            Self::Page { answer, .. } => drop(answer.send(Err(error))),
            Self::First { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

impl Staging<'_> {
    pub(super) fn stage_hints(&mut self, job: HintJob, alone: &mut Vec<Job>) {
        match job {
            HintJob::Take { hints, synced, answer } => {
                let taken = hints.into_iter().map(|(merge, target)| self.take_hint(merge, target));
                let taken: Vec<_> = taken.collect();
                if planted!("hint_acknowledged_before_the_batch") {
                    return drop(answer.send(taken));
                }
                let answer = Answer::Batch(batch::Answer::Merged(answer, taken));
                self.answer(synced, answer);
            }
            HintJob::Write { write, targets, synced, answer } => {
                let operation = write.operation;
                let answer = match self.write_hint(*write, &targets) {
                    Ok(written) => Answer::Written(answer, written, operation),
                    Err(refusal) => {
                        return self.answers.push(Answer::Refused(answer, refusal, operation));
                    }
                };
                self.answer(synced, answer);
            }
            HintJob::Read { addresses, answer } => {
                let found = addresses.iter().map(|address| self.read_hint(address)).collect();
                self.answers.push(Answer::Batch(batch::Answer::Read(answer, found)));
            }
            HintJob::Delivered { target, hints, answer } => {
                let delivered = hints.iter().map(|hint| self.hint_delivered(target, hint));
                let delivered = delivered.collect();
                self.answers.push(Answer::Batch(batch::Answer::Merged(answer, delivered)));
            }
            other @ (HintJob::Page { .. } | HintJob::First { .. }) => alone.push(Job::Hints(other)),
        }
    }

    fn take_hint(&mut self, merge: Merge, target: NodeId) -> Result<(), RequestError> {
        let vnode = Self::hint_vnode(self.hints, &mut self.hints_touched, merge.address.vnode);
        vnode.merge(&mut self.turn, merge, target)
    }

    fn write_hint(&mut self, write: Write, targets: &[NodeId]) -> Result<Written, WriteError> {
        let vnode = Self::hint_vnode(self.hints, &mut self.hints_touched, write.address.vnode);
        let written = vnode.write(&mut self.turn, write, targets);
        self.hold_written(written)
    }

    fn read_hint(&mut self, address: &Address) -> Result<EncodedObject, RequestError> {
        let vnode = Self::hint_vnode(self.hints, &mut self.hints_touched, address.vnode);
        let found = vnode.read(&mut self.turn, address)?;
        self.context.budget.hold(Kind::Reads, found.0).map(EncodedObject)
    }

    fn hint_delivered(&mut self, target: NodeId, hint: &KeptHint) -> Result<(), RequestError> {
        let vnode = Self::hint_vnode(self.hints, &mut self.hints_touched, hint.address.vnode);
        vnode.delivered(&mut self.turn, target, hint)
    }

    fn hint_vnode<'v>(
        vnodes: &'v mut BTreeMap<VnodeId, HintVnode>,
        touched: &mut BTreeSet<VnodeId>,
        id: VnodeId,
    ) -> &'v mut HintVnode {
        touched.insert(id);
        vnodes.entry(id).or_insert_with(|| HintVnode::new(id))
    }
}

impl Shard {
    pub(super) fn run_hints(&mut self, job: HintJob) {
        match job {
            HintJob::Page { target, after, max_bytes, answer } => {
                drop(answer.send(self.hint_page(target, after, max_bytes)));
            }
            HintJob::First { target, answer } => drop(answer.send(self.first_hint(target))),
            _ => unreachable!("work on keys is staged"),
        }
    }

    /// The next hints of a queue, in its order. What is damaged is counted and left out.
    fn hint_page(
        &mut self,
        target: NodeId,
        after: u64,
        max_bytes: usize,
    ) -> Result<Vec<KeptHint>, RequestError> {
        let engine = self.context.engine.clone();
        let (mut page, mut bytes) = (Vec::new(), 0);
        for row in hints::scan_queue(&*engine, target, after) {
            let (key, sealed) = row.map_err(RequestError::from)?;
            let Some((_, seq)) = hints::place_of(&key) else { continue };
            let place = match hints::open_place(&key, &sealed) {
                Ok(place) => Some(place),
                Err(_) => self.damaged_place(target, seq)?,
            };
            let Some(hint) = place.map(|place| self.kept_at(seq, place)).transpose()?.flatten()
            else {
                continue;
            };
            bytes += hint.address.key.as_bytes().len() + hint.object.0.len();
            if page.len() == PAGE_MAX || (bytes > max_bytes && !page.is_empty()) {
                break;
            }
            page.push(hint);
        }
        let Some(charge) = self.context.budget.take_if_large(Kind::Scans, bytes)? else {
            return Ok(page);
        };
        let charge = Arc::new(charge);
        for KeptHint { object, .. } in &mut page {
            object.0 = charge.shared_with(std::mem::take(&mut object.0));
        }
        Ok(page)
    }

    /// The hint at a place; none if it is gone, or damaged.
    fn kept_at(&mut self, seq: u64, place: Place) -> Result<Option<KeptHint>, RequestError> {
        let Place { object: stored, .. } = place;
        let Some((id, namespace, key)) = record::split_object_key(&stored) else {
            return Ok(None);
        };
        let opened = match self.context.engine.get(Space::Hints, &stored) {
            Ok(None) => return Ok(None),
            Ok(Some(sealed)) => record::open(&stored, &sealed).ok().map(EncodedObject),
            Err(EngineError::Corrupt { .. }) => None,
            Err(error) => return Err(RequestError::from(error)),
        };
        let ruled = opened.and_then(|object| Some((object.rule()?, object)));
        let Some((conflict, object)) = ruled else {
            let vnode = self.hints.entry(id).or_insert_with(|| HintVnode::new(id));
            if vnode.distrust(&stored, key.hash(namespace)) {
                self.context.observer.corrupt(Space::Hints, 1);
            }
            return Ok(None);
        };
        let address = Address { vnode: id, namespace, key, conflict };
        Ok(Some(KeptHint { address, object, seq }))
    }

    /// What lies at a place whose row is damaged, if anything can tell.
    fn damaged_place(&mut self, target: NodeId, seq: u64) -> Result<Option<Place>, RequestError> {
        if let Some(known) = self.damaged_places.get(&(target, seq)) {
            return Ok(known.clone());
        }
        self.context.observer.corrupt(Space::Hints, 1);
        tracing::error!(%target, seq, "a row of a queue of hints is damaged; all hints are searched");
        let found = hints::places_by_objects(&*self.context.engine, target, &[seq].into());
        let found = found.map_err(RequestError::from)?.remove(&seq);
        if self.damaged_places.len() < DAMAGED_MAX {
            self.damaged_places.insert((target, seq), found.clone());
        }
        Ok(found)
    }

    /// Where a queue begins now.
    fn first_hint(&self, target: NodeId) -> Result<(), RequestError> {
        let queues = &self.context.hints;
        let after = queues.look_for_first(target);
        let first = hints::scan_queue(&*self.context.engine, target, after).next();
        let first = first.transpose().map_err(RequestError::from)?;
        let first = first.and_then(|(key, sealed)| {
            let (_, seq) = hints::place_of(&key)?;
            let now_ms = || self.context.env.now_ms();
            let since_ms =
                hints::open_place(&key, &sealed).map_or_else(|_| now_ms(), |p| p.since_ms);
            Some((seq, since_ms))
        });
        queues.found_first(target, first);
        Ok(())
    }

    /// Drops hints of namespaces that are no more, of one namespace in one vnode, and ends the actor.
    pub(super) fn sweep_hints(
        &mut self,
        live: &LiveNamespaces,
        after: Bytes,
    ) -> Result<Swept, RequestError> {
        let engine = self.context.engine.clone();
        let first = hints::scan_owed(&*engine, after.clone()).next().transpose();
        let Some((key, _)) = first.map_err(RequestError::from)? else {
            return Ok(Swept { rows: 0, next: None });
        };
        let split = hints::object_of(&key).and_then(|object| record::split_object_key(&object));
        let Some((id, namespace, _)) = split else {
            return Ok(Swept { rows: 0, next: Some(key) });
        };
        if !self.owns(id) {
            let next = past(&hints::owed_key(&record::vnode_prefix(id)));
            return Ok(Swept { rows: 0, next: Some(next) });
        }
        let prefix = hints::owed_key(&record::namespace_prefix(id, namespace));
        if !live.dropped(namespace) {
            return Ok(Swept { rows: 0, next: Some(past(&prefix)) });
        }
        self.hints.entry(id).and_modify(HintVnode::end_actor);
        let (mut batch, mut hinted) = (Batch::new(), Hinted::default());
        let (mut rows, mut next) = (0, past(&prefix));
        for row in hints::scan_owed(&*engine, after) {
            let (key, sealed) = row.map_err(RequestError::from)?;
            if !key.starts_with(&prefix) {
                break;
            }
            let queues = &self.context.hints;
            queues.stage_drop(&*engine, (&key, &sealed), &mut batch, &mut hinted)?;
            rows += 1;
            if batch.len() >= SWEEP_BATCH || batch.bytes() >= SWEEP_BYTES {
                next = key;
                break;
            }
        }
        let dropped = self.apply_alone(batch);
        match &dropped {
            Ok(()) => self.context.hints.applied(&hinted),
            Err(_) => self.context.hints.failed(&hinted),
        }
        dropped.map(|()| Swept { rows, next: Some(next) })
    }
}

impl Shards {
    /// Keeps an object for a target that missed it; `synced`: answers once it is on disk. An error
    /// means that it is not to be counted on.
    pub async fn hint(
        &self,
        merge: Merge,
        target: NodeId,
        synced: bool,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let taken = self.hint_batch(vec![(merge, target)], synced, deadline).await;
        taken.into_iter().next().unwrap_or_else(|| Err(gone()))
    }

    /// Keeps objects of one shard, at least one; with `synced` it answers once they are on disk.
    pub async fn hint_batch(
        &self,
        hints: Vec<(Merge, NodeId)>,
        synced: bool,
        deadline: Instant,
    ) -> Vec<Result<(), RequestError>> {
        let partition = self.shared_partition(hints.iter().map(|(merge, _)| &merge.address));
        let count = hints.len();
        let (answer, wait) = oneshot::channel();
        let job = Job::Hints(HintJob::Take { hints, synced, answer });
        if let Err(error) = self.take_writes().and_then(|()| self.queue(partition, job, deadline)) {
            return vec![Err(error); count];
        }
        wait.await.unwrap_or_else(|_| vec![Err(gone()); count])
    }

    /// Coordinates a write in the place of owners that cannot, who are owed it from then on, at
    /// least one; `synced`: answers once it is on disk.
    pub async fn write_hint(
        &self,
        write: Write,
        targets: Vec<NodeId>,
        synced: bool,
        deadline: Instant,
    ) -> Result<Written, WriteError> {
        let (vnode, operation, doubtful) = (write.address.vnode, write.operation, write.doubtful);
        self.take_writes().map_err(|error| WriteError::at_the_door(doubtful, error))?;
        let (answer, wait) = oneshot::channel();
        let write = Box::new(write);
        let job = Job::Hints(HintJob::Write { write, targets, synced, answer });
        let queued = self.queue(vnode.partition, job, deadline);
        queued.map_err(|error| WriteError::at_the_door(doubtful, error))?;
        wait.await.unwrap_or_else(|_| Err(WriteError::unknown(operation, gone())))
    }

    /// What is kept of a key for others; the absent object if nothing is.
    pub async fn read_hint(
        &self,
        address: Address,
        deadline: Instant,
    ) -> Result<EncodedObject, RequestError> {
        let found = self.read_hint_batch(vec![address], deadline).await;
        found.into_iter().next().unwrap_or_else(|| Err(gone()))
    }

    /// What is kept of keys of one shard, at least one.
    pub async fn read_hint_batch(
        &self,
        addresses: Vec<Address>,
        deadline: Instant,
    ) -> Vec<Result<EncodedObject, RequestError>> {
        let (count, partition) = (addresses.len(), self.shared_partition(addresses.iter()));
        if self.hints.is_empty() {
            return vec![Ok(EncodedObject::default()); count];
        }
        let (answer, wait) = oneshot::channel();
        let job = Job::Hints(HintJob::Read { addresses, answer });
        if let Err(error) = self.queue(partition, job, deadline) {
            return vec![Err(error); count];
        }
        wait.await.unwrap_or_else(|_| vec![Err(gone()); count])
    }

    /// What is kept for whom, as far as it could be read. In memory: it may be asked all the time.
    pub fn hint_queues(&self) -> Vec<HintQueue> {
        self.hints.list(self.env.now_ms())
    }

    /// The same, if nothing is missing from it: else whoever is not named may be owed hints too.
    pub fn all_hints(&self) -> Result<Hints, RequestError> {
        if self.hints.is_partial() {
            let reason =
                "rows of hints are damaged: not all who are owed some are known".to_owned();
            return Err(RequestError::Data { reason });
        }
        Ok(Hints { queues: self.hint_queues(), full: self.hints.are_full() })
    }

    /// What all hints take, in bytes of keys and objects.
    pub fn hints_bytes(&self) -> u64 {
        self.hints.bytes()
    }

    /// The oldest hints for a target, oldest first: at most so many bytes, but one if there is any.
    pub async fn hint_page(
        &self,
        target: NodeId,
        max_bytes: usize,
        deadline: Instant,
    ) -> Result<Vec<KeptHint>, RequestError> {
        self.hint_page_after(target, 0, max_bytes, deadline).await
    }

    /// The same, of those with a number above this one: to pass by what the target does not take.
    pub async fn hint_page_after(
        &self,
        target: NodeId,
        after: u64,
        max_bytes: usize,
        deadline: Instant,
    ) -> Result<Vec<KeptHint>, RequestError> {
        let (answer, wait) = oneshot::channel();
        let job = Job::Hints(HintJob::Page { target, after, max_bytes, answer });
        self.queue(reader_of(target), job, deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The target has these on disk: they are owed no more, but for what came to them since. An error
    /// means that some may be owed still.
    pub async fn hints_delivered(
        &self,
        target: NodeId,
        delivered: Vec<KeptHint>,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let parts = self.split(delivered, |hint| &hint.address);
        let tell = parts.into_iter().map(|part| self.tell_delivered(target, part.items, deadline));
        let told = join_all(tell).await.into_iter().flatten().collect();
        let (answer, wait) = oneshot::channel();
        let job = Job::Hints(HintJob::First { target, answer });
        self.queue(reader_of(target), job, deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone())).and(told)
    }

    async fn tell_delivered(
        &self,
        target: NodeId,
        hints: Vec<KeptHint>,
        deadline: Instant,
    ) -> Vec<Result<(), RequestError>> {
        let partition = self.shared_partition(hints.iter().map(|hint| &hint.address));
        let (answer, wait) = oneshot::channel();
        let job = Job::Hints(HintJob::Delivered { target, hints, answer });
        if let Err(error) = self.queue(partition, job, deadline) {
            return vec![Err(error)];
        }
        wait.await.unwrap_or_else(|_| vec![Err(gone())])
    }

    /// Looks where every queue begins: after hints were dropped.
    pub(super) async fn look_for_firsts(&self) -> Result<(), RequestError> {
        for target in self.hints.targets() {
            let (answer, wait) = oneshot::channel();
            let queue = &self.queues[shard_of(reader_of(target), self.queues.len())];
            queue.wait_for_room(Job::Hints(HintJob::First { target, answer })).await?;
            wait.await.unwrap_or_else(|_| Err(gone()))?;
        }
        Ok(())
    }
}

/// A partition of the shard that reads a target's queue.
fn reader_of(target: NodeId) -> PartitionId {
    PartitionId(target.0 as u16)
}
