//! What a port scanner, a broken proxy or an attacker sends: a node that hears it goes on serving.
//!
//! Three depths: bytes that are no HTTP/2, frames of HTTP/2 that are no gRPC, and gRPC calls whose
//! messages are no protobuf or say what nobody would. After each the node must run, must not have
//! panicked, and must answer an honest client.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message as _;
use quorate_proto::v1::{GetRequest, PutRequest, ScanRequest};
use quorate_tests::{Cluster, until};
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Every method, and whether its answer is a stream.
const METHODS: [(&str, bool); 13] = [
    ("/quorate.v1.Kv/Get", false),
    ("/quorate.v1.Kv/Put", false),
    ("/quorate.v1.Kv/Delete", false),
    ("/quorate.v1.Kv/Scan", true),
    ("/quorate.v1.Cluster/Describe", false),
    ("/quorate.v1.Cluster/CreateNamespace", false),
    ("/quorate.v1.Cluster/ListNamespaces", false),
    ("/quorate.v1.Cluster/DescribeNamespace", false),
    ("/quorate.v1.Cluster/DropNamespace", false),
    ("/quorate.peer.v1.Peer/Exchange", true),
    ("/quorate.peer.v1.Peer/Identify", false),
    ("/quorate.peer.v1.Peer/Bootstrap", false),
    ("/quorate.peer.v1.Peer/FetchDocument", false),
];

