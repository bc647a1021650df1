//! One read: asking R owners, merging what differs, and saying whom to repair.
//!
//! Exactly R owners are asked at first, one for its object and the others for its digest (Dynamo,
//! SOSP 2007, section 4.5; digests as in Cassandra). Equal digests are answers. An owner whose
//! digest says something else is asked for its object too, and counts once that is merged:
//!
//! ```text
//!   owners 1 2 3, r=2        merged         counted   verdict    to do
//!   start                    -              -         pending    object of 1, digest of 2
//!   1: {a:1 → x}             {a:1 → x}      1         pending
//!   2: digest of {a:2 → y}   {a:1 → x}      1         pending    object of 2
//!   2: {a:2 → y}             {a:2 → y}      1 2       reached    answer y; repair 1
//! ```
//!
//! An owner that fails is replaced by the next one not yet asked; when the caller finds the read
//! slow, all are asked. One that is known not to answer is asked last, and not waited for. Absence
//! is an answer like any other, but for an owner without [standing](super::standing): it gives
//! values, and counts as one that failed.
//!
//! A *sloppy* read asks fallbacks too, when an owner is missed that it would have asked, or that
//! fails or is late: the hint that a fallback keeps counts for one such owner. It answers that there
//! is no value only after every owner was asked, and after the fallbacks, if an owner is missed or
//! may have missed a write; those that are late are not waited for:
//!
//! ```text
//!   owners 1 2 3, r=2   healthy: nothing at 1, 2 and 3                    "not found"
//!   fallbacks 4 5       3 fails: nothing at 1 and 2; 4 {a:1 → x}, 5 late  answer x
//! ```
//!
//! Invariants:
//! - The answer is the merge of all objects received until R owners counted, and reflects the
//!   whole state that each of these told: an owner counts when its object is merged, or when its
//!   digest is that of an object merged or of a merge so far.
//! - In a sloppy read, hints count for owners that do not answer, one each; a fallback without one
//!   counts for nobody, and a strict read asks none.
//! - From then on the answer stands. While a blocking repair goes on, an owner that answers late
//!   and differs is not merged but repaired with the others.
//! - A verdict stays: after it, replies are ignored.
//! - An owner has at most one request under way, so that a failure needs no name and a reply that
//!   nobody waits for (duplicated, late, a stranger's) is told from one that counts.
//! - It ends: each owner is asked at most once for its digest, once for its object and once to
//!   take the repair; each fallback once. An object that changed since its owner sent a digest is merged as it is;
//!   the digest is not asked again.
//!
//! [`Repair::Blocking`] keeps the verdict pending until R owners hold the answer, so that no later
//! read of R owners, R > N/2, can be older. Once they do, a stale owner that is late with the repair is
//! not waited for. A fallback whose hint is the answer holds it as well;
//! one that keeps something else is not repaired, since hints are for their owners. Left out: hedging
//! by a node's own speed, which is the caller's.

mod fallbacks;

use self::fallbacks::Fallbacks;
use super::key::{Key, NamespaceId, NodeId};
use super::metadata::document::ClusterKey;
use super::object::{Digest, Object};
use super::quorum::{Cause, Failure, Tally, Verdict, is_distinct};

/// What to read, and from whom.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    /// R: how many owners must answer. If there are fewer, nobody is asked.
    pub needed: u8,
    /// The owners, in the order in which to ask them if all are there; the first one that is asked
    /// sends the whole object.
    pub owners: Vec<NodeId>,
    /// Those among them that are known not to answer now: asked last, and late from the start.
    pub away: Vec<NodeId>,
    /// Who else may count; none: owners alone do.
    pub sloppy: Option<Sloppy>,
    /// When to repair what is stale.
    pub repair: Repair,
    /// How objects of the key are told apart.
    pub digester: Digester,
}

/// What a sloppy read has beside the owners.
#[derive(Clone, Debug, Default)]
pub struct Sloppy {
    /// The fallbacks that can be asked.
    pub fallbacks: Vec<NodeId>,
    /// Whether an owner may have missed writes that are kept for it as hints.
    pub doubt: bool,
}

/// When a read repairs stale owners.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Repair {
    /// After the answer.
    #[default]
    Async,
    /// Before the answer, which waits until R owners hold it.
    Blocking,
}

