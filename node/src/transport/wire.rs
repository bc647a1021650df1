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

use super::{ForwardGet, ForwardWrite, GetResult, Held, Read, Replicate, Reply, Request, ScanPage};
use super::{ScanPageReply, WriteResult};
use crate::dynamo::clock::{Actor, Dot};
use crate::dynamo::encoding::{DecodeError, Reader, Writer};
use crate::dynamo::format::{EncodedObject, read_dot, read_operation, write_dot, write_operation};
use crate::dynamo::key::{Key, KeyError, NamespaceId, NodeId, PartitionId};
use crate::dynamo::object::Digest;
use crate::dynamo::operation::OperationId;
use crate::dynamo::standing::Standing;

mod failure;
#[cfg(test)]
mod tests;

pub use failure::{decode_failure, encode_failure};

/// The version of the peer protocol. It changes with the meaning of any message.
pub const PROTOCOL: u32 = 1;

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

/// A request as a message; `timeout` is how long its sender waits, rounded up to a millisecond.
pub fn request_message(id: u64, version: u64, timeout: Duration, request: Request) -> Message {
    let timeout_ms = u32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
    Message { id, version, timeout_ms, body: Some(encode_request(request)) }
}

/// The answer to the request of this id as a message.
pub fn reply_message(id: u64, version: u64, reply: Reply) -> Message {
    Message { id, version, timeout_ms: 0, body: Some(encode_reply(reply)) }
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
        Some(Body::ScanPage(_)) => "scan_page",
        Some(Body::DocumentRequest(_)) => "document_request",
        Some(Body::Learn(_)) => "learn",
        Some(Body::Register(_)) => "register",
        Some(Body::ClockRequest(_)) => "clock_request",
        Some(Body::Replicated(_)) => "replicated",
        Some(Body::ReadReply(_)) => "read_reply",
        Some(Body::GetResult(_)) => "get_result",
        Some(Body::WriteResult(_)) => "write_result",
        Some(Body::ScanPageReply(_)) => "scan_page_reply",
        Some(Body::DocumentReply(_)) => "document_reply",
        Some(Body::Learned(_)) => "learned",
        Some(Body::Registered(_)) => "registered",
        Some(Body::ClockReply(_)) => "clock_reply",
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
            | Body::ScanPage(_)
            | Body::DocumentRequest(_)
            | Body::Learn(_)
            | Body::Register(_)
            | Body::ClockRequest(_),
        ) => true,
        None | Some(_) => false,
    }
}

/// A request's protobuf form.
pub fn encode_request(request: Request) -> Body {
    match request {
        Request::Replicate(m) => Body::Replicate(proto::Replicate {
            namespace: m.namespace.0,
            key: m.key.to_bytes(),
            object: m.object.0,
            synced: m.synced,
            operation: m.operation.map_or_else(Bytes::new, encode_cause),
            mend: m.mend,
        }),
        Request::Read(m) => Body::Read(proto::Read {
            namespace: m.namespace.0,
            key: m.key.to_bytes(),
            digest: m.digest,
        }),
        Request::ForwardGet(m) => Body::ForwardGet(proto::ForwardGet {
            namespace: m.namespace.0,
            key: m.key.to_bytes(),
            r: m.r.into(),
            blocking_repair: m.blocking_repair,
        }),
        Request::ForwardWrite(m) => Body::ForwardWrite(proto::ForwardWrite {
            namespace: m.namespace.0,
            key: m.key.to_bytes(),
            value: m.value,
            context: m.context,
            w: m.w.into(),
            synced: m.synced,
            operation: encode_operation(&m.operation),
            at_least_once: m.at_least_once,
        }),
        Request::ScanPage(m) => Body::ScanPage(proto::ScanPage {
            namespace: m.namespace.0,
            partition: m.partition.0.into(),
            prefix: m.prefix,
            after: m.after.map_or_else(Bytes::new, |key| key.to_bytes()),
            limit: m.limit,
        }),
        Request::Document => Body::DocumentRequest(proto::DocumentRequest {}),
        Request::Learn(document) => Body::Learn(proto::Learn { document }),
        Request::Register(message) => Body::Register(proto::Register { message }),
        Request::Clock => Body::ClockRequest(proto::ClockRequest {}),
    }
}

