//! Laws of last writes, against a list of all writes; and what each rule is there for.

use proptest::prelude::*;

use super::testing::{Remembered, last_histories, remember};
use super::*;
use crate::dynamo::clock::Actor;
use crate::dynamo::key::{Key, NamespaceId};
use crate::dynamo::metadata::document::ClusterKey;
use crate::dynamo::object::testing::entry;

fn merged(x: &Object, y: &Object) -> Object {
    let mut object = x.clone();
    let changed = object.merge(y);
    assert_eq!(changed, object != *x, "merge tells whether it changed anything");
    object
}

fn stamp(ms: u64, actor: u64, n: u64) -> Stamp {
    Stamp { time: Hlc::from_ms(ms), dot: Dot { actor: Actor(actor), n } }
}

fn value(stamp: Stamp) -> Option<Entry> {
    Some(Entry { time: stamp.time, ..entry(stamp.dot) })
}

fn written(stamp: Stamp, entry: Option<Entry>) -> Object {
    let mut object = Object::default();
    object.write_last(stamp, &VersionVector::new(), entry);
    object
}

/// What a naive replica shows: the value of the greatest stamp it remembers.
fn shown(twin: &[Remembered]) -> Option<&Remembered> {
    twin.iter().max_by_key(|write| write.stamp)
}

proptest! {
    #[test]
    fn objects_agree_with_the_list_of_all_writes(history in last_histories()) {
        for (object, twin) in history.replicas.iter().zip(&history.twins) {
            prop_assert_eq!(object.last(), shown(twin).map(|write| write.stamp));
            let payload = object.entries().first().map(|(_, entry)| entry.payload.clone());
            prop_assert_eq!(payload, shown(twin).and_then(|write| write.value.clone()));
            prop_assert_eq!(object.version(), &twin.iter().map(|write| write.stamp.dot).collect());
            prop_assert!(object.siblings().len() <= 1);
        }
    }

    #[test]
    fn merge_is_commutative_associative_and_idempotent(history in last_histories()) {
        let [x, y, z] = <[Object; 3]>::try_from(history.replicas).unwrap();
        prop_assert_eq!(merged(&x, &y), merged(&y, &x));
        prop_assert_eq!(merged(&merged(&x, &y), &z), merged(&x, &merged(&y, &z)));
        prop_assert_eq!(merged(&x, &x), x.clone());
        prop_assert_eq!(merged(&merged(&x, &y), &y), merged(&x, &y));
    }

    /// Whatever the clocks say: they run apart and backwards in these histories.
    #[test]
    fn a_write_wins_over_all_that_its_client_or_coordinator_had_seen(history in last_histories()) {
        for (stamp, seen) in &history.writes {
            prop_assert!(seen.iter().all(|write| write.stamp < *stamp));
        }
    }

    #[test]
    fn replicas_converge_in_any_order(
        history in last_histories(),
        order in Just((0..3usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let all = order.iter().fold(Object::default(), |all, &at| {
            merged(&all, &history.replicas[at])
        });
        let mut twin = Vec::new();
        history.twins.iter().for_each(|more| remember(&mut twin, more));
        prop_assert_eq!(all.last(), shown(&twin).map(|write| write.stamp));
    }

    #[test]
    fn digests_tell_last_writes_apart(history in last_histories()) {
        let (cluster, key) = (ClusterKey([1; 32]), Key::new("k").unwrap());
        let digest = |o: &Object| o.digest(&cluster, NamespaceId(1), &key);
        for x in &history.replicas {
            for y in &history.replicas {
                prop_assert_eq!(digest(x) == digest(y), x == y);
            }
        }
    }
}

/// A delete is a write like any other: an older value that arrives late does not come back, a later
/// one does, though neither had seen the delete.
#[test]
fn a_delete_hides_what_is_older_and_nothing_else() {
    let (old, delete, new) = (stamp(5, 1, 1), stamp(7, 2, 1), stamp(8, 3, 1));
    let tombstone = merged(&written(delete, None), &written(old, value(old)));
    assert!(tombstone.is_empty() && !tombstone.is_absent());
    assert_eq!(tombstone.time(), delete.time, "the next write exceeds the delete");
    let live = merged(&tombstone, &written(new, value(new)));
    assert!(live.holds(new.dot) && live.entries().len() == 1);
}

/// Writes of one millisecond at two coordinators: the dot decides, the same way everywhere.
#[test]
fn of_equal_times_the_dot_decides() {
    let (x, y) = (stamp(5, 1, 9), stamp(5, 2, 1));
    let both = merged(&written(x, value(x)), &written(y, value(y)));
    assert_eq!(both.last(), Some(y));
}

/// Even with V and values equal, an object says when it was last written and whether it deleted.
#[test]
fn a_digest_covers_time_dot_and_deletion() {
    let (cluster, key) = (ClusterKey([1; 32]), Key::new("k").unwrap());
    let digest = |o: Option<Object>| o.unwrap().digest(&cluster, NamespaceId(1), &key);
    let version =
        || -> VersionVector { [stamp(0, 1, 3).dot, stamp(0, 2, 3).dot].into_iter().collect() };
    let deleted = |stamp| digest(Object::from_last(stamp, None, version()));
    let base = deleted(stamp(5, 1, 3));
    assert_ne!(base, deleted(stamp(6, 1, 3)), "the time");
    assert_ne!(base, deleted(stamp(5, 2, 3)), "the dot");
    let live = Object::from_last(stamp(5, 1, 3), value(stamp(5, 1, 3)), version());
    assert_ne!(base, digest(live), "the deletion");
    assert_ne!(base, digest(Object::from_parts(Vec::new(), version())), "that it is one at all");
}

/// Nothing writes siblings into an `lww` namespace; a merge that meets them is lawful all the same.
#[test]
fn siblings_are_below_any_last_write() {
    let (sibling, last) = (stamp(9, 1, 1).dot, stamp(5, 2, 1));
    let mut siblings = Object::default();
    siblings.write(sibling, &VersionVector::new(), entry(sibling));
    let object = written(last, value(last));
    assert_eq!(merged(&siblings, &object), merged(&object, &siblings));
    assert_eq!(merged(&siblings, &object).last(), Some(last));
}

/// A purged value comes back neither from who has not purged it, nor from who has heard of it only.
#[test]
fn a_purged_value_is_as_if_its_write_had_deleted() {
    let (old, last, next) = (stamp(5, 1, 1), stamp(7, 2, 1), stamp(8, 1, 2));
    let entry = value(last).map(|entry| Entry { deadline_ms: Some(9), ..entry });
    let live = merged(&written(old, value(old)), &written(last, entry));
    let mut purged = live.clone();
    assert_eq!((purged.purge(8), purged.purge(9), purged.purge(9)), (0, 1, 0));
    assert_eq!((purged.last(), purged.version()), (live.last(), live.version()));
    assert!(
        purged.is_empty() && merged(&live, &purged) == purged && merged(&purged, &live) == purged
    );
    let late = merged(&purged, &written(old, value(old)));
    assert_eq!(late, purged, "what it had replaced does not come back either");
    assert!(merged(&purged, &written(next, value(next))).holds(next.dot));
}

#[test]
fn parts_must_go_together() {
    let last = stamp(5, 1, 2);
    let version = |n| -> VersionVector { [stamp(0, 1, n).dot].into_iter().collect() };
    assert!(Object::from_last(last, value(last), version(2)).is_some());
    assert!(Object::from_last(last, value(last), version(1)).is_none(), "V covers the dot");
    assert!(Object::from_last(last, value(stamp(6, 1, 2)), version(2)).is_none(), "one time");
}
