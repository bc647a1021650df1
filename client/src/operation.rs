//! Names of writes, so that a retry is recognised.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use quorate_proto::v1;
use xxhash_rust::xxh3::xxh3_64;

use crate::{options::Retry, token::ParseTokenError};

/// Names one write of one client. Servers remember it for one hour.
///
/// It is all that [`Client::resolve`](crate::Client::resolve) needs to learn what became of the write.
/// As text it is one token of 83 characters: base64url of a format byte, the fields in big-endian
/// order and four bytes of checksum, so that a mistyped one is refused and does not pass for another
/// write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OperationId {
    /// The node that coordinates the write.
    pub coordinator: u64,
    /// The opening of that node's store.
    pub opening: u64,
    /// The client, chosen at random.
    pub client: u64,
    /// The client's count of writes.
    pub sequence: u64,
    /// When it was issued, by a server's clock: milliseconds since the Unix epoch.
    pub issued_ms: u64,
    /// The id of the namespace that it writes in.
    pub namespace_id: u64,
    /// The hash of its key.
    pub key_hash: u64,
    /// How it is retried: what other nodes may have run too can be found applied, and never not to be.
    pub retry: Retry,
}

impl OperationId {
    const FORMAT: u8 = 2;
    const FIELDS: usize = 7;
    const RETRY_AT: usize = 1 + 8 * Self::FIELDS;
    const CHECK_AT: usize = Self::RETRY_AT + 1;
    const LENGTH: usize = Self::CHECK_AT + 4;

    fn to_token(self) -> [u8; Self::LENGTH] {
        let Self { coordinator, opening, client, sequence, issued_ms, .. } = self;
        let Self { namespace_id, key_hash, retry, .. } = self;
        let fields = [coordinator, opening, client, sequence, issued_ms, namespace_id, key_hash];
        let mut token = [0; Self::LENGTH];
        token[0] = Self::FORMAT;
        for (place, field) in token[1..Self::RETRY_AT].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_be_bytes());
        }
        token[Self::RETRY_AT] = u8::from(retry == Retry::AtLeastOnce);
        let check = Self::check(&token[..Self::CHECK_AT]);
        token[Self::CHECK_AT..].copy_from_slice(&check);
        token
    }

    fn from_token(token: &[u8]) -> Option<Self> {
        let body = token.get(..Self::CHECK_AT)?;
        if token[Self::CHECK_AT..] != Self::check(body) || body[0] != Self::FORMAT {
            return None;
        }
        let retry = match body[Self::RETRY_AT] {
            0 => Retry::ExactlyOnce,
            1 => Retry::AtLeastOnce,
            _ => return None,
        };
        let mut fields = body[1..Self::RETRY_AT].chunks_exact(8).map(|field| {
            u64::from_be_bytes(field.try_into().expect("chunks_exact gives eight bytes"))
        });
        Some(Self {
            coordinator: fields.next()?,
            opening: fields.next()?,
            client: fields.next()?,
            sequence: fields.next()?,
            issued_ms: fields.next()?,
            namespace_id: fields.next()?,
            key_hash: fields.next()?,
            retry,
        })
    }

    fn check(body: &[u8]) -> [u8; 4] {
        (xxh3_64(body) as u32).to_be_bytes()
    }
}

impl From<OperationId> for v1::OperationId {
    fn from(id: OperationId) -> Self {
        let OperationId { coordinator, opening, client, sequence, issued_ms, .. } = id;
        Self { coordinator, opening, client, sequence, issued_ms }
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&URL_SAFE_NO_PAD.encode(self.to_token()))
    }
}

impl FromStr for OperationId {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let error = |reason| ParseTokenError { noun: "operation id", reason };
        let token = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| error("it is not base64url without padding"))?;
        Self::from_token(&token).ok_or(error("its length, format or checksum is wrong"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn operation() -> impl Strategy<Value = OperationId> {
        (any::<[u64; 7]>(), any::<bool>()).prop_map(|(fields, twice)| {
            let [coordinator, opening, client, sequence, issued_ms, ..] = fields;
            let [.., namespace_id, key_hash] = fields;
            let retry = if twice { Retry::AtLeastOnce } else { Retry::ExactlyOnce };
            OperationId {
                coordinator,
                opening,
                client,
                sequence,
                issued_ms,
                namespace_id,
                key_hash,
                retry,
            }
        })
    }

    proptest! {
        #[test]
        fn operation_ids_round_trip(id in operation()) {
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.to_string().len(), 83);
        }

        #[test]
        fn a_changed_character_is_refused(id in operation(), at in 0..83usize, with in 0..64u8) {
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let mut text = id.to_string().into_bytes();
            let with = alphabet[usize::from(with)];
            prop_assume!(text[at] != with);
            text[at] = with;
            prop_assert!(String::from_utf8(text).unwrap().parse::<OperationId>().is_err());
        }

        #[test]
        fn garbage_is_refused(text in "\\PC{0,80}") {
            prop_assert!(text.parse::<OperationId>().is_err());
        }
    }
}
