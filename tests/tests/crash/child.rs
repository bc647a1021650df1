//! The process that is killed: this test binary, run again as one test that writes until it dies.
//!
//! It acknowledges each batch by a line on stdout, `ack LANE NUMBER`, once the batch is what its
//! durability promises. Who reads the pipe after the kill knows everything that was acknowledged.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

use quorate_node::storage::data_dir::EngineKind;
use quorate_node::storage::{Engine, EngineError};

use crate::store::{Lane, Store, read_lane};
use crate::workload::{Counts, LANES, Sizes, batch};

/// Says to the test below that it is the child, and what it is to do.
const VARIABLE: &str = "QUORATE_CRASH_CHILD";
const DIRECTORY: &str = "QUORATE_CRASH_DIRECTORY";
const SEED: &str = "QUORATE_CRASH_CHILD_SEED";

/// Set if only one lane is to write, and nobody else to sync.
pub(crate) const ALONE: &str = "QUORATE_CRASH_ALONE";

/// Set if the disk is going to fail, after which there is something to be looked at.
pub(crate) const FAILING: &str = "QUORATE_CRASH_FAILING";

/// Set if the disk is to fail one of several syncs at a time: this flag of the shim's does it.
pub(crate) const TOGETHER: &str = "QUORATE_CRASH_TOGETHER";

/// Values that fill an engine's tables within seconds.
pub(crate) const SIZES: Sizes = Sizes { large_one_in: 12, large_max: 100_000 };

/// When a batch is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Promise {
    /// Once it was applied; somebody else syncs now and then, as a node's background task does.
    Buffered,
    /// Once it was synced.
    Synced,
    /// The one or the other by turns.
    Mixed,
}

impl Promise {
    pub(crate) const ALL: [Self; 3] = [Self::Buffered, Self::Synced, Self::Mixed];

    const fn name(self) -> &'static str {
        match self {
            Self::Buffered => "buffered",
            Self::Synced => "synced",
            Self::Mixed => "mixed",
        }
    }

    fn syncs(self, n: u64) -> bool {
        self == Self::Synced || self == Self::Mixed && n.is_multiple_of(3)
    }
}

/// A child that runs.
pub(crate) struct Writer {
    child: Child,
    /// One unit for each acknowledged batch.
    pub(crate) acks: Receiver<()>,
    reader: JoinHandle<Counts>,
}

/// The command that runs the child.
pub(crate) fn command(path: &Path, kind: EngineKind, promise: Promise, seed: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its own path"));
    command
        .args(["--exact", "child::writes_until_it_is_killed", "--nocapture"])
        .env(VARIABLE, format!("{kind} {}", promise.name()))
        .env(DIRECTORY, path)
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

impl Writer {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the test binary runs again");
        let stdout = child.stdout.take().expect("it was piped");
        let (send, acks) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut acked = Counts::default();
            for line in BufReader::new(stdout).lines() {
                // A kill may cut the last line: it says nothing then.
                let Some((lane, n)) = line.ok().as_deref().and_then(parse) else { continue };
                let last = std::mem::replace(&mut acked[lane], n);
                assert!(last == 0 || n == last + 1, "{n} was acknowledged after {last}");
                // Nobody waits for acks after the kill.
                let _ = send.send(());
            }
            acked
        });
        Self { child, acks, reader }
    }

    /// Kills it; how far each lane was acknowledged, 0 if not at all in this run.
    pub(crate) fn kill(mut self) -> Counts {
        let before = self.child.try_wait().expect("a child can be waited for");
        assert!(before.is_none(), "the child ended by itself: {before:?}");
        quorate_tests::kill(&mut self.child);
        self.reader.join().expect("the acknowledgements make sense")
    }
}

