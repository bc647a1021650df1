//! I1: what was acknowledged is there in the end, or another write that had seen it took its place.
//!
//! The owners' final state must reflect every acknowledged write, of values and deletes alike: its
//! version covers the dot. A value that it reflects is live, unless another write removed it that
//! the state reflects too, or whose dot nobody knows. (That an acknowledged write superseded it is no
//! excuse if that one is lost as well: whoever lost both lost both.)
//!
//! Where the last write wins, the one that stands must be such that it may hide the lost one.

use std::collections::BTreeSet;

use super::Violation;
use super::causality::Causality;
use super::index::{Covers, Index, Key, Name, OfKey, Written};
use super::last::may_hide;
use super::settled::Settled;
use crate::history::Moment;

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let Some(moment) = index.settled_from() else { return Vec::new() };
    let mut found = Vec::new();
    for (key, of) in &index.keys {
        let settled = Settled::new(index, of);
        let due = |write: &&Written<'_>| {
            write.is_acknowledged_before(moment) && write.lost_from.is_none()
        };
        let due: Vec<&Written<'_>> = of.writes.iter().filter(due).collect();
        for write in &due {
            let dot = write.dot.expect("an acknowledged write has a dot");
            if !dot.is_covered_by(&settled.version) {
                let text = format!(
                    "{write} of {key} is lost: in the end its owners reflect {}",
                    Covers(&settled.version)
                );
                found.push(violation(text, &[write]));
            }
        }
        match of.lww {
            true => check_last(*key, of, &settled, &due, &mut found),
            false => check_siblings(*key, of, &settled, &due, &mut found),
        }
    }
    found
}

