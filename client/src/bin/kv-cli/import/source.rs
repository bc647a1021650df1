//! Reads the file on a thread of its own, a little ahead of the writes.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use tokio::sync::mpsc;

use crate::args::RowFormat;
use crate::formats::{Columns, Row, RowReader, reader};

/// Rows cross from the reading thread in batches of so many rows or bytes, whichever comes first:
/// enough to make the crossing cheap. With [`BATCHES_AHEAD`] it bounds what is held in memory.
const BATCH_ROWS: usize = 128;
const BATCH_BYTES: u64 = 1 << 20;
const BATCHES_AHEAD: usize = 4;

/// The rows of a file, in its order.
pub(super) struct Source {
    batches: mpsc::Receiver<io::Result<Vec<Row>>>,
    batch: std::vec::IntoIter<Row>,
}

impl Source {
    /// Opens a file, or stdin for `-`, and says how many bytes it has, if that is known.
    pub(super) fn open(
        path: &Path,
        format: RowFormat,
        columns: Columns,
    ) -> io::Result<(Self, Option<u64>)> {
        let (input, total): (Box<dyn Read + Send>, _) = if path == Path::new("-") {
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
            }
            (Box::new(file), metadata.is_file().then_some(metadata.len()))
        };
        let input = Box::new(BufReader::with_capacity(256 << 10, input));
        Ok((Self::spawn(reader(format, input, columns)), total))
    }

    /// Reads ahead from `reader`.
    pub(super) fn spawn(mut reader: Box<dyn RowReader>) -> Self {
        let (sender, batches) = mpsc::channel(BATCHES_AHEAD);
        tokio::task::spawn_blocking(move || {
            loop {
                let batch = read_batch(&mut *reader);
                let ends = !matches!(&batch, Ok(rows) if !rows.is_empty());
                if sender.blocking_send(batch).is_err() || ends {
                    return;
                }
            }
        });
        Self { batches, batch: Vec::new().into_iter() }
    }

    /// The next row; none at the end. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> io::Result<Option<Row>> {
        loop {
            if let Some(row) = self.batch.next() {
                return Ok(Some(row));
            }
            match self.batches.recv().await {
                None => return Ok(None),
                Some(batch) => self.batch = batch?.into_iter(),
            }
        }
    }
}

/// Some rows; none at the end of the file.
fn read_batch(reader: &mut dyn RowReader) -> io::Result<Vec<Row>> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while rows.len() < BATCH_ROWS && bytes < BATCH_BYTES {
        match reader.next_row() {
            Ok(Some(row)) => {
                bytes += row.bytes;
                rows.push(row);
            }
            Ok(None) => break,
            Err(error) if rows.is_empty() => return Err(error),
            // The reader fails again, after these.
            Err(_) => break,
        }
    }
    Ok(rows)
}
