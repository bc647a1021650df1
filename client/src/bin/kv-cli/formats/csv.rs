//! Comma-separated values, by RFC 4180 with any delimiter: the key is one field, unquoted; the
//! value is the whole record, byte for byte, without the end of its line.
//!
//! A quote opens a quoted field only where a field begins; within one, `""` is a quote, and
//! delimiters and line ends are data. A stray quote would swallow the rest of the file, so a record
//! that is still open after [`OPEN_MAX_BYTES`], or at the end, fails with its first line alone, and
//! reading goes on at the second.

#[cfg(test)]
mod tests;

use std::io::{self, BufRead, Write};

use bytes::Bytes;
use memchr::memchr;

use super::text::{Found, LineReader, too_long, without_end};
use super::{Pair, Row, RowReader, WriteRowError, pair};

/// How long a record of several lines may get before its quote counts as a stray one. Above the
/// default limit of values by far, and little enough to read twice.
const OPEN_MAX_BYTES: usize = 16 << 20;

/// Where the key is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    pub(crate) delimiter: u8,
    /// Counted from 0.
    pub(crate) key: usize,
}

impl Default for Columns {
    fn default() -> Self {
        Self { delimiter: b',', key: 0 }
    }
}

/// Reads records that all have as many fields as the first good one.
pub(crate) struct CsvReader<R> {
    lines: LineReader<R>,
    columns: Columns,
    /// Of the first record.
    fields: Option<usize>,
    record: Vec<u8>,
}

/// How a record ended.
enum Ended {
    Complete,
    Empty,
    TooLong,
    StrayQuote,
    EndOfFile,
}

impl<R: BufRead> CsvReader<R> {
    pub(crate) fn new(input: R, columns: Columns) -> Self {
        Self { lines: LineReader::new(input), columns, fields: None, record: Vec::new() }
    }

    /// Reads lines into the record until no quote is open.
    fn read_record(&mut self) -> io::Result<Ended> {
        self.record.clear();
        let mut quotes = Quotes::new(self.columns.delimiter);
        loop {
            let start = self.record.len();
            match self.lines.append_line(&mut self.record)? {
                Found::End if start == 0 => return Ok(Ended::EndOfFile),
                Found::End => return Ok(self.give_up_quote()),
                Found::TooLong => return Ok(Ended::TooLong),
                Found::Line => {}
            }
            let line = &self.record[start..];
            if start == 0 && without_end(line).is_empty() {
                return Ok(Ended::Empty);
            }
            if !quotes.is_open_after(line) {
                return Ok(Ended::Complete);
            }
            if self.record.len() > OPEN_MAX_BYTES {
                return Ok(self.give_up_quote());
            }
        }
    }

    /// Keeps the first line alone and reads the others again.
    fn give_up_quote(&mut self) -> Ended {
        let first = memchr(b'\n', &self.record).map_or(self.record.len(), |at| at + 1);
        self.lines.hand_back(&self.record[first..]);
        self.record.truncate(first);
        Ended::StrayQuote
    }

    fn parse(&mut self) -> Result<Pair, String> {
        let record = without_end(&self.record);
        if let Err(error) = str::from_utf8(record) {
            return Err(format!("invalid UTF-8 at byte {} of the row", error.valid_up_to()));
        }
        let (fields, key) = split(record, self.columns);
        let expected = *self.fields.get_or_insert(fields);
        if fields != expected {
            return Err(format!("{fields} fields, but the first row has {expected}"));
        }
        let missing = || format!("no column {}: the row has {fields} fields", self.columns.key);
        pair(key.ok_or_else(missing)?, Bytes::copy_from_slice(record))
    }
}

impl<R: BufRead + Send> RowReader for CsvReader<R> {
    fn next_row(&mut self) -> io::Result<Option<Row>> {
        loop {
            let (line, start) = (self.lines.lines() + 1, self.lines.bytes());
            let content = match self.read_record()? {
                Ended::EndOfFile => return Ok(None),
                Ended::Empty => continue,
                Ended::TooLong => Err(too_long()),
                Ended::StrayQuote => Err("a quoted field is never closed".to_owned()),
                Ended::Complete => self.parse(),
            };
            return Ok(Some(Row { line, bytes: self.lines.bytes() - start, content }));
        }
    }
}

/// How many fields a record has, and the one that is the key.
fn split(record: &[u8], columns: Columns) -> (usize, Option<Bytes>) {
    if memchr(b'"', record).is_none() {
        let mut fields = record.split(|&b| b == columns.delimiter);
        let key = fields.nth(columns.key).map(Bytes::copy_from_slice);
        return (memchr::memchr_iter(columns.delimiter, record).count() + 1, key);
    }
    let (mut field, mut key) = (0, Vec::new());
    let mut quotes = Quotes::new(columns.delimiter);
    for &byte in record {
        match quotes.step(byte) {
            Step::Data if field == columns.key => key.push(byte),
            Step::Data | Step::Quote => {}
            Step::Delimiter => field += 1,
        }
    }
    (field + 1, (columns.key <= field).then(|| key.into()))
}

/// The quoting rules, a byte at a time.
struct Quotes {
    delimiter: u8,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    FieldStart,
    Unquoted,
    Quoted,
    /// After a quote within a quoted field: the field's end, or the first half of `""`.
    QuoteInQuoted,
}

/// What a byte is.
enum Step {
    Data,
    Quote,
    Delimiter,
}

impl Quotes {
    fn new(delimiter: u8) -> Self {
        Self { delimiter, at: At::FieldStart }
    }

    fn step(&mut self, byte: u8) -> Step {
        let (at, step) = match (self.at, byte) {
            (At::FieldStart, b'"') => (At::Quoted, Step::Quote),
            (At::Quoted, b'"') => (At::QuoteInQuoted, Step::Quote),
            (At::Quoted, _) => (At::Quoted, Step::Data),
            (At::QuoteInQuoted, b'"') => (At::Quoted, Step::Data),
            (_, byte) if byte == self.delimiter => (At::FieldStart, Step::Delimiter),
            (_, _) => (At::Unquoted, Step::Data),
        };
        self.at = at;
        step
    }

    /// Whether a quoted field goes on after `line`.
    fn is_open_after(&mut self, line: &[u8]) -> bool {
        if self.at != At::FieldStart || memchr(b'"', line).is_some() {
            for &byte in line {
                self.step(byte);
            }
        }
        self.at == At::Quoted
    }
}

/// The value as it is: the twin of reading, which made the value of the whole record.
pub(super) fn write(pair: &Pair, out: &mut impl Write) -> Result<(), WriteRowError> {
    let value = &pair.value;
    let reason = if value.is_empty() {
        "the value is empty"
    } else if str::from_utf8(value).is_err() {
        "the value is not UTF-8"
    } else if value.ends_with(b"\r") || ends_early(value) {
        "the value holds a line end"
    } else if memchr::memmem::find(value, &pair.key).is_none() && !pair.key.contains(&b'"') {
        "the value does not hold the key, so that csv would lose it"
    } else {
        out.write_all(value)?;
        return Ok(out.write_all(b"\n")?);
    };
    Err(WriteRowError::Refused(reason))
}

/// Whether `value` holds a line end that no delimiter could make part of a quoted field.
fn ends_early(value: &[u8]) -> bool {
    let Some(end) = memchr(b'\n', value) else { return false };
    memchr(b'"', &value[..end]).is_none()
}
