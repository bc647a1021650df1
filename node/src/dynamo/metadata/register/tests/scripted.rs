//! The interleavings that fork a register without its rules, step by step.

use super::*;

/// A voter that may vote, in a cluster with this document.
fn opened(index: usize, document: &Arc<Document>) -> Acceptor {
    Acceptor::open(voter(index), document.clone(), None).unwrap().believe()
}

fn ask(acceptor: &mut Acceptor, ballot: Ballot, step: Step) -> Answer {
    acceptor.on_request(&request(2, ballot, step)).reply.answer
}

/// A proposal in one ballot at two voters; whether both voted for it.
fn choose(voters: [&mut Acceptor; 2], ballot: Ballot, document: &Arc<Document>) -> bool {
    let [a, b] = voters;
    let mut both = |step: Step, expected: Answer| {
        let first = ask(a, ballot, step.clone());
        first == expected && ask(b, ballot, step) == expected
    };
    both(Step::Reserve, Answer::Reserved)
        && both(Step::Prepare, Answer::Promised(None))
        && both(Step::Accept(document.clone()), Answer::Accepted)
}

/// One round of asking 0 and 2.
fn recover(back: &mut Acceptor, a: &mut Acceptor, c: &mut Acceptor) {
    for effect in back.recover(&mut rng(1)) {
        let Effect::Send { to, request } = effect else { panic!("{effect:?}") };
        let other = if to == node(0) { &mut *a } else { &mut *c };
        let reply = other.on_request(&request).reply;
        back.on_told(to, reply);
    }
}

/// Voters 0, 1, 2 are to become 2, 3, 4. If a proposal were voted on by those it names, 0 and 1
/// would choose one document, and 3 and 4 another of the same version.
#[test]
fn a_value_does_not_set_its_own_quorum() {
    let one = first(5, 3);
    let mut moved = Document::clone(&successor(&one, 1));
    moved.voters = vec![voter(2), voter(3), voter(4)];
    moved.voters.sort();
    let [mut a, mut b, mut d, mut e] = [0, 1, 3, 4].map(|index| opened(index, &one));
    assert!(choose([&mut a, &mut b], ballot(1, 0), &successor(&one, 2)));
    assert!(!choose([&mut d, &mut e], ballot(1, 3), &Arc::new(moved)), "named only by itself");
}

/// 0 and 1 choose x; 1 loses its disk and votes y with 2, who never heard of x.
#[test]
fn a_wiped_voter_does_not_vote_again() {
    let one = first(3, 3);
    let (x, y) = (successor(&one, 1), successor(&one, 2));
    let [mut a, mut b, mut c] = [0, 1, 2].map(|index| opened(index, &one));
    assert!(choose([&mut a, &mut b], ballot(1, 0), &x));
    assert!(choose([&mut opened(1, &one), &mut c.clone()], ballot(2, 2), &y), "a fork");

    let new_store = Voter { node: node(1), store: StoreId(77) };
    let mut wiped = Acceptor::open(new_store, one, None).unwrap().believe();
    assert!(!choose([&mut wiped, &mut c], ballot(2, 2), &y));
}

/// As before, but 1 comes back with an old copy of its disk, under the same store id.
#[test]
fn a_rolled_back_voter_asks_before_it_votes() {
    let one = first(3, 3);
    let (x, y) = (successor(&one, 1), successor(&one, 2));
    let [mut a, mut b, mut c] = [0, 1, 2].map(|index| opened(index, &one));
    assert!(choose([&mut a, &mut b], ballot(1, 0), &x));

    let mut back = Acceptor::open(voter(1), one, None).unwrap();
    assert!(!choose([&mut back, &mut c], ballot(2, 2), &y), "it has not asked");
    for _ in 0..3 {
        recover(&mut back, &mut a, &mut c);
    }
    let promise = ask(&mut back, ballot(9, 2), Step::Prepare);
    assert_eq!(promise, Answer::Promised(Some((ballot(1, 0), x.clone()))), "it adopted x");
    back.on_document(&x).unwrap();
    assert!(back.is_recovering(), "1 may have voted on what follows x, too");
}

/// Telling is a promise: 0 tells 1 that it has no vote, and must not complete x afterwards.
#[test]
fn who_told_its_votes_does_not_vote_below() {
    let one = first(3, 3);
    let (x, early) = (successor(&one, 1), ballot(1, 0));
    let [mut a, mut b, mut c] = [0, 1, 2].map(|index| opened(index, &one));
    for step in [Step::Reserve, Step::Prepare] {
        ask(&mut a, early, step.clone());
        ask(&mut b, early, step);
    }
    assert_eq!(ask(&mut b, early, Step::Accept(x.clone())), Answer::Accepted);

    let mut back = Acceptor::open(voter(1), one, None).unwrap();
    for _ in 0..3 {
        recover(&mut back, &mut a, &mut c);
    }
    assert!(back.is_sound(), "nobody has a vote");
    let late = ask(&mut a, early, Step::Accept(x));
    assert!(matches!(late, Answer::Refused(Refusal::Outvoted { .. })), "{late:?}");
}

/// 1 promised ballot 5 to a proposer to whom nobody else promised yet, and forgot it.
#[test]
fn a_forgotten_promise_is_fenced_by_its_reservation() {
    let one = first(3, 3);
    let [mut a, mut b, mut c] = [0, 1, 2].map(|index| opened(index, &one));
    let lone = ballot(5, 2);
    ask(&mut a, lone, Step::Reserve);
    ask(&mut b, lone, Step::Reserve);
    assert_eq!(ask(&mut b, lone, Step::Prepare), Answer::Promised(None));

    let mut back = Acceptor::open(voter(1), one, None).unwrap();
    recover(&mut back, &mut a, &mut c);
    assert!(back.is_recovering(), "0 heard of ballot 5, so a lower fence does not do");
    recover(&mut back, &mut a, &mut c);
    assert!(!back.is_recovering());
    let below = ask(&mut back, ballot(4, 0), Step::Prepare);
    assert!(matches!(below, Answer::Refused(Refusal::Outvoted { .. })), "{below:?}");
}
