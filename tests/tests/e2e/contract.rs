//! What scripts rely on: every command of kv-cli, its text, its json and its exit codes.

use std::collections::BTreeSet;
use std::fs;

use quorate_tests::{Cli, Cluster, ENGINES};
use serde_json::{Value, json};

fn keys(object: &Value) -> BTreeSet<&str> {
    object.as_object().expect("it is an object").keys().map(String::as_str).collect()
}

#[track_caller]
fn has_fields(object: &Value, names: &str) {
    assert_eq!(keys(object), names.split(' ').collect(), "{object}");
}

fn text<'a>(value: &'a Value, what: &str) -> &'a str {
    value[what].as_str().unwrap_or_else(|| panic!("no text {what} in {value}"))
}

#[test]
fn put_get_and_delete() {
    for engine in ENGINES {
        let cluster = Cluster::start_in(engine, 3);
        let cli = cluster.cli();
        cli.line("namespace create users").ok();
        one_value(&cli);
        siblings(&cli);
        several_keys(&cli);
        deletes(&cli);
        bytes_and_levels(&cli);
        scans(&cli);
    }
}

fn one_value(cli: &Cli) {
    let ran = cli.line("get users alice").exits(1);
    let said = "not found: namespace users has no key 'alice'\n";
    assert_eq!((ran.text().as_str(), ran.stderr.as_str()), ("", said));
    let none = cli.line("--output json get users alice").exits(1).json();
    assert_eq!(none["siblings"], json!([]));

    let put = cli.json("put users alice hello");
    has_fields(&put, "context siblings receipt");
    has_fields(&put["receipt"], "dot acked synced fallbacks");
    assert_eq!((put["siblings"].clone(), put["receipt"]["synced"].clone()), (json!(1), json!(0)));
    assert!(text(&put["receipt"], "dot").contains(':'));
    let acked = put["receipt"]["acked"].as_array().expect("a list of names");
    assert!(acked.len() >= 2 && acked.iter().all(|name| name.as_str().is_some()), "{put}");

    let get = cli.json("get users alice");
    has_fields(&get, "siblings context replicas");
    assert_eq!(get["siblings"], json!([{"value": "hello", "value_base64": "aGVsbG8="}]));
    assert!(get["replicas"].as_u64() >= Some(2));
    assert_eq!(cli.line("get users alice").ok().text(), "hello\n");

    let replaced = cli.line(&format!("put users alice again --context {}", text(&put, "context")));
    assert!(replaced.ok().text().starts_with("stored: "));
    assert_eq!(cli.line("get users alice").ok().text(), "again\n");
}

fn siblings(cli: &Cli) {
    cli.line("put users pair one").ok();
    let beside = cli.json("put users pair two");
    assert_eq!((&beside["context"], &beside["siblings"]), (&Value::Null, &json!(2)));
    assert_eq!(cli.line("get users pair").ok().text(), "[1/2]\none\n[2/2]\ntwo\n");
    let scanned = cli.line("scan users --prefix pair").ok().text();
    assert_eq!(scanned, "pair\t[1/2]\tone\npair\t[2/2]\ttwo\n");
    let both = cli.json("get users pair");
    let resolved = cli.json(&format!("put users pair both --context {}", text(&both, "context")));
    assert_eq!(resolved["siblings"], 1);
    assert_eq!(cli.line("get users pair").ok().text(), "both\n");
}

fn several_keys(cli: &Cli) {
    cli.line("namespace create several").ok();
    cli.line("put several left one").ok();
    cli.line("put several right two").ok();
    assert_eq!(cli.line("get several right left -r all").ok().text(), "right\ttwo\nleft\tone\n");
    let ran = cli.line("get several right nobody left").exits(1);
    let shown = (ran.text(), ran.stderr.trim_end().to_owned());
    assert_eq!(
        shown,
        (
            "right\ttwo\nleft\tone\n".to_owned(),
            "not found: namespace several has no key 'nobody'".to_owned()
        )
    );
    let lines = cli.line("--output json get several right nobody").exits(1).json_lines();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["key"], &lines[1]["key"]), (&json!("right"), &json!("nobody")));
    assert_eq!(lines[0]["siblings"][0]["value"], "two");
    assert_eq!(lines[1]["siblings"], json!([]));
    let long = "k".repeat(4097);
    let ran = cli.run(["get", "several", "left", &long]).exits(2);
    assert_eq!(ran.text(), "left\tone\n", "what can be read is shown");
    assert!(ran.stderr.contains("a key has 1 to 4096"), "{}", ran.stderr);
}

