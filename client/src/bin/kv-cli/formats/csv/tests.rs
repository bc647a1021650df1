use proptest::prelude::*;

use super::super::testing::{file, rows};
use super::super::{CsvOptions, RowFormat};
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
fn text_after_a_closing_quote_fails_its_line_alone() {
    let rows = keys(b"a,1\n\"q\"x,3\n\"q\"x,\"3\n\"y\",4\"\r\n\"z\"\"\",5\r\n", columns(b',', 0));
    let reason = || Err("a quoted field goes on after its quote".to_owned());
    let good = |key: &str| Ok(key.to_owned());
    let expected = [(1, good("a")), (2, reason()), (3, reason()), (4, good("y")), (5, good("z\""))];
    assert_eq!(rows, expected);
}

/// What stands within its quotes was meant as data, and is not taken for rows.
#[test]
fn text_after_a_quote_that_closes_lines_later_fails_them_all() {
    let rows = keys(b"1,\"multi\n2,evil\nend\"x,3\n4,fine\n", columns(b',', 0));
    let reason = "a quoted field goes on after its quote: lines 1 to 3 are refused";
    assert_eq!(rows, [(1, Err(reason.to_owned())), (4, Ok("4".to_owned()))]);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_key() {
    let text = b"\xef\xbb\xbfa,1\n\xef\xbb\xbfb,2\n";
    let rows = read(text, columns(b',', 0));
    let pairs: Vec<&Pair> = rows.iter().map(|row| row.content.as_ref().unwrap()).collect();
    assert_eq!((&pairs[0].key[..], &pairs[0].value[..]), (&b"a"[..], &b"a,1"[..]));
    assert_eq!(pairs[1].key, "\u{feff}b");
    assert_eq!(rows.iter().map(|row| row.bytes).sum::<u64>(), text.len() as u64);
    assert_eq!(keys(b"\xef\xbb\xbf\na,1\n", columns(b',', 0)), [(2, Ok("a".to_owned()))]);
}

#[test]
fn what_would_not_read_back_is_refused() {
    let pair = |value: &'static [u8]| Pair { key: "b".into(), value: value.into() };
    let without_its_key = b"c,d";
    let within_a_field = b"xxbxx,c";
    let pairs = [
        &b""[..],
        b"a\nb",
        b"b\r",
        b"b\xff",
        b"\xef\xbb\xbfb,c",
        without_its_key,
        within_a_field,
        b"b,\"c\"d",
        b"b,c",
        b"\"b\",\"c\nd\"",
        b"a,b",
        b"b;c",
        b"b,c,d",
    ];
    let (text, taken) = file(RowFormat::Csv, &pairs.map(pair));
    assert_eq!(text, b"b,c\n\"b\",\"c\nd\"\n");
    assert_eq!(taken.len(), 2);
}

/// How the rows, a key and a value each, are read, if all of them were taken.
fn read_by(rows: &[(&'static str, &'static str)]) -> Option<Columns> {
    let mut writer = CsvWriter::new(CsvOptions::default());
    for &(key, value) in rows {
        let pair = Pair { key: key.into(), value: value.into() };
        writer.write(&pair, &mut Vec::new()).ok()?;
    }
    writer.columns()
}

#[test]
fn the_rows_that_were_written_say_how_they_are_read() {
    assert_eq!(read_by(&[]), None);
    assert_eq!(read_by(&[("a", "a"), ("b", "b")]), Some(columns(b',', 0)));
    assert_eq!(read_by(&[("a", "a;1"), ("b", "b;b")]), Some(columns(b';', 0)));
    assert_eq!(read_by(&[("a", "a\ta"), ("b", "1\tb")]), Some(columns(b'\t', 1)));
    assert_eq!(read_by(&[("a", "a,1|a"), ("b", "2,b|3")]), None);
}

#[test]
fn options_say_which_rows_are_taken() {
    let options = CsvOptions { delimiter: Some(b':'), key_column: Some(1) };
    let mut writer = CsvWriter::new(options);
    let mut takes = |value: &'static str| {
        let pair = Pair { key: "b".into(), value: value.into() };
        writer.write(&pair, &mut Vec::new()).is_ok()
    };
    assert!(!takes("b,c") && !takes("b:c") && takes("a:b") && !takes("a:b:c") && takes("b:b"));
    assert_eq!(writer.columns(), Some(columns(b':', 1)));
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

/// Every complete record of `text` as all its fields; none if a quote is never closed or text comes
/// after it, which are our own rules: the crate takes such a field to the end.
fn records(text: &[u8]) -> Option<Vec<Vec<Vec<u8>>>> {
    let mut reader = CsvReader::new(text, columns(b',', 0));
    let mut records = Vec::new();
    loop {
        match reader.read_record().unwrap() {
            Ended::EndOfFile => return Some(records),
            Ended::Empty => {}
            Ended::TooLong | Ended::StrayQuote | Ended::AfterQuote => return None,
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
}
