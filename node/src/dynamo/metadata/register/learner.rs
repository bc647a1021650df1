//! Following the chain of chosen documents.
//!
//! Documents are whole, so a gap is no obstacle: any newer one replaces what was known. Hashes
//! chain them, so two documents of one version are noticed by whoever sees both.

use std::sync::Arc;

use thiserror::Error;

use crate::dynamo::metadata::document::{Document, DocumentHash};

/// Two documents of one version exist: the cluster's metadata has forked. The node must stop
/// taking part in metadata changes, and call for an operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("two documents of version {version} exist: {ours:?} and {theirs:?}")]
pub struct Alarm {
    /// The version.
    pub version: u64,
    /// The hash of the one that this node followed.
    pub ours: DocumentHash,
    /// The hash of the other.
    pub theirs: DocumentHash,
}

/// What became of a document that was handed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Learned {
    /// It is the current one now.
    Newer,
    /// It was the current one already.
    Known,
    /// It is older than the current one.
    Older,
    /// It is of another cluster: a misdirected peer. It was ignored.
    Foreign,
}

/// Holds the newest document that a node knows.
#[derive(Clone, Debug)]
pub struct Learner {
    current: Arc<Document>,
    hash: DocumentHash,
    alarm: Option<Alarm>,
}

impl Learner {
    /// Starts with a stored, or the first, document.
    pub fn new(current: Arc<Document>) -> Self {
        Self { hash: current.hash(), current, alarm: None }
    }

    /// The newest document.
    pub fn current(&self) -> &Arc<Document> {
        &self.current
    }

    /// Its hash.
    pub fn hash(&self) -> DocumentHash {
        self.hash
    }

    /// The alarm, once raised; it stays.
    pub fn alarm(&self) -> Option<Alarm> {
        self.alarm
    }

    /// Takes a *chosen* document, from anywhere and in any order. After an alarm nothing is taken.
    pub fn on_document(&mut self, document: &Arc<Document>) -> Result<Learned, Alarm> {
        if let Some(alarm) = self.alarm {
            return Err(alarm);
        }
        if document.cluster != self.current.cluster {
            return Ok(Learned::Foreign);
        }
        let hash = document.hash();
        if let Some(alarm) = self.fork(document, hash) {
            self.alarm = Some(alarm);
            return Err(alarm);
        }
        Ok(if document.version > self.current.version {
            (self.current, self.hash) = (document.clone(), hash);
            Learned::Newer
        } else if document.version == self.current.version {
            Learned::Known
        } else {
            Learned::Older
        })
    }

    /// Compares hashes wherever two neighbours tell that of one version.
    fn fork(&self, document: &Document, hash: DocumentHash) -> Option<Alarm> {
        let current = &self.current;
        let (version, ours, theirs) = if document.version == current.version {
            (document.version, self.hash, hash)
        } else if document.version == current.version + 1 {
            (current.version, self.hash, document.predecessor)
        } else if document.version + 1 == current.version {
            (document.version, current.predecessor, hash)
        } else {
            return None;
        };
        (ours != theirs).then_some(Alarm { version, ours, theirs })
    }
}
