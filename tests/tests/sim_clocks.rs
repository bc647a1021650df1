//! Clocks that are off, and the `lww` namespaces whose writes they order.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use quorate_node::coordinator::{Get, Put, PutBatch, PutEntry, PutRules, ReadAnswer};
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::metadata::document::{Conflict, NewNamespace};
use quorate_node::dynamo::operation::{Change, Opening, OperationId};
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_node::error::{Outcome, RequestError, WriteError};
use quorate_node::transport::WriteResult;
use quorate_tests::sim::story::{counted, story};
use quorate_tests::sim::{SimCluster, SimSize, node, seeds, simulate, strict, workload_rng};
use rand::RngExt as _;

const NODES: usize = 3;
const TEN_MINUTES_MS: i64 = 600_000;

async fn started(seed: u64) -> Result<SimCluster> {
    started_with(NODES, seed).await
}

/// The same, of nodes that keep nothing for those that are away, and do not look what they missed: a write
/// that one missed is news to it.
async fn without_repair(seed: u64) -> Result<SimCluster> {
    let never = Duration::from_secs(86_400);
    let size = SimSize {
        hints: 0,
        exchange_every: never,
        trees_every: never,
        scrub_every: never,
        ..SimSize::default()
    };
    let cluster = SimCluster::sized(NODES, seed, size).await?;
    prepare(&cluster, NODES).await?;
    Ok(cluster)
}

/// Nodes that all own all keys.
async fn started_with(nodes: usize, seed: u64) -> Result<SimCluster> {
    let cluster = SimCluster::start(nodes, seed).await?;
    prepare(&cluster, nodes).await?;
    Ok(cluster)
}

async fn prepare(cluster: &SimCluster, nodes: usize) -> Result<()> {
    let (n, conflict) = (nodes as u8, Conflict::Lww);
    let things = NewNamespace { n, conflict, ..strict("things") };
    cluster.create_namespace(things).await?;
    let siblings = NewNamespace { n: n.min(3), ..strict("siblings") };
    cluster.create_namespace(siblings).await?;
    // Every node has heard the others' clocks by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(())
}

async fn put(
    cluster: &SimCluster,
    at: usize,
    value: &str,
    context: Bytes,
) -> Result<WriteResult, WriteError> {
    put_into(cluster, at, "things", value, context).await
}

async fn put_into(
    cluster: &SimCluster,
    at: usize,
    namespace: &str,
    value: &str,
    context: Bytes,
) -> Result<WriteResult, WriteError> {
    cluster.coordinator(at).unwrap().put(write(namespace, value, context)).await
}

/// A blind write for which the coordinator's own ack is enough.
async fn put_alone(cluster: &SimCluster, at: usize) -> Result<WriteResult, WriteError> {
    let alone = Put { w: Some(Level::One), ..write("things", "alone", Bytes::new()) };
    cluster.coordinator(at).unwrap().put(alone).await
}

fn write(namespace: &str, value: &str, context: Bytes) -> Put {
    Put {
        sloppy: None,
        namespace: namespace.to_owned(),
        key: Key::new("key").unwrap(),
        change: Change::put(Bytes::copy_from_slice(value.as_bytes())),
        context,
        w: None,
        durability: None,
        operation: None,
        at_least_once: false,
        fresh: true,
        timeout: Duration::from_secs(2),
    }
}

/// Blind writes of the one key, in one batch.
async fn put_batch(
    cluster: &SimCluster,
    at: usize,
    values: [&'static str; 2],
) -> Result<Vec<Result<WriteResult, WriteError>>, RequestError> {
    let entry = |value: &'static str| {
        let (key, value) = (Key::new("key").unwrap(), Bytes::from_static(value.as_bytes()));
        let change = Change::put(value);
        Ok(PutEntry { key, change, context: Bytes::new(), operation: None, fresh: true })
    };
    let batch = PutBatch {
        namespace: "things".to_owned(),
        entries: values.into_iter().map(entry).collect(),
        rules: PutRules { w: None, durability: None, sloppy: None, at_least_once: false },
        timeout: Duration::from_secs(2),
    };
    cluster.coordinator(at).unwrap().put_batch(batch).await
}

async fn get(cluster: &SimCluster, at: usize) -> Result<ReadAnswer, RequestError> {
    let get = Get {
        sloppy: None,
        namespace: "things".to_owned(),
        key: Key::new("key").unwrap(),
        r: None,
        repair: Repair::Async,
        replica: None,
        timeout: Duration::from_secs(2),
    };
    cluster.coordinator(at).unwrap().get(get).await
}

