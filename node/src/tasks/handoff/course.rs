//! The course of one delivery: what the target is sent next, and when. Pure, but for the type of time.
//!
//! ```text
//!   ask ► credit ► hints 1 2 3 ► 2 is refused: go on after 3 ► 4 5 ► the round is over
//!                                                            └► a pause, and again from 2 on
//! ```
//!
//! A round is what was in the queue when it began: with new hints it would never end, and what was
//! refused in it would never be tried again.
//!
//! Invariants: nothing is sent that the target granted no credit for, nor before the pause that it
//! asked for; what is refused holds up nothing behind it.

use std::time::Duration;

use tokio::time::Instant;

use crate::dynamo::credit::{Credit, GRANT_MS};

/// The pause after a failure, doubled with each of them up to the longest. A target that goes away
/// and comes back begins anew, so that no pause outlasts its absence.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(4));

/// How one delivery goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Course {
    /// When there is something to do.
    pub(super) due: Instant,
    /// In bytes, and until when it is good.
    credit: u32,
    good_until: Instant,
    /// Hints up to this number were sent in this round.
    after: u64,
    /// The last number of the round.
    until: u64,
    /// Whether any was refused in it.
    refused: bool,
    /// How many messages failed, and how many rounds ended with refusals, one after the other.
    failures: u32,
    bad_rounds: u32,
}

/// What to do for a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Errand {
    /// Ask it for credit.
    Ask,
    /// Send it hints.
    Send(Allotment),
}

/// Which hints, and how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Allotment {
    /// Those that come after this one.
    pub(super) after: u64,
    /// As many as have so many bytes, and one at least.
    pub(super) bytes: u32,
}

/// What came of an errand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It was done.
    Done {
        /// What was sent, if something was to be.
        sent: Option<Sent>,
        /// What may come next.
        credit: Credit,
    },
    /// It was not, or nobody knows.
    Failed,
}

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sent {
    /// The number of the last one; none: there was nothing to send.
    pub(super) last: Option<u64>,
    /// Whether any of them is still owed.
    pub(super) refused: bool,
}

impl Course {
    /// One that begins now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: now,
            credit: 0,
            good_until: now,
            after: 0,
            until: 0,
            refused: false,
            failures: 0,
            bad_rounds: 0,
        }
    }

    /// What to do now, when the queue ends with this number.
    pub(super) fn next(&mut self, last: u64, now: Instant) -> Errand {
        if self.after == 0 {
            self.until = last;
        }
        match self.credit {
            bytes if bytes > 0 && now <= self.good_until => {
                Errand::Send(Allotment { after: self.after, bytes })
            }
            _ => Errand::Ask,
        }
    }

    /// Takes note of what came of it.
    pub(super) fn on_outcome(&mut self, outcome: Outcome, now: Instant) {
        let Outcome::Done { sent, credit } = outcome else {
            // The credit may be spent.
            (self.credit, self.failures) = (0, self.failures + 1);
            self.due = now + backoff(self.failures);
            return;
        };
        (self.credit, self.failures) = (credit.bytes, 0);
        self.due = now + Duration::from_millis(credit.pause_ms.into());
        // It takes a while to arrive there.
        self.good_until = self.due + Duration::from_millis(GRANT_MS / 2);
        if let Some(Sent { last, refused }) = sent {
            // Where there is nothing though the queue says so, something is wrong.
            self.refused |= refused || last.is_none();
            self.after = last.unwrap_or(self.until);
            if self.after >= self.until {
                self.end_round(now);
            }
        }
    }

    fn end_round(&mut self, now: Instant) {
        self.bad_rounds = if self.refused { self.bad_rounds + 1 } else { 0 };
        if self.refused {
            self.due = self.due.max(now + backoff(self.bad_rounds));
        }
        (self.after, self.refused) = (0, false);
    }
}

