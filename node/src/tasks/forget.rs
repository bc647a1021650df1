//! Forgets operations past the hour for which retries are recognised.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::sleep;

use super::{Step, Worker};
use crate::shard::Shards;

/// How often: a few times within the hour for which they are kept.
const EVERY: Duration = Duration::from_secs(600);

/// The pause between two batches of one round, so that requests pass between them.
const BETWEEN: Duration = Duration::from_millis(100);

/// Deletes old rows of the operation index.
pub struct ForgetOperations {
    shards: Shards,
    more: bool,
}

impl ForgetOperations {
    /// Of these shards.
    pub fn new(shards: Shards) -> Self {
        Self { shards, more: false }
    }
}

impl Worker for ForgetOperations {
    fn name(&self) -> &'static str {
        "forget_operations"
    }

    fn wait_for_work(&mut self) -> BoxFuture<'_, ()> {
        sleep(if self.more { BETWEEN } else { EVERY }).boxed()
    }

    fn work(&mut self) -> BoxFuture<'_, Step> {
        async {
            match self.shards.forget_operations().await {
                Ok(forgotten) => {
                    self.more = forgotten > 0;
                    Step::Done
                }
                Err(error) => {
                    self.more = false;
                    Step::Failed(error)
                }
            }
        }
        .boxed()
    }
}
