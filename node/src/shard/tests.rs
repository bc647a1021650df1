//! Shards over an engine in memory: what a turn, a sweep or a page must not do.

use std::collections::BTreeSet;
use std::ops::Range;
use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::dynamo::arrival::Way;
use crate::dynamo::clock::{Actor, Dot};
use crate::dynamo::context::Context;
use crate::dynamo::key::{Key, NamespaceId};
use crate::dynamo::metadata::ClusterKey;
use crate::dynamo::metadata::document::Conflict;
use crate::dynamo::operation::{Change, OPERATION_KEPT_MS, PayloadHash};
use crate::dynamo::standing::{Boot, Standing};
use crate::env::{Clock, Pause};
use crate::error::Outcome;
use crate::storage::memory::MemoryEngine;
use crate::storage::watched::Watched;
use crate::storage::{KeyRange, hints as rows, record};
use crate::vnode::KeptHint;

mod exchange;
mod hints;
mod trees;

const NOW_MS: u64 = 3 * OPERATION_KEPT_MS;

struct Still;

impl Clock for Still {
    fn now_ms(&self) -> u64 {
        NOW_MS
    }
}

/// What a shard told its observer.
#[derive(Default)]
struct Heard {
    applied: Mutex<u32>,
    expired: Mutex<u64>,
    panicked: Mutex<Vec<usize>>,
    corrupt: Mutex<u64>,
    recorded: Mutex<u64>,
    arrived: Mutex<Vec<Arrival>>,
    forgotten: Mutex<u64>,
    hinted: Mutex<(u64, u64)>,
}

impl ShardObserver for Heard {
    fn turn(&self, _: usize, _: usize) {}
    fn applied(&self) {
        *self.applied.lock().unwrap() += 1;
    }
    fn corrupt(&self, _: Space, records: u64) {
        *self.corrupt.lock().unwrap() += records;
    }
    fn lied(&self, _: u64) {}
    fn mismatched(&self) {}
    fn arrived(&self, arrivals: &[Arrival]) {
        self.arrived.lock().unwrap().extend_from_slice(arrivals);
    }
    fn mended(&self, _: Mended) {}
    fn recorded(&self, operations: u64) {
        *self.recorded.lock().unwrap() += operations;
    }
    fn forgotten(&self, operations: u64) {
        *self.forgotten.lock().unwrap() += operations;
    }
    fn future(&self, _: u64) {}
    fn crowded(&self) {}
    fn hinted(&self, accepted: u64, refused: u64) {
        let mut hinted = self.hinted.lock().unwrap();
        *hinted = (hinted.0 + accepted, hinted.1 + refused);
    }
    fn expired(&self, requests: u64) {
        *self.expired.lock().unwrap() += requests;
    }
    fn panicked(&self, shard: usize) {
        self.panicked.lock().unwrap().push(shard);
    }
}

struct Bench {
    shards: Shards,
    engine: Arc<MemoryEngine>,
    disk: Arc<Disk>,
    heard: Arc<Heard>,
    pause: Pause,
    standings: Arc<Standings>,
}

const NODE: NodeId = NodeId(1);
const OPENING: Opening = Opening(5);
const VNODE: VnodeId = VnodeId { n: 3, partition: PartitionId(7) };

/// A deadline that does not matter.
fn late() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

/// Two shards that run as tasks.
fn bench() -> Bench {
    of(2, Duration::ZERO, 64)
}

/// One, so that whoever asks it waits for it.
fn one_shard() -> Bench {
    of(1, Duration::ZERO, 64)
}

/// So many shards, whose requests take so long, and whose queues hold so many.
fn of(shards: usize, cost: Duration, queue: usize) -> Bench {
    let hints = HintQueues::open(&MemoryEngine::new(), 1 << 20).unwrap();
    with_hints((shards, queue), cost, hints)
}

