//! What fjall's recovery does to its journals, seen from outside: it cuts each one off behind the
//! last entry that it can read.
//!
//! ```text
//!   0.jnl  ████████████████0000   sealed, and synced before: nothing but zeros may be cut off
//!   1.jnl  ██████████▒▒000000000   the newest: an unfinished tail is what crashes leave
//! ```
//!
//! Journals are made longer than they are, filled with zeros; no entry ends in one. So what was
//! written ends at the last other byte, and what an opening leaves of a file tells what it lost.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::storage::files;

const BLOCK_BYTES: u64 = 1 << 18;

/// A journal as it was before an opening.
struct Journal {
    path: PathBuf,
    number: u64,
    /// Kept open, since an opening may delete what it has taken over.
    file: File,
    written_bytes: u64,
}

/// The journals of a store, oldest first.
pub(super) struct Journals(Vec<Journal>);

/// What an opening did to them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Recovered {
    /// All was read, but for so many bytes at the very end.
    CutOff(u64),
    /// So many bytes of this journal were not, though later ones exist.
    Lost(PathBuf, u64),
}

impl Journals {
    /// Looks at the journals in `directory`.
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let mut journals = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let Some(number) = number(&path) else { continue };
            let file = File::open(&path)?;
            let written_bytes = written_bytes(&file)?;
            journals.push(Journal { path, number, file, written_bytes });
        }
        journals.sort_by_key(|journal| journal.number);
        Ok(Self(journals))
    }

    /// Compares with what they were.
    pub(super) fn recovered(&self) -> io::Result<Recovered> {
        let mut cut_bytes = 0;
        for (at, journal) in self.0.iter().enumerate() {
            let length = journal.file.metadata()?.len();
            let lost = journal.written_bytes.saturating_sub(length);
            if lost > 0 && at + 1 < self.0.len() {
                return Ok(Recovered::Lost(journal.path.clone(), lost));
            }
            cut_bytes = lost;
        }
        Ok(Recovered::CutOff(cut_bytes))
    }

    /// Writes what can be read of them to new files, synced, which take their place.
    pub(super) fn write_again(directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if number(&path).is_some() {
                files::replace_file(&path, &fs::read(&path)?)?;
            }
        }
        Ok(())
    }
}

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".jnl")?.parse().ok()
}

/// Where the zeros begin that a file ends in.
fn written_bytes(file: &File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let zeros = vec![0; BLOCK_BYTES as usize];
    let mut block = zeros.clone();
    while end > 0 {
        let begin = end.saturating_sub(BLOCK_BYTES);
        let block = &mut block[..(end - begin) as usize];
        file.read_exact_at(block, begin)?;
        // Compared as a whole: mostly it is zeros.
        if *block != zeros[..block.len()] {
            let last = block.iter().rposition(|&byte| byte != 0);
            return Ok(begin + last.map_or(0, |last| last as u64 + 1));
        }
        end = begin;
    }
    Ok(0)
}
