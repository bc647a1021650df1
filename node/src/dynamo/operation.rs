//! Operation ids: how a retry is recognised as the write it repeats.
//!
//! An id names the node that is to coordinate the write and that node's *opening*, a random number
//! drawn each time its store is opened. Only that node in that opening can know for certain that it
//! has not seen the id: it keeps an index of them (id → dot) in the objects' own batches.
//!
//! ```text
//!   id names ...                   index says     so the write is
//!   me, this opening               nothing        new: coordinate it
//!   me or not, any opening         dot a:7        done: answer with a:7, replicate again
//!   me or not, any opening         another value  refused: an id names one write
//!   me or not, any opening         refused        refused again
//!   me, an earlier opening         nothing        of unknown outcome: the index may have been lost
//!   another node                   nothing        that node's to answer; or the owners', who are
//!                                                 all asked while it cannot be (see `resolve`)
//!   anybody, over an hour old      -              refused: the index forgets after an hour
//!   nobody's opening, sent once    nothing        new, whatever its time
//! ```
//!
//! A client may ask to run a write elsewhere *at least once* under the same id; the copies are shown
//! as one value. Left out: noticing an id that was used for a key of another partition, since each
//! vnode has an index of its own.

use std::fmt;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::clock::Dot;
use super::context::Context;
use super::encoding::Writer;
use super::format::write_version;
use super::key::{KeyHash, NodeId};
use super::ttl::Ttl;

/// How long ids are kept, and the age past which they are refused, in milliseconds.
pub const OPERATION_KEPT_MS: u64 = 3_600_000;

/// How far ahead of this node's clock an id's time may lie, in milliseconds: clocks differ.
const OPERATION_AHEAD_MS: u64 = 60_000;

/// A random number drawn at each opening of a node's store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Opening(pub u64);

/// Names one write of one client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId {
    /// When it was issued, by a server's clock: milliseconds since the Unix epoch.
    pub issued_ms: u64,
    /// The node that is to coordinate.
    pub coordinator: NodeId,
    /// That node's opening.
    pub opening: Opening,
    /// The client.
    pub client: u64,
    /// The client's count of writes.
    pub sequence: u64,
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{} to {}", self.client, self.sequence, self.coordinator)
    }
}

/// What the index keeps of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// The key it wrote: an id names one write of one key.
    pub key: KeyHash,
    /// How it was done; none: it was refused, and stays so.
    pub done: Option<Done>,
}

/// What a write writes, in short: enough to notice a client that uses an id for two writes, and no
/// proof against one that means to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PayloadHash(pub u64);

impl PayloadHash {
    /// Of what a write does, as it was asked for, and of what it replaces.
    pub fn of(change: &Change, context: &Context) -> Self {
        let mut w = Writer::with_capacity(40 + 18 * context.version.len());
        w.u64(context.time.0);
        write_version(&mut w, &context.version);
        w.u64(change.value().map_or(0, |value| xxh3_64_with_seed(value, 1)));
        match change.ttl() {
            Ttl::Default => {}
            Ttl::Never => w.u8(0),
            Ttl::After(ttl) => w.u64(ttl.get()),
        }
        let kind = match change {
            Change::Delete => 0,
            Change::Put { .. } => 1,
            Change::Expire(_) => 2,
        };
        Self(xxh3_64_with_seed(w.as_slice(), kind))
    }
}

/// What a write does to its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Writes a value.
    Put {
        /// Its bytes.
        value: Bytes,
        /// How long it is to live.
        ttl: Ttl,
    },
    /// Removes the values.
    Delete,
    /// Writes the value that is there again, which is to live so long from now on.
    Expire(Ttl),
}

impl Change {
    /// Writes a value that lives as long as its namespace has it.
    pub fn put(value: impl Into<Bytes>) -> Self {
        Self::Put { value: value.into(), ttl: Ttl::Default }
    }

    /// The value that comes with it.
    pub fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Put { value, .. } => Some(value),
            Self::Delete | Self::Expire(_) => None,
        }
    }

    /// How long a value is to live, as far as it says so.
    pub fn ttl(&self) -> Ttl {
        match self {
            Self::Put { ttl, .. } | Self::Expire(ttl) => *ttl,
            Self::Delete => Ttl::Default,
        }
    }
}

