//! `export`: all rows of a namespace into a file or to stdout, in the twin formats of `import`.
//!
//! A key that cannot be written is reported and the scan goes on, so that one run names them all;
//! but then the export has failed, and FILE is not there.

mod target;

use std::fmt;
use std::io::Write;
use std::pin::pin;
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use quorate_client::{ScanItem, ScanOptions};
use serde::Serialize;

use self::target::Target;
use crate::args::{ExportArgs, SiblingsArg};
use crate::commands::Session;
use crate::failure::Exit;
use crate::formats::{Columns, CsvOptions, Pair, RowWriter, WriteRowError};
use crate::output::printable;
use crate::progress::Progress;
use crate::stderr::{self, Notice, say};

/// How many keys that could not be written are listed; the summary counts them all.
const LISTED_MAX: u64 = 100;

/// What was done: the last line on stdout if the rows went to a file, else on stderr.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Summary {
    /// Rows written.
    rows: u64,
    /// Keys that could not be written.
    failed: u64,
    /// Their bytes, as written.
    bytes: u64,
    seconds: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, failed, bytes, seconds } = self;
        write!(f, "rows={rows} failed={failed} bytes={bytes} seconds={seconds:.3}")
    }
}

/// Exports the namespace.
pub(crate) async fn run(session: &Session, args: ExportArgs) -> Result<Exit> {
    let csv = CsvOptions { delimiter: args.delimiter, key_column: args.key_column };
    csv.check(args.format)?;
    let path = args.file.filter(|path| path.as_os_str() != "-");
    let items = session.client.namespace(args.namespace).scan(ScanOptions::default());
    let mut items = pin!(items);
    let name = path.as_ref().map_or("stdout".to_owned(), |path| path.display().to_string());
    let cannot_write = || format!("cannot write {name}");
    let mut target = match &path {
        Some(path) => Target::file(path).with_context(cannot_write)?,
        None => Target::stdout(session.output.writer()),
    };
    let incomplete = target.if_incomplete();
    let writer = RowWriter::new(args.format, csv);
    let mut export = Export::new(writer, args.siblings, incomplete.clone());
    let written = async {
        while let Some(item) = items.next().await {
            let item = item.with_context(|| incomplete.clone())?;
            export.write(item, &mut target).with_context(cannot_write)?;
        }
        anyhow::Ok(())
    };
    let written = written.await;
    let columns = export.writer.columns();
    let summary = export.finish();
    written?;
    if summary.failed > 0 {
        target.flush().with_context(cannot_write)?;
        let keys = if summary.failed == 1 { "key" } else { "keys" };
        let message = format!(
            "{} {keys} could not be written, {}: {summary}; mend what is said of each, and export \
             again",
            summary.failed,
            target.without_others()
        );
        say(&Notice::error("incomplete", message).with("summary", summary));
        return Ok(Exit::Failed);
    }
    target.commit().with_context(cannot_write)?;
    columns.and_then(read_by).iter().for_each(say);
    match path {
        Some(_) => session.output.result(&summary, || summary.to_string())?,
        None => stderr::summary(&summary),
    }
    Ok(Exit::Done)
}

/// What an import of these rows has to be told, if anything.
fn read_by(columns: Columns) -> Option<Notice> {
    let Columns { delimiter, key } = columns;
    let default = Columns::default();
    let mut flags = String::new();
    if delimiter != default.delimiter {
        flags += &format!(" --delimiter '{}'", char::from(delimiter).escape_default());
    }
    if key != default.key {
        flags += &format!(" --key-column {key}");
    }
    let message = format!("import reads these rows with{flags}");
    (!flags.is_empty()).then(|| Notice::note(message))
}

/// Writes and counts.
///
/// Ctrl-C drops whatever runs, in the shell as well. One that is dropped before [`Export::finish`]
/// was interrupted, and says so.
struct Export {
    writer: RowWriter,
    siblings: SiblingsArg,
    /// What becomes of the rows if they are not all.
    incomplete: String,
    finished: bool,
    summary: Summary,
    progress: Progress,
    started: Instant,
    /// The row being written; kept for its memory.
    row: Vec<u8>,
}

