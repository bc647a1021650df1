//! A hint vnode against a naive twin, over deliveries, restarts, power cuts and rot.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::{Address, HintQueues, Hinted, Mended, Merge, Turn, Write};
use super::*;
use crate::clocks::Trust;
use crate::dynamo::arrival::Way;
use crate::dynamo::clock::{Actor, Dot, Hlc};
use crate::dynamo::context::Context;
use crate::dynamo::key::{Key, NamespaceId, PartitionId};
use crate::dynamo::metadata::document::Conflict;
use crate::dynamo::operation::{Admitting, Change, Opening, OperationId};
use crate::storage::memory::MemoryEngine;
use crate::storage::{Batch, Engine, KeyRange, record};
use crate::vnode::HashKey;

const ID: VnodeId = VnodeId { n: 3, partition: PartitionId(7) };
const ADMITTING: Admitting = Admitting { node: NodeId(9), opening: Opening(1), now_ms: 1_000 };
const MAX_BYTES: u64 = 1 << 20;
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

/// The hints of a partition, in their store.
struct Store {
    engine: MemoryEngine,
    vnode: HintVnode,
    queues: HintQueues,
    rng: ChaCha8Rng,
    clock: Hlc,
    corrupt: u64,
    mended: Mended,
    refused: u64,
    /// Whether the last batch was applied.
    applied: bool,
}

fn address(key: u8) -> Address {
    let (key, conflict) = (Key::new(vec![key]).unwrap(), Conflict::Siblings);
    Address { vnode: ID, namespace: NamespaceId(1), key, conflict }
}

fn operation(sequence: u64) -> OperationId {
    let Admitting { node: coordinator, opening, now_ms } = ADMITTING;
    OperationId { issued_ms: now_ms, coordinator, opening, client: 1, sequence }
}

fn put(key: u8, sequence: u64, context: Context) -> Write {
    Write {
        address: address(key),
        change: Change::put(format!("value {sequence}")),
        ttl: None,
        seen: None,
        context,
        operation: operation(sequence),
        at_least_once: false,
        doubtful: None,
        refusal: None,
    }
}

/// What an owner, which is no fallback, has of a key.
#[derive(Default)]
struct Owner(Object);

impl Owner {
    fn takes(&mut self, object: &EncodedObject) -> usize {
        self.0.merge(&object.decode(Conflict::Siblings).unwrap());
        self.0.entries().len()
    }
}

impl Store {
    fn new(seed: u64) -> Self {
        Self::open(MemoryEngine::new(), ChaCha8Rng::seed_from_u64(seed))
    }

    fn open(engine: MemoryEngine, rng: ChaCha8Rng) -> Self {
        let queues = HintQueues::open(&engine, MAX_BYTES).unwrap();
        let (vnode, clock, mended) = (HintVnode::new(ID), Hlc::default(), Mended::default());
        Self { engine, vnode, queues, rng, clock, corrupt: 0, mended, refused: 0, applied: true }
    }

