//! What became of the rows: counts for stdout, lines that need attention for stderr.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::time::Instant;

use super::duplicates::{KEYS_MAX, Seen, SeenKeys};
use super::state::State;
use super::store::{RowError, RowOutcome};
use crate::output::printable;
use crate::progress::Progress;
use crate::stderr::{Notice, say};

/// How many lines of each kind are listed. More would bury the summary; the counts have them all.
const LISTED_MAX: u64 = 100;

/// The last line on stdout.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub(super) struct Summary {
    /// Rows of the file, bad ones included.
    pub(super) rows: u64,
    /// Rows whose value is under their key.
    pub(super) stored: u64,
    /// Rows that were not applied.
    pub(super) failed: u64,
    /// Rows that may have been applied.
    pub(super) unknown: u64,
    /// Bytes of the file that the rows take, line ends included.
    pub(super) bytes: u64,
    /// How long it took.
    pub(super) seconds: f64,
}

impl Summary {
    /// Whether every row is stored.
    pub(super) fn is_complete(&self) -> bool {
        self.failed == 0 && self.unknown == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, stored, failed, unknown, bytes, seconds } = self;
        write!(f, "rows={rows} stored={stored} failed={failed} unknown={unknown} ")?;
        write!(f, "bytes={bytes} seconds={seconds:.3}")
    }
}

/// Counts rows as they end.
///
/// Ctrl-C drops whatever runs, in the shell as well. A report that is dropped before
/// [`Report::finish`] is that of an import that was interrupted, and says so.
pub(super) struct Report {
    summary: Summary,
    seen: SeenKeys,
    duplicates: u64,
    forgotten: u64,
    /// Where it is kept how far they came.
    state: Option<State>,
    /// How long no row need be stored until there is no hope for the next.
    patience: Duration,
    /// Since when all rows that ended failed for the cluster's sake, later by what was idle; and why
    /// the last of them did.
    failing: Option<(Instant, String)>,
    progress: Progress,
    started: Instant,
    finished: bool,
}

impl Report {
    pub(super) fn new(progress: Progress, state: Option<State>, patience: Duration) -> Self {
        Self {
            summary: Summary::default(),
            seen: SeenKeys::new(KEYS_MAX),
            duplicates: 0,
            forgotten: 0,
            state,
            patience,
            failing: None,
            progress,
            started: Instant::now(),
            finished: false,
        }
    }

    /// A row was read.
    pub(super) fn on_read(&mut self, line: u64, bytes: u64) {
        self.summary.rows += 1;
        self.summary.bytes += bytes;
        if let Some(state) = &mut self.state {
            state.on_read(line, bytes);
        }
    }

    /// There is something to tell of a row.
    pub(super) fn on_note(&self, line: u64, note: &str) {
        self.progress.say(&Notice::note(note).at_line(line));
    }

    /// Whether an earlier run of the same import has stored the row already.
    pub(super) fn is_stored(&self, line: u64) -> bool {
        self.state.as_ref().is_some_and(|state| state.is_done(line))
    }

    /// The row was a good one: says so if its key was there before.
    pub(super) fn on_key(&mut self, key: &[u8], line: u64) {
        match self.seen.see(key, line) {
            Seen::First => {}
            Seen::Forgotten => {
                self.forgotten += 1;
                if self.forgotten == 1 {
                    let message = format!(
                        "more than {KEYS_MAX} different keys; duplicates among the further ones \
                         are not reported"
                    );
                    self.progress.say(&Notice::note(message).at_line(line));
                }
            }
            Seen::In(first) => {
                self.duplicates += 1;
                if self.duplicates <= LISTED_MAX {
                    let key = printable(key);
                    let message = format!("key '{key}' was in line {first}; the last one wins");
                    let notice = Notice::new("duplicate", message).at_line(line);
                    self.progress.say(&notice.with("key", key).with("first_line", first));
                }
            }
        }
    }

    /// A row is stored.
    pub(super) fn on_stored(&mut self, line: u64, bytes: u64) {
        self.summary.stored += 1;
        self.failing = None;
        if let Some(state) = &mut self.state {
            state.on_stored(line);
        }
        self.progress.advance(bytes);
    }

    /// A row is none of the format.
    pub(super) fn on_bad(&mut self, line: u64, bytes: u64, reason: String) {
        if let Some(state) = &mut self.state {
            state.on_bad(line, &reason);
        }
        self.count_error(line, bytes, RowOutcome::Failed, &reason);
    }

