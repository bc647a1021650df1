//! What went wrong, at which node, and what to do about it.
//!
//! For a write the question that matters is whether it was applied. What a failure tells:
//!
//! ```text
//!   no connection could be made      nothing was sent: not applied
//!   the node answered with a detail  the detail says: not applied, or unknown
//!   the connection broke, or silence unknown
//! ```

use std::{error::Error as StdError, fmt, time::Duration};

use prost::Message as _;
use quorate_proto::v1::{
    BatchError, ErrorDetail,
    error_detail::{Kind, Outcome},
};
use thiserror::Error;
use tonic::{Code, Status};

use crate::{operation::OperationId, route::Target, tls};

/// What a caller does about an error depends on this alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Too few nodes can be reached, or agree.
    Unavailable,
    /// The deadline passed.
    Timeout,
    /// The request is wrong.
    Invalid,
    /// No namespace, or no node, has this name.
    NotFound,
    /// Something else stands there: a namespace of this name, or too many siblings.
    Conflict,
    /// Stored data is damaged, or a disk fails.
    Data,
    /// A limit was reached.
    Overloaded,
    /// A defect.
    Internal,
}

impl ErrorKind {
    /// A short name in snake case, for machines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Data => "data",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a request failed, after the retries that the deadline allowed.
///
/// Displayed, it says what was wrong, which node says so, and what to do.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    detail: Kind,
    reach: Reach,
    message: String,
    node: Option<String>,
    needed: u32,
    got: u32,
    retry_after: Duration,
    /// What to do, if more is known than the kind tells.
    advice: Option<&'static str>,
}

/// How far a failed request came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// It was never sent, or refused before a handler saw it.
    NotSent,
    /// It was sent and nothing came back.
    Lost,
    /// A node answered, and said so much of a write.
    Answered(Outcome),
}

impl Error {
    /// What a caller does about it depends on this alone.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same request may succeed later, or at another node.
    pub fn is_retryable(&self) -> bool {
        use ErrorKind::{Data, Overloaded, Timeout, Unavailable};
        let in_vain = self.0.detail == Kind::NoMajority;
        matches!(self.0.kind, Unavailable | Timeout | Overloaded | Data) && !in_vain
    }

