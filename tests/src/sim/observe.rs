//! What a node holds, read from its engine behind its back, whether it runs or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use quorate_node::cluster::view::View;
use quorate_node::dynamo::clock::{self, VersionVector};
use quorate_node::dynamo::format::{EncodedObject, decode_intervals};
use quorate_node::dynamo::key::{Key, NodeId, VnodeId};
use quorate_node::dynamo::merkle::Sum;
use quorate_node::dynamo::metadata::document::{ClusterKey, Conflict, DocumentHash};
use quorate_node::dynamo::object::{Entry, Object};
use quorate_node::storage::memory::MemoryEngine;
use quorate_node::storage::{Engine as _, KeyRange, Space, hints, record};

use super::{Running, SimCluster, node};
use crate::checkers::{Violation, join, merging};
use crate::history::{Dot, Held, Hint, Metadata, Moment, Seen, Snapshot, Tree, Version};

/// Namespaces and keys whose records cannot be read.
type Damaged = Vec<(String, String)>;

/// A dot, as histories have it.
pub(super) fn dot(dot: clock::Dot) -> Dot {
    Dot { actor: dot.actor.0, n: dot.n }
}

/// A version, as histories have it.
pub(super) fn version(version: &VersionVector) -> Version {
    version.iter().map(|dot| (dot.actor.0, dot.n)).collect()
}

/// The metadata of a node, as histories have it.
pub(super) fn metadata(view: &View, index: usize, at: Moment) -> Metadata {
    let (document, node) = (view.document(), node(index).0);
    let [hash, predecessor] = [document.hash(), document.predecessor].map(short);
    Metadata { at, node, version: document.version, hash, predecessor }
}

fn short(hash: DocumentHash) -> u64 {
    u64::from_le_bytes(*hash.0.first_chunk().expect("a hash has 32 bytes"))
}

impl SimCluster {
    /// The newest metadata that a running node knows.
    pub fn view(&self) -> Result<Arc<View>> {
        let newest = self.views().into_values().max_by_key(|view| view.document().version);
        newest.context("no running node knows of a cluster")
    }

    /// The metadata that each running node knows.
    pub fn views(&self) -> BTreeMap<usize, Arc<View>> {
        let view = |(&index, running): (&usize, &Running)| {
            Some((index, running.replica.cluster().view()?))
        };
        self.running.iter().filter_map(view).collect()
    }

    /// What the `index`-th node holds of the partitions that it owns.
    pub fn snapshot(
        &self,
        view: &View,
        index: usize,
        at: Moment,
        healed: bool,
    ) -> Result<Snapshot> {
        let engine = self.engine(index)?;
        let known = self.running.get(&index).and_then(|running| running.replica.cluster().view());
        let hash = |view: Arc<View>| (view.document().version, short(view.document().hash()));
        let mut snapshot = Snapshot {
            at,
            node: node(index).0,
            healed,
            metadata: known.map(hash).unwrap_or_default(),
            objects: Vec::new(),
            damaged: Vec::new(),
            hints: Vec::new(),
            damaged_hints: Vec::new(),
            damaged_frontiers: Vec::new(),
            frontiers: Vec::new(),
            trees: Vec::new(),
        };
        let owns =
            |vnode| view.preference(vnode).is_some_and(|list| list.owners().contains(&node(index)));
        add_objects(&mut snapshot, engine, view, &owns)?;
        (snapshot.hints, snapshot.damaged_hints) = self.hints(view, index)?;
        add_frontiers(&mut snapshot, engine, &owns)?;
        add_trees(&mut snapshot, engine, &view.document().cluster_key, &owns)?;
        Ok(snapshot)
    }

    /// Whether a node reflects a write of a key, and whether its disk does; none if it cannot tell.
    /// Two processes under its name count as one.
    pub fn reflects(
        &self,
        index: usize,
        namespace: &str,
        key: &Key,
        write: Dot,
    ) -> Option<[bool; 2]> {
        let twin = self.twins.get(&index).map(|twin| &*twin.engine);
        let (engine, stored) = self.record(index, namespace, key).ok()?;
        let rule = self.view().ok()?.namespace_named(namespace)?.conflict;
        let covers = |sealed: Option<Bytes>| match sealed {
            None => Some(false),
            Some(sealed) => {
                let object = object(&stored, &sealed, rule)?;
                Some(write.is_covered_by(&version(object.version())))
            }
        };
        let mut reflects = [false; 2];
        for engine in std::iter::once(engine).chain(twin) {
            reflects[0] |= covers(engine.get(Space::Objects, &stored).ok()?)?;
            reflects[1] |= covers(engine.get_durable(Space::Objects, &stored).ok()?)?;
        }
        Some(reflects)
    }

