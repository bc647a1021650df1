//! Metrics of TLS: when certificates end, whether new ones were taken, who was refused.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct PortLabels {
    port: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RefusedLabels {
    port: &'static str,
    cause: &'static str,
}

/// They show from the moment on that a port has TLS. Ports are named as
/// [`Port::name`](crate::transport::tls::Port::name) does.
#[derive(Debug)]
pub struct TlsMetrics {
    expiry: Family<PortLabels, Gauge>,
    reloads: Family<PortLabels, Counter>,
    reload_failures: Family<PortLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
}

impl TlsMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            expiry: Family::default(),
            reloads: Family::default(),
            reload_failures: Family::default(),
            refused: Family::default(),
        };
        let help = "When the certificate in use ends, since the Unix epoch";
        let name = "tls_certificate_expiry_timestamp";
        registry.register_with_unit(name, help, Unit::Seconds, metrics.expiry.clone());
        let help = "Changes of certificates that were taken";
        registry.register("tls_reloads", help, metrics.reloads.clone());
        let help = "Changes of certificates that were of no use; the old ones are kept";
        registry.register("tls_reload_failures", help, metrics.reload_failures.clone());
        let help = "Connections refused before they were within TLS, by cause";
        registry.register("tls_refused", help, metrics.refused.clone());
        metrics
    }

    /// A port begins with a certificate that ends at `expiry`, in seconds since the Unix epoch.
    pub fn started(&self, port: &'static str, expiry: i64) {
        let labels = PortLabels { port };
        self.expiry.get_or_create(&labels).set(expiry);
        // Zeros, so that an alarm on their growth sees the first one.
        drop(self.reloads.get_or_create(&labels));
        drop(self.reload_failures.get_or_create(&labels));
    }

    /// A port has a new certificate, which ends at `expiry`, in seconds since the Unix epoch.
    pub fn reloaded(&self, port: &'static str, expiry: i64) {
        let labels = PortLabels { port };
        self.expiry.get_or_create(&labels).set(expiry);
        self.reloads.get_or_create(&labels).inc();
    }

    /// New files of a port were of no use.
    pub fn reload_failed(&self, port: &'static str) {
        self.reload_failures.get_or_create(&PortLabels { port }).inc();
    }

    /// A connection to a port was refused.
    pub fn refused(&self, port: &'static str, cause: &'static str) {
        self.refused.get_or_create(&RefusedLabels { port, cause }).inc();
    }
}
