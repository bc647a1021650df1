//! How spaces, keys and values lie in sled's one tree.
//!
//! ```text
//!   key of a row                     value of a row
//!   0 │ batch, place, part           a part of a long value
//!   1 │ key   Objects                0 │ value
//!   2 │ key   Frontiers              1 │ batch, place, parts, bytes, sum of the parts' hashes
//!   3 │ key   Meta
//!   4 │ key   Operations
//!   5 │ key   Hints
//!   6 │ key   Trees
//!   7                                the census
//! ```
//!
//! A page of sled has up to 16 rows, and one past 128 KiB becomes a file of its own in `blobs/`,
//! rewritten whole every tenth change. So longer values are cut into parts, named by the batch that
//! wrote them. The census comes last, beside the shortest records, since its page is rewritten the
//! most often.

use bytes::{Buf, BufMut, Bytes};
use sled::{Db, IVec};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::failed;
use crate::storage::{EngineError, KeyRange, Space};

/// Values up to this stay whole: 16 of them with the longest user keys fit a page.
const WHOLE_MAX_BYTES: usize = 2 << 10;

/// Bytes of each part of a longer value, so that no page takes more than its share of the cache.
const PART_BYTES: usize = 2 << 10;

/// Where the census lies: behind the rows of every space.
pub(super) const CENSUS: [u8; 1] = [7];

const PARTS: u8 = 0;
const WHOLE: u8 = 0;
const CUT: u8 = 1;

/// Below this a value is copied out of its row; above, the row is shared.
const COPIED_MAX_BYTES: usize = 256;

const fn tag(space: Space) -> u8 {
    match space {
        Space::Objects => 1,
        Space::Frontiers => 2,
        Space::Meta => 3,
        Space::Operations => 4,
        Space::Hints => 5,
        Space::Trees => 6,
    }
}

/// The row of a key.
pub(super) fn key(space: Space, key: &[u8]) -> Bytes {
    [&[tag(space)], key].concat().into()
}

/// Whose row it is; none if it is no key's.
pub(super) fn split(row: &Bytes) -> Option<(Space, Bytes)> {
    let first = *row.first()?;
    let space = Space::ALL.into_iter().find(|space| tag(*space) == first)?;
    Some((space, row.slice(1..)))
}

/// The rows of a range of keys.
pub(super) fn range(space: Space, keys: KeyRange) -> KeyRange {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let (start, end) = keys.into_bounds();
    let start = match start {
        Unbounded => Included(Bytes::copy_from_slice(&[tag(space)])),
        bound => bound.map(|bound| key(space, &bound)),
    };
    let end = match end {
        Unbounded => Excluded(Bytes::copy_from_slice(&[tag(space) + 1])),
        bound => bound.map(|bound| key(space, &bound)),
    };
    KeyRange::new((start, end))
}

/// The rows of every key.
pub(super) fn range_of_all() -> KeyRange {
    KeyRange::new(Bytes::from_static(&[1])..Bytes::from_static(&CENSUS))
}

/// The hash that the census adds up.
pub(super) fn hash(row: &[u8], stored: &[u8]) -> u64 {
    xxh3_64_with_seed(stored, xxh3_64(row))
}

/// Where the parts of a long value are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cut {
    batch: u64,
    place: u32,
    pub(super) parts: u32,
    bytes: u64,
    /// The sum of the parts' hashes.
    pub(super) sum: u64,
}

impl Cut {
    fn part(&self, part: u32) -> [u8; 17] {
        let mut row = [PARTS; 17];
        row[1..9].copy_from_slice(&self.batch.to_be_bytes());
        row[9..13].copy_from_slice(&self.place.to_be_bytes());
        row[13..].copy_from_slice(&part.to_be_bytes());
        row
    }

    /// The rows of its parts.
    pub(super) fn rows(self) -> impl Iterator<Item = [u8; 17]> {
        (0..self.parts).map(move |part| self.part(part))
    }
}

