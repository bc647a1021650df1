//! How long values live, and when one that expired may be purged.
//!
//! A *deadline* is wall time. The coordinator of a write sets it once, as its clock plus the time to
//! live, and it travels in the value's entry: nothing that copies a value reckons it anew. To change it
//! is to write: a new dot, the same payload.
//!
//! ```text
//!   hidden     by each reader, once its own clock shows the deadline; what is stored stays
//!   purged     by each owner, once a majority of owners reported clocks past deadline + skew bound
//!
//!   owners' clocks 105 103 90, bound 2:   the second highest decides: up to 103 - 2 = 101
//! ```
//!
//! *Why a majority:* one fast clock would purge for all, since a purged value is covered by the version
//! that stays, and vanishes wherever that is merged. *Why a new dot:* were a deadline edited in place,
//! one owner would purge what another had persisted, for the same reason. *Why the bound:* a node whose
//! clock is right shows nothing any more by then.

use thiserror::Error;

/// The longest time to live: ten years.
pub const TTL_MAX_MS: u64 = 10 * 365 * 24 * 3600 * 1000;

/// A time to live, from a millisecond to [`TTL_MAX_MS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TtlMs(u64);

/// No time to live. Nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a time to live is 1 to {TTL_MAX_MS} milliseconds (ten years), not {0}")]
pub struct TtlError(pub u64);

impl TtlMs {
    /// A time to live of so many milliseconds.
    pub fn new(ms: u64) -> Result<Self, TtlError> {
        if (1..=TTL_MAX_MS).contains(&ms) { Ok(Self(ms)) } else { Err(TtlError(ms)) }
    }

    /// In milliseconds.
    pub fn get(self) -> u64 {
        self.0
    }

    /// When what is written now expires.
    pub fn deadline_ms(self, now_ms: u64) -> u64 {
        now_ms.saturating_add(self.0)
    }
}

/// How long a value is to live, as it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Ttl {
    /// As its namespace has it.
    #[default]
    Default,
    /// Until it is replaced.
    Never,
    /// So long.
    After(TtlMs),
}

impl Ttl {
    /// How long that is in a namespace with this default; none: until it is replaced.
    pub fn or(self, default: Option<TtlMs>) -> Option<TtlMs> {
        match self {
            Self::Default => default,
            Self::Never => None,
            Self::After(ttl) => Some(ttl),
        }
    }
}

/// Up to which deadline expired values may be purged, where a partition has so many owners and these
/// clocks were reported, each of another owner. None: up to none.
pub fn purged_until_ms(
    reported_ms: impl IntoIterator<Item = u64>,
    owners: usize,
    skew_max_ms: u64,
) -> Option<u64> {
    let mut reported_ms: Vec<u64> = reported_ms.into_iter().collect();
    assert!(reported_ms.len() <= owners, "each owner reports one clock");
    reported_ms.sort_unstable_by_key(|&ms| std::cmp::Reverse(ms));
    // So many owners, this one counted, show as much.
    let at = if planted!("purged_by_one_clock") { 0 } else { owners / 2 };
    reported_ms.get(at)?.checked_sub(skew_max_ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_to_live_has_bounds() {
        for ms in [0, TTL_MAX_MS + 1, u64::MAX] {
            assert_eq!(TtlMs::new(ms), Err(TtlError(ms)));
        }
        for ms in [1, TTL_MAX_MS] {
            let ttl = TtlMs::new(ms).unwrap();
            assert_eq!((ttl.get(), ttl.deadline_ms(5)), (ms, ms + 5));
            assert_eq!(ttl.deadline_ms(u64::MAX), u64::MAX);
        }
    }

    #[test]
    fn what_is_asked_for_comes_before_the_namespaces_default() {
        let [five, seven] = [5, 7].map(|ms| TtlMs::new(ms).ok());
        assert_eq!((Ttl::Default.or(five), Ttl::Default.or(None)), (five, None));
        assert_eq!((Ttl::Never.or(five), Ttl::After(seven.unwrap()).or(five)), (None, seven));
    }

    #[test]
    fn one_fast_clock_purges_nothing_and_one_that_is_silent_does_not_matter() {
        assert_eq!(purged_until_ms([103, 105, 90], 3, 2), Some(101));
        assert_eq!(purged_until_ms([1_000_000, 90, 91], 3, 2), Some(89));
        assert_eq!(purged_until_ms([105, 103], 3, 2), Some(101));
        assert_eq!(purged_until_ms([105], 3, 2), None);
        assert_eq!(purged_until_ms([105], 1, 2), Some(103));
        assert_eq!(purged_until_ms([105], 2, 2), None, "half is no majority");
        assert_eq!(purged_until_ms([1], 1, 2), None);
    }

    proptest! {
        /// The twin counts the owners to whose clocks each deadline is past.
        #[test]
        fn a_majority_of_owners_decides(
            clocks in prop::collection::vec(0..60u64, 0..8), silent in 0..4usize, skew in 0..10u64
        ) {
            let owners = clocks.len() + silent;
            let until = purged_until_ms(clocks.iter().copied(), owners, skew);
            for deadline in 0..80 {
                let past = clocks.iter().filter(|&&clock| deadline + skew <= clock).count();
                let due = 2 * past > owners;
                prop_assert_eq!(until.is_some_and(|until| deadline <= until), due, "{}", deadline);
            }
        }
    }
}
