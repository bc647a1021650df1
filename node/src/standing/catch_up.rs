//! Whether a store that was open before is believed: what it says of its last opening, on disk, and what
//! the other owners told since this one, in memory.
//!
//! ```text
//!   Meta  "standing-opening"     in which run of the machine the store is open, whether it was closed, and
//!                                what was in doubt
//! ```
//!
//! The row is on disk, as *not closed*, before anything is served; and as *closed* after everything else.
//! A doubt is in it until every vnode is believed: whoever is killed meanwhile begins to ask anew. A row
//! that is damaged stands for a lost tail: that costs work, and no data.
//!
//! A vnode that lost something without a trace says so in a row of its own, in the batch in which it forgets
//! what it has seen; the row goes once the vnode has met every other owner since, in the same generation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;

use crate::dynamo::encoding::{DecodeError, Reader, Writer};
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{NodeId, VnodeId};
use crate::dynamo::recall::Recall;
use crate::dynamo::standing::{Answers, Boot, Doubt, LastOpening};
use crate::storage::record;
use crate::storage::{Batch, Engine, EngineError, KeyRange, Space};

const KEY: &[u8] = b"standing-opening";
const FORMAT: u8 = 1;

/// Actors and ranges that are remembered of other owners: of a thousand partitions a few hundred each,
/// in some tens of megabytes.
const RECALL_MAX: usize = 512 << 10;

/// How far a store that was opened again is from being believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatchingUp {
    /// Why it is not.
    pub doubt: Doubt,
    /// How many partitions, of all placement groups, this node holds; 0 before it knows.
    pub vnodes: usize,
    /// How many of them do not count.
    pub left: usize,
    /// Who is waited for, and is not there; empty if all are.
    pub waiting_for: String,
}

impl fmt::Display for CatchingUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { doubt, vnodes, left, waiting_for } = self;
        let why = match doubt {
            Doubt::Unasked => "one other owner is yet to answer",
            Doubt::LostTail => "its last writes before a power cut may be missing",
            Doubt::RolledBack => "its store is older than what others remember of it",
            Doubt::Lost => "something that they held is gone without a trace",
        };
        match vnodes {
            0 if *doubt == Doubt::Lost => {
                write!(f, "some partitions do not count yet, since {why}")?
            }
            0 => write!(f, "no partition counts yet, since {why}")?,
            _ => write!(f, "{left} of {vnodes} partitions do not count yet, since {why}")?,
        }
        if waiting_for.is_empty() { Ok(()) } else { write!(f, "; waits for {waiting_for}") }
    }
}

/// Which vnodes are believed.
#[derive(Clone, Debug)]
enum Believed {
    AllBut(BTreeSet<VnodeId>),
    Only(BTreeSet<VnodeId>),
}

impl Believed {
    fn contains(&self, vnode: VnodeId) -> bool {
        match self {
            Self::AllBut(vnodes) => !vnodes.contains(&vnode),
            Self::Only(vnodes) => vnodes.contains(&vnode),
        }
    }

    fn remove(mut self, vnode: VnodeId) -> Self {
        match &mut self {
            Self::AllBut(vnodes) => drop(vnodes.insert(vnode)),
            Self::Only(vnodes) => drop(vnodes.remove(&vnode)),
        }
        self
    }
}

/// What a look at all vnodes came to.
#[derive(Default, Debug)]
pub struct Looked {
    /// Who is waited for.
    pub waits: BTreeSet<NodeId>,
    /// Which vnodes lost something, and have met every other owner since, in which generation.
    pub regained: Vec<(VnodeId, u64)>,
}

/// What is in doubt, and what is known about it.
#[derive(Debug)]
struct State {
    doubt: Option<Doubt>,
    /// What of it the row says, which was written in this opening; none: it was not.
    marked: Option<Option<Doubt>>,
    answers: BTreeMap<VnodeId, Answers>,
    /// Which vnodes lost something without a trace; and in which generation they know of it, once they were
    /// opened.
    lost: BTreeMap<VnodeId, Option<u64>>,
    /// Whether that changed since the last look.
    is_news: bool,
}

