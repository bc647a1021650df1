//! The command line of `quorate`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use serde::Serialize;

use crate::config::{ConfigError, Effective, EngineKind, Sources};

/// A node of Quorate, a leaderless key-value store.
#[derive(Clone, Debug, Parser)]
#[command(name = "quorate", version, propagate_version = true, max_term_width = 100)]
#[command(arg_required_else_help = true)]
#[command(after_help = "\
A cluster to try out, on this machine:
  quorate dev

A cluster of three machines a, b and c:
  quorate serve --config node.toml                 on each
  quorate init --members a:7501,b:7501,c:7501      once, from anywhere

Exit code: 0 done, 1 stopped without finishing, 2 error (its reason is on stderr).")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `quorate` can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run a node until it is told to stop (Ctrl-C or SIGTERM)
    #[command(after_help = "\
Every key of the configuration file can also be set in the environment (weight as QUORATE_WEIGHT)
or by a flag, which win over the file in that order. One that nobody reads is warned of. A SIZE is
a number of bytes, or has a unit: 64KiB, 100MiB, 2GiB.

Examples:
  quorate serve --config node.toml
  quorate serve --config node.toml --log-level debug
  quorate serve --config node.toml --rebuild       after it said that its store does not open
  QUORATE_NODE_NAME=a QUORATE_DATA_DIR=/var/lib/quorate quorate serve")]
    Serve(ServeArgs),

    /// Validate a node's configuration and print what is in effect, and why
    #[command(after_help = "\
Prints every key as TOML with where its value came from. Exit code 2: the configuration is invalid.

Example:
  quorate check --config node.toml")]
    Check(ConfigArgs),

    /// Make a cluster of running nodes: once, for ever
    #[command(after_help = "\
Asks every member who it is, makes the cluster's first document and gives it to all of them. Refuses
when a member cannot be reached or belongs to another cluster. After a partial failure run the same
command again: members that have the document keep it, the others get it.

Examples:
  quorate init --members a:7501,b:7501,c:7501
  quorate init --members a:7501,b:7501,c:7501,d:7501 --voters node-a,node-b,node-c
  quorate init --members a:7501 --peer-tls-ca ca.pem --peer-tls-cert a.pem --peer-tls-key a.key")]
    Init(InitArgs),

    /// Make certificates: a development CA, and what nodes and clients show
    #[command(after_help = "\
Writes DIR/ca.pem and ca.key, DIR/NAME.pem and NAME.key for each node, DIR/clients/NAME.pem and
NAME.key for each client. A CA that is there is used again, so that the same command renews
certificates and adds nodes. Prints what to write into each node's configuration.

A node's certificate is valid for its hosts, which clients dial, and has the URI quorate://node/NAME,
by which other nodes know it.

Examples:
  quorate certs --out certs --node node-1=10.0.0.1 --node node-2=10.0.0.2 --node node-3=10.0.0.3
  quorate certs --out certs --node node-4=10.0.0.4,db4.example.org       one more, later
  quorate certs --out certs --client alice                               for kv-cli --tls-cert")]
    Certs(CertsArgs),

    /// Run a whole cluster on this machine, to try things out
    #[command(after_help = "\
Node I listens on 127.0.0.1: for clients on port base+I, for other nodes on base+100+I, for HTTP on
base+200+I. Its configuration, data and log are in DIR/node-I. Ctrl-C stops all nodes. Started again
on the same DIR, the same cluster serves the same data.

Examples:
  quorate dev
  quorate dev --nodes 3 --data /tmp/quorate
  quorate dev --tls
  kill -9 PID        then    quorate serve --config /tmp/quorate/node-2/node.toml")]
    Dev(DevArgs),
}

