//! Lines from a pipe or a file.

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader, Stdin};

use super::ReadLine;
use super::words::split;

/// Reads commands from stdin. One of several lines counts as where it began.
pub(super) struct Script {
    input: BufReader<Stdin>,
    lines: u64,
    /// Where the last command began, counted from 1.
    pub(super) began: u64,
}

impl Script {
    pub(super) fn stdin() -> Self {
        Self { input: BufReader::new(tokio::io::stdin()), lines: 0, began: 0 }
    }

    /// The next line, with those that its quotes go on in.
    pub(super) async fn read(&mut self) -> Result<ReadLine> {
        let mut line = Vec::new();
        self.began = self.lines + 1;
        loop {
            let read = self.input.read_until(b'\n', &mut line).await;
            if read.context("cannot read the script from stdin")? == 0 {
                break;
            }
            self.lines += 1;
            let text = std::str::from_utf8(&line);
            let text = text.with_context(|| {
                format!("line {} of the script is not UTF-8; write $'\\xff' for bytes", self.lines)
            })?;
            if split(text.trim_end_matches(['\n', '\r'])).open.is_none() {
                return Ok(ReadLine::Line(text.trim_end_matches(['\n', '\r']).to_owned()));
            }
        }
        match split(&String::from_utf8_lossy(&line)).open {
            _ if line.is_empty() => Ok(ReadLine::End),
            Some(open) => bail!("{open} in line {} of the script never ends", self.began),
            None => Ok(ReadLine::Line(String::from_utf8_lossy(&line).into_owned())),
        }
    }
}
