//! Runs that seeds come to too rarely, told step by step, and judged by the same checkers.
//!
//! ```text
//!   start ─► the story, of one client and one key ─► heal ─► read all, repair ─► look ─► check
//! ```
//!
//! They are what gives away planted defects that want one interleaving of many ([`mutants`]). A story
//! asserts nothing of what its client is told: that is left to checkers, which know no stories.
//!
//! [`mutants`]: super::mutants

use anyhow::{Result, bail};
use quorate_node::dynamo::key::Key;
use tokio::time::{Duration, sleep};

use super::client::Client;
use super::faults::{Fault, Schedule};
use super::inflict::Injuries;
use super::run::{Report, Scenario, all_become_alike, all_goes_home, set_right, settle};
use super::workload::{Mix, Workload};
use super::world::{NAMESPACE, World, key_name};

/// What latencies and actors are drawn from.
const SEED: u64 = 1;

/// One that is no owner, where three are.
const NODES: usize = 4;

/// Every node has noticed by then who is away or back, and told what it owes to whom.
const NOTICED: Duration = Duration::from_secs(10);

/// Whoever reads all of its records again has done so by then.
const REREAD: Duration = Duration::from_secs(20);

/// Tells a story: each time the same.
pub type Story = fn() -> Result<Report>;

/// All of them, by name.
pub const STORIES: [(&str, Story); 11] = [
    ("a_copy_is_put_in_the_place_of_a_store", a_copy_is_put_in_the_place_of_a_store),
    ("a_fallback_writes_again_what_went_home", a_fallback_writes_again_what_went_home),
    ("a_hint_cannot_go_home_yet", a_hint_cannot_go_home_yet),
    ("a_record_is_gone_without_a_trace", a_record_is_gone_without_a_trace),
    ("an_owner_comes_back_from_a_power_cut", an_owner_comes_back_from_a_power_cut),
    ("an_owner_forgot_what_it_had_seen", an_owner_forgot_what_it_had_seen),
    ("nobody_owes_what_owners_missed", nobody_owes_what_owners_missed),
    ("the_one_that_knows_is_away", the_one_that_knows_is_away),
    ("others_are_asked_about_a_write", others_are_asked_about_a_write),
    ("what_one_lets_persist_others_keep", what_one_lets_persist_others_keep),
    ("one_clock_is_an_hour_ahead", one_clock_is_an_hour_ahead),
];

/// Two of three owners acknowledge a write, and one of these is started again from an older copy, beside the
/// third one, which heard of the write and could not take it.
pub fn a_copy_is_put_in_the_place_of_a_store() -> Result<Report> {
    tell_strict(async |stage| {
        let [copied, other, full] = stage.three();
        stage.bring(Fault::Copy(copied))?;
        stage.bring(Fault::Squeeze(full))?;
        stage.client.write_blind(copied, 2).await;
        stage.until_remembered(copied).await?;
        stage.injuries.copies_are_found_out();
        stage.bring(Fault::Isolate(other))?;
        stage.bring(Fault::RollBack(copied))?;
        // As long as no owner looks what it missed.
        sleep(Duration::from_secs(3)).await;
        stage.client.read_told(copied, 2).await;
        stage.bring(Fault::Admit(other))?;
        stage.bring(Fault::Relieve(full))
    })
}

/// Again and again two of three owners acknowledge a write, and one of these loses its power, and with it
/// the write, mostly. It comes back beside the third one, which missed it.
pub fn an_owner_comes_back_from_a_power_cut() -> Result<Report> {
    tell_strict(async |stage| {
        let [cut, other, missed] = stage.three();
        for _ in 0..4 {
            stage.bring(Fault::Isolate(missed))?;
            stage.client.write_blind(other, 2).await;
            stage.bring(Fault::CutPower(cut))?;
            stage.bring(Fault::Isolate(other))?;
            stage.bring(Fault::Join(cut, missed))?;
            stage.bring(Fault::Start(cut))?;
            sleep(Duration::from_secs(3)).await;
            stage.client.read_told(cut, 2).await;
            stage.bring(Fault::Admit(missed))?;
            stage.bring(Fault::Admit(other))?;
            sleep(NOTICED).await;
        }
        Ok(())
    })
}

