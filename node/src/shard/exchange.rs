//! A shard's part in exchanges between owners: what its vnodes have seen, of which keys dots are, what
//! another owner told, and what is to be counted anew or forgotten.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::sweep::{SWEEP_BATCH, SWEEP_BYTES};
use super::{Answer, Job, Shard, Shards, Staging, gone, shard_of};
use crate::dynamo::arrival::Way;
use crate::dynamo::clock::{Actor, Dot};
use crate::dynamo::exchange::{KeyDots, Told, fingerprint};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{KeyHash, VnodeId};
use crate::dynamo::merkle::{Sum, Summary};
use crate::error::RequestError;
use crate::storage::record;
use crate::storage::{Batch, KeyRange, Space};
use crate::vnode::log;
use crate::vnode::{Address, Merge};

/// Writes of a key that another owner has seen, and its object if that was asked for.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Where the key is.
    pub address: Address,
    /// What the other one holds; none: what is here may do.
    pub object: Option<EncodedObject>,
    /// The writes.
    pub dots: Vec<Dot>,
}

/// What a vnode says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Account {
    told: Told,
    /// Whether it has yet to recount its objects.
    recounts: bool,
    /// The root of its tree; none while that is not ready.
    root: Option<Sum>,
}

/// Vnodes of one job: each may have to be read from the disk first.
const ACCOUNTS_MAX: usize = 64;

pub(super) enum ExchangeJob {
    Account {
        vnodes: Vec<VnodeId>,
        answer: oneshot::Sender<Vec<Result<Account, RequestError>>>,
    },
    Keys {
        vnode: VnodeId,
        dots: Frontier,
        answer: oneshot::Sender<Result<Vec<KeyDots>, RequestError>>,
    },
    See {
        sights: Vec<Sight>,
        answer: oneshot::Sender<Vec<Result<bool, RequestError>>>,
    },
    Join {
        vnode: VnodeId,
        frontier: Frontier,
        generation: u64,
        answer: oneshot::Sender<Result<(), RequestError>>,
    },
    Recount {
        vnode: VnodeId,
        answer: oneshot::Sender<Result<bool, RequestError>>,
    },
    Regain {
        vnode: VnodeId,
        generation: u64,
        answer: oneshot::Sender<Result<(), RequestError>>,
    },
    Forget {
        vnode: VnodeId,
        which: Forgettable,
        answer: oneshot::Sender<Result<Option<Forgettable>, RequestError>>,
    },
}

/// What a dot log need not keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Forgettable {
    /// What every owner has on disk: per actor, up to this number.
    Common(BTreeMap<Actor, u64>),
    /// What is too much, once that is known.
    Excess(Option<usize>),
}

impl ExchangeJob {
    /// How many requests it is: objects that are merged or looked at. The rest is looked up in memory, or
    /// is little, and is done between turns.
    pub(super) fn requests(&self) -> usize {
        match self {
            Self::See { sights, .. } => sights.len(),
            _ => 0,
        }
    }

