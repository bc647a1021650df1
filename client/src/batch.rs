//! Many keys at once: the reads and writes of single keys, whose calls are combined.
//!
//! Each key of a batch runs as if it came alone, by the same code: it chooses its node, names its
//! operation, decides what a failure means. Only its call waits in a [`Combiner`] until every key
//! has gone as far as it can; then what is for one node goes there in one call.
//!
//! ```text
//!   keys 1 2 3 4     choose: a b a a     calls: a(1 3 4) b(2)     b is down: 2 chooses c: c(2)
//! ```

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as Wake, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use quorate_proto::v1;
use tokio::sync::oneshot;

use crate::{
    connection::Connection,
    error::{Error, ErrorKind, Reach, WriteError},
    namespace::{Namespace, repair_to_wire},
    options::{BatchEntry, BatchOptions, GetOptions},
    outcome::{Read, Written},
    retry::{Backoff, server_ms},
    route::Target,
    write::{self, Attempt, Change, Write, retry_to_wire},
};

/// How much one call carries: enough to share its cost, and not so much that it holds up others
/// or, in answers, that there is no room for all.
const GETS_MAX: usize = 128;
const PUTS_MAX: usize = 256;
const PUTS_BYTES: usize = 1 << 20;

/// Reads many keys.
pub(crate) async fn get(
    namespace: &Namespace,
    keys: Vec<Bytes>,
    options: GetOptions,
) -> Vec<Result<Read, Error>> {
    let shared = &namespace.client.0;
    let deadline = shared.deadline(options.timeout);
    let replica = match &options.replica {
        Some(name) => shared.node_id(name, deadline).await,
        None => Ok(0),
    };
    let replica = match replica {
        Ok(replica) => replica,
        Err(error) => return keys.iter().map(|_| Err(error.clone())).collect(),
    };
    let (combiner, backoff) = (Combiner::default(), Backoff::in_step());
    let read = |key: Bytes| {
        let (combiner, backoff) = (&combiner, backoff.clone());
        async move {
            shared.resolve(&namespace.name, deadline).await?;
            let target = match replica {
                0 => Target::Key { namespace: &namespace.name, key: &key, forwarded: true },
                node => Target::Node(node),
            };
            let call = |node: Arc<Connection>, limit| {
                let ask = key.clone();
                async move { combiner.submit(&node, limit, ask).await }
            };
            shared.ask_paced(target, deadline, backoff, call).await.map(Read::from)
        }
    };
    let call = |node: Arc<Connection>, limit: Duration, keys: Vec<Bytes>| {
        let request = v1::BatchGetRequest {
            quorum: options.quorum.to_wire(),
            namespace: namespace.name.to_string(),
            keys,
            r: options.r.to_wire(),
            timeout_ms: 0,
            repair: repair_to_wire(options.repair),
            replica,
        };
        async move {
            let mut kv = node.kv();
            let get = |left| async move {
                kv.batch_get(v1::BatchGetRequest { timeout_ms: server_ms(left), ..request }).await
            };
            let reply = node.offer(node.call(limit, get)).await?;
            let result = |result: v1::BatchGetResult| match result.result {
                Some(v1::batch_get_result::Result::Reply(reply)) => Ok(Ok(reply)),
                Some(v1::batch_get_result::Result::Error(error)) => Ok(Err(error)),
                None => Err(malformed(&node)),
            };
            reply.results.into_iter().map(result).collect()
        }
    };
    let size = |_: &Bytes| 0;
    combiner.drive(keys.into_iter().map(read), size, GETS_MAX, call).await
}

