//! Refills a store that is being rebuilt from the other owners of its partitions.
//!
//! ```text
//!   each round, each other owner:      its metadata, so that no namespace of its is missed
//!   each partition, each other owner:  page ► merge its objects ► next page ... ► it told all
//!   every other owner told all, or was excused by the operator       ► the partition has standing
//!   every partition has standing, and all members' metadata is known ► the store is whole
//! ```
//!
//! A step is one page, at most a mebibyte and one object, and the pause after it is as long as the
//! step took: on a busy node steps take longer, and so do pauses. Which owners told all is kept on
//! disk for each partition; a restart begins only the partition under way again.
//!
//! A key whose record is damaged at an owner is skipped there: that owner has nothing to tell of it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{self, TryStreamExt as _};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Step, Worker};
use crate::cluster::Cluster;
use crate::cluster::view::View;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{Key, NamespaceId, NodeId, VnodeId};
use crate::dynamo::metadata::document::Namespace;
use crate::dynamo::standing::unheard;
use crate::env::Env;
use crate::error::RequestError;
use crate::shard::Shards;
use crate::standing::{Heard, Standings};
use crate::telemetry::Metrics;
use crate::transport::{Peers, Reply, Request, ScanPage, ScanPageReply};
use crate::vnode::{Address, Merge};

/// Keys per page, as for clients' scans.
const PAGE_KEYS: u32 = 256;

/// How long an owner may take for a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Objects merged at a time: enough to share a batch, and a fraction of a shard's queue.
const MERGES: usize = 32;

/// How often an object is offered to a shard whose queue is full, before the page is tried later.
const MERGE_TRIES: u32 = 50;

/// The shortest pause between two pages.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The pause when nobody who is still to be heard can be asked, or somebody failed.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the newest metadata is looked for at the end.
const REFRESH: Duration = Duration::from_secs(2);

/// What the refill works with.
pub struct RefillParts {
    /// This node.
    pub node: NodeId,
    /// Who holds what.
    pub cluster: Arc<Cluster>,
    /// Where objects are merged.
    pub shards: Shards,
    /// The other owners.
    pub peers: Arc<dyn Peers>,
    /// What is known of this node's standing.
    pub standings: Arc<Standings>,
    /// Where it runs.
    pub env: Env,
    /// Hears how far it got.
    pub metrics: Arc<Metrics>,
    /// Members that the operator does not wait for.
    pub excused: BTreeSet<NodeId>,
    /// Ends a step that waits.
    pub stop: CancellationToken,
}

/// Refills the store, once it is known to need that.
pub struct Refill {
    parts: RefillParts,
    /// Whom to ask about what, in this round.
    queue: VecDeque<(VnodeId, NodeId)>,
    current: Option<Source>,
    pause: Duration,
    warned: bool,
    /// Whether the last step failed.
    failing: bool,
}

/// One owner telling one partition.
struct Source {
    vnode: VnodeId,
    owner: NodeId,
    /// The namespaces that it told to the end.
    told: BTreeSet<NamespaceId>,
    /// The last key of the namespace that it is telling.
    after: Option<Key>,
}

impl Refill {
    /// A refill that has asked nobody yet.
    pub fn new(parts: RefillParts) -> Self {
        let (queue, current, pause) = (VecDeque::new(), None, PAUSE_MIN);
        Self { parts, queue, current, pause, warned: false, failing: false }
    }

    async fn step(&mut self) -> Result<Duration, RequestError> {
        let Some(view) = self.parts.cluster.view() else { return Ok(AGAIN) };
        self.warn_of_what_nobody_else_has(&view);
        let started = Instant::now();
        match self.current.take() {
            Some(source) => self.current = self.advance(&view, source).await?,
            None => match self.next_source(&view).await? {
                // The next step sees the namespaces that the round has learnt of.
                Some(source) => self.current = Some(source),
                None => return self.end_of_round(&view).await,
            },
        }
        Ok(started.elapsed().clamp(PAUSE_MIN, AGAIN))
    }

    /// The next partition and owner of this round; a new round begins when this one is over.
    async fn next_source(&mut self, view: &View) -> Result<Option<Source>, RequestError> {
        if self.queue.is_empty() {
            self.queue = self.round(view).await?;
        }
        let next = self.queue.pop_front();
        Ok(next.map(|(vnode, owner)| Source { vnode, owner, told: BTreeSet::new(), after: None }))
    }

