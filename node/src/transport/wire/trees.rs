//! What owners ask each other about their trees of hashes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_proto::peer as proto;

use super::WireError;
use super::exchange::vnode;
use crate::dynamo::key::{Key, NamespaceId, VnodeId};
use crate::dynamo::merkle::{Children, LEAVES, Leaf, Listing, Node, Place, Sum, Summary};
use crate::transport::trees::{BRANCHES_MAX, LEAVES_MAX, PLACES_MAX, TreeReply, TreeRequest};

const SUM_BYTES: usize = 16;
const HELD_BYTES: usize = 8 + SUM_BYTES;

pub(super) fn encode_request(request: TreeRequest) -> proto::TreeRequest {
    use proto::tree_request::Asked;
    let (asked, of) = match request {
        TreeRequest::Summaries(vnodes) => {
            let vnodes = vnodes.into_iter().map(tree).collect();
            (Asked::Summaries(proto::Trees { vnodes }), None)
        }
        TreeRequest::Branches(of, branches) => {
            let number = |node: Node| u32::from(node.level) << 16 | u32::from(node.index);
            let nodes = branches.into_iter().map(number).collect();
            (Asked::Branches(proto::Nodes { nodes }), Some(of))
        }
        TreeRequest::Leaves(of, leaves) => {
            let nodes = leaves.into_iter().map(|leaf| leaf.0.into()).collect();
            (Asked::Leaves(proto::Nodes { nodes }), Some(of))
        }
        TreeRequest::Names(of, places) => {
            let places = places.into_iter().map(|place| place.0).collect();
            (Asked::Names(proto::Places { places }), Some(of))
        }
    };
    proto::TreeRequest { of: of.map(tree), asked: Some(asked) }
}

pub(super) fn decode_request(m: proto::TreeRequest) -> Result<TreeRequest, WireError> {
    use proto::tree_request::Asked;
    let missing = || WireError::Value { field: "tree", value: 0 };
    let of = m.of.map(vnode_of).transpose()?.ok_or_else(missing);
    Ok(match m.asked.ok_or_else(missing)? {
        Asked::Summaries(m) => {
            let vnodes = m.vnodes.into_iter().map(vnode_of).collect::<Result<_, _>>()?;
            TreeRequest::Summaries(vnodes)
        }
        Asked::Branches(m) => {
            at_most(BRANCHES_MAX, m.nodes.len(), "branches")?;
            let branch = |number: u32| {
                let level = u8::try_from(number >> 16).ok();
                let branch = level.and_then(|level| Node::branch(level, number as u16));
                branch.ok_or(WireError::Value { field: "branch", value: number.into() })
            };
            TreeRequest::Branches(of?, m.nodes.into_iter().map(branch).collect::<Result<_, _>>()?)
        }
        Asked::Leaves(m) => {
            at_most(LEAVES_MAX, m.nodes.len(), "leaves")?;
            let leaf = |number: u32| {
                let leaf = u16::try_from(number).ok().filter(|leaf| *leaf < LEAVES).map(Leaf);
                leaf.ok_or(WireError::Value { field: "leaf", value: number.into() })
            };
            TreeRequest::Leaves(of?, m.nodes.into_iter().map(leaf).collect::<Result<_, _>>()?)
        }
        Asked::Names(m) => {
            at_most(PLACES_MAX, m.places.len(), "places")?;
            TreeRequest::Names(of?, m.places.into_iter().map(Place).collect())
        }
    })
}