/// The same, of a node that found these hints.
fn with_hints((shards, queue): (usize, usize), cost: Duration, hints: HintQueues) -> Bench {
    let (engine, heard) = (Arc::new(MemoryEngine::new()), Arc::new(Heard::default()));
    let (disk, pause) = (Arc::<Disk>::default(), Pause::default());
    // What it says of its own opening is no batch of the shards'.
    let standings = Arc::new(Standings::open(Arc::new(MemoryEngine::new()), Boot(1)).unwrap());
    let env = Env::simulated(Arc::new(Still), 1).with_request_cost(cost).with_pause(pause.clone());
    let context = ShardContext {
        node: NODE,
        opening: OPENING,
        engine: Arc::new(Watched::new(engine.clone(), disk.clone())),
        disk: disk.clone(),
        clocks: Arc::new(Clocks::new(env.clone(), 500)),
        hints: Arc::new(hints),
        env,
        budget: Budget::unbounded(),
        hash_key: Arc::new(ClusterKey([7; 32]).into()),
        standings: standings.clone(),
        observer: heard.clone(),
    };
    let (shards, _) = Shards::start(context, shards, queue);
    Bench { shards, engine, disk, heard, pause, standings }
}

fn address(namespace: u64, key: &str) -> Address {
    let (key, conflict) = (Key::new(key.to_owned()).unwrap(), Conflict::Siblings);
    Address { vnode: VNODE, namespace: NamespaceId(namespace), key, conflict }
}

fn put(address: Address, sequence: u64, value: Bytes) -> Write {
    let operation =
        OperationId { issued_ms: NOW_MS, coordinator: NODE, opening: OPENING, client: 1, sequence };
    let (change, context) = (Change::put(value), Context::default());
    Write {
        address,
        change,
        ttl: None,
        seen: None,
        context,
        operation,
        at_least_once: false,
        doubtful: None,
        refusal: None,
    }
}

impl Bench {
    async fn put(&self, namespace: u64, key: &str, sequence: u64) -> Result<Written, WriteError> {
        let write = put(address(namespace, key), sequence, Bytes::from_static(b"value"));
        self.shards.write(write, false, late()).await
    }

    async fn page(&self, prefix: Vec<u8>, after: Option<Key>, limit: usize) -> Page {
        let (namespace, prefix) = (NamespaceId(1), prefix.into());
        let conflict = Conflict::Siblings;
        let range = PageRange { vnode: VNODE, namespace, prefix, after, limit, conflict };
        self.shards.page(range, late()).await.unwrap()
    }

    /// Stores what key 1/key holds as if it had been written under an operation of that time.
    async fn merge_under(&self, operation: OperationId, issued_ms: u64) {
        let merge = Merge {
            address: address(1, "key"),
            object: self.shards.read(address(1, "key"), late()).await.unwrap(),
            operation: Some((
                OperationId { issued_ms, ..operation },
                Dot { actor: Actor(1), n: 1 },
                PayloadHash(0),
            )),
            clock_ms: 0,
            wait_ms: 0,
            mend: false,
            way: Way::Write,
        };
        self.shards.merge(merge, false, late()).await.unwrap();
    }

    fn operations(&self) -> usize {
        self.engine.scan(Space::Operations, KeyRange::all()).count()
    }

    async fn actor_of(&self, namespace: u64, key: &str) -> Actor {
        let held = self.shards.read(address(namespace, key), late()).await.unwrap();
        held.decode(Conflict::Siblings).unwrap().version().iter().next().unwrap().actor
    }

    async fn holds(&self, namespace: u64, key: &str) -> bool {
        let held = self.shards.read(address(namespace, key), late()).await.unwrap();
        !held.decode(Conflict::Siblings).unwrap().is_absent()
    }
}

#[tokio::test]
async fn a_sweep_spares_namespaces_younger_than_the_metadata_it_goes_by() {
    let bench = bench();
    for (namespace, sequence) in [(1, 1), (2, 2), (3, 3)] {
        bench.put(namespace, "key", sequence).await.unwrap();
    }
    // The sweep was decided when namespace 1 was gone, 2 existed, and 3 had yet to be made.
    let live = LiveNamespaces { known: [NamespaceId(2)].into(), next: NamespaceId(3) };
    assert_eq!(bench.shards.sweep(live).await, Ok(1));
    assert!(!bench.holds(1, "key").await);
    assert!(bench.holds(2, "key").await);
    assert!(bench.holds(3, "key").await, "acknowledged, and not dropped");
}

