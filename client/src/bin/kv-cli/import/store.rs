//! Puts one row in place of whatever is under its key.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use quorate_client::{
    Context, Error, GetOptions, Level, Namespace, PutOptions, Read, Repair, Retry, Sibling,
    UpdateOptions, Updated, WriteError, Written,
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

/// Where rows go.
pub(crate) trait Store {
    /// What is known of a row that is stored.
    type Stored;

    /// Replaces what is under the key.
    fn store(&self, pair: Pair) -> impl Future<Output = Result<Self::Stored, RowError>>;
}

/// A namespace of the cluster.
pub(crate) struct KvStore {
    namespace: Namespace,
    timeout: Duration,
}

impl KvStore {
    /// Retries each row for `timeout`.
    pub(crate) fn new(namespace: Namespace, timeout: Duration) -> Self {
        Self { namespace, timeout }
    }

    /// What a majority of the owners holds by then: a row that is found is as good as written, and
    /// one that a failed write left on a single owner is not.
    async fn read(&self, key: &Bytes, deadline: Instant) -> Result<Read, RowError> {
        loop {
            let options = GetOptions {
                r: Level::Quorum,
                repair: Repair::Blocking,
                timeout: left(deadline),
                ..GetOptions::default()
            };
            let error = match self.namespace.get(key.clone(), options).await {
                Ok(read) => return Ok(read),
                Err(error) => error,
            };
            pause(error, deadline).await.map_err(|error| RowError {
                outcome: RowOutcome::Failed,
                reason: format!("not written, since it could not be read: {error}"),
                is_retryable: error.is_retryable(),
            })?;
        }
    }

    /// Writes until it is done, refused, or out of time. A write whose outcome is unknown is asked
    /// for again under its own operation id, so that it does not become two.
    async fn put(
        &self,
        pair: &Pair,
        context: Option<Context>,
        deadline: Instant,
    ) -> Result<Written, WriteError> {
        let mut unknown = None;
        loop {
            let options = PutOptions {
                context: context.clone(),
                retry: Retry::AtLeastOnce,
                timeout: left(deadline),
                operation: unknown.take(),
                ..PutOptions::default()
            };
            match self.namespace.put(pair.key.clone(), pair.value.clone(), options).await {
                Ok(written) => return Ok(written),
                Err(WriteError::NotApplied { error }) => {
                    let ended = |error| WriteError::NotApplied { error };
                    pause(error, deadline).await.map_err(ended)?;
                }
                Err(WriteError::Unknown { operation, error }) => {
                    let ended = |error| WriteError::Unknown { operation, error };
                    pause(error, deadline).await.map_err(ended)?;
                    unknown = Some(operation);
                }
            }
        }
    }

    /// Someone else wrote the key at the same time: reads again and writes over what it sees.
    async fn settle(&self, pair: &Pair, deadline: Instant) -> Result<Option<Context>, WriteError> {
        let options = UpdateOptions {
            r: Level::Quorum,
            retry: Retry::AtLeastOnce,
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
}

impl Store for KvStore {
    /// A context that covers the value, if there is one.
    type Stored = Option<Context>;

    async fn store(&self, pair: Pair) -> Result<Option<Context>, RowError> {
        let deadline = Instant::now() + self.timeout;
        let read = self.read(&pair.key, deadline).await?;
        if is_alone(&read.siblings, &pair.value) {
            return Ok(read.context);
        }
        let written = self.put(&pair, read.context, deadline).await?;
        if written.siblings <= 1 {
            return Ok(written.context);
        }
        Ok(self.settle(&pair, deadline).await?)
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
