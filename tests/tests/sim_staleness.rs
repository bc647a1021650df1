//! How stale an owner was is told: how old writes were when they came, by the way that they came, and for how
//! long it has lacked them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use quorate_node::coordinator::{Get, Put};
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::operation::Change;
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_tests::sim::story::story;
use quorate_tests::sim::{SimCluster, SimSize, strict};
use tokio::time::sleep;

const THINGS: &str = "things";
const KEYS: u64 = 20;
const NEVER: Duration = Duration::from_secs(86_400);
const AWAY: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(2);

struct Scene(SimCluster);

impl Scene {
    async fn new(size: SimSize) -> Result<Self> {
        let cluster = SimCluster::sized(3, 1, size).await?;
        cluster.create_namespace(strict(THINGS)).await?;
        Ok(Self(cluster))
    }

    fn keys() -> impl Iterator<Item = Key> {
        (0..KEYS).map(|number| Key::new(format!("key {number}")).unwrap())
    }

    async fn write_all(&self) {
        for key in Self::keys() {
            let put = Put {
                namespace: THINGS.to_owned(),
                key,
                change: Change::put("value".to_owned()),
                w: Some(Level::Quorum),
                context: Bytes::new(),
                sloppy: None,
                durability: None,
                operation: None,
                at_least_once: false,
                fresh: false,
                timeout: TIMEOUT,
            };
            self.0.coordinator(0).unwrap().put(put).await.unwrap();
        }
    }

    async fn read_all(&self) {
        for key in Self::keys() {
            let get = Get {
                namespace: THINGS.to_owned(),
                key,
                r: Some(Level::All),
                sloppy: None,
                repair: Repair::Blocking,
                replica: None,
                timeout: TIMEOUT,
            };
            self.0.coordinator(0).unwrap().get(get).await.unwrap();
        }
    }

    /// The last node hears nothing while all keys are written, and for a while after.
    async fn miss_all(&self) {
        (0..2).for_each(|other| self.0.cut(other, 2));
        self.write_all().await;
        sleep(AWAY).await;
        (0..2).for_each(|other| self.0.reconnect(other, 2));
    }

    /// A number of the metrics of the last node.
    fn metric(&self, name: &str) -> Option<f64> {
        let page = self.0.metrics(2)?;
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// How many writes came this way, and how many of them were no older than half a minute.
    fn came(&self, way: &str) -> (f64, f64) {
        let of = |what: &str| {
            format!("quorate_arrival_seconds_{what}namespace=\"things\",way=\"{way}\"}}")
        };
        let all = self.metric(&of("count{")).unwrap_or(0.0);
        (all, self.metric(&of("bucket{le=\"32.768\",")).unwrap_or(0.0))
    }

    async fn until_came(&self, way: &str) -> Result<()> {
        for _ in 0..600 {
            if self.came(way).0 >= KEYS as f64 {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("only {:?} came by {way}", self.came(way))
    }
}

#[test]
fn sim_writes_are_as_old_as_their_way_took() -> Result<()> {
    let alone = SimSize { hints: 0, exchange_every: NEVER, ..SimSize::default() };
    story(async {
        let scene = Scene::new(alone).await?;
        scene.write_all().await;
        scene.until_came("write").await?;
        assert_eq!(scene.came("write"), (20.0, 20.0), "at once");
        Ok(())
    })?;
    story(async {
        let scene = Scene::new(SimSize { exchange_every: NEVER, ..SimSize::default() }).await?;
        scene.miss_all().await;
        scene.until_came("hint").await?;
        assert_eq!(scene.came("hint"), (20.0, 0.0), "a hint is as old as what it is a hint of");
        Ok(())
    })?;
    story(async {
        let scene = Scene::new(alone).await?;
        scene.miss_all().await;
        sleep(Duration::from_secs(10)).await;
        scene.read_all().await;
        scene.until_came("read_repair").await?;
        assert_eq!(scene.came("read_repair"), (20.0, 0.0));
        Ok(())
    })?;
    let trees_every = Duration::from_secs(8);
    story(async {
        let scene = Scene::new(SimSize { trees_every, ..alone }).await?;
        scene.miss_all().await;
        scene.until_came("trees").await?;
        assert_eq!(scene.came("trees"), (20.0, 0.0));
        Ok(())
    })
}

#[test]
fn sim_it_is_told_for_how_long_something_has_been_missing() -> Result<()> {
    story(async {
        let scene = Scene::new(SimSize { hints: 0, ..SimSize::default() }).await?;
        let missing = || scene.metric("quorate_exchange_missing_oldest_seconds").unwrap();
        scene.0.set_almost_full(2, true)?;
        scene.miss_all().await;
        sleep(Duration::from_secs(30)).await;
        let oldest = missing();
        assert!((15.0..45.0).contains(&oldest), "since it was found out: {oldest}");
        scene.0.set_almost_full(2, false)?;
        scene.until_came("exchange").await?;
        assert_eq!(scene.came("exchange"), (20.0, 0.0), "they are as old as they are");
        sleep(Duration::from_secs(10)).await;
        assert_eq!(missing(), 0.0, "nothing is missing any more");
        Ok(())
    })
}
