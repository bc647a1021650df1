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
//!   the fields: number │ state     8 + 8 bytes
//! ```
//!
//! The file is synced only when it condemns a store. A write or sync that *failed* is noted too, since
//! the operating system may then hold as clean what is not on disk, for as long as it runs: what
//! the next opening reads from the journals is to be written again before anything rests on it.

use std::io;
use std::path::Path;

use bytes::{Buf as _, Bytes};

use super::OPENING;
use crate::storage::mark::MarkFile;
use crate::storage::{EngineError, record};

/// The row with the number of the last sync.
pub(super) const ROW: &[u8] = b"synced";

const MAGIC: [u8; 8] = *b"QFJALL\x01\0";
const FIELDS_BYTES: usize = 16;

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
    file: MarkFile<FIELDS_BYTES>,
    synced: u64,
    state: State,
    /// The number that the last row got.
    numbered: u64,
}

impl Mark {
    /// Makes the file of a new store in `directory`, durable once the directory is.
    pub(super) fn create(directory: &Path) -> io::Result<Self> {
        let file = MarkFile::create(directory, MAGIC, &encode(0, State::Sound))?;
        Ok(Self { file, synced: 0, state: State::Sound, numbered: 0 })
    }

    /// Opens the file, and locks it until this value is dropped or the process ends.
    pub(super) fn open(directory: &Path) -> Result<Self, EngineError> {
        let (file, fields) = MarkFile::open(directory, MAGIC)?;
        let (synced, state) = decode(fields).ok_or_else(|| EngineError::Corrupt {
            action: OPENING,
            detail: format!("{} is of no known state", file.path().display()),
        })?;
        Ok(Self { file, synced, state, numbered: 0 })
    }

    /// What is known of the files.
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Takes note of what is known of the files from now on.
    pub(super) fn note(&mut self, state: State) -> io::Result<()> {
        self.file.write(&encode(self.synced, state))?;
        self.state = state;
        if state == State::Damaged { self.file.sync() } else { Ok(()) }
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
                self.file.path().display()
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
        self.file.write(&encode(self.synced, self.state))
    }
}

fn encode(synced: u64, state: State) -> [u8; FIELDS_BYTES] {
    (u128::from(synced) | u128::from(state as u64) << 64).to_le_bytes()
}

fn decode(fields: [u8; FIELDS_BYTES]) -> Option<(u64, State)> {
    let mut fields = &fields[..];
    let synced = fields.get_u64_le();
    let states = [State::Sound, State::Failed, State::Damaged];
    Some((synced, *states.get(usize::try_from(fields.get_u64_le()).ok()?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(mark: Mark) -> Mark {
        let directory = mark.file.path().parent().unwrap().to_path_buf();
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
}
