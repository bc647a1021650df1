//! I7, as far as trees of hashes vouch for it: a tree is that of its partition's objects, whenever one
//! looks. So owners whose trees are equal hold the same values.

use super::Violation;
use super::index::Index;
use crate::history::{Snapshot, Tree};

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let trees = index
        .history
        .snapshots
        .iter()
        .flat_map(|snapshot| snapshot.trees.iter().map(move |tree| (snapshot, tree)));
    let differs = |(_, tree): &(&Snapshot, &Tree)| tree.leaves != tree.records;
    trees.filter(differs).map(|(snapshot, tree)| violation(snapshot, tree)).collect()
}

fn violation(snapshot: &Snapshot, tree: &Tree) -> Violation {
    let Tree { partition, leaves, records } = tree;
    let text = format!(
        "the tree of partition {partition} of node {} at {} has {leaves}, and its objects {records}",
        snapshot.node, snapshot.at
    );
    Violation { invariant: "I7", text, operations: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::{Story, assert_accepts, assert_finds};

    #[test]
    fn a_tree_that_is_not_that_of_the_objects_is_told() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.settle("k", "a1", "a1=x");
        let tree = |records: &str| Tree {
            partition: "n3/1".to_owned(),
            leaves: "00ab".to_owned(),
            records: records.to_owned(),
        };
        story.history.snapshots[0].trees = vec![tree("00ab")];
        assert_accepts(&story);
        story.history.snapshots[0].trees.push(tree("00ac"));
        assert_finds(check, &story, "the tree of partition n3/1 of node 1");
    }
}
