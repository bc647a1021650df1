//! How objects, frontiers and operations lie in an engine: their keys, and the seal on each value.
//!
//! ```text
//!   Objects      n, partition, namespace, key     → the object
//!   Frontiers    n, partition, 0, actor           → the numbers seen of that actor
//!                n, partition, 1, actor, number   → the key of that dot: the dot log
//!                n, partition, 2                  → the objects are to be recounted, from here on
//!   Operations   n, partition, issued, id         → key hash and dot
//!   Trees        n, partition, 0, leaf            → the sum of that leaf, if it is not 0
//!                n, partition, 1, leaf, place,
//!                   namespace, key                → nothing: the leaf has an object there
//!                n, partition, 2                  → the tree is to be made anew, from here on
//!                n, partition, 3, deadline,
//!                   namespace, key                → nothing: a value expires there then
//!   Hints        see [`hints`](super::hints)
//!
//!   a sealed value:   format (1 byte) │ body │ xxh3-64 of all before, seeded with the key's hash
//! ```
//!
//! Numbers in keys are big endian, so that one vnode is one range, in it one namespace, and the
//! operations of a vnode lie by age. The seal speaks of the key too: a value that turns up under
//! another key is damage, whatever the engine thinks of it.

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::dynamo::clock::{Actor, Dot};
use crate::dynamo::encoding::{Reader, Writer};
use crate::dynamo::format::{EncodedObject, read_operation, write_object, write_operation};
use crate::dynamo::key::{Key, NamespaceId, PartitionId, VnodeId};
use crate::dynamo::merkle::{Leaf, Place};
use crate::dynamo::object::Object;
use crate::dynamo::operation::OperationId;

const RECORD_FORMAT: u8 = 1;
const CHECKSUM_BYTES: usize = 8;

/// A stored value is not what was written. It must not be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RecordError {
    /// Too short, or its checksum is wrong.
    #[error("the record is damaged")]
    Damaged,
    /// Written by a later version of this program.
    #[error("the record has format {0}, which this version cannot read")]
    Format(u8),
}

/// Where a vnode's keys begin.
pub fn vnode_prefix(vnode: VnodeId) -> [u8; 3] {
    let [high, low] = vnode.partition.0.to_be_bytes();
    [vnode.n, high, low]
}

/// Whose key it is, in any space of vnodes; none if it is no such key.
pub fn vnode_of(stored: &[u8]) -> Option<VnodeId> {
    let &[n, high, low] = stored.first_chunk()?;
    Some(VnodeId { n, partition: PartitionId(u16::from_be_bytes([high, low])) })
}

/// Where a namespace's keys begin, within a vnode.
pub fn namespace_prefix(vnode: VnodeId, namespace: NamespaceId) -> [u8; 11] {
    let mut prefix = [0; 11];
    prefix[..3].copy_from_slice(&vnode_prefix(vnode));
    prefix[3..].copy_from_slice(&namespace.0.to_be_bytes());
    prefix
}

/// Where an object lies.
pub fn object_key(vnode: VnodeId, namespace: NamespaceId, key: &[u8]) -> Bytes {
    [&namespace_prefix(vnode, namespace)[..], key].concat().into()
}

/// How long the key is that [`object_key`] was given.
pub fn key_bytes(stored: &[u8]) -> usize {
    stored.len().saturating_sub(11)
}

/// What [`object_key`] put together; none if it is no such key.
pub fn split_object_key(stored: &Bytes) -> Option<(VnodeId, NamespaceId, Key)> {
    let key = Key::new(stored.get(11..).map(|_| stored.slice(11..))?).ok()?;
    let partition = PartitionId(u16::from_be_bytes([stored[1], stored[2]]));
    let namespace = NamespaceId(u64::from_be_bytes(stored[3..11].try_into().ok()?));
    Some((VnodeId { n: stored[0], partition }, namespace, key))
}

const SEEN: u8 = 0;
const LOG: u8 = 1;
const RECOUNT: u8 = 2;

