//! What the clients and the faults of a run share: the cluster, and the history they leave.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use quorate_node::cluster::Cluster;
use quorate_node::cluster::view::View;
use quorate_node::coordinator::binding;
use quorate_node::dynamo::context::Context;
use quorate_node::dynamo::key::Key;
use quorate_proto::v1;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::workload::{self, Workload};
use super::{SimCluster, node, observe};
use crate::checkers::{Violation, check, join};
use crate::history::{
    Action, Dot, Entry, Handoff, Hint, History, Metadata, Moment, Namespace, Operation, Outcome,
    Version,
};

/// The namespace of a run.
pub(super) const NAMESPACE: &str = "things";

/// The text of a key.
pub(super) fn key_name(key: u64) -> String {
    format!("k{key}")
}

/// A cluster, and what happened to it.
pub(super) struct World {
    pub(super) cluster: RefCell<SimCluster>,
    pub(super) workload: Workload,
    pub(super) nodes: usize,
    /// The owners of each key, by index.
    pub(super) owners: Vec<Vec<usize>>,
    view: Arc<View>,
    /// The metadata that each node was last seen to know.
    known: RefCell<BTreeMap<usize, Arc<View>>>,
    started: Instant,
    moment: Cell<Moment>,
    /// The last moment of each millisecond that had one, in order.
    moments: RefCell<Vec<(u64, Moment)>>,
    history: RefCell<History>,
    /// What administrators did.
    extra: RefCell<History>,
    /// What was seen to be wrong meanwhile.
    violations: RefCell<Vec<Violation>>,
    /// Writes whose outcome their clients do not know.
    unknown: RefCell<Vec<Unknown>>,
    /// Nodes whose records were damaged: what they alone had of a write may be lost.
    rotten: RefCell<BTreeSet<usize>>,
    /// What each node was last seen to owe: what of which key to whom.
    owed: RefCell<BTreeMap<usize, Owed>>,
}

/// What a node owes: by key and owner, what it reflects.
type Owed = BTreeMap<(String, u64), Version>;

/// A write whose outcome its client does not know.
pub(super) struct Unknown {
    /// Which operation it is.
    pub(super) asked: usize,
    pub(super) key: u64,
    /// The node that its id names.
    pub(super) coordinator: usize,
    pub(super) request: v1::PutRequest,
    pub(super) deletes: bool,
}

impl World {
    /// The world around a cluster that has the namespace.
    pub(super) fn new(cluster: SimCluster, workload: Workload) -> Result<Self> {
        let view = cluster.view()?;
        let nodes = view.document().members.len();
        let index = |id| (0..nodes).find(|&index| node(index) == id);
        let owners = |key| {
            let owners = cluster.owners(NAMESPACE, &Key::new(key_name(key))?)?;
            anyhow::Ok(owners.into_iter().filter_map(index).collect())
        };
        let owners = (0..workload.keys).map(owners).collect::<Result<_>>()?;
        Ok(Self {
            cluster: RefCell::new(cluster),
            workload,
            nodes,
            owners,
            view,
            known: RefCell::default(),
            started: Instant::now(),
            moment: Cell::default(),
            moments: RefCell::default(),
            history: RefCell::default(),
            extra: RefCell::default(),
            violations: RefCell::default(),
            unknown: RefCell::default(),
            rotten: RefCell::default(),
            owed: RefCell::default(),
        })
    }

    /// How many of a key's owners a quorum is.
    pub(super) fn quorum(&self) -> usize {
        workload::quorum(self.workload.n)
    }

    /// The metadata that the run began with.
    pub(super) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Milliseconds since the run began.
    pub(super) fn elapsed_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The time at a node, as `Describe` tells it.
    pub(super) fn node_ms(&self, at: usize) -> u64 {
        self.cluster.borrow_mut().node_ms(at)
    }

