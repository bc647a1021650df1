//! Which seeds a test runs: all of them by default, more, others, or the one that failed.

use std::ops::Range;

/// The seed to be run alone, with its trace: `QUORATE_SEED`.
pub fn only() -> Option<u64> {
    number("QUORATE_SEED")
}

/// The seeds of a test that has so many by default: `QUORATE_SIM_SEEDS` of them, from
/// `QUORATE_SIM_FIRST` on; or `QUORATE_SEED` alone.
pub fn seeds(by_default: u64) -> Range<u64> {
    if let Some(only) = only() {
        return only..only + 1;
    }
    let first = number("QUORATE_SIM_FIRST").unwrap_or(0);
    first..first + number("QUORATE_SIM_SEEDS").unwrap_or(by_default)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}
