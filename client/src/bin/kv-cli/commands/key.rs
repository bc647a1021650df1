//! `put`, `get` and `delete`: one key; `get` of several as a batch.

use std::ffi::OsString;
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use quorate_client::{
    DeleteOptions, Deleted, GetOptions, Level, Namespace, PutOptions, Read, Receipt, ScanItem,
    Sibling, StandIn, Written,
};
use serde::Serialize;
use tokio::io::AsyncReadExt as _;

use super::{Session, bytes, scan};
use crate::args::{DeleteArgs, GetArgs, PutArgs};
use crate::failure::Exit;
use crate::output::{Output, ReceiptJson, SiblingJson, printable};
use crate::stderr::{Notice, say};

/// What `put`, `delete` and `expire` answer in json.
#[derive(Serialize)]
pub(super) struct WrittenJson<'a> {
    context: Option<String>,
    siblings: u32,
    receipt: Option<ReceiptJson<'a>>,
}

impl<'a> From<&'a Written> for WrittenJson<'a> {
    fn from(written: &'a Written) -> Self {
        Self {
            context: written.context.as_ref().map(ToString::to_string),
            siblings: written.siblings,
            receipt: Some(ReceiptJson::from(&written.receipt)),
        }
    }
}

impl WrittenJson<'_> {
    /// Of a key that there was nothing under.
    pub(super) fn nothing() -> Self {
        Self { context: None, siblings: 0, receipt: None }
    }
}

/// What `get` answers in json.
#[derive(Serialize)]
struct ReadJson<'a> {
    siblings: Vec<SiblingJson<'a>>,
    context: Option<String>,
    replicas: u32,
    #[serde(skip_serializing_if = "is_zero")]
    fallbacks: u32,
}

/// Where nobody stood in, nothing is said of it.
fn is_zero(count: &u32) -> bool {
    *count == 0
}

pub(super) async fn put(session: &Session, args: PutArgs) -> Result<Exit> {
    let value = value(args.value).await?;
    let options = PutOptions {
        context: args.context,
        ttl: args.ttl.unwrap_or_default(),
        w: args.w.unwrap_or_default(),
        quorum: args.quorum.quorum(),
        durability: args.durability.unwrap_or_default(),
        ..PutOptions::default()
    };
    let namespace = session.client.namespace(args.namespace);
    let written = namespace.put(bytes(args.key), value, options).await?;
    session.output.result(&WrittenJson::from(&written), || {
        let beside = match written.siblings.saturating_sub(1) {
            0 => String::new(),
            others => format!("; siblings beside it: {others}"),
        };
        format!("stored: {}{beside}", receipt(&written.receipt))
    })?;
    Ok(Exit::Done)
}

/// The argument's bytes, or for `-` those of stdin.
async fn value(argument: OsString) -> Result<Bytes> {
    if argument != "-" {
        return Ok(bytes(argument));
    }
    let mut value = Vec::new();
    tokio::io::stdin().read_to_end(&mut value).await.context("cannot read the value from stdin")?;
    Ok(value.into())
}

pub(super) fn receipt(receipt: &Receipt) -> String {
    let synced = match receipt.synced {
        0 => String::new(),
        synced => format!(", {synced} synced"),
    };
    let fallback = |of: &StandIn| format!("{} (for {})", of.node, of.owner);
    let fallbacks: Vec<String> = receipt.fallbacks.iter().map(fallback).collect();
    let parts = [receipt.acked.join(", "), fallbacks.join(", ")];
    let parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).map(String::as_str).collect();
    format!("{} acknowledged by {}{synced}", receipt.dot, parts.join(" and "))
}

pub(super) async fn get(session: &Session, args: GetArgs) -> Result<Exit> {
    let options = GetOptions {
        r: args.r.unwrap_or_default(),
        quorum: args.quorum.quorum(),
        replica: args.replica,
        ..GetOptions::default()
    };
    let namespace = session.client.namespace(args.namespace);
    if !args.more.is_empty() {
        let keys = std::iter::once(args.key).chain(args.more).map(bytes).collect();
        return get_many(session, &namespace, keys, options).await;
    }
    let key = bytes(args.key);
    let read = namespace.get(key.clone(), options).await?;
    show(session.output, &read)?;
    if read.siblings.is_empty() {
        say(&no_key(namespace.name(), &key));
        return Ok(Exit::NotFound);
    }
    Ok(Exit::Done)
}

fn failed_at(key: &[u8], error: &quorate_client::Error) -> Notice {
    Notice::error(error.kind().as_str(), error.to_string()).at_key(&printable(key))
}

pub(super) fn no_key(namespace: &str, key: &[u8]) -> Notice {
    let key = printable(key);
    Notice::not_found(format!("namespace {namespace} has no key '{key}'"))
}