/// Flags of `serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,

    /// If the store does not open, set it aside and refill a new one from the other nodes
    ///
    /// Nothing is deleted: what was there is in DATA-DIR/damaged-TIME afterwards. A store that opens is
    /// left alone. The node serves meanwhile, and counts in quorums for a partition when every other
    /// owner of it told what it holds: `kv-cli cluster status` says how far that is. A restart goes
    /// on with it, with or without this flag.
    #[arg(long)]
    pub rebuild: bool,

    /// Members that the rebuild does not wait for, since they are lost for good
    ///
    /// Nor does a node that is to catch up with all other owners, after a power cut say. Writes that only
    /// they and this node acknowledged are then no longer found.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub rebuild_without: Vec<String>,

    /// Stop when stdin ends: how the nodes of `quorate dev` end with their parent.
    #[arg(long, hide = true)]
    pub stop_on_stdin_eof: bool,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file, TOML; deploy/node.toml explains every key
    #[arg(long, short, value_name = "FILE", env = "QUORATE_CONFIG")]
    pub config: Option<PathBuf>,

    /// The other flags.
    #[command(flatten)]
    pub overrides: Overrides,
}

impl ConfigArgs {
    /// Reads the file and this process's environment, and adds the flags.
    pub fn load(self) -> Result<Effective, ConfigError> {
        Sources::of_process(self.config).with_flags(&self.overrides).load()
    }
}

/// A number of bytes, or a size with a unit. A file holds no larger number.
fn size(text: &str) -> Result<u64, String> {
    let bytes = quorate_proto::size::parse(text)?;
    if i64::try_from(bytes).is_err() {
        return Err(format!("'{text}' is too large"));
    }
    Ok(bytes)
}

/// One flag for each key of the configuration.
#[derive(Clone, Default, Debug, Args, Serialize)]
#[command(next_help_heading = "Configuration")]
#[serde(rename_all = "snake_case")]
pub struct Overrides {
    /// The node's name, unique in the cluster
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// What fails together with this node
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Share of the data relative to other members, 1..=100
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Where the data lives
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The storage engine
    #[arg(long, value_parser = EngineKind::ALL.map(EngineKind::name))]
    engine: Option<String>,
    /// Memory for blocks read from disk
    #[arg(long, value_name = "SIZE", value_parser = size)]
    cache_bytes: Option<u64>,
    /// What is to stay free on the disk
    #[arg(long, value_name = "SIZE", value_parser = size)]
    disk_reserve_bytes: Option<u64>,
    /// How much is kept at most for other nodes that are away
    #[arg(long, value_name = "SIZE", value_parser = size)]
    hints_max_bytes: Option<u64>,
    /// Where to listen for clients
    #[arg(long, value_name = "HOST:PORT")]
    client_address: Option<String>,
    /// Where to listen for other nodes
    #[arg(long, value_name = "HOST:PORT")]
    peer_address: Option<String>,
    /// Where to listen for health checks and metrics
    #[arg(long, value_name = "HOST:PORT")]
    http_address: Option<String>,
    /// Under which address clients reach this node
    #[arg(long, value_name = "HOST:PORT")]
    client_advertise: Option<String>,
    /// Under which address other nodes reach this node
    #[arg(long, value_name = "HOST:PORT")]
    peer_advertise: Option<String>,
    /// Certificate shown to clients: TLS on the client port
    #[arg(long, value_name = "FILE")]
    client_tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE")]
    client_tls_key: Option<PathBuf>,
    /// CA of the certificates that clients must show
    #[arg(long, value_name = "FILE")]
    client_tls_ca: Option<PathBuf>,
    /// Certificate shown to other nodes: mutual TLS on the peer port
    #[arg(long, value_name = "FILE")]
    peer_tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE")]
    peer_tls_key: Option<PathBuf>,
    /// CA of the certificates of all nodes
    #[arg(long, value_name = "FILE")]
    peer_tls_ca: Option<PathBuf>,
    /// Peer addresses asked for the cluster's document
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',')]
    seeds: Option<Vec<String>>,
    /// Threads that own the data; 0: one a core
    #[arg(long, value_name = "N")]
    shards: Option<u32>,
    /// Requests that may wait for each shard
    #[arg(long, value_name = "N")]
    shard_queue: Option<u32>,
    /// How long a buffered write may wait for the disk, 1..=100
    #[arg(long, value_name = "MS")]
    sync_interval_ms: Option<u64>,
    /// How often values are compared with the other owners', by trees of hashes, 1000..=86400000
    #[arg(long, value_name = "MS")]
    trees_interval_ms: Option<u64>,
    /// How long after all records were read again that begins anew, 1000..=2592000000
    #[arg(long, value_name = "MS")]
    scrub_interval_ms: Option<u64>,
    /// How far the clock may be off for this node to order writes in lww namespaces
    #[arg(long, value_name = "MS")]
    clock_skew_max_ms: Option<u64>,
    /// Deadline of requests that name none
    #[arg(long, value_name = "MS")]
    request_timeout_ms: Option<u64>,
    /// The longest deadline that a client may ask for
    #[arg(long, value_name = "MS")]
    request_timeout_max_ms: Option<u64>,
    /// Client requests served at a time
    #[arg(long, value_name = "N")]
    requests_max: Option<u32>,
    /// Connections of clients at a time
    #[arg(long, value_name = "N")]
    connections_max: Option<u32>,
    /// Requests under way on one connection of a client
    #[arg(long, value_name = "N")]
    streams_max: Option<u32>,
    /// Memory for the engine and requests under way; 0: half of what there is
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_max_bytes: Option<u64>,
    /// The largest message accepted
    #[arg(long, value_name = "SIZE", value_parser = size)]
    message_max_bytes: Option<u64>,
    /// What is logged, on stderr
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How it is logged
    #[arg(long, value_parser = ["text", "json"])]
    log_format: Option<String>,
}

