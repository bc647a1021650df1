//! `import`: a file into a namespace, a row at a time.
//!
//! A thread reads the file ([`source`]); one task keeps a bounded number of rows in flight
//! ([`pipeline`]), each of which replaces what is under its key ([`store`]); [`report`] counts
//! them and says on stderr which lines failed and which keys came twice ([`duplicates`]).

mod duplicates;
mod pipeline;
mod report;
mod source;
mod store;

use anyhow::{Context as _, Result, bail};

use self::report::Report;
use self::source::Source;
pub(crate) use self::store::{KvStore, RowError, Store};
use crate::args::{ImportArgs, RowFormat};
use crate::commands::Session;
use crate::failure::Exit;
use crate::formats::Columns;
use crate::progress::Progress;

/// Imports the file. Rows that fail do not stop it; a file that cannot be read does, after the
/// rows before.
pub(crate) async fn run(session: &Session, args: ImportArgs) -> Result<Exit> {
    let columns = columns(&args)?;
    // Asked first, so that a mistyped name is one error and not one for each row.
    session.client.describe_namespace(&args.namespace).await?;
    let (rows, total) = Source::open(&args.file, args.format, columns)
        .with_context(|| format!("cannot open {}", args.file.display()))?;

    let store = KvStore::new(session.client.namespace(args.namespace), session.timeout);
    let mut report = Report::new(Progress::bytes(total));
    let read = pipeline::run(&store, rows, &mut report).await;
    let summary = report.finish();
    session.output.result(&summary, || summary.to_string())?;
    read.with_context(|| format!("cannot read {} to its end", args.file.display()))?;
    Ok(if summary.is_complete() { Exit::Done } else { Exit::Failed })
}

/// Where the key of a csv row is. The other formats know that themselves.
fn columns(args: &ImportArgs) -> Result<Columns> {
    let given = args.delimiter.is_some() || args.key_column.is_some();
    if given && args.format != RowFormat::Csv {
        bail!("--delimiter and --key-column are for --format csv; leave them out");
    }
    let default = Columns::default();
    Ok(Columns {
        delimiter: args.delimiter.unwrap_or(default.delimiter),
        key: args.key_column.unwrap_or(default.key),
    })
}
