//! A node's way into its cluster: who it says it is, where its first document comes from, and how
//! it follows the members from then on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::whereabouts::Whereabouts;
use super::{Addresses, LatePeers};
use crate::cluster::view::View;
use crate::cluster::{Cluster, Vote};
use crate::config::Config;
use crate::dynamo::key::NodeId;
use crate::dynamo::metadata::Document;
use crate::dynamo::metadata::document::StoreId;
use crate::dynamo::operation::Opening;
use crate::dynamo::standing::Doubt;
use crate::env::Env;
use crate::error::RequestError;
use crate::http::Readiness;
use crate::standing::Standings;
use crate::storage::data_dir::KnownCluster;
use crate::transport::grpc::{
    Bootstrap, Dialer, GrpcPeers, Identity, Incarnation, Limits, Local, PeerService,
};
use crate::transport::{Handler, Peers as _};

/// What a node without a document waits for.
pub(super) const WAITING: &str = "the node belongs to no cluster yet: `quorate init` makes one, \
                                  and `seeds` in the configuration lead to one that exists";

/// The pause between two rounds of asking the seeds.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The pause between two lines that say the same of a seed.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// The pause between two looks at whether a member is connected.
const CONNECTED_AGAIN: Duration = Duration::from_millis(50);

/// How long the newest metadata is looked for once the members are connected.
const REFRESH: Duration = Duration::from_secs(2);

/// Who the node says it is.
pub(super) fn identity(config: &Config, addresses: Addresses, store: StoreId) -> Identity {
    let advertised = |advertise: &str, listens: String| match advertise {
        "" => listens,
        chosen => chosen.to_owned(),
    };
    Identity {
        node: NodeId::of_name(&config.node_name),
        name: config.node_name.clone(),
        zone: config.zone.clone(),
        weight: config.weight,
        store: store.0,
        peer_address: advertised(&config.peer_advertise, addresses.peer.to_string()),
        client_address: advertised(&config.client_advertise, addresses.client.to_string()),
        cluster: None,
        version: 0,
    }
}

/// Whom to ask for the cluster's document: those configured, then those known from before.
pub(super) fn seeds(config: &Config, known: Option<&KnownCluster>) -> Vec<String> {
    let mut seeds = config.seeds.clone();
    let known = known.map(|known| known.peers.clone()).unwrap_or_default();
    seeds.extend(known.into_iter().filter(|peer| !config.seeds.contains(peer)));
    seeds
}

/// Answers those that this node shares no cluster with yet.
pub(super) struct Joining {
    identity: Identity,
    cluster: Arc<Cluster>,
}

impl Joining {
    pub(super) fn new(identity: Identity, cluster: Arc<Cluster>) -> Self {
        Self { identity, cluster }
    }
}

impl Bootstrap for Joining {
    fn identify(&self) -> Identity {
        let document = self.cluster.view().map(|view| view.document().clone());
        let cluster = document.as_ref().map(|document| document.cluster.0);
        let version = document.map_or(0, |document| document.version);
        Identity { cluster, version, ..self.identity.clone() }
    }

    fn bootstrap(&self, document: Bytes) -> BoxFuture<'static, Result<(), RequestError>> {
        let cluster = self.cluster.clone();
        async move { cluster.bootstrap(document).await }.boxed()
    }

    fn document(&self) -> Option<Bytes> {
        self.cluster.view().map(|view| view.document().encode())
    }
}

/// What joining takes.
pub(super) struct Join {
    pub(super) identity: Identity,
    /// Where it listens for other nodes.
    pub(super) listens: SocketAddr,
    pub(super) seeds: Vec<String>,
    /// What the data directory remembers of the cluster.
    pub(super) known: Option<KnownCluster>,
    /// Where to remember it; none: nowhere.
    pub(super) remember_in: Option<PathBuf>,
    pub(super) standings: Arc<Standings>,
    /// Whether the operator named members that a rebuild need not wait for.
    pub(super) excuses: bool,
    pub(super) env: Env,
    pub(super) dialer: Dialer,
    pub(super) node: NodeId,
    pub(super) store: StoreId,
    pub(super) opening: Opening,
    pub(super) cluster: Arc<Cluster>,
    pub(super) handler: Weak<dyn Handler>,
    pub(super) service: PeerService,
    pub(super) limits: Limits,
    pub(super) peers: Arc<LatePeers>,
    pub(super) ready: watch::Sender<Readiness>,
    pub(super) stop: CancellationToken,
}

