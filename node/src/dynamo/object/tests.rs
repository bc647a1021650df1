//! Laws of objects, against plain sets of dots; and the interleavings that each rule is there for.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::testing::{entry, histories};
use super::*;
use crate::dynamo::clock::Actor;
use crate::dynamo::context::Context;

fn live(object: &Object) -> BTreeSet<Dot> {
    object.entries().iter().map(|(dot, _)| *dot).collect()
}

fn merged(x: &Object, y: &Object) -> Object {
    let mut object = x.clone();
    let changed = object.merge(y);
    assert_eq!(changed, object != *x, "merge tells whether it changed anything");
    object
}

fn dot(actor: u64, n: u64) -> Dot {
    Dot { actor: Actor(actor), n }
}

fn vector(dots: &[Dot]) -> VersionVector {
    dots.iter().copied().collect()
}

/// An object made by blind writes.
fn object(dots: &[Dot]) -> Object {
    let mut object = Object::default();
    dots.iter().for_each(|&d| object.write(d, &VersionVector::new(), entry(d)));
    object
}

proptest! {
    #[test]
    fn objects_agree_with_plain_sets_of_dots(history in histories()) {
        for (object, twin) in history.replicas.iter().zip(&history.twins) {
            prop_assert_eq!(&live(object), &twin.live);
            prop_assert_eq!(object.version(), &twin.seen.iter().copied().collect());
        }
    }

    #[test]
    fn merge_is_commutative_associative_and_idempotent(history in histories()) {
        let [x, y, z] = <[Object; 3]>::try_from(history.replicas).unwrap();
        prop_assert_eq!(merged(&x, &y), merged(&y, &x));
        prop_assert_eq!(merged(&merged(&x, &y), &z), merged(&x, &merged(&y, &z)));
        prop_assert_eq!(merged(&x, &x), x.clone());
        prop_assert_eq!(merged(&merged(&x, &y), &y), merged(&x, &y));
    }

    #[test]
    fn a_context_covers_exactly_what_was_read(history in histories()) {
        for (version, twin) in &history.reads {
            for (written, _) in &history.writes {
                prop_assert_eq!(version.covers(*written), twin.seen.contains(written));
            }
        }
    }

    /// Siblings are writes of which none had seen another: never more than the true concurrency.
    #[test]
    fn siblings_are_truly_concurrent(history in histories()) {
        let all = history.replicas.iter().fold(Object::default(), |all, o| merged(&all, o));
        let seen_by = |d: Dot| &history.writes.iter().find(|(w, _)| *w == d).unwrap().1;
        for x in live(&all) {
            for y in live(&all) {
                prop_assert!(!seen_by(x).contains(&y), "{} had seen {}", x, y);
            }
        }
    }

    #[test]
    fn digests_tell_objects_apart(history in histories()) {
        let (cluster, key) = (ClusterKey([1; 32]), Key::new("k").unwrap());
        let digest = |o: &Object| o.digest(&cluster, NamespaceId(1), &key);
        for x in &history.replicas {
            for y in &history.replicas {
                prop_assert_eq!(digest(x) == digest(y), x == y);
            }
            let silent = x.is_empty();
            prop_assert_eq!(x.values_hash(&cluster, NamespaceId(1), &key) == 0, silent);
        }
    }
}

/// A fallback hands its hint home, forgets it, and writes the key again. Under the same actor the
/// second dot covers the first at home: the acknowledged value vanishes. Hence a new actor.
#[test]
fn an_actor_that_outlives_its_hint_loses_the_first_value() {
    let (first, second) = (dot(7, 1), dot(7, 2));
    let mut home = object(&[first]);
    home.merge(&object(&[second]));
    assert!(!home.holds(first), "kv679: the same actor covers what it forgot");

    let mut home = object(&[first]);
    home.merge(&object(&[dot(8, 1)]));
    assert!(home.holds(first) && home.holds(dot(8, 1)), "a new actor stands beside it");
}

/// A store that is rolled back and goes on counting gives one dot to two values.
#[test]
fn a_rolled_back_actor_gives_one_dot_to_two_values() {
    let (x, mut y) = (object(&[dot(7, 1)]), Object::default());
    let mut other = entry(dot(7, 1));
    other.payload = Bytes::from_static(b"another value");
    y.write(dot(7, 1), &VersionVector::new(), other);
    assert_ne!(merged(&x, &y), merged(&y, &x), "hence an actor ends with its opening");
}

/// One key's dots have gaps, over which contiguous ranges per actor bring deleted values back.
#[test]
fn dots_have_gaps_and_deleted_values_stay_deleted() {
    let (old, new) = (dot(1, 3), dot(1, 9));
    let mut replica = object(&[old]);
    replica.write(new, &vector(&[old]), entry(new));
    let stale = object(&[old]);
    replica.merge(&stale);
    assert_eq!(live(&replica), [new].into());
    assert_eq!(merged(&stale, &replica), replica);
}

/// Two blind writers: a token for the second one's write may not cover the first one's value.
#[test]
fn a_write_beside_siblings_answers_no_token() {
    let both = object(&[dot(1, 1), dot(2, 1)]);
    let operation = entry(dot(2, 1)).operation;
    assert_eq!(Context::of_write(&both, &operation, 0), None);
    assert_eq!(Context::of_read(&both).version, vector(&[dot(1, 1), dot(2, 1)]));

    let own = object(&[dot(2, 1)]);
    assert!(Context::of_write(&own, &operation, 0).is_some());
    let others = entry(dot(1, 1)).operation;
    assert_eq!(
        Context::of_write(&own, &others, 0),
        None,
        "a late answer may not cover a successor"
    );
}

