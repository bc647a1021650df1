//! The short commands, and the way to the long ones.

mod cluster;
mod expiry;
mod hints;
mod key;
mod namespace;
mod near;
mod resolve;
mod scan;

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use quorate_client::{Client, ClientConfig};

pub(crate) use self::near::with_near_names;
use crate::args::{Command, Global};
use crate::failure::Exit;
use crate::output::Output;
use crate::{bench, export, import};

/// What every command needs.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) output: Output,
    /// Of each operation.
    pub(crate) timeout: Duration,
    /// The same, if it was asked for.
    pub(crate) timeout_given: Option<Duration>,
}

/// As long as a server takes at most by default.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Session {
    /// Connects.
    pub(crate) async fn open(global: &Global) -> Result<Self> {
        let Global { endpoints, tls, output, timeout, color, request_id } = global.clone();
        let tls = tls.load()?;
        let (timeout, timeout_given) = (timeout.unwrap_or(TIMEOUT), timeout);
        let config =
            ClientConfig { endpoints, timeout, tls, request_id, ..ClientConfig::default() };
        let client = Client::connect(config).await?;
        Ok(Self { client, output: Output::new(output, color), timeout, timeout_given })
    }

    /// Over the same connections, with other output.
    pub(crate) fn with_output(&self, global: &Global) -> Self {
        let output = Output::new(global.output, global.color);
        Self { client: self.client.clone(), output, ..*self }
    }

    /// Runs the command. An unknown name is answered with those that look like it.
    pub(crate) async fn run(&self, command: Command) -> Result<Exit> {
        let namespace = command.namespace().map(str::to_owned);
        let result = self.dispatch(command).await;
        match (result, namespace) {
            (Err(error), Some(name)) => Err(near::with_near_names(self, error, &name).await),
            (result, _) => result,
        }
    }

    async fn dispatch(&self, command: Command) -> Result<Exit> {
        match command {
            Command::Put(args) => key::put(self, args).await,
            Command::Get(args) => key::get(self, args).await,
            Command::Delete(args) => key::delete(self, args).await,
            Command::Expire(args) => expiry::expire(self, args).await,
            Command::Persist(args) => expiry::persist(self, args).await,
            Command::Ttl(args) => expiry::ttl(self, args).await,
            Command::Resolve(args) => resolve::run(self, args).await,
            Command::Scan(args) => scan::scan(self, args).await,
            Command::Count(args) => scan::count(self, args).await,
            Command::Namespace(command) => namespace::run(self, command).await,
            Command::Import(args) => import::run(self, args).await,
            Command::Export(args) => export::run(self, args).await,
            Command::Bench(args) => bench::run(self, args).await,
            Command::Cluster(command) => cluster::run(self, command).await,
            Command::Hints(args) => hints::run(self, args).await,
        }
    }
}

/// Connects and runs the command.
pub(crate) async fn run(global: &Global, command: Command) -> Result<Exit> {
    let begun = Instant::now();
    let session = Session::open(global).await?;
    if command.is_one_operation() {
        session.client.set_timeout(session.timeout.saturating_sub(begun.elapsed()));
    }
    session.run(command).await
}

