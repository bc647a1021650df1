//! One owner's writes that this node has not seen, fetched: by their keys, or with the whole partition.

use tokio::time::Instant;

use crate::dynamo::clock::Dot;
use crate::dynamo::exchange::{CatchUp, KeyDots, Next, Told};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{NodeId, VnodeId};
use crate::error::RequestError;
use crate::shard::Sight;
use crate::tasks::pull::{PAGE_TIMEOUT, Pull, Pulled, Reach};
use crate::transport::{Reply, Request};

/// Keys whose objects are looked at, or asked for, at once: each may be large.
const KEYS_MAX: usize = 32;

/// What is fetched from one owner of one partition.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) vnode: VnodeId,
    pub(super) owner: NodeId,
    /// What the owner said that it had seen.
    pub(super) told: Told,
    catch_up: CatchUp,
    /// Of which generation this node's own vnode was when it began.
    generation: u64,
    /// All that the owner holds, since its log does not say what is missing.
    whole: Option<Pull>,
    /// Why the first of those could not be seen that were set aside.
    failed: Option<RequestError>,
    /// How many steps failed, one after the other.
    pub(super) failures: u32,
}

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fetched {
    /// So many objects, of so many bytes.
    Some { objects: u64, bytes: u64 },
    /// Nothing can be fetched but the whole partition: [`Fetch::go_through`].
    Unlogged,
    /// Nothing is left.
    All,
}

impl Fetch {
    /// What an owner had seen when it told that, and this node has not.
    pub(super) fn new((vnode, owner): (VnodeId, NodeId), told: Told, ours: &Told) -> Self {
        let catch_up = CatchUp::new(&told.frontier, &ours.frontier);
        let generation = ours.generation;
        Self { vnode, owner, told, catch_up, generation, whole: None, failed: None, failures: 0 }
    }

    /// How many writes are left.
    pub(super) fn left(&self) -> u64 {
        self.catch_up.left()
    }

    /// Goes through all that the owner holds, from now on.
    pub(super) fn go_through(&mut self) {
        self.whole = Some(Pull::new(self.vnode, self.owner));
    }

    /// One message, or a few, with what follows from the answers. After an error the same step may be
    /// tried again; once all is tried, the error of what could not be seen.
    pub(super) async fn step(&mut self, reach: &Reach<'_>) -> Result<Fetched, RequestError> {
        if let Some(pull) = &mut self.whole {
            return Ok(match pull.step(reach).await? {
                Pulled::All => Fetched::All,
                Pulled::Page { objects, bytes } => Fetched::Some { objects, bytes },
            });
        }
        match self.catch_up.next() {
            Next::Nothing => self.failed.take().map_or(Ok(Fetched::All), Err),
            Next::Whole => Ok(Fetched::Unlogged),
            Next::Ask(dots) => self.by_their_keys(dots, reach).await,
        }
    }

    async fn by_their_keys(
        &mut self,
        dots: Frontier,
        reach: &Reach<'_>,
    ) -> Result<Fetched, RequestError> {
        let what = "keys of writes";
        let request = Request::Keys(self.vnode, dots);
        let Reply::Keys(keys) = reach.ask(self.owner, request, what).await? else {
            return Err(reach.failed(self.owner, what, "the answer made no sense"));
        };
        let told: Vec<Dot> = keys.iter().flat_map(|key| key.dots.iter().copied()).collect();
        let (mut sights, mut dropped) = (Vec::new(), Vec::new());
        for key in keys {
            let dots = key.dots.clone();
            match self.sight(key, reach) {
                Ok(Some(sight)) => sights.push(sight),
                Ok(None) => dropped.extend(dots),
                Err(error) => self.set_aside(&dots, error),
            }
        }
        let (mut objects, mut bytes) = (0, 0);
        for sights in sights.chunks(KEYS_MAX) {
            let mut left = self.see(sights.to_vec(), reach).await?;
            while !left.is_empty() {
                let addresses: Vec<_> = left.iter().map(|sight| sight.address.clone()).collect();
                let held = reach.read(self.owner, &addresses).await?;
                let rest = left.split_off(held.len());
                (objects, bytes) = self.see_fetched((left, held), (objects, bytes), reach).await?;
                left = rest;
            }
        }
        if !dropped.is_empty() {
            // Nothing is held of a namespace that was dropped.
            let seen = (dropped.into_iter().collect(), self.generation);
            reach.shards().join(self.vnode, seen, Instant::now() + PAGE_TIMEOUT).await?;
        }
        self.catch_up.on_seen(&told);
        Ok(Fetched::Some { objects, bytes })
    }

    fn set_aside(&mut self, dots: &[Dot], error: RequestError) {
        self.catch_up.set_aside(dots);
        self.failed.get_or_insert(error);
    }

    /// Where a key is; nowhere, if its namespace was dropped.
    fn sight(
        &self,
        KeyDots { namespace, key, dots }: KeyDots,
        reach: &Reach<'_>,
    ) -> Result<Option<Sight>, RequestError> {
        let address = reach.address((self.vnode, self.owner), namespace, key)?;
        Ok(address.map(|address| Sight { address, object: None, dots }))
    }

    /// Merges what was fetched; what does not cover the writes that it should was lost there meanwhile.
    /// How many objects there are by then, and of how many bytes.
    async fn see_fetched(
        &mut self,
        (sights, held): (Vec<Sight>, Vec<Result<EncodedObject, RequestError>>),
        (mut objects, mut bytes): (u64, u64),
        reach: &Reach<'_>,
    ) -> Result<(u64, u64), RequestError> {
        let mut fetched = Vec::with_capacity(sights.len());
        for (sight, held) in sights.into_iter().zip(held) {
            match held {
                Ok(object) => {
                    (objects, bytes) = (objects + 1, bytes + object.0.len() as u64);
                    fetched.push(Sight { object: Some(object), ..sight });
                }
                Err(error) => self.set_aside(&sight.dots, error),
            }
        }
        for Sight { dots, .. } in self.see(fetched, reach).await? {
            let lost = "it lost what it said that it had seen";
            self.set_aside(&dots, reach.failed(self.owner, "objects", lost));
        }
        Ok((objects, bytes))
    }

    /// Sees writes of keys of one partition; those whose objects here do not cover them, without what
    /// was merged for them.
    async fn see(
        &mut self,
        sights: Vec<Sight>,
        reach: &Reach<'_>,
    ) -> Result<Vec<Sight>, RequestError> {
        if sights.is_empty() {
            return Ok(Vec::new());
        }
        let bare = sights.iter().map(|sight| Sight { object: None, ..sight.clone() });
        let bare: Vec<Sight> = bare.collect();
        let seen = reach.shards().see(sights, Instant::now() + PAGE_TIMEOUT).await;
        let mut uncovered = Vec::new();
        for (sight, seen) in bare.into_iter().zip(seen) {
            match seen {
                Ok(true) => {}
                Ok(false) => uncovered.push(sight),
                Err(error @ RequestError::Damaged { .. }) => {
                    reach.mend(&sight.address);
                    self.set_aside(&sight.dots, error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(uncovered)
    }
}
