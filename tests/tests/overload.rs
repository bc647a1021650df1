//! Three times what a cluster can take: it goes on answering nearly as much as it can.
//!
//! Real handlers, coordinators and shards in virtual time, where each request takes a shard so long;
//! so the capacity is known, and the load is *open*: it comes at its times, whatever the cluster does,
//! as that of many independent clients.
//!
//! ```text
//!   3 nodes x 2 shards x 100 requests/s = 600/s     a write is three requests: 200 writes/s
//! ```

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use prost::Message as _;
use quorate_node::coordinator::Get;
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_node::service::kv::KvService;
use quorate_proto::v1::error_detail::{Kind, Outcome};
use quorate_proto::v1::kv_server::Kv as _;
use quorate_proto::v1::{ErrorDetail, PutReply, PutRequest};
use quorate_tests::sim::story::{add, counted, story};
use quorate_tests::sim::{SimCluster, SimSize, simulate, strict};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Request, Response, Status};

const NODES: usize = 3;
const CAPACITY: u64 = 200;
const TIMEOUT: Duration = Duration::from_secs(1);
const MEMORY: u64 = 2 << 20;

/// Large enough to be counted in the node's memory.
const VALUE_BYTES: usize = 8 << 10;

fn size() -> SimSize {
    let request_cost = Duration::from_millis(10);
    SimSize { request_cost, timeout: TIMEOUT, memory: MEMORY, ..SimSize::default() }
}

/// What became of an open load.
#[derive(Default, Debug)]
struct Tally {
    /// Keys whose writes were acknowledged in time.
    acknowledged: Vec<u64>,
    /// Keys whose writes were certainly not applied.
    refused: Vec<u64>,
    /// Refusals that did not say when to come back.
    rude: u64,
    unknown: u64,
}

fn detail(status: &Status) -> ErrorDetail {
    let details = tonic_types::pb::Status::decode(status.details()).unwrap();
    ErrorDetail::decode(&*details.details[0].value).unwrap()
}

impl Tally {
    fn on_failure(&mut self, key: u64, status: &Status) {
        let detail = detail(status);
        match detail.outcome() {
            Outcome::NotApplied => self.refused.push(key),
            _ => self.unknown += 1,
        }
        if detail.kind() == Kind::Overloaded {
            assert_eq!(status.code(), Code::ResourceExhausted);
            self.rude += u64::from(detail.retry_after_ms == 0);
        }
    }
}

fn put(key: u64) -> Request<PutRequest> {
    Request::new(PutRequest {
        namespace: "things".to_owned(),
        key: format!("key-{key}").into(),
        value: Bytes::from(vec![key as u8; VALUE_BYTES]),
        timeout_ms: TIMEOUT.as_millis() as u32,
        ..PutRequest::default()
    })
}

/// Asks a node for a write, which counts.
async fn ask(node: &KvService, request: Request<PutRequest>) -> Result<Response<PutReply>, Status> {
    add(1);
    node.put(request).await
}

/// Offers `rate` writes a second for `seconds`, the first `warm_up` of which are not counted: until
/// then the nodes learn how much they can take.
async fn offer(nodes: &[KvService], rate: u64, warm_up: u64, seconds: u64) -> Tally {
    let started = Instant::now();
    let mut under_way = JoinSet::new();
    for n in 0..rate * (warm_up + seconds) {
        let due = started + Duration::from_secs_f64(n as f64 / rate as f64);
        sleep_until(due).await;
        let (node, key) = (nodes[n as usize % nodes.len()].clone(), rate * 1_000_000 + n);
        under_way.spawn(async move { (n, key, ask(&node, put(key)).await, due.elapsed()) });
    }
    let mut tally = Tally::default();
    while let Some(ended) = under_way.join_next().await {
        let (n, key, result, took) = ended.unwrap();
        if n < rate * warm_up {
            continue;
        }
        match result {
            Ok(_) if took <= TIMEOUT => tally.acknowledged.push(key),
            Ok(_) => tally.unknown += 1,
            Err(status) => tally.on_failure(key, &status),
        }
    }
    tally
}

async fn cluster(seed: u64) -> Result<SimCluster> {
    let cluster = SimCluster::sized(NODES, seed, size()).await?;
    cluster.create_namespace(strict("things")).await?;
    Ok(cluster)
}

fn services(cluster: &SimCluster) -> Vec<KvService> {
    (0..NODES).map(|index| cluster.service(index).unwrap()).collect()
}

/// What is there under a key, by all owners.
async fn holds(cluster: &SimCluster, key: u64) -> Result<bool> {
    let get = Get {
        sloppy: None,
        namespace: "things".to_owned(),
        key: Key::new(format!("key-{key}"))?,
        r: Some(Level::Quorum),
        repair: Repair::Async,
        replica: None,
        timeout: Duration::from_secs(10),
    };
    let answer = cluster.coordinator(0).unwrap().get(get).await?;
    Ok(!answer.object.is_empty())
}

