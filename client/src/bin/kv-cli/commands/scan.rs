//! `scan` and `count`: every key that begins with a prefix.

use std::io::{self, Write};
use std::pin::pin;

use anyhow::Result;
use futures::StreamExt as _;
use quorate_client::{ScanItem, ScanOptions};
use serde::Serialize;

use super::{Session, bytes};
use crate::args::{CountArgs, ScanArgs};
use crate::failure::Exit;
use crate::output::{Output, SiblingJson, base64, printable, write_object};
use crate::progress::Progress;

#[derive(Serialize)]
struct ItemJson<'a> {
    key: &'a str,
    key_base64: String,
    siblings: Vec<SiblingJson<'a>>,
    context: Option<String>,
}

#[derive(Serialize)]
struct CountJson {
    count: u64,
}

pub(super) async fn scan(session: &Session, args: ScanArgs) -> Result<Exit> {
    let options = ScanOptions {
        prefix: bytes(args.prefix),
        limit: args.limit,
        r: args.r.unwrap_or_default(),
        ..ScanOptions::default()
    };
    let mut items = pin!(session.client.namespace(args.namespace).scan(options));
    let mut out = session.output.writer();
    while let Some(item) = items.next().await {
        write(session.output, &item?, &mut out)?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// A key and what it holds, as a line or lines.
pub(super) fn write(output: Output, item: &ScanItem, out: &mut impl Write) -> io::Result<()> {
    if output.is_json() { write_json(item, out) } else { write_text(item, out) }
}

fn write_json(item: &ScanItem, out: &mut impl Write) -> io::Result<()> {
    let json = ItemJson {
        key: &String::from_utf8_lossy(&item.key),
        key_base64: base64(&item.key),
        siblings: SiblingJson::all(&item.siblings),
        context: item.context.as_ref().map(ToString::to_string),
    };
    write_object(out, &json)
}

fn write_text(item: &ScanItem, out: &mut impl Write) -> io::Result<()> {
    let (key, many) = (printable(&item.key), item.siblings.len());
    for (at, sibling) in item.siblings.iter().enumerate() {
        let value = printable(&sibling.value);
        match many {
            1 => writeln!(out, "{key}\t{value}")?,
            _ => writeln!(out, "{key}\t[{}/{many}]\t{value}", at + 1)?,
        }
    }
    Ok(())
}

pub(super) async fn count(session: &Session, args: CountArgs) -> Result<Exit> {
    let options = ScanOptions { r: args.r.unwrap_or_default(), ..ScanOptions::default() };
    let mut items = pin!(session.client.namespace(args.namespace).scan(options));
    let progress = Progress::keys(None);
    let mut count = 0;
    while let Some(item) = items.next().await {
        item?;
        count += 1;
        progress.advance(1);
    }
    progress.clear();
    session.output.result(&CountJson { count }, || count.to_string())?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use quorate_client::Sibling;

    use super::*;

    #[test]
    fn a_line_per_sibling() {
        let sibling = |value: &'static [u8]| Sibling { value: value.into(), ..Sibling::default() };
        let mut item = ScanItem {
            key: "a\tb".into(),
            siblings: vec![sibling(b"one")],
            context: None,
            cursor: None,
        };
        let mut out = Vec::new();
        write_text(&item, &mut out).unwrap();
        item.siblings.push(sibling(b"t\nwo"));
        write_text(&item, &mut out).unwrap();
        let lines = "a\\tb\tone\na\\tb\t[1/2]\tone\na\\tb\t[2/2]\tt\\nwo\n";
        assert_eq!(String::from_utf8(out).unwrap(), lines);
    }

    #[test]
    fn json_has_the_exact_key() {
        let item =
            ScanItem { key: "\u{e9}".into(), siblings: Vec::new(), context: None, cursor: None };
        let mut out = Vec::new();
        write_json(&item, &mut out).unwrap();
        let line =
            "{\"key\":\"\u{e9}\",\"key_base64\":\"w6k=\",\"siblings\":[],\"context\":null}\n";
        assert_eq!(String::from_utf8(out).unwrap(), line);
    }
}
