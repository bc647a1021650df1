//! When a write comes to an owner, and by which way: what tells how stale replicas are.
//!
//! A write carries the time at which its coordinator made it. When an owner comes to hold a value that it
//! neither held nor covered before, the write was *that old* there: so much older than another owner's
//! answer could have been an answer of this one, a moment before.
//!
//! Left out: deletes of namespaces that keep siblings, which leave no time behind; and the coordinator's
//! own copy, which is never late.

use super::key::NamespaceId;
use super::object::Object;

/// By which way a write came to an owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Way {
    /// From its coordinator.
    #[default]
    Write,
    /// From a node that kept it as a hint.
    Hint,
    /// By a read that found this owner stale.
    ReadRepair,
    /// By an exchange of what owners have seen.
    Exchange,
    /// By trees of hashes.
    Trees,
    /// With all the rest, to a store that is rebuilt.
    Rebuild,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Write, Self::Hint, Self::ReadRepair, Self::Exchange, Self::Trees, Self::Rebuild];

    /// A word for it, for metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Hint => "hint",
            Self::ReadRepair => "read_repair",
            Self::Exchange => "exchange",
            Self::Trees => "trees",
            Self::Rebuild => "rebuild",
        }
    }
}

/// A write came to an owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Of which namespace.
    pub namespace: NamespaceId,
    /// How.
    pub way: Way,
    /// How old it was, by the clocks of its coordinator and of this node: 0 if they differ by more.
    pub age_ms: u64,
}

/// When the last of those writes was made that are shown by `received`, and which `held` neither holds nor
/// covers, in milliseconds since the Unix epoch; none if there are none.
pub fn newest_news(held: &Object, received: &Object) -> Option<u64> {
    let values = received.entries().iter().map(|(dot, entry)| (*dot, entry.time));
    let last = received.last().map(|last| (last.dot, last.time));
    let news = values.chain(last).filter(|(dot, _)| !held.version().covers(*dot));
    news.map(|(_, time)| time.wall_ms()).max()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dynamo::clock::{Actor, Dot, Hlc, VersionVector};
    use crate::dynamo::key::NodeId;
    use crate::dynamo::object::Entry;
    use crate::dynamo::operation::{Opening, OperationId};

    fn write(object: &mut Object, n: u64, wall_ms: u64) {
        let dot = Dot { actor: Actor(n), n };
        let operation = OperationId {
            coordinator: NodeId(1),
            opening: Opening(1),
            client: 1,
            sequence: n,
            issued_ms: wall_ms,
        };
        let time = Hlc::default().after(wall_ms).unwrap();
        let payload = Bytes::from_static(b"x");
        let entry = Entry { payload, time, deadline_ms: None, operation, origin: dot };
        object.write(dot, &VersionVector::default(), entry);
    }

    #[test]
    fn only_what_is_new_has_an_age_and_the_newest_counts() {
        let (mut held, mut received) = (Object::default(), Object::default());
        write(&mut held, 1, 1_000);
        write(&mut received, 1, 1_000);
        assert_eq!(newest_news(&held, &received), None, "it was here before");
        write(&mut received, 2, 2_000);
        write(&mut received, 3, 3_000);
        assert_eq!(newest_news(&held, &received), Some(3_000));
        held.merge(&received);
        assert_eq!(newest_news(&held, &received), None);
        let mut deleted = received.clone();
        deleted.delete(Dot { actor: Actor(9), n: 9 }, received.version());
        assert_eq!(newest_news(&held, &deleted), None, "a delete has left no time");
    }
}
