//! Sloppy reads of a whole cluster: what fallbacks keep is found, and only looked for where it may be.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use quorate_node::coordinator::{Get, GetBatch, Put, ReadAnswer};
use quorate_node::dynamo::arrival::Way;
use quorate_node::dynamo::format::EncodedObject;
use quorate_node::dynamo::key::{Key, NodeId};
use quorate_node::dynamo::metadata::document::NewNamespace;
use quorate_node::dynamo::operation::Change;
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_node::error::RequestError;
use quorate_node::vnode::{Address, Merge};
use quorate_tests::sim::story::story;
use quorate_tests::sim::{SimCluster, node, strict};
use tokio::time::{Instant, sleep, timeout};

const NODES: usize = 5;
const TIMEOUT: Duration = Duration::from_secs(2);

/// A cluster, and a key of which `owners` are the owners and `fallback` is none.
struct Scene {
    cluster: SimCluster,
    key: Key,
    owners: Vec<usize>,
    fallbacks: Vec<usize>,
}

impl Scene {
    async fn new(seed: u64) -> Result<Self> {
        let cluster = SimCluster::start(NODES, seed).await?;
        cluster.create_namespace(strict("things")).await?;
        let key = Key::new("key")?;
        let nodes = cluster.owners("things", &key)?;
        let is_owner = |index: &usize| nodes.contains(&node(*index));
        let (owners, fallbacks) = (0..NODES).partition(is_owner);
        Ok(Self { cluster, key, owners, fallbacks })
    }

    /// A value that one owner misses, kept by the first fallback alone, which cannot send it home.
    async fn keep_a_hint(&self) -> Result<()> {
        let object = self.written().await?;
        self.cluster.cut(self.fallbacks[0], self.owners[0]);
        let holder = self.cluster.coordinator(self.fallbacks[0]).unwrap();
        let (merge, target) = (self.merge(object)?, node(self.owners[0]));
        holder.shards().hint(merge, target, false, Instant::now() + TIMEOUT).await?;
        Ok(())
    }

    fn merge(&self, object: EncodedObject) -> Result<Merge> {
        let view = self.cluster.view()?;
        let namespace = view.namespace_named("things").context("it was made")?;
        let address = Address {
            vnode: view.vnode(namespace, &self.key),
            namespace: namespace.id,
            key: self.key.clone(),
            conflict: namespace.conflict,
        };
        Ok(Merge::repair(Way::ReadRepair, address, object))
    }

    /// An object as a write makes it: of another key, since this one's owners are to hold nothing.
    async fn written(&self) -> Result<EncodedObject> {
        let (other, owner) =
            (Key::new("other")?, self.cluster.coordinator(self.owners[0]).unwrap());
        owner.put(put(&other)).await.unwrap();
        let read = owner.get(Get { key: other, ..self.get(true, Level::Quorum) }).await?;
        Ok(EncodedObject::new(&read.object))
    }

    fn get(&self, sloppy: bool, r: Level) -> Get {
        Get {
            namespace: "things".to_owned(),
            key: self.key.clone(),
            r: Some(r),
            sloppy: Some(sloppy),
            repair: Repair::Async,
            replica: None,
            timeout: TIMEOUT,
        }
    }

    async fn read(&self, at: usize, sloppy: bool, r: Level) -> Result<ReadAnswer, RequestError> {
        self.cluster.coordinator(at).unwrap().get(self.get(sloppy, r)).await
    }

    async fn read_batch(&self, at: usize) -> Result<ReadAnswer, RequestError> {
        self.read_as_batch(at, true).await
    }

    async fn read_as_batch(&self, at: usize, sloppy: bool) -> Result<ReadAnswer, RequestError> {
        let get = self.get(sloppy, Level::Quorum);
        self.cluster.coordinator(at).unwrap().get_batch(batch(get)).await?.remove(0)
    }

