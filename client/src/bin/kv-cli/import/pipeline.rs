//! Keeps a bounded number of rows in flight, in groups, and rows of one key in the order of the file.
//!
//! ```text
//!   file: a1 b1 a2 c1 d1     in flight: (a1 b1 c1) (d1)     waiting behind a1: a2
//! ```
//!
//! A group takes off when it is full, or when there is nothing else to do: a file that is read
//! slowly waits for nobody. What a group leaves open goes on row by row.
//!
//! When the cluster has taken no row for long enough, all rows are given up at once. Those under way
//! may be many more than go on alone at a time, and each would take its own time to fail.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::future::{Future, pending};
use std::io;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::report::Report;
use super::source::Source;
use super::store::{Doubt, RowError, RowOutcome, Store, Tried};
use crate::formats::{Pair, Row};

/// How many rows a group has, and bytes of values but for its last row: past that, more of them save
/// little.
const GROUP_MAX: usize = 64;
const GROUP_BYTES: usize = 1 << 20;

/// How many rows are written at once: enough groups to hide the round trips to a cluster nearby, few
/// enough not to crowd out its other clients.
const IN_FLIGHT_MAX: usize = 4 * GROUP_MAX;

/// How many rows go on alone at once. If batches fail since the cluster is slow, as many single
/// requests as there are rows would be the last thing that it needs.
const ALONE_MAX: usize = GROUP_MAX;

/// How many rows are held in all, and bytes of values but for the last row. Rows of one key cannot
/// fly together, so a file that repeats a key stops the reading here.
const HELD_MAX: usize = 2 * IN_FLIGHT_MAX;
const HELD_BYTES: usize = 16 << 20;

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
    held_bytes: usize,
}

impl Lanes {
    fn has_room(&self) -> bool {
        self.waiting.len() < IN_FLIGHT_MAX && self.held < HELD_MAX && self.held_bytes < HELD_BYTES
    }

    /// The job, if it may start; else it waits behind the one of its key.
    fn admit(&mut self, job: Job) -> Option<Job> {
        self.held += 1;
        self.held_bytes += job.pair.value.len();
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
        self.held_bytes -= waiting.iter().map(|job| job.pair.value.len()).sum::<usize>();
        waiting
    }

