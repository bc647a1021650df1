//! What a replica holds for a key: the live values, each under its dot, and a version vector.
//!
//! `V[a] = n` says that the object reflects every write of `a` *to this key* numbered up to n.
//! An entry is live until some write's context covers its dot. A delete is a write without a
//! payload; what remains of a deleted key, V alone, is its tombstone.
//!
//! ```text
//!   write x, no context          {a:1 → x}            V {a:1}
//!   write y, no context, at b    {a:1 → x, b:1 → y}   V {a:1, b:1}     siblings
//!   write z, context {a:1}       {b:1 → y, a:2 → z}   V {a:2, b:1}     x is gone
//!   delete, context {a:2, b:1}   {}                   V {a:3, b:1}     a tombstone
//!   y expires, and is purged     {a:2 → z}            V {a:2, b:1}     as if a write had covered it
//! ```
//!
//! Invariants: every entry's dot is covered by V; merge is commutative, associative and idempotent
//! and never refuses. Dots are explicit: they are numbered per partition, so one key's dots have
//! gaps, over which a compact encoding (contiguous ranges per actor) would bring deleted values
//! back. Since V speaks of whole objects only, replicas send whole objects.
//!
//! All of that is of namespaces that keep siblings. In `lww` namespaces an object keeps its last
//! write alone: see [`last`].
//!
//! Source: Preguiça et al., "Brief announcement: efficient causality tracking in distributed
//! storage systems with dotted version vectors" (PODC 2012). Left out: deltas, typed values.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::clock::{Dot, Hlc, VersionVector};
use super::key::{Key, NamespaceId};
use super::metadata::document::ClusterKey;
use super::operation::OperationId;

pub mod last;

pub use self::last::Stamp;

/// The most siblings a key may have. Past it something writes without contexts, and every read
/// would carry the lot: the coordinator refuses the write. Merges never refuse.
pub const SIBLINGS_MAX: usize = 100;

/// The most payload bytes of an object, however it came about: objects travel whole, in one message
/// between nodes, and merges never refuse.
const OBJECT_MAX_BYTES: usize = 240 << 20;

/// The most payload bytes of siblings that a write may leave, its own included, where a key has `n`
/// owners; past it the coordinator refuses, as with too many.
///
/// Owners that do not hear of each other may each admit so much, and what they merge to afterwards
/// must still fit in a message: what one owner wrote and nobody covered is among its own siblings, so
/// the merge has at most `n` times as much. One part is left for a value that stands alone.
pub const fn siblings_max_bytes(n: u8) -> usize {
    OBJECT_MAX_BYTES / (n as usize + 1)
}

/// One value: what a write wrote, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The value's bytes.
    pub payload: Bytes,
    /// When its coordinator wrote it.
    pub time: Hlc,
    /// When it expires, in milliseconds since the Unix epoch; none: never.
    pub deadline_ms: Option<u64>,
    /// The client's write; copies of one write carry the same id and are shown as one.
    pub operation: OperationId,
    /// The dot of the write that brought the payload: the entry's own, unless only the deadline
    /// was rewritten.
    pub origin: Dot,
}

impl Entry {
    /// Whether a reader whose clock shows this hides it.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms)
    }

    /// Whether both are one value to a client: copies of one write, which have the same payload unless
    /// a client used an id for two, or of which only the deadline was rewritten.
    fn is_shown_as(&self, other: &Self) -> bool {
        let copies = self.operation == other.operation && self.payload == other.payload;
        copies || self.origin == other.origin
    }

    fn expires_after(&self, other: &Self) -> bool {
        let end = |entry: &Self| entry.deadline_ms.unwrap_or(u64::MAX);
        end(self) > end(other)
    }
}

/// What there is of a value whose deadline is to be rewritten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OneValue {
    /// One: this.
    One(Entry),
    /// None, or it has expired.
    None,
    /// So many, of which nobody said which one is meant.
    Several(u32),
}

/// The live entries of a key and its version vector.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Object {
    /// Sorted by dot; most objects have one.
    entries: Vec<(Dot, Entry)>,
    version: VersionVector,
    /// In `lww` namespaces, the last write; then `entries` has its value, or nothing if it deleted.
    last: Option<Stamp>,
}

