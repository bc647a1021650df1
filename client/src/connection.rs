//! One lazily made HTTP/2 connection per node, and what this client knows of the node behind it.
//!
//! A node that fails is avoided for a back-off that doubles with each failure in a row, so that a
//! dead node costs one request a time-out now and then, not each request. When the back-off ends,
//! one request claims the right to try the node; the others go on avoiding it until that one
//! comes back well.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use quorate_proto::v1::{
    DescribeReply, DescribeRequest, cluster_client::ClusterClient, kv_client::KvClient,
};
use tokio::sync::{Mutex, Semaphore};
use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{HeaderValue, Request},
    },
    transport::{Channel, Endpoint},
};

use crate::{
    error::{Error, ErrorKind, Reach},
    retry::Deadline,
    tls::TlsConfig,
    turns::Turns,
    welcome::{Welcome, held_back},
};

/// Within a data centre a connection takes a millisecond; a second allows for one lost packet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// What a node answers of itself takes it no time.
const OPENING_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent peer is noticed within twice this, also while idle.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// A scan whose caller reads slowly may hold so much; it must not hold up other calls, so the
/// connection as a whole may hold a thousand times as much.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;
/// 100 siblings of the largest value fit many times over.
const REPLY_MAX_BYTES: usize = 1 << 30;

/// Nodes show it in their lines about the request.
const REQUEST_ID_HEADER: &str = "x-request-id";
/// What nodes accept.
const REQUEST_ID_MAX_BYTES: usize = 64;

const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_DOUBLINGS_MAX: u32 = 4;

/// A node's store as it was opened, and its clock: what an operation id needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Opening {
    /// The node's id.
    pub(crate) node: u64,
    /// Of its store.
    pub(crate) opening: u64,
    now_ms: u64,
    at: Instant,
}

impl Opening {
    pub(crate) fn of(reply: &DescribeReply) -> Self {
        Self { node: reply.node, opening: reply.opening, now_ms: reply.now_ms, at: Instant::now() }
    }

    /// The node's clock now: its answer and the time since, whatever this machine's clock says.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms + self.at.elapsed().as_millis() as u64
    }
}

/// How nodes are called.
#[derive(Clone, Debug)]
pub(crate) struct Calling {
    /// TLS with every node; none: without.
    pub(crate) tls: Option<TlsConfig>,
    request_id: Option<HeaderValue>,
    /// How many calls run at once on one node.
    at_once: usize,
}

impl Calling {
    /// With the id that every request carries, if there is one: 1 to 64 visible ASCII characters.
    pub(crate) fn new(
        tls: Option<TlsConfig>,
        request_id: Option<String>,
        at_once: usize,
    ) -> Result<Self, Error> {
        if at_once == 0 {
            let message = "a client with no calls at once could not ask anything";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let header = |id: String| {
            let sound = (1..=REQUEST_ID_MAX_BYTES).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_graphic());
            let refused = || {
                let message = format!(
                    "{id:?} is no request id: 1 to {REQUEST_ID_MAX_BYTES} visible ASCII characters"
                );
                Error::new(ErrorKind::Invalid, message)
            };
            let value = sound.then(|| HeaderValue::from_str(&id).ok()).flatten();
            value.ok_or_else(refused)
        };
        Ok(Self { tls, request_id: request_id.map(header).transpose()?, at_once })
    }
}

/// A channel that names the requests on it, if they have a name.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    channel: Channel,
    request_id: Option<HeaderValue>,
}

impl Service<Request<Body>> for Named {
    type Response = <Channel as Service<Request<Body>>>::Response;
    type Error = <Channel as Service<Request<Body>>>::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(id) = &self.request_id {
            request.headers_mut().insert(REQUEST_ID_HEADER, id.clone());
        }
        self.channel.call(request)
    }
}

/// The way to one node.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The node's name; its address as long as the name is unknown.
    pub(crate) name: String,
    pub(crate) address: String,
    channel: Named,
    turns: Arc<Turns>,
    welcome: Arc<Welcome>,
    opening: ArcSwapOption<Opening>,
    /// Held by who asks for the opening: those who lack it at once share one answer, or its error
    /// if it was asked for since.
    asking: Mutex<Option<(Instant, Error)>>,
    health: Health,
}

