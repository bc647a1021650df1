//! Handshakes of whoever connects: side by side, in a given time, so many at most.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::port::PortTls;
use super::secured::{Rewound, Secured};
use super::throttle::Throttle;
use super::{Port, plain};

/// How long a handshake may take: two round trips on a bad line many times over.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many may be under way: what all clients need who come back at once after a restart, in
/// memory of some 20 KiB each.
const HANDSHAKES_MAX: usize = 256;

/// How many may wait to be served; the server takes them at once.
const WAITING_MAX: usize = 16;

/// How long the other end may take to read why it was refused. If the connection were closed with
/// unread data in it, the operating system would throw the reason away.
const LINGER: Duration = Duration::from_secs(1);

/// Hears of refusals, for metrics.
pub trait TlsObserver: Send + Sync + 'static {
    /// A connection was refused; `cause` is one of a few words.
    fn refused(&self, port: Port, cause: &'static str);
}

/// Any connection that can be within TLS.
pub trait Connection:
    AsyncRead + AsyncWrite + Connected<ConnectInfo = TcpConnectInfo> + Unpin + Send + 'static
{
}

impl<IO> Connection for IO where
    IO: AsyncRead + AsyncWrite + Connected<ConnectInfo = TcpConnectInfo> + Unpin + Send + 'static
{
}

/// The connections of `incoming` that may be served: with `tls` those whose handshake succeeded,
/// else all. Called within a runtime; what it spawns ends when the result is dropped.
pub fn secured<IO: Connection>(
    incoming: impl Stream<Item = io::Result<IO>> + Send + Unpin + 'static,
    tls: Option<Arc<PortTls>>,
    observer: Arc<dyn TlsObserver>,
) -> BoxStream<'static, io::Result<Secured<IO>>> {
    let Some(tls) = tls else {
        return incoming.map_ok(Secured::Plain).boxed();
    };
    let (ready, served) = mpsc::channel(WAITING_MAX);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let guard = Arc::new(Guard { tls, observer, throttle: Throttle::default() });
    tokio::spawn(accept(incoming, Accepting { guard, handshakes, ready }));
    ReceiverStream::new(served).boxed()
}

struct Accepting<IO> {
    guard: Arc<Guard>,
    handshakes: Arc<Semaphore>,
    ready: mpsc::Sender<io::Result<Secured<IO>>>,
}

/// What all handshakes of a port share.
struct Guard {
    tls: Arc<PortTls>,
    observer: Arc<dyn TlsObserver>,
    throttle: Throttle,
}

async fn accept<IO: Connection>(
    mut incoming: impl Stream<Item = io::Result<IO>> + Send + Unpin,
    to: Accepting<IO>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = to.ready.closed() => return,
            accepted = incoming.next() => accepted,
        };
        match accepted {
            None => return,
            Some(Err(error)) => {
                if to.ready.send(Err(error)).await.is_err() {
                    return;
                }
            }
            Some(Ok(io)) => match to.handshakes.clone().try_acquire_owned() {
                Ok(permit) => {
                    let (guard, ready) = (to.guard.clone(), to.ready.clone());
                    tokio::spawn(greet(io, guard, ready, permit));
                }
                Err(_) => to.guard.refused(&io, &Refused::Full),
            },
        }
    }
}

/// One handshake. What cannot be served hears why, as far as it listens.
async fn greet<IO: Connection>(
    io: IO,
    guard: Arc<Guard>,
    ready: mpsc::Sender<io::Result<Secured<IO>>>,
    _permit: OwnedSemaphorePermit,
) {
    let remote = io.connect_info();
    match timeout(HANDSHAKE_TIMEOUT, handshake(io, &guard.tls)).await {
        Ok(Ok(stream)) => {
            // A server that is gone takes none.
            let _ = ready.send(Ok(Secured::Tls(Box::new(stream)))).await;
        }
        Ok(Err((refused, io))) => {
            guard.tell(&remote, &refused);
            drop(ready);
            let _ = timeout(LINGER, linger(io)).await;
        }
        Err(_) => guard.tell(&remote, &Refused::Late),
    }
}

