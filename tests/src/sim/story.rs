//! Runs that tell a story instead of drawing it from a seed: a test says what happens, step by step.
//!
//! Like every test of the simulator it says how much it did, in one line; so a test in which nobody
//! asks anything any more does not pass unnoticed:
//!
//! ```text
//!   seeds=1 operations=42
//! ```
//!
//! An operation is what a client asks of one key, or a page of a scan; a question that is asked again
//! counts again. Clients meet nodes as [`Door`]s, which count. Left out: requests to the handlers,
//! which whoever sends them counts with [`add`].

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;

use anyhow::Result;
use quorate_node::coordinator::{
    Coordinator, Get, GetBatch, Put, PutBatch, ReadAnswer, ScanCursor, ScanPart, ScanRequest,
};
use quorate_node::error::{RequestError, WriteError};
use quorate_node::transport::WriteResult;

use super::simulate;

thread_local! {
    /// A run is one thread, and others run beside it.
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

/// Counts so many operations that clients ask on this thread.
pub fn add(operations: usize) {
    ASKED.set(ASKED.get() + operations as u64);
}

/// Runs one story on one thread with paused time, and says how much there was to it.
pub fn story<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    counted(1, || simulate(work))
}

/// Makes runs from so many seeds, and says how much there was to all of them together.
#[allow(clippy::print_stdout, reason = "a test says which runs it made")]
pub fn counted<T>(seeds: u64, runs: impl FnOnce() -> T) -> T {
    let before = ASKED.get();
    let done = runs();
    println!("seeds={seeds} operations={}", ASKED.get() - before);
    done
}

/// A coordinator as clients meet it: what they ask is counted.
#[derive(Clone)]
pub struct Door(pub(super) Arc<Coordinator>);

impl Deref for Door {
    type Target = Coordinator;

    fn deref(&self) -> &Coordinator {
        &self.0
    }
}

impl Door {
    /// A write, or a delete.
    pub async fn put(&self, put: Put) -> Result<WriteResult, WriteError> {
        add(1);
        self.0.put(put).await
    }

    /// Many of them: an operation each.
    pub async fn put_batch(
        &self,
        batch: PutBatch,
    ) -> Result<Vec<Result<WriteResult, WriteError>>, RequestError> {
        add(batch.entries.len());
        self.0.put_batch(batch).await
    }

    /// A read.
    pub async fn get(&self, get: Get) -> Result<ReadAnswer, RequestError> {
        add(1);
        self.0.get(get).await
    }

    /// Many of them: an operation each.
    pub async fn get_batch(
        &self,
        batch: GetBatch,
    ) -> Result<Vec<Result<ReadAnswer, RequestError>>, RequestError> {
        add(batch.keys.len());
        self.0.get_batch(batch).await
    }

    /// A page of a scan.
    pub async fn scan(
        &self,
        scan: &ScanRequest,
        cursor: ScanCursor,
    ) -> Result<ScanPart, RequestError> {
        add(1);
        self.0.scan(scan, cursor).await
    }
}
