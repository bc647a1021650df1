use std::os::unix::fs::PermissionsExt as _;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::*;
use crate::transport::tls::Certificate;

fn request(out: &Path, nodes: &[&str], clients: &[&str]) -> Request {
    let nodes = nodes.iter().map(|text| NodeSpec::parse(text).unwrap()).collect();
    let clients = clients.iter().map(|&name| name.to_owned()).collect();
    Request { out: out.to_path_buf(), nodes, clients, days: 9, new_ca: false }
}

fn facts(path: &Path) -> Certificate {
    let der = CertificateDer::from_pem_slice(&fs::read(path).unwrap()).unwrap();
    Certificate::parse(&der).unwrap()
}

#[test]
fn a_node_is_named_with_its_hosts() {
    let spec = |text| NodeSpec::parse(text).map_err(|error| error.to_string());
    let hosts = |text| spec(text).unwrap().hosts;
    assert_eq!(hosts("node-1=127.0.0.1,db.example.org"), ["127.0.0.1", "db.example.org"]);
    assert_eq!(hosts("node-1=::1"), ["::1"]);
    assert_eq!(hosts("db1"), ["db1"], "a name alone is the host");
    for (text, reason) in [
        ("a b=h", "its name must be 1 to 64 letters"),
        ("n=h:7401", "\"h:7401\" is no host; write NAME=HOST,.. without ports"),
        ("n=", "\"\" is no host"),
        ("ca=h", "needs another name"),
    ] {
        assert!(spec(text).unwrap_err().contains(reason), "{text}: {:?}", spec(text));
    }
}

#[test]
fn certificates_say_who_and_where_and_keys_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("certs");
    let report = run(&request(&out, &["node-1=10.0.0.1,h", "n_2"], &["alice"])).unwrap();
    let node = facts(&out.join("node-1.pem"));
    assert_eq!(
        (node.nodes.as_slice(), node.hosts),
        (&["node-1".to_owned()][..], vec!["10.0.0.1".to_owned(), "h".to_owned()])
    );
    assert_eq!(node.issuer, facts(&out.join("ca.pem")).subject);
    assert_eq!(node.not_after - node.not_before, 10 * 86_400, "9 days and the day before");
    assert!(facts(&out.join("clients/alice.pem")).nodes.is_empty(), "a client is no node");
    for key in ["ca.key", "node-1.key", "n_2.key", "clients/alice.key"] {
        let mode = fs::metadata(out.join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let text = report.to_string();
    let line = format!("  peer_tls_ca = \"{}\"\n", report.out.join("ca.pem").display());
    assert_eq!(text.matches(&line).count(), 2, "{text}");
    assert!(text.contains(" --tls-cert ") && text.contains("client_tls_ca = "), "{text}");
}

#[test]
fn the_ca_stays_unless_a_new_one_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path();
    let read = |name: &str| fs::read(out.join(name)).unwrap();
    assert!(run(&request(out, &["node-1"], &[])).unwrap().made_ca);
    let (ca, first) = (read("ca.pem"), read("node-1.pem"));
    let again = run(&request(out, &["node-1", "node-2"], &[])).unwrap();
    assert!(!again.made_ca && read("ca.pem") == ca && read("node-1.pem") != first);
    assert_eq!(facts(&out.join("node-2.pem")).issuer, facts(&out.join("ca.pem")).subject);

    let key = read("ca.key");
    fs::remove_file(out.join("ca.key")).unwrap();
    let refused = || run(&request(out, &["node-1"], &[])).unwrap_err().to_string();
    assert!(refused().contains("ca.key is missing; bring back"), "{}", refused());
    fs::copy(out.join("node-1.key"), out.join("ca.key")).unwrap();
    assert!(refused().contains("ca.key is not the key of ca.pem"), "{}", refused());
    assert!(read("ca.pem") == ca, "nothing was overwritten");

    fs::write(out.join("ca.key"), key).unwrap();
    let anew = Request { new_ca: true, ..request(out, &["node-1"], &[]) };
    assert!(run(&anew).unwrap().made_ca && read("ca.pem") != ca);
}

#[test]
fn a_name_stands_once() {
    let directory = tempfile::tempdir().unwrap();
    for (nodes, clients) in [(vec!["a", "a"], vec![]), (vec![], vec!["b", "b"])] {
        let error = run(&request(directory.path(), &nodes, &clients)).unwrap_err().to_string();
        assert!(error.ends_with("is named twice"), "{error}");
    }
    let error = run(&request(directory.path(), &[], &["a/b"])).unwrap_err().to_string();
    assert!(error.starts_with("client \"a/b\": its name must be"), "{error}");
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none(), "nothing was made");
}
