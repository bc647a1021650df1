//! Making a cluster: the one act that nodes never do by themselves.
//!
//! ```text
//!   every member: no cluster                    make document 1, give it to all
//!   some: cluster X, of exactly these members   an earlier run was cut short: give X's to the rest
//!   all:  cluster X, of exactly these members   nothing to do
//!   anything else                               refuse, and touch nothing
//! ```
//!
//! So it may be run again until it succeeds. Whoever made a second cluster id for half of the
//! members would split them for ever, which is why all of them must answer before any is changed.

mod plan;
mod report;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use rand::TryRng;
use rand::rngs::SysRng;
use thiserror::Error;

pub use self::plan::{Plan, plan};
pub use self::report::Report;
use crate::config;
use crate::dynamo::key::{NodeId, PartitionCount, PartitionCountError};
use crate::dynamo::metadata::Document;
use crate::dynamo::metadata::document::{
    ClusterId, ClusterKey, DocumentError, FirstDocument, Member, VOTERS_MAX,
};
use crate::transport::grpc::{Dialer, Identity, IntroduceError};
pub use crate::transport::tls::Files;
use crate::transport::tls::{Port, PortTls};

/// What is asked of nodes by their peer address, each within a deadline.
pub trait Contact: Sync {
    /// Who are you?
    fn identify<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<Identity, IntroduceError>>;
    /// What is your newest document?
    fn document<'a>(
        &'a self,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bytes>, IntroduceError>>;
    /// This is your document. A node that has one of the same cluster keeps it and agrees.
    fn bootstrap<'a>(
        &'a self,
        address: &'a str,
        document: Bytes,
    ) -> BoxFuture<'a, Result<(), IntroduceError>>;
}

/// Asks over the network, with TLS or without.
#[derive(Clone, Default, Debug)]
pub struct Network(Dialer);

impl Network {
    /// With the certificate and key of any node, and the CA; without TLS if there are none.
    pub fn new(files: Option<Files>) -> Result<Self, InitError> {
        let load = |files| PortTls::load(Port::Peer, files, None);
        let tls = files.map(load).transpose();
        let tls = tls.map_err(|error| InitError::Tls { reason: error.to_string() })?;
        Ok(Self(Dialer::new(tls)))
    }
}

impl Contact for Network {
    fn identify<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<Identity, IntroduceError>> {
        self.0.identify(address).boxed()
    }

    fn document<'a>(
        &'a self,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bytes>, IntroduceError>> {
        self.0.fetch_document(address).boxed()
    }

    fn bootstrap<'a>(
        &'a self,
        address: &'a str,
        document: Bytes,
    ) -> BoxFuture<'a, Result<(), IntroduceError>> {
        self.0.bootstrap(address, document).boxed()
    }
}

/// What the cluster is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitOptions {
    /// The members' peer addresses.
    pub members: Vec<String>,
    /// Q, if it was asked for.
    pub partitions: Option<PartitionCount>,
    /// Names of the voters; empty: chosen.
    pub voters: Vec<String>,
}

impl InitOptions {
    /// Checks what the command line gave.
    pub fn new(
        members: Vec<String>,
        partitions: Option<u64>,
        voters: Vec<String>,
    ) -> Result<Self, InitError> {
        let partitions = partitions.map(PartitionCount::new).transpose()?;
        for (at, address) in members.iter().enumerate() {
            let known = members[..at].contains(address);
            let reason = known.then(|| "is named twice".to_owned());
            let reason = reason.or_else(|| config::check_reachable(address).err());
            if let Some(reason) = reason {
                return Err(InitError::Address { address: address.clone(), reason });
            }
        }
        if members.is_empty() {
            return Err(InitError::NoMembers);
        }
        Ok(Self { members, partitions, voters })
    }
}

/// Why there is no cluster. Unless it says otherwise, nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum InitError {
    /// Name at least one.
    #[error("a cluster needs at least one member; name their peer addresses")]
    NoMembers,
    /// Correct the address.
    #[error("member {address:?} {reason}")]
    Address { address: String, reason: String },
    /// Correct the files.
    #[error("{reason}")]
    Tls { reason: String },
    /// Choose another number.
    #[error(transparent)]
    Partitions(#[from] PartitionCountError),
    /// Start them, or correct their addresses.
    #[error(
        "{} cannot be reached; nothing was changed: {}, then run this again{}",
        count(failed.len(), "member"), remedy(failed), reasons(failed)
    )]
    Unreachable { failed: Vec<IntroduceError> },
    /// Give one of them another name.
    #[error(
        "{first} and {second} are both called {name:?}; nothing was changed: set another node_name \
         at one of them, or name each node once"
    )]
    SameNode { name: String, first: String, second: String },
    /// Leave the foreign ones out, or give them an empty data directory.
    #[error(
        "the members belong to different clusters already; nothing was changed: leave out those of \
         another cluster, or give them empty data directories{}",
        clusters(members)
    )]
    Clusters { members: Vec<(String, ClusterId)> },
    /// Name exactly its members to complete it; members are not added by `init`.
    #[error(
        "{address} belongs to cluster {cluster} already, whose members are {}; nothing was \
         changed: to complete that cluster, name exactly their addresses, else leave {address} out",
        members.join(", ")
    )]
    OtherMembers { address: String, cluster: ClusterId, members: Vec<String> },
    /// The member that has the cluster's document did not give it.
    #[error("{address} has the cluster's document, but did not send it: {reason}")]
    NoDocument { address: String, reason: String },
    /// Name members.
    #[error("voter {name:?} is no member; the members are {}", members.join(", "))]
    UnknownVoter { name: String, members: Vec<String> },
    /// Name each once.
    #[error("voter {name:?} is named twice")]
    RepeatedVoter { name: String },
    /// Name fewer.
    #[error("{voters} voters are too many: at most {VOTERS_MAX}, and 3 or 5 are enough")]
    TooManyVoters { voters: usize },
    /// What the members say of themselves makes no document.
    #[error("these members make no cluster: {0}")]
    Document(#[from] DocumentError),
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers: {0}")]
    Random(String),
    /// Members may or may not have the document. Run the same command again.
    #[error(
        "no member is known to have taken the cluster's document; run the same command again, \
         which completes what was begun{}",
        reasons(failed)
    )]
    NotTaken { failed: Vec<IntroduceError> },
    /// Some members have the document. Run the same command again.
    #[error(
        "cluster {cluster} is made, but {} did not take its document; {} did. Run the same command \
         again, which gives it to the rest{}",
        count(failed.len(), "member"), taken.join(", "), reasons(failed)
    )]
    Partial { cluster: ClusterId, taken: Vec<String>, failed: Vec<IntroduceError> },
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn remedy(failed: &[IntroduceError]) -> &'static str {
    let other_port = |error: &&IntroduceError| matches!(error, IntroduceError::OtherPort { .. });
    match failed.iter().filter(other_port).count() {
        0 => "start every member",
        all if all == failed.len() => "name the members' peer addresses",
        _ => "start every member, name the members' peer addresses",
    }
}

