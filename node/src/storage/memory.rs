//! The engine of tests and simulation: B-trees in memory, and a disk that can lose its tail.
//!
//! It keeps two copies of the state: what is visible, and what is *durable*. Batches applied since
//! the last sync are remembered between them, in order; a power cut keeps as many as it likes:
//!
//! ```text
//!   durable   unsynced            crash() keeps durable and one of
//!   {a=1}     b=2  c=3  del a     nothing | b | b c | b c del a
//! ```
//!
//! Ending a process and starting it again is one call, which ends the old handle: tasks of the
//! dead process that still hold it get [`EngineError::Closed`] and cannot write to the next one's
//! data. Nothing here depends on time, threads or hashing: the same calls give the same bytes.
//!
//! A disk that is full refuses batches as fjall's would: the engine is poisoned, and has nothing of
//! the batch when it is opened again. Bits of values can rot.
//!
//! Left out: torn writes, which an engine's own checksums find. A scan shares the tree, and the next
//! batch copies that tree if the scan is still alive.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use rand::{Rng, RngExt};

use super::{Batch, Engine, EngineError, EngineStats, KeyRange, Scan, Space};

mod checkpoint;

type Tree = BTreeMap<Bytes, Bytes>;
type Trees = [Arc<Tree>; Space::ALL.len()];

/// A store in memory. It lives as long as its handle, or the handle that replaces it.
#[derive(Default)]
pub struct MemoryEngine {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    visible: Trees,
    durable: Trees,
    unsynced: Vec<Batch>,
    fail_next_sync: bool,
    fill_next_apply: bool,
    /// It is the machine's, and stays so when the process ends.
    full: bool,
    poisoned: bool,
    closed: bool,
}

impl State {
    /// A write that finds no space poisons the engine.
    fn find_space(&mut self) -> Result<(), EngineError> {
        self.poisoned |= self.full;
        match self.full {
            true => Err(EngineError::io("apply a batch")(io::ErrorKind::StorageFull.into())),
            false => Ok(()),
        }
    }
}

impl MemoryEngine {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Kills the process: the next one finds every batch that was applied. This handle ends.
    #[must_use]
    pub fn kill(&self) -> Self {
        let ended = self.end();
        Self::opened(State {
            visible: ended.visible,
            durable: ended.durable,
            unsynced: ended.unsynced,
            full: ended.full,
            ..State::default()
        })
    }

    /// Cuts the power: the next process finds what was synced and, of the batches applied since, a
    /// prefix of random length. This handle ends.
    #[must_use]
    pub fn crash(&self, rng: &mut impl Rng) -> Self {
        let mut ended = self.end();
        let kept = rng.random_range(0..=ended.unsynced.len());
        for batch in ended.unsynced.drain(..kept) {
            write(&mut ended.durable, &batch);
        }
        let (found, full) = (Self::of_trees(ended.durable), ended.full);
        found.set_full(full);
        found
    }

    /// What a copy of the data directory holds, made between two batches while the store runs: all
    /// that was applied, on a disk of its own and synced there.
    pub fn copy(&self) -> Result<Self, EngineError> {
        Ok(Self::of_trees(self.open_state()?.visible.clone()))
    }

