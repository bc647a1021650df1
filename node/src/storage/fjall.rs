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
//! Known of the crate (3.1):
//! - while `sync` runs, `apply` waits for it, since both take the journal's lock;
//! - after a failure on a thread of its own the engine is poisoned, which the next `apply` or
//!   `sync` tells; an `apply` that was waiting for that thread's flush waits for ever;
//! - a tail that a power cut shortened is cut off, but one that it left with a hole inside a value
//!   looks like damage, so that the store does not open although nothing synced is lost.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot,
};

use super::{Batch, Engine, EngineError, EngineOptions, EngineStats, KeyRange, Scan, Space, files};

const WORKER_THREADS: usize = 1;
const JOURNALS_MAX_BYTES: u64 = 128 << 20;
const OBJECTS_MEMTABLE_BYTES: u64 = 32 << 20;
const OTHER_MEMTABLE_BYTES: u64 = 8 << 20;

/// Bytes per batch of a checkpoint: large enough that its overhead vanishes.
const CHECKPOINT_BATCH_BYTES: usize = 1 << 20;

/// A fjall database in a directory of its own.
pub struct FjallEngine {
    database: Database,
    keyspaces: [Keyspace; Space::ALL.len()],
    path: PathBuf,
    options: EngineOptions,
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
        let database = Database::builder(&path)
            .cache_size(options.cache_bytes)
            .worker_threads(WORKER_THREADS)
            .max_journaling_size(JOURNALS_MAX_BYTES)
            .journal_compression(CompressionType::None)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => EngineError::Locked { path: path.clone() },
                error => failed("open its files")(error),
            })?;
        let open = |space: Space| {
            database.keyspace(space.name(), || keyspace_options(space)).map_err(failed("open"))
        };
        let [objects, frontiers, operations, meta] = Space::ALL.map(open);
        let keyspaces = [objects?, frontiers?, operations?, meta?];
        Ok(Self { database, keyspaces, path, options })
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
        let value = self.keyspace(space).get(key).map_err(failed("read a key"))?;
        Ok(value.map(Bytes::from))
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        let mut writes = self.database.batch().durability(Some(PersistMode::Buffer));
        for (space, key, value) in batch.into_writes() {
            match value {
                Some(value) => writes.insert(self.keyspace(space), key, value),
                None => writes.remove(self.keyspace(space), key),
            }
        }
        writes.commit().map_err(failed("apply a batch"))
    }

    fn sync(&self) -> Result<(), EngineError> {
        // fdatasync writes a grown file's length as well, which is all the metadata that matters.
        self.database.persist(PersistMode::SyncData).map_err(failed("sync"))
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
        let entry = self.rest.as_mut()?.next()?.into_inner();
        if entry.is_err() {
            self.rest = None;
        }
        Some(entry.map(|(key, value)| (key.into(), value.into())).map_err(failed("scan")))
    }
}

fn keyspace_options(space: Space) -> KeyspaceCreateOptions {
    let memtable_bytes = match space {
        Space::Objects => OBJECTS_MEMTABLE_BYTES,
        Space::Frontiers | Space::Operations | Space::Meta => OTHER_MEMTABLE_BYTES,
    };
    KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes)
}

/// Our error for one of fjall's, met while trying `action`. What is neither the operating system's
/// nor a refusal says that the files hold what fjall never wrote.
fn failed(action: &'static str) -> impl Fn(fjall::Error) -> EngineError {
    move |error| match error {
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
            EngineError::io(action)(source)
        }
        fjall::Error::Poisoned => EngineError::Poisoned,
        error => EngineError::Corrupt { action, detail: error.to_string() },
    }
}

#[cfg(test)]
mod tests;
