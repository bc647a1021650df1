//! I7: once faults are over and all was repaired, the owners of a key hold the same, and all nodes
//! know the same metadata; and no hints are left. Of no version there were ever two documents: nodes that follow different
//! ones may agree on a later one by chance, as if nothing had been lost.
//!
//! Live values, last writes and versions must agree: who misses a tombstone would revive what it hides.
//! So must frontiers: what they lack will be asked for again and again. A snapshot has what its node owns, and nothing of other keys; so how many
//! nodes hold a key tells whether an owner holds nothing at all.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::index::{Covers, Index, Key, Name, OfKey};
use super::settled::held;
use crate::history::{Dot, Held, Metadata, Moment, Node, Version};

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (key, of) in &index.keys {
        found.extend(check_key(index, *key, of));
        for (node, hint) in index.settled.iter().filter_map(|(n, at)| Some((n, of.hints.get(at)?)))
        {
            let (version, targets) = (Covers(&hint.version), &hint.targets);
            found.push(violation(format!(
                "node {node} still keeps {version} of {key}, which it owes to nodes {targets:?}"
            )));
        }
        for (node, at) in index.settled.iter().filter(|(_, at)| of.damaged.contains(at)) {
            let at = index.history.snapshots[*at].at;
            found.push(violation(format!("node {node} at {at} cannot read {key}")));
        }
    }
    found.extend(check_frontiers(index));
    found.extend(check_metadata(index));
    found.extend(check_documents(index));
    found
}

fn check_key(index: &Index<'_>, key: Key<'_>, of: &OfKey<'_>) -> Option<Violation> {
    let mut alike: BTreeMap<Live<'_>, Vec<Node>> = BTreeMap::new();
    for (at, held) in held(index, of) {
        alike.entry(live(held)).or_default().push(index.history.snapshots[at].node);
    }
    let holders: usize = alike.values().map(Vec::len).sum();
    let owners = of.n.min(index.settled.len());
    let holds = alike.keys().any(|(.., version)| !version.is_empty());
    if alike.len() <= 1 && (!holds || holders >= owners) {
        return None;
    }
    let held = alike.iter().map(|((values, last, version), nodes)| {
        let values = values.iter().map(|(dot, value)| format!("{} {value:?}", Name(*dot)));
        let values: Vec<_> = values.collect();
        let last = last.map_or_else(String::new, |(_, dot)| format!(", last {}", Name(dot)));
        format!("nodes {nodes:?} hold [{}]{last} of {}", values.join(", "), Covers(version))
    });
    let held: Vec<_> = held.collect();
    Some(violation(format!("the {owners} owners of {key} differ: {}", held.join("; "))))
}

/// Live values, the last write, and what the object reflects.
type Live<'a> = (Vec<(Dot, &'a str)>, Option<(u64, Dot)>, &'a Version);

fn live(held: &Held) -> Live<'_> {
    let mut values: Vec<_> = held.values.iter().map(|(dot, value)| (*dot, &**value)).collect();
    values.sort_unstable();
    (values, held.last, &held.version)
}

/// The owners of a partition have seen the same.
fn check_frontiers(index: &Index<'_>) -> Vec<Violation> {
    let mut partitions: BTreeMap<&str, BTreeMap<Node, Frontier<'_>>> = BTreeMap::new();
    // What a node has seen of them stands in its memory, where nobody looks.
    let mut damaged = BTreeSet::new();
    for (&node, &at) in &index.settled {
        let snapshot = &index.history.snapshots[at];
        damaged.extend(snapshot.damaged_frontiers.iter().map(String::as_str));
        for seen in &snapshot.frontiers {
            let of_node = partitions.entry(&seen.partition).or_default().entry(node).or_default();
            of_node.insert(seen.actor, &seen.ranges);
        }
    }
    let differs = |(partition, seen): (&str, BTreeMap<Node, Frontier<'_>>)| {
        let owners = n_of(partition)?.min(index.settled.len());
        let first = seen.values().next()?;
        let alike = seen.values().all(|other| other == first);
        let missing = owners.saturating_sub(seen.len());
        (!alike || missing > 0 && !first.is_empty()).then(|| {
            violation(format!("the {owners} owners of partition {partition} have seen: {seen:?}"))
        })
    };
    partitions.retain(|partition, _| !damaged.contains(partition));
    partitions.into_iter().filter_map(differs).collect()
}

