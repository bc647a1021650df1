//! Answers other nodes.

mod exchange;
mod handoff;
mod trees;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join, join_all};
use tokio::time::{Instant, timeout};

use self::handoff::Welcome;
use super::to_the_end;
use super::traced::{ended, trace_of_peer};
use crate::cluster::view::View;
use crate::coordinator::Coordinator;
use crate::dynamo::arrival::Way;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{Key, NamespaceId, NodeId, VnodeId};
use crate::dynamo::metadata::document::{ClusterKey, Namespace};
use crate::dynamo::object::Digest;
use crate::dynamo::standing::Standing;
use crate::error::{RequestError, WriteError};
use crate::liveness::Inbox;
use crate::shard::{Page, PageRange};
use crate::telemetry::{Metrics, Operation};
use crate::trace::Trace;
use crate::transport::{
    Handler, Held, LookUp, Read, Replicate, Reply, Request, ScanPage, ScanPageReply, first_fitting,
};
use crate::vnode::look_up::Inquiry;
use crate::vnode::{Address, Merge};

/// Answers the requests of other nodes.
pub struct PeerHandler(Arc<Shared>);

struct Shared {
    coordinator: Arc<Coordinator>,
    gossip: Inbox,
    metrics: Arc<Metrics>,
    welcome: Welcome,
}

impl PeerHandler {
    /// A handler of one node.
    pub fn new(coordinator: Arc<Coordinator>, gossip: Inbox, metrics: Arc<Metrics>) -> Self {
        let welcome = Welcome::new(coordinator.shards().budget().max());
        Self(Arc::new(Shared { coordinator, gossip, metrics, welcome }))
    }
}

impl Handler for PeerHandler {
    fn handle(&self, from: NodeId, request: Request, wait: Duration) -> BoxFuture<'static, Reply> {
        let shared = self.0.clone();
        let operation = operation_of(&request);
        let trace = match operation {
            Some(operation) => trace_of_peer(&shared.coordinator, from, operation, &request),
            None => Trace::off(),
        };
        let answering = async move {
            let started = Instant::now();
            let reply = match timeout(wait, shared.answer(from, request, wait)).await {
                Ok(reply) => reply,
                Err(_) => {
                    let waiting_for = "running the request of another node".to_owned();
                    Reply::Failed(RequestError::Timeout { waiting_for })
                }
            };
            if let Some(operation) = operation {
                ended(&shared.metrics, operation, started, failure_of(&reply));
            }
            reply
        };
        trace.run(answering).boxed()
    }

    fn metadata_version(&self) -> u64 {
        self.0.coordinator.cluster().version()
    }

    fn newer_metadata(&self, from: NodeId, version: u64) -> BoxFuture<'static, ()> {
        let cluster = self.0.coordinator.cluster().clone();
        async move {
            if cluster.version() >= version {
                return;
            }
            if let Err(error) = cluster.fetch_from(from).await {
                tracing::warn!(%from, %error, "newer metadata could not be fetched");
            }
        }
        .boxed()
    }
}