    fn turn<T>(&mut self, work: impl FnOnce(&mut HintVnode, &mut Turn<'_>) -> T) -> T {
        let mut turn = Turn {
            engine: &self.engine,
            batch: Batch::new(),
            admitting: ADMITTING,
            rng: &mut self.rng,
            clock: &mut self.clock,
            corrupt: BTreeMap::new(),
            mended: Mended::default(),
            recorded: 0,
            skew_max_ms: 500,
            trust: Trust::Right,
            future: 0,
            lies: 0,
            arrivals: Vec::new(),
            hash_key: &HashKey::default(),
            queues: &self.queues,
            hinted: Hinted::default(),
        };
        let result = work(&mut self.vnode, &mut turn);
        let (batch, hinted) = (turn.batch, turn.hinted);
        self.corrupt += turn.corrupt.values().sum::<u64>();
        (self.mended, self.refused) = (turn.mended, self.refused + hinted.refused);
        let applied = self.engine.apply(batch);
        self.applied = applied.is_ok();
        match applied {
            Ok(()) => self.queues.applied(&hinted),
            Err(_) => {
                self.queues.failed(&hinted);
                self.vnode = HintVnode::new(ID);
            }
        }
        result
    }

    fn write(&mut self, write: Write, targets: &[NodeId]) -> Result<Written, WriteError> {
        self.turn(|vnode, turn| vnode.write(turn, write, targets))
    }

    fn take(
        &mut self,
        key: u8,
        object: &EncodedObject,
        target: NodeId,
    ) -> Result<(), RequestError> {
        let merge = Merge {
            address: address(key),
            object: object.clone(),
            operation: None,
            clock_ms: 0,
            wait_ms: 0,
            mend: false,
            way: Way::Write,
        };
        self.turn(|vnode, turn| vnode.merge(turn, merge, target))
    }

    fn read(&mut self, key: u8) -> Result<EncodedObject, RequestError> {
        self.turn(|vnode, turn| vnode.read(turn, &address(key)))
    }

    /// What waits for a target, in its order.
    fn queue(&mut self, target: NodeId) -> Vec<KeptHint> {
        let mut kept = Vec::new();
        for row in hints::scan_queue(&self.engine, target, 0) {
            let (key, sealed) = row.unwrap();
            let (_, seq) = hints::place_of(&key).unwrap();
            let Ok(place) = hints::open_place(&key, &sealed) else { continue };
            let (_, _, key) = record::split_object_key(&place.object).unwrap();
            let address = Address { key, ..address(0) };
            let sealed = self.engine.get(Space::Hints, &place.object).unwrap().unwrap();
            let Ok(object) = record::open(&place.object, &sealed) else { continue };
            kept.push(KeptHint { address, object: EncodedObject(object), seq });
        }
        kept
    }

    fn delivered(&mut self, target: NodeId, hint: &KeptHint) {
        self.turn(|vnode, turn| vnode.delivered(turn, target, hint)).unwrap();
    }

    /// How many keys are kept for a target, and which numbers they have.
    fn sums(&self, target: NodeId) -> Option<(u64, u64, u64)> {
        let queues = self.queues.list(ADMITTING.now_ms);
        let queue = queues.into_iter().find(|queue| queue.target == target)?;
        Some((queue.count, queue.first, queue.last))
    }

    fn rows(&self) -> usize {
        self.engine.scan(Space::Hints, KeyRange::all()).count()
    }
}

/// Riak's kv679: see the top of the module.
#[test]
fn a_fallback_that_forgot_what_it_wrote_covers_nothing_of_it() {
    let (mut store, mut owner) = (Store::new(1), Owner::default());
    store.write(put(1, 1, Context::default()), &[B]).unwrap();
    let [hint] = &store.queue(B)[..] else { panic!("one hint") };
    assert_eq!(owner.takes(&hint.object), 1);
    let hint = hint.clone();
    store.delivered(B, &hint);
    assert!(store.read(1).unwrap().0.is_empty(), "it went home");

    let second = store.write(put(1, 2, Context::default()), &[B]).unwrap();
    assert_eq!(owner.takes(&second.object), 2, "the first value was acknowledged");
}

/// It is still here, so that what is written next stands beside it.
#[test]
fn the_actor_lives_on_while_a_hint_that_names_it_is_owed_to_another() {
    let mut store = Store::new(1);
    let first = store.write(put(1, 1, Context::default()), &[B, C]).unwrap();
    let hint = store.queue(B)[0].clone();
    store.delivered(B, &hint);
    let second = store.write(put(1, 2, Context::default()), &[B]).unwrap();
    assert_eq!(second.dot, Dot { n: 2, ..first.dot });
    assert_eq!(second.siblings, 2);
    let other = Store::new(2).write(put(2, 3, Context::default()), &[B]).unwrap();
    store.take(2, &other.object, B).unwrap();
    let hint = store.queue(B).into_iter().find(|hint| hint.address == address(2)).unwrap();
    store.delivered(B, &hint);
    let third = store.write(put(3, 4, Context::default()), &[B]).unwrap();
    assert_eq!(third.dot.actor, first.dot.actor, "another actor's hint says nothing of ours");
}

#[test]
fn what_came_meanwhile_is_owed_in_a_new_place() {
    let mut store = Store::new(1);
    store.write(put(1, 1, Context::default()), &[B, C]).unwrap();
    let sent = store.queue(B)[0].clone();
    store.write(put(1, 2, Context::default()), &[B]).unwrap();
    assert_eq!(store.queue(B)[0].seq, sent.seq, "whoever is owed it already keeps its place");
    store.delivered(B, &sent);
    let [kept] = &store.queue(B)[..] else { panic!("one hint") };
    assert!(kept.seq > sent.seq && kept.object != sent.object);
    let kept = kept.clone();
    store.delivered(B, &sent);
    assert_eq!(store.queue(B), std::slice::from_ref(&kept), "an answer that comes twice");
    store.delivered(B, &kept);
    assert_eq!((store.queue(B), store.queue(C).len()), (Vec::new(), 1));
    let last = store.queue(C)[0].clone();
    store.delivered(C, &last);
    assert_eq!(store.rows(), 1, "all but the number of the opening");
    assert_eq!((store.queues.list(0), store.queues.bytes()), (Vec::new(), 0));
}

#[test]
fn numbers_rise_over_openings_and_sums_come_back() {
    let mut store = Store::new(1);
    store.write(put(1, 1, Context::default()), &[B, C]).unwrap();
    store.write(put(2, 2, Context::default()), &[B]).unwrap();
    let (before, bytes) = (store.queues.list(5_000), store.queues.bytes());
    let mut store = Store::open(store.engine.kill(), store.rng);
    assert_eq!((store.queues.list(5_000), store.queues.bytes()), (before.clone(), bytes));
    for target in [B, C] {
        for hint in store.queue(target) {
            store.delivered(target, &hint);
        }
    }
    let mut store = Store::open(store.engine.kill(), store.rng);
    assert_eq!((store.queues.list(0), store.queues.bytes()), (Vec::new(), 0));
    store.write(put(1, 3, Context::default()), &[B]).unwrap();
    let (_, first, _) = store.sums(B).unwrap();
    assert!(first > before[0].last, "{first} is above all before");
}

#[test]
fn at_the_bound_hints_are_refused_and_none_is_dropped() {
    let mut store = Store::new(1);
    let large = |key, sequence| Write {
        change: Change::put(vec![7; MAX_BYTES as usize / 2 - 1000]),
        ..put(key, sequence, Context::default())
    };
    let first = store.write(large(1, 1), &[B]).unwrap();
    store.write(large(2, 2), &[B]).unwrap();
    let refused = store.write(large(3, 3), &[B]).unwrap_err();
    assert_eq!(refused.outcome, crate::error::Outcome::NotApplied);
    assert!(refused.to_string().contains("hints_max_bytes"), "{refused}");
    let other = Store::new(2).write(large(3, 4), &[B]).unwrap();
    let refused = store.take(3, &other.object, B).unwrap_err();
    assert_eq!((refused.kind(), store.queues.are_full()), ("hints_full", true));
    assert_eq!((store.queue(B).len(), store.refused), (2, 2));
    assert!(store.read(3).unwrap().0.is_empty(), "nothing is staged");
    // What takes no more room is taken: the same again, and what replaces it.
    store.take(1, &first.object, C).unwrap();
    store.write(Write { context: first.context.unwrap(), ..large(1, 5) }, &[B]).unwrap();
    let hint = store.queue(B)[1].clone();
    store.delivered(B, &hint);
    assert!(store.write(large(3, 6), &[B]).is_ok());
}

#[test]
fn a_damaged_hint_is_counted_kept_and_replaced_by_the_next_one() {
    let mut store = Store::new(1);
    let lost = store.write(put(1, 1, Context::default()), &[B, C]).unwrap();
    assert!(store.engine.rot(Space::Hints, &address(1).stored()).unwrap());
    for _ in 0..2 {
        assert_eq!(store.read(1).unwrap_err().kind(), "damaged");
    }
    let told = KeptHint { address: address(1), object: lost.object, seq: store.sums(B).unwrap().1 };
    store.delivered(B, &told);
    assert_eq!((store.sums(B).unwrap().0, store.corrupt), (1, 1), "counted, and not released");

    let next = store.write(put(1, 2, Context::default()), &[B]).unwrap();
    assert_ne!(next.dot.actor, lost.dot.actor, "what was lost may not be covered");
    assert_eq!(store.mended, Mended { mended: 0, lost: 1 });
    for target in [B, C] {
        let [hint] = &store.queue(target)[..] else { panic!("one hint") };
        assert_eq!(hint.object, next.object);
        let hint = hint.clone();
        store.delivered(target, &hint);
    }
    assert_eq!((store.rows(), store.queues.bytes()), (1, 0));
}

#[test]
fn a_damaged_row_of_targets_is_made_again_from_the_queues() {
    for reopened in [false, true] {
        let mut store = Store::new(1);
        store.write(put(1, 1, Context::default()), &[B, C]).unwrap();
        let (queues, bytes) = (store.queues.list(2_000), store.queues.bytes());
        store.engine.rot(Space::Hints, &hints::owed_key(&address(1).stored())).unwrap();
        if reopened {
            store = Store::open(store.engine.kill(), store.rng);
            assert_eq!((store.queues.list(2_000), store.queues.bytes()), (queues, bytes));
        }
        let hint = store.queue(B)[0].clone();
        store.delivered(B, &hint);
        assert_eq!((store.queue(B).len(), store.queue(C).len(), store.corrupt), (0, 1, 1));
        let hint = store.queue(C)[0].clone();
        store.delivered(C, &hint);
        assert_eq!((store.rows(), store.queues.bytes(), store.corrupt), (1, 0, 1));
    }
}

#[test]
fn a_retry_is_known_and_one_whose_hint_went_home_is_of_unknown_outcome() {
    let mut store = Store::new(1);
    let first = store.write(put(1, 1, Context::default()), &[B]).unwrap();
    let again = store.write(put(1, 1, Context::default()), &[B, C]).unwrap();
    assert_eq!(first, again);
    assert_eq!(store.queue(C).len(), 1, "it is owed to whom it was not before");
    for target in [B, C] {
        let hint = store.queue(target)[0].clone();
        store.delivered(target, &hint);
    }
    let late = store.write(put(1, 1, Context::default()), &[B]).unwrap_err();
    assert_eq!(late.outcome, crate::error::Outcome::Unknown(operation(1)));
    assert_eq!(store.queue(B), [], "nothing is owed again");
}

#[test]
fn nonsense_is_refused_and_stages_nothing() {
    let mut store = Store::new(1);
    let nobody = store.write(put(1, 1, Context::default()), &[]).unwrap_err();
    assert_eq!(nobody.error.kind(), "internal");
    assert_eq!(store.take(1, &EncodedObject::default(), B).unwrap_err().kind(), "invalid");
    let garbage = EncodedObject(Bytes::from_static(b"\x01garbage"));
    assert_eq!(store.take(1, &garbage, B).unwrap_err().kind(), "invalid");
    let written = store.write(put(1, 2, Context::default()), &[B]).unwrap();
    let next = Dot { n: written.dot.n + 1, ..written.dot };
    let object = Object::from_parts(Vec::new(), [next].into_iter().collect()).unwrap();
    let refused = store.take(1, &EncodedObject::new(&object), B).unwrap_err();
    assert_eq!(refused.kind(), "invalid", "it names a write that was never made");
    assert_ne!(written.dot.actor, Actor(0));
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        key: u8,
        blind: bool,
        targets: Vec<NodeId>,
    },
    /// A hint that another node coordinated.
    Take {
        key: u8,
        target: NodeId,
    },
    /// The target takes home what waits for it, and says so before (`late`: after) the next step.
    Deliver {
        target: NodeId,
        late: bool,
    },
    Sync,
    Restart,
    PowerCut,
    /// The next batch is not applied.
    Fail,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let target = || prop_oneof![Just(B), Just(C)];
    let targets = prop_oneof![Just(vec![B]), Just(vec![C]), Just(vec![B, C])];
    let step = prop_oneof![
        6 => (0..3u8, any::<bool>(), targets)
            .prop_map(|(key, blind, targets)| Step::Write { key, blind, targets }),
        3 => (0..3u8, target()).prop_map(|(key, target)| Step::Take { key, target }),
        4 => (target(), any::<bool>()).prop_map(|(target, late)| Step::Deliver { target, late }),
        2 => Just(Step::Sync),
        1 => Just(Step::Restart),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Fail),
    ];
    prop::collection::vec(step, 1..60)
}