/// Twice the only owner is away, and the same fallback writes for it, blind: what it wrote first has
/// gone home meanwhile, and it keeps nothing of it.
pub fn a_fallback_writes_again_what_went_home() -> Result<Report> {
    tell(1, async |stage| {
        let (owner, fallback) = (stage.owners[0], stage.others[0]);
        for _ in 0..2 {
            stage.bring(Fault::Kill(owner))?;
            stage.client.write_blind(fallback, 1).await;
            stage.bring(Fault::Start(owner))?;
            all_goes_home(stage.world, None).await?;
        }
        Ok(())
    })
}

/// The only owner is back, and its disk is full: what a fallback wrote for it stays there.
pub fn a_hint_cannot_go_home_yet() -> Result<Report> {
    tell(1, async |stage| {
        let (owner, fallback) = (stage.owners[0], stage.others[0]);
        stage.bring(Fault::Kill(owner))?;
        stage.client.write_blind(fallback, 1).await;
        stage.bring(Fault::Start(owner))?;
        stage.bring(Fault::Fill(owner))?;
        sleep(NOTICED).await;
        stage.client.read_told(owner, 1).await;
        stage.bring(Fault::Free(owner))
    })
}

/// Two of three owners acknowledge a write, and one of these loses it without a trace. When that is
/// noticed, it is asked beside the third one, which missed the write; and again after a restart.
pub fn a_record_is_gone_without_a_trace() -> Result<Report> {
    tell_strict(async |stage| {
        let [loses, other, missed] = stage.three();
        stage.world.cluster.borrow_mut().reread();
        stage.bring(Fault::Kill(loses))?;
        stage.bring(Fault::Start(loses))?;
        sleep(NOTICED).await;
        stage.bring(Fault::Isolate(missed))?;
        stage.client.write_blind(other, 2).await;
        stage.bring(Fault::Isolate(other))?;
        stage.injuries.lose(loses, key_name(0))?;
        sleep(REREAD).await;
        stage.bring(Fault::Join(loses, missed))?;
        sleep(Duration::from_secs(3)).await;
        stage.client.read_told(loses, 2).await;
        stage.bring(Fault::Kill(loses))?;
        stage.bring(Fault::Start(loses))?;
        sleep(Duration::from_secs(3)).await;
        stage.client.read_told(loses, 2).await;
        stage.bring(Fault::Admit(missed))?;
        stage.bring(Fault::Admit(other))?;
        sleep(NOTICED).await;
        Ok(())
    })
}

/// An owner that nobody hears has a write, by a level of one. A read of three finds two owners and a
/// fallback that have nothing, which are not three that would know.
pub fn the_one_that_knows_is_away() -> Result<Report> {
    tell(3, async |stage| {
        let (alone, other) = (stage.owners[0], stage.owners[1]);
        stage.bring(Fault::Isolate(alone))?;
        stage.client.write_blind(alone, 1).await;
        sleep(NOTICED).await;
        stage.client.read_told(other, 3).await;
        stage.bring(Fault::Admit(alone))
    })
}

/// An owner has a write, by a level of one, and is killed before it could keep it for the others: they
/// find out by themselves.
pub fn nobody_owes_what_owners_missed() -> Result<Report> {
    tell(3, async |stage| {
        let alone = stage.one_writes_alone().await?;
        stage.bring(Fault::Start(alone))?;
        stage.bring(Fault::Admit(alone))?;
        set_right(stage.world).await?;
        all_become_alike(stage.world).await
    })
}

/// The same; and when that owner opens its store again, a bit of its frontier has flipped: it is to
/// tell the others of a write that it no longer knows to have seen.
pub fn an_owner_forgot_what_it_had_seen() -> Result<Report> {
    tell(3, async |stage| {
        let alone = stage.one_writes_alone().await?;
        // The first row of all frontiers.
        stage.bring(Fault::Rot(alone, 0))?;
        stage.bring(Fault::Start(alone))?;
        stage.bring(Fault::Admit(alone))?;
        set_right(stage.world).await?;
        all_become_alike(stage.world).await
    })
}

/// An owner that nobody hears has a write, and too few others for its level. Its client asks another
/// owner what became of it, which cannot know.
pub fn others_are_asked_about_a_write() -> Result<Report> {
    tell(3, async |stage| {
        let (alone, other) = (stage.owners[0], stage.owners[1]);
        stage.bring(Fault::Isolate(alone))?;
        stage.client.write_blind(alone, 2).await;
        stage.client.resolve_by(other).await?;
        stage.bring(Fault::Admit(alone))
    })
}

