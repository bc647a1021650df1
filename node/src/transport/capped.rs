//! Bounds on connections of clients: how many there are, and how long one may say nothing.
//!
//! ```text
//!   listener ─► capped ─► (TLS) ─► greeted ─► attended ─► tonic
//!                 │                   │           └ closed if answers wait for too long to be read
//!                 │                   └ closed if no HTTP/2 preface comes in time
//!                 └ over the limit: closed at once, counted, logged now and then
//! ```
//!
//! A connection costs memory and a task before its first request, and HTTP/2 pings a silent client
//! only once it has greeted. All are streams and wrappers over any kind of connection, so that they
//! stand on either side of TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::transport::server::Connected;

use crate::limits::unread::Unread;

/// How long a client may take to greet: what a slow line needs many times over.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// The length of HTTP/2's client preface (RFC 9113, 3.4).
const GREETING_BYTES: usize = 24;

/// The pause between two log lines about refused connections.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// Hears of connections, for metrics.
pub trait ConnectionObserver: Send + Sync + 'static {
    /// So many are open now.
    fn open(&self, connections: usize);
    /// One was refused.
    fn refused(&self);
}

/// How many connections there are, and how many there may be.
pub struct ConnectionLimit {
    max: usize,
    open: AtomicUsize,
    observer: Arc<dyn ConnectionObserver>,
    made: Instant,
    /// When a refusal may be logged again, in milliseconds since `made`; and how many were not.
    log_from_ms: AtomicU64,
    unlogged: AtomicU64,
}

impl ConnectionLimit {
    /// At most `max` connections at a time.
    pub fn new(max: usize, observer: Arc<dyn ConnectionObserver>) -> Arc<Self> {
        Arc::new(Self {
            max,
            open: AtomicUsize::new(0),
            observer,
            made: Instant::now(),
            log_from_ms: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
        })
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        let before = self.open.fetch_add(1, Relaxed);
        if before >= self.max {
            self.open.fetch_sub(1, Relaxed);
            self.on_refused();
            return None;
        }
        self.observer.open(before + 1);
        Some(Place(self.clone()))
    }

    fn on_refused(&self) {
        self.observer.refused();
        let refused = self.unlogged.fetch_add(1, Relaxed) + 1;
        let now_ms = self.made.elapsed().as_millis() as u64;
        let from_ms = self.log_from_ms.load(Relaxed);
        let next_ms = now_ms + LOG_PAUSE.as_millis() as u64;
        let turn = self.log_from_ms.compare_exchange(from_ms, next_ms, Relaxed, Relaxed);
        if now_ms >= from_ms && turn.is_ok() {
            self.unlogged.fetch_sub(refused, Relaxed);
            let connections_max = self.max;
            tracing::warn!(refused, connections_max, "connections of clients were refused");
        }
    }
}

/// A connection's place, until it is dropped.
struct Place(Arc<ConnectionLimit>);

impl Drop for Place {
    fn drop(&mut self) {
        let before = self.0.open.fetch_sub(1, Relaxed);
        self.0.observer.open(before - 1);
    }
}

/// The connections of `incoming` as far as the limit allows; the others are closed.
pub fn capped<IO: Send + 'static>(
    incoming: impl Stream<Item = io::Result<IO>> + Send,
    limit: Arc<ConnectionLimit>,
) -> impl Stream<Item = io::Result<Capped<IO>>> + Send {
    incoming.filter_map(move |accepted| {
        let held = accepted.map(|io| limit.enter().map(|place| Capped { io, _place: place }));
        std::future::ready(held.transpose())
    })
}

/// A connection that counts as long as it is kept.
pub struct Capped<IO> {
    io: IO,
    _place: Place,
}

/// A connection whose client must greet in time.
pub struct Greeted<IO> {
    io: IO,
    /// What is missing of the preface, and until when; none once it came.
    missing: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<IO> Greeted<IO> {
    /// From now on.
    pub fn new(io: IO) -> Self {
        Self { io, missing: Some((GREETING_BYTES, Box::pin(sleep(GREETING_TIMEOUT)))) }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Greeted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        let Some((missing, timer)) = &mut self.missing else { return polled };
        if polled.is_pending() {
            ready!(timer.as_mut().poll(cx));
            let reason = "the client did not greet in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)));
        }
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            self.missing = None;
        }
        polled
    }
}

