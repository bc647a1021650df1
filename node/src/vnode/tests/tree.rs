//! The tree that grows with the objects against one that is made anew from them.

use super::*;
use crate::dynamo::merkle::{self, DEPTH, LEAVES};
use crate::dynamo::operation::Change;

/// What the records come to.
fn naive(store: &Store) -> BTreeMap<Leaf, Vec<(Place, u128)>> {
    let mut leaves: BTreeMap<Leaf, Vec<(Place, u128)>> = BTreeMap::new();
    for row in store.engine.scan(Space::Objects, KeyRange::all()) {
        let (stored, sealed) = row.unwrap();
        let Ok(body) = record::open(&stored, &sealed) else { continue };
        let (_, namespace, key) = record::split_object_key(&stored).unwrap();
        let object = EncodedObject(body).decode(Conflict::Siblings).unwrap();
        let place = Place::of(namespace, &key);
        let hash = object.values_hash(store.key.get().unwrap(), namespace, &key);
        if hash != 0 {
            leaves.entry(place.leaf()).or_default().push((place, hash));
        }
    }
    leaves.values_mut().for_each(|listing| listing.sort_unstable());
    leaves
}

/// A record is gone without a trace.
fn lose(store: &Store, key: u8) {
    let mut batch = Batch::new();
    batch.delete(Space::Objects, address(key).stored());
    store.engine.apply(batch).unwrap();
}

fn sum_of(listing: &[(Place, u128)]) -> Sum {
    Sum::of(listing.iter().map(|(_, hash)| Sum(*hash)))
}

impl Store {
    /// One step towards a tree that is ready; whether it is.
    pub(super) fn ready_tree(&mut self) -> bool {
        if self.vnode.root().is_none() {
            let mut batch = self.vnode.ready_tree(&self.engine).unwrap();
            self.stage_beside(&mut batch);
            self.engine.apply(batch).unwrap();
        }
        self.vnode.root().is_some()
    }

    fn list(&mut self, leaf: Leaf) -> Listed {
        let listed = self.vnode.list(&self.engine, leaf).unwrap();
        let mut batch = Batch::new();
        self.stage_beside(&mut batch);
        self.engine.apply(batch).unwrap();
        listed
    }

    /// Every node is what the records come to; leaves are listed where all records can be read.
    pub(super) fn tree_is_what_the_records_come_to(&mut self) {
        while !self.ready_tree() {}
        let leaves = naive(self);
        let below = |node: Node| {
            let (Leaf(first), count) = node.leaves();
            let within = leaves.range(Leaf(first)..=Leaf(first + (count - 1)));
            Sum::of(within.map(|(_, listing)| sum_of(listing)))
        };
        assert_eq!(self.vnode.root(), Some(below(Node::ROOT)));
        let all = |level: u8| (0..16_u16.pow(level.into())).map(move |index| Node { level, index });
        for branch in (0..DEPTH).flat_map(all) {
            let children = self.vnode.children(branch).unwrap();
            assert!(branch.children().map(below).eq(children), "below {branch:?}");
        }
        for (leaf, listing) in leaves {
            let listed = self.list(leaf);
            assert_eq!((listed.listing, listed.mismatch), (Some(listing), false), "{leaf:?}");
        }
    }

    fn mend(&mut self, key: u8, object: &Object) {
        let object = EncodedObject::new(object);
        let merge = Merge { mend: true, ..Merge::of_hint(address(key), object) };
        self.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
    }

