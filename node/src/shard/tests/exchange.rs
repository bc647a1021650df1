//! Exchanges by way of the shards.

use super::*;
use crate::dynamo::exchange::common_bases;
use crate::dynamo::frontier::Frontier;
use crate::dynamo::object::Object;

impl Bench {
    async fn told(&self) -> Frontier {
        self.shards.told_of(VNODE, late()).await.unwrap().frontier
    }

    /// Of which keys dots are, by name.
    async fn keys_of(&self, dots: &Frontier) -> Vec<(String, Vec<Dot>)> {
        let keys = self.shards.keys_of(VNODE, dots.clone(), late()).await.unwrap();
        let name = |key: &Key| String::from_utf8(key.as_bytes().to_vec()).unwrap();
        keys.iter().map(|of| (name(&of.key), of.dots.clone())).collect()
    }

    async fn forget(&self, which: Forgettable) {
        let mut next = Some(which);
        while let Some(which) = next {
            next = self.shards.forget_dots(VNODE, which, late()).await.unwrap();
        }
    }

    async fn see(&self, key: &str, object: Option<EncodedObject>, dots: &[Dot]) -> bool {
        let sight = Sight { address: address(1, key), object, dots: dots.to_vec() };
        self.shards.see(vec![sight], late()).await.remove(0).unwrap()
    }
}

#[tokio::test]
async fn the_log_knows_the_keys_of_dots_those_of_replaced_writes_too() {
    let bench = bench();
    let first = bench.put(1, "a", 1).await.unwrap();
    let beside = bench.put(1, "b", 2).await.unwrap();
    let context = first.context.unwrap();
    let over = Write { context, ..put(address(1, "a"), 3, Bytes::from_static(b"over")) };
    let over = bench.shards.write(over, false, late()).await.unwrap();

    let seen = bench.told().await;
    assert_eq!(seen.dots().collect::<Vec<_>>(), [first.dot, beside.dot, over.dot]);
    let of = |key: &str, dots: &[Dot]| (key.to_owned(), dots.to_vec());
    assert_eq!(
        bench.keys_of(&seen).await,
        [of("a", &[first.dot, over.dot]), of("b", &[beside.dot])]
    );
    let some = [beside.dot, Dot { n: 9, ..over.dot }].into_iter().collect();
    assert_eq!(bench.keys_of(&some).await, [of("b", &[beside.dot])], "nobody wrote the ninth");

    // All owners have the first two.
    let bases = common_bases([&seen, &[first.dot, beside.dot].into_iter().collect()]);
    bench.forget(Forgettable::Common(bases)).await;
    assert_eq!(bench.keys_of(&seen).await, [of("a", &[over.dot])]);
    bench.forget(Forgettable::Excess(None)).await;
    assert_eq!(bench.keys_of(&seen).await, [of("a", &[over.dot])], "it is not too much");
    assert_eq!(bench.told().await, seen, "what was seen is not forgotten");
    bench.forget(Forgettable::Common(common_bases([&seen]))).await;
    assert_eq!(bench.keys_of(&seen).await, []);
}

#[tokio::test]
async fn a_log_that_is_too_long_loses_its_lowest_numbers() {
    let bench = bench();
    // A mebibyte holds some 250 keys of this length.
    let long = |n: u64| format!("{n:04096}");
    let mut last = None;
    for n in 1..=300 {
        last = Some(bench.put(1, &long(n), n).await.unwrap().dot);
    }
    bench.forget(Forgettable::Excess(None)).await;
    let rows = KeyRange::prefix(&record::log_prefix(VNODE));
    let left = bench.engine.scan(Space::Frontiers, rows).count();
    assert!((200..270).contains(&left), "{left}");
    let last = last.unwrap();
    let [kept, gone] = [last.n, 1].map(|n| [Dot { n, ..last }].into_iter().collect());
    assert_eq!((bench.keys_of(&kept).await.len(), bench.keys_of(&gone).await.len()), (1, 0));
}

#[tokio::test]
async fn a_dot_is_seen_once_the_object_covers_it_and_not_before() {
    let ours = bench();
    ours.put(1, "key", 1).await.unwrap();
    let before = ours.told().await;
    let replaced = Dot { actor: Actor(7), n: 1 };
    let written = Dot { actor: Actor(7), n: 2 };
    let mut object = Object::default();
    object.delete(written, &[replaced].into_iter().collect());
    let object = EncodedObject::new(&object);
    assert!(!ours.see("key", None, &[replaced, written]).await);
    assert_eq!(ours.told().await, before);
    assert!(ours.see("key", Some(object), &[replaced, written]).await);
    let after = ours.told().await;
    let new: Vec<_> = after.minus(&before).dots().collect();
    assert_eq!(new, [replaced, written]);
    assert_eq!(ours.keys_of(&after.minus(&before)).await[0].1, new, "others can ask for them here");
}

#[tokio::test]
async fn what_was_forgotten_with_a_damaged_record_is_counted_anew_from_what_can_be_read() {
    let bench = bench();
    let kept = bench.put(1, "key-1", 1).await.unwrap();
    let lost = bench.put(1, "key-2", 2).await.unwrap();
    let before = bench.shards.told_of(VNODE, late()).await.unwrap();
    assert_eq!(bench.shards.doubting(&[VNODE], late()).await.unwrap(), []);
    let stored = record::object_key(VNODE, NamespaceId(1), b"key-2");
    let mut rot = Batch::new();
    rot.put(Space::Objects, stored, Bytes::from_static(b"rotten"));
    bench.engine.apply(rot).unwrap();
    bench.page(Vec::new(), None, 9).await;

    assert!(bench.told().await.is_empty());
    assert_eq!(bench.shards.doubting(&[VNODE], late()).await.unwrap(), [VNODE]);
    while bench.shards.recount(VNODE, late()).await.unwrap() {}
    assert_eq!(bench.shards.doubting(&[VNODE], late()).await.unwrap(), []);
    let after = bench.shards.told_of(VNODE, late()).await.unwrap();
    assert_eq!(after.frontier.dots().collect::<Vec<_>>(), [kept.dot]);
    assert!(!after.frontier.contains(lost.dot), "nobody knows what is there");
    assert_ne!(after.generation, before.generation, "others must not rely on what it said");
}
