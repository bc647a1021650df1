//! An owner's tree of hashes, in the batches of its objects.
//!
//! ```text
//!   a write:    leaf += hash of the new values - hash of the old ones
//!               a key's first one: its name is kept beside the leaf, so that a leaf can be counted anew
//!   in memory   the sums of all leaves, 64 KiB: read once an opening, some with each of the first writes, then
//!               kept in step, so that a write reads no leaf
//! ```
//!
//! So after a crash leaves and objects agree, since either is there or neither, and nobody ever goes through
//! the objects to have a tree. It is made anew only where its own rows are damaged: their objects are then
//! gone through once, some at a time, and the tree says nothing meanwhile. How far that got is kept, since
//! the process may end before.
//!
//! Invariant: a leaf is the sum over those of its named objects that can be read; what a damaged record adds
//! to it is what was there when it was written.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::deadlines;
use super::objects::{Before, Put};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::VnodeId;
use crate::dynamo::merkle::{Change, Children, FANOUT, LEAVES, Leaf, Listing, Node, Place, Sum};
use crate::dynamo::metadata::document::ClusterKey;
use crate::dynamo::object::Object;
use crate::error::RequestError;
use crate::storage::record;
use crate::storage::{Batch, Engine, EngineError, KeyRange, Space};

/// The cluster's key, once this node has one: objects come with a cluster.
pub type HashKey = Arc<OnceLock<ClusterKey>>;

/// Leaves that are read in one step: requests wait for it.
const COUNTED_AT_ONCE: u16 = 512;

/// Rows that are deleted, or objects that are gone through, in one step of making a tree anew, and about how
/// many bytes of them.
const REBUILT_AT_ONCE: usize = 512;
const REBUILT_BYTES: usize = 1 << 20;

/// Names that are looked at when it is asked which leaves have objects, at most.
const OCCUPIED_MAX: usize = 512;

/// How often making it anew may come upon damaged rows again, before that is given up until the store is
/// opened again.
const DOUBTS_MAX: u32 = 8;

/// What a batch will leave, read before the engine.
pub(super) struct Staged<'a> {
    pub(super) engine: &'a dyn Engine,
    pub(super) batch: &'a mut Batch,
}

impl Staged<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.batch.staged(space, key) {
            Some(staged) => Ok(staged.cloned()),
            None => self.engine.get(space, key),
        }
    }
}

/// What of a tree is to be made anew.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Rebuild {
    /// Its rows are deleted first.
    Clear,
    /// Objects up to this one are in it.
    Count(Bytes),
}

/// An owner's tree.
#[derive(Debug)]
pub(super) struct Tree {
    id: VnodeId,
    key: HashKey,
    /// The sums of the leaves that were read so far: the first ones.
    sums: Vec<Sum>,
    rebuild: Option<Rebuild>,
    /// Whether that changed in this turn.
    rebuild_moved: bool,
    /// The sum of the leaf whose object is about to change; none while that one is not in the tree.
    prepared: Option<(Leaf, Sum)>,
    /// Damaged rows that were met, until a turn counts them.
    damaged_rows: u64,
    /// How often that made it doubtful.
    doubts: u32,
}

/// What is held in a leaf.
#[derive(Default, Debug)]
pub struct Listed {
    /// All of it; none, if some of it cannot be read, or the tree says nothing for now.
    pub listing: Option<Listing>,
    /// Where records of it are damaged.
    pub damaged: Vec<Bytes>,
    /// Whether the leaf is not what its records come to: bytes changed, or were lost, without a trace.
    pub mismatch: bool,
    /// How many records were read for it, tombstones included, and how many bytes of them.
    pub read: (usize, usize),
}

/// What lies where a name says that an object does.
enum Held {
    /// An object; the hash of its values, and the bytes of its record.
    Object {
        hash: u128,
        bytes: usize,
    },
    /// What cannot be read.
    Damaged,
    Nothing,
}

