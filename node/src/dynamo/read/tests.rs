//! Reads of simulated owners: any order of replies, failures, duplicates, and writes in between.

mod sloppy;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::transcripts::digester;
use super::*;
use crate::dynamo::clock::{Actor, Dot, VersionVector};
use crate::dynamo::object::testing::{entry, histories};
use crate::dynamo::write::{WriteOp, WritePlan};

/// One thing that happens. Indices are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A request under way is answered.
    Reply(usize),
    /// A request under way is answered, and the answer comes again later.
    Twice(usize),
    /// A request under way fails, after it was executed or before.
    Fail(usize, bool),
    /// The caller's timer.
    Slow,
    /// A request is under way for long, or was when it was answered.
    Late(usize),
    /// One owner's object reaches another.
    Gossip(usize, usize),
    /// An owner takes a new write that replaces what it holds.
    Write(usize),
    /// A node that is no owner speaks up.
    Stranger,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (0..9usize).prop_map(Event::Reply),
        1 => (0..9usize).prop_map(Event::Twice),
        3 => (0..9usize, any::<bool>()).prop_map(|(at, done)| Event::Fail(at, done)),
        1 => Just(Event::Slow),
        1 => (0..9usize).prop_map(Event::Late),
        1 => (0..5usize, 0..5usize).prop_map(|(from, to)| Event::Gossip(from, to)),
        1 => (0..5usize).prop_map(Event::Write),
        1 => Just(Event::Stranger),
    ];
    prop::collection::vec(event, 0..20)
}

/// One to five owners with objects of one history, or with none.
fn owners() -> impl Strategy<Value = Vec<Object>> {
    (histories(), prop::collection::vec(0..4usize, 1..6)).prop_map(|(history, picks)| {
        let object = |at: usize| history.replicas.get(at).cloned().unwrap_or_default();
        picks.into_iter().map(object).collect()
    })
}

fn repairs() -> impl Strategy<Value = Repair> {
    prop_oneof![Just(Repair::Async), Just(Repair::Blocking)]
}

impl ReadOp {
    /// Owner `at`, wherever it stands in the order.
    fn owner(&self, at: usize) -> &Owner {
        self.owners.iter().find(|owner| owner.node == NodeId(at as u64)).unwrap()
    }
}

/// A read and the nodes it asks. Owner i is node i, fallback i node 100 + i.
struct Cluster {
    objects: Vec<Object>,
    /// What fallbacks keep, and whether one was heard.
    hints: Vec<(Object, bool)>,
    away: BTreeSet<usize>,
    doubt: bool,
    read: ReadOp,
    under_way: Vec<Effect>,
    /// All requests ever made.
    asked: Vec<Effect>,
    /// Per owner, the states that it told until the answer stood.
    told: Vec<Vec<Object>>,
    failed: BTreeSet<usize>,
    /// Those of which a request was late.
    late: BTreeSet<usize>,
    /// Those that failed or were late after the answer stood.
    missed_after: BTreeSet<usize>,
    /// Fallbacks that answered or failed.
    settled: BTreeSet<usize>,
    /// Owners without standing.
    doubted: BTreeSet<usize>,
    writes: u64,
}

const FALLBACK: usize = 100;

fn index(effect: Effect) -> usize {
    let (Effect::AskObject(node)
    | Effect::AskDigest(node)
    | Effect::Repair(node)
    | Effect::AskFallback(node)) = effect;
    node.0 as usize
}

fn includes(object: &Object, other: &Object) -> bool {
    !object.clone().merge(other)
}

impl Cluster {
    fn new(objects: Vec<Object>, needed: u8, repair: Repair) -> Self {
        Self::start(objects, needed, repair, (BTreeSet::new(), None))
    }