/// Computes the digests of one key's objects.
#[derive(Clone, Debug)]
pub struct Digester {
    /// The cluster's secret.
    pub cluster: ClusterKey,
    /// The key's namespace.
    pub namespace: NamespaceId,
    /// The key.
    pub key: Key,
}

impl Digester {
    /// The digest that an owner holding `object` sends.
    pub fn digest(&self, object: &Object) -> Digest {
        object.digest(&self.cluster, self.namespace, &self.key)
    }
}

/// What the caller is to do next. Each is answered by the `on_*` named, or by
/// [`ReadOp::on_failure`]; of a fallback, by [`ReadOp::on_no_hint`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Ask the owner for its object: [`ReadOp::on_object`].
    AskObject(NodeId),
    /// Ask the owner for its digest: [`ReadOp::on_digest`].
    AskDigest(NodeId),
    /// Send [`ReadOp::answer`] to the owner to be merged there: [`ReadOp::on_repaired`].
    Repair(NodeId),
    /// Ask the fallback for what it keeps as a hint: [`ReadOp::on_hint`].
    AskFallback(NodeId),
}

/// What a reached read comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadOutcome {
    /// The merge of everything received: what the client is shown.
    pub object: Object,
    /// How many owners counted.
    pub replicas: u32,
    /// How many fallbacks counted, each for an owner that did not; with those at least R.
    pub fallbacks: u32,
    /// The owners that hold something else and did not fail, in their order: to be sent the
    /// object. After a blocking repair, those without standing and those that were late alone.
    pub repairs: Vec<NodeId>,
}

/// A read under way. Nothing in here has an effect; the caller executes the effects, reports what
/// came of them, and finishes once the verdict is reached.
#[derive(Clone, Debug)]
pub struct ReadOp {
    needed: u8,
    repair: Repair,
    digester: Digester,
    owners: Vec<Owner>,
    /// None in a strict read.
    fallbacks: Option<Fallbacks>,
    merged: Option<Merged>,
    /// Whether the answer stands.
    answered: bool,
    failures: Vec<Failure>,
}

/// One owner, as far as it is known. Not asked yet: nothing waits, nothing told, not failed.
#[derive(Clone, Debug)]
struct Owner {
    node: NodeId,
    /// The request under way.
    waits: Option<Request>,
    /// The state it last told; none once it failed without having counted.
    told: Option<Digest>,
    /// Whether a state that it told is part of the answer.
    counted: bool,
    /// Whether it holds the answer, or more.
    holds: bool,
    failed: bool,
    /// Whether its next answer, or the one under way, is not waited for.
    late: bool,
    /// Whether it was late once: a fallback may count for it as long as it does not itself.
    missed: bool,
    /// Why its silence is not believed: then it gives values, and fails when it does.
    doubted: Option<Cause>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Request {
    Object,
    Digest,
    Repair,
}

/// The merge of the objects received.
#[derive(Clone, Debug)]
struct Merged {
    object: Object,
    digest: Digest,
    /// The digests of states that are part of it: of each object received, of each merge so far.
    reflected: Vec<Digest>,
}

impl ReadOp {
    /// A read that has asked nobody yet.
    pub fn new(plan: ReadPlan) -> Self {
        assert!(plan.needed > 0, "a level resolves to at least one owner");
        assert!(is_distinct(&plan.owners), "an owner is named twice: {:?}", plan.owners);
        let is_away = |node: &NodeId| plan.away.contains(node);
        let fallbacks = plan.sloppy.map(|Sloppy { fallbacks, doubt }| {
            assert!(is_distinct(&fallbacks), "a fallback is named twice: {fallbacks:?}");
            let mut fallbacks = Fallbacks::new(&fallbacks, &plan.owners);
            fallbacks.due = plan.owners.iter().take(plan.needed.into()).any(is_away);
            fallbacks.doubt = doubt;
            fallbacks
        });
        let mut owners: Vec<Owner> =
            plan.owners.iter().map(|node| Owner::new(*node, is_away(node))).collect();
        owners.sort_by_key(|owner| owner.missed);
        Self {
            needed: plan.needed - u8::from(planted!("one_answer_too_few") && plan.needed > 1),
            repair: plan.repair,
            digester: plan.digester,
            owners,
            fallbacks,
            merged: None,
            answered: false,
            failures: Vec::new(),
        }
    }

    /// The first requests.
    pub fn start(&mut self) -> Vec<Effect> {
        self.advance()
    }

