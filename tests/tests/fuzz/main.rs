//! Every decoder against hostile bytes.
//!
//! What comes from a wire, a disk or a user may be anything. Of each decoder this suite demands
//! that on any input it
//!
//! - **does not panic**, and returns;
//! - **allocates no more than its input earns**: a length field that lies must not cost memory;
//! - **accepts only what it would write**: where an encoding is canonical, accepted bytes encode
//!   again to themselves, and what is authenticated or checksummed is accepted unchanged only.
//!
//! Inputs are honest encodings, edited ([`mutate`]). A second to run, `PROPTEST_CASES=1000000` for
//! a night; what fails becomes a test beside its decoder. Decoders that are private to their crate
//! have tests like these there: the SDK's topology and statuses, `kv-cli`'s formats.

mod corpus;
mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use quorate_node::config::Sources;
use quorate_node::coordinator::ScanCursor;
use quorate_node::dynamo::context::Context;
use quorate_node::dynamo::format::{
    EncodedObject, decode_intervals, decode_recorded, encode_intervals, encode_recorded,
};
use quorate_node::dynamo::key::{NamespaceId, NodeId};
use quorate_node::dynamo::metadata::Document;
use quorate_node::dynamo::metadata::document::Conflict;
use quorate_node::dynamo::metadata::register;
use quorate_node::liveness::{Effects, Swim};
use quorate_node::storage::data_dir::{DataDir, EngineKind};
use quorate_node::storage::record;
use quorate_node::transport::wire;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// What a decoder may allocate whatever its input is: error texts, small tables.
const ALLOWANCE_BYTES: u64 = 64 << 10;

/// And for each byte of input: a decoded element is larger than its shortest encoding.
const ALLOWANCE_PER_BYTE: u64 = 64;

/// Feeds `decode` with inputs made from `corpus`; it panics if it accepts what it must not.
fn survives(corpus: Vec<Bytes>, decode: impl Fn(Bytes)) {
    let config = Config { source_file: Some(file!()), ..Config::default() };
    let ran = TestRunner::new(config).run(&mutate::inputs(corpus), |input| {
        let allowed = ALLOWANCE_BYTES + ALLOWANCE_PER_BYTE * input.len() as u64;
        let cost = bytes_allocated(|| decode(input));
        prop_assert!(cost <= allowed, "{cost} bytes were allocated; {allowed} are fair");
        Ok(())
    });
    if let Err(TestError::Fail(reason, input)) = ran {
        panic!("{reason}\n  input: {}", corpus::to_hex(&input));
    }
    ran.expect("no input was rejected");
}

/// How much `run` allocates, freed or not. Of this thread alone: the other tests of the process, and
/// the harness that starts and reports them, allocate meanwhile.
fn bytes_allocated(run: impl FnOnce()) -> u64 {
    let mut ran = Ok(());
    // The counter has to hear of the end of a run that panics, too.
    let counted = allocation_counter::measure(|| ran = catch_unwind(AssertUnwindSafe(run)));
    ran.unwrap_or_else(|panic| resume_unwind(panic));
    counted.bytes_total
}

/// Else a decoder would be blamed for what runs beside it, and only on some days.
#[test]
fn what_other_threads_allocate_is_not_counted() {
    let (ask, asked) = std::sync::mpsc::sync_channel::<()>(0);
    let (tell, told) = std::sync::mpsc::sync_channel(0);
    let other =
        std::thread::spawn(move || asked.iter().try_for_each(|()| tell.send(vec![1_u8; 1 << 20])));
    let mut held = Vec::new();
    let cost = bytes_allocated(|| {
        held.push(vec![1_u8; 5_000]);
        ask.send(()).expect("the other thread runs");
        held.push(told.recv().expect("it answers"));
    });
    assert_eq!(held[1].len(), 1 << 20);
    assert!((5_000..50_000).contains(&cost), "{cost} bytes were counted");
    drop(ask);
    other.join().expect("it does not panic").expect("nobody was left without an answer");
}

#[test]
fn a_run_that_panics_is_no_reason_to_miscount() {
    for _ in 0..100 {
        let panicked = catch_unwind(|| bytes_allocated(|| resume_unwind(Box::new("no"))));
        assert!(panicked.is_err());
    }
    assert!(bytes_allocated(|| drop(std::hint::black_box(vec![1_u8; 5_000]))) >= 5_000);
}

/// Under both rules, whichever the bytes were honest for: a peer may send either anywhere.
#[test]
fn objects() {
    survives(corpus::objects(), |input| {
        for rule in [Conflict::Siblings, Conflict::Lww] {
            let Ok(object) = EncodedObject(input.clone()).decode(rule) else { continue };
            assert_eq!(EncodedObject::new(&object).0, input);
            assert!(object.entries().iter().all(|(dot, _)| object.version().covers(*dot)));
            let is_last = rule == Conflict::Lww && !object.is_absent();
            assert_eq!(object.last().is_some(), is_last, "it is of the rule's kind");
            assert!(object.last().is_none_or(|last| object.version().covers(last.dot)));
        }
    });
}

