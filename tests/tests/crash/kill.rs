//! `kill -9` at random moments, again and again on one directory: every acknowledged batch is
//! there, and the state is a prefix of what was applied across lanes and spaces.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use quorate_node::storage::data_dir::EngineKind;
use quorate_tests::PATIENCE;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::child::{Promise, SIZES, Writer, command};
use crate::store::{Store, check};
use crate::workload::{Counts, Model};
use crate::{disk_engines, rounds, seed};

/// When a child is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After so many acknowledgements: in the midst of writing.
    Acks(u64),
    /// So long after its start: as a rule while it still opens what the last kill left.
    After(Duration),
}

impl Moment {
    fn draw(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_ratio(3, 4) {
            true => Self::Acks(1 << rng.random_range(0..12)),
            false => Self::After(Duration::from_millis(rng.random_range(0..60))),
        }
    }

    fn wait(self, writer: &Writer) {
        let deadline = Instant::now() + PATIENCE;
        let mut acks = 0;
        let until = match self {
            Self::Acks(_) => deadline,
            Self::After(time) => Instant::now() + time,
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match writer.acks.recv_timeout(left) {
                Ok(()) => acks += 1,
                Err(RecvTimeoutError::Timeout) => {
                    assert!(matches!(self, Self::After(_)), "only {acks} acknowledgements");
                    return;
                }
                // It ended by itself, which the kill will notice.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if matches!(self, Self::Acks(enough) if acks >= enough) {
                return;
            }
        }
    }
}

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    for kind in disk_engines() {
        kill_again_and_again(kind, seed("kill -9", kind), rounds(12));
    }
}

fn kill_again_and_again(kind: EngineKind, seed: u64, rounds: u64) {
    let directory = tempfile::tempdir().expect("there is a directory for temporary files");
    let path = directory.path().join("data");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut models = Model::lanes(seed, SIZES);
    let mut acked = Counts::default();
    for round in 0..rounds {
        let promise = Promise::ALL[rng.random_range(0..Promise::ALL.len())];
        let moment = Moment::draw(&mut rng);
        let writer = Writer::spawn(command(&path, kind, promise, seed));
        moment.wait(&writer);
        let heard = writer.kill();
        acked = std::array::from_fn(|lane| acked[lane].max(heard[lane]));
        // Now and then the next child is the first to open what the kill left.
        if round + 1 < rounds && rng.random_ratio(1, 3) {
            continue;
        }
        let store = Store::open(&path, kind).unwrap_or_else(|error| {
            panic!("round {round} ({promise:?}, {moment:?}): {error}");
        });
        let found = check(&*store.engine, &mut models, acked);
        eprintln!(
            "round {round}: {promise:?}, {moment:?}: acknowledged {acked:?}, found {found:?}"
        );
        acked = found;
    }
    assert!(acked.iter().sum::<u64>() > 0, "nothing was written");
}
