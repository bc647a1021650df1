//! Who may use whom.

use std::collections::{BTreeMap, BTreeSet};

use super::assert_none;
use super::packages::{Metadata, metadata};
use super::source::{Source, names_after, read, rust};

/// The modules of the node, bottom up: each may use those named beside it, all of which stand above
/// it in this table. So no circle can be written down here, and the order is the architecture.
const MODULES: [(&str, &[&str]); 29] = [
    // A macro that anybody may write, and names nothing.
    ("mutants", &[]),
    // The protocol uses nothing.
    ("dynamo", &[]),
    // What everybody may see.
    ("signal", &[]),
    ("env", &["signal"]),
    ("trace", &[]),
    ("clocks", &["dynamo", "env"]),
    // Keeping bytes.
    ("storage", &["dynamo"]),
    // Why requests fail, and who may ask for leave.
    ("error", &["dynamo", "storage"]),
    ("limits", &["error"]),
    // Carrying bytes.
    ("transport", &["dynamo", "error", "limits", "trace"]),
    // What an operator chooses and sees.
    ("config", &["storage"]),
    ("telemetry", &["config", "dynamo", "error"]),
    ("http", &["telemetry"]),
    // Who is there.
    ("liveness", &["dynamo"]),
    // Running requests.
    ("vnode", &["clocks", "dynamo", "error", "storage"]),
    ("standing", &["dynamo", "storage"]),
    ("shard", &["clocks", "dynamo", "env", "error", "limits", "standing", "storage", "vnode"]),
    ("cluster", &["dynamo", "env", "error", "signal", "storage", "transport"]),
    (
        "coordinator",
        &[
            "clocks",
            "cluster",
            "dynamo",
            "env",
            "error",
            "limits",
            "liveness",
            "shard",
            "standing",
            "trace",
            "transport",
            "vnode",
        ],
    ),
    // Answering, and working in the background.
    (
        "service",
        &[
            "cluster",
            "coordinator",
            "dynamo",
            "error",
            "limits",
            "liveness",
            "shard",
            "standing",
            "telemetry",
            "trace",
            "transport",
            "vnode",
        ],
    ),
    (
        "tasks",
        &[
            "clocks",
            "cluster",
            "coordinator",
            "dynamo",
            "env",
            "error",
            "limits",
            "liveness",
            "shard",
            "signal",
            "standing",
            "storage",
            "telemetry",
            "transport",
            "vnode",
        ],
    ),
    // Putting together.
    (
        "replica",
        &[
            "clocks",
            "cluster",
            "coordinator",
            "dynamo",
            "env",
            "limits",
            "liveness",
            "service",
            "shard",
            "standing",
            "storage",
            "tasks",
            "telemetry",
            "transport",
            "vnode",
        ],
    ),
    (
        "node",
        &[
            "cluster",
            "config",
            "dynamo",
            "env",
            "error",
            "http",
            "limits",
            "replica",
            "service",
            "standing",
            "storage",
            "telemetry",
            "transport",
        ],
    ),
    // The command line.
    ("certs", &["config", "transport"]),
    ("args", &["config"]),
    ("process", &[]),
    ("init", &["config", "dynamo", "transport"]),
    ("dev", &["args", "certs", "dynamo", "init", "process"]),
    (
        "commands",
        &["args", "certs", "config", "dev", "http", "init", "node", "process", "telemetry"],
    ),
];

/// A use of one module by another, and one file that shows it.
type Edges = BTreeMap<(String, String), String>;

#[test]
fn the_table_of_modules_has_no_circle() {
    let mut above = BTreeSet::new();
    for (module, uses) in MODULES {
        let unknown: Vec<_> = uses.iter().filter(|used| !above.contains(*used)).collect();
        assert_none(&unknown, &format!("{module} may only use what stands above it in the table:"));
        assert!(above.insert(module), "{module} stands twice in the table");
    }
}

