//! Asking again for a write whose coordinator cannot be asked.
//!
//! A retry goes to the node that its id names, and nowhere else is it applied. While that node is away,
//! or was restarted since and does not know the id, the owners are asked whether one of them has it: a
//! coordinator that died may have sent the write on before. Who has it settles it, and the write is
//! finished here, as that coordinator would: this node takes in the object and the row of the index,
//! replicates to W owners, and answers.
//!
//! ```text
//!   retry of o1, which names A (dead), at B
//!     A      no connection
//!     B C D  look o1 up ──► C: a:7      object of C, o1 → a:7 merged at B ──► W acks: answer a:7
//!                       └─► nothing     unknown: A may have it, and o1 is not applied a second time
//! ```

use tokio::time::Instant;

use super::Coordinator;
use crate::coordinator::resolve::{Asking, who_may_know};
use crate::coordinator::{Target, remaining};
use crate::dynamo::arrival::Way;
use crate::dynamo::clock::Dot;
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::NodeId;
use crate::dynamo::operation::{Done, OperationId};
use crate::dynamo::resolve::{Known, LookedUp, Resolution};
use crate::error::{Outcome, RequestError, WriteError};
use crate::limits::budget::Kind;
use crate::transport::{ForwardWrite, Held, LookUp, Read, Reply, Request, WriteResult};
use crate::vnode::Merge;
use crate::vnode::look_up::Inquiry;

impl Coordinator {
    /// Sends a write to the node that is to coordinate it, and asks the owners if that does not answer.
    pub(super) async fn run_at(
        &self,
        to: NodeId,
        target: &Target,
        forward: ForwardWrite,
        deadline: Instant,
    ) -> Result<WriteResult, WriteError> {
        let by = self.named_by(&forward, deadline);
        match self.forward(to, forward.clone(), by).await {
            Err(why) if is_unheard(&forward, &why) => {
                self.elsewhere(target, forward, why, deadline).await
            }
            outcome => outcome,
        }
    }

    /// By when the node that a write names must have answered: of a retry, that others can be asked.
    pub(super) fn named_by(&self, forward: &ForwardWrite, deadline: Instant) -> Instant {
        let asks = !forward.at_least_once && forward.doubtful().is_some();
        if asks { deadline - remaining(deadline) / 2 } else { deadline }
    }

    /// Runs a write here; if its id names another node or opening, and nothing is known of it here,
    /// the other owners are asked.
    pub(super) async fn run_or_finish(
        &self,
        target: &Target,
        forward: ForwardWrite,
        deadline: Instant,
    ) -> Result<WriteResult, WriteError> {
        let owns = target.preference().is_ok_and(|list| list.is_owner(self.node));
        let elsewheres = self.is_elsewheres(&forward);
        if owns && !elsewheres {
            return self.run(target, forward, deadline).await;
        }
        match self.run(target, forward.clone(), deadline).await {
            Err(why) if elsewheres && is_not_known_here(&why) => {
                self.finish_begun(target, forward, why, deadline).await
            }
            Err(why) if !owns && is_home(&why) => {
                self.finish_at_home(target, forward, why, deadline).await
            }
            outcome => outcome,
        }
    }

    /// Finishes a write that this node, a fallback, applied and that went home since: owners have it,
    /// and know nothing of its id.
    async fn finish_at_home(
        &self,
        target: &Target,
        forward: ForwardWrite,
        why: WriteError,
        deadline: Instant,
    ) -> Result<WriteResult, WriteError> {
        let Ok(preference) = target.preference() else { return Err(why) };
        let (operation, vnode) = (forward.operation, target.address.vnode);
        let asked = Inquiry { vnode, key: target.address.hash(), operation, settle: false };
        let known = self.shards.look_up(asked, deadline).await;
        let Ok(LookedUp { known: Some(Known::Done(done)), .. }) = known else { return Err(why) };
        let Some(owner) = self.owners_by_reach(preference).into_iter().next() else {
            return Err(why);
        };
        match self.take_in(target, (operation, done), owner, deadline).await {
            Ok(()) => self.run(target, forward, deadline).await,
            Err(_) => Err(why),
        }
    }

    /// Whether another node, or opening, is to coordinate the write.
    pub(super) fn is_elsewheres(&self, forward: &ForwardWrite) -> bool {
        let OperationId { coordinator, opening, .. } = forward.operation;
        !forward.at_least_once && (coordinator, opening) != (self.node, self.opening)
    }

    /// The node that is to coordinate the write did not answer: `why`.
    pub(super) async fn elsewhere(
        &self,
        target: &Target,
        forward: ForwardWrite,
        why: WriteError,
        deadline: Instant,
    ) -> Result<WriteResult, WriteError> {
        let Ok(preference) = target.preference() else { return Err(why) };
        let forward = sent_before(forward);
        if preference.is_owner(self.node) {
            return self.finish_begun(target, forward, why, deadline).await;
        }
        let named = forward.operation.coordinator;
        let mut owners = self.owners_by_reach(preference).into_iter();
        let able = |&node: &NodeId| node != named && self.peers.connected(node);
        let Some(owner) = owners.find(able) else { return Err(why) };
        self.forward(owner, forward, deadline).await.map_err(|error| match error.outcome {
            // That the named one is away says more than what follows from it.
            Outcome::Unknown(_) => why,
            Outcome::NotApplied => error,
        })
    }

