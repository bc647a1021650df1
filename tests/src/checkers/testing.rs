//! Histories in few words: a [`Story`] is told line by line, each after the one before.
//!
//! Versions and dots are text: `"a1 b3"` covers what actor a, whose number is 1, wrote up to 1, and
//! what b wrote up to 3; `"a1=x"` is a value under its dot. Writes are acknowledged by nodes 1 and 2
//! of three owners, reads have heard two; whoever wants it otherwise changes it afterwards.

use super::{Checker, Index, check};
use crate::history::{
    Action, Dot, Handoff, Held, Hint, History, Loss, LossKind, Moment, Namespace, Node, Operation,
    Outcome, Receipt, Seen, Shown, Snapshot, Version,
};

pub(super) mod model;

/// A version as text.
pub(super) fn version(text: &str) -> Version {
    text.split_whitespace().map(dot).map(|dot| (dot.actor, dot.n)).collect()
}

/// A dot as text.
pub(super) fn dot(text: &str) -> Dot {
    let (actor, n) = text.split_at(1);
    Dot { actor: actor_of(actor), n: n.parse().unwrap() }
}

fn actor_of(text: &str) -> u64 {
    (text.as_bytes()[0] - b'a' + 1).into()
}

fn values(text: &str) -> Vec<(Dot, String)> {
    let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(name, value)| (dot(name), value.to_owned())).collect()
}

/// A history that is being told.
#[derive(Clone)]
pub(super) struct Story {
    pub(super) history: History,
    namespace: &'static str,
    now: Moment,
    now_ms: u64,
}

impl Story {
    /// Of a namespace "things", where siblings stand beside each other.
    pub(super) fn siblings() -> Self {
        Self::of("things", false)
    }

    /// Of a namespace "last", where the last write wins.
    pub(super) fn lww() -> Self {
        Self::of("last", true)
    }

    fn of(namespace: &'static str, lww: bool) -> Self {
        let mut history = History::default();
        history.namespaces.push(Namespace { name: namespace.to_owned(), n: 3, lww, steady: false });
        Self { history, namespace, now: 0, now_ms: 0 }
    }

    fn next(&mut self) -> Moment {
        self.now += 10;
        self.now
    }

    pub(super) fn now(&self) -> Moment {
        self.now
    }

    /// Time passes.
    pub(super) fn passes_ms(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    /// A value is written and acknowledged.
    pub(super) fn put(&mut self, key: &str, value: &str, context: &str, dot: &str) -> Told<'_> {
        self.write(key, Some(value), context, written(dot, 1))
    }

    /// A delete is acknowledged.
    pub(super) fn delete(&mut self, key: &str, context: &str, dot: &str) -> Told<'_> {
        self.write(key, None, context, written(dot, 0))
    }

    /// What became of a write is unknown.
    pub(super) fn unknown(&mut self, key: &str, value: Option<&str>, context: &str) -> Told<'_> {
        self.write(key, value, context, Outcome::Unknown("lost".to_owned()))
    }

    /// A write is refused.
    pub(super) fn refused(&mut self, key: &str, value: Option<&str>, context: &str) -> Told<'_> {
        self.write(key, value, context, Outcome::NotApplied("too much".to_owned()))
    }

    fn write(
        &mut self,
        key: &str,
        value: Option<&str>,
        context: &str,
        outcome: Outcome,
    ) -> Told<'_> {
        let (value, context) = (value.map(str::to_owned), version(context));
        self.tell(
            key,
            Action::Write { value, context, w: 2, synced: false, sloppy: false, copies: false },
            outcome,
        )
    }

    /// A read shows these values.
    pub(super) fn read(&mut self, key: &str, values: &str, context: Option<&str>) -> Told<'_> {
        let values = values.split_whitespace().map(str::to_owned).collect();
        let shown = Shown { values, context: context.map(version) };
        self.tell(key, Action::Read { r: 2, sloppy: false }, Outcome::Shown(shown))
    }

    fn tell(&mut self, key: &str, action: Action, outcome: Outcome) -> Told<'_> {
        let (invoked, returned) = (self.next(), self.next());
        self.history.operations.push(Operation {
            id: self.history.operations.len() as u64 + 1,
            client: 1,
            namespace: self.namespace.to_owned(),
            key: key.to_owned(),
            invoked,
            invoked_ms: self.now_ms,
            returned: Some(returned),
            returned_ms: Some(self.now_ms),
            action,
            outcome,
        });
        self.operation_at(self.history.operations.len() - 1)
    }

    pub(super) fn operation_at(&mut self, at: usize) -> Told<'_> {
        Told(&mut self.history.operations[at])
    }

    pub(super) fn loses(&mut self, node: Node, kind: LossKind) {
        let at = self.next();
        self.history.losses.push(Loss { at, node, kind });
    }

    /// A node owes what it kept of a key to an owner no more, which has that much on disk.
    pub(super) fn hands_over(
        &mut self,
        [node, target]: [Node; 2],
        key: &str,
        hint: &str,
        on_disk: Option<&str>,
    ) {
        let (at, namespace, key) = (self.next(), self.namespace.to_owned(), key.to_owned());
        let (hint, on_disk) = (version(hint), on_disk.map(version));
        let handoff = Handoff { at, node, target, namespace, key, version: hint, on_disk };
        self.history.handoffs.push(handoff);
    }

    /// A node holds one key.
    pub(super) fn holds(
        &mut self,
        node: Node,
        key: &str,
        version: &str,
        values: &str,
    ) -> Holding<'_> {
        self.observe(node, false).and_holds(key, version, values)
    }

    /// A node holds one key, and all is well.
    pub(super) fn settles(
        &mut self,
        node: Node,
        key: &str,
        version: &str,
        values: &str,
    ) -> Holding<'_> {
        self.observe(node, true).and_holds(key, version, values)
    }

    fn observe(&mut self, node: Node, healed: bool) -> Holding<'_> {
        let at = self.next();
        self.history.snapshots.push(Snapshot {
            at,
            node,
            healed,
            metadata: (1, 7),
            objects: Vec::new(),
            damaged: Vec::new(),
            hints: Vec::new(),
            damaged_hints: Vec::new(),
            damaged_frontiers: Vec::new(),
            trees: Vec::new(),
            frontiers: Vec::new(),
        });
        let last = self.history.snapshots.len() - 1;
        Holding { snapshots: &mut self.history.snapshots[last..], namespace: self.namespace }
    }

    /// All owners hold one key, and all is well.
    pub(super) fn settle(&mut self, key: &str, version: &str, values: &str) -> Holding<'_> {
        for node in 1..=3 {
            self.settles(node, key, version, values);
        }
        let first = self.history.snapshots.len() - 3;
        Holding { snapshots: &mut self.history.snapshots[first..], namespace: self.namespace }
    }
}

