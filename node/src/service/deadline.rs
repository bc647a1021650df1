//! How long a client's request may take.
//!
//! A client says so in the request, or as gRPC's own header `grpc-timeout`, or not at all; the shorter
//! of the two counts, and none may be longer than the node allows: what runs without end holds its
//! place without end.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// gRPC's header: up to eight digits and a unit (gRPC over HTTP/2, "Timeout").
const HEADER: &str = "grpc-timeout";

/// How long requests may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// One that does not say.
    pub default: Duration,
    /// Any.
    pub longest: Duration,
}

impl Timeouts {
    /// How long a request may take that says `timeout_ms` (0: nothing) and came with `metadata`.
    pub fn of(&self, timeout_ms: u32, metadata: &MetadataMap) -> Duration {
        let asked = match timeout_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms.into())),
        };
        let header = metadata.get(HEADER).and_then(|value| parse(value.to_str().ok()?));
        let shorter = match (asked, header) {
            (Some(asked), Some(header)) => Some(asked.min(header)),
            (asked, header) => asked.or(header),
        };
        shorter.unwrap_or(self.default).min(self.longest)
    }
}

/// The header's value; none if it makes no sense, as if it were not there.
fn parse(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUTS: Timeouts =
        Timeouts { default: Duration::from_secs(5), longest: Duration::from_secs(60) };

    fn header(value: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(HEADER, value.parse().unwrap());
        metadata
    }

    #[test]
    fn the_shorter_counts_and_none_is_longer_than_allowed() {
        let ms = Duration::from_millis;
        let none = MetadataMap::new();
        assert_eq!(TIMEOUTS.of(0, &none), ms(5000));
        assert_eq!(TIMEOUTS.of(300, &none), ms(300));
        assert_eq!(TIMEOUTS.of(300, &header("200m")), ms(200));
        assert_eq!(TIMEOUTS.of(300, &header("2S")), ms(300));
        assert_eq!(TIMEOUTS.of(0, &header("2S")), ms(2000));
        assert_eq!(TIMEOUTS.of(0, &header("99999999H")), ms(60_000));
        assert_eq!(TIMEOUTS.of(u32::MAX, &none), ms(60_000));
        assert_eq!(TIMEOUTS.of(0, &header("soon")), ms(5000));
    }

    proptest! {
        #[test]
        fn any_header_gives_a_timeout_in_bounds(value in "[ -~]{0,12}") {
            prop_assert!(TIMEOUTS.of(0, &header(&value)) <= TIMEOUTS.longest);
        }

        #[test]
        fn any_text_parses_or_does_not(value in "\\PC{0,12}") {
            let _ = parse(&value);
        }
    }
}
