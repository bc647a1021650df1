//! Gossip that has arrived, and waits to be heard.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::dynamo::key::NodeId;

/// Messages that wait to be heard; more are lost, as on any network.
const INBOX: usize = 256;

/// A message, and of which node it is.
pub type Datagram = (NodeId, Bytes);

/// Where messages of other nodes are left.
#[derive(Clone, Debug)]
pub struct Inbox(mpsc::Sender<Datagram>);

impl Inbox {
    /// One, and what is left there.
    pub fn new() -> (Self, mpsc::Receiver<Datagram>) {
        let (sender, receiver) = mpsc::channel(INBOX);
        (Self(sender), receiver)
    }

    /// Leaves a message, if there is room.
    pub fn offer(&self, from: NodeId, datagram: Bytes) {
        if self.0.try_send((from, datagram)).is_err() {
            tracing::debug!(%from, "gossip was lost: too much of it waits");
        }
    }
}
