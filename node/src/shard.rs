//! A shard owns its vnodes alone and commits in groups.
//!
//! ```text
//!   requests ──► bounded queue ──► turn: drain ► stage in one batch ► apply ► (sync) ► answer
//! ```
//!
//! Whatever has queued up while one batch was being applied becomes the next: that is the group
//! commit, with no timer and no lock. A full queue refuses at once, so that overload is an answer and
//! not a delay. Each shard has a thread of its own in production and is a task in simulation.
//!
//! Invariant: nothing is answered before the batch that holds it was applied; what was asked to be
//! on disk, not before it was synced. After a batch failed, every request of its turn hears so, and
//! the vnodes it touched are forgotten: they open again under new actors.
//!
//! A batch of a client's is one job for each shard (`batch`): it is staged in one turn, in its
//! order, and answered as a whole, so that what a job costs is paid once for all of its keys.

mod batch;
mod exchange;
mod hints;
mod home;
mod look_up;
mod page;
mod purge;
mod queue;
mod sweep;
mod trees;

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::exchange::ExchangeJob;
pub use self::exchange::{Forgettable, Sight};
use self::hints::HintJob;
pub use self::page::{Page, PageRange};
pub use self::purge::PurgeUntil;
use self::queue::{Queued, ShardQueue};
pub use self::sweep::LiveNamespaces;
use self::sweep::{Kept, Swept};
use self::trees::TreeJob;
pub use self::trees::{Leaves, Scrubbed};
use crate::clocks::{Clocks, Others};
use crate::dynamo::arrival::Arrival;
use crate::dynamo::clock::Hlc;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{KeyHash, NodeId, PartitionId, VnodeId};
use crate::dynamo::operation::{Admitting, Opening, OperationId};
use crate::dynamo::resolve::LookedUp;
use crate::env::{Blocking, Env};
use crate::error::{RequestError, WriteError};
use crate::limits::budget::{Budget, Kind};
use crate::standing::Standings;
use crate::storage::disk::Disk;
use crate::storage::hints::Place;
use crate::storage::{Batch, Engine, EngineError, Space};
use crate::vnode::look_up::Inquiry;
use crate::vnode::{
    Address, HashKey, HintQueues, HintVnode, Hinted, Mended, Merge, Purged, StagedBeside, Turn,
    Vnode, Write, Written,
};

/// The most requests of one turn, keys of batches counted: bounds the engine's batch, and what a
/// failed one takes with it. Only a single job may be larger.
const TURN_MAX: usize = 256;

/// A turn ends once it has staged so many bytes: a few bytes written to a key with many siblings
/// write all of them again.
const TURN_BYTES: usize = 32 << 20;

enum Job {
    Write {
        write: Write,
        synced: bool,
        answer: oneshot::Sender<Result<Written, WriteError>>,
    },
    Merge {
        merge: Merge,
        synced: bool,
        answer: oneshot::Sender<Result<(), RequestError>>,
    },
    Read {
        address: Address,
        answer: oneshot::Sender<Result<EncodedObject, RequestError>>,
    },
    WriteBatch {
        writes: Vec<Write>,
        synced: bool,
        answer: oneshot::Sender<Vec<Result<Written, WriteError>>>,
    },
    MergeBatch {
        merges: Vec<Merge>,
        synced: bool,
        answer: oneshot::Sender<Vec<Result<(), RequestError>>>,
    },
    ReadBatch {
        addresses: Vec<Address>,
        answer: oneshot::Sender<Vec<Result<EncodedObject, RequestError>>>,
    },
    LookUp {
        asked: Inquiry,
        answer: oneshot::Sender<Result<LookedUp, RequestError>>,
    },
    Hints(HintJob),
    Exchange(ExchangeJob),
    Trees(TreeJob),
    Page {
        range: PageRange,
        answer: oneshot::Sender<Result<Page, RequestError>>,
    },
    Purge {
        due: Vec<PurgeUntil>,
        answer: oneshot::Sender<Result<Purged, RequestError>>,
    },
    Sweep {
        kept: Arc<Kept>,
        after: Bytes,
        answer: oneshot::Sender<Result<Swept, RequestError>>,
    },
}

