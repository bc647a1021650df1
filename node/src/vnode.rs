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

mod deadlines;
mod hints;
pub mod log;
pub mod look_up;
mod objects;
mod owned;
mod purge;
mod queues;
mod seen;
mod tree;
mod turn;

use std::collections::BTreeSet;

use bytes::Bytes;

use self::deadlines::Deadlines;
pub use self::hints::{HintVnode, KeptHint};
use self::objects::Objects;
use self::owned::Owned;
pub use self::purge::Purged;
pub use self::queues::{HintQueues, Hinted};
use self::seen::Seen;
pub use self::tree::{HashKey, Listed};
use self::tree::{Staged, Tree};
pub use self::turn::{Mended, Turn};
use crate::dynamo::arrival::Way;
use crate::dynamo::clock::Dot;
use crate::dynamo::context::Context;
use crate::dynamo::exchange::Told;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{Key, KeyHash, NamespaceId, VnodeId};
use crate::dynamo::merkle::{Children, Leaf, Node, Place, Sum};
use crate::dynamo::metadata::document::Conflict;
use crate::dynamo::object::Object;
use crate::dynamo::operation::{Change, OperationId, PayloadHash};
use crate::dynamo::ttl::TtlMs;
use crate::error::{RequestError, WriteError};
use crate::storage::record;
use crate::storage::{Batch, Engine, EngineError, Space};

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

    pub(crate) fn stored(&self) -> Bytes {
        record::object_key(self.vnode, self.namespace, self.key.as_bytes())
    }
}

/// A write to coordinate.
#[derive(Clone, Debug)]
pub struct Write {
    /// Where.
    pub address: Address,
    /// What it does.
    pub change: Change,
    /// How long the value lives, if not until it is replaced.
    pub ttl: Option<TtlMs>,
    /// What a quorum of owners held, where the value is written again that is there.
    pub seen: Option<Box<Object>>,
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
    /// Whether it sets a deadline, or judges by one: that takes a clock that is right.
    pub fn is_timed(&self) -> bool {
        self.ttl.is_some() || matches!(self.change, Change::Expire(_))
    }

    /// What tells it from another write under the same id.
    pub fn payload(&self) -> PayloadHash {
        PayloadHash::of(&self.change, &self.context)
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
    /// How it came.
    pub way: Way,
}

impl Merge {
    /// A hint's object, at one of the owners that it was kept for: as a repair, since whoever made
    /// the write was answered long ago.
    pub fn of_hint(address: Address, object: EncodedObject) -> Self {
        Self::repair(Way::Hint, address, object)
    }

    /// What an owner lacked, as was found out this way.
    pub fn repair(way: Way, address: Address, object: EncodedObject) -> Self {
        Self { address, object, operation: None, clock_ms: 0, wait_ms: 0, mend: false, way }
    }
}

/// What turned out when the rows beside objects were staged; each is told once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StagedBeside {
    /// How many rows were found damaged, by space.
    pub damaged: [(Space, u64); 2],
    /// The generation in which something is lost without a trace, if it is.
    pub lost: Option<u64>,
}

/// One hosted partition.
#[derive(Debug)]
pub struct Vnode {
    objects: Objects,
    beside: Owned,
}

impl Vnode {
    /// Opens what the engine holds of `id`. A damaged row means that the frontier may lie: then it
    /// is forgotten as a whole, and the rows with it at the next turn. `generation` tells this opening
    /// from others; objects are hashed under `key`.
    pub fn open(
        id: VnodeId,
        engine: &dyn Engine,
        generation: u64,
        key: &HashKey,
    ) -> Result<Self, EngineError> {
        let seen = Seen::open(id, engine, generation)?;
        let tree = Tree::open(id, engine, key.clone())?;
        let beside = Owned { seen, tree, deadlines: Deadlines::open(id) };
        Ok(Self { objects: Objects::new(id, Space::Objects), beside })
    }

    /// Which dots this vnode has seen.
    pub fn frontier(&self) -> &Frontier {
        self.beside.seen.frontier()
    }

    /// What it says of that to others: true of what was applied, once all turns before were.
    pub fn told(&self) -> Told {
        self.beside.seen.told()
    }

    /// Another owner says that these writes are of this key: sees them, if what is held here holds or
    /// covers all of them; whether it does.
    pub fn see(
        &mut self,
        turn: &mut Turn<'_>,
        address: &Address,
        dots: &[Dot],
    ) -> Result<bool, RequestError> {
        let stored = address.stored();
        let object = self.objects.object(turn, address, &stored, &mut self.beside)?;
        let covered = dots.iter().all(|dot| object.version().covers(*dot))
            || planted!("dots_seen_without_their_object");
        if covered {
            self.beside.seen.see(&mut turn.batch, &stored, dots);
        }
        Ok(covered)
    }

    /// Another owner has told all that it held when it had seen this, and all of it is here. Whether this
    /// vnode still is of that generation, without which it may have lost some of it.
    pub fn join(&mut self, frontier: &Frontier, generation: u64) -> bool {
        if self.beside.seen.told().generation != generation {
            return false;
        }
        // Whoever knows writes of this actor that it has not made would see them made a second time.
        let new = frontier.minus(self.beside.seen.frontier());
        if self.objects.actor().is_some_and(|actor| new.of(actor).is_some()) {
            self.objects.end_actor();
        }
        self.beside.seen.join(&new);
        true
    }

    /// What has left the dot log since every owner has it.
    pub fn forgotten(&mut self) -> &mut log::Forgotten {
        &mut self.beside.seen.forgotten
    }

