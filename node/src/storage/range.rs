//! Which keys a scan walks: two bounds, a prefix, or what follows a cursor.
//!
//! ```text
//!   prefix("ab")               ab ..  ac                 "ab" itself included
//!   prefix("a\xff")            a\xff .. b
//!   prefix("\xff")             \xff .. the end
//!   prefix("ab").after("abx")  the rest of a page that ended with "abx"
//! ```

use std::ops::{Bound, RangeBounds};

use bytes::Bytes;

/// A contiguous range of keys, in bytewise order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRange {
    start: Bound<Bytes>,
    end: Bound<Bytes>,
}

impl KeyRange {
    /// Every key.
    pub const fn all() -> Self {
        Self { start: Bound::Unbounded, end: Bound::Unbounded }
    }

    /// The keys between two bounds; as `KeyRange::new(a..b)` with two `Bytes`. Bounds that cross
    /// give the empty range.
    pub fn new(bounds: impl RangeBounds<Bytes>) -> Self {
        Self { start: bounds.start_bound().cloned(), end: bounds.end_bound().cloned() }
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        let start = Bound::Included(Bytes::copy_from_slice(prefix));
        let mut next = prefix.to_vec();
        while next.last() == Some(&0xff) {
            next.pop();
        }
        let end = match next.last_mut() {
            None => Bound::Unbounded,
            Some(last) => {
                *last += 1;
                Bound::Excluded(next.into())
            }
        };
        Self { start, end }
    }

    /// The part of this range that lies beyond `cursor`. A cursor before the range changes nothing.
    #[must_use]
    pub fn after(self, cursor: impl Into<Bytes>) -> Self {
        let cursor = cursor.into();
        let narrows = match &self.start {
            Bound::Unbounded => true,
            Bound::Included(start) | Bound::Excluded(start) => cursor >= *start,
        };
        let start = if narrows { Bound::Excluded(cursor) } else { self.start };
        Self { start, end: self.end }
    }

    /// Whether no key can be in it.
    pub fn is_empty(&self) -> bool {
        match (&self.start, &self.end) {
            (Bound::Unbounded, Bound::Excluded(end)) => end.is_empty(),
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (
                Bound::Included(start) | Bound::Excluded(start),
                Bound::Included(end) | Bound::Excluded(end),
            ) => start >= end,
        }
    }

    /// The bounds, for engines.
    pub(super) fn into_bounds(self) -> (Bound<Bytes>, Bound<Bytes>) {
        (self.start, self.end)
    }
}

impl RangeBounds<Bytes> for KeyRange {
    fn start_bound(&self) -> Bound<&Bytes> {
        self.start.as_ref()
    }

    fn end_bound(&self) -> Bound<&Bytes> {
        self.end.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn short() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(vec![0u8, 1, 0xfe, 0xff]), 0..4)
    }

    fn bound() -> impl Strategy<Value = Bound<Bytes>> {
        (0..3, short()).prop_map(|(kind, key)| match kind {
            0 => Bound::Unbounded,
            1 => Bound::Included(key.into()),
            _ => Bound::Excluded(key.into()),
        })
    }

    proptest! {
        #[test]
        fn a_prefix_range_holds_what_begins_with_it(prefix in short(), key in short()) {
            let range = KeyRange::prefix(&prefix);
            prop_assert_eq!(range.contains(&Bytes::from(key.clone())), key.starts_with(&prefix));
        }

        #[test]
        fn a_cursor_cuts_off_what_is_not_beyond_it(
            prefix in short(), cursor in short(), key in short()
        ) {
            let (cursor, key) = (Bytes::from(cursor), Bytes::from(key));
            let range = KeyRange::prefix(&prefix);
            let expected = range.contains(&key) && key > cursor;
            prop_assert_eq!(range.after(cursor).contains(&key), expected);
        }

        #[test]
        fn an_empty_range_contains_nothing(start in bound(), end in bound(), key in short()) {
            let range = KeyRange::new((start, end));
            prop_assert!(!(range.is_empty() && range.contains(&Bytes::from(key))));
        }
    }

    #[test]
    fn bounds_that_cross_give_the_empty_range() {
        let key = |k: &'static str| Bytes::from(k);
        assert!(KeyRange::new(key("b")..key("a")).is_empty());
        assert!(KeyRange::new(key("a")..key("a")).is_empty());
        assert!(!KeyRange::new(key("a")..=key("a")).is_empty());
        assert!(KeyRange::prefix(b"a").after("b").is_empty());
        assert!(!KeyRange::all().is_empty());
    }
}