async fn handshake<IO: Connection>(
    mut io: IO,
    tls: &PortTls,
) -> Result<tokio_rustls::server::TlsStream<Rewound<IO>>, (Refused, IO)> {
    let first = match io.read_u8().await {
        Ok(first) => first,
        Err(error) => return Err((Refused::Broken(error), io)),
    };
    if let Some(answer) = plain::answer(first) {
        let _ = io.write_all(&answer).await;
        return Err((Refused::Plain, io));
    }
    let accepting = TlsAcceptor::from(tls.server()).accept(Rewound { first: Some(first), io });
    accepting.into_fallible().await.map_err(|(error, rewound)| (Refused::of(error), rewound.io))
}

/// Lets the other end read what was written before the connection ends.
async fn linger<IO: Connection>(mut io: IO) {
    if io.shutdown().await.is_err() {
        return;
    }
    let mut unread = [0; 1024];
    while io.read(&mut unread).await.is_ok_and(|read| read > 0) {}
}

impl Guard {
    fn refused<IO: Connection>(&self, io: &IO, refused: &Refused) {
        self.tell(&io.connect_info(), refused);
    }

    fn tell(&self, remote: &TcpConnectInfo, refused: &Refused) {
        let port = self.tls.port();
        self.observer.refused(port, refused.cause());
        // Health checks of load balancers connect and go away; that is no news.
        if matches!(refused, Refused::Broken(_)) {
            tracing::debug!(port = port.name(), %refused, "a connection ended before TLS began");
            return;
        }
        let Some(unlogged) = self.throttle.admit(Instant::now()) else { return };
        let address = remote.remote_addr.map_or_else(|| "?".to_owned(), |at| at.to_string());
        tracing::warn!(port = port.name(), address, unlogged, "refused a connection: {refused}");
    }
}

/// Why a connection is not served.
#[derive(Debug)]
enum Refused {
    Plain,
    Late,
    Full,
    Broken(io::Error),
    Certificate(rustls::Error),
    Handshake(io::Error),
}

impl Refused {
    fn of(error: io::Error) -> Self {
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match cause {
            Some(
                certificate @ (rustls::Error::InvalidCertificate(_)
                | rustls::Error::NoCertificatesPresented),
            ) => Self::Certificate(certificate.clone()),
            _ => Self::Handshake(error),
        }
    }

    /// For metrics.
    fn cause(&self) -> &'static str {
        match self {
            Self::Plain => "no_tls",
            Self::Late => "timeout",
            Self::Full => "overloaded",
            Self::Broken(_) => "closed",
            Self::Certificate(_) => "certificate",
            Self::Handshake(_) => "handshake",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.write_str("it speaks without TLS, which this port requires"),
            Self::Late => write!(f, "no TLS handshake within {HANDSHAKE_TIMEOUT:?}"),
            Self::Full => write!(f, "{HANDSHAKES_MAX} TLS handshakes are under way already"),
            Self::Broken(error) => write!(f, "{error}"),
            Self::Certificate(rustls::Error::NoCertificatesPresented) => {
                f.write_str("it shows no certificate, and this port requires one of its CA")
            }
            Self::Certificate(error) => {
                let text = error.to_string();
                let why = text.strip_prefix("invalid peer certificate: ").unwrap_or(&text);
                match why {
                    "UnknownIssuer" => f.write_str("its certificate is not of this port's CA"),
                    why => write!(f, "its certificate is not accepted: {why}"),
                }
            }
            Self::Handshake(error) => {
                let text = error.to_string();
                match super::explain::alert(&text) {
                    Some(alert) => write!(f, "it refused our certificate: {alert}"),
                    None => write!(f, "the TLS handshake failed: {text}"),
                }
            }
        }
    }
}
