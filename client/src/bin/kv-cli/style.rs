//! Colours, for people at a terminal: what is piped into a file or a program has none.

use std::env;
use std::io::{self, IsTerminal as _};

use clap::ColorChoice;

/// What the surroundings say of colours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings {
    /// `NO_COLOR` is set and not empty (<https://no-color.org>).
    pub(crate) no_color: bool,
    /// `TERM` is `dumb`, or the stream is no terminal.
    pub(crate) plain: bool,
}

impl Surroundings {
    pub(crate) fn of_stdout() -> Self {
        Self::of(io::stdout().is_terminal())
    }

    pub(crate) fn of_stderr() -> Self {
        Self::of(io::stderr().is_terminal())
    }

    fn of(is_terminal: bool) -> Self {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { no_color, plain: dumb || !is_terminal }
    }

    /// What was asked for on the command line outweighs the surroundings.
    pub(crate) fn wants_color(self, choice: ColorChoice) -> bool {
        match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => !self.no_color && !self.plain,
        }
    }
}

/// Puts text in colour, or leaves it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    color: bool,
}

impl Paint {
    pub(crate) fn when(color: bool) -> Self {
        Self { color }
    }

    pub(crate) fn error(self, text: &str) -> String {
        self.sgr("1;31", text)
    }

    pub(crate) fn warning(self, text: &str) -> String {
        self.sgr("1;33", text)
    }

    pub(crate) fn note(self, text: &str) -> String {
        self.sgr("1;36", text)
    }

    fn sgr(self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_unless_asked_for_or_refused() {
        use ColorChoice::{Always, Auto, Never};
        let cases = [
            // choice, NO_COLOR, no terminal, colours
            (Auto, false, false, true),
            (Auto, false, true, false),
            (Auto, true, false, false),
            (Always, true, true, true),
            (Never, false, false, false),
        ];
        for (choice, no_color, plain, expected) in cases {
            let surroundings = Surroundings { no_color, plain };
            assert_eq!(surroundings.wants_color(choice), expected, "{choice:?} {surroundings:?}");
        }
    }

    #[test]
    fn paint_leaves_plain_text_as_it_is() {
        assert_eq!(Paint::when(false).error("error:"), "error:");
        assert_eq!(Paint::when(true).warning("unknown:"), "\u{1b}[1;33munknown:\u{1b}[0m");
    }
}
