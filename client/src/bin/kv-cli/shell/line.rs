//! What a line of the shell means: the commands of the command line, and a few of the shell's own.
//!
//! While a namespace is in use, commands do not name it, ever; `--namespace` names another one. So
//! a word never means one thing or another by how many there are.
//!
//! ```text
//!   quorate> get users alice
//!   quorate> use users
//!   users> get alice
//!   users> get alice --namespace backup
//! ```

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::{Arg, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::words::Words;
use crate::args::{Command, parse};
use crate::output::OutputFormat;

/// One line.
#[derive(Parser, Debug)]
#[command(name = "kv-cli", no_binary_name = true, max_term_width = 100)]
#[command(override_usage = "COMMAND ..", after_help = HELP)]
pub(super) struct Line {
    #[command(flatten)]
    pub(super) options: Options,
    #[command(subcommand)]
    pub(super) command: LineCommand,
}

const HELP: &str = "Words are quoted as in a POSIX shell: 'as it is', \"with \\\" escapes\", a\\ b; \
and $'\\xff\\n' holds any bytes. An open quote goes on in the next line. # begins a comment. A line \
that begins with a space is not kept in the history. Ctrl-C ends a command, Ctrl-D the shell.";

/// For this line only.
#[derive(clap::Args, Debug)]
pub(super) struct Options {
    /// Text for people, json for scripts [default: the shell's]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub(super) output: Option<OutputFormat>,
    /// How long each operation may take [default: the shell's]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse::duration)]
    pub(super) timeout: Option<Duration>,
    /// Name of the line's requests in the nodes' log lines [default: the shell's]
    #[arg(long, global = true, value_name = "ID")]
    pub(super) request_id: Option<String>,
}

/// What a line asks for.
#[derive(Subcommand, Debug)]
pub(super) enum LineCommand {
    #[command(flatten)]
    One(Command),
    /// Use a namespace, which commands then leave out; without one they name it again
    Use {
        /// The namespace
        #[arg(value_name = "NS")]
        name: Option<String>,
    },
    /// Leave the shell
    #[command(visible_alias = "quit")]
    Exit,
}

/// The commands, as they are written while `current` is in use.
pub(super) fn grammar(current: Option<&str>) -> clap::Command {
    let mut grammar = Line::command();
    let Some(current) = current else { return grammar };
    let about_one = |command: &clap::Command| {
        let namespace = |arg: &Arg| arg.get_id() == "namespace";
        command.get_arguments().any(namespace).then(|| command.get_name().to_owned())
    };
    let names: Vec<String> = grammar.get_subcommands().filter_map(about_one).collect();
    for name in names {
        let default = current.to_owned();
        grammar = grammar.mut_subcommand(name, move |command| {
            command.mut_arg("namespace", |arg| {
                let arg = arg.long("namespace").required(false).default_value(default);
                arg.help("Another namespace than the one in use")
            })
        });
    }
    grammar.mut_subcommand("cluster", |cluster| {
        let default = current.to_owned();
        cluster.mut_subcommand("ring", move |ring| {
            ring.mut_arg("namespace", |arg| arg.default_value(default))
        })
    })
}

/// What the words of a whole line mean.
pub(super) fn parse(words: Words, current: Option<&str>) -> Result<Line, clap::Error> {
    let words = words.words.into_iter().map(|word| os_string(word.bytes));
    let mut grammar = grammar(current);
    let matches = grammar.try_get_matches_from_mut(words)?;
    let line = Line::from_arg_matches(&matches)?;
    match reads_stdin(&line.command) {
        None => Ok(line),
        Some(instead) => {
            let message = format!("the shell reads stdin itself, so - is no input: {instead}\n");
            Err(grammar.error(clap::error::ErrorKind::ValueValidation, message))
        }
    }
}

/// What to do instead of reading the stdin that the lines come from.
fn reads_stdin(command: &LineCommand) -> Option<&'static str> {
    match command {
        LineCommand::One(Command::Put(put)) if put.value == "-" => {
            Some("write the value in quotes, or run kv-cli put outside of the shell")
        }
        LineCommand::One(Command::Import(import)) if import.file == Path::new("-") => {
            Some("name a file, or run kv-cli import outside of the shell")
        }
        _ => None,
    }
}

#[cfg(unix)]
fn os_string(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(not(unix))]
fn os_string(bytes: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::super::words::split;
    use super::*;

    fn command(line: &str, current: Option<&str>) -> Command {
        match parse(split(line), current).expect(line).command {
            LineCommand::One(command) => command,
            other => panic!("{line} is {other:?}"),
        }
    }

    fn namespace(line: &str, current: Option<&str>) -> String {
        command(line, current).namespace().expect(line).to_owned()
    }

    #[test]
    fn the_grammars_are_consistent() {
        grammar(None).debug_assert();
        grammar(Some("users")).debug_assert();
    }

    #[test]
    fn commands_name_the_namespace_unless_one_is_in_use() {
        for line in ["put users k v", "get users k", "delete users k", "scan users", "count users"]
        {
            assert_eq!(namespace(line, None), "users", "{line}");
            let short = line.replace(" users", "");
            assert_eq!(namespace(&short, Some("users")), "users", "{short}");
            assert_eq!(namespace(&format!("{short} --namespace b"), Some("users")), "b");
        }
        assert!(parse(split("count users"), Some("users")).is_err());
        assert!(parse(split("count"), None).is_err());
        let Command::Put(put) = command("put '' $'\\xff'", Some("users")) else { panic!() };
        assert_eq!(put.key, "");
        assert_eq!(put.value.into_encoded_bytes(), b"\xff");
    }

    #[test]
    fn the_shell_has_commands_of_its_own() {
        let parsed = |line: &str| parse(split(line), None).map(|line| line.command);
        assert!(matches!(parsed("use a"), Ok(LineCommand::Use { name: Some(_) })));
        assert!(matches!(parsed("use"), Ok(LineCommand::Use { name: None })));
        assert!(matches!(parsed("exit"), Ok(LineCommand::Exit)));
        assert!(matches!(parsed("quit"), Ok(LineCommand::Exit)));
        for line in ["shell", "completions bash", "frobnicate", "count a --endpoints b:1"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_shells_stdin_is_no_input() {
        for line in ["put a k -", "import a - --format lines"] {
            let error = parse(split(line), None).unwrap_err().to_string();
            assert!(error.contains("the shell reads stdin itself"), "{error}");
        }
    }

    #[test]
    fn a_line_has_options_of_its_own() {
        let line = parse(split("--output json count a --timeout 2s"), None).unwrap();
        assert_eq!(line.options.output, Some(OutputFormat::Json));
        assert_eq!(line.options.timeout, Some(Duration::from_secs(2)));
    }
}
