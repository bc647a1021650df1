//! Lengths that fjall believes before it has checked them.
//!
//! A file of fjall's ends in a table of contents with a checksum, but how many entries that has is read,
//! and room made for them, before the checksum is. The file that names a keyspace's tables has a checksum
//! in `current`, which fjall writes and does not read. So one flipped bit can ask for 170 GB, which no
//! caller can refuse: the allocator ends the process. Both are checked here, before fjall opens anything.
//!
//! ```text
//!   keyspaces/2/current     7 │ checksum of v7 │ kind
//!   keyspaces/2/v7          tables: levels, runs, (id, ..)* │ others │ contents │ trailer
//!   keyspaces/2/tables/31   blocks, each with a checksum    │ contents │ trailer
//!   contents                "TOC!" │ count │ (position, length, name)*
//!   trailer                 "SFA!" │ version │ kind │ checksum of the contents │ their position │ length
//! ```
//!
//! Whatever is missing or not of this form is left to fjall, which says so. So are the journals: a length
//! in one is of 4 GiB at most, of which no more is used than the file has.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use bytes::Buf as _;
use xxhash_rust::xxh3::xxh3_128;

use super::damaged;
use crate::storage::EngineError;

const CURRENT_BYTES: usize = 25;
const CONTENTS: &[u8] = b"TOC!";
const TRAILER: &[u8] = b"SFA!";
const TRAILER_BYTES: usize = 38;

/// One table in the list of them.
const TABLE_BYTES: usize = 33;

/// What was read, if it is there: fjall tells what is missing.
type Found<T> = io::Result<Option<T>>;

/// Checks the files of the store at `path`.
pub(super) fn check(path: &Path) -> Result<(), EngineError> {
    let io = EngineError::io(super::OPENING);
    let keyspaces = match fs::read_dir(path.join("keyspaces")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        keyspaces => keyspaces.map_err(&io)?,
    };
    for keyspace in keyspaces {
        check_keyspace(&keyspace.map_err(&io)?.path())?;
    }
    Ok(())
}

fn check_keyspace(path: &Path) -> Result<(), EngineError> {
    let io = EngineError::io(super::OPENING);
    let Some(current) = found(fs::read(path.join("current"))).map_err(&io)? else { return Ok(()) };
    if current.len() != CURRENT_BYTES {
        return Err(damaged(format!("{} is not whole", path.join("current").display())));
    }
    let mut current = &current[..];
    let path_of_version = path.join(format!("v{}", current.get_u64_le()));
    let Some(version) = found(fs::read(&path_of_version)).map_err(&io)? else { return Ok(()) };
    if xxh3_128(&version) != current.get_u128_le() {
        return Err(damaged(format!("{} has another checksum", path_of_version.display())));
    }
    for table in tables(&version) {
        let table = path.join("tables").join(table.to_string());
        if found(File::open(&table).and_then(has_sound_contents)).map_err(&io)? == Some(false) {
            let detail = format!("the table of contents of {} is damaged", table.display());
            return Err(damaged(detail));
        }
    }
    Ok(())
}

fn found<T>(read: io::Result<T>) -> Found<T> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Whether the contents are what the trailer says, if there is one.
fn has_sound_contents(mut file: File) -> io::Result<bool> {
    let bytes = file.metadata()?.len();
    let Some(end) = bytes.checked_sub(TRAILER_BYTES as u64) else { return Ok(true) };
    let mut trailer = [0; TRAILER_BYTES];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut trailer)?;
    let Some(mut trailer) = trailer.strip_prefix(TRAILER) else { return Ok(true) };
    trailer.advance(2);
    let (checksum, position) = (trailer.get_u128_le(), trailer.get_u64_le());
    let Some(length) = end.checked_sub(position) else { return Ok(false) };
    file.seek(SeekFrom::Start(position))?;
    let mut contents = Vec::new();
    file.take(length).read_to_end(&mut contents)?;
    Ok(xxh3_128(&contents) == checksum)
}

