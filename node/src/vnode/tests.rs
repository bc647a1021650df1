//! A vnode against a naive twin, over restarts, power cuts and rot.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::clocks::Trust;
use crate::dynamo::arrival::Way;
use crate::dynamo::clock::Actor;
use crate::dynamo::clock::Hlc;
use crate::dynamo::format::decode_recorded;
use crate::dynamo::key::{NodeId, PartitionId};
use crate::dynamo::metadata::ClusterKey;
use crate::dynamo::object::{SIBLINGS_MAX, siblings_max_bytes};
use crate::dynamo::operation::{Admitting, Opening};
use crate::error::Outcome;
use crate::storage::KeyRange;
use crate::storage::memory::MemoryEngine;

mod look_up;
mod lww;
mod purge;
mod tree;
mod ttl;

const ID: VnodeId = VnodeId { n: 3, partition: PartitionId(7) };
const NAMESPACE: NamespaceId = NamespaceId(1);
const ADMITTING: Admitting = Admitting { node: NodeId(1), opening: Opening(1), now_ms: 1_000 };

const SKEW_MAX_MS: u64 = 500;

/// A vnode in its store.
struct Store {
    engine: MemoryEngine,
    vnode: Vnode,
    queues: HintQueues,
    key: HashKey,
    rng: ChaCha8Rng,
    clock: Hlc,
    corrupt: u64,
    /// The wall clock.
    now_ms: u64,
    /// Whether it may be right.
    trust: Trust,
    /// Last writes in the future.
    future: u64,
    mended: Mended,
    /// In which generations it was told that something is lost.
    told_lost: Vec<u64>,
}

fn address(key: u8) -> Address {
    let (key, conflict) = (Key::new(vec![key]).unwrap(), Conflict::Siblings);
    Address { vnode: ID, namespace: NAMESPACE, key, conflict }
}

fn operation(sequence: u64) -> OperationId {
    let Admitting { node: coordinator, opening, now_ms } = ADMITTING;
    OperationId { issued_ms: now_ms, coordinator, opening, client: 1, sequence }
}

fn put(key: u8, sequence: u64, context: Context) -> Write {
    let operation = operation(sequence);
    Write {
        address: address(key),
        change: Change::put(format!("value {sequence}")),
        ttl: None,
        seen: None,
        context,
        operation,
        at_least_once: false,
        doubtful: None,
        refusal: None,
    }
}

impl Store {
    fn new(seed: u64) -> Self {
        Self::open(MemoryEngine::new(), ChaCha8Rng::seed_from_u64(seed))
    }

    fn open(engine: MemoryEngine, mut rng: ChaCha8Rng) -> Self {
        let key = HashKey::new(ClusterKey([7; 32]).into());
        let vnode = Vnode::open(ID, &engine, rng.next_u64(), &key).unwrap();
        let (clock, now_ms) = (Hlc::default(), ADMITTING.now_ms);
        let mended = Mended::default();
        let trust = Trust::Right;
        let queues = HintQueues::open(&engine, 0).unwrap();
        Self {
            engine,
            vnode,
            queues,
            key,
            rng,
            clock,
            corrupt: 0,
            now_ms,
            trust,
            future: 0,
            mended,
            told_lost: Vec::new(),
        }
    }

    fn stage_beside(&mut self, batch: &mut Batch) {
        let beside = self.vnode.stage_beside(batch);
        self.corrupt += beside.damaged.iter().map(|(_, rows)| rows).sum::<u64>();
        self.told_lost.extend(beside.lost);
    }

