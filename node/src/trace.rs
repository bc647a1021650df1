//! Which client's request work is done for: in log lines, and from node to node.
//!
//! Whoever looks into one slow or failed request wants its lines from every node that had a part in
//! it, and no others. So each request has an id, the client's own or one that the first node makes,
//! which spans carry and messages between nodes take along:
//!
//! ```text
//!   client ── x-request-id: 7f3a ──► node 1   request{request_id=7f3a operation=put namespace=carts
//!                                      │              key_hash=9c52…}: ended outcome=ok took_us=812
//!                          request_id of the message
//!                                      ▼
//!                                    node 2   peer_request{request_id=7f3a operation=replicate …}
//! ```
//!
//! Keys show as their hash, and values never. Off unless `log_level` asks for it (`info,request=debug`):
//! then a request costs a comparison and the look for the header, and no id is made; one that a client
//! gave is sent on all the same, to nodes that may want it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tracing::instrument::Instrument as _;
use tracing::{Level, Span};

/// What spans and lines of requests are called in `log_level`.
pub const TARGET: &str = "request";

/// The most bytes of an id: it goes with every message.
const ID_MAX_BYTES: usize = 64;

tokio::task_local! {
    static CURRENT: Option<RequestId>;
}

/// Names a client's request on every node: 1 to 64 visible ASCII characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// None if `text` cannot be one: it would break the line that it stands in.
    pub fn new(text: &str) -> Option<Self> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        ((1..=ID_MAX_BYTES).contains(&text.len()) && visible).then(|| Self(text.into()))
    }

    /// As it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether anybody wants to see requests.
pub fn is_on() -> bool {
    tracing::enabled!(target: TARGET, Level::DEBUG)
}

/// The request that the present task works for; none if nobody wants to see it.
pub fn current() -> Option<RequestId> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// Does `work` for the request `id`.
pub fn scoped<W: Future>(id: Option<RequestId>, work: W) -> impl Future<Output = W::Output> {
    CURRENT.scope(id, work)
}

/// What work is done for: the request's id, and its span.
#[derive(Clone, Debug)]
pub struct Trace {
    id: Option<RequestId>,
    span: Span,
}

impl Trace {
    /// Of a request with this span; none of both if nobody wants to see it.
    pub fn new(id: Option<RequestId>, span: Span) -> Self {
        Self { id, span }
    }

    /// Of no request.
    pub fn off() -> Self {
        Self { id: None, span: Span::none() }
    }

    /// Of what the present task does: for another task that goes on with it.
    pub fn current() -> Self {
        Self { id: current(), span: Span::current() }
    }

    /// Does `work` within it.
    pub fn run<W: Future>(self, work: W) -> impl Future<Output = W::Output> {
        scoped(self.id, work).instrument(self.span)
    }
}

/// A key in log lines: enough to compare it, and nothing of its text.
pub fn hashed(hash: u64) -> impl tracing::Value {
    tracing::field::display(format!("{hash:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_stay_on_their_line() {
        for text in ["7f3a", "a", &"x".repeat(64), "order-17/retry=2"] {
            assert_eq!(RequestId::new(text).unwrap().as_str(), text);
        }
        for text in ["", "two words", "line\nbreak", "\u{e9}", &"x".repeat(65), "\x1b[31m"] {
            assert_eq!(RequestId::new(text), None, "{text:?}");
        }
    }

    #[tokio::test]
    async fn another_task_goes_on_for_the_same_request() {
        let id = RequestId::new("7f3a");
        let seen = Trace::new(id.clone(), Span::none()).run(async {
            let inherited = tokio::spawn(Trace::current().run(async { current() }));
            (tokio::spawn(async { current() }).await.unwrap(), inherited.await.unwrap())
        });
        assert_eq!(seen.await, (None, id));
        assert_eq!(current(), None);
    }
}
