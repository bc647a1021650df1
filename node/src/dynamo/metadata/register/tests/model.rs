//! Seeded runs of a whole electorate: requests, replies and documents are lost, doubled, delayed
//! and reordered; nodes crash, lose their disks, or come back with an old copy of one.
//!
//! The checker trusts no proposer: it counts every vote that was ever cast, also those that their
//! voter forgot, and fails as soon as two documents of one version have a majority.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What may happen to nodes besides crashing.
#[derive(Clone, Copy, Default)]
struct Faults {
    wipes: bool,
    rollbacks: bool,
    /// Open stores without recovering.
    careless: bool,
}

#[derive(Clone)]
struct Disk {
    document: Arc<Document>,
    votes: Option<Votes>,
}

struct Node {
    me: Voter,
    acceptor: Acceptor,
    disk: Disk,
    backups: Vec<Disk>,
    rolled_back: bool,
    proposer: Option<Proposer>,
}

#[derive(Clone)]
enum Message {
    Request(Request),
    Reply(Reply),
    Document(Arc<Document>),
}

#[derive(Clone)]
struct Packet {
    from: NodeId,
    to: NodeId,
    message: Message,
}

struct Model {
    rng: ChaCha8Rng,
    faults: Faults,
    calm: bool,
    nodes: Vec<Node>,
    network: Vec<Packet>,
    /// Who ever voted for which document in which ballot.
    cast: BTreeMap<(Ballot, DocumentHash), BTreeSet<NodeId>>,
    documents: BTreeMap<DocumentHash, Arc<Document>>,
    chosen: BTreeMap<u64, DocumentHash>,
    fork: bool,
}

impl Model {
    /// `voters` voters and two spare nodes.
    fn new(seed: u64, voters: usize, faults: Faults) -> Self {
        let one = first(voters + 2, voters);
        let disk = Disk { document: one.clone(), votes: None };
        let nodes = (0..voters + 2).map(|index| Node {
            me: voter(index),
            acceptor: open(voter(index), disk.clone(), faults.careless),
            disk: disk.clone(),
            backups: vec![disk.clone()],
            rolled_back: false,
            proposer: None,
        });
        Self {
            rng: rng(seed),
            faults,
            calm: false,
            nodes: nodes.collect(),
            network: Vec::new(),
            cast: BTreeMap::new(),
            documents: BTreeMap::from([(one.hash(), one.clone())]),
            chosen: BTreeMap::from([(1, one.hash())]),
            fork: false,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.rng.next_u64() % bound as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn newest(&self) -> Arc<Document> {
        let (_, hash) = self.chosen.last_key_value().unwrap();
        self.documents[hash].clone()
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.fork {
                return;
            }
            match self.below(100) {
                0..88 => self.deliver(),
                88..98 => self.act(),
                _ if self.calm => {}
                _ => self.harm(),
            }
        }
    }

    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let at = self.below(self.network.len());
        let packet = self.network.swap_remove(at);
        if !self.calm && self.chance(10) {
            self.network.push(packet.clone());
        }
        if self.calm || !self.chance(15) {
            self.receive(packet);
        }
    }

    fn receive(&mut self, Packet { from, to, message }: Packet) {
        let at = self.nodes.iter().position(|node| node.me.node == to).unwrap();
        match message {
            Message::Request(request) => self.answer(at, from, &request),
            Message::Reply(reply) => self.hear(at, from, reply),
            Message::Document(document) => self.learn(at, &document),
        }
    }

    fn answer(&mut self, at: usize, from: NodeId, request: &Request) {
        let to = self.nodes[at].me.node;
        let response = self.nodes[at].acceptor.on_request(request);
        if let Some(votes) = response.sync {
            self.sync(at, votes);
        }
        if let (Answer::Accepted, Step::Accept(document)) = (&response.reply.answer, &request.step)
        {
            self.count(to, request.ballot, document);
        }
        self.send(to, from, Message::Reply(response.reply));
    }

