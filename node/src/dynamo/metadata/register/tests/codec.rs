//! What is written comes back; what is damaged is refused, or is the encoding of something else.

use super::*;
use crate::dynamo::metadata::document::DocumentError;

fn ballots() -> impl Strategy<Value = Ballot> {
    let parts = (any::<u64>(), any::<u64>(), any::<u64>());
    parts.prop_map(|(round, proposer, nonce)| Ballot { round, proposer: NodeId(proposer), nonce })
}

fn documents() -> impl Strategy<Value = Arc<Document>> {
    (1..4usize, any::<u64>()).prop_map(|(members, plan)| successor(&first(members, 1), plan))
}

fn votes() -> impl Strategy<Value = Option<AcceptedDocument>> {
    prop::option::of((ballots(), documents()))
}

fn requests() -> impl Strategy<Value = Request> {
    let step = prop_oneof![
        Just(Step::Reserve),
        Just(Step::Prepare),
        documents().prop_map(Step::Accept),
        Just(Step::Recover),
    ];
    let parts = (any::<u64>(), ballots(), step);
    parts.prop_map(|(instance, ballot, step)| Request { instance, ballot, step })
}

fn replies() -> impl Strategy<Value = Reply> {
    let refusal = prop_oneof![
        documents().prop_map(Refusal::Newer),
        any::<u64>().prop_map(|version| Refusal::Behind { version }),
        Just(Refusal::NotVoter),
        Just(Refusal::Recovering),
        ballots().prop_map(|highest| Refusal::Outvoted { highest }),
        Just(Refusal::Unchained),
        Just(Refusal::Alarmed),
    ];
    let answer = prop_oneof![
        Just(Answer::Reserved),
        votes().prop_map(Answer::Promised),
        Just(Answer::Accepted),
        votes().prop_map(Answer::Told),
        refusal.prop_map(Answer::Refused),
    ];
    (ballots(), answer).prop_map(|(ballot, answer)| Reply { ballot, answer })
}

/// Every cut is refused; any changed byte is noticed, or gives another value's only encoding.
fn survives_damage<T>(
    bytes: &Bytes,
    at: prop::sample::Index,
    byte: u8,
    recode: impl Fn(Bytes) -> Result<T, DocumentError>,
    encode: impl Fn(&T) -> Bytes,
) {
    let at = at.index(bytes.len());
    assert!(recode(bytes.slice(..at)).is_err(), "cut at {at}");
    let mut damaged = bytes.to_vec();
    damaged[at] = byte;
    let damaged = Bytes::from(damaged);
    if let Ok(value) = recode(damaged.clone()) {
        assert_eq!(encode(&value), damaged);
    }
}

proptest! {
    #[test]
    fn requests_survive_the_wire(
        request in requests(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let bytes = request.encode();
        prop_assert_eq!(Request::decode(bytes.clone()), Ok(request));
        survives_damage(&bytes, at, byte, Request::decode, Request::encode);
    }

    #[test]
    fn replies_survive_the_wire(
        reply in replies(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let bytes = reply.encode();
        prop_assert_eq!(Reply::decode(bytes.clone()), Ok(reply));
        survives_damage(&bytes, at, byte, Reply::decode, Reply::encode);
    }

    #[test]
    fn noise_is_refused_or_is_somethings_encoding(
        noise in prop::collection::vec(any::<u8>(), 0..80), formatted in any::<bool>()
    ) {
        let mut noise = noise;
        if formatted && !noise.is_empty() {
            noise[0] = 1;
        }
        let noise = Bytes::from(noise);
        if let Ok(request) = Request::decode(noise.clone()) {
            prop_assert_eq!(request.encode(), noise.clone());
        }
        if let Ok(reply) = Reply::decode(noise.clone()) {
            prop_assert_eq!(reply.encode(), noise.clone());
        }
        if let Ok(votes) = Votes::decode(noise.clone()) {
            prop_assert_eq!(votes.encode(), noise);
        }
    }
}

#[test]
fn format_1_stays_as_it_is() {
    let ballot = Ballot { round: 2, proposer: NodeId(3), nonce: 4 };
    let request = Request { instance: 5, ballot, step: Step::Recover };
    let number = |n: u8| [n, 0, 0, 0, 0, 0, 0, 0];
    let ballot_bytes = [number(2), number(3), number(4)].concat();
    let expected = [&[1][..], &number(5), &ballot_bytes, &[3]].concat();
    assert_eq!(request.encode(), expected);
    let reply = Reply { ballot, answer: Answer::Refused(Refusal::Behind { version: 6 }) };
    let expected = [&[1][..], &ballot_bytes, &[4, 1], &number(6)].concat();
    assert_eq!(reply.encode(), expected);
}
