//! One owner tells all that it holds of a partition, page by page, and this node merges it.
//!
//! ```text
//!   what had you seen?  ► pages of its objects, each merged ► do you stand by it?  ► seen here as well
//! ```
//!
//! What the owner had seen is asked for before the first page: its objects may be of later, never of
//! earlier. What it held meanwhile and lost again, by a crash say, it does not stand by any more; then
//! everything is asked anew. A key whose record is damaged, there or here, is left out, and nothing follows
//! from the rest then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, TryStreamExt as _};
use tokio::time::{Instant, sleep};

use crate::cluster::view::View;
use crate::coordinator::Coordinator;
use crate::dynamo::arrival::Way;
use crate::dynamo::exchange::{Answer, Compared, Told, fingerprint};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{Key, NamespaceId, NodeId, VnodeId};
use crate::dynamo::metadata::document::Namespace;
use crate::error::RequestError;
use crate::liveness::Health;
use crate::shard::Shards;
use crate::transport::{Held, Read, Reply, Request, ScanPage, ScanPageReply};
use crate::vnode::{Address, Merge};

/// Keys per page, as for clients' scans.
const PAGE_KEYS: u32 = 256;

/// How long an owner may take for a page, or any other answer to this node's background tasks.
pub(super) const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// When an answer that is asked for now is no longer waited for.
pub(super) fn deadline() -> Instant {
    Instant::now() + PAGE_TIMEOUT
}

/// Objects merged at a time: enough to share a batch, and a fraction of a shard's queue.
const MERGES: usize = 32;

/// How often an object is offered to a shard whose queue is full, before the page is tried later.
const MERGE_TRIES: u32 = 50;

/// One owner telling one partition.
#[derive(Debug)]
pub(super) struct Pull {
    pub(super) vnode: VnodeId,
    pub(super) owner: NodeId,
    /// What the owner had seen before the first page, and of which generation this node's own vnode was
    /// then; none before that is known.
    before: Option<(Told, u64)>,
    /// The namespaces that it told to the end.
    told: BTreeSet<NamespaceId>,
    /// The last key of the namespace that it is telling.
    after: Option<Key>,
    /// Whether some of it cannot be read there, or merged here.
    partial: bool,
}

/// What a step of a pull came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pulled {
    /// So many objects, of so many bytes, are merged.
    Page {
        /// How many.
        objects: u64,
        /// Of how many bytes.
        bytes: u64,
    },
    /// The owner has told all.
    All,
}

/// Where a pull reads, and where it merges.
pub(super) struct Reach<'a> {
    pub(super) coordinator: &'a Coordinator,
    pub(super) view: &'a View,
    /// How what is merged is said to have come.
    pub(super) way: Way,
}

impl Pull {
    /// One that has not begun.
    pub(super) fn new(vnode: VnodeId, owner: NodeId) -> Self {
        let (told, after) = (BTreeSet::new(), None);
        Self { vnode, owner, before: None, told, after, partial: false }
    }

    /// One step of it: a page at most.
    pub(super) async fn step(&mut self, reach: &Reach<'_>) -> Result<Pulled, RequestError> {
        if self.before.is_none() {
            self.begin(reach).await?;
            // The next step sees the namespaces that this one has learnt of.
            return Ok(Pulled::Page { objects: 0, bytes: 0 });
        }
        let mut untold =
            reach.view.document().namespaces.iter().filter(|namespace| {
                namespace.n == self.vnode.n && !self.told.contains(&namespace.id)
            });
        let Some(&Namespace { id: namespace, conflict, .. }) = untold.next() else {
            self.end(reach).await?;
            return Ok(Pulled::All);
        };
        let page = self.page(reach, namespace).await?;
        let last = page.items.last().map(|(key, _)| key).max(page.damaged.last()).cloned();
        let (vnode, objects) = (self.vnode, page.items.len() as u64);
        let bytes = page.items.iter().map(|(_, object)| object.0.len() as u64).sum();
        let items = page.items.into_iter();
        let items =
            items.map(|(key, object)| (Address { vnode, namespace, key, conflict }, object));
        let all = reach.merge(items).await?;
        self.partial |= !all || !page.damaged.is_empty();
        if page.complete {
            self.told.insert(namespace);
            self.after = None;
        } else {
            self.after = last;
        }
        Ok(Pulled::Page { objects, bytes })
    }

