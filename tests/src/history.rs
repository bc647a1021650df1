//! Histories: what clients asked and were told, what nodes lost, and what they held in the end.
//!
//! A history is all that a checker sees, so whoever can write one down can have it checked: the
//! simulator, or a harness around real processes. On disk it is a line of JSON for each [`Entry`].
//!
//! ```text
//!   {"Namespace":{"name":"things","n":3,"lww":false}}
//!   {"Operation":{"id":7,"client":1,"namespace":"things","key":"k3","invoked":40,"returned":55, ...
//!   {"Loss":{"at":60,"node":2,"kind":{"PowerCut":51}}}
//!   {"Handoff":{"at":63,"node":5,"target":2, ...
//!   {"Metadata":{"at":70,"node":2,"version":6,"hash":1187,"predecessor":9034}}
//!   {"Snapshot":{"at":99,"node":2,"healed":true, ...
//! ```
//!
//! Every write has a value that no other write has, so that whoever sees one knows whose it is. A
//! batch is an operation for each of its keys, a scan one for each key that it might have listed.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, Write};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// When something happened: a number that grows, and that no two events of a history share. Of two
/// events the one with the smaller number happened first.
pub type Moment = u64;

/// A node's id.
pub type Node = u64;

/// The numbers by actor: of a context, or of an object.
pub type Version = BTreeMap<u64, u64>;

/// The name of a write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Dot {
    /// Who issued it.
    pub actor: u64,
    /// The actor's count.
    pub n: u64,
}

impl Dot {
    /// Whether a version reflects the write.
    pub fn is_covered_by(self, version: &Version) -> bool {
        version.get(&self.actor).is_some_and(|&n| n >= self.n)
    }
}

/// One line of a history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// A namespace that operations name.
    Namespace(Namespace),
    /// What a client asked and was told of one key.
    Operation(Operation),
    /// What a node lost.
    Loss(Loss),
    /// A hint left the node that kept it.
    Handoff(Handoff),
    /// Which metadata a node knew.
    Metadata(Metadata),
    /// What a node held.
    Snapshot(Snapshot),
}

/// A namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// How many owners each key has.
    pub n: usize,
    /// Whether the last write wins; else siblings stand beside each other.
    pub lww: bool,
    /// Whether no two nodes failed at a time, and none lost anything, while clients worked: then no
    /// quorum denies what was acknowledged.
    #[serde(default)]
    pub steady: bool,
}

/// What a client asked of one key, and what it was told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// Which one.
    pub id: u64,
    /// Who asked.
    pub client: u64,
    /// Of which namespace.
    pub namespace: String,
    /// Of which key.
    pub key: String,
    /// When it was first sent.
    pub invoked: Moment,
    /// The same, in milliseconds of the right time.
    pub invoked_ms: u64,
    /// When the last answer came that its client waited for; none if it waits still, so that the
    /// operation may happen at any later time. Of an *unknown* outcome too it may happen later.
    pub returned: Option<Moment>,
    /// The same, in milliseconds of the right time.
    pub returned_ms: Option<u64>,
    /// What was asked.
    pub action: Action,
    /// What was told.
    pub outcome: Outcome,
}

/// What is asked of a key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Action {
    /// To write.
    Write {
        /// The value; none deletes.
        value: Option<String>,
        /// What the context that was sent covers; empty for none.
        context: Version,
        /// How many owners must acknowledge.
        w: usize,
        /// Whether each acknowledges what is on its disk.
        synced: bool,
        /// Whether a fallback may acknowledge in an owner's place.
        #[serde(default)]
        sloppy: bool,
        /// Whether it was tried at another node too, at least once: so it may have been applied more
        /// than once, under a dot each.
        #[serde(default)]
        copies: bool,
    },
    /// To read.
    Read {
        /// How many owners must answer.
        r: usize,
        /// Whether what fallbacks keep counts too.
        #[serde(default)]
        sloppy: bool,
    },
}

/// What a client was told in the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// A write was acknowledged.
    Written(Receipt),
    /// A write was not applied, and never will be.
    NotApplied(String),
    /// A write may have been applied, or may yet be.
    Unknown(String),
    /// A read was answered.
    Shown(Shown),
    /// A read was not answered.
    Failed(String),
}

