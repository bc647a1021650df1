//! `{"key","value"}` per line. Bytes that are not UTF-8 stand as base64 in `key_base64` and
//! `value_base64`. A field that is unknown is refused rather than lost. A byte order mark before the
//! first line is no part of it.

use std::io::{self, BufRead, Write};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::lines::next_line;
use super::text::LineReader;
use super::{Pair, Row, RowReader, WriteRowError, pair};
use crate::output::{base64, from_base64, write_object};

/// A line.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

/// Reads rows of json.
pub(crate) struct JsonlReader<R> {
    lines: LineReader<R>,
    row: Vec<u8>,
}

impl<R: BufRead> JsonlReader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { lines: LineReader::new(input).without_mark(), row: Vec::new() }
    }
}

impl<R: BufRead + Send> RowReader for JsonlReader<R> {
    fn next_row(&mut self) -> io::Result<Option<Row>> {
        next_line(&mut self.lines, &mut self.row, parse)
    }
}

fn parse(line: &[u8]) -> Result<Pair, String> {
    // serde would take an array of the fields as well, in their order here.
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err("not {\"key\",\"value\"}: no object".to_owned());
    }
    let line: Line = serde_json::from_slice(line).map_err(|e| no_row(&e))?;
    let key = bytes("key", line.key, line.key_base64)?;
    pair(key, bytes("value", line.value, line.value_base64)?)
}

fn bytes(name: &str, text: Option<String>, encoded: Option<String>) -> Result<Bytes, String> {
    match (text, encoded) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(encoded)) => match from_base64(&encoded) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(format!("{name}_base64 is no base64: {error}")),
        },
        (None, None) => Err(format!("neither {name} nor {name}_base64")),
        (Some(_), Some(_)) => Err(format!("both {name} and {name}_base64")),
    }
}

/// Without the line that serde counts, which is always 1 here.
fn no_row(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(&*text, |(message, _)| message);
    format!("not {{\"key\",\"value\"}}: {message} at column {}", error.column())
}

pub(super) fn write(pair: &Pair, out: &mut impl Write) -> Result<(), WriteRowError> {
    let mut line = Line::default();
    match str::from_utf8(&pair.key) {
        Ok(key) => line.key = Some(key.to_owned()),
        Err(_) => line.key_base64 = Some(base64(&pair.key)),
    }
    match str::from_utf8(&pair.value) {
        Ok(value) => line.value = Some(value.to_owned()),
        Err(_) => line.value_base64 = Some(base64(&pair.value)),
    }
    Ok(write_object(out, &line)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{file, rows};
    use super::super::{Columns, RowFormat};
    use super::{Pair, Row};

    fn read(text: &[u8]) -> Vec<Row> {
        rows(RowFormat::Jsonl, Columns::default(), text)
    }

    #[test]
    fn bad_lines_say_what_is_wrong() {
        let cases = [
            (r#"{"key":"a"}"#, "neither value nor value_base64"),
            (r#"{"value":"a"}"#, "neither key nor key_base64"),
            (r#"{"key":"a","value":1}"#, "invalid type"),
            (r#"{"key":"a","vaule":"x"}"#, "unknown field `vaule`"),
            (r#"{"key":"a","value":"x","value_base64":""}"#, "both value and value_base64"),
            (r#"{"key":"a","value_base64":"?"}"#, "value_base64 is no base64"),
            (r#"{"key":"","value":"x"}"#, "the key is empty"),
            ("nonsense", "not {\"key\",\"value\"}: no object"),
            (r#"["k",null,"v",null]"#, "no object"),
            ("[]", "no object"),
            (r#"{"key":"a","#, "at column"),
            ("{\"key\":\"\u{0}", "at column"),
        ];
        for (line, reason) in cases {
            let rows = read(format!("{line}\n{{\"key\":\"b\",\"value\":\"y\"}}\n").as_bytes());
            let error = rows[0].content.as_ref().unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
            assert!(rows[1].content.is_ok());
        }
        assert!(read(b"{\"key\":\"\xff\",\"value\":\"\"}")[0].content.is_err());
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_row() {
        let text = b"\xef\xbb\xbf{\"key\":\"a\",\"value\":\"1\"}\n";
        let rows = read(text);
        assert_eq!(rows[0].content.as_ref().unwrap().key, "a");
        assert_eq!((rows[0].bytes, rows[0].note), (text.len() as u64, None));
        assert!(read(b"\xef\xbb\xbf\n").is_empty());
        let second = read(b"\n\xef\xbb\xbf{\"key\":\"a\",\"value\":\"1\"}\n");
        assert!(second[0].content.is_err());
    }

    fn bytes(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), length)
    }

    proptest! {
        #[test]
        fn any_bytes_read_back(
            pairs in prop::collection::vec((bytes(1..6), bytes(0..9)), 0..6),
        ) {
            let pairs: Vec<Pair> = pairs
                .into_iter()
                .map(|(key, value)| Pair { key: key.into(), value: value.into() })
                .collect();
            let (text, taken) = file(RowFormat::Jsonl, &pairs);
            prop_assert_eq!(&taken, &pairs);
            let back: Vec<Pair> = read(&text).into_iter().map(|r| r.content.unwrap()).collect();
            prop_assert_eq!(back, pairs);
        }
    }
}
