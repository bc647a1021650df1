//! What this node knows of the cluster, and how it changes it.
//!
//! [`Cluster`] is the shell around the metadata register, which is pure: it keeps the document and
//! the votes on disk, carries the register's messages over [`Peers`], and publishes each new
//! document as a [`View`] that requests read without a lock.
//!
//! ```text
//!   a change      propose -> a majority voted, votes on disk -> learned here -> told to all
//!   a document    validate -> on disk -> visible to requests -> votes on its successor
//!   a vote        decide -> on disk -> answer
//! ```
//!
//! Whatever touches the register runs one after the other, and takes the register's lock along
//! into the blocking work: who stops waiting for an answer does not let the next request overtake
//! a disk write that is still under way. Requests for keys never wait for any of it.
//!
//! Two documents of one version mean that the metadata forked. The node then logs both hashes,
//! refuses every change, and goes on serving with the document that it has, until somebody looks.
//!
//! Left out: who is alive, and changes of members and voters.

mod change;
mod pauses;
mod recovery;
mod refresh;
mod register;
mod rounds;
#[cfg(test)]
mod tests;
pub mod view;
mod vote;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use self::register::{Published, Register};
use self::rounds::Rounds;
use self::view::View;
use crate::dynamo::key::NodeId;
use crate::dynamo::metadata::Document;
use crate::dynamo::metadata::document::{ClusterKey, Voter};
use crate::dynamo::metadata::register::{Alarm, Reply, Request};
use crate::env::Env;
use crate::error::RequestError;
use crate::signal::Changes;
use crate::storage::Engine;
use crate::transport::{self, PeerError, Peers};

pub use self::register::OpenError;
pub use self::vote::Vote;

/// How long a voter may take for one step. A paused one costs that much only where the others are
/// no majority without it; a disk under load syncs well within.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// Rounds of asking one node for its document.
type Fetches = Rounds<Result<(), RequestError>>;

/// A node's knowledge of its cluster.
pub struct Cluster {
    me: Voter,
    env: Env,
    /// An async mutex, since it is held while disks sync: see the module's words on order.
    register: Arc<tokio::sync::Mutex<Register>>,
    published: Arc<Published>,
    peers: OnceLock<Arc<dyn Peers>>,
    /// Held by the change under way: a node does not outvote itself.
    changing: tokio::sync::Mutex<()>,
    refreshes: Rounds<Result<(), RequestError>>,
    fetches: Mutex<BTreeMap<NodeId, Arc<Fetches>>>,
}

impl Cluster {
    /// Reads the document and the votes that the store holds. Without a document the node waits
    /// for [`Cluster::bootstrap`], or for a member that sends one.
    ///
    /// `me.store` must be the id that was made with the store. Call it once per opening of the
    /// store: the voter asks the others for what it may have forgotten, in [`Cluster::recover`].
    pub fn open(me: Voter, engine: Arc<dyn Engine>, env: Env) -> Result<Arc<Self>, OpenError> {
        let published = Arc::new(Published::default());
        let register = Register::open(me, engine, published.clone())?;
        Ok(Arc::new(Self {
            me,
            env,
            register: Arc::new(tokio::sync::Mutex::new(register)),
            published,
            peers: OnceLock::new(),
            changing: tokio::sync::Mutex::default(),
            refreshes: Rounds::default(),
            fetches: Mutex::default(),
        }))
    }

    /// Gives it the way to other nodes, once; before that they are out of reach.
    pub fn connect(&self, peers: Arc<dyn Peers>) {
        assert!(self.peers.set(peers).is_ok(), "a cluster is connected once");
    }

    /// The newest document known, ready for requests; none before there is one.
    pub fn view(&self) -> Option<Arc<View>> {
        self.published.view()
    }

    /// The version of the newest document known; 0 without one.
    pub fn version(&self) -> u64 {
        self.published.version()
    }

    /// The cluster's key, once there is one: it is there before the first view.
    pub fn key(&self) -> Arc<OnceLock<ClusterKey>> {
        self.published.key()
    }

