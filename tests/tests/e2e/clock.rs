//! A C library between a node and its wall clock (`clock.c`), compiled when a test needs it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use quorate_tests::Node;
use tempfile::TempDir;

/// A wall clock that a test sets.
pub(crate) struct WallClock {
    directory: TempDir,
}

impl WallClock {
    /// Compiles it, with the C compiler that the README asks for. It shows the right time at first.
    pub(crate) fn compile() -> Self {
        let directory = tempfile::tempdir().expect("there is a directory for temporary files");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/clock.c");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(directory.path().join("clock.so"))
            .args([source, "-ldl"])
            .status();
        assert!(status.expect("there is a C compiler").success(), "clock.c does not compile");
        Self { directory }
    }

    /// Gives it to the node's processes, from the next start on.
    pub(crate) fn give(&self, node: &mut Node) {
        node.set_variable("LD_PRELOAD", self.directory.path().join("clock.so"));
        node.set_variable("SHIM_CLOCK", self.file());
    }

    /// Sets it to so much ahead of the machine's clock, or behind it.
    pub(crate) fn set(&self, ahead_ms: i64) {
        // Renamed, so that nobody reads half of it.
        let next = self.directory.path().join("next");
        let set =
            fs::write(&next, ahead_ms.to_string()).and_then(|()| fs::rename(next, self.file()));
        set.expect("the directory is the test's own");
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("ahead_ms")
    }
}
