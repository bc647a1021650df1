//! Reading and writing the keys of one namespace.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures::Stream;
use quorate_proto::v1::{self, error_detail::Kind};

use crate::{
    batch,
    client::Client,
    connection::Connection,
    error::{Error, ErrorKind, WriteError},
    options::{
        BatchEntry, BatchOptions, DeleteOptions, ExpireOptions, GetOptions, PutOptions, Repair,
        ScanOptions, UpdateOptions,
    },
    outcome::{Deleted, Expired, Read, ScanItem, Sibling, Updated, Written},
    retry::{Backoff, Deadline, server_ms},
    route::Target,
    scan,
    token::Context,
    ttl::Ttl,
    write::{Change, Write},
};

/// A handle to one namespace: cheap to make and to clone.
#[derive(Clone)]
pub struct Namespace {
    pub(crate) client: Client,
    pub(crate) name: Arc<str>,
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads a key. One without values answers with no siblings, not with an error.
    pub async fn get(&self, key: impl Into<Bytes>, options: GetOptions) -> Result<Read, Error> {
        let deadline = self.client.0.deadline(options.timeout);
        self.read(&key.into(), &options, deadline).await
    }

    /// Writes a value. It replaces exactly what its context covers; without one it stands beside
    /// whatever is there. In an `lww` namespace it replaces whatever is older.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<Written, WriteError> {
        let deadline = self.client.0.deadline(options.timeout);
        let write = Write {
            namespace: Arc::clone(&self.name),
            key: key.into(),
            change: Change::Put(value.into(), options.ttl),
            context: options.context,
            w: options.w,
            quorum: options.quorum,
            durability: options.durability,
            retry: options.retry,
            operation: options.operation,
        };
        write.run(&self.client.0, deadline).await
    }

    /// Reads many keys: an answer for each, in their order, as of [`Self::get`].
    ///
    /// Each node is sent one call for the keys that it holds, at most 128 in one. What has to be
    /// asked again is, together.
    pub async fn batch_get<K: Into<Bytes>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        options: GetOptions,
    ) -> Vec<Result<Read, Error>> {
        batch::get(self, keys.into_iter().map(Into::into).collect(), options).await
    }

    /// Writes many keys: an outcome for each, in their order, as of [`Self::put`] and
    /// [`Self::delete`]. Nothing binds them together: some may be applied and others not.
    ///
    /// Each node is sent one call for the keys that it coordinates, at most 256 or a MiB in one.
    /// What has to be sent again is, together, each write under its own operation id. Entries of
    /// one key are applied in their order as long as none is sent again.
    pub async fn batch_put(
        &self,
        entries: impl IntoIterator<Item = BatchEntry>,
        options: BatchOptions,
    ) -> Vec<Result<Written, WriteError>> {
        batch::put(self, entries.into_iter().collect(), options).await
    }

    /// Removes the values that the context covers; without one, those that a read sees now.
    pub async fn delete(
        &self,
        key: impl Into<Bytes>,
        options: DeleteOptions,
    ) -> Result<Deleted, WriteError> {
        let (key, deadline) = (key.into(), self.client.0.deadline(options.timeout));
        let context = match (options.context, options.operation) {
            (Some(context), _) => Some(context),
            (None, None) => {
                let (r, quorum) = (options.r, options.quorum);
                let read = GetOptions { r, quorum, ..GetOptions::default() };
                self.covering(&key, &read, deadline).await?
            }
            (None, Some(operation)) => return Err(needs_context(operation)),
        };
        let Some(context) = context else { return Ok(Deleted::NotFound) };
        let write = Write {
            namespace: Arc::clone(&self.name),
            key,
            change: Change::Delete,
            context: Some(context),
            w: options.w,
            quorum: options.quorum,
            durability: options.durability,
            retry: options.retry,
            operation: options.operation,
        };
        write.run(&self.client.0, deadline).await.map(Deleted::Done)
    }

    /// Lets the value of a key expire so long from now, or with [`Ttl::Never`] not at all.
    ///
    /// It is a write: the value that a quorum of owners holds is written again, and replaces what they
    /// hold. Of several values at once none is meant: [`ErrorKind::Conflict`] asks for one in their place.
    /// Of two of these at once the later end counts; in an `lww` namespace, the last one.
    pub async fn expire(
        &self,
        key: impl Into<Bytes>,
        ttl: Ttl,
        options: ExpireOptions,
    ) -> Result<Expired, WriteError> {
        let deadline = self.client.0.deadline(options.timeout);
        let write = Write {
            namespace: Arc::clone(&self.name),
            key: key.into(),
            change: Change::Expire(ttl),
            context: None,
            w: options.w,
            quorum: options.quorum,
            durability: options.durability,
            retry: options.retry,
            operation: options.operation,
        };
        match write.run(&self.client.0, deadline).await {
            Ok(written) => Ok(Expired::Done(written)),
            Err(WriteError::NotApplied { error }) if error.detail() == Kind::KeyNotFound => {
                Ok(Expired::NotFound)
            }
            Err(error) => Err(error),
        }
    }

    /// Lets the value of a key live until it is replaced: [`Self::expire`] with [`Ttl::Never`].
    pub async fn persist(
        &self,
        key: impl Into<Bytes>,
        options: ExpireOptions,
    ) -> Result<Expired, WriteError> {
        self.expire(key, Ttl::Never, options).await
    }

    /// Reads the siblings, asks `f` for the one value to replace them all, and writes that.
    ///
    /// If a concurrent write ends up beside it, all of that is done again until the deadline: what
    /// `f` answered before is then among the siblings that it is shown, so it must merge them, not
    /// add to them. With no answer the key is left as it is.
    ///
    /// When the deadline passes between two rounds, the last write stands, with its siblings. One
    /// that was applied, and replaced before a retry of it was answered, is done: it answers without
    /// a context.
    ///
    /// A key that `r` replicas do not tell of is not written, though a put would be taken: without them
    /// nobody knows what it is to replace. While owners are away, `r: Level::One` takes what is there for
    /// all, and what it writes may come to stand beside what the others hold.
    ///
    /// In an `lww` namespace `f` is shown one value at most, and what it answers wins over that. But
    /// nothing tells of a concurrent write: of two updates at once one is lost.
    pub async fn update(
        &self,
        key: impl Into<Bytes>,
        options: UpdateOptions,
        mut f: impl FnMut(&[Sibling]) -> Option<Bytes>,
    ) -> Result<Updated, WriteError> {
        let (key, deadline) = (key.into(), self.client.0.deadline(options.timeout));
        let mut backoff = Backoff::default();
        let mut last: Option<Written> = None;
        loop {
            let round = self.update_once(&key, &options, deadline, &mut f).await;
            let written = match (round, last) {
                (Ok(Some(written)), _) => written,
                (Ok(None), None) => return Ok(Updated::Unchanged),
                // An earlier round did write: that this one did not does not undo it.
                (Ok(None) | Err(WriteError::NotApplied { .. }), Some(last)) => {
                    return Ok(Updated::Done(last));
                }
                (Err(error), _) => return Err(error),
            };
            // Without a context one value, or none, is not ours beside others: a later write replaced
            // ours before a retry of it was answered. That one may have built on it, and `f` would
            // be asked to change what holds its answer already.
            let settled = written.context.is_some() || written.siblings <= 1;
            if settled || !backoff.pause(deadline, Default::default()).await {
                return Ok(Updated::Done(written));
            }
            last = Some(written);
        }
    }

    /// Streams the keys that begin with a prefix: partition by partition, in byte order within
    /// each. When a node fails, it goes on at another; it never ends early without an error.
    pub fn scan(
        &self,
        options: ScanOptions,
    ) -> impl Stream<Item = Result<ScanItem, Error>> + Send + 'static {
        scan::stream(Arc::clone(&self.client.0), Arc::clone(&self.name), options)
    }

    async fn read(
        &self,
        key: &Bytes,
        options: &GetOptions,
        deadline: Deadline,
    ) -> Result<Read, Error> {
        let shared = &self.client.0;
        let replica = match &options.replica {
            Some(name) => shared.node_id(name, deadline).await?,
            None => 0,
        };
        shared.resolve(&self.name, deadline).await?;
        let target = match replica {
            0 => Target::Key { namespace: &self.name, key, forwarded: true },
            node => Target::Node(node),
        };
        let call = |node: Arc<Connection>, limit| async move {
            let mut kv = node.kv();
            let get = |left| async move {
                let request = v1::GetRequest {
                    quorum: options.quorum.to_wire(),
                    namespace: self.name.to_string(),
                    key: key.clone(),
                    r: options.r.to_wire(),
                    timeout_ms: server_ms(left),
                    repair: repair_to_wire(options.repair),
                    replica,
                };
                kv.get(request).await
            };
            node.offer(node.call(limit, get)).await
        };
        shared.ask(target, deadline, call).await.map(Read::from)
    }

    /// The context of what a read sees; none if it sees no value.
    async fn covering(
        &self,
        key: &Bytes,
        options: &GetOptions,
        deadline: Deadline,
    ) -> Result<Option<Context>, WriteError> {
        let read = self.read(key, options, deadline).await;
        let read = read.map_err(unread)?;
        Ok(read.context.filter(|_| !read.siblings.is_empty()))
    }

    /// One round of an update; nothing is written if `f` does not answer.
    async fn update_once(
        &self,
        key: &Bytes,
        options: &UpdateOptions,
        deadline: Deadline,
        f: &mut impl FnMut(&[Sibling]) -> Option<Bytes>,
    ) -> Result<Option<Written>, WriteError> {
        let (r, quorum) = (options.r, options.quorum);
        let read = GetOptions { r, quorum, ..GetOptions::default() };
        let read = self.read(key, &read, deadline).await;
        let read = read.map_err(unread)?;
        let Some(value) = f(&read.siblings) else { return Ok(None) };
        let write = Write {
            namespace: Arc::clone(&self.name),
            key: key.clone(),
            change: Change::Put(value, options.ttl),
            context: read.context,
            w: options.w,
            quorum: options.quorum,
            durability: options.durability,
            retry: options.retry,
            operation: None,
        };
        write.run(&self.client.0, deadline).await.map(Some)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namespace").field(&self.name).finish()
    }
}

fn unread(error: Error) -> WriteError {
    WriteError::NotApplied { error: error.before_writing() }
}

fn needs_context(operation: crate::OperationId) -> WriteError {
    let message = "to ask for the outcome of a delete takes the context that it was sent with";
    WriteError::Unknown { operation, error: Error::new(ErrorKind::Invalid, message) }
}

pub(crate) fn repair_to_wire(repair: Repair) -> i32 {
    match repair {
        Repair::Async => v1::Repair::Async,
        Repair::Blocking => v1::Repair::Blocking,
    }
    .into()
}
