//! Which write may stand where the last one wins.
//!
//! Of two writes one loses by design. What stands may have been written no earlier than what it
//! hides, but for how far clocks may differ, and may not be what the hidden write had seen:
//!
//! ```text
//!   write A   |──────| acknowledged
//!   write B                            |────| acknowledged      A may not stand over B
//!   write C                                |──── unknown ...    may, or not
//! ```
//!
//! That is asked of every read and of the final state, each time of all writes that were
//! acknowledged before: so these are summed up by their latest beginning, and by what they had seen.

use super::causality::Covering;
use super::index::Written;
use crate::history::{Moment, Version};

/// How far the clocks of two nodes that take writes may differ: each is off by half a second at
/// most, of which it is certain but for half of a round trip.
const CLOCKS_DIFFER_MS: u64 = 1_100;

/// Whether `stands` may hide `hidden`. One that was tried at another node, at least once, may have
/// happened again at any time.
pub(super) fn may_hide(stands: &Written<'_>, hidden: &Written<'_>) -> bool {
    if stands.copies {
        return true;
    }
    stands.dot.is_none_or(|dot| !hidden.knew(dot))
        && !is_too_old(stands, hidden.operation.invoked_ms)
}

/// Whether a write was acknowledged so long before that time that no clock can excuse it. One of
/// unknown outcome may have happened at any time.
fn is_too_old(write: &Written<'_>, ms: u64) -> bool {
    let returned = write.operation.returned_ms.filter(|_| write.receipt.is_some());
    returned.is_some_and(|returned_ms| returned_ms + CLOCKS_DIFFER_MS < ms)
}

/// Whether a write can be the last one of an object with that version, as seen at that moment.
pub(super) fn may_be_last(write: &Written<'_>, version: Option<&Version>, moment: Moment) -> bool {
    let reflected = write.dot.zip(version).is_none_or(|(dot, version)| dot.is_covered_by(version));
    reflected && write.operation.invoked < moment
}

/// Acknowledged writes by when that was, summed up.
#[derive(Debug)]
pub(super) struct Hidden {
    /// The moment of each ack, and the latest time at which a write up to it began.
    invoked_ms: Vec<(Moment, u64)>,
    /// What they had seen, by the moments of their acks.
    knew: Covering,
}

impl Hidden {
    /// Of acknowledged writes with their places, sorted by when that was.
    pub(super) fn new<'a>(writes: &[(usize, &Written<'a>)]) -> Self {
        let acked = |write: &Written<'_>| write.operation.returned.unwrap_or(Moment::MAX);
        let mut latest = 0;
        let mut invoked_ms = Vec::with_capacity(writes.len());
        for (_, write) in writes {
            latest = latest.max(write.operation.invoked_ms);
            invoked_ms.push((acked(write), latest));
        }
        let knew = writes.iter().map(|(at, write)| (write.context, acked(write), *at));
        Self { invoked_ms, knew: Covering::new(knew) }
    }

    /// Whether `stands` may hide all of them that were acknowledged before then.
    pub(super) fn may_be_hidden_by(&self, stands: &Written<'_>, moment: Moment) -> bool {
        if stands.copies {
            return true;
        }
        let before = self.invoked_ms.partition_point(|(acked, _)| *acked < moment);
        let latest_ms = before.checked_sub(1).map_or(0, |last| self.invoked_ms[last].1);
        let knew = stands.dot.and_then(|dot| self.knew.first(dot));
        !is_too_old(stands, latest_ms) && knew.is_none_or(|(acked, _)| acked >= moment)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Index;
    use super::super::testing::{Story, dot};
    use super::*;

    #[test]
    fn clocks_and_contexts_decide() {
        let mut story = Story::lww();
        story.put("k", "x", "", "a1");
        story.passes_ms(1_100);
        story.put("k", "y", "", "b1");
        story.put("k", "z", "a1", "c1");
        story.passes_ms(100);
        story.put("k", "late", "", "a2");
        story.unknown("k", Some("whenever"), "");
        let index = Index::new(&story.history);
        let writes = &index.keys.first_key_value().unwrap().1.writes;
        let hides = |stands: usize, hidden: usize| may_hide(&writes[stands], &writes[hidden]);
        assert!(hides(0, 1), "clocks may differ so much");
        assert!(!hides(0, 2), "z had seen x");
        assert!(!hides(0, 3), "x is too old");
        assert!(hides(1, 0) && hides(2, 1) && hides(3, 0) && hides(4, 3));

        let acked: Vec<_> = (0..4).map(|at| (at, &writes[at])).collect();
        let hidden = Hidden::new(&acked);
        for stands in writes {
            for moment in 0..=story.now() {
                let before = acked.iter().filter(|(_, w)| w.is_acknowledged_before(moment));
                let naive = before.clone().all(|(_, hidden)| {
                    stands.operation.id == hidden.operation.id || may_hide(stands, hidden)
                });
                assert_eq!(hidden.may_be_hidden_by(stands, moment), naive, "{stands} at {moment}");
            }
        }
        assert_eq!(writes[3].dot, Some(dot("a2")));
    }
}