    /// Whom to ask about what: whoever is still to be heard, and can be. Partitions for which nobody
    /// is left are complete.
    async fn round(&mut self, view: &View) -> Result<VecDeque<(VnodeId, NodeId)>, RequestError> {
        let (mut queue, mut away) = (VecDeque::new(), BTreeSet::new());
        for vnode in self.owned(view) {
            let heard = self.parts.standings.heard(vnode);
            if heard.complete {
                continue;
            }
            let left = self.left(view, vnode, &heard);
            if left.is_empty() {
                self.keep(vnode, Heard { complete: true, ..heard }).await?;
            }
            for owner in left {
                if self.parts.peers.connected(owner) {
                    queue.push_back((vnode, owner));
                } else {
                    away.insert(owner);
                }
            }
        }
        self.tell(view, &away);
        self.learn_of_namespaces(&queue).await?;
        Ok(queue)
    }

    /// Fetches what those who are to be asked know of the cluster. The lost store may have
    /// acknowledged writes in a namespace that this one has not heard of, together with one of them;
    /// an owner that told only the others has not told all.
    async fn learn_of_namespaces(
        &self,
        queue: &VecDeque<(VnodeId, NodeId)>,
    ) -> Result<(), RequestError> {
        let owners: BTreeSet<NodeId> = queue.iter().map(|(_, owner)| *owner).collect();
        for owner in owners {
            self.parts.cluster.fetch_from(owner).await?;
        }
        Ok(())
    }

    fn tell(&self, view: &View, away: &BTreeSet<NodeId>) {
        let owned = self.owned(view);
        let complete = owned.iter().filter(|v| self.parts.standings.of(**v).is_good()).count();
        let names: Vec<String> = away.iter().map(|node| view.name_of(*node)).collect();
        self.parts.metrics.rebuild_vnodes_left(owned.len() - complete);
        self.parts.standings.tell(|progress| {
            progress.vnodes = owned.len();
            progress.complete = complete;
            progress.waiting_for = names.join(", ");
        });
    }

    fn owned(&self, view: &View) -> Vec<VnodeId> {
        let groups = view.document().layout().groups.keys();
        let vnodes =
            groups.flat_map(|&n| view.partitions().map(move |partition| VnodeId { n, partition }));
        let mine = |vnode: &VnodeId| {
            view.preference(*vnode).is_some_and(|list| list.is_owner(self.parts.node))
        };
        vnodes.filter(mine).collect()
    }

    fn left(&self, view: &View, vnode: VnodeId, heard: &Heard) -> Vec<NodeId> {
        let owners = view.preference(vnode).map(|list| list.owners()).unwrap_or_default();
        unheard(owners, self.parts.node, &heard.told, &self.parts.excused).collect()
    }

    /// One page of what the owner holds; none when it has told all.
    async fn advance(
        &mut self,
        view: &View,
        mut source: Source,
    ) -> Result<Option<Source>, RequestError> {
        let mut untold = view.document().namespaces.iter().filter(|namespace| {
            namespace.n == source.vnode.n && !source.told.contains(&namespace.id)
        });
        let Some(&Namespace { id: namespace, conflict, .. }) = untold.next() else {
            return self.told_all(view, source).await.map(|()| None);
        };
        let page = self.page(view, &source, namespace).await?;
        let last = page.items.last().map(|(key, _)| key).max(page.damaged.last()).cloned();
        let objects = page.items.len() as u64;
        let items = page.items.into_iter().map(|(key, object)| {
            (Address { vnode: source.vnode, namespace, key, conflict }, object)
        });
        self.merge(items).await?;
        self.parts.metrics.rebuild_objects(objects);
        let failed = std::mem::take(&mut self.failing);
        self.parts.standings.tell(|progress| {
            progress.objects += objects;
            if failed {
                progress.waiting_for.clear();
            }
        });
        if page.complete {
            source.told.insert(namespace);
            source.after = None;
        } else {
            source.after = last;
        }
        Ok(Some(source))
    }

