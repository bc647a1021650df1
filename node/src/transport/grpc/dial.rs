//! The dialing side: keeps a stream open to every other member and sends requests on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::{BoxFuture, FutureExt as _};
use quorate_proto::peer::peer_client::PeerClient;
use quorate_proto::peer::{Frame, Message};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Streaming;
use tracing::{debug, info, warn};

use super::connection::{Connection, Ticket};
use super::dialer::{Dialed, Dialer, why};
use super::{FRAME_MAX_BYTES, HANDSHAKE_TIMEOUT, Limits, Local, Presence, Refusal};
use crate::dynamo::key::NodeId;
use crate::transport::wire;
use crate::transport::{PeerError, Peers, Reply, Request};

/// Pauses between attempts to connect: a restarting peer is found soon, a dead one costs little.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The pause after newer metadata could not be fetched: every answer would ask for it again.
const FETCH_PAUSE: Duration = Duration::from_millis(500);

/// [`Peers`] over gRPC.
#[derive(Debug)]
pub struct GrpcPeers {
    local: Arc<Local>,
    dialer: Dialer,
    limits: Limits,
    links: ArcSwap<BTreeMap<NodeId, Arc<Link>>>,
    /// Held while the members change.
    changing: Mutex<()>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The way to one member.
#[derive(Debug)]
struct Link {
    local: Arc<Local>,
    dialer: Dialer,
    limits: Limits,
    node: NodeId,
    address: String,
    state: ArcSwap<State>,
    stop: CancellationToken,
}

#[derive(Debug)]
enum State {
    /// No stream, and why.
    Down(String),
    Up(Arc<Connection>),
}

impl GrpcPeers {
    /// Peers of a node without other members yet; `stop` ends every connection.
    pub fn new(
        local: Arc<Local>,
        dialer: Dialer,
        limits: Limits,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            local,
            dialer,
            limits,
            links: ArcSwap::default(),
            changing: Mutex::new(()),
            stop,
            tasks: TaskTracker::new(),
        })
    }

    /// Connects to exactly these members ("host:port") from now on; this node itself is left out.
    /// Connections to those that stay stand. Called within a runtime.
    pub fn set_members(&self, members: &[(NodeId, String)]) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.links.load_full();
        let mut new = BTreeMap::new();
        for (node, address) in members {
            if *node == self.local.incarnation.node {
                continue;
            }
            let stays = old.get(node).filter(|link| link.address == *address);
            let link = stays.cloned().unwrap_or_else(|| self.link(*node, address));
            new.insert(*node, link);
        }
        for (node, link) in old.iter() {
            if !new.get(node).is_some_and(|kept| Arc::ptr_eq(kept, link)) {
                link.stop.cancel();
            }
        }
        self.links.store(Arc::new(new));
    }

    /// Returns once every connection has ended; `stop` must have been cancelled.
    pub async fn stopped(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn link(&self, node: NodeId, address: &str) -> Arc<Link> {
        let link = Arc::new(Link {
            local: self.local.clone(),
            dialer: self.dialer.clone(),
            limits: self.limits.clone(),
            node,
            address: address.to_owned(),
            state: ArcSwap::from_pointee(State::Down("connecting".to_owned())),
            stop: self.stop.child_token(),
        });
        self.tasks.spawn(link.clone().run());
        link
    }

    fn send(&self, to: NodeId, message: Message, deadline: Instant) -> Result<Ticket, PeerError> {
        let links = self.links.load();
        let link = links.get(&to).ok_or_else(|| PeerError::Disconnected {
            reason: format!("node {to} is no other member"),
        })?;
        match &**link.state.load() {
            State::Up(connection) => connection.send(message, deadline),
            State::Down(reason) => Err(PeerError::Disconnected { reason: reason.clone() }),
        }
    }
}

