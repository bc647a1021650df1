use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::dynamo::clock::{Actor, Dot};
use crate::dynamo::context::ContextError;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{Key, KeyHash, NamespaceId, NodeId, PartitionId, VnodeId};
use crate::dynamo::merkle::{Leaf, Node, Place, Sum, Summary};
use crate::dynamo::object::Digest;
use crate::dynamo::operation::{Change, Done, Opening, PayloadHash};
use crate::dynamo::standing::Standing;
use crate::dynamo::ttl::{TTL_MAX_MS, Ttl, TtlMs};
use crate::error::{Outcome, RequestError, WriteError};
use crate::transport::{
    Answer, Compared, Credit, ForwardGet, ForwardWrite, GetResult, Held, HintQueue, Hints, KeyDots,
    Known, LookUp, LookedUp, Read, Replicate, ScanPage, ScanPageReply, StandIn, Told, TreeReply,
    TreeRequest, WriteResult,
};

fn bytes() -> impl Strategy<Value = Bytes> + Clone {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn key() -> impl Strategy<Value = Key> + Clone {
    prop::collection::vec(any::<u8>(), 1..40).prop_map(|bytes| Key::new(bytes).unwrap())
}

fn object() -> impl Strategy<Value = EncodedObject> + Clone {
    bytes().prop_map(EncodedObject)
}

fn place() -> impl Strategy<Value = (NamespaceId, Key)> {
    (any::<u64>().prop_map(NamespaceId), key())
}

fn operation() -> impl Strategy<Value = OperationId> {
    any::<[u64; 5]>().prop_map(|[issued_ms, coordinator, opening, client, sequence]| OperationId {
        issued_ms,
        coordinator: NodeId(coordinator),
        opening: Opening(opening),
        client,
        sequence,
    })
}

fn dot() -> impl Strategy<Value = Dot> {
    (any::<u64>(), 1..=u64::MAX).prop_map(|(actor, n)| Dot { actor: Actor(actor), n })
}

fn replicate() -> impl Strategy<Value = Replicate> {
    let payload = any::<u64>().prop_map(PayloadHash);
    let cause = (option::of((operation(), dot(), payload)), 1..=u64::MAX);
    let hint_for = option::of((1..=u64::MAX).prop_map(NodeId));
    (place(), object(), any::<[bool; 2]>(), cause, hint_for).prop_map(
        |((namespace, key), object, [synced, mend], (operation, clock_ms), hint_for)| Replicate {
            namespace,
            key,
            object,
            synced,
            operation,
            clock_ms,
            mend,
            hint_for,
        },
    )
}

fn read() -> impl Strategy<Value = Read> {
    let read =
        |((namespace, key), [digest, hint]): (_, [bool; 2])| Read { namespace, key, digest, hint };
    (place(), any::<[bool; 2]>()).prop_map(read)
}

fn forward_get() -> impl Strategy<Value = ForwardGet> {
    let get = |((namespace, key), r, [blocking_repair, sloppy]): (_, _, [bool; 2])| ForwardGet {
        namespace,
        key,
        r,
        blocking_repair,
        sloppy,
    };
    (place(), 1..=u8::MAX, any::<[bool; 2]>()).prop_map(get)
}

fn change() -> impl Strategy<Value = Change> {
    let ttl = || {
        let after = (1..=TTL_MAX_MS).prop_map(|ms| Ttl::After(TtlMs::new(ms).unwrap()));
        prop_oneof![Just(Ttl::Default), Just(Ttl::Never), after]
    };
    prop_oneof![
        (bytes(), ttl()).prop_map(|(value, ttl)| Change::Put { value, ttl }),
        ttl().prop_map(Change::Expire),
        Just(Change::Delete),
    ]
}

fn forward_write() -> impl Strategy<Value = ForwardWrite> {
    (place(), change(), bytes(), 1..=u8::MAX, any::<[bool; 4]>(), operation()).prop_map(
        |(
            (namespace, key),
            change,
            context,
            w,
            [synced, at_least_once, fresh, sloppy],
            operation,
        )| {
            ForwardWrite {
                namespace,
                key,
                change,
                context,
                w,
                synced,
                operation,
                at_least_once,
                fresh,
                sloppy,
            }
        },
    )
}

fn few<T: std::fmt::Debug>(item: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(item, 0..4)
}

fn key_requests() -> impl Strategy<Value = Request> {
    prop_oneof![
        replicate().prop_map(Request::Replicate),
        read().prop_map(Request::Read),
        forward_get().prop_map(Request::ForwardGet),
        forward_write().prop_map(Request::ForwardWrite),
        few(replicate()).prop_map(Request::ReplicateBatch),
        few(read()).prop_map(Request::ReadBatch),
        few(forward_get()).prop_map(Request::ForwardGetBatch),
        few(forward_write()).prop_map(Request::ForwardWriteBatch),
    ]
}

fn look_up() -> impl Strategy<Value = LookUp> {
    let look_up = |(operation, [namespace, key], settle): (_, [u64; 2], _)| LookUp {
        operation,
        namespace: NamespaceId(namespace),
        key: KeyHash(key),
        settle,
    };
    (operation(), any::<[u64; 2]>(), any::<bool>()).prop_map(look_up)
}

fn vnode() -> impl Strategy<Value = VnodeId> {
    let vnode = |(n, partition)| VnodeId { n, partition: PartitionId(partition) };
    any::<(u8, u16)>().prop_map(vnode)
}

fn frontier() -> impl Strategy<Value = Frontier> {
    let dot = |(actor, n)| Dot { actor: Actor(actor), n };
    prop::collection::btree_set((any::<u64>(), 1..9u64), 1..9)
        .prop_map(move |dots| dots.into_iter().map(dot).collect())
}

fn exchange_requests() -> impl Strategy<Value = Request> {
    prop_oneof![
        (few((vnode(), any::<u64>())), any::<bool>())
            .prop_map(|(asked, recall)| Request::Frontiers { asked, recall }),
        (vnode(), frontier()).prop_map(|(vnode, dots)| Request::Keys(vnode, dots)),
    ]
}

fn exchange_replies() -> impl Strategy<Value = Reply> {
    let told = |(generation, frontier, recounting)| {
        Compared::Differs(Told { generation, frontier, recounting })
    };
    let compared = prop_oneof![
        Just(Compared::Same),
        Just(Compared::Unsaid),
        (any::<u64>(), frontier(), any::<bool>()).prop_map(told),
    ];
    let answer = (compared, prop::option::of(frontier()))
        .prop_map(|(compared, remembered)| Answer { compared, remembered });
    let answers = (few(answer), any::<bool>())
        .prop_map(|(answers, settled)| Reply::Frontiers { answers, settled });
    let key = (any::<u64>(), key(), frontier()).prop_map(|(namespace, key, dots)| KeyDots {
        namespace: NamespaceId(namespace),
        key,
        dots: dots.dots().collect(),
    });
    prop_oneof![answers, few(key).prop_map(Reply::Keys)]
}

fn tree_requests() -> impl Strategy<Value = TreeRequest> {
    let node = (0..=2_u8).prop_flat_map(|level| {
        (0..16_u16.pow(level.into())).prop_map(move |index| Node { level, index })
    });
    let leaf = (0..4096_u16).prop_map(Leaf);
    prop_oneof![
        few(vnode()).prop_map(TreeRequest::Summaries),
        (vnode(), few(node)).prop_map(|(of, nodes)| TreeRequest::Branches(of, nodes)),
        (vnode(), few(leaf)).prop_map(|(of, leaves)| TreeRequest::Leaves(of, leaves)),
        (vnode(), few(any::<u64>().prop_map(Place)))
            .prop_map(|(of, places)| TreeRequest::Names(of, places)),
    ]
}

fn tree_replies() -> impl Strategy<Value = TreeReply> {
    let summary = (any::<u64>(), any::<u128>())
        .prop_map(|(fingerprint, root)| Summary { fingerprint, root: Sum(root) });
    let children = any::<[u128; 16]>().prop_map(|sums| sums.map(Sum));
    let listing = few((any::<u64>().prop_map(Place), any::<u128>()));
    let name = (any::<u64>().prop_map(NamespaceId), key());
    prop_oneof![
        few(option::of(summary)).prop_map(TreeReply::Summaries),
        prop::collection::vec(children, 1..3).prop_map(|all| TreeReply::Branches(Some(all))),
        Just(TreeReply::Branches(None)),
        few(option::of(listing)).prop_map(TreeReply::Leaves),
        few(name).prop_map(TreeReply::Names),
    ]
}

fn requests() -> impl Strategy<Value = Request> {
    let scan = (any::<u64>(), any::<u16>(), bytes(), option::of(key()), any::<u32>());
    prop_oneof![
        8 => key_requests(),
        1 => scan.prop_map(|(namespace, partition, prefix, after, limit)| {
            let (namespace, partition) = (NamespaceId(namespace), PartitionId(partition));
            Request::ScanPage(ScanPage { namespace, partition, prefix, after, limit })
        }),
        1 => Just(Request::Document),
        1 => bytes().prop_map(Request::Learn),
        1 => bytes().prop_map(Request::Register),
        1 => Just(Request::Clock),
        1 => bytes().prop_map(Request::Gossip),
        1 => few(replicate()).prop_map(Request::Handoff),
        1 => Just(Request::Hints),
        1 => look_up().prop_map(Request::LookUp),
        2 => exchange_requests(),
        2 => tree_requests().prop_map(Request::Trees),
    ]
}

fn errors() -> impl Strategy<Value = RequestError> {
    prop_oneof![
        ".*".prop_map(|reason| RequestError::Invalid { reason }),
        ".*".prop_map(|name| RequestError::UnknownNamespace { name }),
        Just(RequestError::Context(ContextError::Malformed)),
        Just(RequestError::Context(ContextError::Foreign)),
        any::<u32>().prop_map(|count| RequestError::TooManySiblings { count }),
        (".*", any::<i64>(), any::<u64>()).prop_map(|(what, ahead_ms, max_ms)| {
            RequestError::ClockSkew { what, ahead_ms, max_ms }
        }),
        (".*", any::<bool>())
            .prop_map(|(reason, lasts)| RequestError::ClockUncertain { reason, lasts }),
        (any::<u32>(), any::<u32>(), ".*").prop_map(|(needed, got, detail)| {
            RequestError::QuorumNotReached { needed, got, detail }
        }),
        ".*".prop_map(|waiting_for| RequestError::Timeout { waiting_for }),
        (".*", any::<u32>())
            .prop_map(|(what, retry_after_ms)| RequestError::Overloaded { what, retry_after_ms }),
        (any::<u64>(), any::<u32>()).prop_map(|(max_bytes, retry_after_ms)| {
            RequestError::HintsFull { max_bytes, retry_after_ms }
        }),
        (any::<u64>(), ".*").prop_map(|(node, reason)| {
            RequestError::CoordinatorUnreachable { node: NodeId(node), reason }
        }),
        any::<u64>().prop_map(|o| RequestError::EarlierOpening { opening: Opening(o) }),
        any::<u64>().prop_map(|o| RequestError::OperationTime { opening: Opening(o) }),
        ".*".prop_map(|reason| RequestError::NotReady { reason }),
        ".*".prop_map(|reason| RequestError::Conflict { reason }),
        ".*".prop_map(|reason| RequestError::NoMajority { reason }),
        ".*".prop_map(|reason| RequestError::ChangeUnknown { reason }),
        ".*".prop_map(|reason| RequestError::Data { reason }),
        ".*".prop_map(|reason| RequestError::Damaged { reason }),
        ".*".prop_map(|reason| RequestError::DiskFull { reason }),
        ".*".prop_map(|reason| RequestError::DiskFailed { reason }),
        ".*".prop_map(|reason| RequestError::Internal { reason }),
    ]
}

fn failures() -> impl Strategy<Value = Reply> {
    prop_oneof![
        errors().prop_map(Reply::Failed),
        errors().prop_map(|error| Reply::WriteFailed(WriteError::not_applied(error))),
        (errors(), operation()).prop_map(|(error, id)| {
            Reply::WriteFailed(WriteError { error, outcome: Outcome::Unknown(id) })
        }),
    ]
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        Just(Standing::Good),
        Just(Standing::Rebuilding),
        Just(Standing::Fallback),
        Just(Standing::CatchingUp)
    ]
}

