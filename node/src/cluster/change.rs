//! Changing the cluster: one change, proposed until it is decided, then told to everybody.
//!
//! ```text
//!   another's document was chosen     make the change anew on top of it, and propose that
//!   outvoted, or too few voters       wait a little, propose again
//!   ours was chosen, not offered yet  another made the very same change: it exists already
//!   the time is up                    unknown if ours was offered to voters; else not made
//! ```
//!
//! "Offered" means that voters were asked to vote for it: from then on it may be chosen, also
//! after this node gave up, since whoever proposes next may find a vote for it and finish it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, timeout_at};

use super::pauses::Pauses;
use super::register::alarmed;
use super::view::placement_members;
use super::vote::{self, Silence};
use super::{Cluster, STEP_TIMEOUT};
use crate::dynamo::key::NodeId;
use crate::dynamo::metadata::Document;
use crate::dynamo::metadata::document::{DocumentError, Namespace, NamespaceUpdate, NewNamespace};
use crate::dynamo::metadata::register::{Answer, Effect, Proposer, Reply, Request, Step, Verdict};
use crate::dynamo::placement::Placement;
use crate::error::RequestError;

/// A change that takes longer than this is as good as forgotten.
const CHANGE_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// What a decided change may still take to be told, though its time is up.
const TELL_TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// How long a member may take to acknowledge a document before it counts as unreachable.
const TELL_TIMEOUT_MAX: Duration = Duration::from_secs(2);

impl Cluster {
    /// Makes a namespace. When it returns, a majority of the voters chose it and every member that
    /// can be reached knows it; the names of the others come with it, and they learn it later.
    ///
    /// After [`RequestError::Timeout`] the text says whether it may exist, or may yet come to be; after
    /// [`RequestError::ChangeUnknown`] it may, and after [`RequestError::NoMajority`] it does not, and
    /// cannot.
    pub async fn create_namespace(
        &self,
        new: NewNamespace,
        timeout: Duration,
    ) -> Result<(Namespace, Vec<String>), RequestError> {
        let name = new.name.clone();
        let (document, unreachable) = self.change(Change::Create(new), timeout).await?;
        let namespace = document.namespace_named(&name).expect("the change created it");
        Ok((namespace.clone(), unreachable))
    }

    /// Gives a namespace other defaults, on the same terms as [`Cluster::create_namespace`]; it is as
    /// it is now. To ask for what is so already is no error, and makes no new document.
    pub async fn update_namespace(
        &self,
        update: NamespaceUpdate,
        timeout: Duration,
    ) -> Result<(Namespace, Vec<String>), RequestError> {
        let name = update.name.clone();
        let (document, unreachable) = self.change(Change::Update(update), timeout).await?;
        let namespace = document.namespace_named(&name).expect("the change updated it");
        Ok((namespace.clone(), unreachable))
    }

    /// Drops a namespace, on the same terms as [`Cluster::create_namespace`]. What it held is
    /// deleted by each node when it learns of it.
    pub async fn drop_namespace(
        &self,
        name: &str,
        timeout: Duration,
    ) -> Result<Vec<String>, RequestError> {
        let (_, unreachable) = self.change(Change::Drop(name.to_owned()), timeout).await?;
        Ok(unreachable)
    }

    async fn change(
        &self,
        change: Change,
        timeout: Duration,
    ) -> Result<(Arc<Document>, Vec<String>), RequestError> {
        let deadline = Instant::now() + timeout.min(CHANGE_TIMEOUT_MAX);
        let mut campaign = Campaign::new(self, change, deadline);
        let Ok(turn) = timeout_at(deadline, self.changing.lock()).await else {
            return Err(campaign.timed_out("waiting for another change of this node"));
        };
        let made = campaign.run().await?;
        drop(turn);
        Ok((made, self.tell_everybody(deadline).await))
    }

    /// Hands the newest document to all members; the names of those who did not acknowledge it.
    async fn tell_everybody(&self, deadline: Instant) -> Vec<String> {
        let view = self.view().expect("a change is made to a document");
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = left.clamp(TELL_TIMEOUT_MIN, TELL_TIMEOUT_MAX);
        let document = view.document();
        let others = document.members.iter().filter(|member| member.node != self.me.node);
        let told = others.map(|member| async move {
            let learned = self.teach(member.node, document, timeout).await;
            (!learned).then(|| member.name.clone())
        });
        join_all(told).await.into_iter().flatten().collect()
    }
}

