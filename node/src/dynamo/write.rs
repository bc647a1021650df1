//! One write: counting who stored the object.
//!
//! The coordinator applies the write in its own store, sends the whole object to the other owners
//! and answers as soon as W owners acknowledged, its own ack included (Dynamo, SOSP 2007, section
//! 4.5). The others are not forgotten: whoever has not acknowledged is *missing* the object and
//! gets it later.
//!
//! ```text
//!   owners 1 2 3, w=2    acked     verdict       missing
//!   ack 1 (its own)      1         pending       2 3
//!   2 timed out          1         pending       2 3
//!   ack 3, synced        1 3       reached       2        receipt: 1 3, one synced
//! ```
//!
//! Invariants: a receipt names only nodes that acknowledged; each owner's first word counts, so
//! that duplicated and late replies change nothing, and a verdict, once reached or unreachable,
//! stays; replies of nodes that are no owners do not count. After the dot was issued,
//! *unreachable* does not mean *not applied*: the owners that acknowledged have it, and those that
//! timed out may. Left out: fallbacks and their hints; they come with sloppy quorums.

use super::key::NodeId;
use super::quorum::{Cause, Failure, Tally, Verdict, is_distinct};

/// A write under way. Nothing in here has an effect; the caller sends and asks for the verdict.
#[derive(Clone, Debug)]
pub struct WriteOp {
    owners: Vec<NodeId>,
    tally: Tally,
    acks: Acks,
    failures: Vec<Failure>,
}

/// Who acknowledged a write.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Acks {
    /// The owners that stored the object, in the order in which their acks arrived.
    pub nodes: Vec<NodeId>,
    /// How many of them had it on disk before they answered.
    pub synced: u32,
}

impl WriteOp {
    /// A write that `needed` of `owners` must acknowledge. If there are fewer owners than that, it
    /// is unreachable from the start, and should be refused before it is given a dot.
    pub fn new(needed: u8, owners: &[NodeId]) -> Self {
        assert!(is_distinct(owners), "an owner is named twice: {owners:?}");
        let needed =
            if needed > 1 { needed - u8::from(planted!("one_ack_too_few")) } else { needed };
        Self {
            owners: owners.to_vec(),
            tally: Tally::new(needed, owners.len()),
            acks: Acks::default(),
            failures: Vec::new(),
        }
    }

    /// `node` stored the object; `synced`: on disk. Also worth telling after the verdict.
    pub fn on_ack(&mut self, node: NodeId, synced: bool) {
        if self.is_awaited(node) {
            self.tally.ack();
            self.acks.nodes.push(node);
            self.acks.synced += u32::from(synced);
        }
    }

    /// `node` did not acknowledge, and its answer is no longer waited for.
    pub fn on_failure(&mut self, node: NodeId, cause: Cause) {
        if self.is_awaited(node) {
            self.tally.fail();
            self.failures.push(Failure { node, cause });
        }
    }

    /// Where the write stands.
    pub fn verdict(&self) -> Verdict {
        self.tally.verdict()
    }

    /// How many acks are needed, and how many there are.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Who acknowledged so far.
    pub fn receipt(&self) -> Acks {
        planted!("receipt_names_who_did_not_acknowledge", {
            return Acks { nodes: self.owners.clone(), ..self.acks };
        });
        self.acks.clone()
    }

    /// The owners that have not acknowledged, in their order: those that failed and those that
    /// have not answered yet.
    pub fn missing(&self) -> Vec<NodeId> {
        self.owners.iter().copied().filter(|node| !self.acks.nodes.contains(node)).collect()
    }

    /// The owners that failed, in the order in which they did.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// Whether a retry is in vain whoever can be reached by then: the owners that would acknowledge one
    /// are too few.
    pub fn is_in_vain(&self) -> bool {
        let late = self.failures.iter().filter(|failure| failure.cause == Cause::Late).count();
        self.owners.len() - late < self.tally.needed() as usize
    }

    /// Whether `node` is an owner of whom nothing was heard.
    fn is_awaited(&self, node: NodeId) -> bool {
        let failed = self.failures.iter().any(|failure| failure.node == node);
        self.owners.contains(&node) && !self.acks.nodes.contains(&node) && !failed
    }
}

#[cfg(test)]
mod tests;