impl State {
    /// Why a vnode is not believed before others were heard.
    fn doubt_of(&self, vnode: VnodeId) -> Option<Doubt> {
        if self.lost.contains_key(&vnode) { Some(Doubt::Lost) } else { self.doubt }
    }

    /// Whom of the others a vnode is to hear.
    fn due(&self, vnode: VnodeId, others: &[NodeId]) -> Vec<NodeId> {
        let doubt = self.doubt_of(vnode);
        match self.answers.get(&vnode) {
            Some(answers) => answers.due(doubt, others),
            None => Answers::default().due(doubt, others),
        }
    }

    /// Nothing is believed, or all but what lost something.
    fn believed_at_first(&self) -> Believed {
        match self.doubt {
            Some(_) => Believed::Only(BTreeSet::new()),
            None => Believed::AllBut(self.lost.keys().copied().collect()),
        }
    }

    /// Why so many vnodes are left.
    fn why(&self, left: usize) -> Option<Doubt> {
        if left > self.lost.len() { self.doubt.or(Some(Doubt::Lost)) } else { Some(Doubt::Lost) }
    }
}

/// How a store that was open before comes to be believed.
pub(super) struct CatchUp {
    engine: Arc<dyn Engine>,
    boot: Boot,
    state: Mutex<State>,
    believed: ArcSwap<Believed>,
    told: watch::Sender<Option<CatchingUp>>,
    recall: Mutex<Recall>,
}

impl CatchUp {
    /// Reads what the store says, and says that it is open. On disk when it returns, unless there is no
    /// room: then nothing can be acknowledged from it, either, before [`Self::mark`] can. Blocks.
    pub(super) fn open(engine: Arc<dyn Engine>, boot: Boot) -> Result<Self, EngineError> {
        let doubt = Doubt::at_opening(read(&*engine)?.as_ref(), boot);
        match doubt {
            Some(Doubt::LostTail) => tracing::warn!(
                "the store was not closed before its machine was started anew: what it acknowledged last \
                 may be missing. Partitions count in quorums once they have seen what every other owner \
                 has"
            ),
            Some(Doubt::RolledBack) => tracing::warn!(
                "the store is an older copy of itself, as was found out before: partitions count in \
                 quorums once they have seen what every other owner has"
            ),
            Some(Doubt::Unasked | Doubt::Lost) | None => {}
        }
        let lost = read_lost(&*engine)?;
        if !lost.is_empty() {
            tracing::warn!(
                partitions = lost.len(),
                "something was lost without a trace before: these partitions count in quorums once they \
                 have seen what every other owner has"
            );
        }
        let (answers, is_news) = (BTreeMap::new(), !lost.is_empty());
        let state = State { doubt, marked: None, answers, lost, is_news };
        let why = doubt.filter(|doubt| *doubt != Doubt::Unasked || !state.is_news);
        let why = why.or(state.is_news.then_some(Doubt::Lost));
        let catching = |doubt| CatchingUp { doubt, vnodes: 0, left: 0, waiting_for: String::new() };
        let (told, _) = watch::channel(why.map(catching));
        let catch_up = Self {
            engine,
            boot,
            believed: ArcSwap::from_pointee(state.believed_at_first()),
            state: Mutex::new(state),
            told,
            recall: Mutex::new(Recall::new(RECALL_MAX)),
        };
        if let Err(error) = catch_up.mark() {
            tracing::warn!(%error, "the store cannot say that it is open; it tries again");
        }
        Ok(catch_up)
    }

    /// Says on disk that the store is open, and what is in doubt, unless it does already. Blocks.
    pub(super) fn mark(&self) -> Result<(), EngineError> {
        let doubt = lasting(self.state().doubt);
        if self.state().marked == Some(doubt) {
            return Ok(());
        }
        write(&*self.engine, LastOpening { boot: self.boot, closed: false, doubt })?;
        self.engine.sync()?;
        self.state().marked = Some(doubt);
        Ok(())
    }

