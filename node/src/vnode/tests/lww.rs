//! Writes of `lww` namespaces at one replica.

use super::*;
use crate::dynamo::object::Stamp;

/// A key of an `lww` namespace.
fn lww(key: u8) -> Address {
    Address { conflict: Conflict::Lww, ..address(key) }
}

/// A put into an `lww` namespace.
fn last(key: u8, sequence: u64, context: Context) -> Write {
    Write { address: lww(key), ..put(key, sequence, context) }
}

fn dot() -> Dot {
    Dot { actor: Actor(9), n: 1 }
}

fn values(object: &Object) -> Vec<Bytes> {
    object.siblings().into_iter().map(|entry| entry.payload.clone()).collect()
}

/// What a coordinator sends the other owners.
fn replicated(sequence: u64, written: &Written) -> Merge {
    let operation = Some((operation(sequence), written.dot, written.payload));
    Merge {
        address: lww(1),
        object: written.object.clone(),
        operation,
        clock_ms: written.clock_ms,
        wait_ms: 0,
        mend: false,
        way: Way::Write,
    }
}

#[test]
fn of_blind_writes_the_last_one_stands_alone_and_each_answers_a_token() {
    let mut store = Store::new(1);
    for sequence in 0..2 * SIBLINGS_MAX as u64 {
        let written = store.write(last(1, sequence, Context::default())).unwrap();
        assert_eq!(written.siblings, 1, "never refused for siblings");
        assert_eq!(written.context, Some(Context::of_read(&store.read_at(&lww(1)).unwrap())));
    }
    assert_eq!(values(&store.read_at(&lww(1)).unwrap()), ["value 199"]);
}

#[test]
fn a_delete_leaves_a_stamp_that_older_values_do_not_pass() {
    let (mut home, mut other) = (Store::new(1), Store::new(2));
    let old = other.write(last(1, 1, Context::default())).unwrap();
    home.write(last(1, 2, Context::default())).unwrap();
    home.now_ms += 10;
    let context = Context::of_read(&home.read_at(&lww(1)).unwrap());
    let delete = Write { change: Change::Delete, ..last(1, 3, context) };
    let deleted = home.write(delete).unwrap();
    assert_eq!((deleted.siblings, deleted.context.is_some()), (0, true));
    home.turn(|vnode, turn| vnode.merge(turn, replicated(1, &old))).unwrap();
    assert!(home.read_at(&lww(1)).unwrap().is_empty(), "an older write comes late");
    assert!(home.vnode.frontier().contains(old.dot), "and was seen");
    home.write(last(1, 4, Context::default())).unwrap();
    assert_eq!(values(&home.read_at(&lww(1)).unwrap()), ["value 4"]);
}

/// The clock of a replica that restarts may be behind what it wrote before, and behind what its
/// client was shown elsewhere.
#[test]
fn a_write_exceeds_what_is_here_and_what_was_shown_though_the_clock_is_behind() {
    let (mut home, mut ahead) = (Store::new(1), Store::new(2));
    ahead.now_ms = 5_000;
    let shown = ahead.write(last(1, 1, Context::default())).unwrap();
    let replaced = home.write(last(1, 2, shown.context.unwrap())).unwrap();
    assert!(home.read_at(&lww(1)).unwrap().time() > Hlc::from_ms(5_000));

    let mut home = Store::open(home.engine.kill(), home.rng);
    home.now_ms = 900;
    let again = home.write(last(1, 3, Context::default())).unwrap();
    ahead.turn(|vnode, turn| vnode.merge(turn, replicated(2, &replaced))).unwrap();
    ahead.turn(|vnode, turn| vnode.merge(turn, replicated(3, &again))).unwrap();
    assert_eq!(values(&ahead.read_at(&lww(1)).unwrap()), ["value 3"]);
}

