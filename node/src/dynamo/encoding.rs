//! The byte format of what is stored and hashed: little endian, length-prefixed, canonical.
//!
//! One value has one encoding, since hashes are taken over encodings: varints must be minimal,
//! nothing may trail. Bytes come from disks and peers, so a [`Reader`] trusts no length: it slices
//! the input (without copying) and lets nobody allocate for more elements than bytes are left.
//!
//! ```text
//!   u32  7       07 00 00 00
//!   varint 300   ac 02             seven bits a byte, lowest first
//!   bytes "ab"   02 61 62          varint length, then the bytes
//! ```
//!
//! Left out: field tags. Each record opens with a format byte and is decoded by that format alone.

use bytes::{Buf, Bytes};
use thiserror::Error;

/// Why bytes are no encoding of what was expected. Nothing was changed; the bytes are to be
/// treated as corrupt.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{what}, at byte {at}: {flaw}")]
pub struct DecodeError {
    /// The field that was being read.
    pub what: &'static str,
    /// Where in the input it begins.
    pub at: usize,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// What can be wrong with encoded bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Flaw {
    /// The input ends within the field.
    #[error("the input ends too early")]
    Truncated,
    /// A varint of more than 64 bits, or with needless zeros.
    #[error("not a minimal varint of at most 64 bits")]
    Varint,
    /// A string that is not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// A value that the field cannot have.
    #[error("{0} is not allowed here")]
    Value(u64),
    /// Bytes left after the last field.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

/// Appends fields to a growing buffer.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// One to ten bytes: short for small numbers.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// How many elements follow.
    pub fn count(&mut self, elements: usize) {
        self.varint(elements as u64);
    }

    /// The bytes as they are, for fields of known length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Length and bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    /// Length and bytes of the text.
    pub fn string(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// How many bytes were written so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was written so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The encoding.
    pub fn finish(self) -> Bytes {
        self.0.into()
    }
}

/// Takes fields off the front of the input. `what` names the field in errors.
#[derive(Clone, Debug)]
pub struct Reader {
    rest: Bytes,
    length: usize,
}

impl Reader {
    /// Reads `input` from its beginning.
    pub fn new(input: impl Into<Bytes>) -> Self {
        let rest = input.into();
        Self { length: rest.len(), rest }
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.require(1, what)?;
        Ok(self.rest.get_u8())
    }

    /// Two bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.require(2, what)?;
        Ok(self.rest.get_u16_le())
    }

    /// Four bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.require(4, what)?;
        Ok(self.rest.get_u32_le())
    }

    /// Eight bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.require(8, what)?;
        Ok(self.rest.get_u64_le())
    }

    /// A minimal varint.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let (value, length) = decode_varint(&self.rest).map_err(|flaw| self.error(what, flaw))?;
        self.rest.advance(length);
        Ok(value)
    }

    /// How many elements follow, each of at least `element_min_bytes`: never more than fit in what
    /// is left, so that it is safe to reserve room for them.
    pub fn count(
        &mut self,
        element_min_bytes: usize,
        what: &'static str,
    ) -> Result<usize, DecodeError> {
        assert!(element_min_bytes > 0, "an element without bytes cannot be bounded");
        let at = self.at();
        let count = self.varint(what)?;
        let fits = self.rest.len() / element_min_bytes;
        usize::try_from(count).ok().filter(|&count| count <= fits).ok_or(DecodeError {
            what,
            at,
            flaw: Flaw::Truncated,
        })
    }

    /// `N` bytes, copied.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        self.require(N, what)?;
        let mut array = [0; N];
        self.rest.copy_to_slice(&mut array);
        Ok(array)
    }

    /// `length` bytes, shared with the input.
    pub fn raw(&mut self, length: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        self.require(length, what)?;
        Ok(self.rest.split_to(length))
    }

    /// Length and bytes, shared with the input.
    pub fn bytes(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let length = self.count(1, what)?;
        self.raw(length, what)
    }

    /// Length and text, copied.
    pub fn string(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let at = self.at();
        let bytes = self.bytes(what)?;
        let text = std::str::from_utf8(&bytes);
        Ok(text.map_err(|_| DecodeError { what, at, flaw: Flaw::Utf8 })?.to_owned())
    }

    /// A byte that must be `format`.
    pub fn format(&mut self, format: u8, what: &'static str) -> Result<(), DecodeError> {
        let at = self.at();
        match self.u8(what)? {
            found if found == format => Ok(()),
            found => Err(DecodeError { what, at, flaw: Flaw::Value(found.into()) }),
        }
    }

    /// How many bytes were read.
    pub fn at(&self) -> usize {
        self.length - self.rest.len()
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends the reading; nothing may be left.
    pub fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.error(what, Flaw::Trailing(left))),
        }
    }

    /// The error for a flaw of the field that begins here.
    pub fn error(&self, what: &'static str, flaw: Flaw) -> DecodeError {
        DecodeError { what, at: self.at(), flaw }
    }

    fn require(&self, bytes: usize, what: &'static str) -> Result<(), DecodeError> {
        if self.rest.len() < bytes {
            return Err(self.error(what, Flaw::Truncated));
        }
        Ok(())
    }
}

