//! What is believed of clocks, and for how long.

use proptest::prelude::*;

use super::*;

const NOW: Reading = Reading { wall_ms: 2_000_000_000, steady_ms: 500 };

fn later(wall_ms: i64, steady_ms: u64) -> Reading {
    let Reading { wall_ms: wall, steady_ms: steady } = NOW;
    Reading { wall_ms: wall.saturating_add_signed(wall_ms), steady_ms: steady + steady_ms }
}

/// A node to whom the others answered at once, so many milliseconds ahead of it.
fn skew(offsets: &[i64]) -> Skew {
    let mut skew = Skew::default();
    for (at, offset) in offsets.iter().enumerate() {
        let theirs_ms = NOW.wall_ms.saturating_add_signed(*offset);
        skew.on_answer(NodeId(at as u64), NOW, NOW, theirs_ms);
    }
    skew
}

#[test]
fn the_middle_of_the_round_trip_counts() {
    let mut skew = Skew::default();
    skew.on_answer(NodeId(1), NOW, later(20, 20), NOW.wall_ms + 5030);
    let offset = Offset { ms: 5020, error_ms: 13 };
    assert_eq!(skew.offsets(later(20, 20)).next(), Some((NodeId(1), offset)));
    assert_eq!(skew.ahead_ms(NOW), Some(-5007), "only what is certain counts");
}

/// How far a node is ahead of the median if the others are so far ahead of it. The zero of the node
/// itself is one of them.
#[test]
fn the_majority_is_right() {
    let cases: [(&[i64], i64); 11] = [
        (&[0, 0], 0),
        (&[0, 600_003], 0),
        (&[-600_003, -600_003], 600_000),
        (&[600_003, 600_003, 0], -600_000),
        (&[0, 0, 600_003], 0),
        (&[-103, -103, -203, 50], 100),
        // Two that differ: nobody knows who is right, so neither is.
        (&[-600_003], 600_000),
        (&[600_003], -600_000),
        (&[600_003, 0, 600_003], -600_000),
        // Three that differ: the one in the middle stands for the time.
        (&[-600_003, 600_003], 0),
        (&[600_003, 1_200_003], -600_000),
    ];
    for (offsets, expected) in cases {
        assert_eq!(skew(offsets).ahead_ms(NOW), Some(expected), "{offsets:?}");
    }
    assert_eq!(Skew::default().ahead_ms(NOW), None);
    assert_eq!(Skew::default().is_off(0, NOW), None);
}

#[test]
fn a_clock_that_is_set_is_noticed_before_anybody_is_asked_again() {
    let skew = skew(&[0, 0]);
    assert_eq!(skew.is_off(500, later(300_000, 300_000)), Some(false), "time just passed");
    for (set_ms, ahead_ms) in [(600_000, 599_996), (-600_000, -599_996), (500, 496)] {
        let now = later(1_000 + set_ms, 1_000);
        assert_eq!(now.set_since(NOW), set_ms);
        assert_eq!(skew.ahead_ms(now), Some(ahead_ms));
        assert_eq!(skew.is_off(500, now), Some(set_ms.abs() > 500));
    }
    let zero = Reading { wall_ms: 0, steady_ms: 1_500 };
    assert_eq!(skew.is_off(500, zero), Some(true), "set to the beginning of time");
    assert_eq!(skew.is_off(500, later(2_000, 2_000)), Some(false), "and set right again");
}

#[test]
fn a_slow_answer_proves_little() {
    let mut skew = Skew::default();
    skew.on_answer(NodeId(1), NOW, later(3_000, 3_000), NOW.wall_ms + 3_000);
    assert_eq!(skew.is_off(500, NOW), Some(false), "it took all of the difference to come back");
    skew.on_answer(NodeId(1), NOW, later(3_000, 3_000), NOW.wall_ms + 3_600);
    assert_eq!(skew.is_off(500, NOW), Some(true));
}

/// A clock that is off does not pass for right because the network is busy.
#[test]
fn a_slow_answer_takes_the_place_of_a_quick_one_only_if_it_says_something_else() {
    let mut skew = skew(&[700]);
    let slowly = |skew: &mut Skew, ms: i64| {
        let theirs_ms = NOW.wall_ms.saturating_add_signed(600 + ms);
        skew.on_answer(NodeId(0), later(100, 100), later(1_100, 1_100), theirs_ms);
    };
    slowly(&mut skew, 400);
    assert_eq!(skew.is_off(500, later(1_100, 1_100)), Some(true), "400 to 1200 are possible");
    slowly(&mut skew, 0);
    assert_eq!(skew.is_off(500, later(1_100, 1_100)), Some(false), "700 are not any more");
}

#[test]
fn answers_fade_and_are_forgotten() {
    let skew = skew(&[-600, -10_000, 0]);
    let offset = |at: usize, after_ms| {
        let now = later(after_ms as i64, after_ms);
        skew.offsets(now).find(|(node, _)| *node == NodeId(at as u64)).map(|(_, offset)| offset)
    };
    assert_eq!(offset(0, 60_000), Some(Offset { ms: -600, error_ms: 63 }));
    let off = |after_ms| skew.is_off(500, later(after_ms as i64, after_ms));
    assert_eq!(off(60_000), Some(true), "two of four");
    assert_eq!(off(120_000), Some(false), "the one may have drifted so far");
    assert!(offset(1, KEPT_MS).is_some_and(|offset| offset.certain_ms() < -9_000));
    assert!(skew.knows(NodeId(2), later(0, KEPT_MS)));
    assert!(!skew.knows(NodeId(2), later(0, KEPT_MS + 1)));
    assert_eq!((off(KEPT_MS + 1), offset(1, KEPT_MS + 1)), (None, None));
    assert_eq!(skew.ahead_ms(later(0, KEPT_MS + 1)), None);
}

