//! The accepting side: answers the requests of whoever dialed.
//!
//! The stream of answers does the work itself whenever HTTP/2 asks it for the next frame: it reads
//! requests, runs them side by side, and puts what is done into a frame. No task and no channel per
//! message, and a peer that does not take its answers is not read from either.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream, StreamExt as _};
use quorate_proto::peer as proto;
use quorate_proto::peer::peer_server::{Peer, PeerServer};
use quorate_proto::peer::{Frame, Hello, Message};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::introduce::{Bootstrap, encode_identity};
use super::queue::{Batch, Measured, Sending, hello_frame};
use super::{
    FRAME_MAX_BYTES, HANDSHAKE_TIMEOUT, Incarnation, Limits, Local, MESSAGE_MAX_BYTES, Presence,
    Refusal,
};
use crate::error::RequestError;
use crate::limits::budget::{Budget, Kind};
use crate::transport::answer::{Arrival, answer};
use crate::transport::tls::{ConnectInfo, Throttle};
use crate::transport::{Reply, wire};

/// The gRPC service by which peers reach this node. Clones are one service.
#[derive(Clone)]
pub struct PeerService(Arc<Shared>);

struct Shared {
    bootstrap: Arc<dyn Bootstrap>,
    limits: Limits,
    /// Set when the cluster is known.
    local: OnceLock<Arc<Local>>,
    stop: CancellationToken,
    throttle: Throttle,
    /// Requests whose stream broke; they run to their end.
    orphans: TaskTracker,
}

impl PeerService {
    /// A service without a cluster: it introduces the node and takes a first document; `stop` ends
    /// every stream.
    pub fn new(bootstrap: Arc<dyn Bootstrap>, limits: Limits, stop: CancellationToken) -> Self {
        let (local, orphans) = (OnceLock::new(), TaskTracker::new());
        let throttle = Throttle::default();
        Self(Arc::new(Shared { bootstrap, limits, local, stop, throttle, orphans }))
    }

    /// Lets the members of its cluster connect. Said once.
    pub fn join(&self, local: Arc<Local>) {
        assert!(self.0.local.set(local).is_ok(), "a node joins one cluster, once");
    }

    /// The service for tonic's router.
    pub fn into_server(self) -> PeerServer<Self> {
        PeerServer::new(self).max_decoding_message_size(FRAME_MAX_BYTES)
    }

    /// Returns once requests that lost their stream have ended; `stop` must have been cancelled and
    /// the server must have ended.
    pub async fn stopped(&self) {
        self.0.orphans.close();
        self.0.orphans.wait().await;
    }

    /// Checks who is there.
    async fn greet(
        &self,
        inbound: &mut Streaming<Frame>,
        from: Option<&ConnectInfo>,
    ) -> Result<(Arc<Local>, Presence), Status> {
        let local = self.0.local.get().ok_or_else(|| Status::unavailable("no cluster yet"))?;
        let first = timeout(HANDSHAKE_TIMEOUT, inbound.message());
        let first = first.await.map_err(|_| Status::deadline_exceeded("no Hello came"))??;
        let remote = local.incarnation.check(first.and_then(|frame| frame.hello));
        let presence = remote
            .and_then(|remote| named_by_its_certificate(remote, from))
            .and_then(|remote| local.admit(remote))
            .map_err(|refusal| self.refused(&refusal, from))?;
        Ok((local.clone(), presence))
    }

    /// Both ends are told.
    fn refused(&self, refusal: &Refusal, from: Option<&ConnectInfo>) -> Status {
        if let Some(unlogged) = self.0.throttle.admit(std::time::Instant::now()) {
            let address = from.and_then(|info| info.remote);
            let address = address.map_or_else(|| "?".to_owned(), |address| address.to_string());
            tracing::warn!(address, unlogged, "refused a peer: {refusal}");
        }
        Status::failed_precondition(format!("refused: {refusal}"))
    }
}

/// Where there are certificates, a node is who its own says.
fn named_by_its_certificate(
    remote: Incarnation,
    from: Option<&ConnectInfo>,
) -> Result<Incarnation, Refusal> {
    let node = remote.node;
    match from.and_then(|info| info.certificate.as_ref()) {
        Some(certificate) if !certificate.is_of(node) => {
            Err(Refusal::Certificate { node, names: certificate.nodes.join(", ") })
        }
        _ => Ok(remote),
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let info = request.extensions().get::<ConnectInfo>().cloned();
        let mut inbound = request.into_inner();
        let (local, presence) = self.greet(&mut inbound, info.as_ref()).await?;
        let handler = local.handler().ok_or_else(|| Status::unavailable("not ready yet"))?;
        let (from, budget) = (presence.node, self.0.limits.budget.clone());
        let answers = Answers {
            hello: Some(local.incarnation.hello(from)),
            inbound,
            unread: Vec::new().into_iter(),
            ended: false,
            arrived: Instant::now(),
            start: move |message, arrived| {
                let (budget, bytes) = (budget.clone(), prost::Message::encoded_len(&message));
                let (charge, refused) = match budget.take_if_large(Kind::Replicas, bytes) {
                    Ok(charge) => (charge, None),
                    Err(full) => (None, Some(full)),
                };
                let arrival = Arrival { at: arrived, refused };
                answer(handler.clone(), from, message, arrival).map(move |answer| {
                    drop(charge);
                    fitting(Measured::new(answer), &budget)
                })
            },
            sending: Vec::new(),
            running: FuturesUnordered::new(),
            running_max: self.0.limits.running,
            stop: self.0.stop.clone().cancelled_owned().boxed(),
            orphans: self.0.orphans.clone(),
            _presence: presence,
        };
        Ok(Response::new(Box::pin(answers)))
    }

    async fn identify(
        &self,
        _: Request<proto::IdentifyRequest>,
    ) -> Result<Response<proto::IdentifyReply>, Status> {
        Ok(Response::new(encode_identity(self.0.bootstrap.identify())))
    }

    async fn bootstrap(
        &self,
        request: Request<proto::BootstrapRequest>,
    ) -> Result<Response<proto::BootstrapReply>, Status> {
        let taken = self.0.bootstrap.bootstrap(request.into_inner().document).await;
        let failure = taken.err().map(|error| wire::encode_failure(error, None));
        Ok(Response::new(proto::BootstrapReply { failure }))
    }

    async fn fetch_document(
        &self,
        _: Request<proto::FetchDocumentRequest>,
    ) -> Result<Response<proto::FetchDocumentReply>, Status> {
        let document = self.0.bootstrap.document().unwrap_or_default();
        Ok(Response::new(proto::FetchDocumentReply { document }))
    }
}