fn held() -> impl Strategy<Value = Held> {
    prop_oneof![
        object().prop_map(Held::Object),
        any::<[u8; 32]>().prop_map(|digest| Held::Digest(Digest(digest))),
    ]
}

fn get_result() -> impl Strategy<Value = GetResult> {
    (object(), any::<[u32; 2]>()).prop_map(|(object, [replicas, fallbacks])| GetResult {
        object,
        replicas,
        fallbacks,
    })
}

fn write_result() -> impl Strategy<Value = WriteResult> {
    let acked = prop::collection::vec(any::<u64>().prop_map(NodeId), 0..5);
    let stand_in = |[node, owner]: [u64; 2]| StandIn { node: NodeId(node), owner: NodeId(owner) };
    let fallbacks = few(any::<[u64; 2]>().prop_map(stand_in));
    (option::of(bytes()), any::<[u32; 2]>(), dot(), acked, fallbacks).prop_map(
        |(context, [siblings, synced], dot, acked, fallbacks)| WriteResult {
            context,
            siblings,
            dot,
            acked,
            fallbacks,
            synced,
        },
    )
}

fn write_errors() -> impl Strategy<Value = WriteError> {
    prop_oneof![
        errors().prop_map(WriteError::not_applied),
        (errors(), operation()).prop_map(|(error, id)| WriteError::unknown(id, error)),
    ]
}

