use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::testing::{Newcomer, Node, incarnation};
use super::*;
use crate::error::RequestError;
use crate::transport::conformance::{LONG, ONE, TWO, TestHandler, until};
use crate::transport::{Hints, PeerError, Peers, Reply, Request, listener};

fn message(text: &'static str) -> Request {
    Request::Register(Bytes::from_static(text.as_bytes()))
}

/// Why `node` is not connected to `to`, once it was told something that `contains` this.
async fn refusal(node: &Node, to: NodeId, contains: &str) {
    until(contains, || {
        let answer = futures::FutureExt::now_or_never(node.peers.request(to, message("x"), LONG));
        let Some(Err(PeerError::Disconnected { reason })) = answer else { return false };
        reason.contains(contains)
    })
    .await;
}

#[tokio::test]
async fn another_cluster_is_refused_by_name() {
    let stranger = Incarnation { cluster: [9; 16], ..incarnation(1, 1) };
    let (one, two) = (Node::start(stranger).await, Node::start(incarnation(2, 1)).await);
    one.meet(&two);
    let (ours, theirs) = ("07".repeat(16), "09".repeat(16));
    refusal(&one, TWO, &format!("belongs to cluster {theirs}, this one to {ours}")).await;
    assert!(!one.peers.connected(TWO));
}

#[tokio::test]
async fn a_wrong_address_is_noticed() {
    let (one, two) = (Node::start(incarnation(1, 1)).await, Node::start(incarnation(2, 1)).await);
    one.peers.set_members(&[(NodeId(3), two.address.to_string())]);
    let reason = format!("node {TWO} answers where node {} was expected", NodeId(3));
    refusal(&one, NodeId(3), &reason).await;
}

#[tokio::test]
async fn a_second_incarnation_is_refused_while_the_first_is_there() {
    let (one, two) = (Node::start(incarnation(1, 1)).await, Node::start(incarnation(2, 1)).await);
    let copy = Node::start(incarnation(1, 2)).await;
    one.meet(&two);
    until("connected", || one.peers.connected(TWO)).await;
    copy.meet(&two);
    refusal(&copy, TWO, "another process is connected as node").await;
    assert!(one.peers.connected(TWO));
    one.stop().await;
    until("taken over", || copy.peers.connected(TWO)).await;
}

#[tokio::test]
async fn a_restarted_peer_is_found_again() {
    let (one, two) = (Node::start(incarnation(1, 1)).await, Node::start(incarnation(2, 1)).await);
    one.meet(&two);
    until("connected", || one.peers.connected(TWO)).await;
    let address = two.address.to_string();
    two.stop().await;
    until("disconnected", || !one.peers.connected(TWO)).await;
    let two = Node::start_at(incarnation(2, 2), &address, Limits::default()).await;
    until("connected again", || one.peers.connected(TWO)).await;
    assert!(one.peers.request(TWO, message("x"), LONG).await.is_ok());

    one.peers.set_members(&[]);
    until("forgotten", || !one.peers.connected(TWO)).await;
    refusal(&one, TWO, "no other member").await;
    two.stop().await;
    one.stop().await;
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    for (limits, fitting) in [
        (Limits { queued: 3, ..Limits::default() }, 3),
        (Limits { queued_bytes: 1, ..Limits::default() }, 1),
    ] {
        let one = Node::start_at(incarnation(1, 1), "127.0.0.1:0", limits).await;
        let two = Node::start(incarnation(2, 1)).await;
        one.meet(&two);
        until("connected", || one.peers.connected(TWO)).await;
        // Nothing is sent until this task yields.
        let requests: Vec<_> = (0..5).map(|_| one.peers.request(TWO, message("x"), LONG)).collect();
        let answers = join_all(requests).await;
        assert!(answers[..fitting].iter().all(Result::is_ok));
        assert!(answers[fitting..].iter().all(|a| *a == Err(PeerError::QueueFull)));
        assert!(one.peers.request(TWO, message("x"), LONG).await.is_ok());
    }
}

