//! The node's metrics: what is counted, and under which names.
//!
//! ```text
//!   quorate_requests_total{operation="put",outcome="ok"}                  Metrics::request
//!   quorate_request_seconds_bucket{operation="put",outcome="ok",le=".."}  the same call
//!   quorate_shard_queue_depth{shard="0"}                                  Metrics::shard(0)
//! ```
//!
//! The hot path looks up no labels and allocates nothing: labels are enums, their handles sit in
//! arrays, made at first use so that the page lists only what has happened.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::disk::DiskMetrics;
use super::exchange::ExchangeMetrics;
use super::expiry::ExpiryMetrics;
use super::handoff::HandoffMetrics;
use super::hints::HintMetrics;
use super::limits::LimitMetrics;
use super::staleness::StalenessMetrics;
use super::tls::TlsMetrics;
use super::trees::TreeMetrics;
use crate::error::RequestError;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A client's read.
    Get,
    /// A client's write.
    Put,
    /// A client's deletion.
    Delete,
    /// A client's change of when a value expires.
    Expire,
    /// Many reads of a client at once.
    BatchGet,
    /// Many writes of a client at once.
    BatchPut,
    /// A page of a client's scan.
    Scan,
    /// A client's question what became of a write.
    Resolve,
    /// A client's request that was sent on to a node that holds the key.
    Forward,
    /// Another node's objects, one or a batch, merged here.
    Replicate,
    /// What this node holds of a key or a batch of them, told to another one.
    Read,
}

impl Operation {
    const ALL: [&str; 11] = [
        "get",
        "put",
        "delete",
        "expire",
        "batch_get",
        "batch_put",
        "scan",
        "resolve",
        "forward",
        "replicate",
        "read",
    ];

    /// What a client asks for at this path of the gRPC interface; none if it is not about keys.
    pub fn of_path(path: &str) -> Option<Self> {
        Some(match path.strip_prefix("/quorate.v1.Kv/")? {
            "Get" => Self::Get,
            "Put" => Self::Put,
            "Delete" => Self::Delete,
            "Expire" => Self::Expire,
            "BatchGet" => Self::BatchGet,
            "BatchPut" => Self::BatchPut,
            "Scan" => Self::Scan,
            "Resolve" => Self::Resolve,
            _ => return None,
        })
    }

    /// As metrics and log lines say it.
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize]
    }
}

/// How it ended, coarsely enough to alarm on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutcomeLabel {
    /// It was done.
    Ok,
    /// The request was wrong.
    Invalid,
    /// It contradicts what is there.
    Conflict,
    /// Too few nodes could be reached, or this one cannot serve.
    Unavailable,
    /// The deadline passed.
    Timeout,
    /// A limit was reached.
    Overloaded,
    /// Stored data is damaged, or the disk fails.
    Data,
    /// A defect.
    Internal,
}

impl OutcomeLabel {
    const ALL: [&str; 8] =
        ["ok", "invalid", "conflict", "unavailable", "timeout", "overloaded", "data", "internal"];

    /// As metrics and log lines say it.
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize]
    }
}

