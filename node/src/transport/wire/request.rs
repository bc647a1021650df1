//! Requests about keys, one by one; a batch is a list of these.

use bytes::Bytes;
use quorate_proto::peer as proto;

use super::{WireError, decode_operation, encode_operation};
use crate::dynamo::clock::Dot;
use crate::dynamo::encoding::{Reader, Writer};
use crate::dynamo::format::{EncodedObject, read_dot, read_operation, write_dot, write_operation};
use crate::dynamo::key::{Key, KeyHash, NamespaceId, NodeId, PartitionId};
use crate::dynamo::operation::{Change, OperationId, PayloadHash};
use crate::dynamo::ttl::{Ttl, TtlError, TtlMs};
use crate::transport::{ForwardGet, ForwardWrite, LookUp, Read, Replicate, ScanPage};

pub(super) fn encode_replicate(m: Replicate) -> proto::Replicate {
    proto::Replicate {
        namespace: m.namespace.0,
        key: m.key.to_bytes(),
        object: m.object.0,
        synced: m.synced,
        operation: m.operation.map_or_else(Bytes::new, encode_cause),
        mend: m.mend,
        clock_ms: m.clock_ms,
        hint_for: m.hint_for.map_or(0, |owner| owner.0),
    }
}

pub(super) fn decode_replicate(m: proto::Replicate) -> Result<Replicate, WireError> {
    let operation = decode_cause(m.operation)?;
    // An owner judges by it whether the write comes late: one of no time would be late for ever.
    if operation.is_some() && m.clock_ms == 0 {
        return Err(WireError::Missing { field: "clock_ms" });
    }
    Ok(Replicate {
        namespace: NamespaceId(m.namespace),
        key: Key::new(m.key)?,
        object: EncodedObject(m.object),
        synced: m.synced,
        operation,
        mend: m.mend,
        clock_ms: m.clock_ms,
        hint_for: (m.hint_for != 0).then_some(NodeId(m.hint_for)),
    })
}

pub(super) fn encode_read(m: Read) -> proto::Read {
    let Read { namespace, key, digest, hint } = m;
    proto::Read { namespace: namespace.0, key: key.to_bytes(), digest, hint }
}

pub(super) fn decode_read(m: proto::Read) -> Result<Read, WireError> {
    let (namespace, key) = (NamespaceId(m.namespace), Key::new(m.key)?);
    Ok(Read { namespace, key, digest: m.digest, hint: m.hint })
}

pub(super) fn encode_forward_get(m: ForwardGet) -> proto::ForwardGet {
    proto::ForwardGet {
        namespace: m.namespace.0,
        key: m.key.to_bytes(),
        r: m.r.into(),
        blocking_repair: m.blocking_repair,
        sloppy: m.sloppy,
    }
}

pub(super) fn decode_forward_get(m: proto::ForwardGet) -> Result<ForwardGet, WireError> {
    Ok(ForwardGet {
        namespace: NamespaceId(m.namespace),
        key: Key::new(m.key)?,
        r: level("r", m.r)?,
        blocking_repair: m.blocking_repair,
        sloppy: m.sloppy,
    })
}

pub(super) fn encode_forward_write(m: ForwardWrite) -> proto::ForwardWrite {
    proto::ForwardWrite {
        namespace: m.namespace.0,
        key: m.key.to_bytes(),
        ttl_ms: match m.change.ttl() {
            Ttl::Default => None,
            Ttl::Never => Some(0),
            Ttl::After(ttl) => Some(ttl.get()),
        },
        expire: matches!(m.change, Change::Expire(_)),
        value: m.change.value().cloned(),
        context: m.context,
        w: m.w.into(),
        synced: m.synced,
        operation: encode_operation(&m.operation),
        at_least_once: m.at_least_once,
        fresh: m.fresh,
        sloppy: m.sloppy,
    }
}

pub(super) fn decode_forward_write(m: proto::ForwardWrite) -> Result<ForwardWrite, WireError> {
    Ok(ForwardWrite {
        namespace: NamespaceId(m.namespace),
        key: Key::new(m.key)?,
        change: decode_change(m.value, m.ttl_ms, m.expire)?,
        context: m.context,
        w: level("w", m.w)?,
        synced: m.synced,
        operation: decode_operation(m.operation)?,
        at_least_once: m.at_least_once,
        fresh: m.fresh,
        sloppy: m.sloppy,
    })
}

fn decode_change(
    value: Option<Bytes>,
    ttl_ms: Option<u64>,
    expire: bool,
) -> Result<Change, WireError> {
    let too_long = |TtlError(value)| WireError::Value { field: "ttl_ms", value };
    let ttl = match ttl_ms {
        None => Ttl::Default,
        Some(0) => Ttl::Never,
        Some(ms) => Ttl::After(TtlMs::new(ms).map_err(too_long)?),
    };
    match (value, expire) {
        (Some(value), false) => Ok(Change::Put { value, ttl }),
        (None, true) => Ok(Change::Expire(ttl)),
        (None, false) if ttl == Ttl::Default => Ok(Change::Delete),
        (None, false) | (Some(_), true) => Err(WireError::Missing { field: "value" }),
    }
}

pub(super) fn encode_scan_page(m: ScanPage) -> proto::ScanPage {
    proto::ScanPage {
        namespace: m.namespace.0,
        partition: m.partition.0.into(),
        prefix: m.prefix,
        after: m.after.map_or_else(Bytes::new, |key| key.to_bytes()),
        limit: m.limit,
    }
}

pub(super) fn decode_scan_page(m: proto::ScanPage) -> Result<ScanPage, WireError> {
    let partition = u16::try_from(m.partition)
        .map_err(|_| WireError::Value { field: "partition", value: m.partition.into() })?;
    Ok(ScanPage {
        namespace: NamespaceId(m.namespace),
        partition: PartitionId(partition),
        prefix: m.prefix,
        after: if m.after.is_empty() { None } else { Some(Key::new(m.after)?) },
        limit: m.limit,
    })
}

pub(super) fn encode_look_up(m: LookUp) -> proto::LookUp {
    proto::LookUp {
        operation: encode_operation(&m.operation),
        namespace: m.namespace.0,
        key_hash: m.key.0,
        settle: m.settle,
    }
}

pub(super) fn decode_look_up(m: proto::LookUp) -> Result<LookUp, WireError> {
    Ok(LookUp {
        operation: decode_operation(m.operation)?,
        namespace: NamespaceId(m.namespace),
        key: KeyHash(m.key_hash),
        settle: m.settle,
    })
}

/// A number of replicas: at least one, and N fits in a byte.
fn level(field: &'static str, value: u32) -> Result<u8, WireError> {
    let level = u8::try_from(value).ok().filter(|&level| level > 0);
    level.ok_or(WireError::Value { field, value: value.into() })
}

/// Operation id, dot and payload hash: 40 bytes, then 9 to 18, then 8.
fn encode_cause((operation, dot, payload): (OperationId, Dot, PayloadHash)) -> Bytes {
    let mut w = Writer::with_capacity(66);
    write_operation(&mut w, &operation);
    write_dot(&mut w, dot);
    w.u64(payload.0);
    w.finish()
}

type Cause = (OperationId, Dot, PayloadHash);

fn decode_cause(bytes: Bytes) -> Result<Option<Cause>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut r = Reader::new(bytes);
    let (id, dot) = (read_operation(&mut r, "operation")?, read_dot(&mut r, "operation dot")?);
    let cause = (id, dot, PayloadHash(r.u64("operation payload")?));
    r.finish("operation")?;
    Ok(Some(cause))
}
