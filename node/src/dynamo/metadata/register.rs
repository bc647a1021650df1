//! How a version of the document is chosen: one single-decree Paxos instance per version.
//!
//! The acceptors of version v + 1 are the voters named in document v, so each instance has a fixed
//! electorate (a register whose value sets its own quorum would fork: two halves of a changed
//! electorate each find a majority). A change runs in three steps, each at a majority:
//!
//! ```text
//!   reserve(b)    remember that ballot b exists        (anybody may, also while recovering)
//!   prepare(b)    vote for nothing below b; say what was accepted
//!   accept(b, d)  d is the accepted document of the highest ballot, else the proposer's own
//! ```
//!
//! After a majority accepted d it is *chosen*, for ever, and is handed to everybody. Sources:
//! Lamport, "Paxos made simple" (2001); the plain protocol has no first step.
//!
//! **Recovering.** Votes are synced before the answer, but a disk may come back as it was before
//! them (a restored snapshot, a copied directory), under the same store id. So after each opening
//! a voter casts no vote until n - q + 1 *other* voters (q = majority), enough to meet every
//! majority it was part of, told theirs. Telling alone is not enough, and the rest is why:
//!
//! - Who tells also promises the asker's ballot f, which must exceed all that it heard of. Else it
//!   could tell first and accept afterwards, completing a majority with a vote that was forgotten.
//! - A voter may have promised a ballot that nobody else promised yet, and then vote below it.
//!   Hence *reserve*: a majority heard of each ballot before anyone votes in it, so f exceeds it.
//! - The forgotten votes may be of a later instance. If the round finds an accepted document, it
//!   may have been chosen before, so the voter recovers again in the next instance; else not.
//!
//! What it costs: with three voters both others must be up to let a reopened one vote, with five
//! three of four. One voter has no others and believes its store. Two voters whose disks lose
//! votes at once are beyond the rule.
//!
//! Left out: catching up (a refusal carries the newer document), timing, and who proposes: any
//! member may; two at once outvote each other, so the shell waits a random time before a retry.

mod acceptor;
mod codec;
mod learner;
mod proposer;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use rand_core::Rng;

pub use self::acceptor::{Acceptor, Response, VotesAhead};
pub use self::learner::{Alarm, Learned, Learner};
pub use self::proposer::{Effect, Proposer, Verdict};
use super::document::Document;
use crate::dynamo::key::NodeId;

/// Numbers an attempt to choose. No two attempts share one, also not across restarts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Above every round heard of.
    pub round: u64,
    /// Who attempts.
    pub proposer: NodeId,
    /// Random, since a proposer does not remember its ballots when it restarts.
    pub nonce: u64,
}

impl Ballot {
    /// Below every ballot.
    pub const NONE: Self = Self { round: 0, proposer: NodeId(0), nonce: 0 };

    /// A fresh ballot above `seen`.
    pub fn after(seen: Self, proposer: NodeId, rng: &mut impl Rng) -> Self {
        Self { round: seen.round.saturating_add(1), proposer, nonce: rng.next_u64() }
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.proposer)
    }
}

/// A document, and the ballot in which a voter accepted it.
pub type AcceptedDocument = (Ballot, Arc<Document>);

/// What a voter must remember of one instance: on disk before it answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Votes {
    /// The version that the instance chooses.
    pub instance: u64,
    /// The highest ballot heard of; never below `promised`.
    pub reserved: Ballot,
    /// No vote is cast below this ballot.
    pub promised: Ballot,
    /// The last vote.
    pub accepted: Option<AcceptedDocument>,
}

impl Votes {
    /// No votes in `instance` yet.
    pub fn none(instance: u64) -> Self {
        Self { instance, reserved: Ballot::NONE, promised: Ballot::NONE, accepted: None }
    }
}

/// What a proposer or a recovering voter asks of a voter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The version to choose.
    pub instance: u64,
    /// The asker's ballot.
    pub ballot: Ballot,
    /// What is asked.
    pub step: Step,
}

/// The steps of a change, and of recovering.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Remember the ballot.
    Reserve,
    /// Vote for nothing below the ballot, and tell the last vote.
    Prepare,
    /// Vote for this document.
    Accept(Arc<Document>),
    /// As prepare, but asked by a voter that wants to know, not to propose: it is answered by
    /// recovering voters too.
    Recover,
}

/// A voter's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The ballot of the request.
    pub ballot: Ballot,
    /// The answer.
    pub answer: Answer,
}

/// What a voter answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To reserve: remembered.
    Reserved,
    /// To prepare: promised; and the last vote, if any.
    Promised(Option<AcceptedDocument>),
    /// To accept: voted for it.
    Accepted,
    /// To recover: the last vote, if any; nothing below the ballot will be voted for.
    Told(Option<AcceptedDocument>),
    /// To any: no.
    Refused(Refusal),
}

/// Why a voter refuses. Its votes are unchanged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The instance is over: learn this document, then propose on top of it.
    Newer(Arc<Document>),
    /// This node knows nothing after `version`: send it the asker's document, then ask again.
    Behind {
        /// The newest version that it knows.
        version: u64,
    },
    /// This node, or its store, is no voter of the instance.
    NotVoter,
    /// This voter was opened and has not heard enough others yet: ask again later.
    Recovering,
    /// A higher ballot is under way: retry above it after a random pause.
    Outvoted {
        /// The highest ballot heard of.
        highest: Ballot,
    },
    /// The proposed document does not continue the one that this node knows.
    Unchained,
    /// This node saw two documents of one version and takes part in nothing until repaired.
    Alarmed,
}

/// The later of two votes.
fn later(a: Option<AcceptedDocument>, b: Option<AcceptedDocument>) -> Option<AcceptedDocument> {
    let ballot = |vote: &Option<AcceptedDocument>| vote.as_ref().map(|(ballot, _)| *ballot);
    if ballot(&b) > ballot(&a) { b } else { a }
}
