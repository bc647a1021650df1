//! Metrics of hints: what the node keeps for members that are away.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::gauge;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct TargetLabels {
    target: String,
}

/// The handles.
#[derive(Debug)]
pub struct HintMetrics {
    count: Family<TargetLabels, Gauge>,
    bytes: Family<TargetLabels, Gauge>,
    oldest: Family<TargetLabels, Gauge>,
    accepted: Counter,
    refused: Counter,
    unfollowed: Counter,
}

/// What is kept for one target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueSize {
    /// How many keys.
    pub count: u64,
    /// Of keys and objects.
    pub bytes: u64,
    /// How long ago the oldest was taken in.
    pub oldest: Duration,
}

impl HintMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            count: Family::default(),
            bytes: Family::default(),
            oldest: Family::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            unfollowed: Counter::default(),
        };
        let help = "Keys that are kept for the member until it is back";
        registry.register("hints", help, metrics.count.clone());
        let help = "What they take, in bytes of keys and objects";
        registry.register_with_unit("hints", help, Unit::Bytes, metrics.bytes.clone());
        let help = "How long ago the oldest of them was taken in";
        registry.register_with_unit("hints_oldest", help, Unit::Seconds, metrics.oldest.clone());
        let help = "Hints taken in";
        registry.register("hints_accepted", help, metrics.accepted.clone());
        let help = "Hints refused, since there are hints_max_bytes of them";
        registry.register("hints_refused", help, metrics.refused.clone());
        let help =
            "Writes that were answered, and that an owner may lack with nobody who owes it to it";
        registry.register("writes_unfollowed", help, metrics.unfollowed.clone());
        metrics
    }

    /// Counts hints that were taken in, and that were refused for want of room.
    pub fn taken(&self, accepted: u64, refused: u64) {
        self.accepted.inc_by(accepted);
        self.refused.inc_by(refused);
    }

    /// So many answered writes were given up before each owner had them, or was owed them.
    pub fn unfollowed(&self, writes: u64) {
        self.unfollowed.inc_by(writes);
    }

    /// What is kept for a member now.
    pub fn queue(&self, target: &str, size: QueueSize) {
        let labels = TargetLabels { target: target.to_owned() };
        self.count.get_or_create_owned(&labels).set(gauge(size.count));
        self.bytes.get_or_create_owned(&labels).set(gauge(size.bytes));
        self.oldest.get_or_create_owned(&labels).set(gauge(size.oldest.as_secs()));
    }

    /// Nothing is kept for it any more.
    pub fn empty(&self, target: &str) {
        let labels = TargetLabels { target: target.to_owned() };
        for family in [&self.count, &self.bytes, &self.oldest] {
            family.remove(&labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn every_metric_shows_for_as_long_as_there_are_hints() {
        let metrics = Metrics::new();
        let size = QueueSize { count: 3, bytes: 300, oldest: Duration::from_millis(7900) };
        metrics.hints().queue("node-2", size);
        metrics.hints().taken(5, 2);
        let page = metrics.encode();
        for line in [
            r#"quorate_hints{target="node-2"} 3"#,
            r#"quorate_hints_bytes{target="node-2"} 300"#,
            r#"quorate_hints_oldest_seconds{target="node-2"} 7"#,
            "quorate_hints_accepted_total 5",
            "quorate_hints_refused_total 2",
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
        metrics.hints().empty("node-2");
        let page = metrics.encode();
        assert!(!page.contains("node-2"), "it is kept no more:\n{page}");
    }
}
