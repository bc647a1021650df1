//! The file `mark`: how many batches must be found at the next opening.
//!
//! sled's recovery ends at the first unreadable message near the log's end, as a power cut leaves
//! one; a flipped bit there looks the same, and costs whatever was written after it. The number that
//! is written here, only after the batches themselves, tells the two apart:
//!
//! ```text
//!   the fields: synced │ applied │ boot │ failed     8 + 8 + 16 + 8 bytes
//! ```
//!
//! - *synced*: on disk, so they must be there whatever happened;
//! - *applied*: handed to the operating system, so they must be there unless it has gone down since:
//!   unless its boot id is another one;
//! - *failed*: not 0 if a write or sync was, so that the operating system may hold as clean what is
//!   not on disk. Until the files are written again, a sync of them proves nothing.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Buf;
use xxhash_rust::xxh3::xxh3_128;

use super::OPENING;
use super::census::Census;
use crate::storage::EngineError;
use crate::storage::mark::MarkFile;

const MAGIC: [u8; 8] = *b"QSLED\x02\0\0";
const FIELDS_BYTES: usize = 40;

/// The open file, locked for this opening.
pub(super) struct Mark {
    file: MarkFile<FIELDS_BYTES>,
    fields: Fields,
    /// The boot that this is.
    here: u128,
}

/// What it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fields {
    synced: u64,
    applied: u64,
    /// The boot in which they were applied.
    boot: u128,
    failed: bool,
}

impl Mark {
    /// Makes the file of an empty store in `directory`.
    pub(super) fn create(directory: &Path) -> io::Result<()> {
        let fields = Fields { synced: 0, applied: 0, boot: this_boot(), failed: false };
        MarkFile::create(directory, MAGIC, &fields.encode()).map(drop)
    }

    /// Opens the file, and locks it until this value is dropped or the process ends.
    pub(super) fn open(directory: &Path) -> Result<Self, EngineError> {
        let (file, fields) = MarkFile::open(directory, MAGIC)?;
        Ok(Self { file, fields: Fields::decode(fields), here: this_boot() })
    }

    /// Refuses a store from which batches are missing.
    pub(super) fn check(&self, found: &Census) -> Result<(), EngineError> {
        let Fields { synced, applied, boot, .. } = self.fields;
        let (expected, what) = match self.here {
            here if here != 0 && here == boot => (applied.max(synced), "applied"),
            _ => (synced, "synced"),
        };
        match expected.checked_sub(found.batches) {
            None | Some(0) => Ok(()),
            Some(missing) => Err(EngineError::Corrupt {
                action: OPENING,
                detail: format!("the last {missing} of {expected} {what} batches are missing"),
            }),
        }
    }

    /// So many batches were handed to the operating system.
    pub(super) fn applied(&mut self, batches: u64) -> io::Result<()> {
        self.say(Fields { applied: batches, boot: self.here, ..self.fields })
    }

    /// So many batches are on disk.
    pub(super) fn synced(&mut self, batches: u64) -> io::Result<()> {
        if batches <= self.fields.synced {
            return Ok(());
        }
        self.say(Fields { synced: batches, ..self.fields })
    }

    /// Whether a write or sync failed since the files were last written again.
    pub(super) fn has_failed(&self) -> bool {
        self.fields.failed
    }

    /// Takes note of that, or of the opposite.
    pub(super) fn failed(&mut self, failed: bool) -> io::Result<()> {
        self.say(Fields { failed, ..self.fields })
    }

    fn say(&mut self, fields: Fields) -> io::Result<()> {
        self.file.write(&fields.encode())?;
        self.fields = fields;
        Ok(())
    }
}

impl Fields {
    fn encode(&self) -> [u8; FIELDS_BYTES] {
        let mut out = [0; FIELDS_BYTES];
        out[..8].copy_from_slice(&self.synced.to_le_bytes());
        out[8..16].copy_from_slice(&self.applied.to_le_bytes());
        out[16..32].copy_from_slice(&self.boot.to_le_bytes());
        out[32..].copy_from_slice(&u64::from(self.failed).to_le_bytes());
        out
    }

    fn decode(fields: [u8; FIELDS_BYTES]) -> Self {
        let mut rest = &fields[..];
        let (synced, applied) = (rest.get_u64_le(), rest.get_u64_le());
        Self { synced, applied, boot: rest.get_u128_le(), failed: rest.get_u64_le() != 0 }
    }
}

/// Notes a failed write or sync for the next opening, as far as that can be written.
pub(super) fn note_failure(mark: &Mutex<Mark>) {
    let mut mark = mark.lock().unwrap_or_else(PoisonError::into_inner);
    if !mark.has_failed()
        && let Err(error) = mark.failed(true)
    {
        tracing::error!(%error, "a failed write or sync could not be noted for the next opening");
    }
}

/// Which boot of the operating system this is; 0 if it does not say.
fn this_boot() -> u128 {
    fs::read("/proc/sys/kernel/random/boot_id").map_or(0, |id| xxh3_128(&id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(batches: u64) -> Census {
        let mut census = Census::default();
        census.batches = batches;
        census
    }

    fn marked(synced: u64, applied: u64) -> Mark {
        let directory = tempfile::tempdir().unwrap();
        Mark::create(directory.path()).unwrap();
        let mut mark = Mark::open(directory.path()).unwrap();
        mark.applied(applied).unwrap();
        mark.synced(synced).unwrap();
        drop(mark);
        Mark::open(directory.path()).unwrap()
    }

    #[test]
    fn a_power_cut_may_cost_what_was_not_synced_and_nothing_else_may() {
        let mut mark = marked(3, 5);
        assert!(mark.check(&found(5)).is_ok() && mark.check(&found(6)).is_ok());
        if mark.here != 0 {
            let error = mark.check(&found(4)).unwrap_err().to_string();
            assert!(error.contains("the last 1 of 5 applied batches are missing"), "{error}");
        }
        mark.here = mark.fields.boot.wrapping_add(1);
        assert!(mark.check(&found(4)).is_ok() && mark.check(&found(3)).is_ok());
        let error = mark.check(&found(1)).unwrap_err().to_string();
        assert!(error.contains("the last 2 of 3 synced batches are missing"), "{error}");
    }

    #[test]
    fn a_failure_is_remembered_until_it_is_dealt_with() {
        let directory = tempfile::tempdir().unwrap();
        Mark::create(directory.path()).unwrap();
        for failed in [true, false] {
            let mut mark = Mark::open(directory.path()).unwrap();
            assert_eq!(mark.has_failed(), !failed);
            mark.synced(7).unwrap();
            mark.failed(failed).unwrap();
            let fields = Fields::decode(mark.fields.encode());
            assert_eq!((fields, fields.synced), (mark.fields, 7));
        }
        assert!(!Mark::open(directory.path()).unwrap().has_failed());
    }
}
