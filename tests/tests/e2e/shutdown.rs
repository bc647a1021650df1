//! SIGTERM: how supervisors stop a node.

use quorate_tests::{Cluster, ENGINES};

#[test]
fn a_node_asked_to_stop_ends_well_and_has_its_data_when_it_is_back() {
    ENGINES.into_iter().for_each(stops_well_and_comes_back);
}

fn stops_well_and_comes_back(engine: &'static str) {
    let mut cluster = Cluster::start_in(engine, 3);
    let cli = cluster.cli();
    cli.line("namespace create users").ok();
    for key in 0..20 {
        cli.line(&format!("put users key-{key} value-{key} -w all")).ok();
    }
    for number in 1..=3 {
        assert_eq!(cluster.node(number).stop().code(), Some(0));
        assert!(cluster.node(number).logged().contains("stopped"));
    }
    cluster.start_all();
    cluster.wait_ready();
    for number in 1..=3 {
        // What each node alone holds: nobody sent it again.
        let alone = cli.line(&format!("get users key-7 --replica node-{number}"));
        assert_eq!(alone.ok().text(), "value-7\n");
    }
    assert_eq!(cli.json("count users")["count"], 20);
}

#[test]
fn a_stopped_node_is_missed_by_nobody_who_asks_for_a_quorum() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.line("namespace create users --strict").ok();
    assert_eq!(cluster.node(1).stop().code(), Some(0));
    for key in 0..10 {
        cli.line(&format!("put users key-{key} value")).ok();
        cli.line(&format!("get users key-{key}")).ok();
    }
    cli.line("put users key value -w all").exits(2);
}
