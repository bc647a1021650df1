//! Clients that do what a story says: whom they ask, and in which order, is not drawn.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use quorate_node::service::kv::KvService;
use quorate_proto::v1;
use quorate_proto::v1::kv_server::Kv as _;
use quorate_proto::v1::resolve_reply::Outcome as Told;
use tokio::time::sleep;
use tonic::Request;

use super::{Client, Sent, Terms, Token, Unknown, Write, milliseconds};
use crate::history::Outcome;
use crate::sim::world::{NAMESPACE, World, violation};

/// The one client of a story.
const ID: u64 = 1;

/// The one key of a story.
const KEY: u64 = 0;

impl<'a> Client<'a> {
    /// One whose messages all arrive.
    pub(in crate::sim) fn told(seed: u64, world: &'a World) -> Self {
        Self { loses: false, ..Self::plain(ID, seed, world) }
    }

    /// Writes without a context, by way of a node that its id names.
    pub(in crate::sim) async fn write_blind(&mut self, at: usize, w: usize) {
        let (value, token) = (Some(self.value()), Token::default());
        let terms = Terms { w, level: count(w), at_least_once: false, ..self.terms() };
        let write = Write { key: KEY, value, token };
        let write = self.begin(at, write, terms).expect("a story names nodes that run");
        self.send_once(at, write).await;
    }

    async fn send_once(&mut self, at: usize, write: Unknown) {
        let (mut sent, answer) = (Sent::default(), self.put(at, &write).await);
        let outcome = sent.on_answer(answer).unwrap_or_else(|| sent.given_up());
        self.wrote(outcome, write);
    }

    /// Writes a value that lives so long.
    pub(in crate::sim) async fn write_for(&mut self, at: usize, w: usize, ttl_ms: u64) {
        let (value, token) = (Some(self.value()), Token::default());
        let terms = Terms { w, level: count(w), at_least_once: false, ..self.terms() };
        let write = Write { key: KEY, value, token };
        let mut write = self.begin(at, write, terms).expect("a story names nodes that run");
        write.request.ttl = Some(milliseconds(ttl_ms));
        self.send_once(at, write).await;
    }

    /// Writes a value that is soon to expire, lets it live on, and looks whether it does. The history knows
    /// nothing of the key: a value is of one write there. In the end the key is deleted.
    pub(in crate::sim) async fn persist_in_time(&mut self, at: usize, other: usize) -> Result<()> {
        let (namespace, key) = (NAMESPACE.to_owned(), Bytes::from_static(b"persists"));
        let (value, ttl) = (Bytes::from_static(b"value"), Some(milliseconds(5_000)));
        let put = v1::PutRequest { value, ttl, ..v1::PutRequest::default() };
        let put = v1::PutRequest { namespace: namespace.clone(), key: key.clone(), ..put };
        let call = |service: KvService| async move { service.put(Request::new(put)).await };
        self.call(at, call).await.map_err(|failure| anyhow!(failure.text))?;
        let ttl = Some(v1::Ttl { lives: Some(v1::ttl::Lives::Never(true)) });
        let expire = v1::ExpireRequest { ttl, ..v1::ExpireRequest::default() };
        let expire = v1::ExpireRequest { namespace: namespace.clone(), key: key.clone(), ..expire };
        let call = |service: KvService| async move { service.expire(Request::new(expire)).await };
        self.call(other, call).await.map_err(|failure| anyhow!(failure.text))?;
        sleep(Duration::from_secs(30)).await;
        let get = v1::GetRequest { namespace, key, ..v1::GetRequest::default() };
        let delete = v1::DeleteRequest {
            namespace: get.namespace.clone(),
            key: get.key.clone(),
            ..v1::DeleteRequest::default()
        };
        let call = |service: KvService| async move { service.get(Request::new(get)).await };
        let read = self.call(at, call).await.map_err(|failure| anyhow!(failure.text))?;
        if read.siblings.is_empty() {
            let text = "a value that persists is gone at its old deadline".to_owned();
            self.world.add_violations([violation("I15", text, 0)]);
        }
        let delete = v1::DeleteRequest { context: read.context, ..delete };
        let call = |service: KvService| async move { service.delete(Request::new(delete)).await };
        self.call(at, call).await.map(drop).map_err(|failure| anyhow!(failure.text))
    }

    /// Asks a node what became of the writes whose outcome is not known. That one was *not applied* is
    /// believed for good.
    pub(in crate::sim) async fn resolve_by(&mut self, at: usize) -> Result<()> {
        for unknown in self.world.take_unknown() {
            let request = v1::ResolveRequest {
                operation_id: unknown.request.operation_id,
                namespace_id: self.world.newest_id(NAMESPACE).context("it was made")?,
                key_hash: self.world.hash_of(unknown.key)?,
                timeout_ms: self.timeout_ms(),
                ..Default::default()
            };
            let call =
                |service: KvService| async move { service.resolve(Request::new(request)).await };
            let told = self.call(at, call).await.map_err(|failure| anyhow!(failure.text))?;
            match told.outcome() {
                Told::NotApplied => {
                    self.world.settled(unknown.asked, Outcome::NotApplied(told.message));
                }
                _ => self.world.add_unknown(unknown),
            }
        }
        Ok(())
    }

    /// Reads by way of a node.
    pub(in crate::sim) async fn read_told(&mut self, at: usize, r: usize) {
        let mode = self.mode();
        self.read_as(at, KEY, (r, count(r)), mode).await;
    }
}

fn count(count: usize) -> Option<v1::Level> {
    Some(v1::Level { kind: v1::level::Kind::Count.into(), count: count as u32 })
}
