//! Stores as no honest write leaves them: sled's log with messages taken out of it.
//!
//! ```text
//!   db        segments of 512 KiB │ header, 20 bytes │ messages │ zeros, or old ones
//!   message   crc32 │ kind │ length │ segment │ page │ body        numbers as varints of sled's own
//! ```

use std::ops::Range;

use bytes::Buf as _;

use super::*;

const SEGMENT_BYTES: usize = 512 << 10;
const SEGMENT_HEADER_BYTES: usize = 20;
const MESSAGE_HEADER_BYTES_MAX: usize = 32;

/// The kinds of messages that matter here.
const CANCELED: u8 = 1;
const CAP: u8 = 2;
const FREE: u8 = 4;
const LINK: u8 = 10;

/// The first bytes of links by which a page says of a child: it is being merged; it is no more.
const MERGE_BEGINS: u8 = 2;
const MERGE_ENDS: u8 = 3;

/// Where a message lies in the log.
#[derive(Clone, Debug)]
struct Message {
    at: usize,
    kind: u8,
    page: u64,
    body: Range<usize>,
}

/// The messages of a log that was never cleaned up: in their order.
fn messages(log: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    for start in (0..log.len()).step_by(SEGMENT_BYTES) {
        let end = log.len().min(start + SEGMENT_BYTES);
        let mut at = start + SEGMENT_HEADER_BYTES;
        while at + MESSAGE_HEADER_BYTES_MAX <= end {
            let mut rest = &log[at + 5..];
            let (kind, [length, _segment, page]) =
                (log[at + 4], [(); 3].map(|()| varint(&mut rest)));
            if !(CANCELED..=11).contains(&kind) || kind == CAP {
                break;
            }
            let body = log.len() - rest.len()..log.len() - rest.len() + length as usize;
            messages.push(Message { at, kind, page, body: body.clone() });
            at = body.end;
        }
    }
    messages
}

fn varint(bytes: &mut &[u8]) -> u64 {
    match bytes.get_u8() {
        first @ 0..=240 => first.into(),
        first @ 241..=248 => 240 + 256 * u64::from(first - 241) + u64::from(bytes.get_u8()),
        249 => 2288 + 256 * u64::from(bytes.get_u8()) + u64::from(bytes.get_u8()),
        first => bytes.get_uint_le(usize::from(first - 247)),
    }
}

/// Makes a message one that says nothing, as if it had never been written.
fn cancel(log: &mut [u8], message: &Message) {
    log[message.at + 4] = CANCELED;
    let header = log[message.at + 4..message.body.start].to_vec();
    let checksum = crc32(&[&log[message.body.clone()], &header].concat()) ^ u32::MAX;
    log[message.at..message.at + 4].copy_from_slice(&checksum.to_le_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

/// A store of many pages that were merged again, since almost all of its rows were deleted.
fn store_with_merges() -> TempDir {
    let subject = SledSubject::create();
    let rows = |keys: Range<u32>| keys.map(|key| key.to_be_bytes().to_vec());
    let mut batch = Batch::new();
    rows(0..1000).for_each(|key| batch.put(Space::Objects, key, "value"));
    subject.engine.apply(batch).unwrap();
    for first in (100..900).step_by(50) {
        let mut batch = Batch::new();
        rows(first..first + 50).for_each(|key| batch.delete(Space::Objects, key));
        subject.engine.apply(batch).unwrap();
    }
    subject.engine.sync().unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_files(subject.directory.path(), copy.path());
    copy
}

/// Ends the log at a merge: its child is free, and that it has ended is lost with all the rest.
fn cut_within_a_merge(log: &mut [u8]) {
    let all = messages(log);
    let ends =
        |message: &&Message| message.kind == LINK && log[message.body.clone()] == [MERGE_ENDS];
    let end = all.iter().find(ends).expect("pages were merged");
    let before = all.iter().take_while(|message| message.at != end.at);
    let begun = before.filter(|message| message.page == end.page).last().unwrap();
    let mut body = &log[begun.body.clone()];
    assert_eq!((begun.kind, body.get_u8()), (LINK, MERGE_BEGINS));
    let child = varint(&mut body);
    let mut later = all.iter().skip_while(|message| message.at != end.at);
    let freed =
        later.clone().find(|message| message.kind == FREE && message.page == child).unwrap();
    later.by_ref().filter(|message| message.at != freed.at).for_each(|m| cancel(log, m));
}

/// It would take the memory of the machine, were it not for `bound`.
#[test]
fn a_merge_whose_end_is_lost_is_an_error() {
    let store = store_with_merges();
    let path = store.path().join("sled");
    let mut log = fs::read(path.join("db")).unwrap();
    cut_within_a_merge(&mut log);
    fs::write(path.join("db"), log).unwrap();
    let error = SledEngine::open(&path, small()).map(drop).unwrap_err();
    let EngineError::Corrupt { detail, .. } = &error else { panic!("{error}") };
    assert!(detail.contains("round in circles"), "{error}");
}

/// One step passes all of its pages then.
#[test]
fn a_store_that_was_emptied_opens() {
    let subject = SledSubject::create();
    let key = |key: u32| key.to_be_bytes().to_vec();
    for first in (0..20_000).step_by(1000) {
        let mut batch = Batch::new();
        (first..first + 1000).for_each(|n| batch.put(Space::Objects, key(n), "value"));
        subject.engine.apply(batch).unwrap();
    }
    subject.engine.clear(Space::Objects, b"").unwrap();
    assert_eq!(rows(&subject.reopen().engine).unwrap(), []);
}

#[test]
fn rows_that_do_not_rise_are_an_error() {
    assert!(super::rows::rise("scan", None, b"").is_ok());
    assert!(super::rows::rise("scan", Some(b"a"), b"b").is_ok());
    for row in [b"b", b"a"] {
        let error = super::rows::rise("scan", Some(b"b"), row).unwrap_err();
        assert!(matches!(error, EngineError::Corrupt { .. }), "{error}");
    }
}
