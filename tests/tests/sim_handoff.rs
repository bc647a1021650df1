//! Hints go home: whole nodes, a simulated network, and a target that comes back.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use quorate_node::coordinator::{Get, Put};
use quorate_node::dynamo::key::{Key, NodeId};
use quorate_node::dynamo::metadata::document::NewNamespace;
use quorate_node::dynamo::operation::Change;
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_node::transport::memory::Faults;
use quorate_node::vnode::{Address, Merge};
use quorate_tests::sim::story::story;
use quorate_tests::sim::{SimCluster, SimSize, node};
use tokio::time::{Instant, sleep};

const NODES: usize = 3;

/// More than two messages hold.
const KEYS: u64 = 600;

/// Nodes 0 and 1 have all keys, which 2 has not heard of, and node 0 keeps them as hints for `target`.
async fn missed(size: SimSize, keys: u64, target: NodeId) -> Result<SimCluster> {
    let mut cluster = SimCluster::sized(NODES, 11, size).await?;
    cluster.create_namespace(NewNamespace::named("things")).await?;
    cluster.kill(2);
    for number in 0..keys {
        write(&cluster, number).await?;
        keep(&cluster, number, target).await?;
    }
    Ok(cluster)
}

fn key(number: u64) -> Key {
    Key::new(format!("key-{number}")).unwrap()
}

async fn write(cluster: &SimCluster, number: u64) -> Result<()> {
    let put = Put {
        sloppy: Some(false),
        namespace: "things".to_owned(),
        key: key(number),
        change: Change::put(format!("value-{number}")),
        context: Bytes::new(),
        w: Some(Level::Quorum),
        durability: None,
        operation: None,
        at_least_once: false,
        fresh: false,
        timeout: Duration::from_secs(60),
    };
    cluster.coordinator(0).unwrap().put(put).await?;
    Ok(())
}

/// Keeps what node 0 holds of a key as a hint there.
async fn keep(cluster: &SimCluster, number: u64, target: NodeId) -> Result<()> {
    let view = cluster.view()?;
    let namespace = view.namespace_named("things").context("it was made")?;
    let (key, conflict) = (key(number), namespace.conflict);
    let vnode = view.vnode(namespace, &key);
    let address = Address { vnode, namespace: namespace.id, key, conflict };
    let (zero, late) = (cluster.coordinator(0).unwrap(), Instant::now() + Duration::from_secs(60));
    let object = zero.shards().read(address.clone(), late).await?;
    zero.shards().hint(Merge::of_hint(address, object), target, true, late).await?;
    Ok(())
}

/// How many hints node 0 keeps.
fn kept(cluster: &SimCluster) -> u64 {
    let queues = cluster.coordinator(0).unwrap().shards().hint_queues();
    queues.iter().map(|queue| queue.count).sum()
}

