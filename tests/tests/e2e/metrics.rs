//! `docs/metrics.md` against what nodes export.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use quorate_tests::{Cluster, Node, until};

/// Name to type and labels.
type Described = BTreeMap<String, (String, BTreeSet<String>)>;

/// The rows of the page's table.
fn documented() -> Described {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let page = fs::read_to_string(docs.join("metrics.md")).expect("the page is there");
    let rows = page.lines().filter(|line| line.starts_with("| `quorate_"));
    let described = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[3].split(',').map(|label| label.trim().trim_matches('`'));
        let labels = labels.filter(|label| !label.is_empty()).map(str::to_owned).collect();
        (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), labels))
    });
    described.collect()
}

/// What a node's page says of itself: `# TYPE name type`, and the labels of its rows.
fn exported(page: &str) -> Described {
    let mut described = Described::new();
    let mut name = String::new();
    for line in page.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (named, kind) = declared.split_once(' ').expect("a name and a type");
            name = named.to_owned();
            described.insert(name.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let (labels, _) = rest.rsplit_once('}').expect("labels end");
            let labels = labels.split("\",").filter_map(|label| label.split('=').next());
            let of = &mut described.get_mut(&name).expect("a row follows its type").1;
            of.extend(labels.filter(|label| *label != "le").map(str::to_owned));
        }
    }
    described
}

/// The page, once the node has looked at itself for the first time, and has its copy of a write.
fn observed(node: &Node) -> String {
    until("a node has observed itself", || {
        let (_, page) = node.page("/metrics")?;
        let nothing = "\nquorate_operations_recorded_total 0\n";
        (page.contains("quorate_memory_bytes{") && !page.contains(nothing)).then_some(page)
    })
}

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.line("namespace create users").ok();
    cli.line("put users alice hello").ok();
    cli.line("get users alice").ok();
    cli.line("get users alice bob").exits(1);
    cli.line("count users").ok();
    let documented = documented();
    assert!(documented.len() > 20, "the table was read: {documented:?}");
    let mut seen = BTreeSet::new();
    for node in cluster.nodes() {
        let page = observed(node);
        for (name, (kind, labels)) in exported(&page) {
            let (said, with) = documented.get(&name).unwrap_or_else(|| {
                panic!("{name} ({kind}) is not in docs/metrics.md; add a row that says what it is")
            });
            assert_eq!(said, &kind, "docs/metrics.md is wrong about the type of {name}");
            // A family of which nothing has happened has a type and no rows.
            if !labels.is_empty() {
                assert_eq!(with, &labels, "docs/metrics.md is wrong about the labels of {name}");
            }
            seen.insert(name);
        }
    }
    // These show once they have happened: damage, what did not arrive, hints, and TLS.
    let rare = |name: &&String| {
        let happened = [
            "quorate_corrupt_records",
            "quorate_requests_unread",
            "quorate_hints",
            "quorate_hints_bytes",
            "quorate_hints_oldest_seconds",
        ];
        let prefixes = ["quorate_tls_", "quorate_handoff_"];
        happened.contains(&name.as_str()) || prefixes.iter().any(|begin| name.starts_with(begin))
    };
    let missing: Vec<_> = documented.keys().filter(|name| !seen.contains(*name)).collect();
    assert!(missing.iter().all(rare), "documented, and not exported by any node: {missing:?}");
}
