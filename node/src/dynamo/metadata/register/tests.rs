//! The register under a hostile network, in `model`; the forks that its rules prevent, in
//! `scripted`; its bytes, in `codec`; and what single parts refuse, here.

mod codec;
mod model;
mod scripted;

use bytes::Bytes;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

use super::*;
use crate::dynamo::key::PartitionCount;
use crate::dynamo::metadata::document::{
    ClusterId, ClusterKey, DocumentHash, FirstDocument, Member, StoreId, Voter,
};

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn node(index: usize) -> NodeId {
    NodeId::of_name(&format!("node-{index}"))
}

fn voter(index: usize) -> Voter {
    Voter { node: node(index), store: StoreId(index as u64) }
}

/// A cluster of `members` nodes, the first `voters` of which vote.
fn first(members: usize, voters: usize) -> Arc<Document> {
    let member = |index| Member {
        node: node(index),
        name: format!("node-{index}"),
        zone: String::new(),
        weight: 1,
        peer_address: format!("10.0.0.{index}:7000"),
        client_address: format!("10.0.0.{index}:8000"),
    };
    let document = Document::first(FirstDocument {
        cluster: ClusterId([7; 16]),
        cluster_key: ClusterKey([9; 32]),
        partitions: PartitionCount::new(8).unwrap(),
        members: (0..members).map(member).collect(),
        voters: (0..voters).map(voter).collect(),
    });
    Arc::new(document.unwrap())
}

/// A successor that differs from others by its plan.
fn successor(of: &Document, plan: u64) -> Arc<Document> {
    let (version, predecessor) = (of.version + 1, of.hash());
    Arc::new(Document { version, predecessor, plan: Some(plan), ..of.clone() })
}

fn ballot(round: u64, proposer: usize) -> Ballot {
    Ballot { round, proposer: node(proposer), nonce: 0 }
}

fn request(instance: u64, ballot: Ballot, step: Step) -> Request {
    Request { instance, ballot, step }
}

fn refusal(response: Response) -> Refusal {
    assert_eq!(response.sync, None);
    match response.reply.answer {
        Answer::Refused(refusal) => refusal,
        other => panic!("agreed: {other:?}"),
    }
}

#[test]
fn an_acceptor_refuses_what_is_not_its_instance_or_not_its_vote() {
    let one = first(3, 2);
    let two = successor(&one, 2);
    let mut acceptor = Acceptor::open(voter(0), one.clone(), None).unwrap();
    let prepare = |instance| request(instance, ballot(1, 1), Step::Prepare);
    assert_eq!(refusal(acceptor.on_request(&prepare(2))), Refusal::Recovering);
    assert_eq!(refusal(acceptor.on_request(&prepare(3))), Refusal::Behind { version: 1 });
    assert_eq!(acceptor.on_document(&two), Ok(Learned::Newer));
    assert_eq!(refusal(acceptor.on_request(&prepare(2))), Refusal::Newer(two));

    let wiped = Voter { node: node(0), store: StoreId(99) };
    for stranger in [wiped, voter(2)] {
        let mut acceptor = Acceptor::open(stranger, one.clone(), None).unwrap();
        assert_eq!(refusal(acceptor.on_request(&prepare(2))), Refusal::NotVoter);
        assert_eq!(acceptor.recover(&mut rng(1)), []);
    }
}

#[test]
fn an_acceptor_votes_by_ballot_and_syncs_first() {
    let one = first(1, 1);
    let mut acceptor = Acceptor::open(voter(0), one.clone(), None).unwrap();
    assert_eq!(acceptor.recover(&mut rng(1)), [], "a lone voter has nobody to ask");
    assert!(!acceptor.is_recovering());

    let (high, low) = (ballot(5, 0), ballot(4, 0));
    let response = acceptor.on_request(&request(2, high, Step::Prepare));
    assert_eq!(response.reply.answer, Answer::Promised(None));
    assert_eq!(response.sync.unwrap().promised, high);
    let two = successor(&one, 2);
    for step in [Step::Reserve, Step::Prepare, Step::Recover, Step::Accept(two.clone())] {
        let outvoted = refusal(acceptor.on_request(&request(2, low, step)));
        assert_eq!(outvoted, Refusal::Outvoted { highest: high });
    }
    let unchained = Step::Accept(Arc::new(Document {
        predecessor: DocumentHash([1; 32]),
        ..Document::clone(&two)
    }));
    assert_eq!(refusal(acceptor.on_request(&request(2, high, unchained))), Refusal::Unchained);
    let accept = request(2, high, Step::Accept(two.clone()));
    let response = acceptor.on_request(&accept);
    assert_eq!(response.reply.answer, Answer::Accepted);
    assert_eq!(response.sync.unwrap().accepted, Some((high, two)));
    let again = acceptor.on_request(&accept);
    assert_eq!((again.reply.answer, again.sync), (Answer::Accepted, None));
}