/// Shows what was found of all keys, even if some cannot be read.
async fn get_many(
    session: &Session,
    namespace: &Namespace,
    keys: Vec<Bytes>,
    options: GetOptions,
) -> Result<Exit> {
    let read = namespace.batch_get(keys.clone(), options).await;
    let mut out = session.output.writer();
    let (mut missing, mut failed) = (Vec::new(), Vec::new());
    for (key, read) in keys.into_iter().zip(read) {
        let Read { siblings, context, .. } = match read {
            Ok(read) => read,
            Err(error) => {
                failed.push(failed_at(&key, &error));
                continue;
            }
        };
        if siblings.is_empty() {
            missing.push(no_key(namespace.name(), &key));
        }
        let item = ScanItem { key, siblings, context, cursor: None };
        scan::write(session.output, &item, &mut out)?;
    }
    out.flush()?;
    missing.iter().chain(&failed).for_each(say);
    Ok(match (failed.is_empty(), missing.is_empty()) {
        (false, _) => Exit::Failed,
        (true, false) => Exit::NotFound,
        (true, true) => Exit::Done,
    })
}

fn show(output: Output, read: &Read) -> io::Result<()> {
    if output.is_json() {
        return output.object(&ReadJson {
            siblings: SiblingJson::all(&read.siblings),
            context: read.context.as_ref().map(ToString::to_string),
            replicas: read.replicas,
            fallbacks: read.fallbacks,
        });
    }
    output.bytes(&text(&read.siblings))
}

/// The raw value and a newline; of several siblings each after a line with its index.
fn text(siblings: &[Sibling]) -> Vec<u8> {
    let mut text = Vec::new();
    for (at, sibling) in siblings.iter().enumerate() {
        if siblings.len() > 1 {
            text.extend_from_slice(format!("[{}/{}]\n", at + 1, siblings.len()).as_bytes());
        }
        text.extend_from_slice(&sibling.value);
        text.push(b'\n');
    }
    text
}

pub(super) async fn delete(session: &Session, args: DeleteArgs) -> Result<Exit> {
    let options = DeleteOptions {
        context: args.context,
        r: Level::Quorum,
        w: args.w.unwrap_or_default(),
        quorum: args.quorum.quorum(),
        ..DeleteOptions::default()
    };
    let namespace = session.client.namespace(args.namespace);
    let key = bytes(args.key);
    let Deleted::Done(written) = namespace.delete(key.clone(), options).await? else {
        if session.output.is_json() {
            session.output.object(&WrittenJson::nothing())?;
        }
        say(&no_key(namespace.name(), &key));
        return Ok(Exit::NotFound);
    };
    session.output.result(&WrittenJson::from(&written), || {
        format!("deleted: {}{}", receipt(&written.receipt), beside(written.siblings))
    })?;
    Ok(Exit::Done)
}

/// What stands under a key that was deleted: a value that the context did not cover, or one that was
/// written before a retry of the delete was answered, as the only one in an `lww` namespace.
fn beside(values: u32) -> String {
    match values {
        0 => String::new(),
        1 => "; the key has a value that was not covered, or is newer".to_owned(),
        _ => format!("; the key has {values} values that were not covered, or are newer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sibling(value: &'static [u8]) -> Sibling {
        Sibling { value: value.into(), ..Sibling::default() }
    }

    #[test]
    fn a_delete_does_not_call_a_newer_value_a_sibling() {
        assert_eq!(beside(0), "");
        assert_eq!(beside(1), "; the key has a value that was not covered, or is newer");
        assert!(beside(3).contains("3 values"));
    }

    #[test]
    fn a_receipt_says_for_whom_a_fallback_keeps_the_write() {
        let stand_in = |node: &str, owner: &str| StandIn { node: node.into(), owner: owner.into() };
        let mut of = Receipt {
            dot: "a:1".into(),
            acked: vec!["node-1".into(), "node-2".into()],
            ..Receipt::default()
        };
        assert_eq!(receipt(&of), "a:1 acknowledged by node-1, node-2");
        of.fallbacks = vec![stand_in("node-5", "node-3")];
        let said = "a:1 acknowledged by node-1, node-2 and node-5 (for node-3)";
        assert_eq!(receipt(&of), said);
        of.fallbacks.push(stand_in("node-4", "node-1"));
        (of.acked, of.synced) = (Vec::new(), 1);
        let said = "a:1 acknowledged by node-5 (for node-3), node-4 (for node-1), 1 synced";
        assert_eq!(receipt(&of), said);
    }

    #[test]
    fn one_value_is_raw_and_several_have_an_index() {
        assert_eq!(text(&[]), b"");
        assert_eq!(text(&[sibling(b"a\n\xff")]), b"a\n\xff\n");
        assert_eq!(text(&[sibling(b"a"), sibling(b"b")]), b"[1/2]\na\n[2/2]\nb\n");
    }
}
