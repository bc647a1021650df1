//! Values that expire: hidden by each reader, purged by each owner once most of them would hide them, and
//! brought back by nobody.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use quorate_node::coordinator::Put;
use quorate_node::dynamo::format::EncodedObject;
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::metadata::document::{Conflict, NewNamespace};
use quorate_node::dynamo::object::Object;
use quorate_node::dynamo::operation::Change;
use quorate_node::dynamo::ttl::{Ttl, TtlMs};
use quorate_node::error::WriteError;
use quorate_node::storage::record;
use quorate_node::transport::WriteResult;
use quorate_tests::sim::story::story;
use quorate_tests::sim::{SimCluster, SimSize, node, strict};
use tokio::time::sleep;

const NODES: usize = 3;
const RULES: [Conflict; 2] = [Conflict::Siblings, Conflict::Lww];
const SECOND_MS: u64 = 1000;
const HOUR_MS: i64 = 3_600_000;

/// Far longer than purging takes, once it may.
const PURGED: Duration = Duration::from_secs(20);

/// Three nodes, each of which owns every key.
struct Scene {
    cluster: SimCluster,
    rule: Conflict,
}

fn key(number: u64) -> Key {
    Key::new(format!("key {number}")).unwrap()
}

impl Scene {
    async fn new(rule: Conflict) -> Result<Self> {
        Self::of(NODES, NewNamespace { conflict: rule, ..strict("things") }).await
    }

    async fn of(nodes: usize, namespace: NewNamespace) -> Result<Self> {
        let rule = namespace.conflict;
        let every = Duration::from_secs(3);
        let size = SimSize { trees_every: every, scrub_every: every, ..SimSize::default() };
        let cluster = SimCluster::sized(nodes, 1, size).await?;
        cluster.create_namespace(namespace).await?;
        // Clocks were compared by then.
        sleep(Duration::from_secs(2)).await;
        Ok(Self { cluster, rule })
    }

    async fn write(
        &self,
        at: usize,
        number: u64,
        change: Change,
    ) -> Result<WriteResult, WriteError> {
        let put = Put {
            namespace: "things".to_owned(),
            key: key(number),
            change,
            w: None,
            context: Bytes::new(),
            sloppy: None,
            durability: None,
            operation: None,
            at_least_once: false,
            fresh: false,
            timeout: Duration::from_secs(5),
        };
        self.cluster.coordinator(at).unwrap().put(put).await
    }

    async fn put(&self, at: usize, number: u64, ttl_ms: u64) -> Result<WriteResult, WriteError> {
        let value = Bytes::from(format!("value {number}"));
        self.write(at, number, Change::Put { value, ttl: after(ttl_ms) }).await
    }

    /// What a node has on record; none if it never heard of the key.
    fn held(&self, at: usize, number: u64) -> Option<Object> {
        let sealed = self.cluster.sealed(at, "things", &key(number)).unwrap()?;
        let view = self.cluster.view().unwrap();
        let namespace = view.namespace_named("things").unwrap();
        let vnode = view.vnode(namespace, &key(number));
        let stored = record::object_key(vnode, namespace.id, key(number).as_bytes());
        let object = EncodedObject(record::open(&stored, &sealed).unwrap());
        Some(object.decode(self.rule).unwrap())
    }

    /// How many nodes hold the value.
    fn holders(&self, number: u64) -> usize {
        let holds = |at: &usize| self.held(*at, number).is_some_and(|object| !object.is_empty());
        (0..NODES).filter(holds).count()
    }

    fn owners(&self, number: u64) -> Vec<usize> {
        let view = self.cluster.view().unwrap();
        let vnode = view.vnode(view.namespace_named("things").unwrap(), &key(number));
        let owners = view.preference(vnode).unwrap().owners().to_vec();
        (0..5).filter(|&at| owners.contains(&node(at))).collect()
    }

    fn are_alike(&self, number: u64) -> bool {
        let first = self.held(0, number);
        (1..NODES).all(|at| self.held(at, number) == first)
    }
}

fn after(ttl_ms: u64) -> Ttl {
    Ttl::After(TtlMs::new(ttl_ms).unwrap())
}

