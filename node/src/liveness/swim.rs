//! One node's part in the gossip: no IO, no clock, no tasks. What it wants done it says.

use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use foca::{
    Codec as _, Config, Foca, Header, Member, Message, NoCustomBroadcast, Notification, Runtime,
    State,
};
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

/// For how many looks, a second apart, a member is suspect until it is told so, and until it is given up:
/// a while longer than it should take. Who began to suspect it ends that; but it may itself be gone.
const TOLD_AFTER: u32 = 5;
const GIVEN_UP_AFTER: u32 = 10;

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
    /// Who is suspect: node, run and incarnation, and for how many looks.
    suspects: BTreeMap<(NodeId, u64, u16), u32>,
}

impl Swim {
    /// Of a node that was started at this time, in milliseconds since the Unix epoch; `rng` decides
    /// whom it asks.
    pub fn new(node: NodeId, started_ms: u64, rng: ChaCha8Rng) -> Self {
        let identity = Identity { node, run: started_ms.max(1) };
        let foca = Foca::new(identity, config(), rng, Wire);
        Self { foca, sought: 0, suspects: BTreeMap::new() }
    }

    /// A message of another node. What is to be done is so also after an error, here and below.
    pub fn on_datagram(
        &mut self,
        from: NodeId,
        datagram: &Bytes,
        effects: &mut Effects,
    ) -> Result<(), GossipError> {
        let header = Wire.decode_header(&datagram[..])?;
        let (src, dst, me) = (header.src, header.dst, *self.foca.identity());
        if src.node != from || dst.node != me.node {
            return Err(GossipError::Misplaced { from: src.node, to: dst.node });
        }
        if let Some(later) = me.after(dst) {
            self.foca.change_identity(later, &mut *effects)?;
        }
        Ok(self.foca.handle_data(datagram, effects)?)
    }

    /// The time of a timer has come.
    pub fn on_timer(&mut self, timer: Timer, effects: &mut Effects) -> Result<(), GossipError> {
        Ok(self.foca.handle_timer(timer.0, effects)?)
    }

    /// A second has passed, with these members: seeks those that are not there, and sees to it that
    /// nobody stays suspect.
    pub fn look(&mut self, members: &[NodeId], effects: &mut Effects) -> Result<(), GossipError> {
        self.settle_suspects(effects)?;
        self.seek(members, effects)
    }

    /// A suspect that is there has to say so under a higher incarnation, and does once it hears of it:
    /// its answers alone say nothing.
    fn settle_suspects(&mut self, effects: &mut Effects) -> Result<(), GossipError> {
        let suspects = self.foca.iter_membership_state();
        let suspects = suspects.filter(|member| member.state() == State::Suspect).cloned();
        let before = std::mem::take(&mut self.suspects);
        for suspect in suspects.collect::<Vec<_>>() {
            let (id, incarnation) = (*suspect.id(), suspect.incarnation());
            let key = (id.node, id.run, incarnation);
            let looks = before.get(&key).map_or(1, |looks| looks + 1);
            self.suspects.insert(key, looks);
            if looks > GIVEN_UP_AFTER {
                let down = Member::new(id, incarnation, State::Down);
                self.foca.apply_many(std::iter::once(down), true, &mut *effects)?;
            } else if looks > TOLD_AFTER {
                effects.sends.push((id.node, self.news_of(&suspect)?));
            }
        }
        Ok(())
    }

    /// What tells a member of itself.
    fn news_of(&self, member: &Member<Identity>) -> Result<Bytes, CodecError> {
        let (src, dst) = (*self.foca.identity(), *member.id());
        let header = Header { src, src_incarnation: 0, dst, message: Message::Gossip };
        let mut bytes = Vec::new();
        Wire.encode_header(&header, &mut bytes)?;
        // The number of members, in foca's own order of bytes.
        bytes.extend_from_slice(&1u16.to_be_bytes());
        Wire.encode_member(member, &mut bytes)?;
        Ok(bytes.into())
    }

    /// Asks some of these members for news that are not known to be there, in turns: each of two that
    /// take the other for dead must hear so, to be there under a new run.
    fn seek(&mut self, members: &[NodeId], effects: &mut Effects) -> Result<(), GossipError> {
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
        for identity in away.iter().cycle().skip(turn).take(SOUGHT.min(away.len())) {
            self.foca.announce(*identity, &mut *effects)?;
        }
        Ok(())
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
