//! What an engine keeps when its process, its disk or its files fail: every engine that has a disk,
//! opened as a node opens it.
//!
//! ```text
//!   kill    a child process acknowledges batches over a pipe and is killed with SIGKILL
//!   fsync   what is acknowledged as synced had been synced before, seen at the C library
//!   damage  flipped bits, zeros and truncated tails in files: an error, never a silent loss
//!   node    the same, of a whole node: what users and operators see of it
//!   full    the disk is full, or a sync fails: writes are refused, reads go on, nothing is lost
//! ```
//!
//! The workload, the damages and the moments are drawn from one seed: the same one each time, as far as
//! the scheduler lets it, since a change is judged by these tests. `QUORATE_CRASH_SEED` tries another
//! one, or one that failed again; `QUORATE_CRASH_ROUNDS` makes the runs longer.

mod child;
mod damage;
mod fsync;
mod full;
mod kill;
mod node;
mod shim;
mod store;
mod workload;

use std::io::{self, Write as _};

use quorate_node::storage::data_dir::EngineKind;

/// The engines that have a disk to lose.
fn disk_engines() -> impl Iterator<Item = EngineKind> {
    EngineKind::ALL.into_iter().filter(|kind| *kind != EngineKind::Memory)
}

/// A number from the environment, to run longer or once more.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// The seed of a run, which is printed, so that a failure can be had again.
fn seed(test: &str, kind: EngineKind) -> u64 {
    let seed = number("QUORATE_CRASH_SEED").unwrap_or(0);
    // Past the test's own capture of its output, which is lost where the system ends the process.
    let _said = writeln!(io::stderr(), "{test}, {kind}: QUORATE_CRASH_SEED={seed}");
    seed
}

/// How many rounds: some by default, more for who has the time.
fn rounds(default: u64) -> u64 {
    number("QUORATE_CRASH_ROUNDS").unwrap_or(default)
}
