//! What waits to be sent, and how it shares frames.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures::Stream;
use quorate_proto::peer::{Frame, Hello, Message};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::RequestError;
use crate::limits::budget::{Budget, Charge, Kind, SMALL_BYTES};
use crate::transport::wire;

/// A frame is cut at so many messages or bytes: enough to share its cost, not so much that the
/// first message waits for the rest.
const BATCH_MESSAGES: usize = 256;
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// A message, its encoded length, and its part of the node's memory if it is large.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) message: Message,
    pub(super) bytes: usize,
    charge: Option<Charge>,
}

impl Measured {
    pub(super) fn new(message: Message) -> Self {
        let bytes = prost::Message::encoded_len(&message);
        Self { message, bytes, charge: None }
    }

    /// Takes its part of the budget, until it is sent.
    pub(super) fn charged(self, budget: &Arc<Budget>, kind: Kind) -> Result<Self, RequestError> {
        if self.bytes < SMALL_BYTES {
            return Ok(self);
        }
        let charge = Some(budget.take(kind, self.bytes)?);
        Ok(Self { charge, ..self })
    }
}

/// A frame that fills.
#[derive(Debug, Default)]
pub(super) struct Batch {
    messages: Vec<Message>,
    bytes: usize,
    charges: Vec<Charge>,
}

/// What the last frame holds of the budget. The next one is asked for when HTTP/2 has taken it.
pub(super) type Sending = Vec<Charge>;

impl Batch {
    pub(super) fn push(&mut self, measured: Measured) {
        self.messages.push(measured.message);
        self.bytes += measured.bytes;
        self.charges.extend(measured.charge);
    }

    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= BATCH_MESSAGES || self.bytes >= BATCH_BYTES
    }

    /// The frame, unless it is empty; its charges are kept in `sending`.
    pub(super) fn take(self, sending: &mut Sending) -> Option<Frame> {
        *sending = self.charges;
        let frame = Frame { hello: None, messages: self.messages };
        (!frame.messages.is_empty()).then_some(frame)
    }
}

/// The first frame of each side.
pub(super) fn hello_frame(hello: Hello) -> Frame {
    Frame { hello: Some(hello), messages: Vec::new() }
}

/// The frames of the dialing side: its Hello, then whatever has queued up each time one can be
/// sent. It ends when the queue is closed.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) hello: Option<Hello>,
    pub(super) queue: mpsc::Receiver<Waiting>,
    /// The bytes in the queue.
    pub(super) bytes: Arc<AtomicUsize>,
    pub(super) sending: Sending,
}

/// A request that waits to be sent.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) measured: Measured,
    /// When nobody waits for its answer any more.
    pub(super) deadline: Instant,
}

impl Outgoing {
    /// A request as it is to be sent now: its receiver is told how much time is left. None if none
    /// is: its sender has given up, and the receiver would work for nobody.
    fn timely(&self, waiting: Waiting, now: Instant) -> Option<Measured> {
        let Waiting { mut measured, deadline } = waiting;
        self.bytes.fetch_sub(measured.bytes, Ordering::Relaxed);
        let left = deadline.saturating_duration_since(now);
        measured.message.timeout_ms = wire::timeout_ms(left);
        (!left.is_zero()).then_some(measured)
    }
}

impl Stream for Outgoing {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(hello_frame(hello)));
        }
        self.sending.clear();
        loop {
            let Some(first) = ready!(self.queue.poll_recv(cx)) else { return Poll::Ready(None) };
            let (mut batch, now) = (Batch::default(), Instant::now());
            let mut next = Some(first);
            while let Some(waiting) = next {
                if let Some(measured) = self.timely(waiting, now) {
                    batch.push(measured);
                }
                next = if batch.is_full() { None } else { self.queue.try_recv().ok() };
            }
            if let Some(frame) = batch.take(&mut self.sending) {
                return Poll::Ready(Some(frame));
            }
        }
    }
}
