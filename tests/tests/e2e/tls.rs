//! TLS as users meet it: certificates made, a cluster within them, and everybody else refused.

use std::fs;
use std::path::{Path, PathBuf};

use quorate_tests::{Cli, Cluster, DevCluster, quorate, until};

/// The flags that make `kv-cli` trust this CA.
fn trusting(ca: &Path) -> [String; 2] {
    ["--tls-ca".to_owned(), ca.display().to_string()]
}

#[test]
fn a_local_cluster_with_tls_serves_whoever_trusts_its_ca() {
    let home = tempfile::tempdir().expect("there is a directory for temporary files");
    let data = home.path().join("cluster");
    let mut dev = DevCluster::start_with(3, &data, &["--tls"]);
    let ca = data.canonicalize().expect("it is there").join("certs/ca.pem");
    let hint = format!("kv-cli -- --tls-ca {} --endpoints ", ca.display());
    assert!(dev.printed().contains(&hint), "{}", dev.printed());

    let cli = dev.cli().with(trusting(&ca));
    cli.line("namespace create users").ok();
    cli.line("put users alice hello -w all").ok();
    assert_eq!(cli.line("get users alice -r all").ok().text(), "hello\n");
    let plain = dev.cli().line("get users alice");
    plain.fails_with(&["the node speaks TLS", "--tls-ca"]);
    let other = home.path().join("other");
    quorate(["certs", "--node", "x", "--out", other.to_str().expect("it is text")]).ok();
    let foreign = dev.cli().with(trusting(&other.join("ca.pem"))).line("get users alice");
    foreign.fails_with(&["certificate is not of the CA that this client trusts", "give the CA"]);

    assert!(dev.stop().success());
    dev.start_again();
    assert_eq!(cli.line("get users alice -r all").ok().text(), "hello\n");
}

/// Three nodes by hand, with the certificates of `quorate certs`; clients must show theirs.
struct Secured {
    cluster: Cluster,
    certs: PathBuf,
}

impl Secured {
    fn start() -> Self {
        let mut cluster = Cluster::uninitialised(3);
        let secured = |cluster: &Cluster| cluster.path("certs");
        let certs = secured(&cluster);
        let made = quorate([
            "certs",
            "--out",
            text(&certs),
            "--node",
            "node-1=127.0.0.1,db1.example.org",
            "--node",
            "node-2=127.0.0.1",
            "--node",
            "node-3=127.0.0.1",
            "--client",
            "alice",
        ]);
        let printed = made.ok().text();
        assert!(printed.contains("in the configuration of node-3:\n"), "{printed}");
        for node in cluster.nodes() {
            node.configure(&lines(&certs, node.name()));
        }
        cluster.start_all();
        let file = |name: &str| certs.join(name).display().to_string();
        let init = quorate([
            "init",
            "--members",
            &cluster.members().join(","),
            "--partitions",
            "16",
            "--peer-tls-ca",
            &file("ca.pem"),
            "--peer-tls-cert",
            &file("node-2.pem"),
            "--peer-tls-key",
            &file("node-2.key"),
        ]);
        init.ok();
        cluster.nodes().iter().for_each(quorate_tests::Node::wait_ready);
        Self { cluster, certs }
    }

    fn endpoints(&self) -> Vec<String> {
        self.cluster.nodes().iter().map(quorate_tests::Node::client_address).collect()
    }

