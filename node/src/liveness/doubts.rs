//! Who may have missed writes that others keep: told by a background task, asked by reads.

use std::collections::BTreeSet;

use arc_swap::ArcSwapOption;
use tokio::time::{Duration, Instant};

use crate::dynamo::key::NodeId;

/// How long what the task told is believed: it tells several times a second, unless the process stood
/// still, in which time anything may have been missed.
const BELIEVED: Duration = Duration::from_secs(1);

/// The members in doubt, as they were last reckoned; see
/// [`dynamo::outstanding`](crate::dynamo::outstanding). Until then everybody is.
#[derive(Debug, Default)]
pub struct Doubts(ArcSwapOption<(Instant, BTreeSet<NodeId>)>);

impl Doubts {
    /// These are in doubt now.
    pub fn update(&self, doubted: BTreeSet<NodeId>) {
        self.0.store(Some((Instant::now(), doubted).into()));
    }

    /// Whether one of `nodes` may have missed writes which others keep for it.
    pub fn any_of(&self, nodes: &[NodeId]) -> bool {
        match &*self.0.load() {
            Some(told) if told.0.elapsed() < BELIEVED => {
                nodes.iter().any(|node| told.1.contains(node))
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
        let (doubts, [one, two]) = (Doubts::default(), [1, 2].map(NodeId));
        assert!(doubts.any_of(&[one]));
        doubts.update(BTreeSet::from([two]));
        assert!(!doubts.any_of(&[one]) && doubts.any_of(&[one, two]));
        tokio::time::advance(BELIEVED).await;
        assert!(doubts.any_of(&[one]));
    }
}
