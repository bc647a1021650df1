//! What a node keeps for each target, over all of its partitions: how much, since when, and in which
//! places of the queue.
//!
//! The engine has the queues themselves; this has their sums, which are asked for all the time, and is
//! made from the engine at each opening. It takes as much memory as there are targets. Where a queue
//! begins cannot be told from sums once its first place is empty: then the engine is asked again.
//!
//! ```text
//!   batch applied ──► sums change ──► answers        so whoever was answered is counted
//! ```
//!
//! Numbers begin anew at each opening, above all of the openings before. What is taken in beyond the
//! bound is refused; a turn of each shard may go beyond it, since they ask at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::dynamo::hint::{Debt, HintQueue, Owed};
use crate::dynamo::key::NodeId;
use crate::error::RequestError;
use crate::storage::record;
use crate::storage::{Batch, Engine, EngineError, Space, hints};

/// Numbers of one opening; of openings there may be as many as are left: 16 million.
const NUMBERS: u64 = 1 << 40;

/// How long a coordinator is to wait before another try, in milliseconds: hints go home when their
/// target is back.
const RETRY_AFTER_MS: u32 = 1000;

/// Whom an object is owed to, before and after a turn.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Change {
    before: Owed,
    after: Owed,
}

/// What a turn does to hints, told once its batch was applied.
#[derive(Default, Debug)]
pub struct Hinted {
    changes: Vec<Change>,
    /// How many hints were taken in.
    pub accepted: u64,
    /// How many were refused for want of room.
    pub refused: u64,
}

impl Hinted {
    /// Whether any hint was taken in or refused.
    pub fn is_some(&self) -> bool {
        self.accepted + self.refused > 0
    }
}

/// The sums of one target's queue.
#[derive(Clone, Copy, Default, Debug)]
struct Sums {
    count: u64,
    bytes: u64,
    /// Number and time of the first place, or of one that was it and is empty.
    first: Option<(u64, u64)>,
    last: u64,
    /// The first of those taken in since somebody began to look for the first.
    lowest: Option<(u64, u64)>,
}

impl Sums {
    fn add(&mut self, debt: Debt, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
        self.last = self.last.max(debt.seq);
        let place = Some((debt.seq, debt.since_ms));
        for first in [&mut self.first, &mut self.lowest] {
            if first.is_none_or(|(seq, _)| debt.seq < seq) {
                *first = place;
            }
        }
    }
}

/// The queues of hints of one node.
#[derive(Debug)]
pub struct HintQueues {
    max_bytes: u64,
    /// Which opening of the store it is, of those that gave numbers.
    opening: u64,
    /// The number given last.
    given: AtomicU64,
    /// Of all hints, once each; those that are staged count.
    bytes: AtomicU64,
    /// How many more the hint would have taken that was refused last; 0: none was.
    refused: AtomicU64,
    /// Whether rows could not be read, so that the sums say too little.
    partial: bool,
    sums: Mutex<BTreeMap<NodeId, Sums>>,
}

impl HintQueues {
    /// What the engine holds; at most so many bytes are to be kept.
    pub fn open(engine: &dyn Engine, max_bytes: u64) -> Result<Self, EngineError> {
        let (mut queues, mut damaged) = (Self::empty(max_bytes), BTreeSet::new());
        for row in hints::scan_owed(engine, Bytes::new()) {
            let (key, sealed) = match row {
                Ok(row) => row,
                Err(error @ EngineError::Corrupt { .. }) => {
                    tracing::error!(%error, "not all hints can be read; those that can go home");
                    queues.partial = true;
                    break;
                }
                Err(error) => return Err(error),
            };
            match hints::open_owed(&key, &sealed) {
                Ok(owed) => queues.found(owed),
                Err(_) => damaged.extend(hints::object_of(&key)),
            }
        }
        if !damaged.is_empty() {
            queues.find_damaged(engine, &damaged)?;
        }
        queues.begin_numbers(engine)?;
        Ok(queues)
    }

