//! Context tokens: what a client was shown of a key, to be sent with the write that replaces it.
//!
//! A token covers only what its holder was shown, or what was superseded before. So a write answers
//! with a token only if its entry is the only live one: of two blind writers the second one's
//! token would otherwise cover the first one's value, which nobody ever read.
//!
//! Dots are numbered per partition, so a token of another key would look plausible and silently
//! cover values nobody saw. Therefore a token is bound to its namespace and key by a MAC (keyed
//! blake3 under the cluster's key, 16 bytes), and anything else is refused.

use bytes::Bytes;
use thiserror::Error;

use super::clock::{Hlc, VersionVector};
use super::encoding::{Reader, Writer};
use super::format::{read_version, write_version};
use super::key::{KeyHash, NamespaceId};
use super::metadata::document::ClusterKey;
use super::object::Object;
use super::operation::OperationId;

const TOKEN_FORMAT: u8 = 1;
const MAC_BYTES: usize = 16;

/// What a read or write showed of a key.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Context {
    /// The version vector of the object shown.
    pub version: VersionVector,
    /// The newest time in it.
    pub time: Hlc,
}

/// The bytes are no context of this key in this cluster. Nothing was read or written; read the key
/// and use the context that comes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ContextError {
    /// It does not decode.
    #[error("the context is malformed; use one that a read of this key answered")]
    Malformed,
    /// It was made for another key, namespace or cluster, or was altered.
    #[error("the context belongs to another key, namespace or cluster; read this key first")]
    Foreign,
}

/// What a token is bound to.
#[derive(Clone, Copy, Debug)]
pub struct ContextBinding<'a> {
    /// The cluster's key.
    pub key: &'a ClusterKey,
    /// The namespace.
    pub namespace: NamespaceId,
    /// The key's hash.
    pub hash: KeyHash,
}

impl Context {
    /// What reading `object` shows: all of it.
    pub fn of_read(object: &Object) -> Self {
        Self { version: object.version().clone(), time: object.time() }
    }

    /// What the write `operation` may claim to have shown: its own value, if every live entry is
    /// its own; if none is left, that there is none. What has expired `now` is not live.
    pub fn of_write(object: &Object, operation: &OperationId, now_ms: u64) -> Option<Self> {
        planted!("token_covers_a_sibling_never_shown", { return Some(Self::of_read(object)) });
        let mut live = object.entries().iter().filter(|(_, entry)| !entry.is_expired(now_ms));
        let own = live.all(|(_, entry)| entry.operation == *operation);
        (own && object.siblings_at(now_ms).len() <= 1).then(|| Self::of_read(object))
    }

    /// The token to hand out.
    pub fn seal(&self, binding: ContextBinding<'_>) -> Bytes {
        let mut w = Writer::with_capacity(10 + 18 * self.version.len() + MAC_BYTES);
        w.u8(TOKEN_FORMAT);
        w.u64(self.time.0);
        write_version(&mut w, &self.version);
        let mac = binding.mac(w.as_slice());
        w.raw(&mac);
        w.finish()
    }

    /// Opens a token; only one sealed under the same binding will do.
    pub fn open(token: &Bytes, binding: ContextBinding<'_>) -> Result<Self, ContextError> {
        let body = token.len().checked_sub(MAC_BYTES).ok_or(ContextError::Malformed)?;
        let mut r = Reader::new(token.slice(..body));
        let context = read_context(&mut r).ok_or(ContextError::Malformed)?;
        // blake3's hash compares in constant time; a slice of it must not fall back to memcmp.
        let differ =
            binding.mac(&token[..body]).iter().zip(&token[body..]).fold(0, |d, (x, y)| d | (x ^ y));
        if differ == 0 { Ok(context) } else { Err(ContextError::Foreign) }
    }
}

fn read_context(r: &mut Reader) -> Option<Context> {
    r.format(TOKEN_FORMAT, "context format").ok()?;
    let time = Hlc(r.u64("context time").ok()?);
    let version = read_version(r, "context version").ok()?;
    (r.remaining() == 0).then_some(Context { version, time })
}

impl ContextBinding<'_> {
    fn mac(&self, body: &[u8]) -> [u8; MAC_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key.0);
        hasher.update(b"context");
        hasher.update(&self.namespace.0.to_le_bytes());
        hasher.update(&self.hash.0.to_le_bytes());
        hasher.update(body);
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&hasher.finalize().as_bytes()[..MAC_BYTES]);
        mac
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dynamo::clock::{Actor, Dot};

    const KEY: ClusterKey = ClusterKey([7; 32]);

    fn binding(namespace: u64, hash: u64) -> ContextBinding<'static> {
        ContextBinding { key: &KEY, namespace: NamespaceId(namespace), hash: KeyHash(hash) }
    }

    fn context() -> Context {
        let dots = [(1, 4), (9, 2)].map(|(actor, n)| Dot { actor: Actor(actor), n });
        Context { version: dots.into_iter().collect(), time: Hlc::from_ms(77) }
    }

    #[test]
    fn a_token_opens_for_its_own_key_alone() {
        let token = context().seal(binding(1, 2));
        assert_eq!(Context::open(&token, binding(1, 2)), Ok(context()));
        for (namespace, hash) in [(2, 2), (1, 3)] {
            let other = Context::open(&token, binding(namespace, hash));
            assert_eq!(other, Err(ContextError::Foreign));
        }
        let other = ContextBinding { key: &ClusterKey([8; 32]), ..binding(1, 2) };
        assert_eq!(Context::open(&token, other), Err(ContextError::Foreign));
    }

    proptest! {
        #[test]
        fn garbage_and_altered_tokens_are_refused(
            garbage in prop::collection::vec(any::<u8>(), 0..80), at in 0..60usize, bit in 0..8u8
        ) {
            prop_assert!(Context::open(&garbage.into(), binding(1, 2)).is_err());
            let mut altered = context().seal(binding(1, 2)).to_vec();
            let at = at % altered.len();
            altered[at] ^= 1 << bit;
            prop_assert!(Context::open(&altered.into(), binding(1, 2)).is_err());
        }
    }
}
