//! Tells other owners of this node's trees of hashes.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::dynamo::key::VnodeId;
use crate::dynamo::standing::Standing;
use crate::error::RequestError;
use crate::transport::{TreeReply, TreeRequest};

impl Shared {
    /// Answers a question about trees of partitions that this node owns.
    pub(super) async fn trees(
        &self,
        asked: TreeRequest,
        wait: Duration,
    ) -> Result<TreeReply, RequestError> {
        let (shards, deadline) = (self.coordinator.shards(), Instant::now() + wait);
        let owned = |vnode: VnodeId| self.owned(vnode).map(|_| vnode);
        Ok(match asked {
            TreeRequest::Summaries(vnodes) => {
                // What is still being filled differs everywhere, and is told everything in any case.
                let is_whole = |vnode| self.coordinator.standings().of(vnode) == Standing::Good;
                let owned = |vnode: &VnodeId| self.owned(*vnode).is_ok() && is_whole(*vnode);
                let ours: Vec<VnodeId> = vnodes.iter().copied().filter(owned).collect();
                let summaries = shards.summaries(&ours, deadline).await?;
                let mut told = ours.into_iter().zip(summaries).peekable();
                let one = |vnode| told.next_if(|(id, _)| *id == vnode).and_then(|(_, told)| told);
                TreeReply::Summaries(vnodes.into_iter().map(one).collect())
            }
            TreeRequest::Branches(vnode, branches) => {
                TreeReply::Branches(shards.children(owned(vnode)?, branches, deadline).await?)
            }
            TreeRequest::Leaves(vnode, leaves) => {
                let (listings, damaged) = shards.list(owned(vnode)?, leaves, deadline).await?;
                for (namespace, key) in damaged {
                    self.coordinator.mend_here(namespace, key);
                }
                TreeReply::Leaves(listings)
            }
            TreeRequest::Names(vnode, places) => {
                TreeReply::Names(shards.names_at(owned(vnode)?, places, deadline).await?)
            }
        })
    }
}