/// By actor, the numbers seen.
type Frontier<'a> = BTreeMap<u64, &'a [(u64, u64)]>;

/// How many owners a partition has: its placement group is part of its name, as in `n3/17`.
fn n_of(partition: &str) -> Option<usize> {
    partition.strip_prefix('n')?.split_once('/')?.0.parse().ok()
}

fn check_metadata(index: &Index<'_>) -> Option<Violation> {
    let mut known: BTreeMap<(u64, u64), Vec<Node>> = BTreeMap::new();
    for (&node, &at) in &index.settled {
        known.entry(index.history.snapshots[at].metadata).or_default().push(node);
    }
    (known.len() > 1).then(|| {
        let known = known.iter().map(|((version, hash), nodes)| {
            format!("nodes {nodes:?} know version {version} ({hash:016x})")
        });
        let known: Vec<_> = known.collect();
        violation(format!("metadata differs: {}", known.join("; ")))
    })
}

/// A document names the one before it, too.
fn check_documents(index: &Index<'_>) -> Option<Violation> {
    let mut documents: BTreeMap<u64, BTreeMap<u64, Vec<(Moment, Node)>>> = BTreeMap::new();
    for &Metadata { at, node, version, hash, predecessor } in &index.history.metadata {
        for (version, hash) in [(Some(version), hash), (version.checked_sub(1), predecessor)] {
            let Some(version) = version else { continue };
            documents.entry(version).or_default().entry(hash).or_default().push((at, node));
        }
    }
    let (version, forked) = documents.iter().find(|(_, hashes)| hashes.len() > 1)?;
    let first = |(hash, known): (&u64, &Vec<(Moment, Node)>)| {
        let (at, node) = known.iter().min().expect("somebody knew it");
        format!("node {node} at {at} followed {hash:016x}")
    };
    let firsts: Vec<_> = forked.iter().map(first).collect();
    Some(violation(format!("metadata forked at version {version}: {}", firsts.join("; "))))
}

