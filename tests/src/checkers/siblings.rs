//! I6: siblings are exactly what no write in the answer's context had seen, and a context covers
//! only what was shown with it, or was superseded before.
//!
//! That is asked of answers and of the objects that nodes held, which answers are made of. A write
//! answers with a context only if it showed all there was: its own value alone. Where the last write
//! wins contexts remove nothing, and an answer has one value at most.

use std::collections::BTreeSet;

use super::Violation;
use super::causality::Causality;
use super::index::{Covers, Index, Key, Name, OfKey, Source, Written};
use crate::history::{Dot, Moment, Receipt, Version};

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (key, of) in &index.keys {
        let receipts = of.acknowledged();
        found.extend(receipts.filter_map(|(write, receipt)| check_count(*key, write, receipt)));
        if of.lww {
            check_last(*key, of, &mut found);
            continue;
        }
        let causality = Causality::new(&of.writes);
        for seen in seen(index, of) {
            let judged = Judged { key: *key, of, seen: &seen };
            found.extend(judged.too_many(&causality.superseded(seen.version)));
            found.extend(judged.too_few(&causality.live(seen.version, seen.moment)));
        }
    }
    found
}

/// Values, and the version that came with them.
struct Together<'a> {
    version: &'a Version,
    moment: Moment,
    source: Source<'a>,
    /// The dots of the values, if they are known.
    dots: BTreeSet<Dot>,
    /// Those of them that may be others.
    copies: BTreeSet<Dot>,
    /// Whether the values are just the live ones: a receipt speaks of one, which may be gone.
    exact: bool,
}

fn seen<'a>(index: &Index<'a>, of: &OfKey<'a>) -> Vec<Together<'a>> {
    let mut seen = Vec::new();
    for read in &of.reads {
        let Some(version) = &read.shown.context else { continue };
        // Under which of its dots one shows that was applied more than once, nobody knows.
        let writes = read.shown.values.iter().filter_map(|value| of.of_value(value));
        let copies: BTreeSet<Dot> =
            writes.clone().filter(|w| w.copies).filter_map(|w| w.dot).collect();
        let dots = writes.filter_map(|write| write.dot).collect();
        let (moment, source) = (read.returned, Source::Answer(read.operation));
        seen.push(Together { version, moment, source, dots, copies, exact: true });
    }
    for (write, receipt) in of.acknowledged() {
        let Some(version) = &receipt.context else { continue };
        let (dots, copies) = (BTreeSet::from([receipt.dot]), BTreeSet::new());
        let moment = write.operation.returned.unwrap_or(Moment::MAX);
        let source = Source::Answer(write.operation);
        seen.push(Together { version, moment, source, dots, copies, exact: false });
    }
    for (&at, held) in &of.held {
        let snapshot = &index.history.snapshots[at];
        let dots = held.values.iter().map(|(dot, _)| *dot).collect();
        let (version, moment, source) = (&held.version, snapshot.at, Source::Object(snapshot));
        let copies = BTreeSet::new();
        seen.push(Together { version, moment, source, dots, copies, exact: true });
    }
    seen
}

struct Judged<'j, 'a> {
    key: Key<'a>,
    of: &'j OfKey<'a>,
    seen: &'j Together<'a>,
}

impl Judged<'_, '_> {
    /// What was shown, though it was superseded, or though the version does not cover it.
    fn too_many(&self, superseded: &Version) -> Vec<Violation> {
        let Together { version, dots, copies, exact, .. } = self.seen;
        let certain = || dots.iter().filter(|dot| !copies.contains(dot));
        let uncovered = certain().filter(|dot| !dot.is_covered_by(version));
        let uncovered = uncovered.map(|dot| self.violation(*dot, "is shown, but not covered"));
        let stale = certain().filter(|dot| *exact && dot.is_covered_by(superseded));
        let stale = stale.map(|dot| self.violation(*dot, "is shown beside what had seen it"));
        uncovered.chain(stale).collect()
    }

    /// What was not shown, though the version covers it and nothing in it removed it.
    fn too_few(&self, live: &[usize]) -> Vec<Violation> {
        let live = live.iter().filter_map(|&at| self.of.writes[at].dot);
        let hidden = live.filter(|dot| !self.seen.dots.contains(dot));
        let why = "is covered, but neither shown nor superseded";
        hidden.map(|dot| self.violation(dot, why)).collect()
    }

    fn violation(&self, dot: Dot, why: &str) -> Violation {
        let Self { key, of, seen } = self;
        let write = of.by_dot.get(&dot).map(|&at| &of.writes[at]);
        let named = write.map_or_else(|| Name(dot).to_string(), ToString::to_string);
        let text = format!("{} has {key} at {}: {named} {why}", seen.source, Covers(seen.version));
        let mut operations = seen.source.operations();
        operations.extend(write.map(|write| write.operation.id));
        operations.dedup();
        Violation { invariant: "I6", text, operations }
    }
}

