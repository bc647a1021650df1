//! What a node owes to others: objects that it keeps for owners which missed them.
//!
//! A *hint* is a whole object, kept for the *targets* that are still owed it. Each target has a queue
//! of its own on the node, in which the hint of a key has a *number*: each new one is higher than all
//! before, so that what was in the queue at one moment has gone home once its first number is above
//! what was its last one then.
//!
//! ```text
//!   take x for b      b:1          x
//!   take y for b, c   b:1 c:2      x ∪ y      b keeps its place
//!   b has x           b:3 c:2      x ∪ y      y came meanwhile: b is owed it, in a new place
//!   b has x ∪ y           c:2
//!   c has x ∪ y                               the hint is deleted
//! ```
//!
//! Invariant: a target is released only by what it put on disk, if nothing came to that since.
//! Source: Dynamo, section 4.6. Left out: the objects, and when to deliver them.

use super::encoding::{DecodeError, Flaw, Reader, Writer};
use super::key::NodeId;

/// The hints that a node keeps.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hints {
    /// One queue for each target.
    pub queues: Vec<HintQueue>,
    /// Whether what was refused last, for want of room, would be refused again.
    pub full: bool,
}

/// The hints that a node keeps for one owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HintQueue {
    /// The owner.
    pub target: NodeId,
    /// How many keys.
    pub count: u64,
    /// Of keys and objects.
    pub bytes: u64,
    /// How long ago the oldest was taken in, in milliseconds.
    pub oldest_ms: u64,
    /// The number of the first in the queue.
    pub first: u64,
    /// And of the last. Each new one has a higher number than all before.
    pub last: u64,
}

/// A target's place in its queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Debt {
    /// To whom the object is owed.
    pub target: NodeId,
    /// The number.
    pub seq: u64,
    /// When it was taken in, by the wall clock, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// Who is owed the object of a key.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Owed {
    /// What the hint takes: key and object, in bytes.
    pub bytes: u64,
    /// Ascending by target.
    debts: Vec<Debt>,
}

/// What became of a debt that was said to be paid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paid {
    /// It is.
    Whole,
    /// It was before, or is another one.
    Before,
    /// The object changed meanwhile: it is owed in a new place.
    InPart,
}

impl Owed {
    /// From what queues say.
    pub fn from_debts(bytes: u64, debts: impl IntoIterator<Item = Debt>) -> Self {
        let mut debts: Vec<Debt> = debts.into_iter().collect();
        debts.sort_unstable_by_key(|debt| (debt.target, debt.seq));
        debts.dedup_by_key(|debt| debt.target);
        Self { bytes, debts }
    }

    /// To whom, ascending by target.
    pub fn debts(&self) -> &[Debt] {
        &self.debts
    }

    /// Whether nobody is owed anything.
    pub fn is_empty(&self) -> bool {
        self.debts.is_empty()
    }

    /// The debt to a target, if there is one.
    pub fn to(&self, target: NodeId) -> Option<Debt> {
        self.at(target).ok().map(|at| self.debts[at])
    }

    /// Owes it to one more target; whoever is owed it already keeps its place.
    pub fn owe(&mut self, debt: Debt) {
        if let Err(at) = self.at(debt.target) {
            self.debts.insert(at, debt);
        }
    }

    /// The target said that it has the object on disk which had `seq` in its queue; `same`: that is
    /// the object still. Else it is owed as `next`.
    pub fn pay(&mut self, seq: u64, same: bool, next: Debt) -> Paid {
        let Ok(at) = self.at(next.target) else { return Paid::Before };
        if self.debts[at].seq != seq {
            return Paid::Before;
        }
        if same {
            self.debts.remove(at);
            return Paid::Whole;
        }
        assert!(next.seq > seq, "a number is given once");
        self.debts[at] = next;
        Paid::InPart
    }

    fn at(&self, target: NodeId) -> Result<usize, usize> {
        self.debts.binary_search_by_key(&target, |debt| debt.target)
    }

    /// Appends the encoding.
    pub fn write(&self, w: &mut Writer) {
        w.varint(self.bytes);
        w.count(self.debts.len());
        for debt in &self.debts {
            w.u64(debt.target.0);
            w.u64(debt.seq);
            w.u64(debt.since_ms);
        }
    }

    /// Reads what [`write`](Self::write) wrote, and nothing else.
    pub fn read(mut r: Reader) -> Result<Self, DecodeError> {
        const DEBT_BYTES: usize = 24;
        let bytes = r.varint("owed bytes")?;
        let count = r.count(DEBT_BYTES, "debts")?;
        let mut debts: Vec<Debt> = Vec::with_capacity(count);
        for _ in 0..count {
            let target = NodeId(r.u64("owed target")?);
            if debts.last().is_some_and(|last| last.target >= target) {
                return Err(r.error("owed target", Flaw::Value(target.0)));
            }
            let (seq, since_ms) = (r.u64("owed number")?, r.u64("owed since")?);
            debts.push(Debt { target, seq, since_ms });
        }
        r.finish("owed")?;
        Ok(Self { bytes, debts })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn debt(target: u64, seq: u64) -> Debt {
        Debt { target: NodeId(target), seq, since_ms: 10 * seq }
    }

    #[test]
    fn the_table_above_is_true() {
        let mut owed = Owed::default();
        owed.owe(debt(2, 1));
        owed.owe(debt(2, 2));
        owed.owe(debt(3, 2));
        assert_eq!(owed.debts(), [debt(2, 1), debt(3, 2)], "b keeps its place");
        assert_eq!(owed.pay(1, false, debt(2, 3)), Paid::InPart);
        assert_eq!(owed.pay(1, true, debt(2, 4)), Paid::Before, "an answer that comes twice");
        assert_eq!(owed.to(NodeId(2)), Some(debt(2, 3)));
        assert_eq!(owed.pay(3, true, debt(2, 5)), Paid::Whole);
        assert_eq!(owed.pay(3, true, debt(2, 6)), Paid::Before);
        assert!(!owed.is_empty());
        assert_eq!(owed.pay(2, true, debt(3, 7)), Paid::Whole);
        assert!(owed.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_owed_comes_back_as_written_and_garbage_is_refused_or_sound(
            bytes in any::<u64>(), debts in prop::collection::vec(any::<[u64; 3]>(), 0..5),
            at in any::<prop::sample::Index>(), byte in any::<u8>()
        ) {
            let debts = debts.into_iter().map(|[target, seq, since_ms]| {
                Debt { target: NodeId(target), seq, since_ms }
            });
            let owed = Owed::from_debts(bytes, debts);
            let encoded = |owed: &Owed| {
                let mut w = Writer::new();
                owed.write(&mut w);
                w.finish()
            };
            let whole = encoded(&owed);
            prop_assert_eq!(Owed::read(Reader::new(whole.clone())), Ok(owed));
            let mut damaged = whole.to_vec();
            let at = at.index(damaged.len());
            damaged[at] = byte;
            if let Ok(decoded) = Owed::read(Reader::new(damaged.clone())) {
                prop_assert_eq!(encoded(&decoded), damaged);
            }
        }
    }
}
