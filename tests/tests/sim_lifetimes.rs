//! Values with a time to live under clocks that are set, links that are cut and nodes that are killed, one at a
//! time: none is gone before its end, none outlives it for long, and no copy has another end.
//!
//! Each key has one writer, which knows what should be there: the naive twin. *Gone* is judged by what nodes
//! have on record, whether they run or not: one that reflects a write holds its value, until that is due.
//!
//! ```text
//!   put, lives 10 s, acknowledged at 100..102     due from 110 on, by clocks that are off by half a second
//!   expire, 60 s, at 104..105                     the same value, another dot; due from 164 on
//! ```

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use quorate_node::coordinator::{Get, Put};
use quorate_node::dynamo::clock::Dot;
use quorate_node::dynamo::format::EncodedObject;
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::metadata::document::{Conflict, NewNamespace};
use quorate_node::dynamo::object::Object;
use quorate_node::dynamo::operation::Change;
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_node::dynamo::ttl::{Ttl, TtlMs};
use quorate_node::error::{Outcome, RequestError, WriteError};
use quorate_node::storage::record;
use quorate_node::transport::WriteResult;
use quorate_tests::sim::story::{counted, story};
use quorate_tests::sim::{SimCluster, SimSize, seeds, strict, workload_rng};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tokio::time::sleep;

const NODES: usize = 3;
const STEPS: usize = 150;
const TIMEOUT: Duration = Duration::from_secs(2);

/// By how much a clock may be off that sets deadlines: the bound, and what comparing leaves uncertain.
const OFF_MS: u64 = 600;

/// How far a wrong clock is set: far beyond the longest time to live but one.
const FAR_MS: i64 = 3_600_000;

/// What should be under a key, by its writer's word.
#[derive(Clone, Debug)]
struct Life {
    dot: Dot,
    value: Bytes,
    /// The earliest moment at which it may be due, in the right time; none: never.
    due_ms: Option<u64>,
}

/// All have heard by then what the others' clocks show.
const HEARD: Duration = Duration::from_secs(3);

struct Run {
    cluster: SimCluster,
    rng: ChaCha8Rng,
    rule: Conflict,
    /// By key. A key of which one write is unknown is given up for another one.
    lives: BTreeMap<u64, Life>,
    next_key: u64,
    /// When each value expires, as it was first seen.
    deadlines: BTreeMap<Dot, Option<u64>>,
    /// Which node something is wrong with.
    wrong: Option<Wrong>,
    acknowledged: usize,
    purged: usize,
}

#[derive(Clone, Copy, Debug)]
enum Wrong {
    Clock(usize),
    Links(usize),
    Down(usize),
}

fn key(number: u64) -> Key {
    Key::new(format!("key {number}")).unwrap()
}

impl Run {
    async fn new(seed: u64) -> Result<Self> {
        let every = Duration::from_secs(4);
        let size = SimSize { trees_every: every, scrub_every: every, ..SimSize::default() };
        let cluster = SimCluster::sized(NODES, seed, size).await?;
        let rule = if seed.is_multiple_of(2) { Conflict::Siblings } else { Conflict::Lww };
        cluster.create_namespace(NewNamespace { conflict: rule, ..strict("things") }).await?;
        sleep(Duration::from_secs(2)).await;
        let (lives, deadlines) = (BTreeMap::new(), BTreeMap::new());
        let rng = workload_rng(seed);
        let (wrong, next_key, acknowledged, purged) = (None, 0, 0, 0);
        Ok(Self { cluster, rng, rule, lives, next_key, deadlines, wrong, acknowledged, purged })
    }

    async fn step(&mut self) -> Result<()> {
        sleep(Duration::from_millis(self.rng.random_range(50..1_500))).await;
        match self.rng.random_range(0..10) {
            0..4 => self.put().await,
            4..7 => self.expire().await,
            7 => self.set_right().await?,
            _ => self.go_wrong().await?,
        }
        self.look();
        Ok(())
    }

