//! An import that is killed, again and again, and goes on.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use quorate_tests::rows::{sorted, unicode_like};
use quorate_tests::{Cli, Cluster, Ran, go_on, interrupt, kill, pause, until};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

/// So many that a busy machine, too, looks before all are stored.
const ROWS: u32 = 20_000;

struct Import {
    cli: Cli,
    file: PathBuf,
    state: PathBuf,
}

impl Import {
    fn arguments(&self) -> Vec<String> {
        let (file, state) = (self.file.display(), self.state.display());
        let line = format!(
            "--output json import unicode {file} --format csv --delimiter ; --state {state}"
        );
        line.split(' ').map(str::to_owned).collect()
    }

    /// How many rows the state says are done.
    fn reached(&self) -> u64 {
        let text = fs::read(&self.state).unwrap_or_default();
        // It appears whole, or not at all.
        let state: Option<Value> = (!text.is_empty())
            .then(|| serde_json::from_slice(&text).expect("a state is whole whenever it is read"));
        state.map_or(0, |state| state["reached"]["rows"].as_u64().expect("a number"))
    }

    /// Runs it until it has done more than so many rows, and kills it there. None if it ended first.
    fn kill_after(&self, rows: u64) -> Option<u64> {
        let mut import = self.cli.command(self.arguments());
        let mut child = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("built");
        let ended = until("the import comes further or ends", || {
            let ended = child.try_wait().expect("a child can be waited for").is_some();
            (ended || self.reached() > rows).then_some(ended)
        });
        kill(&mut child);
        (!ended).then(|| self.reached())
    }

