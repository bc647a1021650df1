use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::dynamo::clock::{Hlc, VersionVector};
use crate::dynamo::key::NodeId;
use crate::dynamo::object::{Entry, Object};
use crate::dynamo::operation::{Opening, OperationId};

/// A number that was never drawn before.
fn drawn() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An owner as simple as can be: what it holds, what it has seen, and its log.
#[derive(Clone, Default)]
struct Owner {
    objects: BTreeMap<u8, Object>,
    frontier: Frontier,
    log: BTreeMap<Dot, u8>,
    generation: u64,
}

impl Owner {
    fn merge(&mut self, key: u8, object: &Object) {
        let held = self.objects.entry(key).or_default();
        held.merge(object);
        let (held, log) = (held.clone(), &mut self.log);
        self.frontier.add_object(&held, |dot| {
            log.insert(dot, key);
        });
    }

    /// After a doubt: sees again what its objects show.
    fn recount(&mut self) {
        for (key, object) in self.objects.clone() {
            self.merge(key, &object);
        }
    }

    fn write(&mut self, key: u8, dot: Dot, blind: bool) {
        let mut object = self.objects.get(&key).cloned().unwrap_or_default();
        let context = if blind { VersionVector::new() } else { object.version().clone() };
        object.write(dot, &context, entry(dot));
        self.merge(key, &object);
    }

    fn see(&mut self, key: u8, dots: &[Dot]) -> bool {
        let held = self.objects.get(&key).cloned().unwrap_or_default();
        let covered = dots.iter().all(|dot| held.version().covers(*dot));
        for &dot in dots.iter().filter(|_| covered) {
            self.frontier.add(dot);
            self.log.insert(dot, key);
        }
        covered
    }

    fn keys_of(&self, asked: &Frontier, most: usize) -> BTreeMap<u8, Vec<Dot>> {
        let logged = self.log.iter().filter(|(dot, _)| asked.contains(**dot)).take(most);
        let mut keys: BTreeMap<u8, Vec<Dot>> = BTreeMap::new();
        logged.for_each(|(dot, key)| keys.entry(*key).or_default().push(*dot));
        keys
    }

    /// I5, of this owner: whatever it has seen it holds, or what came after.
    fn is_honest(&self, of: &BTreeMap<Dot, u8>) -> bool {
        self.frontier.dots().all(|dot| {
            self.objects.get(&of[&dot]).is_some_and(|object| object.version().covers(dot))
        })
    }
}

fn entry(dot: Dot) -> Entry {
    let operation = OperationId {
        issued_ms: 1,
        coordinator: NodeId(1),
        opening: Opening(1),
        client: dot.actor.0,
        sequence: dot.n,
    };
    let payload = Bytes::from(dot.to_string());
    Entry { payload, time: Hlc(1), deadline_ms: None, operation, origin: dot }
}

