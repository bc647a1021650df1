//! One node's part in the gossip: no IO, no clock, no tasks. What it wants done it says.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
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
    /// The others take this run of the node for dead.
    defunct: bool,
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
    /// It wants something of a node that is no member.
    #[error("gossip about {0}, which is no member")]
    Stranger(NodeId),
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
    /// The others take this run of the node for dead.
    defunct: bool,
}

impl Swim {
    /// Of a node that was started at this time, in milliseconds since the Unix epoch; `rng` decides
    /// whom it asks.
    pub fn new(node: NodeId, started_ms: u64, rng: ChaCha8Rng) -> Self {
        let identity = Identity { node, run: started_ms.max(1) };
        let foca = Foca::new(identity, config(), rng, Wire);
        Self { foca, sought: 0, suspects: BTreeMap::new(), defunct: false }
    }

    /// A message of another node, in a cluster of these members. What is to be done is so also after an
    /// error, here and below.
    pub fn on_datagram(
        &mut self,
        from: NodeId,
        datagram: &[u8],
        members: &BTreeSet<NodeId>,
        effects: &mut Effects,
    ) -> Result<(), GossipError> {
        let (header, datagram) = of_members(datagram, members)?;
        let (src, dst, me) = (header.src, header.dst, *self.foca.identity());
        if src.node != from || dst.node != me.node {
            return Err(GossipError::Misplaced { from: src.node, to: dst.node });
        }
        if let Some(later) = me.after(dst) {
            self.become_run(later, effects)?;
        }
        let heard = self.foca.handle_data(&datagram, &mut *effects);
        self.defunct |= effects.defunct;
        Ok(heard?)
    }

    /// The time of a timer has come.
    pub fn on_timer(&mut self, timer: Timer, effects: &mut Effects) -> Result<(), GossipError> {
        let told = self.foca.handle_timer(timer.0, &mut *effects);
        self.defunct |= effects.defunct;
        Ok(told?)
    }

    fn become_run(&mut self, later: Identity, effects: &mut Effects) -> Result<(), GossipError> {
        self.defunct = false;
        Ok(self.foca.change_identity(later, effects)?)
    }

