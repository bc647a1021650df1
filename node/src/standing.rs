//! What a node knows of its own standing, on disk and for its requests.
//!
//! ```text
//!   Meta  "standing"                       this store is being rebuilt
//!   Meta  "standing/" n partition          of this vnode: which owners told all, and whether that
//!                                          is enough
//!   Meta  "standing-lost/" n partition     this vnode lost something without a trace (see `vnode::seen`)
//! ```
//!
//! A row is written after the objects that it speaks of; the engine keeps batches in order, so that
//! after a crash no row vouches for objects that are gone. A damaged row counts as none, and a
//! damaged mark as a mark: both cost work, neither costs data. The marks end with the last vnode.

mod catch_up;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::watch;

use self::catch_up::CatchUp;
pub use self::catch_up::{CatchingUp, Looked};
use crate::dynamo::encoding::{DecodeError, Reader, Writer};
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{NodeId, VnodeId};
use crate::dynamo::standing::{Boot, Standing};
use crate::storage::record;
use crate::storage::{Batch, Engine, EngineError, KeyRange, Space};

const MARK: &[u8] = b"standing";
const ROWS: &[u8] = b"standing/";
const FORMAT: u8 = 1;

/// How far the rebuilding of a store has got.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Progress {
    /// How many partitions, of all placement groups, this node holds; 0 before it knows.
    pub vnodes: usize,
    /// How many of them are complete.
    pub complete: usize,
    /// How many objects were received since the node was started.
    pub objects: u64,
    /// What it waits for; empty while it works.
    pub waiting_for: String,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vnodes, complete, objects, waiting_for } = self;
        write!(f, "{complete} of {vnodes} partitions complete, {objects} objects received")?;
        if waiting_for.is_empty() { Ok(()) } else { write!(f, "; waits for {waiting_for}") }
    }
}

/// What is known of one vnode of a store that is being rebuilt.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Heard {
    /// The owners that told all they hold.
    pub told: BTreeSet<NodeId>,
    /// Whether that is enough: the vnode has standing.
    pub complete: bool,
}

/// A node's standing.
pub struct Standings {
    engine: Arc<dyn Engine>,
    /// Whether any vnode may lack standing: what requests look at first, and mostly alone.
    doubted: AtomicBool,
    vnodes: RwLock<BTreeMap<VnodeId, Heard>>,
    progress: watch::Sender<Option<Progress>>,
    catch_up: CatchUp,
}

impl Standings {
    /// Reads what the store says, and marks it as open in this run of the machine; on disk when it
    /// returns. Blocks.
    pub fn open(engine: Arc<dyn Engine>, boot: Boot) -> Result<Self, EngineError> {
        let catch_up = CatchUp::open(engine.clone(), boot)?;
        let doubted = engine.get(Space::Meta, MARK)?.is_some();
        let mut vnodes = BTreeMap::new();
        for row in engine.scan(Space::Meta, KeyRange::prefix(ROWS)) {
            let (key, sealed) = row?;
            let vnode = key.get(ROWS.len()..).and_then(record::vnode_of);
            let body = record::open(&key, &sealed).ok();
            match (vnode, body.and_then(|body| decode(body).ok())) {
                (Some(vnode), Some(heard)) => drop(vnodes.insert(vnode, heard)),
                _ => tracing::warn!("a vnode's progress is damaged; it is refilled again"),
            }
        }
        let (progress, _) = watch::channel(doubted.then(Progress::default));
        let (doubted, vnodes) = (AtomicBool::new(doubted), RwLock::new(vnodes));
        Ok(Self { engine, doubted, vnodes, progress, catch_up })
    }

    /// Whether this node's silence about a key of `vnode` may be believed. Ask before reading.
    pub fn of(&self, vnode: VnodeId) -> Standing {
        if self.is_rebuilding() && !self.is_complete(vnode) {
            return Standing::Rebuilding;
        }
        match self.catch_up.believes(vnode) {
            true => Standing::Good,
            false => Standing::CatchingUp,
        }
    }

    fn is_complete(&self, vnode: VnodeId) -> bool {
        let vnodes = self.vnodes.read().unwrap_or_else(PoisonError::into_inner);
        vnodes.get(&vnode).is_some_and(|heard| heard.complete)
    }