    /// What a node keeps for owners, and the keys of hints that it cannot read. Of two processes under
    /// its name the first.
    pub fn hints(&self, view: &View, index: usize) -> Result<(Vec<Hint>, Damaged)> {
        let (engine, mut kept, mut damaged) = (self.engine(index)?, Vec::new(), Vec::new());
        for row in hints::scan_owed(engine, Bytes::new()) {
            let (stored, sealed) = row?;
            let Some(object_key) = hints::object_of(&stored) else { continue };
            let Some((_, id, key)) = record::split_object_key(&object_key) else { continue };
            let Some(namespace) = view.namespace(id) else { continue };
            let (name, rule) = (namespace.name.clone(), namespace.conflict);
            let key = String::from_utf8_lossy(key.as_bytes()).into_owned();
            let held = engine.get(Space::Hints, &object_key)?;
            let object = held.and_then(|sealed| object(&object_key, &sealed, rule));
            match (object, hints::open_owed(&stored, &sealed)) {
                (Some(object), Ok(owed)) => kept.push(Hint {
                    namespace: name,
                    key,
                    version: version(object.version()),
                    targets: owed.debts().iter().map(|debt| debt.target.0).collect(),
                }),
                _ => damaged.push((name, key)),
            }
        }
        Ok((kept, damaged))
    }

    /// Whether a node keeps a write of a key for that owner, and whether its disk does; none if it
    /// cannot tell. Two processes under its name count as one.
    pub fn keeps(
        &self,
        index: usize,
        (namespace, key): (&str, &Key),
        write: Dot,
        owner: NodeId,
    ) -> Option<[bool; 2]> {
        let twin = self.twins.get(&index).map(|twin| &*twin.engine);
        let (engine, stored) = self.record(index, namespace, key).ok()?;
        let rule = self.view().ok()?.namespace_named(namespace)?.conflict;
        let row = hints::owed_key(&stored);
        let covers = |rows: [Option<Bytes>; 2]| {
            let [Some(owed), Some(kept)] = rows else { return Some(false) };
            let owes = hints::open_owed(&row, &owed).ok()?.to(owner).is_some();
            let object = object(&stored, &kept, rule)?;
            Some(owes && write.is_covered_by(&version(object.version())))
        };
        let mut keeps = [false; 2];
        for engine in std::iter::once(engine).chain(twin) {
            let [owed, kept] = [&row, &stored].map(|key| engine.get(Space::Hints, key).ok());
            keeps[0] |= covers([owed?, kept?])?;
            // What is damaged there may have been replaced since.
            let durable = [&row, &stored].map(|key| engine.get_durable(Space::Hints, key).ok());
            let [owed, kept] = durable.map(Option::flatten);
            keeps[1] |= covers([owed, kept]).unwrap_or(false);
        }
        Some(keeps)
    }

    /// What a node's object on disk reflects; none if it cannot be read. Of two processes under its
    /// name what either does.
    pub fn on_disk(&self, index: usize, namespace: &str, key: &Key) -> Option<Version> {
        let twin = self.twins.get(&index).map(|twin| &*twin.engine);
        let (engine, stored) = self.record(index, namespace, key).ok()?;
        let rule = self.view().ok()?.namespace_named(namespace)?.conflict;
        let mut on_disk = Version::new();
        for engine in std::iter::once(engine).chain(twin) {
            if let Some(sealed) = engine.get_durable(Space::Objects, &stored).ok()? {
                join(&mut on_disk, &version(object(&stored, &sealed, rule)?.version()));
            }
        }
        Some(on_disk)
    }

    /// What is wrong with merging what the nodes hold of each key.
    pub fn merge_laws(&self, view: &View) -> Result<Vec<Violation>> {
        let mut held: BTreeMap<Bytes, Vec<Object>> = BTreeMap::new();
        for index in self.nodes() {
            for row in self.engine(index)?.scan(Space::Objects, KeyRange::all()) {
                let (stored, sealed) = row?;
                let id = record::split_object_key(&stored).map(|(_, namespace, _)| namespace);
                let namespace = id.and_then(|id| view.namespace(id));
                let object = namespace.and_then(|n| object(&stored, &sealed, n.conflict));
                held.entry(stored).or_default().extend(object);
            }
        }
        let merge = |one: &Object, other: &Object| {
            let mut both = one.clone();
            both.merge(other);
            both
        };
        let laws = |(stored, objects): (Bytes, Vec<Object>)| {
            merging::laws(&format!("{stored:?}"), &objects, merge)
        };
        Ok(held.into_iter().flat_map(laws).collect())
    }

    /// The engine of a node, running or not.
    pub(super) fn engine(&self, index: usize) -> Result<&MemoryEngine> {
        let up = self.running.get(&index).map(|running| &running.engine);
        let engine = up.or_else(|| self.stores.get(&index));
        engine.map(|engine| &**engine).context("there is no such node")
    }
}

fn partition(vnode: VnodeId) -> String {
    format!("n{}/{}", vnode.n, vnode.partition.0)
}

