//! `shell`: one connected client, and a line for each command.
//!
//! On a terminal it edits lines ([`editor`]), completes them ([`complete`]) and outlives what they
//! run. From a pipe it is a script: it ends with the first command that does not succeed, and with
//! that command's exit code. [`words`] and [`mod@line`] say what a line means.

mod complete;
mod editor;
mod history;
mod line;
mod script;
mod words;

use std::io::{self, IsTerminal as _};

use anyhow::Result;

use self::editor::Terminal;
use self::line::{Line, LineCommand};
use self::script::Script;
use crate::args::{Global, ShellArgs};
use crate::commands::{Session, with_near_names};
use crate::failure::{self, Exit};
use crate::stderr::{self, Notice, say};
use crate::style::Surroundings;

/// What came from where lines come from.
enum ReadLine {
    Line(String),
    /// There are no more.
    End,
}

/// What a line led to.
enum Next {
    /// The next line; this one ended so.
    Go(Exit),
    Leave,
}

/// Runs lines until there are no more.
pub(crate) async fn run(global: Global, args: ShellArgs) -> Result<Exit> {
    let mut shell = Shell { session: Session::open(&global).await?, global, current: None };
    if let Some(name) = args.namespace {
        shell.enter(Some(name)).await?;
    }
    if io::stdin().is_terminal() {
        return shell.converse().await;
    }
    tokio::select! {
        exit = shell.script(args.keep_going) => exit,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
    }
}

struct Shell {
    session: Session,
    global: Global,
    /// The namespace in use.
    current: Option<String>,
}

impl Shell {
    async fn converse(mut self) -> Result<Exit> {
        let mut terminal = Terminal::open(self.session.client.clone())?;
        loop {
            let line = tokio::task::block_in_place(|| terminal.read(self.current.as_deref()))?;
            let ReadLine::Line(line) = line else { return Ok(Exit::Done) };
            let next = tokio::select! {
                next = self.line(&line) => next,
                _ = tokio::signal::ctrl_c() => Next::Go(Exit::Interrupted),
            };
            match next {
                Next::Leave => return Ok(Exit::Done),
                Next::Go(Exit::Interrupted) => say(&Notice::note("interrupted")),
                Next::Go(_) => {}
            }
        }
    }

    async fn script(mut self, keep_going: bool) -> Result<Exit> {
        let (mut script, mut first) = (Script::stdin(), Exit::Done);
        loop {
            let line = match script.read().await {
                Ok(ReadLine::Line(line)) => line,
                Ok(ReadLine::End) => break,
                Err(error) => {
                    let (exit, began) = (failure::report(&error), script.began);
                    say(&Notice::note(format!(
                        "the script ends here: nothing was run from its line {began} on"
                    ))
                    .with("line", began));
                    return Ok(if first == Exit::Done { exit } else { first });
                }
            };
            let Next::Go(exit) = self.line(&line).await else { break };
            if exit == Exit::Done {
                continue;
            }
            let began = script.began;
            if !keep_going {
                say(&Notice::note(format!(
                    "the script ends here, with its line {began}; --keep-going would go on"
                ))
                .with("line", began));
                return Ok(exit);
            }
            say(&Notice::note(format!("that was line {began} of the script")).with("line", began));
            if first == Exit::Done {
                first = exit;
            }
        }
        Ok(first)
    }

    /// Runs one line, and says what is wrong with it.
    async fn line(&mut self, line: &str) -> Next {
        let words = words::split(line);
        if words.words.is_empty() {
            return Next::Go(Exit::Done);
        }
        let exit = match line::parse(words, self.current.as_deref()) {
            Ok(Line { command: LineCommand::Exit, .. }) => return Next::Leave,
            Ok(line) => self.run(line).await.unwrap_or_else(|error| failure::report(&error)),
            Err(error) => failure::refuse(&error, self.global.output.is_json()),
        };
        self.set_style(&self.global);
        Next::Go(exit)
    }

    async fn run(&mut self, line: Line) -> Result<Exit> {
        let Line { options, command } = line;
        let command = match command {
            LineCommand::One(command) => command,
            LineCommand::Use { name } => return self.enter(name).await,
            LineCommand::Exit => return Ok(Exit::Done),
        };
        let mut global = self.global.clone();
        global.output = options.output.unwrap_or(global.output);
        self.set_style(&global);
        if options.timeout.is_some() || options.request_id.is_some() {
            // The SDK's client has one timeout, and one id, for all that it does.
            global.timeout = options.timeout.or(global.timeout);
            global.request_id = options.request_id.or(global.request_id);
            return Session::open(&global).await?.run(command).await;
        }
        self.session.with_output(&global).run(command).await
    }

    /// Uses a namespace that exists, or none.
    async fn enter(&mut self, name: Option<String>) -> Result<Exit> {
        if let Some(name) = &name
            && let Err(error) = self.session.client.describe_namespace(name).await
        {
            return Err(with_near_names(&self.session, error.into(), name).await);
        }
        self.current = name;
        Ok(Exit::Done)
    }

    fn set_style(&self, global: &Global) {
        let color = Surroundings::of_stderr().wants_color(global.color);
        stderr::set_style(global.output.is_json(), color);
    }
}
