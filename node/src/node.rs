//! Puts a node together: its directory, its replica, its sockets, its place in a cluster.
//!
//! ```text
//!   open the directory ► replica ► listen ► (wait for a document) ► connect to members ► ready
//!                                              │
//!           its own store, `quorate init`, or a seed that knows one
//! ```
//!
//! A node never makes a cluster by itself: without a document it answers that it is not ready, and
//! waits. This is the only file that knows everything.

mod join;
mod security;
mod store;
mod whereabouts;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, TryStreamExt as _};
use quorate_proto::v1;
use quorate_proto::v1::cluster_server::ClusterServer;
use quorate_proto::v1::kv_server::KvServer;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

pub use self::store::RebuildOptions;
use self::store::Store;
use crate::cluster::OpenError;
use crate::config::Config;
use crate::dynamo::key::NodeId;
use crate::dynamo::metadata::document::StoreId;
use crate::env::Env;
use crate::http::Readiness;
use crate::limits::Capacity;
use crate::limits::budget::Budget;
use crate::limits::concurrency::Concurrency;
use crate::replica::{EXCHANGE_EVERY, Ended, Replica, ReplicaParts, ReplicaSize};
use crate::service::cluster::ClusterService;
use crate::service::deadline::Timeouts;
use crate::service::kv::{KvService, NodeParts};
use crate::service::metered::{Meter, Metered};
use crate::standing::{CatchingUp, Progress};
use crate::storage::EngineError;
use crate::storage::data_dir::{DataDir, DataDirError, EngineKind};
use crate::storage::disk::{DiskProbe, DiskState};
use crate::telemetry::Metrics;
use crate::transport::capped::{
    self, Attended, Capped, ConnectionLimit, ConnectionObserver, Greeted,
};
use crate::transport::grpc::{self, Dialer, Limits, PeerService};
use crate::transport::tls::{self, PortTls, Secured, TlsError};
use crate::transport::{PeerError, Peers, Reply, Request, listener};

pub use self::security::Security;

/// How long requests that are under way may go on after the node was told to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// How long the replica may take to end after that.
const END: Duration = Duration::from_secs(2);

/// HTTP/2 windows of client connections: a few of the largest values by default.
const WINDOW_BYTES: u32 = 4 << 20;

/// The largest message about the cluster: it holds the name of a namespace and what is chosen for it.
const CLUSTER_MESSAGE_MAX_BYTES: usize = 64 << 10;

/// The largest headers of a request: many times what any client of gRPC sends.
const HEADERS_MAX_BYTES: u32 = 16 << 10;

/// A client that vanished without a word is noticed after both, and its connection closed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a node cannot run, or did not end well.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The data directory cannot be used; nothing in it was changed.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// What the store says of the cluster cannot be used; nothing was changed.
    #[error(transparent)]
    Metadata(#[from] OpenError),
    /// A store is to be rebuilt from a cluster that nobody told of. Nothing was changed.
    #[error(
        "the store in {} cannot be rebuilt, since nothing says where the other nodes are: name their \
         peer addresses as `seeds` (--seeds HOST:PORT,..); nothing was changed", path.display()
    )]
    NoWayToCluster {
        /// The data directory.
        path: PathBuf,
    },
    /// A certificate, key or CA is of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A port is in use, or the address is not this machine's.
    #[error("cannot listen on {key} = {address:?}: {source}; {}", advice_on_listening(key, source))]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// Its value.
        address: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// The node stopped by itself, since going on would have put data at risk.
    #[error("{reason}; the node stopped")]
    Failed {
        /// What happened.
        reason: String,
    },
    /// The disk was full, and has space again: start the node anew, so that its store is opened
    /// again.
    #[error("{reason}; there is space again")]
    Reopen {
        /// What had happened.
        reason: String,
    },
    /// The gRPC server ended.
    #[error("the server failed: {0}")]
    Server(#[from] tonic::transport::Error),
}

fn advice_on_listening(key: &str, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable if key == "http_address" => {
            "this machine has no such address: choose one that it has"
        }
        io::ErrorKind::AddrInUse => "stop what uses the port, or choose another",
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: choose one that it has, or 0.0.0.0 for all of them, and \
             tell under which it is reached as client_advertise or peer_advertise"
        }
        io::ErrorKind::PermissionDenied => {
            "choose a port above 1023, or allow the process to use this one"
        }
        _ => "correct the address",
    }
}

