//! Clients that ask one node after the other until one answers: while one node at most fails at a time,
//! one always does.

use std::time::Duration;

use anyhow::{Result, bail};
use quorate_proto::v1;
use rand::RngExt as _;
use tokio::time::sleep;

use super::{Client, Token, Write};
use crate::sim::world::{Unknown, violation};

/// How often one asks again, at other nodes: far more often than one of five nodes that is away, and a
/// message in two hundred that is lost, can explain.
pub(super) const INSIST: u32 = 10;

impl Client<'_> {
    /// Reads by way of a node, or else of others.
    pub(super) async fn read_by_any(&mut self, at: usize, key: u64) -> Option<Token> {
        for attempt in 0..=INSIST as usize {
            if let Some(token) = self.read_by((at + attempt) % self.world.nodes, key).await {
                return Some(token);
            }
            sleep(Duration::from_millis(self.rng.random_range(20..200))).await;
        }
        let text = format!("no node could read k{key}, though one at most fails at a time");
        self.world.add_violations([violation("available", text, self.world.last_asked())]);
        None
    }

    /// Has a write run by other nodes, at least once, if the outcome is unknown: where to ask now.
    pub(super) fn elsewhere(&mut self, attempt: u32, at: usize, write: &mut Unknown) -> usize {
        write.request.retry = v1::Retry::AtLeastOnce.into();
        self.world.may_have_copies(write.asked);
        match self.world.workload.steady {
            true => (write.coordinator + attempt as usize) % self.world.nodes,
            false => at,
        }
    }

    pub(super) fn nobody_answered(&self, asked: usize) {
        let text = "no node could write, though one at most fails at a time".to_owned();
        self.world.add_violations([violation("available", text, asked)]);
    }

    /// Reads and writes each key by way of a node, all of which must work at once: or twice, if a
    /// message gets lost on its way from the client, or back.
    pub(in crate::sim) async fn must_serve_all(&mut self, at: usize) -> Result<()> {
        'keys: for key in 0..self.world.workload.keys {
            for _ in 0..4 {
                if let Some(token) = self.read_by(at, key).await {
                    let value = Some(self.value());
                    if self.write_by(at, Write { key, value, token }).await {
                        continue 'keys;
                    }
                }
            }
            bail!("node {at} serves k{key} not");
        }
        Ok(())
    }
}
