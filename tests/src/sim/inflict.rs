//! Bringing the faults of a schedule over a cluster, and noting what nodes may have lost by them.
//!
//! What a power cut may take is known from the schedule alone: a node syncs what it has, ten times a
//! second, unless it stands still, its disk fails, or it does not run.
//!
//! ```text
//!   written │◄─ 200 ms ─►│ power cut            the last 200 ms may be lost
//!   written │◄─ 200 ms ─►│ paused ... power cut   and all since, if it was paused meanwhile
//! ```

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use quorate_node::dynamo::key::Key;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::faults::Fault;
use super::world::{NAMESPACE, World};
use super::{SYNC_EVERY, SimCluster, node};
use crate::history::{Entry, Loss, LossKind, Moment};

/// How long a running node may take to have on disk what it was given: a sync may have begun just
/// before.
const SYNCED_AFTER_MS: u64 = 2 * SYNC_EVERY.as_millis() as u64;

/// Why a node does not sync.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stall {
    Down,
    Paused,
    Failed,
    Full,
}

/// Since when a node may have had things that were not on its disk.
#[derive(Default)]
struct Unsynced {
    stalls: BTreeSet<Stall>,
    /// What was given to it before then was on disk when it stalled last.
    since: Moment,
    /// When that was over.
    until_ms: u64,
}

impl Unsynced {
    fn stall(&mut self, stall: Stall, world: &World) {
        self.since = self.since(world);
        self.stalls.insert(stall);
    }

    fn end(&mut self, stall: Stall, world: &World) {
        if self.stalls.remove(&stall) && self.stalls.is_empty() {
            self.until_ms = world.elapsed_ms();
        }
    }

    /// Whatever was acknowledged before then is on disk now.
    fn since(&self, world: &World) -> Moment {
        let now_ms = world.elapsed_ms();
        match self.stalls.is_empty() && now_ms >= self.until_ms + SYNCED_AFTER_MS {
            true => world.moment_at(now_ms.saturating_sub(SYNCED_AFTER_MS)),
            false => self.since,
        }
    }
}

/// Looks at what a fault left, before others make good what a node should not have lost.
fn look_after(fault: Fault, world: &World, cluster: &SimCluster) -> Result<()> {
    if let Fault::CutPower(at) | Fault::Wipe(at) | Fault::RollBack(at) = fault {
        world.forget_hints(at);
    }
    match fault {
        Fault::Kill(at) | Fault::CutPower(at) | Fault::RollBack(at) | Fault::Free(at) => {
            world.look(cluster, at, false)
        }
        _ => Ok(()),
    }
}

/// Brings faults over a cluster.
pub(super) struct Injuries<'a> {
    world: &'a World,
    rng: ChaCha8Rng,
    /// When each node's data directory was copied.
    copied: BTreeMap<usize, Moment>,
    /// When what its second process began with was copied.
    twins: BTreeMap<usize, Moment>,
    /// Records that were damaged: node, namespace and key.
    rotten: Vec<(usize, String, String)>,
    /// What of each node may not be on its disk.
    unsynced: BTreeMap<usize, Unsynced>,
    /// Whether any node may have lost something.
    lossy: bool,
    /// Whether all others remember more of a node than its copy holds.
    found_out: bool,
}

impl<'a> Injuries<'a> {
    pub(super) fn new(world: &'a World, seed: u64) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed ^ 0xfa17);
        let (copied, twins, unsynced) = <(_, _, _)>::default();
        Self {
            world,
            rng,
            copied,
            twins,
            rotten: Vec::new(),
            unsynced,
            lossy: false,
            found_out: false,
        }
    }

    /// From now on all others remember more of a node than its copy holds, and stay: whoever is asked tells.
    pub(super) fn copies_are_found_out(&mut self) {
        self.found_out = true;
    }

