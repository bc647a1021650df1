//! `quorate.v1.Kv`: reading and writing keys.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use quorate_proto::v1::{self, kv_server::Kv};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::deadline::Timeouts;
use super::metered::ReplyCharge;
use super::traced::Asked;
use super::{batch, resolve, status, to_the_end};
use crate::coordinator::{Coordinator, Get, Put, ReadAnswer, ScanCursor, ScanRequest, binding};
use crate::dynamo::context::Context;
use crate::dynamo::key::{Key, NodeId};
use crate::dynamo::object::{Entry, Object};
use crate::dynamo::operation::{Change, Opening, OperationId};
use crate::dynamo::read::Repair;
use crate::dynamo::ttl::Ttl;
use crate::error::{RequestError, WriteError};
use crate::limits::Capacity;
use crate::limits::budget::{Budget, Kind, SMALL_BYTES};
use crate::limits::concurrency::Permit;
use crate::telemetry::{Metrics, Operation};
use crate::transport::{StandIn, WriteResult};

/// How long a scan looks for a live key before it says how far it is: well within any timeout.
const QUIET: Duration = Duration::from_millis(500);

/// A context names an actor in 16 bytes, and one comes with each opening of a coordinator's store: so
/// many are beyond what a key ever meets.
const CONTEXT_MAX_BYTES: usize = 1 << 20;

/// The handlers, over whatever the node has become by now.
#[derive(Clone)]
pub struct KvService {
    node: Arc<NodeParts>,
}

/// What all client-facing handlers share.
pub struct NodeParts {
    /// This node's name, for error messages.
    pub name: String,
    /// Runs the requests.
    pub coordinator: Arc<Coordinator>,
    /// Hears of them.
    pub metrics: Arc<Metrics>,
    /// Bounds the requests under way.
    pub capacity: Capacity,
    /// How long a request may take.
    pub timeouts: Timeouts,
    /// The largest message that a client may send, in bytes.
    pub message_max_bytes: usize,
    /// How many requests were given an id here.
    pub requests: AtomicU64,
}

impl NodeParts {
    /// The wall clock, by which values expire to readers.
    pub(super) fn now_ms(&self) -> u64 {
        self.coordinator.env().now_ms()
    }
}

type ScanStream = Pin<Box<dyn Stream<Item = Result<v1::ScanReply, Status>> + Send>>;

impl KvService {
    /// Handlers of one node.
    pub fn new(node: Arc<NodeParts>) -> Self {
        Self { node }
    }

