//! Tokens that servers make and clients only carry: contexts and cursors.
//!
//! Their bytes mean nothing to a client; the server authenticates a context, so a changed one is
//! refused there. As text both are base64url without padding, which survives shells and URLs.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use thiserror::Error;

/// Text that is no token.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("this is no {noun}: {reason}; copy it whole, as it was printed")]
pub struct ParseTokenError {
    pub(crate) noun: &'static str,
    pub(crate) reason: &'static str,
}

macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $name(Bytes);

        impl $name {
            /// Takes the bytes that a server sent; `None` if there are none.
            pub fn from_bytes(bytes: impl Into<Bytes>) -> Option<Self> {
                let bytes = bytes.into();
                (!bytes.is_empty()).then_some(Self(bytes))
            }

            /// The bytes, as the server sent them.
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }

            pub(crate) fn to_bytes(&self) -> Bytes {
                self.0.clone()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&URL_SAFE_NO_PAD.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseTokenError;

            fn from_str(text: &str) -> Result<Self, ParseTokenError> {
                let error = |reason| ParseTokenError { noun: $noun, reason };
                let bytes = URL_SAFE_NO_PAD
                    .decode(text)
                    .map_err(|_| error("it is not base64url without padding"))?;
                Self::from_bytes(bytes).ok_or(error("it is empty"))
            }
        }
    };
}

token! {
    /// Which values of a key its holder has seen: a write sent with it replaces exactly those.
    ///
    /// Bound to one key of one namespace of one cluster.
    Context, "context"
}

token! {
    /// Where a scan stopped, so that a later one of the same namespace goes on from there.
    Cursor, "cursor"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_round_trip(bytes in prop::collection::vec(any::<u8>(), 1..100)) {
            let context = Context::from_bytes(bytes.clone()).unwrap();
            prop_assert_eq!(context.to_string().parse(), Ok(context));
            let cursor = Cursor::from_bytes(bytes).unwrap();
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn garbage_is_refused(text in "[A-Za-z0-9_-]{0,20}[^A-Za-z0-9_-][A-Za-z0-9_-]{0,20}") {
            prop_assert!(text.parse::<Context>().is_err());
            prop_assert!(text.parse::<Cursor>().is_err());
        }
    }

    #[test]
    fn an_empty_token_is_none() {
        assert_eq!(Context::from_bytes(Bytes::new()), None);
        let error = "".parse::<Context>().unwrap_err();
        let said = "this is no context: it is empty; copy it whole, as it was printed";
        assert_eq!(error.to_string(), said);
        assert!("A".parse::<Cursor>().is_err(), "half a byte");
    }
}
