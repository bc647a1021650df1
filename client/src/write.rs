//! One write, from its first attempt to an outcome: applied, not applied, or unknown.
//!
//! What to do after each failure is decided in [`retry`](crate::retry); here it is done.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quorate_proto::v1::{self, error_detail::Kind};

use crate::{
    client::Shared,
    connection::Connection,
    error::{Error, ErrorKind, WriteError},
    level::{Durability, Level, Quorum},
    operation::OperationId,
    options::Retry,
    outcome::{Receipt, StandIn, Written, dot_text},
    retry::{Backoff, Deadline, Doubt, Next, server_ms},
    route::{Routes, Target, Tries, key_hash},
    token::Context,
    ttl::Ttl,
};

/// What a write does to its key.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(Bytes, Ttl),
    Delete,
    /// Writes the value again that is there.
    Expire(Ttl),
}

impl Change {
    /// Why no node would take it.
    fn check(&self) -> Result<(), Error> {
        match self {
            Self::Put(_, ttl) => ttl.check(),
            Self::Expire(Ttl::Default) => {
                let message = "say how long the value is to live, or that it does not expire";
                Err(Error::new(ErrorKind::Invalid, message))
            }
            Self::Expire(ttl) => ttl.check(),
            Self::Delete => Ok(()),
        }
    }
}

/// A write as it was asked for.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) namespace: Arc<str>,
    pub(crate) key: Bytes,
    pub(crate) change: Change,
    pub(crate) context: Option<Context>,
    pub(crate) w: Level,
    pub(crate) quorum: Quorum,
    pub(crate) durability: Durability,
    pub(crate) retry: Retry,
    /// Set if an earlier request under this id ended unknown.
    pub(crate) operation: Option<OperationId>,
}

/// How one attempt at a write reaches a node.
pub(crate) trait Send {
    /// Sends it once; a delete is answered in the same fields as a put.
    fn send(
        &self,
        node: &Arc<Connection>,
        write: &Write,
        attempt: Attempt,
    ) -> impl Future<Output = Result<v1::PutReply, Error>> + std::marker::Send;
}

/// In a call of its own.
pub(crate) struct Alone;

impl Write {
    /// Sends it until its outcome is known or the deadline passes.
    pub(crate) async fn run(
        &self,
        shared: &Arc<Shared>,
        deadline: Deadline,
    ) -> Result<Written, WriteError> {
        self.run_by(&Alone, shared, deadline, Backoff::default()).await
    }

    /// The same, by another way to send it, and pausing as told.
    pub(crate) async fn run_by(
        &self,
        sender: &impl Send,
        shared: &Arc<Shared>,
        deadline: Deadline,
        backoff: Backoff,
    ) -> Result<Written, WriteError> {
        let mut run = Run {
            sender,
            shared,
            write: self,
            deadline,
            doubt: Doubt::new(self.retry, self.operation.is_some()),
            operation: self.operation,
            sent: self.operation.is_some(),
            node: None,
            tries: Tries::default(),
            backoff,
            refreshed: false,
            attempts: 0,
        };
        if let Err(error) = self.change.check() {
            return Err(run.failed(error));
        }
        if let Err(error) = run.prepare().await {
            return Err(run.failed(error));
        }
        loop {
            match run.attempt().await {
                Ok(written) => return Ok(written),
                Err(error) => run.recover(error).await?,
            }
        }
    }

    /// The owners; with a sloppy quorum any other member may coordinate in their place.
    fn target(&self, routes: &Routes) -> Target<'_> {
        let namespace = routes.topology.namespace(&self.namespace);
        let quorum = match (self.quorum, namespace) {
            (Quorum::Default, Some(namespace)) => namespace.quorum,
            (quorum, _) => quorum,
        };
        let forwarded = quorum == Quorum::Sloppy;
        Target::Key { namespace: &self.namespace, key: &self.key, forwarded }
    }

    pub(crate) fn context_bytes(&self) -> Bytes {
        self.context.as_ref().map(Context::to_bytes).unwrap_or_default()
    }
}

impl Send for Alone {
    async fn send(
        &self,
        node: &Arc<Connection>,
        write: &Write,
        attempt: Attempt,
    ) -> Result<v1::PutReply, Error> {
        let Attempt { operation, fresh, limit } = attempt;
        let (namespace, key) = (write.namespace.to_string(), write.key.clone());
        let context = write.context_bytes();
        let (w, durability) = (write.w.to_wire(), write.durability.to_wire());
        let quorum = write.quorum.to_wire();
        let (operation_id, retry) = (Some(operation.into()), retry_to_wire(write.retry));
        let mut kv = node.kv();
        match &write.change {
            Change::Put(value, ttl) => {
                let (value, ttl) = (value.clone(), ttl.to_wire());
                let put = |left| async move {
                    let request = v1::PutRequest {
                        quorum,
                        namespace,
                        key,
                        value,
                        context,
                        w,
                        durability,
                        operation_id,
                        retry,
                        timeout_ms: server_ms(left),
                        fresh,
                        ttl,
                    };
                    kv.put(request).await
                };
                node.offer(node.call(limit, put)).await
            }
            Change::Delete => {
                let delete = |left| async move {
                    let request = v1::DeleteRequest {
                        quorum,
                        namespace,
                        key,
                        context,
                        w,
                        durability,
                        operation_id,
                        retry,
                        timeout_ms: server_ms(left),
                        fresh,
                    };
                    kv.delete(request).await
                };
                let v1::DeleteReply { context, siblings, receipt } =
                    node.offer(node.call(limit, delete)).await?;
                Ok(v1::PutReply { context, siblings, receipt })
            }
            Change::Expire(ttl) => {
                expire(node, write, *ttl, Attempt { operation, fresh, limit }).await
            }
        }
    }
}