fn deletes(cli: &Cli) {
    cli.line("put users gone one").ok();
    cli.line("put users gone two").ok();
    let deleted = cli.json("delete users gone");
    has_fields(&deleted, "context siblings receipt");
    has_fields(&deleted["receipt"], "dot acked synced fallbacks");
    assert_eq!(deleted["siblings"], 0, "without a context it deletes what it sees: both");
    cli.line("get users gone").exits(1);
    let none = cli.line("delete users gone").exits(1);
    assert!(none.stderr.starts_with("not found: "), "{}", none.stderr);
    let nothing = cli.line("--output json delete users gone").exits(1).json();
    assert_eq!(nothing["receipt"], Value::Null);

    let seen = cli.json("put users kept one");
    cli.line("put users kept two").ok();
    let line = format!("delete users kept --context {} -w all", text(&seen, "context"));
    assert_eq!(cli.json(&line)["siblings"], 1, "what the context does not cover stays");
    assert_eq!(cli.line("get users kept").ok().text(), "two\n");
}

fn bytes_and_levels(cli: &Cli) {
    let value = b"\x00\xff\r\n\x7f";
    cli.run_with(["put", "users", "bytes", "-"], value).ok();
    assert_eq!(cli.line("get users bytes").ok().stdout, [value, b"\n".as_slice()].concat());
    assert_eq!(cli.json("get users bytes")["siblings"][0]["value_base64"], "AP8NCn8=");

    for level in ["one", "quorum", "all", "1", "2", "3"] {
        let context = cli.json("put users level x")["context"].clone();
        let put = format!("put users level-{level} x -w {level} --durability synced");
        let receipt = cli.json(&put)["receipt"].clone();
        assert!(receipt["synced"].as_u64() >= Some(1), "{receipt}");
        let get = cli.json(&format!("get users level-{level} -r {level}"));
        assert!(get["replicas"].as_u64() >= Some(1), "{context} {get}");
    }
    cli.line("put users everywhere x -w all").ok();
    assert_eq!(cli.json("get users everywhere -r all")["replicas"], 3);
    for node in 1..=3 {
        let alone = cli.json(&format!("get users everywhere --replica node-{node}"));
        assert_eq!((&alone["replicas"], &alone["siblings"][0]["value"]), (&json!(1), &json!("x")));
    }
    cli.line("get users everywhere --replica node-9").fails_with(&["node-9"]);
    for quorum in ["--strict", "--sloppy"] {
        let receipt = cli.json(&format!("put users either x {quorum}"))["receipt"].clone();
        assert_eq!(receipt["fallbacks"], json!([]), "all owners are there");
        cli.line(&format!("get users either {quorum}")).ok();
        cli.line(&format!("delete users either {quorum}")).ok();
    }
}

#[test]
fn namespaces_scans_and_the_cluster() {
    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    namespaces(&cli);
    scans(&cli);
    the_cluster(&cli);
    bench(&cli);
}

fn namespaces(cli: &Cli) {
    let created = cli.json("namespace create a --n 3 --r 1 --w all --conflict siblings");
    has_fields(&created, "namespace unreachable");
    assert_eq!(created["unreachable"], json!([]));
    let namespace = &created["namespace"];
    has_fields(
        namespace,
        "name id n r w quorum conflict durability value_max_bytes default_ttl_ms",
    );
    assert_eq!(namespace["quorum"], "sloppy", "unless it is said to be strict");
    let settings = (&namespace["n"], &namespace["r"], &namespace["w"], &namespace["conflict"]);
    assert_eq!(settings, (&json!(3), &json!("1"), &json!("all"), &json!("siblings")));
    assert_eq!(cli.json("namespace describe a"), *namespace);
    cli.line("namespace create b").ok();
    let listed = cli.json("namespace list");
    let names: BTreeSet<&str> =
        listed["namespaces"].as_array().expect("a list").iter().map(|n| text(n, "name")).collect();
    assert_eq!(names, BTreeSet::from(["a", "b"]));
    assert!(cli.line("namespace list").ok().text().starts_with("NAME"));

    updates(cli);

    cli.line("namespace create b").fails_with(&["exists"]);
    cli.line("put b key value").ok();
    has_fields(&cli.json("namespace drop b"), "dropped unreachable");
    cli.line("namespace describe b").exits(1);
    cli.line("namespace drop b").exits(1);
    cli.line("namespace create b").ok();
    cli.line("get b key").exits(1);
    assert_eq!(cli.json("count b")["count"], 0, "a namespace of the same name is another one");
}