fn backoff(failures: u32) -> Duration {
    let (least, most) = BACKOFF;
    (least * 2_u32.pow((failures - 1).min(16))).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Credit = Credit { bytes: 100, pause_ms: 0 };

    fn done(sent: Option<Sent>, credit: Credit) -> Outcome {
        Outcome::Done { sent, credit }
    }

    fn sent(last: u64, refused: bool) -> Outcome {
        done(Some(Sent { last: Some(last), refused }), ROOM)
    }

    fn after(errand: Errand) -> u64 {
        let Errand::Send(Allotment { after, bytes: 100 }) = errand else { panic!("{errand:?}") };
        after
    }

    #[tokio::test(start_paused = true)]
    async fn it_asks_until_it_is_granted_something_and_keeps_to_the_pause() {
        let now = Instant::now();
        let mut course = Course::new(now);
        for pause_ms in [100, 2000] {
            assert_eq!(course.next(9, now), Errand::Ask);
            course.on_outcome(done(None, Credit { bytes: 0, pause_ms }), now);
            assert_eq!(course.due, now + Duration::from_millis(pause_ms.into()));
        }
        course.on_outcome(done(None, Credit { bytes: 100, pause_ms: 30 }), now);
        assert_eq!(course.due, now + Duration::from_millis(30));
        assert_eq!(after(course.next(9, now)), 0);
        // What it sent used the credit up.
        course
            .on_outcome(done(Some(Sent { last: Some(3), refused: false }), Credit::default()), now);
        assert_eq!(course.next(9, now), Errand::Ask);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_holds_up_nothing_and_is_tried_in_the_next_round() {
        let now = Instant::now();
        let mut course = Course::new(now);
        course.on_outcome(done(None, ROOM), now);
        assert_eq!(after(course.next(7, now)), 0);
        course.on_outcome(sent(3, true), now);
        // New hints do not make the round longer.
        assert_eq!((after(course.next(20, now)), course.due), (3, now));
        course.on_outcome(sent(8, false), now);
        assert_eq!(after(course.next(20, now)), 0);
        assert_eq!(course.due, now + BACKOFF.0);
        // A round without refusals begins the next at once.
        course.on_outcome(sent(20, false), now);
        assert_eq!((after(course.next(30, now)), course.due), (0, now));
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_a_few_seconds_and_a_success_makes_them_short_again() {
        let now = Instant::now();
        let mut course = Course::new(now);
        let nothing = done(Some(Sent { last: None, refused: false }), ROOM);
        for failure in [Outcome::Failed, nothing, sent(9, true)] {
            let pause = |course: &mut Course| {
                course.next(9, now);
                course.on_outcome(failure, now);
                course.due - now
            };
            let pauses: Vec<_> = (0..8).map(|_| pause(&mut course).as_millis()).collect();
            assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 4000, 4000], "{failure:?}");
            course.next(9, now);
            course.on_outcome(sent(9, false), now);
            assert_eq!(course.due, now);
        }
    }

    /// Else it would be refused for that, time and again.
    #[tokio::test(start_paused = true)]
    async fn a_credit_that_is_old_is_asked_for_anew() {
        let now = Instant::now();
        let mut course = Course::new(now);
        course.on_outcome(done(None, Credit { bytes: 100, pause_ms: 30 }), now);
        let late = course.due + Duration::from_millis(GRANT_MS);
        assert_eq!(after(course.next(9, course.due)), 0);
        assert_eq!(course.next(9, late), Errand::Ask);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_it_asks_again_and_goes_on_where_it_was() {
        let now = Instant::now();
        let mut course = Course::new(now);
        course.on_outcome(done(None, ROOM), now);
        course.next(9, now);
        course.on_outcome(sent(4, true), now);
        course.on_outcome(Outcome::Failed, now);
        assert_eq!(course.next(9, now), Errand::Ask);
        course.on_outcome(done(None, ROOM), now);
        assert_eq!(after(course.next(9, now)), 4);
    }
}
