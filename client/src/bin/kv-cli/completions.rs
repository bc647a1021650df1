//! `completions`: a script for the user's own shell, generated from the command line's definition.

use std::io::{self, Write as _};

use anyhow::Result;
use clap::CommandFactory as _;

use crate::args::{Args, CompletionsArgs};
use crate::failure::Exit;

/// Prints the script.
pub(crate) fn run(args: CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "kv-cli", &mut script);
    let mut out = io::stdout().lock();
    out.write_all(&script)?;
    out.flush()?;
    Ok(Exit::Done)
}
