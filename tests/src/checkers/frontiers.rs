//! I5: of what a frontier says that its node has seen, the node's objects hold or reflect all.
//!
//! Which key a dot belongs to is known from receipts, and from versions, whose numbers are those of
//! writes to their key. The numbers below are not: they may be other keys'.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::index::{Covers, Index, Key, Name, OfKey};
use crate::history::{Dot, Seen, Snapshot, Version};

/// A key, and the dots that are known to be its.
struct Known<'a> {
    key: Key<'a>,
    of: &'a OfKey<'a>,
    dots: BTreeSet<Dot>,
}

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let mut partitions: BTreeMap<&str, Vec<Known<'_>>> = BTreeMap::new();
    for (key, of) in &index.keys {
        if let Some(partition) = of.partition {
            partitions.entry(partition).or_default().push(Known {
                key: *key,
                of,
                dots: dots(index, of),
            });
        }
    }
    let mut found = Vec::new();
    for (at, snapshot) in index.snapshots() {
        for seen in &snapshot.frontiers {
            for Known { key, of, dots } in partitions.get(&*seen.partition).into_iter().flatten() {
                if of.damaged.contains(&at) {
                    continue;
                }
                let held = of.held.get(&at).map(|held| &held.version);
                let missing = missing(seen, held, dots);
                found.extend(missing.map(|dot| violation(*key, snapshot, of, dot, held)));
            }
        }
    }
    found
}

fn dots(index: &Index<'_>, of: &OfKey<'_>) -> BTreeSet<Dot> {
    let versions = of.versions(index.history).flat_map(|(version, ..)| version);
    let dots = versions.map(|(&actor, &n)| Dot { actor, n });
    dots.chain(of.by_dot.keys().copied()).collect()
}

/// A dot of the key in a frontier, and not in its object.
fn missing(seen: &Seen, held: Option<&Version>, dots: &BTreeSet<Dot>) -> Option<Dot> {
    let reflected = held.and_then(|version| version.get(&seen.actor)).copied();
    let first = reflected.map_or(Some(0), |n| n.checked_add(1))?;
    let dot = |n| Dot { actor: seen.actor, n };
    let mut beyond = dots.range(dot(first)..=dot(u64::MAX)).copied();
    let within = |dot: &Dot| seen.ranges.iter().any(|(low, high)| (*low..=*high).contains(&dot.n));
    beyond.find(within)
}

fn violation(
    key: Key<'_>,
    snapshot: &Snapshot,
    of: &OfKey<'_>,
    dot: Dot,
    held: Option<&Version>,
) -> Violation {
    let object = held.map_or("nothing".to_owned(), |version| Covers(version).to_string());
    let write = of.by_dot.get(&dot).map(|&at| &of.writes[at]);
    let named = write.map_or_else(|| Name(dot).to_string(), |write| write.to_string());
    let text = format!(
        "node {} at {} says that it has seen {named} of {key}, and reflects {object}",
        snapshot.node, snapshot.at
    );
    let operations = write.map(|write| write.operation.id).into_iter().collect();
    Violation { invariant: "I5", text, operations }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, assert_accepts, assert_finds};
    use super::*;

    fn story() -> Story {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1").receipt().acked = vec![1, 2];
        story.put("l", "y", "", "a2").receipt().acked = vec![1, 2];
        story.put("k", "z", "a1", "a5").receipt().acked = vec![1, 2];
        story
    }

    #[test]
    fn what_was_seen_is_reflected() {
        let mut story = story();
        story.holds(3, "k", "a1", "a1=x").seen("a", &[(1, 1)]);
        // Of 3 and 4 nobody knows which key they are of.
        story.holds(3, "k", "a1", "a1=x").seen("a", &[(1, 1), (3, 4)]);
        story.holds(3, "k", "a5", "a5=z").seen("a", &[(1, 1), (3, 9)]);
        assert_accepts(&story);
        story.holds(3, "k", "a1", "a1=x").seen("a", &[(1, 1), (3, 9)]);
        assert_finds(check, &story, "\"z\" 1:5");
    }

    #[test]
    fn a_key_that_is_not_held_was_not_seen() {
        let mut story = story();
        story.holds(1, "k", "a5", "a5=z").and_holds("l", "a2", "a2=y").seen("a", &[(1, 5)]);
        story.holds(3, "k", "a5", "a5=z").seen("a", &[(1, 1), (5, 5)]);
        assert_accepts(&story);
        story.holds(3, "k", "a5", "a5=z").seen("a", &[(1, 2), (5, 5)]);
        assert_finds(check, &story, "\"y\" 1:2");
        // It cannot read the record, and says so.
        let (namespace, key) = ("things".to_owned(), "l".to_owned());
        story.history.snapshots.last_mut().unwrap().damaged.push((namespace, key));
        assert_accepts(&story);
    }
}
