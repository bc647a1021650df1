//! I17: a receipt names enough nodes, and each of them has the write for as long as it loses nothing. A
//! fallback keeps it until it hands it over; from then on the owner has it in its place.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::index::{Covers, Index, Key, OfKey, Written};
use crate::history::{Action, Dot, Node, Receipt, Snapshot, StandIn, Version};

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (key, of) in &index.keys {
        for (write, receipt) in of.acknowledged() {
            found.extend(check_count(*key, write, receipt));
            for by in &receipt.fallbacks {
                found.extend(check_kept(index, *key, of, write, *by));
            }
        }
        let named = named(of);
        for (at, snapshot) in index.snapshots().filter(|(at, _)| !of.damaged.contains(at)) {
            let held = of.held.get(&at).map(|held| &held.version);
            for of_actor in named.get(&snapshot.node).into_iter().flat_map(BTreeMap::values) {
                found.extend(check_held(index, *key, snapshot, held, of_actor));
            }
        }
    }
    found
}

/// The writes that receipts with this node's name are about, by actor, in the order of their numbers.
type Named<'n, 'a> = BTreeMap<u64, Vec<(Dot, &'n Written<'a>, &'a Receipt)>>;

fn named<'n, 'a>(of: &'n OfKey<'a>) -> BTreeMap<Node, Named<'n, 'a>> {
    let mut named: BTreeMap<Node, Named<'n, 'a>> = BTreeMap::new();
    for (write, receipt) in of.acknowledged() {
        for &node in &receipt.acked {
            let of_node = named.entry(node).or_default();
            of_node.entry(receipt.dot.actor).or_default().push((receipt.dot, write, receipt));
        }
    }
    for of_actor in named.values_mut().flat_map(BTreeMap::values_mut) {
        of_actor.sort_by_key(|(dot, ..)| *dot);
    }
    named
}

/// What a node does not reflect of the writes of one actor that it acknowledged.
fn check_held(
    index: &Index<'_>,
    key: Key<'_>,
    snapshot: &Snapshot,
    held: Option<&Version>,
    of_actor: &[(Dot, &Written<'_>, &Receipt)],
) -> Vec<Violation> {
    let reflects = |dot: Dot| held.is_some_and(|version| dot.is_covered_by(version));
    let first = of_actor.partition_point(|(dot, ..)| reflects(*dot));
    let missing = of_actor[first..].iter().filter(|(_, write, receipt)| {
        write.is_acknowledged_before(snapshot.at)
            && index.losses.must_have(snapshot.node, write, receipt, snapshot.at)
    });
    let missing = missing.map(|(_, write, _)| {
        let object = held.map_or("nothing".to_owned(), |version| Covers(version).to_string());
        let text = format!(
            "node {} at {} reflects {object} of {key}, and not {write}",
            snapshot.node, snapshot.at
        );
        Violation { invariant: "I17", text, operations: vec![write.operation.id] }
    });
    missing.collect()
}

/// What is missing of a write that a fallback keeps, where it was seen last to be missing.
fn check_kept(
    index: &Index<'_>,
    key: Key<'_>,
    of: &OfKey<'_>,
    write: &Written<'_>,
    by: StandIn,
) -> Option<Violation> {
    let (dot, receipt) = (write.dot?, write.receipt?);
    let handed_over = index.losses.handed_over(write, by);
    let lacks = |&(at, snapshot): &(usize, &Snapshot)| {
        let moment = snapshot.at;
        if !write.is_acknowledged_before(moment) {
            return false;
        }
        match handed_over.filter(|since| *since < moment) {
            None if snapshot.node == by.node => {
                let hint = of.hints.get(&at);
                let keeps = hint.is_some_and(|hint| {
                    hint.targets.contains(&by.owner) && dot.is_covered_by(&hint.version)
                });
                !keeps
                    && !of.damaged_hints.contains(&at)
                    && index.losses.must_have(by.node, write, receipt, moment)
            }
            Some(since) if snapshot.node == by.owner => {
                let held = of.held.get(&at);
                !held.is_some_and(|held| dot.is_covered_by(&held.version))
                    && !of.damaged.contains(&at)
                    && index.losses.must_keep(by.owner, write, since, moment)
            }
            _ => false,
        }
    };
    let (_, snapshot) = index.snapshots().filter(lacks).last()?;
    let text = format!(
        "node {} at {} has nothing of {write} of {key}, which node {} kept for node {}",
        snapshot.node, snapshot.at, by.node, by.owner
    );
    Some(Violation { invariant: "I17", text, operations: vec![write.operation.id] })
}

fn check_count(key: Key<'_>, write: &Written<'_>, receipt: &Receipt) -> Option<Violation> {
    let owners = receipt.fallbacks.iter().map(|by| by.owner).chain(receipt.acked.iter().copied());
    let owners: BTreeSet<Node> = owners.collect();
    let fallbacks = receipt.fallbacks.iter().map(|by| by.node);
    let nodes: BTreeSet<Node> = fallbacks.chain(receipt.acked.iter().copied()).collect();
    let named = receipt.acked.len() + receipt.fallbacks.len();
    let on_disk = matches!(write.operation.action, Action::Write { synced: true, .. });
    let why = if nodes.len() != named {
        "it names a node twice".to_owned()
    } else if owners.len() != named {
        "an owner counts twice".to_owned()
    } else if !write.sloppy && !receipt.fallbacks.is_empty() {
        "it was to be acknowledged by owners alone".to_owned()
    } else if nodes.len() < write.w {
        format!("{} nodes were to acknowledge it", write.w)
    } else if receipt.synced > nodes.len() || (on_disk && receipt.synced < write.w) {
        format!("{} had it on disk", receipt.synced)
    } else {
        return None;
    };
    let text = format!("the receipt of {write} of {key} cannot be true: {why}");
    Some(Violation { invariant: "I17", text, operations: vec![write.operation.id] })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, assert_accepts, assert_finds};
    use super::*;
    use crate::history::LossKind;

    fn story() -> Story {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story
    }

    #[test]
    fn who_acknowledged_has_the_write() {
        let mut story = story();
        story.holds(3, "k", "", "").without_objects();
        story.holds(1, "k", "a1", "a1=x");
        let mut before = story.clone();
        before.holds(2, "k", "", "").without_objects();
        let mut early = before.clone();
        early.history.snapshots.last_mut().unwrap().at = 0;
        assert_accepts(&story);
        assert_accepts(&early);
        assert_finds(check, &before, "node 2 at");
    }

    #[test]
    fn it_reflects_it_once_it_was_replaced() {
        let mut story = story();
        story.put("k", "y", "a1", "b1");
        story.holds(2, "k", "a1 b1", "b1=y");
        assert_accepts(&story);
        story.holds(2, "k", "b1", "b1=y");
        assert_finds(check, &story, "\"x\" 1:1");
    }

    #[test]
    fn what_a_node_lost_it_need_not_have() {
        let lost = |synced: usize, kind: LossKind| {
            let mut story = story();
            story.operation_at(0).receipt().synced = synced;
            story.loses(2, kind);
            story.holds(2, "k", "", "").without_objects();
            story
        };
        let (namespace, key) = ("things".to_owned(), "k".to_owned());
        assert_accepts(&lost(1, LossKind::PowerCut(0)));
        assert_accepts(&lost(2, LossKind::Wiped));
        assert_accepts(&lost(2, LossKind::RolledBack(1)));
        assert_accepts(&lost(2, LossKind::Rotten { namespace, key: key.clone() }));
        assert_finds(check, &lost(2, LossKind::PowerCut(0)), "node 2 at");
        assert_finds(check, &lost(0, LossKind::RolledBack(21)), "node 2 at");
        let namespace = "other".to_owned();
        assert_finds(check, &lost(0, LossKind::Rotten { namespace, key }), "node 2 at");
    }

    fn by_a_fallback() -> Story {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1").by_sloppy_quorum();
        let receipt = story.operation_at(0).receipt();
        receipt.acked = vec![1];
        receipt.fallbacks = vec![StandIn { node: 4, owner: 2 }];
        story
    }

    #[test]
    fn a_fallback_keeps_the_write_until_the_owner_has_it() {
        let mut story = by_a_fallback();
        story.holds(4, "k", "", "").and_keeps("k", "a1", &[2]).without_objects();
        story.holds(2, "k", "", "").without_objects();
        assert_accepts(&story);
        let mut others = story.clone();
        others.holds(4, "k", "", "").and_keeps("k", "a1", &[3]).without_objects();
        assert_finds(check, &others, "node 4 at");
        let mut wiped = story.clone();
        wiped.loses(4, LossKind::Wiped);
        wiped.holds(4, "k", "", "").without_objects();
        assert_accepts(&wiped);
        story.hands_over([4, 2], "k", "a1", Some("a1"));
        story.holds(4, "k", "", "").without_objects();
        story.loses(2, LossKind::PowerCut(0));
        story.holds(2, "k", "a1", "a1=x");
        assert_accepts(&story);
        story.holds(2, "k", "", "").without_objects();
        assert_finds(check, &story, "node 2 at");
    }

    #[test]
    fn a_fallback_counts_once_for_one_owner_and_in_sloppy_writes_alone() {
        let with = |node, owner| {
            let mut story = by_a_fallback();
            story.operation_at(0).receipt().fallbacks = vec![StandIn { node, owner }];
            story
        };
        assert_accepts(&with(4, 2));
        assert_finds(check, &with(1, 2), "twice");
        assert_finds(check, &with(4, 1), "an owner counts twice");
        let mut strict = with(4, 2);
        if let Action::Write { sloppy, .. } = &mut strict.operation_at(0).operation().action {
            *sloppy = false;
        }
        assert_finds(check, &strict, "by owners alone");
    }

    #[test]
    fn a_receipt_names_enough_nodes() {
        let with = |acked: &[Node], synced: usize, on_disk: bool| {
            let mut story = story();
            let receipt = story.operation_at(0).receipt();
            (receipt.acked, receipt.synced) = (acked.to_vec(), synced);
            if let Action::Write { synced, .. } = &mut story.history.operations[0].action {
                *synced = on_disk;
            }
            story
        };
        assert_accepts(&with(&[1, 2], 0, false));
        assert_accepts(&with(&[3, 1, 2], 2, true));
        assert_finds(check, &with(&[1], 0, false), "2 nodes were to acknowledge");
        assert_finds(check, &with(&[1, 1], 0, false), "twice");
        assert_finds(check, &with(&[1, 2], 1, true), "1 had it on disk");
        assert_finds(check, &with(&[1, 2], 3, false), "3 had it on disk");
    }
}
