//! The file `mark`: how many batches must be found at the next opening.
//!
//! sled's recovery ends at the first unreadable message near the log's end, as a power cut leaves
//! one; a flipped bit there looks the same, and costs whatever was written after it. The number that
//! is written here, only after the batches themselves, tells the two apart:
//!
//! ```text
//!   "QSLED\x01\0\0" │ synced │ applied │ boot │ xxh3 of all before     8 + 8 + 8 + 16 + 8 bytes
//! ```
//!
//! - *synced*: on disk, so they must be there whatever happened;
//! - *applied*: handed to the operating system, so they must be there unless it has gone down since:
//!   unless its boot id is another one.
//!
//! The file is written in place, within one sector, and never synced but at its making: after a power
//! cut it may say less than the truth, never more.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::{Buf, BufMut};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::OPENING;
use super::census::Census;
use crate::storage::EngineError;

const FILE_NAME: &str = "mark";
const MAGIC: [u8; 8] = *b"QSLED\x01\0\0";
const BYTES: usize = 48;

/// The open file, locked for this opening.
pub(super) struct Mark {
    file: File,
    synced: u64,
    applied: u64,
    /// The boot in which they were applied.
    boot: u128,
    /// The boot that this is.
    here: u128,
}

impl Mark {
    /// Makes the file of an empty store in `directory`.
    pub(super) fn create(directory: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let path = directory.join(FILE_NAME);
        let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&encode(0, 0, this_boot()))?;
        file.sync_all()
    }

    /// Opens the file, and locks it until this value is dropped or the process ends.
    pub(super) fn open(directory: &Path) -> Result<Self, EngineError> {
        let path = directory.join(FILE_NAME);
        let corrupt = |what: &str| EngineError::Corrupt {
            action: OPENING,
            detail: format!("{} {what}", path.display()),
        };
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt("is missing"));
            }
            file => file.map_err(EngineError::io(OPENING))?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(EngineError::Locked { path: directory.to_path_buf() });
            }
            Err(TryLockError::Error(error)) => return Err(EngineError::io(OPENING)(error)),
        }
        let content = fs::read(&path).map_err(EngineError::io(OPENING))?;
        let (synced, applied, boot) = decode(&content).ok_or_else(|| corrupt("is damaged"))?;
        Ok(Self { file, synced, applied, boot, here: this_boot() })
    }

    /// Refuses a store from which batches are missing.
    pub(super) fn check(&self, found: &Census) -> Result<(), EngineError> {
        let (expected, what) = match self.here {
            here if here != 0 && here == self.boot => (self.applied.max(self.synced), "applied"),
            _ => (self.synced, "synced"),
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
        (self.applied, self.boot) = (batches, self.here);
        self.write()
    }

    /// So many batches are on disk.
    pub(super) fn synced(&mut self, batches: u64) -> io::Result<()> {
        if batches <= self.synced {
            return Ok(());
        }
        self.synced = batches;
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        self.file.write_all_at(&encode(self.synced, self.applied, self.boot), 0)
    }
}

fn encode(synced: u64, applied: u64, boot: u128) -> Vec<u8> {
    let mut out = Vec::with_capacity(BYTES);
    out.put_slice(&MAGIC);
    out.put_u64_le(synced);
    out.put_u64_le(applied);
    out.put_u128_le(boot);
    out.put_u64_le(xxh3_64(&out));
    out
}

fn decode(content: &[u8]) -> Option<(u64, u64, u128)> {
    let (checked, mut sum) = content.split_at_checked(BYTES - 8)?;
    let mut fields = checked.strip_prefix(&MAGIC)?;
    let whole = sum.len() == 8 && sum.get_u64_le() == xxh3_64(checked);
    whole.then(|| (fields.get_u64_le(), fields.get_u64_le(), fields.get_u128_le()))
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
        mark.here = mark.boot.wrapping_add(1);
        assert!(mark.check(&found(4)).is_ok() && mark.check(&found(3)).is_ok());
        let error = mark.check(&found(1)).unwrap_err().to_string();
        assert!(error.contains("the last 2 of 3 synced batches are missing"), "{error}");
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let whole = encode(3, 5, 7);
        assert_eq!(decode(&whole), Some((3, 5, 7)));
        for bit in 0..BYTES * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None);
        }
        for length in 0..BYTES {
            assert_eq!(decode(&whole[..length]), None);
        }
    }
}
