//! A batch is the same requests one by one: what each is answered, and what stands afterwards.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use quorate_node::coordinator::{Get, GetBatch, Put, PutBatch, PutEntry, PutRules, ReadAnswer};
use quorate_node::dynamo::key::Key;
use quorate_node::dynamo::metadata::document::NewNamespace;
use quorate_node::dynamo::operation::Change;
use quorate_node::dynamo::quorum::Level;
use quorate_node::dynamo::read::Repair;
use quorate_node::error::{Outcome, RequestError, WriteError};
use quorate_node::transport::WriteResult;
use quorate_tests::sim::story::{counted, story};
use quorate_tests::sim::{SimCluster, simulate, strict, workload_rng};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

const NODES: usize = 5;
const NAMESPACE: &str = "things";
const TIMEOUT: Duration = Duration::from_secs(2);
const RULES: PutRules = PutRules { w: None, durability: None, sloppy: None, at_least_once: false };

/// What a client means to write; contexts differ from run to run.
#[derive(Clone, Debug)]
struct Intent {
    key: u64,
    /// None: a delete.
    value: Option<Bytes>,
    context: ContextOf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ContextOf {
    Nothing,
    /// A read of the same key.
    Key,
    /// A read of another key.
    Other(u64),
    Garbage,
}

fn intents(rng: &mut ChaCha8Rng, keys: u64, count: usize) -> Vec<Intent> {
    let intent = |at: usize| {
        let context = match rng.random_range(0..10) {
            0..5 => ContextOf::Nothing,
            5..8 => ContextOf::Key,
            8 => ContextOf::Other(rng.random_range(0..keys)),
            _ => ContextOf::Garbage,
        };
        let value = match rng.random_range(0..12) {
            0 => None,
            1 => Some(Bytes::from(vec![b'x'; 2000])),
            _ => Some(Bytes::from(format!("value-{at}"))),
        };
        Intent { key: rng.random_range(0..keys), value, context }
    };
    (0..count).map(intent).collect()
}

fn key(number: u64) -> Key {
    Key::new(format!("key-{number}")).unwrap()
}

fn get(number: u64) -> Get {
    Get {
        sloppy: None,
        namespace: NAMESPACE.to_owned(),
        key: key(number),
        r: None,
        repair: Repair::Async,
        replica: None,
        timeout: TIMEOUT,
    }
}

fn get_batch(keys: impl IntoIterator<Item = u64>) -> GetBatch {
    GetBatch {
        sloppy: None,
        namespace: NAMESPACE.to_owned(),
        keys: keys.into_iter().map(|number| Ok(key(number))).collect(),
        r: None,
        repair: Repair::Async,
        replica: None,
        timeout: TIMEOUT,
    }
}

fn put_batch(entries: Vec<PutEntry>) -> PutBatch {
    let entries = entries.into_iter().map(Ok).collect();
    PutBatch { namespace: NAMESPACE.to_owned(), entries, rules: RULES, timeout: TIMEOUT }
}

fn blind(number: u64, value: &str) -> PutEntry {
    let change = Change::put(value.to_owned());
    PutEntry { key: key(number), change, context: Bytes::new(), operation: None, fresh: false }
}

/// What of a write's outcome does not depend on who issued its dot.
fn told(outcome: &Result<WriteResult, WriteError>) -> String {
    match outcome {
        Ok(done) => format!(
            "done: {} siblings, context {}, {} synced, enough acked {}",
            done.siblings,
            done.context.is_some(),
            done.synced,
            done.acked.len() >= 2,
        ),
        Err(WriteError { error, outcome }) => {
            format!("{}: {error}", matches!(outcome, Outcome::NotApplied))
        }
    }
}

fn values(answer: &Result<ReadAnswer, RequestError>) -> Result<Vec<Bytes>, String> {
    let mut values: Vec<Bytes> = match answer {
        Err(error) => return Err(error.to_string()),
        Ok(answer) => answer.object.siblings().iter().map(|e| e.payload.clone()).collect(),
    };
    values.sort();
    Ok(values)
}

async fn cluster(seed: u64) -> Result<SimCluster> {
    let cluster = SimCluster::start(NODES, seed).await?;
    let namespace = NewNamespace { value_max_bytes: 1000, ..strict(NAMESPACE) };
    cluster.create_namespace(namespace).await?;
    Ok(cluster)
}

/// The contexts of every key, as of one read each.
async fn contexts(cluster: &SimCluster, at: usize, keys: u64) -> BTreeMap<u64, Bytes> {
    let mut contexts = BTreeMap::new();
    for number in 0..keys {
        let read = cluster.coordinator(at).unwrap().get(get(number)).await;
        let context = read.ok().and_then(|answer| answer.context);
        contexts.insert(number, context.unwrap_or_default());
    }
    contexts
}

fn entry(intent: &Intent, contexts: &BTreeMap<u64, Bytes>) -> PutEntry {
    let context = match intent.context {
        ContextOf::Nothing => Bytes::new(),
        ContextOf::Key => contexts[&intent.key].clone(),
        ContextOf::Other(other) => contexts[&other].clone(),
        ContextOf::Garbage => Bytes::from_static(b"garbage"),
    };
    let (key, value) = (key(intent.key), intent.value.clone());
    let change = value.map_or(Change::Delete, Change::put);
    PutEntry { key, change, context, operation: None, fresh: false }
}

/// Rounds of writes, some nodes away, as batches or one by one: what was answered, what stands.
fn transcript(seed: u64, batched: bool) -> Result<Vec<String>> {
    simulate(async move {
        let mut cluster = cluster(seed).await?;
        let mut rng = workload_rng(seed);
        let keys = rng.random_range(4..40);
        let mut lines = Vec::new();
        for away in [0, 1, 2] {
            if away > 0 {
                cluster.kill(NODES - away);
            }
            let at = rng.random_range(0..NODES - away);
            let intents = intents(&mut rng, keys, 60);
            let contexts = contexts(&cluster, at, keys).await;
            let entries: Vec<_> = intents.iter().map(|i| entry(i, &contexts)).collect();
            let coordinator = cluster.coordinator(at).unwrap();
            let outcomes = if batched {
                coordinator.put_batch(put_batch(entries)).await?
            } else {
                let mut outcomes = Vec::new();
                for PutEntry { key, change, context, operation, fresh } in entries {
                    let put = Put {
                        sloppy: None,
                        namespace: NAMESPACE.to_owned(),
                        key,
                        change,
                        context,
                        w: None,
                        durability: None,
                        operation,
                        at_least_once: false,
                        fresh,
                        timeout: TIMEOUT,
                    };
                    outcomes.push(coordinator.put(put).await);
                }
                outcomes
            };
            lines.extend(outcomes.iter().zip(&intents).map(|(o, i)| format!("{i:?} {}", told(o))));
            let reads = if batched {
                coordinator.get_batch(get_batch(0..keys)).await?
            } else {
                let mut reads = Vec::new();
                for number in 0..keys {
                    reads.push(coordinator.get(get(number)).await);
                }
                reads
            };
            lines.extend(reads.iter().map(|read| format!("{:?}", values(read))));
        }
        Ok(lines)
    })
}

#[test]
fn sim_a_batch_is_the_same_requests_one_by_one() {
    const SEEDS: u64 = 12;
    let (mut refused, mut done) = (0, 0);
    let mut compare = |seed| {
        println!("QUORATE_SEED={seed}");
        let (batched, single) = (transcript(seed, true).unwrap(), transcript(seed, false).unwrap());
        for (one, other) in batched.iter().zip(&single) {
            assert_eq!(one, other);
            refused += u64::from(one.contains("true: "));
            done += u64::from(one.contains("done: "));
        }
        assert_eq!(batched.len(), single.len());
    };
    counted(SEEDS, || (0..SEEDS).for_each(&mut compare));
    println!("done={done} refused={refused}");
    assert!(done > 300 && refused > 300, "done {done}, refused {refused}");
}

/// Keys by whether a quorum of their owners is among the nodes that are left.
#[test]
fn sim_only_keys_without_a_quorum_fail_and_each_says_so() {
    let (done, refused) = story(async {
        let mut cluster = cluster(5).await?;
        cluster.kill(3);
        cluster.kill(4);
        let coordinator = cluster.coordinator(0).unwrap();
        let entries = (0..200).map(|number| blind(number, "v")).collect();
        let outcomes = coordinator.put_batch(put_batch(entries)).await?;
        let reads = coordinator.get_batch(get_batch(0..200)).await?;
        let (mut done, mut refused) = (0, 0);
        for (outcome, read) in outcomes.iter().zip(&reads) {
            match outcome {
                Ok(_) => {
                    done += 1;
                    assert_eq!(values(read), Ok(vec![Bytes::from_static(b"v")]));
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.outcome, Outcome::NotApplied, "{error}");
                    let quorum =
                        RequestError::QuorumNotReached { needed: 2, got: 1, detail: String::new() };
                    assert_eq!(error.error.kind(), quorum.kind());
                    assert_eq!(read.as_ref().unwrap_err().kind(), quorum.kind());
                }
            }
        }
        Ok((done, refused))
    })
    .unwrap();
    assert!(done > 50 && refused > 20, "done {done}, refused {refused}");
}

