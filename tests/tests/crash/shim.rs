//! The C library between a process and its disk (`shim.c`), compiled when a test needs it: what was
//! written and synced before an acknowledgement, and disks that are full or fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A compiled shim with a directory for its log and its flags.
pub(crate) struct Shim {
    directory: TempDir,
}

/// What one line of the log says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// A write to this file has ended.
    Written(PathBuf),
    /// A sync of this file begins.
    Begun(PathBuf),
    /// And has succeeded.
    Synced(PathBuf),
    /// An acknowledgement is about to be written.
    Ack,
}

/// What can be wrong with the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Writes end with ENOSPC.
    Full,
    /// Syncs end with EIO.
    Sync,
}

impl Shim {
    /// Compiles it, with the C compiler that the README asks for.
    pub(crate) fn compile() -> Self {
        let directory = tempfile::tempdir().expect("there is a directory for temporary files");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crash/shim.c");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(directory.path().join("shim.so"))
            .args([source, "-ldl"])
            .status();
        assert!(status.expect("there is a C compiler").success(), "shim.c does not compile");
        Self { directory }
    }

    /// Puts the shim between a process and the files below `under`.
    pub(crate) fn stand_before(&self, command: &mut Command, under: &Path) {
        command.envs(self.variables(under)).env("SHIM_LOG", self.log());
    }

    /// What a process is to be started with, so that the shim stands before it; without a log.
    pub(crate) fn variables(&self, under: &Path) -> [(&'static str, PathBuf); 3] {
        [
            ("LD_PRELOAD", self.directory.path().join("shim.so")),
            ("SHIM_UNDER", under.to_owned()),
            ("SHIM_FAULTS", self.directory.path().to_owned()),
        ]
    }

    /// From now on the disk is so; or is well again.
    pub(crate) fn set(&self, fault: Fault, is_so: bool) {
        let flag = self.directory.path().join(match fault {
            Fault::Full => "full",
            Fault::Sync => "sync",
        });
        let done = if is_so { fs::write(flag, "") } else { fs::remove_file(flag) };
        done.expect("the directory is the test's own");
    }

    /// Makes the first sync fail that begins once this file exists.
    pub(crate) fn once(&self) -> PathBuf {
        self.directory.path().join("once")
    }

    /// What happened, in order.
    pub(crate) fn events(&self) -> Vec<Event> {
        let log = fs::read_to_string(self.log()).expect("the shim was loaded and wrote its log");
        let parse = |line: &str| match line.split_once(' ') {
            Some(("W", path)) => Event::Written(path.into()),
            Some(("B", path)) => Event::Begun(path.into()),
            Some(("S", path)) => Event::Synced(path.into()),
            Some(("A", "")) => Event::Ack,
            _ => panic!("{line:?} is no event"),
        };
        log.lines().map(parse).collect()
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}