/// Where the numbers seen of all actors begin.
pub fn frontier_prefix(vnode: VnodeId) -> [u8; 4] {
    tagged(vnode, SEEN)
}

/// Where the numbers seen of an actor lie.
pub fn frontier_key(vnode: VnodeId, actor: Actor) -> Bytes {
    [&frontier_prefix(vnode)[..], &actor.0.to_be_bytes()].concat().into()
}

/// What [`frontier_key`] put behind the vnode.
pub fn frontier_actor(stored: &[u8]) -> Option<Actor> {
    let actor = stored.get(4..)?.try_into().ok()?;
    (stored[3] == SEEN).then(|| Actor(u64::from_be_bytes(actor)))
}

/// Where the dot log begins.
pub fn log_prefix(vnode: VnodeId) -> [u8; 4] {
    tagged(vnode, LOG)
}

/// Where the key of a dot lies.
pub fn log_key(vnode: VnodeId, dot: Dot) -> Bytes {
    let (actor, n) = (dot.actor.0.to_be_bytes(), dot.n.to_be_bytes());
    [&log_prefix(vnode)[..], &actor, &n].concat().into()
}

/// Whose key lies there: what [`log_key`] put behind the vnode.
pub fn logged_dot(stored: &[u8]) -> Option<Dot> {
    let numbers: &[u8; 16] = stored.get(4..)?.try_into().ok()?;
    let [actor, n] = [&numbers[..8], &numbers[8..]]
        .map(|half| u64::from_be_bytes(half.try_into().expect("it has eight bytes")));
    (stored[3] == LOG).then_some(Dot { actor: Actor(actor), n })
}

/// Where it is kept that a vnode's objects are to be recounted.
pub fn recount_key(vnode: VnodeId) -> Bytes {
    Bytes::copy_from_slice(&tagged(vnode, RECOUNT))
}

/// What lies before the vnode in the row which says that it lost something.
pub const LOST: &[u8] = b"standing-lost/";

/// Where it is said that a vnode lost something without a trace.
pub fn lost_key(vnode: VnodeId) -> Bytes {
    [LOST, &vnode_prefix(vnode)].concat().into()
}

/// Of which vnode that is said there; none if it is no such key.
pub fn lost_of(stored: &[u8]) -> Option<VnodeId> {
    vnode_of(stored.strip_prefix(LOST)?)
}

const LEAF: u8 = 0;
const NAME: u8 = 1;
const REBUILD: u8 = 2;
const DEADLINE: u8 = 3;

/// Where the sum of a leaf lies.
pub fn leaf_key(vnode: VnodeId, leaf: Leaf) -> Bytes {
    [&tagged(vnode, LEAF)[..], &leaf.0.to_be_bytes()].concat().into()
}

/// Whose sum lies there: what [`leaf_key`] put behind the vnode.
pub fn leaf_of(stored: &[u8]) -> Option<Leaf> {
    let number: &[u8; 2] = stored.get(4..)?.try_into().ok()?;
    (stored[3] == LEAF).then(|| Leaf(u16::from_be_bytes(*number)))
}

/// Where it is kept that the object at `stored` is in the tree.
pub fn name_key(vnode: VnodeId, place: Place, stored: &Bytes) -> Bytes {
    [&place_prefix(vnode, place)[..], &logged_key(stored)].concat().into()
}

/// Where the names at a place begin.
pub fn place_prefix(vnode: VnodeId, place: Place) -> [u8; 14] {
    let mut prefix = [0; 14];
    prefix[..6].copy_from_slice(&names_prefix(vnode, place.leaf()));
    prefix[6..].copy_from_slice(&place.0.to_be_bytes());
    prefix
}

/// Where the names of a leaf's objects begin.
pub fn names_prefix(vnode: VnodeId, leaf: Leaf) -> [u8; 6] {
    let ([n, high, low, tag], [first, second]) = (tagged(vnode, NAME), leaf.0.to_be_bytes());
    [n, high, low, tag, first, second]
}

