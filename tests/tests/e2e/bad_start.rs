//! What operators get wrong when they start nodes: each is told, and nobody else notices.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use quorate_node::storage::data_dir::FORMAT_VERSION;
use quorate_tests::{Cli, Cluster, Node, PortBlock, Ran, quorate, until};

/// Starts a node that is to refuse, and returns what it said.
fn refused(node: &Node) -> Ran {
    let mut serve = node.serve_command();
    serve.stdin(Stdio::null());
    Ran::of(serve, None)
}

#[track_caller]
fn says(ran: &Ran, reasons: &[&str]) {
    assert_eq!(ran.code, 2, "{}: {}", ran.line, ran.stderr);
    // After what it logged.
    let at = ran.stderr.find("error: ").unwrap_or_else(|| panic!("no error: {}", ran.stderr));
    for reason in reasons {
        assert!(ran.stderr[at..].contains(reason), "no {reason:?} in {}", &ran.stderr[at..]);
    }
}

#[test]
fn what_is_in_use_stays_with_who_uses_it() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.line("namespace create users").ok();
    cli.line("put users alice hello -w all").ok();
    let node = &cluster.nodes()[0];
    let (pid, data) = (node.pid().expect("it runs").to_string(), node.data().display().to_string());

    // The HTTP port is the first that a node asks for.
    says(&refused(node), &["http_address", "in use"]);
    let with = |flags: &str| {
        let mut serve = node.serve_command();
        serve.args(flags.split_whitespace()).stdin(Stdio::null());
        Ran::of(serve, None)
    };
    says(&with("--http-address 127.0.0.1:0"), &["in use by process", &pid, &data]);
    let elsewhere = cluster.path("elsewhere");
    let flags = format!("--http-address 127.0.0.1:0 --data-dir {}", elsewhere.display());
    says(&with(&flags), &["client_address", &node.client_address(), "in use"]);
    let flags = format!("{flags} --client-address 127.0.0.1:0");
    says(&with(&flags), &["peer_address", &node.peer_address(), "in use"]);

    assert_eq!(cli.line("get users alice -r all").ok().text(), "hello\n");
    cluster.node(1).restart();
    assert_eq!(cli.line("get users alice --replica node-1").ok().text(), "hello\n");
}

#[test]
fn a_directory_of_another_format_node_or_engine_is_left_alone() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.line("namespace create users").ok();
    cli.line("put users alice hello -w all").ok();
    cluster.node(1).stop();
    let file = cluster.nodes()[0].data().join("store.toml");
    let good = fs::read_to_string(&file).expect("the store is described");

    let mut other = cluster.nodes()[0].serve_command();
    other.args(["--engine", "sled"]).stdin(Stdio::null());
    says(&Ran::of(other, None), &["made with the engine \"fjall\", not sled"]);
    for (format, advice) in [(1, "until 0.1 the format may change"), (99, "newer version")] {
        let other =
            good.replace(&format!("format = {FORMAT_VERSION}"), &format!("format = {format}"));
        assert_ne!(other, good);
        fs::write(&file, other).expect("the file is ours");
        says(&refused(&cluster.nodes()[0]), &[&format!("format {format}"), advice]);
    }
    fs::write(&file, good.replace("node-1", "node-9")).expect("the file is ours");
    says(&refused(&cluster.nodes()[0]), &["belongs to node \"node-9\""]);
    fs::write(&file, "garbage").expect("the file is ours");
    says(&refused(&cluster.nodes()[0]), &["store.toml", "damaged"]);

    fs::write(&file, &good).expect("the file is ours");
    cluster.node(1).restart();
    assert_eq!(cli.line("get users alice --replica node-1").ok().text(), "hello\n");
}

#[test]
fn a_malformed_configuration_is_told_with_file_key_and_reason() {
    let directory = tempfile::tempdir().expect("there is a directory for temporary files");
    let file = directory.path().join("node.toml");
    let path = file.to_str().expect("its name is text");
    let check = |text: &str, reasons: &[&str]| {
        fs::write(&file, text).expect("the temporary directory takes a file");
        for command in ["check", "serve"] {
            let ran = quorate([command, "--config", path]);
            says(&ran, &[&[path], reasons].concat());
        }
    };
    check("wieght = 3", &["wieght", "unknown"]);
    check("weight = \"three\"", &["weight", "string"]);
    check("node_name = \"a\"\nweight = 0", &["weight = 0", "1"]);
    check("this is no TOML", &["line 1"]);
    check("client_address = \"nowhere\"", &["client_address", "nowhere"]);
    let missing = quorate(["check", "--config", "/no/such/node.toml"]);
    says(&missing, &["/no/such/node.toml", "No such file"]);
    assert!(!Path::new("data").exists() && !directory.path().join("data").exists());
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/node.toml");
    assert!(quorate(["check", "--config", example]).ok().text().contains("node_name"));
}

