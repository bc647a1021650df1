//! Watches how much space is left, and whether a disk that was full has some again.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::sleep;

use super::{Step, Worker};
use crate::env::Env;
use crate::error::RequestError;
use crate::storage::disk::{Disk, DiskProbe, DiskState};
use crate::telemetry::Metrics;

/// How often: a disk that takes 200 MB a second needs longer for the default reserve.
const EVERY: Duration = Duration::from_secs(1);

/// Keeps what is known of the disk up to date. Once a full one has space again it ends the replica,
/// to be started again: only a new opening of the store knows what the last writes came to.
pub struct WatchDisk {
    disk: Arc<Disk>,
    probe: DiskProbe,
    env: Env,
    metrics: Arc<Metrics>,
    pause: Duration,
}

/// What one look has found.
struct Look {
    free_bytes: u64,
    /// Whether something can be written; tried only where it matters.
    has_space: bool,
}

impl WatchDisk {
    /// Of this directory's file system. The first look is at once.
    pub fn new(disk: Arc<Disk>, probe: DiskProbe, env: Env, metrics: Arc<Metrics>) -> Self {
        Self { disk, probe, env, metrics, pause: Duration::ZERO }
    }

    async fn look(&self) -> std::io::Result<Look> {
        let (probe, state) = (self.probe.clone(), self.disk.state());
        let look = move || {
            let free_bytes = probe.free_bytes()?;
            let asks = matches!(state, DiskState::Full { .. } | DiskState::Poisoned { .. });
            let has_space = free_bytes >= probe.reserve_bytes && (!asks || probe.has_space()?);
            Ok(Look { free_bytes, has_space })
        };
        self.env.block(look).await
    }
}

impl Worker for WatchDisk {
    fn name(&self) -> &'static str {
        "watch_disk"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        sleep(std::mem::replace(&mut self.pause, EVERY)).boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            let step = match (self.look().await, self.disk.state()) {
                (Ok(Look { free_bytes, has_space }), state) => {
                    self.metrics.disk().free_bytes(free_bytes);
                    self.disk.on_free(free_bytes, self.probe.reserve_bytes);
                    self.disk.on_cause(!has_space);
                    match state {
                        DiskState::Full { reason } if has_space => Step::Reopen(reason),
                        _ => Step::Done,
                    }
                }
                // A disk on which a file cannot be made has more than a lack of space.
                (Err(error), _) => {
                    self.disk.on_cause(false);
                    let reason =
                        format!("cannot look at {}: {error}", self.probe.directory.display());
                    Step::Failed(RequestError::Data { reason })
                }
            };
            self.metrics.disk().refuses_writes(self.disk.refusal().is_some());
            step
        }
        .boxed()
    }
}
