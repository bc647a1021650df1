//! Replies about keys, one by one.

use bytes::Bytes;
use quorate_proto::peer as proto;

use super::WireError;
use crate::dynamo::clock::{Actor, Dot};
use crate::dynamo::encoding::Reader;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{Key, KeyError, NodeId};
use crate::dynamo::object::Digest;
use crate::dynamo::standing::Standing;
use crate::transport::{GetResult, Held, ScanPageReply, WriteResult};

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
    proto::GetResult { object: m.object.0, replicas: m.replicas }
}

pub(super) fn decode_get_result(m: proto::GetResult) -> GetResult {
    GetResult { object: EncodedObject(m.object), replicas: m.replicas }
}

pub(super) fn encode_write_result(m: WriteResult) -> proto::WriteResult {
    proto::WriteResult {
        context: m.context,
        siblings: m.siblings,
        actor: m.dot.actor.0,
        n: m.dot.n,
        acked: m.acked.iter().map(|node| node.0).collect(),
        synced: m.synced,
    }
}

pub(super) fn decode_write_result(m: proto::WriteResult) -> Result<WriteResult, WireError> {
    Ok(WriteResult {
        context: m.context,
        siblings: m.siblings,
        dot: decode_dot(m.actor, m.n)?,
        acked: m.acked.into_iter().map(NodeId).collect(),
        synced: m.synced,
    })
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
    };
    standing.into()
}

fn decode_standing(value: i32) -> Result<Standing, WireError> {
    match proto::Standing::try_from(value) {
        Ok(proto::Standing::Good) => Ok(Standing::Good),
        Ok(proto::Standing::Rebuilding) => Ok(Standing::Rebuilding),
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