    /// What the owner has seen is told first; then its newest metadata, since it may have seen writes of a
    /// namespace that this node has not heard of.
    async fn begin(&mut self, reach: &Reach<'_>) -> Result<(), RequestError> {
        let ours = reach.shards().told_of(self.vnode, Instant::now() + PAGE_TIMEOUT).await?;
        let theirs = self.what_was_seen(reach).await?;
        reach.coordinator.cluster().fetch_from(self.owner).await?;
        self.before = Some((theirs, ours.generation));
        Ok(())
    }

    /// All is merged: what the owner had seen is seen here, if the owner stands by it, and nothing that was
    /// merged is lost here. Else all is asked anew: what either has seen by now says nothing of pages that
    /// were read before.
    async fn end(&mut self, reach: &Reach<'_>) -> Result<(), RequestError> {
        let Some((theirs, ours)) = &self.before else { return Ok(()) };
        if self.partial || theirs.frontier.is_empty() {
            return Ok(());
        }
        let (generation, seen) = (theirs.generation, (theirs.frontier.clone(), *ours));
        if self.what_was_seen(reach).await?.generation != generation {
            *self = Self::new(self.vnode, self.owner);
            let name = reach.view.name_of(self.owner);
            let reason = format!("{name} was restarted meanwhile, or lost something; once more");
            return Err(RequestError::not_ready(reason));
        }
        let joined = reach.shards().join(self.vnode, seen, Instant::now() + PAGE_TIMEOUT).await;
        if matches!(joined, Err(RequestError::NotReady { .. })) {
            *self = Self::new(self.vnode, self.owner);
        }
        joined
    }

    async fn what_was_seen(&self, reach: &Reach<'_>) -> Result<Told, RequestError> {
        let nothing = Frontier::new();
        let (answers, _) = reach.compare(self.owner, &[(self.vnode, &nothing)], false).await?;
        match answers.into_iter().next().map(|answer| answer.compared) {
            Some(Compared::Differs(told)) => Ok(told),
            // It has seen nothing, and has nothing to stand by.
            Some(Compared::Same) => {
                Ok(Told { generation: 0, frontier: nothing, recounting: false })
            }
            Some(Compared::Unsaid) | None => {
                let name = reach.view.name_of(self.owner);
                Err(RequestError::not_ready(format!("{name} does not say what it has seen")))
            }
        }
    }

    async fn page(
        &self,
        reach: &Reach<'_>,
        namespace: NamespaceId,
    ) -> Result<ScanPageReply, RequestError> {
        let request = Request::ScanPage(ScanPage {
            namespace,
            partition: self.vnode.partition,
            prefix: Bytes::new(),
            after: self.after.clone(),
            limit: PAGE_KEYS,
        });
        let what = format!("a page of partition {}", self.vnode.partition.0);
        match reach.ask(self.owner, request, &what).await? {
            // An unfinished page without keys would not say how far it got.
            Reply::ScanPage(page)
                if page.complete || !page.items.is_empty() || !page.damaged.is_empty() =>
            {
                Ok(page)
            }
            _ => Err(reach.failed(self.owner, &what, "the answer made no sense")),
        }
    }
}

/// Whether a node can be asked.
pub(super) fn is_there(coordinator: &Coordinator, node: NodeId) -> bool {
    let seen = coordinator.liveness().of(node).and_then(|seen| seen.health);
    coordinator.peers().connected(node) && seen != Some(Health::Down)
}

