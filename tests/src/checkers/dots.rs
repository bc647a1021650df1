//! I4: a dot names one write, and a write has one dot, unless it was tried at another node, at least
//! once.
//!
//! Dots are said by receipts, by values under them, and by last writes. That an actor never counts
//! backwards is seen in one more way: what reflects a write numbered 7 reflects all that the actor
//! wrote to the key up to 7, so no write that begins afterwards may get one of these numbers. That
//! finds a name given out twice even if nobody was told what it named first.

use std::collections::BTreeMap;
use std::fmt;

use super::Violation;
use super::index::{Index, Key, Name, OfKey, Source, Written};
use crate::history::{Dot, History, Moment};

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut named = Named::default();
    for (key, of) in &index.keys {
        named.add(index, *key, of);
        check_order(index.history, *key, of, &mut found);
    }
    found.extend(named.violations);
    found
}

/// What a dot names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content<'a> {
    /// A write that a client knows of.
    Of(u64),
    /// A value that nobody wrote.
    Value(&'a str),
    /// Some delete.
    Delete,
}

/// Who said what a dot names.
#[derive(Clone, Copy, Debug)]
struct Said<'a> {
    key: Key<'a>,
    content: Content<'a>,
    source: Source<'a>,
    /// Whether it is a delete.
    deletes: bool,
    /// Whether the write may have other dots.
    copies: bool,
    /// The time of a last write.
    time: Option<u64>,
}

/// All dots so far.
#[derive(Default, Debug)]
struct Named<'a> {
    said: BTreeMap<Dot, Said<'a>>,
    dots: BTreeMap<u64, Dot>,
    violations: Vec<Violation>,
}

impl<'a> Named<'a> {
    fn add(&mut self, index: &Index<'a>, key: Key<'a>, of: &OfKey<'a>) {
        for (write, receipt) in of.acknowledged() {
            let source = Source::Answer(write.operation);
            let (content, deletes) = (Content::Of(write.operation.id), write.value.is_none());
            let copies = write.copies;
            self.say(receipt.dot, Said { key, content, source, deletes, copies, time: None });
        }
        for (&at, held) in &of.held {
            let source = Source::Object(&index.history.snapshots[at]);
            let time = |dot| held.last.and_then(|(time, last)| (last == dot).then_some(time));
            for (dot, value) in &held.values {
                let write = index.values.get(&**value);
                let content = write.map_or(Content::Value(value), |write| Content::Of(write.id));
                let copies = of.of_value(value).is_some_and(|write| write.copies);
                let (deletes, time) = (false, time(*dot));
                let said = Said { key, content, source, deletes, copies, time };
                self.say(*dot, said);
            }
            if let Some((time, dot)) = held.last.filter(|_| held.values.is_empty()) {
                let (content, time) = (Content::Delete, Some(time));
                let (deletes, copies) = (true, false);
                self.say(dot, Said { key, content, source, deletes, copies, time });
            }
        }
    }

    fn say(&mut self, dot: Dot, said: Said<'a>) {
        if let Content::Of(id) = said.content {
            let known = *self.dots.entry(id).or_insert(dot);
            if known != dot && !said.copies {
                let (name, other) = (Name(dot), Name(known));
                let text = format!("{said} is named {name} by {}, and {other} too", said.source);
                self.violations.push(violation(text, &[said]));
            }
        }
        let Some(known) = self.said.get_mut(&dot) else {
            self.said.insert(dot, said);
            return;
        };
        if !known.agrees(&said) {
            let text = format!(
                "{} names {known}, by {}, and {said}, by {}",
                Name(dot),
                known.source,
                said.source
            );
            self.violations.push(violation(text, &[*known, said]));
        }
        // Whoever knows more is asked next.
        known.time = known.time.or(said.time);
        if known.content == Content::Delete {
            known.content = said.content;
        }
    }
}

impl Said<'_> {
    fn agrees(&self, other: &Self) -> bool {
        let either_deletes = [self, other].iter().any(|said| said.content == Content::Delete);
        let same =
            self.content == other.content || (either_deletes && self.deletes && other.deletes);
        let times = self.time.zip(other.time).is_none_or(|(time, other)| time == other);
        self.key == other.key && same && times
    }
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.content {
            Content::Of(id) => write!(f, "write {id}")?,
            Content::Value(value) => write!(f, "{value:?}")?,
            Content::Delete => f.write_str("a delete")?,
        }
        write!(f, " of {}", self.key)?;
        self.time.map_or(Ok(()), |time| write!(f, " (time {time})"))
    }
}

