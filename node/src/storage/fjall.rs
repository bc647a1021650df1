//! The default engine: fjall, a log-structured merge tree with one journal for all keyspaces.
//!
//! The one journal is why it fits: a batch over several spaces is one journal record with a
//! checksum, and what a crash cuts off is cut off the end of one file. Memtables reach the disk
//! only after the journal was synced, so a space never runs ahead of another.
//!
//! Choices, each against the crate's default:
//! - one worker thread (default: up to four): of several, fjall keeps the first one free for flushes,
//!   which it does by passing compactions on to itself until another is free: under a steady load of
//!   writes that busy loop took a sixth of the node's processor time;
//! - 32 MiB of memtable for objects, 8 MiB for the other spaces (default: 64 each), since all of
//!   them together are memory that the cache cannot have;
//! - 128 MiB of journals (default: 512): it bounds what an opening replays, to a second or two;
//! - no journal compression (default: lz4 from 4 KiB): it is on the path of every write, and the
//!   journal is soon deleted. Kept: lz4 in the tree's older levels, where it pays for itself.
//!
//! Keys and values pass in and out as shared [`Bytes`] (fjall's `bytes_1`). A value read from disk
//! keeps its whole block in memory until it is dropped.
//!
//! Known of the crate (3.1), and what is added here:
//! - while `sync` runs, `apply` waits for it, since both take the journal's lock;
//! - after a failure on a thread of its own the engine is poisoned, which the next `apply` or
//!   `sync` tells; a batch that had to wait for that thread's flush would wait for ever, so
//!   `apply` waits before it, and looks whether anybody is still at work;
//! - recovery cuts off whatever follows an entry that it cannot read, even if that was synced: a
//!   `mark` tells at opening, and so does a look at the journals before and after it;
//! - a tail that a power cut shortened is cut off, but one that it left with a hole inside a value
//!   looks like damage, so that the store does not open although nothing synced is lost;
//! - its thread, when a sync of its own fails, lets go of the journal a moment before the engine is
//!   poisoned; a `sync` that begins and ends within that moment hears nothing of it;
//! - some damage makes it panic: an error here; of other damage it would ask for more memory than there
//!   is, so that the process ends: `lengths` are looked at first.

mod journals;
mod lengths;
mod mark;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot,
};

use self::journals::{Journals, Recovered};
use self::mark::{Mark, State};
use super::{Batch, Engine, EngineError, EngineOptions, EngineStats, KeyRange, Scan, Space, files};

const WORKER_THREADS: usize = 1;
const JOURNALS_MAX_BYTES: u64 = 128 << 20;
const OBJECTS_MEMTABLE_BYTES: u64 = 32 << 20;
const OTHER_MEMTABLE_BYTES: u64 = 8 << 20;

/// Bytes per batch of a checkpoint: large enough that its overhead vanishes.
const CHECKPOINT_BATCH_BYTES: usize = 1 << 20;

/// Memtables that wait for their flush before `apply` waits as well: fewer than the four for which
/// fjall itself waits, without looking whether its thread still lives.
const SEALED_MEMTABLES_MAX: usize = 2;

/// The pause between two looks at them.
const FLUSHED_AGAIN: Duration = Duration::from_millis(5);

const OPENING: &str = "open its files";
const APPLYING: &str = "apply a batch";

/// The keyspace of the row that numbers syncs, which is no space of callers.
const SYNCS: &str = "syncs";
const SYNCS_MEMTABLE_BYTES: u64 = 1 << 20;

/// A fjall database in a directory of its own.
pub struct FjallEngine {
    database: Database,
    keyspaces: [Keyspace; Space::ALL.len()],
    syncs: Keyspace,
    path: PathBuf,
    options: EngineOptions,
    mark: Mutex<Mark>,
    /// Held by a sync from its beginning to the end of its failure.
    syncing: Mutex<()>,
    cut_bytes: u64,
}

