//! One hosted partition: read, merge, write; object, frontier and operation index in one batch.
//!
//! A vnode issues dots under an *actor*, minted at its first write after each opening of the store
//! and ended whenever it may have lost an object: a dot that was issued twice would let one value
//! cover another. Its frontier changes in the batch that stores the object, so that after a crash it
//! vouches for nothing that is not there.
//!
//! A vnode belongs to one shard, which stages the work of many requests in one [`Turn`] and applies
//! it as one batch. Requests of a turn see each other through the batch. If the batch fails, the
//! shard forgets the vnode: its next opening reads what is really there, under a new actor.
//!
//! A *damaged* record is one whose bytes are not what was written. Nobody knows what it held, so
//! this vnode says nothing of its key, and takes nothing for it, but for an object that holds what
//! every other owner held (a *mend*): with less, a write that this owner acknowledged would seem to
//! be gone from it, and a read of it and of another owner could miss that write.
//!
//! ```text
//!   Operations   write "k" = x under o1, context C
//!       │
//!       ▼ admit (index)  ▼ read object   ▼ new dot a:8   ▼ stage: object, o1 → a:8, frontier of a
//! ```

pub mod look_up;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

use crate::clocks::Trust;
use crate::dynamo::clock::{Actor, Dot, Hlc};
use crate::dynamo::context::Context;
use crate::dynamo::encoding::DecodeError;
use crate::dynamo::format::{EncodedObject, decode_intervals, encode_intervals, encode_recorded};
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{Key, KeyHash, NamespaceId, VnodeId};
use crate::dynamo::metadata::document::Conflict;
use crate::dynamo::object::{Entry, Object, SIBLINGS_MAX, Stamp, siblings_max_bytes};
use crate::dynamo::operation::{
    Admission, Admitting, Asked, Done, OperationId, PayloadHash, Recorded,
};
use crate::error::{RequestError, WriteError};
use crate::storage::record::{self, RecordError};
use crate::storage::{Batch, Engine, EngineError, KeyRange, Space};

/// A key's place in a vnode.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Address {
    /// The vnode that holds the key.
    pub vnode: VnodeId,
    /// The key's namespace.
    pub namespace: NamespaceId,
    /// The key.
    pub key: Key,
    /// The namespace's rule, by which its objects are told from garbage.
    pub conflict: Conflict,
}

impl Address {
    /// The key's hash.
    pub fn hash(&self) -> KeyHash {
        self.key.hash(self.namespace)
    }

    fn stored(&self) -> Bytes {
        record::object_key(self.vnode, self.namespace, self.key.as_bytes())
    }
}

/// A write to coordinate.
#[derive(Clone, Debug)]
pub struct Write {
    /// Where.
    pub address: Address,
    /// The value; none: a delete.
    pub value: Option<Bytes>,
    /// What the write replaces.
    pub context: Context,
    /// The client's id of the write.
    pub operation: OperationId,
    /// Coordinate it even if the id names another node or opening.
    pub at_least_once: bool,
    /// The id, if an earlier request may have carried it: who refuses this one without looking it
    /// up knows nothing of that one.
    pub doubtful: Option<OperationId>,
    /// Why it is to be refused, if it is new.
    pub refusal: Option<RequestError>,
}

impl Write {
    /// What tells it from another write under the same id.
    pub fn payload(&self) -> PayloadHash {
        PayloadHash::of(self.value.as_ref(), &self.context)
    }
}

/// A coordinated write, once its batch was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The write's dot.
    pub dot: Dot,
    /// The key's whole object, to be replicated.
    pub object: EncodedObject,
    /// What the write may claim to have shown.
    pub context: Option<Context>,
    /// How many siblings the key has now.
    pub siblings: u32,
    /// What the wall clock showed when this was first written, in milliseconds since the Unix epoch:
    /// a retry makes a write no later, nor tells that what replaced it here began after it.
    pub clock_ms: u64,
    /// What tells it from another write under the same id.
    pub payload: PayloadHash,
}

/// An object of another replica, to be merged.
#[derive(Clone, Debug)]
pub struct Merge {
    /// Where.
    pub address: Address,
    /// The whole object.
    pub object: EncodedObject,
    /// The write that brought it, for the index; none for a repair.
    pub operation: Option<(OperationId, Dot, PayloadHash)>,
    /// What its coordinator's wall clock showed when that write was made, in milliseconds since the
    /// Unix epoch; of no account for a repair.
    pub clock_ms: u64,
    /// How long the message was waited for at most, in milliseconds; of no account for a repair.
    pub wait_ms: u64,
    /// Whether it holds what every other owner held, and so may replace a damaged record.
    pub mend: bool,
}

