//! Counts what clients send and are sent, in the node's memory, while it is on its way.
//!
//! A message of a client is complete before a handler sees it, and one that comes slowly would hold
//! what has come for as long as it likes; an answer waits in the connection until its client reads
//! it. So the bodies themselves are wrapped:
//!
//! ```text
//!   request  ─ Arriving ─► charged as it comes, refused if there is no room or no end ─► handler
//!   answer   ◄─ Leaving ── charged until it is sent ◄─ handler (large ones: charged there)
//! ```
//!
//! The wrappers stand inside the boxes that tonic makes anyway, and small messages are not charged,
//! so that the common request pays for a comparison.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Body as HttpBody, Service};
use tonic::server::NamedService;

use super::status;
use crate::error::RequestError;
use crate::limits::budget::{Budget, Charge, Kind, SMALL_BYTES, tie};
use crate::limits::unread::Unread;
use crate::telemetry::{Metrics, Operation};

/// The memory of a large answer, among the extensions of its response.
#[derive(Clone, Debug)]
pub struct ReplyCharge(pub Arc<Charge>);

/// What the bodies of all requests share.
#[derive(Debug)]
pub struct Meter {
    /// In which bytes are counted.
    pub budget: Arc<Budget>,
    /// How long a message may take to arrive.
    pub patience: Duration,
    /// The node's name, for error messages.
    pub node: String,
    /// What is refused here, no handler sees: it is counted here, too.
    pub metrics: Arc<Metrics>,
}

/// A gRPC service whose messages are counted.
#[derive(Clone, Debug)]
pub struct Metered<S> {
    service: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    /// Counts the messages of `service`.
    pub fn new(service: S, meter: Arc<Meter>) -> Self {
        Self { service, meter }
    }
}

impl<S: NamedService> NamedService for Metered<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Metered<S>
where
    S: Service<Request<Arriving<Body>>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Leaving<Body>>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let meter = self.meter.clone();
        let unread = request.extensions().get::<Arc<Unread>>().cloned();
        let operation = Operation::of_path(request.uri().path());
        let arriving =
            |body| Arriving { body, operation, meter, seen: 0, charge: None, ends: None };
        let request = request.map(arriving);
        Answering { answer: self.service.call(request), budget: self.meter.budget.clone(), unread }
    }
}

/// An answer that is being made.
#[derive(Debug)]
pub struct Answering<F> {
    answer: F,
    budget: Arc<Budget>,
    unread: Option<Arc<Unread>>,
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Leaving<Body>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut response) = ready!(Pin::new(&mut self.answer).poll(cx));
        let whole = response.extensions_mut().remove::<ReplyCharge>();
        let (budget, unread) = (self.budget.clone(), self.unread.take());
        Poll::Ready(Ok(response.map(|body| Leaving { body, budget, unread, whole })))
    }
}

/// The body of a request.
#[derive(Debug)]
pub struct Arriving<B> {
    body: B,
    /// What it asks for, if it is about keys.
    operation: Option<Operation>,
    meter: Arc<Meter>,
    seen: usize,
    charge: Option<Charge>,
    /// When it must have come; set when it has to be waited for.
    ends: Option<Pin<Box<Sleep>>>,
}

impl<B> Arriving<B> {
    fn count(&mut self, bytes: usize) -> Result<(), RequestError> {
        self.seen += bytes;
        match &mut self.charge {
            Some(charge) => charge.grow(bytes),
            None if self.seen < SMALL_BYTES => Ok(()),
            None => {
                self.charge = Some(self.meter.budget.take(Kind::Receiving, self.seen)?);
                Ok(())
            }
        }
    }

    /// The end of the body, after which nobody asks for more of it.
    fn refuse(&mut self, error: &RequestError) -> Status {
        self.charge = None;
        self.meter.metrics.limits().unread(self.operation, error);
        status::of_unread(error, &self.meter.node)
    }
}

impl<B> HttpBody for Arriving<B>
where
    B: HttpBody<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_pending() {
            let patience = this.meter.patience;
            let ends = this.ends.get_or_insert_with(|| Box::pin(sleep(patience)));
            ready!(ends.as_mut().poll(cx));
            let waiting_for = "the request arrived".to_owned();
            let late = RequestError::Timeout { waiting_for };
            return Poll::Ready(Some(Err(this.refuse(&late))));
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && let Err(full) = this.count(data.len())
        {
            return Poll::Ready(Some(Err(this.refuse(&full))));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct Leaving<B> {
    body: B,
    budget: Arc<Budget>,
    /// What waits on the same connection; none where connections are not watched.
    unread: Option<Arc<Unread>>,
    /// Of the whole answer, if its handler took it.
    whole: Option<ReplyCharge>,
}

impl<B> Leaving<B> {
    /// The data with their charge. HTTP/2 asks for the next frame as soon as it has queued this one,
    /// and lets go of its bytes when they are sent.
    fn counted(&mut self, data: Bytes) -> Bytes {
        match self.whole.take() {
            Some(ReplyCharge(whole)) => tie(data, (whole, self.unread.as_ref().map(Unread::begin))),
            // A page of a scan, which its client may take its time to read.
            None => self.budget.hold_anyway(Kind::Replies, data),
        }
    }
}

impl<B> HttpBody for Leaving<B>
where
    B: HttpBody<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        polled.map_ok(|frame| match frame.data_ref() {
            Some(data) if data.len() >= SMALL_BYTES => frame.map_data(|data| this.counted(data)),
            _ => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
