//! The accepting side: answers the requests of whoever dialed.
//!
//! The stream of answers does the work itself whenever HTTP/2 asks it for the next frame: it reads
//! requests, runs them side by side, and puts what is done into a frame. No task and no channel per
//! message, and a peer that does not take its answers is not read from either.
//!
//! Only so many requests of a peer run at once. What comes then is read on a little way, for the sake
//! of what is answered at once: who asks whether this node is there must not wait behind what keeps it
//! busy, or a busy node would be taken for a dead one.
//!
//! ```text
//!   running: as many as may     read ahead: put get put     gossip: answered, before them
//! ```

use std::collections::VecDeque;
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
    Refusal, WINDOW_BYTES,
};
use crate::error::RequestError;
use crate::limits::budget::{Budget, Kind};
use crate::transport::answer::{Arrival, answer};
use crate::transport::tls::{ConnectInfo, Throttle};
use crate::transport::{Reply, wire};

/// How far is read on when no more requests may run: a few frames of small ones, and of large ones no
/// more than what is under way anyhow.
const AHEAD_MESSAGES: usize = 1024;
const AHEAD_BYTES: usize = WINDOW_BYTES as usize;

/// How many requests that are answered at once a peer may have under way: each second it sends a few.
const PROMPT_MAX: usize = 64;

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
            unread: VecDeque::new(),
            unread_bytes: 0,
            ended: false,
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
            prompt: FuturesUnordered::new(),
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
    /// Requests for which there is no room yet, with when they came: their time runs while they wait.
    unread: VecDeque<(Message, Instant)>,
    unread_bytes: usize,
    /// No more requests will come.
    ended: bool,
    start: F,
    running: FuturesUnordered<W>,
    running_max: usize,
    /// Those that do not wait for room.
    prompt: FuturesUnordered<W>,
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
    /// Requests wait for room; none is taken until there is some.
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
                let Some((message, arrived)) = self.unread.pop_front() else { break };
                self.unread_bytes -= prost::Message::encoded_len(&message);
                self.running.push((self.start)(message, arrived));
            }
            match (self.ended, self.unread.is_empty()) {
                (true, true) => return Ok(Reading::Ended),
                (true, false) => return Ok(Reading::Full),
                (false, _) if self.is_full() => return Ok(Reading::Full),
                (false, _) => {}
            }
            match self.inbound.poll_next_unpin(cx) {
                Poll::Pending => return Ok(Reading::Waiting),
                Poll::Ready(Some(frame)) => self.take_in(frame?),
                Poll::Ready(None) => self.ended = true,
            }
        }
    }

    fn is_full(&self) -> bool {
        let crowd = self.unread.len() >= AHEAD_MESSAGES || self.unread_bytes >= AHEAD_BYTES;
        crowd || self.prompt.len() >= PROMPT_MAX
    }

    /// Begins what is answered at once; the rest waits in its order.
    fn take_in(&mut self, frame: Frame) {
        let arrived = Instant::now();
        for message in frame.messages {
            if wire::is_answered_at_once(message.body.as_ref()) {
                self.prompt.push((self.start)(message, arrived));
            } else {
                self.unread_bytes += prost::Message::encoded_len(&message);
                self.unread.push_back((message, arrived));
            }
        }
    }
}

/// What is done next of either, the first before the second; none if nothing runs.
fn poll_both<W: Future>(
    first: &mut FuturesUnordered<W>,
    second: &mut FuturesUnordered<W>,
    cx: &mut Context<'_>,
) -> Poll<Option<W::Output>> {
    let first = match first.poll_next_unpin(cx) {
        Poll::Ready(Some(done)) => return Poll::Ready(Some(done)),
        nothing => nothing,
    };
    match second.poll_next_unpin(cx) {
        Poll::Ready(None) => first,
        done => done,
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
            if reading == Reading::Full || !this.unread.is_empty() {
                reading = match this.read(cx) {
                    Ok(reading) => reading,
                    Err(status) => return Poll::Ready(Some(Err(status))),
                };
            }
            match poll_both(&mut this.prompt, &mut this.running, cx) {
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
        // What is answered at once is worth nothing without an answer.
        let mut running = std::mem::take(&mut self.running);
        if !running.is_empty() && tokio::runtime::Handle::try_current().is_ok() {
            self.orphans.spawn(async move { while running.next().await.is_some() {} });
        }
    }
}
