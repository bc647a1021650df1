//! How hints lie in an engine: their objects as an owner's do, and beside them who is owed them.
//!
//! ```text
//!   Hints   n, partition, namespace, key        → the object
//!           0, n, partition, namespace, key     → its size, and each target with its number
//!           0, 0, target, number                → since when, and n, partition, namespace, key
//!           0                                   → which opening of the store gave the last numbers
//! ```
//!
//! No placement group has n = 0, so that the rows are told apart by their first bytes. A partition has
//! one writer, although all of a node share the queue of a target: the numbers come from one counter,
//! and each row of a queue is written by whoever writes its object. Either of the last but one rows
//! can be made again from the others of its kind, if it is damaged.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::record::{self, RecordError};
use super::{Engine, EngineError, KeyRange, Scan, Space};
use crate::dynamo::encoding::{Reader, Writer};
use crate::dynamo::hint::{Debt, Owed};
use crate::dynamo::key::NodeId;

/// Where the number of the opening lies.
const OPENING: &[u8] = &[0];

/// Where queues begin.
const QUEUES: [u8; 2] = [0, 0];

/// Where it says to whom the object at `stored` is owed.
pub fn owed_key(stored: &[u8]) -> Bytes {
    [&[0], stored].concat().into()
}

/// Whose object it says that of: what [`owed_key`] was given; none if it is no such key.
pub fn object_of(owed: &Bytes) -> Option<Bytes> {
    (owed.first() == Some(&0) && *owed.get(1)? != 0).then(|| owed.slice(1..))
}

/// Where a place in a target's queue lies.
pub fn place_key(target: NodeId, seq: u64) -> Bytes {
    [&queue_prefix(target)[..], &seq.to_be_bytes()].concat().into()
}

/// What [`place_key`] was given; none if it is no such key.
pub fn place_of(stored: &[u8]) -> Option<(NodeId, u64)> {
    let (target, seq) = stored.strip_prefix(&QUEUES)?.split_first_chunk()?;
    let seq = u64::from_be_bytes(seq.try_into().ok()?);
    Some((NodeId(u64::from_be_bytes(*target)), seq))
}

/// Where the queue of a target begins.
fn queue_prefix(target: NodeId) -> [u8; 10] {
    let mut prefix = [0; 10];
    prefix[2..].copy_from_slice(&target.0.to_be_bytes());
    prefix
}

/// The row that says to whom an object is owed.
pub fn seal_owed(key: &[u8], owed: &Owed) -> Bytes {
    let mut w = Writer::new();
    owed.write(&mut w);
    record::seal(key, w.as_slice())
}

/// What such a row says.
pub fn open_owed(key: &[u8], sealed: &Bytes) -> Result<Owed, RecordError> {
    let body = record::open(key, sealed)?;
    Owed::read(Reader::new(body)).map_err(|_| RecordError::Damaged)
}

/// A place in a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Since when it is there.
    pub since_ms: u64,
    /// Where the object lies.
    pub object: Bytes,
}

/// The row of a place.
pub fn seal_place(key: &[u8], place: &Place) -> Bytes {
    let mut w = Writer::with_capacity(8 + place.object.len());
    w.u64(place.since_ms);
    w.raw(&place.object);
    record::seal(key, w.as_slice())
}

/// What such a row says.
pub fn open_place(key: &[u8], sealed: &Bytes) -> Result<Place, RecordError> {
    let body = record::open(key, sealed)?;
    let since_ms = body.first_chunk().copied().map(u64::from_le_bytes);
    let since_ms = since_ms.ok_or(RecordError::Damaged)?;
    Ok(Place { since_ms, object: body.slice(8..) })
}

/// The row in which each opening that gives numbers leaves its own.
pub fn opening_row(opening: u64) -> (Bytes, Bytes) {
    (Bytes::from_static(OPENING), record::seal(OPENING, &opening.to_le_bytes()))
}

/// The last opening that gave numbers, 0 before the first; none if the row is damaged.
pub fn last_opening(engine: &dyn Engine) -> Result<Option<u64>, EngineError> {
    let Some(sealed) = engine.get(Space::Hints, OPENING)? else { return Ok(Some(0)) };
    let body = record::open(OPENING, &sealed).ok();
    Ok(body.and_then(|body| Some(u64::from_le_bytes(body.first_chunk().copied()?))))
}

/// The rows behind `after` that say to whom an object is owed; empty: all of them.
pub fn scan_owed(engine: &dyn Engine, after: Bytes) -> Scan<'_> {
    const FIRST: &[u8] = &[0, 1];
    const END: &[u8] = &[1];
    let all = KeyRange::new(Bytes::from_static(FIRST)..Bytes::from_static(END));
    engine.scan(Space::Hints, all.after(after))
}

/// A target's queue behind the place `after`, in its order; 0: all of it.
pub fn scan_queue(engine: &dyn Engine, target: NodeId, after: u64) -> Scan<'_> {
    let all = KeyRange::prefix(&queue_prefix(target));
    engine.scan(Space::Hints, all.after(place_key(target, after)))
}

