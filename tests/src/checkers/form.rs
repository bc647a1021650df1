//! Form: a history that contradicts itself proves nothing, whatever else is found in it.
//!
//! The other checkers take for granted that a value names its write, that answers fit what was asked,
//! and that objects are such as a store can hold.

use std::collections::BTreeSet;

use super::Violation;
use super::index::{Covers, Index, Name};
use crate::history::{Action, Held, Namespace, Operation, Outcome, Snapshot};

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let names = namespaces(index, &mut found);
    let (mut ids, mut values) = (BTreeSet::new(), BTreeSet::new());
    for operation in &index.history.operations {
        let value = match &operation.action {
            Action::Write { value, .. } => value.as_deref(),
            Action::Read { .. } => None,
        };
        let wrong = [
            (!ids.insert(operation.id), "its id is another operation's"),
            (value.is_some_and(|value| !values.insert(value)), "its value is another write's"),
            (!names.contains(&*operation.namespace), "nobody told of its namespace"),
            (!fits(operation), "its answer does not fit what was asked"),
            (!is_in_order(operation), "it was not answered after it was sent"),
        ];
        for (_, why) in wrong.iter().filter(|(wrong, _)| *wrong) {
            let text = format!("operation {}: {why}", operation.id);
            found.push(Violation { invariant: "form", text, operations: vec![operation.id] });
        }
    }
    for snapshot in &index.history.snapshots {
        for held in &snapshot.objects {
            let namespace = index.history.namespaces.iter().find(|n| n.name == held.namespace);
            let wrong = namespace.map_or(Some("nobody told of its namespace"), |n| odd(held, n));
            found.extend(wrong.map(|why| violation(snapshot, held, why)));
        }
    }
    found
}

fn namespaces<'a>(index: &Index<'a>, found: &mut Vec<Violation>) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for namespace in &index.history.namespaces {
        if !names.insert(&*namespace.name) {
            let text = format!("there are two namespaces {:?}", namespace.name);
            found.push(Violation { invariant: "form", text, operations: Vec::new() });
        }
    }
    names
}

fn fits(operation: &Operation) -> bool {
    match &operation.outcome {
        Outcome::Written(_) | Outcome::NotApplied(_) | Outcome::Unknown(_) => {
            matches!(operation.action, Action::Write { .. })
        }
        Outcome::Shown(_) | Outcome::Failed(_) => matches!(operation.action, Action::Read { .. }),
    }
}

fn is_in_order(operation: &Operation) -> bool {
    let Operation { invoked, invoked_ms, returned, returned_ms, outcome, .. } = operation;
    match (returned, returned_ms) {
        (Some(returned), Some(returned_ms)) => invoked < returned && invoked_ms <= returned_ms,
        // Whoever waits still was told nothing.
        (None, None) => matches!(outcome, Outcome::Unknown(_) | Outcome::Failed(_)),
        _ => false,
    }
}

/// What is odd about an object.
fn odd(held: &Held, namespace: &Namespace) -> Option<&'static str> {
    let uncovered = held.values.iter().any(|(dot, _)| !dot.is_covered_by(&held.version));
    if uncovered || held.last.is_some_and(|(_, dot)| !dot.is_covered_by(&held.version)) {
        return Some("its version does not cover what it holds");
    }
    match held.last {
        Some(_) if !namespace.lww => Some("its namespace keeps siblings, but it has a last write"),
        None if namespace.lww => Some("it has no last write, which its namespace asks for"),
        Some((_, last)) if held.values.iter().any(|(dot, _)| *dot != last) => {
            Some("it has a value beside the last write's")
        }
        _ => None,
    }
}

fn violation(snapshot: &Snapshot, held: &Held, why: &str) -> Violation {
    let Held { namespace, key, version, values, last, .. } = held;
    let values: Vec<_> =
        values.iter().map(|(dot, value)| format!("{} {value:?}", Name(*dot))).collect();
    let last = last.map_or_else(String::new, |(_, dot)| format!(", last {}", Name(dot)));
    let text = format!(
        "node {} at {} held {namespace}/{key} as [{}] with {}{last}: {why}",
        snapshot.node,
        snapshot.at,
        values.join(", "),
        Covers(version),
    );
    Violation { invariant: "form", text, operations: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, assert_accepts, assert_finds};
    use super::*;
    use crate::history::Shown;

    #[test]
    fn contradictions_are_found() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.read("k", "x", Some("a1"));
        story.settle("k", "a1", "a1=x");
        assert_accepts(&story);

        let wrong = |change: fn(&mut Story), text: &str| {
            let mut story = story.clone();
            change(&mut story);
            assert_finds(check, &story, text);
        };
        wrong(|s| s.history.operations[1].id = 1, "its id");
        wrong(|s| s.history.namespaces.clear(), "nobody told of its namespace");
        wrong(|s| s.history.namespaces.push(s.history.namespaces[0].clone()), "two namespaces");
        wrong(|s| s.history.operations[0].returned = Some(1), "not answered after");
        wrong(|s| s.history.operations[0].returned_ms = None, "not answered after");
        wrong(|s| s.history.operations[1].outcome = Outcome::NotApplied(String::new()), "not fit");
        wrong(
            |s| {
                s.history.operations[0].outcome =
                    Outcome::Shown(Shown { values: Vec::new(), context: None })
            },
            "does not fit",
        );
        wrong(|s| _ = s.put("k", "x", "", "a2"), "its value");
        wrong(|s| s.history.snapshots[0].objects[0].version.clear(), "does not cover");
        wrong(|s| _ = s.settles(1, "k", "a1", "a1=x").last(1, "a1"), "keeps siblings");
    }

    #[test]
    fn objects_of_last_writes_have_one_value_at_most() {
        let mut story = Story::lww();
        story.put("k", "x", "", "a1");
        story.put("k", "y", "", "b1");
        story.holds(1, "k", "a1 b1", "b1=y").last(2, "b1");
        assert!(check(&Index::new(&story.history)).is_empty());
        story.holds(1, "k", "a1 b1", "a1=x b1=y").last(2, "b1");
        assert_finds(check, &story, "beside the last write's");
        let mut story = Story::lww();
        story.holds(1, "k", "a1", "");
        assert_finds(check, &story, "has no last write");
    }
}
