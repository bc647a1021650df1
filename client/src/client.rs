//! A client of one cluster: what it knows of it, and how it asks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::{StreamExt as _, stream::FuturesUnordered};
use quorate_proto::v1::{self, error_detail::Kind};
use tokio::sync::Mutex;

use crate::{
    connection::{Calling, Connection},
    error::{Error, ErrorKind, Reach},
    namespace::Namespace,
    options::{NamespaceSpec, NamespaceUpdate},
    retry::{Backoff, Deadline, server_ms},
    route::{Routes, SLOW, Target, Tries},
    throttle::RetryBudget,
    tls::TlsConfig,
    topology::{Member, NamespaceDescription, Topology},
};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// HOST:PORT of any nodes of the cluster.
    pub endpoints: Vec<String>,
    /// How long each operation may take, its retries included.
    pub timeout: Duration,
    /// TLS with every node; none: without.
    pub tls: Option<TlsConfig>,
    /// Names every request of the client in the nodes' log lines: 1 to 64 visible ASCII characters.
    pub request_id: Option<String>,
    /// How many calls run at once on each node; others wait for their turn, a quarter of their time
    /// at most. Calls take as long as the way to the node and back, so a far node needs more.
    pub calls_at_once: usize,
}

impl ClientConfig {
    /// Connects to any of these, with the default timeout.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Self { endpoints, ..Self::default() }
    }
}

impl Default for ClientConfig {
    /// No endpoints, no TLS, no id, 256 calls at once on each node, and 5 s: as long as a server
    /// takes at most by default.
    fn default() -> Self {
        let timeout = Duration::from_secs(5);
        Self { endpoints: Vec::new(), timeout, tls: None, request_id: None, calls_at_once: 256 }
    }
}

/// A namespace that was made or changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangedNamespace {
    /// As it is now.
    pub namespace: NamespaceDescription,
    /// Members that could not be reached; they learn of it later.
    pub unreachable: Vec<String>,
}

/// A client of one cluster. Clones are cheap and share its connections.
#[derive(Clone)]
pub struct Client(pub(crate) Arc<Shared>);

