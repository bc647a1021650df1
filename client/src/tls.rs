//! TLS on the way to the nodes: whom to trust, and who this client is.

use std::{fmt, path::Path, time::Duration};

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::error::{Error, ErrorKind};

/// Two more round trips than a connection without TLS, and some computing at a busy node.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// How a client speaks TLS: with all nodes alike, those it learns of included.
///
/// A node's certificate must be of the CA given here, and valid for the host that is dialed: that
/// of the endpoint, or of the address that the node announces.
#[derive(Clone)]
pub struct TlsConfig {
    ca: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl TlsConfig {
    /// Trusts the CA, or the several, in this PEM text.
    pub fn new(ca_pem: impl Into<Vec<u8>>) -> Result<Self, Error> {
        let ca = ca_pem.into();
        expect_pem(&ca, "CERTIFICATE", "the CA")?;
        Ok(Self { ca, identity: None, server_name: None })
    }

    /// Trusts the CA, or the several, in this PEM file.
    pub fn from_ca_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        Self::new(read(path)?).map_err(|error| in_file(&error, path))
    }

    /// Shows this certificate to nodes that require one; PEM both.
    pub fn with_identity(
        mut self,
        certificate_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Result<Self, Error> {
        let (certificate, key) = (certificate_pem.into(), key_pem.into());
        expect_pem(&certificate, "CERTIFICATE", "the client's certificate")?;
        expect_pem(&key, "PRIVATE KEY", "the client's key")?;
        self.identity = Some((certificate, key));
        Ok(self)
    }

    /// Shows the certificate in these PEM files to nodes that require one.
    pub fn with_identity_files(
        self,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, Error> {
        let (certificate, key) = (certificate.as_ref(), key.as_ref());
        let (certificate_pem, key_pem) = (read(certificate)?, read(key)?);
        expect_pem(&certificate_pem, "CERTIFICATE", "the client's certificate")
            .map_err(|error| in_file(&error, certificate))?;
        expect_pem(&key_pem, "PRIVATE KEY", "the client's key")
            .map_err(|error| in_file(&error, key))?;
        let tls = self.with_identity(certificate_pem, key_pem)?;
        // Else it would fail in each connection, far from what knows the names.
        let unused = Endpoint::from_static("https://localhost");
        tls.apply(unused, "localhost:1").map_err(|error| {
            let files = format!("{} and {}", certificate.display(), key.display());
            refused(format!("{files}: {}", error.message()))
        })?;
        Ok(tls)
    }

    /// Expects the nodes' certificates to be valid for this name instead of the host dialed.
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// The endpoint of `address`, within this TLS.
    pub(crate) fn apply(&self, endpoint: Endpoint, address: &str) -> Result<Endpoint, Error> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        // An IPv6 address is no name with its brackets.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .domain_name(self.server_name.as_deref().unwrap_or(host))
            .timeout(HANDSHAKE_TIMEOUT);
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        endpoint.tls_config(config).map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let cause = cause.unwrap_or_else(|| error.to_string());
            refused(format!("the TLS options are of no use: {cause}"))
        })
    }
}

/// Keys are never printed.
impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("server_name", &self.server_name)
            .field("identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| refused(format!("cannot read {}: {error}", path.display())))
}

fn in_file(error: &Error, path: &Path) -> Error {
    refused(format!("{}: {}", path.display(), error.message()))
}

/// Options with which no connection can be made.
fn refused(message: String) -> Error {
    let advice = "give PEM files that can be read, and a key that is its certificate's";
    Error::new(ErrorKind::Invalid, message).advising(Some(advice))
}

/// What is no PEM at all would be passed over in silence, and then nobody trusted.
fn expect_pem(pem: &[u8], what: &str, whose: &str) -> Result<(), Error> {
    let end = format!("{what}-----");
    let begins = String::from_utf8_lossy(pem)
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&end));
    let message = || format!("{whose} is not given as PEM: there is no BEGIN {what}");
    begins.then_some(()).ok_or_else(|| refused(message()))
}

