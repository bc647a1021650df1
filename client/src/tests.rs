//! The retry rules, against nodes that fail as scripted.

mod overload;

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use quorate_proto::v1::{
    self,
    error_detail::{Kind, Outcome},
};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use crate::{
    BatchEntry, BatchOptions, Client, ClientConfig, DeleteOptions, Deleted, ErrorKind, GetOptions,
    Namespace, NamespaceSpec, NamespaceUpdate, PutOptions, Quorum, Retry, ScanOptions, StandIn,
    UpdateOptions, Updated, WriteError,
    connection::{Calling, Connection},
    error::Reach,
    fake::{Act, Asked, Fakes, NAMESPACE, NOW_MS, OPENING},
};

const SECOND: Duration = Duration::from_secs(1);

async fn started(dead: &[usize]) -> (Fakes, Namespace) {
    let fakes = Fakes::start(dead).await;
    let carts = fakes.client().await.namespace(NAMESPACE);
    (fakes, carts)
}

fn quick(retry: Retry) -> PutOptions {
    PutOptions { timeout: Some(SECOND / 4), retry, ..PutOptions::default() }
}

#[tokio::test]
async fn a_key_goes_to_its_primary() {
    let (fakes, carts) = started(&[]).await;
    let read = carts.get("k", GetOptions::default()).await.unwrap();
    assert_eq!((&read.siblings[0].value[..], read.replicas), (&b"1"[..], 2));
    let written = carts.put("k", "v", PutOptions::default()).await.unwrap();
    assert_eq!((written.attempts, written.siblings), (1, 1));
    assert_eq!(written.receipt.dot, "000000000000000a:1");
    assert_eq!(written.receipt.acked, ["n0", "0000000000000063"]);
    assert_eq!(written.receipt.fallbacks, [StandIn { node: "n2".into(), owner: "n1".into() }]);
    let operation = fakes.operations(0)[0];
    assert_eq!((operation.coordinator, operation.opening, operation.sequence), (1, OPENING, 1));
    assert!((NOW_MS..NOW_MS + 60_000).contains(&operation.issued_ms));
    assert!(fakes.log(1).is_empty() && fakes.log(2).is_empty());
}

#[tokio::test]
async fn a_read_goes_on_at_another_owner_and_avoids_the_failed_one() {
    let (fakes, carts) = started(&[]).await;
    fakes.script(0, [Act::Break]);
    for _ in 0..3 {
        carts.get("k", GetOptions::default()).await.unwrap();
    }
    assert_eq!((fakes.log(0).len(), fakes.log(1).len()), (1, 3));
}

#[tokio::test]
async fn who_says_that_others_are_not_ready_is_not_avoided() {
    for (kind, asked_of_first) in [(Kind::NotReadyElsewhere, 3), (Kind::NotReady, 1)] {
        let (fakes, carts) = started(&[]).await;
        fakes.script(0, [Act::Fail(kind, Outcome::None)]);
        for _ in 0..3 {
            carts.get("k", GetOptions::default()).await.unwrap();
        }
        assert_eq!(fakes.log(0).len(), asked_of_first, "{kind:?}");
    }
}

#[tokio::test]
async fn a_read_hops_over_a_node_that_hangs() {
    let (fakes, carts) = started(&[]).await;
    fakes.script(0, [Act::Hang]);
    let options = GetOptions { timeout: Some(SECOND), ..GetOptions::default() };
    carts.get("k", options).await.unwrap();
    assert_eq!(fakes.log(1), [Asked::Get]);
}

#[tokio::test]
async fn a_read_is_forwarded_when_no_owner_can_be_reached() {
    let (fakes, carts) = started(&[0, 1]).await;
    carts.get("k", GetOptions::default()).await.unwrap();
    assert_eq!(fakes.log(2), [Asked::Get]);
}