/// An acknowledged write.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// Its name.
    pub dot: Dot,
    /// What the context that came with it covers, if one came.
    pub context: Option<Version>,
    /// How many values stood there, this one included unless it deleted.
    pub siblings: u32,
    /// The owners that acknowledged it.
    pub acked: Vec<Node>,
    /// The fallbacks that did.
    #[serde(default)]
    pub fallbacks: Vec<StandIn>,
    /// How many of all these had it on disk.
    pub synced: usize,
}

/// A node that keeps a write for an owner, in whose place it acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct StandIn {
    /// The node.
    pub node: Node,
    /// The owner.
    pub owner: Node,
}

/// An answered read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// The values.
    pub values: Vec<String>,
    /// What the context that came with them covers; none if none could come, as for a key that a
    /// scan did not list.
    pub context: Option<Version>,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}:{}", self.actor, self.n)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { r, sloppy } => write!(f, "read, r={r}{}", mode(*sloppy)),
            Self::Write { value, context, w, synced, sloppy, copies } => {
                match value {
                    Some(value) => write!(f, "write {value:?}")?,
                    None => write!(f, "delete")?,
                }
                write!(f, " over {}, w={w}", Numbers(context))?;
                f.write_str(if *synced { ", synced" } else { "" })?;
                f.write_str(mode(*sloppy))?;
                f.write_str(if *copies { ", at least once" } else { "" })
            }
        }
    }
}

fn mode(sloppy: bool) -> &'static str {
    if sloppy { ", sloppy" } else { "" }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(Receipt { dot, siblings, acked, fallbacks, synced, .. }) => {
                write!(f, "done as {dot}, {siblings} siblings; acknowledged by")?;
                acked.iter().try_for_each(|node| write!(f, " {node:016x}"))?;
                for StandIn { node, owner } in fallbacks {
                    write!(f, " {node:016x} (for {owner:016x})")?;
                }
                write!(f, ", {synced} of them on disk")
            }
            Self::NotApplied(why) => write!(f, "not applied: {why}"),
            Self::Unknown(why) => write!(f, "unknown: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Shown(Shown { values, context }) => {
                write!(f, "{values:?}")?;
                let all_of = |context| write!(f, ", all of {}", Numbers(context));
                context.as_ref().map_or(Ok(()), all_of)
            }
        }
    }
}

/// A version as text.
struct Numbers<'a>(&'a Version);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut dots = self.0.iter().map(|(&actor, &n)| Dot { actor, n });
        let Some(first) = dots.next() else { return f.write_str("nothing") };
        write!(f, "{{{first}")?;
        dots.try_for_each(|dot| write!(f, " {dot}"))?;
        f.write_str("}")
    }
}

/// A node lost what it had acknowledged, or may have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Loss {
    /// When.
    pub at: Moment,
    /// Which node.
    pub node: Node,
    /// How much.
    pub kind: LossKind,
}

/// How much a node lost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LossKind {
    /// What was not on its disk: nothing of what was acknowledged before this moment.
    PowerCut(Moment),
    /// Everything.
    Wiped,
    /// What came after this moment: an older copy of its disk was put in its place.
    RolledBack(Moment),
    /// The same, where every other owner remembers more of the node than the copy holds, and says so.
    FoundOut(Moment),
    /// Nothing yet; but from now on two processes have its name, and which one answers is open.
    Doubled,
    /// One record, whose damage shows, or shows once all are read again.
    Rotten {
        /// The namespace.
        namespace: String,
        /// The key.
        key: String,
    },
}

/// A node no longer owes what it kept for an owner; or owes it another object, which does not reflect
/// that one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Handoff {
    /// When that was seen. The node lost nothing since it was last seen to owe it.
    pub at: Moment,
    /// Which node.
    pub node: Node,
    /// The owner.
    pub target: Node,
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
    /// What the hint reflected.
    pub version: Version,
    /// What the owner's object on its disk reflects at that moment; none if it cannot be read.
    pub on_disk: Option<Version>,
}

/// A document of the metadata that a node knew.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Metadata {
    /// When.
    pub at: Moment,
    /// Which node.
    pub node: Node,
    /// The document's version.
    pub version: u64,
    /// Its hash.
    pub hash: u64,
    /// The hash of the version before.
    pub predecessor: u64,
}

