//! Clients: what a careful program around the gRPC interface would be.
//!
//! A client names each write, asks again under the same name when it does not know what became of
//! it, and sends the contexts that it was shown. It is not the SDK, which wants sockets; so it may do
//! what the SDK would not, as to use a context of long ago, or to give up before the node does.
//!
//! Whatever it asks and is told goes into the run's history.

mod insist;
mod many;
mod told;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use quorate_node::service::kv::KvService;
use quorate_proto::v1;
use quorate_proto::v1::error_detail::{Kind, Outcome as Told};
use quorate_proto::v1::kv_server::Kv as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tonic::{Request, Response, Status};

use self::insist::INSIST;
use super::wire::Failure;
use super::workload::{Choice, Workload};
use super::world::{NAMESPACE, Unknown, World, key_name, violation};
use super::{Serving, node};
use crate::history::{Action, Dot, Outcome, Receipt, Shown, StandIn, Version};

/// How many contexts of a key one remembers.
const REMEMBERED: usize = 4;

/// A month. Clocks are off by minutes.
const LONG_MS: u64 = 30 * 24 * 3_600_000;

/// How long one waits for an outcome when nothing goes wrong any more.
const SETTLE_MS: u32 = 5_000;

/// A context, and what it covers.
#[derive(Clone, Default)]
struct Token {
    bytes: Bytes,
    version: Version,
}

/// A write that is about to be sent.
struct Write {
    key: u64,
    /// None deletes.
    value: Option<String>,
    token: Token,
}

/// On which terms a write is acknowledged: as the history has them, and the request.
#[derive(Clone, Copy)]
struct Terms {
    w: usize,
    level: Option<v1::Level>,
    synced: bool,
    durability: i32,
    mode: Mode,
    /// Whether it is run elsewhere too if its outcome is unknown.
    at_least_once: bool,
}

/// Whether fallbacks count: as the history has it, and the request.
#[derive(Clone, Copy)]
struct Mode {
    sloppy: bool,
    quorum: i32,
}

/// One client of a run.
pub(super) struct Client<'a> {
    id: u64,
    world: &'a World,
    rng: ChaCha8Rng,
    sequence: u64,
    /// Of two processes under one name, whether it meets the second.
    second: bool,
    /// The last contexts of each key that it was given.
    remembered: BTreeMap<u64, VecDeque<Token>>,
    /// Whether it asks for nothing but what its namespace does by default.
    plain: bool,
    /// Whether messages between it and nodes get lost now and then.
    loses: bool,
}

impl<'a> Client<'a> {
    pub(super) fn new(id: u64, seed: u64, world: &'a World) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(id));
        let (remembered, plain) = (BTreeMap::new(), world.workload.steady);
        Self { id, world, rng, sequence: 0, second: false, remembered, plain, loses: true }
    }

    /// One that asks for nothing but what its namespace does by default.
    pub(super) fn plain(id: u64, seed: u64, world: &'a World) -> Self {
        Self { plain: true, ..Self::new(id, seed, world) }
    }

    /// Works until then.
    pub(super) async fn run(mut self, until: Instant) {
        loop {
            let pause_ms = self.rng.random_range(0..=2 * self.world.workload.pause_ms);
            sleep(Duration::from_millis(pause_ms)).await;
            if Instant::now() >= until {
                return;
            }
            self.step().await;
        }
    }

    async fn step(&mut self) {
        self.second = self.rng.random();
        let key = self.rng.random_range(0..self.world.workload.keys);
        match self.world.workload.mix.draw(&mut self.rng) {
            Choice::Batch | Choice::BatchRead | Choice::Scan if self.world.workload.steady => {
                drop(self.read(key).await);
            }
            Choice::Read => drop(self.read(key).await),
            Choice::Replace => {
                let Some(token) = self.read(key).await else { return };
                let value = Some(self.value());
                self.write(Write { key, value, token }).await;
            }
            Choice::Blind => {
                let remembers = self.rng.random_bool(0.5);
                let token = if remembers { self.remembered(key) } else { None };
                let value = Some(self.value());
                self.write(Write { key, value, token: token.unwrap_or_default() }).await;
            }
            Choice::Heedless => {
                let value = Some(self.value());
                self.write(Write { key, value, token: Token::default() }).await;
            }
            Choice::Delete => {
                let remembers = self.rng.random_bool(0.5);
                let token = if remembers { self.remembered(key) } else { self.read(key).await };
                let Some(token) = token.filter(|token| !token.bytes.is_empty()) else { return };
                self.write(Write { key, value: None, token }).await;
            }
            Choice::Batch => self.write_batch().await,
            Choice::BatchRead => self.read_batch().await,
            Choice::Scan => self.scan().await,
        }
    }

