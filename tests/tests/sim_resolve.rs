//! Writes whose coordinator cannot be asked: what others can tell of them, and who finishes them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use quorate_node::coordinator::{Get, Put, PutBatch, PutEntry, PutRules, Resolve};
use quorate_node::dynamo::key::{Key, NamespaceId};
use quorate_node::dynamo::metadata::document::{Conflict, NewNamespace};
use quorate_node::dynamo::operation::{Change, OperationId};
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_node::dynamo::resolve::Resolution;
use quorate_node::error::{Outcome, WriteError};
use quorate_node::transport::WriteResult;
use quorate_tests::sim::story::story;
use quorate_tests::sim::{SimCluster, node, strict};

const NODES: usize = 5;

fn key() -> Key {
    Key::new("key").unwrap()
}

/// A cluster, and where in it the key's owners and the others are.
struct Story {
    cluster: SimCluster,
    owners: [usize; 3],
    others: [usize; 2],
}

impl Story {
    async fn start(seed: u64, conflict: Conflict) -> Result<Self> {
        let cluster = SimCluster::start(NODES, seed).await?;
        cluster.create_namespace(NewNamespace { conflict, ..strict("things") }).await?;
        let owners = cluster.owners("things", &key())?;
        let at = |id| (0..NODES).find(|&index| node(index) == id).unwrap();
        let owners: Vec<usize> = owners.into_iter().map(at).collect();
        let others: Vec<usize> = (0..NODES).filter(|index| !owners.contains(index)).collect();
        // Every node has heard the others' clocks by then.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (owners, others) = (owners.try_into().unwrap(), others.try_into().unwrap());
        Ok(Self { cluster, owners, others })
    }

    /// An id that names this node in its present opening.
    fn operation(&self, at: usize, sequence: u64) -> OperationId {
        let coordinator = self.cluster.coordinator(at).unwrap();
        OperationId {
            issued_ms: self.cluster.now_ms(),
            coordinator: node(at),
            opening: coordinator.opening(),
            client: 7,
            sequence,
        }
    }

    async fn put(&self, at: usize, put: Put) -> Result<WriteResult, WriteError> {
        self.cluster.coordinator(at).unwrap().put(put).await
    }

    async fn put_batch(&self, at: usize, put: Put) -> Result<WriteResult, WriteError> {
        let Put { key, change, context, operation, fresh, w, .. } = put;
        let entry = PutEntry { key, change, context, operation, fresh };
        let rules = PutRules { w, durability: None, sloppy: None, at_least_once: false };
        let (namespace, timeout) = (put.namespace, put.timeout);
        let batch = PutBatch { namespace, entries: vec![Ok(entry)], rules, timeout };
        let outcomes = self.cluster.coordinator(at).unwrap().put_batch(batch).await.unwrap();
        outcomes.into_iter().next().unwrap()
    }

    async fn resolve(&self, at: usize, operation: OperationId) -> Result<(Resolution, String)> {
        let coordinator = self.cluster.coordinator(at).unwrap();
        let (_, namespace) = coordinator
            .namespace("things", tokio::time::Instant::now() + Duration::from_secs(1))
            .await?;
        let asked = Resolve {
            operation,
            namespace: namespace.id,
            key: key().hash(namespace.id),
            at_least_once: false,
            timeout: Duration::from_secs(2),
        };
        Ok(coordinator.resolve(asked).await?)
    }

    /// How many values an owner holds, for certain by itself.
    async fn held(&self, at: usize) -> Result<usize> {
        let get = Get {
            sloppy: None,
            namespace: "things".to_owned(),
            key: key(),
            r: None,
            repair: Repair::Async,
            replica: Some(node(at)),
            timeout: Duration::from_secs(2),
        };
        Ok(self.cluster.coordinator(at).unwrap().get(get).await?.object.siblings().len())
    }
}

fn put(operation: OperationId, fresh: bool) -> Put {
    Put {
        sloppy: None,
        namespace: "things".to_owned(),
        key: key(),
        change: Change::put("value"),
        context: Bytes::new(),
        w: None,
        durability: None,
        operation: Some(operation),
        at_least_once: false,
        fresh,
        timeout: Duration::from_secs(2),
    }
}

async fn begun_and_finished_elsewhere(conflict: Conflict) -> Result<()> {
    let mut story = Story::start(11, conflict).await?;
    let ([a, b, c], [d, e]) = (story.owners, story.others);
    // It dies once another owner has the write, and its client has heard nothing.
    story.cluster.cut(a, c);
    let id = story.operation(a, 1);
    let all = Put { w: Some(Level::All), ..put(id, true) };
    let unknown = story.put(a, all).await.unwrap_err();
    assert_eq!(unknown.outcome, Outcome::Unknown(id));
    story.cluster.kill(a);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((story.held(b).await?, story.held(c).await?), (1, 0));

    // Whoever is asked tells what became of it, and a retry finishes it: also at an owner that lacks it,
    // and by way of a node that is none.
    let (resolution, told) = story.resolve(d, id).await?;
    let Resolution::Applied { done, .. } = resolution else { panic!("{told}") };
    for at in [c, b, d, e] {
        assert_eq!(story.put(at, put(id, false)).await?.dot, done.dot, "at node {at}");
        assert_eq!(story.put_batch(at, put(id, false)).await?.dot, done.dot, "at node {at}");
        assert_eq!((story.held(b).await?, story.held(c).await?), (1, 1));
    }
    // What else is written under its id is noticed wherever.
    for at in [b, c, d] {
        let other = Put { change: Change::put("another"), ..put(id, false) };
        let refused = story.put(at, other).await.unwrap_err();
        assert_eq!((refused.error.kind(), refused.outcome), ("invalid", Outcome::NotApplied));
    }
    // Nor does its coordinator write it again.
    story.cluster.restart(a)?;
    story.cluster.reconnect(a, c);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(story.put(a, put(id, false)).await?.dot, done.dot);
    assert_eq!(story.held(a).await?, 1);
    Ok(())
}

