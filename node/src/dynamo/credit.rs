//! Credit: how much of the hints that others keep for it a node takes home, and when.
//!
//! A node that was away is owed hints by many, and if all of them sent what they have it would fall
//! over again under what it missed. Only the node itself knows what it can take. So who keeps hints
//! for it asks first, sends no more than it is granted, and hears with the answer what may come next:
//!
//! ```text
//!   A  may I?       ► 1 MiB, now          a share of the window, by how many senders there are
//!   B  may I?       ► 1 MiB, in 128 ms    the pace: what was granted lately takes its time
//!   A  1 MiB        ► 512 KiB, in 256 ms  when it is on disk
//!   C  may I?       ► nothing, in 100 ms  the queues are more than half full: C waits, and is first
//! ```
//!
//! Invariants: what is granted and not on disk yet is never more than the window; who waits for the
//! longest comes first; who keeps asking is granted something in the end, also when the queues stay
//! full, since it may be the handoff that would make an end of that.
//!
//! Left out: trust. A sender that sends more than it was granted is refused, so that the window
//! holds; one that asks for more often than it was told gains nothing by it.

use std::collections::BTreeMap;

use super::key::NodeId;

/// The most that one message brings: a longer one would hold up what shares its stream.
pub const MESSAGE_MAX_BYTES: u32 = 1 << 20;

/// The most hints of one message: as many as share a turn of a shard.
pub const MESSAGE_MAX_HINTS: usize = 256;

/// The least that is granted: less would be all overhead.
const LEAST_BYTES: u32 = 16 << 10;

/// The most that is under way at once, if there is memory.
const WINDOW_MAX_BYTES: u64 = 4 << 20;

/// Which part of a node's memory that may be: a small one, since requests come first.
const MEMORY_PART: u64 = 32;

/// How fast hints come home at most, in bytes each millisecond: a gibibyte in two minutes.
const PACE_BYTES: u64 = 8 << 10;

/// What a hint counts for at least in that pace: a merge of a few bytes is a merge too.
const HINT_MIN_BYTES: u64 = 1 << 10;

/// The longest pause before a grant; when it would be longer, the sender waits for its turn.
const PAUSE_MAX_MS: u64 = 1000;

/// The pause of the first who waits, and how much later each one behind it comes. It grows by a part of
/// what was waited already: where it takes long, nobody need ask often.
const WAIT_MS: (u64, u64) = (100, 20);

/// Which part that is: a fourth.
const WAITED_PART: u64 = 4;

/// The longest pause of one who waits.
const WAIT_MAX_MS: u64 = 2000;

/// How long after its pause a grant is good: one that is not used is of use to others.
pub const GRANT_MS: u64 = 2000;

/// Who did not ask for so long is not there, and loses its place: more than any pause and the grant
/// after it, and than a message may take.
const FORGET_MS: u64 = 10_000;

/// How long the first waits for the queues to get shorter; then it is granted the least all the same,
/// one sender in so long.
const PATIENCE_MS: u64 = 5000;

/// What a node that is sent hints takes next.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Credit {
    /// How many bytes of objects; if that is not 0, one object may be larger.
    pub bytes: u32,
    /// How long to wait before they are sent, or asked for again, in milliseconds.
    pub pause_ms: u32,
}

/// How full the fullest of the node's queues is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// How many requests wait in it.
    pub queued: usize,
    /// How many may.
    pub capacity: usize,
}

impl Load {
    /// Whether there is no room for what can wait.
    fn is_high(self) -> bool {
        self.queued * 2 > self.capacity
    }

    /// How long `ms` become: the fuller the queues, the slower; up to eight times as long.
    fn stretched(self, ms: u64) -> u64 {
        let half = (self.capacity as u64 / 2).max(1);
        let free = half.saturating_sub(self.queued as u64);
        ms * half / free.max(half / 8).max(1)
    }
}

/// What was granted to whom, and who waits.
#[derive(Debug)]
pub struct Credits {
    window: u64,
    senders: BTreeMap<NodeId, Sender>,
    /// How many ever waited: the order of those who do.
    waited: u64,
    /// What was granted and is not paid by time yet, in bytes.
    owed: u64,
    /// Up to when time has paid.
    paid_ms: u64,
    /// When somebody was last granted something in spite of the load.
    pressed_ms: Option<u64>,
}

/// One who keeps hints for this node.
#[derive(Clone, Copy, Default, Debug)]
struct Sender {
    asked_ms: u64,
    /// What it may send, and until when.
    granted: u64,
    until_ms: u64,
    /// What it sent, and is not on disk yet.
    arriving: u64,
    /// Its place among those who wait, and since when.
    waits: Option<(u64, u64)>,
}

impl Credits {
    /// Of a node with so much memory for requests, in bytes.
    pub fn new(memory: u64) -> Self {
        let window = (memory / MEMORY_PART).clamp(LEAST_BYTES.into(), WINDOW_MAX_BYTES);
        Self { window, senders: BTreeMap::new(), waited: 0, owed: 0, paid_ms: 0, pressed_ms: None }
    }