    fn finish(&self) -> Ran {
        self.cli.run(self.arguments())
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("its name is text")
}

#[test]
fn an_import_killed_at_any_moment_goes_on_to_the_same_end() {
    let seed = std::env::var("QUORATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(0);
    println!("QUORATE_SEED={seed}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);

    // Some rows are none, and some keys come again with another value.
    let good = unicode_like(ROWS);
    let mut lines: Vec<&str> = good.lines().collect();
    let again = lines[10].replacen(';', ";again ", 1);
    lines.insert(50, "no fields");
    lines.push(&again);
    let text = lines.join("\n") + "\n";

    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.line("namespace create unicode").ok();
    cli.line("namespace create whole").ok();
    let (file, state) = (cluster.path("rows.csv"), cluster.path("rows.state"));
    fs::write(&file, &text).expect("the temporary directory takes a file");
    let import = Import { cli: cli.clone(), file, state };

    let (mut reached, mut kills) = (0, 0);
    while reached < u64::from(ROWS) / 2 && kills < 5 {
        let Some(now) = import.kill_after(reached + rng.random_range(0..300)) else { break };
        assert!(now >= reached, "the state went back from {reached} to {now}");
        (reached, kills) = (now, kills + 1);
    }
    assert!(kills > 0, "the import was over before it could be killed");

    let line = format!("import whole {} --format csv --delimiter ;", path(&import.file));
    let whole = cli.run(["--output", "json"].into_iter().chain(line.split(' '))).exits(2).json();
    let resumed = import.finish().exits(2);
    assert!(resumed.stderr.contains("are done already"), "{}", resumed.stderr);
    for field in ["rows", "stored", "failed", "unknown", "bytes"] {
        assert_eq!(resumed.json()[field], whole[field], "{field}");
    }
    let export =
        |namespace: &str| cli.line(&format!("export {namespace} --format csv")).ok().text();
    assert_eq!(sorted(&export("unicode")), sorted(&export("whole")));

    refusals(&import);
}

/// What is not the same import is refused, and changes nothing.
fn refusals(import: &Import) {
    let cli = &import.cli;
    let kept = fs::read(&import.state).expect("it is there");
    let (file, state) = (path(&import.file), path(&import.state));
    let run = |namespace: &str, file: &str, format: &str| {
        cli.line(&format!("import {namespace} {file} --format {format} --state {state}"))
    };
    run("whole", file, "csv --delimiter ;").fails_with(&["namespace unicode, not whole", "remove"]);
    run("unicode", file, "lines").fails_with(&["of format csv", "not lines"]);
    run("unicode", "-", "csv --delimiter ;").fails_with(&["--state needs a file"]);
    let changed = format!("{file}.changed");
    fs::write(&changed, "a;b\n").expect("the temporary directory takes a file");
    run("unicode", &changed, "csv --delimiter ;").fails_with(&["has changed"]);
    run("unicode", "/no/such/file", "csv --delimiter ;").fails_with(&["/no/such/file"]);
    cli.line("namespace drop unicode").ok();
    cli.line("namespace create unicode").ok();
    run("unicode", file, "csv --delimiter ;").fails_with(&["of namespace id"]);
    assert_eq!(fs::read(&import.state).expect("it is there"), kept);
    assert_eq!(cli.json("count unicode")["count"], 0);
}

#[test]
fn an_import_into_a_cluster_that_is_gone_ends_and_later_goes_on() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.line("namespace create rows").ok();
    let (file, state) = (cluster.path("rows.tsv"), cluster.path("rows.state"));
    let rows: String = (0..50_000).map(|row| format!("key-{row}\tvalue\n")).collect();
    fs::write(&file, rows).expect("the temporary directory takes a file");
    let (file, state) = (path(&file).to_owned(), path(&state).to_owned());
    let line =
        format!("--output json import rows {file} --format lines --state {state} --timeout 1s");

    let mut import = cli.command(line.split(' '));
    let child = import.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("built");
    until("some rows are done", || {
        let state: Value = serde_json::from_slice(&fs::read(&state).ok()?).ok()?;
        state["reached"]["rows"].as_u64().filter(|&rows| rows > 0)
    });
    cluster.kill_all();
    let output = child.wait_with_output().expect("a child can be waited for");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("the import gave up after"), "{stderr}");

    cluster.start_all();
    cluster.wait_ready();
    let summary = cli.line(&line).ok().json();
    assert_eq!((&summary["rows"], &summary["stored"]), (&50_000.into(), &50_000.into()));
    assert_eq!(cluster.cli().json("count rows")["count"], 50_000);
}

#[test]
fn what_is_interrupted_says_how_far_it_came() {
    const ROWS: usize = 20_000;
    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.line("namespace create unicode").ok();
    let (file, state) = (cluster.path("rows.csv"), cluster.path("rows.state"));
    let value = "v".repeat(400);
    let rows: String = (0..ROWS).map(|row| format!("key-{row};{value}\n")).collect();
    fs::write(&file, rows).expect("the temporary directory takes a file");
    let import = Import { cli: cli.clone(), file, state };

    let child = piped(import.cli.command(import.arguments()));
    until("some rows are done", || (import.reached() > 0).then_some(()));
    pause(&child);
    let second = import.finish();
    interrupt(&child);
    go_on(&child);
    let (code, summary, message) = interrupted(child);
    second.fails_with(&["another import with --state", "wait until it ends"]);
    assert_eq!(code, Some(130), "{message}");
    let stored = summary["stored"].as_u64().expect("a number");
    assert!(stored >= import.reached() && stored < ROWS as u64, "{message}");
    assert!(message.contains(&format!("interrupted: {stored} of the ")), "{message}");
    let line = import.reached();
    assert!(message.ends_with(&format!("goes on after line {line}")), "{message}");
    assert_eq!(import.finish().ok().json()["stored"], ROWS);

    let mut child = piped(cli.command("--output json export unicode --format csv".split(' ')));
    let stdout = child.stdout.as_mut().expect("it is a pipe");
    // From here on it waits for its reader, with most of the rows to come.
    stdout.read_exact(&mut [0; 1]).expect("the export begins");
    interrupt(&child);
    let (code, summary, message) = interrupted(child);
    assert_eq!(code, Some(130), "{message}");
    let rows = summary["rows"].as_u64().expect("a number");
    assert!(rows < ROWS as u64, "{message}");
    let expected = format!("interrupted after {rows} rows: the export is incomplete");
    assert!(message.starts_with(&expected), "{message}");
}

/// Starts a program whose words can be read.
fn piped(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("built")
}

/// How a program ended that was interrupted: its code, its counts and what it said last.
fn interrupted(child: Child) -> (Option<i32>, Value, String) {
    let output = child.wait_with_output().expect("a child can be waited for");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let last: Value = stderr
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("{:?}: {stderr}", output.status));
    let error = &last["error"];
    assert_eq!(error["kind"], "interrupted", "{stderr}");
    let message = error["message"].as_str().expect("a text").to_owned();
    (output.status.code(), error["summary"].clone(), message)
}