#[tokio::test]
async fn after_a_failed_batch_writes_are_refused_and_reads_go_on() {
    let bench = bench();
    bench.put(1, "key", 1).await.unwrap();
    bench.engine.fail_next_sync();
    bench.engine.sync().unwrap_err();
    let failed = bench.put(1, "key", 2).await.unwrap_err();
    assert!(matches!(failed.outcome, crate::error::Outcome::Unknown(_)));
    let refused = bench.put(1, "key", 3).await.unwrap_err();
    assert_eq!(refused.outcome, crate::error::Outcome::NotApplied);
    assert!(matches!(refused.error, RequestError::DiskFailed { .. }), "{refused}");
    let merge = Merge {
        address: address(1, "key"),
        object: EncodedObject::default(),
        operation: None,
        clock_ms: 0,
        wait_ms: 0,
        mend: false,
        way: Way::Write,
    };
    let refused = bench.shards.merge(merge, false, late()).await.unwrap_err();
    assert!(matches!(refused, RequestError::DiskFailed { .. }), "no ack is counted: {refused}");
    assert!(bench.holds(1, "key").await);
}

/// Of a batch, each key hears the same: *unknown* of what was staged, *not applied* from then on.
#[tokio::test]
async fn a_batch_of_writes_hears_of_a_failing_disk_key_by_key() {
    let bench = bench();
    bench.engine.fail_next_sync();
    bench.engine.sync().unwrap_err();
    let batch = |first: u64| -> Vec<Write> {
        let write =
            |n: u64| put(address(1, &format!("key-{n}")), first + n, Bytes::from_static(b"v"));
        (0..5).map(write).collect()
    };
    let ids: Vec<_> = batch(1).iter().map(|write| write.operation).collect();
    let failed = bench.shards.write_batch(batch(1), false, late()).await;
    let unknown = failed.into_iter().map(|outcome| outcome.unwrap_err().outcome);
    assert!(unknown.eq(ids.into_iter().map(Outcome::Unknown)));
    let merge = Merge {
        address: address(1, "key-1"),
        object: EncodedObject::default(),
        operation: None,
        clock_ms: 0,
        wait_ms: 0,
        mend: false,
        way: Way::Write,
    };
    for refused in bench.shards.write_batch(batch(10), false, late()).await {
        let refused = refused.unwrap_err();
        assert_eq!(refused.outcome, Outcome::NotApplied);
        assert!(matches!(refused.error, RequestError::DiskFailed { .. }), "{refused}");
    }
    let merged = bench.shards.merge_batch(vec![merge.clone(), merge], false, late()).await;
    assert_eq!(merged.len(), 2);
    for refused in merged {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, RequestError::DiskFailed { .. }), "no ack is counted: {refused}");
    }
    let reads = vec![address(1, "key-1"), address(1, "key-2")];
    assert!(bench.shards.read_batch(reads, late()).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn after_a_failed_sync_of_a_shard_writes_are_refused_too() {
    let bench = bench();
    bench.engine.fail_next_sync();
    let write = put(address(1, "key"), 1, Bytes::from_static(b"value"));
    let failed = bench.shards.write(write, true, late()).await.unwrap_err();
    assert!(matches!(failed.outcome, crate::error::Outcome::Unknown(_)));
    assert!(matches!(failed.error, RequestError::DiskFailed { .. }), "{failed}");
    let refused = bench.put(1, "key", 2).await.unwrap_err();
    assert_eq!(refused.outcome, crate::error::Outcome::NotApplied);
    assert!(matches!(refused.error, RequestError::DiskFailed { .. }), "{refused}");
}

/// A full disk that has space again: what is refused meanwhile leaves no record, and a copy of it would
/// be new.
#[tokio::test]
async fn a_refusal_that_could_not_be_recorded_is_no_refusal() {
    let bench = bench();
    let refused = |sequence| Write {
        refusal: Some(RequestError::invalid("refused")),
        ..put(address(1, "key"), sequence, Bytes::from_static(b"value"))
    };
    let outcome_of = |failed: Result<Written, WriteError>| failed.unwrap_err().outcome;
    for synced in [false, true] {
        let id = refused(1).operation;
        bench.engine.fill_next_apply(true);
        let failed = bench.shards.write(refused(1), synced, late()).await.unwrap_err();
        assert!(matches!(failed.error, RequestError::DiskFull { .. }), "{failed}");
        assert_eq!(failed.outcome, Outcome::Unknown(id));
        bench.disk.on_free(u64::MAX, 0);

        bench.engine.fill_next_apply(true);
        let ids = [2, 3].map(|sequence| Outcome::Unknown(refused(sequence).operation));
        let failed = bench.shards.write_batch(vec![refused(2), refused(3)], synced, late()).await;
        assert!(failed.into_iter().map(outcome_of).eq(ids));
        bench.disk.on_free(u64::MAX, 0);
    }
    let recorded = bench.shards.write(refused(1), false, late()).await;
    assert_eq!(outcome_of(recorded), Outcome::NotApplied);
    let copy = Write { refusal: None, ..refused(1) };
    assert_eq!(outcome_of(bench.shards.write(copy, false, late()).await), Outcome::NotApplied);
    assert!(!bench.holds(1, "key").await);
    let unrecorded = Write { refusal: None, ..refused(2) };
    bench.shards.write(unrecorded, false, late()).await.expect("that one is new");
}

#[tokio::test]
async fn a_shard_that_panics_is_told_of() {
    let bench = bench();
    let mut broken = put(address(1, "key"), 1, Bytes::from_static(b"value"));
    bench.put(1, "key", 1).await.unwrap();
    // A context that covers dots which nobody can have read: no token opens to it.
    let next = Dot { actor: bench.actor_of(1, "key").await, n: u64::MAX };
    broken.operation.sequence = 2;
    broken.context.version = [next].into_iter().collect();
    bench.shards.write(broken, false, late()).await.unwrap_err();
    assert_eq!(*bench.heard.panicked.lock().unwrap(), [1]);
}

#[tokio::test]
async fn pages_are_bounded_in_bytes_and_add_up() {
    let bench = bench();
    for key in 0..5 {
        let value = Bytes::from(vec![0; 700 << 10]);
        let write = put(address(1, &format!("key-{key}")), key, value);
        bench.shards.write(write, false, late()).await.unwrap();
    }
    let (mut found, mut after) = (0, None);
    loop {
        let page = bench.page(Vec::new(), after, 256).await;
        assert!(page.items.len() <= 2, "two of them fill a page");
        found += page.items.len();
        after = page.items.last().map(|(key, _)| key.clone());
        if page.complete {
            break;
        }
    }
    assert_eq!(found, 5);
    let page = bench.page(Vec::new(), None, 0).await;
    assert_eq!((page.items.len(), page.complete), (1, false), "or a scan would be short");
}

#[tokio::test]
async fn a_prefix_that_no_key_can_have_finds_nothing() {
    let bench = bench();
    bench.put(1, "key", 1).await.unwrap();
    let page = bench.page(vec![b'k'; 70_000], None, 256).await;
    assert_eq!((page.items.len(), page.complete), (0, true));
}

/// What is kept of operations by a clock that was never set.
const KEPT_MS: Range<u64> = NOW_MS - 2 * OPERATION_KEPT_MS..NOW_MS + 2 * OPERATION_KEPT_MS;

#[tokio::test]
async fn operations_are_forgotten_where_no_object_is_left() {
    let bench = bench();
    bench.put(1, "key", 1).await.unwrap();
    bench.merge_under(put(address(1, "key"), 2, Bytes::new()).operation, 0).await;
    let live = LiveNamespaces { known: BTreeSet::new(), next: NamespaceId(2) };
    bench.shards.sweep(live).await.unwrap();
    assert_eq!(bench.shards.forget_operations(KEPT_MS).await, Ok(1));
    assert_eq!(bench.shards.forget_operations(KEPT_MS).await, Ok(0), "the other is young");
}

/// An operator computes from these how the index grows.
#[tokio::test]
async fn each_row_of_the_operation_index_is_counted_once_when_it_comes_and_when_it_goes() {
    let bench = bench();
    let told = || {
        let [recorded, forgotten] = [&bench.heard.recorded, &bench.heard.forgotten];
        (*recorded.lock().unwrap(), *forgotten.lock().unwrap())
    };
    let written = bench.put(1, "key", 1).await.unwrap();
    bench.put(1, "key", 1).await.unwrap();
    let refusal = Some(RequestError::invalid("too few owners"));
    let refused = Write { refusal, ..put(address(1, "key"), 2, Bytes::new()) };
    bench.shards.write(refused, false, late()).await.unwrap_err();
    assert_eq!((told(), bench.operations()), ((2, 0), 2), "a retry records nothing");

    // The same object comes again, and comes under an operation that was not known here.
    let again = |sequence: u64, dot: Dot| Merge {
        address: address(1, "key"),
        object: written.object.clone(),
        operation: Some((
            put(address(1, "key"), sequence, Bytes::new()).operation,
            dot,
            PayloadHash(0),
        )),
        clock_ms: 0,
        wait_ms: 0,
        mend: false,
        way: Way::Write,
    };
    let elsewhere = Dot { actor: Actor(1), n: 1 };
    let merges = vec![again(1, written.dot), again(3, written.dot), again(4, elsewhere)];
    bench.shards.merge_batch(merges.clone(), false, late()).await;
    bench.shards.merge_batch(merges[..2].to_vec(), false, late()).await;
    assert_eq!((told(), bench.operations()), ((4, 0), 4));

    bench.merge_under(again(5, elsewhere).operation.unwrap().0, 0).await;
    assert_eq!(bench.shards.forget_operations(KEPT_MS).await, Ok(1));
    assert_eq!((told(), bench.operations()), ((5, 1), 4));
    bench.engine.fail_next_sync();
    bench.engine.sync().unwrap_err();
    bench.put(1, "key", 6).await.unwrap_err();
    assert_eq!(told(), (5, 1), "what was not applied is not counted");
}

/// Else a clock that was hours ahead, and set right, would have each of its writes applied again
/// once their time has come.
#[tokio::test]
async fn of_operations_in_the_future_those_stay_that_nobody_else_can_tell_of() {
    let bench = bench();
    bench.put(1, "key", 1).await.unwrap();
    let mine = put(address(1, "key"), 2, Bytes::new()).operation;
    let others = [
        OperationId { opening: Opening(4), ..mine },
        OperationId { opening: Opening(0), ..mine },
        OperationId { coordinator: NodeId(2), ..mine },
    ];
    let rows = sweep::SWEEP_BATCH as u64 + 100;
    for n in 0..rows {
        bench.merge_under(OperationId { sequence: 9 + n, ..mine }, u64::MAX - n).await;
    }
    for other in others {
        bench.merge_under(other, u64::MAX).await;
    }
    let refused = put(address(1, "other"), 3, Bytes::new());
    let operation = OperationId { issued_ms: u64::MAX, ..refused.operation };
    let refused = Write { operation, ..refused };
    let error = bench.shards.write(refused, false, late()).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::NotApplied);
    assert_eq!(bench.operations(), 1 + rows as usize + others.len() + 1);
    assert_eq!(bench.shards.forget_operations(KEPT_MS).await, Ok(others.len() as u64 + 1));
    assert_eq!(bench.operations(), 1 + rows as usize);
}

