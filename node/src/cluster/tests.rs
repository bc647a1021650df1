//! Whole clusters of three and five nodes, over stores in memory and a network of a few
//! milliseconds: changes, races, cuts, restarts, power cuts and forks.

mod network;

use std::path::Path;

use futures::future::join_all;

use self::network::{Network, SECOND, first, name, node, voter};
use super::*;
use crate::dynamo::key::NamespaceId;
use crate::dynamo::metadata::document::{NamespaceUpdate, NewNamespace};
use crate::dynamo::metadata::register::{Answer, Ballot, Refusal, Step, Votes};
use crate::dynamo::quorum::Level;
use crate::env::SystemClock;
use crate::storage::memory::MemoryEngine;
use crate::storage::{Batch, EngineError, EngineStats, KeyRange, Scan, Space, record};

fn names(cluster: &Cluster) -> Vec<String> {
    let view = cluster.view().unwrap();
    view.document().namespaces.iter().map(|namespace| namespace.name.clone()).collect()
}

async fn create(cluster: &Cluster, name: &str) -> Result<NamespaceId, RequestError> {
    let created = cluster.create_namespace(NewNamespace::named(name), 20 * SECOND).await;
    created.map(|(namespace, _)| namespace.id)
}

/// A successor that no change made.
fn successor(of: &Document, plan: u64) -> Document {
    let (version, predecessor) = (of.version + 1, of.hash());
    Document { version, predecessor, plan: Some(plan), ..of.clone() }
}

async fn ask(cluster: &Cluster, ballot: Ballot, step: Step) -> Answer {
    let request = Request { instance: cluster.version() + 1, ballot, step };
    let answer = cluster.on_register(request.encode()).await.unwrap();
    Reply::decode(answer).unwrap().answer
}

fn ballot(round: u64) -> Ballot {
    Ballot { round, proposer: node(0), nonce: 0 }
}

#[tokio::test(start_paused = true)]
async fn namespaces_come_and_go_everywhere_and_ids_are_never_reused() {
    for members in [1, 3, 5, 9] {
        let network = Network::cluster(members, 1).await;
        let n = members.min(3) as u8;
        let new = |name: &str| NewNamespace { n, ..NewNamespace::named(name) };
        let mut changes = network.at(0).changes();
        let (carts, unreachable) =
            network.at(members - 1).create_namespace(new("carts"), 5 * SECOND).await.unwrap();
        assert_eq!((carts.id, unreachable), (NamespaceId(1), vec![]));
        assert_eq!(changes.changed().await, 2);
        for index in 0..members {
            assert_eq!(names(&network.at(index)), ["carts"], "node {index} of {members}");
        }
        assert_eq!(network.at(0).drop_namespace("carts", 5 * SECOND).await, Ok(vec![]));
        assert_eq!(names(&network.at(members / 2)), [""; 0]);
        let again = network.at(0).create_namespace(new("carts"), 5 * SECOND).await.unwrap();
        assert_eq!(again.0.id, NamespaceId(2));
    }
}