    /// Hints of so many bytes arrived. Whether they are to be taken: not without a grant, nor above
    /// it, but for a single object. Whatever comes of them, [`Self::next`] is to be called then.
    pub fn on_hints(&mut self, from: NodeId, hints: usize, bytes: u64, now_ms: u64) -> bool {
        self.pass(now_ms);
        let Some(sender) = self.senders.get_mut(&from) else { return false };
        let granted = std::mem::take(&mut sender.granted);
        let fits = granted > 0 && (bytes <= granted || hints == 1);
        let cost = if fits { bytes.max(hints as u64 * HINT_MIN_BYTES) } else { 0 };
        self.owed = (self.owed + cost).saturating_sub(granted);
        if fits {
            sender.arriving = bytes;
        }
        sender.asked_ms = now_ms;
        fits
    }

    /// What `from` may send next. What it was granted before is void, and what it sent is on disk, or
    /// was refused.
    pub fn next(&mut self, from: NodeId, load: Load, now_ms: u64) -> Credit {
        self.pass(now_ms);
        let sender = self.senders.entry(from).or_default();
        let unused = std::mem::take(&mut sender.granted);
        (sender.asked_ms, sender.arriving) = (now_ms, 0);
        self.owed = self.owed.saturating_sub(unused);
        let ahead = self.ahead_of(from);
        let share = self.window / self.senders.len() as u64;
        let share = share.clamp(LEAST_BYTES.into(), MESSAGE_MAX_BYTES.into());
        let bytes = share.min(self.room(ahead));
        let pause_ms = load.stretched(self.owed / PACE_BYTES);
        let fits = bytes >= LEAST_BYTES.into();
        if fits && !load.is_high() && pause_ms <= PAUSE_MAX_MS {
            return self.grant(from, bytes, pause_ms, now_ms);
        }
        if fits && ahead == 0 && self.is_pressing(from, now_ms) {
            self.pressed_ms = Some(now_ms);
            return self.grant(from, LEAST_BYTES.into(), 0, now_ms);
        }
        self.wait(from, ahead, now_ms)
    }

    fn grant(&mut self, to: NodeId, bytes: u64, pause_ms: u64, now_ms: u64) -> Credit {
        let sender = self.senders.entry(to).or_default();
        (sender.granted, sender.waits) = (bytes, None);
        sender.until_ms = now_ms + pause_ms + GRANT_MS;
        self.owed += bytes;
        assert!(self.under_way() <= self.window, "more was granted than the window");
        Credit { bytes: bytes as u32, pause_ms: pause_ms as u32 }
    }

    fn wait(&mut self, from: NodeId, ahead: u64, now_ms: u64) -> Credit {
        let sender = self.senders.entry(from).or_default();
        let (_, since) = *sender.waits.get_or_insert_with(|| {
            self.waited += 1;
            (self.waited, now_ms)
        });
        let waited = now_ms.saturating_sub(since) / WAITED_PART;
        let pause_ms = (WAIT_MS.0 + WAIT_MS.1 * ahead + waited).min(WAIT_MAX_MS);
        Credit { bytes: 0, pause_ms: pause_ms as u32 }
    }

    /// How many wait that came before: all, if it does not wait itself.
    fn ahead_of(&self, node: NodeId) -> u64 {
        let place = self.senders[&node].waits.map_or(u64::MAX, |(place, _)| place);
        let waiting = self.senders.values().filter_map(|sender| sender.waits);
        waiting.filter(|(other, _)| *other < place).count() as u64
    }

    /// What of the window is free, when each of those ahead has the least of it.
    fn room(&self, ahead: u64) -> u64 {
        self.window.saturating_sub(self.under_way() + ahead * u64::from(LEAST_BYTES))
    }

    /// What is granted, or not on disk yet.
    fn under_way(&self) -> u64 {
        self.senders.values().map(|sender| sender.granted + sender.arriving).sum()
    }

    fn is_pressing(&self, node: NodeId, now_ms: u64) -> bool {
        let since = self.senders[&node].waits.map_or(now_ms, |(_, since)| since);
        let long_ago = |then: u64| now_ms.saturating_sub(then) >= PATIENCE_MS;
        long_ago(since) && self.pressed_ms.is_none_or(long_ago)
    }

    /// Time passes: it pays, ends grants, and whoever went away is forgotten.
    fn pass(&mut self, now_ms: u64) {
        let elapsed = now_ms.saturating_sub(self.paid_ms);
        self.paid_ms = self.paid_ms.max(now_ms);
        self.owed = self.owed.saturating_sub(elapsed.saturating_mul(PACE_BYTES));
        for sender in self.senders.values_mut().filter(|sender| sender.until_ms < now_ms) {
            self.owed = self.owed.saturating_sub(std::mem::take(&mut sender.granted));
        }
        self.senders.retain(|_, sender| now_ms.saturating_sub(sender.asked_ms) < FORGET_MS);
    }
}

#[cfg(test)]
mod tests;
