//! Which writes of a key supersede which, where siblings stand beside each other.
//!
//! An object whose version covers a write reflects it: it has removed what that write's context
//! covered. So of all writes whose dots a version covers, those must be live that no context of
//! another such write covers, and no other may be:
//!
//! ```text
//!   a1 → x    context {}          version {a:2, b:1}: reflects a1, a2 and b1
//!   b1 → y    context {}          superseded by a2: {a:1}
//!   a2 → z    context {a:1}       live: b1 → y, a2 → z
//! ```
//!
//! A write whose dot nobody knows may be reflected anywhere once it was sent, and excuses what it may
//! have removed; so does one that may have more dots than the known one.
//!
//! Long histories ask that of every answer, so what the writes of an actor supersede is kept joined,
//! for each of its numbers: an answer costs a search for each actor of its version.

use std::collections::BTreeMap;

use super::index::Written;
use crate::history::{Dot, Moment, Version};

/// Takes the larger number of each actor.
pub(crate) fn join(version: &mut Version, other: &Version) {
    for (&actor, &n) in other {
        let known = version.entry(actor).or_default();
        *known = n.max(*known);
    }
}

/// The writes of a key by what they supersede.
#[derive(Debug)]
pub(super) struct Causality {
    /// The writes of each actor whose numbers are known, in their order.
    known: BTreeMap<u64, Vec<Issued>>,
    /// The writes whose dots are unknown, by the moment when they were sent.
    unknown: Covering,
}

#[derive(Debug)]
struct Issued {
    n: u64,
    /// The write's place.
    at: usize,
    deletes: bool,
    /// What the actor's writes up to this one supersede.
    supersedes: Version,
}

