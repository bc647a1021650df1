//! One import at a time for a state: two would each take the other's rows for those of a stranger,
//! and keep values as siblings that one run would have replaced.
//!
//! The lock is on a file beside the state, since the state is replaced by a rename and a lock on it
//! would stay with the file that went. The operating system releases it when the process ends,
//! however it does. The file stays: whoever removed it could remove one that another run has locked.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// As long as it lives, no other import has the state.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, never read")] File);

impl Lock {
    /// Locks the state of this name, whether it exists or not; an error if another run has it.
    pub(super) fn of_state(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = open(path).with_context(|| format!("cannot write beside {shown}"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => bail!(
                "another import with --state {shown} is running: wait until it ends, or stop it, \
                 and run this one again; an import of another file needs another --state"
            ),
            // Without a lock nothing would keep a second run away, so this is not gone on without.
            Err(TryLockError::Error(error)) => Err(error).with_context(|| {
                format!("cannot lock {shown}; put --state on a disk whose files can be locked")
            }),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".lock");
    OpenOptions::new().write(true).create(true).truncate(false).open(path.with_file_name(beside))
}
