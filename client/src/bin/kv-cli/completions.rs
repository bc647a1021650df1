//! `completions`: a script for the user's own shell, generated from the command line's definition.

use std::io::{self, Write as _};

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::{Args, CompletionsArgs};
use crate::failure::Exit;

/// In the script for bash, generated names and the cases that look for them differ if the program's
/// name has a hyphen: so it is generated under one without, which stands nowhere else.
const PLAIN: &str = "kvcli";

/// Prints the script.
pub(crate) fn run(args: CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    let name = if args.shell == Shell::Bash { PLAIN } else { "kv-cli" };
    clap_complete::generate(args.shell, &mut Args::command(), name, &mut script);
    let script = String::from_utf8(script)?.replace(PLAIN, "kv-cli");
    let mut out = io::stdout().lock();
    out.write_all(script.as_bytes())?;
    out.flush()?;
    Ok(Exit::Done)
}