    /// What `node` is about to tell are values alone: it has no standing, for this reason. Call it before
    /// the reply is told.
    pub fn on_doubt(&mut self, node: NodeId, cause: Cause) {
        let waiting = |owner: &&mut Owner| owner.node == node && owner.waits.is_some();
        if let Some(owner) = self.owners.iter_mut().find(waiting)
            && owner.waits != Some(Request::Repair)
        {
            owner.doubted.get_or_insert(cause);
        }
    }

    /// `node` sent its object; an absent one if it has none.
    pub fn on_object(&mut self, node: NodeId, object: Object) -> Vec<Effect> {
        let Some(at) = self.reply_to(Request::Object, node) else { return Vec::new() };
        let digest = self.digester.digest(&object);
        self.on_told(at, digest);
        // Nothing, from one that is not believed, would only make others' digests differ from it.
        let says_something = self.owners[at].doubted.is_none() || !object.is_absent();
        if says_something && !self.answered {
            self.merge(object, digest);
        }
        self.advance()
    }

    /// `node`, a fallback, sent what it keeps for owners; an absent object if it keeps nothing.
    pub fn on_hint(&mut self, node: NodeId, hint: Object) -> Vec<Effect> {
        if hint.is_absent() && !planted!("absence_counted_from_a_fallback") {
            return self.on_no_hint(node);
        }
        let digest = self.digester.digest(&hint);
        let merges = !self.answered;
        let Some(fallbacks) = self.awaited_fallback(node) else { return Vec::new() };
        fallbacks.on_hint(node, digest, merges);
        if merges {
            self.merge(hint, digest);
        }
        self.advance()
    }

    /// The request under way at `node`, a fallback, failed; or it keeps nothing.
    pub fn on_no_hint(&mut self, node: NodeId) -> Vec<Effect> {
        let Some(fallbacks) = self.awaited_fallback(node) else { return Vec::new() };
        fallbacks.on_silence(node);
        self.advance()
    }

    /// `node` sent the digest of its object.
    pub fn on_digest(&mut self, node: NodeId, digest: Digest) -> Vec<Effect> {
        let Some(at) = self.reply_to(Request::Digest, node) else { return Vec::new() };
        self.on_told(at, digest);
        self.advance()
    }

    /// `node` merged the answer into its object.
    pub fn on_repaired(&mut self, node: NodeId) -> Vec<Effect> {
        let Some(at) = self.reply_to(Request::Repair, node) else { return Vec::new() };
        self.owners[at].holds = true;
        self.advance()
    }

    /// The request under way at `node` failed, and its answer is no longer waited for.
    pub fn on_failure(&mut self, node: NodeId, cause: Cause) -> Vec<Effect> {
        let waiting = self.owners.iter().find(|owner| owner.node == node);
        let Some(request) = waiting.and_then(|owner| owner.waits) else { return Vec::new() };
        let Some(at) = self.reply_to(request, node) else { return Vec::new() };
        let owner = &mut self.owners[at];
        assert!(!owner.failed, "{node} was asked again after it had failed");
        owner.failed = true;
        if !owner.counted {
            owner.told = None;
        }
        self.failures.push(Failure { node, cause });
        // Who is overloaded is there: as long as others are left, fallbacks need not have more to do.
        if let Some(fallbacks) = self.fallbacks.as_mut().filter(|_| cause != Cause::Overloaded) {
            fallbacks.due = true;
        }
        self.advance()
    }

    /// A request of a sloppy read, or of one that repairs first, is under way for longer than its node
    /// takes as a rule. One that is answered by now is told from one that is late, so that timers need
    /// not be stopped. In a strict read it matters where an owner has told a state and is to be repaired.
    pub fn on_late(&mut self, request: Effect) -> Vec<Effect> {
        let sloppy = self.fallbacks.is_some();
        if self.verdict() != Verdict::Pending || !(sloppy || self.repairs_first()) {
            return Vec::new();
        }
        let (node, kind) = match request {
            Effect::AskObject(node) => (node, Request::Object),
            Effect::AskDigest(node) => (node, Request::Digest),
            Effect::Repair(node) => (node, Request::Repair),
            Effect::AskFallback(node) => {
                self.fallbacks.iter_mut().for_each(|fallbacks| fallbacks.on_late(node));
                return self.advance();
            }
        };
        let is_late = |owner: &&mut Owner| owner.node == node && owner.waits == Some(kind);
        let Some(owner) = self.owners.iter_mut().find(is_late) else { return Vec::new() };
        if !sloppy && owner.told.is_none() {
            return Vec::new();
        }
        owner.late = true;
        if !owner.counted || kind == Request::Repair {
            owner.missed = true;
            self.fallbacks.iter_mut().for_each(|fallbacks| fallbacks.due = true);
        }
        match self.verdict() {
            // It was the last one that the answer waited for.
            Verdict::Reached => Vec::new(),
            _ => self.advance(),
        }
    }

