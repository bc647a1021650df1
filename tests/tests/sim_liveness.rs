//! Who is seen as alive, suspect or down: by whom, how soon, and never falsely for long.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use anyhow::{Result, bail};
use quorate_node::liveness::Health;
use quorate_node::transport::memory::Faults;
use quorate_tests::sim::story::{add, counted};
use quorate_tests::sim::{SimCluster, node, simulate};
use tokio::time::sleep;

const NODES: usize = 5;
const SEEDS: u64 = 5;

/// In seconds: how long it may take until all have heard that a node is down, or there again. A node
/// asks one other a second and a suspect has three, and what one hears goes around.
const NOTICED: u64 = 12;

/// Tells the story of a cluster whose nodes have heard of each other, under some seeds.
fn story<F>(tell: impl Fn(SimCluster) -> F)
where
    F: Future<Output = Result<SimCluster>>,
{
    counted(SEEDS, || {
        for seed in 1..=SEEDS {
            simulate(async {
                let cluster = SimCluster::start(NODES, seed).await?;
                all_see_all(&cluster, Health::Alive).await?;
                let mut cluster = tell(cluster).await?;
                // Whatever happened, all look on.
                cluster.kill(0);
                see(&cluster, &[1, 2, 3, 4], &[0], Health::Down).await
            })
            .unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        }
    });
}

/// What one node has heard of another.
fn seen(cluster: &SimCluster, by: usize, of: usize) -> Option<Health> {
    add(1);
    let liveness = cluster.coordinator(by)?.liveness().clone();
    liveness.of(node(of)).and_then(|sighting| sighting.health)
}

/// Waits until each of `by` has heard that of each of `of`, itself left out.
async fn see(cluster: &SimCluster, by: &[usize], of: &[usize], health: Health) -> Result<()> {
    let pairs = || by.iter().flat_map(|&one| of.iter().map(move |&other| (one, other)));
    let not_yet = || {
        let mut others = pairs().filter(|(one, other)| one != other);
        others.find(|&(one, other)| seen(cluster, one, other) != Some(health))
    };
    for _ in 0..NOTICED * 10 {
        if not_yet().is_none() {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    match not_yet() {
        None => Ok(()),
        Some((one, other)) => {
            let found = seen(cluster, one, other);
            bail!("node {one} sees node {other} as {found:?}, not as {health:?}")
        }
    }
}

async fn all_see_all(cluster: &SimCluster, health: Health) -> Result<()> {
    let all: Vec<usize> = (0..NODES).collect();
    see(cluster, &all, &all, health).await
}

/// Fails if for so long anybody is seen so by anybody.
async fn nobody_is(cluster: &SimCluster, health: Health, seconds: u64) -> Result<()> {
    for _ in 0..seconds * 10 {
        for (one, other) in (0..NODES * NODES).map(|pair| (pair / NODES, pair % NODES)) {
            if seen(cluster, one, other) == Some(health) {
                bail!("node {one} sees node {other} as {health:?}");
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

#[test]
fn sim_a_killed_node_is_down_and_then_alive_again_everywhere() {
    story(|mut cluster| async move {
        cluster.kill(4);
        see(&cluster, &[0, 1, 2, 3], &[4], Health::Down).await?;
        sleep(Duration::from_secs(120)).await;
        cluster.restart(4)?;
        all_see_all(&cluster, Health::Alive).await?;
        nobody_is(&cluster, Health::Down, 30).await?;
        Ok(cluster)
    });
}

#[test]
fn sim_a_node_that_starts_says_so_before_others_noticed_that_it_was_gone() {
    story(|mut cluster| async move {
        cluster.kill(2);
        cluster.restart(2)?;
        sleep(Duration::from_secs(1)).await;
        nobody_is(&cluster, Health::Suspect, 60).await?;
        Ok(cluster)
    });
}

#[test]
fn sim_a_node_whose_clock_was_set_back_is_heard_after_its_start() {
    story(|mut cluster| async move {
        cluster.kill(1);
        see(&cluster, &[0, 2, 3, 4], &[1], Health::Down).await?;
        cluster.set_clock(1, -3_600_000);
        cluster.restart(1)?;
        all_see_all(&cluster, Health::Alive).await?;
        Ok(cluster)
    });
}

#[test]
fn sim_a_node_that_stood_still_is_down_and_then_alive_again() {
    story(|mut cluster| async move {
        cluster.pause(3);
        see(&cluster, &[0, 1, 2, 4], &[3], Health::Down).await?;
        cluster.resume(3);
        // It was away, not they.
        for _ in 0..100 {
            let down =
                [0, 1, 2, 4].into_iter().find(|&of| seen(&cluster, 3, of) == Some(Health::Down));
            assert_eq!(down, None);
            sleep(Duration::from_millis(100)).await;
        }
        all_see_all(&cluster, Health::Alive).await?;
        nobody_is(&cluster, Health::Down, 30).await?;
        Ok(cluster)
    });
}

#[test]
fn sim_bad_links_make_nobody_suspect() {
    story(|cluster| async move {
        cluster.cut_one_way(0, 1);
        cluster.cut(2, 3);
        // Others ask on behalf of those that cannot, and tell.
        nobody_is(&cluster, Health::Suspect, 120).await?;
        Ok(cluster)
    });
}

#[test]
fn sim_a_bad_network_makes_nobody_down_for_long() {
    story(|cluster| async move {
        let bad = Faults { latency_ms: 1..=60, loss: 0.03, duplication: 0.03, ..Faults::default() };
        cluster.set_faults(bad);
        nobody_is(&cluster, Health::Down, 120).await?;
        cluster.set_faults(Faults::default());
        all_see_all(&cluster, Health::Alive).await?;
        Ok(cluster)
    });
}

#[test]
fn sim_both_sides_of_a_partition_see_each_other_as_down_and_as_alive_after_it() {
    story(|cluster| async move {
        let (left, right) = ([0, 1], [2, 3, 4]);
        for (one, other) in left.into_iter().flat_map(|one| right.map(|other| (one, other))) {
            cluster.cut(one, other);
        }
        see(&cluster, &left, &right, Health::Down).await?;
        see(&cluster, &right, &left, Health::Down).await?;
        see(&cluster, &left, &left, Health::Alive).await?;
        see(&cluster, &right, &right, Health::Alive).await?;
        sleep(Duration::from_secs(60)).await;
        for (one, other) in left.into_iter().flat_map(|one| right.map(|other| (one, other))) {
            cluster.reconnect(one, other);
        }
        all_see_all(&cluster, Health::Alive).await?;
        Ok(cluster)
    });
}

/// A node that hears nobody takes all others for dead, and they it.
#[test]
fn sim_a_node_that_was_cut_off_alone_comes_back() {
    story(|cluster| async move {
        let others = [0, 1, 2, 3];
        others.iter().for_each(|&other| cluster.cut(4, other));
        see(&cluster, &[4], &others, Health::Down).await?;
        see(&cluster, &others, &[4], Health::Down).await?;
        others.iter().for_each(|&other| cluster.reconnect(4, other));
        all_see_all(&cluster, Health::Alive).await?;
        Ok(cluster)
    });
}
