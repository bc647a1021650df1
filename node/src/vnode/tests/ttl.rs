//! Values that expire, at one replica.

use super::*;
use crate::dynamo::object::{Entry, OneValue};
use crate::dynamo::ttl::Ttl;

fn after(ms: u64) -> Option<TtlMs> {
    Some(TtlMs::new(ms).unwrap())
}

fn of(conflict: Conflict) -> Address {
    Address { conflict, ..address(1) }
}

fn put_for(conflict: Conflict, sequence: u64, ttl: Option<TtlMs>) -> Write {
    Write { address: of(conflict), ttl, ..put(1, sequence, Context::default()) }
}

/// With what a quorum of owners held.
fn expire(conflict: Conflict, sequence: u64, ttl: Option<TtlMs>, seen: &Object) -> Write {
    let change = Change::Expire(ttl.map_or(Ttl::Never, Ttl::After));
    let seen = Some(Box::new(seen.clone()));
    Write { change, seen, ..put_for(conflict, sequence, ttl) }
}

fn held(store: &mut Store, conflict: Conflict) -> Object {
    store.read_at(&of(conflict)).unwrap()
}

fn only(object: &Object) -> &Entry {
    let [(_, entry)] = object.entries() else { panic!("{object:?}") };
    entry
}

const RULES: [Conflict; 2] = [Conflict::Siblings, Conflict::Lww];

#[test]
fn a_deadline_is_reckoned_once_by_the_clock_of_the_write() {
    for rule in RULES {
        let mut store = Store::new(1);
        let write = || put_for(rule, 1, after(50));
        let written = store.write(write()).unwrap();
        let deadline_ms = Some(store.now_ms + 50);
        assert_eq!(only(&held(&mut store, rule)).deadline_ms, deadline_ms);
        store.now_ms += 20;
        assert_eq!(store.write(write()).unwrap().object, written.object, "a retry changes nothing");

        let mut other = Store::new(2);
        other.now_ms += 1000;
        let merge = Merge::of_hint(of(rule), written.object);
        other.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
        assert_eq!(only(&held(&mut other, rule)).deadline_ms, deadline_ms, "nor does a copy");
    }
}

#[test]
fn an_operation_id_names_a_write_with_its_time_to_live() {
    let mut store = Store::new(1);
    let (siblings, ttl) = (Conflict::Siblings, |ms| Ttl::After(TtlMs::new(ms).unwrap()));
    let with = |ttl| Change::Put { value: "value".into(), ttl };
    let write = |ms| Write { change: with(ttl(ms)), ..put_for(siblings, 1, after(ms)) };
    store.write(write(50)).unwrap();
    assert_eq!(store.write(write(60)).unwrap_err().error.kind(), "invalid");
}

#[test]
fn expire_writes_the_same_value_again_under_a_new_dot() {
    for rule in RULES {
        let (mut store, mut other) = (Store::new(1), Store::new(2));
        let first = other.write(put_for(rule, 1, None)).unwrap();
        let seen = held(&mut other, rule);
        store.now_ms += 5;
        let written = store.write(expire(rule, 2, after(50), &seen)).unwrap();
        let object = held(&mut store, rule);
        assert!(!object.holds(first.dot) && object.version().covers(first.dot));
        let entry = only(&object);
        assert_eq!((&entry.payload, entry.origin), (&only(&seen).payload, first.dot));
        assert_eq!(entry.deadline_ms, Some(store.now_ms + 50));
        assert_eq!((written.siblings, written.context.is_some()), (1, true));
        assert!(store.vnode.frontier().contains(first.dot), "what was seen elsewhere is here now");

        store.now_ms += 49;
        store.write(expire(rule, 3, None, &Object::default())).unwrap();
        let persisted = held(&mut store, rule);
        assert_eq!((only(&persisted).deadline_ms, only(&persisted).origin), (None, first.dot));
    }
}

#[test]
fn what_has_expired_or_was_deleted_meanwhile_is_not_brought_back() {
    for rule in RULES {
        let mut store = Store::new(1);
        let refused = |store: &mut Store, sequence, seen: &Object| {
            let refused = store.write(expire(rule, sequence, None, seen)).unwrap_err();
            (refused.error, refused.outcome)
        };
        let not_found = (RequestError::KeyNotFound, Outcome::NotApplied);
        assert_eq!(refused(&mut store, 1, &Object::default()), not_found);
        store.write(put_for(rule, 2, after(50))).unwrap();
        let seen = held(&mut store, rule);
        store.now_ms += 50;
        assert_eq!(refused(&mut store, 3, &seen), not_found, "it has expired");

        store.write(put_for(rule, 4, None)).unwrap();
        let seen = held(&mut store, rule);
        let delete = Write { change: Change::Delete, ..put_for(rule, 5, None) };
        store.write(Write { context: Context::of_read(&seen), ..delete }).unwrap();
        assert_eq!(refused(&mut store, 6, &seen), not_found, "it was deleted since that was read");
        assert!(held(&mut store, rule).is_empty());
    }
}

#[test]
fn of_several_values_none_is_meant() {
    let (mut store, siblings) = (Store::new(1), Conflict::Siblings);
    store.write(put_for(siblings, 1, None)).unwrap();
    store.write(put_for(siblings, 2, after(50))).unwrap();
    let expire = |sequence| expire(siblings, sequence, after(9), &Object::default());
    let refused = store.write(expire(3)).unwrap_err();
    assert_eq!(refused.error, RequestError::SeveralSiblings { count: 2 });
    store.now_ms += 50;
    assert_eq!(store.write(expire(4)).unwrap().siblings, 1, "the other one has expired");
    let object = held(&mut store, siblings);
    assert_eq!(only(&object).payload, "value 1");
    assert!(matches!(object.one_value(store.now_ms), OneValue::One(_)));
}

/// By a clock that is ahead a value would expire at once; by one that is behind, long after its time.
#[test]
fn a_wrong_clock_sets_no_deadline() {
    for rule in RULES {
        let mut store = Store::new(1);
        let first = store.write(put_for(rule, 1, None)).unwrap();
        store.trust = Trust::Off { ahead_ms: -5000 };
        let expire = expire(rule, 2, None, &Object::default());
        for timed in [put_for(rule, 3, after(50)), expire] {
            let refused = store.write(timed).unwrap_err();
            assert_eq!(
                (refused.error.kind(), refused.outcome),
                ("clock_skew", Outcome::NotApplied)
            );
        }
        let untimed = store.write(put_for(rule, 4, None));
        assert_eq!(untimed.is_ok(), rule == Conflict::Siblings);
        assert!(held(&mut store, rule).version().covers(first.dot));
    }
}

#[test]
fn an_expire_that_names_a_write_that_was_never_made_is_refused() {
    let (mut store, siblings) = (Store::new(1), Conflict::Siblings);
    let written = store.write(put_for(siblings, 1, None)).unwrap();
    let next = Dot { n: written.dot.n + 1, ..written.dot };
    let seen = Object::from_parts(Vec::new(), [next].into_iter().collect()).unwrap();
    let refused = store.write(expire(siblings, 2, None, &seen)).unwrap_err();
    assert_eq!(refused.error.kind(), "invalid");
}
