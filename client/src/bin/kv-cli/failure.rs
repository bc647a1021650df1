//! How a command ends: its exit code, and the line on stderr that says why.

use std::fmt;
use std::io;
use std::process::ExitCode;

use quorate_client::{Error, WriteError};

use crate::stderr::{Notice, say};

/// The end of a command. Scripts rely on the codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// Found, or done.
    Done,
    /// There is no such key or namespace.
    NotFound,
    /// Something failed, and stderr says what.
    Failed,
    /// Nobody who answered knows what became of a write.
    Unknown,
    /// Ctrl-C, by the shells' convention 128 + SIGINT.
    Interrupted,
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotFound => 1,
            Self::Failed => 2,
            Self::Unknown => 3,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// What an error is shown with: a guess at what was meant.
#[derive(Debug)]
pub(crate) struct Hint(pub(crate) String);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says on stderr why the command failed. A reader of stdout that went away is no failure:
/// `kv-cli scan users | head` has done what it was asked.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    if is_reader_gone(error) {
        return Exit::Done;
    }
    say(&notice(error));
    Exit::Failed
}

/// Results go to stdout, whose errors alone come without a word about where.
fn place(error: &anyhow::Error) -> &'static str {
    let is_bare = error.chain().len() == 1 && error.is::<io::Error>();
    if is_bare { "cannot write to stdout: " } else { "" }
}

/// Says what is wrong with a command line, or gives the help that was asked for.
pub(crate) fn refuse(error: &clap::Error, json: bool) -> Exit {
    if json && error.use_stderr() {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        say(&Notice::error("usage", text.trim_end()));
    } else {
        // Whoever closed stdout or stderr does not want to know.
        let _ = error.print();
    }
    if error.use_stderr() { Exit::Failed } else { Exit::Done }
}

/// What a failed write means for the caller: the outcome first, since it decides what to do next.
pub(crate) fn describe_write(error: &WriteError) -> String {
    match error {
        WriteError::NotApplied { error } => format!("not applied: {error}"),
        WriteError::Unknown { operation, error } => format!(
            "outcome unknown: {error}; the write may have been applied or may yet be: \
             `kv-cli resolve {operation}` tells, within an hour; else read the key before writing it again"
        ),
    }
}

fn is_reader_gone(error: &anyhow::Error) -> bool {
    let gone = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(gone)
}

/// The error as it is said: its text, and for scripts what the text is made of.
fn notice(error: &anyhow::Error) -> Notice {
    let message = format!("{}{}", place(error), describe(error));
    if let Some(write) = error.downcast_ref::<WriteError>() {
        let notice = with_details(message, write.error());
        return match write {
            WriteError::NotApplied { .. } => notice.with("outcome", "not_applied"),
            WriteError::Unknown { operation, .. } => {
                notice.with("outcome", "unknown").with("operation", operation.to_string())
            }
        };
    }
    if let Some(error) = error.downcast_ref::<Error>() {
        return with_details(message, error);
    }
    let is_io = error.chain().any(|cause| cause.is::<io::Error>());
    Notice::error(if is_io { "io" } else { "invalid" }, message)
}

fn with_details(message: String, error: &Error) -> Notice {
    let mut notice = Notice::error(error.kind().as_str(), message);
    if let Some(node) = error.node() {
        notice = notice.with("node", node);
    }
    if error.needed() > 0 {
        notice = notice.with("needed", error.needed()).with("got", error.got());
    }
    if !error.retry_after().is_zero() {
        let ms = u64::try_from(error.retry_after().as_millis()).unwrap_or(u64::MAX);
        notice = notice.with("retry_after_ms", ms);
    }
    notice
}

/// The error and its causes in one line, then what was perhaps meant.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let hint = error.downcast_ref::<Hint>();
    // A hint is the outermost.
    let causes = error.chain().skip(usize::from(hint.is_some())).map(|cause| {
        cause.downcast_ref::<WriteError>().map_or_else(|| cause.to_string(), describe_write)
    });
    let causes = causes.collect::<Vec<_>>().join(": ");
    hint.map_or(causes.clone(), |hint| format!("{causes}; {hint}"))
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
        let codes = [Exit::Done, Exit::NotFound, Exit::Failed, Exit::Unknown].map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3]);
    }

    #[test]
    fn causes_are_told_in_one_line() {
        let error = anyhow::anyhow!("no such file").context("cannot open rows.csv");
        assert_eq!(describe(&error), "cannot open rows.csv: no such file");
    }

    #[tokio::test]
    async fn a_hint_follows_what_the_sdk_says() {
        let nowhere = quorate_client::ClientConfig::new([""; 0]);
        let error = quorate_client::Client::connect(nowhere).await.unwrap_err();
        let said = error.to_string();
        let error = anyhow::Error::new(error).context(Hint("did you mean users?".to_owned()));
        assert_eq!(describe(&error), format!("{said}; did you mean users?"));
    }
}