/// Waits until so many hints are left, or fewer; looks often enough to see some of them on the way.
async fn until_left(cluster: &SimCluster, most: u64) -> u64 {
    for _ in 0..6000 {
        match kept(cluster) {
            left if left <= most => return left,
            _ => sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("{} hints are kept after a minute", kept(cluster));
}

/// Which keys node 2 holds, by its own word.
async fn held(cluster: &SimCluster, keys: u64) -> Result<u64> {
    let mut held = 0;
    for number in 0..keys {
        let get = Get {
            sloppy: None,
            namespace: "things".to_owned(),
            key: key(number),
            r: None,
            repair: Repair::Async,
            replica: Some(node(2)),
            timeout: Duration::from_secs(60),
        };
        let answer = cluster.coordinator(1).unwrap().get(get).await?;
        let siblings = answer.object.siblings();
        held += u64::from(siblings.len() == 1 && siblings[0].payload == format!("value-{number}"));
    }
    Ok(held)
}

fn handoffs(cluster: &SimCluster) -> usize {
    let is_one = |line: &&String| line.contains("node-0 -> node-2  handoff ");
    cluster.trace().iter().filter(is_one).count()
}

#[test]
fn sim_hints_go_home_when_their_target_is_back() {
    story(async {
        let mut cluster = missed(SimSize::default(), KEYS, node(2)).await?;
        sleep(Duration::from_secs(30)).await;
        assert_eq!((kept(&cluster), handoffs(&cluster)), (KEYS, 0), "nobody is there to get them");
        cluster.restart(2)?;
        until_left(&cluster, 0).await;
        // What was acknowledged is on disk.
        cluster.cut_power(2, &mut quorate_tests::sim::workload_rng(1));
        cluster.restart(2)?;
        assert_eq!(held(&cluster, KEYS).await?, KEYS);
        Ok(())
    })
    .unwrap();
}

/// The target dies in the middle, and then who keeps them.
async fn interrupted() -> Result<(Vec<u64>, u64, u64)> {
    let mut cluster = missed(SimSize::default(), KEYS, node(2)).await?;
    cluster.set_faults(Faults { latency_ms: 20..=60, loss: 0.02, ..Faults::default() });
    cluster.restart(2)?;
    let mut left = vec![until_left(&cluster, KEYS - 1).await];
    cluster.kill(2);
    sleep(Duration::from_secs(20)).await;
    left.push(kept(&cluster));
    cluster.restart(2)?;
    left.push(until_left(&cluster, kept(&cluster) - 1).await);
    cluster.kill(0);
    cluster.restart(0)?;
    left.push(kept(&cluster));
    until_left(&cluster, 0).await;
    cluster.set_faults(Faults::default());
    Ok((left, held(&cluster, KEYS).await?, cluster.fingerprint()))
}

#[test]
fn sim_handoff_goes_on_after_an_interruption_and_is_the_same_each_time() {
    let (left, held, fingerprint) = story(interrupted()).unwrap();
    assert!(left.iter().all(|&left| 0 < left && left < KEYS), "it was interrupted: {left:?}");
    assert_eq!(left[0], left[1], "while it is away nothing is delivered");
    assert_eq!(held, KEYS);
    assert_eq!(story(interrupted()).unwrap(), (left, held, fingerprint));
}

#[test]
fn sim_a_hint_for_a_damaged_record_holds_up_no_other_and_gets_home_once_it_is_mended() {
    const FEW: u64 = 20;
    story(async {
        let mut cluster = missed(SimSize::default(), FEW, node(2)).await?;
        cluster.restart(2)?;
        until_left(&cluster, 0).await;
        // Whoever has a damaged record takes nothing for it, and cannot mend it by itself.
        assert!(cluster.damage(2, "things", &key(0))?);
        cluster.kill(1);
        for number in 0..FEW {
            keep(&cluster, number, node(2)).await?;
        }
        until_left(&cluster, 1).await;
        sleep(Duration::from_secs(30)).await;
        assert_eq!(kept(&cluster), 1);
        // Once every other owner can be asked it is mended, though nobody reads the key.
        cluster.restart(1)?;
        until_left(&cluster, 0).await;
        assert_eq!(held(&cluster, FEW).await?, FEW);
        Ok(())
    })
    .unwrap();
}

#[test]
fn sim_hints_of_one_who_is_no_member_go_to_all_owners() {
    const FEW: u64 = 20;
    story(async {
        let mut cluster = missed(SimSize::default(), FEW, NodeId::of_name("gone")).await?;
        sleep(Duration::from_secs(30)).await;
        assert_eq!(kept(&cluster), 2 * FEW, "one owner is away, who is owed them too");
        cluster.restart(2)?;
        until_left(&cluster, 0).await;
        assert_eq!(held(&cluster, FEW).await?, FEW);
        Ok(())
    })
    .unwrap();
}

#[test]
fn sim_a_target_that_grants_nothing_is_not_flooded() {
    const FEW: u64 = 20;
    let size = SimSize { request_cost: Duration::from_millis(100), ..SimSize::default() };
    story(async {
        let mut cluster = missed(size, FEW, node(2)).await?;
        cluster.restart(2)?;
        let jam = jam(&cluster, Duration::from_secs(20))?;
        assert_eq!(kept(&cluster), FEW);
        let before = handoffs(&cluster);
        sleep(Duration::from_secs(20)).await;
        let asked = handoffs(&cluster) - before;
        assert!((2..40).contains(&asked), "it was asked for credit {asked} times");
        jam.abort();
        until_left(&cluster, 0).await;
        assert_eq!(held(&cluster, FEW).await?, FEW);
        Ok(())
    })
    .unwrap();
}

/// Keeps the queue of one of node 2's shards more than half full.
fn jam(cluster: &SimCluster, whole: Duration) -> Result<tokio::task::JoinHandle<()>> {
    let view = cluster.view()?;
    let namespace = view.namespace_named("things").context("it was made")?;
    let (id, key, conflict) = (namespace.id, key(0), namespace.conflict);
    let address = Address { vnode: view.vnode(namespace, &key), namespace: id, key, conflict };
    let shards = cluster.coordinator(2).unwrap().shards().clone();
    Ok(tokio::spawn(async move {
        let mut reads = tokio::task::JoinSet::new();
        loop {
            while shards.load().queued < 700 && reads.len() < 2000 {
                let (shards, address) = (shards.clone(), address.clone());
                reads.spawn(async move { shards.read(address, Instant::now() + whole).await });
                tokio::task::yield_now().await;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }))
}
