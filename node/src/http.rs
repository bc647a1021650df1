//! The HTTP side, for whoever operates the node: is it alive, does it serve, what does it measure.
//!
//! ```text
//!   GET /healthz   200 while the process runs: restart the node when it stops answering
//!   GET /readyz    200 while it serves requests; else 503 and why: send it none
//!   GET /metrics   OpenMetrics text
//! ```
//!
//! It answers from the first moment on, while the store still opens, so that a long recovery is
//! not mistaken for a hang.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// The media type of OpenMetrics text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether a node serves requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// It does.
    Ready,
    /// It does, but its own answers do not count in quorums yet, for this reason.
    Rebuilding(String),
    /// The same, since it was started again and is not believed yet.
    CatchingUp(String),
    /// It does not, for this reason.
    NotReady(String),
}

impl Readiness {
    /// Not ready, for this reason.
    pub fn not_ready(reason: impl Into<String>) -> Self {
        Self::NotReady(reason.into())
    }

    /// Whether requests may be sent to it.
    pub fn serves(&self) -> bool {
        !matches!(self, Self::NotReady(_))
    }
}

/// What the pages tell of.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Whether the node serves.
    pub readiness: watch::Receiver<Readiness>,
    /// What it measures.
    pub metrics: Arc<Metrics>,
}

/// Serves the pages until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    pages: Pages,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(pages);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn readyz(State(pages): State<Pages>) -> impl IntoResponse {
    match &*pages.readiness.borrow() {
        Readiness::Ready => (StatusCode::OK, "ready\n".to_owned()),
        Readiness::Rebuilding(how_far) => {
            (StatusCode::OK, format!("ready, and being rebuilt: {how_far}\n"))
        }
        Readiness::CatchingUp(how_far) => {
            (StatusCode::OK, format!("ready, and catching up: {how_far}\n"))
        }
        Readiness::NotReady(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n"))
        }
    }
}

async fn metrics(State(pages): State<Pages>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPENMETRICS)], pages.metrics.encode())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::telemetry::{Operation, OutcomeLabel};

    async fn page(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_pages_tell_what_is_so_now_and_end_with_the_node() {
        let (ready, readiness) = watch::channel(Readiness::not_ready("opening the store"));
        let metrics = Arc::new(Metrics::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, pages) =
            (CancellationToken::new(), Pages { readiness, metrics: metrics.clone() });
        let server = tokio::spawn(serve(listener, pages, shutdown.clone()));

        assert!(page(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        let answer = page(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.ends_with("not ready: opening the store\n"), "{answer}");

        ready.send_replace(Readiness::Rebuilding("3 of 16 partitions".to_owned()));
        let answer = page(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("3 of 16"), "{answer}");
        ready.send_replace(Readiness::CatchingUp("3 of 256 partitions".to_owned()));
        let answer = page(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("ready, and catching up: 3 of 256 partitions\n"), "{answer}");
        ready.send_replace(Readiness::Ready);
        metrics.request(Operation::Get, OutcomeLabel::Ok, std::time::Duration::from_millis(1));
        assert!(page(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
        let answer = page(address, "/metrics").await;
        assert!(answer.contains(OPENMETRICS), "{answer}");
        assert!(answer.contains(r#"quorate_requests_total{operation="get""#), "{answer}");
        assert!(page(address, "/other").await.starts_with("HTTP/1.1 404 "));

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
