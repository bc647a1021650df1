//! This node's side of the register, with its disk: what it knows and voted, each synced first.
//!
//! Everything here blocks and runs one after the other. A step works on a copy of the acceptor,
//! which replaces it only once the disk has what the step decided: after a failed write the node
//! is where it was, so it never tells twice what it could not write once.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use thiserror::Error;
use tokio::sync::watch;

use super::view::View;
use super::vote::Vote;
use crate::dynamo::key::NodeId;
use crate::dynamo::metadata::Document;
use crate::dynamo::metadata::document::{ClusterKey, DocumentError, Voter};
use crate::dynamo::metadata::register::{
    Acceptor, Alarm, Answer, Effect, Learned, Refusal, Reply, Request, Votes, VotesAhead,
};
use crate::dynamo::placement::PlacementError;
use crate::error::RequestError;
use crate::signal::{Changes, Signal};
use crate::storage::record::{self, RecordError};
use crate::storage::{Batch, Engine, EngineError, Space};

const DOCUMENT: &str = "document";
const VOTES: &str = "votes";

/// Why a store's metadata cannot be used. Nothing was changed. A store that is damaged, or has
/// votes without their document, may have lost votes too: move it aside, so that it comes back
/// under a new store id.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum OpenError {
    /// The engine would not read.
    #[error("the cluster's metadata cannot be read: {reason}")]
    Engine {
        /// What it said.
        reason: String,
    },
    /// A record is damaged, or of a later version of this program.
    #[error("the stored {what}: {source}")]
    Record {
        /// Which record.
        what: &'static str,
        /// What is wrong with it.
        source: RecordError,
    },
    /// A record holds something else.
    #[error("the stored {what}: {source}")]
    Content {
        /// Which record.
        what: &'static str,
        /// What is wrong with it.
        source: DocumentError,
    },
    /// The document's tables do not fit its members.
    #[error("the stored document: {0}")]
    Placement(#[from] PlacementError),
    /// The document that the votes followed is lost.
    #[error(transparent)]
    VotesAhead(#[from] VotesAhead),
}

impl From<EngineError> for OpenError {
    fn from(error: EngineError) -> Self {
        Self::Engine { reason: error.to_string() }
    }
}

/// What the rest of the node sees, without waiting for the register.
#[derive(Default)]
pub(super) struct Published {
    view: ArcSwapOption<View>,
    version: Arc<Signal<u64>>,
    alarm: OnceLock<Alarm>,
    vote: watch::Sender<Vote>,
    key: Arc<OnceLock<ClusterKey>>,
}

impl Published {
    pub(super) fn key(&self) -> Arc<OnceLock<ClusterKey>> {
        self.key.clone()
    }

    pub(super) fn view(&self) -> Option<Arc<View>> {
        self.view.load_full()
    }

    pub(super) fn version(&self) -> u64 {
        self.view.load().as_ref().map_or(0, |view| view.document().version)
    }

    pub(super) fn changes(&self) -> Changes<u64> {
        self.version.changes()
    }

    pub(super) fn alarm(&self) -> Option<Alarm> {
        self.alarm.get().copied()
    }

    pub(super) fn vote(&self) -> Vote {
        *self.vote.borrow()
    }

    fn publish(&self, view: View) {
        let version = view.document().version;
        assert!(version > self.version(), "version {version} is published after a newer one");
        // Before requests can see the view. All documents of a cluster have the same one.
        let _ = self.key.set(view.document().cluster_key);
        self.view.store(Some(Arc::new(view)));
        self.version.set(version);
    }

    fn raise(&self, alarm: Alarm) {
        if self.alarm.set(alarm).is_ok() {
            let Alarm { version, ours, theirs } = alarm;
            tracing::error!(
                version,
                ?ours,
                ?theirs,
                "the cluster's metadata forked; this node refuses to change it from now on"
            );
        }
    }
}

/// The acceptor, its store, and where its documents are published.
pub(super) struct Register {
    me: Voter,
    engine: Arc<dyn Engine>,
    published: Arc<Published>,
    acceptor: Option<Acceptor>,
}

impl Register {
    pub(super) fn open(
        me: Voter,
        engine: Arc<dyn Engine>,
        published: Arc<Published>,
    ) -> Result<Self, OpenError> {
        let document = stored(&*engine, DOCUMENT, Document::decode)?.map(Arc::new);
        let votes = stored(&*engine, VOTES, Votes::decode)?;
        let acceptor = match (document, votes) {
            (Some(document), votes) => {
                let acceptor = Acceptor::open(me, document.clone(), votes)?;
                published.publish(View::new(document)?);
                Some(acceptor)
            }
            (None, Some(votes)) => {
                return Err(VotesAhead { instance: votes.instance, version: 0 }.into());
            }
            (None, None) => None,
        };
        let register = Self { me, engine, published, acceptor };
        register.publish_vote();
        Ok(register)
    }

    /// Tells the rest of the node what becomes of its vote now.
    pub(super) fn publish_vote(&self) {
        let vote = self.vote();
        self.published.vote.send_if_modified(|before| std::mem::replace(before, vote) != vote);
    }

    fn vote(&self) -> Vote {
        let Some(acceptor) = &self.acceptor else { return Vote::No };
        let named = acceptor.current().voters.iter().any(|voter| voter.node == self.me.node);
        match (named, acceptor.is_voter()) {
            (false, _) => Vote::No,
            (true, false) => Vote::Lost,
            (true, true) if acceptor.alarm().is_some() => Vote::Forked,
            (true, true) if acceptor.is_recovering() => Vote::Waits,
            (true, true) => Vote::Yes,
        }
    }

    /// The newest document.
    pub(super) fn current(&self) -> Option<&Arc<Document>> {
        self.acceptor.as_ref().map(Acceptor::current)
    }

    /// Takes the first document of a new cluster.
    pub(super) fn bootstrap(&mut self, document: Document) -> Result<(), RequestError> {
        let Some(current) = self.current() else { return self.begin(document) };
        // A cluster's id is made with its first document, so a later version descends from it.
        let again = current.cluster == document.cluster
            && (current.version > 1 || current.hash() == document.hash());
        if again && document.version == 1 {
            return Ok(());
        }
        let (cluster, version) = (current.cluster, current.version);
        let reason =
            format!("this node belongs to cluster {cluster} already, at version {version}");
        Err(RequestError::Conflict { reason })
    }

    fn begin(&mut self, document: Document) -> Result<(), RequestError> {
        if document.version != 1 {
            let version = document.version;
            let reason = format!(
                "a cluster begins with version 1 of its document, and this one is at {version}; to \
                 bring a node with an empty store back into it, start that with --seeds"
            );
            return Err(RequestError::invalid(reason));
        }
        let Voter { node, store } = self.me;
        let named = document.voters.iter().find(|voter| voter.node == node);
        if let Some(other) = named.filter(|voter| voter.store != store) {
            return Err(RequestError::invalid(format!(
                "the document names store {:?} for node {node}, which has store {store:?}",
                other.store
            )));
        }
        self.adopt(&Arc::new(document)).map(drop)
    }

    /// Takes a chosen document; tells the version known now.
    pub(super) fn learn(&mut self, document: &Arc<Document>) -> Result<u64, RequestError> {
        let Some(acceptor) = &self.acceptor else { return self.adopt(document) };
        let mut next = acceptor.clone();
        match next.on_document(document) {
            Ok(Learned::Newer) => self.advance(next),
            Ok(Learned::Known | Learned::Older) => Ok(acceptor.current().version),
            Ok(Learned::Foreign) => {
                let (ours, theirs) = (acceptor.current().cluster, document.cluster);
                let reason =
                    format!("this node belongs to cluster {ours}, the document to {theirs}");
                Err(RequestError::Conflict { reason })
            }
            Err(alarm) => {
                self.acceptor = Some(next);
                self.published.raise(alarm);
                self.publish_vote();
                Err(alarmed(alarm))
            }
        }
    }

    /// The first document that this store sees.
    fn adopt(&mut self, document: &Arc<Document>) -> Result<u64, RequestError> {
        let Voter { node, .. } = self.me;
        if document.member(node).is_none() {
            let cluster = document.cluster;
            let reason = format!("cluster {cluster} has no member {node}, which this node is");
            return Err(RequestError::Conflict { reason });
        }
        let first = Acceptor::open(self.me, document.clone(), None);
        self.advance(first.expect("no votes are ahead of a document"))
    }

    /// Moves on to an acceptor with a newer document: on disk before anybody sees it, and before
    /// votes on its successor, which are written after it.
    fn advance(&mut self, next: Acceptor) -> Result<u64, RequestError> {
        let document = next.current().clone();
        let view = View::new(document.clone()).map_err(RequestError::invalid)?;
        self.persist(DOCUMENT, &document.encode())?;
        self.acceptor = Some(next);
        // Whoever is woken by the document finds the vote that goes with it.
        self.publish_vote();
        self.published.publish(view);
        Ok(document.version)
    }

    /// Answers a proposer or a recovering voter.
    pub(super) fn on_request(&mut self, request: &Request) -> Result<Reply, RequestError> {
        let Some(acceptor) = &self.acceptor else {
            let answer = Answer::Refused(Refusal::Behind { version: 0 });
            return Ok(Reply { ballot: request.ballot, answer });
        };
        let mut next = acceptor.clone();
        let response = next.on_request(request);
        if let Some(votes) = response.sync {
            self.persist(VOTES, &votes.encode())?;
        }
        self.acceptor = Some(next);
        Ok(response.reply)
    }

    /// Whether this voter must hear others before it votes.
    pub(super) fn is_recovering(&self) -> bool {
        self.acceptor.as_ref().is_some_and(|acceptor| {
            acceptor.is_recovering() && acceptor.is_voter() && acceptor.alarm().is_none()
        })
    }

    /// Begins a round of asking the other voters; nobody is asked when there is no need.
    pub(super) fn recover(&mut self, mut rng: ChaCha8Rng) -> Vec<Effect> {
        self.acceptor.as_mut().map_or_else(Vec::new, |acceptor| acceptor.recover(&mut rng))
    }

    /// Takes an answer of that round; whether more are needed.
    pub(super) fn on_told(&mut self, from: NodeId, reply: Reply) -> Result<bool, RequestError> {
        if let Some(acceptor) = &self.acceptor {
            let mut next = acceptor.clone();
            if let Some(votes) = next.on_told(from, reply) {
                self.persist(VOTES, &votes.encode())?;
            }
            self.acceptor = Some(next);
        }
        Ok(self.is_recovering())
    }

    fn persist(&self, key: &'static str, body: &[u8]) -> Result<(), RequestError> {
        let mut batch = Batch::new();
        let sealed = record::seal(key.as_bytes(), body);
        batch.put(Space::Meta, Bytes::from_static(key.as_bytes()), sealed);
        self.engine.apply(batch).and_then(|()| self.engine.sync()).map_err(RequestError::from)
    }
}

/// Why an alarmed node refuses to change anything.
pub(super) fn alarmed(alarm: Alarm) -> RequestError {
    let reason = format!("the cluster's metadata forked, and cannot be changed here: {alarm}");
    RequestError::Data { reason }
}

fn stored<T>(
    engine: &dyn Engine,
    what: &'static str,
    decode: impl FnOnce(Bytes) -> Result<T, DocumentError>,
) -> Result<Option<T>, OpenError> {
    let Some(sealed) = engine.get(Space::Meta, what.as_bytes())? else { return Ok(None) };
    let body = record::open(what.as_bytes(), &sealed);
    let body = body.map_err(|source| OpenError::Record { what, source })?;
    decode(body).map(Some).map_err(|source| OpenError::Content { what, source })
}
