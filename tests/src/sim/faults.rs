//! What goes wrong in a run, as data: drawn from a seed, printed, replayed, and shrunk.
//!
//! ```text
//!     300 ms  pause node 2
//!    1100 ms  cut the power of node 0
//!    1450 ms  resume node 2
//!    2900 ms  start node 0
//! ```
//!
//! A fault that makes no sense when its time comes, as the start of a node that runs, does nothing:
//! so any part of a schedule is a schedule, and can be shrunk without care for what belongs together.

use std::fmt;

use rand::seq::IteratorRandom as _;
use rand::{Rng, RngExt as _};
use serde::{Deserialize, Serialize};

/// One thing that goes wrong, or is set right. Nodes are named by their index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Fault {
    /// What one node sends to another is swallowed.
    Cut(usize, usize),
    /// What two nodes send each other is swallowed.
    Part(usize, usize),
    /// A node is cut off from all others.
    Isolate(usize),
    /// The nodes below this index and the others are cut apart.
    Split(usize),
    /// What [`Cut`](Self::Cut) did is mended.
    Mend(usize, usize),
    /// What [`Part`](Self::Part) did is mended.
    Join(usize, usize),
    /// What [`Isolate`](Self::Isolate) did is mended.
    Admit(usize),
    /// What [`Split`](Self::Split) did is mended.
    Unite(usize),
    /// Messages from one node to another take this many milliseconds more or less.
    Slow(usize, usize, u64),
    /// All links are bad: so many messages of a thousand are lost, and doubled, and late.
    Weather(u32),
    /// A process ends; what it handed to the operating system stays.
    Kill(usize),
    /// A machine loses its power: a prefix of what was not synced stays.
    CutPower(usize),
    /// A process begins again.
    Start(usize),
    /// A process stands still.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// A wall clock is set to so many milliseconds ahead of the right time.
    SetClock(usize, i64),
    /// A wall clock gains so many milliseconds a second.
    Drift(usize, i64),
    /// A node ends and begins again with an empty data directory, under the same name.
    Wipe(usize),
    /// The data directory of a node is copied.
    Copy(usize),
    /// A node ends and begins again with the copy.
    RollBack(usize),
    /// A second process begins with the copy, beside the first and under the same name.
    Twin(usize),
    /// The second process ends.
    EndTwin(usize),
    /// A bit of a record flips: of a key that this number picks.
    Rot(usize, u64),
    /// The next sync of a disk fails.
    FailSync(usize),
    /// A disk is full.
    Fill(usize),
    /// It has room again.
    Free(usize),
    /// The next batch of a node finds too little room, and changes nothing; its engine is well.
    Squeeze(usize),
    /// There is enough room again.
    Relieve(usize),
}