#[tokio::test]
async fn what_a_node_said_is_told_rather_than_that_another_is_away() {
    let (fakes, carts) = started(&[1, 2]).await;
    fakes.script(0, (0..1_000).map(|_| Act::Fail(Kind::Data, Outcome::None)));
    let options = GetOptions { timeout: Some(SECOND), ..GetOptions::default() };
    let error = carts.get("k", options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
}

#[tokio::test]
async fn a_read_of_one_replica_asks_that_node() {
    let (fakes, carts) = started(&[]).await;
    let replica = |name: &str| GetOptions { replica: Some(name.into()), ..GetOptions::default() };
    carts.get("k", replica("n2")).await.unwrap();
    assert_eq!(fakes.log(2), [Asked::Get]);
    let error = carts.get("k", replica("n7")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("there are n0, n1, n2"), "{error}");
}

#[tokio::test]
async fn errors_that_no_retry_helps_return_at_once() {
    let (fakes, carts) = started(&[]).await;
    for kind in [Kind::Invalid, Kind::Context, Kind::Siblings] {
        fakes.script(0, [Act::Fail(kind, Outcome::NotApplied)]);
        let error = carts.put("k", "v", PutOptions::default()).await.unwrap_err();
        assert!(!error.is_unknown(), "{error}");
        assert_eq!(error.error().node(), Some("n0"));
    }
    assert_eq!((fakes.log(0).len(), fakes.log(1).len()), (3, 0));
}

#[tokio::test]
async fn a_write_not_applied_is_tried_elsewhere_under_a_new_id() {
    let (fakes, carts) = started(&[]).await;
    fakes.script(0, [Act::Fail(Kind::ClockSkew, Outcome::NotApplied)]);
    let written = carts.put("k", "v", PutOptions::default()).await.unwrap();
    assert_eq!(written.attempts, 2, "another owner's clock may be right");
    assert_eq!((fakes.operations(0).len(), fakes.operations(1)[0].coordinator), (1, 2));

    let (fakes, carts) = started(&[]).await;
    fakes.script(0, [Act::Fail(Kind::Quorum, Outcome::NotApplied)]);
    let written = carts.put("k", "v", PutOptions::default()).await.unwrap();
    assert_eq!(written.attempts, 2);
    let (first, second) = (fakes.operations(0), fakes.operations(1));
    assert_eq!((first[0].coordinator, first[0].sequence), (1, 1));
    assert_eq!((second[0].coordinator, second[0].sequence), (2, 2));
    assert_eq!(first[0].client, second[0].client);
}

#[tokio::test]
async fn a_write_to_a_dead_node_was_not_sent() {
    let (fakes, carts) = started(&[0]).await;
    carts.put("k", "v", PutOptions::default()).await.unwrap();
    assert_eq!(fakes.operations(1)[0].coordinator, 2);

    let (_fakes, carts) = started(&[0, 1]).await;
    let error = carts.put("k", "v", quick(Retry::ExactlyOnce)).await.unwrap_err();
    assert!(!error.is_unknown(), "a node that owns nothing cannot coordinate: {error}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn with_a_sloppy_quorum_a_fallback_coordinates_when_no_owner_answers() {
    let (fakes, carts) = started(&[0, 1]).await;
    let sloppy = PutOptions { quorum: Quorum::Sloppy, ..PutOptions::default() };
    carts.put("k", "v", sloppy.clone()).await.unwrap();
    let operations = fakes.operations(2);
    assert_eq!((operations.len(), operations[0].coordinator), (1, 3), "the id names it");
    let strict = PutOptions { quorum: Quorum::Strict, ..quick(Retry::ExactlyOnce) };
    let error = carts.put("k", "v", strict).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unknown()), (ErrorKind::Unavailable, false));

    // Of the namespace, unless the request says otherwise.
    fakes.topology.lock().unwrap().namespaces[0].quorum = quorate_proto::v1::Quorum::Sloppy.into();
    carts.client.topology().await.unwrap();
    carts.put("k", "v", PutOptions::default()).await.unwrap();
    assert_eq!(fakes.operations(2).len(), 2);

    // An owner that answers decides.
    let (fakes, carts) = started(&[1]).await;
    fakes.script(0, [Act::Fail(Kind::Siblings, Outcome::NotApplied)]);
    assert!(carts.put("k", "v", sloppy).await.is_err());
    assert!(fakes.log(2).is_empty());
}

