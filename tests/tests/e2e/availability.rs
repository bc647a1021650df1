//! One node after the other dies, stands still and comes back, under load: no request fails, and what
//! the node missed is brought to it.
//!
//! `QUORATE_FAULT_SECONDS=10` makes each fault as long as in the measurements of docs/benchmarks.md.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate_client::{
    BatchEntry, BatchOptions, Client, ClientConfig, Context, GetOptions, Namespace, PutOptions,
    Retry, WriteError,
};
use quorate_tests::{Cluster, until};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// How many clients there are, and how many keys each of them writes and reads in turn.
const CLIENTS: usize = 8;
const KEYS: usize = 40;

/// How many keys are written while a node is down.
const MISSED: usize = 10_000;

/// How many requests are answered in each phase at least, however slow the machine is.
const ANSWERED: usize = 4 * CLIENTS;

/// What happens meanwhile.
const PHASES: [&str; 5] = ["before", "one killed", "it is back", "one paused", "it goes on"];

/// How long a fault lasts.
fn fault() -> Duration {
    let seconds = env::var("QUORATE_FAULT_SECONDS").ok();
    let seconds = seconds.map(|seconds| seconds.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(4))
}

async fn connect(cluster: &Cluster) -> Client {
    let nodes = cluster.nodes().iter().map(|node| node.client_address());
    let config = ClientConfig { timeout: Duration::from_secs(10), ..ClientConfig::new(nodes) };
    Client::connect(config).await.expect("a node answers")
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    phase: AtomicUsize,
    stop: AtomicBool,
    /// For each phase, how long each request took.
    took: Mutex<[Vec<Duration>; PHASES.len()]>,
    failed: Mutex<Vec<String>>,
}

impl Seen {
    fn ended(&self, started: Instant, failed: Option<String>) {
        let phase = self.phase.load(Ordering::Relaxed);
        self.took.lock().expect("no client panics")[phase].push(started.elapsed());
        let failed = failed.map(|reason| format!("{}: {reason}", PHASES[phase]));
        self.failed.lock().expect("no client panics").extend(failed);
    }

    /// Waits until the present phase has lasted as long as a fault, and requests were answered in it.
    fn lasts(&self) {
        let (phase, began) = (self.phase.load(Ordering::Relaxed), Instant::now());
        until("the clients go on", || {
            let answered = self.took.lock().expect("no client panics")[phase].len();
            (began.elapsed() >= fault() && answered > ANSWERED).then_some(())
        });
    }

    /// Requests that are answered from now on belong to the next phase.
    fn next(&self) {
        self.phase.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut took = self.took.lock().expect("no client panics").clone();
        for (phase, took) in PHASES.iter().zip(&mut took) {
            took.sort();
            let at =
                |part: f64| took.get((took.len() as f64 * part) as usize).map(|d| d.as_micros());
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|part| at(part).unwrap_or_default());
            let most = took.last().map_or(0, Duration::as_micros);
            let count = took.len();
            writeln!(
                f,
                "{phase:>12}: {count:>6} requests, p50 {p50} us, p99 {p99}, p99.9 {p999}, max {most}"
            )?;
        }
        Ok(())
    }
}

/// Writes and reads keys of its own, each write in the place of what it saw last.
async fn load(client: Client, number: usize, seen: Arc<Seen>) {
    let (namespace, mut contexts) = (client.namespace("load"), BTreeMap::new());
    for round in 0.. {
        if seen.stop.load(Ordering::Relaxed) {
            return;
        }
        let key = format!("client-{number}-{}", round % KEYS);
        let value = round.to_string();
        write(&namespace, &key, value, &mut contexts, &seen).await;
        read(&namespace, &key, &mut contexts, &seen).await;
    }
}

type Contexts = BTreeMap<String, Option<Context>>;

async fn write(
    namespace: &Namespace,
    key: &str,
    value: String,
    contexts: &mut Contexts,
    seen: &Seen,
) {
    let (context, started) = (contexts.get(key).cloned().flatten(), Instant::now());
    let options = PutOptions { context, retry: Retry::AtLeastOnce, ..PutOptions::default() };
    let written = namespace.put(key.to_owned(), value, options).await;
    seen.ended(started, written.as_ref().err().map(|error| format!("put {key}: {error}")));
    if let Ok(written) = written {
        contexts.insert(key.to_owned(), written.context);
    }
}

