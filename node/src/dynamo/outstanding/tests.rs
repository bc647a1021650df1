use proptest::prelude::*;

use super::*;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    /// Time goes on.
    Wait(u64),
    /// Members are looked at: trouble so long ago, if any, and whether they are down; none: no member.
    Look(Vec<Option<(Option<u64>, bool)>>),
    /// One tells, asked so long ago, whom it keeps hints for.
    Answer(u64, u64, BTreeSet<NodeId>),
}

fn node() -> impl Strategy<Value = u64> {
    0..4_u64
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let look = prop::option::weighted(0.9, (prop::option::of(0..3_u64), any::<bool>()));
    let targets = prop::collection::btree_set(node().prop_map(NodeId), 0..3);
    let event = prop_oneof![
        prop_oneof![4 => 0..3_u64, 1 => 900..1100_u64].prop_map(Event::Wait),
        prop::collection::vec(look, 4).prop_map(Event::Look),
        (node(), 0..4_u64, targets).prop_map(|(node, ago, to)| Event::Answer(node, ago, to)),
    ];
    prop::collection::vec(event, 0..40)
}

/// Forgets nothing, and looks it all up.
#[derive(Default)]
struct Twin {
    members: BTreeMap<NodeId, bool>,
    trouble: Vec<(NodeId, u64)>,
    answers: Vec<(NodeId, u64, BTreeSet<NodeId>)>,
}

impl Twin {
    fn who_leaves_doubt(&self, node: NodeId, now_ms: u64) -> BTreeSet<NodeId> {
        let others = self.members.iter().filter(|(other, down)| **other != node && !**down);
        let doubtful = others.filter(|&(&other, _)| self.leaves_doubt(other, node, now_ms));
        doubtful.map(|(&other, _)| other).collect()
    }

    /// Of two answers to questions of one time, the later one.
    fn last_answer(&self, other: NodeId) -> Option<&(NodeId, u64, BTreeSet<NodeId>)> {
        let answers = self.answers.iter().filter(|(of, ..)| *of == other);
        answers.max_by_key(|(_, asked_ms, _)| *asked_ms)
    }

    fn names(&self, other: NodeId, node: NodeId) -> bool {
        let is_up = self.members.get(&other) == Some(&false);
        is_up && self.last_answer(other).is_some_and(|(.., targets)| targets.contains(&node))
    }

    fn leaves_doubt(&self, other: NodeId, node: NodeId, now_ms: u64) -> bool {
        let Some((_, asked_ms, targets)) = self.last_answer(other) else { return true };
        let trouble = |of| self.trouble.iter().any(|(with, ms)| *with == of && ms >= asked_ms);
        trouble(node) || trouble(other) || targets.contains(&node) || now_ms >= asked_ms + STALE_MS
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whoever_is_in_doubt_is_so_by_the_rules(events in events()) {
        let (mut outstanding, mut twin, mut now_ms) =
            (Outstanding::default(), Twin::default(), 10_u64);
        for event in events {
            match event {
                Event::Wait(ms) => now_ms += ms,
                Event::Look(seen) => {
                    let seen = (0..).map(NodeId).zip(seen);
                    let seen: BTreeMap<NodeId, Look> = seen
                        .filter_map(|(node, seen)| Some((node, seen?)))
                        .map(|(node, (ago, down))| {
                            (node, Look { trouble_ms: ago.map(|ago| now_ms - ago), down })
                        })
                        .collect();
                    outstanding.look(&seen);
                    twin.trouble.retain(|(node, _)| seen.contains_key(node));
                    twin.answers.retain(|(node, ..)| seen.contains_key(node));
                    let trouble = |(&node, look): (&NodeId, &Look)| Some((node, look.trouble_ms?));
                    twin.trouble.extend(seen.iter().filter_map(trouble));
                    twin.members = seen.iter().map(|(&node, look)| (node, look.down)).collect();
                }
                Event::Answer(node, ago, targets) => {
                    let (node, asked_ms) = (NodeId(node), now_ms - ago);
                    outstanding.on_answer(node, asked_ms, targets.clone());
                    if twin.members.contains_key(&node) {
                        twin.answers.push((node, asked_ms, targets));
                    }
                }
            }
            let members = twin.members.keys().copied();
            let doubted = members.map(|node| (node, twin.who_leaves_doubt(node, now_ms)));
            let doubted: BTreeMap<_, _> = doubted.filter(|(_, by)| !by.is_empty()).collect();
            prop_assert_eq!(outstanding.doubted(now_ms), doubted);
            let holders = outstanding.holders();
            for (other, node) in (0..4).flat_map(|other| (0..4).map(move |node| (other, node))) {
                let (other, node) = (NodeId(other), NodeId(node));
                let named = holders.get(&node).is_some_and(|holders| holders.contains(&other));
                prop_assert_eq!(named, twin.names(other, node), "{} names {}", other, node);
            }
        }
    }
}

fn doubted(outstanding: &Outstanding, now_ms: u64) -> BTreeSet<NodeId> {
    outstanding.doubted(now_ms).into_keys().collect()
}

#[test]
fn an_owner_is_in_doubt_until_all_were_asked_after_its_trouble_and_its_hints_are_home() {
    let [a, b, c] = [1, 2, 3].map(NodeId);
    let fine = Look { trouble_ms: None, down: false };
    let mut members = BTreeMap::from([(a, fine), (b, fine), (c, fine)]);
    let mut outstanding = Outstanding::default();
    outstanding.look(&members);
    let all = BTreeSet::from([a, b, c]);
    assert_eq!((doubted(&outstanding, 10), outstanding.unheard(10)), (all.clone(), all));
    let none = BTreeSet::new;
    [a, b].iter().for_each(|&node| outstanding.on_answer(node, 10, none()));
    // Whom c keeps hints for, nobody knows; a and b keep none for c.
    assert_eq!(doubted(&outstanding, 11), BTreeSet::from([a, b]));
    outstanding.on_answer(c, 11, none());
    assert_eq!(doubted(&outstanding, 12), none());
    // c is not reached for a while, so that what it keeps for others is not known either.
    members.insert(c, Look { trouble_ms: Some(20), down: false });
    outstanding.look(&members);
    assert_eq!(doubted(&outstanding, 20), BTreeSet::from([a, b, c]));
    outstanding.on_answer(c, 21, none());
    outstanding.on_answer(a, 21, BTreeSet::from([c]));
    outstanding.on_answer(b, 20, none());
    assert_eq!(doubted(&outstanding, 22), BTreeSet::from([c]));
    outstanding.on_answer(b, 22, none());
    assert_eq!(outstanding.doubted(22), [(c, [a].into())].into(), "a keeps a hint for it");
    outstanding.on_answer(a, 23, none());
    assert_eq!(doubted(&outstanding, 23), none());
    // Who is down has nothing to tell; who is silent for long is not believed.
    members.insert(b, Look { trouble_ms: Some(30), down: true });
    outstanding.look(&members);
    [a, c].iter().for_each(|&node| outstanding.on_answer(node, 31, none()));
    assert_eq!(doubted(&outstanding, 31), none());
    assert_eq!(doubted(&outstanding, 31 + STALE_MS), BTreeSet::from([a, b, c]));
}
