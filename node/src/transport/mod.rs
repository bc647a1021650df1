//! What nodes say to each other, and the two traits by which they do.
//!
//! The rest of the node knows [`Peers`], which sends a request to a node, and [`Handler`], which
//! answers one. [`grpc`] carries them over long-lived gRPC streams; [`memory`] between nodes of one
//! process, for tests and simulation. Both encode and decode every message by [`wire`], the only
//! place that knows the protobuf form.

mod answer;
pub mod capped;
#[cfg(test)]
mod conformance;
pub mod grpc;
pub mod listener;
pub mod memory;
pub mod tls;
pub mod trees;
pub mod wire;

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use thiserror::Error;

pub use self::trees::{TreeReply, TreeRequest};
use crate::dynamo::clock::Dot;
use crate::dynamo::credit::Credit;
pub use crate::dynamo::exchange::{Answer, Compared, KeyDots, Told};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::frontier::Frontier;
pub use crate::dynamo::hint::{HintQueue, Hints};
use crate::dynamo::key::{Key, KeyHash, NamespaceId, NodeId, PartitionId, VnodeId};
use crate::dynamo::object::Digest;
use crate::dynamo::operation::{Change, OperationId, PayloadHash};
pub use crate::dynamo::resolve::{Known, LookedUp};
use crate::dynamo::standing::Standing;
pub use crate::dynamo::write::StandIn;
use crate::error::{RequestError, WriteError};

/// A request of one node to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Merge an object.
    Replicate(Replicate),
    /// Tell what you hold of a key.
    Read(Read),
    /// Coordinate a client's read.
    ForwardGet(ForwardGet),
    /// Coordinate a client's write.
    ForwardWrite(ForwardWrite),
    /// Merge many objects.
    ReplicateBatch(Vec<Replicate>),
    /// Tell what you hold of many keys.
    ReadBatch(Vec<Read>),
    /// Coordinate many reads of a client.
    ForwardGetBatch(Vec<ForwardGet>),
    /// Coordinate many writes of a client.
    ForwardWriteBatch(Vec<ForwardWrite>),
    /// List a part of a partition.
    ScanPage(ScanPage),
    /// Send your newest metadata document.
    Document,
    /// Take note of a chosen document, in its canonical encoding.
    Learn(Bytes),
    /// A message of the metadata register, in its canonical encoding.
    Register(Bytes),
    /// Tell your wall clock.
    Clock,
    /// Hear who is there; see [`liveness`](crate::liveness).
    Gossip(Bytes),
    /// Take home these hints, oldest first, which are of keys that you own. Each is acknowledged once
    /// it is on disk.
    Handoff(Vec<Replicate>),
    /// Tell which hints you keep.
    Hints,
    /// Tell what you know of an operation.
    LookUp(LookUp),
    /// Tell what you have seen of these partitions, of which we both are owners; with each goes a
    /// [fingerprint](crate::dynamo::exchange::fingerprint) of what I have seen.
    Frontiers {
        /// The partitions, with the fingerprints.
        asked: Vec<(VnodeId, u64)>,
        /// Tell also what you remember of what I told you.
        recall: bool,
    },
    /// Tell of which keys of this partition these writes are.
    Keys(VnodeId, Frontier),
    /// Tell of your trees of hashes.
    Trees(TreeRequest),
}

