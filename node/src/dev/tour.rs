//! `quorate dev --tour`: what the cluster is for, shown with a node that is killed and comes back.
//!
//! Each step does what it tells, checks that it holds, and names the command that does the same; the
//! first one that does not hold ends the tour, and the process with a code other than 0.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use quorate_client::{
    Client, ClientConfig, GetOptions, Namespace, NamespaceSpec, PutOptions, Read, Receipt,
    TlsConfig, Written,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::home::Home;
use super::nodes::Nodes;
use super::{DevError, guide, probe};
use crate::process::say;

/// Three hold each key, and one stands in.
pub(super) const NODES_MIN: usize = 4;

/// No user's namespace; what an earlier tour left of it is dropped first.
const NAMESPACE: &str = "quorate.tour";
const KEY: &str = "alice";
const CONFLICT: &str = "bob";

/// How many keys are written while a node is dead.
const KEYS: usize = 200;

/// How long the node may take to catch up: much longer than it does.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(60);

/// Takes the tour, or as much of it as there is before this process is told to stop.
pub(super) async fn run(
    home: &Home,
    nodes: &mut Nodes,
    stop: &CancellationToken,
) -> Result<(), DevError> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        ended = take(home, nodes) => ended,
    }
}

async fn take(home: &Home, nodes: &mut Nodes) -> Result<(), DevError> {
    let client = connect(&home.client_addresses(), home.ca().as_deref()).await?;
    say(format_args!("\nThe tour. In what follows kv is, from the repository's root:"));
    say(format_args!("  alias kv='{}'", guide::kv_cli(home)));
    let tour = Tour { home, client };
    tour.create().await?;
    let owners = tour.write_to_all().await?;
    let victim = home.nodes().iter().position(|node| node.name == owners[0]);
    let victim =
        victim.ok_or_else(|| failed("name the owners")("an owner is none of the nodes"))?;
    tour.kill(nodes, victim).await?;
    tour.go_on(victim).await?;
    tour.show_hints(victim).await?;
    tour.bring_back(nodes, victim).await?;
    tour.compare(victim).await?;
    tour.conflict().await?;
    tour.client.drop_namespace(NAMESPACE).await.map_err(failed("drop the namespace"))?;
    say("\nThat was the tour: a node died, no request failed, and nothing was lost.");
    Ok(())
}

async fn connect(endpoints: &[String], ca: Option<&Path>) -> Result<Client, DevError> {
    let tls = ca.map(TlsConfig::from_ca_file).transpose().map_err(failed("read the CA"))?;
    let timeout = Duration::from_secs(10);
    let config = ClientConfig { timeout, tls, ..ClientConfig::new(endpoints) };
    Client::connect(config).await.map_err(failed("connect"))
}

struct Tour<'a> {
    home: &'a Home,
    client: Client,
}

