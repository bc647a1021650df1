//! The TLS of one port: what its files held when they were last good.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::UnixTime;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, Error, RootCertStore, ServerConfig};
use tonic::transport::{ClientTlsConfig, Identity};

use super::certificate::{Certificate, NODE_URI};
use super::files::{Contents, Files, Material};
use super::verify::{self, NodeVerifier, PeerVerifier, Shown};
use super::{Port, TlsError, provider};
use crate::dynamo::key::NodeId;

/// The only protocol that is spoken within: HTTP/2.
const ALPN: &[u8] = b"h2";

/// A port's TLS. It changes by [`PortTls::reload`] alone.
pub struct PortTls {
    port: Port,
    files: Files,
    /// Whom a certificate of the peer port must name.
    node_name: Option<String>,
    current: ArcSwap<Current>,
    seen: Mutex<Seen>,
}

/// What handshakes use.
struct Current {
    server: Arc<ServerConfig>,
    contents: Contents,
    roots: Option<Arc<RootCertStore>>,
    leaf: Certificate,
}

/// What the last look at bad files found.
#[derive(Default)]
struct Seen {
    bad: Option<Result<Contents, String>>,
    told: bool,
}

/// What a look at the files came to.
#[derive(Debug)]
pub enum Reload {
    /// They are as they were.
    Unchanged,
    /// They changed and are in use now.
    Taken(Certificate),
    /// They changed for the worse, and what was there before is in use still. Told once for each
    /// change, and only when a second look finds the same: files are seldom replaced all at once.
    Failed(TlsError),
}

impl PortTls {
    /// Reads the files. A certificate of the peer port must name `node_name`, if there is one.
    ///
    /// An expired certificate is taken here: a node that starts with one can be given a new one.
    pub fn load(
        port: Port,
        files: Files,
        node_name: Option<String>,
    ) -> Result<Arc<Self>, TlsError> {
        let contents = files.read(port)?;
        let current = current(port, &files, node_name.as_deref(), contents)?;
        let (current, seen) = (ArcSwap::from_pointee(current), Mutex::default());
        Ok(Arc::new(Self { port, files, node_name, current, seen }))
    }

    /// Looks at the files again. Blocks for as long as reading takes.
    pub fn reload(&self) -> Reload {
        let read = self.files.read(self.port);
        if read.as_ref().is_ok_and(|contents| *contents == self.current.load().contents) {
            *self.seen() = Seen::default();
            return Reload::Unchanged;
        }
        let found = read.as_ref().map(Contents::clone).map_err(ToString::to_string);
        let error = match read.and_then(|contents| self.replacement(contents)) {
            Ok(current) => {
                let leaf = current.leaf.clone();
                self.current.store(Arc::new(current));
                *self.seen() = Seen::default();
                return Reload::Taken(leaf);
            }
            Err(error) => error,
        };
        let mut seen = self.seen();
        let again = seen.bad.as_ref() == Some(&found);
        if again && !seen.told {
            seen.told = true;
            return Reload::Failed(error);
        }
        if !again {
            *seen = Seen { bad: Some(found), told: false };
        }
        Reload::Unchanged
    }

    /// Which port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// The certificate in use.
    pub fn certificate(&self) -> Certificate {
        self.current.load().leaf.clone()
    }

