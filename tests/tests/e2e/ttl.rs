//! Values that expire.

use std::time::Duration;

use quorate_client::{Client, ClientConfig, ErrorKind, ExpireOptions, Expired, GetOptions};
use quorate_client::{NamespaceSpec, NamespaceUpdate, PutOptions, Ttl, WriteError};
use quorate_proto::v1::error_detail::{Kind, Outcome};
use quorate_proto::v1::{self, ExpireRequest, PutRequest};
use quorate_tests::{Cli, Cluster, until};
use serde_json::{Value, json};
use tonic::Code;

use crate::exchange::metric;
use crate::grpc::{detail, kv};

/// Far longer than a test takes.
const HOUR_MS: u64 = 3_600_000;

#[test]
fn values_expire() {
    values_expire_in("fjall");
}

#[test]
fn values_expire_in_sled() {
    values_expire_in("sled");
}

fn values_expire_in(engine: &'static str) {
    let cluster = Cluster::start_in(engine, 3);
    let cli = cluster.cli();
    for (namespace, conflict) in [("things", "siblings"), ("sessions", "lww")] {
        cli.line(&format!("namespace create {namespace} --conflict {conflict}")).ok();
        puts_and_ends(&cli, namespace);
        expires_and_persists(&cli, namespace);
        a_default(&cli, namespace);
        expiry_is_seen_on_all_nodes(&cli, namespace);
    }
    several_values(&cli);
    files(&cluster, &cli);
}

/// How long the value of a key has to live; none: it does not expire.
fn ttl_ms(cli: &Cli, namespace: &str, key: &str) -> Option<u64> {
    let told = cli.json(&format!("ttl {namespace} {key}"));
    let [one] = told["siblings"].as_array().expect("a list").as_slice() else { panic!("{told}") };
    assert_eq!(one["ttl_ms"].is_null(), one["expires_ms"].is_null(), "{told}");
    one["ttl_ms"].as_u64()
}

fn is_within(ttl_ms: Option<u64>, most_ms: u64) -> bool {
    ttl_ms.is_some_and(|ms| ms <= most_ms && ms + HOUR_MS / 2 > most_ms)
}

fn puts_and_ends(cli: &Cli, ns: &str) {
    cli.line(&format!("put {ns} a one --ttl 1h")).ok();
    assert!(is_within(ttl_ms(cli, ns, "a"), HOUR_MS));
    let text = cli.line(&format!("ttl {ns} a")).ok().text();
    assert!(text.starts_with("expires in ") && text.ends_with('\n'), "{text:?}");
    let read = cli.json(&format!("get {ns} a"));
    assert!(read["siblings"][0]["expires_ms"].is_u64(), "{read}");

    let context = read["context"].as_str().expect("a context");
    cli.line(&format!("put {ns} a two --context {context}")).ok();
    assert_eq!(ttl_ms(cli, ns, "a"), None, "what replaces it has a time to live of its own");
    assert_eq!(cli.line(&format!("ttl {ns} a")).ok().text(), "does not expire\n");
    assert!(cli.json(&format!("get {ns} a"))["siblings"][0].get("expires_ms").is_none());
    let none = cli.line(&format!("--output json ttl {ns} nothing")).exits(1);
    assert_eq!(none.json(), json!({ "siblings": [] }));
}

fn expires_and_persists(cli: &Cli, ns: &str) {
    cli.line(&format!("put {ns} e value")).ok();
    let expired = cli.json(&format!("expire {ns} e 1h"));
    assert_eq!((&expired["siblings"], expired["context"].is_string()), (&json!(1), true));
    assert!(is_within(ttl_ms(cli, ns, "e"), HOUR_MS));
    let said = cli.line(&format!("expire {ns} e 2h")).ok().text();
    assert!(said.starts_with("expires in 2h: "), "{said}");
    assert!(is_within(ttl_ms(cli, ns, "e"), 2 * HOUR_MS));
    let said = cli.line(&format!("persist {ns} e")).ok().text();
    assert!(said.starts_with("does not expire: "), "{said}");
    assert_eq!(ttl_ms(cli, ns, "e"), None);
    cli.line(&format!("expire {ns} e never")).ok();
    assert_eq!(cli.line(&format!("get {ns} e")).ok().text(), "value\n");
    for command in ["expire", "persist"] {
        let ttl = if command == "expire" { "5s" } else { "" };
        let none = cli.line(&format!("--output json {command} {ns} nothing {ttl}")).exits(1);
        assert_eq!(none.json(), json!({ "context": null, "siblings": 0, "receipt": null }));
    }
}

