//! Random histories of one key on three replicas, each beside its naive twin.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;

use crate::dynamo::clock::{Actor, Dot, Hlc, VersionVector};
use crate::dynamo::key::NodeId;
use crate::dynamo::object::{Entry, Object};
use crate::dynamo::operation::{Opening, OperationId};

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A write at a replica with the context of the given earlier read, or none.
    Write { at: usize, context: Option<usize>, skip: u64 },
    /// A delete at a replica.
    Delete { at: usize, context: Option<usize>, skip: u64 },
    /// A client reads a replica and keeps the context.
    Read { at: usize },
    /// One replica sends its object to another.
    Send { from: usize, to: usize },
    /// A replica purges what expired by then.
    Purge { at: usize, until_ms: u64 },
}

/// When a value of a history expires: every other one does, in the order of their numbers.
fn deadline_ms(dot: Dot) -> Option<u64> {
    dot.n.is_multiple_of(2).then_some(dot.n)
}

/// An object as plain sets: every dot it reflects, and those that are live.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Twin {
    pub(crate) seen: BTreeSet<Dot>,
    pub(crate) live: BTreeSet<Dot>,
}

impl Twin {
    fn write(&mut self, dot: Dot, context: &BTreeSet<Dot>, live: bool) {
        self.live.retain(|d| !context.contains(d));
        self.seen.extend(context);
        self.seen.insert(dot);
        if live {
            self.live.insert(dot);
        }
    }

    fn purge(&mut self, until_ms: u64) {
        let expired =
            |dot: &Dot| deadline_ms(*dot).is_some_and(|deadline_ms| deadline_ms <= until_ms);
        self.live.retain(|dot| !expired(dot));
    }

    fn merge(&mut self, other: &Self) {
        let kept = |d: &&Dot| other.live.contains(d) || !other.seen.contains(d);
        let mut live: BTreeSet<Dot> = self.live.iter().filter(kept).copied().collect();
        live.extend(other.live.difference(&self.seen));
        self.live = live;
        self.seen.extend(&other.seen);
    }
}

/// What came of a history: the replicas, their twins, and every read.
#[derive(Clone, Default, Debug)]
pub(crate) struct History {
    pub(crate) replicas: Vec<Object>,
    pub(crate) twins: Vec<Twin>,
    pub(crate) reads: Vec<(VersionVector, Twin)>,
    /// Per write: its dot and what its client had seen.
    pub(crate) writes: Vec<(Dot, BTreeSet<Dot>)>,
}

pub(crate) fn entry(dot: Dot) -> Entry {
    let operation = OperationId {
        issued_ms: 1,
        coordinator: NodeId(dot.actor.0),
        opening: Opening(1),
        client: dot.actor.0,
        sequence: dot.n,
    };
    let payload = Bytes::from(dot.to_string());
    Entry { payload, time: Hlc(dot.n), deadline_ms: None, operation, origin: dot }
}

pub(crate) fn dots() -> (Dot, Dot) {
    (Dot { actor: Actor(1), n: 1 }, Dot { actor: Actor(2), n: 2 })
}

impl History {
    pub(crate) fn run(steps: Vec<Step>) -> Self {
        let mut history = Self {
            replicas: vec![Object::default(); 3],
            twins: vec![Twin::default(); 3],
            ..Self::default()
        };
        let mut numbers = [0; 3];
        for step in steps {
            history.step(step, &mut numbers);
        }
        history
    }

    fn step(&mut self, step: Step, numbers: &mut [u64; 3]) {
        match step {
            Step::Write { at, context, skip } => {
                numbers[at] += 1 + skip;
                self.change(Dot { actor: Actor(at as u64), n: numbers[at] }, context, true);
            }
            Step::Delete { at, context, skip } => {
                numbers[at] += 1 + skip;
                self.change(Dot { actor: Actor(at as u64), n: numbers[at] }, context, false);
            }
            Step::Read { at } => {
                self.reads.push((self.replicas[at].version().clone(), self.twins[at].clone()));
            }
            Step::Send { from, to } => {
                let (object, twin) = (self.replicas[from].clone(), self.twins[from].clone());
                self.replicas[to].merge(&object);
                self.twins[to].merge(&twin);
            }
            Step::Purge { at, until_ms } => {
                let (object, twin) = (&mut self.replicas[at], &mut self.twins[at]);
                let before = twin.live.len();
                twin.purge(until_ms);
                assert_eq!(object.purge(until_ms), before - twin.live.len());
            }
        }
    }

    /// Numbers skip what the actor wrote to other keys of the partition.
    fn change(&mut self, dot: Dot, context: Option<usize>, put: bool) {
        let at = dot.actor.0 as usize;
        let read = context.filter(|_| !self.reads.is_empty()).map(|c| c % self.reads.len());
        let (version, seen) = read.map_or_else(Default::default, |at| {
            (self.reads[at].0.clone(), self.reads[at].1.seen.clone())
        });
        if put {
            let entry = Entry { deadline_ms: deadline_ms(dot), ..entry(dot) };
            self.replicas[at].write(dot, &version, entry);
        } else {
            self.replicas[at].delete(dot, &version);
        }
        self.twins[at].write(dot, &seen, put);
        self.writes.push((dot, seen));
    }
}

pub(crate) fn histories() -> impl Strategy<Value = History> {
    let context = || prop::option::weighted(0.7, 0..8usize);
    let step = prop_oneof![
        3 => (0..3usize, context(), 0..3u64).prop_map(|(at, context, skip)| Step::Write { at, context, skip }),
        1 => (0..3usize, context(), 0..3u64).prop_map(|(at, context, skip)| Step::Delete { at, context, skip }),
        3 => (0..3usize).prop_map(|at| Step::Read { at }),
        4 => (0..3usize, 0..3usize).prop_map(|(from, to)| Step::Send { from, to }),
        1 => (0..3usize, 0..12u64).prop_map(|(at, until_ms)| Step::Purge { at, until_ms }),
    ];
    prop::collection::vec(step, 0..30).prop_map(History::run)
}