fn violation(text: String) -> Violation {
    Violation { invariant: "I7", text, operations: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, assert_accepts, assert_finds};
    use super::*;

    fn story() -> Story {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.put("k", "y", "", "b1");
        story
    }

    #[test]
    fn owners_hold_the_same_values() {
        let mut story = story();
        story.holds(3, "k", "a1", "a1=x");
        let mut same = story.clone();
        same.settle("k", "a1 b1", "a1=x b1=y");
        assert_accepts(&same);
        story.settles(1, "k", "a1 b1", "a1=x b1=y");
        story.settles(2, "k", "a1 b1", "a1=x b1=y");
        story.settles(3, "k", "a1", "a1=x");
        assert_finds(check, &story, "nodes [3] hold [1:1 \"x\"]");
    }

    #[test]
    fn an_owner_without_the_tombstone_differs() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.delete("k", "a1", "b1");
        let mut same = story.clone();
        same.settle("k", "a1 b1", "");
        assert_accepts(&same);
        story.settles(1, "k", "a1 b1", "");
        story.settles(2, "k", "a1 b1", "");
        let mut absent = story.clone();
        absent.settles(3, "k", "", "").without_objects();
        assert_finds(check, &absent, "the 3 owners of things/k differ");
        story.settles(3, "k", "b1", "");
        assert_finds(check, &story, "nodes [3] hold []");
    }

    #[test]
    fn an_owner_that_holds_nothing_differs() {
        let mut story = story();
        story.settles(1, "k", "a1 b1", "a1=x b1=y");
        story.settles(2, "k", "a1 b1", "a1=x b1=y");
        let mut no_owner = story.clone();
        no_owner.settles(3, "k", "a1 b1", "a1=x b1=y");
        no_owner.settles(4, "k", "", "").without_objects();
        assert_accepts(&no_owner);
        story.settles(3, "k", "", "").without_objects();
        assert_finds(check, &story, "the 3 owners of things/k differ");
    }

    #[test]
    fn owners_have_seen_the_same() {
        let mut story = story();
        let seen = |story: &mut Story, of_third: &[(u64, u64)]| {
            let _all = story.settle("k", "a1 b1", "a1=x b1=y").seen("a", &[(1, 1)]);
            let third = &mut story.history.snapshots[2].frontiers[0];
            third.ranges = of_third.to_vec();
            for snapshot in &mut story.history.snapshots {
                snapshot.frontiers[0].partition = "n3/1".to_owned();
            }
        };
        let mut same = story.clone();
        seen(&mut same, &[(1, 1)]);
        assert_accepts(&same);
        let mut nothing = same.clone();
        nothing.history.snapshots[2].frontiers.clear();
        assert_finds(check, &nothing, "the 3 owners of partition n3/1 have seen");
        seen(&mut story, &[(1, 1), (3, 3)]);
        assert_finds(check, &story, "the 3 owners of partition n3/1 have seen");
        story.history.snapshots[2].damaged_frontiers.push("n3/1".to_owned());
        assert!(check_frontiers(&Index::new(&story.history)).is_empty(), "nobody can tell");
    }

    #[test]
    fn no_hints_are_left() {
        let mut story = story();
        story.settle("k", "a1 b1", "a1=x b1=y").and_keeps("k", "a1", &[3]);
        assert_finds(check, &story, "still keeps {1:1} of things/k, which it owes to nodes [3]");
    }

    #[test]
    fn nodes_know_the_same_metadata() {
        let mut story = story();
        story.settle("k", "a1 b1", "a1=x b1=y");
        assert_accepts(&story);
        story.history.snapshots[1].metadata = (1, 8);
        assert_finds(check, &story, "nodes [2] know version 1");
    }

    #[test]
    fn metadata_does_not_fork() {
        let mut story = story();
        story.settle("k", "a1 b1", "a1=x b1=y");
        let knew = |at, node, version, hash, predecessor| Metadata {
            at,
            node,
            version,
            hash,
            predecessor,
        };
        story.history.metadata =
            vec![knew(1, 1, 6, 66, 55), knew(2, 2, 7, 77, 66), knew(3, 1, 9, 99, 88)];
        assert_accepts(&story);
        let mut forked = story.clone();
        forked.history.metadata.push(knew(4, 3, 7, 78, 66));
        assert_finds(check, &forked, "forked at version 7: node 2 at 2 followed");
        // Neither of the two is in sight.
        story.history.metadata.push(knew(4, 3, 8, 89, 78));
        assert_finds(check, &story, "forked at version 7");
    }

    #[test]
    fn nothing_stays_damaged() {
        let mut story = story();
        story.settle("k", "a1 b1", "a1=x b1=y");
        let damaged = ("things".to_owned(), "k".to_owned());
        story.history.snapshots[1].objects.clear();
        story.history.snapshots[1].damaged.push(damaged);
        assert_finds(check, &story, "cannot read things/k");
    }

    #[test]
    fn last_writes_agree() {
        let mut story = Story::lww();
        story.delete("k", "", "a1");
        story.delete("k", "", "b1");
        let mut same = story.clone();
        same.settle("k", "a1 b1", "").last(8, "b1");
        assert_accepts(&same);
        story.settles(1, "k", "a1 b1", "").last(8, "b1");
        story.settles(2, "k", "a1 b1", "").last(7, "a1");
        story.settles(3, "k", "a1 b1", "").last(8, "b1");
        assert_finds(check, &story, "last 1:1");
    }
}
