//! Peers over gRPC: one long-lived stream per pair and direction.
//!
//! ```text
//!   node 1  dial ══ Hello, requests ═══▶ accept  node 2
//!                ◀═ Hello, answers ═════
//!           accept ◀═ Hello, requests ══ dial             another connection
//! ```
//!
//! A unary call costs ten times as much as a message on a stream that is open already. Answers
//! come back in any order, paired by id. What has queued up shares a frame, so that batches form by
//! themselves under load. Every queue is bounded: requests by [`Limits`], answers by how many
//! requests may run at once, past which the stream is not read and HTTP/2 holds the sender back.
//!
//! Invariant: of each node id at most one incarnation (store and opening) is connected at a time.
//! Two processes that share a name, say from a copied data directory, would both acknowledge
//! writes for one replica.
//!
//! With TLS (see [`super::tls`]) a third thing is checked: that a node introduces itself by the name
//! in its certificate.
//!
//! Left out: more than one connection per direction, which bought nothing.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::peer as proto;
use thiserror::Error;
use tonic::transport::Server;

use super::Handler;
use super::wire::PROTOCOL;
use crate::dynamo::key::NodeId;
use crate::dynamo::operation::Opening;
use crate::limits::budget::Budget;

mod accept;
mod connection;
mod dial;
mod dialer;
mod introduce;
mod queue;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

pub use accept::PeerService;
pub use dial::GrpcPeers;
pub use dialer::Dialer;
pub use introduce::{Bootstrap, Identity, IntroduceError};

/// The longest frame. It must hold the largest object, and merges never refuse: see
/// [`siblings_max_bytes`](crate::dynamo::object::siblings_max_bytes).
pub const FRAME_MAX_BYTES: usize = 256 << 20;

/// The longest message. It may share a frame with others, which end before a batch is full, and
/// breaks the stream for all if the frame is too long.
const MESSAGE_MAX_BYTES: usize = FRAME_MAX_BYTES - 2 * queue::BATCH_BYTES;

/// How much may be under way before the other side takes it: a few of the largest values.
const WINDOW_BYTES: u32 = 4 << 20;

/// A peer whose machine vanished answers no pings; it is noticed after both have passed. Shorter,
/// and a busy machine would look like a dead one.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connecting and the exchange of Hellos may take, each.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// What may wait and run at once, per peer and direction.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests that wait to be sent.
    pub queued: usize,
    /// Their bytes; one more request is taken as long as they are fewer.
    pub queued_bytes: usize,
    /// Requests of a peer that run at the same time.
    pub running: usize,
    /// The memory of all peers together.
    pub budget: Arc<Budget>,
}

impl Default for Limits {
    /// Deep enough for a burst, shallow enough that what waits can still meet its deadline.
    fn default() -> Self {
        Self { queued: 4096, queued_bytes: 64 << 20, running: 1024, budget: Budget::unbounded() }
    }
}

/// One life of a node: between an opening of its store and the end of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incarnation {
    /// The cluster it belongs to.
    pub cluster: [u8; 16],
    /// The node.
    pub node: NodeId,
    /// Its store: a random number made with it.
    pub store: u64,
    /// The present opening of the store.
    pub opening: Opening,
}

/// Why two nodes do not talk. Both keep trying; an operator must look.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// The stream does not open as a stream of this protocol does.
    #[error("the first frame is no Hello")]
    NoHello,
    /// Their programs are too far apart.
    #[error("node {node} speaks protocol {theirs}, this one {PROTOCOL}; run the same release")]
    Protocol {
        /// The other node.
        node: NodeId,
        /// Its protocol number.
        theirs: u32,
    },
    /// They belong to different clusters.
    #[error("node {node} belongs to cluster {theirs}, this one to {ours}")]
    Cluster {
        /// The other node.
        node: NodeId,
        /// This node's cluster, in hexadecimal digits.
        ours: String,
        /// The other's.
        theirs: String,
    },
    /// An address leads to another node than the cluster's metadata say.
    #[error("node {found} answers where node {expected} was expected; check the addresses")]
    WrongNode {
        /// Who should be there.
        expected: NodeId,
        /// Who is.
        found: NodeId,
    },
    /// A node introduces itself by another name than its certificate's.
    #[error(
        "node {node} introduces itself with a certificate of {names}, which does not speak for it"
    )]
    Certificate {
        /// Who it says it is.
        node: NodeId,
        /// Whom the certificate names.
        names: String,
    },
    /// Two processes claim to be one node.
    #[error("another process is connected as node {node}; only one may use the name and its data")]
    SecondIncarnation {
        /// The node.
        node: NodeId,
    },
}