/// The bytes of an argument: on Unix exactly those that were typed.
fn bytes(argument: OsString) -> Bytes {
    argument.into_encoded_bytes().into()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use clap::Parser as _;
    use quorate_proto::v1::{
        self,
        error_detail::{Kind, Outcome},
        level,
    };

    use crate::args::{Args, TopCommand};
    use crate::fake::{Act, Asked, Fakes, NAMESPACE, Node, namespace};

    use super::*;

    async fn run_words(words: &[&str]) -> Result<Exit> {
        let args = Args::try_parse_from(words).unwrap();
        let TopCommand::One(command) = args.command else { panic!("{words:?}") };
        run(&args.global, command).await
    }

    /// How the writes of a command are retried in namespaces of each rule, the first of which is
    /// answered so; there are at least so many.
    async fn assert_retries(command: &[&str], acts: &[Act], at_least: usize) {
        let cases = [
            (v1::ConflictRule::Siblings, v1::Retry::AtLeastOnce),
            (v1::ConflictRule::Lww, v1::Retry::ExactlyOnce),
        ];
        for (conflict, expected) in cases {
            let fakes = Fakes::start(&[]).await;
            let conflict = conflict.into();
            let namespace = v1::Namespace { conflict, value_max_bytes: 8, ..namespace(NAMESPACE) };
            fakes.topology.lock().unwrap().namespaces = vec![namespace];
            fakes.script(0, acts.iter().cloned());
            let endpoint = fakes.addresses[0].to_string();
            let words =
                [&["kv-cli", "--endpoints", &endpoint, "--output", "json"][..], command].concat();
            assert_eq!(run_words(&words).await.unwrap(), Exit::Done, "{words:?}");
            let of = |node: &Arc<Node>| node.retries.lock().unwrap().clone();
            let retries: Vec<v1::Retry> = fakes.nodes.iter().flat_map(of).collect();
            assert!(retries.len() >= at_least, "{words:?}: {retries:?}");
            assert!(retries.iter().all(|&retry| retry == expected), "{words:?}: {retries:?}");
        }
    }

    /// In an `lww` namespace a copy made elsewhere would replace what was written between.
    #[tokio::test]
    async fn an_import_risks_copies_only_where_they_show_as_one() {
        let file = |rows: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(rows.as_bytes()).unwrap();
            file
        };
        let (one, two) = (file("a\tv\n"), file("a\tv\nb\tv\n"));
        let import = |file: &tempfile::NamedTempFile| {
            let path = file.path().to_str().unwrap().to_owned();
            ["import", NAMESPACE, &path, "--format", "lines"].map(str::to_owned)
        };
        let (one, two) = (import(&one), import(&two));
        // Alone, and again since another value stands beside; then in a batch.
        assert_retries(&one.each_ref().map(String::as_str), &[Act::Nothing, Act::Beside], 2).await;
        assert_retries(&two.each_ref().map(String::as_str), &[], 1).await;
    }

    #[tokio::test]
    async fn an_import_reads_from_as_many_replicas_as_it_is_told() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"a\tv\n").unwrap();
        let import = ["import", NAMESPACE, file.path().to_str().unwrap(), "--format", "lines"];
        let cases = [(&[][..], level::Kind::Quorum), (&["-r", "one"], level::Kind::One)];
        for (flags, expected) in cases {
            let fakes = fakes().await;
            let endpoint = fakes.addresses[0].to_string();
            let words = ["kv-cli", "--endpoints", &endpoint].into_iter().chain(import);
            let words: Vec<&str> = words.chain(flags.iter().copied()).collect();
            assert_eq!(run_words(&words).await.unwrap(), Exit::Done);
            let reads = fakes.nodes[0].reads.lock().unwrap();
            assert_eq!(reads[0].r.as_ref().map(|r| r.kind), Some(expected.into()), "{flags:?}");
        }
    }

    /// A slow endpoint is waited for a tenth of a second, before the next one is asked.
    #[tokio::test]
    async fn the_time_of_a_command_includes_connecting() {
        let fakes = fakes().await;
        fakes.nodes[0].mute.store(true, Ordering::Relaxed);
        let endpoints = [0, 1].map(|at| fakes.addresses[at].to_string()).join(",");
        let words = ["kv-cli", "--endpoints", &endpoints, "--timeout", "2s", "get", NAMESPACE, "k"];
        assert_eq!(run_words(&words).await.unwrap(), Exit::Done);
        let asked = fakes.nodes[0].reads.lock().unwrap()[0].timeout_ms;
        // Half of 1900 ms, less a tenth for the way.
        assert!(asked <= 855, "{asked} ms");
    }

    /// One operation, which has a second to start and for which nothing waits.
    const ONE: &str = "--rate 1 --duration 1s";

    #[tokio::test]
    async fn a_bench_risks_copies_only_where_they_show_as_one() {
        let lines = ["--workload write", "--workload write --batch 2", "--workload read --prepare"];
        for line in lines {
            let bench = ["bench", NAMESPACE, "--keys", "2", "--value-size", "8"];
            let words = bench.into_iter().chain(["--concurrency", "1"]).chain(ONE.split(' '));
            let words: Vec<&str> = words.chain(line.split(' ')).collect();
            assert_retries(&words, &[], 1).await;
        }
    }

    #[tokio::test]
    async fn every_command_that_reads_or_writes_asks_for_the_quorum_that_it_is_told() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"a\tv\nb\tv\n").unwrap();
        let path = file.path().to_str().unwrap();
        let bench = format!("bench {NAMESPACE} --keys 2 --value-size 8 --concurrency 1 {ONE}");
        let lines = [
            format!("put {NAMESPACE} k v"),
            format!("get {NAMESPACE} k"),
            format!("get {NAMESPACE} k l"),
            format!("delete {NAMESPACE} k"),
            format!("expire {NAMESPACE} k 5s"),
            format!("persist {NAMESPACE} k"),
            format!("ttl {NAMESPACE} k"),
            format!("import {NAMESPACE} {path} --format lines"),
            format!("{bench} --workload write --prepare"),
            format!("{bench} --workload read --batch 2"),
            "namespace create new".to_owned(),
            format!("namespace update {NAMESPACE} -w 1"),
        ];
        let cases = [
            ("", v1::Quorum::Default),
            (" --strict", v1::Quorum::Strict),
            (" --sloppy", v1::Quorum::Sloppy),
        ];
        for (flag, expected) in cases {
            for line in &lines {
                let fakes = fakes().await;
                let line = format!("--output json {line}{flag}");
                let endpoint = fakes.addresses[0].to_string();
                let words = ["kv-cli", "--endpoints", &endpoint].into_iter().chain(line.split(' '));
                run_words(&words.collect::<Vec<_>>()).await.unwrap();
                let of = |node: &Arc<Node>| node.quorums.lock().unwrap().clone();
                let asked: Vec<v1::Quorum> = fakes.nodes.iter().flat_map(of).collect();
                assert!(!asked.is_empty(), "{line}");
                assert!(asked.iter().all(|&asked| asked == expected), "{line}: {asked:?}");
            }
        }
    }

    async fn bench(fakes: &Fakes, flags: &str) -> Exit {
        let endpoint = fakes.addresses[0].to_string();
        let words = ["kv-cli", "--endpoints", &endpoint, "--timeout", "10s", "bench", NAMESPACE];
        let flags = flags.split(' ').chain("--keys 1 --value-size 8 --concurrency 1".split(' '));
        run_words(&words.into_iter().chain(flags).collect::<Vec<_>>()).await.unwrap()
    }

    async fn fakes() -> Fakes {
        let fakes = Fakes::start(&[]).await;
        let namespace = v1::Namespace { value_max_bytes: 8, ..namespace(NAMESPACE) };
        fakes.topology.lock().unwrap().namespaces = vec![namespace];
        fakes
    }

    #[tokio::test]
    async fn a_bench_of_which_nothing_succeeds_fails() {
        let fakes = fakes().await;
        fakes.script(0, [Act::Fail(Kind::Siblings, Outcome::NotApplied)]);
        let one = format!("--workload write {ONE}");
        assert_eq!(bench(&fakes, &one).await, Exit::Failed);
        assert_eq!(bench(&fakes, &one).await, Exit::Done);
    }

    /// Else a key that a blind bench has filled up would refuse all writes for ever.
    #[tokio::test]
    async fn a_bench_reads_a_key_that_has_too_many_siblings() {
        for (flags, reads) in [("", 1), (" --batch 2", 1), (" --blind", 0)] {
            let fakes = fakes().await;
            let kind = Kind::Siblings;
            let act = match flags {
                " --batch 2" => {
                    Act::FailKey("bench-000000000000".into(), kind, Outcome::NotApplied)
                }
                _ => Act::Fail(kind, Outcome::NotApplied),
            };
            fakes.script(0, [act]);
            let line = format!("--workload write --rate 4 --duration 1s{flags}");
            assert_eq!(bench(&fakes, &line).await, Exit::Done);
            let log = fakes.nodes.iter().flat_map(|node| node.log.lock().unwrap().clone());
            let is_read = |asked: &Asked| matches!(asked, Asked::Get | Asked::BatchGet(_));
            assert_eq!(log.filter(is_read).count(), reads, "{flags}");
        }
    }

    #[tokio::test]
    async fn endpoints_that_are_down_are_named() {
        // Ports that nothing listens on: they were free a moment ago.
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (one, two) = (free().to_string(), free().to_string());
        let endpoints = format!("{one},{two}");
        let line = ["kv-cli", "--endpoints", &endpoints, "--timeout", "2s", "count", "users"];
        let error = run_words(&line).await.unwrap_err().to_string();
        assert!(error.contains(&one) && error.contains(&two), "{error}");
    }
}