/// Writes many keys.
pub(crate) async fn put(
    namespace: &Namespace,
    entries: Vec<BatchEntry>,
    options: BatchOptions,
) -> Vec<Result<Written, WriteError>> {
    let shared = &namespace.client.0;
    let deadline = shared.deadline(options.timeout);
    let (combiner, backoff) = (Combiner::default(), Backoff::in_step());
    let run = |entry: BatchEntry| {
        let (combiner, backoff) = (&combiner, backoff.clone());
        let write = Write {
            namespace: Arc::clone(&namespace.name),
            key: entry.key,
            change: match entry.value {
                Some(value) => Change::Put(value, entry.ttl),
                None => Change::Delete,
            },
            context: entry.context,
            w: options.w,
            quorum: options.quorum,
            durability: options.durability,
            retry: options.retry,
            operation: entry.operation,
        };
        async move { write.run_by(combiner, shared, deadline, backoff).await }
    };
    let call = |node: Arc<Connection>, limit: Duration, entries: Vec<v1::BatchPutEntry>| {
        let request = v1::BatchPutRequest {
            quorum: options.quorum.to_wire(),
            namespace: namespace.name.to_string(),
            entries,
            w: options.w.to_wire(),
            durability: options.durability.to_wire(),
            retry: retry_to_wire(options.retry),
            timeout_ms: 0,
        };
        async move {
            let mut kv = node.kv();
            let put = |left| async move {
                kv.batch_put(v1::BatchPutRequest { timeout_ms: server_ms(left), ..request }).await
            };
            let reply = node.offer(node.call(limit, put)).await?;
            let result = |result: v1::BatchPutResult| match result.result {
                Some(v1::batch_put_result::Result::Reply(reply)) => Ok(Ok(reply)),
                Some(v1::batch_put_result::Result::Error(error)) => Ok(Err(error)),
                None => Err(malformed(&node)),
            };
            reply.results.into_iter().map(result).collect()
        }
    };
    let size = |entry: &v1::BatchPutEntry| {
        entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len) + entry.context.len()
    };
    combiner.drive(entries.into_iter().map(run), size, PUTS_MAX, call).await
}

/// Collects the calls of many keys. `Q` is what is asked of one, `A` what is answered.
struct Combiner<Q, A> {
    waiting: Mutex<Vec<Submitted<Q, A>>>,
}

impl<Q, A> Default for Combiner<Q, A> {
    fn default() -> Self {
        Self { waiting: Mutex::default() }
    }
}

/// One key's part in a call to come.
struct Submitted<Q, A> {
    node: Arc<Connection>,
    limit: Duration,
    question: Q,
    answer: oneshot::Sender<Result<A, Error>>,
}

/// What one call answers: for each question an answer or why there is none.
type Answers<A> = Result<Vec<Result<A, v1::BatchError>>, Error>;

impl<Q, A> Combiner<Q, A> {
    /// Waits for the answer of the call that this becomes part of.
    async fn submit(
        &self,
        node: &Arc<Connection>,
        limit: Duration,
        question: Q,
    ) -> Result<A, Error> {
        let (answer, wait) = oneshot::channel();
        let submitted = Submitted { node: Arc::clone(node), limit, question, answer };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(submitted);
        let gone = || Error::new(ErrorKind::Internal, "the batch ended without an answer");
        wait.await.unwrap_or_else(|_| Err(gone().reaching(Reach::Lost)))
    }