/// An error of TLS in other words: what is wrong, and what to do about it.
///
/// They are known by their texts alone: on the way up through HTTP/2 they lose their types.
pub(crate) fn explain(error: &str) -> Option<(String, &'static str)> {
    if error.contains("this port speaks TLS") {
        let advice = "give the CA to trust (TlsConfig in the SDK, --tls-ca in kv-cli)";
        return Some(("the node speaks TLS, and this client does not".to_owned(), advice));
    }
    if error.contains("InvalidContentType") {
        let advice = "leave the TLS options out, or give the node client_tls_cert and its key";
        return Some(("the node answers without TLS".to_owned(), advice));
    }
    if let Some((_, why)) = error.split_once("invalid peer certificate: ") {
        return Some(match why {
            "UnknownIssuer" => (
                "the node's certificate is not of the CA that this client trusts".to_owned(),
                "give the CA that issued the nodes' certificates",
            ),
            why if why.contains("not valid for") => (
                format!("the node's certificate is not accepted: {why}"),
                "dial a host that it is valid for, or give that name (--tls-server-name in kv-cli)",
            ),
            why => (
                format!("the node's certificate is not accepted: {why}"),
                "give the node a valid one; it takes new files without a restart",
            ),
        });
    }
    if let Some((_, alert)) = error.split_once("received fatal alert: ") {
        return Some(match alert {
            "CertificateRequired" => (
                "the node requires a client certificate".to_owned(),
                "give one (with_identity in the SDK, --tls-cert and --tls-key in kv-cli)",
            ),
            "UnknownCA"
            | "BadCertificate"
            | "CertificateExpired"
            | "CertificateUnknown"
            | "UnsupportedCertificate"
            | "DecryptError"
            | "AccessDenied" => (
                format!("the node refused this client's certificate: {alert}"),
                "give one that is valid and of the CA in the node's client_tls_ca",
            ),
            alert => (
                format!("the node ended the TLS handshake: {alert}"),
                "look at the node's log, which says why",
            ),
        });
    }
    error.contains("tls handshake eof").then(|| {
        let message = "the node closed the connection during the TLS handshake".to_owned();
        (message, "check that the port is one of clients, with TLS; the node's log says more")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

    #[test]
    fn what_is_no_pem_is_refused_with_whose_it_is() {
        let error = TlsConfig::new("garbage").unwrap_err().to_string();
        assert!(error.starts_with("the CA is not given as PEM"), "{error}");
        let error = TlsConfig::from_ca_file("/no/such/ca.pem").unwrap_err().to_string();
        assert!(error.starts_with("cannot read /no/such/ca.pem: No such file"), "{error}");
        let tls = TlsConfig::new(CA).unwrap();
        let error = tls.clone().with_identity(CA, CA).unwrap_err().to_string();
        assert!(error.starts_with("the client's key is not given as PEM"), "{error}");
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key] = ["a.pem", "a.key"].map(|name| directory.path().join(name));
        std::fs::write(&certificate, CA).unwrap();
        std::fs::write(&key, CA).unwrap();
        let error = tls.clone().with_identity_files(&certificate, &key).unwrap_err().to_string();
        let whose = format!("{}: the client's key is not given as PEM", key.display());
        assert!(error.starts_with(&whose) && !error.contains("request"), "{error}");
        std::fs::write(&key, "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n")
            .unwrap();
        let error = tls.with_identity_files(&certificate, &key).unwrap_err().to_string();
        let files = format!("{} and {}: the TLS op", certificate.display(), key.display());
        assert!(error.starts_with(&files) && !error.contains("request"), "{error}");
    }

    #[test]
    fn keys_are_not_printed() {
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n";
        let tls = TlsConfig::new(CA).unwrap().with_identity(CA, key).unwrap();
        let shown = format!("{tls:?}");
        assert!(shown.contains("identity: true") && !shown.contains("c2Vj"), "{shown}");
    }

    #[test]
    fn errors_of_tls_are_told_from_others() {
        for (error, said) in [
            ("GOAWAY (b\"this port speaks TLS; ..\")", "this client does not"),
            ("received corrupt message of type InvalidContentType", "without TLS"),
            ("invalid peer certificate: UnknownIssuer", "not of the CA"),
            ("invalid peer certificate: certificate expired: x", "not accepted: certificate exp"),
            ("received fatal alert: CertificateRequired", "requires a client certificate"),
            ("received fatal alert: UnknownCA", "refused this client's certificate"),
            ("tls handshake eof", "closed the connection"),
        ] {
            assert!(explain(error).unwrap().0.contains(said), "{error}");
        }
        assert_eq!(explain("connection refused"), None);
    }
}