impl NodeError {
    /// Whether the store is damaged, so that it can be rebuilt.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::DataDir(error) if error.is_damage())
    }

    /// What the attempt to open a damaged store did to it. sled writes while it recovers, before our
    /// own checks see what it found.
    pub fn what_is_left(&self, engine: EngineKind) -> &'static str {
        match (self, engine) {
            (Self::DataDir(DataDirError::Engine { .. }), EngineKind::Sled) => {
                "sled may have changed its files while it tried to open them"
            }
            _ => "nothing was changed",
        }
    }

    /// Whether the store or a port is still in use.
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::DataDir(DataDirError::InUse { .. }) => true,
            Self::DataDir(DataDirError::Engine { source, .. }) => {
                matches!(source, EngineError::Locked { .. })
            }
            Self::Listen { source, .. } => source.kind() == io::ErrorKind::AddrInUse,
            _ => false,
        }
    }
}

/// Where a node listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// For clients.
    pub client: SocketAddr,
    /// For other nodes.
    pub peer: SocketAddr,
}

/// A running node.
pub struct Node {
    ready: watch::Receiver<Readiness>,
    addresses: Addresses,
    replica: Replica,
    servers: Vec<JoinHandle<Result<(), tonic::transport::Error>>>,
    stop: CancellationToken,
    /// Locks the directory until everything else has ended.
    directory: DataDir,
}

impl Node {
    /// Starts a node; it serves until `stop`.
    pub async fn start(
        config: Config,
        metrics: Arc<Metrics>,
        rebuild: RebuildOptions,
        stop: CancellationToken,
    ) -> Result<Self, NodeError> {
        let env = Env::system();
        let security = Security::load(&config)?;
        let Store { directory, engine, known } = open_store(&config, rebuild.rebuild, &env).await?;
        let node = NodeId::of_name(&config.node_name);
        let store = StoreId(directory.store_id());
        let (client_incoming, client) = listen("client_address", &config.client_address).await?;
        let (peer_incoming, peer) = listen("peer_address", &config.peer_address).await?;
        let addresses = Addresses { client, peer };

        let peers = Arc::new(LatePeers::default());
        tokio::spawn(security.clone().follow(env.clone(), metrics.clone(), stop.clone()));
        let parts = ReplicaParts {
            node,
            store,
            engine,
            peers: peers.clone(),
            env,
            metrics: metrics.clone(),
            capacity: capacity_of(&config),
            probe: probe_of(&config),
            excused: rebuild.excused().collect(),
        };
        let capacity = parts.capacity.clone();
        let replica = Replica::start(parts, size_of(&config), stop.clone())?;
        let limits = Limits { budget: capacity.budget.clone(), ..Limits::default() };
        let identity = join::identity(&config, addresses, store);
        let bootstrap = join::Joining::new(identity.clone(), replica.cluster().clone());
        let service = PeerService::new(Arc::new(bootstrap), limits.clone(), stop.clone());
        let (set_joined, joined) = watch::channel(Readiness::not_ready(join::WAITING));
        let standings = replica.coordinator().standings();
        let serving = with_progress(joined, standings.progress(), standings.catching_up());
        let (set_ready, ready) = watch::channel(Readiness::not_ready(join::WAITING));
        tokio::spawn(tell_readiness(serving, replica.disk().changes(), set_ready));

        let peer_incoming = tls::secured(peer_incoming, security.peer.clone(), metrics.clone());
        let peer_server = grpc::server().add_service(service.clone().into_server());
        let stopped = stop.clone().cancelled_owned();
        let peer_server =
            tokio::spawn(peer_server.serve_with_incoming_shutdown(peer_incoming, stopped));
        let parts = service_parts(&config, &replica, metrics, capacity);
        let client_incoming =
            accept_clients(&config, client_incoming, security.client, &parts.metrics);
        let client_server = serve_clients(&config, parts, client_incoming, ready.clone(), &stop);
        tokio::spawn(join::join(join::Join {
            identity,
            listens: addresses.peer,
            seeds: join::seeds(&config, known.as_ref()),
            known,
            remember_in: store::remembers(&config).then(|| config.data_dir.clone()),
            standings: replica.coordinator().standings().clone(),
            excuses: !rebuild.without.is_empty(),
            env: replica.coordinator().env().clone(),
            dialer: Dialer::new(security.peer),
            node,
            store,
            opening: replica.coordinator().opening(),
            cluster: replica.cluster().clone(),
            handler: Arc::downgrade(replica.handler()),
            service,
            limits,
            peers,
            ready: set_joined,
            stop: stop.clone(),
        }));
        let servers = vec![client_server, peer_server];
        Ok(Self { ready, addresses, replica, servers, stop, directory })
    }

