//! The document's bytes. Stored and hashed, so never changed: a new layout of fields gets a new format
//! byte beside the others. One document has one encoding: it has format 2 if it says what format 1
//! cannot, that a namespace has a default TTL.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    ClusterId, ClusterKey, Conflict, Document, DocumentError, DocumentHash, Durability, Layout,
    Member, Namespace, StoreId, Voter,
};
use crate::dynamo::encoding::{DecodeError, Flaw, Reader, Writer};
use crate::dynamo::key::{NamespaceId, NodeId, PartitionCount};
use crate::dynamo::quorum::Level;
use crate::dynamo::ttl::TtlMs;

const FORMAT: u8 = 1;

/// With the default TTL of each namespace.
const FORMAT_TTL: u8 = 2;

impl Document {
    /// The canonical encoding: equal documents, equal bytes.
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::with_capacity(1024);
        let ttl = self.has_ttl();
        writer.u8(if ttl { FORMAT_TTL } else { FORMAT });
        writer.u64(self.version);
        writer.raw(&self.cluster.0);
        writer.raw(&self.predecessor.0);
        writer.raw(&self.cluster_key.0);
        writer.u16(self.partitions.get());
        write_all(&mut writer, &self.voters, write_voter);
        write_all(&mut writer, &self.members, write_member);
        writer.u64(self.next_namespace);
        write_all(&mut writer, &self.namespaces, |writer, namespace| {
            write_namespace(writer, namespace);
            if ttl {
                writer.u64(namespace.default_ttl.map_or(0, TtlMs::get));
            }
        });
        write_all(&mut writer, &self.layouts, write_layout);
        writer.u8(self.plan.is_some().into());
        if let Some(plan) = self.plan {
            writer.u64(plan);
        }
        writer.finish()
    }

    fn has_ttl(&self) -> bool {
        self.namespaces.iter().any(|namespace| namespace.default_ttl.is_some())
    }

    /// The blake3 hash of the encoding.
    pub fn hash(&self) -> DocumentHash {
        DocumentHash(*blake3::hash(&self.encode()).as_bytes())
    }

    /// Decodes and validates what [`Document::encode`] gave.
    pub fn decode(input: impl Into<Bytes>) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(input);
        let format = reader.u8("document format")?;
        let of_format =
            DecodeError { what: "document format", at: 0, flaw: Flaw::Value(format.into()) };
        if ![FORMAT, FORMAT_TTL].contains(&format) {
            return Err(of_format.into());
        }
        let ttl = format == FORMAT_TTL;
        let document = Self {
            version: reader.u64("document version")?,
            cluster: ClusterId(reader.array("cluster id")?),
            predecessor: DocumentHash(reader.array("predecessor hash")?),
            cluster_key: ClusterKey(reader.array("cluster key")?),
            partitions: read_partitions(&mut reader)?,
            voters: read_all(&mut reader, 16, "voters", read_voter)?,
            members: read_all(&mut reader, 16, "members", read_member)?,
            next_namespace: reader.u64("next namespace id")?,
            namespaces: read_all(&mut reader, 20, "namespaces", |reader| {
                let namespace = read_namespace(reader)?;
                let default_ttl = if ttl { read_ttl(reader)? } else { None };
                Ok(Namespace { default_ttl, ..namespace })
            })?,
            layouts: read_all(&mut reader, 9, "layouts", read_layout)?,
            plan: read_plan(&mut reader)?,
        };
        reader.finish("document")?;
        if ttl != document.has_ttl() {
            return Err(of_format.into());
        }
        document.validate()?;
        Ok(document)
    }
}

fn write_all<T>(writer: &mut Writer, all: &[T], write: impl Fn(&mut Writer, &T)) {
    writer.count(all.len());
    all.iter().for_each(|one| write(writer, one));
}

