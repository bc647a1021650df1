//! `BatchGet` and `BatchPut`: many keys in one call.
//!
//! A unary call with a list, and not a stream of entries: what saves work is that entries come
//! together, so that each shard and each owner hears of them once, and a list says where a batch
//! ends. Whoever has more to send has several calls under way.
//!
//! Partial failure is an answer: the call succeeds, and each key has its outcome, in the order of
//! the request. The call itself fails, with nothing done, when it makes no sense as a whole.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::v1;
use tokio::time::Instant;
use tonic::{Response, Status};

use super::kv::{
    NodeParts, delete_needs_context, doubtful, get_reply, operation_of, put_reply, repair_of,
    reply_with_its_memory, sized_context, value_bytes,
};
use super::{status, to_the_end};
use crate::coordinator::{GetBatch, PutBatch, PutEntry, PutRules, ReadAnswer};
use crate::dynamo::key::{Key, NodeId};
use crate::dynamo::operation::{Change, OperationId};
use crate::error::{RequestError, WriteError};
use crate::limits::budget::Kind;
use crate::telemetry::Operation;
use crate::transport::WriteResult;

/// The most entries of a batch: past some hundred, more of them save nothing further, and one
/// batch would hold its shards for long.
const ENTRIES_MAX: usize = 1024;

/// The most bytes of a batch of writes, unless it is a single one, which a put could be as well.
const BYTES_MAX: usize = 4 << 20;

/// So many entries weigh as much as one request by itself: of both, most is the cost per request.
const ENTRIES_PER_PERMIT: usize = 16;

