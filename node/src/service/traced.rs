//! The span of each request, and the line at its end.
//!
//! Each handler begins with [`NodeParts::trace`] and ends with [`NodeParts::ended`]. Both are nearly
//! free while nobody wants to see requests (see [`crate::trace`]).

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tracing::Span;

use super::kv::NodeParts;
use crate::coordinator::Coordinator;
use crate::dynamo::key::{Key, NamespaceId, NodeId};
use crate::error::RequestError;
use crate::telemetry::{Metrics, Operation, OutcomeLabel};
use crate::trace::{self, RequestId, Trace, hashed};
use crate::transport::{self, ForwardGet, ForwardWrite, Read, Replicate};

/// The header by which a client names its request.
const HEADER: &str = "x-request-id";

/// So much is shown of a name that no namespace can have.
const NAME_SHOWN_CHARS: usize = 64;

/// So much is shown of an error.
const ERROR_SHOWN_CHARS: usize = 512;

/// What a request is about.
#[derive(Default)]
struct Subject {
    namespace: String,
    key_hash: Option<u64>,
    /// How many, of a batch.
    keys: Option<usize>,
}

/// What a client's message is about.
pub(super) struct Asked<'a> {
    namespace: &'a str,
    key: Option<&'a [u8]>,
    keys: Option<usize>,
}

impl<'a> Asked<'a> {
    pub(super) fn key(namespace: &'a str, key: &'a [u8]) -> Self {
        Self { namespace, key: Some(key), keys: None }
    }

    pub(super) fn keys(namespace: &'a str, keys: usize) -> Self {
        Self { namespace, key: None, keys: Some(keys) }
    }

    pub(super) fn scan(namespace: &'a str) -> Self {
        Self { namespace, key: None, keys: None }
    }
}

impl NodeParts {
    /// What the work on a client's request is done for.
    pub(super) fn trace(
        &self,
        operation: Operation,
        metadata: &MetadataMap,
        asked: Asked<'_>,
    ) -> Trace {
        let named = named_by_client(metadata);
        if !trace::is_on() {
            return Trace::new(named, Span::none());
        }
        let id = named.unwrap_or_else(|| self.new_request_id());
        let Subject { namespace, key_hash, keys } = self.subject(asked);
        let span = tracing::debug_span!(
            target: trace::TARGET,
            "request",
            request_id = id.as_str(),
            operation = operation.name(),
            namespace,
            key_hash = key_hash.map(hashed),
            keys,
        );
        Trace::new(Some(id), span)
    }

    fn subject(&self, asked: Asked<'_>) -> Subject {
        let hash = || {
            let view = self.coordinator.cluster().view()?;
            let namespace = view.namespace_named(asked.namespace)?.id;
            let key = Key::new(Bytes::copy_from_slice(asked.key?)).ok()?;
            Some(key.hash(namespace).0)
        };
        let namespace = asked.namespace.chars().take(NAME_SHOWN_CHARS).collect();
        Subject { namespace, key_hash: hash(), keys: asked.keys }
    }

    /// One that no other request has: the opening of the node's store, and a number.
    fn new_request_id(&self) -> RequestId {
        let number = self.requests.fetch_add(1, Relaxed);
        let opening = self.coordinator.opening().0;
        RequestId::new(&format!("{opening:016x}.{number}")).expect("it is short and has no spaces")
    }

    /// Counts a client's request, and says how it ended, within its span.
    pub(super) fn ended(
        &self,
        operation: Operation,
        started: Instant,
        error: Option<&RequestError>,
    ) {
        ended(&self.metrics, operation, started, error);
    }
}

/// Counts a request, and says how it ended, within its span.
pub(super) fn ended(
    metrics: &Metrics,
    operation: Operation,
    started: Instant,
    error: Option<&RequestError>,
) {
    let (took, outcome) = (started.elapsed(), error.map_or(OutcomeLabel::Ok, OutcomeLabel::from));
    metrics.request(operation, outcome, took);
    let (outcome, took_us) = (outcome.name(), took.as_micros() as u64);
    tracing::debug!(target: trace::TARGET, outcome, took_us, error = error.map(shown), "ended");
}

/// What the work on another node's request is done for: the client's request that it came with.
pub(super) fn trace_of_peer(
    coordinator: &Coordinator,
    from: NodeId,
    operation: Operation,
    request: &transport::Request,
) -> Trace {
    let id = trace::current();
    if !trace::is_on() {
        return Trace::new(id, Span::none());
    }
    let Subject { namespace, key_hash, keys } = subject_of_peer(coordinator, request);
    let span = tracing::debug_span!(
        target: trace::TARGET,
        "peer_request",
        request_id = id.as_ref().map(RequestId::as_str),
        %from,
        operation = operation.name(),
        namespace,
        key_hash = key_hash.map(hashed),
        keys,
    );
    Trace::new(id, span)
}

fn subject_of_peer(coordinator: &Coordinator, request: &transport::Request) -> Subject {
    use transport::Request as R;
    let named = |id: NamespaceId| {
        let view = coordinator.cluster().view()?;
        Some(view.namespace(id)?.name.clone())
    };
    let one = |id: NamespaceId, key: &Key| Subject {
        namespace: named(id).unwrap_or_default(),
        key_hash: Some(key.hash(id).0),
        keys: None,
    };
    let many = |id: Option<NamespaceId>, keys| Subject {
        namespace: id.and_then(named).unwrap_or_default(),
        key_hash: None,
        keys: Some(keys),
    };
    match request {
        R::Replicate(Replicate { namespace, key, .. })
        | R::Read(Read { namespace, key, .. })
        | R::ForwardGet(ForwardGet { namespace, key, .. })
        | R::ForwardWrite(ForwardWrite { namespace, key, .. }) => one(*namespace, key),
        R::ReplicateBatch(items) => many(items.first().map(|item| item.namespace), items.len()),
        R::ReadBatch(items) => many(items.first().map(|item| item.namespace), items.len()),
        R::ForwardGetBatch(items) => many(items.first().map(|item| item.namespace), items.len()),
        R::ForwardWriteBatch(items) => many(items.first().map(|item| item.namespace), items.len()),
        R::Handoff(items) => many(items.first().map(|item| item.namespace), items.len()),
        R::LookUp(asked) => Subject {
            namespace: named(asked.namespace).unwrap_or_default(),
            key_hash: Some(asked.key.0),
            keys: None,
        },
        R::ScanPage(page) => {
            Subject { namespace: named(page.namespace).unwrap_or_default(), ..Subject::default() }
        }
        R::Document
        | R::Learn(_)
        | R::Register(_)
        | R::Clock
        | R::Gossip(_)
        | R::Hints
        | R::Frontiers { .. }
        | R::Keys(..)
        | R::Trees(_) => Subject::default(),
    }
}

/// An error in a line. It may quote what a client sent, which must not break the line or fill the
/// log: texts are escaped where they are written.
fn shown(error: &RequestError) -> String {
    error.to_string().chars().take(ERROR_SHOWN_CHARS).collect()
}

fn named_by_client(metadata: &MetadataMap) -> Option<RequestId> {
    RequestId::new(metadata.get(HEADER)?.to_str().ok()?)
}
