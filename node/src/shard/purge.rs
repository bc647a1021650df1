//! A shard's part in purging: some values that expired, of some of its vnodes, in one turn.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Answer, Job, Shards, Staging, gone, shard_of};
use crate::dynamo::key::VnodeId;
use crate::error::RequestError;
use crate::vnode::Purged;

/// Rows of one job: requests wait for as many reads and writes.
const PURGED_AT_ONCE: usize = 128;

/// Up to when values of a partition may be purged.
pub type PurgeUntil = (VnodeId, u64);

impl Staging<'_> {
    pub(super) fn purge(
        &mut self,
        due: &[PurgeUntil],
        to: oneshot::Sender<Result<Purged, RequestError>>,
    ) {
        let mut purged = Purged::default();
        for &(vnode, until_ms) in due {
            self.touched.insert(vnode);
            let most = PURGED_AT_ONCE.saturating_sub(purged.values);
            let of_vnode = match self.context.vnode(self.vnodes, self.turn.rng, vnode) {
                Ok(vnode) => vnode.purge(&mut self.turn, until_ms, most),
                Err(error) => Err(error.into()),
            };
            match of_vnode {
                Ok(of_vnode) => purged += of_vnode,
                // What was staged stays: each object is purged by itself.
                Err(error) => return drop(to.send(Err(error))),
            }
        }
        self.answers.push(Answer::Purged(to, purged));
    }
}

impl Shards {
    /// Removes values that expired, some at a time, from each of these partitions.
    pub async fn purge(
        &self,
        due: Vec<PurgeUntil>,
        deadline: Instant,
    ) -> Result<Purged, RequestError> {
        self.take_writes()?;
        let mut parts = vec![Vec::new(); self.queues.len()];
        for (vnode, until_ms) in due {
            parts[shard_of(vnode.partition, self.queues.len())].push((vnode, until_ms));
        }
        let mut purged = Purged::default();
        for due in parts {
            let Some(&(vnode, _)) = due.first() else { continue };
            let (answer, wait) = oneshot::channel();
            self.queue(vnode.partition, Job::Purge { due, answer }, deadline)?;
            purged += wait.await.unwrap_or_else(|_| Err(gone()))?;
        }
        Ok(purged)
    }
}