fn updates(cli: &Cli) {
    let strict = cli.json("namespace create strict --strict");
    assert_eq!(strict["namespace"]["quorum"], "strict");
    let before = cli.json("namespace describe strict");
    let line = "namespace update strict --sloppy -r 1 --durability synced --value-max-bytes 2MiB";
    let updated = cli.json(line);
    has_fields(&updated, "namespace unreachable");
    let mut expected = before.clone();
    expected["quorum"] = json!("sloppy");
    expected["r"] = json!("1");
    expected["durability"] = json!("synced");
    expected["value_max_bytes"] = json!(2 << 20);
    assert_eq!(updated["namespace"], expected);
    assert_eq!(cli.json("namespace describe strict"), expected);

    let version = || cli.json("cluster status")["version"].clone();
    let now = version();
    let same = cli.line("namespace update strict --sloppy").ok().text();
    assert!(same.starts_with("updated strict: n=3 r=1 w=quorum quorum=sloppy "), "{same}");
    assert_eq!(version(), now, "what is so already makes no version");
    cli.line("namespace update strict -w 4").fails_with(&["level 4", "n = 3"]);
    cli.line("namespace update strict --value-max-bytes 1GiB").fails_with(&["value_max_bytes"]);
    cli.line("namespace update strict").fails_with(&["required"]);
    let unknown = cli.line("namespace update strct --strict").exits(1).stderr;
    assert!(unknown.contains("did you mean strict?"), "{unknown}");
    assert_eq!(cli.json("namespace describe strict"), expected, "none of these changed anything");
    cli.line("namespace drop strict").ok();
}

fn scans(cli: &Cli) {
    cli.line("namespace create scans").ok();
    for key in ["ab", "a", "b", "abc", "c"] {
        cli.line(&format!("put scans {key} value-{key}")).ok();
    }
    let scanned = cli.line("scan scans --prefix ab").ok().text();
    let lines: BTreeSet<&str> = scanned.lines().collect();
    assert_eq!(lines, BTreeSet::from(["ab\tvalue-ab", "abc\tvalue-abc"]));
    let items = cli.line("--output json scan scans --limit 3").ok().json_lines();
    assert_eq!(items.len(), 3);
    has_fields(&items[0], "key key_base64 siblings context");
    assert_eq!(cli.line("count scans").ok().text(), "5\n");
    assert_eq!(cli.json("count scans"), json!({"count": 5}));
    cli.line("delete scans c").ok();
    assert_eq!(cli.json("count scans")["count"], 4, "deleted keys are not counted");
}

fn the_cluster(cli: &Cli) {
    let status = cli.json("cluster status");
    let members = status["members"].as_array().expect("a list");
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|m| m["reachable"] == true && m["voter"] == true), "{status}");
    assert!(cli.line("cluster status").ok().text().contains("node-2"));
    let ring = cli.json("cluster ring");
    assert_eq!((&ring["partitions"], &ring["groups"][0]["n"]), (&json!(16), &json!(3)));
    let owners = cli.json("cluster ring some-key --namespace scans");
    has_fields(&owners, "namespace key key_base64 key_hash partition owners");
    assert_eq!(owners["owners"].as_array().map(Vec::len), Some(3));
    cli.line("cluster ring some-key").fails_with(&["--namespace"]);
}

fn bench(cli: &Cli) {
    cli.line("namespace create load").ok();
    let line = "bench load --workload mixed --keys 20 --value-size 100 --concurrency 4 \
                --duration 1s --prepare";
    for more in ["", " --rate 50 --zipf", " --workload read"] {
        let line = match more {
            " --workload read" => line.replace("mixed", "read"),
            _ => format!("{line}{more}"),
        };
        let report = cli.json(&line);
        let fields =
            "operations ok failed errors not_found retries seconds ops_per_s latency_us missed";
        has_fields(&report, fields);
        has_fields(&report["latency_us"], "p50 p90 p99 p999");
        assert!(report["operations"].as_u64() > Some(0), "{report}");
        assert_eq!(report["errors"], json!({}), "{report}");
    }
    let items = cli.line("--output json scan load").ok().json_lines();
    assert_eq!(items.len(), 20);
    assert!(items.iter().all(|item| item["siblings"].as_array().map(Vec::len) == Some(1)));
}

