//! Peers in one process, for tests and simulation: the network is a seed and a list of faults.
//!
//! Every message is encoded, waits for a latency drawn from the injected generator, and is decoded
//! on the other side; it may be lost, doubled or overtaken meanwhile. On a current-thread runtime
//! with paused time one seed gives one run, to the byte: nothing here has an order of its own.
//!
//! ```text
//!   10 ms  000…1 -> 000…2  forward_write   102 bytes  9c52…
//!   14 ms  000…2 -> 000…1  write_result     31 bytes  01ab…
//! ```
//!
//! A link that is cut swallows messages at first, as a silent network does; after
//! [`Faults::notice`] both sides see that there is no connection. A node that is detached, as by a
//! crash, is seen to be gone at once: its kernel would have said so.
//!
//! Left out: bandwidth, and queues that fill.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use quorate_proto::peer::message::Body;
use quorate_proto::peer::{Frame, Message};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

use super::answer::{Arrival, answer};
use super::wire::{self, decode_frame, encode_frame};
use super::{Handler, PeerError, Peers, Reply, Request};
use crate::dynamo::key::NodeId;

/// The pause after newer metadata could not be fetched: every answer would ask for it again.
const FETCH_PAUSE: Duration = Duration::from_millis(500);

/// What the network does to messages.
#[derive(Clone, PartialEq, Debug)]
pub struct Faults {
    /// How long a message takes, in milliseconds.
    pub latency_ms: RangeInclusive<u64>,
    /// The probability that one is lost.
    pub loss: f64,
    /// The probability that one arrives twice.
    pub duplication: f64,
    /// How long a cut goes unnoticed.
    pub notice: Duration,
}

impl Default for Faults {
    /// A good network: 1 to 5 ms, nothing lost.
    fn default() -> Self {
        let notice = Duration::from_secs(7);
        Self { latency_ms: 1..=5, loss: 0.0, duplication: 0.0, notice }
    }
}

/// A message that arrived. Its text is one line of a run's trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// When, in milliseconds since the network was made.
    pub at_ms: u128,
    /// Who sent it.
    pub from: NodeId,
    /// Who got it.
    pub to: NodeId,
    /// What it is.
    pub kind: &'static str,
    /// Its length in bytes.
    pub length: usize,
    /// The hash of its bytes.
    pub hash: u64,
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at_ms, from, to, kind, length, hash } = self;
        write!(f, "{at_ms} ms  {from} -> {to}  {kind}  {length} bytes  {hash:016x}")
    }
}

/// Who hears of deliveries.
type Recorder = Box<dyn FnMut(&Delivery) + Send>;

/// A network in memory. Clones are one network.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Mutex<State>>);

struct State {
    started: Instant,
    rng: ChaCha8Rng,
    faults: Faults,
    nodes: BTreeMap<NodeId, Attached>,
    /// One-way, and since when.
    cuts: BTreeMap<(NodeId, NodeId), Instant>,
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    recorder: Option<Recorder>,
}

/// A running node.
#[derive(Clone)]
struct Attached {
    handler: Weak<dyn Handler>,
    /// Cancelled when the node goes: what it was doing ends there.
    gone: CancellationToken,
    /// Whether it is fetching newer metadata that an answer told of.
    fetching: bool,
}

struct Waiting {
    from: NodeId,
    to: NodeId,
    answer: oneshot::Sender<Option<Body>>,
}

impl MemoryNetwork {
    /// A network without nodes. Made within a runtime; time is counted from here.
    pub fn new(rng: ChaCha8Rng, faults: Faults) -> Self {
        Self(Arc::new(Mutex::new(State {
            started: Instant::now(),
            rng,
            faults,
            nodes: BTreeMap::new(),
            cuts: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next: 0,
            recorder: None,
        })))
    }

    /// A good network with a generator of this seed.
    pub fn seeded(seed: u64) -> Self {
        Self::new(ChaCha8Rng::seed_from_u64(seed), Faults::default())
    }

