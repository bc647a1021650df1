//! What an owner has seen, beside its objects: its frontier, and which key each dot is of.
//!
//! Both change in the batch that stores the object, so that after a crash they speak of what is there. A
//! frontier that may lie is forgotten, the data never; the objects are then *recounted*: what they show is
//! seen again, so that others hear of writes that nobody else has. How far that got is kept, since the
//! process may end before it does.
//!
//! A record whose bytes are damaged says so whenever it is met. What is gone without a trace does not: that
//! some is, is kept in a row as well, until the vnode has met every other owner since.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::log::Forgotten;
use crate::dynamo::clock::{Actor, Dot};
use crate::dynamo::exchange::Told;
use crate::dynamo::format::{decode_intervals, encode_intervals};
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::VnodeId;
use crate::dynamo::object::Object;
use crate::storage::record;
use crate::storage::{Batch, Engine, EngineError, KeyRange, Space};

/// What an owner has seen.
#[derive(Debug)]
pub(super) struct Seen {
    id: VnodeId,
    frontier: Frontier,
    /// Drawn anew whenever others should no longer rely on what it said before.
    generation: u64,
    /// Whose rows of the frontier changed in this turn.
    grown: BTreeSet<Actor>,
    /// Behind which key the objects are to be recounted, if they are.
    recount: Option<Bytes>,
    /// Whether that changed in this turn.
    recount_moved: bool,
    /// Damaged rows met at the opening, until a turn counts them.
    damaged_rows: u64,
    /// Whether something was lost without a trace, and not all other owners were met since.
    is_lost: bool,
    /// Whether that changed in this turn, or is to be told again.
    loss_moved: bool,
    /// What has left the log.
    pub(super) forgotten: Forgotten,
}

impl Seen {
    /// Reads what the engine holds. A damaged row means that the frontier may lie: then it is forgotten
    /// as a whole, and the rows with it at the next turn.
    pub(super) fn open(
        id: VnodeId,
        engine: &dyn Engine,
        generation: u64,
    ) -> Result<Self, EngineError> {
        let (mut frontier, mut actors, mut damaged_rows) = (Frontier::new(), BTreeSet::new(), 0);
        for row in engine.scan(Space::Frontiers, KeyRange::prefix(&record::frontier_prefix(id))) {
            let (key, sealed) = match row {
                Ok(row) => row,
                // Whose rows lie there, nobody knows.
                Err(EngineError::Corrupt { .. }) => {
                    damaged_rows += 1;
                    break;
                }
                Err(error) => return Err(error),
            };
            let Some(actor) = record::frontier_actor(&key) else { continue };
            actors.insert(actor);
            let body = record::open(&key, &sealed).ok();
            match body.and_then(|body| decode_intervals(body).ok()) {
                Some(numbers) => frontier.restore(actor, numbers),
                None => damaged_rows += 1,
            }
        }
        let key = record::recount_key(id);
        // Where a damaged row pointed nobody knows: then from the first object on.
        let recount = match engine.get(Space::Frontiers, &key) {
            Ok(row) => row.map(|sealed| record::open(&key, &sealed).unwrap_or_default()),
            Err(EngineError::Corrupt { .. }) => Some(Bytes::new()),
            Err(error) => return Err(error),
        };
        let is_lost = match engine.get(Space::Meta, &record::lost_key(id)) {
            Ok(row) => row.is_some(),
            Err(EngineError::Corrupt { .. }) => true,
            Err(error) => return Err(error),
        };
        let is_lost = is_lost && !planted!("loss_forgotten_by_a_restart");
        let (grown, recount_moved) = (BTreeSet::new(), false);
        let forgotten = Forgotten::default();
        let mut seen = Self {
            id,
            frontier,
            generation,
            grown,
            recount,
            recount_moved,
            damaged_rows,
            is_lost,
            loss_moved: false,
            forgotten,
        };
        if damaged_rows > 0 {
            tracing::error!(?id, "the vnode's frontier is damaged; it is forgotten");
            seen.forget();
            seen.grown = actors;
        }
        Ok(seen)
    }

    /// The frontier vouches for what cannot be read. The data stays.
    pub(super) fn forget(&mut self) {
        planted!("frontier_kept_over_damage", { return });
        self.grown.extend(self.frontier.iter().map(|(actor, _)| actor));
        self.frontier = Frontier::new();
        self.generation = self.generation.wrapping_add(1);
        // What is seen again is logged again.
        self.forgotten = Forgotten::default();
        self.recount_from(Some(Bytes::new()));
        // Whoever was met by what was seen before was not.
        self.loss_moved |= self.is_lost;
    }