#[test]
fn one_key_in_the_future_leaves_the_others_alone() {
    let mut store = Store::new(1);
    store.now_ms = 3_600_000;
    store.write(last(1, 1, Context::default())).unwrap();
    store.now_ms = 1_000;
    store.write(last(1, 2, Context::default())).unwrap();
    store.write(last(2, 3, Context::default())).unwrap();
    assert_eq!(
        values(&store.read_at(&lww(1)).unwrap()),
        ["value 2"],
        "it can be written, above its time"
    );
    assert_eq!(store.future, 1, "and is counted");
    assert_eq!(store.read_at(&lww(2)).unwrap().time(), Hlc::from_ms(1_000));
}

/// A wrong clock wrote a key in the future; who has not seen that writes below it, and would wait
/// for ever to be right. The write is merged, and not acknowledged; with what a read shows it wins.
#[test]
fn a_write_that_a_wrong_clock_hides_is_not_acknowledged() {
    let (mut wrong, mut home, mut other) = (Store::new(1), Store::new(2), Store::new(3));
    wrong.now_ms += 2 * SKEW_MAX_MS + 1;
    let future = wrong.write(last(1, 1, Context::default())).unwrap();
    home.turn(|vnode, turn| vnode.merge(turn, replicated(1, &future))).unwrap();

    let hidden = other.write(last(1, 2, Context::default())).unwrap();
    let refused = home.turn(|vnode, turn| vnode.merge(turn, replicated(2, &hidden)));
    assert_eq!(refused.unwrap_err().kind(), "clock_skew");
    assert!(home.read_at(&lww(1)).unwrap().version().covers(hidden.dot), "merged all the same");
    assert_eq!(values(&home.read_at(&lww(1)).unwrap()), ["value 1"]);

    let shown = Context::of_read(&home.read_at(&lww(1)).unwrap());
    let above = other.write(last(1, 3, shown)).unwrap();
    home.turn(|vnode, turn| vnode.merge(turn, replicated(3, &above))).unwrap();
    assert_eq!(values(&home.read_at(&lww(1)).unwrap()), ["value 3"]);

    home.now_ms += 1;
    let late = replicated(2, &hidden);
    home.turn(|vnode, turn| vnode.merge(turn, late)).unwrap();
}

/// An owner whose own clock is wrong, or may be, cannot tell the future from the present: where a
/// write loses it acknowledges nothing, neither another's nor its own.
#[test]
fn a_clock_that_may_be_wrong_acknowledges_no_write_that_loses() {
    for trust in [Trust::Unknown, Trust::Off { ahead_ms: 600_000 }] {
        let (mut wrong, mut other) = (Store::new(1), Store::new(2));
        wrong.now_ms += 600_000;
        let own = wrong.write(last(1, 1, Context::default())).unwrap();
        let hidden = other.write(last(1, 2, Context::default())).unwrap();
        wrong.trust = trust;
        let refused = wrong.turn(|vnode, turn| vnode.merge(turn, replicated(2, &hidden)));
        assert_eq!(refused.unwrap_err().kind(), "clock_uncertain");
        let shown = Context::of_read(&wrong.read_at(&lww(1)).unwrap());
        let above = other.write(last(1, 3, shown)).unwrap();
        wrong.turn(|vnode, turn| vnode.merge(turn, replicated(3, &above))).unwrap();
        let again = wrong.write(last(1, 1, Context::default()));
        match trust {
            // Its coordinator may be alone, and knows who is connected.
            Trust::Unknown => assert_eq!(again.unwrap().dot, own.dot),
            _ => {
                let again = again.unwrap_err();
                assert_eq!(again.error.kind(), "clock_skew");
                assert_eq!(again.outcome, Outcome::Unknown(operation(1)));
            }
        }
    }
}

