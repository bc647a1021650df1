//! The fallbacks of a sloppy read: they add values, never absence.
//!
//! A fallback keeps hints: objects for owners that missed them. What it keeps of the key is merged,
//! and counts for one owner that did not answer. That it keeps nothing says nothing, since what an
//! owner missed may be with another fallback:
//!
//! ```text
//!   owners 1 2 3, r=2, fallbacks 4 5      2 and 3 are away
//!   1: {a:1 → x}    4: {a:2 → y}    5: nothing     counted 1 and 4, for 2 or 3: answer y
//!   1: {a:1 → x}    4: nothing      5: nothing     counted 1: no answer
//! ```
//!
//! They are asked all at once, and each once. One that is an owner too gives values alone: as an owner
//! it counts already.

use super::Effect;
use crate::dynamo::key::NodeId;
use crate::dynamo::object::Digest;

/// Those that are asked, and why.
#[derive(Clone, Debug)]
pub(super) struct Fallbacks {
    each: Vec<Fallback>,
    /// Whether to ask them: an owner is missed. It stays so.
    pub(super) due: bool,
    /// Whether an owner may have missed writes which they keep.
    pub(super) doubt: bool,
}

#[derive(Clone, Debug)]
struct Fallback {
    node: NodeId,
    stage: Stage,
    /// Whether it is no owner, and so counts in the place of one.
    counts: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Unasked,
    Asked {
        late: bool,
    },
    /// It keeps nothing of the key, or failed.
    Silent,
    /// What it keeps, and whether that is part of the answer.
    Keeps {
        hint: Digest,
        counted: bool,
    },
}

impl Fallbacks {
    pub(super) fn new(nodes: &[NodeId], owners: &[NodeId]) -> Self {
        let new = |&node| {
            let counts = !owners.contains(&node);
            Fallback { node, stage: Stage::Unasked, counts }
        };
        Self { each: nodes.iter().map(new).collect(), due: false, doubt: false }
    }

    /// Asks those that were not asked yet.
    pub(super) fn ask(&mut self) -> Vec<Effect> {
        let unasked = self.each.iter_mut().filter(|fallback| fallback.stage == Stage::Unasked);
        let ask = |fallback: &mut Fallback| {
            fallback.stage = Stage::Asked { late: false };
            Effect::AskFallback(fallback.node)
        };
        unasked.map(ask).collect()
    }

    pub(super) fn awaits(&self, node: NodeId) -> bool {
        self.each.iter().any(|fallback| fallback.node == node && fallback.is_asked())
    }

    /// `node`, which is waited for, keeps this; whether that becomes part of the answer.
    pub(super) fn on_hint(&mut self, node: NodeId, hint: Digest, counted: bool) {
        self.settle(node, Stage::Keeps { hint, counted });
    }

    pub(super) fn on_silence(&mut self, node: NodeId) {
        self.settle(node, Stage::Silent);
    }

    pub(super) fn on_late(&mut self, node: NodeId) {
        self.settle(node, Stage::Asked { late: true });
    }

    fn settle(&mut self, node: NodeId, stage: Stage) {
        let mut waiting = self.each.iter_mut().filter(|fallback| fallback.is_asked());
        if let Some(fallback) = waiting.find(|fallback| fallback.node == node) {
            fallback.stage = stage;
        }
    }

    /// Whether each was asked and answered, failed or is late.
    pub(super) fn are_heard(&self) -> bool {
        let waits = |stage| matches!(stage, Stage::Unasked | Stage::Asked { late: false });
        !self.each.iter().any(|fallback| waits(fallback.stage))
    }

    /// How many hold a part of the answer or, once it stands, `answer`.
    pub(super) fn holding(&self, answer: Option<Digest>) -> usize {
        self.count(|stage| match stage {
            Stage::Unasked | Stage::Asked { .. } | Stage::Silent => false,
            Stage::Keeps { hint, counted } => is_held(hint, counted, answer),
        })
    }

    /// How many do or still may.
    pub(super) fn hopeful(&self, answer: Option<Digest>) -> usize {
        self.count(|stage| match stage {
            Stage::Unasked | Stage::Asked { .. } => true,
            Stage::Silent => false,
            Stage::Keeps { hint, counted } => is_held(hint, counted, answer),
        })
    }

    fn count(&self, of: impl Fn(Stage) -> bool) -> usize {
        self.each.iter().filter(|fallback| fallback.counts && of(fallback.stage)).count()
    }
}

impl Fallback {
    fn is_asked(&self) -> bool {
        matches!(self.stage, Stage::Asked { .. })
    }
}

fn is_held(hint: Digest, counted: bool, answer: Option<Digest>) -> bool {
    answer.map_or(counted, |answer| hint == answer)
}
