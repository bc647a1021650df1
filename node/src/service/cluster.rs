//! `quorate.v1.Cluster`: what the cluster is, and its namespaces.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::v1::{self, cluster_server::Cluster};
use tonic::{Request, Response, Status};

use super::kv::NodeParts;
use super::{durability, level, level_message, sloppy, status, ttl};
use crate::cluster::Vote;
use crate::cluster::view::View;
use crate::dynamo::arrival::Way;
use crate::dynamo::key::{NodeId, VnodeId};
use crate::dynamo::metadata::document::{
    Conflict, Durability, Member, Namespace, NamespaceUpdate, NewNamespace,
};
use crate::dynamo::preference::PreferenceList;
use crate::dynamo::standing::Doubt;
use crate::dynamo::ttl::TtlMs;
use crate::error::RequestError;
use crate::liveness::Health;
use crate::standing::{CatchingUp, Progress};
use crate::telemetry::AgeSummary;

/// What a message holds beside the value, amply: a key, a context, names.
const MESSAGE_BESIDE_VALUE_BYTES: usize = 32 << 10;

/// The handlers.
#[derive(Clone)]
pub struct ClusterService {
    node: Arc<NodeParts>,
}

impl ClusterService {
    /// Handlers of one node.
    pub fn new(node: Arc<NodeParts>) -> Self {
        Self { node }
    }

    fn view(&self) -> Result<Arc<View>, Status> {
        let missing = || {
            RequestError::not_ready("this node belongs to no cluster yet; `quorate init` makes one")
        };
        self.node.coordinator.cluster().view().ok_or_else(|| self.status(&missing()))
    }

    /// A namespace whose values this node could not receive would promise what does not hold.
    fn receivable(&self, value_max_bytes: u32) -> Result<(), RequestError> {
        let most = self.node.message_max_bytes - MESSAGE_BESIDE_VALUE_BYTES;
        if value_max_bytes as usize <= most {
            return Ok(());
        }
        Err(RequestError::invalid(format!(
            "value_max_bytes = {value_max_bytes} is more than node {} can receive: at most {most}, \
             by its message_max_bytes = {}",
            self.node.name, self.node.message_max_bytes
        )))
    }

    async fn create(
        &self,
        message: v1::CreateNamespaceRequest,
        timeout: Duration,
    ) -> Result<(Namespace, Vec<String>), RequestError> {
        let new = new_namespace(message)?;
        self.receivable(new.value_max_bytes)?;
        self.node.coordinator.cluster().create_namespace(new, timeout).await
    }

    async fn update(
        &self,
        message: v1::UpdateNamespaceRequest,
        timeout: Duration,
    ) -> Result<(Namespace, Vec<String>), RequestError> {
        let update = namespace_update(message)?;
        update.value_max_bytes.map_or(Ok(()), |most| self.receivable(most))?;
        self.node.coordinator.cluster().update_namespace(update, timeout).await
    }

    fn status(&self, error: &RequestError) -> Status {
        status::of_request(error, &self.node.name)
    }