#[test]
fn a_reopened_voter_waits_for_enough_others() {
    for (voters, needed) in [(2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (7, 4)] {
        let mut acceptor = Acceptor::open(voter(0), first(voters, voters), None).unwrap();
        let asked = acceptor.recover(&mut rng(1));
        assert_eq!(asked.len(), voters - 1);
        let Effect::Send { request, .. } = &asked[0] else { panic!("{asked:?}") };
        let told = Reply { ballot: request.ballot, answer: Answer::Told(None) };
        assert_eq!(acceptor.on_told(node(0), told.clone()), None, "its own word does not count");
        for other in 1..=needed {
            assert!(acceptor.is_recovering(), "{voters} voters, {other} told");
            acceptor.on_told(node(other), told.clone());
            acceptor.on_told(node(other), told.clone());
        }
        assert!(acceptor.is_sound());
    }
}

#[test]
fn votes_ahead_of_the_document_are_an_error() {
    let ahead = Acceptor::open(voter(0), first(1, 1), Some(Votes::none(3)));
    assert_eq!(ahead.unwrap_err(), VotesAhead { instance: 3, version: 1 });
    assert!(Acceptor::open(voter(0), first(1, 1), Some(Votes::none(1))).is_ok());
}

#[test]
fn a_learner_skips_gaps_and_raises_the_alarm_at_a_fork() {
    let one = first(3, 3);
    let (two, fork) = (successor(&one, 2), successor(&one, 22));
    let three = successor(&two, 3);
    let mut learner = Learner::new(one.clone());
    assert_eq!(learner.on_document(&three), Ok(Learned::Newer));
    assert_eq!(learner.on_document(&three), Ok(Learned::Known));
    assert_eq!(learner.on_document(&two), Ok(Learned::Older));
    assert_eq!(learner.on_document(&one), Ok(Learned::Older));
    let foreign = Document { cluster: ClusterId([1; 16]), ..Document::clone(&three) };
    assert_eq!(learner.on_document(&Arc::new(foreign)), Ok(Learned::Foreign));

    let alarm = Alarm { version: 2, ours: two.hash(), theirs: fork.hash() };
    for bad in [&fork, &successor(&fork, 3)] {
        let mut at_two = Learner::new(two.clone());
        assert_eq!(at_two.on_document(bad), Err(alarm));
        assert_eq!(at_two.on_document(&three), Err(alarm), "an alarm stays");
    }
    assert_eq!(learner.on_document(&fork), Err(alarm), "the older one is forked");

    let mut acceptor = Acceptor::open(voter(0), two.clone(), None).unwrap();
    assert!(acceptor.on_document(&fork).is_err());
    let prepare = request(3, ballot(1, 0), Step::Prepare);
    assert_eq!(refusal(acceptor.on_request(&prepare)), Refusal::Alarmed);
}

#[test]
fn a_proposer_gives_up_when_no_majority_is_left() {
    let one = first(3, 3);
    let mut proposer = Proposer::new(node(0), one.clone(), successor(&one, 2));
    assert_eq!(proposer.begin(&mut rng(1)).len(), 3);
    proposer.on_unreachable(node(1));
    assert_eq!(proposer.verdict(), Verdict::Pending);
    proposer.on_unreachable(node(2));
    assert_eq!(proposer.verdict(), Verdict::Unreachable { reachable: 1, needed: 2 });
    proposer.begin(&mut rng(2));
    assert_eq!(proposer.verdict(), Verdict::Pending, "a new attempt starts anew");
}

proptest! {
    #[test]
    fn votes_survive_the_disk(round in any::<u64>(), nonce in any::<u64>(), cut in any::<usize>(),
                              accepted in any::<bool>(), byte in any::<u8>()) {
        let reserved = Ballot { round, proposer: node(1), nonce };
        let accepted = accepted.then(|| (ballot(3, 1), successor(&first(3, 3), nonce)));
        let votes = Votes { instance: 2, reserved, promised: ballot(3, 2), accepted };
        let bytes = votes.encode();
        prop_assert_eq!(Votes::decode(bytes.clone()).unwrap(), votes);
        let cut = cut % bytes.len();
        prop_assert!(Votes::decode(bytes.slice(..cut)).is_err());
        let mut mutated = bytes.to_vec();
        mutated[cut] = byte;
        let mutated = Bytes::from(mutated);
        if let Ok(votes) = Votes::decode(mutated.clone()) {
            prop_assert_eq!(votes.encode(), mutated);
        }
    }
}