/// The answer, or that it is too long to be sent, or has no room here: one frame too long would
/// break the stream for all. Only reads have long answers.
fn fitting(answer: Measured, budget: &Arc<Budget>) -> Measured {
    let (id, version, bytes) = (answer.message.id, answer.message.version, answer.bytes);
    let charged = if bytes < MESSAGE_MAX_BYTES {
        answer.charged(budget, Kind::Replicas)
    } else {
        let reason = format!("an answer of {bytes} bytes; the most is {MESSAGE_MAX_BYTES}");
        Err(RequestError::Data { reason })
    };
    let failed = |error| Measured::new(wire::reply_message(id, version, Reply::Failed(error)));
    charged.unwrap_or_else(failed)
}

/// The frames of the accepting side. `F` starts the work on a request.
struct Answers<F, W: Future<Output = Measured> + Send + 'static> {
    hello: Option<Hello>,
    inbound: Streaming<Frame>,
    /// What is left of the last frame.
    unread: std::vec::IntoIter<Message>,
    /// When that came: its requests' time runs while they wait here.
    arrived: Instant,
    /// No more requests will come.
    ended: bool,
    start: F,
    running: FuturesUnordered<W>,
    running_max: usize,
    sending: Sending,
    stop: BoxFuture<'static, ()>,
    orphans: TaskTracker,
    _presence: Presence,
}

/// Where reading stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Nothing has come; the waker will tell.
    Waiting,
    /// As many requests run as may.
    Full,
    /// The dialing side has ended the stream.
    Ended,
}

impl<F, W> Answers<F, W>
where
    F: FnMut(Message, Instant) -> W,
    W: Future<Output = Measured> + Send + 'static,
{
    /// Starts what has come, as far as there is room.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<Reading, Status> {
        loop {
            while self.running.len() < self.running_max {
                let Some(message) = self.unread.next() else { break };
                self.running.push((self.start)(message, self.arrived));
            }
            if self.running.len() >= self.running_max {
                return Ok(Reading::Full);
            }
            if self.ended {
                return Ok(Reading::Ended);
            }
            match self.inbound.poll_next_unpin(cx) {
                Poll::Pending => return Ok(Reading::Waiting),
                Poll::Ready(Some(frame)) => {
                    self.unread = frame?.messages.into_iter();
                    self.arrived = Instant::now();
                }
                Poll::Ready(None) => self.ended = true,
            }
        }
    }
}

impl<F, W> Stream for Answers<F, W>
where
    F: FnMut(Message, Instant) -> W + Unpin,
    W: Future<Output = Measured> + Send + 'static,
{
    type Item = Result<Frame, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(hello) = this.hello.take() {
            return Poll::Ready(Some(Ok(hello_frame(hello))));
        }
        if this.stop.poll_unpin(cx).is_ready() {
            return Poll::Ready(Some(Err(Status::unavailable("stopping"))));
        }
        this.sending.clear();
        let mut batch = Batch::default();
        let mut reading = Reading::Full;
        loop {
            // Room may have come since; but a stream that has nothing need not be asked again.
            if reading == Reading::Full {
                reading = match this.read(cx) {
                    Ok(reading) => reading,
                    Err(status) => return Poll::Ready(Some(Err(status))),
                };
            }
            match this.running.poll_next_unpin(cx) {
                Poll::Ready(Some(answer)) => batch.push(answer),
                Poll::Ready(None) if reading == Reading::Ended => {
                    return Poll::Ready(batch.take(&mut this.sending).map(Ok));
                }
                _ => {
                    return batch
                        .take(&mut this.sending)
                        .map_or(Poll::Pending, |frame| Poll::Ready(Some(Ok(frame))));
                }
            }
            if batch.is_full() {
                return Poll::Ready(batch.take(&mut this.sending).map(Ok));
            }
        }
    }
}

impl<F, W: Future<Output = Measured> + Send + 'static> Drop for Answers<F, W> {
    /// What has begun is finished, though nobody hears of it: a write that is being replicated
    /// does not depend on whether the node that forwarded it is still there.
    fn drop(&mut self) {
        let mut running = std::mem::take(&mut self.running);
        if !running.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            self.orphans.spawn(async move { while running.next().await.is_some() {} });
        }
    }
}
