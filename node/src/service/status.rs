//! The one place where an error becomes a gRPC status.
//!
//! The code says what a client may do about it; the details carry an `ErrorDetail` in the standard
//! `google.rpc.Status` form, so that any client can read what was needed and what became of a write.

use prost::Message as _;
use quorate_proto::v1::error_detail::{Kind, Outcome as OutcomeMessage};
use quorate_proto::v1::{BatchError, ErrorDetail, OperationId as OperationMessage};
use tonic::{Code, Status};
use tonic_types::pb;

use crate::dynamo::operation::OperationId;
use crate::error::{Outcome, RequestError, WriteError};

const DETAIL_TYPE: &str = "type.googleapis.com/quorate.v1.ErrorDetail";

const RETRY_TYPE: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// The status of a failed request that was no write; `node` is the name of this node.
pub fn of_request(error: &RequestError, node: &str) -> Status {
    status(error, detail(error, node))
}

/// The status of a request that was refused before anybody could know what it was.
pub fn of_unread(error: &RequestError, node: &str) -> Status {
    let detail = ErrorDetail { outcome: OutcomeMessage::Unread.into(), ..detail(error, node) };
    status(error, detail)
}

/// The status of a failed write.
pub fn of_write(error: &WriteError, node: &str) -> Status {
    status(&error.error, write_detail(error, node))
}

/// What a key of a batch that could not be read is answered.
pub fn of_batch_get(error: &RequestError, node: &str) -> BatchError {
    batch_error(error, detail(error, node))
}

/// What a failed write of a batch is answered.
pub fn of_batch_put(error: &WriteError, node: &str) -> BatchError {
    batch_error(&error.error, write_detail(error, node))
}

fn batch_error(error: &RequestError, detail: ErrorDetail) -> BatchError {
    BatchError { code: code_of(error).into(), message: error.to_string(), detail: Some(detail) }
}

fn write_detail(error: &WriteError, node: &str) -> ErrorDetail {
    let mut detail = detail(&error.error, node);
    match error.outcome {
        Outcome::NotApplied => detail.outcome = OutcomeMessage::NotApplied.into(),
        Outcome::Unknown(id) => {
            detail.outcome = OutcomeMessage::Unknown.into();
            detail.operation_id = Some(operation_message(&id));
        }
    }
    detail
}

/// An operation id as clients see it.
pub fn operation_message(id: &OperationId) -> OperationMessage {
    OperationMessage {
        coordinator: id.coordinator.0,
        opening: id.opening.0,
        client: id.client,
        sequence: id.sequence,
        issued_ms: id.issued_ms,
    }
}

fn status(error: &RequestError, detail: ErrorDetail) -> Status {
    let code = code_of(error);
    let message = error.to_string();
    let mut details = vec![prost_types_any(&detail)];
    // For clients that know gRPC's own details and not ours.
    if let RequestError::Overloaded { retry_after_ms, .. }
    | RequestError::HintsFull { retry_after_ms, .. } = error
    {
        details.push(retry_info(*retry_after_ms));
    }
    let details = pb::Status { code: code.into(), message: message.clone(), details };
    Status::with_details(code, message, details.encode_to_vec().into())
}

fn prost_types_any(detail: &ErrorDetail) -> prost_types::Any {
    prost_types::Any { type_url: DETAIL_TYPE.to_owned(), value: detail.encode_to_vec() }
}

fn retry_info(retry_after_ms: u32) -> prost_types::Any {
    let nanos = (retry_after_ms % 1000) as i32 * 1_000_000;
    let delay = prost_types::Duration { seconds: (retry_after_ms / 1000).into(), nanos };
    let info = pb::RetryInfo { retry_delay: Some(delay) };
    prost_types::Any { type_url: RETRY_TYPE.to_owned(), value: info.encode_to_vec() }
}

fn code_of(error: &RequestError) -> Code {
    match error {
        RequestError::Invalid { .. } | RequestError::Context(_) => Code::InvalidArgument,
        RequestError::UnknownNamespace { .. } | RequestError::KeyNotFound => Code::NotFound,
        RequestError::TooManySiblings { .. }
        | RequestError::SeveralSiblings { .. }
        | RequestError::NoMajority { .. }
        | RequestError::EarlierOpening { .. }
        | RequestError::OperationTime { .. }
        | RequestError::DiskFailed { .. } => Code::FailedPrecondition,
        RequestError::ClockSkew { .. }
        | RequestError::ClockUncertain { .. }
        | RequestError::QuorumNotReached { .. }
        | RequestError::CoordinatorUnreachable { .. }
        | RequestError::NotReady { .. }
        | RequestError::NotReadyElsewhere { .. } => Code::Unavailable,
        RequestError::Timeout { .. } | RequestError::TimeoutElsewhere { .. } => {
            Code::DeadlineExceeded
        }
        RequestError::Overloaded { .. }
        | RequestError::HintsFull { .. }
        | RequestError::DiskFull { .. } => Code::ResourceExhausted,
        RequestError::Conflict { .. } => Code::AlreadyExists,
        RequestError::ChangeUnknown { .. } => Code::Aborted,
        RequestError::Data { .. } | RequestError::Damaged { .. } => Code::DataLoss,
        RequestError::Internal { .. } => Code::Internal,
    }
}