impl Object {
    /// An object from its parts, as decoded; none if an entry's dot is not covered by the version
    /// or the dots are not strictly ascending.
    pub fn from_parts(entries: Vec<(Dot, Entry)>, version: VersionVector) -> Option<Self> {
        planted!("compact_encoding_arithmetic", {
            // An actor's values have its last numbers, without gaps.
            let mut entries = entries;
            for at in (0..entries.len()).rev() {
                let Dot { actor, .. } = entries[at].0;
                let next = entries.get(at + 1).filter(|(next, _)| next.actor == actor);
                entries[at].0.n = next.map_or(version.last(actor), |(next, _)| next.n - 1);
            }
            return Some(Self { entries, version, last: None });
        });
        let ascending = entries.is_sorted_by(|(x, _), (y, _)| x < y);
        let covered = entries.iter().all(|(dot, _)| version.covers(*dot));
        (ascending && covered).then_some(Self { entries, version, last: None })
    }

    /// The live entries by dot.
    pub fn entries(&self) -> &[(Dot, Entry)] {
        &self.entries
    }

    /// What the object reflects.
    pub fn version(&self) -> &VersionVector {
        &self.version
    }

    /// Whether nothing was ever written here.
    pub fn is_absent(&self) -> bool {
        self.version.is_empty()
    }

    /// Whether no value is live: absent, or a tombstone.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the entry of `dot` is live here.
    pub fn holds(&self, dot: Dot) -> bool {
        self.entries.binary_search_by_key(&dot, |(d, _)| *d).is_ok()
    }

    /// The time of the last write in an `lww` namespace; else the newest of a live entry.
    pub fn time(&self) -> Hlc {
        if let Some(last) = self.last {
            return last.time;
        }
        self.entries.iter().map(|(_, entry)| entry.time).max().unwrap_or_default()
    }

    /// The values that are held, expired or not: copies of one operation as one, and so are those of
    /// one origin, with the latest deadline.
    ///
    /// Copies have the same payload; an id that a client used for two values hides neither.
    pub fn siblings(&self) -> Vec<&Entry> {
        self.siblings_at(0)
    }

    /// Those of them that a client is shown by a node whose wall clock shows `now_ms`.
    pub fn siblings_at(&self, now_ms: u64) -> Vec<&Entry> {
        let mut shown: Vec<&Entry> = Vec::with_capacity(self.entries.len());
        for (_, entry) in self.entries.iter().filter(|(_, entry)| !entry.is_expired(now_ms)) {
            match shown.iter_mut().find(|other| other.is_shown_as(entry)) {
                Some(other) if entry.expires_after(other) => *other = entry,
                Some(_) => {}
                None => shown.push(entry),
            }
        }
        shown
    }

    /// The one value that a client is shown, if it is one.
    pub fn one_value(&self, now_ms: u64) -> OneValue {
        match self.siblings_at(now_ms)[..] {
            [] => OneValue::None,
            [entry] => OneValue::One(entry.clone()),
            ref several => OneValue::Several(several.len() as u32),
        }
    }

    /// When values of it expire, each time once, ascending.
    pub fn deadlines_ms(&self) -> Vec<u64> {
        let of_entries = self.entries.iter().filter_map(|(_, entry)| entry.deadline_ms);
        let mut deadlines_ms: Vec<u64> = of_entries.collect();
        deadlines_ms.sort_unstable();
        deadlines_ms.dedup();
        deadlines_ms
    }

    /// Removes the values that expire at this time or before, and keeps all that the object reflects:
    /// wherever it is merged they are covered. How many there were. No write, so there is no dot.
    pub fn purge(&mut self, until_ms: u64) -> usize {
        let before = self.entries.len();
        let due =
            |entry: &Entry| entry.is_expired(until_ms) || planted!("persist_forgotten_by_purge");
        self.entries.retain(|(_, entry)| !due(entry));
        before - self.entries.len()
    }

    /// How many entries a write with `context` would leave standing beside its own.
    pub fn uncovered(&self, context: &VersionVector) -> usize {
        self.entries.iter().filter(|(dot, _)| !context.covers(*dot)).count()
    }

    /// How many bytes of payload such a write would leave.
    pub fn uncovered_bytes(&self, context: &VersionVector) -> usize {
        let left = self.entries.iter().filter(|(dot, _)| !context.covers(*dot));
        left.map(|(_, entry)| entry.payload.len()).sum()
    }