/// A connection whose client must read what it asks for.
pub struct Attended<IO> {
    io: IO,
    unread: Arc<Unread>,
    /// When to look next; none if nothing waited when it was read from.
    look: Option<Pin<Box<Sleep>>>,
}

impl<IO> Attended<IO> {
    /// An answer may wait for `patience`, or twice that, to be read.
    pub fn new(io: IO, patience: Duration) -> Self {
        Self { io, unread: Unread::new(patience), look: None }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Attended<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        let this = &mut *self;
        while polled.is_pending() && this.unread.any() {
            let next = || Box::pin(sleep_until(this.unread.next_period()));
            ready!(this.look.get_or_insert_with(next).as_mut().poll(cx));
            this.look = None;
            if this.unread.is_overdue() {
                tracing::warn!("a client that did not read its answers was disconnected");
                let reason = "the client does not read its answers";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)));
            }
        }
        polled
    }
}

impl<IO> Connected for Attended<IO> {
    type ConnectInfo = Arc<Unread>;

    fn connect_info(&self) -> Arc<Unread> {
        self.unread.clone()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Capped<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

/// Writing passes through.
macro_rules! writes_through {
    ($wrapper:ident) => {
        impl<IO: AsyncWrite + Unpin> AsyncWrite for $wrapper<IO> {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.io).poll_write(cx, bytes)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.io).poll_write_vectored(cx, slices)
            }

            fn is_write_vectored(&self) -> bool {
                self.io.is_write_vectored()
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.io).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.io).poll_shutdown(cx)
            }
        }
    };
}

writes_through!(Capped);
writes_through!(Greeted);
writes_through!(Attended);

impl<IO: Connected> Connected for Capped<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[derive(Default)]
    struct Seen {
        open: AtomicUsize,
        refused: AtomicUsize,
    }

    impl ConnectionObserver for Seen {
        fn open(&self, connections: usize) {
            self.open.store(connections, Relaxed);
        }

        fn refused(&self) {
            self.refused.fetch_add(1, Relaxed);
        }
    }

    #[tokio::test]
    async fn over_the_limit_connections_are_closed_until_others_end() {
        let seen = Arc::new(Seen::default());
        let limit = ConnectionLimit::new(2, seen.clone());
        let (mut clients, servers): (Vec<_>, Vec<_>) = (0..3).map(|_| duplex(64)).unzip();
        let incoming = stream::iter(servers.into_iter().map(Ok));
        let mut held: Vec<_> = capped(incoming, limit.clone()).collect().await;
        assert_eq!((held.len(), seen.open.load(Relaxed), seen.refused.load(Relaxed)), (2, 2, 1));
        let mut rest = String::new();
        clients[2].read_to_string(&mut rest).await.expect("it is closed, which ends the reading");
        drop(held.pop());
        assert_eq!(seen.open.load(Relaxed), 1);
        let next = capped(stream::iter([Ok(duplex(64).0)]), limit).count().await;
        assert_eq!((next, seen.refused.load(Relaxed)), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_greet_is_closed_and_who_did_may_be_silent() {
        let (mut client, server) = duplex(64);
        let mut server = Greeted::new(server);
        let mut buffer = [0; 64];
        client.write_all(&[1; GREETING_BYTES - 1]).await.unwrap();
        assert_eq!(server.read(&mut buffer).await.unwrap(), GREETING_BYTES - 1);
        let silent = server.read(&mut buffer).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);

        let (mut client, server) = duplex(64);
        let mut server = Greeted::new(server);
        client.write_all(&[1; GREETING_BYTES]).await.unwrap();
        assert_eq!(server.read(&mut buffer).await.unwrap(), GREETING_BYTES);
        let waited = tokio::time::timeout(GREETING_TIMEOUT * 9, server.read(&mut buffer)).await;
        assert!(waited.is_err(), "it is read from for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn who_lets_an_answer_wait_is_closed_and_who_reads_in_time_is_not() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let (_client, server) = duplex(64);
        let mut server = Attended::new(server, PATIENCE);
        let (unread, mut buffer) = (server.connect_info(), [0; 64]);
        for _ in 0..5 {
            let waiting = unread.begin();
            let read = tokio::time::timeout(PATIENCE * 9 / 10, server.read(&mut buffer)).await;
            assert!(read.is_err(), "it may wait for so long");
            drop(waiting);
        }
        let _waiting = unread.begin();
        let closed = tokio::time::timeout(PATIENCE * 2, server.read(&mut buffer)).await;
        assert_eq!(closed.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
