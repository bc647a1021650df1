//! Causality: actors, dots, version vectors; and a hybrid clock for what wants one total order.
//!
//! A vnode names each of its writes with a *dot* (actor, n). A *version vector* sums up dots: of
//! one key's history, `{a:3, b:1}` reflects every write of a to this key numbered up to 3.
//!
//! ```text
//!   {a:1}        before      {a:2}
//!   {a:2, b:1}   concurrent  {a:1, b:2}      neither has seen all of the other
//! ```
//!
//! Sources: Parker et al., "Detection of mutual inconsistency" (1983); Preguiça et al., "Dotted
//! version vectors" (2012); Kulkarni et al., "Logical physical clocks" (2014). Left out: pruning of
//! vectors, which would trade a smaller vector for false conflicts.

use std::fmt;

/// Names the writes of one vnode between two openings of its store: random, 64 bits, never reused.
///
/// An actor ends whenever its vnode may have lost an object, so that no dot is issued twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Actor(pub u64);

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One write: the `n`-th of `actor`, counted from 1 without gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// Who issued the dot.
    pub actor: Actor,
    /// Its number, from 1.
    pub n: u64,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.actor, self.n)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How two histories relate. A partial order: "not before" does not mean "after".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Causality {
    /// The left one is contained in the right one.
    Before,
    /// The left one contains the right one.
    After,
    /// They are the same.
    Equal,
    /// Each has seen something that the other has not.
    Concurrent,
}

/// Per actor, the number up to which a key's history reflects that actor's writes to the key.
///
/// Kept as a vector sorted by actor: most hold one to three entries.
#[derive(Clone, PartialEq, Eq, Default, Hash)]
pub struct VersionVector(Vec<Dot>);

impl VersionVector {
    /// The empty history.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Up to which number `actor` is covered; 0 if not at all.
    pub fn last(&self, actor: Actor) -> u64 {
        self.find(actor).map_or(0, |at| self.0[at].n)
    }

    /// Whether `dot`, a write to this key, is reflected.
    pub fn covers(&self, dot: Dot) -> bool {
        self.last(dot.actor) >= dot.n
    }

    /// Reflects `dot` and every earlier write of its actor to this key.
    pub fn raise(&mut self, dot: Dot) {
        match self.find(dot.actor) {
            Ok(at) => self.0[at].n = self.0[at].n.max(dot.n),
            Err(at) => self.0.insert(at, dot),
        }
    }

    /// The pointwise maximum.
    pub fn join(&mut self, other: &Self) {
        for &dot in &other.0 {
            self.raise(dot);
        }
    }

    /// Whether everything in `other` is reflected here.
    pub fn includes(&self, other: &Self) -> bool {
        other.0.iter().all(|&dot| self.covers(dot))
    }

    /// How this history relates to `other`.
    pub fn compare(&self, other: &Self) -> Causality {
        match (self.includes(other), other.includes(self)) {
            (true, true) => Causality::Equal,
            (true, false) => Causality::After,
            (false, true) => Causality::Before,
            (false, false) => Causality::Concurrent,
        }
    }

    /// The last dot of each actor, by actor.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Dot> + '_ {
        self.0.iter().copied()
    }

    /// How many actors it names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is the empty history.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, actor: Actor) -> Result<usize, usize> {
        self.0.binary_search_by_key(&actor, |dot| dot.actor)
    }
}

impl FromIterator<Dot> for VersionVector {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut version = Self::new();
        dots.into_iter().for_each(|dot| version.raise(dot));
        version
    }
}

impl fmt::Debug for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|dot| (dot.actor, dot.n))).finish()
    }
}

