//! What the operation index tells of an operation, and what it then refuses.

use super::*;
use crate::dynamo::operation::OPERATION_KEPT_MS;
use crate::dynamo::resolve::Known;
use crate::vnode::look_up::{Inquiry, look_up};

impl Store {
    fn look_up(&mut self, key: u8, operation: OperationId, settle: bool) -> Option<Known> {
        let asked = Inquiry { vnode: ID, key: address(key).hash(), operation, settle };
        self.turn(|_, turn| look_up(turn, &asked)).unwrap()
    }

    fn rows(&self) -> usize {
        self.engine.scan(Space::Operations, KeyRange::all()).count()
    }
}

#[test]
fn what_was_done_or_refused_is_known_and_stays_so() {
    let mut store = Store::new(1);
    let written = store.write(put(1, 1, Context::default())).unwrap();
    let refusal = Some(RequestError::not_ready("a reason"));
    store.write(Write { refusal, ..put(1, 2, Context::default()) }).unwrap_err();
    store.now_ms = 3 * OPERATION_KEPT_MS;
    for settle in [false, true] {
        let Some(Known::Done(done)) = store.look_up(1, operation(1), settle) else { panic!() };
        assert_eq!((done.dot, done.payload), (written.dot, written.payload));
        assert_eq!(store.look_up(2, operation(1), settle), Some(Known::OtherKey));
        assert_eq!(store.look_up(1, operation(2), settle), Some(Known::Refused));
    }
    assert_eq!(store.rows(), 2);
}

#[test]
fn who_asks_for_good_is_told_refused_and_a_late_copy_is_refused() {
    let mut store = Store::new(1);
    assert_eq!(store.look_up(1, operation(1), false), None);
    assert_eq!((store.look_up(1, operation(1), true), store.rows()), (Some(Known::Refused), 1));
    for at_least_once in [false, true] {
        let late = Write { at_least_once, ..put(1, 1, Context::default()) };
        let refused = store.write(late).unwrap_err();
        assert_eq!((refused.outcome, refused.error.kind()), (Outcome::NotApplied, "invalid"));
    }
    assert!(store.read(1).is_absent());
    assert_eq!(store.look_up(1, operation(1), false), Some(Known::Refused));
}

/// Another node may have applied it, and so may this one in an earlier opening.
#[test]
fn nothing_is_settled_for_another_node_or_opening() {
    let mut store = Store::new(1);
    let others = [
        OperationId { coordinator: NodeId(2), ..operation(1) },
        OperationId { opening: Opening(2), ..operation(1) },
        OperationId { opening: Opening(0), ..operation(1) },
    ];
    for other in others {
        assert_eq!(store.look_up(1, other, true), None, "{other:?}");
    }
    assert_eq!(store.rows(), 0);
}

#[test]
fn what_may_have_been_forgotten_is_neither_known_nor_settled() {
    let mut store = Store::new(1);
    for issued_ms in [ADMITTING.now_ms, ADMITTING.now_ms + 9 * OPERATION_KEPT_MS] {
        store.now_ms = ADMITTING.now_ms + OPERATION_KEPT_MS + 1;
        let id = OperationId { issued_ms, ..operation(1) };
        assert_eq!(store.look_up(1, id, true), Some(Known::Expired));
    }
    assert_eq!(store.rows(), 0);
}

#[test]
fn an_id_names_one_write_whatever_it_writes_instead() {
    let mut store = Store::new(1);
    let first = put(1, 1, Context::default());
    let written = store.write(first.clone()).unwrap();
    assert_eq!(store.write(first.clone()).unwrap().dot, written.dot);
    let context = written.context.clone().unwrap();
    let others = [
        Write { change: Change::put("another"), ..first.clone() },
        Write { change: Change::Delete, ..first.clone() },
        Write { context, ..first },
    ];
    for other in others {
        let refused = store.write(other).unwrap_err();
        assert_eq!((refused.outcome, refused.error.kind()), (Outcome::NotApplied, "invalid"));
        assert!(refused.to_string().contains("another value"), "{refused}");
    }
    assert_eq!(store.read(1).siblings().len(), 1);
}

/// Or a second node would take another payload for a retry.
#[test]
fn what_an_id_wrote_is_known_where_it_was_merged() {
    let (mut home, mut other) = (Store::new(1), Store::new(2));
    let written = other.write(put(1, 1, Context::default())).unwrap();
    let merge = Merge {
        address: address(1),
        object: written.object.clone(),
        operation: Some((operation(1), written.dot, written.payload)),
        clock_ms: 0,
        wait_ms: 0,
        mend: false,
        way: Way::Write,
    };
    home.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
    let other = Write { change: Change::Delete, ..put(1, 1, Context::default()) };
    assert_eq!(home.write(other).unwrap_err().outcome, Outcome::NotApplied);
    assert_eq!(home.write(put(1, 1, Context::default())).unwrap().dot, written.dot);
}

#[test]
fn a_damaged_row_tells_nothing() {
    let mut store = Store::new(1);
    store.write(put(1, 1, Context::default())).unwrap();
    rot(&store, Space::Operations, record::operation_key(ID, &operation(1)));
    let key = address(1).hash();
    let asked = Inquiry { vnode: ID, key, operation: operation(1), settle: true };
    let refused = store.turn(|_, turn| look_up(turn, &asked)).unwrap_err();
    assert_eq!((refused.kind(), store.corrupt), ("data", 1));
}