/// What was acknowledged.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    key: u8,
    target: NodeId,
    dot: Dot,
    synced: bool,
}

/// A store and its naive twin: what was acknowledged, and what targets put on disk.
struct Twin {
    store: Store,
    other: Store,
    owners: BTreeMap<(u8, NodeId), Owner>,
    accepted: Vec<Accepted>,
    issued: BTreeSet<Dot>,
    /// What a context covered: it may go.
    covered: BTreeSet<Dot>,
    /// Deliveries of which the store has not heard.
    late: Vec<(NodeId, KeptHint)>,
    sequence: u64,
}

impl Twin {
    fn new(seed: u64) -> Self {
        Self {
            store: Store::new(seed),
            other: Store::new(!seed),
            owners: BTreeMap::new(),
            accepted: Vec::new(),
            issued: BTreeSet::new(),
            covered: BTreeSet::new(),
            late: Vec::new(),
            sequence: 0,
        }
    }

    fn step(&mut self, step: Step) {
        let late = match step {
            Step::Deliver { .. } | Step::Sync => Vec::new(),
            _ => std::mem::take(&mut self.late),
        };
        self.sequence += 1;
        match step {
            Step::Write { key, blind, targets } => self.write(key, blind, &targets),
            Step::Take { key, target } => self.take(key, target),
            Step::Deliver { target, late } => {
                for hint in self.store.queue(target) {
                    let key = hint.address.key.as_bytes()[0];
                    self.owners.entry((key, target)).or_default().takes(&hint.object);
                    match late {
                        true => self.late.push((target, hint)),
                        false => self.store.delivered(target, &hint),
                    }
                }
            }
            Step::Sync => {
                self.store.engine.sync().unwrap();
                self.accepted.iter_mut().for_each(|accepted| accepted.synced = true);
            }
            Step::Restart => self.reopen(|engine, _| engine.kill()),
            Step::PowerCut => {
                self.accepted.retain(|accepted| accepted.synced);
                self.reopen(|engine, rng| engine.crash(rng));
            }
            Step::Fail => self.store.engine.fill_next_apply(true),
        }
        for (target, hint) in late {
            self.store.delivered(target, &hint);
        }
    }

