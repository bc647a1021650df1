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
//! the write all the same. A fallback that handed its hint over is replaced by the owner that has it on
//! its disk from then on:
//!
//! ```text
//!   write x, acknowledged by 1, and by 4 for 2
//!   4 hands x over to 2, and is wiped       1 and 2 have it
//!   1 and 2 lose their power                2 has it: on disk
//!   2 is wiped                              x is excused
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::index::Written;
use crate::history::{Handoff, History, Loss, LossKind, Moment, Node, Receipt, StandIn};

/// Until when reads must show what was acknowledged before them, R + W > N given, and unless all who had it
/// lost it.
///
/// An owner that was wiped or lost its power counts toward R only once it has what every other owner has, and
/// one whose record is damaged says that it cannot read the key. Of one that was put back from an older copy
/// the others need not know so much that it is found out; and one of two processes under one name may answer
/// for what the other one acknowledged. Reads that were answered after such a loss are not held to it.
pub fn reads_are_believed_until(history: &History) -> Moment {
    let hurts = |loss: &&Loss| match loss.kind {
        LossKind::Wiped | LossKind::Rotten { .. } => false,
        LossKind::PowerCut(_) | LossKind::FoundOut(_) => false,
        LossKind::RolledBack(_) | LossKind::Doubled => true,
    };
    history.losses.iter().filter(hurts).map(|loss| loss.at).min().unwrap_or(Moment::MAX)
}

/// The losses of each node, in the order in which they happened; and what became of hints.
#[derive(Default, Debug)]
pub(super) struct Losses<'a> {
    of: BTreeMap<Node, Vec<&'a Loss>>,
    /// By holder and key.
    handoffs: BTreeMap<(Node, &'a str, &'a str), Vec<&'a Handoff>>,
}

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
            losses.of.entry(loss.node).or_default().push(loss);
        }
        losses.of.values_mut().for_each(|of_node| of_node.sort_by_key(|loss| loss.at));
        for handoff in &history.handoffs {
            let Handoff { node, namespace, key, .. } = handoff;
            losses.handoffs.entry((*node, namespace, key)).or_default().push(handoff);
        }
        losses
    }

    /// When a fallback was seen to have handed a write over to the owner that it kept it for.
    pub(super) fn handed_over(&self, write: &Written<'_>, by: StandIn) -> Option<Moment> {
        let (operation, dot) = (write.operation, write.dot?);
        let left = self.handoffs.get(&(by.node, &*operation.namespace, &*operation.key))?;
        // It may have come to the hint after that was last seen, and have gone home with it.
        let is_it = |handoff: &&&Handoff| {
            handoff.target == by.owner
                && handoff.at > operation.invoked
                && dot.is_covered_by(handoff.on_disk.as_ref().unwrap_or(&handoff.version))
        };
        left.iter().filter(is_it).map(|handoff| handoff.at).min()
    }

    /// Whether a node that acknowledged a write must have it still at that moment.
    pub(super) fn must_have(
        &self,
        node: Node,
        write: &Written<'_>,
        receipt: &Receipt,
        moment: Moment,
    ) -> bool {
        let buffered = receipt.synced < receipt.acked.len() + receipt.fallbacks.len();
        self.of(node).filter(|loss| loss.at < moment).all(|loss| match effect(loss, write) {
            Effect::None => true,
            Effect::IfBuffered => !buffered,
            Effect::Gone => false,
        })
    }

    /// Whether an owner that a write was handed over to must have it still at that moment.
    pub(super) fn must_keep(
        &self,
        owner: Node,
        write: &Written<'_>,
        since: Moment,
        moment: Moment,
    ) -> bool {
        let since_then = self.of(owner).filter(|loss| loss.at < moment);
        since_then
            .map(|loss| effect_on_disk(loss, write, since))
            .all(|effect| effect == Effect::None)
    }

    /// Since when no node of a write's receipt need have it.
    pub(super) fn lost_from(&self, write: &Written<'_>) -> Option<Moment> {
        let receipt = write.receipt?;
        let owners: BTreeSet<Node> = receipt.acked.iter().copied().collect();
        let fallbacks: BTreeSet<StandIn> = receipt.fallbacks.iter().copied().collect();
        let of_owners = owners.iter().map(|&node| self.at_owner(write, node));
        let of_fallbacks = fallbacks.iter().map(|&by| self.at_fallback(write, by));
        let places: Vec<Vec<(Moment, Effect)>> = of_owners.chain(of_fallbacks).collect();
        let effects = places.iter().enumerate();
        let effects = effects.flat_map(|(at, of)| of.iter().map(move |&(when, e)| (when, at, e)));
        let mut effects: Vec<_> = effects.filter(|(.., effect)| *effect != Effect::None).collect();
        effects.sort_by_key(|(when, ..)| *when);
        let (mut touched, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for (when, place, effect) in effects {
            touched.insert(place);
            if effect == Effect::Gone {
                gone.insert(place);
            }
            // At worst those that had it on disk are those where that did not help.
            if touched.len() == places.len() && gone.len() >= receipt.synced {
                return Some(when);
            }
        }
        None
    }

    fn at_owner(&self, write: &Written<'_>, node: Node) -> Vec<(Moment, Effect)> {
        self.of(node).map(|loss| (loss.at, effect(loss, write))).collect()
    }

    /// What became of a hint until it was handed over, and of what the owner had of it from then on.
    fn at_fallback(&self, write: &Written<'_>, by: StandIn) -> Vec<(Moment, Effect)> {
        let handed_over = self.handed_over(write, by);
        let before = self.of(by.node).filter(|loss| handed_over.is_none_or(|at| loss.at < at));
        let before = before.map(|loss| (loss.at, effect(loss, write)));
        let after = handed_over.into_iter().flat_map(|since| {
            let of_owner = self.of(by.owner);
            of_owner.map(move |loss| (loss.at, effect_on_disk(loss, write, since)))
        });
        before.chain(after).collect()
    }

    fn of(&self, node: Node) -> impl Iterator<Item = &'a Loss> + use<'_, 'a> {
        self.of.get(&node).into_iter().flatten().copied()
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
        LossKind::PowerCut(since) | LossKind::RolledBack(since) | LossKind::FoundOut(since)
            if operation.returned.is_some_and(|at| at < *since) =>
        {
            Effect::None
        }
        LossKind::PowerCut(_) => Effect::IfBuffered,
        LossKind::Wiped => Effect::Gone,
        LossKind::RolledBack(_) | LossKind::FoundOut(_) => Effect::Gone,
        LossKind::Rotten { namespace, key }
            if (namespace, key) != (&operation.namespace, &operation.key) =>
        {
            Effect::None
        }
        LossKind::Rotten { .. } => Effect::Gone,
    }
}

