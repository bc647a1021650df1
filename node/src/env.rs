//! The outside world that a node may see: wall clock, randomness, and where blocking work runs.
//!
//! Production takes them from the machine; tests and simulation inject their own, so that one seed
//! is one run. Timers are tokio's, which simulation pauses.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

/// A wall clock.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |elapsed| elapsed.as_millis() as u64)
    }
}

/// Where work that blocks runs: on threads of its own, or, to be repeatable, where it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocking {
    /// Shards and disk work have threads.
    Threads,
    /// Everything runs on the one thread of a simulation.
    Inline,
}

/// The outside world of one node.
#[derive(Clone)]
pub struct Env {
    clock: Arc<dyn Clock>,
    rng: Arc<Mutex<ChaCha8Rng>>,
    blocking: Blocking,
    request_cost: Duration,
}

impl Env {
    /// This machine.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            rng: Arc::new(Mutex::new(ChaCha8Rng::from_rng(&mut rand::rng()))),
            blocking: Blocking::Threads,
            request_cost: Duration::ZERO,
        }
    }

    /// A repeatable world: `clock` and `seed` decide everything, on one thread.
    pub fn simulated(clock: Arc<dyn Clock>, seed: u64) -> Self {
        let rng = Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed)));
        Self { clock, rng, blocking: Blocking::Inline, request_cost: Duration::ZERO }
    }

    /// The same world, where each request takes a shard so long: machines of simulations have no
    /// limits else.
    pub fn with_request_cost(self, request_cost: Duration) -> Self {
        Self { request_cost, ..self }
    }

    /// How long a request takes a shard, beside what it really takes.
    pub fn request_cost(&self) -> Duration {
        self.request_cost
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// 64 random bits.
    pub fn random(&self) -> u64 {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// A generator of its own, for a worker.
    pub fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.random())
    }

    /// Where blocking work runs.
    pub fn blocking(&self) -> Blocking {
        self.blocking
    }

    /// Runs work that blocks.
    pub async fn block<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.blocking {
            Blocking::Inline => work(),
            Blocking::Threads => match tokio::task::spawn_blocking(work).await {
                Ok(value) => value,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
        }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("blocking", &self.blocking).finish_non_exhaustive()
    }
}
