//! A history by key: which writes may have been applied, under which dots, who was shown what.
//!
//! Keys have nothing to do with each other but for frontiers, so that checkers look at one at a time.
//! A write's dot is known from its receipt, or since a node held its value under it; of a delete
//! that was not acknowledged nobody ever learns it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::losses::Losses;
use crate::history::{
    Action, Dot, Held, Hint, History, Moment, Namespace, Node, Operation, Outcome, Receipt, Shown,
    Snapshot, Version,
};

/// A namespace and a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key<'a> {
    pub(super) namespace: &'a str,
    pub(super) key: &'a str,
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.key)
    }
}

/// A history, by key.
#[derive(Debug)]
pub struct Index<'a> {
    pub(super) history: &'a History,
    pub(super) keys: BTreeMap<Key<'a>, OfKey<'a>>,
    /// The writes by their values, refused ones too.
    pub(super) values: BTreeMap<&'a str, &'a Operation>,
    pub(super) losses: Losses<'a>,
    /// The last healed snapshot of each node: its place among the snapshots.
    pub(super) settled: BTreeMap<Node, usize>,
}

/// What happened to a key.
#[derive(Default, Debug)]
pub(super) struct OfKey<'a> {
    /// How many owners it has.
    pub(super) n: usize,
    /// Whether the last write wins.
    pub(super) lww: bool,
    /// Whether no two nodes failed at a time.
    pub(super) steady: bool,
    /// Its partition, if a node ever held it.
    pub(super) partition: Option<&'a str>,
    /// The writes that may have been applied: all but the refused ones.
    pub(super) writes: Vec<Written<'a>>,
    /// The places of those whose dots are known.
    pub(super) by_dot: BTreeMap<Dot, usize>,
    /// The places by value.
    by_value: BTreeMap<&'a str, usize>,
    /// The reads that were answered.
    pub(super) reads: Vec<Answered<'a>>,
    /// The objects, by the place of the snapshot.
    pub(super) held: BTreeMap<usize, &'a Held>,
    /// The snapshots of nodes that could not read the object.
    pub(super) damaged: BTreeSet<usize>,
    /// The hints, by the place of the snapshot.
    pub(super) hints: BTreeMap<usize, &'a Hint>,
    /// The snapshots of nodes that could not read the hint.
    pub(super) damaged_hints: BTreeSet<usize>,
}

/// A write that may have been applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a> {
    pub(super) operation: &'a Operation,
    /// None if it deletes.
    pub(super) value: Option<&'a str>,
    pub(super) context: &'a Version,
    pub(super) w: usize,
    /// Whether fallbacks may have acknowledged.
    pub(super) sloppy: bool,
    /// Whether it may have been applied more than once, so that it has other dots beside this one.
    pub(super) copies: bool,
    /// If it was acknowledged.
    pub(super) receipt: Option<&'a Receipt>,
    pub(super) dot: Option<Dot>,
    /// Since when no node of its receipt need have it any more.
    pub(super) lost_from: Option<Moment>,
}

/// A read that was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered<'a> {
    pub(super) operation: &'a Operation,
    pub(super) r: usize,
    /// Whether fallbacks may have counted.
    pub(super) sloppy: bool,
    pub(super) returned: Moment,
    pub(super) shown: &'a Shown,
}

impl<'a> Index<'a> {
    /// Sorts a history.
    pub fn new(history: &'a History) -> Self {
        let losses = Losses::new(history);
        let namespaces: BTreeMap<&str, &Namespace> =
            history.namespaces.iter().map(|namespace| (&*namespace.name, namespace)).collect();
        let (keys, values, settled) = <(_, _, _)>::default();
        let mut index = Self { history, keys, values, losses, settled };
        for operation in &history.operations {
            index.add_operation(operation);
        }
        for (at, snapshot) in history.snapshots.iter().enumerate() {
            index.add_snapshot(at, snapshot);
        }
        for (key, of) in &mut index.keys {
            // Of a namespace that nobody made, `form` complains; here no quorum is enough.
            of.n = namespaces.get(key.namespace).map_or(usize::MAX, |namespace| namespace.n);
            of.lww = namespaces.get(key.namespace).is_some_and(|namespace| namespace.lww);
            of.steady = namespaces.get(key.namespace).is_some_and(|namespace| namespace.steady);
            of.learn_dots();
        }
        index
    }