    fn hear(&mut self, at: usize, from: NodeId, reply: Reply) {
        let to = self.nodes[at].me.node;
        if let Answer::Refused(Refusal::Newer(document)) = &reply.answer {
            self.learn(at, document);
        }
        if let Answer::Refused(Refusal::Behind { .. }) = &reply.answer {
            let document = self.nodes[at].acceptor.current().clone();
            self.send(to, from, Message::Document(document));
        }
        if let Some(votes) = self.nodes[at].acceptor.on_told(from, reply.clone()) {
            self.sync(at, votes);
        }
        let proposer = self.nodes[at].proposer.as_mut();
        let effects = proposer.map_or(Vec::new(), |it| it.on_reply(from, reply));
        self.execute(to, effects);
        self.settle(at);
    }

    fn sync(&mut self, at: usize, votes: Votes) {
        let node = &mut self.nodes[at];
        node.disk.votes = Some(votes);
        node.backups.push(node.disk.clone());
    }

    fn learn(&mut self, at: usize, document: &Arc<Document>) {
        let node = &mut self.nodes[at];
        match node.acceptor.on_document(document) {
            Ok(Learned::Newer) => {
                node.disk.document = document.clone();
                node.backups.push(node.disk.clone());
            }
            Ok(_) => {}
            Err(alarm) => {
                assert!(self.faults.careless, "{alarm}");
                self.fork = true;
            }
        }
    }

    /// The oracle: a document is chosen when a majority ever voted for it in one ballot.
    fn count(&mut self, from: NodeId, ballot: Ballot, document: &Arc<Document>) {
        let hash = document.hash();
        self.documents.insert(hash, document.clone());
        let cast = self.cast.entry((ballot, hash)).or_default();
        cast.insert(from);
        let electorate = &self.documents[&document.predecessor];
        if cast.len() >= electorate.majority() {
            let chosen = *self.chosen.entry(document.version).or_insert(hash);
            self.fork |= chosen != hash;
        }
    }

    /// Ends a change when it is decided.
    fn settle(&mut self, at: usize) {
        let Some(proposer) = &self.nodes[at].proposer else { return };
        match proposer.verdict() {
            Verdict::Chosen(document) => {
                let chosen = self.chosen.get(&document.version);
                assert!(self.fork || chosen == Some(&document.hash()), "chosen too early");
                self.nodes[at].proposer = None;
                for to in 0..self.nodes.len() {
                    let (from, to) = (self.nodes[at].me.node, self.nodes[to].me.node);
                    self.send(from, to, Message::Document(document.clone()));
                }
            }
            Verdict::Superseded(_) => self.nodes[at].proposer = None,
            Verdict::Pending | Verdict::Outvoted | Verdict::Unreachable { .. } => {}
        }
    }

    /// A random node recovers, proposes, or tries again.
    fn act(&mut self) {
        let at = self.below(self.nodes.len());
        let me = self.nodes[at].me.node;
        if self.chance(50) {
            let effects = self.nodes[at].acceptor.recover(&mut self.rng);
            return self.execute(me, effects);
        }
        let current = self.nodes[at].acceptor.current().clone();
        let stale = |it: &Proposer| it.wanted().version <= current.version;
        if self.nodes[at].proposer.as_ref().is_none_or(stale) {
            let wanted = self.wanted(&current);
            self.nodes[at].proposer = Some(Proposer::new(me, current, wanted));
        }
        if self.chance(30) {
            let proposer = self.nodes[at].proposer.as_mut().unwrap();
            let effects = proposer.begin(&mut self.rng);
            self.execute(me, effects);
        }
    }

    /// A successor: now and then another node, or a new store, replaces a voter.
    fn wanted(&mut self, current: &Document) -> Arc<Document> {
        let mut wanted = Document::clone(&successor(current, self.rng.next_u64()));
        if self.chance(30) {
            let (out, into) = (self.below(wanted.voters.len()), self.below(self.nodes.len()));
            let into = self.nodes[into].me;
            let stranger = wanted.voters.iter().all(|voter| voter.node != into.node);
            if stranger || wanted.voters[out].node == into.node {
                wanted.voters[out] = into;
                wanted.voters.sort();
            }
        }
        wanted.validate().unwrap();
        Arc::new(wanted)
    }

