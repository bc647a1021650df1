//! Which dots a vnode has seen: its frontier F.
//!
//! `d in F` says: this vnode's object for d's key holds d or covers it. Per actor, F is a contiguous
//! base and, beyond it, intervals: writes overtake each other on the way, and what a vnode missed
//! while it was away stays a gap until an exchange closes it.
//!
//! ```text
//!   received a:1 a:2 a:5 a:6     {a: 1..=2, 5..=6}      base 2
//!   then a:3                     {a: 1..=3, 5..=6}
//!   then a:4                     {a: 1..=6}             base 6
//! ```
//!
//! Receiving an object adds exactly the dots of its entries and the dots `(a, V[a])`: those are dots
//! of this key. Never the numbers below them: `{a:9}` of one key says nothing of a:8, which is
//! another key's. F changes in the engine batch that stores the object, so that after a crash it
//! vouches for nothing that is not there. What two owners differ by is the difference of two such sets,
//! which costs what they differ by, and not what they hold:
//!
//! ```text
//!   A {a: 1..=6}  B {a: 1..=2, 5..=6}    A - B = {a: 3..=4}      what B is to fetch
//!   A {a: 1..=6}  C {b: 1..=1}           A + C = {a: 1..=6, b: 1..=1}
//! ```
//!
//! Source: Gonçalves et al., "DottedDB" (SRDS 2017); ours keeps arbitrary gaps. Left out: how a dot's key
//! is found, which is the dot log's part (see [`exchange`](super::exchange)).

use std::collections::BTreeMap;

use super::clock::{Actor, Dot};
use super::object::Object;

/// Per actor, the numbers seen.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Frontier(BTreeMap<Actor, Intervals>);

/// Disjoint, non-adjacent, ascending inclusive ranges of numbers from 1.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Intervals(Vec<(u64, u64)>);

impl Frontier {
    /// Nothing seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `dot` was seen.
    pub fn contains(&self, dot: Dot) -> bool {
        self.0.get(&dot.actor).is_some_and(|seen| seen.contains(dot.n))
    }

    /// Up to which number every dot of `actor` was seen; 0 if not even the first.
    pub fn base(&self, actor: Actor) -> u64 {
        self.0.get(&actor).map_or(0, Intervals::base)
    }

    /// Adds one dot; tells whether it was new.
    pub fn add(&mut self, dot: Dot) -> bool {
        self.0.entry(dot.actor).or_default().add(dot.n)
    }

    /// Adds what receiving `object` shows: its entries' dots and the last dot of each actor of its
    /// version. Calls `grown` with each dot that was new.
    pub fn add_object(&mut self, object: &Object, mut grown: impl FnMut(Dot)) {
        let entries = object.entries().iter().map(|(dot, _)| *dot);
        for dot in entries.chain(object.version().iter()) {
            planted!("frontier_takes_versions_prefix", {
                let _ = (1..dot.n).map(|n| self.add(Dot { n, ..dot })).count();
            });
            if self.add(dot) {
                grown(dot);
            }
        }
    }

    /// The dots seen here and not there.
    pub fn minus(&self, other: &Self) -> Self {
        let left = self.0.iter().map(|(actor, seen)| match other.0.get(actor) {
            Some(theirs) => (*actor, seen.minus(theirs)),
            None => (*actor, seen.clone()),
        });
        Self(left.filter(|(_, left)| !left.0.is_empty()).collect())
    }

    /// Sees all that `other` has seen.
    pub fn join(&mut self, other: &Self) {
        for (actor, theirs) in &other.0 {
            match self.0.get_mut(actor) {
                Some(seen) => *seen = seen.plus(theirs),
                None => drop(self.0.insert(*actor, theirs.clone())),
            }
        }
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The dots of its first ranges, so many at most.
    pub fn first_ranges(&self, most: usize) -> Self {
        let mut left = most;
        let part = |(actor, seen): (&Actor, &Intervals)| {
            let ranges = &seen.0[..left.min(seen.0.len())];
            left -= ranges.len();
            (!ranges.is_empty()).then(|| (*actor, Intervals(ranges.to_vec())))
        };
        Self(self.0.iter().map_while(part).collect())
    }

    /// How many actors it names.
    pub fn actors(&self) -> usize {
        self.0.len()
    }

    /// How many dots were seen.
    pub fn count(&self) -> u64 {
        let widths =
            self.0.values().flat_map(Intervals::ranges).map(|(first, last)| last - first + 1);
        widths.fold(0, u64::saturating_add)
    }

    /// The dots, by actor and number.
    pub fn dots(&self) -> impl Iterator<Item = Dot> + '_ {
        let of = |(actor, seen): (Actor, &Intervals)| {
            let numbers = seen.0.clone().into_iter().flat_map(|(first, last)| first..=last);
            numbers.map(move |n| Dot { actor, n })
        };
        self.iter().flat_map(of)
    }

