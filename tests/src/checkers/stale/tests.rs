use super::super::testing::{Story, assert_accepts, assert_finds, version};
use super::*;
use crate::history::{LossKind, Outcome};

fn two() -> Story {
    let mut story = Story::siblings();
    story.put("k", "x", "", "a1");
    story.put("k", "y", "", "b1");
    story
}

#[test]
fn a_read_shows_all_that_was_acknowledged_before() {
    let mut story = two();
    story.read("k", "y x", Some("a1 b1"));
    assert_accepts(&story);
    story.read("k", "x", Some("a1"));
    assert_finds(check, &story, "misses \"y\" 2:1");
}

#[test]
fn a_read_shows_what_hides_a_write() {
    let mut story = two();
    story.put("k", "z", "a1", "c1");
    let mut shown = story.clone();
    shown.read("k", "y z", Some("a1 b1 c1"));
    assert_accepts(&shown);
    // It covers x, but shows neither x nor z; z need not be known, since it was not acknowledged.
    let mut hidden = two();
    hidden.unknown("k", Some("z"), "a1");
    hidden.holds(3, "k", "a1 c1", "c1=z");
    hidden.read("k", "y", Some("a1 b1"));
    assert_finds(check, &hidden, "misses \"x\" 1:1");
}

#[test]
fn a_read_that_began_before_the_ack_may_miss_it() {
    let mut story = two();
    let acked = story.history.operations[1].returned.unwrap();
    story.read("k", "x", Some("a1")).operation().invoked = acked - 1;
    assert_accepts(&story);
    story.operation_at(2).operation().invoked = acked + 1;
    assert_finds(check, &story, "misses \"y\"");
}

#[test]
fn quorums_that_do_not_meet_promise_nothing() {
    let mut story = two();
    story.read("k", "x", Some("a1")).reads_from(1);
    assert_accepts(&story);
    story.read("k", "x", Some("a1")).reads_from(2);
    assert_finds(check, &story, "misses");
}

#[test]
fn deletes_are_seen_too() {
    let mut story = two();
    story.delete("k", "a1", "a2");
    let mut seen = story.clone();
    seen.read("k", "y", Some("a2 b1"));
    assert_accepts(&seen);
    story.read("k", "y x", Some("a1 b1"));
    assert_finds(check, &story, "a delete 1:2");
}

#[test]
fn what_a_scan_does_not_list_was_deleted() {
    let mut story = two();
    story.put("k", "z", "a1 b1", "a2");
    let mut deleted = story.clone();
    deleted.unknown("k", None, "a2 b1");
    deleted.read("k", "", None);
    assert_accepts(&deleted);
    // x and y were replaced, and z nobody deleted.
    story.read("k", "", None);
    assert_finds(check, &story, "\"z\" 1:2");
    let mut early = story.clone();
    early.unknown("k", None, "a2 b1");
    assert_finds(check, &early, "\"z\" 1:2");
}

#[test]
fn losses_that_their_owner_may_not_know_of_excuse_reads() {
    for kind in [LossKind::RolledBack(0), LossKind::Doubled] {
        let mut story = two();
        story.loses(1, kind);
        story.read("k", "x", Some("a1"));
        assert_accepts(&story);
    }
}

#[test]
fn power_cuts_and_lost_stores_excuse_what_nobody_has_and_no_more() {
    for kind in [LossKind::PowerCut(0), LossKind::Wiped] {
        let mut story = two();
        story.loses(1, kind.clone());
        let mut once = story.clone();
        once.read("k", "x", Some("a1"));
        assert_finds(check, &once, "misses \"y\"");
        story.loses(2, kind);
        story.read("k", "x", Some("a1"));
        assert_accepts(&story);
    }
}

#[test]
fn damaged_records_excuse_what_nobody_has() {
    let mut story = two();
    let (namespace, key) = ("things".to_owned(), "k".to_owned());
    let rotten = LossKind::Rotten { namespace, key };
    story.loses(1, rotten.clone());
    let mut once = story.clone();
    once.read("k", "x", Some("a1"));
    assert_finds(check, &once, "misses \"y\"");
    story.loses(2, rotten);
    story.read("k", "x", Some("a1"));
    assert_accepts(&story);
}

#[test]
fn the_last_write_shows_or_what_may_hide_it() {
    let mut story = Story::lww();
    story.put("k", "x", "", "a1");
    story.passes_ms(500);
    story.put("k", "y", "", "b1");
    let mut either = story.clone();
    either.read("k", "x", Some("a1 b1"));
    either.read("k", "y", Some("a1 b1"));
    assert_accepts(&either);
    let mut uncovered = story.clone();
    uncovered.read("k", "x", Some("a1"));
    assert_finds(check, &uncovered, "misses \"y\" 2:1");
    story.passes_ms(601);
    story.put("k", "z", "", "c1");
    story.read("k", "x", Some("a1 b1 c1"));
    assert_finds(check, &story, "misses \"z\" 3:1");
}

#[test]
fn the_last_write_does_not_stand_over_what_had_seen_it() {
    let mut story = Story::lww();
    story.put("k", "x", "", "a1");
    story.delete("k", "a1", "b1");
    let mut seen = story.clone();
    seen.read("k", "", Some("a1 b1"));
    assert_accepts(&seen);
    story.read("k", "x", Some("a1 b1"));
    assert_finds(check, &story, "misses a delete 2:1");
}

#[test]
fn where_nothing_shows_a_delete_was_last() {
    let mut story = Story::lww();
    story.put("k", "x", "", "a1");
    let mut deleted = story.clone();
    deleted.unknown("k", None, "");
    deleted.read("k", "", Some("a1 b1"));
    deleted.read("k", "", None);
    assert_accepts(&deleted);
    let mut none = story.clone();
    none.read("k", "", Some("a1"));
    assert_finds(check, &none, "misses \"x\"");
    // A delete of long ago hides nothing.
    let mut old = Story::lww();
    old.delete("k", "", "b1");
    old.passes_ms(1_200);
    old.put("k", "x", "", "a1");
    old.read("k", "", Some("a1 b1"));
    assert_finds(check, &old, "misses \"x\"");
}

#[test]
fn a_delete_that_comes_later_or_is_not_covered_was_not_last() {
    let mut story = Story::lww();
    story.put("k", "x", "", "a1");
    let mut later = story.clone();
    later.read("k", "", Some("a1"));
    later.unknown("k", None, "");
    assert_finds(check, &later, "misses \"x\"");
    // It was under way during the read, which may or may not have met it.
    story.read("k", "", Some("a1 b1"));
    let read = story.operation_at(1).operation().invoked;
    story.delete("k", "", "b1").operation().invoked = read;
    assert_accepts(&story);
    let Outcome::Shown(shown) = &mut story.operation_at(1).operation().outcome else {
        panic!("a read shows")
    };
    shown.context = Some(version("a1"));
    assert_finds(check, &story, "misses \"x\"");
}
