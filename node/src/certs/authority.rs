//! The CA: made, or found again, and what it issues.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CertsError, DAYS_MAX, NodeSpec};
use crate::transport::tls::{Certificate, NODE_URI};

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate and its key, PEM both.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Signs.
pub(super) struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// A new one. Its name holds a part of its key's hash, so that two of them differ in name: else
    /// a certificate of the other one would look forged, not foreign.
    pub(super) fn create() -> Result<(Self, Issued), CertsError> {
        let key = KeyPair::generate()?;
        let mut params = lasting(DAYS_MAX);
        let id = params.key_identifier(&key);
        let short: String = id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        params.distinguished_name.push(DnType::CommonName, format!("Quorate CA {short}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        let issued = Issued { certificate, key: key.serialize_pem() };
        Ok((Self(Issuer::new(params, key)), issued))
    }

    /// That of a directory; none if it has none.
    pub(super) fn open(directory: &Path) -> Result<Option<Self>, CertsError> {
        let unusable = |reason: &str| CertsError::Authority {
            path: directory.to_path_buf(),
            reason: reason.to_owned(),
        };
        let read = |name: &str| match fs::read_to_string(directory.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unusable(&format!("{name}: {error}"))),
        };
        let (certificate, key) = match (read("ca.pem")?, read("ca.key")?) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => return Err(unusable("ca.key is missing")),
            (None, Some(_)) => return Err(unusable("ca.pem is missing")),
        };
        let key = KeyPair::from_pem(&key).map_err(|_| unusable("ca.key holds no private key"))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| unusable("ca.pem holds no certificate"))?;
        let malformed = || unusable("ca.pem holds a malformed certificate");
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| malformed())?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(unusable("ca.key is not the key of ca.pem"));
        }
        let facts = Certificate::parse(&der).ok_or_else(malformed)?;
        if let Some(reason) = facts.invalid_now() {
            return Err(unusable(&format!("it {reason}")));
        }
        Ok(Some(Self(Issuer::from_ca_cert_der(&der, key)?)))
    }

    /// For a node: both ends of both ports.
    pub(super) fn node(&self, node: &NodeSpec, days: u32) -> Result<Issued, CertsError> {
        let uri = Ia5String::try_from(format!("{NODE_URI}{}", node.name))?;
        let mut names = vec![SanType::URI(uri)];
        for host in &node.hosts {
            names.push(match host.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(Ia5String::try_from(host.as_str())?),
            });
        }
        let uses = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&node.name, names, uses, days)
    }

    /// For a client: one end of client ports.
    pub(super) fn client(&self, name: &str, days: u32) -> Result<Issued, CertsError> {
        self.issue(name, Vec::new(), vec![ExtendedKeyUsagePurpose::ClientAuth], days)
    }

    fn issue(
        &self,
        name: &str,
        names: Vec<SanType>,
        uses: Vec<ExtendedKeyUsagePurpose>,
        days: u32,
    ) -> Result<Issued, CertsError> {
        let key = KeyPair::generate()?;
        let mut params = lasting(days);
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = uses;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.0)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}

/// Without a name yet. Valid since yesterday: clocks differ.
fn lasting(days: u32) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
    params
}
