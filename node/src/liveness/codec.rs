//! The bytes of gossip.
//!
//! ```text
//!   identity   node u64 · run u64
//!   header     from identity · its incarnation u16 · to identity · kind u8 · what belongs to it
//!   member     identity · incarnation u16 · state u8
//! ```
//!
//! Little-endian; what of a message is foca's own stands between.

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, State};
use thiserror::Error;

use super::identity::Identity;
use crate::dynamo::key::NodeId;

/// Why bytes are no gossip.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CodecError {
    /// There are too few of them, or too little room for them.
    #[error("it ends too soon")]
    Short,
    /// A kind of message or a state that nobody knows.
    #[error("{0} is no {1}")]
    Unknown(u8, &'static str),
}

/// Bytes of an identity, of a member, and of a header at most.
const IDENTITY: usize = 16;
const MEMBER: usize = IDENTITY + 3;
const HEADER_MAX: usize = 3 * IDENTITY + 4;

/// The codec.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire;

impl Codec<Identity> for Wire {
    type Error = CodecError;

    fn encode_header(
        &mut self,
        header: &Header<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), CodecError> {
        room(&buf, HEADER_MAX)?;
        put_identity(&mut buf, header.src);
        buf.put_u16_le(header.src_incarnation);
        put_identity(&mut buf, header.dst);
        let (kind, probe, other) = match header.message {
            Message::Ping(probe) => (0, Some(probe), None),
            Message::Ack(probe) => (1, Some(probe), None),
            Message::PingReq { target, probe_number } => (2, Some(probe_number), Some(target)),
            Message::IndirectPing { origin, probe_number } => (3, Some(probe_number), Some(origin)),
            Message::IndirectAck { target, probe_number } => (4, Some(probe_number), Some(target)),
            Message::ForwardedAck { origin, probe_number } => (5, Some(probe_number), Some(origin)),
            Message::Announce => (6, None, None),
            Message::Feed => (7, None, None),
            Message::Gossip => (8, None, None),
            Message::Broadcast => (9, None, None),
            Message::TurnUndead => (10, None, None),
        };
        buf.put_u8(kind);
        probe.into_iter().for_each(|probe| buf.put_u8(probe));
        other.into_iter().for_each(|other| put_identity(&mut buf, other));
        Ok(())
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Identity>, CodecError> {
        let src = get_identity(&mut buf)?;
        let src_incarnation = buf.try_get_u16_le().map_err(short)?;
        let dst = get_identity(&mut buf)?;
        let kind = get_u8(&mut buf)?;
        let message = match kind {
            0 => Message::Ping(get_u8(&mut buf)?),
            1 => Message::Ack(get_u8(&mut buf)?),
            2..=5 => {
                let (probe_number, other) = (get_u8(&mut buf)?, get_identity(&mut buf)?);
                match kind {
                    2 => Message::PingReq { target: other, probe_number },
                    3 => Message::IndirectPing { origin: other, probe_number },
                    4 => Message::IndirectAck { target: other, probe_number },
                    _ => Message::ForwardedAck { origin: other, probe_number },
                }
            }
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            10 => Message::TurnUndead,
            kind => return Err(CodecError::Unknown(kind, "kind of gossip")),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(
        &mut self,
        member: &Member<Identity>,
        mut buf: impl BufMut,
    ) -> Result<(), CodecError> {
        room(&buf, MEMBER)?;
        put_identity(&mut buf, *member.id());
        buf.put_u16_le(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Identity>, CodecError> {
        let id = get_identity(&mut buf)?;
        let incarnation = buf.try_get_u16_le().map_err(short)?;
        let state = match get_u8(&mut buf)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            state => return Err(CodecError::Unknown(state, "state of a member")),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

fn room(buf: &impl BufMut, bytes: usize) -> Result<(), CodecError> {
    if buf.remaining_mut() < bytes { Err(CodecError::Short) } else { Ok(()) }
}

fn put_identity(buf: &mut impl BufMut, Identity { node, run }: Identity) {
    buf.put_u64_le(node.0);
    buf.put_u64_le(run);
}

fn get_identity(buf: &mut impl Buf) -> Result<Identity, CodecError> {
    let node = NodeId(buf.try_get_u64_le().map_err(short)?);
    Ok(Identity { node, run: buf.try_get_u64_le().map_err(short)? })
}

fn get_u8(buf: &mut impl Buf) -> Result<u8, CodecError> {
    buf.try_get_u8().map_err(short)
}

fn short(_: bytes::TryGetError) -> CodecError {
    CodecError::Short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> impl Strategy<Value = Identity> {
        any::<(u64, u64)>().prop_map(|(node, run)| Identity { node: NodeId(node), run })
    }

    fn message() -> impl Strategy<Value = Message<Identity>> {
        (0..11, any::<u8>(), identity()).prop_map(|(kind, probe_number, other)| match kind {
            0 => Message::Ping(probe_number),
            1 => Message::Ack(probe_number),
            2 => Message::PingReq { target: other, probe_number },
            3 => Message::IndirectPing { origin: other, probe_number },
            4 => Message::IndirectAck { target: other, probe_number },
            5 => Message::ForwardedAck { origin: other, probe_number },
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            _ => Message::TurnUndead,
        })
    }

    proptest! {
        #[test]
        fn headers_and_members_are_read_as_they_were_written(
            (src, dst, message) in (identity(), identity(), message()),
            (src_incarnation, state, id) in (any::<u16>(), 0..3, identity()),
        ) {
            let header = Header { src, src_incarnation, dst, message };
            let state = [State::Alive, State::Suspect, State::Down][state as usize];
            let member = Member::new(id, src_incarnation, state);
            let mut bytes = Vec::new();
            Wire.encode_header(&header, &mut bytes).unwrap();
            Wire.encode_member(&member, &mut bytes).unwrap();
            let mut left = &bytes[..];
            prop_assert_eq!(Wire.decode_header(&mut left).unwrap(), header);
            prop_assert_eq!(Wire.decode_member(&mut left).unwrap(), member);
            prop_assert!(left.is_empty());
            for end in 0..bytes.len() {
                let mut cut = &bytes[..end];
                let read = Wire.decode_header(&mut cut).and_then(|_| Wire.decode_member(&mut cut));
                prop_assert_eq!(read.unwrap_err(), CodecError::Short);
            }
        }

        #[test]
        fn too_little_room_leaves_nothing_behind(room in 0..MEMBER) {
            let member = Member::alive(Identity { node: NodeId(1), run: 2 });
            let mut bytes = Vec::new();
            let written = Wire.encode_member(&member, (&mut bytes).limit(room));
            prop_assert_eq!(written, Err(CodecError::Short));
            prop_assert!(bytes.is_empty());
        }
    }

    #[test]
    fn what_nobody_knows_is_no_gossip() {
        let mut header = vec![0; 2 * IDENTITY + 2];
        header.push(11);
        assert_eq!(
            Wire.decode_header(&header[..]).unwrap_err(),
            CodecError::Unknown(11, "kind of gossip")
        );
        let mut member = vec![0; IDENTITY + 2];
        member.push(3);
        assert_eq!(
            Wire.decode_member(&member[..]).unwrap_err(),
            CodecError::Unknown(3, "state of a member")
        );
    }
}
