//! Comma-separated values, by RFC 4180 with any delimiter: the key is one field, unquoted; the
//! value is the whole record, byte for byte, without the end of its line.
//!
//! A quote opens a quoted field only where a field begins; within one, `""` is a quote, and
//! delimiters and line ends are data. A stray quote would swallow the rest of the file, so a record
//! that is still open after [`OPEN_MAX_BYTES`], or at the end, fails with its first line alone, and
//! reading goes on at the second. One with anything but a delimiter after a closing quote fails as far
//! as it was read, to the end of that line: what looks like rows within its quotes may be data.
//!
//! A byte order mark before the first record, which spreadsheets write, is no part of it.

#[cfg(test)]
mod tests;
mod writer;

use std::io::{self, BufRead};

use bytes::Bytes;
use memchr::memchr;

pub(super) use self::writer::CsvWriter;
use super::text::{Found, LineReader, too_long, without_end};
use super::{Pair, Row, RowReader, pair};

/// How long a record of several lines may get before its quote counts as a stray one. Above the
/// default limit of values by far, and little enough to read twice.
const OPEN_MAX_BYTES: usize = 16 << 20;

/// Where the key is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    AfterQuote,
    EndOfFile,
}

impl<R: BufRead> CsvReader<R> {
    pub(crate) fn new(input: R, columns: Columns) -> Self {
        let lines = LineReader::new(input).without_mark();
        Self { lines, columns, fields: None, record: Vec::new() }
    }

    /// Reads lines into the record until no quote is open.
    fn read_record(&mut self) -> io::Result<Ended> {
        self.record.clear();
        let mut quotes = Quotes::new(self.columns.delimiter);
        loop {
            let start = self.record.len();
            match self.lines.append_line(&mut self.record)? {
                Found::End if start == 0 => return Ok(Ended::EndOfFile),
                Found::End => return Ok(self.first_line_alone()),
                Found::TooLong => return Ok(Ended::TooLong),
                Found::Line => {}
            }
            let line = without_end(&self.record[start..]);
            if start == 0 && line.is_empty() {
                return Ok(Ended::Empty);
            }
            match quotes.after(line) {
                At::Malformed => return Ok(Ended::AfterQuote),
                At::Quoted if self.record.len() > OPEN_MAX_BYTES => {
                    return Ok(self.first_line_alone());
                }
                At::Quoted => {}
                _ => return Ok(Ended::Complete),
            }
        }
    }

    /// Keeps the first line, whose quote is a stray one, and reads the others again.
    fn first_line_alone(&mut self) -> Ended {
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
                Ended::AfterQuote => Err(after_quote(line, self.lines.lines())),
                Ended::Complete => self.parse(),
            };
            return Ok(Some(Row { line, bytes: self.lines.bytes() - start, note: None, content }));
        }
    }
}

/// What is wrong with a record of [`Ended::AfterQuote`] in these lines.
fn after_quote(first: u64, last: u64) -> String {
    let reason = "a quoted field goes on after its quote".to_owned();
    if first == last { reason } else { format!("{reason}: lines {first} to {last} are refused") }
}

/// How many fields a record has, and the one that is the key.
fn split(record: &[u8], columns: Columns) -> (usize, Option<Bytes>) {
    let mut key = None;
    let fields = each_field(record, columns.delimiter, |at, field| {
        if at == columns.key {
            key = Some(Bytes::copy_from_slice(field));
        }
    });
    (fields, key)
}

/// Hands out the fields of a complete record, unquoted, and says how many there are.
fn each_field(record: &[u8], delimiter: u8, mut on_field: impl FnMut(usize, &[u8])) -> usize {
    let mut at = 0;
    if memchr(b'"', record).is_none() {
        for field in record.split(|&byte| byte == delimiter) {
            on_field(at, field);
            at += 1;
        }
        return at;
    }
    let (mut field, mut quotes) = (Vec::new(), Quotes::new(delimiter));
    for &byte in record {
        match quotes.step(byte) {
            Step::Data => field.push(byte),
            Step::Quote => {}
            Step::Delimiter => {
                on_field(at, &field);
                field.clear();
                at += 1;
            }
        }
    }
    on_field(at, &field);
    at + 1
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
    /// Something else came after a quote that closed a field: what follows means nothing.
    Malformed,
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
            (At::Malformed, _) => (At::Malformed, Step::Data),
            (_, byte) if byte == self.delimiter => (At::FieldStart, Step::Delimiter),
            (At::QuoteInQuoted, _) => (At::Malformed, Step::Data),
            (_, _) => (At::Unquoted, Step::Data),
        };
        self.at = at;
        step
    }

    /// Where `line`, which has no end, leaves its record.
    fn after(&mut self, line: &[u8]) -> At {
        if self.at != At::FieldStart || memchr(b'"', line).is_some() {
            for &byte in line {
                self.step(byte);
            }
        }
        self.at
    }
}