/// Flags of `init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// Peer addresses of all members
    #[arg(long, required = true, value_name = "HOST:PORT,..", value_delimiter = ',')]
    pub members: Vec<String>,

    /// Into how many partitions the keys are divided, for ever: a power of two in 8..=16384
    /// [default: 256]
    #[arg(long, value_name = "Q")]
    pub partitions: Option<u64>,

    /// Names of the members that vote on changes of the cluster, at most 7
    ///
    /// By default five members, or three, or one: the largest of these numbers that there are.
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub voters: Vec<String>,

    /// TLS.
    #[command(flatten)]
    pub tls: PeerTlsArgs,
}

/// Where the certificates are with which `init` talks to members, if they have TLS.
#[derive(Clone, Default, Debug, Args)]
#[command(next_help_heading = "TLS: those of any node, when the members have it")]
pub struct PeerTlsArgs {
    /// CA of the members' certificates
    #[arg(long, value_name = "FILE", env = "QUORATE_PEER_TLS_CA")]
    #[arg(requires_all = ["peer_tls_cert", "peer_tls_key"])]
    pub peer_tls_ca: Option<PathBuf>,
    /// A node's certificate
    #[arg(long, value_name = "FILE", env = "QUORATE_PEER_TLS_CERT")]
    #[arg(requires_all = ["peer_tls_ca", "peer_tls_key"])]
    pub peer_tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", env = "QUORATE_PEER_TLS_KEY")]
    #[arg(requires_all = ["peer_tls_ca", "peer_tls_cert"])]
    pub peer_tls_key: Option<PathBuf>,
}

/// Flags of `certs`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("whose").args(["nodes", "client"]).multiple(true).required(true))]
pub struct CertsArgs {
    /// The directory, made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,

    /// A node and the hosts under which clients reach it; without hosts, its name is one
    #[arg(long = "node", value_name = "NAME=HOST,..")]
    pub nodes: Vec<String>,

    /// A client, for nodes with client_tls_ca
    #[arg(long = "client", id = "client", value_name = "NAME")]
    pub clients: Vec<String>,

