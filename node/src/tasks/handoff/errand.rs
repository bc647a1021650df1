//! One errand: a message to a target, and what follows from its answer.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::HandoffParts;
use super::course::{Allotment, Errand, Outcome, Sent};
use crate::cluster::view::View;
use crate::dynamo::credit::{Credit, MESSAGE_MAX_BYTES, MESSAGE_MAX_HINTS};
use crate::dynamo::key::NodeId;
use crate::error::RequestError;
use crate::transport::{Replicate, Reply, Request};
use crate::vnode::{KeptHint, Merge};

/// How long a message, or the disk here, may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How many bytes of objects give a message a second more: a slow link is none that is broken.
const BYTES_A_SECOND: usize = 1 << 20;

/// The hints of somebody who is no member that are seen to at a time, in bytes: each goes to several,
/// which makes their own bounds.
const STRAYS_BYTES: u32 = 64 << 10;

/// An answer to one message.
struct Answer {
    taken: Vec<Result<(), RequestError>>,
    credit: Credit,
}

impl HandoffParts {
    /// Runs an errand for a member, or for one who is none any more: then the owners of its partitions
    /// get the hints.
    pub(super) async fn run(&self, view: &View, target: NodeId, errand: Errand) -> Outcome {
        let is_member = view.member(target).is_some();
        let (mut last, free) = (None, Credit { bytes: STRAYS_BYTES, pause_ms: 0 });
        let done = match errand {
            Errand::Ask if !is_member => Ok((None, free)),
            Errand::Ask => self.bring(target, &[]).await.map(|answer| (None, answer.credit)),
            Errand::Send(allotment) => match self.page(target, allotment).await {
                Ok(page) => {
                    last = page.last().map(|hint| hint.seq);
                    match is_member {
                        true => self.send(view, target, allotment, page).await,
                        false => {
                            self.rehome(view, target, page).await.map(|sent| (Some(sent), free))
                        }
                    }
                }
                Err(error) => Err(error),
            },
        };
        self.outcome(view, target, done.map_err(|error| (last, error)))
    }

    fn outcome(
        &self,
        view: &View,
        target: NodeId,
        done: Result<(Option<Sent>, Credit), (Option<u64>, RequestError)>,
    ) -> Outcome {
        let (name, metrics) = (view.name_of(target), self.metrics.handoff());
        match done {
            Ok((sent, credit)) => {
                if credit.bytes == 0 {
                    metrics.waited(&name);
                }
                Outcome::Done { sent, credit }
            }
            Err((last, error)) => {
                tracing::debug!(target_node = name, %error, "hints could not be sent home");
                metrics.failed(&name);
                Outcome::Failed { last }
            }
        }
    }

    /// Sends the hints of an allotment, and deletes what was acknowledged.
    async fn send(
        &self,
        view: &View,
        target: NodeId,
        allotment: Allotment,
        page: Vec<KeptHint>,
    ) -> Result<(Option<Sent>, Credit), RequestError> {
        let unused = Credit { bytes: allotment.bytes, pause_ms: 0 };
        let (home, strays): (Vec<_>, Vec<_>) =
            page.into_iter().partition(|hint| is_owner(view, target, hint));
        let mut sent = Sent { last: None, refused: false };
        if !strays.is_empty() {
            sent = self.rehome(view, target, strays).await?;
        }
        if home.is_empty() {
            return Ok((Some(sent), unused));
        }
        let last = home.last().map(|hint| hint.seq).max(sent.last);
        let Answer { taken, credit } = self.bring(target, &home).await?;
        let refused = self.settle(view, target, home.into_iter().zip(taken)).await?;
        Ok((Some(Sent { last, refused: sent.refused || refused }), credit))
    }

    /// The oldest hints of the allotment; none if there is none.
    async fn page(
        &self,
        target: NodeId,
        Allotment { after, bytes, hints }: Allotment,
    ) -> Result<Vec<KeptHint>, RequestError> {
        let bytes = bytes.min(MESSAGE_MAX_BYTES) as usize;
        let page =
            self.shards.hint_page_after(target, after, bytes, Instant::now() + TIMEOUT).await?;
        Ok(fitting(page, bytes, hints))
    }

    /// Offers hints to one who owns their keys; without any it asks for credit.
    async fn bring(&self, to: NodeId, hints: &[KeptHint]) -> Result<Answer, RequestError> {
        let request = Request::Handoff(hints.iter().map(item).collect());
        let bytes: usize = hints.iter().map(|hint| hint.object.0.len()).sum();
        let timeout = TIMEOUT + Duration::from_secs((bytes / BYTES_A_SECOND) as u64);
        match self.peers.request(to, request, timeout).await {
            Ok(Reply::Handoff { taken, credit }) if taken.len() == hints.len() => {
                Ok(Answer { taken, credit })
            }
            Ok(Reply::Failed(error)) => Err(error),
            Ok(_) => Err(RequestError::not_ready("the answer made no sense")),
            Err(error) => Err(RequestError::not_ready(error)),
        }
    }