    fn member(&self, view: &View, member: &Member) -> v1::Member {
        let coordinator = &self.node.coordinator;
        let voter = view.document().voters.iter().any(|voter| voter.node == member.node);
        let here = member.node == coordinator.node();
        let sighting = coordinator.liveness().of(member.node);
        let state = sighting.and_then(|sighting| sighting.health).map(state_message);
        let since_ms = sighting.map_or(0, |sighting| sighting.since.elapsed().as_millis() as u64);
        v1::Member {
            id: member.node.0,
            name: member.name.clone(),
            zone: member.zone.clone(),
            weight: member.weight,
            client_address: member.client_address.clone(),
            peer_address: member.peer_address.clone(),
            connected: here || coordinator.peers().connected(member.node),
            voter,
            state: state.unwrap_or(v1::MemberState::Unknown).into(),
            since_ms,
        }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn describe(
        &self,
        _: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeReply>, Status> {
        let view = self.view()?;
        let (document, coordinator) = (view.document(), &self.node.coordinator);
        let members = document.members.iter().map(|member| self.member(&view, member)).collect();
        Ok(Response::new(v1::DescribeReply {
            cluster_id: document.cluster.to_string(),
            version: document.version,
            members,
            partitions: document.partitions.get().into(),
            groups: groups(&view),
            namespaces: document.namespaces.iter().map(namespace_message).collect(),
            node: coordinator.node().0,
            opening: coordinator.opening().0,
            now_ms: coordinator.env().now_ms(),
            clock_ahead_ms: coordinator.clocks().ahead_ms(),
            rebuild: coordinator.standings().progress().borrow().as_ref().map(rebuild_message),
            vote: vote_message(coordinator.cluster().vote()).into(),
            catching_up: coordinator.standings().catching_up().borrow().as_ref().map(catching_up),
        }))
    }

    async fn create_namespace(
        &self,
        request: Request<v1::CreateNamespaceRequest>,
    ) -> Result<Response<v1::CreateNamespaceReply>, Status> {
        let timeout = self.node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
        let created = self.create(request.into_inner(), timeout).await;
        let (namespace, unreachable) = created.map_err(|error| self.status(&error))?;
        let namespace = Some(namespace_message(&namespace));
        Ok(Response::new(v1::CreateNamespaceReply { namespace, unreachable }))
    }

    async fn list_namespaces(
        &self,
        _: Request<v1::ListNamespacesRequest>,
    ) -> Result<Response<v1::ListNamespacesReply>, Status> {
        let view = self.view()?;
        let namespaces = view.document().namespaces.iter().map(namespace_message).collect();
        Ok(Response::new(v1::ListNamespacesReply { namespaces }))
    }

    async fn describe_namespace(
        &self,
        request: Request<v1::DescribeNamespaceRequest>,
    ) -> Result<Response<v1::DescribeNamespaceReply>, Status> {
        let timeout = self.node.timeouts.of(0, request.metadata());
        let deadline = tokio::time::Instant::now() + timeout;
        let found = self.node.coordinator.namespace(&request.get_ref().name, deadline).await;
        let (_, namespace) = found.map_err(|error| self.status(&error))?;
        let namespace = Some(namespace_message(&namespace));
        Ok(Response::new(v1::DescribeNamespaceReply { namespace }))
    }

    async fn update_namespace(
        &self,
        request: Request<v1::UpdateNamespaceRequest>,
    ) -> Result<Response<v1::UpdateNamespaceReply>, Status> {
        let timeout = self.node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
        let updated = self.update(request.into_inner(), timeout).await;
        let (namespace, unreachable) = updated.map_err(|error| self.status(&error))?;
        let namespace = Some(namespace_message(&namespace));
        Ok(Response::new(v1::UpdateNamespaceReply { namespace, unreachable }))
    }

    async fn staleness(
        &self,
        _: Request<v1::StalenessRequest>,
    ) -> Result<Response<v1::StalenessReply>, Status> {
        let (exchange, staleness) = (self.node.metrics.exchange(), self.node.metrics.staleness());
        Ok(Response::new(v1::StalenessReply {
            missing_writes: exchange.missing(),
            missing_for_ms: millis(staleness.missing()),
            arrivals: staleness.summaries().into_iter().map(arrivals_message).collect(),
        }))
    }

    async fn hints(
        &self,
        request: Request<v1::HintsRequest>,
    ) -> Result<Response<v1::HintsReply>, Status> {
        let timeout = self.node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
        let view = self.view()?;
        let reply = super::hints::of_all_members(&self.node.coordinator, &view, timeout).await;
        Ok(Response::new(reply))
    }

    async fn drop_namespace(
        &self,
        request: Request<v1::DropNamespaceRequest>,
    ) -> Result<Response<v1::DropNamespaceReply>, Status> {
        let timeout = self.node.timeouts.of(request.get_ref().timeout_ms, request.metadata());
        let message = request.into_inner();
        let cluster = self.node.coordinator.cluster();
        let dropped = cluster.drop_namespace(&message.name, timeout).await;
        let unreachable = dropped.map_err(|error| self.status(&error))?;
        Ok(Response::new(v1::DropNamespaceReply { unreachable }))
    }
}

/// The owners' tables and who stands in first, as many as owners: as indexes into the document's members.
fn groups(view: &View) -> Vec<v1::PlacementGroup> {
    let document = view.document();
    let index = |node: &NodeId| {
        let at = document.members.iter().position(|member| member.node == *node);
        at.expect("a document's tables name its members") as u32
    };
    let group = |(&n, table): (&u8, &Vec<NodeId>)| {
        let list = |partition| view.preference(VnodeId { n, partition });
        let lists = document.partitions.iter().filter_map(list).map(PreferenceList::fallbacks);
        let lists: Vec<&[NodeId]> = lists.collect();
        let each = lists.iter().map(|list| list.len()).min().unwrap_or(0).min(n.into());
        v1::PlacementGroup {
            n: n.into(),
            owners: table.iter().map(index).collect(),
            fallbacks: lists.iter().flat_map(|list| &list[..each]).map(index).collect(),
            fallbacks_each: each as u32,
        }
    };
    document.layout().groups.iter().map(group).collect()
}

fn state_message(health: Health) -> v1::MemberState {
    match health {
        Health::Alive => v1::MemberState::Alive,
        Health::Suspect => v1::MemberState::Suspect,
        Health::Down => v1::MemberState::Down,
    }
}

fn vote_message(vote: Vote) -> v1::Vote {
    match vote {
        Vote::No => v1::Vote::No,
        Vote::Yes => v1::Vote::Yes,
        Vote::Waits => v1::Vote::Waits,
        Vote::Lost => v1::Vote::Lost,
        Vote::Forked => v1::Vote::Forked,
    }
}

fn rebuild_message(progress: &Progress) -> v1::Rebuild {
    v1::Rebuild {
        vnodes: progress.vnodes as u32,
        complete: progress.complete as u32,
        objects: progress.objects,
        waiting_for: progress.waiting_for.clone(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn arrivals_message((namespace, way, ages): (String, Way, AgeSummary)) -> v1::Arrivals {
    let way = match way {
        Way::Write => v1::Way::Write,
        Way::Hint => v1::Way::Hint,
        Way::ReadRepair => v1::Way::ReadRepair,
        Way::Exchange => v1::Way::Exchange,
        Way::Trees => v1::Way::Trees,
        Way::Rebuild => v1::Way::Rebuild,
    };
    v1::Arrivals {
        namespace,
        way: way.into(),
        count: ages.count,
        p50_ms: millis(ages.p50),
        p99_ms: millis(ages.p99),
        max_ms: millis(ages.max),
    }
}

fn catching_up(told: &CatchingUp) -> v1::CatchingUp {
    v1::CatchingUp {
        vnodes: told.vnodes as u32,
        left: told.left as u32,
        doubt: match told.doubt {
            Doubt::Unasked => v1::Doubt::Unasked.into(),
            Doubt::LostTail => v1::Doubt::LostTail.into(),
            Doubt::RolledBack => v1::Doubt::RolledBack.into(),
            Doubt::Lost => v1::Doubt::Lost.into(),
        },
        waiting_for: told.waiting_for.clone(),
    }
}

fn namespace_message(namespace: &Namespace) -> v1::Namespace {
    v1::Namespace {
        quorum: match namespace.sloppy {
            false => v1::Quorum::Strict.into(),
            true => v1::Quorum::Sloppy.into(),
        },
        id: namespace.id.0,
        name: namespace.name.clone(),
        n: namespace.n.into(),
        r: Some(level_message(namespace.r)),
        w: Some(level_message(namespace.w)),
        conflict: match namespace.conflict {
            Conflict::Siblings => v1::ConflictRule::Siblings.into(),
            Conflict::Lww => v1::ConflictRule::Lww.into(),
        },
        durability: match namespace.durability {
            Durability::Buffered => v1::Durability::Buffered.into(),
            Durability::Synced => v1::Durability::Synced.into(),
        },
        value_max_bytes: namespace.value_max_bytes,
        default_ttl_ms: namespace.default_ttl.map_or(0, TtlMs::get),
    }
}

/// A rule that this release does not know would be another one for ever: it is refused.
fn conflict(rule: i32) -> Result<Conflict, RequestError> {
    match v1::ConflictRule::try_from(rule) {
        Ok(v1::ConflictRule::Siblings) => Ok(Conflict::Siblings),
        Ok(v1::ConflictRule::Lww) => Ok(Conflict::Lww),
        Err(_) => Err(RequestError::invalid(format!(
            "conflict rule {rule} is not known here; there are siblings and lww"
        ))),
    }
}

fn new_namespace(message: v1::CreateNamespaceRequest) -> Result<NewNamespace, RequestError> {
    let (asked, quorum) = (durability(message.durability)?, sloppy(message.quorum)?);
    let conflict = conflict(message.conflict)?;
    let v1::CreateNamespaceRequest { name, n, r, w, value_max_bytes, default_ttl, .. } = message;
    let default_ttl = ttl(default_ttl)?.or(None);
    let mut new = NewNamespace { conflict, default_ttl, ..NewNamespace::named(name) };
    if n != 0 {
        let too_many =
            |_| RequestError::invalid(format!("n = {n}: a key has at most 255 replicas"));
        new.n = u8::try_from(n).map_err(too_many)?;
    }
    new.r = level(r)?.unwrap_or(new.r);
    new.w = level(w)?.unwrap_or(new.w);
    new.durability = asked.unwrap_or(new.durability);
    new.sloppy = quorum.unwrap_or(new.sloppy);
    if value_max_bytes != 0 {
        new.value_max_bytes = value_max_bytes;
    }
    Ok(new)
}

fn namespace_update(message: v1::UpdateNamespaceRequest) -> Result<NamespaceUpdate, RequestError> {
    let (durability, sloppy) = (durability(message.durability)?, sloppy(message.quorum)?);
    let v1::UpdateNamespaceRequest { name, r, w, value_max_bytes, default_ttl, .. } = message;
    Ok(NamespaceUpdate {
        name,
        r: level(r)?,
        w: level(w)?,
        durability,
        value_max_bytes: (value_max_bytes != 0).then_some(value_max_bytes),
        sloppy,
        default_ttl: ttl(default_ttl)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dynamo::key::PartitionCount;
    use crate::dynamo::metadata::Document;
    use crate::dynamo::metadata::document::{ClusterId, ClusterKey, FirstDocument, StoreId, Voter};

    /// Five members, two of which own each partition.
    fn view() -> View {
        let name = |number| format!("n{number}");
        let member = |number| Member {
            node: NodeId::of_name(&name(number)),
            name: name(number),
            zone: String::new(),
            weight: 1,
            peer_address: format!("{}:7501", name(number)),
            client_address: format!("{}:7401", name(number)),
        };
        let members: Vec<_> = (0..5).map(member).collect();
        let nodes: Vec<_> = members.iter().map(|member| member.node).collect();
        let first = Document::first(FirstDocument {
            cluster: ClusterId([1; 16]),
            cluster_key: ClusterKey([2; 32]),
            partitions: PartitionCount::new(8).unwrap(),
            voters: vec![Voter { node: nodes[0], store: StoreId(1) }],
            members,
        });
        let new = NewNamespace { n: 2, ..NewNamespace::named("things") };
        let place = |_| (0..8).flat_map(|at| [nodes[at % 4], nodes[4]]).collect();
        View::new(Arc::new(first.unwrap().with_namespace(new, place).unwrap())).unwrap()
    }

    #[test]
    fn who_stands_in_first_is_told_in_the_order_of_the_preference_list() {
        let view = view();
        let [group] = &groups(&view)[..] else { panic!() };
        assert_eq!((group.owners.len(), group.fallbacks_each, group.fallbacks.len()), (16, 2, 16));
        for (partition, told) in view.partitions().zip(group.fallbacks.chunks(2)) {
            let list = view.preference(VnodeId { n: 2, partition }).unwrap();
            let node = |at: &u32| view.document().members[*at as usize].node;
            let told: Vec<_> = told.iter().map(node).collect();
            assert_eq!(told, list.fallbacks()[..2], "{partition:?}");
        }
    }
}
