//! Snapshots for scans: sled has none, so what is overwritten while a scan lives is kept for it.
//!
//! ```text
//!   scan over a..z begins      rows a=1 c=1            keeps {}
//!   batch: b=2, c=2            rows a=1 b=2 c=2        keeps {b: absent, c: 1}
//!   scan reads a..z            a=1 and, of what is kept, c=1
//! ```
//!
//! Only the first value that is replaced counts, and only of rows that the scan has not passed yet.
//! So a scan costs a writer nothing unless it writes where the scan is going, and memory in proportion
//! to that. A scan that is dropped early, as most are, has read no more than a few rows.

use std::collections::BTreeMap;
use std::collections::vec_deque::VecDeque;
use std::ops::RangeBounds;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::{SledEngine, failed, rows};
use crate::storage::{EngineError, KeyRange};

const ACTION: &str = "scan";

/// Rows that are read at a time: a few first, since most scans want no more, then ever more.
const ROWS_FIRST: usize = 4;
const ROWS_MAX: usize = 256;

/// A reading ends after so many bytes, too: writers wait for it.
const BYTES_MAX: usize = 256 << 10;

type Row = (Bytes, Bytes);

/// The scans that live.
#[derive(Default)]
pub(super) struct Snapshots {
    live: BTreeMap<u64, Mutex<Snapshot>>,
    next: u64,
}

struct Snapshot {
    /// What the scan has not read yet.
    rest: KeyRange,
    /// What was there before it was replaced; none if nothing was.
    kept: BTreeMap<Bytes, Option<Bytes>>,
}

impl Snapshots {
    fn begin(&mut self, rest: KeyRange) -> u64 {
        self.next += 1;
        let snapshot = Snapshot { rest, kept: BTreeMap::new() };
        self.live.insert(self.next, Mutex::new(snapshot));
        self.next
    }

    /// Whether any scan will want to know what `row` held.
    pub(super) fn want(&mut self, row: &Bytes) -> bool {
        self.live.values_mut().any(|snapshot| inner(snapshot).wants(row))
    }

    /// Keeps what `row` held for those who want it.
    pub(super) fn keep(&mut self, row: &Bytes, value: Option<Bytes>) {
        for snapshot in self.live.values_mut().map(inner).filter(|snapshot| snapshot.wants(row)) {
            snapshot.kept.insert(row.clone(), value.clone());
        }
    }
}

#[cfg(test)]
impl Snapshots {
    /// How many rows are kept.
    pub(super) fn kept(&mut self) -> usize {
        self.live.values_mut().map(|snapshot| inner(snapshot).kept.len()).sum()
    }
}

fn inner(snapshot: &mut Mutex<Snapshot>) -> &mut Snapshot {
    snapshot.get_mut().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshot {
    fn wants(&self, row: &Bytes) -> bool {
        self.rest.contains(row) && !self.kept.contains_key(row)
    }

    /// What the scan is to see of `rows`, which are what lies between where it stood and `read`, or
    /// the end; it has passed them then.
    fn pass(&mut self, rows: Vec<Row>, read: Option<Bytes>) -> VecDeque<Row> {
        let later = match &read {
            None => BTreeMap::new(),
            Some(read) => {
                let mut later = self.kept.split_off(read);
                if let Some(kept) = later.remove(read) {
                    self.kept.insert(read.clone(), kept);
                }
                later
            }
        };
        let kept = std::mem::replace(&mut self.kept, later);
        if let Some(read) = read {
            self.rest = std::mem::replace(&mut self.rest, KeyRange::all()).after(read);
        }
        if kept.is_empty() {
            return rows.into();
        }
        let mut seen: BTreeMap<Bytes, Bytes> = rows.into_iter().collect();
        for (row, value) in kept {
            match value {
                Some(value) => drop(seen.insert(row, value)),
                None => drop(seen.remove(&row)),
            }
        }
        seen.into_iter().collect()
    }
}

/// A walk over rows as they were when it began; nothing is left after an error.
pub(super) struct SledScan<'a> {
    engine: &'a SledEngine,
    snapshot: u64,
    read: VecDeque<Row>,
    rows: usize,
    complete: bool,
}

impl<'a> SledScan<'a> {
    /// Begins a scan of `range`, which is not empty.
    pub(super) fn new(engine: &'a SledEngine, range: KeyRange) -> Self {
        let mut snapshots = engine.snapshots.write().unwrap_or_else(PoisonError::into_inner);
        let snapshot = snapshots.begin(range);
        Self { engine, snapshot, read: VecDeque::new(), rows: ROWS_FIRST, complete: false }
    }

    /// Reads on; no batch is applied meanwhile.
    fn read_on(&mut self) -> Result<(), EngineError> {
        let engine = self.engine;
        let snapshots = engine.snapshots.read().unwrap_or_else(PoisonError::into_inner);
        let snapshot = snapshots.live.get(&self.snapshot).expect("it ends with this scan");
        let mut snapshot = snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rows, mut bytes) = (Vec::<Row>::with_capacity(self.rows), 0);
        self.complete = true;
        for row in engine.db().range(snapshot.rest.clone()) {
            let (row, stored) = row.map_err(failed(ACTION))?;
            rows::rise(ACTION, rows.last().map(|(last, _)| &last[..]), &row)?;
            let value = rows::value(engine.db(), &stored)?;
            bytes += row.len() + value.len();
            rows.push((Bytes::copy_from_slice(&row), value));
            if rows.len() == self.rows || bytes >= BYTES_MAX {
                self.complete = false;
                break;
            }
        }
        let last = rows.last().filter(|_| !self.complete).map(|(row, _)| row.clone());
        self.read = snapshot.pass(rows, last);
        self.rows = ROWS_MAX.min(2 * self.rows);
        Ok(())
    }
}

impl Iterator for SledScan<'_> {
    type Item = Result<Row, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.read.is_empty() && !self.complete {
            let engine = self.engine;
            let readable = engine.queue.check_readable();
            let read = readable.and_then(|()| engine.contained(ACTION, || self.read_on()));
            if let Err(error) = read {
                self.complete = true;
                return Some(Err(error));
            }
        }
        self.read.pop_front().map(Ok)
    }
}

impl Drop for SledScan<'_> {
    fn drop(&mut self) {
        let snapshots = &self.engine.snapshots;
        snapshots.write().unwrap_or_else(PoisonError::into_inner).live.remove(&self.snapshot);
    }
}
