//! What a certificate says: of which node or host it is, and until when.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::dynamo::key::NodeId;

/// What the URI of a node begins with; the node's name follows.
pub const NODE_URI: &str = "quorate://node/";

/// The facts of one certificate that this program goes by.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Certificate {
    /// Names of the nodes that it may speak for: one, as `quorate certs` makes them.
    pub nodes: Vec<String>,
    /// Hosts that it is valid for, names and addresses.
    pub hosts: Vec<String>,
    /// Whom it is issued to.
    pub subject: String,
    /// Whom it is issued by.
    pub issuer: String,
    /// Seconds since the Unix epoch from which it is valid.
    pub not_before: i64,
    /// Seconds since the Unix epoch until which it is valid.
    pub not_after: i64,
    /// The same for people.
    pub expires: String,
}

impl Certificate {
    /// Reads a certificate; none if it is malformed.
    pub fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let alternatives = parsed.subject_alternative_name().ok()?;
        let alternatives = alternatives.map(|names| names.value.general_names.as_slice());
        let (mut nodes, mut hosts) = (Vec::new(), Vec::new());
        for name in alternatives.unwrap_or_default() {
            match name {
                GeneralName::URI(uri) => {
                    nodes.extend(uri.strip_prefix(NODE_URI).map(str::to_owned))
                }
                GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
                GeneralName::IPAddress(bytes) => hosts.extend(address(bytes)),
                _ => {}
            }
        }
        let validity = parsed.validity();
        Some(Self {
            nodes,
            hosts,
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            expires: validity.not_after.to_string(),
        })
    }

    /// Whether it speaks for this node.
    pub fn is_of(&self, node: NodeId) -> bool {
        self.nodes.iter().any(|name| NodeId::of_name(name) == node)
    }

    /// A moment of its life, in seconds since the Unix epoch: now, or the nearest.
    pub(super) fn valid_moment(&self) -> i64 {
        now().min(self.not_after).max(self.not_before)
    }

    /// Why it is of no use now, if it is not.
    pub fn invalid_now(&self) -> Option<String> {
        let now = now();
        if now > self.not_after {
            return Some(format!("expired on {}", self.expires));
        }
        (now < self.not_before).then(|| "is not valid yet; is the clock right?".to_owned())
    }
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    i64::try_from(now).unwrap_or(i64::MAX)
}

/// In a few words, for logs.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nodes.as_slice() {
            [] => write!(f, "{:?} of {:?}, which names no node", self.subject, self.issuer),
            nodes => write!(f, "that of {}, by {:?}", nodes.join(", "), self.issuer),
        }
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| std::net::Ipv4Addr::from(octets).to_string());
    let v6 = <[u8; 16]>::try_from(bytes).map(|octets| std::net::Ipv6Addr::from(octets).to_string());
    v4.or(v6).ok()
}
