//! The hints of one partition on one node: objects that it keeps for owners which missed them.
//!
//! Fallbacks have them, and owners too, which keep what another owner missed when nobody else can. All
//! of a partition are one vnode: its objects are read, merged and written as an owner's are, lie in a
//! space of their own, and have beside them not a frontier but the targets that are still owed them.
//! Object, targets, queue and operation index change in one batch.
//!
//! A hint is never dropped. It leaves once its targets said that they have it on disk, and then only
//! if it is still what was sent to them: what came meanwhile is owed to them in a new place.
//!
//! **The actor ends with a hint that names it.** A fallback writes `x` as (f,1), hands it home and
//! forgets it. Written again, without a context, as (f,2), the key would have V = {f:2}, since nothing
//! is left here that could stand beside it; and that covers (f,1): at home `x`, which was
//! acknowledged, would vanish (Riak's kv679).
//!
//! ```text
//!   f writes x          f: x under f:1, V {f:1}     owner: nothing
//!   x goes home         f: nothing                  owner: x, V {f:1}
//!   f writes y, blind   f: y under f:2, V {f:2}     owner: x is covered by f:2, and gone
//!                       f: y under g:1, V {g:1}     owner: x and y, siblings as they should be
//! ```
//!
//! **A damaged hint** is counted, logged and not delivered, and reads of its key say so. Its targets
//! stay in the queue, since they are owed what nobody can give them: a queue that does not become
//! empty is how an operator sees it. What it held is on the owners that acknowledged it, which read
//! repair and anti-entropy spread; or it is lost, if this node alone had it. Nothing gets worse by
//! taking the next hint of the key in its place: a fallback's silence never counted. So that is done,
//! and the loss counted; its targets are owed the next one, and then the queue moves on.
//! A damaged row of targets is made again from the queues, and one of a queue from the targets.

use bytes::Bytes;

use super::objects::{Beside, Objects, Put};
use super::queues::{hint_bytes, owed_by_queues};
use super::turn::Turn;
use super::{Address, Merge, Write, Written};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::hint::{Debt, Owed, Paid};
use crate::dynamo::key::{KeyHash, NodeId, VnodeId};
use crate::dynamo::object::Object;
use crate::error::{RequestError, WriteError};
use crate::storage::hints::{self, Place};
use crate::storage::{EngineError, Space};

/// A hint that waits in a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptHint {
    /// Of which key.
    pub address: Address,
    /// The whole object.
    pub object: EncodedObject,
    /// Its number in the queue.
    pub seq: u64,
}

/// The hints of one partition.
#[derive(Debug)]
pub struct HintVnode {
    objects: Objects,
}

impl HintVnode {
    /// Those of this partition, under no actor yet.
    pub fn new(id: VnodeId) -> Self {
        Self { objects: Objects::new(id, Space::Hints) }
    }

    /// What is kept under a key; the absent object if nothing is.
    pub fn read(
        &mut self,
        turn: &mut Turn<'_>,
        address: &Address,
    ) -> Result<EncodedObject, RequestError> {
        self.objects.read(turn, address, &mut Owing::to(&[]))
    }

    /// Coordinates a write in the place of owners that cannot: as
    /// [`Vnode::write`](super::Vnode::write), and owed to these of them, at least one.
    pub fn write(
        &mut self,
        turn: &mut Turn<'_>,
        write: Write,
        targets: &[NodeId],
    ) -> Result<Written, WriteError> {
        let refused = |error| WriteError::at_the_door(write.doubtful, error);
        owed_to_somebody(targets).map_err(refused)?;
        self.objects.write(turn, write, &mut Owing::to(targets))
    }

    /// Keeps an object for a target, merged with what is kept of its key already. An error means
    /// that it is not to be counted on; it may be kept all the same, as with
    /// [`Vnode::merge`](super::Vnode::merge).
    pub fn merge(
        &mut self,
        turn: &mut Turn<'_>,
        merge: Merge,
        target: NodeId,
    ) -> Result<(), RequestError> {
        if merge.object.0.is_empty() {
            return Err(RequestError::invalid("a hint of nothing"));
        }
        self.objects.merge(turn, merge, &mut Owing::to(&[target]))
    }

    /// The target has this on disk: it is owed no more, unless the object changed since.
    pub fn delivered(
        &mut self,
        turn: &mut Turn<'_>,
        target: NodeId,
        delivered: &KeptHint,
    ) -> Result<(), RequestError> {
        let stored = delivered.address.stored();
        let before = owed_at(turn, &stored)?;
        let Some(debt) = before.to(target) else { return Ok(()) };
        let held = self.objects.find(turn, &delivered.address, &stored, &mut Owing::to(&[]));
        let held = match held {
            // Nobody knows whether that was it.
            Err(RequestError::Damaged { .. }) => return Ok(()),
            held => held?,
        };
        let same =
            held == delivered.object || planted!("delivered_hint_forgets_what_came_meanwhile");
        let mut after = before.clone();
        let next = match same {
            true => debt,
            false => turn.queues.next_place(target, turn.admitting.now_ms),
        };
        match after.pay(delivered.seq, same, next) {
            Paid::Before => return Ok(()),
            Paid::InPart => put_place(turn, &stored, next),
            Paid::Whole => {}
        }
        turn.batch.delete(Space::Hints, hints::place_key(target, debt.seq));
        if after.is_empty() {
            after.bytes = 0;
            turn.batch.delete(Space::Hints, stored.clone());
            turn.batch.delete(Space::Hints, hints::owed_key(&stored));
            self.forgot(&delivered.address, &held);
        } else {
            put_owed(turn, &stored, &after);
        }
        turn.queues.stage(&mut turn.hinted, before, after);
        Ok(())
    }