    /// Starts `node`, whose requests `handler` answers until its last owner drops it. An earlier
    /// life of the node ends.
    pub fn attach(&self, node: NodeId, handler: &Arc<dyn Handler>) {
        self.detach(node);
        let attached = Attached {
            handler: Arc::downgrade(handler),
            gone: CancellationToken::new(),
            fetching: false,
        };
        self.lock().nodes.insert(node, attached);
    }

    /// Ends `node`: requests to and from it break, and what it was doing is dropped where it is.
    pub fn detach(&self, node: NodeId) {
        let mut state = self.lock();
        let gone = state.nodes.remove(&node);
        let concerns = |waiting: &Waiting| waiting.from == node || waiting.to == node;
        let (broken, kept): (BTreeMap<_, _>, _) =
            std::mem::take(&mut state.waiting).into_iter().partition(|(_, w)| concerns(w));
        state.waiting = kept;
        drop(state);
        // Wakes others, who may come back here.
        drop(broken);
        if let Some(node) = gone {
            node.gone.cancel();
        }
    }

    /// How `node` reaches the others.
    pub fn peers(&self, node: NodeId) -> Arc<MemoryPeers> {
        Arc::new(MemoryPeers { network: self.clone(), node })
    }

    /// Swallows what `from` sends to `to` from now on; the other direction stands.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.lock().cuts.entry((from, to)).or_insert_with(Instant::now);
    }

    /// Mends the link from `from` to `to`.
    pub fn mend(&self, from: NodeId, to: NodeId) {
        self.lock().cuts.remove(&(from, to));
    }

    /// Mends every link.
    pub fn mend_all(&self) {
        self.lock().cuts.clear();
    }

    /// Changes what happens to messages sent from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Calls `recorder` with every delivery from now on. It must not use the network.
    pub fn record(&self, recorder: impl FnMut(&Delivery) + Send + 'static) {
        self.lock().recorder = Some(Box::new(recorder));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request; none if there is no connection.
    fn open(
        &self,
        from: NodeId,
        to: NodeId,
    ) -> Result<(u64, oneshot::Receiver<Option<Body>>), PeerError> {
        let mut state = self.lock();
        if !state.connected(from, to) {
            let reason = format!("node {to} is not there");
            return Err(PeerError::Disconnected { reason });
        }
        let (answer, answered) = oneshot::channel();
        let id = state.next;
        state.next += 1;
        state.waiting.insert(id, Waiting { from, to, answer });
        Ok((id, answered))
    }

    /// Sends a message: lost, once or twice, each after its own latency.
    fn send(&self, from: NodeId, to: NodeId, message: Message) {
        let bytes = encode_frame(&Frame { hello: None, messages: vec![message] });
        let mut state = self.lock();
        let gone = state.nodes.get(&to).map(|node| node.gone.clone());
        let Some(gone) = gone.filter(|_| !state.cuts.contains_key(&(from, to))) else { return };
        for latency in state.latencies() {
            let arrival = self.clone().arrive((from, to), latency, bytes.clone());
            let gone = gone.clone();
            tokio::spawn(async move { gone.run_until_cancelled_owned(arrival).await });
        }
    }

    async fn arrive(self, (from, to): (NodeId, NodeId), latency: Duration, bytes: Bytes) {
        sleep(latency).await;
        let (length, hash) = (bytes.len(), xxh3_64(&bytes));
        let frame = decode_frame(bytes).expect("the network damages no bytes");
        let delivers = !self.lock().cuts.contains_key(&(from, to));
        for message in frame.messages.into_iter().filter(|_| delivers) {
            let kind = wire::kind(message.body.as_ref());
            self.lock().on_delivery(|at_ms| Delivery { at_ms, from, to, kind, length, hash });
            match wire::is_request(message.body.as_ref()) {
                true => self.on_request(from, to, message).await,
                false => self.on_answer(from, to, message),
            }
        }
    }

    async fn on_request(&self, from: NodeId, to: NodeId, message: Message) {
        let Some(handler) = self.lock().handler(to) else { return };
        let answer = answer(handler, from, message, Arrival::now()).await;
        self.send(to, from, answer);
    }

    fn on_answer(&self, from: NodeId, to: NodeId, message: Message) {
        self.fetch(to, from, message.version);
        let waiting = self.lock().waiting.remove(&message.id);
        if let Some(waiting) = waiting {
            // An error says that it was given up just now.
            let _ = waiting.answer.send(message.body);
        }
    }

    /// Lets `node` fetch newer metadata of `from`, once at a time.
    fn fetch(&self, node: NodeId, from: NodeId, version: u64) {
        let mut state = self.lock();
        let Some(handler) = state.handler(node) else { return };
        let Some(attached) = state.nodes.get_mut(&node) else { return };
        if attached.fetching || version <= handler.metadata_version() {
            return;
        }
        attached.fetching = true;
        let gone = attached.gone.clone();
        let network = self.clone();
        let fetch = async move {
            handler.newer_metadata(from, version).await;
            if handler.metadata_version() < version {
                sleep(FETCH_PAUSE).await;
            }
            if let Some(attached) = network.lock().nodes.get_mut(&node) {
                attached.fetching = false;
            }
        };
        tokio::spawn(gone.run_until_cancelled_owned(fetch));
    }
}