impl Tour<'_> {
    async fn create(&self) -> Result<(), DevError> {
        let step = "create a namespace";
        let known = self.client.list_namespaces().await.map_err(failed("list the namespaces"))?;
        if known.iter().any(|namespace| namespace.name == NAMESPACE) {
            self.client.drop_namespace(NAMESPACE).await.map_err(failed("drop an earlier one"))?;
        }
        self.client.create_namespace(NamespaceSpec::new(NAMESPACE)).await.map_err(failed(step))?;
        title(1, "A namespace with the defaults: three owners of each key, sloppy quorums of two.");
        command(format_args!("namespace create {NAMESPACE}"));
        Ok(())
    }

    /// The names of the key's owners, the most preferred first.
    async fn write_to_all(&self) -> Result<Vec<String>, DevError> {
        let step = "write a key";
        let written = self.namespace().put(KEY, "hello", PutOptions::default()).await;
        let written = written.map_err(failed(step))?;
        let topology = self.client.topology().await.map_err(failed("learn the topology"))?;
        let namespace = topology.namespace(NAMESPACE);
        let namespace = namespace.ok_or_else(|| failed(step)("the namespace is not known"))?;
        let partition = topology.partition_of(namespace.id, KEY.as_bytes());
        let owners: Vec<String> =
            topology.owners(namespace.n, partition).map(|owner| owner.name.clone()).collect();
        title(2, "A write is answered once two of its three owners have it.");
        command(format_args!("put {NAMESPACE} {KEY} hello"));
        result(format_args!("owners: {}; {}", owners.join(", "), receipt(&written.receipt)));
        Ok(owners)
    }

    async fn kill(&self, nodes: &mut Nodes, victim: usize) -> Result<(), DevError> {
        let (name, pid) = (&self.home.nodes()[victim].name, nodes.pids()[victim]);
        title(
            3,
            "One of them dies, without a word to the others: the one that coordinated the write.",
        );
        result(format_args!("kill -9 {pid}    ({name})"));
        nodes.kill(victim);
        let exit = nodes.next_exit().await;
        expect("kill a node", exit.index == victim, || {
            let other = &self.home.nodes()[exit.index].name;
            format!("{other} ended ({}) instead of {name}", exit.status)
        })
    }

    /// Writes and reads on at once: others have not yet found out that the node is dead.
    async fn go_on(&self, victim: usize) -> Result<(), DevError> {
        let name = &self.home.nodes()[victim].name;
        let (namespace, started) = (self.namespace(), Instant::now());
        let changed = self.change(KEY, "hello again").await?;
        let (mut stood_in, mut example) = (0, None);
        for number in 0..KEYS {
            let key = format!("key-{number}");
            let written = namespace.put(key.clone(), key.clone(), PutOptions::default()).await;
            let written = written.map_err(failed("write while a node is dead"))?;
            if !written.receipt.fallbacks.is_empty() {
                stood_in += 1;
                example.get_or_insert((key.clone(), receipt(&written.receipt)));
            }
            let read = namespace.get(key.clone(), GetOptions::default()).await;
            let read = read.map_err(failed("read while a node is dead"))?;
            expect_values("read while a node is dead", &read, &[&key])?;
        }
        let took = started.elapsed();
        title(
            4,
            "Writes and reads go on at once. For the dead owner another node keeps what it misses.",
        );
        command(format_args!("put {NAMESPACE} {KEY} 'hello again' --context ..."));
        result(format_args!("{}", receipt(&changed.receipt)));
        if let Some((key, receipt)) = example {
            command(format_args!("put {NAMESPACE} {key} {key}"));
            result(format_args!("{receipt}"));
        }
        let ms = took.as_millis();
        result(format_args!(
            "{KEYS} keys written and read back in {ms} ms, none failed; in {stood_in} of the writes a \
             fallback was among the first two"
        ));
        result(format_args!("{name} owns about three of five keys"));
        Ok(())
    }

    async fn show_hints(&self, victim: usize) -> Result<(), DevError> {
        let name = &self.home.nodes()[victim].name;
        let hints = self.client.hints().await.map_err(failed("list the hints"))?;
        title(5, "What they keep for it are hints, one queue for each that keeps some.");
        command(format_args!("hints"));
        let queues: Vec<_> = hints.queues.iter().filter(|queue| queue.target == *name).collect();
        for queue in &queues {
            result(format_args!("{} keeps {} keys for {name}", queue.holder, queue.count));
        }
        expect("find hints for the dead node", !queues.is_empty(), || "there are none".to_owned())
    }

    async fn bring_back(&self, nodes: &mut Nodes, victim: usize) -> Result<(), DevError> {
        let node = &self.home.nodes()[victim];
        nodes.restart(self.home, victim)?;
        probe::until_all(self.home, probe::Page::READY).await?;
        title(6, "The node comes back, and the hints go home, the oldest first.");
        result(format_args!("{}    ({})", guide::restart(node), node.name));
        command(format_args!("hints await"));
        let (started, mut shown) = (Instant::now(), None);
        loop {
            let hints = self.client.hints().await.map_err(failed("list the hints"))?;
            let left = hints.queues.iter().filter(|queue| queue.target == node.name);
            let left: u64 = left.map(|queue| queue.count).sum();
            if shown != Some(left) {
                result(format_args!("{:>5} ms  {left} left", started.elapsed().as_millis()));
                shown = Some(left);
            }
            if left == 0 && hints.unreachable.is_empty() {
                return Ok(());
            }
            expect("see the hints go home", started.elapsed() < CAUGHT_UP_WITHIN, || {
                format!("{left} are left after {} s", CAUGHT_UP_WITHIN.as_secs())
            })?;
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn compare(&self, victim: usize) -> Result<(), DevError> {
        let name = &self.home.nodes()[victim].name;
        let alone = GetOptions { replica: Some(name.clone()), ..GetOptions::default() };
        let read = self.namespace().get(KEY, alone).await.map_err(failed("ask the node alone"))?;
        title(7, "It has what it missed. This asks it alone, and no other.");
        command(format_args!("get {NAMESPACE} {KEY} --replica {name}"));
        expect_values("find on the node what it missed", &read, &["hello again"])?;
        result(format_args!("hello again"));
        Ok(())
    }

    async fn conflict(&self) -> Result<(), DevError> {
        let namespace = self.namespace();
        for value in ["red", "green"] {
            let written = namespace.put(CONFLICT, value, PutOptions::default()).await;
            written.map_err(failed("write without a context"))?;
        }
        let step = "read two siblings";
        let read = namespace.get(CONFLICT, GetOptions::default()).await.map_err(failed(step))?;
        expect_values(step, &read, &["green", "red"])?;
        title(8, "Two that write without having read are both kept: nobody's value is lost.");
        command(format_args!("put {NAMESPACE} {CONFLICT} red"));
        command(format_args!("put {NAMESPACE} {CONFLICT} green"));
        command(format_args!("get {NAMESPACE} {CONFLICT}"));
        values(&read).iter().for_each(|value| result(format_args!("{value}")));
        self.change(CONFLICT, "yellow").await?;
        let step = "resolve a conflict";
        let read = namespace.get(CONFLICT, GetOptions::default()).await.map_err(failed(step))?;
        expect_values(step, &read, &["yellow"])?;
        title(9, "Who has read both replaces both, by the context that came with them.");
        command(format_args!("put {NAMESPACE} {CONFLICT} yellow --context ..."));
        command(format_args!("get {NAMESPACE} {CONFLICT}"));
        result(format_args!("yellow"));
        Ok(())
    }

    /// Replaces what is there.
    async fn change(&self, key: &'static str, value: &'static str) -> Result<Written, DevError> {
        let (namespace, step) = (self.namespace(), "replace a value");
        let read = namespace.get(key, GetOptions::default()).await.map_err(failed(step))?;
        let options = PutOptions { context: read.context, ..PutOptions::default() };
        namespace.put(key, value, options).await.map_err(failed(step))
    }

    fn namespace(&self) -> Namespace {
        self.client.namespace(NAMESPACE)
    }
}

fn title(number: u32, text: &str) {
    say(format_args!("\n{number}. {text}"));
}

fn command(text: fmt::Arguments<'_>) {
    say(format_args!("   $ kv {text}"));
}

fn result(text: fmt::Arguments<'_>) {
    say(format_args!("     {text}"));
}

/// Who acknowledged, in words.
fn receipt(receipt: &Receipt) -> String {
    let owners = receipt.acked.iter().cloned();
    let fallbacks = receipt.fallbacks.iter().map(|by| format!("{} (for {})", by.node, by.owner));
    format!("acknowledged by {}", owners.chain(fallbacks).collect::<Vec<_>>().join(" and "))
}

fn values(read: &Read) -> BTreeSet<String> {
    let text =
        |sibling: &quorate_client::Sibling| String::from_utf8_lossy(&sibling.value).into_owned();
    read.siblings.iter().map(text).collect()
}

fn expect_values(step: &'static str, read: &Read, expected: &[&str]) -> Result<(), DevError> {
    let found = values(read);
    let so = found.iter().map(String::as_str).eq(expected.iter().copied());
    expect(step, so, || format!("it got {found:?} instead of {expected:?}"))
}

fn expect(step: &'static str, so: bool, reason: impl FnOnce() -> String) -> Result<(), DevError> {
    if so { Ok(()) } else { Err(DevError::Tour { step, reason: reason() }) }
}

fn failed<E: fmt::Display>(step: &'static str) -> impl FnOnce(E) -> DevError {
    move |error| DevError::Tour { step, reason: error.to_string() }
}
