//! The only module that writes results to stdout: text for people, json for scripts.
//!
//! Everything goes through a writer whose errors come back to the caller, so that a reader that
//! went away (`| head`) ends the command quietly instead of by a panic.

use std::borrow::Cow;
use std::io::{self, BufWriter, Stdout, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{ColorChoice, ValueEnum};
use comfy_table::presets::{NOTHING, UTF8_HORIZONTAL_ONLY};
use comfy_table::{Attribute, Cell, Table};
use quorate_client::{Receipt, Sibling, StandIn};
use serde::Serialize;

use crate::style::Surroundings;

/// What results look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    Text,
    /// One object per result, and per line on stderr, for scripts
    Json,
}

impl OutputFormat {
    pub(crate) fn is_json(self) -> bool {
        self == Self::Json
    }
}

/// Where results go.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    format: OutputFormat,
    /// Whether a person at a terminal reads it.
    terminal: bool,
    color: bool,
}

impl Output {
    /// To stdout as it is: a terminal, or something that wants it plain.
    pub(crate) fn new(format: OutputFormat, color: ColorChoice) -> Self {
        let stdout = Surroundings::of_stdout();
        Self { format, terminal: !stdout.plain, color: stdout.wants_color(color) }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format.is_json()
    }

    /// For many small pieces. The caller flushes it, to learn whether they arrived.
    pub(crate) fn writer(self) -> BufWriter<Stdout> {
        BufWriter::with_capacity(64 << 10, io::stdout())
    }

    /// `text`, or `object` as one line of json.
    pub(crate) fn result(
        self,
        object: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> io::Result<()> {
        if self.is_json() {
            return self.object(object);
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text())?;
        out.flush()
    }

    /// One json object on a line of its own.
    pub(crate) fn object(self, object: &impl Serialize) -> io::Result<()> {
        let mut out = io::stdout().lock();
        write_object(&mut out, object)?;
        out.flush()
    }

    /// A table: with lines on a terminal, else without, in columns that `awk` can split.
    pub(crate) fn table(
        self,
        header: &[&str],
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> String {
        let mut table = Table::new();
        table.load_style(if self.terminal { UTF8_HORIZONTAL_ONLY } else { NOTHING });
        if self.color {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt()
    }

    /// Exactly these bytes.
    pub(crate) fn bytes(self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }
}

/// One json object and a line end.
pub(crate) fn write_object(out: &mut impl Write, object: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, object)?;
    out.write_all(b"\n")
}

/// Standard base64 with padding, as json fields ending in `_base64` hold it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// What [`base64()`] wrote.
pub(crate) fn from_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    STANDARD.decode(text)
}

/// Bytes for a line of text: control characters, which would break lines or terminals, escaped.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// One of the values of a key: readable, and exact.
#[derive(Serialize)]
pub(crate) struct SiblingJson<'a> {
    value: Cow<'a, str>,
    value_base64: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_ms: Option<u64>,
}

impl<'a> SiblingJson<'a> {
    pub(crate) fn all(siblings: &'a [Sibling]) -> Vec<Self> {
        let json = |s: &'a Sibling| Self {
            value: String::from_utf8_lossy(&s.value),
            value_base64: base64(&s.value),
            expires_ms: s.expires_ms,
        };
        siblings.iter().map(json).collect()
    }
}

/// Who has a write.
#[derive(Serialize)]
pub(crate) struct ReceiptJson<'a> {
    dot: &'a str,
    acked: &'a [String],
    synced: u32,
    fallbacks: Vec<StandInJson<'a>>,
}

#[derive(Serialize)]
struct StandInJson<'a> {
    node: &'a str,
    owner: &'a str,
}

impl<'a> From<&'a Receipt> for ReceiptJson<'a> {
    fn from(receipt: &'a Receipt) -> Self {
        let fallback = |of: &'a StandIn| StandInJson { node: &of.node, owner: &of.owner };
        Self {
            dot: &receipt.dot,
            acked: &receipt.acked,
            synced: receipt.synced,
            fallbacks: receipt.fallbacks.iter().map(fallback).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_text_stays_on_one_line() {
        assert_eq!(printable("a\tb\nc\u{1b}[31m Ü".as_bytes()), "a\\tb\\nc\\u{1b}[31m Ü");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn tables_align_and_have_no_frames_unless_on_a_terminal() {
        let rows =
            [vec!["node-1".to_owned(), "1".to_owned()], vec!["n".to_owned(), "22".to_owned()]];
        let piped = Output { format: OutputFormat::Text, terminal: false, color: false };
        let text = piped.table(&["NODE", "SHARE"], rows.clone());
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines, [["NODE", "SHARE"], ["node-1", "1"], ["n", "22"]]);

        let terminal = Output { terminal: true, color: true, ..piped };
        let text = terminal.table(&["NODE", "SHARE"], rows);
        assert!(text.contains('\u{2500}') && text.contains("\u{1b}[1m"), "{text}");
    }

    #[test]
    fn receipts_name_owners_and_fallbacks() {
        let receipt = Receipt {
            dot: "a:1".into(),
            acked: vec!["n1".into()],
            synced: 0,
            fallbacks: vec![StandIn { node: "n5".into(), owner: "n3".into() }],
        };
        let json = serde_json::to_string(&ReceiptJson::from(&receipt)).unwrap();
        let fallbacks = r#"[{"node":"n5","owner":"n3"}]"#;
        let said = format!(r#"{{"dot":"a:1","acked":["n1"],"synced":0,"fallbacks":{fallbacks}}}"#);
        assert_eq!(json, said);
    }

    #[test]
    fn siblings_are_readable_and_exact() {
        let siblings = [Sibling { value: b"\xffa".as_slice().into(), ..Sibling::default() }];
        let json = serde_json::to_string(&SiblingJson::all(&siblings)).unwrap();
        assert_eq!(json, "[{\"value\":\"\u{fffd}a\",\"value_base64\":\"/2E=\"}]");
    }
}