    /// It vouches for what was lost without a trace: nobody knows of which keys, so that nothing that the
    /// vnode does not hold may be believed to be absent.
    pub(super) fn lost(&mut self) {
        (self.is_lost, self.loss_moved) = (true, true);
        self.forget();
    }

    /// The generation in which it did, unless all other owners were met since.
    pub(super) fn loss(&self) -> Option<u64> {
        self.is_lost.then_some(self.generation)
    }

    /// All other owners were met since: whether that is still true of this generation.
    pub(super) fn regain(&mut self, generation: u64) -> bool {
        let regains = self.generation == generation && self.is_lost;
        if regains {
            (self.is_lost, self.loss_moved) = (false, true);
        }
        regains
    }

    /// It was found to vouch for what was lost before anybody noticed.
    pub(super) fn lied(&mut self) {
        tracing::error!(
            id = ?self.id,
            "the vnode has seen a value that another owner holds, and has lost it; it forgets what it \
             has seen, and catches up"
        );
        self.lost();
    }

    /// Which dots were seen.
    pub(super) fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// What it says of that to others.
    pub(super) fn told(&self) -> Told {
        let recounting = self.recount.is_some();
        Told { generation: self.generation, frontier: self.frontier.clone(), recounting }
    }

    /// The object at `stored` is in the batch, or in the store before it: sees what it shows.
    pub(super) fn see_object(&mut self, batch: &mut Batch, stored: &Bytes, object: &Object) {
        let (id, grown) = (self.id, &mut self.grown);
        self.frontier.add_object(object, |dot| {
            grown.insert(dot.actor);
            log(batch, id, stored, dot);
        });
    }

    /// The object at `stored` holds or covers these.
    pub(super) fn see(&mut self, batch: &mut Batch, stored: &Bytes, dots: &[Dot]) {
        for &dot in dots {
            if self.frontier.add(dot) {
                self.grown.insert(dot.actor);
                log(batch, self.id, stored, dot);
            }
        }
    }

    /// Sees what was not seen before, of which the objects are here.
    pub(super) fn join(&mut self, new: &Frontier) {
        self.grown.extend(new.iter().map(|(actor, _)| actor));
        self.frontier.join(new);
    }

    /// Behind which key the objects are to be recounted, if they are.
    pub(super) fn recount(&self) -> Option<&Bytes> {
        self.recount.as_ref()
    }

    /// They are to be, from behind this one on; none: no more.
    pub(super) fn recount_from(&mut self, after: Option<Bytes>) {
        (self.recount, self.recount_moved) = (after, true);
    }

    /// Stages the rows that changed since the last time. How many were found damaged at the opening, if
    /// that was not told yet; and the generation in which something is lost, if that was not.
    pub(super) fn stage(&mut self, batch: &mut Batch) -> (u64, Option<u64>) {
        for actor in std::mem::take(&mut self.grown) {
            let key = record::frontier_key(self.id, actor);
            match self.frontier.of(actor) {
                Some(seen) => {
                    let sealed = record::seal(&key, &encode_intervals(seen));
                    batch.put(Space::Frontiers, key, sealed);
                }
                None => batch.delete(Space::Frontiers, key),
            }
        }
        if std::mem::take(&mut self.recount_moved) {
            let key = record::recount_key(self.id);
            match &self.recount {
                Some(after) => {
                    let sealed = record::seal(&key, after);
                    batch.put(Space::Frontiers, key, sealed);
                }
                None => batch.delete(Space::Frontiers, key),
            }
        }
        (std::mem::take(&mut self.damaged_rows), self.stage_loss(batch))
    }

    fn stage_loss(&mut self, batch: &mut Batch) -> Option<u64> {
        if !std::mem::take(&mut self.loss_moved) {
            return None;
        }
        let key = record::lost_key(self.id);
        if !self.is_lost {
            batch.delete(Space::Meta, key);
            return None;
        }
        let sealed = record::seal(&key, &[]);
        batch.put(Space::Meta, key, sealed);
        self.loss()
    }
}

fn log(batch: &mut Batch, id: VnodeId, stored: &Bytes, dot: Dot) {
    let key = record::log_key(id, dot);
    let sealed = record::seal(&key, &record::logged_key(stored));
    batch.put(Space::Frontiers, key, sealed);
}
