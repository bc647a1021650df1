//! Random histories of one key of an `lww` namespace on three replicas whose clocks differ, each
//! beside its naive twin: the list of all writes that it reflects.

use bytes::Bytes;
use proptest::prelude::*;

use crate::dynamo::clock::{Actor, Dot, Hlc};
use crate::dynamo::context::Context;
use crate::dynamo::object::testing::entry;
use crate::dynamo::object::{Entry, Object, Stamp};

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A write at a replica, with the token of an earlier read, or none; a delete if not `put`.
    Write { at: usize, token: Option<usize>, put: bool },
    /// A client reads a replica and keeps the token.
    Read { at: usize },
    /// One replica sends its object to another.
    Send { from: usize, to: usize },
    /// A replica's clock goes to another time, maybe backwards.
    Clock { at: usize, ms: u64 },
    /// A replica purges what it holds, if that expires.
    Purge { at: usize },
}

/// A write as a naive replica remembers it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Remembered {
    pub(crate) stamp: Stamp,
    pub(crate) value: Option<Bytes>,
}

/// What came of a history.
#[derive(Clone, Default, Debug)]
pub(crate) struct LastHistory {
    pub(crate) replicas: Vec<Object>,
    /// Per replica: every write that it reflects, each once, sorted.
    pub(crate) twins: Vec<Vec<Remembered>>,
    pub(crate) reads: Vec<(Context, Vec<Remembered>)>,
    /// Per write: its stamp, and what its client and its coordinator had seen.
    pub(crate) writes: Vec<(Stamp, Vec<Remembered>)>,
}

pub(crate) fn remember(twin: &mut Vec<Remembered>, more: &[Remembered]) {
    twin.extend(more.iter().cloned());
    // Of two with one stamp the one that was purged, which has no value.
    twin.sort();
    twin.dedup_by_key(|write| write.stamp);
}

impl LastHistory {
    fn run(steps: Vec<Step>) -> Self {
        let mut history = Self {
            replicas: vec![Object::default(); 3],
            twins: vec![Vec::new(); 3],
            ..Self::default()
        };
        let mut clocks = [100, 200, 300];
        for step in steps {
            history.step(step, &mut clocks);
        }
        history
    }

    fn step(&mut self, step: Step, clocks: &mut [u64; 3]) {
        match step {
            Step::Clock { at, ms } => clocks[at] = ms,
            Step::Read { at } => {
                let context = Context::of_read(&self.replicas[at]);
                self.reads.push((context, self.twins[at].clone()));
            }
            Step::Send { from, to } => {
                let (object, twin) = (self.replicas[from].clone(), self.twins[from].clone());
                self.replicas[to].merge(&object);
                remember(&mut self.twins[to], &twin);
            }
            Step::Purge { at } => {
                let object = &mut self.replicas[at];
                let stamp = object.last().filter(|_| object.purge(1) > 0);
                self.twins[at]
                    .iter_mut()
                    .filter(|w| Some(w.stamp) == stamp)
                    .for_each(|w| w.value = None);
            }
            Step::Write { at, token, put } => {
                let read = token.and_then(|token| self.reads.get(token)).cloned();
                let (context, shown) = read.unwrap_or_default();
                let seen = self.replicas[at].time().max(context.time);
                let time = seen.after(clocks[at]).expect("clocks of tests have time left");
                self.write(at, time, (context, shown), put);
            }
        }
    }

    fn write(
        &mut self,
        at: usize,
        time: Hlc,
        (context, shown): (Context, Vec<Remembered>),
        put: bool,
    ) {
        let dot = Dot { actor: Actor(at as u64), n: self.writes.len() as u64 + 1 };
        let stamp = Stamp { time, dot };
        let deadline_ms = dot.n.is_multiple_of(2).then_some(1);
        let written = put.then(|| Entry { time, deadline_ms, ..entry(dot) });
        let value = written.as_ref().map(|entry| entry.payload.clone());
        self.replicas[at].write_last(stamp, &context.version, written);
        let mut seen = self.twins[at].clone();
        remember(&mut seen, &shown);
        self.writes.push((stamp, seen.clone()));
        remember(&mut seen, &[Remembered { stamp, value }]);
        self.twins[at] = seen;
    }
}

pub(crate) fn last_histories() -> impl Strategy<Value = LastHistory> {
    let token = || prop::option::weighted(0.6, 0..6usize);
    let step = prop_oneof![
        4 => (0..3usize, token(), prop::bool::weighted(0.7))
            .prop_map(|(at, token, put)| Step::Write { at, token, put }),
        3 => (0..3usize).prop_map(|at| Step::Read { at }),
        4 => (0..3usize, 0..3usize).prop_map(|(from, to)| Step::Send { from, to }),
        2 => (0..3usize, 0..400u64).prop_map(|(at, ms)| Step::Clock { at, ms }),
        1 => (0..3usize).prop_map(|at| Step::Purge { at }),
    ];
    prop::collection::vec(step, 0..30).prop_map(LastHistory::run)
}
