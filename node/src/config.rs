//! What an operator may choose, and what is wrong with a choice.
//!
//! Every key is flat, so that one rule names it everywhere:
//!
//! ```text
//!   in the file      in the environment     as a flag        later ones win
//!   weight = 20      QUORATE_WEIGHT=20      --weight 20
//!   seeds = ["a:1"]  QUORATE_SEEDS=a:1,b:1  --seeds a:1,b:1
//! ```
//!
//! `deploy/node.toml` lists every key with its default; a test keeps it true. What nobody needs to
//! change is a constant where it is used. Properties of data (copies, levels, sizes of values)
//! belong to namespaces and are no business of a node.

mod layers;
mod memory;
mod security;
mod sizes;
#[cfg(test)]
mod tests;
mod variables;

use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

pub use self::layers::{ConfigError, Effective, Origin, Problem, Sources};
pub use crate::storage::data_dir::EngineKind;

/// The most shards that are chosen by themselves: beyond, one disk's group commits only get
/// smaller.
const SHARDS_AUTO_MAX: usize = 16;

/// What the engine keeps of writes until they are in its tables: the memtables of fjall, each of
/// them once in use and once on its way to disk.
const ENGINE_BUFFERS_BYTES: u64 = (2 * (32 + 4 * 8)) << 20;

/// The least that is worth serving with: a few of the largest messages.
const REQUESTS_LEAST_BYTES: u64 = 64 << 20;

/// The ports of the defaults, for examples.
const CLIENT_EXAMPLE: u16 = 7401;
const PEER_EXAMPLE: u16 = 7501;
const HTTP_EXAMPLE: u16 = 7601;

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A node's configuration. [`Sources::load`] makes it; its values have been validated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The node's name, unique in the cluster and its identity in it. Default `node-1`.
    pub node_name: String,
    /// What fails together with this node: a rack, a room. Default `default`.
    pub zone: String,
    /// Share of the partitions relative to the other members, 1..=100. Default 10.
    pub weight: u32,
    /// Where the data lives; relative to the file that says so. Default `data`.
    pub data_dir: PathBuf,
    /// The storage engine. Default `fjall`.
    pub engine: EngineKind,
    /// Memory for blocks read from disk, in bytes. Default 64 MiB.
    #[serde(deserialize_with = "sizes::u64")]
    pub cache_bytes: u64,
    /// What is to stay free on the disk, in bytes: with less, writes are refused. Default 256 MiB.
    #[serde(deserialize_with = "sizes::u64")]
    pub disk_reserve_bytes: u64,
    /// How much is kept at most for other nodes that are away, in bytes of keys and objects; 0: nothing.
    /// Default 1 GiB.
    #[serde(deserialize_with = "sizes::u64")]
    pub hints_max_bytes: u64,
    /// HOST:PORT on which clients are served. Default `127.0.0.1:7401`.
    pub client_address: String,
    /// HOST:PORT on which other nodes are served. Default `127.0.0.1:7501`.
    pub peer_address: String,
    /// HOST:PORT of health and metrics. Default `127.0.0.1:7601`.
    pub http_address: String,
    /// HOST:PORT under which clients reach this node; empty: the address it listens on.
    pub client_advertise: String,
    /// HOST:PORT under which other nodes reach this node; empty: the address it listens on.
    pub peer_advertise: String,
    /// Certificate chain shown to clients, PEM; empty: clients speak without TLS. Paths are relative
    /// to the file that says so.
    pub client_tls_cert: PathBuf,
    /// Private key of `client_tls_cert`, PEM.
    pub client_tls_key: PathBuf,
    /// CA of the certificates that clients must show, PEM; empty: they need none.
    pub client_tls_ca: PathBuf,
    /// Certificate chain shown to other nodes, PEM; it names this node. Empty: nodes speak without
    /// TLS.
    pub peer_tls_cert: PathBuf,
    /// Private key of `peer_tls_cert`, PEM.
    pub peer_tls_key: PathBuf,
    /// CA of the certificates of all nodes, PEM.
    pub peer_tls_ca: PathBuf,
    /// Peer addresses asked for the cluster's document when this node has none. Default none.
    pub seeds: Vec<String>,
    /// Threads that own the data; 0: one a core, at most 16. Default 0.
    pub shards: u32,
    /// Requests that may wait for each shard. Default 1024.
    pub shard_queue: u32,
    /// How long a buffered write may wait for the disk, in milliseconds, 1..=100. Default 100.
    pub sync_interval_ms: u64,
    /// How often values are compared with those of the other owners, by trees of hashes, in milliseconds.
    /// Default 60000.
    pub trees_interval_ms: u64,
    /// How long after all records were read again that begins anew, in milliseconds. Default 86400000.
    pub scrub_interval_ms: u64,
    /// How far this node's clock may be off from the others' for it to order writes in `lww`
    /// namespaces, in milliseconds. Default 500.
    pub clock_skew_max_ms: u64,
    /// Deadline of requests that name none, in milliseconds. Default 5000.
    pub request_timeout_ms: u64,
    /// The longest deadline that a client may ask for, in milliseconds. Default 60000.
    pub request_timeout_max_ms: u64,
    /// Client requests served at a time; more are refused with a delay. Default 1024.
    pub requests_max: u32,
    /// Connections of clients at a time; more are closed. Default 1024.
    pub connections_max: u32,
    /// Requests under way on one connection of a client; more wait there. Default 1024.
    pub streams_max: u32,
    /// Memory for the engine and for requests under way, in bytes; 0: half of what there is.
    /// Default 0.
    #[serde(deserialize_with = "sizes::u64")]
    pub memory_max_bytes: u64,
    /// The largest message accepted from a client, in bytes. Default 16 MiB.
    #[serde(deserialize_with = "sizes::u32")]
    pub message_max_bytes: u32,
    /// What is logged: a level, or directives such as `info,quorate_node=debug`. Default `info`.
    pub log_level: String,
    /// How it is logged. Default `text`.
    pub log_format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_name: "node-1".to_owned(),
            zone: "default".to_owned(),
            weight: 10,
            data_dir: PathBuf::from("data"),
            engine: EngineKind::Fjall,
            cache_bytes: 64 << 20,
            disk_reserve_bytes: 256 << 20,
            hints_max_bytes: 1 << 30,
            client_address: "127.0.0.1:7401".to_owned(),
            peer_address: "127.0.0.1:7501".to_owned(),
            http_address: "127.0.0.1:7601".to_owned(),
            client_advertise: String::new(),
            peer_advertise: String::new(),
            client_tls_cert: PathBuf::new(),
            client_tls_key: PathBuf::new(),
            client_tls_ca: PathBuf::new(),
            peer_tls_cert: PathBuf::new(),
            peer_tls_key: PathBuf::new(),
            peer_tls_ca: PathBuf::new(),
            seeds: Vec::new(),
            shards: 0,
            shard_queue: 1024,
            sync_interval_ms: 100,
            trees_interval_ms: 60_000,
            scrub_interval_ms: 86_400_000,
            clock_skew_max_ms: 500,
            request_timeout_ms: 5000,
            request_timeout_max_ms: 60_000,
            requests_max: 1024,
            connections_max: 1024,
            streams_max: 1024,
            memory_max_bytes: 0,
            message_max_bytes: 16 << 20,
            log_level: "info".to_owned(),
            log_format: LogFormat::Text,
        }
    }
}

