//! What waits to be sent, and how it shares frames.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures::Stream;
use quorate_proto::peer::{Frame, Hello, Message};
use tokio::sync::mpsc;

/// A frame is cut at so many messages or bytes: enough to share its cost, not so much that the
/// first message waits for the rest.
const BATCH_MESSAGES: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// A message and its encoded length.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) message: Message,
    pub(super) bytes: usize,
}

impl Measured {
    pub(super) fn new(message: Message) -> Self {
        let bytes = prost::Message::encoded_len(&message);
        Self { message, bytes }
    }
}

/// A frame that fills.
#[derive(Debug, Default)]
pub(super) struct Batch {
    messages: Vec<Message>,
    bytes: usize,
}

impl Batch {
    pub(super) fn push(&mut self, measured: Measured) {
        self.messages.push(measured.message);
        self.bytes += measured.bytes;
    }

    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= BATCH_MESSAGES || self.bytes >= BATCH_BYTES
    }

    /// The frame, unless it is empty.
    pub(super) fn take(self) -> Option<Frame> {
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
    pub(super) queue: mpsc::Receiver<Measured>,
    /// The bytes in the queue.
    pub(super) bytes: Arc<AtomicUsize>,
}

impl Stream for Outgoing {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(hello_frame(hello)));
        }
        let Some(first) = ready!(self.queue.poll_recv(cx)) else { return Poll::Ready(None) };
        let mut batch = Batch::default();
        batch.push(first);
        while !batch.is_full() {
            let Ok(next) = self.queue.try_recv() else { break };
            batch.push(next);
        }
        self.bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
        Poll::Ready(batch.take())
    }
}