    fn add_operation(&mut self, operation: &'a Operation) {
        let key = Key { namespace: &operation.namespace, key: &operation.key };
        if let Action::Write { value: Some(value), .. } = &operation.action {
            self.values.entry(value).or_insert(operation);
        }
        let of = self.keys.entry(key).or_default();
        match (&operation.action, &operation.outcome) {
            (Action::Write { .. }, Outcome::NotApplied(_)) => {}
            (Action::Write { value, context, w, sloppy, copies, .. }, outcome) => {
                let (value, w, sloppy, copies) = (value.as_deref(), *w, *sloppy, *copies);
                let receipt = match outcome {
                    Outcome::Written(receipt) => Some(receipt),
                    _ => None,
                };
                let dot = receipt.map(|receipt| receipt.dot);
                let write = Written {
                    operation,
                    value,
                    context,
                    w,
                    sloppy,
                    copies,
                    receipt,
                    dot,
                    lost_from: None,
                };
                let lost_from = self.losses.lost_from(&write);
                if let Some(value) = value {
                    of.by_value.entry(value).or_insert(of.writes.len());
                }
                of.writes.push(Written { lost_from, ..write });
            }
            (Action::Read { r, sloppy }, Outcome::Shown(shown)) => {
                let Some(returned) = operation.returned else { return };
                let (r, sloppy) = (*r, *sloppy);
                of.reads.push(Answered { operation, r, sloppy, returned, shown });
            }
            (Action::Read { .. }, _) => {}
        }
    }

    fn add_snapshot(&mut self, at: usize, snapshot: &'a Snapshot) {
        for held in &snapshot.objects {
            let key = Key { namespace: &held.namespace, key: &held.key };
            let of = self.keys.entry(key).or_default();
            of.partition = Some(&held.partition);
            of.held.insert(at, held);
        }
        for (namespace, key) in &snapshot.damaged {
            self.keys.entry(Key { namespace, key }).or_default().damaged.insert(at);
        }
        for hint in &snapshot.hints {
            let key = Key { namespace: &hint.namespace, key: &hint.key };
            self.keys.entry(key).or_default().hints.insert(at, hint);
        }
        for (namespace, key) in &snapshot.damaged_hints {
            self.keys.entry(Key { namespace, key }).or_default().damaged_hints.insert(at);
        }
        if snapshot.healed {
            let last = self.settled.entry(snapshot.node).or_insert(at);
            if self.history.snapshots[*last].at < snapshot.at {
                *last = at;
            }
        }
    }

    /// The snapshots with their places.
    pub(super) fn snapshots(&self) -> impl Iterator<Item = (usize, &'a Snapshot)> + use<'a> {
        self.history.snapshots.iter().enumerate()
    }

    /// What was acknowledged before this moment is in the final state; none without such a state.
    pub(super) fn settled_from(&self) -> Option<Moment> {
        self.settled.values().map(|&at| self.history.snapshots[at].at).min()
    }
}

impl<'a> OfKey<'a> {
    /// Learns the dots of values that nodes held; of one that was applied more than once, all of them.
    fn learn_dots(&mut self) {
        let held = self.held.values().flat_map(|held| &held.values);
        let named: BTreeSet<(&str, Dot)> = held.map(|(dot, value)| (&**value, *dot)).collect();
        let dots: BTreeMap<&str, Dot> = named.iter().copied().collect();
        for (at, write) in self.writes.iter_mut().enumerate() {
            let held = write.value.and_then(|value| dots.get(value).copied());
            write.dot = write.dot.or(held);
            if let Some(dot) = write.dot {
                self.by_dot.entry(dot).or_insert(at);
            }
        }
        for (value, dot) in named {
            if let Some(&at) = self.by_value.get(value).filter(|&&at| self.writes[at].copies) {
                self.by_dot.entry(dot).or_insert(at);
            }
        }
    }

    /// The write of a value, unless it was refused.
    pub(super) fn of_value(&self, value: &str) -> Option<&Written<'a>> {
        self.by_value.get(value).map(|&at| &self.writes[at])
    }