impl Config {
    /// How many shards to run.
    pub fn shard_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        match self.shards {
            0 => cores().min(SHARDS_AUTO_MAX),
            shards => shards as usize,
        }
    }

    /// The most memory that the engine and all requests under way take, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let least = self.engine_memory_bytes() + REQUESTS_LEAST_BYTES;
        match self.memory_max_bytes {
            0 => (memory::available_bytes() / 2).max(least),
            bytes => bytes,
        }
    }

    /// What the engine takes of it, in bytes.
    pub fn engine_memory_bytes(&self) -> u64 {
        self.cache_bytes + ENGINE_BUFFERS_BYTES
    }

    /// Every key whose value is impossible, and why.
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        self.validate_names(&mut found);
        self.validate_numbers(&mut found);
        self.validate_addresses(&mut found);
        self.validate_tls(&mut found);
        if let Err(reason) = check_log_level(&self.log_level) {
            found.push(("log_level", reason));
        }
        found
    }

    fn validate_names(&self, found: &mut Vec<(&'static str, String)>) {
        for (key, value) in [("node_name", &self.node_name), ("zone", &self.zone)] {
            found.extend(check_name(value).err().map(|reason| (key, reason)));
        }
        if self.data_dir.as_os_str().is_empty() {
            found.push(("data_dir", "must name a directory".to_owned()));
        }
    }

    fn validate_numbers(&self, found: &mut Vec<(&'static str, String)>) {
        let ranges: [(&'static str, u64, RangeInclusive<u64>); 16] = [
            ("weight", self.weight.into(), 1..=100),
            ("cache_bytes", self.cache_bytes, 1 << 20..=1 << 40),
            ("disk_reserve_bytes", self.disk_reserve_bytes, 0..=1 << 50),
            ("hints_max_bytes", self.hints_max_bytes, 0..=1 << 50),
            ("shards", self.shards.into(), 0..=64),
            ("shard_queue", self.shard_queue.into(), 1..=65_536),
            ("sync_interval_ms", self.sync_interval_ms, 1..=100),
            ("trees_interval_ms", self.trees_interval_ms, 1_000..=86_400_000),
            ("scrub_interval_ms", self.scrub_interval_ms, 1_000..=2_592_000_000),
            ("clock_skew_max_ms", self.clock_skew_max_ms, 1..=60_000),
            ("request_timeout_ms", self.request_timeout_ms, 1..=600_000),
            ("request_timeout_max_ms", self.request_timeout_max_ms, 1..=3_600_000),
            ("requests_max", self.requests_max.into(), 1..=1_000_000),
            ("connections_max", self.connections_max.into(), 1..=1_000_000),
            ("streams_max", self.streams_max.into(), 1..=1_000_000),
            ("message_max_bytes", self.message_max_bytes.into(), 1 << 16..=1 << 30),
        ];
        for (key, value, allowed) in ranges {
            if !allowed.contains(&value) {
                let (least, most) = allowed.into_inner();
                found.push((key, format!("must be in {least}..={most}")));
            }
        }
        let (default, longest) = (self.request_timeout_ms, self.request_timeout_max_ms);
        if default > longest {
            let reason = format!("must be at least request_timeout_ms = {default}");
            found.push(("request_timeout_max_ms", reason));
        }
        self.validate_memory(found);
    }

    /// What is left for requests must hold a few of the largest.
    fn validate_memory(&self, found: &mut Vec<(&'static str, String)>) {
        let least = self.engine_memory_bytes() + REQUESTS_LEAST_BYTES;
        if self.memory_max_bytes != 0 && self.memory_max_bytes < least {
            let reason = format!(
                "must be 0 or at least {least}: cache_bytes, the engine's buffers, and 64 MiB for \
                 requests"
            );
            found.push(("memory_max_bytes", reason));
        }
    }

    fn validate_addresses(&self, found: &mut Vec<(&'static str, String)>) {
        let listen = [
            ("client_address", &self.client_address, CLIENT_EXAMPLE),
            ("peer_address", &self.peer_address, PEER_EXAMPLE),
            ("http_address", &self.http_address, HTTP_EXAMPLE),
        ];
        for (at, (key, address, example)) in listen.iter().enumerate() {
            match HostPort::parse(address, *example) {
                Err(reason) => found.push((key, reason)),
                Ok(HostPort { port: 0, .. }) => {}
                Ok(_) => {
                    if let Some((other, ..)) = listen[..at].iter().find(|(_, a, _)| a == address) {
                        found.push((key, format!("is {other} too; every port serves one thing")));
                    }
                }
            }
        }
        for (key, address, listen) in [
            ("client_advertise", &self.client_advertise, listen[0]),
            ("peer_advertise", &self.peer_advertise, listen[1]),
        ] {
            found.extend(advertised(address, listen).err().map(|reason| (key, reason)));
        }
        for seed in &self.seeds {
            if let Err(reason) = check_reachable(seed) {
                found.push(("seeds", format!("{seed:?} {reason}")));
            }
        }
    }
}

/// Checks that others can reach what this node will say of itself.
fn advertised(
    address: &str,
    (listen_key, listen, example): (&str, &String, u16),
) -> Result<(), String> {
    if !address.is_empty() {
        return HostPort::reachable(address, example).map(drop);
    }
    match HostPort::parse(listen, example) {
        Ok(host_port) if host_port.is_everywhere() => Err(format!(
            "must be set to HOST:PORT, since {listen_key} = {listen:?} listens on every interface \
             and says nothing of where others reach this node"
        )),
        _ => Ok(()),
    }
}

/// An address as written: a name or a number, and a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct HostPort<'a> {
    host: &'a str,
    port: u16,
}

impl<'a> HostPort<'a> {
    /// Reads it; what is wrong with it comes with an example of this port.
    fn parse(text: &'a str, example: u16) -> Result<Self, String> {
        let wanted = format!("must be HOST:PORT, such as 127.0.0.1:{example} or [::1]:{example}");
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wanted.clone())?;
        let port = port.parse().map_err(|_| format!("{wanted}, with a port in 0..=65535"))?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let valid = match bracketed {
            Some(inside) => inside.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '/', ' ', '[', ']', ',', '@']),
        };
        if valid { Ok(Self { host: bracketed.unwrap_or(host), port }) } else { Err(wanted) }
    }

    /// Like [`HostPort::parse`], of an address that others are to dial.
    fn reachable(text: &'a str, example: u16) -> Result<Self, String> {
        let address = Self::parse(text, example)?;
        if address.port == 0 {
            return Err("must have a port other than 0".to_owned());
        }
        if address.is_everywhere() {
            return Err("names every interface; name an address that others reach".to_owned());
        }
        Ok(address)
    }

    fn is_everywhere(self) -> bool {
        self.host.parse().is_ok_and(|address: IpAddr| address.is_unspecified())
    }
}

/// Directives of a filter; one without a target must be a level, or nothing would be logged.
fn check_log_level(directives: &str) -> Result<(), String> {
    const ADVICE: &str = "give error, warn, info, debug, trace or off";
    EnvFilter::try_new(directives).map_err(|error| format!("{error}; {ADVICE}"))?;
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    let known = |part: &&str| part.contains('=') || levels.contains(&&*part.to_lowercase());
    match directives.split(',').map(str::trim).find(|part| !known(part)) {
        Some(unknown) => Err(format!("{unknown:?} is no level; {ADVICE}")),
        None => Ok(()),
    }
}

/// Checks the name of a node, a zone or a client.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match (1..=64).contains(&name.len()) && name.bytes().all(plain) {
        true => Ok(()),
        false => Err("must be 1 to 64 letters, digits, '-', '_' or '.'".to_owned()),
    }
}

/// Checks the peer address of another node, which is to be dialled.
pub fn check_reachable(address: &str) -> Result<(), String> {
    HostPort::reachable(address, PEER_EXAMPLE).map(drop)
}
