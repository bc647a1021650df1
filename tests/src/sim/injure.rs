//! The faults that a simulated cluster can be given, beside those of stories.

use std::sync::Arc;

use anyhow::{Result, bail};
use quorate_node::cluster::view::View;
use quorate_node::dynamo::metadata::document::StoreId;
use quorate_node::liveness::Health;
use quorate_node::replica::Ended;
use quorate_node::standing;
use quorate_node::storage::memory::MemoryEngine;
use quorate_node::storage::{Engine as _, KeyRange, Space, record};
use quorate_node::transport::memory::Faults;
use rand_chacha::ChaCha8Rng;

use super::{Running, SimCluster, Wrong, node};

impl SimCluster {
    pub(super) fn nodes(&self) -> impl Iterator<Item = usize> + use<> {
        0..self.running.keys().chain(self.stores.keys()).max().map_or(0, |last| last + 1)
    }

    /// Swallows what one node sends to another, without their noticing.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.network.cut(node(from), node(to));
    }

    /// Lets one node hear another again.
    pub fn mend_one_way(&self, from: usize, to: usize) {
        self.network.mend(node(from), node(to));
    }

    /// Starts a node that does not run; false if it does.
    pub fn start_again(&mut self, index: usize) -> Result<bool> {
        if self.running.contains_key(&index) {
            return Ok(false);
        }
        self.restart(index).map(|()| true)
    }

    /// Lets messages of one node to another take so much longer; 0: as long as others.
    pub fn slow(&self, from: usize, to: usize, by_ms: u64) {
        let slow = Faults { latency_ms: by_ms / 2..=by_ms, ..self.calm() };
        self.network.set_link(node(from), node(to), (by_ms > 0).then_some(slow));
    }

    /// Loses, doubles and delays so many messages of a thousand.
    pub fn weather(&self, of_1000: u32) {
        let share = f64::from(of_1000) / 1000.0;
        let bad = Faults {
            latency_ms: 1..=40,
            loss: share,
            duplication: share,
            slow: share,
            ..self.calm()
        };
        self.network.set_faults(if of_1000 == 0 { self.calm() } else { bad });
    }

    /// A good network.
    pub(super) fn calm(&self) -> Faults {
        Faults { notice: self.size.notice, ..Faults::default() }
    }

    /// Cuts the power of a machine, whether its node runs or not: of what was not synced a prefix
    /// stays.
    pub fn cut_power(&mut self, index: usize, rng: &mut ChaCha8Rng) {
        self.kill(index);
        *self.boots.entry(index).or_default() += 1;
        if let Some(store) = self.stores.get_mut(&index) {
            *store = Arc::new(store.crash(rng));
        }
    }

    /// Lets a process stand still.
    pub fn pause(&mut self, index: usize) {
        self.pauses.entry(index).or_default().set(true);
        self.network.pause(node(index));
    }

    /// Lets it go on.
    pub fn resume(&mut self, index: usize) {
        self.pauses.entry(index).or_default().set(false);
        self.network.resume(node(index));
    }

    /// Lets a wall clock gain so many milliseconds a second.
    pub fn set_drift(&mut self, index: usize, gains_ms_per_s: i64) {
        let drifts = |wrong: Wrong| Wrong { ahead_ms: wrong.ahead_ms(), gains_ms_per_s, ..wrong };
        self.clock(index).set(drifts);
    }

    /// What the wall clock of a node shows, in milliseconds since the Unix epoch.
    pub fn node_ms(&mut self, index: usize) -> u64 {
        use quorate_node::env::Clock as _;
        self.clock(index).now_ms()
    }

    /// Ends a node, and starts it with an empty data directory: it has a new store id, and hears of
    /// the cluster from the others, and that the cluster was there before its store.
    pub fn wipe(&mut self, index: usize) -> Result<()> {
        self.kill(index);
        self.store_ids.insert(index, StoreId(1_000 + self.openings));
        let engine = MemoryEngine::new();
        standing::mark(&engine)?;
        self.stores.insert(index, Arc::new(engine));
        self.restart(index)
    }

    /// Copies the data directory of a node; false if there is none that can be read.
    pub fn copy(&mut self, index: usize) -> Result<bool> {
        let Ok(copy) = self.engine(index)?.copy() else { return Ok(false) };
        self.copies.insert(index, (Arc::new(copy), self.store_id(index)));
        Ok(true)
    }

    /// Ends a node, and starts it with the copy of its data directory; false if there is none.
    pub fn roll_back(&mut self, index: usize) -> Result<bool> {
        let Some((copy, store)) = self.copies.remove(&index) else { return Ok(false) };
        self.kill(index);
        self.store_ids.insert(index, store);
        self.stores.insert(index, copy);
        self.restart(index)?;
        Ok(true)
    }

    /// Starts a second process with the copy of a node's data directory; false if there is no copy,
    /// or if there are two processes already.
    pub fn start_twin(&mut self, index: usize) -> Result<bool> {
        if self.twins.contains_key(&index) {
            return Ok(false);
        }
        let Some((copy, store)) = self.copies.remove(&index) else { return Ok(false) };
        let twin = self.begin(index, copy, store)?;
        self.network.attach_beside(&twin.peers, twin.replica.handler());
        self.twins.insert(index, twin);
        Ok(true)
    }

    /// Whether a node is two processes.
    pub fn is_double(&self, index: usize) -> bool {
        self.twins.contains_key(&index)
    }

    /// Ends the second process of a node; false if there is none.
    pub fn end_twin(&mut self, index: usize) -> bool {
        let Some(twin) = self.twins.remove(&index) else { return false };
        self.network.detach(&twin.peers);
        twin.stop.cancel();
        // Its handle ends.
        drop(twin.engine.kill());
        true
    }

    /// Flips a bit of a record of a node, the `pick`-th; which key it is of. None if there is no such
    /// object or hint: no record, one of a frontier or an operation, or one of a key whose record is damaged
    /// elsewhere, which is left alone, since what all owners lost is lost.
    pub fn rot(&self, view: &View, index: usize, pick: u64) -> Result<Option<(String, String)>> {
        let Ok(engine) = self.engine(index) else { return Ok(None) };
        let sloppy = view.document().namespaces.iter().any(|namespace| namespace.sloppy);
        let space = match pick % 10 {
            0 => Space::Frontiers,
            1 | 2 => Space::Operations,
            3 if sloppy => Space::Hints,
            _ => Space::Objects,
        };
        let rows: Vec<_> = engine.scan(space, KeyRange::all()).filter_map(Result::ok).collect();
        if rows.is_empty() {
            return Ok(None);
        }
        let (stored, _) = &rows[pick as usize % rows.len()];
        let is_object = space == Space::Objects || space == Space::Hints && stored[0] > 0;
        if !is_object {
            engine.rot(space, stored)?;
            return Ok(None);
        }
        let Some((_, id, key)) = record::split_object_key(stored) else { return Ok(None) };
        let Some(namespace) = view.namespace(id) else { return Ok(None) };
        for other in self.nodes().filter(|&other| other != index) {
            if self.is_damaged(other, &namespace.name, &key)? {
                return Ok(None);
            }
        }
        let rotten = engine.rot(space, stored)?;
        let key = String::from_utf8_lossy(key.as_bytes()).into_owned();
        Ok(rotten.then(|| (namespace.name.clone(), key)))
    }

    /// Lets the next sync of a node's disk fail.
    pub fn fail_sync(&self, index: usize) {
        if let Some(running) = self.running.get(&index) {
            running.engine.fail_next_sync();
        }
    }

    /// Fills a node's disk, or makes room on it; then a node that met it opens its store again.
    pub fn set_disk_full(&mut self, index: usize, full: bool) -> Result<()> {
        self.engine(index)?.set_full(full);
        let refuses = |running: &Running| running.replica.disk().refusal().is_some();
        if !full && self.running.get(&index).is_some_and(refuses) {
            self.kill(index);
            self.restart(index)?;
        }
        Ok(())
    }

    /// Lets the next batch of a node find too little room, as sled's adapter finds it: the engine is
    /// well, and the node takes no writes until there is enough.
    pub fn squeeze(&self, index: usize) -> Result<()> {
        self.engine(index)?.fill_next_apply(true);
        Ok(())
    }

    /// Lets all batches of a node find enough room, and the node see it.
    pub fn relieve(&self, index: usize) -> Result<()> {
        self.engine(index)?.fill_next_apply(false);
        if let Some(running) = self.running.get(&index) {
            running.replica.disk().on_free(u64::MAX, 0);
        }
        Ok(())
    }

    /// Starts again what ended by itself to open its store anew, as its supervisor does. A node that
    /// ended for another reason, as a panic, is a failure of the run.
    pub fn reopen_ended(&mut self) -> Result<()> {
        let ended = |(&index, running): (&usize, &Running)| Some((index, running.replica.ended()?));
        let ended: Vec<_> = self.running.iter().filter_map(ended).collect();
        for (index, ended) in ended {
            if let Ended::Failed(reason) = ended {
                bail!("node {index} ended: {reason}");
            }
            self.kill(index);
            self.restart(index)?;
        }
        Ok(())
    }

    /// Ends all faults.
    pub fn set_right(&mut self) -> Result<()> {
        self.network.mend_all();
        self.weather(0);
        for index in self.nodes() {
            self.nodes().for_each(|other| self.slow(index, other, 0));
            self.resume(index);
            self.set_drift(index, 0);
            self.set_clock(index, 0);
            self.end_twin(index);
            self.relieve(index)?;
            self.set_disk_full(index, false)?;
            self.start_again(index)?;
        }
        Ok(())
    }

    /// A node, and another one that it does not see as alive, and how; none if there is none.
    pub fn seen_otherwise(&self) -> Option<(usize, usize, Option<Health>)> {
        let seen = |(one, other): (usize, usize)| {
            let liveness = self.running.get(&one)?.replica.coordinator().liveness();
            let health = liveness.of(node(other)).and_then(|sighting| sighting.health);
            (health != Some(Health::Alive)).then_some((one, other, health))
        };
        self.nodes().flat_map(|one| self.nodes().map(move |other| (one, other))).find_map(seen)
    }

    /// Whether a node runs, its store is whole, and it is believed.
    pub fn is_whole(&self, index: usize) -> bool {
        let runs = self.running.contains_key(&index);
        runs && self.rebuilding(index).is_none() && self.catching_up(index).is_none()
    }
}
