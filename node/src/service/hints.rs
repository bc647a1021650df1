//! Which hints all members keep, as far as they can be asked.

use std::time::Duration;

use futures::future::join_all;
use quorate_proto::v1;
use tokio::time::{Instant, sleep};

use crate::cluster::view::View;
use crate::coordinator::Coordinator;
use crate::dynamo::key::NodeId;
use crate::transport::{HintQueue, Hints, PeerError, Reply, Request};

/// How long a member may take: the list is in memory, so one that takes longer is not there.
const MEMBER_MAX: Duration = Duration::from_secs(2);

/// How long a member is waited for that is not connected: where this node, or that one, stood still, they
/// are before long; and how long between two looks.
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Asks all members at once; the answer is there before `timeout`.
pub(super) async fn of_all_members(
    coordinator: &Coordinator,
    view: &View,
    timeout: Duration,
) -> v1::HintsReply {
    let wait = MEMBER_MAX.min(timeout * 3 / 4);
    let members = view.document().members.iter();
    let asked = members
        .map(|member| async move { (member, of_member(coordinator, member.node, wait).await) });
    let mut reply = v1::HintsReply::default();
    for (member, told) in join_all(asked).await {
        match told {
            Some(Hints { queues, full }) => {
                let queues = queues.into_iter().map(|queue| message(member.node, queue));
                reply.queues.extend(queues);
                reply.full.extend(full.then(|| member.name.clone()));
            }
            None => reply.unreachable.push(member.name.clone()),
        }
    }
    reply
}

/// What one member keeps; none if it does not answer, or does not know all of it.
async fn of_member(coordinator: &Coordinator, node: NodeId, wait: Duration) -> Option<Hints> {
    if node == coordinator.node() {
        return coordinator.shards().all_hints().ok();
    }
    let until = Instant::now() + CONNECTED_WITHIN.min(wait);
    loop {
        match coordinator.peers().request(node, Request::Hints, wait).await {
            Ok(Reply::Hints(hints)) => return Some(hints),
            Err(PeerError::Disconnected { .. } | PeerError::Broken) if Instant::now() < until => {
                sleep(RETRY_AFTER).await;
            }
            _ => return None,
        }
    }
}

fn message(holder: NodeId, queue: HintQueue) -> v1::HintQueue {
    let HintQueue { target, count, bytes, oldest_ms, first, last } = queue;
    v1::HintQueue { holder: holder.0, target: target.0, count, bytes, oldest_ms, first, last }
}