/// Damaged records kept in mind by one vnode, each a key of up to 4 KiB. More are met anew, counted
/// and logged, each time.
const DAMAGED_MAX: usize = 1024;

/// What the requests of one group commit share.
pub struct Turn<'a> {
    /// Where the state lies.
    pub engine: &'a dyn Engine,
    /// What will be applied; read before the engine.
    pub batch: Batch,
    /// Who coordinates, and when.
    pub admitting: Admitting,
    /// For actors.
    pub rng: &'a mut ChaCha8Rng,
    /// The shard's hybrid clock.
    pub clock: &'a mut Hlc,
    /// How many damaged records were met for the first time, by space.
    pub corrupt: BTreeMap<Space, u64>,
    /// How many were replaced.
    pub mended: Mended,
    /// How many rows the operation index gains.
    pub recorded: u64,
    /// By how much a clock that orders writes may be off, in milliseconds.
    pub skew_max_ms: u64,
    /// Whether the clock that `admitting` was read from may order writes. Nobody being known is
    /// [`Trust::Unknown`] here, since who is connected is for the coordinator to say.
    pub trust: Trust,
    /// How many last writes were met that lie in the future by more than that.
    pub future: u64,
}

/// How many damaged records were replaced by what every other owner held.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Mended {
    /// By an object.
    pub mended: u64,
    /// By nothing: no other owner held the key, so that what the record held is lost.
    pub lost: u64,
}

impl Turn<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.batch.staged(space, key) {
            Some(staged) => Ok(staged.cloned()),
            None => self.engine.get(space, key),
        }
    }

    fn put(&mut self, space: Space, key: Bytes, body: &[u8]) {
        let sealed = record::seal(&key, body);
        self.batch.put(space, key, sealed);
    }

    /// Stages a row of the operation index. One that is not `new` for certain is looked up, so that
    /// it counts once.
    fn record(&mut self, index: Bytes, recorded: Recorded, new: bool) {
        if new || matches!(self.get(Space::Operations, &index), Ok(None)) {
            self.recorded += 1;
        }
        self.put(Space::Operations, index, &encode_recorded(recorded));
    }

    /// How far the last write of an `lww` object lies in the future, if by more than the clock that
    /// wrote it may have been ahead and the one here behind: then one of the two was wrong.
    fn future_of(&mut self, object: &Object) -> Option<RequestError> {
        let ahead_ms = object.last()?.time.wall_ms().saturating_sub(self.admitting.now_ms);
        let max_ms = self.skew_max_ms.saturating_mul(2);
        if ahead_ms <= max_ms {
            return None;
        }
        self.future += 1;
        let what = "the key's last write".to_owned();
        let ahead_ms = i64::try_from(ahead_ms).unwrap_or(i64::MAX);
        Some(RequestError::ClockSkew { what, ahead_ms, max_ms })
    }

    /// Why this node cannot tell whether the later of two writes was written by a wrong clock.
    fn cannot_judge(&self) -> Option<RequestError> {
        let reason = "another write of the key is later here, by a clock that may be wrong";
        (self.trust != Trust::Right).then(|| RequestError::clock_uncertain(reason))
    }

    /// Why a write of that time, by its coordinator's clock, which was due so much later, comes later
    /// than two clocks that are both right could tell. What is later here may have been acknowledged
    /// before it began.
    fn is_late(&self, clock_ms: u64, wait_ms: u64) -> Option<RequestError> {
        let skew_ms = self.skew_max_ms.saturating_mul(2);
        let may_be_ms = clock_ms.saturating_add(wait_ms).saturating_add(skew_ms);
        let reason = "another write of the key is later here, and this one was written long ago \
             by its coordinator's clock: that is behind, or this is a late retry";
        (self.admitting.now_ms > may_be_ms).then(|| RequestError::too_late(reason))
    }

    /// Why the clock may not order a write. Its coordinator has looked before, but the write waited
    /// since, and the clock may have been set meanwhile: this is the reading that stamps it.
    fn wrong_clock(&self) -> Option<RequestError> {
        let Trust::Off { ahead_ms } = self.trust else { return None };
        let what = "the coordinator's clock".to_owned();
        Some(RequestError::ClockSkew { what, ahead_ms, max_ms: self.skew_max_ms })
    }
}

/// Whether a later write stands in an `lww` object than the one of `dot`.
fn is_hidden(object: &Object, dot: Dot) -> bool {
    object.last().is_some_and(|last| last.dot != dot)
}

