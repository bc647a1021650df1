//! Who is there, who is connected to whom, and what is under way.
//!
//! A connection joins one life of each of two nodes, for both directions. It stands from the moment
//! that both are there and hear each other until one of them ends, or the silence between them is
//! noticed. A life has at most one for each other node, as real nodes admit one incarnation of a
//! node id at a time: who comes second is refused for as long as the first is connected.
//!
//! ```text
//!   node A, twice: a1 ══ b1   b1 admitted a1 first, and refuses a2 until their connection ends
//!                  a2 ══ c1   c1 began when both ran: the seed said which one came first
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use quorate_proto::peer::message::Body;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Delivery, Faults};
use crate::dynamo::key::NodeId;
use crate::transport::Handler;

/// One life of a node, by the order in which they were made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Life(u64);

/// From whom to whom.
type Direction = (NodeId, NodeId);

/// Who hears of deliveries.
pub(super) type Recorder = Box<dyn FnMut(&Delivery) + Send>;

/// A life that has begun and not ended.
pub(super) struct Attached {
    node: NodeId,
    handler: Weak<dyn Handler>,
    /// Cancelled when the life ends: what it was doing ends there.
    pub(super) gone: CancellationToken,
    /// Whether it is fetching newer metadata that an answer told of.
    pub(super) fetching: bool,
    /// Since when it stands still, if it does.
    paused: Option<Instant>,
    /// What it was sent and what it sent since, in order.
    held: Vec<Sent>,
}

/// A message under way.
pub(super) struct Sent {
    pub(super) from: Life,
    /// Known even when the life has ended: what a process sent before its death arrives.
    pub(super) node: NodeId,
    pub(super) to: Life,
    pub(super) bytes: Bytes,
}

/// A request that waits for its answer.
pub(super) struct Waiting {
    from: Life,
    to: Life,
    pub(super) answer: oneshot::Sender<Option<Body>>,
}

/// The answer to a request, when it comes.
pub(super) type Answered = oneshot::Receiver<Option<Body>>;

/// What ended under the lock, to be told after it: others hear of it, and may come back here.
#[derive(Default)]
pub(super) struct Ended {
    broken: Vec<Waiting>,
    gone: Vec<CancellationToken>,
}

impl Ended {
    /// Tells those concerned.
    pub(super) fn tell(self) {
        drop(self.broken);
        self.gone.iter().for_each(CancellationToken::cancel);
    }
}

pub(super) struct State {
    pub(super) started: Instant,
    pub(super) recorder: Option<Recorder>,
    /// Delivers what is due; it begins with the first message.
    pub(super) courier: Option<AbortOnDropHandle<()>>,
    pub(super) waiting: BTreeMap<u64, Waiting>,
    pub(super) faults: Faults,
    pub(super) links: BTreeMap<Direction, Faults>,
    pub(super) ended: Ended,
    rng: ChaCha8Rng,
    lives: BTreeMap<Life, Attached>,
    /// By a life and another node, the life of that node; each connection is here twice.
    connections: BTreeMap<(Life, NodeId), Life>,
    /// Since when.
    cuts: BTreeMap<Direction, Instant>,
    /// When a silence will be noticed.
    notice_at: Option<Instant>,
    /// By when they arrive, and in the order of their sending.
    under_way: BTreeMap<(Instant, u64), Sent>,
    /// The numbers of the next life, request and message.
    next: u64,
}

