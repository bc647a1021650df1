//! A cluster of fake nodes on this machine that do what a test's script says.
//!
//! Each answers the next requests as scripted, then all others well, and keeps a log of them.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use prost::Message;
use quorate_proto::v1::{
    self,
    cluster_server::{Cluster, ClusterServer},
    error_detail::{Kind, Outcome},
    kv_server::{Kv, KvServer},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, transport::Server};

// Of the library, or of a program whose tests include this file.
use super::{Client, ClientConfig};

pub(crate) const NAMESPACE: &str = "carts";
pub(crate) const OPENING: u64 = 7;
pub(crate) const NOW_MS: u64 = 1_700_000_000_000;

/// What a node does with a request, instead of answering it well.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// A typed error.
    Fail(Kind, Outcome),
    /// An error of the transport: no detail.
    Break,
    /// No answer at all.
    Hang,
    /// A good answer without a context, as when other values stand beside.
    Beside,
    /// A good answer without a context, with one value, as when another has replaced it.
    Replaced,
    /// A read that finds nothing.
    Nothing,
    /// A scan that is refused in place of its first page.
    RefusePage,
    /// A scan that breaks off after so many pages.
    BreakAfter(usize),
    /// A batch in which this key alone fails so.
    FailKey(Bytes, Kind, Outcome),
}

/// What a node was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    Describe,
    Get,
    Put(v1::OperationId, i32, Bytes),
    Delete(Bytes),
    Expire(Option<v1::Ttl>),
    Scan(Bytes, u64),
    BatchGet(Vec<Bytes>),
    /// Keys and operation ids.
    BatchPut(Vec<(Bytes, v1::OperationId)>),
}

#[derive(Default)]
pub(crate) struct Node {
    pub(crate) script: Mutex<VecDeque<Act>>,
    pub(crate) log: Mutex<Vec<Asked>>,
    /// Whether it answers no Describe.
    pub(crate) mute: AtomicBool,
    /// The reads of single keys.
    pub(crate) reads: Mutex<Vec<v1::GetRequest>>,
    /// How each request to write, of one key or of many, is to be retried.
    pub(crate) retries: Mutex<Vec<v1::Retry>>,
    /// Which quorum each request asked for, to read, to write or for a namespace.
    pub(crate) quorums: Mutex<Vec<v1::Quorum>>,
    /// What Staleness answers.
    pub(crate) staleness: Mutex<v1::StalenessReply>,
    /// What Describe answers; shared by all nodes.
    topology: Arc<Mutex<v1::DescribeReply>>,
    /// What Hints answers, one after the other and the last for ever; shared by all nodes.
    hints: Arc<Mutex<VecDeque<v1::HintsReply>>>,
    id: u64,
    pub(crate) opening: Mutex<u64>,
}

/// Nodes n0, n1, n2, of which the first is the primary of every key, then the second.
pub(crate) struct Fakes {
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) topology: Arc<Mutex<v1::DescribeReply>>,
    pub(crate) hints: Arc<Mutex<VecDeque<v1::HintsReply>>>,
}

/// `google.rpc.Status` and `google.protobuf.Any`, as far as servers use them.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<AnyMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// A status as a server makes it.
pub(crate) fn status(code: Code, message: &str, detail: v1::ErrorDetail) -> Status {
    let other = AnyMessage { type_url: "type.googleapis.com/a.b.C".into(), value: vec![255] };
    let detail = AnyMessage {
        type_url: "type.googleapis.com/quorate.v1.ErrorDetail".into(),
        value: detail.encode_to_vec(),
    };
    let (code, details) = (i32::from(code), vec![other, detail]);
    let rpc = RpcStatus { code, message: message.to_owned(), details };
    Status::with_details(code.into(), message, rpc.encode_to_vec().into())
}

