//! One budget for the memory that requests hold.
//!
//! Bytes are charged when they arrive or are made, and given back when the last reference to them is
//! gone: [`Budget::hold`] ties the charge to the [`Bytes`] themselves, so no path can forget it.
//!
//! ```text
//!   value of a put, 1 MiB   received ► held by the request ► by the shard's batch ► dropped: given back
//!   object of a get         read in the shard ► held by the answer ► encoded: the reply's own charge
//! ```
//!
//! Messages below [`SMALL_BYTES`] are not charged: how many there are is bounded by the limits on
//! requests and queues, and the common request pays nothing. Each kind has its ceiling, so that
//! clients cannot take what replicas need to finish what was begun, and scans not what requests need.
//! A charge is two additions to counters; there is no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;

use crate::error::RequestError;

/// Below this, a message is not worth counting.
pub const SMALL_BYTES: usize = 4096;

/// How long a client is told to wait for memory, in milliseconds: the largest replies take about that
/// to be sent.
const RETRY_AFTER_MS: u32 = 100;

/// What memory is held for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Messages of clients that are still arriving.
    Receiving,
    /// Requests of clients under way: the values they write.
    Requests,
    /// Objects read for an answer.
    Reads,
    /// Pages of scans.
    Scans,
    /// Answers to clients until they are sent.
    Replies,
    /// Messages to other nodes until they are sent.
    Peers,
    /// Requests and answers of other nodes.
    Replicas,
}

impl Kind {
    /// Every kind, in the order of the metrics page.
    pub const ALL: [Self; 7] = [
        Self::Receiving,
        Self::Requests,
        Self::Reads,
        Self::Scans,
        Self::Replies,
        Self::Peers,
        Self::Replicas,
    ];

    /// Its name on the metrics page.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Requests => "requests",
            Self::Reads => "reads",
            Self::Scans => "scans",
            Self::Replies => "replies",
            Self::Peers => "peers",
            Self::Replicas => "replicas",
        }
    }

    /// Whether one may have what it asks for while it is the only one of its kind: what could be
    /// written must be readable, and what was begun must be able to end, however little memory there
    /// is. Only what clients send is refused for good, before it is anything.
    const fn may_be_alone(self) -> bool {
        !matches!(self, Self::Receiving | Self::Requests)
    }

    /// Which part of the budget may be in use when more of this kind is asked for, in eighths. What
    /// was begun comes before what is new: an object that a coordinator sends here was stored there.
    const fn eighths(self) -> u64 {
        match self {
            Self::Receiving | Self::Requests => 5,
            Self::Scans => 4,
            Self::Reads => 6,
            Self::Replies | Self::Peers => 7,
            Self::Replicas => 8,
        }
    }
}

/// What a node holds in memory for requests, and how much it may.
#[derive(Debug)]
pub struct Budget {
    max: u64,
    used: AtomicU64,
    peak: AtomicU64,
    kinds: [AtomicU64; Kind::ALL.len()],
    refused: AtomicU64,
}

impl Budget {
    /// A budget of `max` bytes, nothing of it in use.
    pub fn new(max: u64) -> Arc<Self> {
        let (used, peak, refused) = <(AtomicU64, AtomicU64, AtomicU64)>::default();
        Arc::new(Self { max, used, peak, kinds: Default::default(), refused })
    }

    /// One that refuses nothing, for tests.
    pub fn unbounded() -> Arc<Self> {
        Self::new(u64::MAX / 8)
    }

    /// Takes `bytes` until the charge is dropped.
    pub fn take(self: &Arc<Self>, kind: Kind, bytes: usize) -> Result<Charge, RequestError> {
        let mut charge = Charge { budget: self.clone(), kind, bytes: 0 };
        charge.grow(bytes)?;
        Ok(charge)
    }

