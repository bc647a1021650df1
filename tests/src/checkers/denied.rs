//! *Not found* is no answer to a key that has a value, as long as one node at most fails at a time.
//!
//! Sloppy quorums may have nobody in common, so that a read may miss the last write; but that a key has
//! no value at all is said only by those who know, and of a steady cluster there are always enough who
//! do. So a quorum read that shows nothing is held to be right only if each value that was acknowledged
//! before it may have been deleted by then.

use super::Violation;
use super::causality::Covering;
use super::index::{Answered, Index, Key, OfKey, Source, Written};

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let steady = index.keys.iter().filter(|(_, of)| of.steady);
    steady.flat_map(|(key, of)| check_key(*key, of)).collect()
}

fn check_key(key: Key<'_>, of: &OfKey<'_>) -> Vec<Violation> {
    let deletes = of.writes.iter().enumerate().filter(|(_, write)| write.value.is_none());
    let covering = Covering::new(
        deletes.clone().map(|(at, write)| (write.context, write.operation.invoked, at)),
    );
    let first_delete = deletes.map(|(_, write)| write.operation.invoked).min();
    let may_be_deleted = |write: &Written<'_>, read: &Answered<'_>| match of.lww {
        true => first_delete.is_some_and(|sent| sent < read.returned),
        false => {
            let sent = write.dot.and_then(|dot| covering.first(dot));
            sent.is_some_and(|(sent, _)| sent < read.returned)
        }
    };
    let found = of.reads.iter().filter_map(|read| {
        let meets = |write: &&Written<'_>| read.r + write.w > of.n;
        let of_value = |write: &&Written<'_>| write.value.is_some() && !write.copies;
        let denied = of.writes.iter().filter(of_value).filter(meets).find(|write| {
            write.is_acknowledged_before(read.operation.invoked) && !may_be_deleted(write, read)
        });
        // A scan lists what owners hold, and says of no key that it is not there.
        let denies = read.shown.values.is_empty() && read.shown.context.is_some();
        denied.filter(|_| denies).map(|write| violation(key, read, write))
    });
    found.collect()
}

fn violation(key: Key<'_>, read: &Answered<'_>, write: &Written<'_>) -> Violation {
    let source = Source::Answer(read.operation);
    let text = format!("{source} finds nothing in {key}, and nobody deleted {write}");
    let operations = vec![read.operation.id, write.operation.id];
    Violation { invariant: "not found", text, operations }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, assert_accepts, assert_finds};
    use super::*;

    #[test]
    fn what_was_acknowledged_and_not_deleted_is_found() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1").by_sloppy_quorum();
        story.read("k", "", Some("")).by_sloppy_quorum();
        assert_accepts(&story);
        story.history.namespaces[0].steady = true;
        assert_finds(check, &story, "nobody deleted \"x\" 1:1");
        story.operation_at(1).reads_from(1);
        assert_accepts(&story);
        story.put("k", "y", "a1", "b1").by_sloppy_quorum();
        story.delete("k", "a1 b1", "a2").by_sloppy_quorum();
        story.read("k", "", Some("")).by_sloppy_quorum();
        assert_accepts(&story);
        story.put("k", "z", "", "b2").by_sloppy_quorum();
        story.read("k", "", Some("a2")).by_sloppy_quorum();
        assert_finds(check, &story, "nobody deleted \"z\" 2:2");
    }
}
