//! What comparisons say about this node's own store, if it was opened again: whether its partitions may be
//! believed, and what is to be asked until they are.
//!
//! ```text
//!   each tenth of a second, while a partition lacks standing and somebody is there who could change that:
//!   compare   just these partitions with just these owners; do they remember more than is here?
//!   met       all that one has seen is seen here, at once or when it was fetched
//!   look      which partitions are believed by now
//! ```
//!
//! Who was compared in vain is asked again after twice as long, up to the pace of all rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::fetch::Fetch;
use super::{COMPARED_MAX, Exchange, PAGE_TIMEOUT, Round};
use crate::cluster::view::View;
use crate::dynamo::exchange::{Answer, Compared, Told};
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{NodeId, VnodeId};
use crate::dynamo::standing::Doubt;
use crate::error::RequestError;
use crate::standing::{Looked, Standings};

/// How often it is looked whether somebody is there who is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Who is waited for.
#[derive(Default)]
pub(super) struct Waiting {
    /// At which version of the metadata it was looked who that is.
    looked: u64,
    /// When it was; and whether something was heard since that changes it.
    looked_at: Option<Instant>,
    news: bool,
    owners: BTreeSet<NodeId>,
    /// When each of them is asked next, and how long after the time before.
    pace: BTreeMap<NodeId, (Instant, Duration)>,
    /// Whose metadata was fetched.
    fetched: BTreeSet<NodeId>,
}

impl Waiting {
    /// At which version of the metadata it was looked.
    pub(super) fn looked(&self) -> u64 {
        self.looked
    }

    /// Whether an owner is to be asked now; then, not again for a while.
    fn is_due(&mut self, owner: NodeId, now: Instant, most: Duration) -> bool {
        let (next, pause) = self.pace.get(&owner).copied().unwrap_or((now, LOOK_EVERY));
        let due = now >= next;
        if due {
            self.pace.insert(owner, (now + pause, (pause * 2).min(most)));
        }
        due
    }
}

impl Exchange {
    /// When it is to be looked again, between two rounds.
    pub(super) fn next_look(&self) -> Instant {
        let news = self.waiting.news || self.standings().is_news();
        let idle = self.waiting.owners.is_empty() && !news;
        match idle && self.standings().is_marked() {
            true => self.due,
            false => self.due.min(Instant::now() + LOOK_EVERY),
        }
    }

    /// Begins a round of what is not believed, with those who are there; false if there is nothing to do.
    pub(super) async fn begin_early(
        &mut self,
        view: &View,
        now: Instant,
    ) -> Result<bool, RequestError> {
        let news = self.waiting.news || self.standings().is_news();
        if news || self.waiting.looked != view.document().version {
            self.look().await?;
        }
        if !self.standings().is_marked() {
            let standings = self.parts.coordinator.standings().clone();
            let marked = self.parts.env.block(move || standings.mark()).await;
            marked.map_err(RequestError::from)?;
        }
        let (there, away): (Vec<NodeId>, Vec<NodeId>) =
            self.waiting.owners.iter().partition(|owner| self.is_there(**owner));
        // Who comes back is asked at once.
        self.waiting.pace.retain(|owner, _| !away.contains(owner));
        let names: Vec<String> = away.iter().map(|owner| view.name_of(*owner)).collect();
        self.standings().tell_waiting_for(&names.join(", "));
        let every = self.parts.every;
        let asked: BTreeSet<NodeId> =
            there.into_iter().filter(|owner| self.waiting.is_due(*owner, now, every)).collect();
        if asked.is_empty() {
            return Ok(false);
        }
        let mut shared: BTreeMap<NodeId, Vec<VnodeId>> = BTreeMap::new();
        for (vnode, others) in self.owned(view) {
            let due = self.standings().due(vnode, &others);
            let due = due.into_iter().filter(|owner| asked.contains(owner));
            due.for_each(|owner| shared.entry(owner).or_default().push(vnode));
        }
        let chunks = |(owner, vnodes): (NodeId, Vec<VnodeId>)| {
            let chunks = vnodes.chunks(COMPARED_MAX).map(|chunk| (owner, chunk.to_vec()));
            chunks.collect::<Vec<_>>()
        };
        let compare = shared.into_iter().flat_map(chunks).collect();
        self.round = Round { began: Some(now), early: true, compare, ..Round::default() };
        Ok(true)
    }

    /// Every vnode of this node, with its other owners that are waited for.
    fn owned(&self, view: &View) -> Vec<(VnodeId, Vec<NodeId>)> {
        let me = self.parts.coordinator.node();
        let waited = |owner: &NodeId| *owner != me && !self.parts.excused.contains(owner);
        let owned = view.vnodes().filter_map(|vnode| {
            let list = view.preference(vnode).filter(|list| list.is_owner(me))?;
            Some((vnode, list.owners().iter().copied().filter(waited).collect()))
        });
        owned.collect()
    }

