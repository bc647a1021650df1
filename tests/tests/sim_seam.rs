//! The seam for simulation: three nodes of the real code on one thread, repeatable to the byte.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::future::join_all;
use quorate_node::coordinator::{Get, Put, ScanRequest};
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::operation::Change;
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_node::error::Outcome;
use quorate_node::transport::memory::Faults;
use quorate_tests::sim::story::{counted, story};
use quorate_tests::sim::{SimCluster, SimSize, node, seeds, simulate, strict, workload_rng};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

const NODES: usize = 3;
const KEYS: u64 = 8;

fn put(key: u64, value: String, context: Bytes) -> Put {
    Put {
        sloppy: None,
        namespace: "things".to_owned(),
        key: Key::new(format!("key-{key}")).unwrap(),
        change: Change::put(value),
        context,
        w: None,
        durability: None,
        operation: None,
        at_least_once: false,
        fresh: false,
        timeout: Duration::from_secs(2),
    }
}

fn get(key: u64, r: Option<Level>, repair: Repair) -> Get {
    Get {
        sloppy: None,
        namespace: "things".to_owned(),
        key: Key::new(format!("key-{key}")).unwrap(),
        r,
        repair,
        replica: None,
        timeout: Duration::from_secs(2),
    }
}

/// What the clients know must be there.
#[derive(Default)]
struct Ledger {
    /// Per key: acknowledged values that no later acknowledged or unknown write may have replaced.
    acknowledged: BTreeMap<u64, Vec<String>>,
    operations: u64,
    failures: u64,
    damaged: u64,
    lost: u64,
}

/// What goes wrong beside the network.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// Records rot.
    Rot,
    /// Stores are lost, one at a time, and rebuilt.
    Loss,
}

struct Run {
    cluster: SimCluster,
    rng: ChaCha8Rng,
    ledger: Ledger,
    down: Option<usize>,
    trouble: Trouble,
}