/// The answer to the [`Request`] of the same name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The object was merged; whether it is on disk already.
    Replicated {
        /// On disk, not only handed to the operating system.
        synced: bool,
    },
    /// What the replica holds.
    Held {
        /// What.
        held: Held,
        /// Whether its silence counts.
        standing: Standing,
    },
    /// A coordinated read.
    GetResult(GetResult),
    /// A coordinated write.
    WriteResult(WriteResult),
    /// For each object in its order: whether it is on disk already, or why it was not merged.
    ReplicatedBatch(Vec<Result<bool, RequestError>>),
    /// What the replica holds of the first keys in their order, and whether its silence counts; at
    /// least of one key, and as many as one message should hold.
    HeldBatch(Vec<Result<(Held, Standing), RequestError>>),
    /// The reads of the first keys in their order, at least of one.
    GetBatch(Vec<Result<GetResult, RequestError>>),
    /// The writes in their order.
    WriteBatch(Vec<Result<WriteResult, WriteError>>),
    /// A part of a partition.
    ScanPage(ScanPageReply),
    /// The newest document known, in its canonical encoding; none before there is a cluster.
    Document(Option<Bytes>),
    /// The version known now.
    Learned {
        /// Of the newest document.
        version: u64,
    },
    /// An answer of the metadata register, in its canonical encoding.
    Register(Bytes),
    /// The wall clock.
    Clock {
        /// Milliseconds since the Unix epoch.
        now_ms: u64,
    },
    /// The gossip was taken, or lost.
    Heard,
    /// For each hint in its order whether it is home, on disk; and what may come next.
    Handoff {
        /// For each item.
        taken: Vec<Result<(), RequestError>>,
        /// How much more is welcome.
        credit: Credit,
    },
    /// The hints that are kept.
    Hints(Hints),
    /// What is known of an operation.
    LookedUp(LookedUp),
    /// What was seen.
    Frontiers {
        /// For each partition in its order.
        answers: Vec<Answer>,
        /// Whether all that the asker remembers of these partitions is settled.
        settled: bool,
    },
    /// Keys with their writes, as far as they are known, and as many as one message should hold.
    Keys(Vec<KeyDots>),
    /// What is told of trees.
    Trees(TreeReply),
    /// The request failed; it was no write.
    Failed(RequestError),
    /// The write failed.
    WriteFailed(WriteError),
}

/// Merge `object` into what you hold of the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replicate {
    /// The key's namespace.
    pub namespace: NamespaceId,
    /// The key.
    pub key: Key,
    /// The whole object, never a part of it.
    pub object: EncodedObject,
    /// Acknowledge only when it is on disk.
    pub synced: bool,
    /// The write that caused this, and its dot, for the operation index; none for a repair.
    pub operation: Option<(OperationId, Dot, PayloadHash)>,
    /// What the coordinator's wall clock showed when it wrote: see
    /// [`Written::clock_ms`](crate::vnode::Written), at least 1; 0 for a repair.
    pub clock_ms: u64,
    /// The object holds what every other owner held, and so may replace a damaged record.
    pub mend: bool,
    /// Keep it as a hint for this owner, in whose place it counts; none: you are an owner.
    pub hint_for: Option<NodeId>,
}

/// Tell what you hold of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// The key's namespace.
    pub namespace: NamespaceId,
    /// The key.
    pub key: Key,
    /// The digest is enough.
    pub digest: bool,
    /// What you keep of it as a hint.
    pub hint: bool,
}

/// What a replica holds of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// The object.
    Object(EncodedObject),
    /// Its digest.
    Digest(Digest),
}

/// A client's read, sent on to a node that holds the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardGet {
    /// The key's namespace.
    pub namespace: NamespaceId,
    /// The key.
    pub key: Key,
    /// How many replicas must answer, 1..=n.
    pub r: u8,
    /// Repair what differs before answering.
    pub blocking_repair: bool,
    /// What fallbacks keep counts too.
    pub sloppy: bool,
}

/// The outcome of a read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GetResult {
    /// The merge of the answers.
    pub object: EncodedObject,
    /// How many replicas answered.
    pub replicas: u32,
    /// How many fallbacks counted for others.
    pub fallbacks: u32,
}

/// A client's write, sent on to the node that is to coordinate it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardWrite {
    /// The key's namespace.
    pub namespace: NamespaceId,
    /// The key.
    pub key: Key,
    /// What it does.
    pub change: Change,
    /// The context token; empty: none.
    pub context: Bytes,
    /// How many replicas must acknowledge, 1..=n.
    pub w: u8,
    /// They acknowledge only what is on disk.
    pub synced: bool,
    /// The client's id of the write.
    pub operation: OperationId,
    /// Coordinate it even if the id names another node or opening.
    pub at_least_once: bool,
    /// No earlier request carried the id.
    pub fresh: bool,
    /// The acks of fallbacks count.
    pub sloppy: bool,
}

impl ForwardWrite {
    /// The id, if an earlier request may have carried it.
    pub fn doubtful(&self) -> Option<OperationId> {
        (!self.fresh).then_some(self.operation)
    }
}

