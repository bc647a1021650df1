//! Replacing a damaged record by what every other owner of its key holds.
//!
//! A damaged record may have held a write that this owner acknowledged together with one other
//! owner. If what replaced it came from R owners and that one was not among them, a later read of
//! this owner and of a third one would miss the write, and R + W > N would be a promise broken. So
//! every other owner is asked:
//!
//! ```text
//!   owners A (damaged) B C    B: {b:1 → x}   C: {b:1 → x, c:4 → y}    A is sent {b:1 → x, c:4 → y}
//!                             B: {b:1 → x}   C: no answer             A stays damaged, tried again
//! ```
//!
//! An owner whose own record is damaged has nothing to tell, and is not waited for. One that is to catch up
//! with the others has: what it lost, nobody can tell, and two that wait for each other's mends would never
//! catch up. Where no owner
//! holds the key, a read leaves the record as it is, since *not found* would hide a loss; a write
//! gives it up, which is counted, since the key could never be written again otherwise.

use std::sync::PoisonError;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep};

use super::read::{Heard, Repairing};
use super::{Coordinator, REPAIR_TIMEOUT, Target};
use crate::dynamo::format::EncodedObject;
use crate::dynamo::key::{Key, NamespaceId, NodeId};
use crate::dynamo::object::Object;
use crate::dynamo::quorum::{Cause, Failure};
use crate::dynamo::standing::Standing;
use crate::error::RequestError;
use crate::trace::{Trace, hashed};
use crate::vnode::Address;

/// How long a record is left alone after it could not be mended: reads of a busy key must not make
/// its other owners answer twice for as long as one of them is away.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Records that are being mended or left alone at once; what is beyond waits for the next read.
const MENDING_MAX: usize = 4096;

/// What becomes of a damaged record if no other owner holds the key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum IfAbsent {
    /// It stays.
    Keep,
    /// It is given up, and counted.
    GiveUp,
}

impl Coordinator {
    /// Mends this node's own record, which turned out to be damaged where nobody waits for that.
    pub fn mend_here(&self, namespace: NamespaceId, key: Key) {
        // Else it has no record that could be replaced.
        let Ok(target) = self.owned_target(namespace, key) else { return };
        self.mend_later(&target, &[Failure { node: self.node, cause: Cause::Damaged }]);
    }

    /// Mends, after the answer, what owners said to be damaged.
    pub(super) fn mend_later(&self, target: &Target, failures: &[Failure]) {
        for failure in failures.iter().filter(|failure| failure.cause == Cause::Damaged) {
            let Ok(permit) = self.repairs.clone().try_acquire_owned() else { return };
            let place = (target.address.clone(), failure.node);
            if !self.begins_mending(&place) {
                continue;
            }
            let (coordinator, target, node) = (self.clone(), target.clone(), failure.node);
            tokio::spawn(Trace::current().run(async move {
                let deadline = Instant::now() + REPAIR_TIMEOUT;
                let mended = coordinator.mend(&target, node, IfAbsent::Keep, deadline).await;
                // What waits is no repair under way.
                drop(permit);
                if let Err(error) = mended {
                    let key_hash = hashed(target.address.hash().0);
                    tracing::warn!(%node, key_hash, %error, "a damaged record stays");
                    sleep(AGAIN_AFTER).await;
                }
                let mut mending =
                    coordinator.mending.lock().unwrap_or_else(PoisonError::into_inner);
                mending.remove(&place);
            }));
        }
    }

    /// Whether this record, of this owner, is neither being mended nor left alone.
    fn begins_mending(&self, place: &(Address, NodeId)) -> bool {
        let mut mending = self.mending.lock().unwrap_or_else(PoisonError::into_inner);
        mending.len() < MENDING_MAX && mending.insert(place.clone())
    }

    /// Replaces `node`'s damaged record. An error leaves it as it is.
    pub(super) async fn mend(
        &self,
        target: &Target,
        node: NodeId,
        if_absent: IfAbsent,
        deadline: Instant,
    ) -> Result<(), RequestError> {
        let name = |node| target.view.name_of(node);
        let others = target.preference()?.owners().iter().filter(|&&other| other != node);
        let mut asked: FuturesUnordered<_> =
            others.map(|&other| self.ask(target, other, false, deadline)).collect();
        let mut merged = Object::default();
        while let Some((other, heard)) = asked.next().await {
            match heard {
                // What one that catches up has lost, it has lost for good: it tells all that it has.
                Heard::Object(object, Standing::Good | Standing::CatchingUp) => {
                    merged.merge(&object);
                }
                Heard::Failed(Cause::Damaged) => {}
                Heard::Object(_, standing) => {
                    let cause = standing.doubt().unwrap_or(Cause::Refused);
                    return Err(cannot_mend(target, node, other, cause));
                }
                Heard::Failed(cause) => {
                    return Err(cannot_mend(target, node, other, cause));
                }
                Heard::Digest(..) | Heard::Hint(_) | Heard::NoHint | Heard::Repaired => {
                    return Err(RequestError::internal("unexpected answer"));
                }
            }
        }
        if merged.is_absent() && if_absent == IfAbsent::Keep {
            let reason = format!(
                "the record of the key on {} is damaged, and no other owner holds the key; the next \
                 write of the key by way of that node replaces it",
                name(node)
            );
            return Err(RequestError::Damaged { reason });
        }
        let mend = Repairing { object: EncodedObject::new(&merged), mend: true };
        match self.send_object(target, mend, node, deadline).await.1 {
            Heard::Repaired => Ok(()),
            Heard::Failed(cause) => {
                let reason = format!("{} {cause}, and could not be mended", name(node));
                Err(RequestError::Damaged { reason })
            }
            Heard::Object(..) | Heard::Digest(..) | Heard::Hint(_) | Heard::NoHint => {
                Err(RequestError::internal("unexpected answer"))
            }
        }
    }
}

fn cannot_mend(target: &Target, node: NodeId, other: NodeId, cause: Cause) -> RequestError {
    let (node, other) = (target.view.name_of(node), target.view.name_of(other));
    let reason = format!(
        "the record of the key on {node} is damaged, and is mended only when every other owner can \
         be asked: {other} {cause}; try again, or another node"
    );
    RequestError::Damaged { reason }
}
