//! `bench`: a load on one namespace, and how the cluster takes it.
//!
//! [`load`] says what is done to which key and when, [`worker`] does it, [`contexts`] remembers
//! what each key's next write replaces, [`report`] counts. A worker is a task, so that thousands
//! cost little; the tool itself should not be what is measured.

mod contexts;
mod load;
mod report;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::StreamExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::contexts::Contexts;
use self::load::{Keys, Schedule, Values};
use self::report::{Report, Reports};
use self::worker::{Bench, Worker};
use crate::args::BenchArgs;
use crate::commands::Session;
use crate::failure::Exit;
use crate::formats::Pair;
use crate::import::{Doubt, KvStore, RowError, Store as _, retry_in};
use crate::progress::Progress;
use crate::stderr::{Notice, say};

/// Runs the load and reports. Operations that fail are counted, and no failure of the command unless
/// all of them do.
pub(crate) async fn run(session: &Session, args: BenchArgs) -> Result<Exit> {
    let namespace = session.client.describe_namespace(&args.namespace).await?;
    if args.value_size > namespace.value_max_bytes {
        let limit = namespace.value_max_bytes;
        bail!("--value-size {} is over the namespace's limit of {limit} bytes", args.value_size);
    }
    let bench = Arc::new(Bench {
        namespace: session.client.namespace(args.namespace.as_str()),
        workload: args.workload,
        keys: Keys::new(args.keys, args.zipf),
        values: Values::new(args.value_size as usize),
        contexts: Contexts::new(args.blind),
        batch: args.batch as usize,
        quorum: args.quorum.quorum(),
        retry: retry_in(namespace.conflict),
        timeout: session.timeout,
        reports: Reports::default(),
    });
    if args.prepare {
        prepare(&bench, &args).await?;
    }
    let report = measure(bench, &args).await?;
    let json = report.json();
    session.output.result(&json, || json.to_string())?;
    report.notices().iter().for_each(say);
    if report.is_in_vain() {
        say(&Notice::error("unavailable", "no operation succeeded"));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Done)
}

/// Puts a value under every key, in place of whatever is there.
async fn prepare(bench: &Bench, args: &BenchArgs) -> Result<()> {
    let progress = Progress::keys(Some(args.keys));
    let store = KvStore::new(bench.namespace.clone(), bench.retry, bench.timeout);
    let store = store.with_quorum(bench.quorum);
    let write = |index: u64| {
        let value = bench.values.slice(index);
        let row = store.alone(Pair { key: Keys::name(index), value });
        let store = &store;
        async move { (index, store.store(row, &Doubt::default()).await) }
    };
    let writes = futures::stream::iter((0..args.keys).map(write));
    let mut writes = std::pin::pin!(writes.buffer_unordered(args.concurrency as usize));
    while let Some((index, stored)) = writes.next().await {
        match stored {
            Ok(context) => bench.contexts.on_reply(index, context),
            Err(RowError { reason, .. }) => {
                bail!("cannot prepare key {index} of {}: {reason}", args.keys)
            }
        }
        progress.advance(1);
    }
    Ok(())
}

async fn measure(bench: Arc<Bench>, args: &BenchArgs) -> Result<Report> {
    let schedule = Arc::new(Schedule::new(Instant::now(), args.duration, args.rate));
    let mut workers = JoinSet::new();
    for number in 0..args.concurrency {
        let worker = Worker::new(bench.clone(), schedule.clone(), u64::from(number));
        workers.spawn(worker.run());
    }
    while let Some(ended) = workers.join_next().await {
        ended?;
    }
    let took = schedule.started().elapsed().max(Duration::from_millis(1));
    let mut report = bench.reports.whole();
    report.seconds = took.as_secs_f64();
    report.missed = schedule.missed();
    Ok(report)
}