/// Owners that fall silent leave writes unknown, by an id of their own each; others are done.
#[test]
fn sim_silent_owners_leave_their_keys_unknown_and_no_others() {
    let unknown = story(async {
        let cluster = cluster(6).await?;
        cluster.cut(0, 3);
        cluster.cut(0, 4);
        let coordinator = cluster.coordinator(0).unwrap();
        let entries = (0..200).map(|number| blind(number, "v")).collect();
        let outcomes = coordinator.put_batch(put_batch(entries)).await?;
        let mut ids = Vec::new();
        for outcome in &outcomes {
            match outcome {
                Ok(done) => assert!(done.acked.len() >= 2),
                Err(WriteError { outcome: Outcome::Unknown(id), .. }) => ids.push(*id),
                Err(error) => panic!("{error}"),
            }
        }
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "each write has an id of its own");
        Ok((count, outcomes.len()))
    })
    .unwrap();
    assert!((1..unknown.1).contains(&unknown.0), "{unknown:?}");
}

/// A retry under its operation id is recognised in a batch as it is alone.
#[test]
fn sim_a_batch_sent_again_is_not_done_again() {
    story(async {
        let cluster = cluster(7).await?;
        let coordinator = cluster.coordinator(1).unwrap();
        let first = coordinator.put_batch(put_batch(vec![blind(1, "a"), blind(1, "b")])).await?;
        let dots: Vec<_> = first.iter().map(|o| o.as_ref().unwrap().dot).collect();
        assert_ne!(dots[0], dots[1]);
        // Blind writes of one key stand beside each other, the second after the first.
        assert_eq!(first[0].as_ref().unwrap().siblings, 1);
        assert_eq!(first[1].as_ref().unwrap().siblings, 2);
        let read = coordinator.get(get(1)).await?;
        let id = read.object.siblings()[0].operation;
        let named = PutEntry { operation: Some(id), ..blind(1, "a") };
        let owner = (0..NODES).find(|&at| quorate_tests::sim::node(at) == id.coordinator).unwrap();
        // By way of a node that is not the coordinator, too.
        for at in [owner, (owner + 1) % NODES, (owner + 3) % NODES] {
            let again = cluster.coordinator(at).unwrap();
            let again = again.put_batch(put_batch(vec![named.clone(), named.clone()])).await?;
            for outcome in again {
                assert!(dots.contains(&outcome.unwrap().dot));
            }
        }
        let read = coordinator.get(get(1)).await?;
        assert_eq!(read.object.siblings().len(), 2);
        Ok(())
    })
    .unwrap();
}

