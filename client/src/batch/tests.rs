use std::time::Duration;

use quorate_proto::v1::error_detail::{Kind, Outcome};

use crate::{
    BatchEntry, BatchOptions, ErrorKind, GetOptions, Namespace, Retry,
    fake::{Act, Asked, Fakes, NAMESPACE},
};

async fn started() -> (Fakes, Namespace) {
    let fakes = Fakes::start(&[]).await;
    let carts = fakes.client().await.namespace(NAMESPACE);
    (fakes, carts)
}

fn entries(count: usize) -> Vec<BatchEntry> {
    (0..count).map(|at| BatchEntry::put(format!("k{at}"), "v", None)).collect()
}

fn quick(retry: Retry) -> BatchOptions {
    BatchOptions { timeout: Some(Duration::from_millis(250)), retry, ..BatchOptions::default() }
}

#[tokio::test]
async fn keys_of_one_node_are_one_call_and_answers_come_in_their_order() {
    let (fakes, carts) = started().await;
    let keys: Vec<String> = (0..100).map(|at| format!("k{at}")).collect();
    let read = carts.batch_get(keys.clone(), GetOptions::default()).await;
    for (key, read) in keys.iter().zip(&read) {
        assert_eq!(read.as_ref().unwrap().siblings[0].value, key.as_bytes());
    }
    assert_eq!((read.len(), fakes.log(0).len()), (100, 1));
    let written = carts.batch_put(entries(100), BatchOptions::default()).await;
    assert!(written.iter().all(|written| written.as_ref().unwrap().attempts == 1));
    assert_eq!((written.len(), fakes.log(0).len()), (100, 2));
    let Asked::BatchPut(sent) = &fakes.log(0)[1] else { panic!("{:?}", fakes.log(0)) };
    let mut sequences: Vec<u64> = sent.iter().map(|(_, id)| id.sequence).collect();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 100, "each write has an id of its own");
}

#[tokio::test]
async fn more_keys_than_a_call_takes_are_more_calls() {
    let (fakes, carts) = started().await;
    let written = carts.batch_put(entries(600), BatchOptions::default()).await;
    assert!(written.iter().all(Result::is_ok));
    let sizes = fakes.log(0).into_iter().map(|asked| match asked {
        Asked::BatchPut(sent) => sent.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(sizes.collect::<Vec<_>>().iter().sum::<usize>(), 600);
    assert_eq!(fakes.log(0).len(), 3);
}

#[tokio::test]
async fn a_key_that_fails_fails_alone() {
    let (fakes, carts) = started().await;
    let failing = Act::FailKey("k1".into(), Kind::Invalid, Outcome::NotApplied);
    fakes.script(0, [failing.clone(), failing]);
    let written = carts.batch_put(entries(3), BatchOptions::default()).await;
    assert!(written[0].is_ok() && written[2].is_ok());
    let error = written[1].as_ref().unwrap_err();
    assert!(!error.is_unknown(), "{error}");
    assert_eq!(error.error().kind(), ErrorKind::Invalid);
    let read = carts.batch_get(["k0", "k1", "k2"], GetOptions::default()).await;
    assert!(read[0].is_ok() && read[2].is_ok());
    assert_eq!(read[1].as_ref().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(fakes.log(0).len(), 2);
}

#[tokio::test]
async fn a_key_not_applied_is_tried_elsewhere_and_no_other_with_it() {
    let (fakes, carts) = started().await;
    fakes.script(0, [Act::FailKey("k1".into(), Kind::Quorum, Outcome::NotApplied)]);
    let written = carts.batch_put(entries(3), BatchOptions::default()).await;
    let attempts: Vec<u32> = written.iter().map(|w| w.as_ref().unwrap().attempts).collect();
    assert_eq!(attempts, [1, 2, 1]);
    let again = fakes.log(1);
    let [Asked::BatchPut(sent)] = &again[..] else { panic!("{again:?}") };
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, "k1");
}

#[tokio::test]
async fn a_broken_call_is_sent_to_another_owner_under_the_same_ids() {
    let (fakes, carts) = started().await;
    fakes.script(0, [Act::Break]);
    let written = carts.batch_put(entries(3), BatchOptions::default()).await;
    assert!(written.iter().all(|written| written.as_ref().unwrap().attempts == 2));
    let (first, second) = (fakes.log(0), fakes.log(1));
    assert_eq!((first.len(), &first), (1, &second), "the same ids, in one call");
}

#[tokio::test]
async fn writes_that_no_node_answers_end_unknown_each_under_its_id() {
    let (fakes, carts) = started().await;
    (0..2).for_each(|node| fakes.script(node, vec![Act::Hang; 9]));
    let written = carts.batch_put(entries(3), quick(Retry::ExactlyOnce)).await;
    assert!(written.iter().all(|written| written.as_ref().unwrap_err().is_unknown()));
}