impl Tree {
    pub(super) fn open(
        id: VnodeId,
        engine: &dyn Engine,
        key: HashKey,
    ) -> Result<Self, EngineError> {
        let mut tree = Self {
            id,
            key,
            sums: Vec::new(),
            rebuild: None,
            rebuild_moved: false,
            prepared: None,
            damaged_rows: 0,
            doubts: 0,
        };
        let mark = record::rebuild_key(id);
        match engine.get(Space::Trees, &mark) {
            Ok(None) => {}
            Ok(Some(sealed)) => {
                let body = record::open(&mark, &sealed).ok();
                tree.rebuild = Some(body.and_then(decode_rebuild).unwrap_or(Rebuild::Clear));
            }
            Err(EngineError::Corrupt { .. }) => tree.doubt(),
            Err(error) => return Err(error),
        }
        Ok(tree)
    }

    /// What the tree has of an object that is about to change.
    pub(super) fn before(&self, stored: &Bytes, object: &Object) -> Before {
        let (hash, is_there) = (self.hash(stored, object), !object.is_absent());
        Before { hash, is_there, deadlines_ms: object.deadlines_ms() }
    }

    fn hash(&self, stored: &Bytes, object: &Object) -> u128 {
        let Some((_, namespace, key)) = record::split_object_key(stored) else { return 0 };
        let cluster = self.key.get().expect("objects come with a cluster");
        object.values_hash(cluster, namespace, &key)
    }

    /// The object at `stored` is about to change: what could stand in the way does so here.
    pub(super) fn prepare(
        &mut self,
        staged: &Staged<'_>,
        stored: &Bytes,
    ) -> Result<(), RequestError> {
        self.prepared = None;
        let Some(place) = self.place(stored) else { return Ok(()) };
        if self.rebuild.is_none() {
            // Reading some leaves now spares the next writes a look at theirs.
            self.count(staged)?;
            if self.rebuild.is_some() {
                return Ok(());
            }
        }
        match self.leaf(staged, place.leaf())? {
            Some(sum) => self.prepared = Some((place.leaf(), sum)),
            None => self.doubt(),
        }
        Ok(())
    }

    /// The same, if what lies there cannot be read: the leaf is counted anew, without it.
    pub(super) fn prepare_anew(
        &mut self,
        staged: &Staged<'_>,
        stored: &Bytes,
    ) -> Result<(), RequestError> {
        self.prepare(staged, stored)?;
        let Some((leaf, before)) = self.prepared else { return Ok(()) };
        let mut others = Sum::default();
        for name in self.names(staged, leaf)? {
            if name != *stored {
                let held = self.held_at(staged, &name)?;
                let hash = if let Held::Object { hash, .. } = held { hash } else { 0 };
                others = Sum::of([others, Sum(hash)]);
            }
        }
        self.add(leaf, Change { before: before.0, after: others.0 });
        self.prepared = Some((leaf, others));
        Ok(())
    }

    /// The batch leaves this object there.
    pub(super) fn kept(
        &mut self,
        batch: &mut Batch,
        stored: &Bytes,
        object: &Object,
        put: Option<Put>,
    ) {
        let (Some(Put { before, .. }), Some((leaf, sum))) = (put, self.prepared.take()) else {
            return;
        };
        let change = Change { before: before.hash, after: self.hash(stored, object) };
        planted!("tree_left_as_it_was_by_overwrites", {
            if before.is_there {
                return;
            }
        });
        self.put_leaf(batch, leaf, sum.with(change));
        self.add(leaf, change);
        if !before.is_there {
            self.put_name(batch, stored);
        }
    }

    /// The batch leaves nothing there any more, where a damaged record was.
    pub(super) fn dropped(&mut self, batch: &mut Batch, stored: &Bytes) {
        let Some((leaf, sum)) = self.prepared.take() else { return };
        self.put_leaf(batch, leaf, sum);
        self.delete_name(batch, stored);
    }

