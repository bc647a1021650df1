//! Coordinating scans: a part of one partition at a time, from R owners.
//!
//! Owners list their keys in pages, tombstones included, and a page may end before the partition
//! does. What is merged is certain only up to the smallest last key of an unfinished page: past it
//! one owner has not spoken yet.
//!
//! ```text
//!   owner 1   a b c d │        limit 4: more to come after d
//!   owner 2   a   c d e f      complete
//!   certain   a b c d │        next part: after d
//! ```
//!
//! Of a key whose record is damaged its owner lists the key alone, and such a key is read by itself,
//! which asks the other owners and mends the record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, sleep_until};

use super::read::Rules;
use super::{
    Coordinator, SLOW_AFTER, Target, cause_of, cause_of_error, not_reached, preference, resolve,
};
use crate::dynamo::encoding::{Reader, Writer};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{KEY_MAX_BYTES, Key, NamespaceId, NodeId, PartitionId, VnodeId};
use crate::dynamo::metadata::document::Conflict;
use crate::dynamo::object::Object;
use crate::dynamo::quorum::{Cause, Failure, Level, Tally, Verdict};
use crate::dynamo::read::Repair;
use crate::dynamo::standing::Standing;
use crate::error::RequestError;
use crate::shard::{Page, PageRange};
use crate::transport::{Reply, Request, ScanPage, ScanPageReply};

/// Keys per page: at 1 KiB each, a quarter of a mebibyte a message.
const PAGE_KEYS: usize = 256;

/// Where a scan goes on: a partition, and the key to go on after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanCursor {
    /// The namespace scanned.
    pub namespace: NamespaceId,
    /// The partition to go on with.
    pub partition: PartitionId,
    /// The last key seen in it; none: from its first.
    pub after: Option<Key>,
}

/// What a scan asks for.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// The namespace's name.
    pub namespace: String,
    /// Keys that begin with this.
    pub prefix: Bytes,
    /// How many owners of each partition must answer; none: the namespace's default.
    pub r: Option<Level>,
    /// How long one part may take.
    pub timeout: Duration,
}

/// A part of a scan: live keys in byte order, and where to go on.
#[derive(Clone, Debug)]
pub struct ScanPart {
    /// Keys with the merge of what R owners hold.
    pub items: Vec<(Key, Object)>,
    /// Where the next part begins; none: this was the last.
    pub next: Option<ScanCursor>,
}

impl ScanCursor {
    const FORMAT: u8 = 1;

    /// The opaque form given to clients.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::new();
        w.u8(Self::FORMAT);
        w.u64(self.namespace.0);
        w.u16(self.partition.0);
        if let Some(after) = &self.after {
            w.bytes(after.as_bytes());
        }
        w.finish()
    }

    /// Takes back what [`encode`](Self::encode) gave, for a scan of `namespace`.
    pub fn decode(cursor: Bytes, namespace: NamespaceId) -> Result<Self, RequestError> {
        let malformed = || {
            RequestError::invalid(
                "the cursor is malformed or of another namespace; use one that this scan answered",
            )
        };
        let mut r = Reader::new(cursor);
        r.format(Self::FORMAT, "cursor").map_err(|_| malformed())?;
        let of = r.u64("namespace").map_err(|_| malformed())?;
        let partition = PartitionId(r.u16("partition").map_err(|_| malformed())?);
        let after = match r.remaining() {
            0 => None,
            _ => {
                let key = r.bytes("key").map_err(|_| malformed())?;
                Some(Key::new(key).map_err(|_| malformed())?)
            }
        };
        r.finish("cursor").map_err(|_| malformed())?;
        (of == namespace.0).then_some(Self { namespace, partition, after }).ok_or_else(malformed)
    }
}

impl Coordinator {
    /// Where a scan begins: at a client's cursor, or at the first partition.
    pub async fn scan_from(
        &self,
        request: &ScanRequest,
        cursor: Bytes,
    ) -> Result<ScanCursor, RequestError> {
        let deadline = Instant::now() + request.timeout;
        let (_, namespace) = self.namespace(&request.namespace, deadline).await?;
        resolve(request.r, namespace.r, namespace.n)?;
        let length = request.prefix.len();
        if length > KEY_MAX_BYTES {
            return Err(RequestError::invalid(format!(
                "the prefix has {length} bytes; a key has 1 to {KEY_MAX_BYTES}"
            )));
        }
        if cursor.is_empty() {
            let (namespace, partition) = (namespace.id, PartitionId(0));
            return Ok(ScanCursor { namespace, partition, after: None });
        }
        ScanCursor::decode(cursor, namespace.id)
    }