    /// Up to `count` keys of a node, among them this one if it is one.
    pub(super) fn owned_with(&self, key: u64, at: usize, count: usize) -> Vec<u64> {
        let keys = self.workload.keys;
        let around = (0..keys).map(|step| (key + step) % keys);
        around.filter(|&key| self.owners[key as usize].contains(&at)).take(count).collect()
    }

    /// What a context covers; nothing, if it is none.
    pub(super) fn version_of(&self, key: u64, token: &Bytes) -> Version {
        if token.is_empty() {
            return Version::new();
        }
        let namespace = self.view.namespace_named(NAMESPACE).expect("the run began with it");
        let key = Key::new(key_name(key)).expect("it is short");
        let context = Context::open(token, binding(&self.view, namespace, &key));
        observe::version(&context.expect("a node sealed it for this key").version)
    }

    /// Under which hash a key is placed.
    pub(super) fn hash_of(&self, key: u64) -> Result<u64> {
        let namespace = self.view.namespace_named(NAMESPACE).context("the run began with it")?;
        Ok(Key::new(key_name(key))?.hash(namespace.id).0)
    }

    /// Notes what a client asks; how to say what it was told.
    pub(super) fn invoke(&self, client: u64, key: u64, action: Action) -> usize {
        self.begin(&self.history, client, (NAMESPACE.to_owned(), key), action)
    }

    /// The operation that was asked last.
    pub(super) fn last_asked(&self) -> usize {
        self.history.borrow().operations.len().saturating_sub(1)
    }

    /// Notes what a client was told.
    pub(super) fn answered(&self, asked: usize, outcome: Outcome) {
        self.end(&self.history, asked, outcome);
    }

    /// Notes that an administrator made a namespace whose keys have so many owners.
    pub(super) fn add_extra(&self, name: String, n: usize) {
        let namespace = Namespace { name, n, lww: false, steady: false };
        self.extra.borrow_mut().push(Entry::Namespace(namespace));
    }

    /// Notes what an administrator asks.
    pub(super) fn invoke_extra(&self, number: u64, key: (String, u64), action: Action) -> usize {
        self.begin(&self.extra, number, key, action)
    }

    /// Notes what an administrator was told.
    pub(super) fn answered_extra(&self, asked: usize, outcome: Outcome) {
        self.end(&self.extra, asked, outcome);
    }

    /// Notes that the outcome of a write, unknown before, is known now.
    pub(super) fn settled(&self, asked: usize, outcome: Outcome) {
        self.history.borrow_mut().operations[asked].returned = None;
        self.end(&self.history, asked, outcome);
    }

    /// Looks whether a receipt is true, at the moment when it is given: each node that it names
    /// reflects the write, as many as it says on disk. Those that lost something, or cannot read the
    /// key, have an excuse.
    pub(super) fn inspect(&self, asked: usize, key: u64, receipt: &v1::Receipt) {
        let Some(v1::Dot { actor, n }) = receipt.dot else { return };
        let (cluster, history) = (self.cluster.borrow(), self.history.borrow());
        let since = history.operations[asked].invoked;
        let excused = |id| history.losses.iter().any(|loss| loss.node == id && loss.at > since);
        let stored = Key::new(key_name(key)).expect("it is short");
        let (mut on_disk, mut unknown) = (0, 0);
        let (dot, owners) = (Dot { actor, n }, &self.owners[key as usize]);
        let index = |id| (0..self.nodes).find(|&index| node(index).0 == id);
        let owns = |id| index(id).is_some_and(|index| owners.contains(&index));
        let reflects = |id| cluster.reflects(index(id)?, NAMESPACE, &stored, dot);
        let keeps = |&v1::StandIn { node: id, owner }: &v1::StandIn| {
            let kept = cluster.keeps(index(id)?, (NAMESPACE, &stored), dot, node(index(owner)?));
            let home = || reflects(owner).map(|[_, durable]| [durable; 2]);
            kept.filter(|[keeps, _]| *keeps).or_else(home)
        };
        let by_owners = receipt.acked.iter().map(|&id| (id, owns(id), reflects(id)));
        let by_fallbacks = receipt.fallbacks.iter().map(|by| {
            let may_stand_in = owns(by.owner) && !owns(by.node);
            (by.node, may_stand_in, keeps(by).filter(|_| !excused(by.owner)))
        });
        for (id, may_be, has) in by_owners.chain(by_fallbacks) {
            if !may_be {
                let text = format!("node {id:016x} is named for {dot}, and may not be");
                self.add_violations([violation("I17", text, asked)]);
            }
            match has.filter(|_| !excused(id)) {
                None => unknown += 1,
                Some([reflects, durable]) => {
                    on_disk += usize::from(durable);
                    if !reflects {
                        let text = format!("node {id:016x} is named for {dot} and has it not");
                        self.add_violations([violation("I17", text, asked)]);
                    }
                }
            }
        }
        if on_disk + unknown < receipt.synced as usize {
            let text = format!("{} are said to have it on disk, {on_disk} do", receipt.synced);
            self.add_violations([violation("I17", text, asked)]);
        }
        drop(history);
        for by in &receipt.fallbacks {
            self.see_kept(&cluster, key, dot, by);
        }
    }