/// The request of a message.
pub fn decode_request(body: Option<Body>) -> Result<Request, WireError> {
    Ok(match body {
        Some(Body::Replicate(m)) => Request::Replicate(Replicate {
            namespace: NamespaceId(m.namespace),
            key: Key::new(m.key)?,
            object: EncodedObject(m.object),
            synced: m.synced,
            operation: decode_cause(m.operation)?,
            mend: m.mend,
        }),
        Some(Body::Read(m)) => Request::Read(Read {
            namespace: NamespaceId(m.namespace),
            key: Key::new(m.key)?,
            digest: m.digest,
        }),
        Some(Body::ForwardGet(m)) => Request::ForwardGet(ForwardGet {
            namespace: NamespaceId(m.namespace),
            key: Key::new(m.key)?,
            r: level("r", m.r)?,
            blocking_repair: m.blocking_repair,
        }),
        Some(Body::ForwardWrite(m)) => Request::ForwardWrite(ForwardWrite {
            namespace: NamespaceId(m.namespace),
            key: Key::new(m.key)?,
            value: m.value,
            context: m.context,
            w: level("w", m.w)?,
            synced: m.synced,
            operation: decode_operation(m.operation)?,
            at_least_once: m.at_least_once,
        }),
        Some(Body::ScanPage(m)) => Request::ScanPage(decode_scan_page(m)?),
        Some(Body::DocumentRequest(_)) => Request::Document,
        Some(Body::Learn(m)) => Request::Learn(m.document),
        Some(Body::Register(m)) => Request::Register(m.message),
        Some(Body::ClockRequest(_)) => Request::Clock,
        other => return Err(unexpected(other.as_ref(), "request")),
    })
}

/// A reply's protobuf form.
pub fn encode_reply(reply: Reply) -> Body {
    match reply {
        Reply::Replicated { synced } => Body::Replicated(proto::Replicated { synced }),
        Reply::Held { held, standing } => Body::ReadReply(proto::ReadReply {
            standing: encode_standing(standing),
            held: Some(match held {
                Held::Object(object) => proto::read_reply::Held::Object(object.0),
                Held::Digest(digest) => {
                    proto::read_reply::Held::Digest(Bytes::copy_from_slice(&digest.0))
                }
            }),
        }),
        Reply::GetResult(m) => {
            Body::GetResult(proto::GetResult { object: m.object.0, replicas: m.replicas })
        }
        Reply::WriteResult(m) => Body::WriteResult(proto::WriteResult {
            context: m.context,
            siblings: m.siblings,
            actor: m.dot.actor.0,
            n: m.dot.n,
            acked: m.acked.iter().map(|node| node.0).collect(),
            synced: m.synced,
        }),
        Reply::ScanPage(m) => Body::ScanPageReply(proto::ScanPageReply {
            items: m
                .items
                .into_iter()
                .map(|(key, object)| proto::KeyObject { key: key.to_bytes(), object: object.0 })
                .collect(),
            complete: m.complete,
            damaged: m.damaged.into_iter().map(|key| key.to_bytes()).collect(),
            standing: encode_standing(m.standing),
        }),
        Reply::Document(document) => Body::DocumentReply(proto::DocumentReply { document }),
        Reply::Learned { version } => Body::Learned(proto::Learned { version }),
        Reply::Register(message) => Body::Registered(proto::Register { message }),
        Reply::Clock { now_ms } => Body::ClockReply(proto::ClockReply { now_ms }),
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
            let standing = decode_standing(m.standing)?;
            Reply::Held { held: decode_held(m)?, standing }
        }
        Some(Body::GetResult(m)) => {
            Reply::GetResult(GetResult { object: EncodedObject(m.object), replicas: m.replicas })
        }
        Some(Body::WriteResult(m)) => Reply::WriteResult(WriteResult {
            context: m.context,
            siblings: m.siblings,
            dot: decode_dot(m.actor, m.n)?,
            acked: m.acked.into_iter().map(NodeId).collect(),
            synced: m.synced,
        }),
        Some(Body::ScanPageReply(m)) => Reply::ScanPage(decode_scan_page_reply(m)?),
        Some(Body::DocumentReply(m)) => Reply::Document(m.document),
        Some(Body::Learned(m)) => Reply::Learned { version: m.version },
        Some(Body::Registered(m)) => Reply::Register(m.message),
        Some(Body::ClockReply(m)) => Reply::Clock { now_ms: m.now_ms },
        Some(Body::Failure(m)) => failure::decode_failed(m)?,
        other => return Err(unexpected(other.as_ref(), "reply")),
    })
}

