//! Sizes, docs at the top, nothing left over, links that lead somewhere.

use super::assert_none;
use super::source::{Source, files, has_word, read, root, rust};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
const ARCHITECTURE_LINES_MAX: usize = 240;

/// What people write and read.
const TEXTS: [&str; 6] = [".rs", ".proto", ".toml", ".md", ".sh", ".yaml"];

#[test]
fn files_are_short() {
    let long = files("", &[".rs", ".proto", ".toml", ".md"]).into_iter().filter_map(|source| {
        let lines = source.text.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines", source.path))
    });
    assert_none(long, "A file has at most 800 lines, tests included; find the second noun in:");
}

#[test]
fn the_map_is_short() {
    let lines = read("ARCHITECTURE.md").lines().count();
    assert!(
        lines <= ARCHITECTURE_LINES_MAX,
        "ARCHITECTURE.md is a map and has {lines} lines: keep it under {ARCHITECTURE_LINES_MAX}"
    );
}

#[test]
fn functions_are_short_by_lint() {
    let clippy = read(".clippy.toml");
    let threshold = format!("too-many-lines-threshold = {FUNCTION_LINES_MAX}");
    assert!(clippy.contains(&threshold), ".clippy.toml must say: {threshold}");
    let lints = read("Cargo.toml");
    for lint in ["too_many_lines", "unwrap_used", "todo", "unimplemented", "dbg_macro"] {
        let denied = format!("{lint} = \"deny\"");
        assert!(lints.contains(&denied), "[workspace.lints.clippy] in Cargo.toml: {denied}");
    }
    let manifests = files("", &["Cargo.toml"]).into_iter();
    let without = manifests
        .filter(|m| m.path != "Cargo.toml")
        .filter(|manifest| !manifest.text.contains("[lints]\nworkspace = true"));
    assert_none(without.map(|m| m.path), "Add `[lints]` with `workspace = true` to:");
}

#[test]
fn every_file_says_what_it_is() {
    // A `tests.rs` is about the module that holds it.
    let sources = rust("").into_iter().filter(|source| !source.path.ends_with("/tests.rs"));
    let mute = sources.filter(|source| {
        let first = source.text.lines().next().unwrap_or_default();
        !first.starts_with("//! ") || first.len() < "//! a b c".len()
    });
    assert_none(mute.map(|s| s.path), "Open with a `//!` sentence on what the file is and why:");
}

#[test]
fn nothing_is_left_over() {
    // Spelled in two parts, so that this file passes its own test.
    let words: [&str; 6] = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
        concat!("db", "g!"),
    ];
    assert_none(
        lines_with(|line| words.iter().any(|word| has_word(line, word))),
        "Do it now, or say it under \"Not there yet\" in ARCHITECTURE.md:",
    );
}

/// By one name and one line whoever runs them finds them, and sees how much there was to them.
#[test]
fn tests_of_the_simulator_say_what_they_did() {
    const SAY: [&str; 5] = ["story(", "counted(", "run_all(", "over_seeds(", "seeds="];
    let simulates =
        |path: &str| path.starts_with("tests/tests/sim") || path.ends_with("overload.rs");
    // Those start another program, or search one.
    let runs = |path: &str| simulates(path) && !path.ends_with("/planted.rs");
    let mut offences = Vec::new();
    for Source { path, text } in rust("tests/tests").into_iter().filter(|file| runs(&file.path)) {
        for test in text.split("#[test]\n").skip(1) {
            let body = test.split("\n}\n").next().unwrap_or(test);
            let named = body.starts_with("fn sim_");
            if !named || !SAY.iter().any(|way| body.contains(way)) {
                offences.push(format!("{path}: {}", body.lines().next().unwrap_or_default()));
            }
        }
    }
    assert_none(
        offences,
        "Name it sim_..., and have it print `seeds=N operations=M` (sim::story, sim::story::counted):",
    );
}

