//! What a node missed reaches it without hints and without a read.

use std::fmt::Write as _;
use std::fs;

use quorate_tests::{Cluster, Node, until};

const ROWS: usize = 2_000;

/// Three nodes that keep no hints: whatever one of them misses is nobody's to bring.
fn without_hints() -> Cluster {
    let mut cluster = Cluster::not_started(quorate_tests::ClusterSpec::of(3));
    for number in 1..=3 {
        cluster.node(number).set_variable("QUORATE_HINTS_MAX_BYTES", "0");
    }
    cluster.start_all();
    cluster.form(16);
    cluster.wait_ready();
    cluster.cli().line("namespace create things --strict").ok();
    cluster
}

fn import(cluster: &Cluster, value: &str) {
    let mut text = String::new();
    (0..ROWS)
        .for_each(|row| writeln!(text, "key-{row}\t{value} {row}").expect("a string takes all"));
    let file = cluster.path("rows.txt");
    fs::write(&file, text).expect("the temporary directory takes a file");
    cluster.cli().line(&format!("import things {} --format lines", file.display())).ok();
}

/// A number of the metrics of a node.
pub(crate) fn metric(node: &Node, name: &str) -> Option<u64> {
    let (_, page) = node.page("/metrics")?;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

fn alone(cluster: &Cluster, key: &str) -> Option<String> {
    let got = cluster.cli().line(&format!("get things {key} --replica node-3"));
    (got.code == 0).then(|| got.text())
}

#[test]
fn a_node_that_nobody_keeps_hints_for_catches_up_by_itself() {
    let mut cluster = without_hints();
    import(&cluster, "old");
    cluster.node(3).kill();
    import(&cluster, "new");
    cluster.cli().line("delete things key-7").ok();
    cluster.node(3).start();
    cluster.wait_ready();
    until("the node missed nothing any more", || {
        let node = &cluster.nodes()[2];
        let fetched = metric(node, "quorate_exchange_objects_total")?;
        let missing = metric(node, "quorate_exchange_missing_writes")?;
        (fetched as usize >= ROWS && missing == 0).then_some(())
    });
    for row in [0, 1, 999, ROWS - 1] {
        let held = alone(&cluster, &format!("key-{row}"));
        assert_eq!(held, Some(format!("new {row}\n")));
    }
    assert_eq!(alone(&cluster, "key-7"), None, "its tombstone was missed, too");
    let node = &cluster.nodes()[2];
    let whole = metric(node, "quorate_exchange_whole_partitions_total");
    assert_eq!(whole, Some(0), "the logs knew every key");
    let bytes = metric(node, "quorate_exchange_objects_bytes_total").expect("it fetched some");
    println!("{bytes} bytes for {ROWS} objects");
}

#[test]
fn how_stale_nodes_are_is_told() {
    let mut cluster = without_hints();
    cluster.node(3).kill();
    import(&cluster, "new");
    cluster.node(3).start();
    cluster.wait_ready();
    let row = |way: &str| {
        let json = cluster.cli().json("cluster staleness");
        let member = json["members"].as_array()?.iter().find(|m| m["name"] == "node-3")?.clone();
        let arrivals = member["arrivals"].as_array()?.clone();
        let found =
            arrivals.into_iter().find(|row| row["way"] == way && row["namespace"] == "things");
        found.map(|row| (member, row))
    };
    let (member, row) = until("all came by exchange", || {
        row("exchange").filter(|(member, row)| {
            row["count"].as_u64() >= Some(ROWS as u64) && member["missing_writes"] == 0
        })
    });
    assert_eq!(
        (&member["missing_for_ms"], &member["error"]),
        (&0.into(), &serde_json::Value::Null)
    );
    let [p50, p99, max] = ["p50_ms", "p99_ms", "max_ms"].map(|name| row[name].as_u64().unwrap());
    assert!(0 < p50 && p50 <= p99 && p99 <= max, "{row}");
    cluster.node(2).kill();
    let text = cluster.cli().line("cluster staleness").ok().text();
    for part in ["MISSING WRITES", "exchange", "node-2: "] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}
