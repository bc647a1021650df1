//! The side of the register that wants a change: one proposer per change and instance.
//!
//! A proposer that finds another's document half chosen finishes that one; its own change is then
//! retried by the caller on top of the outcome. Each attempt has a fresh ballot, and its messages
//! go to all voters, so what is lost costs a retry, never a decision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand_core::Rng;

use super::{AcceptedDocument, Answer, Ballot, Refusal, Reply, Request, Step, later};
use crate::dynamo::key::NodeId;
use crate::dynamo::metadata::document::Document;

/// What the shell is to send. Order matters per receiver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A request, whose reply is handed back.
    Send {
        /// The voter.
        to: NodeId,
        /// What to ask.
        request: Request,
    },
    /// A chosen document, for a voter that does not know it; no reply.
    Teach {
        /// The voter.
        to: NodeId,
        /// The proposer's current document.
        document: Arc<Document>,
    },
}

/// How an attempt stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Replies are awaited. A shell that runs out of time must call the outcome unknown: what was
    /// sent may still be chosen.
    Pending,
    /// This document is chosen for ever. It may be another's: compare it with the wanted one. Now,
    /// and not before, it may be handed to learners.
    Chosen(Arc<Document>),
    /// The instance is over, and this newer document is known; it may be the wanted one.
    Superseded(Arc<Document>),
    /// Another's ballot came between: begin again after a random pause.
    Outvoted,
    /// Too few voters can or will vote: begin again after a pause, or give up.
    Unreachable {
        /// How many voters may yet agree.
        reachable: usize,
        /// How many must.
        needed: usize,
    },
}

/// One change under way.
#[derive(Clone, Debug)]
pub struct Proposer {
    me: NodeId,
    current: Arc<Document>,
    wanted: Arc<Document>,
    seen: Ballot,
    attempt: Attempt,
    outcome: Option<Verdict>,
}

#[derive(Clone, Debug)]
struct Attempt {
    ballot: Ballot,
    phase: Phase,
    answers: BTreeMap<NodeId, Stance>,
    taught: BTreeSet<NodeId>,
    last_vote: Option<AcceptedDocument>,
}

