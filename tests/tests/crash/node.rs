//! A full disk and a failed sync under a node, as users and operators see them: writes are refused
//! with a reason, reads go on, other owners serve, and it ends as it is said to end.

use quorate_node::storage::data_dir::EngineKind;
use quorate_tests::{Cluster, ClusterSpec, Node, until};

use crate::disk_engines;
use crate::shim::{Fault, Shim};

/// One node, with the shim before its disk, that holds `users/alice = hello`.
fn alone(shim: &Shim, kind: EngineKind) -> Cluster {
    let spec = ClusterSpec { engine: kind.name(), ..ClusterSpec::of(1) };
    let mut cluster = Cluster::not_started(spec);
    prepare(shim, cluster.node(1));
    cluster.form(16);
    let cli = cluster.cli();
    cli.line("namespace create users --n 1").ok();
    cli.line("put users alice hello --durability synced").ok();
    cluster
}

fn prepare(shim: &Shim, node: &mut Node) {
    node.configure("disk_reserve_bytes = 0");
    for (name, value) in shim.variables(&node.data()) {
        node.set_variable(name, value);
    }
}

fn refuses_writes(node: &Node, reason: &str) {
    let cli = node.cli();
    refuses_writes_and_says_so(node, reason);
    assert_eq!(cli.line("get users alice").ok().text(), "hello\n", "reads go on");
    assert!(cli.line("scan users").ok().text().contains("alice"), "scans go on");
}

fn refuses_writes_and_says_so(node: &Node, reason: &str) {
    let cli = node.cli();
    until("writes are refused at the door", || {
        let ran = cli.line("put users bob refused --timeout 1s").exits(2);
        (ran.stderr.contains(reason) && ran.stderr.contains("not applied")).then_some(())
    });
    let (status, body) = node.page("/readyz").expect("it answers");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains(reason) && body.contains("writes are refused"), "{body}");
    until("the metric says so", || {
        let (_, metrics) = node.page("/metrics")?;
        metrics.contains("quorate_disk_refuses_writes 1\n").then_some(())
    });
}

#[test]
fn a_node_whose_disk_is_full_recovers_by_itself() {
    for kind in disk_engines() {
        let shim = Shim::compile();
        let cluster = alone(&shim, kind);
        let node = &cluster.nodes()[0];
        let pid = node.pid().expect("it runs");

        shim.set(Fault::Full, true);
        // Whatever meets the end of the space does not know what became of it.
        cluster.cli().line("put users carol lost --timeout 1s").exits(2);
        match kind {
            // Once a write of its own failed, sled's pages in memory cannot be trusted.
            EngineKind::Sled => refuses_writes_and_says_so(node, "the disk is full"),
            _ => refuses_writes(node, "the disk is full"),
        }

        shim.set(Fault::Full, false);
        node.wait_ready();
        assert_eq!(node.pid(), Some(pid), "it is the same process");
        let cli = cluster.cli();
        cli.line("put users dave back --durability synced").ok();
        assert_eq!(cli.line("get users alice").ok().text(), "hello\n");
        assert_eq!(
            cli.line("get users bob").exits(1).text(),
            "",
            "what was not applied never shows"
        );
    }
}

#[test]
fn a_node_whose_disk_failed_to_sync_recovers_by_a_restart_alone() {
    for kind in disk_engines() {
        let shim = Shim::compile();
        let mut cluster = alone(&shim, kind);
        shim.set(Fault::Sync, true);
        let failed = cluster.cli().line("put users carol lost --durability synced --timeout 1s");
        failed.exits(2);
        refuses_writes(&cluster.nodes()[0], "the disk failed");

        // A disk that works again has not written what it could not before.
        shim.set(Fault::Sync, false);
        refuses_writes(&cluster.nodes()[0], "the disk failed");

        assert_eq!(cluster.node(1).stop().code(), Some(2), "the operator is told");
        cluster.node(1).restart();
        let cli = cluster.cli();
        cli.line("put users dave back --durability synced").ok();
        assert_eq!(cli.line("get users alice").ok().text(), "hello\n");
        assert_eq!(
            cli.line("get users bob").exits(1).text(),
            "",
            "what was not applied never shows"
        );
    }
}

#[test]
fn the_other_owners_serve_while_one_disk_is_full() {
    let shim = Shim::compile();
    let mut cluster = Cluster::uninitialised(3);
    prepare(&shim, cluster.node(1));
    cluster.form(16);
    let cli = cluster.cli();
    cli.line("namespace create users --strict").ok();
    cli.line("put users alice hello -w all").ok();
    shim.set(Fault::Full, true);
    for round in 0..8 {
        cli.line(&format!("put users key-{round} value")).ok();
        assert_eq!(cli.line(&format!("get users key-{round}")).ok().text(), "value\n");
    }
    refuses_writes_of_all(&cluster);
    shim.set(Fault::Full, false);
    cluster.wait_ready();
    cli.line("put users bob there -w all").ok();
}

/// A full owner's ack is missing, and its name is told: unless the machine is so busy that the client's
/// time is over before the coordinator's answer is there.
fn refuses_writes_of_all(cluster: &Cluster) {
    until("the owner whose ack is missing is named", || {
        let ran = cluster.cli().line("put users bob there -w all --timeout 2s").exits(2);
        eprintln!("{}", ran.stderr);
        ran.stderr.contains("node-1").then_some(())
    });
    let read = cluster.cli().line("get users alice --replica node-1").ok();
    assert_eq!(read.text(), "hello\n", "reads go on");
}

#[test]
fn writes_are_refused_before_the_disk_is_full() {
    let mut cluster = Cluster::start(1);
    let cli = cluster.cli();
    cli.line("namespace create users --n 1").ok();
    cli.line("put users alice hello").ok();
    let node = cluster.node(1);
    node.stop();
    node.configure("disk_reserve_bytes = 1125899906842624");
    node.start();
    node.wait_listening();
    refuses_writes(node, "the disk is almost full");
    node.stop();
    node.configure("");
    node.restart();
    cli.line("put users bob there").ok();
}
