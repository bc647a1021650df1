//! How a request is to be done. Every option has a default; `..Default::default()` fills the rest.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    level::{Durability, Level, Quorum},
    operation::OperationId,
    token::{Context, Cursor},
    topology::ConflictRule,
    ttl::Ttl,
};

/// What is done about replicas whose answers differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Repair {
    /// They are sent the merged object after the answer.
    #[default]
    Async,
    /// They are sent it, and have acknowledged it, before the answer.
    Blocking,
}

/// What becomes of a write whose outcome is unknown.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Retry {
    /// Sent again under its operation id: its coordinator recognises it, and while that one is away, any
    /// owner that has it. Applied once or not at all.
    #[default]
    ExactlyOnce,
    /// Sent to another node too: may be applied more than once, its copies are shown as one.
    ///
    /// Not in an `lww` namespace: there a copy is a write of its own, which wins over what was written
    /// or deleted since the first was applied, and acknowledged.
    AtLeastOnce,
}

/// How to read.
#[derive(Clone, Debug, Default)]
pub struct GetOptions {
    /// How many replicas must answer.
    pub r: Level,
    /// Whether fallbacks may stand in for owners.
    pub quorum: Quorum,
    /// The name of a node: what it alone holds, without asking another.
    pub replica: Option<String>,
    /// What to do about replicas that differ.
    pub repair: Repair,
    /// Instead of the client's.
    pub timeout: Option<Duration>,
}

/// How to write.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// What the write replaces. Without one it stands beside whatever is there. In an `lww`
    /// namespace: what it must be newer than, whatever the clocks say.
    pub context: Option<Context>,
    /// How long the value is to live.
    pub ttl: Ttl,
    /// How many replicas must acknowledge.
    pub w: Level,
    /// Whether fallbacks may stand in for owners.
    pub quorum: Quorum,
    /// When a replica may acknowledge.
    pub durability: Durability,
    /// What to do when the outcome is unknown.
    pub retry: Retry,
    /// Instead of the client's.
    pub timeout: Option<Duration>,
    /// Asks again for the outcome of this write, which ended unknown. Send the same key and value.
    pub operation: Option<OperationId>,
}

/// One write of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchEntry {
    /// The key.
    pub key: Bytes,
    /// The value; `None`: what the context covers is deleted.
    pub value: Option<Bytes>,
    /// What the write replaces. Without one it stands beside whatever is there; a delete needs one.
    pub context: Option<Context>,
    /// How long the value is to live.
    pub ttl: Ttl,
    /// Asks again for the outcome of this write, which ended unknown. Send the same key and value.
    pub operation: Option<OperationId>,
}

impl BatchEntry {
    /// A put of a value that replaces what the context covers.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>, context: Option<Context>) -> Self {
        let (key, value, ttl) = (key.into(), Some(value.into()), Ttl::Default);
        Self { key, value, context, ttl, operation: None }
    }

    /// A deletion of what the context covers.
    pub fn delete(key: impl Into<Bytes>, context: Context) -> Self {
        let (key, context, ttl) = (key.into(), Some(context), Ttl::Default);
        Self { key, value: None, context, ttl, operation: None }
    }
}

/// How to write a batch.
#[derive(Clone, Debug, Default)]
pub struct BatchOptions {
    /// How many replicas must acknowledge each write.
    pub w: Level,
    /// Whether fallbacks may stand in for owners.
    pub quorum: Quorum,
    /// When a replica may acknowledge.
    pub durability: Durability,
    /// What to do when the outcome of a write is unknown.
    pub retry: Retry,
    /// Instead of the client's, for all of the batch.
    pub timeout: Option<Duration>,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// What to delete. Without one, the key is read first and what was seen is deleted.
    pub context: Option<Context>,
    /// How many replicas must answer that read.
    pub r: Level,
    /// How many replicas must acknowledge the deletion.
    pub w: Level,
    /// Whether fallbacks may stand in for owners.
    pub quorum: Quorum,
    /// When a replica may acknowledge.
    pub durability: Durability,
    /// What to do when the outcome is unknown.
    pub retry: Retry,
    /// Instead of the client's, for the read and the write together.
    pub timeout: Option<Duration>,
    /// Asks again for the outcome of this delete, which ended unknown. Needs its context.
    pub operation: Option<OperationId>,
}

/// How to write a value again that is to expire at another time.
#[derive(Clone, Debug, Default)]
pub struct ExpireOptions {
    /// How many replicas must acknowledge.
    pub w: Level,
    /// Whether fallbacks may stand in for owners.
    pub quorum: Quorum,
    /// When a replica may acknowledge.
    pub durability: Durability,
    /// What to do when the outcome is unknown.
    pub retry: Retry,
    /// Instead of the client's.
    pub timeout: Option<Duration>,
    /// Asks again for the outcome of this write, which ended unknown. Send the same key and time to live.
    pub operation: Option<OperationId>,
}

/// How to update.
#[derive(Clone, Debug, Default)]
pub struct UpdateOptions {
    /// How many replicas must answer each read.
    pub r: Level,
    /// How many replicas must acknowledge each write.
    pub w: Level,
    /// Whether fallbacks may stand in for owners.
    pub quorum: Quorum,
    /// When a replica may acknowledge.
    pub durability: Durability,
    /// How long each value that is written is to live: not what is left to the one that it replaces.
    pub ttl: Ttl,
    /// What to do when the outcome of a write is unknown.
    pub retry: Retry,
    /// Instead of the client's, for all of the reads and writes together.
    pub timeout: Option<Duration>,
}

/// What to scan.
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    /// Only keys that begin with it. Empty: every key.
    pub prefix: Bytes,
    /// How many keys at most; `None`: all.
    pub limit: Option<u64>,
    /// How many owners of each partition must answer.
    pub r: Level,
    /// Where an earlier scan stopped; `None`: from the start.
    pub cursor: Option<Cursor>,
    /// Instead of the client's, for each page.
    pub timeout: Option<Duration>,
}

/// A namespace to be made.
#[derive(Clone, Debug, Default)]
pub struct NamespaceSpec {
    /// 1..=64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit.
    pub name: String,
    /// Replicas of each key; `None`: 3.
    pub n: Option<u32>,
    /// The default level of reads; itself by default `quorum`.
    pub r: Level,
    /// The default level of writes; itself by default `quorum`.
    pub w: Level,
    /// Whether fallbacks may stand in for owners; itself by default sloppy.
    pub quorum: Quorum,
    /// What happens to concurrent writes of one key, for ever; by default siblings.
    pub conflict: ConflictRule,
    /// The default durability; itself by default buffered.
    pub durability: Durability,
    /// The largest value, in bytes; `None`: 1 MiB.
    pub value_max_bytes: Option<u32>,
    /// How long values live whose writes do not say; itself by default until they are replaced.
    pub default_ttl: Ttl,
}

impl NamespaceSpec {
    /// A namespace with every default.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// What is to change of a namespace; a default, or `None`, leaves it as it is. Neither `n` nor the
/// conflict rule can change.
#[derive(Clone, Debug, Default)]
pub struct NamespaceUpdate {
    /// Which one.
    pub name: String,
    /// The default level of reads.
    pub r: Level,
    /// The default level of writes.
    pub w: Level,
    /// Whether fallbacks may stand in for owners.
    pub quorum: Quorum,
    /// The default durability.
    pub durability: Durability,
    /// The largest value, in bytes. Larger ones that are there already stay.
    pub value_max_bytes: Option<u32>,
    /// How long values live whose writes do not say, from then on.
    pub default_ttl: Ttl,
}

impl NamespaceUpdate {
    /// Changes nothing yet of the namespace of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}