fn written(name: &str, siblings: u32) -> Outcome {
    Outcome::Written(Receipt {
        dot: dot(name),
        context: None,
        siblings,
        acked: vec![1, 2],
        fallbacks: Vec::new(),
        synced: 0,
    })
}

/// An operation that was told, to be changed.
pub(super) struct Told<'s>(&'s mut Operation);

impl<'s> Told<'s> {
    pub(super) fn operation(self) -> &'s mut Operation {
        self.0
    }

    pub(super) fn receipt(self) -> &'s mut Receipt {
        match &mut self.0.outcome {
            Outcome::Written(receipt) => receipt,
            other => panic!("{other:?} has no receipt"),
        }
    }

    /// Fallbacks may have counted.
    pub(super) fn by_sloppy_quorum(self) {
        match &mut self.0.action {
            Action::Write { sloppy, .. } | Action::Read { sloppy, .. } => *sloppy = true,
        }
    }

    pub(super) fn reads_from(self, nodes: usize) {
        self.0.action = Action::Read { r: nodes, sloppy: false };
    }
}

/// Snapshots that were told, to be changed.
pub(super) struct Holding<'s> {
    snapshots: &'s mut [Snapshot],
    namespace: &'static str,
}

impl Holding<'_> {
    pub(super) fn and_holds(self, key: &str, covers: &str, live: &str) -> Self {
        for snapshot in &mut *self.snapshots {
            snapshot.objects.push(Held {
                namespace: self.namespace.to_owned(),
                key: key.to_owned(),
                partition: "p".to_owned(),
                version: version(covers),
                values: values(live),
                last: None,
                deadlines_ms: Vec::new(),
            });
        }
        self
    }

    /// It keeps that much of a key for owners.
    pub(super) fn and_keeps(self, key: &str, covers: &str, targets: &[Node]) -> Self {
        for snapshot in &mut *self.snapshots {
            snapshot.hints.push(Hint {
                namespace: self.namespace.to_owned(),
                key: key.to_owned(),
                version: version(covers),
                targets: targets.to_vec(),
            });
        }
        self
    }

    pub(super) fn last(self, time: u64, name: &str) -> Self {
        for snapshot in &mut *self.snapshots {
            let held = snapshot.objects.last_mut().unwrap();
            held.last = Some((time, dot(name)));
        }
        self
    }

    pub(super) fn seen(self, actor: &str, ranges: &[(u64, u64)]) -> Self {
        for snapshot in &mut *self.snapshots {
            let (partition, ranges) = ("p".to_owned(), ranges.to_vec());
            snapshot.frontiers.push(Seen { partition, actor: actor_of(actor), ranges });
        }
        self
    }

    pub(super) fn without_objects(self) {
        self.snapshots.iter_mut().for_each(|snapshot| snapshot.objects.clear());
    }
}

/// A checker objects, and says why; nothing else about the history matters.
#[track_caller]
pub(super) fn assert_finds(checker: Checker, story: &Story, text: &str) {
    let found = checker(&Index::new(&story.history));
    assert!(found.iter().any(|violation| violation.text.contains(text)), "{text}: {found:#?}");
}

/// No checker objects to anything.
#[track_caller]
pub(super) fn assert_accepts(story: &Story) {
    let violations = check(&story.history).violations;
    assert!(violations.is_empty(), "{violations:#?}");
}
