//! Compiles the `.proto` files in pure Rust, so that building Quorate needs no protoc.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let public = ["quorate/v1/kv.proto", "quorate/v1/cluster.proto"];
    let peer = ["quorate/peer/v1/peer.proto"];
    for file in public.iter().chain(&peer) {
        println!("cargo:rerun-if-changed={file}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // Reflection serves the public interface alone: peers' messages are nobody else's business.
    fs::write(out.join("public.bin"), protox::compile(public, ["."])?.encode_to_vec())?;
    let descriptors = protox::compile(public.iter().chain(&peer), ["."])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
