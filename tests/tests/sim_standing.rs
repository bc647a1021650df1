//! Standing of nodes that are started again: who counts toward R when, and what reads say until then.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use quorate_node::coordinator::{Get, Put, ScanRequest};
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::operation::Change;
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_node::dynamo::standing::Doubt;
use quorate_node::error::RequestError;
use quorate_tests::sim::story::story;
use quorate_tests::sim::{SimCluster, node, strict, workload_rng};
use tokio::time::{Instant, sleep};

const NODES: usize = 3;
const KEYS: u64 = 16;

/// What owners told each other in exchanges they have told by then, and what was written is on disk.
const SETTLED: Duration = Duration::from_secs(15);

async fn cluster(seed: u64) -> Result<SimCluster> {
    let cluster = SimCluster::start(NODES, seed).await?;
    cluster.create_namespace(strict("things")).await?;
    Ok(cluster)
}

fn key(number: u64) -> Key {
    Key::new(format!("key-{number}")).unwrap()
}

/// Writes every key by quorum.
async fn write(cluster: &SimCluster, at: usize, value: &str) {
    let coordinator = cluster.coordinator(at).unwrap();
    for number in 0..KEYS {
        let put = Put {
            sloppy: None,
            namespace: "things".to_owned(),
            key: key(number),
            change: Change::put(Bytes::copy_from_slice(value.as_bytes())),
            context: Bytes::new(),
            w: None,
            durability: None,
            operation: None,
            at_least_once: false,
            fresh: false,
            timeout: Duration::from_secs(2),
        };
        coordinator.put(put).await.unwrap();
    }
}

/// How many values of a key are read by way of a node.
async fn read(
    cluster: &SimCluster,
    at: usize,
    number: u64,
    r: Option<Level>,
) -> Result<usize, RequestError> {
    let get = Get {
        sloppy: None,
        namespace: "things".to_owned(),
        key: key(number),
        r,
        repair: Repair::Async,
        replica: None,
        timeout: Duration::from_secs(2),
    };
    let read = cluster.coordinator(at).unwrap().get(get).await?;
    Ok(read.object.siblings().len())
}

async fn read_all(cluster: &SimCluster, at: usize, values: usize) {
    for number in 0..KEYS {
        assert_eq!(read(cluster, at, number, None).await, Ok(values), "key-{number} at {at}");
    }
}

fn doubt(cluster: &SimCluster, index: usize) -> Option<(Doubt, String)> {
    cluster.catching_up(index).map(|told| (told.doubt, told.waiting_for))
}

#[test]
fn sim_a_new_cluster_counts_from_its_first_moment() {
    story(async {
        let cluster = cluster(1).await?;
        assert!((0..NODES).all(|index| cluster.catching_up(index).is_none()));
        read_all(&cluster, 0, 0).await;
        write(&cluster, 1, "first").await;
        read_all(&cluster, 2, 1).await;
        Ok(())
    })
    .unwrap();
}

/// With nothing missing, both count as soon as others were heard: an answer after a kill, all others after a
/// power cut.
#[test]
fn sim_a_node_that_is_back_counts_within_about_a_second() {
    story(async {
        let mut cluster = cluster(2).await?;
        write(&cluster, 0, "value").await;
        sleep(SETTLED).await;
        for power in [false, true] {
            match power {
                true => cluster.cut_power(1, &mut workload_rng(2)),
                false => cluster.kill(1),
            }
            sleep(SETTLED).await;
            cluster.restart(1)?;
            let started = Instant::now();
            assert!(cluster.catching_up(1).is_some(), "nobody vouches for it yet");
            cluster.until_believed(1).await?;
            let took = started.elapsed();
            assert!(took < Duration::from_millis(1_500), "after {took:?}, power cut: {power}");
            cluster.kill(2);
            read_all(&cluster, 0, 1).await;
            cluster.restart(2)?;
            cluster.until_believed(2).await?;
        }
        Ok(())
    })
    .unwrap();
}

