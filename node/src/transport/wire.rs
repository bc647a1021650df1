//! Messages between peers as bytes: the only place that knows their protobuf form.
//!
//! ```text
//!   Request ─ encode_request ─▶ Body ─ request_message ─▶ Message{id, version, timeout, body}
//!                                                            │ as many as have queued up
//!   Request ◀─ decode_request ─ Body ◀───────── Frame{messages} ◀─ one gRPC message
//! ```
//!
//! Encoding is total and takes its argument by value: values, objects and documents keep sharing
//! their memory. Decoding trusts nothing: whatever a peer sends is a domain value that holds all of
//! its invariants, or a [`WireError`] that says what is wrong. Objects stay encoded here; who needs
//! their content decodes them and meets their flaws.
//!
//! Left out: compatibility between protocol numbers. Nodes with different numbers do not talk.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quorate_proto::peer as proto;
pub use quorate_proto::peer::message::Body;
pub use quorate_proto::peer::{Frame, Message};
use thiserror::Error;

use super::{Reply, Request};
use crate::dynamo::encoding::{DecodeError, Reader, Writer};
use crate::dynamo::format::{read_operation, write_operation};
use crate::dynamo::key::KeyError;
use crate::dynamo::operation::OperationId;
use crate::trace;

mod batch;
mod exchange;
mod failure;
mod reply;
mod request;
#[cfg(test)]
mod tests;
mod trees;

pub use failure::{decode_failure, encode_failure};

/// The version of the peer protocol. It changes with the meaning of any message.
pub const PROTOCOL: u32 = 11;

/// Why a peer's bytes are no message. Nothing was done with them.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum WireError {
    /// They are no protobuf frame.
    #[error("not a frame: {reason}")]
    Frame {
        /// What the decoder says.
        reason: String,
    },
    /// The body is of a kind that this receiver does not know, or that is out of place here.
    #[error("a {found} where a {expected} was expected")]
    Unexpected {
        /// What came.
        found: &'static str,
        /// What would have been right.
        expected: &'static str,
    },
    /// A field that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A number that the field cannot have.
    #[error("{field} cannot be {value}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it was.
        value: u64,
    },
    /// A key of a forbidden length.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A field in a canonical encoding does not decode.
    #[error(transparent)]
    Encoding(#[from] DecodeError),
}

/// A request as a message; `timeout` is how long its sender waits, rounded up to a millisecond. It
/// names the client's request that the present task works for.
pub fn request_message(id: u64, version: u64, timeout: Duration, request: Request) -> Message {
    let request_id = trace::current().map(|id| id.as_str().to_owned()).unwrap_or_default();
    let (timeout_ms, body) = (timeout_ms(timeout), Some(encode_request(request)));
    Message { id, version, timeout_ms, request_id, body }
}

/// A time in a message: milliseconds, rounded up, so that some is not none.
pub fn timeout_ms(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(u32::MAX)
}

/// The answer to the request of this id as a message.
pub fn reply_message(id: u64, version: u64, reply: Reply) -> Message {
    let body = Some(encode_reply(reply));
    Message { id, version, body, ..Message::default() }
}

/// A frame's bytes.
pub fn encode_frame(frame: &Frame) -> Bytes {
    frame.encode_to_vec().into()
}

/// A frame from its bytes; its fields share their memory.
pub fn decode_frame(bytes: Bytes) -> Result<Frame, WireError> {
    Frame::decode(bytes).map_err(|error| WireError::Frame { reason: error.to_string() })
}

