//! A shard's part in the comparison of trees: what its vnodes hold, by hashes.
//!
//! Everything here is done between turns, and a little at a time: a job reads some rows of trees, or the
//! records of a few leaves.

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::sweep::SWEEP_BYTES;
use super::{Job, Shard, Shards, gone};
use crate::dynamo::key::{Key, KeyHash, NamespaceId, VnodeId};
use crate::dynamo::merkle::{Children, LEAVES, Leaf, Listing, Node, Place};
use crate::error::RequestError;
use crate::storage::{Batch, record};

/// About how many records of leaves are read in one job, beyond the first leaf; and no more bytes than
/// in a step of a sweep.
const LISTED_MAX: usize = 256;

/// What is held in some leaves: of each all of it, or none if it cannot be told.
pub type Leaves = Vec<Option<Listing>>;

/// Leaves that are looked through in one step of a scrub, mostly empty ones: it ends sooner if they have
/// many objects.
const SCRUBBED_LEAVES: u16 = 512;

/// What a step of a scrub came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scrubbed {
    /// How many records with values were read.
    pub records: u64,
    /// The leaf from which the next step goes on; none after the last.
    pub next: Option<Leaf>,
}

pub(super) enum TreeJob {
    Ready {
        vnode: VnodeId,
        answer: oneshot::Sender<Result<bool, RequestError>>,
    },
    Branches {
        vnode: VnodeId,
        branches: Vec<Node>,
        answer: oneshot::Sender<Result<Option<Vec<Children>>, RequestError>>,
    },
    List {
        vnode: VnodeId,
        leaves: Vec<Leaf>,
        answer: oneshot::Sender<Result<(Leaves, Vec<Bytes>), RequestError>>,
    },
    Scrub {
        vnode: VnodeId,
        first: Leaf,
        answer: oneshot::Sender<Result<(Scrubbed, Vec<Bytes>), RequestError>>,
    },
    Names {
        vnode: VnodeId,
        places: Vec<Place>,
        answer: oneshot::Sender<Result<Vec<(NamespaceId, Key)>, RequestError>>,
    },
}

