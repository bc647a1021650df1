//! What the engine alone costs for the rows of a put: processor time per key, by thread.
//!
//! `cargo run --release -p quorate-node --example put_floor [KEYS] [BATCH]`. The rows are those of a
//! vnode: an object of 1 KiB, the operation in the index, the frontier of one of 256 partitions; and
//! *read first* is what a put has to look up, the object and, at the one of three owners that
//! coordinates, the operation. It is the floor under `server_us/op` of `tests/scripts/measure.sh`, which
//! every owner pays. Half of the keys are overwritten once.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use mimalloc::MiMalloc;
use quorate_node::storage::fjall::FjallEngine;
use quorate_node::storage::{Batch, Engine, EngineOptions, Space};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// The allocator of `quorate`.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const KEYS: u64 = 200_000;
const PARTITIONS: u64 = 256;

/// Sizes of keys and values, seals and all.
const OBJECT_VALUE_BYTES: usize = 1024 + 100;
const OPERATION_VALUE_BYTES: usize = 36;
const FRONTIER_VALUE_BYTES: usize = 14;

/// What is done for a key.
#[derive(Clone, Copy)]
struct Work {
    what: &'static str,
    rows: usize,
    reads: bool,
}

const WORK: [Work; 4] = [
    Work { what: "object", rows: 1, reads: false },
    Work { what: "and operation", rows: 2, reads: false },
    Work { what: "and frontier", rows: 3, reads: false },
    Work { what: "read first", rows: 3, reads: true },
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<u64> =
        std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    let keys = arguments.first().copied().unwrap_or(KEYS);
    let batches = arguments.get(1).map_or(vec![1, 8, 21, 64], |&batch| vec![batch]);
    println!("| keys a batch | rows | us of processor time per key | of that, by thread |");
    println!("|---|---|---|---|");
    for batch in batches {
        for work in WORK {
            measure(keys, batch, work)?;
        }
    }
    Ok(())
}

fn measure(keys: u64, batch: u64, work: Work) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let engine = FjallEngine::open(&directory.path().join("store"), EngineOptions::default())?;
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut random = vec![0; OBJECT_VALUE_BYTES + 1024];
    rng.fill_bytes(&mut random);
    let before = cpu_us()?;
    let mut n = 0;
    while n < keys {
        let mut writes = Batch::new();
        for _ in 0..batch {
            n += 1;
            put(&engine, &mut writes, (n, keys), &random, work)?;
        }
        engine.apply(writes)?;
    }
    engine.sync()?;
    let spent: BTreeMap<String, u64> = cpu_us()?
        .into_iter()
        .map(|(thread, us)| (thread.clone(), us - before.get(&thread).copied().unwrap_or(0)))
        .collect();
    let total: u64 = spent.values().sum();
    let each = |us: u64| format!("{:.1}", us as f64 / keys as f64);
    let threads: Vec<String> = spent
        .iter()
        .filter(|(_, us)| **us > 0)
        .map(|(t, us)| format!("{t} {}", each(*us)))
        .collect();
    let what = work.what;
    println!("| {batch} | {what} | {} | {} |", each(total), threads.join(", "));
    Ok(())
}

fn put(
    engine: &FjallEngine,
    writes: &mut Batch,
    (n, keys): (u64, u64),
    random: &[u8],
    Work { rows, reads, .. }: Work,
) -> anyhow::Result<()> {
    let hash = (n % (keys / 2 + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let vnode = [3, 0, (hash % PARTITIONS) as u8];
    let at = (hash >> 54) as usize;
    let value = |bytes: usize| Bytes::copy_from_slice(&random[at..at + bytes]);
    let object = [&vnode[..], &[0; 8], format!("key-{hash:016x}").as_bytes()].concat();
    let operation = [&vnode[..], &n.to_be_bytes(), &[7; 24], &n.to_le_bytes()].concat();
    if reads {
        std::hint::black_box(engine.get(Space::Objects, &object)?);
        if n.is_multiple_of(3) {
            std::hint::black_box(engine.get(Space::Operations, &operation)?);
        }
    }
    writes.put(Space::Objects, object, value(OBJECT_VALUE_BYTES));
    if rows > 1 {
        writes.put(Space::Operations, operation, value(OPERATION_VALUE_BYTES));
    }
    if rows > 2 {
        let frontier = [&vnode[..], &[9; 8]].concat();
        writes.put(Space::Frontiers, frontier, value(FRONTIER_VALUE_BYTES));
    }
    Ok(())
}

/// Processor time of each of this process's threads so far, those of one name together.
fn cpu_us() -> anyhow::Result<BTreeMap<String, u64>> {
    const TICK_US: u64 = 10_000;
    let mut threads = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task")? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        let (name, rest) = stat.rsplit_once(')').unwrap_or_default();
        let name = name.split_once('(').map_or(name, |(_, name)| name).to_owned();
        let field = |at: usize| rest.split_whitespace().nth(at).and_then(|f| f.parse::<u64>().ok());
        let ticks = field(11).unwrap_or(0) + field(12).unwrap_or(0);
        *threads.entry(name).or_insert(0) += ticks * TICK_US;
    }
    Ok(threads)
}