/// A value lives for ten minutes, and the clock of one of its owners goes an hour ahead for a while.
pub fn one_clock_is_an_hour_ahead() -> Result<Report> {
    tell_strict(async |stage| {
        let [one, ahead, _] = stage.three();
        sleep(NOTICED).await;
        stage.client.write_for(one, 2, 600_000).await;
        stage.bring(Fault::SetClock(ahead, 3_600_000))?;
        sleep(NOTICED).await;
        stage.bring(Fault::SetClock(ahead, 0))
    })
}

/// A value is about to expire, and another node lets it live on.
pub fn what_one_lets_persist_others_keep() -> Result<Report> {
    tell_strict(async |stage| {
        let [one, other, _] = stage.three();
        sleep(NOTICED).await;
        stage.client.write_blind(one, 2).await;
        stage.client.persist_in_time(one, other).await
    })
}

/// Where a story happens, and to whom.
struct Stage<'a> {
    world: &'a World,
    client: Client<'a>,
    injuries: Injuries<'a>,
    /// The key's owners, and the other nodes.
    owners: Vec<usize>,
    others: Vec<usize>,
}

impl Stage<'_> {
    fn bring(&mut self, fault: Fault) -> Result<()> {
        self.injuries.bring(fault)
    }

    /// The owners of a key that has three.
    fn three(&self) -> [usize; 3] {
        [self.owners[0], self.owners[1], self.owners[2]]
    }

    /// Waits until all other owners remember a write that an owner said it had seen.
    async fn until_remembered(&self, of: usize) -> Result<()> {
        let key = Key::new(key_name(0))?;
        for _ in 0..300 {
            sleep(Duration::from_millis(100)).await;
            let cluster = self.world.cluster.borrow();
            let mut others = self.owners.iter().filter(|&&by| by != of);
            let all = others.try_fold(true, |all, &by| {
                cluster.remembers(by, of, NAMESPACE, &key).map(|writes| all && writes > 0)
            })?;
            if all {
                return Ok(());
            }
        }
        bail!("nobody compared what the owners have seen")
    }

    /// An owner that nobody hears acknowledges a write, and is down.
    async fn one_writes_alone(&mut self) -> Result<usize> {
        let alone = self.owners[0];
        self.bring(Fault::Isolate(alone))?;
        self.client.write_blind(alone, 1).await;
        self.bring(Fault::Kill(alone))?;
        Ok(alone)
    }
}

/// The story of a key with so many owners, by sloppy quorums, of which one at most fails at a time.
fn tell(n: usize, story: impl AsyncFnOnce(&mut Stage<'_>) -> Result<()>) -> Result<Report> {
    tell_of(workload(n), story)
}

/// The story of a key with three owners, by strict quorums.
fn tell_strict(story: impl AsyncFnOnce(&mut Stage<'_>) -> Result<()>) -> Result<Report> {
    tell_of(Workload { sloppy: false, steady: false, ..workload(3) }, story)
}

fn workload(n: usize) -> Workload {
    Workload {
        clients: 1,
        keys: 1,
        pause_ms: 0,
        mix: Mix::ALL,
        lww: false,
        n,
        synced_of_100: 0,
        timeout_ms: 2_000,
        retries: 0,
        weak_writes: true,
        administrators: 0,
        extra_n: [n; 2],
        sloppy: true,
        steady: true,
    }
}

fn tell_of(
    workload: Workload,
    story: impl AsyncFnOnce(&mut Stage<'_>) -> Result<()>,
) -> Result<Report> {
    let (length_ms, notice_ms, faults) = (0, 5_000, Schedule::default());
    let scenario = Scenario { seed: SEED, nodes: NODES, length_ms, notice_ms, workload, faults };
    scenario.run_as(false, async |world| {
        let (client, injuries) = (Client::told(SEED, world), Injuries::new(world, SEED));
        let owners = world.owners[0].clone();
        let others = (0..NODES).filter(|at| !owners.contains(at)).collect();
        let mut stage = Stage { world, client, injuries, owners, others };
        story(&mut stage).await?;
        set_right(world).await?;
        settle(world, &mut stage.client).await?;
        world.snapshot(true)
    })
}
