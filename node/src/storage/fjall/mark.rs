//! The file `mark`: how far the store was synced, so that an opening knows what must be there.
//!
//! fjall ends its recovery at the first entry of a journal that it cannot read, as a power cut
//! leaves one, and cuts off the rest. A flipped bit looks the same, and costs whatever was written
//! after it. So each sync first puts its number in a row of the store, and after it succeeded, here:
//!
//! ```text
//!   apply, apply, [row: 7, fdatasync, mark: 7], apply ── power cut ──► row 7, or 8: nothing is missing
//!                                                     └─ damage ─────► row 6: what sync 7 put on disk is
//!
//!   a slot:   "QFJALL\x01\0" │ age │ number │ state │ xxh3-64 of all before   8 + 8 + 8 + 8 + 8 bytes
//!   the file: slot, slot: written by turns; the younger one that is whole counts
//! ```
//!
//! The file is written in place, and synced only when it condemns a store: after a power cut it may
//! say less than the truth, never more. A write or sync that *failed* is noted too,
//! since the operating system may then hold as clean what is not on disk, for as long as it runs: what
//! the next opening reads from the journals is to be written again before anything rests on it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::{Buf as _, BufMut as _, Bytes};
use xxhash_rust::xxh3::xxh3_64;

use super::OPENING;
use crate::storage::{EngineError, record};

/// The row with the number of the last sync.
pub(super) const ROW: &[u8] = b"synced";

const FILE_NAME: &str = "mark";
const MAGIC: [u8; 8] = *b"QFJALL\x01\0";
const SLOT_BYTES: usize = 40;
const SLOTS: u64 = 2;

/// Whether the files hold what was written to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Nothing says otherwise.
    Sound = 0,
    /// A write or a sync failed: what is read is not known to be on disk.
    Failed = 1,
    /// An opening found damage, of which there may be no other trace.
    Damaged = 2,
}

/// The open file, locked for this opening.
pub(super) struct Mark {
    file: File,
    path: PathBuf,
    /// How often it was written.
    age: u64,
    synced: u64,
    state: State,
    /// The number that the last row got.
    numbered: u64,
}

impl Mark {
    /// Makes the file of a new store in `directory`, durable once the directory is.
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        let path = directory.join(FILE_NAME);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let mut mark = Self { file, path, age: 0, synced: 0, state: State::Sound, numbered: 0 };
        mark.file.try_lock()?;
        mark.write()?;
        mark.file.sync_all()?;
        Ok(mark)
    }

    /// Opens the file, and locks it until this value is dropped or the process ends.
    pub(super) fn open(directory: &Path) -> Result<Self, EngineError> {
        let path = directory.join(FILE_NAME);
        let corrupt = |what: &str| EngineError::Corrupt {
            action: OPENING,
            detail: format!("{} {what}", path.display()),
        };
        let io = EngineError::io(OPENING);
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt("is missing"));
            }
            file => file.map_err(&io)?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(EngineError::Locked { path: directory.to_path_buf() });
            }
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(&io)?;
        let (age, synced, state) = decode(&content).ok_or_else(|| corrupt("is damaged"))?;
        Ok(Self { file, path, age, synced, state, numbered: 0 })
    }

    /// What is known of the files.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Takes note of what is known of the files from now on.
    pub(super) fn note(&mut self, state: State) -> io::Result<()> {
        self.state = state;
        self.write()?;
        if state == State::Damaged { self.file.sync_all() } else { Ok(()) }
    }

    /// Refuses a store that holds less than what was synced, by the row it has.
    pub(super) fn check(&mut self, row: Option<Bytes>) -> Result<(), EngineError> {
        let corrupt = |detail: String| EngineError::Corrupt { action: OPENING, detail };
        let found = match row {
            None => 0,
            Some(sealed) => {
                let body = record::open(ROW, &sealed).ok();
                let number =
                    body.and_then(|body| Some(u64::from_le_bytes(body[..].try_into().ok()?)));
                number
                    .ok_or_else(|| corrupt("the number of its last sync is damaged".to_owned()))?
            }
        };
        if found < self.synced {
            return Err(corrupt(format!(
                "it ends at sync {found}, and was synced {} times by {}: what was written between is \
                 missing",
                self.synced,
                self.path.display()
            )));
        }
        self.numbered = found;
        Ok(())
    }

    /// The number of the sync that begins, and the row to apply before it.
    pub(super) fn next(&mut self) -> (u64, Bytes) {
        self.numbered += 1;
        (self.numbered, record::seal(ROW, &self.numbered.to_le_bytes()))
    }

    /// The sync of this number has succeeded.
    pub(super) fn synced(&mut self, number: u64) -> io::Result<()> {
        if number <= self.synced {
            return Ok(());
        }
        self.synced = number;
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        self.age += 1;
        let at = self.age % SLOTS * SLOT_BYTES as u64;
        self.file.write_all_at(&encode(self.age, self.synced, self.state), at)
    }
}