/// The coordinator's own ack is one like another.
#[test]
fn a_retry_of_a_write_that_lies_hidden_is_not_done() {
    let (mut wrong, mut home) = (Store::new(1), Store::new(2));
    let stands = home.write(last(1, 2, Context::default())).unwrap();
    assert_eq!(home.write(last(1, 2, Context::default())).unwrap().dot, stands.dot);
    wrong.now_ms += 2 * SKEW_MAX_MS + 1;
    let future = wrong.write(last(1, 1, Context::default())).unwrap();
    home.turn(|vnode, turn| vnode.merge(turn, replicated(1, &future))).unwrap();
    let hidden = home.write(last(1, 2, Context::default())).unwrap_err();
    assert_eq!(hidden.error.kind(), "clock_skew");
    assert_eq!(hidden.outcome, Outcome::Unknown(operation(2)));
    home.now_ms = wrong.now_ms;
    let late = home.write(last(1, 2, Context::default())).unwrap_err();
    assert_eq!(late.error.kind(), "clock_uncertain", "whether it was written before that");
    assert_eq!(late.outcome, Outcome::Unknown(operation(2)));
    home.now_ms -= 1;
    let young = home.write(last(1, 2, Context::default())).unwrap();
    assert_eq!((young.dot, young.context), (stands.dot, None), "replaced, and by nothing wrong");
}

/// The coordinator looked at the clock before the write waited for its turn.
#[test]
fn a_clock_that_was_set_while_a_write_waited_stamps_nothing() {
    let mut store = Store::new(1);
    let done = store.write(last(1, 1, Context::default())).unwrap();
    store.trust = Trust::Off { ahead_ms: -600_000 };
    for _ in 0..2 {
        let refused = store.write(last(1, 2, Context::default())).unwrap_err();
        assert_eq!(refused.outcome, Outcome::NotApplied);
        store.trust = Trust::Right;
    }
    store.trust = Trust::Off { ahead_ms: -600_000 };
    assert_eq!(store.write(last(1, 1, Context::default())).unwrap().dot, done.dot, "it is done");
    store.write(put(2, 3, Context::default())).expect("clocks order no siblings");
}

/// A machine that stood still, both of its clocks with it, cannot know; the owners can, since no
/// message waits for so long. A retry makes it no better, until it is known what replaced the write.
#[test]
fn a_write_by_a_clock_that_stood_still_is_not_acknowledged_where_it_loses() {
    const WAIT_MS: u64 = 1_000;
    let (mut home, mut stalled) = (Store::new(1), Store::new(2));
    home.now_ms = 60_000;
    let later = home.write(last(1, 1, Context::default())).unwrap();
    let sent = |written: &Written| Merge { wait_ms: WAIT_MS, ..replicated(2, written) };

    // A message that waited, between clocks that differ by as much as they may.
    for (now_ms, late) in [(60_000 - WAIT_MS - 1_000, false), (60_000 - WAIT_MS - 1_001, true)] {
        stalled = Store::new(now_ms);
        stalled.now_ms = now_ms;
        let lost = Write { operation: operation(now_ms), ..last(1, 2, Context::default()) };
        let lost = stalled.write(lost).unwrap();
        let merged = home.turn(|vnode, turn| vnode.merge(turn, sent(&lost)));
        assert_eq!(
            merged.map_err(|error| error.kind()),
            match late {
                true => Err("clock_uncertain"),
                false => Ok(()),
            }
        );
    }
    let id = operation(60_000 - WAIT_MS - 1_001);
    let retry = || Write { operation: id, ..last(1, 2, Context::default()) };
    stalled.now_ms = 60_000;
    let again = stalled.write(retry()).unwrap();
    home.turn(|vnode, turn| vnode.merge(turn, sent(&again))).unwrap_err();

    // A read repairs there what the write lost to: that was acknowledged before the write began, if
    // the clock stood still. No later time vouches for it, here or at a peer that a retry asks.
    let repair = Merge { operation: None, ..replicated(1, &later) };
    stalled.turn(|vnode, turn| vnode.merge(turn, repair)).unwrap();
    let refused = stalled.write(retry()).unwrap_err();
    assert_eq!(refused.error.kind(), "clock_uncertain");
    assert_eq!(refused.outcome, Outcome::Unknown(id));
    let elsewhere = home.write(last(1, 2, Context::default())).unwrap_err();
    assert_eq!(elsewhere.outcome, Outcome::Unknown(operation(2)));

    // What does not lose there is not in question.
    stalled.now_ms = 1_000;
    let other = stalled.write(Write { address: lww(2), ..last(1, 3, Context::default()) }).unwrap();
    let merge = Merge { address: lww(2), ..sent(&other) };
    home.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
}