#[tokio::test]
async fn a_sweep_goes_step_by_step_and_lets_requests_pass() {
    let bench = bench();
    let keys = sweep::SWEEP_BATCH as u64 + 100;
    for key in 0..keys {
        bench.put(1, &format!("key-{key}"), key).await.unwrap();
    }
    let first = bench.put(2, "key", keys).await.unwrap();
    let known = [NamespaceId(2)].into();
    let sweep = bench.shards.sweep(LiveNamespaces { known, next: NamespaceId(3) });
    let meanwhile = bench.put(2, "key", keys + 1);
    let (swept, second) = tokio::join!(sweep, meanwhile);
    assert_eq!(swept, Ok(keys));
    assert_eq!(second.unwrap().siblings, 2);
    let third = bench.put(2, "key", keys + 2).await.unwrap();
    assert_ne!(third.dot.actor, first.dot.actor, "objects were dropped, so the actor ended");
    for key in 0..keys {
        assert!(!bench.holds(1, &format!("key-{key}")).await);
    }
}

#[tokio::test]
async fn a_sweep_that_finds_nothing_lets_requests_pass_between_its_looks() {
    let bench = one_shard();
    for namespace in 1..=50 {
        bench.put(namespace, "key", namespace).await.unwrap();
    }
    let live = LiveNamespaces { known: (1..=50).map(NamespaceId).collect(), next: NamespaceId(51) };
    let mut sweep = pin!(bench.shards.sweep(live));
    assert!(futures::poll!(&mut sweep).is_pending());
    tokio::select! {
        biased;
        swept = &mut sweep => panic!("before the request that came meanwhile: {swept:?}"),
        written = bench.put(2, "key", 51) => assert_eq!(written.unwrap().siblings, 2),
    }
    assert_eq!(sweep.await, Ok(0));
}