impl Job {
    /// How many requests it is.
    fn requests(&self) -> usize {
        match self {
            Self::WriteBatch { writes, .. } => writes.len(),
            Self::MergeBatch { merges, .. } => merges.len(),
            Self::ReadBatch { addresses, .. } => addresses.len(),
            Self::Hints(job) => job.requests(),
            Self::Exchange(job) => job.requests(),
            _ => 1,
        }
    }
}

/// An answer that waits for the turn's batch.
enum Answer {
    /// A write refused, with the refusal recorded.
    Refused(oneshot::Sender<Result<Written, WriteError>>, WriteError, OperationId),
    Written(oneshot::Sender<Result<Written, WriteError>>, Written, OperationId),
    Merged(oneshot::Sender<Result<(), RequestError>>),
    Read(oneshot::Sender<Result<EncodedObject, RequestError>>, EncodedObject),
    LookedUp(oneshot::Sender<Result<LookedUp, RequestError>>, LookedUp),
    Seen(oneshot::Sender<Vec<Result<bool, RequestError>>>, Vec<Result<bool, RequestError>>),
    Purged(oneshot::Sender<Result<Purged, RequestError>>, Purged),
    Batch(batch::Answer),
}

impl Answer {
    /// Answers after the batch; a requester that went away does not matter.
    fn send(self, failed: Option<&EngineError>) {
        let error = failed.map(|error| RequestError::from(error.clone()));
        match (self, error) {
            (Self::Refused(to, refusal, _), None) => drop(to.send(Err(refusal))),
            (Self::Refused(to, refusal, id), Some(error)) => {
                drop(to.send(Err(batch::unrecorded(refusal, id, error))));
            }
            (Self::Written(to, written, _), None) => drop(to.send(Ok(written))),
            (Self::Written(to, _, id), Some(e)) => drop(to.send(Err(WriteError::unknown(id, e)))),
            (Self::Merged(to), error) => drop(to.send(error.map_or(Ok(()), Err))),
            (Self::Read(to, object), None) => drop(to.send(Ok(object))),
            (Self::Read(to, _), Some(error)) => drop(to.send(Err(error))),
            (Self::LookedUp(to, answer), error) => drop(to.send(error.map_or(Ok(answer), Err))),
            (Self::Seen(to, seen), error) => drop(to.send(batch::unless(seen, error))),
            (Self::Purged(to, purged), error) => drop(to.send(error.map_or(Ok(purged), Err))),
            (Self::Batch(answer), error) => answer.send(error),
        }
    }
}

/// Hears what shards do, for metrics.
pub trait ShardObserver: Send + Sync + 'static {
    /// A turn of so many requests ended.
    fn turn(&self, shard: usize, requests: usize);
    /// Something was applied that may not be on disk yet.
    fn applied(&self);
    /// So many damaged records of a space were met.
    fn corrupt(&self, space: Space, records: u64);
    /// So many damaged rows were met, by space.
    fn found_damaged(&self, rows: [(Space, u64); 2]) {
        rows.into_iter()
            .filter(|(_, rows)| *rows > 0)
            .for_each(|(space, rows)| self.corrupt(space, rows));
    }
    /// So many frontiers were found to vouch for what is not there.
    fn lied(&self, frontiers: u64);
    /// A leaf of a tree of hashes was not what its records come to.
    fn mismatched(&self);
    /// Writes came to this node as an owner.
    fn arrived(&self, arrivals: &[Arrival]);
    /// Damaged records were replaced.
    fn mended(&self, mended: Mended);
    /// The operation index gained so many rows.
    fn recorded(&self, operations: u64);
    /// It lost so many.
    fn forgotten(&self, operations: u64);
    /// So many last writes of `lww` namespaces lie in the future by more than clocks may differ.
    fn future(&self, writes: u64);
    /// A write was refused, since its key has too many siblings.
    fn crowded(&self);
    /// A turn took in hints, or refused them.
    fn hinted(&self, accepted: u64, refused: u64);
    /// So many requests left the queue undone, since they would have come too late.
    fn expired(&self, requests: u64);
    /// A shard panicked and has ended: nobody serves its partitions any more.
    fn panicked(&self, shard: usize);
}