/// The same where it is on disk, as was seen at `since`.
fn effect_on_disk(loss: &Loss, write: &Written<'_>, since: Moment) -> Effect {
    match &loss.kind {
        _ if loss.at < since => Effect::None,
        LossKind::PowerCut(_) => Effect::None,
        LossKind::RolledBack(copied) | LossKind::FoundOut(copied) => match *copied > since {
            true => Effect::None,
            // It came to this owner after the copy, though it was acknowledged before.
            false => Effect::Gone,
        },
        _ => effect(loss, write),
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
    fn an_owner_takes_the_place_of_the_fallback_that_handed_over() {
        let excused = |hands_over: bool, losses: &[(Node, LossKind)]| {
            let mut story = Story::siblings();
            story.put("k", "x", "", "a1").by_sloppy_quorum();
            let receipt = story.operation_at(0).receipt();
            receipt.acked = vec![1];
            receipt.fallbacks = vec![StandIn { node: 4, owner: 2 }];
            if hands_over {
                story.hands_over([4, 2], "k", "a1", Some("a1"));
            }
            losses.iter().for_each(|(node, kind)| story.loses(*node, kind.clone()));
            let index = Index::new(&story.history);
            index.keys.values().any(|of| of.writes.iter().any(|write| write.lost_from.is_some()))
        };
        let wiped = |node| (node, LossKind::Wiped);
        assert!(excused(false, &[wiped(1), wiped(4)]));
        assert!(!excused(false, &[wiped(1), wiped(2)]));
        assert!(!excused(true, &[wiped(1), wiped(4)]));
        assert!(excused(true, &[wiped(1), wiped(2)]));
        assert!(!excused(true, &[wiped(1), (2, LossKind::PowerCut(0))]), "it is on disk there");
        // The write was acknowledged before the copy was made, and handed over after that.
        assert!(excused(true, &[wiped(1), (2, LossKind::RolledBack(21))]));
    }

    #[test]
    fn what_was_lost_before_the_write_does_not_matter() {
        let mut story = Story::siblings();
        (1..=3).for_each(|node| story.loses(node, LossKind::Wiped));
        story.put("k", "x", "", "a1");
        let index = Index::new(&story.history);
        assert!(index.keys.values().all(|of| of.writes[0].lost_from.is_none()));
    }

    #[test]
    fn reads_are_believed_until_an_owner_may_not_know_that_it_lost_something() {
        let mut story = Story::siblings();
        let (namespace, key) = ("things".to_owned(), "k".to_owned());
        story.loses(1, LossKind::Rotten { namespace, key });
        story.put("k", "x", "", "a1");
        story.loses(2, LossKind::PowerCut(0));
        let believed = |story: &Story| reads_are_believed_until(&story.history);
        assert_eq!(believed(&story), Moment::MAX);
        story.loses(2, LossKind::Wiped);
        assert_eq!(believed(&story), Moment::MAX);
        for kind in [LossKind::RolledBack(0), LossKind::Doubled] {
            let mut lost = story.clone();
            lost.loses(2, kind);
            assert_eq!(believed(&lost), lost.history.losses[3].at);
        }
    }
}
