//! Compares the engines on disk: what they do in a second, what they take of disk and memory.
//!
//! `cargo run --release -p quorate-node --example engines [KEYS]`. Each engine runs in a process of its
//! own, in a temporary directory (`TMPDIR` says where), on records of 1 KiB with a cache of 64 MiB.
//! *Cold* reads come right after an opening, once the files were put out of the operating system's
//! cache; *warm* ones ask for a tenth of the keys, again and again.
#![allow(clippy::print_stdout)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use mimalloc::MiMalloc;
use quorate_node::storage::fjall::FjallEngine;
use quorate_node::storage::sled::SledEngine;
use quorate_node::storage::{Batch, Engine, EngineError, EngineOptions, KeyRange, Space};
use rand::seq::SliceRandom as _;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// The allocator of `quorate`, or its memory would not be compared.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const ENGINES: [&str; 2] = ["fjall", "sled"];
const KEYS: u64 = 200_000;
const VALUE_BYTES: usize = 1024;
const WRITERS: u64 = 64;

/// How long each of the timed measurements runs.
const FOR: Duration = Duration::from_secs(4);

/// Records per batch of the load, as a busy shard groups them.
const GROUP: usize = 64;

/// Keys that are overwritten ten times.
const OVERWRITTEN: u64 = 50_000;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [engine, keys] => measure(engine, keys.parse()?),
        [keys] => compare(keys.parse()?),
        _ => compare(KEYS),
    }
}

/// Runs itself for each engine, and prints a table.
fn compare(keys: u64) -> anyhow::Result<()> {
    let mut columns = Vec::new();
    for engine in ENGINES {
        let program = std::env::current_exe()?;
        let output = Command::new(program).args([engine, &keys.to_string()]).output()?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        anyhow::ensure!(output.status.success(), "{engine}: {errors}");
        let lines = String::from_utf8(output.stdout)?;
        columns.push(lines.lines().map(str::to_owned).collect::<Vec<_>>());
    }
    println!("| {keys} records of 1 KiB | {} |", ENGINES.join(" | "));
    println!("|---|---|---|");
    for (left, right) in columns[0].iter().zip(&columns[1]) {
        let (what, left) = left.split_once('\t').context("a measurement has a name")?;
        let (_, right) = right.split_once('\t').context("a measurement has a name")?;
        println!("| {what} | {left} | {right} |");
    }
    Ok(())
}

fn open(engine: &str, path: &Path) -> Result<Box<dyn Engine>, EngineError> {
    let options = EngineOptions::default();
    Ok(match engine {
        "sled" => Box::new(SledEngine::open(path, options)?),
        _ => Box::new(FjallEngine::open(path, options)?),
    })
}

/// All measurements of one engine, a line each.
fn measure(name: &str, keys: u64) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join(name);
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let engine = open(name, &path)?;
    load(&*engine, keys, &mut rng)?;
    engine.sync()?;
    tell("memory after that, MiB", &mib(resident()?));
    let disk = engine.stats()?.disk_bytes;
    tell("disk after that, bytes per byte", &ratio(disk, keys));
    warm(&*engine, keys, &mut rng)?;
    scan(&*engine)?;
    tell("memory after reading, MiB", &mib(resident()?));
    single_puts(&*engine, keys, &mut rng)?;
    durable_puts(&*engine, keys)?;
    drop(engine);
    openings(name, &path, keys, &mut rng)?;
    overwrites(name, &directory.path().join("overwritten"), keys.min(OVERWRITTEN), &mut rng)
}

fn openings(name: &str, path: &Path, keys: u64, rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
    let started = Instant::now();
    drop(open(name, path)?);
    tell("opening, s", &format!("{:.2}", started.elapsed().as_secs_f64()));
    forget_files(path)?;
    let started = Instant::now();
    let engine = open(name, path)?;
    tell("opening from a cold disk, s", &format!("{:.2}", started.elapsed().as_secs_f64()));
    forget_files(path)?;
    let rate = timed(|| get(&*engine, rng.random_range(0..keys)))?;
    tell("cold gets/s", &rate);
    Ok(())
}

fn overwrites(name: &str, path: &Path, keys: u64, rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
    let engine = open(name, path)?;
    for _ in 0..11 {
        load(&*engine, keys, rng)?;
    }
    engine.sync()?;
    let disk = engine.stats()?.disk_bytes;
    tell("disk after ten overwrites, bytes per byte", &ratio(disk, keys));
    Ok(())
}

fn tell(what: &str, result: &str) {
    println!("{what}\t{result}");
}

/// Key `n`, hashed, as the store's keys are.
fn key(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
}

/// Bytes that do not compress.
fn value(rng: &mut ChaCha8Rng) -> Bytes {
    let mut value = vec![0; VALUE_BYTES];
    rng.fill_bytes(&mut value);
    value.into()
}

