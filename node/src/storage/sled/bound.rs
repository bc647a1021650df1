//! An end to what sled would do for ever.
//!
//! Reading a tree, sled goes on with a merge of pages that it finds begun, in loops that end if the
//! pages are as it wrote them. After damage they may be of different times:
//!
//! ```text
//!   page 3   .. merges its child 7 │ has merged it       lost with a part of the log
//!   page 7   .. is free                                  found: so page 3 waits for 7 for ever
//! ```
//!
//! Each turn of such a loop notes an access for the cache, and nothing of that is freed before the
//! loop ends: memory grows by 100 MB a second until the system ends the process. sled's interface has
//! nothing to stop it. But each turn also tells the facade `log` what it does, at its finest level. So
//! while a store is counted these records come to a subscriber of this thread, which prints none of them,
//! and panics after more than a step can take in a sound tree; `contain` makes an error of that.
//!
//! Once all rows were counted every page of the tree was read, so that later reads need no such watch.
//! Where another logger than `tracing-log` was installed for the process, there is none.

use std::cell::Cell;
use std::sync::{Mutex, Once, PoisonError};

use tracing::dispatcher::{self, Dispatch};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Metadata};
use tracing_log::LogTracer;
use tracing_log::log::{self, LevelFilter};

/// Records of one step: from one row to the next. Most take none, one to another page a dozen; no test
/// takes a thousand. So many take half a second and 10 MB.
const RECORDS_MAX: u64 = 1_000_000;

thread_local! {
    /// What is left of them on this thread; none if nobody counts.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs what reads a tree of sled on this thread; it panics within a step that does not end.
pub(super) fn bounded<T>(run: impl FnOnce() -> T) -> T {
    static INSTALLED: Once = Once::new();
    // Refused if there is a logger: as a rule this one, since `start_logging` installs it too.
    INSTALLED.call_once(|| drop(LogTracer::builder().with_max_level(log::max_level()).init()));
    let _watching = Watching::begin();
    let counter = Dispatch::new(Counter { outer: dispatcher::get_default(Dispatch::clone) });
    dispatcher::with_default(&counter, run)
}

/// Says that a step has ended.
pub(super) fn step() {
    LEFT.set(Some(RECORDS_MAX));
}

/// What is so while anybody is watched.
struct Watching;

/// How many are, and the level of the records that were wanted before.
static WATCHED: Mutex<(usize, LevelFilter)> = Mutex::new((0, LevelFilter::Off));

impl Watching {
    fn begin() -> Self {
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.0 == 0 {
            watched.1 = log::max_level();
            log::set_max_level(LevelFilter::Trace);
        }
        watched.0 += 1;
        step();
        Self
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        LEFT.set(None);
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        watched.0 -= 1;
        if watched.0 == 0 {
            log::set_max_level(watched.1);
        }
        // What was told that finer records are wanted again is told that they are not.
        tracing::callsite::rebuild_interest_cache();
    }
}

/// Counts sled's records, and hands the rest to who would have had it.
struct Counter {
    outer: Dispatch,
}

fn count() {
    match LEFT.get() {
        Some(0) => {
            // No longer: what unwinds may tell of it.
            LEFT.set(None);
            panic!("it goes round in circles over pages that are not of one time");
        }
        left => LEFT.set(left.map(|left| left - 1)),
    }
}

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.target().starts_with("sled::") {
            count();
        }
        self.outer.enabled(metadata)
    }

    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.outer.new_span(span)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        self.outer.record(span, values);
    }

    fn record_follows_from(&self, span: &Id, follows: &Id) {
        self.outer.record_follows_from(span, follows);
    }

    fn event(&self, event: &Event<'_>) {
        self.outer.event(event);
    }

    fn enter(&self, span: &Id) {
        self.outer.enter(span);
    }

    fn exit(&self, span: &Id) {
        self.outer.exit(span);
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.outer.clone_span(span)
    }

    fn try_close(&self, span: Id) -> bool {
        self.outer.try_close(span)
    }
}