/// The varint at the front of `input`, and its length.
fn decode_varint(input: &[u8]) -> Result<(u64, usize), Flaw> {
    let mut value = 0;
    for (index, &byte) in input.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        let too_wide = index == 9 && byte > 1;
        let padded = index > 0 && byte == 0;
        match byte & 0x80 {
            _ if too_wide || padded => return Err(Flaw::Varint),
            0 => return Ok((value, index + 1)),
            _ => {}
        }
    }
    Err(Flaw::Truncated)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_come_back_as_written(
            a in any::<u8>(), b in any::<u16>(), c in any::<u32>(), d in any::<u64>(),
            shift in 0..64u32, raw in prop::collection::vec(any::<u8>(), 0..300), text in ".*",
        ) {
            let mut writer = Writer::new();
            writer.u8(a);
            writer.u16(b);
            writer.u32(c);
            writer.u64(d);
            writer.varint(d >> shift);
            writer.bytes(&raw);
            writer.string(&text);
            let mut reader = Reader::new(writer.finish());
            prop_assert_eq!(reader.u8("a"), Ok(a));
            prop_assert_eq!(reader.u16("b"), Ok(b));
            prop_assert_eq!(reader.u32("c"), Ok(c));
            prop_assert_eq!(reader.u64("d"), Ok(d));
            prop_assert_eq!(reader.varint("e"), Ok(d >> shift));
            prop_assert_eq!(reader.bytes("raw").unwrap(), raw);
            prop_assert_eq!(reader.string("text").unwrap(), text);
            prop_assert_eq!(reader.finish("end"), Ok(()));
        }

        #[test]
        fn what_reads_as_a_varint_is_its_only_encoding(input in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Ok((value, length)) = decode_varint(&input) {
                let mut writer = Writer::new();
                writer.varint(value);
                prop_assert_eq!(writer.as_slice(), &input[..length]);
            }
        }
    }

    #[test]
    fn errors_name_the_field_and_the_place() {
        let mut reader = Reader::new(&[7, 1][..]);
        assert_eq!(reader.u8("first"), Ok(7));
        let error = reader.u32("second").unwrap_err();
        assert_eq!(error.to_string(), "second, at byte 1: the input ends too early");
        let error = reader.finish("record").unwrap_err();
        assert_eq!(error.to_string(), "record, at byte 1: 1 bytes too many");
    }

    #[test]
    fn a_count_is_bounded_by_what_is_left() {
        static HUGE: [u8; 11] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0];
        let flaw = |mut reader: Reader| reader.count(1, "many").unwrap_err().flaw;
        assert_eq!(flaw(Reader::new(&HUGE[..])), Flaw::Truncated);
        assert_eq!(Reader::new(&[2, 0, 0, 0][..]).count(2, "pairs").unwrap_err().at, 0);
        assert_eq!(Reader::new(&[2, 0, 0, 0, 0][..]).count(2, "pairs"), Ok(2));
    }

    #[test]
    fn padded_and_overlong_varints_are_refused() {
        for input in [&[0x80, 0][..], &[0xff; 10], &[0xff, 0xff, 0xff, 0, 1]] {
            assert_eq!(decode_varint(input), Err(Flaw::Varint), "{input:?}");
        }
        assert_eq!(decode_varint(&[0x80, 0x80]), Err(Flaw::Truncated));
    }
}
