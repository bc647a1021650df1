//! Honest encodings, several of each kind: where hostile inputs begin.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_node::coordinator::ScanCursor;
use quorate_node::dynamo::clock::{Actor, Dot, Hlc, VersionVector};
use quorate_node::dynamo::context::{Context, ContextBinding};
use quorate_node::dynamo::format::{EncodedObject, encode_intervals, encode_recorded};
use quorate_node::dynamo::frontier::Intervals;
use quorate_node::dynamo::key::{Key, KeyHash, NamespaceId, NodeId, PartitionCount, PartitionId};
use quorate_node::dynamo::metadata::document::{
    ClusterId, Conflict, FirstDocument, Member, NewNamespace, StoreId, Voter,
};
use quorate_node::dynamo::metadata::register::{
    Answer, Ballot, Refusal, Reply, Request, Step, Votes,
};
use quorate_node::dynamo::metadata::{ClusterKey, Document};
use quorate_node::dynamo::object::{Entry, Object, Stamp};
use quorate_node::dynamo::operation::{Change, Done, Opening, OperationId, PayloadHash, Recorded};
use quorate_node::dynamo::standing::Standing;
use quorate_node::error::RequestError;
use quorate_node::liveness::{Effects, Swim};
use quorate_node::storage::record;
use quorate_node::transport::wire::{self, Frame};
use quorate_node::transport::{self, Held, ScanPage, ScanPageReply};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// The key that records here are sealed for.
pub(crate) const RECORD_KEY: &[u8] = b"\x03\0\x01key";

/// For reports of failures.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What node 2 says to node 1, until all three know each other and one is gone.
pub(crate) fn gossip() -> Vec<Bytes> {
    let nodes = [1, 2, 3].map(NodeId);
    let swim = |node| (node, Swim::new(node, 1_000, ChaCha8Rng::seed_from_u64(node.0)));
    let mut swims: BTreeMap<NodeId, Swim> = nodes.into_iter().map(swim).collect();
    let (mut said, mut timers) = (Vec::new(), Vec::new());
    for round in 0..60 {
        if round == 20 {
            swims.remove(&NodeId(3));
        }
        let looker = nodes[round % 2];
        let mut effects = Effects::default();
        let swim = swims.get_mut(&looker).expect("these two are there");
        swim.look(&nodes.into(), &mut effects).expect("it is well");
        let mut all = vec![(looker, effects)];
        for (of, timer) in std::mem::take(&mut timers) {
            let Some(swim) = swims.get_mut(&of) else { continue };
            let mut effects = Effects::default();
            let _told = swim.on_timer(timer, &mut effects);
            all.push((of, effects));
        }
        while let Some((from, Effects { sends, timers: more, .. })) = all.pop() {
            timers.extend(more.into_iter().map(|(_, timer)| (from, timer)));
            for (to, datagram) in sends {
                if (from.0, to.0) == (2, 1) {
                    said.push(datagram.clone());
                }
                let Some(swim) = swims.get_mut(&to) else { continue };
                let mut effects = Effects::default();
                let _heard = swim.on_datagram(from, &datagram, &nodes.into(), &mut effects);
                all.push((to, effects));
            }
        }
    }
    assert!(said.len() > 20, "{} messages", said.len());
    said
}

fn operation(sequence: u64) -> OperationId {
    OperationId {
        issued_ms: 1_700_000_000_000,
        coordinator: NodeId(2),
        opening: Opening(3),
        client: 4,
        sequence,
    }
}

fn dot(actor: u64, n: u64) -> Dot {
    Dot { actor: Actor(actor), n }
}

fn entry(origin: Dot, deadline_ms: Option<u64>, payload: Vec<u8>) -> Entry {
    let payload = Bytes::from(payload);
    Entry { payload, time: Hlc(1 << 40), deadline_ms, operation: operation(origin.n), origin }
}

fn versions() -> [VersionVector; 3] {
    let [a, b, c] = [dot(1, 1), dot(u64::MAX, 300), dot(7, u64::MAX)];
    [VersionVector::new(), [a].into_iter().collect(), [a, b, c].into_iter().collect()]
}