    /// Tells each new version, after its view can be read.
    pub fn changes(&self) -> Changes<u64> {
        self.published.changes()
    }

    /// The fork that this node saw, if any: it then refuses every change of the metadata.
    pub fn alarm(&self) -> Option<Alarm> {
        self.published.alarm()
    }

    /// What becomes of this node's vote on changes of the metadata.
    pub fn vote(&self) -> Vote {
        self.published.vote()
    }

    /// The newest document known, in its canonical encoding, for a peer that asks.
    pub async fn newest_document(&self) -> Option<Bytes> {
        self.view().map(|view| view.document().encode())
    }

    /// Takes the first document of a new cluster, which must name this node as a member; on disk
    /// when it returns. The document that made the cluster may be given again.
    pub async fn bootstrap(&self, document: Bytes) -> Result<(), RequestError> {
        self.exclusively(move |register| register.bootstrap(decode(document)?)).await
    }

    /// Takes a chosen document, from anybody; on disk when it returns. Known and older ones are
    /// fine. Tells the version known now.
    pub async fn learn(&self, document: Bytes) -> Result<u64, RequestError> {
        self.exclusively(move |register| register.learn(&Arc::new(decode(document)?))).await
    }

    /// Answers a message of the register; the votes that the answer rests on are on disk by then.
    pub async fn on_register(&self, message: Bytes) -> Result<Bytes, RequestError> {
        let answer = move |register: &mut Register| {
            let request = Request::decode(message).map_err(RequestError::invalid)?;
            register.on_request(&request).map(|reply| reply.encode())
        };
        self.exclusively(answer).await
    }

    async fn learn_document(&self, document: Arc<Document>) -> Result<u64, RequestError> {
        self.exclusively(move |register| register.learn(&document)).await
    }

    /// Runs `work` where it may block, after everything that came before. The lock goes with it:
    /// dropping the future does not release it before the work is done.
    async fn exclusively<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Register) -> T + Send + 'static,
    ) -> T {
        let mut register = self.register.clone().lock_owned().await;
        let worked = move || {
            let answer = work(&mut register);
            register.publish_vote();
            answer
        };
        self.env.block(worked).await
    }

    /// Asks a peer.
    fn ask(
        &self,
        to: NodeId,
        request: transport::Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<transport::Reply, PeerError>> {
        match self.peers.get() {
            Some(peers) => peers.request(to, request, timeout),
            None => {
                let reason = "this node is still starting".to_owned();
                Box::pin(std::future::ready(Err(PeerError::Disconnected { reason })))
            }
        }
    }

    /// Asks a voter, which may be this node. The error is for people.
    async fn ask_voter(
        &self,
        to: NodeId,
        request: Request,
        timeout: Duration,
    ) -> Result<Reply, String> {
        if to == self.me.node {
            let answer = self.exclusively(move |register| register.on_request(&request));
            return answer.await.map_err(|error| error.to_string());
        }
        let message = transport::Request::Register(request.encode());
        match self.ask(to, message, timeout).await {
            Ok(transport::Reply::Register(bytes)) => {
                let reply = Reply::decode(bytes).map_err(|error| error.to_string())?;
                if reply.ballot == request.ballot { Ok(reply) } else { Err(nonsense()) }
            }
            Ok(transport::Reply::Failed(error)) => Err(error.to_string()),
            Ok(_) => Err(nonsense()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Hands a peer a chosen document; whether it knows this version now.
    async fn teach(&self, to: NodeId, document: &Document, timeout: Duration) -> bool {
        let request = transport::Request::Learn(document.encode());
        let known = self.ask(to, request, timeout).await;
        matches!(known, Ok(transport::Reply::Learned { version }) if version >= document.version)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (me, version) = (self.me, self.version());
        f.debug_struct("Cluster").field("me", &me).field("version", &version).finish()
    }
}

fn decode(document: Bytes) -> Result<Document, RequestError> {
    Document::decode(document).map_err(RequestError::invalid)
}

fn nonsense() -> String {
    "the answer was to something else".to_owned()
}
