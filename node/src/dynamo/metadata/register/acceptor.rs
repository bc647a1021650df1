//! The voter's side of the register.
//!
//! Every answer that rests on changed votes comes with these votes: the shell syncs them first,
//! and answers then. Requests to one acceptor are handled one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand_core::Rng;
use thiserror::Error;

use super::{
    AcceptedDocument, Alarm, Answer, Ballot, Effect, Learned, Learner, Refusal, Reply, Request,
    Step, Votes, later,
};
use crate::dynamo::key::NodeId;
use crate::dynamo::metadata::document::{Document, Voter};

/// A store holds votes of an instance that its document does not lead to: it lost the document, so
/// it may have lost votes. Treat it as a new store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("votes of instance {instance}, but the newest document is version {version}")]
pub struct VotesAhead {
    /// The instance of the stored votes.
    pub instance: u64,
    /// The version of the stored document.
    pub version: u64,
}

/// An answer, and what must be on disk before it leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// The answer.
    pub reply: Reply,
    /// The votes to sync first, if they changed.
    pub sync: Option<Votes>,
}

/// A node as a voter: what it knows, what it voted, and whether it may vote.
#[derive(Clone, Debug)]
pub struct Acceptor {
    me: Voter,
    learner: Learner,
    votes: Votes,
    memory: Memory,
    /// The highest ballot in any refusal of the recovery round.
    outvoted_by: Ballot,
}

/// How far this voter's memory of its votes can be believed.
#[derive(Clone, Debug)]
enum Memory {
    /// Not in this instance, until enough others told theirs.
    Recovering(Option<Round>),
    /// In this instance, but perhaps not in the next one.
    Here,
    /// From here on.
    Sound,
}

/// One round of asking the other voters.
#[derive(Clone, Debug)]
struct Round {
    fence: Ballot,
    told: BTreeMap<NodeId, Option<AcceptedDocument>>,
}

impl Acceptor {
    /// Opens a store's register: its newest document, and its votes if it has any. Call it once
    /// per opening of the store; the voter is recovering until [`Acceptor::recover`] says not.
    pub fn open(
        me: Voter,
        current: Arc<Document>,
        votes: Option<Votes>,
    ) -> Result<Self, VotesAhead> {
        let (version, instance) = (current.version, current.version + 1);
        let votes = match votes {
            Some(votes) if votes.instance > instance => {
                return Err(VotesAhead { instance: votes.instance, version });
            }
            Some(votes) if votes.instance == instance => votes,
            _ => Votes::none(instance),
        };
        let alike = |voter: &&Voter| planted!("wiped_voter_votes") && voter.node == me.node;
        let (me, memory) = match current.voters.iter().find(alike) {
            Some(&named) if named != me => (named, Memory::Sound),
            _ => (me, Memory::Recovering(None)),
        };
        let learner = Learner::new(current);
        Ok(Self { me, learner, votes, memory, outvoted_by: Ballot::NONE })
    }

    /// The newest document that this node knows.
    pub fn current(&self) -> &Arc<Document> {
        self.learner.current()
    }

    /// The alarm, once raised.
    pub fn alarm(&self) -> Option<Alarm> {
        self.learner.alarm()
    }

    /// Whether the current document names this node with this store.
    pub fn is_voter(&self) -> bool {
        self.current().voters.contains(&self.me)
    }

    /// Whether this node must hear other voters before it votes: call [`Acceptor::recover`] now,
    /// and again after a pause, for as long as this holds and [`Acceptor::is_voter`] does.
    pub fn is_recovering(&self) -> bool {
        matches!(self.memory, Memory::Recovering(_))
    }

    /// Whether the votes of later instances are believed, too.
    #[cfg(test)]
    pub(super) fn is_sound(&self) -> bool {
        matches!(self.memory, Memory::Sound)
    }

    /// Skips recovering, to show what it is for.
    #[cfg(test)]
    pub(super) fn believe(mut self) -> Self {
        self.memory = Memory::Sound;
        self
    }

    /// Takes a chosen document. When it is newer the instance moves on, and the votes of the old
    /// one are over; the shell syncs the document before it votes in the new one.
    pub fn on_document(&mut self, document: &Arc<Document>) -> Result<Learned, Alarm> {
        let learned = self.learner.on_document(document)?;
        if learned == Learned::Newer {
            self.votes = Votes::none(document.version + 1);
            self.outvoted_by = Ballot::NONE;
            if !matches!(self.memory, Memory::Sound) {
                self.memory = Memory::Recovering(None);
            }
        }
        Ok(learned)
    }

    /// Answers a proposer or a recovering voter.
    pub fn on_request(&mut self, request: &Request) -> Response {
        let before = self.votes.clone();
        let answer = self.vote(request).unwrap_or_else(Answer::Refused);
        let sync = (self.votes != before).then(|| self.votes.clone());
        assert!(self.votes.promised >= before.promised, "a promise was taken back");
        assert!(self.votes.reserved >= self.votes.promised, "promised a ballot not heard of");
        let refused = matches!(answer, Answer::Refused(_));
        assert!(sync.is_none() || !refused, "a refusal changed the votes");
        Response { reply: Reply { ballot: request.ballot, answer }, sync }
    }

