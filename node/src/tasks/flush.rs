//! Puts buffered writes on disk, at least every so often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::{Step, Worker};
use crate::env::Env;
use crate::storage::Engine;
use crate::telemetry::Metrics;

/// Syncs the engine whenever something was applied since the last time.
///
/// After a failed sync the operating system may have dropped the pages that it could not write, so
/// nothing is called synced any more, and nothing more is written, until the store is opened again.
pub struct Flush {
    /// What to sync; the disk hears of its failures.
    pub engine: Arc<dyn Engine>,
    /// Whether there is anything to sync; shards set it.
    pub dirty: Arc<AtomicBool>,
    /// The pause between two syncs.
    pub every: Duration,
    /// Where it runs.
    pub env: Env,
    /// Hears how long it took.
    pub metrics: Arc<Metrics>,
}

impl Worker for Flush {
    fn name(&self) -> &'static str {
        "flush"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        sleep(self.every).boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            // Cleared first: what is applied while the disk works is the next round's.
            if !self.dirty.swap(false, Ordering::AcqRel) {
                return Step::Done;
            }
            let (engine, started) = (self.engine.clone(), Instant::now());
            // The disk heard of a failure, and says it.
            let _ = self.env.block(move || engine.sync()).await;
            self.metrics.synced(started.elapsed());
            Step::Done
        }
        .boxed()
    }
}
