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
//! slow, all are asked. Absence is an answer like any other, but for an owner without
//! [standing](super::standing): it gives values, and counts as one that failed.
//!
//! Invariants:
//! - The answer is the merge of all objects received until R owners counted, and reflects the
//!   whole state that each of these told: an owner counts when its object is merged, or when its
//!   digest is that of an object merged or of a merge so far.
//! - From then on the answer stands. While a blocking repair goes on, an owner that answers late
//!   and differs is not merged but repaired with the others.
//! - A verdict stays: after it, replies are ignored.
//! - An owner has at most one request under way, so that a failure needs no name and a reply that
//!   nobody waits for (duplicated, late, a stranger's) is told from one that counts.
//! - It ends: each owner is asked at most once for its digest, once for its object and once to
//!   take the repair. An object that changed since its owner sent a digest is merged as it is;
//!   the digest is not asked again.
//!
//! [`Repair::Blocking`] keeps the verdict pending until R owners hold the answer, so that no later
//! read of R owners, R > N/2, can be older. Left out: fallbacks, which add values and never
//! absence, and come with sloppy quorums; hedging by a node's own speed, which is the caller's.

use super::key::{Key, NamespaceId, NodeId};
use super::metadata::document::ClusterKey;
use super::object::{Digest, Object};
use super::quorum::{Cause, Failure, Tally, Verdict, is_distinct};

/// What to read, and from whom.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    /// R: how many owners must answer. If there are fewer, nobody is asked.
    pub needed: u8,
    /// The owners, in the order in which to ask; the first one sends the whole object.
    pub owners: Vec<NodeId>,
    /// When to repair what is stale.
    pub repair: Repair,
    /// How objects of the key are told apart.
    pub digester: Digester,
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
/// [`ReadOp::on_failure`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Ask the owner for its object: [`ReadOp::on_object`].
    AskObject(NodeId),
    /// Ask the owner for its digest: [`ReadOp::on_digest`].
    AskDigest(NodeId),
    /// Send [`ReadOp::answer`] to the owner to be merged there: [`ReadOp::on_repaired`].
    Repair(NodeId),
}