#[test]
fn modules_use_only_what_is_below_them() {
    let known: BTreeSet<&str> = MODULES.iter().map(|(module, _)| *module).collect();
    let edges = edges(&known);
    let allowed = |(from, to): &(String, String)| {
        let listed = MODULES.iter().find(|(module, _)| module == from);
        listed.is_some_and(|(_, uses)| uses.contains(&to.as_str()))
    };
    let offences = edges.iter().filter(|(edge, _)| !allowed(edge));
    assert_none(
        offences.map(|((from, to), path)| format!("{from} uses {to}: {path}")),
        "Dependencies point one way. Pass in what is needed as an argument or a trait, or move it \
         down; if the edge is right, add it to MODULES in tests/tests/tidy/direction.rs:",
    );
    let listed = MODULES.iter().flat_map(|(from, uses)| uses.iter().map(move |to| (*from, *to)));
    let unused =
        listed.filter(|(from, to)| !edges.contains_key(&((*from).to_owned(), (*to).to_owned())));
    assert_none(
        unused.map(|(from, to)| format!("{from} does not use {to}")),
        "The table says more than the code does; remove from tests/tests/tidy/direction.rs:",
    );
}

#[test]
fn every_module_of_the_node_is_in_the_table() {
    let declared = read("node/src/lib.rs");
    let declared =
        declared.lines().filter_map(|line| line.strip_prefix("pub mod ")?.split(';').next());
    let missing = declared.filter(|name| !MODULES.iter().any(|(module, _)| module == name));
    assert_none(missing, "Give these modules a place in tests/tests/tidy/direction.rs:");
}

#[test]
fn main_is_only_an_entry() {
    let main = read("node/src/main.rs");
    let used: BTreeSet<&str> = names_after(&main, "quorate_node::").into_iter().collect();
    let more = used.iter().filter(|name| !["args", "commands"].contains(name));
    assert_none(more, "main.rs reads the command line and runs a command; move this below it:");
    assert!(main.lines().count() <= 80, "main.rs has more than 80 lines; move code to commands/");
}

#[test]
fn only_dev_is_a_client() {
    let clients = rust("node/src").into_iter().filter(|source| {
        !source.path.starts_with("node/src/dev/")
            && source.code().any(|(_, line)| line.contains("quorate_client"))
    });
    assert_none(
        clients.map(|source| source.path),
        "A node is no client of itself: only node/src/dev may use quorate_client:",
    );
}

#[test]
fn packages_depend_one_way() {
    let allowed: [(&str, &[&str]); 4] = [
        ("quorate-proto", &[]),
        ("quorate-client", &["quorate-proto"]),
        ("quorate-node", &["quorate-client", "quorate-proto"]),
        ("quorate-tests", &["quorate-client", "quorate-node", "quorate-proto"]),
    ];
    let Metadata { members, .. } = metadata();
    let offences = members.iter().flat_map(|member| {
        let rule = allowed.iter().find(|(name, _)| *name == member.name);
        let (_, uses) = rule.unwrap_or_else(|| panic!("no rule for package {}", member.name));
        let wrong = member.dependencies.iter().filter(|name| name.starts_with("quorate-"));
        let wrong = wrong.filter(|name| !uses.contains(&name.as_str()));
        wrong.map(|name| format!("{} depends on {name}", member.name)).collect::<Vec<_>>()
    });
    assert_none(offences, "tests -> node -> client -> proto is the only direction:");
}

/// Every use of one known module by another, in production code.
fn edges(known: &BTreeSet<&str>) -> Edges {
    let mut edges = Edges::new();
    for source in rust("node/src") {
        let Some((from, depth)) = place(&source) else { continue };
        let code: String = source.production().flat_map(|(_, line)| [line, "\n"]).collect();
        let root = "super::".repeat(depth);
        for to in names_after(&code, "crate::").into_iter().chain(names_after(&code, &root)) {
            if to != from && known.contains(to) {
                edges.insert((from.clone(), to.to_owned()), source.path.clone());
            }
        }
    }
    edges
}

/// The top module of a file, and how many `super::` lead from it to the root of the crate.
fn place(source: &Source) -> Option<(String, usize)> {
    let path = source.path.strip_prefix("node/src/")?.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let parts: Vec<&str> = path.split('/').collect();
    (!["lib", "main"].contains(&parts[0])).then(|| (parts[0].to_owned(), parts.len()))
}
