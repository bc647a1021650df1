//! The outside world that a node may see: wall clock, randomness, and where blocking work runs.
//!
//! Production takes them from the machine; tests and simulation inject their own, so that one seed
//! is one run. Timers are tokio's, which simulation pauses.

use std::fmt;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use xxhash_rust::xxh3::xxh3_64;

use crate::signal::Signal;

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

/// Whether a simulated process stands still, as after SIGSTOP. Clones are one switch.
#[derive(Clone, Default, Debug)]
pub struct Pause(Arc<Signal<bool>>);

impl Pause {
    /// Stops the process, or lets it go on.
    pub fn set(&self, paused: bool) {
        self.0.set(paused);
    }

    /// Returns once the process runs.
    pub async fn over(&self) {
        self.0.wait_for(|paused| !paused).await;
    }
}

/// Where Linux says which run of the machine this is: 36 characters that change with each start, of the
/// host also for containers.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The outside world of one node.
#[derive(Clone)]
pub struct Env {
    clock: Arc<dyn Clock>,
    rng: Arc<Mutex<ChaCha8Rng>>,
    blocking: Blocking,
    request_cost: Duration,
    pause: Pause,
    boot: u64,
}

impl Env {
    /// This machine.
    pub fn system() -> Self {
        let mut rng = ChaCha8Rng::from_rng(&mut rand::rng());
        // A machine that does not say may have been started anew each time.
        let boot = fs::read(BOOT_ID).map_or_else(|_| rng.next_u64(), |id| xxh3_64(&id));
        Self {
            clock: Arc::new(SystemClock),
            rng: Arc::new(Mutex::new(rng)),
            blocking: Blocking::Threads,
            request_cost: Duration::ZERO,
            pause: Pause::default(),
            boot,
        }
    }

    /// A repeatable world: `clock` and `seed` decide everything, on one thread.
    pub fn simulated(clock: Arc<dyn Clock>, seed: u64) -> Self {
        let rng = Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed)));
        let (blocking, request_cost) = (Blocking::Inline, Duration::ZERO);
        Self { clock, rng, blocking, request_cost, pause: Pause::default(), boot: 0 }
    }

    /// The same world, in that run of its machine.
    pub fn with_boot(self, boot: u64) -> Self {
        Self { boot, ..self }
    }

    /// The same world, where each request takes a shard so long: machines of simulations have no
    /// limits else.
    pub fn with_request_cost(self, request_cost: Duration) -> Self {
        Self { request_cost, ..self }
    }

    /// The same world, where shards and disk work of simulations stand still while `pause` says so.
    /// Timers and whatever else runs in a process go on: only what would last is kept from it.
    pub fn with_pause(self, pause: Pause) -> Self {
        Self { pause, ..self }
    }

    /// Whether the process stands still.
    pub fn pause(&self) -> &Pause {
        &self.pause
    }

    /// Which run of the machine it is: a power cut ends one, the end of a process does not.
    pub fn boot(&self) -> u64 {
        self.boot
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
            Blocking::Inline => {
                self.pause.over().await;
                work()
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_process_does_no_disk_work() {
        let pause = Pause::default();
        let env = Env::simulated(Arc::new(SystemClock), 1).with_pause(pause.clone());
        assert_eq!(env.block(|| 1).await, 1);
        pause.set(true);
        let work = tokio::spawn(async move { env.block(|| 2).await });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!work.is_finished());
        pause.set(false);
        assert_eq!(work.await.unwrap(), 2);
    }
}