impl Run {
    async fn step(&mut self, step: u64) -> Result<()> {
        match self.rng.random_range(0..if self.trouble == Trouble::None { 20 } else { 25 }) {
            0 if self.down.is_none() => {
                let index = self.rng.random_range(0..NODES);
                self.cluster.kill(index);
                self.cluster.note(format!("kill {index}"));
                self.down = Some(index);
            }
            1 | 2 => self.restart()?,
            3..12 => self.blind_write(step).await,
            20.. if self.trouble == Trouble::Rot => self.damage()?,
            20 => self.lose_store().await?,
            _ => self.read_and_replace(step).await?,
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        if let Some(index) = self.down.take() {
            self.cluster.restart(index)?;
            self.cluster.note(format!("restart {index}"));
        }
        Ok(())
    }

    /// Damages one owner's record, if the other owners' are good: what two of three owners lost is
    /// lost.
    fn damage(&mut self) -> Result<()> {
        let (key, index) = (self.rng.random_range(0..KEYS), self.rng.random_range(0..NODES));
        let key = Key::new(format!("key-{key}"))?;
        for other in 0..NODES {
            if self.cluster.is_damaged(other, "things", &key)? {
                return Ok(());
            }
        }
        if self.cluster.damage(index, "things", &key)? {
            self.cluster.note(format!("damage {key:?} at {index}"));
            self.ledger.damaged += 1;
        }
        Ok(())
    }

    /// Loses a node's store, if every other is whole and running.
    async fn lose_store(&mut self) -> Result<()> {
        let whole = |index| self.cluster.rebuilding(index).is_none();
        if self.down.is_some() || !(0..NODES).all(whole) {
            return Ok(());
        }
        let index = self.rng.random_range(0..NODES);
        self.cluster.rebuild(index).await?;
        self.cluster.note(format!("lose the store of {index}"));
        self.ledger.lost += 1;
        Ok(())
    }

    async fn wait_until_whole(&self) {
        for _ in 0..600 {
            if (0..NODES).all(|index| self.cluster.rebuilding(index).is_none()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the stores are not whole: {:?}", [0, 1, 2].map(|i| self.cluster.rebuilding(i)));
    }

    /// Every key can be read by quorum, and is mended where a read of all owners finds damage.
    async fn mend_all(&self) -> Result<()> {
        let coordinator = self.cluster.coordinator(0).unwrap();
        for number in 0..KEYS {
            let key = Key::new(format!("key-{number}"))?;
            coordinator.get(get(number, None, Repair::Async)).await?;
            // It fails if one is damaged.
            let _ = coordinator.get(get(number, Some(Level::All), Repair::Async)).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            for index in 0..NODES {
                let damaged = self.cluster.is_damaged(index, "things", &key)?;
                assert!(!damaged, "{key:?} was not mended at {index}");
            }
        }
        Ok(())
    }

    fn any_node(&mut self) -> usize {
        let up: Vec<usize> = (0..NODES).filter(|index| Some(*index) != self.down).collect();
        up[self.rng.random_range(0..up.len())]
    }

    async fn blind_write(&mut self, step: u64) {
        let (key, at) = (self.rng.random_range(0..KEYS), self.any_node());
        let value = format!("value-{step}");
        let coordinator = self.cluster.coordinator(at).unwrap();
        let written = coordinator.put(put(key, value.clone(), Bytes::new())).await;
        self.ledger.operations += 1;
        match written {
            Ok(result) => {
                self.cluster.note(format!("put {value} at {at}: {}", result.dot));
                self.ledger.acknowledged.entry(key).or_default().push(value);
            }
            Err(error) => {
                self.cluster.note(format!("put {value} at {at}: {error}"));
                self.ledger.failures += 1;
            }
        }
    }

    /// Reads by quorum: every acknowledged value must be there; then one write replaces them all.
    async fn read_and_replace(&mut self, step: u64) -> Result<()> {
        let (key, at) = (self.rng.random_range(0..KEYS), self.any_node());
        let coordinator = self.cluster.coordinator(at).unwrap();
        let read = coordinator.get(get(key, None, Repair::Async)).await;
        self.ledger.operations += 1;
        let Ok(answer) = read else {
            self.ledger.failures += 1;
            return Ok(());
        };
        let found: Vec<_> =
            answer.object.siblings().iter().map(|entry| entry.payload.clone()).collect();
        for value in self.ledger.acknowledged.get(&key).into_iter().flatten() {
            assert!(found.iter().any(|f| f == value), "key-{key} lost {value}: {found:?}");
        }
        let value = format!("value-{step}");
        let context = answer.context.unwrap_or_default();
        let written = coordinator.put(put(key, value.clone(), context)).await;
        self.ledger.operations += 1;
        self.cluster.note(format!("replace {} by {value}: {}", found.len(), written.is_ok()));
        match written {
            Ok(_) => drop(self.ledger.acknowledged.insert(key, vec![value])),
            Err(error) if error.outcome == Outcome::NotApplied => self.ledger.failures += 1,
            Err(_) => {
                self.ledger.failures += 1;
                self.ledger.acknowledged.remove(&key);
            }
        }
        Ok(())
    }

    /// After everything came back, every replica holds every acknowledged value.
    async fn check_all(&mut self) -> Result<()> {
        self.restart()?;
        self.cluster.set_faults(Faults::default());
        tokio::time::sleep(Duration::from_secs(10)).await;
        match self.trouble {
            Trouble::None => {}
            Trouble::Rot => self.mend_all().await?,
            Trouble::Loss => self.wait_until_whole().await,
        }
        let coordinator = self.cluster.coordinator(0).unwrap();
        for key in 0..KEYS {
            let answer = coordinator.get(get(key, Some(Level::All), Repair::Blocking)).await?;
            let found: Vec<_> =
                answer.object.siblings().iter().map(|entry| entry.payload.clone()).collect();
            for value in self.ledger.acknowledged.get(&key).into_iter().flatten() {
                assert!(found.iter().any(|f| f == value), "key-{key} lost {value}: {found:?}");
            }
            for replica in 0..NODES {
                let alone = Get {
                    replica: Some(quorate_tests::sim::node(replica)),
                    ..get(key, None, Repair::Async)
                };
                let held = coordinator.get(alone).await?;
                assert_eq!(held.object, answer.object, "node-{replica} was not repaired");
            }
        }
        Ok(())
    }
}

/// A run of `steps`, and its trace.
fn run_with(
    seed: u64,
    steps: u64,
    faults: Faults,
    trouble: Trouble,
) -> Result<(Vec<String>, Ledger)> {
    simulate(async move {
        let cluster = SimCluster::start(NODES, seed).await?;
        cluster.create_namespace(strict("things")).await?;
        cluster.set_faults(faults);
        let rng = workload_rng(seed);
        let mut run = Run { cluster, rng, ledger: Ledger::default(), down: None, trouble };
        for step in 0..steps {
            run.step(step).await?;
        }
        run.check_all().await?;
        Ok((run.cluster.trace(), run.ledger))
    })
}

fn bad_network() -> Faults {
    Faults { latency_ms: 1..=40, loss: 0.02, duplication: 0.1, ..Faults::default() }
}

/// How many seeds were run on a bad network, and what they add up to.
fn over_seeds(trouble: Trouble) -> (u64, Ledger) {
    let seeds = seeds::seeds(20);
    let count = seeds.end - seeds.start;
    let mut sum = Ledger::default();
    let mut run = |seed| {
        eprintln!("QUORATE_SEED={seed}");
        let (_, ledger) = run_with(seed, 150, bad_network(), trouble).unwrap();
        sum.operations += ledger.operations;
        sum.failures += ledger.failures;
        sum.damaged += ledger.damaged;
        sum.lost += ledger.lost;
    };
    counted(count, || seeds.into_iter().for_each(&mut run));
    (count, sum)
}

#[test]
fn sim_the_same_seed_gives_the_same_trace_to_the_byte() {
    let run = |seed| run_with(seed, 120, bad_network(), Trouble::None).unwrap().0;
    let [first, again, other] = counted(2, || [7, 7, 8].map(run));
    let difference = first.iter().zip(&again).position(|(x, y)| x != y);
    assert_eq!(difference, None, "{:?}", difference.map(|at| (&first[at], &again[at])));
    assert_eq!(first.len(), again.len());
    assert_ne!(first, other);
    println!("deliveries={}", first.len());
}

#[test]
fn sim_a_silent_owner_holds_up_neither_reads_nor_scans() {
    let keys = story(async {
        let cluster = SimCluster::start(NODES, 3).await?;
        cluster.create_namespace(strict("things")).await?;
        let coordinator = cluster.coordinator(0).unwrap();
        for key in 0..KEYS {
            coordinator.put(put(key, format!("value-{key}"), Bytes::new())).await?;
        }
        cluster.cut(0, 1);
        for key in 0..KEYS {
            assert_eq!(coordinator.get(get(key, None, Repair::Async)).await?.replicas, 2);
        }
        let scan = ScanRequest {
            namespace: "things".to_owned(),
            prefix: Bytes::new(),
            r: None,
            timeout: Duration::from_secs(2),
        };
        let mut next = Some(coordinator.scan_from(&scan, Bytes::new()).await?);
        let mut found = 0;
        while let Some(cursor) = next {
            let part = coordinator.scan(&scan, cursor).await?;
            found += part.items.len() as u64;
            next = part.next;
        }
        Ok(found)
    });
    assert_eq!(keys.unwrap(), KEYS);
}

#[test]
fn sim_strict_quorums_keep_every_acknowledged_write_while_a_node_dies_and_returns() {
    let (_, Ledger { operations, failures, .. }) = over_seeds(Trouble::None);
    println!("failures={failures}");
    assert!(failures < operations / 4, "{failures} of {operations} operations failed");
}

#[test]
fn sim_damaged_records_are_never_served_and_are_mended_without_losing_an_acknowledged_write() {
    let (seeds, Ledger { operations, failures, damaged, .. }) = over_seeds(Trouble::Rot);
    println!("failures={failures} damaged={damaged}");
    assert!(damaged >= seeds, "only {damaged} records were damaged");
    assert!(failures < operations / 3, "{failures} of {operations} operations failed");
}

#[test]
fn sim_damaged_records_that_cannot_be_mended_take_no_other_key_its_repair() {
    /// More than the repairs that are under way at once.
    const DAMAGED: u64 = 300;
    story(async {
        let size = SimSize { hints: 0, ..SimSize::default() };
        let mut cluster = SimCluster::sized(NODES, 5, size).await?;
        cluster.create_namespace(strict("things")).await?;
        for key in 0..=DAMAGED {
            let coordinator = cluster.coordinator(0).unwrap();
            coordinator.put(put(key, "old".to_owned(), Bytes::new())).await?;
        }
        cluster.kill(1);
        let coordinator = cluster.coordinator(0).unwrap();
        let read = coordinator.get(get(DAMAGED, None, Repair::Async)).await?;
        let context = read.context.unwrap();
        coordinator.put(put(DAMAGED, "new".to_owned(), context)).await?;
        cluster.restart(1)?;
        cluster.kill(2);
        tokio::time::sleep(Duration::from_secs(1)).await;
        // None can be mended while another owner is away, and all of them are left alone for a while.
        for key in 0..DAMAGED {
            let key = Key::new(format!("key-{key}")).unwrap();
            assert!(cluster.damage(0, "things", &key)?);
        }
        let reads = (0..DAMAGED).map(|key| coordinator.get(get(key, None, Repair::Async)));
        assert!(join_all(reads).await.iter().all(Result::is_err));
        // A stale owner of a sound key is repaired meanwhile.
        coordinator.get(get(DAMAGED, None, Repair::Async)).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let alone = Get { replica: Some(node(1)), ..get(DAMAGED, None, Repair::Async) };
        let object = coordinator.get(alone).await?.object;
        assert_eq!(object.siblings()[0].payload, "new");
        Ok(())
    })
    .unwrap();
}

#[test]
fn sim_reads_scans_and_writes_get_over_a_damaged_record_and_mend_it() {
    story(async {
        let cluster = SimCluster::start(NODES, 5).await?;
        cluster.create_namespace(strict("things")).await?;
        let coordinator = cluster.coordinator(0).unwrap();
        let key = Key::new("key-1").unwrap();
        for number in 0..KEYS {
            coordinator.put(put(number, format!("value-{number}"), Bytes::new())).await?;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;

        // All owners were asked for: the read fails, and says which record is damaged; then it is mended.
        assert!(cluster.damage(0, "things", &key)?);
        let all = coordinator.get(get(1, Some(Level::All), Repair::Async)).await.unwrap_err();
        assert!(all.to_string().contains("node-0 has a damaged record"), "{all}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let all = coordinator.get(get(1, Some(Level::All), Repair::Async)).await?;
        assert_eq!((all.replicas, &all.object.siblings()[0].payload[..]), (3, &b"value-1"[..]));

        // A scan lists the key, though one of two owners can say nothing of it.
        assert!(cluster.damage(0, "things", &key)?);
        let scan = ScanRequest {
            namespace: "things".to_owned(),
            prefix: Bytes::new(),
            r: None,
            timeout: Duration::from_secs(2),
        };
        let mut next = Some(coordinator.scan_from(&scan, Bytes::new()).await?);
        let mut found = 0;
        while let Some(cursor) = next {
            let part = coordinator.scan(&scan, cursor).await?;
            found += part.items.len() as u64;
            next = part.next;
        }
        assert_eq!(found, KEYS);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!cluster.is_damaged(0, "things", &key)?, "the scan mended it");

        // A write by way of the damaged owner mends it first, if every other owner can be asked.
        assert!(cluster.damage(0, "things", &key)?);
        cluster.cut(0, 2);
        let refused = coordinator.put(put(1, "late".to_owned(), Bytes::new())).await.unwrap_err();
        assert_eq!(refused.outcome, Outcome::NotApplied, "{refused}");
        assert!(refused.to_string().contains("node-2"), "{refused}");
        assert!(
            cluster.is_damaged(0, "things", &key)?,
            "what node-2 alone holds is not overwritten"
        );
        let by_another = cluster.coordinator(1).unwrap();
        by_another.put(put(1, "beside".to_owned(), Bytes::new())).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        by_another.get(get(1, Some(Level::All), Repair::Async)).await.ok();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(!cluster.is_damaged(0, "things", &key)?, "who can ask all others mends it");
        let alone =
            Get { replica: Some(quorate_tests::sim::node(0)), ..get(1, None, Repair::Async) };
        let held = by_another.get(alone).await?.object;
        let values: Vec<_> = held.siblings().iter().map(|entry| entry.payload.clone()).collect();
        assert_eq!(values.len(), 2, "what was there and what was put beside it: {values:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn sim_lost_stores_are_rebuilt_and_no_read_misses_an_acknowledged_write_meanwhile() {
    let (seeds, Ledger { operations, failures, lost, .. }) = over_seeds(Trouble::Loss);
    println!("failures={failures} stores_lost={lost}");
    assert!(lost * 2 > seeds, "only {lost} stores were lost");
    assert!(failures < operations / 2, "{failures} of {operations} operations failed");
}

#[test]
fn sim_a_new_store_is_silent_until_every_other_owner_told_what_it_holds() {
    story(async {
        let mut cluster = SimCluster::start(NODES, 6).await?;
        cluster.create_namespace(strict("things")).await?;
        // Acknowledged by 0 and 1 alone.
        cluster.kill(2);
        let zero = cluster.coordinator(0).unwrap();
        zero.put(put(1, "acknowledged".to_owned(), Bytes::new())).await?;
        drop(zero);
        cluster.restart(2)?;
        cluster.kill(1);
        cluster.rebuild(0).await?;
        tokio::time::sleep(Duration::from_secs(30)).await;

        // Two of three owners are there, and neither has the write: that is no "not found".
        for index in [0, 2] {
            let refused =
                cluster.coordinator(index).unwrap().get(get(1, None, Repair::Async)).await;
            let refused = refused.unwrap_err().to_string();
            assert!(
                refused.contains("node-0 does not count while it is being rebuilt"),
                "{refused}"
            );
        }
        let scan = ScanRequest {
            namespace: "things".to_owned(),
            prefix: Bytes::new(),
            r: None,
            timeout: Duration::from_secs(2),
        };
        let two = cluster.coordinator(2).unwrap();
        let from = two.scan_from(&scan, Bytes::new()).await?;
        let refused = two.scan(&scan, from).await.unwrap_err().to_string();
        assert!(refused.contains("being rebuilt"), "{refused}");
        let progress = cluster.rebuilding(0).unwrap();
        assert_eq!((progress.complete, &*progress.waiting_for), (0, "node-1"));
        // It takes writes, and their acknowledgements count.
        two.put(put(2, "new".to_owned(), Bytes::new())).await?;
        // Alone, it cannot even say "not found" to whoever asks for one owner.
        cluster.kill(2);
        let zero = cluster.coordinator(0).unwrap();
        let refused = zero.get(get(3, Some(Level::One), Repair::Async)).await.unwrap_err();
        assert!(refused.to_string().contains("being rebuilt"), "{refused}");
        drop((zero, two));

        // A restart goes on; the last owner to return makes it whole.
        cluster.kill(0);
        cluster.restart(0)?;
        cluster.restart(1)?;
        cluster.restart(2)?;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(cluster.rebuilding(0), None);
        cluster.kill(1);
        for index in [0, 2] {
            let coordinator = cluster.coordinator(index).unwrap();
            let found = coordinator.get(get(1, None, Repair::Async)).await?;
            assert_eq!(&found.object.siblings()[0].payload[..], b"acknowledged");
        }
        Ok(())
    })
    .unwrap();
}

/// The new store's first document may be older than a namespace in which the lost one had writes.
#[test]
fn sim_a_new_store_hears_of_every_namespace_before_it_counts() {
    const SEEDS: u64 = 20;
    const WRITES: u64 = 64;
    let run = |seed| {
        println!("QUORATE_SEED={seed}");
        simulate(async {
            let mut cluster = SimCluster::start(NODES, seed).await?;
            cluster.create_namespace(strict("earlier")).await?;
            let old = cluster.document(0)?;
            // Known to 0 and 1 alone, as its writes are.
            cluster.kill(2);
            cluster.create_namespace(strict("things")).await?;
            let zero = cluster.coordinator(0).unwrap();
            for number in 0..WRITES {
                zero.put(put(number, "acknowledged".to_owned(), Bytes::new())).await?;
            }
            drop(zero);
            cluster.restart(2)?;
            cluster.set_faults(Faults { latency_ms: 1..=40, ..Faults::default() });
            cluster.rebuild_with(0, old).await?;
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(cluster.rebuilding(0), None);
            cluster.kill(1);
            let zero = cluster.coordinator(0).unwrap();
            for number in 0..WRITES {
                let found = zero.get(get(number, None, Repair::Async)).await?.object;
                assert_eq!(found.siblings().len(), 1, "key-{number} was acknowledged");
            }
            Ok(())
        })
    };
    counted(SEEDS, || (0..SEEDS).try_for_each(run)).unwrap();
}

#[test]
fn sim_what_a_killed_process_was_given_is_on_disk_soon_after_the_next_one_starts() {
    let found = story(async {
        // A voter syncs its votes after each opening, and with them whatever else there is.
        let size = SimSize { voters: 1, ..SimSize::default() };
        let (mut cluster, mut rng) = (SimCluster::sized(NODES, 9, size).await?, workload_rng(9));
        cluster.create_namespace(strict("things")).await?;
        let zero = cluster.coordinator(0).unwrap();
        for key in 0..KEYS {
            let all = Some(Level::All);
            zero.put(Put { w: all, ..put(key, "buffered".to_owned(), Bytes::new()) }).await?;
        }
        drop(zero);
        for index in 0..NODES {
            cluster.kill(index);
            cluster.restart(index)?;
        }
        // Nothing is written meanwhile.
        tokio::time::sleep(Duration::from_millis(500)).await;
        for index in 0..NODES {
            cluster.cut_power(index, &mut rng);
            cluster.restart(index)?;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (mut found, one) = (0, cluster.coordinator(1).unwrap());
        for key in 0..KEYS {
            let here = Get { replica: Some(node(1)), ..get(key, None, Repair::Async) };
            found += one.get(here).await?.object.siblings().len() as u64;
        }
        Ok(found)
    });
    assert_eq!(found.unwrap(), KEYS);
}