    /// Behind which key the objects are to be recounted, if they are.
    pub fn recount(&self) -> Option<&Bytes> {
        self.beside.seen.recount()
    }

    /// Sees what an object shows that lies at `stored`, when objects are recounted.
    pub fn recount_object(&mut self, batch: &mut Batch, stored: &Bytes, object: &Object) {
        self.beside.seen.see_object(batch, stored, object);
    }

    /// Whether so many records are damaged that further ones are not kept in mind: a recount goes on past
    /// them, or it would begin anew for each, for ever.
    pub fn has_much_damage(&self) -> bool {
        self.objects.has_much_damage()
    }

    /// Objects are recounted up to this one; none: all are.
    pub fn recounted(&mut self, last: Option<Bytes>) {
        self.beside.seen.recount_from(last);
    }

    /// What is held under a key; the absent object if nothing is.
    pub fn read(
        &mut self,
        turn: &mut Turn<'_>,
        address: &Address,
    ) -> Result<EncodedObject, RequestError> {
        self.objects.read(turn, address, &mut self.beside)
    }

    /// Gives a write its dot and stages what it leaves. An error leaves no dot; a refusal of this
    /// very write is recorded by the node that its id names. Another one, which is asked to run it at
    /// least once, cannot tell whether that one did, and may be asked again. [`RequestError::Damaged`]
    /// is no refusal yet: the caller mends the record and asks again, or gives it as the refusal.
    pub fn write(&mut self, turn: &mut Turn<'_>, write: Write) -> Result<Written, WriteError> {
        self.objects.write(turn, write, &mut self.beside)
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
        self.objects.merge(turn, merge, &mut self.beside)
    }

    /// Ends the actor, since objects were dropped.
    pub fn end_actor(&mut self) {
        self.objects.end_actor();
    }

    /// Stages the rows beside the objects that changed since the last time.
    pub fn stage_beside(&mut self, batch: &mut Batch) -> StagedBeside {
        let trees = self.beside.tree.stage(batch);
        let (frontiers, lost) = self.beside.seen.stage(batch);
        StagedBeside { damaged: [(Space::Frontiers, frontiers), (Space::Trees, trees)], lost }
    }

    /// In which generation something is lost without a trace, if anything is: this vnode's silence is not
    /// to be believed before it has met every other owner in that one.
    pub fn lost(&self) -> Option<u64> {
        self.beside.seen.loss()
    }

    /// It has: whether that is still true, of this generation.
    pub fn regain(&mut self, generation: u64) -> bool {
        self.beside.seen.regain(generation)
    }

    /// The root of the tree of hashes; none while it is not ready.
    pub fn root(&self) -> Option<Sum> {
        self.beside.tree.root()
    }

    /// Some of what is to be done before the tree is ready; it is as if the batch was applied. Objects may
    /// turn out to be lost.
    pub fn ready_tree(&mut self, engine: &dyn Engine) -> Result<Batch, RequestError> {
        let (batch, lost) = self.beside.tree.step(engine)?;
        if lost {
            self.on_lost();
        }
        Ok(batch)
    }

    /// Something is gone without a trace: the actor ends, and the frontier, which vouches for it, is
    /// forgotten.
    fn on_lost(&mut self) {
        self.objects.end_actor();
        self.beside.seen.lost();
    }

    /// The sums below a branch of the tree; none while it is not ready.
    pub fn children(&self, branch: Node) -> Option<Children> {
        self.beside.tree.children(branch)
    }

    /// What is held in a leaf of the tree, read from the records. Where it is not what they come to, or one
    /// is not where its name says, something was lost without a trace: the tree is made anew.
    pub fn list(&mut self, engine: &dyn Engine, leaf: Leaf) -> Result<Listed, RequestError> {
        let listed = self.beside.tree.list(engine, leaf)?;
        if listed.mismatch {
            self.on_lost();
        }
        Ok(listed)
    }

    /// Which of some leaves of the tree have objects, or should have, and up to which leaf that goes; none if
    /// it cannot be told.
    pub fn occupied(
        &mut self,
        engine: &dyn Engine,
        first: Leaf,
        count: u16,
    ) -> Result<Option<(BTreeSet<Leaf>, Leaf)>, RequestError> {
        self.beside.tree.occupied(engine, first, count)
    }

    /// Where the objects at some places of the tree lie.
    pub fn at(&self, engine: &dyn Engine, places: &[Place]) -> Result<Vec<Bytes>, RequestError> {
        self.beside.tree.at(engine, places)
    }

    /// A record is deleted in this batch, since its namespace was dropped.
    pub fn drop_object(
        &mut self,
        engine: &dyn Engine,
        batch: &mut Batch,
        (stored, sealed): (&Bytes, &Bytes),
    ) -> Result<(), RequestError> {
        batch.delete(Space::Objects, stored.clone());
        if let Some(object) = tree::opened(stored, sealed) {
            self.beside.deadlines.changed(batch, stored, (&object.deadlines_ms(), &[]));
        }
        self.beside.tree.remove(&mut Staged { engine, batch }, stored, sealed)
    }

    /// The record at `stored` is damaged: the actor ends, since an object was lost, and the frontier
    /// is forgotten, since it vouches for it. The data stays. False if that was known: what the
    /// frontier learned since is true.
    pub fn distrust(&mut self, stored: &Bytes, hash: KeyHash) -> bool {
        self.objects.distrust(stored, hash, &mut self.beside)
    }
}

#[cfg(test)]
mod tests;
