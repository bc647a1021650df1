//! Deletes what dropped namespaces left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Step, Worker};
use crate::cluster::Cluster;
use crate::dynamo::key::NamespaceId;
use crate::shard::{LiveNamespaces, Shards};
use crate::signal::Changes;

/// The pause before a sweep that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// When it is looked again for what a namespace left that was dropped: past the longest request.
const LINGER: Duration = Duration::from_secs(90);

/// After each change of the metadata, and once at the start, drops every object and hint whose namespace
/// no longer exists. A write that was under way when its namespace was dropped may leave some behind;
/// nobody can read them, since namespace ids are never used again, but nobody takes such a hint either:
/// so it is looked again once no such write can be under way.
pub struct Sweep {
    cluster: Arc<Cluster>,
    shards: Shards,
    changes: Changes<u64>,
    swept: Option<BTreeSet<NamespaceId>>,
    retry: bool,
    /// When to look again.
    linger: Option<Instant>,
}

impl Sweep {
    /// Of these shards, by what `cluster` knows.
    pub fn new(cluster: Arc<Cluster>, shards: Shards) -> Self {
        let changes = cluster.changes();
        Self { cluster, shards, changes, swept: None, retry: true, linger: None }
    }
}

impl Worker for Sweep {
    fn name(&self) -> &'static str {
        "sweep"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        async {
            if std::mem::take(&mut self.retry) {
                return sleep(RETRY).await;
            }
            let linger = self.linger.unwrap_or_else(|| Instant::now() + LINGER);
            tokio::select! {
                biased;
                _ = self.changes.changed() => {}
                () = sleep_until(linger) => {}
            }
        }
        .boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            let Some(view) = self.cluster.view() else { return Step::Done };
            let known: BTreeSet<_> = view.document().namespaces.iter().map(|n| n.id).collect();
            let dropped = match &self.swept {
                None => true,
                Some(before) => before.difference(&known).next().is_some(),
            };
            let lingered = self.linger.take_if(|at| Instant::now() >= *at).is_some();
            if !dropped && !lingered {
                self.swept = Some(known);
                return Step::Done;
            }
            let next = NamespaceId(view.document().next_namespace);
            let live = LiveNamespaces { known: known.clone(), next };
            match self.shards.sweep(live).await {
                Ok(objects) => {
                    if dropped && self.swept.is_some() {
                        self.linger = Some(Instant::now() + LINGER);
                    }
                    if objects > 0 {
                        tracing::info!(objects, "dropped namespaces were swept");
                    }
                    self.swept = Some(known);
                    Step::Done
                }
                Err(error) => {
                    self.retry = true;
                    self.linger = lingered.then(Instant::now).or(self.linger);
                    Step::Failed(error)
                }
            }
        }
        .boxed()
    }
}
