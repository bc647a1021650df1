//! What a message between two nodes costs: replicating 1 KiB over gRPC, at 1, 16 and 64 in flight.
//!
//! Both nodes run in this process, so that the figures hold the work of both ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::future::{BoxFuture, join_all};
use quorate_node::dynamo::format::EncodedObject;
use quorate_node::dynamo::key::{Key, NamespaceId, NodeId};
use quorate_node::dynamo::operation::Opening;
use quorate_node::error::RequestError;
use quorate_node::transport::grpc::{
    Bootstrap, Dialer, GrpcPeers, Identity, Incarnation, Limits, Local, PeerService, server,
};
use quorate_node::transport::{Handler, Peers, Replicate, Reply, Request, listener};
use tokio_util::sync::CancellationToken;

struct Acknowledge;

impl Handler for Acknowledge {
    fn handle(&self, _: NodeId, _: Request, _: Duration) -> BoxFuture<'static, Reply> {
        Box::pin(async { Reply::Replicated { synced: false } })
    }

    fn metadata_version(&self) -> u64 {
        1
    }

    fn newer_metadata(&self, _: NodeId, _: u64) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

struct Unasked;

impl Bootstrap for Unasked {
    fn identify(&self) -> Identity {
        unreachable!("no introduction is asked for")
    }

    fn bootstrap(&self, _: Bytes) -> BoxFuture<'static, Result<(), RequestError>> {
        unreachable!("no document is given")
    }

    fn document(&self) -> Option<Bytes> {
        None
    }
}

fn local(node: NodeId, handler: &Arc<dyn Handler>) -> Arc<Local> {
    let local = Local::new(Incarnation { cluster: [1; 16], node, store: 1, opening: Opening(1) });
    local.answer_with(handler);
    local
}

/// The first of two connected nodes.
async fn connect(
    handler: &Arc<dyn Handler>,
    two: NodeId,
    stop: &CancellationToken,
) -> Arc<GrpcPeers> {
    let service = PeerService::new(Arc::new(Unasked), Limits::default(), stop.clone());
    service.join(local(two, handler));
    let (incoming, address) = listener::bind("127.0.0.1:0").await.expect("a free port");
    let router = server().add_service(service.into_server());
    tokio::spawn(router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));
    let peers = GrpcPeers::new(
        local(NodeId(1), handler),
        Dialer::default(),
        Limits::default(),
        stop.clone(),
    );
    peers.set_members(&[(two, address.to_string())]);
    while !peers.connected(two) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    peers
}

/// Microseconds of processor time, user and system, that this process has used.
#[cfg(target_os = "linux")]
fn processor_us() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks * 10_000.0)
}

#[cfg(not(target_os = "linux"))]
fn processor_us() -> Option<f64> {
    None
}

fn replicate(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let stop = CancellationToken::new();
    let handler: Arc<dyn Handler> = Arc::new(Acknowledge);
    let two = NodeId(2);
    let peers = runtime.block_on(connect(&handler, two, &stop));
    let request = Request::Replicate(Replicate {
        hint_for: None,
        namespace: NamespaceId(1),
        key: Key::new("a key of usual length").expect("a short key"),
        object: EncodedObject(Bytes::from(vec![7; 1024])),
        synced: false,
        operation: None,
        clock_ms: 0,
        mend: false,
    });
    let mut group = c.benchmark_group("replicate_1KiB");
    for in_flight in [1, 16, 64] {
        let (mut messages, before) = (0_u64, processor_us());
        group.throughput(Throughput::Elements(in_flight));
        group.bench_function(format!("{in_flight}_in_flight"), |b| {
            b.iter(|| {
                messages += in_flight;
                let requests = (0..in_flight)
                    .map(|_| peers.request(two, request.clone(), Duration::from_secs(5)));
                let answers = runtime.block_on(join_all(requests));
                assert!(answers.iter().all(Result::is_ok));
            });
        });
        if let (Some(before), Some(after)) = (before, processor_us()) {
            eprintln!("processor time: {:.2} us a message", (after - before) / messages as f64);
        }
    }
    group.finish();
    stop.cancel();
}

criterion_group!(benches, replicate);
criterion_main!(benches);
