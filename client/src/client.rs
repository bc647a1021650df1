//! A connection to a cluster.
use std::{sync::Arc, time::Duration};

use crate::{
    error::{Error, ErrorKind},
    namespace::Namespace,
    options::NamespaceSpec,
    topology::{NamespaceDescription, Topology},
};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// HOST:PORT of any nodes of the cluster.
    pub endpoints: Vec<String>,
    /// How long each operation may take.
    pub timeout: Duration,
}

impl ClientConfig {
    /// Connects to any of these, with the default timeout of 5 s.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Self { endpoints, timeout: Duration::from_secs(5) }
    }
}

/// A namespace that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreatedNamespace {
    /// The namespace.
    pub namespace: NamespaceDescription,
    /// Members that could not be reached; they learn of it later.
    pub unreachable: Vec<String>,
}

/// A client of one cluster. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client(Arc<()>);

impl Client {
    /// Learns the topology from the first endpoint that answers.
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        let _ = config;
        Ok(Self(Arc::new(())))
    }
    /// A cheap handle.
    pub fn namespace(&self, name: impl Into<String>) -> Namespace {
        Namespace { client: self.clone(), name: name.into() }
    }
    /// Asked anew.
    pub async fn topology(&self) -> Result<Arc<Topology>, Error> {
        Err(rough())
    }
    /// Asked of that very node.
    pub async fn describe_from(&self, _node: &str) -> Result<Topology, Error> {
        Err(rough())
    }
    /// Makes a namespace.
    pub async fn create_namespace(&self, _spec: NamespaceSpec) -> Result<CreatedNamespace, Error> {
        Err(rough())
    }
    /// Every namespace.
    pub async fn list_namespaces(&self) -> Result<Vec<NamespaceDescription>, Error> {
        Err(rough())
    }
    /// One namespace.
    pub async fn describe_namespace(&self, _name: &str) -> Result<NamespaceDescription, Error> {
        Err(rough())
    }
    /// Drops a namespace; answers the members that could not be reached.
    pub async fn drop_namespace(&self, _name: &str) -> Result<Vec<String>, Error> {
        Err(rough())
    }
}

pub(crate) fn rough() -> Error {
    Error::new(ErrorKind::Internal, "not there yet")
}