impl Connection {
    /// Prepares a connection to `address`, which is HOST:PORT; the first call makes it.
    pub(crate) fn new(name: &str, address: &str, calling: &Calling) -> Result<Arc<Self>, Error> {
        let tls = calling.tls.as_ref();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|error| {
            let message = format!("{address:?} is no HOST:PORT: {error}");
            Error::new(ErrorKind::Invalid, message)
        })?;
        let endpoint = match tls {
            Some(tls) => tls.apply(endpoint, address)?,
            None => endpoint,
        };
        let channel = endpoint
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_lazy();
        let channel = Named { channel, request_id: calling.request_id.clone() };
        Ok(Arc::new(Self {
            name: name.to_owned(),
            address: address.to_owned(),
            channel,
            turns: Arc::new(Turns::new(calling.at_once.min(Semaphore::MAX_PERMITS))),
            welcome: Arc::default(),
            opening: ArcSwapOption::empty(),
            asking: Mutex::default(),
            health: Health::default(),
        }))
    }

    /// The same connection under the name learnt since.
    pub(crate) fn renamed(&self, name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            address: self.address.clone(),
            channel: self.channel.clone(),
            turns: Arc::clone(&self.turns),
            welcome: Arc::clone(&self.welcome),
            opening: ArcSwapOption::new(self.opening.load_full()),
            asking: Mutex::default(),
            health: Health::default(),
        })
    }

    pub(crate) fn kv(&self) -> KvClient<Named> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(REPLY_MAX_BYTES)
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Named> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(REPLY_MAX_BYTES)
    }

    /// Awaits an answer to what the node may refuse for having too much to do; held back at once if
    /// the node refuses most of it.
    pub(crate) async fn offer<T>(
        &self,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if self.welcome.holds_back(self.health.now(), rand::random) {
            return Err(held_back().at(&self.name));
        }
        let answer = answer.await;
        match &answer {
            Ok(_) => self.welcome.took(),
            Err(error) if error.is_refusal() => self.welcome.refused(),
            Err(error) if error.is_answer_in_time() => self.welcome.took(),
            Err(_) => self.welcome.was_silent(),
        }
        answer
    }

    /// Whether it takes on most of what this client asks it.
    pub(crate) fn welcomes(&self) -> bool {
        self.welcome.excess(self.health.now()) == 0
    }

    /// Whether it answered a call after that.
    pub(crate) fn has_answered_since(&self, then: Instant) -> bool {
        let then = then.saturating_duration_since(self.health.epoch);
        self.health.well_at_us.load(Relaxed) > then.as_micros() as u64
    }

    /// Whether it did not fail when it was last asked.
    pub(crate) fn is_well(&self) -> bool {
        self.health.failures.load(Relaxed) == 0
    }

    /// Awaits a call to this node for `limit`, the wait for its turn included. `call` is told what is
    /// left of the limit.
    pub(crate) async fn call<T, F: Future<Output = Result<tonic::Response<T>, tonic::Status>>>(
        &self,
        limit: Duration,
        call: impl FnOnce(Duration) -> F,
    ) -> Result<T, Error> {
        let turn = self.turns.take(limit).await.map_err(|error| error.at(&self.name))?;
        self.within(turn.left, call(turn.left)).await.map(tonic::Response::into_inner)
    }

    /// Awaits what this node is to answer within `limit`, and notes how the node fared.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T, Error> {
        let began = self.health.now();
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(answer)) => {
                self.health.well();
                Ok(answer)
            }
            Ok(Err(status)) => Err(self.failed(Error::from_status(&status, &self.name))),
            Err(_) => Err(self.silent(limit, began)),
        }
    }

    /// Notes what an error says of the node.
    pub(crate) fn failed(&self, error: Error) -> Error {
        if error.is_node_failure() {
            self.health.ill();
            // It may have restarted, and a restart is another opening.
            self.forget_opening();
        } else if matches!(error.reach(), Reach::Answered(_)) {
            self.health.well();
        }
        error
    }

    /// Notes that no answer came to a call that began then. A node that answers others meanwhile is
    /// slow, not dead: to avoid it would send its load to nodes that are as busy.
    fn silent(&self, limit: Duration, began_ms: u64) -> Error {
        let error = Error::silent(&self.name, limit);
        match self.health.was_well_since(began_ms) {
            true => error,
            false => self.failed(error),
        }
    }

    /// Asks the node what it knows, and remembers its opening.
    pub(crate) async fn describe(&self, limit: Duration) -> Result<DescribeReply, Error> {
        let mut cluster = self.cluster();
        let ask = |_| async move { cluster.describe(DescribeRequest {}).await };
        let reply = self.call(limit, ask).await?;
        self.opening.store(Some(Arc::new(Opening::of(&reply))));
        Ok(reply)
    }

    /// The node's opening, asked for if it is not known.
    pub(crate) async fn opening(&self, deadline: Deadline) -> Result<Opening, Error> {
        match self.opening.load().as_deref() {
            Some(opening) => Ok(*opening),
            // The request proper was not sent, whatever became of the question before it.
            None => {
                self.ask_opening(deadline).await.map_err(|error| error.reaching(Reach::NotSent))
            }
        }
    }

    async fn ask_opening(&self, deadline: Deadline) -> Result<Opening, Error> {
        let (wanted, began) = (Instant::now(), self.health.now());
        // Others may wait for the answer who have less time.
        let limit = deadline.share().min(OPENING_TIMEOUT);
        let ask = async {
            let mut failed = self.asking.lock().await;
            if let Some(opening) = self.opening.load().as_deref() {
                return Ok(*opening);
            }
            match &*failed {
                Some((begun, error)) if *begun >= wanted => return Err(error.clone()),
                _ => {}
            }
            let begun = Instant::now();
            let reply = self.describe(limit).await;
            *failed = reply.as_ref().err().map(|error| (begun, error.clone()));
            reply.map(|reply| Opening::of(&reply))
        };
        tokio::time::timeout(limit, ask).await.unwrap_or_else(|_| Err(self.silent(limit, began)))
    }

    pub(crate) fn forget_opening(&self) {
        self.opening.store(None);
    }

    /// Whether to send the next request here. After a back-off this answers yes once, to one
    /// caller, which must then try.
    pub(crate) fn claim(&self) -> bool {
        self.health.claim()
    }
}