/// Writes every key once, in random order, in groups.
fn load(engine: &dyn Engine, keys: u64, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    static TOLD: Once = Once::new();
    let mut order: Vec<u64> = (0..keys).collect();
    order.shuffle(rng);
    let started = Instant::now();
    for group in order.chunks(GROUP) {
        let mut batch = Batch::new();
        group.iter().for_each(|&n| batch.put(Space::Objects, key(n), value(rng)));
        engine.apply(batch)?;
    }
    let rate = keys as f64 / started.elapsed().as_secs_f64();
    TOLD.call_once(|| tell("random puts/s, 64 a batch", &format!("{rate:.0}")));
    Ok(())
}

fn get(engine: &dyn Engine, n: u64) -> Result<usize, EngineError> {
    let found = engine.get(Space::Objects, &key(n))?;
    assert_eq!(found.map(|value| value.len()), Some(VALUE_BYTES));
    Ok(1)
}

fn warm(engine: &dyn Engine, keys: u64, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let some = (keys / 10).max(1);
    for n in 0..some {
        get(engine, n)?;
    }
    let rate = timed(|| get(engine, rng.random_range(0..some)))?;
    tell("warm gets/s", &rate);
    Ok(())
}

fn scan(engine: &dyn Engine) -> Result<(), EngineError> {
    let rate = timed(|| Ok(engine.scan(Space::Objects, KeyRange::all()).take(50_000).count()))?;
    tell("scanned records/s", &rate);
    Ok(())
}

fn single_puts(engine: &dyn Engine, keys: u64, rng: &mut ChaCha8Rng) -> Result<(), EngineError> {
    let rate = timed(|| {
        let mut batch = Batch::new();
        batch.put(Space::Objects, key(rng.random_range(0..keys)), value(rng));
        engine.apply(batch)?;
        Ok(1)
    })?;
    tell("random puts/s, one a batch, one writer", &rate);
    Ok(())
}

/// How many in a second, of what `run` says it did at each call.
fn timed(mut run: impl FnMut() -> Result<usize, EngineError>) -> Result<String, EngineError> {
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < FOR {
        done += run()?;
    }
    Ok(format!("{:.0}", done as f64 / started.elapsed().as_secs_f64()))
}

/// The key of a put, and who waits for it.
type Put = (u64, Sender<()>);

/// Puts of many writers, each of which waits for the disk; a thread commits in groups whatever has
/// queued up, as a shard does.
fn durable_puts(engine: &dyn Engine, keys: u64) -> anyhow::Result<()> {
    let (send, puts) = sync_channel(WRITERS as usize);
    let started = Instant::now();
    let committed = thread::scope(|threads| {
        let committing = threads.spawn(move || commit(engine, &puts));
        for writer in 0..WRITERS {
            let send = send.clone();
            threads.spawn(move || put_on(&send, keys, writer, started));
        }
        drop(send);
        committing.join()
    });
    let committed = committed.map_err(|_| anyhow::anyhow!("the committing thread panicked"))??;
    let rate = committed as f64 / started.elapsed().as_secs_f64();
    tell("durable puts/s, 64 writers in groups", &format!("{rate:.0}"));
    Ok(())
}

fn put_on(send: &SyncSender<Put>, keys: u64, seed: u64, started: Instant) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    while started.elapsed() < FOR {
        let (done, wait) = channel();
        // The other end is gone once the engine has failed.
        if send.send((rng.random_range(0..keys), done)).is_err() || wait.recv().is_err() {
            return;
        }
    }
}

fn commit(engine: &dyn Engine, puts: &Receiver<Put>) -> Result<u64, EngineError> {
    let (mut rng, mut committed) = (ChaCha8Rng::seed_from_u64(8), 0);
    while let Ok(first) = puts.recv() {
        let group: Vec<Put> = std::iter::once(first).chain(puts.try_iter()).collect();
        let mut batch = Batch::new();
        group.iter().for_each(|(n, _)| batch.put(Space::Objects, key(*n), value(&mut rng)));
        engine.apply(batch)?;
        engine.sync()?;
        committed += group.len() as u64;
        for (_, done) in group {
            done.send(()).expect("a writer waits for its put");
        }
    }
    Ok(committed)
}

/// Puts an engine's files out of the operating system's cache.
fn forget_files(path: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget_files(&entry.path())?;
        } else {
            let file = File::open(entry.path())?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// The memory that this process has, in bytes.
fn resident() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("Linux says how much memory a process has")?.parse::<u64>()? << 10)
}

fn mib(bytes: u64) -> String {
    (bytes >> 20).to_string()
}

fn ratio(bytes: u64, keys: u64) -> String {
    format!("{:.2}", bytes as f64 / (keys * (8 + VALUE_BYTES as u64)) as f64)
}