/// The outcome of a write that succeeded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteResult {
    /// The token that covers the write; none if other siblings stand beside it.
    pub context: Option<Bytes>,
    /// How many siblings the key has now.
    pub siblings: u32,
    /// The write's dot.
    pub dot: Dot,
    /// The owners that acknowledged before the answer.
    pub acked: Vec<NodeId>,
    /// The fallbacks that did.
    pub fallbacks: Vec<StandIn>,
    /// How many of all these had it on disk.
    pub synced: u32,
}

/// Which operation is asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LookUp {
    /// Its id.
    pub operation: OperationId,
    /// The namespace of the key that it wrote.
    pub namespace: NamespaceId,
    /// The key's hash.
    pub key: KeyHash,
    /// If you alone could still apply it, and do not know it: never do, and say so.
    pub settle: bool,
}

/// List the keys of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanPage {
    /// Of this namespace.
    pub namespace: NamespaceId,
    /// In this partition.
    pub partition: PartitionId,
    /// That begin with this.
    pub prefix: Bytes,
    /// And come after this one; none: from the first.
    pub after: Option<Key>,
    /// At most so many.
    pub limit: u32,
}

/// Keys of a partition in byte order, tombstones included: another replica may hold the value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanPageReply {
    /// Keys and objects.
    pub items: Vec<(Key, EncodedObject)>,
    /// Keys between them whose records are damaged here, so that nothing is said of them.
    pub damaged: Vec<Key>,
    /// Whether no key comes after the last of these.
    pub complete: bool,
    /// Whether its silence about other keys counts.
    pub standing: Standing,
}

/// Once the answers to a batch have so many bytes, the rest is for another message: a message that
/// is much longer would hold up all others.
const ANSWERS_BYTES: usize = 16 << 20;

/// The first answers to a batch, at least one: as many as one message should hold.
pub fn first_fitting<T>(
    answers: impl IntoIterator<Item = Result<T, RequestError>>,
    size: impl Fn(&T) -> usize,
) -> Vec<Result<T, RequestError>> {
    let mut bytes = 0;
    let fits = |answer: &Result<T, RequestError>| {
        let before = bytes;
        bytes += answer.as_ref().map_or(0, &size);
        before == 0 || bytes <= ANSWERS_BYTES
    };
    answers.into_iter().take_while(fits).collect()
}

/// Why a peer gave no answer. Whether it did what it was asked to do is unknown, but for
/// `Disconnected` and `QueueFull`: then nothing was sent.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PeerError {
    /// There is no connection.
    #[error("not connected: {reason}")]
    Disconnected {
        /// Why not.
        reason: String,
    },
    /// Too many requests wait to be sent.
    #[error("its queue is full")]
    QueueFull,
    /// The connection broke while the request was under way.
    #[error("the connection broke")]
    Broken,
    /// No answer came in time.
    #[error("no answer in time")]
    TimedOut,
    /// The answer made no sense.
    #[error("malformed answer: {reason}")]
    Malformed {
        /// What was wrong with it.
        reason: String,
    },
}

impl PeerError {
    /// Whether the request certainly never reached the peer.
    pub fn nothing_sent(&self) -> bool {
        matches!(self, Self::Disconnected { .. } | Self::QueueFull)
    }
}

/// Sends requests to other nodes.
pub trait Peers: Send + Sync + 'static {
    /// Sends `request` to `to` and waits for its answer, at most for `timeout`.
    ///
    /// The request is queued before the returned future is first polled: dropping the future
    /// gives up the answer, not the request.
    fn request(
        &self,
        to: NodeId,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply, PeerError>>;

    /// Whether a connection to `node` stands.
    fn connected(&self, node: NodeId) -> bool;
}

/// Answers the requests of other nodes.
pub trait Handler: Send + Sync + 'static {
    /// Answers `request` of `from`, which waits at most for `timeout`.
    fn handle(
        &self,
        from: NodeId,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Reply>;

    /// The version of the newest metadata document known here; every message carries it.
    fn metadata_version(&self) -> u64;

    /// Hears that `from` knows metadata of `version`; called before the message is handled, only
    /// when it is newer. The future ends when the document was fetched, or could not be.
    fn newer_metadata(&self, from: NodeId, version: u64) -> BoxFuture<'static, ()>;
}