/// Reads many keys. Of a batch that failed in part, metrics and lines tell the first failure.
pub(super) async fn get(
    node: &NodeParts,
    message: v1::BatchGetRequest,
    timeout: Duration,
) -> Result<Response<v1::BatchGetReply>, Status> {
    let started = Instant::now();
    let weight = weight(message.keys.len());
    let result =
        match (get_of(message, timeout), node.capacity.concurrency.enter_for(weight, timeout)) {
            (Ok(batch), Ok(permit)) => {
                let result = node.coordinator.get_batch(batch).await;
                permit.end(failures(&result, |error| error));
                result
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
    let result = result.and_then(|results| {
        let failed = results.iter().find_map(|result| result.as_ref().err().cloned());
        Ok((get_reply_of(node, results)?, failed))
    });
    let failed = result.as_ref().map(|(_, failed)| failed.as_ref());
    node.ended(Operation::BatchGet, started, failed.unwrap_or_else(Some));
    result.map(|(reply, _)| reply).map_err(|error| status::of_request(&error, &node.name))
}

fn get_reply_of(
    node: &NodeParts,
    results: Vec<Result<ReadAnswer, RequestError>>,
) -> Result<Response<v1::BatchGetReply>, RequestError> {
    let now_ms = node.now_ms();
    let message = |result| {
        use v1::batch_get_result::Result as Message;
        let result = match result {
            Ok(answer) => Message::Reply(get_reply(answer, now_ms)),
            Err(error) => Message::Error(status::of_batch_get(&error, &node.name)),
        };
        v1::BatchGetResult { result: Some(result) }
    };
    let reply = v1::BatchGetReply { results: results.into_iter().map(message).collect() };
    let bytes = reply.results.iter().filter_map(|result| match &result.result {
        Some(v1::batch_get_result::Result::Reply(reply)) => Some(value_bytes(reply)),
        _ => None,
    });
    let bytes = bytes.sum();
    reply_with_its_memory(&node.capacity.budget, reply, bytes)
}

/// Writes many keys.
pub(super) async fn put(
    node: &Arc<NodeParts>,
    message: v1::BatchPutRequest,
    timeout: Duration,
) -> Result<v1::BatchPutReply, Status> {
    let started = Instant::now();
    let weight = weight(message.entries.len());
    let named = message.entries.iter();
    let named: Vec<_> = named.map(|e| doubtful(e.operation_id.as_ref(), e.fresh)).collect();
    let bytes = message.entries.iter().map(entry_bytes).sum();
    let charge = node.capacity.budget.take_if_large(Kind::Requests, bytes);
    let batch = charge.and_then(|charge| Ok((put_of(message, bytes, timeout)?, charge)));
    let result = match (batch, node.capacity.concurrency.enter_for(weight, timeout)) {
        (Ok((batch, charge)), Ok(permit)) => {
            let coordinator = node.coordinator.clone();
            let running = async move {
                let result = coordinator.put_batch(batch).await;
                drop(charge);
                permit.end(failures(&result, |failed| &failed.error));
                result
            };
            to_the_end(running).await
        }
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    let failed = failures(&result, |failed| &failed.error).next();
    node.ended(Operation::BatchPut, started, failed);
    let outcomes = result.or_else(|error| refused(node, error, &named))?;
    let message = |outcome| {
        use v1::batch_put_result::Result as Message;
        let result = match outcome {
            Ok(written) => Message::Reply(put_reply(written)),
            Err(error) => Message::Error(status::of_batch_put(&error, &node.name)),
        };
        v1::BatchPutResult { result: Some(result) }
    };
    Ok(v1::BatchPutReply { results: outcomes.into_iter().map(message).collect() })
}

/// Why a batch failed, or those of its keys that did.
fn failures<'r, T, E>(
    result: &'r Result<Vec<Result<T, E>>, RequestError>,
    error: impl Fn(&'r E) -> &'r RequestError,
) -> impl Iterator<Item = &'r RequestError> {
    let outcomes = result.iter().flatten();
    let failed = outcomes.filter_map(move |outcome| outcome.as_ref().err().map(&error));
    result.as_ref().err().into_iter().chain(failed)
}

/// A batch refused as a whole. If some entry may have been sent before, its refusal says nothing of
/// that, so that each entry has an outcome of its own; else the call fails.
fn refused(
    node: &NodeParts,
    error: RequestError,
    named: &[Option<OperationId>],
) -> Result<Vec<Result<WriteResult, WriteError>>, Status> {
    if named.iter().all(Option::is_none) {
        return Err(status::of_write(&WriteError::not_applied(error), &node.name));
    }
    let each = |&doubtful: &_| Err(WriteError::at_the_door(doubtful, error.clone()));
    Ok(named.iter().map(each).collect())
}

fn weight(entries: usize) -> usize {
    entries.clamp(1, ENTRIES_MAX).div_ceil(ENTRIES_PER_PERMIT)
}

fn check_count(entries: usize) -> Result<(), RequestError> {
    if (1..=ENTRIES_MAX).contains(&entries) {
        return Ok(());
    }
    let reason = format!("a batch of {entries} keys; it has 1 to {ENTRIES_MAX}: split it");
    Err(RequestError::Invalid { reason })
}

fn get_of(message: v1::BatchGetRequest, timeout: Duration) -> Result<GetBatch, RequestError> {
    check_count(message.keys.len())?;
    let repair = repair_of(message.repair)?;
    let key = |bytes| Key::new(bytes).map_err(RequestError::invalid);
    Ok(GetBatch {
        sloppy: super::sloppy(message.quorum)?,
        namespace: message.namespace,
        keys: message.keys.into_iter().map(key).collect(),
        r: super::level(message.r)?,
        repair,
        replica: (message.replica != 0).then_some(NodeId(message.replica)),
        timeout,
    })
}

fn entry_bytes(entry: &v1::BatchPutEntry) -> usize {
    entry.key.len() + entry.value.as_ref().map_or(0, |v| v.len()) + entry.context.len()
}

/// The batch of a message whose entries have so many `bytes`.
fn put_of(
    message: v1::BatchPutRequest,
    bytes: usize,
    timeout: Duration,
) -> Result<PutBatch, RequestError> {
    check_count(message.entries.len())?;
    if message.entries.len() > 1 && bytes > BYTES_MAX {
        let reason = format!("a batch of {bytes} bytes; it has up to {BYTES_MAX}: split it");
        return Err(RequestError::Invalid { reason });
    }
    let rules = PutRules {
        w: super::level(message.w)?,
        durability: super::durability(message.durability)?,
        sloppy: super::sloppy(message.quorum)?,
        at_least_once: super::at_least_once(message.retry)?,
    };
    let entry = |entry: v1::BatchPutEntry| {
        let doubtful = doubtful(entry.operation_id.as_ref(), entry.fresh);
        entry_of(entry).map_err(|error| WriteError::at_the_door(doubtful, error))
    };
    let entries = message.entries.into_iter().map(entry).collect();
    Ok(PutBatch { namespace: message.namespace, entries, rules, timeout })
}

fn entry_of(entry: v1::BatchPutEntry) -> Result<PutEntry, RequestError> {
    if entry.value.is_none() && entry.context.is_empty() {
        return Err(delete_needs_context());
    }
    Ok(PutEntry {
        key: Key::new(entry.key).map_err(RequestError::invalid)?,
        change: match entry.value {
            Some(value) => Change::Put { value, ttl: super::ttl(entry.ttl)? },
            None if entry.ttl.is_some() => {
                return Err(RequestError::invalid(
                    "ttl: a delete leaves nothing that could expire",
                ));
            }
            None => Change::Delete,
        },
        context: sized_context(entry.context)?,
        operation: entry.operation_id.as_ref().map(operation_of),
        fresh: entry.fresh,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_of_a_batch_is_told_and_the_first_one_first() {
        let kinds = |result| -> Vec<_> {
            failures(&result, |failed: &WriteError| &failed.error).map(RequestError::kind).collect()
        };
        let failed = |error| Err(WriteError::not_applied(error));
        let lost = RequestError::QuorumNotReached { needed: 2, got: 1, detail: String::new() };
        let outcomes = vec![Ok(()), failed(RequestError::invalid("a")), Ok(()), failed(lost)];
        assert_eq!(kinds(Ok(outcomes)), ["invalid", "quorum"]);
        assert_eq!(kinds(Err(RequestError::invalid("as a whole"))), ["invalid"]);
        assert!(kinds(Ok(vec![Ok(())])).is_empty());
    }
}
