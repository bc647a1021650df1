//! The dialing side of an open stream: requests out, answers paired with who waits for them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_proto::peer::message::Body;
use quorate_proto::peer::{Hello, Message};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::queue::{Measured, Outgoing, Waiting};
use super::{Limits, MESSAGE_MAX_BYTES};
use crate::limits::budget::{Budget, Kind};
use crate::transport::wire;
use crate::transport::{PeerError, Reply};

/// An open stream to a peer.
#[derive(Debug)]
pub(super) struct Connection {
    /// None once the stream broke.
    open: Mutex<Option<Open>>,
    queued_bytes: Arc<AtomicUsize>,
    queued_bytes_max: usize,
    budget: Arc<Budget>,
}

#[derive(Debug)]
struct Open {
    queue: mpsc::Sender<Waiting>,
    next: u64,
    /// By id. Its order is never used.
    waiting: HashMap<u64, oneshot::Sender<Option<Body>>>,
}

/// A request that was queued: its answer is taken from here, and given up when this is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    connection: Arc<Connection>,
    id: u64,
    deadline: Instant,
    answer: oneshot::Receiver<Option<Body>>,
}

impl Connection {
    /// A connection, and what it sends, beginning with `hello`.
    pub(super) fn new(hello: Hello, limits: &Limits) -> (Arc<Self>, Outgoing) {
        let (sender, queue) = mpsc::channel(limits.queued);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let (bytes, sending) = (queued_bytes.clone(), Vec::new());
        let outgoing = Outgoing { hello: Some(hello), queue, bytes, sending };
        let open = Open { queue: sender, next: 0, waiting: HashMap::new() };
        let (queued_bytes_max, budget) = (limits.queued_bytes, limits.budget.clone());
        let open = Mutex::new(Some(open));
        (Arc::new(Self { open, queued_bytes, queued_bytes_max, budget }), outgoing)
    }

    /// Queues a request, whose id is given to it here.
    pub(super) fn send(
        self: &Arc<Self>,
        message: Message,
        deadline: Instant,
    ) -> Result<Ticket, PeerError> {
        let measured = Measured::new(message);
        let bytes = measured.bytes;
        if bytes >= MESSAGE_MAX_BYTES {
            let reason = format!("a request of {bytes} bytes; the most is {MESSAGE_MAX_BYTES}");
            return Err(PeerError::Disconnected { reason });
        }
        let measured = measured.charged(&self.budget, Kind::Peers);
        let mut measured = measured.map_err(|_| PeerError::QueueFull)?;
        let (sender, answer) = oneshot::channel();
        let mut guard = self.lock();
        let open = guard.as_mut().ok_or_else(broke_before)?;
        if self.queued_bytes.load(Ordering::Relaxed) >= self.queued_bytes_max {
            return Err(PeerError::QueueFull);
        }
        let permit = open.queue.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => PeerError::QueueFull,
            mpsc::error::TrySendError::Closed(()) => broke_before(),
        })?;
        let id = open.next;
        measured.message.id = id;
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        permit.send(Waiting { measured, deadline });
        open.waiting.insert(id, sender);
        open.next += 1;
        Ok(Ticket { connection: self.clone(), id, deadline, answer })
    }

    /// Hands an answer to who waits for it, if anybody still does.
    pub(super) fn on_answer(&self, id: u64, body: Option<Body>) {
        let waiting = self.lock().as_mut().and_then(|open| open.waiting.remove(&id));
        if let Some(waiting) = waiting {
            // An error says that it was given up just now.
            let _ = waiting.send(body);
        }
    }

    /// The stream broke: no more requests, and no answers for those that wait.
    pub(super) fn close(&self) {
        let open = self.lock().take();
        drop(open);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn broke_before() -> PeerError {
    PeerError::Disconnected { reason: "the connection just broke".to_owned() }
}

impl Ticket {
    /// Waits for the answer, at most until the deadline.
    pub(super) async fn answer(mut self) -> Result<Reply, PeerError> {
        let body = match tokio::time::timeout_at(self.deadline, &mut self.answer).await {
            Err(_) => return Err(PeerError::TimedOut),
            Ok(Err(_)) => return Err(PeerError::Broken),
            Ok(Ok(body)) => body,
        };
        wire::decode_reply(body).map_err(|flaw| PeerError::Malformed { reason: flaw.to_string() })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Already answered in most cases; then nobody else holds the other end any more.
        if !self.answer.is_terminated()
            && let Some(open) = self.connection.lock().as_mut()
        {
            open.waiting.remove(&self.id);
        }
    }
}
