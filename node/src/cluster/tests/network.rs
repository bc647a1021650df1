//! A network of clusters in one process: messages take a few random milliseconds, and nodes can be
//! cut off, stopped and started again over their stores.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, OpenError};
use crate::dynamo::key::{NodeId, PartitionCount};
use crate::dynamo::metadata::Document;
use crate::dynamo::metadata::document::{
    ClusterId, ClusterKey, FirstDocument, Member, StoreId, Voter,
};
use crate::env::{Clock, Env};
use crate::storage::memory::MemoryEngine;
use crate::transport::{PeerError, Peers, Reply, Request};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn name(index: usize) -> String {
    format!("node-{index}")
}

pub(super) fn node(index: usize) -> NodeId {
    NodeId::of_name(&name(index))
}

pub(super) fn voter(index: usize) -> Voter {
    Voter { node: node(index), store: StoreId(index as u64) }
}

/// The first document of a cluster of `members` nodes, the first `voters` of which vote.
pub(super) fn first(members: usize, voters: usize, cluster: u8) -> Document {
    let member = |index| Member {
        node: node(index),
        name: name(index),
        zone: String::new(),
        weight: 1,
        peer_address: format!("10.0.0.{index}:7000"),
        client_address: format!("10.0.0.{index}:8000"),
    };
    let document = Document::first(FirstDocument {
        cluster: ClusterId([cluster; 16]),
        cluster_key: ClusterKey([9; 32]),
        partitions: PartitionCount::new(8).unwrap(),
        members: (0..members).map(member).collect(),
        voters: (0..voters).map(voter).collect(),
    });
    document.unwrap()
}

struct NoClock;

impl Clock for NoClock {
    fn now_ms(&self) -> u64 {
        0
    }
}

/// A node that runs.
struct Running {
    cluster: Arc<Cluster>,
    recovery: JoinHandle<()>,
}

/// What the nodes share.
struct Shared {
    rng: ChaCha8Rng,
    running: BTreeMap<NodeId, Running>,
    cut: BTreeSet<NodeId>,
    /// Messages by what they ask.
    sent: BTreeMap<&'static str, usize>,
}

pub(super) struct Network {
    shared: Arc<Mutex<Shared>>,
    engines: Vec<Arc<MemoryEngine>>,
    voters: Vec<Voter>,
    seed: u64,
}

impl Network {
    /// `members` nodes with empty stores and no document.
    pub(super) fn new(members: usize, seed: u64) -> Self {
        let shared = Shared {
            rng: ChaCha8Rng::seed_from_u64(seed),
            running: BTreeMap::new(),
            cut: BTreeSet::new(),
            sent: BTreeMap::new(),
        };
        let mut network = Self {
            shared: Arc::new(Mutex::new(shared)),
            engines: (0..members).map(|_| Arc::new(MemoryEngine::new())).collect(),
            voters: (0..members).map(voter).collect(),
            seed,
        };
        (0..members).for_each(|index| network.start(index).unwrap());
        network
    }

    /// A cluster of `members` nodes, up to 7 of them voters, all of which know the first document
    /// and have recovered.
    pub(super) async fn cluster(members: usize, seed: u64) -> Self {
        let network = Self::new(members, seed);
        let document = first(members, members.min(7), 1).encode();
        for index in 0..members {
            network.at(index).bootstrap(document.clone()).await.unwrap();
        }
        network.recovered().await;
        network
    }

    pub(super) fn at(&self, index: usize) -> Arc<Cluster> {
        self.shared.lock().unwrap().running[&node(index)].cluster.clone()
    }

    pub(super) fn engine(&self, index: usize) -> &Arc<MemoryEngine> {
        &self.engines[index]
    }

    fn start(&mut self, index: usize) -> Result<(), OpenError> {
        self.seed += 1;
        let env = Env::simulated(Arc::new(NoClock), self.seed);
        let cluster = Cluster::open(self.voters[index], self.engines[index].clone(), env)?;
        cluster.connect(Arc::new(Link { from: node(index), shared: self.shared.clone() }));
        let task = cluster.clone();
        let recovery = tokio::spawn(async move { task.recover().await });
        let running = Running { cluster, recovery };
        self.shared.lock().unwrap().running.insert(node(index), running);
        Ok(())
    }