fn violation(text: String, said: &[Said<'_>]) -> Violation {
    let ids = said.iter().filter_map(|said| match said.content {
        Content::Of(id) => Some(id),
        Content::Value(_) | Content::Delete => None,
    });
    Violation { invariant: "I4", text, operations: ids.collect() }
}

/// No version covers a write that began later.
fn check_order(history: &History, key: Key<'_>, of: &OfKey<'_>, found: &mut Vec<Violation>) {
    // The write that began last, of those of an actor up to each number.
    let mut latest: BTreeMap<u64, Vec<(u64, &Written<'_>)>> = BTreeMap::new();
    for (dot, &at) in &of.by_dot {
        let of_actor = latest.entry(dot.actor).or_default();
        let write = &of.writes[at];
        let before = of_actor.last().map(|(_, latest)| *latest);
        let before = before.filter(|latest| latest.operation.invoked > write.operation.invoked);
        of_actor.push((dot.n, before.unwrap_or(write)));
    }
    for (version, moment, source) in of.versions(history) {
        for (actor, &n) in version {
            let Some(of_actor) = latest.get(actor) else { continue };
            let covered = of_actor.partition_point(|(known, _)| *known <= n);
            let Some((_, write)) = of_actor[..covered].last() else { continue };
            if is_later(write, moment) {
                let actor = *actor;
                let text = format!(
                    "{write} of {key} was named again: {source} covered {} before it began",
                    Name(Dot { actor, n }),
                );
                let mut operations = source.operations();
                operations.push(write.operation.id);
                found.push(Violation { invariant: "I4", text, operations });
            }
        }
    }
    for write in of.writes.iter().filter(|write| write.dot.is_some_and(|dot| write.knew(dot))) {
        let text = format!("{write} of {key} was named again: its own context covers its dot");
        found.push(Violation { invariant: "I4", text, operations: vec![write.operation.id] });
    }
}

fn is_later(write: &Written<'_>, moment: Moment) -> bool {
    write.operation.invoked > moment
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, assert_accepts, assert_finds};
    use super::*;

    #[test]
    fn two_writes_have_two_dots() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.put("k", "y", "", "a2");
        story.put("l", "z", "", "a3");
        story.settle("k", "a2", "a1=x a2=y").and_holds("l", "a3", "a3=z");
        assert_accepts(&story);
        let mut same_key = story.clone();
        same_key.history.operations.truncate(2);
        same_key.history.snapshots.clear();
        same_key.operation_at(1).receipt().dot.n = 1;
        assert_finds(check, &same_key, "1:1 names write 1");
        story.history.snapshots.clear();
        story.operation_at(2).receipt().dot.n = 2;
        assert_finds(check, &story, "write 3 of things/l");
    }

    #[test]
    fn a_write_has_one_dot() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.holds(3, "k", "a1", "a1=x");
        assert_accepts(&story);
        story.holds(3, "k", "a1 b1", "b1=x");
        assert_finds(check, &story, "write 1 of things/k is named 2:1");
    }

    #[test]
    fn a_dot_has_one_value_at_all_nodes() {
        let mut story = Story::siblings();
        story.unknown("k", Some("x"), "");
        story.unknown("k", Some("y"), "");
        story.holds(1, "k", "a1", "a1=x");
        let mut same = story.clone();
        same.holds(2, "k", "a1", "a1=x");
        assert_accepts(&same);
        story.holds(2, "k", "a1", "a1=y");
        assert_finds(check, &story, "names write 1");
    }

    #[test]
    fn a_last_write_is_a_value_or_a_delete_and_has_one_time() {
        let mut story = Story::lww();
        story.put("k", "x", "", "a1");
        story.delete("k", "a1", "a2");
        story.holds(3, "k", "a1", "a1=x").last(7, "a1");
        story.holds(3, "k", "a2", "").last(9, "a2");
        assert_accepts(&story);
        let mut deleted = story.clone();
        deleted.holds(3, "k", "a1", "").last(7, "a1");
        assert_finds(check, &deleted, "a delete of last/k");
        story.holds(3, "k", "a2", "").last(8, "a2");
        assert_finds(check, &story, "time 9");
    }

    #[test]
    fn a_number_is_not_given_out_again_after_it_was_seen() {
        let mut story = Story::siblings();
        story.unknown("k", None, "");
        story.read("k", "", Some("a1"));
        let mut other = story.clone();
        other.put("k", "x", "", "a2");
        assert_accepts(&other);
        story.put("k", "x", "", "a1");
        assert_finds(check, &story, "named again");
    }
}