    fn value(&mut self) -> String {
        self.sequence += 1;
        format!("{}.{}", self.id, self.sequence)
    }

    /// Where to send what concerns a key: mostly to an owner.
    fn somewhere(&mut self, key: u64) -> usize {
        match self.rng.random_bool(0.9) {
            true => self.owner(key),
            false => self.rng.random_range(0..self.world.nodes),
        }
    }

    /// Where to send a write: mostly to the node that its id names, else to one that sends it on; if it
    /// was sent before and nobody told, to anybody.
    fn by_way_of(&mut self, coordinator: usize, key: u64, again: bool) -> usize {
        if again && self.world.workload.sloppy && self.rng.random_bool(0.5) {
            return self.rng.random_range(0..self.world.nodes);
        }
        if self.rng.random_bool(0.9) { coordinator } else { self.somewhere(key) }
    }

    /// Whom a write's id names: an owner; where fallbacks may coordinate, now and then another node.
    fn coordinator(&mut self, key: u64) -> usize {
        match self.world.workload.sloppy
            && !self.world.workload.steady
            && self.rng.random_bool(0.15)
        {
            true => self.rng.random_range(0..self.world.nodes),
            false => self.owner(key),
        }
    }

    /// That node, or an owner if it may not coordinate, since fallbacks do not count.
    fn that_may(&mut self, coordinator: usize, key: u64, mode: Mode) -> usize {
        let owns = self.world.owners[key as usize].contains(&coordinator);
        if owns || mode.sloppy { coordinator } else { self.owner(key) }
    }

    /// Whether fallbacks count: mostly as the namespace has it.
    fn mode(&mut self) -> Mode {
        let default = self.world.workload.sloppy;
        let kind = if default && !self.plain { self.rng.random_range(0..10) } else { 9 };
        let (sloppy, quorum) = match kind {
            0..2 => (false, v1::Quorum::Strict),
            2..4 => (true, v1::Quorum::Sloppy),
            _ => (default, v1::Quorum::Default),
        };
        Mode { sloppy, quorum: quorum.into() }
    }

    fn owner(&mut self, key: u64) -> usize {
        let owners = &self.world.owners[key as usize];
        owners[self.rng.random_range(0..owners.len())]
    }

    /// How many owners shall answer, mostly a quorum; and the same for the request.
    fn level(&mut self, may_be_one: bool) -> (usize, Option<v1::Level>) {
        let (n, quorum) = (self.world.workload.n, self.world.quorum());
        if self.plain {
            return (quorum, None);
        }
        let least = if may_be_one { 1 } else { n.min(2) };
        let (kind, count) = match self.rng.random_range(0..10) {
            0 if may_be_one => (v1::level::Kind::One, 1),
            1 => (v1::level::Kind::All, n),
            2 => (v1::level::Kind::Count, self.rng.random_range(least..=n)),
            3 => (v1::level::Kind::Quorum, quorum),
            _ => return (quorum, None),
        };
        let told = if kind == v1::level::Kind::Count { count } else { 0 };
        (count, Some(v1::Level { kind: kind.into(), count: told as u32 }))
    }

    async fn read(&mut self, key: u64) -> Option<Token> {
        let at = self.somewhere(key);
        match self.world.workload.steady {
            true => self.read_by_any(at, key).await,
            false => self.read_by(at, key).await,
        }
    }

    async fn read_by(&mut self, at: usize, key: u64) -> Option<Token> {
        let (level, mode) = (self.level(true), self.mode());
        self.read_as(at, key, level, mode).await
    }

    async fn read_as(
        &mut self,
        at: usize,
        key: u64,
        (r, level): (usize, Option<v1::Level>),
        Mode { sloppy, quorum }: Mode,
    ) -> Option<Token> {
        let asked = self.world.invoke(self.id, key, Action::Read { r, sloppy });
        let request = v1::GetRequest {
            quorum,
            namespace: NAMESPACE.to_owned(),
            key: key_name(key).into(),
            r: level,
            timeout_ms: self.timeout_ms(),
            ..Default::default()
        };
        let call =
            move |service: KvService| async move { service.get(Request::new(request)).await };
        match self.call(at, call).await {
            Ok(reply) => Some(self.shown(asked, key, reply)),
            Err(failure) => {
                self.world.answered(asked, Outcome::Failed(failure.text));
                None
            }
        }
    }

    fn shown(&mut self, asked: usize, key: u64, reply: v1::GetReply) -> Token {
        let v1::GetReply { siblings, context, .. } = reply;
        let token = self.token(key, context);
        let outcome = Shown { values: values(&siblings), context: Some(token.version.clone()) };
        self.world.answered(asked, Outcome::Shown(outcome));
        token
    }