    /// A second has passed, with these members: comes back under a new run if the others take this one
    /// for dead, seeks those that are not there, and sees to it that nobody stays suspect.
    pub fn look(
        &mut self,
        members: &BTreeSet<NodeId>,
        effects: &mut Effects,
    ) -> Result<(), GossipError> {
        let back = self.foca.identity().next().filter(|_| self.defunct);
        let back = back.map_or(Ok(()), |later| self.become_run(later, effects));
        let settled = self.settle_suspects(effects);
        self.seek(members, effects).and(settled).and(back)
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
    fn seek(
        &mut self,
        members: &BTreeSet<NodeId>,
        effects: &mut Effects,
    ) -> Result<(), GossipError> {
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
    fn notify(&mut self, notification: Notification<'_, Identity>) {
        self.defunct |= notification == Notification::Defunct;
    }

    fn send_to(&mut self, to: Identity, data: &[u8]) {
        self.sends.push((to.node, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, event: foca::Timer<Identity>, after: Duration) {
        self.timers.push((after, Timer(event)));
    }
}

/// A message without what it says of others than these members, and its header: what was heard once of
/// a stranger would never be forgotten, and be told on.
fn of_members(
    datagram: &[u8],
    members: &BTreeSet<NodeId>,
) -> Result<(Header<Identity>, Vec<u8>), GossipError> {
    let mut rest = datagram;
    let header = Wire.decode_header(&mut rest)?;
    let other = match header.message {
        Message::PingReq { target: other, .. }
        | Message::IndirectPing { origin: other, .. }
        | Message::IndirectAck { target: other, .. }
        | Message::ForwardedAck { origin: other, .. } => Some(other.node),
        _ => None,
    };
    if let Some(stranger) = other.filter(|node| !members.contains(node)) {
        return Err(GossipError::Stranger(stranger));
    }
    let mut kept = datagram[..datagram.len() - rest.len()].to_vec();
    if !rest.is_empty() {
        let told = (0..rest.try_get_u16().map_err(|_| CodecError::Short)?)
            .map(|_| Wire.decode_member(&mut rest))
            .collect::<Result<Vec<_>, _>>()?;
        let known = told.iter().filter(|member| members.contains(&member.id().node));
        // The number of members, in foca's own order of bytes; there were as many, at least.
        kept.extend_from_slice(&(known.clone().count() as u16).to_be_bytes());
        for member in known {
            Wire.encode_member(member, &mut kept)?;
        }
    }
    Ok((header, kept))
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

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    const ONE: NodeId = NodeId(1);
    const TWO: NodeId = NodeId(2);

    fn swim(node: NodeId, started_ms: u64) -> Swim {
        Swim::new(node, started_ms, ChaCha8Rng::seed_from_u64(node.0))
    }

    fn both() -> BTreeSet<NodeId> {
        [ONE, TWO].into()
    }

    /// A message of node 2 to node 1, with what it says of members.
    fn datagram(message: Message<Identity>, told: &[Member<Identity>]) -> Vec<u8> {
        let [dst, src] = [(ONE, 1_000), (TWO, 2_000)].map(|(node, run)| Identity { node, run });
        let mut bytes = Vec::new();
        Wire.encode_header(&Header { src, src_incarnation: 0, dst, message }, &mut bytes).unwrap();
        bytes.extend_from_slice(&(told.len() as u16).to_be_bytes());
        told.iter().for_each(|member| Wire.encode_member(member, &mut bytes).unwrap());
        bytes
    }

    /// Delivers what two nodes say until both are silent; how many messages.
    fn talk(one: &mut Swim, two: &mut Swim, effects: Effects) -> usize {
        let (mut sends, mut count) = (effects.sends, 0);
        while let Some((to, bytes)) = sends.pop() {
            count += 1;
            assert!(count < 1_000, "they talk without an end");
            let (from, to) = if to == ONE { (TWO, &mut *one) } else { (ONE, &mut *two) };
            let mut effects = Effects::default();
            let _heard = to.on_datagram(from, &bytes, &both(), &mut effects);
            sends.extend(effects.sends);
        }
        count
    }

    #[test]
    fn who_was_set_back_in_time_does_not_talk_without_an_end() {
        let (mut one, mut two) = (swim(ONE, 1_000), swim(TWO, 2_000));
        let mut effects = Effects::default();
        one.look(&both(), &mut effects).unwrap();
        talk(&mut one, &mut two, effects);
        assert_eq!(one.health(), BTreeMap::from([(TWO, Health::Alive)]));
        // It is started again, and its clock is behind.
        let mut two = swim(TWO, 10);
        for look in 0..5 {
            let mut effects = Effects::default();
            let _told = two.look(&both(), &mut effects);
            let count = talk(&mut one, &mut two, effects);
            assert!(count < 10, "{count} messages after look {look}");
        }
        assert_eq!(two.foca.identity().run, 14, "one more for each look after the first");
    }

    #[test]
    fn strangers_are_neither_believed_nor_asked() {
        let mut one = swim(ONE, 1_000);
        let of = |node| Identity { node: NodeId(node), run: 7 };
        let told = [Member::alive(of(3)), Member::down(of(4))];
        let mut effects = Effects::default();
        one.on_datagram(TWO, &datagram(Message::Gossip, &told), &both(), &mut effects).unwrap();
        assert_eq!(one.health(), BTreeMap::from([(TWO, Health::Alive)]));
        let ask = Message::PingReq { target: of(3), probe_number: 1 };
        let mut effects = Effects::default();
        let asked = one.on_datagram(TWO, &datagram(ask, &[]), &both(), &mut effects);
        assert!(matches!(asked, Err(GossipError::Stranger(NodeId(3)))), "{asked:?}");
        assert!(effects.sends.is_empty());
    }

    #[test]
    fn what_makes_no_sense_leaves_the_timers_that_it_set() {
        let mut one = swim(ONE, 1_000);
        let me = *one.foca.identity();
        let ask = Message::PingReq { target: me, probe_number: 1 };
        let mut effects = Effects::default();
        let asked = one.on_datagram(TWO, &datagram(ask, &[]), &both(), &mut effects);
        assert!(matches!(asked, Err(GossipError::Unfit(_))), "{asked:?}");
        assert!(!effects.timers.is_empty(), "it would ask nobody any more");
    }
}