/// What a node held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// When.
    pub at: Moment,
    /// Which node.
    pub node: Node,
    /// Whether faults were over, and all keys had been read and repaired.
    pub healed: bool,
    /// Its metadata: the document's version, and a hash of the document.
    pub metadata: (u64, u64),
    /// Every object of the partitions that it owns; a key without one is absent.
    pub objects: Vec<Held>,
    /// Keys whose records are damaged, with their namespaces: nothing is known of them here.
    pub damaged: Vec<(String, String)>,
    /// What it keeps for owners.
    #[serde(default)]
    pub hints: Vec<Hint>,
    /// Keys of which it keeps hints that are damaged, with their namespaces.
    #[serde(default)]
    pub damaged_hints: Vec<(String, String)>,
    /// The frontiers of the partitions that it owns.
    pub frontiers: Vec<Seen>,
    /// Partitions of whose frontiers a part is damaged on its disk.
    #[serde(default)]
    pub damaged_frontiers: Vec<String>,
    /// The trees of hashes of the partitions that it owns, where all of their rows and records can be read.
    #[serde(default)]
    pub trees: Vec<Tree>,
}

/// An object as a node held it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
    /// The key's partition: keys of one partition share a frontier.
    pub partition: String,
    /// What it reflects.
    pub version: Version,
    /// Its live values, by dot.
    pub values: Vec<(Dot, String)>,
    /// Of an `lww` namespace: time and dot of the last write, a deletion too.
    pub last: Option<(u64, Dot)>,
    /// When those of its values expire that do: in milliseconds of wall clocks.
    #[serde(default)]
    pub deadlines_ms: Vec<(Dot, u64)>,
}

/// A hint as a node kept it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hint {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
    /// What its object reflects.
    pub version: Version,
    /// The owners that are owed it.
    pub targets: Vec<Node>,
}

/// A tree of hashes of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tree {
    /// The partition.
    pub partition: String,
    /// The sum of its leaves, in hexadecimal digits.
    pub leaves: String,
    /// What the records come to.
    pub records: String,
}

/// What a partition had seen of one actor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The partition.
    pub partition: String,
    /// The actor.
    pub actor: u64,
    /// The numbers, as ranges of first and last.
    pub ranges: Vec<(u64, u64)>,
}

/// A history.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct History {
    /// The namespaces.
    pub namespaces: Vec<Namespace>,
    /// What clients did, in the order in which they began.
    pub operations: Vec<Operation>,
    /// What nodes lost.
    pub losses: Vec<Loss>,
    /// Which hints left those who kept them.
    pub handoffs: Vec<Handoff>,
    /// Which metadata nodes knew.
    pub metadata: Vec<Metadata>,
    /// What nodes held.
    pub snapshots: Vec<Snapshot>,
}

impl History {
    /// Adds an entry.
    pub fn push(&mut self, entry: Entry) {
        match entry {
            Entry::Namespace(namespace) => self.namespaces.push(namespace),
            Entry::Operation(operation) => self.operations.push(operation),
            Entry::Loss(loss) => self.losses.push(loss),
            Entry::Handoff(handoff) => self.handoffs.push(handoff),
            Entry::Metadata(metadata) => self.metadata.push(metadata),
            Entry::Snapshot(snapshot) => self.snapshots.push(snapshot),
        }
    }

    /// Writes it down, a line for each entry.
    pub fn write(&self, mut file: impl Write) -> Result<()> {
        let namespaces = self.namespaces.iter().cloned().map(Entry::Namespace);
        let operations = self.operations.iter().cloned().map(Entry::Operation);
        let losses = self.losses.iter().cloned().map(Entry::Loss);
        let handoffs = self.handoffs.iter().cloned().map(Entry::Handoff);
        let metadata = self.metadata.iter().cloned().map(Entry::Metadata);
        let snapshots = self.snapshots.iter().cloned().map(Entry::Snapshot);
        let before = namespaces.chain(operations).chain(losses).chain(handoffs);
        for entry in before.chain(metadata).chain(snapshots) {
            serde_json::to_writer(&mut file, &entry)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Reads what [`write`](Self::write) wrote, or anybody else.
    pub fn read(file: impl BufRead) -> Result<Self> {
        let mut history = Self::default();
        for (at, line) in file.lines().enumerate() {
            let entry = serde_json::from_str(&line?);
            history.push(entry.with_context(|| format!("line {} of the history", at + 1))?);
        }
        Ok(history)
    }
}