    fn start(
        objects: Vec<Object>,
        needed: u8,
        repair: Repair,
        (away, sloppy): (BTreeSet<usize>, Option<(Vec<Object>, bool)>),
    ) -> Self {
        let node = |at: usize| NodeId(at as u64);
        let away: BTreeSet<usize> = away.into_iter().filter(|&at| at < objects.len()).collect();
        let fallbacks = |hints: usize| (FALLBACK..FALLBACK + hints).map(node).collect();
        let (hints, doubt) = sloppy.clone().unwrap_or_default();
        let read = ReadOp::new(ReadPlan {
            needed,
            owners: (0..objects.len()).map(node).collect(),
            away: away.iter().copied().map(node).collect(),
            sloppy: sloppy.map(|_| Sloppy { fallbacks: fallbacks(hints.len()), doubt }),
            repair,
            digester: digester(),
        });
        let told = vec![Vec::new(); objects.len()];
        let hints = hints.into_iter().map(|hint| (hint, false)).collect();
        let (under_way, asked, failed, late) = Default::default();
        let (missed_after, settled, doubted) = Default::default();
        let mut cluster = Self {
            objects,
            hints,
            away,
            doubt,
            read,
            under_way,
            asked,
            told,
            failed,
            late,
            missed_after,
            settled,
            doubted,
            writes: 0,
        };
        let effects = cluster.read.start();
        cluster.take(effects);
        cluster
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            assert!(!self.asked.contains(&effect), "{effect:?} a second time");
            if let Effect::Repair(_) = effect {
                let answer = digester().digest(self.read.answer().expect("it stands"));
                let told = self.read.owner(index(effect)).told;
                assert_ne!(told, Some(answer), "{effect:?}, which has the answer");
            }
            self.asked.push(effect);
            self.under_way.push(effect);
        }
    }

    fn happen(&mut self, event: Event) {
        let before = self.read.verdict();
        match event {
            Event::Reply(at) => self.settle(at, |cluster, effect| cluster.reply(effect)),
            Event::Twice(at) => self.settle(at, |cluster, effect| {
                cluster.reply(effect);
                cluster.under_way.push(effect);
            }),
            Event::Fail(at, done) => self.settle(at, |cluster, effect| cluster.fail(effect, done)),
            Event::Slow => {
                let effects = self.read.on_slow();
                self.take(effects);
            }
            Event::Late(at) => {
                if let Some(&request) = self.asked.get(at % self.asked.len().max(1)) {
                    self.on_late(request);
                }
            }
            Event::Gossip(from, to) => {
                let n = self.objects.len();
                let object = self.objects[from % n].clone();
                self.objects[to % n].merge(&object);
            }
            Event::Write(at) => self.write(at),
            Event::Stranger => self.stranger(),
        }
        assert!(before == Verdict::Pending || self.read.verdict() == before, "a verdict stays");
    }

    /// Ends one of the requests under way.
    fn settle(&mut self, at: usize, end: impl Fn(&mut Self, Effect)) {
        if !self.under_way.is_empty() {
            let effect = self.under_way.swap_remove(at % self.under_way.len());
            end(self, effect);
        }
    }

    fn reply(&mut self, effect: Effect) {
        let at = index(effect);
        if at >= FALLBACK {
            return self.reply_of_fallback(at);
        }
        let (answered, awaited) = (self.read.answered, self.read.owner(at).waits);
        if self.doubted.contains(&at) && !matches!(effect, Effect::Repair(_)) {
            self.read.on_doubt(NodeId(at as u64), Cause::CatchingUp);
        }
        let effects = match effect {
            Effect::AskObject(node) => self.read.on_object(node, self.objects[at].clone()),
            Effect::AskDigest(node) => {
                self.read.on_digest(node, digester().digest(&self.objects[at]))
            }
            Effect::Repair(node) => {
                self.repaired(at);
                self.read.on_repaired(node)
            }
            Effect::AskFallback(_) => unreachable!("no owner is asked as a fallback"),
        };
        let expected = match effect {
            Effect::AskObject(_) => Request::Object,
            Effect::AskDigest(_) => Request::Digest,
            Effect::Repair(_) | Effect::AskFallback(_) => Request::Repair,
        };
        if !answered && awaited == Some(expected) {
            self.told[at].push(self.objects[at].clone());
        }
        self.take(effects);
    }

    fn reply_of_fallback(&mut self, at: usize) {
        let (hint, heard) = &mut self.hints[at - FALLBACK];
        *heard |= !self.read.answered;
        self.settled.insert(at);
        let effects = self.read.on_hint(NodeId(at as u64), hint.clone());
        self.take(effects);
    }

    fn on_late(&mut self, request: Effect) {
        let late = self.under_way.contains(&request) && self.read.verdict() == Verdict::Pending;
        if late {
            self.miss(index(request), self.read.answered);
            self.late.insert(index(request));
        }
        let effects = self.read.on_late(request);
        self.take(effects);
    }

    fn repaired(&mut self, at: usize) {
        let answer = self.read.answer().expect("a repair sends an answer").clone();
        self.objects[at].merge(&answer);
    }

    fn fail(&mut self, effect: Effect, done: bool) {
        let at = index(effect);
        if done && matches!(effect, Effect::Repair(_)) {
            self.repaired(at);
        }
        if at >= FALLBACK {
            if self.settled.insert(at) {
                self.miss(at, self.read.answered);
                self.failed.insert(at);
            }
            let effects = self.read.on_no_hint(NodeId(at as u64));
            return self.take(effects);
        }
        let (failures, answered) = (self.read.failures().len(), self.read.answered);
        let effects = self.read.on_failure(NodeId(at as u64), Cause::Timeout);
        if self.read.failures().len() > failures {
            self.miss(at, answered);
            assert!(self.failed.insert(at), "{at} failed twice");
        }
        self.take(effects);
    }

    /// `at` is about to fail or be late.
    fn miss(&mut self, at: usize, answered: bool) {
        let earlier = [&self.failed, &self.late, &self.away].iter().any(|set| set.contains(&at));
        if answered && !earlier {
            self.missed_after.insert(at);
        }
    }

    fn write(&mut self, at: usize) {
        let at = at % self.objects.len();
        self.writes += 1;
        let dot = Dot { actor: Actor(100 + at as u64), n: self.writes };
        let context = self.objects[at].version().clone();
        self.objects[at].write(dot, &context, entry(dot));
    }

    fn stranger(&mut self) {
        let (node, dot) = (NodeId(99), Dot { actor: Actor(99), n: 1 });
        let mut lie = Object::default();
        lie.write(dot, &VersionVector::new(), entry(dot));
        let digest = digester().digest(&lie);
        assert_eq!(self.read.on_digest(node, digest), []);
        assert_eq!(self.read.on_object(node, lie), []);
        assert_eq!(self.read.on_failure(node, Cause::Timeout), []);
        assert_eq!(self.read.on_repaired(node), []);
        assert_eq!(self.read.on_no_hint(node), []);
        assert_eq!(self.read.on_hint(NodeId(0), self.objects[0].clone()), []);
        assert_eq!(self.read.on_late(Effect::AskFallback(node)), []);
    }

    /// Lets the events happen until there is a verdict; then answers whatever is under way.
    fn run(&mut self, events: Vec<Event>) -> Verdict {
        let replies = std::iter::repeat(Event::Reply(0));
        for event in events.into_iter().chain(replies) {
            if self.read.verdict() != Verdict::Pending {
                break;
            }
            assert!(!self.under_way.is_empty(), "pending, and nothing under way");
            self.happen(event);
        }
        self.read.verdict()
    }

    fn check_reached(self, needed: usize, repair: Repair) {
        let counted: Vec<usize> =
            (0..self.objects.len()).filter(|&at| self.read.owner(at).counted).collect();
        let mut naive = Object::default();
        for state in counted.iter().flat_map(|&at| &self.told[at]) {
            naive.merge(state);
        }
        let outcome = self.read.clone().finish();
        assert!(counted.len() >= needed && outcome.replicas as usize == counted.len());
        assert!(counted.iter().all(|&at| !self.told[at].is_empty()), "who counts told a state");
        assert_eq!(outcome.object, naive, "the answer is the merge of what those told who counted");
        match repair {
            Repair::Async => {
                let differs = |at: &usize| self.told[*at].last().is_some_and(|s| *s != naive);
                let stale = (0..self.objects.len()).filter(differs);
                let alive = stale.filter(|at| !self.failed.contains(at));
                let alive: Vec<NodeId> = alive.map(|at| NodeId(at as u64)).collect();
                assert_eq!(outcome.repairs, alive);
            }
            Repair::Blocking => {
                let holders = self.objects.iter().filter(|object| includes(object, &naive));
                assert!(holders.count() >= needed, "R owners hold the answer");
                let left = outcome.repairs.iter().map(|node| node.0 as usize);
                assert!(
                    left.into_iter().all(|at| self.late.contains(&at)),
                    "those in time hold it"
                );
            }
        }
    }

    fn check_unreachable(self, needed: usize) {
        let answered = self.read.answered;
        let lost = |at: &&usize| {
            let owner = self.read.owner(**at);
            if answered { !owner.holds } else { !owner.counted }
        };
        let lost = self.failed.iter().filter(lost).count();
        assert!(self.objects.len() - lost < needed, "enough owners could still have answered");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_read_ends_and_its_answer_is_the_merge_of_those_that_counted(
        objects in owners(),
        needed in 1..6u8,
        repair in repairs(),
        events in events(),
    ) {
        let mut cluster = Cluster::new(objects, needed, repair);
        match cluster.run(events) {
            Verdict::Reached => cluster.check_reached(needed.into(), repair),
            Verdict::Unreachable => cluster.check_unreachable(needed.into()),
            Verdict::Pending => unreachable!("the run ends with a verdict"),
        }
    }

    /// Whatever happens after the verdict, the outcome is the same.
    #[test]
    fn nothing_moves_a_verdict(
        objects in owners(),
        repair in repairs(),
        (events, late) in (events(), events()),
    ) {
        let mut cluster = Cluster::new(objects, 1, repair);
        let verdict = cluster.run(events);
        let outcome = (verdict == Verdict::Reached).then(|| cluster.read.clone().finish());
        late.into_iter().for_each(|event| cluster.happen(event));
        prop_assert_eq!(cluster.read.verdict(), verdict);
        prop_assert_eq!((verdict == Verdict::Reached).then(|| cluster.read.finish()), outcome);
    }

    #[test]
    fn an_owner_without_standing_gives_values_and_does_not_count(
        objects in owners(),
        needed in 1..4u8,
        repair in repairs(),
        events in events(),
        doubted in prop::collection::btree_set(0..5usize, 0..3),
    ) {
        let mut cluster = Cluster::new(objects, needed, repair);
        cluster.doubted.clone_from(&doubted);
        let verdict = cluster.run(events);
        let owners = 0..cluster.objects.len();
        let counted: Vec<usize> = owners.filter(|&at| cluster.read.owner(at).counted).collect();
        prop_assert!(counted.iter().all(|at| !doubted.contains(at)));
        if verdict != Verdict::Reached {
            return Ok(());
        }
        let outcome = cluster.read.finish();
        let (mut least, mut most) = (Object::default(), Object::default());
        for (at, state) in (0..).zip(&cluster.told).flat_map(|(at, told)| told.iter().map(move |s| (at, s))) {
            most.merge(state);
            if counted.contains(&at) {
                least.merge(state);
            }
        }
        prop_assert!(counted.len() >= needed.into());
        prop_assert!(includes(&outcome.object, &least) && includes(&most, &outcome.object));
    }

    /// R + W > N: every R owners include one of the W that acknowledged.
    #[test]
    fn a_read_sees_every_write_acknowledged_before_it(
        mut objects in owners(),
        (w, r) in (1..6usize, 1..6usize),
        (coordinator, blind) in (0..5usize, any::<bool>()),
        acks in prop::collection::vec((0..5usize, any::<bool>(), any::<bool>()), 0..12),
        lost in prop::option::of(0..5usize),
        (repair, events) in (repairs(), events()),
    ) {
        let n = objects.len();
        let (w, r) = (w.min(n), r.min(n).max(n + 1 - w.min(n)));
        let (coordinator, dot) = (coordinator % n, Dot { actor: Actor(50), n: 1 });
        let seen = objects[coordinator].version().clone();
        let context = if blind { VersionVector::new() } else { seen };
        objects[coordinator].write(dot, &context, entry(dot));
        let written = objects[coordinator].clone();

        let nodes: Vec<NodeId> = (0..n as u64).map(NodeId).collect();
        let mut write = WriteOp::new(WritePlan {
            needed: w as u8,
            coordinator: nodes[coordinator],
            owners: nodes.clone(),
            fallbacks: Vec::new(),
            sloppy: false,
        });
        write.start(true, |_| None);
        for (at, stored, heard) in acks {
            if stored {
                objects[at % n].merge(&written);
            }
            match stored && heard {
                true => write.on_ack(nodes[at % n], false),
                false => drop(write.on_failure(nodes[at % n], Cause::Timeout)),
            }
        }
        if write.verdict() != Verdict::Reached {
            return Ok(());
        }
        // One owner's store is lost, and it says so; what it alone acknowledged is lost with it.
        let lost = lost.map(|at| at % n).filter(|_| w > 1);
        lost.into_iter().for_each(|at| objects[at] = Object::default());
        let mut cluster = Cluster::new(objects, r as u8, repair);
        cluster.doubted.extend(lost);
        if cluster.run(events) == Verdict::Reached {
            prop_assert!(cluster.read.finish().object.version().covers(dot));
        }
    }
}