fn reasons(failed: &[IntroduceError]) -> String {
    failed.iter().map(|error| format!("\n  {error}")).collect()
}

fn clusters(members: &[(String, ClusterId)]) -> String {
    members.iter().map(|(address, cluster)| format!("\n  {address}: cluster {cluster}")).collect()
}

/// Makes the cluster, or completes it.
pub async fn run(contact: &impl Contact, options: &InitOptions) -> Result<Report, InitError> {
    let identities = identify(contact, &options.members).await?;
    match plan(&identities, &options.voters)? {
        Plan::Create { members, voters } => {
            let document = Document::first(FirstDocument {
                cluster: ClusterId(random()?),
                cluster_key: ClusterKey(random()?),
                partitions: options.partitions.map_or_else(default_partitions, Ok)?,
                members,
                voters,
            })?;
            give(contact, &document, &options.members, Vec::new()).await
        }
        Plan::Complete { cluster, source, missing } => {
            let document = fetch(contact, &source).await?;
            let mut named: Vec<NodeId> = identities.iter().map(|(_, id)| id.node).collect();
            named.sort();
            if !named.iter().eq(document.members.iter().map(|member| &member.node)) {
                let named = |m: Member| format!("{} ({})", m.peer_address, m.name);
                let members = document.members.into_iter().map(named).collect();
                return Err(InitError::OtherMembers { address: source, cluster, members });
            }
            let had = |address: &&String| !missing.contains(*address);
            let kept = options.members.iter().filter(had).cloned().collect();
            let asked = options.partitions.map(PartitionCount::get);
            let report = give(contact, &document, &missing, kept).await?;
            Ok(Report { asked: asked.filter(|&asked| asked != report.partitions), ..report })
        }
    }
}

/// Enough for a hundred nodes, and few enough for one.
fn default_partitions() -> Result<PartitionCount, InitError> {
    Ok(PartitionCount::new(256)?)
}

async fn identify(
    contact: &impl Contact,
    members: &[String],
) -> Result<Vec<(String, Identity)>, InitError> {
    let answers = join_all(members.iter().map(|address| contact.identify(address))).await;
    let (mut identities, mut failed) = (Vec::new(), Vec::new());
    for (address, answer) in members.iter().cloned().zip(answers) {
        match answer {
            Ok(identity) => identities.push((address, identity)),
            Err(error) => failed.push(error),
        }
    }
    if failed.is_empty() { Ok(identities) } else { Err(InitError::Unreachable { failed }) }
}

async fn fetch(contact: &impl Contact, source: &str) -> Result<Document, InitError> {
    let no_document = |reason| InitError::NoDocument { address: source.to_owned(), reason };
    match contact.document(source).await {
        Ok(Some(bytes)) => Document::decode(bytes).map_err(|error| no_document(error.to_string())),
        Ok(None) => Err(no_document("it says that it has none".to_owned())),
        Err(error) => Err(no_document(error.to_string())),
    }
}

/// Gives the document to `missing`; `kept` have it.
async fn give(
    contact: &impl Contact,
    document: &Document,
    missing: &[String],
    kept: Vec<String>,
) -> Result<Report, InitError> {
    let bytes = document.encode();
    let gifts = missing.iter().map(|address| contact.bootstrap(address, bytes.clone()));
    let (mut taken, mut failed) = (Vec::new(), Vec::new());
    for (address, answer) in missing.iter().cloned().zip(join_all(gifts).await) {
        match answer {
            Ok(()) => taken.push(address),
            Err(error) => failed.push(error),
        }
    }
    if failed.is_empty() {
        return Ok(Report::new(document, taken, kept));
    }
    taken.extend(kept);
    Err(match taken.is_empty() {
        true => InitError::NotTaken { failed },
        false => InitError::Partial { cluster: document.cluster, taken, failed },
    })
}

fn random<const N: usize>() -> Result<[u8; N], InitError> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| InitError::Random(error.to_string()))?;
    Ok(bytes)
}