/// The tables of a version whose checksum is right; none if it has another form.
fn tables(version: &[u8]) -> Vec<u64> {
    section(version, b"tables").and_then(ids).unwrap_or_default()
}

fn ids(mut section: &[u8]) -> Option<Vec<u64>> {
    let mut ids = Vec::new();
    for _level in 0..section.try_get_u8().ok()? {
        for _run in 0..section.try_get_u8().ok()? {
            for _table in 0..section.try_get_u32_le().ok()? {
                let mut table;
                (table, section) = section.split_at_checked(TABLE_BYTES)?;
                ids.push(table.get_u64_le());
            }
        }
    }
    Some(ids)
}

/// A part of a file, by its table of contents.
fn section<'a>(file: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let end = file.len().checked_sub(TRAILER_BYTES)?;
    let mut position = file[end..].strip_prefix(TRAILER)?.get(18..)?;
    let contents = file.get(usize::try_from(position.get_u64_le()).ok()?..end)?;
    let mut rest = contents.strip_prefix(CONTENTS)?;
    for _entry in 0..rest.try_get_u32_le().ok()? {
        let at = usize::try_from(rest.try_get_u64_le().ok()?).ok()?;
        let length = usize::try_from(rest.try_get_u64_le().ok()?).ok()?;
        let name;
        let name_bytes = rest.try_get_u16_le().ok()?;
        (name, rest) = rest.split_at_checked(name_bytes.into())?;
        if name == wanted {
            return file.get(at..at.checked_add(length)?);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::storage::fjall::FjallEngine;
    use crate::storage::{Batch, Engine as _, EngineOptions, Space};

    /// A store with tables on disk, closed; and the files whose lengths are believed.
    fn store() -> (tempfile::TempDir, Vec<std::path::PathBuf>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fjall");
        let engine = open(&path).unwrap();
        let mut batch = Batch::new();
        (0..100_u8).for_each(|key| batch.put(Space::Objects, vec![key], Bytes::from(vec![key; 9])));
        engine.apply(batch).unwrap();
        engine.keyspaces.iter().for_each(|keyspace| keyspace.rotate_memtable_and_wait().unwrap());
        drop(engine);
        let (mut versions, mut all) = (Vec::new(), Vec::new());
        for keyspace in fs::read_dir(path.join("keyspaces")).unwrap() {
            let keyspace = keyspace.unwrap().path();
            let current = fs::read(keyspace.join("current")).unwrap();
            let version = keyspace.join(format!("v{}", (&current[..]).get_u64_le()));
            let ids = tables(&fs::read(&version).unwrap());
            all.extend(ids.iter().map(|id| keyspace.join("tables").join(id.to_string())));
            versions.push(version);
        }
        assert!(!all.is_empty(), "there is a table");
        versions.append(&mut all);
        (directory, versions)
    }

    fn open(path: &Path) -> Result<FjallEngine, EngineError> {
        FjallEngine::open(path, EngineOptions { cache_bytes: 1 << 20 })
    }

    #[test]
    fn a_length_that_lies_is_an_error() {
        let (directory, files) = store();
        let path = directory.path().join("fjall");
        for file in files {
            let sound = fs::read(&file).unwrap();
            let contents = sound.windows(4).rposition(|four| four == CONTENTS).unwrap();
            let mut lies = sound.clone();
            lies[contents + 4..contents + 8].fill(0xff);
            fs::write(&file, &lies).unwrap();
            let error = open(&path).map(drop).unwrap_err();
            assert!(matches!(error, EngineError::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains(&file.display().to_string()), "{error}");
            fs::write(&file, &sound).unwrap();
        }
        open(&path).unwrap();
    }

    #[test]
    fn every_bit_of_a_version_counts() {
        let (directory, files) = store();
        let path = directory.path().join("fjall");
        let sound = fs::read(&files[0]).unwrap();
        for bit in 0..8 * sound.len() {
            let mut flipped = sound.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&files[0], &flipped).unwrap();
            let checked = check(&path);
            assert!(matches!(checked, Err(EngineError::Corrupt { .. })), "bit {bit}: {checked:?}");
        }
    }
}
