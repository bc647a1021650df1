//! Metrics of exchanges: what this node had not seen, and fetched from other owners.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The counters.
#[derive(Debug)]
pub struct ExchangeMetrics {
    rounds: Counter,
    missing: Gauge,
    objects: Counter,
    bytes: Counter,
    whole: Counter,
    failures: Counter,
}

impl ExchangeMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            rounds: Counter::default(),
            missing: Gauge::default(),
            objects: Counter::default(),
            bytes: Counter::default(),
            whole: Counter::default(),
            failures: Counter::default(),
        };
        let help = "Times that this node was compared with the other owners of all its partitions";
        registry.register("exchange_rounds", help, metrics.rounds.clone());
        let help = "Writes that other owners had seen and this node had not, in the last of them";
        registry.register("exchange_missing_writes", help, metrics.missing.clone());
        let help = "Objects that were fetched from other owners since writes of them were missed";
        registry.register("exchange_objects", help, metrics.objects.clone());
        let help = "The bytes of these objects";
        registry.register_with_unit("exchange_objects", help, Unit::Bytes, metrics.bytes.clone());
        let help =
            "Partitions that were fetched as a whole, since the log of an owner was too short";
        registry.register("exchange_whole_partitions", help, metrics.whole.clone());
        let help = "Exchanges that failed; each is tried again in the next round";
        registry.register("exchange_failures", help, metrics.failures.clone());
        metrics
    }

    /// A round is over, in which so many writes were missing.
    pub fn ended(&self, missing: u64) {
        self.rounds.inc();
        self.missing.set(i64::try_from(missing).unwrap_or(i64::MAX));
    }

    /// How many writes were missing in the last round.
    pub fn missing(&self) -> u64 {
        u64::try_from(self.missing.get()).unwrap_or(0)
    }

    /// Counts objects that were fetched.
    pub fn fetched(&self, objects: u64, bytes: u64) {
        self.objects.inc_by(objects);
        self.bytes.inc_by(bytes);
    }

    /// Counts a partition that is fetched as a whole.
    pub fn whole(&self) {
        self.whole.inc();
    }

    /// Counts an exchange that failed.
    pub fn failed(&self) {
        self.failures.inc();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn every_metric_shows() {
        let mut registry = Registry::default();
        let metrics = ExchangeMetrics::register(&mut registry);
        metrics.ended(7);
        metrics.fetched(3, 300);
        metrics.whole();
        metrics.failed();
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        for line in [
            "exchange_rounds_total 1",
            "exchange_missing_writes 7",
            "exchange_objects_total 3",
            "exchange_objects_bytes_total 300",
            "exchange_whole_partitions_total 1",
            "exchange_failures_total 1",
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
    }
}
