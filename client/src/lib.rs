//! Client SDK for Quorate, a leaderless Dynamo-style key-value store.
//!
//! A [`Client`] learns the cluster's topology from any node, then sends each key to a node that
//! holds it. Replies that show the topology to be stale make it learn anew; failures are retried
//! under one deadline, by rules under which a write is never applied twice unless you allow it.
//!
//! ```no_run
//! use quorate_client::{Client, ClientConfig, GetOptions, NamespaceSpec, PutOptions};
//!
//! # async fn quickstart() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientConfig::new(["127.0.0.1:7401"])).await?;
//! client.create_namespace(NamespaceSpec::new("carts")).await?;
//! let carts = client.namespace("carts");
//!
//! let written = carts.put("ann", "2 apples", PutOptions::default()).await?;
//! // The context says which value the next write replaces. Without one, both would stand.
//! let replaces = PutOptions { context: written.context, ..PutOptions::default() };
//! carts.put("ann", "3 apples", replaces).await?;
//!
//! for sibling in carts.get("ann", GetOptions::default()).await?.siblings {
//!     println!("{}", String::from_utf8_lossy(&sibling.value));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The rest in the order of reading: [`Namespace`] reads and writes, [`Read`] and [`Written`] are
//! what it answers, [`Error`] and [`WriteError`] what went wrong, [`Topology`] who holds what.
//! A runtime of tokio with time and IO enabled is required.

mod batch;
mod client;
mod connection;
mod error;
mod hints;
mod level;
mod namespace;
mod operation;
mod options;
mod outcome;
mod resolve;
mod retry;
mod route;
mod scan;
mod staleness;
mod throttle;
mod tls;
mod token;
mod topology;
mod ttl;
mod turns;
mod welcome;
mod write;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use client::{ChangedNamespace, Client, ClientConfig};
pub use error::{Error, ErrorKind, WriteError};
pub use hints::{HintQueue, Hints};
pub use level::{Durability, Level, ParseLevelError, Quorum};
pub use namespace::Namespace;
pub use operation::OperationId;
pub use options::{
    BatchEntry, BatchOptions, DeleteOptions, ExpireOptions, GetOptions, NamespaceSpec,
    NamespaceUpdate, PutOptions, Repair, Retry, ScanOptions, UpdateOptions,
};
pub use outcome::{
    Deleted, Expired, Read, Receipt, Resolution, Resolved, ScanItem, Sibling, StandIn, Updated,
    Written,
};
pub use staleness::{Arrivals, Staleness, Way};
pub use tls::TlsConfig;
pub use token::{Context, Cursor, ParseTokenError};
pub use topology::{
    CatchingUp, ConflictRule, Doubt, Member, MemberState, NamespaceDescription, Rebuild, Topology,
    Vote,
};
pub use ttl::Ttl;