    /// Writes `entry` under the new `dot`, replacing exactly what `context` covers.
    pub fn write(&mut self, dot: Dot, context: &VersionVector, entry: Entry) {
        self.supersede(dot, context);
        let at = self.entries.partition_point(|(d, _)| *d < dot);
        self.entries.insert(at, (dot, entry));
    }

    /// Removes exactly what `context` covers, under the new `dot`.
    pub fn delete(&mut self, dot: Dot, context: &VersionVector) {
        planted!("delete_without_a_dot", {
            return self.entries.retain(|(d, _)| !context.covers(*d));
        });
        self.supersede(dot, context);
    }

    fn supersede(&mut self, dot: Dot, context: &VersionVector) {
        assert!(!self.version.covers(dot), "{dot} was issued twice");
        assert!(!context.covers(dot), "a context covers {dot}, which nobody can have read");
        self.entries.retain(|(d, _)| !context.covers(*d));
        self.version.join(context);
        self.version.raise(dot);
    }

    /// Takes in what `other` knows: an entry survives if both hold it, or if one holds it and the
    /// other's version does not cover it. Tells whether anything changed here.
    pub fn merge(&mut self, other: &Self) -> bool {
        if self.last.is_some() || other.last.is_some() {
            return self.merge_last(other);
        }
        // Not for one without values that is behind: what it had may have been purged.
        if self.is_absent() && !other.is_absent() {
            self.clone_from(other);
            return true;
        }
        let before = self.entries.len();
        self.entries.retain(|(dot, _)| !other.version.covers(*dot) || other.holds(*dot));
        let removed = self.entries.len() != before;
        let mut changed = removed || !self.version.includes(&other.version);
        for (dot, entry) in &other.entries {
            let dropped = planted!("merge_drops_a_concurrent_sibling") && !self.entries.is_empty();
            if !self.version.covers(*dot) && !dropped {
                let at = self.entries.partition_point(|(d, _)| d < dot);
                self.entries.insert(at, (*dot, entry.clone()));
                changed = true;
            }
        }
        self.version.join(&other.version);
        changed
    }
}

/// The hash of what an object says: 16 bytes for its values, 16 for its version, and with it for the
/// stamp of a last write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Digest(pub [u8; 32]);

impl Object {
    /// Tells objects of one key apart without sending them.
    pub fn digest(&self, cluster: &ClusterKey, namespace: NamespaceId, key: &Key) -> Digest {
        let mut digest = [0; 32];
        digest[..16].copy_from_slice(&self.values_hash(cluster, namespace, key).to_le_bytes());
        if !self.version.is_empty() {
            let mut hasher = blake3::Hasher::new_keyed(&cluster.0);
            hasher.update(b"version");
            for dot in self.version.iter() {
                hasher.update(&dot_bytes(dot));
            }
            if let Some(last) = self.last {
                hasher.update(b"last");
                hasher.update(&last.time.0.to_le_bytes());
                hasher.update(&dot_bytes(last.dot));
                hasher.update(&[self.is_empty().into()]);
            }
            digest[16..].copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        }
        Digest(digest)
    }

    /// The canonical hash of the live values: keyed blake3 over namespace, key, and for each entry
    /// its dot, deadline and payload checksum. 0 without values: contexts and tombstones are not
    /// hashed, since frontiers vouch for them.
    pub fn values_hash(&self, cluster: &ClusterKey, namespace: NamespaceId, key: &Key) -> u128 {
        if self.entries.is_empty() {
            return 0;
        }
        let mut hasher = blake3::Hasher::new_keyed(&cluster.0);
        hasher.update(b"values");
        hasher.update(&namespace.0.to_le_bytes());
        hasher.update(&(key.as_bytes().len() as u64).to_le_bytes());
        hasher.update(key.as_bytes());
        for (dot, entry) in &self.entries {
            hasher.update(&dot_bytes(*dot));
            hasher.update(&entry.deadline_ms.unwrap_or(u64::MAX).to_le_bytes());
            hasher.update(&xxh3_128(&entry.payload).to_le_bytes());
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        u128::from_le_bytes(hash)
    }
}

fn dot_bytes(dot: Dot) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&dot.actor.0.to_le_bytes());
    bytes[8..].copy_from_slice(&dot.n.to_le_bytes());
    bytes
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