    /// Takes what is there already and cannot be refused any more: a small answer.
    pub fn take_anyway(self: &Arc<Self>, kind: Kind, bytes: usize) -> Charge {
        self.add(kind, bytes as u64);
        Charge { budget: self.clone(), kind, bytes: bytes as u64 }
    }

    /// The same bytes, charged until the last reference to them is gone. Small ones are not charged.
    pub fn hold(self: &Arc<Self>, kind: Kind, bytes: Bytes) -> Result<Bytes, RequestError> {
        if bytes.len() < SMALL_BYTES {
            return Ok(bytes);
        }
        let charge = self.take(kind, bytes.len())?;
        Ok(charge.with(bytes))
    }

    /// The same of what is there already and cannot be refused any more.
    pub fn hold_anyway(self: &Arc<Self>, kind: Kind, bytes: Bytes) -> Bytes {
        match bytes.len() {
            ..SMALL_BYTES => bytes,
            len => self.take_anyway(kind, len).with(bytes),
        }
    }

    /// Takes `bytes` until the charge is dropped, or nothing if they are few.
    pub fn take_if_large(
        self: &Arc<Self>,
        kind: Kind,
        bytes: usize,
    ) -> Result<Option<Charge>, RequestError> {
        (bytes >= SMALL_BYTES).then(|| self.take(kind, bytes)).transpose()
    }

    /// The most that may be in use, in bytes.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// What is in use now, in bytes.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// The most that ever was, in bytes.
    pub fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// What is in use for `kind`, in bytes.
    pub fn used_for(&self, kind: Kind) -> u64 {
        self.kinds[kind as usize].load(Relaxed)
    }

    /// How often it refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn add(&self, kind: Kind, bytes: u64) {
        let used = self.used.fetch_add(bytes, Relaxed) + bytes;
        self.kinds[kind as usize].fetch_add(bytes, Relaxed);
        if used > self.peak.load(Relaxed) {
            self.peak.fetch_max(used, Relaxed);
        }
    }

    fn give_back(&self, kind: Kind, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Relaxed);
        assert!(before >= bytes, "more was given back than taken");
        self.kinds[kind as usize].fetch_sub(bytes, Relaxed);
    }
}

/// A part of a budget, given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    kind: Kind,
    bytes: u64,
}

impl Charge {
    /// Takes more. If that is refused, what was taken before stays.
    pub fn grow(&mut self, bytes: usize) -> Result<(), RequestError> {
        let (budget, bytes) = (&self.budget, bytes as u64);
        let of_kind = budget.kinds[self.kind as usize].load(Relaxed);
        let ceiling = match self.kind.may_be_alone() && of_kind == self.bytes {
            true => u64::MAX,
            false => budget.max / 8 * self.kind.eighths(),
        };
        let taken = budget.used.fetch_update(Relaxed, Relaxed, |used| {
            used.checked_add(bytes).filter(|after| *after <= ceiling)
        });
        let Ok(before) = taken else {
            budget.refused.fetch_add(1, Relaxed);
            let what = format!("the node's memory for {}", self.kind.name());
            return Err(RequestError::Overloaded { what, retry_after_ms: RETRY_AFTER_MS });
        };
        budget.kinds[self.kind as usize].fetch_add(bytes, Relaxed);
        budget.peak.fetch_max(before + bytes, Relaxed);
        self.bytes += bytes;
        Ok(())
    }
}

impl Charge {
    /// Ties it to these bytes: it ends when the last reference to them is gone.
    pub fn with(self, bytes: Bytes) -> Bytes {
        tie(bytes, self)
    }

    /// Ties it to these bytes among others: it ends with the last of them all.
    pub fn shared_with(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        tie(bytes, self.clone())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give_back(self.kind, self.bytes);
    }
}

/// The same bytes, which keep `what` until the last reference to them is gone.
pub fn tie(bytes: Bytes, what: impl Send + 'static) -> Bytes {
    Bytes::from_owner(Held { bytes, _what: what })
}