    fn harm(&mut self) {
        let at = self.below(self.nodes.len());
        let one = self.documents.values().find(|it| it.version == 1).unwrap().clone();
        let others_sound = (0..self.nodes.len()).all(|other| {
            let node = &self.nodes[other];
            other == at || !node.rolled_back || node.acceptor.is_sound()
        });
        let (kind, age) = (self.below(10), self.below(8));
        let node = &mut self.nodes[at];
        match kind {
            0 if self.faults.wipes => {
                node.me.store = StoreId(node.me.store.0 + 1000);
                node.disk = Disk { document: one, votes: None };
                node.backups = vec![node.disk.clone()];
            }
            1..5 if self.faults.rollbacks && others_sound => {
                let kept = node.backups.len().saturating_sub(age).max(1);
                node.backups.truncate(kept);
                node.disk = node.backups[kept - 1].clone();
                node.rolled_back = true;
            }
            _ => {}
        }
        node.acceptor = open(node.me, node.disk.clone(), self.faults.careless);
        node.proposer = None;
    }

    fn execute(&mut self, from: NodeId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, request } => self.send(from, to, Message::Request(request)),
                Effect::Teach { to, document } => self.send(from, to, Message::Document(document)),
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        self.network.push(Packet { from, to, message });
    }

    /// Whether enough voters kept their stores for the rest to recover and vote: those of the
    /// newest document, and, if nobody learned that one yet, those who have to find it.
    fn can_recover(&self) -> bool {
        let known = self.nodes.iter().map(|node| node.acceptor.current());
        let known = known.max_by_key(|document| document.version).unwrap();
        self.has_electorate(known) && self.has_electorate(&self.newest())
    }

    fn has_electorate(&self, document: &Document) -> bool {
        let kept = |voter: &&Voter| self.nodes.iter().any(|node| node.me == **voter);
        let (kept, n) = (document.voters.iter().filter(kept).count(), document.voters.len());
        kept > (n - document.majority() + 1).min(n - 1)
    }
}

fn open(me: Voter, disk: Disk, careless: bool) -> Acceptor {
    let acceptor = Acceptor::open(me, disk.document, disk.votes).unwrap();
    if careless { acceptor.believe() } else { acceptor }
}

/// Faults, then calm: no version may have two documents, and changes must go on after the heal.
fn run(seed: u64, voters: usize, faults: Faults) -> u64 {
    let mut model = Model::new(seed, voters, faults);
    model.run(2500);
    assert!(!model.fork, "forked: seed {seed}, {voters} voters");
    let before = model.newest().version;
    model.calm = true;
    let done = |model: &Model| model.newest().version > before + 1 || !model.can_recover();
    for _ in 0..100 {
        if done(&model) {
            break;
        }
        model.run(500);
    }
    assert!(!model.fork, "forked: seed {seed}, {voters} voters");
    assert!(done(&model), "stuck: seed {seed}, {voters} voters");
    before
}

/// Seeds per electorate; `QUORATE_RUNS` asks for more.
fn runs() -> u64 {
    std::env::var("QUORATE_RUNS").map_or(12, |runs| runs.parse().unwrap())
}

#[test]
fn crashes_and_a_bad_network_never_fork_and_never_block() {
    for voters in [1, 3, 5, 7] {
        let versions: u64 = (0..runs()).map(|seed| run(seed, voters, Faults::default())).sum();
        assert!(versions > runs(), "no change at all by {voters} voters");
    }
}

#[test]
fn wiped_and_replaced_voters_never_fork() {
    for voters in [2, 3, 5, 7] {
        let faults = Faults { wipes: true, ..Faults::default() };
        (0..runs()).for_each(|seed| _ = run(seed, voters, faults));
    }
}

#[test]
fn one_rolled_back_disk_at_a_time_never_forks() {
    for voters in [2, 3, 4, 5, 7] {
        let faults = Faults { rollbacks: true, ..Faults::default() };
        (0..runs()).for_each(|seed| _ = run(seed, voters, faults));
    }
}

/// The twin without the rule: the checker sees it.
#[test]
fn without_recovering_a_rolled_back_disk_forks() {
    let faults = Faults { rollbacks: true, wipes: false, careless: true };
    let forked = (0..300).find(|&seed| {
        let mut model = Model::new(seed, 3, faults);
        model.run(2500);
        model.fork
    });
    assert!(forked.is_some(), "the model is too kind to find a fork");
}
