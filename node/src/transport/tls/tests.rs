//! Nodes on 127.0.0.1 that speak TLS, or should.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use futures::FutureExt as _;
use rcgen::{CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tonic::transport::{ClientTlsConfig, Endpoint};

use super::*;
use crate::dynamo::key::NodeId;
use crate::dynamo::operation::Opening;
use crate::transport::conformance::{LONG, until};
use crate::transport::grpc::testing::{Node, Seen};
use crate::transport::grpc::{Dialer, Incarnation, IntroduceError};
use crate::transport::{PeerError, Peers as _, Request};

/// A CA whose files and those that it issues are in a directory of their own.
struct Ca {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), params.self_signed(&key).unwrap().pem())
            .unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Issues a certificate with these URIs, which ends so many days from now.
    fn issue(&self, file: &str, uris: &[String], days: i64) {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        let uris = uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        params.subject_alt_names = uris.collect();
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        let day = std::time::Duration::from_secs(86_400);
        let now = SystemTime::now();
        let end = now + day * u32::try_from(days + 10).unwrap() - day * 10;
        (params.not_before, params.not_after) = ((now - day * 20).into(), end.into());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    fn issue_node(&self, name: &str) {
        self.issue(name, &[format!("{NODE_URI}{name}")], 10);
    }

    fn files(&self, file: &str, ca: &Path) -> Files {
        let (certificate, key) =
            (self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        Files { certificate, key, ca: Some(ca.to_path_buf()) }
    }

    /// The TLS of a node of this name, with a new certificate of this CA, which trusts it.
    fn tls(&self, name: &str) -> Arc<PortTls> {
        self.issue_node(name);
        self.load(name, &self.path("ca.pem"))
    }

    /// That of a node with a new certificate, which ends so many days from now, and trusts `ca`.
    fn load_issued(&self, name: &str, days: i64, ca: &Path) -> Arc<PortTls> {
        self.issue(name, &[format!("{NODE_URI}{name}")], days);
        self.load(name, ca)
    }

    fn load(&self, file: &str, ca: &Path) -> Arc<PortTls> {
        PortTls::load(Port::Peer, self.files(file, ca), None).unwrap()
    }
}

fn incarnation(name: &str) -> Incarnation {
    let node = NodeId::of_name(name);
    Incarnation { cluster: [7; 16], node, store: 1, opening: Opening(1) }
}

/// A running node, and what it refused.
async fn start(name: &str, tls: Arc<PortTls>) -> (Node, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    (Node::start_secured(incarnation(name), tls, seen.clone()).await, seen)
}

fn ping() -> Request {
    Request::Register(bytes::Bytes::from_static(b"x"))
}

/// Waits until `node` tells this of its connection to the node called `to`.
async fn told(node: &Node, to: &str, contains: &str) {
    let to = NodeId::of_name(to);
    until(contains, || {
        let answer = node.peers.request(to, ping(), LONG).now_or_never();
        let Some(Err(PeerError::Disconnected { reason })) = answer else { return false };
        reason.contains(contains)
    })
    .await;
}

#[tokio::test]
async fn nodes_of_one_ca_talk_and_know_each_other() {
    let ca = Ca::new("one");
    let (one, _) = start("node-1", ca.tls("node-1")).await;
    let (two, seen) = start("node-2", ca.tls("node-2")).await;
    // Handshakes that nobody goes on with hold up no other.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(two.address).await.unwrap());
    }
    one.meet(&two);
    until("connected", || one.peers.connected(NodeId::of_name("node-2"))).await;
    assert!(one.peers.request(NodeId::of_name("node-2"), ping(), LONG).await.is_ok());
    assert_eq!(seen.count("certificate"), 0);

    // Whoever introduces itself by another name is refused; here node-9, as a test's node is.
    let answer = Dialer::new(Some(ca.tls("node-3"))).identify(&two.address.to_string()).await;
    let Err(IntroduceError::Certificate { name, names, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!((name.as_str(), names.as_str()), ("node-9", "node-2"));
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_foreign_certificate_is_refused_in_both_directions_with_a_reason() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let (two, seen) = start("node-2", ours.tls("node-2")).await;

    // The dialing side refuses.
    let (stranger, _) = start("node-1", theirs.tls("node-1")).await;
    stranger.meet(&two);
    told(&stranger, "node-2", "we refuse the peer's certificate: it is not of the CA in our").await;

    // The dialing side trusts both, so that it is the accepting side that refuses.
    theirs.issue_node("node-3");
    let both = theirs.path("both.pem");
    let pem = |ca: &Ca| fs::read_to_string(ca.path("ca.pem")).unwrap();
    fs::write(&both, pem(&theirs) + &pem(&ours)).unwrap();
    let (stranger, _) = start("node-3", theirs.load("node-3", &both)).await;
    stranger.meet(&two);
    told(&stranger, "node-2", "the peer refused our certificate: it is not of the CA").await;
    assert!(seen.count("certificate") > 0, "the accepting side counts it");
    assert!(!stranger.peers.connected(NodeId::of_name("node-2")));
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused_on_either_side() {
    let ca = Ca::new("one");
    let (two, seen) = start("node-2", ca.tls("node-3")).await;
    let (one, _) = start("node-1", ca.tls("node-1")).await;
    one.meet(&two);
    let expected = NodeId::of_name("node-2");
    told(&one, "node-2", &format!("it is that of node-3, where node {expected} was expected"))
        .await;
    until("the alert is counted", || seen.count("handshake") > 0).await;

    let (two, _) = start("node-2", ca.tls("node-2")).await;
    let (liar, _) = start("node-4", ca.tls("node-1")).await;
    liar.meet(&two);
    told(&liar, "node-2", "with a certificate of node-1, which does not speak for it").await;
}

#[tokio::test]
async fn a_certificate_that_names_no_node_makes_no_peer() {
    let ca = Ca::new("one");
    let (two, seen) = start("node-2", ca.tls("node-2")).await;
    ca.issue("client", &[], 10);
    let config = ClientTlsConfig::new().ca_certificate(tonic::transport::Certificate::from_pem(
        fs::read(ca.path("ca.pem")).unwrap(),
    ));
    let identity = tonic::transport::Identity::from_pem(
        fs::read(ca.path("client.pem")).unwrap(),
        fs::read(ca.path("client.key")).unwrap(),
    );
    for (config, alert) in [
        (config.clone().identity(identity), "received fatal alert: CertificateUnknown"),
        (config, "received fatal alert: CertificateRequired"),
    ] {
        let endpoint = Endpoint::from_shared(format!("https://{}", two.address)).unwrap();
        let channel = endpoint.tls_config(config).unwrap().connect_lazy();
        let mut client = quorate_proto::peer::peer_client::PeerClient::new(channel);
        let request = quorate_proto::peer::FetchDocumentRequest {};
        let refused = client.fetch_document(request).await.unwrap_err();
        assert!(format!("{refused:?}").contains(alert), "{alert}: {refused:?}");
    }
    assert_eq!(seen.count("certificate"), 2);
}

#[tokio::test]
async fn one_end_without_tls_is_told_so() {
    let ca = Ca::new("one");
    let (two, seen) = start("node-2", ca.tls("node-2")).await;
    let plain = Node::start(incarnation("node-1")).await;
    plain.meet(&two);
    told(&plain, "node-2", "the peer speaks TLS, and this end does not: set peer_tls_cert").await;
    assert!(seen.count("no_tls") > 0);

    let (secured, _) = start("node-3", ca.tls("node-3")).await;
    secured.meet(&plain);
    told(&secured, "node-1", "the peer answers without TLS").await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_not_taken_anew() {
    let ca = Ca::new("one");
    ca.issue("node-2", &[format!("{NODE_URI}node-2")], -1);
    let expired = ca.load("node-2", &ca.path("ca.pem"));
    assert!(expired.certificate().invalid_now().unwrap().starts_with("expired on "));
    let (two, _) = start("node-2", expired).await;
    let (one, _) = start("node-1", ca.tls("node-1")).await;
    one.meet(&two);
    told(&one, "node-2", "we refuse the peer's certificate: certificate expired").await;

    let good = ca.tls("node-3");
    ca.issue("node-3", &[format!("{NODE_URI}node-3")], -1);
    assert!(matches!(good.reload(), Reload::Unchanged));
    let Reload::Failed(error) = good.reload() else { panic!("it was looked at twice") };
    assert!(error.to_string().contains("node-3.pem expired on "), "{error}");
}

#[tokio::test]
async fn new_files_serve_the_next_connection_and_bad_ones_change_nothing() {
    let ca = Ca::new("one");
    let tls = ca.tls("node-2");
    let (two, _) = start("node-2", tls.clone()).await;
    let address = two.address.to_string();
    let dialer = Dialer::new(Some(ca.tls("node-1")));
    let shown = async || dialer.fetch_document(&address).await.map_err(|error| error.to_string());
    let first = tls.certificate();
    assert!(matches!(tls.reload(), Reload::Unchanged) && shown().await.is_ok());

    ca.issue("node-2", &[format!("{NODE_URI}node-2")], 90);
    let Reload::Taken(second) = tls.reload() else { panic!("the file is new and good") };
    assert!(second.not_after > first.not_after && shown().await.is_ok());

    // The certificate of another CA: whether the next connection sees it shows that it is new.
    let other = Ca::new("other");
    other.issue_node("node-2");
    for extension in ["pem", "key"] {
        let file = format!("node-2.{extension}");
        fs::copy(other.path(&file), ca.path(&file)).unwrap();
    }
    assert!(matches!(tls.reload(), Reload::Taken(_)));
    let refused = shown().await.unwrap_err();
    assert!(refused.contains("not of the CA in our peer_tls_ca"), "{refused}");

    ca.issue_node("node-2");
    assert!(matches!(tls.reload(), Reload::Taken(_)) && shown().await.is_ok());
    fs::write(ca.path("node-2.pem"), "garbage").unwrap();
    assert!(matches!(tls.reload(), Reload::Unchanged), "it may be half written");
    let Reload::Failed(error) = tls.reload() else { panic!("it stays bad") };
    assert!(error.to_string().contains("node-2.pem holds no certificate as PEM"), "{error}");
    assert!(matches!(tls.reload(), Reload::Unchanged), "it is told once");
    assert!(shown().await.is_ok(), "what was there before serves on");
}

#[tokio::test]
async fn so_many_handshakes_at_most() {
    let ca = Ca::new("one");
    let (two, seen) = start("node-2", ca.tls("node-2")).await;
    let mut silent = Vec::new();
    while seen.count("overloaded") == 0 {
        assert!(silent.len() < 1000, "nothing bounds the handshakes");
        silent.push(TcpStream::connect(two.address).await.unwrap());
        tokio::task::yield_now().await;
    }
    assert!(silent.len() > 200, "many may be under way: {}", silent.len());
    drop(silent);
    let dialer = Dialer::new(Some(ca.tls("node-1")));
    let address = two.address.to_string();
    let mut found = Err(String::new());
    for _ in 0..100 {
        found = dialer.fetch_document(&address).await.map_err(|error| error.to_string());
        if found.is_ok() {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert!(found.is_ok(), "there is room again: {found:?}");
}

#[test]
fn files_of_no_use_are_named_with_key_and_reason() {
    let (ca, other) = (Ca::new("one"), Ca::new("other"));
    ca.issue_node("node-1");
    other.issue_node("node-1");
    ca.issue("client", &[], 10);
    let ca_file = ca.path("ca.pem");
    let refused = |files, name: &str| {
        let name = Some(name.to_owned());
        PortTls::load(Port::Peer, files, name).unwrap_err().to_string()
    };
    let good = || ca.files("node-1", &ca_file);
    let missing = Files { key: ca.path("none"), ..good() };
    assert!(refused(missing, "node-1").starts_with("peer_tls_key: cannot read /"));
    let foreign_key = Files { key: other.path("node-1.key"), ..good() };
    let error = refused(foreign_key, "node-1");
    assert!(error.contains("node-1.key is not the key of the certificate in /"), "{error}");
    let swapped = Files { certificate: ca.path("node-1.key"), ..good() };
    assert!(refused(swapped, "node-1").ends_with("node-1.key holds no certificate as PEM"));
    let error = refused(good(), "node-2");
    assert!(error.contains("is that of node-1, but node_name is \"node-2\""), "{error}");
    let error = refused(ca.files("client", &ca_file), "node-1");
    assert!(error.contains("must have the URI quorate://node/node-1"), "{error}");
    let fine = PortTls::load(Port::Peer, good(), Some("node-1".to_owned())).unwrap();
    assert!(fine.untrusted().is_none());
}

#[test]
fn a_certificate_of_another_ca_than_peer_tls_ca_is_untrusted_and_an_expired_one_is_not() {
    let (ca, other) = (Ca::new("one"), Ca::new("other"));
    let foreign = other.load_issued("node-1", 10, &ca.path("ca.pem"));
    let error = foreign.untrusted().unwrap().to_string();
    assert!(error.starts_with("peer_tls_cert: /"), "{error}");
    assert!(error.ends_with(
        "node-1.pem is not of the CA in peer_tls_ca: no node with this peer_tls_ca accepts it"
    ));
    let expired = ca.load_issued("node-1", -5, &ca.path("ca.pem"));
    assert!(expired.certificate().invalid_now().is_some() && expired.untrusted().is_none());
}
