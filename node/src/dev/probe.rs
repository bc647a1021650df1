//! Asks nodes over HTTP whether they are there yet.

use std::io;
use std::time::Duration;

use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::home::Home;
use super::shape::NodePlan;
use super::{DevError, nodes};

/// How often a node is asked.
const PAUSE: Duration = Duration::from_millis(50);

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A page that answers 200 when the node is so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    path: &'static str,
    /// What the node is then.
    what: &'static str,
    /// How long it may take: many nodes share a machine that may be busy.
    within: Duration,
}

impl Page {
    pub(super) const ALIVE: Self =
        Self { path: "/healthz", what: "alive", within: Duration::from_secs(30) };
    pub(super) const READY: Self =
        Self { path: "/readyz", what: "ready", within: Duration::from_secs(60) };
}

/// Waits until every node answers `page` with 200.
pub(super) async fn until_all(home: &Home, page: Page) -> Result<(), DevError> {
    try_join_all(home.nodes().iter().map(|node| until(node, page))).await.map(drop)
}

async fn until(node: &NodePlan, page: Page) -> Result<(), DevError> {
    let deadline = Instant::now() + page.within;
    loop {
        let reason = match ask(&node.http_address(), page.path).await {
            Ok((200, _)) => return Ok(()),
            Ok((_, body)) => body.trim().to_owned(),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(DevError::Late {
                name: node.name.clone(),
                what: page.what,
                seconds: page.within.as_secs(),
                reason,
                log: nodes::log_end(node),
            });
        }
        sleep(PAUSE).await;
    }
}

/// Those of the nodes `among` that are there after all: somebody started them by hand.
pub(super) async fn answering(home: &Home, among: &[usize]) -> Vec<String> {
    let mut names = Vec::new();
    for node in among.iter().map(|&index| &home.nodes()[index]) {
        if ask(&node.http_address(), Page::ALIVE.path).await.is_ok() {
            names.push(node.name.clone());
        }
    }
    names
}

/// The status and body of a page.
async fn ask(address: &str, path: &str) -> io::Result<(u16, String)> {
    timeout(ANSWER_WITHIN, exchange(address, path)).await?
}

async fn exchange(address: &str, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("it does not speak HTTP"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::http::{Pages, Readiness, serve};
    use crate::telemetry::Metrics;

    #[tokio::test]
    async fn a_node_is_asked_for_status_and_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (ready, readiness) = watch::channel(Readiness::not_ready("no cluster"));
        let pages = Pages { readiness, metrics: Arc::new(Metrics::new()) };
        tokio::spawn(serve(listener, pages, CancellationToken::new()));
        let (status, body) = ask(&address, "/readyz").await.unwrap();
        assert_eq!((status, body.as_str()), (503, "not ready: no cluster\n"));
        ready.send_replace(Readiness::Ready);
        assert_eq!(ask(&address, "/readyz").await.unwrap().0, 200);
        assert!(ask("127.0.0.1:1", "/readyz").await.is_err());
    }
}
