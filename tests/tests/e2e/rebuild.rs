//! Stores that are lost: told with the next command, rebuilt from the others, and no read is wrong.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use quorate_tests::rows::sorted;
use quorate_tests::{Cli, Cluster, Node, Ran, until};

const ROWS: usize = 400;

fn rows() -> String {
    let mut text = String::new();
    for row in 0..ROWS {
        writeln!(text, "key-{row}\tvalue {row}").expect("a string takes all");
    }
    text
}

/// Three nodes over `engine`, and rows in their namespace.
fn filled(engine: &'static str) -> Cluster {
    let cluster = Cluster::start_in(engine, 3);
    let file = cluster.path("rows.txt");
    fs::write(&file, rows()).expect("the temporary directory takes a file");
    let cli = cluster.cli();
    cli.line("namespace create things --strict").ok();
    cli.line(&format!("import things {} --format lines", file.display())).ok();
    cluster
}

/// Overwrites every file below a directory with what no engine ever wrote.
fn ruin(directory: &Path) {
    for entry in fs::read_dir(directory).expect("it is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            ruin(&path);
        } else {
            let length = fs::metadata(&path).expect("it is there").len();
            fs::write(&path, vec![0xa5; length as usize]).expect("it can be written");
        }
    }
}

fn serve(node: &Node, flags: &[&str]) -> Ran {
    let mut serve = node.serve_command();
    serve.args(flags).stdin(Stdio::null());
    Ran::of(serve, None)
}

fn set_aside(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.data()).expect("the data directory is there");
    let paths = entries.map(|entry| entry.expect("it can be listed").path());
    let is_aside = |path: &PathBuf| path.to_string_lossy().contains("/damaged-");
    paths.filter(is_aside).collect()
}

/// Waits until a node says that it is whole, having said before that it was not.
fn wait_until_whole(node: &Node) {
    until("the store is rebuilt", || {
        let (code, page) = node.page("/readyz")?;
        assert!(code != 200 || page.starts_with("ready"), "{page}");
        (page == "ready\n" && node.logged().contains("the store is whole again")).then_some(())
    });
    let status = node.cli().json("cluster status");
    let members = status["members"].as_array().expect("a list");
    assert!(members.iter().all(|member| member["rebuild"].is_null()), "{status}");
}

/// Reads one key after the other by quorum: none may be missing, at any time.
fn read_until(done: &AtomicBool, cli: &Cli) -> usize {
    let mut reads = 0;
    while !done.load(Ordering::Relaxed) {
        let row = reads * 37 % ROWS;
        let found = cli.line(&format!("get things key-{row}")).ok().text();
        assert_eq!(found, format!("value {row}\n"));
        reads += 1;
    }
    reads
}

/// With one of the others dead, a quorum needs the node that was rebuilt.
fn holds_everything(cluster: &mut Cluster) {
    cluster.node(2).kill();
    let cli = cluster.nodes()[0].cli();
    assert_eq!(sorted(&cli.line("export things --format lines").ok().text()), sorted(&rows()));
    assert_eq!(cli.json("count things")["count"], ROWS);
}

fn is_rebuilt(engine: &'static str) {
    let mut cluster = filled(engine);
    let node = cluster.node(1);
    node.stop();
    let store = fs::read_to_string(node.data().join("store.toml")).expect("it is there");
    ruin(&node.data().join(engine));

    let refused = serve(node, &[]).exits(2).stderr;
    let (data, configuration) = (node.data(), node.configuration());
    for told in [
        data.join(engine).display().to_string(),
        match engine {
            "sled" => "sled may have changed its files",
            _ => "nothing was changed",
        }
        .to_owned(),
        format!("serve --config {} --rebuild", configuration.display()),
    ] {
        assert!(refused.contains(&told), "no {told:?} in {refused}");
    }
    assert_eq!(refused.contains("nothing was changed"), engine != "sled", "{refused}");
    assert!(set_aside(node).is_empty(), "without the flag nothing is moved");

    let done = AtomicBool::new(false);
    let others = Cli::new(&[cluster.node(2).client_address(), cluster.node(3).client_address()]);
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_until(&done, &others));
        let node = cluster.node(1);
        node.start_with(&["--rebuild"]);
        node.wait_ready();
        let by_itself = node.cli().line("get things key-7").ok().text();
        assert_eq!(by_itself, "value 7\n", "a node that is being rebuilt serves from the others");
        wait_until_whole(node);
        done.store(true, Ordering::Relaxed);
        reader.join().expect("no read was wrong")
    });
    assert!(reads > 0);

    let node = cluster.node(1);
    let aside = set_aside(node);
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(aside[0].join(engine).is_dir());
    let old = fs::read_to_string(aside[0].join("store.toml")).expect("nothing is deleted");
    assert_eq!(old, store);
    let new = fs::read_to_string(node.data().join("store.toml")).expect("it is there");
    assert_ne!(new, store, "it is another store");
    assert!(node.logged().contains("it does not vote"), "{}", node.logged());
    assert!(node.page("/metrics").expect("it answers").1.contains("quorate_rebuild_vnodes_left 0"));
    node.restart();
    holds_everything(&mut cluster);
}

