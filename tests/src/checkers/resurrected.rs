//! I3: what a delete had seen does not come back, in reads or in the end.
//!
//! A read is held to it if its quorum meets the delete's, and if the delete was acknowledged before
//! it began; the final state always. What a delete had not seen may show: it was written beside it.

use super::Violation;
use super::causality::Covering;
use super::index::{Answered, Index, Key, OfKey, Source, Written};
use super::losses::reads_are_believed_until;
use super::settled::Settled;
use crate::history::{Dot, Moment};

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let mut found = Vec::new();
    let until = reads_are_believed_until(index.history);
    for (key, of) in &index.keys {
        check_reads(*key, of, until, &mut found);
        if let Some(moment) = index.settled_from() {
            check_end(*key, of, &Settled::new(index, of), moment, &mut found);
        }
    }
    found
}

fn check_reads(key: Key<'_>, of: &OfKey<'_>, until: Moment, found: &mut Vec<Violation>) {
    let deletes = of.writes.iter().enumerate().filter(|(_, write)| write.value.is_none());
    let acked = deletes.filter_map(|(at, write)| {
        write.receipt?;
        Some((write.context, write.operation.returned?, at))
    });
    let covering = Covering::new(acked);
    let dot_of = |value: &str| {
        // One that was applied more than once may show under a dot that the delete had not seen.
        let write = of.of_value(value).filter(|write| !write.copies)?;
        Some((write, write.dot?))
    };
    for read in of.reads.iter().filter(|read| read.returned <= until) {
        for (write, dot) in read.shown.values.iter().filter_map(|value| dot_of(value)) {
            // Mostly there is no delete at all that had seen it, and no need to look closer.
            if covering.first(dot).is_none_or(|(acked, _)| acked >= read.operation.invoked) {
                continue;
            }
            let delete = of.writes.iter().find(|delete| hides(delete, dot, read, of.n));
            found.extend(delete.map(|delete| {
                let source = Source::Answer(read.operation);
                violation(format!("{source} shows {write} of {key}"), delete, write, Some(read))
            }));
        }
    }
}

/// Whether a delete binds that read not to show the value of `dot`.
fn hides(delete: &Written<'_>, dot: Dot, read: &Answered<'_>, n: usize) -> bool {
    delete.value.is_none()
        && delete.knew(dot)
        && read.meets(delete, n)
        && delete.is_acknowledged_before(read.operation.invoked)
        && !delete.is_lost_before(read.returned)
}

fn check_end(
    key: Key<'_>,
    of: &OfKey<'_>,
    settled: &Settled<'_>,
    moment: Moment,
    found: &mut Vec<Violation>,
) {
    let due = |write: &&Written<'_>| {
        write.value.is_none() && write.is_acknowledged_before(moment) && write.lost_from.is_none()
    };
    for (dot, value) in &settled.values {
        let delete = of.writes.iter().filter(due).find(|delete| delete.knew(*dot));
        let Some((delete, write)) = delete.zip(of.of_value(value)) else { continue };
        found.push(violation(format!("in the end {key} has {write}"), delete, write, None));
    }
}

fn violation(
    what: String,
    delete: &Written<'_>,
    write: &Written<'_>,
    read: Option<&Answered<'_>>,
) -> Violation {
    let text = format!("{what}, which {delete} had seen");
    let mut operations = vec![write.operation.id, delete.operation.id];
    operations.extend(read.map(|read| read.operation.id));
    Violation { invariant: "I3", text, operations }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, assert_accepts, assert_finds};
    use super::*;
    use crate::history::LossKind;

    fn deleted() -> Story {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.delete("k", "a1", "b1");
        story
    }

    #[test]
    fn a_read_shows_only_what_the_delete_had_not_seen() {
        let mut story = deleted();
        let mut beside = story.clone();
        beside.put("k", "y", "", "a2");
        beside.read("k", "y", Some("a2 b1"));
        assert_accepts(&beside);
        story.read("k", "x", Some("a1"));
        assert_finds(check, &story, "shows \"x\" 1:1");
    }

    #[test]
    fn a_read_that_began_before_the_ack_may_show_it() {
        let mut story = deleted();
        story.read("k", "x", Some("a1"));
        let acked = story.history.operations[1].returned;
        story.history.operations[2].invoked = acked.unwrap() - 1;
        assert_accepts(&story);
        story.history.operations[2].invoked = acked.unwrap() + 1;
        assert_finds(check, &story, "which a delete 2:1");
    }

    #[test]
    fn a_read_of_one_owner_may_show_it() {
        let mut story = deleted();
        story.read("k", "x", Some("a1")).reads_from(1);
        assert_accepts(&story);
    }

    #[test]
    fn reads_after_a_loss_may_show_it_but_the_end_may_not() {
        let mut story = deleted();
        story.loses(1, LossKind::RolledBack(0));
        story.read("k", "x", Some("a1"));
        let mut back = story.clone();
        story.settle("k", "a1 b1", "");
        assert_accepts(&story);
        back.settle("k", "a1", "a1=x");
        assert_finds(check, &back, "in the end things/k has \"x\"");
        let mut excused = deleted();
        (1..=2).for_each(|node| excused.loses(node, LossKind::PowerCut(0)));
        excused.settle("k", "a1", "a1=x");
        assert_accepts(&excused);
    }

    #[test]
    fn what_the_last_delete_had_seen_stays_away_too() {
        let mut story = Story::lww();
        story.put("k", "x", "", "a1");
        story.delete("k", "a1", "b1");
        story.settle("k", "a1 b1", "a1=x").last(7, "a1");
        assert_finds(check, &story, "in the end");
    }
}
