//! Reads as transcripts.

use std::error::Error;

use bytes::Bytes;
use goldenscript::{Argument, Command, Context, Runner};

use super::*;
use crate::dynamo::clock::{Actor, Dot, VersionVector};
use crate::dynamo::object::{Entry, testing};
use crate::dynamo::quorum::testing::{cause, next, nodes, run_scripts, show, show_nodes};

#[test]
fn transcripts() {
    run_scripts("read/scripts", 8, Transcript::default);
}

/// Runs one read at a time:
///
/// ```text
/// owners NODE..                 the owners in the order in which to ask
/// read r=R [blocking]           starts
/// object NODE OBJECT            the node sends its object, or ...
/// digest NODE OBJECT            ... the digest of it
/// fail NODE CAUSE               the request under way at the node fails
/// repaired NODE                 the node took the repair
/// slow                          the caller's timer
/// finish
/// ```
///
/// OBJECT is `absent` or entries and what else was seen: `a1=x saw=b2` is {a:1 → x}, V {a:1, b:2}.
/// Each command answers with the verdict, the counts and the effects.
#[derive(Default)]
struct Transcript {
    owners: Vec<NodeId>,
    read: Option<ReadOp>,
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
            "read" => {
                let needed = args.take_key("r").ok_or("r is missing")?.parse()?;
                let blocking = context.tags.contains("blocking");
                let repair = if blocking { Repair::Blocking } else { Repair::Async };
                let plan =
                    ReadPlan { needed, owners: self.owners.clone(), repair, digester: digester() };
                self.read = Some(ReadOp::new(plan));
            }
            "finish" => {
                return Ok(show_outcome(self.read.take().ok_or("no read")?.finish()));
            }
            _ => {}
        }
        let read = self.read.as_mut().ok_or("no read yet")?;
        let effects = match command.name.as_str() {
            "read" => read.start(),
            "object" => read.on_object(NodeId(next(&mut args)?), object(args.collect())?),
            "digest" => {
                let node = NodeId(next(&mut args)?);
                read.on_digest(node, digester().digest(&object(args.collect())?))
            }
            "fail" => {
                let node = NodeId(next(&mut args)?);
                read.on_failure(node, cause(args.next_pos().ok_or("no cause")?)?)
            }
            "repaired" => read.on_repaired(NodeId(next(&mut args)?)),
            "slow" => read.on_slow(),
            name => return Err(format!("{name} is no command").into()),
        };
        let stands = show(read.verdict(), read.tally(), read.failures());
        Ok(format!("{stands}{}", show_effects(&effects)))
    }
}

pub(super) fn digester() -> Digester {
    Digester {
        cluster: ClusterKey([7; 32]),
        namespace: NamespaceId(1),
        key: Key::new("k").unwrap(),
    }
}

fn object(args: Vec<&Argument>) -> Result<Object, Box<dyn Error>> {
    let (mut entries, mut version) = (Vec::new(), VersionVector::new());
    for arg in args {
        match arg {
            Argument::Positional(absent) if absent == "absent" => {}
            Argument::KeyValue(saw, dot) if saw == "saw" => version.raise(parse_dot(dot)?),
            Argument::KeyValue(dot, value) => {
                let dot = parse_dot(dot)?;
                let payload = Bytes::from(value.clone());
                entries.push((dot, Entry { payload, ..testing::entry(dot) }));
                version.raise(dot);
            }
            other => return Err(format!("{other} is no part of an object").into()),
        }
    }
    entries.sort_by_key(|(dot, _)| *dot);
    Object::from_parts(entries, version).ok_or_else(|| "no sound object".into())
}

/// `b2` is the second dot of actor b.
fn parse_dot(text: &str) -> Result<Dot, Box<dyn Error>> {
    let (actor, n) = text.split_at_checked(1).ok_or("no dot")?;
    Ok(Dot { actor: Actor(actor.as_bytes()[0].into()), n: n.parse()? })
}

fn show_dot(dot: Dot) -> String {
    format!("{}:{}", char::from(dot.actor.0 as u8), dot.n)
}

fn show_effects(effects: &[Effect]) -> String {
    let show = |effect: &Effect| match effect {
        Effect::AskObject(node) => format!("object of {}", node.0),
        Effect::AskDigest(node) => format!("digest of {}", node.0),
        Effect::Repair(node) => format!("repair {}", node.0),
    };
    let effects: Vec<_> = effects.iter().map(show).collect();
    if effects.is_empty() { String::new() } else { format!("; {}", effects.join(", ")) }
}

fn show_outcome(outcome: ReadOutcome) -> String {
    let ReadOutcome { object, replicas, repairs } = outcome;
    let entry = |(dot, entry): &(Dot, Entry)| {
        format!("{} → {}", show_dot(*dot), entry.payload.escape_ascii())
    };
    let entries: Vec<_> = object.entries().iter().map(entry).collect();
    let version: Vec<_> = object.version().iter().map(show_dot).collect();
    format!(
        "{{{}}} V {{{}}} counted {replicas}; repair {}",
        entries.join(", "),
        version.join(", "),
        show_nodes(&repairs)
    )
}