fn detail(error: &RequestError, node: &str) -> ErrorDetail {
    let mut detail = ErrorDetail { node: node.to_owned(), ..ErrorDetail::default() };
    let kind = match error {
        RequestError::Invalid { .. } => Kind::Invalid,
        RequestError::UnknownNamespace { .. } => Kind::UnknownNamespace,
        RequestError::Context(_) => Kind::Context,
        RequestError::TooManySiblings { .. } | RequestError::SeveralSiblings { .. } => {
            Kind::Siblings
        }
        RequestError::KeyNotFound => Kind::KeyNotFound,
        RequestError::ClockSkew { ahead_ms, max_ms, .. } => {
            (detail.clock_ahead_ms, detail.clock_skew_max_ms) = (*ahead_ms, *max_ms);
            Kind::ClockSkew
        }
        RequestError::ClockUncertain { .. } => Kind::ClockSkew,
        RequestError::QuorumNotReached { needed, got, .. } => {
            (detail.needed, detail.got) = (*needed, *got);
            Kind::Quorum
        }
        RequestError::Timeout { .. } | RequestError::TimeoutElsewhere { .. } => Kind::Timeout,
        RequestError::Overloaded { retry_after_ms, .. }
        | RequestError::HintsFull { retry_after_ms, .. } => {
            detail.retry_after_ms = *retry_after_ms;
            Kind::Overloaded
        }
        RequestError::CoordinatorUnreachable { .. } => Kind::Coordinator,
        RequestError::EarlierOpening { opening } | RequestError::OperationTime { opening } => {
            detail.opening = opening.0;
            Kind::Opening
        }
        RequestError::NotReady { .. } => Kind::NotReady,
        RequestError::NotReadyElsewhere { .. } => Kind::NotReadyElsewhere,
        RequestError::Conflict { .. } => Kind::Conflict,
        RequestError::NoMajority { .. } => Kind::NoMajority,
        RequestError::ChangeUnknown { .. } => Kind::ChangeUnknown,
        RequestError::Data { .. } | RequestError::Damaged { .. } => Kind::Data,
        RequestError::DiskFull { .. } => Kind::DiskFull,
        RequestError::DiskFailed { .. } => Kind::DiskFailed,
        RequestError::Internal { .. } => Kind::Internal,
    };
    detail.kind = kind.into();
    detail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamo::key::NodeId;
    use crate::dynamo::operation::Opening;

    fn decoded(status: &Status) -> ErrorDetail {
        let details = pb::Status::decode(status.details()).unwrap();
        assert_eq!(details.details[0].type_url, DETAIL_TYPE);
        ErrorDetail::decode(&details.details[0].value[..]).unwrap()
    }

    #[test]
    fn a_failed_write_says_what_became_of_it() {
        let id = OperationId {
            issued_ms: 5,
            coordinator: NodeId(4),
            opening: Opening(3),
            client: 2,
            sequence: 1,
        };
        let detail = String::new();
        let error = RequestError::QuorumNotReached { needed: 2, got: 1, detail };
        let status = of_write(&WriteError::unknown(id, error.clone()), "node-1");
        assert_eq!(status.code(), Code::Unavailable);
        let detail = decoded(&status);
        assert_eq!((detail.kind(), detail.outcome()), (Kind::Quorum, OutcomeMessage::Unknown));
        assert_eq!((detail.needed, detail.got, &*detail.node), (2, 1, "node-1"));
        assert_eq!(detail.operation_id, Some(operation_message(&id)));

        let status = of_write(&WriteError::not_applied(error.clone()), "node-1");
        assert_eq!(decoded(&status).outcome(), OutcomeMessage::NotApplied);
        assert_eq!(decoded(&of_request(&error, "n")).outcome(), OutcomeMessage::None);
    }

    /// Not the kind of a node that is starting: clients take that for said before the write was
    /// looked up, and would ask again for what was refused for good.
    #[test]
    fn a_clock_that_is_not_known_to_be_right_is_of_the_kind_of_clocks() {
        let status = of_request(&RequestError::clock_uncertain("not compared"), "node-1");
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(decoded(&status).kind(), Kind::ClockSkew);
    }

    /// Clients avoid a node that is not ready: not the one that tells it of another.
    #[test]
    fn a_node_that_tells_of_another_is_ready_itself() {
        let here = RequestError::not_ready("the node is stopping");
        assert_eq!(decoded(&of_request(&here, "n")).kind(), Kind::NotReady);
        let told = decoded(&of_request(&here.elsewhere(), "n"));
        assert_eq!(told.kind(), Kind::NotReadyElsewhere);
    }

    /// ALREADY_EXISTS is for what exists: who creates what is missing goes on after it.
    #[test]
    fn a_change_that_was_not_made_or_may_have_been_is_no_conflict() {
        let reason = String::new;
        let cases = [
            (RequestError::Conflict { reason: reason() }, Code::AlreadyExists, Kind::Conflict),
            (
                RequestError::NoMajority { reason: reason() },
                Code::FailedPrecondition,
                Kind::NoMajority,
            ),
            (RequestError::ChangeUnknown { reason: reason() }, Code::Aborted, Kind::ChangeUnknown),
        ];
        for (error, code, kind) in cases {
            let status = of_request(&error, "node-1");
            assert_eq!((status.code(), decoded(&status).kind()), (code, kind));
        }
    }

    #[test]
    fn overload_says_when_to_come_back_in_both_ways() {
        let error = RequestError::Overloaded { what: "a queue".into(), retry_after_ms: 1250 };
        let status = of_request(&error, "node-1");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(decoded(&status).retry_after_ms, 1250);
        let delay = tonic_types::StatusExt::get_details_retry_info(&status).unwrap().retry_delay;
        assert_eq!(delay, Some(std::time::Duration::from_millis(1250)));
    }
}