#[test]
fn frontiers() {
    survives(corpus::intervals(), |input| {
        if let Ok(intervals) = decode_intervals(input.clone()) {
            assert_eq!(encode_intervals(&intervals), input);
        }
    });
}

#[test]
fn outcomes_of_operations() {
    survives(corpus::recorded(), |input| {
        if let Ok(recorded) = decode_recorded(input.clone()) {
            assert_eq!(encode_recorded(recorded), input);
        }
    });
}

#[test]
fn sealed_records() {
    let honest = corpus::records();
    survives(honest.clone(), |input| {
        if record::open(corpus::RECORD_KEY, &input).is_ok() {
            assert!(honest.contains(&input), "altered, and accepted");
        }
    });
}

#[test]
fn contexts() {
    let (honest, key) = (corpus::contexts(), corpus::cluster_key());
    survives(honest.clone(), |input| {
        if Context::open(&input, corpus::binding(&key)).is_ok() {
            assert!(honest.contains(&input), "altered, and accepted");
        }
    });
}

#[test]
fn cursors_of_scans() {
    const NAMESPACE: NamespaceId = NamespaceId(7);
    survives(corpus::cursors(NAMESPACE), |input| {
        if let Ok(cursor) = ScanCursor::decode(input.clone(), NAMESPACE) {
            assert_eq!(cursor.encode(), input);
        }
    });
}

#[test]
fn documents() {
    survives(corpus::documents(), |input| {
        if let Ok(document) = Document::decode(input.clone()) {
            assert_eq!(document.encode(), input);
        }
    });
}

#[test]
fn messages_of_the_register() {
    survives(corpus::register(), |input| {
        if let Ok(request) = register::Request::decode(input.clone()) {
            assert_eq!(request.encode(), input);
        }
        if let Ok(reply) = register::Reply::decode(input.clone()) {
            assert_eq!(reply.encode(), input);
        }
        if let Ok(votes) = register::Votes::decode(input.clone()) {
            assert_eq!(votes.encode(), input);
        }
    });
}

/// Protobuf is not canonical, so of frames the domain values must survive a second trip.
#[test]
fn frames_of_peers() {
    survives(corpus::frames(), |input| {
        let Ok(frame) = wire::decode_frame(input) else { return };
        for message in frame.messages {
            if let Ok(request) = wire::decode_request(message.body.clone()) {
                let again = wire::decode_request(Some(wire::encode_request(request.clone())));
                assert_eq!(again, Ok(request));
            }
            if let Ok(reply) = wire::decode_reply(message.body) {
                let again = wire::decode_reply(Some(wire::encode_reply(reply.clone())));
                assert_eq!(again, Ok(reply));
            }
        }
    });
}

/// What another node says decides nothing but who is seen as alive, and must not end the one that hears.
#[test]
fn gossip() {
    let rng = || ChaCha8Rng::seed_from_u64(1);
    survives(corpus::gossip(), |input| {
        let mut swim = Swim::new(NodeId(1), 1_000, rng());
        let members = [1, 2, 3].map(NodeId).into();
        let mut effects = Effects::default();
        if swim.on_datagram(NodeId(2), &input, &members, &mut effects).is_err() {
            return;
        }
        for (_, timer) in std::mem::take(&mut effects.timers) {
            let _a_member_may_be_gone = swim.on_timer(timer, &mut effects);
        }
        let _one_may_be_gone = swim.look(&members, &mut effects);
    });
}

#[test]
fn configurations() {
    let directory = tempfile::tempdir().expect("there is room for a file");
    let path = directory.path().join("node.toml");
    survives(corpus::configurations(), |input| {
        std::fs::write(&path, &input).expect("there is room for a file");
        let sources =
            Sources { file: Some(path.clone()), environment: Vec::new(), ..Sources::default() };
        match sources.load() {
            Ok(effective) => assert_eq!(effective.config.validate(), []),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

#[test]
fn marks_of_data_directories() {
    let directory = tempfile::tempdir().expect("there is room for a file");
    survives(corpus::store_marks(), |input| {
        std::fs::write(directory.path().join("store.toml"), &input).expect("there is room");
        let open = |path: &Path| DataDir::open(path, "node-1", EngineKind::Fjall, || 1);
        if let Ok(opened) = open(directory.path()) {
            let id = format!("{:016x}", opened.store_id());
            let written = String::from_utf8_lossy(&input).to_lowercase();
            assert!(written.contains(&id), "an id that nobody wrote");
        }
    });
}

#[test]
fn tokens_that_clients_type() {
    survives(corpus::tokens(), |input| {
        let text = String::from_utf8_lossy(&input);
        if let Ok(context) = text.parse::<quorate_client::Context>() {
            assert_eq!(context.to_string(), text);
        }
        if let Ok(cursor) = text.parse::<quorate_client::Cursor>() {
            assert_eq!(cursor.to_string(), text);
        }
        if let Ok(operation) = text.parse::<quorate_client::OperationId>() {
            assert_eq!(operation.to_string(), text);
        }
    });
}