    /// The name (or, before the topology is known, the address) of the node that says so, or that
    /// could not be reached.
    pub fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }

    /// How many replicas had to answer; 0 if that was not the matter.
    pub fn needed(&self) -> u32 {
        self.0.needed
    }

    /// How many replicas answered.
    pub fn got(&self) -> u32 {
        self.0.got
    }

    /// How long the node asks to wait before another try; zero if it does not.
    pub fn retry_after(&self) -> Duration {
        self.0.retry_after
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            detail: Kind::Unspecified,
            reach: Reach::NotSent,
            message: message.into(),
            node: None,
            needed: 0,
            got: 0,
            retry_after: Duration::ZERO,
            advice: None,
        }))
    }

    /// No answer came from `node` within `limit`.
    pub(crate) fn silent(node: &str, limit: Duration) -> Self {
        Self::new(ErrorKind::Timeout, no_answer(limit)).at(node).reaching(Reach::Lost)
    }

    /// The same after so much time, if it says that nobody answered: of the last of several attempts.
    pub(crate) fn after(mut self, elapsed: Duration) -> Self {
        let answered = matches!(self.0.reach, Reach::Answered(_));
        if self.0.kind == ErrorKind::Timeout && !answered {
            self.0.message = no_answer(elapsed);
        }
        self
    }

    /// What a failed call to `node` tells.
    pub(crate) fn from_status(status: &Status, node: &str) -> Self {
        match detail_of(status) {
            Some(detail) => Self::from_detail(status.code(), status.message(), detail, node),
            None => Self::from_transport(status, node),
        }
    }

    /// What `node` says of one key of a batch.
    pub(crate) fn from_batch(error: BatchError, node: &str) -> Self {
        let detail = error.detail.unwrap_or_default();
        Self::from_detail(Code::from_i32(error.code), &error.message, detail, node)
    }

    fn from_detail(code: Code, message: &str, detail: ErrorDetail, node: &str) -> Self {
        let kind = match detail.kind() {
            Kind::Unspecified => kind_of_code(code),
            Kind::Invalid | Kind::Context => ErrorKind::Invalid,
            Kind::UnknownNamespace | Kind::KeyNotFound => ErrorKind::NotFound,
            Kind::Quorum
            | Kind::Coordinator
            | Kind::Opening
            | Kind::NotReady
            | Kind::NotReadyElsewhere
            | Kind::ClockSkew
            | Kind::NoMajority
            | Kind::ChangeUnknown => ErrorKind::Unavailable,
            Kind::Timeout => ErrorKind::Timeout,
            Kind::Overloaded | Kind::DiskFull => ErrorKind::Overloaded,
            Kind::Conflict | Kind::Siblings => ErrorKind::Conflict,
            Kind::Data | Kind::DiskFailed => ErrorKind::Data,
            Kind::Internal => ErrorKind::Internal,
        };
        let (cause, outcome) = (detail.kind(), detail.outcome());
        let mut error = Self::new(kind, message).reaching(Reach::Answered(outcome));
        error.0.detail = cause;
        error.0.node = Some(if detail.node.is_empty() { node.to_owned() } else { detail.node });
        error.0.needed = detail.needed;
        error.0.got = detail.got;
        error.0.retry_after = Duration::from_millis(detail.retry_after_ms.into());
        error
    }

    fn from_transport(status: &Status, node: &str) -> Self {
        let text = describe_transport(status);
        if let Some((message, advice)) = tls::explain(&text) {
            // Where TLS does not come about, no request is heard.
            return Self::new(ErrorKind::Unavailable, message).at(node).advising(Some(advice));
        }
        if status.code() == Code::OutOfRange {
            return Self::too_large(&text, node);
        }
        let kind = kind_of_code(status.code());
        let refused = connection_failed(status) || status.code() == Code::Unimplemented;
        let reach = if refused { Reach::NotSent } else { Reach::Lost };
        Self::new(kind, text).at(node).reaching(reach)
    }

    /// A message that the node does not read to its end; the transport says how large it is.
    fn too_large(text: &str, node: &str) -> Self {
        let sizes = text.split_once("too large: ").map_or(text, |(_, sizes)| sizes);
        let message = format!("the request is larger than the node takes: {sizes}");
        let advice = "send less at once: a value has at most the namespace's value_max_bytes, and a \
                      whole message the node's message_max_bytes";
        Self::new(ErrorKind::Invalid, message).at(node).advising(Some(advice))
    }

    pub(crate) fn advising(mut self, advice: Option<&'static str>) -> Self {
        self.0.advice = advice;
        self
    }

    pub(crate) fn advice(&self) -> Option<&'static str> {
        self.0.advice
    }

    /// The same of the read that a write begins with.
    pub(crate) fn before_writing(mut self) -> Self {
        self.0.message = format!("the key could not be read first: {}", self.0.message);
        self
    }

    pub(crate) fn because(mut self, detail: Kind) -> Self {
        self.0.detail = detail;
        self
    }

    /// Whether the node runs, and cannot serve yet.
    pub(crate) fn is_not_ready(&self) -> bool {
        self.0.detail == Kind::NotReady && matches!(self.0.reach, Reach::Answered(_))
    }

    /// Whether the node refused it for having too much to do.
    pub(crate) fn is_refusal(&self) -> bool {
        self.0.detail == Kind::Overloaded && matches!(self.0.reach, Reach::Answered(_))
    }

    /// Whether the node took it on, and answered something else than that its time was over.
    pub(crate) fn is_answer_in_time(&self) -> bool {
        matches!(self.0.reach, Reach::Answered(_)) && self.0.kind != ErrorKind::Timeout
    }

    pub(crate) fn at(mut self, node: &str) -> Self {
        self.0.node = Some(node.to_owned());
        self
    }

    pub(crate) fn reaching(mut self, reach: Reach) -> Self {
        self.0.reach = reach;
        self
    }

    /// What was wrong, without where and what to do.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn reach(&self) -> Reach {
        self.0.reach
    }

    /// Whether to ask again under the same operation id is in vain, of a write of unknown outcome: the
    /// node was restarted and does not know it, or what hides it in an `lww` namespace may be older.
    /// Read the key, and write anew.
    pub fn only_reading_tells(&self) -> bool {
        let told = matches!(self.0.detail, Kind::Opening | Kind::ClockSkew);
        told && self.0.reach == Reach::Answered(Outcome::Unknown)
    }

    pub(crate) fn detail(&self) -> Kind {
        self.0.detail
    }

    /// The same of a first call within TLS. With TLS 1.3 a node refuses a client's certificate when
    /// the handshake has ended here; its reason is lost if it comes before the call was sent.
    pub(crate) fn after_handshake(self) -> Self {
        let lost = self.0.reach == Reach::Lost && self.0.kind == ErrorKind::Unavailable;
        if !lost || self.0.advice.is_some() {
            return self;
        }
        let what = "the node ended the connection right after the TLS handshake";
        let message = format!("{what} ({})", self.0.message);
        let advice = "if it requires a client certificate, give one of the CA in its client_tls_ca \
                      (--tls-cert and --tls-key in kv-cli); its log says why";
        Self(Box::new(Inner { message, ..*self.0 })).advising(Some(advice))
    }

    /// The same of a first call without TLS. A node within TLS says so and closes the connection; what
    /// it said is lost if the call was still on its way.
    pub(crate) fn before_any_answer(self) -> Self {
        let lost = self.0.reach == Reach::Lost && self.0.kind == ErrorKind::Unavailable;
        if !lost || self.0.advice.is_some() || self.0.message.ends_with(NO_NODE) {
            return self;
        }
        let what = "the connection ended before any answer, as when the node speaks TLS";
        let message = format!("{what} ({})", self.0.message);
        let advice = "if it does, give the CA to trust (TlsConfig in the SDK, --tls-ca in kv-cli); \
                      its log says why";
        Self(Box::new(Inner { message, ..*self.0 })).advising(Some(advice))
    }

    /// Whether the only node asked cannot be talked to until somebody changes its TLS, or ours.
    pub(crate) fn is_lasting_at(&self, target: &Target<'_>) -> bool {
        self.0.advice.is_some() && matches!(target, Target::Node(_))
    }

    /// Whether the node itself is to be avoided for a while, not just this request.
    pub(crate) fn is_node_failure(&self) -> bool {
        let unheard = !matches!(self.0.reach, Reach::Answered(_)) && self.is_retryable();
        let unsent = self.0.kind == ErrorKind::Overloaded && self.0.reach == Reach::NotSent;
        // Not sent for want of a turn, or held back: that is this client's affair.
        (unheard && !unsent) || self.0.detail == Kind::NotReady
    }

    /// Whether the node itself named a command that makes it ready: it knows better what it waits for.
    fn says_what_to_do(&self) -> bool {
        self.0.advice.is_none()
            && self.0.detail == Kind::NotReady
            && self.0.message.contains(COMMAND)
    }

    fn next_step(&self) -> &'static str {
        if let Some(advice) = self.0.advice {
            return advice;
        }
        match (self.0.detail, self.0.kind) {
            (Kind::Quorum, _) => "try again, bring nodes back, or ask for fewer replicas",
            (Kind::NotReadyElsewhere, _) => "try again, or bring that node back",
            (Kind::Context, _) => "read the key again and use the context of that read",
            (Kind::Siblings, _) => "read the key and write with the context of that read",
            (Kind::ClockSkew, _) if self.only_reading_tells() => {
                "read the key, and write with the context of that read if it is not yours"
            }
            (Kind::ClockSkew, _) => "set that node's clock right (NTP), or write by way of others",
            (Kind::DiskFull | Kind::DiskFailed, _) => {
                "see to that node's disk; other owners may take it"
            }
            (Kind::NoMajority, _) => "to ask again is in vain until its operator has seen to that",
            (Kind::ChangeUnknown, _) => "look at what is there before you ask again",
            (Kind::KeyNotFound, _) => "write a value first",
            (_, ErrorKind::Unavailable) => "check that the node runs and can be reached",
            (_, ErrorKind::Timeout) => "try again or allow more time",
            (_, ErrorKind::Invalid) => "correct the request",
            (_, ErrorKind::NotFound) => "check the name, or create it first",
            (_, ErrorKind::Conflict) => "look at what is there and decide",
            (_, ErrorKind::Data) => "look at that node's log; other replicas may serve the key",
            (_, ErrorKind::Overloaded) => "try again later, or send less at once",
            (_, ErrorKind::Internal) => "report it, with that node's log",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match (&self.0.node, self.0.needed) {
            (Some(node), 0) => write!(f, " (node {node})")?,
            (Some(node), needed) => {
                write!(f, " (node {node}; {} of {needed} replicas answered)", self.0.got)?;
            }
            (None, _) => {}
        }
        if self.says_what_to_do() {
            return Ok(());
        }
        write!(f, "; {}", self.next_step())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl StdError for Error {}

/// How a write failed: for certain, or perhaps not at all.
#[derive(Clone, Debug, Error)]
pub enum WriteError {
    /// It was not applied and never will be: write again if you like.
    #[error("not applied: {error}")]
    NotApplied {
        /// Why.
        error: Error,
    },
    /// It may have been applied, or may yet be. Ask again with the operation id within one hour,
    /// or read the key.
    #[error("it is unknown whether operation {operation} was applied: {error}")]
    Unknown {
        /// Names the write.
        operation: OperationId,
        /// Why the outcome could not be learnt.
        error: Error,
    },
}

impl WriteError {
    /// What went wrong.
    pub fn error(&self) -> &Error {
        match self {
            Self::NotApplied { error } | Self::Unknown { error, .. } => error,
        }
    }

    /// What a caller does about it, provided that the outcome is known.
    pub fn kind(&self) -> ErrorKind {
        self.error().kind()
    }

    /// Whether the write may have been applied.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

fn no_answer(limit: Duration) -> String {
    format!("no answer within {} ms", limit.as_millis())
}

/// How messages of nodes quote a command of theirs.
const COMMAND: &str = "`quorate ";

const DETAIL_TYPE: &str = "type.googleapis.com/quorate.v1.ErrorDetail";

/// The server's own account, among the details of a `google.rpc.Status`.
fn detail_of(status: &Status) -> Option<ErrorDetail> {
    let details = tonic_types::pb::Status::decode(status.details()).ok()?.details;
    let any = details.into_iter().find(|any| any.type_url == DETAIL_TYPE)?;
    ErrorDetail::decode(any.value.as_slice()).ok()
}

/// For a status without details: made by the transport, or by something between.
fn kind_of_code(code: Code) -> ErrorKind {
    match code {
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => ErrorKind::Invalid,
        Code::ResourceExhausted => ErrorKind::Overloaded,
        Code::DataLoss => ErrorKind::Data,
        // hyper and h2 report a broken connection under each of these.
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted | Code::Internal => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Internal,
    }
}

/// Whether the connection could not be made, so that nothing was sent.
fn connection_failed(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<tonic::ConnectError>())
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
}

/// What another port than that for clients is told by.
const NO_NODE: &str = "what listens there is no node's address for clients";

/// The innermost cause says most: "connection refused", not "transport error".
fn describe_transport(status: &Status) -> String {
    let what = if connection_failed(status) { "cannot connect" } else { "the call failed" };
    let cause = causes(status).last().map(ToString::to_string);
    let cause = cause.unwrap_or_else(|| status.message().to_owned());
    // Ports for peers and for HTTP lie beside that for clients, and answer like this.
    if cause.is_empty() || cause.starts_with("grpc-status header missing") {
        return format!("{what}: {NO_NODE}");
    }
    format!("{what}: {cause}")
}

#[cfg(test)]
pub(crate) mod tests;
