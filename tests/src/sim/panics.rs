//! Panics of a run. Most tasks have theirs swallowed by the runtime, as a node goes on that shed a
//! request; but a run in which an assert fired has found something, whatever came of it.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;

thread_local! {
    /// The panics of the run that is under way on this thread, if there is one.
    static NOTICED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Runs `work`, on this thread alone; the first panic in it, if it went on nevertheless, and what came
/// of it.
pub(super) fn noticing_panics<T>(work: impl FnOnce() -> T) -> (Option<String>, T) {
    static LISTENS: Once = Once::new();
    LISTENS.call_once(listen);
    NOTICED.set(Some(Vec::new()));
    let worked = catch_unwind(AssertUnwindSafe(work));
    let first = NOTICED.take().and_then(|noticed| noticed.into_iter().next());
    (first, worked.unwrap_or_else(|unwinds| resume_unwind(unwinds)))
}

/// Notes the panics of runs, and leaves all others to whoever heard of them before.
fn listen() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let note = |noticed: &mut Option<Vec<String>>| {
            let under_way = noticed.as_mut();
            under_way.map(|noticed| noticed.push(panic.to_string())).is_some()
        };
        if !NOTICED.with_borrow_mut(note) {
            before(panic);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::simulate;

    #[test]
    fn a_panic_that_nobody_waits_for_is_noticed() {
        let run = |panics: bool| {
            noticing_panics(|| {
                simulate(async move {
                    let task = tokio::spawn(async move { assert!(!panics, "an invariant broke") });
                    drop(task.await);
                    Ok(())
                })
            })
        };
        let (panic, ran) = run(true);
        let panic = panic.unwrap();
        assert!(panic.contains("an invariant broke") && panic.contains("panics.rs"), "{panic}");
        ran.unwrap();
        let (none, ran) = run(false);
        assert_eq!((none, ran.unwrap()), (None, ()));
    }
}
