//! Tells other owners what this node has seen, so that they can fetch what they have not.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::dynamo::exchange::{Compared, fingerprint};
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::VnodeId;
use crate::error::RequestError;
use crate::transport::Reply;

/// Frontiers of one answer, in dots' ranges and actors: beyond that the rest is left for the next time.
const RANGES_MAX: usize = 64 << 10;

impl Shared {
    /// What this node has seen of partitions, and has on disk: of each that it owns, if that is not just
    /// what the other one has seen.
    pub(super) async fn frontiers(
        &self,
        asked: Vec<(VnodeId, u64)>,
        wait: Duration,
    ) -> Result<Reply, RequestError> {
        let owned = |(vnode, _): &&(VnodeId, u64)| self.owned(*vnode).is_ok();
        let vnodes: Vec<VnodeId> = asked.iter().filter(owned).map(|(vnode, _)| *vnode).collect();
        let told = self.coordinator.shards().told_on_disk(&vnodes, Instant::now() + wait).await?;
        let mut told = vnodes.into_iter().zip(told).peekable();
        let mut room = RANGES_MAX;
        let compared = asked.into_iter().map(|(vnode, theirs)| {
            let Some((_, Ok(told))) = told.next_if(|(id, _)| *id == vnode) else {
                return Compared::Unsaid;
            };
            if fingerprint(&told.frontier) == theirs {
                return Compared::Same;
            }
            let size = |seen: &Frontier| seen.iter().map(|(_, seen)| 1 + seen.ranges().len()).sum();
            match room.checked_sub(size(&told.frontier)) {
                Some(left) => room = left,
                // The first one has room in any case, or it would never be told.
                None if room == RANGES_MAX => room = 0,
                None => return Compared::Unsaid,
            }
            Compared::Differs(told)
        });
        Ok(Reply::Frontiers(compared.collect()))
    }

    /// Of which keys dots are.
    pub(super) async fn keys_of(
        &self,
        vnode: VnodeId,
        dots: Frontier,
        wait: Duration,
    ) -> Result<Reply, RequestError> {
        self.owned(vnode)?;
        let keys = self.coordinator.shards().keys_of(vnode, dots, Instant::now() + wait).await?;
        Ok(Reply::Keys(keys))
    }
}
