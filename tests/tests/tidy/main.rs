//! Rules of the house that no compiler checks, each as one test whose message says what to do.
//!
//! ```text
//!   direction   who may use whom: modules of the node, packages of the workspace
//!   purity      the protocol is code without IO, clocks, randomness and hash order
//!   habits      sizes, docs at the top, nothing left over, links that lead somewhere
//!   packages    licences, duplicates, a sentence for each dependency
//! ```
//!
//! What clippy can check is clippy's (`.clippy.toml`, `[workspace.lints]`). The scan is textual: it
//! drops comments, but does not parse, so a string that looks like code counts as code.

mod direction;
mod habits;
mod packages;
mod purity;
mod source;

use std::fmt::Display;

/// Fails with one line per offence, under what to do about them.
#[track_caller]
fn assert_none<T: Display>(offences: impl IntoIterator<Item = T>, what_to_do: &str) {
    let lines: Vec<String> = offences.into_iter().map(|offence| format!("  {offence}")).collect();
    assert!(lines.is_empty(), "\n{what_to_do}\n{}\n", lines.join("\n"));
}