/// Stale owners are repaired key by key, before the answer if that is asked for.
#[test]
fn sim_a_batch_of_reads_repairs_what_differs() {
    story(async {
        let mut cluster = cluster(8).await?;
        cluster.kill(2);
        let coordinator = cluster.coordinator(0).unwrap();
        let entries = (0..60).map(|number| blind(number, "v")).collect();
        let outcomes = coordinator.put_batch(put_batch(entries)).await?;
        assert!(outcomes.iter().all(Result::is_ok));
        cluster.restart(2)?;
        cluster.until_believed(2).await?;
        let all = GetBatch { r: Some(Level::All), repair: Repair::Blocking, ..get_batch(0..60) };
        let reads = cluster.coordinator(2).unwrap().get_batch(all).await?;
        assert!(reads.iter().all(|read| values(read) == Ok(vec![Bytes::from_static(b"v")])));
        let alone = |number| async move {
            let replica = Some(quorate_tests::sim::node(2));
            GetBatch { replica, ..get_batch([number]) }
        };
        let mut held = 0;
        for number in 0..60 {
            let one = alone(number).await;
            let read = cluster.coordinator(0).unwrap().get_batch(one).await?.remove(0);
            held += usize::from(values(&read).is_ok_and(|values| !values.is_empty()));
        }
        // About three keys of five belong to the node that was away.
        assert!(held > 20, "{held} keys were repaired");
        Ok(())
    })
    .unwrap();
}

