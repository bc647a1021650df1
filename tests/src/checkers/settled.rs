//! The final state of a key: what its owners held in the end, merged as they would merge it.
//!
//! A value that one owner holds, and another's version covers without holding it, does not survive:
//! the owners would remove it as soon as they compared. If they still differ, `agreement` says so.

use std::collections::BTreeSet;

use super::causality::join;
use super::index::{Index, OfKey};
use crate::history::{Dot, Held, Version};

/// What a key is in the end.
#[derive(Default, Debug)]
pub(super) struct Settled<'a> {
    /// What it reflects.
    pub(super) version: Version,
    /// Its live values.
    pub(super) values: Vec<(Dot, &'a str)>,
    /// Where the last write wins: that write.
    pub(super) last: Option<(u64, Dot)>,
}

impl<'a> Settled<'a> {
    /// Of what the settled nodes held.
    pub(super) fn new(index: &Index<'a>, of: &OfKey<'a>) -> Self {
        let held: Vec<&'a Held> = held(index, of).map(|(_, held)| held).collect();
        let mut settled = Self::default();
        for object in &held {
            join(&mut settled.version, &object.version);
            settled.last = settled.last.max(object.last);
        }
        let all = held.iter().flat_map(|held| &held.values);
        let all: BTreeSet<(Dot, &str)> = all.map(|(dot, value)| (*dot, &**value)).collect();
        let survives = |dot: Dot| match settled.last {
            Some((_, last)) => dot == last,
            None => held.iter().all(|held| !dot.is_covered_by(&held.version) || holds(held, dot)),
        };
        settled.values = all.into_iter().filter(|(dot, _)| survives(*dot)).collect();
        settled
    }
}

/// What each settled node held of a key, with the snapshot's place.
pub(super) fn held<'a>(
    index: &Index<'a>,
    of: &OfKey<'a>,
) -> impl Iterator<Item = (usize, &'a Held)> {
    index.settled.values().filter_map(|at| Some((*at, *of.held.get(at)?)))
}

/// Whether the value of `dot` is live there.
pub(super) fn holds(held: &Held, dot: Dot) -> bool {
    held.values.iter().any(|(live, _)| *live == dot)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, dot};
    use super::*;

    fn settled(story: &Story) -> (Vec<String>, Option<Dot>) {
        let index = Index::new(&story.history);
        let settled = Settled::new(&index, index.keys.first_key_value().unwrap().1);
        let values = settled.values.iter().map(|(_, value)| (*value).to_owned()).collect();
        (values, settled.last.map(|(_, dot)| dot))
    }

    #[test]
    fn owners_are_merged() {
        let mut story = Story::siblings();
        story.settles(1, "k", "a1", "a1=x");
        story.settles(2, "k", "a1 b1", "a1=x b1=y");
        assert_eq!(settled(&story).0, ["x", "y"]);
        story.settles(3, "k", "a1", "");
        assert_eq!(settled(&story).0, ["y"], "the third owner removed x");
    }

    #[test]
    fn the_greatest_stamp_wins() {
        let mut story = Story::lww();
        story.settles(1, "k", "a1", "a1=x").last(7, "a1");
        story.settles(2, "k", "b1", "").last(8, "b1");
        assert_eq!(settled(&story), (vec![], Some(dot("b1"))));
        story.settles(3, "k", "c1", "c1=z").last(8, "c1");
        assert_eq!(settled(&story), (vec!["z".to_owned()], Some(dot("c1"))));
    }

    #[test]
    fn only_the_last_healed_snapshot_of_a_node_counts() {
        let mut story = Story::siblings();
        story.settles(1, "k", "a1", "a1=x");
        story.settles(1, "k", "a2", "a2=y");
        story.holds(1, "k", "a3", "a3=z");
        assert_eq!(settled(&story).0, ["y"]);
    }
}