fn a_default(cli: &Cli, ns: &str) {
    let told = |answer: &Value| answer["namespace"]["default_ttl_ms"].clone();
    let updated = cli.json(&format!("namespace update {ns} --default-ttl 1h"));
    assert_eq!(told(&updated), HOUR_MS);
    let text = cli.line(&format!("namespace describe {ns}")).ok().text();
    assert!(text.contains("default_ttl=1h"), "{text}");
    cli.line(&format!("put {ns} d1 value")).ok();
    assert!(is_within(ttl_ms(cli, ns, "d1"), HOUR_MS));
    cli.line(&format!("put {ns} d2 value --ttl never")).ok();
    assert_eq!(ttl_ms(cli, ns, "d2"), None);
    cli.line(&format!("put {ns} d3 value --ttl 3h")).ok();
    assert!(is_within(ttl_ms(cli, ns, "d3"), 3 * HOUR_MS));
    let updated = cli.json(&format!("namespace update {ns} --default-ttl never"));
    assert_eq!(told(&updated), Value::Null);
    assert!(is_within(ttl_ms(cli, ns, "d1"), HOUR_MS), "what is there stays as it is");
    let named = format!("namespace create {ns}-2 --default-ttl 12h");
    assert_eq!(told(&cli.json(&named)), 12 * HOUR_MS);
}

fn expiry_is_seen_on_all_nodes(cli: &Cli, ns: &str) {
    cli.line(&format!("put {ns} short value --ttl 1ms")).ok();
    cli.line(&format!("put {ns} long value --ttl 1h")).ok();
    cli.line(&format!("put {ns} ended value --ttl 1h")).ok();
    cli.line(&format!("expire {ns} ended 1ms")).ok();
    for key in ["short", "ended"] {
        until("the value has expired everywhere", || {
            let lines = ["get", "ttl"].map(|command| format!("{command} {ns} {key}"));
            let alone = (1..=3).map(|node| format!("get {ns} {key} --replica node-{node}"));
            let batch = format!("get {ns} {key} long");
            let mut all = lines.into_iter().chain(alone).chain([batch]);
            all.all(|line| cli.line(&line).code == 1).then_some(())
        });
    }
    let keys = cli.line(&format!("scan {ns}")).ok().text();
    assert!(keys.contains("long\t") && !keys.contains("short\t"), "{keys}");
    cli.line(&format!("delete {ns} short")).exits(1);
    cli.line(&format!("persist {ns} ended")).exits(1);
    let written = cli.json(&format!("put {ns} short again"));
    assert_eq!(written["siblings"], 1, "what has expired is no sibling");
}

fn several_values(cli: &Cli) {
    cli.line("put things s one --ttl 1h").ok();
    cli.line("put things s two").ok();
    let text = cli.line("ttl things s").ok().text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        matches!(lines[..], [one, two] if one.starts_with("[1/2] ") && two.starts_with("[2/2] "))
    );
    cli.line("expire things s 1h").fails_with(&["2 siblings"]);
    cli.line("persist things s").fails_with(&["2 siblings"]);
    cli.line("delete things s").ok();
}

/// An export holds values, and no ends.
fn files(cluster: &Cluster, cli: &Cli) {
    cli.line("namespace create copied --default-ttl 1h").ok();
    let file = cluster.path("rows.jsonl");
    cli.line(&format!("export sessions {} --format jsonl", file.display())).ok();
    cli.line(&format!("import copied {} --format jsonl", file.display())).ok();
    assert!(is_within(ttl_ms(cli, "copied", "d3"), HOUR_MS));
    cli.line("get copied ended").exits(1);
}

#[test]
fn a_wrong_time_to_live_is_refused_wherever_it_is_met() {
    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.line("namespace create things").ok();
    for wrong in ["0s", "-5s", "3651d", "99999999999999999999d", "0ms"] {
        let lines = [
            format!("put things k v --ttl {wrong}"),
            format!("expire things k {wrong}"),
            format!("namespace create other --default-ttl {wrong}"),
            format!("namespace update things --default-ttl {wrong}"),
        ];
        for line in lines {
            cli.line(&line).fails_with(&["out of range", "1ms to 3650d"]);
        }
    }
    for wrong in ["soon", "5", "5y", "1.5h", "-", "ms"] {
        cli.line(&format!("put things k v --ttl {wrong}")).fails_with(&["500ms, 10s"]);
    }
    cli.line("expire things k").fails_with(&["TTL"]);
    cli.line("get things k").exits(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        the_sdk_refuses(&cluster).await;
        nodes_refuse(&cluster).await;
    });
    cli.line("get things k").exits(1);
}

async fn client(cluster: &Cluster) -> Client {
    let endpoints = cluster.nodes().iter().map(|node| node.client_address());
    Client::connect(ClientConfig::new(endpoints)).await.expect("the nodes run")
}