impl Fakes {
    /// Three nodes, of which those in `dead` refuse connections.
    pub(crate) async fn start(dead: &[usize]) -> Self {
        let topology = Arc::new(Mutex::new(v1::DescribeReply::default()));
        let hints: Arc<Mutex<VecDeque<v1::HintsReply>>> = Arc::default();
        let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
        for id in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let node = Arc::new(Node {
                topology: Arc::clone(&topology),
                hints: Arc::clone(&hints),
                id: id as u64 + 1,
                opening: Mutex::new(OPENING),
                ..Node::default()
            });
            nodes.push(Arc::clone(&node));
            if !dead.contains(&id) {
                let service = Server::builder()
                    .add_service(KvServer::from_arc(Arc::clone(&node)))
                    .add_service(ClusterServer::from_arc(node));
                tokio::spawn(service.serve_with_incoming(TcpListenerStream::new(listener)));
            }
        }
        *topology.lock().unwrap() = describe(&addresses);
        Self { nodes, addresses, topology, hints }
    }

    pub(crate) async fn client(&self) -> Client {
        let endpoints = self.addresses.iter().map(ToString::to_string);
        let client = Client::connect(ClientConfig::new(endpoints)).await.unwrap();
        self.nodes.iter().for_each(|node| node.log.lock().unwrap().clear());
        client
    }

    pub(crate) fn script(&self, node: usize, acts: impl IntoIterator<Item = Act>) {
        self.nodes[node].script.lock().unwrap().extend(acts);
    }

    /// What a node was asked since, Describe apart.
    pub(crate) fn log(&self, node: usize) -> Vec<Asked> {
        let log = self.nodes[node].log.lock().unwrap();
        log.iter().filter(|asked| **asked != Asked::Describe).cloned().collect()
    }

    /// The operation ids of the puts that a node was sent.
    pub(crate) fn operations(&self, node: usize) -> Vec<v1::OperationId> {
        let operation = |asked| match asked {
            Asked::Put(operation, ..) => Some(operation),
            _ => None,
        };
        self.log(node).into_iter().filter_map(operation).collect()
    }
}

fn describe(addresses: &[SocketAddr]) -> v1::DescribeReply {
    let member = |(at, address): (usize, &SocketAddr)| v1::Member {
        id: at as u64 + 1,
        name: format!("n{at}"),
        client_address: address.to_string(),
        connected: true,
        ..v1::Member::default()
    };
    let owners = (0..8).flat_map(|_| [0, 1]).collect();
    v1::DescribeReply {
        cluster_id: "c".repeat(32),
        version: 1,
        members: addresses.iter().enumerate().map(member).collect(),
        partitions: 8,
        groups: vec![v1::PlacementGroup { n: 2, owners, ..Default::default() }],
        namespaces: vec![namespace(NAMESPACE)],
        now_ms: NOW_MS,
        ..v1::DescribeReply::default()
    }
}

pub(crate) fn namespace(name: &str) -> v1::Namespace {
    v1::Namespace { id: 1, name: name.to_owned(), n: 2, ..v1::Namespace::default() }
}

impl Node {
    /// Logs a request and does as the script says; what is left is for the caller to do.
    async fn act(&self, asked: Asked) -> Result<Option<Act>, Status> {
        self.log.lock().unwrap().push(asked);
        let act = self.script.lock().unwrap().pop_front();
        match act {
            Some(Act::Fail(kind, outcome)) => Err(self.fail(kind, outcome)),
            Some(Act::Break) => Err(Status::unavailable("broken pipe")),
            Some(Act::Hang) => std::future::pending().await,
            other => Ok(other),
        }
    }

    fn fail(&self, kind: Kind, outcome: Outcome) -> Status {
        status(Code::Unavailable, "as scripted", self.detail(kind, outcome))
    }

    fn detail(&self, kind: Kind, outcome: Outcome) -> v1::ErrorDetail {
        v1::ErrorDetail {
            kind: kind.into(),
            outcome: outcome.into(),
            node: format!("n{}", self.id - 1),
            ..v1::ErrorDetail::default()
        }
    }

    /// What a key of a batch fails with.
    fn batch_error(&self, key: &Bytes, act: Option<&Act>) -> Option<v1::BatchError> {
        let Some(Act::FailKey(failing, kind, outcome)) = act else { return None };
        (failing == key).then(|| v1::BatchError {
            code: Code::Unavailable.into(),
            message: "as scripted".to_owned(),
            detail: Some(self.detail(*kind, *outcome)),
        })
    }

    fn known(&self, name: &str) -> Result<v1::Namespace, Status> {
        let topology = self.topology.lock().unwrap();
        let found = topology.namespaces.iter().find(|namespace| namespace.name == name);
        found.cloned().ok_or_else(|| self.fail(Kind::UnknownNamespace, Outcome::NotApplied))
    }

    fn note_quorum(&self, quorum: v1::Quorum) {
        self.quorums.lock().unwrap().push(quorum);
    }

    fn receipt(&self) -> Option<v1::Receipt> {
        let dot = Some(v1::Dot { actor: 0xa, n: 1 });
        let fallbacks = vec![v1::StandIn { node: 3, owner: 2 }];
        Some(v1::Receipt { dot, acked: vec![self.id, 99], synced: 1, fallbacks })
    }
}

