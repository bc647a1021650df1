//! Asking other nodes for a newer document.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};

use super::{Cluster, Fetches};
use crate::dynamo::key::NodeId;
use crate::error::RequestError;
use crate::transport;

/// How long a peer may take to send a document. Requests wait for it, so it is short; documents
/// are a few hundred KiB at most.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);

/// How far apart rounds of asking everybody begin: a client that asks for a missing namespace in a
/// loop makes each member send four documents a second, no matter how many such clients there are.
const REFRESH_PAUSE: Duration = Duration::from_millis(250);

impl Cluster {
    /// Asks `node` for its newest document and learns it. Those who ask for the same at the same
    /// time share one request.
    pub async fn fetch_from(&self, node: NodeId) -> Result<(), RequestError> {
        let rounds = self.fetches_of(node);
        rounds.join(Duration::ZERO, self.fetch(node, FETCH_TIMEOUT)).await
    }

    /// Asks every member for its newest document, and returns when all who can be reached have
    /// answered, or `timeout` has passed. Call it before a client is told that something does not
    /// exist. Rounds are shared, and a quarter of a second apart.
    ///
    /// An error says that a document came and could not be kept, as on a full disk: then what this
    /// node knows may be old, and it cannot say of anything that it does not exist.
    pub async fn refresh(&self, timeout: Duration) -> Result<(), RequestError> {
        let work = self.ask_everybody(timeout.min(FETCH_TIMEOUT));
        let round = self.refreshes.join(REFRESH_PAUSE, work);
        tokio::time::timeout(timeout, round).await.unwrap_or(Ok(()))
    }

    async fn ask_everybody(&self, timeout: Duration) -> Result<(), RequestError> {
        let Some(view) = self.view() else { return Ok(()) };
        let others = view.document().members.iter().filter(|member| member.node != self.me.node);
        let mut waiting: FuturesUnordered<_> =
            others.map(|member| self.fetch(member.node, timeout)).collect();
        let mut kept = Ok(());
        while let Some(outcome) = waiting.next().await {
            match outcome {
                Ok(()) => {}
                Err(error) if error.is_of_the_disk() => kept = Err(error),
                Err(error) => tracing::debug!(%error, "no newer document"),
            }
        }
        kept
    }

    async fn fetch(&self, node: NodeId, timeout: Duration) -> Result<(), RequestError> {
        let failed = |reason: &dyn std::fmt::Display| {
            let name = self.view().map_or_else(|| node.to_string(), |view| view.name_of(node));
            RequestError::not_ready(format!("no document from {name}: {reason}"))
        };
        match self.ask(node, transport::Request::Document, timeout).await {
            Ok(transport::Reply::Document(Some(document))) => self.learn(document).await.map(drop),
            Ok(transport::Reply::Document(None)) => Err(failed(&"it knows none yet")),
            // Its own disk is meant, if any.
            Ok(transport::Reply::Failed(error)) => Err(failed(&error)),
            Ok(_) => Err(failed(&super::nonsense())),
            Err(error) => Err(failed(&error)),
        }
    }

    fn fetches_of(&self, node: NodeId) -> Arc<Fetches> {
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        fetches.entry(node).or_default().clone()
    }
}