impl Fault {
    /// The links that it cuts or mends, of so many nodes: from whom to whom.
    pub(super) fn links(self, nodes: usize) -> impl Iterator<Item = (usize, usize)> {
        let between = move |from: usize, to: usize| match self {
            Self::Cut(one, other) | Self::Mend(one, other) => (from, to) == (one, other),
            Self::Part(one, other) | Self::Join(one, other) => {
                [(from, to), (to, from)].contains(&(one, other))
            }
            Self::Isolate(one) | Self::Admit(one) => (from == one) != (to == one),
            Self::Split(first) | Self::Unite(first) => (from < first) != (to < first),
            _ => false,
        };
        let pairs = (0..nodes).flat_map(move |from| (0..nodes).map(move |to| (from, to)));
        pairs.filter(move |&(from, to)| between(from, to))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Cut(from, to) => write!(f, "swallow what node {from} sends to node {to}"),
            Self::Part(one, other) => write!(f, "part nodes {one} and {other}"),
            Self::Isolate(node) => write!(f, "isolate node {node}"),
            Self::Split(first) => write!(f, "part the nodes below {first} from the others"),
            Self::Mend(from, to) => write!(f, "mend the link from node {from} to node {to}"),
            Self::Join(one, other) => write!(f, "join nodes {one} and {other}"),
            Self::Admit(node) => write!(f, "admit node {node}"),
            Self::Unite(first) => write!(f, "unite the nodes below {first} with the others"),
            Self::Slow(from, to, ms) => write!(f, "slow node {from} to node {to} by {ms} ms"),
            Self::Weather(of_1000) => write!(f, "lose, double, delay {of_1000} of 1000 messages"),
            Self::Kill(node) => write!(f, "kill node {node}"),
            Self::CutPower(node) => write!(f, "cut the power of node {node}"),
            Self::Start(node) => write!(f, "start node {node}"),
            Self::Pause(node) => write!(f, "pause node {node}"),
            Self::Resume(node) => write!(f, "resume node {node}"),
            Self::SetClock(node, ms) => write!(f, "set the clock of node {node} {ms} ms ahead"),
            Self::Drift(node, ms) => write!(f, "let the clock of node {node} gain {ms} ms/s"),
            Self::Wipe(node) => write!(f, "wipe node {node} and start it"),
            Self::Copy(node) => write!(f, "copy the data directory of node {node}"),
            Self::RollBack(node) => write!(f, "start node {node} from the copy"),
            Self::Twin(node) => write!(f, "start node {node} a second time, from the copy"),
            Self::EndTwin(node) => write!(f, "end the second node {node}"),
            Self::Rot(node, pick) => write!(f, "flip a bit at node {node} (record {pick})"),
            Self::FailSync(node) => write!(f, "fail the next sync of node {node}"),
            Self::Fill(node) => write!(f, "fill the disk of node {node}"),
            Self::Free(node) => write!(f, "free the disk of node {node}"),
            Self::Squeeze(node) => write!(f, "leave no room for the next batch of node {node}"),
            Self::Relieve(node) => write!(f, "leave room for all batches of node {node}"),
        }
    }
}

/// A fault and its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Planned {
    /// When, in milliseconds since the run began.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} ms  {}", self.at_ms, self.fault)
    }
}

/// What may go wrong in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dangers {
    /// Links are cut, slow or lossy.
    pub network: bool,
    /// Processes end, stand still and begin again.
    pub processes: bool,
    /// Wall clocks are set, and drift.
    pub clocks: bool,
    /// Disks fill up, and records rot.
    pub disks: bool,
    /// Batches find too little room.
    pub room: bool,
    /// Nodes lose what they acknowledged.
    pub losses: bool,
    /// Copies of a data directory run beside it.
    pub twins: bool,
    /// A node is wiped that alone hears both of two others, one after the other.
    pub bridges: bool,
}

impl Dangers {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        network: false,
        processes: false,
        clocks: false,
        disks: false,
        room: false,
        losses: false,
        twins: false,
        bridges: false,
    };
    /// Whatever leaves acknowledged writes where they are.
    pub const HARMLESS: Self = Self {
        network: true,
        processes: true,
        clocks: true,
        disks: true,
        room: true,
        ..Self::NONE
    };
    /// Everything.
    pub const ALL: Self = Self { losses: true, twins: true, ..Self::HARMLESS };
}

/// How long it takes at least until a node that failed is one of the others again: it was heard of, and
/// has what was kept for it.
const BACK_MS: u64 = 2_500;

/// Where and how long things go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// How many nodes there are.
    pub nodes: usize,
    /// The first so many vote on metadata: none of them is copied and started twice.
    pub voters: usize,
    /// How long the run takes before everything is set right.
    pub length_ms: u64,
}

/// The faults of a run, in the order of their times.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Schedule(pub Vec<Planned>);

impl Schedule {
    /// Draws a schedule: an episode every second or so, each with its end.
    pub fn random(rng: &mut impl Rng, range: Range, dangers: Dangers) -> Self {
        let (mut planned, kinds) = (Vec::new(), episodes(dangers));
        // What one node lost, others still have; of runs in which all lost it nothing is learned.
        // A bridge is wiped each time, and needs no second one.
        let victims = if rng.random_bool(0.25) && !dangers.bridges { 2 } else { 1 };
        let first_victim = rng.random_range(0..range.nodes);
        let mut at_ms = rng.random_range(100..800);
        while at_ms < range.length_ms && !kinds.is_empty() {
            let kind = kinds[rng.random_range(0..kinds.len())];
            // Most end before anybody notices that there is no connection.
            let longest_ms = if rng.random_bool(0.2) { 9_000 } else { 3_000 };
            let lasts_ms = rng.random_range(200..longest_ms);
            let plan = |(after_ms, fault)| Planned { at_ms: at_ms + after_ms, fault };
            let victim = (first_victim + rng.random_range(0..victims)) % range.nodes;
            planned.extend(kind.draw(rng, range, victim, lasts_ms).into_iter().map(plan));
            at_ms += rng.random_range(100..1_500);
        }
        planned.sort_by_key(|planned| planned.at_ms);
        Self(planned)
    }
}

