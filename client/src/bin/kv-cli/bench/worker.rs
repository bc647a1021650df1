//! One of the workers: one operation after another until the time is over.

use std::sync::Arc;
use std::time::Duration;

use quorate_client::{Error, GetOptions, Namespace, PutOptions, Read, Retry, WriteError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::contexts::{Contexts, Known};
use super::load::{Keys, Schedule, Values};
use super::report::Report;
use crate::args::Workload;

/// What all workers share.
pub(super) struct Bench {
    pub(super) namespace: Namespace,
    pub(super) workload: Workload,
    pub(super) keys: Keys,
    pub(super) values: Values,
    pub(super) contexts: Contexts,
    /// Of each operation.
    pub(super) timeout: Duration,
}

/// How an operation ended that was not ok.
const UNKNOWN: &str = "unknown";

/// One worker.
pub(super) struct Worker {
    bench: Arc<Bench>,
    schedule: Arc<Schedule>,
    rng: ChaCha8Rng,
    report: Report,
}

impl Worker {
    pub(super) fn new(bench: Arc<Bench>, schedule: Arc<Schedule>, number: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(number);
        Self { bench, schedule, rng, report: Report::default() }
    }

    /// Works, and says how it went.
    pub(super) async fn run(mut self) -> Report {
        while let Some(since) = self.schedule.next().await {
            let key = self.bench.keys.pick(&mut self.rng);
            let writes = match self.bench.workload {
                Workload::Read => false,
                Workload::Write => true,
                Workload::Mixed => self.rng.random(),
            };
            let result = if writes { self.write(key).await } else { self.read(key).await };
            self.report.on_ended(since.elapsed(), result.err());
        }
        self.report
    }

    async fn read(&mut self, key: u64) -> Result<(), &'static str> {
        let deadline = Instant::now() + self.bench.timeout;
        let read = self.get(key, deadline).await.map_err(|error| error.kind().as_str())?;
        self.report.not_found += u64::from(read.siblings.is_empty());
        self.bench.contexts.on_read(key, read.context);
        Ok(())
    }

    async fn write(&mut self, key: u64) -> Result<(), &'static str> {
        let deadline = Instant::now() + self.bench.timeout;
        let context = match self.bench.contexts.of(key) {
            Known::Nothing => None,
            Known::Covered(context) => Some(context),
            Known::Siblings => {
                self.get(key, deadline).await.map_err(|error| error.kind().as_str())?.context
            }
        };
        let options = PutOptions {
            context,
            retry: Retry::AtLeastOnce,
            timeout: Some(deadline.saturating_duration_since(Instant::now())),
            ..PutOptions::default()
        };
        let value = self.bench.values.slice(self.rng.random());
        match self.bench.namespace.put(Keys::name(key), value, options).await {
            Ok(written) => {
                self.report.retries += u64::from(written.attempts.saturating_sub(1));
                self.bench.contexts.on_reply(key, written.context);
                Ok(())
            }
            Err(WriteError::NotApplied { error }) => Err(error.kind().as_str()),
            Err(WriteError::Unknown { .. }) => {
                // It may stand there, covered by no context that is known.
                self.bench.contexts.on_reply(key, None);
                Err(UNKNOWN)
            }
        }
    }

    async fn get(&self, key: u64, deadline: Instant) -> Result<Read, Error> {
        let timeout = Some(deadline.saturating_duration_since(Instant::now()));
        let options = GetOptions { timeout, ..GetOptions::default() };
        self.bench.namespace.get(Keys::name(key), options).await
    }
}
