//! What `init` tells the operator.

use std::fmt;

use crate::dynamo::key::NodeId;
use crate::dynamo::metadata::Document;
use crate::dynamo::metadata::document::ClusterId;

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The cluster.
    pub cluster: ClusterId,
    /// Q.
    pub partitions: u16,
    /// Q as it was asked for, if the cluster was there already with another.
    pub asked: Option<u16>,
    /// The members' names and peer addresses, and whether they vote.
    pub members: Vec<(String, String, bool)>,
    /// The addresses of those that got the document now.
    pub taken: Vec<String>,
    /// The addresses of those that had it.
    pub kept: Vec<String>,
}

impl Report {
    pub(super) fn new(document: &Document, taken: Vec<String>, kept: Vec<String>) -> Self {
        let votes = |node: NodeId| document.voters.iter().any(|voter| voter.node == node);
        let mut members: Vec<_> = document
            .members
            .iter()
            .map(|member| (member.name.clone(), member.peer_address.clone(), votes(member.node)))
            .collect();
        members.sort();
        let partitions = document.partitions.get();
        Self { cluster: document.cluster, partitions, asked: None, members, taken, kept }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let voters = self.members.iter().filter(|(_, _, votes)| *votes).count();
        let (members, partitions) = (self.members.len(), self.partitions);
        let verb = match (self.taken.is_empty(), self.kept.is_empty()) {
            (true, _) => "is complete already",
            (false, true) => "is made",
            (false, false) => "is complete now",
        };
        write!(f, "cluster {} {verb}: {members} members, {voters} of which vote", self.cluster)?;
        writeln!(f, ", {partitions} partitions")?;
        for (name, address, votes) in &self.members {
            let voter = if *votes { "  voter" } else { "" };
            writeln!(f, "  {name}  {address}{voter}")?;
        }
        if let Some(asked) = self.asked {
            writeln!(
                f,
                "note: --partitions {asked} changes nothing; this cluster has {partitions} for ever"
            )?;
        }
        if !self.taken.is_empty() && !self.kept.is_empty() {
            let taken = self.taken.join(", ");
            writeln!(f, "given its document now: {taken}; had it: {}", self.kept.join(", "))?;
        }
        Ok(())
    }
}