/// Tells of a shard that unwinds.
struct PanicWatch {
    shard: usize,
    observer: Arc<dyn ShardObserver>,
}

impl Drop for PanicWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.observer.panicked(self.shard);
        }
    }
}

/// What all shards of a node share.
#[derive(Clone)]
pub struct ShardContext {
    /// The node.
    pub node: NodeId,
    /// The opening of its store.
    pub opening: Opening,
    /// Its engine, of whose failures the disk hears.
    pub engine: Arc<dyn Engine>,
    /// Its disk, which may refuse writes.
    pub disk: Arc<Disk>,
    /// Its world.
    pub env: Env,
    /// For the objects that it reads.
    pub budget: Arc<Budget>,
    /// Its clocks, as the others see them.
    pub clocks: Arc<Clocks>,
    /// What it keeps for others.
    pub hints: Arc<HintQueues>,
    /// Under which its objects are hashed.
    pub hash_key: HashKey,
    /// Whom of its vnodes to believe.
    pub standings: Arc<Standings>,
    /// Who hears of it.
    pub observer: Arc<dyn ShardObserver>,
}

impl ShardContext {
    /// A vnode, opened if it is not.
    fn vnode<'v>(
        &self,
        vnodes: &'v mut BTreeMap<VnodeId, Vnode>,
        rng: &mut ChaCha8Rng,
        id: VnodeId,
    ) -> Result<&'v mut Vnode, EngineError> {
        match vnodes.entry(id) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(closed) => {
                let vnode = Vnode::open(id, &*self.engine, rng.next_u64(), &self.hash_key)?;
                if let Some(generation) = vnode.lost() {
                    self.standings.on_lost(id, generation);
                }
                Ok(closed.insert(vnode))
            }
        }
    }

    /// What turned out about a vnode was applied.
    fn staged_beside(&self, id: VnodeId, beside: &StagedBeside) {
        if let Some(generation) = beside.lost {
            tracing::error!(
                ?id,
                "something that the vnode held is gone without a trace: it does not count in quorums \
                 before it has seen what every other owner has"
            );
            self.standings.on_lost(id, generation);
        }
    }
}

struct Shard {
    context: ShardContext,
    /// Which of how many: it owns the partitions whose number leaves `index`, divided by `count`.
    index: usize,
    count: usize,
    vnodes: BTreeMap<VnodeId, Vnode>,
    /// What it keeps for others, by partition.
    hints: BTreeMap<VnodeId, HintVnode>,
    /// Rows of their queues that are damaged, and what lies there if anything can tell.
    damaged_places: BTreeMap<(NodeId, u64), Option<Place>>,
    rng: ChaCha8Rng,
    clock: Hlc,
    /// How long a job takes, in nanoseconds, averaged.
    pace: Arc<AtomicU64>,
}

impl Shard {
    fn new(context: ShardContext, index: usize, count: usize) -> Self {
        let (rng, pace) = (context.env.rng(), Arc::default());
        Self {
            context,
            index,
            count,
            vnodes: BTreeMap::new(),
            hints: BTreeMap::new(),
            damaged_places: BTreeMap::new(),
            rng,
            clock: Hlc::default(),
            pace,
        }
    }

    fn owns(&self, vnode: VnodeId) -> bool {
        shard_of(vnode.partition, self.count) == self.index
    }

    /// Does all jobs, in as many turns as they need.
    fn turns(&mut self, jobs: &mut Vec<Job>, began: Instant) {
        let count = jobs.len();
        while !jobs.is_empty() {
            self.turn(jobs);
        }
        self.learn_pace(began, count);
    }

