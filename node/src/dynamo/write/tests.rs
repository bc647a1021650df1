//! Writes as transcripts, and against a naive twin.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use goldenscript::{Command, Context, Runner};
use proptest::prelude::*;

use super::*;
use crate::dynamo::quorum::testing::{cause, next, nodes, run_scripts, show, show_nodes};

#[test]
fn transcripts() {
    run_scripts("write/scripts", 9, Transcript::default);
}

/// Runs `owners NODE..`, `fallbacks NODE..`, `away NODE..`, `write w=W [by=NODE]` (tagged `sloppy`,
/// `synced`), `ack NODE` (`synced`), `fail NODE CAUSE`, `kept NODE OWNER` (`synced`),
/// `unkept NODE OWNER`, `late`, `receipt`, `retry`.
#[derive(Default)]
struct Transcript {
    owners: Vec<NodeId>,
    fallbacks: Vec<NodeId>,
    away: Vec<NodeId>,
    write: Option<WriteOp>,
}

impl Runner for Transcript {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let synced = context.tags.contains("synced");
        match command.name.as_str() {
            "owners" => {
                (self.owners, self.fallbacks, self.away) = (nodes(&mut args)?, vec![], vec![]);
                return Ok(String::new());
            }
            "fallbacks" => {
                self.fallbacks = nodes(&mut args)?;
                return Ok(String::new());
            }
            "away" => {
                self.away = nodes(&mut args)?;
                return Ok(String::new());
            }
            "write" => {
                let needed = args.take_key("w").ok_or("w is missing")?.parse()?;
                let coordinator = args.take_key("by").map_or("1", |by| by);
                let mut write = WriteOp::new(WritePlan {
                    needed,
                    coordinator: NodeId(coordinator.parse()?),
                    owners: self.owners.clone(),
                    fallbacks: self.fallbacks.clone(),
                    sloppy: context.tags.contains("sloppy"),
                });
                let away = |node| self.away.contains(&node).then_some(Cause::Away);
                let effects = write.start(synced, away);
                args.reject_next()?;
                let told = told(&write, effects);
                self.write = Some(write);
                return Ok(told);
            }
            _ => {}
        }
        let write = self.write.as_mut().ok_or("no write yet")?;
        let mut stand_in = || -> Result<StandIn, Box<dyn Error>> {
            Ok(StandIn { node: NodeId(next(&mut args)?), owner: NodeId(next(&mut args)?) })
        };
        let mut effects = Vec::new();
        match command.name.as_str() {
            "ack" => write.on_ack(NodeId(next(&mut args)?), synced),
            "kept" => write.on_kept(stand_in()?, synced),
            "unkept" => effects.extend(write.on_not_kept(stand_in()?, Cause::HintsFull)),
            "late" => effects = write.on_late(),
            "fail" => {
                let node = NodeId(next(&mut args)?);
                effects.extend(write.on_failure(node, cause(args.next_pos().ok_or("no cause")?)?));
            }
            "receipt" => return Ok(shown(&write.receipt())),
            "retry" if write.is_in_vain() => return Ok("in vain".to_owned()),
            "retry" => return Ok("may help".to_owned()),
            name => return Err(format!("{name} is no command").into()),
        }
        args.reject_next()?;
        Ok(told(write, effects))
    }
}

/// `pending 1/2; send 2; keep 4(3)`.
fn told(write: &WriteOp, effects: Vec<Effect>) -> String {
    let failures = [write.failures(), write.not_kept()].concat();
    let mut told = show(write.verdict(), write.tally(), &failures);
    if write.is_settled() {
        told.push_str(", settled");
    }
    for effect in effects {
        match effect {
            Effect::Send(node) => told.push_str(&format!("; send {}", node.0)),
            Effect::Keep(by) => told.push_str(&format!("; keep {}({})", by.node.0, by.owner.0)),
        }
    }
    told
}

fn shown(Acks { owners, fallbacks, synced }: &Acks) -> String {
    let mut by = show_nodes(owners);
    fallbacks.iter().for_each(|by_| by.push_str(&format!(" {}({})", by_.node.0, by_.owner.0)));
    format!("acknowledged by {by}, {synced} synced")
}

/// What happens in a random run.
#[derive(Clone, Copy, Debug)]
enum Event {
    Ack(u64, bool),
    Failure(u64, Cause),
    Kept(u64, u64, bool),
    NotKept(u64, u64),
    Late,
}

