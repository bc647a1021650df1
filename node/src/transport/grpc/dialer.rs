//! How other nodes are dialed: as they are, or within TLS.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use super::{
    HANDSHAKE_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, WINDOW_BYTES, causes, reason,
};
use crate::dynamo::key::NodeId;
use crate::transport::tls::{self, Certificate, PortTls};

/// Dials other nodes. Clones share one TLS, whose present certificates each attempt takes.
#[derive(Clone, Default, Debug)]
pub struct Dialer {
    tls: Option<Arc<PortTls>>,
}

/// A connection to whoever answers at an address.
pub(super) struct Dialed {
    pub(super) channel: Channel,
    /// The certificate of the other end, which was accepted; none without TLS.
    pub(super) certificate: Option<Certificate>,
}

impl Dialer {
    /// With the TLS of the peer port, or without any.
    pub fn new(tls: Option<Arc<PortTls>>) -> Self {
        Self { tls }
    }

    /// Connects to `address` ("host:port"), where `expected` must be if it is named and there is
    /// TLS. Each call on the channel may take as long as `call_timeout`.
    pub(super) async fn dial(
        &self,
        address: &str,
        expected: Option<NodeId>,
        call_timeout: Option<Duration>,
    ) -> Result<Dialed, String> {
        let shown = Arc::new(OnceLock::new());
        let endpoint = match &self.tls {
            None => endpoint("http", address),
            Some(tls) => {
                let (config, verifier) = tls.dialing(expected, shown.clone());
                // The name is not checked, but a server may ask for one. It would read an address
                // in brackets as a name.
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let config = config.domain_name(host).timeout(HANDSHAKE_TIMEOUT);
                endpoint("https", address)
                    .and_then(|it| it.tls_config_with_verifier(config, Arc::new(verifier)))
            }
        };
        let endpoint = endpoint.map_err(|error| causes(&error))?;
        let endpoint = match call_timeout {
            Some(limit) => endpoint.timeout(limit),
            None => endpoint,
        };
        let channel = endpoint.connect().await.map_err(|error| explained(causes(&error)))?;
        Ok(Dialed { channel, certificate: shown.get().cloned() })
    }
}

/// Why a call on a dialed channel failed. With TLS 1.3 the other end may refuse our certificate
/// only after the connection stands here, so that the first call hears of it.
pub(super) fn why(status: &tonic::Status) -> String {
    explained(reason(status))
}

fn explained(text: String) -> String {
    tls::explain(&text).unwrap_or(text)
}

/// The other end of [`super::server`], at `address` ("host:port").
fn endpoint(scheme: &str, address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("{scheme}://{address}"))?
        .tcp_nodelay(true)
        .connect_timeout(HANDSHAKE_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}
