//! Kinds of runs: what may go wrong in them, and what clients do meanwhile.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::faults::{Dangers, Range, Schedule};
use super::run::Scenario;
use super::workload::{Mix, Workload};

/// Of so many runs one is crowded.
const CROWD_EVERY: u32 = 16;

/// A kind of run. A seed makes it a [`Scenario`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Profile {
    /// How many nodes there are.
    pub nodes: usize,
    /// What may go wrong.
    pub dangers: Dangers,
    /// Whether the last write wins.
    pub lww: bool,
    /// How long clients work, in milliseconds.
    pub length_ms: u64,
    /// How many administrators change the metadata; none: in half of the runs there is one.
    pub administrators: Option<u64>,
    /// How many owners a key has; none: three in half of the runs, else what nodes and faults allow.
    pub owners: Option<usize>,
    /// Whether fallbacks count. There are some then: not every node owns a key.
    pub sloppy: bool,
    /// Whether one node fails at a time, and comes back before another one does.
    pub steady: bool,
}

impl Profile {
    /// Siblings, and faults that leave acknowledged writes where they are.
    pub const SIBLINGS: Self = Self {
        nodes: 5,
        dangers: Dangers::HARMLESS,
        lww: false,
        length_ms: 12_000,
        administrators: None,
        owners: None,
        sloppy: false,
        steady: false,
    };
    /// Siblings on three nodes: whatever goes wrong concerns every key.
    pub const THREE: Self = Self { nodes: 3, ..Self::SIBLINGS };
    /// Siblings, and nodes that lose what they acknowledged.
    pub const EVERYTHING: Self = Self { dangers: Dangers::ALL, ..Self::SIBLINGS };
    /// The last write wins.
    pub const LWW: Self = Self { lww: true, ..Self::SIBLINGS };
    /// The last write wins, on three nodes, all of them owners of each key, of which nothing goes
    /// wrong but clocks and links.
    pub const LWW_CLOCKS: Self = Self {
        nodes: 3,
        owners: Some(3),
        dangers: Dangers { network: true, clocks: true, ..Dangers::NONE },
        ..Self::LWW
    };
    /// The last write wins, and nodes lose what they acknowledged.
    pub const LWW_EVERYTHING: Self = Self { lww: true, ..Self::EVERYTHING };
    /// Siblings on three nodes, all of them owners of each key, of which nothing goes wrong but that
    /// batches find too little room.
    pub const SQUEEZED: Self =
        Self { dangers: Dangers { room: true, ..Dangers::NONE }, owners: Some(3), ..Self::THREE };
    /// Metadata changes all the time, while voters are cut off and wiped.
    pub const VOTERS: Self = Self {
        dangers: Dangers { network: true, bridges: true, ..Dangers::NONE },
        administrators: Some(4),
        ..Self::THREE
    };

    /// Siblings and sloppy quorums, and faults that leave acknowledged writes where they are.
    pub const SLOPPY: Self = Self { sloppy: true, ..Self::SIBLINGS };
    /// Siblings and sloppy quorums, and nodes that lose what they acknowledged.
    pub const SLOPPY_EVERYTHING: Self = Self { sloppy: true, ..Self::EVERYTHING };
    /// The last write wins, by sloppy quorums, and nodes lose what they acknowledged.
    pub const SLOPPY_LWW: Self = Self { sloppy: true, ..Self::LWW_EVERYTHING };
    /// Sloppy quorums of three owners, of which one at most fails at a time: whoever asks another node
    /// until one answers is answered, and nobody denies what was acknowledged.
    pub const STEADY: Self = Self {
        steady: true,
        owners: Some(3),
        administrators: Some(0),
        length_ms: 20_000,
        ..Self::SLOPPY
    };

    /// The run of a seed.
    pub fn scenario(self, seed: u64) -> Scenario {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5ce4a);
        let Self { nodes, dangers, lww, length_ms, administrators, owners, sloppy, steady } = self;
        let lossy = dangers.losses || dangers.twins || dangers.bridges;
        // What one owner alone has is lost when that one's record is damaged.
        let weak_writes = !lossy && !steady && rng.random_bool(0.5);
        let dangers = Dangers { disks: dangers.disks && !weak_writes, ..dangers };
        let range = Range { nodes, voters: 3, length_ms };
        let faults = match steady {
            true => Schedule::one_by_one(&mut rng, range),
            false => Schedule::random(&mut rng, range, dangers),
        };
        let may_own = nodes - usize::from(sloppy);
        let workload = Workload {
            clients: rng.random_range(2..=8),
            keys: rng.random_range(2..=12),
            pause_ms: rng.random_range(5..60),
            mix: if rng.random_ratio(1, CROWD_EVERY) && !steady { Mix::CROWD } else { Mix::ALL },
            lww,
            n: owners
                .unwrap_or_else(|| draw_owners(&mut rng, if weak_writes { 1 } else { 2 }, may_own)),
            synced_of_100: [0, 20, 100][rng.random_range(0..3)],
            timeout_ms: rng.random_range(if steady { 1_500 } else { 300 }..2_500),
            retries: rng.random_range(0..6),
            weak_writes,
            administrators: administrators.unwrap_or_else(|| rng.random_bool(0.5).into()),
            // No record of theirs is damaged.
            extra_n: [if lossy { 2 } else { 1 }, nodes],
            sloppy,
            steady,
        };
        let notice_ms = [1_000, 7_000][rng.random_range(0..2)];
        Scenario { seed, nodes, length_ms, notice_ms, workload, faults }
    }
}

/// How many owners a key has: mostly as many as by default, else from `least` on whatever so many
/// nodes allow.
fn draw_owners(rng: &mut ChaCha8Rng, least: usize, nodes: usize) -> usize {
    if rng.random_bool(0.5) { 3.min(nodes) } else { rng.random_range(least..=nodes) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sim::faults::Fault;

    #[test]
    fn keys_have_as_many_owners_as_the_nodes_and_the_faults_allow() {
        let all = [
            Profile::SIBLINGS,
            Profile::THREE,
            Profile::EVERYTHING,
            Profile::VOTERS,
            Profile::SLOPPY_EVERYTHING,
        ];
        for profile in all {
            let scenarios = (0..300).map(|seed| profile.scenario(seed));
            let (mut seen, mut three) = (BTreeSet::new(), 0);
            for Scenario { workload, faults, .. } in scenarios {
                let harmful = |planned: &super::super::faults::Planned| {
                    use Fault::{CutPower, EndTwin, FailSync, RollBack, Rot, Wipe};
                    let fault = planned.fault;
                    matches!(fault, CutPower(_) | EndTwin(_) | FailSync(_) | RollBack(_) | Wipe(_))
                        || matches!(fault, Rot(..))
                };
                let harmed = faults.0.iter().any(harmful);
                assert!(workload.n > 1 || (workload.weak_writes && !harmed), "{workload:?}");
                seen.insert(workload.n);
                three += usize::from(workload.n == 3);
            }
            let dangers = profile.dangers;
            let least = if dangers.losses || dangers.bridges { 2 } else { 1 };
            let most = profile.nodes - usize::from(profile.sloppy);
            assert_eq!(seen, (least..=most).collect());
            assert!(three > 140, "{three} of 300 runs are of three owners");
        }
    }
}
