//! A run: a cluster, its clients and its faults, all from one seed, and what came of it.
//!
//! ```text
//!   start ─► clients work while faults come ─► look ─► heal ─► read all, repair ─► look ─► check
//! ```
//!
//! The first look is at what faults left, before anything could mend it; the second at what stands
//! in the end.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use futures::FutureExt as _;
use futures::future::join_all;
use quorate_node::coordinator::Get;
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::metadata::document::{Conflict, NewNamespace};
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until};

use super::administrator::Administrator;
use super::client::Client;
use super::faults::{Fault, Planned, Schedule};
use super::inflict::Injuries;
use super::panics::noticing_panics;
use super::workload::Workload;
use super::world::{NAMESPACE, World, key_name};
use super::{SimCluster, SimSize, simulate, strict};
use crate::checkers::{Verdict, Violation, check};
use crate::history::{Entry, History, Namespace};

/// How often it is looked who owes what: well within the time that it takes a node to sync.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// When all hints are home at the latest, once all nodes are there; and all owners the same.
const HOME_AFTER_S: u64 = 60;
const ALIKE_AFTER_S: u64 = 120;

/// The client that works while one node is away.
const CORE_CLIENT: u64 = 1_000;

/// All that decides a run. As JSON it can be kept, and run again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Scenario {
    /// Decides whatever the rest leaves open: latencies, what clients do, actors, ...
    pub seed: u64,
    /// How many nodes there are; the first three, or all of fewer, vote.
    pub nodes: usize,
    /// How long clients work and faults come, in milliseconds.
    pub length_ms: u64,
    /// How long nodes do not notice that others are silent, in milliseconds.
    pub notice_ms: u64,
    /// What clients do.
    pub workload: Workload,
    /// What goes wrong.
    pub faults: Schedule,
}

/// What came of a run.
pub struct Report {
    /// What clients and nodes saw.
    pub history: History,
    /// What administrators saw, of namespaces that come and go.
    pub extra: History,
    /// What was seen to be wrong meanwhile; the rest is for checkers to find in the histories.
    pub violations: Vec<Violation>,
    /// What ended it early, or an assert that fired anywhere in it.
    pub failure: Option<Error>,
    /// Deliveries and notes, in order; empty if none were asked for.
    pub trace: Vec<String>,
    /// A hash of all messages that were delivered, with their times.
    pub fingerprint: u64,
    /// How long it took the cluster, in simulated milliseconds.
    pub simulated_ms: u64,
}

impl Report {
    /// All that is wrong with it, in both histories and beside them; and how much there was to judge.
    pub fn verdict(&self) -> Verdict {
        let (mut verdict, extra) = (check(&self.history), check(&self.extra));
        let failed = self.failure.iter().map(|why| Violation {
            invariant: "the run",
            text: format!("{why:#}"),
            operations: Vec::new(),
        });
        verdict.violations.splice(0..0, failed);
        verdict.violations.extend(extra.violations);
        verdict.violations.extend(self.violations.iter().cloned());
        verdict.acknowledged += extra.acknowledged;
        verdict.excused += extra.excused;
        verdict
    }
}

impl Scenario {
    /// Runs it. A panic anywhere in it is a failure: an assert is a checker too. An error: there was
    /// no cluster to begin with.
    pub fn run(&self, traced: bool) -> Result<Report> {
        self.run_as(traced, async |world| self.run_in(world).await)
    }

    /// The same, with this in the place of what clients and faults do, and of the end.
    pub(super) fn run_as(
        &self,
        traced: bool,
        work: impl AsyncFnOnce(&World) -> Result<()>,
    ) -> Result<Report> {
        let (panic, report) = noticing_panics(|| simulate(self.run_through(traced, work)));
        let mut report = report?;
        report.failure = panic.map(Error::msg).or(report.failure);
        Ok(report)
    }

