//! Hostile inputs that resemble honest ones.
//!
//! Noise alone hardly gets past a format byte. So an input begins as an honest encoding and is then
//! edited as accidents and attackers do: bits flip, pieces are cut, doubled or taken from another
//! encoding, and numbers, lengths above all, become extreme.
//!
//! ```text
//!   honest    01 02 │ actor… 05 │ length 03 │ "abc"
//!   Extreme   01 02 │ actor… 05 │ ff ff ff ff ff ff ff ff 7f …
//! ```

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;

/// Values at which length and count arithmetic goes wrong, little endian where it is wider.
const EXTREMES: [&[u8]; 8] = [
    &[0],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0xff; 8],
    // The longest varint.
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
];

/// One change of an input.
#[derive(Clone, Debug)]
enum Edit {
    Flip {
        at: Index,
        bit: u8,
    },
    Set {
        at: Index,
        byte: u8,
    },
    Extreme {
        at: Index,
        which: Index,
    },
    Insert {
        at: Index,
        bytes: Vec<u8>,
    },
    Remove {
        from: Index,
        length: usize,
    },
    Double {
        from: Index,
        length: usize,
    },
    Cut {
        at: Index,
    },
    /// The front of this one, then the back of another.
    Splice {
        at: Index,
        other: Index,
        from: Index,
    },
}

/// Inputs made from `corpus`, which has at least one honest encoding.
pub(crate) fn inputs(corpus: Vec<Bytes>) -> impl Strategy<Value = Bytes> {
    let noise = prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    let edits = prop::collection::vec(edit(), 0..6);
    let edited = (any::<Index>(), edits).prop_map(move |(honest, edits)| {
        let mut input = honest.get(&corpus).to_vec();
        edits.iter().for_each(|edit| apply(edit, &mut input, &corpus));
        Bytes::from(input)
    });
    prop_oneof![1 => noise, 9 => edited]
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    let piece = prop::collection::vec(any::<u8>(), 1..12);
    prop_oneof![
        (at(), 0..8u8).prop_map(|(at, bit)| Edit::Flip { at, bit }),
        (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Set { at, byte }),
        (at(), at()).prop_map(|(at, which)| Edit::Extreme { at, which }),
        (at(), piece).prop_map(|(at, bytes)| Edit::Insert { at, bytes }),
        (at(), 1..40usize).prop_map(|(from, length)| Edit::Remove { from, length }),
        (at(), 1..40usize).prop_map(|(from, length)| Edit::Double { from, length }),
        at().prop_map(|at| Edit::Cut { at }),
        (at(), at(), at()).prop_map(|(at, other, from)| Edit::Splice { at, other, from }),
    ]
}

fn apply(edit: &Edit, input: &mut Vec<u8>, corpus: &[Bytes]) {
    if input.is_empty() {
        return;
    }
    let length = input.len();
    match edit {
        Edit::Flip { at, bit } => input[at.index(length)] ^= 1 << bit,
        Edit::Set { at, byte } => input[at.index(length)] = *byte,
        Edit::Extreme { at, which } => {
            let at = at.index(length);
            let value = which.get(&EXTREMES);
            let end = (at + value.len()).min(length);
            input.splice(at..end, value.iter().copied());
        }
        Edit::Insert { at, bytes } => {
            let at = at.index(length + 1);
            input.splice(at..at, bytes.iter().copied());
        }
        Edit::Remove { from, length: piece } => {
            let from = from.index(length);
            input.drain(from..(from + piece).min(length));
        }
        Edit::Double { from, length: piece } => {
            let from = from.index(length);
            let piece = input[from..(from + piece).min(length)].to_vec();
            input.splice(from..from, piece);
        }
        Edit::Cut { at } => input.truncate(at.index(length)),
        Edit::Splice { at, other, from } => {
            let other = other.get(corpus);
            input.truncate(at.index(length + 1));
            input.extend_from_slice(&other[from.index(other.len() + 1)..]);
        }
    }
}