fn add_objects(
    snapshot: &mut Snapshot,
    engine: &MemoryEngine,
    view: &View,
    owns: &impl Fn(VnodeId) -> bool,
) -> Result<()> {
    for row in engine.scan(Space::Objects, KeyRange::all()) {
        let (stored, sealed) = row?;
        let Some((vnode, id, key)) = record::split_object_key(&stored) else { continue };
        let Some(namespace) = view.namespace(id).filter(|_| owns(vnode)) else { continue };
        let key = String::from_utf8_lossy(key.as_bytes()).into_owned();
        match object(&stored, &sealed, namespace.conflict) {
            None => snapshot.damaged.push((namespace.name.clone(), key)),
            Some(object) => snapshot.objects.push(Held {
                namespace: namespace.name.clone(),
                key,
                partition: partition(vnode),
                ..held(&object)
            }),
        }
    }
    Ok(())
}

fn object(stored: &Bytes, sealed: &Bytes, rule: Conflict) -> Option<Object> {
    EncodedObject(record::open(stored, sealed).ok()?).decode(rule).ok()
}

fn held(object: &Object) -> Held {
    let text = |payload: &Bytes| String::from_utf8_lossy(payload).into_owned();
    let values = object.entries().iter().map(|(at, entry)| (dot(*at), text(&entry.payload)));
    let deadline_ms = |(at, entry): &(clock::Dot, Entry)| Some((dot(*at), entry.deadline_ms?));
    let deadlines_ms = object.entries().iter().filter_map(deadline_ms);
    Held {
        namespace: String::new(),
        key: String::new(),
        partition: String::new(),
        version: version(object.version()),
        values: values.collect(),
        last: object.last().map(|last| (last.time.0, dot(last.dot))),
        deadlines_ms: deadlines_ms.collect(),
    }
}

fn add_frontiers(
    snapshot: &mut Snapshot,
    engine: &MemoryEngine,
    owns: &impl Fn(VnodeId) -> bool,
) -> Result<()> {
    for row in engine.scan(Space::Frontiers, KeyRange::all()) {
        let (stored, sealed) = row?;
        let Some(vnode) = record::vnode_of(&stored).filter(|vnode| owns(*vnode)) else { continue };
        let Some(actor) = record::frontier_actor(&stored) else { continue };
        let Ok(body) = record::open(&stored, &sealed) else {
            // The node itself notices when it opens the store again.
            snapshot.damaged_frontiers.push(partition(vnode));
            continue;
        };
        let ranges = decode_intervals(body)?.ranges().to_vec();
        snapshot.frontiers.push(Seen { partition: partition(vnode), actor: actor.0, ranges });
    }
    Ok(())
}

/// The sums of a tree's leaves and of its records; none if not all of them can be read.
type Sums = Option<[Sum; 2]>;

fn add_trees(
    snapshot: &mut Snapshot,
    engine: &MemoryEngine,
    cluster: &ClusterKey,
    owns: &impl Fn(VnodeId) -> bool,
) -> Result<()> {
    let mut trees: BTreeMap<VnodeId, Sums> = BTreeMap::new();
    let mut add = |vnode, of: usize, sum: Option<Sum>| {
        let sums = trees.entry(vnode).or_insert(Some([Sum::default(); 2]));
        match (&mut *sums, sum) {
            (Some(sums), Some(sum)) => sums[of] = Sum::of([sums[of], sum]),
            _ => *sums = None,
        }
    };
    for row in engine.scan(Space::Trees, KeyRange::all()) {
        let (stored, sealed) = row?;
        let Some(vnode) = record::vnode_of(&stored).filter(|vnode| owns(*vnode)) else { continue };
        let body = record::open(&stored, &sealed).ok();
        let is_leaf = record::leaf_of(&stored).is_some();
        let sum = match body {
            // While it is made anew it says nothing.
            Some(_) if stored == record::rebuild_key(vnode) => None,
            Some(body) if is_leaf => body.as_ref().try_into().ok().map(u128::from_be_bytes),
            Some(_) => Some(0),
            None => None,
        };
        add(vnode, 0, sum.map(Sum));
    }
    for row in engine.scan(Space::Objects, KeyRange::all()) {
        let (stored, sealed) = row?;
        let Some((vnode, namespace, key)) = record::split_object_key(&stored) else { continue };
        if owns(vnode) {
            let encoded = record::open(&stored, &sealed).ok().map(EncodedObject);
            let object = encoded.and_then(|encoded| encoded.decode(encoded.rule()?).ok());
            let hash = object.map(|object| object.values_hash(cluster, namespace, &key));
            add(vnode, 1, hash.map(Sum));
        }
    }
    let readable = trees.into_iter().filter_map(|(vnode, sums)| Some((vnode, sums?)));
    snapshot.trees.extend(readable.map(|(vnode, sums)| {
        let [leaves, records] = sums.map(|sum| format!("{:032x}", sum.0));
        Tree { partition: partition(vnode), leaves, records }
    }));
    Ok(())
}
