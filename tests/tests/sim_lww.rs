//! `lww` namespaces under a bad network, crashes and clocks: what was acknowledged is not lost.
//!
//! Of two writes one loses by design, so *lost* needs a meaning. Whatever stands in the end must have
//! been written no earlier than what was acknowledged, but for how far clocks may differ:
//!
//! ```text
//!   write A   |──────| acknowledged
//!   write B                            |────| acknowledged      A must not stand in the end
//!   write C                                |──── unknown ...    may stand, or not
//! ```
//!
//! Beside that every owner reflects each acknowledged write, a read shows it or what hides it, a
//! write that knew of another wins over it, and what was not applied never shows.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::future::join_all;
use quorate_node::coordinator::{Get, Put, ReadAnswer};
use quorate_node::dynamo::clock::Dot;
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::metadata::document::{Conflict, NewNamespace};
use quorate_node::dynamo::operation::{Change, OperationId};
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_node::error::{Outcome, RequestError, WriteError};
use quorate_node::transport::WriteResult;
use quorate_node::transport::memory::Faults;
use quorate_tests::sim::story::{counted, story};
use quorate_tests::sim::{SimCluster, node, seeds, simulate, strict, workload_rng};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

const NODES: usize = 3;
const KEYS: u64 = 3;
const TIMEOUT: Duration = Duration::from_secs(2);
const TEN_MINUTES_MS: i64 = 600_000;

/// How far the clocks of two nodes that take writes may differ: each is off by the bound at most, of
/// which it is certain but for half of a round trip.
const CLOCKS_DIFFER: Duration = Duration::from_millis(1_100);

/// A write as its client knows it.
#[derive(Clone, Debug)]
struct Record {
    put: Put,
    key: u64,
    at: usize,
    began: Instant,
    /// When its last answer came; whatever became of it had its time by then.
    ended: Instant,
    end: End,
    /// Its dot, once it was told or shown.
    dot: Option<Dot>,
    /// The last write that its context showed.
    shown: Option<Dot>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Acknowledged,
    NotApplied,
    Unknown,
}

impl Record {
    /// Its dot, if it was acknowledged.
    fn acknowledged(&self) -> Option<Dot> {
        self.dot.filter(|_| self.end == End::Acknowledged)
    }

    fn on_answer(&mut self, answer: &Result<WriteResult, WriteError>) {
        self.ended = Instant::now();
        if let Ok(written) = answer {
            let known = *self.dot.get_or_insert(written.dot);
            assert_eq!(known, written.dot, "{self:?} was applied again");
        }
        self.end = match answer {
            Ok(_) => End::Acknowledged,
            Err(WriteError { outcome: Outcome::NotApplied, .. }) => End::NotApplied,
            Err(_) => End::Unknown,
        };
    }
}

/// How often what was to be tested did happen.
#[derive(Clone, Copy, Default, Debug)]
struct Happened {
    acknowledged: usize,
    unknown: usize,
    settled_by_retries: usize,
    refused_for_clocks: usize,
    reads: usize,
}

impl Happened {
    fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.settled_by_retries += other.settled_by_retries;
        self.refused_for_clocks += other.refused_for_clocks;
        self.reads += other.reads;
    }
}

struct Run {
    cluster: SimCluster,
    rng: ChaCha8Rng,
    records: Vec<Record>,
    happened: Happened,
    down: Option<usize>,
    cut: Option<(usize, usize)>,
    wrong: Option<usize>,
}

async fn started(seed: u64) -> Result<Run> {
    let cluster = SimCluster::start(NODES, seed).await?;
    let things = NewNamespace { conflict: Conflict::Lww, ..strict("things") };
    cluster.create_namespace(things).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (rng, records, happened) = (workload_rng(seed), Vec::new(), Happened::default());
    Ok(Run { cluster, rng, records, happened, down: None, cut: None, wrong: None })
}

fn key(key: u64) -> Key {
    Key::new(format!("key-{key}")).unwrap()
}