/// Whose name lies there: the place, and where the object does.
pub fn named(stored: &Bytes) -> Option<(Place, Bytes)> {
    let place = u64::from_be_bytes(stored.get(6..14)?.try_into().ok()?);
    let object = [&stored[..3], &stored[14..]].concat();
    (stored[3] == NAME).then(|| (Place(place), object.into()))
}

/// Where it is kept that a vnode's tree is to be made anew.
pub fn rebuild_key(vnode: VnodeId) -> Bytes {
    Bytes::copy_from_slice(&tagged(vnode, REBUILD))
}

/// Where the deadlines of a vnode's values begin, the earliest first.
pub fn deadlines_prefix(vnode: VnodeId) -> [u8; 4] {
    tagged(vnode, DEADLINE)
}

/// Where it is kept that a value of the object at `stored` expires then.
pub fn deadline_key(vnode: VnodeId, deadline_ms: u64, stored: &Bytes) -> Bytes {
    let (prefix, deadline) = (deadlines_prefix(vnode), deadline_ms.to_be_bytes());
    [&prefix[..], &deadline, &logged_key(stored)].concat().into()
}

/// What expires when: what [`deadline_key`] put together; none if it is no such key.
pub fn expiring(stored: &Bytes) -> Option<(u64, Bytes)> {
    let deadline_ms = u64::from_be_bytes(stored.get(4..12)?.try_into().ok()?);
    let object = [&stored[..3], &stored[12..]].concat();
    (stored[3] == DEADLINE).then(|| (deadline_ms, object.into()))
}

fn tagged(vnode: VnodeId, tag: u8) -> [u8; 4] {
    let [n, high, low] = vnode_prefix(vnode);
    [n, high, low, tag]
}

/// What the dot log keeps of an object that lies at `stored`: its namespace and key.
pub fn logged_key(stored: &Bytes) -> Bytes {
    stored.slice(3..)
}

/// What [`logged_key`] made; none if it is no such thing.
pub fn split_logged_key(logged: &Bytes) -> Option<(NamespaceId, Key)> {
    let namespace = u64::from_be_bytes(*logged.first_chunk()?);
    Some((NamespaceId(namespace), Key::new(logged.slice(8..)).ok()?))
}

/// Where an operation's outcome lies.
pub fn operation_key(vnode: VnodeId, id: &OperationId) -> Bytes {
    let mut w = Writer::with_capacity(43);
    w.raw(&vnode_prefix(vnode));
    write_operation(&mut w, id);
    w.finish()
}

/// Whose outcome lies there: what [`operation_key`] put together; none if it is no such key.
pub fn operation_of(stored: &Bytes) -> Option<OperationId> {
    let mut r = Reader::new(stored.get(3..).map(|_| stored.slice(3..))?);
    let id = read_operation(&mut r, "operation id").ok()?;
    r.finish("operation id").ok()?;
    Some(id)
}

/// Where the operations issued at `issued_ms` or later begin, within a vnode.
pub fn operations_since(vnode: VnodeId, issued_ms: u64) -> Bytes {
    [&vnode_prefix(vnode)[..], &issued_ms.to_be_bytes()].concat().into()
}

/// Seals a body for its key.
pub fn seal(key: &[u8], body: &[u8]) -> Bytes {
    let mut w = Writer::with_capacity(1 + body.len() + CHECKSUM_BYTES);
    w.u8(RECORD_FORMAT);
    w.raw(body);
    finish(key, w)
}

/// Seals an object for its key, and gives its encoding, which shares the record's memory.
pub fn seal_object(key: &[u8], object: &Object) -> (Bytes, EncodedObject) {
    let mut w = Writer::with_capacity(object.encoded_bytes_max() + 1 + CHECKSUM_BYTES);
    w.u8(RECORD_FORMAT);
    write_object(&mut w, object);
    let record = finish(key, w);
    let encoded = EncodedObject(record.slice(1..record.len() - CHECKSUM_BYTES));
    (record, encoded)
}

