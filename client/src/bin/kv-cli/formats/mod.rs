//! Rows of files: what import reads and export writes.
//!
//! ```text
//!   csv    0041;LATIN CAPITAL LETTER A;Lu     key 0041 (column 0), value the whole line
//!   lines  alice<TAB>hello                    key alice, value hello
//!   jsonl  {"key":"alice","value":"hello"}    the same; key_base64, value_base64 for other bytes
//! ```
//!
//! A reader holds one row at a time and never stops at a bad one: it says what is wrong with it
//! and goes on. A writer refuses what its reader would not read back byte for byte.

mod csv;
mod jsonl;
mod lines;
mod text;

use std::io::{self, BufRead, Write};

use anyhow::bail;
use bytes::Bytes;

use self::csv::CsvWriter;
pub(crate) use self::csv::{Columns, CsvReader};
pub(crate) use self::jsonl::JsonlReader;
pub(crate) use self::lines::LinesReader;
use crate::args::RowFormat;

/// The longest key, in bytes: the servers' rule, checked here to name the line.
const KEY_MAX_BYTES: usize = 4096;

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pair {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
}

/// One row of a file, or what is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    /// The line on which it begins, counted from 1.
    pub(crate) line: u64,
    /// How many bytes of the file it takes, its line end included.
    pub(crate) bytes: u64,
    /// What is to be told of it, good or not.
    pub(crate) note: Option<&'static str>,
    pub(crate) content: Result<Pair, String>,
}

/// Reads a file row by row.
pub(crate) trait RowReader: Send {
    /// The next row; none at the end of the file. After an error of the file there is no more.
    fn next_row(&mut self) -> io::Result<Option<Row>>;
}

/// The reader of `format`.
pub(crate) fn reader(
    format: RowFormat,
    input: Box<dyn BufRead + Send>,
    columns: Columns,
) -> Box<dyn RowReader> {
    match format {
        RowFormat::Csv => Box::new(CsvReader::new(input, columns)),
        RowFormat::Jsonl => Box::new(JsonlReader::new(input)),
        RowFormat::Lines => Box::new(LinesReader::new(input)),
    }
}

/// Why a row cannot be written.
pub(crate) enum WriteRowError {
    /// The reader would not read it back as it is; nothing was written.
    Refused(&'static str),
    /// The file failed.
    Io(io::Error),
}

impl From<io::Error> for WriteRowError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What is said of the rows of csv; the rest of their [`Columns`] is the default, or found out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CsvOptions {
    pub(crate) delimiter: Option<u8>,
    pub(crate) key_column: Option<usize>,
}

impl CsvOptions {
    /// The other formats have none of them.
    pub(crate) fn check(self, format: RowFormat) -> anyhow::Result<()> {
        let given = self.delimiter.is_some() || self.key_column.is_some();
        if given && format != RowFormat::Csv {
            bail!("--delimiter and --key-column are for --format csv; leave them out");
        }
        Ok(())
    }
}

/// Writes a file row by row.
pub(crate) enum RowWriter {
    Csv(CsvWriter),
    Jsonl,
    Lines,
}

impl RowWriter {
    pub(crate) fn new(format: RowFormat, csv: CsvOptions) -> Self {
        match format {
            RowFormat::Csv => Self::Csv(CsvWriter::new(csv)),
            RowFormat::Jsonl => Self::Jsonl,
            RowFormat::Lines => Self::Lines,
        }
    }

    /// Appends one row.
    pub(crate) fn write(&mut self, pair: &Pair, out: &mut impl Write) -> Result<(), WriteRowError> {
        match self {
            Self::Csv(csv) => csv.write(pair, out),
            Self::Jsonl => jsonl::write(pair, out),
            Self::Lines => lines::write(pair, out),
        }
    }

    /// How import reads the rows of csv.
    pub(crate) fn columns(&self) -> Option<Columns> {
        match self {
            Self::Csv(csv) => csv.columns(),
            Self::Jsonl | Self::Lines => None,
        }
    }
}

/// A pair whose key the servers would accept.
fn pair(key: Bytes, value: Bytes) -> Result<Pair, String> {
    match key.len() {
        0 => Err("the key is empty".to_owned()),
        1..=KEY_MAX_BYTES => Ok(Pair { key, value }),
        length => Err(format!("the key has {length} bytes, {KEY_MAX_BYTES} at most")),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Every row of `text`, in a buffer small enough to split lines.
    pub(crate) fn rows(format: RowFormat, columns: Columns, text: &[u8]) -> Vec<Row> {
        let input = io::BufReader::with_capacity(3, io::Cursor::new(text.to_vec()));
        let mut reader = reader(format, Box::new(input), columns);
        std::iter::from_fn(|| reader.next_row().unwrap()).collect()
    }

    /// The file that export would write, without the pairs that it refuses; and those it took.
    pub(crate) fn file(format: RowFormat, pairs: &[Pair]) -> (Vec<u8>, Vec<Pair>) {
        let mut writer = RowWriter::new(format, CsvOptions::default());
        file_of(&mut writer, pairs)
    }

    pub(crate) fn file_of(writer: &mut RowWriter, pairs: &[Pair]) -> (Vec<u8>, Vec<Pair>) {
        let (mut out, mut taken) = (Vec::new(), Vec::new());
        for pair in pairs {
            if writer.write(pair, &mut out).is_ok() {
                taken.push(pair.clone());
            }
        }
        (out, taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{file_of, rows};
    use super::*;

    /// Keys and values of the bytes that formats are made of, and of any others; most values hold
    /// their key, as csv needs.
    fn pairs() -> impl Strategy<Value = Vec<Pair>> {
        let few = "[ab,;|\t\"\r\n\u{feff}]{1,3}".prop_map(String::into_bytes);
        let bytes = prop_oneof![3 => few, 1 => prop::collection::vec(any::<u8>(), 1..5)];
        let around = "[ab,;|\"\r\n]{0,4}";
        let pair = (bytes.clone(), bytes, around, around, any::<bool>());
        let pair = pair.prop_map(|(key, other, before, after, holds)| {
            let value = match holds {
                true => [before.as_bytes(), &key, after.as_bytes()].concat(),
                false => other,
            };
            Pair { key: key.into(), value: value.into() }
        });
        prop::collection::vec(pair, 0..6)
    }

    proptest! {
        #[test]
        fn what_is_exported_is_imported(pairs in pairs()) {
            for format in [RowFormat::Csv, RowFormat::Jsonl, RowFormat::Lines] {
                let mut writer = RowWriter::new(format, CsvOptions::default());
                let (text, taken) = file_of(&mut writer, &pairs);
                let columns = writer.columns().unwrap_or_default();
                let back: Vec<Pair> =
                    rows(format, columns, &text).into_iter().map(|r| r.content.unwrap()).collect();
                prop_assert_eq!(&back, &taken, "{:?}", format);
            }
        }
    }
}
