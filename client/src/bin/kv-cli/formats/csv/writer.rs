//! Writing csv: the value as it is, if import would read the key from it.
//!
//! ```text
//!   value 0041;LATIN A;Lu    key 0041      delimiter ; column 0 of 3
//!   value 0042;LATIN B;Lu    key 0042      the same
//!   value xx42xx             key 42        no field is the key: refused
//! ```
//!
//! A namespace does not keep what separated the fields of its rows, so the writer keeps to whatever
//! ways there are to read all rows that it took. A row that none of these reads is refused.

use std::io::{Read as _, Write};

use memchr::memchr;

use super::{Columns, CsvReader, Ended, each_field};
use crate::formats::text::{BYTE_ORDER_MARK, without_end};
use crate::formats::{CsvOptions, Pair, WriteRowError};

/// What separates fields, if nobody says so. Others are possible and could be anything: even
/// `xx42xx` has the field 42, between the letter x.
const DELIMITERS: &[u8] = b",;\t|";

/// A way to read a row: where the key is, and of how many fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layout {
    columns: Columns,
    fields: usize,
}

/// Writes rows that one import reads.
pub(crate) struct CsvWriter {
    options: CsvOptions,
    /// How all rows so far can be read; none if there was no row.
    layouts: Option<Vec<Layout>>,
}

impl CsvWriter {
    pub(crate) fn new(options: CsvOptions) -> Self {
        Self { options, layouts: None }
    }

    /// The value as it is: the twin of reading, which made the value of the whole record.
    pub(crate) fn write(&mut self, pair: &Pair, out: &mut impl Write) -> Result<(), WriteRowError> {
        let value = &pair.value;
        if let Some(reason) = no_record(value) {
            return Err(WriteRowError::Refused(reason));
        }
        let layouts = match &self.layouts {
            None => self.layouts_of(pair),
            Some(layouts) => kept(layouts, pair),
        };
        if layouts.is_empty() {
            return Err(WriteRowError::Refused(match self.layouts_of(pair).is_empty() {
                true => "import would not read the key from the value",
                false => "import would not read the key from the value as from those before",
            }));
        }
        out.write_all(value)?;
        out.write_all(b"\n")?;
        self.layouts = Some(layouts);
        Ok(())
    }

    /// How import reads the rows; none if there are none.
    pub(crate) fn columns(&self) -> Option<Columns> {
        let mut columns = self.layouts.iter().flatten().map(|layout| layout.columns);
        let first = columns.clone().next();
        columns.find(|&columns| columns == Columns::default()).or(first)
    }

    /// Every way to read this row.
    fn layouts_of(&self, pair: &Pair) -> Vec<Layout> {
        let CsvOptions { delimiter, key_column } = self.options;
        let delimiters = delimiter.as_slice();
        let delimiters = if delimiters.is_empty() { DELIMITERS } else { delimiters };
        let mut layouts: Vec<Layout> =
            delimiters.iter().flat_map(|&delimiter| layouts(pair, delimiter)).collect();
        layouts.retain(|layout| key_column.is_none_or(|key| layout.columns.key == key));
        layouts
    }
}

/// Those of `known` by which this row is read as well.
fn kept(known: &[Layout], pair: &Pair) -> Vec<Layout> {
    let mut kept = Vec::new();
    for of_one in known.chunk_by(|a, b| a.columns.delimiter == b.columns.delimiter) {
        let ways = layouts(pair, of_one[0].columns.delimiter);
        kept.extend(of_one.iter().filter(|layout| ways.contains(layout)));
    }
    kept
}

/// The ways to read this row with this delimiter, as the reader would.
fn layouts(pair: &Pair, delimiter: u8) -> Vec<Layout> {
    let value = &pair.value[..];
    let mut reader = CsvReader::new(value.chain(&b"\n"[..]), Columns { delimiter, key: 0 });
    let ended = reader.read_record();
    let is_one = matches!(ended, Ok(Ended::Complete)) && without_end(&reader.record) == value;
    if !is_one {
        return Vec::new();
    }
    let mut keys = Vec::new();
    let fields = each_field(value, delimiter, |at, field| {
        if field == pair.key {
            keys.push(at);
        }
    });
    let layout = |key| Layout { columns: Columns { delimiter, key }, fields };
    keys.into_iter().map(layout).collect()
}

/// Why no import would read this value as a record, whatever its fields.
fn no_record(value: &[u8]) -> Option<&'static str> {
    let ends_early = || {
        let end = memchr(b'\n', value)?;
        // A quote may make it part of a field.
        memchr(b'"', &value[..end]).is_none().then_some(())
    };
    if value.is_empty() {
        Some("the value is empty")
    } else if str::from_utf8(value).is_err() {
        Some("the value is not UTF-8")
    } else if value.starts_with(BYTE_ORDER_MARK) {
        Some("the value begins with a byte order mark")
    } else if value.ends_with(b"\r") || ends_early().is_some() {
        Some("the value holds a line end")
    } else {
        None
    }
}