    /// Deletes the hints that are home. Whether any is not.
    async fn settle(
        &self,
        view: &View,
        target: NodeId,
        brought: impl Iterator<Item = (KeptHint, Result<(), RequestError>)>,
    ) -> Result<bool, RequestError> {
        let (mut delivered, mut refused) = (Vec::new(), 0);
        let (name, metrics) = (view.name_of(target), self.metrics.handoff());
        for (hint, taken) in brought {
            match taken {
                Ok(()) => delivered.push(hint),
                Err(error) => {
                    refused += 1;
                    let key_hash = hint.address.hash().0;
                    tracing::debug!(target_node = name, key_hash, %error, "a hint was refused");
                }
            }
        }
        if refused > 0 {
            metrics.refused(&name, refused);
        }
        if !delivered.is_empty() {
            let count = delivered.len() as u64;
            let bytes = delivered.iter().map(|hint| hint.object.0.len() as u64).sum();
            self.shards.hints_delivered(target, delivered, Instant::now() + TIMEOUT).await?;
            metrics.delivered(&name, count, bytes);
        }
        Ok(refused > 0)
    }

    /// Brings hints to the present owners of their keys: `target` is none of them any more. One that
    /// all of these have on disk is home.
    async fn rehome(
        &self,
        view: &View,
        target: NodeId,
        hints: Vec<KeptHint>,
    ) -> Result<Sent, RequestError> {
        let last = hints.last().map(|hint| hint.seq);
        let mut missing: Vec<BTreeSet<NodeId>> =
            hints.iter().map(|hint| owners(view, hint).collect()).collect();
        // Where nobody is left, as of a namespace that was dropped, nobody can acknowledge.
        let nowhere: Vec<bool> = missing.iter().map(BTreeSet::is_empty).collect();
        let all: BTreeSet<NodeId> = missing.iter().flatten().copied().collect();
        for owner in all {
            let places = (0..hints.len()).filter(|&place| missing[place].contains(&owner));
            let places: Vec<usize> = places.collect();
            let part: Vec<KeptHint> = places.iter().map(|&place| hints[place].clone()).collect();
            for (place, taken) in places.into_iter().zip(self.bring_strays(owner, &part).await) {
                if taken {
                    missing[place].remove(&owner);
                }
            }
        }
        let home = missing.iter().zip(nowhere).map(|(missing, nowhere)| {
            let home = missing.is_empty() && !nowhere;
            home.then_some(()).ok_or_else(|| RequestError::not_ready("an owner lacks it"))
        });
        let home: Vec<_> = home.collect();
        let refused = self.settle(view, target, hints.into_iter().zip(home)).await?;
        Ok(Sent { last, refused })
    }

    /// Which of the first of these one owner has on disk now; the others were not offered.
    async fn bring_strays(&self, owner: NodeId, hints: &[KeptHint]) -> Vec<bool> {
        if owner == self.node {
            let merge = |hint: &KeptHint| Merge::of_hint(hint.address.clone(), hint.object.clone());
            let merges = hints.iter().map(merge).collect();
            let merged = self.shards.merge_home(merges, Instant::now() + TIMEOUT).await;
            return merged.iter().map(Result::is_ok).collect();
        }
        let granted = match self.bring(owner, &[]).await {
            Ok(Answer { credit, .. }) if credit.bytes > 0 => credit,
            _ => return Vec::new(),
        };
        sleep(Duration::from_millis(granted.pause_ms.into())).await;
        let hints = fitting(hints.to_vec(), granted.bytes as usize, MESSAGE_MAX_HINTS);
        let brought = self.bring(owner, &hints).await;
        brought
            .map_or_else(|_| Vec::new(), |answer| answer.taken.iter().map(Result::is_ok).collect())
    }
}

/// The present owners of a hint's key.
fn owners(view: &View, hint: &KeptHint) -> impl Iterator<Item = NodeId> {
    let list = view.preference(hint.address.vnode);
    list.into_iter().flat_map(|list| list.owners().iter().copied())
}

fn is_owner(view: &View, target: NodeId, hint: &KeptHint) -> bool {
    owners(view, hint).any(|owner| owner == target)
}

/// The first hints, as many as fit in a message of so many bytes, one at least, and `most` at most.
fn fitting(hints: Vec<KeptHint>, bytes: usize, most: usize) -> Vec<KeptHint> {
    let mut sum = 0;
    let fits = |(place, hint): &(usize, KeptHint)| {
        sum += hint.object.0.len();
        *place == 0 || *place < most && sum <= bytes
    };
    hints.into_iter().enumerate().take_while(fits).map(|(_, hint)| hint).collect()
}

/// A hint as its target gets it: a repair, to be on disk before the answer.
fn item(hint: &KeptHint) -> Replicate {
    Replicate {
        namespace: hint.address.namespace,
        key: hint.address.key.clone(),
        object: hint.object.clone(),
        synced: true,
        operation: None,
        clock_ms: 0,
        mend: false,
        hint_for: None,
    }
}
