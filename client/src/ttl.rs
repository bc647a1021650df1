//! How long values live.

use std::time::Duration;

use quorate_proto::v1::{self, ttl::Lives};

use crate::error::{Error, ErrorKind};

/// How long a value is to live, from the moment at which a node writes it. After that readers do not see
/// it. A write that replaces it has a time to live of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Ttl {
    /// As its namespace has it.
    #[default]
    Default,
    /// Until it is replaced or deleted.
    Never,
    /// So long: [`MIN`](Self::MIN) to [`MAX`](Self::MAX), in whole milliseconds.
    After(Duration),
}

impl Ttl {
    /// The shortest: a millisecond.
    pub const MIN: Duration = Duration::from_millis(1);
    /// The longest: ten years.
    pub const MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

    /// Why it is none that a node would take.
    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Self::After(ttl) if !(Self::MIN..=Self::MAX).contains(&ttl) => {
                let message = format!("a time to live is 1ms to 3650d (ten years), not {ttl:?}");
                Err(Error::new(ErrorKind::Invalid, message))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn to_wire(self) -> Option<v1::Ttl> {
        let lives = match self {
            Self::Default => return None,
            Self::Never => Lives::Never(true),
            Self::After(ttl) => {
                Lives::Milliseconds(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
            }
        };
        Some(v1::Ttl { lives: Some(lives) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_has_bounds() {
        let after = |nanos| Ttl::After(Duration::from_nanos(nanos));
        let too_long = Ttl::After(Ttl::MAX + Duration::from_nanos(1));
        for wrong in [after(0), after(999_999), too_long, Ttl::After(Duration::MAX)] {
            assert_eq!(wrong.check().unwrap_err().kind(), ErrorKind::Invalid, "{wrong:?}");
        }
        for right in [Ttl::Default, Ttl::Never, after(1_000_000), Ttl::After(Ttl::MAX)] {
            assert!(right.check().is_ok(), "{right:?}");
        }
    }

    #[test]
    fn the_default_is_left_to_the_namespace() {
        let lives = |ttl: Ttl| ttl.to_wire().map(|wire| wire.lives);
        assert_eq!(lives(Ttl::Default), None);
        assert_eq!(lives(Ttl::Never), Some(Some(Lives::Never(true))));
        let after = Ttl::After(Duration::from_micros(1_500));
        assert_eq!(lives(after), Some(Some(Lives::Milliseconds(1))));
    }
}