#[tokio::test]
async fn a_sweep_reads_no_more_than_a_mebibyte_or_one_object_at_once() {
    let bench = one_shard();
    for key in 0..9 {
        let value = Bytes::from(vec![0; sweep::SWEEP_BYTES]);
        let write = put(address(1, &format!("key-{key}")), key, value);
        bench.shards.write(write, false, late()).await.unwrap();
    }
    let live = LiveNamespaces { known: [].into(), next: NamespaceId(2) };
    let the_first_goes = async {
        while bench.holds(1, "key-0").await {}
        assert!(bench.holds(1, "key-8").await, "all went at once");
    };
    let (swept, ()) = tokio::join!(bench.shards.sweep(live), the_first_goes);
    assert_eq!(swept, Ok(9));
}

#[tokio::test]
async fn a_damaged_record_that_a_scan_meets_ends_the_actor_and_the_frontier() {
    let stored = record::object_key(VNODE, NamespaceId(1), b"key-2");
    let of_the_other_kind = record::seal(&stored, b"\x02 an lww object, or so it says");
    for rotten in [Bytes::from_static(b"rotten"), of_the_other_kind] {
        let bench = bench();
        let first = bench.put(1, "key-1", 1).await.unwrap();
        bench.put(1, "key-2", 2).await.unwrap();
        let mut rot = Batch::new();
        rot.put(Space::Objects, stored.clone(), rotten);
        bench.engine.apply(rot).unwrap();
        for _ in 0..2 {
            let page = bench.page(Vec::new(), None, 9).await;
            let damaged = Key::new("key-2").unwrap();
            assert_eq!(
                (page.items.len(), page.damaged),
                (1, vec![damaged]),
                "never a shorter list"
            );
        }
        assert_eq!(*bench.heard.corrupt.lock().unwrap(), 1, "each record is counted once");
        let seen = KeyRange::prefix(&record::frontier_prefix(VNODE));
        assert_eq!(bench.engine.scan(Space::Frontiers, seen).count(), 0);
        let third = bench.put(1, "key-3", 3).await.unwrap();
        assert_ne!(third.dot.actor, first.dot.actor);
        assert!(bench.holds(1, "key-1").await);
    }
}

