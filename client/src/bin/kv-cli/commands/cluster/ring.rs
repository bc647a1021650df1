//! `cluster ring`: each node's share, or one key's owners.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};
use quorate_client::{Member, NamespaceDescription, Topology};
use serde::Serialize;

use super::super::bytes;
use super::or_dash;
use crate::args::RingArgs;
use crate::output::{Output, base64, printable};

pub(super) fn run(output: Output, topology: &Topology, args: RingArgs) -> Result<()> {
    let RingArgs { key, namespace } = args;
    let Some(key) = key else {
        let groups = match namespace {
            Some(name) => BTreeSet::from([find_namespace(topology, Some(&name))?.n]),
            None => topology.namespaces.iter().map(|namespace| namespace.n).collect(),
        };
        return shares(output, topology, groups);
    };
    owners(output, topology, find_namespace(topology, namespace.as_deref())?, &bytes(key))
}

#[derive(Serialize)]
struct RingJson<'a> {
    partitions: u32,
    groups: Vec<GroupJson<'a>>,
}

/// The ring as namespaces of one n see it.
#[derive(Serialize)]
struct GroupJson<'a> {
    n: u32,
    nodes: Vec<ShareJson<'a>>,
}

#[derive(Serialize)]
struct ShareJson<'a> {
    name: &'a str,
    zone: &'a str,
    weight: u32,
    /// How many partitions it owns a replica of.
    partitions: u32,
    /// Of how many it comes first.
    first: u32,
    /// Of all replicas of all partitions, in 0..=1.
    share: f64,
}

fn shares(output: Output, topology: &Topology, groups: BTreeSet<u32>) -> Result<()> {
    let groups = groups.into_iter().map(|n| GroupJson { n, nodes: group(topology, n) }).collect();
    let json = RingJson { partitions: topology.partitions, groups };
    Ok(output.result(&json, || ring_text(output, &json))?)
}

fn group<'a>(topology: &'a Topology, n: u32) -> Vec<ShareJson<'a>> {
    let mut owned: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    for partition in 0..topology.partitions {
        for (place, member) in topology.owners(n, partition).enumerate() {
            let (partitions, first) = owned.entry(member.id).or_default();
            *partitions += 1;
            *first += u32::from(place == 0);
        }
    }
    let replicas = f64::from(topology.partitions) * f64::from(n);
    let share = |member: &'a Member| {
        let Member { id, name, zone, weight, .. } = member;
        let (partitions, first) = owned.get(id).copied().unwrap_or_default();
        let share = f64::from(partitions) / replicas;
        ShareJson { name, zone, weight: *weight, partitions, first, share }
    };
    topology.members.iter().map(share).collect()
}

fn ring_text(output: Output, ring: &RingJson<'_>) -> String {
    let mut text = format!("{} partitions", ring.partitions);
    if ring.groups.is_empty() {
        text.push_str("; no namespace yet, so none is owned: kv-cli namespace create NAME");
    }
    let header = ["NODE", "ZONE", "WEIGHT", "PARTITIONS", "FIRST", "SHARE"];
    for group in &ring.groups {
        let row = |of: &ShareJson<'_>| {
            vec![
                of.name.to_owned(),
                or_dash(of.zone),
                of.weight.to_string(),
                of.partitions.to_string(),
                of.first.to_string(),
                format!("{:.1}%", of.share * 100.0),
            ]
        };
        let nodes = output.table(&header, group.nodes.iter().map(row));
        text.push_str(&format!("\n\nnamespaces of n={}\n{nodes}", group.n));
    }
    text
}

#[derive(Serialize)]
struct OwnersJson<'a> {
    namespace: &'a str,
    key: &'a str,
    key_base64: String,
    /// As nodes' log lines show it.
    key_hash: String,
    partition: u32,
    owners: Vec<&'a str>,
}

fn owners(
    output: Output,
    topology: &Topology,
    namespace: &NamespaceDescription,
    key: &[u8],
) -> Result<()> {
    let partition = topology.partition_of(namespace.id, key);
    let owners = topology.owners(namespace.n, partition).map(|member| &*member.name).collect();
    let json = OwnersJson {
        namespace: &namespace.name,
        key: &String::from_utf8_lossy(key),
        key_base64: base64(key),
        key_hash: format!("{:016x}", topology.key_hash(namespace.id, key)),
        partition,
        owners,
    };
    let text = || {
        let owners = json.owners.join(", ");
        let (key, name, hash) = (printable(key), &namespace.name, &json.key_hash);
        format!("{key} in {name}: partition {partition}, owners {owners}, key hash {hash}")
    };
    Ok(output.result(&json, text)?)
}

/// The namespace that was named, or the only one.
fn find_namespace<'a>(
    topology: &'a Topology,
    name: Option<&str>,
) -> Result<&'a NamespaceDescription> {
    match (name, topology.namespaces.as_slice()) {
        (Some(name), _) => topology.namespace(name).ok_or_else(|| {
            anyhow!("no namespace is called '{name}'; kv-cli namespace list shows those there are")
        }),
        (None, [only]) => Ok(only),
        (None, []) => Err(anyhow!(
            "there is no namespace yet, and a key's place depends on its namespace; make one with \
             kv-cli namespace create NAME"
        )),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|n| n.name.as_str()).collect();
            let names = names.join(", ");
            Err(anyhow!("a key's place depends on its namespace; add --namespace, one of: {names}"))
        }
    }
}
