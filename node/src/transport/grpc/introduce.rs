//! Before there is a cluster: who a node is, its first document, and the newest one.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use quorate_proto::peer as proto;
use quorate_proto::peer::peer_client::PeerClient;
use thiserror::Error;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::FRAME_MAX_BYTES;
use super::dialer::{Dialed, Dialer, why};
use crate::dynamo::key::NodeId;
use crate::error::RequestError;
use crate::transport::tls::Certificate;
use crate::transport::wire::{self, PROTOCOL};

/// How long one of these calls may take: a document is synced to disk before the answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a node says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Derived from the name.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Its relative share of the data.
    pub weight: u32,
    /// Its store: a random number made with it.
    pub store: u64,
    /// Where other nodes reach it, "host:port".
    pub peer_address: String,
    /// Where clients do.
    pub client_address: String,
    /// Its cluster, if it has one.
    pub cluster: Option<[u8; 16]>,
    /// The version of the newest document it knows; 0: none.
    pub version: u64,
}

/// What a node does for those it shares no cluster with yet.
pub trait Bootstrap: Send + Sync + 'static {
    /// Who it is.
    fn identify(&self) -> Identity;

    /// Takes the first document, in its canonical encoding; returns once it is on disk.
    fn bootstrap(&self, document: Bytes) -> BoxFuture<'static, Result<(), RequestError>>;

    /// The newest document it knows, in its canonical encoding.
    fn document(&self) -> Option<Bytes>;
}

/// Why a node could not be asked, or refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum IntroduceError {
    /// Nobody answered there. Whether a document was taken is unknown.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// The address asked.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// Something else than a node's peer port answered there. Nothing was taken.
    #[error(
        "{address} is no node's address for peers: something else listens there, as a node does for \
         clients; name the peer_address, whose port is 7501 by default"
    )]
    OtherPort {
        /// The address asked.
        address: String,
    },
    /// Whoever answered there speaks another protocol.
    #[error("{address} answers what this release does not understand: {reason}")]
    Malformed {
        /// The address asked.
        address: String,
        /// What was wrong.
        reason: String,
    },
    /// The node introduces itself by another name than its certificate's.
    #[error("{address} introduces itself as {name} with the certificate of {names}")]
    Certificate {
        /// The address asked.
        address: String,
        /// Who it says it is.
        name: String,
        /// Whom its certificate names.
        names: String,
    },
    /// The node did not take the document.
    #[error("{address} refused: {error}")]
    Refused {
        /// The address asked.
        address: String,
        /// Why.
        error: RequestError,
    },
}

impl Dialer {
    /// Asks who answers at `address` ("host:port").
    pub async fn identify(&self, address: &str) -> Result<Identity, IntroduceError> {
        let (mut client, certificate) = self.introduce(address).await?;
        let reply = client.identify(proto::IdentifyRequest {}).await;
        let reply = reply.map_err(|status| failed(address, &status))?;
        let identity =
            decode_identity(reply.into_inner()).map_err(|reason| malformed(address, reason))?;
        match certificate.filter(|certificate| !certificate.is_of(identity.node)) {
            None => Ok(identity),
            Some(certificate) => {
                let (address, name) = (address.to_owned(), identity.name);
                let names = certificate.nodes.join(", ");
                Err(IntroduceError::Certificate { address, name, names })
            }
        }
    }

    /// Gives the node at `address` the first document, in its canonical encoding.
    pub async fn bootstrap(&self, address: &str, document: Bytes) -> Result<(), IntroduceError> {
        let (mut client, _) = self.introduce(address).await?;
        let reply = client.bootstrap(proto::BootstrapRequest { document }).await;
        let reply = reply.map_err(|status| failed(address, &status))?;
        let Some(failure) = reply.into_inner().failure else { return Ok(()) };
        let (error, _) =
            wire::decode_failure(failure).map_err(|flaw| malformed(address, flaw.to_string()))?;
        Err(IntroduceError::Refused { address: address.to_owned(), error })
    }

    /// The newest document that the node at `address` knows, in its canonical encoding.
    pub async fn fetch_document(&self, address: &str) -> Result<Option<Bytes>, IntroduceError> {
        let (mut client, _) = self.introduce(address).await?;
        let reply = client.fetch_document(proto::FetchDocumentRequest {}).await;
        let document = reply.map_err(|status| failed(address, &status))?;
        let document = document.into_inner().document;
        Ok((!document.is_empty()).then_some(document))
    }

    async fn introduce(
        &self,
        address: &str,
    ) -> Result<(PeerClient<Channel>, Option<Certificate>), IntroduceError> {
        let dialed = self.dial(address, None, Some(CALL_TIMEOUT)).await;
        let Dialed { channel, certificate } =
            dialed.map_err(|reason| unreachable(address, reason))?;
        let client = PeerClient::new(channel).max_decoding_message_size(FRAME_MAX_BYTES);
        Ok((client, certificate))
    }
}

fn unreachable(address: &str, reason: String) -> IntroduceError {
    IntroduceError::Unreachable { address: address.to_owned(), reason }
}

fn failed(address: &str, status: &Status) -> IntroduceError {
    match status.code() {
        // What serves gRPC without this service says so, and tonic says it for what serves none.
        Code::Unimplemented => IntroduceError::OtherPort { address: address.to_owned() },
        _ => unreachable(address, why(status)),
    }
}

fn malformed(address: &str, reason: String) -> IntroduceError {
    IntroduceError::Malformed { address: address.to_owned(), reason }
}

pub(super) fn encode_identity(identity: Identity) -> proto::IdentifyReply {
    proto::IdentifyReply {
        protocol: PROTOCOL,
        node: identity.node.0,
        name: identity.name,
        zone: identity.zone,
        weight: identity.weight,
        store: identity.store,
        peer_address: identity.peer_address,
        client_address: identity.client_address,
        cluster: identity.cluster.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id)),
        version: identity.version,
    }
}

fn decode_identity(reply: proto::IdentifyReply) -> Result<Identity, String> {
    if reply.protocol != PROTOCOL {
        return Err(format!("protocol {}, not {PROTOCOL}", reply.protocol));
    }
    let cluster = match <[u8; 16]>::try_from(&reply.cluster[..]) {
        Ok(cluster) => Some(cluster),
        Err(_) if reply.cluster.is_empty() => None,
        Err(_) => return Err(format!("a cluster id of {} bytes", reply.cluster.len())),
    };
    Ok(Identity {
        node: NodeId(reply.node),
        name: reply.name,
        zone: reply.zone,
        weight: reply.weight,
        store: reply.store,
        peer_address: reply.peer_address,
        client_address: reply.client_address,
        cluster,
        version: reply.version,
    })
}