fn write_of(sequence: u64) -> Write {
    put(address(1, &format!("key-{sequence}")), sequence, Bytes::from_static(b"value"))
}

#[tokio::test(start_paused = true)]
async fn what_comes_too_late_leaves_the_queue_undone() {
    let bench = of(2, Duration::from_millis(100), 64);
    let in_ms = |ms| Instant::now() + Duration::from_millis(ms);
    let first = bench.shards.write(write_of(1), false, in_ms(900));
    let second = async {
        // While the first turn runs.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let retried = Write { doubtful: Some(write_of(3).operation), ..write_of(3) };
        futures::join!(
            bench.shards.write(write_of(2), false, in_ms(60)),
            bench.shards.write(retried, false, in_ms(150)),
            bench.shards.read(address(1, "key-1"), in_ms(150)),
            bench.shards.write(write_of(5), false, in_ms(900)),
        )
    };
    let (first, (expired, hopeless, read, last)) = futures::join!(first, second);
    assert!(first.is_ok() && last.is_ok());
    let expired = expired.unwrap_err();
    assert_eq!((expired.error.kind(), expired.outcome), ("timeout", Outcome::NotApplied));
    let hopeless = hopeless.unwrap_err();
    assert_eq!(hopeless.error.kind(), "overloaded", "the other owners' queues come after this one");
    assert_eq!(hopeless.outcome, Outcome::Unknown(write_of(3).operation), "it was sent before");
    assert!(!read.unwrap().0.is_empty(), "a read need not wait twice");
    assert_eq!(*bench.heard.expired.lock().unwrap(), 2);
    assert!(bench.shards.read(address(1, "key-2"), late()).await.unwrap().0.is_empty());
}