#[test]
fn a_fjall_store_that_does_not_open_is_set_aside_and_refilled() {
    is_rebuilt("fjall");
}

#[test]
fn a_sled_store_that_does_not_open_is_set_aside_and_refilled() {
    is_rebuilt("sled");
}

#[test]
fn the_flag_harms_no_store_that_opens_and_a_lost_one_is_never_silently_empty() {
    let mut cluster = filled("fjall");
    let node = cluster.node(1);
    node.stop();
    node.start_with(&["--rebuild"]);
    node.wait_ready();
    assert!(node.logged().contains("the store opens, so nothing was set aside"));
    assert!(set_aside(node).is_empty());
    node.stop();

    // Its store was deleted; what is left says that there was one.
    fs::remove_file(node.data().join("store.toml")).expect("the directory is ours");
    fs::remove_dir_all(node.data().join("fjall")).expect("the directory is ours");
    let refused = serve(node, &[]).exits(2).stderr;
    assert!(refused.contains("holds no store any more"), "{refused}");

    // The whole disk was lost: nothing says where the cluster is, until somebody does.
    fs::remove_dir_all(node.data()).expect("the directory is ours");
    let refused = serve(node, &["--rebuild"]).exits(2).stderr;
    assert!(refused.contains("seeds"), "{refused}");
    let seed = cluster.nodes()[2].peer_address();
    let node = cluster.node(1);
    node.start_with(&["--seeds", &seed]);
    node.wait_ready();
    wait_until_whole(node);
    holds_everything(&mut cluster);
}

#[test]
fn a_voter_that_lost_its_store_is_shown_and_named_when_a_change_fails() {
    let mut cluster = Cluster::start(3);
    let status = |cluster: &Cluster| cluster.nodes()[2].cli().json("cluster status");
    let votes = |status: &serde_json::Value| -> Vec<String> {
        let members = status["members"].as_array().expect("a list");
        members.iter().map(|m| m["vote"].as_str().unwrap_or("?").to_owned()).collect()
    };
    until("all voters vote", || (votes(&status(&cluster)) == ["yes"; 3]).then_some(()));

    let seed = cluster.nodes()[2].peer_address();
    for number in [1, 2] {
        let node = cluster.node(number);
        node.stop();
        fs::remove_dir_all(node.data()).expect("the directory is ours");
        node.start_with(&["--seeds", &seed]);
        node.wait_ready();
    }
    assert_eq!(votes(&status(&cluster)), ["lost", "lost", "yes"]);
    let text = cluster.nodes()[2].cli().line("cluster status").ok().text();
    assert!(text.contains("votes lost with the stores of node-1, node-2: 1 of 3 voters"), "{text}");
    until("the metric tells", || {
        let page = cluster.nodes()[0].page("/metrics")?.1;
        page.contains("\nquorate_voter_lost 1\n").then_some(())
    });
    let refused = cluster.nodes()[2].cli().line("namespace create things").exits(2).stderr;
    for part in [
        "no majority of the voters is left",
        "node-1: it has lost",
        "node-2: it has lost",
        "to ask again is in vain",
    ] {
        assert!(refused.contains(part), "no {part:?} in {refused}");
    }
    assert!(!refused.contains("allow more time"), "{refused}");
}

#[test]
fn a_rebuild_waits_for_every_other_owner_unless_the_operator_excuses_it() {
    let mut cluster = filled("fjall");
    cluster.node(2).kill();
    let node = cluster.node(1);
    node.stop();
    ruin(&node.data().join("fjall"));
    node.start_with(&["--rebuild"]);
    node.wait_ready();
    let waits = until("the node says whom it waits for", || {
        let (_, page) = node.page("/readyz")?;
        page.contains("waits for node-2").then_some(page)
    });
    assert!(waits.starts_with("ready, and being rebuilt: 0 of 16 partitions complete"), "{waits}");
    let status = node.cli().line("cluster status").ok().text();
    assert!(status.contains("node-1: its store is being rebuilt: 0 of 16"), "{status}");
    let refused = node.cli().line("get things key-1 --timeout 2s").exits(2).stderr;
    assert!(refused.contains("node-1 does not count while it is being rebuilt"), "{refused}");
    assert_eq!(node.cli().line("get things key-1 -r one").ok().text(), "value 1\n");

    node.kill();
    node.start_with(&["--rebuild-without", "node-2"]);
    node.wait_ready();
    wait_until_whole(node);
    assert_eq!(node.cli().json("count things")["count"], ROWS);
}
