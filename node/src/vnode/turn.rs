//! What the requests of one group commit share.
//!
//! They stage into one batch and see each other through it. What they find out on the way (damage,
//! clocks that are wrong, hints) is told once the batch was applied.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;

use super::queues::{HintQueues, Hinted};
use super::tree::HashKey;
use crate::clocks::Trust;
use crate::dynamo::arrival::Arrival;
use crate::dynamo::clock::Hlc;
use crate::dynamo::format::encode_recorded;
use crate::dynamo::object::Object;
use crate::dynamo::operation::{Admitting, Recorded};
use crate::error::RequestError;
use crate::storage::record;
use crate::storage::{Batch, Engine, EngineError, Space};

/// What the requests of one group commit share.
pub struct Turn<'a> {
    /// Where the state lies.
    pub engine: &'a dyn Engine,
    /// What will be applied; read before the engine.
    pub batch: Batch,
    /// Who coordinates, and when.
    pub admitting: Admitting,
    /// For actors.
    pub rng: &'a mut ChaCha8Rng,
    /// The shard's hybrid clock.
    pub clock: &'a mut Hlc,
    /// How many damaged records were met for the first time, by space.
    pub corrupt: BTreeMap<Space, u64>,
    /// How many were replaced.
    pub mended: Mended,
    /// How many rows the operation index gains.
    pub recorded: u64,
    /// By how much a clock that orders writes may be off, in milliseconds.
    pub skew_max_ms: u64,
    /// Whether the clock that `admitting` was read from may order writes. Nobody being known is
    /// [`Trust::Unknown`] here, since who is connected is for the coordinator to say.
    pub trust: Trust,
    /// How many last writes were met that lie in the future by more than that.
    pub future: u64,
    /// How many frontiers were found to vouch for what is not there.
    pub lies: u64,
    /// What came to this node as an owner.
    pub arrivals: Vec<Arrival>,
    /// Under which objects are hashed.
    pub hash_key: &'a HashKey,
    /// The queues of hints, of all shards.
    pub queues: &'a HintQueues,
    /// What becomes of hints.
    pub hinted: Hinted,
}

/// How many damaged records were replaced by what every other owner held.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Mended {
    /// By an object.
    pub mended: u64,
    /// By nothing: no other owner held the key, so that what the record held is lost.
    pub lost: u64,
}

impl Turn<'_> {
    pub(super) fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.batch.staged(space, key) {
            Some(staged) => Ok(staged.cloned()),
            None => self.engine.get(space, key),
        }
    }

    pub(super) fn put(&mut self, space: Space, key: Bytes, body: &[u8]) {
        let sealed = record::seal(&key, body);
        self.batch.put(space, key, sealed);
    }

    /// Stages a row of the operation index. One that is not `new` for certain is looked up, so that
    /// it counts once.
    pub(super) fn record(&mut self, index: Bytes, recorded: Recorded, new: bool) {
        if new || matches!(self.get(Space::Operations, &index), Ok(None)) {
            self.recorded += 1;
        }
        self.put(Space::Operations, index, &encode_recorded(recorded));
    }

    /// How far the last write of an `lww` object lies in the future, if by more than the clock that
    /// wrote it may have been ahead and the one here behind: then one of the two was wrong.
    pub(super) fn future_of(&mut self, object: &Object) -> Option<RequestError> {
        let ahead_ms = object.last()?.time.wall_ms().saturating_sub(self.admitting.now_ms);
        let max_ms = self.skew_max_ms.saturating_mul(2);
        if ahead_ms <= max_ms {
            return None;
        }
        self.future += 1;
        let what = "the key's last write".to_owned();
        let ahead_ms = i64::try_from(ahead_ms).unwrap_or(i64::MAX);
        Some(RequestError::ClockSkew { what, ahead_ms, max_ms })
    }

    /// Why this node cannot tell whether the later of two writes was written by a wrong clock.
    pub(super) fn cannot_judge(&self) -> Option<RequestError> {
        let reason = "another write of the key is later here, by a clock that may be wrong";
        (self.trust != Trust::Right).then(|| RequestError::clock_uncertain(reason))
    }

    /// Why a write of that time, by its coordinator's clock, which was due so much later, comes later
    /// than two clocks that are both right could tell. What is later here may have been acknowledged
    /// before it began.
    pub(super) fn is_late(&self, clock_ms: u64, wait_ms: u64) -> Option<RequestError> {
        let skew_ms = self.skew_max_ms.saturating_mul(2);
        let may_be_ms = clock_ms.saturating_add(wait_ms).saturating_add(skew_ms);
        let reason = "another write of the key is later here, and this one was written long ago \
             by its coordinator's clock: that is behind, or this is a late retry";
        (self.admitting.now_ms > may_be_ms).then(|| RequestError::too_late(reason))
    }

    /// Why the clock may not order a write. Its coordinator has looked before, but the write waited
    /// since, and the clock may have been set meanwhile: this is the reading that stamps it.
    pub(super) fn wrong_clock(&self) -> Option<RequestError> {
        let Trust::Off { ahead_ms } = self.trust else { return None };
        let what = "the coordinator's clock".to_owned();
        Some(RequestError::ClockSkew { what, ahead_ms, max_ms: self.skew_max_ms })
    }
}
