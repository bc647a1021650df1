//! The main job: a real file goes in by quorum and comes out the same, whatever happens to nodes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use quorate_tests::rows::{sorted, unicode, unicode_like};
use quorate_tests::{Cli, Cluster, Ran, until};
use serde_json::Value;

const IMPORT: [&str; 7] =
    ["--output", "json", "import", "unicode", "--format", "csv", "--delimiter"];

fn import(cli: &Cli, file: &str) -> Ran {
    cli.run(IMPORT.into_iter().chain([";", file]))
}

fn export(cli: &Cli) -> String {
    cli.line("export unicode --format csv").ok().text()
}

/// Of each key how many siblings there are.
fn siblings(cli: &Cli) -> Vec<usize> {
    let items = cli.line("--output json scan unicode").ok().json_lines();
    items.iter().map(|item| item["siblings"].as_array().expect("a list").len()).collect()
}

#[test]
fn a_file_comes_out_as_it_went_in_and_survives_a_restart_of_all() {
    comes_out_as_it_went_in("fjall", 3000);
}

#[test]
fn a_file_comes_out_as_it_went_in_and_survives_a_restart_of_all_in_sled() {
    comes_out_as_it_went_in("sled", 1000);
}

fn comes_out_as_it_went_in(engine: &'static str, rows: u32) {
    let rows = unicode(rows);
    let count = rows.lines().count();
    let mut cluster = Cluster::start_in(engine, 5);
    let cli = cluster.cli();
    cli.line("namespace create unicode").ok();
    let file = cluster.path("rows.csv");
    fs::write(&file, &rows).expect("the temporary directory takes a file");
    let file = file.to_str().expect("its name is text");

    let summary = import(&cli, file).ok().json();
    assert_eq!((&summary["rows"], &summary["stored"]), (&count.into(), &count.into()));
    assert_eq!((&summary["failed"], &summary["unknown"]), (&0.into(), &0.into()));
    assert_eq!(summary["bytes"], rows.len());
    assert_eq!(sorted(&export(&cli)), sorted(&rows));

    assert_eq!(import(&cli, file).ok().json()["stored"], count);
    assert_eq!(siblings(&cli), vec![1; count], "the same import again makes no siblings");
    assert_eq!(cli.json("count unicode")["count"], count);

    cluster.kill_all();
    cluster.start_all();
    cluster.wait_ready();
    assert_eq!(sorted(&export(&cluster.cli())), sorted(&rows));
}

/// The lines that an import reported, and the summary that it ended with.
fn reported(ran: &Ran) -> (BTreeSet<usize>, Value) {
    let line = |said: Value| {
        let row =
            [&said["failed"], &said["unknown"]].into_iter().find_map(|row| row["line"].as_u64());
        row.map(|line| line as usize)
    };
    (ran.said().into_iter().filter_map(line).collect(), ran.json())
}

#[test]
fn nodes_killed_during_an_import_lose_no_row_that_was_counted_as_stored() {
    killed_during_an_import("fjall");
}

#[test]
fn nodes_killed_during_an_import_lose_no_row_that_was_counted_as_stored_in_sled() {
    killed_during_an_import("sled");
}

fn killed_during_an_import(engine: &'static str) {
    let rows = unicode_like(500);
    let lines: Vec<&str> = rows.lines().collect();
    let mut cluster = Cluster::start_in(engine, 5);
    let cli = cluster.cli();
    cli.line("namespace create unicode --strict").ok();

    let mut import = cli.command(IMPORT.into_iter().chain([";", "-", "--timeout", "2s"]));
    import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = import.spawn().expect("the program was built");
    let mut stdin = child.stdin.take().expect("it was given a pipe");
    let mut feed = |from: usize, to: usize| {
        let text = lines[from..to].join("\n") + "\n";
        stdin.write_all(text.as_bytes()).expect("the import reads on");
    };
    // The import reads in batches of 128, so that the last rows of each part wait for the next. Few
    // are left for the last part, since the import lists at most 100 rows.
    feed(0, 260);
    until("some rows are stored", || {
        (!cli.line("scan unicode --limit 1").text().is_empty()).then_some(())
    });
    cluster.node(2).kill();
    feed(260, 400);
    until("rows are stored without node-2", || {
        let count = cli.line("count unicode");
        (count.code == 0 && count.text().trim().parse::<usize>().ok()? >= 370).then_some(())
    });
    // Two of five nodes: some rows lose two of their three owners, and cannot be stored.
    cluster.node(4).kill();
    feed(400, 500);
    drop(stdin);
    let output = child.wait_with_output().expect("a child can be waited for");
    let code = output.status.code().expect("it was not killed");
    let ran = Ran {
        line: "the import".to_owned(),
        code,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    let (bad, summary) = reported(&ran.exits(2));
    assert_eq!(summary["rows"], lines.len());
    assert_eq!(summary["stored"], lines.len() - bad.len(), "each row is stored or reported");
    assert!(!bad.is_empty(), "two nodes are down");

    cluster.node(2).restart();
    cluster.node(4).restart();
    cluster.wait_ready();
    let exported = export(&cli);
    let there: BTreeSet<&str> = exported.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let line_number = at + 1;
        assert!(there.contains(line) || bad.contains(&line_number), "line {line_number}: {line}");
    }

    let again = cli.run_with(IMPORT.into_iter().chain([";", "-"]), rows.as_bytes()).ok().json();
    assert_eq!(again["stored"], lines.len());
    assert_eq!(sorted(&export(&cli)), sorted(&rows));
    assert_eq!(siblings(&cli), vec![1; lines.len()]);
}

/// A put of a new key is taken with two of three owners away. An import would replace what is there, which
/// nobody can tell then, unless it is content with what one replica tells.
#[test]
fn with_most_owners_away_rows_are_refused_unless_one_replica_suffices() {
    let mut cluster = Cluster::start(5);
    let cli = cluster.cli();
    cli.line("namespace create users --sloppy").ok();
    let owners = cluster.owners("users", "alice");
    let file = cluster.path("rows");
    fs::write(&file, "alice\tnew\n").expect("the temporary directory takes a file");
    let import = format!("import users {} --format lines", file.display());
    for name in &owners[..2] {
        cluster.named(name).kill();
    }

    let refused = cli.line(&format!("--timeout 1s {import}")).exits(2);
    assert!(refused.stderr.contains("could not be read"), "{}", refused.stderr);
    until("a row is stored", || (cli.line(&format!("{import} -r one")).code == 0).then_some(()));
    owners[..2].iter().for_each(|name| cluster.named(name).start());
    cluster.wait_ready();
    // Others need not have found them again yet.
    let home = || (cli.line("hints await --timeout 1m").code == 0).then_some(());
    until("the hints are home", home);
    cli.line(&import).ok();
    assert_eq!(cli.line("get users alice -r all").ok().text(), "new\n");
}
