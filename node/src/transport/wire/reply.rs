//! Replies about keys, one by one.

use bytes::Bytes;
use quorate_proto::peer as proto;

use super::WireError;
use crate::dynamo::clock::{Actor, Dot};
use crate::dynamo::encoding::Reader;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{Key, KeyError, NodeId};
use crate::dynamo::object::Digest;
use crate::dynamo::operation::{Done, Opening, PayloadHash};
use crate::dynamo::standing::Standing;
use crate::transport::{
    GetResult, Held, HintQueue, Hints, Known, LookedUp, ScanPageReply, StandIn, WriteResult,
};

pub(super) fn encode_held(held: Held, standing: Standing) -> proto::ReadReply {
    proto::ReadReply {
        standing: encode_standing(standing),
        held: Some(match held {
            Held::Object(object) => proto::read_reply::Held::Object(object.0),
            Held::Digest(digest) => {
                proto::read_reply::Held::Digest(Bytes::copy_from_slice(&digest.0))
            }
        }),
    }
}

pub(super) fn decode_held(m: proto::ReadReply) -> Result<(Held, Standing), WireError> {
    let standing = decode_standing(m.standing)?;
    let held = match m.held {
        None => return Err(WireError::Missing { field: "what is held" }),
        Some(proto::read_reply::Held::Object(object)) => Held::Object(EncodedObject(object)),
        Some(proto::read_reply::Held::Digest(bytes)) => {
            let mut r = Reader::new(bytes);
            let digest = Digest(r.array("digest")?);
            r.finish("digest")?;
            Held::Digest(digest)
        }
    };
    Ok((held, standing))
}

pub(super) fn encode_get_result(m: GetResult) -> proto::GetResult {
    proto::GetResult { object: m.object.0, replicas: m.replicas, fallbacks: m.fallbacks }
}

pub(super) fn decode_get_result(m: proto::GetResult) -> GetResult {
    GetResult { object: EncodedObject(m.object), replicas: m.replicas, fallbacks: m.fallbacks }
}

pub(super) fn encode_write_result(m: WriteResult) -> proto::WriteResult {
    proto::WriteResult {
        context: m.context,
        siblings: m.siblings,
        actor: m.dot.actor.0,
        n: m.dot.n,
        acked: m.acked.iter().map(|node| node.0).collect(),
        synced: m.synced,
        fallbacks: m.fallbacks.into_iter().map(encode_stand_in).collect(),
    }
}

pub(super) fn decode_write_result(m: proto::WriteResult) -> Result<WriteResult, WireError> {
    Ok(WriteResult {
        context: m.context,
        siblings: m.siblings,
        dot: decode_dot(m.actor, m.n)?,
        acked: m.acked.into_iter().map(NodeId).collect(),
        fallbacks: m.fallbacks.into_iter().map(decode_stand_in).collect(),
        synced: m.synced,
    })
}

fn encode_stand_in(m: StandIn) -> proto::StandIn {
    proto::StandIn { node: m.node.0, owner: m.owner.0 }
}

fn decode_stand_in(m: proto::StandIn) -> StandIn {
    StandIn { node: NodeId(m.node), owner: NodeId(m.owner) }
}

pub(super) fn encode_hints(Hints { queues, full }: Hints) -> proto::HintsReply {
    let queue = |m: HintQueue| proto::HintQueue {
        target: m.target.0,
        count: m.count,
        bytes: m.bytes,
        oldest_ms: m.oldest_ms,
        first: m.first,
        last: m.last,
    };
    proto::HintsReply { queues: queues.into_iter().map(queue).collect(), full }
}

pub(super) fn decode_hints(m: proto::HintsReply) -> Hints {
    let queue = |m: proto::HintQueue| HintQueue {
        target: NodeId(m.target),
        count: m.count,
        bytes: m.bytes,
        oldest_ms: m.oldest_ms,
        first: m.first,
        last: m.last,
    };
    Hints { queues: m.queues.into_iter().map(queue).collect(), full: m.full }
}

pub(super) fn encode_looked_up(m: LookedUp) -> proto::LookedUp {
    use proto::looked_up::Known as Wire;
    let (known, done) = match m.known {
        None => (Wire::Nothing, None),
        Some(Known::Done(done)) => (Wire::Done, Some(done)),
        Some(Known::Refused) => (Wire::Refused, None),
        Some(Known::OtherKey) => (Wire::OtherKey, None),
        Some(Known::Expired) => (Wire::Expired, None),
    };
    proto::LookedUp {
        known: known.into(),
        actor: done.map_or(0, |done| done.dot.actor.0),
        n: done.map_or(0, |done| done.dot.n),
        opening: m.opening.0,
        clock_ms: done.map_or(0, |done| done.clock_ms),
        payload_hash: done.map_or(0, |done| done.payload.0),
    }
}

pub(super) fn decode_looked_up(m: proto::LookedUp) -> Result<LookedUp, WireError> {
    use proto::looked_up::Known as Wire;
    let known = match Wire::try_from(m.known) {
        Ok(Wire::Nothing) => None,
        Ok(Wire::Done) => {
            let (dot, payload) = (decode_dot(m.actor, m.n)?, PayloadHash(m.payload_hash));
            Some(Known::Done(Done { dot, clock_ms: m.clock_ms, payload }))
        }
        Ok(Wire::Refused) => Some(Known::Refused),
        Ok(Wire::OtherKey) => Some(Known::OtherKey),
        Ok(Wire::Expired) => Some(Known::Expired),
        Ok(Wire::Unspecified) | Err(_) => {
            let value = u64::from(m.known.cast_unsigned());
            return Err(WireError::Value { field: "what is known", value });
        }
    };
    Ok(LookedUp { known, opening: Opening(m.opening) })
}

pub(super) fn encode_scan_page(m: ScanPageReply) -> proto::ScanPageReply {
    let item = |(key, object): (Key, EncodedObject)| proto::KeyObject {
        key: key.to_bytes(),
        object: object.0,
    };
    proto::ScanPageReply {
        items: m.items.into_iter().map(item).collect(),
        complete: m.complete,
        damaged: m.damaged.into_iter().map(|key| key.to_bytes()).collect(),
        standing: encode_standing(m.standing),
    }
}

pub(super) fn decode_scan_page(m: proto::ScanPageReply) -> Result<ScanPageReply, WireError> {
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
        Standing::Fallback => proto::Standing::Fallback,
        Standing::CatchingUp => proto::Standing::CatchingUp,
    };
    standing.into()
}

fn decode_standing(value: i32) -> Result<Standing, WireError> {
    match proto::Standing::try_from(value) {
        Ok(proto::Standing::Good) => Ok(Standing::Good),
        Ok(proto::Standing::Rebuilding) => Ok(Standing::Rebuilding),
        Ok(proto::Standing::Fallback) => Ok(Standing::Fallback),
        Ok(proto::Standing::CatchingUp) => Ok(Standing::CatchingUp),
        Err(_) => {
            Err(WireError::Value { field: "standing", value: u64::from(value.cast_unsigned()) })
        }
    }
}

fn decode_dot(actor: u64, n: u64) -> Result<Dot, WireError> {
    match n {
        0 => Err(WireError::Value { field: "dot", value: 0 }),
        n => Ok(Dot { actor: Actor(actor), n }),
    }
}
