//! When reads look up from waiting: once as a whole, and for each of their requests.
//!
//! Every request is given the same time, so that they become late in the order in which they were
//! made. One that was answered keeps its place, and its alarm says nothing to the machine.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::coordinator::SLOW_AFTER;

/// What is due when; `T` names a request.
pub(super) struct Alarms<T> {
    deadline: Instant,
    slow: Option<Instant>,
    late: VecDeque<(Instant, T)>,
}

/// What is due.
pub(super) enum Alarm<T> {
    /// The reads are slow.
    Slow,
    /// A request is late.
    Late(T),
}

impl<T> Alarms<T> {
    /// Of reads that begin now.
    pub(super) fn new(deadline: Instant) -> Self {
        Self { deadline, slow: Some(Instant::now() + SLOW_AFTER), late: VecDeque::new() }
    }

    /// A request is made now.
    pub(super) fn asked(&mut self, request: T) {
        self.late.push_back((Instant::now() + SLOW_AFTER, request));
    }

    /// When to look next: by the deadline.
    pub(super) fn next(&self) -> Instant {
        let late = self.late.front().map(|(at, _)| *at);
        self.slow.into_iter().chain(late).fold(self.deadline, Instant::min)
    }

    /// What is due by `now`, one after the other.
    pub(super) fn due(&mut self, now: Instant) -> Option<Alarm<T>> {
        if self.slow.take_if(|at| *at <= now).is_some() {
            return Some(Alarm::Slow);
        }
        self.late.front().filter(|(at, _)| *at <= now)?;
        self.late.pop_front().map(|(_, request)| Alarm::Late(request))
    }
}
