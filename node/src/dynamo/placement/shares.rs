//! How many partitions each member should own: its share.
//!
//! Were there no limits, a member's share would be its weight's part of all Q * N assignments. Two
//! limits stand against that: a member owns a partition at most once, and zones are spread over
//! evenly, so a partition takes no more from a zone than that zone's turn. The *share that weight
//! and zones allow* is found by filling with water: every member is a vessel as wide as its weight
//! and all are filled to one level; a member that is full (Q), or a zone that is full, takes no
//! more, and the level of the others rises for it. Of all shares within the limits this is the one
//! with the least sum of share² / weight.
//!
//! ```text
//!   Q = 256, N = 2, weights 1     A: a1        B: b1   b2   b3   b4   b5
//!   by weight alone               85           85   85   85   85   85      B takes 427 > 256
//!   what the zones allow          256          51   51   51   51   51
//! ```

use std::collections::BTreeMap;

use super::PlacementMember;

/// How many owners a partition takes from a zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ZoneTurn {
    /// At least so many.
    pub(super) least: u32,
    /// At most so many; at most one more than `least`.
    pub(super) most: u32,
    /// How many members the zone has.
    pub(super) size: u32,
}

/// How many partitions a member owns: its share rounded down or up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Quota {
    /// The share rounded down.
    pub(super) least: u32,
    /// The share rounded up.
    pub(super) most: u32,
}

/// Takes owners from all zones in turn, until there are `n`: zones that ran out of members are
/// passed over, and who comes last in the last round is not decided here.
pub(super) fn zone_turns<'a>(
    members: &[&'a PlacementMember],
    n: u8,
) -> BTreeMap<&'a str, ZoneTurn> {
    let mut sizes: BTreeMap<&str, u32> = BTreeMap::new();
    members.iter().for_each(|member| *sizes.entry(&member.zone).or_default() += 1);
    let taken = |rounds: u32| sizes.values().map(|&size| size.min(rounds)).sum::<u32>();
    let rounds = (1..).find(|&rounds| taken(rounds) >= u32::from(n)).expect("n members exist");
    let turn = |size: u32| ZoneTurn { least: size.min(rounds - 1), most: size.min(rounds), size };
    sizes.iter().map(|(&zone, &size)| (zone, turn(size))).collect()
}

/// A part of a partition: fine enough that the errors of all members together stay far below one
/// partition, so the quotas always add up.
const UNIT: u128 = 1 << 64;

/// The quotas of `members`, each within one partition of the share that weight and zones allow.
pub(super) fn quotas(
    members: &[&PlacementMember],
    turns: &BTreeMap<&str, ZoneTurn>,
    (partitions, n): (u16, u8),
) -> Vec<Quota> {
    let full = u128::from(partitions) * UNIT;
    let filled = |member: &PlacementMember, level| full.min(u128::from(member.weight) * level);
    let poured = |zone: &str, level| -> u128 {
        let inside = members.iter().filter(|member| member.zone == zone);
        inside.map(|member| filled(member, level)).sum()
    };
    let zone_share = |zone: &str, level| {
        let turn = turns[zone];
        poured(zone, level).clamp(full * u128::from(turn.least), full * u128::from(turn.most))
    };
    let everywhere = |level| turns.keys().map(|zone| zone_share(zone, level)).sum();
    let common = level_of(full * u128::from(n), full, everywhere);
    let levels: BTreeMap<&str, u128> = turns
        .keys()
        .map(|&zone| (zone, level_of(zone_share(zone, common), full, |level| poured(zone, level))))
        .collect();
    members.iter().map(|member| Quota::of(filled(member, levels[member.zone.as_str()]))).collect()
}

/// The lowest level that holds `wanted`; `highest` holds it.
fn level_of(wanted: u128, highest: u128, held: impl Fn(u128) -> u128) -> u128 {
    let (mut low, mut high) = (0, highest);
    while low < high {
        let middle = low + (high - low) / 2;
        if held(middle) >= wanted { high = middle } else { low = middle + 1 }
    }
    low
}

impl Quota {
    fn of(share: u128) -> Self {
        /// Shares are rounded to a millionth first: exact ones come out a few units off.
        const GRAINS: u128 = 1 << 20;
        const GRAIN: u128 = UNIT / GRAINS;
        let grains = (share + GRAIN / 2) / GRAIN;
        let whole = |count: u128| u32::try_from(count).expect("at most Q partitions");
        Self { least: whole(grains / GRAINS), most: whole(grains.div_ceil(GRAINS)) }
    }
}
