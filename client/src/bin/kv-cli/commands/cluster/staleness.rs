//! `cluster staleness`: what members lack, and how old writes were when they came.

use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;
use quorate_client::{Arrivals, Member, Topology};
use serde::Serialize;

use super::{asked_within, millis, patience};
use crate::commands::Session;
use crate::output::Output;

#[derive(Serialize)]
struct StalenessJson<'a> {
    members: Vec<MemberJson<'a>>,
}

#[derive(Serialize)]
struct MemberJson<'a> {
    name: &'a str,
    /// Writes that other owners had seen and it had not, when it last compared; none if it did not answer.
    missing_writes: Option<u64>,
    /// For how long it has lacked one of them at least.
    missing_for_ms: Option<u64>,
    /// Since it was started.
    arrivals: Vec<ArrivalsJson>,
    error: Option<String>,
}

#[derive(Serialize)]
struct ArrivalsJson {
    namespace: String,
    /// "write", "hint", "read repair", "exchange", "trees" or "rebuild".
    way: Option<String>,
    count: u64,
    p50_ms: u64,
    p99_ms: u64,
    max_ms: u64,
}

impl From<Arrivals> for ArrivalsJson {
    fn from(arrivals: Arrivals) -> Self {
        let Arrivals { namespace, way, count, p50, p99, max } = arrivals;
        let [p50_ms, p99_ms, max_ms] = [p50, p99, max].map(millis);
        Self { namespace, way: way.map(|way| way.to_string()), count, p50_ms, p99_ms, max_ms }
    }
}

pub(super) async fn run(session: &Session, topology: &Topology) -> Result<()> {
    let mut members: Vec<_> = topology.members.iter().collect();
    members.sort_by_key(|member| &member.name);
    let asked = join_all(members.into_iter().map(|member| ask(session, member))).await;
    let json = StalenessJson { members: asked };
    Ok(session.output.result(&json, || text(session.output, &json))?)
}

/// A member that does not answer is a row, not an error.
async fn ask<'a>(session: &Session, member: &'a Member) -> MemberJson<'a> {
    let asked = session.client.staleness_of(&member.name);
    let (told, error) = asked_within(patience(session, member), asked).await;
    let missing_writes = told.as_ref().map(|told| told.missing_writes);
    let missing_for_ms = told.as_ref().map(|told| millis(told.missing_for));
    let arrivals = told.unwrap_or_default().arrivals.into_iter().map(Into::into).collect();
    MemberJson { name: &member.name, missing_writes, missing_for_ms, arrivals, error }
}

fn text(output: Output, json: &StalenessJson<'_>) -> String {
    let count = |count: Option<u64>| count.map_or("-".to_owned(), |count| count.to_string());
    let missing = json.members.iter().map(|m| {
        let since = m.missing_for_ms.map_or("-".to_owned(), age);
        vec![m.name.to_owned(), count(m.missing_writes), since]
    });
    let mut lines = vec![output.table(&["NODE", "MISSING WRITES", "FOR"], missing)];
    let arrivals = |m: &MemberJson<'_>| {
        let row = |a: &ArrivalsJson| {
            vec![
                m.name.to_owned(),
                a.namespace.clone(),
                a.way.clone().unwrap_or_else(|| "unknown".to_owned()),
                a.count.to_string(),
                age(a.p50_ms),
                age(a.p99_ms),
                age(a.max_ms),
            ]
        };
        m.arrivals.iter().map(row).collect::<Vec<_>>()
    };
    let rows: Vec<_> = json.members.iter().flat_map(arrivals).collect();
    if !rows.is_empty() {
        let header = ["NODE", "NAMESPACE", "WAY", "WRITES", "P50", "P99", "OLDEST"];
        lines.extend([String::new(), output.table(&header, rows)]);
    }
    let failed = |m: &MemberJson<'_>| m.error.as_ref().map(|error| format!("{}: {error}", m.name));
    lines.extend(json.members.iter().filter_map(failed));
    lines.join("\n")
}

/// As much of a duration as tells its size: "8 ms", "2.1 s", "35 min".
fn age(ms: u64) -> String {
    let seconds = Duration::from_millis(ms).as_secs_f64();
    match seconds {
        ..1.0 => format!("{ms} ms"),
        ..120.0 => format!("{seconds:.1} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3_600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages_have_the_unit_that_tells_their_size() {
        let ages = [0, 999, 2_100, 119_900, 2_100_000, 36_000_000].map(age);
        assert_eq!(ages, ["0 ms", "999 ms", "2.1 s", "119.9 s", "35 min", "10.0 h"]);
    }
}
