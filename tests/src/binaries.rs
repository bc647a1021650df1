//! The programs under test, built by asking cargo.
//!
//! Cargo offers a test only the binaries of its own package. So the first test that needs them asks
//! cargo to build those of the workspace, which is quick when they are there, and makes a fresh
//! clone work; cargo also says where they are, whatever the target directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `quorate`.
    pub quorate: PathBuf,
    /// `kv-cli`.
    pub kv_cli: PathBuf,
}

/// The programs, built with the profile of the running test. Panics if they do not build.
pub fn binaries() -> &'static Binaries {
    static BUILT: OnceLock<Binaries> = OnceLock::new();
    BUILT.get_or_init(build)
}

/// A command of cargo, in the workspace and with the profile of the running test.
pub fn cargo(command: &str) -> Command {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent");
    let mut cargo = Command::new(env!("CARGO"));
    for name in variables_of_this_package() {
        cargo.env_remove(name);
    }
    cargo.args([command, "--profile", &profile()]).current_dir(workspace);
    cargo
}

fn build() -> Binaries {
    let output = cargo("build")
        .args(["--workspace", "--bin", "quorate", "--bin", "kv-cli"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo, which built this test, can be run");
    assert!(output.status.success(), "cargo could not build the programs: {}", output.status);
    let messages: Vec<Value> = output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    Binaries { quorate: executable(&messages, "quorate"), kv_cli: executable(&messages, "kv-cli") }
}

/// What cargo tells a test of its own package. Crates that were built with such variables would be
/// built again for having other ones.
fn variables_of_this_package() -> impl Iterator<Item = OsString> {
    const OWN: [&str; 5] =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "OUT_DIR"];
    let is_own = |name: &OsString| {
        let name = name.to_string_lossy();
        OWN.iter().any(|prefix| name.starts_with(prefix))
    };
    std::env::vars_os().map(|(name, _)| name).filter(move |name| is_own(name))
}

/// The profile that the running test was built with, by the directory that it runs in:
/// `target/PROFILE/deps/TEST`.
fn profile() -> String {
    let test = std::env::current_exe().expect("a test knows its own path");
    let directory = test.ancestors().nth(2).and_then(Path::file_name);
    match directory.and_then(|name| name.to_str()) {
        None | Some("debug") => "dev".to_owned(),
        Some(profile) => profile.to_owned(),
    }
}

fn executable(messages: &[Value], name: &str) -> PathBuf {
    let is_it = |message: &&Value| {
        message["reason"] == "compiler-artifact"
            && message["target"]["name"] == name
            && message["executable"].is_string()
    };
    let path = messages.iter().find(is_it).and_then(|message| message["executable"].as_str());
    path.unwrap_or_else(|| panic!("cargo did not say where {name} is")).into()
}
