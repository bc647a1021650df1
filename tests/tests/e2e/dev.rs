//! `quorate dev`: the first thing that anybody runs.

use quorate_tests::{DevCluster, until};

#[test]
fn a_local_cluster_serves_reports_deaths_and_comes_back_with_its_data() {
    let home = tempfile::tempdir().expect("there is a directory for temporary files");
    let data = home.path().join("cluster");
    let mut dev = DevCluster::start(3, &data);
    let printed = dev.printed();
    assert_eq!(dev.pids().len(), 3, "a line per node: {printed}");
    assert!(printed.contains("\nself-check: create, put, get by quorum, delete"), "{printed}");
    assert!(printed.contains(" namespace create users\n"), "{printed}");
    assert!(printed.contains("\nstop all: Ctrl-C\nready\n"), "{printed}");
    let cli = dev.cli();
    cli.line("namespace create users").ok();
    cli.line("put users alice hello -w all").ok();
    assert_eq!(cli.line("get users alice").ok().text(), "hello\n");

    dev.kill_node(2);
    until("the death of node-2 is reported", || {
        let told = dev.printed() + &dev.errors();
        told.lines().any(|line| line.contains("node-2") && line.contains("ended")).then_some(())
    });
    assert_eq!(cli.line("get users alice").ok().text(), "hello\n", "the others serve on");
    cli.line("put users bob there").ok();

    dev.kill();
    dev.start_again();
    assert_eq!(cli.line("get users alice -r all").ok().text(), "hello\n");
    assert_eq!(cli.line("get users bob").ok().text(), "there\n");
    assert!(dev.stop().success());
    assert!(data.join("node-3/node.toml").exists(), "the data was given a place, and stays there");
}

#[test]
fn a_node_is_restarted_by_hand_with_its_own_configuration() {
    let home = tempfile::tempdir().expect("there is a directory for temporary files");
    let dev = DevCluster::start_with(3, home.path(), &["--engine", "sled"]);
    let cli = dev.cli();
    cli.line("namespace create users").ok();
    dev.kill_node(3);
    cli.line("put users alice hello").ok();
    let by_hand = quorate_tests::command(&quorate_tests::binaries().quorate)
        .args(["serve", "--stop-on-stdin-eof", "--config"])
        .arg(home.path().join("node-3/node.toml"))
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut by_hand = by_hand.expect("the program was built");
    until("all three serve again", || {
        (cli.line("put users bob there -w all").code == 0).then_some(())
    });
    // It counts, also when it is the last one.
    for (number, left) in [(2, "2 of 3"), (1, "1 of 3")] {
        dev.kill_node(number);
        let said = format!("{left} serve on");
        until(&said, || dev.errors().contains(&said).then_some(()));
    }
    quorate_tests::kill(&mut by_hand);
}

/// What the README shows first.
#[test]
fn the_tour_shows_a_node_that_dies_and_comes_back_and_no_request_fails() {
    let ports = quorate_tests::PortBlock::reserve(5);
    let tour = |flags: &[&str]| {
        let mut dev = quorate_tests::command(&quorate_tests::binaries().quorate);
        dev.args(["dev", "--tour", "--base-port", &ports.base().to_string()]).args(flags);
        dev.stdin(std::process::Stdio::null()).output().expect("the program was built")
    };
    let output = tour(&[]);
    let (told, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{errors}");
    for step in 1..=9 {
        assert!(told.contains(&format!("\n{step}. ")), "step {step} is missing: {told}");
    }
    for shown in ["kill -9 ", " keeps ", " 0 left", "$ kv hints await", "nothing was lost"] {
        assert!(told.contains(shown), "{shown} is missing: {told}");
    }
    assert!(told.contains(" (for node-"), "a receipt names a fallback: {told}");

    let few = tour(&["--nodes", "3"]);
    assert!(!few.status.success());
    let errors = String::from_utf8_lossy(&few.stderr);
    assert!(errors.contains("the tour takes at least 4 nodes, not 3"), "{errors}");
}
