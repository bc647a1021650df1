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
use super::store::{RowError, RowOutcome, Store};
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

    /// The jobs that wait; they will not start.
    fn give_up(&mut self) -> Vec<Job> {
        let waiting: Vec<Job> = self.waiting.values_mut().flat_map(|lane| lane.drain(..)).collect();
        self.held -= waiting.len();
        waiting
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

/// Why the pipeline ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// All rows were read.
    Read,
    /// The cluster takes no rows, for this reason; the rest of the file was not read.
    Hopeless(String),
}

/// Stores every row. An error of the file ends the reading, and so does a cluster that takes no
/// more rows; those in flight are waited for.
pub(super) async fn run(
    store: &impl Store,
    mut source: Source,
    report: &mut Report,
) -> io::Result<End> {
    let mut lanes = Lanes::default();
    let mut flying = FuturesUnordered::new();
    let mut read = None;
    loop {
        tokio::select! {
            biased;
            Some((job, result)) = flying.next(), if !flying.is_empty() => {
                let reason = reason_of(&result);
                let next = on_ended(job, result, &mut lanes, report);
                flying.extend(next.map(|job| fly(store, job)));
                if let (None, Some(reason), true) = (&read, reason, report.is_hopeless()) {
                    for job in lanes.give_up() {
                        report.on_error(job.line, job.bytes, &not_tried());
                    }
                    read = Some(Ok(End::Hopeless(reason)));
                }
            }
            row = source.next(), if read.is_none() && lanes.has_room() => match row {
                Ok(Some(row)) => {
                    let start = on_row(row, &mut lanes, report);
                    flying.extend(start.map(|job| fly(store, job)));
                }
                Ok(None) => read = Some(Ok(End::Read)),
                Err(error) => read = Some(Err(error)),
            },
            else => break,
        }
    }
    read.expect("the loop goes on while there may be rows to read")
}

fn reason_of(result: &Result<(), RowError>) -> Option<String> {
    result.as_ref().err().map(|error| error.reason.clone())
}

fn not_tried() -> RowError {
    let reason = "not tried, since rows before it could not be stored".to_owned();
    RowError { outcome: RowOutcome::Failed, reason, is_retryable: true }
}

async fn fly(store: &impl Store, job: Job) -> (Job, Result<(), RowError>) {
    let result = store.store(job.pair.clone()).await;
    (job, result.map(drop))
}

/// A row was read: the job that may start, if it may.
fn on_row(row: Row, lanes: &mut Lanes, report: &mut Report) -> Option<Job> {
    let Row { line, bytes, content } = row;
    report.on_read(line, bytes);
    match content {
        Ok(pair) => {
            report.on_key(&pair.key, line);
            if report.is_stored(line) {
                report.on_stored(line, bytes);
                return None;
            }
            lanes.admit(Job { line, bytes, pair })
        }
        Err(reason) => {
            report.on_bad(line, bytes, reason);
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
        Ok(()) => report.on_stored(job.line, job.bytes),
        Err(error) => report.on_error(job.line, job.bytes, &error),
    }
    lanes.release(&job.pair.key)
}