impl Schedule {
    /// Draws a schedule of harmless faults, each of one node, which is back for a while before another
    /// one fails.
    pub fn one_by_one(rng: &mut impl Rng, range: Range) -> Self {
        use Episode as E;
        let kinds = [E::Kill, E::Kill, E::Pause, E::Isolate, E::Fill, E::Squeeze];
        let (mut planned, mut at_ms) = (Vec::new(), rng.random_range(100..800));
        while at_ms < range.length_ms {
            let kind = kinds[rng.random_range(0..kinds.len())];
            let lasts_ms = rng.random_range(500..5_000);
            let faults = kind.draw(rng, range, 0, lasts_ms);
            let over_ms = faults.iter().map(|(after_ms, _)| *after_ms).max().unwrap_or_default();
            let plan = |(after_ms, fault)| Planned { at_ms: at_ms + after_ms, fault };
            planned.extend(faults.into_iter().map(plan));
            at_ms += over_ms + rng.random_range(BACK_MS..3 * BACK_MS);
        }
        planned.sort_by_key(|planned| planned.at_ms);
        Self(planned)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|planned| writeln!(f, "{planned}"))
    }
}

/// A fault and what ends it.
#[derive(Clone, Copy)]
enum Episode {
    Cut,
    Part,
    Isolate,
    Split,
    Slow,
    Weather,
    Kill,
    Pause,
    Clock,
    Drift,
    Rot,
    Fill,
    Squeeze,
    FailSync,
    CutPower,
    Wipe,
    RollBack,
    Twin,
    Bridge,
}

fn episodes(dangers: Dangers) -> Vec<Episode> {
    use Episode as E;
    let of: [(bool, &[Episode]); 8] = [
        (dangers.network, &[E::Cut, E::Part, E::Isolate, E::Split, E::Slow, E::Weather]),
        (dangers.processes, &[E::Kill, E::Kill, E::Pause]),
        (dangers.clocks, &[E::Clock, E::Drift]),
        (dangers.disks, &[E::Rot, E::Rot, E::Fill]),
        (dangers.room, &[E::Squeeze]),
        (dangers.losses, &[E::CutPower, E::CutPower, E::Wipe, E::RollBack, E::FailSync]),
        (dangers.twins, &[E::Twin]),
        (dangers.bridges, &[E::Bridge]),
    ];
    of.iter().filter(|(wanted, _)| *wanted).flat_map(|(_, kinds)| kinds.iter().copied()).collect()
}

