//! When to try again, where, and under which name.
//!
//! A read may be tried anywhere. A write may be applied, unseen, by an attempt that failed:
//!
//! ```text
//!   the attempt ended            and before it       so
//!   not applied, for certain     nothing in doubt    another owner, a new operation id
//!   in another opening           nothing in doubt    the same owner, asked anew, a new id
//!   unknown, as the node says    whatever            exactly once: same node, same id, if the id
//!                                                    names that node
//!   unknown, as another says     whatever            exactly once: another owner, same id; it does
//!     or nobody                                      not apply it, but asks those who may have it
//!   unknown                      whatever            at least once: another owner, same id
//!   not applied, and it is final in doubt            another owner, a new id
//!   refused at the door          in doubt            as unknown: the refusal means this attempt
//!   not sent                     in doubt            as unknown without an answer
//! ```
//!
//! Who is not named by the id tells what it could reach: another owner may reach the named one, or who
//! has the write. *Refused at the door* is what a node says before it looks whether it knows the operation. The
//! decision is a value, so that a table can test it; the loops around it do the waiting.

use std::time::{Duration, Instant};

use quorate_proto::v1::error_detail::{Kind, Outcome};
use rand::RngExt as _;

use crate::{
    error::{Error, Reach},
    options::Retry,
};

/// The moment by which a request must have ended, retries included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    begun: Instant,
    end: Instant,
}

impl Deadline {
    /// Below this, splitting the time that is left would only make attempts hopeless.
    const SHARE_MIN: Duration = Duration::from_millis(100);

    pub(crate) fn after(timeout: Duration) -> Self {
        let begun = Instant::now();
        Self { begun, end: begun + timeout }
    }

    /// How much of the time is over.
    pub(crate) fn elapsed(self) -> Duration {
        Instant::now().min(self.end) - self.begun
    }

    pub(crate) fn remaining(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    pub(crate) fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// What one attempt may take so that another node can be tried after it: half.
    pub(crate) fn share(self) -> Duration {
        let remaining = self.remaining();
        (remaining / 2).max(Self::SHARE_MIN.min(remaining))
    }
}

/// What a server is told of an attempt's time: a little less, so that its answer, which says more
/// than silence, arrives in time.
pub(crate) fn server_ms(limit: Duration) -> u32 {
    let limit = limit - (limit / 10).min(Duration::from_millis(100));
    u32::try_from(limit.as_millis()).unwrap_or(u32::MAX).max(1)
}

/// Growing, jittered pauses: clients that failed together must not come back together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    pauses: u32,
    /// What every pause is multiplied by; without one, each by a number of its own.
    jitter: Option<f64>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(10);
    const DOUBLINGS_MAX: u32 = 6;

    /// For requests that are to stay together: clones of it pause equally long.
    pub(crate) fn in_step() -> Self {
        Self { pauses: 0, jitter: Some(Self::jitter()) }
    }

    fn jitter() -> f64 {
        rand::rng().random_range(0.5..=1.0)
    }

    /// Sleeps before the next try, at least as long as the server asked; false if the deadline
    /// comes first, in which case it does not sleep.
    pub(crate) async fn pause(&mut self, deadline: Deadline, at_least: Duration) -> bool {
        let pause = self.next_pause().max(spread(at_least));
        let in_time = pause < deadline.remaining();
        if in_time {
            tokio::time::sleep(pause).await;
        }
        in_time
    }

    fn next_pause(&mut self) -> Duration {
        let longest = Self::FIRST * (1 << self.pauses.min(Self::DOUBLINGS_MAX));
        self.pauses += 1;
        longest.mul_f64(self.jitter.unwrap_or_else(Self::jitter))
    }
}

/// Up to half as long again: all that were refused at one moment were asked to wait the same time.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(1.0..=1.5))
}

/// What to do after a failed attempt at a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Another owner, under a new operation id.
    Afresh,
    /// The same owner: ask for its opening, then a new operation id.
    AskOpening,
    /// The same operation id at the same node.
    SameNode,
    /// The same operation id at another node.
    Elsewhere,
    /// Nothing that could help: the write is not applied, or unknown if in doubt.
    Stop,
}

/// What is known of the write under its present operation id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doubt {
    retry: Retry,
    /// Whether an attempt under this id may have been applied.
    pub(crate) unknown: bool,
}