fn hint_queue() -> impl Strategy<Value = HintQueue> {
    any::<[u64; 6]>().prop_map(|[target, count, bytes, oldest_ms, first, last]| HintQueue {
        target: NodeId(target),
        count,
        bytes,
        oldest_ms,
        first,
        last,
    })
}

fn looked_up() -> impl Strategy<Value = LookedUp> {
    let done = |(dot, [clock_ms, payload]): (_, [u64; 2])| {
        Known::Done(Done { dot, clock_ms, payload: PayloadHash(payload) })
    };
    let known = prop_oneof![
        (dot(), any::<[u64; 2]>()).prop_map(done),
        Just(Known::Refused),
        Just(Known::OtherKey),
        Just(Known::Expired),
    ];
    let looked_up = |(known, opening)| LookedUp { known, opening: Opening(opening) };
    (option::of(known), any::<u64>()).prop_map(looked_up)
}

fn batch_replies() -> impl Strategy<Value = Reply> {
    use prop::result::maybe_ok;
    prop_oneof![
        few(maybe_ok(any::<bool>(), errors())).prop_map(Reply::ReplicatedBatch),
        few(maybe_ok((held(), standing()), errors())).prop_map(Reply::HeldBatch),
        few(maybe_ok(get_result(), errors())).prop_map(Reply::GetBatch),
        few(maybe_ok(write_result(), write_errors())).prop_map(Reply::WriteBatch),
        (few(maybe_ok(Just(()), errors())), any::<[u32; 2]>()).prop_map(
            |(taken, [bytes, pause_ms])| Reply::Handoff {
                taken,
                credit: Credit { bytes, pause_ms }
            }
        ),
        (few(hint_queue()), any::<bool>())
            .prop_map(|(queues, full)| Reply::Hints(Hints { queues, full })),
        looked_up().prop_map(Reply::LookedUp),
        exchange_replies(),
        tree_replies().prop_map(Reply::Trees),
    ]
}

