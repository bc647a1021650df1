//! A whole cluster on one machine: `quorate dev`.
//!
//! The nodes are processes of the same binary, each with a configuration file of its own, so that
//! one can be killed, looked at and restarted by hand like a real one:
//!
//! ```text
//!   DIR/dev.toml            how many nodes, which ports: so that `dev --data DIR` is the same again
//!   DIR/node-1/node.toml    made once, then left alone: it may be edited
//!   DIR/node-1/data  log
//!   DIR/certs              with --tls: the CA, and certificates that are new at each start
//! ```
//!
//! A child ends with this process, however that ends: its stdin is a pipe held here, which the
//! operating system closes, and it stops when its stdin does. A node restarted by hand has another
//! stdin and is none of ours; started again while it runs, `dev` finds its ports in use and says so.
//!
//! Left out: restarting a node that died. That it did is what the user came to see.

mod guide;
mod home;
mod nodes;
mod probe;
mod self_check;
mod shape;
mod tour;

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use self::guide::Guide;
use self::home::Home;
use self::nodes::{Exit, Nodes};
use self::shape::Port;
use crate::args::DevArgs;
use crate::certs::CertsError;
use crate::dynamo::metadata::document::ClusterId;
use crate::init::{self, InitError, InitOptions};
use crate::process::{say, stop_when_told};

/// How long all nodes may take to stop: longer than each may take by itself.
const STOP_WITHIN: Duration = Duration::from_secs(7);

/// How long the nodes may take to open their stores: a large one replays its journal first.
const FORM_WITHIN: Duration = Duration::from_secs(60);