    /// One group commit, of the first jobs that fit.
    fn turn(&mut self, jobs: &mut Vec<Job>) {
        let (engine, clocks) = (self.context.engine.clone(), &self.context.clocks);
        let now = clocks.read();
        let admitting = Admitting {
            node: self.context.node,
            opening: self.context.opening,
            now_ms: now.wall_ms,
        };
        let mut staging = Staging {
            turn: Turn {
                engine: &*engine,
                batch: Batch::new(),
                admitting,
                rng: &mut self.rng,
                clock: &mut self.clock,
                corrupt: BTreeMap::new(),
                mended: Mended::default(),
                recorded: 0,
                skew_max_ms: clocks.max_ms(),
                trust: clocks.trust_at(now, || Others::Connected),
                future: 0,
                lies: 0,
                arrivals: Vec::new(),
                hash_key: &self.context.hash_key,
                queues: &self.context.hints,
                hinted: Hinted::default(),
            },
            vnodes: &mut self.vnodes,
            touched: BTreeSet::new(),
            hints: &mut self.hints,
            hints_touched: BTreeSet::new(),
            answers: Vec::with_capacity(jobs.len().min(TURN_MAX)),
            to_sync: Vec::new(),
            context: &self.context,
        };
        let (mut alone, mut requests) = (Vec::new(), 0);
        let mut waiting = std::mem::take(jobs).into_iter();
        while let Some(job) = waiting.next() {
            requests += job.requests();
            staging.stage(job, &mut alone);
            let next = waiting.as_slice().first().map_or(0, Job::requests);
            if requests + next > TURN_MAX || staging.turn.batch.bytes() > TURN_BYTES {
                break;
            }
        }
        *jobs = waiting.collect();
        staging.commit();
        for job in alone {
            self.run_alone(job);
        }
        self.context.observer.turn(self.index, requests);
    }

    /// Work that is a batch, or many, of its own: after the turn's.
    fn run_alone(&mut self, job: Job) {
        match job {
            Job::Page { range, answer } => drop(answer.send(self.page(&range))),
            Job::Sweep { kept, after, answer } => drop(answer.send(self.sweep(&kept, after))),
            Job::Hints(job) => self.run_hints(job),
            Job::Exchange(job) => self.run_exchange(job),
            Job::Trees(job) => self.run_trees(job),
            _ => unreachable!("requests of keys are staged"),
        }
    }

    /// Records are damaged: their vnode goes on under another actor, and without the frontier that
    /// vouched for them.
    fn distrust(&mut self, id: VnodeId, found: &[(Bytes, KeyHash)]) -> Result<(), RequestError> {
        if found.is_empty() {
            return Ok(());
        }
        let vnode = self.vnode_of(id)?;
        let new = found.iter().filter(|(stored, hash)| vnode.distrust(stored, *hash)).count();
        if new == 0 {
            return Ok(());
        }
        self.context.observer.corrupt(Space::Objects, new as u64);
        self.stage_alone(id, Batch::new())
    }

    /// Applies what a vnode has to say, and what changed beside its objects, and tells of it. If it is not
    /// applied, the vnode is opened again.
    fn stage_alone(&mut self, id: VnodeId, mut batch: Batch) -> Result<(), RequestError> {
        let beside = self.vnode_of(id)?.stage_beside(&mut batch);
        self.context.observer.found_damaged(beside.damaged);
        if !batch.is_empty() {
            self.apply_alone(batch).inspect_err(|_| drop(self.vnodes.remove(&id)))?;
        }
        self.context.staged_beside(id, &beside);
        Ok(())
    }

    /// A vnode, between turns.
    fn vnode_of(&mut self, id: VnodeId) -> Result<&mut Vnode, RequestError> {
        Ok(self.context.vnode(&mut self.vnodes, &mut self.rng, id)?)
    }

    /// Applies a batch that is no turn's.
    fn apply_alone(&self, batch: Batch) -> Result<(), RequestError> {
        let applied = self.context.engine.apply(batch);
        self.context.observer.applied();
        applied.map_err(RequestError::from)
    }
}

fn shard_of(partition: PartitionId, count: usize) -> usize {
    usize::from(partition.0) % count
}

/// A turn under way.
struct Staging<'a> {
    turn: Turn<'a>,
    vnodes: &'a mut BTreeMap<VnodeId, Vnode>,
    touched: BTreeSet<VnodeId>,
    hints: &'a mut BTreeMap<VnodeId, HintVnode>,
    hints_touched: BTreeSet<VnodeId>,
    /// Answered once the batch is applied.
    answers: Vec<Answer>,
    /// Answered once it is on disk.
    to_sync: Vec<Answer>,
    context: &'a ShardContext,
}

