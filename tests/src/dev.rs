//! `quorate dev`: a whole cluster as one process with children.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::NamedTempFile;

use crate::binaries::binaries;
use crate::cli::Cli;
use crate::ports::PortBlock;
use crate::process::{command, is_running, kill, signal, terminate, wait_for_exit};
use crate::wait::until;

/// A `quorate dev`, which ends with this value.
#[derive(Debug)]
pub struct DevCluster {
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
    data: PathBuf,
    ports: PortBlock,
    nodes: u16,
    flags: Vec<String>,
}

impl DevCluster {
    /// Starts it on `data`, and waits for its last line, `ready`.
    pub fn start(nodes: u16, data: &Path) -> Self {
        Self::start_with(nodes, data, &[])
    }

    /// The same, with more flags.
    pub fn start_with(nodes: u16, data: &Path, flags: &[&str]) -> Self {
        let ports = PortBlock::reserve(nodes);
        let file = || NamedTempFile::new().expect("there is a directory for temporary files");
        let (stdout, stderr) = (file(), file());
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let child = command_line(nodes, ports.base(), data, &flags);
        let child = spawn(child, [&stdout, &stderr]);
        let data = data.to_owned();
        let mut cluster = Self { child, stdout, stderr, data, ports, nodes, flags };
        cluster.wait_ready();
        cluster
    }

    /// Starts it again where it was, after it has ended.
    pub fn start_again(&mut self) {
        for file in [&self.stdout, &self.stderr] {
            file.as_file().set_len(0).expect("the file can be emptied");
        }
        let files = [&self.stdout, &self.stderr];
        let child = command_line(self.nodes, self.ports.base(), &self.data, &self.flags);
        self.child = spawn(child, files);
        self.wait_ready();
    }

    fn wait_ready(&mut self) {
        until("quorate dev is ready", || {
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert_eq!(ended, None, "quorate dev ended: {}", self.errors());
            (self.printed().lines().last() == Some("ready")).then_some(())
        });
    }

    /// What it has printed since it was started.
    pub fn printed(&self) -> String {
        fs::read_to_string(self.stdout.path()).unwrap_or_default()
    }

    /// What it has said on stderr.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.stderr.path()).unwrap_or_default()
    }

    /// The process ids of its nodes, by its own account: `pid N` in each node's line.
    pub fn pids(&self) -> Vec<u32> {
        let printed = self.printed();
        let lines = printed.lines().filter(|line| line.starts_with("node-"));
        let pid = |line: &str| line.split(" pid ").nth(1)?.split_whitespace().next()?.parse().ok();
        // A line that tells of a node's end has no pid.
        lines.filter_map(pid).collect()
    }

    /// Kills one of its nodes with SIGKILL.
    pub fn kill_node(&self, number: usize) {
        signal("KILL", self.pids()[number - 1]);
    }

    /// Kills it with SIGKILL, and waits until its nodes have ended too.
    pub fn kill(&mut self) {
        let pids = self.pids();
        kill(&mut self.child);
        until("the nodes end with their parent", || {
            pids.iter().all(|&pid| !is_running(pid)).then_some(())
        });
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        terminate(&self.child);
        wait_for_exit(&mut self.child)
    }

    /// `kv-cli` with every node as endpoint.
    pub fn cli(&self) -> Cli {
        let address = |node| format!("127.0.0.1:{}", self.ports.client(node));
        Cli::new(&(1..=self.nodes).map(address).collect::<Vec<_>>())
    }
}

/// Each start appends to its files, so that emptying them loses nothing of the next one.
fn spawn(mut command: Command, files: [&NamedTempFile; 2]) -> Child {
    let append = |file: &NamedTempFile| {
        OpenOptions::new().append(true).open(file.path()).expect("the file is there")
    };
    command
        .stdin(Stdio::null())
        .stdout(append(files[0]))
        .stderr(append(files[1]))
        .spawn()
        .expect("the program was built")
}

fn command_line(nodes: u16, base_port: u16, data: &Path, flags: &[String]) -> Command {
    let mut command = command(&binaries().quorate);
    command
        .args(["dev", "--nodes", &nodes.to_string(), "--base-port", &base_port.to_string()])
        .arg("--data")
        .arg(data)
        .args(flags);
    command
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        // Its nodes end with it: their stdin does.
        kill(&mut self.child);
        if std::thread::panicking() {
            eprintln!("--- quorate dev ---\n{}{}", self.printed(), self.errors());
        }
    }
}
