//! The directory of the cluster.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::DevError;
use super::shape::{NodePlan, Port, Shape};
use crate::args::DevArgs;
use crate::certs::{self, NodeSpec};
use crate::init::Files;

const SHAPE_FILE: &str = "dev.toml";

/// Beside the nodes' directories, which are called as their nodes.
pub(super) const CERTIFICATES: &str = "certs";

/// The directory, and what is in it.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    temporary: Option<TempDir>,
    shape: Shape,
    nodes: Vec<NodePlan>,
}

impl Home {
    /// Finds the cluster in `--data DIR`, or makes a place for one there or in a new temporary
    /// directory.
    pub(super) fn open(args: &DevArgs) -> Result<Self, DevError> {
        let (path, temporary) = match &args.data {
            Some(path) => (make(path)?, None),
            None => {
                let made = tempfile::Builder::new().prefix("quorate-dev-").tempdir();
                let temporary = made.map_err(refused(&std::env::temp_dir()))?;
                (temporary.path().to_path_buf(), Some(temporary))
            }
        };
        let shape = match read(&path)? {
            Some(stored) => stored.again(args, &path)?,
            None => Shape::new(args)?,
        };
        let nodes = shape.nodes(&path);
        Ok(Self { path, temporary, shape, nodes })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn nodes(&self) -> &[NodePlan] {
        &self.nodes
    }

    pub(super) fn peer_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(NodePlan::peer_address).collect()
    }

    pub(super) fn client_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(NodePlan::client_address).collect()
    }

    /// Writes what is not there yet; a node's configuration may have been edited since.
    pub(super) fn write_configurations(&self) -> Result<(), DevError> {
        let shape = toml::to_string(&self.shape).expect("five plain fields are always TOML");
        let header = "# The cluster that `quorate dev` made here; it does not change.\n";
        write_new(&self.path.join(SHAPE_FILE), &format!("{header}{shape}"))?;
        if self.shape.tls {
            self.make_certificates()?;
        }
        let seeds = self.peer_addresses();
        for node in &self.nodes {
            fs::create_dir_all(&node.directory).map_err(refused(&node.directory))?;
            let mut settings = node.settings(&self.shape.engine, &seeds);
            if self.shape.tls {
                settings.extend(node.tls_settings());
            }
            let text = format!(
                "# {} of a cluster made by `quorate dev`. To run it alone:\n\
                 #   quorate serve --config {}\n{settings}",
                node.name,
                node.configuration().display(),
            );
            write_new(&node.configuration(), &text)?;
        }
        Ok(())
    }

    /// The keys that the configuration files set, which the environment must not change.
    pub(super) fn settled_keys(&self) -> BTreeSet<String> {
        let settings = |node: &NodePlan| node.settings(&self.shape.engine, &[]);
        let tls = self.nodes.iter().flat_map(NodePlan::tls_settings);
        self.nodes.iter().flat_map(settings).chain(tls).map(|(key, _)| key).collect()
    }

    /// Makes the CA, if it is not there, and new certificates for every node.
    fn make_certificates(&self) -> Result<(), DevError> {
        let hosts = || vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let spec = |node: &NodePlan| NodeSpec { name: node.name.clone(), hosts: hosts() };
        let request = certs::Request {
            out: self.certificates(),
            nodes: self.nodes.iter().map(spec).collect(),
            clients: Vec::new(),
            days: 365,
            new_ca: false,
        };
        certs::run(&request)?;
        Ok(())
    }

    fn certificates(&self) -> PathBuf {
        self.path.join(CERTIFICATES)
    }

    /// The CA that clients are to trust, if the cluster has TLS.
    pub(super) fn ca(&self) -> Option<PathBuf> {
        self.shape.tls.then(|| self.certificates().join("ca.pem"))
    }

    /// What it takes to talk to the nodes as one of them, if the cluster has TLS.
    pub(super) fn peer_files(&self) -> Option<Files> {
        let (ca, first) = (self.ca()?, self.nodes.first()?);
        let file = |extension| self.certificates().join(format!("{}.{extension}", first.name));
        Some(Files { certificate: file("pem"), key: file("key"), ca: Some(ca) })
    }

    /// Which of the cluster's ports cannot be listened on.
    pub(super) fn ports_in_use(&self) -> Vec<Port> {
        let mut used = Vec::new();
        for node in &self.nodes {
            for (number, what) in node.ports() {
                if TcpListener::bind(("127.0.0.1", number)).is_err() {
                    let purpose = format!("the {what} port of {}", node.name);
                    used.push(Port { number, purpose, holder: holder(node) });
                }
            }
        }
        used
    }

    /// Where the data is, and what becomes of it.
    pub(super) fn describe(&self) -> String {
        let Shape { nodes, engine, tls, .. } = &self.shape;
        let secured = if *tls { ", TLS" } else { "" };
        let path = self.path.display();
        let fate = match &self.temporary {
            Some(_) => "a temporary directory, deleted when you stop it; --data DIR keeps one",
            None if engine == "memory" => "configuration and logs only: the data is in memory",
            None => "kept; the same command starts the same cluster again",
        };
        let plural = if *nodes == 1 { "" } else { "s" };
        format!("{nodes} node{plural} with the engine {engine}{secured} in {path} ({fate})")
    }

    /// Deletes a temporary directory, unless it is still of use; says what became of it.
    pub(super) fn close(self, by_hand: &[String], clean: bool) -> String {
        let path = self.path.display().to_string();
        let still = match by_hand {
            [] => String::new(),
            names => format!("{} started by hand still runs; ", names.join(", ")),
        };
        match self.temporary {
            Some(temporary) if clean && by_hand.is_empty() => match temporary.close() {
                Ok(()) => format!("stopped; {path} is deleted"),
                Err(error) => format!("stopped; {path} cannot be deleted: {error}"),
            },
            Some(temporary) => {
                let _ = temporary.keep();
                format!("stopped; {still}{path} is kept, delete it when it is of no more use")
            }
            None => format!("stopped; {still}the data is in {path}"),
        }
    }
}

