//! Metrics of values that expire.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::metrics::gauge;

/// What was purged, and what waits.
#[derive(Debug)]
pub struct ExpiryMetrics {
    purged: Counter,
    waiting: Gauge,
}

impl ExpiryMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self { purged: Counter::default(), waiting: Gauge::default() };
        let help = "Values that expired and were removed here";
        registry.register("values_purged", help, metrics.purged.clone());
        let help = "Values that have expired and are still here, up to 1024 of each partition";
        registry.register("values_expired", help, metrics.waiting.clone());
        metrics
    }

    /// Counts values that were removed.
    pub fn purged(&self, values: u64) {
        self.purged.inc_by(values);
    }

    /// So many wait now.
    pub fn waiting(&self, values: u64) {
        self.waiting.set(gauge(values));
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn every_metric_shows() {
        let mut registry = Registry::default();
        let metrics = ExpiryMetrics::register(&mut registry);
        metrics.purged(3);
        metrics.waiting(2);
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        for line in ["values_purged_total 3", "values_expired 2"] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
    }
}