    fn drop_namespace(&mut self) {
        let (mut batch, engine) = (Batch::new(), &self.engine);
        for row in engine.scan(Space::Objects, KeyRange::all()) {
            let (stored, sealed) = row.unwrap();
            self.vnode.drop_object(engine, &mut batch, (&stored, &sealed)).unwrap();
        }
        self.vnode.end_actor();
        self.stage_beside(&mut batch);
        self.engine.apply(batch).unwrap();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write {
        key: u8,
        delete: bool,
        blind: bool,
    },
    /// Another owner's write of the key comes.
    Merge {
        key: u8,
    },
    /// Bits of a record flip, and it is mended by what another owner has.
    Rot {
        key: u8,
        mend: bool,
    },
    /// Bits of one of the tree's own rows flip.
    RotTree {
        row: prop::sample::Index,
    },
    /// Some of the tree is counted, or made anew.
    Ready,
    Restart,
    PowerCut,
    Sync,
    DropNamespace,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0..12_u8, any::<bool>(), any::<bool>());
    let step = prop_oneof![
        8 => write.prop_map(|(key, delete, blind)| Step::Write { key, delete, blind }),
        3 => (0..12_u8).prop_map(|key| Step::Merge { key }),
        1 => (0..12_u8, any::<bool>()).prop_map(|(key, mend)| Step::Rot { key, mend }),
        1 => any::<prop::sample::Index>().prop_map(|row| Step::RotTree { row }),
        3 => Just(Step::Ready),
        1 => Just(Step::Restart),
        1 => Just(Step::PowerCut),
        2 => Just(Step::Sync),
        1 => Just(Step::DropNamespace),
    ];
    prop::collection::vec(step, 1..50)
}

/// Two owners: what the other one has is never damaged.
struct Owners {
    store: Store,
    other: Store,
    sequence: u64,
}

impl Owners {
    fn step(&mut self, step: Step) {
        self.sequence += 1;
        let Self { store, other, sequence } = self;
        match step {
            Step::Write { key, delete, blind } => {
                let Ok(before) = store.read_at(&address(key)) else { return };
                let context = if blind { Context::default() } else { Context::of_read(&before) };
                let mut write = put(key, *sequence, context);
                if delete {
                    write.change = Change::Delete;
                }
                // It may have a hundred siblings, say.
                let _ = store.write(write);
            }
            Step::Merge { key } => {
                let written = other.write(put(key, *sequence, Context::default())).unwrap();
                let merge = Merge::of_hint(address(key), written.object);
                let merged = store.turn(|vnode, turn| vnode.merge(turn, merge));
                assert!(merged.is_ok() || merged.unwrap_err().kind() == "damaged");
            }
            Step::Rot { key, mend } => {
                if store.engine.get(Space::Objects, &address(key).stored()).unwrap().is_none() {
                    return;
                }
                rot(store, Space::Objects, address(key).stored());
                if mend {
                    // Only once it was met does anybody mend it.
                    let _ = store.read_at(&address(key));
                    store.mend(key, &other.read(key));
                }
            }
            Step::RotTree { row } => {
                let rows: Vec<Bytes> = store
                    .engine
                    .scan(Space::Trees, KeyRange::all())
                    .map(|row| row.unwrap().0)
                    .collect();
                if !rows.is_empty() {
                    rot(store, Space::Trees, rows[row.index(rows.len())].clone());
                }
            }
            Step::Ready => drop(store.ready_tree()),
            Step::Restart => self.reopen(|store| store.engine.kill()),
            Step::PowerCut => self.reopen(|store| store.engine.crash(&mut store.rng)),
            Step::Sync => store.engine.sync().unwrap(),
            Step::DropNamespace => store.drop_namespace(),
        }
    }

    fn reopen(&mut self, end: impl FnOnce(&mut Store) -> MemoryEngine) {
        let engine = end(&mut self.store);
        let rng = self.store.rng.clone();
        self.store = Store::open(engine, rng);
    }

    /// Where records are damaged, they are mended.
    fn mend_all(&mut self) {
        for key in 0..12 {
            if self.store.read_at(&address(key)).is_err() {
                let held = self.other.read(key);
                self.store.mend(key, &held);
            }
        }
        while !self.store.ready_tree() {}
    }
}

proptest! {
    #[test]
    fn the_tree_is_that_of_the_objects_whatever_happened(steps in steps(), seed in any::<u64>()) {
        let mut owners =
            Owners { store: Store::new(seed), other: Store::new(seed ^ 1), sequence: 0 };
        steps.into_iter().for_each(|step| owners.step(step));
        owners.mend_all();
        owners.store.tree_is_what_the_records_come_to();
    }
}

#[test]
fn a_tree_is_found_as_it_was_left_and_read_some_leaves_at_a_time() {
    let mut store = Store::new(1);
    for key in 0..50 {
        store.write(put(key, key.into(), Context::default())).unwrap();
    }
    let mut store = Store::open(store.engine.kill(), store.rng);
    assert!(!store.ready_tree(), "512 of {LEAVES} leaves");
    // Some of these are of leaves that were read, and some not yet.
    for key in 0..50 {
        let context = Context::of_read(&store.read(key));
        store.write(put(key, 100 + u64::from(key), context)).unwrap();
    }
    store.tree_is_what_the_records_come_to();
}

