//! Namespaces in which the last write wins.

use bytes::Bytes;
use quorate_client::{Client, ClientConfig, Sibling, UpdateOptions};
use quorate_tests::{Cli, Cluster};
use serde_json::{Value, json};

fn context(answer: &Value) -> &str {
    answer["context"].as_str().unwrap_or_else(|| panic!("no context: {answer}"))
}

#[test]
fn the_last_write_stands_alone() {
    let cluster = Cluster::start(3);
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