#[derive(Clone, Debug)]
enum Change {
    Create(NewNamespace),
    Update(NamespaceUpdate),
    Drop(String),
}

impl Change {
    /// The successor that it makes; none if the document is so already.
    fn apply(self, document: &Document) -> Result<Option<Document>, DocumentError> {
        match self {
            Self::Create(new) => document.with_namespace(new, |n| place(document, n)).map(Some),
            Self::Update(update) => document.with_updated_namespace(&update),
            Self::Drop(name) => document.without_namespace(&name).map(Some),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(new) => write!(f, "namespace {:?} was created", new.name),
            Self::Update(update) => write!(f, "namespace {:?} was updated", update.name),
            Self::Drop(name) => write!(f, "namespace {name:?} was dropped"),
        }
    }
}

/// The table of a placement group that no layout has had.
fn place(document: &Document, n: u8) -> Vec<NodeId> {
    let members = placement_members(document);
    let placement = Placement::compute(&members, document.partitions, n, None);
    placement.expect("n is at most the number of members, all of weight above 0").table().to_vec()
}

/// What a change comes to on top of one document.
enum Wanted {
    /// To be proposed.
    Successor(Arc<Document>),
    /// The document is so already.
    AsItIs,
    /// There is a newer document.
    LookAgain,
}

/// An answer to one step: from whom, to which step, and what, or why none.
type Answered = (NodeId, Discriminant<Step>, Result<Reply, String>);

type Waiting<'a> = FuturesUnordered<BoxFuture<'a, Answered>>;

/// One change until it is decided.
struct Campaign<'a> {
    cluster: &'a Cluster,
    change: Change,
    deadline: Instant,
    rng: ChaCha8Rng,
    /// Whether voters were asked to vote for the wanted document.
    offered: bool,
    /// Whether others were asked if the document is out of date.
    refreshed: bool,
    /// The step of the last attempt that voters were asked for last.
    step: Discriminant<Step>,
    /// Why voters did not agree in the last attempt.
    silent: BTreeMap<NodeId, Silence>,
    /// The voters whose answers to its last step are still awaited.
    awaited: BTreeSet<NodeId>,
}

impl<'a> Campaign<'a> {
    fn new(cluster: &'a Cluster, change: Change, deadline: Instant) -> Self {
        Self {
            cluster,
            change,
            deadline,
            rng: cluster.env.rng(),
            offered: false,
            refreshed: false,
            step: discriminant(&Step::Reserve),
            silent: BTreeMap::new(),
            awaited: BTreeSet::new(),
        }
    }

    /// The document that made the change, once it is chosen and known here.
    async fn run(&mut self) -> Result<Arc<Document>, RequestError> {
        loop {
            if let Some(alarm) = self.cluster.alarm() {
                return Err(alarmed(alarm));
            }
            let Some(view) = self.cluster.view() else {
                return Err(RequestError::not_ready("this node is in no cluster yet"));
            };
            let current = view.document().clone();
            let wanted = match self.wanted(&current).await? {
                Wanted::Successor(wanted) => wanted,
                Wanted::AsItIs => return Ok(current),
                Wanted::LookAgain => continue,
            };
            self.offered = false;
            if self.propose(current, &wanted).await? {
                return Ok(wanted);
            }
        }
    }

    /// The successor to propose. If there is none to be made, a newer document may say otherwise:
    /// others are asked for one, once.
    async fn wanted(&mut self, current: &Arc<Document>) -> Result<Wanted, RequestError> {
        let (change, on) = (self.change.clone(), current.clone());
        let none = match self.cluster.env.block(move || change.apply(&on)).await {
            Ok(Some(wanted)) => return Ok(Wanted::Successor(Arc::new(wanted))),
            Ok(None) => Ok(Wanted::AsItIs),
            Err(error) => Err(refusal(error)),
        };
        if self.refreshed || matches!(none, Err(RequestError::Invalid { .. })) {
            return none;
        }
        self.refreshed = true;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let refreshed = self.cluster.refresh(left).await;
        if self.cluster.version() > current.version {
            return Ok(Wanted::LookAgain);
        }
        refreshed?;
        none
    }

