//! Comparison of trees: this node looks where its values differ from those of other owners, and fetches
//! what they hold there.
//!
//! ```text
//!   each minute:
//!   ready     trees that were opened since count their leaves, those that are damaged are made anew
//!   compare   one message for many partitions to each other owner: the roots
//!   descend   where they differ: sixteen sums for each branch that does, down to the leaves
//!   wait      a second: what was on its way arrives
//!   descend   again, to those leaves: what differs as before is no write on its way
//!   fetch     both list those leaves from their records; the objects that differ are read and merged
//! ```
//!
//! What both hold equally costs one sum of 16 bytes a partition; each difference a few hundred bytes, and the
//! object. Each side merges what the other one holds, in its own rounds. As in
//! [exchanges](super::exchange) the pause after a step is as long as it took.
//!
//! See [`merkle`](crate::dynamo::merkle) for what a tree is. Left out: deletes. A tombstone is in no tree, so
//! that of a key which one owner holds and the other deleted, the latter is asked for by its name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::pull::{Reach, deadline};
use super::rounds::{Pace, Rounds};
use super::{Step, Worker};
use crate::coordinator::Coordinator;
use crate::dynamo::arrival::Way;
use crate::dynamo::key::{Key, NamespaceId, NodeId, VnodeId};
use crate::dynamo::merkle::{Children, Descent, Leaf, Listing, Node, Place, Summary, differing};
use crate::dynamo::standing::Standing;
use crate::env::Env;
use crate::error::RequestError;
use crate::telemetry::Metrics;
use crate::transport::trees::{LEAVES_MAX, PLACES_MAX};
use crate::transport::{Reply, Request, TreeReply, TreeRequest};

/// How long a round begins after the last one began, at least. What frontiers can tell they tell within
/// seconds; this finds what they cannot, and that is rare.
pub const COMPARE_TREES_EVERY: Duration = Duration::from_secs(60);

/// How long what was found to differ is waited for.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);

/// Partitions of one message.
const COMPARED_MAX: usize = 256;

/// Keys whose objects are asked for at once: each may be large.
const KEYS_MAX: usize = 32;

/// As long as the step took.
const PACE: Pace = Pace { times: 1, pause: (Duration::from_millis(1), Duration::from_secs(1)) };

/// What the task works with.
pub struct CompareTreesParts {
    /// This node's partitions, and its way to the other owners.
    pub coordinator: Arc<Coordinator>,
    /// Where it runs.
    pub env: Env,
    /// Where it is measured.
    pub metrics: Arc<Metrics>,
    /// How long a round begins after the last one, at least.
    pub every: Duration,
    /// Ends a round that waits.
    pub stop: CancellationToken,
}

/// Compares this node's trees with those of the other owners of its partitions.
pub struct CompareTrees {
    parts: CompareTreesParts,
    rounds: Rounds,
}

impl CompareTrees {
    /// Of a node that begins now.
    pub fn new(parts: CompareTreesParts) -> Self {
        let rounds = Rounds::new(&parts.env, parts.every, parts.stop.clone());
        Self { parts, rounds }
    }
}

impl CompareTreesParts {
    /// All partitions with all other owners; the first thing that failed.
    async fn round(&self) -> Result<(), RequestError> {
        let coordinator = &*self.coordinator;
        let Some(view) = coordinator.cluster().view() else { return Ok(()) };
        let reach = Reach { coordinator, view: &view, way: Way::Trees };
        let believed = |vnode: &VnodeId| coordinator.standings().of(*vnode) == Standing::Good;
        let mut failed = None;
        for (owner, vnodes) in reach.shared() {
            // What is still being filled differs everywhere, and is being told everything.
            let vnodes: Vec<VnodeId> = vnodes.into_iter().filter(believed).collect();
            for vnodes in vnodes.chunks(COMPARED_MAX) {
                let round = Round { parts: self, reach: &reach, owner };
                if let Err(error) = round.compare(vnodes).await {
                    self.metrics.trees().failed();
                    failed.get_or_insert(error);
                }
            }
        }
        self.metrics.trees().ended();
        failed.map_or(Ok(()), Err)
    }
}