    /// Why no node with the CA that this one has accepts the certificate in use: it is of another. An end of its life is no reason here. None for the client port, whose CA is
    /// that of clients.
    pub fn untrusted(&self) -> Option<TlsError> {
        let current = self.current.load();
        let roots = current.roots.as_ref().filter(|_| self.port == Port::Peer)?;
        let chain = match self.files.parse(self.port, &current.contents) {
            Ok(material) => material.chain,
            Err(error) => return Some(error),
        };
        let at = u64::try_from(current.leaf.valid_moment()).unwrap_or_default();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let reason = match verify::verify_own(&chain, roots, at).err()? {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "is not of the CA in peer_tls_ca: no node with this peer_tls_ca accepts it"
                    .to_owned()
            }
            other => format!("is accepted by no node with this peer_tls_ca: {other}"),
        };
        Some(unusable(self.port, &self.files, reason))
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.current.load().server.clone()
    }

    /// What dialing takes: tonic's part, and our check of who answers.
    ///
    /// # Panics
    ///
    /// For the client port, which nobody dials from here.
    pub(in crate::transport) fn dialing(
        &self,
        expected: Option<NodeId>,
        shown: Shown,
    ) -> (ClientTlsConfig, NodeVerifier) {
        let current = self.current.load();
        let roots = current.roots.clone().expect("the peer port has a CA, which was loaded");
        let Contents { certificate, key, .. } = &current.contents;
        let identity = Identity::from_pem(certificate, key);
        (ClientTlsConfig::new().identity(identity), NodeVerifier::new(roots, expected, shown))
    }

    /// What is new must be better than what is there: an expired certificate is not.
    fn replacement(&self, contents: Contents) -> Result<Current, TlsError> {
        let current = current(self.port, &self.files, self.node_name.as_deref(), contents)?;
        match current.leaf.invalid_now() {
            Some(reason) => Err(unusable(self.port, &self.files, reason)),
            None => Ok(current),
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PortTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, files, .. } = self;
        f.debug_struct("PortTls").field("port", port).field("files", files).finish_non_exhaustive()
    }
}

fn unusable(port: Port, files: &Files, reason: String) -> TlsError {
    let (key, path) = (port.certificate_key(), files.certificate.clone());
    TlsError::Unusable { key, path, reason }
}

fn current(
    port: Port,
    files: &Files,
    node_name: Option<&str>,
    contents: Contents,
) -> Result<Current, TlsError> {
    let material = files.parse(port, &contents)?;
    let (leaf, roots) = (material.leaf.clone(), material.roots.clone());
    if port == Port::Peer {
        check_names(&leaf, node_name).map_err(|reason| unusable(port, files, reason))?;
    }
    let server = server(port, material).map_err(|error| match error {
        Error::InconsistentKeys(_) => {
            let certificate = files.certificate.display();
            let reason = format!("is not the key of the certificate in {certificate}");
            TlsError::Unusable { key: port.private_key(), path: files.key.clone(), reason }
        }
        other => unusable(port, files, format!("cannot be used: {other}")),
    })?;
    Ok(Current { server: Arc::new(server), contents, roots, leaf })
}

fn check_names(leaf: &Certificate, node_name: Option<&str>) -> Result<(), String> {
    let advice = "`quorate certs` makes such certificates";
    match node_name {
        Some(name) if !leaf.is_of(NodeId::of_name(name)) => Err(match leaf.nodes.as_slice() {
            [] => format!("names no node; it must have the URI {NODE_URI}{name}: {advice}"),
            nodes => {
                let nodes = nodes.join(", ");
                format!("is that of {nodes}, but node_name is {name:?}: {advice}")
            }
        }),
        None if leaf.nodes.is_empty() => {
            Err(format!("names no node; take a node's certificate, with a URI {NODE_URI}NAME"))
        }
        _ => Ok(()),
    }
}

fn server(port: Port, material: Material) -> Result<ServerConfig, Error> {
    let Material { chain, key, roots, .. } = material;
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = match port {
        Port::Client => builder.with_safe_default_protocol_versions()?,
        // Both ends are ours.
        Port::Peer => builder.with_protocol_versions(&[&rustls::version::TLS13])?,
    };
    let builder = match roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            let verifier = verifier.map_err(|error| Error::General(error.to_string()))?;
            match port {
                Port::Client => builder.with_client_cert_verifier(verifier),
                Port::Peer => builder.with_client_cert_verifier(Arc::new(PeerVerifier(verifier))),
            }
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    if port == Port::Peer {
        // Every handshake of peers checks anew; their streams live too long to gain from less.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}
