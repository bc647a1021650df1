//! Puts rows in place of whatever is under their keys.
//!
//! Rows are tried together: one batch reads what is there, another replaces it. A row that this does
//! not settle goes on alone, so that the others need not wait for it.
//!
//! ```text
//!   rows a b c d     batch_get: a b c d    a is there already    b could not be read: alone
//!                    batch_put: c d        c is stored           d may be applied: alone, same id
//! ```

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use quorate_client::{
    BatchEntry, BatchOptions, ConflictRule, Context, Error, GetOptions, Level, Namespace,
    OperationId, PutOptions, Quorum, Read, Repair, Retry, Sibling, UpdateOptions, Updated,
    WriteError, Written,
};
use tokio::time::{Instant, sleep};

use crate::failure::describe_write;
use crate::formats::Pair;

/// How long a row that failed waits before another try: long enough to spare a cluster that is
/// restarting, short enough to try many times within the default of 5 s.
const PAUSE: Duration = Duration::from_millis(250);

/// Why a row is not stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RowError {
    pub(crate) outcome: RowOutcome,
    pub(crate) reason: String,
    /// Whether the cluster is the matter, not the row: another row may fare no better.
    pub(crate) is_retryable: bool,
}

/// What became of a row that is not known to be stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RowOutcome {
    /// It was not applied.
    Failed,
    /// It may have been applied, or may yet be.
    Unknown,
}

/// Whether rows under way may have been applied: what is asked when they are given up.
#[derive(Debug, Default)]
pub(crate) struct Doubt(AtomicBool);

impl Doubt {
    /// From here on they may.
    pub(crate) fn arise(&self) {
        self.0.store(true, Relaxed);
    }

    pub(crate) fn outcome(&self) -> RowOutcome {
        if self.0.load(Relaxed) { RowOutcome::Unknown } else { RowOutcome::Failed }
    }
}

/// How far a row came with the others.
pub(crate) enum Tried<S, A> {
    Ended(Result<S, RowError>),
    /// It goes on alone, from here.
    Alone(A),
}

/// Where rows go.
pub(crate) trait Store {
    /// What is known of a row that is stored.
    type Stored;
    /// A row that goes on alone.
    type Alone;

    /// Replaces what is under the keys, which differ, for as long as that helps all of them.
    fn store_all(
        &self,
        pairs: Vec<Pair>,
        doubt: &Doubt,
    ) -> impl Future<Output = Vec<Tried<Self::Stored, Self::Alone>>>;

    /// Stores a row to the end.
    fn store(
        &self,
        row: Self::Alone,
        doubt: &Doubt,
    ) -> impl Future<Output = Result<Self::Stored, RowError>>;
}

/// A namespace of the cluster.
pub(crate) struct KvStore {
    namespace: Namespace,
    retry: Retry,
    quorum: Quorum,
    /// How many replicas tell what a row replaces.
    r: Level,
    timeout: Duration,
}

/// How writes of a namespace are retried: elsewhere too, where copies of one show as one. In an `lww`
/// namespace the copy is a new write, which would replace what was written, or deleted, between.
pub(crate) fn retry_in(conflict: ConflictRule) -> Retry {
    match conflict {
        ConflictRule::Siblings => Retry::AtLeastOnce,
        ConflictRule::Lww => Retry::ExactlyOnce,
    }
}

/// A row that is stored by itself, for as long as one may take, whatever its batch took.
pub(crate) struct AloneRow {
    pair: Pair,
    step: Step,
}

/// What is to be done next for a row.
enum Step {
    /// To read what is there, once the pause for an error is over.
    Read(Option<Error>),
    /// To write again what replaces this.
    Write(Option<Context>, WriteError),
    /// Someone else wrote the key at the same time.
    Settle,
}

/// How the batches of rows end for one of them.
type TriedRow = Tried<Option<Context>, AloneRow>;

impl KvStore {
    /// Retries each row for `timeout`, as [`retry_in`] the namespace.
    pub(crate) fn new(namespace: Namespace, retry: Retry, timeout: Duration) -> Self {
        Self { namespace, retry, quorum: Quorum::Default, r: Level::Quorum, timeout }
    }

    /// Whether fallbacks may stand in for owners.
    pub(crate) fn with_quorum(self, quorum: Quorum) -> Self {
        Self { quorum, ..self }
    }

    /// How many replicas tell what a row replaces. With less than a majority, what others hold may
    /// come to stand beside it.
    pub(crate) fn with_r(self, r: Level) -> Self {
        Self { r, ..self }
    }

    /// A row that is stored by itself from the beginning.
    pub(crate) fn alone(&self, pair: Pair) -> AloneRow {
        AloneRow { pair, step: Step::Read(None) }
    }

