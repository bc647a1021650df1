//! Trees against plain maps.

use proptest::prelude::*;

use super::*;

type Held = BTreeMap<Place, u128>;

/// A tree, made anew from what is held.
fn children(held: &Held, branches: &[Node]) -> Vec<Children> {
    let sum = |node: Node| {
        let (Leaf(first), count) = node.leaves();
        let below = held
            .iter()
            .filter(|(place, _)| (first..=first + (count - 1)).contains(&place.leaf().0));
        Sum::of(below.map(|(_, hash)| Sum(*hash)))
    };
    let of = |branch: &Node| {
        let sums: Vec<Sum> = branch.children().map(sum).collect();
        sums.try_into().expect("a branch has sixteen children")
    };
    branches.iter().map(of).collect()
}

fn descend(mut descent: Descent, ours: &Held, theirs: &Held) -> Descent {
    while !descent.branches().is_empty() {
        let branches = descent.branches().to_vec();
        descent.on_children(&children(ours, &branches), &children(theirs, &branches));
    }
    descent
}

fn listing(held: &Held, leaf: Leaf) -> Listing {
    held.iter()
        .filter(|(place, _)| place.leaf() == leaf)
        .map(|(place, hash)| (*place, *hash))
        .collect()
}

/// Few leaves, so that some have many objects.
fn held() -> impl Strategy<Value = Held> {
    let place = (0..40_u64, 0..4_u64).prop_map(|(leaf, low)| Place((leaf * 103) << 52 | low));
    prop::collection::btree_map(place, 1..u128::MAX, 0..60)
}

/// Some of the same places, with other values or none.
fn changed() -> impl Strategy<Value = (Held, Held)> {
    (held(), prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8), 0..6), held()).prop_map(
        |(held, changes, more)| {
            let (mut other, places) = (held.clone(), held.keys().copied().collect::<Vec<_>>());
            for (at, how) in changes.iter().filter(|_| !places.is_empty()) {
                let place = places[at.index(places.len())];
                match how {
                    0 => drop(other.remove(&place)),
                    _ => drop(other.insert(place, u128::from(*how))),
                }
            }
            other.extend(more.into_iter().take(changes.len() % 3));
            (held, other)
        },
    )
}

proptest! {
    #[test]
    fn trees_differ_where_what_is_held_does((ours, theirs) in changed()) {
        let descent = descend(Descent::default(), &ours, &theirs);
        let mut found = Vec::new();
        for leaf in descent.differing() {
            found.extend(differing(&listing(&ours, leaf), &listing(&theirs, leaf)));
        }
        let places = ours.keys().chain(theirs.keys());
        let mut naive: Vec<Place> = places.copied().filter(|at| ours.get(at) != theirs.get(at)).collect();
        naive.sort_unstable();
        naive.dedup();
        prop_assert_eq!(found, naive);
    }

    #[test]
    fn a_difference_counts_if_it_stays_the_same((ours, theirs) in changed(), (later, _) in changed()) {
        let first = descend(Descent::default(), &ours, &theirs);
        let suspects = first.differing();
        let same = descend(first.clone().again(), &ours, &theirs);
        prop_assert_eq!(same.differing(), suspects.clone());
        let sum = |held: &Held, leaf| Sum::of(listing(held, leaf).iter().map(|(_, hash)| Sum(*hash)));
        let naive: Vec<Leaf> = suspects.into_iter().filter(|&leaf| {
            sum(&later, leaf) == sum(&theirs, leaf)
        }).collect();
        prop_assert_eq!(descend(first.again(), &ours, &later).differing(), naive);
    }

    #[test]
    fn sums_forget_the_order_of_changes(hashes in prop::collection::vec(any::<u128>(), 1..20), at in any::<prop::sample::Index>()) {
        let all = Sum::of(hashes.iter().copied().map(Sum));
        let mut rest = hashes.clone();
        let one = rest.remove(at.index(hashes.len()));
        prop_assert_eq!(all.with(Change { before: one, after: 0 }), Sum::of(rest.iter().copied().map(Sum)));
        prop_assert_eq!(Sum::of(rest.into_iter().map(Sum)).with(Change { before: 0, after: one }), all);
    }
}

/// Nodes of different builds compare trees: changing one of these makes a protocol of its own.
#[test]
fn places_are_what_they_always_were() {
    let place = |namespace, key: &str| {
        Place::of(NamespaceId(namespace), &Key::new(key.to_owned()).unwrap())
    };
    assert_eq!(place(1, "k"), Place(1_632_189_887_125_029_075));
    assert_eq!(place(2, "k"), Place(16_668_982_760_014_151_470));
    let tagged = [place(1, "{user 1}.name"), place(1, "{user 1}.mail")];
    assert_ne!(tagged[0].leaf(), tagged[1].leaf(), "a tag's keys are in many leaves");
}

#[test]
fn nodes_are_numbered_by_the_bits_of_places() {
    let leaf = Place(0xabc1_2345_6789_abcd).leaf();
    assert_eq!(leaf, Leaf(0xabc));
    assert_eq!(
        (0..=DEPTH).map(|level| leaf.above(level).index).collect::<Vec<_>>(),
        [0, 0xa, 0xab, 0xabc]
    );
    assert_eq!(leaf.above(2).leaves(), (Leaf(0xab0), 16));
    assert_eq!(Node::ROOT.leaves(), (Leaf(0), LEAVES));
    assert_eq!(leaf.above(1).children().last(), Some(Node { level: 2, index: 0xaf }));
    assert_eq!(Node::branch(2, 255).map(|node| node.leaves().0), Some(Leaf(4080)));
    assert_eq!([Node::branch(2, 256), Node::branch(0, 1), Node::branch(DEPTH, 0)], [None; 3]);
}
