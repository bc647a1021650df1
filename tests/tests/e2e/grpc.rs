//! The wire as any gRPC client sees it, without the SDK: forwarding, outcomes, typed details.

use std::time::{Duration, Instant};

use prost::Message as _;
use quorate_proto::v1::cluster_client::ClusterClient;
use quorate_proto::v1::error_detail::{Kind, Outcome};
use quorate_proto::v1::kv_client::KvClient;
use quorate_proto::v1::level;
use quorate_proto::v1::{
    DeleteRequest, DescribeReply, DescribeRequest, ErrorDetail, GetRequest, Level, OperationId,
    PutRequest, Retry,
};
use quorate_tests::{Cluster, Node, PATIENCE};
use tonic::transport::Channel;
use tonic::{Code, Status};

const DETAIL: &str = "type.googleapis.com/quorate.v1.ErrorDetail";

async fn channel(node: &Node) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", node.client_address()));
    endpoint.expect("it is a URI").connect().await.expect("the node listens")
}

pub(super) async fn kv(node: &Node) -> KvClient<Channel> {
    KvClient::new(channel(node).await)
}

async fn describe(node: &Node) -> DescribeReply {
    let mut cluster = ClusterClient::new(channel(node).await);
    cluster.describe(DescribeRequest {}).await.expect("the node answers").into_inner()
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest {
        namespace: "users".to_owned(),
        key: key.into(),
        value: value.into(),
        ..PutRequest::default()
    }
}

fn get(key: &'static str) -> GetRequest {
    GetRequest { namespace: "users".to_owned(), key: key.into(), ..GetRequest::default() }
}

fn level(kind: level::Kind) -> Option<Level> {
    Some(Level { kind: kind.into(), count: 0 })
}

#[track_caller]
pub(super) fn detail(status: &Status) -> ErrorDetail {
    let details = tonic_types::pb::Status::decode(status.details()).expect("there are details");
    let ours = details.details.iter().find(|any| any.type_url == DETAIL);
    let ours = ours.unwrap_or_else(|| panic!("no ErrorDetail: {status:?}"));
    ErrorDetail::decode(&*ours.value).expect("the detail decodes")
}

fn with_users(nodes: u16) -> Cluster {
    let cluster = Cluster::start(nodes);
    cluster.cli().line("namespace create users --strict").ok();
    cluster
}

