//! How a command ends: its exit code, and the one line on stderr that says why.

use std::error::Error as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use quorate_client::{Error, WriteError};

/// The end of a command. Scripts rely on the codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// Found, or done.
    Done,
    /// There is no such key or namespace.
    NotFound,
    /// Something failed, and stderr says what.
    Failed,
    /// Ctrl-C, by the shells' convention 128 + SIGINT.
    Interrupted,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotFound => 1,
            Self::Failed => 2,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Says on stderr why the command failed. A reader of stdout that went away is no failure:
/// `kv-cli scan users | head` has done what it was asked.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    if is_reader_gone(error) {
        return Exit::Done;
    }
    say(&format!("error: {}", describe(error)));
    Exit::Failed
}

/// A line on stderr; one that cannot be written has no reader, and is not worth a panic.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// What a failed write means for the caller: the outcome first, since it decides what to do next.
pub(crate) fn describe_write(error: &WriteError) -> String {
    match error {
        WriteError::NotApplied { error } => format!("not applied: {error}"),
        WriteError::Unknown { operation, error } => format!(
            "outcome unknown: {error}; the write may have been applied or may yet be \
             (operation {operation}): read the key before writing it again"
        ),
    }
}

fn is_reader_gone(error: &anyhow::Error) -> bool {
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(gone)
}

/// The error and its causes in one line. The SDK's errors already tell their causes.
fn describe(error: &anyhow::Error) -> String {
    if let Some(write) = error.downcast_ref::<WriteError>() {
        return describe_write(write);
    }
    if error.downcast_ref::<Error>().is_some_and(|e| e.source().is_none()) {
        return error.to_string();
    }
    format!("{error:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let gone = anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(report(&gone), Exit::Done);
        assert_eq!(report(&gone.context("cannot write to stdout")), Exit::Done);
        let full = anyhow::Error::new(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(report(&full), Exit::Failed);
    }

    #[test]
    fn exit_codes_are_the_contract() {
        let codes = [Exit::Done, Exit::NotFound, Exit::Failed].map(Exit::code);
        assert_eq!(codes, [0, 1, 2]);
    }

    #[test]
    fn causes_are_told_in_one_line() {
        let error = anyhow::anyhow!("no such file").context("cannot open rows.csv");
        assert_eq!(describe(&error), "cannot open rows.csv: no such file");
    }
}
