//! What a node does by itself, in the background: each task is one [`Worker`], all run by [`run`].
//!
//! A worker does one bounded step at a time and then says when to come back, so that it can be
//! stopped between steps and never starves requests. Left out: pausing and listing workers, which
//! come with the tasks that need a pace.

mod clocks;
mod flush;
mod forget;
mod observe;
mod sweep;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use self::clocks::CompareClocks;
pub use self::flush::Flush;
pub use self::forget::ForgetOperations;
pub use self::observe::{Observe, Observed};
pub use self::sweep::Sweep;
use crate::error::RequestError;

/// What a step came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is done until there is work again.
    Done,
    /// It failed; the worker tries again.
    Failed(RequestError),
    /// It failed for good, and the node must not serve on.
    Fatal(String),
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

/// Runs a worker until `stop`. A fatal step is told to `fatal`.
pub async fn run(
    mut worker: impl Worker,
    stop: CancellationToken,
    fatal: impl FnOnce(String) + Send,
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
            Step::Fatal(reason) => {
                tracing::error!(worker = worker.name(), %reason, "the node cannot serve on");
                return fatal(reason);
            }
        }
    }
}
