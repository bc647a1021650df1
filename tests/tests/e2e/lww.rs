//! Namespaces in which the last write wins.

use bytes::Bytes;
use quorate_client::{Client, ClientConfig, Sibling, UpdateOptions};
use quorate_proto::v1::error_detail::{Kind, Outcome};
use quorate_proto::v1::{ErrorDetail, PutRequest};
use quorate_tests::{Cli, Cluster, ClusterSpec, until};
use serde_json::{Value, json};
use tonic::Code;

use crate::clock::WallClock;
use crate::grpc::{detail, kv};

fn context(answer: &Value) -> &str {
    answer["context"].as_str().unwrap_or_else(|| panic!("no context: {answer}"))
}

#[test]
fn the_last_write_stands_alone() {
    last_writes_in("fjall");
}

#[test]
fn the_last_write_stands_alone_in_sled() {
    last_writes_in("sled");
}

fn last_writes_in(engine: &'static str) {
    let cluster = Cluster::start_in(engine, 3);
    let cli = cluster.cli();
    the_rule_shows(&cli);
    one_value(&cli);
    deletes(&cli);
    files(&cli);
    clocks(&cluster);
}

fn the_rule_shows(cli: &Cli) {
    let created = cli.json("namespace create sessions --conflict lww");
    assert_eq!(created["namespace"]["conflict"], "lww");
    assert_eq!(cli.json("namespace describe sessions")["conflict"], "lww");
    assert!(cli.line("namespace list").ok().text().contains("lww"));
    cli.line("namespace create sessions --conflict siblings").fails_with(&["exists"]);
    cli.line("namespace create others --conflict newest").fails_with(&["siblings", "lww"]);
}

fn one_value(cli: &Cli) {
    cli.line("put sessions s one").ok();
    let second = cli.json("put sessions s two");
    assert_eq!(second["siblings"], 1);
    assert_eq!(cli.line("get sessions s").ok().text(), "two\n");
    let read = cli.json("get sessions s");
    assert_eq!(context(&read), context(&second), "each write answers a context");
    cli.line(&format!("put sessions s three --context {}", context(&read))).ok();
    cli.line(&format!("put sessions s four --context {}", context(&read))).ok();
    assert_eq!(cli.line("get sessions s -r all").ok().text(), "four\n", "contexts refuse nothing");
    for node in 1..=3 {
        let alone = cli.json(&format!("get sessions s --replica node-{node}"));
        assert_eq!(alone["siblings"][0]["value"], "four", "node-{node} is repaired");
    }
}

fn deletes(cli: &Cli) {
    assert_eq!(cli.json("delete sessions s")["siblings"], 0);
    cli.line("get sessions s").exits(1);
    cli.line("delete sessions s").exits(1);
    assert_eq!(cli.json("count sessions")["count"], 0);
    cli.line("put sessions s again").ok();
    assert_eq!(cli.line("scan sessions").ok().text(), "s\tagain\n");
}

fn files(cli: &Cli) {
    let rows = b"a\tone\nb\ttwo\n";
    cli.run_with("import sessions - --format lines".split(' '), rows).ok();
    cli.run_with("import sessions - --format lines".split(' '), rows).ok();
    let exported = cli.line("export sessions --format jsonl").ok().stdout;
    cli.line("namespace create copy --conflict lww").ok();
    cli.run_with("import copy - --format jsonl".split(' '), &exported).ok();
    let mut lines: Vec<String> =
        cli.line("export copy --format lines").ok().text().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["a\tone", "b\ttwo", "s\tagain"]);
}

/// All nodes are on one machine, so they agree.
fn clocks(cluster: &Cluster) {
    let status = cluster.cli().json("cluster status");
    for member in status["members"].as_array().expect("a list") {
        assert_eq!(member["clock_ahead_ms"], json!(0), "{member}");
    }
    assert!(cluster.cli().line("cluster status").ok().text().contains("+0 ms"));
    let (_, page) = cluster.nodes()[0].page("/metrics").expect("it answers");
    for metric in [
        "quorate_clock_offset_seconds{peer=\"node-2\"}",
        "quorate_clock_offset_seconds{peer=\"node-3\"}",
        "quorate_clock_offset_max_seconds",
        "quorate_clock_ahead_seconds",
        "quorate_lww_from_the_future_total 0",
    ] {
        assert!(page.contains(metric), "{metric} is not in:\n{page}");
    }
}

/// Each update reads, adds, and writes; one after the other, through whichever node, none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn updates_in_turn_add_up() {
    let cluster = Cluster::start(3);
    cluster.cli().line("namespace create sessions --conflict lww").ok();
    let increment = |siblings: &[Sibling]| {
        assert!(siblings.len() <= 1, "{siblings:?}");
        let text = siblings.first().map_or("0", |s| str::from_utf8(&s.value).expect("text"));
        let number: u32 = text.parse().expect("a number");
        Some(Bytes::from((number + 1).to_string()))
    };
    for node in cluster.nodes().iter().cycle().take(12) {
        let client = Client::connect(ClientConfig::new([node.client_address()])).await;
        let sessions = client.expect("the node answers").namespace("sessions");
        sessions.update("visits", UpdateOptions::default(), increment).await.expect("it writes");
    }
    assert_eq!(cluster.cli().line("get sessions visits").ok().text(), "12\n");
}

const TEN_MINUTES_MS: i64 = 600_000;

#[test]
fn clocks_order_the_writes_and_one_that_is_off_does_not() {
    clocks_that_differ_in("fjall");
}

