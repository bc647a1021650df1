//! One request in the log lines of all nodes that had a part in it.

use serde_json::Value;

use quorate_tests::{Cluster, until};

/// Three nodes that show requests, as objects or as text, and a namespace.
fn cluster(lines: &str) -> Cluster {
    let mut cluster = Cluster::uninitialised(3);
    for node in cluster.nodes() {
        node.configure(&format!("log_level = \"info,request=debug\"\n{lines}"));
    }
    cluster.form(16);
    cluster.cli().line("namespace create users").ok();
    cluster
}

/// Every line of every node about this request, as objects.
fn lines_of(cluster: &Cluster, request: &str) -> Vec<(String, Value)> {
    let of = |value: &Value| value["span"]["request_id"] == request;
    let nodes = cluster.nodes().iter();
    let lines = nodes.flat_map(|node| {
        let logged = node.logged();
        let lines = logged.lines().map(|line| serde_json::from_str(line).expect("it is an object"));
        let lines: Vec<Value> = lines.filter(of).collect();
        lines.into_iter().map(|line| (node.name().to_owned(), line))
    });
    lines.collect()
}

#[test]
fn a_request_is_found_by_its_id_on_every_node_and_shows_no_key_and_no_value() {
    let cluster = cluster("log_format = \"json\"");
    let cli = cluster.cli();
    cli.line("--request-id order-17 put users alice-the-key the-secret-value").ok();
    let lines = until("all owners have told of the write", || {
        let lines = lines_of(&cluster, "order-17");
        (lines.len() >= 3).then_some(lines)
    });
    let spans = |name| lines.iter().filter(move |(_, line)| line["span"]["name"] == name);
    assert_eq!((spans("request").count(), spans("peer_request").count()), (1, 2), "{lines:?}");
    let (_, first) = spans("request").next().expect("counted above");
    assert_eq!(first["span"]["operation"], "put");
    assert_eq!((&first["outcome"], &first["message"]), (&"ok".into(), &"ended".into()));
    let hash = first["span"]["key_hash"].as_str().expect("the key has a hash");
    assert!(hash.len() == 16 && u64::from_str_radix(hash, 16).is_ok(), "{hash}");
    assert_eq!(cli.json("cluster ring alice-the-key --namespace users")["key_hash"], hash);
    for (node, line) in spans("peer_request") {
        let span = &line["span"];
        assert_eq!((&span["key_hash"], &span["operation"]), (&hash.into(), &"replicate".into()));
        assert_eq!(span["namespace"], "users", "{node}");
    }
    let large = vec![b'x'; (1 << 20) + 1];
    let put = ["--request-id", "failing", "put", "users", "alice-the-key", "-"];
    cli.run_with(put, &large).exits(2);
    until("the failure is told with its reason", || {
        let lines = lines_of(&cluster, "failing");
        let told = lines.iter().any(|(_, line)| {
            line["outcome"] == "invalid" && line["error"].to_string().contains("1048577 bytes")
        });
        told.then_some(())
    });
    cli.line("get users alice-the-key").ok();
    cli.line("get users alice-the-key bob").exits(1);
    cli.line("scan users").ok();
    for node in cluster.nodes() {
        let logged = node.logged();
        assert!(!logged.contains("the-secret-value"), "{logged}");
        assert!(!logged.contains("alice-the-key"), "{logged}");
    }
}

#[test]
fn requests_without_an_id_get_one_and_a_batch_tells_how_many_keys() {
    let cluster = cluster("");
    let cli = cluster.cli();
    cli.line("put users alice hello").ok();
    cli.line("get users alice bob").exits(1);
    // One call to each owner that is asked first, as the SDK splits it.
    let lines = until("both keys are told of", || {
        let logged: String = cluster.nodes().iter().map(|node| node.logged()).collect();
        let of_batch = |line: &&str| line.contains("operation=\"batch_get\"");
        let lines: Vec<String> = logged.lines().filter(of_batch).map(str::to_owned).collect();
        let keys = lines.iter().map(|line| match line.contains("keys=2}") {
            true => 2,
            false => usize::from(line.contains("keys=1}")),
        });
        (keys.sum::<usize>() == 2).then_some(lines)
    });
    for line in lines {
        for part in ["request{request_id=", "namespace=\"users\"", "outcome=\"ok\""] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
    let refused = cli.run(["--request-id", "two words", "get", "users", "alice"]);
    refused.fails_with(&["two words", "request id", "visible ASCII"]);
}

#[test]
fn nobody_hears_of_requests_by_default() {
    let cluster = Cluster::start(1);
    cluster.cli().line("namespace create users --n 1").ok();
    cluster.cli().line("--request-id order-17 put users alice hello").ok();
    assert!(!cluster.nodes()[0].logged().contains("order-17"));
}