#[tokio::test]
async fn who_is_said_to_be_away_comes_last_until_it_answers() {
    use quorate_proto::v1::MemberState;

    let (fakes, carts) = started(&[]).await;
    let say = async |states: [MemberState; 3]| {
        let members = &mut fakes.topology.lock().unwrap().members;
        members.iter_mut().zip(states).for_each(|(member, state)| member.state = state.into());
    };
    let put = async || carts.put("k", "v", PutOptions::default()).await.unwrap();
    let counts = || [0, 1, 2].map(|node| fakes.log(node).len());
    let (alive, down) = (MemberState::Alive, MemberState::Down);
    for state in [MemberState::Suspect, down] {
        say([state, alive, alive]).await;
        carts.client.topology().await.unwrap();
        let before = counts();
        put().await;
        assert_eq!(counts(), [before[0], before[1] + 1, 0], "{state:?}");
    }
    // It is asked all the same when the others fail.
    let before = counts();
    fakes.script(1, [Act::Fail(Kind::ClockSkew, Outcome::NotApplied)]);
    put().await;
    assert_eq!(counts(), [before[0] + 1, before[1] + 1, 0]);
    // Then it has answered, which says more than what others say.
    put().await;
    assert_eq!(counts(), [before[0] + 2, before[1] + 1, 0]);

    // Who says that half of all are away may be cut off itself: they answer, on a busy machine not
    // always in the short time that they have for it.
    say([down, alive, down]).await;
    let (before, mut tries) = (counts(), 0);
    while counts()[0] == before[0] && tries < 100 {
        carts.client.topology().await.unwrap();
        put().await;
        tries += 1;
    }
    assert!(tries < 100, "{:?}", counts());
}

#[tokio::test]
async fn a_new_client_does_not_wait_for_members_that_stand_still() {
    use quorate_proto::v1::MemberState::{Alive, Down};

    for (still, states) in [(&[0][..], [Down, Alive, Alive]), (&[0, 2], [Down, Alive, Down])] {
        let fakes = Fakes::start(&[]).await;
        still.iter().for_each(|&node| fakes.nodes[node].mute.store(true, Relaxed));
        for (member, state) in fakes.topology.lock().unwrap().members.iter_mut().zip(states) {
            member.state = state.into();
        }
        // In turn, each has a part of this.
        let timeout = 60 * SECOND;
        let endpoints = fakes.addresses.iter().map(ToString::to_string);
        let config = ClientConfig { timeout, ..ClientConfig::new(endpoints) };
        let begun = Instant::now();
        let carts = Client::connect(config).await.unwrap().namespace(NAMESPACE);
        assert!(begun.elapsed() < timeout / 3);
        fakes.nodes.iter().for_each(|node| node.log.lock().unwrap().clear());
        carts.put("k", "v", PutOptions::default()).await.unwrap();
        carts.get("k", GetOptions::default()).await.unwrap();
        for &node in still {
            assert_eq!(*fakes.nodes[node].log.lock().unwrap(), [], "n{node}");
        }
    }
}

#[tokio::test]
async fn an_unknown_write_is_retried_at_its_coordinator_under_the_same_id() {
    let (fakes, carts) = started(&[]).await;
    let act = Act::Fail(Kind::Quorum, Outcome::Unknown);
    fakes.script(0, [act.clone(), act]);
    let written = carts.put("k", "v", PutOptions::default()).await.unwrap();
    assert_eq!(written.attempts, 3);
    let operations = fakes.operations(0);
    assert_eq!(operations.len(), 3);
    assert!(operations.iter().all(|operation| *operation == operations[0]));
    assert!(fakes.log(1).is_empty());
}

/// It does not apply the write, but asks those who may have it.
#[tokio::test]
async fn what_a_silent_coordinator_may_have_applied_is_asked_of_another_owner_under_the_same_id() {
    for act in [Act::Break, Act::Hang] {
        let (fakes, carts) = started(&[]).await;
        fakes.script(0, [act]);
        let options = PutOptions { timeout: Some(SECOND), ..PutOptions::default() };
        assert_eq!(carts.put("k", "v", options).await.unwrap().attempts, 2);
        assert_eq!(fakes.log(0), fakes.log(1));
        let Asked::Put(operation, retry, _) = fakes.log(1)[0].clone() else { panic!() };
        assert_eq!((operation.coordinator, retry), (1, 0), "exactly once, at n0");
        assert!(fakes.log(2).is_empty(), "it owns nothing");
    }
}

