//! The TLS of a node's ports, by its configuration, and its files as they change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::env::Env;
use crate::telemetry::Metrics;
use crate::transport::tls::{Certificate, Files, Port, PortTls, Reload, TlsError, TlsObserver};

/// How often the files are read: six small ones, which costs nothing, and needs no signal from
/// whoever replaces them. What is bad is told after two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What protects each port; none: nothing does.
#[derive(Clone, Debug)]
pub struct Security {
    /// Of the client port.
    pub client: Option<Arc<PortTls>>,
    /// Of the peer port.
    pub peer: Option<Arc<PortTls>>,
}

impl Security {
    /// Reads what the configuration names.
    pub fn load(config: &Config) -> Result<Self, TlsError> {
        let set = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_path_buf());
        let client = set(&config.client_tls_cert).map(|certificate| {
            let (key, ca) = (config.client_tls_key.clone(), set(&config.client_tls_ca));
            PortTls::load(Port::Client, Files { certificate, key, ca }, None)
        });
        let peer = set(&config.peer_tls_cert).map(|certificate| {
            let (key, ca) = (config.peer_tls_key.clone(), set(&config.peer_tls_ca));
            let name = config.node_name.clone();
            PortTls::load(Port::Peer, Files { certificate, key, ca }, Some(name))
        });
        Ok(Self { client: client.transpose()?, peer: peer.transpose()? })
    }

    /// The ports that have TLS.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<PortTls>> {
        self.client.iter().chain(&self.peer)
    }

    /// Takes new files when there are any, until `stop`.
    pub(super) async fn follow(self, env: Env, metrics: Arc<Metrics>, stop: CancellationToken) {
        for tls in self.ports() {
            let certificate = tls.certificate();
            metrics.tls().started(tls.port().name(), certificate.not_after);
            tell(tls, &certificate, "TLS");
        }
        if self.ports().next().is_none() {
            return;
        }
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            for tls in self.ports() {
                look(tls.clone(), &env, &metrics).await;
            }
        }
    }
}

async fn look(tls: Arc<PortTls>, env: &Env, metrics: &Metrics) {
    let (port, looked) = (tls.port(), tls.clone());
    match env.block(move || looked.reload()).await {
        Reload::Unchanged => {}
        Reload::Taken(certificate) => {
            metrics.tls().reloaded(port.name(), certificate.not_after);
            tell(&tls, &certificate, "new TLS files serve from the next connection on");
        }
        Reload::Failed(error) => {
            metrics.tls().reload_failed(port.name());
            tracing::error!(
                port = port.name(),
                "new TLS files are of no use, the old stay: {error}"
            );
        }
    }
}

fn tell(tls: &PortTls, certificate: &Certificate, what: &str) {
    let (port, expires) = (tls.port().name(), &certificate.expires);
    if let Some(error) = tls.untrusted() {
        tracing::error!(port, %certificate, "{error}");
    }
    match certificate.invalid_now() {
        None => tracing::info!(port, %certificate, expires, "{what}"),
        Some(reason) => {
            tracing::error!(port, %certificate, "the certificate {reason}: nobody accepts it");
        }
    }
}

impl TlsObserver for Metrics {
    fn refused(&self, port: Port, cause: &'static str) {
        self.tls().refused(port.name(), cause);
    }
}