    fn reopen(&mut self, end: impl FnOnce(&MemoryEngine, &mut ChaCha8Rng) -> MemoryEngine) {
        let store = &mut self.store;
        let engine = end(&store.engine, &mut store.rng);
        *store = Store::open(engine, store.rng.clone());
    }

    fn write(&mut self, key: u8, blind: bool, targets: &[NodeId]) {
        let held = self.store.read(key).unwrap().decode(Conflict::Siblings).unwrap();
        let context = if blind { Context::default() } else { Context::of_read(&held) };
        let written = self.store.write(put(key, self.sequence, context), targets).unwrap();
        assert!(self.issued.insert(written.dot), "{} was issued twice", written.dot);
        if !blind {
            self.covered.extend(held.entries().iter().map(|(dot, _)| *dot));
        }
        targets.iter().for_each(|target| self.accept(key, *target, written.dot));
    }

    fn take(&mut self, key: u8, target: NodeId) {
        let write = put(key, self.sequence, Context::default());
        let write = Write { operation: OperationId { client: 2, ..write.operation }, ..write };
        let written = self.other.write(write, &[B]).unwrap();
        self.store.take(key, &written.object, target).unwrap();
        let object = written.object.decode(Conflict::Siblings).unwrap();
        for (dot, _) in object.entries() {
            self.accept(key, target, *dot);
        }
    }

