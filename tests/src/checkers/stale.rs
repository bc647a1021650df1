//! I10: a read sees every write that was acknowledged before it began, if R + W > N and both are
//! strict: sloppy quorums may have nobody in common.
//!
//! It sees a value if it shows it, or if its context covers the write and another write in it that had
//! seen the value took its place. It sees a delete if its context covers it. Where there is no context,
//! since a scan did not list the key, some delete must have seen the value. Where the last write
//! wins the context covers the write, and what is shown may hide it; see `last`.
//!
//! All writes before a read at once are summed up in the join of their dots, so that a read that sees
//! them all is soon checked. Only one that does not is compared with each.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::causality::{Causality, Covering};
use super::index::{Answered, Covers, Index, Key, OfKey, Source, Written};
use super::last::{Hidden, may_be_last, may_hide};
use super::losses::reads_are_believed_until;
use crate::history::{Dot, Moment, Version};

pub(super) fn check(index: &Index<'_>) -> Vec<Violation> {
    let (mut found, until) = (Vec::new(), reads_are_believed_until(index.history));
    for (key, of) in &index.keys {
        let before = Before::new(of);
        for read in of.reads.iter().filter(|read| read.returned <= until && !read.sloppy) {
            if before.levels(read, of.n).all(|level| before.is_seen(level, read)) {
                continue;
            }
            let missed = before.missed(read);
            if !missed.is_empty() {
                found.push(violation(*key, read, &missed));
            }
        }
    }
    found
}

/// What was acknowledged of a key, and when.
struct Before<'k, 'a> {
    of: &'k OfKey<'a>,
    causality: Causality,
    /// The deletes by the moment when they were sent.
    deletes: Covering,
    /// By how many nodes acknowledged.
    levels: BTreeMap<usize, Level>,
}

/// The writes that so many nodes acknowledged, in the order in which that was told.
struct Level {
    sums: Vec<Sum>,
    hidden: Hidden,
}

/// The writes up to one.
#[derive(Clone, Default)]
struct Sum {
    acked: Moment,
    /// The numbers of their dots.
    dots: Version,
    /// The last moment at which the first delete that had seen one of the values was sent.
    deleted: Moment,
    /// Whether there is a value among them.
    values: bool,
}