/// A short word for what a message is, for traces and errors.
pub fn kind(body: Option<&Body>) -> &'static str {
    match body {
        None => "message of unknown kind",
        Some(Body::Replicate(_)) => "replicate",
        Some(Body::Read(_)) => "read",
        Some(Body::ForwardGet(_)) => "forward_get",
        Some(Body::ForwardWrite(_)) => "forward_write",
        Some(Body::ReplicateBatch(_)) => "replicate_batch",
        Some(Body::ReadBatch(_)) => "read_batch",
        Some(Body::ForwardGetBatch(_)) => "forward_get_batch",
        Some(Body::ForwardWriteBatch(_)) => "forward_write_batch",
        Some(Body::ScanPage(_)) => "scan_page",
        Some(Body::DocumentRequest(_)) => "document_request",
        Some(Body::Learn(_)) => "learn",
        Some(Body::Register(_)) => "register",
        Some(Body::ClockRequest(_)) => "clock_request",
        Some(Body::Gossip(_)) => "gossip",
        Some(Body::Handoff(_)) => "handoff",
        Some(Body::HintsRequest(_)) => "hints_request",
        Some(Body::LookUp(_)) => "look_up",
        Some(Body::Frontiers(_)) => "frontiers",
        Some(Body::Keys(_)) => "keys",
        Some(Body::Trees(_)) => "trees",
        Some(Body::Replicated(_)) => "replicated",
        Some(Body::ReadReply(_)) => "read_reply",
        Some(Body::GetResult(_)) => "get_result",
        Some(Body::WriteResult(_)) => "write_result",
        Some(Body::ReplicatedBatch(_)) => "replicated_batch",
        Some(Body::ReadBatchReply(_)) => "read_batch_reply",
        Some(Body::GetBatchResult(_)) => "get_batch_result",
        Some(Body::WriteBatchResult(_)) => "write_batch_result",
        Some(Body::ScanPageReply(_)) => "scan_page_reply",
        Some(Body::DocumentReply(_)) => "document_reply",
        Some(Body::Learned(_)) => "learned",
        Some(Body::Registered(_)) => "registered",
        Some(Body::ClockReply(_)) => "clock_reply",
        Some(Body::Heard(_)) => "heard",
        Some(Body::HandoffReply(_)) => "handoff_reply",
        Some(Body::HintsReply(_)) => "hints_reply",
        Some(Body::LookedUp(_)) => "looked_up",
        Some(Body::FrontiersReply(_)) => "frontiers_reply",
        Some(Body::KeysReply(_)) => "keys_reply",
        Some(Body::TreesReply(_)) => "trees_reply",
        Some(Body::Failure(_)) => "failure",
    }
}

/// Whether a message is a request, not an answer.
pub fn is_request(body: Option<&Body>) -> bool {
    match body {
        Some(
            Body::Replicate(_)
            | Body::Read(_)
            | Body::ForwardGet(_)
            | Body::ForwardWrite(_)
            | Body::ReplicateBatch(_)
            | Body::ReadBatch(_)
            | Body::ForwardGetBatch(_)
            | Body::ForwardWriteBatch(_)
            | Body::ScanPage(_)
            | Body::DocumentRequest(_)
            | Body::Learn(_)
            | Body::Register(_)
            | Body::ClockRequest(_)
            | Body::Gossip(_)
            | Body::Handoff(_)
            | Body::HintsRequest(_)
            | Body::LookUp(_)
            | Body::Frontiers(_)
            | Body::Keys(_)
            | Body::Trees(_),
        ) => true,
        None | Some(_) => false,
    }
}

/// Whether a request is answered from memory, at once: a message of that kind waits for no other.
pub fn is_answered_at_once(body: Option<&Body>) -> bool {
    matches!(body, Some(Body::Gossip(_) | Body::HintsRequest(_) | Body::ClockRequest(_)))
}

/// A request's protobuf form.
pub fn encode_request(request: Request) -> Body {
    match request {
        Request::Replicate(m) => Body::Replicate(request::encode_replicate(m)),
        Request::Read(m) => Body::Read(request::encode_read(m)),
        Request::ForwardGet(m) => Body::ForwardGet(request::encode_forward_get(m)),
        Request::ForwardWrite(m) => Body::ForwardWrite(request::encode_forward_write(m)),
        Request::ReplicateBatch(items) => {
            let items = items.into_iter().map(request::encode_replicate).collect();
            Body::ReplicateBatch(proto::ReplicateBatch { items })
        }
        Request::ReadBatch(items) => {
            let items = items.into_iter().map(request::encode_read).collect();
            Body::ReadBatch(proto::ReadBatch { items })
        }
        Request::ForwardGetBatch(items) => {
            let items = items.into_iter().map(request::encode_forward_get).collect();
            Body::ForwardGetBatch(proto::ForwardGetBatch { items })
        }
        Request::ForwardWriteBatch(items) => {
            let items = items.into_iter().map(request::encode_forward_write).collect();
            Body::ForwardWriteBatch(proto::ForwardWriteBatch { items })
        }
        Request::ScanPage(m) => Body::ScanPage(request::encode_scan_page(m)),
        Request::Document => Body::DocumentRequest(proto::DocumentRequest {}),
        Request::Learn(document) => Body::Learn(proto::Learn { document }),
        Request::Register(message) => Body::Register(proto::Register { message }),
        Request::Clock => Body::ClockRequest(proto::ClockRequest {}),
        Request::Gossip(datagram) => Body::Gossip(proto::Gossip { datagram }),
        Request::Handoff(items) => {
            let items = items.into_iter().map(request::encode_replicate).collect();
            Body::Handoff(proto::Handoff { items })
        }
        Request::Hints => Body::HintsRequest(proto::HintsRequest {}),
        Request::LookUp(m) => Body::LookUp(request::encode_look_up(m)),
        Request::Frontiers { asked, recall } => {
            Body::Frontiers(exchange::encode_frontiers(asked, recall))
        }
        Request::Keys(vnode, dots) => Body::Keys(exchange::encode_keys(vnode, &dots)),
        Request::Trees(asked) => Body::Trees(trees::encode_request(asked)),
    }
}

