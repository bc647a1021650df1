//! What to try next: commands that work as pasted from the repository's root.

use std::collections::BTreeSet;
use std::fmt;

use super::home::Home;
use super::shape::NodePlan;

/// The namespace of the examples.
const EXAMPLE: &str = "users";

/// The commands.
pub(super) struct Guide<'a> {
    pub(super) home: &'a Home,
    pub(super) pids: &'a [u32],
    /// Namespaces that exist, so that no example fails for making one twice.
    pub(super) namespaces: &'a BTreeSet<String>,
}

impl fmt::Display for Guide<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.home.nodes();
        let mut examples = vec![
            format!("put {EXAMPLE} alice hello"),
            format!("get {EXAMPLE} alice"),
            "cluster status".to_owned(),
        ];
        if !self.namespaces.contains(EXAMPLE) {
            let n = match nodes.len() {
                few @ 1..=2 => format!(" --n {few}"),
                _ => String::new(),
            };
            examples.insert(0, format!("namespace create {EXAMPLE}{n}"));
        }
        let kv_cli = kv_cli(self.home);
        writeln!(f, "\ntry, from the repository's root:")?;
        for example in examples {
            writeln!(f, "  {kv_cli} {example}")?;
        }
        let (last, pid) = (nodes.last(), self.pids.last());
        if let (Some(node), Some(pid)) = (last, pid) {
            writeln!(f, "kill {} and restart it by hand:\n  kill -9 {pid}", node.name)?;
            writeln!(f, "  {}", restart(node))?;
        }
        write!(f, "stop all: Ctrl-C")
    }
}

/// The command that talks to the cluster, up to what it is to do.
pub(super) fn kv_cli(home: &Home) -> String {
    let ca = home.ca().map_or_else(String::new, |ca| {
        format!("--tls-ca {} ", shell_word(&ca.display().to_string()))
    });
    let endpoints = home.client_addresses().join(",");
    format!("cargo run -q --release --bin kv-cli -- {ca}--endpoints {endpoints}")
}

/// The command that starts one node.
pub(super) fn restart(node: &NodePlan) -> String {
    let path = shell_word(&node.configuration().display().to_string());
    format!("cargo run -q --release --bin quorate -- serve --config {path}")
}

/// The text as one word of a shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::DevArgs;

    fn guide(nodes: u16, existing: &[&str], tls: bool) -> String {
        let (nodes, base_port) = (Some(nodes), Some(9000));
        let args =
            DevArgs { nodes, data: None, base_port, engine: None, zones: None, tls, tour: false };
        let home = Home::open(&args).unwrap();
        let namespaces = existing.iter().map(|&name| name.to_owned()).collect();
        let pids: Vec<u32> = (1..).take(home.nodes().len()).collect();
        Guide { home: &home, pids: &pids, namespaces: &namespaces }.to_string()
    }

    #[test]
    fn commands_name_every_node_and_fit_the_cluster() {
        let text = guide(5, &[], false);
        let to = "kv-cli -- --endpoints \
                  127.0.0.1:9001,127.0.0.1:9002,127.0.0.1:9003,127.0.0.1:9004,127.0.0.1:9005";
        assert!(text.contains(&format!("{to} namespace create users\n")), "{text}");
        assert!(text.contains(&format!("{to} put users alice hello\n")), "{text}");
        assert!(text.contains("kill -9 5\n"), "{text}");
        assert!(text.contains("/node-5/node.toml\n"), "{text}");
        assert!(guide(2, &[], false).contains("namespace create users --n 2\n"));
        assert!(guide(2, &[], true).contains("/certs/ca.pem --endpoints 127.0.0.1:9001,127.0."));
        assert!(!guide(3, &["users"], false).contains("namespace create"));
    }

    #[test]
    fn a_path_with_a_space_stays_one_word() {
        assert_eq!(shell_word("/tmp/a-b_1.x/node.toml"), "/tmp/a-b_1.x/node.toml");
        assert_eq!(shell_word("/tmp/my data"), "'/tmp/my data'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }
}
