//! Metrics of trees of hashes: what owners' values differ in, and what was found to have changed by itself.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

/// The counters.
#[derive(Debug)]
pub struct TreeMetrics {
    rounds: Counter,
    compared: Counter,
    leaves: Counter,
    objects: Counter,
    bytes: Counter,
    mismatches: Counter,
    lies: Counter,
    scrubs: Counter,
    reread: Counter,
    failures: Counter,
}

impl TreeMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            rounds: Counter::default(),
            compared: Counter::default(),
            leaves: Counter::default(),
            objects: Counter::default(),
            bytes: Counter::default(),
            mismatches: Counter::default(),
            lies: Counter::default(),
            scrubs: Counter::default(),
            reread: Counter::default(),
            failures: Counter::default(),
        };
        let help = "Times that the trees of all partitions were compared with the other owners'";
        registry.register("trees_rounds", help, metrics.rounds.clone());
        let help = "Trees that were compared with another owner's";
        registry.register("trees_compared", help, metrics.compared.clone());
        let help = "Leaves of trees in which two owners differed, twice in the same way";
        registry.register("trees_differing_leaves", help, metrics.leaves.clone());
        let help = "Objects that were fetched from other owners since trees differed";
        registry.register("trees_objects", help, metrics.objects.clone());
        let help = "The bytes of these objects";
        registry.register_with_unit("trees_objects", help, Unit::Bytes, metrics.bytes.clone());
        let help = "Leaves of trees that were not what the records come to: bytes changed, or were lost, \
                    without a trace";
        registry.register("trees_mismatches", help, metrics.mismatches.clone());
        let help = "Frontiers that were found to vouch for values which were lost without a trace";
        registry.register("frontier_lies", help, metrics.lies.clone());
        let help =
            "Times that all records were read again to see whether they are what was written";
        registry.register("scrub_rounds", help, metrics.scrubs.clone());
        let help = "Records with values that were read again for that";
        registry.register("scrub_records", help, metrics.reread.clone());
        let help = "Comparisons of trees that failed; each is tried again in the next round";
        registry.register("trees_failures", help, metrics.failures.clone());
        metrics
    }

    /// A round is over.
    pub fn ended(&self) {
        self.rounds.inc();
    }

    /// Counts trees that were compared.
    pub fn compared(&self, trees: u64) {
        self.compared.inc_by(trees);
    }

    /// Counts leaves that differ.
    pub fn differing(&self, leaves: u64) {
        self.leaves.inc_by(leaves);
    }

    /// Counts objects that were fetched.
    pub fn fetched(&self, objects: u64, bytes: u64) {
        self.objects.inc_by(objects);
        self.bytes.inc_by(bytes);
    }

    /// Counts a leaf that is not what its records come to.
    pub fn mismatched(&self) {
        self.mismatches.inc();
    }

    /// Counts frontiers that vouched for what is not there.
    pub fn lied(&self, frontiers: u64) {
        self.lies.inc_by(frontiers);
    }

    /// All was read again.
    pub fn scrubbed(&self) {
        self.scrubs.inc();
    }

    /// Counts records that were read again.
    pub fn reread(&self, records: u64) {
        self.reread.inc_by(records);
    }

    /// Counts a comparison that failed.
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
        let metrics = TreeMetrics::register(&mut registry);
        metrics.ended();
        metrics.compared(2);
        metrics.differing(4);
        metrics.fetched(3, 300);
        metrics.mismatched();
        metrics.lied(1);
        metrics.scrubbed();
        metrics.reread(9);
        metrics.failed();
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        for line in [
            "trees_rounds_total 1",
            "trees_compared_total 2",
            "trees_differing_leaves_total 4",
            "trees_objects_total 3",
            "trees_objects_bytes_total 300",
            "trees_mismatches_total 1",
            "frontier_lies_total 1",
            "scrub_rounds_total 1",
            "scrub_records_total 9",
            "trees_failures_total 1",
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
    }
}