    fn token(&mut self, key: u64, bytes: Bytes) -> Token {
        let token = Token { version: self.world.version_of(key, &bytes), bytes };
        if !token.bytes.is_empty() {
            let remembered = self.remembered.entry(key).or_default();
            remembered.push_back(token.clone());
            if remembered.len() > REMEMBERED {
                remembered.pop_front();
            }
        }
        token
    }

    /// A context of a key from before, the last one or an older one; none if it was given none.
    fn remembered(&mut self, key: u64) -> Option<Token> {
        let tokens = self.remembered.get(&key)?;
        Some(tokens[self.rng.random_range(0..tokens.len())].clone())
    }

    fn terms(&mut self) -> Terms {
        let synced = self.rng.random_range(0..100) < self.world.workload.synced_of_100;
        let durability = if synced { v1::Durability::Synced } else { v1::Durability::Default };
        let (w, level) = self.level(self.world.workload.weak_writes);
        let Workload { sloppy, steady, .. } = self.world.workload;
        let at_least_once = steady || sloppy && self.rng.random_bool(0.1);
        Terms { w, level, synced, durability: durability.into(), mode: self.mode(), at_least_once }
    }

    /// Gives a write its id, and notes that it is asked for; none while that node does not run.
    fn begin(&mut self, coordinator: usize, write: Write, terms: Terms) -> Option<Unknown> {
        let operation_id = Some(self.operation(coordinator)?);
        let Write { key, value, token } = write;
        let Terms { w, level, synced, durability, mode: Mode { sloppy, quorum }, .. } = terms;
        let (deletes, copies) = (value.is_none(), false);
        let (context, bytes) = (token.version, value.clone().unwrap_or_default().into());
        let action = Action::Write { value, context, w, synced, sloppy, copies };
        let asked = self.world.invoke(self.id, key, action);
        let request = v1::PutRequest {
            namespace: NAMESPACE.to_owned(),
            key: key_name(key).into(),
            value: bytes,
            context: token.bytes,
            w: level,
            durability,
            operation_id,
            timeout_ms: self.timeout_ms(),
            fresh: true,
            quorum,
            ttl: self.ttl(deletes),
            ..Default::default()
        };
        Some(Unknown { asked, key, coordinator, request, deletes })
    }

    /// Some values expire, long after the end of any run, whatever clocks show: none is to be missed.
    fn ttl(&self, deletes: bool) -> Option<v1::Ttl> {
        let expires = !deletes && self.sequence.is_multiple_of(4);
        expires.then(|| milliseconds(LONG_MS))
    }

    /// An id that names that node; none while it does not run.
    fn operation(&mut self, coordinator: usize) -> Option<v1::OperationId> {
        self.sequence += 1;
        let opening = self.serving(coordinator)?.opening.0;
        Some(v1::OperationId {
            coordinator: node(coordinator).0,
            opening,
            client: self.id,
            sequence: self.sequence,
            issued_ms: self.world.node_ms(coordinator),
        })
    }

    /// Writes, and asks again for the outcome until it is known, or it has asked often enough.
    async fn write(&mut self, write: Write) {
        let coordinator = self.coordinator(write.key);
        self.write_by(coordinator, write).await;
    }

    /// Whether it was acknowledged.
    async fn write_by(&mut self, coordinator: usize, write: Write) -> bool {
        let (key, terms) = (write.key, self.terms());
        let coordinator = self.that_may(coordinator, key, terms.mode);
        let Some(mut write) = self.begin(coordinator, write, terms) else { return false };
        let mut sent = Sent::default();
        let Workload { retries, steady, .. } = self.world.workload;
        for attempt in 0..=if steady { INSIST } else { retries } {
            let mut at = self.by_way_of(coordinator, key, attempt > 0);
            if attempt > 0 && terms.at_least_once {
                at = self.elsewhere(attempt, at, &mut write);
                sent.elsewhere = true;
            }
            let answer = self.put(at, &write).await;
            write.request.fresh = false;
            if let Some(outcome) = sent.on_answer(answer) {
                let written = outcome.is_ok();
                self.wrote(outcome, write);
                return written;
            }
            sleep(Duration::from_millis(self.rng.random_range(20..400))).await;
        }
        if steady {
            self.nobody_answered(write.asked);
        }
        self.wrote(sent.given_up(), write);
        false
    }