    /// How long certificates last; the CA lasts 3650 days
    #[arg(long, value_name = "N", default_value_t = 365)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,

    /// Make a new CA in place of the one that is there: all that it issued is refused from then on
    #[arg(long)]
    pub new_ca: bool,
}

/// Flags of `dev`.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// How many nodes, 1..=99 [default: 5, or as many as DIR has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=99))]
    pub nodes: Option<u16>,

    /// Where the nodes live [default: a temporary directory, deleted at the end]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Ports are counted from here, up to base+299 [default: 7400, or that of DIR]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_236))]
    pub base_port: Option<u16>,

    /// The storage engine [default: fjall, or that of DIR]
    #[arg(long, value_parser = EngineKind::ALL.map(EngineKind::name))]
    pub engine: Option<String>,

    /// Over how many zones the nodes are spread [default: 1, or as many as DIR has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=99))]
    pub zones: Option<u16>,

    /// TLS for clients and among nodes, with certificates made in DIR/certs
    #[arg(long)]
    pub tls: bool,

    /// Show what the cluster is for, and end: a node is killed and comes back, and no request fails
    ///
    /// Writes, kills one node with SIGKILL, goes on writing and reading, shows who stood in for it and
    /// what they keep, starts the node again, sees it catch up, and resolves a conflict. Each step tells
    /// the kv-cli command that does the same. Ends with a code other than 0 if one does not hold. Takes
    /// at least 4 nodes: three hold each key, and one stands in.
    #[arg(long)]
    pub tour: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use toml::Table;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_key_has_a_flag_and_every_flag_a_key() {
        let command = Cli::command();
        let check = command.find_subcommand("check").unwrap();
        let mut flags: Vec<_> = check.get_arguments().map(|arg| arg.get_id().as_str()).collect();
        flags.retain(|&flag| flag != "config");
        flags.sort_unstable();
        let keys = Table::try_from(Config::default()).unwrap();
        assert_eq!(flags, keys.keys().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn flags_reach_the_configuration() {
        let line = "quorate serve --weight 7 --seeds a:1,b:2 --engine memory --data-dir d \
                    --cache-bytes 32MiB";
        let Command::Serve(args) = Cli::parse_from(line.split(' ')).command else { panic!() };
        let sources = Sources::default().with_flags(&args.config.overrides);
        let effective = sources.load().unwrap();
        assert_eq!((effective.config.weight, effective.config.cache_bytes), (7, 32 << 20));
        assert_eq!(effective.config.seeds, ["a:1", "b:2"]);
        assert_eq!(effective.config.data_dir.to_str(), Some("d"));
        assert_eq!(effective.origin("engine").to_string(), "flag --engine");
        assert_eq!(effective.config.engine.name(), "memory");
        assert!(!args.stop_on_stdin_eof);
    }

    #[test]
    fn impossible_flags_are_refused_with_what_is_possible() {
        for (line, reason) in [
            ("quorate dev --nodes 0", "0 is not in 1..=99"),
            ("quorate dev --nodes 100", "100 is not in 1..=99"),
            ("quorate dev --base-port 65300", "65300 is not in 1..=65236"),
            ("quorate dev --engine rocks", "[possible values: fjall, sled, memory]"),
            ("quorate serve --weight x", "invalid value 'x' for '--weight <N>'"),
            (
                "quorate serve --cache-bytes 64MB8",
                "'64MB8' is no size; write for example 1000, 64KiB",
            ),
            ("quorate serve --memory-max-bytes 9999999999GiB", "is too large"),
            ("quorate serve --wieght 1", "unexpected argument '--wieght'"),
            ("quorate init", "--members <HOST:PORT,..>"),
            ("quorate certs --out d", "<--node <NAME=HOST,..>|--client <NAME>>"),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert!(error.to_string().contains(reason), "{line}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