/// Makes the directory and returns its absolute path.
fn make(path: &Path) -> Result<PathBuf, DevError> {
    fs::create_dir_all(path).map_err(refused(path))?;
    path.canonicalize().map_err(refused(path))
}

/// The shape of the cluster in `path`; none if `path` is empty.
fn read(path: &Path) -> Result<Option<Shape>, DevError> {
    let file = path.join(SHAPE_FILE);
    match fs::read_to_string(&file) {
        Ok(text) => toml::from_str(&text).map(Some).map_err(|error| DevError::Malformed {
            path: file,
            reason: error.message().to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match fs::read_dir(path).map_err(refused(path))?.next() {
                None => Ok(None),
                Some(_) => Err(DevError::ForeignDirectory { path: path.to_path_buf() }),
            }
        }
        Err(error) => Err(refused(&file)(error)),
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), DevError> {
    match path.exists() {
        true => Ok(()),
        false => fs::write(path, text).map_err(refused(path)),
    }
}

/// The process that uses the node's data directory, as its lock file names it.
fn holder(node: &NodePlan) -> Option<String> {
    let path = node.directory.join("data").join("lock");
    let file = fs::File::open(&path).ok()?;
    let free = file.try_lock().is_ok();
    let pid = fs::read_to_string(&path).ok()?;
    (!free).then(|| pid.trim().to_owned())
}

fn refused(path: &Path) -> impl Fn(io::Error) -> DevError {
    let path = path.to_path_buf();
    move |source| DevError::Directory { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(data: Option<&Path>, base_port: u16) -> DevArgs {
        let data = data.map(Path::to_path_buf);
        DevArgs {
            nodes: Some(2),
            data,
            base_port: Some(base_port),
            engine: None,
            zones: None,
            tls: false,
            tour: false,
        }
    }

    #[test]
    fn the_same_directory_is_the_same_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let first = Home::open(&args(Some(directory.path()), 9000)).unwrap();
        first.write_configurations().unwrap();
        let edited = first.nodes()[1].configuration();
        fs::write(&edited, "weight = 7").unwrap();

        let none = DevArgs { nodes: None, base_port: None, ..args(Some(directory.path()), 0) };
        let second = Home::open(&none).unwrap();
        second.write_configurations().unwrap();
        assert_eq!(second.nodes(), first.nodes());
        assert_eq!(fs::read_to_string(edited).unwrap(), "weight = 7");
        assert!(second.close(&[], true).contains("the data is in"));

        let error = Home::open(&DevArgs { nodes: Some(3), ..none }).unwrap_err().to_string();
        assert!(error.contains("was made with --nodes 2, not 3"), "{error}");
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("thesis.tex"), "").unwrap();
        let error = Home::open(&args(Some(directory.path()), 9000)).unwrap_err().to_string();
        assert!(error.contains("is not empty and was not made by `quorate dev`"), "{error}");
        fs::write(directory.path().join(SHAPE_FILE), "nodes = 'many'").unwrap();
        let error = Home::open(&args(Some(directory.path()), 9000)).unwrap_err().to_string();
        assert!(error.contains("dev.toml is malformed: invalid type: string"), "{error}");
        let file = directory.path().join("thesis.tex");
        assert!(Home::open(&args(Some(&file), 9000)).is_err());
    }

    #[test]
    fn a_temporary_directory_goes_unless_it_is_of_use() {
        for (by_hand, clean, kept) in
            [(vec![], true, false), (vec!["node-1".to_owned()], true, true), (vec![], false, true)]
        {
            let home = Home::open(&args(None, 9000)).unwrap();
            let path = home.path().to_path_buf();
            assert!(home.describe().contains("temporary directory, deleted"));
            let told = home.close(&by_hand, clean);
            assert_eq!(path.exists(), kept, "{told}");
            assert_eq!(told.contains("is kept"), kept);
            let _ = fs::remove_dir_all(path);
        }
    }

    #[test]
    fn a_port_in_use_is_named_with_its_purpose_and_user() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        let home = Home::open(&args(None, number - 2)).unwrap();
        let find = || home.ports_in_use().into_iter().find(|port| port.number == number).unwrap();
        let port = find();
        assert_eq!(port.to_string(), format!("127.0.0.1:{number} (the client port of node-2)"));
        let error = DevError::PortsInUse { ports: vec![port] }.to_string();
        assert!(error.contains("choose other ports with --base-port"), "{error}");

        home.write_configurations().unwrap();
        let data = home.nodes()[1].directory.join("data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("lock"), "4711\n").unwrap();
        let lock = fs::File::open(data.join("lock")).unwrap();
        lock.lock().unwrap();
        assert!(find().to_string().ends_with(", whose data directory process 4711 uses"));
        drop(lock);
        assert_eq!(find().holder, None, "nobody holds the lock now");
    }
}
