//! `Resolve`: what became of a write.

use quorate_proto::v1::{self, resolve_reply::Outcome};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::kv::{NodeParts, operation_of};
use super::status;
use crate::coordinator::Resolve;
use crate::dynamo::key::{KeyHash, NamespaceId};
use crate::dynamo::resolve::Resolution;
use crate::error::RequestError;
use crate::telemetry::Operation;

/// Asks everybody who may know.
pub(super) async fn resolve(
    node: &NodeParts,
    request: Request<v1::ResolveRequest>,
) -> Result<Response<v1::ResolveReply>, Status> {
    let started = Instant::now();
    let timeout = node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
    let message = request.into_inner();
    let asked = message.operation_id.ok_or_else(|| RequestError::invalid("no operation id"));
    let asked = asked.and_then(|id| {
        Ok(Resolve {
            operation: operation_of(&id),
            namespace: NamespaceId(message.namespace_id),
            key: KeyHash(message.key_hash),
            at_least_once: super::at_least_once(message.retry)?,
            timeout,
        })
    });
    let result = match (asked, node.capacity.concurrency.enter(timeout)) {
        (Ok(asked), Ok(permit)) => {
            let result = node.coordinator.resolve(asked).await;
            permit.end(result.as_ref().err());
            result
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    let reply = result.and_then(|(resolution, told)| reply_of(&resolution, told));
    node.ended(Operation::Resolve, started, reply.as_ref().err());
    reply.map(Response::new).map_err(|error| status::of_request(&error, &node.name))
}

fn reply_of(resolution: &Resolution, message: String) -> Result<v1::ResolveReply, RequestError> {
    let (outcome, done) = match resolution {
        Resolution::Applied { done, .. } => (Outcome::Applied, Some(done)),
        Resolution::NotApplied => (Outcome::NotApplied, None),
        Resolution::Unknown { .. } => (Outcome::Unknown, None),
        Resolution::Expired => (Outcome::Expired, None),
        Resolution::OtherKey => {
            let reason = "the operation wrote another key than that of this hash";
            return Err(RequestError::invalid(reason));
        }
    };
    let dot = done.map(|done| v1::Dot { actor: done.dot.actor.0, n: done.dot.n });
    Ok(v1::ResolveReply { outcome: outcome.into(), dot, message })
}
