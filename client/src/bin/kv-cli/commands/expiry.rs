//! `expire`, `persist` and `ttl`: when the value of a key expires.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;
use quorate_client::{ExpireOptions, Expired, GetOptions, Sibling, Ttl};
use serde::Serialize;

use super::key::{WrittenJson, no_key, receipt};
use super::{Session, bytes};
use crate::args::{ExpireArgs, ExpiryArgs, PersistArgs, TtlArgs};
use crate::failure::Exit;
use crate::stderr::say;

/// What `ttl` answers in json.
#[derive(Serialize)]
struct TtlJson {
    siblings: Vec<SiblingTtlJson>,
}

/// Nulls of a value that does not expire.
#[derive(Serialize)]
struct SiblingTtlJson {
    ttl_ms: Option<u64>,
    expires_ms: Option<u64>,
}

pub(super) async fn expire(session: &Session, args: ExpireArgs) -> Result<Exit> {
    rewrite(session, (args.namespace, args.key), args.ttl, args.how).await
}

pub(super) async fn persist(session: &Session, args: PersistArgs) -> Result<Exit> {
    rewrite(session, (args.namespace, args.key), Ttl::Never, args.how).await
}

async fn rewrite(
    session: &Session,
    (namespace, key): (String, OsString),
    ttl: Ttl,
    how: ExpiryArgs,
) -> Result<Exit> {
    let options = ExpireOptions {
        w: how.w.unwrap_or_default(),
        quorum: how.quorum.quorum(),
        durability: how.durability.unwrap_or_default(),
        ..ExpireOptions::default()
    };
    let (namespace, key) = (session.client.namespace(namespace), bytes(key));
    let Expired::Done(written) = namespace.expire(key.clone(), ttl, options).await? else {
        if session.output.is_json() {
            session.output.object(&WrittenJson::nothing())?;
        }
        say(&no_key(namespace.name(), &key));
        return Ok(Exit::NotFound);
    };
    session.output.result(&WrittenJson::from(&written), || {
        let what = match ttl {
            Ttl::After(ttl) => format!("expires in {}", remaining(ttl)),
            Ttl::Never | Ttl::Default => NEVER.to_owned(),
        };
        format!("{what}: {}", receipt(&written.receipt))
    })?;
    Ok(Exit::Done)
}

pub(super) async fn ttl(session: &Session, args: TtlArgs) -> Result<Exit> {
    let options = GetOptions {
        r: args.r.unwrap_or_default(),
        quorum: args.quorum.quorum(),
        ..GetOptions::default()
    };
    let (namespace, key) = (session.client.namespace(args.namespace), bytes(args.key));
    let siblings = namespace.get(key.clone(), options).await?.siblings;
    if siblings.is_empty() {
        if session.output.is_json() {
            session.output.object(&TtlJson { siblings: Vec::new() })?;
        }
        say(&no_key(namespace.name(), &key));
        return Ok(Exit::NotFound);
    }
    let of = |sibling: &Sibling| SiblingTtlJson {
        ttl_ms: sibling.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        expires_ms: sibling.expires_ms,
    };
    let json = TtlJson { siblings: siblings.iter().map(of).collect() };
    session.output.result(&json, || text(&siblings))?;
    Ok(Exit::Done)
}

const NEVER: &str = "does not expire";

/// A line for each value; of several with its index.
fn text(siblings: &[Sibling]) -> String {
    let line = |(at, sibling): (usize, &Sibling)| {
        let index = match siblings.len() {
            1 => String::new(),
            count => format!("[{}/{count}] ", at + 1),
        };
        match sibling.ttl {
            Some(ttl) => format!("{index}expires in {}", remaining(ttl)),
            None => format!("{index}{NEVER}"),
        }
    };
    siblings.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// The two largest units: `2d 3h`, `4m 59s`, `1.500s`, `20ms`.
pub(super) fn remaining(ttl: Duration) -> String {
    let (seconds, ms) = (ttl.as_secs(), ttl.as_millis());
    let two = |large: u64, small: u64, units: [&str; 2]| match seconds % large / small {
        0 => format!("{}{}", seconds / large, units[0]),
        rest => format!("{}{} {rest}{}", seconds / large, units[0], units[1]),
    };
    match seconds {
        0 => format!("{ms}ms"),
        1..60 if ms % 1000 == 0 => format!("{seconds}s"),
        1..60 => format!("{seconds}.{:03}s", ms % 1000),
        60..3600 => two(60, 1, ["m", "s"]),
        3600..86_400 => two(3600, 60, ["h", "m"]),
        _ => two(86_400, 3600, ["d", "h"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_told_in_two_units() {
        let told = [
            (0, "0ms"),
            (20, "20ms"),
            (1000, "1s"),
            (59_999, "59.999s"),
            (60_000, "1m"),
            (299_000, "4m 59s"),
            (3_600_000, "1h"),
            (5_400_000, "1h 30m"),
            (183_600_000, "2d 3h"),
            (86_400_000, "1d"),
        ];
        for (ms, expected) in told {
            assert_eq!(remaining(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn each_of_several_values_has_its_own_end() {
        let sibling = |ttl| Sibling { ttl, ..Sibling::default() };
        assert_eq!(text(&[sibling(None)]), "does not expire");
        let both = [sibling(Some(Duration::from_secs(5))), sibling(None)];
        assert_eq!(text(&both), "[1/2] expires in 5s\n[2/2] does not expire");
    }
}
