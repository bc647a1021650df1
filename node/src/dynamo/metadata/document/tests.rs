use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::dynamo::object::siblings_max_bytes;
use crate::dynamo::ttl::{Ttl, TtlMs};

fn member(index: usize) -> Member {
    Member {
        node: NodeId::of_name(&format!("node-{index}")),
        name: format!("node-{index}"),
        zone: format!("zone-{}", index % 2),
        weight: 1 + index as u32,
        peer_address: format!("10.0.0.{index}:7000"),
        client_address: format!("10.0.0.{index}:8000"),
    }
}

fn plan(members: usize, voters: usize) -> FirstDocument {
    let vote = |index| Voter { node: member(index).node, store: StoreId(index as u64) };
    FirstDocument {
        cluster: ClusterId([7; 16]),
        cluster_key: ClusterKey([9; 32]),
        partitions: PartitionCount::new(8).unwrap(),
        members: (0..members).map(member).collect(),
        voters: (0..voters).map(vote).collect(),
    }
}

/// Any table: the first n nodes own everything.
fn place(n: u8) -> Vec<NodeId> {
    (0..8).flat_map(|_| (0..n.into()).map(|index| member(index).node)).collect()
}

fn with_carts() -> Document {
    let one = Document::first(plan(3, 3)).unwrap();
    let carts = NewNamespace { sloppy: false, ..NewNamespace::named("carts") };
    one.with_namespace(carts, place).unwrap()
}

const GOLDEN: &str = include_str!("golden_v1.hex");

#[test]
fn format_1_stays_readable() {
    let digits = GOLDEN.trim().as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    let bytes: Vec<u8> = digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
    assert_eq!(Document::decode(bytes.clone()), Ok(with_carts()));
    assert_eq!(with_carts().encode(), bytes);
}

#[test]
fn a_chain_of_changes() {
    let two = with_carts();
    let never = |_| panic!("the group exists");
    let three = two.with_namespace(NewNamespace::named("users"), never).unwrap();
    assert_eq!((three.version, three.predecessor), (3, two.hash()));
    let four = three.without_namespace("carts").unwrap();
    assert_eq!(four.namespace_named("carts"), None);
    let five = four.with_namespace(NewNamespace::named("carts"), never).unwrap();
    assert_eq!(five.namespace_named("carts").unwrap().id, NamespaceId(3), "1 is never reused");
    assert_eq!(five.namespace(NamespaceId(2)).unwrap().name, "users");
}

#[test]
fn an_update_changes_what_it_names_and_nothing_else() {
    let two = with_carts();
    let update = NamespaceUpdate {
        r: Some(Level::One),
        w: Some(Level::All),
        durability: Some(Durability::Synced),
        value_max_bytes: Some(9),
        sloppy: Some(true),
        ..NamespaceUpdate::named("carts")
    };
    let three = two.with_updated_namespace(&update).unwrap().unwrap();
    assert_eq!((three.version, three.predecessor), (3, two.hash()));
    let before = two.namespace_named("carts").unwrap();
    let expected = Namespace {
        r: Level::One,
        w: Level::All,
        durability: Durability::Synced,
        value_max_bytes: 9,
        sloppy: true,
        default_ttl: None,
        ..before.clone()
    };
    assert_eq!(three.namespaces, [expected]);
    assert_eq!(Document::decode(three.encode()), Ok(three.clone()));
    assert_eq!(three.layouts, two.layouts);

    assert_eq!(three.with_updated_namespace(&update), Ok(None), "that is how it is");
    assert_eq!(two.with_updated_namespace(&NamespaceUpdate::named("carts")), Ok(None));
    let back = NamespaceUpdate { sloppy: Some(false), ..NamespaceUpdate::named("carts") };
    let four = three.with_updated_namespace(&back).unwrap().unwrap();
    assert_eq!((four.namespaces[0].sloppy, four.namespaces[0].w), (false, Level::All));
}

/// What says nothing of it has the bytes that it always had: documents are told apart by their hashes.
#[test]
fn a_default_ttl_has_a_format_of_its_own() {
    let two = with_carts();
    assert_eq!(two.encode()[0], 1);
    let update = |default_ttl| NamespaceUpdate { default_ttl, ..NamespaceUpdate::named("carts") };
    let hour = TtlMs::new(3_600_000).unwrap();
    let three = two.with_updated_namespace(&update(Ttl::After(hour))).unwrap().unwrap();
    assert_eq!((three.encode()[0], three.namespaces[0].default_ttl), (2, Some(hour)));
    assert_eq!(Document::decode(three.encode()), Ok(three.clone()));
    assert_eq!(three.with_updated_namespace(&update(Ttl::Default)), Ok(None));
    let four = three.with_updated_namespace(&update(Ttl::Never)).unwrap().unwrap();
    assert_eq!((four.encode()[0], four.namespaces[0].default_ttl), (1, None));
    for format in [0, 2, 3] {
        let mut other = two.encode().to_vec();
        other[0] = format;
        assert!(Document::decode(other).is_err(), "{format}");
    }
}