    /// Whether it does.
    pub(super) fn is_marked(&self) -> bool {
        self.state().marked.is_some()
    }

    /// Whether nothing is in doubt, as nothing was acknowledged from the store before it was opened.
    pub(super) fn is_new(&self) -> bool {
        self.state().doubt.is_none()
    }

    /// Whether a vnode is believed.
    pub(super) fn believes(&self, vnode: VnodeId) -> bool {
        self.believed.load().contains(vnode)
    }

    /// How far it got; none once all is believed.
    pub(super) fn told(&self) -> watch::Receiver<Option<CatchingUp>> {
        self.told.subscribe()
    }

    /// Whom of the others a vnode is to hear before it is believed; nobody: it is.
    pub(super) fn due(&self, vnode: VnodeId, others: &[NodeId]) -> Vec<NodeId> {
        self.state().due(vnode, others)
    }

    /// Whether an owner said what it remembers of this vnode, and that is settled.
    pub(super) fn is_remembered(&self, vnode: VnodeId, owner: NodeId) -> bool {
        self.state().answers.get(&vnode).is_some_and(|answers| answers.is_remembered(owner))
    }

    pub(super) fn on_remembered(&self, vnode: VnodeId, owner: NodeId) {
        self.state().answers.entry(vnode).or_default().on_remembered(owner);
    }

    pub(super) fn on_met(&self, vnode: VnodeId, owner: NodeId, generation: u64) {
        let mut state = self.state();
        // What was seen before the loss may be what was lost.
        let since = state.lost.get(&vnode).is_none_or(|lost| *lost == Some(generation));
        if since || planted!("met_before_the_loss") {
            state.answers.entry(vnode).or_default().on_met(owner);
        }
    }

    /// A vnode lost something, as it knows since this generation.
    pub(super) fn on_lost(&self, vnode: VnodeId, generation: u64) {
        let mut state = self.state();
        if state.lost.insert(vnode, Some(generation)) == Some(Some(generation)) {
            return;
        }
        state.is_news = true;
        state.answers.entry(vnode).or_default().on_lost();
        self.believed.rcu(|believed| Believed::clone(believed).remove(vnode));
        self.told.send_if_modified(|told| {
            let why = Doubt::Lost;
            told.get_or_insert(CatchingUp {
                doubt: why,
                vnodes: 0,
                left: 0,
                waiting_for: String::new(),
            });
            true
        });
    }

    /// It has met every other owner since, and the row that says so is gone.
    pub(super) fn on_regained(&self, vnode: VnodeId, generation: u64) {
        let mut state = self.state();
        if state.lost.get(&vnode) == Some(&Some(generation)) {
            state.lost.remove(&vnode);
            state.is_news = true;
        }
    }

    /// Whether a vnode lost something, and has not met every other owner since.
    pub(super) fn is_lost(&self, vnode: VnodeId) -> bool {
        self.state().lost.contains_key(&vnode)
    }

    /// Whether that changed, of any, since the last look.
    pub(super) fn is_news(&self) -> bool {
        self.state().is_news
    }

    /// Another owner remembers more of the store than it holds: believes nothing that has not seen what
    /// all others have. On disk when it returns. Blocks.
    pub(super) fn rolled_back(&self) -> Result<(), EngineError> {
        planted!("rolled_back_store_believed", { return Ok(()) });
        {
            let mut state = self.state();
            if state.doubt.replace(Doubt::RolledBack) != Some(Doubt::RolledBack) {
                tracing::warn!(
                    "another owner remembers more of this store than it holds: it is an older copy of \
                     itself. Partitions count in quorums once they have seen what every other owner has"
                );
                // Until it is looked who may be: see `look`.
                self.believed.store(Arc::new(Believed::Only(BTreeSet::new())));
            }
        }
        self.mark()
    }