impl Run {
    async fn step(&mut self) -> Result<()> {
        match self.rng.random_range(0..24) {
            0 if self.down.is_none() => {
                let at = self.rng.random_range(0..NODES);
                self.cluster.kill(at);
                self.down = Some(at);
            }
            1 | 2 => self.restart()?,
            3 => {
                self.reconnect();
                let one = self.rng.random_range(0..NODES);
                let other = (one + 1) % NODES;
                self.cluster.cut(one, other);
                self.cut = Some((one, other));
            }
            4 | 5 => self.reconnect(),
            // Within the bound, which no two clocks' error exceeds.
            6 => {
                let (at, ahead_ms) =
                    (self.rng.random_range(0..NODES), self.rng.random_range(-200..=200));
                self.cluster.set_clock(at, ahead_ms);
                self.wrong = self.wrong.filter(|wrong| *wrong != at);
            }
            // One at a time: the others know better.
            7 if self.wrong.is_none() => {
                let at = self.rng.random_range(0..NODES);
                let sign = if self.rng.random() { 1 } else { -1 };
                self.cluster.set_clock(at, sign * TEN_MINUTES_MS);
                self.wrong = Some(at);
            }
            8 | 9 => self.set_right(),
            10..12 => self.retry().await,
            12 => tokio::time::sleep(Duration::from_millis(1_500)).await,
            13..15 => self.read_and_replace().await,
            _ => self.write_at_once().await,
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.down.take().map_or(Ok(()), |at| self.cluster.restart(at))
    }

    fn reconnect(&mut self) {
        if let Some((one, other)) = self.cut.take() {
            self.cluster.reconnect(one, other);
        }
    }

    fn set_right(&mut self) {
        if let Some(at) = self.wrong.take() {
            self.cluster.set_clock(at, 0);
        }
    }

    /// A node that runs.
    fn somewhere(&mut self) -> usize {
        let at = self.rng.random_range(0..NODES);
        if self.down == Some(at) { (at + 1) % NODES } else { at }
    }

    /// A new write, or delete, to be sent.
    fn record(&mut self, key: u64, context: Bytes, shown: Option<Dot>) -> Record {
        let (at, sequence) = (self.somewhere(), self.records.len() as u64 + 1);
        let coordinator = self.cluster.coordinator(at).unwrap();
        let operation = Some(OperationId {
            issued_ms: self.cluster.now_ms(),
            coordinator: node(at),
            opening: coordinator.opening(),
            client: 7,
            sequence,
        });
        let deletes = self.rng.random_range(0..5) == 0;
        let value = (!deletes).then(|| Bytes::from(format!("value {sequence}")));
        let put = Put { operation, context, ..put(key, value) };
        let (began, ended) = (Instant::now(), Instant::now());
        let record = Record { put, key, at, began, ended, end: End::Unknown, dot: None, shown };
        self.records.push(record.clone());
        record
    }

    /// Some blind writes, at the same time.
    async fn write_at_once(&mut self) {
        let first = self.records.len();
        for _ in 0..self.rng.random_range(1..=3) {
            let key = self.rng.random_range(0..KEYS);
            self.record(key, Bytes::new(), None);
        }
        self.send(first).await;
    }

    async fn read_and_replace(&mut self) {
        let (key, at) = (self.rng.random_range(0..KEYS), self.somewhere());
        let Some(read) = self.read(key, at, None).await else { return };
        let (context, last) = (read.context.unwrap_or_default(), read.object.last());
        let first = self.records.len();
        self.record(key, context, last.map(|last| last.dot));
        self.send(first).await;
    }

    /// Sends the records from the `first` on, and notes what they answer.
    async fn send(&mut self, first: usize) {
        let sent = self.records[first..].iter().map(|record| {
            let coordinator = self.cluster.coordinator(record.at).unwrap();
            let (put, mut record) = (record.put.clone(), record.clone());
            async move {
                let answer = coordinator.put(put).await;
                record.on_answer(&answer);
                (record, answer)
            }
        });
        for (at, (record, answer)) in join_all(sent).await.into_iter().enumerate() {
            let clocks = |kind: &str| record.end == End::NotApplied && kind.starts_with("clock_");
            let refused = answer.is_err_and(|refused| clocks(refused.error.kind()));
            self.happened.refused_for_clocks += usize::from(refused);
            self.records[first + at] = record;
        }
    }

    /// Asks for the outcome of a write that is unknown, under its own id.
    async fn retry(&mut self) {
        let unknown = |record: &Record| record.end == End::Unknown;
        let unknown: Vec<usize> =
            (0..self.records.len()).filter(|&at| unknown(&self.records[at])).collect();
        // Mostly the last one: what was replaced long ago stays unknown.
        let Some(&last) = unknown.last() else { return };
        let any = unknown[self.rng.random_range(0..unknown.len())];
        let index = if self.rng.random_bool(0.8) { last } else { any };
        let record = &self.records[index];
        let Some(coordinator) = self.cluster.coordinator(record.at) else { return };
        let answer = coordinator.put(Put { fresh: false, ..record.put.clone() }).await;
        self.records[index].on_answer(&answer);
        let settled = self.records[index].end != End::Unknown;
        self.happened.settled_by_retries += usize::from(settled);
    }

    /// What a read shows, which must be no older than what was acknowledged before it.
    async fn read(&mut self, key: u64, at: usize, r: Option<Level>) -> Option<ReadAnswer> {
        let acknowledged: Vec<Dot> = self.of(key).filter_map(Record::acknowledged).collect();
        let get = Get {
            sloppy: None,
            namespace: "things".to_owned(),
            key: self::key(key),
            r,
            repair: Repair::Async,
            replica: None,
            timeout: TIMEOUT,
        };
        let read = self.cluster.coordinator(at).unwrap().get(get).await.ok()?;
        self.happened.reads += 1;
        for dot in acknowledged {
            assert!(read.object.version().covers(dot), "a read of key {key} misses {dot}");
        }
        if let Some(last) = read.object.last() {
            let value = read.object.siblings().first().map(|entry| entry.operation.sequence);
            self.check(key, last.dot, value);
        }
        Some(read)
    }

    fn of(&self, key: u64) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.key == key)
    }

    async fn heal(&mut self) -> Result<()> {
        self.restart()?;
        self.reconnect();
        (0..NODES).for_each(|at| self.cluster.set_clock(at, 0));
        self.cluster.set_faults(Faults::default());
        tokio::time::sleep(Duration::from_secs(10)).await;
        for key in 0..KEYS {
            let mut held = Vec::new();
            for at in 0..NODES {
                let read = self.read(key, at, Some(Level::All)).await;
                held.push(read.expect("everybody is well").object);
            }
            assert!(held.iter().all(|object| *object == held[0]), "{held:?}");
        }
        let ends = |end: fn(&End) -> bool| self.records.iter().filter(|r| end(&r.end)).count();
        self.happened.acknowledged = ends(|end| *end == End::Acknowledged);
        self.happened.unknown = ends(|end| *end == End::Unknown);
        Ok(())
    }

    /// Whether what stands may stand: the write of `dot`, a value's if there is one.
    fn check(&mut self, key: u64, dot: Dot, value: Option<u64>) {
        let is_value = |record: &&Record| {
            let sequence = record.put.operation.map(|id| id.sequence);
            value.is_some_and(|value| sequence == Some(value))
        };
        let is_delete = |record: &&Record| {
            value.is_none() && record.put.change == Change::Delete && record.end == End::Unknown
        };
        let acknowledged = self.of(key).find(|record| record.acknowledged() == Some(dot));
        // Of the deletes whose outcome is unknown, the last one: nobody knows their dots.
        let unknown = self.of(key).filter(is_delete).max_by_key(|record| record.ended);
        let stands = self.of(key).find(is_value).or(acknowledged).or(unknown);
        let stands = stands.unwrap_or_else(|| panic!("nobody wrote {dot}, {value:?}"));
        assert_ne!(stands.end, End::NotApplied, "{stands:?}");
        assert!(stands.dot.is_none_or(|known| known == dot), "{stands:?} was applied again: {dot}");
        let other = |record: &&Record| record.acknowledged().is_some_and(|lost| lost != dot);
        for lost in self.of(key).filter(other) {
            let apart = lost.began.saturating_duration_since(stands.ended);
            assert!(apart <= CLOCKS_DIFFER, "{stands:?} hides {lost:?}, {apart:?} later");
            let knew = lost.shown == Some(dot);
            assert!(!knew, "{stands:?} hides {lost:?}, which had seen it");
        }
        if let Some(value) = value {
            self.records[value as usize - 1].dot = Some(dot);
        }
    }
}

