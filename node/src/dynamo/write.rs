//! One write: who is sent the object, who stands in for whom, and who has stored it.
//!
//! The coordinator applies the write in its own store, sends the whole object to the owners and
//! answers as soon as W of them acknowledged, its own ack included (Dynamo, SOSP 2007, sections 4.5
//! and 4.6). For an owner that is away, full or late another node keeps the object as a *hint*: in a
//! sloppy write the next fallback, whose ack counts in the owner's place; in a strict one the
//! coordinator, where it does not count. Nobody is forgotten after the answer either: the write is
//! *settled* when each owner has the object or is owed it by somebody.
//!
//! ```text
//!   owners 1 2 3, fallbacks 4 5, w=2, sloppy; 2 is away      sent       acked        verdict
//!   start                                                    3, 4 (2)                pending
//!   ack 1 (its own)                                                     1            pending
//!   4 keeps it for 2                                                    1 4(2)       reached
//!   3 lost its connection                                    5 (3)      1 4(2)       reached
//!   5 keeps it for 3                                                    1 4(2) 5(3)  reached, settled
//! ```
//!
//! An owner that is merely slow after the answer is left to the coordinator, which keeps the object
//! itself once the request's time is over: others may be as busy.
//!
//! When no owner can be reached a fallback coordinates: what it wrote is a hint for every owner, and
//! counts for one that did not acknowledge; once that one does, for another:
//!
//! ```text
//!   owners 1 2 3, by fallback 4, w=2; no other fallback      acked      verdict
//!   1, 2 and 3 are late                                      4(1)       pending
//!   2 fails                                                  4(1)       pending
//!   ack 1                                                    1 4(2)     reached
//! ```
//!
//! Invariants: each owner is counted once, whether it acknowledged or its stand-in did, and no node
//! for two; a receipt names only nodes that acknowledged; each one's first word counts, so that
//! duplicated and late replies change nothing, and a verdict, once reached or unreachable, stays. An
//! owner that has the object and does not vouch for it (its clock may be wrong) is nobody to stand in
//! for: a fallback, which knows nothing of the key, would vouch for a write that is hidden at home.
//! After the dot was issued, *unreachable* does not mean *not applied*: those that acknowledged have
//! it, and those that timed out may.

use std::collections::VecDeque;

use super::key::NodeId;
use super::quorum::{Cause, Failure, Tally, Verdict, is_distinct};

/// What a write has to work with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WritePlan {
    /// How many owners must acknowledge, themselves or by a stand-in.
    pub needed: u8,
    /// The node that gives the write its dot.
    pub coordinator: NodeId,
    /// The key's owners.
    pub owners: Vec<NodeId>,
    /// Who may stand in for one, the most preferred first; not the coordinator.
    pub fallbacks: Vec<NodeId>,
    /// Whether a stand-in's ack counts.
    pub sloppy: bool,
}

/// A node that keeps a write as a hint, and the owner in whose place it does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct StandIn {
    /// The node.
    pub node: NodeId,
    /// The owner.
    pub owner: NodeId,
}

/// What is to be done for a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send the object to this owner.
    Send(NodeId),
    /// Have this node keep it as a hint; it may be the coordinator itself.
    Keep(StandIn),
}

/// Who acknowledged a write.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Acks {
    /// The owners that stored the object, in the order in which their acks arrived.
    pub owners: Vec<NodeId>,
    /// The stand-ins of owners that did not, likewise.
    pub fallbacks: Vec<StandIn>,
    /// How many of all of them had it on disk before they answered.
    pub synced: u32,
}

/// A write under way. Nothing in here has an effect; the caller sends and asks for the verdict.
#[derive(Clone, Debug)]
pub struct WriteOp {
    needed: u8,
    coordinator: NodeId,
    sloppy: bool,
    slots: Vec<Slot>,
    /// Fallbacks that nothing was asked of.
    spare: VecDeque<NodeId>,
    /// What a fallback that coordinates keeps for all owners: whether it is on disk, until it counts
    /// for one of them.
    own_hint: Option<bool>,
    /// In the order of their arrival.
    acks: Vec<Ack>,
    failures: Vec<Failure>,
    /// Of stand-ins that would have counted.
    not_kept: Vec<Failure>,
}