/// A change is judged on the same inputs each time; others are tried on demand.
#[test]
fn tests_draw_no_seeds() {
    let draws = ["rand::random", "rand::rng", "rand::make_rng", "SysRng"];
    let mut offences = Vec::new();
    for source in rust("").into_iter().filter(|source| source.path != OWN_PATH) {
        let of_tests = source.path.starts_with("tests/");
        let production: Vec<usize> = source.production().map(|(at, _)| at).collect();
        for (at, line) in source.code() {
            let tests = of_tests || production.binary_search(&at).is_err();
            if tests && draws.iter().any(|draw| has_word(line, draw)) {
                offences.push(format!("{}:{at}: {}", source.path, line.trim()));
            }
        }
    }
    assert_none(offences, "Fix the seed, and let the environment name another (CONTRIBUTING.md):");
    let properties = read(".cargo/config.toml").contains("\nPROPTEST_RNG_SEED = \"");
    assert!(properties, ".cargo/config.toml fixes the seed of the properties: PROPTEST_RNG_SEED");
}

#[test]
fn no_path_of_a_machine() {
    let places = ["/home/", "/Users/", "/root/", concat!("/wo", "rk/"), "C:\\"];
    let places = places.map(|place| place.to_owned());
    let here = root().display().to_string();
    let offences = lines_with(|line| {
        line.contains(&here) || places.iter().any(|place| begins_a_path(line, place))
    });
    let other = offences.into_iter().filter(|offence| !offence.starts_with(OWN_PATH));
    assert_none(other, "Paths of one machine mean nothing on another; take them out of:");
}

/// This file names what it looks for.
const OWN_PATH: &str = "tests/tests/tidy/habits.rs";

fn begins_a_path(line: &str, place: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || "._-~$/}".contains(c);
    line.match_indices(place).any(|(at, _)| !line[..at].ends_with(inside))
}

#[test]
fn pages_that_are_named_exist() {
    let pages = files("", &[".md"]);
    let known = |name: &str| {
        let end = format!("/{name}");
        pages.iter().any(|page| page.path == name || page.path.ends_with(&end))
    };
    let lost = files("", &[".rs", ".proto", ".toml", ".md"]).into_iter().flat_map(|source| {
        let names = source.text.split(|c: char| !(c.is_alphanumeric() || "._-/".contains(c)));
        let names = names.map(|name| name.trim_end_matches('.').trim_start_matches("./"));
        let lost = names.filter(|name| name.len() > ".md".len() && name.ends_with(".md"));
        let lost = lost.filter(|name| !known(name) && !name.contains("//"));
        lost.map(|name| format!("{}: {name}", source.path)).collect::<Vec<_>>()
    });
    assert_none(lost, "These pages are not in the repository; correct the name or drop it:");
}

#[test]
fn links_lead_somewhere() {
    let lost = files("", &[".md"]).into_iter().flat_map(|page| {
        let folder = root().join(&page.path);
        let folder = folder.parent().expect("a page lies in a folder").to_owned();
        let targets = page.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let targets = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
        let files = targets.map(|target| target.split('#').next().unwrap_or(target));
        let lost = files.filter(|file| !folder.join(file).exists());
        lost.map(|file| format!("{}: {file}", page.path)).collect::<Vec<_>>()
    });
    assert_none(lost, "These links lead nowhere:");
}

/// Each line of the repository's texts that `is_wrong`, with its place.
fn lines_with(is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in files("", &TEXTS) {
        for (at, line) in source.text.lines().enumerate().filter(|(_, line)| is_wrong(line)) {
            found.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
        }
    }
    found
}

/// A key that is read, checked and explained, and then changes nothing, is a lie.
#[test]
fn every_key_of_the_configuration_is_used() {
    let deployed: toml::Table = read("deploy/node.toml").parse().expect("a test reads it as TOML");
    let sources = files("node/src", &[".rs"]);
    let outside = |path: &str| {
        !path.starts_with("node/src/config")
            && !path.ends_with("args.rs")
            && !path.contains("tests")
    };
    let used = |key: &str| {
        let key = match key {
            "shards" => "shard_count",
            "memory_max_bytes" => "memory_bytes",
            key => key,
        };
        let reading = format!("config.{key}");
        sources.iter().any(|source| outside(&source.path) && source.text.contains(&reading))
    };
    let unused = deployed.keys().filter(|key| !used(key));
    assert_none(unused, "Nothing in the node reads these keys of the configuration; wire them:");
}
