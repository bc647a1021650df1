//! Runs a node until it is told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::args::ServeArgs;
use crate::config::{Config, ConfigError};
use crate::http::{self, Pages, Readiness};
use crate::node::{Node, NodeError, RebuildOptions};
use crate::process;
use crate::telemetry::{self, Metrics};

/// How long a node may take to stop: what supervisors grant is 10 s and more, and users are
/// promised 5.
const STOP_WITHIN: Duration = Duration::from_millis(4500);

/// How long what is left of a node in this process may hold its store, in looks and pauses.
const CLOSED_TRIES: u32 = 50;
const CLOSED_AGAIN: Duration = Duration::from_millis(100);

/// Why a node does not run, or did not end well. Its data is as safe as if it had been killed.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum ServeError {
    /// Correct it.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Should not happen.
    #[error("cannot listen for signals: {source}")]
    Signals { source: io::Error },
    /// Rebuild the store from the other nodes.
    #[error(
        "{source}\n  {left}. To set the store aside (it is not deleted) and refill a new one from the \
         other nodes, run:\n  {command}"
    )]
    Damaged { source: NodeError, left: &'static str, command: String },
    /// The node says what is wrong.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Runs the node. Returns when it has stopped.
pub(super) async fn run(args: ServeArgs) -> Result<(), ServeError> {
    let effective = args.config.load()?;
    telemetry::start_logging(&effective.config);
    let stop = process::stop_when_told(STOP_WITHIN, args.stop_on_stdin_eof)
        .map_err(|source| ServeError::Signals { source })?;
    let version = env!("CARGO_PKG_VERSION");
    info!(version, pid = std::process::id(), "configuration: {}", effective.one_line());
    effective.warnings().iter().for_each(|warning| warn!("{warning}"));

    let metrics = Arc::new(Metrics::new());
    let (ready, readiness) = watch::channel(Readiness::not_ready("the store is being opened"));
    let pages = Pages { readiness, metrics: metrics.clone() };
    let http_ends = CancellationToken::new();
    let _ends_with_this = http_ends.clone().drop_guard();
    let http = start_http(&effective.config.http_address, pages, http_ends).await?;

    let mut config = effective.config;
    let rebuild = RebuildOptions { rebuild: args.rebuild, without: args.rebuild_without };
    // Opened again, the store is the one that was opened before.
    let again = RebuildOptions { rebuild: false, ..rebuild.clone() };
    let started = Node::start(config.clone(), metrics.clone(), rebuild, stop.child_token());
    let mut node = match started.await {
        Err(source) if source.is_damage() => {
            let (left, command) = (source.what_is_left(config.engine), rebuild_command());
            return Err(ServeError::Damaged { source, left, command });
        }
        started => started?,
    };
    loop {
        let addresses = node.addresses();
        info!(client = %addresses.client, peer = %addresses.peer, %http, "listening");
        let followed = tokio::spawn(follow(node.ready(), ready.clone()));
        let end = node.stopped().await;
        followed.abort();
        match end {
            Err(NodeError::Reopen { reason }) if !stop.is_cancelled() => {
                warn!(%reason, "there is space again: the store is opened again");
                // Others know these, also where the configuration left the port to chance.
                config.client_address = addresses.client.to_string();
                config.peer_address = addresses.peer.to_string();
                node = start_again(&config, &metrics, &again, &stop).await?;
            }
            end => {
                end?;
                info!("stopped");
                return Ok(());
            }
        }
    }
}

/// Starts a node after its predecessor in this process, of which some task may still hold the store
/// for a moment.
async fn start_again(
    config: &Config,
    metrics: &Arc<Metrics>,
    rebuild: &RebuildOptions,
    stop: &CancellationToken,
) -> Result<Node, NodeError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let (config, metrics, rebuild) = (config.clone(), metrics.clone(), rebuild.clone());
        match Node::start(config, metrics, rebuild, stop.child_token()).await {
            Err(error) if error.is_in_use() && tries < CLOSED_TRIES => sleep(CLOSED_AGAIN).await,
            started => return started,
        }
    }
}

/// The command line of this process, with the flag that it needs.
fn rebuild_command() -> String {
    let quoted =
        |word: String| match word.chars().all(|c| c.is_alphanumeric() || "-_=./:,@".contains(c)) {
            true if !word.is_empty() => word,
            _ => format!("'{}'", word.replace('\'', r"'\''")),
        };
    let words = std::env::args_os().map(|word| quoted(word.to_string_lossy().into_owned()));
    let words = words.filter(|word| word != "--rebuild").chain(["--rebuild".to_owned()]);
    words.collect::<Vec<_>>().join(" ")
}

async fn start_http(
    address: &str,
    pages: Pages,
    shutdown: CancellationToken,
) -> Result<SocketAddr, NodeError> {
    let (key, address) = ("http_address", address.to_owned());
    let refused = |source| NodeError::Listen { key, address: address.clone(), source };
    let listener = TcpListener::bind(&address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    tokio::spawn(async move {
        if let Err(error) = http::serve(listener, pages, shutdown).await {
            error!(%error, "the HTTP side failed; the node serves on");
        }
    });
    Ok(bound)
}

/// Passes on what the node says of itself, to pages that were there before it.
async fn follow(mut from: watch::Receiver<Readiness>, to: watch::Sender<Readiness>) {
    loop {
        to.send_replace(from.borrow_and_update().clone());
        if from.changed().await.is_err() {
            to.send_replace(Readiness::not_ready("the node has stopped"));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_key() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let (_ready, readiness) = watch::channel(Readiness::Ready);
        let pages = Pages { readiness, metrics: Arc::new(Metrics::new()) };
        let started = start_http(&address, pages, CancellationToken::new()).await;
        let error = started.unwrap_err().to_string();
        let start =
            format!("cannot listen on http_address = \"{address}\": Address already in use");
        assert!(error.starts_with(&start), "{error}");
        assert!(error.ends_with("; stop what uses the port, or choose another"), "{error}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_told_from_a_port_in_use() {
        let (_ready, readiness) = watch::channel(Readiness::Ready);
        let pages = Pages { readiness, metrics: Arc::new(Metrics::new()) };
        let started = start_http("192.0.2.1:7601", pages, CancellationToken::new()).await;
        let error = started.unwrap_err().to_string();
        assert!(error.contains("this machine has no such address"), "{error}");
        assert!(!error.contains("uses the port"), "{error}");
    }

    #[tokio::test]
    async fn the_pages_follow_the_node_and_outlive_it() {
        let (node, from) = watch::channel(Readiness::not_ready("no cluster"));
        let (to, mut pages) = watch::channel(Readiness::not_ready("opening"));
        let followed = tokio::spawn(follow(from, to));
        pages.wait_for(|now| *now == Readiness::not_ready("no cluster")).await.unwrap();
        node.send_replace(Readiness::Ready);
        pages.wait_for(|now| *now == Readiness::Ready).await.unwrap();
        drop(node);
        followed.await.unwrap();
        assert_eq!(*pages.borrow(), Readiness::not_ready("the node has stopped"));
    }
}
