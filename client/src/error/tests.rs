use super::*;
pub(crate) use crate::fake::status;

#[test]
fn a_detail_becomes_a_typed_error() {
    let detail = ErrorDetail {
        kind: Kind::Quorum.into(),
        outcome: Outcome::Unknown.into(),
        node: "n2".into(),
        needed: 2,
        got: 1,
        ..ErrorDetail::default()
    };
    let error = Error::from_status(&status(Code::Unavailable, "too few replicas", detail), "n1");
    assert_eq!((error.kind(), error.node()), (ErrorKind::Unavailable, Some("n2")));
    assert_eq!((error.needed(), error.got()), (2, 1));
    assert_eq!(error.reach(), Reach::Answered(Outcome::Unknown));
    assert!(error.is_retryable() && !error.is_node_failure());
    assert_eq!(
        error.to_string(),
        "too few replicas (node n2; 1 of 2 replicas answered); \
         try again, bring nodes back, or ask for fewer replicas"
    );
}

#[test]
fn every_kind_has_its_own() {
    let cases = [
        (Kind::Invalid, ErrorKind::Invalid, false),
        (Kind::UnknownNamespace, ErrorKind::NotFound, false),
        (Kind::Context, ErrorKind::Invalid, false),
        (Kind::Timeout, ErrorKind::Timeout, true),
        (Kind::Overloaded, ErrorKind::Overloaded, true),
        (Kind::NotReady, ErrorKind::Unavailable, true),
        (Kind::ClockSkew, ErrorKind::Unavailable, true),
        (Kind::Conflict, ErrorKind::Conflict, false),
        (Kind::Siblings, ErrorKind::Conflict, false),
        (Kind::NoMajority, ErrorKind::Unavailable, false),
        (Kind::ChangeUnknown, ErrorKind::Unavailable, true),
        (Kind::Data, ErrorKind::Data, true),
        (Kind::Internal, ErrorKind::Internal, false),
    ];
    for (kind, expected, retryable) in cases {
        let detail = ErrorDetail { kind: kind.into(), ..ErrorDetail::default() };
        let error = Error::from_status(&status(Code::Unknown, "said", detail), "n1");
        assert_eq!((error.kind(), error.is_retryable()), (expected, retryable), "{kind:?}");
        assert_eq!(error.node(), Some("n1"), "the node asked, when none is named");
    }
}

#[test]
fn a_node_that_says_what_to_do_is_left_at_that() {
    let said = |message: &str| {
        let detail = ErrorDetail { kind: Kind::NotReady.into(), ..ErrorDetail::default() };
        Error::from_status(&status(Code::Unavailable, message, detail), "n1").to_string()
    };
    let message = "this node belongs to no cluster yet; `quorate init` makes one";
    assert_eq!(said(message), format!("{message} (node n1)"));
    let other = said("this node belongs to no cluster yet");
    assert!(other.ends_with("; check that the node runs and can be reached"), "{other}");
}

#[test]
fn without_a_detail_nothing_is_known_of_what_was_sent() {
    for code in [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled] {
        let error = Error::from_status(&Status::new(code, "broken pipe"), "n1");
        assert_eq!((error.reach(), error.kind()), (Reach::Lost, ErrorKind::Unavailable));
        assert!(error.is_node_failure());
    }
    let garbage = Status::with_details(Code::Unavailable, "said", vec![255; 9].into());
    assert_eq!(Error::from_status(&garbage, "n1").reach(), Reach::Lost);
    let other_service = Error::from_status(&Status::unimplemented("no"), "n1");
    assert_eq!((other_service.reach(), other_service.is_retryable()), (Reach::NotSent, false));
}

#[test]
fn a_message_that_is_too_large_names_the_limits() {
    let said = "Error, decoded message length too large: found 20000038 bytes, the limit is: \
                16777216 bytes";
    let error = Error::from_status(&Status::out_of_range(said), "n1");
    assert_eq!((error.kind(), error.reach()), (ErrorKind::Invalid, Reach::NotSent));
    assert_eq!(
        error.to_string(),
        "the request is larger than the node takes: found 20000038 bytes, the limit is: 16777216 \
         bytes (node n1); send less at once: a value has at most the namespace's value_max_bytes, \
         and a whole message the node's message_max_bytes"
    );
}