    /// Whether it serves.
    pub fn ready(&self) -> watch::Receiver<Readiness> {
        self.ready.clone()
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Waits until it was told to stop and has stopped, or stopped by itself.
    ///
    /// Requests under way get a moment to end; then what was applied is put on disk.
    pub async fn stopped(self) -> Result<(), NodeError> {
        let Self { replica, servers, stop, directory, .. } = self;
        let mut servers = futures::future::try_join_all(servers);
        let ended = tokio::select! {
            biased;
            ended = &mut servers => Some(ended),
            () = stop.cancelled() => tokio::time::timeout(DRAIN, &mut servers).await.ok(),
        };
        stop.cancel();
        drop(servers);
        let by_itself = replica.ended();
        let in_time = tokio::time::timeout(END, replica.stopped()).await;
        drop(directory);
        match (in_time, ended) {
            (Ok(Some(Ended::Failed(reason))), _) => Err(NodeError::Failed { reason }),
            (Ok(Some(Ended::Reopen(reason))), _) => Err(NodeError::Reopen { reason }),
            (Err(_), _) if by_itself.is_some() => {
                let reason = "the store could not be closed in time to be opened again".to_owned();
                Err(NodeError::Failed { reason })
            }
            (_, Some(Ok(results))) => {
                results.into_iter().collect::<Result<_, _>>().map_err(Into::into)
            }
            (_, Some(Err(panicked))) => Err(NodeError::Failed { reason: panicked.to_string() }),
            (_, None) => Ok(()),
        }
    }
}

async fn open_store(config: &Config, rebuild: bool, env: &Env) -> Result<Store, NodeError> {
    let (config, random) = (config.clone(), env.random());
    env.block(move || store::open(&config, rebuild, random)).await
}

/// What a node says of itself: whether it serves and, while it does, how far it is from counting.
fn with_progress(
    mut joined: watch::Receiver<Readiness>,
    mut progress: watch::Receiver<Option<Progress>>,
    mut catching: watch::Receiver<Option<CatchingUp>>,
) -> watch::Receiver<Readiness> {
    let (tell, told) = watch::channel(joined.borrow().clone());
    tokio::spawn(async move {
        loop {
            let rebuilding = progress.borrow_and_update().as_ref().map(Progress::to_string);
            let rebuilding = rebuilding.map(Readiness::Rebuilding);
            let catching_up = catching.borrow_and_update().as_ref().map(CatchingUp::to_string);
            let lacks = rebuilding.or(catching_up.map(Readiness::CatchingUp));
            let now = match (joined.borrow_and_update().clone(), lacks) {
                (Readiness::Ready, Some(lacks)) => lacks,
                (readiness, _) => readiness,
            };
            tell.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
            tokio::select! {
                changed = joined.changed() => if changed.is_err() { return },
                changed = progress.changed() => if changed.is_err() { return },
                changed = catching.changed() => if changed.is_err() { return },
            }
        }
    });
    told
}

async fn listen(key: &'static str, address: &str) -> Result<(TcpIncoming, SocketAddr), NodeError> {
    let failed = |source| NodeError::Listen { key, address: address.to_owned(), source };
    listener::bind(address).await.map_err(failed)
}

fn size_of(config: &Config) -> ReplicaSize {
    ReplicaSize {
        shards: config.shard_count(),
        queue: config.shard_queue as usize,
        sync_every: Duration::from_millis(config.sync_interval_ms),
        clock_skew_max: Duration::from_millis(config.clock_skew_max_ms),
        hints_max_bytes: config.hints_max_bytes,
        exchange_every: EXCHANGE_EVERY,
        trees_every: Duration::from_millis(config.trees_interval_ms),
        scrub_every: Duration::from_millis(config.scrub_interval_ms),
    }
}

/// A memory store has no disk that could fill.
fn probe_of(config: &Config) -> Option<DiskProbe> {
    let (directory, reserve_bytes) = (config.data_dir.clone(), config.disk_reserve_bytes);
    (config.engine != EngineKind::Memory).then_some(DiskProbe { directory, reserve_bytes })
}

/// Requests are to end in half of their time, so that what a retry or a queue takes is left to them.
fn capacity_of(config: &Config) -> Capacity {
    let target = Duration::from_millis(config.request_timeout_ms) / 2;
    let engine_bytes = config.engine_memory_bytes();
    Capacity {
        concurrency: Concurrency::new(config.requests_max, target),
        budget: Budget::new(config.memory_bytes() - engine_bytes),
        engine_bytes,
    }
}

impl ConnectionObserver for Metrics {
    fn open(&self, connections: usize) {
        self.limits().connections(connections);
    }