/// Of a key that was written before: it must be found.
async fn read(namespace: &Namespace, key: &str, contexts: &mut Contexts, seen: &Seen) {
    let started = Instant::now();
    let read = namespace.get(key.to_owned(), GetOptions::default()).await;
    let failed = match &read {
        Err(error) => Some(format!("get {key}: {error}")),
        Ok(read) if read.siblings.is_empty() => Some(format!("get {key}: not found")),
        Ok(_) => None,
    };
    seen.ended(started, failed);
    if let (Ok(read), Some(None)) = (read, contexts.get(key)) {
        contexts.insert(key.to_owned(), read.context);
    }
}

fn new_namespace(cluster: &Cluster, name: &str) {
    cluster.cli().line(&format!("namespace create {name} --sloppy")).ok();
}

fn hints_are_home(cluster: &Cluster) {
    until("all hints are home", || {
        let hints = cluster.cli().json("hints");
        let queues = hints["queues"].as_array().expect("a list");
        let all_told = hints["unreachable"].as_array().is_none_or(Vec::is_empty);
        (queues.is_empty() && all_told).then_some(())
    });
}

#[test]
fn no_request_fails_while_one_node_dies_or_stands_still() {
    let mut cluster = Cluster::start(5);
    new_namespace(&cluster, "load");
    let (runtime, seen) = (Runtime::new().expect("threads"), Arc::new(Seen::default()));
    let client = runtime.block_on(connect(&cluster));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn_on(load(client.clone(), number, seen.clone()), runtime.handle());
    }
    let [killed, paused] = [1, 3].map(|at| cluster.nodes()[at].name().to_owned());
    seen.lasts();
    seen.next();
    cluster.named(&killed).kill();
    seen.lasts();
    seen.next();
    cluster.named(&killed).start();
    cluster.wait_ready();
    hints_are_home(&cluster);
    seen.lasts();
    seen.next();
    cluster.named(&paused).pause();
    seen.lasts();
    cluster.named(&paused).go_on();
    seen.next();
    seen.lasts();
    seen.stop.store(true, Ordering::Relaxed);
    runtime.block_on(async { while clients.join_next().await.is_some() {} });
    println!("{seen}");
    let failed = seen.failed.lock().expect("no client panics");
    assert!(
        failed.is_empty(),
        "{} failed, as {:#?}",
        failed.len(),
        &failed[..failed.len().min(10)]
    );
    hints_are_home(&cluster);
}

#[test]
fn a_node_that_was_away_holds_what_it_missed_soon_after_it_is_back() {
    let mut cluster = Cluster::start(5);
    new_namespace(&cluster, "missed");
    let runtime = Runtime::new().expect("threads");
    let client = runtime.block_on(connect(&cluster));
    let away = cluster.nodes()[2].name().to_owned();
    cluster.named(&away).kill();
    let keys: Vec<String> = (0..MISSED).map(|number| format!("key-{number}")).collect();
    let entry = |key: &String| BatchEntry::put(key.clone(), vec![b'v'; 100], None);
    let namespace = client.namespace("missed");
    let options = BatchOptions { retry: Retry::AtLeastOnce, ..BatchOptions::default() };
    // Few at a time: more than a node takes at once is another test's story.
    let written = keys.chunks(200).flat_map(|keys| {
        runtime.block_on(namespace.batch_put(keys.iter().map(entry), options.clone()))
    });
    let failed: Vec<WriteError> = written.filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} failed, as {:?}", failed.len(), failed.first());

    cluster.named(&away).start();
    let started = Instant::now();
    cluster.wait_ready();
    let ready = started.elapsed();
    hints_are_home(&cluster);
    println!("ready after {ready:?}; all hints home after {:?}", started.elapsed());
    let alone = GetOptions { replica: Some(away.clone()), ..GetOptions::default() };
    let topology = runtime.block_on(client.topology()).expect("a node answers");
    let of = topology.namespace("missed").expect("it was made").clone();
    let owned = |key: &&String| {
        let partition = topology.partition_of(of.id, key.as_bytes());
        topology.owners(of.n, partition).any(|owner| owner.name == away)
    };
    let owned: Vec<String> = keys.iter().filter(owned).cloned().collect();
    assert!(owned.len() > MISSED / 3, "it owns {} of them", owned.len());
    // Few at a time: the node is to be asked, not overloaded.
    let held = owned
        .chunks(200)
        .flat_map(|keys| runtime.block_on(namespace.batch_get(keys.to_vec(), alone.clone())));
    let held: Vec<_> = held.collect();
    let lacks = owned.iter().zip(&held).filter(|(_, held)| match held {
        Ok(read) => read.siblings.is_empty(),
        Err(_) => true,
    });
    let lacks: Vec<_> = lacks.take(3).collect();
    assert!(lacks.is_empty(), "it lacks keys: {lacks:?}");
}
