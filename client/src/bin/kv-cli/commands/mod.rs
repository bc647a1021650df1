//! The short commands, and the way to the long ones.

mod cluster;
mod key;
mod namespace;
mod near;
mod scan;

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use quorate_client::{Client, ClientConfig};

pub(crate) use self::near::with_near_names;
use crate::args::{Command, Global};
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
    /// Connects.
    pub(crate) async fn open(global: &Global) -> Result<Self> {
        let Global { endpoints, tls, output, timeout, color, request_id } = global.clone();
        let tls = tls.load()?;
        let config =
            ClientConfig { endpoints, timeout, tls, request_id, ..ClientConfig::default() };
        let client = Client::connect(config).await?;
        Ok(Self { client, output: Output::new(output, color), timeout })
    }

    /// Over the same connections, with other output.
    pub(crate) fn with_output(&self, global: &Global) -> Self {
        let output = Output::new(global.output, global.color);
        Self { client: self.client.clone(), output, timeout: self.timeout }
    }

    /// Runs the command. An unknown name is answered with those that look like it.
    pub(crate) async fn run(&self, command: Command) -> Result<Exit> {
        let namespace = command.namespace().map(str::to_owned);
        let result = self.dispatch(command).await;
        match (result, namespace) {
            (Err(error), Some(name)) => Err(near::with_near_names(self, error, &name).await),
            (result, _) => result,
        }
    }

    async fn dispatch(&self, command: Command) -> Result<Exit> {
        match command {
            Command::Put(args) => key::put(self, args).await,
            Command::Get(args) => key::get(self, args).await,
            Command::Delete(args) => key::delete(self, args).await,
            Command::Scan(args) => scan::scan(self, args).await,
            Command::Count(args) => scan::count(self, args).await,
            Command::Namespace(command) => namespace::run(self, command).await,
            Command::Import(args) => import::run(self, args).await,
            Command::Export(args) => export::run(self, args).await,
            Command::Bench(args) => bench::run(self, args).await,
            Command::Cluster(command) => cluster::run(self, command).await,
        }
    }
}

/// Connects and runs the command.
pub(crate) async fn run(global: &Global, command: Command) -> Result<Exit> {
    let session = Session::open(global).await?;
    session.run(command).await
}

/// The bytes of an argument: on Unix exactly those that were typed.
fn bytes(argument: OsString) -> Bytes {
    argument.into_encoded_bytes().into()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::args::{Args, TopCommand};

    use super::*;

    #[tokio::test]
    async fn endpoints_that_are_down_are_named() {
        // Ports that nothing listens on: they were free a moment ago.
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (one, two) = (free().to_string(), free().to_string());
        let endpoints = format!("{one},{two}");
        let line = ["kv-cli", "--endpoints", &endpoints, "--timeout", "2s", "count", "users"];
        let args = Args::try_parse_from(line).unwrap();
        let TopCommand::One(command) = args.command else { panic!("{line:?}") };
        let error = run(&args.global, command).await.unwrap_err().to_string();
        assert!(error.contains(&one) && error.contains(&two), "{error}");
    }
}