#[tokio::test]
async fn only_so_many_requests_run_at_once() {
    let limits = Limits { running: 2, ..Limits::default() };
    let one = Node::start(incarnation(1, 1)).await;
    let two = Node::start_at(incarnation(2, 1), "127.0.0.1:0", limits).await;
    one.meet(&two);
    until("connected", || one.peers.connected(TWO)).await;
    let requests: Vec<_> = (0..9).map(|_| one.peers.request(TWO, message("slow"), LONG)).collect();
    until("two run", || two.handler.handled.load(Ordering::Relaxed) == 2).await;
    for done in 1..=9 {
        two.handler.gate.add_permits(1);
        let begun = (2 + done).min(9);
        until("the next runs", || two.handler.handled.load(Ordering::Relaxed) >= begun).await;
        assert_eq!(two.handler.handled.load(Ordering::Relaxed), begun);
    }
    assert!(join_all(requests).await.iter().all(Result::is_ok));
}

/// Or a node that is busy would be taken for one that is dead.
#[tokio::test]
async fn who_asks_whether_a_node_is_there_does_not_wait_for_what_keeps_it_busy() {
    let limits = Limits { running: 2, ..Limits::default() };
    let one = Node::start(incarnation(1, 1)).await;
    let two = Node::start_at(incarnation(2, 1), "127.0.0.1:0", limits).await;
    one.meet(&two);
    until("connected", || one.peers.connected(TWO)).await;
    let requests: Vec<_> = (0..9).map(|_| one.peers.request(TWO, message("slow"), LONG)).collect();
    until("two run", || two.handler.handled.load(Ordering::Relaxed) == 2).await;
    for round in 1..=100 {
        let gossip = Request::Gossip(Bytes::from_static(b"ping"));
        assert_eq!(one.peers.request(TWO, gossip, LONG).await, Ok(Reply::Heard));
        let hints = one.peers.request(TWO, Request::Hints, LONG).await;
        assert_eq!(hints, Ok(Reply::Hints(Hints::default())));
        assert_eq!(two.handler.handled.load(Ordering::Relaxed), 2 + 2 * round);
    }
    two.handler.gate.add_permits(9);
    assert!(join_all(requests).await.iter().all(Result::is_ok), "those that waited run as well");
}

#[tokio::test]
async fn nodes_without_a_cluster_introduce_themselves_alone() {
    let stop = CancellationToken::new();
    let service = PeerService::new(Arc::new(Newcomer), Limits::default(), stop.clone());
    let (incoming, address) = listener::bind("127.0.0.1:0").await.unwrap();
    let served = server()
        .add_service(service.clone().into_server())
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let serving = tokio::spawn(served);
    let (address, dialer) = (address.to_string(), Dialer::default());

    assert_eq!(dialer.identify(&address).await, Ok(Bootstrap::identify(&Newcomer)));
    assert_eq!(dialer.bootstrap(&address, Bytes::from_static(b"first")).await, Ok(()));
    let refused = dialer.bootstrap(&address, Bytes::from_static(b"second")).await;
    let error = RequestError::Conflict { reason: "another cluster".to_owned() };
    assert_eq!(refused, Err(IntroduceError::Refused { address: address.clone(), error }));
    assert_eq!(dialer.fetch_document(&address).await, Ok(Some(Bytes::from_static(b"newest"))));

    let one = Node::start(incarnation(1, 1)).await;
    one.peers.set_members(&[(TWO, address.clone())]);
    refusal(&one, TWO, "no cluster yet").await;

    let local = Local::new(incarnation(2, 1));
    service.join(local.clone());
    refusal(&one, TWO, "not ready yet").await;
    let handler: Arc<dyn Handler> = Arc::new(TestHandler::default());
    local.answer_with(&handler);
    until("connected", || one.peers.connected(TWO)).await;
    let answer = one.peers.request(TWO, message("x"), LONG).await;
    assert_eq!(answer, Ok(Reply::Register(Bytes::from_static(b"x"))));

    one.stop().await;
    stop.cancel();
    serving.await.unwrap().unwrap();
    assert!(matches!(dialer.identify(&address).await, Err(IntroduceError::Unreachable { .. })));
}

#[tokio::test]
async fn malformed_requests_harm_no_other() {
    use quorate_proto::peer::{Message, Read, message::Body};

    let handler: Arc<dyn Handler> = Arc::new(TestHandler::default());
    let read = Body::Read(Read::default());
    let message = Message { id: 4, timeout_ms: 9, body: Some(read), ..Message::default() };
    let answer = crate::transport::answer::answer(
        handler,
        ONE,
        message,
        crate::transport::answer::Arrival::now(),
    )
    .await;
    let reply = crate::transport::wire::decode_reply(answer.body).unwrap();
    let Reply::Failed(error) = reply else { panic!("{reply:?}") };
    assert!(answer.id == 4 && error.to_string().starts_with("malformed request: the key is empty"));
}