    /// The answered reads of which more is asked than that they show what was written: strict ones, and
    /// those of a steady cluster.
    pub(super) fn promised(&self) -> impl Iterator<Item = &Answered<'a>> {
        self.reads.iter().filter(|read| !read.sloppy || self.steady)
    }

    /// The writes that were acknowledged.
    pub(super) fn acknowledged(&self) -> impl Iterator<Item = (&Written<'a>, &'a Receipt)> {
        self.writes.iter().filter_map(|write| Some((write, write.receipt?)))
    }

    /// Each context that an answer had, or an object's version: what it covers, when, and whose it
    /// is.
    pub(super) fn versions(
        &self,
        history: &'a History,
    ) -> impl Iterator<Item = (&'a Version, Moment, Source<'a>)> {
        let reads = self.reads.iter().filter_map(|read| {
            let context = read.shown.context.as_ref()?;
            Some((context, read.returned, Source::Answer(read.operation)))
        });
        let receipts = self.acknowledged().filter_map(|(write, receipt)| {
            let returned = write.operation.returned?;
            Some((receipt.context.as_ref()?, returned, Source::Answer(write.operation)))
        });
        let objects = self.held.iter().map(|(&at, held)| {
            let snapshot = &history.snapshots[at];
            (&held.version, snapshot.at, Source::Object(snapshot))
        });
        reads.chain(receipts).chain(objects)
    }
}

/// Who said what a version covers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// The answer to an operation.
    Answer(&'a Operation),
    /// An object that a node held.
    Object(&'a Snapshot),
}

impl Source<'_> {
    /// The operation, if it was an answer.
    pub(super) fn operations(&self) -> Vec<u64> {
        match self {
            Self::Answer(operation) => vec![operation.id],
            Self::Object(_) => Vec::new(),
        }
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(operation) => {
                let Operation { id, client, invoked, returned, .. } = operation;
                let what = match operation.action {
                    Action::Write { .. } => "write",
                    Action::Read { .. } => "read",
                };
                write!(f, "{what} {id} by client {client} at {invoked}")?;
                returned.map_or(Ok(()), |returned| write!(f, "..{returned}"))
            }
            Self::Object(snapshot) => write!(f, "node {} at {}", snapshot.node, snapshot.at),
        }
    }
}

impl Answered<'_> {
    /// Whether so many answers and the write's acks have an owner in common: of sloppy quorums nobody
    /// can tell.
    pub(super) fn meets(&self, write: &Written<'_>, n: usize) -> bool {
        self.r + write.w > n && !self.sloppy && !write.sloppy
    }
}

impl Written<'_> {
    /// Whether it was acknowledged before then.
    pub(super) fn is_acknowledged_before(&self, moment: Moment) -> bool {
        self.receipt.is_some() && self.operation.returned.is_some_and(|at| at < moment)
    }

    /// Whether all who had it lost it before then.
    pub(super) fn is_lost_before(&self, moment: Moment) -> bool {
        self.lost_from.is_some_and(|lost| lost < moment)
    }

    /// Whether its context had seen the write of `dot`.
    pub(super) fn knew(&self, dot: Dot) -> bool {
        dot.is_covered_by(self.context)
    }
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.value {
            Some(value) => write!(f, "{value:?}")?,
            None => f.write_str("a delete")?,
        }
        if let Some(dot) = self.dot {
            write!(f, " {}", Name(dot))?;
        }
        write!(f, " ({}, {})", Source::Answer(self.operation), self.told())
    }
}

impl Written<'_> {
    fn told(&self) -> String {
        match self.receipt {
            Some(receipt) if receipt.fallbacks.is_empty() => {
                format!("acknowledged by {:?}", receipt.acked)
            }
            Some(Receipt { acked, fallbacks, .. }) => {
                format!("acknowledged by {acked:?}, and by {fallbacks:?}")
            }
            None => "unknown".to_owned(),
        }
    }
}

/// A dot as text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name(pub(super) Dot);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{}", self.0.actor, self.0.n)
    }
}

/// A version as text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Covers<'a>(pub(super) &'a Version);

impl fmt::Display for Covers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(&actor, &n)| Name(Dot { actor, n }).to_string());
        write!(f, "{{{}}}", names.collect::<Vec<_>>().join(", "))
    }
}
