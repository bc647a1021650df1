//! A cluster of `quorate serve` processes.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

use crate::binaries::binaries;
use crate::cli::{Cli, Ran};
use crate::http::page;
use crate::ports::PortBlock;
use crate::process::{command, go_on, kill, pause, terminate, wait_for_exit};
use crate::wait::until;

/// How much of each log a failed test shows.
const LOG_LINES: usize = 30;

/// What a cluster is to be.
#[derive(Clone, Copy, Debug)]
pub struct ClusterSpec {
    /// How many nodes, 1..=9.
    pub nodes: u16,
    /// Q: few, so that scans of little data are quick.
    pub partitions: u64,
    /// The storage engine, by its name.
    pub engine: &'static str,
}

impl ClusterSpec {
    /// So many nodes.
    pub fn of(nodes: u16) -> Self {
        Self { nodes, partitions: 16, engine: "fjall" }
    }
}

/// Processes `node-1`, `node-2`, ... on 127.0.0.1, which end with this value.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    directory: TempDir,
    _ports: PortBlock,
}

/// One of them, running or not.
#[derive(Debug)]
pub struct Node {
    name: String,
    directory: PathBuf,
    client: u16,
    peer: u16,
    http: u16,
    environment: Vec<(OsString, OsString)>,
    engine: &'static str,
    child: Option<Child>,
}

impl Cluster {
    /// Starts nodes, makes them a cluster, and waits until all are ready.
    pub fn start(nodes: u16) -> Self {
        Self::of(ClusterSpec::of(nodes))
    }

    /// The same, in another engine.
    pub fn start_in(engine: &'static str, nodes: u16) -> Self {
        Self::of(ClusterSpec { engine, ..ClusterSpec::of(nodes) })
    }

    /// The same, with choices.
    pub fn of(spec: ClusterSpec) -> Self {
        let mut cluster = Self::not_started(spec);
        cluster.form(spec.partitions);
        cluster
    }

    /// Starts every node, makes them a cluster, and waits until all are ready.
    pub fn form(&mut self, partitions: u64) {
        self.start_all();
        let (members, partitions) = (self.members().join(","), partitions.to_string());
        quorate(["init", "--members", &members, "--partitions", &partitions]).ok();
        self.wait_ready();
    }

    /// Nodes with configurations, none of them started.
    pub fn uninitialised(nodes: u16) -> Self {
        Self::not_started(ClusterSpec::of(nodes))
    }

    /// The same, with choices.
    pub fn not_started(ClusterSpec { nodes, engine, .. }: ClusterSpec) -> Self {
        let ports = PortBlock::reserve(nodes);
        let directory = tempfile::tempdir().expect("there is a directory for temporary files");
        let node = |number| Node::new(directory.path(), number, &ports, engine);
        let nodes = (1..=nodes).map(node).collect();
        Self { nodes, directory, _ports: ports }
    }

    /// Starts every node that does not run.
    pub fn start_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.child.is_none()) {
            node.start();
        }
        self.nodes.iter().for_each(Node::wait_listening);
    }

    /// Kills every node at once.
    pub fn kill_all(&mut self) {
        self.nodes.iter_mut().for_each(|node| {
            node.kill();
        });
    }

    /// Waits until every running node is ready and sees every other running one.
    pub fn wait_ready(&self) {
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.child.is_some()).collect();
        running.iter().for_each(|node| node.wait_ready());
        for node in &running {
            until("nodes are connected", || (node.connected()? + 1 >= running.len()).then_some(()));
        }
    }

    /// Node 1, 2, ...
    pub fn node(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number - 1]
    }

    /// The node of this name.
    pub fn named(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).expect("the cluster has such a node")
    }

    /// Every node.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Every peer address.
    pub fn members(&self) -> Vec<String> {
        self.nodes.iter().map(Node::peer_address).collect()
    }

    /// A place for files of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `kv-cli` with every node as endpoint.
    pub fn cli(&self) -> Cli {
        Cli::new(&self.nodes.iter().map(Node::client_address).collect::<Vec<_>>())
    }

    /// The names of a key's owners, in order of preference.
    pub fn owners(&self, namespace: &str, key: &str) -> Vec<String> {
        let ring = self.cli().json(&format!("cluster ring {key} --namespace {namespace}"));
        let owners = ring["owners"].as_array().expect("a key has owners");
        owners.iter().filter_map(|owner| Some(owner.as_str()?.to_owned())).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill_all();
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- the end of {}'s log ---\n{}", node.name, node.log_end());
            }
        }
    }
}