#[test]
fn noise_on_its_ports_does_not_stop_a_node() {
    let cluster = Cluster::start(1);
    cluster.cli().line("namespace create users --n 1").ok();
    cluster.cli().line("put users alice hello").ok();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let node = &cluster.nodes()[0];
    for port in [node.client_address(), node.peer_address()] {
        for _ in 0..60 {
            noise(&port, &mut rng);
        }
        // Connections that say nothing and stay.
        let idle: Vec<_> = (0..20).map(|_| TcpStream::connect(&port)).collect();
        serves(&cluster);
        drop(idle);
    }
    serves(&cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_say_nonsense_are_refused_and_the_node_serves_on() {
    let cluster = Cluster::start(1);
    cluster.cli().line("namespace create users --n 1").ok();
    cluster.cli().line("put users alice hello").ok();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let node = &cluster.nodes()[0];
    let ports = [(node.client_address(), "/quorate.v1."), (node.peer_address(), "/quorate.peer.")];
    for (address, service) in ports {
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("it is a URI");
        let channel = endpoint.connect().await.expect("the node listens");
        let here: Vec<_> = METHODS.iter().filter(|(path, _)| path.contains(service)).collect();
        for _ in 0..300 {
            let message = nonsense(&mut rng);
            let (path, streams) = here[rng.random_range(0..here.len())];
            call(&channel, path, *streams, message).await;
        }
    }
    serves(&cluster);
}

/// A client that asks for large answers over a narrow window, and reads none of them.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_no_answers_is_disconnected_and_holds_nothing_any_more() {
    let mut cluster = Cluster::uninitialised(1);
    cluster.node(1).configure("request_timeout_ms = 1000\nrequest_timeout_max_ms = 1000");
    cluster.form(16);
    cluster.cli().line("namespace create users --n 1").ok();
    cluster.cli().run_with(["put", "users", "large", "-"], &vec![b'x'; 1 << 20]).ok();
    cluster.cli().line("put users alice hello").ok();
    let node = &cluster.nodes()[0];
    let endpoint = Channel::from_shared(format!("http://{}", node.client_address()));
    let endpoint = endpoint.expect("it is a URI").initial_stream_window_size(65_535);
    let channel = endpoint.connect().await.expect("the node listens");
    let get = GetRequest { namespace: "users".into(), key: "large".into(), ..Default::default() };
    let mut unread = Vec::new();
    for _ in 0..4 {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.expect("the connection stands");
        let path = "/quorate.v1.Kv/Get".parse().expect("it is a path");
        let request = Request::new(futures::stream::iter([Bytes::from(get.encode_to_vec())]));
        unread.push(grpc.streaming(request, path, Raw).await.expect("it begins").into_inner());
    }
    let held = || {
        let (_, page) = node.page("/metrics")?;
        let row = page.lines().find(|row| row.contains("kind=\"replies\""))?;
        row.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    until("four answers are held", || held().filter(|bytes| *bytes >= f64::from(4 << 20)));
    until("none is held any more", || held().filter(|bytes| *bytes == 0.0));
    assert!(unread[0].message().await.is_err(), "the connection is gone");
    assert!(node.logged().contains("did not read its answers"));
    serves(&cluster);
}

/// The node runs, has not panicked, and answers what it was told.
#[track_caller]
fn serves(cluster: &Cluster) {
    assert_eq!(cluster.cli().line("get users alice").ok().text(), "hello\n");
    let log = cluster.nodes()[0].logged();
    assert!(!log.contains("panicked"), "{log}");
}

/// One connection, with bytes that begin more or less like HTTP/2.
fn noise(address: &str, rng: &mut ChaCha8Rng) {
    let mut bytes = Vec::new();
    if rng.random_bool(0.7) {
        bytes.extend_from_slice(PREFACE);
        for _ in 0..rng.random_range(0..6) {
            frame(&mut bytes, rng);
        }
    }
    let mut tail = vec![0; rng.random_range(0..200)];
    rng.fill_bytes(&mut tail);
    bytes.extend_from_slice(&tail);

    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("not zero");
    // The node may close the connection at any byte of this: that is its good right.
    let sent = stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    if sent.is_ok() {
        let _ = stream.read(&mut [0; 512]);
    }
}

/// A frame of HTTP/2: length, type, flags, stream, and a payload of that length, mostly.
fn frame(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) {
    let mut payload = vec![0; rng.random_range(0..64)];
    rng.fill_bytes(&mut payload);
    let honest = u32::try_from(payload.len()).expect("it is short");
    let length = if rng.random_bool(0.8) { honest } else { rng.random() };
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    bytes.extend_from_slice(&[rng.random_range(0..11), rng.random()]);
    bytes.extend_from_slice(&rng.random_range(0..8u32).to_be_bytes());
    bytes.extend_from_slice(&payload);
}

/// Noise, or an honest request with a few bytes changed.
fn nonsense(rng: &mut ChaCha8Rng) -> Bytes {
    let (namespace, key) = ("users".to_owned(), Bytes::from_static(b"alice-not"));
    let mut bytes = match rng.random_range(0..4) {
        0 => {
            let mut noise = vec![0; rng.random_range(0..300)];
            rng.fill_bytes(&mut noise);
            noise
        }
        1 => GetRequest { namespace, key, ..GetRequest::default() }.encode_to_vec(),
        2 => {
            let put = PutRequest { namespace, key, timeout_ms: 100, ..PutRequest::default() };
            put.encode_to_vec()
        }
        _ => ScanRequest { namespace, prefix: key, ..ScanRequest::default() }.encode_to_vec(),
    };
    for _ in 0..rng.random_range(0..4) {
        if !bytes.is_empty() {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
    }
    bytes.into()
}

/// Calls and reads to the end, or until it is clear that the answer is a long one.
async fn call(channel: &Channel, path: &'static str, streams: bool, message: Bytes) {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("the connection stands");
    let parsed = path.parse().expect("it is a path");
    let request = Request::new(futures::stream::iter([message]));
    let called = async {
        let answer = grpc.streaming(request, parsed, Raw).await?;
        let mut answers = answer.into_inner();
        let mut left = if streams { 100 } else { 1 };
        while left > 0 && answers.message().await?.is_some() {
            left -= 1;
        }
        Ok::<_, Status>(())
    };
    // Most are refused; why, is not the matter. One that waits for more is cut off.
    if let Ok(Err(refused)) = tokio::time::timeout(Duration::from_millis(500), called).await {
        assert_ne!(refused.code(), Code::Unimplemented, "{path} is no method of this port");
    }
}

/// Messages as they are.
#[derive(Clone, Copy)]
pub(super) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
