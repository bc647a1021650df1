//! Why a request failed, and what is known of a write that did.
//!
//! One type from the shard to the edge: `service` maps it to a gRPC status, `transport` carries it
//! between nodes, so that a forwarded request fails with the words of the node that knew.

use std::fmt;

use thiserror::Error;

use crate::dynamo::context::ContextError;
use crate::dynamo::key::NodeId;
use crate::dynamo::operation::{Opening, OperationId};
use crate::storage::EngineError;

/// Why a request failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum RequestError {
    /// The request is wrong. Nothing was done; correct it.
    #[error("{reason}")]
    Invalid {
        /// Which part, and why.
        reason: String,
    },
    /// No namespace has this name or id, by the newest metadata that could be reached.
    #[error("there is no namespace {name}; `namespace create` makes one")]
    UnknownNamespace {
        /// What was asked for.
        name: String,
    },
    /// The context is of no use for this key. Nothing was done; read the key first.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The key has as many siblings as it may have, or as many bytes of them. Nothing was done; read and resolve them.
    #[error(
        "the key has {count} siblings, as many or as large as they may be; read it and write with its \
         context"
    )]
    TooManySiblings {
        /// How many.
        count: u32,
    },
    /// The key has several values, and the request is about one. Nothing was done; resolve them.
    #[error(
        "the key has {count} siblings, and only one can be meant: write one value in their place"
    )]
    SeveralSiblings {
        /// How many.
        count: u32,
    },
    /// The key has no value, or it has expired, and the request is about one. Nothing was done.
    #[error("the key has no value")]
    KeyNotFound,
    /// A clock is off by more than it may be where clocks count: they order the writes of `lww`
    /// namespaces, and say when values expire.
    #[error(
        "{what} is {} ms {} the cluster's time, and may be off by {max_ms} ms at most",
        .ahead_ms.unsigned_abs(), if *.ahead_ms < 0 { "behind" } else { "ahead of" }
    )]
    ClockSkew {
        /// Whose clock, or what was written by it.
        what: String,
        /// How far it is ahead, in milliseconds; negative: behind.
        ahead_ms: i64,
        /// How far it may be off.
        max_ms: u64,
    },
    /// Clocks order the writes of `lww` namespaces, and say when values expire, and here one cannot be
    /// told to be right. Try again, or at another owner; if it lasts, read the key.
    #[error("{reason}")]
    ClockUncertain {
        /// Whose clock, and what follows.
        reason: String,
        /// Whether to ask for the same write again is in vain, since it is too old to be judged.
        lasts: bool,
    },
    /// Too few replicas answered before the deadline. Try again, or ask for a lower level.
    #[error("{got} of the {needed} replicas needed answered{detail}")]
    QuorumNotReached {
        /// How many had to.
        needed: u32,
        /// How many did.
        got: u32,
        /// Which did not and why, beginning with a separator; or empty.
        detail: String,
    },
    /// The deadline passed.
    #[error("the deadline passed while {waiting_for}")]
    Timeout {
        /// What was not done by then.
        waiting_for: String,
    },
    /// The deadline passed while another node had the request.
    #[error("the deadline passed while {waiting_for}")]
    TimeoutElsewhere {
        /// What was not done by then.
        waiting_for: String,
    },
    /// A limit was reached. Wait and try again.
    #[error("{what} is full; try again in {retry_after_ms} ms")]
    Overloaded {
        /// Which queue or budget.
        what: String,
        /// How long to wait before another try, in milliseconds.
        retry_after_ms: u32,
    },
    /// The node keeps as much for others as it may: see `hints_max_bytes`. Another one may keep it.
    #[error(
        "no more hints are kept: hints_max_bytes = {max_bytes} is reached; try again in \
         {retry_after_ms} ms"
    )]
    HintsFull {
        /// How much it may keep.
        max_bytes: u64,
        /// How long to wait before another try, in milliseconds.
        retry_after_ms: u32,
    },
    /// The node that is to coordinate the write cannot be reached.
    #[error("node {node}, which is to coordinate the write, cannot be reached: {reason}")]
    CoordinatorUnreachable {
        /// The node.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// The operation id names an earlier opening of this node, whose index may be lost.
    #[error("the operation id names an earlier opening of this node; it is {opening:?} now", opening = .opening.0)]
    EarlierOpening {
        /// The present one.
        opening: Opening,
    },
    /// By this node's clock the operation id is too old, or its time lies in the future. No request
    /// carried it before, so a new one can take its place: ask for the node's clock again.
    #[error(
        "the operation id is over an hour old by this node's clock, or its time lies in the future; take \
         its time from this node anew (Describe)"
    )]
    OperationTime {
        /// The present opening.
        opening: Opening,
    },
    /// The node cannot serve now.
    #[error("{reason}")]
    NotReady {
        /// Why, and what to wait for.
        reason: String,
    },
    /// Another node that is needed cannot serve now; this one can.
    #[error("{reason}")]
    NotReadyElsewhere {
        /// Which, why, and what to wait for.
        reason: String,
    },
    /// The change of the cluster contradicts its present state.
    #[error("{reason}")]
    Conflict {
        /// What stands in the way.
        reason: String,
    },
    /// No majority of the voters is left that could change the cluster. Nothing was changed; to ask
    /// again is in vain until the operator has seen to the voters.
    #[error("{reason}")]
    NoMajority {
        /// Who does not vote, and why.
        reason: String,
    },
    /// It is unknown whether the change of the cluster was made, or may yet be: look at what is there.
    #[error("{reason}")]
    ChangeUnknown {
        /// Which change, and why.
        reason: String,
    },
    /// Stored data is damaged, or the disk fails. The operator must look at this node.
    #[error("{reason}")]
    Data {
        /// What is damaged.
        reason: String,
    },
    /// The record of the key on this node is damaged, and nobody knows what it held. Reads ask other
    /// owners; the record is replaced once all of them could be asked.
    #[error("{reason}")]
    Damaged {
        /// Which one, and what to do.
        reason: String,
    },
    /// The node's disk is full: it takes no writes, and reads go on. Write by way of another owner;
    /// the node recovers by itself once there is space.
    #[error("{reason}")]
    DiskFull {
        /// What is known of it, and what to do.
        reason: String,
    },
    /// The node's disk failed to write or sync: it takes no writes until it is restarted, and reads
    /// go on. Write by way of another owner.
    #[error("{reason}")]
    DiskFailed {
        /// What is known of it, and what to do.
        reason: String,
    },
    /// A defect of this program.
    #[error("internal error: {reason}")]
    Internal {
        /// What broke.
        reason: String,
    },
}