#[test]
fn the_end_of_time_is_an_error_and_no_panic() {
    let mut store = Store::new(1);
    let stamp = Stamp { time: Hlc(u64::MAX), dot: dot() };
    let object = Object::from_last(stamp, None, [dot()].into_iter().collect()).unwrap();
    let merge = Merge {
        address: lww(1),
        object: EncodedObject::new(&object),
        operation: None,
        clock_ms: 0,
        wait_ms: 0,
        mend: false,
        way: Way::Write,
    };
    store.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
    let refused = store.write(last(1, 1, Context::default())).unwrap_err();
    assert_eq!((refused.error.kind(), refused.outcome), ("invalid", Outcome::NotApplied));
}

#[test]
fn a_retry_is_answered_with_its_dot_and_without_a_token_once_it_was_replaced() {
    let mut store = Store::new(1);
    let first = store.write(last(1, 1, Context::default())).unwrap();
    assert_eq!(store.write(last(1, 1, Context::default())).unwrap(), first);
    let second = store.write(last(1, 2, Context::default())).unwrap();
    // However late it comes: the vnode's own dots tell the order.
    store.now_ms += 600_000;
    // And whatever its clock says by then.
    store.trust = Trust::Off { ahead_ms: 600_000 };
    let again = store.write(last(1, 1, Context::default())).unwrap();
    assert_eq!(
        (again.dot, again.context.as_ref()),
        (first.dot, None),
        "its holder was never shown this"
    );
    store.trust = Trust::Right;
    let mut other = Store::new(2);
    other.now_ms = store.now_ms;
    let mut merge = |written| {
        let merge = Merge { wait_ms: 0, ..replicated(1, written) };
        other.turn(|vnode, turn| vnode.merge(turn, merge))
    };
    merge(&second).unwrap();
    // Other owners may have what this says, and not what followed.
    merge(&first).unwrap_err();
    merge(&again).unwrap();
    assert_eq!(values(&store.read_at(&lww(1)).unwrap()), ["value 2"]);
    store.write(Write { change: Change::Delete, ..last(1, 3, Context::default()) }).unwrap();
    let again = store.write(last(1, 1, Context::default())).unwrap();
    assert_eq!((again.siblings, again.context.is_some()), (0, true), "nothing is to be shown");
}

/// Five owners, of which three hold an acknowledged write; the first one's clock stood still. Its late
/// retry is sent with a write that followed, and another one that followed has reached the third. If
/// that one acknowledged the retry, a quorum would have, and another quorum would show the older write.
#[test]
fn a_retry_is_not_followed_by_a_write_that_did_not_come_with_it() {
    const NOW_MS: u64 = 1_000_000;
    let mut owners: Vec<Store> = (1..=5).map(Store::new).collect();
    let merged_by = |owners: &mut [Store], sequence, written: &Written| -> Vec<bool> {
        let merge = || replicated(sequence, written);
        let acks = owners.iter_mut().map(|owner| owner.turn(|v, turn| v.merge(turn, merge())));
        acks.map(|ack| ack.is_ok()).collect()
    };
    owners.iter_mut().for_each(|owner| owner.now_ms = NOW_MS);
    let older = owners[2].write(last(1, 1, Context::default())).unwrap();
    assert_eq!(merged_by(&mut owners[3..], 1, &older), [true, true]);

    owners[0].now_ms = NOW_MS - 600_000;
    for sequence in [2, 3] {
        let lost = owners[0].write(last(1, sequence, Context::default())).unwrap();
        let acks = merged_by(&mut owners[1..], sequence, &lost);
        assert_eq!(acks, [true, false, false, false], "by a clock that stood still");
    }
    owners.iter_mut().for_each(|owner| owner.now_ms = NOW_MS + 100);
    let again = owners[0].write(last(1, 2, Context::default())).unwrap();
    let newest = owners[0].write(last(1, 4, Context::default())).unwrap();
    merged_by(&mut owners[2..3], 4, &newest);
    let acks = merged_by(&mut owners[1..], 2, &again);
    assert_eq!(acks, [true, false, false, false], "the second holds what came with it");

    let held = [1, 3, 4].map(|owner: usize| owners[owner].read_at(&lww(1)).unwrap());
    let quorum = held.into_iter().reduce(|mut all, one| {
        all.merge(&one);
        all
    });
    assert_eq!(values(&quorum.unwrap()), ["value 1"], "what was written before the retried one");
}

