//! `cluster status`, `cluster ring` and `cluster staleness`: who is there, who holds what, and who lacks what.

mod ring;
mod staleness;

use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;
use quorate_client::{CatchingUp, Doubt, Member, MemberState, Rebuild, Topology, Vote};
use serde::Serialize;

use super::Session;
use crate::args::ClusterCommand;
use crate::failure::Exit;
use crate::output::Output;

/// How long `status` waits for each member, all at once. A person is waiting, and a member that takes
/// longer is as good as down.
const PROBE_MAX: Duration = Duration::from_secs(3);
/// The same of one that the answering node has heard to be away.
const PROBE_AWAY: Duration = Duration::from_millis(500);

pub(super) async fn run(session: &Session, command: ClusterCommand) -> Result<Exit> {
    let topology = session.client.topology().await?;
    match command {
        ClusterCommand::Status => status(session, &topology).await?,
        ClusterCommand::Ring(args) => ring::run(session.output, &topology, args)?,
        ClusterCommand::Staleness => staleness::run(session, &topology).await?,
    }
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct StatusJson<'a> {
    cluster_id: &'a str,
    version: u64,
    partitions: u32,
    answered_by: String,
    members: Vec<MemberJson<'a>>,
}

#[derive(Serialize)]
struct MemberJson<'a> {
    name: &'a str,
    id: String,
    zone: &'a str,
    weight: u32,
    client_address: &'a str,
    peer_address: &'a str,
    /// As the answering node sees it.
    connected: bool,
    /// What the answering node has heard of it: alive, suspect or down; and for how long it has
    /// known that.
    state: Option<String>,
    since_ms: u64,
    /// The same as all members say it that answer.
    seen_by: Vec<SeenJson>,
    /// Whether the cluster's metadata names it as a voter.
    voter: bool,
    /// Whether it votes, as it says itself: no, yes, waits (not since its start), lost, or forked.
    vote: Option<String>,
    #[serde(skip)]
    votes: Option<Vote>,
    /// As this client sees it.
    reachable: bool,
    /// Of the cluster's metadata, as the member itself has it.
    version: Option<u64>,
    /// How far its clock is ahead of the median of the members' clocks, as it says itself.
    clock_ahead_ms: Option<i64>,
    /// While its store is being rebuilt.
    rebuild: Option<RebuildJson>,
    /// While it was started again and is not believed.
    catching_up: Option<CatchingUpJson>,
    error: Option<String>,
}

/// What one member has heard of another.
#[derive(Serialize)]
struct SeenJson {
    by: String,
    state: Option<String>,
    since_ms: u64,
}

#[derive(Serialize)]
struct RebuildJson {
    /// Partitions that the member holds, and how many of them are complete.
    vnodes: u32,
    complete: u32,
    objects: u64,
    waiting_for: String,
}

impl From<Rebuild> for RebuildJson {
    fn from(rebuild: Rebuild) -> Self {
        let Rebuild { vnodes, complete, objects, waiting_for } = rebuild;
        Self { vnodes, complete, objects, waiting_for }
    }
}

#[derive(Serialize)]
struct CatchingUpJson {
    /// Partitions that the member holds, and for how many of them it does not count.
    vnodes: u32,
    left: u32,
    /// "unasked", "lost tail", "rolled back" or "lost".
    doubt: Option<String>,
    waiting_for: String,
    #[serde(skip)]
    why: &'static str,
}

impl From<CatchingUp> for CatchingUpJson {
    fn from(told: CatchingUp) -> Self {
        let why = match told.doubt {
            Some(Doubt::Unasked) => "no other owner has confirmed yet that its store is its latest",
            Some(Doubt::LostTail) => "its last writes before a power cut may be missing",
            Some(Doubt::RolledBack) => "its store is older than what others remember of it",
            Some(Doubt::Lost) => "something that it held is gone without a trace",
            None => "it may lack what it had acknowledged",
        };
        let CatchingUp { vnodes, left, doubt, waiting_for } = told;
        Self { vnodes, left, doubt: doubt.map(|doubt| doubt.to_string()), waiting_for, why }
    }
}