fn events() -> impl Strategy<Value = Event> {
    let causes = prop_oneof![
        3 => Just(Cause::Timeout),
        1 => Just(Cause::Overloaded),
        1 => Just(Cause::Clocks),
    ];
    prop_oneof![
        4 => (0..6u64, any::<bool>()).prop_map(|(node, synced)| Event::Ack(node, synced)),
        4 => (0..6u64, causes).prop_map(|(node, cause)| Event::Failure(node, cause)),
        5 => (0..8u64, 0..5u64, any::<bool>()).prop_map(|(n, o, synced)| Event::Kept(n, o, synced)),
        3 => (0..8u64, 0..5u64).prop_map(|(node, owner)| Event::NotKept(node, owner)),
        2 => Just(Event::Late),
    ]
}

/// The naive twin keeps what was asked of whom and what each said first, and counts from scratch: who
/// has the object, each node for one owner.
#[derive(Default)]
struct Twin {
    asked: BTreeSet<(u64, u64)>,
    said: BTreeMap<(u64, u64), Option<bool>>,
    refused: BTreeSet<u64>,
}

impl Twin {
    fn ask(&mut self, effects: &[Effect]) {
        for effect in effects {
            let asked = match effect {
                Effect::Send(node) => (node.0, node.0),
                Effect::Keep(by) => (by.node.0, by.owner.0),
            };
            assert!(self.asked.insert(asked), "{asked:?} was asked twice");
        }
    }

    /// Whether that is the first word of one that was asked.
    fn hear(&mut self, of: (u64, u64), synced: Option<bool>) -> bool {
        let first = self.asked.contains(&of) && !self.said.contains_key(&of);
        // A stand-in for an owner that has the write by now is not heard.
        if first && !(of.0 != of.1 && self.refused.contains(&of.1)) {
            self.said.insert(of, synced);
            return true;
        }
        false
    }

    fn has(&self, of: (u64, u64)) -> bool {
        matches!(self.said.get(&of), Some(Some(_)))
    }

    /// Whether an owner failed, and nobody has the object for it or was asked to and has not answered.
    fn is_vacant(&self, owner: u64) -> bool {
        let failed = self.said.get(&(owner, owner)) == Some(&None);
        let gone = |of: &&(u64, u64)| self.said.get(of) == Some(&None);
        let asked = self.asked.iter().filter(|of| of.1 == owner);
        failed && !self.refused.contains(&owner) && asked.clone().all(|of| gone(&of))
    }

    /// For how many owners somebody vouches.
    fn acks(&self, owners: u64, sloppy: bool) -> usize {
        let by_other = |owner| (0..8).any(|node| node >= owners && self.has((node, owner)));
        (0..owners).filter(|&o| self.has((o, o)) || sloppy && by_other(o)).count()
    }
}

