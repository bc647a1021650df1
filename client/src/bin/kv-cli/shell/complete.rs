//! What may stand where the cursor is, by the same definition of the command line that parses it.

use clap::{Arg, Command};

use super::words::split;

/// What a word may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Expected {
    /// One of these.
    OneOf(Vec<String>),
    /// A namespace that there is.
    Namespace,
    /// A file.
    File,
}

/// What may replace the text from `start` to the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Completion {
    pub(super) start: usize,
    /// What stands there already.
    pub(super) begun: String,
    pub(super) expected: Expected,
}

/// What may stand at the end of `line`, which is the line up to the cursor.
pub(super) fn complete(mut grammar: Command, line: &str) -> Completion {
    grammar.build();
    let split = split(line);
    let mut words = split.words;
    let last = if split.in_word { words.pop() } else { None };
    let start = last.map_or(line.len(), |word| word.start);
    let begun = line[start..].to_owned();
    let mut place = Place { command: &grammar, option: None, positionals: 0, literal: false };
    for word in &words {
        place.advance(&String::from_utf8_lossy(&word.bytes));
    }
    Completion { start, expected: place.expected(&begun), begun }
}

/// How far the words before the cursor lead.
struct Place<'a> {
    command: &'a Command,
    /// Whose value comes next.
    option: Option<&'a Arg>,
    /// How many stand there.
    positionals: usize,
    /// After `--` there are no options.
    literal: bool,
}

impl<'a> Place<'a> {
    fn advance(&mut self, word: &str) {
        if self.option.take().is_some() {
        } else if word == "--" && !self.literal {
            self.literal = true;
        } else if word.starts_with('-') && word.len() > 1 && !self.literal {
            let takes_value = |arg: &&Arg| arg.get_action().takes_values() && !word.contains('=');
            self.option = self.option_called(word).filter(takes_value);
        } else if let Some(command) = self.command.find_subcommand(word) {
            *self = Self { command, option: None, positionals: 0, literal: self.literal };
        } else {
            self.positionals += 1;
        }
    }

    fn option_called(&self, word: &str) -> Option<&'a Arg> {
        let mut options = self.command.get_arguments().filter(|arg| !arg.is_positional());
        match word.strip_prefix("--") {
            Some(long) => options.find(|arg| arg.get_long() == Some(long)),
            None => options.find(|arg| arg.get_short() == word.chars().nth(1)),
        }
    }

    fn expected(&self, begun: &str) -> Expected {
        if let Some(option) = self.option {
            return value_of(option);
        }
        if begun.starts_with('-') && !self.literal {
            let options = self.command.get_arguments().filter(|arg| !arg.is_hide_set());
            let longs = options.filter_map(Arg::get_long);
            return Expected::OneOf(longs.map(|long| format!("--{long}")).collect());
        }
        if self.command.has_subcommands() {
            let shown = self.command.get_subcommands().filter(|command| !command.is_hide_set());
            return Expected::OneOf(shown.map(|command| command.get_name().to_owned()).collect());
        }
        match self.command.get_positionals().nth(self.positionals) {
            Some(positional) => value_of(positional),
            None => Expected::OneOf(Vec::new()),
        }
    }
}

fn value_of(arg: &Arg) -> Expected {
    match arg.get_id().as_str() {
        "namespace" | "name" => Expected::Namespace,
        "file" | "state" => Expected::File,
        "r" | "w" => Expected::OneOf(["one", "quorum", "all"].map(str::to_owned).to_vec()),
        "durability" => Expected::OneOf(["buffered", "synced"].map(str::to_owned).to_vec()),
        _ => {
            let values = arg.get_possible_values();
            Expected::OneOf(values.iter().map(|value| value.get_name().to_owned()).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::grammar;
    use super::*;

    fn completed(line: &str, current: Option<&str>) -> Completion {
        complete(grammar(current), line)
    }

    fn expected(line: &str) -> Expected {
        completed(line, None).expected
    }

    #[track_caller]
    fn offers(line: &str, words: &[&str]) {
        let Expected::OneOf(offered) = expected(line) else { panic!("{line} expects no word") };
        for word in words {
            assert!(offered.iter().any(|offer| offer == word), "{line}: {word} of {offered:?}");
        }
    }

    #[test]
    fn commands_flags_and_their_values() {
        offers("", &["put", "get", "namespace", "use", "exit", "help"]);
        offers("ge", &["get"]);
        offers("namespace ", &["create", "update", "list", "describe", "drop"]);
        offers("get users k -", &["--r", "--replica", "--output"]);
        offers("get users k -r ", &["one", "quorum", "all"]);
        offers("put users k v --durability ", &["buffered", "synced"]);
        offers("import users f --format ", &["csv", "jsonl", "lines"]);
        offers("--output ", &["text", "json"]);
        offers("--output json ", &["put"]);
        assert_eq!(expected("get users k x "), Expected::OneOf(Vec::new()));
    }

    #[test]
    fn namespaces_and_files() {
        for line in [
            "get ",
            "get us",
            "--output json scan ",
            "use ",
            "namespace drop ",
            "cluster ring k --namespace ",
        ] {
            assert_eq!(expected(line), Expected::Namespace, "{line}");
        }
        for line in ["import users ", "import users rows", "export users "] {
            assert_eq!(expected(line), Expected::File, "{line}");
        }
        assert_ne!(expected("get users "), Expected::Namespace);
        assert_ne!(completed("get ", Some("users")).expected, Expected::Namespace);
        let other = completed("get k --namespace ", Some("users"));
        assert_eq!(other.expected, Expected::Namespace);
    }

    #[test]
    fn the_begun_word_is_what_is_replaced() {
        let completion = completed("get us", None);
        assert_eq!((completion.start, completion.begun.as_str()), (4, "us"));
        let completion = completed("get ", None);
        assert_eq!((completion.start, completion.begun.as_str()), (4, ""));
    }
}