    /// Proposes until the instance is decided; whether for the wanted document.
    async fn propose(
        &mut self,
        current: Arc<Document>,
        wanted: &Arc<Document>,
    ) -> Result<bool, RequestError> {
        let mut proposer = Proposer::new(self.cluster.me.node, current.clone(), wanted.clone());
        let mut pauses = Pauses::new();
        loop {
            match self.attempt(&mut proposer).await? {
                Verdict::Chosen(decided) | Verdict::Superseded(decided) => {
                    self.cluster.learn_document(decided.clone()).await?;
                    return self.was_made(wanted, &decided);
                }
                Verdict::Unreachable { .. } if vote::is_beyond_majority(&current, &self.silent) => {
                    return Err(self.beyond_majority());
                }
                Verdict::Pending | Verdict::Outvoted | Verdict::Unreachable { .. } => {
                    let pause = Instant::now() + pauses.next(&mut self.rng);
                    if pause >= self.deadline {
                        tokio::time::sleep_until(self.deadline).await;
                        return Err(self.timed_out("waiting for a majority of the voters"));
                    }
                    tokio::time::sleep_until(pause).await;
                }
            }
        }
    }

    /// One attempt under a fresh ballot. It ends undecided if nobody is left to answer.
    async fn attempt(&mut self, proposer: &mut Proposer) -> Result<Verdict, RequestError> {
        let mut waiting = Waiting::new();
        self.silent.clear();
        self.awaited.clear();
        let effects = proposer.begin(&mut self.rng);
        self.step = discriminant(&Step::Reserve);
        self.execute(effects, proposer, &mut waiting);
        while proposer.verdict() == Verdict::Pending {
            let Ok(answered) = timeout_at(self.deadline, waiting.next()).await else {
                let late = std::mem::take(&mut self.awaited).into_iter();
                let late = late.map(|node| (node, Silence::Unheard("no answer yet".to_owned())));
                self.silent.extend(late);
                return Err(self.timed_out("waiting for a majority of the voters"));
            };
            let Some(answered) = answered else { break };
            let in_step = self.note(&answered);
            let (from, _, answered) = answered;
            match answered {
                Ok(reply) => {
                    let effects = proposer.on_reply(from, reply);
                    self.execute(effects, proposer, &mut waiting);
                }
                Err(_) if in_step => proposer.on_unreachable(from),
                Err(_) => {}
            }
        }
        Ok(proposer.verdict())
    }

    /// Keeps why a voter does not agree; whether it answered to the present step. Of an earlier one
    /// the answer says nothing of this one.
    fn note(&mut self, (from, of, answered): &Answered) -> bool {
        if *of != self.step {
            return false;
        }
        self.awaited.remove(from);
        match answered {
            Ok(Reply { answer: Answer::Refused(why), .. }) => {
                self.silent.insert(*from, Silence::Refused(why.clone()))
            }
            Ok(_) => self.silent.remove(from),
            Err(reason) => self.silent.insert(*from, Silence::Unheard(reason.clone())),
        };
        true
    }

    fn execute(&mut self, effects: Vec<Effect>, proposer: &Proposer, waiting: &mut Waiting<'a>) {
        let mut lesson = None;
        for effect in effects {
            match effect {
                Effect::Teach { to, document } => lesson = Some((to, document)),
                Effect::Send { to, request } => {
                    // The same Arc: this node's own proposal, not a vote of others that it found.
                    self.offered |= matches!(&request.step, Step::Accept(document)
                        if Arc::ptr_eq(document, proposer.wanted()));
                    self.step = discriminant(&request.step);
                    self.awaited.insert(to);
                    let lesson = lesson.take_if(|(pupil, _)| *pupil == to);
                    waiting.push(Box::pin(send(self.cluster, to, request, lesson)));
                }
            }
        }
    }

    /// Whether the wanted document is the one that was chosen: `decided` is that one, or later.
    fn was_made(&self, wanted: &Document, decided: &Document) -> Result<bool, RequestError> {
        if !self.offered {
            return Ok(false);
        }
        match decided.version - wanted.version {
            0 => Ok(decided.hash() == wanted.hash()),
            1 => Ok(decided.predecessor == wanted.hash()),
            _ => Err(RequestError::ChangeUnknown {
                reason: format!(
                    "the cluster moved on to version {} meanwhile; it is unknown whether {}: \
                     list the namespaces",
                    decided.version, self.change
                ),
            }),
        }
    }

