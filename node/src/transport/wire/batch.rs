//! Replies to batches: each item has a reply or a failure.

use quorate_proto::peer as proto;
use quorate_proto::peer::{
    get_batch_result, read_batch_reply, replicated_batch, write_batch_result,
};

use super::failure::{decode_failure, encode_failure};
use super::reply::{
    decode_get_result, decode_held as decode_one_held, decode_write_result, encode_get_result,
    encode_held as encode_one_held, encode_write_result,
};
use super::{WireError, all};
use crate::dynamo::standing::Standing;
use crate::error::{RequestError, WriteError};
use crate::transport::{Credit, GetResult, Held, Reply, WriteResult};

/// For each item in its order: what is answered, or why there is no answer.
type Items<T> = Vec<Result<T, RequestError>>;

pub(super) fn encode_replicated(items: Items<bool>) -> proto::ReplicatedBatch {
    let item = |item| {
        let (reply, failure) = split(item);
        let reply = reply.map(|synced| proto::Replicated { synced });
        replicated_batch::Item { reply, failure }
    };
    proto::ReplicatedBatch { items: items.into_iter().map(item).collect() }
}

pub(super) fn decode_replicated(m: proto::ReplicatedBatch) -> Result<Items<bool>, WireError> {
    all(m.items, |item| join(item.reply, item.failure, |reply| Ok(reply.synced)))
}

pub(super) fn encode_handoff(taken: Items<()>, credit: Credit) -> proto::HandoffReply {
    let items = taken.into_iter().map(|item| item.map(|()| true)).collect();
    let items = encode_replicated(items).items;
    proto::HandoffReply { items, credit_bytes: credit.bytes, pause_ms: credit.pause_ms }
}

pub(super) fn decode_handoff(m: proto::HandoffReply) -> Result<Reply, WireError> {
    // A hint is gone for good once it was acknowledged: only what is on disk counts.
    let on_disk = |reply: proto::Replicated| match reply.synced {
        true => Ok(()),
        false => Err(WireError::Value { field: "synced", value: 0 }),
    };
    let taken = all(m.items, |item| join(item.reply, item.failure, on_disk))?;
    Ok(Reply::Handoff { taken, credit: Credit { bytes: m.credit_bytes, pause_ms: m.pause_ms } })
}

pub(super) fn encode_held(items: Items<(Held, Standing)>) -> proto::ReadBatchReply {
    let item = |item| {
        let (reply, failure) = split(item);
        let reply = reply.map(|(held, standing)| encode_one_held(held, standing));
        read_batch_reply::Item { reply, failure }
    };
    proto::ReadBatchReply { items: items.into_iter().map(item).collect() }
}

pub(super) fn decode_held(m: proto::ReadBatchReply) -> Result<Items<(Held, Standing)>, WireError> {
    all(m.items, |item| join(item.reply, item.failure, decode_one_held))
}

pub(super) fn encode_gets(items: Items<GetResult>) -> proto::GetBatchResult {
    let item = |item| {
        let (reply, failure) = split(item);
        get_batch_result::Item { reply: reply.map(encode_get_result), failure }
    };
    proto::GetBatchResult { items: items.into_iter().map(item).collect() }
}

pub(super) fn decode_gets(m: proto::GetBatchResult) -> Result<Items<GetResult>, WireError> {
    all(m.items, |item| join(item.reply, item.failure, |reply| Ok(decode_get_result(reply))))
}

pub(super) fn encode_writes(
    items: Vec<Result<WriteResult, WriteError>>,
) -> proto::WriteBatchResult {
    let item = |item: Result<WriteResult, WriteError>| match item {
        Ok(reply) => {
            write_batch_result::Item { reply: Some(encode_write_result(reply)), failure: None }
        }
        Err(WriteError { error, outcome }) => {
            let failure = Some(encode_failure(error, Some(outcome)));
            write_batch_result::Item { reply: None, failure }
        }
    };
    proto::WriteBatchResult { items: items.into_iter().map(item).collect() }
}

pub(super) fn decode_writes(
    m: proto::WriteBatchResult,
) -> Result<Vec<Result<WriteResult, WriteError>>, WireError> {
    let item = |item: write_batch_result::Item| match (item.reply, item.failure) {
        (_, Some(failure)) => match decode_failure(failure)? {
            (error, Some(outcome)) => Ok(Err(WriteError { error, outcome })),
            (_, None) => Err(WireError::Missing { field: "the outcome of a write" }),
        },
        (Some(reply), None) => decode_write_result(reply).map(Ok),
        (None, None) => Err(NOTHING),
    };
    all(m.items, item)
}

const NOTHING: WireError = WireError::Missing { field: "the reply to an item" };

fn split<T>(item: Result<T, RequestError>) -> (Option<T>, Option<proto::Failure>) {
    match item {
        Ok(reply) => (Some(reply), None),
        Err(error) => (None, Some(encode_failure(error, None))),
    }
}

fn join<M, T>(
    reply: Option<M>,
    failure: Option<proto::Failure>,
    decode: impl FnOnce(M) -> Result<T, WireError>,
) -> Result<Result<T, RequestError>, WireError> {
    match (reply, failure) {
        (_, Some(failure)) => Ok(Err(decode_failure(failure)?.0)),
        (Some(reply), None) => decode(reply).map(Ok),
        (None, None) => Err(NOTHING),
    }
}