async fn status(session: &Session, topology: &Topology) -> Result<()> {
    let mut members: Vec<_> = topology.members.iter().collect();
    members.sort_by_key(|member| &member.name);
    let probed = join_all(members.into_iter().map(|member| probe(session, member))).await;
    let (mut members, topologies): (Vec<_>, Vec<_>) = probed.into_iter().unzip();
    for topology in topologies.iter().flatten() {
        members.iter_mut().for_each(|member| member.seen_by.extend(seen(member.name, topology)));
    }
    let json = StatusJson {
        cluster_id: &topology.cluster_id,
        version: topology.version,
        partitions: topology.partitions,
        answered_by: topology.name_of(topology.node),
        members,
    };
    Ok(session.output.result(&json, || status_text(session.output, &json))?)
}

/// What the node that described the topology has heard of a member.
fn seen(name: &str, topology: &Topology) -> Option<SeenJson> {
    let member = topology.members.iter().find(|member| member.name == name)?;
    Some(SeenJson {
        by: topology.name_of(topology.node),
        state: member.state.map(|state| state.to_string()),
        since_ms: millis(member.since),
    })
}

/// How long a member is waited for that is asked itself.
fn patience(session: &Session, member: &Member) -> Duration {
    let there = !matches!(member.state, Some(MemberState::Suspect | MemberState::Down));
    if there { PROBE_MAX } else { PROBE_AWAY }.min(session.timeout)
}

/// What was told within that time, or why nothing was.
async fn asked_within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, quorate_client::Error>>,
) -> (Option<T>, Option<String>) {
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(told)) => (Some(told), None),
        Ok(Err(error)) => (None, Some(error.to_string())),
        Err(_) => (None, Some(format!("no answer within {} ms", limit.as_millis()))),
    }
}

/// Asks a member itself, and what it knows. One that does not answer is a row of the table, not an
/// error.
async fn probe<'a>(session: &Session, member: &'a Member) -> (MemberJson<'a>, Option<Topology>) {
    let asked = session.client.describe_from(&member.name);
    let (topology, error) = asked_within(patience(session, member), asked).await;
    let version = topology.as_ref().map(|topology| topology.version);
    let votes = topology.as_ref().and_then(|topology| topology.vote);
    let json = MemberJson {
        name: &member.name,
        id: format!("{:016x}", member.id),
        zone: &member.zone,
        weight: member.weight,
        client_address: &member.client_address,
        peer_address: &member.peer_address,
        connected: member.connected,
        state: member.state.map(|state| state.to_string()),
        since_ms: millis(member.since),
        seen_by: Vec::new(),
        voter: member.voter,
        vote: votes.map(|vote| vote.to_string()),
        votes,
        reachable: version.is_some(),
        version,
        clock_ahead_ms: topology.as_ref().and_then(|topology| topology.clock_ahead_ms),
        rebuild: topology.as_ref().and_then(|t| t.rebuild.clone()).map(Into::into),
        catching_up: topology.as_ref().and_then(|t| t.catching_up.clone()).map(Into::into),
        error,
    };
    (json, topology)
}

fn status_text(output: Output, status: &StatusJson<'_>) -> String {
    let header = [
        "NODE",
        "ZONE",
        "WEIGHT",
        "ADDRESS",
        "STATE",
        "VOTER",
        "CONNECTED",
        "REACHABLE",
        "VERSION",
        "CLOCK",
    ];
    let yes = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let row = |m: &MemberJson<'_>| {
        vec![
            m.name.to_owned(),
            or_dash(m.zone),
            m.weight.to_string(),
            m.client_address.to_owned(),
            state_text(m.state.as_deref(), m.since_ms),
            m.vote.clone().unwrap_or_else(|| yes(m.voter)),
            yes(m.connected),
            yes(m.reachable),
            m.version.map_or("-".to_owned(), |version| version.to_string()),
            m.clock_ahead_ms.map_or("-".to_owned(), |ahead_ms| format!("{ahead_ms:+} ms")),
        ]
    };
    let mut lines = vec![
        format!(
            "cluster {}, metadata version {}, {} partitions; state and connected as seen by {}",
            status.cluster_id, status.version, status.partitions, status.answered_by
        ),
        String::new(),
        output.table(&header, status.members.iter().map(row)),
    ];
    for member in &status.members {
        lines.extend(member.error.as_ref().map(|error| format!("{}: {error}", member.name)));
        lines.extend(member.rebuild.as_ref().map(|rebuild| rebuild_text(member.name, rebuild)));
        lines.extend(member.catching_up.as_ref().map(|told| catching_up_text(member.name, told)));
    }
    lines.extend(status.members.iter().filter_map(otherwise_text));
    lines.extend(votes_text(&status.members));
    lines.extend(forked_text(&status.members));
    lines.join("\n")
}

