//! Takes home the hints that others kept for this node, at the pace that it can take them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::dynamo::credit::Credits;
use crate::dynamo::key::NodeId;
use crate::error::RequestError;
use crate::transport::{Replicate, Reply};
use crate::vnode::Merge;

/// Who may bring how much.
pub(super) struct Welcome {
    credits: Mutex<Credits>,
    /// Time is counted from here.
    since: Instant,
}

impl Welcome {
    /// Of a node with so much memory for requests, in bytes.
    pub(super) fn new(memory: u64) -> Self {
        Self { credits: Mutex::new(Credits::new(memory)), since: Instant::now() }
    }

    fn credits(&self) -> (MutexGuard<'_, Credits>, u64) {
        let credits = self.credits.lock().unwrap_or_else(PoisonError::into_inner);
        (credits, self.since.elapsed().as_millis() as u64)
    }
}

impl Shared {
    /// Merges what another node kept as hints, and says what it may send next. An item that is not
    /// acknowledged stays with the sender.
    pub(super) async fn take_home(
        &self,
        from: NodeId,
        items: Vec<Replicate>,
        wait: Duration,
    ) -> Reply {
        let taken = match items.is_empty() || self.is_granted(from, &items) {
            true => self.merge_home(items, wait).await,
            false => vec![Err(no_credit()); items.len()],
        };
        let load = self.coordinator.shards().load();
        let (mut credits, now_ms) = self.welcome.credits();
        Reply::Handoff { taken, credit: credits.next(from, load, now_ms) }
    }

    fn is_granted(&self, from: NodeId, items: &[Replicate]) -> bool {
        let bytes = items.iter().map(|item| item.object.0.len() as u64).sum();
        let (mut credits, now_ms) = self.welcome.credits();
        credits.on_hints(from, items.len(), bytes, now_ms)
    }

    /// As repairs do, and on disk before the answer: what is acknowledged is deleted where it was kept.
    /// Where the record is damaged nothing can be merged: it is mended meanwhile, and a later round brings
    /// the hint again.
    async fn merge_home(
        &self,
        items: Vec<Replicate>,
        wait: Duration,
    ) -> Vec<Result<(), RequestError>> {
        let deadline = Instant::now() + wait;
        let mut taken = vec![Ok(()); items.len()];
        let (mut places, mut merges) = (Vec::new(), Vec::new());
        for (place, Replicate { namespace, key, object, .. }) in items.into_iter().enumerate() {
            match self.address(namespace, key) {
                Ok(address) => {
                    places.push((place, address.namespace, address.key.clone()));
                    merges.push(Merge::of_hint(address, object));
                }
                Err(error) => taken[place] = Err(error),
            }
        }
        let merged = self.coordinator.shards().merge_home(merges, deadline).await;
        for ((place, namespace, key), merged) in places.into_iter().zip(merged) {
            if let Err(RequestError::Damaged { .. }) = merged {
                self.coordinator.mend_here(namespace, key);
            }
            taken[place] = merged;
        }
        taken
    }
}

fn no_credit() -> RequestError {
    let what = "what this node takes of hints at once".to_owned();
    RequestError::Overloaded { what, retry_after_ms: 0 }
}