impl Staging<'_> {
    fn stage(&mut self, job: Job, alone: &mut Vec<Job>) {
        match job {
            Job::Write { write, synced, answer } => self.write(write, synced, answer),
            Job::Merge { merge, synced, answer } => self.merge(merge, synced, answer),
            Job::Read { address, answer } => self.read(&address, answer),
            Job::LookUp { asked, answer } => self.look_up(&asked, answer),
            Job::WriteBatch { writes, synced, answer } => self.write_batch(writes, synced, answer),
            Job::MergeBatch { merges, synced, answer } => self.merge_batch(merges, synced, answer),
            Job::ReadBatch { addresses, answer } => self.read_batch(&addresses, answer),
            Job::Hints(job) => self.stage_hints(job, alone),
            Job::Exchange(job) => self.stage_exchange(job, alone),
            Job::Purge { due, answer } => self.purge(&due, answer),
            other => alone.push(other),
        }
    }

    fn write(
        &mut self,
        write: Write,
        synced: bool,
        to: oneshot::Sender<Result<Written, WriteError>>,
    ) {
        let operation = write.operation;
        match self.stage_write(write) {
            Ok(written) if planted!("answered_before_the_batch") => drop(to.send(Ok(written))),
            Ok(written) if planted!("replicated_before_the_batch") => drop(to.send(Ok(written))),
            Ok(written) => self.answer(synced, Answer::Written(to, written, operation)),
            Err(refusal) => self.answers.push(Answer::Refused(to, refusal, operation)),
        }
    }

    fn stage_write(&mut self, write: Write) -> Result<Written, WriteError> {
        let (id, operation) = (write.address.vnode, write.operation);
        let staged = match self.context.vnode(self.vnodes, self.turn.rng, id) {
            Ok(vnode) => vnode.write(&mut self.turn, write),
            // A write of an earlier turn may lie in what would not open.
            Err(error) => Err(WriteError::unknown(operation, RequestError::from(error))),
        };
        self.touched.insert(id);
        self.hold_written(staged)
    }

    /// The same, its object counted for as long as it is kept.
    fn hold_written(&self, staged: Result<Written, WriteError>) -> Result<Written, WriteError> {
        if let Err(WriteError { error: RequestError::TooManySiblings { .. }, .. }) = &staged {
            self.context.observer.crowded();
        }
        staged.map(|written| {
            let object = self.context.budget.hold_anyway(Kind::Replicas, written.object.0);
            Written { object: EncodedObject(object), ..written }
        })
    }

    fn merge(&mut self, merge: Merge, synced: bool, to: oneshot::Sender<Result<(), RequestError>>) {
        match self.stage_merge(merge) {
            Ok(()) if planted!("acknowledged_before_the_batch") => drop(to.send(Ok(()))),
            Ok(()) => self.answer(synced, Answer::Merged(to)),
            Err(refused) => drop(to.send(Err(refused))),
        }
    }

    fn stage_merge(&mut self, merge: Merge) -> Result<(), RequestError> {
        let id = merge.address.vnode;
        let staged = match self.context.vnode(self.vnodes, self.turn.rng, id) {
            Ok(vnode) => vnode.merge(&mut self.turn, merge),
            Err(error) => Err(RequestError::from(error)),
        };
        self.touched.insert(id);
        staged
    }

    fn read(
        &mut self,
        address: &Address,
        to: oneshot::Sender<Result<EncodedObject, RequestError>>,
    ) {
        match self.stage_read(address) {
            Ok(object) => self.answers.push(Answer::Read(to, object)),
            Err(refused) => drop(to.send(Err(refused))),
        }
    }

    fn stage_read(&mut self, address: &Address) -> Result<EncodedObject, RequestError> {
        let found = match self.context.vnode(self.vnodes, self.turn.rng, address.vnode) {
            Ok(vnode) => vnode.read(&mut self.turn, address),
            Err(error) => Err(RequestError::from(error)),
        };
        self.touched.insert(address.vnode);
        let held = found.and_then(|object| self.context.budget.hold(Kind::Reads, object.0));
        held.map(EncodedObject)
    }

    fn answer(&mut self, synced: bool, answer: Answer) {
        let synced = synced && !planted!("synced_before_the_sync");
        if synced { self.to_sync.push(answer) } else { self.answers.push(answer) }
    }

    /// Applies the batch, then answers; syncs for those who asked, then answers them.
    fn commit(mut self) {
        let context = self.context;
        planted!("frontier_ahead_of_its_batch", {
            let mut ahead = Batch::new();
            self.vnodes.values_mut().for_each(|vnode| drop(vnode.stage_beside(&mut ahead)));
            let _ = self.turn.engine.apply(ahead);
        });
        let mut lost = Vec::new();
        for id in &self.touched {
            if let Some(vnode) = self.vnodes.get_mut(id) {
                let beside = vnode.stage_beside(&mut self.turn.batch);
                context.observer.found_damaged(beside.damaged);
                lost.extend(beside.lost.map(|_| (*id, beside)));
            }
        }
        for (space, records) in std::mem::take(&mut self.turn.corrupt) {
            context.observer.corrupt(space, records);
        }
        if self.turn.lies > 0 {
            context.observer.lied(self.turn.lies);
        }
        if self.turn.future > 0 {
            context.observer.future(self.turn.future);
        }
        let (mended, recorded) = (self.turn.mended, self.turn.recorded);
        let arrivals = self.turn.arrivals;
        let (queues, hinted) = (self.turn.queues, self.turn.hinted);
        let engine = self.turn.engine;
        let batch = self.turn.batch;
        let was_empty = batch.is_empty();
        let applied = match was_empty {
            true => Ok(()),
            false => engine.apply(batch),
        };
        if !was_empty {
            context.observer.applied();
        }
        if let Err(error) = &applied {
            tracing::error!(%error, "a batch failed; its vnodes are opened again");
            if !planted!("vnode_kept_over_a_failed_batch") {
                self.touched.iter().for_each(|id| drop(self.vnodes.remove(id)));
                self.hints_touched.iter().for_each(|id| drop(self.hints.remove(id)));
            }
        }
        let failed = applied.err();
        if failed.is_none() {
            context.observer.arrived(&arrivals);
            lost.iter().for_each(|(id, beside)| context.staged_beside(*id, beside));
        }
        match &failed {
            None => queues.applied(&hinted),
            Some(_) => queues.failed(&hinted),
        }
        if hinted.is_some() {
            context.observer.hinted(hinted.accepted, hinted.refused);
        }
        if failed.is_none() && mended != Mended::default() {
            context.observer.mended(mended);
        }
        if failed.is_none() && recorded > 0 {
            context.observer.recorded(recorded);
        }
        self.answers.into_iter().for_each(|answer| answer.send(failed.as_ref()));
        if self.to_sync.is_empty() {
            return;
        }
        let failed = failed.or_else(|| engine.sync().err());
        self.to_sync.into_iter().for_each(|answer| answer.send(failed.as_ref()));
    }
}