impl Causality {
    pub(super) fn new(writes: &[Written<'_>]) -> Self {
        let mut by_dot: Vec<_> = writes.iter().enumerate().collect();
        by_dot.retain(|(_, write)| write.dot.is_some());
        by_dot.sort_by_key(|(_, write)| write.dot);
        let mut known: BTreeMap<u64, Vec<Issued>> = BTreeMap::new();
        for (at, write) in by_dot {
            let Some(Dot { actor, n }) = write.dot else { continue };
            let issued = known.entry(actor).or_default();
            let mut supersedes = issued.last().map_or_else(Version::new, |i| i.supersedes.clone());
            join(&mut supersedes, write.context);
            issued.push(Issued { n, at, deletes: write.value.is_none(), supersedes });
        }
        let has_others = |write: &Written<'_>| write.dot.is_none() || write.copies;
        let unknown = writes.iter().enumerate().filter(|(_, write)| has_others(write));
        let unknown = unknown.map(|(at, write)| (write.context, write.operation.invoked, at));
        Self { known, unknown: Covering::new(unknown) }
    }

    /// What the writes that a version covers supersede.
    pub(super) fn superseded(&self, version: &Version) -> Version {
        let mut superseded = Version::new();
        for (actor, &n) in version {
            let issued = self.known.get(actor).map_or(&[][..], |issued| issued);
            let covered = issued.partition_point(|issued| issued.n <= n);
            if let Some(last) = issued[..covered].last() {
                join(&mut superseded, &last.supersedes);
            }
        }
        superseded
    }

    /// The places of the values that must be live where `version` tells what is reflected, but for
    /// those that a write without a known dot, sent before `moment`, may have removed.
    pub(super) fn live(&self, version: &Version, moment: Moment) -> Vec<usize> {
        let superseded = self.superseded(version);
        let mut live = Vec::new();
        for (&actor, &n) in version {
            let issued = self.known.get(&actor).map_or(&[][..], |issued| issued);
            let removed = superseded.get(&actor).copied().unwrap_or_default();
            let first = issued.partition_point(|issued| issued.n <= removed);
            let covered = issued[first..].iter().take_while(|issued| issued.n <= n);
            let values = covered.filter(|issued| !issued.deletes);
            let stands = values.filter(|issued| {
                let dot = Dot { actor, n: issued.n };
                self.unknown.first(dot).is_none_or(|(sent, _)| sent >= moment)
            });
            live.extend(stands.map(|issued| issued.at));
        }
        live
    }
}

/// Some writes, asked which one that covers a dot came first.
#[derive(Default, Debug)]
pub(super) struct Covering(BTreeMap<u64, Vec<Covered>>);

#[derive(Clone, Copy, Debug)]
struct Covered {
    n: u64,
    /// The earliest of all writes whose contexts have this number or a larger one.
    first: (Moment, usize),
}

impl Covering {
    /// From contexts, moments, and the writes' places.
    pub(super) fn new<'a>(writes: impl IntoIterator<Item = (&'a Version, Moment, usize)>) -> Self {
        let mut covering = Self::default();
        for (context, moment, at) in writes {
            for (&actor, &n) in context {
                let covered = Covered { n, first: (moment, at) };
                covering.0.entry(actor).or_default().push(covered);
            }
        }
        for of_actor in covering.0.values_mut() {
            of_actor.sort_by_key(|covered| covered.n);
            let mut first = (Moment::MAX, usize::MAX);
            for covered in of_actor.iter_mut().rev() {
                first = first.min(covered.first);
                covered.first = first;
            }
        }
        covering
    }

    /// The moment and place of the first of the writes whose contexts cover that dot.
    pub(super) fn first(&self, dot: Dot) -> Option<(Moment, usize)> {
        let of_actor = self.0.get(&dot.actor)?;
        let at = of_actor.partition_point(|covered| covered.n < dot.n);
        of_actor.get(at).map(|covered| covered.first)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Index;
    use super::super::testing::{Story, dot, version};
    use super::*;

    /// The values that must be live.
    fn live(story: &Story, covered: &str, moment: Moment) -> Vec<String> {
        let index = Index::new(&story.history);
        let writes = &index.keys.first_key_value().unwrap().1.writes;
        let live = Causality::new(writes).live(&version(covered), moment);
        live.into_iter().map(|at| writes[at].value.unwrap().to_owned()).collect()
    }

    #[test]
    fn what_a_version_covers_is_live_unless_another_write_in_it_removed_it() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.put("k", "y", "", "b1");
        story.put("k", "z", "a1", "a4");
        story.delete("k", "b1", "c1");
        for (covered, expected) in [
            ("", vec![]),
            ("a1", vec!["x"]),
            ("a3 b1", vec!["x", "y"]),
            ("a4 b1", vec!["z", "y"]),
            ("a9 b1", vec!["z", "y"]),
            ("a4 b1 c1", vec!["z"]),
            ("b1 c1", vec![]),
        ] {
            assert_eq!(live(&story, covered, Moment::MAX), expected, "{covered}");
        }
    }

    #[test]
    fn what_a_write_of_unknown_name_may_have_removed_need_not_be_live() {
        let mut story = Story::siblings();
        story.put("k", "x", "", "a1");
        story.put("k", "y", "", "a2");
        let sent = story.unknown("k", None, "a1").operation().invoked;
        assert_eq!(live(&story, "a2", sent), ["x", "y"]);
        assert_eq!(live(&story, "a2", sent + 1), ["y"]);
    }

    #[test]
    fn the_first_that_covers_a_dot_is_found() {
        let contexts = [("a5", 40), ("a3 b1", 20), ("a9", 60), ("b7", 10)];
        let contexts = contexts.map(|(context, moment)| (version(context), moment));
        let writes = contexts.iter().enumerate().map(|(at, (context, m))| (context, *m, at));
        let covering = Covering::new(writes);
        let naive = |dot: Dot| {
            let covers = contexts.iter().enumerate().filter(|(_, (c, _))| dot.is_covered_by(c));
            covers.map(|(at, (_, moment))| (*moment, at)).min()
        };
        for name in ["a1", "a3", "a4", "a5", "a6", "a9", "a10", "b1", "b2", "b8", "c1"] {
            assert_eq!(covering.first(dot(name)), naive(dot(name)), "{name}");
        }
    }
}
