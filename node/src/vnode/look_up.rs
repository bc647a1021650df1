//! What the operation index of a vnode tells, and the refusal that makes it final.
//!
//! Whoever asks may do so for good: if the id names this node in this opening, and the index does not
//! know it, the write was never applied, and this node alone could still do so. Then the refusal is
//! recorded in the turn's batch, before it is told, so that a copy of the request that comes late is
//! refused and *not applied* stays true.
//!
//! It needs no vnode: rows lie under its id, whether the node is an owner of the partition or keeps
//! hints of it.

use super::Turn;
use crate::dynamo::format::decode_recorded;
use crate::dynamo::key::{KeyHash, VnodeId};
use crate::dynamo::operation::{OperationId, Recorded};
use crate::dynamo::resolve::Known;
use crate::error::RequestError;
use crate::storage::{Space, record};

/// Which operation is asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inquiry {
    /// The vnode that holds the key.
    pub vnode: VnodeId,
    /// The key's hash.
    pub key: KeyHash,
    /// The operation's id.
    pub operation: OperationId,
    /// Refuse it for good, if this node alone could still apply it.
    pub settle: bool,
}

/// What the index knows of an operation; none: nothing. [`Known::Refused`] is true only once the turn's
/// batch was applied.
pub fn look_up(turn: &mut Turn<'_>, asked: &Inquiry) -> Result<Option<Known>, RequestError> {
    let Inquiry { vnode, key, operation, settle } = *asked;
    let index = record::operation_key(vnode, &operation);
    if let Some(recorded) = turn.recorded(&index)? {
        return Ok(Some(match recorded.done {
            _ if recorded.key != key => Known::OtherKey,
            Some(done) => Known::Done(done),
            None => Known::Refused,
        }));
    }
    let admitting = turn.admitting;
    // Its row may have been forgotten.
    if admitting.is_expired(&operation) {
        return Ok(Some(Known::Expired));
    }
    // An id that names no opening may have been applied in an earlier one.
    let mut named =
        operation.coordinator == admitting.node && operation.opening == admitting.opening;
    if planted!("lookup_says_not_applied_for_another_node") {
        named = true;
    }
    if !settle || !named {
        return Ok(None);
    }
    turn.record(index, Recorded { key, done: None }, true);
    Ok(Some(Known::Refused))
}

impl Turn<'_> {
    /// What the operation index has at a place.
    pub(super) fn recorded(&mut self, index: &[u8]) -> Result<Option<Recorded>, RequestError> {
        let sealed = self.get(Space::Operations, index).map_err(RequestError::from)?;
        let Some(sealed) = sealed else { return Ok(None) };
        let body = record::open(index, &sealed);
        let corrupt = &mut self.corrupt;
        let mut damaged = |error: String| {
            *corrupt.entry(Space::Operations).or_default() += 1;
            RequestError::Data { reason: format!("operation index: {error}") }
        };
        let body = body.map_err(|error| damaged(error.to_string()))?;
        decode_recorded(body).map(Some).map_err(|error| damaged(error.to_string()))
    }
}
