//! The child processes.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::DevError;
use super::home::Home;
use super::shape::NodePlan;

/// How much of a log is shown when its node ends.
const TAIL_LINES: usize = 5;
const TAIL_BYTES: u64 = 8192;
const LINE_CHARS: usize = 300;

/// A node that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exit {
    /// Which: counted from 0.
    pub(super) index: usize,
    /// How.
    pub(super) status: ExitStatus,
}

/// The running nodes. Dropping it stops them, as the end of this process does.
#[derive(Debug)]
pub(super) struct Nodes {
    pids: Vec<u32>,
    /// Each child's stdin: it stops when this end is closed.
    lifelines: Vec<ChildStdin>,
    exits: JoinSet<Exit>,
    ended: Vec<usize>,
    kill: CancellationToken,
    /// One for each node; `kill` is all of them.
    kills: Vec<CancellationToken>,
}

impl Nodes {
    /// Starts every node.
    pub(super) fn spawn(home: &Home) -> Result<Self, DevError> {
        let mut nodes = Self {
            pids: Vec::new(),
            lifelines: Vec::new(),
            exits: JoinSet::new(),
            ended: Vec::new(),
            kill: CancellationToken::new(),
            kills: Vec::new(),
        };
        for index in 0..home.nodes().len() {
            let (pid, lifeline, kill) = nodes.start(home, index)?;
            nodes.pids.push(pid);
            nodes.lifelines.push(lifeline);
            nodes.kills.push(kill);
        }
        Ok(nodes)
    }

    /// Starts a node again that has ended.
    pub(super) fn restart(&mut self, home: &Home, index: usize) -> Result<(), DevError> {
        let (pid, lifeline, kill) = self.start(home, index)?;
        (self.pids[index], self.lifelines[index], self.kills[index]) = (pid, lifeline, kill);
        self.ended.retain(|&ended| ended != index);
        Ok(())
    }

    fn start(
        &mut self,
        home: &Home,
        index: usize,
    ) -> Result<(u32, ChildStdin, CancellationToken), DevError> {
        let node = &home.nodes()[index];
        let mut child = command(node, home.settled_keys().iter())
            .and_then(|mut command| command.spawn())
            .map_err(|source| DevError::Spawn { name: node.name.clone(), source })?;
        let pid = child.id().expect("it was not waited for yet");
        let lifeline = child.stdin.take().expect("it was given a pipe");
        let kill = self.kill.child_token();
        self.exits.spawn(wait(index, child, kill.clone()));
        Ok((pid, lifeline, kill))
    }

    /// Ends a node with SIGKILL: it does nothing more, not even what it would like to.
    pub(super) fn kill(&self, index: usize) {
        self.kills[index].cancel();
    }

    /// The process ids, in order.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.pids.clone()
    }

    /// How many still run.
    pub(super) fn running(&self) -> usize {
        self.exits.len()
    }

    /// Those that ended; by now somebody may have started them by hand.
    pub(super) fn ended(&self) -> &[usize] {
        &self.ended
    }

    /// Waits for the next node that ends; for ever when none runs.
    pub(super) async fn next_exit(&mut self) -> Exit {
        match self.exits.join_next().await {
            Some(exit) => {
                let exit = exit.expect("waiting for a process does not panic");
                self.ended.push(exit.index);
                exit
            }
            None => std::future::pending().await,
        }
    }

    /// Stops all, by force after `within`. Returns those that had ended before.
    pub(super) async fn stop(mut self, within: Duration) -> Vec<usize> {
        self.lifelines.clear();
        let all = async { while self.exits.join_next().await.is_some() {} };
        if tokio::time::timeout(within, all).await.is_err() {
            self.kill.cancel();
            while self.exits.join_next().await.is_some() {}
        }
        self.ended
    }
}

fn command<'a>(node: &NodePlan, settled: impl Iterator<Item = &'a String>) -> io::Result<Command> {
    let log = OpenOptions::new().create(true).append(true).open(node.log())?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("serve")
        .arg("--config")
        .arg(node.configuration())
        .arg("--stop-on-stdin-eof")
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C goes to this process alone, which then stops them in good order.
        .process_group(0)
        .kill_on_drop(true);
    for key in settled {
        command.env_remove(format!("QUORATE_{}", key.to_uppercase()));
    }
    Ok(command)
}

async fn wait(index: usize, mut child: Child, kill: CancellationToken) -> Exit {
    let ended = tokio::select! {
        biased;
        ended = child.wait() => ended,
        () = kill.cancelled() => {
            // It may have ended by itself meanwhile; then there is nothing to kill.
            let _ = child.start_kill();
            child.wait().await
        }
    };
    let status = ended.expect("a child that was started can be waited for");
    Exit { index, status }
}

/// Where a node's log is, and its last lines.
pub(super) fn log_end(node: &NodePlan) -> String {
    let log = node.log();
    format!("its log {} ends with{}", log.display(), tail(&log))
}

/// The last lines of a log, each on an indented line of its own.
fn tail(log: &Path) -> String {
    let text = read_end(log).unwrap_or_else(|error| format!("(cannot be read: {error})"));
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if last.is_empty() {
        return "\n    (it is empty)".to_owned();
    }
    last.iter().fold(String::new(), |mut shown, line| {
        let _ = write!(shown, "\n    {line:.LINE_CHARS$}");
        shown
    })
}

fn read_end(log: &Path) -> io::Result<String> {
    let mut file = fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_last_lines_of_a_log_of_any_size() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        assert!(tail(&log).contains("cannot be read: No such file"));
        fs::write(&log, "").unwrap();
        assert_eq!(tail(&log), "\n    (it is empty)");
        fs::write(&log, "one\ntwo\n").unwrap();
        assert_eq!(tail(&log), "\n    one\n    two");
        let many: String = (0..5000).map(|line| format!("line {line}\n")).collect();
        fs::write(&log, many).unwrap();
        assert!(tail(&log).starts_with("\n    line 4995\n") && tail(&log).ends_with("line 4999"));
    }
}
