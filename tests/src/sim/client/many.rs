//! Requests of many keys: each is an operation for every key that it concerns.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use quorate_node::service::kv::KvService;
use quorate_proto::v1::kv_server::Kv as _;
use quorate_proto::v1::{self, batch_get_result, batch_put_result};
use rand::RngExt as _;
use tokio::time::sleep;
use tonic::{Request, Response};

use super::{Client, Mode, Sent, Terms, Write, values};
use crate::history::{Action, Outcome, Shown};
use crate::sim::wire::Failure;
use crate::sim::world::{NAMESPACE, Unknown, key_name};

/// How many keys a batch has.
const BATCH: usize = 4;

impl Client<'_> {
    /// Some keys, this one first: of one node, or wherever they are.
    fn some_keys(&mut self, key: u64, at: usize) -> Vec<u64> {
        let keys = self.world.workload.keys;
        match self.rng.random_bool(0.5) {
            true => self.world.owned_with(key, at, BATCH),
            false => (0..keys).map(|step| (key + step) % keys).take(BATCH).collect(),
        }
    }

    /// Writes some keys in one call, each by way of an owner, and asks again for what it does not know.
    pub(super) async fn write_batch(&mut self) {
        let key = self.rng.random_range(0..self.world.workload.keys);
        let first = self.coordinator(key);
        let terms = self.terms();
        let mut open: Vec<(Unknown, Sent)> = Vec::new();
        for key in self.some_keys(key, first) {
            let owns = self.world.owners[key as usize].contains(&first);
            let coordinator = if owns { first } else { self.coordinator(key) };
            let coordinator = self.that_may(coordinator, key, terms.mode);
            let remembers = self.rng.random_bool(0.7);
            let token = if remembers { self.remembered(key) } else { None }.unwrap_or_default();
            let deletes = !token.bytes.is_empty() && self.rng.random_bool(0.2);
            let value = (!deletes).then(|| self.value());
            let write = Write { key, value, token };
            if let Some(unknown) = self.begin(coordinator, write, terms) {
                open.push((unknown, Sent::default()));
            }
        }
        for attempt in 0..=self.world.workload.retries {
            if open.is_empty() {
                return;
            }
            let at = self.by_way_of(first, key, attempt > 0);
            let answers = self.put_batch(at, &open, terms).await;
            let mut rest = Vec::new();
            for ((mut unknown, mut sent), answer) in open.into_iter().zip(answers) {
                unknown.request.fresh = false;
                match sent.on_answer(answer) {
                    Some(outcome) => self.wrote(outcome, unknown),
                    None => rest.push((unknown, sent)),
                }
            }
            open = rest;
            sleep(Duration::from_millis(self.rng.random_range(20..400))).await;
        }
        for (unknown, sent) in open {
            self.wrote(sent.given_up(), unknown);
        }
    }

    /// One answer for each entry.
    async fn put_batch(
        &mut self,
        at: usize,
        open: &[(Unknown, Sent)],
        Terms { level, durability, mode, .. }: Terms,
    ) -> Vec<Result<v1::PutReply, Failure>> {
        let entry = |(Unknown { request, deletes, .. }, _): &(Unknown, Sent)| v1::BatchPutEntry {
            key: request.key.clone(),
            value: (!deletes).then(|| request.value.clone()),
            context: request.context.clone(),
            operation_id: request.operation_id,
            fresh: request.fresh,
            ttl: request.ttl,
        };
        let request = v1::BatchPutRequest {
            namespace: NAMESPACE.to_owned(),
            entries: open.iter().map(entry).collect(),
            w: level,
            durability,
            quorum: mode.quorum,
            timeout_ms: self.timeout_ms(),
            ..Default::default()
        };
        let world = self.world;
        let look = |reply: &Response<v1::BatchPutReply>| {
            for ((write, _), result) in open.iter().zip(&reply.get_ref().results) {
                let Some(batch_put_result::Result::Reply(reply)) = &result.result else { continue };
                let receipt = reply.receipt.clone().unwrap_or_default();
                world.inspect(write.asked, write.key, &receipt);
            }
        };
        let call = move |service: KvService| async move {
            service.batch_put(Request::new(request)).await.inspect(look)
        };
        let answer = |result: v1::BatchPutResult| match result.result {
            Some(batch_put_result::Result::Reply(reply)) => Ok(reply),
            Some(batch_put_result::Result::Error(error)) => Err(Failure::of_entry(&error)),
            None => Err(Failure::silence("no result")),
        };
        match self.call(at, call).await {
            Ok(reply) => {
                assert_eq!(reply.results.len(), open.len(), "a result for each entry");
                reply.results.into_iter().map(answer).collect()
            }
            Err(failure) => vec![Err(failure); open.len()],
        }
    }

    pub(super) async fn read_batch(&mut self) {
        let key = self.rng.random_range(0..self.world.workload.keys);
        let at = self.somewhere(key);
        let keys = self.some_keys(key, at);
        let ((r, level), Mode { sloppy, quorum }) = (self.level(true), self.mode());
        let action = || Action::Read { r, sloppy };
        let asked: Vec<_> =
            keys.iter().map(|&key| self.world.invoke(self.id, key, action())).collect();
        let request = v1::BatchGetRequest {
            namespace: NAMESPACE.to_owned(),
            keys: keys.iter().map(|&key| key_name(key).into()).collect(),
            r: level,
            quorum,
            timeout_ms: self.timeout_ms(),
            ..Default::default()
        };
        let call =
            move |service: KvService| async move { service.batch_get(Request::new(request)).await };
        let results = match self.call(at, call).await {
            Ok(reply) => {
                assert_eq!(reply.results.len(), keys.len(), "a result for each key");
                reply.results.into_iter().map(|result| result.result).collect()
            }
            Err(_) => vec![None; keys.len()],
        };
        for ((key, asked), result) in keys.into_iter().zip(asked).zip(results) {
            match result {
                Some(batch_get_result::Result::Reply(reply)) => {
                    self.shown(asked, key, reply);
                }
                Some(batch_get_result::Result::Error(error)) => {
                    self.world.answered(asked, Outcome::Failed(error.message));
                }
                None => self.world.answered(asked, Outcome::Failed("no answer".to_owned())),
            }
        }
    }

    /// Lists the namespace: every key is in the answer, or was found to have no value.
    pub(super) async fn scan(&mut self) {
        let at = self.rng.random_range(0..self.world.nodes);
        // Owners alone list their keys.
        let action = || Action::Read { r: self.world.quorum(), sloppy: false };
        let keys = 0..self.world.workload.keys;
        let asked: Vec<_> =
            keys.clone().map(|key| self.world.invoke(self.id, key, action())).collect();
        let request = v1::ScanRequest {
            namespace: NAMESPACE.to_owned(),
            timeout_ms: self.timeout_ms(),
            ..Default::default()
        };
        let call = move |service: KvService| async move {
            let mut pages = service.scan(Request::new(request)).await?.into_inner();
            let mut items = Vec::new();
            while let Some(page) = pages.next().await {
                items.extend(page?.items);
            }
            Ok(Response::new(items))
        };
        let listed = match self.call(at, call).await {
            Err(failure) => {
                let failed =
                    |asked| self.world.answered(asked, Outcome::Failed(failure.text.clone()));
                return asked.into_iter().for_each(failed);
            }
            Ok(items) => items,
        };
        let count = listed.len();
        let mut listed: BTreeMap<Bytes, v1::ScanItem> =
            listed.into_iter().map(|item| (item.key.clone(), item)).collect();
        assert_eq!(listed.len(), count, "a scan lists each key once");
        for (key, asked) in keys.zip(asked) {
            let shown = match listed.remove(key_name(key).as_bytes()) {
                None => Shown { values: Vec::new(), context: None },
                Some(item) => {
                    let token = self.token(key, item.context);
                    Shown { values: values(&item.siblings), context: Some(token.version) }
                }
            };
            self.world.answered(asked, Outcome::Shown(shown));
        }
        assert!(listed.is_empty(), "a scan lists what nobody wrote: {listed:?}");
    }
}
