//! What nodes lost, and which writes that excuses.
//!
//! A store can keep only what some node still has. So a write is excused once every node of its
//! receipt lost it, by what was done to these nodes and not by what they say:
//!
//! ```text
//!   write x, acknowledged by 1 and 2, neither had it on disk
//!   node 1 is wiped             node 2 has it: x must be there in the end
//!   node 2 loses its power      x is excused
//! ```
//!
//! Wiped nodes lost everything, those rolled back what came after the copy, those that lost power
//! what was not on their disks: of the last moments, since nodes sync by themselves. Receipts tell how many had a write on disk, not which: a write that was
//! on one disk is not excused by two power cuts. A node that was repaired since counts as one that lost
//! the write all the same.

use std::collections::{BTreeMap, BTreeSet};

use super::index::Written;
use crate::history::{History, Loss, LossKind, Moment, Node, Operation, Outcome, Receipt};

/// Until when reads must show what was acknowledged before them, R + W > N given.
///
/// Today an owner that lost something answers as if it had not, and counts toward R: it will not
/// once owners know whether their silence may be believed. So reads that were answered after a loss,
/// which may have made any of them miss something, are not held to it. A damaged record alone is no
/// such loss: its owner says that it cannot read the key, until all other owners were asked. Nor is a
/// power cut where every node had on disk what it had acknowledged.
pub fn reads_are_believed_until(history: &History) -> Moment {
    let buffered = |operation: &Operation, at: Moment, since: Moment| match &operation.outcome {
        Outcome::Written(receipt) => {
            let late = operation.returned.is_none_or(|returned| returned >= since);
            receipt.synced < receipt.acked.len() && operation.invoked < at && late
        }
        _ => false,
    };
    let hurts = |loss: &&Loss| match loss.kind {
        LossKind::Rotten { .. } => false,
        LossKind::PowerCut(since) => {
            history.operations.iter().any(|operation| buffered(operation, loss.at, since))
        }
        _ => true,
    };
    history.losses.iter().filter(hurts).map(|loss| loss.at).min().unwrap_or(Moment::MAX)
}

/// The losses of each node, in the order in which they happened.
#[derive(Default, Debug)]
pub(super) struct Losses<'a>(BTreeMap<Node, Vec<&'a Loss>>);

/// What a loss did to a write at its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effect {
    /// It is there still.
    None,
    /// It is gone, unless this node had it on disk.
    IfBuffered,
    /// It is gone.
    Gone,
}

impl<'a> Losses<'a> {
    pub(super) fn new(history: &'a History) -> Self {
        let mut losses = Self::default();
        for loss in &history.losses {
            losses.0.entry(loss.node).or_default().push(loss);
        }
        losses.0.values_mut().for_each(|of_node| of_node.sort_by_key(|loss| loss.at));
        losses
    }

    /// Whether a node that acknowledged a write must have it still at that moment.
    pub(super) fn must_have(
        &self,
        node: Node,
        write: &Written<'_>,
        receipt: &Receipt,
        moment: Moment,
    ) -> bool {
        let buffered = receipt.synced < receipt.acked.len();
        self.of(node).filter(|loss| loss.at < moment).all(|loss| match effect(loss, write) {
            Effect::None => true,
            Effect::IfBuffered => !buffered,
            Effect::Gone => false,
        })
    }

    /// Since when no node of a write's receipt need have it.
    pub(super) fn lost_from(&self, write: &Written<'_>) -> Option<Moment> {
        let receipt = write.receipt?;
        let nodes: BTreeSet<Node> = receipt.acked.iter().copied().collect();
        let of_nodes = nodes.iter().flat_map(|&node| self.of(node));
        let effects = of_nodes.map(|loss| (loss.at, loss.node, effect(loss, write)));
        let mut effects: Vec<_> =
            effects.filter(|(_, _, effect)| *effect != Effect::None).collect();
        effects.sort_by_key(|(at, ..)| *at);
        let (mut touched, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for (at, node, effect) in effects {
            touched.insert(node);
            if effect == Effect::Gone {
                gone.insert(node);
            }
            // At worst those that had it on disk are those where that did not help.
            if touched.len() == nodes.len() && gone.len() >= receipt.synced {
                return Some(at);
            }
        }
        None
    }

    fn of(&self, node: Node) -> impl Iterator<Item = &'a Loss> + use<'_, 'a> {
        self.0.get(&node).into_iter().flatten().copied()
    }
}

