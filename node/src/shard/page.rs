//! Pages of a partition, of which scans are made.

use std::sync::Arc;

use bytes::Bytes;

use super::Shard;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{KEY_MAX_BYTES, Key, KeyHash, NamespaceId, VnodeId};
use crate::dynamo::metadata::document::Conflict;
use crate::error::RequestError;
use crate::limits::budget::{Budget, Kind};
use crate::storage::record::{self, RecordError};
use crate::storage::{EngineError, KeyRange, Space};

/// A page ends once it holds so many bytes: it is one message between nodes, and one of several
/// that a scan merges in memory.
const PAGE_BYTES: usize = 1 << 20;

/// A page of a partition: keys in byte order, and whether none comes after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Keys and objects, tombstones included.
    pub items: Vec<(Key, EncodedObject)>,
    /// Keys between them whose records are damaged here, so that nothing is said of them.
    pub damaged: Vec<Key>,
    /// Whether the partition has no later key.
    pub complete: bool,
}

impl Page {
    /// A page of nothing, after which no key comes.
    pub fn empty() -> Self {
        Self { items: Vec::new(), damaged: Vec::new(), complete: true }
    }

    /// Up to where the page speaks; none if it lists no key.
    pub fn last(&self) -> Option<&Key> {
        self.items.last().map(|(key, _)| key).max(self.damaged.last())
    }

    /// The same page, its objects counted as long as they are kept.
    pub fn held(self, budget: &Arc<Budget>) -> Result<Self, RequestError> {
        let bytes = self.items.iter().map(|(_, object)| object.0.len()).sum();
        let Some(charge) = budget.take_if_large(Kind::Scans, bytes)? else { return Ok(self) };
        let charge = Arc::new(charge);
        let held = |(key, EncodedObject(object))| (key, EncodedObject(charge.shared_with(object)));
        Ok(Self { items: self.items.into_iter().map(held).collect(), ..self })
    }
}

/// A part of a partition.
#[derive(Clone, Debug)]
pub struct PageRange {
    /// The partition.
    pub vnode: VnodeId,
    /// The namespace.
    pub namespace: NamespaceId,
    /// Keys that begin with this.
    pub prefix: Bytes,
    /// And come after this one.
    pub after: Option<Key>,
    /// At most so many; fewer if they are large, but one if there is any.
    pub limit: usize,
    /// The namespace's rule: a record of the other kind is damaged.
    pub conflict: Conflict,
}

impl Shard {
    pub(super) fn page(&mut self, range: &PageRange) -> Result<Page, RequestError> {
        // No key is that long, and engines refuse to look for one, some by panicking.
        if range.prefix.len() > KEY_MAX_BYTES {
            return Ok(Page::empty());
        }
        let base = record::namespace_prefix(range.vnode, range.namespace);
        let mut bytes = 0;
        let mut keys = KeyRange::prefix(&[&base[..], &range.prefix].concat());
        if let Some(after) = &range.after {
            keys = keys.after([&base[..], after.as_bytes()].concat());
        }
        let (mut page, mut damaged) = (Page::empty(), Vec::new());
        let engine = self.context.engine.clone();
        for row in engine.scan(Space::Objects, keys) {
            let (stored, sealed) = match row {
                Ok(row) => row,
                Err(error) => {
                    if matches!(error, EngineError::Corrupt { .. }) {
                        // Which keys lie there, nobody knows; this stands for them.
                        damaged.push((Bytes::copy_from_slice(&base), KeyHash(0)));
                    }
                    self.distrust(range.vnode, &damaged)?;
                    return Err(RequestError::from(error));
                }
            };
            // Never empty and unfinished: the scan could not tell how far it got.
            if page.items.len() + page.damaged.len() >= range.limit.max(1) || bytes >= PAGE_BYTES {
                page.complete = false;
                break;
            }
            bytes += stored.len() + sealed.len();
            let Some((_, _, key)) = record::split_object_key(&stored) else {
                // No key of a client looks like this: nothing that a scan would list.
                damaged.push((stored, KeyHash(0)));
                continue;
            };
            match record::open(&stored, &sealed).map(EncodedObject) {
                Ok(object) if object.is_of(range.conflict) => page.items.push((key, object)),
                Ok(_) | Err(RecordError::Damaged) => {
                    damaged.push((stored, key.hash(range.namespace)));
                    page.damaged.push(key);
                }
                Err(newer) => return Err(RequestError::Data { reason: newer.to_string() }),
            }
        }
        self.distrust(range.vnode, &damaged)?;
        page.held(&self.context.budget)
    }
}