#[test]
fn clocks_order_the_writes_and_one_that_is_off_does_not_in_sled() {
    clocks_that_differ_in("sled");
}

fn clocks_that_differ_in(engine: &'static str) {
    let spec = ClusterSpec { engine, ..ClusterSpec::of(3) };
    let (mut cluster, clock) = (Cluster::not_started(spec), WallClock::compile());
    for node in cluster.nodes() {
        node.configure("clock_skew_max_ms = 60000");
    }
    clock.give(cluster.node(1));
    cluster.form(spec.partitions);
    let cli = cluster.cli();
    cli.line("namespace create sessions --conflict lww --strict").ok();
    cli.line("namespace create alone --conflict lww --n 1 --strict").ok();
    cli.line("namespace create carts --n 1 --strict").ok();
    an_older_write_comes_after_the_delete(&mut cluster, &clock);
    a_clock_that_is_off_orders_nothing(&cluster, &clock);
}

/// A key whose writes node-1 coordinates, as long as it does.
fn key_of_node_1(cluster: &Cluster, namespace: &str) -> String {
    let mut keys = (0..200).map(|n| format!("key-{n}"));
    let first = |key: &String| cluster.owners(namespace, key)[0] == "node-1";
    keys.find(first).expect("a third of the keys are its own")
}

/// node-1 missed the delete, and its clock is behind, though not too far: what it writes then is the
/// older write. Once it has heard of the delete it writes above it.
fn an_older_write_comes_after_the_delete(cluster: &mut Cluster, clock: &WallClock) {
    let (cli, key) = (cluster.cli(), key_of_node_1(cluster, "sessions"));
    cluster.node(1).kill();
    clock.set(-30_000);
    cli.line(&format!("put sessions {key} first")).ok();
    cli.line(&format!("delete sessions {key}")).ok();
    cluster.node(1).start();
    cluster.wait_ready();
    until("node-1 knows how far its clock is behind", || ahead_ms(cluster)[0].filter(|&ms| ms < 0));
    cli.line(&format!("put sessions {key} older")).ok();
    cli.line(&format!("get sessions {key} -r all")).exits(1);
    for node in 1..=3 {
        let alone = format!("get sessions {key} --replica node-{node}");
        until("every node holds the delete", || (cli.line(&alone).code == 1).then_some(()));
    }
    cli.line(&format!("put sessions {key} newer")).ok();
    assert_eq!(cli.line(&format!("get sessions {key} -r all")).ok().text(), "newer\n");
}

fn a_clock_that_is_off_orders_nothing(cluster: &Cluster, clock: &WallClock) {
    let (cli, ours) = (cluster.cli(), key_of_node_1(cluster, "sessions"));
    let hasty = cluster.cli().with(["--timeout", "1s"]);
    let (alone, cart) = (key_of_node_1(cluster, "alone"), key_of_node_1(cluster, "carts"));
    for ms in [TEN_MINUTES_MS, -TEN_MINUTES_MS] {
        clock.set(ms);
        let (sign, sense) = if ms > 0 { ('+', "ms ahead of") } else { ('-', "ms behind") };
        let refused = hasty.line(&format!("put alone {alone} refused"));
        let reasons =
            ["the clock of node-1 is 599", sense, "60000 ms at most", "clock right (NTP)"];
        refused.fails_with(&reasons);
        let told = refusal(cluster, &alone);
        assert_eq!((told.kind(), told.outcome()), (Kind::ClockSkew, Outcome::NotApplied));
        assert_eq!((told.node.as_str(), told.clock_skew_max_ms), ("node-1", 60_000));
        assert!((told.clock_ahead_ms - ms).abs() < 1_000, "{told:?}");
        let shown = until("node-1 shows how far its clock is off", || {
            ahead_ms(cluster)[0].filter(|shown| (shown - ms).abs() < 1_000)
        });
        let others = [ahead_ms(cluster)[1], ahead_ms(cluster)[2]];
        assert_eq!(others, [Some(0); 2], "node-1 is {shown} ms ahead of both");
        let text = cli.line("cluster status").ok().text();
        let mut rows = text.lines().filter(|line| line.contains("node-1"));
        assert!(rows.any(|row| row.contains(&format!("{sign}599"))), "{text}");

        cli.line(&format!("put sessions {ours} elsewhere")).ok();
        assert_eq!(cli.line(&format!("get sessions {ours} -r all")).ok().text(), "elsewhere\n");
        cli.line(&format!("put carts {cart} taken")).ok();
        cli.line(&format!("delete carts {cart}")).ok();
        clock.set(0);
        cli.line(&format!("put alone {alone} taken")).ok();
    }
}

/// What node-1 tells a client that sends it a write of the key.
fn refusal(cluster: &Cluster, key: &str) -> ErrorDetail {
    let (namespace, key) = ("alone".to_owned(), Bytes::copy_from_slice(key.as_bytes()));
    let request = PutRequest { namespace, key, ..PutRequest::default() };
    let runtime = tokio::runtime::Runtime::new().expect("threads are to be had");
    let status = runtime.block_on(async {
        kv(&cluster.nodes()[0]).await.put(request).await.expect_err("its clock is off")
    });
    assert_eq!(status.code(), Code::Unavailable);
    detail(&status)
}

/// How far each node says that its clock is ahead.
fn ahead_ms(cluster: &Cluster) -> Vec<Option<i64>> {
    let status = cluster.cli().json("cluster status");
    let members = status["members"].as_array().expect("a list");
    members.iter().map(|member| member["clock_ahead_ms"].as_i64()).collect()
}
