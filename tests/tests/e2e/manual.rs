//! The pages of docs/ that are the programs' own help, so that they cannot say something else.

use std::fmt::Write as _;
use std::path::Path;

use quorate_tests::{Ran, binaries, command};

/// Options of every command, which the page shows once: by heading, and by name.
const EVERYWHERE: [&str; 2] = ["Connection and output:", "TLS: on with --tls-ca:"];
const ALWAYS: [&str; 2] = ["-h, --help", "-V, --version"];
/// Commands of kv-cli that have a page of their own.
const OPERATORS: [&str; 3] = ["namespace", "cluster", "hints"];

#[test]
fn pages_of_the_manual_are_the_programs_help() {
    let kv_cli = &binaries().kv_cli;
    let operators = |command: &str| OPERATORS.contains(&command);
    check("docs/kv-cli.md", &manual("kv-cli", kv_cli, "", |command| !operators(command)));
    let purpose = ": for operators";
    check("docs/kv-cli-operators.md", &manual("kv-cli", kv_cli, purpose, operators));
    check("docs/quorate.md", &manual("quorate", &binaries().quorate, "", |_| true));
}

#[track_caller]
fn check(page: &str, fresh: &str) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent");
    let path = workspace.join(page);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, fresh).expect("docs/ can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "{page} is not what the program's help says now; write it anew with\n  \
         UPDATE_DOCS=1 cargo test -p quorate-tests --test e2e manual"
    );
}

/// The page of the commands that are `chosen`: with the program's own help, unless it has a purpose
/// of its own.
fn manual(name: &str, program: &Path, purpose: &str, chosen: impl Fn(&str) -> bool) -> String {
    let mut page = format!(
        "# {name}{purpose}\n\nThis page is what `{name} help` and `{name} help COMMAND` say; \
         CONTRIBUTING.md says how it\nis generated.\n"
    );
    let help = help(program, &[]);
    if purpose.is_empty() {
        write_section(&mut page, name, &help);
    }
    for command in commands(&help).into_iter().filter(|command| chosen(command)) {
        add(&mut page, program, name, &mut vec![command]);
    }
    page
}

/// Appends the help of a command, then that of its commands.
fn add(page: &mut String, program: &Path, name: &str, path: &mut Vec<String>) {
    let help = help(program, path);
    let title = [&[name.to_owned()], path.as_slice()].concat().join(" ");
    write_section(page, &title, &without_options(&without_sections(&help)));
    for command in commands(&help) {
        path.push(command);
        add(page, program, name, path);
        path.pop();
    }
}

fn write_section(page: &mut String, title: &str, text: &str) {
    writeln!(page, "\n## {title}\n\n```text\n{}\n```", text.trim_end())
        .expect("a string takes any text");
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
