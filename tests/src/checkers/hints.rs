//! I19: a hint leaves the node that keeps it only when the owner has it on disk, whole.
//!
//! Who is owed what was seen from outside, again and again; and what was on the owner's disk, when a
//! hint was seen to be gone. An owner that cannot read its object proves nothing.

use super::Violation;
use super::index::{Covers, Index};
use crate::history::{Dot, Handoff};

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    index.history.handoffs.iter().filter_map(check_handoff).collect()
}

fn check_handoff(handoff: &Handoff) -> Option<Violation> {
    let Handoff { at, node, target, namespace, key, version, on_disk } = handoff;
    let on_disk = on_disk.as_ref()?;
    let covered = |(&actor, &n): (&u64, &u64)| Dot { actor, n }.is_covered_by(on_disk);
    if version.iter().all(covered) {
        return None;
    }
    let text = format!(
        "node {node} at {at} owes {} of {namespace}/{key} to node {target} no more, which has {} on disk",
        Covers(version),
        Covers(on_disk),
    );
    Some(Violation { invariant: "I19", text, operations: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, assert_accepts, assert_finds};
    use super::*;

    #[test]
    fn a_hint_leaves_when_it_is_on_the_owners_disk() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.hands_over([4, 3], "k", "a1", Some("a1 b1"));
        story.hands_over([4, 2], "k", "a1", None);
        assert_accepts(&story);
        story.hands_over([4, 3], "k", "a1 b1", Some("a1"));
        assert_finds(check, &story, "node 4 at");
    }
}