#[tokio::test(start_paused = true)]
async fn new_writes_leave_room_for_what_others_have_begun() {
    let bench = of(2, Duration::from_millis(10), 8);
    let writes = (0..20).map(|n| bench.shards.write(write_of(n), false, late()));
    let writes = futures::future::join_all(writes);
    let merges = async {
        let object = EncodedObject::default();
        let merge = |n: u64| Merge {
            address: address(1, &format!("key-{n}")),
            object: object.clone(),
            operation: None,
            clock_ms: 0,
            wait_ms: 0,
            mend: false,
            way: Way::Write,
        };
        let merges = (0..20).map(|n| bench.shards.merge(merge(n), false, late()));
        futures::future::join_all(merges).await
    };
    let (writes, merges) = futures::join!(writes, merges);
    let refused: Vec<_> = writes.into_iter().filter_map(Result::err).collect();
    assert_eq!((refused.len(), merges.iter().filter(|merged| merged.is_ok()).count()), (14, 2));
    assert!(refused.iter().all(|refused| refused.outcome == Outcome::NotApplied));
    assert!(refused.iter().all(|refused| refused.error.kind() == "overloaded"));

    // A client is told to come back when what waits is done: six requests of 10 ms, on average.
    let writes = (0..20).map(|n| bench.shards.write(write_of(n + 20), false, late()));
    let refused = futures::future::join_all(writes).await.pop().unwrap().unwrap_err();
    let RequestError::Overloaded { retry_after_ms, .. } = refused.error else { panic!() };
    assert!((10..=60).contains(&retry_after_ms), "{retry_after_ms}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_process_applies_nothing_until_it_goes_on() {
    for cost in [Duration::ZERO, Duration::from_secs(1)] {
        let bench = of(2, cost, 64);
        let waits = async {
            let mut write = std::pin::pin!(bench.put(1, "key", 1));
            if !cost.is_zero() {
                // The turn has begun, but not applied what it will.
                assert!(tokio::time::timeout(cost / 2, &mut write).await.is_err());
            }
            bench.pause.set(true);
            let paused = tokio::time::timeout(Duration::from_secs(60), &mut write).await;
            assert!(paused.is_err());
            assert_eq!(
                (*bench.heard.applied.lock().unwrap(), bench.engine.stats().unwrap().keys_approx),
                (0, 0)
            );
            bench.pause.set(false);
            write.await
        };
        assert!(waits.await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_process_finds_that_what_waited_is_over() {
    let bench = bench();
    bench.pause.set(true);
    let deadline = Instant::now() + Duration::from_secs(1);
    let write = put(address(1, "key"), 1, Bytes::from_static(b"value"));
    let write = bench.shards.write(write, false, deadline);
    let goes_on = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        bench.pause.set(false);
    };
    let (written, ()) = tokio::join!(write, goes_on);
    assert!(matches!(written, Err(WriteError { .. })));
    assert_eq!(*bench.heard.expired.lock().unwrap(), 1);
}
