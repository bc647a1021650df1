//! The pages of docs/ that are the programs' own help, so that they cannot say something else.

use std::fmt::Write as _;
use std::path::Path;

use quorate_tests::{Ran, binaries, command};

/// Options of every command, which the page shows once: by heading, and by name.
const EVERYWHERE: [&str; 2] = ["Connection and output:", "TLS: on with --tls-ca:"];
const ALWAYS: [&str; 2] = ["-h, --help", "-V, --version"];

#[test]
fn pages_of_the_manual_are_the_programs_help() {
    check("docs/kv-cli.md", "kv-cli", &binaries().kv_cli);
    check("docs/quorate.md", "quorate", &binaries().quorate);
}

#[track_caller]
fn check(page: &str, name: &str, program: &Path) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent");
    let path = workspace.join(page);
    let fresh = manual(name, program);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &fresh).expect("docs/ can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "{page} is not what {name} help says now; write it anew with\n  \
         UPDATE_DOCS=1 cargo test -p quorate-tests --test e2e manual"
    );
}

fn manual(name: &str, program: &Path) -> String {
    let mut page = format!(
        "# {name}\n\nThis page is what `{name} help` and `{name} help COMMAND` say; CONTRIBUTING.md says \
         how it\nis generated.\n"
    );
    add(&mut page, program, name, &mut Vec::new());
    page
}

/// Appends the help of a command, then that of its commands.
fn add(page: &mut String, program: &Path, name: &str, path: &mut Vec<String>) {
    let help = help(program, path);
    let title = [&[name.to_owned()], path.as_slice()].concat().join(" ");
    let shown =
        if path.is_empty() { help.clone() } else { without_options(&without_sections(&help)) };
    writeln!(page, "\n## {title}\n\n```text\n{}\n```", shown.trim_end())
        .expect("a string takes any text");
    for command in commands(&help) {
        path.push(command);
        add(page, program, name, path);
        path.pop();
    }
}

fn help(program: &Path, path: &[String]) -> String {
    let mut command = command(program);
    command.args(path).arg("--help").env_remove("COLUMNS");
    Ran::of(command, Some(b""))
        .ok()
        .text()
        .lines()
        .map(|l| l.trim_end().to_owned() + "\n")
        .collect()
}

/// The names in the list of commands, without `help` itself.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| line.starts_with("  "));
    let names = listed.filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The text without what stands under the headings of [`EVERYWHERE`].
fn without_sections(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        if !line.starts_with(' ') && !line.is_empty() {
            inside = EVERYWHERE.contains(&line);
        }
        if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The text without the options of [`ALWAYS`], nor a heading over nothing.
fn without_options(text: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let begins = ALWAYS.iter().any(|option| line.trim_start().starts_with(option));
        // What explains an option stands further in than any option.
        inside = begins || inside && line.starts_with("          ");
        let doubled = line.is_empty() && kept.last().is_none_or(|last| last.is_empty());
        if inside || doubled {
            continue;
        }
        if line.is_empty() && kept.last() == Some(&"Options:") {
            kept.pop();
            continue;
        }
        kept.push(line);
    }
    if kept.last() == Some(&"Options:") {
        kept.pop();
    }
    kept.join("\n")
}