    pub(super) fn stop(&self, index: usize) {
        let stopped = self.shared.lock().unwrap().running.remove(&node(index));
        if let Some(Running { recovery, .. }) = stopped {
            recovery.abort();
        }
    }

    /// Kills the process and starts it again.
    pub(super) fn restart(&mut self, index: usize) {
        self.stop(index);
        self.engines[index] = Arc::new(self.engines[index].kill());
        self.start(index).unwrap();
    }

    /// Cuts the power and starts the node again.
    pub(super) fn power_cut(&mut self, index: usize) {
        self.stop(index);
        let engine = self.engines[index].crash(&mut self.shared.lock().unwrap().rng);
        self.engines[index] = Arc::new(engine);
        self.start(index).unwrap();
    }

    /// Gives the node an empty store, with an id of its own.
    pub(super) fn wipe(&mut self, index: usize) {
        self.stop(index);
        self.engines[index] = Arc::new(MemoryEngine::new());
        self.voters[index].store.0 += 1000;
        self.start(index).unwrap();
    }

    pub(super) fn cut(&self, indexes: &[usize]) {
        self.shared.lock().unwrap().cut = indexes.iter().map(|&index| node(index)).collect();
    }

    /// How many messages of this kind were sent so far.
    pub(super) fn sent(&self, kind: &'static str) -> usize {
        self.shared.lock().unwrap().sent.get(kind).copied().unwrap_or(0)
    }

    /// Waits until every running voter may vote.
    pub(super) async fn recovered(&self) {
        let clusters: Vec<_> = {
            let shared = self.shared.lock().unwrap();
            shared.running.values().map(|running| running.cluster.clone()).collect()
        };
        let all = async {
            for cluster in clusters {
                while cluster.exclusively(|register| register.is_recovering()).await {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        tokio::time::timeout(60 * SECOND, all).await.expect("voters recover");
    }
}

/// One node's way to the others.
struct Link {
    from: NodeId,
    shared: Arc<Mutex<Shared>>,
}

impl Link {
    fn reach(&self, to: NodeId) -> Option<(Arc<Cluster>, Duration)> {
        let mut shared = self.shared.lock().unwrap();
        if shared.cut.contains(&to) || shared.cut.contains(&self.from) {
            return None;
        }
        let delay = Duration::from_micros(shared.rng.random_range(100..5000));
        Some((shared.running.get(&to)?.cluster.clone(), delay))
    }
}

impl Peers for Link {
    fn request(
        &self,
        to: NodeId,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply, PeerError>> {
        let kind = match &request {
            Request::Document => "document",
            Request::Learn(_) => "learn",
            _ => "register",
        };
        *self.shared.lock().unwrap().sent.entry(kind).or_default() += 1;
        let Some((cluster, delay)) = self.reach(to) else {
            let reason = "cut off".to_owned();
            return Box::pin(async { Err(PeerError::Disconnected { reason }) });
        };
        // A task of its own: the request arrives also if nobody waits for its answer.
        let answer = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let reply = answer(&cluster, request).await;
            tokio::time::sleep(delay).await;
            reply
        });
        Box::pin(async move {
            match tokio::time::timeout(timeout, answer).await {
                Ok(reply) => Ok(reply.expect("handlers do not panic")),
                Err(_) => Err(PeerError::TimedOut),
            }
        })
    }

    fn connected(&self, node: NodeId) -> bool {
        self.reach(node).is_some()
    }
}

async fn answer(cluster: &Cluster, request: Request) -> Reply {
    match request {
        Request::Document => Reply::Document(cluster.newest_document().await),
        Request::Learn(document) => match cluster.learn(document).await {
            Ok(version) => Reply::Learned { version },
            Err(error) => Reply::Failed(error),
        },
        Request::Register(message) => match cluster.on_register(message).await {
            Ok(answer) => Reply::Register(answer),
            Err(error) => Reply::Failed(error),
        },
        other => panic!("not for the cluster: {other:?}"),
    }
}