    /// How long a batch of reads is waited for, and one of writes: half as long as a row, which has
    /// all of its time left if it goes on alone.
    fn batch_timeout(&self) -> Option<Duration> {
        Some((self.timeout / 2).max(Duration::from_millis(1)))
    }

    /// What a majority of the owners holds by then, unless told otherwise: a row that is found is as
    /// good as written, and one that a failed write left on a single owner is not.
    fn reading(&self, timeout: Option<Duration>) -> GetOptions {
        let (r, quorum, repair) = (self.r, self.quorum, Repair::Blocking);
        GetOptions { r, quorum, repair, timeout, ..GetOptions::default() }
    }

    async fn read(&self, key: &Bytes, deadline: Instant) -> Result<Read, RowError> {
        loop {
            let options = self.reading(left(deadline));
            let error = match self.namespace.get(key.clone(), options).await {
                Ok(read) => return Ok(read),
                Err(error) => error,
            };
            pause(error, deadline).await.map_err(unread)?;
        }
    }

    /// Writes until it is done, refused, or out of time. A write whose outcome is unknown is asked
    /// for again under its own operation id, so that it does not become two, as long as anybody knows
    /// the id.
    async fn put(
        &self,
        pair: &Pair,
        context: Option<Context>,
        mut unknown: Option<OperationId>,
        deadline: Instant,
    ) -> Result<Written, WriteError> {
        loop {
            let options = PutOptions {
                context: context.clone(),
                quorum: self.quorum,
                retry: self.retry,
                timeout: left(deadline),
                operation: unknown,
                ..PutOptions::default()
            };
            match self.namespace.put(pair.key.clone(), pair.value.clone(), options).await {
                Ok(written) => return Ok(written),
                Err(failed) if only_reading_tells(&failed) => return Err(failed),
                Err(failed) => unknown = again(failed, deadline).await?,
            }
        }
    }

    /// Someone else wrote the key at the same time: reads again and writes over what it sees.
    async fn settle(&self, pair: &Pair, deadline: Instant) -> Result<Option<Context>, WriteError> {
        let options = UpdateOptions {
            r: self.r,
            quorum: self.quorum,
            retry: self.retry,
            timeout: left(deadline),
            ..UpdateOptions::default()
        };
        let update =
            |there: &[Sibling]| (!is_alone(there, &pair.value)).then(|| pair.value.clone());
        match self.namespace.update(pair.key.clone(), options, update).await? {
            Updated::Done(written) => Ok(written.context),
            Updated::Unchanged => Ok(None),
        }
    }

    /// Writes and sees to it that the value stands alone.
    async fn replace(
        &self,
        pair: &Pair,
        mut context: Option<Context>,
        mut unknown: Option<OperationId>,
        deadline: Instant,
    ) -> Result<Option<Context>, RowError> {
        loop {
            match self.put(pair, context, unknown, deadline).await {
                Ok(written) if written.siblings <= 1 => return Ok(written.context),
                Ok(_) => return Ok(self.settle(pair, deadline).await?),
                Err(failed) if only_reading_tells(&failed) => drop(again(failed, deadline).await?),
                Err(failed) => return Err(failed.into()),
            }
            // No copy of it can be applied later, and if it was, it may be on fewer owners than the
            // namespace asks for.
            let read = self.read(&pair.key, deadline).await?;
            (context, unknown) = (read.context, None);
        }
    }

    /// Writes the rows that were read; each with its place.
    async fn write_all(&self, rows: Vec<(usize, Pair, Option<Context>)>) -> Vec<(usize, TriedRow)> {
        let entry = |(_, pair, context): &(usize, Pair, Option<Context>)| {
            BatchEntry::put(pair.key.clone(), pair.value.clone(), context.clone())
        };
        let entries: Vec<_> = rows.iter().map(entry).collect();
        let (quorum, retry, timeout) = (self.quorum, self.retry, self.batch_timeout());
        let options = BatchOptions { quorum, retry, timeout, ..BatchOptions::default() };
        let written = self.namespace.batch_put(entries, options).await;
        let tried =
            |((place, pair, context), written)| (place, after_write(written, pair, context));
        rows.into_iter().zip(written).map(tried).collect()
    }
}

impl Store for KvStore {
    /// A context that covers the value, if there is one.
    type Stored = Option<Context>;
    type Alone = AloneRow;