fn put(key: u64, value: Option<Bytes>) -> Put {
    Put {
        sloppy: None,
        namespace: "things".to_owned(),
        key: self::key(key),
        change: value.map_or(Change::Delete, Change::put),
        context: Bytes::new(),
        w: None,
        durability: None,
        operation: None,
        at_least_once: false,
        fresh: true,
        timeout: TIMEOUT,
    }
}

#[test]
fn sim_lww_loses_nothing_that_was_acknowledged() {
    let seeds = seeds::seeds(40);
    let (mut all, count) = (Happened::default(), seeds.end - seeds.start);
    let mut run = |seed| {
        println!("seed {seed}; QUORATE_SEED={seed} runs it again");
        let happened = simulate(async {
            let mut run = started(seed).await?;
            let faults =
                Faults { latency_ms: 1..=40, loss: 0.02, duplication: 0.1, ..Faults::default() };
            run.cluster.set_faults(faults);
            for _ in 0..150 {
                run.step().await?;
            }
            run.heal().await?;
            Ok(run.happened)
        })
        .unwrap();
        all.add(happened);
    };
    counted(count, || seeds.into_iter().for_each(&mut run));
    println!("{all:?}");
    let Happened { acknowledged, unknown, settled_by_retries, refused_for_clocks, reads } = all;
    let all_of_it = [acknowledged, unknown, settled_by_retries, refused_for_clocks, reads];
    assert!(count < 10 || all_of_it.iter().all(|&times| times > 20), "too little happened");
}

/// A node whose clock is off orders nothing new, a delete neither; what it did it knows.
#[test]
fn sim_a_node_whose_clock_is_off_knows_what_it_did_and_deletes_nothing() {
    story(async {
        let mut run = started(1).await?;
        let done = run.record(0, Bytes::new(), None);
        run.send(0).await;
        let dot = run.records[0].acknowledged().expect("all is well");
        for ahead_ms in [TEN_MINUTES_MS, -TEN_MINUTES_MS] {
            run.cluster.set_clock(done.at, ahead_ms);
            let coordinator = run.cluster.coordinator(done.at).unwrap();
            let again = Put { fresh: false, ..done.put.clone() };
            assert_eq!(coordinator.put(again).await?.dot, dot);
            let context = run.read(0, done.at, None).await.unwrap().context.unwrap();
            let delete = Put { context, ..put(0, None) };
            let refused = coordinator.put(delete).await.unwrap_err();
            assert!(matches!(refused.error, RequestError::ClockSkew { .. }), "{refused}");
            assert_eq!(refused.outcome, Outcome::NotApplied);
            assert_eq!(run.read(0, done.at, None).await.unwrap().object.last().unwrap().dot, dot);
        }
        Ok(())
    })
    .unwrap();
}
