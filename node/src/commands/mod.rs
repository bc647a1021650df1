//! What the binary does, one module a subcommand: the edge between the command line and the node.

mod serve;

use thiserror::Error;

use crate::args::{CertsArgs, Command, ConfigArgs, InitArgs, PeerTlsArgs};
use crate::certs::{self, CertsError, NodeSpec};
use crate::config::ConfigError;
use crate::dev::{self, DevError};
use crate::init::{self, InitError, InitOptions};
use crate::node::{NodeError, Security};
use crate::process::say;

pub use self::serve::ServeError;

/// Why a command failed.
#[derive(Debug, Error)]
#[error(transparent)]
#[expect(missing_docs, reason = "one variant a subcommand")]
pub enum CommandError {
    Config(#[from] ConfigError),
    Check(#[from] NodeError),
    Serve(#[from] ServeError),
    Init(#[from] InitError),
    Certs(#[from] CertsError),
    Dev(#[from] DevError),
}

/// Runs a subcommand to its end.
pub async fn run(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Serve(args) => Ok(serve::run(args).await?),
        Command::Check(args) => check(args),
        Command::Init(args) => init(args).await,
        Command::Certs(args) => certs(args),
        Command::Dev(args) => Ok(dev::run(args).await?),
    }
}

fn check(args: ConfigArgs) -> Result<(), CommandError> {
    let effective = args.load()?;
    let security = Security::load(&effective.config).map_err(NodeError::from)?;
    say(effective.to_string().trim_end());
    for tls in security.ports() {
        let (port, certificate) = (tls.port().name(), tls.certificate());
        let (hosts, expires) = (certificate.hosts.join(", "), &certificate.expires);
        say(format_args!("# {port} port: certificate {certificate}, hosts {hosts}, to {expires}"));
        if let Some(reason) = certificate.invalid_now() {
            eprintln!("warning: the certificate of the {port} port {reason}: nobody accepts it");
        }
    }
    effective.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
    match security.ports().find_map(|tls| tls.untrusted()) {
        Some(error) => Err(NodeError::from(error).into()),
        None => Ok(()),
    }
}

async fn init(args: InitArgs) -> Result<(), CommandError> {
    let options = InitOptions::new(args.members, args.partitions, args.voters)?;
    let network = init::Network::new(files(args.tls))?;
    let report = init::run(&network, &options).await?;
    say(report.to_string().trim_end());
    Ok(())
}

/// All three or none, as the command line was checked.
fn files(args: PeerTlsArgs) -> Option<init::Files> {
    let PeerTlsArgs { peer_tls_ca, peer_tls_cert, peer_tls_key } = args;
    Some(init::Files { certificate: peer_tls_cert?, key: peer_tls_key?, ca: Some(peer_tls_ca?) })
}

fn certs(args: CertsArgs) -> Result<(), CommandError> {
    let CertsArgs { out, nodes, clients, days, new_ca } = args;
    let nodes = nodes.iter().map(|text| NodeSpec::parse(text)).collect::<Result<_, _>>()?;
    let report = certs::run(&certs::Request { out, nodes, clients, days, new_ca })?;
    say(report);
    Ok(())
}
