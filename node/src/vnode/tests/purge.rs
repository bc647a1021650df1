//! Purging at one replica: its index against one that is made anew from the objects.

use super::*;
use crate::dynamo::ttl::Ttl;

/// All that a purge may take at once.
const ALL: usize = 1000;

#[derive(Clone, Debug)]
enum Step {
    /// With a time to live or none, blind or over what is there.
    Put {
        key: u8,
        ttl: Option<u64>,
        blind: bool,
    },
    Expire {
        key: u8,
        ttl: Option<u64>,
    },
    Delete {
        key: u8,
    },
    /// Another owner, which purges nothing, sends all that it has heard of.
    Merge {
        key: u8,
    },
    Purge {
        most: usize,
    },
    Wait {
        ms: u64,
    },
    Restart,
    /// The rows of the index and of the tree are damaged, and made anew.
    Rebuild,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ttl = || prop::option::weighted(0.8, 1..30u64);
    let step = prop_oneof![
        4 => (0..4u8, ttl(), any::<bool>()).prop_map(|(key, ttl, blind)| Step::Put { key, ttl, blind }),
        2 => (0..4u8, ttl()).prop_map(|(key, ttl)| Step::Expire { key, ttl }),
        1 => (0..4u8).prop_map(|key| Step::Delete { key }),
        2 => (0..4u8).prop_map(|key| Step::Merge { key }),
        3 => prop_oneof![Just(ALL), Just(1)].prop_map(|most| Step::Purge { most }),
        3 => (1..12u64).prop_map(|ms| Step::Wait { ms }),
        1 => Just(Step::Restart),
        1 => Just(Step::Rebuild),
    ];
    prop::collection::vec(step, 0..40)
}

impl Store {
    /// The index: when something expires, and where.
    fn index(&self) -> BTreeSet<(u64, Bytes)> {
        let prefix = KeyRange::prefix(&record::deadlines_prefix(ID));
        let rows = self.engine.scan(Space::Trees, prefix);
        rows.map(|row| record::expiring(&row.unwrap().0).unwrap()).collect()
    }

    /// The same, by what the objects hold.
    fn expiring(&mut self) -> BTreeSet<(u64, Bytes)> {
        let of = |key: u8, object: Object| {
            let stored = address(key).stored();
            object.deadlines_ms().into_iter().map(move |ms| (ms, stored.clone()))
        };
        (0..4).flat_map(|key| of(key, self.read(key))).collect()
    }

    fn purge(&mut self, until_ms: u64, most: usize) -> Purged {
        self.turn(|vnode, turn| vnode.purge(turn, until_ms, most)).unwrap()
    }

    fn restarted(self) -> Self {
        let Self { engine, rng, now_ms, .. } = self;
        Self { now_ms, ..Self::open(engine, rng) }
    }

    fn timed(&mut self, key: u8, sequence: u64, (change, ttl): (Change, Option<u64>)) {
        let ttl = ttl.map(|ms| TtlMs::new(ms).unwrap());
        let write = Write { change, ttl, ..put(key, sequence, Context::default()) };
        match self.write(write) {
            Err(WriteError { error: RequestError::TooManySiblings { .. }, .. }) | Ok(_) => {}
            Err(refused) => {
                let kinds = ["key_not_found", "siblings"];
                assert!(kinds.contains(&refused.error.kind()), "{refused:?}");
            }
        }
    }
}

/// The live dots of each key, and all that was ever sent elsewhere.
#[derive(Default)]
struct Twin {
    elsewhere: BTreeMap<u8, Object>,
}

impl Twin {
    fn hear(&mut self, store: &mut Store) {
        for key in 0..4 {
            self.elsewhere.entry(key).or_default().merge(&store.read(key));
        }
    }
}

fn run(store: Store, steps: Vec<Step>) {
    let (mut store, mut twin) = (store, Twin::default());
    for (sequence, step) in (1..).zip(steps) {
        twin.hear(&mut store);
        match step {
            Step::Put { key, ttl, blind } => {
                let context = match blind {
                    true => Context::default(),
                    false => Context::of_read(&store.read(key)),
                };
                let ttl = ttl.map(|ms| TtlMs::new(ms).unwrap());
                let write = Write { ttl, ..put(key, sequence, context) };
                store.write(write).unwrap();
            }
            Step::Expire { key, ttl } => {
                store.timed(key, sequence, (Change::Expire(Ttl::Never), ttl));
            }
            Step::Delete { key } => {
                let context = Context::of_read(&store.read(key));
                let delete = Write { change: Change::Delete, ..put(key, sequence, context) };
                store.write(delete).unwrap();
            }
            Step::Merge { key } => {
                let before = store.read(key);
                let object = EncodedObject::new(&twin.elsewhere[&key]);
                let merge = Merge::of_hint(address(key), object);
                store.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
                assert_eq!(store.read(key), before, "it has seen all of that, purged or not");
            }
            Step::Purge { most } => purge(&mut store, most),
            Step::Wait { ms } => store.now_ms += ms,
            Step::Restart => store = store.restarted(),
            Step::Rebuild => store.vnode.beside.tree.doubt(),
        }
        store.frontier_vouches_only_for_what_is_here();
        while !store.ready_tree() {}
        assert_eq!(store.index(), store.expiring(), "a row for each deadline, and no other");
        store.tree_is_what_the_records_come_to();
    }
}

