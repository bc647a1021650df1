//! An engine whose failures its [`Disk`] hears of, whoever met them.
//!
//! Shards, the metadata register, rebuilds and the background sync all write. Were each of them to
//! tell, the one that forgot would leave a node that takes no writes and does not know it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::Disk;
use super::{Batch, Engine, EngineError, EngineStats, KeyRange, Scan, Space};

/// Passes everything on, and tells the disk of each write or sync that failed.
pub struct Watched {
    engine: Arc<dyn Engine>,
    disk: Arc<Disk>,
}

impl Watched {
    /// The engine of a store, and what is known of its disk.
    pub fn new(engine: Arc<dyn Engine>, disk: Arc<Disk>) -> Self {
        Self { engine, disk }
    }

    fn heard(&self, done: Result<(), EngineError>) -> Result<(), EngineError> {
        done.inspect_err(|error| self.disk.on_failure(error))
    }
}

impl Engine for Watched {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(space, key)
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        self.heard(self.engine.apply(batch))
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.heard(self.engine.sync())
    }

    fn scan(&self, space: Space, range: KeyRange) -> Scan<'_> {
        self.engine.scan(space, range)
    }

    fn checkpoint(&self, target: &Path) -> Result<(), EngineError> {
        self.engine.checkpoint(target)
    }

    fn cut_bytes(&self) -> u64 {
        self.engine.cut_bytes()
    }

    fn stats(&self) -> Result<EngineStats, EngineError> {
        self.engine.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryEngine;

    fn batch() -> Batch {
        let mut batch = Batch::new();
        batch.put(Space::Meta, Bytes::from_static(b"key"), Bytes::from_static(b"value"));
        batch
    }

    #[test]
    fn the_disk_hears_of_every_write_and_sync_that_failed_and_of_no_other() {
        type Call = fn(&dyn Engine) -> Result<(), EngineError>;
        let calls: [(Call, bool); 2] =
            [(|engine| engine.apply(batch()), true), (|engine| engine.sync(), false)];
        for (call, is_for_space) in calls {
            let (engine, disk) = (Arc::new(MemoryEngine::new()), Arc::<Disk>::default());
            let watched = Watched::new(engine.clone(), disk.clone());
            call(&watched).unwrap();
            assert_eq!(disk.refusal(), None);
            engine.set_full(is_for_space);
            engine.fail_next_sync();
            call(&watched).unwrap_err();
            assert_eq!(disk.refusal().map(|state| state.is_for_space()), Some(is_for_space));
        }
    }
}
