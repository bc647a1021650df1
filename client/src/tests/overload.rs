//! What a client does when it asks for more than can be done.

use std::sync::Arc;

use futures::future::join_all;

use super::*;

async fn started_by(fakes: &Fakes, node: usize, calls_at_once: usize) -> Namespace {
    let endpoints = [fakes.addresses[node].to_string()];
    let config = ClientConfig { calls_at_once, ..ClientConfig::new(endpoints) };
    let client = Client::connect(config).await.unwrap();
    fakes.nodes.iter().for_each(|node| node.log.lock().unwrap().clear());
    client.namespace(NAMESPACE)
}

fn within(timeout: Duration) -> GetOptions {
    GetOptions { timeout: Some(timeout), ..GetOptions::default() }
}

#[tokio::test]
async fn a_node_that_answers_others_meanwhile_is_slow_and_not_avoided() {
    let (fakes, carts) = started(&[]).await;
    fakes.script(0, [Act::Hang]);
    let slow = carts.get("k", within(SECOND));
    let quick = async {
        while fakes.log(0).is_empty() {
            tokio::time::sleep(SECOND / 100).await;
        }
        carts.get("k", GetOptions::default()).await
    };
    let (slow, quick) = tokio::join!(slow, quick);
    assert!(slow.is_ok() && quick.is_ok());
    carts.get("k", GetOptions::default()).await.unwrap();
    assert_eq!((fakes.log(0).len(), fakes.log(1).len()), (3, 1));
}

#[tokio::test]
async fn writes_that_begin_together_ask_for_the_opening_once() {
    let fakes = Fakes::start(&[]).await;
    let carts = started_by(&fakes, 1, 256).await;
    let puts = (0..50).map(|n| carts.put(format!("k{n}"), "v", PutOptions::default()));
    assert!(join_all(puts).await.iter().all(Result::is_ok));
    let log = fakes.nodes[0].log.lock().unwrap();
    assert_eq!(log.iter().filter(|asked| **asked == Asked::Describe).count(), 1);
}

#[tokio::test]
async fn a_call_that_waited_for_its_turn_tells_the_node_what_is_left() {
    let fakes = Fakes::start(&[]).await;
    let carts = started_by(&fakes, 1, 1).await;
    fakes.script(0, [Act::Hang]);
    // It has the only turn for half of its time.
    let first = carts.get("k", within(SECOND));
    let second = async {
        while fakes.log(0).is_empty() {
            tokio::time::sleep(SECOND / 100).await;
        }
        carts.get("k", within(SECOND * 8)).await
    };
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_ok() && second.is_ok());
    let reads = fakes.nodes[0].reads.lock().unwrap();
    let granted: Vec<_> = reads.iter().map(|read| read.timeout_ms).collect();
    // Half of eight seconds, less what it waited, less what the answer's way takes.
    assert!(granted.len() == 2 && granted[1] < 3_700, "{granted:?}");
}