/// What one owner cannot reach another may.
#[tokio::test]
async fn what_is_unknown_at_another_than_the_coordinator_is_asked_of_the_next_owner() {
    let (fakes, _) = started(&[]).await;
    {
        let mut topology = fakes.topology.lock().unwrap();
        topology.groups[0] =
            v1::PlacementGroup { n: 3, owners: [0, 1, 2].repeat(8), ..Default::default() };
        topology.namespaces[0].n = 3;
    }
    let carts = fakes.client().await.namespace(NAMESPACE);
    fakes.script(0, [Act::Break]);
    fakes.script(1, [Act::Fail(Kind::Coordinator, Outcome::Unknown)]);
    let written = carts.put("k", "v", PutOptions::default()).await.unwrap();
    assert_eq!(written.attempts, 3);
    assert_eq!([0, 1, 2].map(|node| fakes.operations(node).len()), [1, 1, 1]);
    assert_eq!(fakes.operations(0), fakes.operations(2));
}

#[tokio::test]
async fn a_write_that_stays_unknown_says_so_and_can_be_asked_for() {
    let (fakes, carts) = started(&[]).await;
    (0..2).for_each(|node| fakes.script(node, vec![Act::Break; 100]));
    let error = carts.put("k", "v", quick(Retry::ExactlyOnce)).await.unwrap_err();
    let WriteError::Unknown { operation, .. } = error else { panic!("{error}") };
    let sent = [fakes.operations(0), fakes.operations(1)].concat();
    assert!(sent.iter().all(|&sent| v1::OperationId::from(operation) == sent), "{sent:?}");
    let elsewhere = PutOptions { operation: Some(operation), ..PutOptions::default() };
    let other = carts.put("another key", "v", elsewhere).await.unwrap_err();
    assert_eq!((other.kind(), other.is_unknown()), (ErrorKind::Invalid, true));

    fakes.nodes[0].script.lock().unwrap().clear();
    let again = PutOptions { operation: Some(operation), ..PutOptions::default() };
    carts.put("k", "v", again).await.unwrap();
    let operations = fakes.operations(0);
    assert_eq!(operations[0], operations[operations.len() - 1]);
}

#[tokio::test]
async fn a_write_that_is_not_answered_is_unknown() {
    let (fakes, carts) = started(&[]).await;
    (0..2).for_each(|node| fakes.script(node, vec![Act::Hang; 9]));
    let error = carts.put("k", "v", quick(Retry::ExactlyOnce)).await.unwrap_err();
    assert!(error.is_unknown());
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("no answer within 250 ms"), "all of the time: {error}");
}

#[tokio::test]
async fn at_least_once_goes_elsewhere_under_the_same_id() {
    let (fakes, carts) = started(&[]).await;
    fakes.script(0, [Act::Break]);
    let options = PutOptions { retry: Retry::AtLeastOnce, ..PutOptions::default() };
    carts.put("k", "v", options).await.unwrap();
    assert_eq!(fakes.log(0), fakes.log(1));
    let Asked::Put(operation, retry, _) = fakes.log(1)[0].clone() else { panic!() };
    assert_eq!((operation.coordinator, retry), (1, 1));
}