impl Node {
    fn new(directory: &Path, number: u16, ports: &PortBlock, engine: &'static str) -> Self {
        let name = format!("node-{number}");
        let node = Self {
            directory: directory.join(&name),
            name,
            client: ports.client(number),
            peer: ports.peer(number),
            http: ports.http(number),
            environment: Vec::new(),
            engine,
            child: None,
        };
        fs::create_dir_all(&node.directory).expect("the temporary directory takes more");
        node.configure("");
        node
    }

    /// Writes its configuration, with more lines at the end.
    pub fn configure(&self, more: &str) {
        let text = format!(
            "node_name = \"{}\"\nengine = \"{}\"\nclient_address = \"127.0.0.1:{}\"\n\
             peer_address = \"127.0.0.1:{}\"\nhttp_address = \"127.0.0.1:{}\"\nshards = 2\n{more}\n",
            self.name, self.engine, self.client, self.peer, self.http
        );
        fs::write(self.configuration(), text).expect("the node's directory takes a file");
    }

    /// Gives its processes this variable from the next start on.
    pub fn set_variable(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.environment.push((name.into(), value.into()));
    }

    /// Starts its process.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts its process with more flags.
    pub fn start_with(&mut self, flags: &[&str]) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(self.log());
        let log = log.expect("the node's directory takes a file");
        let mut serve = self.serve_command();
        serve.args(flags);
        // Whose other end closes when this process ends, however it ends.
        serve.arg("--stop-on-stdin-eof").stdin(Stdio::piped()).stderr(log);
        self.child = Some(serve.spawn().expect("the program was built"));
    }

    /// `quorate serve` with its configuration.
    pub fn serve_command(&self) -> Command {
        let mut serve = command(&binaries().quorate);
        serve.arg("serve").arg("--config").arg(self.configuration());
        serve.envs(self.environment.iter().map(|(name, value)| (name, value)));
        serve
    }

    /// Kills it with SIGKILL, if it runs.
    pub fn kill(&mut self) -> Option<ExitStatus> {
        self.child.take().map(|mut child| kill(&mut child))
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the node runs");
        terminate(&child);
        wait_for_exit(&mut child)
    }

    /// Starts it again, and waits until it serves.
    pub fn restart(&mut self) {
        self.kill();
        self.start();
        self.wait_ready();
    }

    /// Waits until it listens for peers and clients, as it does before it belongs to a cluster.
    pub fn wait_listening(&self) {
        let listens = |port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        until("a node listens", || (listens(self.peer) && listens(self.client)).then_some(()));
    }

    /// Waits until it serves requests.
    pub fn wait_ready(&self) {
        until("a node is ready", || (self.page("/readyz")?.0 == 200).then_some(()));
    }

    /// One of its HTTP pages, if it answers.
    pub fn page(&self, path: &str) -> Option<(u16, String)> {
        page(self.http, path).ok()
    }

    /// To how many other nodes it is connected, as it says itself.
    pub fn connected(&self) -> Option<usize> {
        let ran = Cli::new(&[self.client_address()]).line("--output json cluster status");
        let members = ran.json_lines().pop()?["members"].as_array()?.clone();
        let others = members.iter().filter(|member| member["name"] != *self.name);
        Some(others.filter(|member| member["connected"] == true).count())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets its process stand still.
    pub fn pause(&self) {
        pause(self.child.as_ref().expect("the node runs"));
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        go_on(self.child.as_ref().expect("the node runs"));
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its process's end, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("a child can be waited for")
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Its configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.directory.join("node.toml")
    }

    /// Where clients reach it.
    pub fn client_address(&self) -> String {
        format!("127.0.0.1:{}", self.client)
    }

    /// Where peers reach it.
    pub fn peer_address(&self) -> String {
        format!("127.0.0.1:{}", self.peer)
    }

    /// Where its HTTP pages are.
    pub fn http_address(&self) -> String {
        format!("127.0.0.1:{}", self.http)
    }

    /// Everything that it has logged.
    pub fn logged(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// `kv-cli` with this node as its only endpoint.
    pub fn cli(&self) -> Cli {
        Cli::new(&[self.client_address()])
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn log_end(&self) -> String {
        let log = self.logged();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// Runs `quorate` to its end.
pub fn quorate<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    let mut command = command(&binaries().quorate);
    command.args(arguments).stdin(Stdio::null());
    Ran::of(command, None)
}