async fn the_sdk_refuses(cluster: &Cluster) {
    let client = client(cluster).await;
    let things = client.namespace("things");
    let too_long = Ttl::MAX + Duration::from_millis(1);
    for wrong in [Duration::ZERO, Duration::from_micros(999), too_long, Duration::MAX] {
        let ttl = Ttl::After(wrong);
        let put = things.put("k", "v", PutOptions { ttl, ..PutOptions::default() }).await;
        let expire = things.expire("k", ttl, ExpireOptions::default()).await;
        for refused in [put.map(drop), expire.map(drop)] {
            let Err(WriteError::NotApplied { error }) = refused else { panic!("{refused:?}") };
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        }
        let spec = NamespaceSpec { default_ttl: ttl, ..NamespaceSpec::new("other") };
        let update = NamespaceUpdate { default_ttl: ttl, ..NamespaceUpdate::new("things") };
        let created = client.create_namespace(spec).await.map(drop);
        for refused in [created, client.update_namespace(update).await.map(drop)] {
            assert_eq!(refused.expect_err("no time to live").kind(), ErrorKind::Invalid);
        }
    }
    let default = things.expire("k", Ttl::Default, ExpireOptions::default()).await;
    assert!(matches!(default, Err(WriteError::NotApplied { .. })), "{default:?}");
}

async fn nodes_refuse(cluster: &Cluster) {
    let mut node = kv(&cluster.nodes()[0]).await;
    let lives = |lives| Some(v1::Ttl { lives });
    let ms = |ms| lives(Some(v1::ttl::Lives::Milliseconds(ms)));
    let never = |never| lives(Some(v1::ttl::Lives::Never(never)));
    let most = Ttl::MAX.as_millis() as u64;
    let names = || ("things".to_owned(), "k".into());
    for ttl in [ms(0), ms(most + 1), ms(u64::MAX), never(false), lives(None)] {
        let (namespace, key) = names();
        let put = PutRequest { namespace, key, ttl, ..PutRequest::default() };
        let refused = node.put(put).await.expect_err("no time to live");
        assert_eq!(
            (refused.code(), detail(&refused).kind()),
            (Code::InvalidArgument, Kind::Invalid)
        );
        assert_eq!(detail(&refused).outcome(), Outcome::NotApplied);
    }
    for ttl in [ms(0), ms(most + 1), None] {
        let (namespace, key) = names();
        let expire = ExpireRequest { namespace, key, ttl, ..ExpireRequest::default() };
        let refused = node.expire(expire).await.expect_err("no time to live");
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    let (namespace, key) = names();
    let expire = ExpireRequest { namespace, key, ttl: ms(5), ..ExpireRequest::default() };
    let refused = node.expire(expire).await.expect_err("there is no value");
    assert_eq!((refused.code(), detail(&refused).kind()), (Code::NotFound, Kind::KeyNotFound));
}

/// Each owner removes its copy, once most of them would hide it; what is left says that it was there.
#[test]
fn what_has_expired_is_purged_by_every_owner() {
    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    for (namespace, conflict) in [("things", "siblings"), ("sessions", "lww")] {
        cli.line(&format!("namespace create {namespace} --conflict {conflict}")).ok();
        cli.line(&format!("put {namespace} kept value --ttl 1h")).ok();
        for key in 0..20 {
            cli.line(&format!("put {namespace} key-{key} value --ttl 100ms")).ok();
        }
        cli.line(&format!("put {namespace} persisted value --ttl 1h")).ok();
        cli.line(&format!("persist {namespace} persisted")).ok();
    }
    until("all copies of the 40 values are purged", || {
        let of = |node| {
            let purged = metric(node, "quorate_values_purged_total")?;
            Some((purged, metric(node, "quorate_values_expired")?))
        };
        let told: Vec<_> = cluster.nodes().iter().map(of).collect();
        told.iter().all(|told| *told == Some((40, 0))).then_some(())
    });
    for namespace in ["things", "sessions"] {
        cli.line(&format!("get {namespace} key-0")).exits(1);
        for key in ["kept", "persisted"] {
            assert_eq!(cli.line(&format!("get {namespace} {key} -r all")).ok().text(), "value\n");
        }
        let again = cli.json(&format!("put {namespace} key-0 again"));
        assert_eq!(again["siblings"], 1);
        assert_eq!(cli.line(&format!("get {namespace} key-0 -r all")).ok().text(), "again\n");
    }
}

#[test]
fn the_sdk_lets_values_expire() {
    let cluster = Cluster::start(3);
    cluster.cli().line("namespace create things --strict").ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let things = client(&cluster).await.namespace("things");
        let hour = Duration::from_secs(3600);
        let options = PutOptions { ttl: Ttl::After(hour), ..PutOptions::default() };
        things.put("k", "value", options).await.expect("a quorum is there");
        let ttl = || async {
            let read = things.get("k", GetOptions::default()).await.expect("a quorum is there");
            read.siblings.first().map(|sibling| sibling.ttl)
        };
        assert!(matches!(ttl().await, Some(Some(left)) if left <= hour && left > hour / 2));
        let persisted = things.persist("k", ExpireOptions::default()).await;
        assert!(matches!(persisted, Ok(Expired::Done(_))), "{persisted:?}");
        assert_eq!(ttl().await, Some(None));
        let expired = things.expire("k", Ttl::After(Ttl::MIN), ExpireOptions::default()).await;
        assert!(matches!(expired, Ok(Expired::Done(_))), "{expired:?}");
        while ttl().await.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let gone = things.persist("k", ExpireOptions::default()).await;
        assert!(matches!(gone, Ok(Expired::NotFound)), "{gone:?}");
    });
}