fn nodes_of(range: std::ops::Range<u64>) -> Vec<NodeId> {
    range.map(NodeId).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_write_counts_each_owner_once_and_says_who_has_it(
        (needed, n, spare) in (1..4u8, 1..5u64, 0..3u64),
        (sloppy, by_fallback, away) in
            (any::<bool>(), any::<bool>(), prop_oneof![Just(0), 0..32u64]),
        events in prop::collection::vec(events(), 0..24),
    ) {
        let sloppy = sloppy || by_fallback;
        let coordinator = if by_fallback { 7 } else { 0 };
        let fallbacks = nodes_of(n..n + spare);
        let (owners, fallback_count) = (nodes_of(0..n), fallbacks.len());
        let coordinator_id = NodeId(coordinator);
        let mut write =
            WriteOp::new(WritePlan { needed, coordinator: coordinator_id, owners, fallbacks, sloppy });
        let mut twin = Twin::default();
        let is_away = |node: NodeId| (away >> node.0 & 1 == 1).then_some(Cause::Away);
        twin.ask(&write.start(false, is_away));
        if !by_fallback {
            twin.asked.insert((0, 0));
            twin.hear((0, 0), Some(false));
        }
        let mut verdicts = vec![write.verdict()];
        for event in events {
            let effects: Vec<Effect> = match event {
                Event::Ack(node, synced) => {
                    twin.hear((node, node), Some(synced));
                    write.on_ack(NodeId(node), synced);
                    vec![]
                }
                Event::Failure(node, cause) => {
                    let first = node < n && twin.hear((node, node), None);
                    if first && cause.has_the_write() {
                        twin.refused.insert(node);
                        if write.verdict() == Verdict::Pending {
                            twin.said.retain(|of, _| of.0 == of.1 || of.1 != node);
                        }
                    }
                    write.on_failure(NodeId(node), cause).into_iter().collect()
                }
                Event::Kept(node, owner, synced) => {
                    if node != owner {
                        twin.hear((node, owner), Some(synced));
                    }
                    write.on_kept(StandIn { node: NodeId(node), owner: NodeId(owner) }, synced);
                    vec![]
                }
                Event::NotKept(node, owner) => {
                    if node != owner {
                        twin.hear((node, owner), None);
                    }
                    let by = StandIn { node: NodeId(node), owner: NodeId(owner) };
                    write.on_not_kept(by, Cause::Timeout).into_iter().collect()
                }
                Event::Late => write.on_late(),
            };
            twin.ask(&effects);
            verdicts.push(write.verdict());

            let receipt = write.receipt();
            for owner in &receipt.owners {
                prop_assert!(twin.has((owner.0, owner.0)), "{owner} is named and did not say so");
            }
            let mut own_hints = 0;
            for by in &receipt.fallbacks {
                prop_assert!(!receipt.owners.contains(&by.owner), "counted twice: {by:?}");
                match by.node == coordinator_id {
                    true => own_hints += 1,
                    false => prop_assert!(twin.has((by.node.0, by.owner.0)), "{by:?} did not"),
                }
            }
            let named: BTreeSet<NodeId> = receipt.owners.iter().copied()
                .chain(receipt.fallbacks.iter().map(|by| by.node)).collect();
            let acks = receipt.owners.len() + receipt.fallbacks.len();
            prop_assert_eq!(named.len(), acks, "a node is named for two: {:?}", receipt);
            prop_assert!(own_hints <= usize::from(by_fallback));
            if by_fallback && own_hints == 0 && write.verdict() == Verdict::Pending {
                prop_assert_eq!((0..n).find(|&owner| twin.is_vacant(owner)), None, "{:?}", receipt);
            }
            prop_assert_eq!(acks, write.tally().acks() as usize);
            prop_assert!(acks >= twin.acks(n, sloppy));
            prop_assert!(acks <= twin.acks(n, sloppy) + usize::from(by_fallback));
            prop_assert!(sloppy || receipt.fallbacks.is_empty());
        }
        let first = verdicts.iter().position(|&verdict| verdict != Verdict::Pending);
        if let Some(first) = first {
            prop_assert!(verdicts[first..].iter().all(|v| *v == verdicts[first]), "{:?}", verdicts);
        }
        prop_assert!(twin.asked.len() <= 2 * n as usize + fallback_count);
    }

    /// Whatever fails, in the end each owner has the object or is owed it, if only by the coordinator.
    #[test]
    fn nobody_is_forgotten(
        (needed, n, spare, sloppy) in (1..4u8, 1..5u64, 0..3u64, any::<bool>()),
        fails in prop::collection::vec(any::<bool>(), 16),
    ) {
        let plan = WritePlan {
            needed,
            coordinator: NodeId(0),
            owners: nodes_of(0..n),
            fallbacks: nodes_of(n..n + spare),
            sloppy,
        };
        let mut write = WriteOp::new(plan);
        let mut fails = fails.into_iter();
        let mut owed: BTreeSet<u64> = (1..n).collect();
        let mut waiting = write.start(true, |_| None);
        while let Some(effect) = waiting.pop() {
            prop_assert!(!write.is_settled());
            let here = matches!(effect, Effect::Keep(by) if by.node == NodeId(0));
            match (effect, fails.next().unwrap_or(false) && !here) {
                (Effect::Send(node), true) => waiting.extend(write.on_failure(node, Cause::Timeout)),
                (Effect::Keep(by), true) => waiting.extend(write.on_not_kept(by, Cause::Timeout)),
                (Effect::Send(node), false) => {
                    owed.remove(&node.0);
                    write.on_ack(node, true);
                }
                (Effect::Keep(by), false) => {
                    owed.remove(&by.owner.0);
                    write.on_kept(by, true);
                }
            }
        }
        prop_assert!(write.is_settled());
        prop_assert_eq!(owed, BTreeSet::new());
    }
}
