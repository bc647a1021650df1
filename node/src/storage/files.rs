//! Files and directories that are still there after a power cut.
//!
//! A new name is durable only once its directory was synced too, and a file replaced in place may
//! come back half written; so: write beside, sync, rename, sync the directory.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Read and written at once when a file is written again.
const WRITTEN_AGAIN_BYTES: usize = 1 << 20;

/// Syncs the names in `directory`.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Syncs every file and name below `directory`.
pub(super) fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(directory)
}

/// Makes `directory` and what is missing above it, for its owner alone, durably.
pub(super) fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = parent_of(directory);
    create_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !directory.is_dir() => {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_directory(parent)
}

/// Puts `content` at `path`: after a crash there is the old file or the new one, whole.
pub(super) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = beside(path, ".tmp");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    rename(&draft, path)
}

/// Writes what is read of every file below `directory` to the same place, and syncs it: after a sync
/// has failed, the operating system may hold as clean what is not on disk. Needs no space.
pub(super) fn write_tree_again(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            write_tree_again(&entry.path())?;
        } else {
            write_again(&OpenOptions::new().read(true).write(true).open(entry.path())?)?;
        }
    }
    sync_directory(directory)
}

fn write_again(file: &File) -> io::Result<()> {
    let mut block = vec![0; WRITTEN_AGAIN_BYTES];
    let (mut at, end) = (0, file.metadata()?.len());
    while at < end {
        let length = block.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let block = &mut block[..length];
        file.read_exact_at(block, at)?;
        file.write_all_at(block, at)?;
        at += length as u64;
    }
    file.sync_all()
}

/// Renames within one directory, durably.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_directory(parent_of(to))
}

/// `path` with `suffix` added to its last name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// The bytes that this user may still write to the file system of `path`.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Removes a directory with all that is in it, if it is there.
pub(super) fn remove_directory(directory: &Path) -> io::Result<()> {
    unless_gone(fs::remove_dir_all(directory))
}

/// The bytes allocated to the files below `directory`; holes do not count.
pub(super) fn allocated_bytes(directory: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // An engine's own threads may delete a file between its listing and this line.
        total += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => below(&entry.path())?,
            Ok(metadata) => metadata.blocks() * 512,
            Err(error) => unless_gone::<u64>(Err(error))?,
        };
    }
    Ok(total)
}

fn below(directory: &Path) -> io::Result<u64> {
    unless_gone(allocated_bytes(directory))
}

fn unless_gone<T: Default>(result: io::Result<T>) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        result => result,
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}
