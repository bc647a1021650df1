use bytes::Bytes;

use super::*;
use crate::transport::conformance::{LONG, ONE, TWO, TestHandler};

struct Nodes {
    network: MemoryNetwork,
    handlers: [Arc<dyn Handler>; 2],
}

fn nodes(seed: u64, faults: Faults) -> Nodes {
    let network = MemoryNetwork::new(ChaCha8Rng::seed_from_u64(seed), faults);
    let handlers: [Arc<dyn Handler>; 2] =
        [Arc::new(TestHandler::default()), Arc::new(TestHandler::default())];
    network.attach(ONE, &handlers[0]);
    network.attach(TWO, &handlers[1]);
    Nodes { network, handlers }
}

fn message(text: &'static str) -> Request {
    Request::Register(Bytes::from_static(text.as_bytes()))
}

/// The trace of a few hundred requests both ways over a bad network.
fn trace(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let faults =
            Faults { latency_ms: 1..=80, loss: 0.1, duplication: 0.1, ..Faults::default() };
        let nodes = nodes(seed, faults);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let recorded = lines.clone();
        nodes.network.record(move |delivery| recorded.lock().unwrap().push(delivery.to_string()));
        let (one, two) = (nodes.network.peers(ONE), nodes.network.peers(TWO));
        let timeout = Duration::from_millis(100);
        let requests = (0..200).map(|n| match n % 2 {
            0 => one.request(TWO, message("there"), timeout),
            _ => two.request(ONE, message("here"), timeout),
        });
        let answers = futures::future::join_all(requests).await;
        assert!(answers.iter().any(Result::is_ok));
        assert!(answers.contains(&Err(PeerError::TimedOut)));
        assert!(nodes.network.lock().waiting.is_empty());
        std::mem::take(&mut *lines.lock().unwrap())
    })
}

#[test]
fn one_seed_is_one_run() {
    let first = trace(1);
    assert!(first.len() > 200);
    assert_eq!(first, trace(1));
    assert_ne!(first, trace(2));
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_one_way_and_silent_until_noticed() {
    let nodes = nodes(1, Faults::default());
    let (one, two) = (nodes.network.peers(ONE), nodes.network.peers(TWO));
    nodes.network.cut(TWO, ONE);
    // Requests arrive; their answers do not.
    let answer = one.request(TWO, message("x"), Duration::from_secs(1)).await;
    assert_eq!(answer, Err(PeerError::TimedOut));
    let handled = nodes.network.clone();
    assert!(one.connected(TWO) && two.connected(ONE));
    sleep(Faults::default().notice).await;
    assert!(!one.connected(TWO) && !two.connected(ONE));
    let answer = one.request(TWO, message("x"), LONG).await;
    assert!(matches!(answer, Err(PeerError::Disconnected { .. })));
    handled.mend(TWO, ONE);
    assert!(one.request(TWO, message("x"), LONG).await.is_ok());
    nodes.network.cut(ONE, TWO);
    nodes.network.mend_all();
    assert!(one.request(TWO, message("x"), LONG).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_leaves_its_work_undone() {
    let nodes = nodes(1, Faults::default());
    let one = nodes.network.peers(ONE);
    let (slow, back) = (one.request(TWO, message("slow"), LONG), nodes.network.peers(TWO));
    sleep(Duration::from_millis(50)).await;
    nodes.network.detach(TWO);
    assert_eq!(slow.await, Err(PeerError::Broken));
    let answer = back.request(ONE, message("x"), LONG).await;
    assert!(matches!(answer, Err(PeerError::Disconnected { .. })));
    // Its next life has nothing of what was under way.
    let handler: Arc<dyn Handler> = Arc::new(TestHandler::default());
    nodes.network.attach(TWO, &handler);
    assert!(one.request(TWO, message("x"), LONG).await.is_ok());
    assert_eq!(Arc::weak_count(&nodes.handlers[1]), 0);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_handled_twice_and_answered_once() {
    let nodes = nodes(1, Faults { duplication: 1.0, ..Faults::default() });
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    nodes.network.record(move |_| *counted.lock().unwrap() += 1);
    let answer = nodes.network.peers(ONE).request(TWO, message("x"), LONG).await;
    assert!(answer.is_ok());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(*count.lock().unwrap(), 6);
}
