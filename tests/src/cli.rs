//! `kv-cli`, and what came of running it.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::binaries::binaries;
use crate::process::command;

/// Runs `kv-cli` against certain endpoints.
#[derive(Clone, Debug)]
pub struct Cli {
    endpoints: String,
    flags: Vec<String>,
}

/// What a program left behind.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr.
    pub stderr: String,
}

impl Cli {
    /// Against these `HOST:PORT`s.
    pub fn new(endpoints: &[String]) -> Self {
        Self { endpoints: endpoints.join(","), flags: Vec::new() }
    }

    /// With these flags before every command.
    pub fn with<S: Into<String>>(mut self, flags: impl IntoIterator<Item = S>) -> Self {
        self.flags.extend(flags.into_iter().map(Into::into));
        self
    }

    /// The command, not yet started, for tests that want more of it than [`Ran`] tells.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = command(&binaries().kv_cli);
        command.arg("--endpoints").arg(&self.endpoints).args(&self.flags);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        Ran::of(self.command(arguments), None)
    }

    /// Runs it to its end with this stdin.
    pub fn run_with<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        stdin: &[u8],
    ) -> Ran {
        Ran::of(self.command(arguments), Some(stdin))
    }

    /// Runs a line of words; none of them holds a space.
    pub fn line(&self, line: &str) -> Ran {
        self.run(line.split_whitespace())
    }

    /// Runs a line that succeeds, and parses what it prints as json.
    pub fn json(&self, line: &str) -> Value {
        self.run(["--output", "json"].into_iter().chain(line.split_whitespace())).ok().json()
    }
}

fn output(command: &mut Command, stdin: Option<&[u8]>) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if stdin.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().expect("the program was built");
    if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), stdin) {
        pipe.write_all(bytes).expect("the program reads its stdin");
    }
    child.wait_with_output().expect("a child can be waited for")
}

impl Ran {
    /// Runs a program to its end, with this stdin or with what the command says.
    pub fn of(mut command: Command, stdin: Option<&[u8]>) -> Self {
        let output = output(&mut command, stdin);
        Self {
            line: format!("{command:?}"),
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its stdout as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Panics with everything unless the exit code is this one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            code,
            "{}\nstdout: {}stderr: {}",
            self.line,
            self.text(),
            self.stderr
        );
        self
    }

    /// Panics unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// Panics unless it failed (exit code 2) with all of these on stderr and nothing on stdout.
    #[track_caller]
    pub fn fails_with(self, reasons: &[&str]) -> Self {
        let ran = self.exits(2);
        for reason in reasons {
            assert!(ran.stderr.contains(reason), "no {reason:?} from {}: {}", ran.line, ran.stderr);
        }
        assert_eq!(ran.text(), "", "an error is no result: {}", ran.line);
        ran
    }

    /// The last line of stdout, as json.
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = self.text();
        let last = text.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Every line of stderr, as json.
    #[track_caller]
    pub fn said(&self) -> Vec<Value> {
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        };
        self.stderr.lines().map(parse).collect()
    }

    /// Every line of stdout, as json.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).expect("every line is json");
        self.text().lines().map(parse).collect()
    }
}
