//! How many rows there must be, and the sum of their hashes: a row of each batch.
//!
//! sled checks every page that it reads, but its recovery takes a damaged part of the log for an
//! unused one: it goes on with an older page, or without it. The census knows better. It travels in
//! the batch whose effect it counts, so that it is true of every prefix of the batches and of nothing
//! else; an opening adds up all rows and compares.
//!
//! ```text
//!   put k = new over old     rows + 0,  sum - hash(k, old) + hash(k, new)
//!   a page came back stale   sum differs
//!   a page is gone           rows and sum differ
//!   the log was cut          both agree with an earlier batch: that is the mark's to notice
//! ```
//!
//! The hashes are no defence against somebody who forges a store; nor is the rest of it.

use bytes::{Buf, BufMut};
use sled::Db;

use super::{bound, failed, rows};
use crate::storage::EngineError;

const ACTION: &str = "count its rows";

/// The sums over a store after its last batch.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Census {
    /// How many batches were applied, the empty ones left out.
    pub(super) batches: u64,
    /// How many keys there are.
    pub(super) keys: u64,
    rows: u64,
    sum: u64,
}

impl Census {
    /// Counts a row in.
    pub(super) fn add(&mut self, row: &[u8], stored: &[u8]) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(rows::hash(row, stored));
    }

    /// Counts a row out.
    pub(super) fn remove(&mut self, row: &[u8], stored: &[u8]) {
        self.remove_many(1, rows::hash(row, stored));
    }

    /// Counts so many rows out, whose hashes add up to `sum`.
    pub(super) fn remove_many(&mut self, rows: u64, sum: u64) {
        debug_assert!(self.rows >= rows, "what is removed was counted");
        self.rows = self.rows.wrapping_sub(rows);
        self.sum = self.sum.wrapping_sub(sum);
    }

    /// As it is stored.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.put_u64_le(self.batches);
        out.put_u64_le(self.keys);
        out.put_u64_le(self.rows);
        out.put_u64_le(self.sum);
        out
    }

    fn decode(mut stored: &[u8]) -> Option<Self> {
        (stored.len() == 32).then(|| Self {
            batches: stored.get_u64_le(),
            keys: stored.get_u64_le(),
            rows: stored.get_u64_le(),
            sum: stored.get_u64_le(),
        })
    }

    /// Counts every row; the stored census, if that is what it says.
    pub(super) fn verify(db: &Db) -> Result<Self, EngineError> {
        let corrupt = |detail| EngineError::Corrupt { action: ACTION, detail };
        let mut counted = Self::default();
        let mut stored = None;
        let mut last = None;
        for row in db.iter() {
            bound::step();
            let (row, value) = row.map_err(failed(ACTION))?;
            rows::rise(ACTION, last.as_deref(), &row)?;
            if row == rows::CENSUS {
                let read = Self::decode(&value);
                stored = Some(read.ok_or_else(|| corrupt("its census is no census".to_owned()))?);
            } else {
                counted.add(&row, &value);
            }
            last = Some(row);
        }
        let stored = stored.unwrap_or_default();
        match (stored.rows, stored.sum) == (counted.rows, counted.sum) {
            true => Ok(stored),
            false if stored.rows == counted.rows => {
                Err(corrupt(format!("of {} rows some are not the last written", stored.rows)))
            }
            false => Err(corrupt(format!("{} rows of {} are there", counted.rows, stored.rows))),
        }
    }
}
