//! What a node's answer tells a client: the error details of `quorate.v1`, as any client reads them.

use prost::Message as _;
use quorate_proto::v1::error_detail::{Kind, Outcome};
use quorate_proto::v1::{BatchError, ErrorDetail};
use tonic::Status;
use tonic_types::pb;

/// Why a request was not answered as it wished.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    /// What is known of the write.
    pub(super) outcome: Outcome,
    /// What went wrong; none if nobody said so.
    pub(super) kind: Kind,
    /// The same, in words.
    pub(super) text: String,
}

impl Failure {
    /// Nobody answered.
    pub(super) fn silence(text: &str) -> Self {
        let (outcome, kind) = (Outcome::Unknown, Kind::Unspecified);
        Self { outcome, kind, text: text.to_owned() }
    }

    pub(super) fn of_status(status: &Status) -> Self {
        let details = pb::Status::decode(status.details()).unwrap_or_default().details;
        let detail = details.first().and_then(|any| ErrorDetail::decode(&*any.value).ok());
        Self::of(detail.as_ref(), status.message())
    }

    pub(super) fn of_entry(error: &BatchError) -> Self {
        Self::of(error.detail.as_ref(), &error.message)
    }

    fn of(detail: Option<&ErrorDetail>, text: &str) -> Self {
        let Some(detail) = detail else { return Self::silence(text) };
        Self { outcome: detail.outcome(), kind: detail.kind(), text: text.to_owned() }
    }
}
