//! Flipped bits and truncated tails in the engine's files: never wrong bytes, never a panic, never a
//! silent loss. A damaged store either does not open, and says what was found where; or it opens and
//! holds every synced batch, and whatever it then cannot read is an error, which callers count.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use quorate_node::storage::data_dir::{DataDirError, EngineKind};
use quorate_node::storage::{Engine, EngineError, KeyRange, Space, record};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use crate::store::{Store, check};
use crate::workload::{Counts, LANES, Model, Sizes, batch, count_key, seen_key};
use crate::{disk_engines, rounds, seed};

/// Enough for tables on disk beside the log, and little enough to be copied often.
const SIZES: Sizes = Sizes { large_one_in: 3, large_max: 60_000 };
const BATCHES: u64 = 500;

/// Applied after the last sync.
const UNSYNCED: u64 = 5;

/// How a file is spoilt.
#[derive(Clone, Copy, Debug)]
enum Damage {
    FlippedBit,
    Truncation,
    /// A sector of zeros, as a lost write leaves one.
    Zeros,
}

/// What became of a damaged store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Refused,
    /// Every batch is there, but for unsynced ones.
    Whole,
    /// Opened, with so many errors instead of answers.
    Errors(usize),
}

/// A store of the workload, closed as a kill would, with a synced part and an unsynced one.
struct Original {
    kind: EngineKind,
    seed: u64,
    path: PathBuf,
    directory: TempDir,
}

impl Original {
    fn make(kind: EngineKind, seed: u64) -> Self {
        let directory = tempfile::tempdir().expect("there is a directory for temporary files");
        let path = directory.path().join("data");
        for part in [1..=BATCHES / 2, BATCHES / 2 + 1..=BATCHES] {
            let store = Store::open(&path, kind).expect("a new store is made");
            for n in part {
                for lane in 0..LANES {
                    let batch = batch(seed, lane, n, SIZES, Counts::default());
                    store.engine.apply(batch).expect("the disk takes it");
                }
                if n == BATCHES - UNSYNCED {
                    store.engine.sync().expect("the disk takes it");
                }
            }
        }
        Self { kind, seed, path, directory }
    }

    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.directory.path().join(name);
        copy_files(&self.path, &copy);
        copy
    }

    /// Opens a spoilt copy, and looks at everything in it.
    fn examine(&self, copy: &Path) -> Outcome {
        let store = match Store::open(copy, self.kind) {
            Ok(store) => store,
            Err(error) => {
                says_what_was_found(&error, copy);
                return Outcome::Refused;
            }
        };
        let errors = count_errors(&*store.engine);
        if errors > 0 {
            return Outcome::Errors(errors);
        }
        let synced = [BATCHES - UNSYNCED; LANES];
        check(&*store.engine, &mut Model::lanes(self.seed, SIZES), synced);
        Outcome::Whole
    }
}

fn says_what_was_found(error: &DataDirError, path: &Path) {
    let DataDirError::Engine { source, .. } = error else { panic!("not the engine's: {error}") };
    assert!(matches!(source, EngineError::Corrupt { .. } | EngineError::Io { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "it does not say where: {text}");
}

/// How much of the store cannot be read, in scans and by key. Every answer is sealed.
fn count_errors(engine: &dyn Engine) -> usize {
    let mut errors = 0;
    for space in Space::ALL {
        for lane in 0..LANES as u8 {
            for row in engine.scan(space, KeyRange::prefix(&[lane])) {
                match row {
                    Ok((key, value)) => errors += usize::from(record::open(&key, &value).is_err()),
                    Err(_) => errors += 1,
                }
            }
        }
        for key in keys() {
            match engine.get(space, &key) {
                Ok(None) => {}
                Ok(Some(value)) => errors += usize::from(record::open(&key, &value).is_err()),
                Err(_) => errors += 1,
            }
        }
    }
    errors
}

fn keys() -> impl Iterator<Item = Bytes> {
    let of_lane = |lane| {
        let rows = (0..=u8::MAX).map(move |row| Bytes::from(vec![lane as u8, b'k', row]));
        rows.chain([count_key(lane), seen_key(lane)])
    };
    (0..LANES).flat_map(of_lane)
}

/// Says to the test below that it is the child, and of which engine.
const VARIABLE: &str = "QUORATE_CRASH_DAMAGED";

/// What the address space of a child may have: many times what an opening takes, and less than the
/// machine has, which would else be lost with it. A process takes 64 MiB of it for each arena.
const ADDRESS_SPACE_KIB: u64 = 4 << 20;
const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "4");

/// How long one round may take before the child is taken for one that does not end: on any machine it
/// takes seconds.
const ROUND: Duration = Duration::from_secs(300);

/// In a process of its own, since an engine that is misled by a damaged length or a circle of pages
/// takes whatever memory there is.
#[test]
fn a_damaged_file_is_never_a_silent_loss() {
    for kind in disk_engines() {
        let seed = seed("damage", kind);
        let script = format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$0\" \"$@\"");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .arg(std::env::current_exe().expect("a test knows its own path"))
            .args(["--exact", "damage::examines_what_was_spoilt", "--nocapture"])
            .env(VARIABLE, kind.name())
            .env("QUORATE_CRASH_SEED", seed.to_string())
            .env(ARENAS.0, ARENAS.1)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let told = tell(&mut child);
        let mut last = "it makes a store".to_owned();
        let ended = loop {
            match told.recv_timeout(ROUND) {
                Ok(line) => {
                    eprintln!("{line}");
                    last = line;
                }
                Err(RecvTimeoutError::Disconnected) => break child.wait().expect("it is a child"),
                Err(RecvTimeoutError::Timeout) => {
                    quorate_tests::kill(&mut child);
                    panic!("{kind}, seed {seed}: no end after {ROUND:?}: {last}");
                }
            }
        };
        assert!(
            ended.success(),
            "{kind}, seed {seed}: {ended}, in {ADDRESS_SPACE_KIB} KiB of memory at most: {last}"
        );
    }
}