#[test]
fn an_impossible_update_is_refused_as_at_creation() {
    let two = with_carts();
    let carts = || NamespaceUpdate::named("carts");
    let too_large = siblings_max_bytes(3) as u32 + 1;
    for (update, expected) in [
        (NamespaceUpdate { w: Some(Level::Count(4)), ..carts() }, "w is level 4 with n = 3"),
        (NamespaceUpdate { r: Some(Level::Count(0)), ..carts() }, "r is level 0 with n = 3"),
        (NamespaceUpdate { value_max_bytes: Some(0), ..carts() }, "value_max_bytes is 0"),
        (NamespaceUpdate { value_max_bytes: Some(too_large), ..carts() }, "the most is"),
        (NamespaceUpdate::named("gone"), "there is no namespace"),
    ] {
        let refused = two.with_updated_namespace(&update).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn impossible_namespaces_name_the_numbers() {
    let two = with_carts();
    let new = |name: &str, n, w| NewNamespace { n, w, ..NewNamespace::named(name) };
    let message = |new| two.with_namespace(new, place).unwrap_err().to_string();
    assert!(message(new("a", 4, Level::One)).contains("n = 4, but the cluster has 3"));
    assert!(message(new("a", 2, Level::Count(3))).contains("w is level 3 with n = 2"));
    assert!(message(new("carts", 3, Level::One)).contains("exists already"));
    let long = "a".repeat(65);
    for bad in ["", "-a", "A", "a b", "ä", long.as_str()] {
        assert!(message(new(bad, 3, Level::One)).contains("no namespace name"), "{bad}");
    }
    let short = two.with_namespace(new("a", 2, Level::One), |_| Vec::new());
    assert_eq!(short, Err(DocumentError::TableSize { n: 2, got: 0, expected: 16 }));
    assert!(two.without_namespace("gone").is_err());
}

#[test]
fn impossible_clusters_are_refused() {
    assert_eq!(Document::first(plan(3, 0)), Err(DocumentError::Voters { voters: 0 }));
    assert_eq!(Document::first(plan(9, 8)), Err(DocumentError::Voters { voters: 8 }));
    let stranger = Document::first(FirstDocument { voters: plan(3, 3).voters, ..plan(2, 1) });
    assert_eq!(stranger, Err(DocumentError::VoterNotMember { node: member(2).node }));
    let mut twice = plan(2, 1);
    twice.members.push(member(0));
    assert!(matches!(Document::first(twice), Err(DocumentError::Repeated { .. })));
    let mut collision = plan(2, 1);
    collision.members[1].node = collision.members[0].node;
    assert!(matches!(Document::first(collision), Err(DocumentError::NodeCollision { .. })));
}

#[test]
fn debug_hides_the_key() {
    assert!(format!("{:?}", with_carts()).contains("ClusterKey(redacted)"));
}

proptest! {
    #[test]
    fn documents_survive_the_wire(
        members in 1..9usize, n in 1..4u8, sloppy in any::<bool>(), change in any::<Option<u64>>()
    ) {
        let mut document = Document::first(plan(members, members.min(7))).unwrap();
        let new = NewNamespace { n: n.min(members as u8), sloppy, ..NewNamespace::named("a") };
        document = document.with_namespace(new, place).unwrap();
        document.plan = change;
        prop_assert_eq!(Document::decode(document.encode()), Ok(document));
    }

    #[test]
    fn hostile_bytes_are_an_error_or_another_document(at in any::<usize>(), byte in any::<u8>()) {
        let good = with_carts().encode();
        let at = at % good.len();
        prop_assert!(Document::decode(good.slice(..at)).is_err());
        let mut bad = good.to_vec();
        bad[at] = byte;
        if let Ok(document) = Document::decode(bad.clone()) {
            prop_assert_eq!(document.encode(), Bytes::from(bad));
        }
    }

    #[test]
    fn noise_is_an_error(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Document::decode(noise).is_err());
    }
}
