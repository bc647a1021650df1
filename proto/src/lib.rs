//! Wire formats of Quorate.
//!
//! [`v1`] is the public gRPC interface; it only ever grows. [`peer`] is what replicas say to each
//! other; it is versioned by its handshake and shares no message with the public interface, so
//! that either can change without the other. [`size`] is what all programs read alike beside them.

pub mod size;

/// The public interface, package `quorate.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
pub mod v1 {
    tonic::include_proto!("quorate.v1");

    /// The encoded descriptor set of this package, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));
}

/// Replica to replica, package `quorate.peer.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
pub mod peer {
    tonic::include_proto!("quorate.peer.v1");
}
