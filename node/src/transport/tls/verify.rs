//! Who is accepted as a peer: what the peer CA issued, and names a node.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::certificate::{Certificate, NODE_URI};
use super::provider;
use crate::dynamo::key::NodeId;

/// The certificate that the other end showed, once it was accepted.
pub(in crate::transport) type Shown = Arc<OnceLock<Certificate>>;

/// The dialing side's check: the CA, then whom the certificate names. Not the host: that may be an
/// address, or another name by tomorrow.
#[derive(Debug)]
pub(in crate::transport) struct NodeVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    expected: Option<NodeId>,
    shown: Shown,
}

impl NodeVerifier {
    /// Accepts the node `expected`, or any; notes the certificate in `shown`.
    pub(super) fn new(roots: Arc<RootCertStore>, expected: Option<NodeId>, shown: Shown) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self { roots, algorithms, expected, shown }
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        let certificate = naming_a_node(end_entity)?;
        if let Some(expected) = self.expected.filter(|node| !certificate.is_of(*node)) {
            let names = certificate.nodes.join(", ");
            return Err(refused(format!(
                "it is that of {names}, where node {expected} was expected; check the addresses"
            )));
        }
        // Set once: a connector is used for one connection.
        let _ = self.shown.set(certificate);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The accepting side's check: the CA, as rustls does it, then that a node is named. Which one is
/// compared with who introduces itself.
#[derive(Debug)]
pub(super) struct PeerVerifier(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now)?;
        naming_a_node(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// What the other end of a connection will say of our certificate, whichever end dialed.
pub(super) fn verify_own(
    chain: &[CertificateDer<'_>],
    roots: &Arc<RootCertStore>,
    at: UnixTime,
) -> Result<(), Error> {
    let (leaf, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    let algorithms = provider().signature_verification_algorithms.all;
    let parsed = ParsedCertificate::try_from(leaf)?;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, rest, at, algorithms)?;
    let client = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build();
    let client = client.map_err(|error| Error::General(error.to_string()))?;
    client.verify_client_cert(leaf, rest, at).map(drop)
}

fn naming_a_node(der: &CertificateDer<'_>) -> Result<Certificate, Error> {
    let certificate =
        Certificate::parse(der).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    match certificate.nodes.is_empty() {
        true => Err(refused(format!("it names no node (no URI {NODE_URI}NAME)"))),
        false => Ok(certificate),
    }
}

/// A refusal whose words the other end does not hear: it gets the alert `certificate_unknown`.
fn refused(reason: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refused(reason)))))
}

#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}
