//! A small store of three owners and two fallbacks that keeps its promises, or breaks one on purpose: to see that the
//! checkers blame the second and never the first.
//!
//! It follows the protocol's rules without a network or clocks: each step something begins, goes on
//! or is lost, as chance has it. Operations overlap, answers get lost, objects arrive late.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::history::{
    Action, Dot, Handoff, Held, Hint, History, Loss, LossKind, Moment, Namespace, Operation,
    Outcome, Receipt, Seen, Shown, Snapshot, StandIn, Version,
};

use super::super::causality::join;

const NODES: usize = 3;
/// The nodes that stand in for owners, by their ids.
const FALLBACKS: [u64; 2] = [4, 5];
const NAMESPACE: &str = "things";
/// How many operations are under way at once, at most.
const PENDING: usize = 6;
const MS_PER_MOMENT: u64 = 20;

/// What a store may do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Flaw {
    /// All nodes forget what was not on their disks, though none lost its power.
    LosesOnRestart,
    /// A write that is refused is applied all the same.
    AppliesWhatItRefuses,
    /// What remains of a deleted key is dropped.
    ForgetsTombstones,
    /// An actor outlives a loss.
    NumbersAgain,
    /// The numbers below a key's are taken for its own.
    BelievesInGaps,
    /// Every write answers with a context.
    TokensForAll,
    /// Merging keeps what either side holds.
    KeepsSuperseded,
    /// Owners stay as they are in the end.
    RepairsNothing,
    /// A read hears one owner.
    ReadsOne,
    /// A write may be older than what its client had seen.
    IgnoresTokenTimes,
    /// A receipt names an owner that nobody asked.
    AcksAlone,
    /// A receipt names a fallback that keeps nothing.
    KeepsNothing,
    /// Hints are dropped.
    DropsHints,
    /// Hints are dropped when the owner has them in its memory.
    HandsOverToMemory,
    /// Hints stay where they are.
    KeepsHints,
    /// Two owners that hold nothing are enough to say so.
    DeniesByTwo,
}

/// What a run is like.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Plan {
    pub(in super::super) lww: bool,
    pub(in super::super) keys: u64,
    pub(in super::super) steps: usize,
    pub(in super::super) losses: bool,
    pub(in super::super) sloppy: bool,
    pub(in super::super) flaw: Option<Flaw>,
}

impl Plan {
    pub(in super::super) fn random(rng: &mut ChaCha8Rng) -> Self {
        let (lww, keys, losses) = (rng.random(), rng.random_range(1..=3), rng.random());
        Self { lww, keys, steps: 600, losses, sloppy: rng.random(), flaw: None }
    }
}

#[derive(Clone, Default)]
struct Object {
    values: BTreeMap<Dot, String>,
    version: Version,
    last: Option<(u64, Dot)>,
}

#[derive(Clone, Default)]
struct State {
    objects: BTreeMap<u64, Object>,
    frontier: BTreeSet<Dot>,
}

#[derive(Default)]
struct Node {
    state: State,
    disk: State,
    copy: Option<(Moment, State)>,
    actor: u64,
    n: u64,
    ahead_ms: u64,
}

#[derive(Clone, Default)]
struct Token {
    version: Version,
    time: u64,
}

enum Stage {
    Write { token: Token, coordinator: usize },
    Applied { receipt: Receipt, object: Object, coordinator: usize },
    Read,
    HalfRead { first: usize, object: Object },
}

/// What a fallback keeps for an owner.
struct Kept {
    by: StandIn,
    key: u64,
    object: Object,
}

/// An operation under way: its place in the history.
struct Pending {
    at: usize,
    key: u64,
    stage: Stage,
}

struct Run<'r> {
    rng: &'r mut ChaCha8Rng,
    plan: Plan,
    nodes: Vec<Node>,
    history: History,
    now: Moment,
    actors: u64,
    pending: Vec<Pending>,
    late: Vec<(usize, u64, Object)>,
    kept: Vec<Kept>,
    tokens: BTreeMap<u64, Vec<Token>>,
}

