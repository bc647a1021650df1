//! Running many seeds, and telling of those that fail what it takes to see it again.

#![allow(clippy::print_stdout, reason = "a test says which runs it made")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use quorate_tests::checkers::Verdict;
use quorate_tests::sim::profile::Profile;
use quorate_tests::sim::run::{Report, Scenario};
use quorate_tests::sim::seeds;
use quorate_tests::sim::shrink::shrink;

/// How many runs it may take to make a failing one small.
const SHRINK_RUNS: usize = 150;

/// One seed of so many is run twice, and must be one run.
const AGAIN_EVERY: u64 = 20;

/// How many acknowledged writes a seed has at least, on average: less would prove little.
const ACKNOWLEDGED_MIN: usize = 150;

/// How many of a thousand acknowledged writes may be excused: with more, runs would prove little.
const EXCUSED_OF_1000: usize = 10;

/// How many of a hundred reads that promise anything must keep it, whatever was lost, at least.
const BELIEVED_OF_100: usize = 20;

/// Of fewer seeds than these nothing is asked that is true on average.
const FEW: u64 = 10;

#[derive(Default)]
struct Sum {
    operations: usize,
    acknowledged: usize,
    excused: usize,
    unknown: usize,
    reads: usize,
    promised: usize,
    believed: usize,
    simulated_ms: u64,
}

/// Runs the seeds of a profile, and panics with the first that breaks a promise.
pub(crate) fn run_all(name: &str, profile: Profile, by_default: u64) {
    let (seeds, began, mut sum) = (seeds::seeds(by_default), Instant::now(), Sum::default());
    for seed in seeds.clone() {
        let scenario = profile.scenario(seed);
        let traced = seeds::only().is_some();
        let report = scenario.run(traced).unwrap();
        let verdict = report.verdict();
        if traced {
            show(&scenario, &report, &verdict);
        }
        if !verdict.violations.is_empty() {
            failed(name, &scenario, &verdict.to_string());
        }
        let operations = report.history.operations.len();
        println!(
            "QUORATE_SEED={seed} of {name}: {operations} operations, {} excused",
            verdict.excused
        );
        if seed % AGAIN_EVERY == 0 {
            let again = scenario.run(false).unwrap();
            assert_eq!(again.fingerprint, report.fingerprint, "seed {seed} is not one run");
        }
        sum.add(&report, &verdict);
    }
    let count = seeds.end - seeds.start;
    let Sum { operations, acknowledged, excused, unknown, reads, .. } = sum;
    let Sum { promised, believed, simulated_ms, .. } = sum;
    let simulated = simulated_ms as f64 / 1000.0;
    let pace = simulated / began.elapsed().as_secs_f64();
    println!(
        "{name}: seeds={count} operations={operations} acknowledged={acknowledged} \
         excused={excused} unknown={unknown} reads={reads} believed={believed} of {promised} \
         ({simulated:.0} simulated seconds, {pace:.0} a second)"
    );
    let enough = ACKNOWLEDGED_MIN * count as usize;
    if count >= FEW {
        assert!(acknowledged > enough, "too little happened");
        assert!(excused * 1000 <= EXCUSED_OF_1000 * acknowledged, "too much is excused");
        assert!(believed * 100 >= BELIEVED_OF_100 * promised, "too few reads are held to be right");
    }
}

/// Runs a scenario that was kept, and panics if it breaks a promise; how many operations it had.
pub(crate) fn replay(path: &Path, traced: bool) -> usize {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let scenario: Scenario =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let report = scenario.run(traced).unwrap();
    let verdict = report.verdict();
    if traced {
        show(&scenario, &report, &verdict);
    }
    assert!(verdict.violations.is_empty(), "{} breaks a promise:\n{verdict}", path.display());
    report.history.operations.len()
}

impl Sum {
    fn add(&mut self, report: &Report, verdict: &Verdict) {
        self.operations += report.history.operations.len();
        self.acknowledged += verdict.acknowledged;
        self.excused += verdict.excused;
        self.unknown += verdict.unknown;
        self.reads += verdict.reads;
        self.promised += verdict.promised;
        self.believed += verdict.believed;
        self.simulated_ms += report.simulated_ms;
    }
}

/// What happened in a run, for whoever asked for its seed.
fn show(scenario: &Scenario, report: &Report, verdict: &Verdict) {
    println!("{scenario:#?}");
    report.trace.iter().for_each(|line| println!("{line}"));
    println!("{}\n{verdict}", scenario.faults);
}

/// What breaks in a run; nothing if it keeps all promises.
fn broken(scenario: &Scenario) -> Option<String> {
    let report = scenario.run(false).unwrap();
    match &report.failure {
        Some(failure) => Some(failure.root_cause().to_string()),
        None => report.verdict().violations.first().map(|v| v.invariant.to_owned()),
    }
}

/// Makes a failing run small, keeps it, and panics with what there is to say.
fn failed(name: &str, scenario: &Scenario, why: &str) -> ! {
    let Some(first) = broken(scenario) else {
        panic!(
            "QUORATE_SEED={} breaks a promise of {name}, and not when it is run again: a run is not \
             its seed alone\n{why}",
            scenario.seed
        );
    };
    let least =
        shrink(scenario, SHRINK_RUNS, |candidate| broken(candidate).as_ref() == Some(&first));
    let path = keep(name, &least);
    let report = least.run(true).unwrap();
    let file = |extension| File::create(path.with_extension(extension)).unwrap();
    let mut trace = file("trace");
    report.trace.iter().for_each(|line| writeln!(trace, "{line}").unwrap());
    report.history.write(file("history.jsonl")).unwrap();
    report.extra.write(file("extra.history.jsonl")).unwrap();
    let why_least = report.verdict();
    panic!(
        "QUORATE_SEED={} breaks a promise of {name}:\n{why}\n\nThe smallest run that fails like it \
         has {} of {} faults:\n{}{why_least}\nIt is kept, with its trace and history, at {}\n\
         QUORATE_SIM_REPLAY=that file runs it again",
        scenario.seed,
        least.faults.0.len(),
        scenario.faults.0.len(),
        least.faults,
        path.display(),
    );
}

fn keep(name: &str, scenario: &Scenario) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("sim");
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{name}-{}.json", scenario.seed));
    std::fs::write(&path, serde_json::to_string_pretty(scenario).unwrap()).unwrap();
    path
}
