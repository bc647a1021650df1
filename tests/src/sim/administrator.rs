//! An administrator: makes a namespace, uses it, drops it, and makes it again under the same name.
//!
//! Each time it is another namespace, in which nothing of the one before may show: in the history
//! they are *extra#2*, *extra#3*, ..., by their ids, each with a number of owners of its own, and so
//! with one or another placement group beside that of the run's own namespace. That history is one by
//! itself, since no node is asked in the end what it holds of what was dropped.
//!
//! A node that is cut off goes by older metadata, as it should: it says that the namespace is there, or
//! gone, and serves the one before. So the administrator believes what the newest metadata says too,
//! and uses nodes that know of its namespace.

use std::time::Duration;

use quorate_node::dynamo::metadata::document::NewNamespace;
use quorate_node::service::kv::KvService;
use quorate_proto::v1;
use quorate_proto::v1::error_detail::Outcome as Told;
use quorate_proto::v1::kv_server::Kv as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Response, Status};

use super::client;
use super::wire::Failure;
use super::workload::quorum;
use super::world::World;
use super::{Serving, strict, world};
use crate::history::{Action, Outcome, Shown};

const KEYS: u64 = 2;
const TIMEOUT: Duration = Duration::from_secs(2);

/// An administrator of a run.
pub(super) struct Administrator<'a> {
    world: &'a World,
    number: u64,
    /// The name of its namespaces.
    name: String,
    rng: ChaCha8Rng,
    /// The id of the namespace that it made last.
    id: u64,
    /// How many owners its keys have.
    n: u8,
    sequence: u64,
}

impl<'a> Administrator<'a> {
    pub(super) fn new(number: u64, seed: u64, world: &'a World) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed ^ 0xad ^ number << 32);
        Self { world, number, name: format!("extra{number}"), rng, id: 0, n: 0, sequence: 0 }
    }

    /// Works until then.
    pub(super) async fn run(mut self, until: Instant) {
        while Instant::now() < until {
            if !self.create(until).await {
                return;
            }
            self.world.look_at_metadata();
            self.world.add_extra(self.namespace(), self.n.into());
            for _ in 0..self.rng.random_range(1..8) {
                sleep(Duration::from_millis(self.rng.random_range(5..400))).await;
                let key = self.rng.random_range(0..KEYS);
                match self.rng.random() {
                    true => self.write(key).await,
                    false => self.read(key).await,
                }
            }
            if !self.drop(until).await {
                return;
            }
            self.world.look_at_metadata();
        }
    }

    fn namespace(&self) -> String {
        format!("{}#{}", self.name, self.id)
    }

    /// Makes the namespace; false if nobody says that it is there before the time is over.
    async fn create(&mut self, until: Instant) -> bool {
        let [least, most] = self.world.workload.extra_n;
        self.n = self.rng.random_range(least..=most) as u8;
        while Instant::now() < until {
            let at = self.rng.random_range(0..self.world.nodes);
            if let Some((cluster, gone)) = self.world.metadata(at) {
                let new = NewNamespace { n: self.n, ..strict(&self.name) };
                let create = cluster.create_namespace(new, TIMEOUT);
                let made = match gone.run_until_cancelled(create).await {
                    Some(Ok((namespace, _))) => Some(namespace.id.0),
                    // An earlier attempt may have made it.
                    told => {
                        self.world.note(|| format!("{} is not made: {told:?}", self.name));
                        self.world.newest_id(&self.name)
                    }
                };
                if let Some(id) = made.filter(|id| *id > self.id) {
                    self.id = id;
                    return true;
                }
            }
            sleep(Duration::from_millis(self.rng.random_range(50..500))).await;
        }
        false
    }

    async fn drop(&mut self, until: Instant) -> bool {
        while Instant::now() < until {
            let at = self.rng.random_range(0..self.world.nodes);
            if let Some((cluster, gone)) = self.world.metadata(at) {
                let drop = cluster.drop_namespace(&self.name, TIMEOUT);
                let told = gone.run_until_cancelled(drop).await;
                self.world.note(|| format!("{} was to be dropped: {told:?}", self.name));
                if self.world.newest_id(&self.name) != Some(self.id) {
                    return true;
                }
            }
            sleep(Duration::from_millis(self.rng.random_range(50..500))).await;
        }
        false
    }

    async fn write(&mut self, key: u64) {
        self.sequence += 1;
        let value = format!("{}.{}", self.name, self.sequence);
        let request = v1::PutRequest {
            namespace: self.name.clone(),
            key: world::key_name(key).into(),
            value: value.clone().into(),
            fresh: true,
            ..Default::default()
        };
        let (w, context) = (quorum(self.n.into()), Default::default());
        let action = Action::Write {
            value: Some(value),
            context,
            w,
            synced: false,
            sloppy: false,
            copies: false,
        };
        let asked = self.world.invoke_extra(self.number, (self.namespace(), key), action);
        let put = |service: KvService| async move { service.put(Request::new(request)).await };
        let outcome = match self.call(put).await {
            Ok(reply) => client::receipt(reply.siblings, reply.receipt, None),
            Err(failure) if failure.outcome == Told::NotApplied => {
                Outcome::NotApplied(failure.text)
            }
            Err(failure) => Outcome::Unknown(failure.text),
        };
        self.world.answered_extra(asked, outcome);
    }

    async fn read(&mut self, key: u64) {
        let request = v1::GetRequest {
            namespace: self.name.clone(),
            key: world::key_name(key).into(),
            ..Default::default()
        };
        let action = Action::Read { r: quorum(self.n.into()), sloppy: false };
        let asked = self.world.invoke_extra(self.number, (self.namespace(), key), action);
        let get = |service: KvService| async move { service.get(Request::new(request)).await };
        let outcome = match self.call(get).await {
            Ok(reply) => {
                Outcome::Shown(Shown { values: client::values(&reply.siblings), context: None })
            }
            Err(failure) => Outcome::Failed(failure.text),
        };
        self.world.answered_extra(asked, outcome);
    }

    async fn call<T, F>(&mut self, send: impl FnOnce(KvService) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let at = self.rng.random_range(0..self.world.nodes);
        let knows = self.world.id_at(at, &self.name) == Some(self.id);
        let serving = self.world.cluster.borrow().serving(at, false);
        let Some(Serving { service, gone, .. }) = serving.filter(|_| knows) else {
            return Err(Failure::silence("nobody knows of it there"));
        };
        let answer = gone.run_until_cancelled(timeout(TIMEOUT, send(service))).await;
        match answer {
            None => Err(Failure::silence("the connection broke")),
            Some(Err(_)) => Err(Failure::silence("no answer came in time")),
            Some(Ok(answer)) => {
                answer.map(Response::into_inner).map_err(|status| Failure::of_status(&status))
            }
        }
    }
}
