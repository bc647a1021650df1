//! Scrub: this node reads again what it holds, slowly, so that what rots on its disk is found before anybody
//! asks for it.
//!
//! ```text
//!   each day, each partition, some leaves of its tree at a time: read their records
//!     a checksum is wrong                ► the record is mended by what every other owner holds
//!     the leaf is not what they come to  ► something was lost: the tree is made anew, the frontier forgotten,
//!                                          and the other owners' trees tell what is missing
//! ```
//!
//! The pause after a step is many times as long as the step took, so that requests hardly notice.
//!
//! Left out: objects that no leaf names. No batch leaves such a one, and a name that rots shows in its leaf.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::pull::{Reach, deadline};
use super::rounds::{Pace, Rounds};
use super::{Step, Worker};
use crate::coordinator::Coordinator;
use crate::dynamo::arrival::Way;
use crate::dynamo::key::VnodeId;
use crate::dynamo::merkle::Leaf;
use crate::env::Env;
use crate::error::RequestError;
use crate::telemetry::Metrics;

/// It takes a twentieth of a shard's time at most.
const PACE: Pace = Pace { times: 19, pause: (Duration::from_millis(5), Duration::from_secs(60)) };

/// What the scrub works with.
pub struct ScrubParts {
    /// This node's partitions.
    pub coordinator: Arc<Coordinator>,
    /// Where it runs.
    pub env: Env,
    /// Where it is measured.
    pub metrics: Arc<Metrics>,
    /// How long a round begins after the last one ended, at least.
    pub every: Duration,
    /// Ends a round that waits.
    pub stop: CancellationToken,
}

/// Reads all that this node holds, again and again.
pub struct Scrub {
    parts: ScrubParts,
    rounds: Rounds,
}

impl Scrub {
    /// Of a node that begins now.
    pub fn new(parts: ScrubParts) -> Self {
        let rounds = Rounds::new(&parts.env, parts.every, parts.stop.clone());
        Self { parts, rounds }
    }
}

impl ScrubParts {
    /// All partitions; the first thing that failed.
    async fn round(&self) -> Result<(), RequestError> {
        let coordinator = &*self.coordinator;
        let Some(view) = coordinator.cluster().view() else { return Ok(()) };
        let mut failed = None;
        for vnode in (Reach { coordinator, view: &view, way: Way::default() }).owned() {
            if let Err(error) = self.partition(vnode).await {
                failed.get_or_insert(error);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.metrics.trees().scrubbed();
        Ok(())
    }

    async fn partition(&self, vnode: VnodeId) -> Result<(), RequestError> {
        let shards = self.coordinator.shards();
        let mut next = Some(Leaf(0));
        while let Some(first) = next {
            while !PACE.keep(&self.env, shards.ready_tree(vnode, deadline())).await? {}
            let (scrubbed, damaged) =
                PACE.keep(&self.env, shards.scrub(vnode, first, deadline())).await?;
            for (namespace, key) in damaged {
                self.coordinator.mend_here(namespace, key);
            }
            self.metrics.trees().reread(scrubbed.records);
            next = scrubbed.next;
        }
        Ok(())
    }
}

impl Worker for Scrub {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        self.rounds.due().boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        self.rounds.run(self.parts.round()).boxed()
    }
}