/// How a write was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// The dot it was given.
    pub dot: Dot,
    /// What its coordinator's wall clock showed then, in milliseconds since the Unix epoch. A retry
    /// makes it no later.
    pub clock_ms: u64,
    /// What it wrote.
    pub payload: PayloadHash,
}

/// How a write was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Coordinate it even if the id names another node or opening.
    pub at_least_once: bool,
    /// No earlier request carried the id.
    pub fresh: bool,
    /// What is to be written.
    pub payload: PayloadHash,
}

/// What a coordinator does with a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It is new: give it a dot.
    New,
    /// It was done: replicate the object again and answer.
    Done(Done),
    /// It was refused before: nothing is applied, so that *not applied* stays true of a copy of the
    /// request that comes late.
    Refused,
    /// The id wrote another key. Nothing is applied.
    OtherKey,
    /// The id wrote something else to the key. Nothing is applied.
    OtherPayload,
    /// The id is too old, or its time lies in the future. Nothing is applied now.
    Expired,
    /// The id names an earlier opening of this node: its outcome is unknown.
    EarlierOpening,
    /// The id names another node, which is to coordinate.
    Elsewhere,
}

/// Who decides, and when.
#[derive(Clone, Copy, Debug)]
pub struct Admitting {
    /// The deciding node.
    pub node: NodeId,
    /// Its opening.
    pub opening: Opening,
    /// Its wall clock, in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

impl Admitting {
    /// Whether it is this node, in this opening, that can tell what became of the operation.
    /// Opening 0 is that of an id which another node made up for a client that gave none: it is
    /// sent once.
    pub fn is_named_by(&self, id: &OperationId) -> bool {
        id.coordinator == self.node && [Opening(0), self.opening].contains(&id.opening)
    }

    /// Whether the id is over an hour old by this node's clock, or its time lies in the future: nothing
    /// can be said of it if the index does not know it.
    pub fn is_expired(&self, id: &OperationId) -> bool {
        let oldest = self.now_ms.saturating_sub(OPERATION_KEPT_MS);
        let newest = self.now_ms.saturating_add(OPERATION_AHEAD_MS);
        !(oldest..=newest).contains(&id.issued_ms)
    }