    /// To its end, or as far as it comes: what led there is told in either case.
    async fn run_through(
        &self,
        traced: bool,
        work: impl AsyncFnOnce(&World) -> Result<()>,
    ) -> Result<Report> {
        let begun = Instant::now();
        let world = self.start(traced).await?;
        let unwound = |_| Err(anyhow!("it panicked"));
        let watched = async {
            tokio::select! {
                biased;
                ran = work(&world) => ran,
                failed = watch_hints(&world) => failed,
            }
        };
        let ran = AssertUnwindSafe(watched).catch_unwind().await;
        let failure = ran.unwrap_or_else(unwound).err();
        let simulated_ms = begun.elapsed().as_millis() as u64;
        let (trace, fingerprint) = {
            let cluster = world.cluster.borrow();
            (cluster.trace(), cluster.fingerprint())
        };
        let (history, extra, violations) = world.into_parts();
        Ok(Report { history, extra, violations, failure, trace, fingerprint, simulated_ms })
    }

    async fn run_in(&self, world: &World) -> Result<()> {
        self.work(world).await?;
        world.snapshot(false)?;
        let laws = world.cluster.borrow().merge_laws(world.view())?;
        world.add_violations(laws);
        heal(world, self.seed).await.context("healing")?;
        world.snapshot(true)
    }

    async fn start(&self, traced: bool) -> Result<World> {
        // As few as there can be: keys that share one share its frontier and its actors.
        let (voters, partitions) = (self.nodes.min(3), 8);
        let notice = Duration::from_millis(self.notice_ms);
        let size = SimSize { voters, partitions, traced, notice, ..SimSize::default() };
        let cluster = SimCluster::sized(self.nodes, self.seed, size).await?;
        let Workload { lww, n, sloppy, steady, .. } = self.workload;
        let conflict = if lww { Conflict::Lww } else { Conflict::Siblings };
        let owners = u8::try_from(n).context("a key has few owners")?;
        let things = NewNamespace { conflict, n: owners, sloppy, ..strict(NAMESPACE) };
        cluster.create_namespace(things).await?;
        // Clocks are compared before they order writes.
        sleep(Duration::from_secs(3)).await;
        let world = World::new(cluster, self.workload)?;
        world.push(Entry::Namespace(Namespace { name: NAMESPACE.to_owned(), n, lww, steady }));
        Ok(world)
    }

    async fn work(&self, world: &World) -> Result<()> {
        let begun = Instant::now();
        let until = begun + Duration::from_millis(self.length_ms);
        let client = |id| Client::new(id, self.seed, world).run(until);
        let clients = join_all((1..=self.workload.clients as u64).map(client));
        let administrator = |number| Administrator::new(number, self.seed, world).run(until);
        let administrators = join_all((0..self.workload.administrators).map(administrator));
        let injure = async {
            let mut injuries = Injuries::new(world, self.seed);
            for Planned { at_ms, fault } in &self.faults.0 {
                sleep_until(begun + Duration::from_millis(*at_ms)).await;
                injuries.bring(*fault).with_context(|| fault.to_string())?;
            }
            for index in 0..world.nodes {
                injuries.bring(Fault::EndTwin(index))?;
            }
            anyhow::Ok(())
        };
        let keep_open = async {
            loop {
                sleep(Duration::from_millis(250)).await;
                world.cluster.borrow_mut().reopen_ended()?;
                world.look_at_metadata();
            }
        };
        tokio::select! {
            biased;
            (_, _, injured) = async { tokio::join!(clients, administrators, injure) } => injured,
            failed = keep_open => failed,
        }
    }
}

/// Sets everything right; every node must serve again.
async fn heal(world: &World, seed: u64) -> Result<()> {
    set_right(world).await?;
    if (0..world.nodes).all(|at| !world.is_rotten(at)) {
        // Without a read.
        all_become_alike(world).await?;
    }
    if world.workload.sloppy && world.quorum() < world.workload.n {
        read_all_keys(world).await?;
        with_one_away(world, seed).await.context("with one node away")?;
    }
    let mut client = Client::new(0, seed, world);
    for at in 0..world.nodes {
        client.must_be_served(at).await.with_context(|| format!("node {at} does not serve"))?;
    }
    settle(world, &mut client).await?;
    for at in 0..world.nodes {
        let (cluster, _) = world.metadata(at).context("every node runs")?;
        if let Some(alarm) = cluster.alarm() {
            let text = format!("node {at} found two documents of one version: {alarm:?}");
            world.add_violations([Violation { invariant: "I7", text, operations: Vec::new() }]);
        }
    }
    Ok(())
}

