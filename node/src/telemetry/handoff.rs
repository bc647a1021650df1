//! Metrics of hints that this node sends home, by whom they are for.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct TargetLabels {
    target: String,
}

type ByTarget = Family<TargetLabels, Counter>;

/// The counters, by the names of targets.
#[derive(Debug)]
pub struct HandoffMetrics {
    delivered: ByTarget,
    bytes: ByTarget,
    refused: ByTarget,
    failures: ByTarget,
    waits: ByTarget,
}

impl HandoffMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            delivered: ByTarget::default(),
            bytes: ByTarget::default(),
            refused: ByTarget::default(),
            failures: ByTarget::default(),
            waits: ByTarget::default(),
        };
        let help = "Hints that are home, on disk at their target, and deleted here";
        registry.register("handoff_delivered", help, metrics.delivered.clone());
        let help = "The bytes of their objects";
        let bytes = metrics.bytes.clone();
        registry.register_with_unit("handoff_delivered", help, Unit::Bytes, bytes);
        let help = "Hints that their target refused: each is kept, and sent again later";
        registry.register("handoff_refused", help, metrics.refused.clone());
        let help = "Messages of handoff that failed as a whole";
        registry.register("handoff_failures", help, metrics.failures.clone());
        let help = "Times that a target granted nothing, since it has enough to do";
        registry.register("handoff_waits", help, metrics.waits.clone());
        metrics
    }

    /// Counts hints for `target` that are home.
    pub fn delivered(&self, target: &str, hints: u64, bytes: u64) {
        of(&self.delivered, target).inc_by(hints);
        of(&self.bytes, target).inc_by(bytes);
    }

    /// Counts hints that it refused.
    pub fn refused(&self, target: &str, hints: u64) {
        of(&self.refused, target).inc_by(hints);
    }

    /// Counts a message to it that failed.
    pub fn failed(&self, target: &str) {
        of(&self.failures, target).inc();
    }

    /// Counts that it granted nothing.
    pub fn waited(&self, target: &str) {
        of(&self.waits, target).inc();
    }
}

fn of(family: &ByTarget, target: &str) -> Counter {
    family.get_or_create_owned(&TargetLabels { target: target.to_owned() })
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn every_metric_shows() {
        let mut registry = Registry::default();
        let metrics = HandoffMetrics::register(&mut registry);
        metrics.delivered("node-2", 3, 300);
        metrics.refused("node-2", 2);
        metrics.failed("node-3");
        metrics.waited("node-3");
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        for line in [
            r#"handoff_delivered_total{target="node-2"} 3"#,
            r#"handoff_delivered_bytes_total{target="node-2"} 300"#,
            r#"handoff_refused_total{target="node-2"} 2"#,
            r#"handoff_failures_total{target="node-3"} 1"#,
            r#"handoff_waits_total{target="node-3"} 1"#,
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
    }
}