    /// Notes that a fallback keeps a write: it may hand it over before it is looked again.
    fn see_kept(&self, cluster: &SimCluster, key: u64, dot: Dot, by: &v1::StandIn) {
        let index = |id| (0..self.nodes).find(|&index| node(index).0 == id);
        let (Some(at), Some(owner)) = (index(by.node), index(by.owner)) else { return };
        if cluster.is_double(at) {
            // It may be the other process that keeps it.
            return;
        }
        let (name, version) = (key_name(key), Version::from([(dot.actor, dot.n)]));
        let stored = Key::new(name.clone()).expect("it is short");
        let on_disk = || cluster.on_disk(owner, NAMESPACE, &stored);
        let is_home = || on_disk().is_some_and(|version| dot.is_covered_by(&version));
        match cluster.keeps(at, (NAMESPACE, &stored), dot, node(owner)) {
            Some([true, _]) => {
                let mut owed = self.owed.borrow_mut();
                let of_node = owed.entry(at).or_default();
                join(of_node.entry((name, by.owner)).or_default(), &version);
            }
            Some([false, _]) if is_home() => {
                self.handed_over(cluster, at, owner, (name, version));
            }
            _ => {}
        }
    }

    /// Notes which hints are gone since it was looked last, and what their owners have on disk. What a
    /// node lost meanwhile would be seen here as handed over: so it is looked before a node loses
    /// anything, and forgotten afterwards.
    pub(super) fn look_at_hints(&self, cluster: &SimCluster) -> Result<()> {
        for index in 0..self.nodes {
            let (hints, damaged) = cluster.hints(&self.view, index)?;
            let mut now = Owed::new();
            for Hint { key, version, targets, .. } in hints {
                let owed =
                    targets.into_iter().map(|target| ((key.clone(), target), version.clone()));
                now.extend(owed);
            }
            let before = self.owed.borrow_mut().remove(&index).unwrap_or_default();
            for ((key, target), version) in before {
                if damaged.iter().any(|(_, damaged)| *damaged == key) {
                    now.entry((key, target)).or_insert(version);
                    continue;
                }
                let owed = now.get(&(key.clone(), target));
                let covered = |(&actor, &n): (&u64, &u64)| {
                    owed.is_some_and(|owed| Dot { actor, n }.is_covered_by(owed))
                };
                if !version.iter().all(covered) {
                    let owner = (0..self.nodes).find(|&index| node(index).0 == target);
                    let owner = owner.context("hints are for members")?;
                    self.handed_over(cluster, index, owner, (key, version));
                }
            }
            self.owed.borrow_mut().insert(index, now);
        }
        Ok(())
    }