    /// The caller finds that this takes too long: asks whoever was not asked yet.
    ///
    /// While there is no object, for theirs: the one owner that was asked for it may be the slow
    /// one, and digests alone answer nothing. Once the answer stands, to take the repair.
    pub fn on_slow(&mut self) -> Vec<Effect> {
        if self.tally().verdict() != Verdict::Pending {
            return Vec::new();
        }
        let request = match (&self.merged, self.answered) {
            (None, _) => Request::Object,
            (Some(_), false) => Request::Digest,
            (Some(_), true) => Request::Repair,
        };
        let unasked = self.owners.iter_mut().filter(|owner| owner.is_unasked());
        unasked.map(|owner| owner.send(request)).collect()
    }

    /// Where the read stands.
    pub fn verdict(&self) -> Verdict {
        match self.tally().verdict() {
            Verdict::Reached if !self.answered => Verdict::Pending,
            Verdict::Reached if self.repairs_first() && self.awaits_stale() => Verdict::Pending,
            verdict => verdict,
        }
    }

    /// How many owners are needed, and how many answered or, once the answer stands and is
    /// repaired first, hold it; fallbacks that count for them included.
    pub fn tally(&self) -> Tally {
        match &self.merged {
            Some(merged) if self.repairs_first() && self.answered => {
                self.count(Some(merged.digest))
            }
            _ => self.count(None),
        }
    }

    /// Whether R counted, and there is no value so far.
    pub fn finds_nothing(&self) -> bool {
        self.is_enough() && self.answer().is_some_and(Object::is_empty)
    }

    /// The owners that failed, in the order in which they did.
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// The merge so far: what a [`Effect::Repair`] sends. None before the first object.
    pub fn answer(&self) -> Option<&Object> {
        self.merged.as_ref().map(|merged| &merged.object)
    }

    /// The answer of a read whose verdict is reached.
    pub fn finish(self) -> ReadOutcome {
        assert_eq!(self.verdict(), Verdict::Reached, "a read is finished once it is reached");
        let replicas = self.owners.iter().filter(|owner| owner.counted).count() as u32;
        let fallbacks = self.count(None).acks() - replicas;
        let merged = self.merged.expect("owners count only once an object was received");
        let stale = |owner: &&Owner| owner.told.is_some_and(|told| told != merged.digest);
        let reachable = |owner: &Owner| !owner.failed || owner.doubted.is_some();
        let to_repair = |owner: &&Owner| !owner.holds && reachable(owner);
        let repairs = self.owners.iter().filter(stale).filter(to_repair);
        let repairs = repairs.map(|owner| owner.node).collect();
        ReadOutcome { object: merged.object, replicas, fallbacks, repairs }
    }

    fn on_told(&mut self, at: usize, digest: Digest) {
        let owner = &mut self.owners[at];
        owner.told = Some(digest);
        if let Some(cause) = owner.doubted {
            owner.failed = true;
            self.failures.push(Failure { node: owner.node, cause });
        }
    }

    /// Takes in what was just heard, and says what to do next. Who is asked may be late from the start,
    /// and so be the last one that the answer waited for.
    fn advance(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        loop {
            self.count_told();
            let mut next = match (self.answered, self.repair) {
                (false, _) => self.ask(),
                (true, Repair::Async) => Vec::new(),
                (true, Repair::Blocking) => self.repair(),
            };
            if !self.answered || self.repairs_first() {
                next.extend(self.ask_fallbacks());
            }
            if next.is_empty() {
                return effects;
            }
            effects.extend(next);
        }
    }