impl TreeJob {
    /// Answers that it was not done; a requester that went away does not matter.
    pub(super) fn refuse(self, error: RequestError) {
        match self {
            Self::Ready { answer, .. } => drop(answer.send(Err(error))),
            Self::Branches { answer, .. } => drop(answer.send(Err(error))),
            Self::List { answer, .. } => drop(answer.send(Err(error))),
            Self::Scrub { answer, .. } => drop(answer.send(Err(error))),
            Self::Names { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

impl Shard {
    pub(super) fn run_trees(&mut self, job: TreeJob) {
        match job {
            TreeJob::Ready { vnode, answer } => drop(answer.send(self.ready_tree(vnode))),
            TreeJob::Branches { vnode, branches, answer } => {
                drop(answer.send(self.children(vnode, &branches)));
            }
            TreeJob::List { vnode, leaves, answer } => {
                drop(answer.send(self.list_leaves(vnode, &leaves)));
            }
            TreeJob::Scrub { vnode, first, answer } => {
                drop(answer.send(self.scrub(vnode, first)));
            }
            TreeJob::Names { vnode, places, answer } => {
                drop(answer.send(self.names_at(vnode, &places)));
            }
        }
    }

    /// One step towards a tree that is ready; whether it is.
    fn ready_tree(&mut self, id: VnodeId) -> Result<bool, RequestError> {
        let engine = self.context.engine.clone();
        let vnode = self.vnode_of(id)?;
        if vnode.root().is_none() {
            // Without an error it is ahead of the engine, until the batch is applied.
            let batch = vnode.ready_tree(&*engine)?;
            self.stage_alone(id, batch)?;
        }
        Ok(self.vnode_of(id)?.root().is_some())
    }

    fn children(
        &mut self,
        id: VnodeId,
        branches: &[Node],
    ) -> Result<Option<Vec<Children>>, RequestError> {
        let vnode = self.vnode_of(id)?;
        Ok(branches.iter().map(|branch| vnode.children(*branch)).collect())
    }

    /// What is held in the first of these leaves, at least of one; and where records are damaged.
    fn list_leaves(
        &mut self,
        id: VnodeId,
        leaves: &[Leaf],
    ) -> Result<(Leaves, Vec<Bytes>), RequestError> {
        let engine = self.context.engine.clone();
        let (mut listings, mut damaged, mut read) = (Vec::new(), Vec::new(), (0, 0));
        for &leaf in leaves {
            if read.0 >= LISTED_MAX || read.1 >= SWEEP_BYTES {
                break;
            }
            let listed = self.vnode_of(id)?.list(&*engine, leaf)?;
            if listed.mismatch {
                self.context.observer.mismatched();
            }
            read = (read.0 + listed.read.0, read.1 + listed.read.1);
            damaged.extend(listed.damaged);
            listings.push(listed.listing);
        }
        self.distrust(id, &hashed(&damaged))?;
        self.stage_alone(id, Batch::new())?;
        Ok((listings, damaged))
    }

    /// Reads some leaves again, from this one on: none of them, while the tree is not ready.
    fn scrub(&mut self, id: VnodeId, first: Leaf) -> Result<(Scrubbed, Vec<Bytes>), RequestError> {
        let engine = self.context.engine.clone();
        let count = SCRUBBED_LEAVES.min(LEAVES - first.0);
        let vnode = self.vnode_of(id)?;
        let is_ready = vnode.root().is_some();
        let occupied = vnode.occupied(&*engine, first, count)?.filter(|_| is_ready);
        let Some((occupied, last)) = occupied else {
            self.stage_alone(id, Batch::new())?;
            return Ok((Scrubbed { records: 0, next: Some(first) }, Vec::new()));
        };
        let occupied: Vec<Leaf> = occupied.into_iter().filter(|leaf| *leaf <= last).collect();
        let (listed, damaged) = match occupied.is_empty() {
            true => Default::default(),
            false => self.list_leaves(id, &occupied)?,
        };
        let records = listed.iter().flatten().map(Vec::len).sum::<usize>() as u64;
        let end = occupied.get(listed.len()).map_or(last.0 + 1, |leaf| leaf.0);
        let next = match self.vnode_of(id)?.root() {
            // What came after the leaf that made the tree doubtful was not read.
            None => Some(first),
            Some(_) => (end < LEAVES).then_some(Leaf(end)),
        };
        Ok((Scrubbed { records, next }, damaged))
    }

    fn names_at(
        &mut self,
        id: VnodeId,
        places: &[Place],
    ) -> Result<Vec<(NamespaceId, Key)>, RequestError> {
        let engine = self.context.engine.clone();
        let found = self.vnode_of(id)?.at(&*engine, places)?;
        Ok(keys_of(&found))
    }
}

/// Where records lie, each with its key's hash.
fn hashed(stored: &[Bytes]) -> Vec<(Bytes, KeyHash)> {
    let hash = |stored: &Bytes| {
        let key = record::split_object_key(stored);
        key.map_or(KeyHash(0), |(_, namespace, key)| key.hash(namespace))
    };
    stored.iter().map(|stored| (stored.clone(), hash(stored))).collect()
}

fn keys_of(stored: &[Bytes]) -> Vec<(NamespaceId, Key)> {
    let split = stored.iter().filter_map(record::split_object_key);
    split.map(|(_, namespace, key)| (namespace, key)).collect()
}

impl Shards {
    /// One step towards a vnode's tree that is ready; whether it is.
    pub async fn ready_tree(
        &self,
        vnode: VnodeId,
        deadline: Instant,
    ) -> Result<bool, RequestError> {
        self.take_writes()?;
        self.on_tree(vnode, deadline, |answer| TreeJob::Ready { vnode, answer }).await
    }

    /// The sums below these branches; none while the tree is not ready.
    pub async fn children(
        &self,
        vnode: VnodeId,
        branches: Vec<Node>,
        deadline: Instant,
    ) -> Result<Option<Vec<Children>>, RequestError> {
        self.on_tree(vnode, deadline, |answer| TreeJob::Branches { vnode, branches, answer }).await
    }

    /// What is held in the first of these leaves, at least of one; and the keys of records there that are
    /// damaged.
    pub async fn list(
        &self,
        vnode: VnodeId,
        leaves: Vec<Leaf>,
        deadline: Instant,
    ) -> Result<(Leaves, Vec<(NamespaceId, Key)>), RequestError> {
        let (leaves, damaged) =
            self.on_tree(vnode, deadline, |answer| TreeJob::List { vnode, leaves, answer }).await?;
        Ok((leaves, keys_of(&damaged)))
    }

    /// Reads the records of some leaves again, from this one on; and the keys of those that are damaged.
    pub async fn scrub(
        &self,
        vnode: VnodeId,
        first: Leaf,
        deadline: Instant,
    ) -> Result<(Scrubbed, Vec<(NamespaceId, Key)>), RequestError> {
        let job = |answer| TreeJob::Scrub { vnode, first, answer };
        let (scrubbed, damaged) = self.on_tree(vnode, deadline, job).await?;
        Ok((scrubbed, keys_of(&damaged)))
    }

    /// The keys of objects at some places.
    pub async fn names_at(
        &self,
        vnode: VnodeId,
        places: Vec<Place>,
        deadline: Instant,
    ) -> Result<Vec<(NamespaceId, Key)>, RequestError> {
        self.on_tree(vnode, deadline, |answer| TreeJob::Names { vnode, places, answer }).await
    }

    async fn on_tree<T>(
        &self,
        vnode: VnodeId,
        deadline: Instant,
        job: impl FnOnce(oneshot::Sender<Result<T, RequestError>>) -> TreeJob,
    ) -> Result<T, RequestError> {
        let (answer, wait) = oneshot::channel();
        self.queue(vnode.partition, Job::Trees(job(answer)), deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }
}
