//! Metrics of what bounds a node: connections, requests under way, memory, and what was dropped.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::{Operation, OutcomeLabel, RequestLabels, gauge};
use crate::error::RequestError;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// The handles. They show zero from the start: an alarm on a rate needs a first value.
#[derive(Debug)]
pub struct LimitMetrics {
    connections: Gauge,
    connections_refused: Counter,
    requests_running: Gauge,
    requests_limit: Gauge,
    requests_unread: Family<RequestLabels, Counter>,
    expired: Counter,
    memory: Family<KindLabels, Gauge>,
    memory_max: Gauge,
    memory_refused: Gauge,
}

impl LimitMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            requests_running: Gauge::default(),
            requests_limit: Gauge::default(),
            requests_unread: Family::default(),
            expired: Counter::default(),
            memory: Family::default(),
            memory_max: Gauge::default(),
            memory_refused: Gauge::default(),
        };
        let help = "Connections of clients";
        registry.register("connections", help, metrics.connections.clone());
        let help = "Connections of clients that were closed, since there were as many as may be";
        registry.register("connections_refused", help, metrics.connections_refused.clone());
        let help = "Requests of clients under way";
        registry.register("requests_running", help, metrics.requests_running.clone());
        let help = "How many requests of clients may be under way: falls when they take too long";
        registry.register("requests_limit", help, metrics.requests_limit.clone());
        let help = "Requests of clients refused while they arrived, by operation and outcome";
        registry.register("requests_unread", help, metrics.requests_unread.clone());
        let help = "Requests dropped before any work, since their time was over";
        registry.register("expired", help, metrics.expired.clone());
        let help = "Memory held, by what for; of the engine, what it may take";
        registry.register_with_unit("memory", help, Unit::Bytes, metrics.memory.clone());
        let help = "The most memory that may be held, the engine's included";
        let memory_max = metrics.memory_max.clone();
        registry.register_with_unit("memory_max", help, Unit::Bytes, memory_max);
        let help = "How often memory was refused";
        registry.register("memory_refused", help, metrics.memory_refused.clone());
        metrics
    }

    /// So many connections of clients are open now.
    pub fn connections(&self, open: usize) {
        self.connections.set(gauge(open as u64));
    }

    /// Counts a connection that was closed for there being too many.
    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// How many requests of clients run now, and how many may.
    pub fn requests(&self, running: usize, limit: u32) {
        self.requests_running.set(gauge(running as u64));
        self.requests_limit.set(gauge(limit.into()));
    }

    /// Counts a request that was refused while it arrived; of one that is not about keys, no more
    /// is told.
    pub fn unread(&self, operation: Option<Operation>, error: &RequestError) {
        let operation = operation.map_or("other", Operation::name);
        let labels = RequestLabels { operation, outcome: OutcomeLabel::from(error).name() };
        self.requests_unread.get_or_create_owned(&labels).inc();
    }

    /// Counts requests whose time was over before any work on them.
    pub fn expired(&self, requests: u64) {
        self.expired.inc_by(requests);
    }

    /// How much memory is held for `kind` now.
    pub fn memory(&self, kind: &'static str, bytes: u64) {
        self.memory.get_or_create_owned(&KindLabels { kind }).set(gauge(bytes));
    }

    /// How much may be held, and how often more was refused.
    pub fn memory_bounds(&self, max: u64, refused: u64) {
        self.memory_max.set(gauge(max));
        self.memory_refused.set(gauge(refused));
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn every_metric_shows() {
        let mut registry = Registry::default();
        let metrics = LimitMetrics::register(&mut registry);
        metrics.connections(3);
        metrics.connection_refused();
        metrics.requests(5, 64);
        metrics.unread(None, &RequestError::Timeout { waiting_for: "it".to_owned() });
        metrics.expired(2);
        metrics.memory("replies", 4096);
        metrics.memory_bounds(1 << 20, 7);
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        for line in [
            "connections 3",
            "connections_refused_total 1",
            "requests_running 5",
            "requests_limit 64",
            r#"requests_unread_total{operation="other",outcome="timeout"} 1"#,
            "expired_total 2",
            r#"memory_bytes{kind="replies"} 4096"#,
            "memory_max_bytes 1048576",
            "memory_refused 7",
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
    }
}