impl<'k, 'a> Before<'k, 'a> {
    fn new(of: &'k OfKey<'a>) -> Self {
        let deletes = of.writes.iter().enumerate().filter(|(_, write)| write.value.is_none());
        let deletes = deletes.map(|(at, write)| (write.context, write.operation.invoked, at));
        let deletes = Covering::new(deletes);
        let mut by_level: BTreeMap<usize, Vec<(usize, &Written<'a>)>> = BTreeMap::new();
        let acked = of.writes.iter().enumerate();
        let acked = acked.filter(|(_, write)| write.receipt.is_some() && !write.sloppy);
        acked.for_each(|(at, write)| by_level.entry(write.w).or_default().push((at, write)));
        let levels = by_level.into_iter().map(|(w, mut writes)| {
            writes.sort_by_key(|(_, write)| write.operation.returned);
            (w, Level { sums: sums(&writes, &deletes), hidden: Hidden::new(&writes) })
        });
        let levels = levels.collect();
        Self { of, causality: Causality::new(&of.writes), deletes, levels }
    }

    /// The levels of acks that meet the read's quorum.
    fn levels(&self, read: &Answered<'_>, n: usize) -> impl Iterator<Item = &Level> {
        let meets = n.saturating_add(1).saturating_sub(read.r);
        self.levels.range(meets..).map(|(_, level)| level)
    }

    /// Whether the read surely sees all writes of that level that were acknowledged before it.
    fn is_seen(&self, level: &Level, read: &Answered<'_>) -> bool {
        let moment = read.operation.invoked;
        let before = level.sums.partition_point(|sum| sum.acked < moment);
        let Some(sum) = before.checked_sub(1).map(|last| &level.sums[last]) else { return true };
        let Some(context) = &read.shown.context else {
            return match self.of.lww {
                true => self.shows_the_last(level, read, sum),
                false => read.shown.values.is_empty() && sum.deleted < read.returned,
            };
        };
        let covered = |(&actor, &n): (&u64, &u64)| Dot { actor, n }.is_covered_by(context);
        sum.dots.iter().all(covered)
            && match self.of.lww {
                true => self.shows_the_last(level, read, sum),
                false => self.hidden(read).is_empty(),
            }
    }

    /// Whether what the read shows may hide all that was acknowledged before.
    fn shows_the_last(&self, level: &Level, read: &Answered<'_>, sum: &Sum) -> bool {
        let may_hide =
            |write: &Written<'_>| level.hidden.may_be_hidden_by(write, read.operation.invoked);
        (!sum.values && read.shown.values.is_empty()) || stands(self.of, read).any(may_hide)
    }

    /// The values that the read's context covers, and that should have been shown with it.
    fn hidden(&self, read: &Answered<'_>) -> BTreeSet<usize> {
        let Some(context) = &read.shown.context else { return BTreeSet::new() };
        let live = self.causality.live(context, read.returned);
        live.into_iter().filter(|&at| !shows(read, &self.of.writes[at])).collect()
    }

    /// The writes that the read should have seen, each compared with it.
    fn missed(&self, read: &'k Answered<'a>) -> Vec<&'k Written<'a>> {
        let due: Vec<(usize, &Written<'a>)> = self
            .of
            .writes
            .iter()
            .enumerate()
            .filter(|(_, write)| self.is_due(write, read))
            .collect();
        if self.of.lww {
            return missed_last(self.of, read, due.into_iter().map(|(_, write)| write).collect());
        }
        let hidden = self.hidden(read);
        let sees = |at: usize, write: &Written<'a>| {
            let dot = write.dot.expect("an acknowledged write has a dot");
            shows(read, write)
                || match &read.shown.context {
                    Some(context) => dot.is_covered_by(context) && !hidden.contains(&at),
                    None => write.value.is_none() || self.is_deleted(dot, read.returned),
                }
        };
        due.into_iter().filter(|(at, write)| !sees(*at, write)).map(|(_, write)| write).collect()
    }

    fn is_due(&self, write: &Written<'_>, read: &Answered<'_>) -> bool {
        read.meets(write, self.of.n)
            && write.is_acknowledged_before(read.operation.invoked)
            && !write.is_lost_before(read.returned)
    }

    /// Whether a delete that was sent before then had seen that.
    fn is_deleted(&self, dot: Dot, moment: Moment) -> bool {
        self.deletes.first(dot).is_some_and(|(sent, _)| sent < moment)
    }
}

/// Sums up writes, sorted by their acks.
fn sums(writes: &[(usize, &Written<'_>)], deletes: &Covering) -> Vec<Sum> {
    let mut sum = Sum::default();
    let mut sums = Vec::with_capacity(writes.len());
    for (_, write) in writes {
        let dot = write.dot.expect("an acknowledged write has a dot");
        let n = sum.dots.entry(dot.actor).or_default();
        *n = dot.n.max(*n);
        sum.acked = write.operation.returned.unwrap_or(Moment::MAX);
        if write.value.is_some() {
            let first = deletes.first(dot).map_or(Moment::MAX, |(sent, _)| sent);
            (sum.deleted, sum.values) = (sum.deleted.max(first), true);
        }
        sums.push(sum.clone());
    }
    sums
}

fn shows(read: &Answered<'_>, write: &Written<'_>) -> bool {
    write.value.is_some_and(|value| read.shown.values.iter().any(|shown| shown == value))
}

/// What may be the last write where a read showed one value, or none.
fn stands<'k, 'a>(
    of: &'k OfKey<'a>,
    read: &'k Answered<'a>,
) -> impl Iterator<Item = &'k Written<'a>> {
    let version = read.shown.context.as_ref();
    let shown = read.shown.values.iter().filter_map(|value| of.of_value(value));
    let deletes = of.writes.iter().rev().filter(|write| write.value.is_none());
    let deletes = deletes.filter(|_| read.shown.values.is_empty());
    shown.chain(deletes.filter(move |write| may_be_last(write, version, read.returned)))
}

/// What a read missed where the last write wins.
fn missed_last<'k, 'a>(
    of: &'k OfKey<'a>,
    read: &'k Answered<'a>,
    due: Vec<&'k Written<'a>>,
) -> Vec<&'k Written<'a>> {
    let uncovered = |write: &&'k Written<'a>| {
        let covers = |context| write.dot.is_some_and(|dot| dot.is_covered_by(context));
        !read.shown.context.as_ref().is_none_or(covers)
    };
    let missed: Vec<_> = due.iter().copied().filter(uncovered).collect();
    let deleted = read.shown.values.is_empty() && due.iter().all(|write| write.value.is_none());
    if !missed.is_empty() || deleted {
        return missed;
    }
    let wrongly_hidden = |stands: &'k Written<'a>| {
        let others = due.iter().rev().filter(|write| write.operation.id != stands.operation.id);
        others.filter(move |write| !may_hide(stands, write)).copied()
    };
    // One that hides nothing wrongly will do; else the first one is blamed.
    if stands(of, read).any(|stands| wrongly_hidden(stands).next().is_none()) {
        return Vec::new();
    }
    match stands(of, read).next() {
        Some(stands) => wrongly_hidden(stands).collect(),
        // A value that nobody wrote is another checker's business.
        None if !read.shown.values.is_empty() => Vec::new(),
        None => due,
    }
}

fn violation(key: Key<'_>, read: &Answered<'_>, missed: &[&Written<'_>]) -> Violation {
    const NAMED: usize = 3;
    let source = Source::Answer(read.operation);
    let named: Vec<_> = missed.iter().take(NAMED).map(ToString::to_string).collect();
    let more = missed.len().checked_sub(NAMED + 1).map_or(String::new(), |_| ", ...".to_owned());
    let context = read.shown.context.as_ref();
    let context = context.map_or("no context".to_owned(), |version| Covers(version).to_string());
    let text = format!(
        "{source} shows {:?} in {key} with {context}, and misses {}{more}",
        read.shown.values,
        named.join(", "),
    );
    let mut operations = vec![read.operation.id];
    operations.extend(missed.iter().map(|write| write.operation.id));
    Violation { invariant: "I10", text, operations }
}

#[cfg(test)]
mod tests;
