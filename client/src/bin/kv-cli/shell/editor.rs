//! The line that a person edits: history, completion, and quotes that go on in the next line.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use quorate_client::Client;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use tokio::runtime::Handle;

use super::complete::{Expected, complete};
use super::line::grammar;
use super::words::split;
use super::{ReadLine, history};
use crate::stderr::{Notice, say};

/// How long completion waits for the names of namespaces. Longer, and one would rather type them.
const NAMES_WAIT: Duration = Duration::from_millis(500);

/// How long they are believed.
const NAMES_AGE: Duration = Duration::from_secs(5);

/// Reads lines from the terminal.
pub(super) struct Terminal {
    editor: Editor<Assistant, FileHistory>,
    /// None if lines are not kept.
    history: Option<PathBuf>,
}

impl Terminal {
    pub(super) fn open(client: Client) -> Result<Self> {
        let config = Config::builder()
            .max_history_size(history::LINES_MAX)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Assistant {
            names: Names { client, runtime: Handle::current(), known: Mutex::default() },
            files: FilenameCompleter::new(),
            current: None,
        }));
        let history = history::path().filter(|path| match history::create(path) {
            Ok(()) => true,
            Err(error) => {
                let path = path.display();
                say(&Notice::note(format!("lines are not kept in {path}: {error}")));
                false
            }
        });
        if let Some(path) = &history {
            // One that cannot be read is begun anew by the next line that is kept.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history })
    }

    /// The next line; asks for it with the name of the namespace in use.
    pub(super) fn read(&mut self, current: Option<&str>) -> Result<ReadLine> {
        if let Some(assistant) = self.editor.helper_mut() {
            assistant.current = current.map(str::to_owned);
        }
        let prompt = format!("{}> ", current.unwrap_or("quorate"));
        let line = match self.editor.readline(&prompt) {
            Ok(line) => line,
            Err(ReadlineError::Eof) => return Ok(ReadLine::End),
            // Ctrl-C drops the line.
            Err(ReadlineError::Interrupted) => return Ok(ReadLine::Line(String::new())),
            Err(error) => return Err(error.into()),
        };
        if self.editor.add_history_entry(line.as_str())?
            && let Some(path) = &self.history
            && let Err(error) = self.editor.append_history(path)
        {
            let path = path.display();
            say(&Notice::note(format!("lines are no longer kept in {path}: {error}")));
            self.history = None;
        }
        Ok(ReadLine::Line(line))
    }
}

/// Helps whoever types.
struct Assistant {
    names: Names,
    files: FilenameCompleter,
    current: Option<String>,
}

impl Helper for Assistant {}
impl Highlighter for Assistant {}

impl Hinter for Assistant {
    type Hint = String;
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match split(context.input()).open {
            Some(_) => ValidationResult::Incomplete,
            None => ValidationResult::Valid(None),
        })
    }
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let completion = complete(grammar(self.current.as_deref()), &line[..at]);
        let words = match completion.expected {
            Expected::File => return self.files.complete_path(line, at),
            Expected::Namespace => self.names.there().to_vec(),
            Expected::OneOf(words) => words,
        };
        let fits = words.into_iter().filter(|word| word.starts_with(&completion.begun));
        let pair = |word: String| Pair { replacement: format!("{word} "), display: word };
        Ok((completion.start, fits.map(pair).collect()))
    }
}

/// The names of namespaces, as of a moment ago.
struct Names {
    client: Client,
    runtime: Handle,
    known: Mutex<Option<(Instant, Arc<[String]>)>>,
}

impl Names {
    /// None of them if the cluster does not answer in time: completion is no place for errors.
    fn there(&self) -> Arc<[String]> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, names)) = &*known
            && asked.elapsed() < NAMES_AGE
        {
            return Arc::clone(names);
        }
        let ask = tokio::time::timeout(NAMES_WAIT, self.client.list_namespaces());
        let answer = self.runtime.block_on(async { ask.await.ok()?.ok() });
        let names = answer.unwrap_or_default().into_iter().map(|namespace| namespace.name);
        let names: Arc<[String]> = names.collect();
        *known = Some((Instant::now(), Arc::clone(&names)));
        names
    }
}
