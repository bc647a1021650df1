//! The one thread that writes to sled.
//!
//! ```text
//!   shard 1: apply ─┐              ┌─► for each batch: read what it replaces, apply
//!   shard 2: apply ─┼─► queue ─────┤   flush once
//!   shard 3: apply ─┘   (all)      └─► mark, wake those who wait
//! ```
//!
//! A flush of sled keeps other writers out while it waits for the disk, so that one thread loses
//! nothing; it gains one flush for all batches that came meanwhile, and those who wait here can be
//! woken when sled's own threads have died, which those who wait in sled cannot.
//!
//! The queue is bounded by its callers: each waits for its batch.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use sled::{Db, IVec};

use super::census::Census;
use super::contain::{broken, contain};
use super::mark::{self, Mark};
use super::scan::Snapshots;
use super::{failed, rows};
use crate::storage::{Batch, EngineError};

const ACTION: &str = "apply a batch";

/// How often those who wait look whether sled's threads still live.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Batches on their way, and how far they have got.
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to do for the writer.
    work: Condvar,
    /// Something was applied, or failed.
    progress: Condvar,
    /// What left sled's trees in a state that cannot be read.
    unreadable: OnceLock<EngineError>,
}

struct State {
    waiting: Vec<Batch>,
    /// The number of the last batch that was queued; they are numbered as the census counts them.
    queued: u64,
    applied: u64,
    keys: u64,
    failure: Option<EngineError>,
    closed: bool,
}

impl Queue {
    /// The queue of a store with this census.
    pub(super) fn new(census: Census) -> Self {
        let state = State {
            waiting: Vec::new(),
            queued: census.batches,
            applied: census.batches,
            keys: census.keys,
            failure: None,
            closed: false,
        };
        let (work, progress) = (Condvar::new(), Condvar::new());
        Self { state: Mutex::new(state), work, progress, unreadable: OnceLock::new() }
    }

    /// The failure of an earlier write, if there was one.
    pub(super) fn check_readable(&self) -> Result<(), EngineError> {
        self.unreadable.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a batch and waits until it was handed to the operating system.
    pub(super) fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        let mut state = self.lock();
        if state.failure.is_some() {
            return Err(EngineError::Poisoned);
        }
        if batch.is_empty() {
            return Ok(());
        }
        state.waiting.push(batch);
        state.queued += 1;
        let number = state.queued;
        self.work.notify_one();
        while state.applied < number {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            let waited = self.progress.wait_timeout(state, LOOK_EVERY);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timeout.timed_out() && broken() {
                let detail = "one of sled's own threads has died of a panic".to_owned();
                let failure = EngineError::Panicked { action: ACTION, detail };
                state.failure.get_or_insert(failure);
            }
        }
        Ok(())
    }

    /// An error if the engine is poisoned.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        if self.lock().failure.is_some() { Err(EngineError::Poisoned) } else { Ok(()) }
    }

    /// Poisons the engine: those who wait hear why.
    pub(super) fn fail(&self, failure: EngineError) {
        self.lock().failure.get_or_insert(failure);
        self.progress.notify_all();
        self.work.notify_one();
    }

    /// The number of the last batch that the operating system has.
    pub(super) fn applied(&self) -> u64 {
        self.lock().applied
    }

    /// How many keys there are.
    pub(super) fn keys(&self) -> u64 {
        self.lock().keys
    }

    /// Ends the writer, once nothing waits.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    /// Everything that waits, as soon as something does; none once the queue was closed or has
    /// failed.
    fn take(&self) -> Option<Vec<Batch>> {
        let mut state = self.lock();
        loop {
            if state.failure.is_some() {
                return None;
            }
            if !state.waiting.is_empty() {
                return Some(std::mem::take(&mut state.waiting));
            }
            if state.closed {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn advance(&self, census: &Census) {
        let mut state = self.lock();
        state.applied = census.batches;
        state.keys = census.keys;
        drop(state);
        self.progress.notify_all();
    }
}

/// What the thread works with.
pub(super) struct Writer {
    /// The tree.
    pub(super) db: Db,
    /// What was counted in it.
    pub(super) census: Census,
    /// What is to be done.
    pub(super) queue: Arc<Queue>,
    /// Who must not see it.
    pub(super) snapshots: Arc<RwLock<Snapshots>>,
    /// Who is told that it was done.
    pub(super) mark: Arc<Mutex<Mark>>,
}

impl Writer {
    /// Starts the thread; it ends when the queue is closed, or after a failure.
    pub(super) fn start(self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("sled-writer".to_owned()).spawn(move || self.run())
    }

    fn run(mut self) {
        while let Some(batches) = self.queue.take() {
            match contain(ACTION, || self.write(batches)) {
                Ok(()) => self.queue.advance(&self.census),
                Err(failure) => {
                    if matches!(failure, EngineError::Panicked { .. }) {
                        // Its end would try to flush what is half written, or wait for it.
                        std::mem::forget(self.db.clone());
                    }
                    tracing::error!(%failure, "the store takes no more writes, nor reads");
                    let _ = self.queue.unreadable.set(failure.clone());
                    mark::note_failure(&self.mark);
                    return self.queue.fail(failure);
                }
            }
        }
    }

    fn write(&mut self, batches: Vec<Batch>) -> Result<(), EngineError> {
        for batch in batches {
            self.apply(batch)?;
        }
        self.db.flush().map_err(failed(ACTION))?;
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        mark.applied(self.census.batches).map_err(EngineError::io(ACTION))
    }

    /// Applies one batch, and its census, in memory; what it replaces is kept for snapshots.
    fn apply(&mut self, batch: Batch) -> Result<(), EngineError> {
        let Self { db, census, snapshots, .. } = self;
        let mut snapshots = snapshots.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = *census;
        next.batches += 1;
        let mut writes = sled::Batch::default();
        for (place, (space, key, value)) in (0..).zip(batch.into_writes()) {
            let row = rows::key(space, &key);
            let old = db.get(&row).map_err(failed(ACTION))?;
            if snapshots.want(&row) {
                let value = old.as_ref().map(|stored| rows::value(db, stored)).transpose()?;
                snapshots.keep(&row, value);
            }
            if let Some(stored) = &old {
                forget(&mut next, &mut writes, &row, stored)?;
            }
            match value {
                Some(value) => {
                    let at = rows::At { batch: next.batches, place };
                    let stored = rows::store(&value, at, |part, bytes| {
                        next.add(&part, bytes);
                        writes.insert(&part, bytes);
                    });
                    next.add(&row, &stored);
                    next.keys += 1;
                    writes.insert(&*row, stored);
                }
                None if old.is_some() => writes.remove(&*row),
                None => {}
            }
        }
        writes.insert(&rows::CENSUS, next.encode());
        db.apply_batch(writes).map_err(failed(ACTION))?;
        *census = next;
        Ok(())
    }
}

/// Counts out what a row held, and removes its parts; the row itself is the caller's.
fn forget(
    census: &mut Census,
    writes: &mut sled::Batch,
    row: &[u8],
    stored: &IVec,
) -> Result<(), EngineError> {
    census.remove(row, stored);
    census.keys -= 1;
    if let Some(cut) = rows::cut(stored)? {
        census.remove_many(u64::from(cut.parts), cut.sum);
        cut.rows().for_each(|part| writes.remove(&part));
    }
    Ok(())
}
