//! Harnesses: [`sim`] runs the real code on one thread from one seed; [`checkers`] judge what came of
//! it, or of any run whose [`history`] was written down; the rest are clusters of real processes, for
//! tests that see what a user sees.
//!
//! A test of processes starts a [`Cluster`] or a [`DevCluster`], runs `kv-cli` against it, kills nodes and starts
//! them again, and looks at exit codes, output, logs and data. Four rules keep such tests honest:
//!
//! - they wait for conditions ([`until`]), never for a time, and assert no duration;
//! - everything they use is theirs alone: [`PortBlock`]s are reserved across processes, data lives in
//!   temporary directories, and only processes that the harness started are ever signalled, by id;
//! - stories in which the engine matters are told once for each of [`ENGINES`], the others in fjall;
//! - nothing is left behind: a node stops when its stdin ends, which the operating system closes
//!   however the test process ends.

mod binaries;
pub mod checkers;
mod cli;
mod cluster;
mod dev;
pub mod history;
mod http;
mod ports;
mod process;
pub mod rows;
pub mod sim;
mod wait;

pub use binaries::{Binaries, binaries, cargo};
pub use cli::{Cli, Ran};
pub use cluster::{Cluster, ClusterSpec, Node, quorate};
pub use dev::DevCluster;
pub use http::page;
pub use ports::PortBlock;
pub use process::{command, go_on, interrupt, kill, pause, terminate, wait_for_exit};
/// The engines on disk, by their names.
pub const ENGINES: [&str; 2] = ["fjall", "sled"];

pub use wait::{PATIENCE, until};