    async fn store_all(&self, pairs: Vec<Pair>, doubt: &Doubt) -> Vec<TriedRow> {
        if pairs.len() == 1 {
            return pairs.into_iter().map(|pair| Tried::Alone(self.alone(pair))).collect();
        }
        let keys: Vec<Bytes> = pairs.iter().map(|pair| pair.key.clone()).collect();
        let read = self.namespace.batch_get(keys, self.reading(self.batch_timeout())).await;
        let (mut tried, mut to_write) = (Vec::with_capacity(pairs.len()), Vec::new());
        for (place, (pair, read)) in pairs.into_iter().zip(read).enumerate() {
            match read {
                Ok(read) if is_alone(&read.siblings, &pair.value) => {
                    tried.push((place, Tried::Ended(Ok(read.context))));
                }
                Ok(read) => to_write.push((place, pair, read.context)),
                Err(error) if error.is_retryable() => {
                    let step = Step::Read(Some(error));
                    tried.push((place, Tried::Alone(AloneRow { pair, step })));
                }
                Err(error) => tried.push((place, Tried::Ended(Err(unread(error))))),
            }
        }
        if !to_write.is_empty() {
            doubt.arise();
        }
        tried.extend(self.write_all(to_write).await);
        tried.sort_by_key(|(place, _)| *place);
        tried.into_iter().map(|(_, tried)| tried).collect()
    }

    async fn store(&self, row: AloneRow, doubt: &Doubt) -> Result<Option<Context>, RowError> {
        let AloneRow { pair, step } = row;
        let deadline = Instant::now() + self.timeout;
        match step {
            Step::Read(failed) => {
                if let Some(error) = failed {
                    pause(error, deadline).await.map_err(unread)?;
                }
                let read = self.read(&pair.key, deadline).await?;
                if is_alone(&read.siblings, &pair.value) {
                    return Ok(read.context);
                }
                doubt.arise();
                self.replace(&pair, read.context, None, deadline).await
            }
            Step::Write(context, failed) => {
                doubt.arise();
                let unknown = again(failed, deadline).await?;
                self.replace(&pair, context, unknown, deadline).await
            }
            Step::Settle => {
                doubt.arise();
                Ok(self.settle(&pair, deadline).await?)
            }
        }
    }
}

/// What a row's part in a batch of writes leaves to do.
fn after_write(
    written: Result<Written, WriteError>,
    pair: Pair,
    context: Option<Context>,
) -> TriedRow {
    let step = match written {
        Ok(written) if written.siblings <= 1 => return Tried::Ended(Ok(written.context)),
        Ok(_) => Step::Settle,
        Err(failed) if failed.error().is_retryable() => Step::Write(context, failed),
        Err(failed) => return Tried::Ended(Err(failed.into())),
    };
    Tried::Alone(AloneRow { pair, step })
}

fn unread(error: Error) -> RowError {
    RowError {
        outcome: RowOutcome::Failed,
        reason: format!("not written, since it could not be read: {error}"),
        is_retryable: error.is_retryable(),
    }
}

impl From<WriteError> for RowError {
    fn from(error: WriteError) -> Self {
        let outcome = match error {
            WriteError::NotApplied { .. } => RowOutcome::Failed,
            WriteError::Unknown { .. } => RowOutcome::Unknown,
        };
        let is_retryable = error.error().is_retryable();
        Self { outcome, reason: describe_write(&error), is_retryable }
    }
}

fn is_alone(siblings: &[Sibling], value: &Bytes) -> bool {
    matches!(siblings, [only] if only.value == value)
}

/// Whether nobody can tell any more what became of a write.
fn only_reading_tells(failed: &WriteError) -> bool {
    failed.is_unknown() && failed.error().only_reading_tells()
}

/// Waits before a failed write is tried again, or hands the failure back if it is not to be: the id
/// under which to ask for a write that may have been applied.
async fn again(failed: WriteError, deadline: Instant) -> Result<Option<OperationId>, WriteError> {
    match failed {
        WriteError::NotApplied { error } => {
            let ended = |error| WriteError::NotApplied { error };
            pause(error, deadline).await.map_err(ended)?;
            Ok(None)
        }
        WriteError::Unknown { operation, error } => {
            let ended = |error| WriteError::Unknown { operation, error };
            pause(error, deadline).await.map_err(ended)?;
            Ok(Some(operation))
        }
    }
}

/// Waits before another try, or hands the error back if there is to be none.
async fn pause(error: Error, deadline: Instant) -> Result<(), Error> {
    let pause = PAUSE.max(error.retry_after());
    if !error.is_retryable() || Instant::now() + pause >= deadline {
        return Err(error);
    }
    sleep(pause).await;
    Ok(())
}

/// What is left until the deadline; never zero, which servers take for their default.
fn left(deadline: Instant) -> Option<Duration> {
    Some(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests;