/// A node may have acknowledged long before the client heard of it: any loss since the write was sent
/// may have come after.
fn effect(loss: &Loss, write: &Written<'_>) -> Effect {
    let operation = write.operation;
    if loss.at < operation.invoked {
        return Effect::None;
    }
    match &loss.kind {
        LossKind::Doubled => Effect::None,
        LossKind::PowerCut(since) | LossKind::RolledBack(since)
            if operation.returned.is_some_and(|at| at < *since) =>
        {
            Effect::None
        }
        LossKind::PowerCut(_) => Effect::IfBuffered,
        LossKind::Wiped => Effect::Gone,
        LossKind::RolledBack(_) => Effect::Gone,
        LossKind::Rotten { namespace, key }
            if (namespace, key) != (&operation.namespace, &operation.key) =>
        {
            Effect::None
        }
        LossKind::Rotten { .. } => Effect::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Index;
    use super::super::testing::Story;
    use super::*;

    /// Which writes are excused after a write of x (acknowledged by 1 and 2) and those losses.
    fn excused(synced: usize, losses: &[(Node, LossKind)]) -> bool {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1").receipt().synced = synced;
        losses.iter().for_each(|(node, kind)| story.loses(*node, kind.clone()));
        let index = Index::new(&story.history);
        index.keys.values().any(|of| of.writes.iter().any(|write| write.lost_from.is_some()))
    }

    #[test]
    fn a_write_is_excused_once_nobody_has_it() {
        let (cut, late, wiped) = (LossKind::PowerCut(0), LossKind::PowerCut(21), LossKind::Wiped);
        let (before, after) = (LossKind::RolledBack(1), LossKind::RolledBack(21));
        let key = |key: &str| (String::from("things"), key.to_owned());
        let rot = |(namespace, key)| LossKind::Rotten { namespace, key };
        let cases = [
            (0, vec![(1, wiped.clone())], false),
            (0, vec![(1, late.clone()), (2, wiped.clone())], false),
            (0, vec![(1, wiped.clone()), (3, wiped.clone())], false),
            (0, vec![(1, wiped.clone()), (1, wiped.clone())], false),
            (0, vec![(1, wiped.clone()), (2, wiped.clone())], true),
            (0, vec![(1, cut.clone()), (2, wiped.clone())], true),
            (0, vec![(1, before.clone()), (2, cut.clone())], true),
            (0, vec![(1, after), (2, cut.clone())], false),
            (0, vec![(1, rot(key("k"))), (2, rot(key("k")))], true),
            (0, vec![(1, rot(key("k"))), (2, rot(key("l")))], false),
            (1, vec![(1, cut.clone()), (2, cut.clone())], false),
            (1, vec![(1, wiped.clone()), (2, cut.clone())], true),
            (2, vec![(1, wiped.clone()), (2, cut.clone())], false),
            (2, vec![(1, before), (2, wiped)], true),
        ];
        for (synced, losses, expected) in cases {
            assert_eq!(excused(synced, &losses), expected, "{synced} synced, {losses:?}");
        }
    }

    #[test]
    fn what_was_lost_before_the_write_does_not_matter() {
        let mut story = Story::siblings();
        (1..=3).for_each(|node| story.loses(node, LossKind::Wiped));
        story.put("k", "x", "", "a1");
        let index = Index::new(&story.history);
        assert!(index.keys.values().all(|of| of.writes[0].lost_from.is_none()));
        assert_ne!(reads_are_believed_until(&story.history), Moment::MAX);
    }

    #[test]
    fn reads_are_believed_until_more_than_a_record_is_lost() {
        let mut story = Story::siblings();
        let (namespace, key) = ("things".to_owned(), "k".to_owned());
        story.loses(1, LossKind::Rotten { namespace, key });
        story.loses(1, LossKind::PowerCut(0));
        story.put("k", "x", "", "a1");
        let returned = story.history.operations[0].returned.expect("it was acknowledged");
        story.loses(2, LossKind::PowerCut(returned + 1));
        let believed = |story: &Story| reads_are_believed_until(&story.history);
        assert_eq!(believed(&story), Moment::MAX, "all that there was then was on disk");
        let mut wiped = story.clone();
        wiped.loses(2, LossKind::Wiped);
        assert_eq!(believed(&wiped), wiped.history.losses[3].at);
        story.loses(2, LossKind::PowerCut(returned));
        assert_eq!(believed(&story), story.history.losses[3].at);
    }
}