/// The nodes that own a key, and those that do not, by number.
fn split(cluster: &Cluster, key: &str) -> (Vec<usize>, Vec<usize>) {
    let owners = cluster.owners("users", key);
    let numbers = 1..=cluster.nodes().len();
    numbers.partition(|&number| owners.contains(&format!("node-{number}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_holds_no_replica_forwards() {
    let mut cluster = with_users(5);
    let (owners, others) = split(&cluster, "alice");
    assert_eq!((owners.len(), others.len()), (3, 2));
    let mut outside = kv(cluster.node(others[0])).await;

    let written = outside.put(put("alice", "hello")).await.expect("it forwards").into_inner();
    let receipt = written.receipt.expect("a write has a receipt");
    let members = describe(cluster.node(others[0])).await.members;
    for node in &receipt.acked {
        let name = &members.iter().find(|member| member.id == *node).expect("a member").name;
        assert!(owners.iter().any(|owner| *name == format!("node-{owner}")), "{name} acked");
    }
    let read = kv(cluster.node(others[1])).await.get(get("alice")).await.expect("it forwards");
    let read = read.into_inner();
    assert_eq!(read.siblings[0].value, "hello");
    assert!(read.replicas >= 2);

    let delete = DeleteRequest {
        namespace: "users".to_owned(),
        key: "alice".into(),
        context: read.context,
        ..DeleteRequest::default()
    };
    outside.delete(delete).await.expect("it forwards");
    let gone = outside.get(get("alice")).await.expect("no value is no error").into_inner();
    assert!(gone.siblings.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_under_the_same_operation_id_is_one_write() {
    let mut cluster = with_users(5);
    let (owners, others) = split(&cluster, "alice");
    let coordinator = describe(cluster.node(owners[0])).await;
    let id = OperationId {
        coordinator: coordinator.node,
        opening: coordinator.opening,
        client: 42,
        sequence: 1,
        issued_ms: coordinator.now_ms,
    };
    let request = PutRequest { operation_id: Some(id), ..put("alice", "hello") };
    let mut owner = kv(cluster.node(owners[0])).await;
    let mut outside = kv(cluster.node(others[0])).await;
    let first = owner.put(request.clone()).await.expect("it is an owner").into_inner();
    let again = owner.put(request.clone()).await.expect("it remembers").into_inner();
    let elsewhere = outside.put(request.clone()).await.expect("it forwards").into_inner();
    let dot = |reply: &quorate_proto::v1::PutReply| reply.receipt.clone().expect("a receipt").dot;
    assert_eq!((dot(&again), dot(&elsewhere)), (dot(&first), dot(&first)));
    let read = owner.get(get("alice")).await.expect("it reads").into_inner();
    assert_eq!(read.siblings.len(), 1);

    // Elsewhere at least once: maybe a copy, shown as one.
    let copy = PutRequest { retry: Retry::AtLeastOnce.into(), ..request.clone() };
    kv(cluster.node(owners[1])).await.put(copy).await.expect("it may run again");
    let read = owner.get(get("alice")).await.expect("it reads").into_inner();
    assert_eq!(read.siblings.len(), 1, "copies show as one");

    // After a restart the id names an earlier opening.
    cluster.node(owners[0]).restart();
    cluster.wait_ready();
    let mut owner = kv(cluster.node(owners[0])).await;
    let other = OperationId { sequence: 2, ..id };
    let late = PutRequest { operation_id: Some(other), ..put("alice", "late") };
    let status = owner.put(late).await.expect_err("its opening is another");
    let detail = detail(&status);
    assert_eq!((status.code(), detail.kind()), (Code::FailedPrecondition, Kind::Opening));
    let now = describe(cluster.node(owners[0])).await.opening;
    assert_eq!(detail.opening, now);
    assert_ne!(now, coordinator.opening);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_carry_details_that_decode() {
    let mut cluster = with_users(3);
    let mut node = kv(cluster.node(1)).await;
    let unknown = PutRequest { namespace: "nowhere".to_owned(), ..put("k", "v") };
    let status = node.put(unknown).await.expect_err("there is no such namespace");
    let told = detail(&status);
    assert_eq!((status.code(), told.kind()), (Code::NotFound, Kind::UnknownNamespace));
    assert_eq!((told.outcome(), told.node.as_str()), (Outcome::NotApplied, "node-1"));

    let endless = GetRequest { namespace: "x".repeat(1 << 20), ..get("k") };
    let status = node.get(endless).await.expect_err("no name is so long");
    assert_eq!(detail(&status).kind(), Kind::UnknownNamespace, "it is answered, and briefly");

    let empty = GetRequest { key: Default::default(), ..get("k") };
    let status = node.get(empty).await.expect_err("a key is not empty");
    let told = detail(&status);
    assert_eq!((status.code(), told.kind()), (Code::InvalidArgument, Kind::Invalid));
    assert_eq!(told.outcome(), Outcome::None);

    let garbage = PutRequest { context: "garbage".into(), ..put("k", "v") };
    let status = node.put(garbage).await.expect_err("a context is not garbage");
    let told = detail(&status);
    assert_eq!((told.kind(), told.outcome()), (Kind::Context, Outcome::NotApplied));

    let blind = DeleteRequest {
        namespace: "users".to_owned(),
        key: "k".into(),
        ..DeleteRequest::default()
    };
    let status = node.delete(blind).await.expect_err("a delete has a context");
    assert_eq!(detail(&status).outcome(), Outcome::NotApplied);
    let read = node.get(get("k")).await.expect("it reads").into_inner();
    assert!(read.siblings.is_empty(), "what was not applied never shows");
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_and_choices_that_there_are_not_are_refused_and_nothing_is_written() {
    let mut cluster = with_users(3);
    let mut node = kv(cluster.node(1)).await;
    let number = level::Kind::Count.into();
    for (kind, count, reason) in [
        (99, 0, "level kind 99 is not known"),
        (number, 0, "level 0: a count of replicas is 1 to n"),
        (number, 4, "level 4 with n = 3"),
        (number, 300, "level 300: a count of replicas is 1 to n"),
        (level::Kind::Default.into(), 2, "level 2: a count of replicas goes with KIND_COUNT"),
    ] {
        let level = Some(Level { kind, count });
        let status = node.put(PutRequest { w: level, ..put("k", "v") }).await.expect_err(reason);
        invalid(&status, Outcome::NotApplied, reason);
        let status = node.get(GetRequest { r: level, ..get("k") }).await.expect_err(reason);
        invalid(&status, Outcome::None, reason);
    }
    for (request, reason) in [
        (PutRequest { durability: 9, ..put("k", "v") }, "durability 9 is not known"),
        (PutRequest { quorum: 9, ..put("k", "v") }, "quorum 9 is not known"),
        (PutRequest { retry: 9, ..put("k", "v") }, "retry 9 is not known"),
    ] {
        let status = node.put(request).await.expect_err(reason);
        invalid(&status, Outcome::NotApplied, reason);
    }
    let repair = GetRequest { repair: 9, ..get("k") };
    let status = node.get(repair).await.expect_err("there is no such repair");
    invalid(&status, Outcome::None, "repair 9 is not known");
    let read = node.get(get("k")).await.expect("it reads").into_inner();
    assert!(read.siblings.is_empty(), "what was not applied never shows");
}

#[track_caller]
fn invalid(status: &Status, outcome: Outcome, reason: &str) {
    let told = detail(status);
    assert_eq!((status.code(), told.kind()), (Code::InvalidArgument, Kind::Invalid), "{status:?}");
    assert_eq!(told.outcome(), outcome, "{status:?}");
    assert!(status.message().contains(reason), "no {reason:?} in {status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_id_names_one_write_of_the_last_hour() {
    const TWO_HOURS_MS: u64 = 2 * 3_600_000;
    let mut cluster = with_users(3);
    let (mut node, me) = (kv(cluster.node(1)).await, describe(cluster.node(1)).await);
    let id = OperationId {
        coordinator: me.node,
        opening: me.opening,
        client: 42,
        sequence: 1,
        issued_ms: me.now_ms,
    };
    let under = |id, value| PutRequest { operation_id: Some(id), ..put("alice", value) };
    node.put(under(id, "hello")).await.expect("it is new");
    for fresh in [false, true] {
        let other = PutRequest { fresh, ..under(id, "another") };
        let status = node.put(other).await.expect_err("it named another write");
        invalid(&status, Outcome::NotApplied, "used for another value, or with another context");
    }
    let (past, future) = (me.now_ms - TWO_HOURS_MS, me.now_ms + TWO_HOURS_MS);
    for (sequence, issued_ms) in [(2, past), (3, future)] {
        let expired = OperationId { sequence, issued_ms, ..id };
        // Nobody knows whether it was applied: its row may have been forgotten.
        let status = node.put(under(expired, "late")).await.expect_err("its time is wrong");
        invalid(&status, Outcome::Unknown, "read the key, and write under a new id");
        assert_eq!(detail(&status).operation_id, Some(expired));
        // Of an id that was never sent it is known.
        let fresh = PutRequest { fresh: true, ..under(expired, "late") };
        let status = node.put(fresh).await.expect_err("its time is wrong");
        let told = detail(&status);
        assert_eq!((status.code(), told.kind()), (Code::FailedPrecondition, Kind::Opening));
        assert_eq!((told.outcome(), told.opening), (Outcome::NotApplied, me.opening));
        assert!(status.message().contains("over an hour old by this node's clock"), "{status:?}");
    }
    let read = node.get(get("alice")).await.expect("it reads").into_inner();
    let values: Vec<_> = read.siblings.iter().map(|sibling| &*sibling.value).collect();
    assert_eq!(values, [b"hello"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_owners_are_a_typed_refusal_until_they_are_back() {
    let mut cluster = with_users(3);
    let mut node = kv(cluster.node(1)).await;
    node.put(PutRequest { w: level(level::Kind::All), ..put("k", "before") })
        .await
        .expect("all are up");
    cluster.node(2).kill();
    cluster.node(3).kill();

    // At first the node may not know yet that they are down: then the outcome is unknown.
    let mut tries = 0;
    let refused = loop {
        let request = PutRequest { timeout_ms: 1000, ..put("refused", "value") };
        let status = node.put(request).await.expect_err("two of three owners are down");
        let told = detail(&status);
        if told.outcome() == Outcome::NotApplied {
            assert_eq!(status.code(), Code::Unavailable);
            break told;
        }
        assert_eq!(told.outcome(), Outcome::Unknown);
        assert!(told.operation_id.is_some(), "an unknown outcome names its operation");
        tries += 1;
        assert!(tries < 100, "the node never learns that the others are down");
    };
    assert_eq!((refused.kind(), refused.needed, refused.got), (Kind::Quorum, 2, 1));

    let status = node.get(GetRequest { timeout_ms: 1000, ..get("k") }).await;
    let status = status.expect_err("two of three owners are down");
    let told = detail(&status);
    assert_eq!((status.code(), told.kind()), (Code::Unavailable, Kind::Quorum));
    assert_eq!((told.needed, told.got, told.outcome()), (2, 1, Outcome::None), "{status:?}");
    let one = GetRequest { r: level(level::Kind::One), ..get("k") };
    let read = node.get(one).await.expect("one owner is up").into_inner();
    assert_eq!((&*read.siblings[0].value, read.replicas), (&b"before"[..], 1));
    // The node that tells of another one is ready itself.
    let members = describe(cluster.node(1)).await.members;
    let dead = members.iter().find(|member| member.name == "node-2").expect("a member").id;
    let alone = GetRequest { replica: dead, timeout_ms: 1000, ..get("k") };
    let told = detail(&node.get(alone).await.expect_err("it is down"));
    assert_eq!((told.kind(), &*told.node), (Kind::NotReadyElsewhere, "node-1"));

    // What kv-cli advises, its scans can do. One of the writes above may have been applied.
    let cli = cluster.node(1).cli();
    cli.line("count users --timeout 2s").fails_with(&["ask for fewer replicas"]);
    cli.line("count users -r one").ok();
    let scanned = cli.line("scan users -r one").ok().text();
    assert!(scanned.lines().any(|line| line == "k\tbefore"), "{scanned}");

    cluster.node(2).start();
    cluster.node(2).wait_ready();
    cluster.wait_ready();
    // It may take node 1 a moment to find node 2 again; until then it refuses.
    let deadline = Instant::now() + PATIENCE;
    while let Err(status) = node.put(put("after", "value")).await {
        let refused = detail(&status).outcome() == Outcome::NotApplied;
        assert!(refused && Instant::now() < deadline, "two of three owners are up: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let read = node.get(get("k")).await.expect("two of three owners are up").into_inner();
    assert_eq!(read.siblings[0].value, "before");
    if tries == 0 {
        let read = node.get(get("refused")).await.expect("two are up").into_inner();
        assert!(read.siblings.is_empty(), "what was not applied never shows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_its_client_gave_up_is_whole_or_not_there() {
    let mut cluster = with_users(3);
    let node = kv(cluster.node(1)).await;
    for after in 0..40 {
        let mut node = node.clone();
        let request = PutRequest { key: format!("key-{after}").into(), ..put("", "value") };
        let put = tokio::spawn(async move { node.put(request).await });
        for _ in 0..after {
            tokio::task::yield_now().await;
        }
        put.abort();
    }
    // The node may have ended that connection, on which so much was given up.
    let mut node = kv(cluster.node(1)).await;
    for after in 0..40 {
        let request = GetRequest {
            key: format!("key-{after}").into(),
            r: level(level::Kind::All),
            ..get("")
        };
        let read = node.get(request).await.expect("the cluster serves on").into_inner();
        assert!(read.siblings.len() <= 1);
        assert!(read.siblings.iter().all(|sibling| sibling.value == "value"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let mut cluster = Cluster::uninitialised(1);
    cluster.start_all();
    let channel = channel(cluster.node(1)).await;
    let mut health = HealthClient::new(channel.clone());
    let mut status = async || {
        let service = "quorate.v1.Kv".to_owned();
        let reply = health.check(HealthCheckRequest { service }).await;
        reply.map(|reply| reply.into_inner().status())
    };
    assert_ne!(status().await.ok(), Some(ServingStatus::Serving), "it belongs to no cluster");
    cluster.form(8);
    assert_eq!(status().await.expect("it answers"), ServingStatus::Serving);

    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut reflection = ServerReflectionClient::new(channel);
    let replies = reflection.server_reflection_info(futures::stream::iter([request])).await;
    let reply = replies.expect("it answers").into_inner().message().await;
    let Some(MessageResponse::ListServicesResponse(list)) =
        reply.expect("it answers").and_then(|reply| reply.message_response)
    else {
        panic!("no list of services");
    };
    let names: Vec<&str> = list.service.iter().map(|service| &*service.name).collect();
    assert!(names.contains(&"quorate.v1.Kv") && names.contains(&"quorate.v1.Cluster"), "{names:?}");
}