/// Since when, and how often in a row, a node failed. Times are in milliseconds since the epoch, unless
/// they say otherwise.
#[derive(Debug)]
struct Health {
    epoch: Instant,
    failures: AtomicU32,
    avoid_until: AtomicU64,
    /// When it last answered: in microseconds, since answers come within a millisecond.
    well_at_us: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            failures: AtomicU32::new(0),
            avoid_until: AtomicU64::new(0),
            well_at_us: AtomicU64::new(0),
        }
    }
}

impl Health {
    fn well(&self) {
        self.well_at_us.store(self.epoch.elapsed().as_micros() as u64, Relaxed);
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Whether it answered anybody after that.
    fn was_well_since(&self, then_ms: u64) -> bool {
        self.well_at_us.load(Relaxed) / 1000 > then_ms
    }

    fn ill(&self) {
        let before = self.failures.fetch_add(1, Relaxed).min(BACKOFF_DOUBLINGS_MAX);
        self.avoid_until.store(self.now() + backoff_ms(before), Relaxed);
    }

    fn claim(&self) -> bool {
        let failures = self.failures.load(Relaxed);
        if failures == 0 {
            return true;
        }
        let (now, until) = (self.now(), self.avoid_until.load(Relaxed));
        let next = now + backoff_ms(failures.min(BACKOFF_DOUBLINGS_MAX));
        now >= until && self.avoid_until.compare_exchange(until, next, Relaxed, Relaxed).is_ok()
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

fn backoff_ms(doublings: u32) -> u64 {
    (BACKOFF_FIRST.as_millis() as u64) << doublings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_node_is_avoided_then_tried_by_one() {
        let health = Health::default();
        assert!(health.claim() && health.claim());
        health.ill();
        assert!(!health.claim());
        health.avoid_until.store(0, Relaxed);
        assert!(health.claim(), "the back-off ended");
        assert!(!health.claim(), "one at a time");
        health.well();
        assert!(health.claim() && health.claim());
    }

    #[test]
    fn the_backoff_is_bounded() {
        let health = Health::default();
        for _ in 0..40 {
            health.ill();
        }
        let most = backoff_ms(BACKOFF_DOUBLINGS_MAX);
        assert!(health.avoid_until.load(Relaxed) <= health.now() + most);
    }

    #[tokio::test]
    async fn an_address_must_be_one() {
        let error = Connection::new("n1", "not an address", &Calling::new(None, None, 8).unwrap())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
