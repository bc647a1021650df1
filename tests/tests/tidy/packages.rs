//! What comes from others: licences, duplicates, and a sentence for each.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::assert_none;
use super::source::{files, read, root};

/// Licences that ask for no more than their text beside the program.
const LICENCES: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Zlib",
];

/// Packages that are there in more than one version, how many, and who needs the other ones.
const DUPLICATES: [(&str, usize, &str); 10] = [
    ("base64", 2, "tonic 0.14 has 0.22; ours is newer"),
    ("console", 2, "goldenscript's similar-asserts has 0.15; indicatif 0.16"),
    ("getrandom", 2, "ring has 0.2; rand and tempfile 0.4"),
    ("hashbrown", 4, "dashmap, petgraph, quick_cache and indexmap have one each"),
    ("itertools", 2, "criterion has 0.13; prost-derive 0.14"),
    ("parking_lot", 2, "sled has 0.11; tokio and others 0.12"),
    ("parking_lot_core", 2, "as parking_lot"),
    ("nom", 2, "x509-parser has 7; goldenscript, for tests, 8"),
    ("syn", 2, "macro crates move to 3 one by one; build time only"),
    ("unicode-width", 2, "miette, of protox, has 0.1; build time only"),
];

/// A package of the workspace.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) dependencies: BTreeSet<String>,
}

/// What cargo says of the workspace and of all that it is built from on this platform.
pub(crate) struct Metadata {
    pub(crate) members: Vec<Member>,
    /// Name, version, licence of those of others.
    foreign: Vec<(String, String, Option<String>)>,
}

/// Asks cargo. Limited to this platform, since cargo has fetched no more than that.
pub(crate) fn metadata() -> Metadata {
    let json = run(&["metadata", "--format-version=1", "--locked", "--filter-platform", &host()]);
    let json: Value = serde_json::from_str(&json).expect("cargo metadata writes JSON");
    let used = json["resolve"]["nodes"].as_array().expect("cargo resolves by default");
    let used: BTreeSet<&str> = used.iter().filter_map(|node| node["id"].as_str()).collect();
    let packages = json["packages"].as_array().expect("metadata lists packages");
    let (mut members, mut foreign) = (Vec::new(), Vec::new());
    for package in packages.iter().filter(|package| used.contains(text(&package["id"]))) {
        let name = text(&package["name"]).to_owned();
        if package["source"].is_null() {
            let list = package["dependencies"].as_array().expect("a package lists dependencies");
            let dependencies = list.iter().map(|d| text(&d["name"]).to_owned()).collect();
            members.push(Member { name, dependencies });
        } else {
            let licence = package["license"].as_str().map(str::to_owned);
            foreign.push((name, text(&package["version"]).to_owned(), licence));
        }
    }
    Metadata { members, foreign }
}

/// The packages named in any `Cargo.toml` of the workspace, ours left out.
pub(crate) fn dependencies() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for manifest in files("", &["Cargo.toml"]) {
        let table: toml::Table = manifest.text.parse().expect("cargo has read it before");
        let workspace = table.get("workspace").and_then(|w| w.as_table());
        for table in [Some(&table), workspace].into_iter().flatten() {
            for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
                let list = table.get(kind).and_then(|list| list.as_table());
                names.extend(list.into_iter().flat_map(|list| list.keys().cloned()));
            }
        }
    }
    names.retain(|name| !name.starts_with("quorate-"));
    names
}

#[test]
fn every_dependency_has_a_sentence() {
    let map = read("ARCHITECTURE.md");
    let silent = dependencies().into_iter().filter(|name| !map.contains(&format!("`{name}`")));
    assert_none(silent, "Say in ARCHITECTURE.md, under Dependencies, what for and why this one:");
}

#[test]
fn licences_are_compatible() {
    let foreign = metadata().foreign.into_iter();
    let wrong = foreign.filter(|(_, _, licence)| !licence.as_deref().is_some_and(is_allowed));
    let wrong = wrong.map(|(name, version, licence)| {
        format!("{name} {version}: {}", licence.as_deref().unwrap_or("no SPDX expression"))
    });
    assert_none(
        wrong,
        "Not among the licences of tests/tests/tidy/packages.rs; read, then decide:",
    );
}

#[test]
fn duplicates_are_known() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, version, _) in metadata().foreign {
        versions.entry(name).or_default().insert(version);
    }
    let known = |name: &str| DUPLICATES.iter().find(|d| d.0 == name).map_or(1, |d| d.1);
    let more = versions.iter().filter(|(name, versions)| versions.len() > known(name));
    assert_none(
        more.map(|(name, versions)| format!("{name}: {versions:?}")),
        "Two versions of one package: `cargo tree -d` says who needs which. Unify them, or add the \
         reason to tests/tests/tidy/packages.rs:",
    );
    let gone = DUPLICATES.iter().filter(|d| versions.get(d.0).map_or(0, BTreeSet::len) < d.1);
    assert_none(
        gone.map(|(name, count, _)| format!("{name}: fewer than {count} versions")),
        "Good news: remove or lower these in tests/tests/tidy/packages.rs:",
    );
}

/// Whether each part of an SPDX expression leaves a licence that we may choose. `AND` is split
/// first: of an expression that mixes both without parentheses that asks too much, not too little.
fn is_allowed(expression: &str) -> bool {
    expression.split(" AND ").all(|part| {
        let part = part.trim_matches(['(', ')']).replace('/', " OR ");
        part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim()))
    })
}

#[test]
fn licence_expressions_are_understood() {
    assert!(is_allowed("MIT/Apache-2.0") && is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(is_allowed("GPL-3.0 OR MIT") && !is_allowed("MIT AND GPL-3.0") && !is_allowed("SSPL"));
}

fn run(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output();
    let output = output.expect("cargo runs this test");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {}: {stderr}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

fn host() -> String {
    let version = run(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("cargo -vV names the host").to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("this field of the metadata is text")
}
