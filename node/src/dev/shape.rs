//! What the cluster looks like: how many nodes, on which ports, in which directories.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::DevError;
use super::home::CERTIFICATES;
use crate::args::DevArgs;

/// How far the ports of one kind lie from those of the next.
const PORT_STRIDE: u16 = 100;

/// What stays the same when a cluster is started again; the content of `dev.toml`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shape {
    pub(super) nodes: u16,
    pub(super) base_port: u16,
    pub(super) engine: String,
    pub(super) zones: u16,
    #[serde(default)]
    pub(super) tls: bool,
}

impl Shape {
    /// A new cluster's.
    pub(super) fn new(args: &DevArgs) -> Result<Self, DevError> {
        let shape = Self {
            nodes: args.nodes.unwrap_or(5),
            base_port: args.base_port.unwrap_or(7400),
            engine: args.engine.clone().unwrap_or_else(|| "fjall".to_owned()),
            zones: args.zones.unwrap_or(1),
            tls: args.tls,
        };
        match shape.zones > shape.nodes {
            true => Err(DevError::Zones { zones: shape.zones, nodes: shape.nodes }),
            false => Ok(shape),
        }
    }

    /// That of the cluster in `path`, if nothing else is asked for.
    pub(super) fn again(self, args: &DevArgs, path: &Path) -> Result<Self, DevError> {
        let asked = [
            ("nodes", self.nodes.to_string(), args.nodes.map(|n| n.to_string())),
            ("base-port", self.base_port.to_string(), args.base_port.map(|n| n.to_string())),
            ("engine", self.engine.clone(), args.engine.clone()),
            ("zones", self.zones.to_string(), args.zones.map(|n| n.to_string())),
        ];
        for (what, stored, asked) in asked {
            if let Some(asked) = asked.filter(|asked| *asked != stored) {
                return Err(DevError::OtherShape { path: path.into(), what, stored, asked });
            }
        }
        match args.tls && !self.tls {
            true => Err(DevError::WithoutTls { path: path.into() }),
            false => Ok(self),
        }
    }