    async fn read(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetReply>, Status> {
        let started = Instant::now();
        let timeout = self.node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
        let permit = self.node.capacity.concurrency.enter(timeout);
        let result = match (get_of(request.into_inner(), timeout), permit) {
            (Ok(get), Ok(permit)) => {
                let result = self.node.coordinator.get(get).await;
                permit.end(result.as_ref().err());
                result
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        let budget = &self.node.capacity.budget;
        let answer = result.and_then(|answer| {
            let reply = get_reply(answer, self.node.now_ms());
            let bytes = value_bytes(&reply);
            reply_with_its_memory(budget, reply, bytes)
        });
        self.node.ended(Operation::Get, started, answer.as_ref().err());
        answer.map_err(|error| status::of_request(&error, &self.node.name))
    }

    /// Runs a write. One that is refused at the door was not applied, unless an earlier request
    /// under its id may have been.
    async fn write(
        &self,
        put: Result<Put, RequestError>,
        doubtful: Option<OperationId>,
    ) -> Result<WriteResult, Status> {
        let started = Instant::now();
        let operation = match &put {
            Ok(Put { change: Change::Delete, .. }) => Operation::Delete,
            Ok(Put { change: Change::Expire(_), .. }) => Operation::Expire,
            _ => Operation::Put,
        };
        let concurrency = &self.node.capacity.concurrency;
        let entered =
            put.and_then(|put| concurrency.enter(put.timeout).map(|permit| (put, permit)));
        let result = match entered {
            Ok((put, permit)) => self.run(put, permit).await,
            Err(error) => Err(WriteError::at_the_door(doubtful, error)),
        };
        self.node.ended(operation, started, result.as_ref().err().map(|failed| &failed.error));
        result.map_err(|error| status::of_write(&error, &self.node.name))
    }

    /// Runs a write to its end, and holds its place as long.
    async fn run(&self, put: Put, permit: Permit) -> Result<WriteResult, WriteError> {
        let coordinator = self.node.coordinator.clone();
        let running = async move {
            let result = coordinator.put(put).await;
            permit.end(result.as_ref().err().map(|failed| &failed.error));
            result
        };
        to_the_end(running).await
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    type ScanStream = ScanStream;

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetReply>, Status> {
        let asked = Asked::key(&request.get_ref().namespace, &request.get_ref().key);
        let trace = self.node.trace(Operation::Get, request.metadata(), asked);
        trace.run(self.read(request)).await
    }

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutReply>, Status> {
        let timeout = self.node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
        let asked = Asked::key(&request.get_ref().namespace, &request.get_ref().key);
        let trace = self.node.trace(Operation::Put, request.metadata(), asked);
        let message = request.into_inner();
        let doubtful = doubtful(message.operation_id.as_ref(), message.fresh);
        let put = put_of(message, timeout, &self.node.capacity.budget);
        let written = trace.run(self.write(put, doubtful)).await?;
        Ok(Response::new(put_reply(written)))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteReply>, Status> {
        let timeout = self.node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
        let asked = Asked::key(&request.get_ref().namespace, &request.get_ref().key);
        let trace = self.node.trace(Operation::Delete, request.metadata(), asked);
        let message = request.into_inner();
        let doubtful = doubtful(message.operation_id.as_ref(), message.fresh);
        let written = trace.run(self.write(delete_of(message, timeout), doubtful)).await?;
        let v1::PutReply { context, siblings, receipt } = put_reply(written);
        Ok(Response::new(v1::DeleteReply { context, siblings, receipt }))
    }

    async fn expire(
        &self,
        request: Request<v1::ExpireRequest>,
    ) -> Result<Response<v1::ExpireReply>, Status> {
        let timeout = self.node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
        let asked = Asked::key(&request.get_ref().namespace, &request.get_ref().key);
        let trace = self.node.trace(Operation::Expire, request.metadata(), asked);
        let message = request.into_inner();
        let doubtful = doubtful(message.operation_id.as_ref(), message.fresh);
        let written = trace.run(self.write(expire_of(message, timeout), doubtful)).await?;
        let v1::PutReply { context, siblings, receipt } = put_reply(written);
        Ok(Response::new(v1::ExpireReply { context, siblings, receipt }))
    }

    async fn batch_get(
        &self,
        request: Request<v1::BatchGetRequest>,
    ) -> Result<Response<v1::BatchGetReply>, Status> {
        let timeout = self.node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
        let asked = Asked::keys(&request.get_ref().namespace, request.get_ref().keys.len());
        let trace = self.node.trace(Operation::BatchGet, request.metadata(), asked);
        trace.run(batch::get(&self.node, request.into_inner(), timeout)).await
    }

    async fn batch_put(
        &self,
        request: Request<v1::BatchPutRequest>,
    ) -> Result<Response<v1::BatchPutReply>, Status> {
        let timeout = self.node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
        let asked = Asked::keys(&request.get_ref().namespace, request.get_ref().entries.len());
        let trace = self.node.trace(Operation::BatchPut, request.metadata(), asked);
        let put = batch::put(&self.node, request.into_inner(), timeout);
        trace.run(put).await.map(Response::new)
    }

    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveReply>, Status> {
        let trace = self.node.trace(Operation::Resolve, request.metadata(), Asked::scan(""));
        trace.run(resolve::resolve(&self.node, request)).await
    }

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let timeout = self.node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
        let asked = Asked::scan(&request.get_ref().namespace);
        let trace = self.node.trace(Operation::Scan, request.metadata(), asked);
        let message = request.into_inner();
        let status = |error: RequestError| status::of_request(&error, &self.node.name);
        let scan = ScanRequest {
            namespace: message.namespace,
            prefix: message.prefix,
            r: super::level(message.r).map_err(status)?,
            timeout,
        };
        let from = self.node.coordinator.scan_from(&scan, message.cursor);
        let cursor = trace.clone().run(from).await.map_err(status)?;
        let left = if message.limit == 0 { u64::MAX } else { message.limit };
        let walk = ScanWalk { node: self.node.clone(), scan, next: Some(cursor), left };
        let step = move |walk: ScanWalk| trace.clone().run(walk.step());
        let parts = stream::try_unfold(walk, step);
        Ok(Response::new(parts.boxed()))
    }
}

/// A scan under way: it runs as fast as its client reads. It takes a place among the requests for
/// each page alone: one that is read slowly, or no more, must not hold up others. If there is none,
/// the scan ends with a delay, and the client resumes it from the last page's cursor.
struct ScanWalk {
    node: Arc<NodeParts>,
    scan: ScanRequest,
    next: Option<ScanCursor>,
    left: u64,
}

impl ScanWalk {
    /// The next message: a page with live keys, or the end; after a while without a key, a page
    /// that only says how far the scan is, so that the client sees it move and can resume.
    async fn step(mut self) -> Result<Option<(v1::ScanReply, Self)>, Status> {
        let begun = Instant::now();
        while let Some(cursor) = self.next.take() {
            let started = Instant::now();
            let result = self.page(cursor).await;
            self.node.ended(Operation::Scan, started, result.as_ref().err());
            let page = result.map_err(|error| status::of_request(&error, &self.node.name))?;
            if !page.items.is_empty() || begun.elapsed() >= QUIET {
                return Ok(Some((page, self)));
            }
        }
        Ok(None)
    }

    async fn page(&mut self, cursor: ScanCursor) -> Result<v1::ScanReply, RequestError> {
        let permit = self.node.capacity.concurrency.enter(self.scan.timeout)?;
        let page = self.read_page(cursor).await;
        permit.end(page.as_ref().err());
        page
    }

    async fn read_page(&mut self, cursor: ScanCursor) -> Result<v1::ScanReply, RequestError> {
        let deadline = Instant::now() + self.scan.timeout;
        let part = self.node.coordinator.scan(&self.scan, cursor.clone()).await?;
        let (view, namespace) =
            self.node.coordinator.namespace(&self.scan.namespace, deadline).await?;
        let now_ms = self.node.now_ms();
        let item = |(key, object): &(Key, Object)| {
            let siblings = Some(siblings(object, now_ms)).filter(|shown| !shown.is_empty())?;
            let context = Context::of_read(object).seal(binding(&view, &namespace, key));
            Some(v1::ScanItem { key: key.to_bytes(), siblings, context })
        };
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX);
        let items: Vec<_> = part.items.iter().filter_map(item).take(wanted).collect();
        self.left -= items.len() as u64;
        let last = items.last().and_then(|item| Key::new(item.key.clone()).ok());
        let resume = match last {
            Some(last) => ScanCursor { after: Some(last), ..cursor },
            None => part.next.clone().unwrap_or(cursor),
        };
        self.next = part.next.filter(|_| self.left > 0);
        Ok(v1::ScanReply { items, cursor: resume.encode() })
    }
}

pub(super) fn repair_of(repair: i32) -> Result<Repair, RequestError> {
    Ok(match super::known("repair", repair)? {
        v1::Repair::Async => Repair::Async,
        v1::Repair::Blocking => Repair::Blocking,
    })
}

fn get_of(message: v1::GetRequest, timeout: Duration) -> Result<Get, RequestError> {
    Ok(Get {
        repair: repair_of(message.repair)?,
        sloppy: super::sloppy(message.quorum)?,
        key: Key::new(message.key).map_err(RequestError::invalid)?,
        namespace: message.namespace,
        r: super::level(message.r)?,
        replica: (message.replica != 0).then_some(NodeId(message.replica)),
        timeout,
    })
}

/// The bytes of its values.
pub(super) fn value_bytes(reply: &v1::GetReply) -> usize {
    reply.siblings.iter().map(|sibling| sibling.value.len()).sum()
}

/// The client's id, if an earlier request may have carried it.
pub(super) fn doubtful(id: Option<&v1::OperationId>, fresh: bool) -> Option<OperationId> {
    id.filter(|_| !fresh).map(operation_of)
}

/// The reply, with its part of the node's memory if it is large; [`Metered`](super::metered::Metered)
/// keeps that until it is sent.
pub(super) fn reply_with_its_memory<T>(
    budget: &Arc<Budget>,
    reply: T,
    bytes: usize,
) -> Result<Response<T>, RequestError> {
    let mut response = Response::new(reply);
    if bytes >= SMALL_BYTES {
        let charge = budget.take(Kind::Replies, bytes)?;
        response.extensions_mut().insert(ReplyCharge(Arc::new(charge)));
    }
    Ok(response)
}

fn put_of(
    message: v1::PutRequest,
    timeout: Duration,
    budget: &Arc<Budget>,
) -> Result<Put, RequestError> {
    Ok(Put {
        durability: super::durability(message.durability)?,
        sloppy: super::sloppy(message.quorum)?,
        at_least_once: super::at_least_once(message.retry)?,
        namespace: message.namespace,
        key: Key::new(message.key).map_err(RequestError::invalid)?,
        change: Change::Put {
            ttl: super::ttl(message.ttl)?,
            value: budget.hold(Kind::Requests, message.value)?,
        },
        context: sized_context(message.context)?,
        w: super::level(message.w)?,
        operation: message.operation_id.as_ref().map(operation_of),
        fresh: message.fresh,
        timeout,
    })
}

fn delete_of(message: v1::DeleteRequest, timeout: Duration) -> Result<Put, RequestError> {
    if message.context.is_empty() {
        return Err(delete_needs_context());
    }
    Ok(Put {
        durability: super::durability(message.durability)?,
        sloppy: super::sloppy(message.quorum)?,
        at_least_once: super::at_least_once(message.retry)?,
        namespace: message.namespace,
        key: Key::new(message.key).map_err(RequestError::invalid)?,
        change: Change::Delete,
        context: sized_context(message.context)?,
        w: super::level(message.w)?,
        operation: message.operation_id.as_ref().map(operation_of),
        fresh: message.fresh,
        timeout,
    })
}

fn expire_of(message: v1::ExpireRequest, timeout: Duration) -> Result<Put, RequestError> {
    let ttl = super::ttl(message.ttl)?;
    if ttl == Ttl::Default {
        return Err(RequestError::invalid("ttl: say how long the value is to live, or never"));
    }
    Ok(Put {
        durability: super::durability(message.durability)?,
        sloppy: super::sloppy(message.quorum)?,
        at_least_once: super::at_least_once(message.retry)?,
        namespace: message.namespace,
        key: Key::new(message.key).map_err(RequestError::invalid)?,
        change: Change::Expire(ttl),
        context: Bytes::new(),
        w: super::level(message.w)?,
        operation: message.operation_id.as_ref().map(operation_of),
        fresh: message.fresh,
        timeout,
    })
}

/// A context as long as one may be.
pub(super) fn sized_context(context: Bytes) -> Result<Bytes, RequestError> {
    let bytes = context.len();
    let reason = || {
        let reason = format!(
            "a context of {bytes} bytes; no node answers with more than {CONTEXT_MAX_BYTES}"
        );
        RequestError::Invalid { reason }
    };
    (bytes <= CONTEXT_MAX_BYTES).then_some(context).ok_or_else(reason)
}

pub(super) fn delete_needs_context() -> RequestError {
    RequestError::invalid("a delete needs the context of what it deletes; read the key first")
}

pub(super) fn operation_of(message: &v1::OperationId) -> OperationId {
    OperationId {
        issued_ms: message.issued_ms,
        coordinator: NodeId(message.coordinator),
        opening: Opening(message.opening),
        client: message.client,
        sequence: message.sequence,
    }
}

pub(super) fn get_reply(answer: ReadAnswer, now_ms: u64) -> v1::GetReply {
    v1::GetReply {
        siblings: siblings(&answer.object, now_ms),
        context: answer.context.unwrap_or_default(),
        replicas: answer.replicas,
        fallbacks: answer.fallbacks,
    }
}

/// What has not expired: the one place where that is hidden.
fn siblings(object: &Object, now_ms: u64) -> Vec<v1::Sibling> {
    let sibling = |entry: &Entry| v1::Sibling {
        value: entry.payload.clone(),
        written_ms: entry.time.wall_ms(),
        expires_ms: entry.deadline_ms,
        ttl_ms: entry.deadline_ms.map(|deadline_ms| deadline_ms.saturating_sub(now_ms)),
    };
    object.siblings_at(now_ms).into_iter().map(sibling).collect()
}

/// Of a put; a delete's has the same fields.
pub(super) fn put_reply(written: WriteResult) -> v1::PutReply {
    let WriteResult { context, siblings, dot, acked, fallbacks, synced } = written;
    let dot = v1::Dot { actor: dot.actor.0, n: dot.n };
    let acked = acked.iter().map(|node| node.0).collect();
    let stand_in = |s: &StandIn| v1::StandIn { node: s.node.0, owner: s.owner.0 };
    let fallbacks = fallbacks.iter().map(stand_in).collect();
    let receipt = Some(v1::Receipt { dot: Some(dot), acked, synced, fallbacks });
    v1::PutReply { context: context.unwrap_or_default(), siblings, receipt }
}
