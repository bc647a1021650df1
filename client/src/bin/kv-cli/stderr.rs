//! What is said beside the results: errors, notes, and rows that need attention, on stderr.
//!
//! ```text
//!   text   failed: line 2: no tab between key and value
//!   json   {"failed":{"message":"no tab between key and value","line":2}}
//! ```
//!
//! How it looks is a property of the process, as stderr itself is: a row that fails deep inside an
//! import need not be handed the way to say so. The shell sets it anew for each of its lines.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::style::Paint;

static JSON: AtomicBool = AtomicBool::new(false);
static COLOR: AtomicBool = AtomicBool::new(false);

/// From now on stderr is for scripts, or for people, in colour or without.
pub(crate) fn set_style(json: bool, color: bool) {
    JSON.store(json, Relaxed);
    COLOR.store(color, Relaxed);
}

/// One thing to say.
#[derive(Clone, Debug)]
pub(crate) struct Notice {
    /// The word before the colon, and the name of the json object.
    what: &'static str,
    message: String,
    /// What a script may want to know by itself.
    fields: Map<String, Value>,
    /// Where: shown before the message.
    place: String,
    /// That there is nothing is the answer, not a failure to find one.
    answers: bool,
}

impl Notice {
    pub(crate) fn new(what: &'static str, message: impl Into<String>) -> Self {
        Self {
            what,
            message: message.into(),
            fields: Map::new(),
            place: String::new(),
            answers: false,
        }
    }

    /// It failed, and that is why the exit code is not 0.
    pub(crate) fn error(kind: &str, message: impl Into<String>) -> Self {
        Self::new("error", message).with("kind", kind)
    }

    /// There is no such thing, which is an answer: exit code 1.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self { answers: true, ..Self::error("not_found", message) }
    }

    /// Something to know that is no failure.
    pub(crate) fn note(message: impl Into<String>) -> Self {
        Self::new("note", message)
    }

    /// In json also this field.
    pub(crate) fn with(mut self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.fields.insert(name.to_owned(), value);
        self
    }

    /// About this line of a file.
    pub(crate) fn at_line(mut self, line: u64) -> Self {
        self.place = format!("line {line}: ");
        self.with("line", line)
    }

    /// About this key, which is made printable by the caller.
    pub(crate) fn at_key(mut self, key: &str) -> Self {
        self.place = format!("key '{key}': ");
        self.with("key", key)
    }

    fn render(&self, json: bool, paint: Paint) -> String {
        let Self { what, message, fields, place, answers } = self;
        if json {
            let mut object = Map::from_iter([("message".to_owned(), Value::from(&**message))]);
            object.extend(fields.clone());
            return Value::from(Map::from_iter([((*what).to_owned(), object.into())])).to_string();
        }
        let word = match *what {
            "error" if *answers => paint.note("not found:"),
            "note" | "duplicate" => paint.note(&format!("{what}:")),
            "unknown" => paint.warning(&format!("{what}:")),
            _ => paint.error(&format!("{what}:")),
        };
        format!("{word} {place}{message}")
    }
}

/// Says it.
pub(crate) fn say(notice: &Notice) {
    write(&notice.render(JSON.load(Relaxed), Paint::when(COLOR.load(Relaxed))));
}

/// Results that have no place on stdout: as they are for people, an object for scripts.
pub(crate) fn summary(object: &(impl Serialize + ToString)) {
    match serde_json::to_string(object) {
        Ok(json) if JSON.load(Relaxed) => write(&json),
        _ => write(&object.to_string()),
    }
}

/// A line on stderr; one that cannot be written has no reader, and is not worth a panic.
fn write(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_a_line_of_text_or_of_json() {
        let cases = [
            (
                Notice::error("timeout", "no answer").with("node", "node-1"),
                "error: no answer",
                r#"{"error":{"kind":"timeout","message":"no answer","node":"node-1"}}"#,
            ),
            (
                Notice::not_found("no key"),
                "not found: no key",
                r#"{"error":{"kind":"not_found","message":"no key"}}"#,
            ),
            (
                Notice::new("failed", "no tab").at_line(2),
                "failed: line 2: no tab",
                r#"{"failed":{"line":2,"message":"no tab"}}"#,
            ),
            (
                Notice::new("failed", "two siblings").at_key("k"),
                "failed: key 'k': two siblings",
                r#"{"failed":{"key":"k","message":"two siblings"}}"#,
            ),
        ];
        for (notice, text, json) in cases {
            assert_eq!(notice.render(false, Paint::when(false)), text);
            let rendered: Value =
                serde_json::from_str(&notice.render(true, Paint::when(true))).unwrap();
            assert_eq!(rendered, serde_json::from_str::<Value>(json).unwrap());
        }
        let red = Notice::error("io", "no").render(false, Paint::when(true));
        assert_eq!(red, "\u{1b}[1;31merror:\u{1b}[0m no");
    }
}
