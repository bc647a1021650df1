//! Which keys of a file were there before, and in which line.
//!
//! Keys are remembered by a 64-bit hash: 17 bytes each, however long they are. Two of 14 million
//! keys share a hash with a probability of 5 in a million, and then all that happens is a wrong
//! note on stderr.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::xxh3_64;

/// How many keys are remembered: what a hash table of 2^24 places (285 MB) holds before it would
/// double.
pub(super) const KEYS_MAX: usize = (1 << 24) / 8 * 7;

/// Takes the hash that the key already is.
#[derive(Default)]
struct KeptHash(u64);

impl Hasher for KeptHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// What is known of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// Never before.
    First,
    /// In this line.
    In(u64),
    /// Never among the first [`KEYS_MAX`] keys; this one is not remembered.
    Forgotten,
}

/// The lines of the keys seen so far.
pub(super) struct SeenKeys {
    lines: HashMap<u64, u64, BuildHasherDefault<KeptHash>>,
    keys_max: usize,
}

impl SeenKeys {
    pub(super) fn new(keys_max: usize) -> Self {
        Self { lines: HashMap::default(), keys_max }
    }

    /// Where `key` was first, and remembers it if this is the first time.
    pub(super) fn see(&mut self, key: &[u8], line: u64) -> Seen {
        let full = self.lines.len() >= self.keys_max;
        match self.lines.entry(xxh3_64(key)) {
            Entry::Occupied(first) => Seen::In(*first.get()),
            Entry::Vacant(_) if full => Seen::Forgotten,
            Entry::Vacant(place) => {
                place.insert(line);
                Seen::First
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_map_of_whole_keys(keys in prop::collection::vec("[a-c]{1,2}", 0..40)) {
            let mut seen = SeenKeys::new(KEYS_MAX);
            let mut naive: BTreeMap<&str, u64> = BTreeMap::new();
            for (key, line) in keys.iter().zip(1..) {
                let expected = naive.get(&**key).map_or(Seen::First, |&first| Seen::In(first));
                prop_assert_eq!(seen.see(key.as_bytes(), line), expected);
                naive.entry(key).or_insert(line);
            }
        }
    }

    #[test]
    fn past_the_cap_only_old_keys_are_recognised() {
        let mut seen = SeenKeys::new(2);
        assert_eq!(seen.see(b"a", 1), Seen::First);
        assert_eq!(seen.see(b"b", 2), Seen::First);
        assert_eq!(seen.see(b"c", 3), Seen::Forgotten);
        assert_eq!(seen.see(b"c", 4), Seen::Forgotten);
        assert_eq!(seen.see(b"a", 5), Seen::In(1));
    }
}
