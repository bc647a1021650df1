//! How stale members are, as they say themselves.

use std::{fmt, time::Duration};

use quorate_proto::v1;

use crate::{client::Client, error::Error};

/// How stale one member is, and how old writes were when they came to it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Staleness {
    /// Writes that other owners had seen and the member had not, when it last compared.
    pub missing_writes: u64,
    /// For how long it has lacked one of them at least.
    pub missing_for: Duration,
    /// What came to it since it was started, by namespace and way.
    pub arrivals: Vec<Arrivals>,
}

/// How old writes of a namespace were when they came one way. A write is as old as the time since its
/// coordinator made it, by the clocks of the two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrivals {
    /// The namespace.
    pub namespace: String,
    /// The way; `None` if this release does not know it.
    pub way: Option<Way>,
    /// How many came.
    pub count: u64,
    /// At most so old was half of them, rounded up to a power of two of a millisecond.
    pub p50: Duration,
    /// And 99 in 100, rounded likewise.
    pub p99: Duration,
    /// And all of them.
    pub max: Duration,
}

/// By which way a write came to an owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From its coordinator.
    Write,
    /// From a node that kept it as a hint.
    Hint,
    /// By a read that found the owner stale.
    ReadRepair,
    /// By an exchange of what owners have seen.
    Exchange,
    /// By trees of hashes.
    Trees,
    /// With all the rest, to a store that is rebuilt.
    Rebuild,
}

impl Way {
    fn of(wire: v1::Way) -> Option<Self> {
        match wire {
            v1::Way::Unknown => None,
            v1::Way::Write => Some(Self::Write),
            v1::Way::Hint => Some(Self::Hint),
            v1::Way::ReadRepair => Some(Self::ReadRepair),
            v1::Way::Exchange => Some(Self::Exchange),
            v1::Way::Trees => Some(Self::Trees),
            v1::Way::Rebuild => Some(Self::Rebuild),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Hint => "hint",
            Self::ReadRepair => "read repair",
            Self::Exchange => "exchange",
            Self::Trees => "trees",
            Self::Rebuild => "rebuild",
        })
    }
}

impl From<v1::Arrivals> for Arrivals {
    fn from(wire: v1::Arrivals) -> Self {
        let way = Way::of(wire.way());
        let v1::Arrivals { namespace, count, p50_ms, p99_ms, max_ms, .. } = wire;
        let [p50, p99, max] = [p50_ms, p99_ms, max_ms].map(Duration::from_millis);
        Self { namespace, way, count, p50, p99, max }
    }
}

impl From<v1::StalenessReply> for Staleness {
    fn from(wire: v1::StalenessReply) -> Self {
        let v1::StalenessReply { missing_writes, missing_for_ms, arrivals } = wire;
        Self {
            missing_writes,
            missing_for: Duration::from_millis(missing_for_ms),
            arrivals: arrivals.into_iter().map(Arrivals::from).collect(),
        }
    }
}

impl Client {
    /// How stale the member of this name is, by its own account.
    pub async fn staleness_of(&self, node: &str) -> Result<Staleness, Error> {
        let deadline = self.0.deadline(None);
        let node = self.0.node_named(node, deadline).await?;
        let mut cluster = node.cluster();
        let ask = |_| async move { cluster.staleness(v1::StalenessRequest {}).await };
        node.call(deadline.remaining(), ask).await.map(Staleness::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, fake::Fakes};

    #[tokio::test]
    async fn a_member_is_asked_itself() {
        let fakes = Fakes::start(&[]).await;
        let arrivals = |way| v1::Arrivals { way, count: 3, max_ms: 70, ..Default::default() };
        *fakes.nodes[1].staleness.lock().unwrap() = v1::StalenessReply {
            missing_writes: 7,
            missing_for_ms: 1_500,
            arrivals: vec![arrivals(v1::Way::ReadRepair.into()), arrivals(99)],
        };
        let client = fakes.client().await;
        let told = client.staleness_of("n1").await.unwrap();
        assert_eq!((told.missing_writes, told.missing_for), (7, Duration::from_millis(1_500)));
        let ways: Vec<_> = told.arrivals.iter().map(|arrivals| arrivals.way).collect();
        assert_eq!(ways, [Some(Way::ReadRepair), None], "a later release may know more ways");
        assert_eq!(told.arrivals[0].max, Duration::from_millis(70));
        assert_eq!(client.staleness_of("n0").await.unwrap(), Staleness::default());
        let error = client.staleness_of("nobody").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}
