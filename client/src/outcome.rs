//! What requests answer.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::v1;

use crate::token::{Context, Cursor};

/// One of the concurrent values of a key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sibling {
    /// The value.
    pub value: Bytes,
    /// When it was written, by its coordinator's clock: milliseconds since the Unix epoch.
    pub written_ms: u64,
    /// When it expires, by the same clock; `None`: never.
    pub expires_ms: Option<u64>,
    /// How long that was from the answer, by the clock of the node that gave it.
    pub ttl: Option<Duration>,
}

/// What a read saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// The concurrent values; none if the key was never written or is deleted.
    pub siblings: Vec<Sibling>,
    /// Send it with the write that replaces these siblings. `None` if nothing was ever written.
    pub context: Option<Context>,
    /// How many replicas answered.
    pub replicas: u32,
    /// How many fallbacks counted for owners that did not, by what they keep for them.
    pub fallbacks: u32,
}

/// An acknowledged write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Covers what was written; `None` if other values stand beside it, or if it was replaced before
    /// a retry of it was answered: read the key first.
    pub context: Option<Context>,
    /// How many values stand under the key now; after a delete, how many it did not cover, or were
    /// written since.
    pub siblings: u32,
    /// Who has the write.
    pub receipt: Receipt,
    /// How often it was sent.
    pub attempts: u32,
}

/// Who has a write.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Receipt {
    /// The write's name for ever: `actor:n`, the actor in hexadecimal.
    pub dot: String,
    /// The names of the key's owners that acknowledged before the answer.
    pub acked: Vec<String>,
    /// How many of all that acknowledged had it on disk.
    pub synced: u32,
    /// The fallbacks that acknowledged.
    pub fallbacks: Vec<StandIn>,
}

/// A node that keeps a write in the place of an owner, until it can give it to that one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StandIn {
    /// The name of the node that keeps it.
    pub node: String,
    /// The name of the owner.
    pub owner: String,
}

/// What became of a write whose outcome was unknown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// What.
    pub resolution: Resolution,
    /// Who says so; or who did not answer, and what to do.
    pub message: String,
}

/// What is known of a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// It was applied. A retry under the same id sees to the owners that lack it.
    Applied {
        /// The write's name for ever: `actor:n`, the actor in hexadecimal.
        dot: String,
    },
    /// It was not applied, and never will be.
    NotApplied,
    /// Nobody who answered knows: ask again when the others are back, or read the key.
    Unknown,
    /// Its id is over an hour old, by which time nodes forget: read the key.
    Expired,
}

/// What a delete did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deleted {
    /// It removed what its context covers.
    Done(Written),
    /// The key had no values, so nothing was written.
    NotFound,
}

/// What an expire or persist did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expired {
    /// The value was written again, with its new end.
    Done(Written),
    /// The key has no value, or it had expired: nothing was written.
    NotFound,
}

/// What an update did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Updated {
    /// It wrote. With more than one sibling, concurrent writers won the race until the deadline.
    Done(Written),
    /// The function asked to leave the key as it is.
    Unchanged,
}

/// One key of a scan, with its values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanItem {
    /// The key.
    pub key: Bytes,
    /// Its concurrent values, at least one.
    pub siblings: Vec<Sibling>,
    /// Send it with the write that replaces these siblings.
    pub context: Option<Context>,
    /// On the last item of each page: a scan from here goes on after this item.
    pub cursor: Option<Cursor>,
}

pub(crate) fn dot_text(dot: Option<v1::Dot>) -> String {
    let v1::Dot { actor, n } = dot.unwrap_or_default();
    format!("{actor:016x}:{n}")
}

fn siblings(wire: Vec<v1::Sibling>) -> Vec<Sibling> {
    let sibling = |s: v1::Sibling| Sibling {
        value: s.value,
        written_ms: s.written_ms,
        expires_ms: s.expires_ms,
        ttl: s.ttl_ms.map(Duration::from_millis),
    };
    wire.into_iter().map(sibling).collect()
}

impl From<v1::GetReply> for Read {
    fn from(reply: v1::GetReply) -> Self {
        Self {
            siblings: siblings(reply.siblings),
            context: Context::from_bytes(reply.context),
            replicas: reply.replicas,
            fallbacks: reply.fallbacks,
        }
    }
}

impl From<v1::ScanItem> for ScanItem {
    fn from(item: v1::ScanItem) -> Self {
        Self {
            key: item.key,
            siblings: siblings(item.siblings),
            context: Context::from_bytes(item.context),
            cursor: None,
        }
    }
}
