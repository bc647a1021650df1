//! A certificate authority to try things out with: `quorate certs`.
//!
//! ```text
//!   DIR/ca.pem            what everybody trusts         DIR/ca.key   signs; belongs on no node
//!   DIR/NODE.pem .key     of a node, for both of its ports: its hosts, and quorate://node/NODE
//!   DIR/clients/NAME.pem .key   of a client, where clients must show one; speaks for no node
//! ```
//!
//! The same command again renews certificates, and adds nodes, under the same CA: a new CA would
//! cut off everybody who has the old one. A real cluster may have its certificates from elsewhere;
//! nothing here is needed at run time.

mod authority;
mod report;
#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use self::authority::{Authority, Issued};
pub use self::report::Report;
use crate::config;

/// The longest life of a certificate, in days: as long as the CA's.
pub const DAYS_MAX: u32 = 3650;

/// A node that is to have a certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// The hosts under which clients reach it, names or addresses.
    pub hosts: Vec<String>,
}

impl NodeSpec {
    /// Reads `NAME=HOST,HOST`; `NAME` alone is a host too.
    pub fn parse(text: &str) -> Result<Self, CertsError> {
        let wrong =
            |reason: &str| CertsError::Node { spec: text.to_owned(), reason: reason.into() };
        let (name, hosts) = text.split_once('=').unwrap_or((text, text));
        config::check_name(name).map_err(|reason| wrong(&format!("its name {reason}")))?;
        if name == "ca" {
            return Err(wrong("its files would be those of the CA; it needs another name"));
        }
        let hosts: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        let is_host = |host: &String| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let is_name = !host.is_empty() && host.bytes().all(plain);
            is_name || host.parse::<std::net::IpAddr>().is_ok()
        };
        match hosts.iter().find(|host| !is_host(host)) {
            Some(host) => Err(wrong(&format!(
                "{host:?} is no host; write NAME=HOST,.. without ports, such as \
                 node-1=10.0.0.1,db1.example.org"
            ))),
            None => Ok(Self { name: name.to_owned(), hosts }),
        }
    }
}

/// What is to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The directory.
    pub out: PathBuf,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
    /// Names of clients.
    pub clients: Vec<String>,
    /// How long certificates of nodes and clients last, in days.
    pub days: u32,
    /// Make a new CA, whatever is there.
    pub new_ca: bool,
}

/// Why there are no certificates, or not all. Files that were written before stay.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum CertsError {
    /// Correct it.
    #[error("node {spec:?}: {reason}")]
    Node { spec: String, reason: String },
    /// Correct it.
    #[error("client {name:?}: its name {reason}")]
    Client { name: String, reason: String },
    /// Name each once.
    #[error("{name:?} is named twice")]
    Repeated { name: String },
    /// Choose another directory, or correct its permissions.
    #[error("cannot write {}: {source}", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    /// Bring both of its files, or make a new one.
    #[error(
        "the CA in {} cannot be used: {reason}; bring back its ca.pem and ca.key, or give --new-ca, \
         which cuts off everybody who trusts the old one", path.display()
    )]
    Authority { path: PathBuf, reason: String },
    /// Should not happen.
    #[error("cannot make a certificate: {0}")]
    Generation(#[from] rcgen::Error),
}

/// Makes what is asked for. Blocks for as long as that takes.
pub fn run(request: &Request) -> Result<Report, CertsError> {
    check(request)?;
    fs::create_dir_all(&request.out).map_err(unwritable(&request.out))?;
    let out = request.out.canonicalize().map_err(unwritable(&request.out))?;
    let existing = match request.new_ca {
        true => None,
        false => Authority::open(&out)?,
    };
    let made_ca = existing.is_none();
    let authority = match existing {
        Some(authority) => authority,
        None => {
            let (authority, issued) = Authority::create()?;
            write(&out, "ca", &issued)?;
            authority
        }
    };
    for node in &request.nodes {
        write(&out, &node.name, &authority.node(node, request.days)?)?;
    }
    if !request.clients.is_empty() {
        let clients = out.join("clients");
        fs::create_dir_all(&clients).map_err(unwritable(&clients))?;
        for name in &request.clients {
            write(&clients, name, &authority.client(name, request.days)?)?;
        }
    }
    Ok(Report { out, made_ca, request: request.clone() })
}

fn check(request: &Request) -> Result<(), CertsError> {
    for name in &request.clients {
        let wrong = |reason| CertsError::Client { name: name.clone(), reason };
        config::check_name(name).map_err(wrong)?;
    }
    let nodes: Vec<&String> = request.nodes.iter().map(|node| &node.name).collect();
    for names in [nodes, request.clients.iter().collect()] {
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                return Err(CertsError::Repeated { name: (*name).clone() });
            }
        }
    }
    Ok(())
}

/// Writes certificate and key. Each is there as a whole or not at all, so that a node that looks
/// meanwhile reads no half of one.
fn write(directory: &Path, name: &str, issued: &Issued) -> Result<(), CertsError> {
    replace(&directory.join(format!("{name}.key")), &issued.key, 0o600)?;
    replace(&directory.join(format!("{name}.pem")), &issued.certificate, 0o644)
}

fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{file_name}.new"));
    let written = || -> io::Result<()> {
        // What an interrupted run left would keep its own mode.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file: File =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().map_err(unwritable(path))
}

fn unwritable(path: &Path) -> impl Fn(io::Error) -> CertsError {
    let path = path.to_path_buf();
    move |source| CertsError::Unwritable { path: path.clone(), source }
}
