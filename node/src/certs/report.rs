//! What was made, and what to do with it.

use std::fmt;
use std::path::PathBuf;

use super::Request;

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Where, as an absolute path.
    pub out: PathBuf,
    /// Whether the CA is new.
    pub made_ca: bool,
    /// What was asked for; all of it was made.
    pub request: Request,
}

impl Report {
    /// The lines that belong into a node's configuration.
    pub fn configuration(&self, node: &str) -> [(&'static str, String); 5] {
        let path = |file: String| self.out.join(file).display().to_string();
        let (certificate, key) = (path(format!("{node}.pem")), path(format!("{node}.key")));
        [
            ("client_tls_cert", certificate.clone()),
            ("client_tls_key", key.clone()),
            ("peer_tls_cert", certificate),
            ("peer_tls_key", key),
            ("peer_tls_ca", path("ca.pem".to_owned())),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request { nodes, clients, days, .. } = &self.request;
        let (out, ca) = (self.out.display(), self.out.join("ca.pem"));
        let ca = ca.display();
        match self.made_ca {
            true => writeln!(f, "made the CA {ca}; its key {out}/ca.key belongs on no node")?,
            false => writeln!(f, "used the CA {ca}")?,
        }
        for node in nodes {
            let (name, hosts) = (&node.name, node.hosts.join(", "));
            writeln!(f, "made {out}/{name}.pem and .key for {days} days, hosts {hosts}")?;
        }
        for name in clients {
            writeln!(f, "made {out}/clients/{name}.pem and .key for {days} days")?;
        }
        for node in nodes {
            writeln!(f, "\nin the configuration of {}:", node.name)?;
            for (key, value) in self.configuration(&node.name) {
                writeln!(f, "  {key} = {value:?}")?;
            }
        }
        if let Some(node) = nodes.first() {
            let (name, host) = (&node.name, node.hosts.first().unwrap_or(&node.name));
            writeln!(f, "\nto make the cluster, and to reach it:")?;
            writeln!(
                f,
                "  quorate init --peer-tls-ca {ca} --peer-tls-cert {out}/{name}.pem \
                 --peer-tls-key {out}/{name}.key --members {host}:7501,.."
            )?;
            let member = clients.first().map_or_else(String::new, |client| {
                format!(
                    " --tls-cert {out}/clients/{client}.pem --tls-key {out}/clients/{client}.key"
                )
            });
            writeln!(f, "  kv-cli --tls-ca {ca}{member} --endpoints {host}:7401 cluster status")?;
        }
        if !clients.is_empty() {
            writeln!(f, "\nfor clients to be required to show theirs, at every node:")?;
            writeln!(f, "  client_tls_ca = \"{ca}\"")?;
        }
        write!(f, "\nto renew them, run this again: nodes take new files without a restart")
    }
}
