//! The files of one port: certificate chain, private key, and perhaps a CA.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::Certificate;
use super::{Port, TlsError};

/// Where they are, PEM each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// The certificate, followed by those that lead to the CA, if there are any.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The CA whose certificates are accepted; may hold several.
    pub ca: Option<PathBuf>,
}

/// What they hold, byte for byte, so that a change is noticed whatever the clock of the files says.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) ca: Option<Vec<u8>>,
}

/// Keys are never printed.
impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

/// What they mean.
pub(super) struct Material {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) roots: Option<Arc<RootCertStore>>,
    /// The first of the chain.
    pub(super) leaf: Certificate,
}

impl Files {
    /// Reads all of them, or says which cannot be read.
    pub(super) fn read(&self, port: Port) -> Result<Contents, TlsError> {
        let read = |key, path: &Path| {
            let unreadable =
                |source| TlsError::Unreadable { key, path: path.to_path_buf(), source };
            std::fs::read(path).map_err(unreadable)
        };
        Ok(Contents {
            certificate: read(port.certificate_key(), &self.certificate)?,
            key: read(port.private_key(), &self.key)?,
            ca: self.ca.as_deref().map(|path| read(port.ca_key(), path)).transpose()?,
        })
    }

    /// Understands what was read, or says what is wrong with which file.
    pub(super) fn parse(&self, port: Port, contents: &Contents) -> Result<Material, TlsError> {
        let bad = |key, path: &Path, reason: &str| TlsError::Unusable {
            key,
            path: path.to_path_buf(),
            reason: reason.to_owned(),
        };
        let of_certificate = |reason: &str| bad(port.certificate_key(), &self.certificate, reason);
        let chain = certificates(&contents.certificate).map_err(of_certificate)?;
        let leaf = Certificate::parse(&chain[0])
            .ok_or_else(|| of_certificate("holds a malformed certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| bad(port.private_key(), &self.key, "holds no private key as PEM"))?;
        let roots = match (&self.ca, &contents.ca) {
            (Some(path), Some(pem)) => {
                let of_ca = |reason: &str| bad(port.ca_key(), path, reason);
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem).map_err(of_ca)? {
                    let added = roots.add(certificate);
                    added.map_err(|_| of_ca("holds a certificate that is no CA's"))?;
                }
                Some(Arc::new(roots))
            }
            _ => None,
        };
        Ok(Material { chain, key, roots, leaf })
    }
}

/// All certificates of a PEM text, at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err("holds no certificate as PEM"),
        Err(_) => Err("is no valid PEM"),
    }
}