fn values(answer: &ReadAnswer) -> Vec<&[u8]> {
    answer.object.siblings().into_iter().map(|entry| &entry.payload[..]).collect()
}

/// What a refused write says of the clock.
fn skew(refused: Result<WriteResult, WriteError>) -> i64 {
    match refused.unwrap_err() {
        WriteError { error: RequestError::ClockSkew { what, ahead_ms, max_ms }, outcome } => {
            assert_eq!((what.as_str(), max_ms), ("the clock of node-1", 500));
            assert_eq!(outcome, Outcome::NotApplied);
            ahead_ms
        }
        other => panic!("refused for another reason: {other}"),
    }
}

#[test]
fn sim_the_writes_of_a_batch_are_ordered_and_refused_as_single_ones() {
    story(async {
        let mut cluster = started(11).await?;
        for off in [TEN_MINUTES_MS, -TEN_MINUTES_MS] {
            cluster.set_clock(1, off);
            let outcomes = put_batch(&cluster, 1, ["refused", "refused too"]).await?;
            assert_eq!(outcomes.len(), 2);
            for refused in outcomes {
                let ahead_ms = skew(refused);
                assert!((ahead_ms - off).abs() < 50, "{ahead_ms} is not about {off}");
            }
            for taken in put_batch(&cluster, 0, ["first", "last"]).await? {
                assert_eq!(taken?.siblings, 1, "a batch keeps one value of an lww key");
            }
            assert_eq!(values(&get(&cluster, 2).await?), [b"last"]);
            cluster.set_clock(1, 0);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn sim_a_node_whose_clock_is_ten_minutes_off_coordinates_no_lww_write() {
    story(async {
        let mut cluster = started(1).await?;
        for off in [TEN_MINUTES_MS, -TEN_MINUTES_MS] {
            cluster.set_clock(1, off);
            // At once, before anybody was asked again, and after.
            for pause in [0, 3_000] {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let ahead_ms = skew(put(&cluster, 1, "refused", Bytes::new()).await);
                assert!((ahead_ms - off).abs() < 50, "{ahead_ms} is not about {off}");
            }
            for at in [0, 2] {
                put(&cluster, at, "taken", Bytes::new()).await?;
            }
            put_into(&cluster, 1, "siblings", "taken", Bytes::new()).await?;
            assert_eq!(values(&get(&cluster, 1).await?), [b"taken"], "it reads all the same");
            cluster.set_clock(1, 0);
            put(&cluster, 1, "taken again", Bytes::new()).await?;
        }
        // A process that starts under a wrong clock was never right, and finds out.
        cluster.kill(1);
        cluster.set_clock(1, TEN_MINUTES_MS);
        cluster.restart(1)?;
        let early = put(&cluster, 1, "refused", Bytes::new()).await.unwrap_err();
        assert_eq!((early.error.kind(), early.outcome), ("clock_uncertain", Outcome::NotApplied));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(skew(put(&cluster, 1, "refused", Bytes::new()).await) > 0);
        assert_eq!(values(&get(&cluster, 0).await?), [b"taken again"]);
        Ok(())
    })
    .unwrap();
}

/// One client reads and replaces, at a random node each time, while the clocks are set at random
/// within the bound: every read shows what was written last.
#[test]
fn sim_within_the_bound_a_write_never_loses_to_what_its_client_had_read() {
    let seeds = seeds::seeds(20);
    let count = seeds.end - seeds.start;
    let run = |seed| {
        eprintln!("QUORATE_SEED={seed}");
        simulate(async {
            let (mut cluster, mut rng) = (started(seed).await?, workload_rng(seed));
            put(&cluster, 0, "value-0", Bytes::new()).await?;
            for step in 1..40 {
                cluster.set_clock(rng.random_range(0..NODES), rng.random_range(-200..=200));
                let read = get(&cluster, rng.random_range(0..NODES)).await?;
                assert_eq!(values(&read), [format!("value-{}", step - 1).as_bytes()]);
                let context = read.context.clone().unwrap();
                let at = rng.random_range(0..NODES);
                put(&cluster, at, &format!("value-{step}"), context).await?;
            }
            Ok(())
        })
    };
    counted(count, || seeds.into_iter().try_for_each(run)).unwrap();
}

/// All clocks were wrong together, so nobody could notice; then they are set right. Node 1, which
/// was away, writes below what they wrote: it hears so, and what a read shows it lifts it above.
#[test]
fn sim_a_key_written_in_the_future_refuses_to_lose_writes_silently() {
    story(async {
        let mut cluster = without_repair(5).await?;
        (0..NODES).for_each(|at| cluster.set_clock(at, TEN_MINUTES_MS));
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.kill(1);
        put(&cluster, 0, "future", Bytes::new()).await?;
        (0..NODES).for_each(|at| cluster.set_clock(at, 0));
        cluster.restart(1)?;
        tokio::time::sleep(Duration::from_secs(10)).await;

        let hidden = put(&cluster, 1, "hidden", Bytes::new()).await.unwrap_err();
        assert!(matches!(hidden.outcome, Outcome::Unknown(_)), "{hidden}");
        assert!(hidden.to_string().contains("holds a write that lies in the future"), "{hidden}");
        let read = get(&cluster, 1).await?;
        assert_eq!(values(&read), [b"future"]);
        put(&cluster, 1, "above", read.context.unwrap()).await?;
        assert_eq!(values(&get(&cluster, 2).await?), [b"above"]);
        put(&cluster, 0, "blind, where the key is known", Bytes::new()).await?;
        assert_eq!(values(&get(&cluster, 1).await?), [b"blind, where the key is known"]);
        Ok(())
    })
    .unwrap();
}

/// The same, but one of those that wrote in the future has its clock wrong still: to it that is the
/// present, and its ack would be the second one.
#[test]
fn sim_a_node_whose_clock_is_wrong_does_not_vouch_for_the_future() {
    story(async {
        let mut cluster = without_repair(6).await?;
        (0..NODES).for_each(|at| cluster.set_clock(at, TEN_MINUTES_MS));
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.kill(1);
        put(&cluster, 0, "future", Bytes::new()).await?;
        (1..NODES).for_each(|at| cluster.set_clock(at, 0));
        cluster.restart(1)?;
        tokio::time::sleep(Duration::from_secs(10)).await;

        let hidden = put(&cluster, 1, "hidden", Bytes::new()).await.unwrap_err();
        assert!(matches!(hidden.outcome, Outcome::Unknown(_)), "{hidden}");
        let read = get(&cluster, 1).await?;
        assert_eq!(values(&read), [b"future"]);
        put(&cluster, 1, "above", read.context.unwrap()).await?;
        assert_eq!(values(&get(&cluster, 2).await?), [b"above"]);
        Ok(())
    })
    .unwrap();
}

/// The clock is looked at where the write is stamped, not only before it waits for its turn; and a
/// delete is a write.
#[test]
fn sim_a_clock_that_is_set_while_a_write_waits_stamps_nothing() {
    story(async {
        let size = SimSize { request_cost: Duration::from_millis(100), ..SimSize::default() };
        let mut cluster = SimCluster::sized(NODES, 7, size).await?;
        prepare(&cluster, NODES).await?;
        let before = put(&cluster, 0, "before", Bytes::new()).await?;
        for change in [Change::put("far"), Change::Delete] {
            let coordinator = cluster.coordinator(1).unwrap();
            let far = Put { change, ..write("things", "", before.context.clone().unwrap()) };
            let waiting = tokio::spawn(async move { coordinator.put(far).await });
            tokio::time::sleep(Duration::from_millis(50)).await;
            cluster.set_clock(1, TEN_MINUTES_MS);
            let refused = waiting.await?.unwrap_err();
            assert_eq!(
                (refused.error.kind(), refused.outcome),
                ("clock_skew", Outcome::NotApplied)
            );
            cluster.set_clock(1, 0);
        }
        put(&cluster, 0, "after", Bytes::new()).await?;
        assert_eq!(values(&get(&cluster, 1).await?), [b"after"]);
        Ok(())
    })
    .unwrap();
}

/// A machine that stood still for ten minutes, its clocks too, writes before it has asked the others:
/// its write seems older than one that was acknowledged before it began.
#[test]
fn sim_a_machine_that_stood_still_does_not_lose_what_it_acknowledges() {
    story(async {
        let mut cluster = started(8).await?;
        // Its ten minutes are no time at all: for the others all of it passes.
        [0, 2].into_iter().for_each(|at| cluster.cut(at, 1));
        [0, 2].into_iter().for_each(|at| cluster.set_clock(at, TEN_MINUTES_MS));
        tokio::time::sleep(Duration::from_millis(200)).await;
        put(&cluster, 0, "one", Bytes::new()).await?;
        [0, 2].into_iter().for_each(|at| cluster.reconnect(at, 1));
        let stale = put(&cluster, 1, "two", Bytes::new()).await.unwrap_err();
        assert!(matches!(stale.outcome, Outcome::Unknown(_)), "{stale}");
        assert!(stale.to_string().contains("by clocks that differ"), "{stale}");
        // Both others say so: to ask again would be in vain.
        assert!(matches!(stale.error, RequestError::ClockUncertain { lasts: true, .. }));
        let read = get(&cluster, 1).await?;
        assert_eq!(values(&read), [b"one"]);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(skew(put(&cluster, 1, "refused", read.context.unwrap()).await) < 0);
        Ok(())
    })
    .unwrap();
}

/// Nobody is there to compare with, so there is no reason to refuse what one ack is enough for. But a
/// node that has just started waits for the others to connect.
#[test]
fn sim_a_node_that_nobody_else_is_there_to_doubt_takes_writes() {
    story(async {
        let mut cluster = started(21).await?;
        cluster.kill(1);
        cluster.kill(2);
        put_alone(&cluster, 0).await?;
        cluster.kill(0);
        cluster.restart(0)?;
        let early = put_alone(&cluster, 0).await.unwrap_err();
        assert_eq!((early.error.kind(), early.outcome), ("clock_uncertain", Outcome::NotApplied));
        tokio::time::sleep(Duration::from_secs(3)).await;
        put_alone(&cluster, 0).await?;

        // Another one comes back, and with it the truth.
        cluster.set_clock(0, TEN_MINUTES_MS);
        put_alone(&cluster, 0).await?;
        cluster.restart(1)?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let refused = put_alone(&cluster, 0).await.unwrap_err();
        assert_eq!((refused.error.kind(), refused.outcome), ("clock_skew", Outcome::NotApplied));
        Ok(())
    })
    .unwrap();
}

/// Being left alone does not make a clock right that was known to be off; setting it does, and so does
/// time, since the others may have been set right meanwhile.
#[test]
fn sim_what_others_told_counts_for_a_while_after_they_are_gone() {
    story(async {
        let mut cluster = started(22).await?;
        cluster.set_clock(1, TEN_MINUTES_MS);
        cluster.kill(0);
        cluster.kill(2);
        for minutes in [0, 4, 4] {
            tokio::time::sleep(Duration::from_secs(60 * minutes)).await;
            assert!(skew(put_alone(&cluster, 1).await) > 0);
            cluster.set_clock(1, 0);
            put_alone(&cluster, 1).await?;
            cluster.set_clock(1, TEN_MINUTES_MS);
        }
        assert!(skew(put_alone(&cluster, 1).await) > 0);
        tokio::time::sleep(Duration::from_secs(60 * 3)).await;
        put_alone(&cluster, 1).await?;
        Ok(())
    })
    .unwrap();
}

/// Two of five: they take writes while they agree, and refuse them, both, when they do not, since
/// nobody knows which of them is right; a third one tells.
#[test]
fn sim_a_minority_goes_by_what_it_knows() {
    story(async {
        let mut cluster = started_with(5, 23).await?;
        (0..5).for_each(|at| cluster.kill(at));
        (0..2).try_for_each(|at| cluster.restart(at))?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        for at in 0..2 {
            put_alone(&cluster, at).await?;
        }
        cluster.set_clock(1, -TEN_MINUTES_MS);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(skew(put_alone(&cluster, 1).await) < 0);
        let right = put_alone(&cluster, 0).await.unwrap_err();
        assert_eq!((right.error.kind(), right.outcome), ("clock_skew", Outcome::NotApplied));
        cluster.restart(2)?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        put_alone(&cluster, 0).await?;
        assert!(skew(put_alone(&cluster, 1).await) < 0);
        Ok(())
    })
    .unwrap();
}

/// Whichever rule a namespace has, an id is known for an hour: a clock that jumps ahead meanwhile,
/// and is set right, has nothing forgotten and nothing applied anew; of a node that others tell, and
/// of one that is alone.
#[test]
fn sim_a_clock_that_jumps_ahead_has_no_operation_forgotten() {
    const THREE_HOURS_MS: i64 = 3 * 3_600_000;
    let jump = |(nodes, namespace)| {
        simulate(async move {
            let mut cluster = started_with(nodes, 31).await?;
            let coordinator = cluster.coordinator(0).unwrap();
            let operation = Some(OperationId {
                issued_ms: cluster.now_ms(),
                coordinator: coordinator.node(),
                opening: coordinator.opening(),
                client: 7,
                sequence: 1,
            });
            let first = Put { operation, ..write(namespace, "first", Bytes::new()) };
            let again = Put { fresh: false, ..first.clone() };
            let written = coordinator.put(first).await?;
            cluster.set_clock(0, THREE_HOURS_MS);
            tokio::time::sleep(Duration::from_secs(11 * 60)).await;
            cluster.set_clock(0, 0);
            tokio::time::sleep(Duration::from_secs(3)).await;
            let asked = coordinator.put(again).await?;
            assert_eq!(asked.dot, written.dot, "{nodes} nodes, {namespace}");
            Ok(())
        })
    };
    let clusters = [(1, "things"), (3, "siblings"), (3, "things")];
    counted(1, || clusters.into_iter().try_for_each(jump)).unwrap();
}

/// A clock that was wrong for longer than the hour tells nothing of how old other nodes' ids are.
#[test]
fn sim_a_node_whose_clock_is_off_forgets_no_young_operation() {
    story(async {
        let mut cluster = started(32).await?;
        cluster.set_clock(0, 3 * 3_600_000);
        tokio::time::sleep(Duration::from_secs(75 * 60)).await;
        let coordinator = cluster.coordinator(2).unwrap();
        let operation = Some(OperationId {
            issued_ms: cluster.now_ms(),
            coordinator: coordinator.node(),
            opening: coordinator.opening(),
            client: 7,
            sequence: 1,
        });
        let first =
            Put { operation, w: Some(Level::All), ..write("things", "first", Bytes::new()) };
        let written = coordinator.put(first.clone()).await?;
        tokio::time::sleep(Duration::from_secs(11 * 60)).await;
        cluster.set_clock(0, 0);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let again = Put { fresh: false, at_least_once: true, ..first };
        let copy = cluster.coordinator(0).unwrap().put(again).await?;
        assert_eq!(copy.dot, written.dot);
        Ok(())
    })
    .unwrap();
}

/// Who learnt a node's clock before it was set takes a new id, instead of being in doubt; and of an id
/// that a node made up, its clock matters to nobody.
#[test]
fn sim_a_clock_that_was_wrong_leaves_no_client_in_doubt() {
    story(async {
        let mut cluster = started_with(4, 33).await?;
        for namespace in ["things", "siblings"] {
            let key = Key::new("key").unwrap();
            let owners = cluster.owners(namespace, &key)?;
            let owner = (0..4).find(|&at| owners[0] == node(at)).unwrap();
            let coordinator = cluster.coordinator(owner).unwrap();
            for issued_ms in [cluster.now_ms() + 3 * 3_600_000, cluster.now_ms() - 3 * 3_600_000] {
                let (coordinator, opening) = (coordinator.node(), coordinator.opening());
                let id = OperationId { issued_ms, coordinator, opening, client: 7, sequence: 1 };
                let first = Put { operation: Some(id), ..write(namespace, "x", Bytes::new()) };
                let refused = cluster.coordinator(owner).unwrap().put(first).await.unwrap_err();
                let (kind, outcome) = (refused.error.kind(), refused.outcome);
                assert_eq!((kind, outcome), ("operation_time", Outcome::NotApplied), "{namespace}");
                // Such an id a node alone makes up: it would be applied, whatever its time.
                let id = OperationId { opening: Opening(0), ..id };
                let first = Put { operation: Some(id), ..write(namespace, "x", Bytes::new()) };
                let at_least_once = true;
                for first in [first.clone(), Put { at_least_once, ..first }] {
                    let refused = cluster.coordinator(owner).unwrap().put(first).await.unwrap_err();
                    let (kind, outcome) = (refused.error.kind(), refused.outcome);
                    assert_eq!((kind, outcome), ("invalid", Outcome::NotApplied), "{namespace}");
                }
            }
            let Some(other) = (0..4).find(|&at| !owners.contains(&node(at))) else { continue };
            assert_eq!(namespace, "siblings", "all own the others");
            for ahead_ms in [3 * 3_600_000, -3 * 3_600_000] {
                cluster.set_clock(other, ahead_ms);
                put_into(&cluster, other, namespace, "forwarded", Bytes::new()).await?;
            }
            cluster.set_clock(other, 0);
        }
        Ok(())
    })
    .unwrap();
}