impl Doubt {
    /// A write that nothing was sent of, or one that an earlier request left unknown.
    pub(crate) fn new(retry: Retry, unknown: bool) -> Self {
        Self { retry, unknown }
    }

    /// What a failed attempt teaches; `at_named`: it was made at the node that the id names.
    pub(crate) fn on_failure(&mut self, error: &Error, at_named: bool) -> Next {
        if error.detail() == Kind::Opening {
            return self.on_other_opening();
        }
        if !did_nothing(error) {
            self.unknown = true;
            // What hides the write stays, however often one asks.
            let hidden = error.detail() == Kind::ClockSkew && self.retry == Retry::ExactlyOnce;
            return if hidden { Next::Stop } else { self.again(error, at_named) };
        }
        if !self.unknown {
            return if error.is_retryable() { Next::Afresh } else { Next::Stop };
        }
        if self.retry == Retry::AtLeastOnce || refused_at_the_door(error) {
            return self.again(error, at_named);
        }
        self.unknown = false;
        if error.is_retryable() { Next::Afresh } else { Next::Stop }
    }

    fn on_other_opening(&self) -> Next {
        match (self.unknown, self.retry) {
            (false, _) => Next::AskOpening,
            (true, Retry::AtLeastOnce) => Next::Elsewhere,
            // The opening that knew is over: asking again cannot tell more.
            (true, Retry::ExactlyOnce) => Next::Stop,
        }
    }

    fn again(&self, error: &Error, at_named: bool) -> Next {
        let answered = matches!(error.reach(), Reach::Answered(_));
        match self.retry {
            _ if !error.is_retryable() => Next::Stop,
            // Who is silent has no more to say to the same question; others can be asked what they know.
            Retry::ExactlyOnce if answered && at_named => Next::SameNode,
            Retry::ExactlyOnce | Retry::AtLeastOnce => Next::Elsewhere,
        }
    }
}

/// Whether the attempt, by itself, was certainly not applied.
fn did_nothing(error: &Error) -> bool {
    use Outcome::{NotApplied, Unread};
    matches!(error.reach(), Reach::NotSent | Reach::Answered(NotApplied | Unread))
}

/// Whether a node may say so without having looked for the operation: it is then true of this
/// attempt alone, not of the earlier one.
fn refused_at_the_door(error: &Error) -> bool {
    let door = [
        Kind::Overloaded,
        Kind::NotReady,
        Kind::NotReadyElsewhere,
        Kind::Timeout,
        Kind::UnknownNamespace,
        Kind::DiskFull,
        Kind::DiskFailed,
    ];
    let unread = matches!(error.reach(), Reach::NotSent | Reach::Answered(Outcome::Unread));
    unread || door.contains(&error.detail())
}

#[cfg(test)]
mod tests {
    use quorate_proto::v1::ErrorDetail;
    use tonic::{Code, Status};

    use super::*;
    use crate::{error::tests::status, options::Retry::*};

    fn answered(kind: Kind, outcome: Outcome) -> Error {
        let detail =
            ErrorDetail { kind: kind.into(), outcome: outcome.into(), ..Default::default() };
        Error::from_status(&status(Code::Unavailable, "said", detail), "n1")
    }

    fn lost() -> Error {
        Error::from_status(&Status::unavailable("broken pipe"), "n1")
    }