    /// Decides on a write of `key` under `id`, of which the index keeps `recorded`.
    ///
    /// An id that another node made up has that node's time, which may be wrong, and nobody asks for
    /// it again as if it were new.
    pub fn admit(
        &self,
        id: &OperationId,
        key: KeyHash,
        recorded: Option<Recorded>,
        asked: Asked,
    ) -> Admission {
        if let Some(recorded) = recorded {
            return match recorded.done {
                _ if recorded.key != key => Admission::OtherKey,
                Some(done) if done.payload != asked.payload => Admission::OtherPayload,
                Some(done) => Admission::Done(done),
                None => Admission::Refused,
            };
        }
        let made_up = asked.fresh && id.opening == Opening(0);
        if !made_up && self.is_expired(id) {
            return Admission::Expired;
        }
        match (id.coordinator == self.node, id.opening == self.opening) {
            (true, true) => Admission::New,
            _ if asked.at_least_once => Admission::New,
            (true, false) if planted!("earlier_opening_taken_as_new") => Admission::New,
            (true, false) => Admission::EarlierOpening,
            (false, _) => Admission::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamo::clock::{Actor, VersionVector};
    use crate::dynamo::ttl::TtlMs;

    const ME: NodeId = NodeId(1);
    const NOW: Admitting =
        Admitting { node: ME, opening: Opening(5), now_ms: 2 * OPERATION_KEPT_MS };

    const PAYLOAD: PayloadHash = PayloadHash(4);

    fn id(coordinator: u64, opening: u64, issued_ms: u64) -> OperationId {
        let (coordinator, opening) = (NodeId(coordinator), Opening(opening));
        OperationId { issued_ms, coordinator, opening, client: 9, sequence: 1 }
    }

    #[test]
    fn a_write_runs_once_unless_asked_otherwise() {
        let fresh = NOW.now_ms - 1;
        let cases = [
            (id(1, 5, fresh), false, Admission::New),
            (id(1, 4, fresh), false, Admission::EarlierOpening),
            (id(1, 4, fresh), true, Admission::New),
            (id(2, 5, fresh), false, Admission::Elsewhere),
            (id(2, 5, fresh), true, Admission::New),
            (id(1, 5, NOW.now_ms - OPERATION_KEPT_MS - 1), true, Admission::Expired),
            (id(1, 5, NOW.now_ms + OPERATION_AHEAD_MS + 1), true, Admission::Expired),
        ];
        for (id, at_least_once, expected) in cases {
            for fresh in [false, true] {
                let asked = Asked { at_least_once, fresh, payload: PAYLOAD };
                assert_eq!(NOW.admit(&id, KeyHash(7), None, asked), expected, "{id:?}");
            }
        }
    }

    /// The time in it is another node's; and it is asked for again as any other.
    #[test]
    fn an_id_that_a_node_made_up_is_new_once_whatever_its_time() {
        for issued_ms in [0, NOW.now_ms, 9 * NOW.now_ms] {
            let asked = |fresh| Asked { at_least_once: true, fresh, payload: PAYLOAD };
            let admitted =
                |to, fresh| NOW.admit(&id(to, 0, issued_ms), KeyHash(7), None, asked(fresh));
            assert_eq!(admitted(1, true), Admission::New);
            let later = if issued_ms == NOW.now_ms { Admission::New } else { Admission::Expired };
            assert_eq!(admitted(1, false), later);
        }
    }

    #[test]
    fn what_the_index_knows_is_never_applied_again() {
        let done = Done { dot: Dot { actor: Actor(3), n: 7 }, clock_ms: 9, payload: PAYLOAD };
        let recorded = Some(Recorded { key: KeyHash(7), done: Some(done) });
        let refused = Some(Recorded { key: KeyHash(7), done: None });
        for id in [id(1, 5, NOW.now_ms), id(1, 4, NOW.now_ms), id(2, 2, 0)] {
            for at_least_once in [false, true] {
                let fresh = !at_least_once;
                let at_least_once = Asked { at_least_once, fresh, payload: PAYLOAD };
                let admitted = NOW.admit(&id, KeyHash(7), recorded, at_least_once);
                assert_eq!(admitted, Admission::Done(done));
                let other = NOW.admit(&id, KeyHash(8), recorded, at_least_once);
                assert_eq!(other, Admission::OtherKey);
                let payload = PayloadHash(5);
                let other = Asked { payload, ..at_least_once };
                let other = NOW.admit(&id, KeyHash(7), recorded, other);
                assert_eq!(other, Admission::OtherPayload);
                let again = NOW.admit(&id, KeyHash(7), refused, at_least_once);
                assert_eq!(again, Admission::Refused);
            }
        }
    }

    #[test]
    fn whatever_a_write_writes_or_replaces_is_in_its_payload_hash() {
        let context = |n| {
            let mut version = VersionVector::default();
            version.raise(Dot { actor: Actor(3), n });
            Context { version, ..Context::default() }
        };
        let ttls = || [1, 2].map(|ms| Ttl::After(TtlMs::new(ms).unwrap()));
        let ttls = || ttls().into_iter().chain([Ttl::Default, Ttl::Never]);
        let values = [Bytes::new(), Bytes::from("a"), Bytes::from("b")];
        let put = |value: &Bytes| {
            let value = value.clone();
            ttls().map(move |ttl| Change::Put { value: value.clone(), ttl })
        };
        let puts = values.iter().flat_map(put);
        let changes = puts.chain([Change::Delete]).chain(ttls().map(Change::Expire));
        let mut hashes = Vec::new();
        for change in changes {
            for context in [Context::default(), context(1), context(2)] {
                let hash = PayloadHash::of(&change, &context);
                assert_eq!(hash, PayloadHash::of(&change, &context));
                assert!(!hashes.contains(&hash), "{change:?}, {context:?}");
                hashes.push(hash);
            }
        }
    }
}