/// A value, a tombstone, and siblings with everything an entry can have; and last writes of `lww`
/// namespaces, one of them a delete.
pub(crate) fn objects() -> Vec<Bytes> {
    let (mut value, mut siblings) = (Object::default(), Object::default());
    value.write(dot(1, 1), &VersionVector::new(), entry(dot(1, 1), None, b"value".to_vec()));
    siblings.write(dot(1, 9), &VersionVector::new(), entry(dot(1, 9), Some(5), vec![7; 200]));
    siblings.write(dot(2, 300), &VersionVector::new(), entry(dot(1, 2), None, Vec::new()));
    let mut tombstone = siblings.clone();
    tombstone.delete(dot(9, 1), siblings.version());
    let (mut last, [_, one, three]) = (Object::default(), versions());
    let written = entry(dot(2, 300), Some(5), vec![7; 200]);
    last.write_last(Stamp { time: written.time, dot: dot(2, 300) }, &one, Some(written));
    let mut deleted = last.clone();
    deleted.write_last(Stamp { time: Hlc(u64::MAX), dot: dot(9, 1) }, &three, None);
    let all = [value, siblings, tombstone, last, deleted];
    all.iter().map(|object| EncodedObject::new(object).0).collect()
}

pub(crate) fn intervals() -> Vec<Bytes> {
    let ranges = [vec![(1, 1)], vec![(1, 5), (7, 7), (100, 1 << 40)], vec![(3, u64::MAX)]];
    let encode = |ranges| Intervals::from_ranges(ranges).map(|seen| encode_intervals(&seen));
    ranges.into_iter().filter_map(encode).collect()
}

pub(crate) fn recorded() -> Vec<Bytes> {
    let dots = [None, Some(dot(5, 1)), Some(dot(5, u64::MAX))];
    let done = |dot| Done { dot, clock_ms: 1_782_000_000_000, payload: PayloadHash(3) };
    let recorded = |dot: Option<Dot>| Recorded { key: KeyHash(11), done: dot.map(done) };
    dots.map(|dot| encode_recorded(recorded(dot))).to_vec()
}

pub(crate) fn records() -> Vec<Bytes> {
    objects().iter().map(|object| record::seal(RECORD_KEY, object)).collect()
}

pub(crate) fn cluster_key() -> ClusterKey {
    ClusterKey([9; 32])
}

pub(crate) fn binding(key: &ClusterKey) -> ContextBinding<'_> {
    ContextBinding { key, namespace: NamespaceId(1), hash: KeyHash(2) }
}

pub(crate) fn contexts() -> Vec<Bytes> {
    let key = cluster_key();
    let seal = |version| Context { version, time: Hlc(1 << 41) }.seal(binding(&key));
    versions().map(seal).to_vec()
}

fn key(bytes: &'static [u8]) -> Key {
    Key::new(Bytes::from_static(bytes)).expect("1 to 4096 bytes")
}

pub(crate) fn cursors(namespace: NamespaceId) -> Vec<Bytes> {
    let places = [(0, None), (255, Some(key(b"k"))), (u16::MAX, Some(key(&[0xff; 300])))];
    let cursor = |(at, after)| ScanCursor { namespace, partition: PartitionId(at), after };
    places.map(|place| cursor(place).encode()).to_vec()
}

fn member(index: u64) -> Member {
    let name = format!("node-{index}");
    Member {
        node: NodeId::of_name(&name),
        name,
        zone: format!("zone-{}", index % 2),
        weight: 10,
        peer_address: format!("10.0.0.{index}:7501"),
        client_address: format!("[2001:db8::{index}]:7401"),
    }
}

fn chain() -> Vec<Document> {
    let vote = |index| Voter { node: member(index).node, store: StoreId(index) };
    let first = Document::first(FirstDocument {
        cluster: ClusterId([7; 16]),
        cluster_key: cluster_key(),
        partitions: PartitionCount::new(8).expect("a power of two"),
        members: (0..3).map(member).collect(),
        voters: (0..3).map(vote).collect(),
    })
    .expect("a sound cluster");
    let place = |n: u8| (0..8).flat_map(|_| (0..n.into()).map(|i| member(i).node)).collect();
    let second = first.with_namespace(NewNamespace::named("carts"), place).expect("a sound one");
    let new = NewNamespace { n: 1, conflict: Conflict::Lww, ..NewNamespace::named("users") };
    let third = second.with_namespace(new, place).expect("a sound one");
    vec![first, second, third]
}

pub(crate) fn documents() -> Vec<Bytes> {
    chain().iter().map(Document::encode).collect()
}

