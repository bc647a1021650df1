//! How a request becomes an answer, the same over every transport.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::peer::Message;
use tokio::time::Instant;

use super::wire::{self, WireError};
use super::{ForwardWrite, Handler, Reply, Request};
use crate::dynamo::key::NodeId;
use crate::error::{RequestError, WriteError};
use crate::trace::{self, RequestId};

/// How much longer than its sender waits a request may take: a handler ends by itself in time, and
/// one that does not must not hold its place for ever.
const GRACE: Duration = Duration::from_secs(1);

/// How a request came.
pub(super) struct Arrival {
    /// When it was read: its time counts from here.
    pub(super) at: Instant,
    /// Why there is no place for it, if so.
    pub(super) refused: Option<RequestError>,
}

impl Arrival {
    /// Just now, and there is a place for it.
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), refused: None }
    }
}

/// Answers a request of `from`.
///
/// Newer metadata that the message tells of is fetched first. A message that makes no sense is
/// answered with its flaw, so that it harms no other on the same stream. One that has no place, or
/// whose time is over, is answered so, undone.
pub(super) async fn answer(
    handler: Arc<dyn Handler>,
    from: NodeId,
    message: Message,
    arrival: Arrival,
) -> Message {
    let id = message.id;
    let reply = respond(&*handler, from, message, arrival).await;
    wire::reply_message(id, handler.metadata_version(), reply)
}

async fn respond(handler: &dyn Handler, from: NodeId, message: Message, arrival: Arrival) -> Reply {
    let timeout = Duration::from_millis(message.timeout_ms.into());
    let timeout = timeout.saturating_sub(arrival.at.elapsed());
    let request_id = RequestId::new(&message.request_id);
    let request = match wire::decode_request(message.body) {
        Ok(request) => request,
        Err(flaw) => return malformed(&flaw),
    };
    let operation = match &request {
        Request::ForwardWrite(write) => Some(write.operation),
        _ => None,
    };
    if let Some(refused) = arrival.refused {
        return at_the_door(&request, &refused);
    }
    if timeout.is_zero() {
        let waiting_for = "a peer's request waited".to_owned();
        return at_the_door(&request, &RequestError::Timeout { waiting_for });
    }
    let work = handle(handler, from, message.version, (request, timeout));
    let work = trace::scoped(request_id, work);
    tokio::time::timeout(timeout.saturating_add(GRACE), work).await.unwrap_or_else(|_| {
        let error = RequestError::Timeout { waiting_for: "a peer's request ran".to_owned() };
        match operation {
            None => Reply::Failed(error),
            Some(operation) => Reply::WriteFailed(WriteError::unknown(operation, error)),
        }
    })
}

/// The answer to a request that nothing was done for.
fn at_the_door(request: &Request, error: &RequestError) -> Reply {
    match request {
        Request::ForwardWrite(write) => {
            Reply::WriteFailed(WriteError::at_the_door(write.doubtful(), error.clone()))
        }
        Request::ForwardWriteBatch(writes) => {
            let refused = |write: &ForwardWrite| {
                Err(WriteError::at_the_door(write.doubtful(), error.clone()))
            };
            Reply::WriteBatch(writes.iter().map(refused).collect())
        }
        _ => Reply::Failed(error.clone()),
    }
}

async fn handle(
    handler: &dyn Handler,
    from: NodeId,
    version: u64,
    (request, timeout): (Request, Duration),
) -> Reply {
    if version <= handler.metadata_version() {
        return handler.handle(from, request, timeout).await;
    }
    let started = Instant::now();
    handler.newer_metadata(from, version).await;
    handler.handle(from, request, timeout.saturating_sub(started.elapsed())).await
}

/// Nothing was done. Of a write this says no more than that: whether an earlier request under its id
/// was, its flaw may hide.
fn malformed(flaw: &WireError) -> Reply {
    Reply::Failed(RequestError::Invalid { reason: format!("malformed request: {flaw}") })
}