    /// `kv-cli` as the client of these files.
    fn cli(&self, certificate: &Path) -> Cli {
        let (certificate, key) =
            (certificate.with_extension("pem"), certificate.with_extension("key"));
        Cli::new(&self.endpoints()).with(trusting(&self.certs.join("ca.pem"))).with([
            "--tls-cert",
            text(&certificate),
            "--tls-key",
            text(&key),
        ])
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the name of a temporary directory is text")
}

/// The configuration's lines that `quorate certs` prints, and clients' certificates besides.
fn lines(certs: &Path, node: &str) -> String {
    let file = |name: &str| certs.join(name).display().to_string();
    let (certificate, key, ca) =
        (file(&format!("{node}.pem")), file(&format!("{node}.key")), file("ca.pem"));
    format!(
        "client_tls_cert = {certificate:?}\nclient_tls_key = {key:?}\nclient_tls_ca = {ca:?}\n\
         peer_tls_cert = {certificate:?}\npeer_tls_key = {key:?}\npeer_tls_ca = {ca:?}\n"
    )
}

#[test]
fn a_cluster_within_tls_refuses_strangers_and_takes_new_certificates() {
    let mut secured = Secured::start();
    let alice = secured.cli(&secured.certs.join("clients/alice"));
    alice.line("namespace create users").ok();
    until("all three are connected", || {
        (alice.line("put users alice hello -w all").code == 0).then_some(())
    });

    // Clients without a certificate, or with a foreign one, are told so, and so is the node.
    let ca = secured.certs.join("ca.pem");
    let nobody = Cli::new(&secured.endpoints()).with(trusting(&ca));
    nobody.line("get users alice").fails_with(&["client certificate", "--tls-cert"]);
    let mallory = secured.cluster.path("other");
    let other =
        ["certs", "--out", text(&mallory), "--client", "mallory", "--node", "node-1=127.0.0.1"];
    quorate(other).ok();
    let foreign = secured.cli(&mallory.join("clients/mallory")).line("get users alice");
    foreign.fails_with(&["client_tls_ca"]);
    let log = secured.cluster.nodes()[0].logged();
    let refusals = ["it shows no certificate", "its certificate is not of this port's CA"];
    assert!(refusals.iter().all(|refusal| log.contains(refusal)), "{log}");
    let wrong_name = alice.clone().with(["--tls-server-name", "db9.example.org"]);
    wrong_name.line("get users alice").fails_with(&["not valid for name", "--tls-server-name"]);

    // A node with a certificate of another CA is refused by name and reason, by all.
    let node = secured.cluster.node(3);
    node.stop();
    node.configure(&lines(&mallory, "node-1"));
    let check = quorate(["check", "--config", text(&node.configuration())]).exits(2);
    assert!(check.stderr.contains("is that of node-1, but node_name is \"node-3\""), "{check:?}");
    let renewed = ["certs", "--out", text(&mallory), "--node", "node-3=127.0.0.1"];
    quorate(renewed).ok();
    node.configure(&lines(&mallory, "node-3"));
    node.start();
    node.wait_listening();
    until("both ends say why", || {
        let ours = secured.cluster.nodes()[0].logged();
        let theirs = secured.cluster.nodes()[2].logged();
        let told = ours.contains("we refuse the peer's certificate: it is not of the CA")
            && theirs.contains("it refused our certificate: it is not of the CA");
        told.then_some(())
    });
    assert_eq!(alice.line("get users alice").ok().text(), "hello\n", "the others serve on");
    let status = alice.line("cluster status").ok().text();
    let reason = "node-3: the node's certificate is not of the CA that this client trusts";
    assert!(status.contains(reason), "{status}");
}

#[test]
fn certificates_change_while_a_node_runs() {
    let secured = Secured::start();
    let alice = secured.cli(&secured.certs.join("clients/alice"));
    alice.line("namespace create users").ok();
    let node = &secured.cluster.nodes()[0];
    let metric = |name: &str| {
        let (_, page) = node.page("/metrics")?;
        let line = page.lines().find(|line| line.starts_with(&format!("quorate_tls_{name}")))?;
        line.rsplit(' ').next()?.parse::<i64>().ok()
    };
    let expiry = "certificate_expiry_timestamp_seconds{port=\"client\"}";
    let first = metric(expiry).expect("a port with TLS tells when its certificate ends");
    let renew =
        ["certs", "--out", text(&secured.certs), "--days", "700", "--node", "node-1=127.0.0.1"];
    quorate(renew).ok();
    until("the new certificate is in use", || (metric(expiry)? > first).then_some(()));
    alice.line("put users alice hello -w all").ok();

    fs::write(secured.certs.join("node-1.pem"), "garbage").expect("the file is ours");
    until("the bad file is told of", || {
        (metric("reload_failures_total{port=\"client\"}")? == 1).then_some(())
    });
    assert!(node.logged().contains("of no use, the old stay: client_tls_cert: "));
    assert_eq!(alice.line("get users alice").ok().text(), "hello\n", "the old one serves on");
}

#[test]
fn ports_that_others_reach_without_tls_are_warned_of() {
    let open = ["check", "--client-address", "0.0.0.0:7401", "--client-advertise", "db1:7401"];
    let ran = quorate(open).ok();
    assert!(ran.stderr.starts_with("warning: client_address = \"0.0.0.0:7401\""), "{}", ran.stderr);
    assert_eq!(quorate(["check"]).ok().stderr, "");
    quorate(["check", "--client-tls-cert", "a.pem"]).fails_with(&["client_tls_key", "must name"]);
}

#[test]
fn a_client_with_tls_is_told_of_a_node_without() {
    let cluster = Cluster::start(1);
    let certs = cluster.path("certs");
    quorate(["certs", "--out", text(&certs), "--client", "alice"]).ok();
    let secured = cluster.cli().with(trusting(&certs.join("ca.pem")));
    secured.line("namespace list").fails_with(&["the node answers without TLS", "leave the TLS"]);
    let half = cluster.cli().with(["--tls-cert", "a.pem"]).line("namespace list");
    half.fails_with(&["--tls-ca is missing"]);
    quorate(["certs", "--out", text(&certs), "--client", "bob"]).ok();
    let file = |name: &str| certs.join("clients").join(name).display().to_string();
    let of_two = secured.clone().with(["--tls-cert", &file("alice.pem"), "--tls-key"]);
    let mixed = of_two.clone().with([file("bob.key")]).line("namespace list");
    let named = ["QUORATE_TLS_KEY", &file("alice.pem"), &file("bob.key"), "KeyMismatch; give"];
    mixed.fails_with(&named);
    let missing = of_two.with([file("eve.key")]).line("namespace list");
    missing.fails_with(&["--tls-key", &format!("cannot read {}", file("eve.key")), "No such file"]);
    assert_eq!(half_of_init().code, 2);
}

fn half_of_init() -> quorate_tests::Ran {
    let ran = quorate(["init", "--members", "127.0.0.1:1", "--peer-tls-ca", "ca.pem"]);
    assert!(ran.stderr.contains("--peer-tls-cert"), "{}", ran.stderr);
    ran
}

#[test]
fn check_refuses_a_certificate_that_no_other_node_accepts() {
    let home = tempfile::tempdir().expect("there is a directory for temporary files");
    let (ours, other) = (home.path().join("ours"), home.path().join("other"));
    for certs in [&ours, &other] {
        quorate(["certs", "--node", "node-1=127.0.0.1", "--out", text(certs)]).ok();
    }
    let check = |ca: &Path| {
        let [cert, key] = ["node-1.pem", "node-1.key"].map(|file| ours.join(file));
        let flags = ["--peer-tls-cert", text(&cert), "--peer-tls-key", text(&key)];
        quorate([&["check", "--peer-tls-ca", text(&ca.join("ca.pem"))], &flags[..]].concat())
    };
    check(&ours).ok();
    let refused = check(&other).exits(2).stderr;
    assert!(refused.contains("node-1.pem is not of the CA in peer_tls_ca"), "{refused}");
}
