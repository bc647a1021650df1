use proptest::prelude::*;

use super::*;

const MEMORY: u64 = 128 << 20;
const IDLE: Load = Load { queued: 0, capacity: 1024 };
const BUSY: Load = Load { queued: 513, capacity: 1024 };
const LEAST: u64 = LEAST_BYTES as u64;

fn nodes(count: u64) -> Vec<NodeId> {
    (1..=count).map(NodeId).collect()
}

#[test]
fn the_first_is_granted_a_message_at_once_and_others_their_share_a_little_later() {
    let (mut credits, [a, b]) = (Credits::new(MEMORY), [1, 2].map(NodeId));
    let first = credits.next(a, IDLE, 0);
    assert_eq!(first, Credit { bytes: MESSAGE_MAX_BYTES, pause_ms: 0 });
    assert_eq!(credits.next(b, IDLE, 0), Credit { pause_ms: 128, ..first });
    // The queues make the pace.
    let fuller = Load { queued: 256, ..IDLE };
    assert_eq!(credits.next(NodeId(3), fuller, 0), Credit { pause_ms: 512, ..first });
}

#[test]
fn what_was_granted_and_not_sent_costs_nothing() {
    let (mut credits, a) = (Credits::new(MEMORY), NodeId(1));
    credits.next(a, IDLE, 0);
    assert!(credits.on_hints(a, 16, 1000, 0));
    // Sixteen hints, however small.
    assert_eq!(credits.next(a, IDLE, 0).pause_ms, 2);
}

#[test]
fn nothing_is_taken_without_a_grant_nor_above_it_but_a_single_object() {
    let (mut credits, a) = (Credits::new(MEMORY), NodeId(1));
    let most = u64::from(MESSAGE_MAX_BYTES);
    assert!(!credits.on_hints(a, 1, 10, 0), "it never asked");
    for (hints, bytes, fits) in [(9, most, true), (2, most + 1, false), (1, most * 3, true)] {
        credits.next(a, IDLE, 0);
        assert_eq!(credits.on_hints(a, hints, bytes, 0), fits);
        assert!(!credits.on_hints(a, 1, 10, 0), "a grant is for one message");
    }
}

#[test]
fn while_the_queues_are_more_than_half_full_nothing_is_granted_and_then_the_first_comes_first() {
    let mut credits = Credits::new(MEMORY);
    let pauses = nodes(3).into_iter().map(|node| credits.next(node, BUSY, 0));
    let spread = [100, 120, 140].map(|pause_ms| Credit { bytes: 0, pause_ms });
    assert_eq!(pauses.collect::<Vec<_>>(), spread);
    assert!(!credits.on_hints(NodeId(1), 1, 1, 100));
    let half = Load { queued: 511, ..BUSY };
    assert!(credits.next(NodeId(1), half, 200).bytes > 0);
}

#[test]
fn a_grant_that_nobody_uses_is_soon_there_for_others() {
    let (mut credits, [a, b]) = (Credits::new(LEAST * MEMORY_PART), [1, 2].map(NodeId));
    assert_eq!(u64::from(credits.next(a, IDLE, 0).bytes), LEAST);
    assert_eq!(credits.next(b, IDLE, GRANT_MS).bytes, 0);
    assert_eq!(u64::from(credits.next(b, IDLE, GRANT_MS + 1).bytes), LEAST);
    assert!(!credits.on_hints(a, 1, LEAST, GRANT_MS + 2), "it comes too late");
}

#[test]
fn the_window_is_small_beside_the_memory_and_no_grant_is_useless() {
    for (memory, granted) in [(0, LEAST), (1 << 20, 32 << 10), (u64::MAX / 8, 1 << 20)] {
        let credit = Credits::new(memory).next(NodeId(1), IDLE, 0);
        assert_eq!(u64::from(credit.bytes), granted);
    }
}

#[test]
fn who_waits_is_not_overtaken_by_who_never_had_to() {
    // Of a window of two grants.
    let (mut credits, [a, b, c]) = (Credits::new(LEAST * 2 * MEMORY_PART), [1, 2, 3].map(NodeId));
    assert_eq!(u64::from(credits.next(a, IDLE, 0).bytes), LEAST * 2);
    assert_eq!(credits.next(b, IDLE, 0).bytes, 0);
    assert_eq!(credits.next(c, IDLE, 0).bytes, 0);
    assert!(credits.on_hints(a, 1, LEAST, 10));
    assert_eq!(credits.next(a, IDLE, 20).bytes, 0, "two wait for what it gave back");
    assert_eq!(u64::from(credits.next(c, IDLE, 30).bytes), LEAST);
    assert_eq!(u64::from(credits.next(b, IDLE, 40).bytes), LEAST);
}

