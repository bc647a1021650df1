//! What each key's next write replaces: the last context received for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_client::Context;

/// What is known of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// Nothing yet: the write stands beside whatever an earlier run left.
    Nothing,
    /// The write replaces what this covers.
    Covered(Context),
    /// A reply showed siblings, or too many of them: read the key before writing it.
    Siblings,
}

/// Contexts by the key's index. Sharded, since every operation of every worker comes by.
pub(super) struct Contexts {
    shards: Vec<Mutex<HashMap<u64, Option<Context>>>>,
    blind: bool,
}

impl Contexts {
    /// Far more than there are threads.
    const SHARDS: usize = 64;

    /// With `blind` it knows nothing, ever.
    pub(super) fn new(blind: bool) -> Self {
        Self { shards: (0..Self::SHARDS).map(|_| Mutex::default()).collect(), blind }
    }

    pub(super) fn of(&self, key: u64) -> Known {
        if self.blind {
            return Known::Nothing;
        }
        match self.shard(key).get(&key) {
            None => Known::Nothing,
            Some(Some(context)) => Known::Covered(context.clone()),
            Some(None) => Known::Siblings,
        }
    }

    /// A write was answered, or a key prepared. Without a context siblings stand there.
    pub(super) fn on_reply(&self, key: u64, context: Option<Context>) {
        if !self.blind {
            self.shard(key).insert(key, context);
        }
    }

    /// A read was answered. It may be older than a write that came between, so it only fills in
    /// what is not known.
    pub(super) fn on_read(&self, key: u64, context: Option<Context>) {
        if let (false, Some(context)) = (self.blind, context) {
            self.shard(key).entry(key).or_default().get_or_insert(context);
        }
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, HashMap<u64, Option<Context>>> {
        let shard = &self.shards[key as usize % Self::SHARDS];
        // A map is whole after every operation on it, whoever panicked meanwhile.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(name: &'static str) -> Option<Context> {
        Context::from_bytes(name)
    }

    #[test]
    fn a_read_does_not_replace_what_a_write_said() {
        let contexts = Contexts::new(false);
        assert_eq!(contexts.of(1), Known::Nothing);
        contexts.on_read(1, None);
        assert_eq!(contexts.of(1), Known::Nothing);
        contexts.on_read(1, context("read"));
        assert_eq!(contexts.of(1), Known::Covered(context("read").unwrap()));
        contexts.on_reply(1, context("write"));
        contexts.on_read(1, context("older"));
        assert_eq!(contexts.of(1), Known::Covered(context("write").unwrap()));
        contexts.on_reply(1, None);
        assert_eq!(contexts.of(1), Known::Siblings);
        contexts.on_read(1, context("all"));
        assert_eq!(contexts.of(1), Known::Covered(context("all").unwrap()));
        assert_eq!(contexts.of(1 + Contexts::SHARDS as u64), Known::Nothing);
    }

    #[test]
    fn the_blind_know_nothing() {
        let contexts = Contexts::new(true);
        contexts.on_reply(1, context("write"));
        contexts.on_read(1, context("read"));
        assert_eq!(contexts.of(1), Known::Nothing);
    }
}