    /// Finishes a write that another node began, if somebody has it.
    pub(super) async fn finish_begun(
        &self,
        target: &Target,
        forward: ForwardWrite,
        why: WriteError,
        deadline: Instant,
    ) -> Result<WriteResult, WriteError> {
        let (operation, forward) = (forward.operation, sent_before(forward));
        let refused = |reason: &str| Err(WriteError::not_applied(RequestError::invalid(reason)));
        match self.owners_know(target, operation, deadline).await {
            Resolution::Applied { by, done } => {
                if by != self.node {
                    let taken = self.take_in(target, (operation, done), by, deadline).await;
                    taken.map_err(|error| WriteError::unknown(operation, error))?;
                }
                self.run(target, forward, deadline).await
            }
            Resolution::NotApplied => {
                refused("the operation id was refused before; take a new one")
            }
            Resolution::OtherKey => {
                refused("the operation id was used for another key; take a new one for each write")
            }
            _ if planted!("retry_elsewhere_applied_twice") => {
                let again = ForwardWrite { at_least_once: true, ..forward };
                self.run(target, again, deadline).await
            }
            Resolution::Expired | Resolution::Unknown { .. } => Err(why),
        }
    }

    /// What all who may know of the write say, but for its coordinator, which does not answer.
    async fn owners_know(
        &self,
        target: &Target,
        operation: OperationId,
        deadline: Instant,
    ) -> Resolution {
        let silent = Resolution::Unknown { silent: Vec::new(), reopened: false };
        let Ok(preference) = target.preference() else { return silent };
        let mut nodes = who_may_know(preference);
        nodes.retain(|&node| node == self.node || node != operation.coordinator);
        let (namespace, key) = (target.namespace.id, target.address.hash());
        let look_up = LookUp { operation, namespace, key, settle: false };
        let vnode = target.address.vnode;
        let asking = Asking { vnode, look_up, at_least_once: false, nodes };
        // Time must be left to finish it.
        self.look_up(&asking, deadline - remaining(deadline) / 2).await
    }

    /// Makes the write known here: the object of a node that has it, and its row of the index. The one
    /// that knows it by its id may have handed it home since: then an owner has it, this node perhaps.
    async fn take_in(
        &self,
        target: &Target,
        (operation, done): (OperationId, Done),
        by: NodeId,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let owners = self.owners_by_reach(target.preference()?);
        let others = owners.into_iter().filter(|&owner| owner != by);
        let mut failed = None;
        for from in std::iter::once(by).chain(others) {
            match self.object_with(target, done.dot, from, deadline).await {
                Ok(object) => {
                    return self.merge_with(target, (operation, done), object, deadline).await;
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.expect("one was asked at least"))
    }

    /// What a node holds of the key, if that is the write of this dot or came after it.
    async fn object_with(
        &self,
        target: &Target,
        dot: Dot,
        from: NodeId,
        deadline: Instant,
    ) -> Result<EncodedObject, RequestError> {
        let address = target.address.clone();
        let hint = !target.preference()?.is_owner(from);
        let name = target.view.name_of(from);
        let object = if from == self.node {
            self.shards.read(address.clone(), deadline).await?
        } else {
            let (namespace, key) = (address.namespace, address.key.clone());
            let read = Request::Read(Read { namespace, key, digest: false, hint });
            let reply = self.peers.request(from, read, remaining(deadline)).await;
            let Ok(Reply::Held { held: Held::Object(object), .. }) = reply else {
                let reason = format!("{name} has the write, and did not send it; try again");
                return Err(RequestError::not_ready_elsewhere(reason));
            };
            EncodedObject(self.shards.budget().hold(Kind::Reads, object.0)?)
        };
        let decoded = object.decode(address.conflict).map_err(RequestError::internal)?;
        if decoded.version().covers(dot) {
            return Ok(object);
        }
        let reason = format!("the write was applied as {dot}, and {name} has it no more");
        Err(RequestError::Data { reason })
    }

    /// Takes in an object as what the write left.
    async fn merge_with(
        &self,
        target: &Target,
        (operation, done): (OperationId, Done),
        object: EncodedObject,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let address = target.address.clone();
        let Done { dot, clock_ms, payload } = done;
        let operation = Some((operation, dot, payload));
        let merge = Merge {
            address,
            object,
            operation,
            clock_ms,
            wait_ms: 0,
            mend: false,
            way: Way::Write,
        };
        let owners = target.preference()?.owners();
        if owners.contains(&self.node) {
            return self.shards.merge(merge, false, deadline).await;
        }
        // A fallback that coordinates owes it to all owners.
        for &owner in owners {
            self.shards.hint(merge.clone(), owner, false, deadline).await?;
        }
        Ok(())
    }
}

/// Whether the node that is to coordinate the write did not answer, so that others may know more.
pub(super) fn is_unheard(forward: &ForwardWrite, why: &WriteError) -> bool {
    let unheard = matches!(
        why.error,
        RequestError::CoordinatorUnreachable { .. } | RequestError::TimeoutElsewhere { .. }
    );
    unheard && !forward.at_least_once && matches!(why.outcome, Outcome::Unknown(_))
}

/// The same write, of which an earlier request may have been applied: this one goes out because the
/// answer to that did not come.
fn sent_before(forward: ForwardWrite) -> ForwardWrite {
    ForwardWrite { fresh: false, ..forward }
}

/// Whether a fallback applied a write and has it no more, since it went home.
fn is_home(why: &WriteError) -> bool {
    let unknown = matches!(why.outcome, Outcome::Unknown(_));
    unknown && matches!(why.error, RequestError::NotReadyElsewhere { .. })
}

/// Whether a write was not run since its id names another node, or an earlier opening of this one.
pub(super) fn is_not_known_here(why: &WriteError) -> bool {
    matches!(
        why.error,
        RequestError::CoordinatorUnreachable { .. } | RequestError::EarlierOpening { .. }
    )
}