    fn standings(&self) -> &Standings {
        self.parts.coordinator.standings()
    }

    /// Looks which vnodes are believed, by the newest metadata that is known, and who is waited for.
    async fn look(&mut self) -> Result<(), RequestError> {
        let Some(view) = self.parts.coordinator.cluster().view() else { return Ok(()) };
        let (owned, standings) = (self.owned(&view), self.parts.coordinator.standings().clone());
        (self.waiting.looked, self.waiting.news) = (view.document().version, true);
        let looked = self.parts.env.block(move || standings.look(&owned)).await;
        let Looked { waits, regained } = looked.map_err(RequestError::from)?;
        self.waiting.owners = waits;
        for (vnode, generation) in regained {
            let deadline = Instant::now() + PAGE_TIMEOUT;
            self.parts.coordinator.shards().regain(vnode, generation, deadline).await?;
        }
        (self.waiting.looked_at, self.waiting.news) = (Some(Instant::now()), false);
        Ok(())
    }

    /// What a store lost may have been of a namespace that it lost, too: asks an owner for the newest
    /// metadata before what it has seen is all that it could tell.
    pub(super) async fn learn_of_namespaces(&mut self, owner: NodeId) -> Result<(), RequestError> {
        let told = self.standings().catching_up().borrow().as_ref().map(|told| told.doubt);
        let lost = matches!(told, Some(Doubt::LostTail | Doubt::RolledBack));
        if lost && !self.waiting.fetched.contains(&owner) {
            self.parts.coordinator.cluster().fetch_from(owner).await?;
            self.waiting.fetched.insert(owner);
        }
        Ok(())
    }

    /// Whether an owner has yet to say what it remembers of one of these.
    pub(super) fn is_to_recall(&self, owner: NodeId, of: &[(VnodeId, &Frontier)]) -> bool {
        let standings = self.standings();
        of.iter().any(|(vnode, _)| !standings.is_remembered(*vnode, owner))
    }

    /// An owner answered, which was told what this node had seen: of these vnodes, that.
    pub(super) async fn believe(
        &mut self,
        owner: NodeId,
        recalled: bool,
        ours: &[(VnodeId, Told)],
        answers: &[Answer],
    ) -> Result<(), RequestError> {
        let said = ours.iter().zip(answers).filter(|(_, a)| a.compared != Compared::Unsaid);
        // Whoever lost something forgot what it had seen, which others remember.
        let is_more = |((vnode, ours), answer): &(&(VnodeId, Told), &Answer)| {
            let remembered = answer.remembered.as_ref();
            let more = remembered.is_some_and(|more| !more.minus(&ours.frontier).is_empty());
            more && !self.standings().is_lost(*vnode)
        };
        // What a store acknowledged that was lost as a whole is not looked for here.
        let new = self.standings().is_new() && self.standings().is_rebuilding();
        let rolled_back = !new && said.clone().any(|said| is_more(&said));
        if rolled_back {
            let standings = self.parts.coordinator.standings().clone();
            let noted = self.parts.env.block(move || standings.rolled_back()).await;
            noted.map_err(RequestError::from)?;
        }
        let mut news = rolled_back;
        for ((vnode, ours), answer) in said {
            let standings = self.standings();
            let all = match &answer.compared {
                Compared::Differs(told) => is_all(told, ours),
                Compared::Same => true,
                Compared::Unsaid => false,
            };
            let first = recalled && !standings.is_remembered(*vnode, owner);
            if first {
                standings.on_remembered(*vnode, owner);
            }
            // What a copy lost may have been of a namespace that it lost, too, which is looked for first.
            let met = all && !rolled_back;
            if met {
                standings.on_met(*vnode, owner, ours.generation);
            }
            news |= (first || met) && !standings.believes(*vnode);
        }
        if news {
            self.waiting.pace.remove(&owner);
            self.look().await?;
        }
        Ok(())
    }

    /// All was fetched that could be: whether that is all that the owner had seen.
    pub(super) async fn fetched(&mut self, fetch: &Fetch) -> Result<(), RequestError> {
        if self.standings().believes(fetch.vnode) {
            return Ok(());
        }
        let deadline = Instant::now() + PAGE_TIMEOUT;
        let ours = self.parts.coordinator.shards().told_of(fetch.vnode, deadline).await?;
        if is_all(&fetch.told, &ours) {
            self.standings().on_met(fetch.vnode, fetch.owner, ours.generation);
            self.waiting.pace.remove(&fetch.owner);
            self.waiting.news = true;
        }
        // Each look is at all partitions.
        let lately = self.waiting.looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY);
        if self.waiting.news && (!lately || self.round.behind.is_empty()) {
            self.look().await?;
        }
        Ok(())
    }
}

/// Whether all that an owner holds is seen here, by what either told.
fn is_all(theirs: &Told, ours: &Told) -> bool {
    !theirs.recounting && theirs.frontier.minus(&ours.frontier).is_empty()
}
