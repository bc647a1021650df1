//! Histories on disk are checked as those of the simulator are: so any harness that can write one down
//! learns whether what it saw can be true.
//!
//! `QUORATE_HISTORY=some.jsonl cargo test -p quorate-tests --test history` checks another file.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use quorate_tests::checkers::{Verdict, check};
use quorate_tests::history::History;

fn checked(path: &Path) -> Verdict {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    check(&History::read(BufReader::new(file)).unwrap())
}

fn committed(name: &str) -> Verdict {
    checked(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories").join(name))
}

#[test]
fn a_sound_history_is_accepted() {
    let verdict = committed("sound.jsonl");
    assert!(verdict.violations.is_empty(), "{verdict}");
    let Verdict { acknowledged, excused, unknown, reads, settled, .. } = verdict;
    assert_eq!((acknowledged, excused, unknown, reads, settled), (5, 2, 1, 3, 3));
}

/// "apples and bread" was on two disks, and all owners hold what it replaced.
#[test]
fn a_lost_write_is_found() {
    let verdict = committed("lost.jsonl");
    let lost = verdict.violations.iter().find(|violation| violation.invariant == "I1");
    let lost = lost.unwrap_or_else(|| panic!("{verdict}"));
    assert_eq!(lost.operations, [4]);
    assert!(lost.text.contains("\"apples and bread\" 11:2"), "{lost}");
    // Who says so in its frontier, and in its receipt, is found as well; nobody else is blamed.
    let found: BTreeSet<_> = verdict.violations.iter().map(|v| v.invariant).collect();
    assert_eq!(found, BTreeSet::from(["I1", "I17", "I5"]), "{verdict}");
}

#[test]
fn a_history_is_written_as_it_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories/sound.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let history = History::read(text.as_bytes()).unwrap();
    let mut written = Vec::new();
    history.write(&mut written).unwrap();
    assert_eq!(History::read(&*written).unwrap(), history);
}

#[test]
fn a_history_that_is_named_is_accepted() {
    let Some(path) = std::env::var_os("QUORATE_HISTORY") else { return };
    let verdict = checked(Path::new(&path));
    println!("{verdict}");
    assert!(verdict.violations.is_empty(), "{verdict}");
}
