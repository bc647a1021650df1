//! How often strangers may make this node write a log line.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Enough to see what goes on, too few to fill a disk: a peer that is refused tries again for ever,
/// every two seconds.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Lets through so many lines in each window, and counts the others.
#[derive(Debug, Default)]
pub(in crate::transport) struct Throttle(Mutex<Option<Window>>);

#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl Throttle {
    /// Whether to write a line now, and how many were not written since the last one.
    pub(in crate::transport) fn admit(&self, now: Instant) -> Option<u64> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = slot.get_or_insert(Window { since: now, lines: 0, suppressed: 0 });
        if now.duration_since(window.since) >= WINDOW {
            (window.since, window.lines) = (now, 0);
        }
        if window.lines >= LINES {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_makes_a_few_lines_and_the_rest_is_counted() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        let admitted = (0..100).filter(|_| throttle.admit(start).is_some()).count();
        assert_eq!(admitted, LINES as usize);
        assert_eq!(throttle.admit(start + WINDOW), Some(100 - u64::from(LINES)));
        assert_eq!(throttle.admit(start + WINDOW), Some(0));
    }
}
