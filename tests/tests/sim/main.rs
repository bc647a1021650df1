//! Runs from seeds, under faults, with every promise checked.
//!
//! ```text
//!   QUORATE_SIM_SEEDS=500 cargo test -p quorate-tests --test sim     more seeds
//!   QUORATE_SIM_FIRST=500 ...                                        others
//!   QUORATE_SEED=17 ... sim_lww_keeps_its -- --nocapture             one, with its trace
//!   QUORATE_SIM_REPLAY=FILE ... sim_regressions -- --nocapture       one that was kept
//! ```
//!
//! `regressions/` keeps scenarios that once broke a promise, by the name of what was mended.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod planted;
mod report;

use std::path::{Path, PathBuf};
use std::time::Instant;

use quorate_tests::history::Outcome;
use quorate_tests::sim::faults::{Fault, Planned, Schedule};
use quorate_tests::sim::profile::Profile;
use quorate_tests::sim::run::Scenario;
use quorate_tests::sim::workload::{Mix, Workload};

use self::report::{replay, run_all};

/// How many runs of each kind are made unless `QUORATE_SIM_SEEDS` says otherwise.
const SEEDS: u64 = 60;

/// And of each kind that takes longer.
const FEWER: u64 = 12;

#[test]
fn sim_siblings_keep_their_promises_under_harmless_faults() {
    run_all("siblings", Profile::SIBLINGS, SEEDS);
}

#[test]
fn sim_three_nodes_keep_their_promises_under_harmless_faults() {
    run_all("three", Profile::THREE, SEEDS);
}

#[test]
fn sim_siblings_keep_what_no_node_lost() {
    run_all("everything", Profile::EVERYTHING, SEEDS);
}

#[test]
fn sim_lww_keeps_its_promises_under_harmless_faults() {
    run_all("lww", Profile::LWW, SEEDS);
}

#[test]
fn sim_lww_keeps_what_no_node_lost() {
    run_all("lww_everything", Profile::LWW_EVERYTHING, SEEDS);
}

#[test]
fn sim_sloppy_quorums_keep_their_promises_under_harmless_faults() {
    run_all("sloppy", Profile::SLOPPY, FEWER);
}

#[test]
fn sim_sloppy_quorums_keep_what_no_node_lost() {
    run_all("sloppy_everything", Profile::SLOPPY_EVERYTHING, FEWER);
}

#[test]
fn sim_sloppy_lww_keeps_what_no_node_lost() {
    run_all("sloppy_lww", Profile::SLOPPY_LWW, FEWER);
}

/// Whoever asks another node is answered, and nobody denies what was acknowledged.
#[test]
fn sim_sloppy_quorums_answer_while_one_node_fails_at_a_time() {
    run_all("steady", Profile::STEADY, FEWER);
}

#[test]
fn sim_metadata_does_not_fork_while_voters_are_wiped() {
    run_all("voters", Profile::VOTERS, SEEDS);
}

#[test]
fn sim_one_seed_is_one_run_to_the_byte() {
    for profile in [Profile::EVERYTHING, Profile::LWW_EVERYTHING] {
        let runs = [7, 7, 8].map(|seed| profile.scenario(seed).run(true).unwrap());
        let [first, again, other] = &runs;
        let differs = first.trace.iter().zip(&again.trace).position(|(one, two)| one != two);
        assert_eq!(differs, None, "{:?}", differs.map(|at| (&first.trace[at], &again.trace[at])));
        assert_eq!((first.trace.len(), first.fingerprint), (again.trace.len(), again.fingerprint));
        assert_eq!(first.history, again.history);
        assert_ne!(first.fingerprint, other.fingerprint);
        let untraced = profile.scenario(7).run(false).unwrap();
        assert_eq!(untraced.fingerprint, first.fingerprint, "to look on changes nothing");
        println!("seeds=3 operations={}", first.history.operations.len());
    }
}

/// Whoever waits for the end of a pause goes on in the order in which it came.
#[test]
fn sim_one_seed_is_one_run_whatever_stands_still() {
    let mut scenario = Profile::SIBLINGS.scenario(1);
    (scenario.workload.clients, scenario.workload.pause_ms) = (8, 5);
    let pauses = (0..40).flat_map(|n: u64| {
        let (at_ms, node) = (500 + 250 * n, (n % 5) as usize);
        [(at_ms, Fault::Pause(node)), (at_ms + 400, Fault::Resume(node))]
    });
    let mut planned: Vec<Planned> = pauses.map(|(at_ms, fault)| Planned { at_ms, fault }).collect();
    planned.sort_by_key(|planned| planned.at_ms);
    scenario.faults = Schedule(planned);
    let first = scenario.run(false).unwrap();
    for _ in 0..4 {
        let again = scenario.run(false).unwrap();
        assert_eq!(again.fingerprint, first.fingerprint);
        assert_eq!(again.history, first.history);
    }
    println!("seeds=5 operations={}", 5 * first.history.operations.len());
}

/// Clients that never say what they saw pile up siblings until owners admit no more.
#[test]
fn sim_a_crowd_of_siblings_keeps_its_promises() {
    let (mut operations, mut refused) = (0, 0);
    for seed in 0..3 {
        let mut scenario = Profile::SIBLINGS.scenario(seed);
        let Workload { clients, keys, pause_ms, .. } = &mut scenario.workload;
        (*clients, *keys, *pause_ms) = (6, 2, 20);
        scenario.workload.mix = Mix::CROWD;
        let report = scenario.run(false).unwrap();
        let verdict = report.verdict();
        assert!(verdict.violations.is_empty(), "seed {seed} breaks a promise:\n{verdict}");
        operations += report.history.operations.len();
        let is_refusal = |outcome: &Outcome| match outcome {
            Outcome::NotApplied(why) => why.contains("siblings, as many"),
            _ => false,
        };
        let told = report.history.operations.iter().map(|operation| &operation.outcome);
        refused += told.filter(|outcome| is_refusal(outcome)).count();
    }
    println!("seeds=3 operations={operations}");
    assert!(refused > operations / 50, "of {operations} only {refused} were too many");
}

/// What once broke a promise keeps it.
#[test]
fn sim_regressions() {
    if let Ok(path) = std::env::var("QUORATE_SIM_REPLAY") {
        return println!("seeds=1 operations={}", replay(Path::new(&path), true));
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/regressions");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no scenario is kept");
    let operations: usize = files.iter().map(|file| replay(file, false)).sum();
    println!("seeds={} operations={operations}", files.len());
}

/// Five nodes that nothing happens to, at 200 operations a second: what a simulated second costs.
#[test]
fn sim_pace() {
    let workload = Workload {
        clients: 8,
        keys: 16,
        pause_ms: 33,
        mix: Mix::ALL,
        lww: false,
        n: 3,
        synced_of_100: 20,
        timeout_ms: 2_000,
        retries: 4,
        weak_writes: true,
        administrators: 0,
        extra_n: [3, 3],
        sloppy: false,
        steady: false,
    };
    let faults = Schedule::default();
    let scenario =
        Scenario { seed: 1, nodes: 5, length_ms: 60_000, notice_ms: 7_000, workload, faults };
    let began = Instant::now();
    let report = scenario.run(false).unwrap();
    assert!(report.failure.is_none(), "{:?}", report.failure);
    let seconds = scenario.length_ms as f64 / 1000.0;
    let operations = report.history.operations.len();
    println!(
        "seeds=1 operations={operations}: {:.0} a simulated second, {:.0} of them a second",
        operations as f64 / seconds,
        seconds / began.elapsed().as_secs_f64(),
    );
    assert!(operations > 9_000, "too little happened");
}
