//! Hints that come home: merged by all shards, and on disk by one sync.

use futures::future::join_all;
use tokio::time::Instant;

use super::Shards;
use crate::dynamo::credit::Load;
use crate::error::RequestError;
use crate::vnode::Merge;

impl Shards {
    /// Merges objects of any shards, and answers for each once all of them are on disk. A sync for all
    /// spares the shards one each, during which they would do nothing else.
    pub async fn merge_home(
        &self,
        merges: Vec<Merge>,
        deadline: Instant,
    ) -> Vec<Result<(), RequestError>> {
        let mut merged = vec![Ok(()); merges.len()];
        let parts = self.split(merges, |merge| &merge.address).into_iter();
        let merging = parts.map(|part| async move {
            let answers = self.merge_batch(part.items, false, deadline).await;
            part.places.into_iter().zip(answers)
        });
        for (place, answer) in join_all(merging).await.into_iter().flatten() {
            merged[place] = answer;
        }
        planted!("hint_deleted_on_a_buffered_ack", { return merged });
        if merged.iter().any(Result::is_ok)
            && let Err(error) = self.sync().await
        {
            let done = merged.iter_mut().filter(|one| one.is_ok());
            done.for_each(|one| *one = Err(error.clone()));
        }
        merged
    }

    /// Returns once all that was applied before is on disk.
    pub(super) async fn sync(&self) -> Result<(), RequestError> {
        let engine = self.engine.clone();
        self.env.block(move || engine.sync()).await.map_err(RequestError::from)
    }

    /// How full the fullest queue is.
    pub fn load(&self) -> Load {
        let capacity = self.queues[0].sender.max_capacity();
        Load { queued: self.queued().max().unwrap_or(0), capacity }
    }
}