    /// The numbers seen of `actor`.
    pub fn of(&self, actor: Actor) -> Option<&Intervals> {
        self.0.get(&actor)
    }

    /// Puts back what was seen of `actor`, as stored.
    pub fn restore(&mut self, actor: Actor, seen: Intervals) {
        self.0.insert(actor, seen);
    }

    /// Every actor with the numbers seen of it, by actor.
    pub fn iter(&self) -> impl Iterator<Item = (Actor, &Intervals)> {
        self.0.iter().map(|(actor, seen)| (*actor, seen))
    }
}

impl FromIterator<Dot> for Frontier {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut frontier = Self::new();
        for dot in dots {
            frontier.add(dot);
        }
        frontier
    }
}

impl Intervals {
    /// From ranges as stored; none unless they are disjoint, non-adjacent, ascending and from 1.
    pub fn from_ranges(ranges: Vec<(u64, u64)>) -> Option<Self> {
        let sound = ranges.iter().all(|&(first, last)| 1 <= first && first <= last);
        let apart = ranges.windows(2).all(|w| w[0].1.checked_add(1).is_some_and(|n| n < w[1].0));
        (sound && apart).then_some(Self(ranges))
    }

    /// Those that are not among `other`.
    fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(mut first, last) in &self.0 {
            let from = other.0.partition_point(|&(_, end)| end < first);
            let overlapping = other.0[from..].iter().take_while(|(begin, _)| *begin <= last);
            let mut is_left = true;
            for &(begin, end) in overlapping {
                if first < begin {
                    left.push((first, begin - 1));
                }
                is_left = end < last;
                first = end.saturating_add(1);
            }
            if is_left {
                left.push((first, last));
            }
        }
        Self(left)
    }

    /// Those that are in either.
    fn plus(&self, other: &Self) -> Self {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut all: Vec<(u64, u64)> = Vec::with_capacity(self.0.len().max(other.0.len()));
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (Some(our), Some(their)) if our.0 <= their.0 => ours.next(),
                (Some(_), None) => ours.next(),
                _ => theirs.next(),
            };
            let Some(&(first, last)) = next else { return Self(all) };
            match all.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last)
                }
                _ => all.push((first, last)),
            }
        }
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }

    fn base(&self) -> u64 {
        match self.0.first() {
            Some(&(1, last)) => last,
            _ => 0,
        }
    }

    fn contains(&self, n: u64) -> bool {
        let at = self.0.partition_point(|&(first, _)| first <= n);
        at > 0 && n <= self.0[at - 1].1
    }

    fn add(&mut self, n: u64) -> bool {
        assert!(n > 0, "dots are numbered from 1");
        let at = self.0.partition_point(|&(first, _)| first <= n);
        if at > 0 && n <= self.0[at - 1].1 {
            return false;
        }
        let joins_left = at > 0 && self.0[at - 1].1 + 1 == n;
        let joins_right = at < self.0.len() && n + 1 == self.0[at].0;
        match (joins_left, joins_right) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = n,
            (false, true) => self.0[at].0 = n,
            (false, false) => self.0.insert(at, (n, n)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::dynamo::clock::VersionVector;

    proptest! {
        /// The naive twin is the plain set of the dots that were added.
        #[test]
        fn a_frontier_is_the_set_of_its_dots(
            batches in prop::collection::vec(prop::collection::vec((0..3u64, 1..30u64), 1..6), 0..30)
        ) {
            let (mut frontier, mut twin) = (Frontier::new(), BTreeSet::new());
            for (actor, n) in batches.into_iter().flatten() {
                let dot = Dot { actor: Actor(actor), n };
                prop_assert_eq!(frontier.add(dot), twin.insert(dot));
            }
            for actor in (0..3).map(Actor) {
                let seen: Vec<u64> = (1..40).filter(|&n| frontier.contains(Dot { actor, n })).collect();
                let naive: Vec<u64> = twin.iter().filter(|d| d.actor == actor).map(|d| d.n).collect();
                prop_assert_eq!(&seen, &naive);
                let base = (1..).take_while(|n| naive.contains(n)).count() as u64;
                prop_assert_eq!(frontier.base(actor), base);
            }
            for (actor, seen) in frontier.iter() {
                let again = Intervals::from_ranges(seen.ranges().to_vec());
                prop_assert_eq!(again.as_ref(), frontier.of(actor));
            }
        }
    }

    fn frontier_of(dots: &BTreeSet<(u64, u64)>) -> Frontier {
        dots.iter().map(|&(actor, n)| Dot { actor: Actor(actor), n }).collect()
    }

    proptest! {
        /// The naive twins are the operations on sets.
        #[test]
        fn difference_and_union_are_those_of_sets(
            a in prop::collection::btree_set((0..3u64, 1..24u64), 0..40),
            b in prop::collection::btree_set((0..3u64, 1..24u64), 0..40),
        ) {
            let (fa, fb) = (frontier_of(&a), frontier_of(&b));
            prop_assert_eq!(fa.minus(&fb), frontier_of(&a.difference(&b).copied().collect()));
            let mut joined = fa.clone();
            joined.join(&fb);
            prop_assert_eq!(&joined, &frontier_of(&a.union(&b).copied().collect()));
            prop_assert_eq!(joined.minus(&fa), fb.minus(&fa));
            prop_assert!(joined.minus(&joined).is_empty());
            prop_assert_eq!(fa.count(), a.len() as u64);
            let dots: Vec<_> = fa.dots().map(|dot| (dot.actor.0, dot.n)).collect();
            prop_assert_eq!(dots, a.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_last_number_of_all_is_a_number_like_others() {
        let all = Intervals::from_ranges(vec![(1, u64::MAX)]).unwrap();
        let end = Intervals::from_ranges(vec![(u64::MAX, u64::MAX)]).unwrap();
        assert_eq!(all.minus(&end).ranges(), [(1, u64::MAX - 1)]);
        assert_eq!(end.minus(&all).ranges(), []);
        assert_eq!(all.minus(&end).plus(&end), all);
    }

    #[test]
    fn an_object_adds_its_own_dots_and_never_the_numbers_below() {
        let a = Actor(1);
        let version: VersionVector = [Dot { actor: a, n: 9 }].into_iter().collect();
        let object = Object::from_parts(Vec::new(), version).unwrap();
        let (mut frontier, mut grown) = (Frontier::new(), Vec::new());
        frontier.add_object(&object, |dot| grown.push(dot));
        assert!(frontier.contains(Dot { actor: a, n: 9 }));
        assert!(!frontier.contains(Dot { actor: a, n: 8 }), "a:8 is another key's");
        assert_eq!((frontier.base(a), grown), (0, vec![Dot { actor: a, n: 9 }]));
    }

    /// With N = 3 and N = 5 under one frontier, two of five nodes never get the dots of N = 3, and
    /// wait for ever for what is not theirs. Hence a vnode is a partition *of one placement group*.
    #[test]
    fn one_frontier_for_two_placement_groups_would_never_be_complete() {
        let (shared, of_five) = (Actor(1), Actor(2));
        let (mut mixed, mut apart) = (Frontier::new(), Frontier::new());
        for n in 1..=6 {
            let fifth_node_is_owner = n % 2 == 0;
            if fifth_node_is_owner {
                mixed.add(Dot { actor: shared, n });
                apart.add(Dot { actor: of_five, n: n / 2 });
            }
        }
        assert_eq!(mixed.base(shared), 0, "it misses 1, 3, 5, which no owner will ever send");
        assert_eq!(apart.base(of_five), 3, "an actor of its own group has no such gaps");
    }

    #[test]
    fn stored_ranges_must_be_sound() {
        for bad in [vec![(0, 1)], vec![(3, 2)], vec![(1, 2), (3, 4)], vec![(5, 6), (1, 2)]] {
            assert_eq!(Intervals::from_ranges(bad), None);
        }
        assert!(Intervals::from_ranges(vec![(1, 2), (4, u64::MAX)]).is_some());
    }
}