    /// A record is deleted since its namespace was dropped.
    pub(super) fn remove(
        &mut self,
        staged: &mut Staged<'_>,
        stored: &Bytes,
        sealed: &Bytes,
    ) -> Result<(), RequestError> {
        let Some(object) = opened(stored, sealed) else {
            self.prepare_anew(staged, stored)?;
            self.dropped(staged.batch, stored);
            return Ok(());
        };
        self.prepare(staged, stored)?;
        let Some((leaf, sum)) = self.prepared.take() else { return Ok(()) };
        let change = Change { before: self.hash(stored, &object), after: 0 };
        self.add(leaf, change);
        self.put_leaf(staged.batch, leaf, sum.with(change));
        self.delete_name(staged.batch, stored);
        Ok(())
    }

    /// Where the object at `stored` is; none if it is not in the tree yet.
    fn place(&self, stored: &Bytes) -> Option<Place> {
        match &self.rebuild {
            None => {}
            Some(Rebuild::Count(until)) if stored <= until => {}
            Some(_) => return None,
        }
        place_of(stored)
    }

    /// The sum of a leaf; none if its row is damaged.
    fn leaf(&self, staged: &Staged<'_>, leaf: Leaf) -> Result<Option<Sum>, RequestError> {
        if let Some(sum) = self.sums.get(usize::from(leaf.0)) {
            return Ok(Some(*sum));
        }
        let key = record::leaf_key(self.id, leaf);
        match staged.get(Space::Trees, &key) {
            Ok(row) => Ok(row.map_or(Some(Sum::default()), |sealed| decode_sum(&key, &sealed))),
            Err(EngineError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn put_leaf(&self, batch: &mut Batch, leaf: Leaf, sum: Sum) {
        let key = record::leaf_key(self.id, leaf);
        match sum == Sum::default() {
            true => batch.delete(Space::Trees, key),
            false => {
                let sealed = record::seal(&key, &sum.0.to_be_bytes());
                batch.put(Space::Trees, key, sealed);
            }
        }
    }

    fn put_name(&self, batch: &mut Batch, stored: &Bytes) {
        let Some(place) = place_of(stored) else { return };
        let key = record::name_key(self.id, place, stored);
        let sealed = record::seal(&key, &[]);
        batch.put(Space::Trees, key, sealed);
    }

    fn delete_name(&self, batch: &mut Batch, stored: &Bytes) {
        let Some(place) = place_of(stored) else { return };
        batch.delete(Space::Trees, record::name_key(self.id, place, stored));
    }

    fn add(&mut self, leaf: Leaf, change: Change) {
        if let Some(sum) = self.sums.get_mut(usize::from(leaf.0)) {
            *sum = sum.with(change);
        }
    }

    /// Where the objects of a leaf lie, ascending.
    fn names(&self, staged: &Staged<'_>, leaf: Leaf) -> Result<Vec<Bytes>, EngineError> {
        let mut names = BTreeSet::new();
        let prefix = record::names_prefix(self.id, leaf);
        for row in staged.engine.scan(Space::Trees, KeyRange::prefix(&prefix)) {
            names.extend(record::named(&row?.0).map(|(_, stored)| stored));
        }
        for (space, key, value) in staged.batch.iter() {
            if space == Space::Trees && key.starts_with(&prefix) {
                let Some((_, stored)) = record::named(key) else { continue };
                match value {
                    Some(_) => names.insert(stored),
                    None => names.remove(&stored),
                };
            }
        }
        Ok(names.into_iter().collect())
    }

    /// What lies there.
    fn held_at(&self, staged: &Staged<'_>, stored: &Bytes) -> Result<Held, RequestError> {
        let sealed = match staged.get(Space::Objects, stored) {
            Ok(None) => return Ok(Held::Nothing),
            Ok(Some(sealed)) => sealed,
            Err(EngineError::Corrupt { .. }) => return Ok(Held::Damaged),
            Err(error) => return Err(error.into()),
        };
        Ok(opened(stored, &sealed).map_or(Held::Damaged, |object| Held::Object {
            hash: self.hash(stored, &object),
            bytes: sealed.len(),
        }))
    }

    /// Its rows are damaged: it says nothing before it was made anew.
    pub(super) fn doubt(&mut self) {
        tracing::error!(id = ?self.id, "the vnode's tree of hashes is damaged; it is made anew");
        (self.damaged_rows, self.doubts) = (self.damaged_rows + 1, self.doubts + 1);
        (self.sums, self.prepared) = (Vec::new(), None);
        self.rebuild_from(Some(Rebuild::Clear));
    }

    fn rebuild_from(&mut self, rebuild: Option<Rebuild>) {
        (self.rebuild, self.rebuild_moved) = (rebuild, true);
    }

    /// Whether all of it is known: else see [`Self::step`].
    pub(super) fn is_ready(&self) -> bool {
        self.rebuild.is_none() && self.sums.len() == usize::from(LEAVES)
    }

    /// What it says of everything; none while it is not ready.
    pub(super) fn root(&self) -> Option<Sum> {
        self.below(Node::ROOT)
    }

    /// The sums below a branch; none while it is not ready.
    pub(super) fn children(&self, branch: Node) -> Option<Children> {
        let mut children = [Sum::default(); FANOUT];
        for (sum, child) in children.iter_mut().zip(branch.children()) {
            *sum = self.below(child)?;
        }
        Some(children)
    }

    /// The sum of all that is below a node.
    fn below(&self, node: Node) -> Option<Sum> {
        let (Leaf(first), count) = node.leaves();
        let leaves = usize::from(first)..usize::from(first) + usize::from(count);
        self.is_ready().then(|| Sum::of(self.sums[leaves].iter().copied()))
    }

    /// The sums of some leaves, as far as they are not 0; none for damaged ones.
    fn read_sums(
        &self,
        engine: &dyn Engine,
        Leaf(first): Leaf,
        count: u16,
    ) -> Result<Vec<(Leaf, Option<Sum>)>, RequestError> {
        let row = |leaf| record::leaf_key(self.id, Leaf(leaf));
        let mut sums = Vec::new();
        for row in engine.scan(Space::Trees, KeyRange::new(row(first)..=row(first + (count - 1)))) {
            match row {
                Ok((key, sealed)) => {
                    let leaf = record::leaf_of(&key).unwrap_or(Leaf(first));
                    sums.push((leaf, decode_sum(&key, &sealed)));
                }
                Err(EngineError::Corrupt { .. }) => {
                    sums.push((Leaf(first), None));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(sums)
    }

    /// Some of what is to be done before it is ready: a batch, after which it is as if that was applied; and
    /// whether it turned out that objects were lost. Whether anything is left is told by [`Self::is_ready`].
    pub(super) fn step(&mut self, engine: &dyn Engine) -> Result<(Batch, bool), RequestError> {
        if self.doubts > DOUBTS_MAX {
            let n = self.id.partition.0;
            let reason =
                format!("the tree of partition {n} is damaged each time that it is made anew");
            return Err(RequestError::Data { reason });
        }
        let (mut batch, mut lost) = (Batch::new(), false);
        match self.rebuild.clone() {
            None => self.count(&Staged { engine, batch: &mut batch })?,
            Some(Rebuild::Clear) => lost = self.clear(engine, &mut batch)?,
            Some(Rebuild::Count(until)) => self.go_through(engine, &mut batch, until)?,
        }
        self.stage(&mut batch);
        Ok((batch, lost))
    }

    /// Some more leaves are known, as the batch leaves them.
    fn count(&mut self, staged: &Staged<'_>) -> Result<(), RequestError> {
        let first = self.sums.len() as u16;
        let count = COUNTED_AT_ONCE.min(LEAVES - first);
        if count == 0 {
            return Ok(());
        }
        let read = self.read_sums(staged.engine, Leaf(first), count)?;
        self.sums.reserve_exact(usize::from(LEAVES - first));
        self.sums.resize(usize::from(first + count), Sum::default());
        for (leaf, sum) in read {
            let Some(sum) = sum else {
                self.doubt();
                return Ok(());
            };
            self.sums[usize::from(leaf.0)] = sum;
        }
        let changed = staged.batch.iter().filter(|(space, ..)| *space == Space::Trees);
        for (_, key, value) in changed {
            let leaf = record::leaf_of(key).filter(|_| record::vnode_of(key) == Some(self.id));
            let Some(leaf) = leaf.filter(|leaf| (first..first + count).contains(&leaf.0)) else {
                continue;
            };
            let sum = value.map_or(Some(Sum::default()), |sealed| decode_sum(key, sealed));
            self.sums[usize::from(leaf.0)] = sum.expect("it was staged here");
        }
        Ok(())
    }

    /// Deletes rows; whether one of them is the last that is known of an object that was lost.
    fn clear(&mut self, engine: &dyn Engine, batch: &mut Batch) -> Result<bool, RequestError> {
        let mut lost = false;
        let mark = record::rebuild_key(self.id);
        for row in engine.scan(Space::Trees, KeyRange::prefix(&record::vnode_prefix(self.id))) {
            let key = row?.0;
            if batch.len() == REBUILT_AT_ONCE {
                return Ok(lost);
            }
            let named = record::named(&key);
            lost |= named
                .is_some_and(|(_, stored)| matches!(engine.get(Space::Objects, &stored), Ok(None)));
            if key != mark {
                batch.delete(Space::Trees, key);
            }
        }
        self.rebuild_from(Some(Rebuild::Count(Bytes::new())));
        Ok(lost)
    }

    /// Some more objects are in the tree.
    fn go_through(
        &mut self,
        engine: &dyn Engine,
        batch: &mut Batch,
        until: Bytes,
    ) -> Result<(), RequestError> {
        let range = KeyRange::prefix(&record::vnode_prefix(self.id)).after(until);
        let (mut last, mut objects, mut bytes) = (None, 0, 0);
        for row in engine.scan(Space::Objects, range) {
            if objects == REBUILT_AT_ONCE || bytes >= REBUILT_BYTES {
                break;
            }
            let (stored, sealed) = row?;
            (objects, bytes) = (objects + 1, bytes + sealed.len());
            last = Some(stored.clone());
            let Some(leaf) = place_of(&stored).map(Place::leaf) else { continue };
            self.put_name(batch, &stored);
            let object = opened(&stored, &sealed);
            let deadlines_ms = object.as_ref().map(Object::deadlines_ms).unwrap_or_default();
            deadlines_ms.iter().for_each(|ms| deadlines::put(batch, self.id, *ms, &stored));
            let after = object.map_or(0, |object| self.hash(&stored, &object));
            let Some(sum) = self.leaf(&Staged { engine, batch: &mut *batch }, leaf)? else {
                self.doubt();
                return Ok(());
            };
            self.put_leaf(batch, leaf, sum.with(Change { before: 0, after }));
        }
        if last.is_none() {
            self.doubts = 0;
        }
        self.rebuild_from(last.map(Rebuild::Count));
        Ok(())
    }

    /// Stages that it is to be made anew, if that changed. How many damaged rows were met, if that was not
    /// told yet.
    pub(super) fn stage(&mut self, batch: &mut Batch) -> u64 {
        if std::mem::take(&mut self.rebuild_moved) {
            let key = record::rebuild_key(self.id);
            match &self.rebuild {
                Some(rebuild) => {
                    let sealed = record::seal(&key, &encode_rebuild(rebuild));
                    batch.put(Space::Trees, key, sealed);
                }
                None => batch.delete(Space::Trees, key),
            }
        }
        std::mem::take(&mut self.damaged_rows)
    }

    /// What is held in a leaf, read from its records. If the leaf is not what they come to, the tree is
    /// made anew from them.
    pub(super) fn list(&mut self, engine: &dyn Engine, leaf: Leaf) -> Result<Listed, RequestError> {
        let mut listed = Listed::default();
        if !self.is_ready() {
            return Ok(listed);
        }
        let staged = Staged { engine, batch: &mut Batch::new() };
        let Some(sum) = self.leaf(&staged, leaf)? else {
            self.doubt();
            return Ok(listed);
        };
        let mut listing = Vec::new();
        let Some(names) = unless_damaged(self.names(&staged, leaf))? else {
            self.doubt();
            return Ok(listed);
        };
        for stored in names {
            let held = self.held_at(&staged, &stored)?;
            let bytes = if let Held::Object { bytes, .. } = held { bytes } else { 0 };
            listed.read = (listed.read.0 + 1, listed.read.1 + bytes);
            match (held, place_of(&stored)) {
                (Held::Object { hash: 0, .. }, _) => {}
                (Held::Object { hash, .. }, Some(place)) => listing.push((place, hash)),
                (Held::Damaged, _) => listed.damaged.push(stored),
                // Nothing is there any more, and nobody deleted it.
                (Held::Nothing, _) | (_, None) => listed.mismatch = true,
            }
        }
        let held = Sum::of(listing.iter().map(|(_, hash)| Sum(*hash)));
        listed.mismatch |= listed.damaged.is_empty() && held != sum;
        if listed.mismatch {
            self.doubt();
        } else if listed.damaged.is_empty() {
            listing.sort_unstable();
            listed.listing = Some(listing);
        }
        Ok(listed)
    }

    /// Which of some leaves have objects, or should have, and up to which one that goes: fewer, if they have
    /// many. None if it cannot be told.
    pub(super) fn occupied(
        &mut self,
        engine: &dyn Engine,
        first: Leaf,
        count: u16,
    ) -> Result<Option<(BTreeSet<Leaf>, Leaf)>, RequestError> {
        if !self.is_ready() {
            return Ok(None);
        }
        let prefix = |leaf| Bytes::copy_from_slice(&record::names_prefix(self.id, Leaf(leaf)));
        let mut last = Leaf(first.0 + (count - 1));
        let range = KeyRange::new(prefix(first.0)..prefix(last.0 + 1));
        let mut occupied = BTreeSet::new();
        for (names, row) in engine.scan(Space::Trees, range).enumerate() {
            let Some((name, _)) = unless_damaged(row)? else {
                self.doubt();
                return Ok(None);
            };
            let Some((place, _)) = record::named(&name) else { continue };
            occupied.insert(place.leaf());
            if names >= OCCUPIED_MAX {
                last = place.leaf();
                break;
            }
        }
        let has_values = |leaf: &u16| self.sums[usize::from(*leaf)] != Sum::default();
        occupied.extend((first.0..=last.0).filter(has_values).map(Leaf));
        Ok(Some((occupied, last)))
    }

    /// Where the objects at some places lie.
    pub(super) fn at(
        &self,
        engine: &dyn Engine,
        places: &[Place],
    ) -> Result<Vec<Bytes>, RequestError> {
        let mut found = Vec::with_capacity(places.len());
        for &place in places {
            let range = KeyRange::prefix(&record::place_prefix(self.id, place));
            for row in engine.scan(Space::Trees, range) {
                found.extend(record::named(&row?.0).map(|(_, stored)| stored));
            }
        }
        Ok(found)
    }
}

/// What was read; none if that is damaged.
fn unless_damaged<T>(read: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match read {
        Err(EngineError::Corrupt { .. }) => Ok(None),
        read => read.map(Some),
    }
}

fn place_of(stored: &Bytes) -> Option<Place> {
    let (_, namespace, key) = record::split_object_key(stored)?;
    Some(Place::of(namespace, &key))
}

pub(super) fn opened(stored: &Bytes, sealed: &Bytes) -> Option<Object> {
    let object = EncodedObject(record::open(stored, sealed).ok()?);
    object.decode(object.rule()?).ok()
}

fn decode_sum(key: &Bytes, sealed: &Bytes) -> Option<Sum> {
    let body = record::open(key, sealed).ok()?;
    Some(Sum(u128::from_be_bytes(body.as_ref().try_into().ok()?)))
}

fn encode_rebuild(rebuild: &Rebuild) -> Bytes {
    match rebuild {
        Rebuild::Clear => Bytes::from_static(&[0]),
        Rebuild::Count(until) => [&[1], &until[..]].concat().into(),
    }
}

fn decode_rebuild(body: Bytes) -> Option<Rebuild> {
    match body.first()? {
        0 => Some(Rebuild::Clear),
        1 => Some(Rebuild::Count(body.slice(1..))),
        _ => None,
    }
}