#[test]
fn sim_a_write_whose_coordinator_died_is_finished_by_another_owner_and_once() {
    for conflict in [Conflict::Siblings, Conflict::Lww] {
        story(begun_and_finished_elsewhere(conflict)).unwrap();
    }
}

/// The owners that have it answer for it, before it forgets and after.
#[test]
fn sim_a_coordinator_that_lost_its_store_asks_for_what_it_wrote() {
    story(async {
        let mut story = Story::start(12, Conflict::Siblings).await?;
        let [a, ..] = story.owners;
        let id = story.operation(a, 1);
        let dot = story.put(a, Put { w: Some(Level::All), ..put(id, true) }).await?.dot;
        story.cluster.rebuild(a).await?;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(story.put(a, put(id, false)).await?.dot, dot);
        assert_eq!(story.put_batch(a, put(id, false)).await?.dot, dot);
        assert_eq!(story.held(a).await?, 1);
        // One that nobody ever sent: its store may have lost it, so that only reading tells.
        let never = OperationId { sequence: 2, ..id };
        let unknown = story.put(a, put(never, false)).await.unwrap_err();
        assert_eq!((unknown.error.kind(), unknown.outcome), ("opening", Outcome::Unknown(never)));
        let (resolution, told) = story.resolve(a, never).await?;
        let silent = Vec::new();
        assert_eq!(resolution, Resolution::Unknown { silent, reopened: true });
        assert!(told.contains("was restarted since") && told.contains("read the key"), "{told}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn sim_what_a_silent_coordinator_never_heard_of_is_unknown_and_then_refused_for_good() {
    story(async {
        let story = Story::start(13, Conflict::Siblings).await?;
        let ([a, b, c], [d, _]) = (story.owners, story.others);
        let away = (0..NODES).filter(|&other| other != a);
        away.clone().for_each(|other| story.cluster.cut(a, other));
        let id = story.operation(a, 1);
        for (at, fresh) in [(b, true), (b, false), (c, false), (d, false)] {
            let unknown = story.put(at, put(id, fresh)).await.unwrap_err();
            assert_eq!(unknown.outcome, Outcome::Unknown(id), "at node {at}");
            let unknown = story.put_batch(at, put(id, false)).await.unwrap_err();
            assert_eq!(unknown.outcome, Outcome::Unknown(id), "at node {at}");
        }
        let (resolution, told) = story.resolve(d, id).await?;
        assert!(matches!(resolution, Resolution::Unknown { reopened: false, .. }), "{told}");
        assert!(told.contains(&format!("node-{a} ")), "{told}");
        assert_eq!([story.held(b).await?, story.held(c).await?], [0, 0], "not applied elsewhere");

        away.for_each(|other| story.cluster.reconnect(a, other));
        tokio::time::sleep(Duration::from_secs(5)).await;
        for at in [d, a] {
            assert_eq!(story.resolve(at, id).await?.0, Resolution::NotApplied);
        }
        // Copies of the request that come late.
        for at in [a, b, d] {
            for fresh in [false, true] {
                let refused = story.put(at, put(id, fresh)).await.unwrap_err();
                assert_eq!(refused.outcome, Outcome::NotApplied, "{refused}");
            }
        }
        for at in [a, b, c] {
            assert_eq!(story.held(at).await?, 0);
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn sim_only_the_named_coordinator_in_the_named_opening_settles_an_operation() {
    story(async {
        let mut story = Story::start(14, Conflict::Siblings).await?;
        let [a, b, _] = story.owners;
        let (first, second) = (story.operation(a, 1), story.operation(a, 2));
        story.cluster.kill(a);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (resolution, told) = story.resolve(b, first).await?;
        assert!(matches!(resolution, Resolution::Unknown { reopened: false, .. }), "{told}");
        story.cluster.restart(a)?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (resolution, told) = story.resolve(b, second).await?;
        assert!(matches!(resolution, Resolution::Unknown { reopened: true, .. }), "{told}");
        // An hour later nobody knows; one whose clock is wrong does not make it so.
        for at in 0..NODES {
            assert!(!matches!(story.resolve(b, second).await?.0, Resolution::Expired));
            story.cluster.set_clock(at, 2 * 3_600_000);
        }
        assert_eq!(story.resolve(b, second).await?.0, Resolution::Expired);
        let nowhere = Resolve {
            operation: second,
            namespace: NamespaceId(99),
            key: key().hash(NamespaceId(99)),
            at_least_once: false,
            timeout: Duration::from_secs(1),
        };
        let unknown = story.cluster.coordinator(b).unwrap().resolve(nowhere).await.unwrap_err();
        assert_eq!(unknown.kind(), "unknown_namespace");
        Ok(())
    })
    .unwrap();
}