fn check_siblings(
    key: Key<'_>,
    of: &OfKey<'_>,
    settled: &Settled<'_>,
    due: &[&Written<'_>],
    found: &mut Vec<Violation>,
) {
    let live = Causality::new(&of.writes).live(&settled.version, Moment::MAX);
    let live: BTreeSet<u64> = live.into_iter().map(|at| of.writes[at].operation.id).collect();
    for write in due.iter().filter(|write| live.contains(&write.operation.id)) {
        let held = |(dot, _): &(_, &str)| Some(*dot) == write.dot;
        if !settled.values.iter().any(held) {
            let text = format!(
                "{write} of {key} is lost: nothing in {} had seen it, and it is not live in the end",
                Covers(&settled.version)
            );
            found.push(violation(text, &[write]));
        }
    }
}

fn check_last(
    key: Key<'_>,
    of: &OfKey<'_>,
    settled: &Settled<'_>,
    due: &[&Written<'_>],
    found: &mut Vec<Violation>,
) {
    let Some((_, dot)) = settled.last else { return };
    // Nobody knows the dots of deletes that were not acknowledged: it may be any of them.
    let unknown = || of.writes.iter().filter(|write| write.dot.is_none() && write.value.is_none());
    let stands: Vec<&Written<'_>> = match of.by_dot.get(&dot) {
        Some(&at) => vec![&of.writes[at]],
        None => unknown().collect(),
    };
    let hides_wrongly = |stands: &Written<'_>| -> Vec<&Written<'_>> {
        let others = due.iter().filter(|write| write.operation.id != stands.operation.id);
        others.filter(|write| !may_hide(stands, write)).copied().collect()
    };
    let best = stands.iter().map(|stands| (stands, hides_wrongly(stands)));
    let Some((stands, lost)) = best.min_by_key(|(_, lost)| lost.len()) else { return };
    for write in lost {
        let why = if write.knew(dot) { "had seen it" } else { "came long after it" };
        let text = format!(
            "{write} of {key} is lost: {stands} stands in the end as {}, and {} {why}",
            Name(dot),
            write.value.map_or("the delete".to_owned(), |value| format!("{value:?}")),
        );
        found.push(violation(text, &[write, stands]));
    }
}

fn violation(text: String, writes: &[&Written<'_>]) -> Violation {
    let operations = writes.iter().map(|write| write.operation.id).collect();
    Violation { invariant: "I1", text, operations }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, assert_accepts, assert_finds};
    use super::*;
    use crate::history::LossKind;

    #[test]
    fn an_acknowledged_value_is_live_or_superseded() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.put("k", "y", "a1", "b1");
        let mut kept = story.clone();
        kept.settle("k", "a1 b1", "b1=y");
        assert_accepts(&kept);
        let mut both_kept = story.clone();
        both_kept.settle("k", "a1", "a1=x");
        assert_finds(check, &both_kept, "\"y\" 2:1");
        story.settle("k", "a1 b1", "");
        assert_finds(check, &story, "\"y\" 2:1");
    }

    #[test]
    fn a_write_that_did_not_see_it_takes_no_place() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.put("k", "y", "", "b1");
        let mut kept = story.clone();
        kept.settle("k", "a1 b1", "a1=x b1=y");
        assert_accepts(&kept);
        story.settle("k", "a1 b1", "b1=y");
        assert_finds(check, &story, "\"x\" 1:1");
    }

    #[test]
    fn what_may_have_been_removed_by_an_unknown_write_is_not_lost() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        let mut refused = story.clone();
        story.unknown("k", None, "a1");
        story.settle("k", "a1 b1", "");
        assert_accepts(&story);
        refused.refused("k", None, "a1");
        refused.settle("k", "a1 b1", "");
        assert_finds(check, &refused, "\"x\" 1:1");
    }

    #[test]
    fn a_superseding_write_that_is_lost_itself_excuses_nothing() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1").receipt().synced = 2;
        story.put("k", "y", "a1", "b1");
        (1..=2).for_each(|node| story.loses(node, LossKind::PowerCut(0)));
        let mut kept = story.clone();
        kept.settle("k", "a1", "a1=x");
        assert_accepts(&kept);
        story.settle("k", "a1", "");
        assert_finds(check, &story, "\"x\" 1:1");
    }

    #[test]
    fn deletes_stay_unless_all_who_had_them_lost_them() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.delete("k", "a1", "b1");
        let mut kept = story.clone();
        kept.settle("k", "a1 b1", "");
        assert_accepts(&kept);
        let mut excused = story.clone();
        (1..=2).for_each(|node| excused.loses(node, LossKind::Wiped));
        excused.settle("k", "a1", "a1=x");
        assert_accepts(&excused);
        story.loses(1, LossKind::Wiped);
        story.settle("k", "a1", "a1=x");
        assert_finds(check, &story, "a delete 2:1");
    }

    #[test]
    fn the_last_write_that_stands_is_not_too_old() {
        let mut story = Story::lww();
        story.put("k", "x", "", "a1");
        story.passes_ms(1_000);
        story.put("k", "y", "", "b1");
        let mut kept = story.clone();
        kept.settle("k", "a1 b1", "a1=x").last(7, "a1");
        assert_accepts(&kept);
        story.passes_ms(200);
        story.put("k", "z", "", "c1");
        story.settle("k", "a1 b1 c1", "a1=x").last(7, "a1");
        assert_finds(check, &story, "\"z\" 3:1");
    }

    #[test]
    fn the_last_write_that_stands_was_not_seen_by_what_it_hides() {
        let mut story = Story::lww();
        story.put("k", "x", "", "a1");
        story.put("k", "y", "a1", "b1");
        let mut kept = story.clone();
        kept.settle("k", "a1 b1", "b1=y").last(8, "b1");
        assert_accepts(&kept);
        story.settle("k", "a1 b1", "a1=x").last(7, "a1");
        assert_finds(check, &story, "had seen it");
    }

    #[test]
    fn a_delete_of_unknown_name_may_stand() {
        let mut story = Story::lww();
        story.put("k", "x", "", "a1");
        let mut without = story.clone();
        story.unknown("k", None, "");
        story.settle("k", "a1 b1", "").last(8, "b1");
        assert_accepts(&story);
        without.settle("k", "b1", "").last(8, "b1");
        assert_finds(check, &without, "\"x\" 1:1");
    }
}