impl Shared {
    async fn answer(&self, from: NodeId, request: Request, wait: Duration) -> Reply {
        let cluster = self.coordinator.cluster();
        let answered = match request {
            Request::Replicate(replicate) => self.replicate(replicate, wait).await,
            Request::Read(read) => self.read(read, wait).await,
            Request::ForwardGet(forward) => {
                let read = self.coordinator.get_forwarded(forward, wait).await;
                read.map(|found| Reply::GetResult(found.encode()))
            }
            Request::ForwardWrite(forward) => {
                let coordinator = self.coordinator.clone();
                let run = async move { coordinator.put_forwarded(forward, wait).await };
                return match to_the_end(run).await {
                    Ok(result) => Reply::WriteResult(result),
                    Err(error) => Reply::WriteFailed(error),
                };
            }
            Request::ReplicateBatch(items) => Ok(self.replicate_batch(items, wait).await),
            Request::ReadBatch(items) => self.read_batch(items, wait).await,
            Request::ForwardGetBatch(items) => {
                Ok(Reply::GetBatch(self.coordinator.get_batch_forwarded(items, wait).await))
            }
            Request::ForwardWriteBatch(items) => {
                let coordinator = self.coordinator.clone();
                let run = async move { coordinator.put_batch_forwarded(items, wait).await };
                Ok(Reply::WriteBatch(to_the_end(run).await))
            }
            Request::ScanPage(page) => self.page(page, wait).await,
            Request::Document => Ok(Reply::Document(cluster.newest_document().await)),
            Request::Learn(document) => {
                cluster.learn(document).await.map(|version| Reply::Learned { version })
            }
            Request::Clock => {
                return Reply::Clock { now_ms: self.coordinator.clocks().read().wall_ms };
            }
            Request::Gossip(datagram) => {
                self.gossip.offer(from, datagram);
                return Reply::Heard;
            }
            Request::LookUp(asked) => self.look_up(&asked, wait).await,
            Request::Frontiers { asked, recall } => {
                self.frontiers((from, recall), asked, wait).await
            }
            Request::Keys(vnode, dots) => self.keys_of(vnode, dots, wait).await,
            Request::Trees(asked) => self.trees(asked, wait).await.map(Reply::Trees),
            Request::Hints => self.coordinator.shards().all_hints().map(Reply::Hints),
            Request::Handoff(items) => Ok(self.take_home(from, items, wait).await),
            Request::Register(message) => cluster.on_register(message).await.map(Reply::Register),
        };
        answered.unwrap_or_else(Reply::Failed)
    }

    async fn replicate(&self, replicate: Replicate, wait: Duration) -> Result<Reply, RequestError> {
        let (deadline, synced) = (Instant::now() + wait, replicate.synced);
        let shards = self.coordinator.shards();
        match self.merge_of(replicate, wait)? {
            (merge, None) => shards.merge(merge, synced, deadline).await?,
            (merge, Some(target)) => shards.hint(merge, target, synced, deadline).await?,
        }
        Ok(Reply::Replicated { synced })
    }

    /// What is to be merged, and for whom it is kept: as an owner, or as a hint.
    fn merge_of(
        &self,
        replicate: Replicate,
        wait: Duration,
    ) -> Result<(Merge, Option<NodeId>), RequestError> {
        let Replicate { namespace, key, object, operation, clock_ms, mend, hint_for, .. } =
            replicate;
        let address = match hint_for {
            None => self.address(namespace, key)?,
            Some(target) => self.hint_address(namespace, key, target)?,
        };
        let wait_ms = millis(wait);
        let way = operation.map_or(Way::ReadRepair, |_| Way::Write);
        Ok((Merge { address, object, operation, clock_ms, wait_ms, mend, way }, hint_for))
    }

    async fn read(&self, read: Read, wait: Duration) -> Result<Reply, RequestError> {
        let deadline = Instant::now() + wait;
        let (hint, digest) = (read.hint, read.digest);
        let (address, standing) = self.read_of(read)?;
        let shards = self.coordinator.shards();
        let object = match hint {
            true => shards.read_hint(address.clone(), deadline).await?,
            false => shards.read(address.clone(), deadline).await?,
        };
        if !digest {
            return Ok(Reply::Held { held: Held::Object(object), standing });
        }
        let cluster_key = self.view()?.document().cluster_key;
        let held = digest_of(&cluster_key, &address, object)?;
        Ok(Reply::Held { held, standing })
    }

    /// What is to be read, and whether this node's silence of it counts: told before the object is
    /// read, since what becomes complete meanwhile may not be in it.
    fn read_of(&self, read: Read) -> Result<(Address, Standing), RequestError> {
        if read.hint {
            let (_, address) = self.place(read.namespace, read.key)?;
            return Ok((address, Standing::Fallback));
        }
        let address = self.address(read.namespace, read.key)?;
        let standing = self.coordinator.standings().of(address.vnode);
        Ok((address, standing))
    }