/// Whether what hides the write was certainly written after it: a vnode gives its dots in the order of
/// its writes, whatever its clock says.
fn is_followed(object: &Object, dot: Dot) -> bool {
    object.last().is_some_and(|last| last.dot.actor == dot.actor && last.dot.n > dot.n)
}

/// One hosted partition.
#[derive(Debug)]
pub struct Vnode {
    id: VnodeId,
    /// The last dot issued since the store was opened, if any was.
    issued: Option<Dot>,
    frontier: Frontier,
    /// Whose rows of the frontier changed in this turn.
    grown: BTreeSet<Actor>,
    /// Where records lie that are known to be damaged.
    damaged: BTreeSet<Bytes>,
    /// Damaged rows met at the opening, until a turn counts them.
    damaged_rows: u64,
}

impl Vnode {
    /// Opens what the engine holds of `id`. A damaged row means that the frontier may lie: then it
    /// is forgotten as a whole, and the rows with it at the next turn.
    pub fn open(id: VnodeId, engine: &dyn Engine) -> Result<Self, EngineError> {
        let mut vnode = Self {
            id,
            issued: None,
            frontier: Frontier::new(),
            grown: BTreeSet::new(),
            damaged: BTreeSet::new(),
            damaged_rows: 0,
        };
        for row in engine.scan(Space::Frontiers, KeyRange::prefix(&record::vnode_prefix(id))) {
            let (key, sealed) = row?;
            let Some(actor) = record::frontier_actor(&key) else { continue };
            vnode.grown.insert(actor);
            let body = record::open(&key, &sealed).ok();
            match body.and_then(|body| decode_intervals(body).ok()) {
                Some(seen) => vnode.frontier.restore(actor, seen),
                None => vnode.damaged_rows += 1,
            }
        }
        if vnode.damaged_rows > 0 {
            tracing::error!(?id, "the vnode's frontier is damaged; it is forgotten");
            vnode.frontier = Frontier::new();
        } else {
            vnode.grown.clear();
        }
        Ok(vnode)
    }

    /// Which dots this vnode has seen.
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// What is held under a key; the absent object if nothing is.
    pub fn read(
        &mut self,
        turn: &mut Turn<'_>,
        address: &Address,
    ) -> Result<EncodedObject, RequestError> {
        self.find(turn, address, &address.stored())
    }

    /// Gives a write its dot and stages what it leaves. An error leaves no dot; a refusal of this
    /// very write is recorded by the node that its id names. Another one, which is asked to run it at
    /// least once, cannot tell whether that one did, and may be asked again. [`RequestError::Damaged`]
    /// is no refusal yet: the caller mends the record and asks again, or gives it as the refusal.
    pub fn write(&mut self, turn: &mut Turn<'_>, write: Write) -> Result<Written, WriteError> {
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
            Admission::New => self.write_new(turn, write, index),
            Admission::Done(done) => self.write_again(turn, &write, done),
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
    ) -> Result<Written, WriteError> {
        if let Some(refusal) = write.refusal.take() {
            return Err(refuse(turn, write.operation, write.address.hash(), index, refusal));
        }
        let stored = write.address.stored();
        // That is not recorded.
        let unread = |error| WriteError::at_the_door(write.doubtful, error);
        let mut object = self.object(turn, &write.address, &stored).map_err(unread)?;
        if let Some(crowded) = refused_by(self.id.n, &object, &write, turn) {
            return Err(refuse(turn, write.operation, write.address.hash(), index, crowded));
        }
        let Dot { actor, n } = self.next_dot(turn);
        let per_key = planted!("dots_counted_per_key");
        let dot = Dot { actor, n: if per_key { object.version().last(actor) + 1 } else { n } };
        let (hash, operation, payload) = (write.address.hash(), write.operation, write.payload());
        match write.address.conflict {
            Conflict::Siblings => write_sibling(&mut object, turn, write, dot),
            Conflict::Lww => write_last(&mut object, turn, write, dot),
        }
        let object_encoded = self.stage(turn, stored, &object);
        let done = Done { dot, clock_ms: turn.admitting.now_ms, payload };
        turn.record(index, Recorded { key: hash, done: Some(done) }, true);
        Ok(written(done, &object, object_encoded, &operation))
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
    ) -> Result<Written, WriteError> {
        let Done { dot, clock_ms, .. } = done;
        let unknown = |error: RequestError| WriteError::unknown(write.operation, error);
        let encoded = self.read(turn, &write.address).map_err(unknown)?;
        let object = encoded.decode(write.address.conflict);
        let object = object.map_err(|error| unknown(RequestError::internal(error)))?;
        if !object.version().covers(dot) {
            let reason = format!("the write was applied as {dot}, and lost here since");
            return Err(unknown(RequestError::Data { reason }));
        }
        let wrong = turn.future_of(&object);
        let by_clock = || turn.wrong_clock().or_else(|| turn.is_late(clock_ms, 0));
        let wrong = wrong.or_else(|| by_clock().filter(|_| !is_followed(&object, dot)));
        if let Some(wrong) = wrong.filter(|_| is_hidden(&object, dot)) {
            return Err(unknown(wrong));
        }
        Ok(written(done, &object, encoded, &write.operation))
    }

