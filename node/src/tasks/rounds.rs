//! When a background task goes over all of its partitions again, and how long it rests between steps.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::Rng as _;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Step;
use crate::env::Env;
use crate::error::RequestError;

/// That time, and half as much again by chance: rounds of nodes that started together must not stay
/// together.
pub(super) fn jittered(every: Duration, rng: &mut ChaCha8Rng) -> Duration {
    let jitter_ms = (every.as_millis() as u64 / 2).max(1);
    every + Duration::from_millis(rng.next_u64() % jitter_ms)
}

/// Rounds that begin some time after the last one ended.
pub(super) struct Rounds {
    every: Duration,
    rng: ChaCha8Rng,
    stop: CancellationToken,
    wakes: Instant,
}

impl Rounds {
    /// The first of them is due after that time, too.
    pub(super) fn new(env: &Env, every: Duration, stop: CancellationToken) -> Self {
        let mut rng = env.rng();
        let wakes = Instant::now() + jittered(every, &mut rng);
        Self { every, rng, stop, wakes }
    }

    /// Waits until the next one is due.
    pub(super) async fn due(&self) {
        sleep_until(self.wakes).await;
    }

    /// Runs one, unless the node stops.
    pub(super) async fn run(
        &mut self,
        round: impl Future<Output = Result<(), RequestError>>,
    ) -> Step {
        let done = self.stop.run_until_cancelled(round).await;
        self.wakes = Instant::now() + jittered(self.every, &mut self.rng);
        match done {
            None | Some(Ok(())) => Step::Done,
            Some(Err(error)) => Step::Failed(error),
        }
    }
}

/// How long a task rests after a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// So many times as long as the step took.
    pub(super) times: u32,
    /// At least, and at most.
    pub(super) pause: (Duration, Duration),
}

impl Pace {
    /// Does a step, and rests.
    pub(super) async fn keep<T>(self, env: &Env, step: impl Future<Output = T>) -> T {
        env.pause().over().await;
        let began = Instant::now();
        let done = step.await;
        sleep((began.elapsed() * self.times).clamp(self.pause.0, self.pause.1)).await;
        done
    }
}