/// To whom these objects are owed, by what the queues say: where their own rows are damaged. It reads
/// all queues.
pub fn debts_by_queues(
    engine: &dyn Engine,
    objects: &BTreeSet<Bytes>,
) -> Result<BTreeMap<Bytes, Vec<Debt>>, EngineError> {
    let mut found: BTreeMap<Bytes, Vec<Debt>> = BTreeMap::new();
    for row in engine.scan(Space::Hints, KeyRange::prefix(&QUEUES)) {
        let (key, sealed) = row?;
        let (Some((target, seq)), Ok(place)) = (place_of(&key), open_place(&key, &sealed)) else {
            continue;
        };
        if objects.contains(&place.object) {
            let debt = Debt { target, seq, since_ms: place.since_ms };
            found.entry(place.object).or_default().push(debt);
        }
    }
    Ok(found)
}

/// What lies at these places of a queue, by what the objects' rows say: where the places' own rows
/// are damaged. It reads them all.
pub fn places_by_objects(
    engine: &dyn Engine,
    target: NodeId,
    places: &BTreeSet<u64>,
) -> Result<BTreeMap<u64, Place>, EngineError> {
    let mut found = BTreeMap::new();
    for row in scan_owed(engine, Bytes::new()) {
        let (key, sealed) = row?;
        let (Some(object), Ok(owed)) = (object_of(&key), open_owed(&key, &sealed)) else {
            continue;
        };
        let Some(debt) = owed.to(target).filter(|debt| places.contains(&debt.seq)) else {
            continue;
        };
        found.insert(debt.seq, Place { since_ms: debt.since_ms, object });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamo::key::{NamespaceId, PartitionId, VnodeId};
    use crate::storage::Batch;
    use crate::storage::memory::MemoryEngine;

    const VNODE: VnodeId = VnodeId { n: 3, partition: PartitionId(0x0102) };

    #[test]
    fn rows_are_told_apart_by_their_first_bytes() {
        let object = record::object_key(VNODE, NamespaceId(5), b"k");
        let (owed, place) = (owed_key(&object), place_key(NodeId(7), 9));
        assert_eq!(&owed[..], b"\0\x03\x01\x02\0\0\0\0\0\0\0\x05k");
        assert_eq!(&place[..], b"\0\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09");
        assert_eq!(object_of(&owed), Some(object.clone()));
        assert_eq!(place_of(&place), Some((NodeId(7), 9)));
        let (opening, _) = opening_row(3);
        for other in [&object, &place, &opening] {
            assert_eq!(object_of(other), None);
        }
        for other in [&object, &owed, &opening] {
            assert_eq!(place_of(other), None);
        }
    }

    #[test]
    fn a_damaged_row_is_made_again_from_those_of_the_other_kind() {
        let engine = MemoryEngine::new();
        let mut batch = Batch::new();
        let object = |key: &'static [u8]| record::object_key(VNODE, NamespaceId(1), key);
        for (key, target, seq) in [(b"a", 7, 1), (b"b", 7, 2), (b"c", 8, 3)] {
            let debt = Debt { target: NodeId(target), seq, since_ms: 10 };
            let (owed, place) = (owed_key(&object(key)), place_key(debt.target, seq));
            batch.put(Space::Hints, owed.clone(), seal_owed(&owed, &Owed::from_debts(5, [debt])));
            let at = Place { since_ms: 10, object: object(key) };
            batch.put(Space::Hints, place.clone(), seal_place(&place, &at));
        }
        engine.apply(batch).unwrap();
        assert_eq!(scan_owed(&engine, Bytes::new()).count(), 3);
        assert_eq!(scan_queue(&engine, NodeId(7), 0).count(), 2);
        engine.rot(Space::Hints, &owed_key(&object(b"a"))).unwrap();
        engine.rot(Space::Hints, &place_key(NodeId(7), 2)).unwrap();
        let debts = debts_by_queues(&engine, &[object(b"a")].into()).unwrap();
        let debt = Debt { target: NodeId(7), seq: 1, since_ms: 10 };
        assert_eq!(debts, [(object(b"a"), vec![debt])].into());
        let places = places_by_objects(&engine, NodeId(7), &[2].into()).unwrap();
        assert_eq!(places, [(2, Place { since_ms: 10, object: object(b"b") })].into());
    }

    #[test]
    fn openings_are_counted_and_a_damaged_count_is_none() {
        let engine = MemoryEngine::new();
        assert_eq!(last_opening(&engine).unwrap(), Some(0));
        let (key, row) = opening_row(3);
        let mut batch = Batch::new();
        batch.put(Space::Hints, key.clone(), row);
        engine.apply(batch).unwrap();
        assert_eq!(last_opening(&engine).unwrap(), Some(3));
        engine.rot(Space::Hints, &key).unwrap();
        assert_eq!(last_opening(&engine).unwrap(), None);
    }
}