#[test]
fn every_format_goes_in_and_comes_out() {
    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(cluster.path(name), bytes).expect("the temporary directory takes a file");
        cluster.path(name).to_str().expect("its name is text").to_owned()
    };
    let sorted =
        |bytes: &[u8]| quorate_tests::rows::sorted(str::from_utf8(bytes).expect("text")).join("\n");

    let csv = write("a.csv", b"x,k1,1\r\ny,\"k,2\",\"two\"\nz,k3,3");
    cli.line("namespace create csv").ok();
    let last = cli.line(&format!("import csv {csv} --format csv --key-column 1")).ok().text();
    assert!(last.starts_with("rows=3 stored=3 failed=0 unknown=0 bytes="), "{last}");
    assert_eq!(cli.line("get csv k,2").ok().text(), "y,\"k,2\",\"two\"\n");
    let out = cluster.path("out.csv");
    let exported = cli.json(&format!("export csv {} --format csv", out.display()));
    assert_eq!((&exported["rows"], &exported["failed"]), (&json!(3), &json!(0)));
    let out = fs::read(out).expect("the export made it");
    assert_eq!(sorted(&out), "x,k1,1\ny,\"k,2\",\"two\"\nz,k3,3");

    let lines = write("a.tsv", b"k1\tone\nk2\ttwo\twords\n");
    cli.line("namespace create lines").ok();
    cli.line(&format!("import lines {lines} --format lines")).ok();
    let out = cli.line("export lines --format lines").ok().stdout;
    assert_eq!(sorted(&out), "k1\tone\nk2\ttwo\twords");

    let jsonl =
        b"{\"key\":\"k\",\"value\":\"a\\nb\"}\n{\"key\":\"k2\",\"value_base64\":\"/w==\"}\n";
    cli.line("namespace create jsonl").ok();
    cli.run_with("import jsonl - --format jsonl".split(' '), jsonl).ok();
    let again = cli.line("export jsonl --format jsonl").ok().stdout;
    cli.line("namespace create copy").ok();
    cli.run_with("import copy - --format jsonl".split(' '), &again).ok();
    assert_eq!(sorted(&cli.line("export copy --format jsonl").ok().stdout), sorted(&again));
    assert_eq!(cli.line("get copy k2").ok().stdout, b"\xff\n");

    duplicates_and_siblings(&cli);
}

fn duplicates_and_siblings(cli: &Cli) {
    cli.line("namespace create twice").ok();
    let ran = cli.run_with("import twice - --format lines".split(' '), b"k\tone\nk\ttwo\n").ok();
    assert!(ran.stderr.contains("duplicate: line 2: key 'k' was in line 1"), "{}", ran.stderr);
    assert_eq!(cli.line("get twice k").ok().text(), "two\n");

    cli.line("put twice k beside").ok();
    let failed = cli.line("export twice --format lines").exits(2);
    assert!(failed.stderr.contains("2 siblings"), "{}", failed.stderr);
    assert!(failed.stderr.contains("1 key could not be written, the others are"));
    let file = std::env::temp_dir().join(format!("quorate-twice-{}", std::process::id()));
    let to_file = cli.line(&format!("export twice {} --format lines", file.display()));
    let kept = format!("so nothing is kept, and {} is as it was", file.display());
    to_file.fails_with(&["1 key could not be written", &kept, "export again"]);
    assert!(!file.exists());
    let all = cli.line("export twice --format lines --siblings all").ok().text();
    assert_eq!(all, "k\ttwo\nk\tbeside\n");

    // They do not come back as siblings, and whoever asks how to export them is told.
    let all = cli.line("export twice --format jsonl --siblings all").ok().stdout;
    cli.line("namespace create last").ok();
    let ran = cli.run_with("import last - --format jsonl".split(' '), &all).ok();
    assert!(ran.stderr.contains("the last one wins"), "{}", ran.stderr);
    assert_eq!(cli.line("get last k").ok().text(), "beside\n");
    for (command, told) in [
        ("export", "--siblings all writes for one key, import keeps the last alone"),
        ("import", "also of the siblings that export --siblings all wrote"),
    ] {
        let help = cli.run([command, "--help"]).ok().text();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(told), "{help}");
    }
}

#[test]
fn versions_and_help_need_no_cluster() {
    let binaries = quorate_tests::binaries();
    for program in [&binaries.quorate, &binaries.kv_cli] {
        for flag in ["--version", "--help"] {
            let output = quorate_tests::command(program).arg(flag).output();
            let output = output.expect("the program was built");
            assert!(output.status.success() && !output.stdout.is_empty(), "{program:?} {flag}");
        }
    }
}
