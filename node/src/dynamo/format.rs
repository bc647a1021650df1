//! How objects, frontiers and the operation index are stored and sent: one encoding for both.
//!
//! ```text
//!   object   01 │ V: count, (actor, n)* │ entries: count, (dot, flags, time, operation id,
//!            [deadline], [origin], length, payload)*
//!   lww      02 │ V │ one such entry; or dot, flag "deleted", time
//! ```
//!
//! The format byte at the front changes when the rest does. Decoding checks every invariant that
//! the types promise, and payloads share the input's memory. An object is decoded as its namespace's
//! conflict rule wants it: what is of the other kind, from a disk or a peer, is as malformed as
//! garbage, so that two kinds never meet in a merge.

use bytes::Bytes;

use super::clock::{Actor, Dot, Hlc, VersionVector};
use super::encoding::{DecodeError, Flaw, Reader, Writer};
use super::frontier::{Frontier, Intervals};
use super::key::{KeyHash, NodeId};
use super::metadata::document::Conflict;
use super::object::{Entry, Object, Stamp};
use super::operation::{Done, Opening, OperationId, PayloadHash, Recorded};

const OBJECT_FORMAT: u8 = 1;
const HAS_DEADLINE: u8 = 1;
const HAS_ORIGIN: u8 = 2;

/// An object of an `lww` namespace.
const LAST_FORMAT: u8 = 2;
const DELETED: u8 = 4;

impl Object {
    /// At least as many bytes as the encoding has: sizes the buffer once.
    pub fn encoded_bytes_max(&self) -> usize {
        const DOT_BYTES_MAX: usize = 18;
        const ENTRY_BYTES_MAX: usize = 2 * DOT_BYTES_MAX + 1 + 8 + 40 + 8 + 10;
        let payloads: usize = self.entries().iter().map(|(_, e)| e.payload.len()).sum();
        // The last write of an `lww` namespace takes the place of an entry even if it deleted.
        let entries = ENTRY_BYTES_MAX * self.entries().len().max(self.last().is_some().into());
        1 + 20 + DOT_BYTES_MAX * self.version().len() + entries + payloads
    }
}

/// An object as it is stored and sent. From a disk or a peer it may turn out to be malformed, so it
/// is decoded where its content is needed and passed on as it is elsewhere.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct EncodedObject(pub Bytes);

impl EncodedObject {
    /// Encodes an object; the absent one as no bytes.
    pub fn new(object: &Object) -> Self {
        if object.is_absent() {
            return Self::default();
        }
        let mut w = Writer::with_capacity(object.encoded_bytes_max());
        write_object(&mut w, object);
        Self(w.finish())
    }

    /// Decodes an object of a namespace with this rule; no bytes are the absent object. Payloads
    /// share the encoding's memory.
    pub fn decode(&self, rule: Conflict) -> Result<Object, DecodeError> {
        if self.0.is_empty() { Ok(Object::default()) } else { decode_object(self.0.clone(), rule) }
    }

    /// Whether it claims to be of a namespace with this rule, which costs no decoding.
    pub fn is_of(&self, rule: Conflict) -> bool {
        self.0.first().is_none_or(|&format| format == format_of(rule))
    }

    /// Of which kind of namespaces it claims to be; none if of no kind, or nothing.
    pub fn rule(&self) -> Option<Conflict> {
        let rules = [Conflict::Siblings, Conflict::Lww];
        rules.into_iter().find(|rule| self.0.first() == Some(&format_of(*rule)))
    }
}

fn format_of(rule: Conflict) -> u8 {
    match rule {
        Conflict::Siblings => OBJECT_FORMAT,
        Conflict::Lww => LAST_FORMAT,
    }
}

/// Appends the canonical encoding of an object that is not absent.
pub fn write_object(w: &mut Writer, object: &Object) {
    if let Some(last) = object.last() {
        return write_last(w, object, last);
    }
    w.u8(OBJECT_FORMAT);
    write_version(w, object.version());
    w.count(object.entries().len());
    object.entries().iter().for_each(|(dot, entry)| write_entry(w, *dot, entry));
}