/// The history of a run.
pub(in super::super) fn run(rng: &mut ChaCha8Rng, plan: Plan) -> History {
    let (history, pending, late, kept, tokens) = <(_, _, _, _, _)>::default();
    let nodes = (0..NODES).map(|_| Node::default()).collect();
    let mut run = Run { rng, plan, nodes, history, now: 0, actors: 0, pending, late, kept, tokens };
    let (name, n, steady) = (NAMESPACE.to_owned(), NODES, plan.sloppy && !plan.losses);
    run.history.namespaces.push(Namespace { name, n, lww: plan.lww, steady });
    for at in 0..NODES {
        run.renew(at);
        run.nodes[at].ahead_ms = run.rng.random_range(0..1_000);
    }
    (0..plan.steps).for_each(|_| run.step());
    run.settle();
    run.history
}

impl Run<'_> {
    fn has(&self, flaw: Flaw) -> bool {
        self.plan.flaw == Some(flaw)
    }

    fn moment(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    fn one(&mut self) -> usize {
        self.rng.random_range(0..NODES)
    }

    fn step(&mut self) {
        let begins = self.pending.is_empty() || self.rng.random_bool(0.4);
        match self.rng.random_range(0..100) {
            0 => self.snapshot(false),
            1..4 => {
                let at = self.one();
                self.nodes[at].disk = self.nodes[at].state.clone();
            }
            4 if self.plan.losses => self.lose(),
            5 if self.has(Flaw::LosesOnRestart) => {
                self.late.clear();
                for at in 0..NODES {
                    self.nodes[at].state = self.nodes[at].disk.clone();
                    self.renew(at);
                }
            }
            16..22 if !self.kept.is_empty() && !self.has(Flaw::KeepsHints) => {
                let at = self.rng.random_range(0..self.kept.len());
                let kept = self.kept.swap_remove(at);
                self.hand_over(kept);
            }
            6..16 if !self.late.is_empty() => {
                let at = self.rng.random_range(0..self.late.len());
                let (node, key, object) = self.late.swap_remove(at);
                self.receive(node, key, &object);
            }
            _ if begins && self.pending.len() < PENDING => self.begin(),
            _ => {
                let at = self.rng.random_range(0..self.pending.len().max(1));
                if at < self.pending.len() {
                    let pending = self.pending.swap_remove(at);
                    self.go_on(pending);
                }
            }
        }
    }

    fn begin(&mut self) {
        let (key, at) = (self.rng.random_range(0..self.plan.keys), self.history.operations.len());
        let sloppy = self.plan.sloppy && self.rng.random_bool(0.7);
        let (action, outcome, stage) = match self.rng.random_range(0..10) {
            0..5 => {
                let action = Action::Read { r: 2, sloppy };
                (action, Outcome::Failed("silence".to_owned()), Stage::Read)
            }
            kind => {
                let (token, coordinator) = (self.token(key), self.one());
                let value = (kind > 5 || token.version.is_empty()).then(|| format!("v{at}"));
                let context = token.version.clone();
                let action =
                    Action::Write { value, context, w: 2, synced: false, sloppy, copies: false };
                let stage = Stage::Write { token, coordinator };
                (action, Outcome::Unknown("silence".to_owned()), stage)
            }
        };
        let invoked = self.moment();
        self.history.operations.push(Operation {
            id: at as u64,
            client: 1,
            namespace: NAMESPACE.to_owned(),
            key: key.to_string(),
            invoked,
            invoked_ms: invoked * MS_PER_MOMENT,
            returned: None,
            returned_ms: None,
            action,
            outcome,
        });
        self.pending.push(Pending { at, key, stage });
    }

    /// None, mostly the last one that was told, or an older one.
    fn token(&mut self, key: u64) -> Token {
        let Some(told) = self.tokens.get(&key) else { return Token::default() };
        match self.rng.random_range(0..10) {
            0..2 => Token::default(),
            2..4 => told[self.rng.random_range(0..told.len())].clone(),
            _ => told[told.len() - 1].clone(),
        }
    }

    fn answer(&mut self, at: usize, outcome: Outcome) {
        let returned = self.moment();
        let operation = &mut self.history.operations[at];
        operation.outcome = outcome;
        operation.returned = Some(returned);
        operation.returned_ms = Some(returned * MS_PER_MOMENT);
    }

    fn go_on(&mut self, Pending { at, key, stage }: Pending) {
        match stage {
            Stage::Write { token, coordinator } => match self.rng.random_range(0..20) {
                0..2 => {
                    if self.has(Flaw::AppliesWhatItRefuses) {
                        self.apply(at, key, &token, coordinator);
                    }
                    self.answer(at, Outcome::NotApplied("refused".to_owned()));
                }
                2 => self.answer(at, Outcome::Unknown("it got lost".to_owned())),
                _ => {
                    if self.rng.random_bool(0.03) {
                        self.apply_elsewhere(at, key, &token, coordinator);
                    }
                    let (receipt, object) = self.apply(at, key, &token, coordinator);
                    let stage = Stage::Applied { receipt, object, coordinator };
                    self.pending.push(Pending { at, key, stage });
                }
            },
            Stage::Applied { receipt, object, coordinator } => {
                self.replicate(
                    Pending { at, key, stage: Stage::Read },
                    receipt,
                    object,
                    coordinator,
                );
            }
            Stage::Read => {
                let first = self.one();
                let object = self.nodes[first].object(key);
                let stage = Stage::HalfRead { first, object };
                self.pending.push(Pending { at, key, stage });
            }
            Stage::HalfRead { first, mut object } => {
                let second = (first + self.rng.random_range(1..NODES)) % NODES;
                if !self.has(Flaw::ReadsOne) {
                    let other = self.nodes[second].object(key);
                    object.merge(&other, self.has(Flaw::KeepsSuperseded));
                }
                if object.values.is_empty() && self.is_sloppy(at) && !self.has(Flaw::DeniesByTwo) {
                    self.ask_all(key, &mut object);
                }
                self.show(at, key, object, first);
            }
        }
    }

    fn apply(
        &mut self,
        at: usize,
        key: u64,
        token: &Token,
        coordinator: usize,
    ) -> (Receipt, Object) {
        let Action::Write { value, .. } = self.history.operations[at].action.clone() else {
            panic!("operation {at} does not write");
        };
        let sees_times = !self.has(Flaw::IgnoresTokenTimes);
        let (lww, now_ms) = (self.plan.lww, self.now * MS_PER_MOMENT);
        let node = &mut self.nodes[coordinator];
        node.n += 1;
        let dot = Dot { actor: node.actor, n: node.n };
        let clock_ms = now_ms + node.ahead_ms;
        let object = node.state.objects.entry(key).or_default();
        if lww {
            let seen = token.time.max(object.last.map_or(0, |(time, _)| time));
            let time = if sees_times { clock_ms.max(seen + 1) } else { clock_ms };
            if object.last < Some((time, dot)) {
                object.values.clear();
                object.last = Some((time, dot));
                object.values.extend(value.map(|value| (dot, value)));
            }
        } else {
            object.values.retain(|dot, _| !dot.is_covered_by(&token.version));
            object.values.extend(value.map(|value| (dot, value)));
        }
        join(&mut object.version, &token.version);
        join(&mut object.version, &Version::from([(dot.actor, dot.n)]));
        let object = object.clone();
        node.state.frontier.insert(dot);
        let own = object.values.keys().all(|live| *live == dot);
        let context = (own || self.has(Flaw::TokensForAll)).then(|| object.version.clone());
        let siblings = object.values.len() as u32;
        let (acked, fallbacks) = <(_, _)>::default();
        let mut receipt = Receipt { dot, context, siblings, acked, fallbacks, synced: 0 };
        self.acked(coordinator, &mut receipt);
        self.forget_tombstone(coordinator, key);
        (receipt, object)
    }

    /// Its client has given up on a node that has the write, and tries another one.
    fn apply_elsewhere(&mut self, at: usize, key: u64, token: &Token, coordinator: usize) {
        if let Action::Write { copies, .. } = &mut self.history.operations[at].action {
            *copies = true;
        }
        let first = (coordinator + self.rng.random_range(1..NODES)) % NODES;
        let (_, object) = self.apply(at, key, token, first);
        self.late.extend((0..NODES).map(|node| (node, key, object.clone())));
    }

    fn is_sloppy(&self, at: usize) -> bool {
        match self.history.operations[at].action {
            Action::Write { sloppy, .. } | Action::Read { sloppy, .. } => sloppy,
        }
    }

    /// What all owners hold, and what fallbacks keep for them.
    fn ask_all(&self, key: u64, object: &mut Object) {
        let kept = self.kept.iter().filter(|kept| kept.key == key).map(|kept| kept.object.clone());
        let held = self.nodes.iter().map(|node| node.object(key));
        held.chain(kept).for_each(|other| object.merge(&other, false));
    }

    /// A fallback stands in for an owner; or has none to stand in for.
    fn keep(&mut self, key: u64, missing: &[usize], object: &Object, receipt: &mut Receipt) {
        let taken = |node: &u64| receipt.fallbacks.iter().any(|by| by.node == *node);
        let Some(node) = FALLBACKS.into_iter().find(|node| !taken(node)) else { return };
        let owners = missing.iter().map(|&at| at as u64 + 1);
        let Some(owner) =
            owners.into_iter().find(|owner| receipt.fallbacks.iter().all(|by| by.owner != *owner))
        else {
            return;
        };
        let by = StandIn { node, owner };
        receipt.fallbacks.push(by);
        if self.has(Flaw::KeepsNothing) {
            return;
        }
        match self.kept.iter_mut().find(|kept| (kept.by, kept.key) == (by, key)) {
            Some(kept) => kept.object.merge(object, false),
            None => self.kept.push(Kept { by, key, object: object.clone() }),
        }
    }

    fn hand_over(&mut self, Kept { by, key, object }: Kept) {
        let target = by.owner as usize - 1;
        if !self.has(Flaw::DropsHints) {
            self.receive(target, key, &object);
            if !self.has(Flaw::HandsOverToMemory) {
                self.nodes[target].disk = self.nodes[target].state.clone();
            }
        }
        let on_disk = self.nodes[target].disk.objects.get(&key).cloned().unwrap_or_default();
        let (at, node) = (self.moment(), by.node);
        self.history.handoffs.push(Handoff {
            at,
            node,
            target: by.owner,
            namespace: NAMESPACE.to_owned(),
            key: key.to_string(),
            version: object.version,
            on_disk: Some(on_disk.version),
        });
    }

    fn acked(&mut self, node: usize, receipt: &mut Receipt) {
        receipt.acked.push(node as u64 + 1);
        if self.rng.random_bool(0.2) {
            receipt.synced += 1;
            self.nodes[node].disk = self.nodes[node].state.clone();
        }
    }

    /// One more owner hears of the write, or its client.
    fn replicate(
        &mut self,
        pending: Pending,
        mut receipt: Receipt,
        object: Object,
        coordinator: usize,
    ) {
        let Pending { at, key, .. } = pending;
        let missing: Vec<usize> =
            (0..NODES).filter(|node| !receipt.acked.contains(&(*node as u64 + 1))).collect();
        let named = |node: usize| receipt.fallbacks.iter().any(|by| by.owner == node as u64 + 1);
        let unanswered = missing.iter().copied().filter(|&node| !named(node)).collect::<Vec<_>>();
        if receipt.acked.len() + receipt.fallbacks.len() >= 2 && self.rng.random_bool(0.7) {
            self.late.extend(missing.into_iter().map(|node| (node, key, object.clone())));
            if let Some(version) = receipt.context.clone() {
                let time = object.last.map_or(0, |(time, _)| time);
                self.tokens.entry(key).or_default().push(Token { version, time });
            }
            return self.answer(at, Outcome::Written(receipt));
        }
        if self.rng.random_bool(0.1) {
            self.late.extend(missing.into_iter().map(|node| (node, key, object.clone())));
            return self.answer(at, Outcome::Unknown("no answer".to_owned()));
        }
        if self.is_sloppy(at) && self.rng.random_bool(0.5) {
            self.keep(key, &unanswered, &object, &mut receipt);
        } else if let Some(&node) = unanswered.first() {
            let node =
                unanswered.get(self.rng.random_range(0..unanswered.len())).copied().unwrap_or(node);
            if !self.has(Flaw::AcksAlone) {
                self.receive(node, key, &object);
            }
            self.acked(node, &mut receipt);
        }
        self.pending
            .push(Pending { stage: Stage::Applied { receipt, object, coordinator }, ..pending });
    }

    fn receive(&mut self, node: usize, key: u64, object: &Object) {
        let (union, gaps) = (self.has(Flaw::KeepsSuperseded), self.has(Flaw::BelievesInGaps));
        let state = &mut self.nodes[node].state;
        state.objects.entry(key).or_default().merge(object, union);
        state.frontier.extend(object.values.keys());
        for (&actor, &n) in &object.version {
            let first = if gaps { 1 } else { n };
            state.frontier.extend((first..=n).map(|n| Dot { actor, n }));
        }
        self.forget_tombstone(node, key);
    }

    fn forget_tombstone(&mut self, node: usize, key: u64) {
        let objects = &mut self.nodes[node].state.objects;
        let empty = objects.get(&key).is_some_and(|object| object.values.is_empty());
        if self.plan.flaw == Some(Flaw::ForgetsTombstones) && empty {
            objects.remove(&key);
        }
    }

    fn show(&mut self, at: usize, key: u64, object: Object, stale: usize) {
        let values: BTreeSet<String> = object.values.values().cloned().collect();
        let values = Vec::from_iter(values);
        let scanned = values.is_empty() && self.rng.random_bool(0.3);
        let context = (!scanned).then(|| object.version.clone());
        if let Some(version) = context.clone() {
            let time = object.last.map_or(0, |(time, _)| time);
            self.tokens.entry(key).or_default().push(Token { version, time });
        }
        self.answer(at, Outcome::Shown(Shown { values, context }));
        if self.rng.random_bool(0.5) && !self.has(Flaw::ReadsOne) {
            self.receive(stale, key, &object);
        }
    }

    fn renew(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let seen = node.state.frontier.iter().filter(|dot| dot.actor == node.actor);
        if self.plan.flaw == Some(Flaw::NumbersAgain) && node.actor > 0 {
            node.n = seen.map(|dot| dot.n).max().unwrap_or_default();
            return;
        }
        self.actors += 1;
        (node.actor, node.n) = (self.actors, 0);
    }

    fn lose(&mut self) {
        if self.plan.sloppy && self.rng.random_bool(0.2) {
            let node = FALLBACKS[self.rng.random_range(0..FALLBACKS.len())];
            let at = self.moment();
            self.history.losses.push(Loss { at, node, kind: LossKind::Wiped });
            let forgotten = |pending: &Pending| match &pending.stage {
                Stage::Applied { receipt, .. } => {
                    receipt.fallbacks.iter().any(|by| by.node == node)
                }
                _ => false,
            };
            self.pending.retain(|pending| !forgotten(pending));
            return self.kept.retain(|kept| kept.by.node != node);
        }
        let at = self.one();
        let node = &mut self.nodes[at];
        let kind = match self.rng.random_range(0..8) {
            0 => {
                (node.state, node.disk, node.copy) = (State::default(), State::default(), None);
                self.catch_up(at);
                LossKind::Wiped
            }
            1..3 => {
                node.state = node.disk.clone();
                self.catch_up(at);
                LossKind::PowerCut(0)
            }
            3 => {
                let Some((copied, state)) = node.copy.take() else { return };
                (node.state, node.disk) = (state.clone(), state);
                LossKind::RolledBack(copied)
            }
            4 => return self.rot(at),
            _ => {
                let copied = self.moment();
                let node = &mut self.nodes[at];
                node.copy = Some((copied, node.state.clone()));
                return;
            }
        };
        self.lost(at, kind, |_, _| true);
    }

    /// It counts only once it has seen what every other owner has: here, at once.
    fn catch_up(&mut self, at: usize) {
        for other in (0..NODES).filter(|other| *other != at) {
            for (key, object) in self.nodes[other].state.objects.clone() {
                self.receive(at, key, &object);
            }
        }
    }

    /// A record is damaged, and replaced by what all others hold.
    fn rot(&mut self, at: usize) {
        let key = self.rng.random_range(0..self.plan.keys);
        let mut mended = Object::default();
        for other in (0..NODES).filter(|other| *other != at) {
            mended.merge(&self.nodes[other].object(key), self.has(Flaw::KeepsSuperseded));
        }
        let node = &mut self.nodes[at];
        node.state.objects.insert(key, mended);
        node.state.frontier.clear();
        node.disk = node.state.clone();
        let rotten = LossKind::Rotten { namespace: NAMESPACE.to_owned(), key: key.to_string() };
        self.lost(at, rotten, |pending, node| match &pending.stage {
            Stage::Applied { receipt, .. } => receipt.acked.contains(&(node as u64 + 1)),
            _ => false,
        });
    }

    /// What a node coordinated before a loss nobody hears of.
    fn lost(&mut self, node: usize, kind: LossKind, or: fn(&Pending, usize) -> bool) {
        let at = self.moment();
        self.history.losses.push(Loss { at, node: node as u64 + 1, kind });
        self.renew(node);
        let forgotten = |pending: &Pending| match &pending.stage {
            Stage::Applied { coordinator, .. } => *coordinator == node || or(pending, node),
            _ => false,
        };
        self.pending.retain(|pending| !forgotten(pending));
    }

    fn settle(&mut self) {
        self.pending.clear();
        if !self.has(Flaw::RepairsNothing) {
            for (node, key, object) in std::mem::take(&mut self.late) {
                self.receive(node, key, &object);
            }
            if !self.has(Flaw::KeepsHints) {
                std::mem::take(&mut self.kept).into_iter().for_each(|kept| self.hand_over(kept));
            }
            for key in 0..self.plan.keys {
                for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 1)] {
                    let object = self.nodes[from].object(key);
                    self.receive(to, key, &object);
                }
            }
        }
        (0..NODES).for_each(|at| self.snapshot_of(at, true));
        FALLBACKS.into_iter().for_each(|node| self.snapshot_of_hints(node, true));
    }

    fn snapshot_of_hints(&mut self, node: u64, healed: bool) {
        let at = self.moment();
        let kept = self.kept.iter().filter(|kept| kept.by.node == node);
        let hint = |kept: &Kept| Hint {
            namespace: NAMESPACE.to_owned(),
            key: kept.key.to_string(),
            version: kept.object.version.clone(),
            targets: vec![kept.by.owner],
        };
        let mut hints: Vec<Hint> = Vec::new();
        for hint in kept.map(hint) {
            match hints.iter_mut().find(|other| other.key == hint.key) {
                Some(other) => {
                    join(&mut other.version, &hint.version);
                    other.targets.extend(hint.targets);
                }
                None => hints.push(hint),
            }
        }
        self.history.snapshots.push(Snapshot { hints, ..empty(at, node, healed) });
    }

    fn snapshot(&mut self, healed: bool) {
        if self.plan.sloppy && self.rng.random() {
            let node = FALLBACKS[self.rng.random_range(0..FALLBACKS.len())];
            return self.snapshot_of_hints(node, healed);
        }
        let at = self.one();
        self.snapshot_of(at, healed);
    }

    fn snapshot_of(&mut self, node: usize, healed: bool) {
        let at = self.moment();
        let state = &self.nodes[node].state;
        let held = |(key, object): (&u64, &Object)| Held {
            namespace: NAMESPACE.to_owned(),
            key: key.to_string(),
            partition: "p".to_owned(),
            version: object.version.clone(),
            values: object.values.clone().into_iter().collect(),
            last: object.last,
            deadlines_ms: Vec::new(),
        };
        let reflects = |(_, object): &(&u64, &Object)| !object.version.is_empty();
        self.history.snapshots.push(Snapshot {
            objects: state.objects.iter().filter(reflects).map(held).collect(),
            frontiers: frontiers(&state.frontier),
            ..empty(at, node as u64 + 1, healed)
        });
    }
}

