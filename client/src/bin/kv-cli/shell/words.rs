//! Splits a line into words as a POSIX shell does, without any expansion, and `$'..'` as bash does:
//!
//! ```text
//!   put users 'two words' "say \"hi\"" a\ b $'\xff\n'   # a comment
//! ```
//!
//! The words of a line that is not finished are of use as well: to complete the last of them.

use std::iter::Peekable;
use std::str::CharIndices;

/// One word.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Word {
    /// Without quotes.
    pub(super) bytes: Vec<u8>,
    /// Where it begins in the line, in bytes.
    pub(super) start: usize,
}

/// A line as words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Words {
    pub(super) words: Vec<Word>,
    /// What has begun and not ended: the line goes on.
    pub(super) open: Option<&'static str>,
    /// Whether the line ends within its last word, not after it.
    pub(super) in_word: bool,
}

/// Splits `line`.
pub(super) fn split(line: &str) -> Words {
    let mut splitter = Splitter { chars: line.char_indices().peekable(), words: Words::default() };
    while let Some((at, c)) = splitter.chars.next() {
        splitter.words.in_word = false;
        match c {
            ' ' | '\t' | '\n' => {}
            '#' => splitter.skip_comment(),
            _ => splitter.word(at, c),
        }
    }
    splitter.words
}

struct Splitter<'a> {
    chars: Peekable<CharIndices<'a>>,
    words: Words,
}

impl Splitter<'_> {
    fn skip_comment(&mut self) {
        while self.chars.next().is_some_and(|(_, c)| c != '\n') {}
    }

    /// A word that begins with `first`; up to the white space after it, which is taken as well.
    fn word(&mut self, start: usize, first: char) {
        let (mut bytes, mut quoted) = (Vec::new(), false);
        let mut next = Some(first);
        while let Some(c) = next {
            match c {
                ' ' | '\t' | '\n' => break,
                '\'' => self.single(&mut bytes),
                '"' => self.double(&mut bytes),
                '$' if self.chars.next_if(|&(_, c)| c == '\'').is_some() => self.dollar(&mut bytes),
                '\\' => match self.chars.next() {
                    None => self.words.open = Some("a backslash"),
                    Some((_, '\n')) => {}
                    Some((_, c)) => push(&mut bytes, c),
                },
                c => push(&mut bytes, c),
            }
            quoted |= matches!(c, '\'' | '"' | '$');
            next = self.chars.next().map(|(_, c)| c);
        }
        self.words.in_word = next.is_none();
        // A line that ends in a backslash has joined two lines, and may have made no word.
        if !bytes.is_empty() || quoted {
            self.words.words.push(Word { bytes, start });
        }
    }

    fn single(&mut self, bytes: &mut Vec<u8>) {
        for (_, c) in self.chars.by_ref() {
            match c {
                '\'' => return,
                c => push(bytes, c),
            }
        }
        self.words.open = Some("a single quote");
    }

    fn double(&mut self, bytes: &mut Vec<u8>) {
        while let Some((_, c)) = self.chars.next() {
            match c {
                '"' => return,
                '\\' => match self.chars.next_if(|&(_, c)| "$`\"\\\n".contains(c)) {
                    Some((_, '\n')) => {}
                    Some((_, c)) => push(bytes, c),
                    None => push(bytes, '\\'),
                },
                c => push(bytes, c),
            }
        }
        self.words.open = Some("a double quote");
    }

    fn dollar(&mut self, bytes: &mut Vec<u8>) {
        while let Some((_, c)) = self.chars.next() {
            match c {
                '\'' => return,
                '\\' => self.escape(bytes),
                c => push(bytes, c),
            }
        }
        self.words.open = Some("a quote");
    }

    /// What follows a backslash within `$'..'`.
    fn escape(&mut self, bytes: &mut Vec<u8>) {
        let Some((_, c)) = self.chars.next() else { return };
        match c {
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            'r' => bytes.push(b'\r'),
            'e' => bytes.push(0x1b),
            '\\' | '\'' | '"' => push(bytes, c),
            'x' => match (self.hex(), self.hex()) {
                (Some(high), Some(low)) => bytes.push(high << 4 | low),
                (Some(only), None) => bytes.push(only),
                (None, _) => bytes.extend_from_slice(b"\\x"),
            },
            c => {
                bytes.push(b'\\');
                push(bytes, c);
            }
        }
    }

    fn hex(&mut self) -> Option<u8> {
        let (_, digit) = self.chars.next_if(|(_, c)| c.is_ascii_hexdigit())?;
        digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())
    }
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(line: &str) -> Vec<Vec<u8>> {
        split(line).words.into_iter().map(|word| word.bytes).collect()
    }

    #[test]
    fn quotes_escapes_and_comments() {
        let words = bytes("put users 'two words' \"say \\\"hi\\\"\" a\\ b $'\\xff\\n\\x7' '' # no");
        let expected: [&[u8]; 7] =
            [b"put", b"users", b"two words", b"say \"hi\"", b"a b", b"\xff\n\x07", b""];
        assert_eq!(words, expected);
        assert_eq!(bytes("a#b $ $a 'x'y"), [&b"a#b"[..], b"$", b"$a", b"xy"]);
        assert_eq!(bytes("'one\ntwo'"), [b"one\ntwo"]);
        assert_eq!(bytes("a \\\n b\\\nc"), [&b"a"[..], b"bc"]);
    }

    #[test]
    fn a_line_may_be_open() {
        for (line, open) in [
            ("put a 'b", Some("a single quote")),
            ("put a \"b", Some("a double quote")),
            ("put a $'b", Some("a quote")),
            ("put a \\", Some("a backslash")),
            ("put a b", None),
        ] {
            assert_eq!(split(line).open, open, "{line}");
        }
    }

    #[test]
    fn the_last_word_is_known_to_be_unfinished() {
        let ends = |line: &str| {
            let words = split(line);
            (words.in_word, words.words.last().map(|word| word.start))
        };
        assert_eq!(ends("get us"), (true, Some(4)));
        assert_eq!(ends("get us "), (false, Some(4)));
        assert_eq!(ends(""), (false, None));
    }

    proptest! {
        /// `shlex` is a twin without `$'..'`; two lines joined by a backslash it takes for a word.
        #[test]
        fn words_are_those_of_a_shell(line in "[ab '\"\\\\#\n\t]{0,12}") {
            prop_assume!(!line.contains("\\\n"));
            let words = split(&line);
            let twin = shlex::bytes::split(line.as_bytes());
            prop_assert_eq!(words.open.is_some(), twin.is_none());
            if let Some(twin) = twin {
                prop_assert_eq!(bytes(&line), twin);
            }
        }

        #[test]
        fn nothing_panics(line in ".{0,40}") {
            split(&line);
        }
    }
}
