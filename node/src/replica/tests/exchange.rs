//! Partitions that are fetched as a whole from an owner that a test plays.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::dynamo::exchange::{Answer, Told, fingerprint};
use crate::dynamo::frontier::Frontier;
use crate::dynamo::key::VnodeId;

/// Both are in one partition.
const KEYS: [&str; 2] = ["{tag}a", "{tag}b"];

fn key(of: usize) -> Key {
    Key::new(KEYS[of]).unwrap()
}

fn vnode() -> VnodeId {
    let hash = key(0).hash(document().namespaces[0].id);
    let partitions = PartitionCount::new(PARTITIONS as u64).unwrap();
    VnodeId { n: 3, partition: hash.partition(partitions) }
}

/// What an owner that wrote so many of the keys has seen.
fn seen(writes: u64) -> Frontier {
    (1..=writes).map(|n| Dot { actor: Actor(7), n }).collect()
}

/// An owner that is restarted once it has told the first of its keys, and writes the second one then. Its
/// log knows no key.
struct Restarting {
    others: Others,
    told: AtomicU64,
}

impl Restarting {
    /// How many of the keys it holds, which tells its openings apart, too.
    fn holds(&self) -> u64 {
        self.told.load(Ordering::Relaxed).min(1) + 1
    }

    fn compare(&self, (asked, theirs): (VnodeId, u64)) -> Answer {
        let (generation, frontier) = (self.holds(), seen(self.holds()));
        let compared = match asked == vnode() && theirs != fingerprint(&frontier) {
            true => Compared::Differs(Told { generation, frontier, recounting: false }),
            false => Compared::Same,
        };
        Answer { compared, remembered: None }
    }

    fn answer(&self, request: Request) -> Option<Reply> {
        match request {
            Request::Frontiers { asked, .. } => {
                let answers = asked.into_iter().map(|asked| self.compare(asked)).collect();
                Some(Reply::Frontiers { answers, settled: true })
            }
            Request::Keys(..) => Some(Reply::Keys(Vec::new())),
            Request::ScanPage(_) => {
                let held = (1..=self.holds()).map(|n| (key(n as usize - 1), object_of(n)));
                let (items, damaged) = (held.collect(), Vec::new());
                self.told.fetch_add(1, Ordering::Relaxed);
                let standing = Standing::Good;
                Some(Reply::ScanPage(ScanPageReply { items, damaged, complete: true, standing }))
            }
            _ => None,
        }
    }
}

impl Peers for Restarting {
    fn request(
        &self,
        to: NodeId,
        request: Request,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Reply, PeerError>> {
        let own = (to == NodeId::of_name(NAMES[1])).then(|| self.answer(request.clone())).flatten();
        match own {
            Some(reply) => std::future::ready(Ok(reply)).boxed(),
            None => self.others.request(to, request, timeout),
        }
    }

    fn connected(&self, _: NodeId) -> bool {
        true
    }
}

/// What it had seen by the end says nothing of pages that it told before.
#[tokio::test(start_paused = true)]
async fn who_is_restarted_while_it_tells_a_partition_is_asked_for_all_of_it_again() {
    let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
    let others = Others(Arc::new(document()));
    let peers = Arc::new(Restarting { others, told: AtomicU64::new(0) });
    // Before the others, who do not gossip, are taken for dead.
    let pace = (Duration::ZERO, Duration::from_millis(500));
    let replica = start_among(peers.clone(), MemoryEngine::new(), pace, &metrics, &stop);
    replica.cluster().learn(document().encode()).await.unwrap();
    let ask = |request| {
        let other = NodeId::of_name(NAMES[2]);
        replica.handler().handle(other, request, Duration::from_secs(1))
    };
    let has_seen_both = async || {
        let asked = vec![(vnode(), fingerprint(&seen(2)))];
        let told = ask(Request::Frontiers { asked, recall: false }).await;
        let same = Answer { compared: Compared::Same, remembered: None };
        matches!(told, Reply::Frontiers { answers, .. } if answers == [same])
    };
    for _ in 0..120 {
        if has_seen_both().await {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(has_seen_both().await, "it never caught up");
    assert!(peers.told.load(Ordering::Relaxed) > 1, "all was told once, before the restart");
    for (of, n) in [(0, 1), (1, 2)] {
        let namespace = document().namespaces[0].id;
        let read = transport::Read { namespace, key: key(of), digest: false, hint: false };
        let (held, standing) = (Held::Object(object_of(n)), Standing::Good);
        assert_eq!(ask(Request::Read(read)).await, Reply::Held { held, standing }, "{}", KEYS[of]);
    }
    stop.cancel();
}
