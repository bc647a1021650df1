//! What every transport must do, run over each of them.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::grpc::testing::{Node, incarnation};
use super::memory::MemoryNetwork;
use super::{Handler, Hints, PeerError, Peers, Reply, Request};
use crate::dynamo::key::NodeId;

/// Answers `Register` with its own bytes: those that begin with "slow" wait for a permit of the
/// gate, those that begin with "never" for ever.
pub(super) struct TestHandler {
    pub(super) version: AtomicU64,
    pub(super) gate: Arc<Semaphore>,
    /// Who told of newer metadata, and the number of requests handled before.
    pub(super) heard: Mutex<Vec<(NodeId, u64)>>,
    pub(super) handled: AtomicU64,
}

impl Default for TestHandler {
    fn default() -> Self {
        Self {
            version: AtomicU64::new(1),
            gate: Arc::new(Semaphore::new(0)),
            heard: Mutex::default(),
            handled: AtomicU64::new(0),
        }
    }
}

impl Handler for TestHandler {
    fn handle(&self, _: NodeId, request: Request, _: Duration) -> BoxFuture<'static, Reply> {
        self.handled.fetch_add(1, Ordering::Relaxed);
        let message = match request {
            Request::Register(message) => message,
            Request::Gossip(_) => return Box::pin(async { Reply::Heard }),
            Request::Hints => return Box::pin(async { Reply::Hints(Hints::default()) }),
            other => panic!("{other:?}"),
        };
        let gate = self.gate.clone();
        Box::pin(async move {
            if message.starts_with(b"slow") {
                gate.acquire().await.unwrap().forget();
            }
            if message.starts_with(b"never") {
                pending::<()>().await;
            }
            Reply::Register(message)
        })
    }

    fn metadata_version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    fn newer_metadata(&self, from: NodeId, version: u64) -> BoxFuture<'static, ()> {
        self.heard.lock().unwrap().push((from, self.handled.load(Ordering::Relaxed)));
        self.version.fetch_max(version, Ordering::Relaxed);
        Box::pin(async {})
    }
}

pub(super) const ONE: NodeId = NodeId(1);
pub(super) const TWO: NodeId = NodeId(2);
pub(super) const LONG: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < LONG, "still waiting: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Two connected nodes, seen from the first one.
struct Pair {
    peers: Arc<dyn Peers>,
    here: Arc<TestHandler>,
    there: Arc<TestHandler>,
    end_two: BoxFuture<'static, ()>,
    _one: Option<Node>,
}

impl Pair {
    async fn grpc() -> Self {
        let (one, two) =
            (Node::start(incarnation(1, 1)).await, Node::start(incarnation(2, 1)).await);
        one.meet(&two);
        two.meet(&one);
        until("connected", || one.peers.connected(TWO) && two.peers.connected(ONE)).await;
        let (here, there) = (one.handler.clone(), two.handler.clone());
        let end_two = Box::pin(two.stop());
        Self { peers: one.peers.clone(), here, there, end_two, _one: Some(one) }
    }

    async fn memory() -> Self {
        let network = MemoryNetwork::seeded(1);
        let (here, there) = (Arc::new(TestHandler::default()), Arc::new(TestHandler::default()));
        let [one, two] = [ONE, TWO].map(|node| network.peers(node));
        for (life, handler) in [(&one, &here), (&two, &there)] {
            let handler: Arc<dyn Handler> = handler.clone();
            network.attach(life, &handler);
        }
        let end_two = Box::pin(async move { network.detach(&two) });
        Self { peers: one, here, there, end_two, _one: None }
    }

    fn ask(&self, message: &Bytes) -> BoxFuture<'static, Result<Reply, PeerError>> {
        self.peers.request(TWO, Request::Register(message.clone()), LONG)
    }
}

macro_rules! suite {
    ($($name:ident),+ $(,)?) => {
        mod grpc {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Pair::grpc().await).await;
            })+
        }
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(super::Pair::memory().await).await;
            })+
        }
    };
}

