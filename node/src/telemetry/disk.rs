//! Metrics of the disk: how much is free, and whether writes are refused for its sake.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::metrics::gauge;

/// The handles.
#[derive(Debug)]
pub struct DiskMetrics {
    free: Gauge,
    refuses_writes: Gauge,
    cut_off: Gauge,
}

impl DiskMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            free: Gauge::default(),
            refuses_writes: Gauge::default(),
            cut_off: Gauge::default(),
        };
        let help = "What is free on the file system of the data directory";
        registry.register_with_unit("disk_free", help, Unit::Bytes, metrics.free.clone());
        let help = "1 while writes are refused since the disk is full or failed; else 0";
        registry.register("disk_refuses_writes", help, metrics.refuses_writes.clone());
        let help =
            "What the last opening of the store cut off its log, unreadable and never synced";
        registry.register_with_unit("engine_cut_off", help, Unit::Bytes, metrics.cut_off.clone());
        metrics
    }

    /// How much is free now.
    pub fn free_bytes(&self, bytes: u64) {
        self.free.set(gauge(bytes));
    }

    /// Whether writes are refused now.
    pub fn refuses_writes(&self, refuses: bool) {
        self.refuses_writes.set(refuses.into());
    }

    /// How much the present opening cut off.
    pub fn cut_off_bytes(&self, bytes: u64) {
        self.cut_off.set(gauge(bytes));
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::Metrics;

    #[test]
    fn every_metric_shows() {
        let metrics = Metrics::new();
        metrics.disk().free_bytes(1 << 30);
        metrics.disk().refuses_writes(true);
        metrics.disk().cut_off_bytes(17);
        let page = metrics.encode();
        for line in
            ["disk_free_bytes 1073741824", "disk_refuses_writes 1", "engine_cut_off_bytes 17"]
        {
            assert!(page.contains(&format!("quorate_{line}\n")), "{line} is not in:\n{page}");
        }
    }
}
