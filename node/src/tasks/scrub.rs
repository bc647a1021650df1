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
use rand_chacha::ChaCha8Rng;
use rand_core::Rng as _;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::pull::PAGE_TIMEOUT;
use super::{Step, Worker};
use crate::coordinator::Coordinator;
use crate::dynamo::key::VnodeId;
use crate::dynamo::merkle::Leaf;
use crate::env::Env;
use crate::error::RequestError;
use crate::telemetry::Metrics;

/// The pause after a step is so many times as long: it takes a twentieth of a shard's time at most.
const PAUSES: u32 = 19;

/// The shortest one.
const PAUSE_MIN: Duration = Duration::from_millis(5);

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
    rng: ChaCha8Rng,
    wakes: Instant,
}

impl Scrub {
    /// Of a node that begins now.
    pub fn new(parts: ScrubParts) -> Self {
        let rng = parts.env.rng();
        let mut scrub = Self { parts, rng, wakes: Instant::now() };
        scrub.wakes = scrub.next_round();
        scrub
    }

    /// Rounds of nodes that started together must not stay together.
    fn next_round(&mut self) -> Instant {
        let every = self.parts.every;
        let jitter_ms = (every.as_millis() as u64 / 2).max(1);
        Instant::now() + every + Duration::from_millis(self.rng.next_u64() % jitter_ms)
    }

    /// All partitions; the first thing that failed.
    async fn round(&self) -> Result<(), RequestError> {
        let coordinator = &self.parts.coordinator;
        let Some(view) = coordinator.cluster().view() else { return Ok(()) };
        let (me, mut failed) = (coordinator.node(), None);
        let is_ours = |vnode: &VnodeId| view.preference(*vnode).is_some_and(|l| l.is_owner(me));
        for vnode in view.vnodes().filter(is_ours) {
            if let Err(error) = self.partition(vnode).await {
                failed.get_or_insert(error);
            }
        }
        self.parts.metrics.trees().scrubbed();
        failed.map_or(Ok(()), Err)
    }

    async fn partition(&self, vnode: VnodeId) -> Result<(), RequestError> {
        let shards = self.parts.coordinator.shards();
        let mut next = Some(Leaf(0));
        while let Some(first) = next {
            while !self.paced(shards.ready_tree(vnode, deadline())).await? {}
            let (scrubbed, damaged) = self.paced(shards.scrub(vnode, first, deadline())).await?;
            for (namespace, key) in damaged {
                self.parts.coordinator.mend_here(namespace, key);
            }
            self.parts.metrics.trees().reread(scrubbed.records);
            next = scrubbed.next;
        }
        Ok(())
    }

    /// Does something, and then nothing for much longer.
    async fn paced<T>(&self, step: impl Future<Output = T>) -> T {
        self.parts.env.pause().over().await;
        let began = Instant::now();
        let done = step.await;
        sleep((began.elapsed() * PAUSES).max(PAUSE_MIN)).await;
        done
    }
}

fn deadline() -> Instant {
    Instant::now() + PAGE_TIMEOUT
}

impl Worker for Scrub {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        sleep_until(self.wakes).boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            let stop = self.parts.stop.clone();
            let done = stop.run_until_cancelled(self.round()).await;
            self.wakes = self.next_round();
            match done {
                None | Some(Ok(())) => Step::Done,
                Some(Err(error)) => Step::Failed(error),
            }
        }
        .boxed()
    }
}