    async fn page(
        &self,
        view: &View,
        source: &Source,
        namespace: NamespaceId,
    ) -> Result<ScanPageReply, RequestError> {
        let request = Request::ScanPage(ScanPage {
            namespace,
            partition: source.vnode.partition,
            prefix: Bytes::new(),
            after: source.after.clone(),
            limit: PAGE_KEYS,
        });
        let asked = self.parts.peers.request(source.owner, request, PAGE_TIMEOUT);
        let failed = |reason: String| {
            let name = view.name_of(source.owner);
            RequestError::not_ready(format!(
                "no page of partition {} from {name}: {reason}",
                source.vnode.partition.0
            ))
        };
        match asked.await {
            // An unfinished page without keys would not say how far it got.
            Ok(Reply::ScanPage(page))
                if page.complete || !page.items.is_empty() || !page.damaged.is_empty() =>
            {
                Ok(page)
            }
            Ok(Reply::Failed(error)) => Err(failed(error.to_string())),
            Ok(_) => Err(failed("the answer made no sense".to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    async fn merge(
        &self,
        items: impl Iterator<Item = (Address, EncodedObject)>,
    ) -> Result<(), RequestError> {
        let merges = items.map(|(address, object)| {
            let merge =
                Merge { address, object, operation: None, clock_ms: 0, wait_ms: 0, mend: false };
            Ok(merge_patiently(&self.parts.shards, merge))
        });
        stream::iter(merges).try_buffer_unordered(MERGES).try_collect().await
    }

    /// The owner told all: keeps that, after what it told.
    async fn told_all(&mut self, view: &View, source: Source) -> Result<(), RequestError> {
        let mut heard = self.parts.standings.heard(source.vnode);
        heard.told.insert(source.owner);
        heard.complete = self.left(view, source.vnode, &heard).is_empty();
        let complete = heard.complete;
        self.keep(source.vnode, heard).await?;
        if complete {
            self.parts.standings.tell(|progress| {
                progress.complete += 1;
                let left = progress.vnodes.saturating_sub(progress.complete);
                self.parts.metrics.rebuild_vnodes_left(left);
            });
        }
        Ok(())
    }

    async fn keep(&self, vnode: VnodeId, heard: Heard) -> Result<(), RequestError> {
        let standings = self.parts.standings.clone();
        let kept = self.parts.env.block(move || standings.keep(vnode, heard)).await;
        kept.map_err(RequestError::from)
    }

    /// Nobody can be asked any more: the store is whole, or somebody is waited for.
    async fn end_of_round(&mut self, view: &View) -> Result<Duration, RequestError> {
        let good = |vnode: &VnodeId| self.parts.standings.heard(*vnode).complete;
        if !self.owned(view).iter().all(good) {
            return Ok(AGAIN);
        }
        // A namespace that this node never heard of may have a placement group of its own.
        let away: BTreeSet<NodeId> = view.document().members.iter().map(|m| m.node).collect();
        let away = away.into_iter().filter(|node| {
            let asked = *node == self.parts.node || self.parts.peers.connected(*node);
            !asked && !self.parts.excused.contains(node)
        });
        let away: BTreeSet<NodeId> = away.collect();
        self.tell(view, &away);
        self.parts.cluster.refresh(REFRESH).await?;
        if !away.is_empty() || self.parts.cluster.version() != view.document().version {
            return Ok(AGAIN);
        }
        let standings = self.parts.standings.clone();
        let ended = self.parts.env.block(move || standings.end()).await;
        ended.map_err(RequestError::from)?;
        self.parts.metrics.rebuild_vnodes_left(0);
        tracing::info!("the store is whole again: this node's answers count for all it holds");
        Ok(AGAIN)
    }

    /// What only the store before held is in no other; the operator should hear so once.
    fn warn_of_what_nobody_else_has(&mut self, view: &View) {
        if std::mem::replace(&mut self.warned, true) {
            return;
        }
        let alone = view.document().namespaces.iter().filter(|namespace| namespace.n == 1);
        let alone: Vec<&str> = alone.map(|namespace| &*namespace.name).collect();
        if !alone.is_empty() {
            tracing::error!(
                namespaces = ?alone,
                "these namespaces have n = 1: what this node held of them is in no other store, and \
                 keys of them that it held are now not found"
            );
        }
        let names: Vec<String> = self
            .parts
            .excused
            .iter()
            .filter_map(|&node| Some(view.member(node)?.name.clone()))
            .collect();
        if self.parts.excused.iter().any(|node| view.member(*node).is_none()) {
            let members = view.document().members.iter().map(|member| &*member.name);
            tracing::error!(
                members = ?members.collect::<Vec<_>>(),
                "--rebuild-without names a member that there is not, which changes nothing; restart \
                 with one of these names"
            );
        }
        if !names.is_empty() {
            tracing::warn!(
                without = ?names,
                "the rebuild does not wait for these members: writes that only they and this node \
                 acknowledged may be missing from reads until they are back"
            );
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

impl Worker for Refill {
    fn name(&self) -> &'static str {
        "refill"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        async {
            let mut progress = self.parts.standings.progress();
            if progress.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(self.pause).await;
        }
        .boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            let stop = self.parts.stop.clone();
            match stop.run_until_cancelled(self.step()).await {
                None => Step::Done,
                Some(Ok(pause)) => {
                    self.pause = pause;
                    Step::Done
                }
                Some(Err(error)) => {
                    (self.pause, self.failing) = (AGAIN, true);
                    self.parts.standings.tell(|now| now.waiting_for = error.to_string());
                    Step::Failed(error)
                }
            }
        }
        .boxed()
    }
}
