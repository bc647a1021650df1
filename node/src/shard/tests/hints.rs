//! Hints by way of the shards.

use std::path::Path;

use super::*;
use crate::dynamo::hint::Hints;
use crate::storage::{Batch, EngineError, EngineStats, KeyRange, Scan};

const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn merge(key: &str, namespace: u64, object: EncodedObject) -> Merge {
    let address = address(namespace, key);
    Merge {
        address,
        object,
        operation: None,
        clock_ms: 0,
        wait_ms: 0,
        mend: false,
        way: Way::Write,
    }
}

/// A key of another partition, which is another shard's.
fn elsewhere(key: &str) -> Address {
    let vnode = VnodeId { partition: PartitionId(VNODE.partition.0 + 1), ..VNODE };
    Address { vnode, ..address(1, key) }
}

impl Bench {
    async fn write_hint(&self, address: Address, sequence: u64) -> Written {
        let write = put(address, sequence, Bytes::from_static(b"value"));
        self.shards.write_hint(write, vec![B], false, late()).await.unwrap()
    }

    async fn kept(&self, target: NodeId) -> Vec<KeptHint> {
        self.shards.hint_page(target, usize::MAX, late()).await.unwrap()
    }
}

#[tokio::test]
async fn a_queue_holds_what_all_shards_keep_in_its_order() {
    let bench = bench();
    assert_eq!(bench.shards.hint_queues(), []);
    for (sequence, key) in (1..).zip(["a", "b", "c"]) {
        bench.write_hint(address(1, key), sequence).await;
        bench.write_hint(elsewhere(key), 10 + sequence).await;
    }
    let kept = bench.kept(B).await;
    let keys: Vec<_> = kept.iter().map(|hint| hint.address.key.as_bytes()[0] as char).collect();
    assert_eq!(keys, ['a', 'a', 'b', 'b', 'c', 'c']);
    assert!(kept.is_sorted_by_key(|hint| hint.seq));
    let [queue] = bench.shards.hint_queues()[..] else { panic!("one queue") };
    let bytes: usize = kept.iter().map(|hint| 1 + hint.object.0.len()).sum();
    assert_eq!((queue.target, queue.count, queue.bytes), (B, 6, bytes as u64));
    assert_eq!((queue.first, queue.last), (kept[0].seq, kept[5].seq));

    let first = kept[0].object.0.len() + 1;
    let page = bench.shards.hint_page(B, 2 * first, late()).await.unwrap();
    assert_eq!(page, kept[..2]);
    let page = bench.shards.hint_page_after(B, kept[3].seq, 1, late()).await.unwrap();
    assert_eq!(page, kept[4..5], "one, however large");

    // Two leave from the middle, two from the front: the queue begins behind them.
    bench.shards.hints_delivered(B, kept[1..3].to_vec(), late()).await.unwrap();
    assert_eq!(bench.shards.hint_queues()[0].first, kept[0].seq);
    bench.shards.hints_delivered(B, vec![kept[0].clone(), kept[3].clone()], late()).await.unwrap();
    let [queue] = bench.shards.hint_queues()[..] else { panic!("one queue") };
    assert_eq!((queue.count, queue.first, queue.last), (2, kept[4].seq, kept[5].seq));
    bench.shards.hints_delivered(B, kept, late()).await.unwrap();
    assert_eq!((bench.shards.hint_queues(), bench.shards.hints_bytes()), (Vec::new(), 0));
    assert_eq!(bench.kept(B).await, []);
}

#[tokio::test]
async fn an_owner_keeps_hints_beside_what_it_owns() {
    let bench = bench();
    let written = bench.put(1, "key", 1).await.unwrap();
    let hint = merge("key", 1, written.object.clone());
    bench.shards.hint(hint.clone(), C, true, late()).await.unwrap();
    assert_eq!(bench.shards.read_hint(address(1, "key"), late()).await.unwrap(), written.object);
    let nothing = bench.shards.read_hint(address(1, "other"), late()).await.unwrap();
    assert_eq!(nothing, EncodedObject::default());
    let kept = bench.kept(C).await;
    bench.shards.hints_delivered(C, kept, late()).await.unwrap();
    assert!(bench.holds(1, "key").await, "its own is no hint");
    let again = bench.put(1, "other", 2).await.unwrap();
    assert_eq!(again.dot.n, 2, "it dropped nothing of its own");
    assert_eq!(*bench.heard.hinted.lock().unwrap(), (1, 0));
}