    /// One job for each shard, and an answer for each object.
    async fn replicate_batch(&self, items: Vec<Replicate>, wait: Duration) -> Reply {
        let (deadline, shards) = (Instant::now() + wait, self.coordinator.shards());
        let synced = items.iter().any(|item| item.synced);
        let mut answers: Vec<Result<bool, RequestError>> = vec![Ok(synced); items.len()];
        let (mut merges, mut hints) = (Vec::with_capacity(items.len()), Vec::new());
        for (place, item) in items.into_iter().enumerate() {
            match self.merge_of(item, wait) {
                Ok((merge, None)) => merges.push((place, merge)),
                Ok((merge, Some(target))) => hints.push((place, (merge, target))),
                Err(error) => answers[place] = Err(error),
            }
        }
        let merges = shards.split(merges, |(_, merge)| &merge.address).into_iter();
        let merge = merges.map(|part| async {
            let (places, merges): (Vec<_>, Vec<_>) = part.items.into_iter().unzip();
            places.into_iter().zip(shards.merge_batch(merges, synced, deadline).await)
        });
        let hints = shards.split(hints, |(_, (merge, _))| &merge.address).into_iter();
        let hint = hints.map(|part| async {
            let (places, hints): (Vec<_>, Vec<_>) = part.items.into_iter().unzip();
            places.into_iter().zip(shards.hint_batch(hints, synced, deadline).await)
        });
        let (merged, hinted) = join(join_all(merge), join_all(hint)).await;
        for (place, done) in merged.into_iter().chain(hinted).flatten() {
            if let Err(error) = done {
                answers[place] = Err(error);
            }
        }
        Reply::ReplicatedBatch(answers)
    }

    async fn read_batch(&self, items: Vec<Read>, wait: Duration) -> Result<Reply, RequestError> {
        let deadline = Instant::now() + wait;
        let cluster_key = self.view()?.document().cluster_key;
        let mut held: Vec<Result<(Held, Standing), RequestError>> = Vec::with_capacity(items.len());
        let (mut reads, mut hints) = (Vec::with_capacity(items.len()), Vec::new());
        for (place, read) in items.into_iter().enumerate() {
            let (digest, reads) = (read.digest, if read.hint { &mut hints } else { &mut reads });
            let asked = self.read_of(read).map(|(address, standing)| {
                reads.push((place, (digest, standing), address));
                (Held::Object(EncodedObject::default()), standing)
            });
            held.push(asked);
        }
        let shards = self.coordinator.shards();
        let parts = |reads| shards.split(reads, |(_, _, address)| address).into_iter();
        let addresses =
            |items: &[(_, _, Address)]| items.iter().map(|item| item.2.clone()).collect();
        let read = parts(reads).map(|part| async move {
            let objects = shards.read_batch(addresses(&part.items), deadline).await;
            part.items.into_iter().zip(objects)
        });
        let hint = parts(hints).map(|part| async move {
            let objects = shards.read_hint_batch(addresses(&part.items), deadline).await;
            part.items.into_iter().zip(objects)
        });
        let (read, hinted) = join(join_all(read), join_all(hint)).await;
        for ((place, asked, address), object) in read.into_iter().chain(hinted).flatten() {
            let (digest, standing) = asked;
            let one = match object {
                Ok(object) if digest => digest_of(&cluster_key, &address, object),
                object => object.map(Held::Object),
            };
            held[place] = one.map(|held| (held, standing));
        }
        let bytes = |(held, _): &(Held, Standing)| match held {
            Held::Object(object) => object.0.len(),
            Held::Digest(Digest(digest)) => digest.len(),
        };
        Ok(Reply::HeldBatch(first_fitting(held, bytes)))
    }

    async fn page(&self, page: ScanPage, wait: Duration) -> Result<Reply, RequestError> {
        let deadline = Instant::now() + wait;
        let (_, namespace) = self.namespace(page.namespace)?;
        let range = PageRange {
            vnode: VnodeId { n: namespace.n, partition: page.partition },
            namespace: page.namespace,
            prefix: page.prefix,
            after: page.after,
            limit: page.limit as usize,
            conflict: namespace.conflict,
        };
        self.owned(range.vnode)?;
        let standing = self.coordinator.standings().of(range.vnode);
        let page = self.coordinator.shards().page(range, deadline).await?;
        let Page { items, damaged, complete } = page;
        Ok(Reply::ScanPage(ScanPageReply { items, damaged, complete, standing }))
    }

