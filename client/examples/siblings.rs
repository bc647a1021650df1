//! Two writers who have not seen each other, and how a third resolves what they wrote.
//!
//! `cargo run -p quorate-client --example siblings -- 127.0.0.1:7401`
#![allow(clippy::print_stdout)]

use std::{collections::BTreeSet, env};

use quorate_client::{
    Client, ClientConfig, DeleteOptions, ErrorKind, GetOptions, NamespaceSpec, PutOptions, Sibling,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let endpoint = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7401".to_owned());
    let client = Client::connect(ClientConfig::new([endpoint])).await?;
    match client.create_namespace(NamespaceSpec::new("siblings")).await {
        Err(error) if error.kind() != ErrorKind::Conflict => return Err(error.into()),
        _ => {}
    }
    let carts = client.namespace("siblings");
    carts.delete("cart:ann", DeleteOptions::default()).await?;

    // Neither has read what the other wrote: no context, so both values stand.
    carts.put("cart:ann", "apples,bread", PutOptions::default()).await?;
    let second = carts.put("cart:ann", "apples,coffee", PutOptions::default()).await?;
    println!("{} values stand; the last write got no context", second.siblings);

    let read = carts.get("cart:ann", GetOptions::default()).await?;
    for sibling in &read.siblings {
        println!("  {}", String::from_utf8_lossy(&sibling.value));
    }

    // The context covers exactly the two that were shown: this write replaces both, and no third.
    let resolves = PutOptions { context: read.context, ..PutOptions::default() };
    let merged = carts.put("cart:ann", union(&read.siblings), resolves).await?;
    println!("{} value stands after the merge", merged.siblings);
    Ok(())
}

/// Everything that is in any of the carts.
fn union(siblings: &[Sibling]) -> String {
    let carts: Vec<_> = siblings.iter().map(|s| String::from_utf8_lossy(&s.value)).collect();
    let goods: BTreeSet<&str> = carts.iter().flat_map(|cart| cart.split(',')).collect();
    goods.into_iter().collect::<Vec<_>>().join(",")
}