impl RequestError {
    /// Whether this node's disk is why.
    pub fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::DiskFailed { .. } | Self::Data { .. })
    }

    /// A wrong request.
    pub fn invalid(reason: impl fmt::Display) -> Self {
        Self::Invalid { reason: reason.to_string() }
    }

    /// A defect.
    pub fn internal(reason: impl fmt::Display) -> Self {
        Self::Internal { reason: reason.to_string() }
    }

    /// A node that cannot serve now.
    pub fn not_ready(reason: impl fmt::Display) -> Self {
        Self::NotReady { reason: reason.to_string() }
    }

    /// Another node that cannot serve now.
    pub fn not_ready_elsewhere(reason: impl fmt::Display) -> Self {
        Self::NotReadyElsewhere { reason: reason.to_string() }
    }

    /// A clock that may be wrong.
    pub fn clock_uncertain(reason: impl fmt::Display) -> Self {
        Self::ClockUncertain { reason: reason.to_string(), lasts: false }
    }

    /// A write too old to tell whether what hides it was written before it.
    pub fn too_late(reason: impl fmt::Display) -> Self {
        Self::ClockUncertain { reason: reason.to_string(), lasts: true }
    }

    /// The same, of a request that another node answered.
    #[must_use]
    pub fn elsewhere(self) -> Self {
        match self {
            Self::Timeout { waiting_for } => Self::TimeoutElsewhere { waiting_for },
            Self::NotReady { reason } => Self::NotReadyElsewhere { reason },
            other => other,
        }
    }

    /// Whether the request waited for other nodes, and in vain: how long it took says little of this
    /// one.
    pub fn is_for_others(&self) -> bool {
        matches!(
            self,
            Self::QuorumNotReached { .. }
                | Self::TimeoutElsewhere { .. }
                | Self::CoordinatorUnreachable { .. }
                | Self::NotReady { .. }
                | Self::NotReadyElsewhere { .. }
        )
    }

    /// A short word for metrics and logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "invalid",
            Self::UnknownNamespace { .. } => "unknown_namespace",
            Self::Context(_) => "context",
            Self::TooManySiblings { .. } | Self::SeveralSiblings { .. } => "siblings",
            Self::KeyNotFound => "key_not_found",
            Self::ClockSkew { .. } => "clock_skew",
            Self::ClockUncertain { .. } => "clock_uncertain",
            Self::QuorumNotReached { .. } => "quorum",
            Self::Timeout { .. } | Self::TimeoutElsewhere { .. } => "timeout",
            Self::Overloaded { .. } => "overloaded",
            Self::HintsFull { .. } => "hints_full",
            Self::CoordinatorUnreachable { .. } => "coordinator",
            Self::EarlierOpening { .. } => "opening",
            Self::OperationTime { .. } => "operation_time",
            Self::NotReady { .. } | Self::NotReadyElsewhere { .. } => "not_ready",
            Self::Conflict { .. } => "conflict",
            Self::NoMajority { .. } => "no_majority",
            Self::ChangeUnknown { .. } => "change_unknown",
            Self::Data { .. } => "data",
            Self::Damaged { .. } => "damaged",
            Self::DiskFull { .. } => "disk_full",
            Self::DiskFailed { .. } => "disk_failed",
            Self::Internal { .. } => "internal",
        }
    }
}

