//! The last write of a key: what an object of an `lww` namespace keeps instead of siblings.
//!
//! Every write, a delete too, has a *stamp*: its time by a hybrid logical clock, then its dot. The
//! greatest stamp wins, and the others' values are gone. Merging takes the greater stamp with what
//! it wrote, and joins V; contexts remove nothing here.
//!
//! ```text
//!   write x at 5, dot a:1                  5 a:1 → x          V {a:1}
//!   merge with 7 b:1 → y                   7 b:1 → y          V {a:1, b:1}     x is gone
//!   delete at b, whose clock shows 6       8 b:2 → deleted    V {a:1, b:2}     7 was seen
//!   a late 6 c:1 → z arrives               8 b:2 → deleted    V {a:1, b:2, c:1}
//! ```
//!
//! A context token carries the time of what was shown. The coordinator's stamp exceeds that and its
//! own replica's, so that a write never loses to what its client, or its coordinator, had seen,
//! whatever their clocks say; after a restart too, since the stamp is kept with the object. Of
//! writes that knew nothing of each other the clocks decide.
//!
//! A value that expired is *purged*: the object is then as if its write had deleted, under the same
//! stamp. So of equal stamps the one without a value wins.
//!
//! Invariants: V covers the stamp's dot; where V covers the dot of a write, the stamp is not below
//! that write's (so a write also joins what its token covers). Merge is commutative, associative
//! and idempotent, and never refuses. Left out: "merge siblings, then pick the newest", which is
//! not associative once a delete has removed one of them; a clock carried from key to key, which
//! would let one bad clock spread.
//!
//! Sources: Shapiro et al., "A comprehensive study of convergent and commutative replicated data
//! types" (2011), section 3.2.1; Kulkarni et al., "Logical physical clocks" (2014).

use super::{Entry, Object};
use crate::dynamo::clock::{Dot, Hlc, VersionVector};

/// What orders the writes of a key: the time, then the dot. No two writes have the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stamp {
    /// When it was written, by the hybrid clock of its coordinator.
    pub time: Hlc,
    /// The write.
    pub dot: Dot,
}

impl Object {
    /// An object of an `lww` namespace from its parts, as decoded: the last write's stamp and value,
    /// or none if it deleted. None if they do not go together.
    pub fn from_last(last: Stamp, entry: Option<Entry>, version: VersionVector) -> Option<Self> {
        let sound = entry.as_ref().is_none_or(|entry| entry.time == last.time);
        let entries: Vec<_> = entry.into_iter().map(|entry| (last.dot, entry)).collect();
        let object = Self { entries, version, last: Some(last) };
        (sound && object.version.covers(last.dot)).then_some(object)
    }

    /// The stamp of the last write; none in a namespace that keeps siblings, or if nothing was ever
    /// written.
    pub fn last(&self) -> Option<Stamp> {
        self.last
    }

    /// Writes a value, or deletes, under a new stamp that exceeds the last one.
    pub fn write_last(&mut self, stamp: Stamp, context: &VersionVector, entry: Option<Entry>) {
        let Stamp { dot, time } = stamp;
        assert!(self.last < Some(stamp), "{stamp:?} does not exceed {:?}", self.last);
        assert!(!self.version.covers(dot), "{dot} was issued twice");
        assert!(!context.covers(dot), "a context covers {dot}, which nobody can have read");
        assert!(entry.as_ref().is_none_or(|e| e.time == time), "a value has its write's time");
        self.entries.clear();
        self.entries.extend(entry.map(|entry| (dot, entry)));
        self.last = Some(stamp);
        self.version.join(context);
        self.version.raise(dot);
    }

    /// Keeps the greater stamp with its value. An object without a stamp, which only an absent one
    /// should be here, is below all.
    pub(super) fn merge_last(&mut self, other: &Self) -> bool {
        let mut changed = !self.version.includes(&other.version);
        let removed = self.last.is_some_and(|last| other.version.covers(last.dot));
        // Of two with one stamp a value was purged from the empty one.
        let purged = other.last == self.last && other.is_empty() && !self.is_empty();
        let picked = other.last > self.last || purged;
        // What a later delete did not know of would stay, since a delete is no value to pick.
        let kept = other.is_empty() && !removed && planted!("lww_picked_after_context_removal");
        if picked && !kept {
            self.entries.clone_from(&other.entries);
            self.last = other.last;
            changed = true;
        }
        self.version.join(&other.version);
        changed
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
