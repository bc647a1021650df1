//! The dot log of a vnode, read and shortened: which key each dot is of.
//!
//! A row is written with the object that brings the dot, and is needed until every owner has the dot on
//! disk. An owner that stays away keeps it from becoming shorter, so that it is bounded beside that: what
//! goes beyond is forgotten, the lowest numbers of an actor first, and whoever needed those goes through
//! the whole partition.

use std::collections::BTreeMap;

use crate::dynamo::clock::{Actor, Dot};
use crate::dynamo::exchange::{DOTS_MAX, KeyDots};
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{Key, NamespaceId, VnodeId};
use crate::storage::record;
use crate::storage::{Batch, Engine, EngineError, KeyRange, Space};

/// About how many bytes of keys one answer has: requests wait while it is made.
const KEYS_BYTES: usize = 256 << 10;

/// The most rows that are forgotten at once.
const FORGET_MAX: usize = 1024;

/// What the log of one partition may occupy, in bytes of keys and values: with 256 partitions 256 MiB,
/// that is four million writes under short keys which an owner missed.
const LOG_MAX_BYTES: usize = 1 << 20;

/// Of which keys dots are.
#[derive(Default, Debug)]
pub struct Logged {
    /// As far as is known, and as many as one message should hold.
    pub keys: Vec<KeyDots>,
    /// How many rows were damaged.
    pub damaged: u64,
}

/// Looks up of which keys these dots are.
pub fn keys_of(engine: &dyn Engine, id: VnodeId, dots: &Frontier) -> Result<Logged, EngineError> {
    let mut keys: BTreeMap<(NamespaceId, Key), Vec<Dot>> = BTreeMap::new();
    let (mut found, mut bytes, mut damaged) = (0, 0, 0);
    let ranges = dots.iter().flat_map(|(actor, seen)| {
        let row = move |n| record::log_key(id, Dot { actor, n });
        seen.ranges().iter().map(move |&(first, last)| KeyRange::new(row(first)..=row(last)))
    });
    for row in ranges.flat_map(|range| engine.scan(Space::Frontiers, range)) {
        let (stored, sealed) = match row {
            Ok(row) => row,
            Err(EngineError::Corrupt { .. }) => {
                damaged += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        if found == DOTS_MAX || bytes >= KEYS_BYTES {
            break;
        }
        let logged = record::open(&stored, &sealed).ok();
        match (record::logged_dot(&stored), logged.and_then(|row| record::split_logged_key(&row))) {
            (Some(dot), Some(key)) => {
                (found, bytes) = (found + 1, bytes + key.1.as_bytes().len());
                keys.entry(key).or_default().push(dot);
            }
            _ => damaged += 1,
        }
    }
    let of_key = |((namespace, key), dots)| KeyDots { namespace, key, dots };
    Ok(Logged { keys: keys.into_iter().map(of_key).collect(), damaged })
}

/// Up to which numbers, by actor, the log has forgotten what all owners have: what lies below need not be
/// looked through again.
#[derive(Default, Debug)]
pub struct Forgotten(BTreeMap<Actor, u64>);

impl Forgotten {
    /// The deletion of some of the rows up to these numbers, which every owner has on disk; and up to
    /// where that goes.
    pub fn next(
        &self,
        engine: &dyn Engine,
        id: VnodeId,
        bases: &BTreeMap<Actor, u64>,
    ) -> Result<(Batch, Self), EngineError> {
        let (mut batch, mut after) = (Batch::new(), Self::default());
        for (&actor, &base) in bases {
            let from = self.0.get(&actor).copied().unwrap_or(0);
            if from >= base {
                continue;
            }
            let row = |n| record::log_key(id, Dot { actor, n });
            let rows = engine.scan(Space::Frontiers, KeyRange::new(row(from + 1)..=row(base)));
            for stored in rows {
                let stored = stored?.0;
                if batch.len() == FORGET_MAX {
                    return Ok((batch, after));
                }
                let n = record::logged_dot(&stored).map_or(from, |dot| dot.n);
                after.0.insert(actor, n);
                batch.delete(Space::Frontiers, stored);
            }
            after.0.insert(actor, base);
        }
        Ok((batch, after))
    }

    /// So much more is forgotten.
    pub fn advance(&mut self, to: Self) {
        self.0.extend(to.0);
    }
}

/// By how many bytes the log is too long: reads all of it.
pub fn excess(engine: &dyn Engine, id: VnodeId) -> Result<usize, EngineError> {
    let mut bytes = 0;
    for row in engine.scan(Space::Frontiers, KeyRange::prefix(&record::log_prefix(id))) {
        let (stored, sealed) = row?;
        bytes += stored.len() + sealed.len();
    }
    Ok(bytes.saturating_sub(LOG_MAX_BYTES))
}

/// The deletion of some rows, of so many bytes at most; and how many bytes they have.
pub fn forget_bytes(
    engine: &dyn Engine,
    id: VnodeId,
    most: usize,
) -> Result<(Batch, usize), EngineError> {
    let (mut batch, mut bytes) = (Batch::new(), 0);
    for row in engine.scan(Space::Frontiers, KeyRange::prefix(&record::log_prefix(id))) {
        if bytes >= most || batch.len() == FORGET_MAX {
            break;
        }
        let (stored, sealed) = row?;
        bytes += stored.len() + sealed.len();
        batch.delete(Space::Frontiers, stored);
    }
    Ok((batch, bytes))
}
