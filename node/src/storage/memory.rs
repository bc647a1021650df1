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
//! Left out: torn and flipped bytes, which are a matter of records and their checksums. A scan
//! shares the tree, and the next batch copies that tree if the scan is still alive.

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
    poisoned: bool,
    closed: bool,
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
        Self::of_trees(ended.durable)
    }

    /// Makes the next `sync` fail, as a dying disk would, and so poison this engine.
    pub fn fail_next_sync(&self) {
        self.lock().fail_next_sync = true;
    }

    /// Makes the next `apply` find no space, and change nothing.
    pub fn fill_next_apply(&self) {
        self.lock().fill_next_apply = true;
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
        write(&mut state.visible, &batch);
        state.unsynced.push(batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut state = self.writable_state()?;
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