/// Owners purge at different moments, while they compare trees and read all again: none of that is taken for
/// a loss, and nothing comes back.
#[test]
fn sim_what_expired_is_purged_by_all_owners_and_stays_away() -> Result<()> {
    for rule in RULES {
        story(async {
            let scene = Scene::new(rule).await?;
            for number in 0..30 {
                scene.put(number as usize % NODES, number, 5 * SECOND_MS).await.unwrap();
                scene.put(0, 100 + number, 500 * SECOND_MS).await.unwrap();
            }
            sleep(Duration::from_secs(3)).await;
            assert!((0..30).all(|number| scene.holders(number) == NODES), "too soon");
            sleep(PURGED).await;
            for _ in 0..60 {
                let purged = (0..30).all(|number| scene.holders(number) == 0);
                let kept = (100..130).all(|number| scene.holders(number) == NODES);
                assert!(purged && kept);
                sleep(Duration::from_secs(1)).await;
            }
            assert!((0..130).all(|number| scene.are_alike(number)), "their versions stay");
            for page in (0..NODES).map(|at| scene.cluster.metrics(at).unwrap()) {
                for none in ["frontier_lies", "trees_mismatches"] {
                    assert!(page.contains(&format!("quorate_{none}_total 0\n")), "{none}: {page}");
                }
                for some in ["trees_rounds", "scrub_rounds", "values_purged"] {
                    assert!(!page.contains(&format!("quorate_{some}_total 0\n")), "{some}: {page}");
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// `purged_by_one_clock`, told: what one clock says is not enough, and of two it is.
#[test]
fn sim_one_fast_clock_purges_nothing_and_two_of_three_do() -> Result<()> {
    for rule in RULES {
        story(async {
            let mut scene = Scene::new(rule).await?;
            scene.put(0, 1, 600 * SECOND_MS).await.unwrap();
            scene.cluster.set_clock(1, HOUR_MS);
            sleep(PURGED).await;
            assert_eq!(scene.holders(1), NODES);
            let refused = scene.put(1, 2, SECOND_MS).await.unwrap_err();
            assert_eq!(refused.error.kind(), "clock_skew", "nor does it set deadlines");
            scene.cluster.set_clock(2, HOUR_MS);
            sleep(PURGED).await;
            assert_eq!(scene.holders(1), 0, "the one whose clock is right purges it too");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn sim_nothing_is_purged_while_most_owners_are_away() -> Result<()> {
    story(async {
        let mut scene = Scene::new(Conflict::Siblings).await?;
        scene.put(0, 1, 5 * SECOND_MS).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        scene.cluster.kill(1);
        scene.cluster.kill(2);
        sleep(2 * PURGED).await;
        assert_eq!(scene.holders(1), NODES, "nobody knows what their clocks show");
        scene.cluster.restart(1)?;
        sleep(PURGED).await;
        assert_eq!((scene.holders(1), scene.held(2, 1).unwrap().is_empty()), (1, false));
        scene.cluster.restart(2)?;
        sleep(PURGED).await;
        assert_eq!((scene.holders(1), scene.are_alike(1)), (0, true));
        Ok(())
    })
}

/// An owner that did not hear of it purges what another one let live on: that one's is another write.
#[test]
fn sim_what_persists_outlives_its_old_deadline() -> Result<()> {
    for rule in RULES {
        story(async {
            let scene = Scene::new(rule).await?;
            scene.put(0, 1, 5 * SECOND_MS).await.unwrap();
            sleep(Duration::from_secs(1)).await;
            [0, 1].into_iter().for_each(|at| scene.cluster.cut(at, 2));
            scene.write(1, 1, Change::Expire(Ttl::Never)).await.unwrap();
            sleep(PURGED).await;
            assert!(!scene.held(0, 1).unwrap().is_empty());
            [0, 1].into_iter().for_each(|at| scene.cluster.reconnect(at, 2));
            sleep(2 * PURGED).await;
            assert_eq!((scene.holders(1), scene.are_alike(1)), (NODES, true));
            let object = scene.held(2, 1).unwrap();
            let (_, entry) = &object.entries()[0];
            assert_eq!((&entry.payload[..], entry.deadline_ms), (&b"value 1"[..], None));
            Ok(())
        })?;
    }
    Ok(())
}

/// `expiry_restarted_by_handoff`, told: a hint waits for hours, and what it brings has expired long ago.
#[test]
fn sim_a_hint_extends_no_deadline_and_brings_nothing_back() -> Result<()> {
    for rule in RULES {
        story(async {
            let mut scene = Scene::new(rule).await?;
            scene.cluster.kill(2);
            scene.put(0, 1, 5 * SECOND_MS).await.unwrap();
            scene.put(0, 2, 3_600 * SECOND_MS).await.unwrap();
            let deadline_ms = |object: &Object| object.entries()[0].1.deadline_ms;
            let longer = deadline_ms(&scene.held(0, 2).unwrap());
            sleep(PURGED).await;
            assert_eq!(scene.holders(1), 0, "two of three owners are enough");
            scene.cluster.restart(2)?;
            for _ in 0..300 {
                assert!([0, 1].into_iter().all(|at| scene.held(at, 1).unwrap().is_empty()));
                sleep(Duration::from_millis(100)).await;
            }
            assert_eq!((scene.holders(1), scene.are_alike(1)), (0, true));
            assert_eq!(deadline_ms(&scene.held(2, 2).unwrap()), longer);
            Ok(())
        })?;
    }
    Ok(())
}

/// Whoever is asked: an owner, one that is none, or one that stands in while all owners are away.
#[test]
fn sim_any_node_lets_a_value_expire() -> Result<()> {
    for conflict in RULES {
        story(async {
            let namespace = NewNamespace { conflict, ..NewNamespace::named("things") };
            let mut scene = Scene::of(5, namespace).await?;
            let at = |at: usize| at % 5;
            for number in 0..10 {
                let (first, then) = (at(number), at(number + 1));
                scene.put(first, number as u64, 600 * SECOND_MS).await.unwrap();
                scene.write(then, number as u64, Change::Expire(Ttl::Never)).await.unwrap();
                scene.write(first, number as u64, Change::Expire(after(SECOND_MS))).await.unwrap();
            }
            sleep(PURGED).await;
            let none =
                |number| (0..5).all(|at| scene.held(at, number).is_none_or(|o| o.is_empty()));
            assert!((0..10).all(none));

            let owners = scene.owners(77);
            let others: Vec<usize> = (0..5).filter(|at| !owners.contains(at)).collect();
            owners.iter().for_each(|&owner| scene.cluster.kill(owner));
            sleep(PURGED).await;
            scene.put(others[0], 77, SECOND_MS * 60).await.unwrap();
            let gone = scene.write(others[0], 78, Change::Expire(Ttl::Never)).await;
            assert!(gone.is_err(), "{gone:?}: nobody can tell, or there is nothing");
            for &owner in &owners {
                scene.cluster.restart(owner)?;
            }
            sleep(PURGED).await;
            scene.write(others[1], 77, Change::Expire(Ttl::Never)).await.unwrap();
            sleep(5 * PURGED).await;
            let holds = |at: &usize| scene.held(*at, 77).is_some_and(|object| !object.is_empty());
            assert_eq!(owners.iter().filter(|at| holds(at)).count(), 3);
            Ok(())
        })?;
    }
    Ok(())
}
