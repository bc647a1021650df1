//! `resolve`: what became of a write whose outcome is unknown.

use anyhow::Result;
use quorate_client::{Resolution, Resolved};
use serde::Serialize;

use super::Session;
use crate::args::ResolveArgs;
use crate::failure::Exit;

/// What `resolve` answers in json.
#[derive(Serialize)]
struct ResolvedJson<'a> {
    outcome: &'static str,
    dot: Option<&'a str>,
    key_hash: String,
    message: &'a str,
}

pub(super) async fn run(session: &Session, args: ResolveArgs) -> Result<Exit> {
    let Resolved { resolution, message } = session.client.resolve(args.operation).await?;
    let key_hash = format!("{:016x}", args.operation.key_hash);
    let (outcome, dot, exit) = told(&resolution);
    let json = ResolvedJson { outcome, dot, key_hash: key_hash.clone(), message: &message };
    session.output.result(&json, || {
        let what = match (outcome, dot) {
            (_, Some(dot)) => format!("applied: {dot}"),
            ("not_applied", None) => "not applied".to_owned(),
            _ => outcome.to_owned(),
        };
        format!("{what}, key hash {key_hash}: {message}")
    })?;
    Ok(exit)
}

fn told(resolution: &Resolution) -> (&'static str, Option<&str>, Exit) {
    match resolution {
        Resolution::Applied { dot } => ("applied", Some(dot), Exit::Done),
        Resolution::NotApplied => ("not_applied", None, Exit::NotFound),
        Resolution::Unknown => ("unknown", None, Exit::Unknown),
        Resolution::Expired => ("expired", None, Exit::Unknown),
    }
}
