use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::testing::Story;
use super::testing::model::{Flaw, Plan, run};
use super::*;

#[test]
fn a_verdict_says_how_much_there_was_to_judge() {
    let mut story = Story::siblings();
    story.put("k", "x", "", "a1");
    story.delete("k", "a1", "a2");
    story.refused("k", Some("y"), "");
    story.unknown("k", Some("z"), "");
    story.read("k", "", Some("a2"));
    (1..=2).for_each(|node| story.loses(node, crate::history::LossKind::Wiped));
    let verdict = check(&story.history);
    let expected = Verdict {
        violations: Vec::new(),
        acknowledged: 2,
        excused: 2,
        unknown: 1,
        reads: 1,
        promised: 1,
        believed: 1,
        settled: 0,
    };
    assert_eq!(verdict, expected);
    story.settle("k", "", "").without_objects();
    assert_eq!(check(&story.history).settled, 3);
}

/// So many seeds: `QUORATE_SEED` names one to run again.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("QUORATE_SEED") {
        Ok(seed) => vec![seed.parse().expect("QUORATE_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

#[test]
fn a_store_that_keeps_its_promises_is_not_blamed() {
    let mut total = Verdict::default();
    for seed in seeds(150) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let plan = Plan::random(&mut rng);
        let verdict = check(&run(&mut rng, plan));
        assert!(verdict.violations.is_empty(), "seed {seed}, {plan:?}: {verdict}");
        total.acknowledged += verdict.acknowledged;
        total.excused += verdict.excused;
        total.unknown += verdict.unknown;
        total.reads += verdict.reads;
    }
    let Verdict { acknowledged, excused, unknown, reads, .. } = total;
    println!("{acknowledged} acknowledged, {excused} excused, {unknown} unknown, {reads} reads");
    assert!(acknowledged > 5_000 && unknown > 1_000 && reads > 5_000 && excused > 100);
}

#[test]
fn every_broken_promise_is_found() {
    for (flaw, lww, expected) in [
        (Flaw::LosesOnRestart, false, "I1"),
        (Flaw::LosesOnRestart, true, "I1"),
        (Flaw::AppliesWhatItRefuses, false, "I2"),
        (Flaw::ForgetsTombstones, false, "I3"),
        (Flaw::NumbersAgain, false, "I4"),
        (Flaw::BelievesInGaps, false, "I5"),
        (Flaw::TokensForAll, false, "I6"),
        (Flaw::KeepsSuperseded, false, "I6"),
        (Flaw::RepairsNothing, false, "I7"),
        (Flaw::RepairsNothing, true, "I7"),
        (Flaw::ReadsOne, false, "I10"),
        (Flaw::ReadsOne, true, "I10"),
        (Flaw::IgnoresTokenTimes, true, "I1"),
        (Flaw::AcksAlone, false, "I17"),
        (Flaw::AcksAlone, true, "I17"),
        (Flaw::KeepsNothing, false, "I17"),
        (Flaw::KeepsNothing, true, "I17"),
        (Flaw::DropsHints, false, "I19"),
        (Flaw::DropsHints, true, "I19"),
        (Flaw::HandsOverToMemory, false, "I19"),
        (Flaw::KeepsHints, false, "I7"),
        (Flaw::DeniesByTwo, false, "not found"),
    ] {
        let mut found = 0;
        for seed in 0..20 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let plan = Plan { flaw: Some(flaw), lww, ..Plan::random(&mut rng) };
            let plan = Plan { losses: matches!(flaw, Flaw::NumbersAgain), ..plan };
            let verdict = check(&run(&mut rng, plan));
            let of = |violation: &Violation| violation.invariant == expected;
            found += usize::from(verdict.violations.iter().any(of));
        }
        println!("{flaw:?} (lww: {lww}): {expected} in {found} runs of 20");
        assert!(found > 0, "{flaw:?} (lww: {lww}) never broke {expected}");
    }
}

#[test]
fn long_histories_are_checked_in_little_time() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for lww in [false, true] {
        let plan = Plan { lww, steps: 20_000, keys: 1, losses: false, ..Plan::random(&mut rng) };
        let history = run(&mut rng, plan);
        let began = std::time::Instant::now();
        let verdict = check(&history);
        println!("{} operations of a key in {:?}", history.operations.len(), began.elapsed());
        assert!(history.operations.len() > 4_500);
        assert!(verdict.violations.is_empty(), "{verdict}");
    }
}
