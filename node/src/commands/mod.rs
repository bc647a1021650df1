//! What the binary does, one module a subcommand: the edge between the command line and the node.

mod serve;

use thiserror::Error;

use crate::args::{Command, ConfigArgs, InitArgs};
use crate::config::ConfigError;
use crate::dev::{self, DevError};
use crate::init::{self, InitError, InitOptions};
use crate::process::say;

pub use self::serve::ServeError;

/// Why a command failed.
#[derive(Debug, Error)]
#[error(transparent)]
#[expect(missing_docs, reason = "one variant a subcommand")]
pub enum CommandError {
    Config(#[from] ConfigError),
    Serve(#[from] ServeError),
    Init(#[from] InitError),
    Dev(#[from] DevError),
}

/// Runs a subcommand to its end.
pub async fn run(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Serve(args) => Ok(serve::run(args).await?),
        Command::Check(args) => check(args),
        Command::Init(args) => init(args).await,
        Command::Dev(args) => Ok(dev::run(args).await?),
    }
}

fn check(args: ConfigArgs) -> Result<(), CommandError> {
    say(args.load()?.to_string().trim_end());
    Ok(())
}

async fn init(args: InitArgs) -> Result<(), CommandError> {
    let options = InitOptions::new(args.members, args.partitions, args.voters)?;
    let report = init::run(&init::Network, &options).await?;
    say(report.to_string().trim_end());
    Ok(())
}