    /// Takes in another replica's object. Nothing is staged if it is malformed, or the record here
    /// is damaged and the object is no mend.
    ///
    /// A merge is never refused, but its acknowledgement may be: if a write comes to nothing here
    /// since a wrong clock wrote the key in the future, its client is not to take it for done. One
    /// that has seen the key's time, by its context, is above that. The wrong clock may be this
    /// node's own, to which the future looks like the present; or that of a coordinator which stood
    /// still with all else on its machine, so that it could not notice: what it writes seems older
    /// than what was acknowledged before.
    pub fn merge(&mut self, turn: &mut Turn<'_>, merge: Merge) -> Result<(), RequestError> {
        let stored = merge.address.stored();
        let received =
            merge.object.decode(merge.address.conflict).map_err(RequestError::invalid)?;
        self.check_dots(&received)?;
        let carried = received.last().map(|last| last.dot);
        // Whether the write may have come before, itself or within a later object.
        let mut known = true;
        let object = match self.object(turn, &merge.address, &stored) {
            Ok(mut object) => {
                known = merge.operation.is_some_and(|(_, dot, _)| object.version().covers(dot));
                if planted!("repair_replaces_instead_of_merging") && merge.operation.is_none() {
                    object = Object::default();
                }
                if object.merge(&received) {
                    self.stage(turn, stored, &object);
                }
                object
            }
            Err(RequestError::Damaged { .. }) if merge.mend => {
                self.mend(turn, stored, &received);
                received
            }
            Err(error) => return Err(error),
        };
        if let Some((id, dot, payload)) = merge.operation {
            let done = Done { dot, clock_ms: merge.clock_ms, payload };
            let recorded = Recorded { key: merge.address.hash(), done: Some(done) };
            turn.record(record::operation_key(self.id, &id), recorded, !known);
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
    pub fn end_actor(&mut self) {
        self.issued = None;
    }

    /// Stages the frontier's rows that changed since the last time. How many of them were found
    /// damaged when the vnode was opened, if that was not told yet.
    pub fn stage_frontier(&mut self, batch: &mut Batch) -> u64 {
        for actor in std::mem::take(&mut self.grown) {
            let key = record::frontier_key(self.id, actor);
            match self.frontier.of(actor) {
                Some(seen) => {
                    let sealed = record::seal(&key, &encode_intervals(seen));
                    batch.put(Space::Frontiers, key, sealed);
                }
                None => batch.delete(Space::Frontiers, key),
            }
        }
        std::mem::take(&mut self.damaged_rows)
    }

    /// The record at `stored` is damaged: the actor ends, since an object was lost, and the frontier
    /// is forgotten, since it vouches for it. The data stays. False if that was known: what the
    /// frontier learned since is true.
    pub fn distrust(&mut self, stored: &Bytes, hash: KeyHash) -> bool {
        if self.damaged.contains(stored) {
            return false;
        }
        if self.damaged.len() < DAMAGED_MAX {
            self.damaged.insert(stored.clone());
        }
        tracing::error!(
            n = self.id.n,
            partition = self.id.partition.0,
            key_hash = format_args!("{:016x}", hash.0),
            "a record is damaged; it is not served, and is mended once every other owner of its key \
             can be asked"
        );
        self.end_actor();
        self.grown.extend(self.frontier.iter().map(|(actor, _)| actor));
        self.frontier = Frontier::new();
        true
    }

    fn stage(&mut self, turn: &mut Turn<'_>, stored: Bytes, object: &Object) -> EncodedObject {
        let (sealed, encoded) = record::seal_object(&stored, object);
        turn.batch.put(Space::Objects, stored, sealed);
        let grown = &mut self.grown;
        self.frontier.add_object(object, |actor| {
            grown.insert(actor);
        });
        encoded
    }

    /// Replaces a damaged record by what every other owner held.
    fn mend(&mut self, turn: &mut Turn<'_>, stored: Bytes, object: &Object) {
        self.damaged.remove(&stored);
        if object.is_absent() {
            turn.mended.lost += 1;
            tracing::error!(vnode = ?self.id, "a damaged record is given up: no other owner holds its key");
            return turn.batch.delete(Space::Objects, stored);
        }
        turn.mended.mended += 1;
        tracing::warn!(vnode = ?self.id, "a damaged record was replaced by what all other owners hold");
        self.stage(turn, stored, object);
    }

    fn find(
        &mut self,
        turn: &mut Turn<'_>,
        address: &Address,
        stored: &Bytes,
    ) -> Result<EncodedObject, RequestError> {
        let sealed = match turn.get(Space::Objects, stored) {
            Ok(None) => return Ok(EncodedObject::default()),
            Ok(Some(sealed)) => sealed,
            Err(EngineError::Corrupt { .. }) => return Err(self.damaged(turn, address, stored)),
            Err(error) => return Err(RequestError::from(error)),
        };
        match record::open(stored, &sealed).map(EncodedObject) {
            Ok(object) if object.is_of(address.conflict) => Ok(object),
            _ if planted!("damaged_record_taken_as_absent") => Ok(EncodedObject::default()),
            Ok(_) | Err(RecordError::Damaged) => Err(self.damaged(turn, address, stored)),
            Err(newer @ RecordError::Format(_)) => {
                Err(RequestError::Data { reason: newer.to_string() })
            }
        }
    }

    fn object(
        &mut self,
        turn: &mut Turn<'_>,
        address: &Address,
        stored: &Bytes,
    ) -> Result<Object, RequestError> {
        let decoded = self.find(turn, address, stored)?.decode(address.conflict);
        decoded.map_err(|DecodeError { .. }| self.damaged(turn, address, stored))
    }

    fn damaged(&mut self, turn: &mut Turn<'_>, address: &Address, stored: &Bytes) -> RequestError {
        if self.distrust(stored, address.hash()) {
            *turn.corrupt.entry(Space::Objects).or_default() += 1;
        }
        let reason = format!("the record of key hash {:016x} is damaged here", address.hash().0);
        RequestError::Damaged { reason }
    }

    fn next_dot(&mut self, turn: &mut Turn<'_>) -> Dot {
        let dot = match self.issued {
            Some(last) => Dot { n: last.n + 1, ..last },
            None if planted!("actor_kept_over_a_rollback") => {
                let actor = Actor(turn.admitting.node.0 ^ u64::from(self.id.partition.0));
                Dot { actor, n: self.frontier.base(actor) + 1 }
            }
            None => Dot { actor: Actor(turn.rng.next_u64()), n: 1 },
        };
        assert!(!self.frontier.contains(dot), "{dot} was issued twice");
        self.issued = Some(dot);
        dot
    }
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
    match write.address.conflict {
        Conflict::Siblings => {
            let left = object.uncovered(&write.context.version);
            let with = |value: &Bytes| object.uncovered_bytes(&write.context.version) + value.len();
            let full = |value| left > 0 && with(value) > siblings_max_bytes(n);
            let crowded = |value| left >= SIBLINGS_MAX || full(value);
            let count = left as u32;
            let refusal = || RequestError::TooManySiblings { count };
            write.value.as_ref().is_some_and(crowded).then(refusal)
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

fn write_sibling(object: &mut Object, turn: &mut Turn<'_>, write: Write, dot: Dot) {
    let Write { value, context, operation, .. } = write;
    let Some(payload) = value else { return object.delete(dot, &context.version) };
    let seen = object.time().max(context.time);
    let time = turn.clock.next(turn.admitting.now_ms, seen);
    *turn.clock = time;
    let entry = Entry { payload, time, deadline_ms: None, operation, origin: dot };
    object.write(dot, &context.version, entry);
}

fn write_last(object: &mut Object, turn: &mut Turn<'_>, write: Write, dot: Dot) {
    let time = next_time(object, &write, turn).expect("a write without a time is refused");
    let Write { value, context, operation, .. } = write;
    let entry = |payload| Entry { payload, time, deadline_ms: None, operation, origin: dot };
    object.write_last(Stamp { time, dot }, &context.version, value.map(entry));
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
    object: &Object,
    encoded: EncodedObject,
    operation: &OperationId,
) -> Written {
    let Done { dot, clock_ms, payload } = done;
    let context = Context::of_write(object, operation);
    let siblings = object.siblings().len() as u32;
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
                "the operation id is over an hour old, or its time lies in the future; \
             take its time from a server (Describe)",
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

#[cfg(test)]
mod tests;