impl Reach<'_> {
    /// Where objects are merged.
    pub(super) fn shards(&self) -> &Shards {
        self.coordinator.shards()
    }

    /// The partitions that this node owns.
    pub(super) fn owned(&self) -> Vec<VnodeId> {
        let me = self.coordinator.node();
        let is_ours =
            |vnode: &VnodeId| self.view.preference(*vnode).is_some_and(|list| list.is_owner(me));
        self.view.vnodes().filter(is_ours).collect()
    }

    /// The partitions that this node shares with each other owner that can be asked.
    pub(super) fn shared(&self) -> BTreeMap<NodeId, Vec<VnodeId>> {
        let me = self.coordinator.node();
        let mut shared: BTreeMap<NodeId, Vec<VnodeId>> = BTreeMap::new();
        for vnode in self.owned() {
            let owners = self.view.preference(vnode).map(|list| list.owners()).unwrap_or_default();
            let others = owners.iter().copied().filter(|&owner| owner != me);
            others.for_each(|owner| shared.entry(owner).or_default().push(vnode));
        }
        shared.retain(|&owner, _| is_there(self.coordinator, owner));
        shared
    }

    /// Where a key is that the owner of a partition named; nowhere, if its namespace was dropped.
    pub(super) fn address(
        &self,
        (vnode, owner): (VnodeId, NodeId),
        namespace: NamespaceId,
        key: Key,
    ) -> Result<Option<Address>, RequestError> {
        let Some(known) = self.view.namespace(namespace) else {
            if namespace.0 < self.view.document().next_namespace {
                return Ok(None);
            }
            let reason = format!("namespace {} is not known here yet", namespace.0);
            return Err(RequestError::not_ready(reason));
        };
        if self.view.vnode(known, &key) != vnode {
            let wrong = "it names a key of another partition";
            return Err(self.failed(owner, "keys", wrong));
        }
        Ok(Some(Address { vnode, namespace, key, conflict: known.conflict }))
    }

    /// What an owner holds of the first of these keys, at least of one.
    pub(super) async fn read(
        &self,
        owner: NodeId,
        addresses: &[Address],
    ) -> Result<Vec<Result<EncodedObject, RequestError>>, RequestError> {
        let what = "objects";
        let reads = addresses.iter().map(|address| Read {
            namespace: address.namespace,
            key: address.key.clone(),
            digest: false,
            hint: false,
        });
        let held = match self.ask(owner, Request::ReadBatch(reads.collect()), what).await? {
            Reply::HeldBatch(held) if (1..=addresses.len()).contains(&held.len()) => held,
            _ => return Err(self.failed(owner, what, "the answer made no sense")),
        };
        let object = |held| match held {
            Ok((Held::Object(object), _)) => Ok(object),
            Ok(_) => Err(self.failed(owner, what, "a digest came")),
            Err(error) => Err(self.failed(owner, what, error)),
        };
        Ok(held.into_iter().map(object).collect())
    }

    /// The record here is damaged: nothing can be merged with it before it is mended, which begins.
    pub(super) fn mend(&self, address: &Address) {
        self.coordinator.mend_here(address.namespace, address.key.clone());
    }

    /// What `owner` says of frontiers of this node, and whether it settled what this node remembers of
    /// it. It may be asked to recall what it remembers of this node.
    pub(super) async fn compare(
        &self,
        owner: NodeId,
        seen: &[(VnodeId, &Frontier)],
        recall: bool,
    ) -> Result<(Vec<Answer>, bool), RequestError> {
        let asked = seen.iter().map(|(vnode, seen)| (*vnode, fingerprint(seen))).collect();
        let what = "what it has seen";
        match self.ask(owner, Request::Frontiers { asked, recall }, what).await? {
            Reply::Frontiers { answers, settled } if answers.len() == seen.len() => {
                Ok((answers, settled))
            }
            _ => Err(self.failed(owner, what, "the answer made no sense")),
        }
    }

    /// Asks another node; an error says what for.
    pub(super) async fn ask(
        &self,
        node: NodeId,
        request: Request,
        what: &str,
    ) -> Result<Reply, RequestError> {
        match self.coordinator.peers().request(node, request, PAGE_TIMEOUT).await {
            Ok(Reply::Failed(error)) => Err(self.failed(node, what, error)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.failed(node, what, error)),
        }
    }

    pub(super) fn failed(
        &self,
        node: NodeId,
        what: &str,
        reason: impl std::fmt::Display,
    ) -> RequestError {
        let name = self.view.name_of(node);
        RequestError::not_ready(format!("{name} was asked for {what}: {reason}"))
    }

    /// Merges objects; whether all of them. One whose record here is damaged is left out.
    pub(super) async fn merge(
        &self,
        items: impl Iterator<Item = (Address, EncodedObject)>,
    ) -> Result<bool, RequestError> {
        let merges = items.map(|(address, object)| Ok(self.merge_or_mend(address, object)));
        let merged = stream::iter(merges).try_buffer_unordered(MERGES);
        merged.try_fold(true, |all, one| std::future::ready(Ok(all && one))).await
    }

    async fn merge_or_mend(
        &self,
        address: Address,
        object: EncodedObject,
    ) -> Result<bool, RequestError> {
        let merge = Merge::repair(self.way, address.clone(), object);
        match merge_patiently(self.shards(), merge).await {
            Err(RequestError::Damaged { .. }) => {
                self.mend(&address);
                Ok(false)
            }
            merged => merged.map(|()| true),
        }
    }
}

/// Merges an object; a full queue is waited for.
async fn merge_patiently(shards: &Shards, merge: Merge) -> Result<(), RequestError> {
    let mut tries = 1;
    loop {
        match shards.merge(merge.clone(), false, Instant::now() + PAGE_TIMEOUT).await {
            Err(RequestError::Overloaded { retry_after_ms, .. }) if tries < MERGE_TRIES => {
                tries += 1;
                sleep(Duration::from_millis(retry_after_ms.into())).await;
            }
            merged => return merged,
        }
    }
}