    fn handed_over(
        &self,
        cluster: &SimCluster,
        index: usize,
        owner: usize,
        (key, version): (String, Version),
    ) {
        let stored = Key::new(key.clone()).expect("it is short");
        let on_disk = cluster.on_disk(owner, NAMESPACE, &stored);
        let (at, [node, target]) = (self.moment(), [index, owner].map(|index| node(index).0));
        let namespace = NAMESPACE.to_owned();
        cluster.note_with(|| format!("node {index} owes {key} to node {owner} no more"));
        let handoff = Handoff { at, node, target, namespace, key, version, on_disk };
        self.push(Entry::Handoff(handoff));
    }

    /// Forgets what a node was seen to owe: it may have lost it.
    pub(super) fn forget_hints(&self, index: usize) {
        self.owed.borrow_mut().remove(&index);
    }

    /// A node that can read a hint which it keeps, and for whom; none if there is none.
    pub(super) fn owes(&self, except_for: Option<usize>) -> Result<Option<(usize, u64)>> {
        let cluster = self.cluster.borrow();
        for index in (0..self.nodes).filter(|index| Some(*index) != except_for) {
            let (hints, _) = cluster.hints(&self.view, index)?;
            let mut targets = hints.into_iter().flat_map(|hint| hint.targets);
            let owed = targets.find(|target| except_for.is_none_or(|at| node(at).0 != *target));
            if let Some(target) = owed {
                return Ok(Some((index, target)));
            }
        }
        Ok(None)
    }

    /// Notes that a write may be applied more than once.
    pub(super) fn may_have_copies(&self, asked: usize) {
        let action = &mut self.history.borrow_mut().operations[asked].action;
        if let Action::Write { copies, .. } = action {
            *copies = true;
        }
    }

    /// Notes what is wrong.
    pub(super) fn add_violations(&self, found: impl IntoIterator<Item = Violation>) {
        self.violations.borrow_mut().extend(found);
    }

    /// Notes that a client does not know what became of a write.
    pub(super) fn add_unknown(&self, unknown: Unknown) {
        self.unknown.borrow_mut().push(unknown);
    }

    /// Notes that a record of a node was damaged.
    pub(super) fn add_rotten(&self, at: usize) {
        self.rotten.borrow_mut().insert(at);
    }

    /// Whether any was.
    pub(super) fn is_rotten(&self, at: usize) -> bool {
        self.rotten.borrow().contains(&at)
    }

    /// The writes whose outcomes are not known.
    pub(super) fn take_unknown(&self) -> Vec<Unknown> {
        self.unknown.take()
    }

    fn begin(
        &self,
        history: &RefCell<History>,
        client: u64,
        (namespace, key): (String, u64),
        action: Action,
    ) -> usize {
        let key = key_name(key);
        let mut history = history.borrow_mut();
        let asked = history.operations.len();
        self.note(|| format!("{asked}: client {client} asks {namespace}/{key}: {action}"));
        history.operations.push(Operation {
            id: asked as u64,
            client,
            namespace,
            key,
            invoked: self.moment(),
            invoked_ms: self.elapsed_ms(),
            returned: None,
            returned_ms: None,
            action,
            outcome: Outcome::Unknown("it is under way".to_owned()),
        });
        asked
    }

    fn end(&self, history: &RefCell<History>, asked: usize, outcome: Outcome) {
        let mut history = history.borrow_mut();
        let operation = &mut history.operations[asked];
        assert!(operation.returned.is_none(), "operation {asked} was answered twice");
        let Operation { client, key, namespace, .. } = operation;
        self.note(|| format!("{asked}: client {client} hears of {namespace}/{key}: {outcome}"));
        operation.outcome = outcome;
        operation.returned = Some(self.moment());
        operation.returned_ms = Some(self.elapsed_ms());
    }

    /// The next moment.
    pub(super) fn moment(&self) -> Moment {
        self.moment.update(|moment| moment + 1);
        let (now_ms, moment) = (self.elapsed_ms(), self.moment.get());
        let mut moments = self.moments.borrow_mut();
        match moments.last_mut() {
            Some((ms, last)) if *ms == now_ms => *last = moment,
            _ => moments.push((now_ms, moment)),
        }
        moment
    }

