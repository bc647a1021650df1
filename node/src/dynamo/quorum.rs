//! How many replicas a request waits for.
//!
//! A caller asks for a *level*; with the namespace's N it becomes a number (Dynamo, SOSP 2007,
//! section 4.5). Reads see the latest acknowledged write when R + W > N:
//!
//! ```text
//!   level     n=1  n=2  n=3  n=5
//!   one         1    1    1    1
//!   quorum      1    2    2    3     more than half
//!   all         1    2    3    5
//!   2       error    2    2    2     a plain number stands for itself
//! ```

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// How many of a key's N owners a read or write waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Level {
    /// The fastest owner.
    One,
    /// More than half of the owners.
    #[default]
    Quorum,
    /// Every owner.
    All,
    /// This many owners.
    Count(u8),
}

/// A level asks for fewer than one or more than N owners. Nothing was read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("level {k} with n = {n}: a level is one, quorum, all or a number from 1 to n")]
pub struct LevelError {
    /// How many owners were asked for.
    pub k: u8,
    /// How many owners there are.
    pub n: u8,
}

/// Text that names no level.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{0:?} is no level: use one, quorum, all or a number from 1 to 255")]
pub struct LevelParseError(pub String);

impl Level {
    /// How many of `n` owners this is.
    pub fn resolve(self, n: u8) -> Result<u8, LevelError> {
        let k = match self {
            Self::One => 1,
            Self::Quorum => n / 2 + 1,
            Self::All => n,
            Self::Count(k) => k,
        };
        if (1..=n).contains(&k) { Ok(k) } else { Err(LevelError { k, n }) }
    }
}

impl FromStr for Level {
    type Err = LevelParseError;

    fn from_str(text: &str) -> Result<Self, LevelParseError> {
        match (text, text.parse()) {
            ("one", _) => Ok(Self::One),
            ("quorum", _) => Ok(Self::Quorum),
            ("all", _) => Ok(Self::All),
            (_, Ok(k)) if k > 0 => Ok(Self::Count(k)),
            _ => Err(LevelParseError(text.to_owned())),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One => f.write_str("one"),
            Self::Quorum => f.write_str("quorum"),
            Self::All => f.write_str("all"),
            Self::Count(k) => k.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_resolve_as_in_the_table() {
        let error = |k, n| Err(LevelError { k, n });
        let cases = [
            (Level::One, [Ok(1), Ok(1), Ok(1), Ok(1)]),
            (Level::Quorum, [Ok(1), Ok(2), Ok(2), Ok(3)]),
            (Level::All, [Ok(1), Ok(2), Ok(3), Ok(5)]),
            (Level::Count(2), [error(2, 1), Ok(2), Ok(2), Ok(2)]),
            (Level::Count(0), [error(0, 1), error(0, 2), error(0, 3), error(0, 5)]),
        ];
        for (level, expected) in cases {
            assert_eq!([1, 2, 3, 5].map(|n| level.resolve(n)), expected, "{level}");
        }
    }

    #[test]
    fn two_quorums_of_one_n_always_meet() {
        for n in 1..=u8::MAX {
            let quorum = u16::from(Level::Quorum.resolve(n).unwrap());
            assert!(2 * quorum > n.into() && 2 * (quorum - 1) <= n.into(), "n = {n}");
        }
    }

    #[test]
    fn levels_parse_as_they_print() {
        for level in [Level::One, Level::Quorum, Level::All, Level::Count(1), Level::Count(255)] {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        for bad in ["", "0", "256", "-1", "Quorum", "two", "1 "] {
            assert_eq!(bad.parse::<Level>(), Err(LevelParseError(bad.to_owned())));
        }
    }

    #[test]
    fn the_error_names_both_numbers() {
        let error = Level::Count(4).resolve(3).unwrap_err();
        assert!(error.to_string().starts_with("level 4 with n = 3"), "{error}");
    }
}
