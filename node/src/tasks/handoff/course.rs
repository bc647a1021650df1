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
//! A message that fails may do so by one of its hints, too large for a slow link or such that the target
//! falls over it. So what it held is sent again in smaller parts, and a hint that fails alone is passed
//! over until the next round:
//!
//! ```text
//!   1..256 fail ► 1..16 sent ► 17..32 fail ► 17 sent ► 18 fails: go on after 18 ► 19.. sent
//! ```
//!
//! Invariants: nothing is sent that the target granted no credit for, nor before the pause that it
//! asked for; what is refused, or fails each time, holds up nothing behind it.

use std::time::Duration;

use tokio::time::Instant;

use crate::dynamo::credit::{Credit, GRANT_MS, MESSAGE_MAX_HINTS};

/// The pause after a failure, doubled with each of them up to the longest. A target that goes away
/// and comes back begins anew, so that no pause outlasts its absence.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(4));

/// How many hints a message has at most: the first one, one after it failed, and one after that failed
/// too. Then they are passed over.
const HINTS: [usize; 3] = [MESSAGE_MAX_HINTS, 16, 1];

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
    /// Whether any was refused, or passed over, in it.
    refused: bool,
    /// How many messages failed that held hints after `after`, one within the other; up to this number
    /// smaller ones are sent.
    narrowed: usize,
    narrow_until: u64,
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
    /// No more than so many.
    pub(super) hints: usize,
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
    Failed {
        /// The number of the last hint that was to be sent, if any was.
        last: Option<u64>,
    },
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
            narrowed: 0,
            narrow_until: 0,
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
                Errand::Send(Allotment { after: self.after, bytes, hints: HINTS[self.narrowed] })
            }
            _ => Errand::Ask,
        }
    }

    /// Takes note of what came of it.
    pub(super) fn on_outcome(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Failed { last } => {
                // The credit may be spent.
                (self.credit, self.failures) = (0, self.failures + 1);
                self.due = now + backoff(self.failures);
                if let Some(last) = last {
                    self.narrow(last, now);
                }
            }
            Outcome::Done { sent, credit } => {
                self.credit = credit.bytes;
                self.due = now + Duration::from_millis(credit.pause_ms.into());
                // It takes a while to arrive there.
                self.good_until = self.due + Duration::from_millis(GRANT_MS / 2);
                if let Some(Sent { last, refused }) = sent {
                    self.failures = 0;
                    // Where there is nothing though the queue says so, something is wrong.
                    self.refused |= refused || last.is_none();
                    self.go_on(last.unwrap_or(self.until), now);
                }
            }
        }
    }

    /// A message up to this number failed.
    fn narrow(&mut self, last: u64, now: Instant) {
        (self.narrowed, self.narrow_until) = (self.narrowed + 1, last);
        if self.narrowed == HINTS.len() {
            self.refused = true;
            self.go_on(last, now);
        }
    }

    /// Nothing up to this number is sent again in this round.
    fn go_on(&mut self, after: u64, now: Instant) {
        self.after = after;
        if self.after >= self.narrow_until {
            self.narrowed = 0;
        }
        if self.after >= self.until {
            self.end_round(now);
        }
    }

    fn end_round(&mut self, now: Instant) {
        self.bad_rounds = if self.refused { self.bad_rounds + 1 } else { 0 };
        if self.refused {
            self.due = self.due.max(now + backoff(self.bad_rounds));
        }
        (self.after, self.refused, self.narrowed) = (0, false, 0);
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
        let Errand::Send(Allotment { after, bytes: 100, .. }) = errand else {
            panic!("{errand:?}")
        };
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
        for failure in [Outcome::Failed { last: None }, nothing, sent(9, true)] {
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
        course.on_outcome(Outcome::Failed { last: Some(9) }, now);
        assert_eq!(course.next(9, now), Errand::Ask);
        course.on_outcome(done(None, ROOM), now);
        assert_eq!(after(course.next(9, now)), 4);
    }

    /// Runs one round, as long as no message gets there that holds one of these. How many hints each
    /// message had, and the last number of each that failed.
    fn round(course: &mut Course, last: u64, poisoned: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let (mut now, mut sizes, mut failed) = (course.due, Vec::new(), Vec::new());
        let mut until = 0;
        loop {
            let outcome = match course.next(last, now) {
                Errand::Ask => done(None, ROOM),
                Errand::Send(Allotment { after, hints, .. }) => {
                    until = last.min(after + hints as u64);
                    sizes.push(until - after);
                    assert!(sizes.len() < 1000, "the round does not end");
                    match poisoned.iter().any(|hint| (after + 1..=until).contains(hint)) {
                        true => {
                            failed.push(until);
                            Outcome::Failed { last: Some(until) }
                        }
                        false => sent(until, false),
                    }
                }
            };
            course.on_outcome(outcome, now);
            now = course.due;
            if until == last && course.narrowed == 0 {
                return (sizes, failed);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_that_fails_each_time_holds_up_no_other() {
        let mut course = Course::new(Instant::now());
        let rounds = [round(&mut course, 300, &[18]), round(&mut course, 300, &[18])];
        for (sizes, failed) in rounds {
            assert_eq!(sizes, [256, 16, 16, 1, 1, 256, 26]);
            assert_eq!(failed, [256, 32, 18]);
        }
        // Once it gets there, the round is over in two messages.
        assert_eq!(round(&mut course, 300, &[]), (vec![256, 44], vec![]));
        // The last one of a round ends it, and the next begins after a pause.
        let before = course.due;
        assert_eq!(round(&mut course, 2, &[2]).0, [2, 2, 1, 1]);
        assert!(course.due > before);
        assert_eq!(round(&mut course, 2, &[]), (vec![2], vec![]));
    }

    /// Where nothing gets there, as on a link that loses all, each is tried and the round ends.
    #[tokio::test(start_paused = true)]
    async fn where_everything_fails_a_round_ends_all_the_same() {
        let mut course = Course::new(Instant::now());
        let all: Vec<u64> = (1..=5).collect();
        let (sizes, failed) = round(&mut course, 5, &all);
        assert_eq!(sizes.len(), 15);
        assert_eq!(failed.iter().filter(|&&last| last == 5).count(), 11);
    }
}
