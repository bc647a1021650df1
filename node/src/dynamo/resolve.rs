//! Resolving an operation: what became of a write whose outcome its client does not know.
//!
//! Everybody who may know is asked: the owners, the fallbacks that come first, and the coordinator
//! that the id names. One who has the write in its index settles it. That nobody has it settles
//! nothing, since it may still be on its way: only the named coordinator, in the named opening, can
//! refuse it from now on, records that, and says so.
//!
//! ```text
//!   id names A            A          B          C          so the write is
//!                         -          a:7        nothing    applied, as a:7
//!                         refused    nothing    -          not applied, and never will be
//!                         -          nothing    nothing    unknown: A did not answer
//!                         nothing    nothing    nothing    unknown: A was restarted since
//! ```
//!
//! Invariants: the first answer that settles it stands; *not applied* is what the named coordinator
//! alone can say, and not even it if others were asked to run the write at least once.
//!
//! Left out: concluding *not applied* without the named coordinator once its actor has ended, when two
//! rounds over all owners and holders of hints found the id nowhere. A round must hear every member
//! that may keep a hint, so it could not end while one is away, which is when it is wanted; until a
//! member's removal can be stated (a change of layout), asking the coordinator again when it is back
//! tells as much, or, once it was restarted, reading the key.

use std::collections::BTreeMap;

use super::key::NodeId;
use super::operation::{Done, Opening, OperationId};
use super::quorum::{Cause, Failure, is_distinct};

/// What became of an operation, as far as one node's index tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// It was applied.
    Done(Done),
    /// It was refused, and stays so.
    Refused,
    /// It wrote another key than was asked for.
    OtherKey,
    /// Nothing, and the id is so old that it may have been forgotten; or its time lies in the future.
    Expired,
}

/// What a node knows of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LookedUp {
    /// What; none: nothing.
    pub known: Option<Known>,
    /// Its present opening.
    pub opening: Opening,
}

/// What became of an operation, as far as those tell who answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// It was applied.
    Applied {
        /// How.
        done: Done,
        /// Who says so, and so has it.
        by: NodeId,
    },
    /// It was not, and never will be.
    NotApplied,
    /// It wrote another key than was asked for.
    OtherKey,
    /// It is too old for anybody to know, or its time lies in the future, by the clocks of all who
    /// answered.
    Expired,
    /// Nobody who answered knows.
    Unknown {
        /// Who did not answer, and why.
        silent: Vec<Failure>,
        /// The named coordinator answered in a later opening: to ask it again is in vain.
        reopened: bool,
    },
}

/// One operation that is asked about.
#[derive(Clone, Debug)]
pub struct ResolveOp {
    id: OperationId,
    /// Others than the named coordinator may have been asked to run it.
    at_least_once: bool,
    asked: Vec<NodeId>,
    answers: BTreeMap<NodeId, Result<LookedUp, Cause>>,
    settled: Option<Resolution>,
}

impl ResolveOp {
    /// Nobody of those asked has answered; the coordinator that `id` names need not be among them.
    pub fn new(id: OperationId, at_least_once: bool, asked: &[NodeId]) -> Self {
        assert!(is_distinct(asked), "a node is asked once: {asked:?}");
        let (answers, asked) = (BTreeMap::new(), asked.to_vec());
        Self { id, at_least_once, asked, answers, settled: None }
    }

    /// A node told what it knows. Who was not asked, or answered before, is not heard.
    pub fn on_answer(&mut self, node: NodeId, answer: LookedUp) {
        if !self.hear(node, Ok(answer)) {
            return;
        }
        let named = node == self.id.coordinator;
        let settled = match answer.known {
            Some(Known::Done(done)) => Some(Resolution::Applied { done, by: node }),
            Some(Known::Refused) if named && !self.at_least_once => Some(Resolution::NotApplied),
            Some(Known::Refused) if planted!("lookup_says_not_applied_for_another_node") => {
                Some(Resolution::NotApplied)
            }
            Some(Known::Refused | Known::OtherKey | Known::Expired) | None => None,
        };
        if self.settled.is_none() {
            self.settled = settled;
        }
    }

    /// A node will not answer.
    pub fn on_failure(&mut self, node: NodeId, cause: Cause) {
        self.hear(node, Err(cause));
    }

    fn hear(&mut self, node: NodeId, answer: Result<LookedUp, Cause>) -> bool {
        let new = self.asked.contains(&node) && !self.answers.contains_key(&node);
        if new {
            self.answers.insert(node, answer);
        }
        new
    }

    /// Whether more answers could not change the outcome.
    pub fn is_over(&self) -> bool {
        self.settled.is_some() || self.answers.len() == self.asked.len()
    }

