//! Tells other owners what this node has seen, so that they can fetch what they have not.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::dynamo::exchange::{Answer, Compared, fingerprint};
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{NodeId, VnodeId};
use crate::error::RequestError;
use crate::transport::Reply;

/// Frontiers of one answer, in dots' ranges and actors: beyond that the rest is left for the next time.
const RANGES_MAX: usize = 64 << 10;

/// What room is left in an answer.
struct Room(usize);

impl Room {
    /// Whether these have room. The first ones have in any case, or they would never be told.
    fn take<'a>(&mut self, seen: impl Iterator<Item = &'a Frontier>) -> bool {
        let ranges = seen.flat_map(Frontier::iter).map(|(_, seen)| 1 + seen.ranges().len());
        let needed: usize = ranges.sum();
        let first = self.0 == RANGES_MAX;
        match self.0.checked_sub(needed) {
            Some(left) => self.0 = left,
            None if first => self.0 = 0,
            None => return false,
        }
        true
    }
}

impl Shared {
    /// What this node has seen of partitions, and has on disk: of each that it owns, if that is not just
    /// what the other one has seen. And what it remembers of that one, if it is to recall.
    pub(super) async fn frontiers(
        &self,
        (from, recall): (NodeId, bool),
        asked: Vec<(VnodeId, u64)>,
        wait: Duration,
    ) -> Result<Reply, RequestError> {
        let standings = self.coordinator.standings();
        let settled = asked.iter().all(|(vnode, _)| standings.is_remembered(*vnode, from));
        let owned = |(vnode, _): &&(VnodeId, u64)| self.owned(*vnode).is_ok();
        let vnodes: Vec<VnodeId> = asked.iter().filter(owned).map(|(vnode, _)| *vnode).collect();
        let told = self.coordinator.shards().told_on_disk(&vnodes, Instant::now() + wait).await?;
        let mut told = vnodes.into_iter().zip(told).peekable();
        let mut room = Room(RANGES_MAX);
        let answers = asked.into_iter().map(|(vnode, theirs)| {
            let Some((_, Ok(told))) = told.next_if(|(id, _)| *id == vnode) else {
                return Answer { compared: Compared::Unsaid, remembered: None };
            };
            let remembered = standings.remembered(vnode, from).filter(|_| recall);
            let remembered = remembered.filter(|seen| fingerprint(seen) != theirs);
            let compared = match fingerprint(&told.frontier) == theirs && !told.recounting {
                true => Compared::Same,
                false => Compared::Differs(told),
            };
            let seen = match &compared {
                Compared::Differs(told) => Some(&told.frontier),
                Compared::Same | Compared::Unsaid => None,
            };
            match room.take(seen.into_iter().chain(&remembered)) {
                true => Answer { compared, remembered },
                false => Answer { compared: Compared::Unsaid, remembered: None },
            }
        });
        Ok(Reply::Frontiers { answers: answers.collect(), settled })
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