    /// A row is not stored, or perhaps not.
    pub(super) fn on_error(&mut self, line: u64, bytes: u64, error: &RowError) {
        if let Some(state) = &mut self.state {
            state.on_failed(line, &error.reason);
        }
        self.failing = error.is_retryable.then(|| {
            let since = self.failing.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            (since, error.reason.clone())
        });
        self.count_error(line, bytes, error.outcome, &error.reason);
    }

    /// Nothing was under way for so long, as when a pipe pauses, which says nothing of the cluster. So
    /// this time does not count as one in which no row was stored, and makes up for as much that did.
    pub(super) fn on_idle(&mut self, idle: Duration) {
        if let Some((since, _)) = &mut self.failing {
            *since = (*since + 2 * idle).min(Instant::now());
        }
    }

    /// Why the next row will fail: others have for so long, and none was stored meanwhile.
    pub(super) fn hopeless(&self) -> Option<String> {
        let (_, reason) = self.failing.as_ref()?;
        (self.hopeless_at()? <= Instant::now()).then(|| reason.clone())
    }

    /// When there will be no hope for rows that are under way until then.
    pub(super) fn hopeless_at(&self) -> Option<Instant> {
        let (since, _) = self.failing.as_ref()?;
        Some(*since + self.patience)
    }

    fn count_error(&mut self, line: u64, bytes: u64, outcome: RowOutcome, reason: &str) {
        let (count, outcome) = match outcome {
            RowOutcome::Failed => (&mut self.summary.failed, "failed"),
            RowOutcome::Unknown => (&mut self.summary.unknown, "unknown"),
        };
        *count += 1;
        let Summary { failed, unknown, .. } = self.summary;
        if failed + unknown <= LISTED_MAX {
            self.progress.say(&Notice::new(outcome, reason).at_line(line));
        }
        self.progress.message(format!("{failed} failed, {unknown} unknown"));
        self.progress.advance(bytes);
    }

    /// Says what was not listed, and hands out the counts, and what became of the state.
    pub(super) fn finish(mut self, read_all: bool) -> (Summary, Result<()>) {
        self.finished = true;
        self.summary.seconds = self.started.elapsed().as_secs_f64();
        self.progress.clear();
        let Summary { rows, failed, unknown, .. } = self.summary;
        for (count, what) in [(self.duplicates, "duplicate keys"), (failed + unknown, "bad rows")] {
            if count > LISTED_MAX {
                let more = count - LISTED_MAX;
                self.progress.say(&Notice::note(format!("and {more} more {what}")));
            }
        }
        if !self.summary.is_complete() {
            let message = format!(
                "of {rows} rows {failed} failed and the outcome of {unknown} is unknown; \
                 correct them, or bring nodes back, and import the file again: what is stored \
                 already is not written twice"
            );
            self.progress.say(&Notice::error("incomplete", message));
        }
        let complete = read_all && self.summary.is_complete();
        let kept = self.state.take().map_or(Ok(()), |state| state.finish(complete));
        (self.summary, kept)
    }

    /// What is stored when the import is interrupted, and how to go on.
    fn interruption(&mut self) -> Notice {
        self.summary.seconds = self.started.elapsed().as_secs_f64();
        let Summary { rows, stored, failed, unknown, .. } = self.summary;
        let mut message = format!("interrupted: {stored} of the {rows} rows read are stored");
        let under_way = rows - stored - failed - unknown;
        if under_way > 0 {
            message += &format!(", and perhaps some of the {under_way} that were under way");
        }
        message += &match self.state.take().map(State::interrupt) {
            Some(Ok(line)) => format!("; the same command goes on after line {line}"),
            Some(Err(error)) => format!("; {error:#}"),
            None => "; import the file again: what is stored already is not written twice, and \
                     with --state PATH an import goes on where it was"
                .to_owned(),
        };
        Notice::error("interrupted", message).with("summary", self.summary)
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if !self.finished && !std::thread::panicking() {
            self.progress.clear();
            say(&self.interruption());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_the_fields_of_the_contract() {
        let summary = Summary { rows: 3, stored: 1, failed: 1, unknown: 1, bytes: 9, seconds: 0.5 };
        let text = "rows=3 stored=1 failed=1 unknown=1 bytes=9 seconds=0.500";
        assert_eq!(summary.to_string(), text);
        let json = r#"{"rows":3,"stored":1,"failed":1,"unknown":1,"bytes":9,"seconds":0.5}"#;
        assert_eq!(serde_json::to_string(&summary).unwrap(), json);
    }
}