    fn vote(&mut self, request: &Request) -> Result<Answer, Refusal> {
        self.check_instance(request.instance)?;
        let ballot = request.ballot;
        match &request.step {
            Step::Reserve => {
                self.check_ballot(ballot, self.votes.reserved)?;
                self.votes.reserved = ballot;
                Ok(Answer::Reserved)
            }
            Step::Recover => {
                // Above everything heard of, not only promised: the asker may have voted there.
                self.check_ballot(ballot, self.votes.reserved)?;
                self.promise(ballot);
                Ok(Answer::Told(self.votes.accepted.clone()))
            }
            Step::Prepare => {
                self.check_recovered()?;
                self.check_ballot(ballot, self.votes.promised)?;
                self.promise(ballot);
                Ok(Answer::Promised(self.votes.accepted.clone()))
            }
            Step::Accept(document) => {
                self.check_recovered()?;
                self.check_ballot(ballot, self.votes.promised)?;
                self.check_chained(document)?;
                self.promise(ballot);
                self.votes.accepted = Some((ballot, document.clone()));
                Ok(Answer::Accepted)
            }
        }
    }

    fn promise(&mut self, ballot: Ballot) {
        self.votes.promised = ballot;
        self.votes.reserved = self.votes.reserved.max(ballot);
    }

    fn check_instance(&self, instance: u64) -> Result<(), Refusal> {
        if self.alarm().is_some() {
            Err(Refusal::Alarmed)
        } else if instance < self.votes.instance {
            Err(Refusal::Newer(self.current().clone()))
        } else if instance > self.votes.instance {
            Err(Refusal::Behind { version: self.current().version })
        } else if !self.is_voter() {
            Err(Refusal::NotVoter)
        } else {
            Ok(())
        }
    }

    fn check_recovered(&self) -> Result<(), Refusal> {
        if self.is_recovering() { Err(Refusal::Recovering) } else { Ok(()) }
    }

    /// Equal ballots are one attempt, whose request arrived twice.
    fn check_ballot(&self, ballot: Ballot, floor: Ballot) -> Result<(), Refusal> {
        if ballot < floor {
            return Err(Refusal::Outvoted { highest: self.votes.reserved });
        }
        Ok(())
    }

    fn check_chained(&self, document: &Document) -> Result<(), Refusal> {
        let chained = document.version == self.votes.instance
            && document.predecessor == self.learner.hash()
            && document.cluster == self.current().cluster;
        if chained { Ok(()) } else { Err(Refusal::Unchained) }
    }

    /// Begins a round of asking the other voters, in place of any earlier one. A lone voter has
    /// nobody to ask, and recovers at once.
    pub fn recover(&mut self, rng: &mut impl Rng) -> Vec<Effect> {
        if !self.is_recovering() || !self.is_voter() || self.alarm().is_some() {
            return Vec::new();
        }
        let seen = self.votes.reserved.max(self.outvoted_by);
        let fence = Ballot::after(seen, self.me.node, rng);
        self.memory = Memory::Recovering(Some(Round { fence, told: BTreeMap::new() }));
        if self.current().others_to_hear() == 0 {
            self.memory = Memory::Sound;
            return Vec::new();
        }
        let instance = self.votes.instance;
        let others = self.current().voters.iter().filter(|voter| voter.node != self.me.node);
        let ask = |voter: &Voter| Effect::Send {
            to: voter.node,
            request: Request { instance, ballot: fence, step: Step::Recover },
        };
        others.map(ask).collect()
    }

    /// Takes an answer to [`Acceptor::recover`]. `sync` is as in a [`Response`]: when enough others
    /// told theirs, what this voter now remembers, to be on disk before it votes.
    ///
    /// A refusal with a newer document goes to [`Acceptor::on_document`]; one that is behind needs
    /// ours. The next round does the rest.
    pub fn on_told(&mut self, from: NodeId, reply: Reply) -> Option<Votes> {
        let from_other = from != self.me.node
            && self.learner.current().voters.iter().any(|voter| voter.node == from);
        let Memory::Recovering(Some(round)) = &mut self.memory else { return None };
        if reply.ballot != round.fence || !from_other {
            return None;
        }
        match reply.answer {
            Answer::Told(vote) => {
                round.told.insert(from, vote);
            }
            Answer::Refused(Refusal::Outvoted { highest }) => {
                self.outvoted_by = self.outvoted_by.max(highest);
            }
            _ => {}
        }
        self.finish_recovering()
    }

    /// Adopts the others' votes once there are enough. No acceptance is announced, as none was
    /// asked for; the vote only shows in later promises.
    fn finish_recovering(&mut self) -> Option<Votes> {
        let needed = self.current().others_to_hear();
        let Memory::Recovering(Some(round)) = &mut self.memory else { return None };
        if round.told.len() < needed {
            return None;
        }
        let (fence, told) = (round.fence, std::mem::take(&mut round.told));
        self.votes.accepted = told.into_values().fold(self.votes.accepted.take(), later);
        self.promise(fence.max(self.votes.promised));
        let perhaps_chosen = self.votes.accepted.is_some();
        self.memory = if perhaps_chosen { Memory::Here } else { Memory::Sound };
        Some(self.votes.clone())
    }
}
