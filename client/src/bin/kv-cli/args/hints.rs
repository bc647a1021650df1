//! `kv-cli hints` and `kv-cli hints await`.

use clap::Subcommand;

/// Show the hints that members keep for others
///
/// A hint is a write that a member missed, and gets once it is back. Members that do not answer are
/// told on stderr: what they keep is not among the hints.
#[derive(clap::Args, Debug)]
#[command(after_help = HINTS_HELP)]
pub(crate) struct HintsArgs {
    /// Only those for this member
    #[arg(long, global = true, value_name = "NODE")]
    pub(crate) target: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Option<HintsCommand>,
}

const HINTS_HELP: &str =
    "json: {\"queues\":[{\"holder\",\"target\",\"count\",\"bytes\",\"oldest_seconds\"}]}, and \
\"unreachable\":[..] if a member does not answer, \"full\":[..] if one keeps no more

Examples:
  kv-cli hints
  kv-cli hints --target node-2 --output json
  kv-cli hints await --timeout 1m";

#[derive(Subcommand, Debug)]
pub(crate) enum HintsCommand {
    /// Wait until the hints that are there now are delivered
    ///
    /// With --timeout no longer than that, else as long as it takes. Hints that come meanwhile are not
    /// waited for. Exit code 2 if the time is up, with what is left on stderr, or if a member did not
    /// answer at the beginning: nobody knows what it keeps.
    #[command(after_help = "json: {\"delivered\",\"left\",\"unreachable\"}

Examples:
  kv-cli hints await
  kv-cli hints await --target node-2 --timeout 1m")]
    Await,
}