fn read_all<T>(
    reader: &mut Reader,
    min_bytes: usize,
    what: &'static str,
    read: impl Fn(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.count(min_bytes, what)?;
    (0..count).map(|_| read(reader)).collect()
}

fn read_partitions(reader: &mut Reader) -> Result<PartitionCount, DecodeError> {
    let (at, what) = (reader.at(), "partitions");
    let count = u64::from(reader.u16(what)?);
    PartitionCount::new(count).map_err(|_| DecodeError { what, at, flaw: Flaw::Value(count) })
}

fn read_plan(reader: &mut Reader) -> Result<Option<u64>, DecodeError> {
    match choice(reader, "plan", &[false, true])? {
        true => reader.u64("plan id").map(Some),
        false => Ok(None),
    }
}

/// A byte that counts into `choices`.
fn choice<T: Copy>(
    reader: &mut Reader,
    what: &'static str,
    choices: &[T],
) -> Result<T, DecodeError> {
    let at = reader.at();
    let found = reader.u8(what)?;
    let flaw = Flaw::Value(found.into());
    choices.get(usize::from(found)).copied().ok_or(DecodeError { what, at, flaw })
}

fn write_voter(writer: &mut Writer, voter: &Voter) {
    writer.u64(voter.node.0);
    writer.u64(voter.store.0);
}

fn read_voter(reader: &mut Reader) -> Result<Voter, DecodeError> {
    let node = NodeId(reader.u64("voter's node")?);
    Ok(Voter { node, store: StoreId(reader.u64("voter's store")?) })
}

fn write_member(writer: &mut Writer, member: &Member) {
    writer.u64(member.node.0);
    writer.string(&member.name);
    writer.string(&member.zone);
    writer.u32(member.weight);
    writer.string(&member.peer_address);
    writer.string(&member.client_address);
}

fn read_member(reader: &mut Reader) -> Result<Member, DecodeError> {
    Ok(Member {
        node: NodeId(reader.u64("member's node")?),
        name: reader.string("member's name")?,
        zone: reader.string("member's zone")?,
        weight: reader.u32("member's weight")?,
        peer_address: reader.string("member's peer address")?,
        client_address: reader.string("member's client address")?,
    })
}

fn write_namespace(writer: &mut Writer, namespace: &Namespace) {
    writer.u64(namespace.id.0);
    writer.string(&namespace.name);
    writer.u8(namespace.n);
    write_level(writer, namespace.r);
    write_level(writer, namespace.w);
    writer.u8(match namespace.conflict {
        Conflict::Siblings => 0,
        Conflict::Lww => 1,
    });
    writer.u8(match namespace.durability {
        Durability::Buffered => 0,
        Durability::Synced => 1,
    });
    writer.u32(namespace.value_max_bytes);
    writer.u8(namespace.sloppy.into());
}

fn read_namespace(reader: &mut Reader) -> Result<Namespace, DecodeError> {
    Ok(Namespace {
        id: NamespaceId(reader.u64("namespace id")?),
        name: reader.string("namespace name")?,
        n: reader.u8("namespace n")?,
        r: read_level(reader, "namespace r")?,
        w: read_level(reader, "namespace w")?,
        conflict: choice(reader, "namespace conflict rule", &[Conflict::Siblings, Conflict::Lww])?,
        durability: choice(
            reader,
            "namespace durability",
            &[Durability::Buffered, Durability::Synced],
        )?,
        value_max_bytes: reader.u32("namespace value_max_bytes")?,
        sloppy: choice(reader, "namespace sloppy", &[false, true])?,
        default_ttl: None,
    })
}

/// 0 is none.
fn read_ttl(reader: &mut Reader) -> Result<Option<TtlMs>, DecodeError> {
    let (at, what) = (reader.at(), "namespace default TTL");
    let ms = reader.u64(what)?;
    let flaw = Flaw::Value(ms);
    match ms {
        0 => Ok(None),
        _ => TtlMs::new(ms).map(Some).map_err(|_| DecodeError { what, at, flaw }),
    }
}

fn write_level(writer: &mut Writer, level: Level) {
    match level {
        Level::One => writer.u8(0),
        Level::Quorum => writer.u8(1),
        Level::All => writer.u8(2),
        Level::Count(k) => {
            writer.u8(3);
            writer.u8(k);
        }
    }
}

fn read_level(reader: &mut Reader, what: &'static str) -> Result<Level, DecodeError> {
    match choice(reader, what, &[Level::One, Level::Quorum, Level::All, Level::Count(0)])? {
        Level::Count(_) => reader.u8(what).map(Level::Count),
        named => Ok(named),
    }
}

fn write_layout(writer: &mut Writer, layout: &Layout) {
    writer.u64(layout.version);
    writer.count(layout.groups.len());
    for (&n, table) in &layout.groups {
        writer.u8(n);
        write_all(writer, table, |writer, node| writer.u64(node.0));
    }
}

fn read_layout(reader: &mut Reader) -> Result<Layout, DecodeError> {
    let version = reader.u64("layout version")?;
    let mut groups = BTreeMap::new();
    for _ in 0..reader.count(2, "placement groups")? {
        let at = reader.at();
        let n = reader.u8("placement group")?;
        if groups.last_key_value().is_some_and(|(&last, _)| last >= n) {
            let flaw = Flaw::Value(n.into());
            return Err(DecodeError { what: "placement group", at, flaw });
        }
        let owner = |reader: &mut Reader| reader.u64("owner").map(NodeId);
        groups.insert(n, read_all(reader, 8, "table of owners", owner)?);
    }
    Ok(Layout { version, groups })
}
