//! Stories that checkers judge: none breaks a promise. (That each would, if the store made the mistake
//! that it is about, `mutants.rs` shows.)

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use quorate_tests::sim::stories::STORIES;
use quorate_tests::sim::story::{add, counted};

#[test]
fn sim_stories_break_no_promise() {
    counted(STORIES.len() as u64, || {
        for (name, story) in STORIES {
            let report = story().unwrap();
            let verdict = report.verdict();
            assert!(verdict.violations.is_empty(), "{name}: {verdict}");
            assert!(verdict.acknowledged > 0 && verdict.settled > 0, "{name}: {verdict}");
            add(report.history.operations.len());
        }
    });
}