impl From<&RequestError> for OutcomeLabel {
    fn from(error: &RequestError) -> Self {
        match error {
            RequestError::Invalid { .. }
            | RequestError::UnknownNamespace { .. }
            | RequestError::KeyNotFound
            | RequestError::Context(_) => Self::Invalid,
            RequestError::TooManySiblings { .. }
            | RequestError::SeveralSiblings { .. }
            | RequestError::Conflict { .. }
            | RequestError::EarlierOpening { .. }
            | RequestError::OperationTime { .. } => Self::Conflict,
            RequestError::ClockSkew { .. }
            | RequestError::ClockUncertain { .. }
            | RequestError::QuorumNotReached { .. }
            | RequestError::CoordinatorUnreachable { .. }
            | RequestError::NoMajority { .. }
            | RequestError::ChangeUnknown { .. }
            | RequestError::NotReady { .. }
            | RequestError::NotReadyElsewhere { .. } => Self::Unavailable,
            RequestError::Timeout { .. } | RequestError::TimeoutElsewhere { .. } => Self::Timeout,
            RequestError::Overloaded { .. }
            | RequestError::HintsFull { .. }
            | RequestError::DiskFull { .. } => Self::Overloaded,
            RequestError::Data { .. }
            | RequestError::Damaged { .. }
            | RequestError::DiskFailed { .. } => Self::Data,
            RequestError::Internal { .. } => Self::Internal,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) operation: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ShardLabels {
    shard: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct PeerLabels {
    peer: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct MemberLabels {
    state: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SpaceLabels {
    space: &'static str,
}

/// A gauge of something that is no whole number.
type Fraction = Gauge<f64, AtomicU64>;

/// A family of histograms, all with the same buckets.
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The handles of one operation with one outcome.
#[derive(Debug)]
struct RequestHandles {
    count: Counter,
    seconds: Histogram,
}

/// All metrics of one node. Share it in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Histograms<RequestLabels>,
    handles: [[OnceLock<RequestHandles>; OutcomeLabel::ALL.len()]; Operation::ALL.len()],
    queue_depth: Family<ShardLabels, Gauge>,
    batch_size: Histograms<ShardLabels>,
    clock_offsets: Family<PeerLabels, Fraction>,
    members: Family<MemberLabels, Gauge>,
    lacking_standing: Family<ReasonLabels, Gauge>,
    limits: LimitMetrics,
    disk: DiskMetrics,
    handoff: HandoffMetrics,
    exchange: ExchangeMetrics,
    trees: TreeMetrics,
    expiry: ExpiryMetrics,
    staleness: StalenessMetrics,
    hints: HintMetrics,
    single: Single,
    tls: TlsMetrics,
}

/// The metrics without labels.
#[derive(Debug)]
struct Single {
    sync_seconds: Histogram,
    peers_connected: Gauge,
    engine_disk_bytes: Gauge,
    engine_keys: Gauge,
    operations_recorded: Counter,
    operations_forgotten: Counter,
    siblings_refused: Counter,
    lww_from_the_future: Counter,
    clock_offset_max: Fraction,
    clock_ahead: Fraction,
    corrupt_records: Family<SpaceLabels, Counter>,
    mended_records: Counter,
    lost_records: Counter,
    rebuild_vnodes_left: Gauge,
    rebuild_objects: Counter,
    metadata_version: Gauge,
    voter_waits: Gauge,
    voter_lost: Gauge,
    metadata_forked: Gauge,
}

/// From 50 us, a read from memory on one machine, doubling to 6.5 s, above the default deadline.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 18))
}

/// Batches of 1 to 1024 requests, the bound of a shard's queue by default.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 11))
}

impl Single {
    fn register(registry: &mut Registry) -> Self {
        let single = Self {
            sync_seconds: seconds(),
            peers_connected: Gauge::default(),
            engine_disk_bytes: Gauge::default(),
            engine_keys: Gauge::default(),
            operations_recorded: Counter::default(),
            operations_forgotten: Counter::default(),
            siblings_refused: Counter::default(),
            lww_from_the_future: Counter::default(),
            clock_offset_max: Fraction::default(),
            clock_ahead: Fraction::default(),
            corrupt_records: Family::default(),
            mended_records: Counter::default(),
            lost_records: Counter::default(),
            rebuild_vnodes_left: Gauge::default(),
            rebuild_objects: Counter::default(),
            metadata_version: Gauge::default(),
            voter_waits: Gauge::default(),
            voter_lost: Gauge::default(),
            metadata_forked: Gauge::default(),
        };
        let help = "Time of each sync of the engine";
        registry.register_with_unit("sync", help, Unit::Seconds, single.sync_seconds.clone());
        let help = "Other members to which a connection stands";
        registry.register("peers_connected", help, single.peers_connected.clone());
        let help = "What the engine occupies on disk";
        let disk_bytes = single.engine_disk_bytes.clone();
        registry.register_with_unit("engine_disk", help, Unit::Bytes, disk_bytes);
        let help = "About how many keys the engine holds, in all of its spaces";
        registry.register("engine_keys", help, single.engine_keys.clone());
        let help = "Rows that the operation index gained";
        registry.register("operations_recorded", help, single.operations_recorded.clone());
        let help = "Rows that the operation index lost, since they are past their time";
        registry.register("operations_forgotten", help, single.operations_forgotten.clone());
        let help = "Writes refused because the key has as many siblings as it may";
        registry.register("siblings_refused", help, single.siblings_refused.clone());
        let help =
            "Last writes met in lww namespaces that lie in the future by more than the bound";
        registry.register("lww_from_the_future", help, single.lww_from_the_future.clone());
        let help = "The largest difference between this node's clock and another member's";
        let furthest = single.clock_offset_max.clone();
        registry.register_with_unit("clock_offset_max", help, Unit::Seconds, furthest);
        let help =
            "How far this node's clock is certainly ahead of the median of the members' clocks";
        registry.register_with_unit("clock_ahead", help, Unit::Seconds, single.clock_ahead.clone());
        let help = "Damaged records met, each once per opening of the store, by space";
        registry.register("corrupt_records", help, single.corrupt_records.clone());
        let help = "Damaged records replaced by what all other owners hold";
        registry.register("mended_records", help, single.mended_records.clone());
        let help = "Damaged records given up for a write, since no other owner held the key";
        registry.register("lost_records", help, single.lost_records.clone());
        let help = "Partitions of a store being rebuilt whose answers do not count yet";
        registry.register("rebuild_vnodes_left", help, single.rebuild_vnodes_left.clone());
        let help = "Objects received from other owners to rebuild the store";
        registry.register("rebuild_objects", help, single.rebuild_objects.clone());
        let help = "Version of the newest metadata document known; 0: none";
        registry.register("metadata_version", help, single.metadata_version.clone());
        let help = "1 while this voter has not heard enough others, since its start, to vote";
        registry.register("voter_waits", help, single.voter_waits.clone());
        let help = "1 if this voter lost the store with which it voted, and votes no more";
        registry.register("voter_lost", help, single.voter_lost.clone());
        let help = "1 if this node saw the cluster's metadata fork, and refuses its changes";
        registry.register("metadata_forked", help, single.metadata_forked.clone());
        single
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics of a node that has done nothing yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("quorate");
        let requests = Family::default();
        let help = "Requests, by operation and outcome";
        registry.register("requests", help, requests.clone());
        let request_seconds: Histograms<RequestLabels> = Family::new_with_constructor(seconds);
        let help = "Time of each request, by operation and outcome";
        registry.register_with_unit("request", help, Unit::Seconds, request_seconds.clone());
        let queue_depth = Family::default();
        let help = "Requests that wait for the shard";
        registry.register("shard_queue_depth", help, queue_depth.clone());
        let batch_size: Histograms<ShardLabels> = Family::new_with_constructor(sizes);
        let help = "Requests that share one batch of the engine";
        registry.register("shard_batch_size", help, batch_size.clone());
        let members = Family::default();
        let help = "Members of the cluster by what this node has heard of them";
        registry.register("members", help, Family::clone(&members));
        let lacking_standing = Family::default();
        let help = "Partitions of this node that do not count in quorums, by why they do not";
        registry.register("vnodes_lacking_standing", help, Family::clone(&lacking_standing));
        let clock_offsets = Family::default();
        let help = "How far the other member's clock is ahead of this node's";
        registry.register_with_unit("clock_offset", help, Unit::Seconds, clock_offsets.clone());
        let limits = LimitMetrics::register(&mut registry);
        let disk = DiskMetrics::register(&mut registry);
        let handoff = HandoffMetrics::register(&mut registry);
        let exchange = ExchangeMetrics::register(&mut registry);
        let trees = TreeMetrics::register(&mut registry);
        let expiry = ExpiryMetrics::register(&mut registry);
        let staleness = StalenessMetrics::register(&mut registry);
        let hints = HintMetrics::register(&mut registry);
        let single = Single::register(&mut registry);
        let tls = TlsMetrics::register(&mut registry);
        let handles = Default::default();
        Self {
            registry,
            requests,
            request_seconds,
            handles,
            queue_depth,
            batch_size,
            clock_offsets,
            members,
            lacking_standing,
            limits,
            disk,
            handoff,
            exchange,
            trees,
            expiry,
            staleness,
            hints,
            single,
            tls,
        }
    }

    /// Counts a request that took `took`.
    pub fn request(&self, operation: Operation, outcome: OutcomeLabel, took: Duration) {
        let (row, column) = (operation as usize, outcome as usize);
        let handles = self.handles[row][column].get_or_init(|| {
            let labels = RequestLabels { operation: operation.name(), outcome: outcome.name() };
            RequestHandles {
                count: self.requests.get_or_create_owned(&labels),
                seconds: self.request_seconds.get_or_create_owned(&labels),
            }
        });
        handles.count.inc();
        handles.seconds.observe(took.as_secs_f64());
    }

    /// The handles of a shard, which it keeps.
    pub fn shard(&self, shard: u32) -> ShardMetrics {
        let labels = ShardLabels { shard };
        ShardMetrics {
            queue_depth: self.queue_depth.get_or_create_owned(&labels),
            batch_size: self.batch_size.get_or_create_owned(&labels),
        }
    }

    /// What bounds the node.
    pub fn limits(&self) -> &LimitMetrics {
        &self.limits
    }

    /// The disk.
    pub fn disk(&self) -> &DiskMetrics {
        &self.disk
    }

    /// Of what is fetched from other owners.
    pub fn exchange(&self) -> &ExchangeMetrics {
        &self.exchange
    }

    /// Values that expire.
    pub fn expiry(&self) -> &ExpiryMetrics {
        &self.expiry
    }

    /// How old writes were when they came.
    pub fn staleness(&self) -> &StalenessMetrics {
        &self.staleness
    }

    /// What trees of hashes told.
    pub fn trees(&self) -> &TreeMetrics {
        &self.trees
    }

    /// Hints going home.
    pub fn handoff(&self) -> &HandoffMetrics {
        &self.handoff
    }

    /// What is kept for members that are away.
    pub fn hints(&self) -> &HintMetrics {
        &self.hints
    }

    /// Those of TLS.
    pub fn tls(&self) -> &TlsMetrics {
        &self.tls
    }

    /// Counts a sync of the engine that took `took`.
    pub fn synced(&self, took: Duration) {
        self.single.sync_seconds.observe(took.as_secs_f64());
    }

    /// How many other members are connected now.
    pub fn peers_connected(&self, count: usize) {
        self.single.peers_connected.set(gauge(count as u64));
    }

    /// How many bytes the engine occupies now.
    pub fn engine_disk_bytes(&self, bytes: u64) {
        self.single.engine_disk_bytes.set(gauge(bytes));
    }

    /// How many keys the engine holds now, about.
    pub fn engine_keys(&self, keys: u64) {
        self.single.engine_keys.set(gauge(keys));
    }

    /// Counts rows that the operation index gained.
    pub fn operations_recorded(&self, rows: u64) {
        self.single.operations_recorded.inc_by(rows);
    }

    /// Counts rows that it lost.
    pub fn operations_forgotten(&self, rows: u64) {
        self.single.operations_forgotten.inc_by(rows);
    }

    /// Whether this node is a voter that waits to hear others, or one whose store was lost.
    pub fn voter(&self, waits: bool, lost: bool) {
        self.single.voter_waits.set(waits.into());
        self.single.voter_lost.set(lost.into());
    }

    /// Whether this node saw the metadata fork.
    pub fn metadata_forked(&self, forked: bool) {
        self.single.metadata_forked.set(forked.into());
    }

    /// The version of the newest document known.
    pub fn metadata_version(&self, version: u64) {
        self.single.metadata_version.set(gauge(version));
    }

    /// Counts a write that was refused for its key's siblings.
    pub fn sibling_refused(&self) {
        self.single.siblings_refused.inc();
    }

    /// Counts last writes of `lww` namespaces that lie in the future by more than the bound.
    pub fn lww_from_the_future(&self, count: u64) {
        self.single.lww_from_the_future.inc_by(count);
    }

    /// How far the clock of a member is ahead of this node's.
    pub fn clock_offset(&self, peer: &str, seconds: f64) {
        let labels = PeerLabels { peer: peer.to_owned() };
        self.clock_offsets.get_or_create_owned(&labels).set(seconds);
    }

    /// How many members are in a state: "alive", "suspect" or "down".
    pub fn members(&self, state: &'static str, count: usize) {
        self.members.get_or_create_owned(&MemberLabels { state }).set(gauge(count as u64));
    }

    /// Nothing is known of the clock of a member any more.
    pub fn clock_offset_unknown(&self, peer: &str) {
        self.clock_offsets.remove(&PeerLabels { peer: peer.to_owned() });
    }

    /// The largest of those, either way.
    pub fn clock_offset_max(&self, seconds: f64) {
        self.single.clock_offset_max.set(seconds);
    }

    /// How far this node's clock is ahead of the median clock.
    pub fn clock_ahead(&self, seconds: f64) {
        self.single.clock_ahead.set(seconds);
    }

    /// Counts damaged records of a space.
    pub fn corrupt_records(&self, space: &'static str, records: u64) {
        self.single.corrupt_records.get_or_create(&SpaceLabels { space }).inc_by(records);
    }

    /// Counts damaged records that were replaced by what all other owners hold.
    pub fn mended_records(&self, records: u64) {
        self.single.mended_records.inc_by(records);
    }

    /// Counts damaged records that were given up, since no other owner held the key.
    pub fn lost_records(&self, records: u64) {
        self.single.lost_records.inc_by(records);
    }

    /// How many partitions do not count in quorums, for this reason.
    pub fn lacking_standing(&self, reason: &'static str, vnodes: usize) {
        self.lacking_standing
            .get_or_create_owned(&ReasonLabels { reason })
            .set(gauge(vnodes as u64));
    }

    /// How many partitions of a store being rebuilt are not complete.
    pub fn rebuild_vnodes_left(&self, vnodes: usize) {
        self.single.rebuild_vnodes_left.set(gauge(vnodes as u64));
    }

    /// Counts objects received to rebuild the store.
    pub fn rebuild_objects(&self, objects: u64) {
        self.single.rebuild_objects.inc_by(objects);
    }

    /// Everything, as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("writing to a string does not fail");
        page
    }
}

/// The metrics of one shard.
#[derive(Clone, Debug)]
pub struct ShardMetrics {
    queue_depth: Gauge,
    batch_size: Histogram,
}

impl ShardMetrics {
    /// How many requests wait now.
    pub fn queue_depth(&self, depth: usize) {
        self.queue_depth.set(gauge(depth as u64));
    }