impl FjallEngine {
    /// Opens the store at `path`, or makes one. After an error nothing has changed on disk, but for
    /// an unfinished tail of the journal, which opening cuts off.
    ///
    /// A new store is made beside `path` and renamed once it is whole: fjall does not open again
    /// what a power cut left of a database that was just being made.
    pub fn open(path: &Path, options: EngineOptions) -> Result<Self, EngineError> {
        let path = std::path::absolute(path).map_err(EngineError::io("find its files"))?;
        if !path.try_exists().map_err(EngineError::io("find its files"))? {
            Self::make(&path, options, |_| Ok(()))?;
        }
        Self::open_in_place(path, options)
    }

    /// Makes a store, filled by `fill`, that appears at `path` whole or not at all.
    fn make(
        path: &Path,
        options: EngineOptions,
        fill: impl FnOnce(&Self) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let nursery = files::beside(path, ".creating");
        let io = EngineError::io("make its files");
        files::remove_directory(&nursery).map_err(&io)?;
        let made = Self::open_in_place(nursery.clone(), options).and_then(|engine| {
            fill(&engine)?;
            engine.sync()
        });
        match made.and_then(|()| files::rename(&nursery, path).map_err(&io)) {
            Ok(()) => Ok(()),
            Err(error) => {
                // What is left of it is removed by the next try, if this fails as well.
                let _ = files::remove_directory(&nursery);
                Err(error)
            }
        }
    }

    fn open_in_place(path: PathBuf, options: EngineOptions) -> Result<Self, EngineError> {
        let io = EngineError::io(OPENING);
        if !path.try_exists().map_err(&io)? {
            files::create_directory(&path).map_err(&io)?;
            let mark = Mark::create(&path).map_err(&io)?;
            return Self::open_database(path, options, mark);
        }
        let mut mark = Mark::open(&path)?;
        match mark.state() {
            State::Sound => {}
            State::Failed => {
                tracing::warn!(
                    path = %path.display(),
                    "a write or sync failed when the store was last open; its journals are written \
                     again, since what is read from them may not be on disk"
                );
                Journals::write_again(&path).map_err(&io)?;
                mark.note(State::Sound).map_err(&io)?;
            }
            State::Damaged => return Err(damaged("an earlier opening found it damaged")),
        }
        lengths::check(&path)?;
        let journals = Journals::of(&path).map_err(&io)?;
        let mut engine = Self::open_database(path, options, mark)?;
        engine.check(&journals)?;
        Ok(engine)
    }

