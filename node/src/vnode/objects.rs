//! The objects of one partition: read, merge, write; what owners and fallbacks have in common.
//!
//! Dots are issued under an *actor*, minted at the first write after each opening of the store and
//! ended whenever an object may have been lost: a dot that was issued twice would let one value cover
//! another. What differs lies [`Beside`] the objects: an owner's frontier, or to whom a hint is owed.

use std::collections::BTreeSet;

use bytes::Bytes;
use rand_core::Rng;

use super::turn::Turn;
use super::{Address, Merge, Write, Written};
use crate::dynamo::arrival::{Arrival, newest_news};
use crate::dynamo::clock::{Actor, Dot, Hlc, VersionVector};
use crate::dynamo::context::Context;
use crate::dynamo::encoding::DecodeError;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{KeyHash, VnodeId};
use crate::dynamo::metadata::document::Conflict;
use crate::dynamo::object::{Entry, Object, OneValue, SIBLINGS_MAX, Stamp, siblings_max_bytes};
use crate::dynamo::operation::{Admission, Admitting, Asked, Change, Done, OperationId, Recorded};
use crate::error::{RequestError, WriteError};
use crate::storage::record::{self, RecordError};
use crate::storage::{EngineError, Space};

/// Damaged records kept in mind by one vnode, each a key of up to 4 KiB. More are met anew, counted
/// and logged, each time.
const DAMAGED_MAX: usize = 1024;

/// Whether a later write stands in an `lww` object than the one of `dot`.
fn is_hidden(object: &Object, dot: Dot) -> bool {
    object.last().is_some_and(|last| last.dot != dot)
}

/// Whether what hides the write was certainly written after it: a vnode gives its dots in the order of
/// its writes, whatever its clock says.
fn is_followed(object: &Object, dot: Dot) -> bool {
    object.last().is_some_and(|last| last.dot.actor == dot.actor && last.dot.n > dot.n)
}

/// What was known of an object before it changed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Before {
    /// The hash of its values; 0 if there were none.
    pub(super) hash: u128,
    /// Whether there was an object.
    pub(super) is_there: bool,
    /// When values of it expired.
    pub(super) deadlines_ms: Vec<u64>,
}

/// An object that is put.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Put {
    /// Its bytes.
    pub(super) bytes: usize,
    /// What was there.
    pub(super) before: Before,
}

/// What is kept beside an object, and changes in its batch.
pub(super) trait Beside {
    /// The dots that this vnode has seen, if it keeps account of them.
    fn frontier(&self) -> Option<&Frontier> {
        None
    }

    /// An object is to be kept at `stored`, in so many bytes; none: as it is. Whatever could stand in
    /// the way does so here, before anything is staged; for a write, before it has a dot.
    fn prepare(
        &mut self,
        _turn: &mut Turn<'_>,
        _stored: &Bytes,
        _bytes: Option<usize>,
    ) -> Result<(), RequestError> {
        Ok(())
    }

    /// What is to be known of an object before it changes.
    fn before(&self, _stored: &Bytes, _object: &Object) -> Before {
        Before::default()
    }

    /// The same as [`Self::prepare`], where what lies there cannot be read and is replaced.
    fn prepare_anew(&mut self, _: &mut Turn<'_>, _stored: &Bytes) -> Result<(), RequestError> {
        Ok(())
    }