impl State {
    fn handler(&self, node: NodeId) -> Option<Arc<dyn Handler>> {
        self.nodes.get(&node)?.handler.upgrade()
    }

    /// Whether `from` believes to be connected to `to`.
    fn connected(&self, from: NodeId, to: NodeId) -> bool {
        let noticed =
            |link| self.cuts.get(&link).is_some_and(|since| since.elapsed() >= self.faults.notice);
        let attached = self.nodes.contains_key(&from) && self.nodes.contains_key(&to);
        attached && from != to && !noticed((from, to)) && !noticed((to, from))
    }

    /// One for each time that a message arrives.
    fn latencies(&mut self) -> Vec<Duration> {
        if self.rng.random_bool(self.faults.loss) {
            return Vec::new();
        }
        let copies = if self.rng.random_bool(self.faults.duplication) { 2 } else { 1 };
        let latency = self.faults.latency_ms.clone();
        let draw = |_| Duration::from_millis(self.rng.random_range(latency.clone()));
        (0..copies).map(draw).collect()
    }

    fn on_delivery(&mut self, delivery: impl FnOnce(u128) -> Delivery) {
        let at_ms = self.started.elapsed().as_millis();
        if let Some(recorder) = &mut self.recorder {
            recorder(&delivery(at_ms));
        }
    }
}

/// [`Peers`] of one node of a [`MemoryNetwork`].
pub struct MemoryPeers {
    network: MemoryNetwork,
    node: NodeId,
}

/// A request whose answer is given up when this is dropped.
struct Ticket {
    network: MemoryNetwork,
    id: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let waiting = self.network.lock().waiting.remove(&self.id);
        drop(waiting);
    }
}

impl Peers for MemoryPeers {
    fn request(
        &self,
        to: NodeId,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply, PeerError>> {
        let opened = self.network.open(self.node, to);
        let (id, answered) = match opened {
            Ok(opened) => opened,
            Err(error) => return std::future::ready(Err(error)).boxed(),
        };
        let handler = self.network.lock().handler(self.node);
        let version = handler.map_or(0, |handler| handler.metadata_version());
        let message = wire::request_message(id, version, timeout, request);
        self.network.send(self.node, to, message);
        let (sent, ticket) = (Instant::now(), Ticket { network: self.network.clone(), id });
        Box::pin(async move {
            let _ticket = ticket;
            match tokio::time::timeout(timeout.saturating_sub(sent.elapsed()), answered).await {
                Err(_) => Err(PeerError::TimedOut),
                Ok(Err(_)) => Err(PeerError::Broken),
                Ok(Ok(body)) => wire::decode_reply(body)
                    .map_err(|flaw| PeerError::Malformed { reason: flaw.to_string() }),
            }
        })
    }

    fn connected(&self, node: NodeId) -> bool {
        self.network.lock().connected(self.node, node)
    }
}

#[cfg(test)]
mod tests;