pub(super) fn encode_reply(reply: TreeReply) -> proto::TreeReply {
    use proto::tree_reply::Told;
    let told = match reply {
        TreeReply::Summaries(summaries) => {
            let one = |summary: Option<Summary>| match summary {
                Some(Summary { fingerprint, root }) => {
                    proto::Summary { fingerprint, root: sums(&[root]) }
                }
                None => proto::Summary::default(),
            };
            Told::Summaries(proto::Summaries { of: summaries.into_iter().map(one).collect() })
        }
        TreeReply::Branches(children) => {
            let children = children.map(|all| all.iter().map(|sixteen| sums(sixteen)).collect());
            Told::Branches(proto::Branches { children: children.unwrap_or_default() })
        }
        TreeReply::Leaves(leaves) => {
            let one = |listing: Option<Listing>| proto::HeldLeaf { held: listing.map(held) };
            Told::Leaves(proto::HeldLeaves { leaves: leaves.into_iter().map(one).collect() })
        }
        TreeReply::Names(names) => {
            let one = |(namespace, key): (NamespaceId, Key)| proto::Name {
                namespace: namespace.0,
                key: key.to_bytes(),
            };
            Told::Names(proto::Names { names: names.into_iter().map(one).collect() })
        }
    };
    proto::TreeReply { told: Some(told) }
}

pub(super) fn decode_reply(m: proto::TreeReply) -> Result<TreeReply, WireError> {
    use proto::tree_reply::Told;
    Ok(match m.told.ok_or(WireError::Value { field: "tree", value: 0 })? {
        Told::Summaries(m) => {
            TreeReply::Summaries(m.of.into_iter().map(summary).collect::<Result<_, _>>()?)
        }
        Told::Branches(m) if m.children.is_empty() => TreeReply::Branches(None),
        Told::Branches(m) => {
            let children = m.children.into_iter().map(children).collect::<Result<_, _>>()?;
            TreeReply::Branches(Some(children))
        }
        Told::Leaves(m) => {
            let one = |m: proto::HeldLeaf| m.held.map(listing).transpose();
            TreeReply::Leaves(m.leaves.into_iter().map(one).collect::<Result<_, _>>()?)
        }
        Told::Names(m) => {
            let one = |m: proto::Name| Ok((NamespaceId(m.namespace), Key::new(m.key)?));
            TreeReply::Names(m.names.into_iter().map(one).collect::<Result<_, WireError>>()?)
        }
    })
}

fn tree(VnodeId { n, partition }: VnodeId) -> proto::Tree {
    proto::Tree { n: n.into(), partition: partition.0.into() }
}

fn vnode_of(m: proto::Tree) -> Result<VnodeId, WireError> {
    vnode(m.n, m.partition)
}

fn at_most(most: usize, found: usize, field: &'static str) -> Result<(), WireError> {
    let too_many = WireError::Value { field, value: found as u64 };
    if found <= most { Ok(()) } else { Err(too_many) }
}

fn sums(sums: &[Sum]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(sums.len() * SUM_BYTES);
    sums.iter().for_each(|sum| bytes.put_u128(sum.0));
    bytes.freeze()
}

fn summary(m: proto::Summary) -> Result<Option<Summary>, WireError> {
    let proto::Summary { fingerprint, root } = m;
    match root.len() {
        0 => Ok(None),
        SUM_BYTES => Ok(Some(Summary { fingerprint, root: Sum(root.clone().get_u128()) })),
        wrong => Err(WireError::Value { field: "root", value: wrong as u64 }),
    }
}

fn children(mut bytes: Bytes) -> Result<Children, WireError> {
    let mut children = Children::default();
    if bytes.len() != children.len() * SUM_BYTES {
        return Err(WireError::Value { field: "children", value: bytes.len() as u64 });
    }
    children.fill_with(|| Sum(bytes.get_u128()));
    Ok(children)
}

fn held(listing: Listing) -> Bytes {
    let mut bytes = BytesMut::with_capacity(listing.len() * HELD_BYTES);
    for (place, hash) in listing {
        bytes.put_u64(place.0);
        bytes.put_u128(hash);
    }
    bytes.freeze()
}

fn listing(mut bytes: Bytes) -> Result<Listing, WireError> {
    if !bytes.len().is_multiple_of(HELD_BYTES) {
        return Err(WireError::Value { field: "held", value: bytes.len() as u64 });
    }
    let count = bytes.len() / HELD_BYTES;
    Ok((0..count).map(|_| (Place(bytes.get_u64()), bytes.get_u128())).collect())
}
