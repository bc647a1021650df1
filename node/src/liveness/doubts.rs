//! Who may have missed writes that others keep: told by a background task, asked by reads.

use std::collections::{BTreeMap, BTreeSet};

use arc_swap::ArcSwapOption;
use tokio::time::{Duration, Instant};

use crate::dynamo::key::NodeId;

/// How long what the task told is believed: it tells several times a second, unless the process stood
/// still, in which time anything may have been missed.
const BELIEVED: Duration = Duration::from_secs(1);

/// The members in doubt, as they were last reckoned; see
/// [`dynamo::outstanding`](crate::dynamo::outstanding). Until then everybody is.
#[derive(Debug, Default)]
pub struct Doubts(ArcSwapOption<Told>);

#[derive(Debug)]
struct Told {
    at: Instant,
    /// Each with those that may keep what it missed.
    doubted: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// Who says that it keeps hints, by the member that they are for.
    holders: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Doubts {
    /// These are in doubt now, each by these others; and who says that it keeps hints, by the member that
    /// they are for.
    pub fn update(
        &self,
        doubted: BTreeMap<NodeId, BTreeSet<NodeId>>,
        holders: BTreeMap<NodeId, BTreeSet<NodeId>>,
    ) {
        self.0.store(Some(Told { at: Instant::now(), doubted, holders }.into()));
    }

    /// Who said last that it keeps hints for one of `nodes`. A clue: it is believed however old.
    pub fn holders_for(&self, nodes: &[NodeId]) -> BTreeSet<NodeId> {
        let told = self.0.load();
        let holders = |node| told.as_ref().and_then(|told| told.holders.get(node));
        nodes.iter().filter_map(holders).flatten().copied().collect()
    }

    /// Whether one of `nodes` may have missed writes which others keep for it.
    pub fn any_of(&self, nodes: &[NodeId]) -> bool {
        match &*self.0.load() {
            Some(told) if told.at.elapsed() < BELIEVED => {
                nodes.iter().any(|node| told.doubted.contains_key(node))
            }
            _ => true,
        }
    }

    /// Whether `other` says that it keeps hints for one of `nodes`, or has not told since it may.
    pub fn may_keep(&self, other: NodeId, nodes: &[NodeId]) -> bool {
        match &*self.0.load() {
            Some(told) if told.at.elapsed() < BELIEVED => {
                let mut by = nodes.iter().filter_map(|node| told.doubted.get(node));
                by.any(|by| by.contains(&other))
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn everybody_is_in_doubt_unless_it_was_told_lately_who_is() {
        let (doubts, [one, two, three]) = (Doubts::default(), [1, 2, 3].map(NodeId));
        assert!(doubts.any_of(&[one]));
        assert!(doubts.may_keep(three, &[one]));
        let by_three = BTreeMap::from([(two, BTreeSet::from([three]))]);
        doubts.update(by_three.clone(), by_three);
        assert!(doubts.may_keep(three, &[one, two]));
        assert!(!doubts.may_keep(three, &[one]) && !doubts.may_keep(one, &[one, two]));
        assert!(!doubts.any_of(&[one]) && doubts.any_of(&[one, two]));
        assert_eq!(doubts.holders_for(&[one]), BTreeSet::new());
        tokio::time::advance(BELIEVED).await;
        assert!(doubts.any_of(&[one]) && doubts.may_keep(one, &[two]));
        assert_eq!(doubts.holders_for(&[one, two]), BTreeSet::from([three]));
    }
}
