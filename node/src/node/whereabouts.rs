//! Whether this node answers at the peer address that the others know.
//!
//! It is only told. Seen from here that address may lead elsewhere than from there (a hosts file, NAT
//! that does not lead back in, names that are published of ready nodes alone), so nothing depends on it.
//!
//! ```text
//!   advertises       not found first     not found again
//!   another address  an error            a warning, at each look
//!   the known one    nothing             one warning: the name may have been published since
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::transport::grpc::{Dialer, Identity};

/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How long a look may take: it is a call to itself.
const FIND_ITSELF: Duration = Duration::from_secs(2);

/// How a look is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Remark {
    Error,
    Warning,
}

/// Where the others look for this node, and where it is.
pub(super) struct Whereabouts {
    /// By the cluster's metadata.
    pub(super) known: String,
    /// Who it says it is, and where it says it is reached.
    pub(super) identity: Identity,
    /// Where it listens for other nodes.
    pub(super) listens: SocketAddr,
    pub(super) dialer: Dialer,
}

impl Whereabouts {
    /// Looks now and then, for ever.
    pub(super) async fn follow(self) {
        let mut unfound = 0;
        loop {
            unfound = if self.is_found().await { 0 } else { unfound + 1 };
            match self.remark(unfound) {
                Some(Remark::Error) => tracing::error!("{}", self.advice()),
                Some(Remark::Warning) => tracing::warn!("{}", self.advice()),
                None => {}
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether it is this very node that answers there.
    async fn is_found(&self) -> bool {
        let asked = timeout(FIND_ITSELF, self.dialer.identify(&self.known)).await;
        let ours = (self.identity.node, self.identity.store);
        matches!(asked, Ok(Ok(found)) if (found.node, found.store) == ours)
    }

    /// How to tell that so many looks in a row did not find it.
    fn remark(&self, unfound: u64) -> Option<Remark> {
        let differs = self.known != self.identity.peer_address;
        match (differs, unfound) {
            (_, 0) => None,
            (true, 1) => Some(Remark::Error),
            (true, _) | (false, 2) => Some(Remark::Warning),
            (false, _) => None,
        }
    }

    fn advice(&self) -> String {
        let Self { known, identity, listens, .. } = self;
        format!(
            "the other nodes go by the peer address {known}, which `quorate init` fixed, and asked from \
             here this node does not answer there: it listens at {listens} and advertises {}. Unless \
             they reach it all the same, it counts in no quorum of theirs: configure peer_address so \
             that {known} leads to it, with peer_advertise = {known:?} if it listens at another",
            identity.peer_address
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamo::key::NodeId;

    fn advertising(peer_address: &str) -> Whereabouts {
        let identity = Identity {
            node: NodeId(1),
            name: "node-1".into(),
            zone: String::new(),
            weight: 1,
            store: 7,
            peer_address: peer_address.into(),
            client_address: String::new(),
            cluster: None,
            version: 0,
        };
        let listens = "127.0.0.1:7701".parse().unwrap();
        Whereabouts { known: "a:7501".into(), identity, listens, dialer: Dialer::new(None) }
    }

    #[test]
    fn what_lasts_is_told_and_what_only_looks_so_from_here_once() {
        let remarks = |node: Whereabouts| [0, 1, 2, 3, 4].map(|unfound| node.remark(unfound));
        let (error, warning) = (Some(Remark::Error), Some(Remark::Warning));
        assert_eq!(remarks(advertising("b:7501")), [None, error, warning, warning, warning]);
        assert_eq!(remarks(advertising("a:7501")), [None, None, warning, None, None]);
    }

    #[test]
    fn the_advice_names_the_addresses_and_the_keys() {
        let advice = advertising("b:7501").advice();
        for part in ["a:7501", "b:7501", "127.0.0.1:7701", "peer_address", "peer_advertise"] {
            assert!(advice.contains(part), "{part}: {advice}");
        }
    }
}