/// How many bytes of a sealed value are its body.
pub fn body_bytes(sealed: &[u8]) -> usize {
    sealed.len().saturating_sub(1 + CHECKSUM_BYTES)
}

fn finish(key: &[u8], mut w: Writer) -> Bytes {
    let checksum = checksum(key, w.as_slice());
    w.u64(checksum);
    w.finish()
}

/// Opens a sealed value: its body, or why it must not be used.
pub fn open(key: &[u8], record: &Bytes) -> Result<Bytes, RecordError> {
    let end = record.len().checked_sub(CHECKSUM_BYTES).ok_or(RecordError::Damaged)?;
    if end == 0 || record[end..] != checksum(key, &record[..end]).to_le_bytes() {
        return Err(RecordError::Damaged);
    }
    match record[0] {
        RECORD_FORMAT => Ok(record.slice(1..end)),
        newer => Err(RecordError::Format(newer)),
    }
}

fn checksum(key: &[u8], bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, xxh3_64(key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dynamo::object::testing::histories;

    const VNODE: VnodeId = VnodeId { n: 3, partition: PartitionId(0x0102) };

    proptest! {
        #[test]
        fn any_flipped_bit_is_noticed(
            body in prop::collection::vec(any::<u8>(), 0..50), at in any::<prop::sample::Index>(), bit in 0..8u8
        ) {
            let record = seal(b"key", &body);
            prop_assert_eq!(open(b"key", &record), Ok(body.into()));
            prop_assert_eq!(open(b"kez", &record), Err(RecordError::Damaged));
            let mut flipped = record.to_vec();
            let at = at.index(flipped.len());
            flipped[at] ^= 1 << bit;
            prop_assert!(open(b"key", &flipped.into()).is_err());
            prop_assert!(open(b"key", &record.slice(..at)).is_err(), "a truncated tail");
        }

        #[test]
        fn an_object_is_sealed_as_its_encoding_is(history in histories()) {
            for object in history.replicas.iter().filter(|o| !o.is_absent()) {
                let (record, encoded) = seal_object(b"key", object);
                prop_assert_eq!(&encoded, &EncodedObject::new(object));
                prop_assert_eq!(open(b"key", &record), Ok(encoded.0));
            }
        }
    }

    #[test]
    fn keys_lie_by_vnode_namespace_and_key() {
        let stored = object_key(VNODE, NamespaceId(5), b"k");
        assert_eq!(&stored[..], b"\x03\x01\x02\0\0\0\0\0\0\0\x05k");
        let parts = (VNODE, NamespaceId(5), Key::new("k").unwrap());
        assert_eq!(split_object_key(&stored), Some(parts));
        assert_eq!(split_object_key(&stored.slice(..11)), None);
        assert_eq!((vnode_of(&stored), vnode_of(&stored[..2])), (Some(VNODE), None));
        let actor = Actor(77);
        assert_eq!(frontier_actor(&frontier_key(VNODE, actor)), Some(actor));
        let dot = Dot { actor, n: 0x0102 };
        assert_eq!(logged_dot(&log_key(VNODE, dot)), Some(dot));
        assert_eq!(
            (frontier_actor(&log_key(VNODE, dot)), logged_dot(&recount_key(VNODE))),
            (None, None)
        );
        let logged = logged_key(&object_key(VNODE, NamespaceId(5), b"k"));
        assert_eq!(split_logged_key(&logged), Some((NamespaceId(5), Key::new("k").unwrap())));
        assert_eq!(split_logged_key(&logged.slice(..8)), None);
        let expires = deadline_key(VNODE, 77, &stored);
        assert!(expires < deadline_key(VNODE, 256, &stored), "the earliest first");
        assert_eq!(expiring(&expires), Some((77, stored)));
        assert_eq!(expiring(&logged), None);
    }
}