/// Waits for a document, connects to the members that it names, and follows its successors.
pub(super) async fn join(join: Join) {
    let stop = join.stop.clone();
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = join.run() => {}
    }
}

/// What was said of each seed, and when: one line for each reason, and another once it has lasted.
#[derive(Default)]
struct Told(BTreeMap<String, (String, Instant)>);

impl Told {
    fn is_due(&mut self, seed: &str, reason: &str) -> bool {
        let now = Instant::now();
        let known = self.0.get(seed);
        if known.is_some_and(|(said, at)| said == reason && now - *at < TELL_AGAIN) {
            return false;
        }
        self.0.insert(seed.to_owned(), (reason.to_owned(), now));
        true
    }
}

impl Join {
    async fn run(self) {
        let (mut changes, mut told) = (self.cluster.changes(), Told::default());
        if self.cluster.view().is_none() {
            self.tell_what_it_waits_for();
        }
        let view = loop {
            if let Some(view) = self.cluster.view() {
                break view;
            }
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = self.ask_seeds(&mut told) => {}
            }
        };
        self.warn_of_other_addresses(&view);
        let Some(peers) = self.connect(&view) else { return };
        self.warn_of_a_lost_vote();
        self.warn_of_needless_excuses();
        self.remember(&view).await;
        self.ready.send_replace(Readiness::Ready);
        tracing::info!(cluster = %view.document().cluster, "the node serves its cluster");
        self.look_for_itself(&view);
        tokio::spawn(catch_up(self.cluster.clone(), peers.clone(), self.stop.clone()));
        loop {
            changes.changed().await;
            if let Some(view) = self.cluster.view() {
                tracing::info!(version = view.document().version, "the metadata changed");
                peers.set_members(&members(&view));
                self.remember(&view).await;
            }
        }
    }

    fn tell_what_it_waits_for(&self) {
        let peer_address = &self.identity.peer_address;
        if self.seeds.is_empty() {
            tracing::info!(
                peer_address,
                "the node belongs to no cluster yet: it waits for `quorate init`, which is given the \
                 peer addresses of all members"
            );
        } else {
            tracing::info!(
                seeds = ?self.seeds,
                "the node belongs to no cluster yet: it asks its seeds for one, and takes that of \
                 `quorate init` as well"
            );
        }
    }

    /// Looks, beside all else, whether the others can find this node.
    fn look_for_itself(&self, view: &View) {
        let Some(member) = view.member(self.node) else { return };
        let whereabouts = Whereabouts {
            known: member.peer_address.clone(),
            identity: self.identity.clone(),
            listens: self.listens,
            dialer: self.dialer.clone(),
        };
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(whereabouts.follow()).await });
    }

    /// Others go by the document, and so do clients.
    fn warn_of_other_addresses(&self, view: &View) {
        let Some(member) = view.member(self.node) else { return };
        let known = [&member.peer_address, &member.client_address];
        let ours = [&self.identity.peer_address, &self.identity.client_address];
        if known != ours {
            tracing::warn!(
                ?known,
                ?ours,
                "the cluster knows this node by other addresses (peer, client), which `init` fixed: \
                 other nodes and clients go by those, so they must lead here"
            );
        }
    }

    /// Takes the document of the first seed that has one; if none has, waits before it returns.
    async fn ask_seeds(&self, told: &mut Told) {
        for seed in &self.seeds {
            let taken = match self.dialer.fetch_document(seed).await {
                Ok(Some(document)) => self.learn_first(document).await,
                Ok(None) => continue,
                Err(error) => Err(error.to_string()),
            };
            match taken {
                Ok(()) => return,
                Err(reason) if told.is_due(seed, &reason) => {
                    tracing::warn!(%seed, %reason, "no document from this seed");
                }
                Err(reason) => tracing::debug!(%seed, %reason, "no document from this seed"),
            }
        }
        sleep(ASK_AGAIN).await;
    }

    /// Takes the first document that this store hears of. A cluster that has namespaces was there
    /// before the store was: the node may have had another one, and lost it. Then nothing that this
    /// one does not hold counts before it was refilled.
    async fn learn_first(&self, document: Bytes) -> Result<(), String> {
        let told = Document::decode(document.clone()).map_err(|error| error.to_string())?;
        let (found, known) = (told.cluster.to_string(), self.known.as_ref());
        if let Some(known) = known.filter(|known| known.cluster != found) {
            return Err(format!(
                "it belongs to cluster {found}, and this data directory to {}",
                known.cluster
            ));
        }
        if told.member(self.node).is_none() {
            return Err(self.no_member(&told));
        }
        if !told.namespaces.is_empty() && !self.standings.is_rebuilding() {
            tracing::warn!(
                "the store is empty, and the cluster has namespaces: it is refilled from the other \
                 owners before it counts in quorums"
            );
            let standings = self.standings.clone();
            let begun = self.env.block(move || standings.begin()).await;
            begun.map_err(|error| error.to_string())?;
        }
        self.cluster.learn(document).await.map(drop).map_err(|error| error.to_string())
    }

    /// A name that is wrong stays wrong: whoever asks whether the node is ready hears so, too.
    fn no_member(&self, told: &Document) -> String {
        let names: Vec<&str> = told.members.iter().map(|member| &*member.name).collect();
        let reason = format!(
            "cluster {} has no member {:?}, which this node is by its node_name; its members are {}, \
             fixed by `quorate init`: correct node_name",
            told.cluster,
            self.identity.name,
            names.join(", ")
        );
        self.ready.send_replace(Readiness::not_ready(&*reason));
        reason
    }

    fn warn_of_a_lost_vote(&self) {
        if self.cluster.vote() == Vote::Lost {
            tracing::warn!(
                "this node voted on changes of the metadata with another store, which may have \
                 forgotten its votes: with this one it does not vote. With most voters away, \
                 namespaces cannot be created or dropped"
            );
        }
    }

    fn warn_of_needless_excuses(&self) {
        let told = self.standings.catching_up();
        let lost = told.borrow().as_ref().is_some_and(|told| told.doubt != Doubt::Unasked);
        if self.excuses && !lost && !self.standings.is_rebuilding() {
            tracing::warn!(
                "--rebuild-without: nothing is being rebuilt here, nor has this node to catch up with \
                 the others, so it changes nothing; start without the flag"
            );
        }
    }

    /// Writes down where the others are, for the day when the store does not open.
    async fn remember(&self, view: &View) {
        let Some(directory) = self.remember_in.clone() else { return };
        let others = view.document().members.iter().filter(|member| member.node != self.node);
        let known = KnownCluster {
            cluster: view.document().cluster.to_string(),
            peers: others.map(|member| member.peer_address.clone()).collect(),
        };
        let write = move || match KnownCluster::read(&directory).as_ref() == Some(&known) {
            true => Ok(()),
            false => known.write(&directory),
        };
        if let Err(error) = self.env.block(write).await {
            tracing::warn!(%error, "where the cluster is could not be written down");
        }
    }

    fn connect(&self, view: &View) -> Option<Arc<GrpcPeers>> {
        let handler = self.handler.upgrade()?;
        let local = Local::new(Incarnation {
            cluster: view.document().cluster.0,
            node: self.node,
            store: self.store.0,
            opening: self.opening,
        });
        let peers = GrpcPeers::new(
            local.clone(),
            self.dialer.clone(),
            self.limits.clone(),
            self.stop.clone(),
        );
        local.answer_with(&handler);
        self.service.join(local);
        assert!(self.peers.0.set(peers.clone()).is_ok(), "a node joins once");
        peers.set_members(&members(view));
        Some(peers)
    }
}