/// Two kinds have no merge: what a peer sends of the wrong one is as malformed as garbage.
#[test]
fn a_peers_object_of_the_other_kind_is_refused_and_changes_nothing() {
    let siblings = Store::new(2).write(put(1, 1, Context::default())).unwrap().object;
    let register = Store::new(3).write(last(1, 2, Context::default())).unwrap().object;
    for (home, foreign) in [(lww(1), siblings), (address(1), register)] {
        for mend in [false, true] {
            let mut store = Store::new(1);
            let held =
                store.write(Write { address: home.clone(), ..put(1, 3, Context::default()) });
            let held = held.unwrap().object.decode(home.conflict).unwrap();
            let (object, operation) =
                (foreign.clone(), Some((operation(4), dot(), PayloadHash(0))));
            let merge = Merge {
                address: home.clone(),
                object,
                operation,
                clock_ms: 0,
                wait_ms: 0,
                mend,
                way: Way::Write,
            };
            let refused = store.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap_err();
            assert_eq!(refused.kind(), "invalid");
            assert!(refused.to_string().contains("conflict rule"), "{refused}");
            assert_eq!(store.read_at(&home), Ok(held), "nothing was merged");
            assert_eq!(store.corrupt, 0, "the damage is not here");
            let later = Write { address: home.clone(), ..put(1, 5, Context::default()) };
            store.write(later).unwrap();
        }
    }
}

/// A record that opens, whose object is of the other kind: nobody knows what it held of this one.
#[test]
fn a_record_of_the_other_kind_is_damaged() {
    for (home, other) in [(lww(1), address(1)), (address(1), lww(1))] {
        let mut store = Store::new(1);
        let write = |address: &Address, sequence| Write {
            address: address.clone(),
            ..put(1, sequence, Context::default())
        };
        let first = store.write(write(&other, 1)).unwrap();
        for _ in 0..2 {
            assert_eq!(store.read_at(&home).unwrap_err().kind(), "damaged");
        }
        assert_eq!(store.corrupt, 1, "it is counted once");
        let refused = store.write(write(&home, 2)).unwrap_err();
        assert_eq!((refused.error.kind(), refused.outcome), ("damaged", Outcome::NotApplied));
        assert_eq!(store.vnode.frontier().iter().count(), 0, "what vouched for it is forgotten");

        let object = Store::new(2).write(write(&home, 3)).unwrap().object;
        let mut merge = Merge {
            address: home.clone(),
            object,
            operation: None,
            clock_ms: 0,
            wait_ms: 0,
            mend: false,
            way: Way::Write,
        };
        let refused = store.turn(|vnode, turn| vnode.merge(turn, merge.clone())).unwrap_err();
        assert_eq!(refused.kind(), "damaged", "no repair replaces it");
        merge.mend = true;
        store.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
        let written = store.write(write(&home, 4)).unwrap();
        assert_ne!(written.dot.actor, first.dot.actor, "the actor ended");
    }
}
