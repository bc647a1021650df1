//! Who a node is in gossip: its id, and which run of it.

use crate::dynamo::key::NodeId;

/// A run of a node. What was said of an earlier one, as that it is down, is not said of a later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// When it was started, in milliseconds since the Unix epoch; more by one for each time that the
    /// others took it for dead. 0: one of which nothing was heard.
    pub run: u64,
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    /// Never at once: each try brings about the next one, as fast as messages travel, where the others
    /// know of a later run.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.run > adversary.run
    }
}

impl Identity {
    /// One that is later than this one.
    pub fn next(&self) -> Option<Self> {
        self.run.checked_add(1).map(|run| Self { run, ..*self })
    }

    /// One that is later than what another node knows of this one, if that is later than itself: its
    /// clock was set back between two starts.
    pub fn after(&self, known: Self) -> Option<Self> {
        (known.node == self.node && known.run > self.run).then(|| known.next())?
    }
}