fn written(act: Option<Act>) -> (Bytes, u32) {
    match act {
        Some(Act::Beside) => (Bytes::new(), 2),
        Some(Act::Replaced) => (Bytes::new(), 1),
        _ => (Bytes::from_static(b"context"), 1),
    }
}

fn sibling(value: Bytes) -> v1::Sibling {
    v1::Sibling { value, written_ms: NOW_MS, ..v1::Sibling::default() }
}

#[tonic::async_trait]
impl Kv for Node {
    async fn resolve(
        &self,
        _request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveReply>, Status> {
        Err(Status::unimplemented("not asked for in these tests"))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetReply>, Status> {
        self.reads.lock().unwrap().push(request.get_ref().clone());
        self.note_quorum(request.get_ref().quorum());
        let act = self.act(Asked::Get).await?;
        self.known(&request.get_ref().namespace)?;
        let siblings = match act {
            Some(Act::Nothing) => Vec::new(),
            _ => vec![sibling(Bytes::from_static(b"1"))],
        };
        let context = Bytes::from_static(b"read");
        Ok(Response::new(v1::GetReply { siblings, context, replicas: 2, fallbacks: 0 }))
    }

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutReply>, Status> {
        let request = request.into_inner();
        self.retries.lock().unwrap().push(request.retry());
        self.note_quorum(request.quorum());
        let asked = Asked::Put(request.operation_id.unwrap(), request.retry, request.context);
        let act = self.act(asked).await?;
        self.known(&request.namespace)?;
        let ((context, siblings), receipt) = (written(act), self.receipt());
        Ok(Response::new(v1::PutReply { context, siblings, receipt }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteReply>, Status> {
        self.retries.lock().unwrap().push(request.get_ref().retry());
        self.note_quorum(request.get_ref().quorum());
        let act = self.act(Asked::Delete(request.into_inner().context)).await?;
        let ((context, siblings), receipt) = (written(act), self.receipt());
        Ok(Response::new(v1::DeleteReply { context, siblings, receipt }))
    }

    async fn expire(
        &self,
        request: Request<v1::ExpireRequest>,
    ) -> Result<Response<v1::ExpireReply>, Status> {
        self.note_quorum(request.get_ref().quorum());
        let act = self.act(Asked::Expire(request.into_inner().ttl)).await?;
        let ((context, siblings), receipt) = (written(act), self.receipt());
        Ok(Response::new(v1::ExpireReply { context, siblings, receipt }))
    }

    async fn batch_get(
        &self,
        request: Request<v1::BatchGetRequest>,
    ) -> Result<Response<v1::BatchGetReply>, Status> {
        let request = request.into_inner();
        self.note_quorum(request.quorum());
        let act = self.act(Asked::BatchGet(request.keys.clone())).await?;
        self.known(&request.namespace)?;
        let result = |key: Bytes| match self.batch_error(&key, act.as_ref()) {
            Some(error) => v1::batch_get_result::Result::Error(error),
            None => {
                // The value is the key, so that a test sees which answer is whose.
                let siblings = vec![sibling(key)];
                let context = Bytes::from_static(b"read");
                v1::batch_get_result::Result::Reply(v1::GetReply {
                    siblings,
                    context,
                    replicas: 2,
                    fallbacks: 0,
                })
            }
        };
        let result = |key| v1::BatchGetResult { result: Some(result(key)) };
        let results = request.keys.into_iter().map(result).collect();
        Ok(Response::new(v1::BatchGetReply { results }))
    }

    async fn batch_put(
        &self,
        request: Request<v1::BatchPutRequest>,
    ) -> Result<Response<v1::BatchPutReply>, Status> {
        let request = request.into_inner();
        self.retries.lock().unwrap().push(request.retry());
        self.note_quorum(request.quorum());
        let entry = |entry: &v1::BatchPutEntry| (entry.key.clone(), entry.operation_id.unwrap());
        let asked = Asked::BatchPut(request.entries.iter().map(entry).collect());
        let act = self.act(asked).await?;
        self.known(&request.namespace)?;
        let result = |entry: v1::BatchPutEntry| match self.batch_error(&entry.key, act.as_ref()) {
            Some(error) => v1::batch_put_result::Result::Error(error),
            None => {
                let ((_, siblings), receipt) = (written(None), self.receipt());
                v1::batch_put_result::Result::Reply(v1::PutReply {
                    context: entry.key,
                    siblings,
                    receipt,
                })
            }
        };
        let result = |entry| v1::BatchPutResult { result: Some(result(entry)) };
        let results = request.entries.into_iter().map(result).collect();
        Ok(Response::new(v1::BatchPutReply { results }))
    }

    type ScanStream = Pin<Box<dyn Stream<Item = Result<v1::ScanReply, Status>> + Send>>;

    /// Keys k0 to k9, two a page; a cursor is the number of the next key, as one character.
    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let v1::ScanRequest { cursor, limit, .. } = request.into_inner();
        let act = self.act(Asked::Scan(cursor.clone(), limit)).await?;
        let from = cursor.first().map_or(0, |digit| digit - b'0');
        let to = if limit == 0 { 10 } else { (from + limit as u8).min(10) };
        let item = |key| v1::ScanItem { key: format!("k{key}").into(), ..Default::default() };
        let page = move |first: u8| {
            let next = (first + 2).min(to);
            let cursor = Bytes::from(vec![b'0' + next]);
            Ok(v1::ScanReply { items: (first..next).map(item).collect(), cursor })
        };
        let pages = stream::iter((from..to).step_by(2).map(page));
        Ok(Response::new(match act {
            Some(Act::RefusePage) => {
                stream::iter([Err(self.fail(Kind::Overloaded, Outcome::None))]).boxed()
            }
            Some(Act::BreakAfter(count)) => {
                let broken = stream::iter([Err(Status::unavailable("broken pipe"))]);
                pages.take(count).chain(broken).boxed()
            }
            _ => pages.boxed(),
        }))
    }
}

#[tonic::async_trait]
impl Cluster for Node {
    async fn update_namespace(
        &self,
        request: Request<v1::UpdateNamespaceRequest>,
    ) -> Result<Response<v1::UpdateNamespaceReply>, Status> {
        let request = request.into_inner();
        self.note_quorum(request.quorum());
        self.known(&request.name)?;
        let mut topology = self.topology.lock().unwrap();
        let named = |namespace: &&mut v1::Namespace| namespace.name == request.name;
        let namespace = topology.namespaces.iter_mut().find(named).unwrap();
        namespace.quorum = request.quorum;
        let namespace = Some(namespace.clone());
        Ok(Response::new(v1::UpdateNamespaceReply { namespace, unreachable: Vec::new() }))
    }

    async fn staleness(
        &self,
        _: Request<v1::StalenessRequest>,
    ) -> Result<Response<v1::StalenessReply>, Status> {
        Ok(Response::new(self.staleness.lock().unwrap().clone()))
    }

    async fn hints(
        &self,
        _: Request<v1::HintsRequest>,
    ) -> Result<Response<v1::HintsReply>, Status> {
        let mut hints = self.hints.lock().unwrap();
        let next = if hints.len() > 1 { hints.pop_front() } else { hints.front().cloned() };
        Ok(Response::new(next.unwrap_or_default()))
    }

    async fn describe(
        &self,
        _: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeReply>, Status> {
        self.log.lock().unwrap().push(Asked::Describe);
        if self.mute.load(Relaxed) {
            return std::future::pending().await;
        }
        let topology = self.topology.lock().unwrap().clone();
        let opening = *self.opening.lock().unwrap();
        Ok(Response::new(v1::DescribeReply { node: self.id, opening, ..topology }))
    }

    async fn create_namespace(
        &self,
        request: Request<v1::CreateNamespaceRequest>,
    ) -> Result<Response<v1::CreateNamespaceReply>, Status> {
        self.note_quorum(request.get_ref().quorum());
        let made = namespace(&request.into_inner().name);
        self.topology.lock().unwrap().namespaces.push(made.clone());
        let unreachable = vec!["n9".to_owned()];
        Ok(Response::new(v1::CreateNamespaceReply { namespace: Some(made), unreachable }))
    }

    async fn list_namespaces(
        &self,
        _: Request<v1::ListNamespacesRequest>,
    ) -> Result<Response<v1::ListNamespacesReply>, Status> {
        let namespaces = self.topology.lock().unwrap().namespaces.clone();
        Ok(Response::new(v1::ListNamespacesReply { namespaces }))
    }

    async fn describe_namespace(
        &self,
        request: Request<v1::DescribeNamespaceRequest>,
    ) -> Result<Response<v1::DescribeNamespaceReply>, Status> {
        let namespace = Some(self.known(&request.into_inner().name)?);
        Ok(Response::new(v1::DescribeNamespaceReply { namespace }))
    }

    async fn drop_namespace(
        &self,
        request: Request<v1::DropNamespaceRequest>,
    ) -> Result<Response<v1::DropNamespaceReply>, Status> {
        let name = request.into_inner().name;
        self.topology.lock().unwrap().namespaces.retain(|namespace| namespace.name != name);
        Ok(Response::new(v1::DropNamespaceReply { unreachable: Vec::new() }))
    }
}