    fn open_database(
        path: PathBuf,
        options: EngineOptions,
        mark: Mark,
    ) -> Result<Self, EngineError> {
        let opened = contained(OPENING, || {
            let database = Database::builder(&path)
                .cache_size(options.cache_bytes)
                .worker_threads(WORKER_THREADS)
                .max_journaling_size(JOURNALS_MAX_BYTES)
                .journal_compression(CompressionType::None)
                .open()
                .map_err(|error| match error {
                    fjall::Error::Locked => EngineError::Locked { path: path.clone() },
                    error => failed(OPENING)(error),
                })?;
            let open = |name: &str, memtable_bytes| {
                let options = KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes);
                database.keyspace(name, || options).map_err(failed(OPENING))
            };
            let [objects, frontiers, trees, operations, hints, meta] =
                Space::ALL.map(|space| open(space.name(), memtable_bytes(space)));
            let keyspaces = [objects?, frontiers?, trees?, operations?, hints?, meta?];
            let syncs = open(SYNCS, SYNCS_MEMTABLE_BYTES)?;
            Ok((database, keyspaces, syncs))
        });
        // A panic of an opening speaks of the files.
        let (database, keyspaces, syncs) = opened.map_err(|error| match error {
            EngineError::Panicked { detail, .. } => damaged(detail),
            error => error,
        })?;
        let (mark, syncing) = (Mutex::new(mark), Mutex::default());
        Ok(Self { database, keyspaces, syncs, path, options, mark, syncing, cut_bytes: 0 })
    }

    /// Refuses a store from which something is missing that was on disk.
    fn check(&mut self, journals: &Journals) -> Result<(), EngineError> {
        let io = EngineError::io(OPENING);
        match journals.recovered().map_err(&io)? {
            Recovered::CutOff(bytes) => self.cut_bytes = bytes,
            Recovered::Lost(journal, bytes) => {
                // fjall has cut it off, so this is all that tells of it from now on.
                self.mark().note(State::Damaged).map_err(&io)?;
                let journal = journal.display();
                return Err(damaged(format!("{bytes} bytes of {journal} cannot be read")));
            }
        }
        let row = contained(OPENING, || self.syncs.get(mark::ROW).map_err(failed(OPENING)))?;
        self.mark().check(row.map(Bytes::from))?;
        if self.cut_bytes > 0 {
            tracing::warn!(
                bytes = self.cut_bytes,
                path = %self.path.display(),
                "the end of the journal could not be read and was cut off; it was never synced: \
                 normal after a crash, else a sign of a failing disk"
            );
        }
        Ok(())
    }

    fn mark(&self) -> MutexGuard<'_, Mark> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on a failure of a write or a sync, for the next opening to know.
    fn noting(&self, failure: EngineError) -> EngineError {
        let mut mark = self.mark();
        if mark.state() == State::Sound
            && let Err(error) = mark.note(State::Failed)
        {
            tracing::error!(%error, "a failed write or sync could not be noted for the next opening");
        }
        failure
    }

    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        self.wait_for_flushes(&batch)?;
        let mut writes = self.database.batch().durability(Some(PersistMode::Buffer));
        for (space, key, value) in batch.into_writes() {
            match value {
                Some(value) => writes.insert(self.keyspace(space), key, value),
                None => writes.remove(self.keyspace(space), key),
            }
        }
        contained(APPLYING, || writes.commit().map_err(failed(APPLYING)))
    }

    /// Waits while memtables pile up, for as long as there is somebody to flush them.
    fn wait_for_flushes(&self, batch: &Batch) -> Result<(), EngineError> {
        let is_full = |space: &Space| {
            let sealed = self.keyspace(*space).sealed_memtable_count();
            sealed > SEALED_MEMTABLES_MAX && batch.iter().any(|(written, ..)| written == *space)
        };
        while Space::ALL.iter().any(is_full) {
            // It only passes on what the process still holds; and tells if the engine is poisoned.
            self.database.persist(PersistMode::Buffer).map_err(failed(APPLYING))?;
            std::thread::sleep(FLUSHED_AGAIN);
        }
        Ok(())
    }

    fn sync_numbered(&self) -> Result<(), EngineError> {
        const ACTION: &str = "sync";
        // The operating system tells a failure of an open file once. Of two syncs at a time the other
        // would hear of none, and fjall looks whether it is poisoned before it waits for the first.
        let _alone = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let number = {
            // Held, so that rows reach the journal in the order of their numbers.
            let mut mark = self.mark();
            let (number, row) = mark.next();
            let mut writes = self.database.batch().durability(Some(PersistMode::Buffer));
            writes.insert(&self.syncs, mark::ROW, row);
            // An action of its own, since only a write that finds no space is known to have left
            // everything else as it was.
            contained(APPLYING, || writes.commit().map_err(failed(APPLYING)))?;
            number
        };
        // fdatasync writes a grown file's length as well, which is all the metadata that matters.
        self.database.persist(PersistMode::SyncData).map_err(failed(ACTION))?;
        // Nor may fjall's own thread have heard of it meanwhile.
        self.database.persist(PersistMode::Buffer).map_err(failed(ACTION))?;
        if let Err(error) = self.mark().synced(number) {
            // What is on disk is so whether this is noted or not; a later loss of it may go unnoticed.
            tracing::warn!(%error, "a sync could not be noted in the file `mark`");
        }
        Ok(())
    }

    fn keyspace(&self, space: Space) -> &Keyspace {
        &self.keyspaces[space as usize]
    }

    fn scan_snapshot(&self, snapshot: &Snapshot, space: Space, range: KeyRange) -> FjallScan {
        let walk = || snapshot.range(self.keyspace(space), range.clone().into_bounds());
        FjallScan { rest: (!range.is_empty()).then(walk) }
    }

    fn copy_to(&self, target: &Self) -> Result<(), EngineError> {
        let snapshot = self.database.snapshot();
        let mut batch = Batch::new();
        for space in Space::ALL {
            for entry in self.scan_snapshot(&snapshot, space, KeyRange::all()) {
                let (key, value) = entry?;
                batch.put(space, key, value);
                if batch.bytes() >= CHECKPOINT_BATCH_BYTES {
                    target.apply(std::mem::take(&mut batch))?;
                }
            }
        }
        target.apply(batch)
    }
}