/// Sends an expire, which is answered in the same fields as a put.
async fn expire(
    node: &Arc<Connection>,
    write: &Write,
    ttl: Ttl,
    attempt: Attempt,
) -> Result<v1::PutReply, Error> {
    let Attempt { operation, fresh, limit } = attempt;
    let mut kv = node.kv();
    let expire = |left| async move {
        let request = v1::ExpireRequest {
            quorum: write.quorum.to_wire(),
            namespace: write.namespace.to_string(),
            key: write.key.clone(),
            ttl: ttl.to_wire(),
            w: write.w.to_wire(),
            durability: write.durability.to_wire(),
            operation_id: Some(operation.into()),
            retry: retry_to_wire(write.retry),
            timeout_ms: server_ms(left),
            fresh,
        };
        kv.expire(request).await
    };
    let v1::ExpireReply { context, siblings, receipt } =
        node.offer(node.call(limit, expire)).await?;
    Ok(v1::PutReply { context, siblings, receipt })
}

/// One request for a write.
pub(crate) struct Attempt {
    pub(crate) operation: OperationId,
    /// No request carried the id before.
    pub(crate) fresh: bool,
    /// How long it may take.
    pub(crate) limit: Duration,
}

/// A write under way.
struct Run<'a, S> {
    sender: &'a S,
    shared: &'a Arc<Shared>,
    write: &'a Write,
    deadline: Deadline,
    doubt: Doubt,
    /// The present id; none if the next attempt is to have a new one.
    operation: Option<OperationId>,
    /// Whether a request carried that id before.
    sent: bool,
    /// Where the next attempt goes; none if it is to be chosen.
    node: Option<Arc<Connection>>,
    tries: Tries,
    backoff: Backoff,
    refreshed: bool,
    attempts: u32,
}