/// What a child writes to stderr, line by line.
fn tell(child: &mut Child) -> Receiver<String> {
    let stderr = child.stderr.take().expect("it was piped");
    let (send, told) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more once the test has failed.
        BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
    });
    told
}

#[test]
fn examines_what_was_spoilt() {
    // An ordinary run of the tests, which has nothing to do here.
    let Ok(kind) = std::env::var(VARIABLE) else { return };
    let kind = disk_engines().find(|known| known.name() == kind).expect("an engine");
    let seed = crate::number("QUORATE_CRASH_SEED").expect("the seed is named");
    let original = Original::make(kind, seed);
    assert_eq!(original.examine(&original.copy("untouched")), Outcome::Whole);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut outcomes = Vec::new();
    for round in 0..rounds(16) {
        let copy = original.copy("copy");
        let what = spoil(&copy.join(kind.name()), &mut rng);
        eprintln!("round {round}: {what}");
        let outcome = original.examine(&copy);
        eprintln!("round {round}: {outcome:?}");
        outcomes.push(outcome);
        fs::remove_dir_all(&copy).expect("the directory is the test's own");
    }
    let refused = outcomes.contains(&Outcome::Refused);
    assert!(refused, "{kind}: no damage was noticed at opening, which is not to be believed");
}

/// Spoils one file of those in a directory, larger ones more often; says how.
fn spoil(directory: &Path, rng: &mut ChaCha8Rng) -> String {
    let mut files = Vec::new();
    list(directory, &mut files);
    // Half of the time by size, since most bytes are in few files; else any.
    let total: u64 = files.iter().map(|(_, content)| content.len() as u64).sum();
    let mut at = rng.random_range(0..total);
    let by_size = files.iter().position(|(_, content)| {
        let here = at < content.len() as u64;
        at = at.saturating_sub(if here { 0 } else { content.len() as u64 });
        here
    });
    let by_size = by_size.expect("the draw is less than the total");
    let any = rng.random_range(0..files.len());
    let (path, mut content) = files.swap_remove(if rng.random() { by_size } else { any });
    let damage = [Damage::FlippedBit, Damage::Truncation, Damage::Zeros][rng.random_range(0..3)];
    let at = rng.random_range(0..content.len());
    match damage {
        Damage::FlippedBit => content[at] ^= 1 << rng.random_range(0..8),
        Damage::Truncation => content.truncate(at),
        Damage::Zeros => {
            let end = content.len().min(at + 512);
            content[at..end].fill(0);
        }
    }
    fs::write(&path, content).expect("the file is the test's own");
    format!("{damage:?} at {at} of {}", path.display())
}

/// The files below a directory that are not empty, in the order of their names. What an engine
/// allocated ahead is not counted.
fn list(directory: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    let entries = fs::read_dir(directory).expect("the directory is there");
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the directory can be listed").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            list(&path, files);
            continue;
        }
        let mut content = fs::read(&path).expect("the file can be read");
        let written = content.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        content.truncate(written);
        if !content.is_empty() {
            files.push((path, content));
        }
    }
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).expect("the copy is new");
    for entry in fs::read_dir(from).expect("the directory is there") {
        let entry = entry.expect("the directory can be listed");
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_files(&path, &copy);
        } else {
            fs::copy(&path, &copy).expect("the file can be copied");
        }
    }
}
