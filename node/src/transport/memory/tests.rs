use bytes::Bytes;

use super::*;
use crate::transport::conformance::{LONG, ONE, TWO, TestHandler};

struct Nodes {
    network: MemoryNetwork,
    handlers: [Arc<dyn Handler>; 2],
    lives: [Arc<MemoryPeers>; 2],
}

fn nodes(seed: u64, faults: Faults) -> Nodes {
    let network = MemoryNetwork::new(ChaCha8Rng::seed_from_u64(seed), faults);
    let handlers: [Arc<dyn Handler>; 2] =
        [Arc::new(TestHandler::default()), Arc::new(TestHandler::default())];
    let lives = [ONE, TWO].map(|node| network.peers(node));
    lives.iter().zip(&handlers).for_each(|(life, handler)| network.attach(life, handler));
    Nodes { network, handlers, lives }
}

fn handler() -> (Arc<TestHandler>, Arc<dyn Handler>) {
    let handler = Arc::new(TestHandler::default());
    (handler.clone(), handler)
}

fn handled(handler: &TestHandler) -> u64 {
    handler.handled.load(Ordering::Relaxed)
}

fn refused(answer: &Result<Reply, PeerError>) -> bool {
    matches!(answer, Err(PeerError::Disconnected { .. }))
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
        let faults = Faults {
            latency_ms: 1..=80,
            slow: 0.1,
            loss: 0.1,
            duplication: 0.1,
            ..Faults::default()
        };
        let nodes = nodes(seed, faults);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let recorded = lines.clone();
        nodes.network.record(move |delivery| recorded.lock().unwrap().push(delivery.to_string()));
        let [one, two] = &nodes.lives;
        let timeout = Duration::from_millis(100);
        let requests = (0..200).map(|n| match n % 2 {
            0 => one.request(TWO, message("there"), timeout),
            _ => two.request(ONE, message("here"), timeout),
        });
        let answers = futures::future::join_all(requests);
        nodes.network.pause(TWO);
        let resumed = async {
            sleep(Duration::from_millis(30)).await;
            nodes.network.resume(TWO);
        };
        let (answers, ()) = tokio::join!(answers, resumed);
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
    let [one, two] = &nodes.lives;
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
    let [one, back] = &nodes.lives;
    let slow = one.request(TWO, message("slow"), LONG);
    sleep(Duration::from_millis(50)).await;
    nodes.network.detach(back);
    assert_eq!(slow.await, Err(PeerError::Broken));
    let answer = back.request(ONE, message("x"), LONG).await;
    assert!(matches!(answer, Err(PeerError::Disconnected { .. })));
    // Its next life has nothing of what was under way.
    let handler: Arc<dyn Handler> = Arc::new(TestHandler::default());
    nodes.network.attach(&nodes.network.peers(TWO), &handler);
    assert!(one.request(TWO, message("x"), LONG).await.is_ok());
    assert_eq!(Arc::weak_count(&nodes.handlers[1]), 0);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_handled_twice_and_answered_once() {
    let nodes = nodes(1, Faults { duplication: 1.0, ..Faults::default() });
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    nodes.network.record(move |_| *counted.lock().unwrap() += 1);
    let answer = nodes.lives[0].request(TWO, message("x"), LONG).await;
    assert!(answer.is_ok());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(*count.lock().unwrap(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_dead_life_neither_speaks_nor_hears_when_its_node_runs_again() {
    let nodes = nodes(1, Faults::default());
    let [one, dead] = &nodes.lives;
    let late = dead.request(ONE, message("slow"), LONG);
    sleep(Duration::from_millis(50)).await;
    let (next, next_handler) = handler();
    let alive = nodes.network.peers(TWO);
    assert!(!alive.connected(ONE), "it has not begun");
    nodes.network.attach(&alive, &next_handler);
    assert_eq!(late.await, Err(PeerError::Broken));
    assert!(alive.connected(ONE) && one.connected(TWO) && !dead.connected(ONE));
    assert!(refused(&dead.request(ONE, message("x"), LONG).await));
    assert!(alive.request(ONE, message("x"), LONG).await.is_ok());
    // What was under way to the dead one is not for the next.
    let lost = one.request(TWO, message("x"), LONG);
    nodes.network.detach(&alive);
    assert_eq!(lost.await, Err(PeerError::Broken));
    let (last, last_handler) = handler();
    nodes.network.attach(&nodes.network.peers(TWO), &last_handler);
    sleep(Duration::from_secs(1)).await;
    assert_eq!((handled(&next), handled(&last)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn of_two_lives_only_the_first_is_admitted_until_it_ends() {
    let nodes = nodes(1, Faults::default());
    let [one, first] = &nodes.lives;
    let (copy, copy_handler) = handler();
    let second = nodes.network.peers(TWO);
    nodes.network.attach_beside(&second, &copy_handler);
    assert!(first.connected(ONE) && !second.connected(ONE));
    assert!(refused(&second.request(ONE, message("x"), LONG).await));
    assert!(first.request(ONE, message("x"), LONG).await.is_ok());
    assert!(one.request(TWO, message("x"), LONG).await.is_ok());
    assert_eq!(handled(&copy), 0);
    nodes.network.detach(first);
    assert!(second.connected(ONE) && one.connected(TWO));
    assert!(second.request(ONE, message("x"), LONG).await.is_ok());
    assert!(one.request(TWO, message("x"), LONG).await.is_ok());
    assert_eq!(handled(&copy), 1);
}

/// Which of two lives of a node each of four nodes admits that begin later.
fn admitted(seed: u64) -> Vec<bool> {
    let network = MemoryNetwork::seeded(seed);
    let (_, first_handler) = handler();
    let (_, second_handler) = handler();
    let (first, second) = (network.peers(ONE), network.peers(ONE));
    network.attach(&first, &first_handler);
    network.attach_beside(&second, &second_handler);
    let late: Vec<_> = (2..6).map(|node| (network.peers(NodeId(node)), handler().1)).collect();
    late.iter().for_each(|(life, handler)| network.attach(life, handler));
    let admitted = late.iter().map(|(life, _)| {
        let connected = [&first, &second].map(|it| it.connected(life.node));
        assert!(life.connected(ONE) && connected[0] != connected[1]);
        connected[0]
    });
    admitted.collect()
}

#[tokio::test(start_paused = true)]
async fn the_seed_draws_whom_a_later_node_admits() {
    let runs: Vec<_> = (0..8).map(admitted).collect();
    assert_eq!(runs, (0..8).map(admitted).collect::<Vec<_>>());
    let all = runs.concat();
    assert!(all.contains(&true) && all.contains(&false));
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_paused_node_wait_in_order() {
    let nodes = nodes(1, Faults { latency_ms: 1..=40, ..Faults::default() });
    let order = Arc::new(Mutex::new(Vec::new()));
    let recorded = order.clone();
    nodes.network.record(move |delivery| {
        recorded.lock().unwrap().push((delivery.at_ms, delivery.from, delivery.length));
    });
    let [one, two] = &nodes.lives;
    nodes.network.pause(TWO);
    let texts = ["a", "ab", "abc", "abcd", "abcde"];
    let mut requests = Vec::new();
    for text in texts {
        requests.push(one.request(TWO, message(text), LONG));
        sleep(Duration::from_millis(50)).await;
        requests.push(two.request(ONE, message(text), LONG));
    }
    sleep(Duration::from_secs(3)).await;
    assert!(order.lock().unwrap().is_empty());
    assert!(one.connected(TWO) && two.connected(ONE));
    nodes.network.resume(TWO);
    let answers = futures::future::join_all(requests).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let order = order.lock().unwrap();
    let at_once = order.iter().filter(|(at_ms, ..)| *at_ms == order[0].0);
    let sent = at_once.map(|(_, from, length)| (*from, *length)).collect::<Vec<_>>();
    assert_eq!(sent.len(), 10);
    for pair in sent.chunks(2) {
        assert_eq!((pair[0].0, pair[1].0), (ONE, TWO));
    }
    assert!(sent.windows(3).all(|three| three[0].1 < three[2].1), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_pause_is_noticed_as_a_cut_is() {
    let nodes = nodes(1, Faults::default());
    let [one, two] = &nodes.lives;
    let (copy, copy_handler) = handler();
    let beside = nodes.network.peers(TWO);
    nodes.network.pause(TWO);
    nodes.network.attach_beside(&beside, &copy_handler);
    let (heard, unsent) =
        (one.request(TWO, message("x"), LONG), two.request(ONE, message("x"), LONG));
    sleep(Faults::default().notice).await;
    // The one beside it, which was not there to be stopped, takes its place.
    assert!(one.connected(TWO) && !two.connected(ONE) && beside.connected(ONE));
    assert_eq!((heard.await, unsent.await), (Err(PeerError::Broken), Err(PeerError::Broken)));
    let deliveries = Arc::new(Mutex::new(Vec::new()));
    let recorded = deliveries.clone();
    nodes.network.record(move |delivery| recorded.lock().unwrap().push(delivery.clone()));
    nodes.network.resume(TWO);
    sleep(Duration::from_secs(1)).await;
    // It reads what had come. Its request, which it had not sent, and its answer go nowhere.
    let kinds = deliveries.lock().unwrap().iter().map(|it| (it.from, it.kind)).collect::<Vec<_>>();
    assert_eq!(kinds, [(ONE, "register")]);
    assert!(!two.connected(ONE));
    assert_eq!(handled(&copy), 0);
    nodes.network.detach(&beside);
    assert!(two.request(ONE, message("x"), LONG).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_link_has_faults_of_its_own() {
    let nodes = nodes(1, Faults::default());
    let [one, two] = &nodes.lives;
    let lost = Faults { loss: 1.0, ..Faults::default() };
    nodes.network.set_link(ONE, TWO, Some(lost));
    let timeout = Duration::from_secs(1);
    assert_eq!(one.request(TWO, message("x"), timeout).await, Err(PeerError::TimedOut));
    // The other direction lets the request through, which is answered by the first.
    assert_eq!(two.request(ONE, message("x"), timeout).await, Err(PeerError::TimedOut));
    let slow = Faults { latency_ms: 300..=300, ..Faults::default() };
    nodes.network.set_link(ONE, TWO, Some(slow));
    for (life, to) in [(one, TWO), (two, ONE)] {
        let began = Instant::now();
        assert!(life.request(to, message("x"), timeout).await.is_ok());
        assert!((301..=305).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    }
    nodes.network.set_link(ONE, TWO, None);
    let began = Instant::now();
    assert!(one.request(TWO, message("x"), timeout).await.is_ok());
    assert!(began.elapsed() <= Duration::from_millis(10));
}

#[test]
fn some_messages_are_slow() {
    let faults = Faults { latency_ms: 1..=200, slow: 0.1, ..Faults::default() };
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let latencies: Vec<_> =
        (0..10_000).flat_map(|_| faults.latencies(&mut rng)).flatten().collect();
    let slow = latencies.iter().filter(|latency| **latency > Duration::from_millis(200)).count();
    assert!((800..=1000).contains(&slow), "{slow}");
    assert_eq!(latencies.iter().max(), Some(&Duration::from_secs(5)));
    // A network without a tail draws as if there were none.
    let draws = |slow| {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        Faults { slow, ..Faults::default() }.latencies(&mut rng);
        rng
    };
    assert!(draws(0.0) != draws(1.0));
}