/// A round with one other owner.
struct Round<'a> {
    parts: &'a CompareTreesParts,
    reach: &'a Reach<'a>,
    owner: NodeId,
}

impl Round<'_> {
    /// What fails for one partition is no reason to leave the others; the first of that.
    async fn compare(&self, vnodes: &[VnodeId]) -> Result<(), RequestError> {
        let (mut ready, mut failed) = (Vec::with_capacity(vnodes.len()), None);
        for &vnode in vnodes {
            match self.ready(vnode).await {
                Ok(()) => ready.push(vnode),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        let mut suspects = Vec::new();
        for vnode in self.differing(&ready).await? {
            match self.descend(vnode, Descent::default()).await {
                Ok(descent) => suspects.extend(descent.map(|descent| (vnode, descent))),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        suspects.retain(|(_, descent)| !descent.differing().is_empty());
        if !suspects.is_empty() {
            sleep(CONFIRM_AFTER).await;
        }
        for (vnode, descent) in suspects {
            if let Err(error) = self.confirm(vnode, descent).await {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn ready(&self, vnode: VnodeId) -> Result<(), RequestError> {
        while !self.paced(self.reach.shards().ready_tree(vnode, deadline())).await? {}
        Ok(())
    }

    /// Those whose trees are not the other one's.
    async fn differing(&self, vnodes: &[VnodeId]) -> Result<Vec<VnodeId>, RequestError> {
        let ours = self.reach.shards().summaries(vnodes, deadline()).await?;
        let theirs = self.summaries(vnodes).await?;
        let both = vnodes.iter().zip(ours.into_iter().zip(theirs));
        let told = both.filter_map(|(vnode, (ours, theirs))| Some((*vnode, ours?, theirs?)));
        let told: Vec<_> = told.collect();
        self.parts.metrics.trees().compared(told.len() as u64);
        let differs = told.into_iter().filter(|(_, ours, theirs)| ours.root != theirs.root);
        Ok(differs.map(|(vnode, ..)| vnode).collect())
    }

    /// Fetches what differs as it did a moment ago.
    async fn confirm(&self, vnode: VnodeId, descent: Descent) -> Result<(), RequestError> {
        match self.descend(vnode, descent.again()).await? {
            Some(descent) => self.fetch(vnode, descent.differing()).await,
            None => Ok(()),
        }
    }

    /// Down to the leaves that differ; none if either tree cannot be told.
    async fn descend(
        &self,
        vnode: VnodeId,
        mut descent: Descent,
    ) -> Result<Option<Descent>, RequestError> {
        while !descent.branches().is_empty() {
            let branches = descent.branches().to_vec();
            let shards = self.reach.shards();
            let ours = self.paced(shards.children(vnode, branches.clone(), deadline())).await?;
            let theirs = self.children(vnode, branches).await?;
            let (Some(ours), Some(theirs)) = (ours, theirs) else { return Ok(None) };
            descent.on_children(&ours, &theirs);
        }
        Ok(Some(descent))
    }

    async fn fetch(&self, vnode: VnodeId, leaves: Vec<Leaf>) -> Result<(), RequestError> {
        self.parts.metrics.trees().differing(leaves.len() as u64);
        let mut leaves = &leaves[..];
        while !leaves.is_empty() {
            let asked = &leaves[..leaves.len().min(LEAVES_MAX)];
            let theirs = self.leaves(vnode, asked).await?;
            let same = asked[..theirs.len()].to_vec();
            let listed = self.paced(self.reach.shards().list(vnode, same, deadline()));
            let (ours, damaged) = listed.await?;
            for (namespace, key) in damaged {
                self.reach.coordinator.mend_here(namespace, key);
            }
            // Of what either cannot read, it says nothing.
            let both = ours
                .iter()
                .zip(&theirs)
                .filter_map(|(ours, theirs)| Some(differing(ours.as_ref()?, theirs.as_ref()?)));
            let places: Vec<Place> = both.flatten().collect();
            leaves = &leaves[ours.len().min(theirs.len())..];
            for places in places.chunks(PLACES_MAX) {
                self.fetch_at(vnode, places.to_vec()).await?;
            }
        }
        Ok(())
    }

    /// What the other one holds under the keys that either has at these places.
    async fn fetch_at(&self, vnode: VnodeId, places: Vec<Place>) -> Result<(), RequestError> {
        let ours = self.paced(self.reach.shards().names_at(vnode, places.clone(), deadline()));
        let mut keys: BTreeSet<(NamespaceId, Key)> = ours.await?.into_iter().collect();
        keys.extend(self.names(vnode, places).await?);
        let mut addresses = Vec::with_capacity(keys.len());
        for (namespace, key) in keys {
            addresses.extend(self.reach.address((vnode, self.owner), namespace, key)?);
        }
        for mut addresses in addresses.chunks(KEYS_MAX) {
            while !addresses.is_empty() {
                let held = self.paced(self.reach.read(self.owner, addresses)).await?;
                let (now, later) = addresses.split_at(held.len());
                addresses = later;
                // One that cannot be read there is mended there.
                let items = now.iter().cloned().zip(held);
                let items = items.filter_map(|(address, held)| Some((address, held.ok()?)));
                let items: Vec<_> = items.collect();
                let bytes = items.iter().map(|(_, object)| object.0.len() as u64).sum();
                self.parts.metrics.trees().fetched(items.len() as u64, bytes);
                self.reach.merge(items.into_iter()).await?;
            }
        }
        Ok(())
    }

    async fn summaries(&self, vnodes: &[VnodeId]) -> Result<Vec<Option<Summary>>, RequestError> {
        match self.ask(TreeRequest::Summaries(vnodes.to_vec())).await? {
            TreeReply::Summaries(told) if told.len() == vnodes.len() => Ok(told),
            _ => Err(self.nonsense()),
        }
    }

    async fn children(
        &self,
        vnode: VnodeId,
        branches: Vec<Node>,
    ) -> Result<Option<Vec<Children>>, RequestError> {
        let asked = branches.len();
        match self.ask(TreeRequest::Branches(vnode, branches)).await? {
            TreeReply::Branches(None) => Ok(None),
            TreeReply::Branches(Some(told)) if told.len() == asked => Ok(Some(told)),
            _ => Err(self.nonsense()),
        }
    }

    async fn leaves(
        &self,
        vnode: VnodeId,
        leaves: &[Leaf],
    ) -> Result<Vec<Option<Listing>>, RequestError> {
        match self.ask(TreeRequest::Leaves(vnode, leaves.to_vec())).await? {
            TreeReply::Leaves(told) if (1..=leaves.len()).contains(&told.len()) => Ok(told),
            _ => Err(self.nonsense()),
        }
    }

    async fn names(
        &self,
        vnode: VnodeId,
        places: Vec<Place>,
    ) -> Result<Vec<(NamespaceId, Key)>, RequestError> {
        match self.ask(TreeRequest::Names(vnode, places)).await? {
            TreeReply::Names(names) => Ok(names),
            _ => Err(self.nonsense()),
        }
    }

    async fn ask(&self, asked: TreeRequest) -> Result<TreeReply, RequestError> {
        let asked = self.reach.ask(self.owner, Request::Trees(asked), WHAT);
        match self.paced(asked).await? {
            Reply::Trees(told) => Ok(told),
            _ => Err(self.nonsense()),
        }
    }

    fn nonsense(&self) -> RequestError {
        self.reach.failed(self.owner, WHAT, "the answer made no sense")
    }

    async fn paced<T>(&self, step: impl Future<Output = T>) -> T {
        PACE.keep(&self.parts.env, step).await
    }
}

const WHAT: &str = "its trees of hashes";

impl Worker for CompareTrees {
    fn name(&self) -> &'static str {
        "trees"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        self.rounds.due().boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        self.rounds.run(self.parts.round()).boxed()
    }
}
