//! Runs from seeds, under faults, with every promise checked.
//!
//! ```text
//!   QUORATE_SIM_SEEDS=500 cargo test -p quorate-tests --test sim     more seeds
//!   QUORATE_SIM_FIRST=500 ...                                        others
//!   QUORATE_SEED=17 ... sim_lww -- --nocapture                       one, with its trace
//! ```

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod report;

use quorate_tests::sim::profile::Profile;

use self::report::run_all;

#[test]
fn sim_siblings_keep_their_promises_under_harmless_faults() {
    run_all("siblings", Profile::SIBLINGS, 60);
}

#[test]
fn sim_three_nodes_keep_their_promises_under_harmless_faults() {
    run_all("three", Profile::THREE, 60);
}

#[test]
fn sim_siblings_keep_what_no_node_lost() {
    run_all("everything", Profile::EVERYTHING, 60);
}

#[test]
fn sim_lww_keeps_its_promises_under_harmless_faults() {
    run_all("lww", Profile::LWW, 60);
}

#[test]
fn sim_lww_keeps_what_no_node_lost() {
    run_all("lww_everything", Profile::LWW_EVERYTHING, 60);
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