#[test]
fn sim_three_times_the_load_leaves_most_of_the_peak_and_loses_nothing() {
    counted(4, three_times_the_load);
}

#[allow(clippy::print_stdout, reason = "a test says what it measured")]
fn three_times_the_load() {
    const SECONDS: u64 = 6;
    let mut peak = 0;
    for share in [60, 90, 110] {
        let goodput = simulate(async move {
            let cluster = cluster(share).await?;
            let tally = offer(&services(&cluster), CAPACITY * share / 100, 4, SECONDS).await;
            Ok(tally.acknowledged.len() as u64)
        });
        let goodput = goodput.unwrap();
        println!("offered {share} % of the capacity: {} writes/s in time", goodput / SECONDS);
        peak = peak.max(goodput);
    }
    assert!(peak > CAPACITY * SECONDS / 2, "the peak is what the shards can do: {peak}");

    simulate(async move {
        let cluster = cluster(7).await?;
        let tally = offer(&services(&cluster), 3 * CAPACITY, 10, SECONDS).await;
        let (good, refused) = (tally.acknowledged.len() as u64, tally.refused.len());
        println!(
            "offered 300 %: {} writes/s in time, {refused} refused, {} unknown",
            good / SECONDS,
            tally.unknown
        );
        assert!(good * 10 >= peak * 7, "{good} of a peak of {peak}: {tally:?}");
        assert_eq!(tally.rude, 0, "who is refused is told when to come back");
        assert!(refused as u64 > good, "what was over was refused, and not left to time out");
        for index in 0..NODES {
            let budget = cluster.budget(index).unwrap();
            assert!(budget.peak() <= MEMORY, "{} of {MEMORY} bytes", budget.peak());
            assert!(budget.peak() > VALUE_BYTES as u64, "it is counted at all");
        }
        // Writes are followed up until their time is over, and what owners missed goes home.
        tokio::time::sleep(Duration::from_secs(15)).await;
        for index in 0..NODES {
            assert_eq!(cluster.budget(index).unwrap().used(), 0, "everything is given back");
        }
        for &key in tally.acknowledged.iter().step_by(3) {
            assert!(holds(&cluster, key).await?, "the acknowledged write of key-{key} is lost");
        }
        for &key in tally.refused.iter().step_by(20) {
            assert!(!holds(&cluster, key).await?, "key-{key} was not applied, and is there");
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn sim_a_retry_that_is_refused_at_the_door_is_not_told_that_the_write_was_not_applied() {
    story(async {
        let cluster = cluster(3).await?;
        let (node, owner) = (cluster.service(0).unwrap(), quorate_tests::sim::node(0));
        let mut first = put(1).into_inner();
        first.operation_id = Some(quorate_proto::v1::OperationId {
            coordinator: owner.0,
            opening: cluster.coordinator(0).unwrap().opening().0,
            client: 9,
            sequence: 1,
            issued_ms: cluster.now_ms(),
        });
        first.fresh = true;
        ask(&node, Request::new(first.clone())).await?;

        let concurrency = cluster.concurrency(0).unwrap();
        let held: Vec<_> = std::iter::from_fn(|| concurrency.enter(TIMEOUT).ok()).collect();
        let retry = PutRequest { fresh: false, ..first.clone() };
        let refused = ask(&node, Request::new(retry.clone())).await.unwrap_err();
        assert_eq!(detail(&refused).kind(), Kind::Overloaded);
        assert_eq!(detail(&refused).outcome(), Outcome::Unknown, "it was applied all the while");
        assert_eq!(detail(&refused).operation_id, first.operation_id);

        // What was never sent before, or has no name of its client's, is certainly not applied.
        let mut fresh = PutRequest { fresh: true, key: "key-2".into(), ..first.clone() };
        fresh.operation_id.as_mut().unwrap().sequence = 2;
        for request in [fresh, put(3).into_inner()] {
            let refused = ask(&node, Request::new(request)).await.unwrap_err();
            assert_eq!(detail(&refused).outcome(), Outcome::NotApplied);
        }
        drop(held);
        let again = ask(&node, Request::new(retry)).await?.into_inner();
        assert_eq!(again.siblings, 1, "it is one write");
        Ok(())
    })
    .unwrap();
}

#[test]
fn sim_a_scan_that_nobody_reads_holds_no_place() {
    story(async {
        let cluster = cluster(5).await?;
        let node = cluster.service(0).unwrap();
        ask(&node, put(1)).await?;
        let scan =
            quorate_proto::v1::ScanRequest { namespace: "things".to_owned(), ..Default::default() };
        add(1);
        let idle = node.scan(Request::new(scan)).await?;
        let concurrency: Arc<_> = cluster.concurrency(0).unwrap();
        assert_eq!(concurrency.running(), 0);
        let pages: Vec<_> = futures::StreamExt::collect(idle.into_inner()).await;
        let keys: usize = pages.iter().map(|page| page.as_ref().unwrap().items.len()).sum();
        assert_eq!((keys, concurrency.running()), (1, 0));
        Ok(())
    })
    .unwrap();
}
