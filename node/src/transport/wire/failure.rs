//! Errors between peers: a forwarded request fails with the words of the node that knew.

use bytes::Bytes;
use quorate_proto::peer as proto;
use quorate_proto::peer::failure::{Code, Outcome as WireOutcome};

use super::{WireError, decode_operation, encode_operation};
use crate::dynamo::context::ContextError;
use crate::dynamo::key::NodeId;
use crate::dynamo::operation::Opening;
use crate::error::{Outcome, RequestError, WriteError};
use crate::transport::Reply;

/// The protobuf form of an error and, of a write, what became of it.
pub fn encode_failure(error: RequestError, outcome: Option<Outcome>) -> proto::Failure {
    let mut failure = encode_error(error);
    let (outcome, operation) = match outcome {
        None => (WireOutcome::None, Bytes::new()),
        Some(Outcome::NotApplied) => (WireOutcome::NotApplied, Bytes::new()),
        Some(Outcome::Unknown(id)) => (WireOutcome::Unknown, encode_operation(&id)),
    };
    failure.set_outcome(outcome);
    failure.operation = operation;
    failure
}

/// The error and, of a write, what became of it.
pub fn decode_failure(m: proto::Failure) -> Result<(RequestError, Option<Outcome>), WireError> {
    let outcome = match WireOutcome::try_from(m.outcome) {
        Ok(WireOutcome::None) => None,
        Ok(WireOutcome::NotApplied) => Some(Outcome::NotApplied),
        Ok(WireOutcome::Unknown) => Some(Outcome::Unknown(decode_operation(m.operation.clone())?)),
        Err(_) => return Err(unknown("outcome", m.outcome)),
    };
    Ok((decode_error(m)?, outcome))
}

/// The reply that a failure is.
pub(super) fn decode_failed(m: proto::Failure) -> Result<Reply, WireError> {
    Ok(match decode_failure(m)? {
        (error, None) => Reply::Failed(error),
        (error, Some(outcome)) => Reply::WriteFailed(WriteError { error, outcome }),
    })
}

fn encode_error(error: RequestError) -> proto::Failure {
    let with = |code: Code, message: String| proto::Failure {
        code: code.into(),
        message,
        ..proto::Failure::default()
    };
    match error {
        RequestError::Invalid { reason } => with(Code::Invalid, reason),
        RequestError::UnknownNamespace { name } => with(Code::UnknownNamespace, name),
        RequestError::Context(ContextError::Malformed) => {
            with(Code::ContextMalformed, String::new())
        }
        RequestError::Context(ContextError::Foreign) => with(Code::ContextForeign, String::new()),
        RequestError::TooManySiblings { count } => {
            let number = count.into();
            proto::Failure { number, ..with(Code::TooManySiblings, String::new()) }
        }
        RequestError::SeveralSiblings { count } => {
            let number = count.into();
            proto::Failure { number, ..with(Code::SeveralSiblings, String::new()) }
        }
        RequestError::KeyNotFound => with(Code::KeyNotFound, String::new()),
        RequestError::ClockSkew { what, ahead_ms, max_ms } => {
            let number = ahead_ms.cast_unsigned();
            proto::Failure { number, limit: max_ms, ..with(Code::ClockSkew, what) }
        }
        RequestError::ClockUncertain { reason, lasts } => {
            proto::Failure { number: lasts.into(), ..with(Code::ClockUncertain, reason) }
        }
        RequestError::QuorumNotReached { needed, got, detail } => {
            proto::Failure { needed, got, ..with(Code::QuorumNotReached, detail) }
        }
        // Whoever hears of it knows that it was elsewhere.
        RequestError::Timeout { waiting_for } | RequestError::TimeoutElsewhere { waiting_for } => {
            with(Code::Timeout, waiting_for)
        }
        RequestError::Overloaded { what, retry_after_ms } => {
            proto::Failure { retry_after_ms, ..with(Code::Overloaded, what) }
        }
        RequestError::HintsFull { max_bytes, retry_after_ms } => proto::Failure {
            limit: max_bytes,
            retry_after_ms,
            ..with(Code::HintsFull, String::new())
        },
        RequestError::CoordinatorUnreachable { node, reason } => {
            proto::Failure { number: node.0, ..with(Code::CoordinatorUnreachable, reason) }
        }
        RequestError::EarlierOpening { opening } => {
            proto::Failure { number: opening.0, ..with(Code::EarlierOpening, String::new()) }
        }
        RequestError::OperationTime { opening } => {
            proto::Failure { number: opening.0, ..with(Code::OperationTime, String::new()) }
        }
        RequestError::NotReady { reason } | RequestError::NotReadyElsewhere { reason } => {
            with(Code::NotReady, reason)
        }
        RequestError::Conflict { reason } => with(Code::Conflict, reason),
        RequestError::NoMajority { reason } => with(Code::NoMajority, reason),
        RequestError::ChangeUnknown { reason } => with(Code::ChangeUnknown, reason),
        RequestError::Data { reason } => with(Code::Data, reason),
        RequestError::Damaged { reason } => with(Code::Damaged, reason),
        RequestError::DiskFull { reason } => with(Code::DiskFull, reason),
        RequestError::DiskFailed { reason } => with(Code::DiskFailed, reason),
        RequestError::Internal { reason } => with(Code::Internal, reason),
    }
}