#[test]
fn who_is_no_member_has_no_say() {
    let mut skew = skew(&[0, 600_000, 600_000]);
    assert_eq!(skew.is_off(500, NOW), Some(true));
    skew.retain(|node| node != NodeId(2));
    assert_eq!(skew.is_off(500, NOW), Some(false));
}

/// One exchange between a node and a peer, in microseconds, which no node sees: when each thing
/// happened, and by how much the node's own clock was set before the next one.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    pause: u64,
    /// Held up between reading its steady clock and its wall clock.
    held_up: u64,
    there: u64,
    back: u64,
    set_ms: i64,
}

fn exchanges() -> impl Strategy<Value = Vec<Exchange>> {
    let quick = 0..3_000u64;
    let slow = 0..900_000u64;
    let way = move || prop_oneof![3 => quick.clone(), 1 => slow.clone()];
    let set = prop_oneof![3 => Just(0i64), 1 => -700_000..700_000i64];
    let exchange = (0..2_000_000u64, 0..5_000u64, way(), way(), set).prop_map(
        |(pause, held_up, there, back, set_ms)| Exchange { pause, held_up, there, back, set_ms },
    );
    prop::collection::vec(exchange, 1..20)
}

/// Both clocks of the node, `steady` microseconds after it started.
fn reading(steady: u64, wall_ahead_us: i64) -> Reading {
    let wall = 2_000_000_000_000u64.saturating_add_signed(wall_ahead_us) + steady;
    Reading { wall_ms: wall / 1000, steady_ms: steady / 1000 }
}

proptest! {
    /// However answers are delayed, whenever the node's own clock is set, and while the peer's drifts
    /// by up to 1 ms a second.
    #[test]
    fn every_difference_is_true_within_its_error(
        exchanges in exchanges(), ahead_us in -900_000_000..900_000_000i64, ppm in -1_000..=1_000i64
    ) {
        let mut skew = Skew::default();
        let (mut now, mut own_us) = (0u64, 0i64);
        let theirs_ahead_us = |at: u64| ahead_us + at as i64 * ppm / 1_000_000;
        for Exchange { pause, held_up, there, back, set_ms } in exchanges {
            now += pause;
            let asked = Reading {
                steady_ms: reading(now, 0).steady_ms,
                ..reading(now + held_up, own_us)
            };
            now += held_up + there;
            let theirs_ms = reading(now, theirs_ahead_us(now)).wall_ms;
            now += back;
            skew.on_answer(NodeId(1), asked, reading(now, own_us), theirs_ms);
            own_us += set_ms * 1000;
            for (_, Offset { ms, error_ms }) in skew.offsets(reading(now, own_us)) {
                let truth_us = theirs_ahead_us(now) - own_us;
                prop_assert!(
                    (ms * 1000 - truth_us).abs() <= error_ms * 1000,
                    "{ms} ± {error_ms} ms, in truth {truth_us} us"
                );
            }
        }
    }

    /// So who is off differs by that much from half of the others; and who differs from more than
    /// half of them on one side, by more than what answers leave uncertain, is off.
    #[test]
    fn a_node_is_off_only_if_half_of_the_others_lie_beyond_the_bound(
        others in prop::collection::vec((-2_000..2_000i64, 0..400u64), 1..7), max_ms in 0..1_000u64
    ) {
        let mut skew = Skew::default();
        for (at, &(ahead_ms, took_ms)) in others.iter().enumerate() {
            // All of the time was spent on the way there, or back.
            let read_ms = if at % 2 == 0 { took_ms } else { 0 };
            let theirs_ms = later(ahead_ms, 0).wall_ms + read_ms;
            skew.on_answer(NodeId(at as u64), NOW, later(took_ms as i64, took_ms), theirs_ms);
        }
        let max = max_ms as i64;
        let beyond = |by: &dyn Fn(i64, i64) -> bool| {
            others.iter().filter(|&&(ahead, took)| by(ahead, took as i64 + 2 * ROUNDING_MS)).count()
        };
        let off = skew.is_off(max_ms, NOW).unwrap();
        let above = beyond(&|ahead, _| ahead > max);
        let below = beyond(&|ahead, _| ahead < -max);
        prop_assert!(!off || 2 * above.max(below) >= others.len());
        let above = beyond(&|ahead, uncertain| ahead > max + uncertain);
        let below = beyond(&|ahead, uncertain| ahead < -max - uncertain);
        prop_assert!(off || 2 * above.max(below) <= others.len());
    }

    #[test]
    fn the_fast_check_agrees_with_the_median(
        offsets in prop::collection::vec(-20..20i64, 0..7), max_ms in 0..12u64
    ) {
        let skew = skew(&offsets);
        let off = skew.ahead_ms(NOW).map(|ahead| ahead.unsigned_abs() > max_ms);
        prop_assert_eq!(skew.is_off(max_ms, NOW), off);
    }

    #[test]
    fn no_clock_makes_it_panic(
        theirs in any::<u64>(), wall in any::<u64>(), steady in any::<u64>(),
        next in (any::<u64>(), any::<u64>()), max_ms in any::<u64>()
    ) {
        let mut skew = Skew::default();
        let then = Reading { wall_ms: wall, steady_ms: steady };
        let now = Reading { wall_ms: next.0, steady_ms: next.1 };
        for (asked, answered) in [(then, then), (then, now), (now, then)] {
            skew.on_answer(NodeId(1), asked, answered, theirs);
            let _ = (skew.ahead_ms(now), skew.is_off(max_ms, now), now.set_since(then));
        }
    }
}
