//! A set of writes that become visible, and survive, together.
//!
//! A batch holds one write per key: a later one replaces an earlier one. That is the rule for
//! callers, and it also spares engines the question, which they answer differently (fjall gives
//! all writes of a batch one sequence number).
//!
//! ```text
//!   put a=1   put b=2   delete a        ->   a: delete   b: put 2
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{ENGINE_KEY_MAX_BYTES, Space};

/// Writes to any spaces, at most one per key, ascending by space and key.
#[derive(Clone, Default, Debug)]
pub struct Batch {
    spaces: [BTreeMap<Bytes, Option<Bytes>>; Space::ALL.len()],
    bytes: usize,
}

impl Batch {
    /// The batch that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`. The key has 1 to [`ENGINE_KEY_MAX_BYTES`] bytes.
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.write(space, key.into(), Some(value.into()));
    }

    /// Removes `key`, if it is there. The key has 1 to [`ENGINE_KEY_MAX_BYTES`] bytes.
    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.write(space, key.into(), None);
    }

    /// What this batch will do to `key`: nothing (`None`), delete it (`Some(None)`), or put a
    /// value. Operations that share a group commit see each other through this.
    pub fn staged(&self, space: Space, key: &[u8]) -> Option<Option<&Bytes>> {
        self.spaces[space as usize].get(key).map(Option::as_ref)
    }

    /// The writes, ascending by space and key; `None` deletes.
    pub fn iter(&self) -> impl Iterator<Item = (Space, &Bytes, Option<&Bytes>)> {
        let of_space = |space: Space| {
            let writes = self.spaces[space as usize].iter();
            writes.map(move |(key, value)| (space, key, value.as_ref()))
        };
        Space::ALL.into_iter().flat_map(of_space)
    }

    /// The writes as [`iter`](Self::iter) gives them, owned.
    pub fn into_writes(self) -> impl Iterator<Item = (Space, Bytes, Option<Bytes>)> {
        let of_space = |(space, writes): (Space, BTreeMap<Bytes, Option<Bytes>>)| {
            writes.into_iter().map(move |(key, value)| (space, key, value))
        };
        Space::ALL.into_iter().zip(self.spaces).flat_map(of_space)
    }

    /// How many keys it writes.
    pub fn len(&self) -> usize {
        self.spaces.iter().map(BTreeMap::len).sum()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.spaces.iter().all(BTreeMap::is_empty)
    }

    /// The bytes of its keys and values, which a group commit bounds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn write(&mut self, space: Space, key: Bytes, value: Option<Bytes>) {
        let key_bytes = key.len();
        assert!((1..=ENGINE_KEY_MAX_BYTES).contains(&key_bytes), "a key of {key_bytes} bytes");
        let size = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        self.bytes += key_bytes + size(&value);
        if let Some(replaced) = self.spaces[space as usize].insert(key, value) {
            self.bytes -= key_bytes + size(&replaced);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_write_of_a_key_wins_and_is_counted_once() {
        let mut batch = Batch::new();
        batch.put(Space::Meta, "a", "12345");
        batch.put(Space::Objects, "b", "2");
        batch.delete(Space::Meta, "a");
        batch.put(Space::Objects, "a", "");
        assert_eq!((batch.len(), batch.bytes()), (3, 4));
        assert_eq!(batch.staged(Space::Meta, b"a"), Some(None));
        assert_eq!(batch.staged(Space::Objects, b"b"), Some(Some(&Bytes::from("2"))));
        assert_eq!(batch.staged(Space::Operations, b"b"), None);

        let writes: Vec<_> = batch.clone().into_writes().collect();
        let keys: Vec<_> = writes.iter().map(|(space, key, _)| (*space, &key[..])).collect();
        let expected: [(Space, &[u8]); 3] =
            [(Space::Objects, b"a"), (Space::Objects, b"b"), (Space::Meta, b"a")];
        assert_eq!(keys, expected);
        assert!(writes.iter().map(|(s, k, v)| (*s, k, v.as_ref())).eq(batch.iter()));
    }

    #[test]
    fn an_untouched_batch_is_empty() {
        assert!(Batch::new().is_empty());
        assert_eq!((Batch::new().len(), Batch::new().bytes()), (0, 0));
    }

    #[test]
    #[should_panic(expected = "a key of 0 bytes")]
    fn an_empty_key_is_a_defect_of_the_caller() {
        Batch::new().delete(Space::Meta, "");
    }
}
