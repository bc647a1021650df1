//! What an owner keeps beside its objects: what it has seen, their tree of hashes, and when they expire.

use bytes::Bytes;

use super::deadlines::Deadlines;
use super::objects::{Before, Beside, Put};
use super::seen::Seen;
use super::tree::{Staged, Tree};
use super::turn::Turn;
use crate::dynamo::frontier::Frontier;
use crate::dynamo::object::Object;
use crate::error::RequestError;

/// What an owner keeps beside its objects.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) seen: Seen,
    pub(super) tree: Tree,
    pub(super) deadlines: Deadlines,
}

impl Beside for Owned {
    fn frontier(&self) -> Option<&Frontier> {
        Some(self.seen.frontier())
    }

    fn before(&self, stored: &Bytes, object: &Object) -> Before {
        self.tree.before(stored, object)
    }

    fn prepare(
        &mut self,
        turn: &mut Turn<'_>,
        stored: &Bytes,
        bytes: Option<usize>,
    ) -> Result<(), RequestError> {
        bytes.map_or(Ok(()), |_| self.tree.prepare(&staged(turn), stored))
    }

    fn prepare_anew(&mut self, turn: &mut Turn<'_>, stored: &Bytes) -> Result<(), RequestError> {
        self.tree.prepare_anew(&staged(turn), stored)
    }

    fn kept(&mut self, turn: &mut Turn<'_>, stored: &Bytes, object: &Object, put: Option<Put>) {
        if let Some(Put { before, .. }) = &put {
            let deadlines = (&before.deadlines_ms[..], &object.deadlines_ms()[..]);
            self.deadlines.changed(&mut turn.batch, stored, deadlines);
        }
        self.tree.kept(&mut turn.batch, stored, object, put);
        self.seen.see_object(&mut turn.batch, stored, object);
    }

    fn dropped(&mut self, turn: &mut Turn<'_>, stored: &Bytes) {
        self.tree.dropped(&mut turn.batch, stored);
    }

    fn damaged(&mut self) {
        self.seen.forget();
    }

    fn lied(&mut self, turn: &mut Turn<'_>) {
        turn.lies += 1;
        self.seen.lied();
    }
}

fn staged<'a>(turn: &'a mut Turn<'_>) -> Staged<'a> {
    Staged { engine: turn.engine, batch: &mut turn.batch }
}