    async fn go_wrong(&mut self) -> Result<()> {
        self.set_right().await?;
        let at = self.rng.random_range(0..NODES);
        self.wrong = Some(match self.rng.random_range(0..4) {
            0 => Wrong::Links(at),
            1 => Wrong::Down(at),
            _ => Wrong::Clock(at),
        });
        match self.wrong {
            Some(Wrong::Clock(_)) => {
                let ahead = self.rng.random_bool(0.7);
                self.cluster.set_clock(at, if ahead { FAR_MS } else { -FAR_MS });
            }
            Some(Wrong::Links(_)) => {
                (0..NODES).filter(|&other| other != at).for_each(|to| self.cluster.cut(at, to));
            }
            Some(Wrong::Down(_)) => self.cluster.kill(at),
            None => {}
        }
        Ok(())
    }

    /// And others hear it: a clock counts as what it showed when it was heard last.
    async fn set_right(&mut self) -> Result<()> {
        match self.wrong.take() {
            Some(Wrong::Clock(at)) => self.cluster.set_clock(at, 0),
            Some(Wrong::Links(at)) => {
                let others = (0..NODES).filter(|&other| other != at);
                others.for_each(|to| self.cluster.reconnect(at, to));
            }
            Some(Wrong::Down(at)) => self.cluster.restart(at)?,
            None => return Ok(()),
        }
        sleep(HEARD).await;
        Ok(())
    }

    fn ttl(&mut self) -> Ttl {
        let ms = match self.rng.random_range(0..6) {
            0 => return Ttl::Never,
            1 => 600_000,
            2 => 30 * 24 * 3_600_000,
            _ => self.rng.random_range(1_000..20_000),
        };
        Ttl::After(TtlMs::new(ms).unwrap())
    }

    /// A node that runs.
    fn somewhere(&mut self) -> usize {
        loop {
            let at = self.rng.random_range(0..NODES);
            if self.cluster.coordinator(at).is_some() {
                return at;
            }
        }
    }

    /// A value under a new key, or in the place of one that is there.
    async fn put(&mut self) {
        let at = self.somewhere();
        let known = self.known();
        let (number, context) = match known.filter(|_| self.rng.random_bool(0.6)) {
            Some(number) => match self.context(at, number).await {
                Some(context) => (number, context),
                None => return,
            },
            None => (self.next_key, Bytes::new()),
        };
        self.next_key = self.next_key.max(number + 1);
        let value = Bytes::from(format!("{number}.{}", self.acknowledged));
        let ttl = self.ttl();
        let change = Change::Put { value: value.clone(), ttl };
        self.write((at, number), (change, context), value, ttl).await;
    }

    async fn expire(&mut self) {
        let (Some(number), at) = (self.known(), self.somewhere()) else { return };
        let (life, ttl) = (self.lives[&number].clone(), self.ttl());
        let change = (Change::Expire(ttl), Bytes::new());
        let not_found = self.write((at, number), change, life.value.clone(), ttl).await;
        let now_ms = self.cluster.now_ms();
        let may_be_due = life.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        assert!(!not_found || may_be_due, "{life:?} of {number} is gone at {now_ms}");
    }

    fn known(&mut self) -> Option<u64> {
        let at = self.rng.random_range(0..self.lives.len().max(1));
        self.lives.keys().nth(at).copied()
    }

    /// Whether it was told that there is no value.
    async fn write(
        &mut self,
        (at, number): (usize, u64),
        (change, context): (Change, Bytes),
        value: Bytes,
        ttl: Ttl,
    ) -> bool {
        let began_ms = self.cluster.now_ms();
        let put = Put {
            namespace: "things".to_owned(),
            key: key(number),
            change,
            w: None,
            context,
            sloppy: None,
            durability: None,
            operation: None,
            at_least_once: false,
            fresh: false,
            timeout: TIMEOUT,
        };
        let outcome: Result<WriteResult, WriteError> =
            self.cluster.coordinator(at).unwrap().put(put).await;
        match outcome {
            Ok(WriteResult { dot, .. }) => {
                let due_ms = match ttl {
                    Ttl::After(ttl) => Some((began_ms + ttl.get()).saturating_sub(OFF_MS)),
                    Ttl::Never | Ttl::Default => None,
                };
                self.lives.insert(number, Life { dot, value, due_ms });
                self.acknowledged += 1;
                false
            }
            Err(WriteError { error, outcome: Outcome::NotApplied }) => {
                error == RequestError::KeyNotFound
            }
            Err(_) => {
                self.lives.remove(&number);
                self.next_key = self.next_key.max(number + 1);
                false
            }
        }
    }