#[derive(Clone, Debug)]
enum Phase {
    Idle,
    Reserving,
    Preparing,
    Accepting(Arc<Document>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stance {
    Agreed,
    Outvoted,
    Failed,
}

impl Attempt {
    fn new(ballot: Ballot, phase: Phase) -> Self {
        let (answers, taught) = (BTreeMap::new(), BTreeSet::new());
        Self { ballot, phase, answers, taught, last_vote: None }
    }

    fn count(&self, stance: Stance) -> usize {
        self.answers.values().filter(|&&answer| answer == stance).count()
    }
}

impl Proposer {
    /// Wants `wanted`, a successor of `current`, the newest chosen document that is known here.
    pub fn new(me: NodeId, current: Arc<Document>, wanted: Arc<Document>) -> Self {
        assert_eq!(wanted.version, current.version + 1, "a proposal must be the next version");
        assert_eq!(wanted.predecessor, current.hash(), "a proposal must continue the chain");
        let attempt = Attempt::new(Ballot::NONE, Phase::Idle);
        Self { me, current, wanted, seen: Ballot::NONE, attempt, outcome: None }
    }

    /// What was to be chosen.
    pub fn wanted(&self) -> &Arc<Document> {
        &self.wanted
    }

    /// Begins an attempt under a fresh ballot; earlier ones are abandoned.
    pub fn begin(&mut self, rng: &mut impl Rng) -> Vec<Effect> {
        if self.outcome.is_some() {
            return Vec::new();
        }
        self.seen = Ballot::after(self.seen, self.me, rng);
        self.attempt = Attempt::new(self.seen, Phase::Reserving);
        self.send_all()
    }

    /// How the attempt stands.
    pub fn verdict(&self) -> Verdict {
        if let Some(outcome) = &self.outcome {
            return outcome.clone();
        }
        let outvoted = self.attempt.count(Stance::Outvoted);
        let lost = outvoted + self.attempt.count(Stance::Failed);
        let (reachable, needed) = (self.current.voters.len() - lost, self.current.majority());
        match reachable >= needed {
            true => Verdict::Pending,
            false if outvoted > 0 => Verdict::Outvoted,
            false => Verdict::Unreachable { reachable, needed },
        }
    }

    /// Takes a voter's reply; of an abandoned attempt or step it is ignored.
    pub fn on_reply(&mut self, from: NodeId, reply: Reply) -> Vec<Effect> {
        if self.outcome.is_some() || reply.ballot != self.attempt.ballot || !self.is_voter(from) {
            return Vec::new();
        }
        match (reply.answer, &self.attempt.phase) {
            (Answer::Refused(refusal), _) => self.on_refused(from, refusal),
            (Answer::Reserved, Phase::Reserving) | (Answer::Accepted, Phase::Accepting(_)) => {
                self.on_agreed(from)
            }
            (Answer::Promised(vote), Phase::Preparing) => {
                let last = self.attempt.last_vote.take();
                self.attempt.last_vote = later(last, vote);
                self.on_agreed(from)
            }
            _ => Vec::new(),
        }
    }

    /// The voter cannot be reached in this step, or did not answer in time.
    pub fn on_unreachable(&mut self, from: NodeId) {
        if self.is_voter(from) {
            self.attempt.answers.entry(from).or_insert(Stance::Failed);
        }
    }

    fn on_agreed(&mut self, from: NodeId) -> Vec<Effect> {
        self.attempt.answers.insert(from, Stance::Agreed);
        if self.attempt.count(Stance::Agreed) < self.current.majority() {
            return Vec::new();
        }
        let (ballot, vote) = (self.attempt.ballot, self.attempt.last_vote.take());
        let phase = match &self.attempt.phase {
            Phase::Idle => unreachable!("nothing was asked"),
            Phase::Reserving => Phase::Preparing,
            Phase::Preparing => {
                Phase::Accepting(vote.map_or_else(|| self.wanted.clone(), |(_, document)| document))
            }
            Phase::Accepting(document) => {
                self.outcome = Some(Verdict::Chosen(document.clone()));
                return Vec::new();
            }
        };
        self.attempt = Attempt::new(ballot, phase);
        self.send_all()
    }

    fn on_refused(&mut self, from: NodeId, refusal: Refusal) -> Vec<Effect> {
        match refusal {
            Refusal::Newer(document) if document.version > self.current.version => {
                self.outcome = Some(Verdict::Superseded(document));
            }
            // Once per step, since a node that does not learn would be taught for ever.
            Refusal::Behind { .. } if self.attempt.taught.insert(from) => {
                let document = self.current.clone();
                return vec![Effect::Teach { to: from, document }, self.send(from)];
            }
            Refusal::Outvoted { highest } => {
                self.seen = self.seen.max(highest);
                self.refused(from, Stance::Outvoted);
            }
            _ => self.refused(from, Stance::Failed),
        }
        Vec::new()
    }

    /// A voter that agreed stays so: a refusal after that answers a copy of the request.
    fn refused(&mut self, from: NodeId, stance: Stance) {
        self.attempt.answers.entry(from).or_insert(stance);
    }

    fn is_voter(&self, node: NodeId) -> bool {
        self.current.voters.iter().any(|voter| voter.node == node)
    }

    fn send_all(&self) -> Vec<Effect> {
        self.current.voters.iter().map(|voter| self.send(voter.node)).collect()
    }

    fn send(&self, to: NodeId) -> Effect {
        let step = match &self.attempt.phase {
            Phase::Idle => unreachable!("an attempt begins by reserving"),
            Phase::Reserving => Step::Reserve,
            Phase::Preparing => Step::Prepare,
            Phase::Accepting(document) => Step::Accept(document.clone()),
        };
        let (instance, ballot) = (self.current.version + 1, self.attempt.ballot);
        Effect::Send { to, request: Request { instance, ballot, step } }
    }
}
