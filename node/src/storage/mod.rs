//! Bytes on disk: one trait, [`Engine`], and what implements it.
//!
//! Everything above this module trusts one sentence: **after a crash an engine's state is a prefix
//! of the batches applied to it, across all spaces, and holds at least what was synced.** An
//! object, the frontier that vouches for it and the outcome of its operation travel in one
//! [`Batch`], so no crash can part them.
//!
//! ```text
//!                       survives kill -9    survives a power cut
//!   apply returned      yes                 maybe: the tail may be cut, from the end
//!   ... then sync did   yes                 yes
//! ```
//!
//! Few spaces serve all hosted partitions: callers prefix their keys with the vnode, so a range of
//! keys is a vnode, and a node with thousands of vnodes still has five trees to flush.
//!
//! [`fjall`] is the default engine, [`sled`] the other one on disk, [`memory`] that of tests and
//! simulation; all pass one conformance suite. [`data_dir`] guards the directory that an engine lives in. Left out here:
//! checksums of records, which callers add, since they must hold whatever the engine is.

pub mod batch;
pub mod data_dir;
pub mod disk;
mod files;
pub mod fjall;
pub mod hints;
mod mark;
pub mod memory;
pub mod range;
pub mod record;
pub mod sled;
pub mod watched;

#[cfg(test)]
mod conformance;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

pub use self::batch::Batch;
pub use self::range::KeyRange;

/// The longest key of an engine: fjall stores the length in 16 bits.
pub const ENGINE_KEY_MAX_BYTES: usize = 65_535;

/// A set of keys of its own; batches are atomic over all of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Space {
    /// What replicas hold for their keys.
    Objects,
    /// What each vnode has seen, and its dot log.
    Frontiers,
    /// Trees of hashes of the objects.
    Trees,
    /// Operation ids with their outcomes, for retries.
    Operations,
    /// What is kept for owners that missed it, and to whom it is owed.
    Hints,
    /// Cluster metadata and this node's votes.
    Meta,
}

impl Space {
    /// Every space, in the order of their declaration.
    pub const ALL: [Self; 6] =
        [Self::Objects, Self::Frontiers, Self::Trees, Self::Operations, Self::Hints, Self::Meta];

    /// The name on disk; changing one loses the space.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Frontiers => "frontiers",
            Self::Trees => "trees",
            Self::Operations => "operations",
            Self::Hints => "hints",
            Self::Meta => "meta",
        }
    }
}

/// The keys and values of a range, ascending by key. The first error ends it.
pub type Scan<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), EngineError>> + Send + 'a>;

/// An embedded, ordered key-value store with atomic batches.
///
/// Calls block, on disk as well as on back-pressure: they belong on a shard's own thread, never on
/// one that runs an async executor for others. Any thread may call anything at any time.
pub trait Engine: Send + Sync + 'static {
    /// The value of `key`.
    ///
    /// Sees every batch whose `apply` has returned. Beside an `apply` that is still running on
    /// another thread it may see that batch's effect on one key and, asked next, not yet on
    /// another; a shard, being the only writer of its vnodes, never notices.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Makes all of `batch` visible, or none of it.
    ///
    /// When it returns, the data was handed to the operating system: it survives this process's
    /// death, kill -9 included. After an error the batch counts as *unknown* (it may show once the
    /// store is opened again), and the engine is poisoned.
    fn apply(&self, batch: Batch) -> Result<(), EngineError>;

    /// Puts on disk what was applied before the call.
    ///
    /// A failure poisons the engine for good: the operating system may have dropped the very pages
    /// that it could not write, so that a second try would succeed without them.
    fn sync(&self) -> Result<(), EngineError>;

    /// Walks `range` in key order, on a snapshot taken by the call: batches applied later do not
    /// show, and no batch shows by half. The snapshot keeps old versions alive, so drop it soon;
    /// long walks go page by page, with [`KeyRange::after`] the last key.
    fn scan(&self, space: Space, range: KeyRange) -> Scan<'_>;

    /// Copies a snapshot of all spaces into `target`, which must not exist, and syncs the copy. An
    /// engine of the same kind opens it. After an error nothing is at `target`.
    fn checkpoint(&self, target: &Path) -> Result<(), EngineError>;

    /// Bytes at the end of its log that this opening could not read and cut off. They were never
    /// synced: normal after a crash, else a sign of a failing disk.
    fn cut_bytes(&self) -> u64 {
        0
    }

    /// What the engine occupies.
    fn stats(&self) -> Result<EngineStats, EngineError>;

    /// Deletes every key of `space` that begins with `prefix`; the empty prefix means all.
    ///
    /// It works in batches of [`CLEAR_BATCH_KEYS`], lowest keys first: a crash may leave the
    /// others, and the caller clears again. Keys put under the prefix meanwhile may stay.
    fn clear(&self, space: Space, prefix: &[u8]) -> Result<(), EngineError> {
        let mut batch = Batch::new();
        for entry in self.scan(space, KeyRange::prefix(prefix)) {
            batch.delete(space, entry?.0);
            if batch.len() == CLEAR_BATCH_KEYS {
                self.apply(std::mem::take(&mut batch))?;
            }
        }
        if batch.is_empty() { Ok(()) } else { self.apply(batch) }
    }
}