/// Why there is no cluster. Nodes that were started have been stopped.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum DevError {
    /// Choose another directory, or correct its permissions.
    #[error("cannot use {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// Choose an empty one.
    #[error(
        "{} is not empty and was not made by `quorate dev`; choose an empty directory",
        path.display()
    )]
    ForeignDirectory { path: PathBuf },
    /// Restore it, or start anew elsewhere.
    #[error("{} is malformed: {reason}; restore it, or choose another directory", path.display())]
    Malformed { path: PathBuf, reason: String },
    /// A cluster does not change shape by being started.
    #[error(
        "{} was made with --{what} {stored}, not {asked}; leave --{what} out to start the same \
         cluster again, or choose another directory", path.display()
    )]
    OtherShape { path: PathBuf, what: &'static str, stored: String, asked: String },
    /// A cluster does not get TLS by being started.
    #[error(
        "{} was made without --tls; leave --tls out, or choose another directory", path.display()
    )]
    WithoutTls { path: PathBuf },
    /// See there.
    #[error(transparent)]
    Certs(#[from] CertsError),
    /// There is no room for so many nodes.
    #[error("{zones} zones for {nodes} nodes; give --zones at most the number of nodes")]
    Zones { zones: u16, nodes: u16 },
    /// Stop who uses them, or choose others.
    #[error("nothing was started, since ports are in use:{}{}", lines(ports), advice(ports))]
    PortsInUse { ports: Vec<Port> },
    /// Look at the reason.
    #[error("cannot start {name}: {source}")]
    Spawn { name: String, source: io::Error },
    /// Look at its log.
    #[error("{name} ended while the cluster started ({status}); {log}")]
    Died { name: String, status: ExitStatus, log: String },
    /// Look at its log.
    #[error("{name} is not {what} after {seconds} s: {reason}; {log}")]
    Late { name: String, what: &'static str, seconds: u64, reason: String, log: String },
    /// See there.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The cluster runs, but does not do what it should.
    #[error("the self-check failed when it was to {step}: {reason}")]
    SelfCheck { step: &'static str, reason: String },
    /// Give it more.
    #[error("the tour takes at least 4 nodes, not {nodes}: three hold each key, and one stands in")]
    TooFewForTour { nodes: usize },
    /// The cluster runs, but does not do what it should.
    #[error("the tour failed when it was to {step}: {reason}")]
    Tour { step: &'static str, reason: String },
    /// Look at their logs.
    #[error("every node has ended; see their logs in {}", path.display())]
    AllEnded { path: PathBuf },
}

fn lines(ports: &[Port]) -> String {
    ports.iter().map(|port| format!("\n  {port}")).collect()
}

fn advice(ports: &[Port]) -> &'static str {
    match ports.iter().any(|port| port.holder.is_some()) {
        true => "\nStop the node that runs there (was it restarted by hand?), then try again.",
        false => "\nStop what uses them, or choose other ports with --base-port.",
    }
}

/// Runs a cluster until this process is told to stop.
pub async fn run(args: DevArgs) -> Result<(), DevError> {
    let stop = stop_when_told(STOP_WITHIN + Duration::from_secs(1), false)
        .map_err(|source| DevError::Spawn { name: "the signal handler".to_owned(), source })?;
    let home = Home::open(&args)?;
    let count = home.nodes().len();
    if args.tour && count < tour::NODES_MIN {
        return Err(DevError::TooFewForTour { nodes: count });
    }
    let used = home.ports_in_use();
    if !used.is_empty() {
        return Err(DevError::PortsInUse { ports: used });
    }
    home.write_configurations()?;
    say(home.describe());
    let mut nodes = Nodes::spawn(&home)?;
    let end = match start(&home, &mut nodes, &stop, args.tour).await {
        Ok(true) if args.tour => tour::run(&home, &mut nodes, &stop).await,
        Ok(true) => serve(&home, &mut nodes, &stop).await,
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    if end.is_ok() {
        say("stopping");
    }
    let ended_before = nodes.stop(STOP_WITHIN).await;
    let by_hand = probe::answering(&home, &ended_before).await;
    say(home.close(&by_hand, end.is_ok()));
    end
}

/// Brings the cluster up; false if told to stop meanwhile.
async fn start(
    home: &Home,
    nodes: &mut Nodes,
    stop: &CancellationToken,
    tour: bool,
) -> Result<bool, DevError> {
    let pids = nodes.pids();
    let bring_up = async {
        probe::until_all(home, probe::Page::ALIVE).await?;
        let cluster = form(home).await?;
        probe::until_all(home, probe::Page::READY).await?;
        say(format_args!("cluster {cluster}"));
        for (node, pid) in home.nodes().iter().zip(&pids) {
            say(node.line(*pid));
        }
        let checked = self_check::run(&home.client_addresses(), home.ca().as_deref()).await?;
        say(&checked);
        if !tour {
            say(Guide { home, pids: &pids, namespaces: &checked.namespaces });
            say("ready");
        }
        Ok(true)
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(false),
        exit = nodes.next_exit() => Err(died(home, exit)),
        up = bring_up => up,
    }
}

/// Makes the cluster, or finds it made. Nodes that are alive may still be opening their stores, so
/// they are asked until they answer.
async fn form(home: &Home) -> Result<ClusterId, DevError> {
    let options = InitOptions::new(home.peer_addresses(), None, Vec::new())?;
    let network = init::Network::new(home.peer_files())?;
    let deadline = Instant::now() + FORM_WITHIN;
    loop {
        match init::run(&network, &options).await {
            Ok(report) => return Ok(report.cluster),
            Err(InitError::Unreachable { .. }) if Instant::now() < deadline => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until told to stop, and tells of each node that ends before.
async fn serve(home: &Home, nodes: &mut Nodes, stop: &CancellationToken) -> Result<(), DevError> {
    loop {
        let exit = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            exit = nodes.next_exit() => exit,
        };
        let node = &home.nodes()[exit.index];
        let by_hand = probe::answering(home, nodes.ended()).await.len();
        let serving = nodes.running() + by_hand;
        eprintln!(
            "{} ended ({}); {serving} of {} serve on; {}\nrestart it with\n  {}",
            node.name,
            exit.status,
            home.nodes().len(),
            nodes::log_end(node),
            guide::restart(node),
        );
        if serving == 0 {
            return Err(DevError::AllEnded { path: home.path().to_path_buf() });
        }
    }
}

fn died(home: &Home, exit: Exit) -> DevError {
    let node = &home.nodes()[exit.index];
    let log = nodes::log_end(node);
    DevError::Died { name: node.name.clone(), status: exit.status, log }
}