    /// The batch leaves this object there; not put: as it was.
    fn kept(&mut self, turn: &mut Turn<'_>, stored: &Bytes, object: &Object, put: Option<Put>);

    /// The batch leaves nothing there.
    fn dropped(&mut self, _turn: &mut Turn<'_>, _stored: &Bytes) {}

    /// Another object brings values that this vnode has seen, and does not hold nor cover: its frontier
    /// vouches for what it has not.
    fn lied(&mut self, _turn: &mut Turn<'_>) {}

    /// An object cannot be read.
    fn damaged(&mut self) {}
}

/// The objects of one partition.
#[derive(Debug)]
pub(super) struct Objects {
    id: VnodeId,
    /// Where they lie.
    space: Space,
    /// The last dot issued since the store was opened, if any was.
    issued: Option<Dot>,
    /// Where records lie that are known to be damaged.
    damaged: BTreeSet<Bytes>,
}

impl Objects {
    /// Those of a partition that lie in this space.
    pub(super) fn new(id: VnodeId, space: Space) -> Self {
        Self { id, space, issued: None, damaged: BTreeSet::new() }
    }

    /// Of which partition.
    pub(super) fn id(&self) -> VnodeId {
        self.id
    }

    /// The actor of the last dot issued, if it has not ended.
    pub(super) fn actor(&self) -> Option<Actor> {
        self.issued.map(|issued| issued.actor)
    }

    /// What is held under a key; the absent object if nothing is.
    pub(super) fn read(
        &mut self,
        turn: &mut Turn<'_>,
        address: &Address,
        beside: &mut impl Beside,
    ) -> Result<EncodedObject, RequestError> {
        self.find(turn, address, &address.stored(), beside)
    }

    /// Gives a write its dot and stages what it leaves: see [`Vnode::write`](super::Vnode::write).
    pub(super) fn write(
        &mut self,
        turn: &mut Turn<'_>,
        write: Write,
        beside: &mut impl Beside,
    ) -> Result<Written, WriteError> {
        let hash = write.address.hash();
        let index = record::operation_key(self.id, &write.operation);
        let id = write.operation;
        // What cannot be looked up may have been applied before.
        let recorded = turn.recorded(&index);
        let recorded = recorded.map_err(|error| WriteError::unknown(id, error))?;
        let recorded = recorded.filter(|_| !planted!("retry_taken_as_new"));
        let (at_least_once, payload) = (write.at_least_once, write.payload());
        let asked = Asked { at_least_once, fresh: write.doubtful.is_none(), payload };
        match turn.admitting.admit(&id, hash, recorded, asked) {
            Admission::New => self.write_new(turn, write, index, beside),
            Admission::Done(done) => self.write_again(turn, &write, done, beside),
            // Nothing was sent under it before, so that a new id may take its place.
            Admission::Expired if asked.fresh => {
                let time = RequestError::OperationTime { opening: turn.admitting.opening };
                Err(refuse(turn, id, hash, index, time))
            }
            refused => Err(refusal(refused, id, turn.admitting)),
        }
    }

    fn write_new(
        &mut self,
        turn: &mut Turn<'_>,
        mut write: Write,
        index: Bytes,
        beside: &mut impl Beside,
    ) -> Result<Written, WriteError> {
        if let Some(refusal) = write.refusal.take() {
            return Err(refuse(turn, write.operation, write.address.hash(), index, refusal));
        }
        let stored = write.address.stored();
        // That is not recorded.
        let unread = |error| WriteError::at_the_door(write.doubtful, error);
        let object = self.object_to_change(turn, &write.address, &stored, beside);
        let mut object = object.map_err(unread)?;
        let before = beside.before(&stored, &object);
        if let Some(seen) = write.seen.take() {
            self.check_dots(&seen).map_err(unread)?;
            self.take_in(turn, &mut object, &seen, beside);
        }
        let refused = refused_by(self.id.n, &object, &write, turn);
        let refused = refused.or_else(|| {
            let bytes = bytes_left(&object, &write);
            beside.prepare(turn, &stored, Some(bytes)).err()
        });
        if let Some(refused) = refused {
            return Err(refuse(turn, write.operation, write.address.hash(), index, refused));
        }
        let Dot { actor, n } = self.next_dot(turn, beside.frontier());
        let per_key = planted!("dots_counted_per_key");
        let dot = Dot { actor, n: if per_key { object.version().last(actor) + 1 } else { n } };
        let (hash, operation, payload) = (write.address.hash(), write.operation, write.payload());
        match write.address.conflict {
            Conflict::Siblings => write_sibling(&mut object, turn, write, dot),
            Conflict::Lww => write_last(&mut object, turn, write, dot),
        }
        let (sealed, encoded) = record::seal_object(&stored, &object);
        self.put(turn, stored, (sealed, &object, before), beside);
        let done = Done { dot, clock_ms: turn.admitting.now_ms, payload };
        turn.record(index, Recorded { key: hash, done: Some(done) }, true);
        Ok(written(done, turn.admitting.now_ms, (&object, encoded), &operation))
    }

    /// The write was done before: its object is replicated again, whatever it is by now. If the
    /// object was damaged since, what is here is no trace of the write, and acks of it are none. Nor
    /// is there one if a wrong clock hides it, as in [`Self::merge`], or its own was behind. What hides
    /// it by this vnode's own later write needs no clock, since the dots tell the order.
    fn write_again(
        &mut self,
        turn: &mut Turn<'_>,
        write: &Write,
        done: Done,
        beside: &mut impl Beside,
    ) -> Result<Written, WriteError> {
        let Done { dot, clock_ms, .. } = done;
        let unknown = |error: RequestError| WriteError::unknown(write.operation, error);
        let stored = write.address.stored();
        let encoded = self.find(turn, &write.address, &stored, beside).map_err(unknown)?;
        let object = encoded.decode(write.address.conflict);
        let object = object.map_err(|error| unknown(RequestError::internal(error)))?;
        if !object.version().covers(dot) {
            return Err(unknown(self.gone(dot)));
        }
        let wrong = turn.future_of(&object);
        let by_clock = || turn.wrong_clock().or_else(|| turn.is_late(clock_ms, 0));
        let wrong = wrong.or_else(|| by_clock().filter(|_| !is_followed(&object, dot)));
        if let Some(wrong) = wrong.filter(|_| is_hidden(&object, dot)) {
            return Err(unknown(wrong));
        }
        beside.prepare(turn, &stored, None).map_err(unknown)?;
        beside.kept(turn, &stored, &object, None);
        Ok(written(done, turn.admitting.now_ms, (&object, encoded), &write.operation))
    }

    fn gone(&self, dot: Dot) -> RequestError {
        if self.space == Space::Hints {
            let reason =
                format!("the write was applied here as {dot}, and went home; ask an owner");
            return RequestError::not_ready_elsewhere(reason);
        }
        let reason = format!("the write was applied as {dot}, and lost here since");
        RequestError::Data { reason }
    }

    /// Takes in another replica's object: see [`Vnode::merge`](super::Vnode::merge).
    pub(super) fn merge(
        &mut self,
        turn: &mut Turn<'_>,
        merge: Merge,
        beside: &mut impl Beside,
    ) -> Result<(), RequestError> {
        let received =
            merge.object.decode(merge.address.conflict).map_err(RequestError::invalid)?;
        planted!("expiry_restarted_by_handoff", {
            let now_ms = turn.admitting.now_ms;
            if let (None, Some(later)) = (merge.operation, expiring_later(&received, now_ms)) {
                return self.merge_object(turn, &merge, later, beside).map(drop);
            }
        });
        self.check_dots(&received)?;
        let carried = received.last().map(|last| last.dot);
        let (object, known) = self.merge_object(turn, &merge, received, beside)?;
        if let Some((id, dot, payload)) = merge.operation {
            let done = Done { dot, clock_ms: merge.clock_ms, payload };
            let recorded = Recorded { key: merge.address.hash(), done: Some(done) };
            // A hint that went home has left its row.
            let new = !known && self.space != Space::Hints;
            turn.record(record::operation_key(self.id, &id), recorded, new);
            let future = turn.future_of(&object);
            if is_hidden(&object, dot) {
                let late = || turn.is_late(merge.clock_ms, merge.wait_ms);
                // Whoever acknowledges it for that holds the same last write, the one that came with
                // it: of several that follow it, two owners need not hold the same one.
                let last = object.last().map(|last| last.dot);
                let followed = last == carried && is_followed(&object, dot);
                let late = || late().filter(|_| !followed);
                return future.or_else(|| turn.cannot_judge()).or_else(late).map_or(Ok(()), Err);
            }
        }
        Ok(())
    }

    /// What the two come to, staged; and whether the write that brought one may have come before,
    /// itself or within a later object.
    fn merge_object(
        &mut self,
        turn: &mut Turn<'_>,
        merge: &Merge,
        received: Object,
        beside: &mut impl Beside,
    ) -> Result<(Object, bool), RequestError> {
        let stored = merge.address.stored();
        let mut object = match self.object_to_change(turn, &merge.address, &stored, beside) {
            Err(RequestError::Damaged { .. }) if merge.mend => {
                self.note_arrival(turn, merge, newest_news(&Object::default(), &received));
                self.mend(turn, stored, &received, beside)?;
                return Ok((received, true));
            }
            found => found?,
        };
        let before = beside.before(&stored, &object);
        self.note_arrival(turn, merge, newest_news(&object, &received));
        let known = merge.operation.is_some_and(|(_, dot, _)| object.version().covers(dot));
        if planted!("repair_replaces_instead_of_merging") && merge.operation.is_none() {
            object = Object::default();
        }
        // What somebody waits for is no hint that comes home.
        let is_hint = merge.operation.is_none() && merge.wait_ms == 0;
        if planted!("delivered_hint_replaces_the_newer_object") && is_hint {
            object = Object::default();
        }
        if !self.take_in(turn, &mut object, &received, beside) {
            beside.prepare(turn, &stored, None)?;
            beside.kept(turn, &stored, &object, None);
            return Ok((object, known));
        }
        let (sealed, encoded) = record::seal_object(&stored, &object);
        beside.prepare(turn, &stored, Some(encoded.0.len()))?;
        self.put(turn, stored, (sealed, &object, before), beside);
        Ok((object, known))
    }

    /// Merges another's object into what is held here, which is not staged. Whether that changed anything.
    fn take_in(
        &mut self,
        turn: &mut Turn<'_>,
        object: &mut Object,
        received: &Object,
        beside: &mut impl Beside,
    ) -> bool {
        if shows_a_lie(object, received, beside.frontier()) {
            self.end_actor();
            beside.lied(turn);
        }
        object.merge(received)
    }

    /// Writes came that were not here, of which the newest was made at this time. What a fallback keeps has
    /// come nowhere yet.
    fn note_arrival(&self, turn: &mut Turn<'_>, merge: &Merge, newest_ms: Option<u64>) {
        let Some(newest_ms) = newest_ms.filter(|_| self.space == Space::Objects) else { return };
        let (namespace, way) = (merge.address.namespace, merge.way);
        let age_ms = turn.admitting.now_ms.saturating_sub(newest_ms);
        turn.arrivals.push(Arrival { namespace, way, age_ms });
    }

    /// Whether another's object names a write of this vnode's actor that was never made, which this
    /// one would then make a second time.
    fn check_dots(&self, received: &Object) -> Result<(), RequestError> {
        let Some(issued) = self.issued else { return Ok(()) };
        let named = Dot { n: received.version().last(issued.actor), ..issued };
        if named.n <= issued.n {
            return Ok(());
        }
        Err(RequestError::invalid(format!(
            "the object names write {named} of this vnode, whose last one is {issued}"
        )))
    }

    /// Ends the actor, since objects were dropped.
    pub(super) fn end_actor(&mut self) {
        self.issued = None;
    }

    /// Whether so many records are damaged that further ones are not kept in mind.
    pub(super) fn has_much_damage(&self) -> bool {
        self.damaged.len() >= DAMAGED_MAX
    }

    /// The record at `stored` is damaged: the actor ends, since an object was lost. The data stays.
    /// False if that was known.
    pub(super) fn distrust(
        &mut self,
        stored: &Bytes,
        hash: KeyHash,
        beside: &mut impl Beside,
    ) -> bool {
        if self.damaged.contains(stored) {
            return false;
        }
        if !self.has_much_damage() {
            self.damaged.insert(stored.clone());
        }
        let advice = match self.space {
            Space::Hints => "it is not delivered; what the owners hold mends its targets",
            _ => "it is not served, and is mended once every other owner of its key can be asked",
        };
        tracing::error!(
            space = self.space.name(),
            n = self.id.n,
            partition = self.id.partition.0,
            key_hash = format_args!("{:016x}", hash.0),
            "a record is damaged; {advice}"
        );
        self.end_actor();
        beside.damaged();
        true
    }

    /// Stages an object.
    pub(super) fn put(
        &mut self,
        turn: &mut Turn<'_>,
        stored: Bytes,
        (sealed, object, before): (Bytes, &Object, Before),
        beside: &mut impl Beside,
    ) {
        if self.damaged.remove(&stored) {
            turn.mended.lost += 1;
            tracing::error!(vnode = ?self.id, "a damaged hint is given up for the next one of its key");
        }
        let put = Put { bytes: record::body_bytes(&sealed), before };
        turn.batch.put(self.space, stored.clone(), sealed);
        beside.kept(turn, &stored, object, Some(put));
    }

    /// Replaces a damaged record by what every other owner held.
    fn mend(
        &mut self,
        turn: &mut Turn<'_>,
        stored: Bytes,
        object: &Object,
        beside: &mut impl Beside,
    ) -> Result<(), RequestError> {
        beside.prepare_anew(turn, &stored)?;
        self.damaged.remove(&stored);
        if object.is_absent() {
            turn.mended.lost += 1;
            tracing::error!(vnode = ?self.id, "a damaged record is given up: no other owner holds its key");
            turn.batch.delete(self.space, stored.clone());
            beside.dropped(turn, &stored);
            return Ok(());
        }
        turn.mended.mended += 1;
        tracing::warn!(vnode = ?self.id, "a damaged record was replaced by what all other owners hold");
        let (sealed, _) = record::seal_object(&stored, object);
        // Nothing is known of what lay there, nor whether it has a name.
        let before = Before::default();
        self.put(turn, stored, (sealed, object, before), beside);
        Ok(())
    }

    /// What a write or a merge begins with. A damaged hint is given up for the next one: what it held
    /// is lost, and its targets are owed what comes.
    fn object_to_change(
        &mut self,
        turn: &mut Turn<'_>,
        address: &Address,
        stored: &Bytes,
        beside: &mut impl Beside,
    ) -> Result<Object, RequestError> {
        match self.object(turn, address, stored, beside) {
            Err(RequestError::Damaged { .. }) if self.space == Space::Hints => {
                Ok(Object::default())
            }
            found => found,
        }
    }

    /// What is held at `stored`, which is where the key lies.
    pub(super) fn find(
        &mut self,
        turn: &mut Turn<'_>,
        address: &Address,
        stored: &Bytes,
        beside: &mut impl Beside,
    ) -> Result<EncodedObject, RequestError> {
        let sealed = match turn.get(self.space, stored) {
            Ok(None) => return Ok(EncodedObject::default()),
            Ok(Some(sealed)) => sealed,
            Err(EngineError::Corrupt { .. }) => {
                return Err(self.damaged(turn, address, stored, beside));
            }
            Err(error) => return Err(RequestError::from(error)),
        };
        match record::open(stored, &sealed).map(EncodedObject) {
            Ok(object) if object.is_of(address.conflict) => Ok(object),
            _ if planted!("damaged_record_taken_as_absent") => Ok(EncodedObject::default()),
            Ok(_) | Err(RecordError::Damaged) => Err(self.damaged(turn, address, stored, beside)),
            Err(newer @ RecordError::Format(_)) => {
                Err(RequestError::Data { reason: newer.to_string() })
            }
        }
    }

    /// The same, decoded.
    pub(super) fn object(
        &mut self,
        turn: &mut Turn<'_>,
        address: &Address,
        stored: &Bytes,
        beside: &mut impl Beside,
    ) -> Result<Object, RequestError> {
        let decoded = self.find(turn, address, stored, beside)?.decode(address.conflict);
        decoded.map_err(|DecodeError { .. }| self.damaged(turn, address, stored, beside))
    }

    fn damaged(
        &mut self,
        turn: &mut Turn<'_>,
        address: &Address,
        stored: &Bytes,
        beside: &mut impl Beside,
    ) -> RequestError {
        if self.distrust(stored, address.hash(), beside) {
            *turn.corrupt.entry(self.space).or_default() += 1;
        }
        let reason = format!("the record of key hash {:016x} is damaged here", address.hash().0);
        RequestError::Damaged { reason }
    }

    fn next_dot(&mut self, turn: &mut Turn<'_>, frontier: Option<&Frontier>) -> Dot {
        let dot = match self.issued {
            Some(last) => Dot { n: last.n + 1, ..last },
            None if planted!("actor_kept_over_a_rollback") => {
                let actor = Actor(turn.admitting.node.0 ^ u64::from(self.id.partition.0));
                Dot { actor, n: frontier.map_or(0, |frontier| frontier.base(actor)) + 1 }
            }
            None => Dot { actor: Actor(turn.rng.next_u64()), n: 1 },
        };
        assert!(!frontier.is_some_and(|seen| seen.contains(dot)), "{dot} was issued twice");
        self.issued = Some(dot);
        dot
    }
}

/// The same values, with their time to live counted from now.
#[cfg(quorate_mutants)]
fn expiring_later(object: &Object, now_ms: u64) -> Option<Object> {
    let later = |(dot, entry): &(Dot, Entry)| {
        let ttl_ms = entry.deadline_ms.map(|ms| ms.saturating_sub(entry.time.wall_ms()));
        let deadline_ms = ttl_ms.map(|ttl_ms| now_ms + ttl_ms);
        (*dot, Entry { deadline_ms, ..entry.clone() })
    };
    let entries = object.entries().iter().map(later).collect();
    Object::from_parts(entries, object.version().clone()).filter(|_| object.last().is_none())
}

/// Whether another's object brings a value that is in the frontier here, and neither held nor covered: the
/// frontier vouches for what was lost without a trace.
fn shows_a_lie(object: &Object, received: &Object, frontier: Option<&Frontier>) -> bool {
    let Some(frontier) = frontier else { return false };
    let is_lost = |dot: Dot| frontier.contains(dot) && !object.version().covers(dot);
    received.entries().iter().any(|(dot, _)| is_lost(*dot))
}

/// Refuses a new write; the node that its id names records that.
fn refuse(
    turn: &mut Turn<'_>,
    operation: OperationId,
    key: KeyHash,
    index: Bytes,
    refusal: RequestError,
) -> WriteError {
    if !turn.admitting.is_named_by(&operation) {
        return WriteError::unknown(operation, refusal);
    }
    if !planted!("refusal_not_recorded") {
        turn.record(index, Recorded { key, done: None }, true);
    }
    WriteError::not_applied(refusal)
}

/// Why a new write of this key is refused, whoever can be reached; it has `n` owners.
fn refused_by(n: u8, object: &Object, write: &Write, turn: &mut Turn<'_>) -> Option<RequestError> {
    let no_value = || match (&write.change, object.one_value(turn.admitting.now_ms)) {
        (Change::Expire(_), OneValue::None) => Some(RequestError::KeyNotFound),
        (Change::Expire(_), OneValue::Several(count)) => {
            Some(RequestError::SeveralSiblings { count })
        }
        _ => None,
    };
    let expires = || if write.is_timed() { turn.wrong_clock() } else { None };
    if let Some(refused) = expires().or_else(no_value) {
        return Some(refused);
    }
    match write.address.conflict {
        Conflict::Siblings => {
            let left = object.uncovered(&write.context.version);
            let with = |value: &Bytes| object.uncovered_bytes(&write.context.version) + value.len();
            let full = |value| left > 0 && with(value) > siblings_max_bytes(n);
            let crowded = |value| left >= SIBLINGS_MAX || full(value);
            let count = left as u32;
            let refusal = || RequestError::TooManySiblings { count };
            write.change.value().is_some_and(crowded).then(refusal)
        }
        Conflict::Lww => {
            // Counted, and written above: refusing would leave the key as the wrong clock did.
            turn.future_of(object);
            let wrong = turn.wrong_clock();
            let ended = || RequestError::invalid("the key was written at the end of time");
            wrong.or_else(|| next_time(object, write, turn).is_none().then(ended))
        }
    }
}

/// At most so many bytes a new write's object has.
fn bytes_left(object: &Object, write: &Write) -> usize {
    const ENTRY_BYTES: usize = 128;
    let value = match write.change {
        Change::Expire(_) => object.uncovered_bytes(&VersionVector::default()),
        _ => write.change.value().map_or(0, Bytes::len),
    };
    let covered = match write.address.conflict {
        Conflict::Siblings => object.uncovered_bytes(&write.context.version),
        Conflict::Lww => 0,
    };
    let dots = object.version().len() + write.context.version.len() + object.entries().len();
    covered + value + ENTRY_BYTES * (dots + 1)
}

fn write_sibling(object: &mut Object, turn: &mut Turn<'_>, write: Write, dot: Dot) {
    let seen = object.time().max(write.context.time);
    let mut time = || {
        let time = turn.clock.next(turn.admitting.now_ms, seen);
        *turn.clock = time;
        time
    };
    match entry_of(object, &write, dot, turn.admitting.now_ms) {
        None => object.delete(dot, &write.context.version),
        Some(entry) => object.write(dot, &covered(object, &write), Entry { time: time(), ..entry }),
    }
}

fn write_last(object: &mut Object, turn: &mut Turn<'_>, write: Write, dot: Dot) {
    let time = next_time(object, &write, turn).expect("a write without a time is refused");
    let entry = entry_of(object, &write, dot, turn.admitting.now_ms);
    let entry = entry.map(|entry| Entry { time, ..entry });
    object.write_last(Stamp { time, dot }, &covered(object, &write), entry);
}

/// The value that a write leaves, but for its time; none: it deletes. Its deadline is reckoned here, once,
/// by the clock that stamps the write, and never again.
fn entry_of(object: &Object, write: &Write, dot: Dot, now_ms: u64) -> Option<Entry> {
    let (time, operation) = (Hlc::default(), write.operation);
    let deadline_ms = write.ttl.map(|ttl| ttl.deadline_ms(now_ms));
    match (&write.change, object.one_value(now_ms)) {
        (Change::Put { value: payload, .. }, _) => {
            let payload = payload.clone();
            Some(Entry { payload, time, deadline_ms, operation, origin: dot })
        }
        (Change::Expire(_), OneValue::One(Entry { payload, origin, .. })) => {
            Some(Entry { payload, time, deadline_ms, operation, origin })
        }
        (Change::Expire(_), _) => unreachable!("an EXPIRE without one value is refused"),
        (Change::Delete, _) => None,
    }
}

/// What a write replaces: what its client was shown; or where the value is written again that is there,
/// all that is known of the key.
fn covered(object: &Object, write: &Write) -> VersionVector {
    match write.change {
        Change::Expire(_) => object.version().clone(),
        Change::Put { .. } | Change::Delete => write.context.version.clone(),
    }
}

/// When a write of an `lww` namespace happens: after what its client and this replica have seen of
/// the key. The clock of the shard has no part in it, so that one key in the future leaves the others
/// alone. None at the end of time.
fn next_time(object: &Object, write: &Write, turn: &Turn<'_>) -> Option<Hlc> {
    let (held, seen) = (object.time(), write.context.time);
    planted!("lww_clock_below_what_it_holds", { return seen.after(turn.admitting.now_ms) });
    planted!("lww_clock_below_what_its_client_saw", { return held.after(turn.admitting.now_ms) });
    held.max(seen).after(turn.admitting.now_ms)
}

fn written(
    done: Done,
    now_ms: u64,
    (object, encoded): (&Object, EncodedObject),
    operation: &OperationId,
) -> Written {
    let Done { dot, clock_ms, payload } = done;
    let context = Context::of_write(object, operation, now_ms);
    let siblings = object.siblings_at(now_ms).len() as u32;
    Written { dot, object: encoded, context, siblings, clock_ms, payload }
}

fn refusal(admission: Admission, id: OperationId, admitting: Admitting) -> WriteError {
    match admission {
        Admission::Refused => WriteError::not_applied(RequestError::invalid(
            "the operation id was refused before; take a new one",
        )),
        Admission::OtherKey => WriteError::not_applied(RequestError::invalid(
            "the operation id was used for another key; take a new one for each write",
        )),
        Admission::OtherPayload => WriteError::not_applied(RequestError::invalid(
            "the operation id was used for another value, or with another context; take a new one for \
             each write",
        )),
        Admission::Expired => WriteError::unknown(
            id,
            RequestError::invalid(
                "the operation id is over an hour old, or its time lies in the future, so that nobody \
                 knows what became of it; read the key, and write under a new id",
            ),
        ),
        Admission::EarlierOpening => {
            WriteError::unknown(id, RequestError::EarlierOpening { opening: admitting.opening })
        }
        Admission::Elsewhere => {
            let reason = "another node was asked in its place, and does not know the write";
            let (node, reason) = (id.coordinator, reason.to_owned());
            WriteError::unknown(id, RequestError::CoordinatorUnreachable { node, reason })
        }
        Admission::New | Admission::Done(_) => {
            WriteError::not_applied(RequestError::internal("a write that is to run was refused"))
        }
    }
}
