//! Purging: an owner removes values that expired, and keeps all that its objects reflect.
//!
//! It is no write: there is no dot, and nobody is told. Whoever still holds the value loses it when the two
//! objects are merged, since V covers it. So when a value is purged is not for one owner to say: see
//! [`dynamo::ttl`](crate::dynamo::ttl).

use bytes::Bytes;

use super::objects::Beside as _;
use super::tree::Staged;
use super::turn::Turn;
use super::{Address, Vnode};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::metadata::document::Conflict;
use crate::error::RequestError;
use crate::storage::record;
use crate::storage::{EngineError, Space};

/// What purging came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Purged {
    /// So many values were removed.
    pub values: usize,
    /// So many have expired by this node's clock and are still here; of each partition no more are counted
    /// than are soon told.
    pub waiting: usize,
    /// Whether some of these are due, too.
    pub more: bool,
}

impl std::ops::AddAssign for Purged {
    fn add_assign(&mut self, other: Self) {
        self.values += other.values;
        self.waiting += other.waiting;
        self.more |= other.more;
    }
}

impl Vnode {
    /// Removes values that expire up to this time: those of as many rows of the index, at most.
    pub fn purge(
        &mut self,
        turn: &mut Turn<'_>,
        until_ms: u64,
        most: usize,
    ) -> Result<Purged, RequestError> {
        let now_ms = turn.admitting.now_ms;
        if !self.beside.deadlines.reach(now_ms.max(until_ms)) {
            return Ok(Purged::default());
        }
        let staged = Staged { engine: turn.engine, batch: &mut turn.batch };
        let Some(due) = self.beside.deadlines.due(&staged, (until_ms, now_ms), most)? else {
            self.beside.tree.doubt();
            return Ok(Purged::default());
        };
        if !self.beside.tree.is_ready() {
            // It may be made anew, and these rows with it.
            self.beside.deadlines.forget();
        }
        let mut purged = Purged { values: 0, waiting: due.waiting, more: due.more };
        for (deadline_ms, stored) in due.rows {
            purged.values += self.purge_at(turn, &stored, until_ms)?;
            let row = record::deadline_key(self.objects.id(), deadline_ms, &stored);
            turn.batch.delete(Space::Trees, row);
        }
        Ok(purged)
    }

    /// How many values were removed from what lies at `stored`. Nothing of what is damaged: what mends it has
    /// rows of its own.
    fn purge_at(
        &mut self,
        turn: &mut Turn<'_>,
        stored: &Bytes,
        until_ms: u64,
    ) -> Result<usize, RequestError> {
        let Some(address) = address_at(turn, stored)? else { return Ok(0) };
        let found = self.objects.object(turn, &address, stored, &mut self.beside);
        let mut object = match found {
            Err(RequestError::Damaged { .. }) => return Ok(0),
            found => found?,
        };
        let before = self.beside.before(stored, &object);
        let values = object.purge(until_ms);
        if values > 0 {
            let (sealed, encoded) = record::seal_object(stored, &object);
            self.beside.prepare(turn, stored, Some(encoded.0.len()))?;
            self.objects.put(turn, stored.clone(), (sealed, &object, before), &mut self.beside);
        }
        Ok(values)
    }
}

/// Of which key the object is that lies there, if one does.
fn address_at(turn: &Turn<'_>, stored: &Bytes) -> Result<Option<Address>, RequestError> {
    let Some((vnode, namespace, key)) = record::split_object_key(stored) else { return Ok(None) };
    let rule = match turn.get(Space::Objects, stored) {
        Ok(None) => return Ok(None),
        Ok(Some(sealed)) => {
            record::open(stored, &sealed).ok().and_then(|object| EncodedObject(object).rule())
        }
        Err(EngineError::Corrupt { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    // Of one that is damaged no rule is known, nor asked.
    let conflict = rule.unwrap_or(Conflict::Siblings);
    Ok(Some(Address { vnode, namespace, key, conflict }))
}