#[tokio::test(start_paused = true)]
async fn updates_reach_everybody_and_one_that_changes_nothing_makes_no_version() {
    let network = Network::cluster(3, 1).await;
    create(&network.at(0), "carts").await.unwrap();
    let update = |sloppy| NamespaceUpdate { sloppy, ..NamespaceUpdate::named("carts") };
    let strict = update(Some(false));
    let (carts, unreachable) = network.at(1).update_namespace(strict, 5 * SECOND).await.unwrap();
    assert_eq!((carts.sloppy, carts.w, unreachable), (false, Level::Quorum, vec![]));
    for index in 0..3 {
        let view = network.at(index).view().unwrap();
        assert_eq!(view.document().namespace_named("carts"), Some(&carts), "node {index}");
    }
    for same in [Some(false), None] {
        let (again, _) = network.at(2).update_namespace(update(same), SECOND).await.unwrap();
        assert_eq!((again, network.at(2).version()), (carts.clone(), 3));
    }
    let impossible = NamespaceUpdate { w: Some(Level::Count(4)), ..update(None) };
    match network.at(0).update_namespace(impossible, SECOND).await {
        Err(RequestError::Invalid { reason }) => assert!(reason.contains("level 4"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let gone = network.at(0).update_namespace(NamespaceUpdate::named("gone"), SECOND).await;
    assert_eq!(gone, Err(RequestError::UnknownNamespace { name: "gone".into() }));
}

/// Who was away would else call a namespace as it should be, which it was before others changed it.
#[tokio::test(start_paused = true)]
async fn who_asks_for_what_was_so_before_is_heard() {
    let network = Network::cluster(3, 1).await;
    create(&network.at(0), "carts").await.unwrap();
    let update = |sloppy| NamespaceUpdate { sloppy, ..NamespaceUpdate::named("carts") };
    network.cut(&[2]);
    network.at(0).update_namespace(update(Some(false)), 5 * SECOND).await.unwrap();
    network.cut(&[]);
    assert_eq!(network.at(2).version(), 2);
    let (carts, _) = network.at(2).update_namespace(update(Some(true)), 5 * SECOND).await.unwrap();
    assert_eq!((carts.sloppy, network.at(2).version()), (true, 4));
}

#[tokio::test(start_paused = true)]
async fn concurrent_updates_of_different_defaults_are_all_made() {
    for seed in 0..8 {
        let network = Network::cluster(3, seed).await;
        create(&network.at(0), "carts").await.unwrap();
        let named = || NamespaceUpdate::named("carts");
        let updates = [
            NamespaceUpdate { r: Some(Level::One), ..named() },
            NamespaceUpdate { w: Some(Level::All), ..named() },
            NamespaceUpdate { sloppy: Some(false), ..named() },
        ];
        let nodes = [network.at(0), network.at(1), network.at(2)];
        let asked = nodes.iter().zip(updates);
        let asked = asked.map(|(cluster, update)| cluster.update_namespace(update, 20 * SECOND));
        for outcome in join_all(asked).await {
            outcome.unwrap();
        }
        nodes[0].refresh(SECOND).await.unwrap();
        let view = nodes[0].view().unwrap();
        let carts = view.document().namespace_named("carts").unwrap();
        assert_eq!((carts.r, carts.w, carts.sloppy), (Level::One, Level::All, false), "{seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_creates_all_succeed_under_different_ids() {
    for (members, seed) in [(3, 1), (3, 2), (5, 3), (5, 4)] {
        let network = Network::cluster(members, seed).await;
        let nodes: Vec<_> = (0..members).map(|index| network.at(index)).collect();
        let creates = (0..2 * members).map(|i| {
            let cluster = nodes[i % members].clone();
            async move { create(&cluster, &format!("ns-{i}")).await.unwrap() }
        });
        let mut ids = join_all(creates).await;
        ids.sort();
        let expected: Vec<_> = (1..=2 * members as u64).map(NamespaceId).collect();
        assert_eq!(ids, expected, "seed {seed}");
        for cluster in &nodes {
            cluster.refresh(SECOND).await.unwrap();
            assert_eq!(names(cluster).len(), 2 * members);
            assert_eq!(cluster.version(), nodes[0].version());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_identical_creates_one_succeeds_and_the_others_are_told() {
    let mut succeeded = 0;
    for seed in 0..20 {
        let network = Network::cluster(3, seed).await;
        let nodes = [network.at(0), network.at(1), network.at(2)];
        let outcomes = join_all(nodes.iter().map(|cluster| create(cluster, "carts"))).await;
        assert!(outcomes.contains(&Ok(NamespaceId(1))), "seed {seed}: {outcomes:?}");
        for outcome in outcomes {
            match outcome {
                Ok(id) => {
                    assert_eq!(id, NamespaceId(1));
                    succeeded += 1;
                }
                Err(RequestError::Conflict { reason }) => {
                    assert!(reason.contains("exists already"), "{reason}");
                }
                Err(other) => panic!("seed {seed}: {other}"),
            }
        }
        assert_eq!((nodes[0].version(), names(&nodes[0]).len()), (2, 1));
    }
    // One whose offer was outvoted, and who then finds the same document voted for, cannot know
    // whose it is: now and then two are told that theirs it was. Never is nobody.
    assert!((20..=30).contains(&succeeded), "{succeeded} successes in 20 races of three");
}

#[tokio::test(start_paused = true)]
async fn a_minority_changes_nothing_and_says_so() {
    for (members, cut) in [(3, vec![1, 2]), (5, vec![1, 2, 3])] {
        let network = Network::cluster(members, 1).await;
        network.cut(&cut);
        let error = create(&network.at(0), "carts").await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, RequestError::Timeout { .. }), "{text}");
        assert!(text.contains("nothing was changed") && text.contains("node-1: not"), "{text}");
        assert_eq!(network.at(0).version(), 1);
        network.cut(&[]);
        assert_eq!(create(&network.at(0), "carts").await, Ok(NamespaceId(1)));
    }
}

/// The others vote and fall silent before their votes arrive: nobody knows what became of it.
#[tokio::test(start_paused = true)]
async fn an_offered_change_that_timed_out_is_unknown_and_may_come_to_be() {
    let mut unknown = 0;
    for after_us in (0..30_000).step_by(1000) {
        let network = Network::cluster(3, 7).await;
        let cluster = network.at(0);
        let change = tokio::spawn(async move { create(&cluster, "carts").await });
        tokio::time::sleep(Duration::from_micros(after_us)).await;
        network.cut(&[0]);
        let outcome = change.await.unwrap();
        network.cut(&[]);
        let next = create(&network.at(1), "next").await.unwrap();
        let made = names(&network.at(1)).contains(&"carts".to_owned());
        match outcome {
            Ok(id) => assert!(made && id == NamespaceId(1) && next == NamespaceId(2)),
            Err(error) if error.to_string().contains("unknown whether") => unknown += 1,
            Err(error) => {
                assert!(error.to_string().contains("nothing was changed"), "{error}");
                assert!(!made);
            }
        }
    }
    assert!(unknown > 0, "no cut came between the votes and their arrival");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_away_is_named_and_catches_up() {
    let network = Network::cluster(5, 1).await;
    network.cut(&[3, 4]);
    let new = NewNamespace::named("carts");
    let (_, unreachable) = network.at(0).create_namespace(new, 10 * SECOND).await.unwrap();
    let mut expected = vec![name(3), name(4)];
    expected.sort_by_key(|name| NodeId::of_name(name));
    assert_eq!(unreachable, expected);
    let error = network.at(3).fetch_from(node(0)).await.unwrap_err();
    assert!(error.to_string().contains("no document from node-0: not connected"), "{error}");

    network.cut(&[]);
    assert_eq!(network.at(3).version(), 1);
    network.at(3).fetch_from(node(0)).await.unwrap();
    network.at(4).refresh(SECOND).await.unwrap();
    assert_eq!(
        (names(&network.at(3)), names(&network.at(4))),
        (names(&network.at(0)), names(&network.at(0)))
    );
}

#[tokio::test(start_paused = true)]
async fn what_others_know_decides_what_exists() {
    let network = Network::cluster(3, 1).await;
    network.cut(&[2]);
    create(&network.at(0), "carts").await.unwrap();
    network.cut(&[]);
    // Node 2 knows nothing of it, and asks before it says so.
    assert_eq!(network.at(2).drop_namespace("carts", 5 * SECOND).await, Ok(vec![]));
    let gone = network.at(1).drop_namespace("carts", 5 * SECOND).await;
    assert_eq!(gone, Err(RequestError::UnknownNamespace { name: "carts".into() }));
}

/// It was told of the document; that it could not keep it is no reason to say that it is wrong.
#[tokio::test(start_paused = true)]
async fn who_cannot_keep_a_document_says_of_nothing_that_it_does_not_exist() {
    let network = Network::cluster(3, 1).await;
    network.engine(2).set_full(true);
    create(&network.at(0), "carts").await.unwrap();
    let dropped = network.at(2).drop_namespace("carts", 5 * SECOND).await;
    assert!(dropped.as_ref().is_err_and(RequestError::is_of_the_disk), "{dropped:?}");
    let refreshed = network.at(2).refresh(SECOND).await;
    assert!(refreshed.is_err_and(|error| error.is_of_the_disk()));
}

#[tokio::test(start_paused = true)]
async fn a_client_in_a_loop_does_not_storm_the_cluster() {
    let network = Network::cluster(3, 1).await;
    let (cluster, began) = (network.at(0), tokio::time::Instant::now());
    while began.elapsed() < 2 * SECOND {
        join_all((0..100).map(|_| cluster.refresh(SECOND))).await;
    }
    let asked = network.sent("document");
    assert!((2 * 6..=2 * 12).contains(&asked), "{asked} messages to 2 members in 2 seconds");
}

#[tokio::test(start_paused = true)]
async fn impossible_changes_name_the_numbers() {
    let network = Network::cluster(3, 1).await;
    create(&network.at(0), "carts").await.unwrap();
    let new = |n, r, w| NewNamespace { n, r, w, ..NewNamespace::named("a") };
    let (one, count) = (Level::One, Level::Count);
    for (new, expected) in [
        (new(4, one, one), "n = 4, but the cluster has 3 members"),
        (new(0, one, one), "n = 0, but the cluster has 3 members"),
        (new(2, one, count(3)), "w is level 3 with n = 2"),
        (new(3, count(0), one), "r is level 0 with n = 3"),
        (NewNamespace::named("Ä"), "no namespace name"),
    ] {
        match network.at(0).create_namespace(new, SECOND).await {
            Err(RequestError::Invalid { reason }) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    let twice = create(&network.at(1), "carts").await.unwrap_err();
    assert!(matches!(&twice, RequestError::Conflict { .. }), "{twice}");
    let nowhere = Network::new(1, 1);
    let error = create(&nowhere.at(0), "carts").await.unwrap_err();
    assert!(matches!(&error, RequestError::NotReady { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_begins_once() {
    let network = Network::new(2, 1);
    let cluster = network.at(0);
    assert_eq!((cluster.version(), cluster.newest_document().await), (0, None));
    let text = |error: RequestError| error.to_string();
    let late = cluster.bootstrap(successor(&first(2, 2, 1), 1).encode()).await;
    assert!(text(late.unwrap_err()).contains("begins with version 1"));
    let mut other_store = first(2, 2, 1);
    other_store.voters.iter_mut().for_each(|voter| voter.store.0 += 1);
    let error = text(cluster.bootstrap(other_store.encode()).await.unwrap_err());
    assert!(error.contains("has store 0000000000000000"), "{error}");
    let stranger = Network::new(3, 1).at(2);
    let error = text(stranger.bootstrap(first(2, 2, 1).encode()).await.unwrap_err());
    assert!(error.contains("has no member"), "{error}");
    assert!(stranger.learn(first(2, 2, 1).encode()).await.is_err());
    assert!(cluster.bootstrap(Bytes::from_static(b"noise")).await.is_err());
    assert_eq!(cluster.version(), 0);

    let one = first(2, 2, 1).encode();
    assert_eq!(cluster.bootstrap(one.clone()).await, Ok(()));
    assert_eq!(cluster.bootstrap(one.clone()).await, Ok(()));
    let error = cluster.bootstrap(first(2, 2, 2).encode()).await.unwrap_err();
    assert!(matches!(&error, RequestError::Conflict { .. }), "{error}");
    assert!(text(error).contains(&"01".repeat(16)), "it names the cluster");
    let foreign = cluster.learn(first(2, 2, 2).encode()).await.unwrap_err();
    assert!(matches!(foreign, RequestError::Conflict { .. }));

    // Voters hear of the document from those who recover, and then changes go on.
    network.recovered().await;
    let new = NewNamespace { n: 2, ..NewNamespace::named("carts") };
    network.at(1).create_namespace(new, 5 * SECOND).await.unwrap();
    assert_eq!(cluster.bootstrap(one).await, Ok(()), "it is still the same cluster");
    assert_eq!(cluster.version(), 2);
}

#[tokio::test(start_paused = true)]
async fn documents_and_votes_survive_kills_and_power_cuts() {
    let mut network = Network::cluster(3, 1).await;
    for round in 0..10 {
        let id = create(&network.at(round % 3), &format!("ns-{round}")).await.unwrap();
        assert_eq!(id, NamespaceId(round as u64 + 1));
        for index in 0..3 {
            let before = network.at(index).version();
            match round % 2 {
                0 => network.restart(index),
                _ => network.power_cut(index),
            }
            assert_eq!(network.at(index).version(), before);
        }
        network.recovered().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answered_vote_is_on_disk() {
    let mut network = Network::cluster(3, 1).await;
    let one = first(3, 3, 1);
    for step in [Step::Reserve, Step::Prepare, Step::Accept(Arc::new(successor(&one, 1)))] {
        let answer = ask(&network.at(2), ballot(100), step).await;
        assert!(!matches!(answer, Answer::Refused(_)), "{answer:?}");
    }
    network.cut(&[2]);
    network.power_cut(2);
    let back = network.at(2);
    let low = ask(&back, ballot(50), Step::Reserve).await;
    let highest = ballot(100);
    assert_eq!(low, Answer::Refused(Refusal::Outvoted { highest }));
    let vote = ask(&back, ballot(101), Step::Prepare).await;
    assert_eq!(vote, Answer::Refused(Refusal::Recovering), "it has not heard the others");
    network.cut(&[]);
    network.recovered().await;
    let Answer::Promised(vote) = ask(&back, ballot(u64::MAX), Step::Prepare).await else {
        panic!("a recovered voter votes")
    };
    assert_eq!(vote, Some((highest, Arc::new(successor(&one, 1)))));
}

#[tokio::test(start_paused = true)]
async fn a_wiped_voter_does_not_vote() {
    let mut network = Network::cluster(3, 1).await;
    create(&network.at(0), "carts").await.unwrap();
    network.wipe(2);
    assert_eq!(network.at(2).version(), 0);
    let bare = ask(&network.at(2), ballot(9), Step::Prepare).await;
    assert_eq!(bare, Answer::Refused(Refusal::Behind { version: 0 }));
    network.at(2).fetch_from(node(0)).await.unwrap();
    let vote = ask(&network.at(2), ballot(9), Step::Prepare).await;
    assert_eq!(vote, Answer::Refused(Refusal::NotVoter));
    create(&network.at(2), "from-a-member").await.unwrap();

    network.cut(&[1]);
    let error = create(&network.at(0), "users").await.unwrap_err();
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    let lost = "node-2: it has lost the store with which it voted, and votes no more";
    assert!(error.to_string().contains(lost), "{error}");
}

#[tokio::test(start_paused = true)]
async fn with_too_many_wiped_a_change_fails_at_once_and_names_them() {
    let mut network = Network::cluster(3, 1).await;
    assert_eq!(network.at(1).vote(), Vote::Yes);
    network.wipe(1);
    assert_eq!(network.at(1).vote(), Vote::No, "it is in no cluster yet");
    network.at(1).fetch_from(node(0)).await.unwrap();
    assert_eq!(network.at(1).vote(), Vote::Lost);

    // Of the two that are left one is opened anew: it may not vote before it heard both others.
    network.restart(2);
    assert_eq!(network.at(2).vote(), Vote::Waits);
    let began = tokio::time::Instant::now();
    let error = create(&network.at(0), "carts").await.unwrap_err();
    assert!(began.elapsed() < 5 * SECOND, "it waited for what cannot come");
    let text = error.to_string();
    assert!(matches!(error, RequestError::NoMajority { .. }), "{text}");
    for part in [
        "no majority of the voters is left",
        "node-1: it has lost the store with which it voted",
        "node-2: it was started and has not heard enough",
        "nothing was changed",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_no_vote() {
    let network = Network::cluster(3, 1).await;
    let cluster = network.at(0);
    let request = Request { instance: 2, ballot: ballot(100), step: Step::Reserve };
    network.engine(0).fail_next_sync();
    for _ in 0..2 {
        let error = cluster.on_register(request.encode()).await.unwrap_err();
        assert!(matches!(error, RequestError::DiskFailed { .. }), "{error}");
    }
    let two = successor(&first(3, 3, 1), 1).encode();
    assert!(cluster.learn(two).await.is_err());
    assert_eq!(cluster.version(), 1, "what is not on disk is not seen");
    // The other two are a majority.
    create(&network.at(1), "carts").await.unwrap();
}

/// A disk that takes its time.
struct SlowEngine(MemoryEngine);

impl Engine for SlowEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.get(space, key)
    }

    fn apply(&self, batch: Batch) -> Result<(), EngineError> {
        std::thread::sleep(Duration::from_millis(50));
        self.0.apply(batch)
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.0.sync()
    }

    fn scan(&self, space: Space, range: KeyRange) -> Scan<'_> {
        self.0.scan(space, range)
    }

    fn checkpoint(&self, target: &Path) -> Result<(), EngineError> {
        self.0.checkpoint(target)
    }

    fn stats(&self) -> Result<EngineStats, EngineError> {
        self.0.stats()
    }
}

#[tokio::test]
async fn who_stops_waiting_lets_nobody_overtake_the_disk() {
    let engine = Arc::new(SlowEngine(MemoryEngine::new()));
    let cluster = Cluster::open(voter(0), engine.clone(), Env::system()).unwrap();
    cluster.bootstrap(first(3, 3, 1).encode()).await.unwrap();
    let reserve = ask(&cluster, ballot(100), Step::Reserve);
    assert!(tokio::time::timeout(Duration::from_millis(5), reserve).await.is_err());
    let low = ask(&cluster, ballot(50), Step::Reserve).await;
    assert_eq!(low, Answer::Refused(Refusal::Outvoted { highest: ballot(100) }));
    let stored = engine.get(Space::Meta, b"votes").unwrap().unwrap();
    let votes = Votes::decode(record::open(b"votes", &stored).unwrap()).unwrap();
    assert_eq!(votes.reserved, ballot(100));
}

#[tokio::test(start_paused = true)]
async fn a_fork_ends_all_changes_and_leaves_the_view() {
    let network = Network::cluster(3, 1).await;
    create(&network.at(0), "carts").await.unwrap();
    let cluster = network.at(0);
    let fork = successor(&first(3, 3, 1), 77);
    let error = cluster.learn(fork.encode()).await.unwrap_err();
    assert!(matches!(&error, RequestError::Data { reason } if reason.contains("version 2")));
    assert_eq!(cluster.alarm().map(|alarm| alarm.version), Some(2));
    assert_eq!(cluster.vote(), Vote::Forked);
    let refused = create(&cluster, "users").await.unwrap_err();
    assert!(matches!(refused, RequestError::Data { .. }), "{refused}");
    assert_eq!(ask(&cluster, ballot(9), Step::Reserve).await, Answer::Refused(Refusal::Alarmed));
    assert_eq!(names(&cluster), ["carts"]);
    create(&network.at(1), "users").await.unwrap();
    assert_eq!(cluster.version(), 2, "an alarmed node follows nobody");
}

#[test]
fn a_damaged_store_is_not_opened() {
    let env = || Env::simulated(Arc::new(SystemClock), 1);
    let with = |key: &'static str, value: Bytes| {
        let engine = MemoryEngine::new();
        let mut batch = Batch::new();
        batch.put(Space::Meta, key, value);
        engine.apply(batch).unwrap();
        Cluster::open(voter(0), Arc::new(engine), env()).unwrap_err()
    };
    let text = with("document", Bytes::from_static(b"rot")).to_string();
    assert_eq!(text, "the stored document: the record is damaged");
    let text = with("votes", record::seal(b"votes", b"else")).to_string();
    assert!(text.starts_with("the stored votes: not an encoded document"), "{text}");
    let votes = Votes::none(3).encode();
    let ahead = with("votes", record::seal(b"votes", &votes));
    assert!(matches!(ahead, OpenError::VotesAhead(_)), "{ahead}");
}

#[tokio::test(start_paused = true)]
async fn one_seed_is_one_run() {
    async fn run() -> (u64, Vec<Option<Bytes>>, usize) {
        let network = Network::cluster(5, 11).await;
        let nodes: Vec<_> = (0..5).map(|index| network.at(index)).collect();
        let creates = nodes
            .iter()
            .enumerate()
            .map(|(i, cluster)| async move { create(cluster, &format!("ns-{i}")).await.unwrap() });
        let began = tokio::time::Instant::now();
        join_all(creates).await;
        let mut documents = Vec::new();
        for cluster in &nodes {
            documents.push(cluster.newest_document().await);
        }
        (began.elapsed().as_nanos() as u64, documents, network.sent("register"))
    }
    assert_eq!(run().await, run().await);
}