suite! {
    requests_are_answered,
    answers_come_out_of_order,
    large_messages_pass,
    late_answers_time_out,
    an_ended_peer_breaks_what_waits_and_refuses_the_rest,
    nobody_but_other_members_is_asked,
    newer_metadata_is_fetched_before_the_request_is_handled,
    newer_metadata_in_answers_is_fetched,
    dropped_requests_are_handled_all_the_same,
}

async fn requests_are_answered(pair: Pair) {
    let messages: Vec<Bytes> = (0..3000).map(|n| Bytes::from(format!("message {n}"))).collect();
    let answers = join_all(messages.iter().map(|message| pair.ask(message))).await;
    for (message, answer) in messages.into_iter().zip(answers) {
        assert_eq!(answer, Ok(Reply::Register(message)));
    }
}

async fn answers_come_out_of_order(pair: Pair) {
    let (slow, quick) = (Bytes::from_static(b"slow"), Bytes::from_static(b"quick"));
    let waits = pair.ask(&slow);
    for _ in 0..10 {
        assert_eq!(pair.ask(&quick).await, Ok(Reply::Register(quick.clone())));
    }
    pair.there.gate.add_permits(1);
    assert_eq!(waits.await, Ok(Reply::Register(slow)));
}

async fn large_messages_pass(pair: Pair) {
    for length in [1 << 20, 9 << 20] {
        let large = Bytes::from(vec![7; length]);
        assert!(pair.ask(&large).await == Ok(Reply::Register(large)), "{length} bytes");
    }
}

async fn late_answers_time_out(pair: Pair) {
    let never = Request::Register(Bytes::from_static(b"never"));
    let answer = pair.peers.request(TWO, never, Duration::from_millis(30)).await;
    assert_eq!(answer, Err(PeerError::TimedOut));
    let next = Bytes::from_static(b"next");
    assert_eq!(pair.ask(&next).await, Ok(Reply::Register(next)));
}

async fn an_ended_peer_breaks_what_waits_and_refuses_the_rest(pair: Pair) {
    assert!(pair.peers.connected(TWO));
    let waits = pair.ask(&Bytes::from_static(b"slow"));
    until("handled", || pair.there.handled.load(Ordering::Relaxed) == 1).await;
    let peers = pair.peers.clone();
    let ending = tokio::spawn(pair.end_two);
    assert_eq!(waits.await, Err(PeerError::Broken));
    // What runs there runs to its end.
    pair.there.gate.add_permits(1);
    ending.await.unwrap();
    until("disconnected", || !peers.connected(TWO)).await;
    let refused = peers.request(TWO, Request::Document, LONG).await.unwrap_err();
    assert!(matches!(refused, PeerError::Disconnected { .. }) && refused.nothing_sent());
}

async fn nobody_but_other_members_is_asked(pair: Pair) {
    for stranger in [ONE, NodeId(3)] {
        assert!(!pair.peers.connected(stranger));
        let answer = pair.peers.request(stranger, Request::Document, LONG).await;
        assert!(matches!(answer, Err(PeerError::Disconnected { .. })), "{answer:?}");
    }
}

async fn newer_metadata_is_fetched_before_the_request_is_handled(pair: Pair) {
    pair.here.version.store(5, Ordering::Relaxed);
    pair.ask(&Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(*pair.there.heard.lock().unwrap(), [(ONE, 0)]);
    pair.ask(&Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(pair.there.heard.lock().unwrap().len(), 1);
    assert!(pair.here.heard.lock().unwrap().is_empty());
}

async fn newer_metadata_in_answers_is_fetched(pair: Pair) {
    pair.there.version.store(5, Ordering::Relaxed);
    pair.ask(&Bytes::from_static(b"x")).await.unwrap();
    until("fetched", || pair.here.version.load(Ordering::Relaxed) == 5).await;
    assert_eq!(*pair.here.heard.lock().unwrap(), [(TWO, 0)]);
}

async fn dropped_requests_are_handled_all_the_same(pair: Pair) {
    drop(pair.ask(&Bytes::from_static(b"x")));
    until("handled", || pair.there.handled.load(Ordering::Relaxed) == 1).await;
}
