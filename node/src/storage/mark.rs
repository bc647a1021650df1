//! The file `mark` beside an engine's own files: what an opening must find, or know, of them.
//!
//! It is small and rewritten at every sync, so it is written in place, by turns into two slots. A
//! write that failed half way spoils one of them; the other says what was true before it.
//!
//! ```text
//!   the file: slot, slot; the younger one that is whole counts
//!   a slot:   magic │ age │ fields │ xxh3-64 of all before     8 + 8 + N + 8 bytes
//! ```
//!
//! It is not synced unless somebody asks: after a power cut it may say less than the truth, never
//! more. It also locks the engine's directory, for as long as it is open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::{Buf as _, BufMut as _};
use xxhash_rust::xxh3::xxh3_64;

use super::EngineError;

const FILE_NAME: &str = "mark";
const ACTION: &str = "open its files";
const SLOTS: u64 = 2;

/// The open file, with `N` bytes of fields in each slot.
pub(super) struct MarkFile<const N: usize> {
    file: File,
    path: PathBuf,
    magic: [u8; 8],
    /// How often it was written.
    age: u64,
}

impl<const N: usize> MarkFile<N> {
    const SLOT_BYTES: usize = 8 + 8 + N + 8;

    /// Makes the file in `directory`, durable once the directory is; locked like an opened one.
    pub(super) fn create(directory: &Path, magic: [u8; 8], fields: &[u8; N]) -> io::Result<Self> {
        let path = directory.join(FILE_NAME);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        file.try_lock()?;
        let mut mark = Self { file, path, magic, age: 0 };
        mark.write(fields)?;
        mark.sync()?;
        Ok(mark)
    }

    /// Opens the file and locks it until this value is dropped or the process ends; and what it
    /// says.
    pub(super) fn open(directory: &Path, magic: [u8; 8]) -> Result<(Self, [u8; N]), EngineError> {
        let path = directory.join(FILE_NAME);
        let corrupt = |what: &str| EngineError::Corrupt {
            action: ACTION,
            detail: format!("{} {what}", path.display()),
        };
        let io = EngineError::io(ACTION);
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
        let found = Self::decode(magic, &content).ok_or_else(|| corrupt("is damaged"))?;
        Ok((Self { file, path, magic, age: found.0 }, found.1))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Hands what it is to say to the operating system. After an error it says what it said before,
    /// and the next try leaves that alone as well.
    pub(super) fn write(&mut self, fields: &[u8; N]) -> io::Result<()> {
        let age = self.age + 1;
        let at = age % SLOTS * Self::SLOT_BYTES as u64;
        self.file.write_all_at(&Self::encode(self.magic, age, fields), at)?;
        self.age = age;
        Ok(())
    }

    /// Puts it on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn encode(magic: [u8; 8], age: u64, fields: &[u8; N]) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SLOT_BYTES);
        out.put_slice(&magic);
        out.put_u64_le(age);
        out.put_slice(fields);
        out.put_u64_le(xxh3_64(&out));
        out
    }

    /// The age and the fields of the younger slot, of those that are whole.
    fn decode(magic: [u8; 8], content: &[u8]) -> Option<(u64, [u8; N])> {
        let slots = content.chunks(Self::SLOT_BYTES);
        slots.filter_map(|slot| Self::decode_slot(magic, slot)).max_by_key(|(age, _)| *age)
    }

    fn decode_slot(magic: [u8; 8], slot: &[u8]) -> Option<(u64, [u8; N])> {
        let (checked, mut sum) = slot.split_at_checked(Self::SLOT_BYTES - 8)?;
        if sum.len() != 8 || sum.get_u64_le() != xxh3_64(checked) {
            return None;
        }
        let mut fields = checked.strip_prefix(&magic)?;
        Some((fields.get_u64_le(), fields.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"QTEST\x01\0\0";

    type Small = MarkFile<2>;

    fn reopened(mark: Small) -> (Small, [u8; 2]) {
        let directory = mark.path.parent().unwrap().to_path_buf();
        drop(mark);
        Small::open(&directory, MAGIC).unwrap()
    }

    #[test]
    fn the_last_word_counts_and_one_opening_at_a_time_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Small::open(directory.path(), MAGIC).map(drop).unwrap_err();
        assert!(missing.to_string().contains("mark is missing"), "{missing}");
        let mut mark = Small::create(directory.path(), MAGIC, &[0, 0]).unwrap();
        let second = Small::open(directory.path(), MAGIC).map(drop);
        assert!(matches!(second, Err(EngineError::Locked { .. })));
        for n in 1..=5 {
            mark.write(&[n, n]).unwrap();
            let (again, said) = reopened(mark);
            assert_eq!(said, [n, n]);
            mark = again;
        }
        drop(mark);
        let other = Small::open(directory.path(), *b"QOTHER\x01\0").map(drop).unwrap_err();
        assert!(matches!(other, EngineError::Corrupt { .. }), "{other}");
    }

    #[test]
    fn a_slot_that_was_spoilt_leaves_the_other_one() {
        let directory = tempfile::tempdir().unwrap();
        let mut mark = Small::create(directory.path(), MAGIC, &[0, 0]).unwrap();
        (1..=4).for_each(|n| mark.write(&[n, n]).unwrap());
        let content = std::fs::read(&mark.path).unwrap();
        assert_eq!(Small::decode(MAGIC, &content), Some((5, [4, 4])));
        for bit in 0..content.len() * 8 {
            let mut flipped = content.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let (_, [said, _]) = Small::decode(MAGIC, &flipped).expect("one of them is whole");
            assert!((3..=4).contains(&said));
        }
        assert!(Small::decode(MAGIC, &content[..Small::SLOT_BYTES - 1]).is_none());
        assert!(Small::decode(MAGIC, &[]).is_none());
    }
}