impl Client {
    /// Learns the topology from the first endpoint that answers, within the timeout. They are asked in
    /// turn, but one that is slow is not waited for.
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        let deadline = Deadline::after(config.timeout);
        let ClientConfig { endpoints, timeout, tls, request_id, calls_at_once } = config;
        let calling = Calling::new(tls, request_id, calls_at_once)?;
        let seed = |address: &String| Connection::new(address, address, &calling);
        let seeds = endpoints.iter().map(seed).collect::<Result<Vec<_>, _>>()?;
        let routes = first_routes(&seeds, &calling, deadline).await?;
        Ok(Self(Arc::new(Shared::new(timeout, calling, seeds, routes))))
    }

    /// A cheap handle to a namespace, which need not exist yet.
    pub fn namespace(&self, name: impl Into<String>) -> Namespace {
        Namespace { client: self.clone(), name: name.into().into() }
    }

    /// The cluster as a node that can be reached knows it now.
    pub async fn topology(&self) -> Result<Arc<Topology>, Error> {
        let deadline = self.0.deadline(None);
        self.0.ask_topology(self.0.any(), deadline).await
    }

    /// The cluster as the node of this name knows it, asked of that very node, once.
    pub async fn describe_from(&self, node: &str) -> Result<Topology, Error> {
        let deadline = self.0.deadline(None);
        let node = self.0.node_named(node, deadline).await?;
        self.0.learn_from(&node, deadline.remaining()).await.map(Arc::unwrap_or_clone)
    }

    /// How long each operation that begins from now on may take, of all clones.
    pub fn set_timeout(&self, timeout: Duration) {
        self.0.timeout.store(Arc::new(timeout));
    }

    /// Makes a namespace. Returns once every member that can be reached has it.
    ///
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) says that there is one of this name. After an
    /// error that [may be retried](Error::is_retryable) it may have come to be all the same: list the
    /// namespaces.
    pub async fn create_namespace(&self, spec: NamespaceSpec) -> Result<ChangedNamespace, Error> {
        spec.default_ttl.check()?;
        let deadline = self.0.deadline(None);
        let request = v1::CreateNamespaceRequest {
            quorum: spec.quorum.to_wire(),
            name: spec.name,
            n: spec.n.unwrap_or(0),
            r: spec.r.to_wire(),
            w: spec.w.to_wire(),
            conflict: spec.conflict.to_wire(),
            durability: spec.durability.to_wire(),
            value_max_bytes: spec.value_max_bytes.unwrap_or(0),
            default_ttl: spec.default_ttl.to_wire(),
            timeout_ms: 0,
        };
        let call = |node: Arc<Connection>, limit| {
            let (request, mut cluster) = (request.clone(), node.cluster());
            async move {
                let create = |left| async move {
                    let timeout_ms = server_ms(left);
                    let request = v1::CreateNamespaceRequest { timeout_ms, ..request };
                    cluster.create_namespace(request).await
                };
                node.call(limit, create).await
            }
        };
        let reply = self.0.ask_once(deadline, call).await?;
        // The namespace is there whether or not this client learns of it at once.
        let _ = self.0.refresh(deadline).await;
        let v1::CreateNamespaceReply { namespace, unreachable } = reply;
        Ok(ChangedNamespace { namespace: described(namespace)?, unreachable })
    }

    /// Gives a namespace other defaults. Returns once every member that can be reached has them. To
    /// ask for what is so already is no error.
    ///
    /// After an error that [may be retried](Error::is_retryable) the change may have come to be all
    /// the same: describe the namespace.
    pub async fn update_namespace(
        &self,
        update: NamespaceUpdate,
    ) -> Result<ChangedNamespace, Error> {
        update.default_ttl.check()?;
        let deadline = self.0.deadline(None);
        let request = v1::UpdateNamespaceRequest {
            name: update.name,
            r: update.r.to_wire(),
            w: update.w.to_wire(),
            durability: update.durability.to_wire(),
            value_max_bytes: update.value_max_bytes.unwrap_or(0),
            default_ttl: update.default_ttl.to_wire(),
            quorum: update.quorum.to_wire(),
            timeout_ms: 0,
        };
        let call = |node: Arc<Connection>, limit| {
            let (request, mut cluster) = (request.clone(), node.cluster());
            async move {
                let change = |left| async move {
                    let timeout_ms = server_ms(left);
                    let request = v1::UpdateNamespaceRequest { timeout_ms, ..request };
                    cluster.update_namespace(request).await
                };
                node.call(limit, change).await
            }
        };
        let reply = self.0.ask_once(deadline, call).await?;
        // It is changed whether or not this client learns of it at once.
        let _ = self.0.refresh(deadline).await;
        let v1::UpdateNamespaceReply { namespace, unreachable } = reply;
        Ok(ChangedNamespace { namespace: described(namespace)?, unreachable })
    }

    /// Every namespace.
    pub async fn list_namespaces(&self) -> Result<Vec<NamespaceDescription>, Error> {
        let deadline = self.0.deadline(None);
        let call = |node: Arc<Connection>, limit| async move {
            let mut cluster = node.cluster();
            let list =
                |_| async move { cluster.list_namespaces(v1::ListNamespacesRequest {}).await };
            node.call(limit, list).await
        };
        let reply = self.0.ask(self.0.any(), deadline, call).await?;
        Ok(reply.namespaces.into_iter().map(NamespaceDescription::from).collect())
    }

    /// One namespace.
    pub async fn describe_namespace(&self, name: &str) -> Result<NamespaceDescription, Error> {
        self.0.describe_namespace(name, self.0.deadline(None)).await
    }

    /// Drops a namespace and every key in it. Answers the names of the members that could not be
    /// reached; they learn of it later.
    pub async fn drop_namespace(&self, name: &str) -> Result<Vec<String>, Error> {
        let deadline = self.0.deadline(None);
        let call = |node: Arc<Connection>, limit| async move {
            let mut cluster = node.cluster();
            let drop = |left| async move {
                let (name, timeout_ms) = (name.to_owned(), server_ms(left));
                cluster.drop_namespace(v1::DropNamespaceRequest { name, timeout_ms }).await
            };
            node.call(limit, drop).await
        };
        let reply = self.0.ask_once(deadline, call).await?;
        // It is gone whether or not this client learns of it at once.
        let _ = self.0.refresh(deadline).await;
        Ok(reply.unreachable)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("cluster", &self.0.routes().topology.cluster_id).finish()
    }
}