/// Of a batch, the outcome of the damaged key alone tells of the damage.
#[test]
fn sim_a_damaged_record_fails_its_own_key_and_is_mended() {
    story(async {
        let cluster = SimCluster::start(3, 9).await?;
        cluster.create_namespace(strict(NAMESPACE)).await?;
        let coordinator = cluster.coordinator(0).unwrap();
        let all = |value: &'static str| put_batch((0..30).map(|n| blind(n, value)).collect());
        assert!(coordinator.put_batch(all("first")).await?.iter().all(Result::is_ok));
        tokio::time::sleep(Duration::from_secs(1)).await;

        // All owners were asked for: one key's read fails, for that reason; then it is mended.
        assert!(cluster.damage(0, NAMESPACE, &key(4))?);
        let every = || GetBatch { r: Some(Level::All), ..get_batch(0..30) };
        for (number, read) in coordinator.get_batch(every()).await?.iter().enumerate() {
            match read {
                Ok(_) => assert_ne!(number, 4),
                Err(error) => {
                    assert_eq!(number, 4);
                    assert!(error.to_string().contains("node-0 has a damaged record"), "{error}");
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(coordinator.get_batch(every()).await?.iter().all(Result::is_ok));

        // The coordinator's own record: it is mended first, and the write goes on.
        assert!(cluster.damage(0, NAMESPACE, &key(5))?);
        let outcomes = coordinator.put_batch(all("second")).await?;
        let siblings: Vec<_> = outcomes.iter().map(|o| o.as_ref().unwrap().siblings).collect();
        assert_eq!(siblings, [2; 30], "nothing of the first was lost");

        // Where not every other owner can be asked it is not, and that one write is refused.
        assert!(cluster.damage(0, NAMESPACE, &key(6))?);
        cluster.cut(0, 2);
        let outcomes = coordinator.put_batch(all("third")).await?;
        for (number, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Ok(done) => assert_eq!((number != 6, done.siblings), (true, 3)),
                Err(error) => {
                    assert_eq!((number, error.outcome), (6, Outcome::NotApplied), "{error}");
                    assert!(error.to_string().contains("node-2"), "{error}");
                }
            }
        }

        // The only other owner that can hear of a write cannot take it: done here, and no quorum.
        assert!(cluster.damage(1, NAMESPACE, &key(7))?);
        let outcomes = coordinator.put_batch(all("fourth")).await?;
        for (number, outcome) in outcomes.iter().enumerate().filter(|(number, _)| *number != 6) {
            match outcome {
                Ok(done) => assert_eq!((number != 7, done.siblings), (true, 4)),
                Err(error) => {
                    assert_eq!(number, 7, "{error}");
                    assert!(matches!(error.outcome, Outcome::Unknown(_)), "{error}");
                    assert!(error.to_string().contains("node-1 has a damaged record"), "{error}");
                }
            }
        }
        // It is not overwritten: the refused hint has its owner, who can ask all others, mend it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let get = Get {
            sloppy: None,
            namespace: NAMESPACE.to_owned(),
            key: key(7),
            r: None,
            repair: Repair::Async,
            replica: Some(quorate_tests::sim::node(1)),
            timeout: TIMEOUT,
        };
        assert_eq!(coordinator.get(get).await?.object.siblings().len(), 4, "nothing was lost");
        Ok(())
    })
    .unwrap();
}

/// A new store's silence counts for the partitions whose other owners all told what they hold.
#[test]
fn sim_keys_of_a_new_store_are_refused_where_its_silence_would_have_to_count() {
    let (refused, answered) = story(async {
        let mut cluster = cluster(10).await?;
        let two = cluster.coordinator(2).unwrap();
        let entries = || put_batch((0..100).map(|number| blind(number, "v")).collect());
        assert!(two.put_batch(entries()).await?.iter().all(Result::is_ok));
        tokio::time::sleep(Duration::from_secs(1)).await;
        cluster.kill(1);
        cluster.rebuild(0).await?;
        tokio::time::sleep(Duration::from_secs(60)).await;

        let (new, dead) = (quorate_tests::sim::node(0), quorate_tests::sim::node(1));
        let (mut refused, mut answered) = (0, 0);
        let reads = two.get_batch(get_batch(0..100)).await?;
        for (number, read) in (0..).zip(&reads) {
            let owners = cluster.owners(NAMESPACE, &key(number))?;
            if owners.contains(&new) && owners.contains(&dead) {
                refused += 1;
                let error = read.as_ref().unwrap_err().to_string();
                assert!(
                    error.contains("node-0 does not count while it is being rebuilt"),
                    "{error}"
                );
            } else {
                answered += 1;
                assert_eq!(values(read), Ok(vec![Bytes::from_static(b"v")]));
            }
        }
        // Acknowledgements of what it is sent count all the same.
        assert!(two.put_batch(entries()).await?.iter().all(Result::is_ok));
        Ok((refused, answered))
    })
    .unwrap();
    assert!(refused > 10 && answered > 10, "refused {refused}, answered {answered}");
}

/// A full disk refuses what it would coordinate, before a dot; of what others do it is no quorum.
#[test]
fn sim_a_full_disk_refuses_its_writes_and_no_others() {
    story(async {
        let cluster = SimCluster::start(3, 11).await?;
        cluster.create_namespace(strict(NAMESPACE)).await?;
        let entries = |value| put_batch((0..40).map(|number| blind(number, value)).collect());
        cluster.set_almost_full(0, true)?;
        let (full, other) = (cluster.coordinator(0).unwrap(), cluster.coordinator(1).unwrap());
        for outcome in full.put_batch(entries("refused")).await? {
            let refused = outcome.unwrap_err();
            assert_eq!(refused.outcome, Outcome::NotApplied, "{refused}");
            assert!(matches!(refused.error, RequestError::DiskFull { .. }), "{refused}");
        }
        for outcome in other.put_batch(entries("stored")).await? {
            assert!(!outcome?.acked.contains(&quorate_tests::sim::node(0)));
        }
        // Reads go on, by way of the node as well: it gives what it has, which is less.
        let reads = full.get_batch(get_batch(0..40)).await?;
        let stored = vec![Bytes::from_static(b"stored")];
        assert!(reads.iter().all(|read| values(read) == Ok(stored.clone())));

        // Two of three: each write has its dot, and no quorum. It says why.
        cluster.set_almost_full(2, true)?;
        for outcome in other.put_batch(entries("alone")).await? {
            let unknown = outcome.unwrap_err();
            assert!(matches!(unknown.outcome, Outcome::Unknown(_)), "{unknown}");
            assert!(matches!(unknown.error, RequestError::QuorumNotReached { got: 1, .. }));
        }
        cluster.set_almost_full(0, false)?;
        assert!(full.put_batch(entries("again")).await?.iter().all(Result::is_ok));
        Ok(())
    })
    .unwrap();
}