/// A write that left others beside it shows none of them, and hands out no context.
fn check_count(key: Key<'_>, write: &Written<'_>, receipt: &Receipt) -> Option<Violation> {
    let own = u32::from(write.value.is_some());
    if receipt.context.is_none() || receipt.siblings <= own {
        return None;
    }
    let text = format!(
        "{write} of {key} left {} siblings, and came with a context all the same",
        receipt.siblings
    );
    Some(Violation { invariant: "I6", text, operations: vec![write.operation.id] })
}

fn check_last(key: Key<'_>, of: &OfKey<'_>, found: &mut Vec<Violation>) {
    for read in of.reads.iter().filter(|read| read.shown.values.len() > 1) {
        let source = Source::Answer(read.operation);
        let text = format!("{source} shows {:?} in {key}: more than one", read.shown.values);
        let operations = vec![read.operation.id];
        found.push(Violation { invariant: "I6", text, operations });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, assert_accepts, assert_finds, version};
    use super::*;

    /// Two siblings, and a write that had seen the first.
    fn story() -> Story {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.put("k", "y", "", "b1");
        story.put("k", "z", "a1", "a2");
        story
    }

    #[test]
    fn what_a_context_covers_is_shown_or_superseded() {
        let mut story = story();
        story.read("k", "z y", Some("a2 b1"));
        story.read("k", "x y", Some("a1 b1"));
        // Before z was acknowledged.
        let x_y = story.operation_at(4).operation();
        (x_y.invoked, x_y.invoked_ms) = (0, 0);
        assert_accepts(&story);
        story.read("k", "z", Some("a2 b1"));
        assert_finds(check, &story, "\"y\" 2:1");
    }

    #[test]
    fn what_is_superseded_is_not_shown() {
        let mut story = story();
        story.read("k", "x y z", Some("a2 b1"));
        assert_finds(check, &story, "is shown beside what had seen it");
    }

    #[test]
    fn what_is_shown_is_covered() {
        let mut story = story();
        story.read("k", "z y", Some("a2"));
        assert_finds(check, &story, "not covered");
    }

    #[test]
    fn what_an_unknown_write_may_have_removed_need_not_show() {
        let mut story = story();
        let mut late = story.clone();
        story.unknown("k", None, "b1");
        story.read("k", "z", Some("a2 b1 c1"));
        assert_accepts(&story);
        late.read("k", "z", Some("a2 b1 c1"));
        late.unknown("k", None, "b1");
        assert_finds(check, &late, "\"y\" 2:1");
    }

    #[test]
    fn a_receipts_context_covers_its_own_write_alone() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1").receipt().context = Some(version("a1"));
        let mut replaced = story.clone();
        replaced.put("k", "y", "a1", "b1").receipt().context = Some(version("a1 b1"));
        // Asked for again when it was gone, and nothing was left.
        let mut again = replaced.clone();
        again.delete("k", "a1 b1", "c1");
        let receipt = again.operation_at(1).receipt();
        (receipt.context, receipt.siblings) = (Some(version("a1 b1 c1")), 0);
        let returned = again.operation_at(2).operation().returned;
        again.operation_at(1).operation().returned = returned.map(|at| at + 1);
        assert_accepts(&replaced);
        assert_accepts(&again);
        story.put("k", "y", "", "b1").receipt().context = Some(version("a1 b1"));
        assert_finds(check, &story, "\"x\" 1:1");
    }

    #[test]
    fn a_write_beside_others_has_no_context() {
        let mut story = story();
        story.put("k", "u", "", "a3").receipt().siblings = 3;
        story.delete("k", "a3", "a4").receipt().siblings = 1;
        assert_accepts(&story);
        let mut put = story.clone();
        put.operation_at(3).receipt().context = Some(version("a3"));
        assert_finds(check, &put, "left 3 siblings");
        story.operation_at(4).receipt().context = Some(version("a4"));
        assert_finds(check, &story, "left 1 siblings");
    }

    #[test]
    fn objects_are_held_to_it_too() {
        let mut story = story();
        story.holds(1, "k", "a2 b1", "a2=z b1=y");
        story.holds(2, "k", "a1 b1", "a1=x b1=y");
        let found = check(&Index::new(&story.history));
        assert!(found.is_empty(), "{found:?}");
        story.holds(3, "k", "a2 b1", "a1=x a2=z b1=y");
        assert_finds(check, &story, "node 3 at");
        story.history.snapshots.pop();
        story.holds(3, "k", "a2 b1", "a2=z");
        assert_finds(check, &story, "\"y\" 2:1");
    }

    #[test]
    fn one_value_shows_where_the_last_write_wins() {
        let mut story = Story::lww();
        story.put("k", "x", "", "a1");
        story.put("k", "y", "", "b1");
        let mut one = story.clone();
        one.read("k", "y", Some("a1 b1"));
        assert_accepts(&one);
        story.read("k", "x y", Some("a1 b1"));
        assert_finds(check, &story, "more than one");
    }
}