impl Engine for FjallEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        const ACTION: &str = "read a key";
        let value = contained(ACTION, || self.keyspace(space).get(key).map_err(failed(ACTION)))?;
        Ok(value.map(Bytes::from))
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        self.commit(batch).map_err(|failure| self.noting(failure))
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.sync_numbered().map_err(|failure| self.noting(failure))
    }

    fn scan(&self, space: Space, range: KeyRange) -> Scan<'_> {
        Box::new(self.scan_snapshot(&self.database.snapshot(), space, range))
    }

    fn checkpoint(&self, target: &Path) -> Result<(), EngineError> {
        let io = EngineError::io("make a checkpoint");
        let target = std::path::absolute(target).map_err(&io)?;
        if target.try_exists().map_err(&io)? {
            return Err(EngineError::TargetExists { path: target });
        }
        // The copy only passes through: what it caches would never be read.
        let options = EngineOptions { cache_bytes: self.options.cache_bytes.min(1 << 20) };
        Self::make(&target, options, |copy| self.copy_to(copy))
    }

    fn cut_bytes(&self) -> u64 {
        self.cut_bytes
    }

    fn stats(&self) -> Result<EngineStats, EngineError> {
        let disk_bytes =
            files::allocated_bytes(&self.path).map_err(EngineError::io("measure its files"))?;
        let keys = self.keyspaces.iter().map(|keyspace| keyspace.approximate_len() as u64);
        Ok(EngineStats { disk_bytes, keys_approx: keys.sum() })
    }
}

/// A walk over a snapshot, which the iterator keeps alive; nothing is left after an error.
struct FjallScan {
    rest: Option<fjall::Iter>,
}

impl Iterator for FjallScan {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.as_mut()?;
        let entry = contained("scan", || {
            let entry = rest.next().map(|entry| entry.into_inner().map_err(failed("scan")));
            entry.transpose()
        });
        if entry.is_err() {
            self.rest = None;
        }
        let entry = entry.transpose()?;
        Some(entry.map(|(key, value)| (key.into(), value.into())))
    }
}

fn damaged(detail: impl Into<String>) -> EngineError {
    EngineError::Corrupt { action: OPENING, detail: detail.into() }
}

/// Runs fjall for `action`; should it panic, that is an error. A panic poisons whatever lock fjall
/// held, and with the journal's lock the engine.
fn contained<T>(
    action: &'static str,
    run: impl FnOnce() -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let detail = format!("fjall panicked: {}", text.unwrap_or("without a text"));
        Err(EngineError::Panicked { action, detail })
    })
}

const fn memtable_bytes(space: Space) -> u64 {
    match space {
        Space::Objects => OBJECTS_MEMTABLE_BYTES,
        _ => OTHER_MEMTABLE_BYTES,
    }
}

/// Our error for one of fjall's, met while trying `action`. What is neither the operating system's
/// nor a refusal says that the files hold what fjall never wrote.
fn failed(action: &'static str) -> impl Fn(fjall::Error) -> EngineError {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    move |error| match error {
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source))
            if ![InvalidData, UnexpectedEof].contains(&source.kind()) =>
        {
            EngineError::io(action)(source)
        }
        fjall::Error::Poisoned => EngineError::Poisoned,
        error => EngineError::Corrupt { action, detail: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
