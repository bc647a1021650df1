//! Lines of a file: one at a time, of bounded length, with the bytes that they had.

use std::io::{self, BufRead, ErrorKind};

use memchr::memchr;

/// The longest row, in bytes. Far above any value that a namespace should hold; it keeps a file
/// without line ends out of memory.
pub(super) const ROW_MAX_BYTES: usize = 64 << 20;

/// What some programs begin a UTF-8 file with.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What [`LineReader::append_line`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A line, which was appended with its end.
    Line,
    /// A line that would make the row too long; it was skipped.
    TooLong,
    /// The end of the file.
    End,
}

/// Hands out lines and counts them.
pub(super) struct LineReader<R> {
    input: R,
    /// Bytes that were read and then handed back.
    ahead: Vec<u8>,
    ahead_at: usize,
    lines: u64,
    bytes: u64,
    drops_mark: bool,
}

impl<R: BufRead> LineReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, ahead: Vec::new(), ahead_at: 0, lines: 0, bytes: 0, drops_mark: false }
    }

    /// Hands out the first line without its byte order mark, if it has one.
    pub(super) fn without_mark(self) -> Self {
        Self { drops_mark: true, ..self }
    }

    /// How many lines were read.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// How many bytes were read.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends the next line, its end included, to `row`.
    pub(super) fn append_line(&mut self, row: &mut Vec<u8>) -> io::Result<Found> {
        let (mut found, start) = (Found::End, row.len());
        loop {
            let buffer = match self.buffer() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                buffer => buffer?,
            };
            if buffer.is_empty() {
                break;
            }
            let end = memchr(b'\n', buffer);
            let taken = end.map_or(buffer.len(), |at| at + 1);
            if found == Found::TooLong || row.len() + taken > ROW_MAX_BYTES {
                found = Found::TooLong;
            } else {
                found = Found::Line;
                row.extend_from_slice(&buffer[..taken]);
            }
            self.consume(taken);
            if end.is_some() {
                break;
            }
        }
        self.lines += u64::from(found != Found::End);
        if self.drops_mark && self.lines == 1 && row[start..].starts_with(BYTE_ORDER_MARK) {
            row.drain(start..start + BYTE_ORDER_MARK.len());
        }
        Ok(found)
    }

    /// Takes back the last `bytes` that were handed out, to read them again.
    pub(super) fn hand_back(&mut self, bytes: &[u8]) {
        let mut ahead = bytes.to_vec();
        ahead.extend_from_slice(&self.ahead[self.ahead_at..]);
        (self.ahead, self.ahead_at) = (ahead, 0);
        let ends = memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.lines -= ends + u64::from(bytes.last().is_some_and(|&b| b != b'\n'));
        self.bytes -= bytes.len() as u64;
    }

    fn buffer(&mut self) -> io::Result<&[u8]> {
        if self.ahead_at < self.ahead.len() {
            return Ok(&self.ahead[self.ahead_at..]);
        }
        self.input.fill_buf()
    }

    fn consume(&mut self, taken: usize) {
        self.bytes += taken as u64;
        if self.ahead_at < self.ahead.len() {
            self.ahead_at += taken;
        } else {
            self.input.consume(taken);
        }
    }
}

/// The row without the end of its line: `\n` or `\r\n`.
pub(super) fn without_end(row: &[u8]) -> &[u8] {
    match row {
        [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] => line,
        line => line,
    }
}

/// What is wrong with a row of [`Found::TooLong`].
pub(super) fn too_long() -> String {
    format!("the row is longer than {} MiB", ROW_MAX_BYTES >> 20)
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::*;

    fn read(reader: &mut LineReader<impl BufRead>) -> Option<String> {
        let mut row = Vec::new();
        let found = reader.append_line(&mut row).unwrap();
        (found == Found::Line).then(|| String::from_utf8(row).unwrap())
    }

    #[test]
    fn lines_keep_their_bytes_and_can_be_handed_back() {
        let mut reader = LineReader::new(BufReader::with_capacity(2, Cursor::new("ab\r\n\nlast")));
        assert_eq!(read(&mut reader).unwrap(), "ab\r\n");
        assert_eq!(read(&mut reader).unwrap(), "\n");
        assert_eq!(read(&mut reader).unwrap(), "last");
        assert_eq!((reader.lines(), reader.bytes()), (3, 9));
        reader.hand_back(b"\nlast");
        assert_eq!((reader.lines(), reader.bytes()), (1, 4));
        assert_eq!(read(&mut reader).unwrap(), "\n");
        assert_eq!(read(&mut reader).unwrap(), "last");
        assert_eq!(read(&mut reader), None);
        assert_eq!((reader.lines(), reader.bytes()), (3, 9));
    }

    #[test]
    fn an_endless_line_is_skipped_not_kept() {
        let long = vec![b'x'; ROW_MAX_BYTES + 1];
        let text = [&long[..], b"\nnext\n"].concat();
        let mut reader = LineReader::new(Cursor::new(text));
        let mut row = Vec::new();
        assert_eq!(reader.append_line(&mut row).unwrap(), Found::TooLong);
        assert!(row.len() <= ROW_MAX_BYTES);
        assert_eq!(read(&mut reader).unwrap(), "next\n");
    }

    #[test]
    fn only_one_line_end_is_stripped() {
        let cases = [("a\n", "a"), ("a\r\n", "a"), ("a\r", "a\r"), ("a\n\n", "a\n"), ("", "")];
        for (row, line) in cases {
            assert_eq!(without_end(row.as_bytes()), line.as_bytes());
        }
    }
}