    /// Looks which of all vnodes of this node are believed, each with its other owners that are waited
    /// for; whom the rest waits for. Nothing is in doubt any more when there is no rest. Blocks.
    pub(super) fn look(&self, owned: &[(VnodeId, Vec<NodeId>)]) -> Result<Looked, EngineError> {
        let (mut believed, mut looked) = (BTreeSet::new(), Looked::default());
        let (doubt, why) = {
            let mut state = self.state();
            state.is_news = false;
            if state.doubt.is_none() && state.lost.is_empty() {
                self.believed.store(Arc::new(state.believed_at_first()));
                self.tell(None);
                return Ok(looked);
            }
            for (vnode, others) in owned {
                let due = state.due(*vnode, others);
                match (due.is_empty(), state.lost.get(vnode)) {
                    (true, None) => drop(believed.insert(*vnode)),
                    (true, Some(lost)) => {
                        looked.regained.extend(lost.map(|generation| (*vnode, generation)));
                    }
                    (false, _) => looked.waits.extend(due),
                }
            }
            // A new store's vnodes are believed also where another placement group is yet to come.
            self.believed.store(Arc::new(match state.doubt {
                Some(_) => Believed::Only(believed.clone()),
                None => state.believed_at_first(),
            }));
            (state.doubt, state.why(owned.len() - believed.len()))
        };
        let (vnodes, left) = (owned.len(), owned.len() - believed.len());
        if let Some(doubt) = lasting(doubt).filter(|_| left == 0) {
            self.end_doubt(doubt)?;
        }
        self.tell(why.filter(|_| left > 0).map(|why| (why, vnodes, left)));
        Ok(looked)
    }

    /// Tells why so many of all vnodes are not believed, if any are.
    fn tell(&self, now: Option<(Doubt, usize, usize)>) {
        self.told.send_if_modified(|told| {
            let waiting_for = told.as_ref().map(|told| told.waiting_for.clone());
            let waiting_for = waiting_for.unwrap_or_default();
            let now =
                now.map(|(doubt, vnodes, left)| CatchingUp { doubt, vnodes, left, waiting_for });
            let changed = *told != now;
            *told = now;
            changed
        });
    }

    /// Tells who is waited for in vain.
    pub(super) fn tell_waiting_for(&self, names: &str) {
        self.told.send_if_modified(|told| match told {
            Some(told) if told.waiting_for != names => {
                names.clone_into(&mut told.waiting_for);
                true
            }
            _ => false,
        });
    }

    /// Every vnode is believed: what they have seen is in the store before the row, and so on disk before
    /// it. From now on it is what it would be after another opening: a vnode that is still to come, of a
    /// placement group that is made later, asks one other owner.
    fn end_doubt(&self, doubt: Doubt) -> Result<(), EngineError> {
        write(&*self.engine, LastOpening { boot: self.boot, closed: false, doubt: None })?;
        let mut state = self.state();
        assert_eq!(state.doubt, Some(doubt), "one task looks, and finds out more");
        (state.doubt, state.marked) = (Some(Doubt::Unasked), Some(None));
        tracing::info!("this node has seen what the other owners have: its answers count");
        Ok(())
    }

    /// Everything that was acknowledged is applied, and nothing will be any more: it is on disk when this
    /// returns, and the store says so. Blocks.
    pub(super) fn close(&self) -> Result<(), EngineError> {
        self.engine.sync()?;
        let doubt = lasting(self.state().doubt);
        write(&*self.engine, LastOpening { boot: self.boot, closed: true, doubt })?;
        self.engine.sync()
    }

    /// What another owner told of itself: see [`Recall`].
    pub(super) fn recall(&self) -> MutexGuard<'_, Recall> {
        self.recall.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node remembers of what `owner` told it.
    pub(super) fn remembered(&self, vnode: VnodeId, owner: NodeId) -> Option<Frontier> {
        self.recall().of(vnode, owner).cloned()
    }
}

/// What is in doubt also after another opening; the rest follows from that one.
fn lasting(doubt: Option<Doubt>) -> Option<Doubt> {
    doubt.filter(|doubt| *doubt != Doubt::Unasked)
}