#[test]
fn a_new_store_is_merged_repaired_and_not_counted() {
    let plan = |needed| ReadPlan {
        needed,
        owners: vec![NodeId(0), NodeId(1), NodeId(2)],
        away: Vec::new(),
        sloppy: None,
        repair: Repair::Async,
        digester: digester(),
    };
    let dot = Dot { actor: Actor(1), n: 1 };
    let mut value = Object::default();
    value.write(dot, &VersionVector::new(), entry(dot));

    // Nobody else is left: no "not found" by its silence.
    let mut read = ReadOp::new(plan(1));
    read.start();
    read.on_doubt(NodeId(0), Cause::Rebuilding);
    assert_eq!(read.on_object(NodeId(0), Object::default()), [Effect::AskObject(NodeId(1))]);
    read.on_failure(NodeId(1), Cause::Disconnected);
    read.on_failure(NodeId(2), Cause::Disconnected);
    assert_eq!(read.verdict(), Verdict::Unreachable);
    assert_eq!(read.failures()[0], Failure { node: NodeId(0), cause: Cause::Rebuilding });

    // Its digest differs: it is neither waited for nor asked again, and repaired afterwards.
    let mut read = ReadOp::new(plan(2));
    assert_eq!(read.start(), [Effect::AskObject(NodeId(0)), Effect::AskDigest(NodeId(1))]);
    read.on_object(NodeId(0), value.clone());
    read.on_doubt(NodeId(1), Cause::Rebuilding);
    let nothing = digester().digest(&Object::default());
    assert_eq!(read.on_digest(NodeId(1), nothing), [Effect::AskDigest(NodeId(2))]);
    read.on_digest(NodeId(2), digester().digest(&value));
    let outcome = read.finish();
    assert_eq!((outcome.object, outcome.replicas, outcome.repairs), (value, 2, vec![NodeId(1)]));
}