    /// Answers that it was not done; a requester that went away does not matter.
    pub(super) fn refuse(self, error: RequestError) {
        match self {
            Self::Account { vnodes, answer } => drop(answer.send(vec![Err(error); vnodes.len()])),
            Self::Keys { answer, .. } => drop(answer.send(Err(error))),
            Self::See { sights, answer } => drop(answer.send(vec![Err(error); sights.len()])),
            Self::Join { answer, .. } => drop(answer.send(Err(error))),
            Self::Recount { answer, .. } => drop(answer.send(Err(error))),
            Self::Regain { answer, .. } => drop(answer.send(Err(error))),
            Self::Forget { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

impl Staging<'_> {
    pub(super) fn stage_exchange(&mut self, job: ExchangeJob, alone: &mut Vec<Job>) {
        match job {
            ExchangeJob::See { sights, answer } => {
                let seen = sights.into_iter().map(|sight| self.stage_sight(sight)).collect();
                self.answers.push(Answer::Seen(answer, seen));
            }
            ExchangeJob::Join { vnode, frontier, generation, answer } => {
                self.touched.insert(vnode);
                match self.context.vnode(self.vnodes, self.turn.rng, vnode) {
                    Ok(vnode) => match vnode.join(&frontier, generation) {
                        true => self.answers.push(Answer::Merged(answer)),
                        false => drop(answer.send(Err(RequestError::not_ready(
                            "this node lost an object meanwhile, and asks for all of them again",
                        )))),
                    },
                    Err(error) => drop(answer.send(Err(error.into()))),
                }
            }
            other => alone.push(Job::Exchange(other)),
        }
    }

    fn stage_sight(&mut self, sight: Sight) -> Result<bool, RequestError> {
        let Sight { address, object, dots } = sight;
        if let Some(object) = object {
            self.stage_merge(Merge::repair(Way::Exchange, address.clone(), object))?;
        }
        self.touched.insert(address.vnode);
        let vnode = self.context.vnode(self.vnodes, self.turn.rng, address.vnode)?;
        vnode.see(&mut self.turn, &address, &dots)
    }
}

impl Shard {
    pub(super) fn run_exchange(&mut self, job: ExchangeJob) {
        match job {
            ExchangeJob::Account { vnodes, answer } => {
                drop(answer.send(vnodes.into_iter().map(|id| self.account(id)).collect()));
            }
            ExchangeJob::Keys { vnode, dots, answer } => {
                drop(answer.send(self.keys_of(vnode, &dots)));
            }
            ExchangeJob::Recount { vnode, answer } => drop(answer.send(self.recount(vnode))),
            ExchangeJob::Regain { vnode, generation, answer } => {
                drop(answer.send(self.regain(vnode, generation)));
            }
            ExchangeJob::Forget { vnode, which, answer } => {
                drop(answer.send(self.forget_dots(vnode, which)));
            }
            ExchangeJob::See { .. } | ExchangeJob::Join { .. } => unreachable!("they are staged"),
        }
    }

    fn account(&mut self, id: VnodeId) -> Result<Account, RequestError> {
        let vnode = self.vnode_of(id)?;
        let recounts = vnode.recount().is_some() && !planted!("recount_left_out");
        Ok(Account { told: vnode.told(), recounts, root: vnode.root() })
    }

    fn keys_of(&self, id: VnodeId, dots: &Frontier) -> Result<Vec<KeyDots>, RequestError> {
        let logged = log::keys_of(&*self.context.engine, id, dots)?;
        if logged.damaged > 0 {
            self.context.observer.corrupt(Space::Frontiers, logged.damaged);
        }
        Ok(logged.keys)
    }

    /// What is left to be forgotten then.
    fn forget_dots(
        &mut self,
        id: VnodeId,
        which: Forgettable,
    ) -> Result<Option<Forgettable>, RequestError> {
        let engine = self.context.engine.clone();
        let bases = match which {
            Forgettable::Common(bases) => bases,
            Forgettable::Excess(None) => {
                let excess = log::excess(&*engine, id)?;
                return Ok((excess > 0).then_some(Forgettable::Excess(Some(excess))));
            }
            Forgettable::Excess(Some(excess)) => {
                let (batch, bytes) = log::forget_bytes(&*engine, id, excess)?;
                self.apply_alone(batch)?;
                let left = excess.saturating_sub(bytes);
                let more = left > 0 && bytes > 0;
                return Ok(more.then_some(Forgettable::Excess(Some(left))));
            }
        };
        let (batch, forgotten) = self.vnode_of(id)?.forgotten().next(&*engine, id, &bases)?;
        let more = !batch.is_empty();
        if more {
            self.apply_alone(batch)?;
        }
        self.vnode_of(id)?.forgotten().advance(forgotten);
        Ok(more.then_some(Forgettable::Common(bases)))
    }

    /// A vnode that lost something has met every other owner since, unless it is of another generation by
    /// now.
    fn regain(&mut self, id: VnodeId, generation: u64) -> Result<(), RequestError> {
        if self.vnode_of(id)?.regain(generation) {
            self.stage_alone(id, Batch::new())?;
            self.context.standings.on_regained(id, generation);
        }
        Ok(())
    }

    /// Some of the objects of a vnode that doubted its frontier; whether more are to follow.
    fn recount(&mut self, id: VnodeId) -> Result<bool, RequestError> {
        let Some(after) = self.vnode_of(id)?.recount().cloned() else { return Ok(false) };
        let range = KeyRange::prefix(&record::vnode_prefix(id)).after(after.clone());
        let (engine, mut rows, mut bytes) = (self.context.engine.clone(), Vec::new(), 0);
        let (mut last, mut damaged) = (None, Vec::new());
        for row in engine.scan(Space::Objects, range) {
            if rows.len() + damaged.len() == SWEEP_BATCH || bytes >= SWEEP_BYTES {
                break;
            }
            let (stored, sealed) = row.map_err(RequestError::from)?;
            bytes += sealed.len();
            last = Some(stored.clone());
            let body = record::open(&stored, &sealed).ok().map(EncodedObject);
            match body.and_then(|object| object.decode(object.rule()?).ok()) {
                Some(object) => rows.push((stored, object)),
                None => {
                    let key = record::split_object_key(&stored);
                    let hash = key.map(|(_, namespace, key)| key.hash(namespace));
                    damaged.push((stored, hash.unwrap_or(KeyHash(0))));
                }
            }
        }
        if !self.vnode_of(id)?.has_much_damage() {
            self.distrust(id, &damaged)?;
        }
        let vnode = self.vnode_of(id)?;
        if vnode.recount() != Some(&after) {
            // What was found damaged for the first time begins it anew.
            return Ok(true);
        }
        let mut batch = Batch::new();
        for (stored, object) in &rows {
            vnode.recount_object(&mut batch, stored, object);
        }
        let more = last.is_some();
        vnode.recounted(last);
        self.stage_alone(id, batch)?;
        Ok(more)
    }
}

impl Shards {
    /// What vnodes have seen: of each in its order, or why it cannot be told.
    pub async fn told(
        &self,
        vnodes: &[VnodeId],
        deadline: Instant,
    ) -> Result<Vec<Result<Told, RequestError>>, RequestError> {
        let accounts = self.accounts(vnodes, deadline).await?.into_iter();
        Ok(accounts.map(|account| Ok(account?.told)).collect())
    }

    /// What vnodes say of all that they have seen and hold: of each in its order; none if it cannot be
    /// told, or its tree is not ready.
    pub async fn summaries(
        &self,
        vnodes: &[VnodeId],
        deadline: Instant,
    ) -> Result<Vec<Option<Summary>>, RequestError> {
        let summary = |Account { told, root, .. }: Account| {
            Some(Summary { fingerprint: fingerprint(&told.frontier), root: root? })
        };
        let accounts = self.accounts(vnodes, deadline).await?.into_iter();
        Ok(accounts.map(|account| account.ok().and_then(summary)).collect())
    }

    /// The same as [`Self::told`], of one.
    pub async fn told_of(&self, vnode: VnodeId, deadline: Instant) -> Result<Told, RequestError> {
        let told = self.told(&[vnode], deadline).await?;
        told.into_iter().next().expect("one was asked for")
    }

    /// The same as [`Self::told`], once all of it is on disk.
    pub async fn told_on_disk(
        &self,
        vnodes: &[VnodeId],
        deadline: Instant,
    ) -> Result<Vec<Result<Told, RequestError>>, RequestError> {
        let told = self.told(vnodes, deadline).await?;
        self.sync().await?;
        Ok(told)
    }

    /// Which vnodes have yet to recount their objects.
    pub async fn doubting(
        &self,
        vnodes: &[VnodeId],
        deadline: Instant,
    ) -> Result<Vec<VnodeId>, RequestError> {
        let accounts = self.accounts(vnodes, deadline).await?;
        let doubts = |account: &Result<Account, _>| account.as_ref().is_ok_and(|of| of.recounts);
        let doubting = vnodes.iter().zip(accounts).filter(|(_, account)| doubts(account));
        Ok(doubting.map(|(vnode, _)| *vnode).collect())
    }

    async fn accounts(
        &self,
        vnodes: &[VnodeId],
        deadline: Instant,
    ) -> Result<Vec<Result<Account, RequestError>>, RequestError> {
        let count = self.queues.len();
        let mut accounts = Vec::with_capacity(vnodes.len());
        for shard in 0..count {
            let of_shard = |id: &VnodeId| shard_of(id.partition, count) == shard;
            let places = (0..vnodes.len()).filter(|&at| of_shard(&vnodes[at]));
            let places: Vec<usize> = places.collect();
            for places in places.chunks(ACCOUNTS_MAX) {
                let of_these = places.iter().map(|&at| vnodes[at]).collect();
                let (answer, wait) = oneshot::channel();
                let job = Job::Exchange(ExchangeJob::Account { vnodes: of_these, answer });
                self.queue(vnodes[places[0]].partition, job, deadline)?;
                let answers = wait.await.map_err(|_| gone())?;
                accounts.extend(places.iter().copied().zip(answers));
            }
        }
        accounts.sort_unstable_by_key(|(at, _)| *at);
        Ok(accounts.into_iter().map(|(_, account)| account).collect())
    }

    /// Of which keys dots are, as far as the log knows, and as many as one message should hold.
    pub async fn keys_of(
        &self,
        vnode: VnodeId,
        dots: Frontier,
        deadline: Instant,
    ) -> Result<Vec<KeyDots>, RequestError> {
        let (answer, wait) = oneshot::channel();
        let job = ExchangeJob::Keys { vnode, dots, answer };
        self.queue(vnode.partition, Job::Exchange(job), deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Sees writes of keys of one vnode, at least one, whose objects here hold or cover them once the
    /// given ones are merged; of each whether it does.
    pub async fn see(
        &self,
        sights: Vec<Sight>,
        deadline: Instant,
    ) -> Vec<Result<bool, RequestError>> {
        let partition = self.shared_partition(sights.iter().map(|sight| &sight.address));
        let count = sights.len();
        let (answer, wait) = oneshot::channel();
        let job = Job::Exchange(ExchangeJob::See { sights, answer });
        if let Err(error) = self.take_writes().and_then(|()| self.queue(partition, job, deadline)) {
            return vec![Err(error); count];
        }
        wait.await.unwrap_or_else(|_| vec![Err(gone()); count])
    }

    /// Has seen what another owner had seen before it told all that it holds, which is merged; or why
    /// not, if this node's vnode is not of that generation any more.
    pub async fn join(
        &self,
        vnode: VnodeId,
        (frontier, generation): (Frontier, u64),
        deadline: Instant,
    ) -> Result<(), RequestError> {
        self.take_writes()?;
        let (answer, wait) = oneshot::channel();
        let job = ExchangeJob::Join { vnode, frontier, generation, answer };
        self.queue(vnode.partition, Job::Exchange(job), deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Recounts some objects of a vnode, if it has come to doubt its frontier; whether more are to
    /// follow.
    pub async fn recount(&self, vnode: VnodeId, deadline: Instant) -> Result<bool, RequestError> {
        self.take_writes()?;
        let (answer, wait) = oneshot::channel();
        let job = ExchangeJob::Recount { vnode, answer };
        self.queue(vnode.partition, Job::Exchange(job), deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// A vnode that lost something has met every other owner since, when it was of that generation: if it
    /// still is, it says no more that it lost anything.
    pub async fn regain(
        &self,
        vnode: VnodeId,
        generation: u64,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let (answer, wait) = oneshot::channel();
        let job = ExchangeJob::Regain { vnode, generation, answer };
        self.queue(vnode.partition, Job::Exchange(job), deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Shortens the dot log of a vnode, by some rows at a time; what is left to be forgotten.
    pub async fn forget_dots(
        &self,
        vnode: VnodeId,
        which: Forgettable,
        deadline: Instant,
    ) -> Result<Option<Forgettable>, RequestError> {
        self.take_writes()?;
        let (answer, wait) = oneshot::channel();
        let job = ExchangeJob::Forget { vnode, which, answer };
        self.queue(vnode.partition, Job::Exchange(job), deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }
}
