//! What users get wrong in requests: a clear error, and nothing else disturbed.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use quorate_tests::{Cli, Cluster, PortBlock, kill, until};

#[test]
fn wrong_requests_are_refused_with_their_reason_and_change_nothing() {
    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.line("namespace create users").ok();
    cli.line("namespace create small --value-max-bytes 1000").ok();
    cli.line("put users alice hello -w all").ok();
    let before = cli.line("--output json scan users").ok().text();

    unknown_namespaces(&cli);
    keys_and_values(&cli);
    levels(&cli);
    contexts(&cli);
    rows(&cli);
    members(&cli);

    assert_eq!(cli.line("--output json scan users").ok().text(), before);
    assert_eq!(cli.json("count small")["count"], 1);
    cli.line("get users alice -r all").ok();
}

fn unknown_namespaces(cli: &Cli) {
    for line in
        ["put nowhere k v", "get nowhere k", "scan nowhere", "count nowhere", "delete nowhere k"]
    {
        cli.line(line).fails_with(&["there is no namespace nowhere", "create"]);
    }
    for name in ["Upper", "-dash", "sp ace", ""] {
        cli.run(["namespace", "create", "--", name]).fails_with(&["a-z"]);
    }
}

fn keys_and_values(cli: &Cli) {
    let long = "k".repeat(4097);
    for (key, reason) in [("", "the key is empty"), (&long, "4097")] {
        for command in ["get", "delete"] {
            cli.run([command, "users", key]).fails_with(&[reason, "a key has 1 to 4096"]);
        }
        let ran = cli.run(["put", "users", key, "value"]);
        ran.fails_with(&["not applied", reason, "a key has 1 to 4096"]);
    }
    let longest = "k".repeat(4096);
    cli.run(["put", "small", &longest, "value"]).ok();
    assert_eq!(cli.run(["get", "small", &longest]).ok().text(), "value\n");

    let over = vec![b'x'; 1001];
    let ran = cli.run_with(["put", "small", "k", "-"], &over);
    ran.fails_with(&["not applied", "1001 bytes", "up to 1000"]);
    let over = vec![b'x'; (1 << 20) + 1];
    let ran = cli.run_with(["put", "users", "k", "-"], &over);
    ran.fails_with(&["not applied", "1048577 bytes", "up to 1048576"]);
    let over = vec![b'x'; 17 << 20];
    let ran = cli.run_with(["put", "users", "k", "-"], &over);
    ran.fails_with(&["not applied", "larger than the node takes", "message_max_bytes"]);
}

fn levels(cli: &Cli) {
    cli.line("put users k v -w 4").fails_with(&["not applied", "level 4", "n = 3"]);
    cli.line("get users k -r 4").fails_with(&["level 4", "n = 3"]);
    cli.line("put users k v -w 0").fails_with(&["0"]);
    cli.line("get users k -r 0").fails_with(&["0"]);
    cli.line("get users k -r some").fails_with(&["some"]);
    cli.line("namespace create over --n 4").fails_with(&["4", "3 members"]);
    cli.line("namespace create over --w 4").fails_with(&["level 4", "n = 3"]);
    cli.line("namespace create over --r 0").fails_with(&["0"]);
    cli.line("namespace create over --n 0").fails_with(&["0"]);
    cli.line("namespace describe over").exits(1);
}

fn contexts(cli: &Cli) {
    let foreign = cli.json("get users alice")["context"].as_str().expect("a token").to_owned();
    for line in ["put users bob v", "delete users bob", "put small alice v"] {
        let ran = cli.line(&format!("{line} --context {foreign}"));
        ran.fails_with(&["not applied", "another key, namespace or cluster"]);
    }
    let mut altered = foreign.clone().into_bytes();
    let middle = altered.len() / 2;
    altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).expect("it is ASCII");
    cli.line(&format!("put users alice v --context {altered}")).fails_with(&["context"]);
    cli.line("put users alice v --context Z2FyYmFnZQ").fails_with(&["context is malformed"]);
    cli.line("put users alice v --context not/base64!").fails_with(&["this is no context"]);
}

