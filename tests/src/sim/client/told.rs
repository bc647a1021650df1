//! Clients that do what a story says: whom they ask, and in which order, is not drawn.

use anyhow::{Context as _, Result, anyhow};
use quorate_node::service::kv::KvService;
use quorate_proto::v1;
use quorate_proto::v1::kv_server::Kv as _;
use quorate_proto::v1::resolve_reply::Outcome as Told;
use tonic::Request;

use super::{Client, Sent, Terms, Token, Write};
use crate::history::Outcome;
use crate::sim::world::{NAMESPACE, World};

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
        let (mut sent, answer) = (Sent::default(), self.put(at, &write).await);
        let outcome = sent.on_answer(answer).unwrap_or_else(|| sent.given_up());
        self.wrote(outcome, write);
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