fn replies() -> impl Strategy<Value = Reply> {
    let items = prop::collection::vec((key(), object()), 0..4);
    let damaged = prop::collection::vec(key(), 0..3);
    prop_oneof![
        3 => failures(),
        1 => any::<bool>().prop_map(|synced| Reply::Replicated { synced }),
        1 => any::<u64>().prop_map(|now_ms| Reply::Clock { now_ms }),
        1 => Just(Reply::Heard),
        2 => (held(), standing())
            .prop_map(|(held, standing)| Reply::Held { held, standing }),
        1 => get_result().prop_map(Reply::GetResult),
        1 => write_result().prop_map(Reply::WriteResult),
        4 => batch_replies(),
        1 => (items, damaged, any::<bool>(), standing())
            .prop_map(|(items, damaged, complete, standing)| {
                Reply::ScanPage(ScanPageReply { items, damaged, complete, standing })
            }),
        1 => option::of(bytes()).prop_map(Reply::Document),
        1 => any::<u64>().prop_map(|version| Reply::Learned { version }),
        1 => bytes().prop_map(Reply::Register),
    ]
}

/// Through bytes and back.
fn carried(message: Message) -> Message {
    let frame = Frame { hello: None, messages: vec![message] };
    decode_frame(encode_frame(&frame)).unwrap().messages.remove(0)
}

proptest! {
    #[test]
    fn requests_come_back_as_sent(request in requests(), id in any::<u64>(), ms in any::<u32>()) {
        let timeout = Duration::from_millis(ms.into());
        let message = carried(request_message(id, 7, timeout, request.clone()));
        prop_assert_eq!((message.id, message.version, message.timeout_ms), (id, 7, ms));
        prop_assert_eq!(decode_request(message.body), Ok(request));
    }

    #[test]
    fn replies_come_back_as_sent(reply in replies(), id in any::<u64>()) {
        let message = carried(reply_message(id, 7, reply.clone()));
        prop_assert_eq!((message.id, message.version), (id, 7));
        prop_assert_eq!(decode_reply(message.body), Ok(reply));
    }

    #[test]
    fn a_request_is_no_reply_and_a_reply_no_request(request in requests(), reply in replies()) {
        let as_reply = decode_reply(Some(encode_request(request)));
        let refused = matches!(as_reply, Err(WireError::Unexpected { expected: "reply", .. }));
        prop_assert!(refused);
        let as_request = decode_request(Some(encode_reply(reply)));
        let refused = matches!(as_request, Err(WireError::Unexpected { expected: "request", .. }));
        prop_assert!(refused);
    }

    #[test]
    fn garbage_is_refused_or_decodes_and_never_panics(
        garbage in prop::collection::vec(any::<u8>(), 0..200)
    ) {
        let _ = decode_frame(garbage.into());
    }

    #[test]
    fn damaged_messages_never_panic(
        request in requests(), reply in replies(), at in any::<prop::sample::Index>(), byte: u8
    ) {
        let timeout = Duration::from_secs(1);
        let messages =
            vec![request_message(1, 2, timeout, request), reply_message(1, 2, reply)];
        let mut bytes = encode_frame(&Frame { hello: None, messages }).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        for message in decode_frame(bytes.into()).map(|f| f.messages).unwrap_or_default() {
            let _ = decode_request(message.body.clone());
            let _ = decode_reply(message.body);
        }
    }
}