    /// Of all that a quorum shows.
    async fn context(&mut self, at: usize, number: u64) -> Option<Bytes> {
        let get = Get {
            namespace: "things".to_owned(),
            key: key(number),
            r: Some(Level::Quorum),
            sloppy: None,
            repair: Repair::Async,
            replica: None,
            timeout: TIMEOUT,
        };
        let answer = self.cluster.coordinator(at).unwrap().get(get).await.ok()?;
        Some(answer.context.unwrap_or_default())
    }

    fn held(&self, at: usize, number: u64) -> Option<Object> {
        let sealed = self.cluster.sealed(at, "things", &key(number)).unwrap()?;
        let view = self.cluster.view().unwrap();
        let namespace = view.namespace_named("things").unwrap();
        let vnode = view.vnode(namespace, &key(number));
        let stored = record::object_key(vnode, namespace.id, key(number).as_bytes());
        let object = EncodedObject(record::open(&stored, &sealed).unwrap());
        Some(object.decode(self.rule).unwrap())
    }

    /// Whoever reflects a write holds its value, if that is not due; and whoever holds one, until the same
    /// moment as others.
    fn look(&mut self) {
        let now_ms = self.cluster.now_ms();
        for number in 0..self.next_key {
            let held: Vec<Object> = (0..NODES).filter_map(|at| self.held(at, number)).collect();
            for object in held {
                for (dot, entry) in object.entries() {
                    let first = *self.deadlines.entry(*dot).or_insert(entry.deadline_ms);
                    assert_eq!(first, entry.deadline_ms, "I15: {dot} of {number}");
                }
                let Some(life) = self.lives.get(&number) else { continue };
                let is_due = life.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
                if object.version().covers(life.dot) && !object.holds(life.dot) {
                    assert!(is_due, "I15: {life:?} of {number} is gone at {now_ms}");
                    self.purged += 1;
                }
            }
        }
    }

    /// When all is well: what is due is gone everywhere, what is not is everywhere.
    async fn end(mut self) -> Result<(usize, usize)> {
        self.set_right().await?;
        sleep(Duration::from_secs(90)).await;
        self.look();
        let now_ms = self.cluster.now_ms();
        for number in 0..self.next_key {
            let held: Vec<Object> = (0..NODES).filter_map(|at| self.held(at, number)).collect();
            assert!(held.iter().all(|object| *object == held[0]), "{number}: {held:?}");
            let entries = held.iter().flat_map(Object::entries);
            let overdue = |ms: u64| ms + 10_000 < now_ms;
            let mut deadlines = entries.filter_map(|(_, entry)| entry.deadline_ms);
            assert!(!deadlines.any(overdue), "{number}: {held:?} at {now_ms}");
            let Some(life) = self.lives.get(&number) else { continue };
            if life.due_ms.is_none_or(|due_ms| due_ms > now_ms) {
                assert_eq!(held.len(), NODES);
                let shown = held[0].siblings_at(now_ms);
                assert!(shown.iter().any(|entry| entry.payload == life.value), "{life:?}");
            }
        }
        Ok((self.acknowledged, self.purged))
    }
}

#[test]
fn sim_lifetimes_are_kept_whatever_clocks_show() {
    let seeds = seeds::seeds(8);
    let (mut acknowledged, mut purged) = (0, 0);
    counted(seeds.end - seeds.start, || {
        for seed in seeds {
            println!("QUORATE_SEED={seed}");
            let (writes, gone) = story(async {
                let mut run = Run::new(seed).await?;
                for _ in 0..STEPS {
                    run.step().await?;
                }
                run.end().await
            })
            .unwrap();
            (acknowledged, purged) = (acknowledged + writes, purged + gone);
        }
    });
    println!("{acknowledged} writes acknowledged, {purged} times one was seen to be purged");
    assert!(acknowledged > 0 && purged > 0, "too little happened");
}
