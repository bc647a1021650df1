//! One of the workers: one operation after another until the time is over.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use quorate_client::{
    BatchEntry, BatchOptions, Context, Error, ErrorKind, GetOptions, Namespace, PutOptions, Quorum,
    Read, Retry, WriteError, Written,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::contexts::{Contexts, Known};
use super::load::{Keys, Schedule, Values};
use super::report::{Failure, Report, Reports};
use crate::args::Workload;

/// What all workers share.
pub(super) struct Bench {
    pub(super) namespace: Namespace,
    pub(super) workload: Workload,
    pub(super) keys: Keys,
    pub(super) values: Values,
    pub(super) contexts: Contexts,
    /// Keys of one operation.
    pub(super) batch: usize,
    /// Whether fallbacks may stand in for owners.
    pub(super) quorum: Quorum,
    /// What becomes of writes whose outcome is unknown.
    pub(super) retry: Retry,
    /// Of each operation.
    pub(super) timeout: Duration,
    pub(super) reports: Reports,
}

/// One worker.
pub(super) struct Worker {
    bench: Arc<Bench>,
    schedule: Arc<Schedule>,
    number: u64,
    rng: ChaCha8Rng,
}

impl Worker {
    pub(super) fn new(bench: Arc<Bench>, schedule: Arc<Schedule>, number: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(number);
        Self { bench, schedule, number, rng }
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.bench.reports.of(self.number)
    }

    /// Works, and counts how it goes.
    pub(super) async fn run(mut self) {
        while let Some(since) = self.schedule.next().await {
            let writes = match self.bench.workload {
                Workload::Read => false,
                Workload::Write => true,
                Workload::Mixed => self.rng.random(),
            };
            if self.bench.batch > 1 {
                let keys = self.bench.keys.pick_batch(self.bench.batch, &mut self.rng);
                let failures = match writes {
                    true => self.write_batch(&keys).await,
                    false => self.read_batch(&keys).await,
                };
                self.report().on_batch_ended(since.elapsed(), &failures);
                continue;
            }
            let key = self.bench.keys.pick(&mut self.rng);
            let result = if writes { self.write(key).await } else { self.read(key).await };
            self.report().on_ended(since.elapsed(), result.err().as_ref());
        }
    }

    async fn read(&mut self, key: u64) -> Result<(), Failure> {
        let deadline = Instant::now() + self.bench.timeout;
        let read = self.get(key, deadline).await;
        self.on_read(key, read)
    }

    fn on_read(&mut self, key: u64, read: Result<Read, Error>) -> Result<(), Failure> {
        let read = read?;
        self.report().not_found += u64::from(read.siblings.is_empty());
        self.bench.contexts.on_read(key, read.context);
        Ok(())
    }

    /// How each key ended.
    async fn read_batch(&mut self, keys: &[u64]) -> Vec<Option<Failure>> {
        let options = self.reading(Instant::now() + self.bench.timeout);
        let names = keys.iter().map(|&key| Keys::name(key));
        let reads = self.bench.namespace.batch_get(names, options).await;
        keys.iter().zip(reads).map(|(&key, read)| self.on_read(key, read).err()).collect()
    }

    /// How each key ended. Keys whose siblings have to be read first are read first, together.
    async fn write_batch(&mut self, keys: &[u64]) -> Vec<Option<Failure>> {
        let deadline = Instant::now() + self.bench.timeout;
        let (contexts, mut errors) = self.contexts(keys, deadline).await;
        let known: Vec<usize> = (0..keys.len()).filter(|&at| errors[at].is_none()).collect();
        let write = |&at: &usize| {
            let value = self.bench.values.slice(self.rng.random());
            BatchEntry::put(Keys::name(keys[at]), value, contexts[at].clone())
        };
        let entries: Vec<_> = known.iter().map(write).collect();
        let options = BatchOptions {
            quorum: self.bench.quorum,
            retry: self.bench.retry,
            timeout: Some(deadline.saturating_duration_since(Instant::now())),
            ..BatchOptions::default()
        };
        let written = self.bench.namespace.batch_put(entries, options).await;
        for (at, written) in known.into_iter().zip(written) {
            errors[at] = self.on_written(keys[at], written).err();
        }
        errors
    }

    /// What each write replaces, and why that is not known.
    async fn contexts(
        &self,
        keys: &[u64],
        deadline: Instant,
    ) -> (Vec<Option<Context>>, Vec<Option<Failure>>) {
        let mut errors: Vec<_> = keys.iter().map(|_| None).collect();
        let mut unread = Vec::new();
        let known = |(at, &key): (usize, &u64)| match self.bench.contexts.of(key) {
            Known::Nothing => None,
            Known::Covered(context) => Some(context),
            Known::Siblings => {
                unread.push(at);
                None
            }
        };
        let mut contexts: Vec<_> = keys.iter().enumerate().map(known).collect();
        let options = self.reading(deadline);
        let names: Vec<_> = unread.iter().map(|&at| Keys::name(keys[at])).collect();
        let reads = self.bench.namespace.batch_get(names, options).await;
        for (at, read) in unread.into_iter().zip(reads) {
            match read {
                Ok(read) => contexts[at] = read.context,
                Err(error) => errors[at] = Some(error.into()),
            }
        }
        (contexts, errors)
    }

    async fn write(&mut self, key: u64) -> Result<(), Failure> {
        let deadline = Instant::now() + self.bench.timeout;
        let context = match self.bench.contexts.of(key) {
            Known::Nothing => None,
            Known::Covered(context) => Some(context),
            Known::Siblings => self.get(key, deadline).await?.context,
        };
        let options = PutOptions {
            context,
            quorum: self.bench.quorum,
            retry: self.bench.retry,
            timeout: Some(deadline.saturating_duration_since(Instant::now())),
            ..PutOptions::default()
        };
        let value = self.bench.values.slice(self.rng.random());
        let written = self.bench.namespace.put(Keys::name(key), value, options).await;
        self.on_written(key, written)
    }

    fn on_written(
        &mut self,
        key: u64,
        written: Result<Written, WriteError>,
    ) -> Result<(), Failure> {
        match written {
            Ok(written) => {
                self.report().retries += u64::from(written.attempts.saturating_sub(1));
                self.bench.contexts.on_reply(key, written.context);
                Ok(())
            }
            Err(failed) => {
                let is_unclear = match &failed {
                    // It may stand there, covered by no context that is known.
                    WriteError::Unknown { .. } => true,
                    // So many stand there already: only a write that covers them is taken.
                    WriteError::NotApplied { error } => error.kind() == ErrorKind::Conflict,
                };
                if is_unclear {
                    self.bench.contexts.on_reply(key, None);
                }
                Err(failed.into())
            }
        }
    }

    async fn get(&self, key: u64, deadline: Instant) -> Result<Read, Error> {
        self.bench.namespace.get(Keys::name(key), self.reading(deadline)).await
    }

    fn reading(&self, deadline: Instant) -> GetOptions {
        let timeout = Some(deadline.saturating_duration_since(Instant::now()));
        GetOptions { quorum: self.bench.quorum, timeout, ..GetOptions::default() }
    }
}