    async fn put(&mut self, at: usize, write: &Unknown) -> Result<v1::PutReply, Failure> {
        let &Unknown { asked, key, deletes, .. } = write;
        let send = move |service: KvService, request: v1::PutRequest| async move {
            match deletes {
                true => service.delete(Request::new(delete(request))).await.map(deleted),
                false => service.put(Request::new(request)).await,
            }
        };
        let mut request = write.request.clone();
        if self.rng.random_bool(0.1) && !self.world.workload.steady {
            // Of two requests neither may claim to be the first.
            request.fresh = false;
            self.send_late(at, request.clone(), send);
        }
        let world = self.world;
        let look = |reply: &Response<v1::PutReply>| {
            let receipt = reply.get_ref().receipt.clone().unwrap_or_default();
            world.inspect(asked, key, &receipt);
        };
        let call = move |service| async move { send(service, request).await.inspect(look) };
        self.call(at, call).await
    }

    /// Sends a copy of a request that its client has long given up when it arrives.
    fn send_late<F>(
        &mut self,
        at: usize,
        request: v1::PutRequest,
        send: impl FnOnce(KvService, v1::PutRequest) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<Response<v1::PutReply>, Status>> + Send,
    {
        let Some(Serving { service, gone, .. }) = self.serving(at) else { return };
        let late = Duration::from_millis(self.rng.random_range(100..6_000));
        tokio::spawn(gone.run_until_cancelled_owned(async move {
            sleep(late).await;
            let _nobody_hears_it = send(service, request).await;
        }));
    }

    fn wrote(&mut self, outcome: Result<v1::PutReply, Outcome>, unknown: Unknown) {
        let (asked, key) = (unknown.asked, unknown.key);
        let outcome = match outcome {
            Ok(reply) => self.receipt(key, reply),
            Err(outcome) => outcome,
        };
        if let Outcome::Unknown(_) = outcome {
            self.world.add_unknown(unknown);
        }
        self.world.answered(asked, outcome);
    }

    /// Asks once more for every outcome that is not known, when nothing goes wrong any more. The node
    /// that was named can tell, unless it was started again since; or the owners, if what it wrote in
    /// their place went home. Where the last write wins, it may be too late.
    pub(super) async fn settle_unknown(&mut self) {
        for mut write in self.world.take_unknown() {
            let Unknown { asked, key, coordinator, .. } = write;
            let opening = write.request.operation_id.as_ref().map(|id| id.opening);
            let serving = self.world.cluster.borrow().serving(coordinator, false);
            if serving.is_none_or(|serving| Some(serving.opening.0) != opening) {
                continue;
            }
            // Its clock was wrong, and has been set right: the id's time is yet to come.
            let issued_ms = write.request.operation_id.as_ref().map_or(0, |id| id.issued_ms);
            if issued_ms > self.world.node_ms(coordinator) {
                continue;
            }
            write.request.timeout_ms = SETTLE_MS;
            let mut sent = Sent::default();
            for attempt in 0..8 {
                let at = if attempt % 2 == 0 { coordinator } else { self.owner(key) };
                let answer = self.put(at, &write).await;
                if let Some(outcome) = sent.on_answer(answer) {
                    let outcome = outcome.map_or_else(|outcome| outcome, |r| self.receipt(key, r));
                    self.world.settled(asked, outcome);
                    sent.doubt = None;
                    break;
                }
            }
            let may_be_lost = self.world.workload.lww || self.world.is_rotten(coordinator);
            if let Some(why) = sent.doubt.filter(|_| !may_be_lost) {
                let text = format!("nobody can tell what became of a write: {why}");
                self.world.add_violations([violation("outcome", text, asked)]);
            }
        }
    }

    /// Reads and writes by way of a node, which must work before long.
    pub(super) async fn must_be_served(&mut self, at: usize) -> Result<()> {
        let keys = self.world.owned_with(0, at, 1);
        let Some(&key) = keys.first() else { return Ok(()) };
        for _ in 0..30 {
            // With what it showed: there may be as many siblings as there may be.
            if let Some(token) = self.read_by(at, key).await {
                let value = Some(self.value());
                if self.write_by(at, Write { key, value, token }).await {
                    return Ok(());
                }
            }
            sleep(Duration::from_secs(1)).await;
        }
        bail!("half a minute after everything was set right")
    }

    fn receipt(&mut self, key: u64, reply: v1::PutReply) -> Outcome {
        let v1::PutReply { context, siblings, receipt } = reply;
        let context = (!context.is_empty()).then(|| self.token(key, context).version);
        self::receipt(siblings, receipt, context)
    }

    fn timeout_ms(&self) -> u32 {
        self.world.workload.timeout_ms as u32
    }

    /// Sends a request to a node and waits for the answer; either may get lost, or the node.
    async fn call<T, F>(
        &mut self,
        at: usize,
        send: impl FnOnce(KvService) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + Duration::from_millis(self.world.workload.timeout_ms);
        let silent = || Failure::silence("no answer came in time");
        let (there, back) = (self.way(), self.way());
        let Some(there) = there else {
            sleep_until(deadline).await;
            return Err(silent());
        };
        sleep(there).await;
        let Some(Serving { service, gone, pause, .. }) = self.serving(at) else {
            return Err(Failure::silence("nobody listens there"));
        };
        let exchange = async {
            pause.over().await;
            let answer = send(service).await;
            pause.over().await;
            answer
        };
        let answer = tokio::select! {
            biased;
            () = gone.cancelled() => return Err(Failure::silence("the connection broke")),
            answer = timeout_at(deadline, exchange) => answer.map_err(|_| silent())?,
        };
        let Some(back) = back else {
            sleep_until(deadline).await;
            return Err(silent());
        };
        sleep(back).await;
        answer.map(Response::into_inner).map_err(|status| Failure::of_status(&status))
    }

    fn serving(&self, at: usize) -> Option<Serving> {
        self.world.cluster.borrow().serving(at, self.second)
    }

    /// How long a message to or from a node takes; none if it is lost.
    fn way(&mut self) -> Option<Duration> {
        let takes = Duration::from_millis(self.rng.random_range(1..4));
        (!self.loses || !self.rng.random_bool(0.005)).then_some(takes)
    }
}

/// What has come of the requests under one operation id.
#[derive(Default)]
struct Sent {
    /// Why it may have been applied.
    doubt: Option<String>,
    /// Whether others than the node that the id names may have run it: then one knows of itself alone.
    elsewhere: bool,
}

impl Sent {
    /// The outcome, if this answer tells.
    fn on_answer(
        &mut self,
        answer: Result<v1::PutReply, Failure>,
    ) -> Option<Result<v1::PutReply, Outcome>> {
        let failure = match answer {
            Ok(reply) => return Some(Ok(reply)),
            Err(failure) => failure,
        };
        match (failure.outcome, failure.kind) {
            (Told::NotApplied, _) if self.elsewhere => {
                self.doubt.get_or_insert(failure.text);
            }
            (Told::NotApplied, _) => return Some(Err(Outcome::NotApplied(failure.text))),
            // Nothing was done with this one.
            (Told::Unread, _) => {}
            // Nobody else can tell.
            (_, Kind::Opening) if !self.elsewhere => {
                return Some(Err(Outcome::Unknown(failure.text)));
            }
            _ => self.doubt = Some(failure.text),
        }
        None
    }