    fn timed_out(&self, waiting: &str) -> RequestError {
        let mut waiting_for = waiting.to_owned();
        if !self.silent.is_empty() {
            let view = self.cluster.view();
            waiting_for += &format!(" ({})", vote::reasons(&self.silent, view.as_deref()));
        }
        waiting_for += &self.what_became_of_it();
        RequestError::Timeout { waiting_for }
    }

    /// To ask again is in vain: the majority that could name other voters is the one that is gone. It
    /// may have chosen the wanted document before.
    fn beyond_majority(&self) -> RequestError {
        let view = self.cluster.view();
        let reason = format!(
            "no majority of the voters is left that could change the cluster's metadata ({}){}. See \
             \"Votes\" in docs/operations.md",
            vote::reasons(&self.silent, view.as_deref()),
            self.what_became_of_it()
        );
        match self.offered {
            true => RequestError::ChangeUnknown { reason },
            false => RequestError::NoMajority { reason },
        }
    }

    fn what_became_of_it(&self) -> String {
        match self.offered {
            true => format!("; it is unknown whether {}: list the namespaces", self.change),
            false => "; nothing was changed".to_owned(),
        }
    }
}

async fn send(
    cluster: &Cluster,
    to: NodeId,
    request: Request,
    lesson: Option<(NodeId, Arc<Document>)>,
) -> Answered {
    if let Some((_, document)) = lesson {
        // Acknowledged before the request goes: on a busy node the two could change places.
        cluster.teach(to, &document, STEP_TIMEOUT).await;
    }
    let step = discriminant(&request.step);
    (to, step, cluster.ask_voter(to, request, STEP_TIMEOUT).await)
}

fn refusal(error: DocumentError) -> RequestError {
    match error {
        DocumentError::NamespaceExists { .. } => {
            RequestError::Conflict { reason: error.to_string() }
        }
        DocumentError::NamespaceUnknown { name } => RequestError::UnknownNamespace { name },
        other => RequestError::invalid(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamo::metadata::document::{StoreId, Voter};
    use crate::dynamo::metadata::register::{Ballot, Refusal};
    use crate::env::Env;
    use crate::storage::memory::MemoryEngine;

    #[test]
    fn what_voters_were_asked_for_is_unknown_once_no_majority_is_left() {
        let cluster = cluster();
        let mut campaign = Campaign::new(&cluster, Change::Drop("a".into()), Instant::now());
        campaign.silent.insert(NodeId(2), Silence::Refused(Refusal::NotVoter));
        let error = campaign.beyond_majority();
        assert!(matches!(&error, RequestError::NoMajority { .. }), "{error:?}");
        assert!(error.to_string().contains("nothing was changed"), "{error}");
        campaign.offered = true;
        let error = campaign.beyond_majority();
        assert!(matches!(&error, RequestError::ChangeUnknown { .. }), "{error:?}");
        assert!(error.to_string().contains("it is unknown whether"), "{error}");
    }

    fn cluster() -> Arc<Cluster> {
        let me = Voter { node: NodeId(1), store: StoreId(1) };
        Cluster::open(me, Arc::new(MemoryEngine::new()), Env::system()).unwrap()
    }

    #[test]
    fn a_late_answer_to_an_earlier_step_says_nothing_of_the_present_one() {
        let (cluster, voter) = (cluster(), NodeId(2));
        let mut campaign = Campaign::new(&cluster, Change::Drop("a".into()), Instant::now());
        campaign.step = discriminant(&Step::Prepare);
        campaign.awaited.insert(voter);
        let silence = Silence::Refused(Refusal::Recovering);
        campaign.silent.insert(voter, silence.clone());
        let reply = |answer| Ok(Reply { ballot: Ballot::NONE, answer });
        let answers = [Err("gone".to_owned()), reply(Answer::Refused(Refusal::NotVoter))];
        for answer in answers.into_iter().chain([reply(Answer::Reserved)]) {
            assert!(!campaign.note(&(voter, discriminant(&Step::Reserve), answer)));
            assert!(campaign.awaited.contains(&voter), "it is awaited still");
            assert_eq!(campaign.silent.get(&voter), Some(&silence));
        }
        let refused = reply(Answer::Refused(Refusal::NotVoter));
        assert!(campaign.note(&(voter, discriminant(&Step::Prepare), refused)));
        assert!(campaign.awaited.is_empty());
        assert_eq!(campaign.silent[&voter], Silence::Refused(Refusal::NotVoter));
    }
}