    /// Ends the actor, since objects were dropped.
    pub fn end_actor(&mut self) {
        self.objects.end_actor();
    }

    /// The record at `stored` is damaged: the actor ends. False if that was known.
    pub fn distrust(&mut self, stored: &Bytes, hash: KeyHash) -> bool {
        self.objects.distrust(stored, hash, &mut Owing::to(&[]))
    }

    /// A hint has gone home: whatever is written next of its key knows nothing of it.
    fn forgot(&mut self, address: &Address, held: &EncodedObject) {
        let Some(actor) = self.objects.actor() else { return };
        let object = held.decode(address.conflict);
        let named = object.is_ok_and(|object| object.version().last(actor) > 0);
        if named && !planted!("fallback_actor_kept_after_its_hints_went_home") {
            self.objects.end_actor();
        }
    }
}

fn owed_to_somebody(targets: &[NodeId]) -> Result<(), RequestError> {
    let nobody = || RequestError::internal("a fallback was to write what it owes to nobody");
    (!targets.is_empty()).then_some(()).ok_or_else(nobody)
}

/// To whom an object is owed, beside it.
struct Owing<'a> {
    /// Who is owed it from now on.
    targets: &'a [NodeId],
    /// What was owed before.
    before: Owed,
}

impl<'a> Owing<'a> {
    fn to(targets: &'a [NodeId]) -> Self {
        Self { targets, before: Owed::default() }
    }
}

impl Beside for Owing<'_> {
    fn prepare(
        &mut self,
        turn: &mut Turn<'_>,
        stored: &Bytes,
        bytes: Option<usize>,
    ) -> Result<(), RequestError> {
        self.before = owed_at(turn, stored)?;
        let bytes = bytes.map_or(self.before.bytes, |bytes| hint_bytes(stored, bytes));
        let room = turn.queues.has_room(bytes.saturating_sub(self.before.bytes));
        room.inspect_err(|_| turn.hinted.refused += 1)
    }

    fn kept(&mut self, turn: &mut Turn<'_>, stored: &Bytes, _: &Object, put: Option<Put>) {
        let mut after = self.before.clone();
        after.bytes = put.map_or(after.bytes, |put| hint_bytes(stored, put.bytes));
        for &target in self.targets {
            if after.to(target).is_none() {
                let debt = turn.queues.next_place(target, turn.admitting.now_ms);
                after.owe(debt);
                put_place(turn, stored, debt);
            }
        }
        turn.hinted.accepted += 1;
        if after == self.before {
            return;
        }
        put_owed(turn, stored, &after);
        turn.queues.stage(&mut turn.hinted, std::mem::take(&mut self.before), after);
    }
}

/// To whom the object at `stored` is owed.
fn owed_at(turn: &mut Turn<'_>, stored: &Bytes) -> Result<Owed, RequestError> {
    let key = hints::owed_key(stored);
    let found = match turn.get(Space::Hints, &key) {
        Ok(None) => return Ok(Owed::default()),
        Ok(Some(sealed)) => hints::open_owed(&key, &sealed).ok(),
        Err(EngineError::Corrupt { .. }) => None,
        Err(error) => return Err(RequestError::from(error)),
    };
    if let Some(owed) = found {
        return Ok(owed);
    }
    // No batch staged it, or it would not be damaged; nor then places of its queues.
    *turn.corrupt.entry(Space::Hints).or_default() += 1;
    tracing::error!("a row that says to whom a hint is owed is damaged; the queues are asked");
    owed_by_queues(turn.engine, stored).map_err(RequestError::from)
}

fn put_owed(turn: &mut Turn<'_>, stored: &Bytes, owed: &Owed) {
    let key = hints::owed_key(stored);
    let sealed = hints::seal_owed(&key, owed);
    turn.batch.put(Space::Hints, key, sealed);
}

fn put_place(turn: &mut Turn<'_>, stored: &Bytes, debt: Debt) {
    let key = hints::place_key(debt.target, debt.seq);
    let place = Place { since_ms: debt.since_ms, object: stored.clone() };
    let sealed = hints::seal_place(&key, &place);
    turn.batch.put(Space::Hints, key, sealed);
    let (key, sealed) = hints::opening_row(turn.queues.opening());
    turn.batch.put(Space::Hints, key, sealed);
}

#[cfg(test)]
mod tests;