/// Keys per batch of [`Engine::clear`]: at most 4 MiB of the longest user keys, so that other
/// shards' batches pass between two of them.
pub const CLEAR_BATCH_KEYS: usize = 1024;

/// What every engine is told at opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineOptions {
    /// Memory for blocks read from disk, in bytes.
    pub cache_bytes: u64,
}

impl Default for EngineOptions {
    /// 64 MiB: a node fits a small virtual machine unless told otherwise.
    fn default() -> Self {
        Self { cache_bytes: 64 << 20 }
    }
}

/// What an engine occupies, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EngineStats {
    /// Bytes allocated on disk, journals included; of the memory engine, bytes of keys and values.
    pub disk_bytes: u64,
    /// About how many keys there are in all spaces. Versions not yet compacted away and deletes
    /// may count, so after many overwrites it is too high.
    pub keys_approx: u64,
}

/// Why the engine did not do it. Cheap to clone, so that each request of a group commit gets one.
#[derive(Clone, Debug, Error)]
pub enum EngineError {
    /// The operating system refused. Of `apply` and `sync`: the engine is poisoned, and what was
    /// not synced is unknown. Of a read: nothing changed; it may be tried again.
    #[error("the storage engine could not {action}: {source}")]
    Io {
        /// What was tried, as in "could not sync".
        action: &'static str,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The disk is about to be full. Nothing changed, and the engine is well: free some space.
    #[error(
        "the disk has {free_bytes} bytes left, and the storage engine needs {needed_bytes} to be \
         sure of a write; free some space"
    )]
    Full {
        /// What is free.
        free_bytes: u64,
        /// What has to be.
        needed_bytes: u64,
    },
    /// Bytes on disk are not what was written. Nothing changed. A store that will not open is to
    /// be rebuilt from its peers; a record that will not read is to be repaired from them.
    #[error("the storage engine could not {action}: its files are damaged ({detail})")]
    Corrupt {
        /// What was tried.
        action: &'static str,
        /// What the engine found.
        detail: String,
    },
    /// The engine's own code panicked, mostly since its files are damaged. It is poisoned; of `apply`,
    /// the batch is unknown. Restart the node; if it does not open then, rebuild it from its peers.
    #[error("the storage engine could not {action}: {detail}; restart the node")]
    Panicked {
        /// What was tried.
        action: &'static str,
        /// What the panic said.
        detail: String,
    },
    /// An earlier write or sync failed, so this one was refused and changed nothing. Reads go on,
    /// unless they tell that failure again.
    /// The node must stop serving and be restarted; what was synced is safe.
    #[error("the storage engine refuses writes since an earlier one failed; restart the node")]
    Poisoned,
    /// Another opening, of this process or another one, has the files. Nothing changed.
    #[error("the storage engine's files in {} are in use", path.display())]
    Locked {
        /// The engine's directory.
        path: PathBuf,
    },
    /// A checkpoint was to go where something is. Nothing changed; name another place.
    #[error("{} exists already", path.display())]
    TargetExists {
        /// The checkpoint's directory.
        path: PathBuf,
    },
    /// This opening has ended (the simulated process was killed). Nothing changed.
    #[error("this opening of the storage engine has ended")]
    Closed,
}

impl EngineError {
    /// Whether a write found no space. Not a sync: what it could not write may be lost already.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Io { action, source } if *action != "sync" && disk::is_out_of_space(source))
    }

    /// A refusal of the operating system, met while trying `action`.
    pub(crate) fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { action, source: Arc::new(source) }
    }
}
