//! Hearing the other voters after each opening of the store, before this one votes again.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};

use super::pauses::Pauses;
use super::{Cluster, STEP_TIMEOUT};
use crate::dynamo::key::NodeId;
use crate::dynamo::metadata::register::{Answer, Effect, Refusal, Reply, Request};

impl Cluster {
    /// A task that asks the other voters for as long as this one may have forgotten votes, and
    /// again when a new document makes that necessary. It ends only by being dropped.
    pub async fn recover(&self) {
        let mut changes = self.changes();
        let mut rng = self.env.rng();
        loop {
            changes.see();
            let mut pauses = Pauses::new();
            while self.recovery_round().await {
                tokio::time::sleep(pauses.next(&mut rng)).await;
            }
            changes.changed().await;
        }
    }

    /// One round of asking; whether another one is needed.
    async fn recovery_round(&self) -> bool {
        let rng = self.env.rng();
        let begin =
            |register: &mut super::Register| (register.recover(rng), register.is_recovering());
        let (effects, recovering) = self.exclusively(begin).await;
        if !recovering {
            return false;
        }
        let requests = effects.into_iter().filter_map(|effect| match effect {
            Effect::Send { to, request } => Some(self.ask_votes(to, request)),
            Effect::Teach { .. } => None,
        });
        let mut waiting: FuturesUnordered<_> = requests.collect();
        while let Some((from, answered)) = waiting.next().await {
            let recovering = match answered {
                Ok(reply) => self.on_told(from, reply).await,
                Err(reason) => {
                    tracing::debug!(%from, reason, "a voter did not tell its votes");
                    true
                }
            };
            if !recovering {
                return false;
            }
        }
        self.exclusively(|register| register.is_recovering()).await
    }

    /// Asks a voter; if it knows less than this node, tells it, and asks again.
    async fn ask_votes(&self, to: NodeId, request: Request) -> (NodeId, Result<Reply, String>) {
        let answered = self.ask_voter(to, request.clone(), STEP_TIMEOUT).await;
        let behind =
            matches!(&answered, Ok(Reply { answer: Answer::Refused(Refusal::Behind { .. }), .. }));
        match self.view() {
            Some(view) if behind && self.teach(to, view.document(), STEP_TIMEOUT).await => {
                (to, self.ask_voter(to, request, STEP_TIMEOUT).await)
            }
            _ => (to, answered),
        }
    }

    /// Whether more answers are needed.
    async fn on_told(&self, from: NodeId, reply: Reply) -> bool {
        let newer = match &reply.answer {
            Answer::Refused(Refusal::Newer(document)) => Some(Arc::clone(document)),
            _ => None,
        };
        let told = self.exclusively(move |register| match newer {
            Some(document) => register.learn(&document).map(|_| register.is_recovering()),
            None => register.on_told(from, reply),
        });
        told.await.unwrap_or_else(|error| {
            tracing::warn!(%error, "this voter cannot recover");
            true
        })
    }
}