    /// The job of this pair, which was in flight, has ended: the next one of its key, if there is one.
    fn release(&mut self, Pair { key, value }: &Pair) -> Option<Job> {
        assert!(self.held > 0, "a job that ended was admitted");
        self.held -= 1;
        self.held_bytes -= value.len();
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

/// The rows that take off next.
#[derive(Default)]
struct Group {
    jobs: Vec<Job>,
    bytes: usize,
}

impl Group {
    fn add(&mut self, job: Option<Job>) {
        self.bytes += job.as_ref().map_or(0, |job| job.pair.value.len());
        self.jobs.extend(job);
    }

    fn is_full(&self) -> bool {
        self.jobs.len() >= GROUP_MAX || self.bytes >= GROUP_BYTES
    }
}

/// Stores every row. An error of the file ends the reading, and those in flight are waited for; a
/// cluster that takes no more rows ends everything.
pub(super) async fn run<S: Store>(
    store: &S,
    mut source: Source,
    report: &mut Report,
) -> io::Result<End> {
    let (mut lanes, mut group) = (Lanes::default(), Group::default());
    let (mut groups, mut alone) = (FuturesUnordered::new(), FuturesUnordered::new());
    let (mut ended, mut open, mut read) = (VecDeque::new(), VecDeque::new(), None);
    let over = watch::Sender::new(false);
    loop {
        if !*over.borrow()
            && let Some(reason) = report.hopeless()
        {
            give_up(&mut lanes, &mut group, report);
            over.send_replace(true);
            read = read.filter(Result::is_err).or(Some(Ok(End::Hopeless(reason))));
        }
        if group.is_full() {
            groups.push(fly(store, std::mem::take(&mut group), over.subscribe()));
        }
        if let Some((job, result)) = ended.pop_front() {
            let next = on_ended(job, result, &mut lanes, report);
            group.add(next);
            continue;
        }
        while alone.len() < ALONE_MAX
            && let Some((job, row)) = open.pop_front()
        {
            alone.push(fly_alone(store, job, row, over.subscribe()));
        }
        let is_busy = !groups.is_empty() || !alone.is_empty();
        let idle_since = (!is_busy).then(Instant::now);
        tokio::select! {
            biased;
            () = no_hope(report), if is_busy && !*over.borrow() => {}
            Some(row) = alone.next(), if !alone.is_empty() => ended.push_back(row),
            Some(flown) = groups.next(), if !groups.is_empty() => {
                let (done, left) = sorted::<S>(flown);
                ended.extend(done);
                open.extend(left);
            }
            row = source.next(), if read.is_none() && lanes.has_room() => match row {
                Ok(Some(row)) => group.add(on_row(row, &mut lanes, report)),
                Ok(None) => read = Some(Ok(End::Read)),
                Err(error) => read = Some(Err(error)),
            },
            () = std::future::ready(()), if !group.jobs.is_empty() => {
                groups.push(fly(store, std::mem::take(&mut group), over.subscribe()));
            }
            else => break,
        }
        if let Some(since) = idle_since {
            report.on_idle(since.elapsed());
        }
    }
    read.expect("the loop goes on while there may be rows to read")
}

/// Waits until there is no hope for what is under way.
async fn no_hope(report: &Report) {
    match report.hopeless_at() {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// What has not taken off does not.
fn give_up(lanes: &mut Lanes, group: &mut Group, report: &mut Report) {
    let waiting = lanes.give_up();
    let forming = std::mem::take(group).jobs;
    for job in &forming {
        lanes.release(&job.pair);
    }
    for job in waiting.into_iter().chain(forming) {
        report.on_error(job.line, job.bytes, &not_tried());
    }
}

fn not_tried() -> RowError {
    let reason = "not tried, since rows before it could not be stored".to_owned();
    RowError { outcome: RowOutcome::Failed, reason, is_retryable: true }
}

/// A row that ended.
type Ended = (Job, Result<(), RowError>);

/// A row that a group tried.
type Flown<S> = (Job, Tried<<S as Store>::Stored, <S as Store>::Alone>);

async fn fly<S: Store>(store: &S, group: Group, over: Over) -> Vec<Flown<S>> {
    let (pairs, doubt) =
        (group.jobs.iter().map(|job| job.pair.clone()).collect(), Doubt::default());
    let tried = until(over, store.store_all(pairs, &doubt)).await.unwrap_or_else(|| {
        group.jobs.iter().map(|_| Tried::Ended(Err(given_up(&doubt)))).collect()
    });
    assert_eq!(tried.len(), group.jobs.len(), "every row of a group was tried");
    group.jobs.into_iter().zip(tried).collect()
}

async fn fly_alone<S: Store>(store: &S, job: Job, row: S::Alone, over: Over) -> Ended {
    let doubt = Doubt::default();
    let result = until(over, store.store(row, &doubt)).await;
    (job, result.unwrap_or_else(|| Err(given_up(&doubt))).map(drop))
}

/// Tells rows under way that all are given up.
type Over = watch::Receiver<bool>;

/// What comes of it, unless it is given up before. It is begun in any case, so that it tells of a row
/// that was in doubt already.
async fn until<T>(mut over: Over, flight: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        ended = flight => Some(ended),
        _ = over.wait_for(|over| *over) => None,
    }
}

/// A row that was under way when all were given up.
fn given_up(doubt: &Doubt) -> RowError {
    let reason = "given up, since rows before it could not be stored".to_owned();
    RowError { outcome: doubt.outcome(), reason, is_retryable: true }
}

/// The rows of a group that ended, and those that go on.
fn sorted<S: Store>(flown: Vec<Flown<S>>) -> (Vec<Ended>, Vec<(Job, S::Alone)>) {
    let (mut ended, mut open) = (Vec::with_capacity(flown.len()), Vec::new());
    for (job, tried) in flown {
        match tried {
            Tried::Ended(result) => ended.push((job, result.map(drop))),
            Tried::Alone(row) => open.push((job, row)),
        }
    }
    (ended, open)
}

/// A row was read: the job that may start, if it may.
fn on_row(row: Row, lanes: &mut Lanes, report: &mut Report) -> Option<Job> {
    let Row { line, bytes, note, content } = row;
    report.on_read(line, bytes);
    note.iter().for_each(|note| report.on_note(line, note));
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
    lanes.release(&job.pair)
}
