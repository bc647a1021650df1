//! What an engine costs: group commits of 1 and 16 records of 1 KiB, point reads, a scan.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate_node::storage::fjall::FjallEngine;
use quorate_node::storage::memory::MemoryEngine;
use quorate_node::storage::sled::SledEngine;
use quorate_node::storage::{Batch, Engine, EngineOptions, KeyRange, Space};

const KEYS: u64 = 50_000;
const SCANNED: usize = 1000;

/// The `n`-th key of a sequence that jumps about, as hashed keys do.
fn key(n: u64) -> Vec<u8> {
    (n % KEYS).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec()
}

fn fill(engine: &dyn Engine, value: &Bytes) {
    for first in (0..KEYS).step_by(100) {
        let mut batch = Batch::new();
        (first..first + 100).for_each(|n| batch.put(Space::Objects, key(n), value.clone()));
        engine.apply(batch).expect("a temporary directory takes it");
    }
}

fn measure(criterion: &mut Criterion, name: &str, engine: &dyn Engine) {
    let value: Bytes = (0..1024u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fill(engine, &value);
    let mut group = criterion.benchmark_group(name);
    let mut n = 0;
    for size in [1, 16] {
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new("apply", size), |bencher| {
            bencher.iter(|| {
                let mut batch = Batch::new();
                (n..n + size).for_each(|n| batch.put(Space::Objects, key(n), value.clone()));
                n += size;
                engine.apply(batch).expect("a temporary directory takes it");
                // The memory engine remembers what is not synced.
                if name == "memory" && n % 1024 < size {
                    engine.sync().expect("memory does not fail");
                }
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("get", |bencher| {
        bencher.iter(|| {
            n += 1;
            engine.get(Space::Objects, &key(n)).expect("the store is whole")
        });
    });
    group.throughput(Throughput::Elements(SCANNED as u64));
    group.bench_function("scan", |bencher| {
        bencher.iter(|| engine.scan(Space::Objects, KeyRange::all()).take(SCANNED).count());
    });
    group.finish();
}

fn engines(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let fjall = FjallEngine::open(&directory.path().join("fjall"), EngineOptions::default())
        .expect("a new store opens");
    measure(criterion, "fjall", &fjall);
    let sled = SledEngine::open(&directory.path().join("sled"), EngineOptions::default())
        .expect("a new store opens");
    measure(criterion, "sled", &sled);
    measure(criterion, "memory", &MemoryEngine::new());
}

criterion_group!(benches, engines);
criterion_main!(benches);
