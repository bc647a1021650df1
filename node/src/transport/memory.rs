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
//! A node has *lives*: each is one process, and what a dead one still says is not heard, even when
//! the node runs again. Two at a time are a data directory that was copied and started twice; every
//! other life then admits one of them, as [`grpc`](super::grpc) does (see `state`).
//!
//! A link that is cut swallows messages at first, as a silent network does, and a process that is
//! paused, as by SIGSTOP, lets them wait; after [`Faults::notice`] both sides see that there is no
//! connection. A life that ends, as by a crash, is seen to be gone at once: its kernel would have
//! said so.
//!
//! Left out: bandwidth, queues that fill, and the time that connecting takes. Only messages of a
//! paused node stand still here; its timers go on, so that what it waits for runs out meanwhile, and
//! its shards and disk need [`Pause`](crate::env::Pause).

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use quorate_proto::peer::{Frame, Message};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use xxhash_rust::xxh3::xxh3_64;

use self::state::{Answered, Life, Sent, State};
use super::answer::{Arrival, answer};
use super::wire::{self, decode_frame, encode_frame};
use super::{Handler, PeerError, Peers, Reply, Request};
use crate::dynamo::key::NodeId;

mod faults;
mod state;

pub use self::faults::Faults;

/// The pause after newer metadata could not be fetched: every answer would ask for it again.
const FETCH_PAUSE: Duration = Duration::from_millis(500);

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

/// A network in memory. Clones are one network.
#[derive(Clone)]
pub struct MemoryNetwork(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Tells the courier that something is due before what it waits for.
    sooner: Arc<Notify>,
}

impl MemoryNetwork {
    /// A network without nodes. Made within a runtime; time is counted from here.
    pub fn new(rng: ChaCha8Rng, faults: Faults) -> Self {
        let state = Mutex::new(State::new(rng, faults));
        Self(Arc::new(Shared { state, sooner: Arc::default() }))
    }

    /// A good network with a generator of this seed.
    pub fn seeded(seed: u64) -> Self {
        Self::new(ChaCha8Rng::seed_from_u64(seed), Faults::default())
    }

    /// A new life of `node`, and how it reaches the others once it was attached.
    pub fn peers(&self, node: NodeId) -> Arc<MemoryPeers> {
        let (network, life) = (self.clone(), self.lock().life());
        Arc::new(MemoryPeers { network, node, life, begun: AtomicBool::new(false) })
    }

    /// Starts a life, whose requests `handler` answers until its last owner drops it. Earlier lives
    /// of the node end.
    pub fn attach(&self, life: &MemoryPeers, handler: &Arc<dyn Handler>) {
        self.change(|state, _| {
            state.lives_of(life.node).into_iter().for_each(|earlier| state.end(earlier));
        });
        self.attach_beside(life, handler);
    }

    /// The same, and earlier lives go on: two processes run under one name.
    pub fn attach_beside(&self, life: &MemoryPeers, handler: &Arc<dyn Handler>) {
        assert!(!life.begun.swap(true, Ordering::Relaxed), "a life begins once");
        self.change(|state, _| state.begin(life.life, life.node, handler));
    }

    /// Ends a life: requests to and from it break, and what it was doing is dropped where it is.
    pub fn detach(&self, life: &MemoryPeers) {
        self.change(|state, _| state.end(life.life));
    }