#[tokio::test]
async fn without_a_turn_a_call_is_not_sent_and_goes_to_another_owner() {
    let fakes = Fakes::start(&[]).await;
    let carts = started_by(&fakes, 1, 1).await;
    fakes.script(0, [Act::Hang]);
    let first = carts.get("k", within(SECOND * 4));
    let second = async {
        while fakes.log(0).is_empty() {
            tokio::time::sleep(SECOND / 100).await;
        }
        carts.get("k", within(SECOND)).await
    };
    let (_, second) = tokio::join!(first, second);
    second.unwrap();
    assert_eq!(fakes.log(0).len(), 1, "only the one that hung");
    let endpoints = [fakes.addresses[0].to_string()];
    let none = ClientConfig { calls_at_once: 0, ..ClientConfig::new(endpoints) };
    assert_eq!(Client::connect(none).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn from_nodes_that_refuse_everything_most_calls_are_held_back() {
    let (fakes, carts) = started(&[]).await;
    for node in 0..2 {
        let refuse = || Act::Fail(Kind::Overloaded, Outcome::NotApplied);
        fakes.script(node, (0..20_000).map(|_| refuse()));
    }
    let carts = Arc::new(carts);
    let offer = |count: u32| {
        let puts = (0..count).map(|n| {
            let carts = Arc::clone(&carts);
            // What ends it is the budget for retries, on however slow a machine.
            let timeout = Some(SECOND * 20);
            let patient = PutOptions { timeout, ..quick(Retry::AtLeastOnce) };
            async move { carts.put(format!("k{n}"), "v", patient).await }
        });
        join_all(puts)
    };
    // Refused until nothing is left for retries.
    offer(1_500).await;
    let sent = || fakes.log(0).len() + fakes.log(1).len();
    let before = sent();
    let errors: Vec<_> = offer(500).await.into_iter().map(Result::unwrap_err).collect();
    // A quarter of them, and a few that go to the second owner.
    let sent = sent() - before;
    assert!((70..220).contains(&sent), "{sent}");
    assert!(errors.iter().all(|error| error.error().kind() == ErrorKind::Overloaded));
    let held = errors.iter().filter(|error| error.to_string().contains("held back"));
    assert!(held.count() > 100);
}

#[tokio::test]
async fn without_a_budget_one_busy_owner_is_no_busy_cluster() {
    let (fakes, carts) = started(&[]).await;
    let refuse = || Act::Fail(Kind::Overloaded, Outcome::None);
    fakes.script(0, (0..20_000).map(|_| refuse()));
    let refused = crate::error::Error::new(ErrorKind::Overloaded, "full").reaching(Reach::Lost);
    while carts.client.0.retries.allows(&refused, false) {}
    for _ in 0..10 {
        let reads = (0..50).map(|n| carts.get(format!("k{n}"), GetOptions::default()));
        assert!(join_all(reads).await.iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn what_owners_refuse_is_not_passed_to_others_that_would_ask_them() {
    let (fakes, carts) = started(&[]).await;
    for node in 0..2 {
        let refuse = || Act::Fail(Kind::Overloaded, Outcome::None);
        fakes.script(node, (0..20_000).map(|_| refuse()));
    }
    for _ in 0..5 {
        let reads = (0..100).map(|n| carts.get(format!("k{n}"), within(SECOND)));
        assert!(join_all(reads).await.iter().all(Result::is_err));
    }
    assert!(fakes.log(2).is_empty(), "{}", fakes.log(2).len());
}

#[tokio::test]
async fn a_scan_that_is_refused_in_its_first_page_was_not_taken_on() {
    let (fakes, carts) = started(&[]).await;
    for node in 0..3 {
        fakes.script(node, (0..20_000).map(|_| Act::RefusePage));
    }
    let scan = || {
        let timeout = Some(SECOND / 10);
        carts.scan(ScanOptions { timeout, ..ScanOptions::default() }).try_collect::<Vec<_>>()
    };
    for _ in 0..20 {
        assert!(join_all((0..20).map(|_| scan())).await.iter().all(Result::is_err));
    }
    let errors = join_all((0..20).map(|_| scan())).await;
    let held = errors
        .into_iter()
        .filter(|scan| scan.as_ref().is_err_and(|error| error.to_string().contains("held back")));
    assert!(held.count() > 0);
}

#[tokio::test]
async fn a_node_that_does_not_tell_its_opening_is_avoided() {
    let fakes = Fakes::start(&[]).await;
    let carts = started_by(&fakes, 1, 256).await;
    fakes.nodes[0].mute.store(true, std::sync::atomic::Ordering::Relaxed);
    // It asks first, and has the time to wait.
    let patient =
        carts.put("k", "v", PutOptions { timeout: Some(SECOND * 20), ..quick(Retry::ExactlyOnce) });
    let others = async {
        while fakes.nodes[0].log.lock().unwrap().is_empty() {
            tokio::time::sleep(SECOND / 100).await;
        }
        let puts = (0..20).map(|n| carts.put(format!("k{n}"), "v", quick(Retry::ExactlyOnce)));
        assert!(join_all(puts).await.iter().all(Result::is_ok));
        assert!(!carts.client.0.routes().nodes[0].claim(), "it was silent to all");
    };
    let (patient, ()) = tokio::join!(patient, others);
    patient.unwrap();
}