    /// Counts a batch that `requests` shared.
    pub fn committed(&self, requests: usize) {
        self.batch_size.observe(requests as f64);
    }
}

/// OpenMetrics gauges are signed here; nothing that is counted comes near the limit.
pub(super) fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    const OPERATIONS: [Operation; 11] = [
        Operation::Get,
        Operation::Put,
        Operation::Delete,
        Operation::Expire,
        Operation::BatchGet,
        Operation::BatchPut,
        Operation::Scan,
        Operation::Resolve,
        Operation::Forward,
        Operation::Replicate,
        Operation::Read,
    ];

    const OUTCOMES: [OutcomeLabel; 8] = [
        OutcomeLabel::Ok,
        OutcomeLabel::Invalid,
        OutcomeLabel::Conflict,
        OutcomeLabel::Unavailable,
        OutcomeLabel::Timeout,
        OutcomeLabel::Overloaded,
        OutcomeLabel::Data,
        OutcomeLabel::Internal,
    ];

    #[test]
    fn each_label_is_its_variant() {
        for (at, operation) in OPERATIONS.into_iter().enumerate() {
            let label = Operation::ALL[at].replace('_', "");
            assert_eq!(label, format!("{operation:?}").to_lowercase());
        }
        for (at, outcome) in OUTCOMES.into_iter().enumerate() {
            assert_eq!(OutcomeLabel::ALL[at], format!("{outcome:?}").to_lowercase());
        }
    }