    /// The part of a scan that begins at `cursor`: at most one page of one partition.
    pub async fn scan(
        &self,
        request: &ScanRequest,
        cursor: ScanCursor,
    ) -> Result<ScanPart, RequestError> {
        let deadline = Instant::now() + request.timeout;
        let (view, namespace) = self.namespace(&request.namespace, deadline).await?;
        if namespace.id != cursor.namespace {
            return Err(RequestError::UnknownNamespace { name: request.namespace.clone() });
        }
        if cursor.partition.0 >= view.document().partitions.get() {
            return Err(RequestError::invalid("the cursor is of another cluster"));
        }
        let r = resolve(request.r, namespace.r, namespace.n)?;
        let vnode = VnodeId { n: namespace.n, partition: cursor.partition };
        let range = PageRange {
            vnode,
            namespace: namespace.id,
            prefix: request.prefix.clone(),
            after: cursor.after,
            limit: PAGE_KEYS,
            conflict: namespace.conflict,
        };
        let owners = self.owners_by_reach(preference(&view, vnode)?);
        let pages = self.pages(&range, &owners, r, deadline).await;
        let pages = pages.map_err(|(tally, failures)| not_reached(&view, tally, &failures, &[]))?;
        let MergedPages { mut items, damaged, after } = merge_pages(pages, namespace.conflict)?;
        for key in damaged {
            let target = Target::new(view.clone(), namespace.clone(), key.clone());
            let rules = Rules { r, sloppy: false, repair: Repair::Async, deadline };
            let read = self.read_owners(&target, rules).await?;
            items.entry(key).or_default().merge(&read.object);
        }
        let items = items.into_iter().filter(|(_, object)| !object.is_empty()).collect();
        let next = match after {
            Some(after) => Some((cursor.partition, Some(after))),
            None => Some((PartitionId(cursor.partition.0 + 1), None))
                .filter(|(next, _)| next.0 < view.document().partitions.get()),
        };
        let namespace = namespace.id;
        let next = next.map(|(partition, after)| ScanCursor { namespace, partition, after });
        Ok(ScanPart { items, next })
    }

    /// The same page from `r` owners; an owner that fails is replaced by the next, and a slow
    /// one does not hold up the others.
    async fn pages(
        &self,
        range: &PageRange,
        owners: &[NodeId],
        r: u8,
        deadline: Instant,
    ) -> Result<Vec<Page>, (Tally, Vec<Failure>)> {
        let mut tally = Tally::new(r, owners.len());
        let (mut pages, mut failures) = (Vec::new(), Vec::new());
        let mut unasked = owners.iter();
        let mut under_way: FuturesUnordered<_> =
            unasked.by_ref().take(r.into()).map(|&node| self.page(range, node, deadline)).collect();
        let slow = sleep_until(deadline.min(Instant::now() + SLOW_AFTER));
        tokio::pin!(slow);
        while tally.verdict() == Verdict::Pending {
            tokio::select! {
                biased;
                Some((node, page)) = under_way.next() => match page {
                    Ok((page, standing)) => match standing.doubt() {
                        None => {
                            tally.ack();
                            pages.push(page);
                        }
                        Some(cause) => {
                            // It gives values, and does not count.
                            pages.push(page);
                            tally.fail();
                            failures.push(Failure { node, cause });
                            let next = unasked.next();
                            under_way.extend(next.map(|&n| self.page(range, n, deadline)));
                        }
                    },
                    Err(cause) => {
                        tally.fail();
                        failures.push(Failure { node, cause });
                        under_way.extend(unasked.next().map(|&n| self.page(range, n, deadline)));
                    }
                },
                () = &mut slow => {
                    if slow.deadline() >= deadline {
                        break;
                    }
                    slow.as_mut().reset(deadline);
                    under_way.extend(unasked.by_ref().map(|&n| self.page(range, n, deadline)));
                }
            }
        }
        if tally.verdict() == Verdict::Reached { Ok(pages) } else { Err((tally, failures)) }
    }

