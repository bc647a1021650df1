//! Writes as transcripts, and against a naive twin.

use std::collections::BTreeMap;
use std::error::Error;

use goldenscript::{Command, Context, Runner};
use proptest::prelude::*;

use super::*;
use crate::dynamo::quorum::testing::{cause, next, nodes, run_scripts, show, show_nodes};

#[test]
fn transcripts() {
    run_scripts("write/scripts", 4, Transcript::default);
}

/// Runs `owners NODE..`, `write w=W`, `ack NODE [synced]`, `fail NODE CAUSE`, `receipt`, `missing`, `retry`.
#[derive(Default)]
struct Transcript {
    owners: Vec<NodeId>,
    write: Option<WriteOp>,
}

impl Runner for Transcript {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "owners" => {
                self.owners = nodes(&mut args)?;
                return Ok(String::new());
            }
            "write" => {
                let needed = args.take_key("w").ok_or("w is missing")?.parse()?;
                self.write = Some(WriteOp::new(needed, &self.owners));
            }
            _ => {}
        }
        let write = self.write.as_mut().ok_or("no write yet")?;
        match command.name.as_str() {
            "write" => {}
            "ack" => write.on_ack(NodeId(next(&mut args)?), context.tags.contains("synced")),
            "fail" => {
                let node = NodeId(next(&mut args)?);
                write.on_failure(node, cause(args.next_pos().ok_or("no cause")?)?);
            }
            "receipt" => {
                let Acks { nodes, synced } = write.receipt();
                return Ok(format!("acknowledged by {}, {synced} synced", show_nodes(&nodes)));
            }
            "retry" if write.is_in_vain() => return Ok("in vain".to_owned()),
            "retry" => return Ok("may help".to_owned()),
            "missing" => return Ok(format!("missing at {}", show_nodes(&write.missing()))),
            name => return Err(format!("{name} is no command").into()),
        }
        args.reject_next()?;
        Ok(show(write.verdict(), write.tally(), write.failures()))
    }
}

proptest! {
    /// The twin keeps each owner's first reply in a map and counts from scratch.
    #[test]
    fn a_write_counts_each_owners_first_reply(
        needed in 1..5u8,
        n in 1..5u64,
        replies in prop::collection::vec((0..6u64, any::<bool>(), any::<bool>()), 0..12),
    ) {
        let owners: Vec<NodeId> = (0..n).map(NodeId).collect();
        let mut write = WriteOp::new(needed, &owners);
        let mut first: BTreeMap<NodeId, bool> = BTreeMap::new();
        let mut receipt = Acks::default();
        for (node, ack, synced) in replies {
            let (node, before) = (NodeId(node), write.verdict());
            if ack { write.on_ack(node, synced) } else { write.on_failure(node, Cause::Timeout) }
            if owners.contains(&node) && !first.contains_key(&node) {
                first.insert(node, ack);
                if ack {
                    receipt.nodes.push(node);
                    receipt.synced += u32::from(synced);
                }
            }
            let acks = first.values().filter(|&&ack| ack).count();
            let failures = first.len() - acks;
            let expected = match () {
                () if acks >= needed.into() => Verdict::Reached,
                () if owners.len() - failures < needed.into() => Verdict::Unreachable,
                () => Verdict::Pending,
            };
            prop_assert_eq!(write.verdict(), expected);
            prop_assert!(before == Verdict::Pending || before == expected, "a verdict stays");
            prop_assert_eq!(write.receipt(), receipt.clone());
            prop_assert_eq!(write.failures().len(), failures);
        }
        let missing: Vec<NodeId> =
            owners.into_iter().filter(|node| first.get(node) != Some(&true)).collect();
        prop_assert_eq!(write.missing(), missing);
    }
}