    /// The last moment before then, in milliseconds since the run began.
    pub(super) fn moment_at(&self, ms: u64) -> Moment {
        let moments = self.moments.borrow();
        let before = moments.partition_point(|(at_ms, _)| *at_ms < ms);
        before.checked_sub(1).map_or(0, |last| moments[last].1)
    }

    /// Adds to the history.
    pub(super) fn push(&self, entry: Entry) {
        if let Entry::Loss(_) = entry {
            self.extra.borrow_mut().push(entry.clone());
        }
        self.history.borrow_mut().push(entry);
    }

    /// The id of a namespace by the newest metadata that a running node knows.
    pub(super) fn newest_id(&self, name: &str) -> Option<u64> {
        let view = self.cluster.borrow().view().ok()?;
        Some(view.namespace_named(name)?.id.0)
    }

    /// The same by what one node knows.
    pub(super) fn id_at(&self, at: usize, name: &str) -> Option<u64> {
        let view = self.metadata(at)?.0.view()?;
        Some(view.namespace_named(name)?.id.0)
    }

    /// What a node knows of the metadata, until it ends; none if it does not run.
    pub(super) fn metadata(&self, at: usize) -> Option<(Arc<Cluster>, CancellationToken)> {
        let coordinator = self.cluster.borrow().coordinator(at)?;
        let gone = self.cluster.borrow().serving(at, false)?.gone;
        Some((coordinator.cluster().clone(), gone))
    }

    /// Notes what every node holds.
    pub(super) fn snapshot(&self, healed: bool) -> Result<()> {
        self.look_at_metadata();
        (0..self.nodes).try_for_each(|index| self.look(&self.cluster.borrow(), index, healed))
    }

    /// What owners of the same keys differ in, if they do.
    pub(super) fn disagreement(&self) -> Result<Option<Violation>> {
        let cluster = self.cluster.borrow();
        let snapshot = |index| cluster.snapshot(&self.view, index, self.moment(), true);
        let snapshots = (0..self.nodes).map(snapshot).collect::<Result<_>>()?;
        let namespaces = self.history.borrow().namespaces.clone();
        let history = History { namespaces, snapshots, ..History::default() };
        let mut differs = check(&history).violations.into_iter();
        Ok(differs.find(|violation| violation.invariant == "I7"))
    }

    /// Notes what one node holds, unless it is two processes: either has what the other may not.
    pub(super) fn look(&self, cluster: &SimCluster, index: usize, healed: bool) -> Result<()> {
        // Or a hint would seem to be lost that went home since it was looked last.
        self.look_at_hints(cluster)?;
        if cluster.is_double(index) {
            return Ok(());
        }
        let held = cluster.snapshot(&self.view, index, self.moment(), healed);
        self.push(Entry::Snapshot(held.with_context(|| format!("node {index}"))?));
        Ok(())
    }

    /// Notes which metadata nodes know that was not noted before.
    pub(super) fn look_at_metadata(&self) {
        let views = self.cluster.borrow().views();
        let mut known = self.known.borrow_mut();
        for (index, view) in views {
            let before = known.insert(index, view.clone());
            if before.is_none_or(|before| !Arc::ptr_eq(&before, &view)) {
                let metadata = observe::metadata(&view, index, self.moment());
                let Metadata { version, hash, .. } = metadata;
                self.note(|| format!("node {index} knows metadata {version}, {hash:016x}"));
                self.push(Entry::Metadata(metadata));
            }
        }
    }

    /// Adds a line to the trace, if there is one.
    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        self.cluster.borrow().note_with(line);
    }

    /// What happened.
    pub(super) fn into_parts(self) -> (History, History, Vec<Violation>) {
        (self.history.into_inner(), self.extra.into_inner(), self.violations.into_inner())
    }
}

/// A violation that one operation shows.
pub(super) fn violation(invariant: &'static str, text: String, asked: usize) -> Violation {
    Violation { invariant, text, operations: vec![asked as u64] }
}
