//! Whether the cluster does what it is for: the only code of a node that is a client.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate_client::{
    Client, ClientConfig, DeleteOptions, Deleted, GetOptions, Level, NamespaceSpec, PutOptions,
    TlsConfig,
};

use super::DevError;

/// No user's namespace; what an earlier check left of it is dropped first.
const NAMESPACE: &str = "quorate.self-check";
const KEY: &str = "hello";
const VALUE: &str = "world";

/// What was found.
#[derive(Debug)]
pub(super) struct Checked {
    /// The user's namespaces, left by an earlier start.
    pub(super) namespaces: BTreeSet<String>,
    took: Duration,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.took.as_millis();
        write!(f, "self-check: create, put, get by quorum, delete, drop: ok in {ms} ms")
    }
}

/// Creates a namespace, puts, gets by quorum, deletes, and drops the namespace.
/// Over TLS if there is a CA to trust.
pub(super) async fn run(endpoints: &[String], ca: Option<&Path>) -> Result<Checked, DevError> {
    let started = Instant::now();
    let tls = ca.map(TlsConfig::from_ca_file).transpose().map_err(failed("read the CA"))?;
    let timeout = Duration::from_secs(10);
    let config = ClientConfig { timeout, tls, ..ClientConfig::new(endpoints) };
    let client = Client::connect(config).await.map_err(failed("connect"))?;
    let known = client.list_namespaces().await.map_err(failed("list the namespaces"))?;
    let mut namespaces: BTreeSet<String> = known.into_iter().map(|found| found.name).collect();
    if namespaces.remove(NAMESPACE) {
        client.drop_namespace(NAMESPACE).await.map_err(failed("drop an earlier namespace"))?;
    }
    let n = u32::try_from(endpoints.len().min(3)).expect("it is 3 at most");
    let spec = NamespaceSpec { n: Some(n), ..NamespaceSpec::new(NAMESPACE) };
    client.create_namespace(spec).await.map_err(failed("create a namespace"))?;
    round_trip(&client).await?;
    client.drop_namespace(NAMESPACE).await.map_err(failed("drop the namespace"))?;
    Ok(Checked { namespaces, took: started.elapsed() })
}

async fn round_trip(client: &Client) -> Result<(), DevError> {
    let namespace = client.namespace(NAMESPACE);
    let by_quorum = || GetOptions { r: Level::Quorum, ..GetOptions::default() };
    namespace.put(KEY, VALUE, PutOptions::default()).await.map_err(failed("put"))?;

    let step = "get by quorum what was put";
    let read = namespace.get(KEY, by_quorum()).await.map_err(failed(step))?;
    let values: Vec<_> = read.siblings.into_iter().map(|sibling| sibling.value).collect();
    expect(step, values == [VALUE], format!("it got {values:?} instead of [{VALUE:?}]"))?;

    let options = DeleteOptions { context: read.context, ..DeleteOptions::default() };
    let deleted = namespace.delete(KEY, options).await.map_err(failed("delete"))?;
    expect("delete", matches!(deleted, Deleted::Done(_)), "the key was not found".to_owned())?;

    let step = "get by quorum what was deleted";
    let read = namespace.get(KEY, by_quorum()).await.map_err(failed(step))?;
    expect(step, read.siblings.is_empty(), "the value is still there".to_owned())
}

fn expect(step: &'static str, so: bool, reason: String) -> Result<(), DevError> {
    if so { Ok(()) } else { Err(DevError::SelfCheck { step, reason }) }
}

fn failed<E: fmt::Display>(step: &'static str) -> impl FnOnce(E) -> DevError {
    move |error| DevError::SelfCheck { step, reason: error.to_string() }
}
