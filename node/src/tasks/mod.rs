//! What a node does by itself, in the background: each task is one [`Worker`], all run by [`run`].
//!
//! A worker does one bounded step at a time and then says when to come back, so that it can be
//! stopped between steps and never starves requests. Left out: pausing and listing workers, which
//! come with the tasks that need a pace.

mod disk;
mod flush;
mod forget;
mod observe;
mod refill;
mod sweep;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use self::disk::WatchDisk;
pub use self::flush::Flush;
pub use self::forget::ForgetOperations;
pub use self::observe::{Observe, Observed};
pub use self::refill::{Refill, RefillParts};
pub use self::sweep::Sweep;
use crate::error::RequestError;

/// What a step came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is done until there is work again.
    Done,
    /// It failed; the worker tries again.
    Failed(RequestError),
    /// The store is to be opened again, by ending the replica and starting it anew.
    Reopen(String),
}

/// One background task.
pub trait Worker: Send + 'static {
    /// Its name, for logs.
    fn name(&self) -> &'static str;

    /// Waits until there is something to do.
    fn wait_for_work(&mut self) -> BoxFuture<'_, ()>;

    /// Does it.
    fn work(&mut self) -> BoxFuture<'_, Step>;
}

/// Runs a worker until `stop`. A step that ends the replica is told to `reopen`.
pub async fn run(
    mut worker: impl Worker,
    stop: CancellationToken,
    reopen: impl FnOnce(String) + Send,
) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = worker.wait_for_work() => {}
        }
        match worker.work().await {
            Step::Done => {}
            Step::Failed(error) => {
                tracing::warn!(worker = worker.name(), %error, "a background task failed");
            }
            Step::Reopen(reason) => {
                tracing::warn!(worker = worker.name(), %reason, "the store is to be opened again");
                return reopen(reason);
            }
        }
    }
}