    /// Whether the store is being rebuilt.
    pub fn is_rebuilding(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    /// What is known of a vnode.
    pub fn heard(&self, vnode: VnodeId) -> Heard {
        let vnodes = self.vnodes.read().unwrap_or_else(PoisonError::into_inner);
        vnodes.get(&vnode).cloned().unwrap_or_default()
    }

    /// How far the rebuilding has got; none when the store is whole.
    pub fn progress(&self) -> watch::Receiver<Option<Progress>> {
        self.progress.subscribe()
    }

    /// Tells how far it has got, while it is rebuilding.
    pub fn tell(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_if_modified(|progress| {
            let Some(now) = progress else { return false };
            let before = now.clone();
            change(now);
            *now != before
        });
    }

    /// From now on nothing has standing: the store is new, and another one was there before it. On
    /// disk when it returns. Blocks.
    pub fn begin(&self) -> Result<(), EngineError> {
        self.engine.clear(Space::Meta, ROWS)?;
        mark(&*self.engine)?;
        self.doubted.store(true, Ordering::Release);
        self.progress.send_if_modified(|progress| {
            let new = progress.is_none();
            progress.get_or_insert_default();
            new
        });
        Ok(())
    }

    /// Keeps what is known of a vnode now. Blocks.
    pub fn keep(&self, vnode: VnodeId, heard: Heard) -> Result<(), EngineError> {
        let key = [ROWS, &record::vnode_prefix(vnode)].concat();
        let mut batch = Batch::new();
        let sealed = record::seal(&key, &encode(&heard));
        batch.put(Space::Meta, Bytes::from(key), sealed);
        self.engine.apply(batch)?;
        self.vnodes.write().unwrap_or_else(PoisonError::into_inner).insert(vnode, heard);
        Ok(())
    }

    /// How far a store that was opened again is from being believed; none when it is.
    pub fn catching_up(&self) -> watch::Receiver<Option<CatchingUp>> {
        self.catch_up.told()
    }

    /// Whether the store says on disk that it is open: it could not, if there was no room.
    pub fn is_marked(&self) -> bool {
        self.catch_up.is_marked()
    }

    /// Says so. Blocks.
    pub fn mark(&self) -> Result<(), EngineError> {
        self.catch_up.mark()
    }

    /// Whether the store is new since this opening.
    pub fn is_new(&self) -> bool {
        self.catch_up.is_new()
    }

    /// Whether a vnode of a store that was opened again is believed.
    pub fn believes(&self, vnode: VnodeId) -> bool {
        self.catch_up.believes(vnode)
    }

    /// Whom of the `others`, its other owners that are waited for, a vnode is to hear since the store
    /// was opened again; nobody: it is believed.
    pub fn due(&self, vnode: VnodeId, others: &[NodeId]) -> Vec<NodeId> {
        self.catch_up.due(vnode, others)
    }

    /// All that an owner had seen, at a moment after the opening, is seen here, by a vnode of this
    /// generation.
    pub fn on_met(&self, vnode: VnodeId, owner: NodeId, generation: u64) {
        self.catch_up.on_met(vnode, owner, generation);
    }

    /// A vnode lost something without a trace, as it says on disk; it says so again whenever its generation
    /// changes. It is not believed from now on.
    pub fn on_lost(&self, vnode: VnodeId, generation: u64) {
        self.catch_up.on_lost(vnode, generation);
    }

    /// It has met every other owner since, and has unsaid it.
    pub fn on_regained(&self, vnode: VnodeId, generation: u64) {
        self.catch_up.on_regained(vnode, generation);
    }

    /// Whether a vnode lost something, and has not met every other owner since.
    pub fn is_lost(&self, vnode: VnodeId) -> bool {
        self.catch_up.is_lost(vnode)
    }

    /// Whether it is to be [looked](Self::look), since a vnode was lost or regained.
    pub fn is_news(&self) -> bool {
        self.catch_up.is_news()
    }

    /// An owner said what it remembers of a vnode, and it is here, or [`Self::rolled_back`] was told.
    pub fn on_remembered(&self, vnode: VnodeId, owner: NodeId) {
        self.catch_up.on_remembered(vnode, owner);
    }

    /// Whether it did, since the store was opened.
    pub fn is_remembered(&self, vnode: VnodeId, owner: NodeId) -> bool {
        self.catch_up.is_remembered(vnode, owner)
    }

    /// Another owner remembers more of this store than it holds. On disk when it returns. Blocks.
    pub fn rolled_back(&self) -> Result<(), EngineError> {
        self.catch_up.rolled_back()
    }

    /// Looks which of this node's vnodes are believed, each with its other owners that are waited for;
    /// whom the rest waits for. Blocks.
    pub fn look(&self, owned: &[(VnodeId, Vec<NodeId>)]) -> Result<Looked, EngineError> {
        self.catch_up.look(owned)
    }

    /// Tells who is waited for and is not there.
    pub fn tell_waiting_for(&self, names: &str) {
        self.catch_up.tell_waiting_for(names);
    }

    /// Remembers what another owner says that it has seen, and whether it settled what it said before.
    pub fn remember(&self, vnode: VnodeId, owner: NodeId, seen: &Frontier, settled: bool) {
        self.catch_up.recall().on_told(vnode, owner, seen, settled);
    }

    /// What is remembered of that.
    pub fn remembered(&self, vnode: VnodeId, owner: NodeId) -> Option<Frontier> {
        self.catch_up.remembered(vnode, owner)
    }

    /// All that was acknowledged is applied, and nothing will be any more: puts it on disk, and says so
    /// there. Blocks.
    pub fn close(&self) -> Result<(), EngineError> {
        self.catch_up.close()
    }

    /// Every vnode has standing: forgets that the store was rebuilt. Blocks.
    pub fn end(&self) -> Result<(), EngineError> {
        // First what they spoke of; the mark ends when that is on disk, and the rows after it.
        self.engine.sync()?;
        let mut batch = Batch::new();
        batch.delete(Space::Meta, Bytes::from_static(MARK));
        self.engine.apply(batch)?;
        self.engine.sync()?;
        self.doubted.store(false, Ordering::Release);
        self.progress.send_replace(None);
        self.engine.clear(Space::Meta, ROWS)
    }
}

/// Marks a store as one to be rebuilt; on disk when it returns.
pub fn mark(engine: &dyn Engine) -> Result<(), EngineError> {
    let mut batch = Batch::new();
    batch.put(Space::Meta, Bytes::from_static(MARK), record::seal(MARK, &[FORMAT]));
    engine.apply(batch)?;
    engine.sync()
}

fn encode(heard: &Heard) -> Bytes {
    let mut w = Writer::new();
    w.u8(FORMAT);
    w.u8(u8::from(heard.complete));
    w.u8(u8::try_from(heard.told.len()).expect("a partition has at most 255 owners"));
    heard.told.iter().for_each(|node| w.u64(node.0));
    w.finish()
}

fn decode(body: Bytes) -> Result<Heard, DecodeError> {
    let mut r = Reader::new(body);
    r.format(FORMAT, "standing")?;
    let complete = r.u8("complete")? == 1;
    let told =
        (0..r.u8("owners")?).map(|_| r.u64("owner").map(NodeId)).collect::<Result<_, _>>()?;
    r.finish("standing")?;
    Ok(Heard { told, complete })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamo::key::PartitionId;
    use crate::storage::memory::MemoryEngine;

    const ONE: VnodeId = VnodeId { n: 3, partition: PartitionId(1) };
    const TWO: VnodeId = VnodeId { n: 3, partition: PartitionId(2) };

    fn heard(told: &[u64], complete: bool) -> Heard {
        Heard { told: told.iter().copied().map(NodeId).collect(), complete }
    }

    #[test]
    fn a_store_is_believed_unless_it_says_otherwise_and_after_it_was_refilled() {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let standings = Standings::open(engine.clone(), Boot(1)).unwrap();
        assert_eq!(
            (standings.of(ONE), standings.progress().borrow().clone()),
            (Standing::Good, None)
        );

        standings.begin().unwrap();
        assert_eq!(standings.of(ONE), Standing::Rebuilding);
        standings.keep(ONE, heard(&[2], false)).unwrap();
        assert_eq!(standings.of(ONE), Standing::Rebuilding, "one owner is not enough");
        standings.keep(ONE, heard(&[2, 3], true)).unwrap();
        assert_eq!((standings.of(ONE), standings.of(TWO)), (Standing::Good, Standing::Rebuilding));
        standings.tell(|progress| progress.complete = 1);
        assert_eq!(standings.progress().borrow().as_ref().map(|p| p.complete), Some(1));

        // A restart goes on where it was.
        let again = Standings::open(engine.clone(), Boot(1)).unwrap();
        assert_eq!((again.of(ONE), again.of(TWO)), (Standing::CatchingUp, Standing::Rebuilding));
        assert_eq!(again.heard(ONE), heard(&[2, 3], true));
        let others = [NodeId(2), NodeId(3)].to_vec();
        [ONE, TWO].into_iter().for_each(|vnode| again.on_remembered(vnode, NodeId(2)));
        again.look(&[(ONE, others.clone()), (TWO, others)]).unwrap();
        assert_eq!((again.of(ONE), again.of(TWO)), (Standing::Good, Standing::Rebuilding));

        again.end().unwrap();
        assert_eq!((again.of(TWO), again.progress().borrow().clone()), (Standing::Good, None));
        let whole = Standings::open(engine.clone(), Boot(1)).unwrap();
        assert_eq!((whole.of(ONE), whole.is_rebuilding()), (Standing::CatchingUp, false));
        assert_eq!(engine.scan(Space::Meta, KeyRange::all()).count(), 1, "that it is open");
    }

    #[test]
    fn damage_costs_work_and_no_data() {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let standings = Standings::open(engine.clone(), Boot(1)).unwrap();
        standings.begin().unwrap();
        standings.keep(ONE, heard(&[2, 3], true)).unwrap();
        for row in engine.scan(Space::Meta, KeyRange::all()) {
            let (key, mut sealed) = row.map(|(key, sealed)| (key, sealed.to_vec())).unwrap();
            sealed[1] ^= 1;
            let mut rot = Batch::new();
            rot.put(Space::Meta, key, sealed);
            engine.apply(rot).unwrap();
        }
        let again = Standings::open(engine, Boot(1)).unwrap();
        assert_eq!(again.of(ONE), Standing::Rebuilding);
        assert_eq!(again.heard(ONE), Heard::default());
    }
}