fn names_of<'a>(members: &[MemberJson<'a>], vote: Vote) -> Vec<&'a str> {
    let of = members.iter().filter(|member| member.votes == Some(vote));
    of.map(|member| member.name).collect()
}

fn forked_text(members: &[MemberJson<'_>]) -> Option<String> {
    let saw = names_of(members, Vote::Forked).join(", ");
    (!saw.is_empty()).then(|| {
        format!(
            "{saw} saw the cluster's metadata fork, and refuses to change it: keep all data \
             directories, and report it with that node's log"
        )
    })
}

/// What is known of a member, and for how long: "down 12 s".
fn state_text(state: Option<&str>, since_ms: u64) -> String {
    let seconds = since_ms / 1000;
    let (count, unit) = match seconds {
        0..120 => (seconds, "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "d"),
    };
    format!("{} {count} {unit}", state.unwrap_or("unknown"))
}

/// How many others are named that see a member otherwise.
const OTHERWISE_MAX: usize = 5;

/// Who sees a member otherwise than the answering node does, if anybody does.
fn otherwise_text(member: &MemberJson<'_>) -> Option<String> {
    let others = member.seen_by.iter().filter(|seen| seen.state != member.state);
    let text = |seen: &SeenJson| {
        format!("{} as seen by {}", state_text(seen.state.as_deref(), seen.since_ms), seen.by)
    };
    let mut texts: Vec<String> = others.map(text).collect();
    let more = texts.len().saturating_sub(OTHERWISE_MAX);
    texts.truncate(OTHERWISE_MAX);
    texts.extend((more > 0).then(|| format!("otherwise than here by {more} more")));
    (!texts.is_empty()).then(|| format!("{}: {}", member.name, texts.join(", ")))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What is wrong with the votes on namespaces, if anything is.
fn votes_text(members: &[MemberJson<'_>]) -> Option<String> {
    let voters = members.iter().filter(|member| member.voter).count();
    let lost = names_of(members, Vote::Lost);
    if lost.is_empty() {
        return None;
    }
    let left = voters - lost.len().min(voters);
    let then = match left > voters / 2 {
        true => "namespaces can be created and dropped while a majority of all voters votes",
        false => "too few are left for namespaces to be created or dropped",
    };
    Some(format!(
        "votes lost with the stores of {}: {left} of {voters} voters are left, and {then}",
        lost.join(", ")
    ))
}

fn rebuild_text(name: &str, rebuild: &RebuildJson) -> String {
    let waits = match &*rebuild.waiting_for {
        "" => String::new(),
        what => format!("; waits for {what}"),
    };
    format!(
        "{name}: its store is being rebuilt: {} of {} partitions complete, {} objects received{waits}; \
         until then it does not count in their quorums",
        rebuild.complete, rebuild.vnodes, rebuild.objects
    )
}

fn catching_up_text(name: &str, told: &CatchingUpJson) -> String {
    let waits = match &*told.waiting_for {
        "" => String::new(),
        who => format!("; waits for {who}"),
    };
    let CatchingUpJson { vnodes, left, why, .. } = told;
    format!(
        "{name}: it does not count in quorums of {left} of its {vnodes} partitions yet: {why}{waits}"
    )
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