/// Each write reads some more leaves, among which are those that writes before it have changed, and that are
/// not in the engine yet.
#[test]
fn leaves_that_are_read_in_the_turn_that_changes_them_are_as_the_turn_leaves_them() {
    let mut store = Store::new(1);
    for key in 0..50 {
        store.write(put(key, key.into(), Context::default())).unwrap();
    }
    let mut store = Store::open(store.engine.kill(), store.rng);
    let contexts: Vec<Context> = (0..50).map(|key| Context::of_read(&store.read(key))).collect();
    store.turn(|vnode, turn| {
        for (key, context) in (0..50).zip(contexts) {
            vnode.write(turn, put(key, 100 + u64::from(key), context)).unwrap();
        }
    });
    store.tree_is_what_the_records_come_to();
}

#[test]
fn what_was_lost_without_a_trace_is_noticed_when_its_leaf_is_read() {
    let mut store = Store::new(1);
    let lost = store.write(put(1, 1, Context::default())).unwrap();
    store.write(put(2, 2, Context::default())).unwrap();
    while !store.ready_tree() {}
    lose(&store, 1);

    let leaf = Place::of(NAMESPACE, &address(1).key).leaf();
    let listed = store.list(leaf);
    assert!(listed.mismatch && listed.listing.is_none());
    assert!(!store.vnode.frontier().contains(lost.dot), "it vouches for what is not here");
    assert_eq!(store.vnode.recount(), Some(&Bytes::new()), "what is here is seen again");
    assert!(store.vnode.root().is_none(), "the tree is made anew");
    store.tree_is_what_the_records_come_to();
}

/// An owner lost a value, and nobody noticed; then another one brings it.
#[test]
fn a_value_that_was_seen_and_is_not_here_is_taken_and_the_frontier_forgotten() {
    let (mut store, mut other) = (Store::new(1), Store::new(2));
    let written = store.write(put(1, 1, Context::default())).unwrap();
    let kept = store.write(put(2, 2, Context::default())).unwrap();
    let merge = Merge::of_hint(address(1), written.object.clone());
    other.turn(|vnode, turn| vnode.merge(turn, merge.clone())).unwrap();
    lose(&store, 1);

    store.turn(|vnode, turn| {
        vnode.merge(turn, merge).unwrap();
        assert_eq!(turn.lies, 1);
    });
    assert!(store.vnode.lost().is_some());
    assert!(store.read(1).holds(written.dot), "the value wins");
    let frontier = store.vnode.frontier();
    assert!(frontier.contains(written.dot) && !frontier.contains(kept.dot));
    let next = store.write(put(3, 3, Context::default())).unwrap();
    assert_ne!(next.dot.actor, kept.dot.actor);
}

#[test]
fn a_damaged_record_is_told_and_its_leaf_is_not() {
    let mut store = Store::new(1);
    store.write(put(1, 1, Context::default())).unwrap();
    while !store.ready_tree() {}
    let root = store.vnode.root();
    rot(&store, Space::Objects, address(1).stored());
    let leaf = Place::of(NAMESPACE, &address(1).key).leaf();
    let listed = store.list(leaf);
    assert_eq!((listed.listing, listed.damaged), (None, vec![address(1).stored()]));
    assert!(!listed.mismatch);
    assert_eq!(store.vnode.root(), root, "what it was is still known");
    // Nobody else has it: it is given up.
    let _ = store.read_at(&address(1));
    store.mend(1, &Object::default());
    assert_eq!(
        store.vnode.root(),
        root.map(|sum| {
            let hash = sum.0;
            sum.with(merkle::Change { before: hash, after: 0 })
        })
    );
    store.tree_is_what_the_records_come_to();
}

#[test]
fn names_are_found_by_their_places() {
    let mut store = Store::new(1);
    for key in 0..5 {
        store.write(put(key, key.into(), Context::default())).unwrap();
    }
    let place = |key| Place::of(NAMESPACE, &address(key).key);
    let found = store.vnode.at(&store.engine, &[place(3), Place(7), place(1)]).unwrap();
    assert_eq!(found, [address(3).stored(), address(1).stored()]);
}

