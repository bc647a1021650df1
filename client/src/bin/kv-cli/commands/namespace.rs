//! `namespace create`, `update`, `list`, `describe` and `drop`.

use anyhow::Result;
use quorate_client::{
    ConflictRule, Error, ErrorKind, NamespaceDescription, NamespaceSpec, NamespaceUpdate,
};
use serde::Serialize;

use super::Session;
use super::expiry::remaining;
use super::near::with_near_names;
use crate::args::{Conflict, CreateArgs, NamespaceCommand, UpdateArgs};
use crate::failure::{self, Exit};
use crate::stderr::{Notice, say};

#[derive(Serialize)]
struct NamespaceJson<'a> {
    name: &'a str,
    id: String,
    n: u32,
    r: String,
    w: String,
    quorum: String,
    conflict: String,
    durability: String,
    value_max_bytes: u32,
    /// Null: values live until they are replaced.
    default_ttl_ms: Option<u64>,
}

impl<'a> From<&'a NamespaceDescription> for NamespaceJson<'a> {
    fn from(of: &'a NamespaceDescription) -> Self {
        Self {
            name: &of.name,
            id: format!("{:016x}", of.id),
            n: of.n,
            r: of.r.to_string(),
            w: of.w.to_string(),
            quorum: of.quorum.to_string(),
            conflict: of.conflict.to_string(),
            durability: of.durability.to_string(),
            value_max_bytes: of.value_max_bytes,
            default_ttl_ms: of.default_ttl.map(|ttl| ttl.as_millis() as u64),
        }
    }
}

#[derive(Serialize)]
struct ListJson<'a> {
    namespaces: Vec<NamespaceJson<'a>>,
}

#[derive(Serialize)]
struct ChangedJson<'a> {
    namespace: NamespaceJson<'a>,
    unreachable: &'a [String],
}

#[derive(Serialize)]
struct DroppedJson<'a> {
    dropped: &'a str,
    unreachable: &'a [String],
}

pub(super) async fn run(session: &Session, command: NamespaceCommand) -> Result<Exit> {
    match command {
        NamespaceCommand::Create(args) => create(session, args).await,
        NamespaceCommand::Update(args) => update(session, args).await,
        NamespaceCommand::List => list(session).await,
        NamespaceCommand::Describe { name } => describe(session, &name).await,
        NamespaceCommand::Drop { name } => drop_namespace(session, &name).await,
    }
}

async fn create(session: &Session, args: CreateArgs) -> Result<Exit> {
    let conflict = match args.conflict {
        Conflict::Siblings => ConflictRule::Siblings,
        Conflict::Lww => ConflictRule::Lww,
    };
    let spec = NamespaceSpec {
        n: Some(args.n),
        r: args.r,
        w: args.w,
        quorum: args.quorum.quorum(),
        conflict,
        durability: args.durability,
        value_max_bytes: args.value_max_bytes,
        default_ttl: args.default_ttl.unwrap_or_default(),
        ..NamespaceSpec::new(args.name)
    };
    let created = session.client.create_namespace(spec).await?;
    let namespace = &created.namespace;
    let json = ChangedJson { namespace: namespace.into(), unreachable: &created.unreachable };
    session.output.result(&json, || format!("created {}", settings(namespace)))?;
    warn_unreachable(&created.unreachable);
    Ok(Exit::Done)
}

async fn update(session: &Session, args: UpdateArgs) -> Result<Exit> {
    let update = NamespaceUpdate {
        r: args.r.unwrap_or_default(),
        w: args.w.unwrap_or_default(),
        quorum: args.quorum.quorum(),
        durability: args.durability.unwrap_or_default(),
        value_max_bytes: args.value_max_bytes,
        default_ttl: args.default_ttl.unwrap_or_default(),
        ..NamespaceUpdate::new(args.name.as_str())
    };
    let updated = match session.client.update_namespace(update).await {
        Ok(updated) => updated,
        Err(error) => return not_found(session, error, &args.name).await,
    };
    let namespace = &updated.namespace;
    let json = ChangedJson { namespace: namespace.into(), unreachable: &updated.unreachable };
    session.output.result(&json, || format!("updated {}", settings(namespace)))?;
    warn_unreachable(&updated.unreachable);
    Ok(Exit::Done)
}

async fn list(session: &Session) -> Result<Exit> {
    let namespaces = session.client.list_namespaces().await?;
    let json = ListJson { namespaces: namespaces.iter().map(NamespaceJson::from).collect() };
    let header = [
        "NAME",
        "N",
        "R",
        "W",
        "QUORUM",
        "CONFLICT",
        "DURABILITY",
        "VALUE_MAX_BYTES",
        "DEFAULT_TTL",
    ];
    let row = |of: &NamespaceDescription| {
        vec![
            of.name.clone(),
            of.n.to_string(),
            of.r.to_string(),
            of.w.to_string(),
            of.quorum.to_string(),
            of.conflict.to_string(),
            of.durability.to_string(),
            of.value_max_bytes.to_string(),
            default_ttl(of),
        ]
    };
    session.output.result(&json, || session.output.table(&header, namespaces.iter().map(row)))?;
    Ok(Exit::Done)
}

async fn describe(session: &Session, name: &str) -> Result<Exit> {
    let namespace = match session.client.describe_namespace(name).await {
        Ok(namespace) => namespace,
        Err(error) => return not_found(session, error, name).await,
    };
    session.output.result(&NamespaceJson::from(&namespace), || settings(&namespace))?;
    Ok(Exit::Done)
}

async fn drop_namespace(session: &Session, name: &str) -> Result<Exit> {
    let unreachable = match session.client.drop_namespace(name).await {
        Ok(unreachable) => unreachable,
        Err(error) => return not_found(session, error, name).await,
    };
    let json = DroppedJson { dropped: name, unreachable: &unreachable };
    session.output.result(&json, || format!("dropped {name}"))?;
    warn_unreachable(&unreachable);
    Ok(Exit::Done)
}

/// A namespace that does not exist has an exit code of its own, and its reason on stderr too.
async fn not_found(session: &Session, error: Error, name: &str) -> Result<Exit> {
    if error.kind() != ErrorKind::NotFound {
        return Err(error.into());
    }
    let error = with_near_names(session, error.into(), name).await;
    say(&Notice::not_found(failure::describe(&error)));
    Ok(Exit::NotFound)
}

fn warn_unreachable(members: &[String]) {
    if !members.is_empty() {
        let members = members.join(", ");
        let message = format!("not reached, and will learn of it later: {members}");
        say(&Notice::note(message));
    }
}

fn settings(of: &NamespaceDescription) -> String {
    format!(
        "{}: n={} r={} w={} quorum={} conflict={} durability={} value_max_bytes={} default_ttl={}",
        of.name,
        of.n,
        of.r,
        of.w,
        of.quorum,
        of.conflict,
        of.durability,
        of.value_max_bytes,
        default_ttl(of)
    )
}

fn default_ttl(of: &NamespaceDescription) -> String {
    of.default_ttl.map_or("never".to_owned(), remaining)
}