    fn refused(&self) {
        self.limits().connection_refused();
    }
}

/// The connections of clients, each with a place among them and its TLS, if there is one.
type Clients = BoxStream<'static, io::Result<Secured<Capped<TcpStream>>>>;

fn accept_clients(
    config: &Config,
    incoming: TcpIncoming,
    tls: Option<Arc<PortTls>>,
    metrics: &Arc<Metrics>,
) -> Clients {
    let connections = ConnectionLimit::new(config.connections_max as usize, metrics.clone());
    tls::secured(capped::capped(incoming, connections), tls, metrics.clone())
}

fn serve_clients(
    config: &Config,
    parts: NodeParts,
    incoming: Clients,
    ready: watch::Receiver<Readiness>,
    stop: &CancellationToken,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let parts = Arc::new(parts);
    let patience = parts.timeouts.longest;
    let incoming = incoming.map_ok(move |io| Attended::new(Greeted::new(io), patience));
    let limit = parts.message_max_bytes;
    let meter = Arc::new(Meter {
        budget: parts.capacity.budget.clone(),
        patience,
        node: parts.name.clone(),
        metrics: parts.metrics.clone(),
    });
    let kv = KvServer::new(KvService::new(parts.clone())).max_decoding_message_size(limit);
    let kv = Metered::new(kv, meter.clone());
    let cluster = ClusterServer::new(ClusterService::new(parts));
    let cluster = cluster.max_decoding_message_size(CLUSTER_MESSAGE_MAX_BYTES);
    let cluster = Metered::new(cluster, meter);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
        .build_v1()
        .expect("the descriptors are those that this program was built with");
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(reporter, ready, stop.clone()));
    let server = Server::builder()
        .max_concurrent_streams(config.streams_max)
        .http2_max_header_list_size(HEADERS_MAX_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .add_service(kv)
        .add_service(cluster)
        .add_service(health)
        .add_service(reflection);
    tokio::spawn(server.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()))
}

/// Ready is who has joined its cluster and takes writes. Others may still read here.
async fn tell_readiness(
    mut joined: watch::Receiver<Readiness>,
    mut disk: watch::Receiver<DiskState>,
    ready: watch::Sender<Readiness>,
) {
    loop {
        let now = match (joined.borrow_and_update().clone(), disk.borrow_and_update().clone()) {
            (joined, DiskState::Well) | (joined @ Readiness::NotReady(_), _) => joined,
            (_, refusal) => Readiness::not_ready(refusal.to_string()),
        };
        ready.send_replace(now);
        let changed = tokio::select! {
            changed = joined.changed() => changed,
            changed = disk.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Keeps the gRPC health service in step with the node.
async fn report_health(
    reporter: tonic_health::server::HealthReporter,
    mut ready: watch::Receiver<Readiness>,
    stop: CancellationToken,
) {
    loop {
        if ready.borrow_and_update().serves() {
            reporter.set_serving::<KvServer<KvService>>().await;
            reporter.set_serving::<ClusterServer<ClusterService>>().await;
        } else {
            reporter.set_not_serving::<KvServer<KvService>>().await;
            reporter.set_not_serving::<ClusterServer<ClusterService>>().await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = ready.changed() => if changed.is_err() { return },
        }
    }
}

/// The way to other nodes, before it is known which cluster this node belongs to.
#[derive(Default)]
struct LatePeers(OnceLock<Arc<dyn Peers>>);

impl Peers for LatePeers {
    fn request(
        &self,
        to: NodeId,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply, PeerError>> {
        match self.0.get() {
            Some(peers) => peers.request(to, request, timeout),
            None => {
                let reason = "this node belongs to no cluster yet".to_owned();
                std::future::ready(Err(PeerError::Disconnected { reason })).boxed()
            }
        }
    }

    fn connected(&self, node: NodeId) -> bool {
        self.0.get().is_some_and(|peers| peers.connected(node))
    }
}

/// What the handlers of client requests share.
fn service_parts(
    config: &Config,
    replica: &Replica,
    metrics: Arc<Metrics>,
    capacity: Capacity,
) -> NodeParts {
    NodeParts {
        name: config.node_name.clone(),
        coordinator: replica.coordinator().clone(),
        metrics,
        capacity,
        message_max_bytes: config.message_max_bytes as usize,
        requests: AtomicU64::new(0),
        timeouts: Timeouts {
            default: Duration::from_millis(config.request_timeout_ms),
            longest: Duration::from_millis(config.request_timeout_max_ms),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_on_an_address_names_no_key_that_it_does_not_have() {
        let advice = |key| advice_on_listening(key, &io::ErrorKind::AddrNotAvailable.into());
        assert!(advice("peer_address").contains("peer_advertise"));
        assert!(!advice("http_address").contains("advertise"), "{}", advice("http_address"));
    }
}