/// One owner's part in a write.
#[derive(Clone, Copy, Debug)]
struct Slot {
    owner: NodeId,
    /// What became of its own copy.
    own: Progress,
    /// Who stands in for it, if anybody, and what became of that one's copy.
    stand_in: Option<(NodeId, Progress)>,
    /// Whether it failed or was late, so that another may count in its place.
    missed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    Unsent,
    Waiting,
    Acked,
    /// The owner may lack the object.
    Failed,
    /// The owner has it, and does not vouch for it.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Ack {
    by: StandIn,
    synced: bool,
}

impl WriteOp {
    /// A write of which nothing was sent. If there are fewer owners than are needed, it is unreachable
    /// from the start, and should be refused before it is given a dot.
    pub fn new(plan: WritePlan) -> Self {
        let WritePlan { needed, coordinator, owners, fallbacks, sloppy } = plan;
        let nodes = [&owners[..], &fallbacks].concat();
        assert!(is_distinct(&nodes), "a node is named twice: {nodes:?}");
        assert!(!fallbacks.contains(&coordinator), "the coordinator keeps hints last of all");
        let needed =
            if needed > 1 { needed - u8::from(planted!("one_ack_too_few")) } else { needed };
        let slot = |owner| Slot { owner, own: Progress::Unsent, stand_in: None, missed: false };
        Self {
            needed,
            coordinator,
            sloppy,
            slots: owners.into_iter().map(slot).collect(),
            spare: fallbacks.into(),
            own_hint: None,
            acks: Vec::new(),
            failures: Vec::new(),
            not_kept: Vec::new(),
        }
    }

    /// The coordinator's own batch was applied: the first that happens. Whom to send the object then;
    /// `away` tells which owners are not to be waited for, and why.
    pub fn start(&mut self, synced: bool, away: impl Fn(NodeId) -> Option<Cause>) -> Vec<Effect> {
        match self.slot(self.coordinator) {
            Some(at) => self.acked(at, self.coordinator, synced),
            None => self.own_hint = Some(synced),
        }
        let mut effects = Vec::with_capacity(self.slots.len());
        for at in 0..self.slots.len() {
            if self.slots[at].own == Progress::Acked {
                continue;
            }
            let owner = self.slots[at].owner;
            self.slots[at].own = Progress::Waiting;
            match away(owner) {
                None => effects.push(Effect::Send(owner)),
                Some(cause) => effects.extend(self.on_failure(owner, cause)),
            }
        }
        effects
    }

    /// `owner` stored the object; `synced`: on disk. Also worth telling after the verdict.
    pub fn on_ack(&mut self, owner: NodeId, synced: bool) {
        if let Some(at) = self.slot(owner).filter(|&at| self.slots[at].own == Progress::Waiting) {
            self.free_own_hint(at);
            self.acked(at, owner, synced);
            self.place_own_hint();
        }
    }

    /// `owner` did not acknowledge, and its answer is no longer waited for.
    #[must_use]
    pub fn on_failure(&mut self, owner: NodeId, cause: Cause) -> Option<Effect> {
        let at = self.slot(owner).filter(|&at| self.slots[at].own == Progress::Waiting)?;
        self.failures.push(Failure { node: owner, cause });
        if cause.has_the_write() {
            self.slots[at].own = Progress::Refused;
            // What a stand-in says of it counts no more, unless the client may have heard of it.
            let pending = self.verdict() == Verdict::Pending;
            if pending {
                self.free_own_hint(at);
            }
            let doubted =
                |(_, progress): &mut (NodeId, Progress)| pending || *progress == Progress::Waiting;
            if self.slots[at].stand_in.take_if(doubted).is_some() {
                self.acks.retain(|Ack { by, .. }| by.owner != owner);
            }
            self.place_own_hint();
            return None;
        }
        self.slots[at].own = Progress::Failed;
        // Once enough have it, what one cannot take for too much work, or not in time, is not pressed on
        // others, who may have as much.
        let busy = matches!(cause, Cause::Overloaded | Cause::Timeout);
        let pressing = !busy || self.verdict() != Verdict::Reached;
        self.divert(at, pressing)
    }

    /// A stand-in stored the object; `synced`: on disk.
    pub fn on_kept(&mut self, StandIn { node, owner }: StandIn, synced: bool) {
        let waits = Some((node, Progress::Waiting));
        if let Some(at) = self.slot(owner).filter(|&at| self.slots[at].stand_in == waits) {
            self.acked(at, node, synced);
        }
    }

