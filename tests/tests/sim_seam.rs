//! The seam for simulation: three nodes of the real code on one thread, repeatable to the byte.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use quorate_node::coordinator::{Get, Put, ScanRequest};
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::metadata::document::NewNamespace;
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_node::error::Outcome;
use quorate_node::transport::memory::Faults;
use quorate_tests::sim::{SimCluster, simulate, workload_rng};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

const NODES: usize = 3;
const KEYS: u64 = 8;

fn put(key: u64, value: String, context: Bytes) -> Put {
    Put {
        namespace: "things".to_owned(),
        key: Key::new(format!("key-{key}")).unwrap(),
        value: Some(Bytes::from(value)),
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
}

struct Run {
    cluster: SimCluster,
    rng: ChaCha8Rng,
    ledger: Ledger,
    down: Option<usize>,
}

impl Run {
    async fn step(&mut self, step: u64) -> Result<()> {
        match self.rng.random_range(0..20) {
            0 if self.down.is_none() => {
                let index = self.rng.random_range(0..NODES);
                self.cluster.kill(index);
                self.cluster.note(format!("kill {index}"));
                self.down = Some(index);
            }
            1 | 2 => self.restart()?,
            3..12 => self.blind_write(step).await,
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
fn run(seed: u64, steps: u64, faults: Faults) -> Result<(Vec<String>, u64, u64)> {
    simulate(async move {
        let cluster = SimCluster::start(NODES, seed).await?;
        cluster.create_namespace(NewNamespace::named("things")).await?;
        cluster.set_faults(faults);
        let rng = workload_rng(seed);
        let mut run = Run { cluster, rng, ledger: Ledger::default(), down: None };
        for step in 0..steps {
            run.step(step).await?;
        }
        run.check_all().await?;
        let Ledger { operations, failures, .. } = run.ledger;
        Ok((run.cluster.trace(), operations, failures))
    })
}

fn bad_network() -> Faults {
    Faults { latency_ms: 1..=40, loss: 0.02, duplication: 0.1, ..Faults::default() }
}

#[test]
fn sim_the_same_seed_gives_the_same_trace_to_the_byte() {
    let (first, operations, _) = run(7, 120, bad_network()).unwrap();
    let (again, ..) = run(7, 120, bad_network()).unwrap();
    let difference = first.iter().zip(&again).position(|(x, y)| x != y);
    assert_eq!(difference, None, "{:?}", difference.map(|at| (&first[at], &again[at])));
    assert_eq!(first.len(), again.len());
    let (other, ..) = run(8, 120, bad_network()).unwrap();
    assert_ne!(first, other);
    println!("seeds=2 operations={operations} deliveries={}", first.len());
}

#[test]
fn sim_a_silent_owner_holds_up_neither_reads_nor_scans() {
    let keys = simulate(async {
        let cluster = SimCluster::start(NODES, 3).await?;
        cluster.create_namespace(NewNamespace::named("things")).await?;
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
    let seeds: u64 = std::env::var("QUORATE_SIM_SEEDS").map_or(20, |n| n.parse().unwrap());
    let (mut operations, mut failures) = (0, 0);
    for seed in 0..seeds {
        println!("QUORATE_SEED={seed}");
        let (_, done, failed) = run(seed, 150, bad_network()).unwrap();
        (operations, failures) = (operations + done, failures + failed);
    }
    assert!(failures < operations / 4, "{failures} of {operations} operations failed");
    println!("seeds={seeds} operations={operations} failures={failures}");
}