/// What all clones of a client share.
pub(crate) struct Shared {
    timeout: ArcSwap<Duration>,
    calling: Calling,
    seeds: Vec<Arc<Connection>>,
    routes: ArcSwap<Routes>,
    /// When the last refresh began. Held while one runs, so that those who find the topology
    /// stale at once share one answer: the first that was asked for after they did.
    refreshed: Mutex<Instant>,
    /// This client in operation ids.
    pub(crate) id: u64,
    /// What retries of all requests share.
    pub(crate) retries: RetryBudget,
    sequence: AtomicU64,
    turn: AtomicUsize,
}

impl Shared {
    /// A failing node does not make every request ask for the topology.
    const REFRESH_PAUSE: Duration = Duration::from_secs(1);
    /// Notices in time what no error tells, such as a namespace dropped and made again.
    const REFRESH_AGE: Duration = Duration::from_secs(30);
    /// The same while a member is said to be away: it is to have its load again when it is back.
    const DOUBT_AGE: Duration = Duration::from_secs(5);

    fn new(
        timeout: Duration,
        calling: Calling,
        seeds: Vec<Arc<Connection>>,
        routes: Routes,
    ) -> Self {
        Self {
            timeout: ArcSwap::from_pointee(timeout),
            calling,
            seeds,
            routes: ArcSwap::from_pointee(routes),
            refreshed: Mutex::new(Instant::now()),
            id: rand::random(),
            retries: RetryBudget::default(),
            sequence: AtomicU64::new(0),
            turn: AtomicUsize::new(rand::random_range(0..1024)),
        }
    }

    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Deadline {
        Deadline::after(self.timeout(timeout))
    }

    pub(crate) fn timeout(&self, timeout: Option<Duration>) -> Duration {
        timeout.unwrap_or_else(|| **self.timeout.load())
    }

