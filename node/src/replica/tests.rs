//! A replica among others that a test plays.

mod exchange;

use std::collections::BTreeMap;

use futures::future::BoxFuture;

use super::*;
use crate::dynamo::clock::{Actor, Dot, Hlc, VersionVector};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{Key, PartitionCount};
use crate::dynamo::metadata::Document;
use crate::dynamo::metadata::document::{
    ClusterId, ClusterKey, FirstDocument, Member, NewNamespace,
};
use crate::dynamo::object::{Entry, Object};
use crate::dynamo::operation::{Change, OperationId};
use crate::dynamo::standing::Standing;
use crate::env::SystemClock;
use crate::error::RequestError;
use crate::limits::budget::Budget;
use crate::limits::concurrency::Concurrency;
use crate::standing;
use crate::storage::memory::MemoryEngine;
use crate::transport::{
    self, Answer, Compared, ForwardWrite, Held, Hints, PeerError, Replicate, Reply, Request,
    ScanPageReply,
};

const NAMES: [&str; 3] = ["node-1", "node-2", "node-3"];
const PARTITIONS: usize = 8;

/// Of the partitions, as many are told by the others before they fall silent.
const TOLD: u16 = 5;

/// Two nodes that hold nothing, and say so of the first partitions alone.
struct Others(Arc<Document>);

impl Peers for Others {
    fn request(
        &self,
        _: NodeId,
        request: Request,
        _: Duration,
    ) -> BoxFuture<'static, Result<Reply, PeerError>> {
        let reply = match request {
            Request::Document => Reply::Document(Some(self.0.encode())),
            Request::Frontiers { asked, .. } => {
                let same = Answer { compared: Compared::Same, remembered: None };
                Reply::Frontiers { answers: vec![same; asked.len()], settled: true }
            }
            Request::ScanPage(page) if page.partition.0 < TOLD => Reply::ScanPage(ScanPageReply {
                items: Vec::new(),
                damaged: Vec::new(),
                complete: true,
                standing: Standing::Good,
            }),
            _ => return std::future::pending().boxed(),
        };
        std::future::ready(Ok(reply)).boxed()
    }

    fn connected(&self, _: NodeId) -> bool {
        true
    }
}

fn document() -> Document {
    let member = |name: &str| Member {
        node: NodeId::of_name(name),
        name: name.to_owned(),
        zone: String::new(),
        weight: 1,
        peer_address: format!("{name}:7501"),
        client_address: format!("{name}:7401"),
    };
    let voter = |name| Voter { node: NodeId::of_name(name), store: StoreId(1) };
    let first = Document::first(FirstDocument {
        cluster: ClusterId([1; 16]),
        cluster_key: ClusterKey([2; 32]),
        partitions: PartitionCount::new(PARTITIONS as u64).unwrap(),
        members: NAMES.map(member).to_vec(),
        voters: NAMES.map(voter).to_vec(),
    });
    let place = |_| (0..PARTITIONS).flat_map(|_| NAMES.map(NodeId::of_name)).collect();
    first.unwrap().with_namespace(NewNamespace::named("things"), place).unwrap()
}

fn start(engine: MemoryEngine, metrics: &Arc<Metrics>, stop: &CancellationToken) -> Replica {
    start_with(engine, metrics, stop, Duration::ZERO)
}

/// One whose storage takes so long for each request.
fn start_with(
    engine: MemoryEngine,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
    cost: Duration,
) -> Replica {
    let (others, every) = (Arc::new(Others(Arc::new(document()))), tasks::EXCHANGE_EVERY);
    start_among(others, engine, (cost, every), metrics, stop)
}

