//! Waiting for something to become true.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up: far longer than it does on a busy machine,
/// since this decides only how soon a failure is reported.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks again and again until there is an answer; panics with what was missing after [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        sleep(PAUSE);
    }
}