/// Looks for newer metadata as soon as another member is connected: this node may have been away.
async fn catch_up(cluster: Arc<Cluster>, peers: Arc<GrpcPeers>, stop: CancellationToken) {
    let connected = || {
        let members = cluster.view().map(|view| members(&view)).unwrap_or_default();
        members.iter().any(|(node, _)| peers.connected(*node))
    };
    let refreshed = async {
        while !connected() {
            sleep(CONNECTED_AGAIN).await;
        }
        if let Err(error) = cluster.refresh(REFRESH).await {
            tracing::warn!(%error, "newer metadata cannot be kept");
        }
    };
    stop.run_until_cancelled(refreshed).await;
}

fn members(view: &View) -> Vec<(NodeId, String)> {
    let members = view.document().members.iter();
    members.map(|member| (member.node, member.peer_address.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_told_once_a_minute_and_what_is_new_at_once() {
        let mut told = Told::default();
        assert!(told.is_due("a:7501", "refused") && told.is_due("b:7501", "refused"));
        assert!(!told.is_due("a:7501", "refused"));
        assert!(told.is_due("a:7501", "no such member"));
        tokio::time::sleep(TELL_AGAIN).await;
        assert!(told.is_due("a:7501", "no such member"));
        assert!(!told.is_due("a:7501", "no such member"));
    }
}