fn write_last(w: &mut Writer, object: &Object, last: Stamp) {
    w.u8(LAST_FORMAT);
    write_version(w, object.version());
    match object.entries().first() {
        Some((dot, entry)) => write_entry(w, *dot, entry),
        None => {
            write_dot(w, last.dot);
            w.u8(DELETED);
            w.u64(last.time.0);
        }
    }
}

fn write_entry(w: &mut Writer, dot: Dot, entry: &Entry) {
    write_dot(w, dot);
    let copied = entry.origin != dot;
    let deadline = if entry.deadline_ms.is_some() { HAS_DEADLINE } else { 0 };
    w.u8(deadline | if copied { HAS_ORIGIN } else { 0 });
    w.u64(entry.time.0);
    write_operation(w, &entry.operation);
    if let Some(deadline_ms) = entry.deadline_ms {
        w.u64(deadline_ms);
    }
    if copied {
        write_dot(w, entry.origin);
    }
    w.bytes(&entry.payload);
}

fn decode_object(bytes: Bytes, rule: Conflict) -> Result<Object, DecodeError> {
    let mut r = Reader::new(bytes);
    r.format(format_of(rule), "object format of the namespace's conflict rule")?;
    match rule {
        Conflict::Siblings => decode_siblings(r),
        Conflict::Lww => decode_last(r),
    }
}

fn decode_siblings(mut r: Reader) -> Result<Object, DecodeError> {
    let version = read_version(&mut r, "object version")?;
    let count = r.count(59, "entries")?;
    let entries = (0..count).map(|_| read_entry(&mut r)).collect::<Result<_, _>>()?;
    let unsound = r.error("object", Flaw::Value(count as u64));
    r.finish("object")?;
    let object = Object::from_parts(entries, version);
    // The absent object is encoded as no bytes, lest it have two encodings.
    object.filter(|object| !object.is_absent()).ok_or(unsound)
}

fn decode_last(mut r: Reader) -> Result<Object, DecodeError> {
    let version = read_version(&mut r, "object version")?;
    let dot = read_dot(&mut r, "last dot")?;
    let flags = r.u8("last flags")?;
    let (time, entry) = if flags == DELETED {
        (Hlc(r.u64("last time")?), None)
    } else {
        let entry = read_entry_after(&mut r, dot, flags)?;
        (entry.time, Some(entry))
    };
    let unsound = r.error("object", Flaw::Value(dot.n));
    r.finish("object")?;
    Object::from_last(Stamp { time, dot }, entry, version).ok_or(unsound)
}

fn read_entry(r: &mut Reader) -> Result<(Dot, Entry), DecodeError> {
    let dot = read_dot(r, "entry dot")?;
    let flags = r.u8("entry flags")?;
    Ok((dot, read_entry_after(r, dot, flags)?))
}

fn read_entry_after(r: &mut Reader, dot: Dot, flags: u8) -> Result<Entry, DecodeError> {
    if flags & !(HAS_DEADLINE | HAS_ORIGIN) != 0 {
        return Err(r.error("entry flags", Flaw::Value(flags.into())));
    }
    let time = Hlc(r.u64("entry time")?);
    let operation = read_operation(r, "entry operation")?;
    let deadline_ms = if flags & HAS_DEADLINE != 0 { Some(r.u64("entry deadline")?) } else { None };
    let origin = if flags & HAS_ORIGIN != 0 { read_origin(r, dot)? } else { dot };
    let payload = r.bytes("entry payload")?;
    Ok(Entry { payload, time, deadline_ms, operation, origin })
}

/// Another entry's dot: an entry that is its own origin does not say so, lest it have two encodings.
fn read_origin(r: &mut Reader, dot: Dot) -> Result<Dot, DecodeError> {
    let own = r.error("entry origin", Flaw::Value(dot.n));
    let origin = read_dot(r, "entry origin")?;
    if origin == dot { Err(own) } else { Ok(origin) }
}