/// The node's shards.
#[derive(Clone)]
pub struct Shards {
    queues: Arc<[ShardQueue]>,
    budget: Arc<Budget>,
    disk: Arc<Disk>,
    hints: Arc<HintQueues>,
    engine: Arc<dyn Engine>,
    env: Env,
}

impl Shards {
    /// Starts `count` shards whose queues hold `queue` requests each. They end when the last
    /// handle is dropped, after what is queued; the second value becomes ready then.
    pub fn start(context: ShardContext, count: usize, queue: usize) -> (Self, ShardsEnd) {
        let (mut ends, budget) = (Vec::new(), context.budget.clone());
        let count = count.max(1);
        let queues = (0..count).map(|index| {
            let (sender, receiver) = mpsc::channel(queue);
            let (ended, end) = oneshot::channel();
            ends.push(end);
            let shard = Shard::new(context.clone(), index, count);
            let pace = shard.pace.clone();
            start_shard(index, shard, receiver, ended);
            ShardQueue { sender, pace }
        });
        let queues = queues.collect();
        let ShardContext { disk, hints, engine, env, .. } = context;
        (Self { queues, budget, disk, hints, engine, env }, ShardsEnd(ends))
    }

    /// What counts the objects that are read.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Coordinates a write; `synced`: answers once it is on disk.
    pub async fn write(
        &self,
        write: Write,
        synced: bool,
        deadline: Instant,
    ) -> Result<Written, WriteError> {
        let (vnode, operation, doubtful) = (write.address.vnode, write.operation, write.doubtful);
        self.take_writes().map_err(|error| WriteError::at_the_door(doubtful, error))?;
        let (answer, wait) = oneshot::channel();
        let job = Job::Write { write, synced, answer };
        let queued = self.queue(vnode.partition, job, deadline);
        queued.map_err(|error| WriteError::at_the_door(doubtful, error))?;
        wait.await.unwrap_or_else(|_| Err(WriteError::unknown(operation, gone())))
    }