    /// The outcome, if no more is heard: who has not answered by now did not in time.
    pub fn conclude(&self) -> Resolution {
        if let Some(settled) = &self.settled {
            return settled.clone();
        }
        let says = |known| self.answers.values().flatten().any(|a| a.known == known);
        if says(Some(Known::OtherKey)) {
            return Resolution::OtherKey;
        }
        // One whose clock is wrong does not make it old.
        if says(Some(Known::Expired)) && !says(None) {
            return Resolution::Expired;
        }
        let silent = self.asked.iter().filter_map(|&node| match self.answers.get(&node) {
            None => Some(Failure { node, cause: Cause::Timeout }),
            Some(&Err(cause)) => Some(Failure { node, cause }),
            Some(Ok(_)) => None,
        });
        let named = self.answers.get(&self.id.coordinator);
        let reopened = matches!(named, Some(Ok(answer)) if answer.opening != self.id.opening);
        Resolution::Unknown { silent: silent.collect(), reopened }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dynamo::clock::{Actor, Dot};
    use crate::dynamo::operation::PayloadHash;

    const NAMED: NodeId = NodeId(1);
    const ASKED: [NodeId; 4] = [NAMED, NodeId(2), NodeId(3), NodeId(4)];

    fn id() -> OperationId {
        OperationId {
            issued_ms: 9,
            coordinator: NAMED,
            opening: Opening(5),
            client: 1,
            sequence: 1,
        }
    }

    fn done(n: u64) -> Known {
        let dot = Dot { actor: Actor(7), n };
        Known::Done(Done { dot, clock_ms: 3, payload: PayloadHash(2) })
    }

    fn answer(known: Option<Known>, opening: u64) -> Result<LookedUp, Cause> {
        Ok(LookedUp { known, opening: Opening(opening) })
    }

    fn told(op: &mut ResolveOp, node: NodeId, heard: Result<LookedUp, Cause>) {
        match heard {
            Ok(answer) => op.on_answer(node, answer),
            Err(cause) => op.on_failure(node, cause),
        }
    }

    type Heard = (NodeId, Result<LookedUp, Cause>);

    /// The table of the module, read off the whole list of what was heard.
    fn twin(at_least_once: bool, heard: &[Heard]) -> Resolution {
        let mut first = Vec::<Heard>::new();
        for &(node, answer) in heard {
            if ASKED.contains(&node) && first.iter().all(|(other, _)| *other != node) {
                first.push((node, answer));
            }
        }
        let known = |heard: &Heard| heard.1.ok().and_then(|answer| answer.known);
        for one in &first {
            match known(one) {
                Some(Known::Done(done)) => return Resolution::Applied { done, by: one.0 },
                Some(Known::Refused) if one.0 == NAMED && !at_least_once => {
                    return Resolution::NotApplied;
                }
                _ => {}
            }
        }
        let said = |what| first.iter().any(|(_, a)| a.is_ok_and(|a| a.known == what));
        if said(Some(Known::OtherKey)) {
            return Resolution::OtherKey;
        }
        if said(Some(Known::Expired)) && !said(None) {
            return Resolution::Expired;
        }
        let heard_of = |node| first.iter().find(|(other, _)| *other == node).map(|(_, a)| *a);
        let mut silent = Vec::new();
        for node in ASKED {
            match heard_of(node) {
                None => silent.push(Failure { node, cause: Cause::Timeout }),
                Some(Err(cause)) => silent.push(Failure { node, cause }),
                Some(Ok(_)) => {}
            }
        }
        let reopened =
            heard_of(NAMED).and_then(Result::ok).is_some_and(|a| a.opening != Opening(5));
        Resolution::Unknown { silent, reopened }
    }

    fn heard() -> impl Strategy<Value = Heard> {
        let known = prop_oneof![
            4 => Just(None),
            1 => (1..3_u64).prop_map(|n| Some(done(n))),
            2 => Just(Some(Known::Refused)),
            1 => Just(Some(Known::OtherKey)),
            1 => Just(Some(Known::Expired)),
        ];
        let answer = prop_oneof![
            3 => (known, 5..7_u64).prop_map(|(known, opening)| answer(known, opening)),
            1 => Just(Err(Cause::Disconnected)),
        ];
        ((1..6_u64).prop_map(NodeId), answer)
    }

    proptest! {
        #[test]
        fn it_concludes_as_its_twin_does_after_every_answer(
            all in prop::collection::vec(heard(), 0..9), at_least_once in any::<bool>()
        ) {
            let mut op = ResolveOp::new(id(), at_least_once, &ASKED);
            for until in 0..=all.len() {
                let over = op.is_over();
                let before = op.conclude();
                if let Some(&(node, answer)) = all.get(until) {
                    prop_assert_eq!(&before, &twin(at_least_once, &all[..until]));
                    told(&mut op, node, answer);
                }
                prop_assert!(!over || op.conclude() == before, "what is over stays so");
            }
            prop_assert_eq!(op.conclude(), twin(at_least_once, &all));
        }

        /// Two that cannot both be told aside, the order of the answers does not matter.
        #[test]
        fn not_applied_is_never_said_without_the_named_coordinator(
            all in prop::collection::vec(heard(), 0..9), at_least_once in any::<bool>()
        ) {
            let mut op = ResolveOp::new(id(), at_least_once, &ASKED);
            all.iter().filter(|(node, _)| *node != NAMED).for_each(|&(node, a)| told(&mut op, node, a));
            prop_assert_ne!(op.conclude(), Resolution::NotApplied);
        }
    }

    #[test]
    fn it_resolves_as_in_the_table() {
        let nothing = answer(None, 5);
        let silent = |nodes: &[u64]| {
            let failure = |&node| Failure { node: NodeId(node), cause: Cause::Timeout };
            nodes.iter().map(failure).collect::<Vec<_>>()
        };
        let Known::Done(applied) = done(7) else { unreachable!() };
        let cases = [
            (
                vec![(2, answer(Some(done(7)), 8)), (3, nothing)],
                Resolution::Applied { done: applied, by: NodeId(2) },
            ),
            (vec![(1, answer(Some(Known::Refused), 5)), (2, nothing)], Resolution::NotApplied),
            (
                vec![(2, nothing), (3, nothing), (4, nothing)],
                Resolution::Unknown { silent: silent(&[1]), reopened: false },
            ),
            (
                vec![(1, answer(None, 6)), (2, nothing), (3, nothing)],
                Resolution::Unknown { silent: silent(&[4]), reopened: true },
            ),
        ];
        for (heard, expected) in cases {
            let mut op = ResolveOp::new(id(), false, &ASKED);
            heard.iter().for_each(|&(node, answer)| told(&mut op, NodeId(node), answer));
            assert_eq!(op.conclude(), expected);
        }
    }
}
