//! Every planted defect is caught, each by the promise that it breaks. It needs a build with the
//! defects, which `tests/tests/sim/planted.rs` makes; otherwise there is nothing here. By hand:
//!
//! ```text
//!   RUSTC_WORKSPACE_WRAPPER=$PWD/tests/scripts/mutants.sh \
//!     cargo test -p quorate-tests --test mutants -- --nocapture
//!   QUORATE_MUTANT=one_ack_too_few ...                               one defect: all that it breaks
//! ```
#![cfg(quorate_mutants)]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use quorate_node::mutants;
use quorate_tests::sim::mutants::{DEFECTS, Defect, Runs, holds};

#[test]
fn the_names_are_those_that_the_ordinary_program_is_searched_for() {
    let names: Vec<&str> = DEFECTS.iter().map(|defect| defect.name).collect();
    assert_eq!(names, mutants::NAMES);
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    for name in names {
        assert!(holds(&program, &format!("planted: {name}")), "{name} is planted nowhere");
    }
}

#[test]
fn every_planted_defect_is_caught() {
    let only = std::env::var("QUORATE_MUTANT").ok();
    let wanted = |defect: &&Defect| only.as_ref().is_none_or(|only| only == defect.name);
    let defects: Vec<&Defect> = DEFECTS.iter().filter(wanted).collect();
    let caught = side_by_side(&defects, |defect| hunt(defect));
    let missed: Vec<&str> =
        defects.iter().zip(&caught).filter(|(_, at)| at.is_none()).map(|(d, _)| d.name).collect();
    assert!(missed.is_empty(), "these defects are not caught: {missed:?}");
    // The same runs without a defect: a checker that is never content has caught nothing.
    let mut controls: BTreeMap<String, (Runs, u64)> = BTreeMap::new();
    for (defect, last) in defects.iter().zip(caught.into_iter().flatten()) {
        let kind = match defect.runs {
            Runs::Seeds(profile, _) => format!("{profile:?}"),
            Runs::Told(_) => defect.name.to_owned(),
        };
        let of_kind = controls.entry(kind).or_insert((defect.runs, last));
        of_kind.1 = of_kind.1.max(last);
    }
    let controls: Vec<(String, Runs, u64)> = controls
        .into_iter()
        .flat_map(|(kind, (runs, last))| (0..=last).map(move |at| (kind.clone(), runs, at)))
        .collect();
    let broken = side_by_side(&controls, |(_, runs, at)| broken(*runs, *at));
    for ((kind, _, at), broken) in controls.iter().zip(broken) {
        assert!(broken.is_empty(), "without a defect: {broken:?} in run {at} of {kind}");
    }
    println!("{} runs without a defect break nothing", controls.len());
    let [runs, asked] = [&RUNS, &ASKED].map(|count| count.load(Ordering::Relaxed));
    println!("seeds={runs} operations={asked}");
}

/// How many runs were made, and what clients asked in those that came to an end.
static RUNS: AtomicUsize = AtomicUsize::new(0);
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// The first run that shows the defect.
fn hunt(defect: &Defect) -> Option<u64> {
    let Defect { name, runs, breaks } = *defect;
    let _active = mutants::activate(name);
    let mut others = BTreeSet::new();
    for at in 0..runs.count() {
        let broken = broken(runs, at);
        let is_it = |what: &&String| {
            *what == breaks || what.starts_with("panicked") && what.contains(breaks)
        };
        if broken.iter().find(is_it).is_some() {
            println!("mutant {name}: caught by {breaks} at run {at}; breaks {broken:?}");
            return Some(at);
        }
        others.extend(broken);
    }
    println!(
        "mutant {name}: not caught by {breaks} in {} runs, which break {others:?}",
        runs.count()
    );
    None
}

/// The invariants that a run breaks; or why there was none, a panic for example.
fn broken(runs: Runs, at: u64) -> BTreeSet<String> {
    RUNS.fetch_add(1, Ordering::Relaxed);
    let report = runs.run(at).unwrap();
    ASKED.fetch_add(report.history.operations.len(), Ordering::Relaxed);
    if let Some(failure) = report.failure {
        return BTreeSet::from([format!("{failure:#}")]);
    }
    let violations = report.verdict().violations;
    violations.into_iter().map(|violation| violation.invariant.to_owned()).collect()
}

/// The results of all of these, in their order: a run is one thread, and knows nothing of others.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, threads) =
        (AtomicUsize::new(0), thread::available_parallelism().map_or(1, NonZero::get));
    let take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
