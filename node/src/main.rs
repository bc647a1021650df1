//! The binary `quorate`: reads the command line, runs one subcommand, tells how it ended.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use mimalloc::MiMalloc;
use quorate_node::args::Cli;
use quorate_node::commands;

/// A request is a few dozen short-lived allocations on several threads.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the async runtime")?;
    let end = runtime.block_on(commands::run(cli.command));
    // A thread that still waits for a disk must not hold up the exit.
    runtime.shutdown_background();
    Ok(end?)
}

/// The error and its causes, each on a line; but for causes that the line above ends with.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}\n  because: {cause}");
        }
    }
    text
}