#[tokio::test]
async fn a_restarted_coordinator_gets_a_new_id() {
    let (fakes, carts) = started(&[]).await;
    carts.put("k", "v", PutOptions::default()).await.unwrap();
    *fakes.nodes[0].opening.lock().unwrap() = 8;
    fakes.script(0, [Act::Fail(Kind::Opening, Outcome::NotApplied)]);
    carts.put("k", "v", PutOptions::default()).await.unwrap();
    let operations = fakes.operations(0);
    assert_eq!(operations.iter().map(|o| o.opening).collect::<Vec<_>>(), [OPENING, OPENING, 8]);
    assert_eq!(operations.iter().map(|o| o.sequence).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn a_coordinator_that_restarted_between_attempts_leaves_it_unknown() {
    let (fakes, carts) = started(&[]).await;
    fakes.script(0, [Act::Break]);
    fakes.script(1, [Act::Fail(Kind::Opening, Outcome::Unknown)]);
    let error = carts.put("k", "v", PutOptions::default()).await.unwrap_err();
    assert!(error.is_unknown());
    assert_eq!((fakes.operations(0).len(), fakes.operations(1).len()), (1, 1));
}

#[tokio::test]
async fn a_refusal_at_the_door_says_nothing_of_an_earlier_attempt() {
    let (fakes, carts) = started(&[]).await;
    fakes.script(0, [Act::Break]);
    fakes.script(1, [Act::Fail(Kind::Overloaded, Outcome::NotApplied)]);
    carts.put("k", "v", PutOptions::default()).await.unwrap();
    let operations = [fakes.operations(0), fakes.operations(1)].concat();
    assert_eq!((operations.len(), operations[0]), (3, operations[2]));
}

#[tokio::test]
async fn a_new_namespace_is_learnt_and_an_unknown_one_is_an_error() {
    let fakes = Fakes::start(&[]).await;
    let (mine, other) = (fakes.client().await, fakes.client().await);
    let error = mine.namespace("new").get("k", GetOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let created = other.create_namespace(NamespaceSpec::new("new")).await.unwrap();
    assert_eq!((&*created.namespace.name, &*created.unreachable[0]), ("new", "n9"));
    mine.namespace("new").put("k", "v", PutOptions::default()).await.unwrap();
    assert_eq!(mine.list_namespaces().await.unwrap().len(), 2);

    assert!(other.drop_namespace("new").await.unwrap().is_empty());
    let error = mine.namespace("new").put("k", "v", PutOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unknown()), (ErrorKind::NotFound, false));
    let error = mine.describe_namespace("new").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn each_request_says_which_quorum_it_wants() {
    let (fakes, carts) = started(&[]).await;
    for quorum in [Quorum::Default, Quorum::Strict, Quorum::Sloppy] {
        let get = || GetOptions { quorum, ..GetOptions::default() };
        carts.get("k", get()).await.unwrap();
        carts.put("k", "v", PutOptions { quorum, ..PutOptions::default() }).await.unwrap();
        // It reads, and writes.
        carts.delete("k", DeleteOptions { quorum, ..DeleteOptions::default() }).await.unwrap();
        let update = UpdateOptions { quorum, ..UpdateOptions::default() };
        carts.update("k", update, |_| Some(Bytes::from_static(b"2"))).await.unwrap();
        assert!(carts.batch_get(["k"], get()).await[0].is_ok());
        let batch = BatchOptions { quorum, ..BatchOptions::default() };
        assert!(carts.batch_put([BatchEntry::put("k", "v", None)], batch).await[0].is_ok());
        let asked = std::mem::take(&mut *fakes.nodes[0].quorums.lock().unwrap());
        assert_eq!(asked.len(), 8, "{asked:?}");
        assert!(asked.iter().all(|&asked| Quorum::from_wire(asked) == quorum), "{asked:?}");
    }
}

#[tokio::test]
async fn a_namespace_is_made_and_changed_to_either_quorum() {
    let fakes = Fakes::start(&[]).await;
    let client = fakes.client().await;
    let spec = NamespaceSpec { quorum: Quorum::Strict, ..NamespaceSpec::new("new") };
    client.create_namespace(spec).await.unwrap();
    let asked = |at: usize| fakes.nodes[at].quorums.lock().unwrap().first().copied();
    assert_eq!((0..3).find_map(asked), Some(quorate_proto::v1::Quorum::Strict));

    let update = NamespaceUpdate { quorum: Quorum::Sloppy, ..NamespaceUpdate::new("new") };
    let updated = client.update_namespace(update).await.unwrap();
    assert_eq!((updated.namespace.quorum, updated.unreachable.len()), (Quorum::Sloppy, 0));
    assert_eq!(client.describe_namespace("new").await.unwrap().quorum, Quorum::Sloppy);
    let gone = client.update_namespace(NamespaceUpdate::new("gone")).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_delete_without_a_context_deletes_what_it_reads() {
    let (fakes, carts) = started(&[]).await;
    let deleted = carts.delete("k", DeleteOptions::default()).await.unwrap();
    assert!(matches!(deleted, Deleted::Done(_)));
    assert_eq!(fakes.log(0), [Asked::Get, Asked::Delete(Bytes::from_static(b"read"))]);
    fakes.script(0, [Act::Nothing]);
    let deleted = carts.delete("k", DeleteOptions::default()).await.unwrap();
    assert_eq!(deleted, Deleted::NotFound);
    assert_eq!(fakes.log(0).len(), 3);
}

#[tokio::test]
async fn an_update_goes_on_until_it_stands_alone() {
    let (fakes, carts) = started(&[]).await;
    // The read is answered well, then the write stands beside another.
    let (mut rounds, nodes) = (0, fakes.nodes.clone());
    let updated = carts.update("k", UpdateOptions::default(), |siblings| {
        assert_eq!(&siblings[0].value[..], b"1");
        rounds += 1;
        let act = (rounds == 1).then_some(Act::Beside);
        nodes[0].script.lock().unwrap().extend(act);
        Some(Bytes::from_static(b"2"))
    });
    let Updated::Done(written) = updated.await.unwrap() else { panic!() };
    assert!(written.context.is_some());
    assert_eq!((rounds, fakes.operations(0).len()), (2, 2));

    let updated = carts.update("k", UpdateOptions::default(), |_| None).await.unwrap();
    assert_eq!(updated, Updated::Unchanged);
    assert_eq!(fakes.operations(0).len(), 2);
}

#[tokio::test]
async fn an_update_that_was_replaced_before_its_retry_was_answered_is_done() {
    let (fakes, carts) = started(&[]).await;
    let (mut rounds, nodes) = (0, fakes.nodes.clone());
    let updated = carts.update("k", UpdateOptions::default(), |_| {
        rounds += 1;
        nodes[0].script.lock().unwrap().push_back(Act::Break);
        nodes[1].script.lock().unwrap().push_back(Act::Replaced);
        Some(Bytes::from_static(b"2"))
    });
    let Updated::Done(written) = updated.await.unwrap() else { panic!() };
    assert_eq!((written.context, written.siblings, written.attempts), (None, 1, 2));
    assert_eq!(rounds, 1, "what replaced it may hold what it wrote");
}

/// What it would be to replace is not known: without a context it would stand beside that.
#[tokio::test]
async fn what_cannot_be_read_is_not_updated_and_not_written_blind() {
    let (fakes, carts) = started(&[]).await;
    (0..2).for_each(|node| fakes.script(node, vec![Act::Fail(Kind::Quorum, Outcome::None); 99]));
    let options = UpdateOptions { timeout: Some(SECOND / 4), ..UpdateOptions::default() };
    let error = carts.update("k", options, |_| panic!("nothing was read")).await.unwrap_err();
    assert_eq!((error.kind(), error.is_unknown()), (ErrorKind::Unavailable, false));
    assert!(error.to_string().contains("could not be read first"), "{error}");
    assert!(fakes.operations(0).is_empty() && fakes.operations(1).is_empty());
}

async fn keys(carts: &Namespace, limit: Option<u64>) -> Vec<Bytes> {
    let options = ScanOptions { limit, ..ScanOptions::default() };
    let items: Vec<_> = carts.scan(options).try_collect().await.unwrap();
    items.into_iter().map(|item| item.key).collect()
}

#[tokio::test]
async fn a_scan_that_breaks_goes_on_elsewhere_without_gap_or_copy() {
    let (fakes, carts) = started(&[]).await;
    let all: Vec<_> = (0..10).map(|key| format!("k{key}")).collect();
    assert_eq!(keys(&carts, None).await, all);
    for node in 0..3 {
        fakes.script(node, [Act::BreakAfter(2), Act::BreakAfter(0)]);
    }
    assert_eq!(keys(&carts, None).await, all);
    for node in 0..3 {
        fakes.script(node, [Act::BreakAfter(1)]);
    }
    assert_eq!(keys(&carts, Some(5)).await, all[..5]);
}

#[tokio::test]
async fn a_scan_ends_with_a_typed_error_and_can_be_continued() {
    let (fakes, carts) = started(&[]).await;
    for node in 0..3 {
        let fail = Act::Fail(Kind::Quorum, Outcome::None);
        fakes.script(node, [vec![Act::BreakAfter(1)], vec![fail; 50]].concat());
    }
    let timeout = Some(SECOND / 4);
    let options = ScanOptions { timeout, ..ScanOptions::default() };
    let results: Vec<_> = carts.scan(options).collect().await;
    let error = results.last().unwrap().as_ref().unwrap_err();
    // A page of two keys from each of the three nodes.
    assert_eq!((error.kind(), results.len()), (ErrorKind::Unavailable, 7));

    fakes.nodes.iter().for_each(|node| node.script.lock().unwrap().clear());
    let cursor = results[5].as_ref().unwrap().cursor.clone();
    assert!(cursor.is_some());
    let rest = carts.scan(ScanOptions { cursor, ..ScanOptions::default() });
    assert_eq!(rest.try_collect::<Vec<_>>().await.unwrap()[0].key, "k6");
}

#[tokio::test]
async fn connecting_lists_every_endpoint_and_its_reason() {
    let fakes = Fakes::start(&[0, 1]).await;
    let dead: Vec<_> = fakes.addresses[..2].iter().map(ToString::to_string).collect();
    let error = Client::connect(ClientConfig::new(dead.clone())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for endpoint in dead {
        assert!(error.to_string().contains(&endpoint), "{error}");
    }
    let none: [String; 0] = [];
    let error = Client::connect(ClientConfig::new(none)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    fakes.client().await;
}

#[tokio::test]
async fn another_cluster_is_not_taken_for_this_one() {
    let fakes = Fakes::start(&[]).await;
    let client = fakes.client().await;
    assert_eq!(client.describe_from("n1").await.unwrap().node, 2);
    client.set_timeout(SECOND / 10);
    fakes.nodes[1].mute.store(true, Relaxed);
    let silent = client.describe_from("n1").await.unwrap_err();
    assert!(silent.to_string().contains("no answer within"), "{silent}");
    fakes.topology.lock().unwrap().cluster_id = "d".repeat(32);
    let error = client.topology().await.unwrap_err();
    assert!(error.to_string().contains("another cluster"), "{error}");
}

#[tokio::test]
async fn what_one_node_knows_is_asked_of_it_once() {
    let fakes = Fakes::start(&[2]).await;
    let (client, patience, begun) = (fakes.client().await, 60 * SECOND, Instant::now());
    client.set_timeout(patience);
    let error = client.describe_from("n2").await.unwrap_err();
    assert_eq!((error.kind(), error.node()), (ErrorKind::Unavailable, Some("n2")), "{error}");
    assert!(begun.elapsed() < patience);
}

#[tokio::test]
async fn a_dead_endpoint_was_not_sent_to_and_a_broken_one_was() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let slam = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_exact(&mut [0; 60]).await.unwrap();
    });
    let node = Connection::new("n1", &address, &Calling::new(None, None, 8).unwrap()).unwrap();
    // Neither waits for its time to be over, however busy the machine is.
    let patience = 60 * SECOND;
    let begun = Instant::now();
    let error = node.describe(patience).await.unwrap_err();
    assert_eq!(error.reach(), Reach::Lost, "{error}");
    slam.await.unwrap();
    let error = node.describe(patience).await.unwrap_err();
    assert_eq!(error.reach(), Reach::NotSent, "{error}");
    assert!(begun.elapsed() < patience);
}

#[test]
fn every_operation_can_be_spawned() {
    fn sendable<T: Send>(_: T) {}
    // Never called: that it compiles is the test.
    let _ = |client: &Client, carts: &Namespace| {
        sendable(Client::connect(ClientConfig::default()));
        sendable(client.topology());
        sendable(client.describe_from("n1"));
        sendable(client.create_namespace(NamespaceSpec::new("new")));
        sendable(client.list_namespaces());
        sendable(client.drop_namespace("new"));
        sendable(carts.get("k", GetOptions::default()));
        sendable(carts.put("k", "v", PutOptions::default()));
        sendable(carts.delete("k", DeleteOptions::default()));
        sendable(carts.update("k", UpdateOptions::default(), |_| None));
        sendable(carts.scan(ScanOptions::default()));
    };
}

/// What a node within TLS says to a client without is lost in some runs.
#[tokio::test]
async fn a_connection_that_ends_before_any_answer_may_want_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read_u8().await;
        }
    });
    let error = Client::connect(ClientConfig::new([address])).await.map(drop).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("as when the node speaks TLS") && said.contains("--tls-ca"), "{said}");
    let nowhere = Client::connect(ClientConfig::new(["127.0.0.1:1"])).await.map(drop).unwrap_err();
    assert!(!nowhere.to_string().contains("TLS"), "{nowhere}");
}
