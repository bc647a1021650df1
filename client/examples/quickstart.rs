//! Put, get, update and scan, against `quorate dev` or any cluster.
//!
//! `cargo run -p quorate-client --example quickstart -- 127.0.0.1:7401`
#![allow(clippy::print_stdout)]

use std::env;

use bytes::Bytes;
use futures::TryStreamExt as _;
use quorate_client::{
    Client, ClientConfig, ErrorKind, GetOptions, NamespaceSpec, PutOptions, ScanOptions, Sibling,
    UpdateOptions,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let endpoint = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7401".to_owned());
    let client = Client::connect(ClientConfig::new([endpoint])).await?;
    match client.create_namespace(NamespaceSpec::new("quickstart")).await {
        Err(error) if error.kind() != ErrorKind::Conflict => return Err(error.into()),
        _ => {}
    }
    let visits = client.namespace("quickstart");

    // The context of the read says what the write replaces, so that it does not stand beside it.
    let read = visits.get("page:home", GetOptions::default()).await?;
    let replaces = PutOptions { context: read.context, ..PutOptions::default() };
    let written = visits.put("page:home", "1", replaces).await?;
    println!("put    {} acknowledged by {:?}", written.receipt.dot, written.receipt.acked);

    // An update reads, computes and writes; it goes on if a concurrent write gets in between.
    visits.update("page:home", UpdateOptions::default(), |now| Some(one_more(now))).await?;
    for sibling in visits.get("page:home", GetOptions::default()).await?.siblings {
        println!("get    {}", String::from_utf8_lossy(&sibling.value));
    }

    let pages = ScanOptions { prefix: "page:".into(), ..ScanOptions::default() };
    let mut pages = std::pin::pin!(visits.scan(pages));
    while let Some(item) = pages.try_next().await? {
        println!("scan   {} ({} siblings)", item.key.escape_ascii(), item.siblings.len());
    }
    Ok(())
}

/// The largest of the concurrent counts, and one: it merges, so it may be asked again.
fn one_more(siblings: &[Sibling]) -> Bytes {
    let counts = siblings.iter().filter_map(|s| std::str::from_utf8(&s.value).ok()?.parse().ok());
    let most: u64 = counts.max().unwrap_or(0);
    (most + 1).to_string().into()
}