impl Peers for GrpcPeers {
    fn request(
        &self,
        to: NodeId,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply, PeerError>> {
        let (version, deadline) = (self.local.metadata_version(), Instant::now() + timeout);
        match self.send(to, wire::request_message(0, version, timeout, request), deadline) {
            Ok(ticket) => ticket.answer().boxed(),
            Err(error) => std::future::ready(Err(error)).boxed(),
        }
    }

    fn connected(&self, node: NodeId) -> bool {
        let links = self.links.load();
        links.get(&node).is_some_and(|link| matches!(**link.state.load(), State::Up(_)))
    }
}

impl Link {
    /// Keeps a stream open until told to stop.
    async fn run(self: Arc<Self>) {
        let mut pause = PAUSE_MIN;
        let mut told = String::new();
        loop {
            let session = self.stop.run_until_cancelled(self.session()).await;
            let connected = self.disconnect(session.as_deref().unwrap_or("stopping"));
            let Some(reason) = session else { return };
            if connected {
                pause = PAUSE_MIN;
            }
            // One line for each reason, not for each attempt.
            if connected || told != reason {
                warn!(node = %self.node, address = self.address, reason, "not connected");
            } else {
                debug!(node = %self.node, address = self.address, reason, "not connected");
            }
            told = reason;
            let jittered = pause.mul_f64(rand::random_range(0.5..=1.0));
            if self.stop.run_until_cancelled(sleep(jittered)).await.is_none() {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One stream from its opening to its end; returns why it ended, or never began.
    async fn session(&self) -> String {
        let hello = self.local.incarnation.hello(self.node);
        let (connection, outgoing) = Connection::new(hello, &self.limits);
        let opening = timeout(2 * HANDSHAKE_TIMEOUT, self.open(outgoing)).await;
        let (inbound, _presence) = match opening {
            Err(_) => return "no answer while connecting".to_owned(),
            Ok(Err(reason)) => return reason,
            Ok(Ok(opened)) => opened,
        };
        info!(node = %self.node, address = self.address, "connected");
        self.state.store(Arc::new(State::Up(connection.clone())));
        self.read(inbound, &connection).await
    }

    /// Connects and exchanges Hellos.
    async fn open(
        &self,
        outgoing: super::queue::Outgoing,
    ) -> Result<(Streaming<Frame>, Presence), String> {
        let dialing = self.dialer.dial(&self.address, Some(self.node), None);
        let Dialed { channel, .. } = dialing.await?;
        let mut client = PeerClient::new(channel).max_decoding_message_size(FRAME_MAX_BYTES);
        let reply = client.exchange(outgoing).await.map_err(|status| why(&status))?;
        let mut inbound = reply.into_inner();
        let first = inbound.message().await.map_err(|status| why(&status))?;
        let hello = first.and_then(|frame| frame.hello);
        let remote = self.local.incarnation.check(hello).map_err(|error| error.to_string())?;
        if remote.node != self.node {
            let wrong = Refusal::WrongNode { expected: self.node, found: remote.node };
            return Err(wrong.to_string());
        }
        let presence = self.local.admit(remote).map_err(|error| error.to_string())?;
        Ok((inbound, presence))
    }

    /// Hands out answers until the stream ends. Newer metadata that they tell of is fetched
    /// meanwhile, once at a time.
    async fn read(&self, mut inbound: Streaming<Frame>, connection: &Connection) -> String {
        let mut fetching: Option<BoxFuture<'static, ()>> = None;
        loop {
            tokio::select! {
                biased;
                frame = inbound.message() => match frame {
                    Ok(Some(frame)) => {
                        let newest = on_frame(connection, frame);
                        if fetching.is_none() {
                            fetching = self.fetch(newest);
                        }
                    }
                    Ok(None) => return "the peer closed the connection".to_owned(),
                    Err(status) => return why(&status),
                },
                () = async { fetching.as_mut().expect("checked by the condition").await },
                    if fetching.is_some() => fetching = None,
            }
        }
    }

    /// Fetches the document of `version`, unless it is known here.
    fn fetch(&self, version: u64) -> Option<BoxFuture<'static, ()>> {
        let handler = self.local.handler()?;
        if version <= handler.metadata_version() {
            return None;
        }
        let node = self.node;
        Some(Box::pin(async move {
            handler.newer_metadata(node, version).await;
            if handler.metadata_version() < version {
                drop(handler);
                sleep(FETCH_PAUSE).await;
            }
        }))
    }

    /// Ends the connection, if there is one, and tells whether there was.
    fn disconnect(&self, reason: &str) -> bool {
        match &*self.state.swap(Arc::new(State::Down(reason.to_owned()))) {
            State::Down(_) => false,
            State::Up(connection) => {
                connection.close();
                true
            }
        }
    }
}

/// Hands out the answers of a frame; tells the newest metadata version among them.
fn on_frame(connection: &Connection, frame: Frame) -> u64 {
    let mut newest = 0;
    for message in frame.messages {
        newest = newest.max(message.version);
        connection.on_answer(message.id, message.body);
    }
    newest
}
