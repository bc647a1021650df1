//! What owners tell each other of what they have seen.

use quorate_proto::peer as proto;

use super::WireError;
use crate::dynamo::exchange::{Answer, Compared, DOTS_MAX, KeyDots, Told};
use crate::dynamo::format::{decode_frontier, encode_frontier};
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::{Key, NamespaceId, PartitionId, VnodeId};

pub(super) fn encode_frontiers(asked: Vec<(VnodeId, u64)>, recall: bool) -> proto::Frontiers {
    let asked = asked.into_iter().map(|(vnode, fingerprint)| proto::Fingerprint {
        n: vnode.n.into(),
        partition: vnode.partition.0.into(),
        fingerprint,
    });
    proto::Frontiers { asked: asked.collect(), recall }
}

pub(super) fn decode_frontiers(m: proto::Frontiers) -> Result<Vec<(VnodeId, u64)>, WireError> {
    let one = |m: proto::Fingerprint| Ok((vnode(m.n, m.partition)?, m.fingerprint));
    m.asked.into_iter().map(one).collect()
}

pub(super) fn encode_answers(answers: Vec<Answer>, settled: bool) -> proto::FrontiersReply {
    use proto::compared::Compared as Wire;
    let compared = answers.into_iter().map(|Answer { compared, remembered }| proto::Compared {
        compared: match compared {
            Compared::Same => Some(Wire::Same(true)),
            Compared::Differs(Told { generation, frontier, recounting }) => {
                let frontier = encode_frontier(&frontier);
                Some(Wire::Told(proto::Told { generation, frontier, recounting }))
            }
            Compared::Unsaid => None,
        },
        remembered: remembered.as_ref().map(encode_frontier),
    });
    proto::FrontiersReply { compared: compared.collect(), settled }
}

pub(super) fn decode_answers(m: proto::FrontiersReply) -> Result<Vec<Answer>, WireError> {
    use proto::compared::Compared as Wire;
    let one = |m: proto::Compared| {
        let compared = match m.compared {
            Some(Wire::Same(true)) => Compared::Same,
            Some(Wire::Told(proto::Told { generation, frontier, recounting })) => {
                let frontier = decode_frontier(frontier)?;
                Compared::Differs(Told { generation, frontier, recounting })
            }
            Some(Wire::Same(false)) | None => Compared::Unsaid,
        };
        let remembered = m.remembered.map(decode_frontier).transpose()?;
        Ok(Answer { compared, remembered })
    };
    m.compared.into_iter().map(one).collect()
}

pub(super) fn encode_keys(vnode: VnodeId, dots: &Frontier) -> proto::Keys {
    let VnodeId { n, partition } = vnode;
    proto::Keys { n: n.into(), partition: partition.0.into(), dots: encode_frontier(dots) }
}

pub(super) fn decode_keys(m: proto::Keys) -> Result<(VnodeId, Frontier), WireError> {
    Ok((vnode(m.n, m.partition)?, decode_frontier(m.dots)?))
}

pub(super) fn encode_key_dots(keys: Vec<KeyDots>) -> proto::KeysReply {
    let keys = keys.into_iter().map(|KeyDots { namespace, key, dots }| proto::KeyDots {
        namespace: namespace.0,
        key: key.to_bytes(),
        dots: encode_frontier(&dots.into_iter().collect()),
    });
    proto::KeysReply { keys: keys.collect() }
}

/// A few bytes can name any number of dots: more than an answer may have are refused before they are
/// listed.
pub(super) fn decode_key_dots(m: proto::KeysReply) -> Result<Vec<KeyDots>, WireError> {
    let mut left = DOTS_MAX as u64;
    let one = |m: proto::KeyDots| {
        let dots = decode_frontier(m.dots)?;
        let count = dots.count();
        if count == 0 || count > left {
            return Err(WireError::Value { field: "dots of a key", value: count });
        }
        left -= count;
        let (namespace, dots) = (NamespaceId(m.namespace), dots.dots().collect());
        Ok(KeyDots { namespace, key: Key::new(m.key)?, dots })
    };
    m.keys.into_iter().map(one).collect()
}

pub(super) fn vnode(n: u32, partition: u32) -> Result<VnodeId, WireError> {
    let too_large = |field, value: u32| WireError::Value { field, value: value.into() };
    let partition = u16::try_from(partition).map_err(|_| too_large("partition", partition))?;
    let n = u8::try_from(n).map_err(|_| too_large("n", n))?;
    Ok(VnodeId { n, partition: PartitionId(partition) })
}
