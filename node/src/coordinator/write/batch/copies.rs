//! The copies of a batch's writes: what the machines want done at a time is one message to each node.

use std::collections::BTreeMap;

use futures::future::{BoxFuture, FutureExt as _, join_all};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Running;
use crate::coordinator::write::copies::{KEEP_TIMEOUT, LATE_AFTER, Said, cause_in, hint_of, tell};
use crate::coordinator::{Coordinator, cause_of, cause_of_error};
use crate::dynamo::key::NodeId;
use crate::dynamo::quorum::{Cause, Verdict};
use crate::dynamo::write::Effect;
use crate::trace::Trace;
use crate::transport::{PeerError, Replicate, Reply, Request};
use crate::vnode::Written;

/// A message to a node ends once its objects have so many bytes: as much as a frame holds.
const MESSAGE_BYTES: usize = 1 << 20;

/// What is wanted of one of the writes.
type Wanted = (usize, Effect);

/// A message under way: what it carries, and what became of each.
type UnderWay = FuturesUnordered<BoxFuture<'static, Vec<(Wanted, Said)>>>;

/// The writes of a batch, applied here, with their copies on their way.
pub(super) struct CopiesOfMany {
    running: Vec<Running>,
    written: Vec<Written>,
    under_way: UnderWay,
    synced: bool,
    deadline: Instant,
}

impl CopiesOfMany {
    pub(super) fn new(synced: bool, deadline: Instant) -> Self {
        let (running, written, under_way) = (Vec::new(), Vec::new(), FuturesUnordered::new());
        Self { running, written, under_way, synced, deadline }
    }

    /// One that is applied.
    pub(super) fn add(&mut self, running: Running, written: Written) {
        self.running.push(running);
        self.written.push(written);
    }

    /// The writes in the order in which they were added.
    pub(super) fn writes(&self) -> impl Iterator<Item = (&Running, &Written)> {
        self.running.iter().zip(&self.written)
    }

    fn is_pending(&self) -> bool {
        self.running.iter().any(|write| write.op.verdict() == Verdict::Pending)
    }

    fn is_settled(&self) -> bool {
        self.running.iter().all(|write| write.op.is_settled())
    }

    /// Asks each machine what it wants.
    fn ask<E: IntoIterator<Item = Effect>>(
        &mut self,
        mut ask: impl FnMut(&mut Running) -> E,
    ) -> Vec<Wanted> {
        let each = self.running.iter_mut().enumerate();
        each.flat_map(|(at, write)| ask(write).into_iter().map(move |e| (at, e))).collect()
    }

    /// Tells the machines what became of what they wanted. What they want done about it.
    fn tell(&mut self, said: Vec<(Wanted, Said)>) -> Vec<Wanted> {
        let each = said.into_iter().filter_map(|((at, effect), said)| {
            let next = tell(&mut self.running[at].op, effect, said)?;
            Some((at, next))
        });
        each.collect()
    }
}

impl Coordinator {
    /// Sends the objects to whom they are due, all at once, and listens until every verdict or the
    /// deadline.
    pub(super) async fn collect_many(&self, copies: &mut CopiesOfMany) {
        let synced = copies.synced;
        self.late.earn(copies.running.len() as u32);
        let wanted = copies.ask(|write| {
            let away = &write.away;
            write.op.start(synced, |node| cause_in(away, node))
        });
        self.send_many(copies, wanted);
        let late = sleep_until(copies.deadline.min(Instant::now() + LATE_AFTER));
        tokio::pin!(late);
        while copies.is_pending() {
            let wanted = tokio::select! {
                biased;
                Some(said) = copies.under_way.next() => copies.tell(said),
                () = &mut late => {
                    if late.deadline() >= copies.deadline {
                        return;
                    }
                    late.as_mut().reset(copies.deadline);
                    copies.ask(|write| match write.op.is_late() && self.late.allows() {
                        true => write.op.on_late(),
                        false => Vec::new(),
                    })
                }
            };
            self.send_many(copies, wanted);
        }
    }

    /// After the answer: as for a single write.
    pub(super) fn follow_up_many(&self, mut copies: CopiesOfMany) {
        if copies.is_settled() {
            return;
        }
        let open = copies.running.iter().filter(|write| !write.op.is_settled()).count();
        let permit = self.followed.clone().try_acquire_many_owned(open as u32).ok();
        let coordinator = self.clone();
        tokio::spawn(Trace::current().run(async move {
            let until = if permit.is_some() { copies.deadline } else { Instant::now() };
            tokio::select! {
                biased;
                () = coordinator.stop.cancelled() => {}
                () = coordinator.settle_many(&mut copies, until) => {}
            }
            let wanted = copies.ask(|write| {
                let silent = write.op.silent().into_iter();
                silent
                    .filter_map(|owner| write.op.on_failure(owner, Cause::Timeout))
                    .collect::<Vec<_>>()
            });
            coordinator.send_many(&mut copies, wanted);
            coordinator.settle_many(&mut copies, Instant::now() + KEEP_TIMEOUT).await;
            let left = copies.running.iter().filter(|write| !write.op.is_settled()).count();
            coordinator.unfollowed(left);
            drop(permit);
        }));
    }