/// The request of a message.
pub fn decode_request(body: Option<Body>) -> Result<Request, WireError> {
    Ok(match body {
        Some(Body::Replicate(m)) => Request::Replicate(request::decode_replicate(m)?),
        Some(Body::Read(m)) => Request::Read(request::decode_read(m)?),
        Some(Body::ForwardGet(m)) => Request::ForwardGet(request::decode_forward_get(m)?),
        Some(Body::ForwardWrite(m)) => Request::ForwardWrite(request::decode_forward_write(m)?),
        Some(Body::ReplicateBatch(m)) => {
            Request::ReplicateBatch(all(m.items, request::decode_replicate)?)
        }
        Some(Body::ReadBatch(m)) => Request::ReadBatch(all(m.items, request::decode_read)?),
        Some(Body::ForwardGetBatch(m)) => {
            Request::ForwardGetBatch(all(m.items, request::decode_forward_get)?)
        }
        Some(Body::ForwardWriteBatch(m)) => {
            Request::ForwardWriteBatch(all(m.items, request::decode_forward_write)?)
        }
        Some(Body::ScanPage(m)) => Request::ScanPage(request::decode_scan_page(m)?),
        Some(Body::DocumentRequest(_)) => Request::Document,
        Some(Body::Learn(m)) => Request::Learn(m.document),
        Some(Body::Register(m)) => Request::Register(m.message),
        Some(Body::ClockRequest(_)) => Request::Clock,
        Some(Body::Gossip(m)) => Request::Gossip(m.datagram),
        Some(Body::Handoff(m)) => Request::Handoff(all(m.items, request::decode_replicate)?),
        Some(Body::HintsRequest(_)) => Request::Hints,
        Some(Body::LookUp(m)) => Request::LookUp(request::decode_look_up(m)?),
        Some(Body::Frontiers(m)) => {
            let recall = m.recall;
            Request::Frontiers { asked: exchange::decode_frontiers(m)?, recall }
        }
        Some(Body::Keys(m)) => {
            let (vnode, dots) = exchange::decode_keys(m)?;
            Request::Keys(vnode, dots)
        }
        Some(Body::Trees(m)) => Request::Trees(trees::decode_request(m)?),
        other => return Err(unexpected(other.as_ref(), "request")),
    })
}

/// Decodes every item of a batch.
fn all<M, T>(
    items: Vec<M>,
    decode: impl Fn(M) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    items.into_iter().map(decode).collect()
}