    #[test]
    fn the_table_of_writes() {
        let not_sent = || lost().reaching(Reach::NotSent);
        let refused = |kind| answered(kind, Outcome::NotApplied);
        let unknown = |kind| answered(kind, Outcome::Unknown);
        let unread = || answered(Kind::Overloaded, Outcome::Unread);
        let cases = [
            // retry, in doubt before, error, what next, in doubt after
            (ExactlyOnce, false, not_sent(), Next::Afresh, false),
            (ExactlyOnce, false, refused(Kind::Quorum), Next::Afresh, false),
            (ExactlyOnce, false, refused(Kind::Overloaded), Next::Afresh, false),
            (ExactlyOnce, false, refused(Kind::Invalid), Next::Stop, false),
            (ExactlyOnce, false, refused(Kind::Siblings), Next::Stop, false),
            (ExactlyOnce, false, refused(Kind::Opening), Next::AskOpening, false),
            (ExactlyOnce, false, lost(), Next::Elsewhere, true),
            (ExactlyOnce, true, lost(), Next::Elsewhere, true),
            (ExactlyOnce, false, unknown(Kind::Quorum), Next::SameNode, true),
            (ExactlyOnce, false, answered(Kind::Timeout, Outcome::None), Next::SameNode, true),
            (ExactlyOnce, false, unknown(Kind::Internal), Next::Stop, true),
            (ExactlyOnce, true, not_sent(), Next::Elsewhere, true),
            (ExactlyOnce, true, refused(Kind::Overloaded), Next::SameNode, true),
            (ExactlyOnce, true, refused(Kind::UnknownNamespace), Next::Stop, true),
            (ExactlyOnce, false, unread(), Next::Afresh, false),
            (ExactlyOnce, true, unread(), Next::SameNode, true),
            (AtLeastOnce, true, unread(), Next::Elsewhere, true),
            (ExactlyOnce, false, refused(Kind::DiskFull), Next::Afresh, false),
            (ExactlyOnce, true, refused(Kind::DiskFailed), Next::SameNode, true),
            (ExactlyOnce, true, refused(Kind::Quorum), Next::Afresh, false),
            (ExactlyOnce, true, refused(Kind::Siblings), Next::Stop, false),
            (ExactlyOnce, false, refused(Kind::ClockSkew), Next::Afresh, false),
            (ExactlyOnce, true, refused(Kind::ClockSkew), Next::Afresh, false),
            (ExactlyOnce, false, unknown(Kind::ClockSkew), Next::Stop, true),
            (ExactlyOnce, true, unknown(Kind::ClockSkew), Next::Stop, true),
            (AtLeastOnce, true, unknown(Kind::ClockSkew), Next::Elsewhere, true),
            (AtLeastOnce, true, refused(Kind::ClockSkew), Next::Elsewhere, true),
            (ExactlyOnce, true, unknown(Kind::Opening), Next::Stop, true),
            (AtLeastOnce, false, not_sent(), Next::Afresh, false),
            (AtLeastOnce, false, lost(), Next::Elsewhere, true),
            (AtLeastOnce, true, not_sent(), Next::Elsewhere, true),
            (AtLeastOnce, true, refused(Kind::Quorum), Next::Elsewhere, true),
            (AtLeastOnce, true, refused(Kind::Siblings), Next::Stop, true),
            (AtLeastOnce, true, unknown(Kind::Opening), Next::Elsewhere, true),
        ];
        for (retry, before, error, next, after) in cases {
            let mut doubt = Doubt::new(retry, before);
            let said = format!("{retry:?}, in doubt: {before}, {error:?}");
            assert_eq!(doubt.on_failure(&error, true), next, "{said}");
            assert_eq!(doubt.unknown, after, "{said}");
        }
    }

    #[test]
    fn who_is_not_named_is_not_asked_twice_in_a_row() {
        for error in [
            answered(Kind::Coordinator, Outcome::Unknown),
            answered(Kind::Quorum, Outcome::Unknown),
            answered(Kind::Overloaded, Outcome::NotApplied),
        ] {
            let next = |at_named| Doubt::new(ExactlyOnce, true).on_failure(&error, at_named);
            assert_eq!((next(true), next(false)), (Next::SameNode, Next::Elsewhere), "{error:?}");
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_vary() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..20).map(|_| backoff.next_pause()).collect();
        assert!(pauses[0] <= Backoff::FIRST);
        assert!(pauses.iter().all(|&pause| pause <= Backoff::FIRST * 64));
        assert!(pauses[19] >= Backoff::FIRST * 32);
        assert!(pauses[10..].windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn clients_refused_together_come_back_apart_and_none_too_early() {
        let asked = Duration::from_millis(100);
        let pauses: Vec<_> = (0..50).map(|_| spread(asked)).collect();
        assert!(pauses.iter().all(|pause| (asked..=asked * 3 / 2).contains(pause)));
        assert!(pauses.windows(2).any(|pair| pair[0] != pair[1]));
        assert_eq!(spread(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn an_attempt_gets_half_of_the_time_and_the_server_a_little_less() {
        let share = Deadline::after(Duration::from_secs(4)).share();
        assert!(share <= Duration::from_secs(2) && share > Duration::from_millis(1900));
        let short = Deadline::after(Duration::from_millis(120)).share();
        assert!(short > Duration::from_millis(90) && short <= Duration::from_millis(100));
        assert_eq!(server_ms(Duration::from_secs(5)), 4900);
        assert_eq!(server_ms(Duration::from_millis(100)), 90);
        assert_eq!(server_ms(Duration::ZERO), 1);
    }
}