/// What one sender with endless hints does.
struct Asking {
    node: NodeId,
    credit: Credit,
    due_ms: u64,
    taken: u64,
    grants: u64,
}

/// So many senders do as they are told for `for_ms`; each message takes `takes_ms`.
fn run(senders: u64, load: Load, takes_ms: u64, for_ms: u64) -> Vec<Asking> {
    let mut credits = Credits::new(MEMORY);
    let asking = |node: NodeId| Asking {
        due_ms: node.0 % 7,
        node,
        credit: Credit::default(),
        taken: 0,
        grants: 0,
    };
    let mut all: Vec<Asking> = nodes(senders).into_iter().map(asking).collect();
    loop {
        let next = all.iter_mut().min_by_key(|sender| (sender.due_ms, sender.node));
        let next = next.expect("there are senders");
        let mut now_ms = next.due_ms;
        if now_ms > for_ms {
            return all;
        }
        let bytes = u64::from(next.credit.bytes);
        if bytes > 0 {
            assert!(credits.on_hints(next.node, 9, bytes, now_ms), "what was granted is taken");
            next.taken += bytes;
            next.grants += 1;
            now_ms += takes_ms;
        }
        next.credit = credits.next(next.node, load, now_ms);
        // Nobody asks without a pause: a loop of this test would never end, nor one of a node.
        next.due_ms = now_ms + u64::from(next.credit.pause_ms).max(1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever they do, also against what they were told.
    #[test]
    fn the_window_holds_and_every_refusal_has_a_pause(
        memory in (0..8u64).prop_map(|mib| mib << 20),
        steps in prop::collection::vec((1..40u64, 0..3u8, 0..1025usize, 0..3000u64), 1..300)
    ) {
        let mut credits = Credits::new(memory);
        let (mut now_ms, mut pressed) = (0, None::<u64>);
        for (node, what, queued, later) in steps {
            now_ms += later;
            let (node, load) = (NodeId(node), Load { queued, capacity: 1024 });
            let granted = credits.senders.get(&node).map_or(0, |sender| sender.granted);
            if what == 0 {
                credits.on_hints(node, 2, granted, now_ms);
            } else {
                let credit = credits.next(node, load, now_ms);
                prop_assert!(credit.bytes == 0 || credit.bytes >= LEAST_BYTES);
                prop_assert!(credit.bytes <= MESSAGE_MAX_BYTES);
                prop_assert!(credit.bytes > 0 || credit.pause_ms >= 100);
                prop_assert!(u64::from(credit.pause_ms) <= WAIT_MAX_MS);
                if credit.bytes > 0 && load.is_high() {
                    prop_assert_eq!(credit.bytes, LEAST_BYTES);
                    prop_assert!(pressed.is_none_or(|then| now_ms - then >= PATIENCE_MS));
                    pressed = Some(now_ms);
                }
            }
            prop_assert!(credits.under_way() <= credits.window);
        }
    }

    #[test]
    fn who_keeps_asking_is_granted_as_much_as_any_other(
        senders in 1..60u64, queued in 0..500usize, takes_ms in 0..200u64
    ) {
        let load = Load { queued, capacity: 1024 };
        let ended = run(senders, load, takes_ms, 60_000);
        let taken = || ended.iter().map(|sender| sender.taken);
        let (least, most) = (taken().min().unwrap_or(0), taken().max().unwrap_or(0));
        prop_assert!(least * 2 >= most, "{least} {most}");
        // No faster than the pace.
        let pace = 60_000 * PACE_BYTES + WINDOW_MAX_BYTES;
        prop_assert!(taken().sum::<u64>() <= pace);
    }

    #[test]
    fn nobody_starves_under_queues_that_stay_full(senders in 1..40u64, takes_ms in 0..200u64) {
        let ended = run(senders, BUSY, takes_ms, senders * 2 * (PATIENCE_MS + WAIT_MAX_MS));
        for sender in &ended {
            prop_assert!(sender.grants > 0, "{} of {senders} was granted nothing", sender.node);
        }
        let grants: u64 = ended.iter().map(|sender| sender.grants).sum();
        let elapsed = senders * 2 * (PATIENCE_MS + WAIT_MAX_MS);
        prop_assert!(grants <= elapsed / PATIENCE_MS + 1, "a trickle, and no flood");
    }
}
