//! sled's panics become errors, as far as they can be caught.
//!
//! sled asserts what it has read from disk, so damage makes it panic: on the caller's thread, which
//! [`contain`] catches, and on the threads of its own that write (`sled-io-0`, ...). Of the latter
//! nobody hears: whoever waits for the write waits for ever. So the process's panic hook listens, and
//! [`broken`] says that such a thread has died. The threads are shared by all of sled's stores in a
//! process, as is their end.
//!
//! The hook prints nothing of a panic that is contained, since its error says the same; all other
//! panics go on to the hook that was there before.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::storage::EngineError;

/// How sled calls the threads that write.
const WRITING_THREADS: &str = "sled-io-";

static BROKEN: AtomicBool = AtomicBool::new(false);

thread_local! {
    static CONTAINING: Cell<bool> = const { Cell::new(false) };
}

/// Runs sled for `action`; a panic is [`EngineError::Panicked`].
///
/// What `run` has borrowed may be half changed after that: poison the engine.
pub(super) fn contain<T>(
    action: &'static str,
    run: impl FnOnce() -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    listen();
    let outer = CONTAINING.replace(true);
    let ran = catch_unwind(AssertUnwindSafe(run));
    CONTAINING.set(outer);
    ran.unwrap_or_else(|panic| {
        let detail = format!("sled panicked: {}", message(&*panic));
        Err(EngineError::Panicked { action, detail })
    })
}

/// Whether one of sled's own threads has died of a panic in this process.
pub(super) fn broken() -> bool {
    BROKEN.load(Ordering::Acquire)
}

fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if thread::current().name().is_some_and(|name| name.starts_with(WRITING_THREADS)) {
                BROKEN.store(true, Ordering::Release);
                tracing::error!(%panic, "a thread of sled has died");
            } else if CONTAINING.get() {
                told_by_its_error(panic);
            } else {
                before(panic);
            }
        }));
    });
}

/// Where it was, for those who look for the defect.
fn told_by_its_error(panic: &PanicHookInfo<'_>) {
    tracing::debug!(%panic, "sled panicked");
}

/// The text of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_text() {
        let caught = contain::<u8>("read a key", || panic!("no page {}", 7));
        let error = caught.unwrap_err();
        assert!(matches!(error, EngineError::Panicked { action: "read a key", .. }), "{error}");
        assert!(error.to_string().contains("sled panicked: no page 7"), "{error}");
        assert!(!CONTAINING.get());
        assert_eq!(contain("read a key", || Ok(1)).unwrap(), 1);
    }
}