/// An engine that would not answer. For writes, callers say what is known of the outcome.
impl From<EngineError> for RequestError {
    fn from(error: EngineError) -> Self {
        let reason = error.to_string();
        match &error {
            EngineError::Full { .. } => Self::DiskFull { reason },
            error if error.is_out_of_space() => Self::DiskFull { reason },
            EngineError::Poisoned | EngineError::Io { action: "sync", .. } => {
                Self::DiskFailed { reason }
            }
            _ => Self::Data { reason },
        }
    }
}

/// What is known of a write that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It has no dot and never will: said only before one exists.
    NotApplied,
    /// It may have been applied, or may yet be.
    Unknown(OperationId),
}

/// A write that failed, and what is known of it.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{error}")]
pub struct WriteError {
    /// Why.
    pub error: RequestError,
    /// What became of it.
    pub outcome: Outcome,
}

impl WriteError {
    /// A write refused before it had a dot.
    pub fn not_applied(error: impl Into<RequestError>) -> Self {
        Self { error: error.into(), outcome: Outcome::NotApplied }
    }

    /// A write refused before anybody looked whether it was done already. The refusal means this
    /// request: of an operation that may have been sent before, `doubtful`, it says nothing.
    pub fn at_the_door(doubtful: Option<OperationId>, error: impl Into<RequestError>) -> Self {
        match doubtful {
            None => Self::not_applied(error),
            Some(id) => Self::unknown(id, error),
        }
    }

    /// The same, of a write that another node answered.
    #[must_use]
    pub fn elsewhere(self) -> Self {
        Self { error: self.error.elsewhere(), ..self }
    }

    /// A write that failed after it had a dot, or may have.
    pub fn unknown(operation: OperationId, error: impl Into<RequestError>) -> Self {
        Self { error: error.into(), outcome: Outcome::Unknown(operation) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_without_space_is_a_full_disk_and_another_failure_is_not() {
        let io = |action, kind: std::io::ErrorKind| EngineError::io(action)(kind.into());
        let full = [
            EngineError::Full { free_bytes: 1, needed_bytes: 2 },
            io("apply a batch", std::io::ErrorKind::StorageFull),
            io("apply a batch", std::io::ErrorKind::QuotaExceeded),
        ];
        for error in full {
            let failed = RequestError::from(error);
            assert!(matches!(failed, RequestError::DiskFull { .. }), "{failed:?}");
        }
        let failed = [EngineError::Poisoned, io("sync", std::io::ErrorKind::StorageFull)];
        for error in failed {
            let failed = RequestError::from(error);
            assert!(matches!(failed, RequestError::DiskFailed { .. }), "{failed:?}");
        }
        let failed = RequestError::from(io("apply a batch", std::io::ErrorKind::Other));
        assert!(matches!(failed, RequestError::Data { .. }), "{failed:?}");
    }
}
