//! Asking a shard what it knows of an operation.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Answer, Job, Shards, Staging, gone};
use crate::dynamo::resolve::LookedUp;
use crate::error::RequestError;
use crate::vnode::look_up::{Inquiry, look_up};

impl Staging<'_> {
    pub(super) fn look_up(
        &mut self,
        asked: &Inquiry,
        to: oneshot::Sender<Result<LookedUp, RequestError>>,
    ) {
        let opening = self.turn.admitting.opening;
        match look_up(&mut self.turn, asked) {
            Ok(known) => self.answers.push(Answer::LookedUp(to, LookedUp { known, opening })),
            Err(error) => drop(to.send(Err(error))),
        }
    }
}

impl Shards {
    /// What is known here of an operation. A refusal for good is told once it is recorded; a disk that
    /// takes no writes settles nothing.
    pub async fn look_up(
        &self,
        asked: Inquiry,
        deadline: Instant,
    ) -> Result<LookedUp, RequestError> {
        let asked = Inquiry { settle: asked.settle && self.take_writes().is_ok(), ..asked };
        let (answer, wait) = oneshot::channel();
        self.queue(asked.vnode.partition, Job::LookUp { asked, answer }, deadline)?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }
}
