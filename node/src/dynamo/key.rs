//! Where a key lives: namespace, key, hash, partition.
//!
//! The top bits of a fixed 64-bit hash of (namespace id, key) choose one of Q = 2^k equal
//! partitions (Dynamo, SOSP 2007, section 6.2, strategy 3). A `{tag}` in the key is hashed alone,
//! so that related keys share a partition:
//!
//! ```text
//!   key                hashed bytes     partition (Q = 256)
//!   cart:17            cart:17          hash >> 56
//!   {user:9}:profile   user:9           the same as ...
//!   {user:9}:orders    user:9           ... this one
//! ```
//!
//! The hash is part of the protocol: nodes and clients of every version must agree on it, which
//! the golden vectors in `proto/golden/key_hash.txt` pin for both.

use std::fmt;

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The longest key, in bytes; long enough for any path or URL, short enough to sit in an index.
pub const KEY_MAX_BYTES: usize = 4096;

/// Identifies a namespace for ever: ids are never reused, also after a drop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NamespaceId(pub u64);

/// A node's identity, derived from its name, so that it outlives the node's disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The id of the node called `name`.
    pub fn of_name(name: &str) -> Self {
        const NODE_NAME_SEED: u64 = 0x716e_6f64_6500_0001;
        Self(xxh3_64_with_seed(name.as_bytes(), NODE_NAME_SEED))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key's bytes: 1..=[`KEY_MAX_BYTES`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

/// Why bytes are no key. Nothing was read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum KeyError {
    /// The key has no bytes.
    #[error("the key is empty; a key has 1 to {KEY_MAX_BYTES} bytes")]
    Empty,
    /// The key has too many bytes.
    #[error("the key has {length} bytes; a key has 1 to {KEY_MAX_BYTES}")]
    TooLong {
        /// The refused key's length in bytes.
        length: usize,
    },
}

impl Key {
    /// Takes 1..=[`KEY_MAX_BYTES`] bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, KeyError> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(KeyError::Empty),
            length if length > KEY_MAX_BYTES => Err(KeyError::TooLong { length }),
            _ => Ok(Self(bytes)),
        }
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key's bytes, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The hash that chooses the key's partition.
    pub fn hash(&self, namespace: NamespaceId) -> KeyHash {
        KeyHash(xxh3_64_with_seed(hashed_part(&self.0), namespace.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// The tag between the first `{` and the next `}`, if it is not empty; else the whole key.
fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else { return key };
    let tail = &key[open + 1..];
    match tail.iter().position(|&b| b == b'}') {
        None | Some(0) => key,
        Some(close) => &tail[..close],
    }
}

/// The 64-bit hash of a namespace id and a key (or its tag): xxh3, seeded with the namespace id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// The partition that holds this hash.
    pub fn partition(self, partitions: PartitionCount) -> PartitionId {
        PartitionId((self.0 >> (64 - partitions.bits())) as u16)
    }
}

/// One of the Q equal slices of the hash space, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartitionId(pub u16);

/// Q, the number of partitions: a power of two in 8..=16384, fixed when a cluster is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionCount(u16);

/// Q is no power of two, or out of range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{0} partitions: the number must be a power of two in 8..=16384")]
pub struct PartitionCountError(pub u64);

impl PartitionCount {
    /// Takes a power of two in 8..=16384.
    pub fn new(count: u64) -> Result<Self, PartitionCountError> {
        match u16::try_from(count) {
            Ok(q) if q.is_power_of_two() && (8..=16384).contains(&q) => Ok(Self(q)),
            _ => Err(PartitionCountError(count)),
        }
    }

    /// Q.
    pub fn get(self) -> u16 {
        self.0
    }

    /// Every partition, ascending.
    pub fn iter(self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.0).map(PartitionId)
    }

    fn bits(self) -> u32 {
        self.0.trailing_zeros()
    }
}

impl Default for PartitionCount {
    /// 256: fine enough to balance a few dozen nodes, coarse enough to exchange trees cheaply.
    fn default() -> Self {
        Self(256)
    }
}

/// One hosted partition: the partition and its placement group, which is one value of N.
///
/// N belongs to a namespace, so namespaces of different N never share a vnode: two of five nodes
/// would otherwise wait for ever for dots that only three of them get.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VnodeId {
    /// The placement group: how many owners the partition has.
    pub n: u8,
    /// The partition.
    pub partition: PartitionId,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../../proto/golden/key_hash.txt");

    #[test]
    fn hashes_match_the_golden_vectors() {
        let mut vectors = 0;
        for line in GOLDEN.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            let mut fields = line.split(' ');
            let namespace = fields.next().unwrap().parse().unwrap();
            let hash = u64::from_str_radix(fields.next().unwrap(), 16).unwrap();
            let key = Key::new(fields.next().unwrap().to_owned()).unwrap();
            assert_eq!(key.hash(NamespaceId(namespace)), KeyHash(hash), "{line}");
            vectors += 1;
        }
        assert!(vectors >= 8);
    }

    #[test]
    fn node_ids_match_their_golden_vector() {
        assert_eq!(NodeId::of_name("node-1").to_string(), "f893709cf26edbfb");
    }

    #[test]
    fn only_a_nonempty_tag_is_hashed_alone() {
        let cases = [("a{b}c", "b"), ("{b}", "b"), ("a{}c", "a{}c"), ("a{b", "a{b"), ("}{x}", "x")];
        for (key, part) in cases {
            assert_eq!(hashed_part(key.as_bytes()), part.as_bytes(), "{key}");
        }
        assert_eq!(hashed_part(b"{{a}}"), b"{a");
    }

    #[test]
    fn a_key_has_1_to_4096_bytes() {
        assert_eq!(Key::new(""), Err(KeyError::Empty));
        assert!(Key::new(vec![0; KEY_MAX_BYTES]).is_ok());
        assert_eq!(Key::new(vec![0; 4097]), Err(KeyError::TooLong { length: 4097 }));
    }

    #[test]
    fn partitions_are_the_top_bits() {
        let q = PartitionCount::new(256).unwrap();
        assert_eq!(KeyHash(0).partition(q), PartitionId(0));
        assert_eq!(KeyHash(u64::MAX).partition(q), PartitionId(255));
        assert_eq!(KeyHash(1 << 56).partition(q), PartitionId(1));
        for bad in [0, 4, 100, 32768] {
            assert_eq!(PartitionCount::new(bad), Err(PartitionCountError(bad)));
        }
    }
}