pub(crate) fn register() -> Vec<Bytes> {
    let ballot = Ballot { round: 2, proposer: NodeId(3), nonce: 4 };
    let document = chain().pop().map(std::sync::Arc::new).expect("three of them");
    let accepted = Some((ballot, document.clone()));
    let steps = [Step::Reserve, Step::Prepare, Step::Accept(document.clone()), Step::Recover];
    let answers = [
        Answer::Promised(accepted.clone()),
        Answer::Told(None),
        Answer::Refused(Refusal::Newer(document)),
        Answer::Refused(Refusal::Outvoted { highest: ballot }),
    ];
    let votes = Votes { instance: 2, reserved: ballot, promised: Ballot::NONE, accepted };
    let requests = steps.map(|step| Request { instance: 3, ballot, step }.encode());
    let replies = answers.map(|answer| Reply { ballot, answer }.encode());
    [&requests[..], &replies, &[votes.encode()]].concat()
}

fn requests() -> Vec<transport::Request> {
    let namespace = NamespaceId(1);
    let object = EncodedObject(objects().remove(1));
    vec![
        transport::Request::Replicate(transport::Replicate {
            hint_for: None,
            namespace,
            key: key(b"k"),
            object: object.clone(),
            synced: true,
            operation: Some((operation(1), dot(1, 9), PayloadHash(3))),
            clock_ms: 1_782_000_000_000,
            mend: true,
        }),
        transport::Request::ForwardWrite(transport::ForwardWrite {
            sloppy: false,
            namespace,
            key: key(&[1; 60]),
            change: Change::put(Bytes::from_static(b"value")),
            context: contexts().remove(2),
            w: 2,
            synced: false,
            operation: operation(2),
            at_least_once: true,
            fresh: true,
        }),
        transport::Request::ScanPage(ScanPage {
            namespace,
            partition: PartitionId(3),
            prefix: Bytes::from_static(b"k"),
            after: Some(key(b"k1")),
            limit: 100,
        }),
        transport::Request::Learn(documents().remove(1)),
        transport::Request::Register(register().remove(2)),
        transport::Request::Clock,
    ]
}

fn replies() -> Vec<transport::Reply> {
    let object = EncodedObject(objects().remove(1));
    vec![
        transport::Reply::Held {
            held: Held::Object(object.clone()),
            standing: Standing::Rebuilding,
        },
        transport::Reply::WriteResult(transport::WriteResult {
            fallbacks: Vec::new(),
            context: Some(contexts().remove(1)),
            siblings: 1,
            dot: dot(1, 9),
            acked: vec![NodeId(1), NodeId(2)],
            synced: 1,
        }),
        transport::Reply::ScanPage(ScanPageReply {
            items: vec![(key(b"k2"), object), (key(b"k3"), EncodedObject::default())],
            damaged: vec![key(b"k4")],
            complete: true,
            standing: Standing::Good,
        }),
        transport::Reply::Document(Some(documents().remove(0))),
        transport::Reply::Clock { now_ms: 1_782_000_000_000 },
        transport::Reply::Failed(RequestError::ClockSkew {
            what: "the clock of node-1".to_owned(),
            ahead_ms: -600_000,
            max_ms: 500,
        }),
    ]
}

/// Every kind of message that carries something of its own to decode.
pub(crate) fn frames() -> Vec<Bytes> {
    let timeout = std::time::Duration::from_millis(900);
    let requests = requests().into_iter();
    let requests = requests.map(|request| wire::request_message(1, 2, timeout, request));
    let replies = replies().into_iter().map(|reply| wire::reply_message(1, 2, reply));
    let all = Frame { hello: None, messages: requests.chain(replies).collect() };
    let alone = all.messages.iter().cloned();
    let mut frames: Vec<Bytes> = alone
        .map(|message| wire::encode_frame(&Frame { hello: None, messages: vec![message] }))
        .collect();
    frames.push(wire::encode_frame(&all));
    frames
}

pub(crate) fn configurations() -> Vec<Bytes> {
    let example: &str = include_str!("../../../deploy/node.toml");
    let set = example.replace("\n# ", "\n");
    let small = "node_name = \"a\"\nseeds = [\"h:1\", \"[::1]:2\"]\ncache_bytes = 1048576\n";
    vec![example.into(), set.into(), small.into()]
}

pub(crate) fn store_marks() -> Vec<Bytes> {
    let mark = |state| {
        format!(
            "# A mark.\nformat = 5\nnode = \"node-1\"\nstore_id = \"00000000000000ff\"\n\
             engine = \"fjall\"\nstate = \"{state}\"\n"
        )
    };
    vec![mark("ready").into(), mark("creating").into()]
}

/// As people copy them from a terminal.
pub(crate) fn tokens() -> Vec<Bytes> {
    let sealed = contexts().remove(2);
    let context = quorate_client::Context::from_bytes(sealed).expect("not empty").to_string();
    // A context of three actors, an operation id of zeros.
    let operation = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    vec![context.into(), operation.into()]
}