fn empty(at: Moment, node: u64, healed: bool) -> Snapshot {
    Snapshot {
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
    }
}

fn frontiers(dots: &BTreeSet<Dot>) -> Vec<Seen> {
    let mut by_actor: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for dot in dots {
        let ranges = by_actor.entry(dot.actor).or_default();
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == dot.n => *last = dot.n,
            _ => ranges.push((dot.n, dot.n)),
        }
    }
    let seen = |(actor, ranges)| Seen { partition: "p".to_owned(), actor, ranges };
    by_actor.into_iter().map(seen).collect()
}

impl Node {
    fn object(&self, key: u64) -> Object {
        self.state.objects.get(&key).cloned().unwrap_or_default()
    }
}

impl Object {
    fn merge(&mut self, other: &Self, union: bool) {
        if self.last.is_some() || other.last.is_some() {
            if other.last > self.last {
                (self.values, self.last) = (other.values.clone(), other.last);
            }
        } else {
            let holds = |object: &Self, dot: &Dot| object.values.contains_key(dot);
            let removes = |object: &Self, dot: &Dot| {
                dot.is_covered_by(&object.version) && !holds(object, dot) && !union
            };
            let new = other.values.iter().filter(|(dot, _)| !removes(self, dot));
            let new: Vec<_> = new.map(|(dot, value)| (*dot, value.clone())).collect();
            self.values.retain(|dot, _| !removes(other, dot));
            self.values.extend(new);
        }
        join(&mut self.version, &other.version);
    }
}
