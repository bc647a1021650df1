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
//! vouches for nothing that is not there. Source: Gonçalves et al., "DottedDB" (SRDS 2017); ours
//! keeps arbitrary gaps. Left out: the union that ends an exchange, which comes with exchanges.

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
    /// version. Calls `grown` with each actor that gained a number.
    pub fn add_object(&mut self, object: &Object, mut grown: impl FnMut(Actor)) {
        let entries = object.entries().iter().map(|(dot, _)| *dot);
        for dot in entries.chain(object.version().iter()) {
            planted!("frontier_takes_versions_prefix", {
                let _ = (1..dot.n).map(|n| self.add(Dot { n, ..dot })).count();
            });
            if self.add(dot) {
                grown(dot.actor);
            }
        }
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

impl Intervals {
    /// From ranges as stored; none unless they are disjoint, non-adjacent, ascending and from 1.
    pub fn from_ranges(ranges: Vec<(u64, u64)>) -> Option<Self> {
        let sound = ranges.iter().all(|&(first, last)| 1 <= first && first <= last);
        let apart = ranges.windows(2).all(|w| w[0].1.checked_add(1).is_some_and(|n| n < w[1].0));
        (sound && apart).then_some(Self(ranges))
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

    #[test]
    fn an_object_adds_its_own_dots_and_never_the_numbers_below() {
        let a = Actor(1);
        let version: VersionVector = [Dot { actor: a, n: 9 }].into_iter().collect();
        let object = Object::from_parts(Vec::new(), version).unwrap();
        let (mut frontier, mut grown) = (Frontier::new(), Vec::new());
        frontier.add_object(&object, |actor| grown.push(actor));
        assert!(frontier.contains(Dot { actor: a, n: 9 }));
        assert!(!frontier.contains(Dot { actor: a, n: 8 }), "a:8 is another key's");
        assert_eq!((frontier.base(a), grown), (0, vec![a]));
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