fn decode_error(m: proto::Failure) -> Result<RequestError, WireError> {
    let text = m.message;
    Ok(match Code::try_from(m.code) {
        Ok(Code::Invalid) => RequestError::Invalid { reason: text },
        Ok(Code::UnknownNamespace) => RequestError::UnknownNamespace { name: text },
        Ok(Code::ContextMalformed) => RequestError::Context(ContextError::Malformed),
        Ok(Code::ContextForeign) => RequestError::Context(ContextError::Foreign),
        Ok(Code::TooManySiblings) => RequestError::TooManySiblings { count: count(m.number)? },
        Ok(Code::SeveralSiblings) => RequestError::SeveralSiblings { count: count(m.number)? },
        Ok(Code::KeyNotFound) => RequestError::KeyNotFound,
        Ok(Code::ClockSkew) => {
            let ahead_ms = m.number.cast_signed();
            RequestError::ClockSkew { what: text, ahead_ms, max_ms: m.limit }
        }
        Ok(Code::ClockUncertain) => {
            RequestError::ClockUncertain { reason: text, lasts: m.number != 0 }
        }
        Ok(Code::QuorumNotReached) => {
            RequestError::QuorumNotReached { needed: m.needed, got: m.got, detail: text }
        }
        Ok(Code::Timeout) => RequestError::Timeout { waiting_for: text },
        Ok(Code::Overloaded) => {
            RequestError::Overloaded { what: text, retry_after_ms: m.retry_after_ms }
        }
        Ok(Code::HintsFull) => {
            RequestError::HintsFull { max_bytes: m.limit, retry_after_ms: m.retry_after_ms }
        }
        Ok(Code::CoordinatorUnreachable) => {
            RequestError::CoordinatorUnreachable { node: NodeId(m.number), reason: text }
        }
        Ok(Code::EarlierOpening) => RequestError::EarlierOpening { opening: Opening(m.number) },
        Ok(Code::OperationTime) => RequestError::OperationTime { opening: Opening(m.number) },
        Ok(Code::NotReady) => RequestError::NotReady { reason: text },
        Ok(Code::Conflict) => RequestError::Conflict { reason: text },
        Ok(Code::NoMajority) => RequestError::NoMajority { reason: text },
        Ok(Code::ChangeUnknown) => RequestError::ChangeUnknown { reason: text },
        Ok(Code::Data) => RequestError::Data { reason: text },
        Ok(Code::Damaged) => RequestError::Damaged { reason: text },
        Ok(Code::DiskFull) => RequestError::DiskFull { reason: text },
        Ok(Code::DiskFailed) => RequestError::DiskFailed { reason: text },
        Ok(Code::Internal) => RequestError::Internal { reason: text },
        Ok(Code::Unspecified) | Err(_) => return Err(unknown("error code", m.code)),
    })
}

fn count(value: u64) -> Result<u32, WireError> {
    u32::try_from(value).map_err(|_| WireError::Value { field: "siblings", value })
}

fn unknown(field: &'static str, value: i32) -> WireError {
    WireError::Value { field, value: u64::from(value.cast_unsigned()) }
}
