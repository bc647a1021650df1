//! The short commands, and the way to the long ones.

mod cluster;
mod key;
mod namespace;
mod scan;

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use quorate_client::{Client, ClientConfig};

use crate::args::{Args, Command, Global};
use crate::failure::Exit;
use crate::output::Output;
use crate::{bench, export, import};

/// What every command needs.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) output: Output,
    /// Of each operation.
    pub(crate) timeout: Duration,
}

impl Session {
    async fn open(global: Global) -> Result<Self> {
        let Global { endpoints, tls, output, timeout } = global;
        let tls = tls.load()?;
        let client = Client::connect(ClientConfig { endpoints, timeout, tls }).await?;
        Ok(Self { client, output: Output::new(output), timeout })
    }
}

/// Connects and runs the command.
pub(crate) async fn run(args: Args) -> Result<Exit> {
    let session = Session::open(args.global).await?;
    match args.command {
        Command::Put(args) => key::put(&session, args).await,
        Command::Get(args) => key::get(&session, args).await,
        Command::Delete(args) => key::delete(&session, args).await,
        Command::Scan(args) => scan::scan(&session, args).await,
        Command::Count(args) => scan::count(&session, args).await,
        Command::Namespace(command) => namespace::run(&session, command).await,
        Command::Import(args) => import::run(&session, args).await,
        Command::Export(args) => export::run(&session, args).await,
        Command::Bench(args) => bench::run(&session, args).await,
        Command::Cluster(command) => cluster::run(&session, command).await,
    }
}

/// The bytes of an argument: on Unix exactly those that were typed.
fn bytes(argument: OsString) -> Bytes {
    argument.into_encoded_bytes().into()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[tokio::test]
    async fn endpoints_that_are_down_are_named() {
        // Ports that nothing listens on: they were free a moment ago.
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (one, two) = (free().to_string(), free().to_string());
        let endpoints = format!("{one},{two}");
        let line = ["kv-cli", "--endpoints", &endpoints, "--timeout", "2s", "count", "users"];
        let error = run(Args::try_parse_from(line).unwrap()).await.unwrap_err().to_string();
        assert!(error.contains(&one) && error.contains(&two), "{error}");
    }
}
