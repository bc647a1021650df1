//! `kv-cli`: Quorate from a shell.
//!
//! One command, one exit code: 0 found or done, 1 not found, 2 an error whose reason is on stderr,
//! 3 an outcome that stays unknown (`resolve`), 130 after Ctrl-C.
//! Results go to stdout as text for people or as json for scripts; everything else goes to stderr.
//! [`args`] is the contract, [`commands`] the short commands; `import`, `export` and `bench` are
//! programs of their own, and [`shell`] runs lines of them all. All of them talk to the cluster through the public SDK alone.

mod args;
mod bench;
mod commands;
mod completions;
mod export;
mod failure;
mod formats;
mod import;
mod output;
mod progress;
mod shell;
mod stderr;
mod style;

#[cfg(test)]
#[path = "../../fake.rs"]
#[allow(dead_code)]
mod fake;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
// For `fake`, which is of the library's tests too.
#[cfg(test)]
use quorate_client::{Client, ClientConfig};

use crate::args::{Args, TopCommand};
use crate::failure::Exit;
use crate::style::Surroundings;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let args = match Args::of(&words) {
        Ok(args) => args,
        Err(error) => {
            let json = asks_for_json(&words);
            stderr::set_style(json, false);
            return failure::refuse(&error, json).into();
        }
    };
    let color = Surroundings::of_stderr().wants_color(args.global.color);
    stderr::set_style(args.global.output.is_json(), color);
    run(args).unwrap_or_else(|error| failure::report(&error)).into()
}

/// Whether a command line that does not parse wants its errors as json.
fn asks_for_json(args: &[OsString]) -> bool {
    let apart = |pair: &[OsString]| pair[0] == "--output" && pair[1] == "json";
    args.windows(2).any(apart) || args.iter().any(|arg| arg == "--output=json")
}

fn run(args: Args) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start")?;
    let result = match args.command {
        TopCommand::Completions(args) => completions::run(args),
        // Ctrl-C ends what it runs, not the shell.
        TopCommand::Shell(shell) => runtime.block_on(shell::run(args.global, shell)),
        TopCommand::One(command) => runtime.block_on(async {
            tokio::select! {
                result = commands::run(&args.global, command) => result,
                _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
            }
        }),
    };
    // A thread may still wait for input that never comes: leave it behind.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognised_in_a_line_that_does_not_parse() {
        let asks =
            |line: &str| asks_for_json(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(asks("kv-cli frobnicate --output json"));
        assert!(asks("kv-cli --output=json frobnicate"));
        assert!(!asks("kv-cli put ns json --output text"));
    }
}
