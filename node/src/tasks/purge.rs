//! Purge: values that expired leave the disk, once a majority of their owners would hide them.
//!
//! Clocks are those that the members told last when [`CompareClocks`](super::CompareClocks) asked them. One that
//! does not answer any more stays where it was, and so does not help to purge what expires since. One that was
//! wrong when it was heard last counts as it was then, until it is heard again.
//!
//! Left out: hints. They go home, and are purged there.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::pull::{Reach, deadline};
use super::rounds::Pace;
use super::{Step, Worker};
use crate::cluster::view::View;
use crate::coordinator::Coordinator;
use crate::dynamo::arrival::Way;
use crate::dynamo::key::VnodeId;
use crate::dynamo::ttl::purged_until_ms;
use crate::env::Env;
use crate::error::RequestError;
use crate::shard::PurgeUntil;
use crate::telemetry::Metrics;

/// How often it is looked: nobody sees what waits, and it costs little.
const EVERY: Duration = Duration::from_secs(2);

/// It takes a tenth of a shard's time at most.
const PACE: Pace = Pace { times: 9, pause: (Duration::from_millis(1), Duration::from_secs(10)) };

/// What purging works with.
pub struct PurgeParts {
    /// This node's partitions.
    pub coordinator: Arc<Coordinator>,
    /// Where it runs.
    pub env: Env,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// Ends a round that waits.
    pub stop: CancellationToken,
}

/// Removes values that expired, again and again.
pub struct Purge(PurgeParts);

impl Purge {
    /// Of a node that begins now.
    pub fn new(parts: PurgeParts) -> Self {
        Self(parts)
    }
}

impl PurgeParts {
    /// All partitions, until nothing is due.
    async fn round(&self) -> Result<(), RequestError> {
        let coordinator = &*self.coordinator;
        let Some(view) = coordinator.cluster().view() else { return Ok(()) };
        loop {
            let owned = (Reach { coordinator, view: &view, way: Way::default() }).owned();
            let due = owned.into_iter().filter_map(|vnode| self.due(&view, vnode)).collect();
            let purge = coordinator.shards().purge(due, deadline());
            let purged = PACE.keep(&self.env, purge).await?;
            self.metrics.expiry().purged(purged.values as u64);
            self.metrics.expiry().waiting(purged.waiting as u64);
            if !purged.more {
                return Ok(());
            }
        }
    }

    /// Up to when values of a partition may be purged, by the clocks that its owners told.
    fn due(&self, view: &View, vnode: VnodeId) -> Option<PurgeUntil> {
        let owners = view.preference(vnode)?.owners();
        let clocks = self.coordinator.clocks();
        let own = clocks.read().wall_ms;
        let told = clocks.skew();
        let here = self.coordinator.node();
        let clock = |&node| if node == here { Some(own) } else { told.told_ms(node) };
        let reported = owners.iter().filter_map(clock);
        let until_ms = purged_until_ms(reported, owners.len(), clocks.max_ms())?;
        Some((vnode, until_ms))
    }
}

impl Worker for Purge {
    fn name(&self) -> &'static str {
        "purge"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        sleep(EVERY).boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            match self.0.stop.run_until_cancelled(self.0.round()).await {
                None | Some(Ok(())) => Step::Done,
                Some(Err(error)) => Step::Failed(error),
            }
        }
        .boxed()
    }
}