/// The price: with one of three owners dead and another one back from a power cut, quorum reads refuse.
#[test]
fn sim_beside_a_dead_owner_one_that_lost_its_power_does_not_count() {
    story(async {
        let mut cluster = cluster(3).await?;
        write(&cluster, 0, "value").await;
        sleep(SETTLED).await;
        cluster.kill(2);
        cluster.cut_power(1, &mut workload_rng(3));
        cluster.restart(1)?;
        sleep(SETTLED).await;
        let waits = Some((Doubt::LostTail, "node-2".to_owned()));
        assert_eq!(doubt(&cluster, 1), waits);
        for at in [0, 1] {
            let refused = read(&cluster, at, 0, None).await.unwrap_err().to_string();
            assert!(refused.contains("node-1 does not count until it has caught up"), "{refused}");
            let scan = ScanRequest {
                namespace: "things".to_owned(),
                prefix: Bytes::new(),
                r: None,
                timeout: Duration::from_secs(2),
            };
            let coordinator = cluster.coordinator(at).unwrap();
            let from = coordinator.scan_from(&scan, Bytes::new()).await?;
            let refused = coordinator.scan(&scan, from).await.unwrap_err().to_string();
            assert!(refused.contains("does not count until it has caught up"), "{refused}");
        }
        assert_eq!(read(&cluster, 1, 0, Some(Level::One)).await, Ok(1), "node-0 is believed");
        write(&cluster, 1, "its acknowledgements count").await;

        // To kill it, or to close it in order, mends nothing; nor does to be asked alone.
        cluster.kill(1);
        cluster.restart(1)?;
        sleep(SETTLED).await;
        assert_eq!(doubt(&cluster, 1), waits);
        cluster.close(1).await?;
        cluster.restart(1)?;
        sleep(SETTLED).await;
        assert_eq!(doubt(&cluster, 1), waits);
        cluster.kill(0);
        let refused = read(&cluster, 1, 0, Some(Level::One)).await.unwrap_err().to_string();
        assert!(refused.contains("node-1 does not count until it has caught up"), "{refused}");

        cluster.restart(0)?;
        cluster.restart(2)?;
        cluster.until_believed(1).await?;
        cluster.until_believed(2).await?;
        cluster.kill(0);
        read_all(&cluster, 1, 2).await;
        Ok(())
    })
    .unwrap();
}

/// All of them may lack something: none is to wait for another one that is believed.
#[test]
fn sim_after_a_power_cut_of_all_nodes_all_count_again() {
    story(async {
        for seed in 4..8 {
            let mut cluster = cluster(seed).await?;
            write(&cluster, 0, "on disk").await;
            sleep(SETTLED).await;
            write(&cluster, 1, "in memory").await;
            let mut rng = workload_rng(seed);
            (0..NODES).for_each(|index| cluster.cut_power(index, &mut rng));
            for index in 0..NODES {
                cluster.restart(index)?;
            }
            for index in 0..NODES {
                cluster.until_believed(index).await?;
            }
            cluster.kill(seed as usize % NODES);
            let at = (seed as usize + 1) % NODES;
            for number in 0..KEYS {
                assert!(read(&cluster, at, number, None).await? >= 1, "key-{number} is lost");
            }
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn sim_what_was_closed_in_order_loses_nothing_in_a_power_cut() {
    story(async {
        let mut cluster = cluster(9).await?;
        cluster.kill(2);
        write(&cluster, 0, "value").await;
        cluster.close(1).await?;
        cluster.cut_power(1, &mut workload_rng(9));
        cluster.restart(1)?;
        assert_eq!(doubt(&cluster, 1).map(|(doubt, _)| doubt), Some(Doubt::Unasked));
        // One other owner is enough.
        cluster.until_believed(1).await?;
        read_all(&cluster, 0, 1).await;
        // That it was closed is true of that time alone.
        cluster.cut_power(1, &mut workload_rng(9));
        cluster.restart(1)?;
        assert_eq!(doubt(&cluster, 1).map(|(doubt, _)| doubt), Some(Doubt::LostTail));
        Ok(())
    })
    .unwrap();
}

#[test]
fn sim_an_older_copy_of_a_store_is_found_out() {
    story(async {
        let mut cluster = cluster(10).await?;
        write(&cluster, 0, "copied").await;
        sleep(SETTLED).await;
        assert!(cluster.copy(1)?);
        write(&cluster, 0, "later").await;
        sleep(SETTLED).await;
        cluster.kill(2);
        assert!(cluster.roll_back(1)?);
        sleep(SETTLED).await;
        // Nothing but the memory of another one speaks of it.
        assert_eq!(doubt(&cluster, 1), Some((Doubt::RolledBack, "node-2".to_owned())));
        let refused = read(&cluster, 0, 0, None).await.unwrap_err().to_string();
        assert!(refused.contains("node-1 does not count until it has caught up"), "{refused}");
        // It stays so, though by now it has all that node-0 remembered.
        cluster.kill(1);
        cluster.restart(1)?;
        sleep(SETTLED).await;
        assert_eq!(doubt(&cluster, 1), Some((Doubt::RolledBack, "node-2".to_owned())));
        cluster.restart(2)?;
        cluster.until_believed(1).await?;
        cluster.until_believed(2).await?;
        cluster.kill(0);
        read_all(&cluster, 1, 2).await;
        let found = Get {
            sloppy: None,
            namespace: "things".to_owned(),
            key: key(0),
            r: Some(Level::One),
            repair: Repair::Async,
            replica: Some(node(1)),
            timeout: Duration::from_secs(2),
        };
        let found = cluster.coordinator(1).unwrap().get(found).await?;
        assert_eq!(found.object.siblings().len(), 2, "what it had lost is back");
        Ok(())
    })
    .unwrap();
}
