//! Forgetting, some at a time between turns: objects of dropped namespaces, and operations past their
//! time.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Job, Shard, Shards, gone};
use crate::dynamo::format::decode_recorded;
use crate::dynamo::key::{KEY_MAX_BYTES, NamespaceId, VnodeId};
use crate::dynamo::operation::Recorded;
use crate::error::RequestError;
use crate::storage::record;
use crate::storage::{Batch, KeyRange, Space};

/// The most rows that one step looks at, and about how many bytes of them: requests wait for it.
pub(super) const SWEEP_BATCH: usize = 1024;
pub(super) const SWEEP_BYTES: usize = 1 << 20;

/// The namespaces of one version of the metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveNamespaces {
    /// Those that exist.
    pub known: BTreeSet<NamespaceId>,
    /// The id that the next one gets: whatever is not below it is younger than this version, and
    /// may be written to before a sweep by this version has ended.
    pub next: NamespaceId,
}

impl LiveNamespaces {
    pub(super) fn dropped(&self, id: NamespaceId) -> bool {
        id < self.next && !self.known.contains(&id)
    }
}

/// What a sweep leaves.
pub(super) enum Kept {
    /// The objects of these namespaces.
    Namespaces(LiveNamespaces),
    /// The hints of these namespaces.
    Hints(LiveNamespaces),
    /// Operations issued within this time, in milliseconds since the Unix epoch.
    Operations(Range<u64>),
}

/// One step of a sweep.
pub(super) struct Swept {
    /// How many rows it deleted.
    pub(super) rows: u64,
    /// The key behind which the next one begins; none after the last.
    pub(super) next: Option<Bytes>,
}

impl Shards {
    /// Deletes the objects and hints of namespaces that were dropped by then, a batch at a time; how
    /// many.
    pub async fn sweep(&self, live: LiveNamespaces) -> Result<u64, RequestError> {
        let objects = self.sweep_all(Kept::Namespaces(live.clone())).await?;
        let hints = self.sweep_all(Kept::Hints(live)).await?;
        if hints > 0 {
            self.look_for_firsts().await?;
        }
        Ok(objects + hints)
    }

    /// Forgets the operations issued before or after these times, a batch at a time; how many.
    /// Retries of them are refused by their age. Of the later ones those stay that were done here
    /// under an id which names this node and its present opening: when their time comes, nothing
    /// else would tell that they are not new.
    pub async fn forget_operations(&self, kept_ms: Range<u64>) -> Result<u64, RequestError> {
        self.sweep_all(Kept::Operations(kept_ms)).await
    }

    async fn sweep_all(&self, kept: Kept) -> Result<u64, RequestError> {
        let (kept, mut rows) = (Arc::new(kept), 0);
        for queue in self.queues.iter() {
            let mut next = Some(Bytes::new());
            while let Some(after) = next {
                let (answer, wait) = oneshot::channel();
                queue.wait_for_room(Job::Sweep { kept: kept.clone(), after, answer }).await?;
                let swept = wait.await.unwrap_or_else(|_| Err(gone()))?;
                (rows, next) = (rows + swept.rows, swept.next);
            }
        }
        Ok(rows)
    }
}

impl Shard {
    /// Looks at the first vnode behind `after`, or at one namespace of it, and deletes some rows. So
    /// little at once, since a look may read a large record, and requests wait meanwhile.
    pub(super) fn sweep(&mut self, kept: &Kept, after: Bytes) -> Result<Swept, RequestError> {
        match kept {
            Kept::Namespaces(live) => self.sweep_namespaces(live, after),
            Kept::Hints(live) => self.sweep_hints(live, after),
            Kept::Operations(kept_ms) => self.sweep_operations(kept_ms, after),
        }
    }

    /// Ends the actor of the vnode, too.
    fn sweep_namespaces(
        &mut self,
        live: &LiveNamespaces,
        after: Bytes,
    ) -> Result<Swept, RequestError> {
        let Some((id, stored)) = self.first_vnode(Space::Objects, after.clone())? else {
            return Ok(Swept { rows: 0, next: None });
        };
        let namespace = record::split_object_key(&stored).map(|(_, namespace, _)| namespace);
        let Some(namespace) = namespace.filter(|_| self.owns(id)) else {
            return Ok(Swept { rows: 0, next: Some(past(&record::vnode_prefix(id))) });
        };
        let prefix = record::namespace_prefix(id, namespace);
        if !live.dropped(namespace) {
            return Ok(Swept { rows: 0, next: Some(past(&prefix)) });
        }
        let range = KeyRange::prefix(&prefix).after(after);
        // Its tree is ahead of a batch that is not applied.
        let found = self.objects(id, range).inspect_err(|_| drop(self.vnodes.remove(&id)));
        let (batch, rows, last) = found?;
        // First, since a batch that fails may have dropped them.
        self.vnode_of(id)?.end_actor();
        self.stage_alone(id, batch)?;
        Ok(Swept { rows, next: last.or(Some(past(&prefix))) })
    }

