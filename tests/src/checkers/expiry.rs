//! I15: nothing that copies a value extends its time to live.
//!
//! The deadline is a part of what a dot names, as the value is: whoever holds the value, at any time, holds it
//! until the same moment. That a value is not purged before its time is no other promise than that it is not
//! lost (I1): the writes of a history that expire do so long after its end.

use std::collections::BTreeMap;

use super::Violation;
use super::index::{Index, Name};
use crate::history::{Dot, Held, Snapshot};

/// Who held a value, until when.
type Holder<'a> = (&'a Snapshot, &'a Held, Option<u64>);

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let (mut first, mut found) = (BTreeMap::<Dot, Holder<'_>>::new(), Vec::new());
    for snapshot in &index.history.snapshots {
        for held in &snapshot.objects {
            for (dot, _) in &held.values {
                let holder = (snapshot, held, deadline_ms(held, *dot));
                let known = *first.entry(*dot).or_insert(holder);
                if known.2 != holder.2 {
                    found.push(violation(*dot, known, holder));
                }
            }
        }
    }
    found
}

fn deadline_ms(held: &Held, dot: Dot) -> Option<u64> {
    held.deadlines_ms.iter().find(|(of, _)| *of == dot).map(|(_, ms)| *ms)
}

fn violation(dot: Dot, known: Holder<'_>, other: Holder<'_>) -> Violation {
    let said = |(snapshot, held, deadline_ms): Holder<'_>| {
        let until = deadline_ms.map_or("for ever".to_owned(), |ms| format!("until {ms}"));
        let Held { namespace, key, .. } = held;
        format!("node {} at {} held it {until} ({namespace}/{key})", snapshot.node, snapshot.at)
    };
    let text = format!("{}: {}, {}", Name(dot), said(known), said(other));
    Violation { invariant: "I15", text, operations: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::{Story, assert_accepts, assert_finds};

    #[test]
    fn a_value_expires_at_one_time_wherever_it_is() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.settle("k", "a1", "a1=x");
        for snapshot in &mut story.history.snapshots {
            let held = &mut snapshot.objects[0];
            held.deadlines_ms = vec![(held.values[0].0, 500)];
        }
        assert_accepts(&story);
        let mut later = story.clone();
        later.history.snapshots[1].objects[0].deadlines_ms[0].1 = 600;
        assert_finds(check, &later, "until 500");
        story.history.snapshots[1].objects[0].deadlines_ms.clear();
        assert_finds(check, &story, "for ever");
    }
}