impl Export {
    fn new(writer: RowWriter, siblings: SiblingsArg, incomplete: String) -> Self {
        Self {
            writer,
            siblings,
            incomplete,
            finished: false,
            summary: Summary::default(),
            progress: Progress::keys(None),
            started: Instant::now(),
            row: Vec::new(),
        }
    }

    fn write(&mut self, item: ScanItem, out: &mut impl Write) -> std::io::Result<()> {
        self.progress.advance(1);
        let many = item.siblings.len();
        if many > 1 && self.siblings == SiblingsArg::Fail {
            let reason = format!("it has {many} siblings; resolve them, or pass --siblings all");
            self.fail(&item.key, &reason);
            return Ok(());
        }
        for sibling in item.siblings {
            let pair = Pair { key: item.key.clone(), value: sibling.value };
            self.row.clear();
            match self.writer.write(&pair, &mut self.row) {
                Ok(()) => {
                    out.write_all(&self.row)?;
                    self.summary.rows += 1;
                    self.summary.bytes += self.row.len() as u64;
                }
                Err(WriteRowError::Io(error)) => return Err(error),
                Err(WriteRowError::Refused(reason)) => {
                    self.fail(&item.key, &format!("{reason}; jsonl can hold it"));
                    break;
                }
            }
        }
        Ok(())
    }

    fn fail(&mut self, key: &[u8], reason: &str) {
        self.summary.failed += 1;
        if self.summary.failed <= LISTED_MAX {
            self.progress.say(&Notice::new("failed", reason).at_key(&printable(key)));
        }
    }

    fn finish(mut self) -> Summary {
        self.finished = true;
        self.summary.seconds = self.started.elapsed().as_secs_f64();
        self.progress.clear();
        if self.summary.failed > LISTED_MAX {
            let more = self.summary.failed - LISTED_MAX;
            self.progress.say(&Notice::note(format!("and {more} more keys")));
        }
        self.summary
    }

    fn interruption(&mut self) -> Notice {
        self.summary.seconds = self.started.elapsed().as_secs_f64();
        let message = format!("interrupted after {} rows: {}", self.summary.rows, self.incomplete);
        Notice::error("interrupted", message).with("summary", self.summary)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if !self.finished && !std::thread::panicking() {
            self.progress.clear();
            say(&self.interruption());
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_client::Sibling;

    use super::*;
    use crate::args::RowFormat;

    fn item(key: &'static str, values: &[&'static str]) -> ScanItem {
        let sibling =
            |value: &&'static str| Sibling { value: (*value).into(), ..Sibling::default() };
        let siblings = values.iter().map(sibling).collect();
        ScanItem { key: key.into(), siblings, context: None, cursor: None }
    }

    fn export(siblings: SiblingsArg, items: &[ScanItem]) -> (String, Summary) {
        let writer = RowWriter::new(RowFormat::Lines, CsvOptions::default());
        let (mut out, mut export) = (Vec::new(), Export::new(writer, siblings, String::new()));
        for item in items {
            export.write(item.clone(), &mut out).unwrap();
        }
        (String::from_utf8(out).unwrap(), export.finish())
    }

    #[test]
    fn a_key_that_cannot_be_written_fails_alone() {
        let items = [item("a", &["1"]), item("b\t", &["2"]), item("c", &["3", "4"])];
        let (text, summary) = export(SiblingsArg::Fail, &items);
        assert_eq!(text, "a\t1\n");
        assert_eq!((summary.rows, summary.failed, summary.bytes), (1, 2, 4));
    }

    #[test]
    fn a_note_says_how_rows_of_csv_are_read() {
        assert!(read_by(Columns::default()).is_none());
        for (delimiter, key, flags) in
            [(b';', 0, "--delimiter ';'"), (b'\t', 2, "--delimiter '\\t' --key-column 2")]
        {
            let note = format!("{:?}", read_by(Columns { delimiter, key }).unwrap());
            assert!(note.contains(&format!("with {}\"", flags.replace('\\', "\\\\"))), "{note}");
        }
    }

    #[test]
    fn all_siblings_have_a_row_each_when_asked() {
        let (text, summary) = export(SiblingsArg::All, &[item("c", &["3", "4"])]);
        assert_eq!(text, "c\t3\nc\t4\n");
        assert_eq!((summary.rows, summary.failed), (2, 0));
    }
}
