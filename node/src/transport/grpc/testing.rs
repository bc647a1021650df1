//! Nodes on 127.0.0.1 for tests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    Bootstrap, Dialer, GrpcPeers, Identity, Incarnation, Limits, Local, PeerService, server,
};
use crate::dynamo::key::NodeId;
use crate::dynamo::operation::Opening;
use crate::error::RequestError;
use crate::transport::conformance::TestHandler;
use crate::transport::tls::{self, Port, PortTls, TlsObserver};
use crate::transport::{Handler, listener};

/// A running node.
pub(in crate::transport) struct Node {
    pub(in crate::transport) handler: Arc<TestHandler>,
    pub(in crate::transport) peers: Arc<GrpcPeers>,
    pub(in crate::transport) address: SocketAddr,
    incarnation: Incarnation,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    service: PeerService,
}

/// Counts refusals by their cause.
#[derive(Default)]
pub(in crate::transport) struct Seen(Mutex<Vec<&'static str>>);

impl Seen {
    pub(in crate::transport) fn count(&self, cause: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|seen| **seen == cause).count()
    }
}

impl TlsObserver for Seen {
    fn refused(&self, _: Port, cause: &'static str) {
        self.0.lock().unwrap().push(cause);
    }
}

/// A node's introduction: it takes the document "first" alone.
pub(super) struct Newcomer;

impl Bootstrap for Newcomer {
    fn identify(&self) -> Identity {
        Identity {
            node: NodeId::of_name("node-9"),
            name: "node-9".to_owned(),
            zone: "z".to_owned(),
            weight: 3,
            store: 5,
            peer_address: "p:1".to_owned(),
            client_address: "c:2".to_owned(),
            cluster: None,
            version: 0,
        }
    }

    fn bootstrap(&self, document: Bytes) -> BoxFuture<'static, Result<(), RequestError>> {
        let taken = match &document[..] {
            b"first" => Ok(()),
            _ => Err(RequestError::Conflict { reason: "another cluster".to_owned() }),
        };
        std::future::ready(taken).boxed()
    }

    fn document(&self) -> Option<Bytes> {
        Some(Bytes::from_static(b"newest"))
    }
}

pub(in crate::transport) fn incarnation(node: u64, opening: u64) -> Incarnation {
    Incarnation { cluster: [7; 16], node: NodeId(node), store: 1, opening: Opening(opening) }
}

impl Node {
    pub(in crate::transport) async fn start(incarnation: Incarnation) -> Self {
        Self::start_at(incarnation, "127.0.0.1:0", Limits::default()).await
    }

    pub(super) async fn start_at(incarnation: Incarnation, address: &str, limits: Limits) -> Self {
        let seen = Arc::new(Seen::default());
        Self::start_within(incarnation, address, limits, (None, seen)).await
    }

    /// Within TLS; refusals are counted.
    pub(in crate::transport) async fn start_secured(
        incarnation: Incarnation,
        tls: Arc<PortTls>,
        seen: Arc<Seen>,
    ) -> Self {
        let (address, limits) = ("127.0.0.1:0", Limits::default());
        Self::start_within(incarnation, address, limits, (Some(tls), seen)).await
    }

    async fn start_within(
        incarnation: Incarnation,
        address: &str,
        limits: Limits,
        (tls, seen): (Option<Arc<PortTls>>, Arc<Seen>),
    ) -> Self {
        let handler = Arc::new(TestHandler::default());
        let local = Local::new(incarnation);
        let dynamic: Arc<dyn Handler> = handler.clone();
        local.answer_with(&dynamic);
        let stop = CancellationToken::new();
        let service = PeerService::new(Arc::new(Newcomer), limits.clone(), stop.clone());
        service.join(local.clone());
        let (incoming, address) = listener::bind(address).await.unwrap();
        let incoming = tls::secured(incoming, tls.clone(), seen);
        let served = server()
            .add_service(service.clone().into_server())
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let serving = tokio::spawn(async move { served.await.unwrap() });
        let peers = GrpcPeers::new(local, Dialer::new(tls), limits, stop.clone());
        Self { handler, peers, address, incarnation, stop, serving, service }
    }

    /// Makes `other` a member, at its address.
    pub(in crate::transport) fn meet(&self, other: &Self) {
        let id = other.incarnation.node;
        self.peers.set_members(&[(id, other.address.to_string())]);
    }

    pub(in crate::transport) async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
        self.peers.stopped().await;
        self.service.stopped().await;
    }
}