#[tokio::test]
async fn hints_of_dropped_namespaces_go_and_their_queues_begin_behind_them() {
    let bench = bench();
    bench.write_hint(address(1, "a"), 1).await;
    bench.write_hint(address(2, "b"), 2).await;
    let dropped = bench.write_hint(address(1, "c"), 3).await;
    bench.write_hint(Address { namespace: NamespaceId(3), ..elsewhere("d") }, 4).await;
    let live = LiveNamespaces { known: [NamespaceId(2)].into(), next: NamespaceId(3) };
    assert_eq!(bench.shards.sweep(live).await, Ok(2));
    let kept = bench.kept(B).await;
    let namespaces: Vec<_> = kept.iter().map(|hint| hint.address.namespace.0).collect();
    assert_eq!(namespaces, [2, 3]);
    let [queue] = bench.shards.hint_queues()[..] else { panic!("one queue") };
    assert_eq!((queue.count, queue.first), (2, kept[0].seq));
    let next = bench.write_hint(address(2, "e"), 5).await;
    assert_ne!(next.dot.actor, dropped.dot.actor, "what was dropped may not be covered");
}

#[tokio::test]
async fn a_failed_batch_acknowledges_no_hint_and_ends_the_actor() {
    let bench = bench();
    let first = bench.write_hint(address(1, "a"), 1).await;
    bench.engine.fill_next_apply(true);
    let hint = merge("b", 1, first.object.clone());
    let failed = bench.shards.hint(hint.clone(), B, false, late()).await.unwrap_err();
    assert!(matches!(failed, RequestError::DiskFull { .. }), "{failed}");
    assert_eq!(bench.shards.hint_queues()[0].count, 1);
    bench.disk.on_free(u64::MAX, 0);
    let next = bench.write_hint(address(1, "c"), 2).await;
    assert_ne!(next.dot.actor, first.dot.actor);
    bench.engine.fail_next_sync();
    assert!(bench.shards.hint(hint, B, true, late()).await.is_err(), "it is not on disk");
}

#[tokio::test]
async fn damaged_rows_are_counted_and_only_lost_objects_stay() {
    let bench = one_shard();
    for (sequence, key) in (1..).zip(["a", "b", "c"]) {
        bench.write_hint(address(1, key), sequence).await;
    }
    let kept = bench.kept(B).await;
    let lost = record::object_key(VNODE, NamespaceId(1), b"a");
    bench.engine.rot(Space::Hints, &lost).unwrap();
    bench.engine.rot(Space::Hints, &rows::place_key(B, kept[1].seq)).unwrap();
    for _ in 0..2 {
        assert_eq!(bench.kept(B).await, kept[1..], "a place is found by what is owed");
    }
    assert_eq!(*bench.heard.corrupt.lock().unwrap(), 2, "each once");
    let read = bench.shards.read_hint(address(1, "a"), late()).await.unwrap_err();
    assert_eq!(read.kind(), "damaged");
    bench.shards.hints_delivered(B, kept.clone(), late()).await.unwrap();
    let [queue] = bench.shards.hint_queues()[..] else { panic!("one queue") };
    assert_eq!((queue.count, queue.first), (1, kept[0].seq), "it is owed, and nobody has it");
}

#[tokio::test]
async fn a_batch_of_hints_has_an_answer_for_each() {
    let bench = one_shard();
    let written = bench.put(1, "key", 1).await.unwrap();
    let object = written.object;
    let batch = vec![
        (merge("a", 1, object.clone()), B),
        (merge("b", 1, EncodedObject::default()), B),
        (merge("c", 1, object), C),
    ];
    let taken = bench.shards.hint_batch(batch, false, late()).await;
    let kinds: Vec<_> = taken.iter().map(|taken| taken.as_ref().map_err(|e| e.kind())).collect();
    assert_eq!(kinds, [Ok(&()), Err("invalid"), Ok(&())]);
    let read = vec![address(1, "a"), address(1, "b")];
    let read = bench.shards.read_hint_batch(read, late()).await;
    assert!(!read[0].as_ref().unwrap().0.is_empty() && read[1].as_ref().unwrap().0.is_empty());
}

/// An engine of which no scan comes to an end.
struct Torn(MemoryEngine);

impl Engine for Torn {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(space, key)
    }
    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        self.0.apply(batch)
    }
    fn sync(&self) -> Result<(), EngineError> {
        self.0.sync()
    }
    fn scan(&self, space: Space, range: KeyRange) -> Scan<'_> {
        let torn = EngineError::Corrupt { action: "read a row", detail: "it is torn".to_owned() };
        Box::new(self.0.scan(space, range).chain([Err(torn)]))
    }
    fn checkpoint(&self, target: &Path) -> Result<(), EngineError> {
        self.0.checkpoint(target)
    }
    fn stats(&self) -> Result<EngineStats, EngineError> {
        self.0.stats()
    }
}

#[tokio::test]
async fn who_could_not_read_all_rows_does_not_say_that_it_names_all_who_are_owed_some() {
    assert_eq!(bench().shards.all_hints(), Ok(Hints::default()));
    let hints = HintQueues::open(&Torn(MemoryEngine::new()), 1 << 20).unwrap();
    let bench = with_hints((2, 64), Duration::ZERO, hints);
    bench.write_hint(address(1, "a"), 1).await;
    assert_eq!(bench.shards.hint_queues().len(), 1, "what is known is shown");
    assert_eq!(bench.shards.all_hints().unwrap_err().kind(), "data");
}