/// One among these others, which looks so often what it missed.
fn start_among(
    peers: Arc<dyn Peers>,
    engine: MemoryEngine,
    (cost, exchange_every): (Duration, Duration),
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Replica {
    let parts = ReplicaParts {
        node: NodeId::of_name(NAMES[0]),
        store: StoreId(1),
        engine: Arc::new(engine),
        peers,
        env: Env::simulated(Arc::new(SystemClock), 1).with_request_cost(cost),
        metrics: metrics.clone(),
        capacity: Capacity {
            concurrency: Concurrency::new(16, Duration::from_secs(1)),
            budget: Budget::unbounded(),
            engine_bytes: 0,
        },
        probe: None,
        excused: BTreeSet::new(),
    };
    let size = ReplicaSize {
        shards: 1,
        queue: 64,
        sync_every: Duration::from_millis(100),
        clock_skew_max: Duration::from_millis(500),
        hints_max_bytes: 1 << 30,
        exchange_every,
        trees_every: Duration::from_secs(86_400),
        scrub_every: Duration::from_secs(86_400),
    };
    Replica::start(parts, size, stop.clone()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_metric_of_a_rebuild_counts_down_as_the_page_does() {
    let (engine, metrics, stop) =
        (MemoryEngine::new(), Arc::new(Metrics::new()), CancellationToken::new());
    standing::mark(&engine).unwrap();
    let replica = start(engine, &metrics, &stop);
    replica.cluster().learn(document().encode()).await.unwrap();
    let mut progress = replica.coordinator().standings().progress();
    let told = |progress: &Option<standing::Progress>| {
        progress.as_ref().is_some_and(|now| now.complete == usize::from(TOLD))
    };
    progress.wait_for(told).await.unwrap();

    let (left, page) = (PARTITIONS - usize::from(TOLD), metrics.encode());
    let line = format!("quorate_rebuild_vnodes_left {left}\n");
    assert!(page.contains(&line), "{line} is not in:\n{page}");
    stop.cancel();
}

/// An object of another node's coordinator.
fn object() -> EncodedObject {
    object_of(1)
}

/// One whose only write is its `n`-th.
fn object_of(n: u64) -> EncodedObject {
    let dot = Dot { actor: Actor(7), n };
    let operation = OperationId {
        issued_ms: 1,
        coordinator: NodeId::of_name(NAMES[2]),
        opening: Opening(1),
        client: 1,
        sequence: 1,
    };
    let (payload, time) = ("value".into(), Hlc(1));
    let entry = Entry { payload, time, deadline_ms: None, operation, origin: dot };
    let mut object = Object::default();
    object.write(dot, &VersionVector::new(), entry);
    EncodedObject::new(&object)
}

#[tokio::test(start_paused = true)]
async fn a_hint_is_kept_for_an_owner_alone_and_told_as_a_fallback_does() {
    let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
    let replica = start(MemoryEngine::new(), &metrics, &stop);
    replica.cluster().learn(document().encode()).await.unwrap();
    let namespace = document().namespaces[0].id;
    let [me, owner, other] = NAMES.map(NodeId::of_name);
    let ask = |request| replica.handler().handle(other, request, Duration::from_secs(1));
    let hint = |key: &'static str, target| Replicate {
        namespace,
        key: Key::new(key).unwrap(),
        object: object(),
        synced: true,
        operation: None,
        clock_ms: 0,
        mend: false,
        hint_for: target,
    };
    let kept = ask(Request::Replicate(hint("a", Some(owner)))).await;
    assert_eq!(kept, Reply::Replicated { synced: true });
    for target in [me, NodeId::of_name("node-9")] {
        let refused = ask(Request::Replicate(hint("b", Some(target)))).await;
        assert!(matches!(refused, Reply::Failed(RequestError::Invalid { .. })), "{refused:?}");
    }
    let batch = vec![hint("a", Some(other)), hint("c", Some(me)), hint("d", None)];
    let Reply::ReplicatedBatch(kept) = ask(Request::ReplicateBatch(batch)).await else { panic!() };
    assert!(kept[0].is_ok() && kept[1].is_err() && kept[2].is_ok(), "{kept:?}");

    let read = |key: &'static str, hint| {
        let key = Key::new(key).unwrap();
        transport::Read { namespace, key, digest: false, hint }
    };
    let held = |object, standing| (Held::Object(object), standing);
    let reads = [("a", true), ("a", false), ("d", true), ("d", false)];
    let reads = reads.map(|(key, hint)| read(key, hint)).to_vec();
    let Reply::HeldBatch(found) = ask(Request::ReadBatch(reads)).await else { panic!() };
    let nothing = EncodedObject::default;
    let expected = [
        held(object(), Standing::Fallback),
        held(nothing(), Standing::Good),
        held(nothing(), Standing::Fallback),
        held(object(), Standing::Good),
    ];
    assert_eq!(found, expected.map(Ok));
    let (held, standing) = held(object(), Standing::Fallback);
    assert_eq!(ask(Request::Read(read("a", true))).await, Reply::Held { held, standing });

    let Reply::Hints(Hints { queues, full: false }) = ask(Request::Hints).await else { panic!() };
    let counts: BTreeMap<_, _> = queues.iter().map(|queue| (queue.target, queue.count)).collect();
    assert_eq!(counts, [(owner, 1), (other, 1)].into());
    stop.cancel();
}

/// A write that another node sent on, for all owners.
fn forwarded(replica: &Replica, key: &'static str) -> ForwardWrite {
    let coordinator = replica.coordinator();
    let operation = OperationId {
        issued_ms: coordinator.env().now_ms(),
        coordinator: coordinator.node(),
        opening: coordinator.opening(),
        client: coordinator.env().random(),
        sequence: 1,
    };
    ForwardWrite {
        namespace: document().namespaces[0].id,
        key: Key::new(key).unwrap(),
        change: Change::put("value"),
        context: Default::default(),
        w: 3,
        synced: false,
        at_least_once: false,
        fresh: true,
        sloppy: false,
        operation,
    }
}

/// Sends a write alone and two in a batch to a replica whose storage takes so long, and waits so long for
/// each. How many hints are kept then, by owner: the others never answer.
async fn kept_of_what_nobody_waited_for(cost: Duration, patience: Duration) -> Vec<u64> {
    let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
    let replica = start_with(MemoryEngine::new(), &metrics, &stop, cost);
    replica.cluster().learn(document().encode()).await.unwrap();
    let other = NodeId::of_name(NAMES[1]);
    let batch = ["b", "c"].map(|key| forwarded(&replica, key)).to_vec();
    let requests =
        [Request::ForwardWrite(forwarded(&replica, "a")), Request::ForwardWriteBatch(batch)];
    for request in requests {
        let answering = replica.handler().handle(other, request, Duration::from_secs(1));
        // Who gives up drops what would have been the answer.
        tokio::time::timeout(patience, answering).await.ok();
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let queues = replica.coordinator().shards().hint_queues();
    stop.cancel();
    queues.iter().map(|queue| queue.count).collect()
}

#[tokio::test(start_paused = true)]
async fn a_write_is_followed_up_whatever_becomes_of_the_request_that_sent_it() {
    let kept = kept_of_what_nobody_waited_for(Duration::ZERO, Duration::from_millis(100)).await;
    assert_eq!(kept, [3, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_storage_applies_late_is_followed_up_all_the_same() {
    let (cost, patience) = (Duration::from_millis(1500), Duration::from_secs(60));
    assert_eq!(kept_of_what_nobody_waited_for(cost, patience).await, [3, 3]);
}