    /// Runs the work on every key to its end; the results in the order of the keys.
    async fn drive<T, C: Future<Output = Answers<A>>>(
        &self,
        keys: impl Iterator<Item = impl Future<Output = T>>,
        size: impl Fn(&Q) -> usize,
        count_max: usize,
        call: impl Fn(Arc<Connection>, Duration, Vec<Q>) -> C,
    ) -> Vec<T> {
        let work =
            |(at, work): (usize, _)| async move { (at, IntoFuture::into_future(work).await) };
        let mut running: FuturesUnordered<_> = keys.enumerate().map(work).collect();
        let mut calls = FuturesUnordered::new();
        let mut done = Vec::with_capacity(running.len());
        let step = |cx: &mut Wake<'_>| {
            loop {
                while let Poll::Ready(Some(ended)) = running.poll_next_unpin(cx) {
                    done.push(ended);
                }
                if running.is_empty() {
                    return Poll::Ready(());
                }
                let groups = self.groups(&size, count_max);
                let mut moved = !groups.is_empty();
                calls.extend(groups.into_iter().map(|group| group.send(&call)));
                while let Poll::Ready(Some(())) = calls.poll_next_unpin(cx) {
                    moved = true;
                }
                if !moved {
                    return Poll::Pending;
                }
            }
        };
        poll_fn(step).await;
        done.sort_by_key(|(at, _)| *at);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// What waits, by node, in parts that fit one call.
    fn groups(&self, size: impl Fn(&Q) -> usize, count_max: usize) -> Vec<Group<Q, A>> {
        let waiting =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let mut open: BTreeMap<*const Connection, Group<Q, A>> = BTreeMap::new();
        let mut full = Vec::new();
        for Submitted { node, limit, question, answer } in waiting {
            let size = size(&question);
            let group = open.entry(Arc::as_ptr(&node)).or_insert_with(|| Group::to(&node));
            let fits = group.questions.len() < count_max && group.bytes + size <= PUTS_BYTES;
            if !fits && !group.questions.is_empty() {
                full.push(std::mem::replace(group, Group::to(&node)));
            }
            group.limit = group.limit.min(limit);
            group.bytes += size;
            group.questions.push(question);
            group.answers.push(answer);
        }
        full.extend(open.into_values());
        full
    }
}

/// A call to come.
struct Group<Q, A> {
    node: Arc<Connection>,
    limit: Duration,
    bytes: usize,
    questions: Vec<Q>,
    answers: Vec<oneshot::Sender<Result<A, Error>>>,
}

impl<Q, A> Group<Q, A> {
    fn to(node: &Arc<Connection>) -> Self {
        let (node, limit) = (Arc::clone(node), Duration::MAX);
        Self { node, limit, bytes: 0, questions: Vec::new(), answers: Vec::new() }
    }

    /// Makes the call, and hands its answers to who waits for them.
    async fn send<C: Future<Output = Answers<A>>>(
        self,
        call: impl Fn(Arc<Connection>, Duration, Vec<Q>) -> C,
    ) {
        let Self { node, limit, questions, answers, .. } = self;
        let replies = call(Arc::clone(&node), limit, questions).await;
        let replies = replies.and_then(|replies| {
            if replies.len() == answers.len() { Ok(replies) } else { Err(malformed(&node)) }
        });
        // An error of sending says that nobody waits any more.
        match replies {
            Err(error) => answers.into_iter().for_each(|to| drop(to.send(Err(error.clone())))),
            Ok(replies) => {
                let mut ill = false;
                for (to, reply) in answers.into_iter().zip(replies) {
                    let failed = |error| {
                        let error = Error::from_batch(error, &node.name);
                        // Once for the call, however many of its keys say so.
                        if !ill && error.is_node_failure() {
                            ill = true;
                            return node.failed(error);
                        }
                        error
                    };
                    let _ = to.send(reply.map_err(failed));
                }
            }
        }
    }
}

fn malformed(node: &Connection) -> Error {
    let message = "its answer to a batch does not fit the batch";
    Error::new(ErrorKind::Internal, message).at(&node.name).reaching(Reach::Lost)
}

impl write::Send for Combiner<v1::BatchPutEntry, v1::PutReply> {
    async fn send(
        &self,
        node: &Arc<Connection>,
        write: &Write,
        attempt: Attempt,
    ) -> Result<v1::PutReply, Error> {
        let Attempt { operation, fresh, limit } = attempt;
        let (value, ttl) = match &write.change {
            Change::Put(value, ttl) => (Some(value.clone()), ttl.to_wire()),
            Change::Delete => (None, None),
            Change::Expire(_) => unreachable!("a batch has no such entry"),
        };
        let entry = v1::BatchPutEntry {
            key: write.key.clone(),
            value,
            context: write.context_bytes(),
            operation_id: Some(operation.into()),
            fresh,
            ttl,
        };
        self.submit(node, limit, entry).await
    }
}

#[cfg(test)]
mod tests;
