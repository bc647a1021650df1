//! The repository's files, and their code without comments and tests.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One file, by its path from the repository's root.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the package lies in the workspace").to_owned()
}

/// The text of one file that must be there.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file under `folder` whose name ends with one of `ends`, in the order of paths.
pub(crate) fn files(folder: &str, ends: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(folder), ends, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "nothing ends with {ends:?} under {folder:?}");
    found
}

/// The Rust files of one folder.
pub(crate) fn rust(folder: &str) -> Vec<Source> {
    files(folder, &[".rs"])
}

fn collect(folder: &Path, ends: &[&str], found: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("the folder can be listed").path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() {
            if name != "target" && name != ".git" && !path.join("CACHEDIR.TAG").exists() {
                collect(&path, ends, found);
            }
        } else if ends.iter().any(|end| name.ends_with(end)) {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
            let path = path.strip_prefix(root()).expect("all is under the root");
            found.push(Source { path: path.to_string_lossy().replace('\\', "/"), text });
        }
    }
}

impl Source {
    /// Whether the whole file is compiled for tests only. By their names: that is the convention.
    pub(crate) fn is_test(&self) -> bool {
        const NAMES: [&str; 4] = ["tests", "testing", "conformance", "transcripts"];
        let mut parts = self.path.trim_end_matches(".rs").split('/');
        parts.any(|part| NAMES.contains(&part))
    }

    /// The lines of code with their numbers, without comments.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(at, line)| (at + 1, without_comment(line)));
        lines.filter(|(_, line)| !line.trim().is_empty())
    }

    /// As [`Source::code`], without tests.
    pub(crate) fn production(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = self.lines_of_tests();
        self.code().filter(move |(at, _)| !tests.contains(at))
    }

    /// The lines of the inline module under `#[cfg(test)]`: rustfmt closes it at the margin.
    fn lines_of_tests(&self) -> Range<usize> {
        if self.is_test() {
            return 0..usize::MAX;
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let opens = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{');
        let Some(start) = lines.windows(2).position(opens) else { return 0..0 };
        let closed = lines[start..].iter().position(|line| *line == "}");
        start + 1..closed.map_or(usize::MAX, |at| start + at + 2)
    }
}

/// Cuts a comment off. `//` inside a string is taken for one, unless it follows a colon (a URL).
fn without_comment(line: &str) -> &str {
    match line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':')) {
        Some((at, _)) => &line[..at],
        None => line,
    }
}

/// Whether `word` stands in `code` as a whole word.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + word.len()..]);
        let ends = !after.starts_with(part) || !word.ends_with(part);
        ends && !before.ends_with(part)
    })
}

/// The identifiers that follow `prefix`, such as `crate::`; also those of a `{a, b::c}` group.
pub(crate) fn names_after<'a>(code: &'a str, prefix: &str) -> Vec<&'a str> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(part) {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let items = rest.strip_prefix('{').map_or_else(|| vec![rest], first_level);
        for item in items {
            let item = item.trim_start();
            let end = item.find(|c: char| !part(c)).unwrap_or(item.len());
            names.push(&item[..end]);
        }
    }
    names
}

/// Splits what follows an opening brace at its commas, up to the brace that closes it.
fn first_level(group: &str) -> Vec<&str> {
    let (mut items, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

#[test]
fn groups_and_words_are_found() {
    let code = "use crate::{error::E, shard::{A, B}};\nuse mycrate::x;\nlet a = crate::env::now();";
    assert_eq!(names_after(code, "crate::"), ["error", "shard", "env"]);
    assert!(has_word("x: HashMap<u8, u8>", "HashMap") && !has_word("MyHashMap", "HashMap"));
    assert_eq!(without_comment("let url = \"http://a\"; // no"), "let url = \"http://a\"; ");
}