    /// Counts the owners whose state is now part of the merge, until the answer stands.
    fn count_told(&mut self) {
        if self.answered {
            return;
        }
        let Some(merged) = &self.merged else { return };
        for owner in &mut self.owners {
            let reflected =
                |told| merged.reflected.contains(&told) || planted!("digest_mismatch_ignored");
            owner.counted |= owner.doubted.is_none() && owner.told.is_some_and(reflected);
        }
        let found = !merged.object.is_empty();
        self.answered = self.is_enough() && (found || self.is_certainly_nothing());
    }

    /// Whether R counted.
    fn is_enough(&self) -> bool {
        self.count(None).verdict() == Verdict::Reached
    }

    /// Whether it may be said that there is no value, after R counted: in a sloppy read it may be
    /// where a write was acknowledged without them.
    fn is_certainly_nothing(&self) -> bool {
        let Some(fallbacks) = &self.fallbacks else { return true };
        let heard = self.owners.iter().all(Owner::is_heard);
        let unasked = planted!("not_found_without_asking_fallbacks");
        heard && (unasked || !self.may_have_missed(fallbacks) || fallbacks.are_heard())
    }

    /// Whether fallbacks may keep what the owners that answer do not have.
    fn may_have_missed(&self, fallbacks: &Fallbacks) -> bool {
        fallbacks.doubt || self.owners.iter().any(|owner| owner.failed || owner.missed)
    }

    /// Asks those that differ for their objects, and as many of the unasked as are short: all, if R
    /// counted and there is no value yet.
    ///
    /// An owner that already sent a digest stands in for an object that failed or is late only where
    /// nobody is left who was not asked.
    fn ask(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.tally().verdict() == Verdict::Unreachable {
            return effects;
        }
        if self.merged.is_some() {
            let differing = self.owners.iter_mut().filter(|owner| owner.differs());
            effects.extend(differing.map(|owner| owner.send(Request::Object)));
        }
        let awaited = |owner: &Owner| owner.waits == Some(Request::Object) && !owner.late;
        let mut object_is_due = self.merged.is_none() && !self.owners.iter().any(awaited);
        let wanted = if self.is_enough() { usize::MAX } else { self.needed.into() };
        let mut asked = self.owners.iter().filter(|owner| owner.may_count()).count();
        for owner in self.owners.iter_mut().filter(|owner| owner.is_unasked()) {
            if asked >= wanted {
                break;
            }
            asked += usize::from(!owner.late);
            let first = std::mem::take(&mut object_is_due);
            effects.push(owner.send(if first { Request::Object } else { Request::Digest }));
        }
        if object_is_due {
            let next = self.owners.iter_mut().find(|owner| owner.differs());
            effects.extend(next.map(|owner| owner.send(Request::Object)));
        }
        effects
    }

    /// Asks the fallbacks once an owner is missed, or before it is said that there is no value.
    fn ask_fallbacks(&mut self) -> Vec<Effect> {
        let Some(fallbacks) = &self.fallbacks else { return Vec::new() };
        if self.tally().verdict() == Verdict::Unreachable {
            return Vec::new();
        }
        let left = |owner: &&Owner| owner.counted || !(owner.failed || owner.missed);
        let too_few = self.owners.iter().filter(left).count() < self.needed.into();
        let unsure = !self.answered && self.is_enough() && self.may_have_missed(fallbacks);
        let due = fallbacks.due || too_few || unsure;
        self.fallbacks.iter_mut().filter(|_| due).flat_map(Fallbacks::ask).collect()
    }

    /// Sends the answer to those that told another state, and to as many of the unasked as are
    /// short of R holders. One with a request under way is repaired, if need be, after its reply.
    fn repair(&mut self) -> Vec<Effect> {
        let answer = self.merged.as_ref().expect("an answer that stands was received").digest;
        for owner in &mut self.owners {
            owner.holds |= owner.told == Some(answer);
        }
        let stale = self.owners.iter_mut().filter(|owner| owner.is_stale());
        let mut effects: Vec<Effect> = stale.map(|owner| owner.send(Request::Repair)).collect();
        let hopeful = |owner: &&Owner| !owner.holds && owner.waits.is_some() && !owner.late;
        let hopeful = self.owners.iter().filter(hopeful).count();
        let holding = self.count(Some(answer)).acks() as usize;
        let short = usize::from(self.needed).saturating_sub(holding + hopeful);
        let next = self.owners.iter_mut().filter(|owner| owner.is_unasked()).take(short);
        effects.extend(next.map(|owner| owner.send(Request::Repair)));
        effects
    }