fn unexpected(body: Option<&Body>, expected: &'static str) -> WireError {
    WireError::Unexpected { found: kind(body), expected }
}

/// A number of replicas: at least one, and N fits in a byte.
fn level(field: &'static str, value: u32) -> Result<u8, WireError> {
    let level = u8::try_from(value).ok().filter(|&level| level > 0);
    level.ok_or(WireError::Value { field, value: value.into() })
}

fn decode_dot(actor: u64, n: u64) -> Result<Dot, WireError> {
    match n {
        0 => Err(WireError::Value { field: "dot", value: 0 }),
        n => Ok(Dot { actor: Actor(actor), n }),
    }
}

fn decode_scan_page(m: proto::ScanPage) -> Result<ScanPage, WireError> {
    let partition = u16::try_from(m.partition)
        .map_err(|_| WireError::Value { field: "partition", value: m.partition.into() })?;
    Ok(ScanPage {
        namespace: NamespaceId(m.namespace),
        partition: PartitionId(partition),
        prefix: m.prefix,
        after: if m.after.is_empty() { None } else { Some(Key::new(m.after)?) },
        limit: m.limit,
    })
}

fn decode_scan_page_reply(m: proto::ScanPageReply) -> Result<ScanPageReply, WireError> {
    let item = |item: proto::KeyObject| Ok((Key::new(item.key)?, EncodedObject(item.object)));
    let items = m.items.into_iter().map(item).collect::<Result<_, KeyError>>()?;
    let damaged = m.damaged.into_iter().map(Key::new).collect::<Result<_, KeyError>>()?;
    let standing = decode_standing(m.standing)?;
    Ok(ScanPageReply { items, damaged, complete: m.complete, standing })
}

fn encode_standing(standing: Standing) -> i32 {
    let standing = match standing {
        Standing::Good => proto::Standing::Good,
        Standing::Rebuilding => proto::Standing::Rebuilding,
    };
    standing.into()
}

fn decode_standing(value: i32) -> Result<Standing, WireError> {
    match proto::Standing::try_from(value) {
        Ok(proto::Standing::Good) => Ok(Standing::Good),
        Ok(proto::Standing::Rebuilding) => Ok(Standing::Rebuilding),
        Err(_) => {
            Err(WireError::Value { field: "standing", value: u64::from(value.cast_unsigned()) })
        }
    }
}

fn decode_held(m: proto::ReadReply) -> Result<Held, WireError> {
    match m.held {
        None => Err(WireError::Missing { field: "what is held" }),
        Some(proto::read_reply::Held::Object(object)) => Ok(Held::Object(EncodedObject(object))),
        Some(proto::read_reply::Held::Digest(bytes)) => {
            let mut r = Reader::new(bytes);
            let digest = Digest(r.array("digest")?);
            r.finish("digest")?;
            Ok(Held::Digest(digest))
        }
    }
}

/// Operation id and dot: 40 bytes, then 9 to 18.
fn encode_cause((operation, dot): (OperationId, Dot)) -> Bytes {
    let mut w = Writer::with_capacity(58);
    write_operation(&mut w, &operation);
    write_dot(&mut w, dot);
    w.finish()
}

fn decode_cause(bytes: Bytes) -> Result<Option<(OperationId, Dot)>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut r = Reader::new(bytes);
    let cause = (read_operation(&mut r, "operation")?, read_dot(&mut r, "operation dot")?);
    r.finish("operation")?;
    Ok(Some(cause))
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
