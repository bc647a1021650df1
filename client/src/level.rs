//! How much a request asks for: how many replicas, and how safely stored.

use std::{fmt, str::FromStr};

use quorate_proto::v1;
use thiserror::Error;

/// How many replicas must take part in a read or a write.
///
/// With strict quorums, a read sees every write acknowledged before it if together they ask for
/// more than the namespace's `n`: `quorum` and `quorum`, or `one` and `all`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Level {
    /// The namespace's own level.
    #[default]
    Default,
    /// One replica.
    One,
    /// More than half of them.
    Quorum,
    /// Every replica.
    All,
    /// Exactly so many, 1..=n.
    Count(u32),
}

/// When a replica may acknowledge a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Durability {
    /// The namespace's own.
    #[default]
    Default,
    /// Handed to the operating system: survives the end of the process.
    Buffered,
    /// On disk: survives a power cut.
    Synced,
}

/// Whether a node that is no owner of a key may stand in for an owner that cannot be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Quorum {
    /// The namespace's own.
    #[default]
    Default,
    /// Owners alone count. With `r + w > n` a read sees every write acknowledged before it.
    Strict,
    /// A fallback counts in an owner's place, keeps the write for it, and sends it home as soon as
    /// that one is back. Writes go on while owners are away; a read may miss what fallbacks keep.
    Sloppy,
}

/// A word that names no level, durability or quorum.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{word:?} is no {noun}; use {choices}")]
pub struct ParseLevelError {
    word: String,
    noun: &'static str,
    choices: &'static str,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.pad("default"),
            Self::One => f.pad("one"),
            Self::Quorum => f.pad("quorum"),
            Self::All => f.pad("all"),
            Self::Count(count) => fmt::Display::fmt(count, f),
        }
    }
}

impl FromStr for Level {
    type Err = ParseLevelError;

    fn from_str(word: &str) -> Result<Self, ParseLevelError> {
        match (word, word.parse()) {
            ("default", _) => Ok(Self::Default),
            ("one", _) => Ok(Self::One),
            ("quorum", _) => Ok(Self::Quorum),
            ("all", _) => Ok(Self::All),
            (_, Ok(count @ 1..)) => Ok(Self::Count(count)),
            _ => Err(ParseLevelError {
                word: word.to_owned(),
                noun: "level",
                choices: "one, quorum, all or a number from 1",
            }),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::Buffered => "buffered",
            Self::Synced => "synced",
        })
    }
}

impl FromStr for Durability {
    type Err = ParseLevelError;

    fn from_str(word: &str) -> Result<Self, ParseLevelError> {
        match word {
            "default" => Ok(Self::Default),
            "buffered" => Ok(Self::Buffered),
            "synced" => Ok(Self::Synced),
            _ => Err(ParseLevelError {
                word: word.to_owned(),
                noun: "durability",
                choices: "buffered or synced",
            }),
        }
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::Strict => "strict",
            Self::Sloppy => "sloppy",
        })
    }
}

impl FromStr for Quorum {
    type Err = ParseLevelError;

    fn from_str(word: &str) -> Result<Self, ParseLevelError> {
        match word {
            "default" => Ok(Self::Default),
            "strict" => Ok(Self::Strict),
            "sloppy" => Ok(Self::Sloppy),
            _ => Err(ParseLevelError {
                word: word.to_owned(),
                noun: "quorum",
                choices: "strict or sloppy",
            }),
        }
    }
}

impl Level {
    /// As the protocol says it; the default is left unset.
    pub(crate) fn to_wire(self) -> Option<v1::Level> {
        use v1::level::Kind;
        let (kind, count) = match self {
            Self::Default => return None,
            Self::One => (Kind::One, 0),
            Self::Quorum => (Kind::Quorum, 0),
            Self::All => (Kind::All, 0),
            Self::Count(count) => (Kind::Count, count),
        };
        Some(v1::Level { kind: kind.into(), count })
    }

    pub(crate) fn from_wire(level: Option<v1::Level>) -> Self {
        use v1::level::Kind;
        let Some(level) = level else { return Self::Default };
        match level.kind() {
            Kind::Default => Self::Default,
            Kind::One => Self::One,
            Kind::Quorum => Self::Quorum,
            Kind::All => Self::All,
            Kind::Count => Self::Count(level.count),
        }
    }
}

impl Durability {
    pub(crate) fn to_wire(self) -> i32 {
        match self {
            Self::Default => v1::Durability::Default,
            Self::Buffered => v1::Durability::Buffered,
            Self::Synced => v1::Durability::Synced,
        }
        .into()
    }

    pub(crate) fn from_wire(durability: v1::Durability) -> Self {
        match durability {
            v1::Durability::Default => Self::Default,
            v1::Durability::Buffered => Self::Buffered,
            v1::Durability::Synced => Self::Synced,
        }
    }
}

impl Quorum {
    pub(crate) fn to_wire(self) -> i32 {
        match self {
            Self::Default => v1::Quorum::Default,
            Self::Strict => v1::Quorum::Strict,
            Self::Sloppy => v1::Quorum::Sloppy,
        }
        .into()
    }

    pub(crate) fn from_wire(quorum: v1::Quorum) -> Self {
        match quorum {
            v1::Quorum::Default => Self::Default,
            v1::Quorum::Strict => Self::Strict,
            v1::Quorum::Sloppy => Self::Sloppy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_round_trip_as_words_and_on_the_wire() {
        let levels = [Level::Default, Level::One, Level::Quorum, Level::All, Level::Count(2)];
        for level in levels {
            assert_eq!(level.to_string().parse(), Ok(level));
            assert_eq!(Level::from_wire(level.to_wire()), level);
        }
        for bad in ["", "0", "-1", "two", "4294967296"] {
            assert!(bad.parse::<Level>().is_err(), "{bad}");
        }
        let error = "many".parse::<Level>().unwrap_err();
        let said = "\"many\" is no level; use one, quorum, all or a number from 1";
        assert_eq!(error.to_string(), said);
    }

    #[test]
    fn durabilities_round_trip() {
        for durability in [Durability::Default, Durability::Buffered, Durability::Synced] {
            assert_eq!(durability.to_string().parse(), Ok(durability));
            let wire = v1::Durability::try_from(durability.to_wire()).unwrap();
            assert_eq!(Durability::from_wire(wire), durability);
        }
        assert!("disk".parse::<Durability>().is_err());
    }

    #[test]
    fn quorums_round_trip() {
        for quorum in [Quorum::Default, Quorum::Strict, Quorum::Sloppy] {
            assert_eq!(quorum.to_string().parse(), Ok(quorum));
            let wire = v1::Quorum::try_from(quorum.to_wire()).unwrap();
            assert_eq!(Quorum::from_wire(wire), quorum);
        }
        let said = "\"loose\" is no quorum; use strict or sloppy";
        assert_eq!("loose".parse::<Quorum>().unwrap_err().to_string(), said);
    }
}