struct Held<W> {
    bytes: Bytes,
    _what: W,
}

impl<W> AsRef<[u8]> for Held<W> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_are_charged_until_their_last_reference_is_gone() {
        let budget = Budget::new(1 << 20);
        let value = Bytes::from(vec![7; 10_000]);
        let held = budget.hold(Kind::Requests, value.clone()).unwrap();
        assert_eq!(held, value);
        let part = held.slice(10..20);
        drop(held);
        assert_eq!((budget.used(), budget.used_for(Kind::Requests)), (10_000, 10_000));
        drop(part);
        assert_eq!((budget.used(), budget.used_for(Kind::Requests)), (0, 0));
        assert_eq!(budget.peak(), 10_000);
    }

    #[test]
    fn small_bytes_cost_nothing() {
        let budget = Budget::new(0);
        assert!(budget.hold(Kind::Requests, Bytes::from(vec![0; SMALL_BYTES - 1])).is_ok());
        assert!(budget.hold(Kind::Requests, Bytes::from(vec![0; SMALL_BYTES])).is_err());
        assert_eq!((budget.used(), budget.refused()), (0, 1));
    }

    #[test]
    fn what_was_begun_fits_where_what_is_new_does_not() {
        let budget = Budget::new(8000);
        let _requests = budget.take(Kind::Requests, 5000).unwrap();
        let refused = budget.take(Kind::Requests, 1).unwrap_err();
        assert_eq!(refused.kind(), "overloaded");
        assert!(refused.to_string().contains("memory for requests is full"), "{refused}");
        let _peers = budget.take(Kind::Peers, 2000).unwrap();
        let replicas = budget.take(Kind::Replicas, 1000).unwrap();
        assert!(budget.take(Kind::Replicas, 1).is_err());
        assert_eq!(budget.used(), 8000);
        drop(replicas);
        let _alone = budget.take(Kind::Replicas, 1000).unwrap();
        let _sent = budget.take_anyway(Kind::Replies, 10);
        assert_eq!(budget.used(), 8010);
    }

    #[test]
    fn what_could_be_written_can_be_read_however_little_memory_there_is() {
        let budget = Budget::new(8000);
        assert!(budget.take(Kind::Requests, 5001).is_err(), "of what is new, nothing so large");
        let read = budget.take(Kind::Reads, 9000).unwrap();
        let _reply = budget.take(Kind::Replies, 9000).unwrap();
        assert!(budget.take(Kind::Reads, 1).is_err(), "but no second one beside it");
        drop(read);
        assert!(budget.take(Kind::Reads, 9000).is_ok());
    }

    proptest! {
        /// The naive twin adds up what is held.
        #[test]
        fn it_is_the_sum_of_what_is_held_and_refuses_what_goes_over(
            steps in prop::collection::vec((0..7usize, 0..600usize, any::<bool>()), 0..80)
        ) {
            let budget = Budget::new(4096);
            let mut held: Vec<Charge> = Vec::new();
            for (kind, bytes, drops) in steps {
                if drops && !held.is_empty() {
                    held.remove(bytes % held.len());
                } else {
                    let before: u64 = held.iter().map(|charge| charge.bytes).sum();
                    let kind = Kind::ALL[kind];
                    let alone = held.iter().all(|charge| charge.kind != kind || charge.bytes == 0);
                    let fits = before + bytes as u64 <= 512 * kind.eighths()
                        || alone && kind.may_be_alone();
                    match budget.take(kind, bytes) {
                        Ok(charge) => { prop_assert!(fits); held.push(charge) }
                        Err(_) => prop_assert!(!fits),
                    }
                }
                prop_assert_eq!(budget.used(), held.iter().map(|c| c.bytes).sum::<u64>());
                let kinds: u64 = Kind::ALL.into_iter().map(|kind| budget.used_for(kind)).sum();
                prop_assert_eq!(budget.used(), kinds);
            }
        }
    }
}