    /// A stand-in did not.
    #[must_use]
    pub fn on_not_kept(&mut self, by: StandIn, cause: Cause) -> Option<Effect> {
        let waits = Some((by.node, Progress::Waiting));
        let at = self.slot(by.owner).filter(|&at| self.slots[at].stand_in == waits)?;
        if self.counts(by) {
            self.not_kept.push(Failure { node: by.node, cause });
        }
        self.slots[at].stand_in = Some((by.node, Progress::Failed));
        self.divert(at, self.verdict() != Verdict::Reached)
    }

    /// Whether others could stand in for owners that have not answered.
    pub fn is_late(&self) -> bool {
        let somebody = self.own_hint.is_some() || !self.spare.is_empty();
        let pending = self.sloppy && somebody && self.verdict() == Verdict::Pending;
        pending && self.slots.iter().any(Slot::is_late)
    }

    /// The owners that have not answered are late: in a sloppy write others stand in for them, while
    /// they are still listened to.
    pub fn on_late(&mut self) -> Vec<Effect> {
        if !self.is_late() {
            return Vec::new();
        }
        let late = |at: &usize| self.slots[*at].is_late();
        let late: Vec<usize> = (0..self.slots.len()).filter(late).collect();
        late.into_iter().filter_map(|at| self.divert(at, true)).collect()
    }

    /// Where the write stands.
    pub fn verdict(&self) -> Verdict {
        self.tally().verdict()
    }