fn read(engine: &dyn Engine) -> Result<Option<LastOpening>, EngineError> {
    let damaged = LastOpening { boot: Boot(0), closed: true, doubt: Some(Doubt::LostTail) };
    match engine.get(Space::Meta, KEY) {
        Ok(row) => Ok(row.map(|sealed| {
            let body = record::open(KEY, &sealed).ok();
            body.and_then(|body| decode(body).ok()).unwrap_or(damaged)
        })),
        Err(EngineError::Corrupt { .. }) => Ok(Some(damaged)),
        Err(error) => Err(error),
    }
}

/// Which vnodes say that they lost something. What a damaged row says is in its key.
fn read_lost(engine: &dyn Engine) -> Result<BTreeMap<VnodeId, Option<u64>>, EngineError> {
    let mut lost = BTreeMap::new();
    planted!("loss_forgotten_by_a_restart", { return Ok(lost) });
    for row in engine.scan(Space::Meta, KeyRange::prefix(record::LOST)) {
        lost.extend(record::lost_of(&row?.0).map(|vnode| (vnode, None)));
    }
    Ok(lost)
}

fn write(engine: &dyn Engine, opening: LastOpening) -> Result<(), EngineError> {
    let mut batch = Batch::new();
    batch.put(Space::Meta, Bytes::from_static(KEY), record::seal(KEY, &encode(opening)));
    engine.apply(batch)
}

fn encode(opening: LastOpening) -> Bytes {
    let LastOpening { boot, closed, doubt } = opening;
    let mut w = Writer::new();
    w.u8(FORMAT);
    w.u64(boot.0);
    w.u8(u8::from(closed));
    w.u8(doubt.map_or(0, |doubt| doubt as u8 + 1));
    w.finish()
}