    fn accept(&mut self, key: u8, target: NodeId, dot: Dot) {
        if self.store.applied {
            self.accepted.push(Accepted { key, target, dot, synced: false });
        }
    }

    /// Whatever was acknowledged is at its target, or kept for it.
    fn nothing_is_lost(&mut self) {
        let kept: BTreeMap<NodeId, Vec<KeptHint>> =
            [B, C].map(|target| (target, self.store.queue(target))).into();
        for &Accepted { key, target, dot, .. } in &self.accepted {
            let home = self.owners.get(&(key, target)).is_some_and(|o| o.0.version().covers(dot));
            let here = kept[&target].iter().find(|hint| hint.address == address(key));
            let here = here.is_some_and(|hint| {
                hint.object.decode(Conflict::Siblings).unwrap().version().covers(dot)
            });
            assert!(home || here, "{dot} of key {key} left before {target} had it");
        }
    }

    /// The sums are what the rows come to.
    fn sums_are_true(&mut self) {
        let mut bytes = BTreeMap::new();
        let queues = self.store.queues.list(ADMITTING.now_ms);
        for target in [B, C] {
            let kept = self.store.queue(target);
            let queue = queues.iter().find(|queue| queue.target == target);
            let size = |hint: &KeptHint| (1 + hint.object.0.len()) as u64;
            let sum: u64 = kept.iter().map(size).sum();
            let sums = queue.map(|queue| (queue.count, queue.bytes));
            assert_eq!(sums.unwrap_or_default(), (kept.len() as u64, sum));
            if let (Some(queue), Some(first), Some(last)) = (queue, kept.first(), kept.last()) {
                assert!(queue.first <= first.seq && queue.last >= last.seq, "{queue:?}");
            }
            bytes.extend(kept.iter().map(|hint| (hint.address.clone(), size(hint))));
        }
        assert_eq!(self.store.queues.bytes(), bytes.values().sum::<u64>());
    }

    /// All goes home, and is there what it was.
    fn all_goes_home(&mut self) {
        self.store.engine.fill_next_apply(false);
        for target in [B, C] {
            self.step(Step::Deliver { target, late: false });
            assert_eq!(self.store.queue(target), []);
        }
        for Accepted { key, target, dot, .. } in &self.accepted {
            let owner = &self.owners[&(*key, *target)].0;
            let held = owner.holds(*dot) || self.covered.contains(dot);
            assert!(held, "{dot} of key {key} is covered at {target}, by nobody who saw it");
        }
        assert_eq!((self.store.queues.list(0), self.store.queues.bytes()), (Vec::new(), 0));
        assert!(self.store.rows() <= 1, "all but the number of the opening");
    }
}

proptest! {
    #[test]
    fn an_accepted_hint_leaves_only_by_delivery_and_never_loses_a_value(
        steps in steps(), seed in any::<u64>()
    ) {
        let mut twin = Twin::new(seed);
        for step in steps {
            twin.step(step);
            twin.nothing_is_lost();
            twin.sums_are_true();
        }
        twin.all_goes_home();
    }
}