/// B catches up with A; while it does, A may lose its last writes, after `lost_after` messages.
fn exchange(
    owners: &mut [Owner],
    (b, a): (usize, usize),
    page: usize,
    lost: Option<(usize, &Owner)>,
) {
    let mut messages = 0;
    let mut hears = |owners: &mut [Owner]| {
        messages += 1;
        if let Some((_, before)) = lost.filter(|(after, _)| *after == messages) {
            owners[a] = Owner { generation: drawn(), ..before.clone() };
        }
    };
    let (generation, frontier) = (owners[a].generation, owners[a].frontier.clone());
    let told = Told { generation, frontier, recounting: false };
    let mut catch_up = CatchUp::new(&told.frontier, &owners[b].frontier);
    hears(owners);
    loop {
        match catch_up.next() {
            Next::Nothing => return,
            Next::Whole => {
                for (key, object) in owners[a].objects.clone() {
                    owners[b].merge(key, &object);
                }
                hears(owners);
                if owners[a].generation == told.generation {
                    owners[b].frontier.join(&told.frontier);
                }
                return;
            }
            Next::Ask(dots) => {
                let mut seen = Vec::new();
                let keys = owners[a].keys_of(&dots, page);
                hears(owners);
                for (key, dots) in keys {
                    if !owners[b].see(key, &dots) {
                        let object = owners[a].objects.get(&key).cloned().unwrap_or_default();
                        owners[b].merge(key, &object);
                        hears(owners);
                        if !owners[b].see(key, &dots) {
                            return;
                        }
                    }
                    seen.extend(dots);
                }
                catch_up.on_seen(&seen);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// An owner writes a key, and some of the others hear of it.
    Write { by: usize, key: u8, blind: bool, heard: [bool; 3] },
    /// The logs forget what all have, and one of them forgets the first few dots.
    Forget { by: usize, dots: usize },
    /// One catches up with another, whose last `lost` events a crash takes in the midst of it.
    Exchange { pair: (usize, usize), page: usize, lost: Option<(usize, usize)> },
    /// An owner comes to doubt its frontier.
    Doubt { by: usize },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let write = (0..3usize, 0..4u8, any::<bool>(), any::<[bool; 3]>())
        .prop_map(|(by, key, blind, heard)| Event::Write { by, key, blind, heard });
    let pair = (0..3usize, 1..3usize).prop_map(|(b, step)| (b, (b + step) % 3));
    let lost = prop::option::weighted(0.3, (1..6usize, 1..6usize));
    let exchange =
        (pair, 1..5usize, lost).prop_map(|(pair, page, lost)| Event::Exchange { pair, page, lost });
    let forget = (0..3usize, 0..6usize).prop_map(|(by, dots)| Event::Forget { by, dots });
    let doubt = (0..3usize).prop_map(|by| Event::Doubt { by });
    let event = prop_oneof![8 => write, 3 => exchange, 1 => forget, 1 => doubt];
    prop::collection::vec(event, 0..60)
}

fn run(events: Vec<Event>) -> (Vec<Owner>, BTreeMap<Dot, u8>) {
    let mut owners = vec![Owner::default(); 3];
    let (mut of, mut numbers) = (BTreeMap::new(), [0; 3]);
    // What each owner was after each event, of which a crash may bring the last ones back.
    let mut before = vec![owners.clone()];
    // An actor ends with its opening.
    let mut actors = [0, 1, 2];
    for event in events {
        match event {
            Event::Write { by, key, blind, heard } => {
                numbers[by] += 1;
                let dot = Dot { actor: Actor(actors[by]), n: numbers[by] };
                of.insert(dot, key);
                owners[by].write(key, dot, blind);
                let object = owners[by].objects[&key].clone();
                let others = (0..3).filter(|&other| other != by && heard[other]);
                others.for_each(|other| owners[other].merge(key, &object));
            }
            Event::Forget { by, dots } => {
                let bases = common_bases(owners.iter().map(|owner| &owner.frontier));
                let gone = |dot: &Dot| bases.get(&dot.actor).is_some_and(|base| dot.n <= *base);
                owners.iter_mut().for_each(|owner| owner.log.retain(|dot, _| !gone(dot)));
                for _ in 0..dots {
                    owners[by].log.pop_first();
                }
            }
            Event::Exchange { pair, page, lost } => {
                let back = lost.map(|(after, back)| (after, before.len().saturating_sub(back)));
                let old =
                    back.map(|(after, at)| (after, &before[at.min(before.len() - 1)][pair.1]));
                exchange(&mut owners, pair, page, old);
                if back.is_some() {
                    (actors[pair.1], numbers[pair.1]) = (actors[pair.1] + 3, 0);
                }
            }
            Event::Doubt { by } => {
                owners[by].frontier = Frontier::new();
                owners[by].generation = drawn();
                (actors[by], numbers[by]) = (actors[by] + 3, 0);
            }
        }
        before.push(owners.clone());
    }
    (owners, of)
}

proptest! {
    /// Whatever is lost, forgotten or under way, no frontier ever lies; and once all have caught up
    /// with all, twice, they are the same.
    #[test]
    fn owners_that_catch_up_hold_the_same_and_have_seen_the_same(events in events()) {
        let (mut owners, of) = run(events);
        for owner in &owners {
            prop_assert!(owner.is_honest(&of), "{:?}", owner.frontier);
        }
        owners.iter_mut().for_each(Owner::recount);
        for pair in [(0, 1), (0, 2), (1, 0), (2, 0), (1, 2), (2, 1)] {
            exchange(&mut owners, pair, 3, None);
        }
        for owner in &owners {
            prop_assert!(owner.is_honest(&of));
            prop_assert_eq!(&owner.frontier, &owners[0].frontier);
            let held = |owner: &Owner| {
                let live = owner.objects.iter().filter(|(_, object)| !object.is_absent());
                live.map(|(key, object)| (*key, object.clone())).collect::<Vec<_>>()
            };
            prop_assert_eq!(held(owner), held(&owners[0]));
        }
    }

    #[test]
    fn what_all_have_is_what_none_will_ask_for(
        seen in prop::collection::vec(prop::collection::btree_set((0..2u64, 1..9u64), 0..14), 1..4)
    ) {
        let dot = |&(actor, n): &(u64, u64)| Dot { actor: Actor(actor), n };
        let frontiers: Vec<Frontier> =
            seen.iter().map(|dots| dots.iter().map(dot).collect()).collect();
        let bases = common_bases(&frontiers);
        for (actor, n) in (0..2).flat_map(|actor| (1..10).map(move |n| (actor, n))) {
            let all = |n| seen.iter().all(|dots: &BTreeSet<_>| dots.contains(&(actor, n)));
            let common = (1..=n).all(all);
            prop_assert_eq!(bases.get(&Actor(actor)).is_some_and(|base| n <= *base), common);
        }
    }
}

#[test]
fn who_learns_nothing_from_a_log_goes_through_the_whole_partition() {
    let dot = |n| Dot { actor: Actor(1), n };
    let [theirs, ours]: [Frontier; 2] =
        [&[1, 2, 3, 5][..], &[2]].map(|numbers| numbers.iter().copied().map(dot).collect());
    let mut catch_up = CatchUp::new(&theirs, &ours);
    assert_eq!(catch_up.left(), 3);
    let Next::Ask(asked) = catch_up.next() else { panic!("nothing was asked yet") };
    assert_eq!(asked.dots().collect::<Vec<_>>(), [1, 3, 5].map(dot));
    catch_up.on_seen(&[dot(1), dot(5)]);
    let Next::Ask(asked) = catch_up.next() else { panic!("one is left") };
    assert_eq!(asked.dots().collect::<Vec<_>>(), [dot(3)]);
    catch_up.on_seen(&[]);
    assert_eq!(catch_up.next(), Next::Whole);
    let all_seen = CatchUp::new(&ours, &theirs);
    assert_eq!(all_seen.next(), Next::Nothing);
}

#[test]
fn what_is_set_aside_holds_up_nothing_and_is_known_to_the_log() {
    let dot = |n| Dot { actor: Actor(1), n };
    let theirs: Frontier = (1..=3).map(dot).collect();
    let mut catch_up = CatchUp::new(&theirs, &Frontier::new());
    // All that one answer told: the rest may be told by the next.
    catch_up.set_aside(&[dot(1)]);
    catch_up.on_seen(&[dot(1)]);
    let Next::Ask(asked) = catch_up.next() else { panic!("two are left") };
    assert_eq!(asked.dots().collect::<Vec<_>>(), [2, 3].map(dot));
    // Who tells what was not asked for tells nothing.
    catch_up.set_aside(&[dot(9)]);
    catch_up.on_seen(&[dot(9)]);
    assert_eq!(catch_up.next(), Next::Whole);
    catch_up.set_aside(&[dot(2), dot(3)]);
    assert_eq!(catch_up.next(), Next::Nothing);
}

#[test]
fn a_message_asks_about_a_bounded_number_of_ranges() {
    let numbers = 1..=3 * RANGES_MAX as u64;
    let theirs: Frontier = numbers.map(|n| Dot { actor: Actor(n % 3), n: 2 * n }).collect();
    let Next::Ask(asked) = CatchUp::new(&theirs, &Frontier::new()).next() else { panic!("asks") };
    assert_eq!(asked.count(), RANGES_MAX as u64);
    assert!(asked.minus(&theirs).is_empty());
}