fn decode(body: Bytes) -> Result<LastOpening, DecodeError> {
    let mut r = Reader::new(body);
    r.format(FORMAT, "opening")?;
    let boot = Boot(r.u64("run of the machine")?);
    let closed = r.u8("closed")? == 1;
    let doubt = r.u8("doubt")?;
    r.finish("opening")?;
    // One that is not known is as good as none that could be believed.
    let known = |at| *Doubt::OF_STORES.get(at).unwrap_or(&Doubt::RolledBack);
    let doubt = usize::from(doubt).checked_sub(1).map(known);
    Ok(LastOpening { boot, closed, doubt })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamo::key::PartitionId;
    use crate::storage::memory::MemoryEngine;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    const ONE: VnodeId = VnodeId { n: 3, partition: PartitionId(1) };
    const TWO: VnodeId = VnodeId { n: 3, partition: PartitionId(2) };
    const OTHERS: [NodeId; 2] = [NodeId(2), NodeId(3)];

    fn owned() -> [(VnodeId, Vec<NodeId>); 2] {
        [ONE, TWO].map(|vnode| (vnode, OTHERS.to_vec()))
    }

    fn open(engine: &Arc<MemoryEngine>, boot: u64) -> CatchUp {
        CatchUp::open(engine.clone(), Boot(boot)).unwrap()
    }

    fn doubt(catch_up: &CatchUp) -> Option<Doubt> {
        catch_up.state().doubt
    }

    fn cut(engine: &MemoryEngine) -> Arc<MemoryEngine> {
        Arc::new(engine.crash(&mut ChaCha8Rng::seed_from_u64(1)))
    }

    #[test]
    fn a_new_store_is_believed_at_once_and_one_that_was_open_once_it_was_asked_about() {
        let engine = Arc::new(MemoryEngine::new());
        let first = open(&engine, 1);
        assert!(first.believes(ONE) && first.told().borrow().is_none());

        let killed = Arc::new(engine.kill());
        let again = open(&killed, 1);
        assert_eq!((doubt(&again), again.believes(ONE)), (Some(Doubt::Unasked), false));
        again.on_remembered(ONE, NodeId(3));
        assert_eq!(again.look(&owned()).unwrap().waits, OTHERS.into(), "the other vnode waits");
        assert_eq!((again.believes(ONE), again.believes(TWO)), (true, false));
        assert_eq!(
            again.told().borrow().as_ref().map(|told| (told.left, told.vnodes)),
            Some((1, 2))
        );
        again.on_remembered(TWO, NodeId(2));
        assert_eq!(again.look(&owned()).unwrap().waits, BTreeSet::new());
        assert!(again.believes(TWO) && again.told().borrow().is_none());
    }

    #[test]
    fn a_power_cut_is_in_doubt_until_all_have_met_all_and_a_kill_changes_nothing() {
        let engine = Arc::new(MemoryEngine::new());
        drop(open(&engine, 1));
        let engine = cut(&engine);
        let second = open(&engine, 2);
        assert_eq!(doubt(&second), Some(Doubt::LostTail), "it was on disk that it was open");
        OTHERS.into_iter().for_each(|owner| second.on_met(ONE, owner, 1));
        second.on_met(TWO, NodeId(2), 1);
        assert_eq!(second.look(&owned()).unwrap().waits, [NodeId(3)].into());
        assert_eq!((second.believes(ONE), second.believes(TWO)), (true, false));

        // Killed, and cut off from power, in the middle of it.
        let engine = Arc::new(engine.kill());
        assert_eq!(
            doubt(&open(&engine, 2)),
            Some(Doubt::LostTail),
            "in the same run of the machine"
        );
        let engine = cut(&engine);
        let third = open(&engine, 3);
        assert!(!third.believes(ONE));
        for vnode in [ONE, TWO] {
            OTHERS.into_iter().for_each(|owner| third.on_met(vnode, owner, 1));
        }
        assert_eq!(third.look(&owned()).unwrap().waits, BTreeSet::new());
        assert!(third.believes(ONE) && third.believes(TWO));
        let engine = Arc::new(engine.kill());
        assert_eq!(doubt(&open(&engine, 3)), Some(Doubt::Unasked));
    }

    #[test]
    fn what_was_closed_is_whole_unless_it_is_opened_and_cut_off_at_once() {
        let engine = Arc::new(MemoryEngine::new());
        open(&engine, 1).close().unwrap();
        let engine = cut(&engine);
        assert_eq!(doubt(&open(&engine, 2)), Some(Doubt::Unasked), "it was closed");
        let engine = cut(&engine);
        let third = open(&engine, 3);
        assert_eq!(doubt(&third), Some(Doubt::LostTail), "nobody closed it a second time");
        third.close().unwrap();
        let engine = cut(&engine);
        assert_eq!(doubt(&open(&engine, 4)), Some(Doubt::LostTail), "to close it mends nothing");
    }

    #[test]
    fn a_store_that_others_remember_more_of_stays_in_doubt() {
        let engine = Arc::new(MemoryEngine::new());
        let new = open(&engine, 1);
        new.rolled_back().unwrap();
        assert!(!new.believes(ONE));
        new.on_remembered(ONE, NodeId(2));
        assert_eq!(new.due(ONE, &OTHERS), OTHERS, "whoever remembers less does not matter");
        let engine = cut(&engine);
        assert_eq!(doubt(&open(&engine, 2)), Some(Doubt::RolledBack), "it was on disk at once");
    }

    fn say(engine: &MemoryEngine, vnode: VnodeId) {
        let key = record::lost_key(vnode);
        let mut batch = Batch::new();
        let sealed = record::seal(&key, &[]);
        batch.put(Space::Meta, key, sealed);
        engine.apply(batch).unwrap();
    }

    #[test]
    fn a_vnode_that_lost_something_is_not_believed_before_it_met_all_others_since() {
        let engine = Arc::new(MemoryEngine::new());
        let new = open(&engine, 1);
        OTHERS.into_iter().for_each(|owner| new.on_met(ONE, owner, 1));
        new.on_lost(ONE, 2);
        assert!(new.is_news() && !new.believes(ONE) && new.believes(TWO));
        let told = || new.told().borrow().clone().map(|told| (told.doubt, told.left, told.vnodes));
        assert_eq!(told(), Some((Doubt::Lost, 0, 0)), "before it was looked how many there are");
        new.on_met(ONE, NodeId(2), 1);
        assert_eq!(new.look(&owned()).unwrap().waits, OTHERS.into(), "that was before the loss");
        assert_eq!((told(), new.is_news()), (Some((Doubt::Lost, 1, 2)), false));
        OTHERS.into_iter().for_each(|owner| new.on_met(ONE, owner, 2));
        let looked = new.look(&owned()).unwrap();
        assert_eq!((looked.waits, looked.regained), (BTreeSet::new(), vec![(ONE, 2)]));
        assert!(!new.believes(ONE), "its row is still there");
        new.on_regained(ONE, 1);
        assert!(new.is_lost(ONE), "it lost something else meanwhile");
        new.on_regained(ONE, 2);
        assert!(new.is_news() && new.look(&owned()).unwrap().regained.is_empty());
        assert!(new.believes(ONE) && told().is_none());
    }

    #[test]
    fn what_was_lost_is_known_after_a_restart_and_of_a_generation_once_the_vnode_is_open() {
        let engine = Arc::new(MemoryEngine::new());
        open(&engine, 1).close().unwrap();
        say(&engine, ONE);
        let again = open(&engine, 1);
        let doubt = again.told().borrow().as_ref().map(|told| told.doubt);
        assert_eq!((doubt, again.is_news()), (Some(Doubt::Lost), true));
        [ONE, TWO].into_iter().for_each(|vnode| again.on_remembered(vnode, NodeId(2)));
        OTHERS.into_iter().for_each(|owner| again.on_met(ONE, owner, 5));
        assert_eq!(again.look(&owned()).unwrap().waits, OTHERS.into(), "of which generation?");
        assert_eq!((again.believes(ONE), again.believes(TWO)), (false, true));
        again.on_lost(ONE, 5);
        OTHERS.into_iter().for_each(|owner| again.on_met(ONE, owner, 5));
        assert_eq!(again.look(&owned()).unwrap().regained, [(ONE, 5)]);
    }

    #[test]
    fn rows_are_these_bytes_in_format_1() {
        let opening =
            |closed, doubt| LastOpening { boot: Boot(0x0102_0304_0506_0708), closed, doubt };
        let boot = [8, 7, 6, 5, 4, 3, 2, 1];
        for (closed, doubt, expected) in [
            (false, None, [0, 0]),
            (true, Some(Doubt::Unasked), [1, 1]),
            (false, Some(Doubt::LostTail), [0, 2]),
            (true, Some(Doubt::RolledBack), [1, 3]),
        ] {
            let row = encode(opening(closed, doubt));
            assert_eq!(row, [&[1], &boot[..], &expected].concat());
            assert_eq!(decode(row), Ok(opening(closed, doubt)));
        }
    }

    #[test]
    fn a_damaged_row_is_a_lost_tail() {
        let engine = Arc::new(MemoryEngine::new());
        open(&engine, 1).close().unwrap();
        assert!(engine.rot(Space::Meta, KEY).unwrap());
        assert_eq!(doubt(&open(&engine, 1)), Some(Doubt::LostTail));
    }

    #[test]
    fn a_full_disk_is_no_reason_not_to_read() {
        let engine = Arc::new(MemoryEngine::new());
        open(&engine, 1).close().unwrap();
        engine.set_full(true);
        assert_eq!(doubt(&open(&engine, 1)), Some(Doubt::Unasked));
        let engine = Arc::new(MemoryEngine::new());
        engine.fill_next_apply(true);
        let open = open(&engine, 1);
        assert!(!open.is_marked() && engine.get(Space::Meta, KEY).unwrap().is_none());
        open.mark().unwrap();
        assert!(open.is_marked() && engine.get_durable(Space::Meta, KEY).unwrap().is_some());
    }
}