/// An actor and a number.
pub fn write_dot(w: &mut Writer, dot: Dot) {
    w.u64(dot.actor.0);
    w.varint(dot.n);
}

/// An actor and a number from 1.
pub fn read_dot(r: &mut Reader, what: &'static str) -> Result<Dot, DecodeError> {
    let actor = Actor(r.u64(what)?);
    match r.varint(what)? {
        0 => Err(r.error(what, Flaw::Value(0))),
        n => Ok(Dot { actor, n }),
    }
}

/// A count of dots and the dots, by actor.
pub fn write_version(w: &mut Writer, version: &VersionVector) {
    w.count(version.len());
    version.iter().for_each(|dot| write_dot(w, dot));
}

/// A count of dots and the dots, in ascending order of actors.
pub fn read_version(r: &mut Reader, what: &'static str) -> Result<VersionVector, DecodeError> {
    let count = r.count(9, what)?;
    let mut version = VersionVector::new();
    let mut last = None;
    for _ in 0..count {
        let dot = read_dot(r, what)?;
        if last >= Some(dot.actor) {
            return Err(r.error(what, Flaw::Value(dot.actor.0)));
        }
        last = Some(dot.actor);
        version.raise(dot);
    }
    Ok(version)
}

/// Forty bytes, the time first and big endian, so that ids sort by age.
pub fn write_operation(w: &mut Writer, id: &OperationId) {
    w.raw(&id.issued_ms.to_be_bytes());
    for part in [id.coordinator.0, id.opening.0, id.client, id.sequence] {
        w.u64(part);
    }
}

/// Forty bytes.
pub fn read_operation(r: &mut Reader, what: &'static str) -> Result<OperationId, DecodeError> {
    Ok(OperationId {
        issued_ms: u64::from_be_bytes(r.array(what)?),
        coordinator: NodeId(r.u64(what)?),
        opening: Opening(r.u64(what)?),
        client: r.u64(what)?,
        sequence: r.u64(what)?,
    })
}

/// The numbers seen of one actor.
pub fn encode_intervals(seen: &Intervals) -> Bytes {
    let mut w = Writer::with_capacity(1 + 4 * seen.ranges().len());
    write_intervals(&mut w, seen);
    w.finish()
}

/// The numbers seen of one actor.
pub fn decode_intervals(bytes: Bytes) -> Result<Intervals, DecodeError> {
    let mut r = Reader::new(bytes);
    let seen = read_intervals(&mut r)?;
    r.finish("intervals")?;
    Ok(seen)
}

fn write_intervals(w: &mut Writer, seen: &Intervals) {
    w.count(seen.ranges().len());
    for &(first, last) in seen.ranges() {
        w.varint(first);
        w.varint(last);
    }
}

fn read_intervals(r: &mut Reader) -> Result<Intervals, DecodeError> {
    let count = r.count(2, "intervals")?;
    let range = |_| Ok((r.varint("interval start")?, r.varint("interval end")?));
    let ranges = (0..count).map(range).collect::<Result<_, _>>()?;
    let unsound = r.error("intervals", Flaw::Value(count as u64));
    Intervals::from_ranges(ranges).ok_or(unsound)
}

/// What a vnode has seen of all actors, as it is sent. One frontier has one encoding.
pub fn encode_frontier(frontier: &Frontier) -> Bytes {
    let mut w = Writer::with_capacity(1 + 12 * frontier.actors());
    w.count(frontier.actors());
    for (actor, seen) in frontier.iter() {
        w.u64(actor.0);
        write_intervals(&mut w, seen);
    }
    w.finish()
}

/// What a vnode has seen of all actors, as it is sent.
pub fn decode_frontier(bytes: Bytes) -> Result<Frontier, DecodeError> {
    let mut r = Reader::new(bytes);
    let count = r.count(9, "frontier")?;
    let (mut frontier, mut before) = (Frontier::new(), None);
    for _ in 0..count {
        let actor = Actor(r.u64("actor")?);
        let seen = read_intervals(&mut r)?;
        if before >= Some(actor) || seen.ranges().is_empty() {
            return Err(r.error("frontier", Flaw::Value(actor.0)));
        }
        before = Some(actor);
        frontier.restore(actor, seen);
    }
    r.finish("frontier")?;
    Ok(frontier)
}