/// A delete that covers one of two siblings leaves the other, also after merging with a replica
/// that missed the delete; and a late copy of what it covered does not come back.
#[test]
fn a_delete_removes_exactly_what_it_saw() {
    let (seen, unseen, gone) = (dot(1, 1), dot(2, 1), dot(3, 1));
    let mut replica = object(&[seen, unseen]);
    replica.delete(gone, &vector(&[seen]));
    assert_eq!(live(&replica), [unseen].into());
    replica.merge(&object(&[seen]));
    assert_eq!(live(&replica), [unseen].into());

    let mut tombstone = object(&[seen]);
    tombstone.delete(gone, &vector(&[seen]));
    assert!(tombstone.is_empty() && !tombstone.is_absent());
    tombstone.merge(&object(&[seen]));
    assert!(tombstone.is_empty(), "no resurrection");
}

/// V speaks of whole objects: a single entry sent with the whole V would delete its siblings.
#[test]
fn an_entry_without_its_siblings_may_not_carry_their_version() {
    let (x, y) = (dot(1, 1), dot(2, 1));
    let whole = object(&[x, y]);
    let part = Object::from_parts(vec![(x, entry(x))], whole.version().clone()).unwrap();
    assert!(!merged(&whole, &part).holds(y), "hence replication sends whole objects");
}

#[test]
fn copies_of_one_operation_are_shown_as_one() {
    let (x, y) = (dot(1, 1), dot(2, 1));
    let mut object = object(&[x]);
    object.write(y, &VersionVector::new(), Entry { origin: y, ..entry(x) });
    assert_eq!((object.entries().len(), object.siblings().len()), (2, 1));

    let payload = Bytes::from_static(b"different");
    object.write(
        dot(3, 1),
        &VersionVector::new(),
        Entry { payload, origin: dot(3, 1), ..entry(x) },
    );
    assert_eq!(object.siblings().len(), 2, "an id used for two values hides neither");
}

/// The value of a dot, until then, as it was first written under `origin`.
fn until(dot: Dot, origin: Dot, deadline_ms: Option<u64>) -> Entry {
    let payload = entry(origin).payload;
    Entry { payload, deadline_ms, origin, ..entry(dot) }
}

/// What was purged has left no value, and is all the same not absent.
#[test]
fn a_purged_value_comes_back_from_nobody() {
    let (x, y) = (dot(1, 1), dot(2, 1));
    let mut live = Object::default();
    live.write(x, &VersionVector::new(), until(x, x, Some(5)));
    let mut purged = live.clone();
    assert_eq!(purged.purge(4), 0);
    assert_eq!(purged.purge(5), 1);
    assert_eq!(purged.version(), live.version(), "it still reflects the write");
    assert_eq!((merged(&live, &purged), merged(&purged, &live)), (purged.clone(), purged.clone()));

    let mut ahead = live;
    ahead.write(y, &VersionVector::new(), entry(y));
    assert!(merged(&purged, &ahead).holds(y));
    assert!(!merged(&purged, &ahead).holds(x), "from one that has seen more, neither");
}

#[test]
fn what_has_expired_is_hidden_and_held() {
    let (x, y) = (dot(1, 1), dot(2, 1));
    let mut object = object(&[y]);
    object.write(x, &VersionVector::new(), until(x, x, Some(5)));
    let shown = |now_ms| object.siblings_at(now_ms).len();
    assert_eq!((shown(4), shown(5), object.siblings().len()), (2, 1, 2));
    assert_eq!(object.one_value(4), OneValue::Several(2));
    assert_eq!(object.one_value(5), OneValue::One(entry(y)));
    assert_eq!(object.deadlines_ms(), [5]);
    let operation = entry(y).operation;
    assert!(Context::of_write(&object, &operation, 4).is_none());
    assert!(Context::of_write(&object, &operation, 5).is_some(), "nothing is left beside it");
}

/// Two nodes let one value expire, or persist, without having heard of each other.
#[test]
fn of_one_value_that_expires_twice_the_later_end_is_shown() {
    let (x, y, z) = (dot(1, 1), dot(2, 1), dot(3, 1));
    let seen = object(&[x]);
    let rewritten = |dot, deadline_ms| {
        let mut object = seen.clone();
        object.write(dot, seen.version(), until(dot, x, deadline_ms));
        object
    };
    for (other, later) in [(Some(7), Some(7)), (None, None), (Some(3), Some(5))] {
        let both = merged(&rewritten(y, Some(5)), &rewritten(z, other));
        assert_eq!(both, merged(&rewritten(z, other), &rewritten(y, Some(5))));
        assert_eq!(both.entries().len(), 2, "what is stored is untouched");
        let OneValue::One(shown) = both.one_value(2) else { panic!("{both:?}") };
        assert_eq!((shown.deadline_ms, shown.payload), (later, entry(x).payload));
        let mut purged = both;
        purged.purge(5);
        assert_eq!(purged.is_empty(), later == Some(5), "the later end decides");
    }
}

#[test]
fn parts_must_be_sound() {
    let (x, y) = (dot(1, 1), dot(2, 1));
    let entries = |dots: &[Dot]| dots.iter().map(|&d| (d, entry(d))).collect::<Vec<_>>();
    assert!(Object::from_parts(entries(&[x]), vector(&[y])).is_none());
    assert!(Object::from_parts(entries(&[y, x]), vector(&[x, y])).is_none());
    assert!(Object::from_parts(entries(&[x, x]), vector(&[x])).is_none());
    assert!(Object::from_parts(entries(&[x, y]), vector(&[x, y])).is_some());
}