    /// What a power cut would leave under a key at least.
    pub fn get_durable(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.open_state()?.durable[space as usize].get(key).cloned())
    }

    /// Fills the disk, or makes room on it. An engine that met a full disk stays poisoned until it
    /// is killed and so opened again.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Flips a bit of what is stored under a key, wherever it is; false if no value with a byte is
    /// visible there. That is no batch: neither a sync nor a power cut undoes it.
    pub fn rot(&self, space: Space, key: &[u8]) -> Result<bool, EngineError> {
        let mut guard = self.open_state()?;
        let state = &mut *guard;
        let visible = rot_in(&mut state.visible, space, key);
        rot_in(&mut state.durable, space, key);
        for batch in &mut state.unsynced {
            if let Some(Some(value)) = batch.staged(space, key)
                && let Some(flipped) = flip(value)
            {
                batch.put(space, Bytes::copy_from_slice(key), flipped);
            }
        }
        Ok(visible)
    }

    /// Makes the next `sync` fail, as a dying disk would, and so poison this engine.
    pub fn fail_next_sync(&self) {
        self.lock().fail_next_sync = true;
    }

    /// Lets the next `apply` find too little space, and change nothing; or no longer.
    pub fn fill_next_apply(&self, full: bool) {
        self.lock().fill_next_apply = full;
    }

    /// The store that [`checkpoint`](Engine::checkpoint) copied to `target`.
    pub fn open_checkpoint(target: &Path) -> Result<Self, EngineError> {
        checkpoint::read(target).map(Self::of_trees)
    }

    fn of_trees(durable: Trees) -> Self {
        // A copy, not a share: else every batch after a sync would copy a whole tree.
        let visible = durable.clone().map(|tree| Arc::new(Tree::clone(&tree)));
        Self::opened(State { visible, durable, ..State::default() })
    }

    fn opened(state: State) -> Self {
        Self { state: Mutex::new(state) }
    }

    fn end(&self) -> State {
        std::mem::replace(&mut *self.lock(), State { closed: true, ..State::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let state = self.lock();
        if state.closed { Err(EngineError::Closed) } else { Ok(state) }
    }

    fn writable_state(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let state = self.open_state()?;
        if state.poisoned { Err(EngineError::Poisoned) } else { Ok(state) }
    }
}

impl Engine for MemoryEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.open_state()?.visible[space as usize].get(key).cloned())
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        let mut state = self.writable_state()?;
        if std::mem::take(&mut state.fill_next_apply) {
            return Err(EngineError::Full { free_bytes: 0, needed_bytes: 1 });
        }
        state.find_space()?;
        write(&mut state.visible, &batch);
        state.unsynced.push(batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut state = self.writable_state()?;
        // A sync writes too: fjall's, a row with its number.
        state.find_space()?;
        if std::mem::take(&mut state.fail_next_sync) {
            state.poisoned = true;
            return Err(EngineError::io("sync")(io::Error::other("injected failure")));
        }
        for batch in std::mem::take(&mut state.unsynced) {
            write(&mut state.durable, &batch);
        }
        Ok(())
    }

    fn scan(&self, space: Space, range: KeyRange) -> Scan<'_> {
        let tree = match self.open_state() {
            Ok(state) => state.visible[space as usize].clone(),
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        Box::new(MemoryScan { tree, rest: range })
    }

    fn checkpoint(&self, target: &Path) -> Result<(), EngineError> {
        let trees = self.open_state()?.visible.clone();
        checkpoint::write(&trees, target)
    }

    fn stats(&self) -> Result<EngineStats, EngineError> {
        let trees = self.open_state()?.visible.clone();
        let entries = || trees.iter().flat_map(|tree| tree.iter());
        Ok(EngineStats {
            disk_bytes: entries().map(|(key, value)| (key.len() + value.len()) as u64).sum(),
            keys_approx: entries().count() as u64,
        })
    }
}

fn write(trees: &mut Trees, batch: &Batch) {
    for (space, key, value) in batch.iter() {
        let tree = Arc::make_mut(&mut trees[space as usize]);
        match value {
            Some(value) => drop(tree.insert(key.clone(), value.clone())),
            None => drop(tree.remove(key)),
        }
    }
}

/// Flips a bit of a key's value; false if there is none.
fn rot_in(trees: &mut Trees, space: Space, key: &[u8]) -> bool {
    let tree = &mut trees[space as usize];
    let Some(flipped) = tree.get(key).and_then(flip) else { return false };
    Arc::make_mut(tree).insert(Bytes::copy_from_slice(key), flipped);
    true
}

/// The same bytes, but for a bit in the middle; none if there are no bytes.
fn flip(value: &Bytes) -> Option<Bytes> {
    let mut flipped = value.to_vec();
    *flipped.get_mut(value.len() / 2)? ^= 1;
    Some(flipped.into())
}

/// Walks a shared tree, finding its place anew for each entry: it then borrows nothing.
struct MemoryScan {
    tree: Arc<Tree>,
    rest: KeyRange,
}

impl Iterator for MemoryScan {
    type Item = Result<(Bytes, Bytes), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (key, value) = self.tree.range(self.rest.clone()).next()?;
        let rest = std::mem::replace(&mut self.rest, KeyRange::all());
        self.rest = rest.after(key.clone());
        Some(Ok((key.clone(), value.clone())))
    }
}

#[cfg(test)]
mod tests;
