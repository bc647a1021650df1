//! Which ports have TLS, and which of them ought to.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::{Config, HostPort};

impl Config {
    /// Every path, under its key: relative ones begin at the file that says them.
    pub(super) fn paths_mut(&mut self) -> [(&'static str, &mut PathBuf); 7] {
        [
            ("data_dir", &mut self.data_dir),
            ("client_tls_cert", &mut self.client_tls_cert),
            ("client_tls_key", &mut self.client_tls_key),
            ("client_tls_ca", &mut self.client_tls_ca),
            ("peer_tls_cert", &mut self.peer_tls_cert),
            ("peer_tls_key", &mut self.peer_tls_key),
            ("peer_tls_ca", &mut self.peer_tls_ca),
        ]
    }

    /// Half of a TLS is none.
    pub(super) fn validate_tls(&self, found: &mut Vec<(&'static str, String)>) {
        let client =
            [("client_tls_cert", &self.client_tls_cert), ("client_tls_key", &self.client_tls_key)];
        // Its own CA is no part of what clients must be shown.
        let wanted_by_ca = !self.client_tls_ca.as_os_str().is_empty();
        require_all(&client, wanted_by_ca.then_some("client_tls_ca"), found);
        let peer = [
            ("peer_tls_cert", &self.peer_tls_cert),
            ("peer_tls_key", &self.peer_tls_key),
            ("peer_tls_ca", &self.peer_tls_ca),
        ];
        require_all(&peer, None, found);
    }

    /// What an operator should hear at every start: ports that others reach without TLS.
    pub fn warnings(&self) -> Vec<String> {
        let ports = [
            ("client_address", &self.client_address, &self.client_tls_cert, "client_tls_cert"),
            ("peer_address", &self.peer_address, &self.peer_tls_cert, "peer_tls_cert"),
        ];
        let exposed = ports.into_iter().filter(|(_, address, certificate, _)| {
            certificate.as_os_str().is_empty() && !is_loopback(address)
        });
        let warning = |(key, address, _, tls): (&str, &String, _, &str)| {
            format!(
                "{key} = {address:?} is reached from other machines, without TLS: whoever reaches \
                 it can read and change everything. Set {tls} (`quorate certs --help` makes \
                 certificates), or keep the port inside a network that you trust"
            )
        };
        exposed.map(warning).collect()
    }
}

/// All of these must be set if one of them is, or if `wanted_by` another key.
fn require_all(
    keys: &[(&'static str, &PathBuf)],
    wanted_by: Option<&'static str>,
    found: &mut Vec<(&'static str, String)>,
) {
    let is_set = |path: &Path| !path.as_os_str().is_empty();
    let set = keys.iter().find(|(_, path)| is_set(path)).map(|(key, _)| *key);
    let Some(because) = set.or(wanted_by) else { return };
    for (key, _) in keys.iter().filter(|(_, path)| !is_set(path)) {
        found.push((key, format!("must name a PEM file, since {because} is set")));
    }
}

/// Whether only this machine reaches the address. A name is taken for another machine's, but for
/// the one that never is.
fn is_loopback(address: &str) -> bool {
    HostPort::parse(address, 0).is_ok_and(|HostPort { host, .. }| {
        host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    })
}