    fn given_up(self) -> Result<v1::PutReply, Outcome> {
        Err(Outcome::Unknown(self.doubt.unwrap_or_else(|| "it was not read".to_owned())))
    }
}

/// What an acknowledged write was told.
pub(super) fn receipt(
    siblings: u32,
    receipt: Option<v1::Receipt>,
    context: Option<Version>,
) -> Outcome {
    let v1::Receipt { dot, acked, synced, fallbacks } = receipt.unwrap_or_default();
    let stand_in = |v1::StandIn { node, owner }| StandIn { node, owner };
    let fallbacks = fallbacks.into_iter().map(stand_in).collect();
    let v1::Dot { actor, n } = dot.unwrap_or_default();
    let (dot, synced) = (Dot { actor, n }, synced as usize);
    Outcome::Written(Receipt { dot, context, siblings, acked, fallbacks, synced })
}

/// The values, as histories have them.
pub(super) fn values(siblings: &[v1::Sibling]) -> Vec<String> {
    let text = |sibling: &v1::Sibling| String::from_utf8_lossy(&sibling.value).into_owned();
    siblings.iter().map(text).collect()
}

fn milliseconds(ms: u64) -> v1::Ttl {
    v1::Ttl { lives: Some(v1::ttl::Lives::Milliseconds(ms)) }
}

fn delete(put: v1::PutRequest) -> v1::DeleteRequest {
    v1::DeleteRequest {
        quorum: put.quorum,
        namespace: put.namespace,
        key: put.key,
        context: put.context,
        w: put.w,
        durability: put.durability,
        operation_id: put.operation_id,
        retry: put.retry,
        timeout_ms: put.timeout_ms,
        fresh: put.fresh,
    }
}

fn deleted(reply: Response<v1::DeleteReply>) -> Response<v1::PutReply> {
    let v1::DeleteReply { context, siblings, receipt } = reply.into_inner();
    Response::new(v1::PutReply { context, siblings, receipt })
}