/// Refuses a row that does not lie after the `last` one: over pages that lead back a walk has no end.
pub(super) fn rise(
    action: &'static str,
    last: Option<&[u8]>,
    row: &[u8],
) -> Result<(), EngineError> {
    match last.is_none_or(|last| last < row) {
        true => Ok(()),
        false => {
            let detail = "its pages lead back to rows that were read before".to_owned();
            Err(EngineError::Corrupt { action, detail })
        }
    }
}

/// What a row holds.
enum Held<'a> {
    Whole(&'a [u8]),
    Cut(Cut),
}

fn read(stored: &[u8]) -> Result<Held<'_>, EngineError> {
    match stored.split_first() {
        Some((&WHOLE, value)) => Ok(Held::Whole(value)),
        Some((&CUT, mut rest)) if rest.len() == 32 => Ok(Held::Cut(Cut {
            batch: rest.get_u64_le(),
            place: rest.get_u32_le(),
            parts: rest.get_u32_le(),
            bytes: rest.get_u64_le(),
            sum: rest.get_u64_le(),
        })),
        _ => Err(foreign()),
    }
}

fn foreign() -> EngineError {
    let detail = "a row is not what was written".to_owned();
    EngineError::Corrupt { action: "read a row", detail }
}

/// The cut of a row's value, if it was cut.
pub(super) fn cut(stored: &[u8]) -> Result<Option<Cut>, EngineError> {
    Ok(match read(stored)? {
        Held::Whole(_) => None,
        Held::Cut(cut) => Some(cut),
    })
}

/// The value of a row, unless it was cut. Longer ones share the row's memory.
pub(super) fn whole(stored: &IVec) -> Result<Option<Bytes>, EngineError> {
    Ok(match read(stored)? {
        Held::Whole(value) if value.len() <= COPIED_MAX_BYTES => {
            Some(Bytes::copy_from_slice(value))
        }
        Held::Whole(_) => Some(Bytes::from_owner(stored.clone()).slice(1..)),
        Held::Cut(_) => None,
    })
}

/// The value of a row, put together from its parts if it was cut; no batch may be applied meanwhile.
pub(super) fn value(db: &Db, stored: &IVec) -> Result<Bytes, EngineError> {
    let Some(cut) = cut(stored)? else { return Ok(whole(stored)?.unwrap_or_default()) };
    let mut value = Vec::new();
    for row in cut.rows() {
        let part = db.get(row).map_err(failed("read a row"))?.ok_or_else(foreign)?;
        value.extend_from_slice(&part);
    }
    if value.len() as u64 == cut.bytes { Ok(value.into()) } else { Err(foreign()) }
}

/// Where a value is written: its batch, and its place in it.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) batch: u64,
    pub(super) place: u32,
}

/// What a key's row is to hold for `value`. Parts, if it is long, are given to `put`.
pub(super) fn store(value: &[u8], at: At, mut put: impl FnMut([u8; 17], &[u8])) -> Vec<u8> {
    if value.len() <= WHOLE_MAX_BYTES {
        let mut stored = Vec::with_capacity(1 + value.len());
        stored.push(WHOLE);
        stored.extend_from_slice(value);
        return stored;
    }
    let At { batch, place } = at;
    let mut cut = Cut { batch, place, parts: 0, bytes: value.len() as u64, sum: 0 };
    for part in value.chunks(PART_BYTES) {
        let row = cut.part(cut.parts);
        cut.sum = cut.sum.wrapping_add(hash(&row, part));
        cut.parts += 1;
        put(row, part);
    }
    let mut stored = Vec::with_capacity(33);
    stored.push(CUT);
    stored.put_u64_le(cut.batch);
    stored.put_u32_le(cut.place);
    stored.put_u32_le(cut.parts);
    stored.put_u64_le(cut.bytes);
    stored.put_u64_le(cut.sum);
    stored
}