    /// Any member is asked: one that is no owner may have stood in for one.
    async fn look_up(&self, asked: &LookUp, wait: Duration) -> Result<Reply, RequestError> {
        let LookUp { operation, namespace, key, settle } = *asked;
        let (view, namespace) = self.namespace(namespace)?;
        let vnode = view.vnode_of(&namespace, key);
        let asked = Inquiry { vnode, key, operation, settle };
        let deadline = Instant::now() + wait;
        self.coordinator.shards().look_up(asked, deadline).await.map(Reply::LookedUp)
    }

    fn address(&self, id: NamespaceId, key: Key) -> Result<Address, RequestError> {
        let (_, address) = self.place(id, key)?;
        self.owned(address.vnode)?;
        Ok(address)
    }

    /// Where a key lies that is to be kept for an owner. Any other member may keep it.
    fn hint_address(
        &self,
        id: NamespaceId,
        key: Key,
        target: NodeId,
    ) -> Result<Address, RequestError> {
        let (view, address) = self.place(id, key)?;
        let owner = view.preference(address.vnode).is_some_and(|list| list.is_owner(target));
        if !owner {
            return Err(RequestError::invalid(format!("{target} is no owner of the hint's key")));
        }
        if target == self.coordinator.node() {
            return Err(RequestError::invalid("the hint is for this very node"));
        }
        Ok(address)
    }

    fn place(&self, id: NamespaceId, key: Key) -> Result<(Arc<View>, Address), RequestError> {
        let (view, namespace) = self.namespace(id)?;
        let (vnode, conflict) = (view.vnode(&namespace, &key), namespace.conflict);
        Ok((view, Address { vnode, namespace: id, key, conflict }))
    }

    fn namespace(&self, id: NamespaceId) -> Result<(Arc<View>, Namespace), RequestError> {
        let view = self.view()?;
        let name = || format!("of id {}", id.0);
        let namespace = view.namespace(id).cloned();
        let namespace = namespace.ok_or_else(|| RequestError::UnknownNamespace { name: name() })?;
        Ok((view, namespace))
    }

    /// A partition that is not this node's is refused: an answer would count as an owner's.
    fn owned(&self, vnode: VnodeId) -> Result<(), RequestError> {
        let node = self.coordinator.node();
        let owner = self.view()?.preference(vnode).is_some_and(|list| list.is_owner(node));
        let refused = || RequestError::not_ready("this node does not hold the partition");
        owner.then_some(()).ok_or_else(refused)
    }

    fn view(&self) -> Result<Arc<View>, RequestError> {
        let view = self.coordinator.cluster().view();
        view.ok_or_else(|| RequestError::not_ready("this node belongs to no cluster yet"))
    }
}

fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}

fn digest_of(
    cluster_key: &ClusterKey,
    address: &Address,
    object: EncodedObject,
) -> Result<Held, RequestError> {
    let object = object.decode(address.conflict);
    let object = object.map_err(|error| RequestError::Data { reason: error.to_string() })?;
    Ok(Held::Digest(object.digest(cluster_key, address.namespace, &address.key)))
}

fn operation_of(request: &Request) -> Option<Operation> {
    match request {
        Request::Replicate(_) | Request::ReplicateBatch(_) => Some(Operation::Replicate),
        Request::Read(_) | Request::ReadBatch(_) => Some(Operation::Read),
        Request::ForwardGet(_)
        | Request::ForwardWrite(_)
        | Request::ForwardGetBatch(_)
        | Request::ForwardWriteBatch(_) => Some(Operation::Forward),
        _ => None,
    }
}

fn failure_of(reply: &Reply) -> Option<&RequestError> {
    match reply {
        Reply::Failed(error) | Reply::WriteFailed(WriteError { error, .. }) => Some(error),
        _ => None,
    }
}
