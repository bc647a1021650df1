//! One node's part in the gossip: no IO, no clock, no tasks. What it wants done it says.

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use foca::{Codec as _, Config, Foca, Member, NoCustomBroadcast, Notification, Runtime, State};
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

use super::Health;
use super::codec::{CodecError, Wire};
use super::identity::Identity;
use crate::dynamo::key::NodeId;

/// How often a node asks another one whether it is there.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How long an answer takes at most, before others are asked to ask.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);

/// How long a suspect has to say that it is there.
const SUSPECT_FOR: Duration = Duration::from_secs(3);

/// How often news go to some others without being asked for.
const NEWS_EVERY: Duration = Duration::from_millis(500);

/// How many are asked to ask, and get news.
const SOME: NonZeroUsize = NonZeroUsize::new(3).expect("it is not 0");

/// How often each piece of news is sent on.
const TOLD_TIMES: NonZeroU8 = NonZeroU8::new(10).expect("it is not 0");

/// The most that one message has: the news of some 1700 members.
const DATAGRAM_MAX: NonZeroUsize = NonZeroUsize::new(1 << 15).expect("it is not 0");

/// How many of those that do not answer are asked for news at once.
const SOUGHT: usize = 3;

/// Something to be told again, after the time that came with it.
#[derive(Clone, Debug)]
pub struct Timer(foca::Timer<Identity>);

/// What is to be done.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages to other nodes; each may be lost.
    pub sends: Vec<(NodeId, Bytes)>,
    /// What to tell after so long.
    pub timers: Vec<(Duration, Timer)>,
}

/// Why a message was not heard.
#[derive(Debug, Error)]
pub enum GossipError {
    /// It is no gossip.
    #[error("malformed gossip: {0}")]
    Malformed(#[from] CodecError),
    /// It is of another node than the one that sent it, or for another than this one.
    #[error("gossip of {from} for {to}, which is not between these two")]
    Misplaced {
        /// Of whom it says to be.
        from: NodeId,
        /// For whom.
        to: NodeId,
    },
    /// The protocol makes nothing of it.
    #[error("gossip that does not fit: {0}")]
    Unfit(#[from] foca::Error),
}

/// One node's part.
pub struct Swim {
    foca: Foca<Identity, Wire, ChaCha8Rng, NoCustomBroadcast>,
    /// How many were sought so far, to take turns.
    sought: usize,
}

impl Swim {
    /// Of a node that was started at this time, in milliseconds since the Unix epoch; `rng` decides
    /// whom it asks.
    pub fn new(node: NodeId, started_ms: u64, rng: ChaCha8Rng) -> Self {
        let identity = Identity { node, run: started_ms.max(1) };
        Self { foca: Foca::new(identity, config(), rng, Wire), sought: 0 }
    }

    /// A message of another node.
    pub fn on_datagram(&mut self, from: NodeId, datagram: &Bytes) -> Result<Effects, GossipError> {
        let header = Wire.decode_header(&datagram[..])?;
        let (src, dst, me) = (header.src, header.dst, *self.foca.identity());
        if src.node != from || dst.node != me.node {
            return Err(GossipError::Misplaced { from: src.node, to: dst.node });
        }
        let mut effects = Effects::default();
        if let Some(later) = me.after(dst) {
            self.foca.change_identity(later, &mut effects)?;
        }
        self.foca.handle_data(datagram, &mut effects)?;
        Ok(effects)
    }

    /// The time of a timer has come.
    pub fn on_timer(&mut self, timer: Timer) -> Result<Effects, GossipError> {
        let mut effects = Effects::default();
        self.foca.handle_timer(timer.0, &mut effects)?;
        Ok(effects)
    }

    /// Asks some of these members for news that are not known to be there, in turns: each of two that
    /// take the other for dead must hear so, to be there under a new run.
    pub fn seek(&mut self, members: &[NodeId]) -> Result<Effects, GossipError> {
        let known: BTreeMap<NodeId, &Member<Identity>> =
            self.foca.iter_membership_state().map(|member| (member.id().node, member)).collect();
        let away = |node: &&NodeId| {
            let state = known.get(*node).map(|member| member.state());
            matches!(state, None | Some(State::Down))
        };
        let identity = |node: &NodeId| {
            let unheard = Identity { node: *node, run: 0 };
            known.get(node).map_or(unheard, |member| *member.id())
        };
        let others = members.iter().filter(|node| **node != self.foca.identity().node);
        let away: Vec<Identity> = others.filter(away).map(identity).collect();
        let turn = self.sought % away.len().max(1);
        self.sought = self.sought.wrapping_add(SOUGHT);
        let mut effects = Effects::default();
        for identity in away.iter().cycle().skip(turn).take(SOUGHT.min(away.len())) {
            self.foca.announce(*identity, &mut effects)?;
        }
        Ok(effects)
    }

    /// What is known of all that were ever heard of.
    pub fn health(&self) -> BTreeMap<NodeId, Health> {
        let health = |member: &Member<Identity>| match member.state() {
            State::Alive => Health::Alive,
            State::Suspect => Health::Suspect,
            State::Down => Health::Down,
        };
        let members = self.foca.iter_membership_state();
        members.map(|member| (member.id().node, health(member))).collect()
    }
}

impl Runtime<Identity> for Effects {
    fn notify(&mut self, _: Notification<'_, Identity>) {}

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to.node, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, event: foca::Timer<Identity>, after: Duration) {
        self.timers.push((after, Timer(event)));
    }
}

fn config() -> Config {
    let news = foca::PeriodicParams { frequency: NEWS_EVERY, num_members: SOME };
    Config {
        probe_period: PROBE_EVERY,
        probe_rtt: ANSWER_WITHIN,
        num_indirect_probes: SOME,
        max_transmissions: TOLD_TIMES,
        suspect_to_down_after: SUSPECT_FOR,
        // A member that is down is one still.
        remove_down_after: None,
        max_packet_size: DATAGRAM_MAX,
        notify_down_members: true,
        // `seek` does what these two would, by the metadata and also while nobody is there.
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(news),
    }
}