#[test]
fn what_no_honest_peer_sends_is_refused_with_its_reason() {
    let read = |key: &'static [u8]| {
        let key = Bytes::from_static(key);
        decode_request(Some(Body::Read(proto::Read { namespace: 1, key, ..Default::default() })))
    };
    assert_eq!(read(b""), Err(WireError::Key(KeyError::Empty)));
    assert_eq!(read(&[0; 4097]), Err(WireError::Key(KeyError::TooLong { length: 4097 })));

    let key = Bytes::from_static(b"k");
    let operation = OperationId {
        issued_ms: 1,
        coordinator: NodeId(1),
        opening: Opening(1),
        client: 1,
        sequence: 1,
    };
    let write = Replicate {
        namespace: NamespaceId(1),
        key: Key::new(key.clone()).unwrap(),
        object: EncodedObject::default(),
        synced: false,
        operation: Some((operation, Dot { actor: Actor(1), n: 1 }, PayloadHash(2))),
        clock_ms: 0,
        mend: false,
        hint_for: None,
    };
    let repair = Replicate { operation: None, ..write.clone() };
    let decoded = |replicate| decode_request(Some(encode_request(Request::Replicate(replicate))));
    assert_eq!(decoded(write), Err(WireError::Missing { field: "clock_ms" }));
    assert_eq!(decoded(repair.clone()), Ok(Request::Replicate(repair)));
    for r in [0, 256] {
        let get = proto::ForwardGet { namespace: 1, key: key.clone(), r, ..Default::default() };
        let error = decode_request(Some(Body::ForwardGet(get))).unwrap_err();
        assert_eq!(error.to_string(), format!("r cannot be {r}"));
    }
    let page = proto::ScanPage { partition: 65536, ..Default::default() };
    let error = decode_request(Some(Body::ScanPage(page))).unwrap_err();
    assert_eq!(error.to_string(), "partition cannot be 65536");

    let error = decode_reply(Some(Body::WriteResult(proto::WriteResult::default())));
    assert_eq!(error.unwrap_err().to_string(), "dot cannot be 0");
    let error = decode_reply(Some(Body::ReadReply(proto::ReadReply::default())));
    assert_eq!(error.unwrap_err().to_string(), "what is held is missing");
    let error = decode_reply(Some(Body::Failure(proto::Failure::default())));
    assert_eq!(error.unwrap_err().to_string(), "error code cannot be 0");
    let nothing = quorate_proto::peer::write_batch_result::Item::default();
    let error = decode_reply(Some(Body::WriteBatchResult(proto::WriteBatchResult {
        items: vec![nothing],
    })));
    assert_eq!(error.unwrap_err().to_string(), "the reply to an item is missing");
    let error = decode_reply(None).unwrap_err();
    assert_eq!(error.to_string(), "a message of unknown kind where a reply was expected");
}

#[test]
fn values_keep_sharing_the_memory_of_their_frame() {
    let object = EncodedObject(Bytes::from(vec![7; 5000]));
    let message =
        reply_message(1, 1, Reply::Held { held: Held::Object(object), standing: Standing::Good });
    let bytes = encode_frame(&Frame { hello: None, messages: vec![message] });
    let body = decode_frame(bytes.clone()).unwrap().messages.remove(0).body;
    let Ok(Reply::Held { held: Held::Object(object), .. }) = decode_reply(body) else {
        panic!("no object")
    };
    assert!(bytes.as_ptr_range().contains(&object.0.as_ptr()));
}

#[test]
fn timeouts_round_up_and_saturate() {
    let sent = |timeout| request_message(1, 1, timeout, Request::Document).timeout_ms;
    assert_eq!(sent(Duration::ZERO), 0);
    assert_eq!(sent(Duration::from_micros(1)), 1);
    assert_eq!(sent(Duration::from_millis(5)), 5);
    assert_eq!(sent(Duration::MAX), u32::MAX);
}