/// Whoever is asked about the key says that it has nothing, and cannot be believed.
#[test]
fn what_was_found_lost_is_said_on_disk_until_all_others_were_met_since() {
    let mut store = Store::new(1);
    store.write(put(1, 1, Context::default())).unwrap();
    while !store.ready_tree() {}
    let said = |store: &Store| store.engine.get(Space::Meta, &record::lost_key(ID)).unwrap();
    assert_eq!((store.vnode.lost(), said(&store)), (None, None));
    lose(&store, 1);
    let listed = store.list(Place::of(NAMESPACE, &address(1).key).leaf());
    assert!(listed.mismatch && listed.damaged.is_empty());
    let found = store.vnode.lost().unwrap();
    assert!(said(&store).is_some());

    let mut store = Store::open(store.engine.kill(), store.rng);
    let again = store.vnode.lost().unwrap();
    assert_ne!(again, found, "what was met before the restart is to be met again");
    // That what lay there is gone turns out once more, when the tree is made anew.
    while !store.ready_tree() {}
    let last = store.vnode.lost().unwrap();
    assert!(!store.vnode.regain(again), "not all were met in this generation");
    assert!(store.vnode.regain(last));
    let mut batch = Batch::new();
    store.stage_beside(&mut batch);
    store.engine.apply(batch).unwrap();
    assert_eq!((store.vnode.lost(), said(&store)), (None, None));
    store.tree_is_what_the_records_come_to();
}

/// A record that cannot be read says so itself.
#[test]
fn damage_while_something_is_lost_begins_a_generation_in_which_all_are_to_be_met() {
    let mut store = Store::new(1);
    for key in 1..3 {
        store.write(put(key, key.into(), Context::default())).unwrap();
    }
    while !store.ready_tree() {}
    rot(&store, Space::Objects, address(2).stored());
    let _ = store.read_at(&address(2));
    assert_eq!(store.vnode.lost(), None);
    lose(&store, 1);
    let listed = store.list(Place::of(NAMESPACE, &address(1).key).leaf());
    assert!(listed.mismatch);
    let found = store.vnode.lost().unwrap();
    store.write(put(3, 3, Context::default())).unwrap();
    rot(&store, Space::Objects, address(3).stored());
    let _ = store.read_at(&address(3));
    assert!(!store.vnode.regain(found));
    assert!(store.told_lost.contains(&store.vnode.lost().unwrap()), "it is told again");
}

#[test]
fn what_is_read_for_a_leaf_is_told_tombstones_included() {
    let mut store = Store::new(1);
    let first = store.write(put(1, 1, Context::default())).unwrap();
    let mut delete = put(1, 2, first.context.unwrap());
    delete.change = Change::Delete;
    store.write(delete).unwrap();
    while !store.ready_tree() {}
    let listed = store.list(Place::of(NAMESPACE, &address(1).key).leaf());
    let bytes = store.engine.get(Space::Objects, &address(1).stored()).unwrap().unwrap().len();
    assert_eq!((listed.listing, listed.read), (Some(Vec::new()), (1, bytes)));
}

#[test]
fn leaves_that_have_objects_are_found_some_at_a_time() {
    let mut store = Store::new(1);
    for key in 0..200 {
        store.write(put(key, key.into(), Context::default())).unwrap();
    }
    let mut store = Store::open(store.engine.kill(), store.rng);
    assert_eq!(store.vnode.occupied(&store.engine, Leaf(0), LEAVES).unwrap(), None, "not yet");
    while !store.ready_tree() {}
    let leaves: BTreeSet<Leaf> =
        (0..200).map(|key| Place::of(NAMESPACE, &address(key).key).leaf()).collect();
    let (found, last) = store.vnode.occupied(&store.engine, Leaf(0), LEAVES).unwrap().unwrap();
    assert_eq!((found, last), (leaves.clone(), Leaf(LEAVES - 1)));
    let middle = Leaf(LEAVES / 2);
    let (found, _) = store.vnode.occupied(&store.engine, middle, 100).unwrap().unwrap();
    let within = leaves.range(middle..Leaf(middle.0 + 100)).copied();
    assert_eq!(found, within.collect());
}
