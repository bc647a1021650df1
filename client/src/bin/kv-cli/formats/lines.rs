//! `KEY<TAB>VALUE` per line. The key ends at the first tab; the value may hold more of them. Keys are
//! any bytes, so a byte order mark before the first is part of it, which is told.

use std::io::{self, BufRead, Write};

use bytes::Bytes;
use memchr::{memchr, memchr2};

use super::text::{BYTE_ORDER_MARK, Found, LineReader, too_long, without_end};
use super::{Pair, Row, RowReader, WriteRowError, pair};

/// What is said of a file that begins with a byte order mark.
const MARKED: &str = "the file begins with a byte order mark, which is part of the first key; if that \
                      is not meant, take it away";

/// Reads rows of any bytes.
pub(crate) struct LinesReader<R> {
    lines: LineReader<R>,
    row: Vec<u8>,
}

impl<R: BufRead> LinesReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { lines: LineReader::new(input), row: Vec::new() }
    }
}

impl<R: BufRead + Send> RowReader for LinesReader<R> {
    fn next_row(&mut self) -> io::Result<Option<Row>> {
        let mut row = next_line(&mut self.lines, &mut self.row, parse)?;
        if let Some(row) = &mut row {
            let is_marked = row.line == 1 && self.row.starts_with(BYTE_ORDER_MARK);
            row.note = is_marked.then_some(MARKED);
        }
        Ok(row)
    }
}

/// The next line that is not empty, as `parse` understands it.
pub(super) fn next_line<R: BufRead>(
    lines: &mut LineReader<R>,
    row: &mut Vec<u8>,
    parse: impl Fn(&[u8]) -> Result<Pair, String>,
) -> io::Result<Option<Row>> {
    loop {
        row.clear();
        let start = lines.bytes();
        let content = match lines.append_line(row)? {
            Found::End => return Ok(None),
            Found::TooLong => Err(too_long()),
            Found::Line if without_end(row).is_empty() => continue,
            Found::Line => parse(without_end(row)),
        };
        return Ok(Some(Row {
            line: lines.lines(),
            bytes: lines.bytes() - start,
            note: None,
            content,
        }));
    }
}

fn parse(line: &[u8]) -> Result<Pair, String> {
    let tab = memchr(b'\t', line).ok_or("no tab between key and value")?;
    pair(Bytes::copy_from_slice(&line[..tab]), Bytes::copy_from_slice(&line[tab + 1..]))
}

pub(super) fn write(pair: &Pair, out: &mut impl Write) -> Result<(), WriteRowError> {
    if memchr2(b'\t', b'\n', &pair.key).is_some() {
        return Err(WriteRowError::Refused("the key holds a tab or a line end"));
    }
    if memchr(b'\n', &pair.value).is_some() || pair.value.ends_with(b"\r") {
        return Err(WriteRowError::Refused("the value holds a line end"));
    }
    for part in [&pair.key[..], b"\t", &pair.value[..], b"\n"] {
        out.write_all(part)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{file, rows};
    use super::super::{Columns, RowFormat};
    use super::*;

    fn read(text: &[u8]) -> Vec<Row> {
        rows(RowFormat::Lines, Columns::default(), text)
    }

    #[test]
    fn bad_lines_are_reported_and_the_rest_is_read() {
        let long_key = "k".repeat(4097);
        let text = format!("a\t1\nno tab\n\n\tempty\nb\tx\ty\r\n{long_key}\tv\nlast\t");
        let rows = read(text.as_bytes());
        let seen: Vec<(u64, bool)> = rows.iter().map(|r| (r.line, r.content.is_ok())).collect();
        assert_eq!(seen, [(1, true), (2, false), (4, false), (5, true), (6, false), (7, true)]);
        assert_eq!(rows[3].content.as_ref().unwrap().value, "x\ty");
        assert_eq!(rows[5].content.as_ref().unwrap().value, "");
    }

    #[test]
    fn a_byte_order_mark_is_part_of_the_first_key_and_told() {
        let rows = read(b"\xef\xbb\xbfa\t1\n\xef\xbb\xbfb\t2\n");
        assert_eq!(rows[0].content.as_ref().unwrap().key, "\u{feff}a");
        assert!(rows[0].note.unwrap().contains("a byte order mark"));
        assert_eq!(rows[1].note, None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            pairs in prop::collection::vec(("[ab\t\n\r]{1,3}", "[ab\t\n\r]{0,4}"), 0..6),
        ) {
            let pairs: Vec<Pair> = pairs
                .into_iter()
                .map(|(key, value)| Pair { key: key.into(), value: value.into() })
                .collect();
            let (text, taken) = file(RowFormat::Lines, &pairs);
            let back: Vec<Pair> = read(&text).into_iter().map(|r| r.content.unwrap()).collect();
            prop_assert_eq!(&back, &taken);
            // Naive twin: refused is exactly what splitting by lines and tabs would not give back.
            let naive = |p: &&Pair| {
                let line = [&p.key[..], b"\t", &p.value[..]].concat();
                let line = String::from_utf8(line).unwrap();
                !line.contains('\n') && !line.ends_with('\r') && !p.key.contains(&b'\t')
            };
            prop_assert_eq!(taken.len(), pairs.iter().filter(naive).count());
        }
    }
}