/// What a reached read comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadOutcome {
    /// The merge of everything received: what the client is shown.
    pub object: Object,
    /// How many owners counted; at least R.
    pub replicas: u32,
    /// The owners that hold something else and did not fail, in their order: to be sent the
    /// object. After a blocking repair, those without standing alone.
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
    merged: Option<Merged>,
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
    /// Whether its silence is: else it gives values, and fails when it does.
    believed: bool,
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
        Self {
            needed: plan.needed - u8::from(planted!("one_answer_too_few") && plan.needed > 1),
            repair: plan.repair,
            digester: plan.digester,
            owners: plan.owners.into_iter().map(Owner::new).collect(),
            merged: None,
            failures: Vec::new(),
        }
    }

    /// The first requests.
    pub fn start(&mut self) -> Vec<Effect> {
        self.advance()
    }

    /// What `node` is about to tell are values alone: it has no standing. Call it before the reply is
    /// told.
    pub fn on_doubt(&mut self, node: NodeId) {
        let waiting = |owner: &&mut Owner| owner.node == node && owner.waits.is_some();
        if let Some(owner) = self.owners.iter_mut().find(waiting) {
            owner.believed &= owner.waits == Some(Request::Repair);
        }
    }

    /// `node` sent its object; an absent one if it has none.
    pub fn on_object(&mut self, node: NodeId, object: Object) -> Vec<Effect> {
        let Some(at) = self.reply_to(Request::Object, node) else { return Vec::new() };
        let digest = self.digester.digest(&object);
        self.on_told(at, digest);
        // Nothing, from one that is not believed, would only make others' digests differ from it.
        let says_something = self.owners[at].believed || !object.is_absent();
        if says_something && !self.is_answered() {
            self.merge(object, digest);
        }
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
        self.advance()
    }

    /// The caller finds that this takes too long: asks whoever was not asked yet.
    ///
    /// While there is no object, for theirs: the one owner that was asked for it may be the slow
    /// one, and digests alone answer nothing. Once the answer stands, to take the repair.
    pub fn on_slow(&mut self) -> Vec<Effect> {
        if self.tally().verdict() != Verdict::Pending {
            return Vec::new();
        }
        let request = match (&self.merged, self.is_answered()) {
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
            Verdict::Reached if self.repairs_first() && self.awaits_stale() => Verdict::Pending,
            verdict => verdict,
        }
    }

    /// How many owners are needed, and how many answered or, once the answer stands and is
    /// repaired first, hold it.
    pub fn tally(&self) -> Tally {
        let repairing = self.repairs_first() && self.is_answered();
        self.count(|owner| if repairing { owner.holds } else { owner.counted })
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
        let replicas = self.count(|owner| owner.counted).acks();
        let merged = self.merged.expect("owners count only once an object was received");
        let stale = |owner: &&Owner| owner.told.is_some_and(|told| told != merged.digest);
        let reachable = |owner: &Owner| !owner.failed || !owner.believed;
        let to_repair = |owner: &&Owner| !owner.holds && reachable(owner);
        let repairs = self.owners.iter().filter(stale).filter(to_repair);
        let repairs = repairs.map(|owner| owner.node).collect();
        ReadOutcome { object: merged.object, replicas, repairs }
    }

    fn on_told(&mut self, at: usize, digest: Digest) {
        let owner = &mut self.owners[at];
        owner.told = Some(digest);
        if !owner.believed {
            owner.failed = true;
            self.failures.push(Failure { node: owner.node, cause: Cause::Rebuilding });
        }
    }

    /// Takes in what was just heard, and says what to do next.
    fn advance(&mut self) -> Vec<Effect> {
        self.count_told();
        match (self.is_answered(), self.repair) {
            (false, _) => self.ask(),
            (true, Repair::Async) => Vec::new(),
            (true, Repair::Blocking) => self.repair(),
        }
    }

    /// Counts the owners whose state is now part of the merge, until the answer stands.
    fn count_told(&mut self) {
        if self.is_answered() {
            return;
        }
        let Some(merged) = &self.merged else { return };
        for owner in &mut self.owners {
            let reflected =
                |told| merged.reflected.contains(&told) || planted!("digest_mismatch_ignored");
            owner.counted |= owner.believed && owner.told.is_some_and(reflected);
        }
    }

    /// Asks those that differ for their objects, and as many of the unasked as are short.
    ///
    /// An owner that already sent a digest never has to stand in for a failed object: the next
    /// unasked owner does, and when there is none, too few are left anyway.
    fn ask(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.tally().verdict() != Verdict::Pending {
            return effects;
        }
        if self.merged.is_some() {
            let differing = self.owners.iter_mut().filter(|owner| owner.differs());
            effects.extend(differing.map(|owner| owner.send(Request::Object)));
        }
        let mut object_is_due = self.merged.is_none() && !self.awaits(Request::Object);
        let asked = self.owners.iter().filter(|owner| owner.may_count()).count();
        let short = usize::from(self.needed).saturating_sub(asked);
        let next = self.owners.iter_mut().filter(|owner| owner.is_unasked()).take(short);
        for owner in next {
            let first = std::mem::take(&mut object_is_due);
            effects.push(owner.send(if first { Request::Object } else { Request::Digest }));
        }
        effects
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
        let hopeful = |owner: &&Owner| owner.holds || owner.waits.is_some();
        let hopeful = self.owners.iter().filter(hopeful).count();
        let short = usize::from(self.needed).saturating_sub(hopeful);
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

    /// Whether R owners counted: from then on the answer stands.
    fn is_answered(&self) -> bool {
        self.count(|owner| owner.counted).verdict() == Verdict::Reached
    }

    fn repairs_first(&self) -> bool {
        self.repair == Repair::Blocking
    }

    fn awaits(&self, request: Request) -> bool {
        self.owners.iter().any(|owner| owner.waits == Some(request))
    }

    /// Whether an owner that answered is still to be repaired.
    fn awaits_stale(&self) -> bool {
        let stale = |owner: &Owner| owner.told.is_some() && !owner.holds && owner.waits.is_some();
        self.owners.iter().any(stale)
    }

    fn count(&self, is_ack: impl Fn(&Owner) -> bool) -> Tally {
        let mut tally = Tally::new(self.needed, self.owners.len());
        for owner in &self.owners {
            match (is_ack(owner), owner.failed) {
                (true, _) => tally.ack(),
                (false, true) => tally.fail(),
                (false, false) => {}
            }
        }
        tally
    }

    /// Where the owner is, if it is one of whom this reply is waited for. Once too few are left,
    /// replies still count, so that the tally tells how many answered.
    fn reply_to(&mut self, request: Request, node: NodeId) -> Option<usize> {
        if self.verdict() == Verdict::Reached {
            return None;
        }
        let waiting = |owner: &Owner| owner.node == node && owner.waits == Some(request);
        let at = self.owners.iter().position(waiting)?;
        self.owners[at].waits = None;
        Some(at)
    }
}

impl Owner {
    fn new(node: NodeId) -> Self {
        Self {
            node,
            waits: None,
            told: None,
            counted: false,
            holds: false,
            failed: false,
            believed: true,
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

    /// Whether it was asked, and counts or still may.
    fn may_count(&self) -> bool {
        !self.failed && (self.waits.is_some() || self.told.is_some())
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
