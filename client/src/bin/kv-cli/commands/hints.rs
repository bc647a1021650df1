//! `hints` and `hints await`: what members keep for others, and when those have it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use quorate_client::{HintQueue, Hints};
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::Session;
use super::near::with_near_members;
use crate::args::{HintsArgs, HintsCommand};
use crate::failure::Exit;
use crate::output::Output;
use crate::progress::Progress;
use crate::stderr::{Notice, say};

/// How often `await` looks: a person is waiting, and the nodes have it in memory.
const POLL: Duration = Duration::from_millis(200);

pub(super) async fn run(session: &Session, args: HintsArgs) -> Result<Exit> {
    let target = args.target.as_deref();
    if let Some(name) = target
        && let Err(error) = session.client.member(name).await
    {
        return Err(with_near_members(session, error.into(), name).await);
    }
    match args.command {
        None => list(session, target).await,
        Some(HintsCommand::Await) => wait(session, target).await,
    }
}

#[derive(Serialize)]
struct HintsJson<'a> {
    queues: Vec<QueueJson<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    unreachable: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    full: &'a [String],
}

#[derive(Serialize)]
struct QueueJson<'a> {
    holder: &'a str,
    target: &'a str,
    count: u64,
    bytes: u64,
    oldest_seconds: u64,
}

impl<'a> From<&'a HintQueue> for QueueJson<'a> {
    fn from(queue: &'a HintQueue) -> Self {
        let HintQueue { holder, target, count, bytes, oldest, .. } = queue;
        Self { holder, target, count: *count, bytes: *bytes, oldest_seconds: oldest.as_secs() }
    }
}

async fn list(session: &Session, target: Option<&str>) -> Result<Exit> {
    let hints = ask(session, target).await?;
    let json = HintsJson {
        queues: hints.queues.iter().map(QueueJson::from).collect(),
        unreachable: &hints.unreachable,
        full: &hints.full,
    };
    session.output.result(&json, || text(session.output, &json.queues))?;
    for holder in &hints.full {
        let message = format!("{holder} keeps no more hints (hints_max_bytes is reached)");
        say(&Notice::note(message).with("full", holder));
    }
    if let Some(message) = unreachable_text(&hints.unreachable) {
        say(&Notice::note(message).with("unreachable", &hints.unreachable));
    }
    Ok(Exit::Done)
}

/// The hints for `target`, or for all. Nobody keeps hints for itself, so that one need not answer.
async fn ask(session: &Session, target: Option<&str>) -> Result<Hints> {
    let Hints { mut queues, mut unreachable, full } = session.client.hints().await?;
    if let Some(target) = target {
        queues.retain(|queue| queue.target == target);
        unreachable.retain(|member| member != target);
    }
    queues.sort_by(|a, b| (&a.target, &a.holder).cmp(&(&b.target, &b.holder)));
    Ok(Hints { queues, unreachable, full })
}

fn text(output: Output, queues: &[QueueJson<'_>]) -> String {
    if queues.is_empty() {
        return "no hints".to_owned();
    }
    let header = ["TARGET", "HOLDER", "HINTS", "BYTES", "OLDEST"];
    let row = |queue: &QueueJson<'_>| {
        vec![
            queue.target.to_owned(),
            queue.holder.to_owned(),
            queue.count.to_string(),
            queue.bytes.to_string(),
            format!("{} s", queue.oldest_seconds),
        ]
    };
    output.table(&header, queues.iter().map(row))
}

fn unreachable_text(members: &[String]) -> Option<String> {
    let names = members.join(", ");
    (!members.is_empty())
        .then(|| format!("not reached, so that nobody knows what they keep: {names}"))
}

#[derive(Serialize)]
struct AwaitJson<'a> {
    delivered: u64,
    left: u64,
    unreachable: &'a [String],
}