fn members(cli: &Cli) {
    for line in ["hints --target node-9", "hints await --target node-9"] {
        let ran = cli.line(line);
        let ran = ran.fails_with(&["no member is called \"node-9\"", "check the name"]);
        assert!(!ran.stderr.contains("create"), "{}", ran.stderr);
    }
}

fn rows(cli: &Cli) {
    cli.line("namespace create rows").ok();
    let csv = b"a,1\nragged\nb,2\n\xff,3\nc,4,5\n\nd,6\n,7\n";
    let ran = cli.run_with("--output json import rows - --format csv".split(' '), csv).exits(2);
    for (line, reason) in [
        (2, "1 fields, but the first row has 2"),
        (4, "invalid UTF-8 at byte 0 of the row"),
        (5, "3 fields, but the first row has 2"),
        (8, "the key is empty"),
    ] {
        let failed = ran.said().into_iter().find(|said| said["failed"]["line"] == line);
        assert_eq!(failed.expect("it is reported")["failed"]["message"], reason);
    }
    let summary = ran.json();
    assert_eq!(
        (&summary["rows"], &summary["stored"], &summary["failed"]),
        (&7.into(), &3.into(), &4.into())
    );
    let stored = cli.line("export rows --format csv").ok().text();
    assert_eq!(quorate_tests::rows::sorted(&stored), ["a,1", "b,2", "d,6"]);
    cli.line("import rows /no/such/file --format csv")
        .fails_with(&["/no/such/file", "No such file"]);
    cli.run_with("import rows - --format jsonl".split(' '), b"{\"key\":1}\n").exits(2);
}

#[test]
fn an_endpoint_that_is_down_is_named_and_another_one_is_enough() {
    let cluster = Cluster::start(3);
    let nowhere = PortBlock::reserve(1);
    let down = format!("127.0.0.1:{}", nowhere.client(1));
    let cli = Cli::new(std::slice::from_ref(&down));
    cli.line("count users --timeout 2s").fails_with(&[&down, "refused"]);
    let both = Cli::new(&[down, cluster.nodes()[0].client_address()]);
    both.line("namespace create users").ok();
    both.line("put users alice hello").ok();
    let [node, ..] = cluster.nodes() else { panic!("there are three") };
    let peers = Cli::new(&[node.peer_address()]);
    peers.line("count users").fails_with(&["no node's address for clients"]);
    Cli::new(&["no-port".to_owned()]).line("count users").fails_with(&["no-port"]);
}

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    let mut cluster = Cluster::uninitialised(3);
    for node in cluster.nodes() {
        // Less than the clients that go away: what one of them kept would be missed.
        node.configure("requests_max = 4");
    }
    cluster.form(16);
    let cli = cluster.cli();
    cli.line("namespace create users").ok();
    let rows: String = (0..2000).map(|row| format!("key-{row}\t{}\n", "x".repeat(2000))).collect();
    let import = "import users - --format lines --timeout 30s".split(' ');
    cli.run_with(import, rows.as_bytes()).ok();

    for _ in 0..6 {
        let mut scan = cluster.node(1).cli().command(["scan", "users"]);
        let mut child = scan.stdout(Stdio::piped()).spawn().expect("the program was built");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it was given a pipe");
        BufReader::with_capacity(64, stdout).read_line(&mut line).expect("it prints a line");
        assert!(line.starts_with("key-"), "{line}");
        kill(&mut child);
        until("the next scan is let in", || {
            let next = cluster.node(1).cli().line("scan users --limit 1");
            (next.code == 0).then_some(())
        });
    }
    for _ in 0..6 {
        let mut put = cluster.node(1).cli().command(["put", "users", "half", "-"]);
        // It waits for its value, and never sends it.
        let mut child = put.stdin(Stdio::piped()).spawn().expect("the program was built");
        kill(&mut child);
    }
    cli.line("get users half").exits(1);
    assert_eq!(cli.json("count users")["count"], 2000);
    cli.line("put users last value -w all").ok();
}
