//! Learning what became of a write, from its operation id alone.

use std::sync::Arc;

use quorate_proto::v1::{self, resolve_reply::Outcome};

use crate::{
    client::Client,
    connection::Connection,
    error::{Error, ErrorKind},
    operation::OperationId,
    outcome::{Resolution, Resolved, dot_text},
    retry::server_ms,
    write::retry_to_wire,
};

impl Client {
    /// What became of a write whose outcome is unknown.
    ///
    /// All who may know are asked. A write that its coordinator never saw is refused from then on, and so
    /// is certainly not applied, unless it was to be run at least once. Unlike a retry, which needs the
    /// value and the context, this writes nothing else.
    pub async fn resolve(&self, operation: OperationId) -> Result<Resolved, Error> {
        let deadline = self.0.deadline(None);
        let OperationId { namespace_id, key_hash, retry, .. } = operation;
        let call = |node: Arc<Connection>, limit| async move {
            let mut kv = node.kv();
            let resolve = |left| async move {
                let request = v1::ResolveRequest {
                    operation_id: Some(operation.into()),
                    namespace_id,
                    key_hash,
                    timeout_ms: server_ms(left),
                    retry: retry_to_wire(retry),
                };
                kv.resolve(request).await
            };
            node.offer(node.call(limit, resolve)).await
        };
        let reply = self.0.ask(self.0.any(), deadline, call).await?;
        let resolution = match reply.outcome() {
            Outcome::Applied => Resolution::Applied { dot: dot_text(reply.dot) },
            Outcome::NotApplied => Resolution::NotApplied,
            Outcome::Unknown => Resolution::Unknown,
            Outcome::Expired => Resolution::Expired,
            Outcome::Unspecified => {
                let message = "the node answered with an outcome that this client does not know";
                return Err(Error::new(ErrorKind::Internal, message));
            }
        };
        Ok(Resolved { resolution, message: reply.message })
    }
}