/// What is due is removed, as far as it may be at once, and nothing else; V stays.
fn purge(store: &mut Store, most: usize) {
    let until_ms = store.now_ms - 5;
    let before: Vec<Object> = (0..4).map(|key| store.read(key)).collect();
    let index = store.index();
    let due: Vec<_> = index.iter().filter(|(ms, _)| *ms <= until_ms).collect();
    let expired = index.iter().filter(|(ms, _)| *ms <= store.now_ms).count();
    let purged = store.purge(until_ms, most);
    let mut values = 0;
    for (key, before) in (0..).zip(before) {
        let (after, stored) = (store.read(key), address(key).stored());
        assert_eq!((after.version(), after.time()), (before.version(), after.time()));
        let is_purged = due.iter().take(most).any(|(_, at)| *at == stored);
        let mut expected = before;
        values += if is_purged { expected.purge(until_ms) } else { 0 };
        assert_eq!(after, expected);
    }
    assert_eq!((purged.values, purged.more), (values, due.len() > most));
    assert_eq!(purged.waiting, expired - due.len().min(most));
}

proptest! {
    #[test]
    fn what_is_due_is_purged_and_nothing_else(seed in any::<u64>(), steps in steps()) {
        run(Store::new(seed), steps);
    }
}

/// Of an `lww` object the stamp is kept, as if its write had deleted.
#[test]
fn a_purged_last_write_is_a_deletion() {
    let mut store = Store::new(1);
    let lww = Address { conflict: Conflict::Lww, ..address(1) };
    let ttl = Some(TtlMs::new(10).unwrap());
    let write = Write { address: lww.clone(), ttl, ..put(1, 1, Context::default()) };
    let written = store.write(write).unwrap();
    let before = store.read_at(&lww).unwrap();
    assert_eq!(store.purge(store.now_ms + 9, ALL).values, 0);
    assert_eq!(store.purge(store.now_ms + 10, ALL).values, 1);
    let after = store.read_at(&lww).unwrap();
    assert_eq!((after.last(), after.version()), (before.last(), before.version()));
    assert!(after.is_empty());
    let merge = Merge::of_hint(lww.clone(), written.object);
    store.turn(|vnode, turn| vnode.merge(turn, merge)).unwrap();
    assert_eq!(store.read_at(&lww).unwrap(), after, "what comes late does not bring it back");
}

/// Who has purged has seen the value, and covers it: no copy of it shows that anything was lost.
#[test]
fn a_purged_value_is_no_lie_of_the_frontier() {
    let (mut store, mut other) = (Store::new(1), Store::new(2));
    let ttl = Some(TtlMs::new(10).unwrap());
    let written = other.write(Write { ttl, ..put(1, 1, Context::default()) }).unwrap();
    let copy = || Merge::of_hint(address(1), written.object.clone());
    store.turn(|vnode, turn| vnode.merge(turn, copy())).unwrap();
    assert_eq!(store.purge(store.now_ms + 10, ALL).values, 1);
    assert!(store.vnode.frontier().contains(written.dot));
    let lies = store.turn(|vnode, turn| {
        vnode.merge(turn, copy()).unwrap();
        turn.lies
    });
    assert_eq!((lies, store.read(1).is_empty()), (0, true));
    assert!(store.vnode.frontier().contains(written.dot), "it is not doubted");
}

/// Rows of a store that was mended may be of values that are not there; they are deleted in time.
#[test]
fn a_row_that_is_left_over_is_deleted() {
    let mut store = Store::new(1);
    store.write(put(1, 1, Context::default())).unwrap();
    let mut batch = Batch::new();
    for (key, ms) in [(1, 5), (2, 6)] {
        deadlines::put(&mut batch, ID, ms, &address(key).stored());
    }
    store.engine.apply(batch).unwrap();
    let mut store = store.restarted();
    assert_eq!(store.purge(5, ALL).values, 0);
    assert_eq!(store.index().len(), 1);
    assert_eq!(store.purge(6, ALL), Purged::default());
    assert!(store.index().is_empty() && store.read(1).entries().len() == 1);
}
