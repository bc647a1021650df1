//! The naive twin: shares by pouring drops, zone turns by dealing, movement by counting.

use super::*;

/// Drops per partition.
const DROPS: u32 = 8;

pub(super) struct Limits {
    pub(super) least: BTreeMap<String, u32>,
    pub(super) most: BTreeMap<String, u32>,
}

fn eligible(members: &[PlacementMember]) -> Vec<&PlacementMember> {
    members.iter().filter(|member| member.weight > 0).collect()
}

/// Deals n seats to zones, one per zone and round: the last round is for some of the zones.
pub(super) fn limits(members: &[PlacementMember], n: u8) -> Limits {
    let mut rest: BTreeMap<String, u32> = BTreeMap::new();
    eligible(members).iter().for_each(|m| *rest.entry(m.zone.clone()).or_default() += 1);
    let mut most: BTreeMap<String, u32> = rest.keys().map(|zone| (zone.clone(), 0)).collect();
    let mut least = most.clone();
    while most.values().sum::<u32>() < u32::from(n) {
        least = most.clone();
        for (zone, left) in rest.iter_mut().filter(|(_, left)| **left > 0) {
            *left -= 1;
            *most.get_mut(zone).unwrap() += 1;
        }
    }
    Limits { least, most }
}

/// Gives each drop to the member that has least for its weight, among those that may take it.
pub(super) fn shares(members: &[PlacementMember], q: u32, n: u8) -> BTreeMap<NodeId, f64> {
    let Limits { least, most } = limits(members, n);
    let mut drops: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut zones: BTreeMap<&str, u32> = BTreeMap::new();
    let full = q * DROPS;
    for rest in (1..=full * u32::from(n)).rev() {
        let held = |zone: &str| zones.get(zone).copied().unwrap_or(0);
        let owed = |zone: &str| (full * least[zone]).saturating_sub(held(zone));
        let all_owed: u32 = least.keys().map(|zone| owed(zone)).sum();
        let may_take = |m: &&PlacementMember| {
            let has = drops.get(&m.node).copied().unwrap_or(0);
            let spare = owed(&m.zone) > 0 || rest > all_owed;
            has < full && held(&m.zone) < full * most[&m.zone] && spare
        };
        let level = |m: &PlacementMember| {
            f64::from(drops.get(&m.node).copied().unwrap_or(0)) / f64::from(m.weight)
        };
        let takers = eligible(members).into_iter().filter(may_take);
        let taker = takers.min_by(|x, y| level(x).total_cmp(&level(y))).unwrap();
        *drops.entry(taker.node).or_default() += 1;
        *zones.entry(&taker.zone).or_default() += 1;
    }
    drops.into_iter().map(|(node, has)| (node, f64::from(has) / f64::from(DROPS))).collect()
}

/// Whether some chain of exchanges would leave zones and quotas as they must be and move less:
/// a cycle of negative cost, which Bellman and Ford find, among what the table leaves free.
pub(super) fn could_move_less(
    before: &Placement,
    after: &Placement,
    members: &[PlacementMember],
) -> bool {
    let members = eligible(members);
    let quotas =
        quotas(&members, &zone_turns(&members, after.n), (after.partitions.get(), after.n));
    let arcs = free_arcs(before, after, &members, &quotas);
    let mut costs: BTreeMap<&Vertex<'_>, i32> = BTreeMap::new();
    let relax = |_| {
        let mut better = false;
        for (from, to, cost) in &arcs {
            let cost = costs.get(from).copied().unwrap_or(0) + cost;
            if cost < costs.get(to).copied().unwrap_or(0) {
                costs.insert(to, cost);
                better = true;
            }
        }
        better
    };
    (0..2 * arcs.len()).all(relax)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Vertex<'a> {
    Rounding,
    Member(NodeId),
    Partition(PartitionId),
    Zone(PartitionId, &'a str),
}

/// Each single change that the table leaves free, with what it adds to the moves.
fn free_arcs<'a>(
    before: &Placement,
    after: &Placement,
    members: &[&'a PlacementMember],
    quotas: &[Quota],
) -> Vec<(Vertex<'a>, Vertex<'a>, i32)> {
    let mut arcs = Vec::new();
    for (m, quota) in members.iter().zip(quotas) {
        let load = after.partitions_of(m.node).count() as u32;
        let (member, rounding) = (Vertex::Member(m.node), Vertex::Rounding);
        arcs.extend((load < quota.most).then_some((member, rounding, 0)));
        arcs.extend((load > quota.least).then_some((rounding, member, 0)));
    }
    let turns = zone_turns(members, after.n);
    for p in after.partitions.iter() {
        let owns = |m: &PlacementMember| after.owners(p).contains(&m.node);
        for (&name, turn) in &turns {
            let held = members.iter().filter(|m| m.zone == name && owns(m)).count() as u32;
            let (partition, zone) = (Vertex::Partition(p), Vertex::Zone(p, name));
            arcs.extend((held < turn.most).then_some((partition, zone, 0)));
            arcs.extend((held > turn.least).then_some((zone, partition, 0)));
        }
        for m in members {
            let cost = i32::from(!before.owners(p).contains(&m.node));
            let (zone, member) = (Vertex::Zone(p, &m.zone), Vertex::Member(m.node));
            arcs.push(if owns(m) { (member, zone, -cost) } else { (zone, member, cost) });
        }
    }
    arcs
}

/// What no table can do without: members below their share gain, members above it and members
/// that left give to others. Zones and who owns what together may demand more.
pub(super) fn least_moves(before: &Placement, members: &[PlacementMember], n: u8) -> usize {
    let q = before.partitions.get();
    let (mut gained, mut kept) = (0, 0);
    for (node, share) in shares(members, q.into(), n) {
        let had = before.partitions_of(node).count();
        gained += (share.floor() as usize).saturating_sub(had);
        kept += had.min(share.ceil() as usize);
    }
    gained.max(usize::from(q) * usize::from(n) - kept)
}
