//! Whether this node votes on changes of the metadata, and why a change finds no majority.

use std::collections::BTreeMap;

use super::view::View;
use crate::dynamo::key::NodeId;
use crate::dynamo::metadata::Document;
use crate::dynamo::metadata::register::Refusal;

/// What becomes of this node's vote.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Vote {
    /// It is no voter, or in no cluster yet.
    #[default]
    No,
    /// It votes.
    Yes,
    /// It was opened, and has not heard enough other voters to vote again.
    Waits,
    /// It was named a voter with another store, which may have forgotten its votes: it votes no more.
    Lost,
    /// It saw the metadata fork, and refuses everything about its changes.
    Forked,
}

/// Why a voter did not agree in one attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Silence {
    /// It gave no answer.
    Unheard(String),
    /// It answered that it does not vote, or not for this.
    Refused(Refusal),
}

impl Silence {
    fn reason(&self) -> String {
        let reason = match self {
            Self::Unheard(reason) => return reason.clone(),
            Self::Refused(refusal) => refusal,
        };
        match reason {
            Refusal::NotVoter => "it has lost the store with which it voted, and votes no more",
            Refusal::Recovering => "it was started and has not heard enough other voters since",
            Refusal::Outvoted { .. } => "another change came between",
            Refusal::Behind { .. } => "it does not know this version of the metadata",
            Refusal::Newer(_) => "it knows a newer version of the metadata",
            Refusal::Unchained => "it knows another version of the metadata",
            Refusal::Alarmed => "it saw the metadata fork, and changes nothing",
        }
        .to_owned()
    }
}

/// Those who did not agree, with their reasons, for people.
pub(super) fn reasons(silent: &BTreeMap<NodeId, Silence>, view: Option<&View>) -> String {
    let name = |node: NodeId| view.map_or_else(|| node.to_string(), |view| view.name_of(node));
    let each = silent.iter().map(|(&node, why)| format!("{}: {}", name(node), why.reason()));
    each.collect::<Vec<_>>().join("; ")
}

/// Whether no majority can come about any more, by what voters said of themselves: those that lost
/// their stores, and then those that wait to hear more of the others than are left.
pub(super) fn is_beyond_majority(document: &Document, silent: &BTreeMap<NodeId, Silence>) -> bool {
    let count = |refusal: &Refusal| {
        silent.values().filter(|why| matches!(why, Silence::Refused(r) if r == refusal)).count()
    };
    let (voters, lost) = (document.voters.len(), count(&Refusal::NotVoter));
    let can_hear = voters - 1 - lost.min(voters - 1);
    let stuck = lost > 0 && can_hear < document.others_to_hear();
    let gone = lost + if stuck { count(&Refusal::Recovering) } else { 0 };
    voters - gone.min(voters) < document.majority()
}
