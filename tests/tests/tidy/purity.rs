//! The protocol is code that can be read, tested and replayed without opening a file or a socket.

use std::collections::BTreeSet;

use super::assert_none;
use super::packages::dependencies;
use super::source::{Source, has_word, names_after, rust};

const CORE: &str = "node/src/dynamo";

/// What the core may use beside std: nouns, hashes, and the traits of randomness.
const CRATES: [&str; 6] =
    ["blake3", "bytes", "consistent_hash_ring", "rand_core", "thiserror", "xxhash_rust"];

/// What its tests may use as well.
const TEST_CRATES: [&str; 4] = ["goldenscript", "proptest", "rand", "rand_chacha"];

/// What makes a run differ from the last one, or waits for the world.
const FORBIDDEN: [(&str, &str); 15] = [
    ("async", "machines answer with effects; whoever drives them waits"),
    ("await", "machines answer with effects; whoever drives them waits"),
    ("Instant", "time comes in as an argument"),
    ("SystemTime", "time comes in as an argument"),
    ("HashMap", "its order changes from run to run; take a BTreeMap"),
    ("HashSet", "its order changes from run to run; take a BTreeSet"),
    ("RandomState", "its seed changes from run to run"),
    ("Mutex", "a machine has one owner"),
    ("RwLock", "a machine has one owner"),
    ("std::fs", "no IO"),
    ("std::net", "no IO"),
    ("std::process", "no IO"),
    ("std::thread", "no threads"),
    ("std::env", "no environment"),
    ("std::io", "no IO"),
];

#[test]
fn the_core_uses_few_crates() {
    let known = dependencies();
    let offences = rust(CORE).into_iter().flat_map(|source| {
        let mut foreign = foreign_crates(&source, source.production(), &known, &CRATES);
        let for_tests: Vec<&str> = CRATES.into_iter().chain(TEST_CRATES).collect();
        foreign.extend(foreign_crates(&source, source.code(), &known, &for_tests));
        foreign
    });
    assert_none(
        offences,
        "The pure core uses std and a few crates (tests/tests/tidy/purity.rs); let the shell do it:",
    );
}

#[test]
fn the_core_has_no_io_clock_lock_or_hash_order() {
    let offences = rust(CORE).into_iter().flat_map(|source| {
        let lines = source.production().flat_map(|(at, line)| {
            let words = FORBIDDEN.iter().filter(|(word, _)| has_word(line, word));
            words
                .map(|(word, why)| format!("{}:{at}: {word}: {why}", source.path))
                .collect::<Vec<_>>()
        });
        lines.collect::<Vec<_>>()
    });
    assert_none(offences, "The protocol is pure code. Take these out of node/src/dynamo:");
}

fn foreign_crates<'a>(
    source: &Source,
    code: impl Iterator<Item = (usize, &'a str)>,
    known: &BTreeSet<String>,
    allowed: &[&str],
) -> BTreeSet<String> {
    let code: String = code.flat_map(|(_, line)| [line, "\n"]).collect();
    let crates = known.iter().map(|name| name.replace('-', "_"));
    let foreign = crates.filter(|name| !allowed.contains(&name.as_str()));
    let used = foreign.filter(|name| !names_after(&code, &format!("{name}::")).is_empty());
    used.map(|name| format!("{}: {name}", source.path)).collect()
}
