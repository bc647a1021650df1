//! Which owners may have missed writes that others keep for them as hints.
//!
//! A sloppy read that finds nothing asks fallbacks only where one of them may keep something. A hint
//! is taken in where an owner was not reached, and its holder tells whom it keeps hints for; so an
//! owner is beyond doubt once every member was asked *after* the last trouble with it was seen:
//!
//! ```text
//!   trouble with C         ─────xxxxxx──────────────────────────────
//!   A says it keeps        C ?         C ?    C ──delivered──► none
//!   B says it keeps        none        none   none           none
//!   C is in doubt          .....yes.................yes......│ no
//! ```
//!
//! Rules: C is in doubt if a member other than C, and not down, has not told lately whom it keeps
//! hints for; or named C; or was asked no later than trouble was seen, with C or with itself. A member
//! that is down has nothing to tell: its hints cannot be read either. This node is a member like others,
//! and asks itself.
//!
//! Who named whom is kept as well: a hint may lie with any member, and a read asks those that say so,
//! wherever they stand in its preference list. What was told once is a clue as long as nothing newer
//! was, however long ago. Of an owner that is back a read asks those too that have not told since.
//!
//! Left out: trouble that another coordinator alone has seen. What comes of it is known when its holder
//! is asked the next time; sloppy quorums do not promise more.

use std::collections::{BTreeMap, BTreeSet};

use super::key::NodeId;

/// How long an answer is good for, in milliseconds: some rounds of questions, so that one that is lost
/// casts no doubt, and few enough that a node which stood still knows that it knows nothing.
pub const STALE_MS: u64 = 3_000;

/// What is seen of a member at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// When there was trouble with it last, by a clock that only goes on; none: never.
    pub trouble_ms: Option<u64>,
    /// Whether it is down.
    pub down: bool,
}

/// What is known of hints.
#[derive(Clone, Debug, Default)]
pub struct Outstanding {
    members: BTreeMap<NodeId, Member>,
}

#[derive(Clone, Debug, Default)]
struct Member {
    trouble_ms: Option<u64>,
    down: bool,
    answer: Option<Answer>,
}

/// For whom a member kept hints, when it was asked.
#[derive(Clone, Debug)]
struct Answer {
    asked_ms: u64,
    targets: BTreeSet<NodeId>,
}

impl Outstanding {
    /// These are the members, as they are seen now. Others are forgotten.
    pub fn look(&mut self, members: &BTreeMap<NodeId, Look>) {
        self.members.retain(|node, _| members.contains_key(node));
        for (&node, look) in members {
            let member = self.members.entry(node).or_default();
            member.trouble_ms = member.trouble_ms.max(look.trouble_ms);
            member.down = look.down;
        }
    }

    /// `node`, asked at a time, told for whom it keeps hints. An answer to an earlier question says
    /// nothing any more.
    pub fn on_answer(&mut self, node: NodeId, asked_ms: u64, targets: BTreeSet<NodeId>) {
        let Some(member) = self.members.get_mut(&node) else { return };
        if member.answer.as_ref().is_none_or(|answer| answer.asked_ms <= asked_ms) {
            member.answer = Some(Answer { asked_ms, targets });
        }
    }

    /// Whom to ask again soon: nothing that holds is known of them.
    pub fn unheard(&self, now_ms: u64) -> BTreeSet<NodeId> {
        let unheard = |(_, member): &(&NodeId, &Member)| member.told_since(now_ms).is_none();
        self.members.iter().filter(unheard).map(|(&node, _)| node).collect()
    }

    /// The members that may have missed writes which others keep for them, each with these others: those
    /// that say so, and those that have not told since.
    pub fn doubted(&self, now_ms: u64) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
        let by = |node: NodeId, of: &Member| -> BTreeSet<NodeId> {
            let others = self.members.iter().filter(|(other, _)| **other != node);
            let doubtful = others.filter(|(_, other)| other.leaves_doubt(node, of, now_ms));
            doubtful.map(|(&other, _)| other).collect()
        };
        let doubted = self.members.iter().map(|(&node, of)| (node, by(node, of)));
        doubted.filter(|(_, by)| !by.is_empty()).collect()
    }

    /// Who named whom, by the member that hints are for: of those that are not down, as each told it
    /// last.
    pub fn holders(&self) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
        let mut holders: BTreeMap<NodeId, BTreeSet<NodeId>> = BTreeMap::new();
        for (&node, member) in self.members.iter().filter(|(_, member)| !member.down) {
            for &target in member.answer.iter().flat_map(|answer| &answer.targets) {
                holders.entry(target).or_default().insert(node);
            }
        }
        holders
    }
}

impl Member {
    /// What it told, if that still holds.
    fn told_since(&self, now_ms: u64) -> Option<&Answer> {
        let holds = |answer: &&Answer| {
            let fresh = now_ms.saturating_sub(answer.asked_ms) < STALE_MS;
            fresh && self.trouble_ms.is_none_or(|trouble_ms| trouble_ms < answer.asked_ms)
        };
        self.answer.as_ref().filter(holds)
    }

    /// Whether it may keep hints for `node`, of which `of` is known.
    fn leaves_doubt(&self, node: NodeId, of: &Self, now_ms: u64) -> bool {
        if self.down {
            return false;
        }
        let Some(answer) = self.told_since(now_ms) else { return true };
        let asked_before = of.trouble_ms.is_some_and(|trouble_ms| trouble_ms >= answer.asked_ms);
        asked_before || answer.targets.contains(&node)
    }
}

#[cfg(test)]
mod tests;
