//! The queue before a shard: who gets in, and what leaves it undone.
//!
//! Under overload, work is worth doing only if somebody still waits for it when it is done, and what
//! other nodes have begun is worth more than what nobody has. So a request whose deadline has passed
//! leaves the queue undone, and so does a new write that waited here for longer than is left to it:
//! the other owners' queues, which come after, are as long. Of the queue, the last quarter is for
//! writes that were begun elsewhere: they would else be refused for the sake of a read that another
//! owner can answer, or of a write that will need two replicas itself. The order is first in, first out: with short queues, last in, first
//! out would only make some requests wait for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::hints::HintJob;
use super::{Job, Shard, Shards, gone};
use crate::error::{RequestError, WriteError};
use crate::limits::retry_after_ms;
use crate::vnode::Write;

/// Which part of a queue is kept for what other nodes have begun: a fourth.
const KEPT_PART: usize = 4;

/// The weight of a turn in the average of how long a job takes.
const PACE_OF: u64 = 8;

impl Job {
    /// Whether no other node has done anything of it.
    fn is_new(&self) -> bool {
        !matches!(
            self,
            Self::Merge { .. }
                | Self::MergeBatch { .. }
                | Self::Hints(
                    HintJob::Take { .. } | HintJob::Delivered { .. } | HintJob::First { .. }
                )
        )
    }

    /// Answers that it was not done.
    fn refuse(self, error: RequestError) {
        // A requester that went away does not matter.
        match self {
            Self::Write { write, answer, .. } => {
                drop(answer.send(Err(WriteError::at_the_door(write.doubtful, error))));
            }
            Self::Merge { answer, .. } => drop(answer.send(Err(error))),
            Self::Read { answer, .. } => drop(answer.send(Err(error))),
            Self::WriteBatch { writes, answer, .. } => {
                let refused =
                    |write: Write| Err(WriteError::at_the_door(write.doubtful, error.clone()));
                drop(answer.send(writes.into_iter().map(refused).collect()));
            }
            Self::MergeBatch { merges, answer, .. } => {
                drop(answer.send(vec![Err(error); merges.len()]));
            }
            Self::ReadBatch { addresses, answer } => {
                drop(answer.send(vec![Err(error); addresses.len()]));
            }
            Self::LookUp { answer, .. } => drop(answer.send(Err(error))),
            Self::Hints(job) => job.refuse(error),
            Self::Exchange(job) => job.refuse(error),
            Self::Trees(job) => job.refuse(error),
            Self::Page { answer, .. } => drop(answer.send(Err(error))),
            Self::Purge { answer, .. } => drop(answer.send(Err(error))),
            Self::Sweep { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

/// A job in the queue.
pub(super) struct Queued {
    job: Job,
    since: Instant,
    /// When nobody waits for it any more; none: its requester waits for ever.
    deadline: Option<Instant>,
}

impl Queued {
    /// Why it is not worth doing any more, if so.
    fn stale(&self, now: Instant) -> Option<RequestError> {
        let left = self.deadline?.saturating_duration_since(now);
        if left.is_zero() {
            let waiting_for = "waiting in a shard's queue".to_owned();
            return Some(RequestError::Timeout { waiting_for });
        }
        let waited = now.saturating_duration_since(self.since);
        let new = matches!(
            self.job,
            Job::Write { .. } | Job::WriteBatch { .. } | Job::Hints(HintJob::Write { .. })
        );
        let hopeless = new && waited > left;
        hopeless.then(|| {
            let what = "a shard's queue".to_owned();
            RequestError::Overloaded { what, retry_after_ms: retry_after_ms(waited) }
        })
    }
}

impl Shard {
    /// What of the queue is worth doing, and since when it is done.
    pub(super) fn worthwhile(&self, queued: &mut Vec<Queued>, jobs: &mut Vec<Job>) -> Instant {
        let now = Instant::now();
        let mut expired = 0_u64;
        for queued in queued.drain(..) {
            match queued.stale(now) {
                None => jobs.push(queued.job),
                Some(error) => {
                    expired += queued.job.requests() as u64;
                    queued.job.refuse(error);
                }
            }
        }
        if expired > 0 {
            self.context.observer.expired(expired);
        }
        now
    }

    /// Learns how long so many jobs took.
    pub(super) fn learn_pace(&self, began: Instant, jobs: usize) {
        let Some(each) = (began.elapsed().as_nanos() as u64).checked_div(jobs as u64) else {
            return;
        };
        let average = self.pace.load(Relaxed);
        self.pace.store(average - average / PACE_OF + each / PACE_OF, Relaxed);
    }
}

/// The way to one shard.
pub(super) struct ShardQueue {
    pub(super) sender: mpsc::Sender<Queued>,
    pub(super) pace: Arc<AtomicU64>,
}

impl ShardQueue {
    /// Queues a job, unless the part of the queue that it may use is full.
    pub(super) fn offer(&self, job: Job, deadline: Instant) -> Result<(), RequestError> {
        let kept = if job.is_new() { self.sender.max_capacity() / KEPT_PART } else { 0 };
        let queued = Queued { job, since: Instant::now(), deadline: Some(deadline) };
        if self.sender.capacity() <= kept {
            return Err(self.full());
        }
        self.sender.try_send(queued).map_err(|error| match error {
            mpsc::error::TrySendError::Closed(_) => gone(),
            mpsc::error::TrySendError::Full(_) => self.full(),
        })
    }

    /// Waits until there is room: for work in the background.
    pub(super) async fn wait_for_room(&self, job: Job) -> Result<(), RequestError> {
        let queued = Queued { job, since: Instant::now(), deadline: None };
        self.sender.send(queued).await.map_err(|_| gone())
    }

    /// A client is to come back when what waits now is done.
    fn full(&self) -> RequestError {
        let waiting = (self.sender.max_capacity() - self.sender.capacity()) as u64;
        let wait = Duration::from_nanos(waiting.saturating_mul(self.pace.load(Relaxed)));
        let what = "a shard's queue".to_owned();
        RequestError::Overloaded { what, retry_after_ms: retry_after_ms(wait) }
    }
}

impl Shards {
    /// Refuses what would be written to a disk that takes nothing, before it has a dot.
    pub(super) fn take_writes(&self) -> Result<(), RequestError> {
        let Some(state) = self.disk.refusal() else { return Ok(()) };
        let reason = state.to_string();
        Err(match state.is_for_space() {
            true => RequestError::DiskFull { reason },
            false => RequestError::DiskFailed { reason },
        })
    }
}