    /// Waits until `at` knows whether one of the owners may have missed something.
    async fn until_doubt_is(&self, at: usize, doubt: bool) -> Result<()> {
        let owners: Vec<NodeId> = self.owners.iter().map(|&index| node(index)).collect();
        for _ in 0..1000 {
            if self.cluster.coordinator(at).unwrap().doubts().any_of(&owners) == doubt {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("doubt at {at} is not {doubt}")
    }
}

/// One key of one owner, and a hint of it at the last fallback, far beyond the first ones: the owner is
/// back, and its disk is full, so that the hint cannot go home.
async fn kept_far_away() -> Result<(Scene, usize, usize)> {
    let cluster = SimCluster::start(NODES, 6).await?;
    let alone = NewNamespace { n: 1, r: Level::One, w: Level::One, ..strict("things") };
    cluster.create_namespace(alone).await?;
    let key = Key::new("key")?;
    let view = cluster.view()?;
    let namespace = view.namespace_named("things").context("it was made")?;
    let list = view.preference(view.vnode(namespace, &key)).context("it is placed")?;
    let index = |wanted| (0..NODES).find(|&index| node(index) == wanted).unwrap();
    let owners: Vec<usize> = list.owners().iter().copied().map(index).collect();
    let fallbacks: Vec<usize> = list.fallbacks().iter().copied().map(index).collect();
    let mut scene = Scene { cluster, key, owners, fallbacks };
    let (owner, holder) = (scene.owners[0], scene.fallbacks[NODES - 2]);
    scene.cluster.kill(owner);
    let sloppy = Put { w: Some(Level::One), sloppy: Some(true), ..put(&scene.key) };
    scene.cluster.coordinator(holder).unwrap().put(sloppy).await?;
    scene.cluster.restart(owner)?;
    scene.cluster.set_disk_full(owner, true)?;
    Ok((scene, owner, holder))
}

fn put(key: &Key) -> Put {
    Put {
        namespace: "things".to_owned(),
        key: key.clone(),
        change: Change::put(Bytes::from_static(b"value")),
        context: Bytes::new(),
        w: Some(Level::All),
        sloppy: None,
        durability: None,
        operation: None,
        at_least_once: false,
        fresh: false,
        timeout: TIMEOUT,
    }
}

fn batch(get: Get) -> GetBatch {
    let Get { namespace, key, r, sloppy, repair, replica, timeout } = get;
    GetBatch { namespace, keys: vec![Ok(key)], r, sloppy, repair, replica, timeout }
}

fn counts(answer: &ReadAnswer) -> (usize, u32, u32) {
    (answer.object.siblings().len(), answer.replicas, answer.fallbacks)
}

#[test]
fn sim_what_a_fallback_keeps_is_found_while_its_owner_is_away() -> Result<()> {
    story(async {
        let mut scene = Scene::new(1).await?;
        scene.keep_a_hint().await?;
        let [away, reader] = [scene.owners[0], scene.owners[1]];
        scene.cluster.kill(away);
        let found = scene.read(reader, true, Level::Quorum).await?;
        assert_eq!(found.object.siblings().len(), 1);
        let found = scene.read_batch(reader).await?;
        assert_eq!(found.object.siblings().len(), 1);
        let forwarded = scene.read(scene.fallbacks[1], true, Level::Quorum).await?;
        assert_eq!(forwarded.object.siblings().len(), 1);
        Ok(())
    })
}

#[test]
fn sim_a_strict_read_takes_the_word_of_its_owners() -> Result<()> {
    story(async {
        let mut scene = Scene::new(2).await?;
        scene.keep_a_hint().await?;
        scene.cluster.kill(scene.owners[0]);
        let nothing = scene.read(scene.owners[1], false, Level::Quorum).await?;
        assert_eq!(counts(&nothing), (0, 2, 0));
        Ok(())
    })
}

#[test]
fn sim_without_an_owner_fallbacks_answer() -> Result<()> {
    story(async {
        let mut scene = Scene::new(3).await?;
        scene.keep_a_hint().await?;
        scene.owners.iter().for_each(|&owner| scene.cluster.kill(owner));
        for &reader in &scene.fallbacks {
            assert_eq!(counts(&scene.read(reader, true, Level::One).await?), (1, 0, 1));
            // One hint is one answer, and that the other fallback keeps none is no answer.
            scene.read(reader, true, Level::Quorum).await.unwrap_err();
            scene.read_batch(reader).await.unwrap_err();
            scene.read(reader, false, Level::One).await.unwrap_err();
        }
        Ok(())
    })
}

#[test]
fn sim_who_does_not_answer_is_not_waited_for() -> Result<()> {
    story(async {
        let scene = Scene::new(5).await?;
        let [away, reader] = [scene.owners[0], scene.owners[1]];
        scene.until_doubt_is(reader, false).await?;
        scene.cluster.cut(away, reader);
        // The request is lost, and its time would be all that the read has.
        let nothing = scene.read(reader, true, Level::Quorum).await?;
        assert_eq!(counts(&nothing), (0, 2, 0));
        assert_eq!(counts(&scene.read_batch(reader).await?), (0, 2, 0));
        Ok(())
    })
}

#[test]
fn sim_who_may_have_missed_something_is_known_soon() -> Result<()> {
    story(async {
        let mut scene = Scene::new(4).await?;
        let [away, reader, holder] = [scene.owners[0], scene.owners[1], scene.fallbacks[0]];
        scene.until_doubt_is(reader, false).await?;
        let nothing = scene.read(reader, true, Level::Quorum).await?;
        assert_eq!(counts(&nothing), (0, 3, 0), "every owner says so");
        scene.cluster.cut(away, reader);
        scene.until_doubt_is(reader, true).await?;
        scene.cluster.reconnect(away, reader);
        scene.until_doubt_is(reader, false).await?;
        // All are there, none was late, and one fallback has what it was to have.
        scene.keep_a_hint().await?;
        scene.until_doubt_is(reader, true).await?;
        let found = scene.read(reader, true, Level::Quorum).await?;
        assert_eq!(found.object.siblings().len(), 1);
        scene.cluster.kill(holder);
        // Who is down has nothing to tell, and what it keeps cannot be read.
        scene.until_doubt_is(reader, false).await
    })
}

#[test]
fn sim_who_names_an_owner_is_asked_wherever_it_stands_in_the_list() -> Result<()> {
    story(async {
        let (scene, owner, holder) = kept_far_away().await?;
        let door = scene.cluster.coordinator(owner).unwrap();
        let names = || door.doubts().holders_for(&[node(owner)]) == [node(holder)].into();
        for _ in 0..1000 {
            if names() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        assert!(names());
        let found = scene.read(owner, true, Level::One).await?;
        assert_eq!(found.object.siblings().len(), 1);
        let found = scene.read_batch(owner).await?;
        assert_eq!(found.object.siblings().len(), 1);
        Ok(())
    })
}

/// Nobody has told yet whom it keeps hints for.
#[test]
fn sim_of_an_owner_that_is_back_everybody_is_asked_who_has_not_told_since() -> Result<()> {
    story(async {
        for batched in [false, true] {
            let (scene, owner, holder) = kept_far_away().await?;
            let door = scene.cluster.coordinator(owner).unwrap();
            while !door.peers().connected(node(holder)) {
                sleep(Duration::from_millis(1)).await;
            }
            assert!(door.doubts().holders_for(&[node(owner)]).is_empty());
            let found = match batched {
                true => scene.read_batch(owner).await?,
                false => scene.read(owner, true, Level::One).await?,
            };
            assert_eq!(found.object.siblings().len(), 1);
        }
        Ok(())
    })
}

/// The first owner stands still, and nobody knows it yet; to it the read is sent on.
#[test]
fn sim_one_owner_that_stands_still_does_not_use_up_the_time_of_the_others() -> Result<()> {
    story(async {
        for batched in [false, true] {
            let mut scene = Scene::new(7).await?;
            let (first, other) =
                (scene.cluster.owners("things", &scene.key)?[0], scene.fallbacks[0]);
            scene.until_doubt_is(other, false).await?;
            let still = (0..NODES).find(|&index| node(index) == first).context("a member")?;
            scene.cluster.pause(still);
            let nothing = match batched {
                true => scene.read_as_batch(other, false).await?,
                false => scene.read(other, false, Level::Quorum).await?,
            };
            assert_eq!(counts(&nothing), (0, 2, 0));
        }
        Ok(())
    })
}

/// Two owners have a value, and the third, which tells that it has none, stands still before it takes
/// the repair: the value is with R owners, and nobody is waited for.
#[test]
fn sim_once_r_hold_the_answer_no_repair_is_waited_for() -> Result<()> {
    story(async {
        for batched in [false, true] {
            let mut scene = Scene::new(8).await?;
            let owners = scene.cluster.owners("things", &scene.key)?;
            let index = |wanted| (0..NODES).find(|&index| node(index) == wanted).unwrap();
            let [reader, stale, third] = [0, 1, 2].map(|at| index(owners[at]));
            let object = scene.written().await?;
            for holder in [reader, third] {
                let shards = scene.cluster.coordinator(holder).unwrap().shards().clone();
                let merge = scene.merge(object.clone())?;
                shards.merge(merge, false, Instant::now() + TIMEOUT).await?;
            }
            for (from, to) in [(reader, stale), (stale, reader), (reader, third), (third, reader)] {
                scene.cluster.slow(from, to, 60);
            }
            let get = Get { repair: Repair::Blocking, ..scene.get(false, Level::Quorum) };
            let door = scene.cluster.coordinator(reader).unwrap();
            let read = async {
                match batched {
                    true => door.get_batch(batch(get)).await?.remove(0),
                    false => door.get(get).await,
                }
            };
            let stops = async {
                sleep(Duration::from_millis(110)).await;
                scene.cluster.pause(stale);
            };
            // Long before its deadline, at which the repair fails.
            let read = timeout(TIMEOUT / 2, read);
            let (found, ()) = tokio::join!(read, stops);
            assert_eq!(found??.object.siblings().len(), 1);
        }
        Ok(())
    })
}
