//! Keeps a bounded number of rows in flight, and rows of one key in the order of the file.
//!
//! ```text
//!   file: a1 b1 a2 c1        in flight: a1 b1 c1     waiting behind a1: a2
//! ```

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::io;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::report::Report;
use super::source::Source;
use super::store::{RowError, Store};
use crate::formats::{Pair, Row};

/// How many rows are written at once: enough to hide the round trips to a cluster nearby, few
/// enough not to crowd out its other clients.
const IN_FLIGHT_MAX: usize = 64;

/// How many rows are held in all. Rows of one key cannot fly together, so a file that repeats a
/// key stops the reading here.
const HELD_MAX: usize = 256;

/// A good row.
struct Job {
    line: u64,
    bytes: u64,
    pair: Pair,
}

/// Rows in flight, one for each key, and those that wait behind them.
#[derive(Default)]
struct Lanes {
    waiting: HashMap<Bytes, VecDeque<Job>>,
    held: usize,
}

impl Lanes {
    fn has_room(&self) -> bool {
        self.waiting.len() < IN_FLIGHT_MAX && self.held < HELD_MAX
    }

    /// The job, if it may start; else it waits behind the one of its key.
    fn admit(&mut self, job: Job) -> Option<Job> {
        self.held += 1;
        if let Some(lane) = self.waiting.get_mut(&job.pair.key) {
            lane.push_back(job);
            return None;
        }
        self.waiting.insert(job.pair.key.clone(), VecDeque::new());
        Some(job)
    }

    /// The job of `key` that was in flight has ended: the next one, if there is one.
    fn release(&mut self, key: &Bytes) -> Option<Job> {
        assert!(self.held > 0, "a job that ended was admitted");
        self.held -= 1;
        let next = self.waiting.get_mut(key).and_then(VecDeque::pop_front);
        if next.is_none() {
            self.waiting.remove(key);
        }
        next
    }
}

/// Stores every row. An error of the file ends the reading; rows read before it are stored.
pub(super) async fn run(
    store: &impl Store,
    mut source: Source,
    report: &mut Report,
) -> io::Result<()> {
    let mut lanes = Lanes::default();
    let mut flying = FuturesUnordered::new();
    let mut read = None;
    loop {
        tokio::select! {
            biased;
            Some((job, result)) = flying.next(), if !flying.is_empty() => {
                let next = on_ended(job, result, &mut lanes, report);
                flying.extend(next.map(|job| fly(store, job)));
            }
            row = source.next(), if read.is_none() && lanes.has_room() => match row {
                Ok(Some(row)) => {
                    let start = on_row(row, &mut lanes, report);
                    flying.extend(start.map(|job| fly(store, job)));
                }
                Ok(None) => read = Some(Ok(())),
                Err(error) => read = Some(Err(error)),
            },
            else => break,
        }
    }
    read.expect("the loop goes on while there may be rows to read")
}

async fn fly(store: &impl Store, job: Job) -> (Job, Result<(), RowError>) {
    let result = store.store(job.pair.clone()).await;
    (job, result.map(drop))
}

/// A row was read: the job that may start, if it may.
fn on_row(row: Row, lanes: &mut Lanes, report: &mut Report) -> Option<Job> {
    let Row { line, bytes, content } = row;
    report.on_read(bytes);
    match content {
        Ok(pair) => {
            report.on_key(&pair.key, line);
            lanes.admit(Job { line, bytes, pair })
        }
        Err(reason) => {
            report.on_error(line, bytes, &RowError::Failed(reason));
            None
        }
    }
}

/// A job ended: the one that waited behind it, if there is one.
fn on_ended(
    job: Job,
    result: Result<(), RowError>,
    lanes: &mut Lanes,
    report: &mut Report,
) -> Option<Job> {
    match result {
        Ok(()) => report.on_stored(job.bytes),
        Err(error) => report.on_error(job.line, job.bytes, &error),
    }
    lanes.release(&job.pair.key)
}
