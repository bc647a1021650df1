//! Being written.

/// The secret of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClusterKey(pub [u8; 32]);
