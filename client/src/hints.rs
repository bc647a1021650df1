//! The hints that members keep for each other.

use std::{sync::Arc, time::Duration};

use quorate_proto::v1;

use crate::{
    client::Client,
    connection::Connection,
    error::Error,
    retry::server_ms,
    topology::{Member, Topology},
};

/// What members keep for others that missed it, and send home once these are there.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Hints {
    /// One queue for each holder and target that have any.
    pub queues: Vec<HintQueue>,
    /// Members that did not answer: what they keep is not among the queues.
    pub unreachable: Vec<String>,
    /// Members that keep no more, since there are `hints_max_bytes` of hints: the last one that came was
    /// refused, and there is still no room for it.
    pub full: Vec<String>,
}

/// The hints that one member keeps for another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HintQueue {
    /// The name of who keeps them.
    pub holder: String,
    /// And of whom they are for; its id, if that is no member any more.
    pub target: String,
    /// How many keys.
    pub count: u64,
    /// Of keys and objects.
    pub bytes: u64,
    /// How long ago the oldest was taken in.
    pub oldest: Duration,
    /// The number of the first in the queue. A hint that was delivered has none, and each new one has
    /// a higher one than all before.
    pub first: u64,
    /// And of the last: what is there now is delivered once the first number is above this one.
    pub last: u64,
}

impl HintQueue {
    fn of(wire: v1::HintQueue, topology: &Topology) -> Self {
        let v1::HintQueue { holder, target, count, bytes, oldest_ms, first, last } = wire;
        let [holder, target] = [holder, target].map(|node| topology.name_of(node));
        Self { holder, target, count, bytes, oldest: Duration::from_millis(oldest_ms), first, last }
    }
}

impl Client {
    /// Which hints the members keep for each other, as far as the node that is asked reaches them.
    pub async fn hints(&self) -> Result<Hints, Error> {
        let deadline = self.0.deadline(None);
        let call = |node: Arc<Connection>, limit| async move {
            let mut cluster = node.cluster();
            let hints = |left| async move {
                cluster.hints(v1::HintsRequest { timeout_ms: server_ms(left) }).await
            };
            node.call(limit, hints).await
        };
        let reply = self.0.ask(self.0.any(), deadline, call).await?;
        let routes = self.0.routes();
        let v1::HintsReply { queues, unreachable, full } = reply;
        let queues = queues.into_iter().map(|queue| HintQueue::of(queue, &routes.topology));
        Ok(Hints { queues: queues.collect(), unreachable, full })
    }

    /// The member of this name, by the newest topology if an older one does not name it.
    pub async fn member(&self, name: &str) -> Result<Member, Error> {
        self.0.member(name, self.0.deadline(None)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, fake::Fakes};

    #[tokio::test]
    async fn members_have_names_and_others_ids() {
        let fakes = Fakes::start(&[]).await;
        let wire =
            |target| v1::HintQueue { holder: 1, target, oldest_ms: 90, ..Default::default() };
        let reply = v1::HintsReply {
            queues: [2, 255].map(wire).to_vec(),
            unreachable: vec!["n2".to_owned()],
            full: vec!["n0".to_owned()],
        };
        fakes.hints.lock().unwrap().push_back(reply);
        let client = fakes.client().await;
        let Hints { queues, unreachable, full } = client.hints().await.unwrap();
        let names = queues.iter().map(|queue| (&*queue.holder, &*queue.target));
        assert_eq!(names.collect::<Vec<_>>(), [("n0", "n1"), ("n0", "00000000000000ff")]);
        assert_eq!(queues[0].oldest, Duration::from_millis(90));
        assert_eq!((unreachable, full), (vec!["n2".to_owned()], vec!["n0".to_owned()]));
        assert_eq!(client.member("n1").await.unwrap().id, 2);
        assert_eq!(client.member("n9").await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
