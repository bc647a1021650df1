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

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::pull::{Pull, Pulled, Reach};
use super::{Step, Worker};
use crate::cluster::view::View;
use crate::coordinator::Coordinator;
use crate::dynamo::arrival::Way;
use crate::dynamo::key::{NodeId, VnodeId};
use crate::dynamo::standing::unheard;
use crate::env::Env;
use crate::error::RequestError;
use crate::standing::Heard;
use crate::telemetry::Metrics;

/// The shortest pause between two pages.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The pause when nobody who is still to be heard can be asked, or somebody failed.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the newest metadata is looked for at the end.
const REFRESH: Duration = Duration::from_secs(2);

/// What the refill works with.
pub struct RefillParts {
    /// This node's partitions, what is known of its standing, and its way to the other owners.
    pub coordinator: Arc<Coordinator>,
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
    current: Option<Pull>,
    pause: Duration,
    warned: bool,
    /// Whether the last step failed.
    failing: bool,
}

impl Refill {
    /// A refill that has asked nobody yet.
    pub fn new(parts: RefillParts) -> Self {
        let (queue, current, pause) = (VecDeque::new(), None, PAUSE_MIN);
        Self { parts, queue, current, pause, warned: false, failing: false }
    }

    async fn step(&mut self) -> Result<Duration, RequestError> {
        let Some(view) = self.parts.coordinator.cluster().view() else { return Ok(AGAIN) };
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
    async fn next_source(&mut self, view: &View) -> Result<Option<Pull>, RequestError> {
        if self.queue.is_empty() {
            self.queue = self.round(view).await?;
        }
        let next = self.queue.pop_front();
        Ok(next.map(|(vnode, owner)| Pull::new(vnode, owner)))
    }

    /// Whom to ask about what: whoever is still to be heard, and can be. Partitions for which nobody
    /// is left are complete.
    async fn round(&mut self, view: &View) -> Result<VecDeque<(VnodeId, NodeId)>, RequestError> {
        let (mut queue, mut away) = (VecDeque::new(), BTreeSet::new());
        for vnode in self.owned(view) {
            let heard = self.parts.coordinator.standings().heard(vnode);
            if heard.complete {
                continue;
            }
            let left = self.left(view, vnode, &heard);
            if left.is_empty() {
                self.keep(vnode, Heard { complete: true, ..heard }).await?;
            }
            for owner in left {
                if self.parts.coordinator.peers().connected(owner) {
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
            self.parts.coordinator.cluster().fetch_from(owner).await?;
        }
        Ok(())
    }

    fn tell(&self, view: &View, away: &BTreeSet<NodeId>) {
        let owned = self.owned(view);
        let complete =
            owned.iter().filter(|v| self.parts.coordinator.standings().of(**v).is_good()).count();
        let names: Vec<String> = away.iter().map(|node| view.name_of(*node)).collect();
        self.parts.metrics.rebuild_vnodes_left(owned.len() - complete);
        self.parts.coordinator.standings().tell(|progress| {
            progress.vnodes = owned.len();
            progress.complete = complete;
            progress.waiting_for = names.join(", ");
        });
    }

    fn owned(&self, view: &View) -> Vec<VnodeId> {
        let mine = |vnode: &VnodeId| {
            view.preference(*vnode).is_some_and(|list| list.is_owner(self.parts.coordinator.node()))
        };
        view.vnodes().filter(mine).collect()
    }

    fn left(&self, view: &View, vnode: VnodeId, heard: &Heard) -> Vec<NodeId> {
        let owners = view.preference(vnode).map(|list| list.owners()).unwrap_or_default();
        unheard(owners, self.parts.coordinator.node(), &heard.told, &self.parts.excused).collect()
    }

    /// One page of what the owner holds; none when it has told all.
    async fn advance(&mut self, view: &View, mut pull: Pull) -> Result<Option<Pull>, RequestError> {
        let reach = Reach { coordinator: &self.parts.coordinator, view, way: Way::Rebuild };
        let objects = match pull.step(&reach).await? {
            Pulled::All => return self.told_all(view, pull).await.map(|()| None),
            Pulled::Page { objects, .. } => objects,
        };
        self.parts.metrics.rebuild_objects(objects);
        let failed = std::mem::take(&mut self.failing);
        self.parts.coordinator.standings().tell(|progress| {
            progress.objects += objects;
            if failed {
                progress.waiting_for.clear();
            }
        });
        Ok(Some(pull))
    }

    /// The owner told all: keeps that, after what it told.
    async fn told_all(&mut self, view: &View, source: Pull) -> Result<(), RequestError> {
        let mut heard = self.parts.coordinator.standings().heard(source.vnode);
        heard.told.insert(source.owner);
        heard.complete = self.left(view, source.vnode, &heard).is_empty();
        let complete = heard.complete;
        self.keep(source.vnode, heard).await?;
        if complete {
            self.parts.coordinator.standings().tell(|progress| {
                progress.complete += 1;
                let left = progress.vnodes.saturating_sub(progress.complete);
                self.parts.metrics.rebuild_vnodes_left(left);
            });
        }
        Ok(())
    }

    async fn keep(&self, vnode: VnodeId, heard: Heard) -> Result<(), RequestError> {
        let standings = self.parts.coordinator.standings().clone();
        let kept = self.parts.env.block(move || standings.keep(vnode, heard)).await;
        kept.map_err(RequestError::from)
    }

    /// Nobody can be asked any more: the store is whole, or somebody is waited for.
    async fn end_of_round(&mut self, view: &View) -> Result<Duration, RequestError> {
        let good = |vnode: &VnodeId| self.parts.coordinator.standings().heard(*vnode).complete;
        if !self.owned(view).iter().all(good) {
            return Ok(AGAIN);
        }
        // A namespace that this node never heard of may have a placement group of its own.
        let away: BTreeSet<NodeId> = view.document().members.iter().map(|m| m.node).collect();
        let away = away.into_iter().filter(|node| {
            let asked = *node == self.parts.coordinator.node()
                || self.parts.coordinator.peers().connected(*node);
            !asked && !self.parts.excused.contains(node)
        });
        let away: BTreeSet<NodeId> = away.collect();
        self.tell(view, &away);
        self.parts.coordinator.cluster().refresh(REFRESH).await?;
        if !away.is_empty() || self.parts.coordinator.cluster().version() != view.document().version
        {
            return Ok(AGAIN);
        }
        let standings = self.parts.coordinator.standings().clone();
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

impl Worker for Refill {
    fn name(&self) -> &'static str {
        "refill"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        async {
            let mut progress = self.parts.coordinator.standings().progress();
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
                    self.parts
                        .coordinator
                        .standings()
                        .tell(|now| now.waiting_for = error.to_string());
                    Step::Failed(error)
                }
            }
        }
        .boxed()
    }
}
