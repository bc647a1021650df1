//! When an owner's values expire: an index of its objects by deadline, in the batches of the objects.
//!
//! ```text
//!   a value until 50 is written     + a row (50, key)
//!   it is to live until 90          - (50, key)   + (90, key)
//!   it persists, or is replaced     - (90, key)
//! ```
//!
//! A row says where to look, and the object whether there is anything to purge: a row that is left over is
//! deleted when its time comes. Where rows are damaged the index is made anew with the tree of hashes, among
//! whose rows they lie.

use bytes::Bytes;

use super::tree::Staged;
use crate::dynamo::key::VnodeId;
use crate::error::RequestError;
use crate::storage::record;
use crate::storage::{Batch, EngineError, KeyRange, Space};

/// Rows of a partition that are counted, and not yet due, at most.
const WAITING_MAX: usize = 1024;

/// The index of one partition.
#[derive(Debug)]
pub(super) struct Deadlines {
    id: VnodeId,
    /// No row is of an earlier time; none: there is no row.
    first_ms: Option<u64>,
}

/// What the index says.
#[derive(Default, Debug)]
pub(super) struct Due {
    /// When something expires, and where the object lies.
    pub(super) rows: Vec<(u64, Bytes)>,
    /// How many rows are expired besides.
    pub(super) waiting: usize,
    /// Whether some of those are due too.
    pub(super) more: bool,
}

impl Deadlines {
    /// Of which nothing is known before it is looked at.
    pub(super) fn open(id: VnodeId) -> Self {
        Self { id, first_ms: Some(0) }
    }

    /// Rows may have come that were not told.
    pub(super) fn forget(&mut self) {
        self.first_ms = Some(0);
    }

    /// Whether there may be rows up to this time.
    pub(super) fn reach(&self, ms: u64) -> bool {
        self.first_ms.is_some_and(|first_ms| first_ms <= ms)
    }

    /// The batch leaves other values at `stored`.
    pub(super) fn changed(
        &mut self,
        batch: &mut Batch,
        stored: &Bytes,
        (before, after): (&[u64], &[u64]),
    ) {
        let kept = planted!("persist_forgotten_by_purge");
        for &gone in before.iter().filter(|ms| !after.contains(ms) && !kept) {
            batch.delete(Space::Trees, record::deadline_key(self.id, gone, stored));
        }
        for &new in after.iter().filter(|ms| !before.contains(ms)) {
            put(batch, self.id, new, stored);
            self.first_ms = Some(self.first_ms.map_or(new, |first_ms| first_ms.min(new)));
        }
    }

    /// Up to so many rows that are due at `until_ms`, the earliest first; none if the index is damaged.
    pub(super) fn due(
        &mut self,
        staged: &Staged<'_>,
        (until_ms, now_ms): (u64, u64),
        most: usize,
    ) -> Result<Option<Due>, RequestError> {
        let prefix = record::deadlines_prefix(self.id);
        let (mut due, mut first_ms) = (Due::default(), None);
        for row in staged.engine.scan(Space::Trees, KeyRange::prefix(&prefix)) {
            let (key, sealed) = match row {
                Err(EngineError::Corrupt { .. }) => return Ok(None),
                row => row?,
            };
            let Some((ms, stored)) = record::expiring(&key) else { return Ok(None) };
            if record::open(&key, &sealed).is_err() {
                return Ok(None);
            }
            if ms <= until_ms && due.rows.len() < most {
                due.rows.push((ms, stored));
                continue;
            }
            first_ms = first_ms.or(Some(ms));
            due.more |= ms <= until_ms;
            if ms > now_ms || due.waiting == WAITING_MAX {
                break;
            }
            due.waiting += 1;
        }
        // What this turn brings is not in the engine yet.
        let of_turn = staged.batch.iter().filter(|(space, key, value)| {
            *space == Space::Trees && value.is_some() && key.starts_with(&prefix)
        });
        let of_turn = of_turn.filter_map(|(_, key, _)| record::expiring(key)).map(|(ms, _)| ms);
        self.first_ms = first_ms.into_iter().chain(of_turn).min();
        Ok(Some(due))
    }
}

/// Stages a row.
pub(super) fn put(batch: &mut Batch, id: VnodeId, deadline_ms: u64, stored: &Bytes) {
    let key = record::deadline_key(id, deadline_ms, stored);
    let sealed = record::seal(&key, &[]);
    batch.put(Space::Trees, key, sealed);
}