    fn empty(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            opening: 0,
            given: AtomicU64::default(),
            bytes: AtomicU64::default(),
            refused: AtomicU64::default(),
            partial: false,
            sums: Mutex::default(),
        }
    }

    /// Counts a hint of an earlier opening.
    fn found(&self, after: Owed) {
        let last = after.debts().iter().map(|debt| debt.seq).max();
        self.given.fetch_max(last.unwrap_or_default(), Relaxed);
        let change = Change { before: Owed::default(), after };
        self.reserve(&change);
        self.change(&change);
    }

    /// Counts hints whose rows do not say to whom they are owed any more.
    fn find_damaged(
        &mut self,
        engine: &dyn Engine,
        damaged: &BTreeSet<Bytes>,
    ) -> Result<(), EngineError> {
        tracing::error!(count = damaged.len(), "rows of hints are damaged; their queues are asked");
        for (object, debts) in hints::debts_by_queues(engine, damaged)? {
            self.found(Owed::from_debts(size_of_hint(engine, &object)?, debts));
        }
        Ok(())
    }

    fn begin_numbers(&mut self, engine: &dyn Engine) -> Result<(), EngineError> {
        let recorded = match hints::last_opening(engine) {
            Err(EngineError::Corrupt { .. }) => None,
            recorded => recorded?,
        };
        let found = self.given.load(Relaxed) / NUMBERS;
        self.opening = recorded.unwrap_or_default().max(found) + 1;
        self.given.store(self.opening * NUMBERS, Relaxed);
        Ok(())
    }

    /// The queues, by target; `now_ms` is the wall clock.
    pub fn list(&self, now_ms: u64) -> Vec<HintQueue> {
        let queue = |(&target, sums): (&NodeId, &Sums)| {
            let (first, since_ms) = sums.first.unwrap_or((sums.last, now_ms));
            let oldest_ms = now_ms.saturating_sub(since_ms);
            let Sums { count, bytes, last, .. } = *sums;
            HintQueue { target, count, bytes, oldest_ms, first, last }
        };
        self.lock().iter().map(queue).collect()
    }

    /// Whether nothing is kept for anybody.
    pub fn is_empty(&self) -> bool {
        !self.partial && self.lock().is_empty()
    }

    /// Whether rows could not be read, so that hints are kept for others than those that are listed.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// What all hints take, in bytes of keys and objects.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The targets of all hints.
    pub fn targets(&self) -> Vec<NodeId> {
        self.lock().keys().copied().collect()
    }

    /// A place at the end of a target's queue.
    pub(super) fn next_place(&self, target: NodeId, since_ms: u64) -> Debt {
        Debt { target, seq: self.given.fetch_add(1, Relaxed) + 1, since_ms }
    }

    /// The row that goes with places of this opening.
    pub(super) fn opening(&self) -> u64 {
        self.opening
    }

    /// Refuses so many bytes more, if there is no room for them.
    pub(super) fn has_room(&self, more: u64) -> Result<(), RequestError> {
        if more == 0 || self.bytes().saturating_add(more) <= self.max_bytes {
            return Ok(());
        }
        self.refused.store(more, Relaxed);
        let max_bytes = self.max_bytes;
        Err(RequestError::HintsFull { max_bytes, retry_after_ms: RETRY_AFTER_MS })
    }

    /// Whether what was refused last would be refused again.
    pub fn are_full(&self) -> bool {
        let refused = self.refused.load(Relaxed);
        refused > 0 && self.bytes().saturating_add(refused) > self.max_bytes
    }

    /// Takes note of what a turn stages.
    pub(super) fn stage(&self, hinted: &mut Hinted, before: Owed, after: Owed) {
        let change = Change { before, after };
        self.reserve(&change);
        hinted.changes.push(change);
    }

    /// Stages that a hint is forgotten whose namespace was dropped; the row says to whom it is owed.
    pub fn stage_drop(
        &self,
        engine: &dyn Engine,
        (key, sealed): (&Bytes, &Bytes),
        batch: &mut Batch,
        hinted: &mut Hinted,
    ) -> Result<(), EngineError> {
        let Some(stored) = hints::object_of(key) else { return Ok(()) };
        let owed = match hints::open_owed(key, sealed) {
            Ok(owed) => owed,
            Err(_) => owed_by_queues(engine, &stored)?,
        };
        for debt in owed.debts() {
            batch.delete(Space::Hints, hints::place_key(debt.target, debt.seq));
        }
        batch.delete(Space::Hints, stored);
        batch.delete(Space::Hints, key.clone());
        self.stage(hinted, owed, Owed::default());
        Ok(())
    }

    /// The turn's batch was applied.
    pub fn applied(&self, hinted: &Hinted) {
        hinted.changes.iter().for_each(|change| self.change(change));
    }

    /// It failed: what it leaves is known at the next opening.
    pub fn failed(&self, hinted: &Hinted) {
        for Change { before, after } in &hinted.changes {
            self.reserve(&Change { before: after.clone(), after: before.clone() });
        }
    }

    /// Somebody is about to look for the first place of this queue. Behind which number it lies: before
    /// it are only places that are empty, which an engine may have to step over.
    pub fn look_for_first(&self, target: NodeId) -> u64 {
        let mut queues = self.lock();
        let Some(sums) = queues.get_mut(&target) else { return 0 };
        sums.lowest = None;
        sums.first.map_or(0, |(seq, _)| seq.saturating_sub(1))
    }

    /// It was this one, by number and time; none: there was none.
    pub fn found_first(&self, target: NodeId, found: Option<(u64, u64)>) {
        if let Some(sums) = self.lock().get_mut(&target) {
            sums.first = [found, sums.lowest].into_iter().flatten().min();
        }
    }

    fn reserve(&self, change: &Change) {
        let Change { before, after } = change;
        let changed = |bytes: u64| bytes.saturating_add(after.bytes).saturating_sub(before.bytes);
        let _ = self.bytes.fetch_update(Relaxed, Relaxed, |bytes| Some(changed(bytes)));
    }

    fn change(&self, Change { before, after }: &Change) {
        let mut queues = self.lock();
        for debt in after.debts() {
            queues.entry(debt.target).or_default().add(*debt, after.bytes);
        }
        for debt in before.debts() {
            // What could not be read at the opening was not counted.
            let Some(sums) = queues.get_mut(&debt.target) else { continue };
            sums.count = sums.count.saturating_sub(1);
            sums.bytes = sums.bytes.saturating_sub(before.bytes);
            if sums.count == 0 {
                queues.remove(&debt.target);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Sums>> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To whom the object at `stored` is owed, where its own row is damaged.
pub(super) fn owed_by_queues(engine: &dyn Engine, stored: &Bytes) -> Result<Owed, EngineError> {
    let mut debts = hints::debts_by_queues(engine, &[stored.clone()].into())?;
    let debts = debts.remove(stored).unwrap_or_default();
    Ok(Owed::from_debts(size_of_hint(engine, stored)?, debts))
}

/// What the hint whose object lies at `stored` takes, as it is stored.
fn size_of_hint(engine: &dyn Engine, stored: &[u8]) -> Result<u64, EngineError> {
    match engine.get(Space::Hints, stored) {
        Ok(sealed) => {
            Ok(hint_bytes(stored, sealed.map_or(0, |sealed| record::body_bytes(&sealed))))
        }
        Err(EngineError::Corrupt { .. }) => Ok(hint_bytes(stored, 0)),
        Err(error) => Err(error),
    }
}

/// What a hint takes: its key, and an object of so many bytes.
pub(super) fn hint_bytes(stored: &[u8], object_bytes: usize) -> u64 {
    (record::key_bytes(stored) + object_bytes) as u64
}
