//! Reading again what is held, some leaves at a time.

use super::*;
use crate::dynamo::merkle::Leaf;
use crate::storage::KeyRange;

impl Bench {
    /// Reads all leaves again: how many records with values, and which keys are damaged or lost.
    async fn scrub(&self) -> (u64, Vec<Key>) {
        let (mut next, mut records, mut lost) = (Some(Leaf(0)), 0, Vec::new());
        while let Some(first) = next {
            while !self.shards.ready_tree(VNODE, late()).await.unwrap() {}
            let (scrubbed, damaged) = self.shards.scrub(VNODE, first, late()).await.unwrap();
            lost.extend(damaged.into_iter().map(|(_, key)| key));
            (next, records) = (scrubbed.next, records + scrubbed.records);
        }
        (records, lost)
    }
}

#[tokio::test]
async fn a_scrub_reads_every_record_once() {
    let bench = bench();
    for number in 0..400 {
        bench.put(1, &format!("key {number}"), number).await.unwrap();
    }
    assert_eq!(bench.scrub().await, (400, Vec::new()));
}

#[tokio::test]
async fn a_scrub_goes_on_where_a_loss_made_the_tree_doubtful() {
    let bench = bench();
    for number in 0..400 {
        bench.put(1, &format!("key {number}"), number).await.unwrap();
    }
    let lost: Vec<Bytes> = bench
        .engine
        .scan(Space::Objects, KeyRange::all())
        .step_by(100)
        .map(|row| row.unwrap().0)
        .collect();
    let mut batch = Batch::new();
    lost.iter().for_each(|stored| batch.delete(Space::Objects, stored.clone()));
    bench.engine.apply(batch).unwrap();
    assert_eq!(bench.standings.of(VNODE), Standing::Good);
    let (records, damaged) = bench.scrub().await;
    assert_eq!(damaged, [], "what is gone cannot be mended");
    assert!(records >= 396, "the rest is read all the same: {records}");
    assert_eq!(bench.standings.of(VNODE), Standing::CatchingUp, "its silence means nothing");
}
