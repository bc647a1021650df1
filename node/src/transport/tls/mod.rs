//! TLS: who may listen as what, who may connect, and how certificates change while the node runs.
//!
//! ```text
//!   client port   shows a certificate for the node's HOST, which clients check against the
//!                 address that they dial; asks clients for one only if there is a client CA
//!   peer port     both ends show one of the peer CA that names a node, by the URI
//!                 quorate://node/NAME among its alternative names
//! ```
//!
//! Why a URI and not the host: peers may be known by an IP address, several nodes may share a host,
//! and one CA often issues for clients and servers alike. So a certificate makes nobody a node
//! unless it says so, and a node can speak for no other one: the dialing side checks whom it was to
//! find, the accepting side who introduces itself (`grpc::accept`).
//!
//! ```text
//!   listener ─► first byte ─► handshake, in a task of its own ─► tonic
//!                  │              └ refused, late or over the cap: closed, counted, logged
//!                  └ no TLS: told so in its own language (HTTP/2 GOAWAY, or HTTP/1.1 400)
//! ```
//!
//! Files are read again every few seconds; what is new and good serves the next handshakes, what is
//! bad changes nothing. Streams that are open go on under the certificates that they began with.
//!
//! Left out: revocation lists (replace the CA, or wait for short lives to end), and the operating
//! system's trust store (each CA is named).

mod accept;
mod certificate;
mod explain;
mod files;
mod plain;
mod port;
mod secured;
#[cfg(test)]
mod tests;
mod throttle;
mod verify;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use thiserror::Error;

pub use self::accept::{TlsObserver, secured};
pub use self::certificate::{Certificate, NODE_URI};
pub(super) use self::explain::explain;
pub use self::files::Files;
pub use self::port::{PortTls, Reload};
pub use self::secured::{ConnectInfo, Secured};
pub(super) use self::throttle::Throttle;

/// Which port of a node, for messages and metrics.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Port {
    /// Where clients connect.
    Client,
    /// Where other nodes do.
    Peer,
}

impl Port {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
        }
    }

    fn certificate_key(self) -> &'static str {
        match self {
            Self::Client => "client_tls_cert",
            Self::Peer => "peer_tls_cert",
        }
    }

    fn private_key(self) -> &'static str {
        match self {
            Self::Client => "client_tls_key",
            Self::Peer => "peer_tls_key",
        }
    }

    fn ca_key(self) -> &'static str {
        match self {
            Self::Client => "client_tls_ca",
            Self::Peer => "peer_tls_ca",
        }
    }
}

/// Why files make no TLS. Nothing was changed: a running node keeps what it has.
#[derive(Debug, Error)]
pub enum TlsError {
    /// Correct the path, or its permissions.
    #[error("{key}: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is there, and is of no use.
    #[error("{key}: {} {reason}", path.display())]
    Unusable {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
}

/// The cryptography: ring, for all of this program.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