async fn wait(session: &Session, target: Option<&str>) -> Result<Exit> {
    let deadline = session.timeout_given.map(|timeout| Instant::now() + timeout);
    let start = ask(session, target).await?;
    if let Some(message) = unreachable_text(&start.unreachable) {
        say(&Notice::note(message).with("unreachable", &start.unreachable));
    }
    let mut awaited = Awaited::of(&start.queues);
    let all = awaited.left();
    let in_time = {
        let progress = Progress::hints(all);
        tokio::select! {
            delivered = poll(session, target, &mut awaited, &progress) => delivered.map(|()| true)?,
            () = until(deadline) => false,
        }
    };
    let left = awaited.left();
    let json = AwaitJson { delivered: all - left, left, unreachable: &start.unreachable };
    session.output.result(&json, || format!("{} delivered, {left} left", all - left))?;
    if !in_time {
        say(&Notice::error("timeout", format!("not delivered in time: {}", awaited.text())));
    }
    if let Some(message) = unreachable_text(&start.unreachable) {
        say(&Notice::error("unavailable", message).with("unreachable", &start.unreachable));
    }
    Ok(if in_time && start.unreachable.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Looks again and again until all is delivered.
async fn poll(
    session: &Session,
    target: Option<&str>,
    awaited: &mut Awaited,
    progress: &Progress,
) -> Result<()> {
    while awaited.left() > 0 {
        sleep(POLL).await;
        let (before, now) = (awaited.left(), ask(session, target).await?);
        awaited.on_hints(&now);
        progress.advance(before - awaited.left());
        progress.message(match now.unreachable.join(", ") {
            none if none.is_empty() => none,
            names => format!("({names} not reached)"),
        });
    }
    Ok(())
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The hints that were there at the beginning, as far as they are not known to be delivered.
struct Awaited(BTreeMap<(String, String), Wanted>);

/// Of one holder for one target.
struct Wanted {
    /// The number of the last.
    last: u64,
    /// How many at most.
    left: u64,
}

impl Awaited {
    fn of(queues: &[HintQueue]) -> Self {
        let wanted = |queue: &HintQueue| {
            let names = (queue.holder.clone(), queue.target.clone());
            (names, Wanted { last: queue.last, left: queue.count.max(1) })
        };
        Self(queues.iter().map(wanted).collect())
    }

    /// Takes note of what is there now. A holder that cannot be asked may have all of it still.
    fn on_hints(&mut self, now: &Hints) {
        self.0.retain(|(holder, target), wanted| {
            if now.unreachable.contains(holder) {
                return true;
            }
            let mut queues = now.queues.iter();
            match queues.find(|queue| queue.holder == *holder && queue.target == *target) {
                Some(queue) if queue.first <= wanted.last => {
                    wanted.left = wanted.left.min(queue.count).max(1);
                    true
                }
                _ => false,
            }
        });
    }

    fn left(&self) -> u64 {
        self.0.values().map(|wanted| wanted.left).sum()
    }

    fn text(&self) -> String {
        let queue = |((holder, target), wanted): (&(String, String), &Wanted)| {
            format!("{} for {target} at {holder}", wanted.left)
        };
        self.0.iter().map(queue).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use quorate_proto::v1;

    use super::*;
    use crate::args::{Args, TopCommand};
    use crate::failure::describe;
    use crate::fake::Fakes;

    async fn run_line(fakes: &Fakes, line: &str) -> Result<Exit> {
        let line = format!("kv-cli --endpoints {} {line}", fakes.addresses[0]);
        let args = Args::try_parse_from(line.split(' ')).unwrap();
        let TopCommand::One(command) = args.command else { panic!("{line}") };
        super::super::run(&args.global, command).await
    }

    /// What nodes answer one after the other: queues of n0 for n1, and who was not reached.
    async fn fakes(answers: &[(&[[u64; 3]], &[&str])]) -> Fakes {
        let fakes = Fakes::start(&[]).await;
        let queue = |&[count, first, last]: &[u64; 3]| v1::HintQueue {
            holder: 1,
            target: 2,
            count,
            first,
            last,
            ..Default::default()
        };
        let reply = |(queues, unreachable): &(&[[u64; 3]], &[&str])| v1::HintsReply {
            queues: queues.iter().map(queue).collect(),
            unreachable: unreachable.iter().map(|&name| name.to_owned()).collect(),
            full: Vec::new(),
        };
        fakes.hints.lock().unwrap().extend(answers.iter().map(reply));
        fakes
    }

    #[tokio::test]
    async fn await_ends_when_what_was_there_is_delivered() {
        let answers: [(&[[u64; 3]], &[&str]); 4] = [
            (&[[2, 1, 2]], &[]),
            (&[[3, 1, 4]], &["n0"]),
            (&[[3, 2, 4]], &[]),
            (&[[9, 3, 12]], &[]),
        ];
        for line in ["hints await", "hints await --target n1 --timeout 1m"] {
            let fakes = fakes(&answers).await;
            assert_eq!(run_line(&fakes, line).await.unwrap(), Exit::Done, "{line}");
            assert_eq!(fakes.hints.lock().unwrap().len(), 1, "not before: {line}");
        }
        // Those of another are not waited for, nor does it matter what that one keeps for others.
        let fakes = fakes(&[(&[[2, 1, 2]], &["n2"])]).await;
        assert_eq!(run_line(&fakes, "hints await --target n2").await.unwrap(), Exit::Done);
        assert_eq!(run_line(&fakes, "hints").await.unwrap(), Exit::Done);
    }

    #[tokio::test]
    async fn await_fails_when_the_time_is_up_or_nobody_can_know() {
        let fakes_with = |unreachable: &'static [&str], queues: &'static [[u64; 3]]| async move {
            fakes(&[(queues, unreachable), (&[], &[])]).await
        };
        let late = fakes(&[(&[[2, 1, 2]], &[])]).await;
        assert_eq!(run_line(&late, "hints await --timeout 500ms").await.unwrap(), Exit::Failed);
        let unknown = fakes_with(&["n2"], &[[1, 1, 1]]).await;
        assert_eq!(run_line(&unknown, "hints await").await.unwrap(), Exit::Failed);
        assert_eq!(unknown.hints.lock().unwrap().len(), 1, "but the others are waited for");
    }

    #[tokio::test]
    async fn a_target_that_is_no_member_is_answered_with_those_that_look_like_it() {
        let fakes = fakes(&[]).await;
        for (name, says) in [("nn1", "did you mean n1"), ("else", "there are n0, n1, n2")] {
            let error = run_line(&fakes, &format!("hints --target {name}")).await.unwrap_err();
            let kind = error.downcast_ref::<quorate_client::Error>().unwrap().kind();
            assert_eq!(kind, quorate_client::ErrorKind::NotFound);
            let said = describe(&error);
            assert!(said.contains(says), "{said}");
        }
    }

    fn queue(holder: &str, target: &str, [count, first, last]: [u64; 3]) -> HintQueue {
        let [holder, target] = [holder, target].map(str::to_owned);
        HintQueue { holder, target, count, bytes: 10, oldest: Duration::ZERO, first, last }
    }

    fn now(queues: &[HintQueue], unreachable: &[&str]) -> Hints {
        let unreachable = unreachable.iter().map(|&name| name.to_owned()).collect();
        Hints { queues: queues.to_vec(), unreachable, full: Vec::new() }
    }

    #[test]
    fn what_was_there_is_delivered_once_the_first_number_is_above_what_was_the_last() {
        let mut awaited =
            Awaited::of(&[queue("n1", "n2", [3, 5, 9]), queue("n3", "n2", [1, 2, 2])]);
        assert_eq!(awaited.left(), 4);
        // New ones come, old ones go; of one holder nothing can be said.
        awaited.on_hints(&now(&[queue("n1", "n2", [7, 9, 15])], &["n3"]));
        assert_eq!(awaited.left(), 4);
        awaited.on_hints(&now(&[queue("n1", "n2", [2, 9, 15])], &[]));
        assert_eq!((awaited.left(), &*awaited.text()), (2, "2 for n2 at n1"));
        awaited.on_hints(&now(&[queue("n1", "n2", [6, 10, 15])], &[]));
        assert_eq!(awaited.left(), 0);
    }

    #[test]
    fn a_queue_that_is_gone_is_delivered_and_new_ones_are_not_waited_for() {
        let mut awaited = Awaited::of(&[queue("n1", "n2", [3, 5, 9])]);
        awaited.on_hints(&now(&[queue("n1", "n3", [3, 5, 9]), queue("n3", "n2", [3, 5, 9])], &[]));
        assert_eq!(awaited.left(), 0);
        assert_eq!(Awaited::of(&[]).left(), 0);
    }

    #[test]
    fn a_list_is_as_scripts_know_it() {
        let queues = [queue("n1", "n2", [3, 5, 9])];
        let queues = || queues.iter().map(QueueJson::from).collect();
        let json = |unreachable: &[String], full: &[String]| {
            serde_json::to_string(&HintsJson { queues: queues(), unreachable, full }).unwrap()
        };
        let row = r#"{"holder":"n1","target":"n2","count":3,"bytes":10,"oldest_seconds":0}"#;
        assert_eq!(json(&[], &[]), format!(r#"{{"queues":[{row}]}}"#));
        let (unreachable, full) = (["n3".to_owned()], ["n1".to_owned()]);
        let all = format!(r#"{{"queues":[{row}],"unreachable":["n3"],"full":["n1"]}}"#);
        assert_eq!(json(&unreachable, &full), all);
    }
}