impl Episode {
    /// Its faults, each with the time after its beginning. Only the victim loses anything.
    fn draw(
        self,
        rng: &mut impl Rng,
        range: Range,
        victim: usize,
        lasts_ms: u64,
    ) -> Vec<(u64, Fault)> {
        let Range { nodes, voters, .. } = range;
        let one = rng.random_range(0..nodes);
        let other = (one + rng.random_range(1..nodes)) % nodes;
        let until = |begin, end| vec![(0, begin), (lasts_ms, end)];
        match self {
            Self::Cut => until(Fault::Cut(one, other), Fault::Mend(one, other)),
            Self::Part => until(Fault::Part(one, other), Fault::Join(one, other)),
            Self::Isolate => until(Fault::Isolate(one), Fault::Admit(one)),
            Self::Split => {
                let first = rng.random_range(1..nodes);
                until(Fault::Split(first), Fault::Unite(first))
            }
            Self::Slow => {
                let ms = rng.random_range(20..1_500);
                until(Fault::Slow(one, other, ms), Fault::Slow(one, other, 0))
            }
            Self::Weather => until(Fault::Weather(rng.random_range(5..100)), Fault::Weather(0)),
            Self::Kill => until(Fault::Kill(one), Fault::Start(one)),
            Self::Pause => until(Fault::Pause(one), Fault::Resume(one)),
            Self::Clock => {
                let far = rng.random_bool(0.3);
                let bound_ms = if far { 600_000 } else { 400 };
                let ahead_ms = rng.random_range(-bound_ms..=bound_ms);
                until(Fault::SetClock(one, ahead_ms), Fault::SetClock(one, 0))
            }
            Self::Drift => {
                let gains = rng.random_range(-50..=50);
                vec![
                    (0, Fault::Drift(one, gains)),
                    (lasts_ms, Fault::Drift(one, 0)),
                    (lasts_ms, Fault::SetClock(one, 0)),
                ]
            }
            Self::Rot => vec![(0, Fault::Rot(one, rng.random_range(0..1_000)))],
            Self::Fill => until(Fault::Fill(one), Fault::Free(one)),
            Self::Squeeze => {
                let mut faults = until(Fault::Squeeze(one), Fault::Relieve(one));
                // What its end shows is there before others have made everything good.
                if rng.random_bool(0.5) {
                    let at_ms = lasts_ms + rng.random_range(10..300);
                    faults.extend([(at_ms, Fault::Kill(one)), (at_ms + 400, Fault::Start(one))]);
                }
                faults
            }
            Self::FailSync => vec![
                (0, Fault::FailSync(victim)),
                (lasts_ms, Fault::CutPower(victim)),
                (lasts_ms + 100, Fault::Start(victim)),
            ],
            Self::CutPower => until(Fault::CutPower(victim), Fault::Start(victim)),
            Self::Wipe => vec![(0, Fault::Wipe(victim))],
            Self::RollBack => until(Fault::Copy(victim), Fault::RollBack(victim)),
            // The second process of a node takes with it what it acknowledged.
            Self::Twin if victim < voters => Vec::new(),
            Self::Twin => {
                let one = victim;
                let mut faults = vec![(0, Fault::Copy(one)), (100, Fault::Twin(one))];
                // Else the others stay with the first process.
                if rng.random_bool(0.7) {
                    faults.extend([(200, Fault::Kill(one)), (150 + lasts_ms, Fault::Start(one))]);
                }
                faults.push((100 + lasts_ms, Fault::EndTwin(one)));
                faults
            }
            Self::Bridge => bridge(rng, nodes, victim, lasts_ms),
        }
    }
}

/// A node is wiped that heard another one before, and a third one, which knows nothing of that, after.
fn bridge(rng: &mut impl Rng, nodes: usize, victim: usize, lasts_ms: u64) -> Vec<(u64, Fault)> {
    let first = (victim + rng.random_range(1..nodes)) % nodes;
    let others = (0..nodes).filter(|node| ![victim, first].contains(node));
    let second = others.choose(rng).expect("there are three nodes");
    vec![
        (0, Fault::Isolate(second)),
        (lasts_ms, Fault::Isolate(first)),
        (lasts_ms, Fault::Wipe(victim)),
        (lasts_ms, Fault::Join(victim, second)),
        (2 * lasts_ms, Fault::Admit(first)),
    ]
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn a_schedule_is_its_seed_and_reads_back() {
        let range = Range { nodes: 5, voters: 3, length_ms: 30_000 };
        let draw =
            |seed| Schedule::random(&mut ChaCha8Rng::seed_from_u64(seed), range, Dangers::ALL);
        let schedule = draw(1);
        assert_eq!(schedule, draw(1));
        assert_ne!(schedule, draw(2));
        assert!(schedule.0.is_sorted_by_key(|planned| planned.at_ms));
        let text = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule);
        assert_eq!(schedule.to_string().lines().count(), schedule.0.len());
    }

    #[test]
    fn no_voter_runs_twice() {
        let range = Range { nodes: 5, voters: 3, length_ms: 60_000 };
        let twins = Dangers { twins: true, ..Dangers::NONE };
        let draw = |seed| Schedule::random(&mut ChaCha8Rng::seed_from_u64(seed), range, twins);
        let planned: Vec<_> = (0..20).flat_map(|seed| draw(seed).0).collect();
        let twin = |planned: &&Planned| matches!(planned.fault, Fault::Twin(_));
        assert!(planned.iter().filter(twin).count() > 20);
        let voter = |planned: &Planned| matches!(planned.fault, Fault::Twin(node) if node < 3);
        assert!(!planned.iter().any(voter));
    }
}