    #[test]
    fn each_method_for_keys_is_an_operation() {
        let files = FileDescriptorSet::decode(quorate_proto::v1::DESCRIPTORS).unwrap();
        let services = files.file.iter().flat_map(|file| &file.service);
        let kv = services.into_iter().find(|service| service.name() == "Kv").unwrap();
        assert!(kv.method.len() > 5);
        for method in &kv.method {
            let operation = Operation::of_path(&format!("/quorate.v1.Kv/{}", method.name()));
            assert_eq!(format!("{:?}", operation.unwrap()), method.name());
        }
        assert_eq!(Operation::of_path("/quorate.v1.Cluster/Describe"), None);
    }

    #[test]
    fn requests_are_counted_by_operation_and_outcome() {
        let metrics = Metrics::new();
        let took = Duration::from_micros(80);
        metrics.request(Operation::Put, OutcomeLabel::Ok, took);
        metrics.request(Operation::Put, OutcomeLabel::Ok, took);
        let failed = RequestError::not_ready("no cluster");
        metrics.request(Operation::Get, OutcomeLabel::from(&failed), took);
        let page = metrics.encode();
        for line in [
            r#"quorate_requests_total{operation="put",outcome="ok"} 2"#,
            r#"quorate_requests_total{operation="get",outcome="unavailable"} 1"#,
            r#"quorate_request_seconds_bucket{le="0.0001",operation="put",outcome="ok"} 2"#,
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
        assert!(!page.contains("scan"), "what never happened is not listed:\n{page}");
        assert!(page.ends_with("# EOF\n"));
    }

    #[test]
    fn every_other_metric_shows() {
        let metrics = Metrics::new();
        let shard = metrics.shard(3);
        shard.queue_depth(7);
        shard.committed(5);
        metrics.synced(Duration::from_millis(2));
        metrics.peers_connected(4);
        metrics.members("suspect", 2);
        metrics.engine_disk_bytes(4096);
        metrics.engine_keys(10);
        metrics.operations_recorded(6);
        metrics.operations_forgotten(4);
        metrics.metadata_version(2);
        metrics.voter(false, true);
        metrics.metadata_forked(true);
        metrics.sibling_refused();
        metrics.lww_from_the_future(2);
        metrics.clock_offset("node-2", -0.25);
        metrics.clock_offset_max(0.25);
        metrics.clock_ahead(0.125);
        metrics.corrupt_records("objects", 3);
        metrics.mended_records(2);
        metrics.lost_records(1);
        metrics.lacking_standing("lost_tail", 3);
        metrics.rebuild_vnodes_left(12);
        metrics.rebuild_objects(5);
        metrics.tls().started("peer", 10);
        metrics.tls().reloaded("peer", 20);
        metrics.tls().reload_failed("peer");
        metrics.tls().refused("client", "no_tls");
        let page = metrics.encode();
        for line in [
            r#"quorate_shard_queue_depth{shard="3"} 7"#,
            r#"quorate_shard_batch_size_count{shard="3"} 1"#,
            "quorate_sync_seconds_count 1",
            "quorate_peers_connected 4",
            r#"quorate_members{state="suspect"} 2"#,
            "quorate_engine_disk_bytes 4096",
            "quorate_engine_keys 10",
            "quorate_operations_recorded_total 6",
            "quorate_operations_forgotten_total 4",
            "quorate_metadata_version 2",
            "quorate_voter_waits 0",
            "quorate_voter_lost 1",
            "quorate_metadata_forked 1",
            "quorate_siblings_refused_total 1",
            "quorate_lww_from_the_future_total 2",
            r#"quorate_clock_offset_seconds{peer="node-2"} -0.25"#,
            "quorate_clock_offset_max_seconds 0.25",
            "quorate_clock_ahead_seconds 0.125",
            r#"quorate_corrupt_records_total{space="objects"} 3"#,
            "quorate_mended_records_total 2",
            "quorate_lost_records_total 1",
            r#"quorate_vnodes_lacking_standing{reason="lost_tail"} 3"#,
            "quorate_rebuild_vnodes_left 12",
            "quorate_rebuild_objects_total 5",
            r#"quorate_tls_certificate_expiry_timestamp_seconds{port="peer"} 20"#,
            r#"quorate_tls_reloads_total{port="peer"} 1"#,
            r#"quorate_tls_reload_failures_total{port="peer"} 1"#,
            r#"quorate_tls_refused_total{port="client",cause="no_tls"} 1"#,
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
    }
}