    pub(super) fn bring(&mut self, fault: Fault) -> Result<()> {
        let world = self.world;
        world.note(|| format!("fault: {fault}"));
        world.look_at_metadata();
        self.stall(fault);
        let mut cluster = world.cluster.borrow_mut();
        world.look_at_hints(&cluster)?;
        match fault {
            Fault::Cut(..) | Fault::Part(..) | Fault::Isolate(_) | Fault::Split(_) => {
                fault.links(world.nodes).for_each(|(from, to)| cluster.cut_one_way(from, to));
            }
            Fault::Mend(..) | Fault::Join(..) | Fault::Admit(_) | Fault::Unite(_) => {
                fault.links(world.nodes).for_each(|(from, to)| cluster.mend_one_way(from, to));
            }
            Fault::Slow(from, to, ms) => cluster.slow(from, to, ms),
            Fault::Weather(of_1000) => cluster.weather(of_1000),
            Fault::Kill(at) => cluster.kill(at),
            Fault::CutPower(at) => {
                cluster.cut_power(at, &mut self.rng);
                let since = self.unsynced.entry(at).or_default().since(world);
                self.lost(&cluster, at, LossKind::PowerCut(since))?;
            }
            Fault::Start(at) if cluster.start_again(at)? => self.opened(at),
            Fault::Start(_) => {}
            Fault::Pause(at) => cluster.pause(at),
            Fault::Resume(at) => cluster.resume(at),
            Fault::SetClock(at, ahead_ms) => cluster.set_clock(at, ahead_ms),
            Fault::Drift(at, gains_ms) => cluster.set_drift(at, gains_ms),
            Fault::Wipe(at) => {
                cluster.wipe(at)?;
                self.opened(at);
                self.lost(&cluster, at, LossKind::Wiped)?;
            }
            Fault::Copy(at) => {
                if cluster.copy(at)? {
                    self.copied.insert(at, self.world.moment());
                }
            }
            Fault::RollBack(at) => {
                if cluster.roll_back(at)? {
                    self.opened(at);
                    let since = self.copied[&at];
                    let kind = match self.found_out {
                        true => LossKind::FoundOut(since),
                        false => LossKind::RolledBack(since),
                    };
                    self.lost(&cluster, at, kind)?;
                }
            }
            Fault::Twin(at) if cluster.start_twin(at)? => {
                self.twins.insert(at, self.copied[&at]);
                self.push(at, LossKind::Doubled);
            }
            Fault::Twin(_) => {}
            Fault::EndTwin(at) => {
                if cluster.end_twin(at) {
                    self.lost(&cluster, at, LossKind::RolledBack(self.twins[&at]))?;
                }
            }
            Fault::Rot(at, pick) => {
                world.add_rotten(at);
                self.rotted(at, cluster.rot(world.view(), at, pick)?);
            }
            Fault::FailSync(at) => cluster.fail_sync(at),
            Fault::Fill(at) => cluster.set_disk_full(at, true)?,
            Fault::Free(at) => cluster.set_disk_full(at, false)?,
            Fault::Squeeze(at) => cluster.squeeze(at)?,
            Fault::Relieve(at) => cluster.relieve(at)?,
        }
        look_after(fault, world, &cluster)
    }

    /// Notes who stops syncing now, and who begins again.
    fn stall(&mut self, fault: Fault) {
        let (at, stall, begins) = match fault {
            Fault::Kill(at) | Fault::CutPower(at) => (at, Stall::Down, true),
            Fault::Pause(at) => (at, Stall::Paused, true),
            Fault::Resume(at) => (at, Stall::Paused, false),
            Fault::FailSync(at) => (at, Stall::Failed, true),
            Fault::Fill(at) => (at, Stall::Full, true),
            Fault::Free(at) => (at, Stall::Full, false),
            _ => return,
        };
        let (world, of) = (self.world, self.unsynced.entry(at).or_default());
        match begins {
            true => of.stall(stall, world),
            false => of.end(stall, world),
        }
    }

    /// Notes that a node opened its store anew.
    fn opened(&mut self, at: usize) {
        let (world, of) = (self.world, self.unsynced.entry(at).or_default());
        of.end(Stall::Down, world);
        of.end(Stall::Failed, world);
    }

    /// Notes that a record rots. By itself nothing is lost, since all other owners can mend it, if
    /// they are all who have the key.
    fn rotted(&mut self, at: usize, record: Option<(String, String)>) {
        match record {
            // A hint of it may be elsewhere, and come home later.
            Some((namespace, key)) if self.lossy || self.world.workload.sloppy => {
                self.push(at, LossKind::Rotten { namespace, key });
            }
            Some((namespace, key)) => self.rotten.push((at, namespace, key)),
            None => {}
        }
    }

    fn push(&self, at: usize, kind: LossKind) {
        let (at, node) = (self.world.moment(), node(at).0);
        self.world.push(Entry::Loss(Loss { at, node, kind }));
    }

    /// A node's record of a key is gone, and no checksum tells.
    pub(super) fn lose(&self, at: usize, key: String) -> Result<()> {
        self.world.cluster.borrow().replace(at, NAMESPACE, &Key::new(key.clone())?, None)?;
        let namespace = NAMESPACE.to_owned();
        self.push(at, LossKind::Rotten { namespace, key });
        Ok(())
    }

    /// Notes that a node may have lost something. What is damaged elsewhere by now, and not mended
    /// yet, or will be damaged, is as good as lost.
    fn lost(&mut self, cluster: &SimCluster, at: usize, kind: LossKind) -> Result<()> {
        for (damaged, namespace, key) in std::mem::take(&mut self.rotten) {
            match cluster.is_damaged(damaged, &namespace, &Key::new(key.clone())?)? {
                true => self.push(damaged, LossKind::Rotten { namespace, key }),
                // Unless what mended it is lost in a power cut.
                false => self.rotten.push((damaged, namespace, key)),
            }
        }
        self.push(at, kind);
        self.lossy = true;
        Ok(())
    }
}
