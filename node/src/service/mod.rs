//! What a node answers: thin handlers that translate, call the coordinator, and translate back.
//!
//! [`kv`] (with many keys at once in [`batch`]) and [`cluster`] speak the public gRPC interface, [`peer`] answers other nodes, and
//! [`status`] is the one place where an error becomes a gRPC status.

pub mod batch;
pub mod cluster;
pub mod deadline;
mod hints;
pub mod kv;
pub mod metered;
pub mod peer;
mod resolve;
pub mod status;
mod traced;

use std::panic::resume_unwind;

use quorate_proto::v1;

use crate::dynamo::metadata::document::Durability;
use crate::dynamo::quorum::Level;
use crate::dynamo::ttl::{Ttl, TtlMs};
use crate::error::RequestError;
use crate::trace::Trace;

/// Runs writes to their end even if nobody waits for them any more, since their client went away or
/// their time is over: once one has a dot, the other owners are to have it.
async fn to_the_end<T: Send + 'static>(writes: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(Trace::current().run(writes)).await {
        Ok(outcome) => outcome,
        Err(ended) => resume_unwind(ended.into_panic()),
    }
}

/// The value of an enum. One that this release does not know means something, and not the default.
fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<E, RequestError> {
    let reason = || RequestError::invalid(format!("{field} {value} is not known to this release"));
    E::try_from(value).map_err(|_| reason())
}

/// The level that a message names; none: the namespace's default.
fn level(level: Option<v1::Level>) -> Result<Option<Level>, RequestError> {
    let Some(level) = level else { return Ok(None) };
    let kind = known("level kind", level.kind)?;
    if level.count != 0 && kind != v1::level::Kind::Count {
        let reason = format!("level {}: a count of replicas goes with KIND_COUNT", level.count);
        return Err(RequestError::Invalid { reason });
    }
    Ok(match kind {
        v1::level::Kind::Default => None,
        v1::level::Kind::One => Some(Level::One),
        v1::level::Kind::Quorum => Some(Level::Quorum),
        v1::level::Kind::All => Some(Level::All),
        v1::level::Kind::Count => match u8::try_from(level.count) {
            Ok(count) if count > 0 => Some(Level::Count(count)),
            _ => {
                let count = level.count;
                let reason = format!("level {count}: a count of replicas is 1 to n");
                return Err(RequestError::Invalid { reason });
            }
        },
    })
}

fn level_message(level: Level) -> v1::Level {
    let (kind, count) = match level {
        Level::One => (v1::level::Kind::One, 0),
        Level::Quorum => (v1::level::Kind::Quorum, 0),
        Level::All => (v1::level::Kind::All, 0),
        Level::Count(count) => (v1::level::Kind::Count, count.into()),
    };
    v1::Level { kind: kind.into(), count }
}

fn durability(durability: i32) -> Result<Option<Durability>, RequestError> {
    Ok(match known("durability", durability)? {
        v1::Durability::Default => None,
        v1::Durability::Buffered => Some(Durability::Buffered),
        v1::Durability::Synced => Some(Durability::Synced),
    })
}

/// Whether what fallbacks do counts; none: the namespace's default.
fn sloppy(quorum: i32) -> Result<Option<bool>, RequestError> {
    Ok(match known("quorum", quorum)? {
        v1::Quorum::Default => None,
        v1::Quorum::Strict => Some(false),
        v1::Quorum::Sloppy => Some(true),
    })
}

/// How long a value is to live.
fn ttl(ttl: Option<v1::Ttl>) -> Result<Ttl, RequestError> {
    use v1::ttl::Lives;
    match ttl.map(|ttl| ttl.lives) {
        None => Ok(Ttl::Default),
        Some(Some(Lives::Never(true))) => Ok(Ttl::Never),
        Some(Some(Lives::Milliseconds(ms))) => match TtlMs::new(ms) {
            Ok(ttl) => Ok(Ttl::After(ttl)),
            Err(error) => Err(RequestError::invalid(format!("ttl: {error}"))),
        },
        Some(Some(Lives::Never(false)) | None) => Err(RequestError::invalid(
            "ttl: milliseconds, or never = true; leave it out for the default",
        )),
    }
}

/// Whether other nodes may run a write too.
fn at_least_once(retry: i32) -> Result<bool, RequestError> {
    Ok(known::<v1::Retry>("retry", retry)? == v1::Retry::AtLeastOnce)
}