    pub(crate) fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// The number of this client's next write.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Relaxed) + 1
    }

    /// Any member, each in its turn.
    pub(crate) fn any(&self) -> Target<'static> {
        Target::Any { turn: self.turn.fetch_add(1, Relaxed) }
    }

    /// Asks nodes until one answers, no retry can help, or the deadline passes.
    pub(crate) async fn ask<T, F: Future<Output = Result<T, Error>>>(
        self: &Arc<Self>,
        target: Target<'_>,
        deadline: Deadline,
        call: impl Fn(Arc<Connection>, Duration) -> F,
    ) -> Result<T, Error> {
        self.ask_paced(target, deadline, Backoff::default(), call).await
    }

    /// Like [`Self::ask`], pausing as told.
    pub(crate) async fn ask_paced<T, F: Future<Output = Result<T, Error>>>(
        self: &Arc<Self>,
        target: Target<'_>,
        deadline: Deadline,
        mut backoff: Backoff,
        call: impl Fn(Arc<Connection>, Duration) -> F,
    ) -> Result<T, Error> {
        let (mut tries, mut refreshed) = (Tries::default(), false);
        loop {
            let routes = self.routes();
            let Some(node) = tries.pick(&routes, &target) else {
                return Err(no_such_node());
            };
            let error = match call(Arc::clone(&node), deadline.share()).await {
                Ok(answer) => {
                    self.retries.on_success();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            tries.failed(&node, &error);
            if error.detail() == Kind::UnknownNamespace && !refreshed {
                refreshed = true;
                match target {
                    Target::Key { namespace, .. }
                        if self.still_knows(namespace, deadline).await => {}
                    _ => return Err(error),
                }
                tries.clear();
                continue;
            }
            let given_up = !error.is_retryable() || error.is_lasting_at(&target);
            let moves = tries.move_on(&routes, &target);
            if given_up || deadline.has_passed() || !self.retries.allows(&error, moves) {
                return Err(tries.reason(error, deadline));
            }
            self.refresh_soon();
            if tries.are_exhausted(&routes, &target) {
                if !backoff.pause(deadline, error.retry_after()).await {
                    return Err(tries.reason(error, deadline));
                }
                tries.clear();
            }
        }
    }

    /// Like [`Self::ask`], of what must not be done twice: a request that may have had an effect
    /// is not repeated.
    async fn ask_once<T, F: Future<Output = Result<T, Error>>>(
        self: &Arc<Self>,
        deadline: Deadline,
        call: impl Fn(Arc<Connection>, Duration) -> F,
    ) -> Result<T, Error> {
        let call = |node, _| {
            let attempt = call(node, deadline.remaining());
            async move {
                match attempt.await {
                    Err(error) if !had_no_effect(&error) => Ok(Err(error)),
                    other => other.map(Ok),
                }
            }
        };
        self.ask(self.any(), deadline, call).await?
    }

    async fn ask_topology(
        self: &Arc<Self>,
        target: Target<'_>,
        deadline: Deadline,
    ) -> Result<Arc<Topology>, Error> {
        let call =
            |node: Arc<Connection>, limit| async move { self.learn_from(&node, limit).await };
        self.ask(target, deadline, call).await
    }

    /// The routes, which name the namespace; or that there is none.
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        namespace: &str,
        deadline: Deadline,
    ) -> Result<Arc<Routes>, Error> {
        let routes = self.routes();
        if routes.topology.namespace(namespace).is_some() {
            let age = if routes.has_doubts() { Self::DOUBT_AGE } else { Self::REFRESH_AGE };
            if routes.learnt.elapsed() > age {
                self.refresh_soon();
            }
            return Ok(routes);
        }
        // A node asks for the newest topology before it denies a name; Describe would not.
        self.describe_namespace(namespace, deadline).await?;
        self.refresh(deadline).await
    }

    /// Whether a namespace that a node denied is in a topology asked for since.
    pub(crate) async fn still_knows(&self, namespace: &str, deadline: Deadline) -> bool {
        let routes = self.refresh(deadline).await;
        routes.is_ok_and(|routes| routes.topology.namespace(namespace).is_some())
    }

    async fn describe_namespace(
        self: &Arc<Self>,
        name: &str,
        deadline: Deadline,
    ) -> Result<NamespaceDescription, Error> {
        let call = |node: Arc<Connection>, limit| async move {
            let mut cluster = node.cluster();
            let request = v1::DescribeNamespaceRequest { name: name.to_owned() };
            let describe = |_| async move { cluster.describe_namespace(request).await };
            node.call(limit, describe).await
        };
        described(self.ask(self.any(), deadline, call).await?.namespace)
    }

    /// The id of the member of this name.
    pub(crate) async fn node_id(
        self: &Arc<Self>,
        name: &str,
        deadline: Deadline,
    ) -> Result<u64, Error> {
        self.member(name, deadline).await.map(|member| member.id)
    }

    /// The member of this name, by a new topology if the present one has none.
    pub(crate) async fn member(
        self: &Arc<Self>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Member, Error> {
        if let Some(member) = self.routes().topology.member(name) {
            return Ok(member.clone());
        }
        let routes = self.refresh(deadline).await?;
        routes.topology.member(name).cloned().ok_or_else(|| {
            let mut names: Vec<_> = routes.topology.members.iter().map(|m| &*m.name).collect();
            names.sort_unstable();
            let message = format!("no member is called {name:?}; there are {}", names.join(", "));
            Error::new(ErrorKind::NotFound, message).advising(Some("check the name"))
        })
    }

    /// Refreshes the topology in the background, unless that was just done.
    pub(crate) fn refresh_soon(self: &Arc<Self>) {
        let is_due = |begun: &Instant| begun.elapsed() > Self::REFRESH_PAUSE;
        if self.refreshed.try_lock().is_ok_and(|begun| is_due(&begun)) {
            let shared = Arc::clone(self);
            tokio::spawn(async move { shared.refresh(shared.deadline(None)).await });
        }
    }

    /// Learns the topology anew. Callers at the same time share one answer.
    pub(crate) async fn refresh(&self, deadline: Deadline) -> Result<Arc<Routes>, Error> {
        let asked = Instant::now();
        let refresh = async {
            let mut refreshed = self.refreshed.lock().await;
            if *refreshed < asked {
                let begun = Instant::now();
                self.learn_from_any(deadline).await?;
                *refreshed = begun;
            }
            Ok(self.routes())
        };
        let limit = deadline.remaining();
        tokio::time::timeout(limit, refresh)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "no node told the topology")))
    }

    /// Asks members, each in its turn, those that failed last; then the seeds.
    /// The way to the node of this name.
    pub(crate) async fn node_named(
        self: &Arc<Self>,
        name: &str,
        deadline: Deadline,
    ) -> Result<Arc<Connection>, Error> {
        let id = self.node_id(name, deadline).await?;
        let tries = Tries::default();
        tries.pick(&self.routes(), &Target::Node(id)).ok_or_else(no_such_node)
    }

    async fn learn_from_any(&self, deadline: Deadline) -> Result<(), Error> {
        let (routes, target) = (self.routes(), self.any());
        let (mut tries, mut last) = (Tries::default(), None);
        while let Some(node) = tries.pick(&routes, &target) {
            match self.learn_from(&node, deadline.share()).await {
                Ok(_) => return Ok(()),
                Err(error) => tries.failed(&node, last.insert(error)),
            }
        }
        for node in &self.seeds {
            match self.learn_from(node, deadline.share()).await {
                Ok(_) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("a client has at least one seed"))
    }

    /// Asks one node, and takes over what it knows unless this client knows better.
    async fn learn_from(&self, node: &Connection, limit: Duration) -> Result<Arc<Topology>, Error> {
        let deadline = Deadline::after(limit);
        let topology = learn(node, limit).await?;
        let routes = self.routes();
        if topology.cluster_id != routes.topology.cluster_id {
            let message = format!("it belongs to another cluster, {}", topology.cluster_id);
            return Err(Error::new(ErrorKind::Invalid, message).at(&node.name));
        }
        if topology.version >= routes.topology.version {
            let known = [&self.seeds[..], &routes.nodes].concat();
            let routes = Routes::new(Arc::clone(&topology), &known, &self.calling)?;
            routes.look(deadline).await;
            self.routes.store(Arc::new(routes));
        }
        Ok(topology)
    }
}