    /// Merges another replica's object; `synced`: answers once it is on disk.
    pub async fn merge(
        &self,
        merge: Merge,
        synced: bool,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        self.take_writes()?;
        let (answer, wait) = oneshot::channel();
        let partition = merge.address.vnode.partition;
        self.queue(partition, Job::Merge { merge, synced, answer }, deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// What is held under a key.
    pub async fn read(
        &self,
        address: Address,
        deadline: Instant,
    ) -> Result<EncodedObject, RequestError> {
        let (answer, wait) = oneshot::channel();
        self.queue(address.vnode.partition, Job::Read { address, answer }, deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// A part of a partition.
    pub async fn page(&self, range: PageRange, deadline: Instant) -> Result<Page, RequestError> {
        let (answer, wait) = oneshot::channel();
        self.queue(range.vnode.partition, Job::Page { range, answer }, deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// How many requests wait, by shard.
    pub fn queued(&self) -> impl Iterator<Item = usize> + '_ {
        self.queues.iter().map(|queue| queue.sender.max_capacity() - queue.sender.capacity())
    }

    fn queue(
        &self,
        partition: PartitionId,
        job: Job,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let queue = &self.queues[shard_of(partition, self.queues.len())];
        queue.offer(job, deadline)
    }
}

/// Becomes ready when every shard has ended.
#[derive(Debug)]
pub struct ShardsEnd(Vec<oneshot::Receiver<()>>);

impl ShardsEnd {
    /// Waits for the end; a shard that panicked has ended too.
    pub async fn wait(self) {
        for end in self.0 {
            let _ = end.await;
        }
    }
}

fn gone() -> RequestError {
    RequestError::not_ready("the node is stopping")
}

fn start_shard(
    index: usize,
    mut shard: Shard,
    mut queue: mpsc::Receiver<Queued>,
    ended: oneshot::Sender<()>,
) {
    let (mut queued, mut jobs) = (Vec::with_capacity(TURN_MAX), Vec::with_capacity(TURN_MAX));
    let watch = PanicWatch { shard: index, observer: shard.context.observer.clone() };
    if shard.context.env.blocking() == Blocking::Inline {
        tokio::spawn(async move {
            let _watch = watch;
            let env = shard.context.env.clone();
            let cost = env.request_cost();
            while queue.recv_many(&mut queued, TURN_MAX).await > 0 {
                env.pause().over().await;
                let began = shard.worthwhile(&mut queued, &mut jobs);
                if !cost.is_zero() {
                    let requests: usize = jobs.iter().map(Job::requests).sum();
                    tokio::time::sleep(cost * requests as u32).await;
                    env.pause().over().await;
                }
                shard.turns(&mut jobs, began);
            }
            let _ = ended.send(());
        });
        return;
    }
    let run = move || {
        let _watch = watch;
        while queue.blocking_recv_many(&mut queued, TURN_MAX) > 0 {
            let began = shard.worthwhile(&mut queued, &mut jobs);
            shard.turns(&mut jobs, began);
        }
        let _ = ended.send(());
    };
    let thread = std::thread::Builder::new().name(format!("shard-{index}"));
    thread.spawn(run).expect("the operating system gives a node its threads");
}

#[cfg(test)]
mod tests;
