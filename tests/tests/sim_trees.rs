//! What changed or was lost without a trace comes back by trees of hashes: nobody reads it, and no frontier
//! tells.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use quorate_node::coordinator::Put;
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::operation::Change;
use quorate_node::dynamo::quorum::Level;
use quorate_tests::sim::story::story;
use quorate_tests::sim::{SimCluster, SimSize, strict};
use tokio::time::sleep;

const NODES: usize = 3;
const THINGS: &str = "things";
const TIMEOUT: Duration = Duration::from_secs(2);

/// Short runs have rounds, too.
fn size() -> SimSize {
    let (trees_every, scrub_every) = (Duration::from_secs(8), Duration::from_secs(16));
    SimSize { trees_every, scrub_every, ..SimSize::default() }
}

struct Scene {
    cluster: SimCluster,
    keys: Vec<Key>,
}

impl Scene {
    /// All keys are on all nodes.
    async fn new(seed: u64, size: SimSize) -> Result<Self> {
        let cluster = SimCluster::sized(NODES, seed, size).await?;
        cluster.create_namespace(strict(THINGS)).await?;
        let keys = (0..40).map(|number| Key::new(format!("key {number}")).unwrap()).collect();
        let scene = Self { cluster, keys };
        scene.write_all("first").await?;
        Ok(scene)
    }

    async fn write_all(&self, value: &str) -> Result<()> {
        for key in &self.keys {
            let put = Put {
                namespace: THINGS.to_owned(),
                key: key.clone(),
                change: Change::put(value.to_owned()),
                w: Some(Level::All),
                context: Bytes::new(),
                sloppy: None,
                durability: None,
                operation: None,
                at_least_once: false,
                fresh: false,
                timeout: TIMEOUT,
            };
            self.cluster.coordinator(0).unwrap().put(put).await.unwrap();
        }
        Ok(())
    }

    fn records(&self, index: usize) -> Result<Vec<Option<Bytes>>> {
        self.keys.iter().map(|key| self.cluster.sealed(index, THINGS, key)).collect()
    }

    async fn until_alike(&self) -> Result<()> {
        for _ in 0..1200 {
            let records = self.records(0)?;
            let all = records.iter().all(Option::is_some);
            if all && records == self.records(1)? && records == self.records(2)? {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("owners do not hold the same")
    }
}

#[test]
fn sim_what_one_owner_lost_without_a_trace_comes_back() -> Result<()> {
    story(async {
        let scene = Scene::new(1, size()).await?;
        scene.until_alike().await?;
        let before = scene.records(1)?;
        for key in &scene.keys[..25] {
            scene.cluster.replace(0, THINGS, key, None)?;
        }
        scene.until_alike().await?;
        assert_eq!(scene.records(1)?, before, "nobody took the loss for a delete");
        Ok(())
    })
}

#[test]
fn sim_records_that_went_back_in_time_catch_up() -> Result<()> {
    story(async {
        let scene = Scene::new(2, size()).await?;
        scene.until_alike().await?;
        let older = scene.records(2)?;
        scene.write_all("second").await?;
        scene.until_alike().await?;
        let before = scene.records(1)?;
        for (key, older) in scene.keys.iter().zip(older).take(10) {
            scene.cluster.replace(2, THINGS, key, older)?;
        }
        scene.until_alike().await?;
        assert_eq!(scene.records(1)?, before);
        Ok(())
    })
}

/// The twin of the first: without reading again nobody notices.
#[test]
fn sim_frontiers_alone_do_not_tell() -> Result<()> {
    story(async {
        let never = Duration::from_secs(86_400);
        let size = SimSize { scrub_every: never, ..size() };
        let scene = Scene::new(1, size).await?;
        scene.until_alike().await?;
        scene.cluster.replace(0, THINGS, &scene.keys[0], None)?;
        sleep(Duration::from_secs(120)).await;
        assert_eq!(scene.cluster.sealed(0, THINGS, &scene.keys[0])?, None);
        Ok(())
    })
}