/// What the first of these nodes to answer knows.
async fn first_routes(
    seeds: &[Arc<Connection>],
    calling: &Calling,
    deadline: Deadline,
) -> Result<Routes, Error> {
    let ask = |(at, node): (usize, &Arc<Connection>)| {
        let node = Arc::clone(node);
        async move {
            let topology = learn(&node, deadline.remaining()).await.map_err(|error| (at, error))?;
            Routes::new(topology, seeds, calling).map_err(|error| (at, error))
        }
    };
    let (mut left, mut asked) = (seeds.iter().enumerate().map(ask), FuturesUnordered::new());
    let mut failed = Vec::new();
    loop {
        asked.extend(left.next());
        match tokio::time::timeout(SLOW, asked.next()).await {
            Ok(Some(Ok(routes))) => {
                routes.look(deadline).await;
                return Ok(routes);
            }
            Ok(Some(Err(error))) => failed.push(error),
            Ok(None) => return Err(nowhere(seeds, calling, failed)),
            Err(_) => {}
        }
    }
}

/// Why no endpoint told the topology.
fn nowhere(seeds: &[Arc<Connection>], calling: &Calling, mut failed: Vec<(usize, Error)>) -> Error {
    failed.sort_by_key(|&(at, _)| at);
    let (mut reasons, mut last) = (Vec::new(), None);
    for (at, error) in failed {
        let error = match calling.tls {
            Some(_) => error.after_handshake(),
            None => error.before_any_answer(),
        };
        reasons.push(format!("{}: {}", seeds[at].address, error.message()));
        // What a node that runs says of itself tells more than others' silence.
        last = last.filter(Error::is_not_ready).or(Some(error));
    }
    let Some(error) = last else {
        return Error::new(ErrorKind::Invalid, "no endpoints were given");
    };
    let what = match error.is_not_ready() {
        true => "no endpoint can serve",
        false => "no endpoint answered",
    };
    let message = format!("{what}: {}", reasons.join(" | "));
    let failed = Error::new(ErrorKind::Unavailable, message);
    failed.because(error.detail()).advising(error.advice())
}

/// Asks a node what it knows.
async fn learn(node: &Connection, limit: Duration) -> Result<Arc<Topology>, Error> {
    let malformed = |what| {
        let message = format!("its topology is malformed: {what}");
        Error::new(ErrorKind::Internal, message).at(&node.name)
    };
    Topology::from_wire(node.describe(limit).await?).map(Arc::new).map_err(malformed)
}

fn no_such_node() -> Error {
    Error::new(ErrorKind::Unavailable, "the topology names no such node")
}

/// Whether a failed change of the cluster can be asked for again elsewhere.
fn had_no_effect(error: &Error) -> bool {
    let refused = matches!(error.detail(), Kind::NotReady | Kind::Overloaded);
    refused || error.reach() == Reach::NotSent
}

fn described(namespace: Option<v1::Namespace>) -> Result<NamespaceDescription, Error> {
    let missing = || Error::new(ErrorKind::Internal, "the answer names no namespace");
    namespace.map(NamespaceDescription::from).ok_or_else(missing)
}