fn encode(age: u64, synced: u64, state: State) -> Vec<u8> {
    let mut out = Vec::with_capacity(SLOT_BYTES);
    out.put_slice(&MAGIC);
    out.put_u64_le(age);
    out.put_u64_le(synced);
    out.put_u64_le(state as u64);
    out.put_u64_le(xxh3_64(&out));
    out
}

/// What the younger slot says, of those that are whole.
fn decode(content: &[u8]) -> Option<(u64, u64, State)> {
    content.chunks(SLOT_BYTES).filter_map(decode_slot).max_by_key(|(age, ..)| *age)
}

fn decode_slot(slot: &[u8]) -> Option<(u64, u64, State)> {
    let (checked, mut sum) = slot.split_at_checked(SLOT_BYTES - 8)?;
    let mut fields = checked.strip_prefix(&MAGIC)?;
    if sum.len() != 8 || sum.get_u64_le() != xxh3_64(checked) {
        return None;
    }
    let (age, synced) = (fields.get_u64_le(), fields.get_u64_le());
    let states = [State::Sound, State::Failed, State::Damaged];
    let state = *states.get(usize::try_from(fields.get_u64_le()).ok()?)?;
    Some((age, synced, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(mark: Mark) -> Mark {
        let directory = mark.path.parent().unwrap().to_path_buf();
        drop(mark);
        Mark::open(&directory).unwrap()
    }

    #[test]
    fn what_was_synced_must_be_there_and_what_was_not_need_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut mark = Mark::create(directory.path()).unwrap();
        let (first, one) = mark.next();
        mark.synced(first).unwrap();
        let (_unsynced, two) = mark.next();
        let mut mark = reopened(mark);
        assert!(mark.check(Some(one.clone())).is_ok() && mark.check(Some(two)).is_ok());
        let error = mark.check(None).unwrap_err().to_string();
        assert!(error.contains("ends at sync 0, and was synced 1 times"), "{error}");
        assert!(mark.check(Some(one.slice(1..))).is_err());
    }

    #[test]
    fn a_failure_is_remembered_until_it_is_dealt_with() {
        let directory = tempfile::tempdir().unwrap();
        let mut mark = Mark::create(directory.path()).unwrap();
        let (number, row) = mark.next();
        mark.synced(number).unwrap();
        mark.note(State::Failed).unwrap();
        assert!(matches!(Mark::open(directory.path()), Err(EngineError::Locked { .. })));
        let mut mark = reopened(mark);
        assert_eq!(mark.state(), State::Failed);
        assert!(mark.check(Some(row)).is_ok());
        mark.note(State::Sound).unwrap();
        assert_eq!(reopened(mark).state(), State::Sound);
    }

    #[test]
    fn a_slot_that_was_spoilt_leaves_the_other_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut mark = Mark::create(directory.path()).unwrap();
        for _ in 0..4 {
            let (number, _) = mark.next();
            mark.synced(number).unwrap();
        }
        let content = std::fs::read(&mark.path).unwrap();
        assert_eq!(decode(&content), Some((5, 4, State::Sound)));
        for bit in 0..content.len() * 8 {
            let mut flipped = content.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (_, synced, state) = decode(&flipped).expect("one of them is whole");
            assert!((3..=4).contains(&synced) && state == State::Sound);
        }
        assert!(decode(&content[..SLOT_BYTES - 1]).is_none() && decode(&[]).is_none());
    }
}
