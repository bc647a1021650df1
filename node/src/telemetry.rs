//! What a node says of itself: log lines and metrics.
//!
//! No global state but the one log subscriber of the process: each node has its own [`Metrics`],
//! so that several of them can live in one test.

mod disk;
mod exchange;
mod expiry;
mod handoff;
mod hints;
mod limits;
mod metrics;
mod staleness;
mod tls;
mod trees;

use std::io;

use tracing_subscriber::EnvFilter;

pub use self::disk::DiskMetrics;
pub use self::handoff::HandoffMetrics;
pub use self::hints::{HintMetrics, QueueSize};
pub use self::limits::LimitMetrics;
pub use self::metrics::{Metrics, Operation, OutcomeLabel, ShardMetrics};
pub use self::staleness::{AgeSummary, Ages, StalenessMetrics};
pub use self::tls::TlsMetrics;
use crate::config::{Config, LogFormat};

/// What the storage engine says of its daily work is no news, unless `log_level` asks for it.
const QUIET: &str = "fjall=warn,lsm_tree=warn,sled=warn";

/// Sends log lines to stderr from now on, by `log_level` and `log_format`; once a process.
///
/// A second call changes nothing.
pub fn start_logging(config: &Config) {
    let directives = format!("{QUIET},{}", config.log_level);
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match config.log_format {
        LogFormat::Text => lines.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    drop(started);
}
