//! Who asks for more than a node has is refused, told why, and harms nobody else.

use std::io::Read as _;
use std::net::TcpStream;

use quorate_proto::v1::PutRequest;
use quorate_proto::v1::error_detail::{Kind, Outcome};
use quorate_tests::{Cluster, Node, until};
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::grpc::{detail, kv};
use super::hostile::Raw;

/// Of which a twelfth is more than clients may send at once.
const MEMORY: &str = "cache_bytes = 67108864\nmemory_max_bytes = 268435456\n\
                      message_max_bytes = 67108864";

/// One node with these lines in its configuration, and a namespace.
fn node_with(lines: &str, namespace: &str) -> Cluster {
    let mut cluster = Cluster::uninitialised(1);
    cluster.node(1).configure(lines);
    cluster.form(16);
    cluster.cli().line(&format!("namespace create {namespace} --n 1")).ok();
    cluster
}

/// The value of a metric, named with its labels.
fn metric(node: &Node, name: &str) -> Option<f64> {
    let (_, page) = node.page("/metrics")?;
    let row = page.lines().find(|line| line.starts_with(&format!("{name} ")))?;
    row.rsplit_once(' ')?.1.parse().ok()
}

/// How a node refuses a put of so much.
async fn refusal(node: &Node, value: Vec<u8>) -> Status {
    let (namespace, key) = ("big".to_owned(), "huge".into());
    let put = PutRequest { namespace, key, value: value.into(), ..PutRequest::default() };
    kv(node).await.put(put).await.expect_err("there is no room for it")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_for_which_there_is_no_memory_is_refused_and_others_are_not() {
    let cluster = node_with(MEMORY, "big --value-max-bytes 50331648");
    let (cli, node) = (cluster.cli(), &cluster.nodes()[0]);
    cli.line("put big small hello").ok();
    let huge = vec![b'x'; 44 << 20];
    let put = ["--timeout", "20s", "put", "big", "huge", "-"];
    let refused = cli.run_with(["--timeout", "3s", "put", "big", "huge", "-"], &huge);
    refused.fails_with(&["node-1", "the node's memory for receiving is full", "try again"]);
    let told = detail(&refusal(node, huge.clone()).await);
    assert_eq!((told.kind(), told.outcome()), (Kind::Overloaded, Outcome::Unread));
    assert!(told.retry_after_ms > 0 && told.node == "node-1", "{told:?}");
    assert_eq!(cli.line("get big small").ok().text(), "hello\n");
    cli.line("get big huge").exits(1);
    until("the refusal is counted", || {
        (metric(node, "quorate_memory_refused")? >= 1.0).then_some(())
    });
    // Once for each time that it was sent, and only here: no handler saw it.
    let unread = r#"quorate_requests_unread_total{operation="put",outcome="overloaded"}"#;
    assert!(metric(node, unread) >= Some(2.0), "by the command line, and by hand");
    let handled = r#"quorate_requests_total{operation="put",outcome="overloaded"}"#;
    assert_eq!(metric(node, handled), None);
    // There is room for a smaller one, and what was refused is given back.
    cli.run_with(put, &huge[..20 << 20]).ok();
    assert_eq!(cli.line("get big huge").ok().text().len(), (20 << 20) + 1);
    until("nothing is held any more", || {
        let (_, page) = node.page("/metrics")?;
        let mut held = page.lines().filter(|line| line.starts_with("quorate_memory_bytes{"));
        held.all(|line| line.contains("engine") || line.ends_with(" 0")).then_some(())
    });
}

#[test]
fn connections_over_the_limit_are_closed_and_those_within_it_served() {
    let cluster = node_with("connections_max = 3", "users");
    let node = &cluster.nodes()[0];
    cluster.cli().line("put users alice hello").ok();
    // Silent ones, which hold their places until they are closed.
    let idle: Vec<_> = until("three connections stand", || {
        let idle: Vec<_> =
            (0..3).filter_map(|_| TcpStream::connect(node.client_address()).ok()).collect();
        (metric(node, "quorate_connections")? >= 3.0).then_some(idle)
    });
    let refused = cluster.cli().line("--timeout 2s get users alice");
    refused.fails_with(&["127.0.0.1:"]);
    until("the refusal is counted", || {
        (metric(node, "quorate_connections_refused_total")? >= 1.0).then_some(())
    });
    let mut over = TcpStream::connect(node.client_address()).expect("the port listens");
    assert_eq!(over.read(&mut [0; 1]).unwrap_or(0), 0, "it is closed, and told nothing");
    drop(idle);
    until("there is a place again", || {
        let got = cluster.cli().line("--timeout 2s get users alice");
        (got.text() == "hello\n").then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_takes_too_long_to_arrive_is_refused_and_counted() {
    let cluster = node_with("request_timeout_ms = 500\nrequest_timeout_max_ms = 500", "users");
    let node = &cluster.nodes()[0];
    let endpoint = Channel::from_shared(format!("http://{}", node.client_address()));
    let channel = endpoint.expect("it is a URI").connect().await.expect("the node listens");
    for (path, operation) in
        [("/quorate.v1.Kv/Scan", "scan"), ("/quorate.v1.Cluster/Describe", "other")]
    {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.expect("the connection stands");
        let nothing = Request::new(futures::stream::pending());
        let path = path.parse().expect("it is a path");
        let called = grpc.streaming(nothing, path, Raw);
        let told = detail(&called.await.expect_err("it never comes"));
        assert_eq!((told.kind(), told.outcome()), (Kind::Timeout, Outcome::Unread));
        let unread = format!(
            "quorate_requests_unread_total{{operation=\"{operation}\",outcome=\"timeout\"}}"
        );
        assert_eq!(metric(node, &unread), Some(1.0));
    }
}

#[test]
fn values_and_batches_over_their_limit_are_refused_by_name() {
    let cluster = node_with("", "tiny --value-max-bytes 10");
    let cli = cluster.cli();
    cli.line("put tiny key 0123456789").ok();
    let over = cli.line("put tiny other 0123456789a");
    over.fails_with(&["11 bytes", "10", "tiny"]);
    cli.line("get tiny other").exits(1);
    let key = "k".repeat(4097);
    cli.line(&format!("put tiny {key} x")).fails_with(&["4096"]);
}

/// Of four nodes two owners of a key are down, and the fourth node takes no hints.
#[test]
fn a_write_for_which_nobody_has_room_to_stand_in_says_who_has_none() {
    let mut cluster = Cluster::uninitialised(4);
    for node in cluster.nodes() {
        node.configure("hints_max_bytes = 100");
    }
    cluster.form(16);
    cluster.cli().line("namespace create users").ok();
    let owners = cluster.owners("users", "alice");
    let [first, second, third] = [0, 1, 2].map(|at| owners[at].clone());
    let names = cluster.nodes().iter().map(|node| node.name().to_owned());
    let full = names.into_iter().find(|name| !owners.contains(name)).expect("there are four");
    let says = format!("{full} keeps no more hints (hints_max_bytes is reached)");
    let value = "x".repeat(200);
    cluster.named(&second).kill();
    cluster.named(&third).kill();

    let cli = cluster.named(&first).cli().with(["--timeout", "2s"]);
    let ran = until("it is known who is down", || {
        let ran = cli.run(["put", "users", "alice", &value]).exits(2);
        ran.stderr.contains("keeps no more hints").then_some(ran)
    });
    ran.fails_with(&["1 of the 2 replicas needed answered", &second, &third, &says]);
    let json = cli.json("hints");
    let named = json["full"].as_array().expect("a list").contains(&full.as_str().into());
    assert!(named && json["queues"] == serde_json::json!([]), "{json}");
    let ran = cli.line("hints").ok();
    assert!(ran.text() == "no hints\n" && ran.stderr.contains(&says), "{}", ran.stderr);

    // Nor does it take a write in the place of all owners.
    cluster.named(&first).kill();
    let cli = cluster.named(&full).cli().with(["--timeout", "2s"]);
    let ran = until("it is known who is down", || {
        let ran = cli.run(["put", "users", "alice", &value, "-w", "one"]).exits(2);
        ran.stderr.contains("keeps no more hints").then_some(ran)
    });
    ran.fails_with(&[
        "not applied",
        "0 of the 1 replicas needed answered",
        &says,
        "bring nodes back",
    ]);
    owners.iter().for_each(|name| cluster.named(name).start());
    cluster.wait_ready();
    cluster.cli().run(["put", "users", "alice", &value, "-w", "all"]).ok();
}