#[test]
fn init_needs_every_member_and_makes_no_second_cluster() {
    let mut cluster = Cluster::uninitialised(3);
    let members = cluster.members();
    cluster.node(1).start();
    cluster.node(1).wait_listening();
    until("a node without a cluster says what to do", || {
        let (_, body) = cluster.nodes()[0].page("/readyz")?;
        body.contains("quorate init").then_some(())
    });
    let logged = cluster.nodes()[0].logged();
    assert!(logged.contains("it waits for `quorate init`"), "{logged}");
    let nowhere = format!("127.0.0.1:{}", PortBlock::reserve(1).client(1));
    let endpoints = [cluster.nodes()[0].client_address(), nowhere];
    let early = Cli::new(&endpoints).line("put users alice hello --timeout 2s");
    early.fails_with(&["no endpoint can serve", "belongs to no cluster yet; `quorate init` makes"]);

    let init = |members: &[String]| quorate(["init", "--members", &members.join(",")]);
    says(&init(&members), &[&members[1], "cannot be reached", "nothing was changed"]);
    cluster.start_all();
    let first = init(&members).ok().text();
    let cluster_id = first.split_whitespace().nth(1).expect("it names the cluster");
    let again = init(&members).ok().text();
    assert!(again.contains(&format!("cluster {cluster_id} is complete already")), "{again}");
    cluster.wait_ready();
    assert_eq!(init(&members[..2]).code, 2, "a cluster is made once");
    cluster.cli().line("namespace create users").ok();
}

#[test]
fn a_node_of_another_cluster_is_refused_and_disturbs_nobody() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.line("namespace create users").ok();
    cli.line("put users alice hello -w all").ok();
    let stray = cluster.node(3);
    stray.stop();
    let aside = stray.data().with_extension("aside");
    fs::rename(stray.data(), &aside).expect("the directory is ours");
    stray.start();
    stray.wait_listening();
    quorate(["init", "--members", &stray.peer_address()]).ok();
    stray.wait_ready();
    stray.cli().line("namespace create other --n 1").ok();
    stray.cli().line("put other key value").ok();

    // Each of the others dials node-3, as its document says, and is told whose node it is.
    for number in 1..=2 {
        until("the refusal is logged", || {
            let log = cluster.node(number).logged();
            log.lines()
                .any(|line| line.contains("refused") && line.contains("cluster"))
                .then_some(())
        });
    }
    assert_eq!(cluster.node(3).cli().line("get other key").ok().text(), "value\n");
    let own = quorate_tests::Cli::new(&[cluster.node(1).client_address()]);
    assert_eq!(own.line("get users alice").ok().text(), "hello\n");
    own.line("put users bob there").ok();
    own.line("put users carol there -w all").exits(2);

    let stray = cluster.node(3);
    stray.stop();
    fs::remove_dir_all(stray.data()).expect("the directory is ours");
    fs::rename(&aside, stray.data()).expect("the directory is ours");
    stray.start();
    cluster.wait_ready();
    own.line("put users carol there -w all").ok();
}

#[test]
fn a_client_port_in_the_place_of_a_peer_port_is_recognised() {
    let mut cluster = Cluster::uninitialised(1);
    let node = cluster.node(1);
    let [client, http] = [node.client_address(), node.http_address()];
    node.start_with(&["--seeds", &client]);
    node.wait_listening();
    for address in [&client, &http] {
        let refused = quorate(["init", "--members", address]);
        let advice = ["is no node's address for peers", "name the members' peer addresses"];
        says(&refused, &[&[&**address], &advice[..]].concat());
    }
    let told = "no node's address for peers";
    until("the seed's fault is logged", || node.logged().contains(told).then_some(()));
    says(&quorate(["init", "--members", "a"]), &["must be HOST:PORT, such as 127.0.0.1:7501"]);
}

#[test]
fn a_name_that_the_cluster_does_not_know_is_told_with_those_that_it_knows() {
    let mut cluster = Cluster::start(3);
    cluster.cli().line("namespace create users").ok();
    let (seed, elsewhere) = (cluster.nodes()[2].peer_address(), cluster.path("elsewhere"));
    let node = cluster.node(1);
    node.stop();
    let elsewhere = elsewhere.display().to_string();
    node.start_with(&["--node-name", "node-l", "--data-dir", &elsewhere, "--seeds", &seed]);
    until("the node says why it is not ready", || {
        let (code, page) = node.page("/readyz")?;
        let parts = ["no member \"node-l\"", "node-1", "node-2", "node-3", "correct node_name"];
        (code == 503 && parts.iter().all(|part| page.contains(part))).then_some(())
    });
    let logged = node.logged();
    assert!(
        logged.contains("no member \"node-l\"") && !logged.contains("it is refilled"),
        "{logged}"
    );
}

#[test]
fn a_node_that_does_not_answer_where_it_is_known_says_so_and_is_ready() {
    let mut cluster = Cluster::start(3);
    let node = cluster.node(1);
    node.stop();
    node.start_with(&["--peer-address", "127.0.0.1:0", "--rebuild-without", "node-2"]);
    node.wait_ready();
    let (known, told) = (node.peer_address(), "this node does not answer there");
    until("the node says that it is not found", || {
        let logged = node.logged();
        let mut lines = logged.lines().filter(|line| line.contains(told));
        lines.any(|line| line.contains("ERROR") && line.contains(&known)).then_some(())
    });
    let logged = node.logged();
    assert!(logged.contains("--rebuild-without: nothing is being rebuilt"), "{logged}");
    assert_eq!(logged.matches(told).count(), 1, "{logged}");

    // Under another name of the same address the others find it.
    node.kill();
    node.start_with(&["--peer-advertise", &known.replace("127.0.0.1", "localhost")]);
    node.wait_ready();
    let logged = node.logged();
    assert!(logged.contains("must lead here"), "{logged}");
    assert_eq!(logged.matches(told).count(), 1, "only that of before: {logged}");
}
