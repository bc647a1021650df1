//! What a node does by itself, in the background: each task is one [`Worker`], all run by [`run`].
//!
//! A worker does one bounded step at a time and then says when to come back, so that it can be
//! stopped between steps and never starves requests. Left out: pausing and listing workers, which
//! come with the tasks that need a pace.

mod clocks;
mod disk;
mod exchange;
mod flush;
mod forget;
mod gossip;
mod handoff;
mod observe;
mod outstanding;
mod pull;
mod purge;
mod refill;
mod rounds;
mod scrub;
mod sweep;
mod trees;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use self::clocks::CompareClocks;
pub use self::disk::WatchDisk;
pub use self::exchange::{EXCHANGE_EVERY, Exchange, ExchangeParts};
pub use self::flush::Flush;
pub use self::forget::ForgetOperations;
pub use self::gossip::{Gossip, GossipParts};
pub use self::handoff::{Handoff, HandoffParts};
pub use self::observe::{Observe, Observed};
pub use self::outstanding::{AskHints, AskHintsParts};
pub use self::purge::{Purge, PurgeParts};
pub use self::refill::{Refill, RefillParts};
pub use self::scrub::{Scrub, ScrubParts};
pub use self::sweep::Sweep;
pub use self::trees::{COMPARE_TREES_EVERY, CompareTrees, CompareTreesParts};
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

/// Runs a worker until `stop`. A step that ends the replica is told to `reopen`. Of steps that fail in
/// the same way one after another, the first is logged, and the end of it.
pub async fn run(
    mut worker: impl Worker,
    stop: CancellationToken,
    reopen: impl FnOnce(String) + Send,
) {
    let mut failing = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = worker.wait_for_work() => {}
        }
        match worker.work().await {
            Step::Done => {
                if failing.take().is_some() {
                    tracing::info!(worker = worker.name(), "the background task goes on");
                }
            }
            Step::Failed(error) => {
                let kind = Some(error.kind());
                if std::mem::replace(&mut failing, kind) != kind {
                    tracing::warn!(worker = worker.name(), %error, "a background task failed");
                }
            }
            Step::Reopen(reason) => {
                tracing::warn!(worker = worker.name(), %reason, "the store is to be opened again");
                return reopen(reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use futures::FutureExt as _;

    use super::*;

    /// Does these steps, last first.
    struct Scripted(Vec<Step>);

    impl Worker for Scripted {
        fn name(&self) -> &'static str {
            "scripted"
        }

        fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
            std::future::ready(()).boxed()
        }

        fn work(&mut self) -> BoxFuture<'_, Step> {
            let step = self.0.pop().expect("the last one ends the worker");
            std::future::ready(step).boxed()
        }
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panics").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_task_that_fails_again_and_again_is_logged_once() {
        let full = || Step::Failed(RequestError::DiskFull { reason: "full".to_owned() });
        let failed = || Step::Failed(RequestError::DiskFailed { reason: "broken".to_owned() });
        let mut steps = vec![full(), full(), failed(), failed(), Step::Done, Step::Done, failed()];
        steps.push(Step::Reopen("the end".to_owned()));
        steps.reverse();
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let guard = tracing::subscriber::set_default(subscriber);
        run(Scripted(steps), CancellationToken::new(), drop).await;
        drop(guard);
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let told = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!((told("error=full"), told("error=broken")), (1, 2), "{text}");
        assert_eq!(told("the background task goes on"), 1, "{text}");
    }
}