impl State {
    pub(super) fn new(rng: ChaCha8Rng, faults: Faults) -> Self {
        Self {
            started: Instant::now(),
            recorder: None,
            courier: None,
            waiting: BTreeMap::new(),
            faults,
            links: BTreeMap::new(),
            ended: Ended::default(),
            rng,
            lives: BTreeMap::new(),
            connections: BTreeMap::new(),
            cuts: BTreeMap::new(),
            notice_at: None,
            under_way: BTreeMap::new(),
            next: 0,
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A life to be begun.
    pub(super) fn life(&mut self) -> Life {
        Life(self.next())
    }

    pub(super) fn begin(&mut self, life: Life, node: NodeId, handler: &Arc<dyn Handler>) {
        let attached = Attached {
            node,
            handler: Arc::downgrade(handler),
            gone: CancellationToken::new(),
            fetching: false,
            paused: None,
            held: Vec::new(),
        };
        let earlier = self.lives.insert(life, attached);
        assert!(earlier.is_none(), "a life begins once");
    }

    /// Ends a life, if it runs: its requests break and those to it, and what it was doing.
    pub(super) fn end(&mut self, life: Life) {
        let Some(attached) = self.lives.remove(&life) else { return };
        self.connections.retain(|(from, _), to| *from != life && *to != life);
        self.break_requests(|waiting| waiting.from == life || waiting.to == life);
        self.ended.gone.push(attached.gone);
    }

    /// The lives of a node that run, in order.
    pub(super) fn lives_of(&self, node: NodeId) -> Vec<Life> {
        let lives = self.lives.iter().filter(|(_, attached)| attached.node == node);
        lives.map(|(life, _)| *life).collect()
    }

    pub(super) fn attached(&mut self, life: Life) -> Option<&mut Attached> {
        self.lives.get_mut(&life)
    }

    pub(super) fn handler(&self, life: Life) -> Option<Arc<dyn Handler>> {
        self.lives.get(&life)?.handler.upgrade()
    }

    /// The life of `node` that `life` is connected to.
    pub(super) fn peer(&self, life: Life, node: NodeId) -> Option<Life> {
        self.connections.get(&(life, node)).copied()
    }

    /// Notes a request to the life that `from` is connected to.
    pub(super) fn open(&mut self, from: Life, to: NodeId) -> Option<(u64, Life, Answered)> {
        let to = self.peer(from, to)?;
        let (answer, answered) = oneshot::channel();
        let id = self.next();
        self.waiting.insert(id, Waiting { from, to, answer });
        Some((id, to, answered))
    }

    /// Sends a message, if the two are connected: lost, once or twice, each after its own latency.
    /// It waits if its sender stands still.
    pub(super) fn send(&mut self, from: Life, to: Life, bytes: Bytes, now: Instant) {
        let Some(target) = self.lives.get(&to).map(|attached| attached.node) else { return };
        if self.peer(from, target) != Some(to) {
            return;
        }
        let attached = self.lives.get_mut(&from).expect("whoever is connected is there");
        let node = attached.node;
        if attached.paused.is_some() {
            attached.held.push(Sent { from, node, to, bytes });
            return;
        }
        if self.cuts.contains_key(&(node, target)) {
            return;
        }
        let faults = self.links.get(&(node, target)).unwrap_or(&self.faults);
        for latency in faults.latencies(&mut self.rng).into_iter().flatten() {
            self.next += 1;
            let sent = Sent { from, node, to, bytes: bytes.clone() };
            self.under_way.insert((now + latency, self.next), sent);
        }
    }

    /// The next message that has arrived where somebody takes it, and to which node it came; or
    /// when there is something to do again.
    pub(super) fn arrived(&mut self, now: Instant) -> Result<(Sent, NodeId), Option<Instant>> {
        while let Some(first) = self.under_way.first_entry() {
            if first.key().0 > now {
                break;
            }
            let sent = first.remove();
            let Some(attached) = self.lives.get_mut(&sent.to) else { continue };
            if self.cuts.contains_key(&(sent.node, attached.node)) {
                continue;
            }
            if attached.paused.is_some() {
                attached.held.push(sent);
                continue;
            }
            return Ok((sent, attached.node));
        }
        Err(self.due())
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        let arrives = self.under_way.first_key_value().map(|((at, _), _)| *at);
        [arrives, self.notice_at].into_iter().flatten().min()
    }

    /// Whether a silence is to be noticed by now.
    pub(super) fn notices(&self) -> bool {
        self.notice_at.is_some_and(|at| at <= Instant::now())
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId, now: Instant) {
        self.cuts.entry((from, to)).or_insert(now);
    }

    pub(super) fn mend(&mut self, mended: impl Fn(Direction) -> bool) {
        self.cuts.retain(|direction, _| !mended(*direction));
    }

    pub(super) fn pause(&mut self, node: NodeId, now: Instant) {
        for attached in self.lives.values_mut().filter(|attached| attached.node == node) {
            attached.paused.get_or_insert(now);
        }
    }

    pub(super) fn resume(&mut self, node: NodeId, now: Instant) {
        for attached in self.lives.values_mut().filter(|attached| attached.node == node) {
            attached.paused = None;
            for sent in attached.held.drain(..) {
                self.next += 1;
                self.under_way.insert((now, self.next), sent);
            }
        }
    }

    /// Ends the connections whose silence is noticed by now, makes those that can be made, and
    /// looks when the next silence will be noticed.
    pub(super) fn settle(&mut self, now: Instant) {
        self.notice_at = None;
        let mut silent = Vec::new();
        for (&(life, _), &other) in &self.connections {
            // Each connection is met from both ends.
            let Some(at) = self.noticed_at(life, other).filter(|_| life < other) else { continue };
            match at <= now {
                true => silent.push((life, other)),
                false => self.notice_at = Some(self.notice_at.map_or(at, |next| next.min(at))),
            }
        }
        for (one, other) in silent {
            let theirs = |from, to| (from, to) == (one, other) || (from, to) == (other, one);
            self.connections.retain(|(from, _), to| !theirs(*from, *to));
            self.break_requests(|waiting| theirs(waiting.from, waiting.to));
            // What a process had not sent goes down with its connection; what its kernel has
            // received, it still reads.
            for life in [one, other] {
                let Some(attached) = self.lives.get_mut(&life) else { continue };
                attached.held.retain(|sent| sent.from != life || !theirs(sent.from, sent.to));
            }
        }
        self.connect();
    }

    /// When two lives notice that they do not hear each other: pings are not answered.
    fn noticed_at(&self, one: Life, other: Life) -> Option<Instant> {
        let (one, other) = (self.lives.get(&one)?, self.lives.get(&other)?);
        let silence = |from: &Attached, to: &Attached| {
            let direction = (from.node, to.node);
            let faults = self.links.get(&direction).unwrap_or(&self.faults);
            let since = [self.cuts.get(&direction).copied(), to.paused];
            since.into_iter().flatten().min().map(|since| since + faults.notice)
        };
        [silence(one, other), silence(other, one)].into_iter().flatten().min()
    }

    /// Connects whoever can be: both say hello, so both must hear each other, and neither may be
    /// connected to another life of the other's node. The seed says who comes first.
    fn connect(&mut self) {
        let mut nodes: BTreeMap<NodeId, Vec<Life>> = BTreeMap::new();
        for (life, attached) in self.lives.iter().filter(|(_, attached)| attached.paused.is_none())
        {
            nodes.entry(attached.node).or_default().push(*life);
        }
        for (&one, ones) in &nodes {
            for (&other, others) in nodes.range(one..).skip(1) {
                if self.cuts.contains_key(&(one, other)) || self.cuts.contains_key(&(other, one)) {
                    continue;
                }
                let free = |lives: &[Life], node| -> Vec<Life> {
                    let free = |life: &&Life| !self.connections.contains_key(&(**life, node));
                    lives.iter().filter(free).copied().collect()
                };
                let (mut ones, mut others) = (free(ones, other), free(others, one));
                while !ones.is_empty() && !others.is_empty() {
                    let (here, there) =
                        (draw(&mut ones, &mut self.rng), draw(&mut others, &mut self.rng));
                    self.connections.insert((here, other), there);
                    self.connections.insert((there, one), here);
                }
            }
        }
    }

    fn break_requests(&mut self, broken: impl Fn(&Waiting) -> bool) {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (broken, kept): (BTreeMap<_, _>, _) = waiting.partition(|(_, it)| broken(it));
        self.waiting = kept;
        self.ended.broken.extend(broken.into_values());
    }

    pub(super) fn on_delivery(&mut self, delivery: impl FnOnce(u128) -> Delivery) {
        let at_ms = self.started.elapsed().as_millis();
        if let Some(recorder) = &mut self.recorder {
            recorder(&delivery(at_ms));
        }
    }
}

/// Takes one of several; nothing is drawn where there is no choice.
fn draw(lives: &mut Vec<Life>, rng: &mut ChaCha8Rng) -> Life {
    let at = if lives.len() == 1 { 0 } else { rng.random_range(0..lives.len()) };
    lives.remove(at)
}
