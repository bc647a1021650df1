//! `import`: a file into a namespace, in batches of rows.
//!
//! A thread reads the file ([`source`]); one task keeps a bounded number of rows in flight
//! ([`pipeline`]), each of which replaces what is under its key ([`store`]); [`report`] counts
//! them and says on stderr which lines failed and which keys came twice ([`duplicates`]). With
//! `--state` a file keeps how far they came ([`reach`], [`state`]); the next run reads the file from
//! its beginning all the same, so that lines, columns and duplicates are what they were.

mod duplicates;
mod lock;
mod pipeline;
mod reach;
mod report;
mod source;
mod state;
mod store;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use quorate_client::{Level, NamespaceDescription};

use self::pipeline::End;
use self::reach::Reach;
use self::report::Report;
use self::source::Source;
use self::state::{State, Subject, fingerprint};
pub(crate) use self::store::{Doubt, KvStore, RowError, Store, retry_in};
use crate::args::{ImportArgs, RowFormat};
use crate::commands::Session;
use crate::failure::Exit;
use crate::formats::{Columns, CsvOptions};
use crate::progress::Progress;
use crate::stderr::{Notice, say};

/// Imports the file. Rows that fail do not stop it; a file that cannot be read does, after the
/// rows before.
pub(crate) async fn run(session: &Session, args: ImportArgs) -> Result<Exit> {
    let columns = columns(&args)?;
    // Asked first, so that a mistyped name is one error and not one for each row.
    let namespace = session.client.describe_namespace(&args.namespace).await?;
    let state = match &args.state {
        Some(path) => Some(open_state(session, &args, &namespace, path).await?),
        None => None,
    };
    let (rows, total) = Source::open(&args.file, args.format, columns)
        .with_context(|| format!("cannot open {}", args.file.display()))?;

    let store = KvStore::new(
        session.client.namespace(args.namespace),
        retry_in(namespace.conflict),
        session.timeout,
    )
    .with_quorum(args.quorum.quorum())
    .with_r(args.r.unwrap_or(Level::Quorum));
    let mut report = Report::new(Progress::bytes(total), state, session.timeout);
    let read = pipeline::run(&store, rows, &mut report).await;
    let (summary, kept) = report.finish(matches!(read, Ok(End::Read)));
    session.output.result(&summary, || summary.to_string())?;
    kept?;
    let end = read.with_context(|| format!("cannot read {} to its end", args.file.display()))?;
    if let End::Hopeless(reason) = end {
        let message = format!(
            "the import gave up after {} rows, since the cluster takes no more: {reason}; run it \
             again when that is mended: what is stored already is not written twice",
            summary.rows
        );
        say(&Notice::error("unavailable", message));
    }
    Ok(if summary.is_complete() { Exit::Done } else { Exit::Failed })
}

/// The state in `path`, if it is of this import; else a new one.
async fn open_state(
    session: &Session,
    args: &ImportArgs,
    namespace: &NamespaceDescription,
    path: &Path,
) -> Result<State> {
    if args.file == Path::new("-") {
        bail!("--state needs a file, which a later run can read again; stdin it cannot");
    }
    let cluster_id = session.client.topology().await?.cluster_id.clone();
    let file = args.file.clone();
    let read = tokio::task::spawn_blocking(move || fingerprint(&file)).await?;
    let (bytes, xxh3) = read.with_context(|| format!("cannot read {}", args.file.display()))?;
    let Columns { delimiter, key } = columns(args)?;
    let format = match args.format {
        RowFormat::Csv => format!("csv, delimiter {:?}, key column {key}", char::from(delimiter)),
        RowFormat::Jsonl => "jsonl".to_owned(),
        RowFormat::Lines => "lines".to_owned(),
    };
    let subject = Subject {
        path: args.file.clone(),
        bytes,
        xxh3,
        format,
        cluster_id,
        namespace: namespace.name.clone(),
        namespace_id: format!("{:016x}", namespace.id),
    };
    let state = State::open(path, subject)?;
    let Reach { rows, line, .. } = state.resumed();
    if rows > 0 {
        let path = path.display();
        say(&Notice::note(format!("{path}: {rows} rows, up to line {line}, are done already")));
    }
    Ok(state)
}

/// Where the key of a csv row is. The other formats know that themselves.
fn columns(args: &ImportArgs) -> Result<Columns> {
    let options = CsvOptions { delimiter: args.delimiter, key_column: args.key_column };
    options.check(args.format)?;
    let default = Columns::default();
    Ok(Columns {
        delimiter: args.delimiter.unwrap_or(default.delimiter),
        key: args.key_column.unwrap_or(default.key),
    })
}