    async fn settle_many(&self, copies: &mut CopiesOfMany, until: Instant) {
        while !copies.is_settled() {
            let Ok(Some(said)) = timeout_at(until, copies.under_way.next()).await else { return };
            let wanted = copies.tell(said);
            self.send_many(copies, wanted);
        }
    }

    fn send_many(&self, copies: &mut CopiesOfMany, wanted: Vec<Wanted>) {
        let mut messages: BTreeMap<NodeId, Vec<Outgoing>> = BTreeMap::new();
        for (at, effect) in wanted {
            let (write, written) = (&copies.running[at], &copies.written[at]);
            let replicate = self.replicate(&write.target, written, write.id, copies.synced);
            let (to, replicate) = effect.addressed(replicate);
            let to_node = messages.entry(to).or_default();
            match to_node.last_mut().filter(|last| last.has_room(&replicate)) {
                Some(last) => last.push((at, effect), replicate),
                None => {
                    let mut first = Outgoing::default();
                    first.push((at, effect), replicate);
                    to_node.push(first);
                }
            }
        }
        let until = copies.deadline.max(Instant::now() + KEEP_TIMEOUT);
        for (to, message) in
            messages.into_iter().flat_map(|(to, all)| all.into_iter().map(move |m| (to, m)))
        {
            let sent = match to == self.node {
                true => self.keep_many_here(copies, message, until),
                false => {
                    let Outgoing { carried, items, .. } = message;
                    let hints = items.iter().any(|item| item.hint_for.is_some());
                    let until = if hints { until } else { copies.deadline };
                    let sent = self.request(to, Request::ReplicateBatch(items), until);
                    sent.map(|(_, reply)| said(carried, reply)).boxed()
                }
            };
            copies.under_way.push(sent);
        }
    }

    /// Keeps objects as hints on this node, with one job for each shard.
    fn keep_many_here(
        &self,
        copies: &CopiesOfMany,
        message: Outgoing,
        until: Instant,
    ) -> BoxFuture<'static, Vec<(Wanted, Said)>> {
        let hint = |(wanted, replicate): (Wanted, Replicate)| {
            (wanted, hint_of(&copies.running[wanted.0].target.address, replicate))
        };
        let hints: Vec<_> = message.carried.into_iter().zip(message.items).map(hint).collect();
        let parts = self.shards.split(hints, |(_, (merge, _))| &merge.address);
        let (shards, synced) = (self.shards.clone(), copies.synced);
        async move {
            let keep = parts.into_iter().map(|part| async {
                let (wanted, hints): (Vec<_>, Vec<_>) = part.items.into_iter().unzip();
                let kept = shards.hint_batch(hints, synced, until).await.into_iter();
                let said = kept.map(|kept| kept.map(|()| synced).map_err(|e| cause_of_error(&e)));
                wanted.into_iter().zip(said).collect::<Vec<_>>()
            });
            join_all(keep).await.into_iter().flatten().collect()
        }
        .boxed()
    }
}

/// A message to a node that fills.
#[derive(Default)]
struct Outgoing {
    carried: Vec<Wanted>,
    items: Vec<Replicate>,
    bytes: usize,
}

impl Outgoing {
    fn has_room(&self, next: &Replicate) -> bool {
        self.bytes + next.object.0.len() <= MESSAGE_BYTES
    }

    fn push(&mut self, wanted: Wanted, replicate: Replicate) {
        self.bytes += replicate.object.0.len();
        self.carried.push(wanted);
        self.items.push(replicate);
    }
}

/// What a node answered for what its message carried.
fn said(carried: Vec<Wanted>, reply: Result<Reply, PeerError>) -> Vec<(Wanted, Said)> {
    match reply {
        Ok(Reply::ReplicatedBatch(items)) if items.len() == carried.len() => {
            let said = items.into_iter().map(|item| item.map_err(|error| cause_of_error(&error)));
            carried.into_iter().zip(said).collect()
        }
        other => {
            let cause = cause_of(&other);
            carried.into_iter().map(|wanted| (wanted, Err(cause))).collect()
        }
    }
}