/// The outcomes of a recorded operation.
const APPLIED: u8 = 1;
const REFUSED: u8 = 2;

/// What the operation index keeps of an operation.
pub fn encode_recorded(recorded: Recorded) -> Bytes {
    let mut w = Writer::with_capacity(43);
    w.u8(if recorded.done.is_some() { APPLIED } else { REFUSED });
    w.u64(recorded.key.0);
    if let Some(done) = recorded.done {
        write_dot(&mut w, done.dot);
        w.u64(done.clock_ms);
        w.u64(done.payload.0);
    }
    w.finish()
}

/// What the operation index keeps.
pub fn decode_recorded(bytes: Bytes) -> Result<Recorded, DecodeError> {
    let mut r = Reader::new(bytes);
    let outcome = r.u8("recorded outcome")?;
    let key = KeyHash(r.u64("recorded key")?);
    let done = match outcome {
        APPLIED => {
            let dot = read_dot(&mut r, "recorded dot")?;
            let clock_ms = r.u64("recorded clock")?;
            Some(Done { dot, clock_ms, payload: PayloadHash(r.u64("recorded payload")?) })
        }
        REFUSED => None,
        other => return Err(r.error("recorded outcome", Flaw::Value(other.into()))),
    };
    r.finish("recorded")?;
    Ok(Recorded { key, done })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dynamo::object::last::testing::last_histories;
    use crate::dynamo::object::testing::{dots, histories};

    proptest! {
        #[test]
        fn objects_come_back_as_written(history in histories()) {
            for object in history.replicas {
                prop_assert_eq!(EncodedObject::new(&object).decode(Conflict::Siblings), Ok(object));
            }
        }

        #[test]
        fn last_writes_come_back_as_written(history in last_histories()) {
            for object in history.replicas {
                prop_assert_eq!(EncodedObject::new(&object).decode(Conflict::Lww), Ok(object));
            }
        }

        #[test]
        fn damaged_objects_are_refused_or_sound(
            history in histories(), lasts in last_histories(),
            at in any::<prop::sample::Index>(), byte in any::<u8>()
        ) {
            let siblings = history.replicas.iter().map(|object| (object, Conflict::Siblings));
            let both = siblings.chain(lasts.replicas.iter().map(|object| (object, Conflict::Lww)));
            for (object, rule) in both.filter(|(object, _)| !object.is_absent()) {
                let mut bytes = EncodedObject::new(object).0.to_vec();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                let damaged = EncodedObject(bytes.into());
                if let Ok(decoded) = damaged.decode(rule) {
                    let is_last = decoded.last().is_some();
                    prop_assert_eq!(is_last, rule == Conflict::Lww && !decoded.is_absent());
                    prop_assert!(decoded.entries().iter().all(|(d, _)| decoded.version().covers(*d)));
                    prop_assert!(decoded.last().is_none_or(|l| decoded.version().covers(l.dot)));
                    prop_assert_eq!(EncodedObject::new(&decoded), damaged);
                }
            }
        }

        #[test]
        fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            let garbage = Bytes::from(garbage);
            for rule in [Conflict::Siblings, Conflict::Lww] {
                let _ = EncodedObject(garbage.clone()).decode(rule);
            }
            let _ = decode_intervals(garbage.clone());
            if let Ok(frontier) = decode_frontier(garbage.clone()) {
                prop_assert_eq!(encode_frontier(&frontier), garbage.clone(), "one frontier has one encoding");
            }
            let _ = decode_recorded(garbage);
        }

        #[test]
        fn intervals_come_back_as_written(numbers in prop::collection::btree_set(1..60u64, 0..30)) {
            let mut frontier = Frontier::new();
            let actor = Actor(1);
            numbers.iter().for_each(|&n| { frontier.add(Dot { actor, n }); });
            if let Some(seen) = frontier.of(actor) {
                prop_assert_eq!(decode_intervals(encode_intervals(seen)), Ok(seen.clone()));
            }
            frontier.add(Dot { actor: Actor(u64::MAX), n: u64::MAX });
            prop_assert_eq!(decode_frontier(encode_frontier(&frontier)), Ok(frontier));
        }
    }

    /// Hashes are taken over encodings, so one object must not have two.
    #[test]
    fn an_origin_that_says_nothing_is_refused() {
        let mut w = Writer::new();
        w.raw(&[1, 1]);
        write_dot(&mut w, Dot { actor: Actor(1), n: 2 });
        w.count(1);
        write_dot(&mut w, Dot { actor: Actor(1), n: 2 });
        w.u8(HAS_ORIGIN);
        w.raw(&[0; 48]);
        write_dot(&mut w, Dot { actor: Actor(1), n: 2 });
        w.bytes(b"value");
        let error = EncodedObject(w.finish()).decode(Conflict::Siblings).unwrap_err();
        assert_eq!((error.what, error.flaw), ("entry origin", Flaw::Value(2)));
    }

    #[test]
    fn the_absent_object_is_no_bytes_and_nothing_else() {
        let error = EncodedObject(vec![1, 0, 0].into()).decode(Conflict::Siblings).unwrap_err();
        assert_eq!((error.what, error.flaw), ("object", Flaw::Value(0)));
    }

    #[test]
    fn formats_are_read_for_ever() {
        let (a1, b2) = dots();
        let entry = |payload: &'static [u8], origin| Entry {
            payload: Bytes::from_static(payload),
            time: Hlc(0x0102_0304_0506),
            deadline_ms: Some(9),
            operation: OperationId {
                issued_ms: 1,
                coordinator: NodeId(2),
                opening: Opening(3),
                client: 4,
                sequence: 5,
            },
            origin,
        };
        let entries = vec![(a1, entry(b"x", a1)), (b2, entry(b"yz", a1))];
        let object = Object::from_parts(entries, [a1, b2].into_iter().collect()).unwrap();
        assert_eq!(hex(&object), include_str!("fixtures/object-1.hex").trim());

        let last = Stamp { time: Hlc(0x0102_0304_0506), dot: b2 };
        let version = || [a1, b2].into_iter().collect();
        let live = Object::from_last(last, Some(entry(b"yz", a1)), version()).unwrap();
        let deleted = Object::from_last(last, None, version()).unwrap();
        let fixture = format!("{}\n{}\n", hex(&live), hex(&deleted));
        assert_eq!(fixture, include_str!("fixtures/object-2.hex"));
    }

    #[test]
    fn an_object_is_of_its_namespaces_kind_or_of_none() {
        let (dot, time) = (dots().0, Hlc(5));
        let version: VersionVector = [dot].into_iter().collect();
        let siblings =
            EncodedObject::new(&Object::from_parts(Vec::new(), version.clone()).unwrap());
        let last = Object::from_last(Stamp { time, dot }, None, version).unwrap();
        let last = EncodedObject::new(&last);
        for (object, own, other) in [
            (siblings, Conflict::Siblings, Conflict::Lww),
            (last, Conflict::Lww, Conflict::Siblings),
        ] {
            assert!(object.is_of(own) && object.decode(own).is_ok());
            assert!(!object.is_of(other));
            let error = object.decode(other).unwrap_err();
            assert_eq!((error.at, error.flaw), (0, Flaw::Value(object.0[0].into())));
        }
        for rule in [Conflict::Siblings, Conflict::Lww] {
            assert!(EncodedObject::default().is_of(rule), "nothing is of every kind");
            assert_eq!(EncodedObject::default().decode(rule), Ok(Object::default()));
        }
    }

    fn hex(object: &Object) -> String {
        EncodedObject::new(object).0.iter().map(|b| format!("{b:02x}")).collect()
    }
}
