use std::fs;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::storage::conformance::{self, Subject};

struct SledSubject {
    engine: SledEngine,
    directory: TempDir,
}

fn small() -> EngineOptions {
    EngineOptions { cache_bytes: 1 << 20 }
}

impl SledSubject {
    fn open_in(directory: TempDir) -> Self {
        let engine = SledEngine::open(&directory.path().join("sled"), small()).unwrap();
        Self { engine, directory }
    }
}

impl Subject for SledSubject {
    fn create() -> Self {
        Self::open_in(tempfile::tempdir().unwrap())
    }

    fn engine(&self) -> &dyn Engine {
        &self.engine
    }

    fn reopen(self) -> Self {
        drop(self.engine);
        Self::open_in(self.directory)
    }

    /// What another process finds after a kill: the files as they are while this one is open.
    fn kill(self) -> Self {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.directory.path(), copy.path());
        Self::open_in(copy)
    }

    fn open_checkpoint(path: &Path) -> Arc<dyn Engine> {
        Arc::new(SledEngine::open(path, small()).unwrap())
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_files(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

conformance::suite!(SledSubject);