/// A hybrid timestamp: 48 bits of wall-clock milliseconds, then 16 bits that order what happened
/// within one of them. It never runs backwards and stays close to the wall clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    const LOGICAL_BITS: u32 = 16;

    /// The first timestamp of a millisecond since the Unix epoch; of the last one that fits, for a
    /// clock beyond the year 10889.
    pub fn from_ms(wall_ms: u64) -> Self {
        Self(wall_ms.min(u64::MAX >> Self::LOGICAL_BITS) << Self::LOGICAL_BITS)
    }

    /// Milliseconds since the Unix epoch.
    pub fn wall_ms(self) -> u64 {
        self.0 >> Self::LOGICAL_BITS
    }

    /// The next timestamp after this one and after all `seen`, at `now_ms` by the wall clock.
    pub fn next(self, now_ms: u64, seen: Self) -> Self {
        let last = self.max(seen);
        Self::from_ms(now_ms).max(Self(last.0.saturating_add(1)))
    }

    /// A timestamp at `now_ms` by the wall clock that exceeds this one, whatever the clock says; none
    /// if this is the last one that there is.
    pub fn after(self, now_ms: u64) -> Option<Self> {
        self.0.checked_add(1).map(|next| Self::from_ms(now_ms).max(Self(next)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn dots() -> impl Strategy<Value = Vec<Dot>> {
        let dot = (0..4u64, 1..6u64).prop_map(|(actor, n)| Dot { actor: Actor(actor), n });
        prop::collection::vec(dot, 0..8)
    }

    /// The naive twin: the history as the plain set of all dots it reflects.
    fn downset(dots: &[Dot]) -> BTreeSet<Dot> {
        let below = |dot: &Dot| {
            let actor = dot.actor;
            (1..=dot.n).map(move |n| Dot { actor, n })
        };
        dots.iter().flat_map(below).collect()
    }

    proptest! {
        #[test]
        fn compare_agrees_with_sets_of_dots(x in dots(), y in dots()) {
            let (vx, vy): (VersionVector, VersionVector) =
                (x.iter().copied().collect(), y.iter().copied().collect());
            let (sx, sy) = (downset(&x), downset(&y));
            let expected = match (sx.is_superset(&sy), sy.is_superset(&sx)) {
                (true, true) => Causality::Equal,
                (true, false) => Causality::After,
                (false, true) => Causality::Before,
                (false, false) => Causality::Concurrent,
            };
            prop_assert_eq!(vx.compare(&vy), expected);

            let mut joined = vx.clone();
            joined.join(&vy);
            let union: Vec<Dot> = sx.union(&sy).copied().collect();
            prop_assert_eq!(joined, union.into_iter().collect());
        }

        #[test]
        fn the_hybrid_clock_only_moves_forward(steps in prop::collection::vec((0..50u64, 0..50u64), 1..40)) {
            let mut clock = Hlc::default();
            for (now, seen) in steps {
                let (before, seen) = (clock, Hlc::from_ms(seen));
                clock = clock.next(now, seen);
                prop_assert!(clock > before && clock > seen && clock >= Hlc::from_ms(now));
            }
        }

        #[test]
        fn what_comes_after_exceeds_what_was_seen_whatever_the_clock_says(seen in any::<u64>(), now in any::<u64>()) {
            match Hlc(seen).after(now) {
                Some(after) => prop_assert!(after > Hlc(seen) && after >= Hlc::from_ms(now)),
                None => prop_assert_eq!(seen, u64::MAX),
            }
        }
    }

    #[test]
    fn nothing_comes_after_the_end_of_time() {
        assert_eq!(Hlc(u64::MAX).after(0), None);
        assert_eq!(Hlc::default().after(u64::MAX), Some(Hlc(u64::MAX << 16)));
    }

    #[test]
    fn vectors_relate_as_their_histories() {
        let v = |dots: &[(u64, u64)]| -> VersionVector {
            dots.iter().map(|&(actor, n)| Dot { actor: Actor(actor), n }).collect()
        };
        let cases = [
            (v(&[]), v(&[]), Causality::Equal),
            (v(&[(1, 1)]), v(&[(1, 2)]), Causality::Before),
            (v(&[(1, 2), (2, 1)]), v(&[(1, 1)]), Causality::After),
            (v(&[(1, 2), (2, 1)]), v(&[(1, 1), (2, 2)]), Causality::Concurrent),
        ];
        for (x, y, expected) in cases {
            assert_eq!(x.compare(&y), expected, "{x:?} {y:?}");
        }
    }
}
