//! What became of the rows: counts for stdout, lines that need attention for stderr.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::duplicates::{KEYS_MAX, Seen, SeenKeys};
use super::store::RowError;
use crate::output::printable;
use crate::progress::Progress;

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
pub(super) struct Report {
    summary: Summary,
    seen: SeenKeys,
    duplicates: u64,
    forgotten: u64,
    progress: Progress,
    started: Instant,
}

impl Report {
    pub(super) fn new(progress: Progress) -> Self {
        Self {
            summary: Summary::default(),
            seen: SeenKeys::new(KEYS_MAX),
            duplicates: 0,
            forgotten: 0,
            progress,
            started: Instant::now(),
        }
    }

    /// A row was read.
    pub(super) fn on_read(&mut self, bytes: u64) {
        self.summary.rows += 1;
        self.summary.bytes += bytes;
    }

    /// The row was a good one: says so if its key was there before.
    pub(super) fn on_key(&mut self, key: &[u8], line: u64) {
        match self.seen.see(key, line) {
            Seen::First => {}
            Seen::Forgotten => {
                self.forgotten += 1;
                if self.forgotten == 1 {
                    self.progress.note(&format!(
                        "note: line {line}: more than {KEYS_MAX} different keys; duplicates among \
                         the further ones are not reported"
                    ));
                }
            }
            Seen::In(first) => {
                self.duplicates += 1;
                if self.duplicates <= LISTED_MAX {
                    self.progress.note(&format!(
                        "duplicate: line {line}: key '{}' was in line {first}; the last one wins",
                        printable(key)
                    ));
                }
            }
        }
    }

    /// A row is stored.
    pub(super) fn on_stored(&mut self, bytes: u64) {
        self.summary.stored += 1;
        self.progress.advance(bytes);
    }

    /// A row is not stored, or perhaps not.
    pub(super) fn on_error(&mut self, line: u64, bytes: u64, error: &RowError) {
        let (outcome, reason) = match error {
            RowError::Failed(reason) => {
                self.summary.failed += 1;
                ("failed", reason)
            }
            RowError::Unknown(reason) => {
                self.summary.unknown += 1;
                ("unknown", reason)
            }
        };
        let Summary { failed, unknown, .. } = self.summary;
        if failed + unknown <= LISTED_MAX {
            self.progress.note(&format!("{outcome}: line {line}: {reason}"));
        }
        self.progress.message(format!("{failed} failed, {unknown} unknown"));
        self.progress.advance(bytes);
    }

    /// Says what was not listed, and hands out the counts.
    pub(super) fn finish(mut self) -> Summary {
        self.summary.seconds = self.started.elapsed().as_secs_f64();
        self.progress.clear();
        let Summary { rows, failed, unknown, .. } = self.summary;
        for (count, what) in [(self.duplicates, "duplicate keys"), (failed + unknown, "bad rows")] {
            if count > LISTED_MAX {
                self.progress.note(&format!("and {} more {what}", count - LISTED_MAX));
            }
        }
        if !self.summary.is_complete() {
            self.progress.note(&format!(
                "error: of {rows} rows {failed} failed and the outcome of {unknown} is unknown; \
                 import the file again: what is stored already is not written twice"
            ));
        }
        self.summary
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
