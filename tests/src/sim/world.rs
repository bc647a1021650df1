//! What the clients and the faults of a run share: the cluster, and the history they leave.

use std::cell::RefCell;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use quorate_node::cluster::view::View;
use quorate_node::coordinator::binding;
use quorate_node::dynamo::context::Context;
use quorate_node::dynamo::key::Key;
use tokio::time::Instant;

use super::workload::Workload;
use super::{SimCluster, node, observe};
use crate::history::{Action, Entry, History, Moment, Operation, Outcome, Version};

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
    started: Instant,
    recorder: RefCell<Recorder>,
}

#[derive(Default)]
struct Recorder {
    history: History,
    moment: Moment,
}

impl Recorder {
    fn moment(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }
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
        let (recorder, started) = (RefCell::default(), Instant::now());
        let cluster = RefCell::new(cluster);
        Ok(Self { cluster, workload, nodes, owners, view, started, recorder })
    }

    /// How many replicas a quorum is, of three owners.
    pub(super) fn quorum(&self) -> usize {
        2
    }

    /// The metadata that the run began with.
    pub(super) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Milliseconds since the run began.
    pub(super) fn elapsed_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The opening of a node and the time there, as `Describe` tells them.
    pub(super) fn describe(&self, at: usize) -> Option<(u64, u64)> {
        let mut cluster = self.cluster.borrow_mut();
        let opening = cluster.coordinator(at)?.opening();
        Some((opening.0, cluster.node_ms(at)))
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

    /// Notes what a client asks; how to say what it was told.
    pub(super) fn invoke(&self, client: u64, key: u64, action: Action) -> usize {
        let (key, invoked_ms) = (key_name(key), self.elapsed_ms());
        self.note(|| format!("client {client} asks of {key}: {action:?}"));
        let mut recorder = self.recorder.borrow_mut();
        let (asked, invoked) = (recorder.history.operations.len(), recorder.moment());
        recorder.history.operations.push(Operation {
            id: asked as u64,
            client,
            namespace: NAMESPACE.to_owned(),
            key,
            invoked,
            invoked_ms,
            returned: None,
            returned_ms: None,
            action,
            outcome: Outcome::Unknown("it is under way".to_owned()),
        });
        asked
    }

    /// Notes what a client was told.
    pub(super) fn answered(&self, asked: usize, outcome: Outcome) {
        let returned_ms = self.elapsed_ms();
        let mut recorder = self.recorder.borrow_mut();
        let returned = recorder.moment();
        let operation = &mut recorder.history.operations[asked];
        assert!(operation.returned.is_none(), "operation {asked} was answered twice");
        let Operation { client, key, .. } = operation;
        self.note(|| format!("client {client} is told of {key}: {outcome:?} (operation {asked})"));
        operation.outcome = outcome;
        (operation.returned, operation.returned_ms) = (Some(returned), Some(returned_ms));
    }

    /// The next moment.
    pub(super) fn moment(&self) -> Moment {
        self.recorder.borrow_mut().moment()
    }

    /// Adds to the history.
    pub(super) fn push(&self, entry: Entry) {
        self.recorder.borrow_mut().history.push(entry);
    }

    /// Notes what every node holds.
    pub(super) fn snapshot(&self, healed: bool) -> Result<()> {
        for index in 0..self.nodes {
            let at = self.moment();
            let held = self.cluster.borrow().snapshot(&self.view, index, at, healed);
            self.push(Entry::Snapshot(held.with_context(|| format!("node {index}"))?));
        }
        Ok(())
    }

    /// Adds a line to the trace, if there is one.
    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        self.cluster.borrow().note_with(line);
    }

    /// What happened.
    pub(super) fn into_history(self) -> (SimCluster, History) {
        (self.cluster.into_inner(), self.recorder.into_inner().history)
    }
}
