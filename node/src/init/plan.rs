//! What `init` decides, from what every member says of itself: pure, and before any is changed.

use std::collections::BTreeMap;

use super::InitError;
use crate::dynamo::metadata::document::{ClusterId, Member, StoreId, VOTERS_MAX, Voter};
use crate::transport::grpc::Identity;

/// How many members vote unless told otherwise: five survive the loss of two.
const VOTERS_DEFAULT_MAX: usize = 5;

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Make a cluster.
    Create {
        /// Of these.
        members: Vec<Member>,
        /// Some of which vote.
        voters: Vec<Voter>,
    },
    /// Give the document of a cluster to those that lack it, if it has exactly these members.
    Complete {
        /// The cluster.
        cluster: ClusterId,
        /// The address of a member that has the document.
        source: String,
        /// The addresses of those that lack it.
        missing: Vec<String>,
    },
}

/// Decides what is to be done, from what every member, by address, said of itself.
pub fn plan(identities: &[(String, Identity)], voters: &[String]) -> Result<Plan, InitError> {
    let mut addresses = BTreeMap::new();
    for (address, identity) in identities {
        if let Some(first) = addresses.insert(identity.node, address) {
            let (first, second) = (first.clone(), address.clone());
            return Err(InitError::SameNode { name: identity.name.clone(), first, second });
        }
    }
    let having: Vec<_> = identities
        .iter()
        .filter_map(|(address, identity)| Some((address.clone(), ClusterId(identity.cluster?))))
        .collect();
    let Some((source, cluster)) = having.first().cloned() else {
        let members = identities.iter().map(|(_, identity)| member(identity)).collect();
        return Ok(Plan::Create { members, voters: choose_voters(identities, voters)? });
    };
    if having.iter().any(|(_, other)| *other != cluster) {
        return Err(InitError::Clusters { members: having });
    }
    let lacks = |identity: &Identity| identity.cluster.is_none();
    let missing = identities.iter().filter(|(_, identity)| lacks(identity));
    let missing = missing.map(|(address, _)| address.clone()).collect();
    Ok(Plan::Complete { cluster, source, missing })
}

fn member(identity: &Identity) -> Member {
    let Identity { node, name, zone, weight, peer_address, client_address, .. } = identity.clone();
    Member { node, name, zone, weight, peer_address, client_address }
}

/// The voters named, or an odd number of members, first one of each zone, then by id: a lost zone
/// takes no more of them than it must.
fn choose_voters(
    identities: &[(String, Identity)],
    named: &[String],
) -> Result<Vec<Voter>, InitError> {
    let voter = |identity: &Identity| Voter { node: identity.node, store: StoreId(identity.store) };
    let mut all: Vec<&Identity> = identities.iter().map(|(_, identity)| identity).collect();
    all.sort_by_key(|identity| voter(identity));
    if !named.is_empty() {
        return named_voters(&all, named).map(|chosen| chosen.into_iter().map(voter).collect());
    }
    let mut of_zone = BTreeMap::new();
    let mut ranked = Vec::new();
    for identity in all {
        let rank: &mut usize = of_zone.entry(&identity.zone).or_default();
        ranked.push((*rank, voter(identity)));
        *rank += 1;
    }
    ranked.sort();
    let most = ranked.len().min(VOTERS_DEFAULT_MAX);
    let odd = most - (1 - most % 2);
    Ok(ranked.into_iter().take(odd).map(|(_, voter)| voter).collect())
}

fn named_voters<'a>(
    all: &[&'a Identity],
    named: &[String],
) -> Result<Vec<&'a Identity>, InitError> {
    if named.len() > VOTERS_MAX {
        return Err(InitError::TooManyVoters { voters: named.len() });
    }
    let mut chosen = Vec::new();
    for (at, name) in named.iter().enumerate() {
        if named[..at].contains(name) {
            return Err(InitError::RepeatedVoter { name: name.clone() });
        }
        let Some(identity) = all.iter().find(|identity| identity.name == *name) else {
            let members = all.iter().map(|identity| identity.name.clone()).collect();
            return Err(InitError::UnknownVoter { name: name.clone(), members });
        };
        chosen.push(*identity);
    }
    Ok(chosen)
}