/// The lane and the number of an acknowledgement.
pub(crate) fn parse(line: &str) -> Option<(usize, u64)> {
    let mut words = line.strip_prefix("ack ")?.strip_suffix('.')?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[test]
fn writes_until_it_is_killed() {
    // An ordinary run of the tests, which has nothing to do here.
    let Ok(order) = std::env::var(VARIABLE) else { return };
    let (kind, promise) = order.split_once(' ').expect("an engine and a promise");
    let kind = EngineKind::ALL.into_iter().find(|k| k.name() == kind).expect("an engine");
    let promise = Promise::ALL.into_iter().find(|p| p.name() == promise).expect("a promise");
    let directory = std::env::var_os(DIRECTORY).expect("the directory is named");
    let seed = crate::number(SEED).expect("the seed is named");
    let store = Store::open(Path::new(&directory), kind).expect("what a kill left opens");
    write(&*store.engine, kind, promise, seed, store.counts());
}

fn write(engine: &dyn Engine, kind: EngineKind, promise: Promise, seed: u64, done: Counts) {
    let progress: [AtomicU64; LANES] = done.map(AtomicU64::new);
    if std::env::var_os(FAILING).is_some() {
        return write_until_it_fails(engine, kind, promise, seed, done[0]);
    }
    if let Some(flag) = std::env::var_os(TOGETHER) {
        return sync_together(engine, Path::new(&flag), seed);
    }
    if std::env::var_os(ALONE).is_some() {
        return write_lane(engine, promise, seed, 0, &progress);
    }
    thread::scope(|threads| {
        for lane in 0..LANES {
            let progress = &progress;
            threads.spawn(move || write_lane(engine, promise, seed, lane, progress));
        }
        loop {
            thread::sleep(std::time::Duration::from_millis(20));
            engine.sync().expect("the disk takes it");
        }
    });
}

fn write_lane(
    engine: &dyn Engine,
    promise: Promise,
    seed: u64,
    lane: usize,
    progress: &[AtomicU64; LANES],
) {
    let mut stdout = io::stdout();
    let mut n = progress[lane].load(Ordering::Acquire);
    loop {
        n += 1;
        let seen = std::array::from_fn(|other| progress[other].load(Ordering::Acquire));
        engine.apply(batch(seed, lane, n, SIZES, seen)).expect("the disk takes it");
        progress[lane].store(n, Ordering::Release);
        if promise.syncs(n) {
            engine.sync().expect("the disk takes it");
        }
        // The line ends in a point, so that one that was cut is no other number. Without a reader
        // there is no more to do: the parent has ended.
        if writeln!(stdout, "ack {lane} {n}.").is_err() {
            std::process::exit(1);
        }
    }
}

/// Writes until the disk fails; then the engine refuses writes and syncs, and reads go on.
///
/// Not sled's reads, though, once a write of its own failed: they tell that failure.
fn write_until_it_fails(
    engine: &dyn Engine,
    kind: EngineKind,
    promise: Promise,
    seed: u64,
    done: u64,
) {
    let mut n = done;
    let failure = loop {
        n += 1;
        let batch = batch(seed, 0, n, SIZES, Counts::default());
        let done = engine.apply(batch).and_then(|()| match promise.syncs(n) {
            true => engine.sync(),
            false => Ok(()),
        });
        match done {
            Ok(()) => writeln!(io::stdout(), "ack 0 {n}.").expect("the parent reads"),
            Err(failure) => break failure,
        }
    };
    let next = batch(seed, 0, n + 1, SIZES, Counts::default());
    let refused = engine.apply(next).expect_err("a poisoned engine takes nothing more");
    assert!(matches!(refused, EngineError::Poisoned), "{refused}");
    let refused = engine.sync().expect_err("and calls nothing synced");
    assert!(matches!(refused, EngineError::Poisoned), "{refused}");
    match read_lane(engine, 0) {
        Ok(Lane { count: held, .. }) => {
            assert!(held >= n - 1, "{} batches were acknowledged, and {held} are read", n - 1);
        }
        Err(again) => {
            assert_eq!(kind, EngineKind::Sled, "reads go on: {again}");
            assert_eq!(again.to_string(), failure.to_string());
        }
    }
    writeln!(io::stdout(), "failed {failure}").expect("the parent reads");
}

/// Syncs on several threads at a time, of which the operating system tells a single one that it
/// failed: none may call anything synced.
fn sync_together(engine: &dyn Engine, flag: &Path, seed: u64) {
    engine.sync().expect("the disk is well");
    engine.apply(batch(seed, 0, 1, SIZES, Counts::default())).expect("the disk takes it");
    std::fs::write(flag, "").expect("the shim's directory is there");
    let synced = thread::scope(|threads| {
        let syncs: Vec<_> = (0..4).map(|_| threads.spawn(|| engine.sync())).collect();
        syncs.into_iter().map(|sync| sync.join().expect("no panic")).collect::<Vec<_>>()
    });
    assert!(synced.iter().all(Result::is_err), "{synced:?}");
    let told = synced.iter().filter(|sync| matches!(sync, Err(EngineError::Io { .. }))).count();
    assert_eq!(told, 1, "{synced:?}");
}
