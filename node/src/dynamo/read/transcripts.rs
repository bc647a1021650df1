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
/// fallbacks NODE..              the fallbacks
/// away NODE..                   the owners that are known not to answer; at first none
/// read r=R [blocking]           starts; [sloppy]: fallbacks count; [sloppy doubt]: an owner may have
///                               missed what they keep
/// object NODE OBJECT            the node sends its object, or ...
/// digest NODE OBJECT            ... the digest of it
/// fail NODE CAUSE               the request under way at the node fails
/// repaired NODE                 the node took the repair
/// hint NODE OBJECT              the fallback sends what it keeps
/// nohint NODE                   the request under way at the fallback fails
/// late object|digest|repair|hint NODE      that request is under way for long
/// slow                          the caller's timer
/// finish
/// ```
///
/// OBJECT is `absent` or entries and what else was seen: `a1=x saw=b2` is {a:1 → x}, V {a:1, b:2}.
/// Each command answers with the verdict, the counts and the effects.
#[derive(Default)]
struct Transcript {
    owners: Vec<NodeId>,
    fallbacks: Vec<NodeId>,
    away: Vec<NodeId>,
    read: Option<ReadOp>,
}

impl Runner for Transcript {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "owners" | "fallbacks" | "away" => {
                let named = match command.name.as_str() {
                    "owners" => &mut self.owners,
                    "fallbacks" => &mut self.fallbacks,
                    _ => &mut self.away,
                };
                *named = nodes(&mut args)?;
                return Ok(String::new());
            }
            "read" => {
                let needed = args.take_key("r").ok_or("r is missing")?.parse()?;
                self.read = Some(ReadOp::new(self.plan(needed, context)));
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
            "hint" => {
                let node = NodeId(next(&mut args)?);
                read.on_hint(node, object(args.collect())?)
            }
            "nohint" => read.on_no_hint(NodeId(next(&mut args)?)),
            "late" => {
                let kind = args.next_pos().ok_or("which request")?;
                read.on_late(request(kind, NodeId(next(&mut args)?))?)
            }
            name => return Err(format!("{name} is no command").into()),
        };
        let stands = show(read.verdict(), read.tally(), read.failures());
        Ok(format!("{stands}{}", show_effects(&effects)))
    }
}

impl Transcript {
    fn plan(&self, needed: u8, context: &Context) -> ReadPlan {
        let tagged = |tag| context.tags.contains(tag);
        let sloppy = Sloppy { fallbacks: self.fallbacks.clone(), doubt: tagged("doubt") };
        ReadPlan {
            needed,
            owners: self.owners.clone(),
            away: self.away.clone(),
            sloppy: tagged("sloppy").then_some(sloppy),
            repair: if tagged("blocking") { Repair::Blocking } else { Repair::Async },
            digester: digester(),
        }
    }
}

fn request(kind: &str, node: NodeId) -> Result<Effect, Box<dyn Error>> {
    match kind {
        "object" => Ok(Effect::AskObject(node)),
        "digest" => Ok(Effect::AskDigest(node)),
        "repair" => Ok(Effect::Repair(node)),
        "hint" => Ok(Effect::AskFallback(node)),
        _ => Err(format!("{kind} is no request").into()),
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
        Effect::AskFallback(node) => format!("hint of {}", node.0),
    };
    let effects: Vec<_> = effects.iter().map(show).collect();
    if effects.is_empty() { String::new() } else { format!("; {}", effects.join(", ")) }
}

fn show_outcome(outcome: ReadOutcome) -> String {
    let ReadOutcome { object, replicas, fallbacks, repairs } = outcome;
    let stand_ins = match fallbacks {
        0 => String::new(),
        _ => format!(", and fallbacks {fallbacks}"),
    };
    let entry = |(dot, entry): &(Dot, Entry)| {
        format!("{} → {}", show_dot(*dot), entry.payload.escape_ascii())
    };
    let entries: Vec<_> = object.entries().iter().map(entry).collect();
    let version: Vec<_> = object.version().iter().map(show_dot).collect();
    format!(
        "{{{}}} V {{{}}} counted {replicas}{stand_ins}; repair {}",
        entries.join(", "),
        version.join(", "),
        show_nodes(&repairs)
    )
}
