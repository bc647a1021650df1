//! Who is there, as nodes tell each other and `cluster status` tells a user.

use quorate_tests::{Cli, Cluster, until};
use serde_json::Value;

/// What the node that answers has heard of another one.
fn state_of(cli: &Cli, name: &str) -> String {
    member(&cli.json("cluster status"), name)["state"].as_str().unwrap_or("unknown").to_owned()
}

fn member(status: &Value, name: &str) -> Value {
    let members = status["members"].as_array().expect("a list");
    members.iter().find(|member| member["name"] == name).expect("it is a member").clone()
}

/// How many nodes say that of a member.
fn says(status: &Value, name: &str, state: &str) -> usize {
    let of = member(status, name);
    let seen_by = of["seen_by"].as_array().expect("a list");
    seen_by.iter().filter(|seen| seen["state"] == state).count()
}

fn wait_until(cli: &Cli, name: &str, state: &str) {
    until(&format!("{name} is {state}"), || (state_of(cli, name) == state).then_some(()));
}

#[test]
fn a_node_that_ends_or_stands_still_is_down_and_then_alive_again() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.nodes()[0].cli();
    let gone = cluster.nodes()[2].name().to_owned();
    wait_until(&cli, &gone, "alive");
    cluster.named(&gone).kill();
    wait_until(&cli, &gone, "down");

    let up = cluster.nodes()[1].name();
    // Each that answers says what it knows, of itself too.
    let status = until("both others agree", || {
        let status = cli.json("cluster status");
        (says(&status, up, "alive") == 2 && says(&status, &gone, "down") == 2).then_some(status)
    });
    let of_gone = member(&status, &gone);
    assert_eq!((&of_gone["reachable"], &of_gone["connected"]), (&false.into(), &false.into()));
    assert!(of_gone["since_ms"].is_u64(), "{of_gone}");
    let text = cli.line("cluster status").ok().text();
    let row = text.lines().find(|line| line.starts_with(&gone)).expect("it has a row");
    assert!(row.contains(" down "), "{text}");
    until("metrics tell", || {
        let metrics = cluster.nodes()[0].page("/metrics")?.1;
        let tells = |line| metrics.lines().any(|told| told == line);
        let all = tells("quorate_members{state=\"down\"} 1")
            && tells("quorate_members{state=\"alive\"} 2");
        all.then_some(())
    });
    let logged = cluster.nodes()[0].logged();
    assert!(logged.contains("a member is seen otherwise than before"), "{logged}");

    cluster.named(&gone).start();
    wait_until(&cli, &gone, "alive");

    cluster.named(&gone).pause();
    wait_until(&cli, &gone, "down");
    cluster.named(&gone).go_on();
    wait_until(&cli, &gone, "alive");
}
