//! EXPIRE: the value that is there is written again, under a new dot and with another deadline.
//!
//! Which value that is a quorum of owners says, as in a read; what they hold is merged with what this node
//! holds in the shard's turn that gives the write its dot. So it brings back nothing that this node knows
//! to be replaced, and covers all that it has seen. PERSIST is an EXPIRE without a deadline.
//!
//! ```text
//!   node 2 holds   b:1 → x, until 50           a quorum's: a:3 → y, V {a:3, b:1}
//!   EXPIRE 100     c:1 → y, until 100, origin a:3      V {a:3, b:1, c:1}
//! ```
//!
//! *Why a quorum, whatever r is:* one owner may hold an older value, which would come back beside the
//! newer one.

use tokio::time::Instant;

use crate::coordinator::read::Rules;
use crate::coordinator::{Coordinator, Target, remaining};
use crate::dynamo::object::Object;
use crate::dynamo::operation::Change;
use crate::dynamo::quorum::Level;
use crate::dynamo::read::Repair;
use crate::error::RequestError;
use crate::vnode::Write;

impl Coordinator {
    /// Looks what is there to be written again; where that cannot be told, the write is to be refused. It is
    /// the shard that says so, since it knows whether the write was done before.
    pub(super) async fn look(
        &self,
        target: &Target,
        write: &mut Write,
        sloppy: bool,
        deadline: Instant,
    ) {
        let Change::Expire(_) = write.change else { return };
        if write.refusal.is_some() {
            return;
        }
        match self.held_by_a_quorum(target, sloppy, deadline).await {
            Ok(seen) => write.seen = Some(Box::new(seen)),
            Err(error) => write.refusal = Some(error),
        }
    }

    async fn held_by_a_quorum(
        &self,
        target: &Target,
        sloppy: bool,
        deadline: Instant,
    ) -> Result<Object, RequestError> {
        let level =
            |level: Level| level.resolve(target.namespace.n).map_err(RequestError::internal);
        let r = level(Level::Quorum)?.max(level(target.namespace.r)?);
        // Time must be left to write, or to record the refusal.
        let deadline = Instant::now() + remaining(deadline) / 2;
        let rules = Rules { r, sloppy, repair: Repair::Async, deadline };
        self.read_owners(target, rules).await.map(|found| found.object)
    }
}
