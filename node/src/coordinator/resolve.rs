//! Learning what became of an operation: asking everybody who may know.
//!
//! The decision is [`ResolveOp`]'s; here are the asking and the words. Any node can be asked, whether
//! it holds the key or not.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, timeout_at};

use super::{Coordinator, cause_of, cause_of_error, preference, remaining};
use crate::cluster::view::View;
use crate::dynamo::key::{KeyHash, NamespaceId, NodeId, VnodeId};
use crate::dynamo::metadata::document::Namespace;
use crate::dynamo::operation::OperationId;
use crate::dynamo::preference::PreferenceList;
use crate::dynamo::quorum::Cause;
use crate::dynamo::resolve::{LookedUp, Resolution, ResolveOp};
use crate::error::RequestError;
use crate::transport::{LookUp, Reply, Request};
use crate::vnode::look_up::Inquiry;

/// What a client asks of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolve {
    /// The operation's id.
    pub operation: OperationId,
    /// The namespace of the key that it wrote.
    pub namespace: NamespaceId,
    /// The key's hash.
    pub key: KeyHash,
    /// Others than the coordinator that the id names may have been asked to run it.
    pub at_least_once: bool,
    /// How long it may take.
    pub timeout: Duration,
}

/// Who is asked what.
pub(super) struct Asking {
    pub(super) vnode: VnodeId,
    pub(super) look_up: LookUp,
    pub(super) at_least_once: bool,
    /// None twice.
    pub(super) nodes: Vec<NodeId>,
}

impl Coordinator {
    /// What became of an operation, and what to tell of it. If it turns out that nobody applied it and
    /// the coordinator that its id names answers, that one never will.
    pub async fn resolve(&self, asked: Resolve) -> Result<(Resolution, String), RequestError> {
        let deadline = Instant::now() + asked.timeout;
        let (view, namespace) = self.namespace_of(asked.namespace, deadline).await?;
        let vnode = view.vnode_of(&namespace, asked.key);
        let Resolve { operation, namespace, key, at_least_once, .. } = asked;
        let look_up = LookUp { operation, namespace, key, settle: !at_least_once };
        let mut nodes = who_may_know(preference(&view, vnode)?);
        if !nodes.contains(&operation.coordinator) {
            nodes.push(operation.coordinator);
        }
        let asking = Asking { vnode, look_up, at_least_once, nodes };
        // Time must be left to answer: silence is an answer too.
        let until = deadline - remaining(deadline) / 8;
        let resolution = self.look_up(&asking, until).await;
        let told = told(&view, &resolution, &asked);
        Ok((resolution, told))
    }

    /// Asks all at once, until one settles it, or all have answered, or the deadline.
    pub(super) async fn look_up(&self, asking: &Asking, deadline: Instant) -> Resolution {
        let Asking { look_up, at_least_once, nodes, .. } = asking;
        let mut op = ResolveOp::new(look_up.operation, *at_least_once, nodes);
        let mut answers: FuturesUnordered<_> =
            nodes.iter().map(|&node| self.look_up_at(asking, node, deadline)).collect();
        while !op.is_over() {
            match timeout_at(deadline, answers.next()).await {
                Ok(Some((node, Ok(answer)))) => op.on_answer(node, answer),
                Ok(Some((node, Err(cause)))) => op.on_failure(node, cause),
                Ok(None) | Err(_) => break,
            }
        }
        op.conclude()
    }

    fn look_up_at(
        &self,
        asking: &Asking,
        node: NodeId,
        deadline: Instant,
    ) -> BoxFuture<'static, (NodeId, Result<LookedUp, Cause>)> {
        if node == self.node {
            let LookUp { operation, key, settle, .. } = asking.look_up;
            let asked = Inquiry { vnode: asking.vnode, key, operation, settle };
            let shards = self.shards.clone();
            let known = async move { shards.look_up(asked, deadline).await };
            return known.map(move |known| (node, known.map_err(|e| cause_of_error(&e)))).boxed();
        }
        let reply = self.request(node, Request::LookUp(asking.look_up), deadline);
        let known = |(node, reply)| match reply {
            Ok(Reply::LookedUp(known)) => (node, Ok(known)),
            other => (node, Err(cause_of(&other))),
        };
        reply.map(known).boxed()
    }

    /// The namespace of this id, by the newest metadata that can be had.
    async fn namespace_of(
        &self,
        id: NamespaceId,
        deadline: Instant,
    ) -> Result<(Arc<View>, Namespace), RequestError> {
        let known = |view: Arc<View>| view.namespace(id).cloned().map(|found| (view, found));
        if let Some(known) = known(self.view()?) {
            return Ok(known);
        }
        let refreshed = self.cluster.refresh(remaining(deadline)).await;
        if let Some(known) = known(self.view()?) {
            return Ok(known);
        }
        refreshed?;
        Err(RequestError::UnknownNamespace { name: format!("of id {}", id.0) })
    }
}

/// The owners, and as many of the fallbacks, which come first to stand in for them.
pub(super) fn who_may_know(preference: &PreferenceList) -> Vec<NodeId> {
    let owners = preference.owners();
    owners.iter().chain(preference.fallbacks().iter().take(owners.len())).copied().collect()
}

/// What it means, and what to do about it.
fn told(view: &View, resolution: &Resolution, asked: &Resolve) -> String {
    let named = view.name_of(asked.operation.coordinator);
    match resolution {
        Resolution::Applied { by, .. } => {
            format!("it was applied, and {} has it", view.name_of(*by))
        }
        Resolution::NotApplied => {
            format!("it was not applied: {named}, which was to coordinate it, refuses it for good")
        }
        Resolution::OtherKey => "the operation wrote another key".to_owned(),
        Resolution::Expired => "its id is over an hour old, or its time lies in the future: nodes \
             know an operation for an hour; read the key"
            .to_owned(),
        Resolution::Unknown { silent, reopened } => {
            let silent: Vec<String> =
                silent.iter().map(|f| format!("{} {}", view.name_of(f.node), f.cause)).collect();
            let nobody = match silent.is_empty() {
                true => "nobody knows it".to_owned(),
                false => format!("nobody who answered knows it; {}", silent.join(", ")),
            };
            let what_to_do = match (reopened, silent.is_empty(), asked.at_least_once) {
                (true, ..) => format!(
                    "{named}, which was to coordinate it, was restarted since and may have lost it: \
                     read the key"
                ),
                (false, true, true) => {
                    "it was sent to be run at least once, so that a copy may yet \
                     be applied: read the key"
                        .to_owned()
                }
                (false, true, false) => {
                    format!(
                        "{named} could not record that it is refused: see to its disk, ask again"
                    )
                }
                (false, false, _) => "ask again when they are back, or read the key".to_owned(),
            };
            format!("{nobody}; {what_to_do}")
        }
    }
}