    /// The deletion of the first objects in a range, how many, and up to where it goes if there may be
    /// more.
    fn objects(
        &mut self,
        id: VnodeId,
        range: KeyRange,
    ) -> Result<(Batch, u64, Option<Bytes>), RequestError> {
        let (mut batch, mut rows, mut bytes) = (Batch::new(), 0, 0);
        let engine = self.context.engine.clone();
        for row in engine.scan(Space::Objects, range) {
            let (stored, sealed) = row.map_err(RequestError::from)?;
            (rows, bytes) = (rows + 1, bytes + sealed.len());
            let vnode = self.vnode_of(id)?;
            vnode.drop_object(&*engine, &mut batch, (&stored, &sealed))?;
            if rows == SWEEP_BATCH as u64 || bytes >= SWEEP_BYTES {
                return Ok((batch, rows, Some(stored)));
            }
        }
        Ok((batch, rows, None))
    }

    fn sweep_operations(
        &mut self,
        kept_ms: &Range<u64>,
        after: Bytes,
    ) -> Result<Swept, RequestError> {
        let Some((id, _)) = self.first_vnode(Space::Operations, after.clone())? else {
            return Ok(Swept { rows: 0, next: None });
        };
        let end = past(&record::vnode_prefix(id));
        if !self.owns(id) {
            return Ok(Swept { rows: 0, next: Some(end) });
        }
        let (batch, last) = self.outdated(kept_ms, id, after)?;
        let swept = self.delete(batch, last.or(Some(end)))?;
        self.context.observer.forgotten(swept.rows);
        Ok(swept)
    }

    /// The deletion of some of a vnode's outdated operations behind `after`, and up to where it
    /// looked if there may be more.
    fn outdated(
        &self,
        kept_ms: &Range<u64>,
        id: VnodeId,
        after: Bytes,
    ) -> Result<(Batch, Option<Bytes>), RequestError> {
        let of_vnode = || KeyRange::prefix(&record::vnode_prefix(id));
        let [start, end] = [kept_ms.start, kept_ms.end].map(|ms| record::operations_since(id, ms));
        let scan = |range: KeyRange| self.context.engine.scan(Space::Operations, range);
        let old = scan(KeyRange::new(..start).after(after.clone()));
        let early = scan(of_vnode().after(end.clone()).after(after));
        let (mut batch, mut looked_at, mut last) = (Batch::new(), 0, None);
        for row in old.chain(early).take(SWEEP_BATCH) {
            let (stored, sealed) = row.map_err(RequestError::from)?;
            looked_at += 1;
            last = Some(stored.clone());
            if stored < end || !self.alone_knows(&stored, &sealed) {
                batch.delete(Space::Operations, stored);
            }
        }
        Ok((batch, last.filter(|_| looked_at == SWEEP_BATCH)))
    }

    /// Whether an operation was done, as far as can be told, and no other node nor another opening
    /// can say so. A refused one is no such: whoever sends one from the future has it recorded.
    fn alone_knows(&self, stored: &Bytes, sealed: &Bytes) -> bool {
        let Some(id) = record::operation_of(stored) else { return false };
        let named = (id.coordinator, id.opening) == (self.context.node, self.context.opening);
        let recorded = || decode_recorded(record::open(stored, sealed).ok()?).ok();
        named && !matches!(recorded(), Some(Recorded { done: None, .. }))
    }

    fn delete(&mut self, batch: Batch, next: Option<Bytes>) -> Result<Swept, RequestError> {
        let rows = batch.len() as u64;
        if !batch.is_empty() {
            self.apply_alone(batch)?;
        }
        Ok(Swept { rows, next })
    }

    /// The vnode of the first key behind `after`, and that key.
    fn first_vnode(
        &self,
        space: Space,
        after: Bytes,
    ) -> Result<Option<(VnodeId, Bytes)>, RequestError> {
        let range = KeyRange::all().after(after);
        let first = self.context.engine.scan(space, range).next().transpose();
        let first = first.map_err(RequestError::from)?;
        Ok(first.and_then(|(stored, _)| Some((record::vnode_of(&stored)?, stored))))
    }
}

/// A key past every object's that begins with `prefix`.
pub(super) fn past(prefix: &[u8]) -> Bytes {
    const LONGEST: usize = size_of::<u64>() + KEY_MAX_BYTES;
    [prefix, &[0xff; LONGEST + 1]].concat().into()
}