    /// How many acks are needed, and how many there are.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::new(self.needed, self.slots.len());
        let mut hope = self.own_hint_may_be_freed();
        for slot in &self.slots {
            match () {
                () if self.is_acked(slot) => tally.ack(),
                () if self.may_ack(slot) => {}
                () if slot.is_vacant() && hope => hope = false,
                () => tally.fail(),
            }
        }
        tally
    }

    /// Who acknowledged so far, as far as it counts.
    pub fn receipt(&self) -> Acks {
        let mut receipt = Acks::default();
        planted!("receipt_names_who_did_not_acknowledge", {
            receipt.owners = self.slots.iter().map(|slot| slot.owner).collect();
            return receipt;
        });
        for &Ack { by, synced } in &self.acks {
            let slot = self.slot(by.owner).expect("acks are of owners");
            let in_place = by.node != by.owner && self.slots[slot].own == Progress::Acked;
            if in_place || !self.counts(by) {
                continue;
            }
            receipt.synced += u32::from(synced);
            match by.node == by.owner {
                true => receipt.owners.push(by.owner),
                false => receipt.fallbacks.push(by),
            }
        }
        receipt
    }

    /// Whether nothing is left to be done: each owner has the object, or is owed it by somebody, or
    /// nobody is left who would.
    pub fn is_settled(&self) -> bool {
        self.slots.iter().all(|slot| {
            matches!(
                (slot.own, slot.stand_in),
                (Progress::Acked | Progress::Refused, _)
                    | (_, Some((_, Progress::Acked)))
                    | (Progress::Failed, None | Some((_, Progress::Failed)))
            )
        })
    }

    /// The key's owners.
    pub fn owners(&self) -> impl Iterator<Item = NodeId> {
        self.slots.iter().map(|slot| slot.owner)
    }

    /// The owners that failed, in the order in which they did.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// The stand-ins that failed and would have counted, likewise.
    pub fn not_kept(&self) -> &[Failure] {
        &self.not_kept
    }

    /// The owners of whom nothing was heard, in their order.
    pub fn silent(&self) -> Vec<NodeId> {
        let silent = self.slots.iter().filter(|slot| slot.own == Progress::Waiting);
        silent.map(|slot| slot.owner).collect()
    }

    /// Whether a retry is in vain whoever can be reached by then: the owners that would acknowledge one
    /// are too few.
    pub fn is_in_vain(&self) -> bool {
        let late = self.failures.iter().filter(|failure| failure.cause == Cause::Late).count();
        self.slots.len() - late < usize::from(self.needed)
    }

    fn slot(&self, owner: NodeId) -> Option<usize> {
        self.slots.iter().position(|slot| slot.owner == owner)
    }

    fn acked(&mut self, at: usize, node: NodeId, synced: bool) {
        let slot = &mut self.slots[at];
        match node == slot.owner {
            true => slot.own = Progress::Acked,
            false => slot.stand_in = Some((node, Progress::Acked)),
        }
        self.acks.push(Ack { by: StandIn { node, owner: slot.owner }, synced });
    }

    /// Finds somebody to stand in for the owner at `at`: a fallback if it is `pressing`, else, or if
    /// there is none, this node. One stands in at a time.
    fn divert(&mut self, at: usize, pressing: bool) -> Option<Effect> {
        self.slots[at].missed = true;
        let slot = self.slots[at];
        let stood_in = matches!(slot.stand_in, Some((_, Progress::Waiting | Progress::Acked)));
        if stood_in || slot.own == Progress::Acked {
            return None;
        }
        if self.sloppy && pressing {
            if let Some(synced) = self.own_hint.take() {
                self.acked(at, self.coordinator, synced);
                return None;
            }
            if let Some(node) = self.spare.pop_front() {
                return Some(self.keep(at, node));
            }
        }
        let is_owner = self.slot(self.coordinator).is_some();
        let tried = slot.stand_in.is_some_and(|(node, _)| node == self.coordinator);
        let only_late = slot.own == Progress::Waiting;
        // A fallback that coordinates owes the object to all owners as it is.
        (is_owner && !tried && !only_late).then(|| self.keep(at, self.coordinator))
    }

    /// What the coordinator keeps for all owners counts for the one at `at` no more, if it did.
    fn free_own_hint(&mut self, at: usize) {
        let own = StandIn { node: self.coordinator, owner: self.slots[at].owner };
        let of_all = own.node != own.owner && self.slot(own.node).is_none();
        let place = self.acks.iter().position(|ack| ack.by == own).filter(|_| of_all);
        if let Some(place) = place {
            self.own_hint = Some(self.acks.remove(place).synced);
            self.slots[at].stand_in = None;
        }
    }

    /// It counts for the next that was missed and that nobody stands in for.
    fn place_own_hint(&mut self) {
        let vacant = self.slots.iter().position(Slot::is_vacant);
        let Some(at) = vacant.filter(|_| self.sloppy) else { return };
        if let Some(synced) = self.own_hint.take() {
            self.acked(at, self.coordinator, synced);
        }
    }

    fn keep(&mut self, at: usize, node: NodeId) -> Effect {
        self.slots[at].stand_in = Some((node, Progress::Waiting));
        Effect::Keep(StandIn { node, owner: self.slots[at].owner })
    }

    /// Whether an ack counts toward W: a hint's, if the write is sloppy and the node has the object for
    /// no other reason.
    fn counts(&self, by: StandIn) -> bool {
        let is_owner = |node| self.slots.iter().any(|slot| slot.owner == node);
        let counts = by.node == by.owner || self.sloppy && !is_owner(by.node);
        counts || planted!("own_hint_counts_as_a_second_ack")
    }

    fn is_acked(&self, slot: &Slot) -> bool {
        let kept = |(node, progress)| {
            let counts = self.counts(StandIn { node, owner: slot.owner });
            progress == Progress::Acked && counts
        };
        slot.own == Progress::Acked || slot.stand_in.is_some_and(kept)
    }

    /// Whether what the coordinator keeps for all owners counts for one that may yet acknowledge, so that
    /// it may count for another then.
    fn own_hint_may_be_freed(&self) -> bool {
        let stands_in = Some((self.coordinator, Progress::Acked));
        let freed = |slot: &Slot| slot.own == Progress::Waiting && slot.stand_in == stands_in;
        self.slot(self.coordinator).is_none() && self.slots.iter().any(freed)
    }

    /// Whether it may yet be acknowledged, itself or by a stand-in.
    fn may_ack(&self, slot: &Slot) -> bool {
        match slot.own {
            Progress::Unsent | Progress::Waiting => true,
            Progress::Acked | Progress::Refused => false,
            Progress::Failed => slot.stand_in.is_some_and(|(node, progress)| {
                let counts = self.counts(StandIn { node, owner: slot.owner });
                progress == Progress::Waiting && counts
            }),
        }
    }
}

impl Slot {
    /// Whether it was sent the object, has not answered, and nobody stands in for it.
    fn is_late(&self) -> bool {
        self.own == Progress::Waiting && self.is_alone()
    }

    /// Whether it was missed, may lack the object, and nobody stands in for it.
    fn is_vacant(&self) -> bool {
        let lacks = matches!(self.own, Progress::Waiting | Progress::Failed);
        self.missed && lacks && self.is_alone()
    }

    fn is_alone(&self) -> bool {
        matches!(self.stand_in, None | Some((_, Progress::Failed)))
    }
}

#[cfg(test)]
mod tests;
