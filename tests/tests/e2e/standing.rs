//! Nodes that are started again: they count at once after a kill, and not with an older copy of their store.

use std::fs;
use std::path::Path;

use quorate_tests::{Cluster, Node, until};

fn three() -> Cluster {
    let cluster = Cluster::start(3);
    cluster.cli().line("namespace create things --strict").ok();
    cluster
}

fn counts(node: &Node) {
    until("the node counts", || {
        let (code, page) = node.page("/readyz")?;
        (code == 200 && page == "ready\n").then_some(())
    });
}

/// How often a node was compared with the other owners.
fn rounds(node: &Node) -> Option<u64> {
    let (_, page) = node.page("/metrics")?;
    let name = "quorate_exchange_rounds_total ";
    page.lines().find_map(|line| line.strip_prefix(name)?.parse().ok())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the directory is ours");
    for entry in fs::read_dir(from).expect("it is there") {
        let path = entry.expect("it can be listed").path();
        let target = to.join(path.file_name().expect("it has a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).expect("it can be copied")),
        }
    }
}

#[test]
fn a_node_that_was_killed_counts_again_though_another_one_is_dead() {
    let mut cluster = three();
    cluster.cli().line("put things key value").ok();
    cluster.node(3).kill();
    // What it had handed to the operating system is there: the machine ran on.
    let node = cluster.node(1);
    node.kill();
    node.start();
    node.wait_ready();
    counts(node);
    assert_eq!(node.cli().line("get things key").ok().text(), "value\n");
    let status = node.cli().json("cluster status");
    assert!(status["members"][0]["catching_up"].is_null(), "{status}");
    until("the metrics tell", || {
        let (_, page) = node.page("/metrics")?;
        let shows = |reason: &str| {
            page.contains(&format!("quorate_vnodes_lacking_standing{{reason=\"{reason}\"}} 0\n"))
        };
        let all = ["rebuilding", "unasked", "lost_tail", "rolled_back", "lost"]
            .iter()
            .all(|reason| shows(reason));
        all.then_some(())
    });
}

#[test]
fn an_older_copy_of_a_store_does_not_count_before_it_has_what_all_others_have() {
    let mut cluster = three();
    cluster.cli().line("put things key old").ok();
    let kept = cluster.path("copy");
    let node = cluster.node(1);
    node.stop();
    copy(&node.data(), &kept);
    node.start();
    cluster.wait_ready();
    cluster.cli().line("delete things key").ok();
    let before = rounds(&cluster.nodes()[1]).expect("the node tells");
    until("the others were told what it has seen", || {
        (rounds(&cluster.nodes()[1])? > before + 1).then_some(())
    });
    cluster.node(3).kill();
    let node = cluster.node(1);
    node.stop();
    fs::remove_dir_all(node.data()).expect("the directory is ours");
    copy(&kept, &node.data());
    node.start();
    node.wait_ready();
    let page = until("the node says whom it waits for", || {
        let (_, page) = node.page("/readyz")?;
        page.contains("waits for node-3").then_some(page)
    });
    assert!(page.starts_with("ready, and catching up: 16 of 16 partitions"), "{page}");
    let refused = node.cli().line("get things key --timeout 2s").exits(2).stderr;
    let why = "node-1 does not count until it has caught up: it may lack what it had acknowledged";
    assert!(refused.contains(why), "{refused}");
    let status = node.cli().line("cluster status").ok().text();
    assert!(status.contains("its store is older than what others remember of it"), "{status}");
    cluster.node(3).start();
    cluster.wait_ready();
    let node = cluster.node(1);
    counts(node);
    node.cli().line("get things key").exits(1);
}
