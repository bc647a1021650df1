use proptest::prelude::*;

use super::super::RowFormat;
use super::super::testing::{file, rows};
use super::*;

fn read(text: &[u8], columns: Columns) -> Vec<Row> {
    rows(RowFormat::Csv, columns, text)
}

fn columns(delimiter: u8, key: usize) -> Columns {
    Columns { delimiter, key }
}

/// Line, and key or error, of each row.
fn keys(text: &[u8], columns: Columns) -> Vec<(u64, Result<String, String>)> {
    let key = |pair: Pair| String::from_utf8(pair.key.to_vec()).unwrap();
    read(text, columns).into_iter().map(|row| (row.line, row.content.map(key))).collect()
}

#[test]
fn the_value_is_the_whole_line() {
    let rows = read(b"0041;LATIN A;Lu\r\n0042;LATIN B;Lu", columns(b';', 0));
    let pairs: Vec<Pair> = rows.into_iter().map(|r| r.content.unwrap()).collect();
    assert_eq!((&pairs[0].key[..], &pairs[0].value[..]), (&b"0041"[..], &b"0041;LATIN A;Lu"[..]));
    assert_eq!((&pairs[1].key[..], &pairs[1].value[..]), (&b"0042"[..], &b"0042;LATIN B;Lu"[..]));
}

#[test]
fn a_quoted_record_spans_lines_and_keeps_its_bytes() {
    let rows = read(b"\"a\"\"\n,b\",1\nc,2\n", columns(b',', 0));
    assert_eq!((rows[0].line, rows[0].bytes), (1, 11));
    let pair = rows[0].content.as_ref().unwrap();
    assert_eq!((&pair.key[..], &pair.value[..]), (&b"a\"\n,b"[..], &b"\"a\"\"\n,b\",1"[..]));
    assert_eq!(rows[1].line, 3);
}

#[test]
fn bad_rows_are_reported_by_line_and_the_rest_is_read() {
    let rows = keys(b"a,1\nb\n\nc,1,2\n\xff,1\n,1\nd,4\n", columns(b',', 0));
    let lines: Vec<(u64, bool)> = rows.iter().map(|(line, key)| (*line, key.is_ok())).collect();
    assert_eq!(lines, [(1, true), (2, false), (4, false), (5, false), (6, false), (7, true)]);
    assert_eq!(rows[1].1.as_ref().unwrap_err(), "1 fields, but the first row has 2");
    assert_eq!(rows[3].1.as_ref().unwrap_err(), "invalid UTF-8 at byte 0 of the row");
    assert_eq!(rows[4].1.as_ref().unwrap_err(), "the key is empty");
}

#[test]
fn a_key_column_out_of_range_fails_each_row() {
    for (_, row) in keys(b"a,1\n\"b\",2\n", columns(b',', 2)) {
        assert_eq!(row.unwrap_err(), "no column 2: the row has 2 fields");
    }
}

#[test]
fn a_stray_quote_fails_its_line_alone() {
    let rows = keys(b"a,1\nb,\"2\nc,3\nd,4\n", columns(b',', 0));
    assert_eq!(rows[1], (2, Err("a quoted field is never closed".to_owned())));
    let good: Vec<(u64, String)> =
        rows.into_iter().filter_map(|(line, key)| Some((line, key.ok()?))).collect();
    assert_eq!(good, [(1, "a".to_owned()), (3, "c".to_owned()), (4, "d".to_owned())]);
}

#[test]
fn bytes_of_all_rows_are_the_file() {
    let text = b"a,1\r\nb,\"2\nc,3\n\"x\ny\",4";
    let total: u64 = read(text, columns(b',', 0)).iter().map(|row| row.bytes).sum();
    assert_eq!(total, text.len() as u64);
}

#[test]
fn what_would_not_read_back_is_refused() {
    let pair = |value: &'static [u8]| Pair { key: "b".into(), value: value.into() };
    let without_its_key = b"c,d";
    let pairs =
        [&b""[..], b"a\nb", b"b\r", b"b\xff", without_its_key, b"a,b", b"\"a\nb\",c"].map(pair);
    let (text, taken) = file(RowFormat::Csv, &pairs);
    assert_eq!(text, b"a,b\n\"a\nb\",c\n");
    assert_eq!(taken.len(), 2);
}

/// The twin: the `csv` crate's idea of a text.
fn twin(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut reader = ::csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .terminator(::csv::Terminator::Any(b'\n'))
        .from_reader(text);
    let fields = |record: ::csv::ByteRecord| record.iter().map(<[u8]>::to_vec).collect();
    reader.byte_records().map(|record| fields(record.unwrap())).collect()
}

/// Every complete record of `text` as all its fields; none if a quote is never closed, which is
/// our own rule: the crate takes such a field to the end.
fn records(text: &[u8]) -> Option<Vec<Vec<Vec<u8>>>> {
    let mut reader = CsvReader::new(text, columns(b',', 0));
    let mut records = Vec::new();
    loop {
        match reader.read_record().unwrap() {
            Ended::EndOfFile => return Some(records),
            Ended::Empty => {}
            Ended::TooLong | Ended::StrayQuote => return None,
            Ended::Complete => {
                let record = without_end(&reader.record);
                let (fields, _) = split(record, reader.columns);
                let field = |at| split(record, columns(b',', at)).1.unwrap().to_vec();
                records.push((0..fields).map(field).collect());
                assert_eq!(split(record, columns(b',', fields)), (fields, None));
            }
        }
    }
}

proptest! {
    #[test]
    fn fields_agree_with_the_csv_crate(text in "[ab,\"\n]{0,24}") {
        if let Some(records) = records(text.as_bytes()) {
            prop_assert_eq!(records, twin(text.as_bytes()));
        }
    }

    #[test]
    fn any_text_is_read_to_its_end(text in prop::collection::vec(any::<u8>(), 0..60)) {
        let total: usize = read(&text, columns(b',', 0)).iter().map(|r| r.bytes as usize).sum();
        let empty = text.len() - total;
        prop_assert!(text.iter().filter(|b| matches!(b, b'\n' | b'\r')).count() >= empty);
    }

    #[test]
    fn what_is_written_reads_back(values in prop::collection::vec("[ab\r\n]{0,6}", 0..6)) {
        let pairs: Vec<Pair> =
            values.into_iter().map(|v| Pair { key: v.clone().into(), value: v.into() }).collect();
        let (text, taken) = file(RowFormat::Csv, &pairs);
        let back: Vec<Pair> =
            read(&text, columns(b',', 0)).into_iter().map(|r| r.content.unwrap()).collect();
        prop_assert_eq!(back, taken);
    }
}