impl Incarnation {
    fn hello(&self, expected: NodeId) -> proto::Hello {
        proto::Hello {
            protocol: PROTOCOL,
            cluster: Bytes::copy_from_slice(&self.cluster),
            node: self.node.0,
            store: self.store,
            opening: self.opening.0,
            expected: expected.0,
        }
    }

    /// The incarnation that said `hello` to this one, if they may talk.
    fn check(&self, hello: Option<proto::Hello>) -> Result<Self, Refusal> {
        let hello = hello.ok_or(Refusal::NoHello)?;
        let (node, theirs) = (NodeId(hello.node), hello.protocol);
        if theirs != PROTOCOL {
            return Err(Refusal::Protocol { node, theirs });
        }
        if hello.cluster != self.cluster[..] {
            let (ours, theirs) = (hexadecimal(&self.cluster), hexadecimal(&hello.cluster));
            return Err(Refusal::Cluster { node, ours, theirs });
        }
        let expected = NodeId(hello.expected);
        if expected != self.node {
            return Err(Refusal::WrongNode { expected, found: self.node });
        }
        let (store, opening) = (hello.store, Opening(hello.opening));
        Ok(Self { cluster: self.cluster, node, store, opening })
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// This node as its peers see it, shared by both directions.
pub struct Local {
    incarnation: Incarnation,
    /// Weak: the handler owns what owns this, and must be free to go when the node stops.
    handler: OnceLock<Weak<dyn Handler>>,
    /// Who is connected, and by how many streams.
    present: Mutex<BTreeMap<NodeId, (Incarnation, usize)>>,
}

impl Local {
    /// A node that answers nothing yet.
    pub fn new(incarnation: Incarnation) -> Arc<Self> {
        let present = Mutex::new(BTreeMap::new());
        Arc::new(Self { incarnation, handler: OnceLock::new(), present })
    }

    /// Lets `handler` answer from now on, until its last owner drops it. Said once.
    pub fn answer_with(&self, handler: &Arc<dyn Handler>) {
        let set = self.handler.set(Arc::downgrade(handler));
        assert!(set.is_ok(), "a node has one handler");
    }

    /// Who this node is.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    fn handler(&self) -> Option<Arc<dyn Handler>> {
        self.handler.get()?.upgrade()
    }

    /// The version to send; 0 says that no document is known.
    fn metadata_version(&self) -> u64 {
        self.handler().map_or(0, |handler| handler.metadata_version())
    }

    /// Notes that `remote` is connected for as long as the result is kept.
    fn admit(self: &Arc<Self>, remote: Incarnation) -> Result<Presence, Refusal> {
        let node = remote.node;
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let (live, streams) = present.entry(node).or_insert((remote, 0));
        if *live != remote || node == self.incarnation.node {
            if *streams == 0 {
                present.remove(&node);
            }
            return Err(Refusal::SecondIncarnation { node });
        }
        *streams += 1;
        Ok(Presence { local: self.clone(), node })
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("incarnation", &self.incarnation).finish_non_exhaustive()
    }
}

/// One stream of a connected incarnation.
#[derive(Debug)]
struct Presence {
    local: Arc<Local>,
    node: NodeId,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut present = self.local.present.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, streams)) = present.get_mut(&self.node) else { return };
        *streams -= 1;
        if *streams == 0 {
            present.remove(&self.node);
        }
    }
}

/// A server with the settings that streams of peers need.
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// An error with its causes: tonic's own text is "transport error".
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        next = cause.source();
    }
    text
}

/// What a refused or broken call says.
fn reason(status: &tonic::Status) -> String {
    match status.source() {
        Some(source) => causes(source),
        None if status.message().is_empty() => status.code().to_string(),
        None => status.message().to_owned(),
    }
}
