//! One owner's writes that this node has not seen, fetched: by their keys, or with the whole partition.

use tokio::time::Instant;

use crate::dynamo::clock::Dot;
use crate::dynamo::exchange::{CatchUp, KeyDots, Next};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{NodeId, VnodeId};
use crate::error::RequestError;
use crate::shard::Sight;
use crate::tasks::pull::{PAGE_TIMEOUT, Pull, Pulled, Reach};
use crate::transport::{Held, Read, Reply, Request};
use crate::vnode::Address;

/// Keys whose objects are looked at, or asked for, at once: each may be large.
const KEYS_MAX: usize = 32;

/// What is fetched from one owner of one partition.
#[derive(Debug)]
pub(super) struct Fetch {
    vnode: VnodeId,
    owner: NodeId,
    catch_up: CatchUp,
    /// All that the owner holds, since its log does not say what is missing.
    whole: Option<Pull>,
}

/// What a step came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fetched {
    /// So many objects, of so many bytes; `whole`: all of the partition is fetched from now on.
    Some { objects: u64, bytes: u64, whole: bool },
    /// Nothing is left.
    All,
}

impl Fetch {
    /// What an owner had seen when it had seen `theirs`, and this node has not.
    pub(super) fn new(vnode: VnodeId, owner: NodeId, theirs: &Frontier, ours: &Frontier) -> Self {
        Self { vnode, owner, catch_up: CatchUp::new(theirs, ours), whole: None }
    }

    /// How many writes are left.
    pub(super) fn left(&self) -> u64 {
        self.catch_up.left()
    }

    /// One message, or a few, with what follows from the answers.
    pub(super) async fn step(&mut self, reach: &Reach<'_>) -> Result<Fetched, RequestError> {
        if let Some(pull) = &mut self.whole {
            return Ok(match pull.step(reach).await? {
                Pulled::All => Fetched::All,
                Pulled::Page { objects, bytes } => Fetched::Some { objects, bytes, whole: false },
            });
        }
        match self.catch_up.next() {
            Next::Nothing => Ok(Fetched::All),
            Next::Whole => {
                self.whole = Some(Pull::new(self.vnode, self.owner));
                Ok(Fetched::Some { objects: 0, bytes: 0, whole: true })
            }
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
            match self.sight(key, reach)? {
                Ok(sight) => sights.push(sight),
                Err(dots) => dropped.extend(dots),
            }
        }
        let (mut objects, mut bytes) = (0, 0);
        for sights in sights.chunks(KEYS_MAX) {
            let sights = see(sights, reach).await?;
            let held = self.read(&sights, reach).await?;
            objects += held.len() as u64;
            bytes += held.iter().map(|object| object.0.len() as u64).sum::<u64>();
            self.see_fetched(sights, held, reach).await?;
        }
        // Nothing is held of a namespace that was dropped.
        let dropped: Frontier = dropped.into_iter().collect();
        if !dropped.is_empty() {
            reach.shards().join(self.vnode, dropped, Instant::now() + PAGE_TIMEOUT).await?;
        }
        self.catch_up.on_seen(&told);
        Ok(Fetched::Some { objects, bytes, whole: false })
    }

    /// Where a key is; or its dots, if its namespace was dropped.
    fn sight(
        &self,
        KeyDots { namespace, key, dots }: KeyDots,
        reach: &Reach<'_>,
    ) -> Result<Result<Sight, Vec<Dot>>, RequestError> {
        let document = reach.view.document();
        let Some(known) = reach.view.namespace(namespace) else {
            if namespace.0 < document.next_namespace {
                return Ok(Err(dots));
            }
            let reason = format!("namespace {} is not known here yet", namespace.0);
            return Err(RequestError::not_ready(reason));
        };
        if reach.view.vnode(known, &key) != self.vnode {
            let wrong = "it names a key of another partition";
            return Err(reach.failed(self.owner, "keys of writes", wrong));
        }
        let address = Address { vnode: self.vnode, namespace, key, conflict: known.conflict };
        Ok(Ok(Sight { address, object: None, dots }))
    }

    /// What the owner holds of these keys.
    async fn read(
        &self,
        sights: &[Sight],
        reach: &Reach<'_>,
    ) -> Result<Vec<EncodedObject>, RequestError> {
        let what = "objects";
        let mut objects = Vec::with_capacity(sights.len());
        while objects.len() < sights.len() {
            let reads = sights[objects.len()..].iter().map(|Sight { address, .. }| Read {
                namespace: address.namespace,
                key: address.key.clone(),
                digest: false,
                hint: false,
            });
            let request = Request::ReadBatch(reads.collect());
            let Reply::HeldBatch(held) = reach.ask(self.owner, request, what).await? else {
                return Err(reach.failed(self.owner, what, "the answer made no sense"));
            };
            if held.is_empty() || held.len() > sights.len() - objects.len() {
                return Err(reach.failed(self.owner, what, "not as many as asked for"));
            }
            for held in held {
                match held {
                    Ok((Held::Object(object), _)) => objects.push(object),
                    Ok(_) => return Err(reach.failed(self.owner, what, "a digest came")),
                    Err(error) => return Err(reach.failed(self.owner, what, error)),
                }
            }
        }
        Ok(objects)
    }

    /// Merges them; what does not cover the writes that it should was lost there meanwhile.
    async fn see_fetched(
        &self,
        sights: Vec<Sight>,
        objects: Vec<EncodedObject>,
        reach: &Reach<'_>,
    ) -> Result<(), RequestError> {
        let with = |(sight, object)| Sight { object: Some(object), ..sight };
        let fetched: Vec<Sight> = sights.into_iter().zip(objects).map(with).collect();
        if see(&fetched, reach).await?.is_empty() {
            return Ok(());
        }
        let lost = "it lost what it said that it had seen";
        Err(reach.failed(self.owner, "objects", lost))
    }
}

/// Sees writes of keys of one partition; those whose objects here do not cover them, without what was
/// merged for them.
async fn see(sights: &[Sight], reach: &Reach<'_>) -> Result<Vec<Sight>, RequestError> {
    if sights.is_empty() {
        return Ok(Vec::new());
    }
    let seen = reach.shards().see(sights.to_vec(), Instant::now() + PAGE_TIMEOUT).await;
    let mut uncovered = Vec::new();
    for (sight, seen) in sights.iter().zip(seen) {
        if !seen.map_err(|error| reach.mending(&sight.address, error))? {
            uncovered.push(Sight { object: None, ..sight.clone() });
        }
    }
    Ok(uncovered)
}
