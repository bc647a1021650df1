//! Many keys as one job: one place in the queue, one turn, one answer.
//!
//! ```text
//!   keys 1 2 3 4 ──► split ──► shard 0: 1 3   shard 1: 2 4      a job each
//! ```

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Job, Shards, Staging, gone, shard_of};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::operation::OperationId;
use crate::error::{Outcome, RequestError, WriteError};
use crate::vnode::{Address, Merge, Write, Written};

/// What of a batch belongs to one shard, in the order of the batch.
#[derive(Clone, Debug)]
pub struct ShardPart<T> {
    /// The places of the items in the batch.
    pub places: Vec<usize>,
    /// The items.
    pub items: Vec<T>,
}

/// The answer to a job of many keys.
pub(super) enum Answer {
    Written(
        oneshot::Sender<Vec<Result<Written, WriteError>>>,
        Vec<Result<Written, WriteError>>,
        Vec<OperationId>,
    ),
    Merged(oneshot::Sender<Vec<Result<(), RequestError>>>, Vec<Result<(), RequestError>>),
    Read(
        oneshot::Sender<Vec<Result<EncodedObject, RequestError>>>,
        Vec<Result<EncodedObject, RequestError>>,
    ),
}

impl Answer {
    /// Answers after the engine's batch, which may have failed: then nothing of it was done for
    /// certain, nor was a refusal recorded.
    pub(super) fn send(self, failed: Option<RequestError>) {
        match (self, failed) {
            (Self::Written(to, written, ids), Some(error)) => {
                let failed = |written, id| match written {
                    Ok(_) => WriteError::unknown(id, error.clone()),
                    Err(refusal) => unrecorded(refusal, id, error.clone()),
                };
                let failed = written.into_iter().zip(ids).map(|(w, id)| Err(failed(w, id)));
                drop(to.send(failed.collect()));
            }
            (Self::Written(to, written, _), None) => drop(to.send(written)),
            (Self::Merged(to, merged), failed) => drop(to.send(unless(merged, failed))),
            (Self::Read(to, found), failed) => drop(to.send(unless(found, failed))),
        }
    }
}

/// What is known of a refused write whose refusal may not be recorded, since the engine's batch failed:
/// a copy of the request that is still under way would be taken for new, and be applied. A damaged
/// record is no refusal yet: it is for the coordinator to mend.
pub(super) fn unrecorded(refusal: WriteError, id: OperationId, failed: RequestError) -> WriteError {
    match (&refusal.error, refusal.outcome) {
        (RequestError::Damaged { .. }, _) | (_, Outcome::Unknown(_)) => refusal,
        (_, Outcome::NotApplied) => WriteError::unknown(id, failed),
    }
}

pub(super) fn unless<T>(
    mut results: Vec<Result<T, RequestError>>,
    failed: Option<RequestError>,
) -> Vec<Result<T, RequestError>> {
    if let Some(error) = failed {
        let done = results.iter_mut().filter(|result| result.is_ok());
        done.for_each(|result| *result = Err(error.clone()));
    }
    results
}

impl Staging<'_> {
    pub(super) fn write_batch(
        &mut self,
        writes: Vec<Write>,
        synced: bool,
        to: oneshot::Sender<Vec<Result<Written, WriteError>>>,
    ) {
        let ids = writes.iter().map(|write| write.operation).collect();
        let written = writes.into_iter().map(|write| self.stage_write(write)).collect();
        self.answer(synced, super::Answer::Batch(Answer::Written(to, written, ids)));
    }

    pub(super) fn merge_batch(
        &mut self,
        merges: Vec<Merge>,
        synced: bool,
        to: oneshot::Sender<Vec<Result<(), RequestError>>>,
    ) {
        let merged = merges.into_iter().map(|merge| self.stage_merge(merge)).collect();
        self.answer(synced, super::Answer::Batch(Answer::Merged(to, merged)));
    }

    pub(super) fn read_batch(
        &mut self,
        addresses: &[Address],
        to: oneshot::Sender<Vec<Result<EncodedObject, RequestError>>>,
    ) {
        let found = addresses.iter().map(|address| self.stage_read(address)).collect();
        self.answers.push(super::Answer::Batch(Answer::Read(to, found)));
    }
}

impl Shards {
    /// Splits a batch by the shards that own its items.
    pub fn split<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        address: impl Fn(&T) -> &Address,
    ) -> Vec<ShardPart<T>> {
        let count = self.queues.len();
        let empty = || ShardPart { places: Vec::new(), items: Vec::new() };
        let mut parts: Vec<ShardPart<T>> = (0..count).map(|_| empty()).collect();
        for (place, item) in items.into_iter().enumerate() {
            let part = &mut parts[shard_of(address(&item).vnode.partition, count)];
            part.places.push(place);
            part.items.push(item);
        }
        parts.retain(|part| !part.items.is_empty());
        parts
    }

    /// Coordinates writes of one shard, at least one, in their order; an outcome for each. With
    /// `synced` it answers once they are on disk.
    pub async fn write_batch(
        &self,
        writes: Vec<Write>,
        synced: bool,
        deadline: Instant,
    ) -> Vec<Result<Written, WriteError>> {
        let partition = self.shared_partition(writes.iter().map(|write| &write.address));
        let ids: Vec<_> = writes.iter().map(|write| (write.operation, write.doubtful)).collect();
        let (answer, wait) = oneshot::channel();
        let job = Job::WriteBatch { writes, synced, answer };
        if let Err(error) = self.take_writes().and_then(|()| self.queue(partition, job, deadline)) {
            let refused = |&(_, doubtful)| Err(WriteError::at_the_door(doubtful, error.clone()));
            return ids.iter().map(refused).collect();
        }
        let lost = |_| ids.iter().map(|&(id, _)| Err(WriteError::unknown(id, gone()))).collect();
        wait.await.unwrap_or_else(lost)
    }

    /// Merges objects of one shard, at least one; with `synced` it answers once they are on disk.
    pub async fn merge_batch(
        &self,
        merges: Vec<Merge>,
        synced: bool,
        deadline: Instant,
    ) -> Vec<Result<(), RequestError>> {
        let partition = self.shared_partition(merges.iter().map(|merge| &merge.address));
        let count = merges.len();
        let (answer, wait) = oneshot::channel();
        let job = Job::MergeBatch { merges, synced, answer };
        if let Err(error) = self.take_writes().and_then(|()| self.queue(partition, job, deadline)) {
            return vec![Err(error); count];
        }
        wait.await.unwrap_or_else(|_| vec![Err(gone()); count])
    }

    /// What is held under keys of one shard, at least one.
    pub async fn read_batch(
        &self,
        addresses: Vec<Address>,
        deadline: Instant,
    ) -> Vec<Result<EncodedObject, RequestError>> {
        let partition = self.shared_partition(addresses.iter());
        let count = addresses.len();
        let (answer, wait) = oneshot::channel();
        if let Err(error) = self.queue(partition, Job::ReadBatch { addresses, answer }, deadline) {
            return vec![Err(error); count];
        }
        wait.await.unwrap_or_else(|_| vec![Err(gone()); count])
    }

    /// A partition of the shard that owns all of these.
    pub(super) fn shared_partition<'a>(
        &self,
        mut addresses: impl Iterator<Item = &'a Address>,
    ) -> crate::dynamo::key::PartitionId {
        let first = addresses.next().expect("a part of a batch is not empty").vnode.partition;
        let shard = shard_of(first, self.queues.len());
        let same = |other: &Address| shard_of(other.vnode.partition, self.queues.len()) == shard;
        assert!(addresses.all(same), "a job goes to one shard");
        first
    }
}