    /// The nodes, in `path`.
    pub(super) fn nodes(&self, path: &Path) -> Vec<NodePlan> {
        let node = |number| NodePlan {
            name: format!("node-{number}"),
            zone: match self.zones {
                1 => "default".to_owned(),
                zones => format!("zone-{}", (number - 1) % zones + 1),
            },
            directory: path.join(format!("node-{number}")),
            client_port: self.base_port + number,
            peer_port: self.base_port + PORT_STRIDE + number,
            http_port: self.base_port + 2 * PORT_STRIDE + number,
        };
        (1..=self.nodes).map(node).collect()
    }
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NodePlan {
    pub(super) name: String,
    pub(super) zone: String,
    pub(super) directory: PathBuf,
    pub(super) client_port: u16,
    pub(super) peer_port: u16,
    pub(super) http_port: u16,
}

impl NodePlan {
    pub(super) fn configuration(&self) -> PathBuf {
        self.directory.join("node.toml")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub(super) fn client_address(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    pub(super) fn peer_address(&self) -> String {
        format!("127.0.0.1:{}", self.peer_port)
    }

    pub(super) fn http_address(&self) -> String {
        format!("127.0.0.1:{}", self.http_port)
    }

    /// What its configuration says: each value that makes it this node. Others may be added.
    ///
    /// One shard a node, since the nodes share the machine: fewer threads, larger group commits.
    pub(super) fn settings(&self, engine: &str, seeds: &[String]) -> toml::Table {
        let seeds = seeds.iter().filter(|seed| **seed != self.peer_address());
        let pairs: [(&str, toml::Value); 9] = [
            ("node_name", self.name.clone().into()),
            ("zone", self.zone.clone().into()),
            ("data_dir", "data".into()),
            ("engine", engine.into()),
            ("shards", 1.into()),
            ("client_address", self.client_address().into()),
            ("peer_address", self.peer_address().into()),
            ("http_address", self.http_address().into()),
            ("seeds", seeds.cloned().collect::<Vec<_>>().into()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// What its configuration says besides, in a cluster with TLS. Relative, so that the directory
    /// may be moved.
    pub(super) fn tls_settings(&self) -> toml::Table {
        let file = |name: &str| toml::Value::from(format!("../{CERTIFICATES}/{name}"));
        let certificate = || file(&format!("{}.pem", self.name));
        let key = || file(&format!("{}.key", self.name));
        let pairs: [(&str, toml::Value); 6] = [
            ("client_tls_cert", certificate()),
            ("client_tls_key", key()),
            ("client_tls_ca", "".into()),
            ("peer_tls_cert", certificate()),
            ("peer_tls_key", key()),
            ("peer_tls_ca", file("ca.pem")),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The line that tells the user of it.
    pub(super) fn line(&self, pid: u32) -> String {
        let Self { name, client_port, peer_port, http_port, .. } = self;
        let log = self.log();
        format!(
            "{name:<8} client 127.0.0.1:{client_port}  peer 127.0.0.1:{peer_port}  \
             http 127.0.0.1:{http_port}  pid {pid:<7}  log {}",
            log.display()
        )
    }

    /// Its ports, with what they are for.
    pub(super) fn ports(&self) -> [(u16, &'static str); 3] {
        [(self.client_port, "client"), (self.peer_port, "peer"), (self.http_port, "HTTP")]
    }
}

/// A port that somebody uses already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Which port of which node it is to be.
    pub purpose: String,
    /// The process that uses the node's data directory, if one does.
    pub holder: Option<String>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "127.0.0.1:{} ({})", self.number, self.purpose)?;
        match &self.holder {
            Some(pid) => write!(f, ", whose data directory process {pid} uses"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::config::Config;

    fn args(flags: &str) -> DevArgs {
        let line = ["quorate", "dev"].into_iter().chain(flags.split_whitespace());
        let Command::Dev(args) = Cli::parse_from(line).command else { panic!("not dev") };
        args
    }

    fn shape(flags: &str) -> Shape {
        Shape::new(&args(flags)).unwrap()
    }

    #[test]
    fn the_ports_of_five_nodes() {
        let nodes = shape("").nodes(Path::new("d"));
        let ports: Vec<_> = nodes.iter().map(|node| node.ports().map(|(port, _)| port)).collect();
        assert_eq!(ports[0], [7401, 7501, 7601]);
        assert_eq!(ports[4], [7405, 7505, 7605]);
        assert_eq!(ports.len(), 5);
        assert_eq!(nodes[1].configuration(), Path::new("d/node-2/node.toml"));
    }

    #[test]
    fn no_two_ports_are_the_same_at_any_size() {
        let nodes = shape("--nodes 99 --base-port 65236").nodes(Path::new("d"));
        let mut ports: Vec<_> =
            nodes.iter().flat_map(NodePlan::ports).map(|(port, _)| port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 297);
        assert_eq!(ports.last(), Some(&65_535));
    }

    #[test]
    fn zones_take_turns() {
        let zones = |flags| -> Vec<_> {
            shape(flags).nodes(Path::new("d")).into_iter().map(|node| node.zone).collect()
        };
        assert_eq!(zones("--nodes 2"), ["default", "default"]);
        assert_eq!(zones("--nodes 3 --zones 2"), ["zone-1", "zone-2", "zone-1"]);
        let error = Shape::new(&args("--nodes 2 --zones 3")).unwrap_err().to_string();
        assert_eq!(error, "3 zones for 2 nodes; give --zones at most the number of nodes");
    }

    #[test]
    fn a_cluster_keeps_its_shape() {
        let stored = shape("--nodes 3 --base-port 8000");
        let again = |flags| stored.clone().again(&args(flags), Path::new("d"));
        assert_eq!(again("").unwrap(), stored);
        assert_eq!(again("--nodes 3").unwrap(), stored);
        assert_eq!(
            again("--nodes 5").unwrap_err().to_string(),
            "d was made with --nodes 3, not 5; leave --nodes out to start the same cluster again, \
             or choose another directory"
        );
        assert!(again("--base-port 8001").is_err() && again("--engine memory").is_err());
    }

    #[test]
    fn the_settings_are_a_valid_configuration() {
        let seeds = vec!["127.0.0.1:7501".to_owned(), "127.0.0.1:7502".to_owned()];
        let node = &shape("").nodes(Path::new("d"))[0];
        let config: Config = node.settings("memory", &seeds).try_into().unwrap();
        assert_eq!(config.validate(), []);
        assert_eq!(config.seeds, ["127.0.0.1:7502"], "a node is no seed of its own");
        assert_eq!(config.peer_address, "127.0.0.1:7501");
    }
}
