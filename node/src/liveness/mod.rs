//! Who is there: what nodes tell each other about who answers and who does not.
//!
//! Liveness is not membership. A member that is down is a member still, keeps its partitions, and is
//! never forgotten; only the metadata says who is one. Here is what can be known of the moment: SWIM
//! (Das, Gupta and Motivala, "SWIM: Scalable weakly-consistent infection-style process group
//! membership protocol", DSN 2002) with suspicion and incarnations, by the crate `foca`.
//!
//! ```text
//!   alive ──no answer to a ping, nor to three others' ──► suspect ──3 s──► down
//!     ▲                                                      │               │
//!     └────────── it says that it is there ──────────────────┘               │
//!     └────────── it answers under a new run ────────────────────────────────┘
//! ```
//!
//! A node asks one other each second, in random turns, so that in a cluster of any size each is asked
//! once a second on average, and what one finds out the others hear with the messages that they send
//! anyway. Left out: what requests see (a queue that is full, an answer that is late) concerns the
//! request alone; and a node that is stopped in order does not say so, since it is soon back as a rule.

mod codec;
mod doubts;
mod identity;
mod inbox;
mod swim;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::{Duration, Instant};

pub use self::doubts::Doubts;
pub use self::inbox::{Datagram, Inbox};
pub use self::swim::{Effects, GossipError, Swim, Timer};
use crate::dynamo::key::NodeId;

/// So long after it was known to be a member, one that was never heard of counts as down.
pub const UNHEARD: Duration = Duration::from_secs(5);

/// What is known of a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Health {
    /// It answers, as far as this node has heard.
    Alive,
    /// It did not answer, and has a few seconds to say that it is there.
    Suspect,
    /// It did not.
    Down,
}

impl Health {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Alive, Self::Suspect, Self::Down];

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// What is known of a member, and since when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// What; none in the first seconds in which it is known to be a member and was not heard of.
    pub health: Option<Health>,
    /// Since when this node knows it.
    pub since: Instant,
}

/// What one node knows of the others.
#[derive(Debug, Default)]
pub struct Liveness {
    seen: ArcSwap<BTreeMap<NodeId, Sighting>>,
}

impl Liveness {
    /// What is known of a member; none of others.
    pub fn of(&self, node: NodeId) -> Option<Sighting> {
        self.seen.load().get(&node).copied()
    }

    /// How many members are known to be so.
    pub fn count(&self, health: Health) -> usize {
        self.seen.load().values().filter(|sighting| sighting.health == Some(health)).count()
    }

    /// Takes note of what was heard of these members; who changed.
    pub fn update(
        &self,
        members: impl IntoIterator<Item = NodeId>,
        heard: &BTreeMap<NodeId, Health>,
    ) -> Vec<(NodeId, Health)> {
        let (now, before) = (Instant::now(), self.seen.load_full());
        let (mut seen, mut changed) = (BTreeMap::new(), Vec::new());
        for node in members {
            let known = before.get(&node).copied().unwrap_or(Sighting { health: None, since: now });
            let unheard = (now >= known.since + UNHEARD).then_some(Health::Down);
            let health = heard.get(&node).copied().or(known.health).or(unheard);
            if health == known.health {
                seen.insert(node, known);
            } else {
                seen.insert(node, Sighting { health, since: now });
                changed.extend(health.map(|health| (node, health)));
            }
        }
        if seen != *before {
            self.seen.store(Arc::new(seen));
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_says_since_when_and_forgets_who_is_no_member() {
        let (liveness, [one, two]) = (Liveness::default(), [1, 2].map(NodeId));
        tokio::time::advance(UNHEARD * 2).await;
        let alive = BTreeMap::from([(one, Health::Alive)]);
        assert_eq!(liveness.update([one, two], &alive), [(one, Health::Alive)]);
        assert_eq!(liveness.count(Health::Alive), 1);
        let (first, unheard) = (liveness.of(one).unwrap(), liveness.of(two).unwrap());
        assert_eq!((first.health, unheard.health), (Some(Health::Alive), None));
        tokio::time::advance(UNHEARD).await;
        // Who was never heard of is as good as down, a while after it is a member.
        assert_eq!(liveness.update([one, two], &alive), [(two, Health::Down)]);
        assert_eq!(liveness.of(one), Some(first));
        assert_eq!(liveness.of(two).unwrap().since, first.since + UNHEARD);
        let suspect = BTreeMap::from([(one, Health::Suspect)]);
        assert_eq!(liveness.update([one], &suspect), [(one, Health::Suspect)]);
        assert_eq!(liveness.of(one).unwrap().since, first.since + UNHEARD);
        assert_eq!(liveness.of(two), None);
        assert_eq!(liveness.update([], &suspect), []);
        assert_eq!(liveness.of(one), None);
    }
}