    fn turn<T>(&mut self, work: impl FnOnce(&mut Vnode, &mut Turn<'_>) -> T) -> T {
        let mut turn = Turn {
            engine: &self.engine,
            batch: Batch::new(),
            admitting: Admitting { now_ms: self.now_ms, ..ADMITTING },
            rng: &mut self.rng,
            clock: &mut self.clock,
            corrupt: BTreeMap::new(),
            mended: Mended::default(),
            recorded: 0,
            skew_max_ms: SKEW_MAX_MS,
            trust: self.trust,
            future: 0,
            lies: 0,
            arrivals: Vec::new(),
            hash_key: &self.key,
            queues: &self.queues,
            hinted: Hinted::default(),
        };
        let result = work(&mut self.vnode, &mut turn);
        let (mut batch, corrupt) = (turn.batch, turn.corrupt);
        (self.future, self.mended) = (self.future + turn.future, turn.mended);
        self.corrupt += corrupt.values().sum::<u64>();
        self.stage_beside(&mut batch);
        self.engine.apply(batch).unwrap();
        result
    }

    fn write(&mut self, write: Write) -> Result<Written, WriteError> {
        self.turn(|vnode, turn| vnode.write(turn, write))
    }

    fn read(&mut self, key: u8) -> Object {
        self.read_at(&address(key)).unwrap()
    }

    fn read_at(&mut self, address: &Address) -> Result<Object, RequestError> {
        let held = self.turn(|vnode, turn| vnode.read(turn, address))?;
        Ok(held.decode(address.conflict).unwrap())
    }

    /// For every dot in F, the object for its key holds or covers it; the index says which key.
    fn frontier_vouches_only_for_what_is_here(&mut self) {
        let mut keys = BTreeMap::new();
        for row in self.engine.scan(Space::Operations, KeyRange::all()) {
            let (key, sealed) = row.unwrap();
            let recorded = decode_recorded(record::open(&key, &sealed).unwrap()).unwrap();
            keys.insert(recorded.done.map(|done| done.dot), recorded.key);
        }
        let objects: BTreeMap<KeyHash, Object> =
            (0..4).map(|key| (address(key).hash(), self.read(key))).collect();
        for (actor, seen) in self.vnode.frontier().clone().iter() {
            for n in seen.ranges().iter().flat_map(|&(first, last)| first..=last) {
                let dot = Dot { actor, n };
                let object =
                    &objects[keys.get(&Some(dot)).expect("every dot's operation is recorded")];
                assert!(object.version().covers(dot), "{dot} is in F, but not here");
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        key: u8,
        blind: bool,
    },
    Delete {
        key: u8,
    },
    /// Everything applied survives, as after kill -9.
    Restart,
    /// A random prefix of what was not synced is lost.
    PowerCut,
    Sync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4u8, any::<bool>()).prop_map(|(key, blind)| Step::Write { key, blind }),
        2 => (0..4u8).prop_map(|key| Step::Delete { key }),
        1 => Just(Step::Restart),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Sync),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn no_dot_is_issued_twice_and_the_frontier_never_lies(steps in steps(), seed in any::<u64>()) {
        let mut store = Store::new(seed);
        let mut issued = BTreeSet::new();
        for (sequence, step) in (0..).zip(steps) {
            let (key, value, blind) = match step {
                Step::Write { key, blind } => (key, true, blind),
                Step::Delete { key } => (key, false, false),
                Step::Sync => { store.engine.sync().unwrap(); continue }
                Step::Restart => { store = Store::open(store.engine.kill(), store.rng); continue }
                Step::PowerCut => {
                    let engine = store.engine.crash(&mut store.rng);
                    store = Store::open(engine, store.rng);
                    store.frontier_vouches_only_for_what_is_here();
                    continue;
                }
            };
            let before = store.read(key);
            let context = if blind { Context::default() } else { Context::of_read(&before) };
            let mut write = put(key, sequence, context);
            if !value { write.change = Change::Delete; }
            let written = store.write(write).unwrap();
            prop_assert!(issued.insert(written.dot), "{} was issued twice", written.dot);
            let after = store.read(key);
            prop_assert_eq!(written.object.decode(Conflict::Siblings).unwrap(), after.clone());
            prop_assert_eq!(after.holds(written.dot), value);
            let expected = usize::from(value) + if blind { before.entries().len() } else { 0 };
            prop_assert_eq!(after.entries().len(), expected);
        }
        store.frontier_vouches_only_for_what_is_here();
    }
}

#[test]
fn a_retry_is_answered_with_its_first_dot() {
    let mut store = Store::new(1);
    let first = store.write(put(1, 7, Context::default())).unwrap();
    let again = store.write(put(1, 7, Context::default())).unwrap();
    assert_eq!(first, again);
    assert_eq!(store.read(1).entries().len(), 1);

    let other = store.write(put(2, 7, Context::default())).unwrap_err();
    assert_eq!(other.error.kind(), "invalid");
    assert!(store.read(2).is_absent(), "nothing is written under another key's id");
}

#[test]
fn a_retry_of_an_earlier_opening_is_known_if_it_was_stored_and_else_unknown() {
    let mut store = Store::new(1);
    let first = store.write(put(1, 7, Context::default())).unwrap();
    let mut store = Store::open(store.engine.kill(), store.rng);
    assert_eq!(store.write(put(1, 7, Context::default())).unwrap().dot, first.dot);

    let mut earlier = put(1, 8, Context::default());
    earlier.operation.opening = Opening(0);
    let refused = store.write(earlier.clone()).unwrap_err();
    assert_eq!(
        refused,
        WriteError::unknown(
            earlier.operation,
            RequestError::EarlierOpening { opening: Opening(1) }
        )
    );
    earlier.at_least_once = true;
    assert!(store.write(earlier).is_ok());
}

/// The client learnt the node's clock before it was set. Nothing was sent under the id before, so
/// that it can take a new one; no late copy of the request is applied after all.
#[test]
fn a_new_id_of_another_time_is_not_applied_and_an_old_one_is_unknown() {
    let mut store = Store::new(1);
    store.now_ms = 4 * 3_600_000;
    let write = put(1, 7, Context::default());
    let doubtful = Write { doubtful: Some(write.operation), ..write.clone() };
    let asked = store.write(doubtful).unwrap_err();
    assert_eq!((asked.error.kind(), asked.outcome), ("invalid", Outcome::Unknown(operation(7))));
    let refused = store.write(write.clone()).unwrap_err();
    assert_eq!(
        refused,
        WriteError::not_applied(RequestError::OperationTime { opening: Opening(1) })
    );
    store.now_ms = ADMITTING.now_ms;
    let late = store.write(write).unwrap_err();
    assert_eq!((late.error.kind(), late.outcome), ("invalid", Outcome::NotApplied));
    assert!(store.read(1).is_absent());
}

#[test]
fn a_merge_records_the_operation_and_adds_only_this_keys_dots() {
    let (mut home, mut other) = (Store::new(1), Store::new(2));
    other.write(put(1, 1, Context::default())).unwrap();
    let second = other.write(put(2, 2, Context::default())).unwrap();
    let operation = Some((operation(2), second.dot, second.payload));
    let merge = Merge {
        address: address(2),
        object: second.object.clone(),
        operation,
        clock_ms: 0,
        wait_ms: 0,
        mend: false,
        way: Way::Write,
    };
    home.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
    assert!(home.vnode.frontier().contains(second.dot));
    let first = Dot { n: 1, ..second.dot };
    assert!(!home.vnode.frontier().contains(first), "{first} is another key's");

    let again = home.write(put(2, 2, Context::default())).unwrap();
    assert_eq!(again.dot, second.dot, "the index knows what others coordinated");
}

#[test]
fn requests_of_one_turn_see_each_other() {
    let mut store = Store::new(1);
    let dots = store.turn(|vnode, turn| {
        let first = vnode.write(turn, put(1, 1, Context::default())).unwrap();
        let context = first.context.clone().unwrap();
        let second = vnode.write(turn, put(1, 2, context)).unwrap();
        assert_eq!(vnode.read(turn, &address(1)).unwrap(), second.object);
        [first.dot, second.dot]
    });
    let object = store.read(1);
    assert!(!object.holds(dots[0]) && object.holds(dots[1]));
}

#[test]
fn a_damaged_record_ends_the_actor_and_forgets_the_frontier_not_the_data() {
    let mut store = Store::new(1);
    let kept = store.write(put(1, 1, Context::default())).unwrap();
    store.write(put(2, 2, Context::default())).unwrap();
    rot(&store, Space::Objects, address(2).stored());

    for _ in 0..2 {
        let refused = store.turn(|vnode, turn| vnode.read(turn, &address(2))).unwrap_err();
        assert_eq!(refused.kind(), "damaged", "never not-found, never wrong bytes");
    }
    assert_eq!(store.corrupt, 1, "each record is counted once");
    assert_eq!(store.vnode.frontier().iter().count(), 0);
    assert!(store.read(1).holds(kept.dot));
    let seen = KeyRange::prefix(&record::frontier_prefix(ID));
    assert_eq!(store.engine.scan(Space::Frontiers, seen).count(), 0);
    assert!(store.vnode.recount().is_some(), "others would not hear of key 1 else");

    let written = store.write(put(1, 3, Context::default())).unwrap();
    assert_ne!(written.dot.actor, kept.dot.actor, "what was lost may not be covered");
}

#[test]
fn only_a_mend_replaces_a_damaged_record() {
    let mut store = Store::new(1);
    let lost = store.write(put(1, 1, Context::default())).unwrap();
    let others = Store::new(2).write(put(1, 2, Context::default())).unwrap();
    rot(&store, Space::Objects, address(1).stored());

    // Neither is recorded, so that an earlier request may yet be applied.
    for (doubtful, outcome) in
        [(None, Outcome::NotApplied), (Some(operation(3)), Outcome::Unknown(operation(3)))]
    {
        let write = Write { doubtful, ..put(1, 3, Context::default()) };
        let refused = store.write(write).unwrap_err();
        assert_eq!((refused.error.kind(), refused.outcome), ("damaged", outcome));
    }
    let object = others.object.clone();
    let mut merge = Merge {
        address: address(1),
        object,
        operation: None,
        clock_ms: 0,
        wait_ms: 0,
        mend: false,
        way: Way::Write,
    };
    let refused = store.turn(|vnode, turn| vnode.merge(turn, merge.clone())).unwrap_err();
    assert_eq!(refused.kind(), "damaged", "it may hold less than what was acknowledged here");
    assert!(store.turn(|vnode, turn| vnode.read(turn, &address(1))).is_err());

    merge.mend = true;
    store.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
    assert_eq!(store.mended, Mended { mended: 1, lost: 0 });
    assert!(store.read(1).holds(others.dot) && !store.read(1).holds(lost.dot));
    assert!(store.vnode.frontier().contains(others.dot));
    let written = store.write(put(1, 4, Context::default())).unwrap();
    assert_ne!(written.dot.actor, lost.dot.actor);

    rot(&store, Space::Objects, address(1).stored());
    let nothing = EncodedObject::default();
    let merge = Merge {
        address: address(1),
        object: nothing,
        operation: None,
        clock_ms: 0,
        wait_ms: 0,
        mend: true,
        way: Way::Write,
    };
    store.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
    assert_eq!(store.mended, Mended { mended: 0, lost: 1 }, "never without a count");
    assert!(store.read(1).is_absent());
    assert_eq!(store.corrupt, 2, "a second damage of one record is another");
}

#[test]
fn too_many_siblings_are_refused_before_a_dot_exists() {
    let mut store = Store::new(1);
    for sequence in 0..SIBLINGS_MAX as u64 {
        store.write(put(1, sequence, Context::default())).unwrap();
    }
    let before = store.vnode.frontier().clone();
    let refused = store.write(put(1, 1_000, Context::default())).unwrap_err();
    let count = SIBLINGS_MAX as u32;
    assert_eq!(refused, WriteError::not_applied(RequestError::TooManySiblings { count }));
    assert_eq!(store.vnode.frontier(), &before);
    let context = Context::of_read(&store.read(1));
    let again = store.write(put(1, 1_000, context.clone())).unwrap_err();
    assert_eq!(again.outcome, crate::error::Outcome::NotApplied, "what was refused stays refused");
    assert!(store.write(put(1, 1_001, context)).is_ok(), "a write with a context resolves them");
}

#[test]
fn a_malformed_object_of_a_peer_stages_nothing() {
    let mut store = Store::new(1);
    let object = EncodedObject(Bytes::from_static(b"\x01garbage"));
    let merge = Merge {
        address: address(1),
        object,
        operation: None,
        clock_ms: 0,
        wait_ms: 0,
        mend: false,
        way: Way::Write,
    };
    let refused = store.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap_err();
    assert_eq!(refused.kind(), "invalid");
    assert!(store.read(1).is_absent());
}

/// What a peer says of writes of this very vnode is wrong if they were not made yet; to believe it
/// would be to make them twice.
#[test]
fn an_object_that_names_writes_which_were_never_made_is_refused() {
    let mut store = Store::new(1);
    let written = store.write(put(1, 1, Context::default())).unwrap();
    let next = Dot { n: written.dot.n + 1, ..written.dot };
    let object = Object::from_parts(Vec::new(), [next].into_iter().collect()).unwrap();
    let object = EncodedObject::new(&object);
    let merge = Merge {
        address: address(1),
        object,
        operation: None,
        clock_ms: 0,
        wait_ms: 0,
        mend: false,
        way: Way::Write,
    };
    let refused = store.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap_err();
    assert_eq!(refused.kind(), "invalid", "{refused}");
    assert!(store.read(1).holds(written.dot), "nothing was merged");
    assert_eq!(store.write(put(1, 2, Context::default())).unwrap().dot, next);
}

#[test]
fn a_refusal_is_recorded_and_holds_for_late_copies() {
    let mut store = Store::new(1);
    let mut refused = put(1, 1, Context::default());
    refused.refusal = Some(RequestError::not_ready("too few owners"));
    let error = store.write(refused).unwrap_err();
    assert_eq!(error, WriteError::not_applied(RequestError::not_ready("too few owners")));
    let late = store.write(put(1, 1, Context::default())).unwrap_err();
    assert_eq!(late.outcome, crate::error::Outcome::NotApplied);
    assert!(store.read(1).is_absent());

    let done = store.write(put(1, 2, Context::default())).unwrap();
    let mut retry = put(1, 2, Context::default());
    retry.refusal = Some(RequestError::not_ready("too few owners"));
    assert_eq!(store.write(retry).unwrap().dot, done.dot, "a retry of a write that was done");
}

/// Overwrites a stored value with bytes that nobody wrote.
fn rot(store: &Store, space: Space, key: Bytes) {
    let mut batch = Batch::new();
    batch.put(space, key, Bytes::from_static(b"\x01rotten bytes"));
    store.engine.apply(batch).unwrap();
}

#[test]
fn a_retry_whose_record_is_damaged_is_of_unknown_outcome() {
    let mut store = Store::new(1);
    let written = store.write(put(1, 1, Context::default())).unwrap();
    rot(&store, Space::Operations, record::operation_key(ID, &operation(1)));
    let retry = store.write(put(1, 1, Context::default())).unwrap_err();
    assert_eq!(retry.outcome, crate::error::Outcome::Unknown(operation(1)));
    assert!(store.read(1).holds(written.dot), "it was applied all the while");
}

#[test]
fn a_retry_of_a_write_that_rot_took_is_not_acknowledged_again() {
    let mut store = Store::new(1);
    store.write(put(1, 1, Context::default())).unwrap();
    rot(&store, Space::Objects, address(1).stored());
    let retry = store.write(put(1, 1, Context::default())).unwrap_err();
    assert_eq!(retry.outcome, crate::error::Outcome::Unknown(operation(1)));
    let nothing = EncodedObject::default();
    let merge = Merge {
        address: address(1),
        object: nothing,
        operation: None,
        clock_ms: 0,
        wait_ms: 0,
        mend: true,
        way: Way::Write,
    };
    store.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
    let retry = store.write(put(1, 1, Context::default())).unwrap_err();
    assert_eq!(retry.outcome, crate::error::Outcome::Unknown(operation(1)));
}

#[test]
fn only_the_named_coordinator_says_not_applied_and_others_may_be_asked_again() {
    let mut store = Store::new(1);
    let mut elsewhere = put(1, 1, Context::default());
    elsewhere.operation.coordinator = NodeId(2);
    elsewhere.at_least_once = true;
    let refused = Write { refusal: Some(RequestError::not_ready("alone")), ..elsewhere.clone() };
    let error = store.write(refused.clone()).unwrap_err();
    assert_eq!(error, WriteError::unknown(elsewhere.operation, RequestError::not_ready("alone")));
    assert!(store.write(elsewhere).is_ok(), "once its peers are back");

    let mut made_up = Write { address: address(2), ..refused };
    made_up.operation = OperationId { opening: Opening(0), sequence: 2, ..operation(1) };
    let error = store.write(made_up.clone()).unwrap_err();
    assert_eq!(error.outcome, crate::error::Outcome::NotApplied);
    made_up.refusal = None;
    assert!(store.write(made_up).is_err(), "a copy that comes late");
}

#[test]
fn siblings_are_bounded_in_bytes_so_that_the_object_can_travel() {
    let mut store = Store::new(1);
    let large = Bytes::from(vec![0; siblings_max_bytes(ID.n) / 2]);
    for sequence in 1..=2 {
        let change = Change::put(large.clone());
        store.write(Write { change, ..put(1, sequence, Context::default()) }).unwrap();
    }
    let refused = store.write(put(1, 3, Context::default())).unwrap_err();
    assert_eq!(refused, WriteError::not_applied(RequestError::TooManySiblings { count: 2 }));
    let context = Context::of_read(&store.read(1));
    assert!(store.write(put(1, 4, context)).is_ok());
}
