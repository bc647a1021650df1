//! `kv-cli expire`, `persist` and `ttl`.

use std::ffi::OsString;

use quorate_client::{Durability, Level, Ttl};

use super::{QuorumArgs, parse};

/// How the value of a key is written again.
#[derive(clap::Args, Debug)]
pub(crate) struct ExpiryArgs {
    /// How many replicas must acknowledge [default: the namespace's]
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) w: Option<Level>,
    /// When a replica may acknowledge: buffered survives the process, synced a power cut
    /// [default: the namespace's]
    #[arg(long, value_name = "buffered|synced")]
    pub(crate) durability: Option<Durability>,
    #[command(flatten)]
    pub(crate) quorum: QuorumArgs,
}

/// Let the value of a key expire, counted from now
///
/// The value that a quorum of owners holds is written again, with a new end. Of two at once the later
/// end counts; in an lww namespace, the last one. Exit code 1 if the key has no value; it fails if it
/// has several: write one in their place first.
#[derive(clap::Args, Debug)]
#[command(after_help = EXPIRE_HELP)]
pub(crate) struct ExpireArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: String,
    /// The key; after -- if it begins with a hyphen
    pub(crate) key: OsString,
    /// How long the value is to live: 500ms, 10s, 5m, 12h, 30d, up to 3650d; or never
    #[arg(value_parser = parse::ttl, allow_hyphen_values = true)]
    pub(crate) ttl: Ttl,
    #[command(flatten)]
    pub(crate) how: ExpiryArgs,
}

const EXPIRE_HELP: &str = "Without --sloppy or --strict it is as the namespace says.
json: context, siblings, receipt; all as of put

Examples:
  kv-cli expire sessions alice 30m
  kv-cli expire sessions alice never";

/// Let the value of a key live until it is replaced
///
/// As expire with never. Exit code 1 if the key has no value.
#[derive(clap::Args, Debug)]
#[command(after_help = PERSIST_HELP)]
pub(crate) struct PersistArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: String,
    /// The key; after -- if it begins with a hyphen
    pub(crate) key: OsString,
    #[command(flatten)]
    pub(crate) how: ExpiryArgs,
}

const PERSIST_HELP: &str = "Without --sloppy or --strict it is as the namespace says.
json: context, siblings, receipt; all as of put

Examples:
  kv-cli persist sessions alice";

/// Show how long the value of a key has to live
///
/// By the clock of the node that answers. Of several siblings each has a line. Exit code 1 if the key
/// has no value, or it has expired.
#[derive(clap::Args, Debug)]
#[command(after_help = TTL_HELP)]
pub(crate) struct TtlArgs {
    /// The namespace
    #[arg(value_name = "NS")]
    pub(crate) namespace: String,
    /// The key; after -- if it begins with a hyphen
    pub(crate) key: OsString,
    /// How many replicas must answer [default: the namespace's]
    #[arg(short, long, value_name = "LEVEL")]
    pub(crate) r: Option<Level>,
    #[command(flatten)]
    pub(crate) quorum: QuorumArgs,
}

const TTL_HELP: &str = "Without --sloppy or --strict it is as the namespace says.
json: {\"siblings\":[{\"ttl_ms\",\"expires_ms\"}]}: milliseconds from now, and since the Unix epoch; both \
null of a value that does not expire

Examples:
  kv-cli ttl sessions alice
  kv-cli ttl sessions alice --output json";
