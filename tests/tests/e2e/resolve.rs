//! Writes of unknown outcome, and what `kv-cli resolve` tells of them.

use quorate_client::{Client, ClientConfig, OperationId, Retry};
use quorate_tests::{Cluster, until};

/// An id that a client might have sent a write of users/alice under, to the primary of that key.
fn never_sent(cluster: &Cluster, primary: &str) -> OperationId {
    let endpoints = cluster.nodes().iter().map(|node| node.client_address());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = Client::connect(ClientConfig::new(endpoints)).await.expect("they run");
        let topology = client.describe_from(primary).await.expect("it runs");
        let namespace_id = topology.namespace("users").expect("it was made").id;
        OperationId {
            coordinator: topology.node,
            opening: topology.opening,
            client: 7,
            sequence: 1,
            issued_ms: topology.now_ms,
            namespace_id,
            key_hash: topology.key_hash(namespace_id, b"alice"),
            retry: Retry::ExactlyOnce,
        }
    })
}

#[test]
fn a_write_of_unknown_outcome_is_told_by_its_id_alone() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli().with(["--timeout", "2s"]);
    cli.line("namespace create users").ok();
    let owners = cluster.owners("users", "alice");
    let [primary, second, third] = [0, 1, 2].map(|at| owners[at].clone());

    // All but one owner have it.
    cluster.named(&third).pause();
    let ran = cli.line("--output json put users alice hello -w all").exits(2);
    let error = ran.said().remove(0)["error"].clone();
    assert_eq!(error["outcome"], "unknown", "{error}");
    let operation = error["operation"].as_str().expect("an id").to_owned();
    let advice = format!("`kv-cli resolve {operation}`");
    assert!(error["message"].to_string().contains(&advice), "{error}");
    let resolve = format!("resolve {operation}");
    let text = cli.line(&resolve).ok().text();
    assert!(text.starts_with("applied: ") && text.contains("key hash"), "{text}");
    cluster.named(&third).go_on();

    // It is told as well once the coordinator is gone.
    cluster.named(&primary).kill();
    let others = cluster.named(&second).cli().with(["--timeout", "4s"]);
    let told = others.json(&resolve);
    assert_eq!((&told["outcome"], told["dot"].is_string()), (&"applied".into(), true), "{told}");
    let mistyped = operation.replace(&operation[7..9], "--");
    cli.line(&format!("resolve {mistyped}")).fails_with(&["operation id"]);
}

#[test]
fn what_a_coordinator_never_saw_is_unknown_while_it_is_silent_and_then_not_applied() {
    let mut cluster = Cluster::start(3);
    cluster.cli().line("namespace create users").ok();
    let owners = cluster.owners("users", "alice");
    let operation = never_sent(&cluster, &owners[0]);
    let resolve = format!("resolve {operation}");
    let cli = cluster.named(&owners[1]).cli().with(["--timeout", "4s"]);
    cluster.named(&owners[0]).pause();
    let text = cli.line(&resolve).exits(3).text();
    assert!(text.starts_with("unknown") && text.contains(&owners[0]), "{text}");
    cluster.named(&owners[0]).go_on();
    let text = until("the coordinator tells", || {
        let ran = cli.line(&resolve);
        let text = ran.text();
        text.starts_with("not applied").then_some((ran, text))
    });
    text.0.exits(1);
    assert!(text.1.contains("refuses it for good"), "{}", text.1);
    let told = cli.line(&format!("--output json {resolve}")).exits(1).json();
    assert_eq!((&told["outcome"], &told["dot"]), (&"not_applied".into(), &serde_json::Value::Null));
}

#[test]
fn what_was_named_over_an_hour_ago_nobody_can_tell() {
    const TWO_HOURS_MS: u64 = 2 * 3_600_000;
    let cluster = Cluster::start(3);
    cluster.cli().line("namespace create users").ok();
    let owners = cluster.owners("users", "alice");
    let operation = never_sent(&cluster, &owners[0]);
    let expired = OperationId { issued_ms: operation.issued_ms - TWO_HOURS_MS, ..operation };
    let text = cluster.cli().line(&format!("resolve {expired}")).exits(3).text();
    assert!(text.starts_with("expired, key hash ") && text.contains("read the key"), "{text}");
}