/// Ends all faults, and waits until every node is whole and known to be there.
pub(super) async fn set_right(world: &World) -> Result<()> {
    world.note(|| "healing".to_owned());
    world.cluster.borrow_mut().set_right()?;
    for _ in 0..120 {
        sleep(Duration::from_secs(1)).await;
        let mut cluster = world.cluster.borrow_mut();
        cluster.reopen_ended()?;
        if (0..world.nodes).all(|index| cluster.is_whole(index)) {
            break;
        }
    }
    sleep(Duration::from_secs(10)).await;
    all_are_alive(world).await
}

/// Every client learns what became of its writes. Then every key is read from all owners and repaired.
pub(super) async fn settle(world: &World, client: &mut Client<'_>) -> Result<()> {
    client.settle_unknown().await;
    read_all_keys(world).await?;
    all_goes_home(world, None).await?;
    read_all_keys(world).await?;
    all_become_alike(world).await
}

/// Looks which hints are gone, so often that what made them go is still to be seen.
async fn watch_hints(world: &World) -> Result<()> {
    loop {
        sleep(LOOK_EVERY).await;
        world.look_at_hints(&world.cluster.borrow())?;
    }
}

/// All nodes but one are there, and hold quorums of every key: whoever asks any of them is served, and
/// what they owe to each other goes home.
async fn with_one_away(world: &World, seed: u64) -> Result<()> {
    let away = seed as usize % world.nodes;
    world.note(|| format!("without node {away}"));
    world.cluster.borrow_mut().kill(away);
    sleep(Duration::from_secs(10)).await;
    let mut client = Client::plain(CORE_CLIENT, seed, world);
    for at in (0..world.nodes).filter(|&at| at != away) {
        client.must_serve_all(at).await?;
    }
    all_goes_home(world, Some(away)).await?;
    world.cluster.borrow_mut().restart(away)?;
    all_are_alive(world).await
}

/// Waits until no hint is left, but for those that are kept by, or for, a node that is away.
pub(super) async fn all_goes_home(world: &World, away: Option<usize>) -> Result<()> {
    for _ in 0..HOME_AFTER_S {
        if world.owes(away)?.is_none() {
            return Ok(());
        }
        sleep(Duration::from_secs(1)).await;
    }
    let owes = world.owes(away)?;
    owes.map_or(Ok(()), |(one, other)| bail!("node {one} still keeps hints for {other:016x}"))
}

/// Waits until the owners of each key hold the same, have seen the same, and no hint is left.
pub(super) async fn all_become_alike(world: &World) -> Result<()> {
    for _ in 0..ALIKE_AFTER_S {
        if world.disagreement()?.is_none() {
            return Ok(());
        }
        sleep(Duration::from_secs(1)).await;
    }
    world.add_violations(world.disagreement()?);
    Ok(())
}

/// Waits until every node has heard that every other one is there.
async fn all_are_alive(world: &World) -> Result<()> {
    let mut otherwise = None;
    for _ in 0..30 {
        otherwise = world.cluster.borrow().seen_otherwise();
        if otherwise.is_none() {
            return Ok(());
        }
        sleep(Duration::from_secs(1)).await;
    }
    let (one, other, health) = otherwise.expect("or it had returned");
    bail!("node {one} sees node {other} as {health:?} when all are there again")
}

/// Reads every key from all owners: what is damaged is mended then, and takes hints again.
async fn read_all_keys(world: &World) -> Result<()> {
    for key in 0..world.workload.keys {
        read_all(world, key).await?;
    }
    Ok(())
}

/// Reads a key from all owners until that works: what is damaged is mended after a read that failed.
async fn read_all(world: &World, key: u64) -> Result<()> {
    let mut failure = None;
    for _ in 0..20 {
        let coordinator = world.cluster.borrow().coordinator(0).context("node 0 runs")?;
        let get = Get {
            // A fallback would stand in for an owner whose record is damaged, which then stays so.
            sloppy: Some(false),
            namespace: NAMESPACE.to_owned(),
            key: Key::new(key_name(key))?,
            r: Some(Level::All),
            repair: Repair::Blocking,
            replica: None,
            timeout: Duration::from_secs(5),
        };
        match coordinator.get(get).await {
            Ok(_) => return Ok(()),
            Err(error) => failure = Some(error),
        }
        sleep(Duration::from_secs(1)).await;
    }
    bail!("{} cannot be read from all owners: {failure:?}", key_name(key))
}