impl<S: Send> Run<'_, S> {
    /// Finds the namespace, and the coordinator of a write that is to be asked about.
    async fn prepare(&mut self) -> Result<(), Error> {
        let routes = self.shared.resolve(&self.write.namespace, self.deadline).await?;
        let Some(mut operation) = self.operation else { return Ok(()) };
        if self.place(&routes)? != (operation.namespace_id, operation.key_hash) {
            let message = "the operation id names a write of another key";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if self.write.retry == Retry::AtLeastOnce {
            operation.retry = Retry::AtLeastOnce;
            self.operation = Some(operation);
        }
        self.node =
            routes.topology.index_of(operation.coordinator).map(|at| Arc::clone(&routes.nodes[at]));
        if self.node.is_none() && self.write.retry == Retry::ExactlyOnce {
            let message = "the coordinator of the operation is no member any more";
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        Ok(())
    }

    async fn attempt(&mut self) -> Result<Written, Error> {
        let node = match &self.node {
            Some(node) => Arc::clone(node),
            None => self.choose()?,
        };
        let operation = match self.operation {
            Some(operation) => operation,
            None => self.name_operation(&node).await?,
        };
        self.attempts += 1;
        let attempt = Attempt { operation, fresh: !self.sent, limit: self.share(&node) };
        self.sent = true;
        let reply = self.sender.send(&node, self.write, attempt).await?;
        self.shared.retries.on_success();
        let v1::PutReply { context, siblings, receipt } = reply;
        Ok(Written {
            context: Context::from_bytes(context),
            siblings,
            receipt: self.receipt(receipt),
            attempts: self.attempts,
        })
    }

    /// What one attempt may take: there must be time to ask another node, unless there is none.
    fn share(&self, node: &Arc<Connection>) -> Duration {
        let routes = self.shared.routes();
        match self.tries.has_other(&routes, &self.write.target(&routes), node) {
            true => self.deadline.share(),
            false => self.deadline.remaining(),
        }
    }

    /// The next owner; without one that answers, with a sloppy quorum, another member.
    fn choose(&mut self) -> Result<Arc<Connection>, Error> {
        let routes = self.shared.routes();
        let node = self.tries.pick(&routes, &self.write.target(&routes));
        let nobody =
            || Error::new(ErrorKind::Unavailable, "the topology names no owner of the key");
        let node = node.ok_or_else(nobody)?;
        self.node = Some(Arc::clone(&node));
        Ok(node)
    }

    /// A new operation id, to be coordinated by this node in its present opening.
    async fn name_operation(&mut self, node: &Connection) -> Result<OperationId, Error> {
        let opening = node.opening(self.deadline).await?;
        let (namespace_id, key_hash) = self.place(&self.shared.routes())?;
        let operation = OperationId {
            coordinator: opening.node,
            opening: opening.opening,
            client: self.shared.id,
            sequence: self.shared.next_sequence(),
            issued_ms: opening.now_ms(),
            namespace_id,
            key_hash,
            retry: self.write.retry,
        };
        self.operation = Some(operation);
        self.sent = false;
        Ok(operation)
    }

    /// The namespace's id and the key's hash.
    fn place(&self, routes: &Routes) -> Result<(u64, u64), Error> {
        let Some(namespace) = routes.topology.namespace(&self.write.namespace) else {
            let message = format!("there is no namespace {}", self.write.namespace);
            let error = Error::new(ErrorKind::NotFound, message);
            return Err(error.because(Kind::UnknownNamespace));
        };
        Ok((namespace.id, key_hash(namespace.id, &self.write.key)))
    }

    /// Prepares the next attempt, or says how the write ended.
    async fn recover(&mut self, error: Error) -> Result<(), WriteError> {
        let mut next = self.doubt.on_failure(&error, self.is_at_named());
        if error.detail() == Kind::UnknownNamespace && !self.doubt.unknown && !self.refreshed {
            self.refreshed = true;
            if self.shared.still_knows(&self.write.namespace, self.deadline).await {
                next = Next::Afresh;
            }
        }
        // Who asks for the outcome of one operation is told it, and decides about another.
        let settled = next == Next::Afresh && self.write.operation.is_some();
        if next == Next::Stop || settled || self.deadline.has_passed() {
            return Err(self.failed(error));
        }
        if error.is_node_failure() {
            self.shared.refresh_soon();
        }
        let pause = match next {
            Next::Stop | Next::SameNode => true,
            Next::AskOpening => self.ask_opening(),
            Next::Afresh => {
                self.operation = None;
                self.leave_node(&error)
            }
            Next::Elsewhere => self.leave_node(&error),
        };
        let routes = self.shared.routes();
        let moves = !pause && self.tries.move_on(&routes, &self.write.target(&routes));
        if !self.shared.retries.allows(&error, moves) {
            return Err(self.failed(error));
        }
        if pause && !self.backoff.pause(self.deadline, error.retry_after()).await {
            return Err(self.failed(error));
        }
        Ok(())
    }

    /// Whether the attempt went to the node that its id names.
    fn is_at_named(&self) -> bool {
        let (Some(node), Some(operation)) = (&self.node, self.operation) else { return true };
        let routes = self.shared.routes();
        let named = routes.topology.index_of(operation.coordinator);
        named.is_some_and(|at| routes.nodes[at].address == node.address)
    }

    /// Answers whether to pause.
    fn ask_opening(&mut self) -> bool {
        self.operation = None;
        if let Some(node) = &self.node {
            node.forget_opening();
        }
        // Once is the rule after a restart; more often, something is restarting all the time.
        self.attempts > 1
    }

    /// Goes on at another owner. Answers whether to pause, since all were tried.
    fn leave_node(&mut self, error: &Error) -> bool {
        if let Some(node) = self.node.take() {
            self.tries.failed(&node, error);
        }
        let routes = self.shared.routes();
        let exhausted = self.tries.are_exhausted(&routes, &self.write.target(&routes));
        if exhausted {
            self.tries.clear();
        }
        exhausted
    }

    fn failed(&mut self, error: Error) -> WriteError {
        let error = self.tries.reason(error, self.deadline);
        match self.operation {
            Some(operation) if self.doubt.unknown => WriteError::Unknown { operation, error },
            _ => WriteError::NotApplied { error },
        }
    }

    fn receipt(&self, receipt: Option<v1::Receipt>) -> Receipt {
        let Some(receipt) = receipt else { return Receipt::default() };
        let topology = &self.shared.routes().topology;
        let stand_in = |of: &v1::StandIn| StandIn {
            node: topology.name_of(of.node),
            owner: topology.name_of(of.owner),
        };
        Receipt {
            dot: dot_text(receipt.dot),
            acked: receipt.acked.iter().map(|&node| topology.name_of(node)).collect(),
            synced: receipt.synced,
            fallbacks: receipt.fallbacks.iter().map(stand_in).collect(),
        }
    }
}

pub(crate) fn retry_to_wire(retry: Retry) -> i32 {
    match retry {
        Retry::ExactlyOnce => v1::Retry::ExactlyOnce,
        Retry::AtLeastOnce => v1::Retry::AtLeastOnce,
    }
    .into()
}
