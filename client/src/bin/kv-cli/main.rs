//! `kv-cli`: Quorate from a shell.
//!
//! One command, one exit code: 0 found or done, 1 not found, 2 an error whose reason is on stderr.
//! Results go to stdout as text for people or as json for scripts; everything else goes to stderr.
//! [`args`] is the contract, [`commands`] the short commands; `import`, `export` and `bench` are
//! programs of their own. All of them talk to the cluster through the public SDK alone.

mod args;
mod bench;
mod commands;
mod export;
mod failure;
mod formats;
mod import;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::failure::Exit;

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&anyhow::Error::new(error)).into(),
    };
    let exit = runtime.block_on(async {
        tokio::select! {
            result = commands::run(args) => result.unwrap_or_else(|error| failure::report(&error)),
            _ = tokio::signal::ctrl_c() => Exit::Interrupted,
        }
    });
    // A thread may still wait for input that never comes: leave it behind.
    runtime.shutdown_background();
    exit.into()
}