    /// Swallows what `from` sends to `to` from now on; the other direction stands.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.change(|state, now| state.cut(from, to, now));
    }

    /// Mends the link from `from` to `to`.
    pub fn mend(&self, from: NodeId, to: NodeId) {
        self.change(|state, _| state.mend(|direction| direction == (from, to)));
    }

    /// Mends every link; their faults stay.
    pub fn mend_all(&self) {
        self.change(|state, _| state.mend(|_| true));
    }

    /// Stops the processes that run as `node`, as SIGSTOP does: what it is sent and what it sends
    /// waits, in order. What it sent before arrives.
    pub fn pause(&self, node: NodeId) {
        self.change(|state, now| state.pause(node, now));
    }

    /// Lets them go on: what has waited arrives at once.
    pub fn resume(&self, node: NodeId) {
        self.change(|state, now| state.resume(node, now));
    }

    /// Changes what happens to messages sent from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.change(|state, _| state.faults = faults);
    }

    /// Changes what happens to messages that `from` sends to `to` from now on, whatever happens to
    /// others; none: what happens to others.
    pub fn set_link(&self, from: NodeId, to: NodeId, faults: Option<Faults>) {
        self.change(|state, _| match faults {
            Some(faults) => drop(state.links.insert((from, to), faults)),
            None => drop(state.links.remove(&(from, to))),
        });
    }

    /// Calls `recorder` with every delivery from now on. It must not use the network.
    pub fn record(&self, recorder: impl FnMut(&Delivery) + Send + 'static) {
        self.lock().recorder = Some(Box::new(recorder));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes who is there or who hears whom.
    fn change(&self, change: impl FnOnce(&mut State, Instant)) {
        let (mut state, now) = (self.lock(), Instant::now());
        // What was to be noticed by now was so before the change.
        state.settle(now);
        change(&mut state, now);
        state.settle(now);
        let ended = std::mem::take(&mut state.ended);
        self.wake(&mut state);
        drop(state);
        ended.tell();
    }

    /// Notices the silences that are to be noticed by now.
    fn notice(&self) {
        let notices = self.lock().notices();
        if notices {
            self.change(|_, _| {});
        }
    }

    /// Lets the courier look again; there is one as soon as there is something to do.
    fn wake(&self, state: &mut State) {
        match &state.courier {
            Some(_) => self.0.sooner.notify_one(),
            None if state.due().is_none() => {}
            None => {
                let courier = run_courier(Arc::downgrade(&self.0), self.0.sooner.clone());
                state.courier = Some(AbortOnDropHandle::new(tokio::spawn(courier)));
            }
        }
    }

    fn open(&self, from: &MemoryPeers, to: NodeId) -> Result<(u64, Life, Answered), PeerError> {
        self.notice();
        self.lock().open(from.life, to).ok_or_else(|| {
            let reason = format!("node {to} is not there, or does not hear this process");
            PeerError::Disconnected { reason }
        })
    }

    fn send(&self, from: Life, to: Life, message: Message) {
        let bytes = encode_frame(&Frame { hello: None, messages: vec![message] });
        let mut state = self.lock();
        let before = state.due();
        state.send(from, to, bytes, Instant::now());
        let due = state.due();
        if due.is_some_and(|due| before.is_none_or(|before| due < before)) {
            self.wake(&mut state);
        }
    }

    /// Does what is due by now; tells when there is something to do again.
    fn deliver(&self) -> Option<Instant> {
        self.notice();
        let now = Instant::now();
        loop {
            let arrived = self.lock().arrived(now);
            match arrived {
                Ok((sent, node)) => self.on_arrival(sent, node),
                Err(next) => return next,
            }
        }
    }

    fn on_arrival(&self, sent: Sent, node: NodeId) {
        let frame = decode_frame(sent.bytes.clone()).expect("the network damages no bytes");
        for message in frame.messages {
            self.lock().on_delivery(|at_ms| {
                let (length, hash) = (sent.bytes.len(), xxh3_64(&sent.bytes));
                let kind = wire::kind(message.body.as_ref());
                Delivery { at_ms, from: sent.node, to: node, kind, length, hash }
            });
            match wire::is_request(message.body.as_ref()) {
                true => self.on_request(&sent, message),
                false => self.on_answer(&sent, message),
            }
        }
    }

    /// Lets the handler work on a request, for as long as its life lasts.
    fn on_request(&self, sent: &Sent, message: Message) {
        let mut state = self.lock();
        let Some(handler) = state.handler(sent.to) else { return };
        let Some(attached) = state.attached(sent.to) else { return };
        let (network, gone) = (self.clone(), attached.gone.clone());
        let (asking, node, asked) = (sent.from, sent.node, sent.to);
        let work = async move {
            let answer = answer(handler, node, message, Arrival::now()).await;
            network.send(asked, asking, answer);
        };
        tokio::spawn(gone.run_until_cancelled_owned(work));
    }

    fn on_answer(&self, sent: &Sent, message: Message) {
        self.fetch(sent, message.version);
        let waiting = self.lock().waiting.remove(&message.id);
        if let Some(waiting) = waiting {
            // An error says that it was given up just now.
            let _ = waiting.answer.send(message.body);
        }
    }

    /// Lets whoever got an answer fetch newer metadata that it told of, once at a time.
    fn fetch(&self, answered: &Sent, version: u64) {
        let (life, from) = (answered.to, answered.node);
        let mut state = self.lock();
        let Some(handler) = state.handler(life) else { return };
        let Some(attached) = state.attached(life) else { return };
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
            if let Some(attached) = network.lock().attached(life) {
                attached.fetching = false;
            }
        };
        tokio::spawn(gone.run_until_cancelled_owned(fetch));
    }
}

/// Delivers what is due, for as long as there is a network: one task and one timer, whatever is
/// under way.
async fn run_courier(network: Weak<Shared>, sooner: Arc<Notify>) {
    while let Some(shared) = network.upgrade() {
        let next = MemoryNetwork(shared).deliver();
        match next {
            None => sooner.notified().await,
            // An error says that the time has come.
            Some(at) => drop(timeout_at(at, sooner.notified()).await),
        }
    }
}

/// [`Peers`] of one life of a node of a [`MemoryNetwork`].
pub struct MemoryPeers {
    network: MemoryNetwork,
    node: NodeId,
    life: Life,
    begun: AtomicBool,
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
        let (id, peer, answered) = match self.network.open(self, to) {
            Ok(opened) => opened,
            Err(error) => return std::future::ready(Err(error)).boxed(),
        };
        let handler = self.network.lock().handler(self.life);
        let version = handler.map_or(0, |handler| handler.metadata_version());
        let message = wire::request_message(id, version, timeout, request);
        self.network.send(self.life, peer, message);
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
        self.network.notice();
        self.network.lock().peer(self.life, node).is_some()
    }
}

#[cfg(test)]
mod tests;