/// A reply's protobuf form.
pub fn encode_reply(reply: Reply) -> Body {
    match reply {
        Reply::Replicated { synced } => Body::Replicated(proto::Replicated { synced }),
        Reply::Held { held, standing } => Body::ReadReply(reply::encode_held(held, standing)),
        Reply::GetResult(m) => Body::GetResult(reply::encode_get_result(m)),
        Reply::WriteResult(m) => Body::WriteResult(reply::encode_write_result(m)),
        Reply::ReplicatedBatch(items) => Body::ReplicatedBatch(batch::encode_replicated(items)),
        Reply::HeldBatch(items) => Body::ReadBatchReply(batch::encode_held(items)),
        Reply::GetBatch(items) => Body::GetBatchResult(batch::encode_gets(items)),
        Reply::WriteBatch(items) => Body::WriteBatchResult(batch::encode_writes(items)),
        Reply::ScanPage(m) => Body::ScanPageReply(reply::encode_scan_page(m)),
        Reply::Document(document) => Body::DocumentReply(proto::DocumentReply { document }),
        Reply::Learned { version } => Body::Learned(proto::Learned { version }),
        Reply::Register(message) => Body::Registered(proto::Register { message }),
        Reply::Clock { now_ms } => Body::ClockReply(proto::ClockReply { now_ms }),
        Reply::Heard => Body::Heard(proto::Heard {}),
        Reply::Handoff { taken, credit } => {
            Body::HandoffReply(batch::encode_handoff(taken, credit))
        }
        Reply::Hints(hints) => Body::HintsReply(reply::encode_hints(hints)),
        Reply::LookedUp(m) => Body::LookedUp(reply::encode_looked_up(m)),
        Reply::Frontiers { answers, settled } => {
            Body::FrontiersReply(exchange::encode_answers(answers, settled))
        }
        Reply::Keys(m) => Body::KeysReply(exchange::encode_key_dots(m)),
        Reply::Trees(m) => Body::TreesReply(trees::encode_reply(m)),
        Reply::Failed(error) => Body::Failure(encode_failure(error, None)),
        Reply::WriteFailed(error) => {
            Body::Failure(encode_failure(error.error, Some(error.outcome)))
        }
    }
}

/// The reply of a message.
pub fn decode_reply(body: Option<Body>) -> Result<Reply, WireError> {
    Ok(match body {
        Some(Body::Replicated(m)) => Reply::Replicated { synced: m.synced },
        Some(Body::ReadReply(m)) => {
            let (held, standing) = reply::decode_held(m)?;
            Reply::Held { held, standing }
        }
        Some(Body::GetResult(m)) => Reply::GetResult(reply::decode_get_result(m)),
        Some(Body::WriteResult(m)) => Reply::WriteResult(reply::decode_write_result(m)?),
        Some(Body::ReplicatedBatch(m)) => Reply::ReplicatedBatch(batch::decode_replicated(m)?),
        Some(Body::ReadBatchReply(m)) => Reply::HeldBatch(batch::decode_held(m)?),
        Some(Body::GetBatchResult(m)) => Reply::GetBatch(batch::decode_gets(m)?),
        Some(Body::WriteBatchResult(m)) => Reply::WriteBatch(batch::decode_writes(m)?),
        Some(Body::ScanPageReply(m)) => Reply::ScanPage(reply::decode_scan_page(m)?),
        Some(Body::DocumentReply(m)) => Reply::Document(m.document),
        Some(Body::Learned(m)) => Reply::Learned { version: m.version },
        Some(Body::Registered(m)) => Reply::Register(m.message),
        Some(Body::ClockReply(m)) => Reply::Clock { now_ms: m.now_ms },
        Some(Body::Heard(_)) => Reply::Heard,
        Some(Body::HandoffReply(m)) => batch::decode_handoff(m)?,
        Some(Body::HintsReply(m)) => Reply::Hints(reply::decode_hints(m)),
        Some(Body::LookedUp(m)) => Reply::LookedUp(reply::decode_looked_up(m)?),
        Some(Body::FrontiersReply(m)) => {
            let settled = m.settled;
            Reply::Frontiers { answers: exchange::decode_answers(m)?, settled }
        }
        Some(Body::KeysReply(m)) => Reply::Keys(exchange::decode_key_dots(m)?),
        Some(Body::TreesReply(m)) => Reply::Trees(trees::decode_reply(m)?),
        Some(Body::Failure(m)) => failure::decode_failed(m)?,
        other => return Err(unexpected(other.as_ref(), "reply")),
    })
}

fn unexpected(body: Option<&Body>, expected: &'static str) -> WireError {
    WireError::Unexpected { found: kind(body), expected }
}

fn encode_operation(operation: &OperationId) -> Bytes {
    let mut w = Writer::with_capacity(40);
    write_operation(&mut w, operation);
    w.finish()
}

fn decode_operation(bytes: Bytes) -> Result<OperationId, WireError> {
    let mut r = Reader::new(bytes);
    let operation = read_operation(&mut r, "operation")?;
    r.finish("operation")?;
    Ok(operation)
}