    fn page(
        &self,
        range: &PageRange,
        node: NodeId,
        deadline: Instant,
    ) -> BoxFuture<'static, (NodeId, Told)> {
        if node == self.node {
            let (shards, range) = (self.shards.clone(), range.clone());
            let standing = self.standings.of(range.vnode);
            let page =
                async move { shards.page(range, deadline).await.map_err(|e| cause_of_error(&e)) };
            return page.map(move |page| (node, page.map(|page| (page, standing)))).boxed();
        }
        let request = Request::ScanPage(ScanPage {
            namespace: range.namespace,
            partition: range.vnode.partition,
            prefix: range.prefix.clone(),
            after: range.after.clone(),
            limit: range.limit as u32,
        });
        let budget = self.shards.budget().clone();
        let reply = self.request(node, request, deadline);
        reply
            .map(move |(node, reply)| match reply {
                // An unfinished page without keys would not say how far it got.
                Ok(Reply::ScanPage(ScanPageReply { items, damaged, complete, standing }))
                    if complete || !items.is_empty() || !damaged.is_empty() =>
                {
                    let page = Page { items, damaged, complete }.held(&budget);
                    let page = page.map(|page| (page, standing));
                    (node, page.map_err(|error| cause_of_error(&error)))
                }
                other => (node, Err(cause_of(&other))),
            })
            .boxed()
    }
}

/// What an owner told: its page, and whether its silence about other keys counts.
type Told = Result<(Page, Standing), Cause>;

/// What several owners listed, as far as all of them have got.
struct MergedPages {
    /// Keys with the merge of what is held, tombstones included.
    items: BTreeMap<Key, Object>,
    /// Keys of which at least one owner can say nothing.
    damaged: BTreeSet<Key>,
    /// The last key of which all have spoken; none if all are complete.
    after: Option<Key>,
}

fn merge_pages(pages: Vec<Page>, rule: Conflict) -> Result<MergedPages, RequestError> {
    let unfinished = pages.iter().filter(|page| !page.complete);
    let after: Option<Key> = unfinished.filter_map(Page::last).min().cloned();
    let certain = |key: &Key| after.as_ref().is_none_or(|after| key <= after);
    let (mut items, mut damaged) = (BTreeMap::<Key, Object>::new(), BTreeSet::new());
    for page in pages {
        for (key, encoded) in page.items.into_iter().filter(|(key, _)| certain(key)) {
            let object = decode(&encoded, rule)?;
            items.entry(key).or_default().merge(&object);
        }
        damaged.extend(page.damaged.into_iter().filter(|key| certain(key)));
    }
    Ok(MergedPages { items, damaged, after })
}

fn decode(encoded: &EncodedObject, rule: Conflict) -> Result<Object, RequestError> {
    encoded.decode(rule).map_err(|error| RequestError::Data { reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dynamo::object::testing::histories;

    fn key(n: u8) -> Key {
        Key::new(vec![b'a' + n]).unwrap()
    }

    proptest! {
        /// The naive twin merges whole replicas; the scan goes page by page.
        #[test]
        fn pages_add_up_to_the_merge_of_all_replicas(
            histories in prop::collection::vec(histories(), 0..8), limit in 1..5usize
        ) {
            let replica = |at: usize| -> BTreeMap<Key, Object> {
                let objects = histories.iter().map(|h| h.replicas[at].clone());
                let keyed = objects.enumerate().map(|(n, object)| (key(n as u8), object));
                keyed.filter(|(_, object)| !object.is_absent()).collect()
            };
            let replicas = [replica(0), replica(1)];
            let mut twin = replicas[0].clone();
            for (key, object) in &replicas[1] {
                twin.entry(key.clone()).or_default().merge(object);
            }
            twin.retain(|_, object| !object.is_empty());

            let (mut found, mut after) = (Vec::new(), None::<Key>);
            loop {
                let page = |replica: &BTreeMap<Key, Object>| {
                    let rest = replica.iter().filter(|(k, _)| after.as_ref().is_none_or(|a| *k > a));
                    let all: Vec<_> =
                        rest.map(|(k, o)| (k.clone(), EncodedObject::new(o))).collect();
                    let items = all.iter().take(limit).cloned().collect();
                    Page { items, damaged: Vec::new(), complete: all.len() <= limit }
                };
                let pages = replicas.iter().map(page).collect();
                let merged = merge_pages(pages, Conflict::Siblings).unwrap();
                found.extend(merged.items.into_iter().filter(|(_, object)| !object.is_empty()));
                let Some(next) = merged.after else { break };
                after = Some(next);
            }
            prop_assert_eq!(found, twin.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn cursors_come_back_and_garbage_is_refused(
            partition in any::<u16>(), after in prop::option::of(1..20u8),
            garbage in prop::collection::vec(any::<u8>(), 1..30),
        ) {
            let (namespace, partition) = (NamespaceId(4), PartitionId(partition));
            let cursor = ScanCursor { namespace, partition, after: after.map(key) };
            prop_assert_eq!(ScanCursor::decode(cursor.encode(), namespace).unwrap(), cursor.clone());
            prop_assert!(ScanCursor::decode(cursor.encode(), NamespaceId(5)).is_err());
            let _ = ScanCursor::decode(garbage.into(), namespace);
        }
    }
}