    fn merge(&mut self, object: Object, digest: Digest) {
        let Some(merged) = &mut self.merged else {
            self.merged = Some(Merged { object, digest, reflected: vec![digest] });
            return;
        };
        merged.reflected.push(digest);
        if merged.object.merge(&object) {
            merged.digest = self.digester.digest(&merged.object);
            merged.reflected.push(merged.digest);
        }
    }

    fn repairs_first(&self) -> bool {
        self.repair == Repair::Blocking
    }

    /// Whether an owner that answered is still to be repaired, and is not late.
    fn awaits_stale(&self) -> bool {
        let stale = |owner: &Owner| owner.told.is_some() && !owner.holds;
        let awaited = |owner: &Owner| owner.waits.is_some() && !owner.late;
        self.owners.iter().any(|owner| stale(owner) && awaited(owner))
    }

    /// Who counts or, once it stands, holds `answer`. In a sloppy read fallbacks do so for owners that
    /// do not: there is hope as long as a fallback may do so for one that failed.
    fn count(&self, answer: Option<Digest>) -> Tally {
        let mut tally = Tally::new(self.needed, self.owners.len());
        let (mut vacant, mut failed) = (0, 0);
        for owner in &self.owners {
            let is_ack = if answer.is_some() { owner.holds } else { owner.counted };
            if is_ack {
                tally.ack();
            } else {
                vacant += usize::from(owner.failed || owner.missed);
                failed += usize::from(owner.failed);
            }
        }
        let fallbacks = self.fallbacks.as_ref();
        let holding = fallbacks.map_or(0, |fallbacks| fallbacks.holding(answer));
        let hopeful = fallbacks.map_or(0, |fallbacks| fallbacks.hopeful(answer));
        (0..vacant.min(holding)).for_each(|_| tally.ack());
        (hopeful..failed).for_each(|_| tally.fail());
        tally
    }

    /// The fallbacks, if this reply is waited for.
    fn awaited_fallback(&mut self, node: NodeId) -> Option<&mut Fallbacks> {
        if self.verdict() == Verdict::Reached {
            return None;
        }
        self.fallbacks.as_mut().filter(|fallbacks| fallbacks.awaits(node))
    }

    /// Where the owner is, if it is one of whom this reply is waited for. Once too few are left,
    /// replies still count, so that the tally tells how many answered.
    fn reply_to(&mut self, request: Request, node: NodeId) -> Option<usize> {
        if self.verdict() == Verdict::Reached {
            return None;
        }
        let waiting = |owner: &Owner| owner.node == node && owner.waits == Some(request);
        let at = self.owners.iter().position(waiting)?;
        (self.owners[at].waits, self.owners[at].late) = (None, false);
        Some(at)
    }
}

impl Owner {
    fn new(node: NodeId, away: bool) -> Self {
        Self {
            node,
            waits: None,
            told: None,
            counted: false,
            holds: false,
            failed: false,
            late: away,
            missed: away,
            doubted: None,
        }
    }

    fn send(&mut self, request: Request) -> Effect {
        assert!(self.waits.is_none(), "{} has a request under way", self.node);
        assert!(!self.failed, "{} has failed", self.node);
        self.waits = Some(request);
        match request {
            Request::Object => Effect::AskObject(self.node),
            Request::Digest => Effect::AskDigest(self.node),
            Request::Repair => Effect::Repair(self.node),
        }
    }

    fn is_unasked(&self) -> bool {
        self.waits.is_none() && self.told.is_none() && !self.holds && !self.failed
    }

    /// Whether it was asked, and counts or soon may.
    fn may_count(&self) -> bool {
        !self.failed && !self.late && (self.waits.is_some() || self.told.is_some())
    }

    /// Whether it was asked and counts, failed or is late.
    fn is_heard(&self) -> bool {
        self.counted || self.failed || (self.waits.is_some() && self.late)
    }

    /// Whether it told a state by digest alone that is not part of the merge.
    fn differs(&self) -> bool {
        self.told.is_some() && !self.counted && self.waits.is_none() && !self.failed
    }

    /// Whether it told another state than the answer and can be repaired now.
    fn is_stale(&self) -> bool {
        self.told.is_some() && !self.holds && self.waits.is_none() && !self.failed
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod transcripts;
