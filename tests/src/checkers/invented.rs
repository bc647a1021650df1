//! I2: a value that shows was written to that key, and its write was not refused.

use super::Violation;
use super::index::{Index, Key, Name, OfKey, Source, Written};
use crate::history::{Held, Moment, Operation, Outcome};

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (key, of) in &index.keys {
        for read in &of.reads {
            let source = Source::Answer(read.operation);
            let values = read.shown.values.iter();
            found.extend(
                values.filter_map(|value| judge(index, *key, value, source, read.returned)),
            );
        }
        for (&at, held) in &of.held {
            let snapshot = &index.history.snapshots[at];
            let source = Source::Object(snapshot);
            let values = held.values.iter();
            let judged =
                values.filter_map(|(_, value)| judge(index, *key, value, source, snapshot.at));
            found.extend(judged);
            found.extend(deleted_by_nobody(*key, of, held, source));
        }
    }
    found
}

/// What is wrong with a value that was seen at that moment.
fn judge(
    index: &Index<'_>,
    key: Key<'_>,
    value: &str,
    source: Source<'_>,
    moment: Moment,
) -> Option<Violation> {
    let write: Option<&Operation> = index.values.get(value).copied();
    let why = match write {
        None => "which nobody wrote".to_owned(),
        Some(write) if (&*write.namespace, &*write.key) != (key.namespace, key.key) => {
            format!("which was written to {}/{}", write.namespace, write.key)
        }
        Some(Operation { outcome: Outcome::NotApplied(refusal), id, .. }) => {
            format!("which was not applied: write {id} was refused ({refusal})")
        }
        Some(write) if write.invoked >= moment => {
            format!("which write {} wrote later, at {}", write.id, write.invoked)
        }
        Some(_) => return None,
    };
    let text = format!("{source} shows {value:?} in {key}, {why}");
    let mut operations = source.operations();
    operations.extend(write.map(|write| write.id));
    Some(Violation { invariant: "I2", text, operations })
}

/// A last write that deleted must be somebody's too: a delete whose dot is known or may be this, which is so
/// too of each copy but the last of one that was run several times.
fn deleted_by_nobody(
    key: Key<'_>,
    of: &OfKey<'_>,
    held: &Held,
    source: Source<'_>,
) -> Option<Violation> {
    let (_, dot) = held.last.filter(|_| held.values.is_empty())?;
    let has_others = |write: &Written<'_>| write.dot.is_none() || write.copies;
    let unknown = || of.writes.iter().any(|write| write.value.is_none() && has_others(write));
    // If the dot is a value's, `dots` objects.
    if of.by_dot.contains_key(&dot) || unknown() {
        return None;
    }
    let text = format!("{source}: {key} was deleted last by {}, which nobody did", Name(dot));
    Some(Violation { invariant: "I2", text, operations: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, assert_accepts, assert_finds};
    use super::*;
    use crate::history::Action;

    #[test]
    fn what_shows_was_written_there() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.put("l", "y", "", "a2");
        story.unknown("k", Some("z"), "");
        story.read("k", "x z", None);
        assert_accepts(&story);
        for (shown, text) in [("x nobody", "which nobody wrote"), ("x y", "written to things/l")] {
            let mut story = story.clone();
            story.read("k", shown, Some("a1"));
            assert_finds(check, &story, text);
        }
    }

    #[test]
    fn what_was_refused_never_shows() {
        let mut story = Story::siblings();
        story.refused("k", Some("x"), "");
        let mut unknown = Story::siblings();
        unknown.unknown("k", Some("x"), "");
        for story in [&mut story, &mut unknown] {
            story.read("k", "x", None);
            story.holds(2, "k", "a1", "a1=x");
        }
        assert_accepts(&unknown);
        assert_finds(check, &story, "node 2 at");
        story.history.snapshots.clear();
        assert_finds(check, &story, "was refused");
    }

    #[test]
    fn nothing_shows_before_it_was_written() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.read("k", "x", Some("a1"));
        let (write, read) = (0, 1);
        let operations = &mut story.history.operations;
        operations[read].invoked = operations[write].invoked;
        operations[read].returned = operations[write].returned;
        assert_accepts(&story);
        let operations = &mut story.history.operations;
        operations[read].invoked = 0;
        operations[read].returned = Some(1);
        operations[write].invoked = 2;
        assert_finds(check, &story, "wrote later");
    }

    #[test]
    fn a_delete_that_stands_is_somebodys() {
        let mut story = Story::lww();
        story.put("k", "x", "", "a1");
        let mut deleted = story.clone();
        deleted.unknown("k", None, "");
        deleted.holds(1, "k", "a1 b1", "").last(8, "b1");
        assert_accepts(&deleted);
        story.holds(1, "k", "a1 b1", "").last(8, "b1");
        assert_finds(check, &story, "which nobody did");
        // The same, if a delete that is known by another dot may have been done twice.
        story.delete("k", "", "c1");
        assert_finds(check, &story, "which nobody did");
        let delete = story.history.operations.last_mut().unwrap();
        let Action::Write { copies, .. } = &mut delete.action else { unreachable!() };
        *copies = true;
        assert_accepts(&story);
    }
}
