//! Forgetting, some at a time between turns: objects of dropped namespaces, and operations past their
//! time.

use std::ops::Range;

use bytes::Bytes;

use super::{LiveNamespaces, Shard, SweepStep};
use crate::dynamo::key::{KEY_MAX_BYTES, NamespaceId, VnodeId};
use crate::error::RequestError;
use crate::storage::record;
use crate::storage::{Batch, KeyRange, Space};
use crate::vnode::Vnode;

/// Objects dropped, or operations forgotten, per batch.
pub(super) const SWEEP_BATCH: usize = 1024;

impl Shard {
    /// Deletes some objects of namespaces that were dropped, in the first vnode from `from` that
    /// has any, and ends its actor. How many, and where to go on.
    pub(super) fn sweep(
        &mut self,
        live: &LiveNamespaces,
        from: VnodeId,
    ) -> Result<SweepStep, RequestError> {
        let mut range = KeyRange::new(Bytes::copy_from_slice(&record::vnode_prefix(from))..);
        while let Some(id) = self.first_vnode(Space::Objects, range)? {
            let batch = if self.owns(id) { self.dropped(live, id)? } else { Batch::new() };
            if !batch.is_empty() {
                let objects = batch.len() as u64;
                // First, since a batch that fails may have dropped them.
                self.vnodes.entry(id).and_modify(Vnode::end_actor);
                return self.apply_alone(batch).map(|()| (objects, Some(id)));
            }
            range = KeyRange::all().after(past(&record::vnode_prefix(id)));
        }
        Ok((0, None))
    }

    /// The deletion of a vnode's objects of dropped namespaces: of so many that requests do not
    /// wait long for it.
    fn dropped(&self, live: &LiveNamespaces, id: VnodeId) -> Result<Batch, RequestError> {
        let mut batch = Batch::new();
        let mut from = KeyRange::prefix(&record::vnode_prefix(id));
        while let Some(namespace) = self.first_namespace(from)? {
            let prefix = record::namespace_prefix(id, namespace);
            if live.dropped(namespace) {
                let rows = self.context.engine.scan(Space::Objects, KeyRange::prefix(&prefix));
                for row in rows.take(SWEEP_BATCH - batch.len()) {
                    batch.delete(Space::Objects, row.map_err(RequestError::from)?.0);
                }
            }
            if batch.len() == SWEEP_BATCH {
                break;
            }
            from = KeyRange::prefix(&record::vnode_prefix(id)).after(past(&prefix));
        }
        Ok(batch)
    }

    /// Every vnode of this shard that holds something in a space.
    fn stored_vnodes(&self, space: Space) -> Result<Vec<VnodeId>, RequestError> {
        let mut vnodes = Vec::new();
        let mut range = KeyRange::all();
        while let Some(id) = self.first_vnode(space, range)? {
            if self.owns(id) {
                vnodes.push(id);
            }
            range = KeyRange::all().after(past(&record::vnode_prefix(id)));
        }
        Ok(vnodes)
    }

    fn first_vnode(&self, space: Space, range: KeyRange) -> Result<Option<VnodeId>, RequestError> {
        let first = self.context.engine.scan(space, range).next().transpose();
        let first = first.map_err(RequestError::from)?;
        Ok(first.and_then(|(stored, _)| record::vnode_of(&stored)))
    }

    fn first_namespace(&self, range: KeyRange) -> Result<Option<NamespaceId>, RequestError> {
        match self.context.engine.scan(Space::Objects, range).next() {
            None => Ok(None),
            Some(row) => {
                let (stored, _) = row.map_err(RequestError::from)?;
                Ok(record::split_object_key(&stored).map(|(_, namespace, _)| namespace))
            }
        }
    }

    /// Forgets operations issued before or after `kept_ms`; retries of them are refused by their age.
    pub(super) fn forget_operations(&mut self, kept_ms: &Range<u64>) -> Result<u64, RequestError> {
        let mut forgotten = 0;
        for id in self.stored_vnodes(Space::Operations)? {
            let mut batch = Batch::new();
            let prefix = record::vnode_prefix(id);
            let old = Bytes::copy_from_slice(&prefix)..record::operations_since(id, kept_ms.start);
            let future = KeyRange::prefix(&prefix).after(record::operations_since(id, kept_ms.end));
            let scan = |range| self.context.engine.scan(Space::Operations, range);
            for row in scan(KeyRange::new(old)).chain(scan(future)).take(SWEEP_BATCH) {
                batch.delete(Space::Operations, row.map_err(RequestError::from)?.0);
            }
            forgotten += batch.len() as u64;
            if !batch.is_empty() {
                self.apply_alone(batch)?;
            }
        }
        Ok(forgotten)
    }
}

/// A key past every object's that begins with `prefix`.
fn past(prefix: &[u8]) -> Vec<u8> {
    const LONGEST: usize = size_of::<u64>() + KEY_MAX_BYTES;
    [prefix, &[0xff; LONGEST + 1]].concat()
}
